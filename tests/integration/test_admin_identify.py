# SPDX-License-Identifier: BSD-3-Clause
"""Identify (Base 5.1.13; NVM 4.1.5): all that Linux, FreeBSD, Windows and ESXi ask, and what they should not."""

import os
import struct
import uuid

import pytest

import expect
import sqe
from disks import BLOCK, FILE, NULL, RAM, RAM4K
from host import CC_ALL_COMMAND_SETS, CC_ENABLE, discovery
from spec import ALL_NAMESPACES, Feature, Property, Sc
from structs import IdentifyController as Id
from structs import descriptors, namespace_list

NIDT_EUI64, NIDT_NGUID, NIDT_UUID, NIDT_CSI = 1, 2, 3, 4


# -- controller ------------------------------------------------------------------------------------------------------


def test_identify_controller_names_the_subsystem_and_itself(controller, target):
    identity = controller.identity
    assert identity.text("subnqn") == target.nqn
    assert identity.cntlid == controller.cntlid
    assert identity.cntrltype == 1
    assert identity.text("mn") and identity.text("sn") and identity.text("fr")


def test_strings_of_identify_controller_are_padded_with_spaces(controller):
    """Base 1.4.2.5: ASCII strings are left justified and padded with spaces."""
    for name in ("sn", "mn", "fr"):
        assert all(0x20 <= byte <= 0x7E for byte in controller.identity.field(name)), name


def test_transfers_are_up_to_1_mib(controller):
    assert controller.identity.max_transfer == 1 << 20


def test_capsules_are_those_of_the_tcp_transport(controller):
    """TCP 3.3.1."""
    identity = controller.identity
    assert identity.in_capsule == 8192
    assert identity.iorcsz == 1
    assert identity.icdoff == 0
    assert identity.msdbd == 1


def test_sgls_are_supported_as_fabrics_need_them(controller):
    """Base 5.1.13.2.1: SGLS bits 1:0 say SGLs are supported, 20 that in-capsule offsets are, 21 transport SGLs."""
    sgls = controller.identity.sgls
    assert sgls & 3 in (1, 2)
    assert sgls >> 21 & 1, "Transport SGL Data Block descriptor"
    assert not sgls >> 2 & 1, "keyed SGLs are not for TCP"


def test_queue_entries_are_64_and_16_bytes(controller):
    assert (controller.identity.sqes, controller.identity.cqes) == (0x66, 0x44)


def test_keep_alive_is_supported_with_fine_granularity(controller):
    """TCP 3.4 requires it; KAS is in units of 100 ms."""
    assert 1 <= controller.identity.kas <= 100


def test_optional_commands_are_those_that_the_disks_can(controller):
    identity = controller.identity
    assert identity.can(Id.COMPARE | Id.DSM | Id.WRITE_ZEROES | Id.VERIFY)
    assert identity.fuses == 1  # Compare and Write
    assert not identity.oncs & 1 << 1  # Write Uncorrectable
    assert identity.oncs & 1 << 5  # reservations, which no disk has to be able to


def test_no_optional_admin_command_is_announced(controller):
    assert controller.identity.oacs == 0


def test_limits_of_the_admin_queue_are_sane(controller):
    identity = controller.identity
    assert identity.aerl >= 3  # Base recommends four
    assert identity.lpa & 4  # extended data for Get Log Page
    assert 1 <= identity.elpe + 1 <= 256
    assert identity.npss == 0 or identity.npss < 32
    assert identity.nn >= 4
    assert identity.mnan == 0 or identity.mnan <= identity.nn
    assert identity.maxcmd == 0 or identity.maxcmd >= 2


def test_ana_is_announced_consistently(controller):
    identity = controller.identity
    if identity.cmic & 8:
        assert identity.oaes & 1 << 11, "ANA Change Notices"
        assert identity.anatt > 0
        assert identity.anagrpmax >= 1 and 1 <= identity.nanagrpid <= identity.anagrpmax
        assert identity.anacap & 1  # can report the optimized state


def test_several_controllers_are_announced(controller):
    assert controller.identity.cmic & 2


def test_a_volatile_write_cache_is_announced_for_files(controller):
    """Base 5.1.13.2.1: VWC bit 0; bits 2:1 say what Flush does with the broadcast NSID, not 00b in new designs."""
    vwc = controller.identity.vwc
    assert vwc & 1
    assert vwc >> 1 & 3 in (2, 3)


def test_power_state_0_is_described(controller):
    power = controller.identity.raw[2048:2080]
    assert any(power) or controller.identity.npss == 0


