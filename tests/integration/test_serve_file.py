# SPDX-License-Identifier: BSD-3-Clause
"""Files and block devices behind the target: options, locking, what is on the disk afterwards, and a full disk."""

import os
import shutil
import subprocess

import pytest

import expect
import sqe
from disks import MIB
from host import Controller
from spec import IO_READ_ONLY_RANGE, Io, Sc
from structs import IdentifyController as Id
from target import Target, TargetError, binary


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk.img"
    with open(path, "wb") as file:
        file.truncate(64 * MIB)
    return path


def host_of(target):
    return Controller(target.address, target.nqn, io_queues=1)


def allocated(path):
    return os.stat(path).st_blocks * 512


# -- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["{path}", "file://{path}", "file:{path}"])
def test_a_file_may_be_named_by_path_or_url(image, name):
    with Target(name.format(path=image)) as target, host_of(target) as host:
        assert host.namespace(1).nsze == 64 * MIB // 512


def test_a_relative_path_is_taken(image):
    before = os.getcwd()
    os.chdir(image.parent)
    try:
        with Target(image.name) as target, host_of(target) as host:
            host.read(1, 0, 1)
    finally:
        os.chdir(before)


def test_block_4096_serves_blocks_of_4096(image):
    with Target(f"file://{image}?block=4096") as target, host_of(target) as host:
        assert host.namespace(1).block == 4096
        data = os.urandom(4096 * 3)
        host.write(1, 5, data, 4096)
        assert host.read(1, 5, 3, 4096) == data
    with open(image, "rb") as file:
        file.seek(5 * 4096)
        assert file.read(len(data)) == data


def test_a_read_only_disk_is_announced_and_kept(image):
    image.write_bytes(b"\x42" * MIB)
    with Target(f"file://{image}?ro=1") as target, host_of(target) as host:
        assert host.namespace(1).nsattr & 1  # write protected (Base 8.1.16; NVM 4.1.5.1)
        assert host.read(1, 0, 8) == b"\x42" * 4096
        wrong = [(sqe.write(1, 0, 1), {"out": bytes(512)}), (sqe.write_zeroes(1, 0, 1), {}),
                 (sqe.dsm(1, 1), {"out": sqe.dsm_range(0, 8)})]
        for entry, transfer in wrong:
            expected = [Sc.WRITE_PROTECTED, IO_READ_ONLY_RANGE]
            if entry[0] != Io.WRITE and not host.identity.can(Id.WRITE_ZEROES | Id.DSM):
                expected.append(Sc.INVALID_OPCODE)  # what no disk can is not announced
            expect.status(host.io.execute(entry, **transfer), *expected)
        host.flush(1)
        host.io.must(sqe.compare(1, 0, 1), out=b"\x42" * 512)
    assert image.read_bytes() == b"\x42" * MIB


def test_a_file_without_write_permission_needs_ro(image):
    """Root may write it all the same; then it is served."""
    image.chmod(0o400)
    if os.access(image, os.W_OK):
        pytest.skip("this user may write everything")
    result = subprocess.run([binary(), "serve", "-l", "127.0.0.1:0", str(image)], capture_output=True, text=True,
                            timeout=30, check=False)
    assert result.returncode == 2 and "ro=1" in result.stderr


def test_a_uuid_that_is_given_is_told(image):
    text = "6b1b2c3d-1111-4222-8333-944444444444"
    with Target(f"file://{image}?uuid={text}") as target, host_of(target) as host:
        assert bytes.fromhex(text.replace("-", "")) in host.identify(3, nsid=1)


def test_the_identity_of_a_file_is_the_same_after_a_restart(image):
    with Target(image) as target:
        with host_of(target) as host:
            before = host.identify(3, nsid=1), host.identity.text("sn")
        target.restart()
        with host_of(target) as host:
            assert (host.identify(3, nsid=1), host.identity.text("sn")) == before


# -- locking ---------------------------------------------------------------------------------------------------------


def second(*disks):
    return subprocess.run([binary(), "serve", "-l", "127.0.0.1:0", *map(str, disks)], capture_output=True, text=True,
                          timeout=30, check=False)


def test_a_file_is_served_by_one_process_only(image):
    with Target(image):
        result = second(image)
        assert result.returncode == 2
        assert len(result.stderr.splitlines()) == 1 and "disk.img" in result.stderr
    with Target(image):
        pass


def test_a_file_is_not_served_twice_by_one_process(image):
    assert second(image, image).returncode == 2
    link = image.parent / "link.img"
    link.symlink_to(image)
    assert second(image, link).returncode == 2


def test_two_readers_may_share_a_file(image):
    with Target(f"file://{image}?ro=1") as one, Target(f"file://{image}?ro=1") as two:
        with host_of(one) as first, host_of(two) as other:
            assert first.read(1, 0, 8) == other.read(1, 0, 8)


def test_a_lock_goes_with_its_process(image):
    with Target(image) as target:
        target.restart(kill=True)


# -- what is on the disk ---------------------------------------------------------------------------------------------


def test_data_is_in_the_file(image):
    data = os.urandom(MIB)
    with Target(image) as target, host_of(target) as host:
        host.write(1, 100, data)
        host.flush(1)
        with open(image, "rb") as file:
            file.seek(100 * 512)
            assert file.read(MIB) == data


@pytest.mark.parametrize("kill", [False, True], ids=["stop", "kill"])
def test_data_outlives_the_process(image, kill):
    data = os.urandom(256 * 1024)
    with Target(image) as target:
        with host_of(target) as host:
            host.write(1, 7, data)
            host.flush(1)
            target.restart(kill=kill)
        with host_of(target) as host:
            assert host.read(1, 7, 512) == data


