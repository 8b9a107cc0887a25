# SPDX-License-Identifier: BSD-3-Clause
"""Reservations (Base 8.1.22): hosts that share namespaces, on a target with two reactors; each host has queues on
both."""

import contextlib
import os
import struct
import threading

import pytest

import expect
import sqe
from control import Control, Refused
from disks import MIB
from host import Controller
from spec import FUSE_FIRST, FUSE_SECOND, Feature, Io, Log, Sc
from target import wait_until

NQN = "nqn.2026-01.example:reserved"
NS, OTHER = 1, 2
KEY = {"a": 0xA1, "b": 0xB1, "c": 0xC1}
WE, EA, WERO, EARO, WEAR, EAAR = range(1, 7)
REGISTER, UNREGISTER, REPLACE = range(3)
ACQUIRE, PREEMPT, PREEMPT_AND_ABORT = range(3)
RELEASE, CLEAR = range(2)
PERSIST, FORGET = 3, 2  # CPTPL
REGISTRATION_PREEMPTED, RELEASED, PREEMPTED = 1, 2, 3
RESERVATION_EVENT = 0x06 | Log.RESERVATION << 16  # type 6h, information 0: Reservation Log Page Available
ONE = bytes(512)


class Host(Controller):
    """A host by its name, which its key and its identifier follow from."""

    def __init__(self, control, name):
        self.key = KEY[name]
        super().__init__(control.address, NQN, hostid=bytes([ord(name)]) * 16, io_queues=2)

    def register(self, nsid=NS, action=REGISTER, current=0, new=None, queue=0, **more):
        return self.queues[queue].execute(sqe.resv_register(nsid, action, **more),
                                          out=sqe.keys(current, self.key if new is None else new))

    def acquire(self, kind, nsid=NS, action=ACQUIRE, preempted=0, queue=0):
        return self.queues[queue].execute(sqe.resv_acquire(nsid, action, kind), out=sqe.keys(self.key, preempted))

    def release(self, kind=0, nsid=NS, action=RELEASE):
        return self.io.execute(sqe.resv_release(nsid, action, kind), out=sqe.keys(self.key))

    def report(self, nsid=NS):
        """Generation, type, whether it persists, and {first letter of the host: (key, whether it holds it)}."""
        data = self.io.must(sqe.resv_report(nsid, 64 + 8 * 64), read=64 + 8 * 64).data
        generation, kind, count, persists = struct.unpack_from("<IBH2xB", data)
        hosts = {}
        for i in range(count):
            cntlid, holds, key, hostid = struct.unpack_from("<HB5xQ16s", data, 64 + 64 * i)
            assert cntlid == 0xFFFF and hostid == hostid[:1] * 16
            hosts[hostid[:1].decode()] = (key, bool(holds))
        return generation, kind, persists, hosts

    def notification(self):
        """The next page of the log: count, type, how many more there are, namespace."""
        return struct.unpack_from("<QBB2xI", self.get_log(Log.RESERVATION, 64))

    def notifications(self):
        pages = []
        while (page := self.notification())[1]:
            pages.append(page)
        return pages

    def may(self, read, write, nsid=NS, queue=None):
        """What it may do there is this, on both of its queues."""
        for each in self.queues:
            wanted = Sc.SUCCESS if read else Sc.RESERVATION_CONFLICT
            expect.status(each.execute(sqe.read(nsid, 0, 1), read=512, exact=False), wanted)
            wanted = Sc.SUCCESS if write else Sc.RESERVATION_CONFLICT
            expect.status(each.execute(sqe.write(nsid, 0, 1), out=ONE), wanted)


def ok(completion):
    return expect.status(completion, Sc.SUCCESS)


def conflict(completion):
    expect.status(completion, Sc.RESERVATION_CONFLICT)
    assert completion.dnr


@pytest.fixture
def control():
    """Two namespaces."""
    with Control(reactors=2) as program:
        program("subsystem", NQN, "any-host")
        for nsid in (NS, OTHER):
            program("open", f"disk{nsid}", "ram:8M")
            program("add-ns", NQN, f"disk{nsid}", nsid)
        program.address = ("127.0.0.1", program("listen", "127.0.0.1:0"))
        program("start")
        yield program


