# SPDX-License-Identifier: BSD-3-Clause
"""I/O commands that are wrong: each gets the status that the specification names, and the queue goes on."""

import struct

import pytest

import expect
import pdu
import sqe
from disks import FILE, RAM, RAM4K
from spec import ALL_NAMESPACES, PSDT_PRP, PSDT_SGL, PSDT_SGL_MPTR_SGL, SGL_IN_CAPSULE, SGL_TRANSPORT, Io, Sc

BAD_NSIDS = [0, 5, 1024, 0x7FFFFFFF, 0xFFFFFFFE]


@pytest.fixture(autouse=True)
def queue_goes_on(request):
    """After whatever a test does, the same queue still reads."""
    controller = request.getfixturevalue("controller")
    yield
    assert len(controller.read(RAM, 0, 1)) == 512


def ranged(nsid, slba, blocks):
    """Every command with an LBA range, with its transfer."""
    return {
        "read": (sqe.read(nsid, slba, blocks), {"read": blocks * 512}),
        "write": (sqe.write(nsid, slba, blocks), {"out": bytes(blocks * 512)}),
        "compare": (sqe.compare(nsid, slba, blocks), {"out": bytes(blocks * 512)}),
        "write zeroes": (sqe.write_zeroes(nsid, slba, blocks), {}),
        "verify": (sqe.verify(nsid, slba, blocks), {}),
    }


RANGED = list(ranged(1, 0, 1))


# -- LBA range -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RANGED)
@pytest.mark.parametrize("beyond", ["at the end", "over the end", "far beyond", "wrapping"])
def test_blocks_beyond_the_end_are_out_of_range(controller, name, beyond):
    size = controller.namespace(FILE).nsze
    slba, blocks = {"at the end": (size, 1), "over the end": (size - 1, 2), "far beyond": (1 << 50, 8),
                    "wrapping": (0xFFFFFFFF_FFFFFFFF, 2)}[beyond]
    entry, transfer = ranged(FILE, slba, blocks)[name]
    completion = expect.status(controller.io.execute(entry, **transfer), Sc.LBA_RANGE)
    assert completion.dnr


def test_a_write_over_the_end_writes_nothing(controller):
    size = controller.namespace(FILE).nsze
    before = controller.read(FILE, size - 4, 4)
    for blocks in (5, 64):
        entry = sqe.write(FILE, size - 4, blocks)
        expect.status(controller.io.execute(entry, out=b"\xee" * blocks * 512), Sc.LBA_RANGE)
    assert controller.read(FILE, size - 4, 4) == before


def test_sizes_count_in_blocks_of_the_namespace(controller):
    size = controller.namespace(RAM4K).nsze
    expect.status(controller.io.execute(sqe.read(RAM4K, size, 1), read=4096), Sc.LBA_RANGE)
    expect.status(controller.io.execute(sqe.read(RAM4K, 0, 8), read=4096), Sc.SGL_LENGTH)


# -- namespace -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RANGED)
@pytest.mark.parametrize("nsid", BAD_NSIDS + [ALL_NAMESPACES])
def test_an_unknown_namespace_is_refused(controller, name, nsid):
    entry, transfer = ranged(nsid, 0, 1)[name]
    expected = [Sc.INVALID_NAMESPACE]
    if nsid == ALL_NAMESPACES:
        expected.append(Sc.INVALID_FIELD)  # Base 3.2.1.2: one or the other for commands that do not take it
    expect.status(controller.io.execute(entry, **transfer), *expected)


@pytest.mark.parametrize("nsid", BAD_NSIDS)
def test_dsm_and_copy_in_an_unknown_namespace_are_refused(controller, nsid):
    expect.status(controller.io.execute(sqe.dsm(nsid, 1), out=sqe.dsm_range(0, 1)), Sc.INVALID_NAMESPACE)
    if controller.identity.can(controller.identity.COPY):
        expect.status(controller.io.execute(sqe.copy(nsid, 0, 1), out=sqe.copy_range(8, 1)), Sc.INVALID_NAMESPACE)


@pytest.mark.parametrize("nsid", BAD_NSIDS)
def test_flush_of_an_unknown_namespace_is_refused(controller, nsid):
    expect.status(controller.io.execute(sqe.flush(nsid)), Sc.INVALID_NAMESPACE)


