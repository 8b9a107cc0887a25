# SPDX-License-Identifier: BSD-3-Clause
"""A subsystem that is paused and resumed while hosts have commands in flight: slow I/O, and no error."""

import contextlib
import os

import pytest

import expect
import sqe
from control import Control, Refused
from host import Bystander, Controller
from spec import FUSE_FIRST, FUSE_SECOND, Sc

NQN = "nqn.2026-01.example:paused"
FREE, RAM, FILE = 1, 2, 3
SMALL, LARGE = 8, 64  # blocks, in a capsule and more than fit into one
POOL = 16 << 20  # bytes of a reactor's buffers


@contextlib.contextmanager
def running(file=None, **options):
    """A target with two namespaces, or with three, of which the tests leave the first alone."""
    with Control(**options) as program:
        program("subsystem", NQN, "any-host")
        if file:
            file.write_bytes(bytes(8 << 20))
        for nsid, url in ((FREE, "ram:8M"), (RAM, "ram:8M"), *(((FILE, file),) if file else ())):
            program("open", f"disk{nsid}", url)
            program("add-ns", NQN, f"disk{nsid}", nsid)
        program.address = ("127.0.0.1", program("listen", "127.0.0.1:0"))
        program("start")
        yield program


@pytest.fixture
def control(tmp_path):
    """One reactor: each command that a namespace which is not paused answers takes it a round at least."""
    with running(tmp_path / "disk") as program:
        yield program


@pytest.fixture
def host(control):
    with Controller(control.address, NQN, io_queues=1) as it:
        yield it


def stays(host, *commands):
    """What is held does not end, while others do that came after it."""
    for _ in range(10):
        host.io.must(sqe.read(FREE, 0, 1), read=512)
        host.io.must(sqe.write(FREE, 0, SMALL), out=bytes(SMALL * 512))
        host.admin.must(sqe.keep_alive())
    for command in commands:
        assert not command.completion, command.completion


MEDIA = pytest.mark.parametrize("nsid", [RAM, FILE], ids=["ram", "file"])


@MEDIA
def test_a_read_is_held(control, host, nsid):
    data = os.urandom(LARGE * 512)
    host.write(nsid, 0, data)
    control("pause", NQN, nsid)
    reads = [host.io.submit(sqe.read(nsid, 0, LARGE), read=LARGE * 512) for _ in range(8)]
    stays(host, *reads)
    control("resume", NQN, nsid)
    assert [completion.data for completion in host.io.wait_all(reads)] == [data] * 8
    assert host.read(nsid, 0, LARGE) == data


@MEDIA
@pytest.mark.parametrize("blocks", [SMALL, LARGE], ids=["capsule", "r2t"])
def test_a_write_is_held(control, host, nsid, blocks):
    old, new = os.urandom(blocks * 512), os.urandom(blocks * 512)
    host.write(nsid, 0, old)
    control("pause", NQN, nsid)
    write = host.io.submit(sqe.write(nsid, 0, blocks), out=new)
    stays(host, write)
    control("resume", NQN, nsid)
    expect.status(host.io.wait(write), Sc.SUCCESS)
    assert host.read(nsid, 0, blocks) == new


@MEDIA
def test_a_write_whose_data_was_asked_for_before_is_held_when_it_is_here(control, host, nsid):
    new = os.urandom(LARGE * 512)
    host.io.answer_r2ts = False
    write = host.io.submit(sqe.write(nsid, 0, LARGE), out=new)
    asked = host.io.wait_r2t(write)
    first, *rest = host.io.data_pdus(write, asked, piece=LARGE * 256)
    host.io.send(first)
    control("pause", NQN, nsid)  # does not wait for the host
    host.io.send(*rest)
    stays(host, write)
    control("resume", NQN, nsid)
    expect.status(host.io.wait(write), Sc.SUCCESS)
    assert host.read(nsid, 0, LARGE) == new


@MEDIA
def test_a_write_whose_data_comes_when_it_is_over_is_not_held(control, host, nsid):
    new = os.urandom(LARGE * 512)
    host.io.answer_r2ts = False
    write = host.io.submit(sqe.write(nsid, 0, LARGE), out=new)
    asked = host.io.wait_r2t(write)
    for _ in range(2):
        control("pause", NQN, nsid)
        control("resume", NQN, nsid)
    host.io.send(*host.io.data_pdus(write, asked))
    expect.status(host.io.wait(write), Sc.SUCCESS)
    assert host.read(nsid, 0, LARGE) == new


@MEDIA
@pytest.mark.parametrize("in_capsule, before", [(True, 0), (False, 0), (True, 1), (False, 1), (False, 2)],
                         ids=["capsule", "r2t", "capsule-one-before", "r2t-one-before", "data-after"])
