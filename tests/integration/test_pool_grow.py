# SPDX-License-Identifier: BSD-3-Clause
"""Pools that grow with their disk, and what is done to several volumes at once: commands, calls, and what hosts see."""

import struct

import pytest

import sqe
from host import Controller
from spec import Sc
from target import Target
from test_host import pattern
from test_lvol import BLOCK, EEXIST, EINVAL, ENODEV, MIB, NQN, Kept, create, disk, lvol, make, names, serve
from test_pool import disk_of, run, told, volumes


def resize(path, mib):
    with open(path, "r+b") as image:
        image.truncate(mib * MIB)


# ---- a pool and its disk

def test_a_pool_takes_what_its_disk_has_more(tmp_path):
    path = disk_of(tmp_path, 64 * MIB)
    run("pool", "create", path)
    run("volume", "create", path, "v", "200M")
    before = told("pool", "status", path)
    assert before["size"] == 64 * MIB and before["beyond"] == 0
    resize(path, 300)
    assert "the disk has 236 MiB more, which \"pollux pool grow\" takes" in run("pool", "status", path)
    now = told("pool", "status", path)
    assert now["size"] == 64 * MIB and now["beyond"] == 236 * MIB
    grown = told("pool", "grow", path)
    assert grown["size"] == 300 * MIB and grown["beyond"] == 0
    assert grown["free"] > before["free"] + 230 * MIB
    assert told("pool", "grow", path) == grown == told("pool", "status", path)
    assert "size       300 MiB" in run("pool", "grow", path)


def test_a_disk_that_became_smaller_than_its_pool_is_left_alone(tmp_path):
    path = disk_of(tmp_path, 64 * MIB)
    run("pool", "create", path)
    resize(path, 63)
    before = path.read_bytes()
    for words in (("pool", "status", path), ("pool", "grow", path), ("volume", "create", path, "v", "1M")):
        assert "it has become smaller" in run(*words, status=2)
    assert path.read_bytes() == before


