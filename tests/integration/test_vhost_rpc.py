# SPDX-License-Identifier: BSD-3-Clause
"""Devices of virtual machines, made and changed by calls, and by the command line."""
import grp
import json
import os
import socket
import stat
import struct

import host
import pytest
import vhost
from rpc import Server, refused_start
from target import Target, wait_until
from vhost import FLUSH, GET_ID, GET_STATUS, IN, IOERR, MIB, OK, OUT, SET_BACKEND_REQ_FD, Frontend

NO_DEVICE, EXISTS = -19, -17


@pytest.fixture
def server(tmp_path):
    with Server(options=["--vhost", tmp_path]) as running:
        yield running


@pytest.fixture
def client(server):
    with_disk = server.client()
    with_disk.call("bdev_malloc_create", name="m", num_blocks=2048, block_size=512)
    return with_disk


def test_a_device_from_beginning_to_end(client, tmp_path):
    assert client.call("vhost_get_controllers") == []
    assert client.call("vhost_create_blk_controller", ctrlr="d0", dev_name="m") is True
    assert stat.S_IMODE(os.stat(tmp_path / "d0").st_mode) == 0o600
    [device] = client.call("vhost_get_controllers")
    assert device["ctrlr"] == "d0" and device["socket"] == str(tmp_path / "d0")
    assert (device["delay_base_us"], device["iops_threshold"], device["cpumask"]) == (0, 0, "")
    block = device["backend_specific"]["block"]
    assert (block["bdev"], block["readonly"], block["transport"]) == ("m", False, "vhost_user_blk")
    with Frontend(tmp_path / "d0") as front:
        front.start(queues=2)
        assert front.write(0, b"x" * 512) == OK
        device = client.call("vhost_get_controllers", name="d0")[0]
        assert (device["connections"], device["rings"], device["broken_rings"]) == (1, 2, 0)
        front.queues[1].ring.add([(0, 512, 0)])
        front.queues[1].notify()
        assert front.queues[1].failed()
        assert client.call("vhost_get_controllers")[0]["broken_rings"] == 1
        assert client.call("vhost_delete_controller", ctrlr="d0") is True
        assert front.ended()
    assert client.call("vhost_get_controllers") == [] and not os.listdir(tmp_path)
    assert client.call("bdev_malloc_delete", name="m") is True


def test_options(client, tmp_path):
    client.call("vhost_create_blk_controller", ctrlr="d0", dev_name="m", readonly=True, num_queues=3, queue_size=16,
                serial="one")
    with Frontend(tmp_path / "d0") as front:
        front.start()
        assert front.offered & vhost.F_RO and not front.offered & (vhost.F_PACKED | vhost.F_DISCARD)
        assert front.ask_u64(vhost.GET_QUEUE_NUM) == 3
        assert struct.unpack_from("<I", front.config(), 12) == (14,), "what fits in 16 descriptors"
        assert front.run(vhost.GET_ID, into=20)[1] == b"one".ljust(20, b"\0")
        assert front.write(0, bytes(512)) == IOERR and front.read(0, 512)[0] == OK
        for kind in (vhost.DISCARD, vhost.WRITE_ZEROES):
            assert front.run(kind, out=struct.pack("<QII", 0, 1, 0))[0] == IOERR
        assert front.run(FLUSH)[0] == OK


def test_what_cannot_be_made(client, tmp_path):
    refused = lambda **p: client.refused("vhost_create_blk_controller", **p)  # noqa: E731
    assert refused(ctrlr="d0", dev_name="none")[0] == NO_DEVICE
    for name in ("../d0", "/d0", ".", "a/b"):
        assert "the name of a controller" in refused(ctrlr=name, dev_name="m")[1]
    assert "socket" in refused(ctrlr="x" * 100, dev_name="m")[1]
    assert "core" in refused(ctrlr="d0", dev_name="m", cpumask="[500]")[1]
    client.call("vhost_create_blk_controller", ctrlr="d0", dev_name="m")
    code, text = refused(ctrlr="d0", dev_name="m")
    assert code == EXISTS and "File exists" in text
    assert client.refused("vhost_delete_controller", ctrlr="d1")[0] == NO_DEVICE
    assert client.refused("vhost_get_controllers", name="d1")[0] == NO_DEVICE
    (tmp_path / "f").write_text("precious")
    assert refused(ctrlr="f", dev_name="m")[0] == EXISTS
    assert (tmp_path / "f").read_text() == "precious"


