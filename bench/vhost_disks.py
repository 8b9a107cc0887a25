# SPDX-License-Identifier: BSD-3-Clause
"""Part C: disks over vhost-user. Our back-end and our client beside a bare copy through shared memory, and where SPDK
is there, each back-end under each client; and what devices cost that have nothing to do, or whose back-end dies."""

import contextlib
import functools
import json
import pathlib
import shutil
import signal
import struct
import subprocess
import tempfile
import time
from collections import namedtuple
from types import SimpleNamespace

import spdk
from idle import IDLE_SECONDS, SETTLE_SECONDS, raise_file_limit
from peers import tolerant
from tools import (HOST_CORE, MIB, RESULTS, TARGET_CORE, Skip, binary_path, ceiling, fill, kinds, perf_on, times,
                   undisturbed)

from rpc import Server
from target import START_LIMIT, Target
from vhost import Frontend

RAM_SIZE = 1 << 30  # more than caches hold
WAKE_RATE, WAKE_SECONDS = 100, 10  # reads a second: 1,000 a round, so that p99 is the worst but nine
WAKE_ROUNDS = 5
WAKE_RAM = 64 << 20  # memory that comes and goes holds others up here for milliseconds
KILLS, KILL_AFTER, KILLED_RUN = 10, 1, 2.5  # seconds of load before the back-end is killed, and in all
DEVICES, QUEUES, SLOTS = 200, 4, 256
LATE_SECONDS = 5  # until the last reactor has gone to sleep
GUEST = "/memfd:guest"  # what Frontend calls its memory
DESCRIPTORS = 3 * QUEUES + 4  # of a front-end


class Load(namedtuple("Load", "name what disk size depth workload ring", defaults=["split"])):
    @property
    def arguments(self):
        """For pollux perf."""
        return "-o", self.size, "-q", self.depth, "-w", self.workload

    @property
    def bare(self):
        """For the ceiling."""
        data = 1 if self.disk == "null0" else RAM_SIZE // MIB
        return ("-m", "-o", self.size, "-q", self.depth, "-w", "write" if "write" in self.workload else "read",
                "-d", data)


LOADS = [
    Load("vhost-read-4k-q1", "4 KiB random read, QD1, RAM disk", "ram0", 4096, 1, "randread"),
    Load("vhost-read-4k-q32", "4 KiB random read, QD32, RAM disk", "ram0", 4096, 32, "randread"),
    Load("vhost-read-4k-q128", "4 KiB random read, QD128, RAM disk", "ram0", 4096, 128, "randread"),
    Load("vhost-write-4k-q32", "4 KiB random write, QD32, RAM disk", "ram0", 4096, 32, "randwrite"),
    Load("vhost-null-4k-q1", "4 KiB random read, QD1, null disk", "null0", 4096, 1, "randread"),
    Load("vhost-null-4k-q128", "4 KiB random read, QD128, null disk", "null0", 4096, 128, "randread"),
    Load("vhost-packed-null-4k-q1", "4 KiB random read, QD1, null disk, packed ring", "null0", 4096, 1, "randread",
         "packed"),
]


def need_client():
    if "vhost-user:" not in kinds():
        raise Skip("this build has no vhost-user disk to measure with")


# -- back-ends and clients -------------------------------------------------------------------------------------------


class Backend(Target):
    """`pollux serve`, pinned, with disks at sockets in a folder and nothing else."""

    def __init__(self, folder, *disks, options=()):
        self.folder = pathlib.Path(folder)
        super().__init__(*disks, listen=(), options=("--vhost", folder, "-m", TARGET_CORE, *options))

    def _wait_ready(self):
        with self._change:
            self._change.wait_for(lambda: self.process.poll() is not None
                                  or self.stdout.count("vhost-user at ") == len(self.disks), START_LIMIT)
        self.check_alive()

    def send_signal(self, number):
        self.process.send_signal(number)


@contextlib.contextmanager
def scratch():
    """A folder; short, as paths of sockets have to be."""
    folder = tempfile.mkdtemp(prefix="pollux-bench-")
    try:
        yield pathlib.Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def our_backend(folder):
    with Backend(folder, f"ram:{RAM_SIZE}", "null:1T") as backend:
        try:
            yield backend
        finally:
            backend.send_signal(signal.SIGCONT)


def spdks_backend(folder):
    return spdk.backend(folder, RAM_SIZE)


def disk_of(backend, name, ring="split"):
    return f"vhost-user:{backend.folder / name}?ring={ring}"


def our_client(backend, load, seconds):
    return perf_on(backend, disk_of(backend, load.disk, load.ring), load.arguments, seconds)


def spdks_client(backend, load, seconds):
    run, start = times(backend.pid), time.monotonic()
    result = spdk.client(backend.folder / load.disk, load, seconds)
    waited = (times(backend.pid)[1] - run[1]) / (time.monotonic() - start)
    return {**result, "disturbed": max(result["disturbed"], waited)}


