# SPDX-License-Identifier: BSD-3-Clause
"""Disks over vhost-user, as correct front-ends use them."""
import os
import struct

import pytest
import vhost
from target import Target, wait_until
from vhost import (ADD_MEM_REG, DISCARD, FLUSH, GET_CONFIG, GET_ID, GET_MAX_MEM_SLOTS, GET_QUEUE_NUM, GET_STATUS, GUEST,
                   IN, IOERR, MIB, OK, OUT, REM_MEM_REG, RESET_DEVICE, SET_BACKEND_REQ_FD, SET_LOG_BASE, SET_STATUS,
                   SET_VRING_CALL, SET_VRING_ENABLE, SET_VRING_KICK, UNSUPP, USER, WRITE, WRITE_ZEROES, Frontend)

KINDS = pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])


@pytest.fixture(scope="module")
def sockets(tmp_path_factory):
    return tmp_path_factory.mktemp("vhost")


@pytest.fixture(scope="module")
def target(sockets, tmp_path_factory):
    """A disk of each kind; two cores where there are."""
    image = tmp_path_factory.mktemp("disk") / "disk.img"
    with open(image, "wb") as file:
        file.truncate(64 * MIB)
    cores = sorted(os.sched_getaffinity(0))[:2]
    with Target("ram:64M", "ram:64M?block=4096", image, "null:1T",
                options=["--vhost", sockets, "-m", ",".join(map(str, cores))]) as running:
        yield running


@pytest.fixture
def connect(target, sockets):
    made = []

    def make(disk="ram0", **options):
        made.append(Frontend(sockets / disk, **options))
        return made[-1]

    yield make
    for front in made:
        front.close()


@KINDS
def test_data_comes_back(connect, packed):
    front = connect(packed=packed).start(queues=2)
    data = os.urandom(64 << 10)
    assert front.write(128, data) == OK
    assert front.read(128, len(data), queue=1) == (OK, data)
    assert front.read(129, 512) == (OK, data[512:1024])


@KINDS
@pytest.mark.parametrize("disk", ["ram0", "ram1", "disk.img"])
def test_a_ring_goes_round_and_round(connect, packed, disk):
    """Many requests at once, in chains of several segments; indices pass the end of the ring."""
    front = connect(disk, packed=packed).start(size=32)
    ring, sector = front.queues[0].ring, 0
    for turn in range(40):
        expected = {}
        mark = front.memory.next
        for n in range(7):
            data = os.urandom(8192)
            parts, at, status = front.request(OUT, sector + 16 * n, data)
            head, (_, _, _), tail = parts
            split = [head, (at, 4096, 0), (at + 4096, 4096, 0), tail]
            expected[ring.add(split)] = status, data
        front.queues[0].notify()
        for _ in range(7):
            ident, length = front.queues[0].wait()
            status, _ = expected[ident]
            assert (front.status(status), length) == (OK, 1), turn
        for n, (_, data) in enumerate(expected.values()):
            assert front.read(sector + 16 * n, 8192) == (OK, data)
        front.memory.next = mark


@KINDS
def test_indices_pass_two_to_the_sixteenth(connect, packed):
    front = connect(packed=packed)
    front.share()
    queue = vhost.Queue((vhost.PackedRing if packed else vhost.SplitRing)(front.memory, 16))
    if not packed:
        queue.ring.start_at(0xfffa)
    front.queues.append(queue)
    front.start_ring(0, queue)
    for n in range(20):
        assert front.write(n, bytes([n]) * 512) == OK
    for n in range(20):
        assert front.read(n, 512) == (OK, bytes([n]) * 512)


@KINDS
def test_indirect_tables(connect, packed):
    front = connect(packed=packed).start()
    data = os.urandom(4096)
    assert front.run(OUT, 8, out=data, indirect=True)[0] == OK
    assert front.run(IN, 8, into=4096, indirect=True)[:2] == (OK, data)


def test_the_header_and_the_status_may_be_anywhere(connect):
    """Where descriptors begin and end means nothing (virtio 1.2, 2.7.4.2)."""
    front = connect().start()
    data = os.urandom(1024)
    block = front.memory.take(16 + 1024)
    front.memory.put(block, struct.pack("<IIQ", OUT, 0, 77) + data)
    status = front.memory.take(1)
    front.submit([(block, 5, 0), (block + 5, 700, 0), (block + 705, 335, 0), (status, 1, WRITE)])
    front.queues[0].wait()
    assert front.status(status) == OK
    head = front.memory.take(16)
    front.memory.put(head, struct.pack("<IIQ", IN, 0, 77))
    into = front.memory.take(1025)
    front.submit([(head, 16, 0), (into, 1000, WRITE), (into + 1000, 25, WRITE)])
    assert front.queues[0].wait()[1] == 1025
    assert front.memory.get(into, 1025) == data + b"\0"


