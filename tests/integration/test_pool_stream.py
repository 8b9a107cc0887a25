# SPDX-License-Identifier: BSD-3-Clause
"""`pollux volume diff`, `export` and `import`, and `pollux pool check` of what comes of it."""

import os
import pathlib
import subprocess

import pytest

from target import binary
from test_host import pollux
from test_pool import MIB, disk_of, put, run, told, volumes

SIZE = 16 * MIB
UNIT = 4096


def volume(disk, name):
    return f"volume:{disk}?name={name}"


def write(tmp_path, disk, name, data):
    path = tmp_path / "data"
    path.write_bytes(data)
    run("cp", "-q", path, volume(disk, name))


def read(tmp_path, disk, name):
    path = tmp_path / f"of-{name}"
    path.unlink(missing_ok=True)
    run("cp", "-q", volume(disk, name), path)
    return path.read_bytes()


def clean(disk):
    assert told("pool", "check", disk)["clean"]


@pytest.fixture
def source(tmp_path):
    """A pool with the snapshots one and two, and what is in them."""
    disk = disk_of(tmp_path, name="source.img")
    run("pool", "create", disk)
    run("volume", "create", disk, "web", SIZE)
    one = os.urandom(3 * MIB) + bytes(SIZE - 3 * MIB)
    write(tmp_path, disk, "web", one)
    run("volume", "snapshot", disk, "web", "one")
    two = bytearray(one)
    two[MIB:MIB + 5 * UNIT] = os.urandom(5 * UNIT)
    two[8 * MIB:8 * MIB + 3 * MIB] = os.urandom(3 * MIB)
    write(tmp_path, disk, "web", bytes(two))
    run("volume", "snapshot", disk, "web", "two")
    return disk, one, bytes(two)


@pytest.fixture
def sink(tmp_path):
    disk = disk_of(tmp_path, name="sink.img")
    run("pool", "create", disk)
    return disk


def exported(tmp_path, disk, *words):
    path = tmp_path / f"stream-{'-'.join(map(str, words))}"
    path.unlink(missing_ok=True)
    run("volume", "export", *words[:-1], disk, words[-1], path)
    return path


def extents(disk, *names):
    found = told("volume", "diff", disk, *names)
    return [(e["offset"], e["length"], e["data"]) for e in found["extents"]]


def test_what_is_different_is_told_in_bytes(source):
    disk, _, two = source
    different = bytearray(SIZE)
    for offset, length, data in extents(disk, "one", "two"):
        different[offset:offset + length] = b"\1" * length
        assert data or not any(two[offset:offset + length])
    assert all(different[MIB:MIB + 5 * UNIT]) and all(different[8 * MIB:11 * MIB])
    assert not any(different[11 * MIB:]), "nothing was written there"
    assert extents(disk, "two", "two") == []
    assert "places of 16 MiB" in run("volume", "diff", disk, "one", "two")
    assert "no volume three" in run("volume", "diff", disk, "one", "three", status=2)


def test_a_stream_makes_the_same_snapshot(tmp_path, source, sink):
    disk, one, two = source
    run("volume", "import", sink, "one", exported(tmp_path, disk, "one"))
    run("volume", "import", sink, "two", exported(tmp_path, disk, "--base", "one", "two"))
    assert read(tmp_path, sink, "one") == one and read(tmp_path, sink, "two") == two
    there, here = volumes(sink), volumes(disk)
    assert there["two"]["uuid"] == here["two"]["uuid"] and there["two"]["from"] == "one"
    assert there["two"]["kind"] == "snapshot"
    clean(sink)
    clean(disk)


def test_streams_go_through_pipes(tmp_path, source, sink):
    disk, one, _ = source
    with subprocess.Popen([binary(), "volume", "export", str(disk), "one"], stdout=subprocess.PIPE) as process:
        done = subprocess.run([binary(), "volume", "import", str(sink), "one"], stdin=process.stdout,
                              capture_output=True, text=True)
    assert done.returncode == 0 and process.returncode == 0, done.stderr
    assert read(tmp_path, sink, "one") == one


def test_without_its_base_a_stream_is_refused(tmp_path, source, sink):
    disk, *_ = source
    stream = exported(tmp_path, disk, "--base", "one", "two")
    assert 'goes on from is not there: the snapshot "one"' in run("volume", "import", sink, "two", stream, status=2)
    run("volume", "create", sink, "one", SIZE)  # of that name, but not that
    run("volume", "import", sink, "two", stream, status=2)
    assert list(volumes(sink)) == ["one"]


