/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Timers: a pairing heap threaded through the timers themselves, so that setting one needs no memory and cannot fail.
 */
#include "reactor/owner.h"
#include "reactor/reactor.h"

#include <stdlib.h>

static struct plx_timer *meld(struct plx_timer *a, struct plx_timer *b)
{
    if (!a || !b)
        return a ? a : b;
    if (b->due < a->due) {
        struct plx_timer *t = a;
        a = b;
        b = t;
    }
    /* b becomes a's first child; prev of a first child is its parent, of the others their left sibling. */
    b->prev = a;
    b->sibling = a->child;
    if (b->sibling)
        b->sibling->prev = b;
    a->child = b;
    return a;
}

static struct plx_timer *meld_pairs(struct plx_timer *first)
{
    struct plx_timer *pairs = NULL, *root = NULL;
    while (first) {
        struct plx_timer *a = first, *b = a->sibling;
        first = b ? b->sibling : NULL;
        a->sibling = a->prev = NULL;
        if (b)
            b->sibling = b->prev = NULL;
        a = meld(a, b);
        a->sibling = pairs; /* from right to left, as the amortised bound wants it */
        pairs = a;
    }
    while (pairs) {
        struct plx_timer *next = pairs->sibling;
        pairs->sibling = NULL;
        root = meld(root, pairs);
        pairs = next;
    }
    return root;
}

static void detach(struct plx_reactor *r, struct plx_timer *t)
{
    struct plx_timer *children = meld_pairs(t->child);
    if (r->timers == t) {
        r->timers = children;
    } else {
        if (t->prev->child == t)
            t->prev->child = t->sibling;
        else
            t->prev->sibling = t->sibling;
        if (t->sibling)
            t->sibling->prev = t->prev;
        r->timers = meld(r->timers, children);
    }
    if (r->timers)
        r->timers->prev = r->timers->sibling = NULL;
    t->child = t->sibling = t->prev = NULL;
    t->set = false;
}

void plx_timer_set(struct plx_reactor *r, struct plx_timer *t, uint64_t delay_ns)
{
    plx_timer_cancel(r, t);
    if (!r->in_round)
        r->now = plx_clock_ns(); /* before the first round, say, `now` may be long ago */
    t->due = r->now + delay_ns;
    t->set = true;
    r->timers = meld(r->timers, t);
}

void plx_timer_cancel(struct plx_reactor *r, struct plx_timer *t)
{
    plx_assert_here(r);
    if (t->set)
        detach(r, t);
}

int plx_timers_run(struct plx_reactor *r)
{
    int n = 0;
    /* What a timer sets anew may be due now too. */
    for (struct plx_timer *t; (t = r->timers) && t->due <= r->now && n < 64; n++) {
        detach(r, t);
        t->fn(t);
    }
    return n;
}
