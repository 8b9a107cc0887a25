# SPDX-License-Identifier: BSD-3-Clause
"""Guests and front-ends that do what must not be. Each costs them their ring, or their connection, and nobody else."""
import contextlib
import ctypes
import os
import pathlib
import signal
import socket
import struct
import time

import pytest
import vhost
from target import Target, wait_until
from vhost import (ADD_MEM_REG, DISCARD, FLUSH, GET_FEATURES, GET_ID, GET_INFLIGHT_FD, GET_STATUS, GET_VRING_BASE,
                   GUEST, IN, INDIRECT, MIB, NEXT, OK, OUT, SET_CONFIG, SET_FEATURES, SET_INFLIGHT_FD, SET_LOG_BASE,
                   SET_MEM_TABLE, SET_PROTOCOL_FEATURES, SET_VRING_ADDR, SET_VRING_BASE, SET_VRING_CALL,
                   SET_VRING_ENABLE, SET_VRING_KICK, SET_VRING_NUM, USER, WRITE, Frontend, Gone)

KINDS = pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])


@pytest.fixture(scope="module")
def sockets(tmp_path_factory):
    return tmp_path_factory.mktemp("vhost")


@pytest.fixture(scope="module")
def target(sockets):
    with Target("ram:64M", "delay:[ram:8M]?write=1s", options=["--vhost", sockets]) as running:
        yield running


@pytest.fixture
def connect(target, sockets):
    """Front-ends; and one that behaves is served before and after."""
    made = []

    def make(disk="ram0", **options):
        made.append(Frontend(sockets / disk, **options))
        return made[-1]

    good = make().start()
    yield make
    assert good.write(1000, b"g" * 512) == OK and good.read(1000, 512) == (OK, b"g" * 512)
    for front in made:
        front.close()


def breaks(front, queue=0):
    """The ring is given up: the front-end is told, the guest can see it, and nothing more is taken off it."""
    q = front.queues[queue]
    q.notify()
    assert q.failed()
    assert front.ask_u64(GET_STATUS) & 0x40
    return True


# -- descriptors ----------------------------------------------------------------------------------------------------

@KINDS
@pytest.mark.parametrize("addr,length", [
    (0, 512), (GUEST - 1, 512), (GUEST + 16 * MIB - 511, 512), (GUEST + 16 * MIB, 512), (GUEST + 4096, 0xffffffff),
    (2**64 - 512, 512), (2**64 - 1, 2), (GUEST + 4096, 0), (USER, 512)])
def test_addresses_outside_of_memory(connect, packed, addr, length):
    front = connect(packed=packed).start()
    parts, _, status = front.request(IN)
    front.queues[0].ring.add([parts[0], (addr, length, WRITE), parts[-1]])
    assert breaks(front) and front.status(status) == 0xff


@KINDS
def test_what_is_read_comes_before_what_is_written(connect, packed):
    front = connect(packed=packed).start()
    parts, _, _ = front.request(IN, into=512)
    front.queues[0].ring.add([parts[1], parts[0], parts[2]])
    assert breaks(front)


@KINDS
def test_no_room_for_the_status(connect, packed):
    front = connect(packed=packed).start()
    parts, _, _ = front.request(OUT, out=bytes(512))
    front.queues[0].ring.add(parts[:2])
    assert breaks(front)


@KINDS
def test_more_segments_than_there_can_be(connect, packed):
    front = connect(packed=packed).start(size=256)
    parts, _, _ = front.request(IN, into=512)
    front.queues[0].ring.add([parts[0], *([(parts[1][0], 512, WRITE)] * 200), parts[2]])
    assert breaks(front)


def test_a_chain_that_is_a_circle(connect):
    front = connect().start()
    ring = front.queues[0].ring
    head = front.memory.take(16)
    ring.set_desc(3, head, 16, NEXT, 3)
    ring.offer(3)
    assert breaks(front)


def test_a_circle_of_two_and_one_in_a_table(connect):
    front = connect().start()
    ring, head = front.queues[0].ring, front.memory.take(64)
    for i, following in ((0, 1), (1, 0)):
        front.memory.pack("<QIHH", head + 16 * i, head, 1, NEXT, following)
    ring.set_desc(0, head, 32, INDIRECT)
    ring.offer(0)
    assert breaks(front)


def test_a_packed_chain_without_an_end(connect):
    front = connect(packed=True).start(size=8)
    ring, head = front.queues[0].ring, front.memory.take(16)
    for i in range(7, -1, -1):
        ring.set_desc(i, head, 1, i, NEXT | vhost.AVAIL)
    assert breaks(front)


