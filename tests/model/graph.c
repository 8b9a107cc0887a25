/* SPDX-License-Identifier: BSD-3-Clause */
#include "graph.h"

#include <string.h>

static bool acquires(unsigned order)
{
    return order == __ATOMIC_ACQUIRE || order == __ATOMIC_CONSUME || order == __ATOMIC_ACQ_REL ||
           order == __ATOMIC_SEQ_CST;
}

static bool releases(unsigned order)
{
    return order == __ATOMIC_RELEASE || order == __ATOMIC_ACQ_REL || order == __ATOMIC_SEQ_CST;
}

static void clock_join(struct clock *c, const struct clock *with)
{
    for (unsigned t = 0; t < GRAPH_THREADS; t++)
        if (c->of[t] < with->of[t])
            c->of[t] = with->of[t];
}

static bool is_write(const struct event *e)
{
    return e->kind == OP_WRITE || e->kind == OP_RMW;
}

static bool is_read(const struct event *e)
{
    return e->kind == OP_READ || e->kind == OP_RMW;
}

static unsigned position_of(const struct line *l, int write)
{
    for (unsigned i = 0; i < l->n; i++)
        if (l->write[i] == write)
            return i;
    return 0;
}

/* Coherence: what is known to have been written, or to have been read, is the oldest that there is. */
unsigned graph_first(const struct graph *g, unsigned thread, unsigned location)
{
    const struct line *l = &g->line[location];
    unsigned first = 0;
    for (unsigned i = 0; i < g->n; i++) {
        const struct event *e = &g->ev[i];
        if (e->kind == OP_FENCE || e->location != location || !clock_has(&g->now[thread], e))
            continue;
        const unsigned at = position_of(l, is_write(e) ? (int)i : e->from);
        if (at > first)
            first = at;
    }
    return first;
}

bool graph_taken(const struct graph *g, unsigned location, unsigned position)
{
    const struct line *l = &g->line[location];
    return position + 1u < l->n && g->ev[l->write[position + 1]].kind == OP_RMW;
}

const struct event *graph_race(const struct graph *g, unsigned thread, const struct op *o)
{
    for (unsigned i = 0; i < g->n; i++) {
        const struct event *e = &g->ev[i];
        if (e->kind == OP_FENCE || e->location != o->location || e->thread == thread || (!e->plain && !o->plain))
            continue;
        if ((is_write(e) || o->kind != OP_READ) && !clock_has(&g->now[thread], e))
            return e;
    }
    return NULL;
}

/* What who reads this write, and acquires, knows (C17 5.1.2.4: release sequences, as C++20 has them, and fences). */
static void carry(struct graph *g, struct event *e, unsigned thread)
{
    if (releases(e->order) && !e->plain)
        e->released = e->known;
    else if (!e->plain)
        e->released = g->fenced[thread];
    if (e->kind == OP_RMW && e->from >= 0)
        clock_join(&e->released, &g->ev[e->from].released);
}

static void see(struct graph *g, struct event *e, unsigned thread)
{
    if (e->from < 0 || e->plain)
        return;
    const struct clock *c = &g->ev[e->from].released;
    if (acquires(e->order))
        clock_join(&e->known, c);
    else
        clock_join(&g->pending[thread], c);
}

static void insert(struct line *l, unsigned position, int event)
{
    memmove(&l->write[position + 2], &l->write[position + 1], l->n - position - 1);
    l->write[position + 1] = (int8_t)event;
    l->n++;
}

struct event *graph_add(struct graph *g, unsigned thread, const struct op *o, enum op_kind kind, unsigned order,
                        unsigned position, uint64_t got, uint64_t value)
{
    const unsigned id = g->n++;
    struct event *e = &g->ev[id];
    *e = (struct event){.kind = (uint8_t)kind,
                        .order = (uint8_t)order,
                        .thread = (uint8_t)thread,
                        .index = g->count[thread],
                        .location = o->location,
                        .plain = o->plain,
                        .from = GRAPH_INITIAL,
                        .value = value,
                        .got = got,
                        .known = g->now[thread]};
    g->of[thread][g->count[thread]++] = (int8_t)id;
    e->known.of[thread] = g->count[thread];
    if (is_read(e)) {
        e->from = g->line[o->location].write[position];
        see(g, e, thread);
    }
    if (kind == OP_FENCE && acquires(order))
        clock_join(&e->known, &g->pending[thread]);
    if (kind == OP_FENCE && releases(order))
        g->fenced[thread] = e->known;
    if (is_write(e)) {
        carry(g, e, thread);
        insert(&g->line[o->location], position, (int)id);
    }
    g->now[thread] = e->known;
    g->sc += order == __ATOMIC_SEQ_CST && !e->plain;
    return e;
}

/* ---- sequential consistency ---- */

/* Relations between events, as rows of bits. */
typedef unsigned __int128 row;
typedef row relation[GRAPH_EVENTS];

static row bit_of(unsigned i)
{
    return (row)1 << i;
}