@KINDS
def test_lengths_of_what_was_written(connect, packed):
    front = connect(packed=packed).start()
    assert front.run(IN, 0, into=4096)[2] == 4097
    assert front.run(OUT, 0, out=bytes(4096))[2] == 1
    assert front.run(IN, 1 << 40, into=4096)[2] == 1, "nothing was read"
    for _ in range(64):  # whatever a request of that number did before
        assert (front.run(IN, 0, into=4096)[2], front.run(FLUSH)[2]) == (4097, 1)


def test_requests_that_cannot_be(connect):
    front = connect().start()
    assert front.run(IN, 1 << 40, into=512)[0] == IOERR, "beyond the end"
    assert front.run(IN, 0, into=511)[0] == IOERR
    assert front.run(IN, 0)[0] == IOERR, "without data"
    assert front.run(99)[0] == UNSUPP
    parts, _, status = front.request(IN, header=b"\0" * 16)
    front.submit([(parts[0][0], 15, 0), parts[-1]])
    front.queues[0].wait()
    assert front.status(status) == IOERR, "a short header"
    into = front.memory.take(17)
    front.memory.put(into, struct.pack("<IIQ", GET_ID, 0, 0) + b"\xff")
    front.submit([(into, 17, WRITE)])
    assert front.queues[0].wait()[1] == 1 and front.status(into + 16) == IOERR, "no header"
    assert connect("ram1").start().run(IN, 1, into=4096)[0] == IOERR, "not whole blocks"
    assert front.write(0, bytes(512)) == OK


def test_serial_number(connect):
    front = connect().start()
    status, serial, length = front.run(GET_ID, into=20)
    assert (status, length) == (OK, 21) and len(serial.rstrip(b"\0")) == 20
    assert front.run(GET_ID, into=4)[1] == serial[:4]


@pytest.mark.parametrize("disk", ["ram0", "disk.img"])
def test_flush(connect, disk):
    assert connect(disk).start().run(FLUSH)[0] == OK


def ranges(*of):
    return b"".join(struct.pack("<QII", *each) for each in of)


@pytest.mark.parametrize("disk", ["ram0", "disk.img"])
def test_discard_and_write_zeroes(connect, disk):
    front = connect(disk).start()
    assert front.write(0, b"x" * 16384) == OK
    assert front.run(WRITE_ZEROES, out=ranges((8, 8, 0), (24, 4, 1)))[0] == OK
    assert front.read(0, 16384)[1] == b"x" * 4096 + bytes(4096) + b"x" * 4096 + bytes(2048) + b"x" * 2048
    assert front.run(DISCARD, out=ranges(*((n, 1, 0) for n in range(32))))[0] == OK
    assert front.run(DISCARD, out=ranges((0, 8, 1)))[0] == UNSUPP, "a discard has no flag"
    assert front.run(WRITE_ZEROES, out=ranges((0, 8, 0), (8, 8, 2)))[0] == UNSUPP
    assert front.run(DISCARD, out=ranges((1 << 40, 8, 0)))[0] == IOERR
    assert front.run(DISCARD, out=ranges((0, 0, 0)))[0] == IOERR
    assert front.run(DISCARD, out=b"123")[0] == IOERR


def test_unknown_flags_leave_everything_as_it_was(connect):
    front = connect().start()
    assert front.write(0, b"x" * 512) == OK
    assert front.run(WRITE_ZEROES, out=ranges((0, 1, 0), (1, 1, 4)))[0] == UNSUPP
    assert front.read(0, 512)[1] == b"x" * 512


def test_what_was_not_agreed_on_is_not_supported(connect):
    front = connect(features=vhost.F_VERSION_1 | vhost.F_PROTOCOL).start()
    assert front.run(DISCARD, out=ranges((0, 8, 0)))[0] == UNSUPP
    assert front.run(WRITE_ZEROES, out=ranges((0, 8, 0)))[0] == UNSUPP


def test_configuration(connect):
    front = connect("ram1")
    whole = front.config()
    assert struct.unpack_from("<QII", whole) == (131072, 1 << 20, 126)
    assert struct.unpack_from("<I", whole, 20) == (4096,)
    for offset, size in ((0, 8), (20, 4), (3, 7), (32, 1), (0, 36), (0, 96), (200, 56), (59, 1)):
        assert front.config(offset, size) == (whole + bytes(256))[offset:offset + size], (offset, size)
    assert front.ask(GET_CONFIG, struct.pack("<III", 250, 10, 0) + bytes(10))[0] == b"", "beyond the end"
    assert front.ask(GET_CONFIG, struct.pack("<III", 0, 0, 0))[0] == b""