# -- size ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [2049, 4096, 65536])
@pytest.mark.parametrize("name", ["read", "write", "compare"])
def test_a_transfer_above_mdts_is_an_invalid_field(controller, name, blocks):
    """Base 5.1.13.2.1, MDTS."""
    entry, transfer = ranged(RAM, 0, blocks)[name]
    expect.status(controller.io.execute(entry, **transfer), Sc.INVALID_FIELD)


@pytest.mark.parametrize("length", [0, 1, 4, 511, 512, 4092])
def test_a_read_buffer_that_is_too_short_is_refused(controller, length):
    """Base 4.3.2: "data shall not be transferred", Data SGL Length Invalid."""
    completion = controller.io.execute(sqe.with_sgl(sqe.read(RAM, 0, 8), sqe.transport_sgl(length)), raw_sgl=True)
    expect.status(completion, Sc.SGL_LENGTH, *([Sc.SGL_GRANULARITY] if length % 4 else []))


@pytest.mark.parametrize("length", [0, 4, 512, 4092])
def test_a_write_buffer_that_is_too_short_is_refused(controller, length):
    entry = sqe.with_sgl(sqe.write(RAM, 0, 8), sqe.transport_sgl(length))
    expect.status(controller.io.execute(entry, out=bytes(length), in_capsule=False, raw_sgl=True), Sc.SGL_LENGTH)


@pytest.mark.parametrize("length", [0, 4, 512, 4092])
def test_in_capsule_data_that_is_too_short_is_refused(controller, length):
    entry = sqe.with_sgl(sqe.write(RAM, 0, 8), sqe.in_capsule_sgl(length))
    expect.status(controller.io.execute(entry, out=bytes(length), in_capsule=True, raw_sgl=True), Sc.SGL_LENGTH)


def test_a_read_buffer_that_is_too_long_is_filled_in_part_or_refused(controller):
    """Base 4.3.2: with SGLS.LLDTS set it shall work; else it should, and if not, it is Data SGL Length Invalid."""
    completion = controller.io.execute(sqe.read(RAM, 0, 1), read=4096, exact=False)
    if controller.identity.sgls & 1 << 18:
        expect.status(completion, Sc.SUCCESS)
    expect.status(completion, Sc.SUCCESS, Sc.SGL_LENGTH)
    if completion.status == Sc.SUCCESS:
        assert len(completion.data) == 512


def test_a_write_buffer_that_is_too_long_is_used_in_part_or_refused(controller):
    controller.write(RAM, 100, b"\x22" * 1024)
    completion = controller.io.execute(sqe.write(RAM, 100, 1), out=b"\x33" * 1024, in_capsule=False)
    expect.status(completion, Sc.SUCCESS, Sc.SGL_LENGTH)
    assert controller.read(RAM, 101, 1) == b"\x22" * 512


def test_in_capsule_data_that_is_too_long_is_used_in_part_or_refused(controller):
    controller.write(RAM, 100, b"\x22" * 1024)
    expect.status(controller.io.execute(sqe.write(RAM, 100, 1), out=b"\x33" * 1024), Sc.SUCCESS, Sc.SGL_LENGTH)
    assert controller.read(RAM, 101, 1) == b"\x22" * 512


# -- SGL -------------------------------------------------------------------------------------------------------------

UNSUPPORTED_SGLS = [0x00, 0x02, 0x0A, 0x0F, 0x10, 0x11, 0x20, 0x21, 0x30, 0x31, 0x40, 0x4F, 0x50, 0x51, 0x5B, 0x60,
                    0xE0, 0xF0, 0xFF]


@pytest.mark.parametrize("kind", UNSUPPORTED_SGLS)
@pytest.mark.parametrize("name", ["read", "write"])
def test_an_sgl_type_that_tcp_does_not_know_is_refused(controller, name, kind):
    """TCP 3.3.2."""
    entry, _ = ranged(RAM, 0, 1)[name]
    expect.status(controller.io.execute(sqe.with_sgl(entry, sqe.sgl(kind, 512)), raw_sgl=True), Sc.SGL_TYPE)


@pytest.mark.parametrize("kind", [0x00, 0x21, 0x4F, 0x5B])
def test_an_sgl_type_that_tcp_does_not_know_is_refused_for_admin_commands(controller, kind):
    entry = sqe.with_sgl(sqe.identify(1), sqe.sgl(kind, 4096))
    expect.status(controller.admin.execute(entry, raw_sgl=True), Sc.SGL_TYPE)


