# SPDX-License-Identifier: BSD-3-Clause
"""Commands that clients make themselves (bdev_nvme_send_cmd): to SSDs, and to controllers over a network."""
import base64
import os
import struct

import pytest

from pcie import A, BLOCK, BLOCKS, LATE, Machine, assert_content, model
from rpc import Server, listen
from target import wait_until

NQN = "nqn.2001-01.example:pass"
INVALID_PARAMS, INTERNAL, EINVAL = -32602, -32603, -22
EPERM, EIO, ETIMEDOUT = -1, -5, -110
IO = -2  # any I/O queue
HANG, ABORT_IDLE = 1, 11  # kinds of faults: pcie_model.h
FLUSH, WRITE, READ, DSM, VENDOR = 0x00, 0x01, 0x02, 0x09, 0x82
DELETE_SQ, CREATE_SQ, LOG_PAGE, DELETE_CQ, CREATE_CQ, IDENTIFY, ABORT, SET_FEATURES, GET_FEATURES = (
    0, 1, 2, 4, 5, 6, 8, 9, 10)
ASYNC_EVENT, DOORBELLS, FABRICS, FORMAT = 0x0c, 0x7c, 0x7f, 0x80

pytestmark = pytest.mark.skipif(not os.access(model(), os.X_OK), reason=f"no {model()}: build with -Dtests=true")


@pytest.fixture(autouse=True)
def program(monkeypatch):
    monkeypatch.setenv("POLLUX", str(model()))


@pytest.fixture
def machine():
    with Machine(f"{A},ns=2,serial=FIRST") as made:
        yield made


@pytest.fixture
def ssd(machine):
    """A server that has the SSD."""
    with Server(env=machine.env) as server, server.client() as client:
        client.server = server
        client.call("bdev_nvme_attach_controller", name="Nvme0", trtype="PCIe", traddr=A)
        client.call("bdev_wait_for_examine")  # which reads as well
        yield client
    assert_content(server.stderr)


@pytest.fixture
def remote(tmp_path):
    """One that has a controller of another over a network; its namespace 1 is served."""
    with Server() as far, far.client() as there, Server() as near, near.client() as client:
        there.call("bdev_malloc_create", name="ram", num_blocks=BLOCKS, block_size=BLOCK)
        there.call("nvmf_create_transport", trtype="TCP")
        there.call("nvmf_create_subsystem", nqn=NQN, allow_any_host=True)
        there.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "ram"})
        client.call("bdev_nvme_attach_controller", name="Nvme0", trtype="TCP", adrfam="IPv4", traddr="127.0.0.1",
                    trsvcid=str(listen(there, NQN)), subnqn=NQN)
        yield client


@pytest.fixture(params=["ssd", "remote"])
def client(request):
    return request.getfixturevalue(request.param)


def text(data):
    return base64.urlsafe_b64encode(data).decode()


def entry(opcode, nsid=0, cdw10=0, cdw11=0, cdw12=0, flags=0, cdw2=0):
    """A submission queue entry, with an identifier and pointers that are none of the client's business."""
    return struct.pack("<BBHIIIQQQIIIIII", opcode, flags, 0x1234, nsid, cdw2, 0, 2**64 - 1, 0x123456789000, 2**63,
                       cdw10, cdw11, cdw12, 0, 0, 0)


def params(kind, sqe, name="Nvme0", direction="c2h", **more):
    return {"name": name, "cmd_type": kind, "data_direction": direction, "cmdbuf": text(sqe)} | more


def send(client, kind, sqe, data=None, name="Nvme0", **more):
    """Returns (status, dword 0, data)."""
    if data is not None:
        more |= {"data": text(data), "direction": "h2c"}
    answer = client.call("bdev_nvme_send_cmd", **params(kind, sqe, name, **more))
    cpl = base64.urlsafe_b64decode(answer["cpl"])
    dw0, _, _, _, status = struct.unpack("<IIIHH", cpl)
    return status >> 1 & 0x7ff, dw0, base64.urlsafe_b64decode(answer.get("data", ""))


def refused(client, kind, sqe, **more):
    return client.refused("bdev_nvme_send_cmd", **params(kind, sqe, **more))


def test_admin_commands(client):
    status, _, page = send(client, "admin", entry(IDENTIFY, cdw10=1), data_len=4096)
    assert (status, len(page)) == (0, 4096) and page[4:24].strip()
    assert send(client, "admin", entry(IDENTIFY, cdw10=1), data_len=60)[2] == page[:60]
    status, dw0, _ = send(client, "admin", entry(GET_FEATURES, cdw10=7))
    assert status == 0 and dw0 & 0xffff
    assert send(client, "admin", entry(LOG_PAGE, 2**32 - 1, 2 | 127 << 16), data_len=512)[0] == 0


