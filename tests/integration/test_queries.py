# SPDX-License-Identifier: BSD-3-Clause
"""What a target with two reactors says of hosts that are connected, and of commands that are under way."""

import pytest

import expect
import sqe
from control import Control, Refused
from controller import Port, Subsystem, wait_for
from host import Controller
from nvmetcp import Connection
from spec import Admin, Io, Sc

NQN = "nqn.2026-01.example:asked"
A, B = "nqn.2026-01.example:host-a", "nqn.2026-01.example:host-b"
RAM, HUNG = 1, 2
MUCH = 64  # blocks, more than fit into a capsule
SECOND = 1_000_000_000


@pytest.fixture
def control():
    with Port(Subsystem(blocks=1 << 14)) as port, Control(reactors=2) as program:
        port.on_io = lambda connection, command: command.opcode == Io.WRITE  # hangs
        port.on_admin = lambda connection, command: command.opcode == Admin.ABORT
        program("subsystem", NQN, "any-host")
        for nsid, url in ((RAM, "ram:64M"), (HUNG, port.url + "?timeout=60")):
            program("open", f"disk{nsid}", url)
            program("add-ns", NQN, f"disk{nsid}", nsid)
        program.address = ("127.0.0.1", program("listen", "127.0.0.1:0"))
        program("start")
        yield program
        port.drop()  # and so does not hold up the end
        port.on_io = port.on_admin = lambda connection, command: False


def inflight(control, qid=1):
    """Of I/O queues: how many were left out, and commands by identifier."""
    left_out, *commands = control("inflight")
    assert [c["age"] for c in commands] == sorted((c["age"] for c in commands), reverse=True)
    return left_out, {c["cid"]: c for c in commands if c["qid"] == qid}


def test_controllers_are_told_of_with_their_connections(control):
    assert control("controllers", NQN) == []
    with Controller(control.address, NQN, hostnqn=A, hostid=bytes(range(16)), io_queues=3, io_sqsize=15, kato=7000,
                    hdgst=True) as a, Controller(control.address, NQN, hostnqn=B, kato=0, ddgst=True) as b:
        first, second = control("controllers", NQN)
        assert (first["hostnqn"], first["hostid"], first["kato"]) == (A, bytes(range(16)).hex(), 7000)
        assert (first["cntlid"], second["cntlid"]) == (a.cntlid, b.cntlid)
        assert (second["hostnqn"], second["kato"], len(second["qpairs"])) == (B, 0, 1)
        assert first["listener"] == [*control.address, False]
        assert [q["qid"] for q in first["qpairs"]] == [0, 1, 2, 3]
        for told, queue in zip(first["qpairs"], [a.admin, *a.queues]):
            assert told["peer"] == [*queue.socket.getsockname(), False]
            assert told["local"] == [*control.address, False]
            assert told["digests"] == [True, False]
            assert told["in_flight"] == 0
        assert [q["entries"] for q in first["qpairs"]] == [32, 16, 16, 16]
        assert second["qpairs"][0]["digests"] == [False, True]
        before = first["qpairs"][1]["completed"]
        a.write(RAM, 0, bytes(512))
        assert control("controllers", NQN)[0]["qpairs"][1]["completed"] == before + 1
    wait_for(lambda: not control("controllers", NQN))
    assert control("controllers", NQN) == []


def test_a_command_at_a_disk_that_hangs_is_told_of(control):
    with Controller(control.address, NQN, hostnqn=A, io_queues=2) as a:
        stuck = [queue.submit(sqe.write(HUNG, 16, 8), out=bytes(4096)) for queue in a.queues]
        wait_for(lambda: sum(r["at_disks"] for r in control("stats")) == 2)
        for qid, command in enumerate(stuck, 1):
            left_out, found = inflight(control, qid)
            assert left_out == 0
            told = found[command.cid]
            assert 0 <= told["age"] < 60 * SECOND
            assert (told["hostnqn"], told["subnqn"], told["cntlid"]) == (A, NQN, a.cntlid)
            assert (told["opcode"], told["nsid"], told["lba"], told["nlb"]) == (Io.WRITE, HUNG, 16, 8)
            assert (told["stage"], told["disk"], told["orphan"]) == ("at the disk", "disk2", False)
    assert wait_for(lambda: all(c["orphan"] for c in control("inflight")[1:]))
    assert all(c["stage"] == "at the disk" for c in control("inflight")[1:])


def test_a_host_that_does_not_read_has_its_answers_in_the_socket(control):
    with Controller(control.address, NQN, io_queues=1, receive_buffer=4096) as host:
        reads = [host.io.submit(sqe.read(RAM, 0, 2048), read=2048 * 512) for _ in range(16)]
        assert wait_for(lambda: len(inflight(control)[1]) >= 8)
        _, found = inflight(control)
        stages = {c["stage"] for c in found.values()}
        assert stages == {"in the socket", "waiting for a buffer"}  # of which there is not one for all
        for read in reads:
            expect.status(host.io.wait(read), Sc.SUCCESS)
        assert wait_for(lambda: not inflight(control)[1])


def test_a_host_that_does_not_send_is_waited_for(control):
    with Controller(control.address, NQN, io_queues=1) as host:
        queue = host.io
        queue.answer_r2ts = False
        write = queue.submit(sqe.write(RAM, 0, MUCH), out=bytes(MUCH * 512))
        asked = queue.wait_r2t(write)
        assert inflight(control)[1][write.cid]["stage"] == "waiting for its data"
        assert inflight(control)[1][write.cid]["disk"] == "disk1"
        queue.send(*queue.data_pdus(write, asked))
        expect.status(queue.wait(write), Sc.SUCCESS)
        assert inflight(control)[1] == {}


def test_reactors_say_what_they_do(control):
    with Controller(control.address, NQN, io_queues=3) as host:
        for queue in host.queues:
            host.write(RAM, 0, bytes(512), queue=queue)
        fresh = Connection(control.address)
        assert wait_for(lambda: sum(r["unassociated"] for r in control("stats")) == 1)
        stats = control("stats")
        assert [(r["admin"] + r["io"]) for r in stats] == [2, 2]
        assert sum(r["all_admin"] for r in stats) == 1 and sum(r["all_io"] for r in stats) == 3
        assert sum(r["io_commands"] for r in stats) == 2 * 3  # Connect, and the write
        assert all(r["in_flight"] == 0 and r["buffer_free"] == r["buffer_bytes"] for r in stats)
        fresh.close()
    assert wait_for(lambda: not any(r["admin"] + r["io"] + r["unassociated"] for r in control("stats")))
    assert sum(r["io_commands"] for r in control("stats")) == 2 * 3


def test_nothing_is_told_before_the_start():
    with Control() as program:
        program("subsystem", NQN)
        for words in (("controllers", NQN), ("inflight",), ("stats",)):
            with pytest.raises(Refused):
                program(*words)
