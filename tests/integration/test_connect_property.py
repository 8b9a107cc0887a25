# SPDX-License-Identifier: BSD-3-Clause
"""Properties, enabling, reset and shutdown (Base 3.1.4, 3.5, 3.6, 6.5, 6.6)."""

import pytest

import expect
import sqe
from host import CC_ENABLE, CC_SHUTDOWN, CSTS_FATAL, CSTS_READY, CSTS_SHST, CSTS_SHUT
from nvmetcp import Closed, Terminated
from spec import Property, Sc


@pytest.fixture
def idle(connect):
    """A controller that is not enabled."""
    return connect(enable=False)


def test_cap_says_what_a_fabrics_controller_can(idle):
    cap = idle.admin.property_get(Property.CAP, 8)
    assert cap & 0xFFFF >= 31  # MQES
    assert cap >> 16 & 1  # CQR shall be 1 on message-based transports
    assert cap >> 24 & 0xFF > 0  # TO
    assert cap >> 32 & 0xF == 0  # DSTRD
    assert cap >> 37 & 1  # CSS: NVM command set
    assert cap >> 48 & 0xF == 0  # MPSMIN: 4 KiB
    assert cap >> 52 & 0xF >= cap >> 48 & 0xF


def test_vs_is_that_of_a_known_specification(idle):
    version = idle.admin.property_get(Property.VS)
    assert version & 0xFF in range(16) and version >> 16 in (1, 2)
    assert version >= 0x010300


def test_version_of_identify_is_that_of_the_property(controller):
    assert controller.identity.ver == controller.admin.property_get(Property.VS)


def test_a_new_controller_is_disabled(idle):
    assert idle.admin.property_get(Property.CC) & 1 == 0
    assert idle.admin.property_get(Property.CSTS) & (CSTS_READY | CSTS_FATAL) == 0


def test_enabling_makes_it_ready_and_disabling_not(idle):
    for _ in range(5):
        idle.enable()
        assert idle.admin.property_get(Property.CC) & 1
        idle.disable()


def test_cc_reads_back_what_was_written(idle):
    idle.enable()
    assert idle.admin.property_get(Property.CC) == CC_ENABLE


@pytest.mark.parametrize("offset,size", [
    (Property.CAP, 4), (Property.VS, 8), (Property.CC, 8), (Property.CSTS, 8), (4, 4), (1, 4), (0x09, 4), (0x12, 4),
    (0x1000, 4), (0x1000, 8), (0x7FFFFFFC, 4), (0xFFFFFFFF, 4), (0xFFFFFFFC, 8), (0x24, 4), (0x28, 8), (0x30, 8)])
def test_a_property_that_is_not_one_is_an_invalid_field(idle, offset, size):
    """Base 6.5. AQA, ASQ and ACQ (24h to 30h) are not properties of message-based controllers (Base 3.1.4)."""
    expect.status(idle.admin.execute(sqe.property_get(offset, size)), Sc.INVALID_FIELD)


@pytest.mark.parametrize("attrib", [2, 3, 4, 7])
def test_a_reserved_property_size_is_an_invalid_field(idle, attrib):
    expect.status(idle.admin.execute(sqe.property_get(Property.VS, attrib=attrib)), Sc.INVALID_FIELD)
    expect.status(idle.admin.execute(sqe.property_set(Property.CC, 0, attrib=attrib)), Sc.INVALID_FIELD)


@pytest.mark.parametrize("offset,size", [(Property.CC, 8), (0x1000, 4), (0x18, 4), (0xFFFFFFFF, 4), (0x24, 4)])
def test_setting_a_property_that_is_not_one_is_an_invalid_field(idle, offset, size):
    expect.status(idle.admin.execute(sqe.property_set(offset, 0, size)), Sc.INVALID_FIELD)


@pytest.mark.parametrize("offset,size", [(Property.CAP, 8), (Property.VS, 4), (Property.CSTS, 4)])
def test_a_read_only_property_does_not_change(idle, offset, size):
    before = idle.admin.property_get(offset, size)
    expect.status(idle.admin.execute(sqe.property_set(offset, 0xFFFFFFFF, size)), Sc.INVALID_FIELD, Sc.SUCCESS)
    assert idle.admin.property_get(offset, size) == before