def test_a_next_one_beyond_the_end(connect):
    """Where it would make a good request."""
    front = connect().start()
    ring = front.queues[0].ring
    (head, _, _), (status, _, _) = front.request(FLUSH)[0]
    front.memory.take(16384)
    ring.set_desc(0, head, 16, NEXT, 500)
    ring.set_desc(500, status, 1, WRITE)
    ring.offer(0)
    assert breaks(front) and front.status(status) == 0xff


def test_a_next_one_beyond_the_end_of_a_table(connect):
    front = connect().start()
    ring, table = front.queues[0].ring, front.memory.take(48)
    (head, _, _), (status, _, _) = front.request(FLUSH)[0]
    front.memory.pack("<QIHH", table, head, 16, NEXT, 2)
    front.memory.pack("<QIHH", table + 32, status, 1, WRITE, 0)
    ring.set_desc(0, table, 32, INDIRECT)
    ring.offer(0)
    assert breaks(front) and front.status(status) == 0xff


def test_a_head_beyond_the_end(connect):
    front = connect().start()
    front.queues[0].ring.offer(64)
    assert breaks(front)


def test_a_packed_buffer_number_beyond_the_end(connect):
    front = connect(packed=True).start()
    parts, _, _ = front.request(FLUSH)
    front.queues[0].ring.add(parts, ident=64)
    assert breaks(front)


def test_an_index_that_jumps(connect):
    """By one more than the ring has descriptors, each of which would make a good request."""
    front = connect().start()
    ring = front.queues[0].ring
    for n in range(64):
        parts, _, _ = front.request(FLUSH)
        front.memory.put16(ring.avail + 4 + 2 * n, ring.put_chain([front.indirect(parts)]))
    front.memory.put16(ring.avail + 2, 65)
    assert breaks(front)


@KINDS
def test_a_request_twice_at_once(connect, packed):
    front = connect("delay0", packed=packed).start()
    ring = front.queues[0].ring
    parts, _, _ = front.request(OUT, 0, bytes(512))
    ident = ring.add(parts)
    if packed:
        ring.add(parts, ident)
    else:
        ring.offer(ident)
    assert breaks(front)
    front.stop_ring(0)


# -- indirect tables ------------------------------------------------------------------------------------------------

@KINDS
@pytest.mark.parametrize("table,length", [(None, 15), (None, 0), (None, 17), (None, 1 << 20), (0, 48),
                                          (GUEST + 16 * MIB - 16, 48), (2**64 - 16, 48)])
def test_tables_that_cannot_be(connect, packed, table, length):
    front = connect(packed=packed).start()
    parts, _, _ = front.request(FLUSH)
    at, size, flags = front.indirect(parts)
    front.queues[0].ring.add([(at if table is None else table, length, flags)])
    assert breaks(front)


@KINDS
def test_a_table_that_goes_over_to_another_region(connect, packed):
    """Regions that follow each other in the guest do not here; data may do that, and is then in two pieces."""
    front = connect(packed=packed)
    others = [vhost.Memory(MIB, GUEST + (17 - n) * MIB, USER + (1 << 40) + n * MIB) for n in range(2)]
    front.share(front.memory, *others)
    front.queues.append(vhost.Queue((vhost.PackedRing if packed else vhost.SplitRing)(front.memory, 64)))
    front.start_ring(0, front.queues[0])
    parts, data, status = front.request(IN, into=512)
    at, size, flags = front.indirect([parts[0], (others[0].guest - 100, 512, WRITE), parts[2]])
    front.submit([(at, size, flags)])
    front.queues[0].wait()
    assert front.status(status) == OK
    table = front.memory.get(at, size)
    for memory, offset, piece in ((others[1], MIB - 16, table[:16]), (others[0], 0, table[16:])):
        memory.map[offset:offset + len(piece)] = piece
    front.queues[0].ring.add([(others[0].guest - 16, size, flags)])
    assert breaks(front)


@KINDS
def test_a_table_in_a_table(connect, packed):
    front = connect(packed=packed).start()
    parts, _, _ = front.request(FLUSH)
    front.queues[0].ring.add([front.indirect([front.indirect(parts)])])
    assert breaks(front)


@KINDS
def test_a_table_with_a_next_descriptor(connect, packed):
    front = connect(packed=packed).start()
    parts, _, _ = front.request(FLUSH)
    front.queues[0].ring.add([front.indirect(parts), parts[-1]])
    assert breaks(front)


