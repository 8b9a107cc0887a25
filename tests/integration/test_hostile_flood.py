# SPDX-License-Identifier: BSD-3-Clause
"""Too much of everything: connections, commands, data nobody reads, and noise."""

import contextlib
import os
import random
import struct
import time

import pytest

import expect
import pdu
import sqe
from disks import FILE, MIB, RAM4K
from host import Controller, new_hostnqn
from nvmetcp import Closed, Connection, ProtocolError, Queue, Terminated
from spec import FUSE_FIRST, FUSE_SECOND, Fes, Sc, Type
from target import Target, sanitized, wait_until

pytestmark = pytest.mark.usefixtures("undisturbed")
UNCONNECTED = 512  # connections without Connect at once; the oldest goes for a new one


@pytest.fixture(autouse=True)
def memory_is_bounded(bystander, target):  # pylint: disable=unused-argument
    before = target.rss()
    yield
    grown = target.rss() - before
    assert sanitized() or grown < 64 * MIB, f"grown by {grown // MIB} MiB"


# -- connections -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("initialized", [False, True], ids=["bare", "after-icreq"])
def test_a_flood_of_connections_evicts_its_own_oldest(target, undisturbed, initialized):
    before = target.descriptors()
    connections = []
    for index in range(UNCONNECTED + 200):
        connections.append(Connection(target.address))
        if initialized:
            try:
                connections[-1].initialize()
            except Closed:
                raise AssertionError(f"connection {index} was refused: the oldest should go, not the newest") from None
    for connection in connections[:200]:
        connection.wait_closed()
    assert target.descriptors() <= before + UNCONNECTED + 8
    undisturbed.check()
    with Controller(target.address, target.nqn, io_queues=1) as controller:
        controller.read(RAM4K, 0, 1, 4096)
    for connection in connections:
        connection.close()
    assert wait_until(lambda: target.descriptors() <= before)


def test_a_host_can_connect_during_a_flood(target):
    connections = []
    for index in range(UNCONNECTED + 200):
        connections.append(Connection(target.address))
        if index % 50 == 49:
            with Controller(target.address, target.nqn, io_queues=2) as controller:
                controller.read(RAM4K, 0, 1, 4096)
    for connection in connections:
        connection.close()


def test_hosts_that_connected_are_not_evicted(target, connect):
    controllers = [connect(io_queues=1) for _ in range(5)]
    connections = [Connection(target.address) for _ in range(UNCONNECTED + 100)]
    for controller in controllers:
        controller.read(RAM4K, 0, 1, 4096)
        controller.admin.must(sqe.keep_alive())
    for connection in connections:
        connection.close()


def test_a_storm_of_connections_and_resets(target):
    before = target.descriptors()
    for index in range(1500):
        connection = Connection(target.address)
        if index % 3 == 1:
            connection.send(pdu.icreq())
        if index % 3 == 2:
            connection.send(os.urandom(16))
        connection.reset()
    assert wait_until(lambda: target.descriptors() <= before)


def test_many_connected_hosts_cost_little(target):
    before = target.rss()
    controllers = [Controller(target.address, target.nqn, io_queues=1) for _ in range(150)]
    for controller in controllers:
        controller.read(RAM4K, 0, 1, 4096)
    per_connection = (target.rss() - before) / 300
    for controller in controllers:
        controller.close()
    assert sanitized() or per_connection < 192 * 1024


def test_controllers_that_are_left_by_reset_are_cleaned_up(target):
    before = target.descriptors()
    for _ in range(100):
        controller = Controller(target.address, target.nqn, io_queues=1)
        controller.io.submit(sqe.write(RAM4K, 0, 64), out=bytes(262144))
        controller.io.reset()
        controller.admin.reset()
    assert wait_until(lambda: target.descriptors() <= before)


# -- commands --------------------------------------------------------------------------------------------------------


