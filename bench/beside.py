# SPDX-License-Identifier: BSD-3-Clause
"""What a host feels of others' trouble on the same reactor: the p99.9 of paced reads, quiet and beside a disturbance.

As a program, beside.py ACT HOST PORT NQN RATE SOCKET is the disturbance: it acts RATE times a second until its input
ends (SOCKET is where the target is controlled), says when it is under way, and at the end how many times it acted a
second. It is a process of its own, because it shall have a core of its own, or only what the measuring host leaves of
its core.
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
from tools import HOST_CORE, TARGET_CORE, fill, first_of_all, perf_on, remote, serve, url

import pdu
import sqe
from host import Controller
from nvmetcp import Closed, CommandError, Terminated
from rpc import Client, Server, request
from target import Target, TargetError

HEALTHY, HUNG = 1, 2
BLOCKS, WRITES = 8, 120  # of 512 bytes; of that size, from a host that comes, writes and vanishes
HOSTS = 100  # that do so before it is believed that no number of them is enough
UNSERVED_SECONDS = 5  # without an answer, after which a disk counts as not served
UPSTREAM_TIMEOUT = 120  # seconds that a gateway waits for its upstream; longer than a measurement
UNDER_WAY = 20  # times that a disturbance has acted before it is measured beside it
LONGER = 2  # times what other measurements take: of 1,000 reads, p99.9 is the worst but one
ALLOWANCE_US = 100  # the goal is twice the quiet value and this,
CONTROL_ALLOWANCE_US = 200  # or this where the target is controlled meanwhile
NAMESPACES, OPERATORS, PIPELINED = 1000, 64, 1024
DISKS, ANSWERS = 300, 90  # which are about 30 MiB
OTHER = "nqn.2026-01.example:changed"


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


class Operators:
    """Those who control the target: connections to its control socket, made when they are first needed."""
    socket = None
    clients = {}

    @classmethod
    def client(cls, n):
        if n not in cls.clients:
            cls.clients[n] = Client(cls.socket)
        return cls.clients[n]


def come_and_leave(_address, _nqn, n):
    """A disk and its namespace, of which there are a thousand before they go again."""
    which, adds = n % (2 * NAMESPACES), n % (2 * NAMESPACES) < NAMESPACES
    name = f"extra{which % NAMESPACES}"
    if adds:
        Operators.client(0).call("bdev_null_create", name=name, num_blocks=8, block_size=512)
        Operators.client(0).call("nvmf_subsystem_add_ns", nqn=OTHER, namespace={"bdev_name": name})
    else:
        Operators.client(0).call("bdev_null_delete", name=name)


def pipeline(_address, _nqn, n):
    """One of many clients reads what it has asked for, and asks for as much again."""
    client = Operators.client(n % OPERATORS)
    if n >= OPERATORS:
        for _ in range(PIPELINED):
            client.receive()
    client.send_raw("".join(request("nvmf_get_subsystems" if k % 64 == 0 else "log_get_level", id=k)
                            for k in range(PIPELINED)))


def ask_and_not_read(_address, _nqn, _n):
    """An answer of about 30 MiB."""
    with Client(Operators.socket) as client:
        client.send_raw("[" + ",".join(request("bdev_get_bdevs", id=k) for k in range(ANSWERS)) + "]")
        time.sleep(0.1)


ACTS = {act.__name__: act
        for act in (write_and_vanish, come_and_go, misbehave, come_and_leave, pipeline, ask_and_not_read)}


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
    command = [sys.executable, __file__, act.__name__, host, str(port), target.nqn, str(rate),
               str(getattr(target, "path", ""))]
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
def controlled(disks=0):
    """It is controlled by JSON-RPC, and has so many disks more."""
    with Server(RAM, options=("-l", "127.0.0.1:0", "-q", "-m", TARGET_CORE, "--poll", "adaptive")) as target:
        with target.client() as client:
            client.call("nvmf_create_subsystem", nqn=OTHER, allow_any_host=True)
            for n in range(disks):
                client.call("bdev_null_create", name=f"more{n}", num_blocks=8, block_size=512)
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
    Beside("beside-namespaces", "1,000 namespaces that are created and deleted by JSON-RPC", controlled, come_and_leave,
           2000),
    Beside("beside-calls", "64 clients that pipeline 1,024 calls each", controlled, pipeline, 1000),
    Beside("beside-unread", "answers of 30 MiB that are not read", lambda: controlled(DISKS), ask_and_not_read, 5),
]


def paced(target, seconds):
    """A read every millisecond. The host sleeps between them, which leaves its core to the disturbance, but never waits
    for it: the core of a host elsewhere would be its own."""
    load = ("-q", 1, "--rate", PACED_RATE, "--poll", "adaptive")
    return perf_on(target, url(target, HEALTHY), load, LONGER * seconds, first_of_all())["latency_us"]["p99.9"]


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


def allowed(row, quiet):
    return 2 * quiet + (CONTROL_ALLOWANCE_US if row.setup not in (healthy, with_hung_disk, with_unread_log)
                        else ALLOWANCE_US)


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
    Operators.socket = sys.argv[6]
    act_until_told(ACTS[sys.argv[1]], (sys.argv[2], int(sys.argv[3])), sys.argv[4], float(sys.argv[5]))
