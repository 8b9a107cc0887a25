/* SPDX-License-Identifier: BSD-3-Clause */
/* NICs: their queues, and the cores that these interrupt. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "tune/check.h"

#define SOCK_FLOWS "/proc/sys/net/core/rps_sock_flow_entries"

enum { DEFER_IRQS = 10, FLUSH_NS = 20000, FLOWS = 32768 };

static int nic_number(struct tune_look *l, const char *nic, const char *group, const char *key, unsigned long *out)
{
    char value[32];
    int ret = tune_ethtool_get(l->m, nic, group, key, value, sizeof value);
    if (!ret)
        *out = strtoul(value, NULL, 10);
    return ret;
}

static void each_nic(struct tune_look *l, void (*look)(struct tune_look *l, const char *nic))
{
    struct tune_names nics;
    if (!look_nics(l, &nics))
        return;
    for (unsigned i = 0; i < nics.n; i++)
        look(l, nics.v[i]);
}

/* ---- queues ---- */

static void look_queues_of(struct tune_look *l, const char *nic)
{
    unsigned long have = 0, max = 0;
    char setting[128], value[32];
    const char *key = "combined";
    int ret = nic_number(l, nic, "channels", "combined-max", &max);
    if (!ret && !max) { /* this driver counts those that receive apart */
        key = "rx";
        ret = nic_number(l, nic, "channels", "rx-max", &max);
    }
    if (!ret)
        ret = nic_number(l, nic, "channels", key, &have);
    if (ret || !max) {
        look_lack(l, nic, ret ? ret : -EOPNOTSUPP, "number of queues");
        return;
    }
    unsigned long wanted = plx_min_u64(max, (uint64_t)l->m->nreactors);
    if (have == wanted) {
        look_add(l, TUNE_OK, nic, "%lu of %lu, for %d reactors", have, max, l->m->nreactors);
        return;
    }
    json_t *f = look_add(l, TUNE_BETTER, nic, "%lu of %lu, for %d reactors", have, max, l->m->nreactors);
    look_want(f, "%lu", wanted);
    snprintf(setting, sizeof setting, "ethtool:%s/channels/%s", nic, key);
    snprintf(value, sizeof value, "%lu", wanted);
    look_change(f, setting, value);
}

static void look_queues(struct tune_look *l)
{
    struct tune_names nics;
    if (!look_nics(l, &nics) || !look_reactors(l))
        return;
    for (unsigned i = 0; i < nics.n; i++)
        look_queues_of(l, nics.v[i]);
}

/* ---- interrupts ---- */

/* Not those of what manages a NIC: their names are folders beside the affinity. @return 1 or 0, or -errno */
static int is_queue_irq(struct tune_machine *m, const char *irq)
{
    static const char *const others[] = {"config", "async", "mgmt", "control", "ctrl", "misc", "admin"};
    struct tune_names names;
    int ret = tune_names(m, "", &names, "/proc/irq/%s", irq);
    if (ret)
        return tune_is_gone(ret) ? 0 : ret;
    for (unsigned i = 0; i < names.n; i++)
        for (unsigned k = 0; k < PLX_ARRAY_SIZE(others); k++)
            if (strstr(names.v[i], others[k]))
                return 0;
    return 1;
}

/* What is in one folder only: of a virtio NIC, its PCI device's. */
static int nic_irqs(struct tune_machine *m, const char *nic, struct tune_names *out)
{
    static struct tune_names all;
    int ret = tune_names(m, "", &all, "/sys/class/net/%s/device/msi_irqs", nic);
    if (ret == -ENOENT)
        ret = tune_names(m, "", &all, "/sys/class/net/%s/device/../msi_irqs", nic);
    out->n = 0;
    for (unsigned i = 0; !ret && i < all.n; i++) {
        int is = is_queue_irq(m, all.v[i]);
        if (is > 0)
            memcpy(out->v[out->n++], all.v[i], TUNE_NAME);
        ret = is < 0 ? is : 0;
    }
    return ret ? ret : out->n ? 0 : -ENOENT;
}