@KINDS
def test_tables_that_were_not_agreed_on(connect, packed):
    front = connect(packed=packed, features=vhost.F_VERSION_1 | vhost.F_PROTOCOL).start()
    parts, _, _ = front.request(FLUSH)
    front.queues[0].ring.add([front.indirect(parts)])
    assert breaks(front)


def test_a_broken_ring_can_be_stopped_and_begun_anew(connect):
    front = connect().start()
    front.queues[0].ring.offer(64)
    assert breaks(front)
    front.stop_ring(0)
    front.queues.clear()
    front.start()
    assert front.write(0, bytes(512)) == OK and not front.ask_u64(GET_STATUS) & 0x40


@contextlib.contextmanager
def meddling(front, kind, at, good, bad):
    """A process that writes to a place in the guest's memory all the time."""
    pid = os.fork()
    if not pid:
        try:
            cell = kind.from_buffer(front.memory.map, at - GUEST)
            while True:
                cell.value = bad
                cell.value = good
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def some_requests(front, part):
    """A batch of them, until all have ended, or their ring has."""
    queue = front.queues[0]
    left = [queue.ring.add([part]) for _ in range(16)]
    queue.notify()
    while left and not front.ask_u64(GET_STATUS) & 0x40:
        used = wait_until(lambda: queue.ring.take_used() or front.ask_u64(GET_STATUS) & 0x40, 20, 0)
        assert used, "one is lost"
        assert used == 0x40 or used[1] in (1, 4097), "that is more than there was room for"
        left = left[1:]
    if left:
        front.stop_ring(0)
        front.queues.pop().close()
        mark, front.memory.next = front.memory.next, 4096
        front.start()
        front.memory.next = mark


@KINDS
@pytest.mark.parametrize("kind", [IN, OUT, DISCARD])
def test_a_guest_that_changes_its_mind(connect, packed, kind):
    """Whatever is in shared memory changes under the server's eyes: descriptors, a table of them, the header, ranges
    of a discard. It is used as it was looked at: requests end, or the ring does."""
    u16, u32, u64 = ctypes.c_uint16, ctypes.c_uint32, ctypes.c_uint64
    front = connect(packed=packed).start()
    desc = front.queues[0].ring.desc
    out = {IN: b"", OUT: bytes(4096), DISCARD: struct.pack("<QII", 0, 8, 0) * 256}[kind]
    parts, data, status = front.request(kind, 0, out, 4096 if kind == IN else 0)
    table, size, indirect = front.indirect(parts)
    cells = [(u32, table + 24, 4096, 32 * MIB), (u64, table + 16, data, 0), (u64, desc + 16, table, 0),
             (u32, table + 8, 16, 2**32 - 1), (u32, table + 40, 1, 0), (u64, table + 32, status, USER),
             (u16, table + 14 if packed else table + 12, 0 if packed else NEXT, WRITE | INDIRECT),
             (u32, parts[0][0], kind, 99), (u64, parts[0][0] + 8, 0, 2**63)]
    if kind == DISCARD:
        cells += [(u32, data + 8, 8, 2**32 - 1), (u32, data + 12, 0, 2)]
    if not packed:
        cells += [(u16, table + 14, 1, 0xffff), (u16, table + 14, 1, 0), (u32, desc + 8, size, 17)]
    for cell in cells:
        with meddling(front, *cell):
            for _ in range(100):
                some_requests(front, (table, size, indirect))


def test_bad_requests_do_not_flood_the_log(connect, target):
    """Not a line of each that fails."""
    front = connect().start()
    before = len(target.stderr.splitlines())
    for _ in range(200):
        assert front.run(99)[0] == vhost.UNSUPP
        assert front.run(IN, 1 << 40, into=512)[0] == vhost.IOERR
        assert front.run(DISCARD, out=struct.pack("<QII", 0, 8, 2))[0] == vhost.UNSUPP
    front.ask_u64(GET_STATUS)
    assert len(target.stderr.splitlines()) - before < 5


def test_a_guest_does_not_flood_the_log(connect, target):
    before = len(target.stderr.splitlines())
    for _ in range(30):
        front = connect().start()
        front.queues[0].ring.offer(64)
        assert breaks(front)
        front.close()
    assert len([line for line in target.stderr.splitlines()[before:] if "beyond" in line]) < 25


