# SPDX-License-Identifier: BSD-3-Clause
"""Other people's targets and hosts, where there are any: each target under each host."""

import contextlib
import subprocess
from collections import namedtuple

import kernel
import spdk
from load import RAM, RAM_SIZE
from tools import Skip, fill, perf, remote, serve


class Load(namedtuple("Load", "name what size depth workload")):
    @property
    def arguments(self):
        """For pollux perf."""
        return "-o", self.size, "-q", self.depth, "-w", self.workload


LOADS = [
    Load("read-4k-q128", "4 KiB random read, QD128", 4096, 128, "randread"),
    Load("write-4k-q128", "4 KiB random write, QD128", 4096, 128, "randwrite"),
    Load("read-4k-q1", "4 KiB random read, QD1", 4096, 1, "randread"),
]
# What our ends together, and our target under the peer's host, should do of what the peer does.
GOALS = {
    ("write-4k-q128", "spdk", "both ends"): 1.5,
    ("read-4k-q128", "spdk", "the target"): 1.4,
    ("write-4k-q128", "spdk", "the target"): 1.4,
}


@contextlib.contextmanager
def our_target():
    with serve(RAM) as target:
        yield target.port, target.nqn


def our_host(port, nqn, load, seconds):
    return perf(remote(port, nqn), load.arguments, seconds)["iops"]


TARGETS = {"pollux": our_target, "spdk": spdk.target, "kernel": kernel.target}
HOSTS = {"pollux": our_host, "spdk": spdk.host, "kernel": kernel.host}
NEEDS = {("target", "spdk"): spdk.need_target, ("host", "spdk"): spdk.need_host,
         ("target", "kernel"): kernel.need_target, ("host", "kernel"): kernel.need_host}


def find(skipped):
    """(targets, hosts) that are there, ours first; why others are not goes into skipped."""
    found = {"target": ["pollux"], "host": ["pollux"]}
    for (side, name), need in NEEDS.items():
        try:
            need()
            found[side].append(name)
        except Skip as why:
            skipped[f"peers: {name}'s {side}"] = str(why)
    return found["target"], found["host"]


@contextlib.contextmanager
def tolerant(skipped, what):
    """A peer that does not do as it should costs no other figure."""
    try:
        yield
    except (Skip, OSError, RuntimeError, subprocess.SubprocessError) as why:
        skipped[what] = str(why)


def cross(load, targets, hosts, seconds, skipped):
    """One round of a load: {(target, host): IOPS}; pairs that failed are left out, and told of in skipped."""
    result = {}
    for target in targets:
        with tolerant(skipped, f"peers: {target}'s target"), TARGETS[target]() as (port, nqn):
            fill(remote(port, nqn), RAM_SIZE)
            for host in hosts:
                with tolerant(skipped, f"peers: {host}'s host on {target}'s target"):
                    result[target, host] = HOSTS[host](port, nqn, load, seconds)
    return result


def comparisons(servers, clients, server="target", client="host"):
    """(peer, what, ours, theirs): pairs of (server, client) whose ratio says how we stand to a peer."""
    for peer in sorted(set(servers + clients) - {"pollux"}):
        if peer in servers and peer in clients:
            yield peer, "both ends", ("pollux", "pollux"), (peer, peer)
            yield peer, f"the {server}", ("pollux", peer), (peer, peer)
            yield peer, f"the {client}", (peer, "pollux"), (peer, peer)
        elif peer in servers:
            yield peer, f"the {server}, under our {client}", ("pollux", "pollux"), (peer, "pollux")
        else:
            yield peer, f"the {client}, on our {server}", ("pollux", "pollux"), ("pollux", peer)
