# SPDX-License-Identifier: BSD-3-Clause
"""Running what is measured: the target, `pollux perf`, the bare-socket ceiling; and whether a run was left in peace."""

import contextlib
import functools
import json
import os
import pathlib
import shutil
import socket
import statistics
import subprocess
import sys
import time

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "build" / "bench"
sys.path[:0] = [str(REPOSITORY / "tests"), str(REPOSITORY / "tests" / "integration")]

import target as target_module  # noqa: E402
from target import Target  # noqa: E402

TARGET_CORE, HOST_CORE = 0, 1
DISTURBED = 0.10  # share of a run in which somebody else had the core of either side
TRIES = 3  # how often a disturbed run is made before it is taken as it is
CALM, CALM_SECONDS = 0.93, 0.3  # share of the machine that is idle when others leave it alone; how long to look
patience = 0  # seconds to wait for that: --patience
HOSTID = "0b1d3c5e-7f90-4a2b-8c4d-6e8f0a1b2c3d"
HOSTNQN = f"nqn.2014-08.org.nvmexpress:uuid:{HOSTID}"  # without one, SPDK's host sends an empty name
LIMIT = 120  # seconds after which a program under measurement hangs
MIB = 1 << 20


class Skip(Exception):
    """Something cannot be measured here; the text says why."""


def note(text):
    print(text, file=sys.stderr, flush=True)


# -- building --------------------------------------------------------------------------------------------------------


def binary():
    """The release build under measurement: $POLLUX, or build/pollux."""
    path = target_module.binary()
    if "POLLUX" not in os.environ:
        subprocess.run(["make", "-s", "all"], cwd=REPOSITORY, check=True)
        check_release(REPOSITORY / "build")
    if not os.access(path, os.X_OK):
        sys.exit(f"bench: there is no {path}; \"make\" builds it")
    return path


def check_release(directory):
    """Refuses to measure a build that is slow on purpose."""
    shown = subprocess.run(["meson", "introspect", "--buildoptions", str(directory)], capture_output=True, text=True,
                           check=False)
    if shown.returncode:
        return
    options = {option["name"]: option["value"] for option in json.loads(shown.stdout)}
    if options.get("optimization") not in ("2", "3", "s") or options.get("b_sanitize", "none") != "none":
        sys.exit(f"bench: {directory} is no release build; \"make clean all\" makes one")


def compiler():
    return shutil.which("gcc") or shutil.which("cc") or sys.exit("bench: no C compiler")


def build_ceiling():
    RESULTS.mkdir(parents=True, exist_ok=True)
    program = RESULTS / "ceiling"
    source = REPOSITORY / "bench" / "ceiling.c"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        subprocess.run([compiler(), "-O2", "-D_GNU_SOURCE", "-o", str(program), str(source)], check=True)
    return program


def kinds():
    """The kinds of disks that this build knows, as `pollux help perf` lists them."""
    return subprocess.run([binary_path(), "help", "perf"], capture_output=True, text=True, check=False).stdout


def binary_path():
    return target_module.binary()


# -- what the kernel says of a process -------------------------------------------------------------------------------