def test_a_command_id_in_use_conflicts_and_the_first_goes_on(connect):
    """Base figure 102: Command ID Conflict for the second."""
    queue = connect(io_queues=1).io
    queue.answer_r2ts = False
    first = queue.submit(sqe.write(RAM4K, 0, 4), out=b"\x31" * 16384, in_capsule=False, cid=77)
    request = queue.wait_r2t(first)
    second = sqe.with_cid(sqe.with_sgl(sqe.read(RAM4K, 0, 1), sqe.transport_sgl(4096)), 77)
    queue.send(pdu.command(bytes(second)))
    answer = queue.receive_pdu()
    assert answer.type == Type.RESP
    assert struct.unpack_from("<HH", answer.cqe, 12)[0] == 77
    assert struct.unpack_from("<H", answer.cqe, 14)[0] >> 1 & 0x7FF == Sc.ID_CONFLICT
    queue.answer(first, request)
    expect.status(queue.wait(first), Sc.SUCCESS)
    assert queue.must(sqe.read(RAM4K, 0, 1), read=4096).data == b"\x31" * 4096


def test_a_conflicting_command_with_data_in_its_capsule_writes_nothing(connect):
    queue = connect(io_queues=1).io
    queue.answer_r2ts = False
    queue.must(sqe.write(RAM4K, 50, 1), out=b"\x01" * 4096, in_capsule=True)
    first = queue.submit(sqe.write(RAM4K, 0, 4), out=bytes(16384), in_capsule=False, cid=5)
    queue.wait_r2t(first)
    entry = sqe.with_cid(sqe.with_sgl(sqe.write(RAM4K, 50, 1), sqe.in_capsule_sgl(4096)), 5)
    queue.send(pdu.command(bytes(entry), b"\x02" * 4096))
    answer = queue.receive_pdu()
    assert struct.unpack_from("<H", answer.cqe, 14)[0] >> 1 & 0x7FF == Sc.ID_CONFLICT
    assert queue.must(sqe.read(RAM4K, 50, 1), read=4096).data == b"\x01" * 4096


def test_an_id_in_use_by_an_event_request_conflicts(connect):
    admin = connect().admin
    admin.submit(sqe.aer(), cid=9)
    admin.send(pdu.command(bytes(sqe.with_cid(sqe.keep_alive(), 9))))
    answer = admin.receive_pdu()
    assert struct.unpack_from("<H", answer.cqe, 14)[0] >> 1 & 0x7FF == Sc.ID_CONFLICT
    admin.must(sqe.keep_alive())


def test_a_host_that_forgets_its_event_requests_can_shut_down(connect):
    """SPDK's host uses their identifiers for the properties that a shutdown takes."""
    controller = connect(io_queues=1)
    admin = controller.admin
    for cid in range(4):
        admin.submit(sqe.aer(), cid=cid)
    for cid, entry in enumerate([sqe.property_get(0x14), sqe.property_set(0x14, 0x460001 | 1 << 14),
                                 sqe.property_get(0x1C)]):
        admin.send(pdu.command(bytes(sqe.with_cid(entry, cid))))
        answer = admin.receive_pdu()
        cid_answered, status = struct.unpack_from("<HH", answer.cqe, 12)
        assert (cid_answered, status >> 1) == (cid, 0)
    assert struct.unpack_from("<I", answer.cqe, 0)[0] & 0xC == 0x8


@pytest.mark.parametrize("sqsize", [1, 3, 31])
@pytest.mark.parametrize("flow_control", [True, False], ids=["sqhd", "no-sqhd"])
def test_more_commands_than_the_queue_holds_are_fatal(connect, sqsize, flow_control):
    """Writes whose data never comes fill the queue for sure; the ring has sqsize + 1 entries."""
    controller = connect(io_queues=1, io_sqsize=sqsize, flow_control=flow_control)
    queue = controller.io
    queue.answer_r2ts = False
    entry = sqe.with_sgl(sqe.write(RAM4K, 0, 4), sqe.transport_sgl(16384))
    queue.send(*(pdu.command(bytes(sqe.with_cid(entry, cid))) for cid in range(sqsize + 20)))
    expect.terminated(queue, (Fes.SEQUENCE, expect.ANY))


