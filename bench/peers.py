# SPDX-License-Identifier: BSD-3-Clause
"""Other people's target and host, where there are any: each side crossed with each side."""

import contextlib
import json
import os
import pathlib
import re
import socket
import subprocess
import time

from load import RAM, RAM_SIZE
from tools import HOST_CORE, LIMIT, RESULTS, TARGET_CORE, Skip, fill, perf, serve, url

NQN = "nqn.2016-06.io.spdk:bench"
HOSTNQN = "nqn.2014-08.org.nvmexpress:uuid:0b1d3c5e-7f90-4a2b-8c4d-6e8f0a1b2c3d"  # without one, its host sends an empty name
MEMORY_MIB = 1024
BLOCK = 512
START_LIMIT = 30

# name, what, bytes, depth, workload
LOADS = [
    ("read-4k-q128", "4 KiB random read, QD128", 4096, 128, "randread"),
    ("write-4k-q128", "4 KiB random write, QD128", 4096, 128, "randwrite"),
    ("read-4k-q1", "4 KiB random read, QD1", 4096, 1, "randread"),
]


def spdk():
    """(target, load generator) of a built SPDK tree."""
    tree = os.environ.get("SPDK_DIR")
    if not tree:
        raise Skip("SPDK_DIR is not set")
    programs = [pathlib.Path(tree) / "build" / "bin" / name for name in ("nvmf_tgt", "spdk_nvme_perf")]
    for program in programs:
        if not os.access(program, os.X_OK):
            raise Skip(f"there is no {program}")
    return programs


def _config(port):
    """SPDK's own form of a configuration: the same RAM disk behind the same address."""
    def call(method, **params):
        return {"method": method, "params": params}

    listener = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(port)}
    nvmf = [
        call("nvmf_create_transport", trtype="TCP"),
        call("nvmf_create_subsystem", nqn=NQN, allow_any_host=True, serial_number="BENCH"),
        call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "ram", "nsid": 1}),
        call("nvmf_subsystem_add_listener", nqn=NQN, listen_address=listener),
    ]
    disk = [call("bdev_malloc_create", name="ram", num_blocks=RAM_SIZE // BLOCK, block_size=BLOCK)]
    return {"subsystems": [{"subsystem": "bdev", "config": disk}, {"subsystem": "nvmf", "config": nvmf}]}


def _port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class SpdkTarget:
    """SPDK's target with a RAM disk, on ordinary memory, pinned."""

    def __init__(self, program):
        self.port = _port()
        RESULTS.mkdir(parents=True, exist_ok=True)
        config = RESULTS / "spdk.json"
        config.write_text(json.dumps(_config(self.port)), encoding="utf-8")
        self._process = subprocess.Popen(
            [program, "-m", hex(1 << TARGET_CORE), "--no-huge", "-s", str(MEMORY_MIB), "-c", config],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    @property
    def url(self):
        return f"nvme+tcp://127.0.0.1:{self.port}/{NQN}"

    def __enter__(self):
        end = time.monotonic() + START_LIMIT
        while time.monotonic() < end and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return self
            time.sleep(0.1)
        self.__exit__()
        raise Skip("SPDK's target does not start here")

    def __exit__(self, *_):
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _spdk_perf(program, port, nqn, load, seconds):
    """IOPS by SPDK's load generator."""
    _, _, size, depth, workload = load
    done = subprocess.run(
        [program, "-q", str(depth), "-o", str(size), "-w", workload, "-t", str(max(1, int(seconds))), "-c", hex(1 << HOST_CORE),
         "--no-huge", "-s", str(MEMORY_MIB),
         "-r", f"trtype:TCP adrfam:IPv4 traddr:127.0.0.1 trsvcid:{port} subnqn:{nqn} hostnqn:{HOSTNQN}"],
        capture_output=True, text=True, timeout=LIMIT, check=False, stdin=subprocess.DEVNULL)
    total = re.search(r"^Total\s*:\s*([\d.]+)", done.stdout, re.M)
    if not total:
        raise Skip(f"spdk_nvme_perf: {(done.stderr or done.stdout).strip()[-200:]}")
    return float(total[1])


def cross(seconds):
    """One round: {load: {(target, host): IOPS}}."""
    their_target, their_perf = spdk()
    result = {load[0]: {} for load in LOADS}
    for load in LOADS:
        name, _, size, depth, workload = load
        ours = ("-o", size, "-q", depth, "-w", workload)
        with serve(RAM) as target:
            fill(url(target), RAM_SIZE)
            result[name]["pollux", "pollux"] = perf(url(target), ours, seconds)["iops"]
            result[name]["pollux", "spdk"] = _spdk_perf(their_perf, target.port, target.nqn, load, seconds)
        with SpdkTarget(their_target) as target:
            fill(target.url, RAM_SIZE)
            result[name]["spdk", "pollux"] = perf(target.url, ours, seconds)["iops"]
            result[name]["spdk", "spdk"] = _spdk_perf(their_perf, target.port, NQN, load, seconds)
    return result
