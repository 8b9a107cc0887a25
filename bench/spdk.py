# SPDX-License-Identifier: BSD-3-Clause
"""SPDK's servers and load generators, of the built tree that $SPDK_DIR names: of NVMe/TCP on ordinary memory, of
vhost-user on huge pages, which its client cannot do without."""

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import time
from types import SimpleNamespace

from load import RAM_SIZE
from tools import HOST_CORE, HOSTNQN, LIMIT, MIB, RESULTS, TARGET_CORE, Skip, free_port, times

NQN = "nqn.2016-06.io.spdk:bench"
MEMORY = ("--no-huge", "-s", "1024")  # MiB of ordinary memory
BLOCK = 512
START_LIMIT = 60
HUGE_MIB, MORE_MIB = 2, 512  # a huge page; what a process needs beside its RAM disk
HUGE = RESULTS / "huge"  # where files of them are made
NR_HUGE = pathlib.Path("/proc/sys/vm/nr_hugepages")
SLOTS = 512  # of a ring: its client takes three or more for a request


def _program(name, folder="bin"):
    tree = os.environ.get("SPDK_DIR")
    if not tree:
        raise Skip("SPDK_DIR is not set")
    program = pathlib.Path(tree) / "build" / folder / name
    if not os.access(program, os.X_OK):
        raise Skip(f"there is no {program}")
    return program


def need_target():
    _program("nvmf_tgt")


def need_host():
    _program("spdk_nvme_perf")


def _call(method, **params):
    return {"method": method, "params": params}


def _written(name, **subsystems):
    """SPDK's own form of a configuration, as a file."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    config = RESULTS / name
    config.write_text(json.dumps({"subsystems": [{"subsystem": key, "config": calls}
                                                 for key, calls in subsystems.items()]}), encoding="utf-8")
    return config


def _ram_disk(name, size):
    return _call("bdev_malloc_create", name=name, num_blocks=size // BLOCK, block_size=BLOCK)


def _config(port):
    """The same RAM disk behind the same address."""
    listener = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(port)}
    return _written("spdk.json", bdev=[_ram_disk("ram", RAM_SIZE)], nvmf=[
        _call("nvmf_create_transport", trtype="TCP"),
        _call("nvmf_create_subsystem", nqn=NQN, allow_any_host=True, serial_number="BENCH"),
        _call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "ram", "nsid": 1}),
        _call("nvmf_subsystem_add_listener", nqn=NQN, listen_address=listener),
    ])


def _answers(process, make, address):
    """Waits until somebody accepts a connection there."""
    end = time.monotonic() + START_LIMIT
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), make() as probe:
            probe.settimeout(1)
            probe.connect(address)
            return True
        time.sleep(0.1)
    return False


@contextlib.contextmanager
def _running(command, family, address):
    """A server, pinned; its process."""
    with open(RESULTS / "spdk.log", "wb") as log:
        process = subprocess.Popen([*command, "-m", hex(1 << TARGET_CORE)], stdin=subprocess.DEVNULL, stdout=log,
                                   stderr=log)
    try:
        if not _answers(process, lambda: socket.socket(family), address):
            raise Skip(f"SPDK's {command[0].name} does not start here; {RESULTS / 'spdk.log'} may say why")
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def target():
    """A RAM disk behind SPDK's target, on ordinary memory, pinned: (port, NQN)."""
    port = free_port()
    with _running([_program("nvmf_tgt"), *MEMORY, "-c", _config(port)], socket.AF_INET, ("127.0.0.1", port)):
        yield port, NQN


def host(port, nqn, load, seconds):
    """IOPS by SPDK's load generator."""
    done = subprocess.run(
        [_program("spdk_nvme_perf"), "-q", str(load.depth), "-o", str(load.size), "-w", load.workload,
         "-t", str(max(1, int(seconds))), "-c", hex(1 << HOST_CORE), *MEMORY,
         "-r", f"trtype:TCP adrfam:IPv4 traddr:127.0.0.1 trsvcid:{port} subnqn:{nqn} hostnqn:{HOSTNQN}"],
        capture_output=True, text=True, timeout=LIMIT, check=False, stdin=subprocess.DEVNULL)
    total = re.search(r"^Total\s*:\s*([\d.]+)", done.stdout, re.M)
    if not total:
        raise Skip(f"spdk_nvme_perf: {(done.stderr or done.stdout).strip()[-200:]}")
    return float(total[1])


# -- volumes ---------------------------------------------------------------------------------------------------------