@pytest.fixture
def hosts(control):
    made = [Host(control, name) for name in "abc"]
    yield made
    for host in made:
        host.close()


@pytest.fixture
def registrants(hosts):
    """a and b, which have registered, and c, which has not."""
    a, b, c = hosts
    ok(a.register())
    ok(b.register())
    return a, b, c


# -- what is said of it ----------------------------------------------------------------------------------------------


def test_reservations_are_offered(hosts):
    a = hosts[0]
    assert a.identity.oncs & 1 << 5
    assert a.namespace(NS).rescap == 0xFE  # six types, IEKEY as since 1.3; not through power loss
    assert a.identify(0x08, nsid=NS)[2] == 0xFE
    effects = struct.unpack("<1024I", a.get_log(Log.EFFECTS, 4096))
    for opcode in (Io.RESERVATION_REGISTER, Io.RESERVATION_REPORT, Io.RESERVATION_ACQUIRE, Io.RESERVATION_RELEASE):
        assert effects[256 + opcode] == 1
    assert struct.unpack("<256I", a.get_log(Log.SUPPORTED, 1024))[Log.RESERVATION] & 1
    features = struct.unpack("<256I", a.get_log(Log.FEATURES, 1024))
    assert features[0x82] == features[0x83] == 1 | 1 << 20


def test_a_report_tells_who_has_registered(registrants):
    a, b, c = registrants
    ok(b.acquire(EARO))
    for host in (a, b, c):
        assert host.report() == (2, EARO, 0, {"a": (0xA1, False), "b": (0xB1, True)})
        assert host.report(OTHER) == (0, 0, 0, {})
    ok(a.register(action=REPLACE, current=a.key, new=7))
    assert a.report()[3]["a"] == (7, False)


def test_a_report_of_short_host_identifiers_is_refused(hosts):
    """Base 7.8: EDS cleared, while host identifiers are of 128 bits. Linux asks again with EDS then."""
    expect.status(hosts[0].io.execute(sqe.resv_report(NS, 64, eds=False), read=64), Sc.HOST_ID_FORMAT)


@pytest.mark.parametrize("entry, out", [
    (sqe.resv_register(NS, 3), sqe.keys(0, 1)),
    (sqe.resv_register(NS, cptpl=1), sqe.keys(0, 1)),
    (sqe.resv_register(NS, cptpl=PERSIST), sqe.keys(0, 1)),  # there is no file
    (sqe.resv_register(NS), sqe.keys(0, 0)),
    (sqe.resv_acquire(NS, kind=0), sqe.keys(1, 0)),
    (sqe.resv_acquire(NS, kind=7), sqe.keys(1, 0)),
    (sqe.resv_acquire(NS, iekey=True), sqe.keys(1, 0)),
    (sqe.resv_release(NS, 2), sqe.keys(1)),
    (sqe.resv_release(NS, iekey=True), sqe.keys(1)),
])
def test_fields_without_meaning_are_refused(hosts, entry, out):
    expect.status(hosts[0].io.execute(entry, out=out), Sc.INVALID_FIELD)
    assert hosts[0].report() == (0, 0, 0, {})


def test_data_of_another_length_is_refused_but_for_more_than_is_needed(registrants):
    a = registrants[0]
    expect.status(a.io.execute(sqe.resv_register(NS), out=sqe.keys(0)), Sc.SGL_LENGTH)
    ok(a.io.execute(sqe.resv_release(NS), out=sqe.keys(a.key, 0)))  # as Linux does
    ok(a.io.execute(sqe.resv_register(NS), out=sqe.keys(0, a.key), in_capsule=False))
    expect.status(a.io.execute(sqe.resv_register(0xFFFFFFFF), out=sqe.keys(0, 1)), Sc.INVALID_NAMESPACE)
    expect.status(a.io.execute(sqe.resv_register(3), out=sqe.keys(0, 1)), Sc.INVALID_NAMESPACE)


def test_a_host_without_an_identifier_takes_no_part(control, registrants):
    """Several hosts may have an identifier of 0."""
    a = registrants[0]
    ok(a.acquire(WE))
    with Controller(control.address, NQN, hostid=bytes(16), io_queues=1) as nameless:
        for entry in (sqe.resv_register(NS), sqe.resv_acquire(NS), sqe.resv_release(NS)):
            expect.status(nameless.io.execute(entry, out=sqe.keys(0, 1)), Sc.HOST_ID_NOT_INITIALIZED)
        nameless.read(NS, 0, 1)
        conflict(nameless.io.execute(sqe.write(NS, 0, 1), out=ONE))


