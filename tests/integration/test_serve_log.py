# SPDX-License-Identifier: BSD-3-Clause
"""What hosts and peers can do to the log: fill it no further than its limits, and stop nobody when it is not read."""

import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess

import pytest

import sqe
from host import Controller
from nvmetcp import Connection, Queue
from spec import Sc
from target import SANITIZER, Target, binary, wait_until

LIMIT = 60
QUEUE = 64 << 10  # bytes of lines that wait to be written
LINES = 10  # in five seconds: of one message, about one peer
COUNT = re.compile(r"(\d+) more like this were left out: (\S+): ")


def misbehave(address, source="127.0.0.1"):
    """Sends what is no ICReq, and waits for the connection to end."""
    with socket.create_connection(address, LIMIT, (source, 0)) as peer:
        peer.sendall(bytes([0x55]) + bytes(200))
        while peer.recv(4096):
            pass


def said_about(lines, peer):
    """(lines about a peer, the sum of those that were left out)"""
    counts = [match for match in map(COUNT.search, lines) if match and match[2].startswith(peer + ":")]
    own = [line for line in lines if not COUNT.search(line) and f" {peer}:" in line]
    return len(own), sum(int(match[1]) for match in counts)


def test_a_flood_is_logged_in_a_few_lines_and_a_count():
    with Target("ram:1M") as target:
        for _ in range(300):
            misbehave(target.address)
        assert wait_until(lambda: COUNT.search(target.stderr))  # it has stopped, and nobody else does anything
    lines, left_out = said_about(target.stderr.splitlines(), "127.0.0.1")
    assert lines >= LINES and lines + left_out == 300
    assert lines + len(COUNT.findall(target.stderr)) < 100


def test_peers_do_not_silence_each_other():
    with Target("ram:1M") as target:
        for _ in range(100):
            misbehave(target.address, "127.0.0.2")
        misbehave(target.address, "127.0.0.3")
        assert wait_until(lambda: said_about(target.stderr.splitlines(), "127.0.0.3") == (1, 0))
    lines, left_out = said_about(target.stderr.splitlines(), "127.0.0.2")
    assert left_out > 0 and lines + left_out == 100


@pytest.mark.parametrize("verbose", [[], ["-v"], ["-v", "-v"]], ids=["warnings", "info", "debug"])
def test_every_level_has_limits(verbose):
    with Target("ram:1M", options=verbose) as target:
        for _ in range(60):
            misbehave(target.address)
            with Queue(target.address) as queue:
                assert queue.connect("nqn.2020-01.org.example:none").status == Sc.CONNECT_INVALID
            with Controller(target.address, target.nqn, io_queues=1):
                pass
    lines = target.stderr.splitlines()
    kinds = {re.sub(r"[0-9.:]+|nqn\S*", "", line) for line in lines if not COUNT.search(line)}
    assert len(kinds) == [1, 4, 5][len(verbose)], kinds
    for kind in kinds:
        assert sum(re.sub(r"[0-9.:]+|nqn\S*", "", line) == kind for line in lines) < 60
    assert all(int(match[1]) > 0 for match in map(COUNT.search, lines) if match)


@pytest.mark.skipif(not shutil.which("prlimit"), reason="needs prlimit")
def test_connections_that_are_turned_away_are_logged_in_a_few_lines():
    with Target("ram:1M", prefix=["prlimit", "--nofile=40:40"]) as target:
        held = [Connection(target.address) for _ in range(200)]
        for connection in held[40:]:
            connection.wait_closed()
        for connection in held:
            connection.close()
    lines = [line for line in target.stderr.splitlines() if "no file descriptors" in line]
    assert LINES <= len(lines) < 60
    assert re.search(r"\d+ more like this were left out: no file descriptors", target.stderr)


@pytest.mark.skipif(not shutil.which("prlimit"), reason="needs prlimit")
def test_what_is_said_at_the_start_comes_before_it_listens(tmp_path):
    (tmp_path / "disk.img").write_bytes(bytes(2 << 20))
    with subprocess.Popen(["prlimit", "--fsize=1048576", binary(), "serve", "-l", "127.0.0.1:0", tmp_path / "disk.img"],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            first = process.stdout.readline()
        finally:
            process.terminate()
        assert "writes behind byte 1048576 will fail" in first


# -- a log that nobody reads -----------------------------------------------------------------------------------------


class Unread:
    """`pollux serve` with a standard error that is full, and that nobody reads before read()."""

    def __init__(self, *arguments):
        self.end, err = os.pipe()
        size = fcntl.fcntl(err, fcntl.F_SETPIPE_SZ, 4096)  # a page, whatever that is
        os.write(err, b"x" * (size - 1) + b"\n")
        self.process = subprocess.Popen([binary(), "serve", "-l", "127.0.0.1:0", *arguments], stdout=subprocess.PIPE,
                                        stderr=err, text=True)
        os.close(err)
        said = iter(self.process.stdout.readline, "")
        found = next(match for match in map(re.compile(r"connect .* -s (\d+) -n (\S+)").search, said) if match)
        self.address, self.nqn = ("127.0.0.1", int(found[1])), found[2]

    def read(self):
        """All of it, up to the end of the process."""
        with open(self.end, encoding="ascii", errors="replace", closefd=False) as pipe:
            return pipe.read().splitlines()[1:]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        os.close(self.end)


@pytest.mark.tsan
def test_a_log_that_nobody_reads_stops_no_host():
    ours, theirs, disk = (f"nqn.2020-01.org.example:{letter * 199}" for letter in "abc")
    with Unread("-v", "-m", ",".join(map(str, sorted(os.sched_getaffinity(0))[:2])), "--allow", ours, "-n", disk,
                "ram:1M") as serve:
        with Controller(serve.address, disk, hostnqn=ours, io_queues=2) as controller:
            for index in range(20 * LINES):  # two long lines each: more than a queue for lines has room for
                with Queue(serve.address, source=f"127.0.1.{1 + index % 20}") as queue:
                    assert queue.connect(disk, theirs).status == Sc.CONNECT_HOST
                controller.write(1, index, bytes([index % 256]) * 512)
                assert controller.read(1, index, 1) == bytes([index % 256]) * 512
        serve.process.send_signal(signal.SIGTERM)
        lines = serve.read()
        assert serve.process.wait(LIMIT) == 0
    # In a machine whose CPUs take turns a good part of them may have left the queue before its writer is held up.
    slow = os.environ.get("POLLUX_GUEST") == "here" and sum(map(len, lines)) > QUEUE
    assert slow or any(re.search(r"pollux: warning: \d+ lines are left out here", line) for line in lines), lines
    assert not any(SANITIZER.search(line) for line in lines)
    assert sum("is not allowed to connect" in line for line in lines) > LINES


def test_it_ends_though_nobody_reads_why():
    """A disk that does not answer, which is to be told at the end; and nobody reads that."""
    with Target("ram:1M") as upstream, Unread(f"nvme+tcp://127.0.0.1:{upstream.port}/{upstream.nqn}") as serve:
        with Controller(serve.address, serve.nqn, io_queues=1) as controller:
            assert controller.read(1, 0, 1) == bytes(512)
            upstream.process.send_signal(signal.SIGSTOP)
            try:
                controller.io.submit(sqe.write(1, 0, 1), out=bytes(512))
                serve.process.send_signal(signal.SIGTERM)
                serve.process.wait(LIMIT)
            finally:
                upstream.process.send_signal(signal.SIGCONT)
