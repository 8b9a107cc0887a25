# SPDX-License-Identifier: BSD-3-Clause
"""`--nic-poll`: a reactor that is about to sleep has the kernel poll the queues of its connections' NICs first, and a
NIC need not interrupt meanwhile. The NIC is a veth pair that has NAPI."""
import contextlib
import ctypes
import fcntl
import json
import os
import re
import select
import socket
import struct
import subprocess

import pytest

from ctl import ctl
from target import Target, binary, wait_until
from test_placement import CORES, inside, make_wire, places, sockets_of  # noqa: F401

EPOLL_SET_PARAMS = 0x40088A01  # EPIOCSPARAMS of Linux 6.9
ETHTOOL, SET_TSO, SET_GRO, SET_CHANNELS = 0x8946, 0x1F, 0x2C, 0x3D
LIMIT = 60


@pytest.fixture(autouse=True)
def known():
    with contextlib.closing(select.epoll()) as epoll:
        try:
            fcntl.ioctl(epoll, EPOLL_SET_PARAMS, struct.pack("=IHBB", 0, 8, 0, 0))
        except OSError as error:
            pytest.skip(f"this kernel polls no NICs for epoll: {error}")


def set_up(namespace, device, *settings):
    with sockets_of(namespace), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for what, *values in settings:
            setting = ctypes.create_string_buffer(struct.pack(f"=I{len(values)}I", what, *values))
            fcntl.ioctl(any_socket, ETHTOOL, struct.pack("16sP8x", device, ctypes.addressof(setting)))


@pytest.fixture(scope="module", name="nic")
def make_nic(wire):
    """The same, with NAPI, which a veth has as long as it has GRO, and uses for what comes from one that has no TSO."""
    for namespace, device in zip(wire, (b"v0", b"v1")):
        set_up(namespace, device, (SET_TSO, 0), (SET_GRO, 1))
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
            assert process.returncode == 0, out + err
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


# ---- interrupts that stay off: family "netdev" of generic netlink, of Linux's Documentation/netlink/specs/netdev.yaml

NETLINK_GENERIC, CONTROL, GET_FAMILY, FAMILY_ID, FAMILY_NAME = 16, 16, 3, 1, 2
NAPI_GET, NAPI_SET, NAPI_ID, SUSPEND_TIMEOUT = 11, 14, 2, 7
REQUEST, ACK, DUMP = 1, 4, 0x300
ERROR, DONE = 2, 3
OURS_NS = 1_000_000
AS_LONG_AS_A_TEST_NS = 4_000_000_000


def attribute(kind, data):
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def attributes(data):
    found = {}
    while data:
        size, kind = struct.unpack_from("=HH", data)
        found[kind] = int.from_bytes(data[4:size], "little") if size <= 12 else None
        data = data[(size + 3) & ~3:]
    return found


def ask(netlink, family, command, flags, *sent):
    body = struct.pack("=BBH", command, 1, 0) + b"".join(sent)
    netlink.send(struct.pack("=IHHII", 16 + len(body), family, REQUEST | flags, 1, 0) + body)
    answers = []
    while True:
        data = netlink.recv(1 << 16)
        while data:
            size, kind = struct.unpack_from("=IH", data)
            if kind == ERROR and (number := struct.unpack_from("=i", data, 16)[0]):
                raise OSError(-number, os.strerror(-number))
            if kind in (ERROR, DONE):
                return answers
            answers.append(attributes(data[20:size]))
            data = data[(size + 3) & ~3:]
        if not flags:
            return answers


@contextlib.contextmanager
def napis(namespace):
    """Asks about the queues of its NICs."""
    with sockets_of(namespace):
        netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)
    with netlink:
        try:
            [family] = ask(netlink, CONTROL, GET_FAMILY, 0, attribute(FAMILY_NAME, b"netdev\0"))
        except OSError as error:
            pytest.skip(f"this kernel's NICs cannot be asked about their queues: {error}")
        yield lambda *more: ask(netlink, family[FAMILY_ID], *more)


def suspend_timeouts(namespace):
    with napis(namespace) as asked:
        found = asked(NAPI_GET, DUMP)
    if not all(SUSPEND_TIMEOUT in each for each in found):
        pytest.skip("this kernel's NICs cannot leave interrupts off")
    return {each[NAPI_ID]: each[SUSPEND_TIMEOUT] for each in found}


def set_suspend_timeout(namespace, ns):
    with napis(namespace) as asked:
        for number in suspend_timeouts(namespace):
            asked(NAPI_SET, ACK, attribute(NAPI_ID, struct.pack("=I", number)),
                  attribute(SUSPEND_TIMEOUT, struct.pack("=Q", ns)))


