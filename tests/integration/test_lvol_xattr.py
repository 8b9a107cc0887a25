# SPDX-License-Identifier: BSD-3-Clause
"""What volumes remember, and checksums of snapshots, as Longhorn asks for them."""
import threading

import pytest

from host import Controller
from rpc import INTERNAL
from test_lvol import EBUSY, EINVAL, ENODEV, ENOSPC, EPERM, MIB, NQN, Kept, create, make, serve
from test_pool import told

ESRCH, ECANCELED = -3, -125
NONE = INTERNAL, "No such file or directory"  # the client compares all of it


def test_a_volume_remembers():
    with Kept() as server, server.client() as client:
        make(server, client)
        create(client, "web")
        assert client.refused("bdev_lvol_get_xattr", name="lvs0/web", xattr_name="user_created") == NONE
        done = client.call("bdev_lvol_set_xattr", name="lvs0/web", xattr_name="user_created", xattr_value="true")
        assert done is True
        client.call("bdev_lvol_set_xattr", name="lvs0/web", xattr_name="other", xattr_value="")
        client.call("bdev_lvol_set_xattr", name="lvs0/web", xattr_name="user_created", xattr_value="false")
        snapshot = client.call("bdev_lvol_snapshot", lvol_name="lvs0/web", snapshot_name="s",
                               xattrs={"user_created": "true", "snapshot_timestamp": "2026-11-27T10:00:00Z"})
        client.call("bdev_lvol_snapshot", lvol_name="lvs0/web", snapshot_name="plain", xattrs=None)
        assert client.refused("bdev_lvol_get_xattr", name="lvs0/plain", xattr_name="user_created") == NONE
        for _ in range(2):  # after a kill, too: what was told to be done is done
            assert client.call("bdev_lvol_get_xattr", name="lvs0/web", xattr_name="user_created") == "false"
            assert client.call("bdev_lvol_get_xattr", name="lvs0/web", xattr_name="other") == ""
            assert client.call("bdev_lvol_get_xattr", name=snapshot, xattr_name="user_created") == "true"
            assert client.call("bdev_lvol_get_xattr", name=snapshot,
                               xattr_name="snapshot_timestamp") == "2026-11-27T10:00:00Z"
            server.restart(True)
            client.close()
            client = server.client()
            client.call("bdev_wait_for_examine")


def test_what_cannot_be_remembered_is_refused():
    with Kept() as server, server.client() as client:
        make(server, client)
        create(client, "web")
        assert client.refused("bdev_lvol_set_xattr", name="lvs0/none", xattr_name="a", xattr_value="b")[0] == ENODEV
        assert client.refused("bdev_lvol_set_xattr", name="lvs0/web", xattr_name="a", xattr_value="\x1b")[0] == EINVAL
        client.call("bdev_lvol_set_xattr", name="lvs0/web", xattr_name="a", xattr_value="v" * 283)
        assert client.refused("bdev_lvol_set_xattr", name="lvs0/web", xattr_name="b", xattr_value="")[0] == ENOSPC
        assert client.refused("bdev_lvol_snapshot", lvol_name="lvs0/web", snapshot_name="s",
                              xattrs={"a": "v" * 283, "b": ""})[0] == ENOSPC
        assert client.refused("bdev_lvol_snapshot", lvol_name="lvs0/web", snapshot_name="s",
                              xattrs={str(i): "" for i in range(200)})[0] == ENOSPC
        assert client.refused("bdev_lvol_snapshot", lvol_name="lvs0/web", snapshot_name="s",
                              xattrs={"a": 7})[0] == INTERNAL
        assert [v["name"] for v in client.call("bdev_lvol_get_lvols")] == ["web"]


def crc64(data, crc=0):
    """ISO 3309, reflected, bit by bit."""
    crc ^= (1 << 64) - 1
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xD800000000000000 if crc & 1 else 0)
    return crc ^ (1 << 64) - 1


LOW = (1 << 63) - 1
CLUSTER = 4096


