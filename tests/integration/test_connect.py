# SPDX-License-Identifier: BSD-3-Clause
"""Connect and Disconnect (Base 6.3, 6.4): right, and with every field wrong."""

import os

import pytest

import expect
import sqe
from host import CC_ENABLE, Controller, new_hostnqn
from nvmetcp import Queue
from spec import DISCOVERY_NQN, Fabrics, Property, Sc

IN_DATA = 1 << 16  # IATTR: the offset counts from the start of the data (Base 6.3, figure 549)
HOSTID, CNTLID, SUBNQN, HOSTNQN = 0 | IN_DATA, 16 | IN_DATA, 256 | IN_DATA, 512 | IN_DATA
QID, SQSIZE = 42, 44


@pytest.fixture
def queue(target):
    with Queue(target.address) as fresh:
        yield fresh


def attempt(queue, target, **fields):
    options = {"subnqn": target.nqn, "hostnqn": new_hostnqn(), "hostid": os.urandom(16)} | fields
    return queue.connect(**options)


def refused(completion, parameter):
    expect.status(completion, Sc.CONNECT_INVALID)
    assert completion.dw0 == parameter, f"IPO and IATTR say {completion.dw0:#x}, not {parameter:#x}"


# -- admin queue -----------------------------------------------------------------------------------------------------


def test_connect_answers_with_a_controller_id(queue, target):
    completion = expect.status(attempt(queue, target), Sc.SUCCESS)
    assert 0 < completion.dw0 & 0xFFFF < 0xFFF0  # FFF0h and up are reserved (Base 6.3)
    assert completion.dw0 >> 16 == 0  # AUTHREQ
    assert completion.sqhd != 0xFFFF


def test_connect_data_may_also_come_by_r2t(queue, target):
    completion = queue.execute(sqe.connect(), out=sqe.connect_data(target.nqn, new_hostnqn(), os.urandom(16)),
                               in_capsule=False)
    expect.status(completion, Sc.SUCCESS)


def test_a_connect_that_another_one_has_overtaken_is_refused(queue, target):
    """Its data comes by R2T, when the queue is connected already: it would be two controllers'."""
    data = sqe.connect_data(target.nqn, new_hostnqn(), os.urandom(16))
    queue.answer_r2ts = False
    slow = queue.submit(sqe.connect(), out=data, in_capsule=False)
    asked = queue.wait_r2t(slow)
    expect.status(attempt(queue, target), Sc.SUCCESS)
    queue.send(*queue.data_pdus(slow, asked))
    expect.status(queue.wait(slow), Sc.SEQUENCE)
    expect.status(queue.execute(sqe.property_get(Property.VS)), Sc.SUCCESS)


@pytest.mark.parametrize("psdt", [0, 1, 2])
def test_fabrics_commands_may_say_psdt_as_the_specification_or_as_linux_does(queue, target, psdt):
    """Base figure 95: 00b without data, 10b with data, or 00b and SGLs all the same; Linux says 01b in all commands."""
    for entry, out in ((sqe.connect(), sqe.connect_data(target.nqn, new_hostnqn(), os.urandom(16))),
                       (sqe.property_get(Property.VS), b"")):
        entry[1] = psdt << 6
        expect.status(queue.execute(entry, out=out), Sc.SUCCESS)


def test_flow_control_is_disabled_when_asked(queue, target):
    completion = expect.status(attempt(queue, target, flow_control=False), Sc.SUCCESS)
    assert completion.sqhd == 0xFFFF  # Base 6.3: FFFFh agrees to it


def test_an_unknown_subsystem_is_refused(queue, target):
    refused(attempt(queue, target, subnqn="nqn.2014-08.org.nvmexpress:uuid:00000000-0000-0000-0000-000000000000"),
            SUBNQN)


@pytest.mark.parametrize("change", [lambda n: n.upper(), lambda n: n + "x", lambda n: n[:-1], lambda n: n + " "])
def test_a_subsystem_name_must_match_exactly(queue, target, change):
    name = change(target.nqn)
    assert name != target.nqn
    refused(attempt(queue, target, subnqn=name), SUBNQN)


@pytest.mark.parametrize("subnqn", [b"", b"n" * 256, b"nqn." + b"x" * 219 + b"\0"])
def test_a_malformed_subsystem_name_is_refused(queue, target, subnqn):
    refused(attempt(queue, target, subnqn=subnqn), SUBNQN)


