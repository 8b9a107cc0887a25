/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A lock that is held for some hundred nanoseconds. The taking acquires and the giving back releases, so that what was
 * done under it is there for the next one: tests/model/test_spin.c. Who waits reads, and does not write, until it is
 * free: its line stays in everybody's cache.
 */
#ifndef PLX_BASE_SPIN_H
#define PLX_BASE_SPIN_H

#include "base/util.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>

enum { PLX_SPINS = 1000 }; /* before the lock's holder is given the core, in case it waits for that */

/*
 * Waits a little: for the core, that is. On x86 `pause`; on Arm `isb`, which is some 10 ns on a Neoverse N1, where
 * `yield` is none: measured by the Rust project (c064b6560b7c), where `isb` came instead of `yield` for that.
 */
static inline void plx_pause(void)
{
#if defined(PLX_MODEL)
    model_spin();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#elif defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static __attribute__((noinline, unused)) void plx_spin_wait(_Atomic bool *taken)
{
    unsigned spins = 0;
    do {
        while (atomic_load_explicit(taken, memory_order_relaxed)) {
            plx_pause();
            if (++spins % PLX_SPINS == 0)
                sched_yield();
        }
    } while (atomic_exchange_explicit(taken, true, memory_order_acquire));
}

static inline void plx_spin_lock(_Atomic bool *taken)
{
    if (plx_unlikely(atomic_exchange_explicit(taken, true, memory_order_acquire)))
        plx_spin_wait(taken);
}

static inline void plx_spin_unlock(_Atomic bool *taken)
{
    atomic_store_explicit(taken, false, memory_order_release);
}

#endif
