#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""What it brings that a connection lives on the reactor whose core takes its packets (src/nvmf/tcp/place.c).

    bench/placement.py [ROUNDS]

A NIC whose packets are handled on a core that is chosen is one of a pair of virtual ones, in two network namespaces,
with RPS. Two targets of one reactor each are there, on the core of the packets (A) and on another (B), which is where
the connection would be by chance; the load is made on the core that the reactor is not on. Rounds are A B B A, with the
packets on one core and on the other in turn; of each the ratio A / B, and of these the median with its interval of 95 %
(that of the ranks: whatever their distribution is). Needs root, two cores and ip(8).
"""
import json
import math
import os
import statistics
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from tools import Skip, Target, binary_path  # noqa: E402

from test_placement import CORES, inside, make_wire  # noqa: E402

SECONDS = 0.5
DEPTHS = (1, 32)
ROUNDS, LEAST = 20, 6


def measure(client, target, core, depth):
    """(IOPS, median latency in us)"""
    host, port = target.address
    done = subprocess.run(["ip", "netns", "exec", client, binary_path(), "perf", "-t", str(SECONDS), "-q", str(depth),
                           "-m", str(core), "--json", "-", f"nvme+tcp://{host}:{port}/{target.nqn}"],
                          capture_output=True, text=True, timeout=60, check=True)
    result = json.loads(done.stdout)
    return result["iops"], result["latency_us"]["p50"]


def steer(server, core):
    inside(server, f"for queue in /sys/class/net/v0/queues/rx-*; do echo {1 << core:x} >$queue/rps_cpus; done")


def interval(values):
    """Of the median: the ranks between which it is in 95 of 100 cases."""
    values, n = sorted(values), len(values)
    low, chance = 0, 2 / 2 ** n
    while chance <= 0.05 and low < n // 2:
        low += 1
        chance += 2 * math.comb(n, low) / 2 ** n
    low = max(low - 1, 0)
    return statistics.median(values), values[low], values[n - 1 - low]


def a_round(client, targets, packets, depth):
    """A B B A. @return the ratios of A to B of each figure"""
    other = next(core for core in CORES if core != packets)
    sums = {packets: [0, 0], other: [0, 0]}
    for reactor in (packets, other, other, packets):
        figures = measure(client, targets[reactor], other if reactor == packets else packets, depth)
        sums[reactor] = [sum(pair) for pair in zip(sums[reactor], figures)]
    return [a / b for a, b in zip(sums[packets], sums[other])]


def main(rounds):
    if rounds < LEAST:
        raise Skip(f"fewer than {LEAST} rounds have no interval")
    if os.geteuid() or len(CORES) < 2:
        raise Skip("it takes root and two cores")
    with ExitStack() as stack:
        wire = make_wire.__wrapped__()
        server, client = next(wire)
        stack.callback(next, wire, None)
        targets = {}
        for core in CORES:
            options = ("-m", core, "--allow-any-host")
            targets[core] = stack.enter_context(Target("null:1G", listen="10.99.0.1:0", options=options,
                                                       prefix=("ip", "netns", "exec", server)))
        for depth in DEPTHS:
            ratios = []
            for number in range(rounds):
                packets = CORES[number % 2]
                steer(server, packets)
                ratios.append(a_round(client, targets, packets, depth))
            for name, values in zip(("IOPS", "median latency"), zip(*ratios)):
                mid, low, high = (100 * (value - 1) for value in interval(values))
                verdict = "no difference" if low <= 0 <= high else "difference"
                print(f"4 KiB reads, depth {depth}, {name}: {mid:+.1f} % (95 %: {low:+.1f} to {high:+.1f}), {verdict}, "
                      f"{rounds} rounds", flush=True)


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
    except Skip as why:
        sys.exit(f"placement.py: {why}")
