# SPDX-License-Identifier: BSD-3-Clause
"""Which reactor connections live on: a NIC with several queues, whose packets are handled on cores that are chosen (by
RPS). It is a veth pair in two network namespaces of the test's own."""
import ctypes
import json
import os
import subprocess
from contextlib import contextmanager

import pytest

from ctl import ctl
from host import Controller
from target import Target, wait_until

CLONE_NEWNET = 0x40000000
QUEUES = 4
NAME = f"plx{os.getpid()}"
LIBC = ctypes.CDLL(None, use_errno=True)
CORES = sorted(os.sched_getaffinity(0))[:2]


def ip(*words, check=True):
    return subprocess.run(["ip", *words], capture_output=True, text=True, timeout=30, check=check)


def inside(namespace, script):
    """With /sys of that namespace."""
    subprocess.run(["ip", "netns", "exec", namespace, "sh", "-ec", script], check=True, timeout=30)


@contextmanager
def sockets_of(namespace):
    """Those that are made meanwhile."""
    with open("/proc/self/ns/net", "rb") as own, open(f"/run/netns/{namespace}", "rb") as other:
        assert LIBC.setns(other.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        try:
            yield
        finally:
            assert LIBC.setns(own.fileno(), CLONE_NEWNET) == 0


@pytest.fixture(scope="module", name="wire")
def make_wire():
    """Two namespaces, and what ends them."""
    if len(CORES) < 2:
        pytest.skip("it takes two cores")
    if os.geteuid():
        pytest.skip("only root makes network namespaces")
    server, client = f"{NAME}s", f"{NAME}c"
    if ip("netns", "add", server, check=False).returncode:
        pytest.skip("network namespaces cannot be made here")
    try:
        ip("netns", "add", client)
        queues = f"numtxqueues {QUEUES} numrxqueues {QUEUES}"
        ip("-n", server, *f"link add v0 {queues} type veth peer name v1 netns {client} {queues}".split())
        for namespace, device, address in ((server, "v0", "10.99.0.1/24"), (client, "v1", "10.99.0.2/24")):
            ip("-n", namespace, "addr", "add", address, "dev", device)
            ip("-n", namespace, "link", "set", device, "up")
            ip("-n", namespace, "link", "set", "lo", "up")
        yield server, client
    finally:
        ip("netns", "del", server, check=False)
        ip("netns", "del", client, check=False)


def steer(namespace, core_of):
    """Packets of each queue to a core."""
    inside(namespace, "; ".join(f"echo {1 << core_of(queue):x} > /sys/class/net/v0/queues/rx-{queue}/rps_cpus"
                                for queue in range(QUEUES)))


@pytest.fixture(scope="module", name="target")
def start_target(wire, tmp_path_factory):
    path = tmp_path_factory.mktemp("placement") / "control"
    options = ("-m", ",".join(map(str, CORES)), "--rpc", path, "--allow-any-host")
    with Target("ram:16M", listen="10.99.0.1:0", options=options,
                prefix=("ip", "netns", "exec", wire[0])) as target:
        target.control = path
        yield target


def places(target):
    """Of all queue pairs, and the table for people."""
    told = json.loads(ctl("-s", target.control, "--json", "connections").out)
    table = ctl("-s", target.control, "connections").out
    return [place for controller in told for place in controller.get("places", [])], table  # who comes has none yet


@contextmanager
def hosts(wire, target, n, queues):
    made = []
    try:
        with sockets_of(wire[1]):
            for _ in range(n):
                made.append(Controller(target.address, target.nqn, io_queues=queues))
        yield made
    finally:
        for host in made:
            host.close()


@pytest.mark.parametrize("core", CORES)
def test_a_connection_lives_where_its_packets_are_handled(wire, target, core):
    steer(wire[0], lambda queue: core)
    with hosts(wire, target, 1, 2):
        assert wait_until(lambda: len(places(target)[0]) == 3)  # without those of the test before
        found, table = places(target)
    assert {(place["core"], place["incoming_cpu"], place["placed_by"]) for place in found} == {
        (core, core, "interrupts")}
    assert f"{core}: 3 by interrupts" in table


def test_queue_pairs_of_a_controller_live_on_several_reactors(wire, target):
    """The kernel deals connections out to queues: of 24, some go to each half of them."""
    steer(wire[0], lambda queue: CORES[queue % 2])
    with hosts(wire, target, 2, 11) as made:
        assert wait_until(lambda: len(places(target)[0]) == 24)
        found, _ = places(target)
        for host in made:
            for queue in host.queues:
                assert host.read(1, 0, 1, queue=queue) == bytes(512)
    assert {place["core"] for place in found} == set(CORES)
    by_interrupts = [place for place in found if place["placed_by"] == "interrupts"]
    assert all(place["core"] == place["incoming_cpu"] for place in by_interrupts)
    assert len(by_interrupts) >= 20


def test_of_this_machine_connections_are_spread(tmp_path):
    options = ("-m", ",".join(map(str, CORES)), "--rpc", tmp_path / "control", "--allow-any-host")
    if len(CORES) < 2:
        pytest.skip("it takes two cores")
    with Target("ram:16M", options=options) as target:
        target.control = tmp_path / "control"
        host = Controller(target.address, target.nqn, io_queues=3)
        found, table = places(target)
        host.close()
    assert [place["placed_by"] for place in found] == ["load"] * 4
    assert sorted(place["core"] for place in found) == sorted(2 * CORES)
    assert all(place["incoming_cpu"] == -1 for place in found)
    assert f"{CORES[0]}: 2 by load" in table and f"{CORES[1]}: 2 by load" in table
