# SPDX-License-Identifier: BSD-3-Clause
"""H2CData that nobody asked for, or not like that (TCP 3.3.2.2, 3.5, 3.6.2.8)."""

import struct

import pytest

import expect
import pdu
import sqe
from disks import RAM4K
from host import Controller
from nvmetcp import Terminated
from spec import LAST, Fes, Offset, Sc, Type
from target import wait_until

pytestmark = pytest.mark.usefixtures("undisturbed")
SIZE = 32768
BLOCKS = SIZE // 4096
SEQUENCE = ((Fes.SEQUENCE, expect.ANY),)
# An unknown tag names its field; a transfer that is over, or never was, is also an unexpected PDU.
NO_SUCH_TRANSFER = (*expect.invalid(Offset.TTAG), *expect.invalid(Offset.CCCID), (Fes.SEQUENCE, expect.ANY))


class Transfer:
    """A write whose R2T has come and is not answered yet."""

    def __init__(self, controller, size=SIZE):
        self.controller, self.queue = controller, controller.io
        self.queue.answer_r2ts = False
        controller.write(RAM4K, 0, b"\x01" * 4096, 4096)
        self.write = self.queue.submit(sqe.write(RAM4K, 0, size // 4096), out=b"\x02" * size)
        self.request = self.queue.wait_r2t(self.write)
        assert self.request.r2to == 0

    def pdu(self, offset=0, data=None, last=True, cccid=None, ttag=None, datal=None, **wrong):
        data = b"\x02" * (self.request.r2tl - offset) if data is None else data
        return pdu.h2c_data(self.write.cid if cccid is None else cccid, self.request.ttag if ttag is None else ttag,
                            offset, data, last, self.queue.sent, datal, **wrong)

    def send_wrong(self, sent, *allowed):
        self.queue.send(sent)
        return expect.terminated(self.queue, *allowed, header=sent)


@pytest.fixture
def begin(connect):
    return lambda size=SIZE, **transport: Transfer(connect(io_queues=1, **transport), size)


@pytest.fixture
def transfer(begin):
    return begin()


@pytest.fixture(autouse=True)
def block_is_whole(target):
    """Whatever happened, the block that was to be written is wholly old or wholly new."""
    yield
    with Controller(target.address, target.nqn, io_queues=1) as controller:
        assert len(set(controller.read(RAM4K, 0, 1, 4096))) == 1


# -- the transfer it belongs to --------------------------------------------------------------------------------------


def test_data_without_any_r2t_is_refused(connect):
    queue = connect(io_queues=1).io
    sent = pdu.h2c_data(0, 0, 0, bytes(512), True)
    queue.send(sent)
    expect.terminated(queue, *NO_SUCH_TRANSFER, header=sent)


def test_data_on_an_admin_queue_without_r2t_is_refused(connect):
    queue = connect().admin
    sent = pdu.h2c_data(1, 1, 0, bytes(512), True)
    queue.send(sent)
    expect.terminated(queue, *NO_SUCH_TRANSFER, header=sent)


@pytest.mark.parametrize("change", [1, 2, 0x100, 0x7FFF, 0x8000, 0xFFFF])
def test_an_unknown_ttag_names_its_field(transfer, change):
    transfer.send_wrong(transfer.pdu(ttag=transfer.request.ttag ^ change), *expect.invalid(Offset.TTAG))


@pytest.mark.parametrize("change", [1, 2, 0x100, 0x7FFF, 0x8000, 0xFFFF])
def test_a_wrong_cccid_names_its_field(transfer, change):
    """TCP 3.6.2.8 defines the field; 3.3.2.2 speaks of the TTAG only, which does not belong to that command either."""
    transfer.send_wrong(transfer.pdu(cccid=transfer.write.cid ^ change), *expect.invalid(Offset.CCCID),
                        *expect.invalid(Offset.TTAG))


def test_the_tag_of_another_commands_transfer_is_refused(begin):
    first = begin()
    second = first.queue.submit(sqe.write(RAM4K, 16, BLOCKS), out=bytes(SIZE))
    request = first.queue.wait_r2t(second)
    assert request.ttag != first.request.ttag
    first.send_wrong(first.pdu(ttag=request.ttag), *expect.invalid(Offset.CCCID), *expect.invalid(Offset.TTAG))


def test_a_tag_is_not_valid_on_another_queue(begin):
    transfer = begin()
    other = transfer.controller.add_queue(2)
    sent = transfer.pdu()
    other.send(sent)
    expect.terminated(other, *NO_SUCH_TRANSFER, header=sent)


def test_data_after_the_transfer_is_complete_is_refused(transfer):
    transfer.queue.answer(transfer.write, transfer.request)
    expect.status(transfer.queue.wait(transfer.write), Sc.SUCCESS)
    transfer.send_wrong(transfer.pdu(), *NO_SUCH_TRANSFER)


def test_the_whole_transfer_sent_twice_is_refused(transfer):
    transfer.queue.send(transfer.pdu(), transfer.pdu())
    expect.terminated(transfer.queue, *NO_SUCH_TRANSFER)


# -- offset and length -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [4, 512, 4096, SIZE - 4096])
def test_a_first_offset_that_is_not_the_start_is_out_of_sequence(transfer, offset):
    """TCP 3.3.2.2: a non-contiguous H2CData PDU within the range is a PDU Sequence Error."""
    transfer.send_wrong(transfer.pdu(offset, bytes(4096 if offset + 4096 <= SIZE else SIZE - offset), last=False),
                        *SEQUENCE)


@pytest.mark.parametrize("offset", [0, 4096, 12288])
def test_a_gap_or_an_overlap_is_out_of_sequence(transfer, offset):
    transfer.queue.send(transfer.pdu(0, bytes(8192), last=False))
    transfer.send_wrong(transfer.pdu(offset, bytes(4096), last=False), *SEQUENCE)


@pytest.mark.parametrize("offset", [SIZE, SIZE + 4096, 1 << 20, 0x7FFFFFFC, 0xFFFFFFFC])
def test_an_offset_beyond_the_transfer_is_out_of_range(transfer, offset):
    """Out of range and not contiguous: both statuses are true of it."""
    transfer.send_wrong(transfer.pdu(offset, bytes(4096)), (Fes.OUT_OF_RANGE, expect.ANY), (Fes.SEQUENCE, expect.ANY))


@pytest.mark.parametrize("excess", [4, 512, 4096])
def test_more_data_than_asked_for_is_out_of_range(transfer, excess):
    transfer.send_wrong(transfer.pdu(0, bytes(SIZE + excess)), (Fes.OUT_OF_RANGE, expect.ANY))


def test_more_data_than_asked_for_in_the_second_pdu_is_out_of_range(transfer):
    transfer.queue.send(transfer.pdu(0, bytes(SIZE - 4096), last=False))
    transfer.send_wrong(transfer.pdu(SIZE - 4096, bytes(8192)), (Fes.OUT_OF_RANGE, expect.ANY))


def test_a_pdu_above_maxh2cdata_exceeds_the_limit(begin):
    """TCP 3.3.2.2: Data Transfer Limit Exceeded. If the R2T asks for less than that, it is out of range as well."""
    transfer = begin(1 << 20)
    size = transfer.queue.maxh2cdata + 4096
    allowed = [(Fes.LIMIT_EXCEEDED, expect.ANY)]
    if size > transfer.request.r2tl:
        allowed.append((Fes.OUT_OF_RANGE, expect.ANY))
    transfer.send_wrong(transfer.pdu(0, bytes(size), last=False), *allowed)


def test_the_largest_pdu_that_is_permitted_is_taken(begin):
    transfer = begin(1 << 20)
    size = min(transfer.queue.maxh2cdata, transfer.request.r2tl)
    transfer.queue.answer_r2ts = True
    transfer.queue.answer(transfer.write, transfer.request, piece=size)
    expect.status(transfer.queue.wait(transfer.write), Sc.SUCCESS)


@pytest.mark.parametrize("datal", [0, 4, 4092, 4100, 8192, 0xFFFFFFFF])
def test_a_datal_that_is_not_the_length_of_the_data_is_invalid(transfer, datal):
    """DATAL and PLEN contradict each other (TCP 3.6.2.8); either may be blamed. Huge ones are also out of range."""
    allowed = [*expect.invalid(Offset.DATAL), *expect.invalid(Offset.PLEN)]
    if datal > SIZE:
        allowed += [(Fes.OUT_OF_RANGE, expect.ANY), (Fes.LIMIT_EXCEEDED, expect.ANY)]
    transfer.send_wrong(transfer.pdu(0, bytes(4096), last=False, datal=datal), *allowed)


@pytest.mark.parametrize("size", [1, 2, 3, 4095])
def test_a_length_that_is_not_in_dwords_is_refused_or_taken(transfer, size):
    """TCP 3.6.2.8: shall be a multiple of dwords; whether a controller looks is open."""
    transfer.queue.send(transfer.pdu(0, b"\x02" * size, last=False), transfer.pdu(size, last=True))
    try:
        expect.status(transfer.queue.wait(transfer.write), Sc.SUCCESS)
    except Terminated as term:
        assert (term.fes, term.fei) in ((Fes.INVALID_HEADER, Offset.DATAL), (Fes.INVALID_HEADER, Offset.DATAO))


def test_an_empty_pdu_is_refused_or_ignored(transfer):
    empty = struct.pack("<BBBBIHHIII", Type.H2C_DATA, 0, 24, 0, 24, transfer.write.cid, transfer.request.ttag, 0, 0, 0)
    transfer.queue.send(empty, transfer.pdu())
    try:
        expect.status(transfer.queue.wait(transfer.write), Sc.SUCCESS)
    except Terminated as term:
        assert term.fes in (Fes.INVALID_HEADER, Fes.SEQUENCE)


# -- the last flag ---------------------------------------------------------------------------------------------------


def test_a_missing_last_flag_is_fatal_or_forgiven(transfer):
    """TCP 3.3.2.2: it is set in the last PDU of an R2T; what follows if not is not said."""
    transfer.queue.send(transfer.pdu(last=False))
    try:
        expect.status(transfer.queue.wait(transfer.write), Sc.SUCCESS)
    except Terminated as term:
        assert term.fes == Fes.SEQUENCE or (term.fes, term.fei) == (Fes.INVALID_HEADER, Offset.FLAGS)


def test_a_last_flag_too_early_is_fatal(transfer):
    """The data that was asked for is not all there; and a PDU after the last one is out of sequence."""
    transfer.queue.send(transfer.pdu(0, bytes(4096), last=True), transfer.pdu(4096))
    expect.terminated(transfer.queue, (Fes.SEQUENCE, expect.ANY), *expect.invalid(Offset.FLAGS),
                      *expect.invalid(Offset.TTAG))


def test_a_short_transfer_with_a_last_flag_never_completes_as_success(transfer):
    transfer.queue.send(transfer.pdu(0, bytes(4096), last=True))
    try:
        transfer.queue.socket.settimeout(1)
        assert transfer.queue.wait(transfer.write).status != Sc.SUCCESS
    except Terminated as term:
        assert term.fes in (Fes.SEQUENCE, Fes.INVALID_HEADER)
    except TimeoutError:
        pass  # it waits for the rest, until the peer timeout


# -- the common header -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hlen", [0, 8, 23, 25, 28, 72, 255])
def test_a_wrong_hlen_is_invalid(transfer, hlen):
    transfer.send_wrong(transfer.pdu(hlen=hlen), *expect.invalid(Offset.HLEN))


@pytest.mark.parametrize("pdo", [0, 1, 8, 23, 25, 26, 27])
def test_a_wrong_pdo_is_invalid(transfer, pdo):
    transfer.send_wrong(transfer.pdu(pdo=pdo), *expect.invalid(Offset.PDO))


@pytest.mark.parametrize("plen", [0, 8, 23])
def test_a_plen_below_the_header_is_invalid(transfer, plen):
    transfer.send_wrong(transfer.pdu(plen=plen), *expect.invalid(Offset.PLEN), *expect.invalid(Offset.PDO))


@pytest.mark.parametrize("plen", [1 << 25, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_huge_plen_is_refused_at_once(transfer, plen):
    """Whether by PLEN against DATAL, or as more than MAXH2CDATA or the range."""
    sent = transfer.pdu(data=b"", plen=plen, pdo=24, datal=(plen - 24) & 0xFFFFFFFF)
    transfer.send_wrong(sent, *expect.invalid(Offset.PLEN), *expect.invalid(Offset.DATAL),
                        (Fes.LIMIT_EXCEEDED, expect.ANY), (Fes.OUT_OF_RANGE, expect.ANY))


@pytest.mark.parametrize("flag", [0x01, 0x02, 0x03])
def test_a_digest_that_was_not_agreed_is_invalid(transfer, flag):
    transfer.send_wrong(transfer.pdu(flags_exact=LAST | flag) + bytes(8), *expect.invalid(Offset.FLAGS))


def test_digests_that_are_missing_are_fatal(begin):
    transfer = begin(hdgst=True, ddgst=True)
    sent = pdu.h2c_data(transfer.write.cid, transfer.request.ttag, 0, bytes(SIZE), True)
    transfer.send_wrong(sent, *expect.invalid(Offset.FLAGS), (Fes.HEADER_DIGEST, expect.ANY))


@pytest.mark.parametrize("flag", [0x08, 0x10, 0x80])
def test_a_reserved_flag_is_ignored_or_refused(transfer, flag):
    transfer.queue.send(transfer.pdu(flags_exact=LAST | flag))
    try:
        expect.status(transfer.queue.wait(transfer.write), Sc.SUCCESS)
    except Terminated as term:
        assert (term.fes, term.fei) == (Fes.INVALID_HEADER, Offset.FLAGS)


# -- leaving in the middle -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("part", [0, 1, 24, 25, 5000, 32791])
def test_a_host_that_leaves_in_mid_transfer_leaves_nothing_behind(begin, target, how, part):
    before = target.descriptors()
    transfer = begin()
    transfer.queue.send(transfer.pdu()[:part])
    getattr(transfer.queue, how)()
    transfer.controller.close()
    assert wait_until(lambda: target.descriptors() <= before)
