# SPDX-License-Identifier: BSD-3-Clause
"""Queues that are full, submission queue flow control, and digests that are wrong (Base 3.3.2, 6.3; TCP 3.5)."""

import os

import pytest

import expect
import pdu
import sqe
from disks import FILE, RAM
from nvmetcp import Queue
from spec import Fes, Sc

WRONG = 0xBAD0CAFE


# -- flow control ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sqsize", [1, 3, 31, 127])
def test_sqhd_follows_every_command(connect, sqsize):
    """With one command at a time the head is where the tail is, around the ring and on."""
    controller = connect(io_queues=1, io_sqsize=sqsize)
    queue = controller.io
    for _ in range(2 * sqsize + 5):
        completion = queue.must(sqe.read(RAM, 0, 1), read=512)
        assert completion.sqhd == queue.tail


@pytest.mark.parametrize("sqsize", [1, 7, 31, 127])
def test_a_full_queue_is_served(connect, sqsize):
    """A ring of sqsize + 1 entries is full with sqsize commands (Base 3.3.1.5)."""
    controller = connect(io_queues=1, io_sqsize=sqsize)
    for _ in range(3):
        commands = controller.io.submit_all([(sqe.read(RAM, index, 1), {"read": 512}) for index in range(sqsize)])
        for completion in controller.io.wait_all(commands):
            expect.status(completion, Sc.SUCCESS)
        assert controller.io.head == controller.io.tail


def test_sqhd_never_runs_ahead_of_the_commands(connect):
    """Each response says how far the controller has come: never beyond what was sent, never back."""
    controller = connect(io_queues=1, io_sqsize=63)
    queue = controller.io
    sent = consumed = 0
    start = queue.tail
    for _ in range(10):
        commands = queue.submit_all([(sqe.read(RAM, 0, 8), {"read": 4096})] * 40)
        sent += 40
        for command in commands:
            completion = queue.wait(command)
            step = (completion.sqhd - start - consumed) % 64
            assert consumed + step <= sent
            consumed += step
    assert consumed == sent


def test_the_admin_queue_has_flow_control_of_its_own(connect):
    controller = connect(sqsize=31)
    for _ in range(70):
        controller.admin.must(sqe.keep_alive())
        assert controller.admin.head == controller.admin.tail


def test_without_flow_control_sqhd_is_not_looked_at(connect):
    controller = connect(io_queues=1, flow_control=False)
    for _ in range(100):
        controller.write(RAM, 0, bytes(512))
        controller.read(RAM, 0, 1)


def test_writes_on_a_full_queue_all_get_their_data_through(connect):
    """Far more data than buffers, perhaps: R2Ts then come as there is room, and all come."""
    controller = connect(io_queues=1, io_sqsize=127)
    size = 256 * 1024
    batch = [(sqe.write(RAM, index * 512, 512), {"out": bytes([index]) * size}) for index in range(100)]
    for completion in controller.io.wait_all(controller.io.submit_all(batch)):
        expect.status(completion, Sc.SUCCESS)
    for index in range(0, 100, 9):
        assert controller.read(RAM, index * 512, 512) == bytes([index]) * size


def test_unanswered_r2ts_do_not_stop_reads_on_the_same_queue(connect):
    controller = connect(io_queues=1, io_sqsize=63)
    queue = controller.io
    queue.answer_r2ts = False
    writes = [queue.submit(sqe.write(RAM, 0, 64), out=bytes(32768)) for _ in range(8)]
    for _ in range(20):
        queue.must(sqe.read(RAM, 0, 8), read=4096)
    for write in writes:
        queue.answer(write, queue.wait_r2t(write))
        expect.status(queue.wait(write), Sc.SUCCESS)


def test_r2ts_may_be_answered_in_any_order(connect):
    """TCP 3.3.2.2: R2Ts of different commands may be serviced in any order, and interleaved."""
    controller = connect(io_queues=1)
    queue = controller.io
    queue.answer_r2ts = False
    writes = [queue.submit(sqe.write(RAM, 64 * index, 64), out=os.urandom(32768)) for index in range(6)]
    pieces = {write.cid: queue.data_pdus(write, queue.wait_r2t(write), piece=5000) for write in reversed(writes)}
    while any(pieces.values()):
        for cid in sorted(pieces, reverse=True):
            if pieces[cid]:
                queue.send(pieces[cid].pop(0))
    for completion in queue.wait_all(writes):
        expect.status(completion, Sc.SUCCESS)
    for index, write in enumerate(writes):
        assert controller.read(RAM, 64 * index, 64) == write.out


def test_cids_need_not_be_small_or_in_order(connect):
    controller = connect(io_queues=1)
    for cid in (0xFFFE, 0, 0x8000, 0x7FFF, 1234, 0xFFFE):
        assert controller.io.must(sqe.read(RAM, 0, 1), read=512, cid=cid).cid == cid


def test_capsules_may_come_in_one_piece_or_in_many(connect):
    controller = connect(io_queues=1)
    queue = controller.io
    prepared = [queue.prepare(sqe.write(RAM, index, 1), out=bytes([index]) * 512) for index in range(20)]
    stream = b"".join(pdu.command(bytes(command.entry), capsule, queue.sent) for command, capsule in prepared)
    for start in range(0, len(stream), 97):
        queue.send(stream[start:start + 97])
    for completion in queue.wait_all([command for command, _ in prepared]):
        expect.status(completion, Sc.SUCCESS)
    for index in range(20):
        assert controller.read(RAM, index, 1) == bytes([index]) * 512