# -- who may do what -------------------------------------------------------------------------------------------------

COMMANDS = {
    "read": (sqe.read(NS, 0, 1), {"read": 512, "exact": False}, "r"),
    "compare": (sqe.compare(NS, 0, 1), {"out": ONE}, "r"),
    "verify": (sqe.verify(NS, 0, 1), {}, "r"),
    "write": (sqe.write(NS, 0, 1), {"out": ONE}, "w"),
    "write by R2T": (sqe.write(NS, 0, 64), {"out": bytes(64 * 512)}, "w"),
    "write zeroes": (sqe.write_zeroes(NS, 0, 1), {}, "w"),
    "dsm": (sqe.dsm(NS, 1), {"out": sqe.dsm_range(0, 1)}, "w"),
    "copy": (sqe.copy(NS, 8, 1), {"out": sqe.copy_range(0, 1)}, "w"),
    "flush": (sqe.flush(NS), {}, "w"),
    "flush of all": (sqe.flush(0xFFFFFFFF), {}, "w"),
}


@pytest.mark.parametrize("kind, registrant, stranger", [
    (WE, "r", "r"), (EA, "", ""), (WERO, "rw", "r"), (EARO, "rw", ""), (WEAR, "rw", "r"), (EAAR, "rw", "")])
def test_who_may_do_what(registrants, kind, registrant, stranger):
    holder, other, third = registrants
    ok(holder.acquire(kind))
    for host, allowed in ((holder, "rw"), (other, registrant), (third, stranger)):
        for queue in host.queues:
            for name, (entry, options, needs) in COMMANDS.items():
                status = queue.execute(entry, **options).status
                wanted = Sc.SUCCESS if needs in allowed else Sc.RESERVATION_CONFLICT
                assert status == wanted, f"{name}: {status:#x}"
        host.may(True, True, OTHER)
    ok(holder.release(kind))
    for host in registrants:
        host.may(True, True)


def test_a_fused_write_is_refused_with_its_compare(registrants):
    holder, other, _ = registrants
    ok(holder.acquire(WE))
    for host, statuses in ((holder, [Sc.SUCCESS, Sc.SUCCESS]), (other, [Sc.FAILED_FUSED, Sc.RESERVATION_CONFLICT])):
        pair = host.io.submit_all([(sqe.compare(NS, 0, 1, fuse=FUSE_FIRST), {"out": ONE}),
                                   (sqe.write(NS, 0, 1, fuse=FUSE_SECOND), {"out": ONE})])
        assert [completion.status for completion in host.io.wait_all(pair)] == statuses


def test_a_host_is_a_registrant_on_all_of_its_controllers(control, registrants):
    a, b, _ = registrants
    ok(a.acquire(EA))
    with Host(control, "a") as again, Host(control, "b") as other:
        again.may(True, True)
        other.may(False, False)
        ok(again.release(EA))
        b.may(True, True)


def test_registrations_stay_when_controllers_go(control, registrants):
    a, b, c = registrants
    ok(a.acquire(WE))
    a.close()
    c.may(True, False)
    with Host(control, "a") as again:
        again.may(True, True)
    assert b.report()[3] == {"a": (0xA1, True), "b": (0xB1, False)}


def test_a_namespace_that_comes_again_is_not_reserved(control, registrants):
    a, b, _ = registrants
    ok(a.acquire(EA))
    control.change("remove-ns", NQN, NS)
    expect.status(a.register(), Sc.INVALID_NAMESPACE)
    control.change("add-ns", NQN, "disk1", NS)
    b.may(True, True)
    assert b.report() == (0, 0, 0, {})


def test_a_reservation_outlives_changes_of_the_subsystem(control, registrants):
    a, b, _ = registrants
    ok(a.acquire(EA))
    control("open", "disk3", "ram:8M")
    control.change("add-ns", NQN, "disk3", 3)
    b.may(False, False)
    b.may(True, True, 3)
    a.may(True, True)


