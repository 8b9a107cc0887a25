# SPDX-License-Identifier: BSD-3-Clause
"""Persistent reservations of SCSI hosts (SPC-5, 5.14), each of which is an initiator; of a disk that NVMe hosts and
guests with block devices have as well. Two reactors."""
import contextlib
import os
import struct

import expect
import pytest
import sqe
from host import Controller
from rpc import RpcError, Server
from spec import Sc
from target import wait_until
from vhost import IN, IOERR, MIB, OK, OUT, Frontend
from vhost_scsi import (ABORT_TASK, ATTENTION, CONFLICT, GOOD, ILLEGAL, REQUESTS, ScsiFrontend, inquiry, rw6, rw10,
                        rw12, rw16, rw32, unmap, unmap_list)

NQN = "nqn.2026-01.example:both"
WE, EA, WERO, EARO, WEAR, EAAR = 1, 3, 5, 6, 7, 8
NVME_TYPE = {WE: 1, EA: 2, WERO: 3, EARO: 4, WEAR: 5, EAAR: 6}
KEY = {"a": 0xA1, "b": 0xB1, "c": 0xC1}
(REGISTER, RESERVE, RELEASE, CLEAR, PREEMPT, PREEMPT_AND_ABORT, REGISTER_AND_IGNORE) = range(7)
KEYS, RESERVATION, CAPABILITIES, FULL_STATUS = range(4)
APTPL, ALL_TG_PT, SPEC_I_PT = 1, 4, 8
PARAMETER_LENGTH, CDB_FIELD, PARAMETER_FIELD, INVALID_RELEASE = 0x1a00, 0x2400, 0x2600, 0x2604
RESERVATIONS_PREEMPTED, RESERVATIONS_RELEASED, REGISTRATIONS_PREEMPTED = 0x2a03, 0x2a04, 0x2a05
TASK_ABORTED = 0x40
BLOCK = bytes(512)


class Guest(ScsiFrontend):
    """A host by its name, which its key follows from."""

    def __init__(self, sockets, name, **options):
        super().__init__(sockets / name, **options)
        self.key = KEY[name[0]]
        self.start(queues=2)

    def reserve(self, action, kind=0, key=None, other=0, flags=0, length=24, scope=0, **where):
        key = self.key if key is None else key
        return self.command(struct.pack(">BBB2xIx", 0x5f, action, scope << 4 | kind, length),
                            out=struct.pack(">QQ4xB3x", key, other, flags), **where)

    def enroll(self, flags=0, **where):
        answer = self.reserve(REGISTER_AND_IGNORE, key=0, other=self.key, flags=flags, **where)
        assert answer.good, answer
        return self

    def look(self, action, size=4096, **where):
        answer = self.command(struct.pack(">BB5xHx", 0x5e, action, size), into=size, **where)
        assert answer.good, answer
        return answer.data[:size - answer.residual]

    def state(self):
        """Generation, type, and {key: whether it holds}."""
        data = self.look(FULL_STATUS)
        generation, length = struct.unpack_from(">II", data)
        kinds, holders = set(), {}
        for at in range(8, 8 + length, 48):
            key, flags, kind, port, more = struct.unpack_from(">Q4xBB4xHI", data, at)
            assert (port, more) == (1, 24) and data[at + 24] == 6 and data[at + 28] >> 4 == 3
            assert bool(kind) == bool(flags & 1)
            kinds.add(kind)
            holders[key] = bool(flags & 1)
        assert len(holders) * 48 == length
        return generation, max(kinds, default=0), holders

    def attentions(self):
        found = []
        while not (answer := self.command(bytes(6))).good:
            key, code = answer.code
            assert key == ATTENTION
            found.append(code)
        return found

    def may(self, read, write, queue=0):
        def allowed(answer):
            assert answer.good or (answer.response == 0 and answer.status == CONFLICT), answer
            return answer.good
        assert allowed(self.command(rw10(0x28, 0, 1), into=512, queue=queue)) == read
        assert allowed(self.command(rw10(0x2a, 0, 1), out=BLOCK, queue=queue)) == write


