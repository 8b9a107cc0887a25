/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Every execution of a program: from each one so far, each thread's next access in each way that it may go. What two
 * orders of steps have in common is looked at once. In RC11 no thread reads what is written only because it has read
 * it, so a read finds its write among those that are there already, in some order of the steps.
 */
#include "explore.h"

#include "lives.h"

#include <assert.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct location {
    volatile void *at;
    uint8_t bytes;
    uint64_t initial;
    const char *name;
};

static struct name {
    const volatile char *at;
    size_t bytes;
    const char *name;
} names[64];

static struct cells {
    const volatile char *at;
    size_t bytes;
    unsigned cell;
} cells[8];

static struct location locations[GRAPH_LOCATIONS];
static unsigned nlocations, nnames, ncells;
static const struct model_program *program;
static char wrong[512];
static bool is_beyond;
static unsigned long executions;

/* The thread that is being run. */
static struct {
    struct graph *g;
    unsigned thread, at; /* its next event */
    bool on;
    unsigned nplain, plain[8]; /* stores that are being made: their locations */
    int8_t last;               /* what was read last: the event */
    bool spins;
    jmp_buf out;
} run;

/* ---- what is shared ---- */

static bool on_stack(const volatile void *p)
{
    static char *low, *high;
    if (!low) {
        pthread_attr_t a;
        size_t bytes;
        void *at;
        pthread_getattr_np(pthread_self(), &a);
        pthread_attr_getstack(&a, &at, &bytes);
        pthread_attr_destroy(&a);
        low = at;
        high = low + bytes;
    }
    return (const volatile char *)p >= low && (const volatile char *)p < high;
}

static uint64_t memory_get(const struct location *l)
{
    uint64_t v = 0;
    memcpy(&v, (const void *)(uintptr_t)l->at, l->bytes);
    return v;
}

static void memory_put(const struct location *l, uint64_t v)
{
    if (memory_get(l) != v) /* constants are never written */
        memcpy((void *)(uintptr_t)l->at, &v, l->bytes);
}

void model_name(const volatile void *at, size_t bytes, const char *name)
{
    assert(nnames < sizeof names / sizeof *names);
    names[nnames++] = (struct name){at, bytes, name};
}

void model_cells(const volatile void *at, size_t bytes, unsigned cell)
{
    assert(ncells < sizeof cells / sizeof *cells);
    cells[ncells++] = (struct cells){at, bytes, cell};
}

const char *explore_name(const volatile void *at)
{
    const volatile char *p = at;
    for (unsigned i = 0; i < nnames; i++)
        if (p >= names[i].at && p < names[i].at + names[i].bytes)
            return names[i].name;
    return "something";
}

static __attribute__((noreturn)) void leave(struct op o)
{
    run.g->next[run.thread] = o;
    longjmp(run.out, 1);
}

static __attribute__((noreturn)) void beyond_model(const char *why)
{
    leave((struct op){.kind = OP_BEYOND, .why = why});
}

static unsigned locate(const volatile void *at, unsigned bytes)
{
    for (unsigned i = 0; i < nlocations; i++) {
        const struct location *l = &locations[i];
        if (l->at == at && l->bytes == bytes)
            return i;
        if ((const volatile char *)l->at < (const volatile char *)at + bytes &&
            (const volatile char *)at < (const volatile char *)l->at + l->bytes)
            beyond_model("memory that is accessed in pieces of different sizes");
    }
    if (nlocations == GRAPH_LOCATIONS)
        beyond_model("too many locations for the model");
    struct location *l = &locations[nlocations];
    *l = (struct location){
        .at = at ? (volatile void *)(uintptr_t)at : NULL, .bytes = (uint8_t)bytes, .name = explore_name(at)};
    l->initial = memory_get(l);
    return nlocations++;
}

static uint64_t value_of(const struct graph *g, unsigned location, int event)
{
    return event < 0 ? locations[location].initial : g->ev[event].value;
}

static uint64_t newest(const struct graph *g, unsigned location)
{
    const struct line *l = &g->line[location];
    return value_of(g, location, l->n ? l->write[l->n - 1] : GRAPH_INITIAL);
}

/* ---- what a thread does ---- */

/* A plain store is known when it has been made: at the thread's next access, or its end. */
static void settle(void)
{
    const unsigned n = run.nplain;
    run.nplain = 0;
    for (unsigned i = 0; i < n; i++) {
        const unsigned l = run.plain[i];
        if (run.at++ >= run.g->count[run.thread])
            leave(
                (struct op){.kind = OP_WRITE, .plain = true, .location = (uint8_t)l, .arg = memory_get(&locations[l])});
    }
}