def test_a_stream_that_is_cut_off_anywhere_goes_on(tmp_path, source, sink):
    disk, one, _ = source
    whole = exported(tmp_path, disk, "one").read_bytes()
    part = tmp_path / "part"
    for length in (0, 100, 512, 540, MIB + 3000, len(whole) // 2, len(whole) - 32, len(whole) - 1):
        part.write_bytes(whole[:length])
        said = pollux("volume", "import", sink, "one", part)
        assert said.returncode == 1 and "is cut off" in said.stderr, said.stderr
        assert "one" not in volumes(sink)
    (name,) = volumes(sink)
    kept = int(name.removeprefix("one~import@"))
    assert kept == 3 * MIB
    rest = exported(tmp_path, disk, "--offset", 2 * MIB, "one")
    assert rest.stat().st_size < 1.2 * MIB
    run("volume", "import", sink, "one", rest)
    assert read(tmp_path, sink, "one") == one
    clean(sink)


def test_a_stream_that_begins_too_late_is_refused(tmp_path, source, sink):
    disk, *_ = source
    rest = exported(tmp_path, disk, "--offset", 2 * MIB, "one")
    assert "export it with --offset 0" in run("volume", "import", sink, "one", rest, status=2)


def test_damaged_streams_leave_nothing_that_looks_whole(tmp_path, source, sink):
    disk, *_ = source
    stream = exported(tmp_path, disk, "one")
    bad = tmp_path / "bad"
    for at in (3, 9, 20, 70, 300, 512, 520, 530, 540, 700, 2 * MIB, stream.stat().st_size - 5):
        bad.write_bytes(stream.read_bytes())
        put(bad, at, bytes([bad.read_bytes()[at] ^ 1]))
        result = pollux("volume", "import", sink, "one", bad)
        assert result.returncode in (1, 2), f"byte {at}: {result.stdout}"
        assert "damaged" in result.stderr or "no stream" in result.stderr, result.stderr
        assert "one" not in volumes(sink)


def test_a_volume_is_not_exported(source, tmp_path):
    disk, *_ = source
    assert "is no snapshot" in run("volume", "export", disk, "web", tmp_path / "s", status=2)


# ---- check and repair ----


def test_a_clean_pool_is_said_to_be(source):
    disk, *_ = source
    assert "1 volume and 2 snapshots" in run("pool", "check", disk)
    assert run("pool", "repair", disk).endswith("clean\n")


def rot(disk):
    """Of the map of the only region a byte is another one."""
    root = max((e for e in told("pool", "dump", disk) if e["is"] == "root" and e["whole"]),
               key=lambda e: e["generation"])
    assert root["regions"] == 1
    for unit in (1, 2):
        put(disk, unit * UNIT + 9, b"\x55")


def test_what_is_damaged_is_found_asked_about_and_repaired(tmp_path, source):
    disk, one, _ = source
    rot(disk)
    result = pollux("pool", "check", disk)
    assert result.returncode == 4 and "the map of region 0 is damaged" in result.stdout, result.stdout
    assert "nothing was done" in run("pool", "repair", disk, status=2)
    result = pollux("pool", "repair", "--yes", disk)
    assert result.returncode == 1, result.stderr
    run("pool", "check", disk)
    assert read(tmp_path, disk, "one") == one


def test_volumes_that_are_lost_cost_no_other(tmp_path, source):
    """The page with all of them is damaged: the pool is used, and is repaired."""
    disk, one, _ = source
    names = [name.encode() + b"\0" for name in volumes(disk)]
    data = pathlib.Path(disk).read_bytes()
    pages = [at for at in range(0, len(data), UNIT) if all(name in data[at:at + UNIT] for name in names)]
    for at in pages:  # the page, and what it was before
        put(disk, at + 480, b"\x55")
    result = pollux("pool", "status", disk)
    assert "8 volumes are lost, and nothing is deleted" in result.stdout, result
    assert f"pool {disk}: volumes 0 to 7 are lost: their page of the directory is damaged" in result.stderr
    result = pollux("volume", "create", disk, "new", "1M")
    assert result.returncode == 1 and "has lost volumes" in result.stderr
    result = pollux("pool", "repair", "--yes", disk)
    assert result.returncode == 1, result.stdout + result.stderr
    assert read(tmp_path, disk, "one") == one
    assert len(volumes(disk)) == len(names)
    assert told("pool", "status", disk)["lost"] == 0


def test_a_disk_without_a_pool_cannot_be_checked(tmp_path):
    disk = disk_of(tmp_path, name="none.img")
    assert "there is no pool on it" in run("pool", "check", disk, status=8)
