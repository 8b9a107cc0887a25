# SPDX-License-Identifier: BSD-3-Clause
"""Get Log Page (Base 5.1.12)."""

import struct

import pytest

import expect
import sqe
from disks import FILE, NULL, RAM, RAM4K
from spec import ALL_NAMESPACES, Admin, Feature, Io, Log, Sc
from structs import ErrorLogEntry, HealthLog, ana_groups, namespace_list

SIZES = {Log.SUPPORTED: 1024, Log.ERROR: 64, Log.HEALTH: 512, Log.FIRMWARE: 512, Log.CHANGED_NS: 4096,
         Log.EFFECTS: 4096, Log.FEATURES: 1024}


def log_raw(controller, lid, length, **more):
    return controller.admin.execute(sqe.get_log(lid, length, **more), read=length)


@pytest.mark.parametrize("lid,size", SIZES.items())
def test_every_announced_log_page_can_be_read(controller, lid, size):
    controller.get_log(lid, size)


@pytest.mark.parametrize("lid,size", SIZES.items())
def test_a_log_page_can_be_read_in_pieces(controller, lid, size):
    whole = controller.get_log(lid, size)
    step = 16 if size == 64 else size // 4
    pieces = b"".join(controller.get_log(lid, step, offset=offset) for offset in range(0, size, step))
    if lid == Log.HEALTH:  # it counts commands, ours among them
        whole, pieces = whole[:32], pieces[:32]
    assert pieces == whole


@pytest.mark.parametrize("lid,size", SIZES.items())
def test_a_log_page_cannot_be_read_from_beyond_its_end(controller, lid, size):
    """Base 5.1.12: an offset greater than the size of the log page is Invalid Field in Command."""
    offset = 64 * 256 + 4 if lid == Log.ERROR else size + 4
    expect.status(log_raw(controller, lid, 4, offset=offset), Sc.INVALID_FIELD)
    expect.status(log_raw(controller, lid, 4, offset=0xFFFFFFFF_FFFFFFFC), Sc.INVALID_FIELD)


def test_an_odd_offset_is_refused_or_rounded_down(controller):
    """Base 5.1.12: LPOL bits 1:0 shall be 00b; the controller is not required to check, and then ignores them."""
    completion = log_raw(controller, Log.SUPPORTED, 4, offset=2)
    expect.status(completion, Sc.INVALID_FIELD, Sc.SUCCESS)
    if completion.status == Sc.SUCCESS:
        assert completion.data == controller.get_log(Log.SUPPORTED, 4)


def test_one_dword_can_be_read(controller):
    assert len(controller.get_log(Log.EFFECTS, 4)) == 4


def test_a_read_past_the_end_gives_the_page_first(controller):
    """The data beyond the end of a log page is undefined; the transfer is not (Base 5.1.12)."""
    completion = log_raw(controller, Log.FIRMWARE, 4096)
    expect.status(completion, Sc.SUCCESS)
    assert completion.data[:512] == controller.get_log(Log.FIRMWARE, 512)


def test_a_buffer_shorter_than_numd_is_refused(controller):
    completion = controller.admin.execute(sqe.get_log(Log.EFFECTS, 4096), read=512)
    expect.status(completion, Sc.SGL_LENGTH)


@pytest.mark.parametrize("numd", [0x3FFFF, 0x00FFFFFF, 0xFFFFFFFF])
def test_a_huge_numd_does_no_harm(controller, numd):
    """With a buffer of 4 KiB it is too short, whatever MDTS says."""
    completion = controller.admin.execute(sqe.get_log(Log.EFFECTS, 4096, numd=numd), read=4096)
    expect.status(completion, Sc.SGL_LENGTH, Sc.INVALID_FIELD)


@pytest.mark.parametrize("lid", [0x06, 0x07, 0x08, 0x09, 0x0D, 0x0E, 0x0F, 0x15, 0x20, 0x70, 0x71, 0x80, 0x81, 0xBF])
def test_a_log_page_that_is_not_announced_is_refused(controller, lid):
    """Base figure 103: Invalid Log Page; known targets say Invalid Field in Command."""
    if struct.unpack_from("<I", controller.get_log(Log.SUPPORTED, 1024), 4 * lid)[0] & 1:
        pytest.skip("announced")
    expect.status(log_raw(controller, lid, 512), Sc.INVALID_LOG, Sc.INVALID_FIELD)


def test_supported_log_pages_tells_the_truth(controller):
    supported = struct.unpack("<256I", controller.get_log(Log.SUPPORTED, 1024))
    for lid in SIZES:
        assert supported[lid] & 1, f"log page {lid:02x}h"
    for lid in range(256):
        status = log_raw(controller, lid, 16, nsid=ALL_NAMESPACES).status
        assert (status == Sc.SUCCESS) == bool(supported[lid] & 1), f"log page {lid:02x}h: {status:x}"


