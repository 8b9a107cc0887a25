# SPDX-License-Identifier: BSD-3-Clause
"""Disks that go while virtual machines have them: deleted by a call, or gone at the target that they come from. A block
device stays without a disk, a SCSI host loses the unit; nobody waits for ever, and nothing breaks."""
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading

import pytest
import vhost
import vhost_backend
import vhost_scsi as scsi
from rpc import Server, listen
from target import wait_until
from vhost import (DISCARD, FLUSH, GET_ID, GET_VRING_BASE, IN, IOERR, MIB, OK, OUT, SET_BACKEND_REQ_FD,
                   WRITE_ZEROES, Frontend)
from vhost_scsi import ScsiFrontend, rw10

KINDS = pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
NQN = "nqn.2026-01.org.example:far"
CORES = ",".join(map(str, sorted(os.sched_getaffinity(0))[:2]))
BUSY = -16


@pytest.fixture
def server(tmp_path):
    with Server(options=["--vhost", tmp_path, "-m", CORES]) as running:
        yield running


@pytest.fixture
def client(server):
    with_disk = server.client()
    with_disk.call("bdev_malloc_create", name="m", num_blocks=8 * MIB // 512, block_size=512)
    return with_disk


def device(client, name="d0", **options):
    disk = options.pop("disk", "m")
    client.call("vhost_create_blk_controller", ctrlr=name, dev_name=disk, packed_ring=True, **options)


def block(client, name="d0"):
    return client.call("vhost_get_controllers", name=name)[0]["backend_specific"]["block"]


def capacity(front):
    return struct.unpack("<Q", front.config(0, 8))[0]


def all_fails(front, queue=0):
    """What there is to ask a disk for; but it is still called what it was, and its ring is not broken."""
    a_range = struct.pack("<QII", 0, 8, 0)
    for kind, more in ((IN, {"into": 4096}), (OUT, {"out": bytes(4096)}), (FLUSH, {}), (DISCARD, {"out": a_range}),
                       (WRITE_ZEROES, {"out": a_range})):
        assert front.run(kind, queue=queue, **more)[0] == IOERR, kind
    assert front.run(GET_ID, into=20, queue=queue)[0] == OK
    return True


class Load(threading.Thread):
    """A guest that has eight requests in flight, until it is told to end."""

    def __init__(self, front):
        super().__init__()
        self.front, self.statuses, self.over, self.problem = front.start(queues=2), [], threading.Event(), None

    def run(self):
        try:
            for queue in (0, 1):
                self.load(queue)
        except Exception as error:  # pylint: disable=broad-except  # told by whoever waits for it
            self.problem = error

    def load(self, queue):
        """The first ring until there are errors, and then the other one."""
        front, under_way, over = self.front, {}, False
        places = [front.request(kind, 8 * n, **({"into": 4096} if kind == IN else {"out": bytes(4096)}))
                  for n, kind in enumerate((IN, OUT) * 4)]
        while under_way or not over:
            over = self.over.is_set() or (queue == 0 and self.statuses and self.statuses[-1] == IOERR)
            for parts, _, status in () if over else places:
                if status not in under_way.values():
                    front.memory.put(status, b"\xff")
                    under_way[front.submit(parts, queue)] = status
            if under_way:
                ident, _ = front.queues[queue].wait()
                self.statuses.append(front.status(under_way.pop(ident)))

    def ended(self):
        self.over.set()
        self.join()
        if self.problem:
            raise self.problem
        return self.statuses


@KINDS
def test_under_load(client, tmp_path, packed):
    """Every request ends, first well, then with errors; and then there is another disk behind the same socket."""
    device(client)
    loads = [Load(Frontend(tmp_path / "d0", packed=packed)) for _ in range(2)]
    for load in loads:
        load.start()
    assert wait_until(lambda: all(len(load.statuses) > 50 for load in loads))
    assert client.call("bdev_malloc_delete", name="m") is True
    assert wait_until(lambda: all(load.statuses[-1] == IOERR for load in loads))
    for load in loads:
        statuses = load.ended()
        assert set(statuses) == {OK, IOERR}
        assert all_fails(load.front)
    told = client.call("vhost_get_controllers")[0]
    assert (told["broken_rings"], told["in_flight"], told["connections"]) == (0, 0, 2)
    assert client.call("vhost_delete_controller", ctrlr="d0") is True
    for load in loads:
        assert load.front.ended()
        load.front.close()
    client.call("bdev_malloc_create", name="m", num_blocks=2048, block_size=512)
    device(client)
    with Frontend(tmp_path / "d0", packed=packed) as front:
        assert front.start().write(0, b"x" * 512) == OK and front.read(0, 512) == (OK, b"x" * 512)


@KINDS
def test_what_a_guest_is_told(client, tmp_path, packed):
    """Its disk has no capacity any more; what was offered stays, as does the device for whoever connects."""
    device(client, serial="one")
    ours, theirs = socket.socketpair()
    ours.settimeout(vhost.LIMIT)
    front = Frontend(tmp_path / "d0", packed=packed)
    front.u64(SET_BACKEND_REQ_FD, 0, [theirs.fileno()])
    theirs.close()
    front.start()
    before = front.config()
    assert capacity(front) == 8 * MIB // 512
    client.call("bdev_malloc_delete", name="m")
    assert ours.recv(100) == struct.pack("<III", 2, 1, 0)
    assert capacity(front) == 0 and front.config()[8:] == before[8:]
    assert all_fails(front)
    assert block(client)["bdev"] is None and block(client)["serial"] == "one"
    with Frontend(tmp_path / "d0", packed=packed) as other:
        assert other.offered == front.offered and capacity(other) == 0
        other.start(queues=2)
        assert all_fails(other, queue=1)
        assert other.run(GET_ID, into=20)[1] == b"one".ljust(20, b"\0")
    front.close()


def stuck(client, kind):
    """A disk on m whose writes do not end."""
    if kind == "pending":
        client.call("bdev_error_create", base_name="m")
        client.call("bdev_error_inject_error", name="EE_m", io_type="all", error_type="pending", num=1000)
        return "EE_m"
    client.call("bdev_delay_create", base_bdev_name="m", name="slow", avg_read_latency=60_000_000,
                p99_read_latency=60_000_000, avg_write_latency=60_000_000, p99_write_latency=60_000_000)
    return "slow"


@KINDS
@pytest.mark.parametrize("kind", ["pending", "delay"])
@pytest.mark.parametrize("which", ["it", "the one below"])
def test_requests_that_do_not_end(client, tmp_path, packed, kind, which):
    """They are ended; also those that consist of several."""
    disk = stuck(client, kind)
    device(client, disk=disk)
    with Frontend(tmp_path / "d0", packed=packed) as front:
        front.start(queues=2)
        made = [front.request(OUT, 0, bytes(4096)), front.request(IN, 8, into=4096), front.request(OUT, 16, bytes(512))]
        if kind == "pending":
            made[2] = front.request(WRITE_ZEROES, out=struct.pack("<QII", 0, 8, 0) * 20)
        for n, (parts, _, _) in enumerate(made):
            front.submit(parts, n % 2)
        for queue in (0, 1):
            assert front.run(GET_ID, into=20, queue=queue)[0] == OK
        assert client.call("vhost_get_controllers")[0]["in_flight"] == 3
        method = {"EE_m": "bdev_error_delete", "slow": "bdev_delay_delete"}[disk]
        client.call("bdev_malloc_delete" if which == "the one below" else method,
                    name="m" if which == "the one below" else disk)
        assert wait_until(lambda: [front.status(status) for _, _, status in made] == [IOERR] * 3)
        for queue, n in ((0, 2), (1, 1)):
            for _ in range(n):
                front.queues[queue].wait()
        assert all_fails(front)
    left = [] if which == "the one below" else ["m"]
    assert [b["name"] for b in client.call("bdev_get_bdevs")] == left


def test_it_is_in_no_configuration(client, server, tmp_path):
    """As what it says could not be made again."""
    device(client)
    client.call("vhost_create_scsi_controller", ctrlr="s0")
    client.call("vhost_scsi_controller_add_target", ctrlr="s0", scsi_target_num=0, bdev_name="m")
    client.call("bdev_malloc_delete", name="m")
    dump = client.dump()
    assert "d0" not in str(dump) and "add_target" not in str(dump) and "s0" in str(dump)
    (server.folder / "config").write_text(json.dumps(dump))
    (tmp_path / "other").mkdir()
    with Server(options=["--vhost", tmp_path / "other", "-c", server.folder / "config"]) as again:
        assert [c["ctrlr"] for c in again.client().call("vhost_get_controllers")] == ["s0"]


@pytest.mark.parametrize("in_flight", [False, True], ids=["idle", "stuck"])
def test_a_unit(client, tmp_path, in_flight):
    """It is taken away, and guests hear of it; other units stay."""
    disk = stuck(client, "pending") if in_flight else "m"
    client.call("bdev_null_create", name="n", num_blocks=2048, block_size=512)
    client.call("vhost_create_scsi_controller", ctrlr="s0")
    for target, name in ((0, disk), (1, "n")):
        client.call("vhost_scsi_controller_add_target", ctrlr="s0", scsi_target_num=target, bdev_name=name)
    with ScsiFrontend(tmp_path / "s0") as front:
        front.start()
        if in_flight:
            _, response = front.begin(rw10(0x2a, 0, 1), out=bytes(512), tag=1)
            assert wait_until(lambda: front.function(scsi.QUERY_TASK, tag=1) == scsi.FUNCTION_SUCCEEDED)
        place = front.post_event()
        assert client.call("bdev_malloc_delete", name="m") is True
        assert front.event(place) == (scsi.TRANSPORT_RESET, 0, 0, scsi.REMOVED)
        if in_flight:
            front.queues[scsi.REQUESTS].wait()
            assert not front.answer_at(response, 0, 0, 0).good
        assert front.command(rw10(0x28, 0, 1), into=512).response == scsi.BAD_TARGET
        assert wait_until(lambda: front.command(rw10(0x28, 0, 1), target=1, into=512).good)
    client.call("bdev_malloc_create", name="m", num_blocks=2048, block_size=512)
    client.call("vhost_scsi_controller_add_target", ctrlr="s0", scsi_target_num=0, bdev_name="m")
    assert client.call("vhost_delete_controller", ctrlr="s0") is True


def test_gone_at_its_target(client, server, tmp_path):
    """A namespace that is removed there takes the disk away here; the device, and its deletion, are not held up."""
    with Server() as far:
        there = far.client()
        there.call("bdev_malloc_create", name="x", num_blocks=4096, block_size=512)
        there.call("nvmf_create_transport", trtype="TCP")
        there.call("nvmf_create_subsystem", nqn=NQN, allow_any_host=True)
        there.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "x"})
        port = listen(there, NQN)
        [disk] = client.call("bdev_nvme_attach_controller", name="far", trtype="tcp", traddr="127.0.0.1", adrfam="ipv4",
                             trsvcid=str(port), subnqn=NQN)
        device(client, disk=disk)
        client.call("vhost_create_scsi_controller", ctrlr="s0")
        client.call("vhost_scsi_controller_add_target", ctrlr="s0", scsi_target_num=3, bdev_name=disk)
        with Frontend(tmp_path / "d0") as front, ScsiFrontend(tmp_path / "s0") as units:
            assert front.start().write(0, b"f" * 512) == OK
            units.start()
            place = units.post_event()
            there.call("nvmf_subsystem_remove_ns", nqn=NQN, nsid=1)
            assert units.event(place) == (scsi.TRANSPORT_RESET, 3, 0, scsi.REMOVED)
            assert wait_until(lambda: block(client)["bdev"] is None)
            assert all_fails(front) and capacity(front) == 0
            assert wait_until(lambda: disk not in [b["name"] for b in client.call("bdev_get_bdevs")]), server.stderr
            assert client.call("vhost_delete_controller", ctrlr="d0") is True
            device(client)
        with Frontend(tmp_path / "d0") as front:
            assert front.start().read(0, 512)[0] == OK


