# SPDX-License-Identifier: BSD-3-Clause
"""Every field of a PDU header wrong in turn, on connections that are otherwise in order (TCP 3.3, 3.5, 3.6.2). The
target answers with the terminate request that the specification names, closes, and no other host notices."""

import struct

import pytest

import expect
import pdu
import sqe
from disks import RAM, RAM4K
from nvmetcp import Terminated
from spec import HDGSTF, Fes, Offset, Sc, Type

pytestmark = pytest.mark.usefixtures("undisturbed")
QUEUES = pytest.mark.parametrize("which", ["admin", "io"])
DIGESTS = pytest.mark.parametrize("digests", [False, True], ids=["plain", "digests"])


@pytest.fixture
def victim(connect):
    """The queue that a test misuses: victim("io", hdgst=True)."""

    def make(which="io", **transport):
        controller = connect(io_queues=1, **transport)
        queue = controller.io if which == "io" else controller.admin
        queue.controller = controller
        return queue

    return make


def harmless(queue):
    """A command for this queue without data."""
    return bytes(sqe.flush(RAM) if queue.qid else sqe.keep_alive())


def send_wrong(queue, sent, *allowed):
    queue.send(sent)
    return expect.terminated(queue, *allowed, header=sent)


# -- type ------------------------------------------------------------------------------------------------------------


@QUEUES
@pytest.mark.parametrize("kind", [0x08, 0x0A, 0x0B, 0x0C, 0x10, 0x7F, 0x80, 0xFE, 0xFF])
def test_an_unknown_type_is_invalid(victim, which, kind):
    queue = victim(which)
    send_wrong(queue, pdu.command(harmless(queue), type=kind), *expect.UNKNOWN_TYPE)


@QUEUES
@pytest.mark.parametrize("kind", [Type.ICRESP, Type.RESP, Type.C2H_DATA, Type.R2T, Type.C2H_TERM])
def test_a_controllers_pdu_from_a_host_is_fatal(victim, which, kind):
    """TCP 3.3: the wrong direction is a fatal transport error; which one is not said."""
    queue = victim(which)
    hlen = 128 if kind == Type.ICRESP else 24
    send_wrong(queue, pdu.encode(kind, bytes(hlen - 8)), *expect.WRONG_TYPE_OR_STATE)


@QUEUES
def test_icreq_on_a_connected_queue_is_fatal(victim, which):
    send_wrong(victim(which), pdu.icreq(), *expect.WRONG_TYPE_OR_STATE)


# -- flags -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", [0x04, 0x08, 0x10, 0x20, 0x40, 0x80])
def test_a_reserved_flag_of_a_command_is_ignored_or_refused(victim, flag):
    queue = victim()
    command, _ = queue.prepare(sqe.flush(RAM))
    queue.send(pdu.command(bytes(command.entry), flags_exact=flag))
    try:
        expect.status(queue.wait(command), Sc.SUCCESS)
    except Terminated as term:
        assert (term.fes, term.fei) == (Fes.INVALID_HEADER, Offset.FLAGS)


@QUEUES
@pytest.mark.parametrize("flag", [0x01, 0x02, 0x03])
def test_a_digest_that_was_not_agreed_is_invalid(victim, which, flag):
    """TCP 3.3.1.1: digest flags shall be cleared if digests are not enabled."""
    queue = victim(which)
    sent = pdu.command(harmless(queue), bytes(16) if flag & 2 else b"", flags_exact=flag)
    send_wrong(queue, sent + bytes(8), *expect.invalid(Offset.FLAGS))


@QUEUES
def test_a_header_digest_that_is_missing_is_fatal(victim, which):
    """TCP 3.3.1.1: all PDUs shall contain it. Told by the flag, or by the digest that is then wrong."""
    queue = victim(which, hdgst=True)
    sent = pdu.command(harmless(queue))
    queue.send(sent + bytes(4))
    expect.terminated(queue, *expect.invalid(Offset.FLAGS), (Fes.HEADER_DIGEST, expect.ANY), header=sent)


