# SPDX-License-Identifier: BSD-3-Clause
"""Devices that are reset under load, a thousand times and more: in each way there is, with requests in flight. When
it was answered nothing of the guest's is touched any more, what was taken off a ring is done, and nothing is kept."""
import itertools
import os
import pathlib
import struct
import threading

import pytest
import target as target_module
import vhost
from target import Target, wait_until
from vhost import FLUSH, GET_STATUS, IN, MIB, OK, OUT, RESET_DEVICE, SET_FEATURES, SET_STATUS, Frontend

RESETS = 200  # of each kind in each way
KINDS = pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
QUEUES, SIZE, REQUESTS = 2, 32, 6  # of a ring at once


@pytest.fixture(scope="module")
def sockets(tmp_path_factory):
    return tmp_path_factory.mktemp("vhost")


@pytest.fixture(scope="module")
def target(sockets):
    """A disk that takes its time for writes, so that these are in flight."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    with Target("delay:[ram:8M]?write=3ms", options=["--vhost", sockets, "-m", ",".join(map(str, cores))]) as running:
        yield running


def by_base(front):
    for n in range(QUEUES):
        front.stop_ring(n)


def by_status(front):
    front.u64(SET_STATUS, 0)


def by_reset(front):
    front.do(RESET_DEVICE)
    front.u64(SET_FEATURES, front.features)


def by_base_and_status(front):
    by_base(front)
    by_status(front)


WAYS = pytest.mark.parametrize("reset", [by_base, by_status, by_reset, by_base_and_status])


class Neighbour(threading.Thread):
    """Another front-end of the disk, which does well all the time."""

    def __init__(self, sockets):
        super().__init__()
        self.front = Frontend(sockets / "delay0").start()
        self.over, self.rounds, self.error = False, 0, None

    def run(self):
        try:
            while not self.over:
                data = struct.pack("<Q", self.rounds) * 512
                assert self.front.write(8192, data) == OK and self.front.read(8192, 4096) == (OK, data)
                self.rounds += 1
        except Exception as error:  # pylint: disable=broad-except  # the other thread says it
            self.error = error

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over = True
        self.join()
        self.front.close()
        assert self.error is None and self.rounds, self.error


def life(front, reset, number):
    """From a beginning to a reset: what each sector holds then."""
    front.memory.next = 4096
    front.start(QUEUES, SIZE)
    begun = []
    for n, q in itertools.product(range(REQUESTS), range(QUEUES)):
        data = struct.pack("<QQ", number, n) * 256
        sector = 8 * (n * QUEUES + q)
        parts, _, status = front.request(OUT, sector, data)
        front.submit(parts, q)
        begun.append((sector, data, status))
    for _ in range(number % REQUESTS):
        front.queues[number % QUEUES].wait()
    reset(front)
    left = front.memory.get(front.memory.guest, front.memory.size)
    for queue in front.queues:
        queue.notify()
        queue.close()
    front.queues.clear()
    done = {sector: data for sector, data, status in begun if front.status(status) != 0xff}
    assert all(front.status(status) in (OK, 0xff) for _, _, status in begun)
    front.ask_u64(GET_STATUS)
    assert front.memory.get(front.memory.guest, front.memory.size) == left, "it was not left alone"
    return done


def kept(target):
    maps = pathlib.Path(f"/proc/{target.pid}/maps").read_text(encoding="ascii").splitlines()
    return target.descriptors(), sum("/memfd:" in line or "eventfd" in line for line in maps)


@KINDS
@WAYS
def test_resets_under_load(target, sockets, packed, reset):
    """Whatever is known of a device before does not grow with the number of its resets."""
    front, expected = Frontend(sockets / "delay0", packed=packed, memory=vhost.Memory(MIB)), {}
    with Neighbour(sockets):
        for number in range(20):
            expected |= life(front, reset, number)
        before, bytes_before = kept(target), target.data_bytes()
        rss = target.rss()
        for number in range(20, 20 + RESETS):
            expected |= life(front, reset, number)
        assert wait_until(lambda: kept(target) == before), (kept(target), before)
        if not target_module.sanitized():
            assert target.data_bytes() <= bytes_before + MIB and target.rss() <= rss + MIB
    front.start(1)
    for sector, data in expected.items():
        assert front.read(sector, 4096) == (OK, data), "what was done is there"
    assert front.run(FLUSH)[0] == OK
    front.close()