@pytest.mark.parametrize("hostnqn", [
    b"h" * 256, b"nqn.2014-08.org.nvmexpress:" + b"x" * 197, b"iqn.1993-08.org.debian:01:abc", b"\xff\xfe\xfd"],
    ids=["unterminated", "longer than 223", "iSCSI name", "not UTF-8"])
def test_a_malformed_host_name_is_refused(queue, target, hostnqn):
    """Base 6.3: a syntax error in the Host NQN (Base 4.7: up to 223 bytes, starts with nqn., NUL-terminated)."""
    refused(attempt(queue, target, hostnqn=hostnqn), HOSTNQN)


def test_a_host_without_a_name_may_use_what_any_host_may_use(queue, target):
    """SPDK's programs send none unless they are given one."""
    expect.status(attempt(queue, target, hostnqn=b""), Sc.SUCCESS)


def test_the_longest_host_name_is_accepted(queue, target):
    name = "nqn.2014-08.org.nvmexpress:"
    expect.status(attempt(queue, target, hostnqn=name + "x" * (223 - len(name))), Sc.SUCCESS)


@pytest.mark.parametrize("cntlid", [0, 1, 0xFFEF, 0xFFF0, 0xFFFD, 0xFFFE])
def test_a_chosen_controller_is_refused_in_the_dynamic_model(queue, target, cntlid):
    refused(attempt(queue, target, cntlid=cntlid), CNTLID)


@pytest.mark.parametrize("sqsize", [0, 1024, 0xFFFF])
def test_a_queue_of_wrong_size_is_refused(queue, target, sqsize):
    """Base 6.3: 0h, or larger than supported. 1024 is 1025 entries; no --queue-depth permits that."""
    refused(attempt(queue, target, sqsize=sqsize), SQSIZE)


def test_an_admin_queue_of_32_entries_is_accepted(queue, target):
    """Base 5.1.12.3.1: ASQSZ is at least 32, and nothing smaller is refused."""
    expect.status(attempt(queue, target, sqsize=31), Sc.SUCCESS)


@pytest.mark.parametrize("recfmt", [1, 0xFFFF])
def test_an_unknown_record_format_is_refused(queue, target, recfmt):
    expect.status(attempt(queue, target, recfmt=recfmt), Sc.FABRICS_FORMAT)


def test_a_host_may_connect_without_keep_alive_or_is_told_so(queue, target):
    """TCP 3.4 requires the feature; whether a host may leave it off in Connect is open, and hosts exist that do."""
    expect.status(attempt(queue, target, kato=0), Sc.SUCCESS, Sc.KEEP_ALIVE_INVALID)


def test_connect_never_fails_with_invalid_field(target):
    """Base 6.3: "the controller shall not return a status code of Invalid Field in Command"."""
    for length in (0, 4, 512, 1020):
        with Queue(target.address) as queue:
            data = sqe.connect_data(target.nqn, new_hostnqn())[:length]
            completion = queue.execute(sqe.with_sgl(sqe.connect(), sqe.in_capsule_sgl(length)), out=data,
                                       in_capsule=True, raw_sgl=True)
            expect.status(completion, Sc.SGL_LENGTH, Sc.CONNECT_INVALID)


def test_a_failed_connect_can_be_tried_again_on_the_same_connection(queue, target):
    expect.status(attempt(queue, target, subnqn="nqn.2014-08.org.nvmexpress:nobody"), Sc.CONNECT_INVALID)
    expect.status(attempt(queue, target), Sc.SUCCESS)


def test_a_second_connect_on_a_connected_queue_is_a_sequence_error(queue, target):
    expect.status(attempt(queue, target), Sc.SUCCESS)
    expect.status(attempt(queue, target), Sc.SEQUENCE)


def test_a_failed_connect_adds_no_error_log_entry(connect):
    """Base 6.3."""
    controller = connect()
    before = controller.get_log(1, 64)
    queue = controller.new_queue()
    expect.status(controller.connect_queue(queue, 1, sqsize=0), Sc.CONNECT_INVALID)
    assert controller.get_log(1, 64) == before


@pytest.mark.parametrize("entry", [
    sqe.property_get(Property.CSTS), sqe.identify(1), sqe.keep_alive(), sqe.read(1, 0, 1), sqe.flush(1)],
    ids=["property get", "identify", "keep alive", "read", "flush"])