def test_the_cache_can_be_turned_off(connect):
    front = connect("disk.img", more=vhost.F_CONFIG_WCE).start()
    assert front.config(32, 1) == b"\1"
    assert front.set_config(32, b"\0") == 0
    assert front.config(32, 1) == b"\0"
    assert front.write(0, bytes(4096)) == OK
    assert front.set_config(0, bytes(8)) == 1, "the capacity is not the driver's to write"
    assert front.config(0, 8) != bytes(8)


def test_limits_and_status(connect):
    front = connect()
    assert front.ask_u64(GET_QUEUE_NUM) == 128
    assert front.ask_u64(GET_MAX_MEM_SLOTS) == 509
    front.u64(SET_STATUS, 15)
    assert front.ask_u64(GET_STATUS) == 15


def test_a_ring_that_is_not_enabled_waits(connect):
    front = connect().start()
    front.do(SET_VRING_ENABLE, struct.pack("<II", 0, 0))
    parts, _, status = front.request(FLUSH)
    front.submit(parts)
    assert front.ask_u64(GET_STATUS) == 0
    assert front.queues[0].ring.take_used() is None and front.status(status) == 0xff
    front.do(SET_VRING_ENABLE, struct.pack("<II", 0, 1))
    front.queues[0].wait()
    assert front.status(status) == OK


@KINDS
def test_a_stopped_ring_says_where_it_was_and_goes_on_there(connect, packed):
    front = connect(packed=packed).start()
    for n in range(5):
        assert front.write(n, bytes([n]) * 512) == OK
    base = front.stop_ring(0)
    assert base == front.queues[0].ring.base()
    parts, _, status = front.request(FLUSH)
    front.submit(parts)
    front.ask_u64(GET_STATUS)
    assert front.status(status) == 0xff, "a stopped ring is left alone"
    front.start_ring(0, front.queues[0], base)
    front.queues[0].wait()
    assert front.status(status) == OK


def test_a_reset(connect):
    front = connect().start()
    assert front.write(0, bytes(512)) == OK
    front.do(RESET_DEVICE)
    parts, _, status = front.request(FLUSH)
    front.submit(parts)
    front.u64(vhost.SET_FEATURES, front.features)
    assert front.status(status) == 0xff
    front.queues.clear()
    front.start()
    assert front.write(0, bytes(512)) == OK


def test_descriptors_are_replaced_while_it_runs(connect):
    front = connect().start()
    queue = front.queues[0]
    old = queue.call, queue.kick
    queue.call, queue.kick = os.eventfd(0, os.EFD_NONBLOCK), os.eventfd(0, os.EFD_NONBLOCK)
    front.u64(SET_VRING_CALL, 0, [queue.call])
    assert vhost.readable(queue.call), "what came before may not have been told"
    front.u64(SET_VRING_KICK, 0, [queue.kick])
    for fd in old:
        os.close(fd)
    for _ in range(3):
        assert front.write(0, bytes(512)) == OK


@KINDS
def test_who_wants_no_interrupts_gets_none(connect, packed):
    front = connect(packed=packed).start()
    queue = front.queues[0]
    assert front.write(0, bytes(512)) == OK
    front.ask_u64(GET_STATUS)  # it has called by then
    queue.called()
    queue.ring.no_interrupts()
    parts, _, _ = front.request(FLUSH)
    front.submit(parts)
    assert wait_until(queue.ring.take_used)
    front.ask_u64(GET_STATUS)
    assert not queue.called()
    queue.ring.no_interrupts(False)
    assert front.write(0, bytes(512)) == OK


def test_event_index(connect):
    """An interrupt when the index that was asked for is passed, and none before; a kick where the device wants one."""
    front = connect(more=vhost.F_EVENT_IDX).start()
    queue = front.queues[0]
    assert front.write(0, bytes(512)) == OK
    front.ask_u64(GET_STATUS)
    queue.called()
    queue.ring.set_used_event(queue.ring.seen + 2)
    for n in range(3):
        parts, _, _ = front.request(FLUSH)
        front.submit(parts)
        assert wait_until(queue.ring.take_used)
        front.ask_u64(GET_STATUS)
        if n < 2:
            assert not queue.called(), n
    assert wait_until(queue.called) == 1
    assert wait_until(lambda: queue.ring.avail_event() == queue.ring.next_avail), "it sleeps, and is to be woken"