BACKENDS = {"pollux": our_backend, "spdk": spdks_backend}
CLIENTS = {"pollux": our_client, "spdk": spdks_client}
OURS = "pollux", "pollux"


def find(skipped):
    """(back-ends, clients) that are there, ours first; why others are not goes into skipped."""
    backends, clients = ["pollux"], ["pollux"]
    for what, there, need in (("back-end", backends, spdk.need_backend), ("client", clients, spdk.need_client)):
        try:
            need(RAM_SIZE)
            there.append("spdk")
        except Skip as why:
            skipped[f"vhost: spdk's {what}"] = str(why)
    return backends, clients


# -- under load ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def stopped(names, skipped):
    """Back-ends with their memory written, of which none runs: they would share a core."""
    running = {}
    with contextlib.ExitStack() as stack:
        for name in names:
            with tolerant(skipped, f"vhost: {name}'s back-end"):
                backend = stack.enter_context(BACKENDS[name](stack.enter_context(scratch())))
                fill(disk_of(backend, "ram0"), RAM_SIZE)
                backend.send_signal(signal.SIGSTOP)
                running[name] = backend
        yield running


@contextlib.contextmanager
def let_run(backend):
    backend.send_signal(signal.SIGCONT)
    try:
        yield
    finally:
        backend.send_signal(signal.SIGSTOP)


def one_pass(loads, running, clients, seconds, skipped):
    """{load: {(back-end, client) or "bare": IOPS, "disturbed": share}}; pairs that failed are left out, and told of."""
    result = {load: {"disturbed": 0} for load in loads}

    def take(load, key, measure):
        run = undisturbed(measure)
        result[load][key] = run["iops"]
        result[load]["disturbed"] = max(result[load]["disturbed"], run["disturbed"])

    for load in loads:
        take(load, "bare", lambda l=load: ceiling(l.bare, seconds))
        for name, backend in running.items():
            for client in clients:
                if load.ring != "split" and (name, client) != OURS:
                    continue
                with tolerant(skipped, f"vhost: {client}'s client on {name}'s back-end"), let_run(backend):
                    take(load, (name, client), lambda c=client, b=backend, l=load: CLIENTS[c](b, l, seconds))
    return result


def one_round(loads, backends, clients, seconds, skipped):
    """Passes of about a second each, over the same back-ends. @return what each came to"""
    passes = max(1, int(seconds))
    memory = spdk.huge_pages(RAM_SIZE) if "spdk" in backends + clients else contextlib.nullcontext()
    with memory, stopped(backends, skipped) as running:
        return [one_pass(loads, running, clients, seconds / passes, skipped) for _ in range(passes)]


# -- an idle back-end that is woken ----------------------------------------------------------------------------------


@contextlib.contextmanager
def cpus_awake():
    """CPUs that have nothing to do spin in the kernel, as with tuned's force_latency, instead of being put to sleep."""
    try:
        with open("/dev/cpu_dma_latency", "wb", buffering=0) as file:
            file.write(struct.pack("i", 0))
            yield
    except OSError as error:
        raise Skip(f"CPUs cannot be kept awake: {error}") from None


