/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The inbox of a reactor: many send, one takes.
 *
 * It is a stack: senders push with a compare-and-swap, the reactor takes the whole of it with one exchange and turns
 * it round. Nothing is ever popped singly, so there is no ABA.
 *
 * Orders, all of which tests/model/test_inbox.c finds to be needed and enough:
 *
 * - The push releases and the taking acquires, so that a message and what its sender wrote before is there. Pushes of
 *   others in between do not break that: each is an update, and so goes on with the release of the one before.
 * - Sleeping. The sender writes `top`, then reads `asleep`; the reactor writes `asleep`, then reads `top`. All four
 *   are sequentially consistent, so at least one of the two sees the other's write, and no message is slept through.
 *   On x86 that is a locked instruction each, which the push is anyway; on Arm no more than the push's release, an
 *   acquire, and a release: stlr and a later ldar are not reordered, and there is no dmb.
 * - That the reactor is awake again is relaxed: who reads too late that it sleeps wakes it once more, in vain.
 */
#ifndef PLX_REACTOR_INBOX_H
#define PLX_REACTOR_INBOX_H

#include <pollux/reactor.h>

#include "base/apart.h"

#include <stdatomic.h>

/* Senders write `top` and read `asleep`, which so stays in their caches while it does not change. */
struct plx_inbox {
    _Alignas(PLX_CACHE_ALIGN) _Atomic(struct plx_msg *) top;
    _Alignas(PLX_CACHE_ALIGN) _Atomic bool asleep;
};
PLX_IS_APART(struct plx_inbox);

/* @return whether the reactor has to be woken */
static inline bool plx_inbox_push(struct plx_inbox *in, struct plx_msg *msg)
{
    struct plx_msg *top = atomic_load_explicit(&in->top, memory_order_relaxed);
    do
        msg->next = top;
    while (!atomic_compare_exchange_weak_explicit(&in->top, &top, msg, memory_order_seq_cst, memory_order_relaxed));
    return atomic_load_explicit(&in->asleep, memory_order_seq_cst);
}

static inline bool plx_inbox_waiting(const struct plx_inbox *in)
{
    return atomic_load_explicit(&in->top, memory_order_relaxed) != NULL;
}

/* @return all that is there, in the order in which it was sent */
static inline struct plx_msg *plx_inbox_take(struct plx_inbox *in)
{
    struct plx_msg *stack = atomic_exchange_explicit(&in->top, NULL, memory_order_acquire), *queue = NULL;
    while (stack) {
        struct plx_msg *next = stack->next;
        stack->next = queue;
        queue = stack;
        stack = next;
    }
    return queue;
}

/* From here on senders wake the reactor. @return whether something has come before */
static inline bool plx_inbox_doze(struct plx_inbox *in)
{
    atomic_store_explicit(&in->asleep, true, memory_order_seq_cst);
    return atomic_load_explicit(&in->top, memory_order_seq_cst) != NULL;
}

static inline void plx_inbox_rise(struct plx_inbox *in)
{
    atomic_store_explicit(&in->asleep, false, memory_order_relaxed);
}

#endif
