# SPDX-License-Identifier: BSD-3-Clause
"""What an operator is told of virtual machines: who is connected, since when, and what is stuck where."""
import os
import re
import struct
import threading

import pytest
import vhost
import vhost_scsi
from ctl import ctl
from rpc import Server
from target import wait_until
from vhost import FLUSH, GET_ID, GET_VRING_BASE, IN, OK, OUT, SET_VRING_KICK, Frontend

KINDS = pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])


@pytest.fixture
def server(tmp_path):
    """Writes to `delay0` take a minute; those to `error0` never end."""
    with Server("ram:8M", "delay:[ram:8M]?write=60s", "error:[ram:8M]?type=pending&io=write",
                options=["--vhost", tmp_path]) as running:
        yield running


@pytest.fixture
def client(server):
    return server.client()


@pytest.fixture
def connect(server, tmp_path):
    made = []

    def make(disk, start=True, **options):
        front = Frontend(tmp_path / disk, **options)
        made.append(front)
        return front.start() if start else front

    yield make
    for front in made:
        front.close()


def told(client, name):
    [device] = client.call("vhost_get_controllers", name=name)
    return device


def session(client, name):
    [one] = told(client, name)["sessions"]
    return one


def is_state(client, name, state):
    assert wait_until(lambda: told(client, name)["state"] == state), told(client, name)
    return True


def stick(front, queue=0):
    """A write that does not end; it has been taken off the ring."""
    front.submit(front.request(OUT, 0, bytes(512))[0], queue)
    assert front.run(GET_ID, into=20, queue=queue)[0] == OK


def test_what_the_peer_tells_is_there(client, connect):
    """Members that SPDK has, of devices and of sessions."""
    connect("ram0")
    device = told(client, "ram0")
    assert set("ctrlr cpumask delay_base_us iops_threshold socket sessions backend_specific".split()) <= set(device)
    [one] = device["sessions"]
    assert (one["vid"], one["id"], one["started"], one["max_queues"], one["inflight_task_cnt"]) == (0, 0, True, 128, 0)
    assert str(os.getpid()) in one["name"]


def test_from_waiting_to_draining(client, connect):
    """Each state, and for how long; a request in flight is seen wherever the connection is."""
    client.call("bdev_malloc_create", name="m", num_blocks=2048, block_size=512)
    client.call("bdev_error_create", base_name="m")
    client.call("bdev_error_inject_error", name="EE_m", io_type="write", error_type="pending", num=100)
    client.call("vhost_create_blk_controller", ctrlr="d0", dev_name="EE_m")
    is_state(client, "d0", "waiting")
    assert told(client, "d0")["sessions"] == []
    before = told(client, "d0")["state_ms"]
    assert wait_until(lambda: told(client, "d0")["state_ms"] > before)
    front = connect("d0", start=False)
    is_state(client, "d0", "connected")
    one = session(client, "d0")
    assert (one["pid"], one["uid"], one["started"]) == (os.getpid(), os.geteuid(), False)
    front.start()
    is_state(client, "d0", "started")
    stick(front)
    assert (told(client, "d0")["in_flight"], session(client, "d0")["inflight_task_cnt"]) == (1, 1)
    front.send(GET_VRING_BASE, struct.pack("<II", 0, 0))
    is_state(client, "d0", "stopping")
    assert told(client, "d0")["in_flight"] == 1
    front.socket.close()
    is_state(client, "d0", "draining")
    device = told(client, "d0")
    assert (device["connections"], device["draining"], device["in_flight"]) == (0, 1, 1)
    again = connect("d0", start=False)
    is_state(client, "d0", "connected")
    again.share()
    queue = vhost.Queue(vhost.SplitRing(again.memory, 16))
    again.queues.append(queue)
    again.setup_ring(0, queue)
    again.send(SET_VRING_KICK, struct.pack("<Q", 0), [queue.kick])
    is_state(client, "d0", "held")
    states = {one["state"]: one for one in told(client, "d0")["sessions"]}
    assert set(states) == {"held", "draining"} and states["draining"]["in_flight"] == 1
    client.call("bdev_error_inject_error", name="EE_m", io_type="clear", error_type="pending")
    is_state(client, "d0", "started")
    assert wait_until(lambda: len(told(client, "d0")["sessions"]) == 1)


def test_a_ring_that_was_stopped_is_not_told_of(client, connect):
    front = connect("ram0")
    assert len(session(client, "ram0")["rings"]) == 1
    front.stop_ring(0)
    assert session(client, "ram0")["rings"] == []
    is_state(client, "ram0", "connected")


@KINDS
@pytest.mark.parametrize("disk, where", [("error0", "in error0"), ("delay0", "in delay0")])
def test_a_stuck_request_grows_old(client, connect, packed, disk, where):
    """Of the second of two rings; the age is that of the oldest, and the first ring has none."""
    front = connect(disk, start=False, packed=packed).start(queues=2)
    stick(front, 1)
    ages = []

    def older():
        device = told(client, disk)
        one = device["sessions"][0]
        idle, stuck = one["rings"]
        assert (idle["in_flight"], idle["oldest_ms"], stuck["in_flight"]) == (0, 0, 1)
        assert device["oldest_ms"] == one["oldest_ms"] == stuck["oldest_ms"]
        ages.append(stuck["oldest_ms"])
        if ages[-1]:
            assert device["oldest_where"] == one["oldest_where"] == stuck["oldest_where"]
            assert stuck["oldest_where"] == where
        return len(set(ages)) > 3
    assert wait_until(older) and ages == sorted(ages)
    first = told(client, disk)["oldest_ms"]
    stick(front, 0)
    device = told(client, disk)
    assert device["in_flight"] == 2 and device["oldest_ms"] >= first, "a younger one does not make it younger"


