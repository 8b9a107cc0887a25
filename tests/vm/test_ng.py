# SPDX-License-Identifier: BSD-3-Clause
"""Namespaces that the kernel has, through their generic nodes: `/dev/ng0n1` as a disk, in a machine with several."""
import os
import sys
import tempfile
from pathlib import Path

import conftest
import pytest
import target as pollux
from calls import Calls
from conftest import free_ports, vm_image
from guest import CommandFailed, Guest
from target import wait_until

sys.path.append(str(conftest.HERE.parent / "integration"))

import sqe  # noqa: E402
from host import Controller  # noqa: E402
from spec import Sc  # noqa: E402

MIB = 1 << 20
SIZE = 32 * MIB
NQN = "nqn.2026-01.example:ng"
USER = 1000
SERVE = f"pollux serve --listen 0.0.0.0:4420 --allow-any-host --poll sleep --nqn {NQN}"

# By their serial numbers: QEMU's devices. The drive of each has its name.
DEVICES = {
    "small": ["nvme,drive=small,serial=small,id=small"],
    "large": ["nvme,drive=large,serial=large,logical_block_size=4096,physical_block_size=4096,mdts=3"],
    "meta": ["nvme,id=meta,serial=meta", "nvme-ns,bus=meta,drive=meta,ms=8"],
    # Two controllers have it.
    "paths": ["nvme-subsys,id=subsystem", "nvme,id=path0,serial=paths,subsys=subsystem",
              "nvme,id=path1,serial=paths,subsys=subsystem", "nvme-ns,bus=path0,drive=paths,shared=on"],
}
GONE = 1  # exit status: what was going on failed


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """A machine with the devices above; its port 4420 is the first of `forward` here."""
    build = Path(pollux.binary()).resolve().parent
    if not (build / "build.ninja").exists():
        pytest.skip(f"nothing to install: {pollux.binary()} is not in a build directory")
    work = tmp_path_factory.mktemp("ng")
    image = vm_image("--install", build, work / "archive")
    options = []
    with tempfile.TemporaryDirectory(dir="/dev/shm") as disks:
        for name, devices in DEVICES.items():
            with open(f"{disks}/{name}", "wb") as file:
                file.truncate(SIZE)
            options += ["-drive", f"if=none,id={name},format=raw,file={disks}/{name}"]
            for device in devices:
                options += ["-device", device]
        with Guest(image, work, cpus=2, forward=[(free_ports(1)[0], 4420)], devices=options,
                   archives=(work / "archive", conftest.program(work, "disk_iovecs"))) as guest:
            guest.sh(f"mkdir -p /var/tmp && echo user:x:{USER}:{USER}::/tmp:/bin/sh >>/etc/passwd && modprobe nvme")
            yield guest


def as_user(guest):
    """Runs a command as a user without rights: as guest.run()."""
    return lambda command: guest.run(f"su user -s /bin/sh -c \"{command} 2>&1\"")


class Disk:
    """A namespace, by the serial number of its device."""

    def __init__(self, guest, serial):
        self.guest, self.sh, self.run = guest, guest.sh, guest.run
        self.name = guest.wait_until(f"""
            for each in /sys/class/nvme-generic/*; do
                [ "$(cat $each/device/serial)" = "{serial} " ] || [ "$(cat $each/device/serial | xargs)" = {serial} ] &&
                    [ -b /dev/nvme${{each##*/ng}} ] && echo ${{each##*/}} && exit 0
            done
            exit 1""").strip()
        self.node = f"/dev/{self.name}"
        self.block = f"/dev/nvme{self.name[2:]}"
        self.folder = f"/sys/class/nvme-generic/{self.name}/device"

    def digest(self, what=None):
        """Of all its content, as the block device has it, past its cache."""
        return self.sh(f"dd if={what or self.block} bs=1M iflag=direct status=none | sha256sum").split()[0]

    def refused(self, name, *words, run=None):
        """It is not served: with one line that has these words."""
        status, output = (run or self.run)(f"timeout 60 pollux serve --listen 127.0.0.1:4499 {name}")
        assert status == 2 and output.count("\n") == 1, output
        for word in words:
            assert word in output, output
        return output


@pytest.fixture
def disk(machine):
    return Disk(machine, "small")