def times(pid):
    """(CPU seconds, seconds that it was ready but others ran) of all threads of a process."""
    run = wait = 0
    with contextlib.suppress(FileNotFoundError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/schedstat", encoding="ascii") as file:
                fields = file.read().split()
            run += int(fields[0])
            wait += int(fields[1])
    return run / 1e9, wait / 1e9


def status_bytes(pid, field):
    with open(f"/proc/{pid}/status", encoding="ascii") as lines:
        for line in lines:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    raise KeyError(field)


# -- programs --------------------------------------------------------------------------------------------------------


def serve(*disks, core=TARGET_CORE, options=(), poll="adaptive", prefix=()):
    """`pollux serve`, pinned."""
    return Target(*disks, options=("-m", core, "--poll", poll, *options), prefix=prefix)


def url(target, nsid=1, **settings):
    host, port = target.address
    query = "&".join(f"{key}={value}" for key, value in {"nsid": nsid, **settings}.items())
    return f"nvme+tcp://{host}:{port}/{target.nqn}?{query}"


def remote(port, nqn):
    """The first namespace of somebody else's subsystem."""
    return f"nvme+tcp://127.0.0.1:{port}/{nqn}"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_json(command, limit=LIMIT):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=limit, check=False,
                          stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {done.returncode}: {done.stderr.strip()}")
    return json.loads(done.stdout)


@functools.lru_cache(maxsize=1)
def first_of_all():
    """Words before a command, for a thread that runs whenever it has something to do, whoever else has: () where this
    is not permitted."""
    words = ("chrt", "--fifo", "1")
    done = subprocess.run([*words, "true"], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return () if done.returncode else words


def perf(disk, arguments, seconds=None, core=HOST_CORE, prefix=()):
    """`pollux perf` on a disk; its JSON, with the share of its core that it got as "share"."""
    timing = () if seconds is None else ("-t", seconds)
    result = run_json([*prefix, binary_path(), "perf", "-m", core, "--json", "-", *arguments, *timing, disk])
    cpu = result["cpu"]
    result["share"] = cpu["own_seconds"] / cpu["wall_seconds"] if cpu["wall_seconds"] else 1
    return result


def perf_on(target, disk, arguments, seconds, prefix=()):
    """perf() against a target, with what that used and how much it was kept waiting."""
    run, wait = times(target.pid)
    start = time.monotonic()
    result = perf(disk, arguments, seconds, prefix=prefix)
    wall = time.monotonic() - start
    run_after, wait_after = times(target.pid)
    result["target_cpu"] = (run_after - run) / wall
    result["disturbed"] = max((wait_after - wait) / wall, 1 - result["share"])
    result["target_peak"] = status_bytes(target.pid, "VmHWM")
    return result


def fill(disk, size):
    """Writes the whole of a disk once, so that its memory is there."""
    perf(disk, ("-w", "write", "-o", "128K", "-q", "32", "--count", size // (128 * 1024)))


def ceiling(arguments, seconds):
    result = run_json([build_ceiling(), *arguments, "-t", seconds, "-s", TARGET_CORE, "-c", HOST_CORE])
    result["disturbed"] = 1 - min(result["client_cpu"], result["server_cpu"])
    return result


def idle_share(seconds):
    """How much of all cores was idle for so long."""
    def read():
        with open("/proc/stat", encoding="ascii") as file:
            fields = [int(word) for word in file.readline().split()[1:9]]
        return fields[3] + fields[4], sum(fields)

    idle, total = read()
    time.sleep(seconds)
    idle_after, total_after = read()
    return (idle_after - idle) / max(1, total_after - total)


def wait_for_calm():
    """Waits until others leave the machine alone, for at most `patience` seconds."""
    end = time.monotonic() + patience
    while idle_share(CALM_SECONDS) < CALM and time.monotonic() < end:
        pass


def undisturbed(measure):
    """Runs measure() until nobody else had the cores, or TRIES times; returns the calmest run."""
    best = None
    for _ in range(TRIES):
        if patience:
            wait_for_calm()
        result = measure()
        if best is None or result["disturbed"] < best["disturbed"]:
            best = result
        if best["disturbed"] <= DISTURBED:
            break
    return best


# -- figures ---------------------------------------------------------------------------------------------------------


class Figure:
    """Rounds of one number."""

    def __init__(self, values):
        self.values = list(values)

    @property
    def median(self):
        return statistics.median(self.values)

    def record(self):
        return {"median": self.median, "min": min(self.values), "max": max(self.values), "rounds": self.values}


def human(value, unit):
    """A number as people read it."""
    if unit == "IOPS":
        return f"{value / 1e6:.2f}M" if value >= 1e6 else f"{value / 1e3:.1f}K" if value >= 1e4 else f"{value:.0f}"
    if unit in ("MiB", "KiB"):
        return f"{value / (MIB if unit == 'MiB' else 1024):.1f} {unit}"
    if unit == "%":
        return f"{100 * value:.2f} %"
    if unit == "":
        return f"{value:.2f}"
    if unit == "calls":
        return f"{value:.5f}"
    return f"{value:.1f} {unit}"
