/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Which reactor a new connection goes to. Packets are handled on the core that their queue of the NIC interrupts (or
 * that RPS has chosen): a reactor there finds them in its cache, and is woken without an interrupt from core to core.
 * Where no reactor has that core, all connections of one queue go to one reactor. Else, and where one reactor would
 * get more than twice its share by that, the one with the fewest connections is taken.
 */
#include "nvmf/tcp/tcp.h"

static unsigned place_load(const struct nvmf_group *g)
{
    return atomic_load_explicit(&g->connections, memory_order_relaxed);
}

/* That with the fewest, in turn where there are several. */
static unsigned least(struct plx_nvmf_target *t)
{
    const unsigned first = t->next_group++ % t->nreactors;
    unsigned best = first;
    for (unsigned i = 1; i < t->nreactors; i++) {
        const unsigned other = (first + i) % t->nreactors;
        if (place_load(&t->groups[other]) < place_load(&t->groups[best]))
            best = other;
    }
    return best;
}

/* The reactor that connections of a NIC's queue go to, or t->nreactors. */
static unsigned by_napi(const struct plx_nvmf_target *t, unsigned napi)
{
    for (unsigned i = 0; napi && i < NVMF_NAPIS; i++)
        if (t->napis[i].id == napi)
            return t->napis[i].group;
    return t->nreactors;
}

/* Twice an even share of what there is with this one. */
static unsigned most_of(const struct plx_nvmf_target *t)
{
    const unsigned all = atomic_load_explicit(&t->connections, memory_order_relaxed) + 1;
    return 2 * ((all + t->nreactors - 1) / t->nreactors);
}

/* The reactor of a core, or t->nreactors. */
static unsigned by_cpu(const struct plx_nvmf_target *t, int cpu)
{
    unsigned i = 0;
    while (i < t->nreactors && (cpu < 0 || plx_reactor_core(t->reactors[i]) != cpu))
        i++;
    return i;
}

unsigned tcp_place(struct plx_nvmf_target *t, int cpu, unsigned napi, enum plx_nvmf_placed *why)
{
    const unsigned most = most_of(t), home = by_cpu(t, cpu), same = home < t->nreactors ? home : by_napi(t, napi);
    if (same < t->nreactors && place_load(&t->groups[same]) < most) {
        *why = same == home ? PLX_NVMF_PLACED_CPU : PLX_NVMF_PLACED_NAPI;
        return same;
    }
    *why = PLX_NVMF_PLACED_LOAD;
    const unsigned to = least(t);
    if (napi && same == t->nreactors)
        t->napis[t->next_napi++ % NVMF_NAPIS] = (struct nvmf_napi){napi, to};
    return to;
}
