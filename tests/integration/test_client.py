# SPDX-License-Identifier: BSD-3-Clause
"""The test client itself: its encoding, its decoding, and its conversations with a fake controller."""

import os
import struct

import pytest

import pdu
import sqe
from crc32c import crc32c, crc32c_tables
from fake import NQN, FakeTarget
from host import Controller
from nvmetcp import Connection, Queue, Terminated
from pdu import DigestError, Layout, ProtocolError
from spec import DDGSTF, HDGSTF, HLEN, Sc, Type


def reader(data):
    position = 0

    def read(count):
        nonlocal position
        assert position + count <= len(data)
        position += count
        return data[position - count:position]

    return read


@pytest.fixture
def fake():
    running = FakeTarget()
    yield running
    running.close()


def test_crc32c_is_the_one_of_rfc_3720():
    assert crc32c(b"123456789") == crc32c_tables(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == crc32c_tables(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == crc32c_tables(b"\xff" * 32) == 0x62A8AB43


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 4099])
def test_both_crc32c_agree(size):
    data = os.urandom(size)
    assert crc32c(data) == crc32c_tables(data)


def test_header_lengths_are_those_of_the_specification():
    assert len(pdu.icreq()) == len(pdu.icresp()) == 128
    assert len(pdu.command(bytes(64))) == 72
    assert len(pdu.response(bytes(16))) == len(pdu.r2t(1, 2, 0, 512)) == len(pdu.h2c_term(1)) == 24
    assert all(len(entry) == 64 for entry in (sqe.connect(), sqe.read(1, 0, 1), sqe.identify(1),
                                              sqe.property_get(0, 8)))
    assert len(sqe.connect_data()) == 1024
    assert len(sqe.dsm_range(0, 1)) == 16 and len(sqe.copy_range(0, 1)) == 32


def test_command_fields_are_where_the_specification_puts_them():
    entry = sqe.write(5, 0x1_2345_6789, 8)
    assert entry[0] == 1 and entry[1] == 0x40
    assert struct.unpack_from("<IQ", entry, 4)[0] == 5
    assert struct.unpack_from("<QI", entry, 40) == (0x1_2345_6789, 7)
    described = sqe.with_sgl(entry, sqe.transport_sgl(4096))
    assert struct.unpack_from("<QI3xB", described, 24) == (0, 4096, 0x5A)
    assert struct.unpack_from("<HHHBBI", sqe.connect(3, 31, 4, 5000), 40) == (0, 3, 31, 4, 0, 5000)
    assert struct.unpack_from("<BxxxIQ", sqe.property_set(0x14, 0x460001), 40) == (0, 0x14, 0x460001)


@pytest.mark.parametrize("hdgst", [False, True])
@pytest.mark.parametrize("ddgst", [False, True])
@pytest.mark.parametrize("pda", [0, 3, 15, 31])
def test_data_survives_encoding_with_every_layout(hdgst, ddgst, pda):
    layout = Layout(hdgst, ddgst, pda)
    data = os.urandom(1000)
    raw = pdu.c2h_data(7, 4096, data, True, True, layout)
    received = pdu.read_pdu(reader(raw), layout, pda)
    assert (received.cccid, received.datao, received.datal, received.data) == (7, 4096, 1000, data)
    assert received.last and received.success
    assert received.pdo % (4 * (pda + 1)) == 0
    assert len(raw) == received.plen


def test_a_wrong_digest_is_seen():
    layout = Layout(True, True)
    raw = bytearray(pdu.c2h_data(1, 0, bytes(512), True, False, layout))
    for index in (8, 30, 100, len(raw) - 1):
        damaged = bytearray(raw)
        damaged[index] ^= 0x10
        with pytest.raises(ProtocolError):
            pdu.read_pdu(reader(damaged), layout)
    with pytest.raises(DigestError):
        pdu.read_pdu(reader(pdu.c2h_data(1, 0, bytes(512), True, False, layout)[:-1] + b"!"), layout)


@pytest.mark.parametrize("change", [{"hlen": 23}, {"pdo": 28}, {"plen": 28}, {"flags_exact": 0x80}, {"type": 0x0B}])
def test_a_wrong_header_is_refused(change):
    with pytest.raises(ProtocolError):
        pdu.read_pdu(reader(pdu.encode(Type.R2T, bytes(16), **change) + bytes(64)))


def test_the_flags_of_digests_are_set_where_they_are_defined():
    layout = Layout(True, True)
    for kind, hlen in HLEN.items():
        flags = pdu.encode(kind, bytes(hlen - 8), b"", layout)[1]
        plain = kind in (Type.ICREQ, Type.ICRESP, Type.H2C_TERM, Type.C2H_TERM)
        assert flags == (0 if plain else HDGSTF)
    assert pdu.command(bytes(64), b"data", layout)[1] == HDGSTF | DDGSTF


@pytest.mark.parametrize("flow_control", [False, True])
@pytest.mark.parametrize("hdgst,ddgst,hpda", [(False, False, 0), (True, False, 0), (False, True, 7), (True, True, 31)])
def test_a_conversation_with_a_fake_controller(fake, flow_control, hdgst, ddgst, hpda):
    options = {"hdgst": hdgst, "ddgst": ddgst, "hpda": hpda}
    with Controller(fake.address, NQN, io_queues=1, flow_control=flow_control, **options) as controller:
        for blocks in (1, 16, 17, 100):
            data = os.urandom(blocks * 512)
            controller.write(1, 3, data)
            assert bytes(fake.disk[3 * 512:(3 + blocks) * 512]) == data
            assert controller.read(1, 3, blocks) == data
        assert controller.io.execute(sqe.read(1, 4096, 1), read=512).status == Sc.LBA_RANGE


def test_alignment_that_the_controller_asks_for_is_kept():
    fake = FakeTarget(cpda=15)
    with Controller(fake.address, NQN, io_queues=1, hdgst=True) as controller:
        data = os.urandom(65536)
        controller.write(1, 0, data)
        assert controller.read(1, 0, 128) == data
    fake.close()


def test_a_refused_connect_is_reported(fake):
    with Queue(fake.address) as queue:
        completion = queue.connect("nqn.2014-08.org.nvmexpress:nobody")
        assert completion.status == Sc.CONNECT_INVALID
        assert completion.dw0 == 256 | 1 << 16


def test_a_terminate_request_is_reported(fake):
    with Connection(fake.address) as connection:
        connection.initialize()
        connection.send(pdu.h2c_data(1, 1, 0, bytes(4), True))
        with pytest.raises(Terminated) as caught:
            connection.receive_pdu()
        assert caught.value.fes == 2 and len(caught.value.data) == 24
        assert connection.wait_closed() is None