def test_a_dump_makes_it_again(client, server, tmp_path):
    client.call("vhost_create_blk_controller", ctrlr="d0", dev_name="m", packed_ring=True, serial="s")
    client.call("vhost_controller_set_coalescing", ctrlr="d0", delay_base_us=50, iops_threshold=1000)
    dump = client.dump()
    (server.folder / "config").write_text(json.dumps(dump))
    (tmp_path / "other").mkdir()
    with Server(options=["--vhost", tmp_path / "other", "-c", server.folder / "config"]) as again:
        other = again.client()
        assert other.dump() == dump
        device = other.call("vhost_get_controllers")[0]
        assert (device["delay_base_us"], device["iops_threshold"]) == (50, 1000)
        with Frontend(tmp_path / "other" / "d0", packed=True) as front:
            assert front.start().write(0, bytes(512)) == OK
    client.call("vhost_delete_controller", ctrlr="d0")
    assert "vhost_create_blk_controller" not in str(client.dump())


def test_a_larger_disk_is_told(client, tmp_path):
    client.call("bdev_null_create", name="n", num_blocks=2048, block_size=512)
    client.call("vhost_create_blk_controller", ctrlr="d0", dev_name="n")
    ours, theirs = socket.socketpair()
    ours.settimeout(vhost.LIMIT)
    with Frontend(tmp_path / "d0") as front:
        front.u64(SET_BACKEND_REQ_FD, 0, [theirs.fileno()])
        theirs.close()
        front.start()
        client.call("bdev_null_resize", name="n", new_size=4)
        assert ours.recv(100) == struct.pack("<III", 2, 1, 0)
        assert struct.unpack("<Q", front.config(0, 8)) == (8192,)
        assert front.read(8191, 512)[0] == OK
    assert ours.recv(1) == b"", "it is closed with the connection"


def test_coalescing(client, tmp_path):
    client.call("vhost_create_blk_controller", ctrlr="d0", dev_name="m")
    assert client.refused("vhost_controller_set_coalescing", ctrlr="d0", delay_base_us=5000, iops_threshold=1)
    with Frontend(tmp_path / "d0") as front:
        front.start()
        client.call("vhost_controller_set_coalescing", ctrlr="d0", delay_base_us=1000, iops_threshold=0)
        queue, (parts, _, _) = front.queues[0], front.request(FLUSH)
        queue.called()
        for _ in range(3000):  # until it is known that they are many
            front.submit(parts)
            assert vhost.readable(queue.call), "the guest is told before the reactor sleeps"
            queue.called()
            while queue.ring.take_used():
                pass
        assert client.call("vhost_get_controllers")[0]["delay_base_us"] == 1000


def test_a_device_goes_while_its_disk_is_slow(client, tmp_path):
    """Its requests are waited for; then the path is free again."""
    client.call("bdev_delay_create", base_bdev_name="m", name="slow", avg_read_latency=1000, p99_read_latency=1000,
                avg_write_latency=3000000, p99_write_latency=3000000)
    client.call("vhost_create_blk_controller", ctrlr="d0", dev_name="slow")
    front = Frontend(tmp_path / "d0").start()
    parts, _, status = front.request(OUT, 0, bytes(512))
    front.submit(parts)
    front.ask_u64(GET_STATUS)
    client.call("vhost_delete_controller", ctrlr="d0")
    assert front.status(status) == 0xff, "nothing is written after its end"
    client.call("vhost_create_blk_controller", ctrlr="d0", dev_name="slow")
    assert Frontend(tmp_path / "d0").start().read(0, 512)[0] == OK


def test_one_disk_over_both(tmp_path):
    """NVMe/TCP and vhost-user serve the same disk from one process."""
    with Target("ram:16M", options=["--vhost", tmp_path]) as running:
        assert wait_until(lambda: "qemu-system" in running.stdout and "vhost-user-blk-pci" in running.stdout)
        with Frontend(tmp_path / "ram0") as front, host.Controller(running.address, running.nqn, io_queues=1) as nvme:
            front.start()
            assert front.write(3, b"v" * 512) == OK
            assert nvme.read(1, 3, 1) == b"v" * 512


def test_a_device_that_waits_for_its_disk_delays_no_other_change(tmp_path):
    with Server("delay:[ram:8M]?write=60s", options=["--vhost", tmp_path]) as server:
        client, other = server.client(), server.client()
        with Frontend(tmp_path / "delay0") as front:
            front.start()
            front.submit(front.request(OUT, 0, bytes(512))[0])
            assert front.run(GET_ID, into=20)[0] == OK, "so that the write has been taken off the ring, too"
            client.send("vhost_delete_controller", {"ctrlr": "delay0"})
            assert wait_until(lambda: other.call("vhost_get_controllers") == [] or front.ended())
            assert other.call("bdev_null_create", name="n", num_blocks=8, block_size=512) == "n"
            client.close()


def test_rings_are_spread(tmp_path):
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("needs two cores")
    with Server("null:1T", options=["--vhost", tmp_path, "-m", f"{cores[0]},{cores[1]}"]) as server:
        client = server.client()
        with Frontend(tmp_path / "null0") as front:
            front.start(queues=2)
            before = [r["busy"] for r in client.call("framework_get_reactors")["reactors"]]
            for _ in range(500):
                for queue in range(2):
                    assert front.read(0, 512, queue=queue)[0] == OK
            after = [r["busy"] for r in client.call("framework_get_reactors")["reactors"]]
    assert all(b > a for a, b in zip(before[1:], after[1:])), "each reactor with rings has worked"


