# SPDX-License-Identifier: BSD-3-Clause
"""Nothing is lost when the back-end dies: requests in flight are in memory that outlives it (INFLIGHT_SHMFD)."""
import os
import struct

import pytest
import vhost
from rpc import Server
from target import Target, wait_until
from vhost import FLUSH, GET_STATUS, IN, MIB, OK, OUT, Frontend

KINDS = pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
SLOW = "delay:[{}]?write=60s"


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disks" / "disk.img"
    path.parent.mkdir()
    with open(path, "wb") as file:
        file.truncate(64 * MIB)
    return path



def begin(front, requests, size=16):
    """Connects as QEMU does, with a region, and leaves so many writes in flight."""
    front.get_inflight(1, size)
    front.set_inflight()
    front.start(size=size)
    return offer(front, requests)


def offer(front, requests):
    pending = {}
    for n in range(requests):
        data = os.urandom(4096)
        parts, _, status = front.request(OUT, 8 * n, data)
        pending[front.submit(parts)] = n, status, data
    return pending


def collect(front, pending):
    """Each is done exactly once, and well."""
    while pending:
        ident, _ = front.queues[0].wait()
        n, status, data = pending.pop(ident)
        assert front.status(status) == OK
        assert front.read(8 * n, 4096) == (OK, data) if not pending else True
    front.ask_u64(GET_STATUS)
    assert front.queues[0].ring.take_used() is None, "one was done twice"


@KINDS
@pytest.mark.parametrize("base", ["used", "avail"])
def test_what_was_in_flight_is_done_by_the_next_process(tmp_path, image, packed, base):
    """Front-ends differ in the base that they send: where the device is, or where the driver is."""
    slow = Target(SLOW.format(image), options=["--vhost", tmp_path])
    slow.start()
    front = Frontend(tmp_path / "delay0", packed=packed)
    pending = begin(front, 5)
    front.ask_u64(GET_STATUS)
    assert wait_until(lambda: in_flight(front) == 5)
    slow.kill()
    with Target(image, options=["--vhost", tmp_path]):
        front.path = str(tmp_path / "disk.img")
        ring = front.queues[0].ring
        front.reconnect({"used": 0x80008000 if packed else ring.seen, "avail": ring.base()}[base])
        collect(front, pending)
        assert front.write(0, bytes(512)) == OK


def in_flight(front):
    """How many requests the region says are in flight."""
    size, _, _, depth, fd = front.inflight
    region = os.pread(fd, size, 0)
    step, first = (32, 32) if front.packed else (16, 16)
    return sum(region[first + step * n] for n in range(depth))


@KINDS
def test_killed_again_and_again(tmp_path, image, packed):
    """SIGKILL in the middle of writes; each is done once as the guest sees it, and its data is there."""
    target = Target(image, options=["--vhost", tmp_path])
    target.start()
    front = Frontend(tmp_path / "disk.img", packed=packed)
    pending, rounds = begin(front, 0, size=32), 25
    for turn in range(rounds):
        front.memory.next = MIB
        pending = offer(front, 7)
        for _ in range(turn % 7):
            ident, _ = front.queues[0].wait()
            assert front.status(pending.pop(ident)[1]) == OK
        target.kill()
        target.start()
        front.reconnect(0xdead if turn % 2 and not packed else None)
        collect(front, pending)
        assert in_flight(front) == 0
    target.stop()


def split_region(front):
    return bytearray(os.pread(front.inflight[4], front.inflight[0], 0))


def test_a_batch_that_was_published_but_not_cleared(tmp_path):
    """The process ended between the store of the used index and the clearing of the entries (steps 5 and 6)."""
    with Target("ram:64M", options=["--vhost", tmp_path]):
        front = Frontend(tmp_path / "ram0")
        begin(front, 0)
        for _ in range(3):
            assert front.run(FLUSH)[0] == OK
        front.stop_ring(0)
        region, ring = split_region(front), front.queues[0].ring
        # Heads 9, 10 and 11 were the last batch; 12 is in flight.
        for n, (head, following) in enumerate(((9, 2), (10, 9), (11, 10), (12, 0))):
            struct.pack_into("<B5xHQ", region, 16 + 16 * head, 1, following, 50 + n)
        struct.pack_into("<HH", region, 12, 11, (ring.used_idx() - 3) & 0xffff)
        os.pwrite(front.inflight[4], region, 0)
        parts, _, status = front.request(IN, 0, into=512)
        for n, (addr, length, flags) in enumerate(parts):
            ring.set_desc(12 + n, addr, length, flags | (vhost.NEXT if n < 2 else 0), 13 + n)
        ring.chains[12] = []
        ring.offer(12)
        front.start_ring(0, front.queues[0], 0)
        assert front.queues[0].wait()[0] == 12
        front.ask_u64(GET_STATUS)
        assert ring.take_used() is None, "what was published is not done again"
        assert in_flight(front) == 0