# -- error log -------------------------------------------------------------------------------------------------------


def error_log(controller):
    count = controller.identity.elpe + 1
    data = controller.get_log(Log.ERROR, 64 * count)
    return [ErrorLogEntry(data[i:i + 64]) for i in range(0, len(data), 64)]


def test_the_error_log_of_a_new_controller_is_empty(controller):
    assert not any(entry.count for entry in error_log(controller))


def test_a_failed_command_is_entered_in_the_error_log(controller):
    failed = controller.io.submit(sqe.read(RAM, 1 << 40, 1), read=512)
    completion = controller.io.wait(failed)
    expect.status(completion, Sc.LBA_RANGE)
    entry = error_log(controller)[0]
    assert entry.count >= 1
    assert (entry.sqid, entry.cid, entry.status, entry.nsid) == (1, failed.cid, Sc.LBA_RANGE, RAM)
    assert entry.lba == 1 << 40
    if entry.raw[63]:  # LPVER 1h: OPC and CSI are there
        assert entry.opc == Io.READ
    if completion.more:
        assert entry.count


def test_the_newest_error_comes_first_and_counts_up(controller):
    for slba in (1 << 40, 1 << 41, 1 << 42):
        expect.status(controller.io.execute(sqe.read(RAM, slba, 1), read=512), Sc.LBA_RANGE)
    entries = [entry for entry in error_log(controller) if entry.count]
    counts = [entry.count for entry in entries]
    assert counts == sorted(counts, reverse=True) and len(set(counts)) == len(counts)
    assert entries[0].lba == 1 << 42


def test_the_error_log_overflows_quietly(controller):
    size = controller.identity.elpe + 1
    for index in range(size + 5):
        expect.status(controller.io.execute(sqe.read(RAM, (1 << 40) + index, 1), read=512), Sc.LBA_RANGE)
    entries = error_log(controller)
    assert all(entry.count for entry in entries)
    assert entries[0].lba == (1 << 40) + size + 4


def test_admin_errors_are_entered_too(controller):
    failed = controller.admin.submit(sqe.identify(0xFF), read=4096)
    expect.status(controller.admin.wait(failed), Sc.INVALID_FIELD)
    entry = error_log(controller)[0]
    assert (entry.sqid, entry.cid, entry.status) == (0, failed.cid, Sc.INVALID_FIELD)


# -- health ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nsid", [0, ALL_NAMESPACES])
def test_the_controller_is_in_good_health(controller, nsid):
    health = HealthLog(controller.get_log(Log.HEALTH, 512, nsid=nsid))
    assert health.warning == 0
    assert health.spare >= health.spare_threshold
    assert health.temperature == 0 or 273 < health.temperature < 373


def test_health_counts_reads_and_writes(controller):
    before = HealthLog(controller.get_log(Log.HEALTH, 512))
    for _ in range(20):
        controller.write(RAM, 0, bytes(1 << 20))
        controller.read(RAM, 0, 2048)
    after = HealthLog(controller.get_log(Log.HEALTH, 512))
    assert after.number("host_reads") >= before.number("host_reads") + 20
    assert after.number("host_writes") >= before.number("host_writes") + 20
    assert after.number("units_read") >= before.number("units_read") + 40  # units of 1000 x 512 bytes
    assert after.number("units_written") >= before.number("units_written") + 40


@pytest.mark.parametrize("opcode, reads, units", [(Io.COMPARE, 20, 40), (Io.VERIFY, 0, 40), (Io.COPY, 20, 0)])
def test_health_counts_what_else_reads(controller, opcode, reads, units):
    """NVM 1.4.2: Compare, Read and Verify read data units; Compare, Copy and Read are host reads."""
    controller.write(RAM, 0, bytes(1 << 20))
    before = HealthLog(controller.get_log(Log.HEALTH, 512))
    for _ in range(20):
        if opcode == Io.COMPARE:
            controller.io.must(sqe.compare(RAM, 0, 2048), out=bytes(1 << 20))
        elif opcode == Io.VERIFY:
            controller.io.must(sqe.verify(RAM, 0, 2048))
        else:
            controller.io.must(sqe.copy(RAM, 2048, 1), out=sqe.copy_range(0, 8))
    after = HealthLog(controller.get_log(Log.HEALTH, 512))
    assert after.number("host_reads") - before.number("host_reads") == reads
    assert after.number("units_read") - before.number("units_read") in range(units, units + 2)


def test_health_of_one_namespace_is_refused_unless_announced(controller):
    """Base 5.1.12.1.3: LPA bit 0 says whether it can be had by namespace."""
    expected = (Sc.SUCCESS,) if controller.identity.lpa & 1 else (Sc.INVALID_FIELD, Sc.SUCCESS)
    expect.status(log_raw(controller, Log.HEALTH, 512, nsid=RAM), *expected)