def test_a_sleeping_ring_is_woken(connect, target):
    """Requests that come when the reactor has long fallen asleep; and idle rings cost nothing."""
    front = connect().start()
    for _ in range(20):
        wait_until(lambda: not front.memory.get16(front.queues[0].ring.used))
        assert front.write(0, bytes(512)) == OK


def test_memory_in_slots(connect):
    """Regions come and go while a ring runs that uses others; requests that span two of them."""
    front = connect()
    front.do(ADD_MEM_REG, bytes(8) + front.memory.region(), [front.memory.fd])
    front.queues.append(vhost.Queue(vhost.SplitRing(front.memory, 64)))
    front.start_ring(0, front.queues[0])
    others = [vhost.Memory(MIB, GUEST + 16 * MIB + n * MIB, USER + (1 << 40) + n * MIB) for n in range(40)]
    for other in others:
        front.do(ADD_MEM_REG, bytes(8) + other.region(), [other.fd])
        assert front.write(0, bytes(4096)) == OK
    data = os.urandom(8192)
    others[3].map[MIB - 4096:] = data[:4096]
    others[4].map[:4096] = data[4096:]
    parts, _, status = front.request(OUT, 8)
    front.submit([parts[0], (others[4].guest - 4096, 8192, 0), parts[-1]])
    front.queues[0].wait()
    assert front.status(status) == OK and front.read(8, 8192) == (OK, data)
    for other in others[::2] + others[1::2]:
        front.do(REM_MEM_REG, bytes(8) + other.region(), [])
        assert front.read(8, 8192) == (OK, data)
        other.close()
    assert front.acked(REM_MEM_REG, bytes(8) + others[0].region()) == 1, "it is gone already"
    front.submit([parts[0], (others[4].guest, 4096, 0), parts[-1]])
    assert front.queues[0].failed(), "nothing is there any more"


def test_memory_is_told_once_more(connect):
    """As QEMU does when memory is added: the whole table, whose old regions stay where they are."""
    front = connect().start()
    other = vhost.Memory(MIB, GUEST + 64 * MIB, USER + (1 << 40))
    for memories in ((front.memory, other), (other, front.memory), (front.memory,)):
        front.share(*memories)
        assert front.write(0, bytes(4096)) == OK


def logged(log):
    """Numbers of the pages that are marked in a log."""
    return {8 * n + bit for n, byte in enumerate(os.pread(log, 1 << 20, 0)) if byte for bit in range(8)
            if byte >> bit & 1}


@KINDS
def test_a_log_of_what_was_written(connect, packed):
    """A bit for each page that the device writes to: data, status, and the used ring or descriptor."""
    front = connect("null0", packed=packed).start()
    log = os.memfd_create("log")
    os.ftruncate(log, 1 << 20)
    answer, _ = front.ask(SET_LOG_BASE, struct.pack("<QQ", 1 << 20, 0), [log])
    assert len(answer) == 16
    front.u64(vhost.SET_FEATURES, front.features | vhost.F_LOG_ALL)
    ring = front.queues[0].ring
    front.set_addr(0, front.queues[0], log=ring.used)
    parts, data, status = front.request(IN, 0, into=16384)
    front.submit(parts)
    front.queues[0].wait()
    front.ask_u64(GET_STATUS)
    wanted = {at >> 12 for at in (*range(data, data + 16384, 512), status, ring.desc if packed else ring.used)}
    assert logged(log) == wanted
    other = os.memfd_create("log")
    os.ftruncate(other, 1 << 20)
    front.ask(SET_LOG_BASE, struct.pack("<QQ", 1 << 20, 0), [other])
    front.run(IN, 0, into=512)
    assert logged(log) == wanted, "the log before is left alone"
    front.u64(vhost.SET_FEATURES, front.features)
    os.ftruncate(other, 0)
    os.ftruncate(other, 1 << 20)
    front.run(IN, 0, into=512)
    assert not logged(other)


def test_rings_that_are_many(connect):
    front = connect(memory=vhost.Memory(64 * MIB)).start(queues=128, size=16)
    for n in range(128):
        assert front.write(8 * n, bytes([n]) * 4096, queue=n) == OK
    for n in range(128):
        assert front.read(8 * n, 4096, queue=127 - n) == (OK, bytes([n]) * 4096)


def test_several_front_ends(connect):
    """Two at once: a migration has two."""
    one, two = connect().start(), connect().start()
    assert one.write(0, b"1" * 512) == OK
    assert two.read(0, 512) == (OK, b"1" * 512)
    one.close()
    assert two.write(0, b"2" * 512) == OK
