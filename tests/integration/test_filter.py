# SPDX-License-Identifier: BSD-3-Clause
"""Disks that are slow, that fail, and whose power is cut (delay:DISK, error:DISK, crash:DISK), with all that the
command does, and while hosts use them.

A delay that a test waits for is short; one that it must not see the end of is a day. How long anything takes decides
nothing."""

import json
import os
import re
import subprocess

import pytest

import expect
import sqe
from control import Control, Refused
from disks import MIB
from host import Controller
from spec import Sc
from rpc import Server, listen
from target import Target, binary, wait_until

REFUSED = 2
FAILED = 1
LIMIT = 60
DAY = "86400s"
NQN = "nqn.2026-01.example:filters"
READ, WRITE, FLUSH = 0, 1, 4  # enum plx_bdev_op
NONE, FAILURE, PENDING, CORRUPT = range(4)  # enum plx_bdev_injection_type


def run(*arguments):
    return subprocess.run([binary(), *map(str, arguments)], capture_output=True, text=True, timeout=LIMIT, check=False,
                          stdin=subprocess.DEVNULL)


def measured(*arguments):
    result = run("perf", "--json", "-", *arguments)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def refused(*arguments):
    result = run(*arguments)
    assert result.returncode == REFUSED, f"exit status {result.returncode}\n{result.stdout}{result.stderr}"
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


def tower(depth, inner):
    """Filters of both kinds one upon the other, the settings of each with it."""
    for level in range(depth):
        inner = f"error:[{inner}]" if level % 2 else f"delay:[{inner}]?read=10us&write=20us"
    return inner


# -- perf, cp, identify ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("disk", [
    "delay:ram:8M?read=100us&write=200us&read_p99=1ms", "delay:[ram:8M?block=4096]?write=1ms",
    "error:ram:8M", "error:delay:ram:8M", tower(8, "ram:8M?block=512"), "crash:ram:8M?latency=200us&memory=256K",
])
def test_what_is_written_through_filters_is_read_back(disk):
    result = measured("--verify", "-w", "randrw", "-q", "16", "--count", "2000", disk)
    assert result["requests"] == 2000 and result["errors"] == 0


def test_a_file_keeps_what_was_written_through_filters(tmp_path):
    image = tmp_path / "disk [1].img"
    with open(image, "wb") as file:
        file.truncate(8 * MIB)
    url = tower(8, f"file:{image}?block=4096")
    measured("--verify", "-w", "write", "--count", "1000", url)
    result = measured("--verify", "-w", "read", "--count", "1000", str(image))
    assert result["errors"] == 0


def test_reads_do_not_end_before_their_delay():
    """A disk is not slower than it is told to be by more than this machine makes it: that is not looked at."""
    latency = measured("-q", "4", "--count", "50", "delay:ram:8M?read=3ms")["latency_us"]
    assert latency["min"] >= 2900  # the histogram's buckets are 1 % wide


@pytest.mark.parametrize("settings,word", [
    ("type=failure&status=0x281", "NVMe status 281"), ("type=failure&count=1", "NVMe status 006"),
])
def test_perf_says_how_a_disk_failed(settings, word):
    result = run("perf", "-w", "randread", "--count", "100", f"error:ram:8M?{settings}")
    assert result.returncode == FAILED and word in result.stderr


@pytest.mark.parametrize("which", ["read", "write"])
def test_perf_finds_what_is_corrupted(which):
    result = run("perf", "--verify", "-w", "rw", "-q", "1", "--count", "500",
                 f"error:ram:8M?io={which}&type=corrupt&offset=1000")
    assert result.returncode == FAILED
    assert re.search(r"[1-9]\d* requests? read wrong data", result.stderr)