def test_identify_controller_is_the_same_twice(controller):
    assert controller.identify(1) == controller.identify(1)


def test_two_controllers_differ_only_in_their_id(connect):
    first, second = connect(), connect()
    one, two = bytearray(first.identify(1)), bytearray(second.identify(1))
    assert one[78:80] != two[78:80]
    one[78:80] = two[78:80] = b"\0\0"
    assert one == two


# -- namespaces ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nsid,size", [(RAM, 64 << 20), (RAM4K, 64 << 20), (FILE, 64 << 20), (NULL, 1 << 40)])
def test_identify_namespace_tells_size_and_format(controller, nsid, size):
    namespace = controller.namespace(nsid)
    assert namespace.block == BLOCK[nsid]
    assert namespace.nsze == size // BLOCK[nsid]
    assert 0 < namespace.ncap <= namespace.nsze
    assert namespace.nuse <= namespace.ncap
    assert namespace.flbas & 0xF <= namespace.nlbaf
    assert namespace.mc == namespace.dpc == namespace.dps == 0
    assert namespace.nmic & 1  # may be attached to several controllers
    assert namespace.rescap == 0xFE  # all types of reservations; not through power loss


def test_thin_provisioning_is_announced_where_the_namespace_utilization_moves(controller):
    """NVM 4.1.5.1: THINP, NSFEAT bit 0, and NUSE. The space that a sparse file takes is known; that of others: all."""
    before = controller.namespace(FILE)
    assert before.nsfeat & 1 and before.nuse < before.ncap // 2
    controller.write(FILE, 65536, os.urandom(1 << 20))
    controller.flush(FILE)
    written = controller.namespace(FILE).nuse
    assert written >= before.nuse + 2048
    controller.io.must(sqe.dsm(FILE, 1), out=sqe.dsm_range(65536, 2048))
    controller.flush(FILE)
    assert controller.namespace(FILE).nuse <= written - 2048
    for nsid in (RAM, RAM4K, NULL):
        namespace = controller.namespace(nsid)
        assert not namespace.nsfeat & 1 and namespace.nuse == namespace.ncap == namespace.nsze


def test_identify_namespace_announces_reads_of_deallocated_blocks(controller):
    for nsid in (RAM, RAM4K, FILE):
        assert controller.namespace(nsid).deallocated_reads_zero


def test_identify_namespace_announces_copy_limits_if_copy_is_supported(controller):
    if not controller.identity.can(Id.COPY):
        pytest.skip("Copy is not supported")
    for nsid in (RAM, RAM4K, FILE):
        namespace = controller.namespace(nsid)
        assert namespace.mssrl and namespace.mcl >= namespace.mssrl
    assert controller.identity.cdfs & 1  # descriptor format 0h


@pytest.mark.parametrize("nsid", [0, ALL_NAMESPACES, 0xFFFFFFFE, 0x80000000])
def test_identify_namespace_of_an_invalid_nsid_fails(controller, nsid):
    """Base 5.1.13, CNS 00h: FFFFFFFFh is for namespace management only, which we do not have."""
    expect.status(controller.identify_raw(0x00, nsid=nsid), Sc.INVALID_NAMESPACE)


def test_identify_namespace_of_an_unused_nsid_is_zero(controller):
    """Base 3.2.1: an NSID up to NN that is not active is answered with zeroes; above NN it is invalid."""
    for nsid in (5, controller.identity.nn, controller.identity.nn + 1):
        completion = controller.identify_raw(0x00, nsid=nsid)
        if nsid > controller.identity.nn:
            expect.status(completion, Sc.INVALID_NAMESPACE)
        elif nsid > NULL:
            expect.status(completion, Sc.SUCCESS)
            assert not any(completion.data)


def test_the_active_namespace_list_is_in_order(controller):
    assert controller.namespaces() == [RAM, RAM4K, FILE, NULL]


@pytest.mark.parametrize("after,rest", [(0, [1, 2, 3, 4]), (1, [2, 3, 4]), (3, [4]), (4, []), (0xFFFFFFFD, [])])
def test_the_active_namespace_list_starts_after_the_nsid(controller, after, rest):
    assert namespace_list(controller.identify(0x02, nsid=after)) == rest


@pytest.mark.parametrize("after", [0xFFFFFFFE, 0xFFFFFFFF])
def test_the_active_namespace_list_after_the_last_nsid_fails(controller, after):
    """Base 5.1.13.2.2."""
    expect.status(controller.identify_raw(0x02, nsid=after), Sc.INVALID_NAMESPACE)