def test_what_was_in_flight_comes_back_to_no_disk(client, tmp_path):
    """A front-end that connects again has requests done that its region holds: they fail, and are told so."""
    disk = stuck(client, "pending")
    device(client, disk=disk)
    with Frontend(tmp_path / "d0") as front:
        front.get_inflight(1, 64)
        front.set_inflight()
        front.start()
        parts, _, status = front.request(OUT, 0, bytes(512))
        front.submit(parts)
        assert front.run(GET_ID, into=20)[0] == OK
        front.socket.close()
        client.call("bdev_error_delete", name="EE_m")
        assert front.status(status) == 0xff, "it was nobody's to be told"
        front.reconnect()
        front.queues[0].wait()
        assert front.status(status) == IOERR and all_fails(front)


@pytest.fixture
def hung(client, tmp_path):
    """A disk whose requests cannot be ended: those of a back-end that is stopped."""
    image = tmp_path / "back.img"
    image.write_bytes(bytes(MIB))
    path = tmp_path / "back"
    with subprocess.Popen([sys.executable, vhost_backend.__file__, str(path), str(image), "{}"],
                          stdin=subprocess.DEVNULL) as backend:
        try:
            assert wait_until(path.exists)
            client.call("pollux_disk_open", url=f"vhost-user:{path}", name="hung")
            yield backend
        finally:
            backend.send_signal(signal.SIGCONT)
            backend.kill()