@pytest.mark.parametrize("disk,word", [
    ("delay:", "no disk to stand on"), ("delay:ram:8M?block=4096", "delay:[ram:1G?block=4096]"),
    ("delay:[ram:8M", "a [ is not closed"), ("delay:[ram:8M]1", "after the ]"), ("delay:ram:8M?read=5", "read=2ms"),
    ("delay:no-such-file.img?read=1ms", "no-such-file.img"), ("error:delay:tape:1G", "tape"),
    ("crash:ram:8M?torn=page", "a block or a sector"), ("error:ram:8M?type=failure&io=sync", "io=sync"),
    ("error:ram:8M?io=read", "failure, pending or corrupt"),
])
@pytest.mark.parametrize("words", [["perf", "--count", "1"], ["serve", "-l", "127.0.0.1:0"], ["cp", "null:8M"]],
                         ids=lambda words: words[0])
def test_a_wrong_name_is_refused_with_one_line(words, disk, word):
    assert word in refused(*words, disk)


def test_ram_disks_under_filters_count_as_memory():
    with open("/proc/meminfo", encoding="ascii") as file:
        kib = sum(int(number) for number in re.findall(r"^(?:MemTotal|SwapTotal): *(\d+) kB", file.read(), re.M))
    size = kib // 8 * 5 // 4 * 4  # of two, more than there is
    assert "the RAM disks have" in refused("perf", "--count", "1", f"ram:{size}K", f"error:delay:ram:{size}K")


def test_cp_copies_through_filters(tmp_path):
    source, copy = tmp_path / "source", tmp_path / "copy"
    data = os.urandom(2 * MIB)
    source.write_bytes(data)
    copy.write_bytes(bytes(2 * MIB))
    result = run("cp", f"delay:{source}?read=1ms", f"error:{copy}")
    assert result.returncode == 0, result.stderr
    assert copy.read_bytes() == data
    result = run("cp", f"error:{source}?io=read&type=failure&status=0x281&count=1", copy)
    assert result.returncode == FAILED and "281" in result.stderr


def test_a_filter_that_is_served_is_identified_as_what_it_was_told_to_be():
    uuid = "01234567-89ab-cdef-0123-456789abcdef"
    with Target(f"delay:[ram:8M?block=4096]?read=1ms&uuid={uuid}") as target:
        host, port = target.address
        result = run("identify", f"nvme+tcp://{host}:{port}/{target.nqn}?nsid=1")
        assert result.returncode == 0, result.stderr
        assert uuid in result.stdout and "lbads:12" in result.stdout


def test_the_name_of_the_subsystem_is_made_of_what_was_asked_for():
    """With the data of a RAM disk its UUID is gone at the end; that hosts find the same subsystem again it is not."""
    def nqn(disk):
        with Target(disk) as target:
            return target.nqn

    disks = ["delay:ram:8M?read=1ms", "delay:ram:8M?read=2ms", "delay:[ram:8M?block=4096]?read=1ms", "error:ram:8M"]
    names = [nqn(disk) for disk in disks]
    assert len(set(names)) == len(disks)
    assert [nqn(disk) for disk in disks] == names


# -- under a host ----------------------------------------------------------------------------------------------------


def test_what_waits_holds_nothing_else_up_and_can_be_aborted():
    with Target(f"delay:ram:8M?read={DAY}", "ram:8M") as target:
        with Controller(target.address, target.nqn, io_queues=1) as host:
            queue = host.io
            waiting = queue.submit(sqe.read(1, 0, 8), read=4096)
            queue.must(sqe.write(1, 0, 8), out=bytes(4096))
            queue.must(sqe.flush(1))
            queue.must(sqe.read(2, 0, 8), read=4096)
            assert not waiting.completion
            host.admin.must(sqe.abort(waiting.cid, 1))
            expect.status(queue.wait(waiting), Sc.ABORT_REQUESTED)


def test_a_controller_is_reset_while_its_reads_wait():
    with Target(f"delay:ram:8M?read={DAY}") as target:
        with Controller(target.address, target.nqn, io_queues=1) as host:
            host.io.submit(sqe.read(1, 0, 8), read=4096)
            host.disable()
        with Controller(target.address, target.nqn, io_queues=1) as host:
            host.io.must(sqe.write(1, 0, 8), out=bytes(4096))