def test_a_directory_that_is_none(tmp_path):
    status, text = refused_start("--vhost", tmp_path / "nowhere", "ram:1M")
    assert status == 2 and "nowhere" in text and text.count("\n") == 1


def somebody_else(folder):
    """Has a command run as nobody, who can get to the folder."""
    if os.geteuid():
        return ()
    for each in (folder, *folder.parents[:-2]):
        each.chmod(0o755)
    return "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"


GROUP = os.getegid() if os.geteuid() else 4711


def whose(path):
    st = os.stat(path)
    return st.st_gid, stat.S_IMODE(st.st_mode)


def test_sockets_of_a_group(tmp_path):
    """All of them, also those that are made later; and nothing else."""
    with Server("ram:1M", options=["--vhost", tmp_path, "--socket-group", GROUP]) as server:
        client = server.client()
        client.call("bdev_null_create", name="n", num_blocks=8, block_size=512)
        client.call("vhost_create_blk_controller", ctrlr="d0", dev_name="n")
        client.call("vhost_create_scsi_controller", ctrlr="s0")
        for name in ("ram0", "d0", "s0"):
            assert whose(tmp_path / name) == (GROUP, 0o660), name
            assert whose(tmp_path / f"{name}.lock")[1] == 0o600
        assert whose(server.path)[1] == 0o600, "the control socket is nobody else's"
        assert Frontend(tmp_path / "d0").start().run(IN, into=512)[0] == OK


def test_a_group_by_its_name(tmp_path):
    name = grp.getgrgid(os.getegid()).gr_name
    with Server("ram:1M", options=["--vhost", tmp_path, "--socket-group", name]):
        assert whose(tmp_path / "ram0") == (os.getegid(), 0o660)


@pytest.mark.parametrize("group", ["no-such-group", "-1", "4294967295", "12x", ""])
def test_a_group_that_is_none(tmp_path, group):
    status, text = refused_start("--vhost", tmp_path, f"--socket-group={group}", "ram:1M")
    assert status == 2 and "there is no such group" in text and text.count("\n") == 1


@pytest.mark.parametrize("disks", [["ram:1M"], []], ids=["disk", "later"])
def test_a_group_that_the_user_is_not_in(tmp_path, disks):
    """It is said at the start, also where there is no socket yet."""
    prefix = somebody_else(tmp_path)
    tmp_path.chmod(0o777)
    words = ("--vhost", tmp_path, "--socket-group", "0", "-r", tmp_path / "c", *disks)
    status, text = refused_start(*words, prefix=prefix)
    assert status == 2 and "--socket-group 0: Operation not permitted" in text and text.count("\n") == 1
    assert not os.listdir(tmp_path)


def test_a_group_of_no_sockets():
    status, text = refused_start("--socket-group", GROUP, "ram:1M")
    assert status == 2 and "--vhost" in text and text.count("\n") == 1


def test_a_file_is_no_directory(tmp_path):
    (tmp_path / "f").touch(0o777)
    status, text = refused_start("--vhost", tmp_path / "f", "ram:1M")
    assert status == 2 and "Not a directory" in text and text.count("\n") == 1


def test_a_directory_that_is_not_to_be_written(tmp_path):
    prefix = somebody_else(tmp_path)
    tmp_path.chmod(0o555)
    status, text = refused_start("--vhost", tmp_path, "ram:1M", prefix=prefix)
    tmp_path.chmod(0o755)
    assert status == 2 and text.count("\n") == 1
    assert f"--vhost {tmp_path}: Permission denied; name a directory that sockets can be made in" in text


def test_a_directory_that_is_not_there_any_more(tmp_path):
    """When a device is made by a call."""
    sockets = tmp_path / "sockets"
    sockets.mkdir()
    with Server("ram:1M", options=["--vhost", sockets]) as server, server.client() as client:
        client.call("vhost_delete_controller", ctrlr="ram0")
        sockets.rmdir()
        code, text = client.refused("vhost_create_blk_controller", ctrlr="d0", dev_name="ram0")
        assert code == -2 and f"cannot make {sockets}/d0.lock" in text and "can be written to" in text


def test_a_second_process_on_the_same_sockets(tmp_path):
    with Server("ram:1M", options=["--vhost", tmp_path]):
        status, text = refused_start("--vhost", tmp_path, "ram:1M")
        assert status == 2 and "another process" in text


def test_what_a_dead_process_left_behind_is_replaced(tmp_path):
    first = Server("ram:1M", options=["--vhost", tmp_path]).start()
    first.kill()
    assert (tmp_path / "ram0").exists()
    with Server("ram:1M", options=["--vhost", tmp_path]):
        assert Frontend(tmp_path / "ram0").start().run(IN, into=512)[0] == OK
