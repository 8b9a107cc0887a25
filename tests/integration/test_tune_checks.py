# SPDX-License-Identifier: BSD-3-Clause
"""Every check of `pollux tune`, on machines that were written down: where it says ok, where it finds something, and
where it has nothing to look at, or cannot."""
import json
import os
import subprocess
from typing import NamedTuple

import pytest

from machines import CLOCK, CPU, MACHINES, NET, UNREADABLE, X86_FLAGS, Machine, mask
from target import binary

ORIGINS = ("measured", "published", "unknown")
LIMIT = 60


class Case(NamedTuple):
    """What has the check say ok; what has it find something, in which state; and what it reads. `missing` is what it
    says where that is not there: absent, or unknown if that is no sign of it."""
    machine: str
    ok: dict
    state: str
    found: dict
    reads: tuple
    missing: str = "absent"
    cores: str = "0"
    ok_cores: str = ""  # where that is another
    unreadable: tuple = ()  # files among what it reads, where that is a folder


def simple(machine, path, ok, state, found, **more):
    return Case(machine, {path: ok}, state, {path: found}, (path,), **more)


def lines(path, **values):
    """A recorded file of ethtool."""
    return {path: "\n".join(f"{key.replace('_', '-')} {value}" for key, value in values.items())}


SYSCTL = "proc/sys"
CGROUP = "sys/fs/cgroup/system.slice/pollux.service"
FEATURES = "ethtool/eth0/features"
IRQS = {f"proc/irq/{irq}/smp_affinity_list": 0 for irq in range(120, 128)}
LIMITS = "Max open files   {files}   524288   files\nMax locked memory   {memlock}   8388608   bytes"
SOFTNET = "proc/net/softnet_stat"
DISK = "sys/block/vda/queue"
FLOWS = f"{SYSCTL}/net/core/rps_sock_flow_entries"

