# SPDX-License-Identifier: BSD-3-Clause
"""`pollux tune` on a machine of its own: settings that a kernel has, and not files of a tree."""
import json

import pytest

FEATURE = "ethtool:eth0/features/rx-gro"
JOURNAL = "/run/tune.json"
TUNE = f"pollux tune --state {JOURNAL} -m 0"
# What a kernel of a virtual machine has of each kind: files that take a word, a number, one of several words.
CHECKS = "mem net nic.defer nic.rfs disk kernel cpu.nmi-watchdog"


@pytest.fixture
def machine(installed):
    """Its NIC is named as those of other machines."""
    nic = installed.sh("ls /sys/class/net | grep -v '^lo$' | head -1").strip()
    installed.nic = nic
    yield installed
    installed.sh(f"rm -f {JOURNAL}")


def findings(machine, *checks):
    return json.loads(machine.sh(f"{TUNE} --json {' '.join(checks)}"))["findings"]


def values(machine, settings):
    """Those that are files, as they are shown."""
    files = [setting for setting in settings if setting.startswith("/")]
    return dict(zip(files, machine.sh(f"for f in {' '.join(files)}; do head -1 $f; done").splitlines()))


def available(machine):
    return int(machine.sh("sed -n 's/^MemAvailable: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo"))


def test_what_a_kernel_has_is_changed_and_goes_back(machine):
    named, memory = CHECKS.split(), available(machine)
    wanted = {c["setting"]: c["value"] for f in findings(machine, *named) for c in f["changes"]}
    assert len(wanted) >= 5, wanted
    before = values(machine, wanted)
    machine.sh(f"{TUNE} --apply {CHECKS}")
    changed = values(machine, wanted)
    assert {setting for setting in before if changed[setting] != before[setting]} == before.keys()
    assert available(machine) > memory / 2, "a machine without memory does not answer any more"
    left = [f["check"] for f in findings(machine, *named) if f["changes"]]
    assert left == [], "what was applied is as it should be"
    machine.sh(f"{TUNE} --undo")
    assert values(machine, wanted) == before
    machine.sh(f"test ! -e {JOURNAL}")


def test_where_sys_is_read_only_nothing_is_changed_and_that_is_said(machine):
    """As in a container."""
    machine.sh("mount -o remount,ro /sys")
    try:
        status, said = machine.run(f"{TUNE} --apply nic.defer")
    finally:
        machine.sh("mount -o remount,rw /sys")
    assert status == 1 and said.count("\n") == 2
    assert f"/sys/class/net/{machine.nic}/gro_flush_timeout cannot be set to 20000: Read-only file system\n" in said
    machine.sh(f"test ! -e {JOURNAL}")


def offloads(machine):
    finding, = [f for f in findings(machine, "nic.offloads") if f["subject"] == machine.nic]
    return finding


def test_a_feature_of_a_nic_is_switched_and_goes_back(machine):
    """There is no ethtool here: what switches it off is a journal in which it was off at first."""
    setting = FEATURE.replace("eth0", machine.nic)
    assert offloads(machine)["state"] == "ok"
    boot = machine.sh("cat /proc/sys/kernel/random/boot_id").strip()
    entry = {"setting": setting, "old": "off", "new": "on", "boot": boot, "check": "nic.offloads"}
    machine.sh(f"cat >{JOURNAL} <<'.'\n{json.dumps({'version': 1, 'entries': [entry]})}\n.")
    machine.sh(f"{TUNE} --undo")
    finding = offloads(machine)
    assert finding["state"] == "better" and finding["found"] == "off: rx-gro"
    assert {"setting": setting, "value": "on"} in finding["changes"]
    machine.sh(f"{TUNE} --apply nic.offloads")
    assert offloads(machine)["state"] == "ok"
    machine.sh(f"{TUNE} --undo")
    assert offloads(machine)["found"] == "off: rx-gro"
    machine.sh(f"{TUNE} --apply nic.offloads && rm {JOURNAL}")