/* The next access. @return the event, if it has been decided */
static const struct event *step(struct op o)
{
    struct graph *g = run.g;
    if (run.at >= g->count[run.thread]) {
        o.spins = run.spins && o.location == g->ev[run.last].location;
        o.not_from = o.spins ? g->ev[run.last].from : 0;
        leave(o);
    }
    const int8_t id = g->of[run.thread][run.at++];
    const struct event *e = &g->ev[id];
    if ((e->kind == OP_FENCE) != (o.kind == OP_FENCE) || (e->kind != OP_FENCE && e->location != o.location))
        beyond_model("a thread that does not do the same when it reads the same");
    if (e->kind == OP_READ || e->kind == OP_RMW) {
        run.spins = false;
        run.last = id;
    }
    return e;
}

/* How much of it is one location: see model_cells(). */
static unsigned cell_at(const volatile void *at, unsigned bytes)
{
    const volatile char *p = at;
    for (unsigned i = 0; i < ncells; i++)
        if (p >= cells[i].at && p < cells[i].at + cells[i].bytes && bytes > cells[i].cell)
            return cells[i].cell;
    return bytes > 8 ? 8 : bytes;
}

/* Whether a store there has not been settled. */
static bool is_unsettled(const volatile void *at, unsigned bytes)
{
    for (unsigned cell; run.nplain && bytes; bytes -= cell, at = (const volatile char *)at + cell) {
        cell = cell_at(at, bytes);
        const unsigned l = locate(at, cell);
        for (unsigned i = 0; i < run.nplain; i++)
            if (run.plain[i] == l)
                return true;
    }
    return false;
}

/*
 * Plain stores are told of before they are made, of a struct even before what is copied there is read. So a plain load
 * from elsewhere does not settle them: nothing is ordered by either.
 */
void explore_plain(const volatile void *at, unsigned bytes, bool writes)
{
    if (!run.on)
        lives_plain(at, bytes, writes);
    if (!run.on || on_stack(at))
        return;
    if (writes || is_unsettled(at, bytes))
        settle();
    for (unsigned cell; bytes; bytes -= cell, at = (const volatile char *)at + cell) {
        cell = cell_at(at, bytes);
        const unsigned l = locate(at, cell);
        if (writes) {
            if (run.nplain == sizeof run.plain / sizeof *run.plain)
                beyond_model("too many stores at once for the model");
            memory_put(&locations[l], newest(run.g, l));
            run.plain[run.nplain++] = l;
        } else {
            memory_put(&locations[l], step((struct op){.kind = OP_READ, .plain = true, .location = (uint8_t)l})->got);
        }
    }
}

uint64_t explore_atomic(const volatile void *at, unsigned bytes, struct op o)
{
    if (!run.on && lives_run_now()) {
        lives_atomic(at, bytes, &o, explore_name(at));
        return explore_outside(at, bytes, &o);
    }
    if (!run.on || on_stack(at))
        return explore_outside(at, bytes, &o);
    settle();
    o.location = (uint8_t)locate(at, bytes);
    const bool ours = !(program->peers >> run.thread & 1) && run.thread < MODEL_THREADS;
    o.order = (uint8_t)explore_order(locations[o.location].name, &o, o.order, ours);
    if (o.compares)
        o.fail_order = (uint8_t)explore_order(locations[o.location].name, NULL, o.fail_order, ours);
    return step(o)->got;
}

void explore_fence(int order, const void *where)
{
    if (!run.on) {
        lives_fence(order); /* it is between threads: not under test here */
        return;
    }
    settle();
    const bool ours = !(program->peers >> run.thread & 1) && run.thread < MODEL_THREADS;
    struct op o = {.kind = OP_FENCE};
    const int is = explore_order(explore_fence_name(where), &o, order, ours);
    if (is == __ATOMIC_RELAXED)
        return;
    o.order = (uint8_t)is;
    step(o);
}

void explore_signal_fence(int order, const void *where)
{
    const struct op fence = {.kind = OP_FENCE};
    if (lives_run_now())
        lives_fence(explore_order(explore_fence_name(where), &fence, order, true));
}

void model_spin(void)
{
    settle();
    run.spins = run.last >= 0;
}

void model_hold(bool is_true, const char *what)
{
    if (lives_run_now()) {
        if (!is_true)
            lives_fail(what);
        return;
    }
    settle();
    if (!is_true)
        leave((struct op){.kind = OP_FAILED, .why = what});
}

void model_tell(uint32_t *eventfd)
{
    explore_atomic(eventfd, 4,
                   (struct op){.kind = OP_RMW, .order = EXPLORE_OWN | __ATOMIC_ACQ_REL, .rmw = RMW_OR, .arg = 1});
}