def test_the_controllers_status_is_the_answer(client):
    assert send(client, "admin", entry(LOG_PAGE, 0, 0xde | 3 << 16), data_len=16)[0] == 0x109
    assert send(client, "io", entry(READ, 1, BLOCKS, cdw12=0), data_len=BLOCK)[0] == 0x80
    assert send(client, "io", entry(VENDOR, 1), data_len=64) == (1, 0, bytes(64))


@pytest.mark.parametrize("blocks", [1, 8, 9, 16, 17, 100])
def test_io_commands(client, blocks):
    """In one page, two, and more: each is told of in its own way."""
    data = os.urandom(blocks * BLOCK)
    assert send(client, "io", entry(WRITE, 1, 7, cdw12=blocks - 1), data)[0] == 0
    assert send(client, "io", entry(READ, 1, 7, cdw12=blocks - 1), data_len=len(data)) == (0, 0, data)
    assert send(client, "io", entry(READ, 1, 7, cdw12=blocks - 1), data_len=BLOCK)[2] == data[:BLOCK]
    assert send(client, "io", entry(FLUSH, 1))[0] == 0
    dsm = struct.pack("<IIQ", 0, blocks, 7)
    assert send(client, "io", entry(DSM, 1, 0, 4), dsm)[0] == 0


def test_a_disk_names_its_controller(client):
    [disk] = [disk["name"] for disk in client.call("bdev_get_bdevs") if disk["name"] == "Nvme0n1"]
    assert send(client, "admin", entry(IDENTIFY, 1, 0), name=disk, data_len=8)[2] == struct.pack("<Q", BLOCKS)


@pytest.mark.parametrize("kind,sqe,words", [
    ("admin", entry(DELETE_SQ, cdw10=1), "queues are made and deleted by the driver"),
    ("admin", entry(CREATE_SQ, cdw10=9), "queues are made and deleted by the driver"),
    ("admin", entry(DELETE_CQ, cdw10=1), "queues are made and deleted by the driver"),
    ("admin", entry(CREATE_CQ, cdw10=9), "queues are made and deleted by the driver"),
    ("admin", entry(ABORT, cdw10=1), "identifiers of commands are the driver's"),
    ("admin", entry(ASYNC_EVENT), "events are told to the driver alone"),
    ("admin", entry(DOORBELLS), "where doorbells are"),
    ("admin", entry(SET_FEATURES, cdw10=0x07, cdw11=0), "the number of queues"),
    ("admin", entry(SET_FEATURES, cdw10=0x8000000b), "events are enabled by the driver"),
    ("admin", entry(SET_FEATURES, cdw10=0x0d), "memory that it is not given"),
    ("admin", entry(SET_FEATURES, cdw10=0x0f, cdw11=1), "the keep alive timeout"),
    ("admin", entry(FABRICS, 4), "Fabrics commands"),
    ("admin", entry(FORMAT, 1, 1), "other blocks"),
    ("admin", entry(FORMAT, 1, 1 << 5), "other blocks"),
    ("admin", entry(FORMAT, 2**32 - 1), "name the namespace"),
    ("io", entry(FABRICS, 1), "Fabrics commands"),
    ("io", entry(WRITE, 1, flags=1), "fused"),
    ("io", entry(FLUSH, 1, flags=2), "fused"),
], ids=lambda value: value if isinstance(value, str) else f"{value[0]:02x}{value[40]:02x}")
def test_what_breaks_the_driver_is_refused(client, kind, sqe, words):
    code, message = refused(client, kind, sqe)
    assert (code, words in message) == (EPERM, True), message
    assert send(client, "io", entry(FLUSH, 1))[0] == 0