# -- messages -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("index", [128, 256, 300, 0xffffffff])
@pytest.mark.parametrize("request_", [SET_VRING_NUM, SET_VRING_BASE, SET_VRING_ENABLE])
def test_rings_that_are_not_there(connect, request_, index):
    """An index is not cut to 8 bits."""
    front = connect()
    assert front.acked(request_, struct.pack("<II", index, 1)) == 1


@pytest.mark.parametrize("index", [128, 256, 0xffffffff])
def test_addresses_and_bases_of_rings_that_are_not_there(connect, index):
    front = connect()
    assert front.acked(SET_VRING_ADDR, struct.pack("<IIQQQQ", index, 0, USER, USER, USER, 0)) == 1
    front.send(GET_VRING_BASE, struct.pack("<II", index, 0))
    with pytest.raises(Gone):
        front.receive(GET_VRING_BASE)


@pytest.mark.parametrize("value", [128, 0x200, 1 << 32, 1 << 63])
@pytest.mark.parametrize("request_", [SET_VRING_KICK, SET_VRING_CALL, vhost.SET_VRING_ERR])
def test_descriptors_for_rings_that_are_not_there(connect, request_, value):
    front = connect()
    fd = os.eventfd(0)
    assert front.acked(request_, struct.pack("<Q", value), [fd]) == 1
    os.close(fd)


@pytest.mark.parametrize("num", [0, 3, 1025, 2048, 1 << 31])
def test_sizes_of_rings(connect, num):
    assert connect().acked(SET_VRING_NUM, struct.pack("<II", 0, num)) == 1


def test_a_ring_that_is_not_in_memory(connect):
    front = connect()
    front.share()
    queue = vhost.Queue(vhost.SplitRing(front.memory, 64))
    for ring in ((0, 0, 0), (USER + 16 * MIB - 64, USER + 4096, USER + 8192), (USER + 4096 + 8, USER + 8192, USER),
                 (2**64 - 16, USER, USER)):
        front.setup_ring(0, queue)
        front.do(SET_VRING_ADDR, struct.pack("<IIQQQQ", 0, 0, *ring, 0))
        assert front.acked(SET_VRING_KICK, struct.pack("<Q", 0), [queue.kick]) == 1
    front.setup_ring(0, queue)
    front.u64(SET_VRING_KICK, 0, [queue.kick])


def test_a_ring_before_everything_else(connect):
    front = connect()
    fd = os.eventfd(0)
    assert front.acked(SET_VRING_KICK, struct.pack("<Q", 0), [fd]) == 1
    front.share()
    assert front.acked(SET_VRING_KICK, struct.pack("<Q", 0), [fd]) == 1
    os.close(fd)


@pytest.mark.parametrize("kind", ["pipe", "file", "socket"])
def test_descriptors_that_are_no_eventfds(connect, kind, tmp_path):
    front = connect()
    front.share()
    queue = vhost.Queue(vhost.SplitRing(front.memory, 64))
    front.setup_ring(0, queue)
    pair = {"pipe": os.pipe, "file": lambda: (os.open(tmp_path / "f", os.O_CREAT | os.O_RDWR), os.dup(0)),
            "socket": lambda: tuple(s.detach() for s in socket.socketpair())}[kind]()
    for request in (SET_VRING_KICK, SET_VRING_CALL, vhost.SET_VRING_ERR):
        assert front.acked(request, struct.pack("<Q", 0), [pair[0]]) == 1
    for fd in pair:
        os.close(fd)


def test_memory_that_cannot_be(connect):
    front = connect()
    memory = front.memory
    for region in ((GUEST, MIB, USER, 16 * MIB), (GUEST, 17 * MIB, USER, 0), (GUEST, MIB, USER, 2**64 - MIB),
                   (2**64 - 4096, MIB, USER, 0), (GUEST, MIB, 2**64 - 4096, 0), (GUEST, 0, USER, 0),
                   (GUEST, MIB, USER, 2**63)):
        body = struct.pack("<4Q", *region)
        assert front.acked(SET_MEM_TABLE, struct.pack("<II", 1, 0) + body, [memory.fd]) == 1, region
        assert front.acked(ADD_MEM_REG, bytes(8) + body, [memory.fd]) == 1, region
    one, two = (struct.pack("<4Q", at, MIB, USER, 0) for at in (GUEST, GUEST + MIB - 1))
    assert front.acked(SET_MEM_TABLE, struct.pack("<II", 2, 0) + one + two, [memory.fd] * 2) == 1, "they overlap"
    assert front.acked(SET_MEM_TABLE, struct.pack("<II", 2, 0) + one + two, [memory.fd]) == 1, "a descriptor is missing"
    front.share()
    assert front.acked(ADD_MEM_REG, bytes(8) + two, [memory.fd]) == 1, "it overlaps"