CASES = {
    "cpu.governor": simple("xeon", f"{CPU}/cpufreq/policy*/scaling_governor", "performance", "better", "powersave"),
    "cpu.energy": simple("xeon", f"{CPU}/cpufreq/policy*/energy_performance_preference", "performance", "better",
                         "balance_power"),
    "cpu.boost": simple("xeon", f"{CPU}/intel_pstate/no_turbo", 0, "better", 1),
    "cpu.idle-states": Case("xeon", {f"{CPU}/cpu*/cpuidle/state3/disable": 1}, "choice", {},
                            (f"{CPU}/cpu*/cpuidle",), unreadable=(f"{CPU}/cpu3/cpuidle/state2/latency",)),
    "cpu.idle-governor": simple("vm", f"{CPU}/cpuidle/current_governor", "haltpoll", "choice", "menu"),
    "cpu.clocksource": simple("xeon", f"{CLOCK}/current_clocksource", "tsc", "better", "hpet"),
    "cpu.mitigations": Case("altra", {f"{CPU}/vulnerabilities/*": "Not affected"}, "choice", {},
                            (f"{CPU}/vulnerabilities",), unreadable=(f"{CPU}/vulnerabilities/mds",)),
    "cpu.preemption": simple("xeon", "proc/version", "Linux version 6.1.0 #1 SMP Debian", "choice",
                             "Linux version 7.0.0 #1 SMP PREEMPT_LAZY"),
    "cpu.crc": Case("xeon", {}, "better", {"proc/cpuinfo": "processor : 0\nflags : fpu sse2 sse4_1"},
                    ("proc/cpuinfo",)),
    "cpu.atomics": Case("altra", {}, "better",
                        {"proc/cpuinfo": "processor : 0\nFeatures : fp crc32 pmull\nCPU implementer : 0x41"},
                        ("proc/cpuinfo",), missing="unknown"),
    "cpu.steal": simple("vm", "proc/stat", "cpu 1000 0 500 90000 10 0 40 0 0 0", "better",
                        "cpu 1000 0 500 90000 10 0 40 9000 0 0"),
    "cpu.throttled": simple("xeon", f"{CPU}/cpu*/thermal_throttle/core_throttle_count", 0, "better", 17),
    "cpu.nmi-watchdog": simple("xeon", f"{SYSCTL}/kernel/nmi_watchdog", 0, "choice", 1),
    "core.smt": Case("xeon", {}, "better", {}, (f"{CPU}/smt/active",), cores="0,32", ok_cores="0,1"),
    "core.isolated": simple("xeon", f"{CPU}/isolated", "0-3", "choice", ""),
    "core.nohz-full": simple("xeon", f"{CPU}/nohz_full", "0-3", "choice", "(null)"),
    "core.cpuset": simple("xeon", "proc/self/status", "Cpus_allowed_list:\t0-63", "choice", "Cpus_allowed_list:\t0-7"),
    "core.quota": Case("vm", {}, "better", {f"{CGROUP}/cpu.max": "150000 100000"},
                       (f"{CGROUP}/cpu.max", "sys/fs/cgroup/system.slice/cpu.max")),
    "core.clusters": Case("kunpeng", {}, "choice", {}, (f"{CPU}/cpu0/topology",), missing="unknown", cores="0-3",
                          ok_cores="0,4,8,12"),
    "mem.limit": Case("vm", {}, "choice", {f"{CGROUP}/memory.max": 1 << 30},
                      (f"{CGROUP}/memory.max", "sys/fs/cgroup/system.slice/memory.max")),
    "mem.thp": simple("xeon", "sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never", "better",
                      "always madvise [never]"),
    "mem.thp-defrag": simple("xeon", "sys/kernel/mm/transparent_hugepage/defrag", "always defer [madvise] never",
                             "better", "[always] defer madvise never"),
    "mem.huge-pages": simple("xeon", "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", 64, "choice", 0),
    "mem.page-size": simple("altra", "proc/self/smaps", "KernelPageSize:       16 kB", "choice",
                            "KernelPageSize:        4 kB"),
    "mem.numa-balancing": simple("xeon", f"{SYSCTL}/kernel/numa_balancing", 0, "better", 1),
    "mem.zone-reclaim": simple("altra", f"{SYSCTL}/vm/zone_reclaim_mode", 0, "better", 1),
    "mem.ksm": simple("xeon", "sys/kernel/mm/ksm/run", 0, "choice", 1),
    "mem.compaction": simple("xeon", f"{SYSCTL}/vm/compaction_proactiveness", 0, "choice", 20),
    "mem.swap": simple("xeon", "proc/swaps", "Filename Type Size Used Priority", "better",
                       "Filename Type Size Used Priority\n/swap file 1048572 0 -2"),
    "limit.memlock": simple("xeon", "proc/self/limits", LIMITS.format(files=1024, memlock="unlimited"), "choice",
                            LIMITS.format(files=1024, memlock=65536)),
    "limit.files": simple("xeon", "proc/self/limits", LIMITS.format(files=65536, memlock=0), "choice",
                          LIMITS.format(files=1024, memlock=0)),
    "numa.ssd": Case("altra", {}, "better", {}, ("sys/class/nvme/nvme0/device/numa_node",), ok_cores="40,41"),
    "numa.nic": Case("xeon", {}, "better", {}, (f"{NET}/device/numa_node",), ok_cores="16,48"),
    "iommu.mode": simple("altra", "sys/kernel/iommu_groups/*/type", "identity", "choice", "DMA"),
    "pci.link": Case("vm", {f"{NET}/device/{most}_link_{what}": value for most in ("current", "max")
                            for what, value in (("speed", "16.0 GT/s PCIe"), ("width", 16))}, "better",
                     {f"{NET}/device/current_link_speed": "16.0 GT/s PCIe", f"{NET}/device/current_link_width": 8,
                      f"{NET}/device/max_link_speed": "16.0 GT/s PCIe", f"{NET}/device/max_link_width": 16},
                     (f"{NET}/device/current_link_speed",)),
    "pci.aspm": simple("xeon", "sys/module/pcie_aspm/parameters/policy", "default [performance] powersave", "choice",
                       "default performance [powersave]"),
    "disk.apst": simple("xeon", "sys/class/nvme/*/power/pm_qos_latency_tolerance_us", 0, "choice", "auto"),
    "disk.scheduler": simple("vm", f"{DISK}/scheduler", "[none] mq-deadline", "better", "none [bfq]"),
    "disk.nomerges": simple("vm", f"{DISK}/nomerges", 2, "choice", 0),
    "disk.rq-affinity": simple("vm", f"{DISK}/rq_affinity", 2, "choice", 1),
    "disk.iostats": simple("vm", f"{DISK}/iostats", 0, "choice", 1),
    "disk.wbt": simple("vm", f"{DISK}/wbt_lat_usec", 0, "choice", 75000),
    "kernel.io-uring": simple("vm", f"{SYSCTL}/kernel/io_uring_disabled", 0, "choice", 2),
    "nic.queues": Case("xeon", lines("ethtool/eth0/channels", combined=1, combined_max=63), "better",
                       lines("ethtool/eth0/channels", combined=8, combined_max=63), ("ethtool/eth0/channels",)),
    "nic.irq-cores": Case("xeon", IRQS, "better", {"proc/irq/121/smp_affinity_list": "40-42"},
                          (f"{NET}/device/msi_irqs",), unreadable=("proc/irq/123/smp_affinity_list",)),
    "nic.irqbalance": simple("xeon", "proc/1/comm", "systemd", "better", "irqbalance", missing="unknown"),
    "nic.rps": Case("xeon", {}, "better", {f"{NET}/queues/rx-3/rps_cpus": "00000000,000000ff"},
                    (f"{NET}/queues/rx-*/rps_cpus",)),
    "nic.rfs": Case("xeon", {FLOWS: 4096, f"{NET}/queues/rx-*/rps_flow_cnt": 512}, "choice", {FLOWS: 4096}, (FLOWS,)),
    "nic.arfs": Case("xeon", {FEATURES: "rx-ntuple-filter on"}, "choice", {FEATURES: "rx-ntuple-filter off"},
                     (FEATURES,)),
    "nic.xps": Case("xeon", {f"{NET}/queues/tx-*/xps_cpus": "00000000,00000001"}, "choice", {},
                    (f"{NET}/queues/tx-*/xps_cpus",)),
    "nic.coalesce": Case("xeon", lines("ethtool/eth0/coalesce", adaptive_rx="off"), "choice",
                         lines("ethtool/eth0/coalesce", adaptive_rx="on"), ("ethtool/eth0/coalesce",)),
    "nic.defer": Case("xeon", {f"{NET}/napi_defer_hard_irqs": 2, f"{NET}/gro_flush_timeout": 200000}, "choice",
                      {f"{NET}/napi_defer_hard_irqs": 2, f"{NET}/gro_flush_timeout": 0},
                      (f"{NET}/napi_defer_hard_irqs",)),
    "nic.ring": simple("xeon", f"{NET}/statistics/rx_missed_errors", 0, "better", 812),
    "nic.offloads": Case("xeon", {FEATURES: "rx-gro on\ntx-tcp-segmentation on"}, "better",
                         {FEATURES: "rx-gro on\ntx-tcp-segmentation off"}, (FEATURES,)),
    "nic.hw-gro": Case("xeon", {FEATURES: "rx-gro-hw on"}, "choice", {FEATURES: "rx-gro-hw off"}, (FEATURES,)),
    "nic.mtu": simple("xeon", f"{NET}/mtu", 9000, "choice", 1500),
    "net.busy-poll": simple("xeon", f"{SYSCTL}/net/core/busy_read", 50, "choice", 0),
    "net.rmem": simple("xeon", f"{SYSCTL}/net/ipv4/tcp_rmem", "4096\t131072\t4194304", "better", "4096\t87380\t212992"),
    "net.wmem": simple("xeon", f"{SYSCTL}/net/ipv4/tcp_wmem", "4096\t16384\t4194304", "better", "4096\t16384\t212992"),
    "net.tcp-mem": simple("xeon", f"{SYSCTL}/net/ipv4/tcp_mem", "3088608\t4118144\t6177216", "better",
                          "268435456\t268435456\t268435456"),
    "net.budget": simple("xeon", SOFTNET, "00100000 00000000 00000003", "better", "00100000 00000000 00010000"),
    "net.backlog": simple("xeon", SOFTNET, "00100000 00000000 00000000", "better", "00100000 00000001 00000000"),
    "net.congestion": simple("xeon", f"{SYSCTL}/net/ipv4/tcp_congestion_control", "dctcp", "choice", "bbr"),
    "net.idle-restart": simple("xeon", f"{SYSCTL}/net/ipv4/tcp_slow_start_after_idle", 0, "better", 1),
}