@pytest.mark.parametrize("disk", [f"delay:ram:8M?read={DAY}", "error:ram:8M?io=read&type=pending"])
def test_a_target_stops_while_requests_wait(disk):
    """In the time that it has, and with nothing left over: Target looks at that."""
    with Target(disk) as target:
        host = Controller(target.address, target.nqn, io_queues=1)
        for _ in range(8):
            host.io.submit(sqe.read(1, 0, 8), read=4096)
        host.io.must(sqe.flush(1))


def test_statuses_that_are_injected_reach_the_host():
    with Target("error:ram:8M?io=read,compare&type=failure&status=0x281&count=2") as target:
        with Controller(target.address, target.nqn, io_queues=1) as host:
            for _ in range(2):
                expect.status(host.io.execute(sqe.read(1, 0, 8), read=4096), Sc.UNRECOVERED_READ)
            expect.status(host.io.execute(sqe.compare(1, 0, 8), out=bytes(4096)), Sc.UNRECOVERED_READ)
            host.io.must(sqe.read(1, 0, 8), read=4096)
            host.io.must(sqe.write(1, 0, 8), out=bytes(4096))


# -- without power ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stopped", [True, False], ids=["stopped", "killed"])
def test_a_server_that_is_killed_has_lost_what_was_not_flushed(tmp_path, stopped):
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(MIB))
    with Target(f"crash:{image}") as target:
        with Controller(target.address, target.nqn, io_queues=1) as host:
            host.io.must(sqe.write(1, 0, 8), out=b"a" * 4096)
            host.io.must(sqe.flush(1))
            host.io.must(sqe.write(1, 8, 8), out=b"b" * 4096)
            assert host.io.must(sqe.read(1, 0, 16), read=8192).data == b"a" * 4096 + b"b" * 4096
            assert image.read_bytes()[:8192] == b"a" * 4096 + bytes(4096)
            if not stopped:
                target.kill()
    assert image.read_bytes()[:8192] == b"a" * 4096 + (b"b" * 4096 if stopped else bytes(4096))


def test_power_is_cut_and_comes_back(tmp_path):
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(MIB))
    with Server() as server, server.client() as client:
        client.call("pollux_disk_open", url=f"crash:{image}?seed=3&torn=none", name="d")
        client.call("nvmf_create_transport", trtype="TCP")
        client.call("nvmf_create_subsystem", nqn=NQN, allow_any_host=True)
        client.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "d"})
        assert "has power" in client.refused("pollux_power_restore", name="d")[1]
        with Controller(("127.0.0.1", listen(client, NQN)), NQN, io_queues=1) as host:
            host.io.must(sqe.write(1, 0, 8), out=b"a" * 4096)
            host.io.must(sqe.flush(1))
            for block in range(8, 256, 8):
                host.io.must(sqe.write(1, block, 8), out=b"b" * 4096)
            client.call("pollux_power_cut", name="d")
            for command in (sqe.read(1, 0, 8), sqe.flush(1)):
                expect.status(host.io.execute(command, read=4096 if command[0] == 2 else 0), Sc.INVALID_NAMESPACE)
            assert wait_until(lambda: "power was cut, seed=3" in server.stderr)
            assert "already" in client.refused("pollux_power_cut", name="d")[1]
            client.call("pollux_power_restore", name="d")
            data = host.io.must(sqe.read(1, 0, 256), read=256 * 512).data
        assert data == image.read_bytes()[:256 * 512]
        blocks = [data[at:at + 4096] for at in range(0, len(data), 4096)]
        assert blocks[0] == b"a" * 4096
        assert set(blocks[1:]) == {b"b" * 4096, bytes(4096)}, "of 31, some and not all: by the seed"


# -- changes while hosts look on -------------------------------------------------------------------------------------