def test_a_read_into_the_capsule_is_refused(controller):
    """TCP 3.3.1: responses carry no data, so in-capsule data is for writing only. The status is not named."""
    entry = sqe.with_sgl(sqe.read(RAM, 0, 1), sqe.in_capsule_sgl(512))
    completion = controller.io.execute(entry, raw_sgl=True)
    expect.status(completion, Sc.SGL_TYPE, Sc.INVALID_FIELD, Sc.SGL_OFFSET, Sc.SGL_LENGTH, Sc.INVALID_SGL_COUNT)


@pytest.mark.parametrize("offset", [513, 8192, 0x7FFFFFFF, 1 << 32, 0xFFFFFFFF_FFFFFFFF, 0xFFFFFFFF_FFFFFE00])
def test_an_in_capsule_offset_beyond_the_data_is_refused(controller, offset):
    """Base figure 102: SGL Offset Invalid; a sum beyond 2^64 is a length error (figure 118)."""
    entry = sqe.with_sgl(sqe.write(RAM, 0, 1), sqe.in_capsule_sgl(512, offset))
    completion = controller.io.execute(entry, out=bytes(512), in_capsule=True, raw_sgl=True)
    expect.status(completion, Sc.SGL_OFFSET, Sc.SGL_LENGTH)


def test_an_in_capsule_offset_within_the_data_is_honoured_or_refused(controller):
    """ICDOFF is 0; SGLS bit 20 says whether offsets may be used (Base 5.1.13.2.1)."""
    controller.write(RAM, 50, bytes(512))
    entry = sqe.with_sgl(sqe.write(RAM, 50, 1), sqe.in_capsule_sgl(512, 512))
    completion = controller.io.execute(entry, out=b"a" * 512 + b"b" * 512, in_capsule=True, raw_sgl=True)
    if controller.identity.sgls & 1 << 20:
        expect.status(completion, Sc.SUCCESS)
    expect.status(completion, Sc.SUCCESS, Sc.SGL_OFFSET)
    assert controller.read(RAM, 50, 1) == (b"b" * 512 if completion.status == Sc.SUCCESS else bytes(512))


def test_an_in_capsule_sgl_without_data_in_the_capsule_is_refused(controller):
    entry = sqe.with_sgl(sqe.write(RAM, 0, 1), sqe.in_capsule_sgl(512))
    expect.status(controller.io.execute(entry, raw_sgl=True), Sc.SGL_OFFSET, Sc.SGL_LENGTH, Sc.INVALID_FIELD)


def test_an_in_capsule_sgl_longer_than_the_data_is_refused(controller):
    entry = sqe.with_sgl(sqe.write(RAM, 0, 2), sqe.in_capsule_sgl(1024))
    completion = controller.io.execute(entry, out=bytes(512), in_capsule=True, raw_sgl=True)
    expect.status(completion, Sc.SGL_OFFSET, Sc.SGL_LENGTH, Sc.INVALID_FIELD)


@pytest.mark.parametrize("kind", [SGL_IN_CAPSULE, SGL_TRANSPORT])
def test_a_length_of_4_gib_does_no_harm(controller, kind):
    for entry in (sqe.read(RAM, 0, 1), sqe.write(RAM, 0, 1)):
        current, _ = controller.io.prepare(sqe.with_sgl(entry, sqe.sgl(kind, 0xFFFFFFFF)), raw_sgl=True, exact=False,
                                           out=bytes(512) if entry[0] == Io.WRITE else b"",
                                           read=512 if entry[0] == Io.READ else 0)
        controller.io.send(pdu.command(bytes(current.entry)))
        expect.status(controller.io.wait(current), Sc.SUCCESS, Sc.SGL_LENGTH, Sc.SGL_OFFSET, Sc.SGL_GRANULARITY,
                      Sc.SGL_TYPE, Sc.INVALID_FIELD)


def test_data_that_no_sgl_describes_is_refused_or_ignored(controller):
    """A transport SGL, and data in the capsule all the same: the data is nobody's; the write must not use it."""
    controller.write(RAM, 60, b"\x55" * 512)
    entry = sqe.with_sgl(sqe.write(RAM, 60, 1), sqe.transport_sgl(512))
    current, _ = controller.io.prepare(entry, out=b"\x66" * 512, raw_sgl=True, in_capsule=False)
    controller.io.send(pdu.command(bytes(current.entry), b"\x77" * 512, controller.io.sent))
    controller.io.wait(current)
    assert controller.read(RAM, 60, 1) in (b"\x55" * 512, b"\x66" * 512)