static void look_irqs_of(struct tune_look *l, const char *nic)
{
    static struct tune_names irqs;
    char text[256], setting[128], value[32], list[256];
    int cores[TUNE_CPUS], outside = 0, where[TUNE_CPUS], nwhere = 0;
    int ret = nic_irqs(l->m, nic, &irqs);
    json_t *changes = json_array();
    for (unsigned i = 0; !ret && i < irqs.n; i++) {
        long got = tune_read(l->m, text, sizeof text, "/proc/irq/%s/effective_affinity_list", irqs.v[i]);
        if (got <= 0)
            got = tune_read(l->m, text, sizeof text, "/proc/irq/%s/smp_affinity_list", irqs.v[i]);
        int n = got < 0 ? (ret = (int)got, 0) : tune_cores(text, cores);
        if (!ret && n <= 0)
            ret = -EINVAL;
        bool in = n > 0;
        for (int k = 0; k < n; k++)
            in &= tune_is_reactor(l->m, cores[k]);
        outside += !in;
        if (n > 0 && nwhere < TUNE_CPUS)
            where[nwhere++] = cores[0];
        snprintf(setting, sizeof setting, "/proc/irq/%s/smp_affinity_list", irqs.v[i]);
        snprintf(value, sizeof value, "%d", l->m->reactors[i % (unsigned)l->m->nreactors]);
        json_array_append_new(changes, json_pack("[ss]", setting, value));
    }
    tune_list(where, nwhere, list, sizeof list);
    if (ret) {
        look_lack(l, nic, ret, "interrupt of its own");
    } else if (!outside) {
        look_add(l, TUNE_OK, nic, "%u interrupts on %s, where reactors are", irqs.n, list);
    } else {
        json_t *f = look_add(l, TUNE_BETTER, nic, "%d of %u interrupts are not where reactors are; they are on %s",
                             outside, irqs.n, list);
        look_want(f, "each on a reactor's core, in turn");
        for (size_t i = 0; i < json_array_size(changes); i++) {
            const json_t *pair = json_array_get(changes, i);
            look_change(f, json_string_value(json_array_get(pair, 0)), json_string_value(json_array_get(pair, 1)));
        }
    }
    json_decref(changes);
}

static void look_irqs(struct tune_look *l)
{
    struct tune_names nics;
    if (!look_nics(l, &nics) || !look_reactors(l))
        return;
    for (unsigned i = 0; i < nics.n; i++)
        look_irqs_of(l, nics.v[i]);
}

static bool irqbalance_runs;

static void found_irqbalance(struct tune_machine *m, const char *pid)
{
    (void)m, (void)pid;
    irqbalance_runs = true;
}

static void look_irqbalance(struct tune_look *l)
{
    irqbalance_runs = false;
    if (!tune_processes(l->m, "irqbalance", found_irqbalance)) {
        look_add(l, TUNE_UNKNOWN, "", "no process can be seen in /proc");
        return;
    }
    if (!irqbalance_runs) {
        look_add(l, TUNE_OK, "", "it does not run");
        return;
    }
    json_t *f = look_add(l, TUNE_BETTER, "", "it runs, and moves interrupts that were put somewhere");
    look_want(f, "kept off the cores of the reactors");
    look_command(f, "IRQBALANCE_BANNED_CPULIST=CORES in /etc/default/irqbalance, systemctl restart irqbalance");
    look_command(f, "systemctl disable --now irqbalance");
}

/* ---- which core takes, and sends, what ---- */

/* Whether a mask has no CPU in it. */
static bool is_no_mask(const char *text)
{
    return strspn(text, "0,") == strlen(text);
}

