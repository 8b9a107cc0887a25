# SPDX-License-Identifier: BSD-3-Clause
"""`pollux compare` across two machines, which here are one: `target`, and `host`, and who else may come."""
import json
import re
import signal
import socket
import subprocess
from contextlib import contextmanager, suppress

import pytest

from target import binary, wait_until
from test_compare import LIMIT, SHORT, alive, children, run

LOAD = SHORT[:-2]  # without the disk, which the target's machine names
GREETING = re.compile(r"waiting on (\S+); on the other machine:\n  pollux compare host (\S+) --key ([0-9a-f]{32})\n")


class Agent:
    """`pollux compare target`, running."""

    def __init__(self, process, output):
        self.process, self.output = process, output
        self.address, _, self.key = GREETING.search(output()).groups()

    def __iter__(self):
        return iter((self.address, "--key", self.key))

    def connect(self):
        host, _, port = self.address.rpartition(":")
        return socket.create_connection((host, int(port)), LIMIT)


@contextmanager
def agent(path, *words, status=0, disk="null"):
    with open(path, "wb+", buffering=0) as file:
        process = subprocess.Popen([binary(), "compare", "target", "-l", "127.0.0.1:0", "--disk", disk, *words],
                                   stdout=file, stderr=file)
        try:
            assert wait_until(lambda: GREETING.search(path.read_text())), path.read_text()
            yield Agent(process, path.read_text)
            process.send_signal(signal.SIGINT)
            assert process.wait(LIMIT) == status
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def serving(tmp_path):
    with agent(tmp_path / "agent") as running:
        yield running


def test_both_machines_are_told(serving, tmp_path):
    run("host", *serving, *LOAD, "--hosts", "pollux", "--targets", "pollux", "--json", tmp_path / "a.json", "--html",
        tmp_path / "a.html")
    doc = json.loads((tmp_path / "a.json").read_text())
    cell, = doc["cells"]
    assert cell["status"] == "measured" and len(cell["rounds"]) == 6
    assert doc["settings"]["network"] == "two machines" and doc["settings"]["disk"] == "null"
    assert doc["target_machine"]["kernel"]["release"] and doc["machine"]["kernel"]["release"]
    used = cell["rounds"][0]["fast"]["target"]
    assert used["window"] > 0 and {"busy", "kernel_threads", "stolen"} <= used.keys()
    assert "The target's machine" in (tmp_path / "a.html").read_text()
    assert wait_until(lambda: "is gone; waiting for another" in serving.output())
    assert not children(serving.process.pid)


def test_one_host_comes_after_the_other(serving):
    for _ in range(2):
        run("host", *serving, *LOAD, "--hosts", "pollux", "--targets", "pollux")
    assert serving.output().count("measuring with 127.0.0.1") == 2


def test_who_has_not_the_key_is_sent_away(serving):
    done = run("host", serving.address, "--key", "0" * 32, *LOAD, status=1)
    assert done.stderr == "pollux: the key is not the one that pollux compare target printed\n"
    assert wait_until(lambda: "was sent away: it has not the key" in serving.output())


@pytest.mark.parametrize("line", [
    b"\n", b"[]\n", b"\0\0\0\n", b'{"key": 1}\n', b'{"key": "' + b"0" * 100000 + b'"}\n', b"{" * 2000 + b"\n",
    b"A" * (1 << 20), b""], ids=["empty", "array", "zeroes", "number", "long", "deep", "endless", "nothing"])
def test_what_is_no_greeting_ends_the_connection(serving, line):
    with serving.connect() as stranger:
        stranger.sendall(line)
        if not line:
            stranger.shutdown(socket.SHUT_WR)
        answer = b""
        with suppress(ConnectionResetError):  # where it did not read all of it
            while more := stranger.recv(4096):
                answer += more
        assert b"machine" not in answer
    assert wait_until(lambda: "was sent away" in serving.output())


def ask(file, **request):
    file.write(json.dumps(request).encode() + b"\n")
    file.flush()
    return json.loads(file.readline())


START = {"do": "start", "target": "pollux", "cores": 1, "depth": 4, "poll": "adaptive"}


@pytest.mark.parametrize("changed", [
    {"target": "spdk"}, {"target": None}, {"cores": 0}, {"cores": 10 ** 6}, {"cores": "1"}, {"depth": 0},
    {"depth": 10 ** 9}, {"depth": -1}, {"poll": "never"}, {"poll": 3}, {"do": "nothing"}, {"do": None},
    {"do": ["start"]},
], ids=str)
def test_a_host_that_asks_for_what_there_is_not_is_told_so(serving, changed):
    with serving.connect() as host, host.makefile("rwb") as file:
        assert ask(file, id=1, key=serving.key) == {"id": 1}
        answer = ask(file, **{**START, **changed, "id": 2})
        assert answer["id"] == 2 and answer["error"]
        assert ask(file, id=3, do="usage")["busy"] > 0  # and it goes on
    assert wait_until(lambda: "is gone" in serving.output())


def test_a_host_that_goes_away_takes_the_target_along(serving):
    with serving.connect() as host, host.makefile("rwb") as file:
        ask(file, id=1, key=serving.key)
        started = ask(file, **START, id=2)
        assert started["nqn"].startswith("nqn.") and started["port"]
        begun, = children(serving.process.pid)
    assert wait_until(lambda: not alive(begun))


def test_a_target_that_goes_away_is_said_to_be_gone(tmp_path):
    with agent(tmp_path / "agent", status=-signal.SIGKILL) as serving:
        host = subprocess.Popen([binary(), "compare", "host", *serving, "-t", "0.3", *LOAD[2:], "--rounds", "100",
                                 "--hosts", "pollux", "--targets", "pollux"],
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert wait_until(lambda: children(serving.process.pid) and children(host.pid))
        serving.process.kill()
        said, _ = host.communicate(timeout=LIMIT)
        assert "the machine of the target is gone" in said


@pytest.mark.parametrize("words, complaint", [
    (["target"], "where to listen is not said: pollux compare target -l ADDR"),
    (["target", "-l", "nowhere"], "--listen nowhere:"),
    (["target", "-l", "127.0.0.1", "--json", "-"], "what is measured, and written, is said to pollux compare host"),
    (["host"], "which machine has the target is not said: pollux compare host ADDR --key KEY"),
    (["host", "127.0.0.1"], "--key is missing: pollux compare target prints it"),
    (["host", "127.0.0.1", "--key", "x", "--disk", "null"], "--disk and --target-cores are for pollux compare target"),
    (["host", "nowhere", "--key", "x"], 'host nowhere: "nowhere" is not a numeric'),
    (["--key", "x"], "--key is for pollux compare host"),
    (["-l", "127.0.0.1"], "--listen is for pollux compare target"),
])
def test_what_is_wrong_is_said_in_a_sentence(words, complaint):
    done = run(*words, status=2)
    assert done.stderr.startswith(f"pollux: {complaint}") and done.stderr.count("\n") == 1, done.stderr