class Machine:
    """Three hosts of one disk: m, or `slow`, which does not write within the time of a test."""

    UUID = "12345678-1234-1234-1234-123456789abc"

    def __init__(self, path):
        self.path = path
        self.sockets = path / "sockets"
        self.sockets.mkdir(exist_ok=True)
        self.kept = path / "kept"

    @contextlib.contextmanager
    def start(self, disk="m", **unit):
        cores = sorted(os.sched_getaffinity(0))[:2]
        with Server(options=["--vhost", self.sockets, "-m", ",".join(map(str, cores))]) as server:
            with server.client() as client:
                client.call("bdev_malloc_create", name="m", num_blocks=8192, block_size=512,
                            uuid=self.UUID)
                client.call("bdev_malloc_create", name="m0", num_blocks=8192, block_size=512)
                client.call("bdev_delay_create", name="slow", base_bdev_name="m0", avg_read_latency=0,
                            p99_read_latency=0, avg_write_latency=60_000_000, p99_write_latency=60_000_000)
                for name in "abc":
                    client.call("vhost_create_scsi_controller", ctrlr=name, num_queues=2)
                    client.call("vhost_scsi_controller_add_target", ctrlr=name, scsi_target_num=0, bdev_name=disk,
                                **unit)
                yield client

    def guest(self, name, **options):
        return Guest(self.sockets, name, **options)


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@pytest.fixture
def guests(machine):
    with machine.start() as client, machine.guest("a") as a, machine.guest("b") as b, machine.guest("c") as c:
        machine.client = client
        for guest in a, b, c:
            guest.attentions()
        yield a, b, c


def test_initiators_are_told_apart(guests):
    a, b, c = guests
    a.enroll()
    b.enroll()
    assert a.state() == (2, 0, {a.key: False, b.key: False})
    assert a.reserve(RESERVE, WE).good
    assert c.state() == (2, WE, {a.key: True, b.key: False})
    for queue in range(2):
        a.may(True, True, queue)
        b.may(True, False, queue)
        c.may(True, False, queue)
    assert b.reserve(RESERVE, WE).status == CONFLICT
    assert c.reserve(RESERVE, WE).status == CONFLICT, "no registrant"
    assert a.reserve(RESERVE, WE).good, "is there already"
    assert a.reserve(RESERVE, EA).status == CONFLICT


@pytest.mark.parametrize("kind,registrant,stranger", [
    (WE, "r", "r"), (EA, "", ""), (WERO, "rw", "r"), (EARO, "rw", ""), (WEAR, "rw", "r"), (EAAR, "rw", "")])
def test_types(guests, kind, registrant, stranger):
    a, b, c = guests
    a.enroll()
    b.enroll()
    assert a.reserve(RESERVE, kind).good
    a.may(True, True)
    b.may("r" in registrant, "w" in registrant)
    c.may("r" in stranger, "w" in stranger)
    holders = {WEAR: True, EAAR: True}.get(kind, False)
    assert c.state()[1:] == (kind, {a.key: True, b.key: holders})
    reserved = c.look(RESERVATION)
    assert struct.unpack(">IIQ5xB2x", reserved) == (2, 16, 0 if holders else a.key, kind)