def test_more_memory_than_there_can_be(connect):
    front = connect()
    for n in range(509):
        front.do(ADD_MEM_REG, bytes(8) + struct.pack("<4Q", n << 13, 4096, n << 13, 0), [front.memory.fd])
    assert front.acked(ADD_MEM_REG, bytes(8) + struct.pack("<4Q", 1 << 40, 4096, 0, 0), [front.memory.fd]) == 1


def test_features_that_were_not_offered(connect):
    front = connect()
    assert front.acked(SET_FEATURES, struct.pack("<Q", front.features | 1 << 7)) == 1
    assert front.acked(SET_FEATURES, struct.pack("<Q", front.features & ~vhost.F_VERSION_1)) == 1
    assert front.acked(SET_PROTOCOL_FEATURES, struct.pack("<Q", 1 << 40)) == 1
    front.start()
    assert front.acked(SET_FEATURES, struct.pack("<Q", front.features | vhost.F_EVENT_IDX)) == 1, "rings run"
    assert front.write(0, bytes(512)) == OK


def test_messages_of_features_that_were_not_agreed_on(connect):
    front = connect(handshake=False)
    front.send(SET_FEATURES, struct.pack("<Q", vhost.F_VERSION_1))
    front.send(vhost.GET_CONFIG, struct.pack("<III", 0, 8, 0) + bytes(8))
    assert front.receive(vhost.GET_CONFIG)[0] == b""
    front.send(GET_INFLIGHT_FD, bytes(24))
    with pytest.raises(Gone):
        front.receive(GET_INFLIGHT_FD)


@pytest.mark.parametrize("header", [(1, 0, 0), (1, 2, 0), (1, 5, 0), (1, 1, 0xffffffff), (1, 1, 4096), (2, 1, 7),
                                    (8, 1, 4), (5, 1, 4), (24, 1, 3), (0xffffffff, 1, 0), (41, 1, 8), (3, 1, 3)])
def test_messages_that_are_none(connect, header):
    front = connect()
    front.socket.sendall(struct.pack("<III", *header) + bytes(min(header[2], 64)))
    assert front.ended()


def test_a_message_byte_by_byte(connect):
    front = connect()
    for byte in struct.pack("<III", GET_FEATURES, 1, 0):
        front.socket.sendall(bytes([byte]))
    assert len(front.receive(GET_FEATURES)[0]) == 8


def test_a_front_end_that_goes_in_the_middle_of_a_message(connect, target):
    for n in range(12):
        front = connect(handshake=False)
        front.socket.sendall(struct.pack("<III", SET_FEATURES, 1, 8)[:n])
        front.close()


def kept(target):
    maps = pathlib.Path(f"/proc/{target.pid}/maps").read_text(encoding="utf-8", errors="replace")
    return target.descriptors(), maps.count("/memfd:")


def test_descriptors_do_not_leak(connect, target):
    """Those that nobody asked for, too many, replaced ones, and those of messages that are refused; nor does memory."""
    fd = os.eventfd(0)
    small = os.memfd_create("small")

    def life():
        front = connect().start()
        for _ in range(3):
            front.u64(SET_VRING_CALL, 0, [fd])
            front.u64(SET_VRING_KICK, 0, [fd])
            front.u64(vhost.SET_VRING_ERR, 0, [fd])
            front.acked(SET_VRING_CALL, struct.pack("<Q", 77777), [fd])
            front.acked(ADD_MEM_REG, bytes(8) + front.memory.region(), [small])
            front.u64(vhost.SET_BACKEND_REQ_FD, 0, [fd])
        front.stop_ring(0)
        for _ in range(3):
            os.close(front.get_inflight(1, 64)[4])
            front.get_inflight(1, 64)
            front.set_inflight()
            os.close(front.inflight[4])
        front.close()
        for n in (1, 8, 9, 16, 17, 30):
            front = connect(handshake=False)
            front.send(GET_FEATURES, fds=[fd] * n)
            assert front.ended()
            front.close()

    before = kept(target)
    for _ in range(5):
        life()
    assert wait_until(lambda: kept(target) == before), (before, kept(target))


