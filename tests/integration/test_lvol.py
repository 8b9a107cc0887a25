# SPDX-License-Identifier: BSD-3-Clause
"""Logical volumes by the calls that clients know: exchanges recorded from their server, and what these leave out."""
import itertools
import json
import pathlib
import random
import uuid

import pytest

from host import Controller
from rpc import INTERNAL, INVALID_PARAMS, Server, listen
from spec import Sc
from test_rpc import compare
import sqe

HERE = pathlib.Path(__file__).resolve().parent
EXCHANGES = [json.loads(line) for line in (HERE / "lvol_exchanges.jsonl").read_text(encoding="utf-8").splitlines()]
NQN = "nqn.2016-06.io.spdk:lvol"
MIB = 1 << 20
BLOCK = 4096
ENOENT, EPERM, EBUSY, EEXIST, ENODEV, EINVAL, ENOSPC = -2, -1, -16, -17, -19, -22, -28

# The other server has codes for some errors that say nothing; ours are what its words say.
WORD_CODES = {"No space left on device": ENOSPC, "File exists": EEXIST, "Invalid argument": EINVAL,
              "Operation not permitted": EPERM}


class Kept(Server):
    """A server that keeps its state, with a file that is a disk, in its folder."""

    def __init__(self, mib=256, **more):
        super().__init__(options=["--state", "STATE"], **more)
        self.options[-1] = str(self.folder / "state.json")
        self.image = self.folder / "disk.img"
        with open(self.image, "wb") as image:
            image.truncate(mib * MIB)


def make(server, client, cluster=MIB, name="lvs0"):
    client.call("bdev_aio_create", name="A", filename=str(server.image), block_size=BLOCK)
    return client.call("bdev_lvol_create_lvstore", bdev_name="A", lvs_name=name, cluster_sz=cluster)


def create(client, name, mib=8, thin=True, store="lvs0"):
    return client.call("bdev_lvol_create", lvol_name=name, size_in_mib=mib, thin_provision=thin, lvs_name=store)


def serve(client, *disks):
    """Disks as namespaces 1, 2, ...; returns the address."""
    client.call("nvmf_create_transport", trtype="TCP")
    client.call("nvmf_create_subsystem", nqn=NQN, allow_any_host=True)
    for disk in disks:
        client.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": disk})
    return "127.0.0.1", listen(client, NQN)


def disk(client, name):
    return client.call("bdev_get_bdevs", name=name)[0]


def lvol(client, name):
    return disk(client, name)["driver_specific"]["lvol"]


def names(client):
    return sorted(v["alias"] for v in client.call("bdev_lvol_get_lvols"))


# ---- recorded exchanges

def otherwise(call):
    """The answer that is meant to be another one here, or None."""
    method, params = call["method"], call.get("params", {})
    if method == "bdev_lvol_create" and params["lvol_name"] in ("zero", "a/b"):
        return EINVAL  # no volume is of no size, and a slash in a name would make aliases ambiguous
    if method == "bdev_lvol_delete" and params["name"] == "lvs0/a/b":
        return ENODEV
    if method == "bdev_lvol_delete" and params["name"] == "lvs0/s0":
        return True  # a snapshot with two clones can be deleted; so it is not, here, as the others go on with it
    if method == "bdev_lvol_rename" and params["old_name"].endswith("/" + params["new_name"]):
        return True  # it is called that
    if method == "bdev_lvol_delete_lvstore" and not params:
        return EINVAL  # as with the other methods that a store is named to
    return None


def expected(exchange):
    """An exchange with the code that words say, where the recorded one has none."""
    error = exchange["response"].get("error")
    if error and error["code"] in (INVALID_PARAMS, INTERNAL):
        code = WORD_CODES.get(error["message"], error["code"])
        return {"response": exchange["response"] | {"error": error | {"code": code}}}
    return exchange


