# SPDX-License-Identifier: BSD-3-Clause
"""What a host feels of others' trouble on the same reactor: the p99.9 of paced reads, quiet and beside a disturbance.

As a program, beside.py ACT HOST PORT NQN RATE is the disturbance: it acts RATE times a second until its input ends,
says when it is under way, and at the end how many times a second it acted. It is a process of its own, because it shall
have a core of its own, or only what the measuring host leaves of its core.
"""

import contextlib
import fcntl
import os
import select
import signal
import socket
import subprocess
import sys
import time
from typing import Callable, NamedTuple

from changes import changed, changing
from load import PACED_RATE, RAM, RAM_SIZE
from tools import HOST_CORE, TARGET_CORE, fill, perf_on, remote, serve, url

import pdu
import sqe
from host import Controller
from nvmetcp import Closed, CommandError, Terminated
from target import Target, TargetError

HEALTHY, HUNG = 1, 2
BLOCKS, WRITES = 8, 120  # of 512 bytes; of that size, from a host that comes, writes and vanishes
HOSTS = 100  # that do so before it is believed that no number of them is enough
UNSERVED_SECONDS = 5  # without an answer, after which a disk counts as not served
UPSTREAM_TIMEOUT = 120  # seconds that a gateway waits for its upstream; longer than a measurement
UNDER_WAY = 20  # times that a disturbance has acted before it is measured beside it
LONGER = 2  # times what other measurements take: of 1,000 reads, p99.9 is the worst but one
ALLOWANCE_US = 100  # the goal is twice the quiet value and this


# -- the disturbances ------------------------------------------------------------------------------------------------


def write_and_vanish(address, nqn, _n):
    """A host whose writes to the hung disk are in flight when it is gone."""
    with Controller(address, nqn, io_queues=1, io_sqsize=127, timeout=UNSERVED_SECONDS) as host:
        for n in range(WRITES):
            host.io.submit(sqe.write(HUNG, n * BLOCKS, BLOCKS), out=bytes(512 * BLOCKS))


def come_and_go(address, _nqn, _n):
    """A connection, as far as ICResp."""
    with socket.create_connection(address, UNSERVED_SECONDS) as connection:
        connection.sendall(pdu.icreq())
        connection.recv(128)


def misbehave(address, _nqn, n):
    """What is no ICReq, which the target warns of; from many peers, so that it is not left out as a repetition."""
    with socket.create_connection(address, UNSERVED_SECONDS, (f"127.0.1.{1 + n % 200}", 0)) as peer:
        peer.sendall(bytes([0x55]) + bytes(200))
        while peer.recv(4096):
            pass


ACTS = {act.__name__: act for act in (write_and_vanish, come_and_go, misbehave)}


def step_aside():
    """Off the cores of target and host; where there is no other, runs when the host has nothing to do."""
    others = os.sched_getaffinity(0) - {TARGET_CORE, HOST_CORE}
    os.sched_setaffinity(0, others or {HOST_CORE})
    if not others:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def act_until_told(act, address, nqn, rate):
    step_aside()
    start, count = time.monotonic(), 0
    while not select.select([sys.stdin], [], [], max(0, start + count / rate - time.monotonic()))[0]:
        act(address, nqn, count)
        count += 1
        if count == UNDER_WAY:
            print("under way", flush=True)
    print(count / (time.monotonic() - start))


@contextlib.contextmanager
def disturbed(target, act, rate, result):
    """Acts so often on a target meanwhile; result gets "rate", what became of that."""
    host, port = target.address
    command = [sys.executable, __file__, act.__name__, host, str(port), target.nqn, str(rate)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True) as process:
        try:
            process.stdout.readline()
            yield
            out, err = process.communicate("enough")
        finally:
            process.kill()
    if process.returncode:
        raise RuntimeError(f"{act.__name__} failed: {err.strip().splitlines()[-1]}")
    result["rate"] = float(out)


# -- the targets -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def healthy():
    """(a target, what makes it ready to be disturbed)"""
    with serve(RAM) as target:
        yield target, lambda: None


@contextlib.contextmanager
def with_hung_disk():
    """Its second disk is a gateway's, whose upstream stops."""
    with Target("ram:16M", options=("-m", HOST_CORE, "--poll", "sleep")) as upstream:
        target = serve(RAM, f"{remote(upstream.port, upstream.nqn)}?timeout={UPSTREAM_TIMEOUT}").start()
        try:
            with Controller(target.address, target.nqn, io_queues=1) as host:
                host.read(HUNG, 0, BLOCKS)  # it is connected
            yield target, lambda: upstream.process.send_signal(signal.SIGSTOP)
        finally:
            target.kill()
            upstream.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def with_unread_log():
    """Its standard error is a pipe that is full."""
    end, err = os.pipe()
    try:
        size = fcntl.fcntl(err, fcntl.F_SETPIPE_SZ, 4096)
        os.write(err, bytes(size))
        redirect = ("sh", "-c", f'exec "$0" "$@" 2>/proc/{os.getpid()}/fd/{err}')
        with serve(RAM, options=("-v", "-v"), prefix=redirect) as target:
            yield target, lambda: None
    finally:
        os.close(end)
        os.close(err)


# -- what is measured ------------------------------------------------------------------------------------------------


class Beside(NamedTuple):
    """One line of the table: reads of a healthy disk of that target, while somebody acts on it."""
    name: str
    what: str
    setup: Callable
    act: Callable
    rate: int  # a second; 0: as often as it can
    disturb: Callable = disturbed


ROWS = [
    Beside("beside-hung", "hosts that write to a hung disk and vanish", with_hung_disk, write_and_vanish, 10),
    Beside("beside-connections", "connections that come and go", healthy, come_and_go, 1000),
    Beside("beside-log", "peers that fill a log which nobody reads", with_unread_log, misbehave, 200),
    Beside("beside-changes", "changes of the target, as fast as it can, on a control reactor apart", changing, None, 0,
           changed),
]


def paced(target, seconds):
    """A read every millisecond. The host sleeps between them, which leaves its core to the disturbance."""
    load = ("-q", 1, "--rate", PACED_RATE, "--poll", "adaptive")
    return perf_on(target, url(target, HEALTHY), load, LONGER * seconds)["latency_us"]["p99.9"]


def measure(row, seconds):
    """One round, in us: {"quiet", "beside", and "rate", how often a second the disturbance acted}"""
    result = {}
    with row.setup() as (target, hurt):
        fill(url(target, HEALTHY), RAM_SIZE)
        result["quiet"] = paced(target, seconds)
        hurt()
        try:
            with row.disturb(target, row.act, row.rate, result):
                result["beside"] = paced(target, seconds)
        except (RuntimeError, subprocess.TimeoutExpired) as why:
            raise TargetError(f"not served beside {row.what}: {why}") from why
    return result


def allowed(quiet):
    return 2 * quiet + ALLOWANCE_US


def hosts_until_unserved():
    """How many hosts write to a hung disk and vanish until a healthy one of its reactor does not answer; None if HOSTS
    are not enough."""
    with with_hung_disk() as (target, hurt), \
            Controller(target.address, target.nqn, io_queues=1, timeout=UNSERVED_SECONDS) as host:
        hurt()
        for count in range(1, HOSTS + 1):
            try:
                write_and_vanish(target.address, target.nqn, count)
                host.read(HEALTHY, 0, BLOCKS)
            except (OSError, Closed, Terminated, CommandError):
                return count
    return None


if __name__ == "__main__":
    act_until_told(ACTS[sys.argv[1]], (sys.argv[2], int(sys.argv[3])), sys.argv[4], float(sys.argv[5]))
