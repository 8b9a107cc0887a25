# SPDX-License-Identifier: BSD-3-Clause
"""Zoned disks over NVMe/TCP: as hosts see them, and from one end to the other (models of SSDs: pcie.py)."""
import json
import os
import pathlib
import random
import struct
import subprocess

import pytest

import expect
import pdu
import sqe
import test_nvme_pass
from host import CC_ALL_COMMAND_SETS, CC_ENABLE, Controller
from nvmetcp import Closed, ProtocolError, Terminated
from pcie import A, Machine, assert_content, model
from rpc import Server, listen
from spec import Io, Log, Sc
from structs import descriptors, namespace_list
from target import Target, binary
from test_hostile_flood import LooseQueue

NQN = "nqn.2001-01.example:zoned"
ZONE, ZONES, BLOCK = 4096, 16, 512
CLOSE, FINISH, OPEN, RESET, OFFLINE = 1, 2, 3, 4, 5
EMPTY, IMPLICIT, EXPLICIT, CLOSED, READ_ONLY, FULL, GONE = 1, 2, 3, 4, 13, 14, 15
LIMIT = 120

pytestmark = pytest.mark.skipif(not os.access(model(), os.X_OK), reason=f"no {model()}: build with -Dtests=true")


@pytest.fixture(autouse=True)
def program(monkeypatch):
    monkeypatch.setenv("POLLUX", str(model()))


@pytest.fixture
def machine():
    with Machine(f"{A},zoned={ZONE},blocks={ZONES * ZONE}") as made:
        yield made


@pytest.fixture
def zoned(machine):
    """Namespace 1 is zoned, and 2 is not."""
    with Target(f"pcie://{A}/1", "ram:1M", env=machine.env) as target:
        yield target
    assert_content(target.stderr)


@pytest.fixture
def host(zoned, machine):
    with Controller(zoned.address, zoned.nqn, enable=False) as controller:
        controller.enable(CC_ENABLE | CC_ALL_COMMAND_SETS)
        controller.request_queues(1)
        controller.add_queue(1)
        controller.machine = machine
        yield controller


def blocks(count, seed=1):
    return random.Random(seed).randbytes(count * BLOCK)


