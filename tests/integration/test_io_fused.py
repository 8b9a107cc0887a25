# SPDX-License-Identifier: BSD-3-Clause
"""Compare and Write as one fused operation (Base 3.4.2; NVM 2.1.4.3)."""

import os
import threading

import pytest

import expect
import sqe
from disks import BLOCK, FILE, RAM, RAM4K
from spec import FUSE_FIRST, FUSE_SECOND, Sc

MEDIA = pytest.mark.parametrize("nsid", [RAM, RAM4K, FILE], ids=["ram", "ram-4k", "file"])


def pair(nsid, slba, blocks, compare, write, **options):
    """The two commands, for submit_all."""
    return [(sqe.compare(nsid, slba, blocks, fuse=FUSE_FIRST), {"out": compare, **options}),
            (sqe.write(nsid, slba, blocks, fuse=FUSE_SECOND), {"out": write, **options})]


def fused(queue, *arguments, **options):
    return queue.wait_all(queue.submit_all(pair(*arguments, **options)))


@MEDIA
@pytest.mark.parametrize("in_capsule", [True, False], ids=["capsule", "r2t"])
def test_equal_data_is_replaced(controller, nsid, in_capsule):
    size = BLOCK[nsid]
    old, new = os.urandom(size), os.urandom(size)
    controller.write(nsid, 8, old, size)
    for completion in fused(controller.io, nsid, 8, 1, old, new, in_capsule=in_capsule):
        expect.status(completion, Sc.SUCCESS)
    assert controller.read(nsid, 8, 1, size) == new


@MEDIA
@pytest.mark.parametrize("in_capsule", [True, False], ids=["capsule", "r2t"])
def test_different_data_is_left(controller, nsid, in_capsule):
    size = BLOCK[nsid]
    old = os.urandom(size)
    controller.write(nsid, 8, old, size)
    compare, write = fused(controller.io, nsid, 8, 1, os.urandom(size), os.urandom(size), in_capsule=in_capsule)
    expect.status(compare, Sc.COMPARE)
    expect.status(write, Sc.FAILED_FUSED)
    assert controller.read(nsid, 8, 1, size) == old


def test_the_second_alone_is_missing_its_first(controller):
    controller.write(RAM, 8, bytes(512))
    completion = controller.io.execute(sqe.write(RAM, 8, 1, fuse=FUSE_SECOND), out=b"\x01" * 512)
    expect.status(completion, Sc.MISSING_FUSED)
    assert controller.read(RAM, 8, 1) == bytes(512)


def test_the_first_followed_by_another_command_is_missing_its_second(controller):
    first = controller.io.submit(sqe.compare(RAM, 8, 1, fuse=FUSE_FIRST), out=bytes(512))
    other = controller.io.submit(sqe.read(RAM, 8, 1), read=512)
    expect.status(controller.io.wait(first), Sc.MISSING_FUSED)
    expect.status(controller.io.wait(other), Sc.SUCCESS)


def test_two_firsts_are_no_pair(controller):
    controller.write(RAM, 8, bytes(512))
    commands = [controller.io.submit(sqe.compare(RAM, 8, 1, fuse=FUSE_FIRST), out=bytes(512)) for _ in range(2)]
    expect.status(controller.io.wait(commands[0]), Sc.MISSING_FUSED)
    last = controller.io.submit(sqe.write(RAM, 8, 1, fuse=FUSE_SECOND), out=b"\x02" * 512)
    expect.status(controller.io.wait(commands[1]), Sc.SUCCESS)
    expect.status(controller.io.wait(last), Sc.SUCCESS)


def test_a_first_that_never_gets_its_second_hurts_nobody(connect):
    """It waits until its queue ends, then goes with it."""
    controller = connect(io_queues=2)
    controller.queues[0].submit(sqe.compare(RAM, 8, 1, fuse=FUSE_FIRST), out=bytes(512))
    controller.queues[1].must(sqe.read(RAM, 8, 1), read=512)
    controller.queues[0].close()
    controller.queues[1].must(sqe.write(RAM, 8, 1), out=bytes(512))


@pytest.mark.parametrize("second", [
    lambda: sqe.write(RAM, 9, 1, fuse=FUSE_SECOND), lambda: sqe.write(RAM, 8, 2, fuse=FUSE_SECOND),
    lambda: sqe.write(FILE, 8, 1, fuse=FUSE_SECOND)], ids=["another LBA", "another length", "another namespace"])
