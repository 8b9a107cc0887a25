# SPDX-License-Identifier: BSD-3-Clause
"""Reads and writes: what is written is read, in every size and by every way of moving data (NVM 3.3; TCP 3.3.2)."""

import os
import random
import threading

import pytest

import expect
import sqe
from disks import BLOCK, FILE, NULL, RAM, RAM4K
from spec import Sc

MAX = 1 << 20
MEDIA = [RAM, RAM4K, FILE]
MEDIA_IDS = ["ram", "ram-4k", "file"]


@pytest.mark.parametrize("nsid", MEDIA, ids=MEDIA_IDS)
@pytest.mark.parametrize("blocks", [1, 2, 3, 7, 8, 15, 16, 17, 31, 64, 100, 255, 256])
def test_what_was_written_is_read(controller, nsid, blocks):
    data = os.urandom(blocks * BLOCK[nsid])
    controller.write(nsid, 5, data, BLOCK[nsid])
    assert controller.read(nsid, 5, blocks, BLOCK[nsid]) == data


@pytest.mark.parametrize("nsid", MEDIA, ids=MEDIA_IDS)
def test_the_largest_transfer_works(controller, nsid):
    data = os.urandom(MAX)
    controller.write(nsid, 256, data, BLOCK[nsid])
    assert controller.read(nsid, 256, MAX // BLOCK[nsid], BLOCK[nsid]) == data


@pytest.mark.parametrize("nsid", [RAM, FILE], ids=["ram", "file"])
@pytest.mark.parametrize("slba", range(1, 9))
def test_transfers_need_not_be_aligned_to_4_kib(controller, nsid, slba):
    data = os.urandom(9 * 512)
    controller.write(nsid, 1000, b"\x11" * 512 * 24)
    controller.write(nsid, 1000 + slba, data)
    assert controller.read(nsid, 1000, 24) == b"\x11" * 512 * slba + data + b"\x11" * 512 * (15 - slba)


@pytest.mark.parametrize("nsid", MEDIA, ids=MEDIA_IDS)
def test_the_last_block_can_be_written_and_read(controller, nsid):
    last = controller.namespace(nsid).nsze - 1
    data = os.urandom(BLOCK[nsid])
    if nsid == RAM:
        assert len(controller.read(nsid, last, 1)) == 512  # a healthy host of other modules may own it: only read
        return
    controller.write(nsid, last, data, BLOCK[nsid])
    assert controller.read(nsid, last, 1, BLOCK[nsid]) == data


def test_a_null_disk_takes_and_gives_anything(controller):
    controller.write(NULL, 123456789, os.urandom(4096))
    assert len(controller.read(NULL, 1 << 30, 8)) == 4096


@pytest.mark.parametrize("blocks", [1, 8, 16])
def test_small_writes_may_come_in_the_capsule_or_by_r2t(controller, blocks):
    for in_capsule in (True, False):
        data = os.urandom(blocks * 512)
        controller.io.must(sqe.write(RAM, 40, blocks), out=data, in_capsule=in_capsule)
        assert controller.read(RAM, 40, blocks) == data


@pytest.mark.parametrize("piece", [4, 512, 1000, 4096, 65536, 131072])
def test_the_host_may_cut_its_data_into_any_pieces(controller, piece):
    """TCP 3.3.2.2: one or more H2CData PDUs an R2T."""
    size = 4096 if piece == 4 else 262144
    data = os.urandom(size)
    controller.io.piece = piece
    controller.io.must(sqe.write(RAM, 0, size // 512), out=data, in_capsule=False)
    assert controller.read(RAM, 0, size // 512) == data


@pytest.mark.parametrize("maxr2t", [0, 1, 7, 0xFFFFFFFF])
def test_writes_work_whatever_maxr2t_is(connect, maxr2t):
    controller = connect(maxr2t=maxr2t, io_queues=1)
    data = os.urandom(MAX)
    controller.write(RAM, 0, data)
    assert controller.read(RAM, 0, MAX // 512) == data


@pytest.mark.parametrize("hdgst,ddgst", [(True, False), (False, True), (True, True)], ids=["header", "data", "both"])
@pytest.mark.parametrize("hpda", [0, 15])
@pytest.mark.parametrize("nsid", MEDIA, ids=MEDIA_IDS)
def test_digests_and_alignment_leave_data_as_it_is(connect, nsid, hdgst, ddgst, hpda):
    controller = connect(hdgst=hdgst, ddgst=ddgst, hpda=hpda, io_queues=1)
    for size in (4096, 8192, 12288, 65536, MAX):
        data = os.urandom(size)
        controller.write(nsid, 3, data, BLOCK[nsid])
        assert controller.read(nsid, 3, size // BLOCK[nsid], BLOCK[nsid]) == data


def test_force_unit_access_is_taken(controller):
    data = os.urandom(4096)
    for nsid in (RAM, FILE):
        controller.write(nsid, 0, data, fua=True)
        completion = controller.io.must(sqe.read(nsid, 0, 8, cdw13=0), read=4096)
        assert completion.data == data


def test_limited_retry_and_hints_are_taken(controller):
    """NVM 3.3.4: LR, DSM hints; a controller may ignore them."""
    entry = sqe.read(RAM, 0, 8, cdw13=0x77)
    entry[51] |= 0x80
    assert len(controller.io.must(entry, read=4096).data) == 4096


def test_reading_what_was_never_written_gives_zeroes(connect):
    controller = connect(io_queues=1)
    for nsid in MEDIA:
        assert controller.read(nsid, 60000 * 512 // BLOCK[nsid], 8, BLOCK[nsid]) == bytes(8 * BLOCK[nsid])


def test_data_is_seen_by_other_queues_at_once(connect):
    first, second = connect(io_queues=1), connect(io_queues=1)
    for number in range(50):
        data = number.to_bytes(8, "little") * 1024
        first.write(RAM, 300, data)
        assert second.read(RAM, 300, 16) == data


def test_namespaces_do_not_share_data(controller):
    for nsid in MEDIA:
        controller.write(nsid, 9, bytes([nsid]) * BLOCK[nsid], BLOCK[nsid])
    for nsid in MEDIA:
        assert controller.read(nsid, 9, 1, BLOCK[nsid]) == bytes([nsid]) * BLOCK[nsid]


# -- how completions come --------------------------------------------------------------------------------------------


def test_a_read_ends_with_a_response_when_flow_control_is_on(connect):
    controller = connect(io_queues=1, flow_control=True)
    completion = controller.io.must(sqe.read(RAM, 0, 8), read=4096)
    assert not completion.success_flag  # SQHD has to come somehow


def test_a_read_ends_with_the_success_flag_when_flow_control_is_off(connect):
    controller = connect(io_queues=1, flow_control=False)
    assert not controller.io.flow_control
    for blocks in (1, 8, 256):
        assert controller.io.must(sqe.read(RAM, 0, blocks), read=blocks * 512).success_flag


def test_a_failed_read_ends_with_a_response(connect):
    controller = connect(io_queues=1, flow_control=False)
    completion = controller.io.execute(sqe.read(RAM, 1 << 40, 1), read=512)
    expect.status(completion, Sc.LBA_RANGE)
    assert not completion.success_flag and not completion.data


def test_a_successful_write_has_nothing_in_its_dwords(controller):
    completion = controller.write(RAM, 0, bytes(512))
    assert completion.dw0 == completion.dw1 == 0 and not completion.dnr and not completion.more


# -- many at once ----------------------------------------------------------------------------------------------------


class Model:
    """A part of a namespace, owned by one writer, and what it must hold."""

    def __init__(self, queue, nsid, first, blocks, seed):
        self.queue, self.nsid, self.first, self.block = queue, nsid, first, BLOCK[nsid]
        self.blocks = blocks
        self.random = random.Random(seed)
        self.content = bytearray(blocks * self.block)
        queue.must(sqe.write_zeroes(nsid, first, blocks))

    def round(self, depth):
        """Writes to `depth` disjoint places at once, then reads places at once; compares."""
        slot = self.blocks // depth
        writes = []
        for index in range(depth):
            size = self.random.randint(1, slot)
            start = index * slot + self.random.randint(0, slot - size)
            data = self.random.randbytes(size * self.block)
            self.content[start * self.block:start * self.block + len(data)] = data
            writes.append((sqe.write(self.nsid, self.first + start, size), {"out": data}))
        for completion in self.queue.wait_all(self.queue.submit_all(writes)):
            expect.status(completion, Sc.SUCCESS)
        reads = []
        for _ in range(depth):
            size = self.random.randint(1, slot)
            start = self.random.randint(0, self.blocks - size)
            reads.append((start, size))
        commands = self.queue.submit_all(
            [(sqe.read(self.nsid, self.first + start, size), {"read": size * self.block}) for start, size in reads])
        for (start, size), completion in zip(reads, self.queue.wait_all(commands)):
            expect.status(completion, Sc.SUCCESS)
            assert completion.data == self.content[start * self.block:(start + size) * self.block]


@pytest.mark.parametrize("nsid", MEDIA, ids=MEDIA_IDS)
@pytest.mark.parametrize("flow_control", [True, False], ids=["sqhd", "no-sqhd"])
def test_a_full_queue_loses_and_mixes_nothing(connect, nsid, flow_control):
    controller = connect(io_queues=1, io_sqsize=63, flow_control=flow_control)
    model = Model(controller.io, nsid, 0, 63 * 40 * 512 // BLOCK[nsid], seed=nsid)
    for _ in range(4):
        model.round(63)


@pytest.mark.parametrize("digests", [False, True], ids=["plain", "digests"])
def test_several_queues_at_once_lose_and_mix_nothing(connect, digests):
    """Four queues in four threads, on three namespaces, each against its own model."""
    controllers = [connect(io_queues=2, hdgst=digests, ddgst=digests) for _ in range(2)]
    queues = [queue for controller in controllers for queue in controller.queues]
    failures = []

    def work(number, queue):
        try:
            nsid = MEDIA[number % 3]
            model = Model(queue, nsid, 20000 * 512 // BLOCK[nsid] + number * 1024, 1024 * 512 // BLOCK[nsid],
                          seed=number)
            for _ in range(8):
                model.round(16)
        except BaseException as error:  # pylint: disable=broad-except
            failures.append(error)

    threads = [threading.Thread(target=work, args=pair) for pair in enumerate(queues)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_a_block_is_never_seen_torn(connect):
    """A reader beside a writer sees each block wholly old or wholly new (AWUN at least one block)."""
    writer, reader = connect(io_queues=1), connect(io_queues=1)
    writer.write(RAM, 2000, bytes(512 * 64))
    for number in range(1, 40):
        data = bytes([number]) * 512 * 64
        pending = writer.io.submit(sqe.write(RAM, 2000, 64), out=data)
        seen = reader.read(RAM, 2000, 64)
        for index in range(64):
            assert len(set(seen[index * 512:(index + 1) * 512])) == 1
        writer.io.wait(pending)


@pytest.mark.parametrize("nsid", [RAM, RAM4K], ids=["ram", "ram-4k"])
@pytest.mark.parametrize("size", [65536, 131072])
@pytest.mark.parametrize("digests", [False, True], ids=["plain", "digests"])
def test_what_is_overwritten_while_a_slow_reader_takes_it_is_whole(connect, nsid, size, digests):
    """Reads that the socket takes in part, and only slowly, while the same blocks are written anew all the time: each
    block is wholly of one write, and digests are right (the host checks them)."""
    block = BLOCK[nsid]
    blocks, first = size // block, (20 << 20) // block
    writer = connect(io_queues=1)
    reader = connect(io_queues=1, io_sqsize=127, hdgst=digests, ddgst=digests, receive_buffer=4096)
    writer.write(nsid, first, bytes(size), block)
    for _ in range(2):
        reads = reader.io.submit_all([(sqe.read(nsid, first, blocks), {"read": size})] * 120)
        for number, read in enumerate(reads):
            writer.write(nsid, first, bytes([number]) * size, block)
            completion = reader.io.wait(read)
            expect.status(completion, Sc.SUCCESS)
            for at in range(0, size, block):
                assert completion.data[at:at + block] == completion.data[at:at + 1] * block
