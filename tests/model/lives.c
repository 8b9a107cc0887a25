/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Lives of a process that end at any point. What it has written by then is what was written in some order that its
 * stores may be made in: a store that releases, or that comes after a fence that does, is made after all before it, two
 * of the same memory are made in their order, and all others are made in any. Each set of stores that such an order
 * leaves is memory that the next life begins with, which may end in turn.
 */
#include "lives.h"

#include <assert.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STORES = 120, SPANS = 8, BYTES = 2048 };

/* Stores, as bits. */
typedef unsigned __int128 set;

struct store {
    volatile uint8_t *at;
    uint8_t bytes;
    uint64_t value;
    set before; /* those that are made before */
};

static struct {
    volatile uint8_t *at;
    size_t bytes;
} spans[SPANS];
static unsigned nspans;

/* The life that is being recorded. */
static struct life {
    const uint8_t *from; /* the memory that it begins with */
    struct store store[STORES];
    unsigned n;
    set fenced; /* what comes before the last fence */
} * recorded;
static struct {
    volatile uint8_t *at;
    uint8_t bytes;
} plain; /* a store that is being made */
static const struct model_program *program;
static unsigned long ends;
static const char *failed;
static jmp_buf out;
static bool runs;

void model_survives(volatile void *at, size_t bytes)
{
    assert(nspans < SPANS);
    spans[nspans].at = at;
    spans[nspans++].bytes = bytes;
}

void lives_begin(void)
{
    nspans = 0;
}

bool lives_run_now(void)
{
    return runs;
}

/* ---- recording ---- */

/* Where it is in an image of all that survives; or -1. */
static long offset_of(const volatile void *at)
{
    const volatile uint8_t *p = at;
    long offset = 0;
    for (unsigned i = 0; i < nspans; offset += (long)spans[i++].bytes)
        if (p >= spans[i].at && p < spans[i].at + spans[i].bytes)
            return offset + (p - spans[i].at);
    return -1;
}

static bool survives(const volatile void *at)
{
    return offset_of(at) >= 0;
}

static set all_until(unsigned n)
{
    return ((set)1 << n) - 1;
}

static void add(volatile uint8_t *at, uint8_t bytes, uint64_t value, set before)
{
    struct life *l = recorded;
    bool first = true;
    for (unsigned i = 0; i < l->n; i++) {
        const struct store *s = &l->store[i];
        if (s->at < at + bytes && at < s->at + s->bytes)
            before |= (set)1 << i, first = false;
    }
    if (first && !memcmp(l->from + offset_of(at), &value, bytes))
        return; /* what is there already */
    if (l->n == STORES)
        lives_fail("too many stores for the model");
    l->store[l->n++] = (struct store){at, bytes, value, before};
}

static void settle(void)
{
    volatile uint8_t *at = plain.at;
    unsigned left = plain.bytes;
    plain.bytes = 0;
    for (unsigned n; left; left -= n, at += n) {
        uint64_t v = 0;
        n = left > 8 ? 8 : left;
        memcpy(&v, (const void *)(uintptr_t)at, n);
        add(at, (uint8_t)n, v, recorded->fenced);
    }
}

void lives_plain(const volatile void *at, unsigned bytes, bool writes)
{
    if (!recorded)
        return;
    settle();
    if (!writes || !survives(at))
        return;
    assert(bytes <= UINT8_MAX);
    plain.at = (volatile uint8_t *)(uintptr_t)at;
    plain.bytes = (uint8_t)bytes;
}

void lives_atomic(const volatile void *at, unsigned bytes, const struct op *o, const char *name)
{
    if (!recorded)
        return;
    settle();
    if (o->kind != OP_WRITE || !survives(at))
        return;
    const int order = explore_order(name, o, o->order, true);
    const bool releases = order == __ATOMIC_RELEASE || order == __ATOMIC_SEQ_CST;
    add((volatile uint8_t *)(uintptr_t)at, (uint8_t)bytes, o->arg,
        releases ? all_until(recorded->n) : recorded->fenced);
}

