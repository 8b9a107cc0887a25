# SPDX-License-Identifier: BSD-3-Clause
"""Part B: the target and the host under load, each beside the bare-socket ceiling of the same round."""

from tools import MIB, Skip, ceiling, fill, kinds, note, perf, perf_on, serve, undisturbed, url

RAM_SIZE = 256 * MIB
RAM, NULL = f"ram:{RAM_SIZE}", "null:1T"
PACED_RATE = 1000


CHUNKS = (4096, 128)  # KiB that the ceiling's sides receive at once: all there is, or what stays in a cache


def best_ceiling(bare, disk, seconds):
    """The ceiling of a row: the better of both ways to receive."""
    data = ("-d", 1 if disk == NULL else RAM_SIZE // MIB)
    runs = [undisturbed(lambda c=chunk: ceiling((*bare, *data, "-r", c), seconds)) for chunk in CHUNKS]
    return max(runs, key=lambda run: run["iops"])


def need_host():
    """Everything here goes through the host side of the library."""
    if "nvme+tcp:" not in kinds():
        raise Skip("this build has no nvme+tcp disk to measure with")


class Row:
    """One line of the table: a workload on a disk, and the ceiling's arguments for the same sizes.

    against: "ceiling", "time" (the ceiling's time, where less is better), "plain" (the same without the disk settings)
    or None. goal: what the ratio should be; for "time" at most, else at least."""

    def __init__(self, name, what, disk, workload, bare, goal=None, against="ceiling", settings=None, options=(),
                 poll="adaptive"):
        self.name, self.what, self.disk, self.goal, self.against = name, what, disk, goal, against
        self.workload = workload
        self.bare = bare
        self.settings = settings or {}
        self.options, self.poll = options, poll

    @property
    def unit(self):
        return "us" if self.against == "time" else "IOPS"

    def value(self, result):
        return result["latency_us"]["avg"] if self.against == "time" else result["iops"]

    def _load(self, seconds, settings):
        with serve(self.disk, poll=self.poll, options=self.options) as target:
            if self.disk == RAM:
                fill(url(target), RAM_SIZE)
            return undisturbed(lambda: perf_on(target, url(target, **settings), self.workload, seconds))

    def measure(self, seconds):
        """One round: {"ours", "other", "disturbed", "memory"}; other is None where there is nothing to compare with."""
        ours = self._load(seconds, self.settings)
        other = None
        if self.against == "plain":
            other = self._load(seconds, {})
        elif self.against:
            other = best_ceiling(self.bare, self.disk, seconds)
        disturbed = max(each["disturbed"] for each in (ours, other) if each)
        return {
            "ours": self.value(ours), "other": self.value(other) if other else None, "disturbed": disturbed,
            "memory": ours["target_peak"] - (RAM_SIZE if self.disk == RAM else 0),
            "detail": {key: ours[key] for key in ("iops", "mib_s", "latency_us", "target_cpu", "share")},
        }


def _shape(size, depth, workload="randread", queues=1):
    """The same load for `pollux perf` and for the ceiling."""
    ours = ("-o", size, "-q", depth, "-w", workload, "-P", queues)
    bare = ("-o", size, "-q", depth, "-w", "write" if "write" in workload else "read", "-P", queues)
    return ours, bare


def _rows():
    digests = {"hdgst": 1, "ddgst": 1}
    yield Row("read-4k-q128", "4 KiB random read, QD128, RAM disk", RAM, *_shape(4096, 128), 0.85)
    yield Row("read-4k-q128-null", "4 KiB random read, QD128, null disk", NULL, *_shape(4096, 128), 0.80)
    yield Row("read-4k-q32", "4 KiB random read, QD32", RAM, *_shape(4096, 32), 0.80)
    yield Row("write-4k-q128", "4 KiB random write, QD128", RAM, *_shape(4096, 128, "randwrite"))
    yield Row("read-4k-q1", "4 KiB random read, QD1, both spinning", RAM, *_shape(4096, 1), 1.15, "time", poll="busy")
    yield Row("write-4k-q1", "4 KiB random write, QD1, both spinning", RAM, *_shape(4096, 1, "randwrite"), None, "time",
              poll="busy")
    yield Row("read-512-q128", "512 B random read, QD128", RAM, *_shape(512, 128), 0.60)
    yield Row("write-512-q128", "512 B random write, QD128", RAM, *_shape(512, 128, "randwrite"))
    yield Row("read-128k-q32", "128 KiB random read, QD32", RAM, *_shape(131072, 32), 0.95)
    yield Row("write-128k-q32", "128 KiB random write, QD32", RAM, *_shape(131072, 32, "randwrite"), 0.95)
    for queues in (8, 32, 100):
        yield Row(f"read-4k-{queues}qp", f"4 KiB random read, QD128 over {queues} queue pairs", RAM,
                  *_shape(4096, 128, queues=queues), 0.90)
    yield Row("digests", "4 KiB random read, QD128, both digests (of the same without)", RAM, *_shape(4096, 128), 0.85,
              "plain", digests)


ROWS = list(_rows())


def block_layer(seconds):
    """The block layer alone: no network, one core."""
    return {depth: perf(NULL, ("-q", depth), seconds)["iops"] for depth in (1, 32, 128)}


def paced(seconds):
    """Adaptive against busy at a trickle: {mode: (share of a core that the target used, median latency in us)}."""
    result = {}
    for mode in ("adaptive", "busy"):
        with serve(RAM, poll=mode) as target:
            fill(url(target), RAM_SIZE)
            load = ("-q", 8, "--rate", PACED_RATE)
            run = undisturbed(lambda t=target: perf_on(t, url(t), load, seconds))  # noqa: B023
            result[mode] = (run["target_cpu"], run["latency_us"]["p50"])
    return result


def ceiling_only(rows, seconds):
    """Where the host side is missing: the ceilings themselves, for orientation."""
    for row in rows:
        if row.against in ("ceiling", "time"):
            result = best_ceiling(row.bare, row.disk, seconds)
            note(f"{row.name}: the ceiling is {row.value(result):.1f} {row.unit}")
