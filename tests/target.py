# SPDX-License-Identifier: BSD-3-Clause
"""Runs `pollux serve` for tests: starts it, says where it listens, watches it, stops it, and notices when it got hurt.

    with Target("ram:64M") as target:
        connect(target.address, target.nqn)

The binary is $POLLUX, or build/pollux of this repository.
"""

import atexit
import contextlib
import functools
import itertools
import os
import pathlib
import re
import signal
import socket
import subprocess
import threading
import time

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
START_LIMIT = 20  # seconds; generous, for sanitizer builds on a busy machine
REPORT_LIMIT = 60  # seconds that one may take to end, or, when it dies, to write its report

LISTENING = re.compile(r"listening on (\S+):(\d+)\s*$")
CONNECT = re.compile(r"^\s*nvme connect -t tcp -a (\S+) -s (\d+) -n (\S+)")
SANITIZER = re.compile(r"ERROR: AddressSanitizer|runtime error:|ThreadSanitizer|LeakSanitizer|MemorySanitizer")

RUNNING = set()


@atexit.register
def _end_all():
    """Whatever nobody stopped shall not outlive the tests."""
    for process in RUNNING:
        process.kill()


def binary():
    """The program under test."""
    return os.environ.get("POLLUX") or str(REPOSITORY / "build" / "pollux")


def sanitized():
    """True if the program under test carries a sanitizer, whose shadow memory makes resident sizes meaningless."""
    return any(_holds(name) for name in (b"__asan_init", b"__tsan_init", b"__msan_init"))


def watches_threads():
    """True if the program under test carries ThreadSanitizer."""
    return _holds(b"__tsan_init")


@functools.cache
def _holds(name):
    return name in pathlib.Path(binary()).read_bytes()


_next_ports = itertools.count()


