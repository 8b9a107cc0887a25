/* SPDX-License-Identifier: BSD-3-Clause */
/* Which cores there are for reactors, and what these share. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "tune/check.h"

#define CPU "/sys/devices/system/cpu"

/* @return a core of the reactors that is not among those, or -1 */
static int reactor_outside(const struct tune_machine *m, const int *cores, int n)
{
    for (int i = 0; i < m->nreactors; i++) {
        bool in = false;
        for (int k = 0; k < n; k++)
            in |= cores[k] == m->reactors[i];
        if (!in)
            return m->reactors[i];
    }
    return -1;
}

static void look_smt(struct tune_look *l)
{
    const struct tune_topology *t;
    char active[16];
    long ret = tune_read(l->m, active, sizeof active, CPU "/smt/active");
    if (ret < 0) {
        look_lack(l, "", ret, CPU "/smt/active");
        return;
    }
    if (strcmp(active, "0") == 0) {
        look_add(l, TUNE_OK, "", "no core runs two threads");
        return;
    }
    if (strcmp(active, "1") != 0) {
        look_lack(l, "", -EINVAL, CPU "/smt/active");
        return;
    }
    if (!look_reactors(l) || !(t = look_topology(l)) || !look_reactors_there(l, t, ""))
        return;
    for (int i = 0; i < l->m->nreactors; i++) {
        for (int k = 0; k < i; k++) {
            int a = l->m->reactors[k], b = l->m->reactors[i];
            if (t->cpus[a].core != t->cpus[b].core)
                continue;
            json_t *f = look_add(l, TUNE_BETTER, "", "reactors on %d and %d share one core", a, b);
            look_want(f, "a core for each");
            look_command(f, "start pollux with --cores that names one thread of each core (topology/core_cpus_list)");
            return;
        }
    }
    look_add(l, TUNE_OK, "", "each reactor has a core of its own");
}

/* A list of cores that are kept apart from something. */
static void look_apart(struct tune_look *l, const char *file, const char *parameter)
{
    char text[1024], reactors[256];
    int cores[TUNE_CPUS];
    long ret = tune_read(l->m, text, sizeof text, "%s", file);
    ret = ret == -ENODATA ? 0 : ret; /* no core */
    int n = ret < 0 ? 0 : strcmp(text, "(null)") == 0 ? 0 : tune_cores(text, cores);
    if (ret < 0 || n < 0) {
        look_lack(l, "", ret < 0 ? ret : -EINVAL, file);
        return;
    }
    if (!look_reactors(l))
        return;
    tune_list(l->m->reactors, l->m->nreactors, reactors, sizeof reactors);
    if (reactor_outside(l->m, cores, n) < 0) {
        look_add(l, TUNE_OK, "", "%s, among them all reactors", text);
        return;
    }
    json_t *f = n ? look_add(l, TUNE_BETTER, "", "%s; reactors are on %s", text, reactors)
                  : look_add(l, TUNE_CHOICE, "", "no core; reactors are on %s", reactors);
    look_want(f, "the cores of the reactors");
    if (n)
        look_command(f, "pollux serve --cores %s ...", text);
    else
        look_command(f, "add %s=%s to the kernel's command line, and boot", parameter, reactors);
}

static void look_isolated(struct tune_look *l)
{
    look_apart(l, CPU "/isolated", "isolcpus");
}

static void look_nohz_full(struct tune_look *l)
{
    look_apart(l, CPU "/nohz_full", "nohz_full");
}

static void look_cpuset(struct tune_look *l)
{
    char status[4096], allowed[1024] = "", online[1024];
    int mine[TUNE_CPUS], all[TUNE_CPUS], n, nall;
    long ret = tune_read(l->m, online, sizeof online, CPU "/online");
    if (ret >= 0)
        ret = tune_read(l->m, status, sizeof status, "/proc/self/status");
    if (ret < 0 || !tune_line(status, "Cpus_allowed_list", allowed, sizeof allowed) ||
        (n = tune_cores(allowed, mine)) < 0 || (nall = tune_cores(online, all)) < 0) {
        look_lack(l, "", ret < 0 ? ret : -EINVAL, ret == -ENOENT ? CPU "/online or /proc/self/status" : CPU "/online");
        return;
    }
    n = tune_common(mine, n, all, nall); /* offline ones, too, are allowed */
    tune_list(mine, n, allowed, sizeof allowed);
    int outside = reactor_outside(l->m, mine, n);
    if (n == nall && outside < 0) {
        look_add(l, TUNE_OK, "", "all of %s", online);
        return;
    }
    json_t *f = look_add(l, outside < 0 ? TUNE_CHOICE : TUNE_BETTER, "", "%s of %s", allowed, online);
    if (outside >= 0)
        look_want(f, "all reactors inside: core %d is not", outside);
    else
        look_want(f, "more, where there is to be more than %d reactors", n);
    look_command(f, "AllowedCPUs= of the unit, or the container's cpuset; pollux serve --cores %s", allowed);
}