@pytest.mark.parametrize("nsid", [RAM, RAM4K, FILE, NULL])
def test_namespaces_have_identifiers(controller, nsid):
    found = descriptors(controller.identify(0x03, nsid=nsid))
    assert found.get(NIDT_CSI, b"\0") == b"\0"
    assert NIDT_UUID in found or NIDT_NGUID in found or NIDT_EUI64 in found
    lengths = {NIDT_EUI64: 8, NIDT_NGUID: 16, NIDT_UUID: 16, NIDT_CSI: 1}
    for kind, value in found.items():
        assert len(value) == lengths[kind]
        assert kind == NIDT_CSI or any(value)
    namespace = controller.namespace(nsid)
    assert found.get(NIDT_NGUID, bytes(16)) == namespace.nguid
    if NIDT_EUI64 in found:
        assert int.from_bytes(found[NIDT_EUI64], "little") == namespace.eui64


def test_identifiers_of_namespaces_are_unique(controller):
    for kind in (NIDT_UUID, NIDT_NGUID, NIDT_EUI64):
        values = [descriptors(controller.identify(3, nsid=nsid)).get(kind) for nsid in controller.namespaces()]
        values = [value for value in values if value]
        assert len(set(values)) == len(values)


def test_a_uuid_identifier_is_an_rfc_9562_uuid(controller):
    for nsid in controller.namespaces():
        value = descriptors(controller.identify(3, nsid=nsid)).get(NIDT_UUID)
        if value:
            assert uuid.UUID(bytes=value).variant == uuid.RFC_4122


@pytest.mark.parametrize("nsid", [0, 5, ALL_NAMESPACES])
def test_identifiers_of_an_invalid_nsid_fail(controller, nsid):
    """Base 5.1.13.2.3: an NSID that is not active is aborted with Invalid Namespace or Format."""
    expect.status(controller.identify_raw(0x03, nsid=nsid), Sc.INVALID_NAMESPACE)


# -- I/O command sets ------------------------------------------------------------------------------------------------


def test_the_nvm_command_set_specific_structures_exist(controller):
    """CNS 05h, 06h and 07h with CSI 0h."""
    for nsid in (RAM, RAM4K):
        controller.identify(0x05, nsid=nsid, csi=0)
    controller.identify(0x06, csi=0)
    assert namespace_list(controller.identify(0x07, csi=0)) == controller.namespaces()


def test_limits_of_commands_without_data_are_told(controller):
    """CNS 06h CSI 0h (NVM 4.1.5.4): VSL, WZSL, WUSL, DMRL, DMRSL, DMSL."""
    verify, zeroes, _, ranges, range_size, size = struct.unpack_from("<BBBBIQ", controller.identify(0x06, csi=0))
    assert verify == 0 or 12 + verify <= 40
    assert zeroes == 0 or 12 + zeroes <= 40
    assert size == 0 or size >= range_size
    assert ranges >= 0


def test_the_command_set_independent_namespace_structure(controller):
    """CNS 08h (Base 5.1.13.2.8): NSFEAT, NMIC, RESCAP, FPI, ANAGRPID, NSATTR, ..., NSTAT."""
    completion = controller.identify_raw(0x08, nsid=RAM)
    expect.status(completion, Sc.SUCCESS)
    namespace = controller.namespace(RAM)
    assert completion.data[1] == namespace.nmic
    assert struct.unpack_from("<I", completion.data, 4)[0] == namespace.anagrpid
    assert completion.data[14] & 1  # NRDY


def test_the_command_set_structure_offers_nvm_and_zoned_namespaces(controller):
    """CNS 1Ch: 512 I/O Command Set vectors (Base 5.1.13.2.20)."""
    assert controller.admin.property_get(0, 8) >> 43 & 1  # CAP.CSS bit 6: all I/O command sets can be asked for
    for cntid in (0xFFFF, controller.cntlid):
        vectors = struct.unpack("<512Q", controller.identify(0x1C, cntid=cntid))
        assert vectors[0] == 1 << 0 | 1 << 2 and not any(vectors[1:])


def test_a_host_may_ask_for_all_command_sets(connect):
    """CC.CSS 110b, as some hosts do without an alternative (Base 3.1.4.5), and then what they look at."""
    controller = connect(enable=False)
    controller.enable(CC_ENABLE | CC_ALL_COMMAND_SETS)
    assert controller.admin.property_get(Property.CC) == CC_ENABLE | CC_ALL_COMMAND_SETS
    controller.set_feature(Feature.COMMAND_SETS, 0)
    assert namespace_list(controller.identify(0x07, csi=0)) == controller.namespaces()
    for nsid in controller.namespaces():
        assert descriptors(controller.identify(0x03, nsid=nsid))[NIDT_CSI] == b"\0"
        controller.identify(0x05, nsid=nsid, csi=0)
        controller.identify(0x08, nsid=nsid)
    controller.add_queue(1)
    controller.write(RAM, 0, b"\x77" * 512)
    assert controller.read(RAM, 0, 1) == b"\x77" * 512