def test_a_fused_command_is_held(control, host, nsid, in_capsule, before):
    old, new = os.urandom(512), os.urandom(512)
    host.write(nsid, 0, old)
    halves = [(sqe.compare(nsid, 0, 1, fuse=FUSE_FIRST), old), (sqe.write(nsid, 0, 1, fuse=FUSE_SECOND), new)]
    host.io.answer_r2ts = before != 2
    commands = [host.io.submit(entry, out=data, in_capsule=in_capsule) for entry, data in halves[:before]]
    asked = [host.io.wait_r2t(command) for command in commands] if before == 2 else []
    if not asked:
        host.io.must(sqe.flush(FREE)) if before == 0 else host.admin.must(sqe.keep_alive())
    control("pause", NQN, nsid)
    commands += [host.io.submit(entry, out=data, in_capsule=in_capsule) for entry, data in halves[before:]]
    for command, r2t in zip(commands, asked):
        host.io.send(*host.io.data_pdus(command, r2t))
    host.io.answer_r2ts = True
    stays(host, *commands)
    control("resume", NQN, nsid)
    for completion in host.io.wait_all(commands):
        expect.status(completion, Sc.SUCCESS)
    assert host.read(nsid, 0, 1) == new


def test_what_is_held_can_be_aborted_and_its_data_still_be_sent(control, host):
    host.write(RAM, 0, bytes(LARGE * 512))
    host.io.answer_r2ts = False
    asked_for = host.io.submit(sqe.write(RAM, 0, LARGE), out=b"\xff" * LARGE * 512)
    asked = host.io.wait_r2t(asked_for)
    control("pause", NQN, RAM)
    held = host.io.submit(sqe.write(RAM, 0, SMALL), out=b"\xff" * SMALL * 512)
    stays(host, held, asked_for)
    for command in (held, asked_for):
        assert host.admin.must(sqe.abort(command.cid, 1)).dw0 == 0
        expect.status(host.io.wait(command), Sc.ABORT_REQUESTED)
    host.io.send(*host.io.data_pdus(asked_for, asked))
    control("resume", NQN, RAM)
    assert host.read(RAM, 0, LARGE) == bytes(LARGE * 512)


def test_it_is_not_paused_before_hosts_have_what_was_lent(control, host):
    """Data of a RAM disk is sent from its memory."""
    data = os.urandom(1 << 20)
    host.write(RAM, 0, data)
    reads = host.io.submit_all([(sqe.read(RAM, 0, 2048), {"read": 1 << 20})] * 31)  # more than sockets hold
    host.io.wait(reads[0])  # and with it they all came
    control.begin("pause", NQN, RAM)
    for _ in range(20):
        host.admin.must(sqe.keep_alive())
    assert not control.ended(), "paused while it sends"
    for read in reads:
        assert host.io.wait(read).data == data
    control.end()
    control("resume", NQN, RAM)


@pytest.mark.parametrize("only_ram", [True, False], ids=["ram", "file-too"])
def test_hosts_that_write_more_than_there_is_memory_see_no_error(tmp_path, only_ram):
    """Commands that are held keep their data, and no more is received than there is room for, though data for RAM disks
    is used where it was received otherwise. Others go on."""
    with running(None if only_ram else tmp_path / "disk") as control, contextlib.ExitStack() as stack:
        bystander = stack.enter_context(contextlib.closing(Bystander(control.address, NQN, FREE)))
        control("pause", NQN, RAM)
        hosts = [stack.enter_context(Controller(control.address, NQN, io_queues=1, io_sqsize=127)) for _ in range(24)]
        for host in hosts:
            host.written = host.io.submit_all([(sqe.write(RAM, n * 16, 16), {"out": bytes([n]) * 8192})
                                               for n in range(100)])
        assert len(hosts) * 100 * 8192 > POOL
        for _ in range(10):
            bystander.check()
        control("resume", NQN, RAM)
        for host in hosts:
            for completion in host.io.wait_all(host.written):
                expect.status(completion, Sc.SUCCESS)
        bystander.check()
        for n in range(100):
            assert hosts[0].read(RAM, n * 16, 16) == bytes([n]) * 8192


def test_what_is_wrong_is_said(control):
    for command, nsid, error in (("pause", 9, "No such file"), ("resume", RAM, "No such file")):
        with pytest.raises(Refused, match=error):
            control(command, NQN, nsid)


@pytest.mark.tsan
@pytest.mark.parametrize("reactors", [1, 2, 3], ids=["one", "apart", "apart-two"])
def test_hosts_do_not_notice_pauses_that_come_thick(tmp_path, reactors):
    with running(tmp_path / "disk", reactors=reactors, apart=reactors > 1) as control, contextlib.ExitStack() as stack:
        hosts = [stack.enter_context(contextlib.closing(Bystander(control.address, NQN, nsid, first=n * 256)))
                 for nsid in (RAM, FILE) for n in range(2)]
        for n in range(60):
            nsid = (0, RAM, FILE)[n % 3]
            control("pause", NQN, nsid)
            if n % 2 and nsid:
                control("pause", NQN, FREE)
                control("resume", NQN, FREE)
            control("resume", NQN, nsid)
        for host in hosts:
            host.check()
