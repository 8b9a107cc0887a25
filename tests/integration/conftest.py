# SPDX-License-Identifier: BSD-3-Clause
"""Fixtures: one target a module, fresh controllers a test, and a healthy host beside those that misbehave."""

import os
import pathlib
import shlex
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import host  # noqa: E402
import target as target_module  # noqa: E402
from disks import MIB, RAM  # noqa: E402
from target import Target  # noqa: E402


# Modules that are worth their time under ThreadSanitizer: queues on both reactors, and associations that come and go.
TSAN = ("test_admin_async", "test_connect", "test_connect_property", "test_hostile_cut", "test_hostile_data",
        "test_hostile_flood", "test_io_data", "test_io_flow", "test_io_fused", "test_reservations",
        "test_rpc_config", "test_rpc_property", "test_serve_where", "test_vhost", "test_vhost_hostile",
        "test_vhost_restart", "test_vhost_rpc")


def pytest_configure(config):
    config.addinivalue_line("markers", "tsan: worth running under ThreadSanitizer")


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.stem in TSAN:
            item.add_marker(pytest.mark.tsan)
    if not os.access(target_module.binary(), os.X_OK):
        skip = pytest.mark.skip(reason=f"no {target_module.binary()}: build it, or name another in POLLUX")
        for item in items:
            if not item.path.name.startswith("test_client"):
                item.add_marker(skip)


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A 64 MiB file for the shared target."""
    path = tmp_path_factory.mktemp("disk") / "disk.img"
    with open(path, "wb") as file:
        file.truncate(64 * MIB)
    return path


@pytest.fixture(scope="module")
def target(request, disk):
    """A target with a RAM disk of each block size, a file, and a null disk. A module's OPTIONS are added, and those in
    the environment: POLLUX_OPTIONS="-m 0,1" runs what shares this target on two reactors, as under
    ThreadSanitizer."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    default = f"-m {','.join(map(str, cores))}" if target_module.watches_threads() else ""
    options = [*getattr(request.module, "OPTIONS", ()), *shlex.split(os.environ.get("POLLUX_OPTIONS", default))]
    with Target("ram:64M", "ram:64M?block=4096", disk, "null:1T", options=options) as running:
        yield running


@pytest.fixture(autouse=True)
def survives(request):
    """Whatever a test does, the shared target is alive after it."""
    yield
    if "target" in request.fixturenames:
        request.getfixturevalue("target").check_alive()


@pytest.fixture
def controller(target):
    """A ready controller with one I/O queue."""
    with host.Controller(target.address, target.nqn, io_queues=1) as ready:
        yield ready


@pytest.fixture
def connect(target):
    """Makes controllers that are closed after the test: connect(io_queues=2, hdgst=True, ...)."""
    made = []

    def make(**options):
        made.append(host.Controller(target.address, options.pop("subnqn", target.nqn), **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(scope="module")
def bystander(target):
    """A healthy host on the last MiB of the RAM disk, for the whole module."""
    running = host.Bystander(target.address, target.nqn, RAM, first=63 * 2048, blocks=2048)
    yield running
    running.close()


@pytest.fixture
def undisturbed(bystander):
    """The bystander notices nothing of this test."""
    yield bystander
    bystander.check()