def test_as_many_commands_as_the_queue_holds_are_fine(connect):
    controller = connect(io_queues=1, io_sqsize=31)
    queue = controller.io
    queue.answer_r2ts = False
    writes = queue.submit_all([(sqe.write(RAM4K, 0, 4), {"out": bytes(16384), "in_capsule": False})] * 31)
    for write in writes:
        queue.answer(write, queue.wait_r2t(write))
    for completion in queue.wait_all(writes):
        expect.status(completion, Sc.SUCCESS)


def test_a_host_that_does_not_read_is_held_back(connect, target, undisturbed):
    """Reads of 127 MiB a queue on eight queues, and nobody takes the data: the target must not hold it all."""
    if sanitized():
        pytest.skip("resident size says nothing under a sanitizer")
    before = target.rss()
    controllers = []
    for _ in range(8):
        controller = connect()
        queue = controller.new_queue(receive_buffer=4096)
        expect.status(controller.connect_queue(queue, 1, sqsize=127), Sc.SUCCESS)
        controllers.append(queue)
        queue.submit_all([(sqe.read(RAM4K, 0, 256), {"read": MIB})] * 127)
    time.sleep(0.5)
    undisturbed.check()
    assert target.rss() - before < 256 * MIB
    queue = controllers[0]
    try:  # the one that reads in the end gets all of it, unless it was dropped meanwhile
        for completion in queue.wait_all(list(queue.commands.values())):
            expect.status(completion, Sc.SUCCESS)
    except (Closed, Terminated):
        pass


def test_responses_nobody_reads_are_held_back(connect, target, undisturbed):
    """Flow control or not, a host that only sends is stopped by its own queue size or by TCP."""
    controller = connect()
    queue = controller.new_queue(receive_buffer=4096)
    expect.status(controller.connect_queue(queue, 1, sqsize=127, flow_control=False), Sc.SUCCESS)
    queue.socket.settimeout(1)
    stream = b"".join(pdu.command(bytes(sqe.with_cid(sqe.flush(RAM4K), cid))) for cid in range(64))
    before = target.rss()
    try:
        for _ in range(2000):
            queue.socket.sendall(stream)
    except OSError:
        pass
    undisturbed.check()
    assert sanitized() or target.rss() - before < 32 * MIB


# -- noise -----------------------------------------------------------------------------------------------------------


def drain(connection):
    """Finishes sending and receives until the target closes, whatever comes."""
    try:
        connection.finish()
        connection.socket.settimeout(30)
        while connection.socket.recv(1 << 16):
            pass
    except TimeoutError:
        raise AssertionError("a connection whose host has finished is not closed") from None
    except OSError:
        pass
    finally:
        connection.close()


@pytest.mark.parametrize("seed", range(4))
def test_noise_instead_of_icreq(target, seed):
    rng = random.Random(seed)
    for _ in range(100):
        connection = Connection(target.address)
        connection.send(rng.randbytes(rng.choice([1, 8, 24, 72, 128, 1000, 10000])))
        drain(connection)


@pytest.mark.parametrize("seed", range(4))
def test_noise_after_icreq(target, seed):
    rng = random.Random(100 + seed)
    for _ in range(100):
        connection = Connection(target.address)
        connection.initialize(hdgst=rng.random() < 0.3, ddgst=rng.random() < 0.3, hpda=rng.randrange(32))
        connection.send(rng.randbytes(rng.choice([8, 24, 72, 1000, 10000])))
        drain(connection)


def noisy_pdu(rng):
    """A PDU whose common header is nearly right."""
    kind = rng.choice([Type.CMD] * 4 + [Type.H2C_DATA] * 3 + list(Type))
    hlen = {Type.CMD: 72, Type.ICREQ: 128, Type.ICRESP: 128}.get(kind, 24)
    body = rng.randbytes(hlen - 8)
    data = rng.randbytes(rng.choice([0, 0, 4, 512, 4096]))
    wrong = {}
    if rng.random() < 0.3:
        wrong[rng.choice(["hlen", "pdo", "flags_exact"])] = rng.randrange(256)
    if rng.random() < 0.2:
        wrong["plen"] = rng.choice([rng.randrange(200), rng.randrange(1 << 32)])
    return pdu.encode(kind, body, data, **wrong)