def filled(client, host):
    """A snapshot of a volume whose clusters 1, 2 and 5 were written to."""
    pages = {1: bytes(range(256)) * 16, 2: b"\x01" * 4096, 5: b"web!" * 1024}
    for at, data in pages.items():
        host.write(1, at, data, 4096)
    client.call("bdev_lvol_snapshot", lvol_name="lvs0/web", snapshot_name="s")
    return pages


@pytest.fixture
def store():
    with Kept(mib=64) as server, server.client() as client:
        make(server, client, cluster=CLUSTER)
        create(client, "web", mib=1)
        with Controller(serve(client, "lvs0/web"), NQN, io_queues=1) as host:
            yield server, client, host


def checksum(client, name="lvs0/s"):
    return client.call("bdev_lvol_get_snapshot_checksum", name=name)["checksum"]


def test_a_checksum_is_of_what_a_snapshot_has_of_its_own(store):
    _, client, host = store
    pages = filled(client, host)
    assert client.refused("bdev_lvol_get_snapshot_checksum", name="lvs0/s")[0] == ENODEV
    assert client.call("bdev_lvol_register_snapshot_checksum", name="lvs0/s") is True
    crc = 0
    for data in pages.values():
        crc = crc64(data, crc)
    assert checksum(client) == crc & LOW
    host.write(1, 2, b"\x02" * 4096, 4096)
    client.call("bdev_lvol_snapshot", lvol_name="lvs0/web", snapshot_name="t")
    client.call("bdev_lvol_register_snapshot_range_checksums", name="lvs0/t")
    assert checksum(client, "lvs0/t") == crc64(b"\x02" * 4096) & LOW
    assert checksum(client) == crc & LOW
    assert client.refused("bdev_lvol_register_snapshot_checksum", name="lvs0/web")[0] == EPERM
    assert client.refused("bdev_lvol_register_snapshot_checksum", name="lvs0/none")[0] == ENODEV


def test_checksums_of_clusters_are_told(store):
    _, client, host = store
    pages = filled(client, host)
    ask = {"name": "lvs0/s", "cluster_start_index": 0, "cluster_count": 256}
    assert client.refused("bdev_lvol_get_snapshot_range_checksums", **ask)[0] == ENODEV
    client.call("bdev_lvol_register_snapshot_range_checksums", name="lvs0/s")
    every = [{"cluster_index": at, "checksum": crc64(data) & LOW} for at, data in pages.items()]
    assert client.call("bdev_lvol_get_snapshot_range_checksums", **ask) == every
    assert client.call("bdev_lvol_get_snapshot_range_checksums", name="lvs0/s", cluster_start_index=2,
                       cluster_count=3) == every[1:2]
    for wrong in {"cluster_start_index": 256}, {"cluster_count": 257}, {"cluster_count": 0}:
        assert client.refused("bdev_lvol_get_snapshot_range_checksums", **ask | wrong)[0] == EINVAL


def test_a_checksum_goes_when_what_it_is_of_changes(store):
    server, client, host = store
    filled(client, host)
    client.call("bdev_lvol_register_snapshot_checksum", name="lvs0/s")
    host.write(1, 9, b"\x09" * 4096, 4096)
    client.call("bdev_lvol_snapshot", lvol_name="lvs0/web", snapshot_name="t")
    client.call("bdev_lvol_register_snapshot_checksum", name="lvs0/t")
    before = checksum(client, "lvs0/t")
    client.call("bdev_lvol_delete", name="lvs0/s")  # t has what it had
    assert client.refused("bdev_lvol_get_snapshot_checksum", name="lvs0/t")[0] == ENODEV
    client.call("bdev_lvol_register_snapshot_checksum", name="lvs0/t")
    assert checksum(client, "lvs0/t") != before
    client.call("bdev_lvol_clone", snapshot_name="lvs0/t", clone_name="c")
    client.call("bdev_lvol_set_read_only", name="lvs0/c")
    client.call("bdev_lvol_register_snapshot_checksum", name="lvs0/c")
    assert checksum(client, "lvs0/c") == 0
    client.call("bdev_lvol_decouple_parent", name="lvs0/c")
    assert client.refused("bdev_lvol_get_snapshot_checksum", name="lvs0/c")[0] == ENODEV
    client.call("bdev_lvol_register_snapshot_checksum", name="lvs0/c")
    assert checksum(client, "lvs0/c") == checksum(client, "lvs0/t")
    client.call("bdev_lvol_set_parent", lvol_name="lvs0/c", parent_name="lvs0/t")
    assert client.refused("bdev_lvol_get_snapshot_checksum", name="lvs0/c")[0] == ENODEV
    kept = checksum(client, "lvs0/t")
    server.restart(True)
    with server.client() as again:
        again.call("bdev_wait_for_examine")
        assert checksum(again, "lvs0/t") == kept
        assert again.refused("bdev_lvol_get_snapshot_checksum", name="lvs0/c")[0] == ENODEV