def test_recorded_exchanges_are_answered_alike():
    """In order, on one connection; what the other server named by UUIDs of its own is named by ours."""
    ours, bad = {}, []
    with Server() as server, server.client() as client:
        for name in ("a.img", "b.img"):
            with open(server.folder / name, "wb") as image:
                image.truncate(256 * MIB)
        for exchange in EXCHANGES:
            call = exchange["request"]
            other = otherwise(call)
            if other is True and call["method"] == "bdev_lvol_delete":
                continue
            raw = json.dumps(call).replace("/data/", f"{server.folder}/")
            for theirs, mine in ours.items():
                raw = raw.replace(theirs, mine)
            got, want = client.exchange(raw), exchange["response"].get("result")
            if other is not None:
                assert got.get("result", got.get("error", {}).get("code")) == other, (raw, got)
                continue
            if isinstance(want, str) and call["method"].startswith("bdev_lvol") and "result" in got:
                ours[want] = str(uuid.UUID(got["result"]))
            if call["method"] != "framework_get_config":
                bad += [f"{raw[:200]}: {line}" for line in compare(expected(exchange), got)]
    assert len(ours) == 7 and not bad, "\n".join(bad)


# ---- what clients look at

def test_a_store_and_its_volumes_are_described():
    with Kept() as server, server.client() as client:
        store = make(server, client)
        [empty] = client.call("bdev_lvol_get_lvstores", lvs_name="lvs0")
        assert empty["uuid"] == store and empty["base_bdev"] == "A" and empty["block_size"] == BLOCK
        assert empty["cluster_size"] == MIB and 240 < empty["total_data_clusters"] <= 256
        assert empty["free_clusters"] == empty["total_data_clusters"]
        thin, thick = create(client, "thin", 9), create(client, "thick", 20, thin=False)
        [now] = client.call("bdev_lvol_get_lvstores", uuid=store)
        assert empty["free_clusters"] - now["free_clusters"] in (20, 21)
        assert disk(client, "A")["claimed"] and not disk(client, thin)["claimed"]
        for name, given, mib, clusters in (("thin", thin, 9, 0), ("thick", thick, 20, 20)):
            shown = disk(client, f"lvs0/{name}")
            assert shown["name"] == shown["uuid"] == given and shown["aliases"] == [f"lvs0/{name}"]
            assert shown["product_name"] == "Logical Volume"
            assert shown["num_blocks"] * shown["block_size"] == mib * MIB
            assert shown["driver_specific"]["lvol"] == {
                "lvol_store_uuid": store, "base_bdev": "A", "thin_provision": name == "thin",
                "num_allocated_clusters": clusters, "snapshot": False, "clone": False, "esnap_clone": False}
        serve(client)
        code, said = client.refused("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "A"})
        assert code == INVALID_PARAMS and "A is used exclusively" in said


def test_sizes_are_whole_clusters():
    with Kept() as server, server.client() as client:
        make(server, client, cluster=4 * MIB)
        create(client, "v", 5)
        assert disk(client, "lvs0/v")["num_blocks"] * BLOCK == 8 * MIB
        client.call("bdev_lvol_resize", name="lvs0/v", size_in_mib=9)
        assert disk(client, "lvs0/v")["num_blocks"] * BLOCK == 12 * MIB


def test_errors_are_those_that_clients_look_for():
    with Kept() as server, server.client() as client:
        store = make(server, client)
        create(client, "v")
        client.call("bdev_lvol_snapshot", lvol_name="lvs0/v", snapshot_name="s")
        for method, params, code, words in (
                ("bdev_lvol_create_lvstore", {"bdev_name": "no", "lvs_name": "x"}, ENODEV, "No such device"),
                ("bdev_lvol_create_lvstore", {"bdev_name": "A", "lvs_name": "x"}, EPERM, "has lvstore lvs0 already"),
                ("bdev_lvol_create", {"lvol_name": "v", "size_in_mib": 1, "uuid": store}, EEXIST, "File exists"),
                ("bdev_lvol_create", {"lvol_name": "w", "size_in_mib": 999, "uuid": store}, ENOSPC, "No space left"),
                ("bdev_lvol_create", {"lvol_name": "w", "size_in_mib": 1}, EINVAL, "lvs_name"),
                ("bdev_lvol_create", {"lvol_name": "w", "size_in_mib": 1, "lvs_name": "no"}, ENODEV, "No such device"),
                ("bdev_lvol_snapshot", {"lvol_name": "lvs0/s", "snapshot_name": "t"}, EINVAL, "is a snapshot already"),
                ("bdev_lvol_snapshot", {"lvol_name": "A", "snapshot_name": "t"}, ENODEV, "no logical volume"),
                ("bdev_lvol_clone", {"snapshot_name": "lvs0/v", "clone_name": "t"}, EINVAL, "no snapshot"),
                ("bdev_lvol_resize", {"name": "lvs0/s", "size_in_mib": 9}, EPERM, "is a snapshot"),
                ("bdev_lvol_rename", {"old_name": "lvs0/v", "new_name": "s"}, EEXIST, "File exists"),
                ("bdev_lvol_rename_lvstore", {"old_name": "no", "new_name": "x"}, ENOENT, "not found"),
                ("bdev_lvol_decouple_parent", {"name": "lvs0/s"}, EINVAL, "others go back to"),
                ("bdev_lvol_delete", {"name": "lvs0/no"}, ENODEV, "No such device"),
                ("bdev_lvol_delete", {"name": "A"}, ENODEV, "No such device"),
                ("bdev_lvol_delete_lvstore", {"lvs_name": "no"}, ENODEV, "No such device")):
            got, said = client.refused(method, **params)
            assert got == code and words in said, (method, params, got, said)
        assert names(client) == ["lvs0/s", "lvs0/v"]


def test_a_disk_in_use_gets_no_store():
    with Kept() as server, server.client() as client:
        client.call("bdev_aio_create", name="A", filename=str(server.image), block_size=BLOCK)
        serve(client, "A")
        code, said = client.refused("bdev_lvol_create_lvstore", bdev_name="A", lvs_name="x")
        assert code == EPERM and "Operation not permitted" in said and "is used" in said
        assert client.call("bdev_lvol_get_lvstores") == []


def test_the_second_of_a_name_is_refused(tmp_path):
    with Kept() as server, server.client() as client:
        make(server, client)
        client.call("bdev_malloc_create", name="M", num_blocks=65536, block_size=512)
        code, said = client.refused("bdev_lvol_create_lvstore", bdev_name="M", lvs_name="lvs0")
        assert code == EEXIST and "File exists" in said
        client.call("bdev_malloc_create", name="lvs0/taken", num_blocks=2048, block_size=512)
        create(client, "taken")  # it is found by its UUID alone
        assert disk(client, "lvs0/taken")["product_name"] == "Malloc disk"


# ---- again

def test_volumes_are_there_again():
    with Kept() as server:
        with server.client() as client:
            store = make(server, client)
            first, other = create(client, "v"), create(client, "gone")
            address = serve(client, "lvs0/v")
            with Controller(address, NQN, io_queues=1) as host:
                host.write(1, 5, b"before" + bytes(BLOCK - 6), BLOCK)
                snapshot = client.call("bdev_lvol_snapshot", lvol_name=first, snapshot_name="s")
                host.write(1, 5, b"after " + bytes(BLOCK - 6), BLOCK)
            client.call("bdev_lvol_delete", name=other)
            client.call("bdev_set_qos_limit", name="lvs0/v", rw_ios_per_sec=5000)
            client.call("bdev_lvol_rename", old_name="lvs0/v", new_name="w")
            client.call("bdev_lvol_rename_lvstore", old_name="lvs0", new_name="lvs1")
            shown, kept = client.call("bdev_lvol_get_lvols"), client.dump()
            methods = [call["method"] for group in kept["subsystems"] for call in group["config"]]
            assert not [m for m in methods if "lvol" in m] and methods.count("bdev_wait_for_examine") == 1
        for kill in (False, True):
            server.restart(kill)
            with server.client() as client:
                assert client.call("bdev_lvol_get_lvols") == shown and client.dump() == kept
                assert client.call("bdev_lvol_get_lvstores")[0]["uuid"] == store
                assert disk(client, first)["aliases"] == ["lvs1/w"]
                assert disk(client, first)["assigned_rate_limits"]["rw_ios_per_sec"] == 5000
                assert lvol(client, snapshot)["clones"] == ["w"] and lvol(client, first)["base_snapshot"] == "s"
                if not kill:
                    client.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": snapshot})
                    kept = client.dump()
                where = client.call("nvmf_subsystem_get_listeners", nqn=NQN)[0]["address"]
                with Controller((where["traddr"], int(where["trsvcid"])), NQN, io_queues=1) as host:
                    assert host.read(1, 5, 1, BLOCK).startswith(b"after")
                    assert host.read(2, 5, 1, BLOCK).startswith(b"before")
                    assert host.io.execute(sqe.write(2, 5, 1), out=bytes(BLOCK)).status == Sc.WRITE_PROTECTED


def test_a_store_is_found_when_its_disk_comes_back():
    with Kept() as server, server.client() as client:
        make(server, client)
        create(client, "v")
        address = serve(client, "lvs0/v")
        with Controller(address, NQN, io_queues=1) as host:
            host.write(1, 0, b"\7" * BLOCK, BLOCK)
            host.flush(1)
            client.call("bdev_aio_delete", name="A")
            assert client.call("bdev_lvol_get_lvstores") == [] and client.call("bdev_get_bdevs") == []
            assert host.namespaces() == []
            client.call("bdev_aio_create", name="B", filename=str(server.image), block_size=BLOCK)
            assert names(client) == ["lvs0/v"] and lvol(client, "lvs0/v")["base_bdev"] == "B"
            client.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "lvs0/v"})
            assert host.read(1, 0, 1, BLOCK) == b"\7" * BLOCK