def append(host, zone, data, nsid=1):
    """Returns where it went."""
    completion = host.io.must(sqe.append(nsid, zone * ZONE, len(data) // BLOCK), out=data)
    return completion.dw0 | completion.dw1 << 32


def manage(host, zone, action, **more):
    host.io.must(sqe.zone_send(1, zone * ZONE, action, **more))


def report(host, zone=0, room=ZONES, **more):
    """How many zones there are, it says; and each that it tells of: state, capacity, first block, write pointer."""
    length = 64 * (1 + room)
    data = host.io.must(sqe.zone_receive(1, zone * ZONE, length, **more), read=length).data
    zones = [(data[at + 1] >> 4, *struct.unpack_from("<QQQ", data, at + 8)) for at in range(64, length, 64)]
    return struct.unpack_from("<Q", data)[0], [zone for zone in zones if zone[0]]


def is_zone(host, zone, state, written=0):
    _, [told] = report(host, zone, room=1)
    assert told == (state, ZONE, zone * ZONE, zone * ZONE + written)


def ends(host, entry, status, out=b"", read=0):
    completion = host.io.execute(entry, out=out, read=read)
    expect.status(completion, status)
    assert completion.dnr


# -- what is told ----------------------------------------------------------------------------------------------------


def test_a_zoned_namespace_says_what_it_is(host):
    assert descriptors(host.identify(0x03, nsid=1))[4] == b"\2"
    assert descriptors(host.identify(0x03, nsid=2))[4] == b"\0"
    page = host.identify(0x05, nsid=1, csi=2)
    zoc, ozcs, mar, mor = struct.unpack_from("<HHII", page)
    zsze, zdes = struct.unpack_from("<QB", page, 2816)
    assert (zoc, ozcs, mar, mor, zsze, zdes) == (0, 0, 3, 2, ZONE, 0)
    assert host.namespace(1).nsze == ZONES * ZONE
    assert namespace_list(host.identify(0x07, csi=2)) == [1] and namespace_list(host.identify(0x07, csi=0)) == [2]
    assert host.namespaces() == [1, 2]
    assert 4096 << host.identify(0x06, csi=2)[0] == 128 << 10  # ZASL: what the SSD transfers
    host.identify(0x08, nsid=1)
    zoned, plain = (host.get_log(Log.EFFECTS, 4096, csi=csi) for csi in (2, 0))
    assert zoned[:1024] == plain[:1024]
    for opcode in Io.ZONE_SEND, Io.ZONE_RECEIVE, Io.ZONE_APPEND:
        assert zoned[1024 + 4 * opcode] & 1 and not plain[1024 + 4 * opcode]
    assert not zoned[1024 + 4 * Io.DSM] and plain[1024 + 4 * Io.DSM]


# -- zones -----------------------------------------------------------------------------------------------------------


def test_zones_are_written_appended_to_read_and_reset(host):
    first, second, large = blocks(8), blocks(3, 2), blocks(256, 3)  # in capsules, and by an R2T
    assert report(host) == (ZONES, [(EMPTY, ZONE, n * ZONE, n * ZONE) for n in range(ZONES)])
    host.write(1, 2 * ZONE, first)
    assert append(host, 2, second) == 2 * ZONE + 8
    assert append(host, 2, large) == 2 * ZONE + 11
    is_zone(host, 2, IMPLICIT, 8 + 3 + 256)
    assert host.read(1, 2 * ZONE, 8 + 3 + 256) == first + second + large
    manage(host, 2, RESET)
    is_zone(host, 2, EMPTY)


def test_appends_of_one_zone_may_be_many_at_once(host):
    entries = [(sqe.append(1, 5 * ZONE, 4), blocks(4, n)) for n in range(24)]
    commands = [host.io.submit(entry, out=data) for entry, data in entries]
    host.io.wait_all(commands)
    went = {}
    for command, (_, data) in zip(commands, entries):
        expect.status(command.completion, Sc.SUCCESS)
        went[command.completion.dw0] = data
    assert sorted(went) == [5 * ZONE + 4 * n for n in range(24)]
    for lba, data in went.items():
        assert host.read(1, lba, 4) == data


def test_zones_change_their_state_as_told(host):
    manage(host, 1, OPEN)
    is_zone(host, 1, EXPLICIT)
    append(host, 1, blocks(1))
    manage(host, 1, CLOSE)
    is_zone(host, 1, CLOSED, 1)
    manage(host, 1, FINISH)
    assert report(host, 1, room=1)[1][0][0] == FULL
    append(host, 3, blocks(1))
    append(host, 4, blocks(1))
    manage(host, 0, CLOSE, select_all=True)
    is_zone(host, 3, CLOSED, 1)
    is_zone(host, 4, CLOSED, 1)
    manage(host, 0, RESET, select_all=True)
    assert report(host, which=1)[0] == ZONES
    host.machine.tell(A, "zone", 1, 7, READ_ONLY)
    manage(host, 7, OFFLINE)
    is_zone(host, 7, GONE)


def test_reports_are_of_those_that_are_asked_for(host):
    append(host, 2, blocks(1))
    manage(host, 3, OPEN)
    append(host, 4, blocks(1))
    manage(host, 4, CLOSE)
    manage(host, 5, FINISH)
    host.machine.tell(A, "zone", 1, 6, READ_ONLY)
    host.machine.tell(A, "zone", 1, 7, GONE)
    for which, zone in ((2, 2), (3, 3), (4, 4), (5, 5), (6, 6), (7, 7)):
        count, [told] = report(host, which=which)
        assert (count, told[2]) == (1, zone * ZONE), which
    assert report(host, which=1)[0] == ZONES - 6
    assert report(host, 8, room=3) == (8, [(EMPTY, ZONE, n * ZONE, n * ZONE) for n in (8, 9, 10)])
    assert report(host, 8, room=3, partial=True)[0] == 3
    assert report(host, 15, room=3, partial=True)[0] == 1
    data = host.io.must(sqe.zone_receive(1, 8 * ZONE + 77, 188), read=188).data  # one whole descriptor, not two
    assert struct.unpack_from("<Q", data)[0] == 8 and data[64] == 2 and not any(data[128:])


def test_what_zones_refuse_is_told(host):
    data = blocks(1)
    host.write(1, 0, data)
    ends(host, sqe.write(1, 0, 1), Sc.ZONE_INVALID_WRITE, data)
    ends(host, sqe.write(1, 2, 1), Sc.ZONE_INVALID_WRITE, data)
    ends(host, sqe.read(1, ZONE - 1, 2), Sc.ZONE_BOUNDARY, read=2 * BLOCK)
    manage(host, 0, RESET, select_all=True)
    for n in range(16):
        host.write(1, n * 256, blocks(256)) if n < 15 else append(host, 0, blocks(255))
    ends(host, sqe.append(1, 0, 2), Sc.ZONE_BOUNDARY, blocks(2))
    append(host, 0, data)
    is_zone(host, 0, FULL, ZONE)
    ends(host, sqe.append(1, 0, 1), Sc.ZONE_FULL, data)
    ends(host, sqe.write(1, 5, 1), Sc.ZONE_FULL, data)
    ends(host, sqe.zone_send(1, 0, OPEN), Sc.ZONE_TRANSITION)
    ends(host, sqe.zone_send(1, 0, OFFLINE), Sc.ZONE_TRANSITION)
    manage(host, 0, RESET)
    for n in range(3):
        manage(host, n, OPEN)
    ends(host, sqe.zone_send(1, 3 * ZONE, OPEN), Sc.ZONES_OPEN)
    ends(host, sqe.append(1, 3 * ZONE, 1), Sc.ZONES_OPEN, data)
    for n in range(3):
        append(host, n, data)
        manage(host, n, CLOSE)
    append(host, 3, data)
    ends(host, sqe.append(1, 4 * ZONE, 1), Sc.ZONES_ACTIVE, data)
    for state, status in ((READ_ONLY, Sc.ZONE_READ_ONLY), (GONE, Sc.ZONE_OFFLINE)):
        host.machine.tell(A, "zone", 1, 9, state)
        ends(host, sqe.append(1, 9 * ZONE, 1), status, data)
        ends(host, sqe.write(1, 9 * ZONE, 1), status, data)
    ends(host, sqe.read(1, 9 * ZONE, 1), Sc.ZONE_OFFLINE, read=BLOCK)


@pytest.mark.parametrize("entry,out,status", [
    (sqe.append(1, 1, 1), 1, Sc.INVALID_FIELD), (sqe.append(1, ZONES * ZONE, 1), 1, Sc.LBA_RANGE),
    (sqe.append(1, 0, 512), 512, Sc.INVALID_FIELD), (sqe.append(2, 0, 1), 1, Sc.INVALID_OPCODE),
    (sqe.append(3, 0, 1), 1, Sc.INVALID_NAMESPACE),
    (sqe.zone_send(1, 1, RESET), 0, Sc.INVALID_FIELD), (sqe.zone_send(1, ZONES * ZONE, RESET), 0, Sc.LBA_RANGE),
    (sqe.zone_send(1, 0, 0), 0, Sc.INVALID_FIELD), (sqe.zone_send(1, 0, 0x10), 0, Sc.INVALID_FIELD),
    (sqe.zone_send(1, 0, 0x11), 0, Sc.INVALID_FIELD), (sqe.zone_send(1, 0, OPEN | 1 << 9), 0, Sc.INVALID_FIELD),
    (sqe.zone_send(2, 0, RESET), 0, Sc.INVALID_OPCODE), (sqe.zone_receive(2, 0, 128), 0, Sc.INVALID_OPCODE),
    (sqe.zone_receive(1, ZONES * ZONE, 128), 0, Sc.LBA_RANGE),
    (sqe.zone_receive(1, 0, 128, action=1), 0, Sc.INVALID_FIELD),
    (sqe.zone_receive(1, 0, 128, which=8), 0, Sc.INVALID_FIELD),
    (sqe.zone_receive(1, 0, 60), 0, Sc.INVALID_FIELD), (sqe.write_zeroes(1, 0, 8), 0, Sc.INVALID_OPCODE),
    (sqe.dsm(1, 1), 0, Sc.INVALID_OPCODE), (sqe.copy(1, 0, 1), 0, Sc.INVALID_OPCODE)])
def test_what_makes_no_sense_is_refused(host, entry, out, status):
    length = {Io.ZONE_RECEIVE: 4 * (1 + struct.unpack_from("<I", entry, 48)[0])}.get(entry[0], 0)
    completion = host.io.execute(entry, out=blocks(out), read=length)
    expect.status(completion, status)
    assert completion.dnr
    assert report(host, which=1)[0] == ZONES  # nothing has happened


@pytest.mark.parametrize("seed", range(3))
def test_random_commands_for_zones_are_all_answered(zoned, host, seed):
    rng = random.Random(700 + seed)
    queue = LooseQueue(zoned.address)
    host.queues.append(queue)
    expect.status(host.connect_queue(queue, 2), Sc.SUCCESS)
    try:
        for _ in range(300):
            entry = bytearray(rng.randbytes(64))
            entry[0] = rng.choice([Io.READ, Io.WRITE, Io.COMPARE, Io.ZONE_SEND, Io.ZONE_RECEIVE, Io.ZONE_APPEND, 0x7B])
            entry[1] = 0x40
            struct.pack_into("<I", entry, 4, rng.choice([1, 1, 1, 2, 0xFFFFFFFF]))
            entry[24:40] = sqe.sgl(rng.choice([0x5A, 0x5A, 0x01]), rng.choice([0, 64, 128, 512, 4096, 65536]), 0)
            for dword in range(10, 16):
                value = rng.choice([0, 1, 3, 7, 31, 127, 0x104, 0x10000, ZONE, 2 * ZONE, rng.getrandbits(32)])
                struct.pack_into("<I", entry, 4 * dword, value)
            struct.pack_into("<I", entry, 44, rng.choice([0, 0, 0, rng.getrandbits(32)]))
            out = rng.randbytes(rng.choice([0, 512, 4096])) if entry[39] == 0x01 else b""
            command, capsule = queue.prepare(entry, out, raw_sgl=True, in_capsule=True, exact=False)
            queue.send(pdu.command(bytes(command.entry), capsule, queue.sent))
            while command.completion is None and command.cid in queue.commands:
                queue.step()
            queue.commands.pop(command.cid, None)
    except (Closed, Terminated, ProtocolError) as error:
        assert not isinstance(error, ProtocolError) or "not in flight" in str(error), error
    manage(host, 0, RESET, select_all=True)
    assert append(host, 0, blocks(1)) == 0


# -- our own host ----------------------------------------------------------------------------------------------------


def url(zoned):
    return "nvme+tcp://%s:%d/%s?nsid=1" % (*zoned.address, zoned.nqn)


def test_our_host_writes_all_of_its_zones(zoned, machine):
    """disk_zones: by writes and by appends, and what reports say."""
    done = subprocess.run([pathlib.Path(binary()).parent / "disk_zones", url(zoned)], capture_output=True, text=True,
                          timeout=LIMIT, check=False)
    told = f"{ZONES} zones of {ZONE} blocks, capacity {ZONE}, 3 open, 4 active, 256 appended\n"
    assert done.stdout == told, done.stderr
    assert machine.tell(A, "complaints") == 0


def test_our_host_identifies_and_reads_it(zoned):
    shown = json.loads(run("identify", "--json", url(zoned)))
    [namespace] = shown["namespaces"]
    assert (namespace["zsze"], namespace["mar"], namespace["mor"], namespace["zasl"]) == (ZONE, 3, 2, 5)
    result = json.loads(run("perf", url(zoned), "-w", "randread", "--count", "500", "--json", "-"))
    assert (result["requests"], result["errors"]) == (500, 0)


def test_our_host_loads_it_in_order(zoned):
    """One write at a time fills the disk; and what was written is there."""
    for kind in "write", "read":
        result = json.loads(run("perf", url(zoned), "-w", kind, "-q", "1", "-o", "64K", "--verify", "--count",
                                str(ZONES * ZONE * BLOCK >> 16), "--json", "-"))
        assert (result["requests"], result["errors"]) == (ZONES * ZONE * BLOCK >> 16, 0)


def run(*words):
    done = subprocess.run([binary(), *words], capture_output=True, text=True, timeout=LIMIT, check=False)
    assert not done.returncode, done.stderr
    return done.stdout


def serve(client, name, nqn):
    client.call("nvmf_create_transport", trtype="TCP")
    client.call("nvmf_create_subsystem", nqn=nqn, allow_any_host=True)
    client.call("nvmf_subsystem_add_ns", nqn=nqn, namespace={"bdev_name": name})
    return listen(client, nqn)


def attach(client, port, nqn):
    return client.call("bdev_nvme_attach_controller", name="Far", trtype="TCP", adrfam="IPv4", traddr="127.0.0.1",
                       trsvcid=str(port), subnqn=nqn)


def test_a_zoned_disk_passes_through_several_targets(machine):
    """An SSD's, slowed down, served; attached by calls elsewhere, and served once more; and a host at the end."""
    with Server(env=machine.env) as first, first.client() as near, Server() as second, second.client() as far:
        near.call("bdev_nvme_attach_controller", name="Nvme0", trtype="PCIe", traddr=A)
        near.call("bdev_delay_create", base_bdev_name="Nvme0n1", name="slow", avg_read_latency=1,
                  p99_read_latency=1, avg_write_latency=1, p99_write_latency=1)
        assert attach(far, serve(near, "slow", NQN), NQN) == ["Farn1"]
        [disk] = far.call("bdev_get_bdevs", name="Farn1")
        assert (disk["zoned"], disk["zone_size"], disk["max_open_zones"], disk["optimal_open_zones"]) == (
            True, ZONE, 3, 3)
        assert disk["supported_io_types"]["zone_append"] and not disk["supported_io_types"]["write_zeroes"]
        command = test_nvme_pass.entry(Io.ZONE_RECEIVE, 1, ZONE, cdw12=192 // 4 - 1)
        status, _, data = test_nvme_pass.send(far, "io", command, name="Far", data_len=192)
        assert (status, struct.unpack_from("<Q", data)[0], data[64]) == (0, ZONES - 1, 2)
        with Controller(("127.0.0.1", serve(far, "Farn1", NQN + "2")), NQN + "2", io_queues=1) as host:
            data = blocks(200)
            assert append(host, 1, data) == ZONE
            assert append(host, 1, data) == ZONE + 200
            assert host.read(1, ZONE + 200, 200) == data
            assert report(host, 1, room=2)[1] == [(IMPLICIT, ZONE, ZONE, ZONE + 400), (EMPTY, ZONE, 2 * ZONE, 2 * ZONE)]
            ends(host, sqe.write(1, ZONE, 1), Sc.ZONE_INVALID_WRITE, blocks(1))
            manage(host, 1, RESET)
            is_zone(host, 1, EMPTY)
    assert_content(first.stderr)