def begin_hung(client, backend, tmp_path):
    device(client, disk="hung")
    front = Frontend(tmp_path / "d0").start()
    assert front.read(0, 512)[0] == OK
    backend.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, backend.pid, os.WSTOPPED | os.WNOWAIT)
    front.submit(front.request(OUT, 0, bytes(512))[0])
    assert front.run(GET_ID, into=20)[0] == OK
    return front


def test_requests_that_cannot_be_ended(client, hung, tmp_path):
    """The deletion says who has the disk yet, and holds nobody up; a later one succeeds."""
    front = begin_hung(client, hung, tmp_path)
    code, text = client.refused("pollux_disk_close", name="hung")
    assert code == BUSY and str(tmp_path / "d0") in text
    assert all_fails(front, 0), "there is none any more for what comes"
    assert client.call("vhost_get_controllers")[0]["in_flight"] == 1
    hung.send_signal(signal.SIGCONT)
    assert wait_until(lambda: block(client)["bdev"] is None)
    assert client.call("pollux_disk_close", name="hung") is True
    front.close()


def test_a_device_is_deleted_while_its_disk_goes(client, server, hung, tmp_path):
    front = begin_hung(client, hung, tmp_path)
    assert client.refused("pollux_disk_close", name="hung")[0] == BUSY
    with server.client() as other:
        other.send("vhost_delete_controller", {"ctrlr": "d0"})
        assert front.ended()
        assert client.call("bdev_null_create", name="n", num_blocks=8, block_size=512) == "n"
        hung.send_signal(signal.SIGCONT)
        assert other.receive()["result"] is True
    assert client.call("pollux_disk_close", name="hung") is True
    front.close()


