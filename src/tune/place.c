/* SPDX-License-Identifier: BSD-3-Clause */
/* Which cores reactors run on, where nobody has said so. */
#include "tune/machine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    STATUS = 32 << 10, /* of thousands of cores, in pieces */
    LIST = 16 << 10,
    FARTHEST = 3,
};

/* A CPU that may be taken; members in the order in which they count. Less is taken first. */
struct candidate {
    int sibling; /* how many of its core come before it */
    int far;     /* of what is served */
    int node;
    int part; /* 1: its cluster is not all ours */
    int cluster;
    int core, cpu;
};

static int by_members(const void *a, const void *b)
{
    const int *x = a, *y = b;
    for (size_t i = 0; i < sizeof(struct candidate) / sizeof *x; i++)
        if (x[i] != y[i])
            return x[i] < y[i] ? -1 : 1;
    return 0;
}

/* How far a node is from NICs, which have most of the interrupts, and from SSDs: none, one, the other, both. */
static void devices_near(struct tune_machine *m, int far[TUNE_CPUS])
{
    struct tune_names nics, ssds;
    int64_t node;
    bool nic[TUNE_CPUS] = {false}, ssd[TUNE_CPUS] = {false};
    if (tune_nics(m, &nics))
        nics.n = 0;
    for (unsigned i = 0; i < nics.n; i++)
        if (!tune_number(m, &node, "/sys/class/net/%s/device/numa_node", nics.v[i]) && node >= 0 && node < TUNE_CPUS)
            nic[node] = true;
    if (tune_names(m, "nvme", &ssds, "/sys/class/nvme"))
        ssds.n = 0;
    for (unsigned i = 0; i < ssds.n; i++)
        if (!tune_number(m, &node, "/sys/class/nvme/%s/device/numa_node", ssds.v[i]) && node >= 0 && node < TUNE_CPUS)
            ssd[node] = true;
    for (int i = 0; i < TUNE_CPUS; i++)
        far[i] = FARTHEST - 2 * nic[i] - ssd[i];
}

/*
 * Cores that are offline, and those that could be plugged in, stay in a cpuset. @return how many there are, or a
 * negative errno value with err filled
 */
static int usable_cpus(struct tune_machine *m, int cpus[TUNE_CPUS], struct plx_error *err)
{
    char status[STATUS], list[LIST];
    int online[TUNE_CPUS], n = -EINVAL, nonline = -EINVAL;
    if (tune_read(m, status, sizeof status, "/proc/self/status") > 0 &&
        tune_line(status, "Cpus_allowed_list", list, sizeof list))
        n = tune_cores(list, cpus);
    if (n <= 0)
        return plx_fail(err, -EINVAL, "/proc/self/status does not say on which cores this process may run");
    if (tune_read(m, list, sizeof list, "/sys/devices/system/cpu/online") > 0)
        nonline = tune_cores(list, online);
    n = nonline < 0 ? n : tune_common(cpus, n, online, nonline);
    return n ? n : plx_fail(err, -EINVAL, "none of the cores that this process may run on is online");
}

/* How many CPUs of each cluster there are, and how many of them are ours. */
static void count_clusters(const struct tune_topology *t, const bool *ours, int all[TUNE_CPUS], int mine[TUNE_CPUS])
{
    for (int i = 0; i < TUNE_CPUS; i++)
        if (t->cpus[i].there && t->cpus[i].cluster >= 0) {
            all[t->cpus[i].cluster]++;
            mine[t->cpus[i].cluster] += ours[i];
        }
}

/* By the order of the members, from the cores that are allowed. @return how many cores there are without siblings */
static int rank_cpus(const struct tune_topology *t, const int *far, const int *cpus, int n, struct candidate *out)
{
    bool ours[TUNE_CPUS] = {false};
    int all[TUNE_CPUS] = {0}, mine[TUNE_CPUS] = {0}, threads[TUNE_CPUS] = {0}, first = 0;
    for (int i = 0; i < n; i++)
        ours[cpus[i]] = true;
    count_clusters(t, ours, all, mine);
    for (int i = 0; i < n; i++) {
        const struct tune_cpu *c = &t->cpus[cpus[i]];
        const bool known = !t->problem[0] && c->there;
        out[i] = (struct candidate){.far = FARTHEST, .cpu = cpus[i], .core = cpus[i], .cluster = cpus[i]};
        if (known)
            out[i] = (struct candidate){.sibling = threads[c->core]++,
                                        .far = c->node >= 0 ? far[c->node] : FARTHEST,
                                        .node = c->node,
                                        .part = c->cluster >= 0 && mine[c->cluster] < all[c->cluster],
                                        .cluster = c->cluster,
                                        .core = c->core,
                                        .cpu = cpus[i]};
        first += !out[i].sibling;
    }
    qsort(out, (size_t)n, sizeof *out, by_members);
    return first;
}

static int by_cpu_number(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

int tune_place(struct tune_machine *m, int n, int *cores, int max, struct plx_error *err)
{
    int far[TUNE_CPUS], cpus[TUNE_CPUS], there = usable_cpus(m, cpus, err);
    if (there < 0)
        return there;
    if (n > there)
        return plx_fail(err, -EINVAL, "%d cores are more than the %d that this process may run on", n, there);
    struct candidate *all = calloc((size_t)there, sizeof *all);
    if (!all)
        return plx_fail(err, -ENOMEM, "out of memory");
    devices_near(m, far);
    const int singles = rank_cpus(tune_topology(m), far, cpus, there, all);
    n = n ? n : singles;
    n = n < max ? n : max;
    for (int i = 0; i < n; i++)
        cores[i] = all[i].cpu;
    free(all);
    qsort(cores, (size_t)n, sizeof *cores, by_cpu_number);
    return n;
}
