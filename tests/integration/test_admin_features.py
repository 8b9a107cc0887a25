# SPDX-License-Identifier: BSD-3-Clause
"""Get Features and Set Features (Base 5.1.11, 5.1.25)."""

import os

import pytest

import expect
import sqe
from disks import FILE, RAM
from host import discovery
from spec import ALL_NAMESPACES, Feature, Sc
from structs import IdentifyController as Id

CURRENT, DEFAULT, SAVED, CAPABILITIES = range(4)

# Features without data that every controller here has, and a value to change them to (None: cannot be changed)
SIMPLE = [
    (Feature.ARBITRATION, 0x03), (Feature.POWER, 0), (Feature.TEMPERATURE, 350), (Feature.ERROR_RECOVERY, 100),
    (Feature.WRITE_ATOMICITY, 1), (Feature.ASYNC_EVENTS, 0x100), (Feature.KEEP_ALIVE, 60_000)]
IDS = [feature.name.lower() for feature, _ in SIMPLE]
QUEUES_127 = 126 | 126 << 16


def get(controller, fid, **more):
    return controller.admin.execute(sqe.get_features(fid, **more))


def put(controller, fid, value=0, **more):
    return controller.admin.execute(sqe.set_features(fid, value, **more))


def nsid_of(fid):
    return RAM if fid == Feature.ERROR_RECOVERY else 0


@pytest.mark.parametrize("fid,_", SIMPLE, ids=IDS)
def test_mandatory_features_can_be_read(controller, fid, _):
    expect.status(get(controller, fid, nsid=nsid_of(fid)), Sc.SUCCESS)


@pytest.mark.parametrize("fid,value", SIMPLE, ids=IDS)
def test_a_feature_reads_back_what_was_set(controller, fid, value):
    nsid = nsid_of(fid)
    completion = expect.status(put(controller, fid, value, nsid=nsid), Sc.SUCCESS, Sc.FEATURE_NOT_CHANGEABLE)
    if completion.status == Sc.SUCCESS:
        assert get(controller, fid, nsid=nsid).dw0 == value


@pytest.mark.parametrize("fid", [0x00, 0x20, 0x77, 0x7F, 0xC0, 0xFF])
def test_an_unknown_feature_is_an_invalid_field(controller, fid):
    expect.status(get(controller, fid), Sc.INVALID_FIELD)
    expect.status(put(controller, fid), Sc.INVALID_FIELD)


def test_interrupt_features_are_not_for_fabrics(controller):
    """Base figure 32: Interrupt Coalescing and Vector Configuration are prohibited on message-based transports."""
    for fid in (Feature.INTERRUPT_COALESCING, 0x09):
        expect.status(get(controller, fid), Sc.INVALID_FIELD)


@pytest.mark.parametrize("select", [CURRENT, DEFAULT, SAVED, CAPABILITIES])
def test_select_is_supported_as_announced(controller, select):
    """Base 5.1.11: SEL is supported if ONCS bit 4 says so; without it a controller ignores or refuses it."""
    completion = get(controller, Feature.TEMPERATURE, select=select)
    if controller.identity.can(Id.SAVE_SELECT) or select == CURRENT:
        expect.status(completion, Sc.SUCCESS)
    else:
        expect.status(completion, Sc.SUCCESS, Sc.INVALID_FIELD)


def test_capabilities_of_features_hold(controller):
    if not controller.identity.can(Id.SAVE_SELECT):
        pytest.skip("no SEL")
    for fid, value in SIMPLE:
        nsid = nsid_of(fid)
        capabilities = get(controller, fid, select=CAPABILITIES, nsid=nsid).dw0
        assert capabilities & ~7 == 0
        assert not capabilities & 1, "saveable features need a place to save them"
        completion = put(controller, fid, value, nsid=nsid)
        assert (completion.status == Sc.SUCCESS) == bool(capabilities & 4), f"feature {fid:#x}"


def test_default_stays_when_the_current_value_changes(controller):
    if not controller.identity.can(Id.SAVE_SELECT):
        pytest.skip("no SEL")
    default = get(controller, Feature.TEMPERATURE, select=DEFAULT).dw0
    put(controller, Feature.TEMPERATURE, default ^ 0x10)
    assert get(controller, Feature.TEMPERATURE, select=DEFAULT).dw0 == default
    assert get(controller, Feature.TEMPERATURE).dw0 == default ^ 0x10