def test_a_ring_is_stopped_while_its_disk_goes(client, hung, tmp_path):
    """The front-end waits for what is in flight, as ever."""
    front = begin_hung(client, hung, tmp_path)
    assert client.refused("pollux_disk_close", name="hung")[0] == BUSY
    front.send(GET_VRING_BASE, struct.pack("<II", 0, 0))
    assert wait_until(lambda: client.call("vhost_get_controllers")[0]["state"] == "stopping")
    hung.send_signal(signal.SIGCONT)
    body, _ = front.receive(GET_VRING_BASE)
    assert struct.unpack("<II", body) == (0, front.queues[0].ring.base())
    assert wait_until(lambda: block(client)["bdev"] is None)
    front.start_ring(0, front.queues[0])
    front.queues[0].wait()
    assert all_fails(front)
    front.close()


def test_front_ends_come_and_go_while_disks_do(client, tmp_path):
    for n in range(25):
        device(client)
        fronts = [Frontend(tmp_path / "d0", packed=n % 2 == 0).start(queues=3) for _ in range(3)]
        for front in fronts:
            for queue in range(3):
                front.submit(front.request(IN, 0, into=4096)[0], queue)
        fronts[0].socket.close()
        client.send("bdev_malloc_delete", {"name": "m"})
        fronts[1].socket.close()
        late = Frontend(tmp_path / "d0")
        assert client.receive()["result"] is True
        late.start()
        assert all_fails(late)
        for front in (*fronts, late):
            front.close()
        client.call("vhost_delete_controller", ctrlr="d0")
        client.call("bdev_malloc_create", name="m", num_blocks=8 * MIB // 512, block_size=512)
