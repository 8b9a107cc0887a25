# SPDX-License-Identifier: BSD-3-Clause
"""`pollux perf` on a remote disk, served by us."""

import json
import signal
import subprocess

import pytest

from target import Target, binary, sanitized

LIMIT = 60
FAILED = 1


@pytest.fixture(scope="module")
def served():
    with Target("ram:16M", "null:1T") as running:
        yield running


def url(target, **settings):
    host, port = target.address
    query = "&".join(f"{key}={value}" for key, value in settings.items())
    return f"nvme+tcp://{host}:{port}/{target.nqn}" + ("?" + query if query else "")


def perf(*arguments):
    return subprocess.run([binary(), "perf", *map(str, arguments)], capture_output=True, text=True, timeout=LIMIT, check=False,
                          stdin=subprocess.DEVNULL)


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
        with subprocess.Popen([binary(), "perf", "-t", "1000", url(frozen)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              stdin=subprocess.DEVNULL, text=True) as process:
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
