# SPDX-License-Identifier: BSD-3-Clause
"""Initialize Connection (TCP 3.1, 3.6.2.2, 3.6.2.3)."""

import struct

import pytest

import expect
import pdu
from nvmetcp import Closed, Connection, Terminated
from spec import Offset, Type


@pytest.fixture
def raw(target):
    with Connection(target.address) as connection:
        yield connection


def accepted_or(connection, *allowed):
    """Reserved fields need not be looked at (Base 1.4.2.6): either the connection is made, or the field is named."""
    try:
        answer = connection.receive_pdu()
    except Terminated as term:
        assert (term.fes, term.fei) in allowed
        return None
    assert answer.type == Type.ICRESP
    return answer


def test_icresp_has_version_0_alignment_0_and_room_for_data(raw):
    answer = raw.initialize()
    assert (answer.pfv, answer.cpda, answer.dgst) == (0, 0, 0)
    assert answer.maxh2cdata >= 128 * 1024


@pytest.mark.parametrize("hdgst", [False, True])
@pytest.mark.parametrize("ddgst", [False, True])
def test_digests_are_granted_as_asked(raw, hdgst, ddgst):
    assert raw.initialize(hdgst, ddgst).dgst == int(hdgst) | int(ddgst) << 1


@pytest.mark.parametrize("maxr2t", [0, 1, 15, 0xFFFFFFFF])
def test_any_maxr2t_is_fine(raw, maxr2t):
    raw.initialize(maxr2t=maxr2t)


@pytest.mark.parametrize("hpda", [0, 1, 3, 15, 30, 31])
def test_every_alignment_up_to_128_bytes_is_honoured(connect, hpda):
    controller = connect(hpda=hpda, io_queues=1)
    for length in (512, 8192):
        controller.read(1, 0, length // 512)  # receive_pdu checks PDO


@pytest.mark.parametrize("hpda", [32, 33, 128, 255])
def test_an_alignment_above_128_bytes_is_refused(raw, hpda):
    sent = pdu.icreq(hpda=hpda)
    raw.send(sent)
    expect.terminated(raw, *expect.unsupported(Offset.HPDA), header=sent)


@pytest.mark.parametrize("pfv", [1, 2, 0x100, 0xFFFF])
def test_an_unknown_format_version_is_refused(raw, pfv):
    sent = pdu.icreq(pfv=pfv)
    raw.send(sent)
    expect.terminated(raw, *expect.unsupported(Offset.PFV), header=sent)


@pytest.mark.parametrize("hlen", [0, 8, 16, 24, 127, 129, 255])
def test_a_wrong_header_length_is_refused(raw, hlen):
    sent = pdu.icreq(hlen=hlen)
    raw.send(sent)
    expect.terminated(raw, *expect.invalid(Offset.HLEN), header=sent)


@pytest.mark.parametrize("plen", [0, 7, 8, 127, 129, 132, 0x10000, 0xFFFFFFFF])
def test_a_wrong_pdu_length_is_refused(raw, plen):
    sent = pdu.icreq(plen=plen)
    raw.send(sent)
    expect.terminated(raw, *expect.invalid(Offset.PLEN), header=sent)


def test_a_wrong_common_header_is_refused_without_waiting_for_the_rest(raw):
    sent = pdu.icreq(plen=0x7FFFFFFF)[:8]
    raw.send(sent)
    expect.terminated(raw, *expect.invalid(Offset.PLEN), header=sent)


@pytest.mark.parametrize("dgst", [0x04, 0x80, 0xFC])
def test_reserved_digest_bits_are_ignored_or_refused(raw, dgst):
    raw.send(pdu.icreq(dgst=dgst))
    answer = accepted_or(raw, *expect.unsupported(Offset.DGST))
    assert answer is None or answer.dgst == 0


def test_reserved_flags_are_ignored_or_refused(raw):
    raw.send(pdu.icreq(flags_exact=0xFF))
    accepted_or(raw, *expect.invalid(Offset.FLAGS))


def test_a_reserved_data_offset_is_ignored_or_refused(raw):
    raw.send(pdu.icreq(pdo=128))
    accepted_or(raw, *expect.invalid(Offset.PDO))


def test_reserved_bytes_are_ignored_or_refused(raw):
    raw.send(pdu.icreq(reserved=b"\xff" * 112))
    accepted_or(raw, *expect.invalid(16))


def test_the_lowest_of_several_wrong_fields_is_named(raw):
    """TCP 3.6.2.5: "If multiple errors exist, then this field indicates the lowest offset"."""
    sent = pdu.icreq(hlen=100, plen=100, hpda=77)
    raw.send(sent)
    expect.terminated(raw, *expect.invalid(Offset.HLEN), header=sent)


def test_a_second_icreq_is_refused(raw):
    raw.initialize()
    sent = pdu.icreq()
    raw.send(sent)
    expect.terminated(raw, *expect.WRONG_TYPE_OR_STATE, header=sent)


def test_two_icreqs_at_once_are_refused(raw):
    """The answer to the first may come, or be lost with the connection."""
    raw.send(pdu.icreq(), pdu.icreq())
    expect.terminated(raw, *expect.WRONG_TYPE_OR_STATE)


@pytest.mark.parametrize("kind", [Type.CMD, Type.H2C_DATA])
def test_a_pdu_before_icreq_is_refused(raw, kind):
    sent = pdu.encode(kind, bytes(64 if kind == Type.CMD else 16))
    raw.send(sent)
    expect.terminated(raw, *expect.WRONG_TYPE_OR_STATE, header=sent)


@pytest.mark.parametrize("kind", [Type.ICRESP, Type.C2H_TERM, Type.RESP, Type.C2H_DATA, Type.R2T])
def test_a_controllers_pdu_instead_of_icreq_is_refused(raw, kind):
    sent = pdu.encode(kind, bytes(16))
    raw.send(sent)
    expect.terminated(raw, *expect.WRONG_TYPE_OR_STATE, header=sent)


@pytest.mark.parametrize("kind", [0x08, 0x0A, 0x0B, 0x40, 0xFE, 0xFF])
def test_an_unknown_pdu_type_instead_of_icreq_is_refused(raw, kind):
    sent = struct.pack("<BBBBI", kind, 0, 128, 0, 128) + bytes(120)
    raw.send(sent)
    expect.terminated(raw, *expect.WRONG_TYPE_OR_STATE, header=sent)


def test_a_terminate_request_instead_of_icreq_just_closes(raw):
    raw.send(pdu.h2c_term(1))
    expect.closed(raw)


def test_an_http_request_is_refused(raw):
    raw.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    expect.closed(raw)


def test_a_tls_hello_is_refused(raw):
    raw.send(bytes.fromhex("16030100f8010000f40303") + bytes(240))
    expect.closed(raw)


def test_a_connection_that_is_closed_at_once_is_no_matter(target):
    for _ in range(20):
        Connection(target.address).close()
    for _ in range(20):
        Connection(target.address).reset()
    with Connection(target.address) as connection:
        connection.initialize()


def test_a_host_that_finishes_after_icreq_is_answered_and_closed(raw):
    raw.send(pdu.icreq())
    raw.finish()
    try:
        assert raw.receive_pdu().type == Type.ICRESP
    except Closed:
        return
    raw.wait_closed()
