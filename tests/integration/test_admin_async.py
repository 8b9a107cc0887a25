# SPDX-License-Identifier: BSD-3-Clause
"""What outlives its moment: asynchronous events, Abort, Keep Alive (Base 5.1.1, 5.1.2, 5.1.14, 3.9)."""

import time

import pytest

import expect
import sqe
from disks import RAM
from nvmetcp import Closed, Terminated
from spec import Property, Sc

ABORTED = 0  # dword 0, bit 0 of Abort's completion: 0 if the command was aborted


# -- asynchronous event requests -------------------------------------------------------------------------------------


def test_as_many_event_requests_wait_as_announced_and_one_more_fails(controller):
    limit = controller.identity.aerl + 1
    waiting = [controller.admin.submit(sqe.aer()) for _ in range(limit)]
    expect.status(controller.admin.execute(sqe.aer()), Sc.AER_LIMIT)
    assert all(command.completion is None for command in waiting)
    controller.admin.must(sqe.keep_alive())


def test_waiting_event_requests_disturb_nothing(controller):
    controller.admin.submit(sqe.aer())
    for _ in range(50):
        controller.admin.must(sqe.keep_alive())
        controller.read(RAM, 0, 8)


def test_a_reset_forgets_event_requests(controller):
    """Base 5.1.2: outstanding requests are aborted or forgotten by a Controller Level Reset."""
    limit = controller.identity.aerl + 1
    for _ in range(limit):
        controller.admin.submit(sqe.aer())
    controller.disable()
    controller.enable()
    controller.admin.commands.clear()
    for _ in range(limit):
        controller.admin.submit(sqe.aer())
    controller.admin.must(sqe.keep_alive())


def test_closing_with_event_requests_waiting_is_clean(connect):
    for _ in range(5):
        controller = connect()
        controller.admin.submit(sqe.aer())
        controller.close()


# -- abort -----------------------------------------------------------------------------------------------------------


def test_an_event_request_can_be_aborted(controller):
    waiting = controller.admin.submit(sqe.aer())
    completion = controller.admin.must(sqe.abort(waiting.cid, 0))
    assert completion.dw0 & 1 == ABORTED
    expect.status(controller.admin.wait(waiting), Sc.ABORT_REQUESTED)


def test_an_aborted_event_request_makes_room_for_another(controller):
    waiting = [controller.admin.submit(sqe.aer()) for _ in range(controller.identity.aerl + 1)]
    assert controller.admin.must(sqe.abort(waiting[0].cid, 0)).dw0 & 1 == ABORTED
    controller.admin.wait(waiting[0])
    controller.admin.submit(sqe.aer())
    controller.admin.must(sqe.keep_alive())
    assert not any(command.completion for command in waiting[1:])


def test_the_aborted_command_completes_before_abort_says_so(controller):
    """Base 5.1.1: the command is aborted when the Abort command completes with bit 0 cleared."""
    waiting = controller.admin.submit(sqe.aer())
    abort = controller.admin.submit(sqe.abort(waiting.cid, 0))
    controller.admin.wait_all([waiting, abort])
    assert {completion.cid for completion in list(controller.admin.order)[-2:]} == {waiting.cid, abort.cid}


@pytest.mark.parametrize("cid,sqid", [(0x7777, 0), (0x7777, 1), (0xFFFF, 0)])
def test_aborting_a_command_that_is_not_there_succeeds_without_effect(controller, cid, sqid):
    assert controller.admin.must(sqe.abort(cid, sqid)).dw0 & 1 == 1


@pytest.mark.parametrize("sqid", [2, 77, 0xFFFF])
def test_aborting_in_a_queue_that_is_not_there_does_no_harm(controller, sqid):
    completion = controller.admin.execute(sqe.abort(1, sqid))
    expect.status(completion, Sc.SUCCESS, Sc.INVALID_FIELD)
    assert completion.status or completion.dw0 & 1


def test_abort_cannot_abort_itself(controller):
    completion = controller.admin.execute(sqe.abort(0x1234, 0), cid=0x1234)
    expect.status(completion, Sc.SUCCESS, Sc.INVALID_FIELD)
    assert completion.status or completion.dw0 & 1


def test_a_write_that_waits_for_data_can_be_aborted(controller):
    controller.io.answer_r2ts = False
    before = controller.read(RAM, 0, 64)
    write = controller.io.submit(sqe.write(RAM, 0, 64), out=b"\xaa" * 32768)
    controller.io.wait_r2t(write)
    completion = controller.admin.must(sqe.abort(write.cid, 1))
    assert completion.dw0 & 1 == ABORTED
    expect.status(controller.io.wait(write), Sc.ABORT_REQUESTED)
    controller.io.answer_r2ts = True
    assert controller.read(RAM, 0, 64) == before
    controller.write(RAM, 0, bytes(32768))