@pytest.mark.parametrize("select", [4, 7])
def test_a_reserved_select_is_an_invalid_field(controller, select):
    expect.status(get(controller, Feature.TEMPERATURE, select=select), Sc.INVALID_FIELD)


def test_saving_a_feature_that_cannot_be_saved_fails(controller):
    """Base 5.1.25: Feature Identifier Not Saveable."""
    before = controller.get_feature(Feature.TEMPERATURE)
    expect.status(put(controller, Feature.TEMPERATURE, 340, save=True), Sc.FEATURE_NOT_SAVEABLE, Sc.INVALID_FIELD)
    assert controller.get_feature(Feature.TEMPERATURE) == before


# -- each by itself --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [1, 2, 4, 64, 127])
def test_number_of_queues_grants_what_is_asked(connect, wanted):
    controller = connect()
    granted = controller.set_feature(Feature.QUEUES, (wanted - 1) * 0x10001).dw0
    assert granted & 0xFFFF == granted >> 16 >= wanted - 1
    assert controller.get_feature(Feature.QUEUES) == granted


def test_number_of_queues_grants_at_most_128_pairs(connect):
    granted = connect().set_feature(Feature.QUEUES, 0xFFFEFFFE).dw0
    assert granted == QUEUES_127 or granted == 127 | 127 << 16


@pytest.mark.parametrize("value", [0xFFFFFFFF, 0x0000FFFF, 0xFFFF0000])
def test_65536_queues_are_an_invalid_field(connect, value):
    """Base 5.1.25.1.5: 65,535 is the largest value that may be given."""
    expect.status(put(connect(), Feature.QUEUES, value), Sc.INVALID_FIELD)


def test_number_of_queues_cannot_change_once_there_are_queues(controller):
    """Base 5.1.25.1.5: Command Sequence Error."""
    expect.status(put(controller, Feature.QUEUES, 0x00030003), Sc.SEQUENCE)


def test_keep_alive_timeout_of_connect_is_the_features(connect):
    controller = connect(kato=45_000)
    assert controller.get_feature(Feature.KEEP_ALIVE) in range(45_000, 60_000)  # may be rounded up to KAS


def test_keep_alive_cannot_be_turned_off_or_is(controller):
    """TCP 3.4: the transport requires keep alive; Base: then 0h is Keep Alive Timeout Invalid. Some targets take it."""
    expect.status(put(controller, Feature.KEEP_ALIVE, 0), Sc.KEEP_ALIVE_INVALID, Sc.SUCCESS)


def test_host_identifier_is_that_of_connect(connect):
    hostid = os.urandom(16)
    controller = connect(hostid=hostid)
    completion = controller.admin.must(sqe.get_features(Feature.HOST_ID, cdw11=1), read=16)
    assert completion.data == hostid


def test_a_64_bit_host_identifier_is_refused_on_fabrics(controller):
    """Base 5.1.25.1.28: EXHID shall be 1 on message-based transports."""
    expect.status(controller.admin.execute(sqe.get_features(Feature.HOST_ID), read=8), Sc.INVALID_FIELD)


def test_host_identifier_cannot_be_set_on_fabrics(controller):
    """Base 5.1.25.1.28.2: Connect sets it; Set Features is a Command Sequence Error."""
    completion = controller.admin.execute(sqe.set_features(Feature.HOST_ID, 1), out=os.urandom(16))
    expect.status(completion, Sc.SEQUENCE, Sc.FEATURE_NOT_CHANGEABLE, Sc.INVALID_FIELD)


def test_volatile_write_cache_feature_agrees_with_identify(controller):
    """Base 5.1.25.1.4: without a volatile write cache the feature is an Invalid Field in Command."""
    if not controller.identity.vwc & 1:
        expect.status(get(controller, Feature.WRITE_CACHE), Sc.INVALID_FIELD)
        return
    assert controller.get_feature(Feature.WRITE_CACHE) & 1 == 1
    completion = put(controller, Feature.WRITE_CACHE, 0)
    expect.status(completion, Sc.SUCCESS, Sc.FEATURE_NOT_CHANGEABLE)
    if completion.status == Sc.SUCCESS:
        assert controller.get_feature(Feature.WRITE_CACHE) & 1 == 0
        controller.write(FILE, 0, bytes(512))
        controller.set_feature(Feature.WRITE_CACHE, 1)