# -- preempting ------------------------------------------------------------------------------------------------------


def test_a_preempted_host_writes_no_more(registrants):
    a, b, _ = registrants
    ok(a.acquire(WE))
    ok(b.acquire(WE, action=PREEMPT, preempted=a.key))
    a.may(True, False)
    b.may(True, True)
    assert b.report() == (3, WE, 0, {"b": (0xB1, True)})


def test_no_write_of_a_preempted_host_begins_after_the_answer(registrants):
    """a writes numbers through both of its queues, on two reactors, as fast as it can. What b reads once it has
    preempted a is there for good."""
    a, b, _ = registrants
    ok(a.acquire(EA))
    started, refused = threading.Event(), []

    def write_on(queue, lba):
        number = 0
        while True:
            number += 1
            batch = queue.submit_all([(sqe.write(NS, lba, 1), {"out": struct.pack("<Q", number) * 64})] * 8)
            statuses = {queue.wait(command).status for command in batch}
            if number == 3:
                started.set()
            if statuses != {Sc.SUCCESS}:
                refused.append(statuses - {Sc.SUCCESS})
                return

    for turn in range(10):
        started.clear()
        refused.clear()
        writers = [threading.Thread(target=write_on, args=(queue, lba), daemon=True)
                   for lba, queue in enumerate(a.queues)]
        for writer in writers:
            writer.start()
        assert started.wait(30)
        ok(b.acquire(EA, action=PREEMPT, preempted=a.key, queue=turn % 2))
        seen = b.read(NS, 0, 2)
        for writer in writers:
            writer.join(30)
        assert refused == [{Sc.RESERVATION_CONFLICT}] * 2
        assert b.read(NS, 0, 2) == seen
        ok(b.release(EA))
        ok(a.register())
        ok(a.acquire(EA))


@pytest.mark.parametrize("action, status", [(PREEMPT, Sc.RESERVATION_CONFLICT),
                                            (PREEMPT_AND_ABORT, Sc.PREEMPTED_AND_ABORTED)])
def test_a_write_whose_data_comes_after_the_preempt_is_not_done(registrants, action, status):
    """It ends when its data is here: Linux loses its way when a command ends that it is sending data for."""
    a, b, _ = registrants
    ok(a.acquire(WE))
    before = b.read(NS, 0, 64)
    writes = []
    for queue in a.queues:
        queue.answer_r2ts = False
        writes.append(queue.submit(sqe.write(NS, 0, 64), out=os.urandom(64 * 512)))
    asked = [queue.wait_r2t(write) for queue, write in zip(a.queues, writes)]
    ok(b.acquire(WE, action=action, preempted=a.key))
    for queue, write, r2t in zip(a.queues, writes, asked):
        expect.status(queue.execute(sqe.flush(NS)), Sc.RESERVATION_CONFLICT)
        assert not write.completion, "answered before its data was here"
        queue.answer(write, r2t)
        expect.status(queue.wait(write), status)
    assert b.read(NS, 0, 64) == before


def test_a_write_that_is_still_to_be_asked_for_its_data_is_asked_for_it(registrants):
    """Its R2T stands behind data that its host does not read while it is preempted."""
    a, b, _ = registrants
    ok(a.acquire(WE))
    queue = a.add_queue(3, receive_buffer=4096)
    queue.answer_r2ts = False
    for _ in range(24):
        queue.submit(sqe.read(NS, 0, 2048), read=MIB)
    write = queue.submit(sqe.write(NS, 0, 64), out=os.urandom(64 * 512))
    for each in b.queues * 20:  # meanwhile it is taken in
        each.must(sqe.read(NS, 0, 1), read=512)
    ok(b.acquire(WE, action=PREEMPT, preempted=a.key))
    r2t = queue.wait_r2t(write)
    expect.status(queue.execute(sqe.flush(NS)), Sc.RESERVATION_CONFLICT)
    assert not write.completion, "answered before its data was here"
    queue.answer(write, r2t)
    expect.status(queue.wait(write), Sc.RESERVATION_CONFLICT)