@pytest.mark.parametrize("more,words", [
    ({"cmdbuf": text(bytes(63))}, "64 bytes in base64url"),
    ({"cmdbuf": text(bytes(65))}, "64 bytes in base64url"),
    ({"cmdbuf": "A" * 85 + "!"}, "64 bytes in base64url"),
    ({"cmdbuf": ""}, "64 bytes in base64url"),
    ({"data": "AAAA"}, "data_direction is c2h"),
    ({"data": "AAA*", "data_direction": "h2c"}, "data is not base64url"),
    ({"data": "AAAA", "data_len": 4, "data_direction": "h2c"}, "data_len is 4, and data has 3"),
    ({"data_len": 512, "data_direction": "h2c"}, "there is no data"),
    ({"data_len": 1 << 20 | 1}, "data_len"),
    ({"metadata_len": 8}, "metadata apart from data"),
    ({"metadata": "AAAA"}, "metadata apart from data"),
    ({"cmd_type": "fabrics"}, "cmd_type"),
    ({"data_direction": "both"}, "data_direction"),
    ({"name": "Nvme7"}, "there is no controller or disk Nvme7"),
    ({"cmdbuf": text(entry(0x83)), "data_len": 8}, "both ways"),
    ({"cmdbuf": text(entry(FLUSH, 1)), "data_len": 8}, "moves no data"),
    ({"cmdbuf": text(entry(WRITE, 1)), "data_len": 512}, "moves data to the controller"),
    ({"cmdbuf": text(entry(READ, 1)), "data": "AAAA", "data_direction": "h2c"}, "moves data to the host"),
    ({"cmdbuf": text(entry(WRITE, 1, cdw12=1)), "data": text(bytes(512)), "data_direction": "h2c"},
     "that transfers 1024 bytes, and data has 512"),
    ({"cmdbuf": text(entry(WRITE, 1))}, "that transfers 512 bytes, and data has 0"),
    ({"cmdbuf": text(entry(READ, 1, cdw12=0xffff)), "data_len": 512}, "that would transfer 33554432 bytes"),
    ({"cmdbuf": text(entry(READ, 1, cdw2=1)), "data_len": 512}, "dwords 2 and 3"),
], ids=lambda value: None if isinstance(value, dict) else value[:30])
def test_what_does_not_fit_is_refused(client, more, words):
    code, message = client.refused("bdev_nvme_send_cmd", **(params("io", entry(READ, 1)) | more))
    assert code in (INVALID_PARAMS, INTERNAL, EINVAL) and words in message, (code, message)


def test_text_may_lack_its_padding(client):
    sqe = text(entry(IDENTIFY, cdw10=1)).rstrip("=")
    answer = client.call("bdev_nvme_send_cmd", **(params("admin", b"", data_len=1) | {"cmdbuf": sqe}))
    assert len(base64.urlsafe_b64decode(answer["cpl"])) == 16


def test_a_format_that_leaves_blocks_as_they_are(ssd):
    data = os.urandom(BLOCK)
    assert send(ssd, "io", entry(WRITE, 2, 5), data)[0] == 0
    assert send(ssd, "admin", entry(FORMAT, 2, 0))[0] == 0
    assert send(ssd, "io", entry(READ, 2, 5), data_len=BLOCK)[2] == bytes(BLOCK)


either = pytest.mark.parametrize("kind,queue,sqe", [
    pytest.param("admin", 0, entry(LOG_PAGE, 2**32 - 1, 2 | 127 << 16), id="admin"),
    pytest.param("io", IO, entry(READ, 1), id="io")])


@either
def test_a_command_that_is_late_is_aborted(ssd, machine, kind, queue, sqe):
    machine.tell(A, "fault", LATE, queue, sqe[0], 1, 1 << 30)
    enables = machine.tell(A, "enables")
    code, message = refused(ssd, kind, sqe, timeout_ms=100, data_len=BLOCK)
    assert (code, "within 100 ms, and was aborted" in message) == (ETIMEDOUT, True), message
    assert send(ssd, kind, sqe, data_len=BLOCK)[0] == 0
    assert machine.tell(A, "enables") == enables


@either
def test_one_that_does_not_end_takes_the_controller_along(ssd, machine, kind, queue, sqe):
    """Which is reset; the disk goes on."""
    machine.tell(A, "fault", HANG, queue, sqe[0], 1)
    machine.tell(A, "fault", ABORT_IDLE, 0, ABORT, 1)
    enables = machine.tell(A, "enables")
    code, message = refused(ssd, kind, sqe, timeout_ms=100, data_len=BLOCK)
    assert (code, "the association was given up" in message) == (ETIMEDOUT, True), message
    assert wait_until(lambda: machine.tell(A, "enables") > enables, 60)
    assert wait_until(lambda: ssd.call("bdev_nvme_get_controllers")[0]["ctrlrs"][0]["state"] == "enabled", 60)
    assert send(ssd, kind, sqe, data_len=BLOCK)[0] == 0


@either
@pytest.mark.parametrize("verb", ["remove", "fail"])
def test_a_controller_that_vanishes_meanwhile(ssd, machine, kind, queue, sqe, verb):
    machine.tell(A, "fault", HANG, queue, sqe[0], 1)
    ssd.send("bdev_nvme_send_cmd", params(kind, sqe, timeout_ms=60000, data_len=BLOCK))
    assert wait_until(lambda: machine.tell(A, "held"))
    machine.tell(A, verb)
    assert ssd.receive()["error"]["code"] == EIO


@either
def test_a_server_ends_while_it_waits(machine, kind, queue, sqe):
    with Server(env=machine.env) as server, server.client() as client:
        client.call("bdev_nvme_attach_controller", name="Nvme0", trtype="PCIe", traddr=A)
        machine.tell(A, "fault", LATE, queue, sqe[0], 1, 1 << 30)
        client.send("bdev_nvme_send_cmd", params(kind, sqe, timeout_ms=3600000, data_len=BLOCK))
        assert wait_until(lambda: machine.tell(A, "held"))
    assert_content(server.stderr)
