# SPDX-License-Identifier: BSD-3-Clause
"""Volumes: what they cost beside the disk below them, what a snapshot costs, how soon a pool is open after a kill; by
tests/unit/pool_speed.c, in one process on one reactor. And the same of SPDK's volumes and of qcow2, where they are."""

import contextlib
import json
import pathlib
import re
import shutil
import subprocess
import threading
import time
from collections import namedtuple

import spdk
from tools import MIB, RESULTS, TARGET_CORE, Skip, binary_path, run_json

GIB = 1 << 30
IMAGE = RESULTS / "pool.img"
EXTENTS = 1_000_000
COUNT = 10_000
WORK_LIMIT = 300  # seconds after which it hangs
RAM = "ram:4G"

# A line of the table: values are of several runs; goal is at most or at least; None: it is told, and no more.
Line = namedtuple("Line", "name what unit values goal at_most")


def _program():
    program = pathlib.Path(binary_path()).parent / "tests/unit/pool_speed"
    if not program.exists():
        raise Skip("this build has no tests (meson -Dtests=true)")
    return program


def _run(work, disk, *arguments):
    return run_json(["taskset", "-c", TARGET_CORE, _program(), work, disk, *arguments], WORK_LIMIT)


@contextlib.contextmanager
def _image(size, path=IMAGE):
    """A sparse file."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.truncate(size)
    try:
        yield path
    finally:
        path.unlink()


@contextlib.contextmanager
def _disk(kind, size=64 * GIB):
    if kind == "ram":
        yield RAM
    else:
        with _image(size) as path:
            yield path


def _ratios(over, under):
    return [a / b for a, b in zip(over, under)]


def _rates(kind):
    def measure(seconds, quick):
        with _disk(kind) as disk:
            r = _run("rates", disk, 2 * seconds, 64 if quick else 512)
        low = kind == "file"  # where a request is worth more than the instructions that it takes
        return [
            Line("disk-read", f"{kind}: 4 KiB random read of the disk, QD32", "IOPS", r["disk_read"], None, False),
            Line("read", "... of a volume on it, of that", "", _ratios(r["volume_read"], r["disk_read"]), 0.95, False),
            Line("deep", "... with 100 snapshots, of without", "", _ratios(r["deep_read"], r["volume_read"]), 0.95,
                 False),
            Line("disk-write", f"{kind}: 4 KiB random write of the disk", "IOPS", r["disk_write"], None, False),
            Line("overwrite", "... of a volume on it, of that", "", _ratios(r["volume_write"], r["disk_write"]),
                 None if not low else 0.95, False),
            Line("thick-first", f"{kind}: first writes to a thick volume", "IOPS", r["thick_first"], None, False),
            Line("thin-first", "... to a thin one, of that", "", _ratios(r["thin_first"], r["thick_first"]), 0.7,
                 False),
            Line("thin-over", "... of writes where there is data", "", _ratios(r["thin_first"], r["volume_write"]),
                 None, False),
        ]
    return measure


def _snapshot(kind):
    def measure(seconds, quick):
        with _disk(kind) as disk:
            r = _run("snapshot", disk, seconds, 64 if quick else 512)
        return [
            Line("before", f"{kind}: 4 KiB random write before a snapshot", "IOPS", r["before"], None, False),
            Line("after", "... right after it, of that", "", _ratios(r["after"], r["before"]), 0.7, False),
            Line("bytes", "... bytes written below, of one", "", r["bytes"], 2.2, True),
        ]
    return measure


def _pause(_seconds, quick):
    gib = 32 if quick else 1024
    with _image(2 * gib * GIB) as disk:
        r = _run("pause", disk, gib)
    return [
        Line("quiet", "file: longest wait of a writer, QD1, in 60 ms", "ms", r["quiet_ms"], None, True),
        Line("snapshot", f"... while a snapshot of {gib} GiB is made", "ms", r["snapshot_ms"], 5, True),
    ]


def _killed(disk, extents):
    """A pool as it is before a kill, and the kill."""
    with subprocess.Popen([_program(), "crash", str(disk), "4096", str(extents)], stdout=subprocess.PIPE,
                          text=True) as process:
        watch = threading.Timer(WORK_LIMIT, process.kill)
        watch.start()
        try:
            line = process.stdout.readline()
        finally:
            watch.cancel()
            process.kill()
    if not line:
        raise Skip("pool_speed crash ended early")
    return json.loads(line)


def _open(_seconds, quick):
    extents = EXTENTS // 20 if quick else EXTENTS
    with _image(4096 * GIB) as disk:
        state = _killed(disk, extents)
        values = [_run("open", disk)["open_ms"]]
    what = f"file: open after kill -9, 4 TiB, {extents} extents, {state['dirty']} nodes and {state['log_pages']} pages"
    return [Line("open", f"{what} behind", "ms", values, 1000, True)]


def _many(_seconds, quick):
    count = COUNT // 10 if quick else COUNT
    with _image(64 * GIB) as disk:
        r = _run("many", disk, count)
    return [
        Line("memory", f"file: resident, {count} volumes and as many snapshots", "MiB", [r["memory_mib"] * MIB],
             200 * MIB, True),
        Line("create", "... one more volume", "ms", r["create_ms"], 10, True),
    ]


def _trim(_seconds, _quick):
    r = _run("trim", "ram:8G", 512)
    return [Line("trim", "ram: space back after a trim of a clone with a snapshot, of what was written", "",
                 [(r["after"] - r["free"]) / (r["before"] - r["free"])], 1.0, False)]


def _diff(_seconds, quick):
    """Two snapshots of 1 TiB, 1 % changed, a MiB here and there; by processes that have read nothing before."""
    gib = 64 if quick else 1024
    program = pathlib.Path(binary_path()).parent / "tests/unit/pool_diff_cost"
    if not program.exists():
        raise Skip("this build has no tests (meson -Dtests=true)")
    with _image((gib + gib // 8) * GIB) as disk:
        words = [program, f"file:{disk}", str(gib), "1"]
        subprocess.run([*words, "make"], check=True, capture_output=True, timeout=WORK_LIMIT)
        shown = [subprocess.run([*words, "diff"], check=True, capture_output=True, text=True, timeout=WORK_LIMIT).stdout
                 for _ in range(3)]
    values = [float(re.search(r"MiB: ([\d.]+) s", text)[1]) * 1000 for text in shown]
    return [Line("diff", f"file: what is different between two snapshots of {gib} GiB, 1 % changed", "ms", values, 500,
                 True)]


# -- peers -----------------------------------------------------------------------------------------------------------


def _spdk_volumes(seconds, quick):
    """SPDK's volumes on its RAM disk, under bdevperf."""
    size = (256 if quick else 1024) * MIB

    def rate(workload, **how):
        return spdk.volume_rate(size, workload, seconds, **how)

    disk, read = rate("randread", volume=False), rate("randread")
    write, first = rate("randwrite"), rate("randwrite", thin=True)
    after = rate("randwrite", snapshot=True)
    return [
        Line("disk-read", "SPDK, malloc: 4 KiB random read, QD32", "IOPS", [disk], None, False),
        Line("read", "... of a volume on it, of that", "", [read / disk], None, False),
        Line("thick", "SPDK: 4 KiB random write of a thick volume", "IOPS", [write], None, False),
        Line("thin-first", "... of a thin one that is empty at first, of that", "", [first / write], None, False),
        Line("after", "... of a thick one after a snapshot, of that", "", [after / write], None, False),
    ]


