# SPDX-License-Identifier: BSD-3-Clause
"""Logical volumes that are inflated, decoupled, given another parent, and copied: as the other server's tests have it,
and what those leave out."""
import random
import threading

import pytest

import sqe
from host import Controller
from spec import Sc
from test_pool import disk_of, put, run, told, volumes
from test_lvol import (BLOCK, EBUSY, EEXIST, EINVAL, ENODEV, ENOSPC, EPERM, MIB, NQN,
                       Kept, create, lvol, make, names, serve)
from target import wait_until

CLUSTER = MIB
BLOCKS = CLUSTER // BLOCK  # of a cluster


def fill(host, nsid, clusters, byte):
    for cluster in clusters:
        for at in range(0, BLOCKS, 32):
            host.write(nsid, cluster * BLOCKS + at, bytes([byte]) * (32 * BLOCK), BLOCK)


def pattern(host, nsid, clusters):
    """The byte that each cluster is full of."""
    found = []
    for cluster in range(clusters):
        data = b"".join(host.read(nsid, cluster * BLOCKS + at, 32, BLOCK) for at in range(0, BLOCKS, 32))
        assert len(set(data)) == 1
        found.append(data[0])
    return found


def namespace(client, name):
    client.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": name})


def test_decouple_parent():
    """test_clone_decouple_parent of the other server."""
    with Kept() as server, server.client() as client:
        make(server, client, CLUSTER)
        create(client, "v", 5)
        code, said = client.refused("bdev_lvol_decouple_parent", name="lvs0/v")
        assert code == EINVAL and "Invalid argument" in said
        with Controller(serve(client, "lvs0/v"), NQN, io_queues=1) as host:
            fill(host, 1, range(4), 0xdd)
            client.call("bdev_lvol_snapshot", lvol_name="lvs0/v", snapshot_name="s1")
            fill(host, 1, (1, 3), 0xcc)
            client.call("bdev_lvol_snapshot", lvol_name="lvs0/v", snapshot_name="s2")
            fill(host, 1, (1,), 0xee)
            wanted = [0xdd, 0xee, 0xdd, 0xcc, 0]
            assert pattern(host, 1, 5) == wanted
            assert client.call("bdev_lvol_decouple_parent", name="lvs0/v") is True
            now = lvol(client, "lvs0/v")
            assert now["thin_provision"] and now["clone"] and now["base_snapshot"] == "s1" and not now["snapshot"]
            assert not lvol(client, "lvs0/s1")["clone"] and lvol(client, "lvs0/s2")["clone"]
            assert lvol(client, "lvs0/s2")["snapshot"] and lvol(client, "lvs0/s2")["clones"] == []
            client.call("bdev_lvol_delete", name="lvs0/s2")
            assert pattern(host, 1, 5) == wanted
            client.call("bdev_lvol_decouple_parent", name="lvs0/v")
            now = lvol(client, "lvs0/v")
            assert now["thin_provision"] and not now["clone"] and "base_snapshot" not in now
            assert now["num_allocated_clusters"] == 4
            client.call("bdev_lvol_delete", name="lvs0/s1")
            assert pattern(host, 1, 5) == wanted and names(client) == ["lvs0/v"]
        server.restart(True)
        with server.client() as again, Controller(serve_again(again), NQN, io_queues=1) as host:
            assert pattern(host, 1, 5) == wanted


def serve_again(client):
    where = client.call("nvmf_subsystem_get_listeners", nqn=NQN)[0]["address"]
    return where["traddr"], int(where["trsvcid"])


