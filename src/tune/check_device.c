/* SPDX-License-Identifier: BSD-3-Clause */
/* SSDs, NICs as devices, the buses between. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "tune/check.h"

/* Where a device is, against where reactors are. "-1": the firmware does not say. */
static void look_device_node(struct tune_look *l, const char *subject, const char *device)
{
    const struct tune_topology *t = tune_topology(l->m);
    char path[200];
    int64_t node;
    bool near = false, far = false;
    snprintf(path, sizeof path, "%s/numa_node", device);
    int ret = tune_number(l->m, &node, "%s", path);
    if (ret) {
        look_lack(l, subject, ret, path);
        return;
    }
    if (node < 0) {
        look_add(l, TUNE_UNKNOWN, subject, "the firmware does not say on which node it is");
        return;
    }
    if (t->problem[0]) {
        look_add(l, TUNE_UNKNOWN, subject, "the topology: %s", t->problem);
        return;
    }
    if (!look_reactors_there(l, t, subject))
        return;
    for (int i = 0; i < l->m->nreactors; i++) {
        const struct tune_cpu *cpu = &t->cpus[l->m->reactors[i]];
        near |= cpu->node == node;
        far |= cpu->node != node;
    }
    if (!far) {
        look_add(l, TUNE_OK, subject, "on node %lld, as all reactors", (long long)node);
        return;
    }
    char cores[256] = "";
    tune_read(l->m, cores, sizeof cores, "%s/local_cpulist", device);
    json_t *f = look_add(l, TUNE_BETTER, subject, "on node %lld; %s of the reactors are not", (long long)node,
                         near ? "some" : "all");
    look_want(f, "reactors on that node");
    look_command(f, "pollux serve --cores, some of %s", cores[0] ? cores : "that node's");
}

static bool one_node(struct tune_look *l)
{
    struct tune_names nodes;
    int ret = tune_names(l->m, "node", &nodes, "/sys/devices/system/node");
    if (ret)
        look_lack(l, "", ret, "/sys/devices/system/node");
    else if (nodes.n < 2)
        look_add(l, TUNE_ABSENT, "", "there is one NUMA node");
    return ret || nodes.n < 2;
}

static void look_ssd_node(struct tune_look *l)
{
    struct tune_names names;
    char device[120];
    if (one_node(l))
        return;
    int ret = tune_names(l->m, "nvme", &names, "/sys/class/nvme");
    if (ret || !names.n) {
        look_lack(l, "", ret ? ret : -ENOENT, "/sys/class/nvme/*");
        return;
    }
    if (!look_reactors(l))
        return;
    for (unsigned i = 0; i < names.n; i++) {
        snprintf(device, sizeof device, "/sys/class/nvme/%s/device", names.v[i]);
        look_device_node(l, names.v[i], device);
    }
}

static void look_nic_node(struct tune_look *l)
{
    struct tune_names nics;
    char device[120];
    if (one_node(l) || !look_nics(l, &nics) || !look_reactors(l))
        return;
    for (unsigned i = 0; i < nics.n; i++) {
        snprintf(device, sizeof device, "/sys/class/net/%s/device", nics.v[i]);
        look_device_node(l, nics.v[i], device);
    }
}

static void look_iommu(struct tune_look *l)
{
    struct tune_names groups;
    char type[32];
    unsigned through = 0;
    int ret = tune_names(l->m, "", &groups, "/sys/kernel/iommu_groups");
    if (ret || !groups.n) {
        look_lack(l, "", ret ? ret : -ENOENT, "/sys/kernel/iommu_groups/*");
        return;
    }
    for (unsigned i = 0; i < groups.n; i++) {
        long got = tune_read(l->m, type, sizeof type, "/sys/kernel/iommu_groups/%s/type", groups.v[i]);
        if (got < 0) {
            look_lack(l, "", got, "/sys/kernel/iommu_groups/*/type");
            return;
        }
        through += strcmp(type, "identity") == 0;
    }
    if (through == groups.n) {
        look_add(l, TUNE_OK, "", "identity: devices' addresses are not translated");
        return;
    }
    tune_read(l->m, type, sizeof type, "/sys/kernel/iommu_groups/%s/type", groups.v[0]);
    json_t *f = look_add(l, TUNE_CHOICE, "", "%u of %u groups are translated (%s)", groups.n - through, groups.n, type);
    look_want(f, "identity; or, if isolation is to stay, DMA-FQ, whose unmapping is lazy");
    look_command(f,
                 "add iommu.passthrough=1 (or else iommu.strict=0) to the kernel's command line, and boot; VFIO works "
                 "with either");
}