def test_the_two_must_name_the_same_blocks(controller, second):
    """NVM 2.1.4.3: otherwise both are aborted with Invalid Field in Command."""
    entry = second()
    size = 1024 if entry[48] else 512
    controller.write(RAM, 8, bytes(1024))
    commands = controller.io.submit_all([
        (sqe.compare(RAM, 8, 1, fuse=FUSE_FIRST), {"out": bytes(512)}), (entry, {"out": b"\x03" * size})])
    for completion in controller.io.wait_all(commands):
        expect.status(completion, Sc.INVALID_FIELD, Sc.FAILED_FUSED, Sc.MISSING_FUSED)
    assert controller.read(RAM, 8, 2) == bytes(1024)


@pytest.mark.parametrize("first,second", [
    (sqe.write(RAM, 8, 1, fuse=FUSE_FIRST), sqe.compare(RAM, 8, 1, fuse=FUSE_SECOND)),
    (sqe.compare(RAM, 8, 1, fuse=FUSE_FIRST), sqe.compare(RAM, 8, 1, fuse=FUSE_SECOND)),
    (sqe.write(RAM, 8, 1, fuse=FUSE_FIRST), sqe.write(RAM, 8, 1, fuse=FUSE_SECOND))],
    ids=["write and compare", "two compares", "two writes"])
def test_only_compare_and_write_can_be_fused(controller, first, second):
    controller.write(RAM, 8, bytes(512))
    commands = controller.io.submit_all([(first, {"out": bytes(512)}), (second, {"out": bytes(512)})])
    for completion in controller.io.wait_all(commands):
        expect.status(completion, Sc.INVALID_FIELD, Sc.MISSING_FUSED, Sc.FAILED_FUSED)
    controller.read(RAM, 8, 1)


@pytest.mark.parametrize("entry,transfer", [
    (sqe.read(RAM, 0, 1, fuse=3), {"read": 512}), (sqe.write(RAM, 0, 1, fuse=3), {"out": bytes(512)})],
    ids=["read", "write"])
def test_the_reserved_fuse_value_is_refused(controller, entry, transfer):
    expect.status(controller.io.execute(entry, **transfer), Sc.INVALID_FIELD)


def test_admin_commands_cannot_be_fused(controller):
    for fuse in (FUSE_FIRST, FUSE_SECOND, 3):
        completion = controller.admin.execute(sqe.entry(0x18, fuse=fuse))
        expect.status(completion, Sc.INVALID_FIELD, Sc.MISSING_FUSED)


def test_a_pair_beyond_the_end_fails(controller):
    size = controller.namespace(FILE).nsze
    compare, write = fused(controller.io, FILE, size, 1, bytes(512), bytes(512))
    expect.status(compare, Sc.LBA_RANGE)
    expect.status(write, Sc.FAILED_FUSED, Sc.LBA_RANGE)


def test_a_pair_is_as_long_as_announced_at_most(controller):
    """ACWU or NACWU, 0's based (NVM 2.1.4.3); beyond it, Atomic Write Unit Exceeded (14h) or Invalid Field."""
    namespace = controller.namespace(RAM)
    most = (namespace.nacwu if namespace.nsfeat & 2 else controller.identity.acwu) + 1
    blocks = min(most, 2048)
    old, new = os.urandom(blocks * 512), os.urandom(blocks * 512)
    for first in range(0, blocks * 512, 1 << 20):
        controller.write(RAM, first // 512, old[first:first + (1 << 20)])
    for completion in fused(controller.io, RAM, 0, blocks, old, new):
        expect.status(completion, Sc.SUCCESS)
    assert controller.read(RAM, 0, blocks) == new
    if most < 2048:
        for completion in fused(controller.io, RAM, 0, most + 1, new + bytes(512), bytes(len(new) + 512)):
            assert completion.status in (0x014, Sc.INVALID_FIELD, Sc.FAILED_FUSED)
        assert controller.read(RAM, 0, blocks) == new


@MEDIA
def test_counters_raised_by_several_hosts_miss_no_step(connect, nsid):
    """What the operation is for: a lock-free counter on a shared disk."""
    size, steps, hosts = BLOCK[nsid], 25, 3
    controllers = [connect(io_queues=1) for _ in range(hosts)]
    controllers[0].write(nsid, 555, bytes(size), size)
    failures = []

    def work(controller):
        try:
            done = 0
            while done < steps:
                old = controller.read(nsid, 555, 1, size)
                new = (int.from_bytes(old[:8], "little") + 1).to_bytes(8, "little") + old[8:]
                compare, write = fused(controller.io, nsid, 555, 1, old, new)
                if compare.status == Sc.SUCCESS:
                    expect.status(write, Sc.SUCCESS)
                    done += 1
                else:
                    expect.status(compare, Sc.COMPARE)
                    expect.status(write, Sc.FAILED_FUSED)
        except BaseException as error:  # pylint: disable=broad-except
            failures.append(error)

    threads = [threading.Thread(target=work, args=(controller,)) for controller in controllers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    assert int.from_bytes(controllers[0].read(nsid, 555, 1, size)[:8], "little") == hosts * steps