def test_commands_that_conflict(guests):
    a, b, _ = guests
    a.enroll()
    assert a.reserve(RESERVE, EA).good
    free = [bytes(6), inquiry(), rw10(0x25, 0, 0), bytes([0x9e, 0x10] + 8 * [0] + [0, 0, 0, 32, 0, 0]),
            bytes([0xa0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0]), bytes([3, 0, 0, 0, 18, 0]), bytes([0x1b, 0, 0, 0, 1, 0]),
            bytes([0x1e, 0, 0, 0, 0, 0])]
    for cdb in free:
        assert b.command(cdb, into=512).good, cdb
    conflicts = [rw6(8, 0, 1), rw10(0x28, 0, 1), rw12(0xa8, 0, 1), rw16(0x88, 0, 1), rw32(9, 0, 1), rw10(0x2f, 0, 1),
                 rw10(0x35, 0, 0), rw16(0x91, 0, 0), bytes([0x1a, 0, 0x3f, 0, 255, 0]), bytes([0x1d, 4, 0, 0, 0, 0]),
                 bytes([0x1b, 0, 0, 0, 0, 0]), bytes([0x1e, 0, 0, 0, 1, 0]),
                 struct.pack(">BBBBHIxx", 0xa3, 0x0c, 0, 0, 0, 4096)]
    for cdb in conflicts:
        assert b.command(cdb, into=4096).status == CONFLICT, cdb
    writes = [rw6(10, 0, 1), rw10(0x2a, 0, 1), rw12(0xaa, 0, 1), rw16(0x8a, 0, 1), rw32(11, 0, 1), rw10(0x41, 0, 1),
              rw16(0x93, 0, 1)]
    for cdb in writes:
        assert b.command(cdb, out=BLOCK).status == CONFLICT, cdb
    assert b.command(rw16(0x89, 0, 0)[:13] + bytes([1, 0, 0]), out=2 * BLOCK).status == CONFLICT
    assert b.command(unmap(24), out=unmap_list((0, 1))).status == CONFLICT
    assert b.command(rw10(0x2f, 0, 1, 2), out=BLOCK).status == CONFLICT


def test_register(guests):
    a, b, _ = guests
    assert a.reserve(REGISTER, key=1, other=2).status == CONFLICT, "it has no key yet"
    assert a.reserve(REGISTER, key=0, other=0).good and a.state() == (0, 0, {})
    assert a.reserve(REGISTER, key=0, other=5).good and a.state() == (1, 0, {5: False})
    assert a.reserve(REGISTER, key=4, other=6).status == CONFLICT
    assert a.reserve(REGISTER, key=5, other=6).good and b.look(KEYS) == struct.pack(">IIQ", 2, 8, 6)
    assert a.reserve(REGISTER, key=6, other=0).good and a.state() == (3, 0, {})
    assert a.attentions() + b.attentions() == []


def test_release_and_clear(guests):
    a, b, c = guests
    a.enroll()
    b.enroll()
    assert a.reserve(RESERVE, WERO).good
    assert a.reserve(RELEASE, EARO).code == (ILLEGAL, INVALID_RELEASE)
    assert b.reserve(RELEASE, WERO).good and a.state()[1] == WERO, "it is not its own"
    assert c.reserve(RELEASE, WERO).status == CONFLICT
    assert a.reserve(RELEASE, WERO).good and a.state()[1] == 0
    assert [g.attentions() for g in guests] == [[], [RESERVATIONS_RELEASED], []]
    assert a.reserve(RESERVE, EA).good
    assert b.reserve(CLEAR).good and b.state()[1:] == (0, {})
    assert [g.attentions() for g in guests] == [[RESERVATIONS_PREEMPTED], [], []]
    c.may(True, True)


def test_preempt(guests):
    a, b, c = guests
    a.enroll()
    b.enroll()
    assert a.reserve(RESERVE, WE).good
    assert b.reserve(PREEMPT, WE, other=0).code == (ILLEGAL, PARAMETER_FIELD)
    assert b.reserve(PREEMPT, WE, other=77).status == CONFLICT
    assert b.reserve(PREEMPT, EARO, other=a.key).good
    assert c.state()[1:] == (EARO, {b.key: True})
    assert [g.attentions() for g in guests] == [[REGISTRATIONS_PREEMPTED], [], []]
    a.may(False, False)
    b.may(True, True)
    a.enroll()
    a.may(True, True)


def test_a_holder_that_unregisters_releases(guests):
    a, b, c = guests
    a.enroll()
    b.enroll()
    assert a.reserve(RESERVE, WERO).good
    assert a.reserve(REGISTER, other=0).good
    assert [g.attentions() for g in guests] == [[], [RESERVATIONS_RELEASED], []]
    c.may(True, True)