/* "16.0 GT/s PCIe", or "Unknown". @return 0 or -errno */
static int read_speed(struct tune_machine *m, const char *device, const char *file, double *out)
{
    char text[64];
    long ret = tune_read(m, text, sizeof text, "%s/%s", device, file);
    *out = ret < 0 ? 0 : strtod(text, NULL);
    return ret < 0 ? (int)ret : *out > 0 ? 0 : -EINVAL;
}

/* A link that is slower than its device can, or has fewer lanes. @return 0 or -errno, with nothing added */
static int look_link_of(struct tune_look *l, const char *subject, const char *device)
{
    double speed, max_speed;
    int64_t width, max_width;
    int ret = read_speed(l->m, device, "current_link_speed", &speed);
    if (!ret)
        ret = read_speed(l->m, device, "max_link_speed", &max_speed);
    if (!ret)
        ret = tune_number(l->m, &width, "%s/current_link_width", device);
    if (!ret)
        ret = tune_number(l->m, &max_width, "%s/max_link_width", device);
    if (ret || max_width <= 0)
        return ret ? ret : -EINVAL;
    bool slow = speed < max_speed || width < max_width;
    json_t *f = look_add(l, slow ? TUNE_BETTER : TUNE_OK, subject, "%g GT/s on %lld lanes, of %g on %lld", speed,
                         (long long)width, max_speed, (long long)max_width);
    double part = 100. * speed * (double)width / (max_speed * (double)max_width);
    look_measured(f, "current_link_speed and current_link_width of the device",
                  "%.0f %% of the bandwidth that the device can have", part);
    if (slow) {
        look_want(f, "%g GT/s on %lld lanes", max_speed, (long long)max_width);
        look_command(f, "put the card into a slot that has them; look for a link that the firmware limits");
    }
    return 0;
}

static void look_link(struct tune_look *l)
{
    static struct tune_names names;
    static const char *const classes[] = {"nvme", "net"};
    char device[120];
    unsigned seen = 0;
    for (unsigned k = 0; k < 2; k++) {
        int got = k ? tune_nics(l->m, &names) : tune_names(l->m, "nvme", &names, "/sys/class/nvme");
        if (got && got != -ENOENT) {
            look_lack(l, "", got, k ? "/sys/class/net" : "/sys/class/nvme");
            seen++;
        }
        if (got)
            continue;
        for (unsigned i = 0; i < names.n; i++) {
            snprintf(device, sizeof device, "/sys/class/%s/%s/device", classes[k], names.v[i]);
            int ret = look_link_of(l, names.v[i], device);
            seen += ret != -ENOENT;
            if (ret && ret != -ENOENT)
                look_lack(l, names.v[i], ret, "PCIe link");
        }
    }
    if (!seen)
        look_lack(l, "", -ENOENT, "current_link_speed of an SSD or a NIC");
}