/* Queues of a kind, and how many of them have a mask. @return 0 or -errno */
static int count_masks(struct tune_look *l, const char *nic, const char *kind, const char *file,
                       struct tune_names *queues, unsigned *masks)
{
    char mask[300];
    int ret = tune_names(l->m, kind, queues, "/sys/class/net/%s/queues", nic);
    *masks = 0;
    for (unsigned i = 0; !ret && i < queues->n; i++) {
        long got = tune_read(l->m, mask, sizeof mask, "/sys/class/net/%s/queues/%s/%s", nic, queues->v[i], file);
        ret = got < 0 ? (int)got : mask[strspn(mask, "0123456789abcdef,")] ? -EINVAL : 0;
        *masks += got > 0 && !is_no_mask(mask);
    }
    return ret ? ret : queues->n ? 0 : -ENOENT;
}

static void look_rps_of(struct tune_look *l, const char *nic)
{
    static struct tune_names queues;
    unsigned masks;
    char setting[200], mask[300];
    int ret = count_masks(l, nic, "rx-", "rps_cpus", &queues, &masks);
    if (ret) {
        look_lack(l, nic, ret, "queues/rx-*/rps_cpus");
        return;
    }
    if (!masks || queues.n == 1) {
        look_add(l, TUNE_OK, nic, "%s; queues: %u", masks ? "on" : "off", queues.n);
        return;
    }
    json_t *f = look_add(l, TUNE_BETTER, nic, "on for %u of %u queues", masks, queues.n);
    look_want(f, "off: there are several queues, which do the same in hardware");
    for (unsigned i = 0; i < queues.n; i++) {
        snprintf(setting, sizeof setting, "/sys/class/net/%s/queues/%s/rps_cpus", nic, queues.v[i]);
        if (!tune_get(l->m, setting, mask, sizeof mask) && !is_no_mask(mask))
            look_change(f, setting, "0");
    }
}

static void look_rps(struct tune_look *l)
{
    each_nic(l, look_rps_of);
}

/* Flows for each of so many queues: a power of two, as the kernel rounds. */
static unsigned flows_of(unsigned queues)
{
    unsigned flows = FLOWS;
    while (flows > 1 && (uint64_t)flows * queues > FLOWS)
        flows /= 2;
    return flows;
}

/* There is a table of all, and one of each queue; without one of them nothing is done (scaling.rst). */
static void look_rfs_of(struct tune_look *l, const char *nic)
{
    static struct tune_names queues;
    bool has[TUNE_NAMES];
    int64_t all, own;
    unsigned with = 0;
    char setting[200], value[16];
    int ret = tune_number(l->m, &all, SOCK_FLOWS);
    if (!ret)
        ret = tune_names(l->m, "rx-", &queues, "/sys/class/net/%s/queues", nic);
    for (unsigned i = 0; !ret && i < queues.n; i++) {
        ret = tune_number(l->m, &own, "/sys/class/net/%s/queues/%s/rps_flow_cnt", nic, queues.v[i]);
        has[i] = !ret && own > 0;
        with += has[i];
    }
    if (ret || !queues.n) {
        look_lack(l, nic, ret ? ret : -ENOENT, "rps_sock_flow_entries with queues/rx-*/rps_flow_cnt");
        return;
    }
    const bool on = all > 0 && with == queues.n;
    json_t *f = look_add(l, on ? TUNE_OK : TUNE_CHOICE, nic, "%lld flows, and %u of %u queues have some of their own",
                         (long long)all, with, queues.n);
    if (on)
        return;
    look_want(f, "%d flows, and %u for each queue", FLOWS, flows_of(queues.n));
    snprintf(value, sizeof value, "%d", FLOWS);
    if (all <= 0)
        look_change(f, SOCK_FLOWS, value);
    snprintf(value, sizeof value, "%u", flows_of(queues.n));
    for (unsigned i = 0; i < queues.n; i++) {
        snprintf(setting, sizeof setting, "/sys/class/net/%s/queues/%s/rps_flow_cnt", nic, queues.v[i]);
        if (!has[i])
            look_change(f, setting, value);
    }
}

