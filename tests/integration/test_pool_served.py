# SPDX-License-Identifier: BSD-3-Clause
"""`pollux pool` and `pollux volume` on a disk that a server has open: it is found, and does the same."""
import base64
import contextlib
import json
import os
import re
import threading
import uuid

import pytest

from host import Controller
from rpc import RpcError, Server
from test_host import pollux
from test_lvol import Kept, create, make, serve
from test_pool import MIB, disk_of, run, told, volumes
from test_pool_stream import exported, read, source

__all__ = ["source"]  # a fixture



def serving(disk):
    return Server(f"volume:{disk}?name=web", options=("--listen", "127.0.0.1:0"))


def test_what_is_shown_is_the_same(tmp_path, source):
    disk, *_ = source
    words = [("pool", "status", disk), ("volume", "ls", disk), ("volume", "diff", disk, "one", "two"),
             ("volume", "diff", disk, "two"), ("volume", "ls", disk, "--json"), ("pool", "status", disk, "--json"),
             ("volume", "diff", disk, "one", "two", "--json")]
    before = [run(*each) for each in words]
    streams = [exported(tmp_path, disk, "two").read_bytes(),
               exported(tmp_path, disk, "--base", "one", "two").read_bytes()]
    with serving(disk):
        assert [run(*each) for each in words] == before
        assert exported(tmp_path, disk, "two").read_bytes() == streams[0]
        assert exported(tmp_path, disk, "--base", "one", "two").read_bytes() == streams[1]
        assert told("pool", "check", disk)["clean"]


def test_what_is_done_is_done_by_the_server(source):
    disk, *_ = source
    with serving(disk):
        run("volume", "snapshot", disk, "web", "three")
        run("volume", "clone", disk, "three", "four")
        run("volume", "create", disk, "--thick", "five", "4M")
        run("volume", "rename", disk, "five", "six")
        run("volume", "resize", disk, "six", "8M")
        run("volume", "rm", "--yes", disk, "one", "four")
        assert "web is in use" in run("volume", "rm", "--yes", disk, "web", status=2)
        assert "there is no volume named none" in run("volume", "rm", "--yes", disk, "none", status=2)
        served = volumes(disk)
    rows = volumes(disk)
    assert rows == served and set(rows) == {"web", "two", "three", "six"}
    assert rows["six"]["size"] == 8 * MIB and rows["six"]["kind"] == "thick" and rows["web"]["from"] == "three"
    assert told("pool", "check", disk)["clean"]


@contextlib.contextmanager
def sink_served(tmp_path):
    """A pool without snapshots, one volume of which a server has."""
    disk = disk_of(tmp_path, name="sink.img")
    run("pool", "create", disk)
    run("volume", "create", disk, "web", "1M")
    with serving(disk) as server:
        yield disk, server


def test_streams_are_imported_through_the_server(tmp_path, source):
    disk, one, two = source
    here = volumes(disk)
    with sink_served(tmp_path) as (sink, _):
        run("volume", "import", sink, "one", exported(tmp_path, disk, "one"))
        run("volume", "import", sink, "two", exported(tmp_path, disk, "--base", "one", "two"))
        there = volumes(sink)
        assert there["two"]["from"] == "one" and there["two"]["kind"] == there["one"]["kind"] == "snapshot"
        assert all(there[name]["uuid"] == here[name]["uuid"] for name in ("one", "two"))
        assert exported(tmp_path, sink, "two").stat().st_size > 4 * MIB
        assert "is there already" in run("volume", "import", sink, "more", exported(tmp_path, disk, "one"), status=2)
    assert read(tmp_path, sink, "one") == one and read(tmp_path, sink, "two") == two
    assert told("pool", "check", sink)["clean"]


