# SPDX-License-Identifier: BSD-3-Clause
"""Volumes that are clones of disks outside their lvstore, as the other server's tests of external snapshots have it."""
import random

import sqe
from host import Controller
from rpc import INVALID_PARAMS
from spec import Sc
from test_lvol import BLOCK, EBUSY, EEXIST, EINVAL, ENODEV, EPERM, MIB, NQN, Kept, disk, lvol, make, names, serve
from test_lvol_family import BLOCKS, CLUSTER, fill, namespace, pattern, serve_again

OUTER = "e4b40d8b-f623-416d-8234-baf5a4c83cbd"
SIZE = 5  # MiB


def outer_disk(client, name="esnap1", uuid=OUTER, blocks=SIZE * BLOCKS, block_size=BLOCK):
    return client.call("bdev_malloc_create", name=name, num_blocks=blocks, block_size=block_size, uuid=uuid)


def refill(client, host, byte, name="esnap1"):
    """Writes to the disk outside, while nobody goes back to it."""
    client.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": name, "nsid": 9})
    fill(host, 9, range(SIZE), byte)
    client.call("nvmf_subsystem_remove_ns", nqn=NQN, nsid=9)


def listed(client, name):
    return next(v for v in client.call("bdev_lvol_get_lvols") if v["name"] == name)


def check_clone(client, name, parent):
    now = lvol(client, name)
    assert now["clone"] and now["base_snapshot"] == parent and not now["esnap_clone"]
    assert "external_snapshot_name" not in now and disk(client, name)["supported_io_types"]["write"]


def check_outer(client, name, writable=True):
    now, shown = lvol(client, name), disk(client, name)
    assert now["esnap_clone"] and now["external_snapshot_name"] == OUTER and now["snapshot"] != writable
    assert listed(client, shown["aliases"][0].split("/")[1])["is_esnap_clone"]


def test_clones_of_a_clone():
    """test_esnap_clones of the other server, but that a snapshot with two clones can be deleted here."""
    with Kept() as server, server.client() as client:
        make(server, client, CLUSTER)
        outer_disk(client)
        given = client.call("bdev_lvol_clone_bdev", bdev=OUTER, lvs_name="lvs0", clone_name="vol1")
        check_outer(client, given)
        client.call("bdev_lvol_snapshot", lvol_name=given, snapshot_name="vol2")
        check_outer(client, "lvs0/vol2", False)
        check_clone(client, given, "vol2")
        client.call("bdev_lvol_delete", name="lvs0/vol2")
        check_outer(client, given)
        client.call("bdev_lvol_snapshot", lvol_name=given, snapshot_name="vol3")
        client.call("bdev_lvol_delete", name=given)
        check_outer(client, "lvs0/vol3", False)
        for name in ("vol4", "vol5"):
            client.call("bdev_lvol_clone", snapshot_name="lvs0/vol3", clone_name=name)
            check_clone(client, f"lvs0/{name}", "vol3")
        client.call("bdev_lvol_delete", name="lvs0/vol4")
        client.call("bdev_lvol_delete", name="lvs0/vol3")
        check_outer(client, "lvs0/vol5")
        code, said = client.refused("bdev_malloc_delete", name="esnap1")
        assert code == EBUSY and "is used by vol5" in said
        client.call("bdev_lvol_delete", name="lvs0/vol5")
        client.call("bdev_malloc_delete", name="esnap1")