def test_what_is_wrong_with_an_out(guests):
    a, _, _ = guests
    a.enroll()
    assert a.reserve(RESERVE, WE, length=23).code == (ILLEGAL, PARAMETER_LENGTH)
    for kind in 0, 2, 4, 9, 15:
        answer = a.reserve(RESERVE, kind)
        assert answer.code == (ILLEGAL, CDB_FIELD) and answer.field == 2
    assert a.reserve(RESERVE, WE, scope=1).code == (ILLEGAL, CDB_FIELD)
    for flag in SPEC_I_PT, ALL_TG_PT:
        assert a.reserve(REGISTER, other=1, flags=flag).code == (ILLEGAL, PARAMETER_FIELD)
    assert a.reserve(REGISTER, other=1, flags=APTPL).code == (ILLEGAL, PARAMETER_FIELD), "there is no file"
    answer = a.reserve(7, other=1)
    assert answer.code == (ILLEGAL, CDB_FIELD) and answer.field == 1
    short = a.command(struct.pack(">BBB2xIx", 0x5f, REGISTER, 0, 24), out=bytes(23))
    assert short.response == 1, "less data than it says"
    assert a.state() == (1, 0, {a.key: False})


def test_an_in_is_cut_where_it_is_asked_to(guests):
    a, b, c = guests
    for guest in guests:
        guest.enroll()
    whole = a.look(KEYS)
    assert whole == struct.pack(">II3Q", 3, 24, a.key, b.key, c.key)
    for size in 0, 1, 8, 15, 31, 32:
        assert a.look(KEYS, size) == whole[:size]
    assert a.look(CAPABILITIES) == bytes([0, 8, 0, 0x80, 0xea, 1, 0, 0])


def test_front_ends_of_one_host_are_one_initiator(machine):
    with machine.start(), machine.guest("a") as a, machine.guest("a") as same, machine.guest("b") as b:
        a.enroll()
        assert a.reserve(RESERVE, EA).good
        same.may(True, True)
        b.may(False, False)


def test_a_reservation_outlives_its_guest(machine):
    with machine.start(), machine.guest("b") as b:
        with machine.guest("a") as a:
            a.enroll()
            assert a.reserve(RESERVE, EA).good
        b.may(False, False)
        with machine.guest("a") as a:
            a.may(True, True)


def test_an_initiator_may_have_another_name(machine):
    with machine.start() as client, machine.guest("a") as a, machine.guest("b") as b:
        client.call("vhost_create_scsi_controller", ctrlr="cc", num_queues=2, initiator="a")
        client.call("vhost_scsi_controller_add_target", ctrlr="cc", scsi_target_num=0, bdev_name="m")
        a.enroll()
        assert a.reserve(RESERVE, EA).good
        with machine.guest("cc") as cc:
            cc.may(True, True)
        b.may(False, False)
        with pytest.raises(RpcError, match="initiator"):
            client.call("vhost_create_scsi_controller", ctrlr="d", initiator="x" * 256)


# -- persistence ----------------------------------------------------------------------------------------------------

def test_they_are_kept(machine):
    with machine.start(ptpl_file=str(machine.kept)), machine.guest("a") as a, machine.guest("b") as b:
        assert a.look(CAPABILITIES)[2:4] == bytes([1, 0x80])
        a.enroll(flags=APTPL)
        b.enroll(flags=APTPL)
        assert a.reserve(RESERVE, WE).good
        assert a.look(CAPABILITIES)[2:4] == bytes([1, 0x81])
    with machine.start(ptpl_file=str(machine.kept)), machine.guest("a") as a, machine.guest("b") as b:
        assert a.state() == (2, WE, {a.key: True, b.key: False})
        a.may(True, True)
        b.may(True, False)
        assert a.reserve(REGISTER, other=a.key).good, "without APTPL: nothing is kept from here on"
    with machine.start(ptpl_file=str(machine.kept)), machine.guest("b") as b:
        assert b.state() == (0, 0, {})