def test_a_copy_of_a_store_is_left_alone():
    with Kept() as server, server.client() as client:
        make(server, client)
        create(client, "v")
        client.call("bdev_aio_delete", name="A")
        copy = server.folder / "copy.img"
        copy.write_bytes(server.image.read_bytes())
        client.call("bdev_aio_create", name="A", filename=str(server.image), block_size=BLOCK)
        client.call("bdev_aio_create", name="B", filename=str(copy), block_size=BLOCK)
        [store] = client.call("bdev_lvol_get_lvstores")
        assert store["base_bdev"] == "A" and not disk(client, "B")["claimed"]
        client.call("bdev_aio_delete", name="A")
        client.call("bdev_aio_delete", name="B")
        client.call("bdev_aio_create", name="B", filename=str(copy), block_size=BLOCK)
        assert client.call("bdev_lvol_get_lvstores")[0]["base_bdev"] == "B"


def test_a_filter_below_a_store_is_there_again():
    """The disk at the bottom is as it was, too: it must not be taken before the filter has it."""
    with Kept() as server:
        with server.client() as client:
            client.call("bdev_aio_create", name="A", filename=str(server.image), block_size=BLOCK)
            client.call("bdev_error_create", base_name="A", name="E")
            client.call("bdev_lvol_create_lvstore", bdev_name="E", lvs_name="lvs0")
            create(client, "v")
            client.call("bdev_error_create", base_name="lvs0/v", name="F")
            kept = client.dump()
        server.restart()
        with server.client() as client:
            assert client.dump() == kept and lvol(client, "lvs0/v")["base_bdev"] == "E"
            assert disk(client, "lvs0/v")["claimed"] and not disk(client, "F")["claimed"]
            client.call("bdev_error_delete", name="E")
            assert [d["name"] for d in client.call("bdev_get_bdevs")] == ["A"]


