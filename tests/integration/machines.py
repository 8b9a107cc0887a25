# SPDX-License-Identifier: BSD-3-Clause
"""Machines for `pollux tune --root`: the files that five of them have, written from what is publicly known of each.

xeon       2 sockets of 16 cores of 2 threads; a NIC and an SSD on each node
altra      80 cores of Armv8.2 (Neoverse N1) in four NUMA quadrants, 2 cores share a DSU
kunpeng    64 cores of Armv8.2 in two nodes, 4 cores share an L3 tag: a cluster
biglittle  2 large cores and 4 small ones of Arm, each kind with an L2 of its own, as single-board computers have
vm         2 CPUs of a small cloud instance, a NIC and a disk by virtio
"""
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

CPU = "sys/devices/system/cpu"
NET = "sys/class/net/eth0"
CLOCK = "sys/devices/system/clocksource/clocksource0"
X86_FLAGS = "fpu sse2 ssse3 sse4_1 sse4_2 popcnt avx avx2 pclmulqdq constant_tsc nonstop_tsc"
ARM_FEATURES = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm"
UNREADABLE = object()  # what opens, and cannot be read


def listed(cpus):
    """0-3,8"""
    out, cpus = [], sorted(cpus)
    while cpus:
        n = 1
        while n < len(cpus) and cpus[n] == cpus[0] + n:
            n += 1
        out.append(f"{cpus[0]}-{cpus[n - 1]}" if n > 1 else str(cpus[0]))
        cpus = cpus[n:]
    return ",".join(out)