void model_hear(uint32_t *eventfd)
{
    const struct op take = {.kind = OP_RMW,
                            .order = EXPLORE_OWN | __ATOMIC_ACQ_REL,
                            .compares = true,
                            .expect = 1,
                            .fail_order = EXPLORE_OWN | __ATOMIC_RELAXED};
    while (!explore_atomic(eventfd, 4, take))
        model_spin();
}

void model_lock(uint32_t *lock)
{
    for (;;) {
        uint64_t was = explore_atomic(lock, 4,
                                      (struct op){.kind = OP_RMW,
                                                  .order = EXPLORE_OWN | __ATOMIC_ACQUIRE,
                                                  .compares = true,
                                                  .arg = 1,
                                                  .fail_order = EXPLORE_OWN | __ATOMIC_RELAXED});
        if (!was)
            return;
        model_spin();
    }
}

void model_unlock(uint32_t *lock)
{
    explore_atomic(lock, 4, (struct op){.kind = OP_WRITE, .order = EXPLORE_OWN | __ATOMIC_RELEASE});
}

/* ---- executions ---- */

static void (*body(unsigned t))(void)
{
    return t == MODEL_THREADS ? program->end : program->thread[t];
}

/* Finds out what the thread does next. */
static void look_ahead(struct graph *g, unsigned t)
{
    for (unsigned l = 0; l < GRAPH_LOCATIONS; l++)
        if (!g->line[l].n)
            g->line[l] = (struct line){.write = {GRAPH_INITIAL}, .n = 1};
    run.g = g;
    run.thread = t;
    run.at = 0;
    run.nplain = 0;
    run.spins = false;
    run.last = -1;
    if (!setjmp(run.out)) {
        run.on = true;
        body(t)();
        settle();
        run.g->next[t] = (struct op){.kind = OP_DONE};
    }
    run.on = false;
}

static void describe(const struct graph *g, const char *why)
{
    static const char *const kinds[] = {"", "load", "store", "update", "fence", "", ""};
    static const char *const orders[] = {"relaxed", "consume", "acquire", "release", "acq_rel", "seq_cst"};
    int n = snprintf(wrong, sizeof wrong, "%s", why);
    if (!getenv("MODEL_TRACE") || explore_expects())
        return;
    fprintf(stderr, "%s: %.*s\n", program->name, n, wrong);
    for (unsigned i = 0; i < g->n; i++) {
        const struct event *e = &g->ev[i];
        fprintf(stderr, "  %2u  %*s%s %s %s got %llx wrote %llx from %d\n", i, e->thread * 6, "", kinds[e->kind],
                e->kind == OP_FENCE ? "" : locations[e->location].name, e->plain ? "plain" : orders[e->order],
                (unsigned long long)e->got, (unsigned long long)e->value, e->from);
    }
}

static bool fail(const struct graph *g, const char *why)
{
    describe(g, why);
    return false;
}

/* ---- which were seen ---- */

static uint64_t *seen;
static size_t seen_n, seen_size;

bool explore_seen(uint64_t h)
{
    if (2 * (seen_n + 1) > seen_size) {
        uint64_t *old = seen;
        const size_t size = seen_size;
        seen_size = size ? 2 * size : 1 << 16;
        seen = calloc(seen_size, sizeof *seen);
        seen_n = 0;
        for (size_t i = 0; i < size; i++)
            if (old[i])
                explore_seen(old[i]);
        free(old);
    }
    size_t i = h & (seen_size - 1);
    for (; seen[i]; i = (i + 1) & (seen_size - 1))
        if (seen[i] == h)
            return true;
    seen[i] = h;
    seen_n++;
    return false;
}

/* ---- steps ---- */

static bool explore(const struct graph *g);

uint64_t explore_updated(const struct op *o, uint64_t was, unsigned bytes)
{
    uint64_t v = 0;
    switch ((enum rmw)o->rmw) {
    case RMW_SET:
        v = o->arg;
        break;
    case RMW_ADD:
        v = was + o->arg;
        break;
    case RMW_SUB:
        v = was - o->arg;
        break;
    case RMW_AND:
        v = was & o->arg;
        break;
    case RMW_OR:
        v = was | o->arg;
        break;
    case RMW_XOR:
        v = was ^ o->arg;
        break;
    }
    return bytes == 8 ? v : v & ((UINT64_C(1) << 8 * bytes) - 1);
}

/* One way to go on. */
static bool go(const struct graph *g, unsigned t, enum op_kind kind, unsigned position)
{
    struct graph next = *g;
    const struct op *o = &g->next[t];
    const unsigned l = o->location;
    uint64_t got = 0, value = o->arg;
    unsigned order = o->order;
    if (kind == OP_READ || kind == OP_RMW)
        got = value_of(g, l, g->line[l].write[position]);
    if (kind == OP_RMW)
        value = explore_updated(o, got, locations[l].bytes);
    if (o->compares && kind == OP_READ)
        order = o->fail_order;
    graph_add(&next, t, o, kind, order, position, got, value);
    if (!graph_consistent(&next))
        return true;
    look_ahead(&next, t);
    return explore(&next);
}