def test_a_log_that_cannot_be(connect):
    front = connect()
    log = os.memfd_create("log")
    os.ftruncate(log, 4096)
    for size, offset in ((8192, 0), (4096, 4096), (2**64 - 1, 1), (4096, 2**64 - 4096), (0, 0)):
        front = connect()
        front.send(SET_LOG_BASE, struct.pack("<QQ", size, offset), [log])
        with pytest.raises(Gone):
            front.receive(SET_LOG_BASE)


def test_a_log_that_is_too_short(connect):
    """Pages beyond its end are not marked, wherever they are said to be."""
    front = connect().start()
    log = os.memfd_create("log")
    os.ftruncate(log, 4096)
    front.ask(SET_LOG_BASE, struct.pack("<QQ", 4096, 0), [log])
    front.u64(SET_FEATURES, front.features | vhost.F_LOG_ALL)
    front.set_addr(0, front.queues[0], log=2**64 - 16)
    assert front.run(IN, into=512)[0] == OK


@pytest.mark.parametrize("body", [(1 << 20, 0, 129, 64), (1 << 20, 0, 0, 64), (1 << 20, 0, 1, 0), (1 << 20, 0, 1, 2048),
                                  (64, 0, 1, 64), (1 << 20, 0, 128, 1024), (2**64 - 1, 8, 1, 64), (1 << 20, 3, 1, 64),
                                  (1 << 21, 0, 1, 64)])
def test_inflight_regions_that_cannot_be(connect, body):
    front = connect()
    fd = os.memfd_create("inflight")
    os.ftruncate(fd, 1 << 20)
    assert front.acked(SET_INFLIGHT_FD, struct.pack("<QQHHHH", *body, 0, 0), [fd]) == 1
    os.close(fd)


@pytest.mark.parametrize("queues,size", [(129, 64), (0, 64), (1, 0), (1, 2048), (0xffff, 0xffff)])
def test_inflight_regions_that_are_not_made(connect, queues, size):
    front = connect()
    front.send(GET_INFLIGHT_FD, struct.pack("<QQHHHH", 0, 0, queues, size, 0, 0))
    with pytest.raises(Gone):
        front.receive(GET_INFLIGHT_FD)


@KINDS
@pytest.mark.parametrize("fill", [b"\xff", b"\x01", b"\x10\x00", b"random"])
def test_inflight_regions_that_lie(connect, packed, fill):
    """Whatever is in it: the ring is broken, or goes on; with the right version and size it is looked at."""
    front = connect(packed=packed)
    front.get_inflight(1, 16)
    size, _, _, _, fd = front.inflight
    region = bytearray(os.urandom(size) if fill == b"random" else (fill * size)[:size])
    struct.pack_into("<HH", region, 8, 1, 16)
    os.pwrite(fd, region, 0)
    front.set_inflight()
    front.start(size=16)
    parts, _, _ = front.request(FLUSH)
    front.submit(parts)
    front.stop_ring(0)


def test_what_must_not_change_while_it_runs(connect):
    front = connect()
    front.get_inflight(1, 64)
    front.set_inflight()
    front.start()
    assert front.acked(SET_VRING_NUM, struct.pack("<II", 0, 128)) == 1
    assert front.acked(SET_VRING_BASE, struct.pack("<II", 0, 5)) == 1
    size, offset, queues, depth, fd = front.inflight
    assert front.acked(SET_INFLIGHT_FD, struct.pack("<QQHHHH", size, offset, queues, depth, 0, 0), [fd]) == 1
    assert front.write(0, bytes(512)) == OK


def test_a_configuration_beyond_its_end(connect):
    front = connect()
    assert front.acked(SET_CONFIG, struct.pack("<III", 256, 1, 1) + b"\0") in (0, 1)
    assert front.acked(SET_CONFIG, struct.pack("<III", 0xffffffff, 1, 1) + b"\0") == 1
    front.send(SET_CONFIG, struct.pack("<III", 0, 200, 1) + b"\0")
    assert front.ended(), "less than it says"


def test_no_answers_are_read(connect):
    """A front-end that asks and does not read costs itself its connection."""
    front = connect()
    front.socket.setblocking(False)
    with pytest.raises(OSError):
        for _ in range(100000):
            front.send(GET_FEATURES)


# -- memory that goes -----------------------------------------------------------------------------------------------

@KINDS
def test_memory_that_gets_shorter(connect, packed, target):
    """SIGBUS costs the connection, and not the process."""
    front = connect(packed=packed).start()
    assert front.write(0, bytes(4096)) == OK
    parts, _, _ = front.request(IN, into=4096)
    front.queues[0].ring.add(parts)
    fd = os.dup(front.memory.fd)
    front.memory.map.close()
    os.ftruncate(fd, 0)
    front.queues[0].notify()
    assert front.ended()
    os.close(fd)
    target.check_alive()


