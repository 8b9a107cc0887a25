/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Packages, nodes, cores and what they share, by libhwloc: loaded when it is asked for, so that no other command has to
 * start with it, and a machine without it has all other checks.
 */
#include "tune/machine.h"

#include <dlfcn.h>
#include <hwloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HWLOC_CALLS(X)                                                                                                 \
    X(get_api_version)                                                                                                 \
    X(topology_init)                                                                                                   \
    X(topology_load)                                                                                                   \
    X(topology_destroy)                                                                                                \
    X(get_type_depth)                                                                                                  \
    X(get_nbobjs_by_depth)                                                                                             \
    X(get_obj_by_depth)                                                                                                \
    X(bitmap_isset)                                                                                                    \
    X(bitmap_isincluded)

/* One member for each call, of its type. */
struct hwloc_calls {
#define HWLOC_MEMBER(name) __typeof__(&hwloc_##name) name;
    HWLOC_CALLS(HWLOC_MEMBER)
#undef HWLOC_MEMBER
};

static bool load_hwloc(void *library, struct hwloc_calls *calls)
{
    bool all = true;
#define HWLOC_LOAD(name)                                                                                               \
    {                                                                                                                  \
        void *symbol = dlsym(library, "hwloc_" #name);                                                                 \
        memcpy(&calls->name, &symbol, sizeof symbol);                                                                  \
        all &= symbol != NULL;                                                                                         \
    }
    HWLOC_CALLS(HWLOC_LOAD)
#undef HWLOC_LOAD
    return all;
}

static unsigned cores_below(hwloc_obj_t o)
{
    unsigned n = o->type == HWLOC_OBJ_CORE;
    for (hwloc_obj_t child = o->first_child; child; child = child->next_sibling)
        n += cores_below(child);
    return n;
}

/* What a core shares first with others: a cache, or what the kernel calls a cluster; NULL if a whole node does. */
static hwloc_obj_t cluster_of(const struct hwloc_calls *h, hwloc_obj_t core, hwloc_obj_t node)
{
    hwloc_obj_t o = core->parent;
    while (o && cores_below(o) == 1)
        o = o->parent;
    bool shares = o && (o->type == HWLOC_OBJ_GROUP || (o->type >= HWLOC_OBJ_L1CACHE && o->type <= HWLOC_OBJ_L5CACHE));
    return shares && !(node && h->bitmap_isincluded(node->cpuset, o->cpuset)) ? o : NULL;
}

static hwloc_obj_t above(hwloc_obj_t o, hwloc_obj_type_t type)
{
    while (o && o->type != type)
        o = o->parent;
    return o;
}

/* Each cluster gets a number when its first core is met. */
static int number_cluster(struct tune_topology *t, hwloc_obj_t cluster, hwloc_obj_t seen[TUNE_CPUS])
{
    if (!cluster)
        return -1;
    for (int i = 0; i < t->clusters; i++)
        if (seen[i] == cluster)
            return i;
    if (!t->clusters)
        t->cluster_cores = (int)cores_below(cluster);
    seen[t->clusters] = cluster;
    return t->clusters++;
}

static hwloc_obj_t node_of(const struct hwloc_calls *h, hwloc_topology_t from, unsigned cpu)
{
    unsigned n = h->get_nbobjs_by_depth(from, HWLOC_TYPE_DEPTH_NUMANODE);
    for (unsigned i = 0; i < n; i++) {
        hwloc_obj_t node = h->get_obj_by_depth(from, HWLOC_TYPE_DEPTH_NUMANODE, i);
        if (h->bitmap_isset(node->cpuset, cpu))
            return node;
    }
    return NULL;
}

static void read_cpus(const struct hwloc_calls *h, hwloc_topology_t from, struct tune_topology *t)
{
    hwloc_obj_t *seen = calloc(TUNE_CPUS, sizeof(hwloc_obj_t));
    int depth = h->get_type_depth(from, HWLOC_OBJ_PU);
    unsigned n = h->get_nbobjs_by_depth(from, depth);
    for (unsigned i = 0; seen && i < n; i++) {
        hwloc_obj_t pu = h->get_obj_by_depth(from, depth, i), core = above(pu, HWLOC_OBJ_CORE);
        const unsigned number = core ? core->logical_index : i;
        if (pu->os_index >= TUNE_CPUS || number >= TUNE_CPUS)
            continue; /* numbers of CPUs need not be in the order of cores */
        struct tune_cpu *cpu = &t->cpus[pu->os_index];
        cpu->there = true;
        cpu->core = (int)number;
        hwloc_obj_t node = node_of(h, from, pu->os_index);
        cpu->node = node && node->os_index < TUNE_CPUS ? (int)node->os_index : -1;
        cpu->cluster = core ? number_cluster(t, cluster_of(h, core, node), seen) : -1;
    }
    free(seen);
}

static void read_topology(struct tune_machine *m, void *library)
{
    struct tune_topology *t = &m->topology;
    struct hwloc_calls h;
    hwloc_topology_t topology;
    if (!load_hwloc(library, &h) || h.get_api_version() >> 16 != HWLOC_API_VERSION >> 16) {
        snprintf(t->problem, sizeof t->problem, "libhwloc.so.15 is of another version");
        return;
    }
    /* What the kernel says, and nothing that is tried on the CPUs; there is no call for the root. */
    setenv("HWLOC_COMPONENTS", "linux,stop", 1);
    if (!m->live)
        setenv("HWLOC_FSROOT", m->root, 1);
    if (h.topology_init(&topology) < 0) {
        snprintf(t->problem, sizeof t->problem, "libhwloc could not be used");
    } else {
        if (h.topology_load(topology) < 0)
            snprintf(t->problem, sizeof t->problem, "libhwloc could not read the topology");
        else
            read_cpus(&h, topology, t);
        h.topology_destroy(topology);
    }
    unsetenv("HWLOC_COMPONENTS"); /* a load that we run is none of its business */
    unsetenv("HWLOC_FSROOT");
}

const struct tune_topology *tune_topology(struct tune_machine *m)
{
    struct tune_topology *t = &m->topology;
    if (m->loaded)
        return t;
    m->loaded = true;
    void *library = dlopen("libhwloc.so.15", RTLD_NOW | RTLD_LOCAL);
    if (!tune_exists(m, "/sys/devices/system/cpu/cpu0/topology")) {
        snprintf(t->problem, sizeof t->problem, "/sys/devices/system/cpu/cpu0/topology cannot be read");
    } else if (!library) {
        snprintf(t->problem, sizeof t->problem, "libhwloc.so.15 is not installed (Debian: libhwloc15)");
    } else {
        read_topology(m, library);
    }
    if (library)
        dlclose(library);
    return t;
}