def test_a_data_digest_that_is_missing_is_fatal(victim):
    queue = victim(ddgst=True)
    sent = pdu.command(bytes(sqe.with_sgl(sqe.write(RAM4K, 0, 1), sqe.in_capsule_sgl(4096))), bytes(4096))
    send_wrong(queue, sent, *expect.invalid(Offset.FLAGS))


def test_a_command_without_data_needs_no_data_digest(victim):
    """TCP 3.6.2.6: DDGSTF belongs to capsules that contain data."""
    queue = victim(hdgst=True, ddgst=True)
    queue.must(sqe.flush(RAM))


# -- header length ---------------------------------------------------------------------------------------------------


@QUEUES
@DIGESTS
@pytest.mark.parametrize("hlen", [0, 1, 7, 8, 24, 71, 73, 76, 128, 255])
def test_a_wrong_hlen_of_a_command_is_invalid(victim, which, digests, hlen):
    queue = victim(which, hdgst=digests)
    send_wrong(queue, pdu.command(harmless(queue), b"", queue.sent, hlen=hlen), *expect.invalid(Offset.HLEN))


# -- data offset -----------------------------------------------------------------------------------------------------


def write_capsule(queue, **wrong):
    entry = sqe.with_sgl(sqe.write(RAM4K, 0, 1), sqe.in_capsule_sgl(4096))
    return pdu.command(bytes(entry), b"\x5a" * 4096, queue.sent, **wrong)


@DIGESTS
@pytest.mark.parametrize("pdo", [1, 8, 64, 71, 73, 74, 75, 77, 255])
def test_a_wrong_pdo_of_a_command_is_invalid(victim, digests, pdo):
    """Below the header's end, or no multiple of the alignment (CPDA 0: 4 bytes)."""
    queue = victim(hdgst=digests, ddgst=digests)
    sent = write_capsule(queue, pdo=pdo)
    send_wrong(queue, sent, *expect.invalid(Offset.PDO))


def test_a_pdo_of_zero_with_data_is_invalid(victim):
    queue = victim()
    send_wrong(queue, write_capsule(queue, pdo=0), *expect.invalid(Offset.PDO))


def test_a_pdo_beyond_plen_is_invalid(victim):
    queue = victim()
    sent = pdu.command(bytes(sqe.with_sgl(sqe.write(RAM4K, 0, 1), sqe.in_capsule_sgl(4096))), bytes(64), pdo=200)
    send_wrong(queue, sent, *expect.invalid(Offset.PDO), *expect.invalid(Offset.PLEN))


@pytest.mark.parametrize("pdo", [76, 80, 128, 252])
def test_more_padding_than_needed_is_skipped_or_refused(victim, pdo):
    """A multiple of the alignment that is larger than it need be."""
    queue = victim()
    command, _ = queue.prepare(sqe.with_sgl(sqe.write(RAM4K, 3, 1), sqe.in_capsule_sgl(4096)), out=b"\x77" * 4096,
                               raw_sgl=True)
    header = struct.pack("<BBBBI", Type.CMD, 0, 72, pdo, pdo + 4096) + bytes(command.entry)
    queue.send(header, bytes(pdo - 72), command.out)
    try:
        expect.status(queue.wait(command), Sc.SUCCESS)
    except Terminated as term:
        assert (term.fes, term.fei) == (Fes.INVALID_HEADER, Offset.PDO)
    else:
        assert queue.must(sqe.read(RAM4K, 3, 1), read=4096).data == b"\x77" * 4096


def test_a_pdo_without_data_is_ignored_or_refused(victim):
    queue = victim()
    command, _ = queue.prepare(sqe.flush(RAM))
    queue.send(pdu.command(bytes(command.entry), pdo=72))
    try:
        expect.status(queue.wait(command), Sc.SUCCESS)
    except Terminated as term:
        assert (term.fes, term.fei) == (Fes.INVALID_HEADER, Offset.PDO)


