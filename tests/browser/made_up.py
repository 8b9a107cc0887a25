# SPDX-License-Identifier: BSD-3-Clause
"""Results as `pollux compare --json` writes them, made up: nobody measured these."""
BASE = {"io_size": 4096, "queue_depth": 32, "read_percent": 100, "cores": 1, "digests": False, "poll": "adaptive"}
LOADS = [("4 KiB read, QD32", {}), ("4 KiB read, QD1", {"queue_depth": 1}), ("4 KiB read, QD4", {"queue_depth": 4}),
         ("4 KiB read, QD128", {"queue_depth": 128}), ("4 KiB write, QD32", {"read_percent": 0}),
         ("4 KiB 70 % read, QD32", {"read_percent": 70}), ("16 KiB read, QD32", {"io_size": 16384}),
         ("128 KiB read, QD32", {"io_size": 131072}), ("4 KiB read, QD32, digests", {"digests": True}),
         ("4 KiB read, QD32, spinning", {"poll": "busy"}), ("4 KiB read, QD32, 2 cores", {"cores": 2}),
         ("4 KiB read, QD32, 4 cores", {"cores": 4})]
PAIRS = [("kernel", "kernel", 1.0), ("kernel", "pollux", 1.2), ("pollux", "kernel", 1.3), ("pollux", "pollux", 2.1)]
PARTS = {"host_user_us": 1, "host_system_us": 3, "target_user_us": 1, "target_system_us": 3, "threads_us": 1.5,
         "rest_us": 0.5}


def interval(mid, spread=0.04):
    return {"mid": mid, "low": mid * (1 - spread), "high": mid * (1 + spread)}


def cell(text, changed, target, host, times):
    load = {"text": text, **BASE, **changed}
    iops = 90000 * times * load["cores"] ** 0.9 * min(load["queue_depth"], 64) ** 0.5 / (load["io_size"] / 4096) ** 0.7
    parts = {name: interval(part * 1e6 / iops / 4) for name, part in PARTS.items()}
    figures = {"iops": interval(iops), "mib_s": interval(iops * load["io_size"] / (1 << 20)),
               "cores": interval(1.9 * load["cores"]), "iops_per_core": interval(iops / 1.9 / load["cores"]),
               "cpu_us": interval(1.9e6 * load["cores"] / iops), "paced_cpu_us": interval(2.4e6 / iops), **parts}
    latency = {name: interval(40 / times * factor, 0.1) for name, factor in
               (("p50", 1), ("p90", 1.7), ("p99", 3), ("p99.9", 9), ("p99.99", 22))}
    return {"load": load, "target": target, "host": host, "status": "measured", "reason": "", "rate": 45000.0,
            "host_bound": False, "figures": figures, "latency_us": latency}


def results(network="loopback"):
    cells = [cell(text, changed, *pair) for text, changed in LOADS for pair in PAIRS]
    del cells[-1]["figures"], cells[-1]["latency_us"]
    cells[-1].update(status="not measured", reason="a reason with <b>marks</b> & such")
    change = {"mid": 1.1, "low": 1.0, "high": 1.2, "verdict": "difference"}
    none = {"mid": 0.001, "low": -0.02, "high": 0.03, "verdict": "no difference"}
    comparisons = [{"load": each["load"], "from": {"target": "kernel", "host": "kernel"},
                    "to": {"target": "pollux", "host": "pollux"},
                    "changes": {"iops": change, "iops_per_core": change, "cpu_us": none, "p50": none, "p99": change}}
                   for each in cells[::4]]
    return {"format": 1, "pollux": "0.1.0", "began": "2026-01-01T00:00:00Z", "complete": True, "rounds": 6,
            "cells": cells, "comparisons": comparisons,
            "settings": {"network": network, "seconds": 2.0, "idle_cores": 0.01},
            "machine": {"cpu": {"model": "made up", "count": 8}, "kernel": {"release": "6.12.0"}, "sysctls": {}}}