def test_unaligned_blocks_of_512_are_written_exactly(image):
    """Whatever alignment direct I/O wants of the file system below."""
    content = bytearray(os.urandom(64 * 1024))
    image.write_bytes(bytes(content) + bytes(MIB))
    with Target(image) as target, host_of(target) as host:
        for slba, blocks in ((1, 1), (3, 7), (15, 2), (40, 33)):
            data = os.urandom(blocks * 512)
            host.write(1, slba, data)
            content[slba * 512:(slba + blocks) * 512] = data
            assert host.read(1, slba, blocks) == data
    assert image.read_bytes()[:len(content)] == content


def holes_work(directory):
    """True if the file system frees punched blocks."""
    path = directory / "probe"
    path.write_bytes(os.urandom(MIB))
    os.sync()
    full = allocated(path)
    if subprocess.run(["fallocate", "-p", "-o", "0", "-l", str(MIB), str(path)], capture_output=True,
                      check=False).returncode:
        return False
    freed = allocated(path) < full
    path.unlink()
    return freed


@pytest.mark.parametrize("how", ["dsm", "write zeroes with DEAC"])
def test_deallocating_frees_space_in_the_file(image, how):
    if not holes_work(image.parent):
        pytest.skip("this file system does not punch holes")
    with Target(image) as target, host_of(target) as host:
        for index in range(8):
            host.write(1, index * 2048, os.urandom(MIB))
        host.flush(1)
        full = allocated(image)
        assert full >= 8 * MIB
        if how == "dsm":
            host.io.must(sqe.dsm(1, 1), out=sqe.dsm_range(0, 8192))
        else:
            if not host.namespace(1).deac:
                pytest.skip("DEAC is not announced")
            for index in range(4):
                host.io.must(sqe.write_zeroes(1, index * 2048, 2048, deac=True))
        host.flush(1)
        assert allocated(image) <= full - 4 * MIB + 65536
        assert host.read(1, 8184, 8) == bytes(4096)
        assert any(host.read(1, 8192, 8))


def test_write_zeroes_without_deac_keeps_the_blocks_zero_and_the_size(image):
    with Target(image) as target, host_of(target) as host:
        host.write(1, 0, os.urandom(MIB))
        host.io.must(sqe.write_zeroes(1, 0, 2048))
        assert host.read(1, 0, 2048) == bytes(MIB)
    assert os.path.getsize(image) == 64 * MIB


def test_a_block_device_is_served(tmp_path):
    """A loop device, where there may be one."""
    if os.geteuid() != 0 or not shutil.which("losetup"):
        pytest.skip("needs root and losetup")
    path = tmp_path / "loop.img"
    path.write_bytes(bytes(32 * MIB))
    made = subprocess.run(["losetup", "--find", "--show", str(path)], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no loop device: {made.stderr.strip()}")
    device = made.stdout.strip()
    try:
        with Target(device) as target, host_of(target) as host:
            assert host.namespace(1).nsze == 32 * MIB // host.namespace(1).block
            data = os.urandom(MIB)
            host.write(1, 8, data, host.namespace(1).block)
            host.flush(1)
            host.io.must(sqe.dsm(1, 1), out=sqe.dsm_range(8, 64))
            host.io.must(sqe.write_zeroes(1, 1024, 64))
            with pytest.raises(TargetError):
                with Target(device):
                    pass
        with open(device, "rb") as file:
            file.seek(8 * 512 + 64 * 512)
            assert file.read(MIB - 64 * 512 - 0) [:65536] == data[64 * 512:64 * 512 + 65536]
    finally:
        subprocess.run(["losetup", "--detach", device], check=False)


# -- a full disk -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A tmpfs of 8 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    directory = tmp_path / "small"
    directory.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8M", "none", str(directory)], capture_output=True,
                             text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no tmpfs: {mounted.stderr.strip()}")
    yield directory
    subprocess.run(["umount", "-l", str(directory)], check=False)


def test_a_full_disk_is_capacity_exceeded_until_there_is_room(small_disk):
    """A sparse file of 64 MiB on 8 MiB. Base figure 102: 81h, generic."""
    path, ballast = small_disk / "disk.img", small_disk / "ballast"
    ballast.write_bytes(bytes(4 * MIB))
    with open(path, "wb") as file:
        file.truncate(64 * MIB)
    data = os.urandom(MIB)
    with Target(path) as target, host_of(target) as host:
        written = 0
        for index in range(16):
            completion = host.io.execute(sqe.write(1, index * 2048, 2048), out=data)
            if completion.status != Sc.SUCCESS:
                break
            written += 1
        assert 1 <= written <= 4
        expect.status(completion, Sc.CAPACITY)
        for index in range(written):
            assert host.read(1, index * 2048, 2048) == data
        ballast.unlink()
        expect.status(host.io.execute(sqe.write(1, written * 2048, 2048), out=data), Sc.SUCCESS)
        assert host.read(1, written * 2048, 2048) == data
        host.flush(1)


def test_deallocating_makes_room_on_a_full_disk(small_disk):
    path = small_disk / "disk.img"
    with open(path, "wb") as file:
        file.truncate(64 * MIB)
    data = os.urandom(MIB)
    with Target(path) as target, host_of(target) as host:
        index = 0
        while host.io.execute(sqe.write(1, index * 2048, 2048), out=data).status == Sc.SUCCESS:
            index += 1
            assert index < 16
        host.io.must(sqe.dsm(1, 1), out=sqe.dsm_range(0, 4096))
        host.write(1, index * 2048, data)
        assert host.read(1, index * 2048, 2048) == data
        assert host.read(1, 0, 2048) == bytes(MIB)