def test_a_region_that_gets_shorter(connect, target):
    front = connect()
    other = vhost.Memory(MIB, GUEST + 64 * MIB, USER + (1 << 40))
    front.share(front.memory, other)
    front.queues.append(vhost.Queue(vhost.SplitRing(front.memory, 64)))
    front.start_ring(0, front.queues[0])
    os.ftruncate(other.fd, 4096)
    parts, _, _ = front.request(IN, into=4096)
    front.submit([parts[0], (other.guest + 65536, 4096, WRITE), parts[-1]])
    assert front.ended()
    target.check_alive()


def test_a_log_and_an_inflight_region_that_get_shorter(connect, target):
    front = connect()
    log, region = os.memfd_create("log"), os.memfd_create("inflight")
    for fd in (log, region):
        os.ftruncate(fd, 1 << 20)
    front.inflight = (1 << 20, 0, 1, 64, region)
    front.set_inflight()
    front.start()
    assert front.write(0, bytes(512)) == OK
    os.ftruncate(region, 0)
    parts, _, _ = front.request(FLUSH)
    front.submit(parts)
    assert front.ended()
    front = connect().start()
    front.ask(SET_LOG_BASE, struct.pack("<QQ", 1 << 20, 0), [log])
    front.u64(SET_FEATURES, front.features | vhost.F_LOG_ALL)
    os.ftruncate(log, 0)
    parts, _, _ = front.request(IN, into=512)
    front.submit(parts)
    assert front.ended()
    target.check_alive()


@pytest.fixture
def slow(tmp_path):
    """A front-end of a disk that is slow enough for much to be done meanwhile."""
    with Target("delay:[ram:8M]?write=4s", options=["--vhost", tmp_path]):
        yield Frontend(tmp_path / "delay0")


def test_memory_that_is_taken_away_under_requests(slow):
    """They go on with it, and it is given back when they are through."""
    front = slow
    other = vhost.Memory(MIB, GUEST + 64 * MIB, USER + (1 << 40))
    front.share(front.memory, other)
    front.queues.append(vhost.Queue(vhost.SplitRing(front.memory, 64)))
    front.start_ring(0, front.queues[0])
    other.map[:512] = b"o" * 512
    parts, _, status = front.request(OUT)
    front.submit([parts[0], (other.guest, 512, 0), parts[-1]])
    assert front.run(GET_ID, into=20)[0] == OK, "so that the one before has been taken off the ring, too"
    front.share(front.memory)
    assert front.status(status) == 0xff
    front.share(front.memory, vhost.Memory(MIB, GUEST + 32 * MIB, USER + (2 << 40)))
    assert front.status(status) != 0xff, "one change after the other"
    front.queues[0].wait()
    assert front.status(status) == OK and front.read(0, 512) == (OK, b"o" * 512)


def test_a_ring_whose_memory_is_taken_away(connect):
    front = connect().start()
    other = vhost.Memory(MIB, GUEST + 64 * MIB, USER + (1 << 40))
    front.share(other)
    assert front.queues[0].failed()
    front.stop_ring(0)


@KINDS
@pytest.mark.parametrize("by", ["table", "addresses"])
def test_a_ring_whose_memory_is_taken_away_under_requests(connect, packed, by):
    """They end at the disk, and are told to nobody: there is nowhere to say it."""
    front = connect("delay0", packed=packed).start()
    parts, _, _ = front.request(OUT, 0, bytes(512))
    front.submit(parts)
    assert front.run(GET_ID, into=20)[0] == OK, "so that the one before has been taken off the ring, too"
    if by == "table":
        front.share(vhost.Memory(MIB, GUEST + 64 * MIB, USER + (1 << 40)))
    else:
        front.do(SET_VRING_ADDR, struct.pack("<IIQQQQ", 0, 0, 0, 0, 0, 0))
    assert front.queues[0].failed()
    front.stop_ring(0)
    assert connect().start().read(0, 512)[0] == OK


def test_kicks_that_block(connect):
    """Who shares an eventfd shares whether it blocks."""
    front = connect().start()
    os.set_blocking(front.queues[0].kick, True)
    for _ in range(50):
        assert front.read(0, 512)[0] == OK
        try:
            os.preadv(front.queues[0].kick, [bytearray(8)], -1, os.RWF_NOWAIT)
        except BlockingIOError:
            pass  # the reactor was there before
        time.sleep(0.002)  # it sleeps
    front.stop_ring(0)