@pytest.fixture(scope="module", params=MACHINES)
def each(request, tmp_path_factory):
    return Machine(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    made = {}

    def get(name):
        if name not in made:
            made[name] = Machine(tmp_path_factory.mktemp(name), name)
        return made[name]
    return get


def tune(*words):
    done = subprocess.run([binary(), "tune", "--json", *words], capture_output=True, text=True, timeout=LIMIT,
                          check=False)
    assert done.returncode == 0, done.stderr
    findings = json.loads(done.stdout)["findings"]
    for finding in findings:
        assert_origin(finding)
    return findings


def assert_origin(finding):
    """Where its figure comes from; and no figure that comes from nowhere."""
    gain = finding["gain"]
    assert gain["origin"] in ORIGINS, finding
    assert gain["text"], finding
    if gain["origin"] == "unknown":
        assert not any(c.isdigit() for c in gain["text"]), f"a figure from nowhere: {finding}"
    else:
        assert gain["source"], finding
        assert any(c.isdigit() for c in gain["text"]), f"no figure: {finding}"


def states(machine, check, cores):
    return [f["state"] for f in tune("--root", str(machine.root), "-m", cores, check)]


def checks():
    return subprocess.run([binary(), "tune", "--list"], capture_output=True, text=True, check=True,
                          timeout=LIMIT).stdout.split()


# ---- each check

def test_every_check_has_its_case():
    names = checks()
    assert len(names) >= 40
    assert sorted(names) == sorted(CASES)


@pytest.mark.parametrize("check", CASES)
def test_a_check_that_finds_nothing_says_ok(machines, check):
    case = CASES[check]
    with machines(case.machine).changed(case.ok) as machine:
        found = states(machine, check, case.ok_cores or case.cores)
    assert set(found) == {"ok"}


@pytest.mark.parametrize("check", CASES)
def test_a_check_finds_what_could_be_better(machines, check):
    case = CASES[check]
    with machines(case.machine).changed(case.found) as machine:
        found = [f for f in tune("--root", str(machine.root), "-m", case.cores, check) if f["state"] == case.state]
    assert found
    for finding in found:
        assert finding["wanted"] and finding["why"]
        assert finding["commands"], "how it is changed"
        assert bool(finding["changes"]) == finding["reversible"]


@pytest.mark.parametrize("check", CASES)
def test_what_is_not_there_is_not_ok(machines, check):
    case = CASES[check]
    with machines(case.machine).changed({**case.ok, **dict.fromkeys(case.reads)}) as machine:
        found = states(machine, check, case.ok_cores or case.cores)
    assert case.missing in found
    assert "ok" not in found or check in ("pci.link", "numa.ssd")  # others of the kind


@pytest.mark.parametrize("check", CASES)
def test_what_cannot_be_read_is_not_ok(machines, check):
    case = CASES[check]
    unreadable = dict.fromkeys(case.unreadable or case.reads, UNREADABLE)
    with machines(case.machine).changed({**case.ok, **unreadable}) as machine:
        found = states(machine, check, case.ok_cores or case.cores)
    assert set(found) == {"unknown"}


AN_ANSWER = ("core.isolated", "core.nohz-full")  # where there is nothing in them there is no such core
ANY_NAME = ("nic.irqbalance",)


def with_content(machines, check, content):
    """What a check says where that is in the files that it reads."""
    case = CASES[check]
    machine = machines(case.machine)
    paths = [path for path in case.unreadable or case.reads
             if not all(each.is_dir() for each in machine.root.glob(path))]
    with machine.changed({**case.ok, **dict.fromkeys(paths, content)}):
        return set(states(machine, check, case.ok_cores or case.cores)) if paths else set()


@pytest.mark.parametrize("check", [check for check in CASES if check not in AN_ANSWER])
def test_what_is_empty_is_unknown(machines, check):
    assert with_content(machines, check, "") <= {"unknown"}


@pytest.mark.parametrize("check", [check for check in CASES if check not in ANY_NAME])
def test_what_makes_no_sense_is_not_ok(machines, check):
    found = with_content(machines, check, "~ 99999999999999999999999999 [")
    assert "ok" not in found or check == "pci.link"  # others of the kind


# ---- findings of whole machines

def test_every_finding_says_where_its_figure_comes_from(each):
    findings = tune("--root", str(each.root), "-m", "0,1")
    assert {f["check"] for f in findings} == set(checks())
    for finding in findings:
        assert_origin(finding)


def test_findings_have_the_same_members_everywhere(each):
    members = {"check": str, "title": str, "subject": str, "state": str, "found": str, "wanted": str, "why": str,
               "cost": str, "gain": dict, "reversible": bool, "careful": bool, "changes": list, "commands": list}
    for finding in tune("--root", str(each.root)):
        assert {key: type(value) for key, value in finding.items()} == members
        assert finding["found"]
        assert finding["state"] in ("ok", "better", "choice", "absent", "unknown")
        for change in finding["changes"]:
            assert set(change) == {"setting", "value"}


def test_looking_writes_nothing(each):
    before = each.content()
    tune("--root", str(each.root))
    subprocess.run([binary(), "tune", "--root", each.root], capture_output=True, check=True, timeout=LIMIT)
    subprocess.run([binary(), "tune", "--root", each.root, "--apply", "--dry-run"], capture_output=True, check=True,
                   timeout=LIMIT)
    assert each.content() == before


def test_without_reactors_what_depends_on_them_is_unknown(each):
    found = {f["check"]: f["state"] for f in tune("--root", str(each.root), "nic", "core.isolated")}
    assert found["nic.irq-cores"] == found["nic.queues"] == found["core.isolated"] == "unknown"


def test_reactors_are_found_by_threads_that_are_held_to_a_core(machines):
    machine = machines("xeon")
    status = "Name:\tx\nCpus_allowed_list:\t"
    with machine.changed({"proc/77/comm": "pollux", "proc/77/task/77/status": f"{status}5",
                          "proc/77/task/78/status": f"{status}7", "proc/77/task/79/status": f"{status}0-63",
                          "proc/77/task/80/status": "Name:\tpollux-control\nCpus_allowed_list:\t11",
                          "proc/78/comm": "other", "proc/78/task/78/status": f"{status}9"}):
        isolated, = tune("--root", str(machine.root), "core.isolated")
    assert "5,7" in isolated["found"]


# ---- what is said in detail

def one(machine, check, *words):
    finding, = tune("--root", str(machine.root), *words, check)
    return finding


def test_clusters_are_those_of_cores_that_share_a_cache(machines):
    finding = one(machines("kunpeng"), "core.clusters", "-m", "32-35")
    assert "one of 8 groups of 4 cores" in finding["found"]
    assert "--cores 32,36,40,44 " in finding["commands"][0]
    finding = one(machines("altra"), "core.clusters", "-m", "0-2")
    assert "one of 10 groups of 2 cores" in finding["found"]
    assert "--cores 0,2,4 " in finding["commands"][0]
    assert one(machines("xeon"), "core.clusters", "-m", "0-2")["state"] == "absent"


def test_interrupts_go_to_the_reactors_in_turn(machines):
    finding = one(machines("xeon"), "nic.irq-cores", "-m", "16,17")
    assert [c["value"] for c in finding["changes"]] == ["16", "17"] * 4
    assert finding["changes"][0]["setting"] == "/proc/irq/120/smp_affinity_list"


def test_interrupts_of_what_manages_a_nic_are_left_alone(machines):
    machine = machines("xeon")
    with machine.changed({"proc/irq/120/eth0-TxRx-0": None, "proc/irq/120/mlx5_async0/.keep": ""}):
        finding = one(machine, "nic.irq-cores", "-m", "16")
    assert len(finding["changes"]) == 7


def test_where_an_interrupt_comes_counts_before_where_it_may_come(machines):
    machine = machines("xeon")
    effective = {f"proc/irq/{irq}/effective_affinity_list": 16 for irq in range(120, 128)}
    with machine.changed({**effective, "proc/irq/*/smp_affinity_list": "0-63"}):
        assert one(machine, "nic.irq-cores", "-m", "16")["state"] == "ok"


def test_a_nic_has_no_more_queues_than_it_can(machines):
    finding = one(machines("xeon"), "nic.queues", "-m", "0-31,32-63")
    assert finding["changes"] == [{"setting": "ethtool:eth0/channels/combined", "value": "63"}]
    assert finding["commands"] == ["ethtool -L eth0 combined 63"]


def test_a_mask_of_a_high_cpu_has_its_words(machines):
    finding = one(machines("xeon"), "nic.xps", "-m", "40")
    assert finding["changes"][0]["value"] == "100,00000000"
    assert int(mask([40], 64).replace(",", ""), 16) == int(finding["changes"][0]["value"].replace(",", ""), 16)


def test_a_limit_of_a_group_above_counts(machines):
    machine = machines("vm")
    with machine.changed({"sys/fs/cgroup/system.slice/cpu.max": "50000 100000"}):
        assert "50000 us of each 100000 us" in one(machine, "core.quota")["found"]


def test_a_reactor_outside_of_the_cpuset_is_found(machines):
    machine = machines("xeon")
    with machine.changed({"proc/self/status": "Cpus_allowed_list:\t0-7"}):
        assert "core 9 is not" in one(machine, "core.cpuset", "-m", "1,9")["wanted"]


def test_what_preemption_is_by_debugfs(machines):
    machine = machines("vm")
    assert one(machine, "cpu.preemption")["state"] == "unknown"
    with machine.changed({"sys/kernel/debug/sched/preempt": "none (voluntary) full"}):
        assert one(machine, "cpu.preemption")["state"] == "ok"
    with machine.changed({"sys/kernel/debug/sched/preempt": "none voluntary (full)"}):
        assert one(machine, "cpu.preemption")["found"] == "full"


def test_a_link_says_what_part_of_its_bandwidth_it_has(machines):
    machine = machines("xeon")
    with machine.changed({"sys/class/nvme/nvme0/device/current_link_width": 1}):
        slow, = [f for f in tune("--root", str(machine.root), "pci.link") if f["state"] == "better"]
    assert slow["subject"] == "nvme0" and slow["gain"]["origin"] == "measured"
    assert slow["gain"]["text"].startswith("25 %")


def test_idle_states_say_how_long_the_deepest_takes(machines):
    finding = one(machines("xeon"), "cpu.idle-states")
    assert "290 us" in finding["gain"]["text"] and "C6" in finding["found"] and "C1E" not in finding["found"]
    assert len(finding["changes"]) == 64


def test_a_cpu_without_crc_names_what_it_lacks(machines):
    machine = machines("xeon")
    with machine.changed({"proc/cpuinfo": f"flags : {X86_FLAGS.replace('pclmulqdq ', '')}"}):
        assert one(machine, "cpu.crc")["found"] == "no pclmulqdq"


def test_more_of_something_than_is_looked_at_is_not_ok(machines):
    machine = machines("altra")
    with machine.changed({f"sys/kernel/iommu_groups/{i}/type": "identity" for i in range(1100)}):
        finding = one(machine, "iommu.mode")
    assert finding["state"] == "unknown" and "too long" in finding["found"]


@pytest.mark.parametrize("name, check, cores", [
    ("xeon", "core.smt", "0,900"), ("kunpeng", "core.clusters", "0,900"), ("altra", "numa.ssd", "900"),
    ("xeon", "numa.nic", "16,900")])
def test_of_reactors_on_cores_that_are_not_there_nothing_is_known(machines, name, check, cores):
    for finding in tune("--root", str(machines(name).root), "-m", cores, check):
        assert finding["state"] == "unknown" and "core 900, where a reactor is" in finding["found"]


def test_cores_that_are_offline_are_not_missing_in_a_cpuset(machines):
    """A machine that more may be plugged into allows them all from the first."""
    machine = machines("xeon")
    with machine.changed({"proc/self/status": "Cpus_allowed_list:\t0-239"}):
        assert one(machine, "core.cpuset", "-m", "1")["state"] == "ok"
        assert "core 200 is not" in one(machine, "core.cpuset", "-m", "1,200")["wanted"]


def test_groups_of_different_sizes_are_filled_in_turn(machines):
    finding = one(machines("biglittle"), "core.clusters", "-m", "1-5")
    assert "--cores 0-4 " in finding["commands"][0], "as many as reactors"


def changes(machine, check):
    return {c["setting"].rpartition("/")[2]: c["value"] for c in one(machine, check)["changes"]}


def test_each_ssd_is_kept_awake_by_a_setting_of_its_own(machines):
    """The module's parameter is for those that come later."""
    machine = machines("xeon")
    with machine.changed({"sys/class/nvme/nvme0/power/pm_qos_latency_tolerance_us": 0}):
        finding = one(machine, "disk.apst")
    assert finding["changes"] == [{"setting": "/sys/class/nvme/nvme1/power/pm_qos_latency_tolerance_us", "value": "0"}]


def test_a_command_is_safe_to_paste_whatever_a_nic_is_called(machines):
    machine = machines("vm")
    with machine.changed({"sys/class/net/a;b/type": 1, "sys/class/net/a;b/device/vendor": "0x1",
                          "sys/class/net/a;b/mtu": 1500, "ethtool/a;b/coalesce": "adaptive-rx on"}):
        commands = [c for f in tune("--root", str(machine.root), "nic.mtu", "nic.coalesce") for c in f["commands"]]
    assert "echo 9000 > '/sys/class/net/a;b/mtu'" in commands
    assert "ethtool -C 'a;b' adaptive-rx off" in commands and "ethtool -C eth0 adaptive-rx off" in commands


def test_what_is_more_than_advised_is_not_made_less(machines):
    """What was counted may have been before it was made more."""
    machine = machines("xeon")
    core = f"{SYSCTL}/net/core"
    with machine.changed({SOFTNET: "00100000 00000001 00010000", f"{core}/netdev_budget": 3000,
                          f"{core}/netdev_max_backlog": 250000}):
        assert changes(machine, "net.budget") == {"netdev_budget_usecs": "8000"}
        assert one(machine, "net.backlog")["state"] == "ok"
        with machine.changed({f"{core}/netdev_budget_usecs": 8000}):
            assert one(machine, "net.budget")["state"] == "ok"


def test_what_is_advised_of_clocks_is_what_can_be_trusted(machines):
    machine = machines("vm")
    wrong = {f"{CLOCK}/current_clocksource": "acpi_pm", f"{CLOCK}/available_clocksource": "tsc kvm-clock acpi_pm"}
    with machine.changed(wrong):
        assert changes(machine, "cpu.clocksource") == {"current_clocksource": "kvm-clock"}
    wrong[f"{CLOCK}/available_clocksource"] = "tsc acpi_pm"
    with machine.changed(wrong):
        assert changes(machine, "cpu.clocksource") == {"current_clocksource": "tsc"}
        with machine.changed({"proc/cpuinfo": "flags : constant_tsc hypervisor"}):
            finding = one(machine, "cpu.clocksource")
    assert (finding["state"], finding["changes"]) == ("better", []) and finding["commands"]


@pytest.mark.parametrize("name, queues, flows", [("vm", 1, 32768), ("xeon", 8, 4096), ("altra", 63, 512)])
def test_flows_are_told_to_all_and_to_each_queue(machines, name, queues, flows):
    """One without the other does nothing."""
    machine = machines(name)
    made = one(machine, "nic.rfs")["changes"]
    assert made[0] == {"setting": f"/{FLOWS}", "value": "32768"}
    assert made[1:] == [{"setting": f"/{NET}/queues/rx-{i}/rps_flow_cnt", "value": str(flows)} for i in range(queues)]
    with machine.changed({f"{NET}/queues/rx-*/rps_flow_cnt": 64}):
        assert changes(machine, "nic.rfs") == {"rps_sock_flow_entries": "32768"}


def test_a_queue_that_has_its_core_already_is_not_written_to(machines):
    machine = machines("xeon")
    with machine.changed({f"{NET}/queues/tx-2/xps_cpus": "00000000,00010000"}):
        settings = [c["setting"] for c in one(machine, "nic.xps", "-m", "16")["changes"]]
    assert len(settings) == 7 and f"/{NET}/queues/tx-2/xps_cpus" not in settings


@pytest.mark.parametrize("check, unreadable", [
    ("nic.mtu", f"{NET}/type"), ("disk.iostats", "sys/block/vda/queue/rotational"), ("pci.link", "sys/class/nvme"),
    ("nic.irq-cores", "proc/irq/27"), ("mem.page-size", "proc/cpuinfo")])
def test_whether_it_is_there_is_unknown_where_that_cannot_be_read(machines, check, unreadable):
    machine = machines("vm")
    (machine.root / "sys/class/nvme").mkdir(exist_ok=True)
    # A folder in place of a file; and in place of a folder, one that has a name in it that is too long.
    content = {unreadable: UNREADABLE}
    if (machine.root / unreadable).is_dir():
        content = {f"{unreadable}/nvme{'x' * 100}": ""}
    with machine.changed(content):
        assert "unknown" in states(machine, check, "0")


def test_what_is_no_file_keeps_nobody_waiting(machines):
    machine = machines("vm")
    with machine.changed({f"{SYSCTL}/kernel/io_uring_disabled": None}):
        os.mkfifo(machine.root / SYSCTL / "kernel/io_uring_disabled")
        assert one(machine, "kernel.io-uring")["state"] == "unknown"
        (machine.root / SYSCTL / "kernel/io_uring_disabled").unlink()


@pytest.mark.parametrize("available, pages", [(64 << 20, 512), (710000, 86), (8192, 1)])
def test_huge_pages_are_a_part_of_what_is_available(machines, available, pages):
    """A machine of 1 GiB that was asked for 512 of them had no memory left to take them back with."""
    machine = machines("vm")
    with machine.changed({"proc/meminfo": f"MemTotal: 134217728 kB\nMemAvailable: {available} kB"}):
        finding = one(machine, "mem.huge-pages")
    assert [c["value"] for c in finding["changes"]] == [str(pages)]


def test_where_no_memory_can_be_spared_no_huge_page_is_advised(machines):
    machine = machines("vm")
    with machine.changed({"proc/meminfo": "MemTotal: 65536 kB\nMemAvailable: 8191 kB"}):
        assert one(machine, "mem.huge-pages")["state"] == "ok"
    with machine.changed({"proc/meminfo": "MemTotal: 65536 kB"}):
        assert one(machine, "mem.huge-pages")["state"] == "unknown"


def test_pages_of_no_size_leave_it_unknown(machines):
    machine = machines("xeon")
    with machine.changed({"proc/self/smaps": "KernelPageSize:        0 kB"}):
        assert one(machine, "net.tcp-mem")["state"] == "unknown"


@pytest.mark.parametrize("check, said", [("nic.mtu", "there is no NIC here"), ("disk.iostats", "there is no SSD here")])
def test_what_there_is_none_of_is_said(machines, check, said):
    machine = machines("vm")
    with machine.changed({"sys/class/net/eth0": None, "sys/block/vda": None}):
        finding = one(machine, check)
    assert (finding["state"], finding["found"]) == ("absent", said)


def test_words_that_are_no_utf8_are_shown_as_something(machines):
    machine = machines("xeon")
    (machine.root / "sys/kernel/mm/ksm/run").write_bytes(b"\xff\x1b[31m\n")
    try:
        assert "?" in one(machine, "mem.ksm")["found"]
    finally:
        machine.write("sys/kernel/mm/ksm/run", 0)
