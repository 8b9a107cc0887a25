# SPDX-License-Identifier: BSD-3-Clause
"""Flush, Write Zeroes, Dataset Management, Compare, Verify and Copy (NVM 3.3)."""

import os
import struct

import pytest

import expect
import sqe
from disks import BLOCK, FILE, NULL, RAM, RAM4K
from host import Controller
from spec import ALL_NAMESPACES, IO_OVERLAP, IO_SIZE_LIMIT, Sc
from structs import IdentifyController as Id
from target import Target

MEDIA = pytest.mark.parametrize("nsid", [RAM, RAM4K, FILE], ids=["ram", "ram-4k", "file"])


def fill(controller, nsid, slba, blocks):
    """Random content for blocks of a namespace; returns it."""
    data = os.urandom(blocks * BLOCK[nsid])
    step = (1 << 20) // BLOCK[nsid]
    for first in range(0, blocks, step):
        part = data[first * BLOCK[nsid]:(first + step) * BLOCK[nsid]]
        controller.write(nsid, slba + first, part, BLOCK[nsid])
    return data


def content(controller, nsid, slba, blocks):
    step = (1 << 20) // BLOCK[nsid]
    return b"".join(controller.read(nsid, slba + first, min(step, blocks - first), BLOCK[nsid])
                    for first in range(0, blocks, step))


# -- flush -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nsid", [RAM, RAM4K, FILE, NULL])
def test_flush_of_each_namespace_works(controller, nsid):
    controller.flush(nsid)


def test_flush_of_all_namespaces_is_as_announced(controller):
    """VWC bits 2:1 (Base 5.1.13.2.1): 10b, the broadcast NSID fails with Invalid Namespace or Format; 11b, it works."""
    completion = controller.io.execute(sqe.flush(ALL_NAMESPACES))
    kind = controller.identity.vwc >> 1 & 3
    if kind == 3:
        expect.status(completion, Sc.SUCCESS)
    else:
        expect.status(completion, Sc.INVALID_NAMESPACE, Sc.INVALID_FIELD)


def test_flushes_and_writes_mix(controller):
    batch = []
    for index in range(10):
        batch += [(sqe.write(FILE, index * 8, 8), {"out": bytes([index]) * 4096}), (sqe.flush(FILE), {})]
    for completion in controller.io.wait_all(controller.io.submit_all(batch)):
        expect.status(completion, Sc.SUCCESS)
    assert controller.read(FILE, 72, 8) == b"\x09" * 4096


# -- write zeroes ----------------------------------------------------------------------------------------------------


@MEDIA
@pytest.mark.parametrize("start,blocks", [(0, 1), (1, 1), (7, 2), (3, 13), (5, 100), (0, 256), (1, 254)])
def test_write_zeroes_zeroes_its_blocks_and_no_other(controller, nsid, start, blocks):
    before = fill(controller, nsid, 100, 256)
    controller.io.must(sqe.write_zeroes(nsid, 100 + start, blocks))
    size = BLOCK[nsid]
    expected = before[:start * size] + bytes(blocks * size) + before[(start + blocks) * size:]
    assert content(controller, nsid, 100, 256) == expected


@MEDIA
def test_write_zeroes_may_deallocate(controller, nsid):
    """DEAC: whether it deallocates or not, the blocks read as DLFEAT says, and that is zero here (NVM 3.3.8)."""
    fill(controller, nsid, 0, 512)
    controller.io.must(sqe.write_zeroes(nsid, 0, 512, deac=True))
    assert not any(content(controller, nsid, 0, 512))


@pytest.mark.parametrize("nsid", [RAM, FILE], ids=["ram", "file"])
def test_write_zeroes_is_not_limited_by_mdts(controller, nsid):
    """65,536 blocks, unless CNS 06h names a smaller limit in WZSL (NVM 4.1.5.4)."""
    limit = controller.identify(0x06, csi=0)[1]
    if limit:
        pytest.skip(f"WZSL is {limit}")
    data = fill(controller, nsid, 65535, 2)
    controller.io.must(sqe.write_zeroes(nsid, 0, 65536))
    assert controller.read(nsid, 65535, 2) == bytes(512) + data[512:]