/* The nearest limit from our control group upwards counts. @return 0, or -errno when none could be read */
static int group_limit(struct tune_machine *m, const char *file, char *value, size_t size)
{
    char groups[2048], limit[64], *path = NULL;
    int found = -ENOENT;
    long ret = tune_read(m, groups, sizeof groups, "/proc/self/cgroup");
    if (ret < 0)
        return (int)ret;
    for (char *save, *line = strtok_r(groups, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
        if (strncmp(line, "0::/", 4) == 0)
            path = line + 3;
    for (char *end; path; *end = '\0') {
        ret = tune_read(m, limit, sizeof limit, "/sys/fs/cgroup%s/%s", path, file);
        if (ret < 0 && ret != -ENOENT)
            return (int)ret;
        if (ret >= 0) {
            snprintf(value, size, "%s", limit);
            found = 0;
        }
        end = strrchr(path, '/');
        if ((ret >= 0 && strncmp(limit, "max", 3) != 0) || !end)
            break;
    }
    return found;
}

static void look_quota(struct tune_look *l)
{
    unsigned long long us, of;
    char value[64];
    int ret = group_limit(l->m, "cpu.max", value, sizeof value);
    if (ret) {
        look_lack(l, "", ret, "cpu.max of this control group");
        return;
    }
    if (strncmp(value, "max", 3) == 0) {
        look_add(l, TUNE_OK, "", "none");
        return;
    }
    if (sscanf(value, "%llu %llu", &us, &of) != 2) {
        look_lack(l, "", -EINVAL, "cpu.max of this control group");
        return;
    }
    json_t *f = look_add(l, TUNE_BETTER, "", "%llu us of each %llu us", us, of);
    look_want(f, "none: whole CPUs, by a cpuset");
    look_command(f, "CPUQuota= of the unit empty, or the container without a CPU limit");
}

static void look_memory_limit(struct tune_look *l)
{
    unsigned long long bytes;
    char value[64];
    int ret = group_limit(l->m, "memory.max", value, sizeof value);
    if (ret) {
        look_lack(l, "", ret, "memory.max of this control group");
        return;
    }
    if (strcmp(value, "max") == 0) {
        look_add(l, TUNE_OK, "", "none");
        return;
    }
    if (sscanf(value, "%llu", &bytes) != 1) {
        look_lack(l, "", -EINVAL, "memory.max of this control group");
        return;
    }
    json_t *f = look_add(l, TUNE_CHOICE, "", "%llu bytes", bytes);
    look_want(f, "room for RAM disks, buffers of connections, and those of their sockets");
    look_command(f, "MemoryMax= of the unit, or the container's memory limit");
}

static int by_value(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

/* A CPU in a group on a node that reactors are on already: it is where the NIC is, or not, for other reasons. */
static bool is_candidate(const struct tune_machine *m, const struct tune_topology *t, int c)
{
    bool near = false;
    for (int i = 0; i < m->nreactors; i++)
        near |= t->cpus[m->reactors[i]].node == t->cpus[c].node;
    return near && t->cpus[c].there && t->cpus[c].cluster >= 0;
}

/* Cores for as many reactors: from each group one, then from each a second one, ...; one thread of a core. */
static int spread(const struct tune_machine *m, const struct tune_topology *t, int cores[TUNE_CPUS])
{
    int picked[TUNE_CPUS] = {0}, n = 0;
    bool used[TUNE_CPUS] = {false};
    for (int round = 0, before = -1; n < m->nreactors && n > before; round++) { /* they may be of different sizes */
        before = n;
        for (int c = 0; c < TUNE_CPUS && n < m->nreactors; c++) {
            const struct tune_cpu *cpu = &t->cpus[c];
            if (!is_candidate(m, t, c) || used[cpu->core] || picked[cpu->cluster] != round)
                continue;
            used[cpu->core] = true;
            picked[cpu->cluster]++;
            cores[n++] = c;
        }
    }
    qsort(cores, (size_t)n, sizeof cores[0], by_value);
    return n;
}

/* Reactors share nothing: each is best off with a cache of its own. */
/* How many reactors the group has that has most; *groups is how many groups there are on their nodes. */
static int most_on_a_group(const struct tune_machine *m, const struct tune_topology *t, int *groups)
{
    int used[TUNE_CPUS] = {0}, most = 0;
    bool counted[TUNE_CPUS] = {false};
    for (int i = 0; i < m->nreactors; i++) {
        int cluster = t->cpus[m->reactors[i]].cluster;
        if (cluster >= 0 && ++used[cluster] > most)
            most = used[cluster];
    }
    *groups = 0;
    for (int c = 0; c < TUNE_CPUS; c++) {
        if (is_candidate(m, t, c) && !counted[t->cpus[c].cluster]) {
            counted[t->cpus[c].cluster] = true;
            ++*groups;
        }
    }
    return most;
}

static void look_clusters(struct tune_look *l)
{
    const struct tune_topology *t = look_topology(l);
    int groups, cores[TUNE_CPUS];
    char text[256];
    if (!t)
        return;
    if (t->clusters < 2) {
        look_add(l, TUNE_ABSENT, "", "the cores of a node are not in several groups that share a cache");
        return;
    }
    if (!look_reactors(l) || !look_reactors_there(l, t, ""))
        return;
    int n = l->m->nreactors, most = most_on_a_group(l->m, t, &groups);
    if (!groups) {
        look_add(l, TUNE_ABSENT, "", "the nodes of the reactors have no groups of cores that share a cache");
        return;
    }
    if (most <= (n + groups - 1) / groups) {
        look_add(l, TUNE_OK, "", "at most %d of %d reactors on one of %d groups of %d cores", most, n, groups,
                 t->cluster_cores);
        return;
    }
    json_t *f = look_add(l, TUNE_CHOICE, "", "%d of %d reactors on one of %d groups of %d cores", most, n, groups,
                         t->cluster_cores);
    look_want(f, "spread over the groups");
    tune_list(cores, spread(l->m, t, cores), text, sizeof text);
    look_command(f, "pollux serve --cores %s ...", text);
}

const struct tune_check tune_core_checks[] = {
    {.name = "core.smt",
     .title = "two reactors on one core",
     .why = "Two threads of a core share what it computes with; two reactors that are busy halve each other.",
     .gain = NO_FIGURE("kernel documentation, scaling.rst: hyper-threads were of no benefit for interrupts' queues"),
     .look = look_smt},
    {.name = "core.isolated",
     .title = "isolated cores",
     .why = "Where the scheduler puts nothing else, nothing else interrupts a reactor.",
     .cost = "these cores are of no use for other programs; threads that are not pinned must never be put there",
     .gain = NO_FIGURE("advised by tuned's profile cpu-partitioning"),
     .look = look_isolated},
    {.name = "core.nohz-full",
     .title = "cores without the tick",
     .why = "A core that runs one thread needs no timer interrupt to share itself out.",
     .cost = "system calls take longer there, and reactors make many",
     .gain = NO_FIGURE("advised by tuned's profile cpu-partitioning"),
     .look = look_nohz_full},
    {.name = "core.cpuset",
     .title = "cores that we may run on",
     .why = "A reactor can only be pinned inside.",
     .gain = NO_FIGURE(""),
     .look = look_cpuset},
    {.name = "core.quota",
     .title = "limit of CPU time",
     .why = "A control group that has used up its share stands still until the next period: 100 ms, as a rule.",
     .gain = NO_FIGURE(""),
     .look = look_quota},
    {.name = "core.clusters",
     .title = "groups of cores that share a cache",
     .why = "Two reactors in one group take each other's cache and its bandwidth.",
     .cost = "messages between reactors, and packets whose interrupts come to another core, leave the group's cache",
     .gain = FIGURE("10 to 20 % of STREAM's bandwidth with 4 threads, 2 to 3 % with 12, on Kunpeng 920",
                    "Linux commit 778c558f49a2"),
     .look = look_clusters},
    {.name = "mem.limit",
     .title = "limit of memory",
     .why = "What is beyond is reclaimed, or the server is killed.",
     .gain = NO_FIGURE(""),
     .look = look_memory_limit},
};
const unsigned tune_core_checks_n = PLX_ARRAY_SIZE(tune_core_checks);
