# SPDX-License-Identifier: BSD-3-Clause
"""Hosts that stop: the target waits --peer-timeout for them, here five seconds, and not at all for those who only rest.
The limits of the tests are far above it; no test depends on how long anything takes."""

import os
import time

import pytest

import expect
import pdu
import sqe
from disks import RAM4K
from host import Controller, new_hostnqn
from nvmetcp import Closed, Connection, Queue, Terminated
from spec import FUSE_FIRST, Sc
from target import wait_until

OPTIONS = ("--peer-timeout", "5")
LIMIT = 30
pytestmark = pytest.mark.usefixtures("undisturbed")


class Silent:
    """All the ways to stop, each on connections of its own. Set up together, so that their limits run at once."""

    ICREQ = (1, 7, 8, 9, 64, 127)
    CONNECT = (1, 8, 71, 72, 73, 500, 1095)
    COMMAND = (1, 7, 8, 40, 71)
    CAPSULE = (72, 73, 2000, 72 + 4095)
    H2CDATA = (1, 8, 23, 24, 25, 4000, 24 + 32767)

    def __init__(self, target):
        self.target = target
        self.controllers = []
        self.kinds = {
            "says nothing": [Connection(target.address)],
            "stops within ICReq": [self.within_icreq(length) for length in self.ICREQ],
            "stops after ICReq": [self.after_icreq()],
            "stops within Connect": [self.within_connect(length) for length in self.CONNECT],
            "never sends the data of Connect": [self.connect_r2t()],
            "stops within an admin command": [self.within_command(length, admin=True) for length in self.COMMAND],
            "stops within an I/O command": [self.within_command(length) for length in self.COMMAND],
            "stops within the data of a command": [self.within_capsule(length) for length in self.CAPSULE],
            "stops within H2CData": [self.within_h2cdata(length) for length in self.H2CDATA],
            "does not answer an R2T": [self.within_h2cdata(0)],
            "answers half of an R2T": [self.half_an_answer()],
            "leaves a fused command half done": [self.half_a_pair(in_capsule) for in_capsule in (True, False)],
        }

    KINDS = ["says nothing", "stops within ICReq", "stops after ICReq", "stops within Connect",
             "never sends the data of Connect", "stops within an admin command", "stops within an I/O command",
             "stops within the data of a command", "stops within H2CData", "does not answer an R2T",
             "answers half of an R2T", "leaves a fused command half done"]

    def within_icreq(self, length):
        connection = Connection(self.target.address)
        connection.send(pdu.icreq()[:length])
        return connection

    def after_icreq(self):
        connection = Connection(self.target.address)
        connection.initialize()
        return connection

    def within_connect(self, length):
        queue = Queue(self.target.address)
        command, capsule = queue.prepare(sqe.connect(), out=sqe.connect_data(self.target.nqn, new_hostnqn()))
        queue.send(pdu.command(bytes(command.entry), capsule)[:length])
        return queue

    def connect_r2t(self):
        queue = Queue(self.target.address)
        queue.answer_r2ts = False
        queue.submit(sqe.connect(), out=sqe.connect_data(self.target.nqn, new_hostnqn()), in_capsule=False)
        return queue

    def queue(self, admin=False):
        self.controllers.append(Controller(self.target.address, self.target.nqn, io_queues=1))
        queue = self.controllers[-1].admin if admin else self.controllers[-1].io
        queue.answer_r2ts = False
        return queue

    def within_command(self, length, admin=False):
        queue = self.queue(admin)
        queue.send(pdu.command(bytes(sqe.keep_alive()))[:length])
        return queue

    def within_capsule(self, length):
        queue = self.queue()
        entry = sqe.with_sgl(sqe.write(RAM4K, 0, 1), sqe.in_capsule_sgl(4096))
        queue.send(pdu.command(bytes(entry), bytes(4096))[:length])
        return queue

    def within_h2cdata(self, length):
        queue = self.queue()
        write = queue.submit(sqe.write(RAM4K, 0, 8), out=bytes(32768))
        queue.send(b"".join(queue.data_pdus(write, queue.wait_r2t(write)))[:length])
        return queue

    def half_an_answer(self):
        queue = self.queue()
        write = queue.submit(sqe.write(RAM4K, 0, 8), out=bytes(32768))
        queue.send(queue.data_pdus(write, queue.wait_r2t(write), piece=4096)[0])
        return queue

    def half_a_pair(self, in_capsule):
        queue = self.queue()
        queue.answer_r2ts = True
        queue.submit(sqe.compare(RAM4K, 0, 1, fuse=FUSE_FIRST), out=bytes(4096), in_capsule=in_capsule)
        if not in_capsule:
            queue.step()  # the R2T
        return queue

    def close(self):
        for connection in (*self.controllers, *(each for some in self.kinds.values() for each in some)):
            connection.close()