static void look_rfs(struct tune_look *l)
{
    each_nic(l, look_rfs_of);
}

static bool is_same_mask(const char *a, const char *b)
{
    return strcmp(a + strspn(a, "0,"), b + strspn(b, "0,")) == 0;
}

/* The mask of one CPU, in words of 32 as the kernel writes them. */
static void mask_of(int cpu, char *out, size_t size)
{
    size_t at = (size_t)snprintf(out, size, "%x", 1U << cpu % 32);
    for (int word = cpu / 32; word && at < size; word--)
        at += (size_t)snprintf(out + at, size - at, ",00000000");
}

static void look_xps_of(struct tune_look *l, const char *nic)
{
    static struct tune_names queues;
    unsigned masks;
    char setting[200], mask[300], now[300];
    int ret = count_masks(l, nic, "tx-", "xps_cpus", &queues, &masks);
    if (ret) {
        look_lack(l, nic, ret, "queues/tx-*/xps_cpus");
        return;
    }
    if (masks == queues.n || queues.n == 1) {
        look_add(l, TUNE_OK, nic, "%u of %u queues have cores of their own", masks, queues.n);
        return;
    }
    if (!l->m->nreactors) {
        look_add(l, TUNE_UNKNOWN, nic,
                 "%u of %u queues have cores of their own; where reactors run is not known, and "
                 "--cores LIST says it",
                 masks, queues.n);
        return;
    }
    json_t *f = look_add(l, TUNE_CHOICE, nic, "%u of %u queues have cores of their own", masks, queues.n);
    look_want(f, "a queue for each reactor's core");
    for (unsigned i = 0; i < queues.n; i++) {
        snprintf(setting, sizeof setting, "/sys/class/net/%s/queues/%s/xps_cpus", nic, queues.v[i]);
        mask_of(l->m->reactors[i % (unsigned)l->m->nreactors], mask, sizeof mask);
        if (tune_get(l->m, setting, now, sizeof now) || !is_same_mask(now, mask))
            look_change(f, setting, mask);
    }
}

static void look_xps(struct tune_look *l)
{
    each_nic(l, look_xps_of);
}

/* ---- what a NIC does with packets ---- */

static void look_defer_of(struct tune_look *l, const char *nic)
{
    int64_t irqs, flush;
    char setting[128], value[32];
    int ret = tune_number(l->m, &irqs, "/sys/class/net/%s/napi_defer_hard_irqs", nic);
    if (!ret)
        ret = tune_number(l->m, &flush, "/sys/class/net/%s/gro_flush_timeout", nic);
    if (ret) {
        look_lack(l, nic, ret, "napi_defer_hard_irqs and gro_flush_timeout");
        return;
    }
    bool on = irqs > 0 && flush > 0;
    json_t *f = look_add(l, on ? TUNE_OK : TUNE_CHOICE, nic, "%lld polls, %lld ns", (long long)irqs, (long long)flush);
    if (on)
        return;
    look_want(f, "%d polls, %d ns", DEFER_IRQS, FLUSH_NS);
    snprintf(setting, sizeof setting, "/sys/class/net/%s/napi_defer_hard_irqs", nic);
    snprintf(value, sizeof value, "%d", DEFER_IRQS);
    look_change(f, setting, value);
    snprintf(setting, sizeof setting, "/sys/class/net/%s/gro_flush_timeout", nic);
    snprintf(value, sizeof value, "%d", FLUSH_NS);
    look_change(f, setting, value);
}

static void look_defer(struct tune_look *l)
{
    each_nic(l, look_defer_of);
}

