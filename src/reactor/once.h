/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One message for however many reasons. Whoever has a reason leaves it where it is looked for, and asks; who is told so
 * sends the message. Whoever gets that hears, and then looks for reasons: those of all who asked before are there.
 *
 * Orders, of which tests/model/test_once.c finds that they are needed and enough: asking releases the reason, and
 * hearing acquires it, also that of those who sent nothing as the message was on its way: it is their exchange, or one
 * that came after it, which hearing reads, and so hearing is one too, not a store. And hearing releases, and asking
 * acquires, the message, which is written to again only when whoever got it has read it.
 */
#ifndef PLX_REACTOR_ONCE_H
#define PLX_REACTOR_ONCE_H

#include <stdatomic.h>
#include <stdbool.h>

/* From any thread. @return whether the caller is to send the message */
static inline bool plx_once_ask(_Atomic bool *asked)
{
    return !atomic_exchange_explicit(asked, true, memory_order_acq_rel);
}

/* In the message. */
static inline void plx_once_hear(_Atomic bool *asked)
{
    atomic_exchange_explicit(asked, false, memory_order_acq_rel);
}

#endif