@pytest.fixture(scope="module")
def silent(target, bystander):  # pylint: disable=unused-argument
    hosts = Silent(target)
    yield hosts
    hosts.close()


@pytest.mark.parametrize("kind", Silent.KINDS)
def test_a_host_is_dropped_that(silent, kind):
    for connection in silent.kinds[kind]:
        connection.wait_closed()


def test_a_host_that_only_fails_to_connect_is_dropped(target):
    """Refused Connects are no way to stay."""
    with Queue(target.address) as queue:
        end = time.monotonic() + LIMIT
        try:
            while time.monotonic() < end:
                expect.status(queue.connect("nqn.2014-08.org.nvmexpress:nobody", new_hostnqn()), Sc.CONNECT_INVALID)
                time.sleep(0.05)
        except (Closed, Terminated):
            return
        raise AssertionError("still there")


def test_dribbling_icreq_is_no_way_to_stay(target):
    """One byte now and then: the limit is for the whole, not for each byte."""
    with Connection(target.address) as connection:
        for index in range(128):
            connection.send(pdu.icreq()[index:index + 1])
            if connection.pending(0.3):
                break
        else:
            raise AssertionError("still there")
        connection.wait_closed()


def test_a_host_that_does_not_answer_r2ts_is_dropped_though_it_reads(connect):
    """Other traffic on the queue does not excuse it."""
    queue = connect(io_queues=1).io
    queue.answer_r2ts = False
    write = queue.submit(sqe.write(RAM4K, 0, 8), out=bytes(32768))
    queue.wait_r2t(write)
    end = time.monotonic() + LIMIT
    try:
        while time.monotonic() < end:
            queue.must(sqe.read(RAM4K, 0, 1), read=4096)
            time.sleep(0.05)
    except (Closed, Terminated):
        return
    raise AssertionError("still there")


def test_many_hosts_that_hoard_r2ts_leave_room_for_others(connect, target, undisturbed):
    """Each asks for as much as its queue holds and sends nothing. The healthy one writes through R2Ts meanwhile."""
    controllers = [connect(io_queues=1, io_sqsize=127) for _ in range(6)]
    for controller in controllers:
        controller.io.answer_r2ts = False
        controller.io.submit_all([(sqe.write(RAM4K, 0, 256), {"out": bytes(1 << 20)})] * 100)
    undisturbed.check()
    with Controller(target.address, target.nqn, io_queues=1) as fresh:
        data = os.urandom(1 << 20)
        fresh.write(RAM4K, 1024, data, 4096)
        assert fresh.read(RAM4K, 1024, 256, 4096) == data
    for controller in controllers:
        controller.io.wait_closed()


def test_a_host_that_only_rests_stays(connect):
    """Nothing is owed to anybody: an idle host is limited by its keep alive timeout alone."""
    controllers = [connect(io_queues=2), connect(io_queues=2, flow_control=False), connect(enable=False)]
    waiting = controllers[0].admin.submit(sqe.aer())
    time.sleep(8)
    for controller in controllers[:2]:
        for queue in controller.queues:
            queue.must(sqe.read(RAM4K, 0, 1), read=4096)
        controller.admin.must(sqe.keep_alive())
    assert waiting.completion is None
    controllers[2].enable()


def test_a_slow_host_that_makes_progress_stays(connect):
    """4 KiB every 400 ms is slow, but it is progress: each R2T is answered within the limit, if not all of them."""
    queue = connect(io_queues=1).io
    queue.answer_r2ts = False
    for _ in range(4):
        write = queue.submit(sqe.write(RAM4K, 0, 4), out=bytes(16384), in_capsule=False)
        for piece in queue.data_pdus(write, queue.wait_r2t(write), piece=4096):
            queue.send(piece)
            time.sleep(0.4)
        expect.status(queue.wait(write), Sc.SUCCESS)


def test_dropped_hosts_leave_nothing_behind(target, connect):
    before = target.descriptors()
    connections = [Connection(target.address) for _ in range(20)]
    queues = [connect(io_queues=1).io for _ in range(3)]
    for queue in queues:
        queue.answer_r2ts = False
        queue.wait_r2t(queue.submit(sqe.write(RAM4K, 0, 8), out=bytes(32768)))
    for connection in (*connections, *queues):
        connection.wait_closed()
    for connection in connections:
        connection.close()
    # The admin queues of the three may live on, or go with their I/O queues.
    assert wait_until(lambda: target.descriptors() <= before + 3)