def test_a_file_that_cannot_be_used(machine):
    machine.kept.write_text("something else")
    with pytest.raises(RpcError, match="is not what was written there"), machine.start(ptpl_file=str(machine.kept)):
        pass
    with machine.start(ptpl_file=str(machine.path / "fine")) as client:
        for other in {"ptpl_file": str(machine.path / "another")}, {}:
            with pytest.raises(RpcError, match="are kept in .*/fine already; name that"):
                client.call("vhost_scsi_controller_add_target", ctrlr="a", scsi_target_num=1, bdev_name="m", **other)
            with pytest.raises(RpcError, match="are kept in .*/fine already; name that"):
                client.call("vhost_create_blk_controller", ctrlr="blk", dev_name="m", **other)
        client.call("vhost_scsi_controller_add_target", ctrlr="a", scsi_target_num=1, bdev_name="m",
                    ptpl_file=str(machine.path / "fine"))
        client.call("bdev_null_create", name="n", num_blocks=8192, block_size=512)
        with pytest.raises(RpcError, match="in use for the reservations of another disk"):
            client.call("vhost_scsi_controller_add_target", ctrlr="a", scsi_target_num=2, bdev_name="n",
                        ptpl_file=str(machine.path / "fine"))
    with machine.start() as client, pytest.raises(RpcError, match="m is served already"):
        client.call("vhost_create_blk_controller", ctrlr="blk", dev_name="m", ptpl_file=str(machine.path / "fine"))


def test_a_block_device_keeps_to_what_was_kept(machine):
    """Also when it is the first that has the disk again, and nobody is there yet who has reserved it."""
    kept = {"ptpl_file": str(machine.kept)}
    with machine.start(**kept), machine.guest("a") as a:
        a.enroll(flags=APTPL)
        assert a.reserve(RESERVE, EA).good
    with Server(options=["--vhost", machine.sockets]) as server, server.client() as client:
        client.call("bdev_malloc_create", name="m", num_blocks=8192, block_size=512, uuid=machine.UUID)
        client.call("vhost_create_blk_controller", ctrlr="blk", dev_name="m", **kept)
        with Frontend(machine.sockets / "blk") as blk:
            blk.start()
            assert blk.run(OUT, 0, BLOCK)[0] == IOERR
            client.call("vhost_create_scsi_controller", ctrlr="a", num_queues=2)
            client.call("vhost_scsi_controller_add_target", ctrlr="a", scsi_target_num=0, bdev_name="m", **kept)
            with machine.guest("a") as a:
                assert a.reserve(RELEASE, EA).good
            assert blk.run(OUT, 0, BLOCK)[0] == OK


# -- what is under way ----------------------------------------------------------------------------------------------

def test_preempt_and_abort_ends_what_is_under_way(machine):
    with machine.start(disk="slow"), machine.guest("a") as a, machine.guest("b") as b, machine.guest("c") as c:
        for guest in a, b, c:
            guest.attentions()
        a.enroll()
        b.enroll()
        writes = [b.begin(rw10(0x2a, n, 1), out=b"b" * 512, queue=n % 2) for n in range(4)]
        unregistered, tag = c.begin(rw10(0x2a, 9, 1), out=b"c" * 512), c.tags
        assert a.reserve(PREEMPT_AND_ABORT, WE, other=b.key).good
        got = {}
        for n, (ident, response) in enumerate(writes):
            queue = b.queues[REQUESTS + n % 2]
            used, _ = queue.wait()
            got[n % 2, used] = True
        assert len(got) == 4
        for ident, response in writes:
            assert b.answer_at(response, 0, 0, 0).status == TASK_ABORTED
        assert c.function(ABORT_TASK, tag=tag) == 0, "that one was nobody's business"
        assert c.answer_at(unregistered[1], 0, 0, 0).response == 2
        assert b.attentions() == [REGISTRATIONS_PREEMPTED]
        assert a.command(rw10(0x28, 0, 10), into=5120).data == bytes(5120)