# -- dataset management ----------------------------------------------------------------------------------------------


@MEDIA
@pytest.mark.parametrize("start,blocks", [(0, 256), (1, 1), (3, 100), (8, 8), (16, 128)])
def test_deallocated_blocks_read_as_zero_and_others_stay(controller, nsid, start, blocks):
    """Deallocating is a hint for parts of the medium's own unit: a block then reads as before or as zero. Our block
    sizes all are units of their media, or the blocks keep their content."""
    before = fill(controller, nsid, 0, 256)
    controller.io.must(sqe.dsm(nsid, 1), out=sqe.dsm_range(start, blocks))
    size = BLOCK[nsid]
    after = content(controller, nsid, 0, 256)
    assert after[:start * size] == before[:start * size]
    assert after[(start + blocks) * size:] == before[(start + blocks) * size:]
    for index in range(start, start + blocks):
        block = after[index * size:(index + 1) * size]
        assert block in (bytes(size), before[index * size:(index + 1) * size])
    if start == 0:
        assert not any(after)


@MEDIA
def test_256_ranges_at_once(controller, nsid):
    size = BLOCK[nsid]
    unit = 8 if size == 512 else 1
    fill(controller, nsid, 0, 256 * 2 * unit)
    ranges = b"".join(sqe.dsm_range(2 * unit * index, unit) for index in range(256))
    controller.io.must(sqe.dsm(nsid, 256), out=ranges)
    after = content(controller, nsid, 0, 256 * 2 * unit)
    for index in range(0, 512, 2):
        assert not any(after[index * unit * size:(index + 1) * unit * size])
        assert any(after[(index + 1) * unit * size:(index + 2) * unit * size])


def test_dsm_without_deallocate_changes_nothing(controller):
    before = fill(controller, RAM, 0, 64)
    controller.io.must(sqe.dsm(RAM, 1, deallocate=False), out=sqe.dsm_range(0, 64, attributes=0x5))
    assert content(controller, RAM, 0, 64) == before


def test_dsm_of_an_empty_range_changes_nothing(controller):
    before = fill(controller, RAM, 0, 64)
    controller.io.must(sqe.dsm(RAM, 2), out=sqe.dsm_range(0, 0) + sqe.dsm_range(32, 0))
    assert content(controller, RAM, 0, 64) == before


def test_dsm_beyond_the_end_is_out_of_range_or_ignored(controller):
    """NVM 3.3.3: LBA Out of Range if the controller checks; as a hint it may be let pass."""
    size = controller.namespace(FILE).nsze
    for slba, blocks in ((size, 1), (size - 1, 2), (1 << 60, 8), (0xFFFFFFFF_FFFFFFFF, 0xFFFFFFFF)):
        completion = controller.io.execute(sqe.dsm(FILE, 1), out=sqe.dsm_range(slba, blocks))
        expect.status(completion, Sc.LBA_RANGE)


def test_dsm_with_too_little_data_is_refused(controller):
    expect.status(controller.io.execute(sqe.dsm(RAM, 4), out=sqe.dsm_range(0, 1)), Sc.SGL_LENGTH)


def test_dsm_by_r2t(controller):
    fill(controller, RAM, 0, 64)
    controller.io.must(sqe.dsm(RAM, 1), out=sqe.dsm_range(0, 64), in_capsule=False)
    assert not any(content(controller, RAM, 0, 64))


# -- compare ---------------------------------------------------------------------------------------------------------


@MEDIA
@pytest.mark.parametrize("blocks", [1, 3, 16, 17, 256])
def test_compare_of_equal_data_succeeds(controller, nsid, blocks):
    data = fill(controller, nsid, 33, blocks)
    controller.io.must(sqe.compare(nsid, 33, blocks), out=data)


