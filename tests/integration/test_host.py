# SPDX-License-Identifier: BSD-3-Clause
"""Our host against a well-behaved controller of every shape, and against our own target."""

import json
import os
import struct
import subprocess
import threading
from types import SimpleNamespace

import pytest

import sqe
from controller import BLOCK, DNR, NQN, Port, Subsystem
from host import Controller
from spec import Io, Sc
from target import Target, binary, wait_until

LIMIT = 60
MIB = 1 << 20


def pollux(*arguments, **more):
    return subprocess.run([binary(), *map(str, arguments)], capture_output=True, text=True, timeout=LIMIT, check=False,
                          stdin=subprocess.DEVNULL, **more)


def must(*arguments, **more):
    result = pollux(*arguments, **more)
    assert result.returncode == 0, result.stderr
    assert "Sanitizer" not in result.stderr and "runtime error" not in result.stderr, result.stderr
    return result


def pattern(size):
    return b"".join(i.to_bytes(8, "little") for i in range(size // 8))


def round_trip(port, tmp_path, query=""):
    """Writes the controller's disk, reads it back, compares both with what they should be."""
    source, back = tmp_path / "source.img", tmp_path / "back.img"
    data = pattern(len(port.subsystem.disk))
    source.write_bytes(data)
    must("cp", "--verify", source, port.url + query)
    assert bytes(port.subsystem.disk) == data
    must("cp", port.url + query, back)
    assert back.read_bytes() == data


@pytest.mark.parametrize("shape", [
    {}, {"cpda": 3}, {"cpda": 31}, {"maxh2cdata": 4096}, {"piece": 4096}, {"piece": 1000}, {"r2t": 8192},
    {"sq_flow": True}, {"r2t": 4, "maxh2cdata": 4096}, {"piece": 65536, "sq_flow": True}], ids=str)
@pytest.mark.parametrize("query", ["", "?hdgst=1&ddgst=1", "?queues=3&depth=2"], ids=["plain", "digests", "queues"])
def test_a_controller_of_any_shape(tmp_path, shape, query):
    blocks = 64 if shape.get("r2t") == 4 else 2048
    with Port(Subsystem(blocks), **shape) as port:
        round_trip(port, tmp_path, query)
        assert not port.terms


@pytest.mark.parametrize("identity", [
    {"mdts": 1}, {"mdts": 0}, {"ioccsz": 4}, {"ioccsz": (64 + 512) // 16}, {"ioccsz": (64 + (1 << 20)) // 16},
    {"oncs": 0}, {"vwc": 0}, {"nanagrpid": 0, "cmic": 0}], ids=str)
def test_what_the_controller_states_is_respected(tmp_path, identity):
    largest = []
    with Port(Subsystem(2048, **identity)) as port:
        port.on_io = lambda connection, command: largest.append(command.sgl_length)
        round_trip(port, tmp_path)
    mdts = identity.get("mdts", 5)
    assert max(largest) <= (4096 << mdts if mdts else MIB)


def test_digests_that_the_controller_declines_are_not_silently_left_off():
    with Port(Subsystem(256), digests=0) as port:
        result = pollux("perf", "-q", 1, "--count", 1, f"{port.url}?hdgst=1&ddgst=1")
    assert result.returncode == 1 and "digests that were asked for" in result.stderr


@pytest.mark.parametrize("depth", [2, 127, 128, 1000])
def test_no_more_commands_than_the_queue_has_room_for(depth):
    """The controller's queues have 128 entries, one of which stays empty."""
    under_way, most, lock = [], [0], threading.Lock()

    def answer(connection):
        with lock:
            cids, under_way[:] = list(under_way), []
        for cid in cids:
            connection.send_data(SimpleNamespace(cid=cid), bytes(BLOCK))

    def count(connection, command):
        """Answers a while later, to see how many come meanwhile."""
        with lock:
            if not under_way:
                threading.Timer(0.02, answer, [connection]).start()
            under_way.append(command.cid)
            most[0] = max(most[0], len(under_way))
        return True

    with Port(Subsystem(), sq_flow=True) as port:
        port.on_io = count
        must("perf", "-q", 200, "-o", BLOCK, "--count", 1000 if depth > 2 else 20, f"{port.url}?depth={depth}")
    assert most[0] <= min(depth, 127) and most[0] > min(depth, 127) // 2


def test_a_write_protected_namespace_is_a_read_only_disk(tmp_path):
    (tmp_path / "x.img").write_bytes(bytes(4096 * BLOCK))
    with Port(Subsystem(nsattr=1)) as port:
        result = pollux("cp", tmp_path / "x.img", port.url)
        assert result.returncode != 0 and "read-only" in result.stderr


@pytest.mark.parametrize("identity,word", [({"lbaf": 9 << 16 | 8}, "metadata"), ({"lbaf": 8 << 16}, "blocks"),
                                           ({"lbaf": 40 << 16}, "blocks"),
                                           ({"lbaf": 16 << 16, "mdts": 1}, "transfers")], ids=str)
def test_namespaces_that_are_no_disks_for_us_are_refused(identity, word):
    with Port(Subsystem(**identity)) as port:
        result = pollux("perf", "-t", 1, port.url)
        assert result.returncode != 0 and word in result.stderr and len(result.stderr.splitlines()) == 1


def test_errors_keep_their_status():
    with Port(Subsystem()) as port:
        port.on_io = lambda connection, command: connection.respond(command.cid, 0x281 | 0x4000) or True
        result = pollux("cp", port.url, "null:1G")
        assert result.returncode == 1 and "281" in result.stderr


def test_a_gateway_serves_a_remote_disk(tmp_path):
    with Target("ram:16M") as far:
        with Target(f"nvme+tcp://127.0.0.1:{far.port}/{far.nqn}") as near:
            url = f"nvme+tcp://127.0.0.1:{near.port}/{near.nqn}"
            source, back = tmp_path / "source.img", tmp_path / "back.img"
            source.write_bytes(pattern(16 * MIB))
            must("cp", "--verify", source, url)
            must("cp", f"nvme+tcp://127.0.0.1:{far.port}/{far.nqn}", back)
            assert back.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("identity,limit",
                         [({"dmrsl": 16}, 16), ({"dmsl": 10, "dmrsl": 16}, 10), ({"dmsl": 7}, 7), ({}, 100)])
def test_a_deallocation_longer_than_the_controller_takes_is_cut(identity, limit):
    ranges = []

    def on_io(connection, command):
        if command.opcode == Io.DSM:
            data = connection.collect(command, command.sgl_length)
            ranges.append(struct.unpack_from("<4xIQ", data))
            connection.respond(command.cid, 0x183 | DNR if ranges[-1][0] > limit else 0)
        return command.opcode == Io.DSM

    with Port(Subsystem(2048, **identity)) as port:
        port.on_io = on_io
        with Target(port.url) as near, Controller(near.address, near.nqn, io_queues=1) as controller:
            controller.io.must(sqe.dsm(1, 2), out=sqe.dsm_range(5, 100) + sqe.dsm_range(2040, 8))
    pieces = [(min(limit, 105 - lba), lba) for lba in range(5, 105, limit)]
    assert ranges == pieces + [(min(limit, 8), 2040)] + [(8 - limit, 2040 + limit)] * (limit < 8)


NAMESPACES_CHANGED = 2 | 0x04 << 16


@pytest.mark.parametrize("identity, sizes", [({}, [3000, 5000]), ({"nguid": bytes(range(16))}, [3000, 1000, 5000])],
                         ids=["on connecting again", "at once"])
def test_a_namespace_that_changes_its_size_is_served_with_the_new_one(identity, sizes):
    """Without an identifier in Identify Namespace the host connects again, to see whether it is the same."""
    shared = Subsystem(2048, **identity)
    with Port(shared) as port, Target(port.url) as near:
        with Controller(near.address, near.nqn, io_queues=1) as controller:

            def status(slba):
                return controller.io.execute(sqe.read(1, slba, 1), read=BLOCK).status

            assert [status(2047), status(2048)] == [0, Sc.LBA_RANGE]
            for size in sizes:
                shared.disk = bytearray(size * BLOCK)
                assert wait_until(lambda: any(connection.aers for connection in port.connections))
                port.event(NAMESPACES_CHANGED)
                assert wait_until(lambda: [status(size - 1), status(size)] == [0, Sc.LBA_RANGE])


@pytest.mark.parametrize("mode", ["sleep", "adaptive", "busy"])
@pytest.mark.parametrize("query", ["", "?queues=8"], ids=["one", "eight"])
def test_every_way_of_polling(mode, query):
    with Target("ram:16M", options=["--poll", mode]) as target:
        result = must("perf", "--poll", mode, "--verify", "-w", "randrw", "--count", 2000, "--json", "-",
                      f"nvme+tcp://127.0.0.1:{target.port}/{target.nqn}{query}")
        measured = json.loads(result.stdout)
        assert measured["errors"] == 0 and measured["verify"]["wrong"] == 0


def test_an_idle_host_sleeps():
    with Target("ram:16M", options=["--poll", "sleep"]) as far:
        with Target(f"nvme+tcp://127.0.0.1:{far.port}/{far.nqn}") as near:
            wait_until(lambda: False, limit=0.5)
            before = near.cpu_seconds()
            wait_until(lambda: False, limit=2)
            assert near.cpu_seconds() - before < 0.1


@pytest.mark.skipif(not os.path.exists("/proc/net/if_inet6"), reason="no IPv6 here")
def test_ipv6():
    with Target("ram:16M", listen="[::1]:0") as target:
        must("perf", "--count", 100, f"nvme+tcp://[::1]:{target.port}/{target.nqn}")


@pytest.mark.parametrize("url", [
    "nvme+tcp:", "nvme+tcp://", "nvme+tcp://127.0.0.1:4420", "nvme+tcp://127.0.0.1:4420/", "nvme+tcp:///nqn.x",
    "nvme+tcp://:1/nqn.x", "nvme+tcp://127.0.0.1:0/nqn.x", "nvme+tcp://127.0.0.1:x/nqn.x", "nvme+tcp://[::1/nqn.x",
    "nvme+tcp://127.0.0.1:1,/nqn.x",
    "nvme+tcp://127.0.0.1/" + "n" * 224, "nvme+tcp://127.0.0.1/nqn.x?nsid=0", "nvme+tcp://127.0.0.1/nqn.x?hdgst=2",
    "nvme+tcp://127.0.0.1/nqn.x?queues=0", "nvme+tcp://127.0.0.1/nqn.x?policy=random",
    "nvme+tcp://127.0.0.1/nqn.x?what=1",
    "nvme+tcp://127.0.0.1/nqn.x?hostnqn=me", "nvme+tcp://127.0.0.1/nqn.x?hostid=12"])
def test_a_wrong_name_is_refused_in_one_line(url):
    for command in (["perf", "-t", "1", url], ["identify", url]):
        result = pollux(*command)
        assert result.returncode == 2 and len(result.stderr.splitlines()) == 1, result.stderr


def test_nobody_there():
    with Target("ram:1M") as target:
        port = target.port
    for command in (["cp", f"nvme+tcp://127.0.0.1:{port}/{NQN}", "null:1G"],
                    ["identify", f"nvme+tcp://127.0.0.1:{port}/{NQN}"], ["discover", f"127.0.0.1:{port}"]):
        result = pollux(*command)
        assert result.returncode == 1 and "refused" in result.stderr and len(result.stderr.splitlines()) == 1


def test_a_namespace_whose_uuid_is_zeroes_has_another_behind_a_gateway():
    """The one of zeroes stands for none."""
    with Port(Subsystem(2048, uuid=bytes(16))) as port, Target(port.url) as gateway:
        result = must("identify", "--json", f"nvme+tcp://127.0.0.1:{gateway.port}/{gateway.nqn}")
        told, = json.loads(result.stdout)["namespaces"]
    assert len(told["uuid"]) == 36 and set(told["uuid"]) > set("0-")
