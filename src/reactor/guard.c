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

/*
 * Written when it is taken and given back, while nobody can touch the memory; read by handlers, of any other memory.
 *
 * Orders, of which tests/model/test_guard.c finds that they are needed and enough: who acquires a base has all of what
 * was written before it was released. A place that is given back and taken anew may be read half as it was: then the
 * size, released and acquired as well, brings along that the base is another by now, which is looked at once more.
 * Whoever takes a place acquires what whoever gave it back released, which so comes before. Whoever touches memory has
 * been told of it: that orders `guards_used`, which is relaxed.
 */
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
        if (!atomic_compare_exchange_strong_explicit(&g->fault, &none, fault, memory_order_acquire,
                                                     memory_order_relaxed))
            continue;
        atomic_store_explicit(&g->bytes, bytes, memory_order_release);
        atomic_store_explicit(&g->ones, ones, memory_order_relaxed);
        atomic_store_explicit(&g->base, (uintptr_t)base, memory_order_release);
        unsigned used = atomic_load_explicit(&guards_used, memory_order_relaxed);
        while (used <= i && !atomic_compare_exchange_weak_explicit(&guards_used, &used, i + 1, memory_order_relaxed,
                                                                   memory_order_relaxed))
            ;
        return g;
    }
    return NULL;
}

void plx_guard_give(struct plx_guard *g)
{
    atomic_store_explicit(&g->base, 0, memory_order_relaxed);
    atomic_store_explicit(&g->fault, NULL, memory_order_release);
}

/* In a signal handler: mmap() is a system call and nothing else, memset() a loop. */
static bool guard_replace(struct plx_guard *g, uintptr_t at)
{
    const uintptr_t base = atomic_load_explicit(&g->base, memory_order_acquire);
    const size_t bytes = atomic_load_explicit(&g->bytes, memory_order_acquire);
    if (!base || at - base >= bytes)
        return false;
    if (atomic_load_explicit(&g->base, memory_order_relaxed) != base) /* it may be another mapping's size */
        return false;
    /* All of it: of huge pages no part can be replaced. */
    void *other = mmap((void *)base, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    if (other != MAP_FAILED && atomic_load_explicit(&g->ones, memory_order_relaxed))
        memset(other, 0xff, bytes);
    atomic_store_explicit(atomic_load_explicit(&g->fault, memory_order_relaxed), true, memory_order_relaxed);
    return other != MAP_FAILED;
}

bool plx_memory_fault(const void *at)
{
    const unsigned n = atomic_load_explicit(&guards_used, memory_order_relaxed);
    const int saved = errno;
    bool found = false;
    for (unsigned i = 0; i < n && !found; i++)
        found = guard_replace(&guards[i], (uintptr_t)at);
    errno = saved;
    return found;
}