def test_what_is_under_way_goes_on_after_a_preempt(machine):
    with machine.start(disk="slow"), machine.guest("a") as a, machine.guest("b") as b:
        a.attentions()
        b.attentions()
        a.enroll()
        b.enroll()
        (ident, response), tag = b.begin(rw10(0x2a, 0, 1), out=b"b" * 512), b.tags
        assert a.reserve(PREEMPT, WE, other=b.key).good
        assert b.function(ABORT_TASK, tag=tag) == 0
        assert b.queues[REQUESTS].wait()[0] == ident
        assert b.answer_at(response, 0, 0, 0).response == 2, "it was there until then"


def test_a_command_of_several_steps_takes_no_more_of_them(machine):
    with machine.start() as client, machine.guest("a") as a, machine.guest("b") as b:
        a.attentions()
        b.attentions()
        a.enroll()
        client.call("bdev_set_qos_limit", name="m", rw_ios_per_sec=0, w_mbytes_per_sec=1)
        same = b.begin(rw10(0x41, 0, 8192), out=b"s" * 512)
        assert wait_until(lambda: a.command(rw10(0x28, 0, 1), into=512).data == b"s" * 512)
        assert a.reserve(RESERVE, WE).good
        assert b.queues[REQUESTS].wait()[0] == same[0]
        assert b.answer_at(same[1], 0, 0, 0).status == CONFLICT
        assert a.command(rw10(0x28, 8191, 1), into=512).data == bytes(512)


def test_a_preempt_and_abort_does_not_wait_for_reservation_commands(guests):
    """They wait for it."""
    a, b, _ = guests
    for n in range(200):
        b.enroll()
        a.enroll()
        assert a.reserve(RESERVE, WE).good
        mark = a.memory.next, b.memory.next
        looks = [b.begin(struct.pack(">BB5xHx", 0x5e, KEYS, 64), into=64, queue=queue) for queue in range(2)]
        assert a.reserve(PREEMPT_AND_ABORT, EA, other=b.key, queue=n % 2).good
        for queue, look in enumerate(looks):
            assert b.queues[REQUESTS + queue].wait()[0] == look[0]
            answer = b.answer_at(look[1], 0, 0, 0)
            assert answer.status == GOOD or answer.code == (ATTENTION, REGISTRATIONS_PREEMPTED)
        assert a.reserve(RELEASE, WE).good
        b.attentions()
        a.memory.next, b.memory.next = mark


def test_a_unit_goes_while_a_preempt_waits_for_others(machine):
    """The reservations are the disk's: a host that leaves in the middle is waited for, and asked no more."""
    with machine.start(disk="slow") as client, machine.guest("a") as a, machine.guest("b") as b:
        a.attentions()
        b.attentions()
        a.enroll()
        b.enroll()
        for _ in range(20):
            assert a.reserve(RESERVE, WE).good
            client.call("vhost_scsi_controller_remove_target", ctrlr="c", scsi_target_num=0)
            assert a.reserve(RELEASE, WE).good
            client.call("vhost_scsi_controller_add_target", ctrlr="c", scsi_target_num=0, bdev_name="slow")
        with machine.guest("c") as c:
            c.attentions()
            assert a.reserve(RESERVE, EA).good
            assert c.command(rw10(0x28, 0, 1), into=512).status == CONFLICT


# -- other servers --------------------------------------------------------------------------------------------------

@pytest.fixture
def everywhere(machine):
    with machine.start() as client:
        client.call("nvmf_create_transport", trtype="TCP")
        client.call("nvmf_create_subsystem", nqn=NQN, allow_any_host=True)
        client.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "m"})
        client.call("nvmf_subsystem_add_listener", nqn=NQN,
                    listen_address={"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": "0"})
        address, = [at["address"] for at in client.call("nvmf_subsystem_get_listeners", nqn=NQN)]
        client.call("vhost_create_blk_controller", ctrlr="blk", dev_name="m")
        machine.client, machine.address = client, (address["traddr"], int(address["trsvcid"]))
        yield machine