def test_a_stuck_request_of_a_unit_grows_old(client, tmp_path):
    client.call("vhost_create_scsi_controller", ctrlr="s0")
    client.call("vhost_scsi_controller_add_target", ctrlr="s0", scsi_target_num=0, bdev_name="error0")
    with vhost_scsi.ScsiFrontend(tmp_path / "s0") as guest:
        guest.start()
        guest.begin(vhost_scsi.rw10(0x2a, 0, 1), out=bytes(512))
        assert wait_until(lambda: told(client, "s0")["oldest_ms"] > 1)
        device = told(client, "s0")
        assert device["in_flight"] == 1 and device["oldest_where"] == "in error0"
        assert [ring["in_flight"] for ring in device["sessions"][0]["rings"]] == [0, 0, 1]


@KINDS
def test_rings(client, connect, packed):
    front = connect("ram0", start=False, packed=packed)
    front.share()
    make = vhost.PackedRing if packed else vhost.SplitRing
    for i, size in enumerate((16, 64)):
        front.queues.append(vhost.Queue(make(front.memory, size)))
        front.start_ring(i, front.queues[i])
    for _ in range(5):
        assert front.read(0, 512, queue=1)[0] == OK
    idle, used = session(client, "ram0")["rings"]
    assert [(r["index"], r["size"], r["layout"]) for r in (idle, used)] == [
        (0, 16, "packed" if packed else "split"), (1, 64, "packed" if packed else "split")]
    assert (idle["requests"], used["requests"], used["in_flight"]) == (0, 5, 0)
    assert (idle["calls"], idle["kicks"]) == (1, 0), "one when it began"
    assert used["calls"] == 6
    queue = front.queues[1]
    queue.ring.no_interrupts()
    for _ in range(3):
        front.submit(front.request(FLUSH)[0], 1)
        assert wait_until(queue.ring.take_used)
    assert wait_until(lambda: session(client, "ram0")["rings"][1]["requests"] == 8)
    assert session(client, "ram0")["rings"][1]["calls"] == 6, "nobody wanted to be told"
    kicks = session(client, "ram0")["rings"][1]["kicks"]
    queue.kicked = 8

    def kick():  # it looks whether it was kicked for nothing, after so many times
        queue.notify()
        queue.kicked += 1
        return session(client, "ram0")["rings"][1]["kicks"] > kicks
    assert wait_until(kick) and session(client, "ram0")["rings"][1]["kicks"] <= queue.kicked


def test_a_ring_that_is_broken_says_why(client, connect):
    front = connect("ram0", start=False).start(queues=2)
    front.queues[1].ring.add([(0, 512, 0)])
    front.queues[1].notify()
    assert front.queues[1].failed()
    fine, broken = session(client, "ram0")["rings"]
    assert "broken" not in fine and "address" in broken["broken"]


def test_several_front_ends_and_devices(client, connect):
    connect("ram0", start=False)
    connect("ram0")
    connect("delay0", start=False)
    devices = {device["ctrlr"]: device for device in client.call("vhost_get_controllers")}
    assert {name: device["state"] for name, device in devices.items()} == {
        "ram0": "started", "delay0": "connected", "error0": "waiting"}
    assert [one["state"] for one in devices["ram0"]["sessions"]] == ["connected", "started"]
    assert [one["id"] for one in devices["ram0"]["sessions"]] == [0, 1]


def test_the_table(server, client, connect):
    stick(connect("error0"))
    assert wait_until(lambda: told(client, "error0")["oldest_ms"])
    head, *rows = ctl("-s", server.path, "vms").out.splitlines()
    assert head.split() == "DEVICE DISK STATE FOR PROCESS QUEUES IN FLIGHT OLDEST WHERE".split()
    stuck, waits = (next(row for row in rows if row.startswith(name)) for name in ("error0", "ram0"))
    for_long = r"\S+ m?s"
    assert re.fullmatch(rf"error0 +error0 +started +{for_long} +{os.getpid()} +1 split of 64 +1 +{for_long} +in error0",
                        stuck)
    assert re.fullmatch(r"ram0 +ram0 +waiting +\S+ m?s +- +- +0 +- +-", waits)


def test_who_is_asked_about_comes_and_goes(server, client, tmp_path):
    """Connections that end, rings that stop and devices that are deleted, while all of them are looked into."""
    over = threading.Event()
    seen = []

    def ask():
        with server.client() as other:
            while not over.is_set():
                seen.extend(one["state"] for device in other.call("vhost_get_controllers")
                            for one in device["sessions"])

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for asker in askers:
        asker.start()
    try:
        client.call("bdev_malloc_create", name="m", num_blocks=2048, block_size=512)
        for n in range(40):
            client.call("vhost_create_blk_controller", ctrlr="d0", dev_name="m", packed_ring=True)
            fronts = [Frontend(tmp_path / "d0", packed=n % 2 == 0).start(queues=3) for _ in range(2)]
            for front in fronts:
                for q in range(3):
                    front.submit(front.request(IN, 0, into=4096)[0], q)
            fronts[0].stop_ring(n % 3)
            fronts[n % 2].close()
            client.call("vhost_delete_controller", ctrlr="d0")
            fronts[1 - n % 2].close()
    finally:
        over.set()
        for asker in askers:
            asker.join()
    assert "started" in seen and client.call("bdev_malloc_delete", name="m") is True