@pytest.mark.parametrize("late", ["compare", "write"])
def test_a_fused_write_whose_data_comes_after_the_preempt_is_not_done(registrants, late):
    a, b, _ = registrants
    ok(a.acquire(WE))
    queue, before = a.io, b.read(NS, 0, 1)
    queue.answer_r2ts = False
    pair = queue.submit_all([
        (sqe.compare(NS, 0, 1, fuse=FUSE_FIRST), {"out": before, "in_capsule": late != "compare"}),
        (sqe.write(NS, 0, 1, fuse=FUSE_SECOND), {"out": b"x" * 512, "in_capsule": late != "write"})])
    waiting = pair[0 if late == "compare" else 1]
    r2t = queue.wait_r2t(waiting)
    ok(b.acquire(WE, action=PREEMPT, preempted=a.key))
    queue.answer(waiting, r2t)
    assert [completion.status for completion in queue.wait_all(pair)] == [Sc.FAILED_FUSED, Sc.RESERVATION_CONFLICT]
    assert b.read(NS, 0, 1) == before


def test_an_action_that_nobody_is_in_the_way_of_ends_at_once(registrants):
    a, b, _ = registrants
    ok(b.acquire(EAAR, action=PREEMPT_AND_ABORT, preempted=a.key))  # a registration, and no reservation comes of it
    a.may(True, True)
    assert b.report()[1:] == (0, 0, {"b": (0xB1, False)})


def test_commands_of_many_queues_are_decided_one_after_the_other(hosts):
    a, b, c = hosts
    for turn in range(20):
        for host in hosts:
            ok(host.register())
        waiting = [(host, queue, queue.submit(sqe.resv_acquire(NS, kind=EA), out=sqe.keys(host.key, 0)))
                   for host in hosts for queue in host.queues]
        won = {host for host, queue, command in waiting if queue.wait(command).status == Sc.SUCCESS}
        assert len(won) == 1, turn
        ok(a.release(action=CLEAR))
        assert c.report()[1:] == (0, 0, {})
        b.may(True, True)


# -- notifications ---------------------------------------------------------------------------------------------------


def test_those_who_lose_something_are_notified(registrants):
    a, b, c = registrants
    waiting = {host: host.admin.submit(sqe.aer()) for host in registrants}
    ok(c.register())
    ok(a.acquire(WERO))
    ok(b.acquire(EA, action=PREEMPT, preempted=a.key))
    for host in (a, c):
        assert host.admin.wait(waiting[host]).dw0 == RESERVATION_EVENT
    assert a.notifications() == [(1, REGISTRATION_PREEMPTED, 0, NS)]
    assert c.notifications() == [(1, RELEASED, 0, NS)]  # it is of another type
    assert b.notification() == (0, 0, 0, 0)
    ok(b.release(action=CLEAR))
    assert c.notifications() == [(2, PREEMPTED, 0, NS)]
    assert not waiting[b].completion and b.notification() == (0, 0, 0, 0)


def test_a_release_is_told_to_registrants_of_those_types_alone(registrants):
    a, b, c = registrants
    for count, kind in enumerate((WE, EA, WERO, EARO, WEAR, EAAR)):
        ok(a.acquire(kind))
        ok(a.release(kind))
        assert [page[1] for page in b.notifications()] == ([RELEASED] if kind >= WERO else []), count
    assert a.notifications() == c.notifications() == []


def test_an_event_is_sent_again_once_its_log_was_read(registrants):
    a, b, _ = registrants
    for _ in range(2):
        ok(a.acquire(WERO))
        ok(a.release(WERO))
    assert b.admin.execute(sqe.aer()).dw0 == RESERVATION_EVENT  # which was before it was asked for
    second = b.admin.submit(sqe.aer())
    assert struct.unpack_from("<QBB2xI", b.get_log(Log.RESERVATION, 64, rae=True)) == (1, RELEASED, 1, NS)
    assert b.notification() == (1, RELEASED, 1, NS)
    assert b.notification() == (2, RELEASED, 0, NS)
    assert not second.completion
    ok(a.acquire(WERO))
    ok(a.release(WERO))
    assert b.admin.wait(second).dw0 == RESERVATION_EVENT
    b.disable()  # a Controller Level Reset forgets
    b.enable()
    assert b.notification() == (0, 0, 0, 0)