def free_port():
    """Of those that the kernel gives to nobody, and each only once: nobody takes it before it is used, or between."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    first = 1000 * int(worker[2:]) if worker else os.getpid()
    for number in itertools.islice(_next_ports, 10000):
        port = 10000 + (first + number) % 20000
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no port is free")


class TargetError(AssertionError):
    """The target did something that no test allows."""


class Stream:
    """Collects the lines of one output pipe in a thread of its own, so that the target never blocks on it."""

    def __init__(self, pipe, on_line):
        self.lines = []
        self._pipe = pipe
        self._on_line = on_line
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def _collect(self):
        for line in self._pipe:
            self.lines.append(line.rstrip("\n"))
            self._on_line()
        self._pipe.close()
        self._on_line()

    def join(self, timeout):
        self._thread.join(timeout)

    @property
    def text(self):
        return "\n".join(self.lines)


class Target:
    """One `pollux serve` process. Use it as a context manager; leaving the block stops it and looks how it was."""

    def __init__(self, *disks, listen=None, options=(), prefix=(), env=None):
        """disks: as on the command line; -n NQN may stand among them. options: further options.
        prefix: a command that runs ours, such as ("taskset", "-c", "0"); it must exec, not fork.
        env: variables added to the environment."""
        self.disks = [str(disk) for disk in disks]
        if listen is None:
            listen = f"127.0.0.1:{free_port()}"
        self.listen = [listen] if isinstance(listen, str) else list(listen)
        self.options = [str(option) for option in options]
        self.prefix = [str(word) for word in prefix]
        self.env = dict(os.environ, **(env or {}))
        self.process = None
        self.out = self.err = None
        self._before = ""  # what earlier runs wrote on stderr
        self._expected_dead = False
        self._change = threading.Condition()

    # -- life -------------------------------------------------------------------------------------------------------

    def command(self):
        words = [*self.prefix, binary(), "serve"]
        for address in self.listen:
            words += ["-l", address]
        return words + self.options + self.disks

    def start(self):
        """Starts the process and waits until it listens everywhere it was told to."""
        assert self.process is None, "already running"
        self._expected_dead = False
        self.process = subprocess.Popen(
            self.command(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, errors="replace", bufsize=1, env=self.env)
        RUNNING.add(self.process)
        self.out = Stream(self.process.stdout, self._changed)
        self.err = Stream(self.process.stderr, self._changed)
        self._wait_ready()
        return self

    def _changed(self):
        with self._change:
            self._change.notify_all()

    def _wait_ready(self):
        named = sum(word in ("-n", "--nqn") for word in self.options + self.disks)
        unnamed = not any(word in ("-n", "--nqn") for word in self.options + self.disks[:1])
        subsystems = named + unnamed
        with self._change:
            ready = self._change.wait_for(
                lambda: self.process.poll() is not None
                or (len(self.ports) >= len(self.listen) and len(self.nqns) >= subsystems),
                START_LIMIT)
        if self.process.poll() is not None:
            self.out.join(REPORT_LIMIT)
            self.err.join(REPORT_LIMIT)
            raise TargetError(f"{self.command()} ended with {self.process.returncode}:\n"
                              f"{self.out.text}\n{self.err.text}")
        if not ready:
            self._end(signal.SIGKILL, START_LIMIT)
            raise TargetError(f"{self.command()} does not say where it listens:\n{self.out.text}\n{self.err.text}")

    def stop(self, sign=signal.SIGTERM):
        """Asks the process to end; it must do so with status 0, which it has not after the 5 s that it gives itself."""
        status = self._end(sign, REPORT_LIMIT)
        if status is None:
            raise TargetError(f"did not end within {REPORT_LIMIT} s of {signal.Signals(sign).name}\n{self.stderr}")
        if status != 0:
            raise TargetError(f"ended with {status} after {signal.Signals(sign).name}\n{self.stderr}")

    def kill(self):
        """Ends the process as a power cut would."""
        self._end(signal.SIGKILL, START_LIMIT)

    def restart(self, kill=False):
        """Ends the process and starts it again where it was: same disks, same ports."""
        ports = self.ports
        if self.process is not None:
            self.kill() if kill else self.stop()
        self.listen = [f"{address.rpartition(':')[0]}:{port}" for address, port in zip(self.listen, ports)]
        return self.start()

    def _end(self, sign, limit):
        process = self.process
        self._expected_dead = True
        if process.poll() is None:
            process.send_signal(sign)
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            status = None
        self.out.join(REPORT_LIMIT)
        self.err.join(REPORT_LIMIT)
        RUNNING.discard(process)
        self._before += self.err.text + "\n"
        self.process = None
        return status

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, value, trace):
        try:
            if self.process is not None:
                self.check_alive()
                self.stop()
            self.check_reports()
        except TargetError as error:
            if value is None:
                raise
            raise error from value
        finally:
            if self.process is not None:
                self.kill()

    # -- what it says of itself -------------------------------------------------------------------------------------

    def _match(self, pattern):
        lines = list(self.out.lines) if self.out else []
        return [match for match in map(pattern.search, lines) if match]

    @property
    def ports(self):
        """The ports, one a listener, in the order of `listen`."""
        if self.process is None and self.out is None:
            return []
        return [int(match[2]) for match in self._match(LISTENING)]

    @property
    def port(self):
        return self.ports[0]

    @property
    def addresses(self):
        """(host, port) a listener."""
        return [(match[1].strip("[]"), int(match[2])) for match in self._match(LISTENING)]

    @property
    def address(self):
        return self.addresses[0]

    @property
    def nqns(self):
        """The subsystems, each once, in the order they are printed."""
        return list(dict.fromkeys(match[3] for match in self._match(CONNECT)))

    @property
    def nqn(self):
        return self.nqns[0]

    @property
    def stdout(self):
        return self.out.text if self.out else ""

    @property
    def stderr(self):
        """All that this and the earlier runs wrote on stderr."""
        return self._before + (self.err.text if self.err and self.process else "")

    # -- what the kernel says of it ---------------------------------------------------------------------------------

    @property
    def pid(self):
        return self.process.pid

    def _status(self, field):
        with open(f"/proc/{self.pid}/status", encoding="ascii") as lines:
            for line in lines:
                if line.startswith(field + ":"):
                    return line.split()[1]
        raise KeyError(field)

    def rss(self):
        """Resident bytes."""
        return int(self._status("VmRSS")) * 1024

    def data_bytes(self):
        """Memory of its own that may be written to, whether it is there or not."""
        return int(self._status("VmData")) * 1024

    def threads(self):
        return int(self._status("Threads"))

    def descriptors(self):
        """Open file descriptors."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def cpu_seconds(self):
        """CPU time used so far, user and system."""
        with open(f"/proc/{self.pid}/stat", encoding="ascii") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    # -- how it is --------------------------------------------------------------------------------------------------

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def check_alive(self):
        """Raises TargetError if the process ended by itself."""
        if self.process is None:
            if not self._expected_dead:
                raise TargetError("not running")
            return
        status = self.process.poll()
        if status is not None:
            self.out.join(REPORT_LIMIT)
            self.err.join(REPORT_LIMIT)
            raise TargetError(f"the target ended by itself with {status}:\n{self.stderr}")

    def check_reports(self):
        """Raises TargetError if a sanitizer reported anything."""
        match = SANITIZER.search(self.stderr)
        if match:
            raise TargetError(f"sanitizer report:\n{self.stderr[max(0, match.start() - 200):][:8000]}")


def wait_until(condition, limit=20, step=0.02):
    """Waits for condition() to be true; returns its last value. The limit is for hung runs only."""
    end = time.monotonic() + limit
    while True:
        value = condition()
        if value or time.monotonic() > end:
            return value
        time.sleep(step)