@pytest.mark.parametrize("seed", range(4))
def test_noise_in_the_shape_of_pdus(target, seed):
    rng = random.Random(200 + seed)
    for _ in range(100):
        connection = Connection(target.address)
        connection.initialize()
        for _ in range(rng.randrange(1, 6)):
            connection.send(noisy_pdu(rng))
        drain(connection)


@pytest.mark.parametrize("seed", range(4))
def test_a_good_stream_with_flipped_bits(target, seed):
    """ICReq and Connect with a few bits changed anywhere."""
    rng = random.Random(300 + seed)
    data = sqe.connect_data(target.nqn, new_hostnqn(), rng.randbytes(16))
    entry = sqe.with_sgl(sqe.connect(), sqe.in_capsule_sgl(len(data)))
    good = pdu.icreq() + pdu.command(bytes(entry), data) + pdu.command(bytes(sqe.property_get(0, 8)))
    for _ in range(100):
        stream = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            stream[rng.randrange(len(stream))] ^= 1 << rng.randrange(8)
        connection = Connection(target.address)
        connection.send(stream)
        drain(connection)


class LooseQueue(Queue):
    """Feeds every R2T with zeroes and believes any data: for commands that nobody thought up."""

    def _r2t(self, received):
        self.send(pdu.h2c_data(received.cccid, received.ttag, received.r2to, bytes(received.r2tl), True, self.sent))

    def _data(self, received):
        if received.success:
            self.commands.pop(received.cccid, None)


def random_entry(rng, opcodes):
    """A command with random fields, most of them plausible. It never writes to the healthy host's namespace."""
    entry = bytearray(rng.randbytes(64))
    entry[0] = rng.choice(opcodes)
    entry[1] = 0x40 | (rng.randrange(4) if rng.random() < 0.1 else 0)
    struct.pack_into("<I", entry, 4, rng.choice([0, RAM4K, RAM4K, FILE, FILE, 9, 0xFFFFFFFF]))
    length = rng.choice([0, 4, 512, 4096, 8192, 65536])
    kind = rng.choice([0x5A, 0x5A, 0x5A, 0x01, rng.randrange(256)])
    entry[24:40] = sqe.sgl(kind, length, rng.choice([0, 0, rng.getrandbits(64)]))
    for dword in range(10, 16):
        value = rng.choice([0, 1, rng.randrange(256), rng.randrange(1 << 16), rng.getrandbits(32)])
        struct.pack_into("<I", entry, 4 * dword, value)
    return entry


@pytest.mark.parametrize("which,opcodes", [
    ("io", [0, 1, 2, 5, 8, 9, 0x0C, 0x19, 0x0D, 0x79, 0x7A, 0x7D, 0x7F, 0xFF]),
    ("admin", [2, 6, 8, 9, 0x0A, 0x18, 0x7F, 0x80, 0x0C, 0xC1])])