/* A larger ring costs cache: only where packets were lost for want of one. */
static void look_ring_of(struct tune_look *l, const char *nic)
{
    unsigned long have, max;
    int64_t missed = 0;
    char setting[128], value[32];
    int ret = nic_number(l, nic, "rings", "rx", &have);
    if (!ret)
        ret = nic_number(l, nic, "rings", "rx-max", &max);
    if (!ret)
        ret = tune_number(l->m, &missed, "/sys/class/net/%s/statistics/rx_missed_errors", nic);
    if (ret) {
        look_lack(l, nic, ret, "size of the receive ring, or count of packets missed");
        return;
    }
    bool small = missed && have < max;
    json_t *f = look_add(l, small ? TUNE_BETTER : TUNE_OK, nic, "%lu of %lu, %lld packets missed", have, max,
                         (long long)missed);
    look_measured(f, "statistics/rx_missed_errors", "%lld packets missed since the NIC came up", (long long)missed);
    if (!small)
        return;
    look_want(f, "%lu", max);
    snprintf(setting, sizeof setting, "ethtool:%s/rings/rx", nic);
    snprintf(value, sizeof value, "%lu", max);
    look_change(f, setting, value);
}

static void look_ring(struct tune_look *l)
{
    each_nic(l, look_ring_of);
}

static void look_offloads_of(struct tune_look *l, const char *nic)
{
    static const char *const keys[] = {"rx-gro", "tx-tcp-segmentation", "tx-scatter-gather", "rx-checksum"};
    char value[16], off[128] = "", setting[128];
    int seen = 0, failed = 0;
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(keys); i++) {
        int ret = tune_ethtool_get(l->m, nic, "features", keys[i], value, sizeof value);
        failed = ret && ret != -EOPNOTSUPP ? ret : failed;
        seen += !ret;
        if (!ret && strcmp(value, "off") == 0)
            snprintf(off + strlen(off), sizeof off - strlen(off), "%s%s", off[0] ? ", " : "", keys[i]);
    }
    if (failed || !seen) {
        look_lack(l, nic, failed ? failed : -EOPNOTSUPP, "offload of GRO, TSO, SG or checksums");
        return;
    }
    if (!off[0]) {
        look_add(l, TUNE_OK, nic, "GRO, TSO, SG and checksums are on, so far as the NIC has them");
        return;
    }
    json_t *f = look_add(l, TUNE_BETTER, nic, "off: %s", off);
    look_want(f, "on");
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(keys); i++) {
        snprintf(setting, sizeof setting, "ethtool:%s/features/%s", nic, keys[i]);
        if (!tune_get(l->m, setting, value, sizeof value) && strcmp(value, "off") == 0)
            look_change(f, setting, "on");
    }
}

static void look_offloads(struct tune_look *l)
{
    each_nic(l, look_offloads_of);
}