void lives_fence(int order)
{
    if (!recorded)
        return;
    settle();
    if (order == __ATOMIC_RELEASE || order == __ATOMIC_ACQ_REL || order == __ATOMIC_SEQ_CST)
        recorded->fenced = all_until(recorded->n);
}

/* ---- lives ---- */

static size_t memory_save(uint8_t *to)
{
    size_t n = 0;
    for (unsigned i = 0; i < nspans; n += spans[i++].bytes) {
        assert(n + spans[i].bytes <= BYTES);
        memcpy(to + n, (const void *)(uintptr_t)spans[i].at, spans[i].bytes);
    }
    return n;
}

static void memory_restore(const uint8_t *from)
{
    for (unsigned i = 0; i < nspans; from += spans[i++].bytes)
        memcpy((void *)(uintptr_t)spans[i].at, from, spans[i].bytes);
}

void lives_fail(const char *why)
{
    failed = why;
    longjmp(out, 1);
}

/* @return false when it goes wrong */
static bool record(void (*body)(void), const uint8_t *from, struct life *l)
{
    *l = (struct life){.from = from};
    recorded = l;
    plain.bytes = 0;
    runs = true;
    failed = NULL;
    if (!setjmp(out)) {
        body();
        settle();
    }
    recorded = NULL;
    runs = false;
    return !failed;
}

/* Memories that the life may leave: of all stores from the i-th on, with and without each that may be missing. */
static bool next_life(const uint8_t *memory, unsigned left);

static void describe(const struct life *l, set made, unsigned left)
{
    if (!getenv("MODEL_TRACE") || explore_expects())
        return;
    fprintf(stderr, "%s: %s, with %u more lives, after\n", program->name, failed, left);
    for (unsigned i = 0; i < l->n; i++)
        fprintf(stderr, "  %2u %s %s+%ld of %u is %llx\n", i, made >> i & 1 ? "made" : "    ",
                explore_name(l->store[i].at), offset_of(l->store[i].at), l->store[i].bytes,
                (unsigned long long)l->store[i].value);
}

static bool each_end(const struct life *l, unsigned i, set made, const uint8_t *before, unsigned left)
{
    if (i < l->n)
        return ((l->store[i].before & ~made) || each_end(l, i + 1, made | (set)1 << i, before, left)) &&
               each_end(l, i + 1, made, before, left);
    uint8_t memory[BYTES];
    memory_restore(before);
    for (unsigned k = 0; k < l->n; k++)
        if (made >> k & 1)
            memcpy((void *)(uintptr_t)l->store[k].at, &l->store[k].value, l->store[k].bytes);
    memory_save(memory);
    if (next_life(memory, left))
        return true;
    describe(l, made, left);
    return false;
}

/* Which memories were seen, with so many lives left. */
static bool lives_seen(const uint8_t *memory, size_t n, unsigned left)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325) + left;
    for (size_t i = 0; i < n; i++)
        h = (h ^ memory[i]) * UINT64_C(0x100000001b3);
    return explore_seen(h | 1);
}

static bool next_life(const uint8_t *memory, unsigned left)
{
    struct life l;
    size_t n = 0;
    for (unsigned i = 0; i < nspans; i++)
        n += spans[i].bytes;
    if (lives_seen(memory, n, left))
        return true;
    ends++;
    memory_restore(memory);
    if (!record(program->end, memory, &l))
        return false;
    return !left || each_end(&l, 0, 0, memory, left - 1);
}

const char *lives_run(const struct model_program *p, unsigned long *executions)
{
    static uint8_t before[BYTES];
    struct life l;
    program = p;
    ends = 0;
    memory_save(before);
    const bool well = record(p->life, before, &l) && each_end(&l, 0, 0, before, p->ends ? p->ends - 1 : 0);
    *executions = ends;
    return well ? NULL : failed;
}