def test_requests_are_done_again_in_order(tmp_path):
    """By their counters, wherever they are in the region; and new ones count on from there."""
    with Target("ram:64M", options=["--vhost", tmp_path]):
        front = Frontend(tmp_path / "ram0")
        begin(front, 0)
        front.stop_ring(0)
        region, ring = split_region(front), front.queues[0].ring
        heads = (3, 0, 9, 6)
        for n, head in enumerate(heads):
            parts, _, _ = front.request(OUT, 0, bytes([n]) * 512)
            for k, (addr, length, flags) in enumerate(parts):
                ring.set_desc(head + k, addr, length, flags | (vhost.NEXT if k < 2 else 0), head + k + 1)
            struct.pack_into("<B5xHQ", region, 16 + 16 * head, 1, 0, 100 + n)
            ring.chains[head] = []
        struct.pack_into("<HHHH", region, 8, 1, 16, 0, 0)
        os.pwrite(front.inflight[4], region, 0)
        ring.offer(*heads)
        front.start_ring(0, front.queues[0], 0)
        assert [front.queues[0].wait()[0] for _ in heads] == list(heads)
        ring.free = list(range(12, 16))
        assert front.read(0, 512) == (OK, bytes([3]) * 512)
        assert struct.unpack_from("<Q", split_region(front), 16 + 16 * 12 + 8)[0] == 104


@pytest.mark.parametrize("queue_size,packed,bytes_each", [(128, False, 2112), (1024, False, 16448), (128, True, 4160)])
def test_regions_are_as_large_as_others_make_them(tmp_path, queue_size, packed, bytes_each):
    with Target("ram:64M", options=["--vhost", tmp_path]):
        front = Frontend(tmp_path / "ram0", packed=packed)
        assert front.get_inflight(3, queue_size)[0] == 3 * bytes_each


def test_a_ring_that_was_used_before_it_had_a_region(tmp_path):
    """One that migrated here: the first request in flight is not taken for one that is through."""
    with Target("ram:64M", options=["--vhost", tmp_path]):
        front = Frontend(tmp_path / "ram0")
        front.share()
        front.get_inflight(1, 16)
        front.set_inflight()
        queue = vhost.Queue(vhost.SplitRing(front.memory, 16))
        queue.ring.start_at(500)
        front.queues.append(queue)
        front.start_ring(0, queue)
        region = split_region(front)
        assert struct.unpack_from("<HHHH", region, 8) == (1, 16, 0, 500)
        assert front.run(FLUSH)[0] == OK


@KINDS
def test_nothing_is_written_after_a_connection_has_ended(tmp_path, image, packed):
    """The guest's memory may be another's then. What comes back does them again, when they are through."""
    with Server(f"delay:[{image}]?write=4s", options=["--vhost", tmp_path]) as server:
        front = Frontend(tmp_path / "delay0", packed=packed)
        pending = begin(front, 3)
        assert wait_until(lambda: in_flight(front) == 3)
        front.reconnect()
        assert in_flight(front) == 3
        assert server.client().call("vhost_get_controllers")[0]["draining"] == 0, "rings wait for those before"
        collect(front, pending)


@KINDS
def test_a_stop_waits_for_what_is_in_flight(tmp_path, image, packed):
    with Target(f"delay:[{image}]?write=3s", options=["--vhost", tmp_path]):
        front = Frontend(tmp_path / "delay0", packed=packed)
        pending = begin(front, 3)
        assert wait_until(lambda: in_flight(front) == 3)
        front.stop_ring(0)
        assert in_flight(front) == 0
        for _ in range(3):
            ident, _ = front.queues[0].ring.take_used()
            assert front.status(pending.pop(ident)[1]) == OK