def test_inflate():
    """test_clone_inflate of the other server."""
    with Kept() as server, server.client() as client:
        make(server, client, CLUSTER)
        create(client, "v", 16)
        with Controller(serve(client, "lvs0/v"), NQN, io_queues=1) as host:
            fill(host, 1, range(8), 0xcc)
            client.call("bdev_lvol_snapshot", lvol_name="lvs0/v", snapshot_name="s")
            fill(host, 1, (0, 6), 0xdd)
            [before] = client.call("bdev_lvol_get_lvstores")
            assert client.call("bdev_lvol_inflate", name="lvs0/v") is True
            now = lvol(client, "lvs0/v")
            assert not now["thin_provision"] and not now["clone"] and now["num_allocated_clusters"] == 16
            [after] = client.call("bdev_lvol_get_lvstores")
            assert before["free_clusters"] - after["free_clusters"] in (14, 15)
            client.call("bdev_lvol_delete", name="lvs0/s")
            assert pattern(host, 1, 9) == [0xdd] + [0xcc] * 5 + [0xdd, 0xcc, 0]
            client.call("bdev_lvol_inflate", name="lvs0/v")
            client.call("bdev_lvol_snapshot", lvol_name="lvs0/v", snapshot_name="t")
            code, said = client.refused("bdev_lvol_inflate", name="lvs0/t")
            assert code == EINVAL and "others go back to" in said


def test_inflate_needs_room():
    with Kept(mib=64) as server, server.client() as client:
        make(server, client, CLUSTER)
        create(client, "v", 100)
        [before] = client.call("bdev_lvol_get_lvstores")
        code, said = client.refused("bdev_lvol_inflate", name="lvs0/v")
        assert code == ENOSPC and "No space left" in said and "are free" in said
        assert client.call("bdev_lvol_get_lvstores") == [before] and lvol(client, "lvs0/v")["thin_provision"]


def snapshot_full_of(client, host, name, nsid, byte, mib=5):
    """A volume NAME_temp, namespace nsid, with a snapshot NAME."""
    create(client, f"{name}_temp", mib)
    namespace(client, f"lvs0/{name}_temp")
    fill(host, nsid, range(mib), byte)
    client.call("bdev_lvol_snapshot", lvol_name=f"lvs0/{name}_temp", snapshot_name=name)


@pytest.mark.parametrize("clone", [True, False], ids=["from snapshot", "from none"])
def test_set_parent(clone):
    """test_lvol_set_parent_from_snapshot and _from_none of the other server, with a host that goes on writing."""
    with Kept() as server, server.client() as client:
        make(server, client, CLUSTER)
        create(client, "v1", 5)
        with Controller(serve(client, "lvs0/v1"), NQN, io_queues=1) as host:
            fill(host, 1, range(5), 0xaa)
            snapshot_full_of(client, host, "s2", 2, 0xbb)
            client.call("bdev_lvol_snapshot", lvol_name="lvs0/v1", snapshot_name="s1")
            if clone:
                given = client.call("bdev_lvol_clone", snapshot_name="lvs0/s1", clone_name="v2")
            else:
                given = create(client, "v2", 5)
            namespace(client, "lvs0/v2")
            fill(host, 3, range(3), 0xcc)
            assert client.call("bdev_lvol_set_parent", lvol_name=given, parent_name="lvs0/s2") is True
            now = lvol(client, given)
            assert now["clone"] and now["base_snapshot"] == "s2" and not now["snapshot"] and not now["esnap_clone"]
            code, said = client.refused("bdev_lvol_set_parent", lvol_name="lvs0/v2", parent_name="lvs0/s2")
            assert code == EEXIST and "File exists" in said
            client.call("bdev_lvol_delete", name="lvs0/s2_temp")
            assert pattern(host, 3, 5) == [0xcc] * 3 + [0xbb] * 2
            assert client.call("bdev_lvol_detach_parent", name="lvs0/v2") is True
            assert pattern(host, 3, 5) == [0xcc] * 3 + [0] * 2 and not lvol(client, given)["clone"]
            assert client.refused("bdev_lvol_detach_parent", name="lvs0/v2")[0] == EINVAL