@pytest.fixture(params=[1, 2])
def control(request):
    """A subsystem whose namespace is a slow disk on one that fails, on a null disk that is open."""
    with Control(reactors=request.param) as program:
        program("subsystem", NQN, "any-host")
        program("open", "bottom", "null:8M")
        program("open", "frail", "error:bottom")
        program("open", "slow", "delay:frail")
        program("add-ns", NQN, "slow", 1)
        program.address = ("127.0.0.1", program("listen", "127.0.0.1:0"))
        program("start")
        yield program
        for name in ("slow", "frail"):
            program("close", name)
        program("close", "bottom")  # which is still there


@pytest.fixture
def host(control):
    with Controller(control.address, NQN, io_queues=2) as ready:
        yield ready
    control.change("remove-ns", NQN, 1)


def test_delays_and_faults_change_under_a_host(control, host):
    first, second = host.queues
    for queue in (first, second):
        queue.must(sqe.read(1, 0, 8), read=4096)
    for which in (0, 1):
        control("delay", "slow", which, 2_000_000_000)
    waiting = [queue.submit(sqe.read(1, 0, 8), read=4096) for queue in (first, second)]
    for queue in (first, second):
        queue.must(sqe.write(1, 0, 8), out=bytes(4096))
    for which in (0, 1):
        control("delay", "slow", which, 0)
    for queue in (first, second):
        queue.must(sqe.read(1, 0, 8), read=4096)
    control("inject", "frail", FAILURE, WRITE, 2)
    for queue in (first, second):
        expect.status(queue.execute(sqe.write(1, 0, 8), out=bytes(4096)), Sc.WRITE_FAULT)
        queue.must(sqe.read(1, 0, 8), read=4096)
    first.must(sqe.write(1, 0, 8), out=bytes(4096))
    control("inject", "frail", CORRUPT, READ, 1)
    assert first.must(sqe.read(1, 0, 8), read=4096).data == b"\xff" + bytes(4095)
    assert second.must(sqe.read(1, 0, 8), read=4096).data == bytes(4096)
    for qid, (queue, command) in enumerate(zip((first, second), waiting), 1):
        assert not command.completion
        host.admin.must(sqe.abort(command.cid, qid))
        expect.status(queue.wait(command), Sc.ABORT_REQUESTED)


def test_what_is_pending_goes_on_when_that_is_taken_back(control, host):
    queues = host.queues
    control("inject", "frail", PENDING, FLUSH, 2)
    pending = [queue.submit(sqe.flush(1)) for queue in queues]
    for queue in queues:
        queue.must(sqe.read(1, 0, 8), read=4096)
    assert not any(command.completion for command in pending)
    control("inject", "frail", NONE, FLUSH, 0)
    for queue, command in zip(queues, pending):
        expect.status(queue.wait(command), Sc.SUCCESS)


def test_hosts_see_the_size_of_the_disk_below(control, host):
    assert host.namespace(1).nsze == 16384
    control("resize", "bottom", "16M")
    control("apply")
    assert host.namespace(1).nsze == 32768
    host.io.must(sqe.read(1, 32767, 1), read=512)


def test_a_namespace_is_removed_while_its_requests_wait(control):
    control("delay", "slow", 0, 2_000_000_000)
    control("delay", "slow", 1, 2_000_000_000)
    with Controller(control.address, NQN, io_queues=1) as host:
        waiting = host.io.submit(sqe.read(1, 0, 8), read=4096)
        host.io.must(sqe.flush(1))
        control.change("remove-ns", NQN, 1)
        expect.status(host.io.wait(waiting), Sc.INVALID_NAMESPACE, Sc.ABORT_REQUESTED)


def test_what_is_no_filter_is_not_told_to_be_slow(control):
    for words in (("delay", "bottom", 0, 1), ("inject", "slow", FAILURE, READ, 1), ("delay", "frail", 0, 1)):
        with pytest.raises(Refused, match="is of kind"):
            control(*words)
    control.change("remove-ns", NQN, 1)