def test_a_configuration_by_hand_needs_no_word_of_examination(tmp_path):
    with Kept() as server:
        with server.client() as client:
            make(server, client)
            create(client, "v")
            serve(client, "lvs0/v")
            config = client.dump()
        for group in config["subsystems"]:
            group["config"] = [c for c in group["config"] if c["method"] != "bdev_wait_for_examine"]
        pathlib.Path(server.options[-1]).write_text(json.dumps(config), encoding="utf-8")
        server.restart()
        with server.client() as client:
            assert names(client) == ["lvs0/v"]
            assert client.call("nvmf_get_subsystems")[1]["namespaces"][0]["bdev_name"] == disk(client, "lvs0/v")["uuid"]


# ---- trees

def test_a_tree_of_snapshots():
    with Kept() as server, server.client() as client:
        make(server, client)
        create(client, "v", 16)
        address = serve(client, "lvs0/v")
        with Controller(address, NQN, io_queues=1) as host:
            for n in range(1, 6):
                host.write(1, n, bytes([n]) * BLOCK, BLOCK)
                client.call("bdev_lvol_snapshot", lvol_name="lvs0/v", snapshot_name=f"s{n}")
            for n in (2, 4):
                client.call("bdev_lvol_clone", snapshot_name=f"lvs0/s{n}", clone_name=f"c{n}")
                client.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": f"lvs0/c{n}"})
            assert lvol(client, "lvs0/s2")["clones"] == ["s3", "c2"]
            assert lvol(client, "lvs0/s5")["base_snapshot"] == "s4" and lvol(client, "lvs0/s5")["clones"] == ["v"]
            client.call("bdev_lvol_delete", name="lvs0/s2")  # two go back to it
            assert lvol(client, "lvs0/c2")["base_snapshot"] == "s1" == lvol(client, "lvs0/s3")["base_snapshot"]
            assert sorted(lvol(client, "lvs0/s1")["clones"]) == ["c2", "s3"]
            for n, nsid in ((2, 2), (4, 3)):
                for block in range(1, 6):
                    assert host.read(nsid, block, 1, BLOCK) == bytes([block if block <= n else 0]) * BLOCK
            host.write(2, 1, b"\x77" * BLOCK, BLOCK)
            assert host.read(1, 1, 1, BLOCK) == b"\1" * BLOCK