@pytest.mark.parametrize("psdt", [PSDT_PRP, 3])
def test_prps_are_refused(controller, psdt):
    """Base 4.1: message-based transports use SGLs; 11b is reserved."""
    expect.status(controller.io.execute(sqe.read(RAM, 0, 1, psdt=psdt), read=512), Sc.INVALID_FIELD)
    expect.status(controller.admin.execute(sqe.entry(6, cdw10=1, psdt=psdt), read=4096), Sc.INVALID_FIELD)


def test_both_sgl_forms_of_the_data_pointer_are_taken_or_the_second_refused(controller):
    expect.status(controller.io.execute(sqe.read(RAM, 0, 1, psdt=PSDT_SGL), read=512), Sc.SUCCESS)
    expect.status(controller.io.execute(sqe.read(RAM, 0, 1, psdt=PSDT_SGL_MPTR_SGL), read=512), Sc.SUCCESS,
                  Sc.INVALID_FIELD)


# -- the rest of the entry -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opcode", [0x03, 0x06, 0x07, 0x0A, 0x12, 0x18, 0x79, 0x7D, 0x80, 0xFF])
def test_an_unknown_opcode_is_refused(controller, opcode):
    expect.status(controller.io.execute(sqe.entry(opcode, RAM)), Sc.INVALID_OPCODE)


def test_write_uncorrectable_is_unknown_unless_announced(controller):
    if not controller.identity.oncs & 2:
        expect.status(controller.io.execute(sqe.entry(Io.WRITE_UNCORRECTABLE, RAM)), Sc.INVALID_OPCODE)


def test_protection_information_is_refused_or_ignored(controller):
    """PRINFO on a namespace without metadata (NVM 3.3.4: PRACT and PRCHK)."""
    entry = sqe.read(RAM, 0, 1)
    entry[51] |= 0x3C
    expect.status(controller.io.execute(entry, read=512, exact=False), Sc.SUCCESS, Sc.INVALID_FIELD, 0x181)


def test_a_metadata_pointer_is_of_no_effect(controller):
    expect.status(controller.io.execute(sqe.read(RAM, 0, 1, mptr=0xDEADBEEF), read=512), Sc.SUCCESS, Sc.INVALID_FIELD)


def test_every_reserved_dword_may_hold_anything(controller):
    """Base 1.4.2.6: reserved fields need not be checked."""
    completion = controller.io.execute(sqe.read(RAM, 0, 1, cdw2=0xFFFFFFFF, cdw3=0xFFFFFFFF), read=512)
    expect.status(completion, Sc.SUCCESS, Sc.INVALID_FIELD)


@pytest.mark.parametrize("entry,read", [
    (sqe.entry(0x81, 0), 0), (sqe.entry(0x84), 0), (sqe.entry(0x80, RAM), 0), (sqe.entry(0x10), 0),
    (sqe.entry(0x11), 0),
    (sqe.entry(0x01), 0), (sqe.entry(0x05), 0), (sqe.entry(0x00), 0), (sqe.entry(0x04), 0), (sqe.entry(0x0D), 0),
    (sqe.entry(0x15), 0), (sqe.entry(0x14), 0), (sqe.entry(0x1C), 0), (sqe.entry(0x7C), 0), (sqe.entry(0xC0), 0)],
    ids=["security send", "sanitize", "format", "firmware commit", "firmware download", "create sq", "create cq",
         "delete sq", "delete cq", "ns management", "ns attachment", "self-test", "virtualization", "doorbell config",
         "vendor"])
def test_admin_commands_that_are_not_supported_are_invalid_opcodes(controller, entry, read):
    """Creating and deleting queues are prohibited on message-based transports (Base figure 28)."""
    expect.status(controller.admin.execute(entry, read=read), Sc.INVALID_OPCODE)


def test_errors_carry_do_not_retry_where_a_retry_is_in_vain(controller):
    for entry, transfer in (ranged(99, 0, 1)["read"], ranged(RAM, 1 << 50, 1)["read"]):
        assert controller.io.execute(entry, **transfer).dnr


def test_a_stream_of_errors_leaves_nothing_behind(controller, target):
    before = target.descriptors()
    for index in range(500):
        entry, transfer = ranged(RAM, (1 << 50) + index, 16)["write"]
        controller.io.execute(entry, **transfer)
    assert target.descriptors() == before
    assert struct.unpack_from("<Q", controller.get_log(1, 64))[0] >= 500
