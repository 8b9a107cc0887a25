# SPDX-License-Identifier: BSD-3-Clause
"""Where two things meet: fused commands and aborts, memory that runs short and hosts that take their time, a stop and
what is in flight."""

import signal
import time

import expect
import pdu
import pytest
import sqe
from disks import MIB
from host import Controller
from nvmetcp import Connection
from spec import FUSE_FIRST, FUSE_SECOND, Sc
from target import Target

FAILED = (Sc.FAILED_FUSED, Sc.MISSING_FUSED)


@pytest.fixture(scope="module")
def ram():
    with Target("ram:64M") as target:
        yield target


@pytest.fixture
def host(ram):
    with Controller(ram.address, ram.nqn, io_queues=2) as controller:
        yield controller


# -- fused commands --------------------------------------------------------------------------------------------------


def test_halves_of_a_pair_that_executes_can_be_aborted(tmp_path):
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(4 * MIB))
    with Target(image) as target, Controller(target.address, target.nqn, io_queues=1, io_sqsize=127) as host:
        for _ in range(20):
            pair = [(sqe.compare(1, 8, 1, fuse=FUSE_FIRST), {"out": bytes(512), "in_capsule": True}),
                    (sqe.write(1, 8, 1, fuse=FUSE_SECOND), {"out": bytes(512), "in_capsule": True})]
            commands = host.io.submit_all(pair * 40)
            for command in commands[-1:-8:-1]:
                host.admin.must(sqe.abort(command.cid, 1))
            host.io.wait_all(commands)
        target.check_alive()


def test_an_aborted_first_half_leaves_other_hosts_alone(ram, host):
    one, other = host.queues
    one.answer_r2ts = other.answer_r2ts = False
    first = one.submit(sqe.compare(1, 8, 1, fuse=FUSE_FIRST), out=bytes(512), in_capsule=False)
    r2t = one.wait_r2t(first)
    host.admin.must(sqe.abort(first.cid, 1))
    expect.status(one.wait(first), Sc.ABORT_REQUESTED)
    one.send(*one.data_pdus(first, r2t))
    bystander = other.submit(sqe.write(1, 100, 16), out=b"\x55" * 8192, in_capsule=False)
    r2t = other.wait_r2t(bystander)
    one.must(sqe.read(1, 0, 1), read=512)
    other.answer(bystander, r2t)
    expect.status(other.wait(bystander), Sc.SUCCESS)


def test_a_first_half_does_not_wait_for_a_refused_second(host):
    first = host.io.submit(sqe.compare(1, 8, 1, fuse=FUSE_FIRST), out=bytes(512))
    second = host.io.submit(sqe.write(77, 8, 1, fuse=FUSE_SECOND), out=bytes(512))
    expect.status(host.io.wait(second), Sc.INVALID_NAMESPACE)
    expect.status(host.io.wait(first), *FAILED)


def test_a_first_half_does_not_wait_for_an_aborted_second(host):
    host.io.answer_r2ts = False
    first = host.io.submit(sqe.compare(1, 8, 1, fuse=FUSE_FIRST), out=bytes(512))
    second = host.io.submit(sqe.write(1, 8, 1, fuse=FUSE_SECOND), out=bytes(512), in_capsule=False)
    host.io.wait_r2t(second)
    host.admin.must(sqe.abort(second.cid, 1))
    expect.status(host.io.wait(second), Sc.ABORT_REQUESTED)
    expect.status(host.io.wait(first), *FAILED)


# -- memory ----------------------------------------------------------------------------------------------------------


def test_readers_that_do_not_read_take_no_buffers_from_others(ram):
    with Controller(ram.address, ram.nqn, io_queues=1) as healthy:
        with Controller(ram.address, ram.nqn, io_queues=20, receive_buffer=4096) as slow:
            for queue in slow.queues:
                queue.submit_all([(sqe.read(1, 0, 2048), {"read": MIB})] * 31)
            healthy.read(1, 0, 8)
            healthy.io.must(sqe.write(1, 0, 256), out=bytes(128 << 10))
            healthy.admin.must(sqe.keep_alive())


def test_the_largest_transfers_go_on_in_several_queues_at_once():
    with Target("ram:64M", options=("--max-io-size", "4M")) as target:
        with Controller(target.address, target.nqn, io_queues=3) as host:
            commands = [queue.submit(sqe.write(1, 0, 8192), out=bytes(4 * MIB)) for queue in host.queues]
            for queue, command in zip(host.queues, commands):
                expect.status(queue.wait(command), Sc.SUCCESS)


def test_hosts_that_all_answer_late_all_go_on(ram):
    with Controller(ram.address, ram.nqn, io_queues=3) as writer, \
            Controller(ram.address, ram.nqn, io_queues=4, receive_buffer=4096) as reader:
        asked = []
        for queue in writer.queues:
            queue.answer_r2ts = False
            commands = [queue.submit(sqe.write(1, 0, 2048), out=bytes(MIB)) for _ in range(2)]
            asked.append((queue, [(command, queue.wait_r2t(command)) for command in commands]))
        reads = [(queue, queue.submit_all([(sqe.read(1, 0, 2048), {"read": MIB})] * 8)) for queue in reader.queues]
        for queue, commands in asked:
            for command, r2t in commands:
                queue.answer(command, r2t)
            for command, _ in commands:
                expect.status(queue.wait(command), Sc.SUCCESS)
        for queue, commands in reads:
            queue.wait_all(commands)


def test_a_reader_that_was_slow_is_served_when_others_come():
    with Target("ram:64M", options=("--poll", "busy", "--peer-timeout", "20")) as target:
        with Controller(target.address, target.nqn, io_queues=0, receive_buffer=4096) as host:
            host.request_queues(2)
            queue = host.add_queue(1)
            commands = queue.submit_all([(sqe.read(1, 0, 2048), {"read": MIB})] * 16)
            time.sleep(0.5)  # its socket is full now, among few connections
            more = [Connection(target.address) for _ in range(4)]
            queue.wait_all(commands)
            for each in more:
                each.close()


# -- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kato", [0xFFFFFFFF, 0xFFFFFED4])
def test_a_keep_alive_timeout_of_any_length_is_kept(ram, kato):
    with Controller(ram.address, ram.nqn, kato=kato) as host:
        time.sleep(1.5)
        host.admin.must(sqe.keep_alive())


def test_commands_cut_in_their_headers_for_long_are_no_stop_in_a_pdu():
    with Target("ram:64M", options=("--peer-timeout", "5")) as target:
        with Controller(target.address, target.nqn, io_queues=1) as host:
            queue, carry = host.io, b""
            until = time.monotonic() + 12
            while time.monotonic() < until:
                command, capsule = queue.prepare(sqe.read(1, 0, 1), read=512)
                raw = pdu.command(bytes(command.entry), capsule, queue.sent)
                queue.send(carry + raw[:36])
                carry = raw[36:]
                queue.tail = (queue.tail + 1) % 32
                while len(queue.commands) > 1:
                    queue.step()
                time.sleep(0.05)


def test_a_write_that_was_asked_for_its_data_ends_before_a_stop():
    target = Target("ram:64M").start()
    host = Controller(target.address, target.nqn, io_queues=1)
    host.io.answer_r2ts = False
    write = host.io.submit(sqe.write(1, 0, 64), out=bytes(32768))
    r2t = host.io.wait_r2t(write)
    target.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    host.io.answer(write, r2t)
    expect.status(host.io.wait(write), Sc.SUCCESS)
    target.stop()
    host.close()