def test_a_subsystem_reset_register_is_absent_or_readable(idle):
    """NSSR is optional: CAP.NSSRS says."""
    supported = idle.admin.property_get(Property.CAP, 8) >> 36 & 1
    expected = (Sc.SUCCESS,) if supported else (Sc.SUCCESS, Sc.INVALID_FIELD)
    expect.status(idle.admin.execute(sqe.property_get(Property.NSSR)), *expected)


@pytest.mark.parametrize("entry,read", [
    (sqe.identify(1), 4096), (sqe.get_log(2, 512), 512), (sqe.get_features(7), 0), (sqe.aer(), 0), (sqe.abort(1), 0)],
    ids=["identify", "get log", "get features", "aer", "abort"])
def test_admin_commands_before_enabling_are_a_sequence_error(idle, entry, read):
    """Base 3.5.2 and 6: only Fabrics commands are processed whatever CC.EN is."""
    expect.status(idle.admin.execute(entry, read=read), Sc.SEQUENCE)
    idle.enable()


@pytest.mark.parametrize("value", [
    CC_ENABLE | 0x5 << 4, CC_ENABLE | 0xF << 7, CC_ENABLE | 0x7 << 11, (CC_ENABLE & ~(0xF << 16)) | 3 << 16,
    (CC_ENABLE & ~(0xF << 20)) | 9 << 20], ids=["CSS", "MPS", "AMS", "IOSQES", "IOCQES"])
def test_enabling_with_an_unsupported_configuration_does_no_harm(idle, value):
    """The outcome is undefined (Base 3.1.4.5), but it must be one of: refused, not ready, fatal status, or ignored."""
    completion = idle.admin.execute(sqe.property_set(Property.CC, value))
    expect.status(completion, Sc.SUCCESS, Sc.INVALID_FIELD)
    idle.admin.property_get(Property.CSTS)
    idle.disable()
    idle.enable()


def test_shutdown_completes(controller):
    controller.shutdown()
    csts = controller.admin.property_get(Property.CSTS)
    assert csts & CSTS_SHST == CSTS_SHUT and csts & CSTS_FATAL == 0


@pytest.mark.parametrize("kind", [1, 2], ids=["normal", "abrupt"])
def test_shutdown_flushes_nothing_away(connect, kind):
    data = b"shutdown" * 64
    first = connect(io_queues=1)
    first.write(3, 77, data)
    first.admin.property_set(Property.CC, CC_ENABLE | kind << 14)
    first.admin.wait_property(Property.CSTS, CSTS_SHST, CSTS_SHUT)
    first.close()
    assert connect(io_queues=1).read(3, 77, 1) == data


def test_a_controller_can_be_reset_after_shutdown(controller):
    """Base 3.6.2: the host resets the controller to use it again; then SHST is cleared."""
    controller.shutdown()
    controller.disable()
    controller.enable()
    assert controller.admin.property_get(Property.CSTS) & CSTS_SHST == 0
    controller.identify(1)


def test_a_reset_deletes_the_io_queues(controller):
    """Base 3.7.2: a Controller Level Reset deletes all I/O queues; the admin queue stays."""
    controller.disable()
    command = controller.io.submit(sqe.read(1, 0, 1), read=512)
    try:
        assert controller.io.wait(command).status != Sc.SUCCESS
    except (Closed, Terminated):
        pass
    controller.io.close()
    controller.enable()
    queue = controller.add_queue(1)
    queue.must(sqe.read(1, 0, 1), read=512)


def test_a_reset_answers_or_drops_what_is_in_flight(controller):
    controller.io.answer_r2ts = False
    write = controller.io.submit(sqe.write(1, 0, 128), out=bytes(65536))
    controller.io.wait_r2t(write)
    controller.disable()
    try:
        assert controller.io.wait(write).status != Sc.SUCCESS
    except (Closed, Terminated):
        pass
    controller.enable()


def test_closing_the_admin_queue_ends_the_io_queues(controller):
    """Base 3.3.2.4: the association ends with its admin queue's connection."""
    controller.admin.close()
    controller.io.wait_closed()


def test_shutdown_with_commands_in_flight_completes(controller):
    commands = [controller.io.submit(sqe.read(1, 0, 64), read=32768) for _ in range(16)]
    controller.admin.property_set(Property.CC, CC_ENABLE | CC_SHUTDOWN)
    controller.admin.wait_property(Property.CSTS, CSTS_SHST, CSTS_SHUT)
    try:
        controller.io.wait_all(commands)
    except (Closed, Terminated):
        pass