def test_a_command_before_connect_is_a_sequence_error(queue, entry):
    read = {6: 4096, 2: 512}.get(entry[0], 0)
    expect.status(queue.execute(entry, read=read), Sc.SEQUENCE)


def test_authentication_is_not_offered(queue, target):
    attempt(queue, target)
    for fctype in (Fabrics.AUTH_SEND, Fabrics.AUTH_RECEIVE):
        expect.status(queue.execute(sqe.fabrics(fctype)), Sc.INVALID_OPCODE, Sc.INVALID_FIELD)


@pytest.mark.parametrize("fctype", [0x02, 0x03, 0x07, 0x0C, 0xC0, 0xFF])
def test_an_unknown_fabrics_command_is_an_invalid_field(queue, target, fctype):
    """Base 4.1: a reserved FCTYPE is Invalid Field in Command."""
    attempt(queue, target)
    expect.status(queue.execute(sqe.fabrics(fctype)), Sc.INVALID_FIELD)


# -- I/O queues ------------------------------------------------------------------------------------------------------


def test_an_io_queue_connects_and_serves(controller):
    assert controller.read(1, 0, 8) == bytes(4096)


def test_an_io_queue_before_the_controller_is_enabled_is_refused(connect):
    controller = connect(enable=False)
    queue = controller.new_queue()
    expect.status(controller.connect_queue(queue, 1), Sc.CONNECT_INVALID)
    controller.enable()
    expect.status(controller.connect_queue(queue, 1), Sc.SUCCESS)


@pytest.mark.parametrize("qid", [1000, 65534, 65535])
def test_a_queue_id_out_of_range_is_refused(connect, qid):
    controller = connect()
    refused(controller.connect_queue(controller.new_queue(), qid), QID)


def test_a_queue_id_beyond_those_granted_is_refused_or_served(connect):
    """A host shall not ask for it (Base 5.1.25.1.5); what the controller then does is not said, and Linux serves it."""
    controller = connect()
    granted = controller.request_queues(2)
    expect.status(controller.connect_queue(controller.new_queue(), granted + 1), Sc.CONNECT_INVALID, Sc.SUCCESS)
    expect.status(controller.connect_queue(controller.new_queue(), granted), Sc.SUCCESS)


def test_a_queue_id_in_use_is_refused(controller):
    """Base 6.3 says Command Sequence Error in its text and Invalid Queue Identifier in the QID field."""
    completion = controller.connect_queue(controller.new_queue(), 1)
    expect.status(completion, Sc.SEQUENCE, Sc.INVALID_QID)
    controller.read(1, 0, 1)


def test_a_queue_id_is_free_again_after_disconnect(controller):
    controller.io.must(sqe.disconnect())
    controller.io.close()
    expect.status(controller.connect_queue(controller.new_queue(), 1), Sc.SUCCESS)


@pytest.mark.parametrize("field,value,parameter", [
    ("hostnqn", "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-3333-4444-555555555555", HOSTNQN),
    ("hostid", b"another host id!", HOSTID), ("subnqn", DISCOVERY_NQN, SUBNQN), ("cntlid", 0xFFFF, CNTLID),
    ("cntlid", 0xFFEE, CNTLID)])
def test_an_io_queue_must_name_the_association_it_belongs_to(connect, field, value, parameter):
    controller = connect()
    completion = expect.status(controller.connect_queue(controller.new_queue(), 1, **{field: value}),
                               Sc.CONNECT_INVALID)
    # Which of the parameters is blamed is open when they only do not match each other.
    assert completion.dw0 in (parameter, HOSTNQN, SUBNQN, CNTLID, HOSTID)


def test_an_io_queue_cannot_join_another_hosts_controller(connect):
    mine, other = connect(), connect()
    completion = mine.connect_queue(mine.new_queue(), 1, cntlid=other.cntlid)
    expect.status(completion, Sc.CONNECT_INVALID)


@pytest.mark.parametrize("sqsize", [0, 1024, 0xFFFF])
def test_an_io_queue_of_wrong_size_is_refused(connect, sqsize):
    controller = connect()
    refused(controller.connect_queue(controller.new_queue(), 1, sqsize=sqsize), SQSIZE)


