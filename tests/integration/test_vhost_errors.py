# SPDX-License-Identifier: BSD-3-Clause
"""What an operator reads when a front-end cannot be served: one line each, which says what is wrong, and what would be
right."""
import os
import struct

import pytest
import vhost
from rpc import Server
from target import wait_until
from vhost import (GUEST, MIB, SET_FEATURES, SET_MEM_TABLE, SET_VRING_ADDR, SET_VRING_ENABLE, SET_VRING_KICK, USER,
                   Frontend)

WHO = f"d0, process {os.getpid()}: "


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    sockets = tmp_path_factory.mktemp("vhost")
    with Server(options=["--vhost", sockets]) as running:
        running.sockets = sockets
        with running.client() as client:
            client.call("bdev_malloc_create", name="m", num_blocks=2048, block_size=512)
            client.call("vhost_create_blk_controller", ctrlr="d0", dev_name="m")
        yield running


@pytest.fixture
def said(server):
    """The warnings since this test began; waits for one."""
    before = len(server.stderr.splitlines())

    def new():
        return [line for line in server.stderr.splitlines()[before:] if ": info: " not in line]

    def get():
        assert wait_until(new), "nothing was said"
        return new()
    return get


@pytest.fixture
def front(server):
    with Frontend(server.sockets / "d0") as connected:
        yield connected


def only(lines, text):
    assert lines == [f"pollux: warning: {WHO}{text}"]


def prepare(front):
    """All but the message that starts the ring; returns its queue."""
    queue = vhost.Queue(vhost.SplitRing(front.memory, 16))
    front.queues.append(queue)
    front.setup_ring(0, queue)
    return queue


def start(front, queue):
    return front.acked(SET_VRING_KICK, struct.pack("<Q", 0), [queue.kick])


def test_no_shared_memory(front, said):
    assert start(front, prepare(front)) == 1
    only(said(), "SET_VRING_KICK: no memory of the guest is shared; QEMU shares it with memory-backend-memfd,share=on "
                 "and -M memory-backend=")


def test_a_table_of_no_memory(front, said):
    """As QEMU sends one when none of its memory has a descriptor."""
    front.do(SET_MEM_TABLE, struct.pack("<II", 0, 0))
    assert start(front, prepare(front)) == 1
    assert "no memory of the guest is shared" in said()[0]


def test_some_memory_is_shared_and_rings_are_elsewhere(front, said):
    other = vhost.Memory(MIB, GUEST + 64 * MIB, USER + (1 << 40))
    front.share(other)
    assert start(front, prepare(front)) == 1
    only(said(), "SET_VRING_KICK: the ring is not in memory that is shared, or not aligned; all of the guest's memory "
                 "is to be shared (-M memory-backend=)")
    other.close()


def test_features_that_are_not_offered(front, said):
    """Packed rings, where the device was made without them; and one that nobody knows."""
    assert front.acked(SET_FEATURES, struct.pack("<Q", front.features | vhost.F_PACKED | 1 << 7)) == 1
    only(said(), "SET_FEATURES: features that are not offered: 7, 34 (RING_PACKED)")


def test_all_features_there_can_be(front, said):
    assert front.acked(SET_FEATURES, struct.pack("<Q", 2**64 - 1)) == 1
    [line] = said()
    assert f"{WHO}SET_FEATURES: features that are not offered: 0, 3, 4, 5, 7, 8, " in line, "as many as fit"


def test_devices_before_virtio_1(front, said):
    assert front.acked(SET_FEATURES, struct.pack("<Q", front.features & ~vhost.F_VERSION_1)) == 1
    only(said(), "SET_FEATURES: only devices of virtio 1.0 and newer are served (VIRTIO_F_VERSION_1)")


def test_more_rings_than_there_are(front, said):
    assert front.acked(SET_VRING_ENABLE, struct.pack("<II", 128, 1)) == 1
    only(said(), "SET_VRING_ENABLE: there is no such ring: the front-end has more queues than the device")


def test_a_ring_of_which_nothing_was_said(front, said):
    front.share()
    queue = vhost.Queue(vhost.SplitRing(front.memory, 16))
    front.queues.append(queue)
    assert start(front, queue) == 1
    only(said(), "SET_VRING_KICK: its size, or where it is, was not said yet")


def test_addresses_that_are_aligned_wrongly(front, said):
    front.share()
    queue = prepare(front)
    at = front.memory.to_user(queue.ring.desc)
    front.do(SET_VRING_ADDR, struct.pack("<IIQQQQ", 0, 0, at + 8, at, at, 0))
    assert start(front, queue) == 1
    assert "the ring is not in memory that is shared" in said()[0]