def test_set_parent_is_refused():
    """test_lvol_set_parent_failed of the other server, and more."""
    with Kept() as server, server.client() as client:
        make(server, client, CLUSTER)
        client.call("bdev_malloc_create", name="M", num_blocks=65536, block_size=512)
        client.call("bdev_lvol_create_lvstore", bdev_name="M", lvs_name="lvs1", cluster_sz=CLUSTER)
        for name, mib, thin, store in (("v", 8, True, "lvs0"), ("thick", 8, False, "lvs0"), ("other", 8, True, "lvs1"),
                                       ("small", 4, True, "lvs0")):
            create(client, name, mib, thin, store)
            if name != "thick":
                client.call("bdev_lvol_snapshot", lvol_name=f"{store}/{name}", snapshot_name=f"s_{name}")
        for params, code, words in (
                (("lvs0/v", "lvs1/s_other"), EINVAL, "another lvstore"),
                (("lvs0/v", "M"), ENODEV, "No such device"),
                (("lvs0/no", "lvs0/s_v"), ENODEV, "No such device"),
                (("lvs0/v", "lvs0/small"), EINVAL, "is no snapshot"),
                (("lvs0/v", "lvs0/s_small"), EINVAL, "sizes are to be the same"),
                (("lvs0/thick", "lvs0/s_v"), EINVAL, "is thick"),
                (("lvs0/s_v", "lvs0/s_small"), EINVAL, "others go back to")):
            got, said = client.refused("bdev_lvol_set_parent", lvol_name=params[0], parent_name=params[1])
            assert got == code and words in said, (params, got, said)


def test_a_replica_is_put_together():
    """As Longhorn does it: data comes into a volume, of which snapshots are made, which then get parents."""
    with Kept() as server, server.client() as client:
        make(server, client, CLUSTER)
        create(client, "r", 6)
        with Controller(serve(client, "lvs0/r"), NQN, io_queues=1) as host:
            fill(host, 1, range(6), 1)
            client.call("bdev_lvol_snapshot", lvol_name="lvs0/r", snapshot_name="s1")
            client.call("bdev_lvol_detach_parent", name="lvs0/r")
            fill(host, 1, (1, 2), 2)
            client.call("bdev_lvol_snapshot", lvol_name="lvs0/r", snapshot_name="s2")
            client.call("bdev_lvol_detach_parent", name="lvs0/r")
            assert not lvol(client, "lvs0/s2")["clone"]
            assert client.call("bdev_lvol_set_parent", lvol_name="lvs0/s2", parent_name="lvs0/s1")
            fill(host, 1, (2,), 3)
            client.call("bdev_lvol_set_parent", lvol_name="lvs0/r", parent_name="lvs0/s2")
            assert pattern(host, 1, 6) == [1, 2, 3, 1, 1, 1]
            namespace(client, "lvs0/s2")
            assert pattern(host, 2, 6) == [1, 2, 2, 1, 1, 1]
            client.call("bdev_lvol_delete", name="lvs0/s1")
            client.call("bdev_lvol_delete", name="lvs0/s2")
            assert pattern(host, 1, 6) == [1, 2, 3, 1, 1, 1]


def test_while_a_host_writes_and_others_call():
    """What takes long lets others go on; what it is about is not deleted meanwhile."""
    dice = random.Random(5)
    with Kept(mib=768) as server, server.client() as client, server.client() as other:
        client.call("bdev_malloc_create", name="M", num_blocks=600 * 256, block_size=BLOCK)
        client.call("bdev_delay_create", name="D", base_bdev_name="M", avg_read_latency=10000, p99_read_latency=10000,
                    avg_write_latency=1000, p99_write_latency=1000)
        client.call("bdev_lvol_create_lvstore", bdev_name="D", lvs_name="lvs0", cluster_sz=CLUSTER)
        create(client, "v", 64)
        with Controller(serve(client, "lvs0/v"), NQN, io_queues=1) as host:
            fill(host, 1, range(48), 7)
            client.call("bdev_lvol_snapshot", lvol_name="lvs0/v", snapshot_name="s")
            done, before = [], client.call("bdev_lvol_get_lvstores")
            thread = threading.Thread(target=lambda: done.append(other.call("bdev_lvol_inflate", name="lvs0/v")))
            thread.start()
            assert wait_until(lambda: client.call("bdev_lvol_get_lvstores") != before)
            wanted, refused = {}, 0
            while not done:
                block, byte = dice.randrange(64 * BLOCKS), dice.randrange(1, 255)
                host.write(1, block, bytes([byte]) * BLOCK, BLOCK)
                wanted[block] = byte
                if len(wanted) == 4:
                    create(client, "w", 4)
                    code, said = client.refused("bdev_lvol_delete", name="lvs0/v")
                    refused += code == EBUSY and "is in use" in said
                    client.refused("bdev_lvol_snapshot", lvol_name="lvs0/v", snapshot_name="t")
            thread.join()
            assert done == [True] and refused == 1 and len(wanted) > 4
            assert names(client) == ["lvs0/s", "lvs0/v", "lvs0/w"]
            client.call("bdev_lvol_delete", name="lvs0/s")
            for block in range(0, 64 * BLOCKS, 32):
                data = host.read(1, block, 32, BLOCK)
                for n in range(32):
                    byte = wanted.get(block + n, 7 if block + n < 48 * BLOCKS else 0)
                    assert data[n * BLOCK:(n + 1) * BLOCK] == bytes([byte]) * BLOCK