# -- the others ------------------------------------------------------------------------------------------------------


def test_firmware_slot_1_is_active_and_named_as_in_identify(controller):
    data = controller.get_log(Log.FIRMWARE, 512)
    assert data[0] & 7 == 1
    assert data[8:16] == controller.identity.field("fr")


def test_no_namespace_has_changed(controller):
    assert namespace_list(controller.get_log(Log.CHANGED_NS, 4096)) == []


def test_effects_log_tells_which_commands_there_are(controller):
    data = controller.get_log(Log.EFFECTS, 4096)
    admin, io = struct.unpack_from("<256I", data), struct.unpack_from("<256I", data, 1024)
    for opcode in (Admin.GET_LOG, Admin.IDENTIFY, Admin.ABORT, Admin.SET_FEATURES, Admin.GET_FEATURES, Admin.AER,
                   Admin.KEEP_ALIVE):
        assert admin[opcode] & 1, f"admin command {opcode:02x}h"
    for opcode in (Io.FLUSH, Io.WRITE, Io.READ, Io.COMPARE, Io.WRITE_ZEROES, Io.DSM, Io.VERIFY):
        assert io[opcode] & 1, f"I/O command {opcode:02x}h"
    for opcode in (Io.WRITE, Io.WRITE_ZEROES, Io.DSM):
        assert io[opcode] & 2, f"I/O command {opcode:02x}h changes logical blocks (LBCC)"
    assert not io[Io.READ] & 2
    assert not admin[Admin.CREATE_SQ] and not admin[Admin.FORMAT]


def test_effects_log_agrees_with_the_controller(controller):
    """A command that the log does not know is an invalid opcode, and the other way round."""
    admin = struct.unpack_from("<256I", controller.get_log(Log.EFFECTS, 4096))
    for opcode in range(256):
        if opcode in (Admin.AER, Admin.GET_LOG, Admin.IDENTIFY, 0x7F):  # waits; transfers; transfers; Fabrics
            continue
        status = controller.admin.execute(sqe.entry(opcode)).status
        assert (status == Sc.INVALID_OPCODE) == (not admin[opcode] & 1), f"admin command {opcode:02x}h: {status:x}"


def test_effects_log_agrees_with_the_io_queue(controller):
    data = controller.get_log(Log.EFFECTS, 4096)
    io = struct.unpack_from("<256I", data, 1024)
    for opcode in range(256):
        if opcode == 0x7F:
            continue
        status = controller.io.execute(sqe.entry(opcode, nsid=NULL)).status
        assert (status == Sc.INVALID_OPCODE) == (not io[opcode] & 1), f"I/O command {opcode:02x}h: {status:x}"


def test_effects_log_by_command_set(controller):
    """CSI 0h is the NVM command set; others are not there (Base 5.1.12.1.6)."""
    assert controller.get_log(Log.EFFECTS, 4096, csi=0) == controller.get_log(Log.EFFECTS, 4096)


def test_feature_identifiers_log_agrees_with_get_features(controller):
    """Base 5.1.12.1.18: bit 0 of each entry says that the feature is supported."""
    features = struct.unpack("<256I", controller.get_log(Log.FEATURES, 1024))
    for fid in (Feature.QUEUES, Feature.ASYNC_EVENTS, Feature.KEEP_ALIVE, Feature.HOST_ID, Feature.WRITE_CACHE):
        assert features[fid] & 1, f"feature {fid:02x}h"
    for fid in range(256):
        entry = sqe.get_features(fid, nsid=RAM, cdw11=1 if fid == Feature.HOST_ID else 0)
        completion = controller.admin.execute(entry, read=4096, exact=False)
        if not features[fid] & 1:
            assert completion.status == Sc.INVALID_FIELD, f"feature {fid:02x}h is answered, but not in the log"


def test_ana_tells_one_optimized_group_with_all_namespaces(controller):
    if not controller.identity.cmic & 8:
        expect.status(log_raw(controller, Log.ANA, 4096), Sc.INVALID_LOG, Sc.INVALID_FIELD)
        return
    groups = ana_groups(controller.get_log(Log.ANA, 4096))
    assert groups == {1: (1, [RAM, RAM4K, FILE, NULL])}
    for nsid in controller.namespaces():
        assert controller.namespace(nsid).anagrpid == 1


def test_ana_can_leave_out_the_namespaces(controller):
    """RGO, bit 0 of the log specific parameter (Base 5.1.12.1.13)."""
    if not controller.identity.cmic & 8:
        pytest.skip("no ANA")
    assert ana_groups(controller.get_log(Log.ANA, 4096, lsp=1)) == {1: (1, [])}
