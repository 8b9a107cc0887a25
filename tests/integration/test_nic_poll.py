# SPDX-License-Identifier: BSD-3-Clause
"""`--nic-poll`: a reactor that is about to sleep has the kernel poll the queues of its connections' NICs first. The NIC
is a veth pair that has NAPI."""
import contextlib
import ctypes
import fcntl
import json
import os
import select
import socket
import struct
import subprocess

import pytest

from ctl import ctl
from target import Target, binary, wait_until
from test_placement import CORES, make_wire, places, sockets_of  # noqa: F401

EPOLL_SET_PARAMS = 0x40088A01  # EPIOCSPARAMS of Linux 6.9
ETHTOOL, SET_TSO, SET_GRO = 0x8946, 0x1F, 0x2C
LIMIT = 60


@pytest.fixture(autouse=True)
def known():
    with contextlib.closing(select.epoll()) as epoll:
        try:
            fcntl.ioctl(epoll, EPOLL_SET_PARAMS, struct.pack("=IHBB", 0, 8, 0, 0))
        except OSError as error:
            pytest.skip(f"this kernel polls no NICs for epoll: {error}")


@pytest.fixture(scope="module", name="nic")
def make_nic(wire):
    """The same, with NAPI, which a veth has as long as it has GRO, and uses for what comes from one that has no TSO."""
    for namespace, device in zip(wire, (b"v0", b"v1")):
        with sockets_of(namespace), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            for what, value in ((SET_TSO, 0), (SET_GRO, 1)):
                setting = ctypes.create_string_buffer(struct.pack("=II", what, value))
                fcntl.ioctl(any_socket, ETHTOOL, struct.pack("16sP8x", device, ctypes.addressof(setting)))
    return wire


@contextlib.contextmanager
def serving(tmp_path, *options, address="10.99.0.1", prefix=()):
    path = tmp_path / "control"
    with Target("ram:16M", listen=f"{address}:0", prefix=prefix,
                options=("-m", CORES[0], "--rpc", path, "--allow-any-host", *options)) as target:
        target.control = path
        yield target


def looks(target):
    """(connections whose NICs are polled for, microseconds at present)"""
    found = json.loads(ctl("-s", target.control, "framework_get_reactors").out)["reactors"]
    [reactor] = (each for each in found if each["lcore"] == CORES[0])
    return reactor["nic_sockets"], reactor["nic_poll_us"]


def looks_under_load(target):
    """The same, many times, from when a host has begun."""
    assert wait_until(lambda: len(places(target)[0]) == 2)
    return {looks(target) for _ in range(50)}


@contextlib.contextmanager
def load(target, *prefix):
    """One request at a time, which is written, read, and compared."""
    address, port = target.address
    with subprocess.Popen([*prefix, binary(), "perf", "-q", "1", "-t", str(LIMIT), "-w", "randrw", "--verify", "-m",
                           str(CORES[-1]), f"nvme+tcp://{address}:{port}/{target.nqn}"], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True) as process:
        try:
            yield
            process.send_signal(2)
            out, err = process.communicate(timeout=LIMIT)
            assert process.returncode == 0 and not err, out + err
        finally:
            process.kill()


def apart(wire):
    return [("ip", "netns", "exec", namespace) for namespace in wire]


def test_queues_of_nics_are_polled_while_a_load_comes_thick(nic, tmp_path):
    ours, theirs = apart(nic)
    with serving(tmp_path, "--nic-poll", "120", prefix=ours) as target:
        with load(target, *theirs):
            assert wait_until(lambda: looks(target)[0] >= 2), "an admin queue and one for I/O"
            # A machine whose CPUs take turns has no loads that come thick.
            assert os.environ.get("POLLUX_GUEST") == "here" or wait_until(lambda: looks(target)[1] == 120)
        assert wait_until(lambda: looks(target) == (0, 0)), "nobody is left"


@pytest.mark.parametrize("options", [("--nic-poll", "0"), ("--poll", "busy"), ("--poll", "sleep")], ids=" ".join)
def test_or_not(nic, tmp_path, options):
    ours, theirs = apart(nic)
    with serving(tmp_path, *options, prefix=ours) as target:
        with load(target, *theirs):
            assert looks_under_load(target) == {(0, 0)}


def test_this_machine_itself_has_no_nic(tmp_path):
    with serving(tmp_path, "--nic-poll", "120", address="127.0.0.1") as target:
        with load(target):
            assert looks_under_load(target) == {(0, 0)}
