# SPDX-License-Identifier: BSD-3-Clause
"""`pollux pool` and `pollux volume`; volumes that are served, of which what was flushed outlives a kill."""

import hashlib
import json
import os
import pty
import random
import struct
import subprocess

import pytest

import sqe
from host import Controller
from spec import Sc
from target import RUNNING, SANITIZER, Target, binary
from test_host import pattern, pollux

MIB = 1 << 20


def disk_of(tmp_path, size=64 * MIB, name="disk.img"):
    path = tmp_path / name
    with open(path, "wb") as file:
        file.truncate(size)
    return path


def run_apart(*words, status=0):
    """A command; one that fails says why in one line."""
    result = pollux(*words)
    assert result.returncode == status, f"{words}: {result.returncode}: {result.stdout}{result.stderr}"
    assert not SANITIZER.search(result.stderr), result.stderr
    if status:
        assert result.stderr.startswith("pollux: ") and result.stderr.count("\n") == 1, result.stderr
    return result


def run(*words, status=0):
    """All that it says."""
    result = run_apart(*words, status=status)
    return result.stdout + result.stderr


def told(*words):
    return json.loads(run_apart(*words, "--json").stdout)


def volumes(disk):
    return {each["name"]: each for each in told("volume", "ls", disk)}


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def put(path, at, data):
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(data)


def make_ext2(path):
    """As much of a file system as is looked at."""
    put(path, 1024 + 56, b"\x53\xef")
    put(path, 1024 + 120, b"root")


@pytest.fixture
def pool(tmp_path):
    path = disk_of(tmp_path)
    run("pool", "create", path)
    return path


