# SPDX-License-Identifier: BSD-3-Clause
"""`pollux perf` on a remote disk, served by us."""

import contextlib
import json
import re
import signal
import subprocess
import threading

import pytest

from controller import Port, Subsystem, wait_for
from spec import Io
from target import Target, binary, sanitized, wait_until

LIMIT = 60
FAILED = 1
INTERRUPTED = r"^interrupted \d+ times?: nothing completed for (up to )?[0-9.]+ s$"  # by others, too


@pytest.fixture(scope="module")
def served():
    with Target("ram:16M", "null:1T") as running:
        yield running


def url(target, **settings):
    host, port = target.address
    query = "&".join(f"{key}={value}" for key, value in settings.items())
    return f"nvme+tcp://{host}:{port}/{target.nqn}" + ("?" + query if query else "")


def perf(*arguments):
    return subprocess.run([binary(), "perf", *map(str, arguments)], capture_output=True, text=True, timeout=LIMIT,
                          check=False, stdin=subprocess.DEVNULL)


def measured(*arguments):
    result = perf("--json", "-", *arguments)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("workload", ["randread", "randwrite", "randrw", "rw"])
def test_every_workload_is_verified(served, workload):
    result = measured("--verify", "-w", workload, "-q", "32", "--count", "2000", url(served))
    assert result["errors"] == 0 and result["requests"] == 2000
    assert result["verify"]["wrong"] == 0


@pytest.mark.parametrize("settings", [{"hdgst": 1}, {"ddgst": 1}, {"hdgst": 1, "ddgst": 1}], ids=str)
def test_digests_change_nothing(served, settings):
    result = measured("--verify", "-w", "randrw", "--count", "1000", url(served, **settings))
    assert result["errors"] == 0 and result["verify"]["wrong"] == 0


@pytest.mark.parametrize("size", ["512", "4K", "128K", "1M"])
def test_every_size_is_verified(served, size):
    result = measured("--verify", "-w", "randrw", "-o", size, "-q", "8", "--count", "100", url(served))
    assert result["errors"] == 0 and result["verify"]["wrong"] == 0


def test_queue_pairs_are_connections(served):
    result = measured("-P", "8", "-q", "64", "--count", "4000", url(served))
    assert result["requests"] == 4000 and result["errors"] == 0


@pytest.mark.skipif(sanitized(), reason="how much CPU time a sanitizer takes is nobody's business")
def test_the_process_at_the_other_end_is_found(served):
    targets = measured("-t", "0.5", url(served, nsid=2))["cpu"]["targets"]
    assert [each["pid"] for each in targets] == [served.pid]
    assert targets[0]["name"] == "pollux" and targets[0]["seconds"] >= 0


def test_queue_pairs_of_a_core_are_one_association():
    with Port(Subsystem()) as port:
        connects = []
        port.on_connect = lambda connection, command: connects.append(command.sqe[42])
        measured("-m", "0", "-P", "2", "-q", "8", "--count", "500", port.url)
        assert sorted(connects) == [0, 0, 1, 2]  # to see what there is; to measure
        assert {qid for qid, opcode in port.commands if qid and opcode == Io.READ} == {1, 2}
    text = subprocess.run([binary(), "help", "perf"], capture_output=True, text=True, timeout=LIMIT, check=True).stdout
    assert "one association" in re.search(r"--qpairs(.*?)--cores", text, re.S)[1]


@contextlib.contextmanager
def started(port, *arguments):
    """A gentle run on a controller of ours, which is being read from."""
    gentle = ["--poll", "sleep", "-q", "4", "--rate", "200"]
    with subprocess.Popen([binary(), "perf", *gentle, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True) as process:
        end = threading.Timer(LIMIT, process.kill)
        end.start()
        try:
            assert wait_for(lambda: port.count(Io.READ) > 20)
            yield process
        finally:
            end.cancel()
            process.kill()


def count_a_loss(tmp_path):
    """How many interruptions were counted where a connection was lost once."""
    with Port(Subsystem()) as port:
        with started(port, "-t", "5", "--json", str(tmp_path / "result"), port.url) as process:
            port.drop()
            out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, err
    lines = err.splitlines()
    assert len(lines) == 2 and "lost" in lines[0] and "connected again" in lines[1]
    assert re.search(INTERRUPTED, out, re.M)
    result = json.loads((tmp_path / "result").read_text())
    assert result["errors"] == 0 and result["interruptions"] == result["disks"][0]["interruptions"]
    assert result["interruptions"]["count"] >= 1 and result["interruptions"]["longest_seconds"] >= 0.5
    return result["interruptions"]["count"]


def test_a_lost_connection_is_told_of_and_counted(tmp_path):
    """Once, where this machine was not held up as well."""
    assert any(count_a_loss(tmp_path) == 1 for _ in range(3))


def test_without_an_interruption_none_is_told_of(served):
    """But where this machine had something else to do for half a second."""
    assert any(measured("--count", "1000", url(served))["interruptions"] == {"count": 0, "longest_seconds": 0}
               for _ in range(3))
    assert any("interrupted" not in perf("--count", "1000", url(served)).stdout for _ in range(3))


def test_requests_that_fail_are_told_of_in_words():
    with Port(Subsystem()) as port:
        with started(port, "--count", "2000", port.url + "?reconnect_deadline=1") as process:
            port.close()
            out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == FAILED and "interrupted" in out
    assert re.search(r"^pollux: \d+ requests failed, the first with NVMe status 370, Host Pathing Error$", err, re.M)


def test_it_says_what_it_waits_for_when_the_time_is_over():
    with Port(Subsystem()) as port:
        with started(port, "-t", "5", port.url) as process:
            port.close()
            assert "lost" in process.stderr.readline()
            assert any("waiting" in process.stderr.readline() for _ in range(2))  # the other one: it cannot connect
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=LIMIT)
    assert re.search(INTERRUPTED, out, re.M)


def test_a_target_that_is_not_there_is_named():
    with Target("ram:1M") as gone:
        address = url(gone)
        gone.stop()
        result = perf("-t", "1", address)
    assert result.returncode != 0
    assert len(result.stderr.splitlines()) == 1 and "127.0.0.1" in result.stderr


def test_it_ends_while_the_target_is_silent():
    """A target that stops answering in mid-run does not keep it from ending when asked to."""
    with Target("ram:16M") as frozen:
        with subprocess.Popen([binary(), "perf", "-t", "1000", url(frozen)], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as process:
            try:
                while frozen.cpu_seconds() < 0.2:  # it is being read from
                    assert process.poll() is None
                frozen.process.send_signal(signal.SIGSTOP)
                process.send_signal(signal.SIGINT)
                process.send_signal(signal.SIGINT)
                out, err = process.communicate(timeout=LIMIT)
            finally:
                frozen.process.send_signal(signal.SIGCONT)
        assert "IOPS" in out, err