def _qemu_bench(path, form, seconds):
    """4 KiB writes, QD32, each so far from the one before that it is another cluster's: IOPS."""
    requests = max(1000, int(4000 * seconds))
    start = time.monotonic()
    shape = ("-c", str(requests), "-d", "32", "-s", "4096", "-S", str(17 * 4096))
    subprocess.run(["qemu-img", "bench", "-w", "-f", form, "-t", "none", "-i", "native", *shape, path], check=True,
                   capture_output=True)
    return requests / (time.monotonic() - start)


def _qcow2(seconds, _quick):
    if not shutil.which("qemu-img"):
        raise Skip("qemu-img is not installed (Debian: qemu-utils)")
    RESULTS.mkdir(parents=True, exist_ok=True)
    lines = []
    for what, options in (("64 KiB clusters", "cluster_size=64k"), ("subclusters", "extended_l2=on,cluster_size=128k")):
        path, top = RESULTS / "peer.qcow2", RESULTS / "peer-top.qcow2"
        name = what.split()[-1]
        try:
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, path, "64G"], check=True)
            first = _qemu_bench(path, "qcow2", seconds)
            over = _qemu_bench(path, "qcow2", seconds)
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, "-b", path, "-F", "qcow2", top],
                           check=True)
            written = path.stat().st_blocks * 512
            after = _qemu_bench(top, "qcow2", seconds)
            bytes_each = top.stat().st_blocks * 512 / (max(1000, int(4000 * seconds)) * 4096)
        finally:
            for each in (path, top):
                each.unlink(missing_ok=True)
        lines += [
            Line(f"{name}-over", f"qcow2, {what}: 4 KiB writes where data is, QD32", "IOPS", [over], None, False),
            Line(f"{name}-first", "... first writes, of that", "", [first / over], None, False),
            Line(f"{name}-after", "... after a snapshot, of that", "", [after / over], None, False),
            Line(f"{name}-bytes", f"... bytes that its file has then, of one ({written >> 20} MiB before)", "",
                 [bytes_each], None, False),
        ]
    return lines


# name, measure(seconds, quick)
WORKS = [
    ("pool-rates-ram", _rates("ram")),
    ("pool-rates-file", _rates("file")),
    ("pool-snapshot-ram", _snapshot("ram")),
    ("pool-snapshot-file", _snapshot("file")),
    ("pool-pause", _pause),
    ("pool-open", _open),
    ("pool-many", _many),
    ("pool-trim", _trim),
    ("pool-diff", _diff),
    ("pool-spdk", _spdk_volumes),
    ("pool-qcow2", _qcow2),
]