static bool read_or_update(const struct graph *g, unsigned t)
{
    const struct op *o = &g->next[t];
    const struct line *l = &g->line[o->location];
    for (unsigned p = graph_first(g, t, o->location); p < l->n; p++) {
        enum op_kind kind = (enum op_kind)o->kind;
        if (o->spins && l->write[p] == o->not_from)
            continue;
        if (o->compares && value_of(g, o->location, l->write[p]) != o->expect)
            kind = OP_READ;
        if (kind == OP_RMW && graph_taken(g, o->location, p))
            continue;
        if (!go(g, t, kind, p))
            return false;
    }
    return true;
}

static bool write_somewhere(const struct graph *g, unsigned t)
{
    const struct op *o = &g->next[t];
    for (unsigned p = graph_first(g, t, o->location); p < g->line[o->location].n; p++)
        if (!graph_taken(g, o->location, p) && !go(g, t, OP_WRITE, p))
            return false;
    return true;
}

static bool go_on(const struct graph *g, unsigned t)
{
    const struct op *o = &g->next[t];
    if (g->n == GRAPH_EVENTS || (o->kind != OP_FENCE && g->line[o->location].n == GRAPH_WRITES)) {
        is_beyond = true;
        return fail(g, "too many steps for the model");
    }
    if (o->kind == OP_FENCE)
        return go(g, t, OP_FENCE, 0);
    if (graph_race(g, t, o)) {
        static char why[200];
        snprintf(why, sizeof why, "a data race: %s", locations[o->location].name);
        return fail(g, why);
    }
    return o->kind == OP_WRITE ? write_somewhere(g, t) : read_or_update(g, t);
}

/* Steps that go one way whatever the others do: at once. */
static bool is_certain(const struct op *o)
{
    return o->kind == OP_FENCE || (o->plain && (o->kind == OP_READ || o->kind == OP_WRITE));
}

static bool can_go(const struct graph *g, unsigned t)
{
    const struct op *o = &g->next[t];
    if (o->kind == OP_DONE)
        return false;
    const struct line *l = &g->line[o->location];
    for (unsigned p = graph_first(g, t, o->location); o->spins && p < l->n; p++)
        if (l->write[p] != o->not_from)
            return true;
    return !o->spins;
}

static bool over(const struct graph *g, bool all_done)
{
    if (!all_done)
        return program->may_block ? true : fail(g, "a thread waits for ever");
    executions++;
    if (!program->end || g->next[MODEL_THREADS].kind != OP_NONE)
        return true;
    struct graph last = *g;
    for (unsigned t = 0; t < MODEL_THREADS; t++)
        for (unsigned i = 0; i < GRAPH_THREADS; i++)
            if (last.now[MODEL_THREADS].of[i] < g->now[t].of[i])
                last.now[MODEL_THREADS].of[i] = g->now[t].of[i];
    look_ahead(&last, MODEL_THREADS);
    return explore(&last);
}

static bool explore(const struct graph *g)
{
    bool some = false, all_done = true;
    if (explore_seen(graph_hash(g) ^ (g->next[MODEL_THREADS].kind != OP_NONE)))
        return true;
    for (unsigned t = 0; t < GRAPH_THREADS; t++) {
        is_beyond = g->next[t].kind == OP_BEYOND;
        if (is_beyond || g->next[t].kind == OP_FAILED)
            return fail(g, g->next[t].why);
        if (is_certain(&g->next[t]))
            return go_on(g, t);
    }
    for (unsigned t = 0; t < GRAPH_THREADS; t++) {
        if (g->next[t].kind == OP_NONE || g->next[t].kind == OP_DONE)
            continue;
        all_done = false;
        if (!can_go(g, t))
            continue;
        some = true;
        if (!go_on(g, t))
            return false;
    }
    return some || over(g, all_done);
}

const char *model_run(const struct model_program *p)
{
    static struct graph g;
    memset(&g, 0, sizeof g);
    free(seen);
    seen = NULL;
    seen_n = seen_size = 0;
    nlocations = nnames = ncells = 0;
    executions = 0;
    is_beyond = false;
    wrong[0] = 0;
    program = p;
    lives_begin();
    p->begin();
    if (p->life)
        return lives_run(p, &executions);
    for (unsigned t = 0; t < MODEL_THREADS && p->thread[t]; t++)
        look_ahead(&g, t);
    return explore(&g) ? NULL : wrong;
}

bool explore_is_beyond(void)
{
    return is_beyond;
}

unsigned long model_executions(void)
{
    return executions;
}
