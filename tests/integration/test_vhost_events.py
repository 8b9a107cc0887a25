# SPDX-License-Identifier: BSD-3-Clause
"""Who wakes whom, and when: calls of guests at the request that they name, and kicks of the device where it wants some
(virtio 1.2, 2.7.7, 2.7.10 and 2.8.10). A driver that obeys both, and waits for nothing else, loses nothing."""
import itertools
import os
import random

import pytest
import vhost
from target import Target, wait_until
from vhost import FLUSH, GET_STATUS, OK, Frontend

SEED = int(os.environ.get("POLLUX_SEED", random.randrange(1 << 32)))
SIZE = 16  # rings go round often
POLLS = ("busy", "adaptive", "sleep")
RINGS = pytest.mark.parametrize("packed, events", list(itertools.product([False, True], [False, True])),
                                ids=["split", "split-events", "packed", "packed-events"])
KINDS = pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])


@pytest.fixture(scope="module", params=POLLS)
def target(request, tmp_path_factory):
    sockets = tmp_path_factory.mktemp("vhost")
    with Target("ram:8M", options=["--vhost", sockets, "--poll", request.param]) as running:
        running.sockets, running.poll = sockets, request.param
        yield running


class Driver:
    """A driver of one ring, with requests of one entry each."""

    def __init__(self, target, packed, events):
        self.front = Frontend(target.sockets / "ram0", packed=packed, more=vhost.F_EVENT_IDX if events else 0)
        self.events = events and bool(self.front.features & vhost.F_EVENT_IDX)
        assert self.events == events
        self.front.start(size=SIZE)
        self.queue, self.ring = self.front.queues[0], self.front.queues[0].ring
        parts, _, self.status = self.front.request(FLUSH)
        self.table = self.front.indirect(parts)
        self.kicks = self.through = 0
        assert vhost.readable(self.queue.call) and self.queue.called(), "when it begins: it may have missed some"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.front.close()

    def offer(self):
        """A request; the device is kicked where it wants to be."""
        ident = self.ring.add([self.table])
        if self.ring.wants_kick(self.events):
            self.queue.notify()
            self.kicks += 1
        return ident

    def take(self):
        n = 0
        while self.ring.take_used() is not None:
            n += 1
        self.through += n
        return n

    def look_for(self, n):
        """Until so many are through, by looking alone."""
        until = self.through + n

        def over():
            self.take()
            return self.through >= until
        assert wait_until(over, step=0.001) and self.through == until, f"seed {SEED}"

    def take_or_wait(self):
        """As Linux does: asks to be called, looks once more, and waits."""
        self.ring.call_after(1, self.events)
        if not self.take():
            assert vhost.readable(self.queue.call), f"it was not called; seed {SEED}"
            self.queue.called()
            self.ring.no_interrupts()
            return self.take()
        return 0

    def settle(self):
        """The device has done what it does with a request: what it will say, it has said."""
        self.front.ask_u64(GET_STATUS)


@KINDS
def test_a_call_at_the_request_that_is_named(target, packed):
    """One, at each place of the ring, for each number of requests until then; not before, and not once more."""
    with Driver(target, packed, True) as driver:
        for ahead in range(1, SIZE + 1):
            for _ in range(2 * SIZE // ahead + 2):
                driver.ring.call_after(ahead, True)
                for n in range(1, ahead + 1):
                    driver.offer()
                    driver.look_for(1)
                    driver.settle()
                    if n < ahead:
                        assert not driver.queue.called(), (ahead, n, driver.ring.seen)
                assert wait_until(driver.queue.called, step=0.001) == 1, (ahead, driver.ring.seen)
                driver.offer()
                driver.look_for(1)
                driver.settle()
                assert not driver.queue.called(), "it was named before, and is not named now"


@RINGS
def test_no_call_is_lost(target, packed, events):
    """Of a driver that sleeps until it is called; with all there may be in flight, some, or one."""
    choose = random.Random(SEED)
    with Driver(target, packed, events) as driver:
        offered = 0
        while offered < 3000:
            for _ in range(choose.randint(1, SIZE - (offered - driver.through))):
                driver.offer()
                offered += 1
            while driver.through < offered - choose.choice((0, 0, SIZE // 2)):
                driver.take_or_wait()
        while driver.through < offered:
            driver.take_or_wait()
        assert driver.front.status(driver.status) == OK


@RINGS
def test_no_kick_is_lost(target, packed, events):
    """Of a driver that kicks only where the device says so, and looks by itself what is through."""
    choose = random.Random(SEED)
    with Driver(target, packed, events) as driver:
        driver.ring.no_interrupts()
        for _ in range(600):
            if choose.random() < 0.1:
                driver.settle()  # long enough for a reactor that may to fall asleep
            n = choose.randint(1, SIZE)
            for _ in range(n):
                driver.offer()
            driver.look_for(n)
        if target.poll == "busy" and (packed or not events):
            assert driver.kicks == 0, "it never sleeps, and says so; an event index is left where it was"


@RINGS
def test_a_sleeper_wants_to_be_kicked(target, packed, events):
    """Each time that there is nothing to do. It may be awake by chance when the request comes, and fetch it before."""
    if target.poll == "busy":
        pytest.skip("it never sleeps")
    with Driver(target, packed, events) as driver:
        driver.ring.no_interrupts()

        def asleep():
            if not events:
                return driver.ring.wants_kick(False)
            if packed:
                return driver.front.memory.unpack("<HH", driver.ring.used)[1] != 1
            return driver.ring.avail_event() == driver.ring.next_avail

        for _ in range(3 * SIZE):
            assert wait_until(asleep, step=0.001)
            driver.offer()
            driver.look_for(1)
        assert driver.kicks
