# SPDX-License-Identifier: BSD-3-Clause
"""Part A: what the target costs when it has nothing to do, and how soon it is there."""

import contextlib
import os
import resource
import socket
import subprocess
import threading
import time

from tools import MIB, RESULTS, Skip, binary_path, serve, status_bytes, times

import pdu
import sqe
from host import Controller

IDLE_SECONDS = 10
KEEP_ALIVE_MS = 5000  # Linux hosts ask for 5 s, and send every half of that
STARTS = 20
CONNECTIONS = 1000
QUEUES_EACH = 125  # I/O queue pairs of a controller
SETTLE_SECONDS = 0.5


class KeptAlive:
    """A host that sends keep-alives and nothing else."""

    def __init__(self, target):
        self.controller = Controller(target.address, target.nqn, io_queues=1, kato=KEEP_ALIVE_MS)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        while not self._stop.wait(KEEP_ALIVE_MS / 2000):
            self.controller.admin.must(sqe.keep_alive())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        self.controller.close()


def idle_cpu(quick):
    """Share of a core, with a host connected and idle."""
    seconds = 3 if quick else IDLE_SECONDS
    with serve("ram:64M") as target, KeptAlive(target):
        time.sleep(SETTLE_SECONDS)
        before, start = times(target.pid)[0], time.monotonic()
        time.sleep(seconds)
        return [(times(target.pid)[0] - before) / (time.monotonic() - start)]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(port):
    """Whether somebody listens there and answers an ICReq."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(pdu.icreq())
        return len(connection.recv(128)) > 0
    return False


def start_once():
    """Milliseconds from before the fork to (the line that says it listens, the first answer to a host)."""
    port = free_port()
    start = time.monotonic()
    with subprocess.Popen([binary_path(), "serve", "-l", f"127.0.0.1:{port}", "-m", "0", "null:1T"],
                          stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        try:
            for line in process.stdout:
                if line.startswith(b"listening on"):
                    break
            listening = time.monotonic()
            while not answers(port):
                if process.poll() is not None:
                    raise Skip("the target ended by itself")
            return 1000 * (listening - start), 1000 * (time.monotonic() - start)
        finally:
            process.terminate()


def start_time(quick):
    return [start_once()[0] for _ in range(5 if quick else STARTS)]


def answer_time(quick):
    return [start_once()[1] for _ in range(5 if quick else STARTS)]


def memory_without_host(_quick):
    with serve("null:1T") as target:
        time.sleep(SETTLE_SECONDS)
        return [status_bytes(target.pid, "VmRSS")]


def raise_file_limit(wanted):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise Skip(f"only {hard} open files are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def memory_of_connections(_quick):
    """Resident bytes that each of 1,008 idle connections adds."""
    raise_file_limit(CONNECTIONS + 200)
    with serve("null:1T") as target, contextlib.ExitStack() as stack:
        time.sleep(SETTLE_SECONDS)
        before = status_bytes(target.pid, "VmRSS")
        count = 0
        while count < CONNECTIONS:
            stack.enter_context(Controller(target.address, target.nqn, io_queues=QUEUES_EACH, io_sqsize=127))
            count += QUEUES_EACH + 1
        time.sleep(SETTLE_SECONDS)
        return [(status_bytes(target.pid, "VmRSS") - before) / count]


def stripped_size(_quick):
    RESULTS.mkdir(parents=True, exist_ok=True)
    copy = RESULTS / "pollux.stripped"
    subprocess.run(["strip", "-o", str(copy), binary_path()], check=True)
    try:
        return [os.path.getsize(copy)]
    finally:
        copy.unlink()


# name, what it is, unit, measure, goal: at most
FIGURES = [
    ("idle-cpu", "CPU with a host connected and idle, adaptive", "%", idle_cpu, 0.01),
    ("start", "exec to listening", "ms", start_time, 50),
    ("first-answer", "exec to the first answer to a host", "ms", answer_time, None),
    ("memory", "resident, null disk, no host", "MiB", memory_without_host, 12 * MIB),
    ("memory-connection", "resident, each of 1,008 idle connections", "KiB", memory_of_connections, 48 * 1024),
    ("binary", "binary, stripped", "KiB", stripped_size, MIB),
]
