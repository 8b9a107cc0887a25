# SPDX-License-Identifier: BSD-3-Clause
"""Our host when things go wrong: hostile controllers, lost connections, commands that nobody answers, paths that go."""

import json
import signal
import socket
import struct
import subprocess
import time

import pytest

import host
import pdu
import sqe
from controller import (BLOCK, CHANGE, DNR, INACCESSIBLE, LOSS, NON_OPTIMIZED, NQN, OPTIMIZED, Port, Subsystem,
                        wait_for)
from spec import Admin, Fes, Io, Offset, Sc, Type
from target import Target, binary
from test_host import MIB, must, pattern, pollux
from test_io_fused import fused

LIMIT = 60
BLOCKS = 64


def raw(kind, body, **wrong):
    return pdu.encode(kind, body, **wrong)


def c2h(command, offset=0, data=bytes(BLOCK * BLOCKS), flags=0x0C, cid=None, datal=None, **wrong):
    cid, datal = command.cid if cid is None else cid, len(data) if datal is None else datal
    specific = struct.pack("<HHIII", cid, 0, offset, datal, 0)
    return pdu.encode(Type.C2H_DATA, specific, data, flags=flags, **wrong)


def response(cid, status=0):
    return pdu.response(struct.pack("<QHHHH", 0, 0xFFFF, 1, cid, status << 1))


# What is sent in answer to a read of BLOCKS blocks: name, PDU, FES, FEI
TO_READ = [
    ("unknown type", lambda c: bytes([0x55, 0, 24, 0, 24, 0, 0, 0]) + bytes(16), Fes.INVALID_HEADER, Offset.TYPE),
    ("a host's type", lambda c: bytes([4, 0, 72, 0, 72, 0, 0, 0]) + bytes(64), Fes.INVALID_HEADER, Offset.TYPE),
    ("second ICResp", lambda c: pdu.icresp(), Fes.SEQUENCE, 0),
    ("HLEN", lambda c: c2h(c, hlen=28), Fes.INVALID_HEADER, Offset.HLEN),
    ("PDO", lambda c: c2h(c, pdo=22), Fes.INVALID_HEADER, Offset.PDO),
    ("flags", lambda c: c2h(c, flags=0x1C), Fes.INVALID_HEADER, Offset.FLAGS),
    ("digest not agreed on", lambda c: c2h(c, flags=0x0D), Fes.INVALID_HEADER, Offset.FLAGS),
    ("huge PLEN", lambda c: c2h(c, plen=0xFFFFFFF0), Fes.LIMIT_EXCEEDED, 0),
    ("small PLEN", lambda c: c2h(c, plen=24), Fes.INVALID_HEADER, Offset.PLEN),
    ("PLEN of a response", lambda c: raw(Type.RESP, bytes(16), plen=28), Fes.INVALID_HEADER, Offset.PLEN),
    ("data for nobody", lambda c: c2h(c, cid=c.cid ^ 1), Fes.INVALID_HEADER, Offset.CCCID),
    ("data for an old use of the slot", lambda c: c2h(c, cid=(c.cid + 0x1000) & 0xFFFF), Fes.INVALID_HEADER,
     Offset.CCCID),
    ("data for a slot there is not", lambda c: c2h(c, cid=c.cid | 0xFFF), Fes.INVALID_HEADER, Offset.CCCID),
    ("DATAL", lambda c: c2h(c, datal=512), Fes.INVALID_HEADER, Offset.DATAL),
    ("DATAO", lambda c: c2h(c, offset=512), Fes.OUT_OF_RANGE, Offset.DATAO),
    ("more data than asked for", lambda c: c2h(c, data=bytes(BLOCK * BLOCKS + 512)), Fes.OUT_OF_RANGE, Offset.DATAL),
    ("the same data twice", lambda c: c2h(c, flags=0) + c2h(c), Fes.OUT_OF_RANGE, Offset.DATAO),
    ("SUCCESS without LAST", lambda c: c2h(c, flags=0x08), Fes.INVALID_HEADER, Offset.FLAGS),
    ("response to nobody", lambda c: response(c.cid ^ 1), Fes.INVALID_HEADER, 20),
    # The copy may be over before the second.
    ("two responses", lambda c: c2h(c, data=pattern(BLOCK * BLOCKS)) + response(c.cid), None, None),
    ("R2T for a read", lambda c: pdu.r2t(c.cid, 1, 0, 512), Fes.INVALID_HEADER, Offset.CCCID),
]