def test_an_lvstore_grows_under_a_host():
    with Kept(mib=64) as server, server.client() as client:
        store = make(server, client)
        create(client, "v", 150)
        [was] = client.call("bdev_lvol_get_lvstores")
        client.call("bdev_lvol_grow_lvstore", uuid=store)
        assert client.call("bdev_lvol_get_lvstores") == [was]
        with Controller(serve(client, "lvs0/v"), NQN, io_queues=1) as host:
            for mib in (66, 130, 200):
                resize(server.image, mib)
                client.call("bdev_aio_rescan", name="A")
                [now] = client.call("bdev_lvol_get_lvstores")
                assert now["total_data_clusters"] == was["total_data_clusters"]
                host.write(1, 0, pattern(BLOCK), BLOCK)
                assert client.call("bdev_lvol_grow_lvstore", lvs_name="lvs0") is True
                [now] = client.call("bdev_lvol_get_lvstores")
                assert mib - 6 <= now["total_data_clusters"] <= mib and now["free_clusters"] > was["free_clusters"]
                was = now
            for at in range(0, 150 * MIB, 128 * 1024):
                host.write(1, at // BLOCK, pattern(128 * 1024), BLOCK)
            host.flush()
            assert host.read(1, 149 * MIB // BLOCK, 32, BLOCK) == pattern(128 * 1024)
        code, said = client.refused("bdev_lvol_grow_lvstore", lvs_name="no")
        assert code == ENODEV and "there is no lvstore no" in said
        resize(server.image, 120)
        client.call("bdev_aio_rescan", name="A")
        code, said = client.refused("bdev_lvol_create", lvol_name="w", size_in_mib=1, lvs_name="lvs0")
        assert "could not be written to" in said


# ---- several volumes

def test_snapshots_of_several_volumes_are_made_together_or_not_at_all(tmp_path):
    path = disk_of(tmp_path)
    run("pool", "create", path)
    for name in ("a", "b", "c"):
        run("volume", "create", path, name, "8M")
    shown = run("volume", "snapshot", path, "a", "sa", "b", "sb", "c", "sc")
    assert [line.split()[0] for line in shown.splitlines()] == ["NAME", "sa", "sb", "sc"]
    assert {name: each["from"] for name, each in volumes(path).items() if each["kind"] == "thin"} == \
        {"a": "sa", "b": "sb", "c": "sc"}
    before = volumes(path)
    for words, sentence in ((("a", "x", "b"), "b has no name for its snapshot"),
                            (("a", "x", "no", "y"), "there is no volume named no"),
                            (("a", "x", "sb", "y"), "sb is a snapshot already"),
                            (("a", "x", "b", "x"), "there is a volume named x already"),
                            (("a", "x", "b", "y", "c", "sa"), "there is a volume named sa already")):
        assert sentence in run("volume", "snapshot", path, *words, status=2)
        assert volumes(path) == before
    assert [each["name"] for each in told("volume", "snapshot", path, "a", "x", "b", "y")] == ["x", "y"]
    assert told("volume", "snapshot", path, "a", "z")["name"] == "z"


def group(*pairs):
    return [{"lvol_name": volume, "snapshot_name": name} for volume, name in pairs]


def test_a_group_of_snapshots_by_a_call():
    with Kept() as server, server.client() as client:
        store = make(server, client)
        given = [create(client, name) for name in "abc"]
        with Controller(serve(client, "lvs0/a", "lvs0/b"), NQN, io_queues=1) as host:
            host.write(1, 0, b"\1" * BLOCK, BLOCK)
            host.write(2, 0, b"\2" * BLOCK, BLOCK)
            made = client.call("bdev_lvol_snapshot_group", lvs_name="lvs0",
                               snapshots=group(("lvs0/a", "sa"), (given[1], "sb"), ("lvs0/c", "sc")))
            host.write(1, 0, b"\3" * BLOCK, BLOCK)
            assert [each["snapshot_name"] for each in made] == ["sa", "sb", "sc"]
            for each, parent in zip(made, "abc"):
                assert disk(client, each["uuid"])["aliases"] == [f"lvs0/{each['snapshot_name']}"]
                assert lvol(client, each["uuid"])["clones"] == [parent]
            for at, each in enumerate(made[:2]):
                client.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": each["uuid"]})
                assert host.read(3 + at, 0, 1, BLOCK) == bytes([1 + at]) * BLOCK
        before = names(client)
        for params, code, words in (
                ({"snapshots": group(("lvs0/a", "x"), ("lvs0/no", "y"))}, ENODEV, "there is no volume lvs0/no"),
                ({"snapshots": group(("lvs0/a", "x"), ("lvs0/sa", "y"))}, EINVAL, "is a snapshot already"),
                ({"snapshots": group(("lvs0/a", "x"), ("lvs0/b", "x"))}, EEXIST, "File exists"),
                ({"snapshots": group(("lvs0/a", "x")), "lvs_name": "no"}, ENODEV, "No such device"),
                ({"snapshots": []}, None, "an array of 1 to 1024 objects")):
            got, said = client.refused("bdev_lvol_snapshot_group", **params)
            assert (code is None or got == code) and words in said, (params, got, said)
            assert names(client) == before
        assert client.call("bdev_lvol_snapshot_group", uuid=store, snapshots=group(("lvs0/a", "x")))


# ---- checksums

def test_checksums_by_a_command(tmp_path):
    path = disk_of(tmp_path)
    assert "checksums  of all data; 0 that were read" in run("pool", "create", "--checksum", path)
    status = told("pool", "status", path)
    assert status["checksum"] is True and status["checksum_errors"] == 0
    run("volume", "create", path, "v", "8M")
    mark = pattern(4096)
    with Target(f"volume:{path}?name=v") as target, Controller(target.address, target.nqn, io_queues=1) as host:
        host.write(1, 16, mark)
        host.flush()
        assert host.read(1, 16, 8) == mark
    image = bytearray(path.read_bytes())
    assert image.count(mark) == 1
    image[image.index(mark) + 100] ^= 4
    path.write_bytes(image)
    with Target(f"volume:{path}?name=v") as target, Controller(target.address, target.nqn, io_queues=1) as host:
        for lba in range(16, 24):
            assert host.io.execute(sqe.read(1, lba, 1), read=512).status == Sc.UNRECOVERED_READ
        assert host.read(1, 8, 8) == bytes(4096)
        host.write(1, 16, mark)
        assert host.read(1, 16, 8) == mark
    assert target.stderr.count("volume v: block 16 is damaged") == 1
    assert "--checksum is not for pool status" in run("pool", "status", "--checksum", path, status=2)


def test_checksums_by_a_call():
    with Kept() as server, server.client() as client:
        client.call("bdev_aio_create", name="A", filename=str(server.image), block_size=BLOCK)
        client.call("bdev_lvol_create_lvstore", bdev_name="A", lvs_name="lvs0", checksum=True)
        [shown] = client.call("bdev_lvol_get_lvstores")
        assert shown["checksum_errors"] == 0
        create(client, "v")
        with Controller(serve(client, "lvs0/v"), NQN, io_queues=1) as host:
            mark = pattern(BLOCK)
            host.write(1, 5, mark, BLOCK)
            host.flush()
            image = server.image.read_bytes()
            assert image.count(mark) == 1
            with open(server.image, "r+b") as file:
                file.seek(image.index(mark))
                file.write(b"x" + mark[1:])
            for _ in range(3):
                assert host.io.execute(sqe.read(1, 5, 1), read=BLOCK).status == Sc.UNRECOVERED_READ
            [shown] = client.call("bdev_lvol_get_lvstores")
            assert shown["checksum_errors"] == 3


# ---- what hosts are told of space

@pytest.mark.parametrize("block, options", [(512, ()), (4096, ()), (512, ("--checksum",))])
def test_hosts_are_told_the_granularity_and_what_is_used(tmp_path, block, options):
    path = disk_of(tmp_path)
    disk_name = f"[file:{path}?block={block}]"
    run("pool", "create", *options, f"file:{path}?block={block}")
    run("volume", "create", f"file:{path}?block={block}", "v", "8M")
    with Target(f"volume:{disk_name}?name=v") as target, Controller(target.address, target.nqn, io_queues=1) as host:
        unit = 4096 // block

        def told_of():
            raw = host.identify(0, nsid=1)
            nsze, ncap, nuse = struct.unpack_from("<QQQ", raw, 0)
            npwg, npwa, npdg, npda = struct.unpack_from("<HHHH", raw, 64)
            assert raw[24] & 1 and raw[24] & 16
            assert nsze == ncap == 8 * MIB // block
            assert npdg == npda == npwg == unit - 1 and npwa == npwg
            return nuse
        assert told_of() == 0
        host.write(1, 0, pattern(64 * 1024), block)
        assert told_of() == 16 * unit
        host.write(1, 0, pattern(64 * 1024), block)
        host.write(1, 100 * unit, pattern(block), block)
        assert told_of() == 17 * unit
        host.io.execute(sqe.write_zeroes(1, 0, 4 * unit, deac=True))
        assert told_of() == 13 * unit