def test_io_queues_are_as_deep_as_cap_says_and_not_deeper(connect):
    controller = connect()
    mqes = controller.admin.property_get(Property.CAP, 8) & 0xFFFF
    assert mqes == 127  # --queue-depth is 128
    expect.status(controller.connect_queue(controller.new_queue(), 1, sqsize=mqes), Sc.SUCCESS)
    refused(controller.connect_queue(controller.new_queue(), 2, sqsize=mqes + 1), SQSIZE)


def test_the_smallest_io_queue_works(connect):
    controller = connect()
    queue = controller.add_queue(1, sqsize=1)
    for slba in range(5):
        queue.must(sqe.read(1, slba, 1), read=512)


def test_many_io_queues_work_side_by_side(connect):
    controller = connect(io_queues=32)
    commands = [queue.submit(sqe.read(1, index, 8), read=4096) for index, queue in enumerate(controller.queues)]
    for queue, command in zip(controller.queues, commands):
        assert queue.wait(command).status == Sc.SUCCESS


def test_up_to_128_queue_pairs_can_be_had(connect):
    controller = connect()
    assert controller.request_queues(127) >= 127
    for qid in range(1, 128):
        controller.add_queue(qid, sqsize=7)
    controller.queues[-1].must(sqe.read(1, 0, 1), read=512)


def test_admin_commands_are_refused_on_an_io_queue(controller):
    for entry, read in ((sqe.identify(1), 4096), (sqe.property_get(Property.CSTS), 0)):
        expect.status(controller.io.execute(entry, read=read), Sc.INVALID_OPCODE, Sc.INVALID_FIELD,
                      Sc.INVALID_NAMESPACE)


def test_property_commands_on_an_io_queue_are_an_invalid_field(controller):
    """Base 6, note 3 of figure 541."""
    expect.status(controller.io.execute(sqe.property_get(Property.VS)), Sc.INVALID_FIELD)
    expect.status(controller.io.execute(sqe.property_set(Property.CC, CC_ENABLE)), Sc.INVALID_FIELD)


# -- Disconnect ------------------------------------------------------------------------------------------------------


def test_disconnect_on_the_admin_queue_is_the_wrong_queue_type(controller):
    expect.status(controller.admin.execute(sqe.disconnect()), Sc.INVALID_QUEUE_TYPE)
    controller.read(1, 0, 1)


def test_disconnect_with_unknown_record_format_is_refused(controller):
    expect.status(controller.io.execute(sqe.disconnect(recfmt=1)), Sc.FABRICS_FORMAT)
    controller.read(1, 0, 1)


def test_disconnect_deletes_its_queue_and_no_other(connect):
    controller = connect(io_queues=2)
    first, second = controller.queues
    first.must(sqe.disconnect())
    first.close()
    second.must(sqe.read(1, 0, 1), read=512)
    controller.admin.must(sqe.keep_alive())


def test_nothing_completes_after_disconnect(controller):
    """Base 6.4: its completion is the last one."""
    controller.io.answer_r2ts = False
    controller.io.submit(sqe.write(1, 0, 64), out=bytes(32768))
    disconnect = controller.io.submit(sqe.disconnect())
    completion = controller.io.wait(disconnect)
    expect.status(completion, Sc.SUCCESS, Sc.FABRICS_BUSY)
    if completion.status == Sc.SUCCESS:
        last = list(controller.io.order)[-1]
        assert last is completion
        assert not controller.io.pending(0.3) or controller.io.wait_closed() is None


# -- several hosts ---------------------------------------------------------------------------------------------------


def test_several_hosts_see_the_same_data(connect):
    first, second = connect(io_queues=1), connect(io_queues=1)
    assert first.cntlid != second.cntlid
    data = os.urandom(4096)
    first.write(1, 1000, data)
    assert second.read(1, 1000, 8) == data


def test_a_host_may_have_several_controllers(connect):
    hostnqn, hostid = new_hostnqn(), os.urandom(16)
    controllers = [connect(hostnqn=hostnqn, hostid=hostid, io_queues=1) for _ in range(3)]
    assert len({controller.cntlid for controller in controllers}) == 3
    for controller in controllers:
        controller.read(1, 0, 1)


def test_controllers_come_and_go_without_end(target):
    ids = set()
    for _ in range(300):
        with Controller(target.address, target.nqn, enable=False) as controller:
            ids.add(controller.cntlid)
    assert all(0 < cntlid < 0xFFF0 for cntlid in ids)
