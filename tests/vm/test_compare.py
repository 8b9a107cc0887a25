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
        runs = [each[run] for each in cell["rounds"] for run in ("fast", "paced")]
        assert not any(run["errors"] for run in runs)
        assert sum(run["requests"] > 0 for run in runs) > len(runs) / 2, "one may end before its first request does"
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


UUID = "4f5d0f0e-6b1c-4c5e-9d59-1f0b7c1a2b3c"
NVMET = "/sys/kernel/config/nvmet"
BEGIN = "until ls /sys/class/nvme/nvme*/nvme*n1 >/dev/null 2>&1; do sleep 0.1; done"


def test_connections_that_others_have_made_meanwhile_stay(machine):
    """The kernel's host ends all of them when its module goes, which was loaded for us."""
    machine.sh(f"""
        pollux serve -q -l 127.0.0.1:4420 --allow-any-host --nqn {FOREIGN} ram:16M >/dev/null 2>&1 &
        echo $! >/tmp/serve
        {COMPARE} --disk null --digests off --rounds 100 --targets pollux --hosts kernel >/dev/null 2>&1 &
        {BEGIN}
        echo "transport=tcp,traddr=127.0.0.1,trsvcid=4420,nqn={FOREIGN},hostid={UUID},\
hostnqn=nqn.2014-08.org.nvmexpress:uuid:{UUID}" >/dev/nvme-fabrics
        kill -TERM $!; wait $! && exit 1; true""")
    assert machine.sh("cat /sys/class/nvme/*/hostid") == f"{UUID}\n"
    machine.sh("""echo 1 >$(echo /sys/class/nvme/*/delete_controller); kill $(cat /tmp/serve)
        until [ -z "$(ls /sys/class/nvme)" ]; do sleep 0.1; done; rmmod nvme_tcp""")


def test_what_others_have_put_on_our_port_stays_and_so_does_what_it_is_in(machine):
    machine.sh(f"""
        {COMPARE} --disk null --digests off --rounds 100 --targets kernel --hosts kernel >/dev/null 2>&1 &
        {BEGIN}
        kill -9 $!; wait $! || true
        mkdir {NVMET}/subsystems/{FOREIGN}
        ln -s {NVMET}/subsystems/{FOREIGN} {NVMET}/ports/$(ls {NVMET}/ports)/subsystems/{FOREIGN}""")
    assert int(machine.sh(f"ls {NVMET}/ports")) > 1000  # none that people choose
    assert "took down what run" in machine.sh("pollux compare --clean 2>&1")
    assert machine.sh(f"ls {NVMET}/subsystems {NVMET}/ports/*/subsystems").split() == [
        f"{NVMET}/ports/{machine.sh(f'ls {NVMET}/ports').strip()}/subsystems:", FOREIGN,
        f"{NVMET}/subsystems:", FOREIGN]
    assert machine.sh("ls /sys/class/nvme 2>/dev/null; ls /run/pollux-compare 2>/dev/null; true") == ""
    machine.sh(f"""rm {NVMET}/ports/*/subsystems/*; rmdir {NVMET}/ports/* {NVMET}/subsystems/*
        umount /sys/kernel/config; rmmod nvmet_tcp nvmet""")


def clean(machine, **notes):
    """Takes down by notes that a run has left."""
    text = json.dumps({"modules": [], **notes})
    machine.sh(f"mkdir -p /run/pollux-compare/{UUID}; echo '{text}' >/run/pollux-compare/{UUID}/state.json")
    assert f"took down what run {UUID} left" in machine.sh("pollux compare --clean 2>&1")