@functools.cache
def wake_ups(quick, cpus=contextlib.nullcontext, options=()):
    """p99 of the latency of single reads, in us: [(of our back-end and client, of a bare eventfd and a copy)]"""
    need_client()
    rounds = []
    with scratch() as folder, Backend(folder, f"ram:{WAKE_RAM}", options=options) as backend, cpus():
        disk = disk_of(backend, "ram0")
        fill(disk, WAKE_RAM)
        for _ in range(1 if quick else WAKE_ROUNDS):
            ours = undisturbed(lambda: perf_on(backend, disk, ("-q", 1, "--rate", WAKE_RATE), WAKE_SECONDS))
            bare = ceiling(("-m", "-q", 1, "-R", WAKE_RATE, "-d", WAKE_RAM // MIB), WAKE_SECONDS)
            rounds.append((ours["latency_us"]["p99"], bare["latency_us"]["p99"]))
    return rounds


# -- a back-end that is killed ---------------------------------------------------------------------------------------


def kill_once(backend, disk):
    """Milliseconds: (the longest latency of a load while it is killed and started again, what of that is its start)"""
    command = [binary_path(), "perf", "-m", HOST_CORE, "-q", 32, "-t", KILLED_RUN, "--json", "-", disk]
    with subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True) as load:
        time.sleep(KILL_AFTER)
        backend.kill()
        begin = time.monotonic()
        backend.start()
        start = time.monotonic() - begin
        out, _ = load.communicate()
    result = json.loads(out)
    if result["errors"]:
        raise Skip(f"{result['errors']} requests failed")
    return result["latency_us"]["max"] / 1000, 1000 * start


@functools.cache
def kills(quick):
    need_client()
    RESULTS.mkdir(parents=True, exist_ok=True)
    image = RESULTS / "restart.img"
    with scratch() as folder, contextlib.ExitStack() as stack:
        with open(image, "wb") as file:
            file.truncate(64 * MIB)
        stack.callback(image.unlink)
        backend = stack.enter_context(Backend(folder, image))
        return [kill_once(backend, disk_of(backend, image.name)) for _ in range(2 if quick else KILLS)]


# -- devices that do nothing -----------------------------------------------------------------------------------------


def resident(server):
    """Bytes: (all, what is no memory of guests)"""
    time.sleep(SETTLE_SECONDS)
    whole = guests = 0
    of_guest = False
    with open(f"/proc/{server.pid}/smaps", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith("Rss:"):
                size = 1024 * int(line.split()[1])
                whole += size
                guests += size if of_guest else 0
            elif "-" in line.split()[0]:  # the first line of a mapping
                of_guest = GUEST in line
    return whole, whole - guests


def connect(stack, folder):
    """Front-ends of all devices, as QEMU's are; each ring has been used once."""
    for n in range(DEVICES):
        front = stack.enter_context(Frontend(folder / f"d{n}"))
        front.get_inflight(QUEUES, SLOTS)
        front.set_inflight()
        front.start(QUEUES, SLOTS)
        for queue in range(QUEUES):
            front.read(0, 4096, queue=queue)


@functools.cache
def idle_devices(quick):
    """What one of many devices adds, in bytes, and the CPU time of all, as a share of a core."""
    raise_file_limit(DEVICES * DESCRIPTORS + 200)
    with scratch() as folder, contextlib.ExitStack() as stack, \
            Server(options=("--vhost", folder, "-m", TARGET_CORE)) as server, server.client() as client:
        for n in range(DEVICES):
            client.call("bdev_null_create", name=f"n{n}", num_blocks=1 << 20, block_size=512)
        disks = resident(server)
        for n in range(DEVICES):
            client.call("vhost_create_blk_controller", ctrlr=f"d{n}", dev_name=f"n{n}")
        alone = resident(server)
        connect(stack, folder)
        connected = resident(server)
        if not quick:
            time.sleep(LATE_SECONDS)
        before, start = times(server.pid)[0], time.monotonic()
        time.sleep(3 if quick else IDLE_SECONDS)
        cpu = (times(server.pid)[0] - before) / (time.monotonic() - start)
    whole, own = ([(later[i] - earlier[i]) / DEVICES for earlier, later in ((disks, alone), (disks, connected))]
                  for i in range(2))
    return SimpleNamespace(alone=whole[0], whole=whole[1], own=own[1], cpu=cpu)


# name, what it is, unit, measure, goal: at most
FIGURES = [
    ("vhost-wake", f"p99 of {WAKE_RATE} reads a second, QD1, back-end asleep, CPU awake", "us",
     lambda quick: [ours for ours, _ in wake_ups(quick, cpus_awake)], 30),
    ("vhost-wake-bare", "... of a bare eventfd and a copy, in turn with that", "us",
     lambda quick: [bare for _, bare in wake_ups(quick, cpus_awake)], None),
    ("vhost-wake-poll-sleep", "... with --poll sleep, which foresees nothing", "us",
     lambda quick: [ours for ours, _ in wake_ups(quick, cpus_awake, ("--poll", "sleep"))], None),
    ("vhost-wake-halted", "... with the CPU asleep, too", "us",
     lambda quick: [ours for ours, _ in wake_ups(quick)], None),
    ("vhost-wake-halted-bare", "... of a bare eventfd, in turn with that", "us",
     lambda quick: [bare for _, bare in wake_ups(quick)], None),
    ("vhost-restart", "kill -9 and a new start, until a request is done", "ms",
     lambda quick: [total for total, _ in kills(quick)], 100),
    ("vhost-restart-start", "... exec to listening", "ms", lambda quick: [start for _, start in kills(quick)], None),
    ("vhost-memory", f"resident, each of {DEVICES} devices of {QUEUES} queues of {SLOTS}", "KiB",
     lambda quick: [idle_devices(quick).own], 64 * 1024),
    ("vhost-memory-guest", "... with pages of the guest's, which are there anyway", "KiB",
     lambda quick: [idle_devices(quick).whole], None),
    ("vhost-memory-alone", "... before a front-end has come", "KiB", lambda quick: [idle_devices(quick).alone], None),
    ("vhost-idle-cpu", f"CPU with {DEVICES} devices connected and idle", "%",
     lambda quick: [idle_devices(quick).cpu], 0.0001),
]