def test_a_discovery_controller_has_no_io_command_sets(target):
    with discovery(target.address, enable=False) as controller:
        assert not controller.admin.property_get(Property.CAP, 8) >> 43 & 1
        entry = sqe.property_set(Property.CC, CC_ENABLE | CC_ALL_COMMAND_SETS)
        expect.status(controller.admin.execute(entry), Sc.INVALID_FIELD)
        expect.status(controller.admin.execute(sqe.get_features(Feature.COMMAND_SETS)), Sc.SEQUENCE)
        controller.enable()
        expect.status(controller.admin.execute(sqe.get_features(Feature.COMMAND_SETS)), Sc.INVALID_FIELD)


@pytest.mark.parametrize("cns", [0x05, 0x06, 0x07])
@pytest.mark.parametrize("csi", [1, 3, 0x30, 0xFF])
def test_other_command_sets_do_not_exist(controller, cns, csi):
    completion = controller.identify_raw(cns, nsid=RAM, csi=csi)
    expect.status(completion, Sc.INVALID_FIELD, Sc.INVALID_COMMAND_SET)


def test_a_disk_without_zones_is_of_no_such_command_set(controller):
    """CSI 2h; test_zoned.py is about those that have some."""
    expect.status(controller.identify_raw(0x05, nsid=RAM, csi=2), Sc.INVALID_COMMAND_SET)
    assert namespace_list(controller.identify(0x07, csi=2)) == []
    assert 12 + controller.identify(0x06, csi=2)[0] <= 20  # no more is appended than MDTS


@pytest.mark.parametrize("cns", [0x05, 0x08])
@pytest.mark.parametrize("nsid", [0, ALL_NAMESPACES])
def test_namespace_structures_need_a_valid_nsid(controller, cns, nsid):
    expect.status(controller.identify_raw(cns, nsid=nsid), Sc.INVALID_NAMESPACE)


# -- the rest --------------------------------------------------------------------------------------------------------


def test_controller_lists_hold_this_controller(controller):
    """CNS 13h and 12h belong to namespace management and virtualization, but hosts ask (Base 5.1.13.2.11, .12)."""
    for cns, nsid in ((0x13, 0), (0x12, RAM)):
        completion = controller.identify_raw(cns, nsid=nsid)
        expect.status(completion, Sc.SUCCESS, Sc.INVALID_FIELD)
        if completion.status == Sc.SUCCESS:
            count, *ids = struct.unpack("<2048H", completion.data)
            assert controller.cntlid in ids[:count]
            assert ids[:count] == sorted(set(ids[:count])) and not any(ids[count:])


@pytest.mark.parametrize("cns", [0x04, 0x09, 0x0A, 0x10, 0x11, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1A, 0x1B, 0x1D,
                                 0x1F])
def test_other_structures_are_answered_or_refused(controller, cns):
    """NVM sets, allocated namespaces, secondary controllers, granularity, UUIDs, domains, groups: optional."""
    expect.status(controller.identify_raw(cns, nsid=RAM if cns in (0x11, 0x1A, 0x1B, 0x09, 0x0A) else 0),
                  Sc.SUCCESS, Sc.INVALID_FIELD, Sc.INVALID_NAMESPACE)


@pytest.mark.parametrize("cns", [0x22, 0x7F, 0xC0, 0xFF])
def test_a_reserved_cns_is_an_invalid_field(controller, cns):
    expect.status(controller.identify_raw(cns), Sc.INVALID_FIELD)


@pytest.mark.parametrize("length", [0, 4, 512, 4092])
def test_a_buffer_that_is_too_short_is_refused(controller, length):
    """Base 4.3.2: the SGL is shorter than the 4096 bytes of the structure."""
    entry = sqe.with_sgl(sqe.identify(1), sqe.transport_sgl(length))
    expect.status(controller.admin.execute(entry, read=length, raw_sgl=True), Sc.SGL_LENGTH)


def test_identify_does_not_take_data_in_the_capsule(controller):
    completion = controller.admin.execute(sqe.identify(1), out=bytes(4096), in_capsule=True)
    assert completion.status not in (Sc.SUCCESS, Sc.INTERNAL)
    controller.identify(1)
