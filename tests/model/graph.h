/* SPDX-License-Identifier: BSD-3-Clause */
/* An execution so far: what each thread did, which write each read has read, and in which order writes were made. */
#ifndef PLX_MODEL_GRAPH_H
#define PLX_MODEL_GRAPH_H

#include "model.h"

enum {
    GRAPH_EVENTS = 120, /* they are numbers of 7 bits, and rows of bits */
    GRAPH_LOCATIONS = 48,
    GRAPH_THREADS = MODEL_THREADS + 1, /* and end() */
    GRAPH_WRITES = 20,                 /* to one location */
    GRAPH_INITIAL = -1,                /* the write that was there before */
};

enum op_kind {
    OP_NONE,
    OP_READ,
    OP_WRITE,
    OP_RMW,
    OP_FENCE,
    OP_DONE,
    OP_FAILED,
    OP_BEYOND, /* the model cannot say */
};

struct clock {
    uint8_t of[GRAPH_THREADS]; /* how many events of each thread are known */
};

struct event {
    uint8_t kind, order, thread, index, location;
    bool plain;
    int8_t from;    /* the event that it has read */
    uint64_t value; /* written */
    uint64_t got;
    struct clock known;    /* what happens before it, and itself */
    struct clock released; /* what who acquires it knows then */
};

/* What a thread would do next. */
struct op {
    uint8_t kind, order, fail_order, location;
    bool plain, compares, spins;
    uint8_t rmw;          /* enum rmw */
    uint64_t arg, expect; /* of the operation; of a compare-exchange */
    int8_t not_from;      /* spins: what it has seen already */
    const char *why;      /* OP_FAILED, OP_BEYOND */
};

enum rmw { RMW_SET, RMW_ADD, RMW_SUB, RMW_AND, RMW_OR, RMW_XOR };

struct line {
    int8_t write[GRAPH_WRITES]; /* in modification order */
    uint8_t n;
};

struct graph {
    unsigned n;
    struct event ev[GRAPH_EVENTS];
    int8_t of[GRAPH_THREADS][GRAPH_EVENTS]; /* a thread's events */
    uint8_t count[GRAPH_THREADS];
    struct line line[GRAPH_LOCATIONS];
    struct clock now[GRAPH_THREADS], pending[GRAPH_THREADS], fenced[GRAPH_THREADS];
    struct op next[GRAPH_THREADS];
    unsigned sc; /* events that are sequentially consistent */
};

static inline bool clock_has(const struct clock *c, const struct event *e)
{
    return c->of[e->thread] > e->index;
}

/* Which writes an operation may read: positions first..n-1 of its location. For a write: after which it may be. */
unsigned graph_first(const struct graph *g, unsigned thread, unsigned location);

/* Whether the write at a position is followed by an atomic operation that has read it. */
bool graph_taken(const struct graph *g, unsigned location, unsigned position);

/* @return what another thread has done to the location, unordered, or NULL */
const struct event *graph_race(const struct graph *g, unsigned thread, const struct op *o);

/* Adds an event; a write goes behind `position` of its location. */
struct event *graph_add(struct graph *g, unsigned thread, const struct op *o, enum op_kind kind, unsigned order,
                        unsigned position, uint64_t got, uint64_t value);

/* Whether there is an order of what is sequentially consistent: RC11's psc is acyclic. */
bool graph_consistent(const struct graph *g);

uint64_t graph_hash(const struct graph *g);

#endif
