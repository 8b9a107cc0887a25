# SPDX-License-Identifier: BSD-3-Clause
"""The Linux kernel's NVMe/TCP target (nvmet) and host, where root and the modules are there.

Neither is pinned: its threads run where the kernel puts them."""

import contextlib
import os
import pathlib
import re
import subprocess
import time

from load import RAM_SIZE
from tools import HOSTID, HOSTNQN, Skip, free_port, perf

MODPROBE = "/sbin/modprobe"  # where the kernel itself expects it
NVMET = pathlib.Path("/sys/kernel/config/nvmet")
FABRICS = pathlib.Path("/dev/nvme-fabrics")
CONTROLLERS = pathlib.Path("/sys/class/nvme")
PORTS = range(1, 1000)  # numbers that a port of nvmet may have
DEVICE_LIMIT = 10


def _load_module(name, *parameters):
    """Loads a module, unless it is there; whether it is there afterwards is for the caller to see."""
    with contextlib.suppress(FileNotFoundError):
        subprocess.run([MODPROBE, name, *parameters], capture_output=True, check=False)


def _need_root():
    if os.geteuid() != 0:
        raise Skip("only root can set it up")


def _brd_loaded():
    return pathlib.Path("/sys/module/brd").exists()


def need_target():
    _need_root()
    _load_module("nvmet-tcp")
    if not pathlib.Path("/sys/module/nvmet_tcp").exists():
        raise Skip("this kernel has no nvmet-tcp module")
    if not NVMET.is_dir():
        subprocess.run(["mount", "-t", "configfs", "none", NVMET.parent], capture_output=True, check=False)
    if not NVMET.is_dir():
        raise Skip(f"there is no {NVMET}")
    if _brd_loaded():
        raise Skip("the module brd is in use: its RAM disks may hold something (to free them: modprobe -r brd)")


def need_host():
    _need_root()
    _load_module("nvme-tcp")
    if not FABRICS.exists() or not pathlib.Path("/sys/module/nvme_tcp").exists():
        raise Skip("this kernel has no nvme-tcp module")


def _put(path, value):
    """Writes an attribute, with a single write."""
    path.write_text(str(value), encoding="ascii")


def _make(stack, path):
    """Makes a directory of configfs that is removed with the stack."""
    path.mkdir()
    stack.callback(path.rmdir)
    return path


def _make_port(stack):
    for number in PORTS:
        with contextlib.suppress(FileExistsError):
            return _make(stack, NVMET / "ports" / str(number))
    raise Skip("nvmet has no port number left")


def _ram_disk(stack):
    """A RAM disk of the kernel's own: one that we made, so that nothing is overwritten."""
    _load_module("brd", "rd_nr=1", f"rd_size={RAM_SIZE // 1024}")
    if not _brd_loaded():
        raise Skip("this kernel has no brd module")
    stack.callback(subprocess.run, [MODPROBE, "-r", "brd"], check=False)
    return "/dev/ram0"


@contextlib.contextmanager
def target():
    """A RAM disk behind nvmet: (port, NQN)."""
    nqn, service = f"nqn.2024-01.com.example:bench-{os.getpid()}", free_port()
    with contextlib.ExitStack() as stack:
        disk = _ram_disk(stack)
        subsystem = _make(stack, NVMET / "subsystems" / nqn)
        _put(subsystem / "attr_allow_any_host", 1)
        namespace = _make(stack, subsystem / "namespaces" / "1")
        _put(namespace / "device_path", disk)
        _put(namespace / "enable", 1)
        stack.callback(_put, namespace / "enable", 0)
        port = _make_port(stack)
        for name, value in (("trtype", "tcp"), ("adrfam", "ipv4"), ("traddr", "127.0.0.1"), ("trsvcid", service)):
            _put(port / f"addr_{name}", value)
        link = port / "subsystems" / nqn
        link.symlink_to(subsystem)
        stack.callback(link.unlink)
        yield service, nqn


def _connect(port, nqn):
    """Connects the kernel's host. @return the controller's name"""
    options = (f"transport=tcp,traddr=127.0.0.1,trsvcid={port},nqn={nqn},hostnqn={HOSTNQN},hostid={HOSTID},"
               "nr_io_queues=1")
    descriptor = os.open(FABRICS, os.O_RDWR)
    try:
        os.write(descriptor, options.encode())
        answer = os.read(descriptor, 4096).decode()
    finally:
        os.close(descriptor)
    return f"nvme{re.search(r'instance=([0-9]+)', answer)[1]}"


def _block_device(controller):
    """The disk of a controller's only namespace. With multipath, it is the subsystem's, and nvme0c1n1 a path to it."""
    end = time.monotonic() + DEVICE_LIMIT
    while time.monotonic() < end:
        for found in (CONTROLLERS / controller).glob("nvme*n*"):
            device = pathlib.Path("/dev") / re.sub(r"c\d+n", "n", found.name)
            if device.is_block_device():
                return device
        time.sleep(0.05)
    raise Skip(f"the kernel's host made no disk of {controller}")


def host(port, nqn, load, seconds):
    """IOPS through the kernel's host: `pollux perf` on its block device, with io_uring and direct I/O."""
    controller = _connect(port, nqn)
    try:
        return perf(f"file:{_block_device(controller)}", load.arguments, seconds)["iops"]
    finally:
        _put(CONTROLLERS / controller / "delete_controller", 1)