def test_the_oldest_notifications_are_lost_when_nobody_reads_them(registrants):
    a, b, _ = registrants
    for _ in range(70):
        ok(a.acquire(WERO))
        ok(a.release(WERO))
    pages = b.notifications()
    assert [page[0] for page in pages] == list(range(7, 71))
    assert [page[2] for page in pages] == list(range(63, -1, -1))


def test_notifications_can_be_masked_by_namespace(registrants):
    a, b, _ = registrants
    for nsid in (NS, OTHER):
        a.register(nsid)
        b.register(nsid)

    def notified(mask, by):
        b.set_feature(Feature.RESERVATION_MASK, mask, nsid=by)
        for nsid in (NS, OTHER):
            ok(a.acquire(WERO, nsid))
            ok(a.release(WERO, nsid))
        return [page[3] for page in b.notifications()]

    assert b.get_feature(Feature.RESERVATION_MASK, nsid=NS) == 0
    assert notified(1 << RELEASED, NS) == [OTHER]
    assert b.get_feature(Feature.RESERVATION_MASK, nsid=NS) == 1 << RELEASED
    assert b.get_feature(Feature.RESERVATION_MASK, nsid=NS, select=1) == 0
    assert a.get_feature(Feature.RESERVATION_MASK, nsid=NS) == 0  # each controller has its own
    assert notified(1 << RELEASED, 0xFFFFFFFF) == []
    assert notified(1 << PREEMPTED | 1 << REGISTRATION_PREEMPTED, 0xFFFFFFFF) == [NS, OTHER]
    assert b.get_feature(Feature.RESERVATION_MASK, nsid=NS, select=3) == 1 << 1 | 1 << 2
    for nsid in (3, 0xFFFFFFFF):
        expect.status(b.admin.execute(sqe.get_features(Feature.RESERVATION_MASK, nsid=nsid)), Sc.INVALID_NAMESPACE)
    expect.status(b.admin.execute(sqe.set_features(Feature.RESERVATION_MASK, 0, nsid=3)), Sc.INVALID_NAMESPACE)


# -- through power loss ----------------------------------------------------------------------------------------------


class Machine:
    """A target whose namespaces are files, and keep their reservations in files. Its control path has a reactor
    apart."""

    def __init__(self, path):
        self.path = path
        for nsid in (NS, OTHER):
            with open(path / f"disk{nsid}", "wb") as file:
                file.truncate(MIB)

    def kept(self, nsid=NS):
        return self.path / f"kept{nsid}"

    @contextlib.contextmanager
    def start(self):
        with Control(reactors=2, apart=True) as program:
            program("subsystem", NQN, "any-host")
            for nsid in (NS, OTHER):
                program("open", f"disk{nsid}", self.path / f"disk{nsid}")
                program("add-ns", NQN, f"disk{nsid}", nsid, 1, self.kept(nsid))
            program.address = ("127.0.0.1", program("listen", "127.0.0.1:0"))
            program("start")
            yield program


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_what_was_acknowledged_is_there_after_a_crash(machine):
    for turn in range(3):
        with machine.start() as control, Host(control, "a") as a, Host(control, "b") as b:
            if not turn:
                assert a.namespace(NS).rescap == 0xFF
                ok(a.register(cptpl=PERSIST))
                ok(b.register(queue=1))
            else:
                b.may(*((True, True) if turn == 2 else (False, False)))
            if turn < 2:
                assert a.report()[3]["a"] == (0xA1, bool(turn))
                ok(a.acquire(EA) if not turn else b.acquire(WERO, action=PREEMPT, preempted=a.key))
            else:
                assert b.report() == (3, WERO, 1, {"b": (0xB1, True)})
                a.may(True, False)
            control.kill()


def test_what_is_not_to_persist_is_not_there_after_a_crash(machine):
    for turn in range(3):
        with machine.start() as control, Host(control, "a") as a:
            assert a.report() == (0, 0, 0, {}), turn
            if turn == 0:  # nobody asked for it
                ok(a.register())
                ok(a.acquire(EA))
            if turn == 1:  # and no more
                ok(a.register(cptpl=PERSIST))
                ok(a.acquire(EA))
                assert a.report() == (1, EA, 1, {"a": (0xA1, True)})
                ok(a.register(cptpl=FORGET))
                assert a.report() == (2, EA, 0, {"a": (0xA1, True)})
            control.kill()


