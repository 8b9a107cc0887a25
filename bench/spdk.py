# SPDX-License-Identifier: BSD-3-Clause
"""SPDK's target and load generator, of the built tree that $SPDK_DIR names."""

import contextlib
import json
import os
import pathlib
import re
import socket
import subprocess
import time

from load import RAM_SIZE
from tools import HOST_CORE, HOSTNQN, LIMIT, RESULTS, TARGET_CORE, Skip, free_port

NQN = "nqn.2016-06.io.spdk:bench"
MEMORY = ("--no-huge", "-s", "1024")  # MiB of ordinary memory
BLOCK = 512
START_LIMIT = 30


def _program(name):
    tree = os.environ.get("SPDK_DIR")
    if not tree:
        raise Skip("SPDK_DIR is not set")
    program = pathlib.Path(tree) / "build" / "bin" / name
    if not os.access(program, os.X_OK):
        raise Skip(f"there is no {program}")
    return program


def need_target():
    _program("nvmf_tgt")


def need_host():
    _program("spdk_nvme_perf")


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


def _listens(process, port):
    end = time.monotonic() + START_LIMIT
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        time.sleep(0.1)
    return False


@contextlib.contextmanager
def target():
    """A RAM disk behind SPDK's target, on ordinary memory, pinned: (port, NQN)."""
    port = free_port()
    RESULTS.mkdir(parents=True, exist_ok=True)
    config = RESULTS / "spdk.json"
    config.write_text(json.dumps(_config(port)), encoding="utf-8")
    process = subprocess.Popen([_program("nvmf_tgt"), "-m", hex(1 << TARGET_CORE), *MEMORY, "-c", config],
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        if not _listens(process, port):
            raise Skip("SPDK's target does not start here")
        yield port, NQN
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def host(port, nqn, load, seconds):
    """IOPS by SPDK's load generator."""
    done = subprocess.run(
        [_program("spdk_nvme_perf"), "-q", str(load.depth), "-o", str(load.size), "-w", load.workload,
         "-t", str(max(1, int(seconds))), "-c", hex(1 << HOST_CORE), *MEMORY,
         "-r", f"trtype:TCP adrfam:IPv4 traddr:127.0.0.1 trsvcid:{port} subnqn:{nqn} hostnqn:{HOSTNQN}"],
        capture_output=True, text=True, timeout=LIMIT, check=False, stdin=subprocess.DEVNULL)
    total = re.search(r"^Total\s*:\s*([\d.]+)", done.stdout, re.M)
    if not total:
        raise Skip(f"spdk_nvme_perf: {(done.stderr or done.stdout).strip()[-200:]}")
    return float(total[1])