def nvme_report(host):
    data = host.io.must(sqe.resv_report(1, 1024), read=1024).data
    generation, kind, count = struct.unpack_from("<IBH", data)
    return generation, kind, {struct.unpack_from("<Q", data, 64 + 64 * i + 8)[0]: bool(data[64 + 64 * i + 2])
                              for i in range(count)}


@pytest.mark.parametrize("kind", [WE, EA, WERO, EARO, WEAR, EAAR])
def test_nvme_hosts_see_what_guests_reserve(everywhere, kind):
    with everywhere.guest("a") as a, Controller(everywhere.address, NQN, io_queues=2) as host, \
            Frontend(everywhere.sockets / "blk") as blk:
        blk.start()
        a.enroll()
        assert a.reserve(RESERVE, kind).good
        assert nvme_report(host) == (1, NVME_TYPE[kind], {a.key: True})
        reads = kind in (WE, WERO, WEAR)
        for queue in host.queues:
            expect.status(queue.execute(sqe.write(1, 0, 1), out=BLOCK), Sc.RESERVATION_CONFLICT)
            expect.status(queue.execute(sqe.read(1, 0, 1), read=512), Sc.SUCCESS if reads else Sc.RESERVATION_CONFLICT)
        assert blk.run(IN, 0, into=512)[0] == (OK if reads else IOERR)
        assert blk.run(OUT, 0, bytes(512))[0] == IOERR
        expect.status(host.io.execute(sqe.resv_register(1, 0), out=sqe.keys(0, 0x77)), Sc.SUCCESS)
        expect.status(host.io.execute(sqe.resv_acquire(1, 1, NVME_TYPE[kind]),
                                  out=sqe.keys(0x77, 0 if kind in (WEAR, EAAR) else a.key)), Sc.SUCCESS)
        a.attentions()
        assert a.state()[1:] == (kind, {0x77: True})
        assert a.command(rw10(0x2a, 0, 1), out=BLOCK).status == CONFLICT
        expect.status(host.io.execute(sqe.write(1, 0, 1), out=BLOCK), Sc.SUCCESS)
        expect.status(host.io.execute(sqe.resv_release(1, 1, 0), out=sqe.keys(0x77)), Sc.SUCCESS)
        a.may(True, True)
        assert blk.run(OUT, 0, bytes(512))[0] == OK


def test_a_guest_of_a_block_device_that_comes_later(everywhere):
    with everywhere.guest("a") as a:
        a.enroll()
        assert a.reserve(RESERVE, EA).good
        everywhere.client.call("vhost_create_blk_controller", ctrlr="late", dev_name="m")
        with Frontend(everywhere.sockets / "late") as blk:
            blk.start()
            assert blk.run(IN, 0, into=512)[0] == IOERR
            assert a.reserve(RELEASE, EA).good
            assert blk.run(IN, 0, into=512)[0] == OK
        everywhere.client.call("vhost_delete_controller", ctrlr="late")
        assert a.reserve(RESERVE, EA).good, "nobody asks one that is gone"


def test_guests_are_told_of_what_hosts_do(everywhere):
    with everywhere.guest("a") as a, Controller(everywhere.address, NQN, io_queues=1) as host:
        a.attentions()
        a.enroll()
        expect.status(host.io.execute(sqe.resv_register(1, 0), out=sqe.keys(0, 0x77)), Sc.SUCCESS)
        expect.status(host.io.execute(sqe.resv_acquire(1, 0, NVME_TYPE[WERO]), out=sqe.keys(0x77, 0)), Sc.SUCCESS)
        expect.status(host.io.execute(sqe.resv_release(1, 0, NVME_TYPE[WERO]), out=sqe.keys(0x77)), Sc.SUCCESS)
        assert a.attentions() == [RESERVATIONS_RELEASED]
        expect.status(host.io.execute(sqe.resv_acquire(1, 1, NVME_TYPE[WE]), out=sqe.keys(0x77, a.key)), Sc.SUCCESS)
        assert a.attentions() == [REGISTRATIONS_PREEMPTED]