# -- digests ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def digested(connect):
    return connect(io_queues=1, hdgst=True, ddgst=True)


def test_a_wrong_data_digest_in_a_capsule_fails_the_command_only(digested):
    """TCP 3.5, Digest Error handling: non-fatal; the command fails with Transient Transport Error."""
    queue = digested.io
    digested.write(RAM, 5, b"\x44" * 512)
    command, capsule = queue.prepare(sqe.write(RAM, 5, 1), out=b"\x99" * 512)
    queue.send(pdu.command(bytes(command.entry), capsule, queue.sent, ddgst=WRONG))
    completion = expect.status(queue.wait(command), Sc.TRANSIENT_TRANSPORT)
    assert not completion.dnr
    assert digested.read(RAM, 5, 1) == b"\x44" * 512


def test_a_wrong_data_digest_of_an_admin_command_fails_the_command_only(digested):
    queue = digested.admin
    command, capsule = queue.prepare(sqe.set_features(0x16), out=bytes(512))
    queue.send(pdu.command(bytes(command.entry), capsule, queue.sent, ddgst=WRONG))
    expect.status(queue.wait(command), Sc.TRANSIENT_TRANSPORT)
    queue.must(sqe.keep_alive())


def test_a_wrong_data_digest_of_connect_fails_connect_only(target):
    with Queue(target.address, ddgst=True) as queue:
        command, capsule = queue.prepare(sqe.connect(),
                                         out=sqe.connect_data(target.nqn, "nqn.2014-08.org.nvmexpress:host"))
        queue.send(pdu.command(bytes(command.entry), capsule, queue.sent, ddgst=WRONG))
        expect.status(queue.wait(command), Sc.TRANSIENT_TRANSPORT)
        expect.status(queue.connect(target.nqn, "nqn.2014-08.org.nvmexpress:host"), Sc.SUCCESS)


@pytest.mark.parametrize("nsid", [RAM, FILE], ids=["ram", "file"])
@pytest.mark.parametrize("bad", [0, 1, 2, 3], ids=["first", "second", "third", "last"])
def test_a_wrong_data_digest_in_h2cdata_fails_the_command_only(digested, nsid, bad):
    """The rest of the data still comes; nothing of the command may reach the medium half (a block is old or new)."""
    queue = digested.io
    queue.answer_r2ts = False
    digested_before = b"\x12" * 32768
    queue.answer_r2ts = True
    digested.write(nsid, 0, digested_before)
    queue.answer_r2ts = False
    write = queue.submit(sqe.write(nsid, 0, 64), out=b"\x34" * 32768)
    request = queue.wait_r2t(write)
    for index in range(4):
        wrong = {"ddgst": WRONG} if index == bad else {}
        queue.send(pdu.h2c_data(write.cid, request.ttag, index * 8192, b"\x34" * 8192, index == 3, queue.sent, **wrong))
    expect.status(queue.wait(write), Sc.TRANSIENT_TRANSPORT)
    queue.answer_r2ts = True
    assert digested.read(nsid, 0, 64) == digested_before


def test_many_wrong_data_digests_leave_nothing_behind(digested):
    queue = digested.io
    for _ in range(100):
        command, capsule = queue.prepare(sqe.write(RAM, 5, 8), out=bytes(4096))
        queue.send(pdu.command(bytes(command.entry), capsule, queue.sent, ddgst=WRONG))
        expect.status(queue.wait(command), Sc.TRANSIENT_TRANSPORT)
    digested.write(RAM, 0, os.urandom(1 << 20))


@pytest.mark.parametrize("queue_of", ["admin", "io"])
def test_a_wrong_header_digest_is_fatal(digested, queue_of):
    """FEI is the digest that was received (TCP 3.6.2.5)."""
    queue = getattr(digested, queue_of)
    sent = pdu.command(bytes(sqe.keep_alive()), b"", queue.sent, hdgst=WRONG)
    queue.send(sent)
    expect.terminated(queue, (Fes.HEADER_DIGEST, WRONG), header=sent)


def test_a_wrong_header_digest_of_h2cdata_is_fatal(digested):
    queue = digested.io
    queue.answer_r2ts = False
    write = queue.submit(sqe.write(RAM, 0, 64), out=bytes(32768))
    request = queue.wait_r2t(write)
    sent = pdu.h2c_data(write.cid, request.ttag, 0, bytes(32768), True, queue.sent, hdgst=WRONG)
    queue.send(sent)
    expect.terminated(queue, (Fes.HEADER_DIGEST, WRONG), header=sent)


def test_a_header_changed_under_its_digest_is_fatal(digested):
    queue = digested.io
    sent = bytearray(pdu.command(bytes(sqe.read(RAM, 0, 1)), b"", queue.sent))
    sent[48] ^= 1
    queue.send(sent)
    expect.terminated(queue, (Fes.HEADER_DIGEST, expect.ANY), header=sent)