@MEDIA
@pytest.mark.parametrize("where", [0, 511, 512, -1])
def test_compare_of_different_data_fails(controller, nsid, where):
    data = bytearray(fill(controller, nsid, 33, 32))
    data[where] ^= 1
    completion = expect.status(controller.io.execute(sqe.compare(nsid, 33, 32), out=bytes(data)), Sc.COMPARE)
    assert not completion.data


# -- verify ----------------------------------------------------------------------------------------------------------


@MEDIA
@pytest.mark.parametrize("blocks", [1, 8, 256])
def test_verify_of_readable_blocks_succeeds(controller, nsid, blocks):
    controller.io.must(sqe.verify(nsid, 0, blocks))


def test_verify_is_limited_as_announced(controller):
    limit = controller.identify(0x06, csi=0)[0]
    if limit:
        largest = (4096 << limit) // 512
        if largest < 65536:
            expect.status(controller.io.execute(sqe.verify(RAM, 0, largest + 1)), Sc.INVALID_FIELD)
            controller.io.must(sqe.verify(RAM, 0, largest))
    else:
        controller.io.must(sqe.verify(RAM, 0, 65536))


# -- copy ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def copier(controller):
    if not controller.identity.can(Id.COPY):
        pytest.skip("Copy is not announced")
    return controller


def do_copy(controller, nsid, to, ranges, **more):
    return controller.io.execute(sqe.copy(nsid, to, len(ranges), **more),
                                 out=b"".join(sqe.copy_range(*r) for r in ranges))


@MEDIA
@pytest.mark.parametrize("blocks", [1, 5, 64])
def test_copy_of_one_range(copier, nsid, blocks):
    data = fill(copier, nsid, 10, blocks)
    fill(copier, nsid, 1000, blocks)
    expect.status(do_copy(copier, nsid, 1000, [(10, blocks)]), Sc.SUCCESS)
    assert content(copier, nsid, 1000, blocks) == data
    assert content(copier, nsid, 10, blocks) == data


@MEDIA
def test_copy_gathers_several_ranges_in_order(copier, nsid):
    namespace = copier.namespace(nsid)
    count = min(16, namespace.msrc + 1)
    ranges = [(200 * (count - index), 1 + index % min(5, namespace.mssrl)) for index in range(count)]
    data = b"".join(fill(copier, nsid, *each) for each in ranges)
    expect.status(do_copy(copier, nsid, 8000, ranges), Sc.SUCCESS)
    assert content(copier, nsid, 8000, sum(blocks for _, blocks in ranges)) == data


@MEDIA
def test_copy_up_to_its_limits(copier, nsid):
    namespace = copier.namespace(nsid)
    blocks = min(namespace.mssrl, namespace.mcl, 4096)
    data = fill(copier, nsid, 0, blocks)
    expect.status(do_copy(copier, nsid, 6000, [(0, blocks)]), Sc.SUCCESS)
    assert content(copier, nsid, 6000, blocks) == data


@MEDIA
def test_copy_beyond_its_limits_is_refused(copier, nsid):
    """NVM 3.3.2: Command Size Limit Exceeded for MSSRL, MSRC and MCL."""
    namespace = copier.namespace(nsid)
    if namespace.mssrl < 65535:
        expect.status(do_copy(copier, nsid, 8000, [(0, namespace.mssrl + 1)]), IO_SIZE_LIMIT)
    if namespace.msrc < 255:
        expect.status(do_copy(copier, nsid, 8000, [(0, 1)] * (namespace.msrc + 2)), IO_SIZE_LIMIT)
    each = min(namespace.mssrl, 65535)
    count = namespace.mcl // each + 1
    if count <= namespace.msrc + 1:
        expect.status(do_copy(copier, nsid, 8000, [(0, each)] * count), IO_SIZE_LIMIT)