@pytest.mark.parametrize("how", ["stop", "kill", "delete"])
def test_cut_off(how):
    """Its server ends, or its store goes, while a volume is inflated."""
    with Kept() as server:
        with server.client() as client, server.client() as other:
            client.call("bdev_aio_create", name="A", filename=str(server.image), block_size=BLOCK)
            client.call("bdev_delay_create", name="D", base_bdev_name="A", avg_read_latency=20000,
                        p99_read_latency=20000, avg_write_latency=0, p99_write_latency=0)
            client.call("bdev_lvol_create_lvstore", bdev_name="D", lvs_name="lvs0", cluster_sz=CLUSTER)
            create(client, "v", 64)
            with Controller(serve(client, "lvs0/v"), NQN, io_queues=1) as host:
                fill(host, 1, range(40), 7)
                client.call("bdev_lvol_snapshot", lvol_name="lvs0/v", snapshot_name="s")
                host.flush(1)
            before = client.call("bdev_lvol_get_lvstores")
            other.send("bdev_lvol_inflate", {"name": "lvs0/v"})
            while client.call("bdev_lvol_get_lvstores") == before:  # until it has begun, to take seconds
                pass
            if how == "delete":
                client.call("bdev_lvol_delete_lvstore", lvs_name="lvs0")
                assert client.call("bdev_lvol_get_lvstores") == []
                assert "is being closed" in other.receive()["error"]["message"]
        if how == "delete":
            return
        server.restart(how == "kill")
        with server.client() as client, Controller(serve_again(client), NQN, io_queues=1) as host:
            assert lvol(client, "lvs0/v")["base_snapshot"] == "s" and lvol(client, "lvs0/v")["thin_provision"]
            assert pattern(host, 1, 41) == [7] * 40 + [0]


# ---- copies

def copied(client, start, check, **params):
    """The last state of a copy."""
    operation = client.call(start, **params)["operation_id"]
    while (state := client.call(check, operation_id=operation))["state"] == "in progress":
        assert state.get("copied_clusters", 0) <= state["total_clusters"] or not state["total_clusters"]
    assert client.refused(check, operation_id=operation)[0] == ENODEV  # it has been told
    return state


def shallow(client, source, to):
    return copied(client, "bdev_lvol_start_shallow_copy", "bdev_lvol_check_shallow_copy", src_lvol_name=source,
                  dst_bdev_name=to)


def snapshots_of_three(client, host):
    """s1 has clusters 1, 3 of its own; s2 has 0 and 2, and has discarded 3."""
    fill(host, 1, (1, 3), 0x11)
    client.call("bdev_lvol_snapshot", lvol_name="lvs0/v", snapshot_name="s1")
    fill(host, 1, (0, 2), 0x22)
    for at in range(3 * BLOCKS, 4 * BLOCKS, 32):
        assert host.io.execute(sqe.write_zeroes(1, at, 32, deac=True)).status == Sc.SUCCESS
    client.call("bdev_lvol_snapshot", lvol_name="lvs0/v", snapshot_name="s2")