def test_what_is_refused():
    with Kept() as server, server.client() as client:
        make(server, client, CLUSTER)
        outer_disk(client)
        client.call("bdev_malloc_create", name="used", num_blocks=BLOCKS, block_size=BLOCK)
        client.call("bdev_lvol_clone_bdev", bdev="esnap1", lvs_name="lvs0", clone_name="v")
        serve(client, "used")
        for params, code, words in ((("no", "lvs0", "x"), INVALID_PARAMS, "bdev does not exist"),
                                    (("esnap1", "no", "x"), INVALID_PARAMS, "lvs does not exist"),
                                    (("lvs0/v", "lvs0", "x"), INVALID_PARAMS, "use bdev_lvol_clone instead"),
                                    (("esnap1", "lvs0", "v"), EEXIST, "File exists"),
                                    (("used", "lvs0", "x"), EPERM, "which may write to it")):
            got, said = client.refused("bdev_lvol_clone_bdev", bdev=params[0], lvs_name=params[1], clone_name=params[2])
            assert got == code and words in said, (params, got, said)
        code, said = client.refused("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "esnap1"})
        assert code == INVALID_PARAMS and "busy" in said  # a host could write to it
        assert names(client) == ["lvs0/v"]


def test_what_shows_through():
    """Reads, writes of parts of units, discards, snapshots and clones, beside a model; and after a kill."""
    dice = random.Random(31)
    with Kept() as server:
        with server.client() as client:
            client.call("bdev_malloc_create", name="tmp", num_blocks=1, block_size=BLOCK)
            client.call("bdev_aio_create", name="A", filename=str(server.image), block_size=512)
            client.call("bdev_lvol_create_lvstore", bdev_name="A", lvs_name="lvs0", cluster_sz=CLUSTER)
            outer = server.folder / "outer.img"
            content = dice.randbytes(SIZE * MIB - 5 * 512)
            outer.write_bytes(content)
            client.call("bdev_aio_create", name="esnap1", filename=str(outer), block_size=512, uuid=OUTER)
            client.call("bdev_lvol_clone_bdev", bdev="esnap1", lvs_name="lvs0", clone_name="v")
            model = bytearray(content)
            kept = {}
            with Controller(serve(client, "lvs0/v"), NQN, io_queues=1) as host:
                blocks = host.namespace(1).nsze
                model += bytes(blocks * 512 - len(model))
                for step in range(150):
                    at = dice.randrange(blocks)
                    n = min(dice.choice((1, 3, 8, 40)), blocks - at)
                    kind = dice.randrange(5)
                    if kind < 2:
                        data = dice.randbytes(n * 512)
                        host.write(1, at, data, 512)
                        model[at * 512:(at + n) * 512] = data
                    elif kind == 2:
                        assert host.io.execute(sqe.write_zeroes(1, at, n, deac=True)).status == Sc.SUCCESS
                        model[at * 512:(at + n) * 512] = bytes(n * 512)
                    else:
                        assert host.read(1, at, n, 512) == model[at * 512:(at + n) * 512]
                    if step in (40, 90):
                        client.call("bdev_lvol_snapshot", lvol_name="lvs0/v", snapshot_name=f"s{step}")
                        kept[f"s{step}"] = bytes(model)
                host.flush(1)
        server.restart(True)
        with server.client() as client, Controller(serve_again(client), NQN, io_queues=1) as host:
            kept["v"] = bytes(model)
            client.call("bdev_lvol_clone", snapshot_name="lvs0/s40", clone_name="c")
            kept["c"] = kept["s40"]
            for nsid, name in ((2, "s40"), (3, "s90"), (4, "c")):
                client.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": f"lvs0/{name}", "nsid": nsid})
            for nsid, name in ((1, "v"), (2, "s40"), (3, "s90"), (4, "c")):
                for at in range(0, blocks, 128):
                    n = min(128, blocks - at)
                    assert host.read(nsid, at, n, 512) == kept[name][at * 512:(at + n) * 512], (name, at)


def test_missing_and_late():
    """test_esnap_reload_missing and test_esnap_late_arrival of the other server."""
    with Kept() as server, server.client() as client:
        make(server, client, CLUSTER)
        outer_disk(client)
        with Controller(serve(client), NQN, io_queues=1) as host:
            refill(client, host, 0xaa)
            given = client.call("bdev_lvol_clone_bdev", bdev=OUTER, lvs_name="lvs0", clone_name="eclone")
            namespace(client, given)
            fill(host, 1, (1,), 0x11)
            client.call("bdev_lvol_snapshot", lvol_name=given, snapshot_name="snap")
            client.call("bdev_lvol_clone", snapshot_name="lvs0/snap", clone_name="clone")
            client.call("nvmf_subsystem_remove_ns", nqn=NQN, nsid=1)
            assert not listed(client, "eclone")["is_degraded"]
            client.call("bdev_aio_delete", name="A")
            client.call("bdev_malloc_delete", name="esnap1")
            client.call("bdev_aio_create", name="A", filename=str(server.image), block_size=BLOCK)
            assert names(client) == ["lvs0/clone", "lvs0/eclone", "lvs0/snap"]
            assert all(v["is_degraded"] for v in client.call("bdev_lvol_get_lvols"))
            assert [d["name"] for d in client.call("bdev_get_bdevs")] == ["A"]
            assert client.refused("bdev_get_bdevs", name=given)[0] == ENODEV
            outer_disk(client)
            assert not any(v["is_degraded"] for v in client.call("bdev_lvol_get_lvols"))
            assert listed(client, "snap")["is_esnap_clone"] and listed(client, "clone")["is_clone"]
            assert disk(client, "lvs0/clone") and disk(client, given)["aliases"] == ["lvs0/eclone"]
            namespace(client, given)
            assert pattern(host, 1, SIZE) == [0, 0x11, 0, 0, 0]  # the disk outside is a new one, of memory


def test_set_parent_from_a_disk_outside():
    """test_lvol_set_parent_from_esnap of the other server, under a host; what was discarded is the volume's own."""
    with Kept() as server, server.client() as client:
        make(server, client, CLUSTER)
        outer_disk(client)
        with Controller(serve(client), NQN, io_queues=1) as host:
            refill(client, host, 0xaa)
            client.call("bdev_lvol_create", lvol_name="temp", size_in_mib=SIZE, thin_provision=True, lvs_name="lvs0")
            namespace(client, "lvs0/temp")
            fill(host, 1, range(SIZE), 0xbb)
            client.call("bdev_lvol_snapshot", lvol_name="lvs0/temp", snapshot_name="snap2")
            given = client.call("bdev_lvol_clone_bdev", bdev="esnap1", lvs_name="lvs0", clone_name="v")
            namespace(client, given)
            fill(host, 2, (0, 1), 0xcc)
            for at in range(2 * BLOCKS, 3 * BLOCKS, 32):
                assert host.io.execute(sqe.write_zeroes(2, at, 32, deac=True)).status == Sc.SUCCESS
            assert pattern(host, 2, SIZE) == [0xcc, 0xcc, 0, 0xaa, 0xaa]
            client.call("bdev_lvol_set_parent", lvol_name=given, parent_name="lvs0/snap2")
            check_clone(client, given, "snap2")
            assert client.refused("bdev_lvol_set_parent", lvol_name="lvs0/v", parent_name="lvs0/snap2")[0] == EEXIST
            assert pattern(host, 2, SIZE) == [0xcc, 0xcc, 0, 0xbb, 0xbb]
            client.call("bdev_lvol_delete", name="lvs0/temp")
            client.call("bdev_lvol_clone_bdev", bdev="esnap1", lvs_name="lvs0", clone_name="w")
            namespace(client, "lvs0/w")
            fill(host, 1, (1,), 0xdd)
            client.call("bdev_lvol_detach_parent", name="lvs0/w")
            assert pattern(host, 1, SIZE) == [0, 0xdd, 0, 0, 0] and not lvol(client, "lvs0/w")["esnap_clone"]
            client.call("bdev_lvol_delete", name="lvs0/w")
            client.call("bdev_malloc_delete", name="esnap1")  # it has been let go while the host uses the volume
        server.restart(True)
        with server.client() as again, Controller(serve_again(again), NQN, io_queues=1) as host:
            assert not listed(again, "v")["is_degraded"]
            assert pattern(host, 2, SIZE) == [0xcc, 0xcc, 0, 0xbb, 0xbb]


def test_set_parent_bdev():
    """test_lvol_set_parent_from_esnap of the other server the other way round, from one disk outside to another."""
    with Kept() as server, server.client() as client:
        make(server, client, CLUSTER)
        outer_disk(client)
        outer_disk(client, "esnap2", "5f2c6d1e-3f0c-4a52-8b5e-7f5fb4a35d11")
        with Controller(serve(client), NQN, io_queues=2) as host:
            refill(client, host, 0xaa)
            refill(client, host, 0xbb, "esnap2")
            given = client.call("bdev_lvol_clone_bdev", bdev="esnap1", lvs_name="lvs0", clone_name="v")
            namespace(client, given)
            fill(host, 1, (0, 1), 0xcc)
            assert pattern(host, 1, SIZE) == [0xcc, 0xcc, 0xaa, 0xaa, 0xaa]
            for params, code, words in (({"parent_name": "no"}, ENODEV, "there is no"),
                                        ({"parent_name": "esnap1"}, EEXIST, "already"),
                                        ({"esnap_name": given}, EINVAL, "bdev_lvol_set_parent is for that"),
                                        ({}, INVALID_PARAMS, "esnap_name")):
                got, said = client.refused("bdev_lvol_set_parent_bdev", lvol_name=given, **params)
                assert got == code and words in said, (params, got, said)
            client.call("bdev_lvol_set_parent_bdev", lvol_name="lvs0/v", parent_name="esnap2")
            assert pattern(host, 1, SIZE) == [0xcc, 0xcc, 0xbb, 0xbb, 0xbb]
            client.call("bdev_malloc_delete", name="esnap1")  # nobody holds it any more
            assert client.refused("bdev_malloc_delete", name="esnap2")[0] == EBUSY
            client.call("bdev_lvol_create", lvol_name="thick", size_in_mib=SIZE, lvs_name="lvs0")
            code, said = client.refused("bdev_lvol_set_parent_bdev", lvol_name="lvs0/thick", esnap_name="esnap2")
            assert code == EINVAL and "is thick" in said
            client.call("bdev_lvol_detach_parent", name=given)
            client.call("bdev_malloc_delete", name="esnap2")
            assert pattern(host, 1, SIZE) == [0xcc, 0xcc, 0, 0, 0]


def test_volumes_that_others_go_back_to_stay_as_they_are():
    """Nor do they go back to those, or to what stands on them."""
    with Kept() as server, server.client() as client:
        make(server, client, CLUSTER)
        for name in ("v", "w", "x"):
            client.call("bdev_lvol_create", lvol_name=name, size_in_mib=8, thin_provision=True, lvs_name="lvs0")
        client.call("bdev_lvol_snapshot", lvol_name="lvs0/x", snapshot_name="s")
        client.call("bdev_malloc_create", name="M", num_blocks=65536, block_size=BLOCK)
        client.call("bdev_lvol_create_lvstore", bdev_name="M", lvs_name="lvs1", cluster_sz=CLUSTER)
        client.call("bdev_lvol_clone_bdev", bdev="lvs0/v", lvs_name="lvs1", clone_name="c")
        code, said = client.refused("bdev_lvol_set_parent_bdev", lvol_name="lvs0/v", parent_name="lvs1/c")
        assert code == EBUSY and "others go back to v" in said
        code, said = client.refused("bdev_lvol_set_parent", lvol_name="lvs0/v", parent_name="lvs0/s")
        assert code == EBUSY and "others go back to v" in said
        client.call("bdev_lvol_create_lvstore", bdev_name="lvs0/w", lvs_name="lvs2", cluster_sz=CLUSTER)
        client.call("bdev_lvol_create", lvol_name="y", size_in_mib=1, thin_provision=True, lvs_name="lvs2")
        code, said = client.refused("bdev_lvol_set_parent_bdev", lvol_name="lvs0/w", parent_name="lvs2/y")
        assert code == EINVAL and "goes back to w itself" in said
        client.call("bdev_lvol_delete", name="lvs1/c")
        client.call("bdev_lvol_set_parent", lvol_name="lvs0/v", parent_name="lvs0/s")


def test_inflate_and_decouple():
    """What shows through is copied under a host, with checksums and without, and that disk can be deleted at once."""
    for checksum in (False, True):
        with Kept() as server, server.client() as client:
            client.call("bdev_malloc_create", name="tmp", num_blocks=1, block_size=BLOCK)
            client.call("bdev_aio_create", name="A", filename=str(server.image), block_size=BLOCK)
            client.call("bdev_lvol_create_lvstore", bdev_name="A", lvs_name="lvs0", cluster_sz=CLUSTER,
                        checksum=checksum)
            outer_disk(client)
            with Controller(serve(client), NQN, io_queues=2) as host:
                refill(client, host, 0xaa)
                for nsid, name, method in ((1, "v", "bdev_lvol_decouple_parent"), (2, "w", "bdev_lvol_inflate")):
                    client.call("bdev_lvol_clone_bdev", bdev=OUTER, lvs_name="lvs0", clone_name=name)
                    namespace(client, f"lvs0/{name}")
                    fill(host, nsid, (1,), 0xcc)
                    client.call(method, name=f"lvs0/{name}")
                    assert not lvol(client, f"lvs0/{name}")["esnap_clone"]
                    assert lvol(client, f"lvs0/{name}")["thin_provision"] == (name == "v")
                client.call("bdev_malloc_delete", name="esnap1")
                for nsid in (1, 2):
                    assert pattern(host, nsid, SIZE) == [0xaa, 0xcc, 0xaa, 0xaa, 0xaa]
            server.restart(True)
            with server.client() as again, Controller(serve_again(again), NQN, io_queues=1) as host:
                for nsid in (1, 2):
                    assert pattern(host, nsid, SIZE) == [0xaa, 0xcc, 0xaa, 0xaa, 0xaa]


def test_other_blocks():
    with Kept() as server, server.client() as client:
        make(server, client, CLUSTER)
        outer_disk(client, block_size=512, blocks=SIZE * MIB // 512)
        client.call("bdev_lvol_clone_bdev", bdev=OUTER, lvs_name="lvs0", clone_name="v")
        assert disk(client, "lvs0/v")["block_size"] == BLOCK
        client.call("bdev_malloc_create", name="M", num_blocks=65536, block_size=512)
        client.call("bdev_lvol_create_lvstore", bdev_name="M", lvs_name="lvs1")
        client.call("bdev_malloc_create", name="large", num_blocks=BLOCKS, block_size=BLOCK)
        code, said = client.refused("bdev_lvol_clone_bdev", bdev="large", lvs_name="lvs1", clone_name="v")
        assert code == EINVAL and "are no parts of those" in said