def volume_rate(size, workload, seconds, volume=True, thin=False, snapshot=False):
    """IOPS by bdevperf of 4 KiB at random, QD32: of a RAM disk, or of a volume on it, all of which is there at the
    beginning, unless it is thin, or of which a snapshot has all."""
    program = _program("bdevperf", "examples")
    calls = [_ram_disk("ram", 2 * size + 64 * MIB)]
    if volume:
        calls += [_call("bdev_lvol_create_lvstore", bdev_name="ram", lvs_name="lvs", clear_method="none"),
                  _call("bdev_lvol_create", lvs_name="lvs", lvol_name="v", size_in_mib=size // MIB,
                        thin_provision=thin, clear_method="none")]
    if snapshot:
        calls += [_call("bdev_lvol_snapshot", lvol_name="lvs/v", snapshot_name="s")]
    command = [program, "-q", "32", "-o", "4096", "-w", workload, "-t", str(max(1, int(seconds))), "-m",
               hex(1 << TARGET_CORE), "-r", RESULTS / "bdevperf", "-T", "lvs/v" if volume else "ram", "-c",
               _written("spdk-volumes.json", bdev=calls), "--no-huge", "-s", str(2 * size // MIB + MORE_MIB)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False, stdin=subprocess.DEVNULL)
    total = re.search(r"^\s*Total\s*:\s*([\d.]+)", done.stdout, re.M)
    if not total:
        raise Skip(f"bdevperf: {(done.stderr or done.stdout).strip()[-200:]}")
    return float(total[1])


# -- vhost-user ------------------------------------------------------------------------------------------------------


def need_backend(size):
    _program("vhost")
    with huge_pages(size):
        pass


def need_client(size):
    _program("bdevperf", "examples")
    with huge_pages(size):
        pass


@contextlib.contextmanager
def huge_pages(size):
    """There are enough meanwhile, for two RAM disks of that size (ours takes them, too) and for both ends; and a place
    for files of them."""
    if os.geteuid() != 0:
        raise Skip("only root can set huge pages aside")
    mib = 2 * size // MIB + 3 * MORE_MIB
    before = int(NR_HUGE.read_text(encoding="ascii"))
    wanted = before + mib // HUGE_MIB  # there may be others who use theirs
    HUGE.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        stack.callback(NR_HUGE.write_text, str(before), encoding="ascii")
        NR_HUGE.write_text(str(wanted), encoding="ascii")
        if int(NR_HUGE.read_text(encoding="ascii")) < wanted:
            raise Skip(f"{mib} MiB of huge pages are not to be had")
        subprocess.run(["mount", "-t", "hugetlbfs", "none", HUGE], check=True, capture_output=True)
        stack.callback(subprocess.run, ["umount", HUGE], check=False)
        yield


@contextlib.contextmanager
def backend(folder, size):
    """A RAM disk and a null disk behind SPDK's vhost target: sockets ram0 and null0 in a folder."""
    config = _written(
        "spdk-vhost.json",
        bdev=[_ram_disk("ram", size), _call("bdev_null_create", name="null", num_blocks=1 << 31, block_size=BLOCK)],
        vhost_blk=[_call("vhost_create_blk_controller", ctrlr="ram0", dev_name="ram"),
                   _call("vhost_create_blk_controller", ctrlr="null0", dev_name="null")])
    command = [_program("vhost"), "-S", folder, "-r", folder / "rpc", "--huge-dir", HUGE, "--huge-unlink",
               "--iova-mode", "va",  # else it reads beside what front-ends share, unless that is huge pages
               "-s", str(size // MIB + MORE_MIB), "-c", config]
    with _running(command, socket.AF_UNIX, str(folder / "null0")) as process:
        yield SimpleNamespace(pid=process.pid, folder=folder, send_signal=process.send_signal)


def client(path, load, seconds):
    """What SPDK's virtio driver does on a back-end: {"iops", "disturbed"}"""
    config = _written("spdk-virtio.json", bdev=[
        _call("bdev_set_options", bdev_auto_examine=False),  # which would take the only ring
        _call("bdev_virtio_attach_controller", name="v", trtype="user", traddr=str(path), dev_type="blk", vq_count=1,
              vq_size=SLOTS)])
    command = [_program("bdevperf", "examples"), "-q", str(load.depth), "-o", str(load.size), "-w", load.workload,
               "-t", str(max(1, int(seconds))), "-m", hex(1 << HOST_CORE), "-r", RESULTS / "bdevperf", "-c", config,
               "--huge-dir", HUGE, "-g", "-s", str(MORE_MIB)]
    start = time.monotonic()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True) as process:
        try:
            while not os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
                if time.monotonic() > start + LIMIT:
                    raise Skip("bdevperf does not end")
                time.sleep(0.1)
            waited = times(process.pid)[1] / (time.monotonic() - start)
            out, err = process.communicate()
        finally:
            process.kill()
            for file in HUGE.glob(f"*pid{process.pid}map_*"):  # which it leaves, full
                file.unlink()
    total = re.search(r"^\s*Total\s*:\s*([\d.]+)", out, re.M)
    if not total:
        raise Skip(f"bdevperf: {(err or out).strip()[-200:]}")
    return {"iops": float(total[1]), "disturbed": waited}