def test_a_checksum_that_is_being_made_is_stopped():
    with Kept(mib=64) as server, server.client() as client, server.client() as other:
        make(server, client, cluster=CLUSTER)
        assert client.call("bdev_lvol_get_lvstores")
        client.call("bdev_lvol_delete_lvstore", lvs_name="lvs0")
        client.call("bdev_delay_create", name="D", base_bdev_name="A", avg_read_latency=0, p99_read_latency=0,
                    avg_write_latency=0, p99_write_latency=0)
        client.call("bdev_lvol_create_lvstore", bdev_name="D", lvs_name="lvs0", cluster_sz=CLUSTER)
        create(client, "web", mib=1)
        with Controller(serve(client, "lvs0/web"), NQN, io_queues=1) as host:
            filled(client, host)
        assert client.refused("bdev_lvol_stop_snapshot_checksum", name="lvs0/s")[0] == ESRCH
        for latency in "avg_read", "p99_read":
            client.call("bdev_delay_update_latency", delay_bdev_name="D", latency_type=latency, latency_us=2000000)
        ended, stopped, tries = [], False, 0
        thread = threading.Thread(
            target=lambda: ended.append(other.answer("bdev_lvol_register_snapshot_checksum", {"name": "lvs0/s"})))
        thread.start()
        while not stopped and not ended:
            tries += 1
            stopped = client.answer("bdev_lvol_stop_snapshot_checksum", {"name": "lvs0/s"}).get("result") is True
        again = client.answer("bdev_lvol_register_snapshot_checksum", {"name": "lvs0/s"})
        thread.join()
        if not stopped:
            assert tries < 10 and "error" not in ended[0]
            pytest.skip("this machine took longer to ask than all the reads took")
        assert ended[0]["error"]["code"] == ECANCELED
        if "error" in again:  # else it took longer than a read takes, and it was made after all
            assert again["error"]["code"] == EBUSY
            assert client.refused("bdev_lvol_get_snapshot_checksum", name="lvs0/s")[0] == ENODEV


def test_a_pool_with_attributes_is_clean():
    with Kept() as server, server.client() as client:
        make(server, client)
        create(client, "web")
        client.call("bdev_lvol_set_xattr", name="lvs0/web", xattr_name="a", xattr_value="b")
        client.call("bdev_lvol_snapshot", lvol_name="lvs0/web", snapshot_name="s", xattrs={"c": "d"})
        client.call("bdev_lvol_register_snapshot_checksum", name="lvs0/s")
        report = told("pool", "check", server.image)
        assert report["clean"] and not report["findings"]
        assert client.call("bdev_lvol_get_fragmap", name="lvs0/s")["cluster_size"] == MIB
        checksum = client.call("bdev_lvol_get_snapshot_checksum", name="lvs0/s")["checksum"]
        server.stop()
        records = {item["name"]: item for item in told("pool", "dump", server.image) if item["is"] == "record"}
        assert (records["web"]["attributes"], records["web"]["checksum"]) == ({"a": "b"}, None)
        assert (records["s"]["attributes"], records["s"]["checksum"]) == ({"c": "d"}, checksum)