static unsigned lowest(row r)
{
    const uint64_t low = (uint64_t)r;
    return low ? (unsigned)__builtin_ctzll(low) : 64 + (unsigned)__builtin_ctzll((uint64_t)(r >> 64));
}

static void compose(unsigned n, relation out, const relation a, const relation b)
{
    for (unsigned i = 0; i < n; i++) {
        row all = 0;
        for (row m = a[i]; m; m &= m - 1)
            all |= b[lowest(m)];
        out[i] = all;
    }
}

static void close_over(unsigned n, relation r)
{
    for (unsigned k = 0; k < n; k++)
        for (unsigned i = 0; i < n; i++)
            if (r[i] >> k & 1)
                r[i] |= r[k];
}

struct relations {
    relation hb, near, eco, scb; /* near: sb between different locations */
};

/* A pair that `hb` orders, and what else is between the two. */
static void relate_pair(const struct graph *g, struct relations *r, unsigned i, unsigned k)
{
    const struct event *a = &g->ev[i], *b = &g->ev[k];
    const row bit = bit_of(k);
    const bool same = a->kind != OP_FENCE && b->kind != OP_FENCE && a->location == b->location;
    if (clock_has(&b->known, a)) {
        r->hb[i] |= bit;
        if (same)
            r->scb[i] |= bit;
        if (a->thread == b->thread) {
            r->scb[i] |= bit;
            if (!same)
                r->near[i] |= bit;
        }
    }
    if (!same)
        return;
    const struct line *l = &g->line[a->location];
    const unsigned at = position_of(l, is_write(a) ? (int)i : a->from);
    if (is_read(b) && b->from == (int)i)
        r->eco[i] |= bit;
    if (is_write(b) && position_of(l, (int)k) > at) { /* mo, or rb */
        r->eco[i] |= bit;
        r->scb[i] |= bit;
    }
    /* rb of an atomic operation is from what it has read, but that is mo from itself but for itself */
}

static bool is_sc(const struct event *e, bool fence)
{
    return e->order == __ATOMIC_SEQ_CST && !e->plain && (e->kind == OP_FENCE) == fence;
}

/* [E_sc] u [F_sc];hb?  as rows, or its mirror, E_sc u hb?;[F_sc], as columns */
static void ends(const struct graph *g, const struct relations *r, relation out, bool from)
{
    memset(out, 0, sizeof(relation));
    for (unsigned i = 0; i < g->n; i++) {
        const row self = bit_of(i);
        if (is_sc(&g->ev[i], false) || is_sc(&g->ev[i], true))
            out[i] |= self;
        if (from && is_sc(&g->ev[i], true))
            out[i] |= r->hb[i];
        for (unsigned k = 0; !from && k < g->n; k++)
            if (is_sc(&g->ev[k], true) && r->hb[i] >> k & 1)
                out[i] |= bit_of(k);
    }
}

bool graph_consistent(const struct graph *g)
{
    if (g->sc < 2)
        return true;
    struct relations r;
    relation a, b, psc;
    const unsigned n = g->n;
    memset(&r, 0, sizeof r);
    for (unsigned i = 0; i < n; i++)
        for (unsigned k = 0; k < n; k++)
            if (i != k)
                relate_pair(g, &r, i, k);
    compose(n, a, r.near, r.hb);
    compose(n, b, a, r.near);
    for (unsigned i = 0; i < n; i++)
        r.scb[i] |= b[i];
    close_over(n, r.eco);
    /* psc_base */
    ends(g, &r, a, true);
    compose(n, b, a, r.scb);
    ends(g, &r, a, false);
    compose(n, psc, b, a);
    /* psc_F: fences that hb, or hb;eco;hb, leads from and to */
    compose(n, a, r.hb, r.eco);
    compose(n, b, a, r.hb);
    for (unsigned i = 0; i < n; i++)
        for (unsigned k = 0; k < n && is_sc(&g->ev[i], true); k++)
            if (is_sc(&g->ev[k], true))
                psc[i] |= (b[i] | r.hb[i]) & bit_of(k);
    close_over(n, psc);
    for (unsigned i = 0; i < n; i++)
        if (psc[i] >> i & 1)
            return false;
    return true;
}

/* ---- executions that were seen ---- */

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * UINT64_C(0x9e3779b97f4a7c15);
    return h ^ h >> 29;
}

static uint64_t name_of(const struct graph *g, int event)
{
    return event < 0 ? 0xff : (uint64_t)g->ev[event].thread << 8 | g->ev[event].index;
}

uint64_t graph_hash(const struct graph *g)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (unsigned t = 0; t < GRAPH_THREADS; t++) {
        h = mix(h, g->count[t]);
        for (unsigned i = 0; i < g->count[t]; i++) {
            const struct event *e = &g->ev[g->of[t][i]];
            h = mix(h, is_read(e) ? name_of(g, e->from) : 0x10000u + e->kind);
        }
    }
    for (unsigned l = 0; l < GRAPH_LOCATIONS; l++)
        for (unsigned i = 1; i < g->line[l].n; i++)
            h = mix(h, name_of(g, g->line[l].write[i]) | l << 16);
    return h | 1;
}