@pytest.fixture(params=["small", "large"])
def each(machine, request):
    return Disk(machine, request.param)


@pytest.fixture
def serving(machine):
    """serving(disks): `pollux serve` in the guest, which has ended well when the test is over."""
    jobs = []

    def start(disks):
        machine.run("rm -f /tmp/served")
        jobs.append(machine.spawn(f"exec {SERVE} {disks} >/tmp/served 2>&1"))
        machine.wait_until("grep -q 'listening on' /tmp/served", during=jobs[-1:])
        return jobs[-1]

    yield start
    machine.run("nvme disconnect-all")
    for job in jobs:
        if job.status is None:
            job.interrupt()
        status, _ = job.wait()
        assert status == 0, machine.sh("cat /tmp/served")


def test_commands_of_ones_own(machine, each):
    """By the kernel, to a disk that is in use."""
    calls = Calls(machine)
    try:
        calls.call("pollux_disk_open", url=each.node, name="disk")
        block = int(each.sh(f"cat /sys/class/block/{each.block[5:]}/queue/logical_block_size"))
        status, page = calls.send("disk", "admin", 6, cdw10=1, length=64)
        assert status == 0 and page[4:9] in (b"small", b"large")
        data = bytes(n // block + 1 for n in range(3 * block))
        assert calls.send("disk", "io", 1, 1, 5, 2, data=data)[0] == 0
        assert calls.send("disk", "io", 2, 1, 5, 2, length=3 * block) == (0, data)
        assert each.sh(f"dd if={each.block} bs={block} skip=5 count=1 iflag=direct status=none") == "\1" * block
        assert calls.send("disk", "io", 2, 1, 1 << 30, length=block)[0] == 0x80
        for words, command in (("namespace 1", ("io", 2, 2)), ("queues are made", ("admin", 1)),
                               ("other blocks", ("admin", 0x80, 1, 7))):
            with pytest.raises(CommandFailed, match=words):
                calls.send("disk", *command)
    finally:
        calls.job.interrupt()
        calls.job.wait()


# --- data ---

@pytest.mark.parametrize("size, depth, through", [("4K", 64, "node"), ("64K", 16, "node"), ("1M", 8, "node"),
                                                  ("4K", 64, "block")])
def test_verified_load(each, size, depth, through):
    """The same load on both ways to a namespace; what one wrote the other reads."""
    each.sh(f"pollux perf -q {depth} -o {size} -w randrw -t 2 --poll sleep --verify {getattr(each, through)}")
    each.sh(f"pollux cp -q --verify {each.node} /tmp/copy")
    assert each.digest() == each.digest("/tmp/copy")
    each.sh("rm /tmp/copy")


def test_more_queue_pairs_and_cores(disk):
    disk.sh(f"pollux perf -q 256 -P 4 -m 0,1 -o 8K -w randrw -t 3 --verify {disk.node}")


def test_memory_in_many_pieces(each):
    seed = int(os.environ.get("POLLUX_SEED", "0")) or int.from_bytes(os.urandom(4), "little")
    print(f"POLLUX_SEED={seed}")
    each.sh(f"disk_iovecs {each.node} {seed} 400")


def test_what_is_copied_there_is_on_the_block_device(each):
    each.sh(f"dd if=/dev/urandom of=/tmp/data bs=1M count={SIZE // MIB} status=none")
    each.sh(f"pollux cp -q --verify /tmp/data {each.node}")
    assert each.digest() == each.sh("sha256sum /tmp/data").split()[0]
    each.sh("rm /tmp/data")


def test_commands(machine, disk, serving):
    """Each of those that it has, given by a host elsewhere; what comes of it is seen on the block device."""
    serving(disk.node)
    data = os.urandom(64 << 10)
    with Controller(("127.0.0.1", machine.forward[0][0]), NQN, io_queues=1) as host:
        def seen(lba, blocks):
            return bytes.fromhex(disk.sh(f"dd if={disk.block} bs=512 skip={lba} count={blocks} iflag=direct status=none"
                                         " | od -An -v -tx1 | tr -d ' \\n'"))

        assert host.namespace(1).nsze == SIZE // 512
        host.write(1, 64, data)
        assert host.read(1, 64, 128) == data == seen(64, 128)
        host.flush(1)
        host.io.must(sqe.compare(1, 64, 128), data)
        assert host.io.execute(sqe.compare(1, 64, 128), bytes(len(data))).status == Sc.COMPARE
        host.io.must(sqe.write_zeroes(1, 72, 8))
        assert seen(64, 128) == data[:4096] + bytes(4096) + data[8192:]
        host.io.must(sqe.copy(1, 2000, 1), sqe.copy_range(64, 100))
        assert seen(2000, 100) == data[:4096] + bytes(4096) + data[8192:51200]
        host.io.must(sqe.dsm(1, 1), sqe.dsm_range(64, 128))
        assert len(host.read(1, 64, 128)) == len(data)


def test_a_kernel_as_its_host(disk, serving):
    """Served to this kernel, by NVMe/TCP: fio's load is right there, and the namespace holds the same both ways."""
    serving(disk.node)
    disk.sh(f"nvme connect -t tcp -a 127.0.0.1 -s 4420 -n {NQN}")
    remote = disk.guest.wait_until(f"""
        for each in /sys/class/nvme-subsystem/*; do
            [ "$(cat $each/subsysnqn)" = {NQN} ] && ls -d $each/nvme*n* | sed 's,.*/,/dev/,' | grep -v c && exit 0
        done
        exit 1""").split()[0]
    disk.guest.wait_until(f"[ -b {remote} ]")
    disk.sh(f"fio --name=load --filename={remote} --ioengine=libaio --iodepth=16 --direct=1 --rw=randrw"
            " --bsrange=512-1M --size=16M --verify=crc32c --verify_fatal=1 --randrepeat=0")
    disk.sh(f"blkdiscard -z -o 1M -l 3M {remote}")
    assert disk.digest(remote) == disk.digest()


def test_identify_tells_what_nvme_tells(disk):
    disk.sh(f"pollux identify --json {disk.node} >/tmp/ours && nvme id-ctrl -o json {disk.block} >/tmp/theirs"
            f" && nvme id-ns -o json {disk.block} >/tmp/namespace")
    import json
    ours, theirs, namespace = (json.loads(disk.sh(f"cat /tmp/{name}")) for name in ("ours", "theirs", "namespace"))
    for key in ("mn", "sn", "fr", "mdts", "oncs", "ver"):
        assert str(ours["controller"][key]).strip() == str(theirs[key]).strip()
    assert len(ours["namespaces"]) == 1
    assert ours["namespaces"][0]["nsze"] == namespace["nsze"]


# --- who may ---

def test_a_user_to_whom_the_node_belongs(disk):
    node, run = disk.node, as_user(disk.guest)
    disk.refused(node, "Permission denied", "group 0", "mode 600", "udev rule", run=run)
    disk.sh(f"chown {USER} {node}")
    try:
        status, said = run(f"pollux perf -q 16 -o 16K -w randrw -t 2 --verify {node}")
        assert status == 0 and f"{disk.block} cannot be opened" in said and "kept from being mounted" in said, said
        assert run(f"pollux identify {node}")[0] == 0
        disk.sh(f"mkfs.ext4 -q {disk.block} && mount -t ext4 {disk.block} /mnt")
        disk.refused(node, "mounted at /mnt", run=run)
    finally:
        disk.run("umount /mnt")
        disk.sh(f"chown 0 {node}")


def test_what_is_mounted_is_refused(disk, serving):
    disk.sh(f"mkfs.ext4 -q {disk.block} && mount -t ext4 {disk.block} /mnt")
    try:
        disk.refused(disk.node, disk.node, "mounted at /mnt", f"ng:{disk.node}?ro=1")
        disk.sh(f"pollux perf -q 4 -t 1 'ng:{disk.node}?ro=1'")  # reading is nobody's business
        disk.sh(f"pollux identify {disk.node}")
    finally:
        disk.sh("umount /mnt")
    serving(disk.node)
    assert disk.run(f"mount -t ext4 {disk.block} /mnt")[0] != 0
    disk.refused(disk.node, "in use")
    disk.refused(disk.block, "in use")


def test_read_only(disk, serving):
    serving(f"'file:{disk.node}?ro=1'")
    disk.sh(f"pollux perf -q 4 -t 1 'ng:{disk.node}?ro=1'")  # several may
    assert disk.run(f"pollux perf -q 4 -t 1 -w randwrite 'ng:{disk.node}?ro=1'")[0] == 2


@pytest.mark.parametrize("name, words", [
    ("ng:/dev/null", ["/dev/null", "/dev/ng0n1"]),
    ("ng:/dev/nowhere", ["/dev/nowhere", "No such file"]),
    ("/dev/nvme0", ["character device"]),
])
def test_what_is_no_such_node_is_refused(disk, name, words):
    disk.refused(name, *words)


def test_metadata_is_refused(machine):
    meta = Disk(machine, "meta")
    meta.refused(meta.node, "metadata, 8 bytes a block")


def test_io_uring_that_is_forbidden(disk):
    disk.sh("echo 2 >/proc/sys/kernel/io_uring_disabled")
    try:
        disk.refused(disk.node, "kernel.io_uring_disabled, now 2")
    finally:
        disk.sh("echo 0 >/proc/sys/kernel/io_uring_disabled")


# --- trouble ---

def load(disk, seconds=20):
    """A verified load that is under way."""
    job = disk.guest.spawn(f"exec pollux perf -q 32 -o 8K -w randrw -t {seconds} --poll sleep --verify {disk.node}")
    disk.guest.wait_until(f"""
        [ -n "$(ls -l /proc/[0-9]*/fd 2>/dev/null | grep -F {disk.node})" ] && sleep 1""", during=[job])
    return job


def test_controllers_that_are_reset_are_waited_for(disk):
    job = load(disk)
    for _ in range(3):
        disk.sh(f"echo 1 >{disk.folder}/reset_controller && sleep 2")
    status, output = job.wait()
    assert status == 0, output


def test_of_two_controllers_one_goes(machine):
    disk = Disk(machine, "paths")
    job = load(disk)
    device = disk.sh(f"readlink -f $(ls -d {disk.folder}/nvme* | grep 'nvme[0-9]*$' | head -1)/device").strip()
    disk.sh(f"echo 1 >{device}/remove")
    status, output = job.wait()
    disk.sh("echo 1 >/sys/bus/pci/rescan")
    assert status == 0, output


def test_a_device_that_is_removed_under_load(machine):
    """Those who use it see errors, and the server has other disks yet."""
    disk = Disk(machine, "large")
    device = disk.sh(f"readlink -f {disk.folder}/device").strip()
    job = load(disk, 30)
    disk.sh(f"echo 1 >{device}/remove")
    status, output = job.wait()
    assert status == GONE, output
    machine.sh("echo 1 >/sys/bus/pci/rescan")
    assert Disk(machine, "large").sh(f"pollux perf -q 4 -o 4K -t 1 --verify -w randrw {Disk(machine, 'large').node}")


def test_served_disk_that_is_unplugged(machine, disk, serving):
    """By QEMU, of a device that is plugged for this."""
    work = Path(machine.work)
    with open(work / "plugged", "wb") as file:
        file.truncate(SIZE)
    machine.qmp("blockdev-add", exact={"node-name": "plugged"}, driver="file", filename=str(work / "plugged"))
    machine.qmp("device_add", driver="nvme", id="plugged", drive="plugged", serial="plugged")
    plugged = Disk(machine, "plugged")
    job = serving(f"{plugged.node} {disk.node}")
    with Controller(("127.0.0.1", machine.forward[0][0]), NQN, io_queues=1) as host:
        host.write(1, 0, bytes(4096))
        machine.qmp("device_del", id="plugged")
        machine.wait_until(f"[ ! -e {plugged.node} ]")
        assert host.io.execute(sqe.read(1, 0, 8), read=4096).status != Sc.SUCCESS
        machine.wait_until("grep -q 'is gone' /tmp/served", during=[job])
        assert host.io.execute(sqe.read(1, 0, 8), read=4096).status == Sc.INVALID_NAMESPACE
        assert len(host.read(2, 0, 8)) == 4096
    assert wait_until(lambda: "plugged" not in [each["name"] for each in
                                                machine.qmp("qom-list", path="/machine/peripheral")], 60)
