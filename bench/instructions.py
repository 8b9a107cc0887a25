# SPDX-License-Identifier: BSD-3-Clause
"""The guard against regressions: instructions per request, counted by callgrind; and of the aarch64 build, by QEMU.

Unlike times, they are the same on a busy machine. Each figure is what a run of 2 N requests takes more than one of N,
divided by N, so that start and end do not count. Instructions in the kernel are not in them.
"""

import contextlib
import json
import os
import pathlib
import platform
import random
import re
import shutil
import subprocess

from tools import RESULTS, Skip, binary_path, compiler, kinds

import sqe
from host import Controller
from target import Target

REFERENCE = pathlib.Path(__file__).resolve().parent / "instructions.json"
TOLERANCE = 0.05
BATCH = 16  # commands that arrive together: one wake-up of the target
BLOCKS = 8  # of 512 bytes
DISK_BLOCKS = 64 << 11  # of a 64 MiB disk


class Callgrind:
    """Counts those of this machine's build."""

    @staticmethod
    def program():
        return binary_path()

    @staticmethod
    def command(out, within=None):
        """The beginning of a command whose instructions are to be counted: all of them, or those of a function without
        those of functions that are named behind it."""
        if not shutil.which("valgrind"):
            raise Skip("valgrind is not installed")
        only = [f"--toggle-collect={each}" for each in (within or "").split()]
        return ("valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", *only)

    @staticmethod
    def counted(text):
        return int(re.search(r"^(?:summary|totals): (\d+)", text, re.M)[1])


class Qemu:
    """Counts those of the aarch64 build, as a Neoverse N1."""

    CPU = "neoverse-n1"
    ROOT = pathlib.Path(__file__).resolve().parent.parent
    SYSROOT = ROOT / "build-arm64-sysroot/usr/lib/aarch64-linux-gnu"
    LIBC = pathlib.Path("/usr/aarch64-linux-gnu/lib")  # as in cross/aarch64.ini.in
    PLUGIN = RESULTS / "count.so"

    @classmethod
    def program(cls):
        program = cls.ROOT / "build-arm64/pollux"
        if not program.exists():
            raise Skip("there is no aarch64 build (make arm64)")
        return str(program)

    @classmethod
    def command(cls, out, within=None):
        assert not within
        if not shutil.which("qemu-aarch64"):
            raise Skip("qemu-user is not installed")
        source = cls.ROOT / "bench/count.c"
        if not cls.PLUGIN.exists() or cls.PLUGIN.stat().st_mtime < source.stat().st_mtime:
            RESULTS.mkdir(parents=True, exist_ok=True)
            subprocess.run([compiler(), "-O2", "-shared", "-fPIC", "-o", cls.PLUGIN, source], check=True)
        return ("qemu-aarch64", "-cpu", cls.CPU, "-plugin", f"{cls.PLUGIN},out={out}",
                str(cls.LIBC / "ld-linux-aarch64.so.1"), "--library-path", f"{cls.LIBC}:{cls.SYSROOT}")

    @staticmethod
    def counted(text):
        return int(text)


counter = Callgrind


@contextlib.contextmanager
def counting_by(other):
    global counter
    before, counter = counter, other
    try:
        yield
    finally:
        counter = before


def collected(out):
    """The instructions that a run counted; the file is not kept."""
    text = out.read_text(encoding="utf-8", errors="replace")
    out.unlink()
    return counter.counted(text)


@contextlib.contextmanager
def target_counted():
    """tests/target.py starts what is counted."""
    before = os.environ.get("POLLUX")
    os.environ["POLLUX"] = counter.program()
    try:
        yield
    finally:
        del os.environ["POLLUX"]
        if before is not None:
            os.environ["POLLUX"] = before


def _output(name):
    RESULTS.mkdir(parents=True, exist_ok=True)
    return RESULTS / f"callgrind.{name}"


def _perf(name, disk, arguments, count):
    out = _output(name)
    # A reactor that sleeps when there is nothing to do, as spinning counts too.
    words = ["perf", "--poll", "sleep", "--count", str(count), *arguments, disk]
    command = [*counter.command(out), counter.program(), *words]
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    return collected(out)