def test_error_recovery_is_per_namespace(controller):
    expect.status(get(controller, Feature.ERROR_RECOVERY, nsid=RAM), Sc.SUCCESS)
    expect.status(get(controller, Feature.ERROR_RECOVERY, nsid=99999), Sc.INVALID_NAMESPACE)


def test_a_controller_feature_is_not_namespace_specific(controller):
    """Base 5.1.25: Set Features of a controller feature for one namespace is Feature Not Namespace Specific."""
    expect.status(put(controller, Feature.TEMPERATURE, 350, nsid=RAM), Sc.FEATURE_NOT_NAMESPACE, Sc.SUCCESS)
    expect.status(put(controller, Feature.TEMPERATURE, 350, nsid=ALL_NAMESPACES), Sc.SUCCESS)


def test_a_power_state_that_is_not_there_is_an_invalid_field(controller):
    expect.status(put(controller, Feature.POWER, controller.identity.npss + 1), Sc.INVALID_FIELD)


def test_async_event_configuration_takes_only_announced_events(controller):
    """Base 5.1.25.1.6: bits of events that OAES does not announce are refused; the others stick. Those of critical
    warnings are not announced, and always there."""
    supported = controller.identity.oaes | 0x3F
    controller.set_feature(Feature.ASYNC_EVENTS, supported)
    for bit in (bit for bit in range(8, 32) if not supported >> bit & 1):
        expect.status(put(controller, Feature.ASYNC_EVENTS, 1 << bit), Sc.INVALID_FIELD)
    assert controller.get_feature(Feature.ASYNC_EVENTS) == supported


def test_a_discovery_controller_takes_the_event_of_its_log_alone(target):
    with discovery(target.address) as controller:
        controller.set_feature(Feature.ASYNC_EVENTS, 1 << 31)
        for bit in (8, 11, 30):
            expect.status(put(controller, Feature.ASYNC_EVENTS, 1 << bit), Sc.INVALID_FIELD)
        assert controller.get_feature(Feature.ASYNC_EVENTS) == 1 << 31


@pytest.mark.parametrize("combination", [1, 2, 511])
def test_there_is_one_combination_of_command_sets(controller, combination):
    """Base 5.1.25: an index whose vector is empty is refused with I/O Command Set Combination Rejected."""
    expect.status(put(controller, Feature.COMMAND_SETS, 0), Sc.SUCCESS)
    expect.status(put(controller, Feature.COMMAND_SETS, combination), Sc.COMMAND_SET_REJECTED)
    assert controller.get_feature(Feature.COMMAND_SETS) == 0


def test_host_behavior_support_is_data_or_absent(controller):
    completion = controller.admin.execute(sqe.get_features(Feature.HOST_BEHAVIOR), read=512, exact=False)
    expect.status(completion, Sc.SUCCESS, Sc.INVALID_FIELD)
    if completion.status == Sc.SUCCESS:
        wanted = bytearray(completion.data)
        wanted[0] = 1  # ACRE
        controller.admin.must(sqe.set_features(Feature.HOST_BEHAVIOR), out=bytes(wanted))
        assert controller.admin.must(sqe.get_features(Feature.HOST_BEHAVIOR), read=512).data[0] == 1


def test_features_are_back_to_defaults_after_a_reset(connect):
    controller = connect()
    default = controller.get_feature(Feature.TEMPERATURE)
    controller.set_feature(Feature.TEMPERATURE, default ^ 8)
    controller.disable()
    controller.enable()
    assert controller.get_feature(Feature.TEMPERATURE) == default


def test_features_of_two_controllers_are_apart(connect):
    first, second = connect(), connect()
    before = second.get_feature(Feature.TEMPERATURE)
    first.set_feature(Feature.TEMPERATURE, before ^ 0x20)
    assert second.get_feature(Feature.TEMPERATURE) == before
