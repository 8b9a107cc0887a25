# SPDX-License-Identifier: BSD-3-Clause
"""Flush and Force Unit Access reach the device: pollux serves a virtual disk, and QEMU counts that disk's flushes."""
import os
import subprocess
import sys

import conftest
import pytest
import target as pollux
from guest import LIMIT

sys.path.append(str(conftest.HERE.parent / "integration"))

import sqe  # noqa: E402
from host import Controller  # noqa: E402
from spec import FUSE_FIRST, FUSE_SECOND  # noqa: E402

NQN = "nqn.2026-01.example:flushed"
LOG = "/run/flushed.log"
BLOCK, MUCH = 512, 64 << 10  # in a command's capsule, and for an R2T

# What the disk's I/O goes through, by what the kernel refuses. Before Linux 4.7 there is no pwritev2.
ENGINES = {"io_uring": "", "threads": "io_uring_setup:EPERM",
           "threads-without-pwritev2": "io_uring_setup:EPERM pwritev2:ENOSYS"}
# The file system's own work must not be a reason for flushes: it has no journal, and its inode tables are made at once
# and not in the background, where the kernel flushes after each.
MAKE = "mkfs.ext4 -q -F -O ^has_journal -E lazy_itable_init=0"
DISKS = {"device": ("/dev/vda", "true"),
         "file": ("/mnt/disk", f"{MAKE} /dev/vda && mount /dev/vda /mnt && "
                               "dd if=/dev/zero of=/mnt/disk bs=1M count=8 conv=fsync status=none")}


class Served:
    """`pollux serve` in the machine, as a service, with a disk on /dev/vda."""

    def __init__(self, machine, disk, refused=""):
        self.machine, self.sh = machine, machine.sh
        self.address = ("127.0.0.1", machine.forward[0][0])
        self.path, self.prepare = DISKS[disk]
        self.properties = f"-p SystemCallFilter='~{refused}'" if refused else ""

    def __enter__(self):
        try:
            self.sh(self.prepare)
            self.sh(f"systemd-run --quiet --collect --unit=flushed {self.properties} -p StandardOutput=truncate:{LOG} "
                    f"pollux serve -v -l 0.0.0.0:4420 --allow-any-host --poll sleep -n {NQN} {self.path}")
            self.log = self.machine.wait_until(f"grep -B 99 'listening on' {LOG}")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self.machine.run("systemctl stop flushed; umount /mnt")

    def flushes(self):
        """How often the device has been flushed."""
        [disk] = [each for each in self.machine.qmp("query-blockstats") if each["device"] == "disk"]
        return disk["stats"]["flush_operations"]


# --- where hosts and ends flush by themselves ---

def test_stop_flushes(installed):
    """What was written and never flushed is flushed at the end."""
    with Served(installed, "device") as served:
        with Controller(served.address, NQN, io_queues=1) as host:
            host.write(1, 0, os.urandom(MUCH))
        before = served.flushes()
        served.stop()
        assert served.flushes() > before


def test_host_flushes(installed, tmp_path):
    """Our host: `pollux cp` is done when the disk it copied to is flushed."""
    (tmp_path / "source").write_bytes(os.urandom(MUCH))
    with Served(installed, "device") as served:
        host, port = served.address
        before = served.flushes()
        subprocess.run([pollux.binary(), "cp", tmp_path / "source", f"nvme+tcp://{host}:{port}/{NQN}"], check=True,
                       timeout=LIMIT)
        assert served.flushes() > before


def test_kernel_host_flushes(installed):
    """The kernel's host, on the machine's own loopback: what it writes synchronously, and what it flushes."""
    with Served(installed, "device") as served:
        served.sh(f"nvme connect -t tcp -a 127.0.0.1 -s 4420 -n {NQN}")
        try:
            device = installed.wait_until("ls /dev/nvme*n1").strip()
            seen = [served.flushes()]
            for options in ("oflag=direct", "oflag=direct,dsync", "oflag=direct conv=fsync"):
                served.sh(f"dd if=/dev/urandom of={device} bs=64k count=1 status=none {options}")
                seen.append(served.flushes())
            served.sh(f"nvme flush {device}")
            seen.append(served.flushes())
        finally:
            served.sh("nvme disconnect-all")
        assert seen[0] == seen[1] < seen[2] < seen[3] < seen[4], seen


# --- every command that can ask for it, whatever the disk and however its I/O is done ---

WARNING = "worker threads do its work"


@pytest.fixture(scope="module", params=DISKS)
def disk(request):
    return request.param


@pytest.fixture(scope="module", params=ENGINES)
def served(request, installed, disk):
    with Served(installed, disk, ENGINES[request.param]) as running:
        if request.param == "io_uring":
            assert WARNING not in running.log, running.log
        else:  # a thread of its own writes warnings, perhaps after it listens
            installed.wait_until(f"grep '{WARNING}' {LOG}")
        yield running


@pytest.fixture
def controller(served):
    with Controller(served.address, NQN, io_queues=1) as ready:
        yield ready


def forced(entry):
    """The same command with FUA, bit 30 of dword 12."""
    return entry[:51] + bytes([entry[51] | 0x40]) + entry[52:]


def plain(entry):
    return entry


def write(io, fua, size):
    io.must(fua(sqe.write(1, 0, size // BLOCK)), out=os.urandom(size))


def write_zeroes(io, fua, deallocate):
    io.must(fua(sqe.write_zeroes(1, 512, 128, deac=deallocate)))


def copy(io, fua):
    io.must(fua(sqe.copy(1, 1024, 1)), out=sqe.copy_range(0, 8))


def compare_and_write(io, fua):
    before = io.must(sqe.read(1, 8, 1), read=BLOCK).data
    for completion in io.wait_all(io.submit_all([
            (sqe.compare(1, 8, 1, fuse=FUSE_FIRST), {"out": before}),
            (fua(sqe.write(1, 8, 1, fuse=FUSE_SECOND)), {"out": os.urandom(BLOCK)})])):
        assert completion.status == 0


WRITES = {
    "write": lambda io, fua: write(io, fua, BLOCK),
    "large-write": lambda io, fua: write(io, fua, MUCH),
    "write-zeroes": lambda io, fua: write_zeroes(io, fua, False),
    "write-zeroes-deallocate": lambda io, fua: write_zeroes(io, fua, True),
    "copy": copy,
    "compare-and-write": compare_and_write,
}


def test_flush(controller, served):
    controller.write(1, 0, os.urandom(MUCH))
    before = served.flushes()
    controller.flush(1)
    first = served.flushes()
    controller.flush()  # of all namespaces
    assert before < first < served.flushes()


@pytest.mark.parametrize("command", WRITES.values(), ids=WRITES)
def test_fua(controller, served, command):
    before = served.flushes()
    command(controller.io, plain)
    without = served.flushes()
    command(controller.io, forced)
    assert before == without < served.flushes()