def mask(cpus, total):
    """As the kernel writes it: words of 32, the highest first."""
    bits = sum(1 << cpu for cpu in cpus)
    words = [(bits >> 32 * i) & 0xffffffff for i in range((total + 31) // 32)]
    return ",".join(f"{word:08x}" for word in reversed(words))


def group(cpus, key):
    """{number: those of its group}"""
    groups = {}
    for cpu in cpus:
        groups.setdefault(key(cpu), []).append(cpu)
    return {cpu: groups[key(cpu)] for cpu in cpus}


def add_cpus(files, total, *, package, node, core, cluster=None, caches):
    """Each of package, node, core and cluster gives a CPU's number; caches: (level, type, KiB, line, key)"""
    cpus = list(range(total))
    everything = listed(cpus)
    files |= {f"{CPU}/{name}": everything for name in ("online", "possible", "present")}
    files["sys/devices/system/node/online"] = listed({node(cpu) for cpu in cpus})
    packages, cores, nodes = group(cpus, package), group(cpus, core), group(cpus, node)
    clusters = group(cpus, cluster) if cluster else None
    shared = [group(cpus, cache[4]) for cache in caches]
    for cpu in cpus:
        topology = f"{CPU}/cpu{cpu}/topology"
        files |= {f"{topology}/physical_package_id": package(cpu), f"{topology}/core_id": core(cpu),
                  f"{topology}/package_cpus": mask(packages[cpu], total),
                  f"{topology}/package_cpus_list": listed(packages[cpu]),
                  f"{topology}/core_cpus": mask(cores[cpu], total), f"{topology}/core_cpus_list": listed(cores[cpu])}
        if clusters:
            files |= {f"{topology}/cluster_id": cluster(cpu), f"{topology}/cluster_cpus": mask(clusters[cpu], total),
                      f"{topology}/cluster_cpus_list": listed(clusters[cpu])}
        for i, (level, kind, size, line, _) in enumerate(caches):
            index = f"{CPU}/cpu{cpu}/cache/index{i}"
            files |= {f"{index}/level": level, f"{index}/type": kind, f"{index}/size": f"{size}K",
                      f"{index}/coherency_line_size": line, f"{index}/shared_cpu_map": mask(shared[i][cpu], total),
                      f"{index}/shared_cpu_list": listed(shared[i][cpu])}
    for number in {node(cpu) for cpu in cpus}:
        own = [cpu for cpu in cpus if node(cpu) == number]
        files |= {f"sys/devices/system/node/node{number}/cpumap": mask(own, total),
                  f"sys/devices/system/node/node{number}/cpulist": listed(own),
                  f"sys/devices/system/node/node{number}/meminfo": f"Node {number} MemTotal: 134217728 kB"}


def add_kernel(files, total, *, arm, virtual, version, page=4, gigabytes=256):
    """What every Linux has."""
    flags = X86_FLAGS + (" hypervisor" if virtual else "")
    one = (f"processor\t: %d\nBogoMIPS\t: 50.00\nFeatures\t: {ARM_FEATURES}\nCPU implementer\t: 0x41\n" if arm else
           f"processor\t: %d\nvendor_id\t: GenuineIntel\nflags\t\t: {flags}\n")
    files |= {
        "proc/cpuinfo": "\n".join(one % cpu for cpu in range(total)),
        "proc/version": version,
        "proc/stat": "cpu  1000 0 500 90000 10 0 40 0 0 0\nctxt 1",
        "proc/swaps": "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority",
        "proc/meminfo": f"MemTotal:       {gigabytes << 20} kB\nMemFree:        1048576 kB\n"
                        f"MemAvailable:   {gigabytes << 19} kB",
        "proc/sys/kernel/random/boot_id": "3c0c2a62-6a1c-4d53-8a3e-2f6d3b6f1a01",
        "proc/sys/kernel/nmi_watchdog": 1,
        "proc/sys/kernel/numa_balancing": 1,
        "proc/sys/kernel/io_uring_disabled": 0,
        "proc/sys/vm/zone_reclaim_mode": 0,
        "proc/sys/vm/compaction_proactiveness": 20,
        "proc/sys/vm/swappiness": 60,
        "proc/sys/net/core/rps_sock_flow_entries": 0,
        "proc/sys/net/core/busy_read": 0,
        "proc/sys/net/core/netdev_budget": 300,
        "proc/sys/net/core/netdev_budget_usecs": 2000,
        "proc/sys/net/core/netdev_max_backlog": 1000,
        "proc/sys/net/ipv4/tcp_rmem": "4096\t131072\t6291456",
        "proc/sys/net/ipv4/tcp_wmem": "4096\t16384\t4194304",
        "proc/sys/net/ipv4/tcp_mem": "3088608\t4118144\t6177216",
        "proc/sys/net/ipv4/tcp_congestion_control": "cubic",
        "proc/sys/net/ipv4/tcp_slow_start_after_idle": 1,
        "proc/net/softnet_stat": "\n".join(["00100000 00000000 00000000 0 0 0 0 0 0 0 0"] * total),
        "proc/1/comm": "systemd",
        "proc/self/status": f"Name:\tpollux\nCpus_allowed_list:\t0-{total - 1}",
        "proc/self/cgroup": "0::/system.slice/pollux.service",
        "proc/self/smaps": f"55d0-55d1 r-xp 0 0:1 1 /usr/bin/pollux\nSize: 4 kB\nKernelPageSize:        {page} kB",
        "proc/self/limits": "Limit                     Soft Limit           Hard Limit           Units\n"
                            "Max open files            1024                 524288               files\n"
                            "Max locked memory         8388608              8388608              bytes",
        "sys/fs/cgroup/system.slice/pollux.service/cpu.max": "max 100000",
        "sys/fs/cgroup/system.slice/pollux.service/memory.max": "max",
        "sys/fs/cgroup/system.slice/cpu.max": "max 100000",
        "sys/fs/cgroup/system.slice/memory.max": "max",
        f"{CPU}/isolated": "",
        f"{CPU}/nohz_full": "",
        f"{CPU}/vulnerabilities/meltdown": "Mitigation: PTI" if not arm else "Not affected",
        f"{CPU}/vulnerabilities/spectre_v2": "Mitigation: CSV2, BHB" if arm else "Mitigation: Retpolines",
        f"{CPU}/vulnerabilities/mds": "Not affected",
        f"{CPU}/cpuidle/current_governor": "menu",
        f"{CLOCK}/current_clocksource": "arch_sys_counter" if arm else "tsc",
        f"{CLOCK}/available_clocksource": "arch_sys_counter" if arm else "tsc hpet acpi_pm",
        "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never",
        "sys/kernel/mm/transparent_hugepage/defrag": "always defer defer+madvise [madvise] never",
        "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages": 0,
        "sys/kernel/mm/ksm/run": 0,
    }


def add_frequency(files, total, *, driver, preference=None):
    for cpu in range(total):
        policy = f"{CPU}/cpufreq/policy{cpu}"
        files |= {f"{policy}/scaling_governor": "schedutil", f"{policy}/scaling_driver": driver}
        if preference:
            files[f"{policy}/energy_performance_preference"] = preference


def add_idle(files, total, states):
    for cpu in range(total):
        for i, (name, latency) in enumerate(states):
            state = f"{CPU}/cpu{cpu}/cpuidle/state{i}"
            files |= {f"{state}/name": name, f"{state}/latency": latency, f"{state}/disable": 0}


def add_nic(files, *, queues, irqs, node=None, local=None, total=64, link=("16.0 GT/s PCIe", 16), max_queues=63,
            most="16.0 GT/s PCIe"):
    device = f"{NET}/device"
    files |= {f"{NET}/type": 1, f"{NET}/mtu": 1500, f"{NET}/napi_defer_hard_irqs": 0, f"{NET}/gro_flush_timeout": 0,
              f"{NET}/statistics/rx_missed_errors": 0, f"{device}/vendor": "0x15b3",
              "sys/class/net/lo/type": 772, "sys/class/net/lo/mtu": 65536,
              "ethtool/eth0/channels": f"combined {queues}\ncombined-max {max_queues}\nrx 0\nrx-max 0",
              "ethtool/eth0/rings": "rx 1024\nrx-max 8192\ntx 1024\ntx-max 8192",
              "ethtool/eth0/coalesce": "rx-usecs 8\nadaptive-rx on",
              "ethtool/eth0/features": "rx-gro on\ntx-tcp-segmentation on\ntx-scatter-gather on\nrx-checksum on\n"
                                       "rx-gro-hw off\nrx-ntuple-filter off"}
    for queue in range(queues):
        files |= {f"{NET}/queues/rx-{queue}/rps_cpus": mask([], total), f"{NET}/queues/rx-{queue}/rps_flow_cnt": 0,
                  f"{NET}/queues/tx-{queue}/xps_cpus": mask([], total)}
    for i, irq in enumerate(irqs):
        files |= {f"{device}/msi_irqs/{irq}": "msix", f"proc/irq/{irq}/smp_affinity_list": i % total,
                  f"proc/irq/{irq}/eth0-TxRx-{i}/.keep": ""}
    if node is not None:
        files |= {f"{device}/numa_node": node, f"{device}/local_cpulist": local}
    if link:
        files |= {f"{device}/current_link_speed": link[0], f"{device}/current_link_width": link[1],
                  f"{device}/max_link_speed": most, f"{device}/max_link_width": 16}


def add_disk(files, name):
    queue = f"sys/block/{name}/queue"
    files |= {f"sys/block/{name}/device/model": "SSD", f"{queue}/rotational": 0,
              f"{queue}/scheduler": "[mq-deadline] kyber none", f"{queue}/nomerges": 0, f"{queue}/rq_affinity": 1,
              f"{queue}/iostats": 1, f"{queue}/wbt_lat_usec": 2000,
              "sys/block/loop0/queue/rotational": 0, "sys/block/loop0/queue/scheduler": "[none]"}


def add_ssd(files, name, node, local):
    device = f"sys/class/nvme/{name}/device"
    files |= {f"{device}/numa_node": node, f"{device}/local_cpulist": local,
              f"{device}/current_link_speed": "8.0 GT/s PCIe", f"{device}/current_link_width": 4,
              f"{device}/max_link_speed": "8.0 GT/s PCIe", f"{device}/max_link_width": 4,
              f"sys/class/nvme/{name}/power/pm_qos_latency_tolerance_us": 100000}
    add_disk(files, f"{name}n1")


def add_server(files, groups=4):
    """What a VM has none of."""
    files |= {f"sys/kernel/iommu_groups/{i}/type": "DMA-FQ" for i in range(groups)}
    files["sys/module/pcie_aspm/parameters/policy"] = "[default] performance powersave powersupersave"


def xeon():
    files, total = {}, 64

    def core(cpu):
        return cpu % 32

    def package(cpu):
        return core(cpu) // 16

    add_cpus(files, total, package=package, node=package, core=core,
             caches=[(1, "Data", 48, 64, core), (1, "Instruction", 32, 64, core), (2, "Unified", 2048, 64, core),
                     (3, "Unified", 30720, 64, package)])
    add_kernel(files, total, arm=False, virtual=False, version="Linux version 6.1.0 #1 SMP Debian")
    add_frequency(files, total, driver="intel_cpufreq", preference="balance_performance")
    add_idle(files, total, [("POLL", 0), ("C1", 1), ("C1E", 2), ("C6", 290)])
    files |= {f"{CPU}/intel_pstate/no_turbo": 0, f"{CPU}/smt/active": 1}
    files |= {f"{CPU}/cpu{cpu}/thermal_throttle/core_throttle_count": 0 for cpu in range(total)}
    second = listed([*range(16, 32), *range(48, 64)])
    add_nic(files, queues=8, irqs=range(120, 128), node=1, local=second)
    add_ssd(files, "nvme0", 0, listed([*range(16), *range(32, 48)]))
    add_ssd(files, "nvme1", 1, second)
    add_server(files)
    return files


def altra():
    files, total = {f"{CPU}/smt/active": 0}, 80

    def one(cpu):
        return cpu

    add_cpus(files, total, package=lambda cpu: 0, node=lambda cpu: cpu // 20, core=one, cluster=lambda cpu: cpu // 2,
             caches=[(1, "Data", 64, 64, one), (1, "Instruction", 64, 64, one), (2, "Unified", 1024, 64, one)])
    add_kernel(files, total, arm=True, virtual=False, version="Linux version 6.6.0 #1 SMP PREEMPT")
    add_frequency(files, total, driver="cppc_cpufreq")
    add_idle(files, total, [("LPI-0", 0), ("LPI-1", 38)])
    add_nic(files, queues=63, irqs=range(200, 263), node=0, local="0-19", total=80)
    add_ssd(files, "nvme0", 2, "40-59")
    add_server(files)
    return files


def kunpeng():
    files, total = {f"{CPU}/smt/active": 0}, 64

    def one(cpu):
        return cpu

    add_cpus(files, total, package=lambda cpu: 0, node=lambda cpu: cpu // 32, core=one, cluster=lambda cpu: cpu // 4,
             caches=[(1, "Data", 64, 64, one), (1, "Instruction", 64, 64, one), (2, "Unified", 512, 64, one),
                     (3, "Unified", 32768, 128, lambda cpu: cpu // 32)])
    add_kernel(files, total, arm=True, virtual=False, version="Linux version 5.10.0 #1 SMP")
    add_frequency(files, total, driver="cppc_cpufreq")
    add_nic(files, queues=16, irqs=range(300, 316), node=1, local="32-63")
    add_ssd(files, "nvme0", 0, "0-31")
    add_server(files)
    return files


def biglittle():
    files, total = {f"{CPU}/smt/active": 0}, 6

    def one(cpu):
        return cpu

    def kind(cpu):
        return int(cpu >= 2)

    add_cpus(files, total, package=lambda cpu: 0, node=lambda cpu: 0, core=one,
             caches=[(1, "Data", 32, 64, one), (1, "Instruction", 32, 64, one), (2, "Unified", 512, 64, kind)])
    add_kernel(files, total, arm=True, virtual=False, version="Linux version 6.1.0 #1 SMP PREEMPT", gigabytes=4)
    files["proc/sys/net/ipv4/tcp_mem"] = "46128\t61504\t92256"
    add_frequency(files, total, driver="cpufreq-dt")
    add_nic(files, queues=1, irqs=[40], total=total, link=None, max_queues=1)
    add_disk(files, "nvme0n1")
    return files


def vm():
    files, total = {}, 2
    add_cpus(files, total, package=lambda cpu: 0, node=lambda cpu: 0, core=lambda cpu: 0,
             caches=[(1, "Data", 32, 64, lambda cpu: 0), (2, "Unified", 1024, 64, lambda cpu: 0)])
    add_kernel(files, total, arm=False, virtual=True, version="Linux version 6.8.0 #1 SMP PREEMPT_DYNAMIC", gigabytes=4)
    files["proc/sys/net/ipv4/tcp_mem"] = "46128\t61504\t92256"
    files[f"{CPU}/smt/active"] = 1
    add_nic(files, queues=1, irqs=[27], total=2, link=None, max_queues=1)
    add_disk(files, "vda")
    return files


MACHINES = {"xeon": xeon, "altra": altra, "kunpeng": kunpeng, "biglittle": biglittle, "vm": vm}


class Machine:
    """The files of one below a folder of their own."""

    def __init__(self, root, name):
        self.root, self.name, self.stashed = Path(root), name, 0
        made = set()
        for path, value in MACHINES[name]().items():
            file = self.root / path
            if file.parent not in made:
                file.parent.mkdir(parents=True, exist_ok=True)
                made.add(file.parent)
            file.write_text(f"{value}\n", encoding="utf-8")

    def read(self, path):
        return (self.root / path).read_text(encoding="utf-8").strip()

    def write(self, path, value):
        (self.root / path).write_text(f"{value}\n", encoding="utf-8")

    def content(self):
        """{path: bytes} of every file."""
        return {os.path.relpath(os.path.join(folder, name), self.root): Path(folder, name).read_bytes()
                for folder, _, names in os.walk(self.root) for name in names}

    @contextmanager
    def changed(self, changes):
        """{path or pattern: a text, None for what is not there, or UNREADABLE}, until the end of the block."""
        undo = []
        try:
            for pattern, value in changes.items():
                paths = sorted(self.root.glob(pattern)) if "*" in pattern else [self.root / pattern]
                assert paths, f"{self.name} has no {pattern}"
                for path in paths:
                    undo.append((path, self._stash(path)))
                    if value is UNREADABLE:
                        path.mkdir()
                    elif value is not None:
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_text(f"{value}\n", encoding="utf-8")
            yield self
        finally:
            for path, stash in reversed(undo):
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.exists():
                    path.unlink()
                if stash:
                    stash.rename(path)

    def _stash(self, path):
        if not path.exists():
            return None
        self.stashed += 1
        stash = self.root.with_name(f"{self.root.name}-stash") / str(self.stashed)
        stash.parent.mkdir(exist_ok=True)
        path.rename(stash)
        return stash