# -- length ----------------------------------------------------------------------------------------------------------


@QUEUES
@DIGESTS
@pytest.mark.parametrize("plen", [0, 1, 7, 8, 24, 71])
def test_a_plen_below_the_header_is_invalid(victim, which, digests, plen):
    queue = victim(which, hdgst=digests)
    send_wrong(queue, pdu.command(harmless(queue), b"", queue.sent, plen=plen), *expect.invalid(Offset.PLEN))


def test_a_plen_without_room_for_the_header_digest_is_invalid(victim):
    queue = victim(hdgst=True)
    send_wrong(queue, pdu.command(harmless(queue), b"", queue.sent, plen=72), *expect.invalid(Offset.PLEN))


def test_a_plen_without_room_for_the_data_digest_is_invalid(victim):
    queue = victim(ddgst=True)
    entry = bytes(sqe.with_sgl(sqe.write(RAM4K, 0, 1), sqe.in_capsule_sgl(4096)))
    header = struct.pack("<BBBBI", Type.CMD, 0x02, 72, 72, 74) + entry
    send_wrong(queue, header + bytes(2), *expect.invalid(Offset.PLEN))


@QUEUES
@pytest.mark.parametrize("plen", [1 << 20, 1 << 24, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_a_huge_plen_of_a_command_is_refused_at_once(victim, which, plen):
    """Nobody waits for 4 GiB: the header alone gets the answer. The limit is that of in-capsule data (TCP 3.3.1)."""
    queue = victim(which)
    sent = pdu.command(harmless(queue), pdo=72, plen=plen)
    send_wrong(queue, sent, *expect.invalid(Offset.PLEN), (Fes.LIMIT_EXCEEDED, expect.ANY))


@QUEUES
def test_more_data_in_the_capsule_than_permitted_is_refused(victim, which):
    """TCP 3.3.1: 8,192 bytes for admin; IOCCSZ, which is as much here, for I/O."""
    queue = victim(which)
    entry = sqe.write(RAM4K, 0, 4) if which == "io" else sqe.set_features(0x16)
    data = bytes(16384)
    command, _ = queue.prepare(sqe.with_sgl(entry, sqe.in_capsule_sgl(len(data))), raw_sgl=True)
    sent = pdu.command(bytes(command.entry), data, queue.sent)
    queue.send(sent)
    try:
        assert queue.wait(command).status in (Sc.SGL_LENGTH, Sc.SGL_OFFSET, Sc.INVALID_FIELD)
    except Terminated as term:
        assert (term.fes, term.fei) == (Fes.INVALID_HEADER, Offset.PLEN) or term.fes == Fes.LIMIT_EXCEEDED


def test_exactly_as_much_data_in_the_capsule_as_permitted_is_taken(victim):
    for digests in (False, True):
        queue = victim(hdgst=digests, ddgst=digests)
        queue.must(sqe.write(RAM4K, 0, 2), out=bytes(8192), in_capsule=True)


def test_the_lowest_wrong_field_is_named(victim):
    """TCP 3.6.2.5."""
    for wrong, offset in (({"hlen": 0, "plen": 0}, Offset.HLEN), ({"pdo": 3, "plen": 4, "hlen": 9}, Offset.HLEN),
                          ({"type": 0x55, "hlen": 1}, Offset.TYPE), ({"flags_exact": HDGSTF, "hlen": 1}, Offset.FLAGS)):
        queue = victim()
        send_wrong(queue, pdu.command(harmless(queue), **wrong) + bytes(4), *expect.invalid(offset))


# -- terminate requests ----------------------------------------------------------------------------------------------


@QUEUES
@pytest.mark.parametrize("fes", [0, 1, 2, 3, 4, 5, 6, 7, 0xFFFF])
def test_a_terminate_request_ends_the_connection(victim, which, fes):
    queue = victim(which)
    queue.send(pdu.h2c_term(fes, 8, pdu.response(bytes(16))))
    assert expect.closed(queue) is None, "a terminate request is not answered with another"


@pytest.mark.parametrize("plen", [0, 8, 23, 153, 200, 0xFFFFFFFF])
def test_a_terminate_request_of_wrong_length_ends_the_connection_at_once(victim, plen):
    """TCP 3.5: the controller shall ignore it and terminate the connection immediately."""
    queue = victim()
    queue.send(pdu.h2c_term(1, 0, plen=plen))
    expect.closed(queue)


@pytest.mark.parametrize("wrong", [{"hlen": 0}, {"hlen": 25}, {"pdo": 24}, {"flags_exact": 0xFF}])
def test_a_terminate_request_with_a_wrong_header_ends_the_connection(victim, wrong):
    queue = victim()
    queue.send(pdu.h2c_term(1, 0, **wrong))
    expect.closed(queue)


def test_a_terminate_request_of_the_largest_size_ends_the_connection(victim):
    queue = victim()
    queue.send(pdu.h2c_term(1, 0, bytes(128)))
    assert expect.closed(queue) is None


def test_a_terminate_request_has_no_digest_even_with_digests(victim):
    """TCP 3.3.1.1: all PDUs but the terminate requests carry HDGST; that goes for the target's own, too."""
    queue = victim(hdgst=True, ddgst=True)
    sent = pdu.command(harmless(queue), b"", queue.sent, hlen=9)
    send_wrong(queue, sent, *expect.invalid(Offset.HLEN))


# -- after an error --------------------------------------------------------------------------------------------------


def test_nothing_is_executed_after_a_fatal_error(victim, connect):
    """TCP 3.5: "stop processing any PDUs that arrive on the connection"."""
    queue = victim()
    queue.must(sqe.write(RAM4K, 9, 1), out=b"\x01" * 4096)
    late = pdu.command(bytes(sqe.with_sgl(sqe.write(RAM4K, 9, 1), sqe.in_capsule_sgl(4096))), b"\x02" * 4096)
    queue.send(pdu.command(harmless(queue), hlen=1), late)
    expect.terminated(queue, *expect.invalid(Offset.HLEN))
    assert connect(io_queues=1).read(RAM4K, 9, 1, 4096) == b"\x01" * 4096


def test_what_came_before_a_fatal_error_is_answered_or_lost_but_not_garbled(victim):
    queue = victim()
    commands = [queue.prepare(sqe.read(RAM4K, 0, 1), read=4096)[0] for _ in range(8)]
    for command in commands:
        command.entry = sqe.with_sgl(command.entry, sqe.transport_sgl(4096))
    queue.send(*(pdu.command(bytes(command.entry)) for command in commands), pdu.command(harmless(queue), hlen=1))
    with pytest.raises(Terminated):
        queue.wait_all(commands)
        queue.receive_pdu()


def test_a_host_that_goes_on_sending_after_an_error_still_gets_to_read_why(victim):
    queue = victim()
    queue.send(pdu.command(harmless(queue), hlen=1))
    for _ in range(64):
        queue.send(bytes(65536))
    term = queue.wait_closed()
    assert term is None or (term.fes, term.fei) == (Fes.INVALID_HEADER, Offset.HLEN)


def test_a_host_that_never_closes_after_an_error_is_closed(victim):
    queue = victim()
    sent = pdu.command(harmless(queue), hlen=1)
    send_wrong(queue, sent, *expect.invalid(Offset.HLEN))


def test_an_error_on_one_io_queue_leaves_other_controllers_alone(victim, connect):
    other = connect(io_queues=2)
    queue = victim()
    send_wrong(queue, pdu.command(harmless(queue), hlen=1), *expect.invalid(Offset.HLEN))
    for each in other.queues:
        each.must(sqe.read(RAM4K, 0, 1), read=4096)
