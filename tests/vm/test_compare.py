# SPDX-License-Identifier: BSD-3-Clause
"""`pollux compare` with the kernel's sides, in a machine that has them: all that it measures, and that nothing is left
of it, whatever ends it, while what is somebody else's stays. TCG's times say nothing, so none is looked at."""
import json
from pathlib import Path

import conftest
import pytest
import target as pollux
from guest import Guest

COMPARE = ("pollux compare -t 0.1 -q 4 -o 4K -M 100 -m 1 --poll adaptive --target-cores 0 "
           "--host-cores 1")
FOREIGN = "nqn.2026-01.example:foreign"

# What there is of the kernel's sides, and of notes.
STATE = """
ls /run/pollux-compare /sys/kernel/config/nvmet/subsystems /sys/kernel/config/nvmet/ports \
    /sys/kernel/config/nullb /dev/ram0 /sys/class/nvme 2>/dev/null
mount | grep configfs
cut -d' ' -f1 /proc/modules | sort
ps | grep -c '[p]ollux'
true
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    build = Path(pollux.binary()).resolve().parent
    if not (build / "build.ninja").exists():
        pytest.skip(f"nothing to install: {pollux.binary()} is not in a build directory")
    work = tmp_path_factory.mktemp("compare")
    image = conftest.vm_image("--install", build, work / "archive")
    with Guest(image, work, cpus=2, archives=(work / "archive",)) as guest:
        guest.sh("ip link set lo up; modprobe crc32c_generic; true")
        yield guest


def cells(machine, options):
    """What a run measured, by whose target and host."""
    machine.sh(f"{COMPARE} --json /tmp/compare.json {options} >/tmp/table 2>/tmp/errors || (cat /tmp/errors; false)")
    doc = json.loads(machine.sh("cat /tmp/compare.json"))
    return {(cell["target"], cell["host"]): cell for cell in doc["cells"]}


def test_all_pairs_are_measured_and_nothing_is_left(machine):
    before = machine.sh(STATE)
    found = cells(machine, "--digests on --html /tmp/compare.html")
    assert {pair: (cell["status"], cell["reason"]) for pair, cell in found.items()} == {
        (target, host): ("measured", "") for target in ("pollux", "kernel") for host in ("pollux", "kernel")}
    for cell in found.values():
        assert len(cell["rounds"]) == 6
        assert all(each[run]["requests"] > 0 and not each[run]["errors"] for each in cell["rounds"]
                   for run in ("fast", "paced"))
    assert machine.sh(STATE) == before
    assert "difference" in machine.sh("cat /tmp/table")
    assert len(machine.sh("cat /tmp/compare.html")) < 400 << 10


def test_killed_it_leaves_what_the_next_run_takes_down_and_others_stay(machine):
    machine.sh(f"""set -e; modprobe nvmet; [ -d /sys/kernel/config/nvmet ] || mount -t configfs none /sys/kernel/config
        mkdir /sys/kernel/config/nvmet/subsystems/{FOREIGN} /sys/kernel/config/nvmet/ports/1
        ln -s /sys/kernel/config/nvmet/subsystems/{FOREIGN} /sys/kernel/config/nvmet/ports/1/subsystems/x || true""")
    before = machine.sh(STATE)
    machine.sh(f"""
        {COMPARE} --digests off --rounds 100 --targets kernel --hosts kernel >/dev/null 2>&1 &
        until ls /sys/class/nvme/nvme*/nvme*n1 >/dev/null 2>&1; do sleep 0.1; done
        kill -9 $!; wait $! || true""")
    left = machine.sh(STATE)
    assert left != before and "uuid:" in left
    assert "took down what run" in machine.sh("pollux compare --clean 2>&1")
    assert machine.sh(STATE) == before
    machine.sh(f"""rmdir /sys/kernel/config/nvmet/ports/1 /sys/kernel/config/nvmet/subsystems/{FOREIGN}
        umount /sys/kernel/config; rmmod nvmet || true""")


def test_a_signal_leaves_nothing(machine):
    before = machine.sh(STATE)
    machine.sh(f"""
        {COMPARE} --digests off --rounds 100 --targets kernel >/dev/null 2>&1 &
        until ls /sys/class/nvme/nvme*/nvme*n1 >/dev/null 2>&1; do sleep 0.1; done
        kill -TERM $!; wait $! && exit 1; true""")
    assert machine.sh(STATE) == before