# In answer to a write whose data is not in its capsule
TO_WRITE = [
    ("R2T for nobody", lambda c: pdu.r2t(c.cid ^ 1, 1, 0, 512), Fes.INVALID_HEADER, Offset.CCCID),
    ("R2T beyond the data", lambda c: pdu.r2t(c.cid, 1, 0, BLOCK * BLOCKS + 4), Fes.OUT_OF_RANGE, 16),
    ("R2T of nothing", lambda c: pdu.r2t(c.cid, 1, 0, 0), Fes.OUT_OF_RANGE, 16),
    ("R2T out of order", lambda c: pdu.r2t(c.cid, 1, 512, 512), Fes.OUT_OF_RANGE, 12),
    ("R2T at 4 GiB", lambda c: pdu.r2t(c.cid, 1, 0xFFFFFFFC, 8), Fes.OUT_OF_RANGE, 12),
    ("two R2Ts", lambda c: pdu.r2t(c.cid, 1, 0, 65536 // 4) + pdu.r2t(c.cid, 2, 16384, 512), None, None),
    ("data for a write", lambda c: c2h(c), Fes.INVALID_HEADER, Offset.CCCID),
]


def once(opcode, act):
    """Does something wrong in answer to the first command of a kind; from then on all is well."""
    done = []

    def hook(connection, command):
        if done or command.opcode != opcode or command.sgl_length < BLOCK * BLOCKS:
            return False
        done.append(command.cid)
        act(connection, command)
        return True

    hook.done = done
    return hook


@pytest.mark.parametrize("case", TO_READ, ids=lambda case: case[0])
def test_a_violation_ends_the_connection_and_the_read_is_done_again(tmp_path, case):
    _, build, fes, fei = case
    content = pattern(BLOCK * BLOCKS)
    with Port(Subsystem(content=content)) as port:
        port.on_io = once(Io.READ, lambda connection, command: connection.send(build(command)))
        must("cp", port.url, tmp_path / "out.img")
        assert port.on_io.done
        if fes:
            assert wait_for(lambda: port.terms) == [(fes, fei)]
    assert (tmp_path / "out.img").read_bytes() == content


@pytest.mark.parametrize("case", TO_WRITE, ids=lambda case: case[0])
def test_a_violation_ends_the_connection_and_the_write_is_done_again(tmp_path, case):
    _, build, fes, fei = case
    content = pattern(BLOCK * BLOCKS)
    (tmp_path / "in.img").write_bytes(content)
    with Port(Subsystem(BLOCKS)) as port:
        port.on_io = once(Io.WRITE, lambda connection, command: connection.send(build(command)))
        must("cp", tmp_path / "in.img", port.url)
        assert port.on_io.done and bytes(port.subsystem.disk) == content
        if fes:
            assert wait_for(lambda: port.terms) == [(fes, fei)]


@pytest.mark.parametrize("wrong,fes,fei", [
    (pdu.encode(Type.ICRESP, struct.pack("<HBBI", 1, 0, 0, 65536) + bytes(112)), Fes.UNSUPPORTED, Offset.PFV),
    (pdu.encode(Type.ICRESP, struct.pack("<HBBI", 0, 32, 0, 65536) + bytes(112)), Fes.INVALID_HEADER, Offset.HPDA),
    (pdu.encode(Type.ICRESP, struct.pack("<HBBI", 0, 0, 4, 65536) + bytes(112)), Fes.INVALID_HEADER, Offset.DGST),
    (pdu.encode(Type.ICRESP, struct.pack("<HBBI", 0, 0, 1, 65536) + bytes(112)), Fes.INVALID_HEADER, Offset.DGST),
    (pdu.encode(Type.ICRESP, struct.pack("<HBBI", 0, 0, 0, 4092) + bytes(112)), Fes.INVALID_HEADER, Offset.MAXR2T),
    (pdu.response(bytes(16)), Fes.SEQUENCE, 0),
], ids=["PFV", "CPDA", "DGST", "digest not asked for", "MAXH2CDATA", "response before ICResp"])
def test_a_wrong_icresp_is_refused(wrong, fes, fei):
    with Port(Subsystem()) as port:
        port.on_icreq = wrong
        result = pollux("identify", port.url)
        assert result.returncode == 1 and len(result.stderr.splitlines()) == 1
        assert wait_for(lambda: port.terms) == [(fes, fei)]


def test_a_wrong_header_digest_ends_the_connection(tmp_path):
    content = pattern(BLOCK * BLOCKS)
    with Port(Subsystem(content=content)) as port:
        port.on_io = once(Io.READ, lambda connection, command: connection.send(
            pdu.encode(Type.C2H_DATA, struct.pack("<HHIII", command.cid, 0, 0, len(content), 0), content,
                       connection.layout, flags=0x0C, hdgst=1)))
        must("cp", port.url + "?hdgst=1", tmp_path / "out.img")
        assert wait_for(lambda: port.terms)[0][0] == Fes.HEADER_DIGEST
    assert (tmp_path / "out.img").read_bytes() == content


def test_a_wrong_data_digest_has_the_read_done_again(tmp_path):
    content = pattern(BLOCK * BLOCKS)
    with Port(Subsystem(content=content)) as port:
        port.on_io = once(Io.READ, lambda connection, command: connection.send(
            pdu.encode(Type.C2H_DATA, struct.pack("<HHIII", command.cid, 0, 0, len(content), 0), bytes(len(content)),
                       connection.layout, flags=0x0C, ddgst=1)))
        must("cp", port.url + "?ddgst=1", tmp_path / "out.img")
        assert not port.terms and port.count(Io.READ) == 2
    assert (tmp_path / "out.img").read_bytes() == content


@pytest.mark.parametrize("answer", [lambda c: response(c.cid), lambda c: c2h(c, data=bytes(512))],
                         ids=["no data", "too little"])
def test_success_without_the_data_is_no_success(answer):
    with Port(Subsystem(BLOCKS)) as port:
        port.on_io = lambda connection, command: connection.send(answer(command)) or True
        result = pollux("cp", port.url, "null:1G")
        assert result.returncode == 1 and "004" in result.stderr


def test_a_write_that_succeeds_without_its_data_is_an_error(tmp_path):
    (tmp_path / "in.img").write_bytes(pattern(BLOCK * BLOCKS))
    with Port(Subsystem(BLOCKS, ioccsz=4)) as port:
        port.on_io = lambda connection, command: connection.send(response(command.cid)) or True
        result = pollux("cp", tmp_path / "in.img", port.url)
        assert result.returncode == 1 and "004" in result.stderr


def test_an_answer_counts_however_much_was_sent_meanwhile():
    """More than 2 GiB of other data between a command and its answer."""
    written, held = [0], []

    def act(connection, command):
        if command.opcode == Io.READ and not held and written[0]:
            held.append(command)
            return True
        if command.opcode != Io.WRITE:
            return False
        written[0] += len(command.data)
        connection.respond(command.cid)
        if written[0] > 2200 * MIB and len(held) == 1:
            connection.send_data(held[0], bytes(MIB))
            held.append(None)
        return True

    with Port(Subsystem(8 * MIB // BLOCK, ioccsz=(64 + MIB) // 16, mdts=8)) as port:
        port.on_io = act
        must("perf", "-q", 4, "-o", "1M", "-w", "randrw", "-M", 2, "--count", 2500, port.url + "?timeout=0&kato=0")
        assert len(held) == 2


def test_an_answer_may_come_while_data_is_still_on_its_way():
    """The memory that it comes from is left alone until it has left: else what is written next would be sent for it."""
    size, count = MIB, 8
    with Port(Subsystem(size * count // BLOCK, ioccsz=(64 + size) // 16, mdts=8)) as port:

        def answer(connection, command):
            if connection.qid and command.opcode == Io.WRITE:
                connection.respond(command.cid)
                time.sleep(0.05)  # for the host to do something wrong

        def store(connection, command):
            if command.opcode == Io.WRITE:
                port.subsystem.disk[command.slba * BLOCK:command.slba * BLOCK + len(command.data)] = command.data
            return command.opcode == Io.WRITE

        port.small_buffers()
        port.on_header, port.on_io = answer, store
        must("perf", "-q", 1, "-o", size, "-w", "write", "--verify", "--count", count, port.url)
        told = must("perf", "-q", 1, "-o", size, "-w", "read", "--verify", "--count", count, "--json", "-", port.url)
    assert json.loads(told.stdout)["verify"] == {"right": count, "wrong": 0, "unknown": 0}


# -- statuses that ask for another attempt ----------------------------------------------------------------------------


@pytest.mark.parametrize("status", [0x21, 0x22, 0x82, 0x07, 0x08], ids=hex)
def test_what_may_pass_is_tried_again(tmp_path, status):
    content = pattern(BLOCK * BLOCKS)
    with Port(Subsystem(content=content)) as port:
        port.on_io = once(Io.READ, lambda connection, command: connection.respond(command.cid, status))
        must("cp", port.url, tmp_path / "out.img")
        assert port.count(Io.READ) == 2
    assert (tmp_path / "out.img").read_bytes() == content


def test_it_is_not_tried_for_ever():
    with Port(Subsystem(BLOCKS)) as port:
        port.on_io = lambda connection, command: connection.respond(command.cid, 0x21) or True
        assert pollux("cp", port.url, "null:1G").returncode == 1
        assert 2 < port.count(Io.READ) < 20


@pytest.mark.parametrize("status", [0x21 | DNR, 0x281, 0x80 | DNR, 0x286 | DNR], ids=hex)
def test_what_does_not_pass_is_not_tried_again(status):
    with Port(Subsystem(BLOCKS)) as port:
        port.on_io = lambda connection, command: connection.respond(command.cid, status) or True
        assert pollux("cp", port.url, "null:1G").returncode == 1
        assert port.count(Io.READ) == 1


@pytest.mark.parametrize("first, second, seen",
                         [(0x285, 0x09, 0x285), (0x281, 0x09, 0x281), (0x09, 0x280, 0x280), (0, 0x280, 0x280)],
                         ids=["compare", "first", "second", "second alone"])
def test_of_a_fused_pair_the_half_that_failed_says_why(first, second, seen):
    with Port(Subsystem(fuses=1)) as port, gateway(port.url) as target:

        def act(connection, command):
            if command.flags & 3 == 0:
                return False
            connection.collect(command, BLOCK)
            connection.respond(command.cid, (first if command.flags & 3 == 1 else second) | DNR)
            return True

        port.on_io = act
        with host.Controller(target.address, target.nqn, io_queues=1) as ready:
            statuses = [completion.status for completion in fused(ready.io, 1, 8, 1, bytes(BLOCK), bytes(BLOCK))]
        assert seen in statuses


# -- time -------------------------------------------------------------------------------------------------------------


def test_a_command_without_an_answer_is_aborted(tmp_path):
    content = pattern(BLOCK * BLOCKS)
    with Port(Subsystem(content=content)) as port:
        stuck = []
        port.on_io = once(Io.READ, lambda connection, command: stuck.append((connection, command.cid)))

        def abort(connection, command):
            if command.opcode != Admin.ABORT:
                return False
            queue, cid = stuck[0]
            assert command.cdw[10] == queue.qid | cid << 16
            queue.respond(cid, 0x07)
            connection.respond(command.cid)
            return True

        port.on_admin = abort
        must("cp", port.url + "?timeout=1", tmp_path / "out.img")
        assert port.count(Admin.ABORT, io=False) == 1
    assert (tmp_path / "out.img").read_bytes() == content


def test_every_command_without_an_answer_is_aborted():
    """More at once than the controller takes Aborts at a time."""
    many = 7
    with Port(Subsystem(acl=1)) as port:
        stuck, aborted = {}, set()

        def hold(connection, command):
            if command.opcode != Io.READ or port.count(Io.READ) < 40 or len(stuck) == many:
                return False
            stuck[command.cid] = connection
            return True

        def abort(connection, command):
            if command.opcode != Admin.ABORT:
                return False
            cid = command.cdw[10] >> 16
            aborted.add(cid)
            stuck[cid].respond(cid, 0x07)
            connection.respond(command.cid)
            return True

        port.on_io, port.on_admin = hold, abort
        result = json.loads(must("perf", "-q", many, "--count", 400, "--json", "-", port.url + "?timeout=4").stdout)
        assert result["errors"] == 0 and aborted == set(stuck) and len(stuck) == many
        assert len(port.connections) == 3  # one that the disk was opened with, and the two queues, once


def test_when_aborting_does_not_help_the_connection_is_reset(tmp_path):
    content = pattern(BLOCK * BLOCKS)
    with Port(Subsystem(content=content)) as port:
        port.on_io = once(Io.READ, lambda connection, command: None)
        must("cp", port.url + "?timeout=1", tmp_path / "out.img")
        assert port.count(Admin.ABORT, io=False) == 1 and port.count(Io.READ) == 2
    assert (tmp_path / "out.img").read_bytes() == content


@pytest.mark.parametrize("acl", [0, 3])
def test_an_aborted_command_ends_though_the_controller_hangs(acl):
    """It answers neither the command nor the Abort, and nothing else limits how long that may take."""
    with Port(Subsystem(content=pattern(BLOCK * BLOCKS), acl=acl)) as port:
        def hang(connection, command):
            return command.opcode in (Io.READ, Admin.ABORT) and len(port.connections) <= 3

        port.on_io = hang
        port.on_admin = lambda connection, command: command.opcode == Admin.ABORT and hang(connection, command)
        with (gateway(port.url + "?timeout=0&kato=0") as target,
              host.Controller(target.address, target.nqn, io_queues=1) as ready):
            reads = [ready.io.submit(sqe.read(1, 8 * n, 8), read=8 * BLOCK) for n in range(4)]
            wait_for(lambda: port.count(Io.READ) == 4)
            for read in reads[:2]:
                ready.admin.must(sqe.abort(read.cid, 1))
            assert [done.status for done in ready.io.wait_all(reads)] == [Sc.ABORT_REQUESTED] * 2 + [0] * 2
        assert port.count(Admin.ABORT, io=False) == min(2, acl + 1)
        assert port.count(Io.READ) == 6  # those that nobody wanted to end were done again


def test_slow_commands_are_not_ended_by_a_controller_that_answers_their_aborts():
    """It may say that it has not aborted them, and takes one Abort at a time."""
    content = pattern(BLOCK * BLOCKS)
    with Port(Subsystem(content=content, acl=0)) as port:
        slow, first = [], []
        port.on_io = lambda connection, command: command.opcode == Io.READ and not slow.append((connection, command))
        port.on_admin = lambda connection, command: (command.opcode == Admin.ABORT and not first
                                                     and not first.append((connection, command)))
        with (gateway(port.url + "?timeout=0&kato=0") as target,
              host.Controller(target.address, target.nqn, io_queues=1) as ready):
            reads = [ready.io.submit(sqe.read(1, 0, BLOCKS), read=BLOCKS * BLOCK) for _ in range(2)]
            wait_for(lambda: len(slow) == 2)
            for read in reads:
                ready.admin.must(sqe.abort(read.cid, 1))
            wait_for(lambda: first)
            first[0][0].respond(first[0][1].cid, value=1)
            wait_for(lambda: port.count(Admin.ABORT, io=False) == 2)
            time.sleep(4)  # longer than a controller may be deaf
            assert len(port.connections) == 3
            for connection, command in slow:
                connection.send_data(command, content)
            assert [done.status for done in ready.io.wait_all(reads)] == [0, 0]


def test_a_controller_that_falls_silent_is_noticed(tmp_path):
    """It neither answers keep-alives nor closes the connection."""
    content = pattern(BLOCK * BLOCKS)
    with Port(Subsystem(content=content)) as port:
        silent = []

        def hush(connection, command):
            if command.opcode == Io.READ and not silent:
                silent.append(connection)
            return bool(silent) and len(port.connections) <= silent_until[0]

        port.on_io = hush
        port.on_admin = lambda connection, command: bool(silent) and len(port.connections) <= silent_until[0]
        silent_until = [3]  # the probe's connection, the admin queue and the I/O queue
        must("cp", port.url + "?kato=1&timeout=0", tmp_path / "out.img")
    assert (tmp_path / "out.img").read_bytes() == content


def gateway(*urls):
    return Target(*urls)


# -- lost connections -------------------------------------------------------------------------------------------------


def test_a_copy_goes_on_after_the_target_was_gone(tmp_path):
    source, disk = tmp_path / "source.img", tmp_path / "disk.img"
    source.write_bytes(pattern(64 * MIB))
    disk.write_bytes(bytes(64 * MIB))
    with Target(disk) as target:
        url = f"nvme+tcp://127.0.0.1:{target.port}/{target.nqn}"
        copy = subprocess.Popen([binary(), "cp", "--verify", "--depth", "1", "--chunk", "64K", str(source), url],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert wait_for(lambda: any(disk.read_bytes()[:4096]))  # it is connected, and at it
        for _ in range(2):
            target.kill()
            time.sleep(0.5)  # the kernel lets go of a killed process's lock on its disk a little later
            target.restart()
        out, err = copy.communicate(timeout=LIMIT)
        assert copy.returncode == 0, err
        assert "verified" in out
    assert disk.read_bytes() == source.read_bytes()


def test_requests_fail_when_the_deadline_has_passed():
    with Port(Subsystem(BLOCKS)) as port:
        def vanish(connection, command):
            port.on_icreq = b""
            port.drop()
            return True

        port.on_io = once(Io.READ, vanish)
        result = pollux("cp", port.url + "?reconnect_deadline=2", "null:1G")
        assert result.returncode == 1 and "Host Pathing Error" in result.stderr
        assert len(port.connections) == 1  # since then: after a second, and the next time would be two later


def test_another_disk_in_its_place_is_not_taken_for_it(tmp_path):
    with Port(Subsystem(content=pattern(BLOCK * BLOCKS))) as port:

        def swap(connection, command):
            port.subsystem = Subsystem(content=bytes(BLOCK * BLOCKS), uuid=bytes(16 * [7]))
            port.drop()

        port.on_io = once(Io.READ, swap)
        result = pollux("cp", port.url, tmp_path / "out.img")
        assert result.returncode == 1 and "not the one that it was" in result.stderr


@pytest.mark.parametrize("cns", [3, 6], ids=["identifiers", "limits"])
@pytest.mark.parametrize("status,times", [(0x06, 1), (0x21, 1), (0x02, 0), (0x01, 0), (0x06 | DNR, 0)], ids=hex)
def test_what_is_refused_for_once_of_the_namespace_is_asked_for_again(cns, status, times):
    """Once the disk was opened by it; a controller that has none is asked once."""
    with Port(Subsystem(uuid=bytes(16) if not times else bytes(range(16)))) as port:
        asked = []

        def refuse(connection, command):
            if command.opcode != Admin.IDENTIFY or command.cdw[10] & 0xFF != cns:
                return False
            asked.append(connection)
            if times and len(asked) != 2:  # the first was when the disk was opened
                return False
            connection.respond(command.cid, status)
            return True

        port.on_admin = refuse
        must("perf", "-q", 1, "--count", 10, port.url)
        assert len(asked) == 2 + times


# -- several paths ----------------------------------------------------------------------------------------------------


def both(one, two, query=""):
    return f"nvme+tcp://127.0.0.1:{one.address[1]},127.0.0.1:{two.address[1]}/{NQN}{query}"


_started = []


@pytest.fixture(autouse=True)
def no_load_is_left():
    yield
    while _started:
        _started.pop().kill()


def start(*arguments):
    _started.append(subprocess.Popen([binary(), *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                     text=True))
    return _started[-1]


def finish(process):
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, err
    return json.loads(out)


def stopped(load):
    load.send_signal(signal.SIGINT)
    return finish(load)


def listens(*ports):
    """Whether an event there would find an Asynchronous Event Request that it completes."""
    return all(any(connection.aers for connection in port.connections) for port in ports)


def test_active_passive_uses_the_first():
    shared = Subsystem()
    with Port(shared) as one, Port(shared) as two:
        only_the_better_is_used(worse=two, better=one, disk=both(one, two))


def test_round_robin_uses_both():
    shared = Subsystem()
    with Port(shared) as one, Port(shared) as two:
        load = start("perf", "-q", 4, "-t", LIMIT, "--json", "-", both(one, two, "?policy=round-robin"))
        assert wait_for(lambda: min(one.count(Io.READ), two.count(Io.READ)) > 20)
        assert stopped(load)["errors"] == 0


@pytest.mark.parametrize("policy", ["active-passive", "round-robin"])
def test_when_one_path_goes_the_other_takes_over_at_once(policy):
    shared = Subsystem()
    with Port(shared) as one, Port(shared) as two:
        load = start("perf", "-q", 4, "-t", LIMIT, "--json", "-", both(one, two, f"?policy={policy}"))
        assert wait_for(lambda: one.count(Io.READ) > 50)
        one.close()
        time.sleep(0.3)
        seen = two.count(Io.READ)
        assert wait_for(lambda: two.count(Io.READ) > seen + 20, 5)
        seen = len(one.commands)
        one.reopen()
        assert wait_for(lambda: len(one.commands) > seen + 5), "it is connected to again"
        seen = one.count(Io.READ) + two.count(Io.READ)
        assert wait_for(lambda: one.count(Io.READ) + two.count(Io.READ) > seen + 50)
        assert stopped(load)["errors"] == 0


def only_the_better_is_used(worse, better, disk=None):
    """From when the states of both are known: reads of before may have gone either way."""
    def settled():
        before, of_worse = better.count(Io.READ), worse.count(Io.READ)
        return wait_for(lambda: better.count(Io.READ) >= before + 400, 5) and worse.count(Io.READ) == of_worse

    load = start("perf", "-q", 4, "-t", LIMIT, "--json", "-", disk or both(worse, better))
    assert wait_for(settled), (worse.count(Io.READ), better.count(Io.READ))
    assert stopped(load)["errors"] == 0


@pytest.mark.parametrize("worse", [NON_OPTIMIZED, INACCESSIBLE, LOSS, CHANGE])
def test_the_path_with_the_better_ana_state_is_used(worse):
    shared = Subsystem()
    with Port(shared, ana=worse) as one, Port(shared) as two:
        only_the_better_is_used(one, two)


@pytest.mark.parametrize("groups", [1, 126, 127, 128, 254, 255, 1000])
def test_of_many_ana_groups_the_right_one_is_found(groups):
    """The log of more than 127 groups takes several reads."""
    shared = Subsystem(nanagrpid=groups, anagrpid=groups)
    with Port(shared, ana=NON_OPTIMIZED) as one, Port(shared) as two:
        only_the_better_is_used(one, two)


def test_a_log_of_many_ana_groups_without_offsets_is_read_as_far_as_it_can_be():
    with Port(Subsystem(nanagrpid=1000, anagrpid=1000, lpa=0), ana=NON_OPTIMIZED) as port:
        must("perf", "-q", 4, "--count", 400, port.url)


def test_an_ana_event_moves_the_load():
    shared = Subsystem()
    with Port(shared) as one, Port(shared, ana=INACCESSIBLE) as two:
        load = start("perf", "-q", 4, "-t", LIMIT, "--json", "-", both(one, two))
        assert wait_for(lambda: one.count(Io.READ) > 50 and listens(one, two)) and two.count(Io.READ) == 0
        one.ana, two.ana = INACCESSIBLE, OPTIMIZED
        for port in (one, two):
            port.event(2 | 3 << 8 | 0x0C << 16)
        assert wait_for(lambda: two.count(Io.READ) > 50)
        seen = one.count(Io.READ)
        time.sleep(0.3)
        assert one.count(Io.READ) <= seen + 4
        assert stopped(load)["errors"] == 0


def test_with_no_path_accessible_requests_wait_for_the_event():
    with Port(Subsystem()) as port:
        load = start("perf", "-q", 4, "-t", LIMIT, "--json", "-", port.url)
        assert wait_for(lambda: port.count(Io.READ) > 50 and listens(port))
        port.ana = INACCESSIBLE
        time.sleep(0.5)
        seen = port.count(Io.READ)
        time.sleep(0.3)
        assert port.count(Io.READ) - seen < 10
        port.ana = OPTIMIZED
        port.event(2 | 3 << 8 | 0x0C << 16)
        assert wait_for(lambda: port.count(Io.READ) > seen + 50)
        assert stopped(load)["errors"] == 0


def test_a_change_of_ana_is_not_missed_while_connecting():
    """It comes when events are asked for, after which the controller keeps them."""
    with Port(Subsystem(), ana=INACCESSIBLE) as port:

        def change(_, command):
            if command.opcode == Admin.SET_FEATURES and command.cdw[10] & 0xFF == 0x0B:
                port.ana = OPTIMIZED
            return False

        port.on_admin = change
        must("perf", "-q", 1, "--count", 10, port.url)


@pytest.mark.parametrize("status", [0x302, 0x22], ids=["path", "transient"])
def test_what_comes_back_after_the_deadline_fails_too(status):
    with Port(Subsystem()) as port:
        held = []
        port.on_io = lambda connection, command: (
            command.opcode == Io.READ and not held and port.count(Io.READ) > 50
            and not held.append((connection, command)))
        load = start("perf", "-q", 2, "-t", 4, port.url + "?reconnect_deadline=1")
        assert wait_for(lambda: held)
        port.ana = INACCESSIBLE
        port.event(2 | 3 << 8 | 0x0C << 16)
        assert "no path is accessible" in load.stderr.readline()
        assert any("requests fail from now on" in line for line in load.stderr)
        connection, command = held[0]
        connection.respond(command.cid, status)
        assert "Host Pathing Error" in load.communicate(timeout=LIMIT)[1] and load.returncode == 1


@pytest.mark.parametrize("size", ["64K", "1M"], ids=["whole", "in pieces"])
def test_a_path_that_transfers_less_at_once_takes_over(size):
    """Requests are cut anew, those that were under way too."""
    shared = Subsystem(8 * MIB // BLOCK, mdts=4)
    too_large = []
    with Port(shared) as one, Port(Subsystem(8 * MIB // BLOCK, mdts=1)) as two:
        two.on_io = lambda _, command: command.sgl_length > 8192 and too_large.append(command)
        two.ana = NON_OPTIMIZED
        load = start("perf", "-q", 4, "-o", size, "-t", LIMIT, "--json", "-", both(one, two))
        assert wait_for(lambda: one.count(Io.READ) > 20)
        two.ana = OPTIMIZED
        one.close()
        assert wait_for(lambda: two.count(Io.READ) > 50)
        assert stopped(load)["errors"] == 0 and not too_large


def test_a_dead_path_does_not_keep_a_disk_from_being_opened():
    shared = Subsystem()
    with Port(shared) as one, Port(shared) as two:
        one.close()
        must("perf", "--count", 100, both(one, two))


def test_a_bare_listener_that_says_nothing_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        result = pollux("identify", f"nvme+tcp://127.0.0.1:{listener.getsockname()[1]}/{NQN}?connect_timeout=1")
        assert result.returncode == 1 and "no answer within 1 s" in result.stderr


@pytest.mark.parametrize("status", [0x001, 0x002, 0x183], ids=["opcode", "field", "Linux"])
def test_zeroes_are_written_where_write_zeroes_is_refused(tmp_path, status):
    """Offered, and then refused: what the disk lies on cannot do it."""
    source = tmp_path / "source.img"
    source.write_bytes(pattern(MIB) + bytes(6 * MIB) + pattern(MIB))
    with Port(Subsystem(content=b"\xaa" * (8 * MIB))) as port:
        port.subsystem.refuses[Io.WRITE_ZEROES] = status | DNR
        must("cp", "--verify", source, port.url)
        assert bytes(port.subsystem.disk) == source.read_bytes()
        refused = port.count(Io.WRITE_ZEROES)
        must("cp", "--verify", source, port.url)
        assert 0 < port.count(Io.WRITE_ZEROES) - refused <= 64  # those in flight when the first one came back


def test_zeroes_that_fail_are_not_written_again(tmp_path):
    source = tmp_path / "source.img"
    source.write_bytes(pattern(MIB) + bytes(6 * MIB) + pattern(MIB))
    with Port(Subsystem(8 * MIB // BLOCK)) as port:
        port.subsystem.refuses[Io.WRITE_ZEROES] = 0x280 | DNR
        result = pollux("cp", source, port.url)
        assert result.returncode and "Write Fault" in result.stderr