def block_layer(count=200_000):
    """`pollux perf` on a null disk: the block layer, and the load generator itself."""
    once, twice = (_perf("block", "null:1T", ("-q", "128"), n) for n in (count, 2 * count))
    return (twice - once) / count


def _drive(target, make, count):
    """Sends `count` commands, in batches that leave with one call, and waits for each batch."""
    places = random.Random(1)
    with Controller(target.address, target.nqn, io_queues=1, io_sqsize=127, flow_control=False) as controller:
        for _ in range(count // BATCH):
            batch = [make(places.randrange(DISK_BLOCKS // BLOCKS) * BLOCKS) for _ in range(BATCH)]
            controller.io.wait_all(controller.io.submit_all(batch))


def _target_once(name, make, count):
    out = _output(name)
    with target_counted(), Target("ram:64M", options=("--poll", "sleep"), prefix=counter.command(out)) as target:
        _drive(target, make, count)
    return collected(out)


def _target(name, make, count):
    return (_target_once(name, make, 2 * count) - _target_once(name, make, count)) / count


def _read(slba):
    return sqe.read(1, slba, BLOCKS), {"read": BLOCKS * 512}


def _write(slba):
    return sqe.write(1, slba, BLOCKS), {"out": bytes(range(256)) * (2 * BLOCKS)}


def target_read(count=8192):
    return _target("read", _read, count)


def target_write(count=8192):
    return _target("write", _write, count)


def host_read(count=20_000):
    """`pollux perf` on a remote null disk: the host side's path of a read, load generator and all."""
    if "nvme+tcp:" not in kinds():
        raise Skip("this build has no nvme+tcp disk")
    with Target("null:1T") as target:
        host, port = target.address
        url = f"nvme+tcp://{host}:{port}/{target.nqn}"
        more, less = (_perf("host", url, ("-q", "32"), n) for n in (2 * count, count))
    return (more - less) / count


FILTERS = 8


def _unit(name, *arguments, within=None):
    """A program of the unit tests'."""
    program = pathlib.Path(counter.program()).parent / "tests/unit" / name
    if not program.exists():
        raise Skip("this build has no tests (meson -Dtests=true)")
    out = _output(name)
    subprocess.run([*counter.command(out, within), program, *map(str, arguments)], check=True, capture_output=True)
    count = collected(out)
    if not count:
        raise Skip(f"valgrind does not see {within}() in {name}")
    return count


def _filters(layers, count, disk="null:1T"):
    """Reads of a disk through so many filters that forward them."""
    return _unit("filter_cost", disk, layers, count)


def _core(what, count):
    """The target's commands, over a transport of function calls. Both ends of a read, or write, of a null disk."""
    return (_unit("core_cost", "null:1T", what, 2 * count) - _unit("core_cost", "null:1T", what, count)) / count


def core_read(count=20_000):
    return _core("read", count)


def core_write(count=20_000):
    return _core("write", count)


VHOST_BATCH = 32


def vhost(ring, what):
    """The back-end alone: requests of 4 KiB, 32 at a time, that a ring takes and publishes; of a null disk."""
    def measure(count=640):
        more, less = (_unit("vhost_cost", ring, what, n, within="ring_poll") for n in (2 * count, count))
        return (more - less) / count / VHOST_BATCH
    return measure


PCIE_DEPTH = 128


def _pcie(what, rounds):
    within = "cost_round pcie_model_complete_all"
    more, less = (_unit("pcie_cost", what, n, within=within) for n in (2 * rounds, rounds))
    return (more - less) / rounds / PCIE_DEPTH


def pcie(what):
    """The driver alone, 128 random reads of 4 KiB at a time; or with the block layer. Who asks does not count."""
    return lambda rounds=200: _pcie(what, rounds) - _pcie("none", rounds)


def filter_layer(count=20_000):
    """What a filter costs that passes a request on."""
    deep, flat = (_filters(layers, 2 * count) - _filters(layers, count) for layers in (FILTERS, 0))
    return (deep - flat) / count / FILTERS


def tracked_request(count=20_000):
    """A read that its channel lists and measures, as of every disk that does not complete in place."""
    return (_filters(0, 2 * count, "test") - _filters(0, count, "test")) / count


def _volume(what, count):
    return (_unit("pool_cost", what, 2 * count) - _unit("pool_cost", what, count)) / count


def volume(where, what):
    """What a volume adds to a read, or an overwrite, of the RAM disk that its pool is on."""
    return lambda count=20_000: _volume(f"{where}-{what}", count) - _volume(f"disk-{what}", count)


# name, what it is, measure, goal: at most
FIGURES = [
    ("block-layer", "block layer and load generator, null disk, QD128", block_layer, None),
    ("filter-layer", "a filter that forwards a request, of eight on a null disk", filter_layer, 60),
    ("tracked-request", "block layer and a disk that does nothing later on", tracked_request, None),
    ("volume-read-4k", "what a volume adds to its disk, 4 KiB read", volume("volume", "read"), 150),
    ("volume-deep-read-4k", "the same with a hundred snapshots", volume("deep", "read"), 150),
    ("volume-write-4k", "the same, 4 KiB overwrite", volume("volume", "write"), 250),
    ("volume-first-write-4k", "the same, 4 KiB first write", volume("thin", "write"), None),
    ("core-read-4k", "target without a transport, 4 KiB read from a null disk", core_read, None),
    ("core-write-4k", "target without a transport, 4 KiB write to a null disk", core_write, None),
    ("target-read-4k", "target, 4 KiB read from a RAM disk", target_read, 800),
    ("target-write-4k", "target, 4 KiB write to a RAM disk", target_write, 1000),
    ("vhost-read-4k", "vhost-user back-end alone, null disk, split ring, 4 KiB read", vhost("split", "read"), 400),
    ("vhost-write-4k", "the same, 4 KiB write", vhost("split", "write"), None),
    ("vhost-packed-read-4k", "the same, packed ring, 4 KiB read", vhost("packed", "read"), None),
    ("vhost-packed-write-4k", "the same, packed ring, 4 KiB write", vhost("packed", "write"), None),
    ("pcie-read-4k", "driver of SSDs, 4 KiB read, QD128", pcie("driver"), 150),
    ("pcie-block-read-4k", "the same with the block layer", pcie("block"), 220),
    ("host-read-4k", "host and load generator, 4 KiB read, QD32", host_read, 950),
]

# Those of which all instructions of a program are counted: a function's alone QEMU does not tell.
ON_AARCH64 = ("block-layer", "filter-layer", "tracked-request", "volume-read-4k", "volume-write-4k", "core-read-4k",
              "core-write-4k", "target-read-4k", "target-write-4k", "host-read-4k")
AARCH64_AT_MOST = 1.15  # of those of x86


def surroundings():
    """What instruction counts depend on besides the code."""
    version = subprocess.run([compiler(), "-dumpfullversion"], capture_output=True, text=True,
                             check=True).stdout.strip()
    return {"machine": platform.machine(), "compiler": f"gcc {version}",
            "libc": "-".join(os.confstr("CS_GNU_LIBC_VERSION").split())}


def reference():
    return json.loads(REFERENCE.read_text(encoding="utf-8")) if REFERENCE.exists() else {"instructions": {}}


def verdict(name, value):
    """(reference or None, a word on how this compares)"""
    known = reference()
    wanted = known["instructions"].get(name)
    if wanted is None:
        return None, "no reference"
    if known["with"] != surroundings():
        return wanted, "not comparable: " + ", ".join(known["with"].values())
    change = value / wanted - 1
    if abs(change) <= TOLERANCE:
        return wanted, "as before"
    return wanted, f"{'MORE' if change > 0 else 'fewer'}: {100 * change:+.1f} %"


def update_reference(values):
    known = reference()
    kept = known["instructions"] if known.get("with") == surroundings() else {}
    record = {"with": surroundings(),
              "instructions": {**kept, **{name: round(value, 1) for name, value in values.items()}}}
    REFERENCE.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