def test_deleted_in_any_order():
    dice = random.Random(14)
    with Kept() as server, server.client() as client:
        make(server, client)
        [before] = client.call("bdev_lvol_get_lvstores")
        for _ in range(3):
            there = []
            for n in range(12):
                kind, of = dice.choice("vsc"), dice.choice(there) if there else None
                if kind == "v" or not of:
                    create(client, f"v{n}", thin=dice.random() < 0.7)
                    there.append(f"v{n}")
                elif of[0] == "s":
                    client.call("bdev_lvol_clone", snapshot_name=f"lvs0/{of}", clone_name=f"c{n}")
                    there.append(f"c{n}")
                else:
                    client.call("bdev_lvol_snapshot", lvol_name=f"lvs0/{of}", snapshot_name=f"s{n}")
                    there.append(f"s{n}")
            dice.shuffle(there)
            while there:
                client.call("bdev_lvol_delete", name=f"lvs0/{there.pop()}")
                assert names(client) == sorted(f"lvs0/{name}" for name in there)
        [after] = client.call("bdev_lvol_get_lvstores")
        assert abs(after["free_clusters"] - before["free_clusters"]) <= 1


def test_two_hundred_volumes():
    with Kept() as server:
        with server.client() as client:
            make(server, client)
            made = {create(client, f"v{n}"): f"lvs0/v{n}" for n in range(200)}
            assert {d["name"]: d["aliases"][0] for d in client.call("bdev_get_bdevs") if d["name"] != "A"} == made
        server.restart()
        with server.client() as client:
            assert {v["uuid"]: v["alias"] for v in client.call("bdev_lvol_get_lvols")} == made
            for name in itertools.islice(made, 0, None, 2):
                client.call("bdev_lvol_delete", name=name)
            assert len(client.call("bdev_get_bdevs")) == 101
            client.call("bdev_lvol_delete_lvstore", lvs_name="lvs0")
            assert [d["name"] for d in client.call("bdev_get_bdevs")] == ["A"]
            client.call("bdev_aio_delete", name="A")
            client.call("bdev_aio_create", name="A", filename=str(server.image), block_size=BLOCK)
            assert client.call("bdev_lvol_get_lvstores") == [] and not disk(client, "A")["claimed"]
            client.call("bdev_lvol_create_lvstore", bdev_name="A", lvs_name="lvs0")


# ---- under hosts