def test_a_write_in_mid_transfer_can_be_aborted(controller):
    """The host stops sending when it learns of it: between two H2CData PDUs of one R2T."""
    controller.io.answer_r2ts = False
    write = controller.io.submit(sqe.write(RAM, 0, 64), out=b"\xbb" * 32768)
    pieces = controller.io.data_pdus(write, controller.io.wait_r2t(write), piece=8192)
    controller.io.send(*pieces[:2])
    completion = controller.admin.must(sqe.abort(write.cid, 1))
    if completion.dw0 & 1 == ABORTED:
        expect.status(controller.io.wait(write), Sc.ABORT_REQUESTED)
    else:
        controller.io.send(*pieces[2:])
        expect.status(controller.io.wait(write), Sc.SUCCESS)
    controller.read(RAM, 0, 1)


def test_a_completed_command_cannot_be_aborted(controller):
    controller.read(RAM, 0, 1)
    for cid in range(4):
        assert controller.admin.must(sqe.abort(cid, 1)).dw0 & 1 == 1


def test_aborts_beside_fast_commands_lose_nothing(controller):
    """Whether a read is caught is chance; that each command completes exactly once is not."""
    for _ in range(30):
        reads = [controller.io.submit(sqe.read(RAM, 0, 256), read=131072, exact=False) for _ in range(8)]
        for command in reads[::2]:
            controller.admin.must(sqe.abort(command.cid, 1))
        for completion in controller.io.wait_all(reads):
            expect.status(completion, Sc.SUCCESS, Sc.ABORT_REQUESTED)


def test_more_aborts_than_the_limit_are_refused_or_served(controller):
    aborts = [controller.admin.submit(sqe.abort(0x4000 + index, 1)) for index in range(20)]
    for completion in controller.admin.wait_all(aborts):
        expect.status(completion, Sc.SUCCESS, Sc.ABORT_LIMIT)


# -- keep alive ------------------------------------------------------------------------------------------------------


def gone(queue):
    """True if the target has ended the connection."""
    try:
        return queue.pending(0.01) and queue.wait_closed(1) is None
    except (AssertionError, Closed, Terminated):
        return True


def test_a_host_that_stays_silent_is_dropped_with_all_its_queues(connect):
    controller = connect(kato=4000, io_queues=2)
    for queue in (controller.admin, *controller.queues):
        queue.wait_closed()


def test_a_silent_host_disturbs_no_other(connect):
    silent, other = connect(io_queues=1), connect(io_queues=1)
    silent.set_feature(0x0F, 1000)
    silent.io.wait_closed()
    other.read(RAM, 0, 1)
    other.admin.must(sqe.keep_alive())


def test_keep_alive_and_traffic_keep_the_association(connect):
    """CTRATT.TBKAS (Base 3.9.4): any command counts, on any queue; without it only Keep Alive does. A command every
    200 ms with a timeout of 5 s: only a test that stands still for long could fail."""
    keeping, busy = connect(kato=5000, io_queues=1), connect(kato=5000, io_queues=1)
    end = time.monotonic() + 12
    while time.monotonic() < end:
        keeping.admin.must(sqe.keep_alive())
        if busy.identity.traffic_keep_alive:
            busy.read(RAM, 0, 1)
        time.sleep(0.2)
    keeping.read(RAM, 0, 1)
    if busy.identity.traffic_keep_alive:
        busy.admin.must(sqe.keep_alive())


def test_an_expired_association_frees_its_resources(connect, target):
    connect().close()
    before = target.descriptors()
    controllers = [connect(io_queues=4) for _ in range(5)]
    for controller in controllers:
        controller.set_feature(0x0F, 1000)
    for controller in controllers:
        controller.admin.wait_closed()
        for queue in controller.queues:
            queue.wait_closed()
        controller.close()
    end = time.monotonic() + 20
    while target.descriptors() > before and time.monotonic() < end:
        time.sleep(0.05)
    assert target.descriptors() <= before


def test_the_timer_does_not_run_while_the_controller_is_disabled(connect):
    """Base 3.9.2: the keep alive timer is active only while CC.EN and CSTS.RDY are set."""
    controller = connect(kato=1000, enable=False)
    time.sleep(2.5)
    assert not gone(controller.admin)
    controller.enable()
    controller.admin.property_get(Property.CSTS)


def test_a_keep_alive_timeout_can_be_shortened(connect):
    controller = connect(kato=600_000, io_queues=1)
    controller.set_feature(0x0F, 1000)
    controller.io.wait_closed()