@pytest.mark.parametrize("seed", range(3))
def test_random_commands_are_all_answered(target, which, opcodes, seed):
    """Each command completes, with whatever status, or the connection ends in order."""
    rng = random.Random(400 + seed)
    done = 0
    while done < 300:
        with Controller(target.address, target.nqn) as controller:
            queue = LooseQueue(target.address)
            controller.queues.append(queue)
            if which == "io":
                completion = controller.connect_queue(queue, 1)
            else:
                completion = queue.connect(target.nqn, controller.hostnqn, controller.hostid)
                queue.property_set(0x14, 0x460001)
                queue.wait_property(0x1C, 1, 1)
            expect.status(completion, Sc.SUCCESS)
            try:
                while done < 300:
                    done += 1
                    entry = random_entry(rng, opcodes)
                    out = rng.randbytes(rng.choice([0, 512, 4096])) if entry[39] == 0x01 else b""
                    command, capsule = queue.prepare(entry, out, raw_sgl=True, in_capsule=True, exact=False)
                    queue.send(pdu.command(bytes(command.entry), capsule, queue.sent))
                    if entry[1] & 3 or (entry[0] == 0x0C and which == "admin"):
                        continue  # the first of a pair waits for the second; event requests wait for events
                    while command.completion is None and command.cid in queue.commands:
                        queue.step()
                    queue.commands.pop(command.cid, None)
            except (Closed, Terminated, ProtocolError) as error:
                assert not isinstance(error, ProtocolError) or "not in flight" in str(error), error


# -- memory ----------------------------------------------------------------------------------------------------------


def test_data_of_an_aborted_write_is_not_waited_for_once_its_id_is_used_again(tmp_path):
    """While memory is short nothing is received but answers to R2Ts. A host that uses the identifier of an aborted
    write again sends its data no more: its commands wait, then, as those of others do."""
    size = 64 * 1024
    disk = tmp_path / "disk"
    disk.touch()
    os.truncate(disk, 64 * MIB)
    with Target(disk, options=("--cores", 1, "--in-capsule", "64K")) as target, \
            Controller(target.address, target.nqn, io_queues=1) as controller, contextlib.ExitStack() as stack:
        hoarders = [stack.enter_context(Controller(target.address, target.nqn, io_queues=65)) for _ in range(4)]
        hoard = [queue for hoarder in hoarders for queue in hoarder.queues]
        queue = controller.io
        queue.answer_r2ts = False
        write = queue.submit(sqe.write(1, 0, 32), out=bytes(16384), in_capsule=False, cid=5)
        queue.wait_r2t(write)
        controller.admin.must(sqe.abort(5, sqid=1))
        expect.status(queue.wait(write), Sc.ABORT_REQUESTED)
        expect.status(queue.execute(sqe.flush(1), cid=5), Sc.SUCCESS)
        for each in hoard:  # 256 buffers are all of them, of which the disk has its share
            command, data = each.prepare(sqe.write(1, 0, size // 512), bytes(size), in_capsule=True)
            each.send(pdu.command(bytes(command.entry), data)[:100])
        for _ in range(10):
            flush = queue.submit(sqe.flush(1))
            if not queue.pending(0.5):
                break
            expect.status(queue.wait(flush), Sc.SUCCESS)
        else:
            raise AssertionError("commands are received though there is no memory")
        for each in hoard:
            each.close()
        expect.status(queue.wait(flush), Sc.SUCCESS)


def test_halves_of_fused_commands_are_held_up_to_a_share():
    """First halves that come in capsules, and second halves whose data never comes. An eighth of 16 MiB is 256 buffers;
    what is beyond is to be tried again."""
    pairs, share = 300, 256
    with Target("ram:64M", options=("--queue-depth", 1024)) as target, \
            Controller(target.address, target.nqn, io_queues=1, io_sqsize=1023) as controller:
        queue = controller.io
        queue.answer_r2ts = False
        commands = queue.submit_all([
            (entry(1, lba, 1, fuse=fuse), {"out": bytes(512), "in_capsule": fuse == FUSE_FIRST}) for lba in range(pairs)
            for entry, fuse in ((sqe.compare, FUSE_FIRST), (sqe.write, FUSE_SECOND))])
        for first, second in zip(commands[2 * share::2], commands[2 * share + 1::2]):
            expect.status(queue.wait(first), Sc.INTERRUPTED)
            expect.status(queue.wait(second), Sc.FAILED_FUSED)
        for first, second in zip(commands[:2 * share:2], commands[1:2 * share:2]):
            queue.answer(second, queue.wait_r2t(second))
            expect.status(queue.wait(first), Sc.SUCCESS)
            expect.status(queue.wait(second), Sc.SUCCESS)
