/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The library owns no signal: a program's handler of SIGBUS calls plx_memory_fault(), which finds the mapping without a
 * lock and puts other memory in its place, so that whoever touched it goes on, and whose it was is told.
 */
#include "reactor/guard.h"

#include <errno.h>
#include <pollux/reactor.h>
#include <string.h>
#include <sys/mman.h>

/* Written when it is taken and given back, while nobody can touch the memory; read by handlers. */
struct plx_guard {
    _Atomic(atomic_bool *) fault; /* NULL: free */
    _Atomic uintptr_t base;       /* 0: not yet, or no more */
    _Atomic size_t bytes;
    atomic_bool ones;
};

static struct plx_guard guards[PLX_GUARDS];
static atomic_uint guards_used; /* those from here on were never taken */

struct plx_guard *plx_guard_take(void *base, size_t bytes, bool ones, atomic_bool *fault)
{
    for (unsigned i = 0; i < PLX_GUARDS; i++) {
        struct plx_guard *g = &guards[i];
        atomic_bool *none = NULL;
        if (!atomic_compare_exchange_strong(&g->fault, &none, fault))
            continue;
        atomic_store(&g->bytes, bytes);
        atomic_store(&g->ones, ones);
        atomic_store(&g->base, (uintptr_t)base);
        for (unsigned used = i; used <= i && !atomic_compare_exchange_weak(&guards_used, &used, i + 1);)
            ;
        return g;
    }
    return NULL;
}

void plx_guard_give(struct plx_guard *g)
{
    atomic_store(&g->base, 0);
    atomic_store(&g->fault, NULL);
}

/* In a signal handler: mmap() is a system call and nothing else, memset() a loop. */
static bool guard_replace(struct plx_guard *g, uintptr_t at)
{
    const uintptr_t base = atomic_load(&g->base);
    const size_t bytes = atomic_load(&g->bytes);
    if (!base || at - base >= bytes || atomic_load(&g->base) != base) /* else it may be another mapping's size */
        return false;
    /* All of it: of huge pages no part can be replaced. */
    void *other = mmap((void *)base, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    if (other != MAP_FAILED && atomic_load(&g->ones))
        memset(other, 0xff, bytes);
    atomic_store(atomic_load(&g->fault), true);
    return other != MAP_FAILED;
}

bool plx_memory_fault(const void *at)
{
    const unsigned n = atomic_load(&guards_used);
    const int saved = errno;
    bool found = false;
    for (unsigned i = 0; i < n && !found; i++)
        found = guard_replace(&guards[i], (uintptr_t)at);
    errno = saved;
    return found;
}
