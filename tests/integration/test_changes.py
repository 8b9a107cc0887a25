# SPDX-License-Identifier: BSD-3-Clause
"""A target that is changed while a host has commands in flight."""

import os

import pytest

import expect
import sqe
from control import Control
from host import Controller
from spec import Sc

NQN = "nqn.2026-01.example:changed"
MUCH = 64  # blocks, more than fit into a capsule


@pytest.fixture
def control():
    """A target with two namespaces, and one reactor: what a change does there is done a few rounds later, and each
    command that it answers takes one."""
    with Control(reactors=1) as program:
        program("subsystem", NQN, "any-host")
        for nsid in (1, 2):
            program("open", f"disk{nsid}", "ram:8M")
            program("add-ns", NQN, f"disk{nsid}", nsid)
        program.address = ("127.0.0.1", program("listen", "127.0.0.1:0"))
        program("start")
        yield program


def test_a_write_to_a_removed_namespace_ends_when_its_data_is_here(control):
    """Not while the host sends the data that it was asked for: it would see the end of a command that it is still busy
    with, and Linux then stops in the middle of a PDU."""
    with Controller(control.address, NQN, io_queues=1) as host:
        queue = host.io
        queue.answer_r2ts = False
        write = queue.submit(sqe.write(2, 0, MUCH), out=os.urandom(MUCH * 512))
        asked = queue.wait_r2t(write)
        first, *rest = queue.data_pdus(write, asked, piece=MUCH * 256)
        queue.send(first)
        control("remove-ns", NQN, 2)
        control.begin("apply")
        while queue.execute(sqe.flush(2)).status != Sc.INVALID_NAMESPACE:
            pass
        for _ in range(10):  # its requests are ended two messages later
            queue.must(sqe.read(1, 0, 1), read=512)
        assert not write.completion, "answered before its data was here"
        queue.send(*rest)
        expect.status(queue.wait(write), Sc.INVALID_NAMESPACE)
        control.end()
        control("close", "disk2")


def test_a_write_cache_is_announced_before_a_disk_comes_that_has_one(control):
    """Hosts look at VWC when they connect, and Linux only then: having seen none, it would never flush what comes."""
    with Controller(control.address, NQN, io_queues=1) as host:  # to RAM disks
        assert host.identity.vwc & 1
