# SPDX-License-Identifier: BSD-3-Clause
"""Streams cut at every byte, and streams that come byte by byte: the first are cleaned up after, the second work."""

import os

import pytest

import expect
import pdu
import sqe
from disks import RAM4K
from host import Controller, new_hostnqn
from nvmetcp import Connection, Queue
from spec import Sc
from target import wait_until

pytestmark = pytest.mark.usefixtures("undisturbed")
DIGESTS = pytest.mark.parametrize("digests", [False, True], ids=["plain", "digests"])


@pytest.fixture(autouse=True)
def nothing_left_behind(bystander, target):  # pylint: disable=unused-argument
    """Every connection that a test cut is gone from the target in the end."""
    before = target.descriptors()
    yield
    assert wait_until(lambda: target.descriptors() <= before), f"{target.descriptors()} descriptors, {before} before"


def leave(connection, index):
    """With FIN or with RST, in turns."""
    connection.reset() if index % 2 else connection.close()


def connect_stream(queue, target):
    command, capsule = queue.prepare(sqe.connect(), out=sqe.connect_data(target.nqn, new_hostnqn(), os.urandom(16)))
    return command, pdu.command(bytes(command.entry), capsule, queue.sent)


def test_icreq_cut_at_every_byte(target):
    stream = pdu.icreq()
    for length in range(len(stream) + 1):
        connection = Connection(target.address)
        connection.send(stream[:length])
        leave(connection, length)


@DIGESTS
def test_connect_cut_at_every_byte(target, digests):
    length, end = 0, 1
    while length <= end:
        queue = Queue(target.address, hdgst=digests, ddgst=digests)
        _, stream = connect_stream(queue, target)
        end = len(stream)
        queue.send(stream[:length])
        leave(queue, length)
        length += 1


def cut_on_io_queue(target, digests, make_stream):
    """Cuts what make_stream(queue) returns at every byte, each time on an I/O queue of its own."""
    length, end = 0, 1
    while length <= end:
        with Controller(target.address, target.nqn, hdgst=digests, ddgst=digests) as controller:
            queue = controller.new_queue()
            expect.status(controller.connect_queue(queue, 1), Sc.SUCCESS)
            stream = make_stream(queue)
            end = len(stream)
            queue.send(stream[:length])
            leave(queue, length)
        length += 1


@DIGESTS
def test_a_command_with_data_cut_at_every_byte(target, digests):
    """512 bytes of data, for a Write of the file, which has blocks of that size."""

    def make(queue):
        entry = sqe.with_sgl(sqe.write(3, 0, 1), sqe.in_capsule_sgl(512))
        return pdu.command(bytes(entry), bytes(512), queue.sent)

    cut_on_io_queue(target, digests, make)


@DIGESTS
def test_h2cdata_cut_at_every_byte(target, digests):

    def make(queue):
        queue.answer_r2ts = False
        write = queue.submit(sqe.write(3, 0, 1), out=bytes(512), in_capsule=False)
        return queue.data_pdus(write, queue.wait_r2t(write))[0]

    cut_on_io_queue(target, digests, make)


@DIGESTS
def test_a_cut_write_leaves_its_block_as_it_was(connect, digests):
    """A block is written when all of it is there, or not at all."""
    controller = connect(io_queues=1)
    controller.write(RAM4K, 7, b"\x10" * 4096, 4096)
    for length in (73, 100, 72 + 4095, 72 + 4096 - 1):
        victim = connect(io_queues=1, hdgst=digests, ddgst=digests)
        entry = sqe.with_sgl(sqe.write(RAM4K, 7, 1), sqe.in_capsule_sgl(4096))
        victim.io.send(pdu.command(bytes(entry), b"\x20" * 4096, victim.io.sent)[:length])
        victim.io.close()
        assert controller.read(RAM4K, 7, 1, 4096) == b"\x10" * 4096
        victim.close()
    controller.close()


# -- byte by byte ----------------------------------------------------------------------------------------------------


@DIGESTS
def test_a_conversation_byte_by_byte_works(target, digests):
    """ICReq, Connect, a write with data in the capsule, one by R2T, and a read."""
    with Controller(target.address, target.nqn, hdgst=digests, ddgst=digests) as controller:
        queue = DribbleQueue(target.address, digests)
        controller.queues.append(queue)
        expect.status(controller.connect_queue(queue, 1), Sc.SUCCESS)
        queue.in_capsule = 8192
        data = os.urandom(512)
        queue.must(sqe.write(3, 5, 1), out=data, in_capsule=True)
        assert queue.must(sqe.read(3, 5, 1), read=512).data == data
        data = os.urandom(1024)
        queue.must(sqe.write(3, 5, 2), out=data, in_capsule=False)
        assert queue.must(sqe.read(3, 5, 2), read=1024).data == data


class DribbleQueue(Queue):
    """Sends one byte a segment."""

    def __init__(self, address, digests):
        super().__init__(address, hdgst=digests, ddgst=digests)

    def send(self, *parts):
        for byte in b"".join(parts):
            super().send(bytes([byte]))


@pytest.mark.parametrize("step", [2, 3, 7, 8, 9, 23, 24, 25, 71, 72, 73, 127, 128, 129, 1000])
def test_a_conversation_in_steps_works(target, step):
    with Connection(target.address) as connection:
        stream = pdu.icreq()
        for start in range(0, len(stream), step):
            connection.send(stream[start:start + step])
        connection.receive_pdu()
    with Queue(target.address) as queue:
        command, stream = connect_stream(queue, target)
        for start in range(0, len(stream), step):
            queue.send(stream[start:start + step])
        expect.status(queue.wait(command), Sc.SUCCESS)


def test_icreq_and_connect_may_come_together(target):
    """A host may send Connect before it has seen ICResp only if it knows the outcome; its bytes are in order."""
    with Connection(target.address) as connection:
        data = sqe.connect_data(target.nqn, new_hostnqn(), os.urandom(16))
        entry = sqe.with_sgl(sqe.connect(), sqe.in_capsule_sgl(len(data)))
        connection.send(pdu.icreq(), pdu.command(bytes(entry), data))
        assert connection.receive_pdu().type == 1
        assert connection.receive_pdu().type == 5