def test_a_host_sees_a_volume_grow_and_go():
    with Kept() as server, server.client() as client:
        make(server, client)
        create(client, "v", 8)
        create(client, "w", 8)
        with Controller(serve(client, "lvs0/v", "lvs0/w"), NQN, io_queues=1) as host:
            assert host.namespace(1).nsze == 8 * MIB // BLOCK
            client.call("bdev_lvol_resize", name="lvs0/v", size_in_mib=12)
            assert host.namespace(1).nsze == 12 * MIB // BLOCK
            host.write(1, 12 * MIB // BLOCK - 1, b"\1" * BLOCK, BLOCK)
            code, said = client.refused("bdev_lvol_resize", name="lvs0/v", size_in_mib=4)
            assert code == EBUSY and "is used by" in said
            code, said = client.refused("bdev_lvol_set_read_only", name="lvs0/v")
            assert code == EBUSY and "is used by" in said
            client.call("bdev_lvol_delete", name="lvs0/v")
            assert host.namespaces() == [2] and names(client) == ["lvs0/w"]
            client.call("bdev_lvol_delete_lvstore", lvs_name="lvs0")
            assert host.namespaces() == []


def test_what_nobody_uses_becomes_smaller_and_read_only():
    with Kept() as server:
        with server.client() as client:
            make(server, client)
            given = create(client, "v", 8)
            client.call("bdev_set_qos_limit", name=given, r_mbytes_per_sec=100)
            client.call("bdev_lvol_resize", name="lvs0/v", size_in_mib=4)
            assert disk(client, "lvs0/v")["name"] == given and disk(client, given)["num_blocks"] * BLOCK == 4 * MIB
            assert disk(client, given)["assigned_rate_limits"]["r_mbytes_per_sec"] == 100
            for _ in range(2):
                client.call("bdev_lvol_set_read_only", name="lvs0/v")
            assert not disk(client, given)["supported_io_types"]["write"] or lvol(client, given)["snapshot"]
            client.call("bdev_lvol_clone", snapshot_name="lvs0/v", clone_name="c")
        server.restart()
        with server.client() as client:
            assert lvol(client, given)["snapshot"] and lvol(client, given)["clones"] == ["c"]
            with Controller(serve(client, "lvs0/v", "lvs0/c"), NQN, io_queues=1) as host:
                assert host.io.execute(sqe.write(1, 0, 1), out=bytes(BLOCK)).status == Sc.WRITE_PROTECTED
                host.write(2, 0, b"\1" * BLOCK, BLOCK)


def test_out_of_space():
    """A thin volume that is larger than the disk: what does not fit waits, and a delete makes room."""
    with Kept(mib=32) as server, server.client() as client:
        make(server, client)
        [store] = client.call("bdev_lvol_get_lvstores")
        create(client, "big", 100)
        create(client, "thick", store["free_clusters"] - 8, thin=False)
        assert client.refused("bdev_lvol_create", lvol_name="x", size_in_mib=10, lvs_name="lvs0")[0] == ENOSPC
        assert client.refused("bdev_lvol_resize", name="lvs0/thick", size_in_mib=50)[0] == ENOSPC
        with Controller(serve(client, "lvs0/big"), NQN, io_queues=1) as host:
            blocks = 128 * 1024 // BLOCK
            writes = [(sqe.write(1, n * blocks, blocks), {"out": bytes([n + 1]) * (blocks * BLOCK)}) for n in range(99)]
            done = 0
            while client.call("bdev_lvol_get_lvstores")[0]["free_clusters"]:
                assert host.io.execute(writes[done][0], **writes[done][1]).status == Sc.SUCCESS
                done += 1
            assert done >= 7 * 8
            waiting = host.io.submit_all(writes[done:done + 20])  # 2.5 MiB, and less than one is free
            assert host.read(1, 0, 1, BLOCK) == b"\1" * BLOCK
            assert [command for command in waiting if command.completion is None]
            client.call("bdev_lvol_delete", name="lvs0/thick")
            assert {completion.status for completion in host.io.wait_all(waiting)} == {Sc.SUCCESS}
            for n in range(done + 20):
                assert host.read(1, n * blocks, 1, BLOCK) == bytes([n + 1]) * BLOCK


@pytest.mark.parametrize("name", ["a?b=c&d", "%41", "ü", "x" * 63])
def test_any_name(name):
    with Kept() as server:
        with server.client() as client:
            make(server, client, name=name)
            create(client, name, store=name)
        server.restart()
        with server.client() as client:
            assert names(client) == [f"{name}/{name}"] and lvol(client, f"{name}/{name}")["base_bdev"] == "A"