def at_terminal(answer, *words):
    """Runs a command whose standard input is a terminal, at which somebody types that."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen([binary(), *map(str, words)], stdin=theirs, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    RUNNING.add(process)
    os.write(ours, answer.encode())
    out, err = process.communicate(timeout=60)
    RUNNING.discard(process)
    os.close(theirs)
    os.close(ours)
    return process.returncode, out, err


# -- pools ------------------------------------------------------------------------------------------------------------


def test_a_pool_is_made_shown_and_erased(tmp_path):
    path = disk_of(tmp_path)
    made = told("pool", "create", "--name", "fast", "--cluster", "1M", path)
    assert made["name"] == "fast" and made["size"] == 64 * MIB and made["cluster"] == MIB and made["volumes"] == 0
    assert made["disk"] == str(path) and made["used"] + made["free"] + made["set_aside"] == made["size"]
    assert told("pool", "status", path)["uuid"] == made["uuid"]
    text = run("pool", "status", path)
    assert "pool       fast\n" in text and f"uuid       {made['uuid']}\n" in text and "size       64 MiB\n" in text
    assert "0 volumes and 0 snapshots" in text and "[#...............................|...|.|.] 3.2 %" in text
    assert "has no pool any more" in run("pool", "rm", "--yes", path)
    assert "there is no pool on it" in run("pool", "status", path, status=2)
    assert told("pool", "create", path)["name"] == ""
    assert told("pool", "rm", "--yes", path) is True


@pytest.mark.parametrize("full,mark", [(79, 0), (81, 80), (91, 90), (96, 95)])
def test_how_full_a_pool_is_has_marks(pool, full, mark):
    status = told("pool", "status", pool)
    run("volume", "create", "--thick", pool, "v", status["free"] - status["size"] * (100 - full) // 100)
    status = told("pool", "status", pool)
    assert status["full_percent"] in (full, full - 1) and status["mark"] == mark
    text = run("pool", "status", pool)
    assert (f"more than {mark} % of it is taken" in text) == bool(mark)
    bar = text[text.index("[") + 1:text.index("]")]
    assert len(bar) == 40 and bar.count("#") == full * 40 // 100
    assert bar.count("|") == sum(mark * 40 // 100 >= bar.count("#") for mark in (80, 90, 95))


def test_what_is_on_a_disk_is_named_before_it_is_erased(tmp_path):
    path = disk_of(tmp_path)
    make_ext2(path)
    before = digest(path)
    assert 'ext2 (file system) "root" will be lost' in run("pool", "create", path, status=2)
    status, _, err = at_terminal("n\n", "pool", "create", path)
    assert status == 1 and 'ext2 (file system) "root" will be lost. Go on? [y/N]' in err and "nothing was done" in err
    assert digest(path) == before
    assert at_terminal("y\n", "pool", "create", path)[0] == 0
    run("volume", "create", path, "web", "8M")
    run("volume", "snapshot", path, "web", "monday")
    assert "a pool with 1 volume and 1 snapshot will be lost" in run("pool", "create", path, status=2)
    assert "a pool with 1 volume and 1 snapshot will be lost" in run("pool", "rm", path, status=2)
    assert set(volumes(path)) == {"web", "monday"}
    run("pool", "create", "--yes", "--name", "b", path)
    assert volumes(path) == {} and 'a pool "b" with 0 volumes' in run("pool", "rm", path, status=2)


def test_data_of_no_known_kind_is_asked_about_as_well(tmp_path):
    for at in (0, 3 * MIB, 64 * MIB - 1):
        path = disk_of(tmp_path)
        put(path, at, b"x")
        assert "data of no known kind will be lost" in run("pool", "create", path, status=2)
    assert path.read_bytes().count(b"x") == 1
    run("pool", "create", "--yes", path)


def test_a_pool_that_cannot_be_opened_is_one_that_can_be_erased(pool):
    run("volume", "create", pool, "web", "8M")
    os.truncate(pool, 48 * MIB)
    assert "it has become smaller" in run("pool", "status", pool, status=2)
    assert "a pool that is damaged, or of another version, will be lost" in run("pool", "rm", pool, status=2)
    run("pool", "rm", "--yes", pool)
    assert not pool.read_bytes()[:4 * MIB].strip(b"\0")
    run("pool", "create", pool)


# -- volumes ----------------------------------------------------------------------------------------------------------


def test_volumes_from_the_cradle_to_the_grave(pool):
    made = told("volume", "create", pool, "web", "1.5G")
    assert made["name"] == "web" and made["size"] == 3 << 29 and made["kind"] == "thin" and made["written"] == 0
    assert made["from"] is None
    assert told("volume", "create", "--thick", pool, "db", "8M")["kind"] == "thick"
    assert told("pool", "status", pool)["set_aside"] == 8 * MIB
    monday = told("volume", "snapshot", pool, "web", "monday")
    assert monday["kind"] == "snapshot" and volumes(pool)["web"]["from"] == "monday"
    assert told("volume", "clone", pool, "monday", "test")["from"] == "monday"
    assert told("volume", "rename", pool, "test", "mit Leerstelle")["name"] == "mit Leerstelle"
    assert told("volume", "resize", pool, "mit Leerstelle", "2G")["size"] == 2 << 30
    assert "what mit Leerstelle (2 GiB, 0 B of it written) has beyond 1 GiB will be lost" in run(
        "volume", "resize", pool, "mit Leerstelle", "1G", status=2)
    assert told("volume", "resize", "--yes", pool, "mit Leerstelle", "1G")["size"] == 1 << 30
    text = run("volume", "ls", pool)
    assert text.splitlines()[0].split() == ["NAME", "SIZE", "WRITTEN", "KIND", "FROM", "CREATED"]
    assert "\nmonday          1.50 GiB      0 B  snapshot  -  " in text
    assert told("pool", "status", pool)["volumes"] == 3 and told("pool", "status", pool)["snapshots"] == 1
    assert "web (1.50 GiB, 0 B of it written), db (8 MiB, 0 B of it written) will be lost" in run(
        "volume", "rm", pool, "web", "db", status=2)
    assert told("volume", "rm", "--yes", pool, "web", "db") == ["web", "db"]
    assert set(volumes(pool)) == {"monday", "mit Leerstelle"}
    assert run("volume", "rm", "--yes", pool, "monday") == "monday is gone\n"
    uuid = volumes(pool)["mit Leerstelle"]["uuid"]
    assert at_terminal("yes\n", "volume", "rm", pool, uuid)[0] == 0
    assert volumes(pool) == {} and told("pool", "status", pool)["set_aside"] == 0


def test_what_is_written_is_kept_by_snapshots_and_got_back(pool, tmp_path):
    first, second, back = tmp_path / "first", tmp_path / "second", tmp_path / "back"
    first.write_bytes(bytes(4096) + pattern(8 * MIB - 4096))
    second.write_bytes(bytes(reversed(pattern(8 * MIB))))
    make_ext2(first)

    def content(name):
        back.unlink(missing_ok=True)
        run("cp", "-q", f"volume:{pool}?name={name}", back)
        return back.read_bytes()

    run("volume", "create", pool, "web", "8M")
    run("cp", "-q", "--verify", first, f"volume:{pool}?name=web")
    run("volume", "snapshot", pool, "web", "monday")
    run("cp", "-q", "--verify", second, f"volume:{pool}?name=web")
    run("volume", "clone", pool, "monday", "test")
    assert content("web") == second.read_bytes()
    assert content("monday") == content("test") == first.read_bytes()
    free = told("pool", "status", pool)["free"]
    assert "8 MiB of it written, data of no known kind) has now, and monday has not, will be lost" in run(
        "volume", "revert", pool, "web", "monday", status=2)
    assert content("web") == second.read_bytes()
    run("volume", "revert", "--yes", pool, "web", "monday")
    assert content("web") == first.read_bytes()
    assert told("pool", "status", pool)["free"] >= free + 7 * MIB  # free when the command ends, and not later
    assert 'test (8 MiB, 8 MiB of it written, ext2 (file system) "root") will be lost' in run(
        "volume", "rm", pool, "test", status=2)
    run("volume", "rm", "--yes", pool, "test", "web", "monday")
    assert told("pool", "status", pool)["free"] >= free + 14 * MIB


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words,status,sentence", [
    (("pool",), 2, "takes a verb: create, status, grow, check, repair, dump or rm"),
    (("volume", "make"), 2, 'there is no verb "make": it is ls, create, snapshot'),
    (("pool", "status"), 2, "a word is missing: pollux pool status DISK"),
    (("pool", "status", "DISK", "b"), 2, '"b" is a word too many'),
    (("volume", "rm", "DISK"), 2, "a word is missing"),
    (("pool", "status", "--yes", "DISK"), 2, "--yes is not for pool status"),
    (("volume", "snapshot", "--thick", "DISK", "web", "a"), 2, "--thick is not for volume snapshot"),
    (("pool", "create", "--cluster", "3M", "--yes", "DISK"), 2, "a power of two"),
    (("pool", "create", "--name", "a/b", "--yes", "DISK"), 2, "the name of a pool has at most 63 bytes"),
    (("pool", "status", "GONE"), 2, "there is no file"),
    (("pool", "create", "FOLDER"), 2, "is a directory"),
    (("pool", "create", "SMALL"), 2, "is too small for a pool, which needs 4096 KiB"),
    (("pool", "status", "EMPTY"), 2, "there is no pool on it"),
    (("pool", "rm", "--yes", "EMPTY"), 2, "there is no pool on it"),
    (("volume", "ls", "EMPTY"), 2, "there is no pool on it"),
    (("volume", "create", "DISK", "a", "lots"), 2, '"lots" is no size of a volume; one is 10G'),
    (("volume", "create", "DISK", "a", "0"), 2, "is no size of a volume"),
    (("volume", "create", "DISK", "web", "1M"), 2, "there is a volume named web already"),
    (("volume", "create", "DISK", "a/b", "1M"), 2, "1 to 63 bytes of printable characters"),
    (("volume", "create", "DISK", "", "1M"), 2, "1 to 63 bytes of printable characters"),
    (("volume", "create", "DISK", "a" * 64, "1M"), 2, "1 to 63 bytes of printable characters"),
    (("volume", "create", "DISK", "a\x1b[2J", "1M"), 2, "1 to 63 bytes of printable characters"),
    (("volume", "create", "--thick", "DISK", "a", "1G"), 1, "there is no room for a thick volume"),
    (("volume", "snapshot", "DISK", "none", "a"), 2, "there is no volume named none; \"pollux volume ls"),
    (("volume", "snapshot", "DISK", "monday", "a"), 2, "monday is a snapshot already"),
    (("volume", "snapshot", "DISK", "web", "monday"), 2, "there is a volume named monday already"),
    (("volume", "clone", "DISK", "web", "a"), 2, "web is no snapshot"),
    (("volume", "revert", "--yes", "DISK", "db", "monday"), 2, "db goes back to nothing, and not to monday"),
    (("volume", "revert", "--yes", "DISK", "web", "none"), 2, "there is no volume named none"),
    (("volume", "resize", "--yes", "DISK", "monday", "1M"), 2, "monday is a snapshot, and stays as it is"),
    (("volume", "rename", "DISK", "web", "db"), 2, "there is a volume named db already"),
    (("volume", "rm", "--yes", "DISK", "web", "none"), 2, "there is no volume named none"),
], ids=lambda value: "_".join(value)[:40] if isinstance(value, tuple) else "")
def test_what_is_wrong_is_said_and_nothing_is_done(tmp_path, words, status, sentence):
    names = {"DISK": disk_of(tmp_path), "EMPTY": disk_of(tmp_path, name="empty.img"), "GONE": tmp_path / "gone.img",
             "SMALL": disk_of(tmp_path, 3 * MIB, name="small.img"), "FOLDER": tmp_path}
    run("pool", "create", names["DISK"])
    run("volume", "create", names["DISK"], "web", "8M")
    run("volume", "create", names["DISK"], "db", "8M")
    run("volume", "snapshot", names["DISK"], "web", "monday")
    before = volumes(names["DISK"])
    assert sentence in run(*(names.get(word, word) for word in words), status=status)
    assert volumes(names["DISK"]) == before


def test_a_disk_that_a_server_has_is_left_alone_and_the_server_is_named(pool):
    run("volume", "create", pool, "web", "8M")
    with Target(f"volume:{pool}?name=web") as target:
        for words, method in ((("pool", "status", pool), "bdev_lvol_get_lvstores"),
                              (("pool", "create", "--yes", pool), "bdev_lvol_create_lvstore"),
                              (("pool", "rm", "--yes", pool), "bdev_lvol_delete_lvstore"),
                              (("volume", "ls", pool), "bdev_lvol_get_lvols"),
                              (("volume", "rm", "--yes", pool, "web"), "bdev_lvol_delete")):
            said = run(*words, status=2)
            assert f"is in use by process {target.pid}; if a server has it, the server does this" in said
            assert f"pollux ctl {method}\n" in said
    assert set(volumes(pool)) == {"web"}


def test_help_names_every_verb():
    for command, verbs in (("pool", ("create", "status", "grow", "check", "repair", "dump", "rm")),
                           ("volume", ("ls", "create", "snapshot", "clone", "revert", "diff", "export", "import",
                                       "resize", "rename", "rm"))):
        text = run("help", command)
        assert text == run(command, "--help")
        assert all(f"pollux {command} {verb} " in text for verb in verbs)


# -- served -----------------------------------------------------------------------------------------------------------


def test_a_snapshot_is_served_read_only(pool):
    run("volume", "create", pool, "web", "8M")
    with Target(f"volume:{pool}?name=web") as target, Controller(target.address, target.nqn, io_queues=1) as host:
        host.write(1, 0, pattern(4096))
        host.flush()
    run("volume", "snapshot", pool, "web", "monday")
    with Target(f"volume:{pool}?name=monday") as target:
        with Controller(target.address, target.nqn, io_queues=1) as host:
            assert host.read(1, 0, 8) == pattern(4096)
            done = host.io.execute(sqe.write(1, 0, 8), out=bytes(4096))
            assert done.status == Sc.WRITE_PROTECTED
            assert host.read(1, 0, 8) == pattern(4096)


def test_all_volumes_of_a_disk_are_served_at_once_by_whatever_name(pool, tmp_path):
    for name in ("a", "b", "c"):
        run("volume", "create", pool, name, "8M")
    other = disk_of(tmp_path, name="other.img")
    disks = (f"volume:{pool}?name=a", f"volume:[file:{pool}]?name=b", f"volume:file://{pool}?name=c", other)
    for _ in range(2):
        with Target(*disks) as target, Controller(target.address, target.nqn, io_queues=1) as host:
            for nsid in (1, 2, 3):
                assert host.read(nsid, 0, 1) in (bytes(512), bytes([nsid]) * 512)
                host.write(nsid, 0, bytes([nsid]) * 512)
            assert host.namespaces() == [1, 2, 3, 4]
    for name, byte in (("a", b"\1"), ("b", b"\2"), ("c", b"\3")):
        back = tmp_path / name
        run("cp", "-q", f"volume:{pool}?name={name}", back)
        assert back.read_bytes()[:512] == byte * 512
    assert "volume a is open already" in run("cp", f"volume:{pool}?name=a", f"volume:{pool}?name=a", status=2)
    run("cp", "-q", f"volume:{pool}?name=a", f"volume:{pool}?name=b")  # one is closed, and then the other one


def test_a_pool_on_a_volume(pool):
    run("volume", "create", pool, "outer", "32M")
    outer = f"volume:{pool}?name=outer"
    run("pool", "create", outer)
    run("volume", "create", outer, "a", "8M")
    run("volume", "create", outer, "b", "8M")
    with Target(*(f"volume:[{outer}]?name={name}" for name in "ab")) as target:
        with Controller(target.address, target.nqn, io_queues=1) as host:
            host.write(2, 0, pattern(4096))
            assert host.read(2, 0, 8) == pattern(4096) and host.read(1, 0, 8) == bytes(4096)
    assert set(volumes(outer)) == {"a", "b"}
    assert "of it written, a pool with 2 volumes and 0 snapshots) will be lost" in run(
        "volume", "rm", pool, "outer", status=2)


class Oracle:
    """What may be in each block: what was there at the last flush, or anything that was written since."""

    def __init__(self, blocks):
        self.sure = [0] * blocks  # version, of which 0 is zeroes
        self.since = {}  # block: versions written later, in order
        self.version = 0

    @staticmethod
    def block(lba, version):
        return struct.pack("<QQ", lba, version) * 32 if version else bytes(512)

    def write(self, lba, blocks, zeroes=False):
        """What is to be written there."""
        self.version += 1
        version = 0 if zeroes else self.version
        for at in range(lba, lba + blocks):
            self.since.setdefault(at, []).append(version)
        return b"".join(self.block(at, version) for at in range(lba, lba + blocks))

    def flushed(self):
        for at, versions in self.since.items():
            self.sure[at] = versions[-1]
        self.since = {}

    def check(self, data):
        """The disk has been read, and what is there stays there."""
        for at, sure in enumerate(self.sure):
            found = data[at * 512:at * 512 + 512]
            if found == self.block(at, sure) and at not in self.since:
                continue
            allowed = [sure, *self.since.get(at, [])]
            right = [version for version in allowed if found == self.block(at, version)]
            assert right, f"block {at}: {struct.unpack('<QQ', found[:16])}, and not one of {allowed}"
            self.sure[at] = right[0]
        self.since = {}

    def image(self):
        return b"".join(self.block(at, version) for at, version in enumerate(self.sure))


AREA = 8 * MIB
BATCH = 8


def read_all(host, nsid=1):
    return b"".join(host.read(nsid, at, 512) for at in range(0, AREA // 512, 512))


def batch(chance, oracle):
    """Commands on pieces of the disk that are apart, so that it does not matter in which order they are done."""
    commands = []
    step = AREA // 512 // BATCH
    for first in chance.sample(range(0, AREA // 512, step), chance.randint(1, BATCH)):
        blocks = chance.choice((1, 3, 8, 8, 16, 64, 250))
        lba = first + chance.randrange(step - blocks)
        if chance.random() < 0.15:
            oracle.write(lba, blocks, zeroes=True)
            commands.append((sqe.write_zeroes(1, lba, blocks), b""))
        else:
            commands.append((sqe.write(1, lba, blocks), oracle.write(lba, blocks)))
    return commands


def live(target, chance, oracle):
    """A life: what is there is right, then it is written and flushed, and ends in the middle of that."""
    with Controller(target.address, target.nqn, io_queues=1) as host:
        oracle.check(read_all(host))
        for _ in range(chance.randint(0, 6)):
            host.io.wait_all([host.io.submit(entry, out=data) for entry, data in batch(chance, oracle)])
            if chance.random() < 0.5:
                host.flush(1)
                oracle.flushed()
        for entry, data in batch(chance, oracle):
            host.io.submit(entry, out=data)
        if chance.random() < 0.3:
            host.io.submit(sqe.flush(1))
        target.kill()


def test_what_was_flushed_is_there_after_a_hundred_kills(tmp_path):
    seed = int(os.environ.get("POLLUX_SEED") or random.randrange(1 << 32))
    print(f"POLLUX_SEED={seed}")
    chance, oracle, snapshots = random.Random(seed), Oracle(AREA // 512), {}
    path = disk_of(tmp_path, 96 * MIB)
    run("pool", "create", path)
    run("volume", "create", path, "web", "16M")
    for number in range(100):
        target = Target(f"volume:{path}?name=web")
        target.start()
        live(target, chance, oracle)
        target.check_reports()
        if number % 10 == 4:  # before anybody opens it
            assert told("pool", "check", path)["clean"]
        if number % 10 == 9:
            with Target(f"volume:{path}?name=web", *(f"volume:{path}?name={name}" for name in snapshots)) as still:
                with Controller(still.address, still.nqn, io_queues=1) as host:
                    oracle.check(read_all(host))
                    for nsid, image in enumerate(snapshots.values(), 2):
                        assert read_all(host, nsid) == image
            name = f"s{number}"
            run("volume", "snapshot", path, "web", name)
            snapshots[name] = oracle.image()
            if len(snapshots) == 4:
                oldest = next(iter(snapshots))
                del snapshots[oldest]
                run("volume", "rm", "--yes", path, oldest)
    run("volume", "rm", "--yes", path, "web", *snapshots)
    assert told("pool", "check", path)["clean"]
    assert told("pool", "status", path)["free"] > 92 * MIB