def test_a_port_is_taken_down_if_it_is_the_one_that_was_made(machine):
    machine.sh("modprobe nvmet; [ -d /sys/kernel/config/nvmet ] || mount -t configfs none /sys/kernel/config")
    port = f"{NVMET}/ports/7"
    machine.sh(f"mkdir {port}; echo 127.0.0.1 >{port}/addr_traddr")
    clean(machine, port=port)
    clean(machine, port=port, port_inode="1")
    machine.sh(f"echo >{port}/addr_traddr; test -d {port}")
    clean(machine, port=port, port_inode="1")
    inode = machine.sh(f"stat -c %i {port}").strip()
    clean(machine, port=port, port_inode=inode)
    machine.sh(f"test ! -e {port}; mkdir {port}")
    clean(machine, port=port)  # killed when it was made and not yet looked at
    machine.sh(f"test ! -e {port}; mount | grep -q configfs")
    clean(machine, configfs="/sys/kernel/config")
    machine.sh("mount | grep -q configfs; umount /sys/kernel/config; rmmod nvmet")


def test_a_ram_disk_is_taken_down_if_it_is_the_one_that_was_made(machine):
    machine.sh("modprobe brd rd_nr=1 rd_size=65536; echo precious >/dev/ram0")
    clean(machine, modules=["brd"], brd="262144")
    clean(machine, modules=["brd"], brd="65536", brd_inode="1")
    assert machine.sh("head -c 8 /dev/ram0") == "precious"
    clean(machine, modules=["brd"], brd="65536")
    machine.sh("test ! -e /sys/module/brd; modprobe brd rd_nr=1 rd_size=65536")
    inode = machine.sh("stat -c %i /sys/module/brd").strip()
    clean(machine, modules=["brd"], brd="65536", brd_inode=inode)
    machine.sh("test ! -e /sys/module/brd")


def test_over_namespaces_the_kernels_sides_are_measured_and_nothing_is_left(machine):
    machine.sh("modprobe veth")  # which the kernel loads by itself, and keeps: others may have such NICs by then
    before = machine.sh(STATE + "ls /sys/class/net")
    found = cells(machine, "--digests off --disk null --network namespaces --targets kernel")
    assert {pair: (cell["status"], cell["reason"]) for pair, cell in found.items()} == {
        ("kernel", host): ("measured", "") for host in ("pollux", "kernel")}
    assert machine.sh(STATE + "ls /sys/class/net") == before


def test_killed_over_namespaces_the_next_run_ends_them(machine):
    """The kernel's target and host have sockets there."""
    machine.sh("modprobe veth")
    before = machine.sh(STATE)
    machine.sh(f"""
        {COMPARE} --disk null --digests off --rounds 100 --network namespaces --targets kernel --hosts kernel \
            >/dev/null 2>&1 &
        {BEGIN}
        kill -9 $!; wait $! || true""")
    assert "took down what run" in machine.sh("pollux compare --clean 2>&1")
    assert machine.sh(STATE) == before


def test_across_two_machines_the_kernels_sides_are_measured_and_nothing_is_left(machine):
    """They are one here; its target end has the kernel's target, and its host end the kernel's host."""
    before = machine.sh(STATE)
    machine.sh("""
        set -e
        pollux compare target -l 127.0.0.1 --disk null --target-cores 0 >/tmp/target 2>&1 & target=$!
        until grep -q -- --key /tmp/target; do sleep 0.1; done
        $(sed -n 's/^  //p' /tmp/target) -t 0.1 -q 4 -o 4K -M 100 -m 1 --poll adaptive --digests off --host-cores 1 \
            --hosts kernel --json /tmp/compare.json >/tmp/table 2>/tmp/errors || (cat /tmp/errors; false)
        until grep -q 'is gone; waiting for another' /tmp/target; do sleep 0.1; done
        kill -TERM $target; wait $target""")
    assert machine.sh(STATE) == before
    doc = json.loads(machine.sh("cat /tmp/compare.json"))
    found = {(cell["target"], cell["host"]): cell for cell in doc["cells"]}
    assert {pair: (cell["status"], cell["reason"]) for pair, cell in found.items()} == {
        (target, "kernel"): ("measured", "") for target in ("pollux", "kernel")}
    for cell in found.values():
        runs = [each[run] for each in cell["rounds"] for run in ("fast", "paced")]
        assert sum(run["requests"] for run in runs) > 0 and not any(run["errors"] for run in runs)
        assert all(run["target"]["window"] > 0 for run in runs)
