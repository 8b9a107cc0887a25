# SPDX-License-Identifier: BSD-3-Clause
"""Disks of other processes (vhost-user:PATH): against a back-end of our own, which dies and lies where it is told to,
and against QEMU's storage daemon."""

import collections
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest

import sqe
import vhost_backend as vb
from host import Controller
from rpc import Server
from spec import Sc
from target import Target, binary, wait_until
from vhost import Frontend

LIMIT = 60
MIB = 1 << 20
CONTROLLER_PATHING_ERROR = 0x360  # what hosts are told of a disk that is not there
BACKEND = pathlib.Path(vb.__file__)


def pollux(*arguments):
    return subprocess.run([binary(), *map(str, arguments)], capture_output=True, text=True, timeout=LIMIT, check=False,
                          stdin=subprocess.DEVNULL)


def unharmed(result):
    assert result.returncode >= 0, result.stderr
    assert "Sanitizer" not in result.stderr and "runtime error" not in result.stderr, result.stderr
    return result


def must(*arguments):
    result = unharmed(pollux(*arguments))
    assert result.returncode == 0, result.stderr
    return result


def until(condition):
    assert wait_until(condition)


def pattern(size):
    return b"".join(i.to_bytes(8, "little") for i in range(1, size // 8 + 1))


class Backend:
    """A back-end, and those that come after it, on one image."""

    def __init__(self, folder, size=8 * MIB, **options):
        self.image, self.socket = folder / "disk.img", folder / "d0"
        self.image.write_bytes(bytes(size))
        self.options = options
        self.process = None

    def command(self):
        return [sys.executable, str(BACKEND), str(self.socket), str(self.image), json.dumps(self.options)]

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.kill()

    def start(self, **options):
        self.options.update(options)
        self.socket.unlink(missing_ok=True)
        self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL)
        until(self.socket.exists)

    def kill(self):
        self.process.kill()
        self.process.wait()

    @property
    def url(self):
        return f"vhost-user:{self.socket}"

    @property
    def journal(self):
        path = pathlib.Path(f"{self.image}.journal")
        return path.read_text().splitlines() if path.exists() else []

    @property
    def commands(self):
        return [line for line in self.journal if line[0].isdigit()]

    def did(self, kind):
        return [line for line in self.journal if line.split()[0] == str(kind)]


class Qemu(Backend):
    def command(self):
        return ["qemu-storage-daemon", "--blockdev", f"driver=file,node-name=f,filename={self.image},discard=unmap",
                "--export", f"type=vhost-user-blk,id=e,node-name=f,addr.type=unix,addr.path={self.socket},writable=on,"
                            f"num-queues={self.options.get('queues', 4)}"]


needs_qemu = pytest.mark.skipif(not shutil.which("qemu-storage-daemon"), reason="no qemu-storage-daemon")


@pytest.fixture
def backend(tmp_path):
    """Makes one; it is ended with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(Backend(tmp_path, **options))


def round_trip(disk, tmp_path, query="", size=None):
    """Writes all of a disk, reads it back, compares both with what they should be."""
    data = pattern(size or os.path.getsize(disk.image))
    source, back = tmp_path / "source.img", tmp_path / "back.img"
    source.write_bytes(data)
    must("cp", source, disk.url + query)
    assert disk.image.read_bytes()[:len(data)] == data
    must("cp", disk.url + query, back)
    assert back.read_bytes()[:len(data)] == data


# ---- shapes


@pytest.mark.parametrize("options", [
    {}, {"without": [vb.F_INDIRECT]}, {"without": [vb.F_EVENT_IDX]}, {"without": [vb.F_INDIRECT, vb.F_EVENT_IDX]},
    {"without_protocol": [vb.P_REPLY_ACK, vb.P_BACKEND_REQ]}, {"without_protocol": [vb.P_MQ], "without": [vb.F_MQ]},
    {"without_protocol": [vb.P_INFLIGHT]}, {"block": 4096}, {"size_max": 4096, "seg_max": 2},
    {"size_max": 65536, "seg_max": 1}, {"hold": 7},
    {"without": [vb.F_BLK_SIZE, vb.F_FLUSH, vb.F_DISCARD, vb.F_WRITE_ZEROES, vb.F_PACKED]}], ids=str)
def test_a_back_end_of_any_shape(backend, tmp_path, options):
    round_trip(backend(**options), tmp_path)


@pytest.mark.parametrize("query", ["?depth=1", "?depth=1024", "?ring=packed", "?ring=packed&depth=3", "?queues=2",
                                   "?ring=split"])
def test_rings_of_any_shape(backend, tmp_path, query):
    round_trip(backend(), tmp_path, query)


def test_packed_rings_are_used_where_they_are_asked_for(backend, tmp_path):
    disk = backend(without=[vb.F_PACKED])
    result = pollux("perf", "--count", 1, disk.url + "?ring=packed")
    assert result.returncode != 0 and "packed" in result.stderr, result.stderr


@pytest.mark.parametrize("size", ["512", "4K", "20K", "1M"])
@pytest.mark.parametrize("poll", ["busy", "sleep"])
def test_what_is_read_is_what_was_written(backend, size, poll):
    count = 100 if size == "1M" else 1500
    must("perf", "-w", "randrw", "--verify", "--poll", poll, "-o", size, "--count", count, "-q", 40,
         backend(size=64 * MIB).url)


def test_two_reactors_have_a_queue_each(backend):
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        pytest.skip("needs two cores")
    must("perf", "-w", "randrw", "--verify", "-m", ",".join(map(str, cores)), "--count", 2000, backend().url)


# ---- memory


def test_data_is_left_where_it_is_once_the_back_end_has_that_memory(backend):
    disk = backend()
    must("perf", "-w", "randrw", "--verify", "--count", 2000, disk.url)
    assert [line for line in disk.journal if line in ("bounced", "direct", "memory 2")][-1] == "direct"
    assert "memory 2" in disk.journal


@pytest.mark.parametrize("options", [{"slots": 1}, {"without_protocol": [vb.P_MEM_SLOTS]}], ids=str)
def test_data_is_bounced_where_the_back_end_takes_no_more_memory(backend, options):
    disk = backend(**options)
    must("perf", "-w", "randrw", "--verify", "--count", 2000, disk.url)
    assert "bounced" in disk.journal and "direct" not in disk.journal


def test_memory_of_before_is_there_again_after_a_death(backend, tmp_path):
    """The next one may have to do what the last one had begun, from there."""
    disk = backend(die="fetched", die_after=40, hold=5)
    copy_beside_deaths(disk, tmp_path, [{"die_after": n} for n in (9, 13, 21)])
    assert "direct" in disk.journal


def test_a_gateway_s_buffers_are_shared(backend):
    disk = backend()
    with Target(disk.url) as target, Controller(target.address, target.nqn, io_queues=1) as c:
        until(lambda: c.write(1, 8, b"x" * 65536) and "direct" in disk.journal)
        assert c.read(1, 8, 128) == b"x" * 65536


# ---- what it is refused with


@pytest.mark.parametrize("name, words", [
    ("vhost-user:", "names the socket"),
    ("vhost-user:/nonexistent/d0", "/nonexistent/d0: No such file or directory; start the back-end first"),
    ("vhost-user:/d0?ring=round", "split or packed"), ("vhost-user:/d0?queues=0", "from 1 to"),
    ("vhost-user:/d0?depth=2000", "from 1 to 1024"), ("vhost-user:/d0?block=512", "no setting block"),
    ("vhost-user:/d0?reconnect_deadline=x", "from 1 to"), (f"vhost-user:/{'x' * 120}", "1 to 107 bytes")])
def test_wrong_names_are_told_of_in_one_line(name, words):
    result = pollux("perf", "--count", 1, name)
    assert result.returncode in (1, 2)
    assert words in result.stderr and len(result.stderr.splitlines()) == 1, result.stderr


def test_a_socket_that_a_dead_back_end_has_left(backend):
    disk = backend()
    disk.kill()
    assert disk.socket.exists()
    result = pollux("perf", "--count", 1, disk.url)
    assert result.returncode in (1, 2) and len(result.stderr.splitlines()) == 1
    assert f"{disk.socket}: Connection refused; the back-end that listened there has ended: start it" in result.stderr


def test_a_file_that_is_no_socket(tmp_path):
    (tmp_path / "f").touch()
    result = pollux("perf", "--count", 1, f"vhost-user:{tmp_path}/f")
    assert result.returncode in (1, 2) and len(result.stderr.splitlines()) == 1
    assert "that is no socket" in result.stderr


def test_a_socket_of_another_user(backend):
    if os.geteuid():
        pytest.skip("needs root, who can be somebody else")
    disk = backend()
    disk.socket.chmod(0o600)
    for folder in (disk.socket.parent, *disk.socket.parent.parents[:-2]):
        folder.chmod(0o755)
    result = subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", binary(), "perf", "--count",
                             "1", disk.url], capture_output=True, text=True, check=False)
    assert result.returncode in (1, 2) and len(result.stderr.splitlines()) == 1
    assert "Permission denied; the socket, or its directory, is for other users" in result.stderr


@pytest.mark.parametrize("options, words", [
    ({"lie": "capacity"}, "0 sectors"), ({"lie": "block"}, "blocks of 1000 bytes"),
    ({"lie": "config"}, "configuration"),
    ({"lie": "version"}, "version 2"), ({"lie": "request"}, "was not asked"), ({"lie": "size"}, "1048576 bytes"),
    ({"lie": "refuse"}, "refuses message"), ({"without": [vb.F_VERSION_1]}, "VERSION_1"),
    ({"without": [vb.F_PROTOCOL]}, "PROTOCOL_FEATURES"), ({"without_protocol": [vb.P_CONFIG]}, "CONFIG"),
    ({"size_max": 256, "seg_max": 1}, "less than a block"), ({"queues": 0}, "0 queues")], ids=str)
def test_back_ends_that_are_no_disk_are_told_of_in_one_line(backend, options, words):
    result = unharmed(pollux("perf", "--count", 1, backend(**options).url))
    assert result.returncode in (1, 2)
    assert words in result.stderr and len(result.stderr.splitlines()) == 1, result.stderr


def test_more_queues_than_there_are_cannot_be_used(backend):
    result = pollux("perf", "--count", 1, backend(queues=2).url + "?queues=3")
    assert result.returncode != 0 and "2 queues, not 3" in result.stderr, result.stderr


CORES = sorted(os.sched_getaffinity(0))[:2]
TOO_FEW = "has 1 queue, one for each core that uses it, and not 2; use no more cores than that (--cores), or have its"
needs_cores = pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")


@needs_cores
@pytest.mark.parametrize("command", [
    ("perf", "--count", "2"), ("serve", "-l", "127.0.0.1:0"), ("serve", "-r", "{0}/c", "-l", "127.0.0.1:0"),
    ("serve", "--vhost", "{0}"), ("serve", "-l", "127.0.0.1:0", "delay:[vhost-user:{0}/d0]?read=1us")], ids=" ".join)
def test_more_cores_than_queues_are_told_of_in_one_line(backend, tmp_path, command):
    """Not that something is busy."""
    disk = backend(queues=1)
    words = [str(word).format(disk.socket.parent) for word in command]
    result = pollux(*words, "-m", ",".join(map(str, CORES)), *([] if "delay" in words[-1] else [disk.url]))
    errors = [line for line in result.stderr.splitlines() if ": info: " not in line]
    assert result.returncode == 2 and len(errors) == 1 and TOO_FEW in errors[0], result.stderr


@needs_cores
def test_so_many_cores_as_queues_and_no_more(backend):
    disk = backend(queues=2)
    must("perf", "--count", 100, "-m", ",".join(map(str, CORES)), disk.url)
    must("perf", "--count", 100, "-m", CORES[0], disk.url + "?queues=1")


@needs_cores
def test_more_cores_than_queues_are_told_of_when_it_is_added_by_a_call(backend, tmp_path):
    disk = backend(queues=1)
    with Server(options=["-m", ",".join(map(str, CORES)), "--vhost", tmp_path]) as server:
        client = server.client()
        client.call("pollux_disk_open", url=disk.url, name="d")
        client.call("nvmf_create_transport", trtype="TCP")
        client.call("nvmf_create_subsystem", nqn="nqn.2026-01.x:y")
        client.call("vhost_create_scsi_controller", ctrlr="s0")
        for method, params in (
                ("nvmf_subsystem_add_ns", {"nqn": "nqn.2026-01.x:y", "namespace": {"bdev_name": "d"}}),
                ("vhost_create_blk_controller", {"ctrlr": "c0", "dev_name": "d"}),
                ("vhost_scsi_controller_add_target", {"ctrlr": "s0", "bdev_name": "d", "scsi_target_num": 0})):
            code, text = client.refused(method, **params)
            assert code in (-16, -32602) and "has 1 queue, one for each core" in text, (method, text)
        client.call("vhost_create_blk_controller", ctrlr="c0", dev_name="d", cpumask=f"[{CORES[0]}]")
        with Frontend(tmp_path / "c0") as front:
            assert front.start().read(0, 512)[0] == 0


# ---- back-ends that die


def copy_beside_deaths(disk, tmp_path, deaths, query=""):
    """Copies onto a disk whose back-end ends itself again and again; each next one has what `deaths` say."""
    data = pattern(os.path.getsize(disk.image))
    source = tmp_path / "source.img"
    source.write_bytes(data)
    copy = subprocess.Popen([binary(), "cp", "--depth", "16", "--chunk", "64K", str(source), disk.url + query],
                            stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    died = 0
    for options in [*deaths, {"die": ""}]:
        until(lambda: disk.process.poll() is not None or copy.poll() is not None)
        if copy.poll() is not None:
            break
        died += 1
        disk.start(**options)
    _, stderr = copy.communicate(timeout=LIMIT)
    assert copy.returncode == 0, stderr
    assert disk.image.read_bytes() == data
    return died


def repeated(disk):
    return sum(n - 1 for n in collections.Counter(disk.did(vb.T_OUT)).values())


DEATHS = [1, 2, 3, 5, 8, 13, 21, 34]


@pytest.mark.parametrize("hold", [0, 5])
@pytest.mark.parametrize("where", ["fetched", "done", "used", "published"])
def test_what_was_in_flight_is_done_by_the_next_one(backend, tmp_path, where, hold):
    """Once, as both keep a record; but for what was done and not published: nobody knows that."""
    disk = backend(die=where, die_after=7, hold=hold)
    died = copy_beside_deaths(disk, tmp_path, [{"die_after": n} for n in DEATHS])
    assert died == len(DEATHS) + 1
    assert repeated(disk) == (died if where in ("done", "used") else 0)


@pytest.mark.parametrize("query", ["", "?ring=packed"])
@pytest.mark.parametrize("where", ["fetched", "done", "used", "published"])
def test_without_a_record_rings_begin_anew(backend, tmp_path, where, query):
    disk = backend(die=where, die_after=7, hold=5, without_protocol=[vb.P_INFLIGHT])
    died = copy_beside_deaths(disk, tmp_path, [{"die_after": n} for n in DEATHS if n > 5], query)
    assert died >= 4


def test_a_record_that_the_next_one_does_not_keep_is_let_go_of(backend, tmp_path):
    disk = backend(die="fetched", die_after=9, hold=3)
    copy_beside_deaths(disk, tmp_path, [{"without_protocol": [vb.P_INFLIGHT], "die_after": 11},
                                        {"without_protocol": [], "die_after": 13}])


def test_after_the_deadline_requests_fail(backend):
    disk = backend(die="fetched", die_after=20)
    result = unharmed(pollux("perf", "--count", 500, disk.url + "?reconnect_deadline=1"))
    assert result.returncode == 1
    assert "requests fail from now on" in result.stderr, result.stderr


def write_status(controller, lba, data):
    return controller.io.execute(sqe.write(1, lba, len(data) // 512), out=data).status


def read_status(controller, lba, blocks):
    return controller.io.execute(sqe.read(1, lba, blocks), read=blocks * 512).status


def test_what_was_given_up_is_not_done_later(backend):
    """Its memory belongs to somebody else by then."""
    disk = backend(die="fetched", die_after=1)
    with Target(disk.url + "?reconnect_deadline=1") as target:
        with Controller(target.address, target.nqn, io_queues=1) as c:
            assert write_status(c, 0, b"a" * 4096) & 0x7ff == CONTROLLER_PATHING_ERROR
            assert write_status(c, 8, b"b" * 4096) & 0x7ff == CONTROLLER_PATHING_ERROR
            disk.start(die="")
            until(lambda: write_status(c, 16, b"c" * 4096) == 0)
            assert c.read(1, 0, 24) == bytes(8192) + b"c" * 4096
        assert disk.did("unsupported")
        target.stop()


# ---- back-ends that lie


@pytest.mark.parametrize("query", ["", "?ring=packed"])
@pytest.mark.parametrize("lie", ["id", "twice", "jump"])
def test_a_back_end_that_ends_what_it_was_not_sent_is_left_and_used_again(backend, lie, query):
    if lie == "jump" and query:
        pytest.skip("packed rings have no index that could")
    result = must("perf", "-w", "randrw", "--verify", "--count", 500, backend(lie=lie, lies=1).url + query)
    assert "was not sent" in result.stderr, result.stderr


@pytest.mark.parametrize("query", ["", "?ring=packed"])
@pytest.mark.parametrize("lie", ["id", "twice", "jump", "status", "no-status"])
def test_a_back_end_that_always_lies_does_no_harm(backend, lie, query):
    if lie == "jump" and query:
        pytest.skip("packed rings have no index that could")
    unharmed(pollux("perf", "-w", "randrw", "--count", 500, backend(lie=lie).url + "?reconnect_deadline=1" +
                    query.replace("?", "&")))


def test_lengths_are_not_believed(backend):
    must("perf", "-w", "randrw", "--verify", "--count", 500, backend(lie="length").url)


def test_a_back_end_that_has_become_another_disk_is_not_used(backend):
    disk = backend(die="fetched", die_after=20)
    with subprocess.Popen([binary(), "perf", "-w", "randrw", "--verify", "--count", "100", disk.url],
                          stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as perf:
        disk.process.wait()
        disk.start(die="", block=4096)
        lines = []
        for line in perf.stderr:
            lines.append(line)
            if "another disk" in line:
                break
        assert "another disk" in lines[-1], lines
        disk.kill()
        disk.start(block=512)
        perf.stderr.read()
    assert perf.returncode == 0


# ---- commands


def test_errors_are_the_request_s_own(backend):
    disk = backend(fail_sector=100)
    with Target(disk.url) as target, Controller(target.address, target.nqn, io_queues=1) as c:
        assert read_status(c, 96, 8) & 0x7ff == Sc.UNRECOVERED_READ
        assert write_status(c, 100, bytes(512)) & 0x7ff == Sc.WRITE_FAULT
        assert read_status(c, 101, 8) == 0


def test_commands_reach_the_back_end(backend):
    disk = backend()
    with Target(disk.url) as target, Controller(target.address, target.nqn, io_queues=1) as c:
        c.write(1, 8, b"x" * 4096)
        c.flush(1)
        assert disk.commands[-2:] == ["1 8 4096", "4 0 0"]
        c.write(1, 16, b"y" * 4096, fua=True)
        assert disk.commands[-2:] == ["1 16 4096", "4 0 0"]


def test_zeroes_that_are_refused_are_written(backend, tmp_path):
    disk = backend(unsupported=[vb.T_WRITE_ZEROES])
    disk.image.write_bytes(b"\xff" * (8 * MIB))
    source = tmp_path / "source.img"
    source.write_bytes(pattern(4096) + bytes(8 * MIB - 4096))
    must("cp", source, disk.url)
    assert disk.image.read_bytes() == source.read_bytes()
    assert disk.did("unsupported")


def test_zeroes_are_not_sent_as_data(backend, tmp_path):
    disk = backend()
    disk.image.write_bytes(b"\xff" * (8 * MIB))
    source = tmp_path / "source.img"
    source.write_bytes(pattern(4096) + bytes(8 * MIB - 4096))
    must("cp", source, disk.url)
    assert disk.image.read_bytes() == source.read_bytes()
    assert len(disk.did(vb.T_OUT)) == 1


def test_a_change_of_size_is_followed(backend):
    disk = backend()
    with Target(disk.url) as target, Controller(target.address, target.nqn, io_queues=1) as c:
        os.truncate(disk.image, 16 * MIB)
        disk.process.send_signal(signal.SIGUSR1)
        until(lambda: c.namespace(1).nsze == 16 * MIB // 512)
        assert "told of a change: 0" in disk.journal
        assert c.read(1, 16 * MIB // 512 - 8, 8) == bytes(4096)


def test_a_size_that_changed_while_it_was_away_is_followed(backend):
    disk = backend()
    with Target(disk.url) as target, Controller(target.address, target.nqn, io_queues=1) as c:
        disk.kill()
        os.truncate(disk.image, 16 * MIB)
        disk.start()
        until(lambda: c.namespace(1).nsze == 16 * MIB // 512)
        target.stop()


# ---- strangers


@needs_qemu
def test_qemu_s_storage_daemon(tmp_path):
    with Qemu(tmp_path) as disk:
        round_trip(disk, tmp_path)
        must("perf", "-w", "randrw", "--verify", "-o", "64K", "--count", 3000, disk.url)
        with Target(disk.url) as target, Controller(target.address, target.nqn, io_queues=1) as c:
            c.write(1, 8, b"x" * 4096)
            assert c.read(1, 8, 8) == b"x" * 4096
            c.flush(1)


@needs_qemu
def test_qemu_s_storage_daemon_killed_in_mid_write(tmp_path):
    with Qemu(tmp_path) as disk:
        deaths, seen = 0, disk.image.stat().st_mtime_ns
        perf = subprocess.Popen([binary(), "perf", "-w", "randrw", "--verify", "--count", "100000", disk.url],
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while True:
            until(lambda: disk.image.stat().st_mtime_ns != seen or perf.poll() is not None)
            if perf.poll() is not None or deaths == 6:
                break
            disk.kill()
            seen = disk.image.stat().st_mtime_ns
            disk.start()
            deaths += 1
        stdout, stderr = perf.communicate(timeout=LIMIT)
    assert perf.returncode == 0, stderr
    assert ", 0 did not" in stdout, stdout
    assert deaths > 1, "it was over before it had begun"