def test_copy_from_or_to_beyond_the_end_is_out_of_range(copier):
    size = copier.namespace(FILE).nsze
    for to, source in ((0, (size, 1)), (0, (size - 1, 2)), (size, (0, 1)), (size - 1, (0, 2)), (1 << 60, (0, 1)),
                       (0, (0xFFFFFFFF_FFFFFFFF, 2))):
        expect.status(do_copy(copier, FILE, to, [source]), Sc.LBA_RANGE)


def test_copy_onto_itself_is_refused_or_right(copier):
    """NVM 3.3.2: overlapping source and destination give Overlapping I/O Range, or the result is not defined."""
    before = fill(copier, RAM, 0, 16)
    completion = do_copy(copier, RAM, 4, [(0, 8)])
    expect.status(completion, Sc.SUCCESS, IO_OVERLAP)
    assert content(copier, RAM, 12, 4) == before[12 * 512:]


@pytest.mark.parametrize("descriptor_format", [1, 2, 3, 4, 15])
def test_copy_with_a_descriptor_format_that_is_not_announced_is_refused(copier, descriptor_format):
    if copier.identity.cdfs >> descriptor_format & 1:
        pytest.skip("announced")
    entry = sqe.copy(RAM, 100, 1, descriptor_format)
    completion = copier.io.execute(entry, out=sqe.copy_range(0, 1) + bytes(32))
    expect.status(completion, Sc.INVALID_FIELD)


def test_copy_with_too_little_data_is_refused(copier):
    count = min(2, copier.namespace(RAM).msrc + 1)
    expect.status(copier.io.execute(sqe.copy(RAM, 100, count), out=sqe.copy_range(0, 1)[:16]), Sc.SGL_LENGTH)


def test_copy_by_r2t(copier):
    data = fill(copier, RAM, 0, 4)
    copier.io.must(sqe.copy(RAM, 100, 1), out=sqe.copy_range(0, 4), in_capsule=False)
    assert content(copier, RAM, 100, 4) == data


def test_a_failed_copy_says_how_far_it_came(copier):
    """NVM 3.3.2: dword 0 is the number of the lowest range that was not copied."""
    if copier.namespace(RAM).msrc < 1:
        pytest.skip("one range at most")
    fill(copier, RAM, 0, 8)
    completion = expect.status(do_copy(copier, RAM, 100, [(0, 1), (1 << 50, 1)]), Sc.LBA_RANGE)
    assert completion.dw0 in (0, 1)


def test_a_copy_that_fails_in_the_middle_names_the_first_range_not_copied(tmp_path):
    """The file is cut short under the disk: what was beyond cannot be read."""
    path = tmp_path / "short.img"
    path.write_bytes(os.urandom(1 << 20))
    os.truncate(path, 8 << 20)
    with Target(path) as target, Controller(target.address, target.nqn, io_queues=1) as controller:
        os.truncate(path, 1 << 20)
        here, beyond = [(0, 3), (100, 5), (50, 1), (7, 2)], (8000, 1)
        for first in range(5):
            ranges = here[:first] + [beyond] + here[first:]
            completion = expect.status(do_copy(controller, 1, 1000, ranges), Sc.UNRECOVERED_READ)
            assert completion.dw0 == first
            for start, (lba, blocks) in zip((1000, 1003, 1008, 1009), here[:first]):
                assert content(controller, 1, start, blocks) == content(controller, 1, lba, blocks)


# -- what a null disk can --------------------------------------------------------------------------------------------


def test_a_null_disk_takes_all_commands(controller):
    controller.io.must(sqe.write_zeroes(NULL, 0, 65536)) if not controller.identify(6, csi=0)[1] else None
    controller.io.must(sqe.dsm(NULL, 1), out=sqe.dsm_range(0, 0x7FFFFFFF))
    controller.io.must(sqe.verify(NULL, 0, 8))
    assert struct.unpack("<Q", controller.read(NULL, 0, 1)[:8])