def test_an_import_through_the_server_goes_on_where_it_was_cut_off(tmp_path, source):
    disk, one, _ = source
    whole = exported(tmp_path, disk, "one").read_bytes()
    part = tmp_path / "part"
    with sink_served(tmp_path) as (sink, server):
        for length in (600, MIB + 3000, len(whole) // 2):
            part.write_bytes(whole[:length])
            said = pollux("volume", "import", sink, "one", part)
            assert said.returncode == 1 and "is cut off" in said.stderr, said.stderr
        name, = set(volumes(sink)) - {"web"}
        assert int(name.removeprefix("one~import@")) == MIB
        server.kill()
    assert int(name.removeprefix("one~import@")) == MIB and name in volumes(sink)  # it was durable
    with serving(sink):
        run("volume", "import", sink, "one", exported(tmp_path, disk, "--offset", MIB, "one"))
    assert read(tmp_path, sink, "one") == one
    assert told("pool", "check", sink)["clean"]


def test_what_is_written_through_the_server_is_checked(tmp_path):
    with sink_served(tmp_path) as (sink, server), server.client() as client:
        run("volume", "create", sink, "to", "1M")
        pool = told("pool", "status", sink)["uuid"]
        to = {"uuid": pool, "volume": volumes(sink)["to"]["uuid"]}
        for params, text in (({"data": "%%%%"}, "base64"), ({"data": ""}, "base64"), ({"data": "AAAA"}, "multiples"),
                             ({"offset": 100, "zeroes": 4096}, "multiples"), ({"zeroes": 1 << 60}, "multiples"),
                             ({"offset": MIB, "zeroes": 4096}, "written"),
                             ({"data": "AAAA", "zeroes": 4096}, "two calls"),
                             ({"zeroes": 4096, "volume": volumes(sink)["web"]["uuid"]}, "open already"),
                             ({"zeroes": 4096, "volume": pool}, "no volume")):
            with pytest.raises(RpcError, match=text):
                client.call("pollux_pool_write", **{**to, **params})
        data = os.urandom(4096)
        client.call("pollux_pool_write", **to, offset=8192, data=base64.b64encode(data).decode(), flush=True)
        got = client.call("pollux_pool_read", **to, offset=4096, length=12288)["data"]
        assert base64.b64decode(got) == bytes(4096) + data + bytes(4096)


def test_volumes_of_an_lvstore_become_disks():
    with Kept() as server, server.client() as client:
        make(server, client)
        run("volume", "create", server.image, "web", "8M")
        run("volume", "snapshot", server.image, "web", "monday")
        assert sorted(v["alias"] for v in client.call("bdev_lvol_get_lvols")) == ["lvs0/monday", "lvs0/web"]
        assert client.call("bdev_get_bdevs", name="lvs0/web")[0]["num_blocks"] * 4096 == 8 * MIB
        run("volume", "rename", server.image, "web", "www")
        run("volume", "resize", server.image, "www", "16M")
        assert client.call("bdev_get_bdevs", name="lvs0/www")[0]["num_blocks"] * 4096 == 16 * MIB
        run("volume", "rm", "--yes", server.image, "monday")
        assert set(volumes(server.image)) == {"www"}
        assert "2 volumes" not in run("pool", "status", server.image)


def test_whom_volumes_go_back_to_is_changed_by_the_server(source):
    disk, *_ = source
    with serving(disk):
        run("volume", "clone", disk, "two", "a")
        run("volume", "inflate", disk, "a")
        run("volume", "clone", disk, "two", "b")
        run("volume", "decouple", disk, "b")
        run("volume", "set-parent", "--yes", disk, "b", "two")
        run("volume", "clone", disk, "two", "c")
        run("volume", "set-parent", "--yes", disk, "c")
        rows = volumes(disk)
        assert (rows["a"]["kind"], rows["a"]["from"]) == ("thick", None)
        assert rows["b"]["from"] == "two" and rows["c"]["from"] is None
    assert told("pool", "check", disk)["clean"]


@pytest.mark.parametrize("verb, says, status", [("create", "a pool is made", 2), ("repair", "it is repaired", 8),
                                                ("dump", "it is dumped", 8), ("rm", "it is erased", 2)])
def test_what_a_server_does_not_do_says_what_is_to_be_done(source, verb, says, status):
    disk, *_ = source
    before = disk.read_bytes()[16:32]
    with serving(disk) as server:
        said = run("pool", verb, *(["--yes"] if verb != "dump" else []), disk, status=status)
        assert f"is in use by process {server.pid}, a server that has its pool; {says} when nobody has the disk" in said
        assert ": end it" in said and "delete_lvstore" not in said
        assert ("pollux pool check" in said) == (verb in ("repair", "dump"))
    assert disk.read_bytes()[16:32] == before  # the UUID


def test_an_lvstore_is_deleted_by_what_is_said(source):
    with Kept() as server, server.client() as client:
        make(server, client)
        for verb in ("create", "rm"):
            said = run("pool", verb, "--yes", server.image, status=2)
            assert "end it, or delete the pool there: pollux ctl " in said
        words = said.strip().rsplit("pollux ctl ", 1)[1].split()
        run("ctl", *words)
        assert client.call("bdev_lvol_get_lvstores") == []
        assert "lvstore" not in run("pool", "repair", "--yes", server.image, status=8)


def test_snapshots_of_one_instant_are_made_by_the_server(source):
    disk, *_ = source
    with serving(disk):
        run("volume", "create", disk, "db", "4M")
        run("volume", "create", disk, "log", "4M")
        shown = run("volume", "snapshot", disk, "web", "w1", "db", "d1", "log", "l1")
        assert all(name in shown for name in ("w1", "d1", "l1"))
        rows = volumes(disk)
        assert [rows[name]["from"] for name in ("web", "db", "log")] == ["w1", "d1", "l1"]
        assert "there is a volume named w1" in run("volume", "snapshot", disk, "db", "d2", "log", "w1", status=2)
        assert "none" in run("volume", "snapshot", disk, "db", "d2", "none", "n2", status=2)
        assert "printable" in run("volume", "snapshot", disk, "db", "d2", "log", "l\x01", status=2)
        assert "printable" in run("volume", "snapshot", disk, "db", "d2", "log", "l\udcff", status=2)
        assert volumes(disk) == rows  # all, or none
    assert volumes(disk) == rows and told("pool", "check", disk)["clean"]


def test_what_is_of_one_instant_are_snapshots(source):
    disk, *_ = source
    pool = told("pool", "status", disk)["uuid"]
    with serving(disk) as server, server.client() as client:
        code, said = client.refused("pollux_pool_change", uuid=pool, change="clone", volume="one", name="c",
                                    **{"with": [{"volume": "one", "name": "d"}]})
        assert code == -22 and "snapshots" in said
        client.call("pollux_pool_change", uuid=pool, change="snapshot", volume="web", name="w",
                    **{"with": [{"volume": volumes(disk)["web"]["uuid"], "name": "again"}]})
        assert {"w", "again"} <= set(volumes(disk))


def test_an_lvstore_grows_and_has_snapshots_of_one_instant():
    with Kept() as server, server.client() as client:
        make(server, client)
        for name in ("web", "db"):
            run("volume", "create", server.image, name, "8M")
        run("volume", "snapshot", server.image, "web", "w1", "db", "d1")
        run("volume", "clone", server.image, "w1", "own")
        run("volume", "inflate", server.image, "own")
        run("volume", "clone", server.image, "w1", "other")
        run("volume", "decouple", server.image, "other")
        run("volume", "set-parent", "--yes", server.image, "other", "w1")
        run("volume", "set-parent", "--yes", server.image, "other")
        rows = volumes(server.image)
        assert rows["w1"]["kind"] == rows["d1"]["kind"] == "snapshot" and rows["db"]["from"] == "d1"
        assert rows["own"]["from"] is rows["other"]["from"] is None
        before = told("pool", "status", server.image)["size"]
        with open(server.image, "ab") as file:
            file.truncate(before + 64 * MIB)
        client.call("bdev_aio_rescan", name=client.call("bdev_get_bdevs")[0]["name"])
        run("pool", "grow", server.image)
        assert told("pool", "status", server.image)["size"] == before + 64 * MIB


def test_a_server_that_is_not_asked_is_named(source):
    disk, *_ = source
    with serving(disk) as server:
        server.path.rename(server.folder / "elsewhere")
        said = run("volume", "ls", disk, status=2)
        assert f"is in use by process {server.pid}; if a server has it" in said
        (server.folder / "elsewhere").rename(server.path)


def test_a_pool_that_is_written_to_is_clean():
    """Looked at again and again while a host writes and flushes and snapshots come and go."""
    with Kept(mib=64) as server, server.client() as client:
        make(server, client)
        create(client, "web", mib=16)
        address = serve(client, "lvs0/web")
        stop = threading.Event()

        def write():
            with Controller(address, "nqn.2016-06.io.spdk:lvol", io_queues=1) as host:
                at = 0
                while not stop.is_set():
                    host.write(1, at, bytes([at % 251]) * 4096, 4096)
                    at = (at + 7) % 4096
                    if at % 16 == 0:
                        host.flush()

        written = []
        writer = threading.Thread(target=lambda: (write(), written.append(True)))
        writer.start()
        try:
            for number in range(10):
                run("volume", "snapshot", server.image, "web", f"s{number}")
                found = told("pool", "check", server.image)
                assert found["clean"], found
                if number > 2:
                    run("volume", "rm", "--yes", server.image, f"s{number - 3}")
        finally:
            stop.set()
            writer.join()
        assert written


def test_a_volume_that_cannot_be_deleted_stays_with_its_hosts(tmp_path):
    """Whoever has it does not lose it by a call that is refused: of a store that has lost other volumes."""
    image, data = disk_of(tmp_path), tmp_path / "data"
    data.write_bytes(os.urandom(MIB))
    run("pool", "create", "--yes", "--name", "lvs0", image)
    for number in range(12):
        run("volume", "create", image, f"v{number}", "1M")
    run("cp", data, f"volume:{image}?name=v9")
    lost = uuid.UUID(volumes(image)["v2"]["uuid"]).bytes
    whole = bytearray(image.read_bytes())
    for found in list(re.finditer(re.escape(lost), bytes(whole))):
        whole[found.start()] ^= 1  # in each page of the directory that there has been
    image.write_bytes(whole)
    with Server() as server, server.client() as client:
        client.call("bdev_aio_create", name="A", filename=str(image), block_size=4096)
        assert client.call("bdev_lvol_get_lvstores")[0]["name"] == "lvs0"
        assert client.refused("bdev_get_bdevs", name="lvs0/v2")[0] == -19
        with Controller(serve(client, "lvs0/v9"), "nqn.2016-06.io.spdk:lvol", io_queues=1) as host:
            for _ in range(2):
                assert "has lost volumes" in client.refused("bdev_lvol_delete", name="lvs0/v9")[1]
                assert host.read(1, 0, 16, 4096) == data.read_bytes()[:16 * 4096]
            assert client.call("bdev_get_bdevs", name="lvs0/v9")
    assert "v9" in volumes(image)


@pytest.mark.parametrize("mib", [8, 9])
def test_fragmaps_have_what_a_volume_has_of_its_own(mib):
    with Kept() as server, server.client() as client:
        make(server, client)
        create(client, "web", mib=mib)
        with Controller(serve(client, "lvs0/web"), "nqn.2016-06.io.spdk:lvol", io_queues=1) as host:
            host.write(1, 0, bytes([1]) * 4096, 4096)
            host.write(1, 3 * 256 - 1, bytes([1]) * 8192, 4096)  # the end of the third MiB, the beginning of the fourth
            first = client.call("bdev_lvol_get_fragmap", name="lvs0/web")
            client.call("bdev_lvol_snapshot", lvol_name="lvs0/web", snapshot_name="s")
            host.write(1, 5 * 256, bytes([2]) * 4096, 4096)
        assert first == {"cluster_size": MIB, "num_clusters": mib, "num_allocated_clusters": 3,
                         "fragmap": base64.b64encode(bytes([0b1101] + [0] * (mib > 8))).decode()}
        own = client.call("bdev_lvol_get_fragmap", name="lvs0/web")
        assert base64.b64decode(own["fragmap"])[0] == 1 << 5 and own["num_allocated_clusters"] == 1
        assert client.call("bdev_lvol_get_fragmap", name="lvs0/s") == first
        part = client.call("bdev_lvol_get_fragmap", name="lvs0/s", offset=2 * MIB, size=2 * MIB)
        assert part["num_clusters"] == 2 and base64.b64decode(part["fragmap"]) == b"\x03"
        assert client.refused("bdev_lvol_get_fragmap", name="lvs0/s", offset=1)[0] == -22
        assert client.refused("bdev_lvol_get_fragmap", name="lvs0/none")[0] == -19


@pytest.mark.parametrize("is_served", [False, True])
def test_data_is_compared_with_its_checksums(tmp_path, is_served):
    disk, data = tmp_path / "disk.img", tmp_path / "data"
    disk.write_bytes(b"")
    os.truncate(disk, 64 * MIB)
    data.write_bytes(os.urandom(2 * MIB))
    run("pool", "create", "--checksum", "--yes", disk)
    run("volume", "create", disk, "web", "8M")
    run("cp", data, f"volume:{disk}?name=web")
    run("volume", "snapshot", disk, "web", "one")
    nodes = told("pool", "dump", disk, "one")
    leaf = next(each for each in nodes if each["is"] == "node" and each["level"] == 1)
    unit = next(each for each in leaf["maps"] if each["at"] == 100)["to"]["unit"]
    with serving(disk) if is_served else contextlib.nullcontext():
        told_all = told("pool", "check", "--data", disk)
        assert told_all["clean"] and told_all["data_bytes"] == 2 * MIB
    with open(disk, "r+b") as file:
        file.seek(unit * 4096 + 77)
        byte = file.read(1)[0]
        file.seek(unit * 4096 + 77)
        file.write(bytes([byte ^ 4]))
    with serving(disk) if is_served else contextlib.nullcontext():
        assert told("pool", "check", disk)["clean"]
        result = pollux("pool", "check", "--data", disk, "--json")
        assert result.returncode == 4 and not result.stderr
        found = json.loads(result.stdout)
        damage, = [each for each in found["findings"] if each["severity"] == "damage"]
        assert (damage["volume"], damage["offset"], damage["unit"]) == ("web", 409600, unit)
        text = pollux("pool", "check", "--data", disk).stdout
        assert f"web, byte 409600: has data that is not what was written, in unit {unit}; 1 other has it" in text
        assert "2 MiB of data: 1 damage," in text


def test_data_without_checksums(source):
    disk, *_ = source
    assert "the pool has no checksums" in run("pool", "check", "--data", disk)
    assert "--data is not for" in run("pool", "status", "--data", disk, status=2)
