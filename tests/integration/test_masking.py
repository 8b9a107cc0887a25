# SPDX-License-Identifier: BSD-3-Clause
"""Namespaces that are attached to some hosts: what two hosts of one target see of them, over its two reactors."""

import os
import struct

import pytest

import expect
import sqe
from control import Control, Refused
from host import Controller
from spec import Feature, Sc
from structs import namespace_list
from target import wait_until

NQN = "nqn.2026-01.example:masked"
A, B = "nqn.2026-01.example:host-a", "nqn.2026-01.example:host-b"
COMMON, SECRET = 1, 2
MUCH = 64  # blocks, more than fit into a capsule
NS_CHANGED, ANA_CHANGED = 0x040002, 0x0C0302
NS_LOG, ANA_LOG = 0x04, 0x0C


@pytest.fixture
def control():
    with Control(reactors=2) as program:
        program("subsystem", NQN, "any-host")
        for name, more in (("common", (COMMON,)), ("secret", (SECRET, 1, "masked"))):
            program("open", name, "ram:8M")
            program("add-ns", NQN, name, *more)
        program.address = ("127.0.0.1", program("listen", "127.0.0.1:0"))
        program("start")
        yield program


class Host(Controller):
    """With queues on both reactors, that waits to be told of changes."""

    def __init__(self, control, hostnqn):
        super().__init__(control.address, NQN, hostnqn=hostnqn, io_queues=2)
        self.set_feature(Feature.ASYNC_EVENTS, 1 << 8 | 1 << 11)
        self.event = self.admin.submit(sqe.aer())

    def told(self):
        """What it was told since the last time, its log pages read: event, contents of the page."""
        self.admin.must(sqe.keep_alive())  # whatever was sent before has come before this
        found = []
        while self.event.completion:
            dw0 = self.event.completion.dw0
            found.append((dw0, self.get_log(dw0 >> 16, 4096)))
            self.event = self.admin.submit(sqe.aer())
            self.admin.must(sqe.keep_alive())
        return found

    def changed(self):
        """The namespaces that it was told of."""
        return [nsid for dw0, page in self.told() if dw0 == NS_CHANGED for nsid in namespace_list(page)]


def sees(host, nsid):
    """Whether all that tells of a namespace says so."""
    active = nsid in host.namespaces()
    assert (host.namespace(nsid).nsze > 0) == active
    page = host.get_log(ANA_LOG, 4096)
    groups, = struct.unpack_from("<H", page, 8)
    assert groups == 1
    count, = struct.unpack_from("<I", page, 16 + 4)
    assert (nsid in struct.unpack_from(f"<{count}I", page, 16 + 32)) == active
    for queue in host.queues:
        for command, more in ((sqe.read(nsid, 0, 1), {"read": 512}), (sqe.write(nsid, 0, 1), {"out": bytes(512)}),
                              (sqe.flush(nsid), {})):
            expect.status(queue.execute(command, **more), Sc.SUCCESS if active else Sc.INVALID_NAMESPACE)
    return active


def test_a_host_sees_what_is_attached_to_it_and_is_told_of_changes(control):
    with Host(control, A) as a, Host(control, B) as b:
        assert (sees(a, SECRET), sees(b, SECRET)) == (False, False)
        control("attach", NQN, SECRET, A)
        assert not sees(a, SECRET)
        control("apply")
        assert (a.changed(), b.told()) == ([SECRET], [])
        assert (sees(a, SECRET), sees(b, SECRET)) == (True, False)
        control("detach", NQN, SECRET, A)
        control.change("attach", NQN, SECRET, B)
        assert (a.changed(), b.changed()) == ([SECRET], [SECRET])
        assert (sees(a, SECRET), sees(b, SECRET)) == (False, True)
        for host in (a, b):
            host.flush()  # of all that it sees
            assert sees(host, COMMON)
            assert namespace_list(host.identify(0x10)) == [COMMON, SECRET]
    with Host(control, B) as b:
        assert sees(b, SECRET)


def test_what_cannot_be_attached_is_refused(control):
    for words in (("attach", NQN, COMMON, A), ("attach", NQN, 7, A), ("detach", NQN, SECRET, A),
                  ("attach", NQN, SECRET, "a")):
        with pytest.raises(Refused):
            control(*words)
    control("attach", NQN, SECRET, A)
    with pytest.raises(Refused, match="attached to host .* already"):
        control("attach", NQN, SECRET, A)


def test_a_write_for_a_namespace_that_is_taken_ends_when_its_data_is_here(control):
    """As with one that is removed (test_changes.py); and it is not written."""
    control("attach", NQN, SECRET, A)
    control.change("attach", NQN, SECRET, B)
    with Host(control, A) as a, Host(control, B) as b:
        queue = a.io
        queue.answer_r2ts = False
        write = queue.submit(sqe.write(SECRET, 0, MUCH), out=os.urandom(MUCH * 512))
        asked = queue.wait_r2t(write)
        first, *rest = queue.data_pdus(write, asked, piece=MUCH * 256)
        queue.send(first)
        control("detach", NQN, SECRET, A)
        control.begin("apply")
        while queue.execute(sqe.flush(SECRET)).status != Sc.INVALID_NAMESPACE:
            pass
        for _ in range(10):  # its requests are ended two messages later
            queue.must(sqe.read(COMMON, 0, 1), read=512)
        assert not write.completion, "answered before its data was here"
        assert b.read(SECRET, 0, MUCH) == bytes(MUCH * 512)
        queue.send(*rest)
        expect.status(queue.wait(write), Sc.INVALID_NAMESPACE)
        control.end()
        assert b.read(SECRET, 0, MUCH) == bytes(MUCH * 512)
        assert a.read(COMMON, 0, 1) == bytes(512)  # and the connection is well


def test_a_host_that_holds_on_to_a_namespace_that_is_taken_loses_its_connection(control):
    """It does not send what it was asked for: whoever is next must not wait for that."""
    control.change("attach", NQN, SECRET, A)
    with Host(control, A) as a:
        queue = a.io
        queue.answer_r2ts = False
        write = queue.submit(sqe.write(SECRET, 0, MUCH), out=os.urandom(MUCH * 512))
        queue.wait_r2t(write)
        control.change("detach", NQN, SECRET, A)
        queue.wait_closed()
        assert wait_until(lambda: "it holds on to a namespace that was taken from its host" in control.stderr)
        assert a.namespaces() == [COMMON]


def test_a_namespace_moves_to_another_ana_group(control):
    with Host(control, A) as a:
        control("ana", NQN, "all", 2, "inaccessible")
        control.change("ns-group", NQN, COMMON, 2)
        told = dict(a.told())
        assert namespace_list(told[NS_CHANGED]) == [COMMON]
        assert struct.unpack_from("<I", told[ANA_CHANGED], 16) == (2,)
        assert a.namespace(COMMON).anagrpid == 2
        expect.status(a.io.execute(sqe.read(COMMON, 0, 1), read=512), Sc.ANA_INACCESSIBLE)
        control.change("ns-group", NQN, COMMON, 1)
        a.read(COMMON, 0, 1)