const struct tune_check tune_nic_checks[] = {
    {.name = "nic.queues",
     .title = "queues for each reactor",
     .why =
         "With more queues than reactors, interrupts come to cores where nobody works; with fewer, reactors share one.",
     .cost = "the NIC stops for a moment, and forgets where its interrupts were put",
     .gain = FIGURE("5.9 % more requests a second of Tomcat, 8 queues instead of 63 on 8 cores of a Neoverse server",
                    "Arm learning path \"Tune network workloads on bare metal\""),
     .look = look_queues,
     .careful = true},
    {.name = "nic.irq-cores",
     .title = "interrupts on the reactors' cores",
     .why = "A packet is handled where its interrupt comes; from there to a reactor elsewhere it crosses cores.",
     .gain = FIGURE("8 to 17 % more random writes a second of SPDK's target on Arm, connections on the core that takes "
                    "their interrupts",
                    "SPDK commit 201aa63471"),
     .look = look_irqs},
    {.name = "nic.irqbalance",
     .title = "irqbalance",
     .why = "It puts interrupts elsewhere every 10 s, whatever they were set to.",
     .cost = "interrupts of other devices may crowd on one core",
     .gain = NO_FIGURE("kernel documentation, scaling.rst"),
     .look = look_irqbalance},
    {.name = "nic.rps",
     .title = "RPS: spreading packets by software",
     .why = "Each packet is handed to another core by an interrupt between cores.",
     .gain = NO_FIGURE("kernel documentation, scaling.rst: redundant where there is a queue for each core"),
     .look = look_rps},
    {.name = "nic.rfs",
     .title = "RFS: packets to where they are read",
     .why = "Where a connection's packets come to a core that is not its reactor's, this moves them there.",
     .cost = "each packet is looked up, and moved by an interrupt between cores",
     .gain = NO_FIGURE("SPDK's lab sets 32768, scripts/perf/nvmf"),
     .look = look_rfs},
    {.name = "nic.arfs",
     .title = "aRFS: the same by the NIC",
     .why =
         "The NIC itself puts a connection's packets into the queue of the core that reads them. Takes nic.rfs, too.",
     .cost = "the NIC's table of flows",
     .gain = NO_FIGURE("kernel documentation, scaling.rst"),
     .file = "ethtool:%/features/rx-ntuple-filter",
     .want = "on",
     .each = TUNE_EACH_NIC,
     .otherwise = TUNE_CHOICE},
    {.name = "nic.xps",
     .title = "XPS: queues to send by",
     .why = "A queue that one core alone sends by has a lock that nobody waits for.",
     .gain = NO_FIGURE("kernel documentation, scaling.rst"),
     .look = look_xps},
    {.name = "nic.coalesce",
     .title = "interrupts held back as traffic goes",
     .why = "The NIC waits for more packets before it interrupts: more operations a second, later answers. AWS's guide "
            "says on in one place, and off for latency in another.",
     .cost = "more interrupts, and CPU time for them",
     .gain = NO_FIGURE("AWS Graviton guide"),
     .file = "ethtool:%/coalesce/adaptive-rx",
     .want = "off",
     .each = TUNE_EACH_NIC,
     .otherwise = TUNE_CHOICE},
    {.name = "nic.defer",
     .title = "polling instead of interrupts under load",
     .why = "A queue is polled so many times more before its interrupt is on again.",
     .cost = "a packet that comes after a pause may wait that long",
     .gain = FIGURE("interrupts took about 20 % of the throughput at 100 Gb/s with 32 or more receive queues",
                    "Linux commit 6f8b12d661d0"),
     .look = look_defer},
    {.name = "nic.ring",
     .title = "size of the receive ring",
     .why = "Packets that find no room are lost, and sent again.",
     .cost = "cache: a ring that is larger than it must be is slower; the NIC stops for a moment",
     .gain = COUNTED("statistics/rx_missed_errors"),
     .look = look_ring,
     .careful = true},
    {.name = "nic.offloads",
     .title = "GRO, TSO, scatter-gather, checksums",
     .why = "Without them the kernel does for each packet what could be done for 40 of them at once.",
     .gain = FIGURE("26 instead of 15.7 Gb/s in one stream, 40 Gb/s NIC, with SG and TSO", "Linux commit 0a6b2a1dc2a2"),
     .look = look_offloads},
    {.name = "nic.hw-gro",
     .title = "GRO by the NIC",
     .why = "Fewer, larger packets reach the kernel.",
     .cost = "interleaved streams are merged less well; software GRO completes it",
     .gain = NO_FIGURE("Linux, log of net/core/gro.c"),
     .file = "ethtool:%/features/rx-gro-hw",
     .want = "on",
     .each = TUNE_EACH_NIC,
     .otherwise = TUNE_CHOICE},
    {.name = "nic.mtu",
     .title = "MTU",
     .why = "4 KiB of data and a header are one packet of 9000 bytes, or three of 1500.",
     .cost = "all on the same network must have it; packets are lost where one does not",
     .gain = NO_FIGURE("none found for NVMe/TCP"),
     .file = "/sys/class/net/%/mtu",
     .want = "9000",
     .least = 9000,
     .careful = true,
     .each = TUNE_EACH_NIC,
     .otherwise = TUNE_CHOICE},
};
const unsigned tune_nic_checks_n = PLX_ARRAY_SIZE(tune_nic_checks);