def test_shallow_copy():
    """test_shallow_copy_compare of the other server: what is not the snapshot's own is left alone."""
    with Kept() as server, server.client() as client:
        make(server, client, CLUSTER)
        create(client, "v", 5)
        client.call("bdev_malloc_create", name="M", num_blocks=5 * BLOCKS, block_size=BLOCK)
        client.call("bdev_malloc_create", name="tiny", num_blocks=BLOCKS, block_size=BLOCK)
        with Controller(serve(client, "lvs0/v", "M"), NQN, io_queues=1) as host:
            snapshots_of_three(client, host)
            fill(host, 2, range(5), 0xff)
            for source, to, code, words in (("lvs0/v", "M", EPERM, "can be written to"),
                                            ("lvs0/s2", "no", ENODEV, "No such device"),
                                            ("M", "tiny", ENODEV, "No such device"),
                                            ("lvs0/s2", "tiny", EINVAL, "is smaller than"),
                                            ("lvs0/s2", "M", EPERM, "is used")):
                got, said = client.refused("bdev_lvol_start_shallow_copy", src_lvol_name=source, dst_bdev_name=to)
                assert got == code and words in said, (source, to, got, said)
            client.call("nvmf_subsystem_remove_ns", nqn=NQN, nsid=2)
            state = shallow(client, "lvs0/s2", "M")
            assert state == {"state": "complete", "copied_clusters": 3, "unmapped_clusters": 0, "total_clusters": 3}
            namespace(client, "M")
            assert pattern(host, 2, 5) == [0x22, 0xff, 0x22, 0, 0xff]
            client.call("nvmf_subsystem_remove_ns", nqn=NQN, nsid=2)
            assert shallow(client, "lvs0/s1", "M")["copied_clusters"] == 2
            namespace(client, "M")
            assert pattern(host, 2, 5) == [0x22, 0x11, 0x22, 0x11, 0xff]
            client.call("nvmf_subsystem_remove_ns", nqn=NQN, nsid=2)
            state = copied(client, "bdev_lvol_start_deep_copy", "bdev_lvol_check_deep_copy", src_lvol_name="lvs0/s2",
                           dst_bdev_name="M")
            assert state == {"state": "complete", "processed_clusters": 3, "total_clusters": 3}
            namespace(client, "M")
            assert pattern(host, 2, 5)[:3] == [0x22, 0x11, 0x22]
            client.call("nvmf_subsystem_remove_ns", nqn=NQN, nsid=2)
            state = copied(client, "bdev_lvol_start_range_shallow_copy", "bdev_lvol_check_shallow_copy",
                           src_lvol_name="lvs0/s2", dst_bdev_name="M", clusters=[4, 0, 1, 0])
            assert state == {"state": "complete", "copied_clusters": 1, "unmapped_clusters": 2, "total_clusters": 3}
            namespace(client, "M")
            assert pattern(host, 2, 5)[:3] == [0x22, 0, 0x22] and pattern(host, 2, 5)[4] == 0
            for bad in ([5], ["a"], [-1], 3):
                client.refused("bdev_lvol_start_range_shallow_copy", src_lvol_name="lvs0/s2", dst_bdev_name="M",
                               clusters=bad)