const struct tune_check tune_device_checks[] = {
    {.name = "numa.ssd",
     .title = "SSDs and reactors on one NUMA node",
     .why = "What an SSD writes crosses the link between nodes if the reactor, and its buffers, are on another.",
     .gain = NO_FIGURE("for NICs there is one: see numa.nic"),
     .look = look_ssd_node},
    {.name = "numa.nic",
     .title = "NICs and reactors on one NUMA node",
     .why = "What a NIC receives crosses the link between nodes if the reactor is on another.",
     .gain = FIGURE("1.7 % more requests a second of Tomcat, Neoverse server",
                    "Arm learning path \"Tune network workloads on bare metal\""),
     .look = look_nic_node},
    {.name = "iommu.mode",
     .title = "translation of devices' addresses",
     .why = "Each buffer that a NIC or an SSD is given is mapped, and unmapped after use.",
     .cost = "a device that is broken, or hostile, can read and write all memory",
     .gain = FIGURE("19.8 % more requests a second of Tomcat and 52 % less latency on average, Neoverse server",
                    "Arm learning path \"Tune network workloads on bare metal\""),
     .look = look_iommu},
    {.name = "pci.link",
     .title = "PCIe links",
     .why = "A card in the wrong slot, or a link that has fallen back, has a part of its bandwidth.",
     .gain = COUNTED("the link's speed and width"),
     .look = look_link},
    {.name = "pci.aspm",
     .title = "sleep of PCIe links",
     .why = "A link that sleeps takes microseconds to wake up.",
     .cost = "power",
     .gain = NO_FIGURE(""),
     .file = "/sys/module/pcie_aspm/parameters/policy",
     .want = "performance",
     .otherwise = TUNE_CHOICE},
    {.name = "disk.apst",
     .title = "sleep of SSDs that the kernel drives",
     .why = "An SSD that was idle takes up to so many us to answer again.",
     .cost = "power",
     .gain = NO_FIGURE(""),
     .file = "/sys/class/nvme/*/power/pm_qos_latency_tolerance_us",
     .want = "0",
     .otherwise = TUNE_CHOICE},
    {.name = "disk.scheduler",
     .title = "I/O scheduler",
     .why = "An SSD has nothing to gain from another order of requests, and each passes the scheduler's lock.",
     .gain = NO_FIGURE("SPDK's lab sets it, scripts/perf/nvmf"),
     .file = "/sys/block/%/queue/scheduler",
     .want = "none",
     .each = TUNE_EACH_SSD,
     .otherwise = TUNE_BETTER},
    {.name = "disk.nomerges",
     .title = "merging of neighbouring requests",
     .why = "Looking for a neighbour costs each request something, and random ones have none.",
     .cost = "small sequential requests are no longer merged",
     .gain = NO_FIGURE("SPDK's lab sets 2, scripts/perf/nvmf"),
     .file = "/sys/block/%/queue/nomerges",
     .want = "2",
     .each = TUNE_EACH_SSD,
     .otherwise = TUNE_CHOICE},
    {.name = "disk.rq-affinity",
     .title = "where completions run",
     .why = "2 has a request completed on the very core that submitted it: the reactor's.",
     .cost = "an interrupt between cores for each completion that came elsewhere",
     .gain = NO_FIGURE("SPDK's lab sets 0, scripts/perf/nvmf: measure which is better"),
     .file = "/sys/block/%/queue/rq_affinity",
     .want = "2",
     .each = TUNE_EACH_SSD,
     .otherwise = TUNE_CHOICE},
    {.name = "disk.iostats",
     .title = "statistics of disks",
     .why = "Each request is counted and timed.",
     .cost = "iostat shows nothing of the disk",
     .gain = NO_FIGURE("SPDK's lab sets 0, scripts/perf/nvmf"),
     .file = "/sys/block/%/queue/iostats",
     .want = "0",
     .each = TUNE_EACH_SSD,
     .otherwise = TUNE_CHOICE},
    {.name = "disk.wbt",
     .title = "holding back writes",
     .why = "Buffered writes wait when reads take longer than this many us.",
     .cost = "a flood of buffered writes can make reads slow",
     .gain = NO_FIGURE(""),
     .file = "/sys/block/%/queue/wbt_lat_usec",
     .want = "0",
     .each = TUNE_EACH_SSD,
     .otherwise = TUNE_CHOICE},
    {.name = "kernel.io-uring",
     .title = "io_uring",
     .why = "Files and block devices are read and written by io_uring; without it, by threads.",
     .cost = "what the kernel's io_uring may still have in it, open to all programs again",
     .gain = NO_FIGURE(""),
     .file = "/proc/sys/kernel/io_uring_disabled",
     .want = "0",
     .otherwise = TUNE_CHOICE},
};
const unsigned tune_device_checks_n = PLX_ARRAY_SIZE(tune_device_checks);