def test_persistence_is_a_feature(machine):
    with machine.start() as control, Host(control, "a") as a:
        persistence = Feature.RESERVATION_PERSISTENCE
        assert a.get_feature(persistence, nsid=NS) == 0
        a.set_feature(persistence, 1, nsid=NS)
        assert (a.get_feature(persistence, nsid=NS), a.get_feature(persistence, nsid=OTHER)) == (1, 0)
        assert a.get_feature(persistence, nsid=NS, select=1) == 0
        a.set_feature(persistence, 1, nsid=0xFFFFFFFF)
        assert (a.get_feature(persistence, nsid=NS), a.get_feature(persistence, nsid=OTHER)) == (1, 1)
        expect.status(a.admin.execute(sqe.set_features(persistence, 1, nsid=3)), Sc.INVALID_NAMESPACE)
        ok(a.register())
        control.kill()
    with machine.start() as control, Host(control, "a") as a:
        assert a.report() == (1, 0, 1, {"a": (0xA1, False)})
        a.set_feature(persistence, 0, nsid=0xFFFFFFFF)
        assert (a.get_feature(persistence, nsid=NS), a.get_feature(persistence, nsid=OTHER)) == (0, 0)


def test_persistence_needs_a_file(hosts):
    a = hosts[0]
    expect.status(a.admin.execute(sqe.set_features(Feature.RESERVATION_PERSISTENCE, 1, nsid=NS)), Sc.INVALID_FIELD)
    a.set_feature(Feature.RESERVATION_PERSISTENCE, 0, nsid=NS)
    a.set_feature(Feature.RESERVATION_PERSISTENCE, 1, nsid=0xFFFFFFFF)  # of those that can
    assert a.get_feature(Feature.RESERVATION_PERSISTENCE, nsid=NS) == 0


def test_a_namespace_that_comes_again_has_what_persists(machine):
    with machine.start() as control, Host(control, "a") as a, Host(control, "b") as b:
        ok(a.register(cptpl=PERSIST))
        ok(a.acquire(EA))
        control.change("remove-ns", NQN, NS)
        control.change("add-ns", NQN, "disk1", NS, 1, machine.kept())
        b.may(False, False)
        a.may(True, True)


def test_what_cannot_be_kept_is_not_done(machine):
    """Nobody is told of a reservation that a crash would undo, nor sees one that failed."""
    with machine.start() as control, Host(control, "a") as a, Host(control, "b") as b:
        ok(a.register(cptpl=PERSIST))
        (machine.path / "kept1.new").mkdir()
        expect.status(a.acquire(EA), Sc.INTERNAL)
        b.may(True, True)
        assert b.report() == (1, 0, 1, {"a": (0xA1, False)})
        assert wait_until(lambda: "reservations cannot be kept there" in control.stderr)
        (machine.path / "kept1.new").rmdir()
        ok(a.acquire(EA))
        b.may(False, False)


def test_a_file_that_is_not_what_was_written_is_refused(machine):
    with machine.start() as control, Host(control, "a") as a:
        ok(a.register(cptpl=PERSIST))
    whole = machine.kept().read_text()
    for bad, why in ((whole.replace("key", "kez"), "is not what was written"), (whole[:-1], "is not what was written"),
                     ("", "is not what was written"), ("x" * 10000, "is not what was written")):
        machine.kept().write_text(bad)
        with pytest.raises(Refused, match=why), machine.start():
            pass
    machine.kept().write_text(whole)
    with machine.start():
        pass


def test_each_namespace_has_a_file_of_its_own(machine):
    with machine.start() as control, Host(control, "a") as a:
        ok(a.register(cptpl=PERSIST))
        control("open", "disk3", "ram:8M")
        for nsid in (NS, OTHER):  # of which the second has written nothing there yet
            with pytest.raises(Refused, match="is in use for the reservations of another disk"):
                control("add-ns", NQN, "disk3", 3, 1, machine.kept(nsid))
        control.change("remove-ns", NQN, NS)
        with pytest.raises(Refused, match="has the reservations of another disk"):
            control("add-ns", NQN, "disk3", 3, 1, machine.kept())
        with pytest.raises(Refused, match="cannot be used: No such file or directory"):
            control("add-ns", NQN, "disk3", 3, 1, machine.path / "nowhere" / "kept")