def fill(fd):
    """As full as can be, so that writing to it waits."""
    os.set_blocking(fd, False)
    while True:
        try:
            os.eventfd_write(fd, 2**64 - 2)
            break
        except BlockingIOError:
            os.eventfd_read(fd)
    os.set_blocking(fd, True)


def test_calls_that_would_block(connect):
    """Its own ring goes on as well, and it may look for itself what is through."""
    front = connect().start()
    queue = front.queues[0]
    fill(queue.call)
    for _ in range(50):
        front.submit(front.request(FLUSH)[0])
        assert wait_until(queue.ring.take_used)
    front.stop_ring(0)


def test_an_error_that_would_block(connect, sockets):
    """It is written by who handles all messages."""
    front = connect().start()
    queue = front.queues[0]
    fill(queue.err)
    queue.ring.add([(0, 512, 0)])
    queue.notify()
    assert wait_until(lambda: front.ask_u64(GET_STATUS) & 0x40)
    assert connect().start().read(0, 512)[0] == OK


def test_connections_come_and_go_in_the_middle_of_requests(connect, target):
    for n in range(20):
        front = connect("delay0" if n % 2 else "ram0", packed=n % 4 < 2).start(queues=2)
        for q in range(2):
            parts, _, _ = front.request(OUT, 8 * q, bytes(4096))
            front.submit(parts, q)
        front.close()
    front = connect("delay0").start()
    assert front.read(0, 512)[0] == OK


def test_more_connections_than_there_is_room_for(connect, target, sockets):
    fronts = [connect("delay0", handshake=False) for _ in range(16)]
    over = connect("delay0", handshake=False)
    assert over.ended()
    for front in fronts:
        front.close()


@KINDS
def test_a_header_in_pieces(connect, packed):
    """Of a byte each; and too few of them."""
    front = connect(packed=packed).start()
    parts, data, status = front.request(IN, into=512)
    front.submit([*((parts[0][0] + n, 1, 0) for n in range(16)), *parts[1:]])
    front.queues[0].wait()
    assert front.status(status) == OK
    front.memory.put(data, b"\xff" * 512)
    for n in (0, 1, 15):
        front.memory.put(status, b"\xff")
        front.submit([*((parts[0][0] + n, 1, 0) for n in range(n)), *parts[1:]])
        assert front.queues[0].wait()[1] == 1
        assert front.status(status) == vhost.IOERR and front.memory.get(data, 512) == b"\xff" * 512


@KINDS
def test_no_commands_of_scsi_for_a_block_device(connect, packed):
    """Which there were once (VIRTIO_BLK_F_SCSI), and which had a length of their own."""
    front = connect(packed=packed).start()
    assert not front.offered & 1 << 7
    for kind in (2, 3):
        parts, _, status = front.request(kind, out=bytes(64), into=96)
        front.submit(parts)
        assert front.queues[0].wait()[1] == 1
        assert front.status(status) == vhost.UNSUPP


def test_what_a_guest_writes_is_no_format(tmp_path):
    """A guest could else have the server open files for it: those that are named in the head of an image."""
    image, secret, sockets = tmp_path / "disk.img", tmp_path / "secret", tmp_path / "sockets"
    sockets.mkdir()
    secret.write_bytes(b"s" * 4096)
    image.write_bytes(bytes(MIB))
    head = bytearray(4096)
    struct.pack_into(">4sIQIIQ", head, 0, b"QFI\xfb", 2, 512, len(str(secret)), 16, 1 << 40)
    head[512:512 + len(str(secret))] = str(secret).encode()
    for _ in range(2):
        with Target(image, options=["--vhost", sockets]), Frontend(sockets / "disk.img") as front:
            front.start()
            assert struct.unpack("<Q", front.config(0, 8))[0] == MIB // 512
            assert front.write(0, bytes(head)) == OK
            assert front.read(0, 4096) == (OK, bytes(head)) and front.read(8, 4096) == (OK, bytes(4096))


def test_feature_gating(connect):
    front = connect(features=vhost.F_VERSION_1 | vhost.F_PROTOCOL).start()
    assert front.run(DISCARD, out=struct.pack("<QII", 0, 8, 0))[0] == vhost.UNSUPP
    assert front.ask(GET_VRING_BASE, struct.pack("<II", 5, 0))[0] == struct.pack("<II", 5, 0), "one that never ran"