def put_off(namespace, polls, ns):
    inside(namespace, f"echo {polls} > /sys/class/net/v0/napi_defer_hard_irqs; "
                      f"echo {ns} > /sys/class/net/v0/gro_flush_timeout")


@pytest.fixture(name="quiet_nic")
def make_quiet_nic(nic):
    """Of one queue, whose interrupts are put off."""
    server, client = nic
    release = os.uname().release.split(".")
    if (int(release[0]), int(re.match(r"\d+", release[1])[0])) < (6, 15):
        pytest.skip("before Linux 6.15 a NIC cannot be looked at without sleeping")
    suspend_timeouts(server)
    set_up(client, b"v1", (SET_CHANNELS, 0, 0, 0, 0, 1, 1, 0, 0))
    set_up(server, b"v0", (SET_CHANNELS, 0, 0, 0, 0, 1, 1, 0, 0))
    set_suspend_timeout(server, 0)
    put_off(server, 100, 200_000)
    yield nic
    put_off(server, 0, 0)
    set_up(server, b"v0", (SET_CHANNELS, 0, 0, 0, 0, 4, 4, 0, 0))
    set_up(client, b"v1", (SET_CHANNELS, 0, 0, 0, 0, 4, 4, 0, 0))


def suspensions(target):
    """Whether interrupts can stay off, and how often they were left off."""
    found = json.loads(ctl("-s", target.control, "framework_get_reactors").out)["reactors"]
    [reactor] = (each for each in found if each["lcore"] == CORES[0])
    return reactor["nic_suspends"], reactor["nic_suspensions"]


WITHOUT_NET_ADMIN = ("setpriv", "--bounding-set=-net_admin")


@pytest.mark.parametrize("beside", ["nothing", "another load", "a client that says no more"])
def test_interrupts_stay_off_while_packets_come(quiet_nic, tmp_path, beside):
    """The reactor looks for packets itself: those that it did not look for would come 4 s late."""
    ours, theirs = apart(quiet_nic)
    set_suspend_timeout(quiet_nic[0], AS_LONG_AS_A_TEST_NS)
    with contextlib.ExitStack() as stack:
        target = stack.enter_context(serving(tmp_path, "--vhost", tmp_path, prefix=(*ours, *WITHOUT_NET_ADMIN)))
        host, port = target.address
        url = f"nvme+tcp://{host}:{port}/{target.nqn}"
        if beside == "another load":
            other = stack.enter_context(subprocess.Popen(
                [binary(), "perf", "-m", str(CORES[-1]), "-q", "16", "-t", "600", f"vhost-user:{tmp_path}/ram0"],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            stack.callback(other.kill)
        elif beside == "a client that says no more":
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(str(target.control))
            client.sendall(b'{"jsonrpc": "2.0", "id": 1, "method": "framework_get_reactors"}' * 1000)
            client.shutdown(socket.SHUT_WR)  # and reads nothing of what it asked for
        for depth in ("1", "32"):
            before = suspensions(target)[1]
            done = subprocess.run([*theirs, binary(), "perf", "-q", depth, "--count", "1000", "-w", "randrw",
                                   "--verify", "-m", str(CORES[-1]), url], capture_output=True, text=True,
                                  timeout=LIMIT, check=False)
            assert done.returncode == 0, done.stderr
            assert suspensions(target)[1] > before
        with load(target, *theirs):
            assert wait_until(lambda: suspensions(target)[0])
        assert wait_until(lambda: not suspensions(target)[0]), "nobody is left"


def test_where_they_are_put_off_they_are_made_to_stay_off(quiet_nic, tmp_path):
    ours, theirs = apart(quiet_nic)
    with serving(tmp_path, prefix=ours) as target, load(target, *theirs):
        assert wait_until(lambda: suspensions(target)[0])
    assert set(suspend_timeouts(quiet_nic[0]).values()) == {OURS_NS}


def test_or_not_by_who_may_not(quiet_nic, tmp_path):
    ours, theirs = apart(quiet_nic)
    with serving(tmp_path, prefix=(*ours, *WITHOUT_NET_ADMIN)) as target, load(target, *theirs):
        assert wait_until(lambda: looks(target)[0] >= 2)
        assert {suspensions(target) for _ in range(50)} == {(False, 0)}
    assert set(suspend_timeouts(quiet_nic[0]).values()) == {0}


def test_nics_that_interrupt_at_once_are_left_as_they_are(quiet_nic, tmp_path):
    ours, theirs = apart(quiet_nic)
    put_off(quiet_nic[0], 0, 0)
    with serving(tmp_path, prefix=ours) as target, load(target, *theirs):
        assert wait_until(lambda: looks(target)[0] >= 2)
        assert {suspensions(target) for _ in range(50)} == {(False, 0)}
    assert set(suspend_timeouts(quiet_nic[0]).values()) == {0}