def test_a_replica_is_rebuilt():
    """As Longhorn does it: snapshot by snapshot, over NVMe-oF or not, into a volume of another store."""
    with Kept() as server, server.client() as client:
        make(server, client, CLUSTER)
        create(client, "v", 5)
        client.call("bdev_malloc_create", name="M", num_blocks=64 * BLOCKS, block_size=BLOCK)
        client.call("bdev_lvol_create_lvstore", bdev_name="M", lvs_name="lvs1", cluster_sz=CLUSTER)
        create(client, "r", 5, store="lvs1")
        with Controller(serve(client, "lvs0/v"), NQN, io_queues=1) as host:
            snapshots_of_three(client, host)
            for name in ("s1", "s2"):
                assert shallow(client, f"lvs0/{name}", "lvs1/r")["state"] == "complete"
                client.call("bdev_lvol_snapshot", lvol_name="lvs1/r", snapshot_name=name)
                client.call("bdev_lvol_detach_parent", name="lvs1/r")
                if name == "s2":
                    client.call("bdev_lvol_set_parent", lvol_name="lvs1/s2", parent_name="lvs1/s1")
            client.call("bdev_lvol_set_parent", lvol_name="lvs1/r", parent_name="lvs1/s2")
            namespace(client, "lvs1/r")
            assert pattern(host, 2, 5) == pattern(host, 1, 5) == [0x22, 0x11, 0x22, 0, 0]


@pytest.mark.parametrize("kill", [False, True], ids=["stop", "kill"])
def test_a_copy_is_cut_off(kill):
    with Kept() as server:
        with server.client() as client:
            make(server, client, CLUSTER)
            create(client, "v", 40)
            client.call("bdev_malloc_create", name="M", num_blocks=40 * BLOCKS, block_size=BLOCK)
            client.call("bdev_delay_create", name="D", base_bdev_name="M", avg_read_latency=0, p99_read_latency=0,
                        avg_write_latency=300000, p99_write_latency=300000)
            with Controller(serve(client, "lvs0/v"), NQN, io_queues=1) as host:
                fill(host, 1, range(40), 9)
                client.call("bdev_lvol_snapshot", lvol_name="lvs0/v", snapshot_name="s")
            operation = client.call("bdev_lvol_start_shallow_copy", src_lvol_name="lvs0/s",
                                    dst_bdev_name="D")["operation_id"]
            while not client.call("bdev_lvol_check_shallow_copy", operation_id=operation)["copied_clusters"]:
                pass
            code, said = client.refused("bdev_lvol_set_parent", lvol_name="lvs0/s", parent_name="lvs0/s")
            assert code == EBUSY
            assert client.refused("bdev_lvol_delete", name="lvs0/s")[0] == EBUSY
        server.restart(kill)
        with server.client() as client:
            assert names(client) == ["lvs0/s", "lvs0/v"]


# ---- commands

def read_through(path, name, at, size):
    out = path.with_name("out.img")
    out.write_bytes(b"")
    run("cp", f"volume:{path}?name={name}", out)
    return out.read_bytes()[at:at + size]


def test_commands(tmp_path):
    path, data = disk_of(tmp_path), disk_of(tmp_path, MIB, "data.img")
    run("pool", "create", path)
    run("volume", "create", path, "web", "1M")
    put(data, 0, b"before" * 10000)
    run("cp", data, f"volume:{path}?name=web")
    run("volume", "snapshot", path, "web", "monday")
    run("volume", "clone", path, "monday", "test")
    run("volume", "clone", path, "monday", "other")
    assert volumes(path)["test"]["from"] == "monday"
    assert told("volume", "decouple", path, "test")["from"] is None
    assert volumes(path)["test"]["kind"] == "thin"
    assert told("volume", "inflate", path, "other")["kind"] == "thick"
    assert "goes back to" in run("volume", "decouple", path, "other", status=2)
    run("volume", "create", path, "empty", "1M")
    assert told("volume", "set-parent", path, "empty", "monday")["from"] == "monday"
    assert read_through(path, "empty", 0, 6) == b"before"
    said = run("volume", "set-parent", path, "empty", status=2)
    assert "empty" in said and "has from monday will be lost" in said and "be zeroes" in said
    assert told("volume", "set-parent", "--yes", path, "empty")["from"] is None
    assert read_through(path, "empty", 0, 6) == bytes(6)
    run("volume", "rm", "--yes", path, "monday", "web")
    for name in ("test", "other"):
        assert read_through(path, name, 0, 6) == b"before"
    assert "there is no volume named no" in run("volume", "set-parent", path, "test", "no", status=2)
