/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Where two volumes are not the same. Both trees are gone down side by side: what one entry leads to in both is the
 * same, and is passed by without a look, so that it costs as much as has changed. It is done by the keeper, a bounded
 * number of nodes at a time.
 */
#include "pool.h"

#include <errno.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>

enum {
    DIFF_STEPS = 256, /* nodes of level 1, before others have their turn */
    DIFF_AHEAD = 64,  /* pairs of nodes that are read at once */
};

struct diff_side {
    uint32_t number;
    uint8_t uuid[16];
    bool none; /* a volume that has nothing */
    uint64_t size;
    char outer[POOL_OUTER_NAME]; /* what shows through where nothing is; "" for zeroes */
    struct pool_tree *tree;
};

struct pool_diff {
    struct plx_pool *pool;
    struct plx_pool_diff *d;
    struct pool_wait wait;
    struct plx_msg msg;
    struct diff_side a, b;
    uint64_t at, size; /* units */
    uint64_t alike;    /* up to where nothing in the one means the same as in the other */
    uint64_t ahead;    /* up to where nodes have been asked for */
    struct pool_node *load[2 * DIFF_AHEAD];
    unsigned n_load, looked;
};

static const struct pool_entry diff_nothing;
static const struct pool_entry diff_deeper = {{UINT64_MAX}, {0}, {0}}; /* no entry: its tree is not as high as that */

/* ---- one node of either ---- */

static int diff_find(struct plx_pool *p, struct diff_side *s)
{
    struct pool_volume *v = p->volume[s->number];
    if (s->none)
        return 0;
    if (!v || memcmp(v->uuid, s->uuid, sizeof v->uuid))
        return -ENOENT;
    s->tree = &v->tree;
    return 0;
}

static const struct pool_entry *diff_top(const struct diff_side *s, unsigned level)
{
    return s->none ? &diff_nothing : level > s->tree->height ? &diff_deeper : &s->tree->root;
}

/* The node that an entry leads to; NULL for none. @return 0, POOL_AGAIN, -errno */
static int diff_node(struct plx_pool *p, struct pool_try *t, const struct pool_entry *e, unsigned level,
                     struct pool_node **out)
{
    *out = NULL;
    return e->where.raw && e != &diff_deeper ? pool_node_get(p, t, e, level, out) : 0;
}

/* What there is in a slot of a node of a level, which e leads to; if that leads to none, e holds for all below it. */
static const struct pool_entry *diff_below(const struct diff_side *s, const struct pool_entry *e,
                                           const struct pool_node *n, unsigned level, uint32_t slot)
{
    if (e != &diff_deeper)
        return n ? &pool_entries(n)[slot] : e;
    return slot ? &diff_nothing : diff_top(s, level - 1);
}

/* What is there where an entry leads nowhere: a disk outside, or "", zeroes. */
static const char *diff_through(const struct diff_side *s, const struct pool_entry *e, uint64_t at)
{
    return pool_entry_zeroes(e) || at >= s->size ? "" : s->outer;
}

/* Whether all is the same from `at` on that two entries of a level stand for. */
static bool diff_same(const struct pool_diff *w, const struct pool_entry *a, const struct pool_entry *b, uint64_t at,
                      unsigned level)
{
    const uint64_t end = plx_min_u64(pool_span_end(w->pool, at, level), w->size);
    if (a == &diff_deeper || b == &diff_deeper)
        return false;
    if (a->where.raw || b->where.raw)
        return a->where.raw == b->where.raw && a->birth.raw == b->birth.raw && (!level || end <= w->alike);
    if (pool_entry_zeroes(a) && pool_entry_zeroes(b))
        return true;
    return (end <= w->alike || at >= w->alike) && !strcmp(diff_through(&w->a, a, at), diff_through(&w->b, b, at));
}

/* Whether neither leads anywhere. */
static bool diff_bare(const struct pool_entry *a, const struct pool_entry *b)
{
    return !a->where.raw && !b->where.raw;
}

/* ---- what is found ---- */

/* @return false when there is no room for it */
static bool diff_add(struct pool_diff *w, const struct pool_entry *y, uint64_t n)
{
    struct plx_pool_diff *d = w->d;
    struct plx_pool_extent *last = d->n ? &d->extents[d->n - 1] : NULL;
    const uint64_t offset = w->at << w->pool->unit_shift, length = n << w->pool->unit_shift;
    const bool outer = !y->where.raw && *diff_through(&w->b, y, w->at), data = y->where.raw || outer;
    if (last && last->data == data && last->outer == outer && last->offset + last->length == offset) {
        last->length += length;
        return true;
    }
    if (d->n == d->room)
        return false;
    d->extents[d->n++] = (struct plx_pool_extent){offset, length, data, outer};
    return true;
}

/* Two nodes of level 1, or what there is in the place of them. @return 1 when there is no room for more; 0 */
static int diff_leaves(struct pool_diff *w, const struct pool_entry *x, const struct pool_node *a,
                       const struct pool_entry *y, const struct pool_node *b)
{
    const uint64_t end = plx_min_u64(pool_span_end(w->pool, w->at, 1), w->size);
    for (; w->at < end; w->at++) {
        const uint32_t slot = pool_slot(w->pool, w->at, 0);
        const struct pool_entry *xx = diff_below(&w->a, x, a, 1, slot), *yy = diff_below(&w->b, y, b, 1, slot);
        if (!diff_same(w, xx, yy, w->at, 0) && !diff_add(w, yy, 1))
            return 1;
    }
    return 0;
}

/* All that two entries of a level stand for which lead nowhere. @return 1 when there is no room for more; 0 */
static int diff_run(struct pool_diff *w, const struct pool_entry *x, const struct pool_entry *y, unsigned level)
{
    uint64_t end = plx_min_u64(pool_span_end(w->pool, w->at, level), w->size);
    if (w->at < w->alike)
        end = plx_min_u64(end, w->alike);
    if (strcmp(diff_through(&w->a, x, w->at), diff_through(&w->b, y, w->at)) != 0 && !diff_add(w, y, end - w->at))
        return 1;
    w->at = end;
    return 0;
}

/* ---- what will be wanted ---- */

/* The node that an entry leads to, or NULL for none, if it is in memory; else it is asked for. @return whether it is */
static bool diff_there(struct pool_diff *w, const struct pool_entry *e, unsigned level, struct pool_node **out)
{
    struct plx_pool *p = w->pool;
    *out = NULL;
    if (!e->where.raw)
        return true;
    struct pool_node *n = pool_node_find(p, pool_entry_unit(e));
    if (n && n->state != POOL_NODE_LOADING && n->level == level) {
        *out = n;
        return true;
    }
    n = pool_node_ahead(p, e, level);
    if (n)
        w->load[w->n_load++] = n;
    return false;
}

/*
 * Asks for nodes that will be wanted from `at` on, below two entries that are not the same, through those that are in
 * memory. w->ahead becomes the first place from which on more may be to be asked for.
 */
static void diff_look_ahead(struct pool_diff *w, const struct pool_entry *x, const struct pool_entry *y, unsigned level,
                            uint64_t at)
{
    const struct plx_pool *p = w->pool;
    const uint64_t end = plx_min_u64(pool_span_end(p, at, level), w->size);
    struct pool_node *a, *b;
    if (x == &diff_deeper || y == &diff_deeper || diff_bare(x, y) || diff_same(w, x, y, at, level))
        return;
    if (w->n_load + 2 > PLX_ARRAY_SIZE(w->load) || ++w->looked > DIFF_STEPS) {
        w->ahead = plx_min_u64(w->ahead, at);
        w->looked = DIFF_STEPS + 1; /* enough */
        return;
    }
    const bool there = diff_there(w, x, level, &a);
    if (!diff_there(w, y, level, &b) || !there) {
        if (level > 1)
            w->ahead = plx_min_u64(w->ahead, at);
        return;
    }
    for (; level > 1 && at < end && w->looked <= DIFF_STEPS; at = pool_span_end(p, at, level - 1)) {
        const uint32_t slot = pool_slot(p, at, level - 1);
        diff_look_ahead(w, diff_below(&w->a, x, a, level, slot), diff_below(&w->b, y, b, level, slot), level - 1, at);
    }
}

/* ---- how it goes ---- */

/* Goes on by as much as two nodes of one level have below them, or one of level 1. @return 1 when there is no room */
static int diff_step(struct pool_diff *w, struct pool_try *t)
{
    struct plx_pool *p = w->pool;
    const unsigned ha = w->a.none ? 1 : w->a.tree->height, hb = w->b.none ? 1 : w->b.tree->height;
    unsigned level = ha > hb ? ha : hb;
    const struct pool_entry *x = diff_top(&w->a, level), *y = diff_top(&w->b, level);
    if (diff_same(w, x, y, w->at, level)) {
        w->at = w->size;
        return 0;
    }
    if (diff_bare(x, y))
        return diff_run(w, x, y, level);
    if (w->at >= w->ahead) {
        w->ahead = UINT64_MAX;
        w->looked = 0;
        diff_look_ahead(w, x, y, level, w->at);
        w->ahead = plx_max_u64(w->ahead, w->at + 1);
    }
    for (;; level--) {
        struct pool_node *a, *b;
        int ret = diff_node(p, t, x, level, &a);
        if (!ret)
            ret = diff_node(p, t, y, level, &b);
        if (ret)
            return ret;
        if (level == 1)
            return diff_leaves(w, x, a, y, b);
        const uint64_t end = pool_span_end(p, w->at, level);
        for (;; w->at = pool_span_end(p, w->at, level - 1)) {
            if (w->at >= end || w->at >= w->size)
                return 0;
            const uint32_t slot = pool_slot(p, w->at, level - 1);
            const struct pool_entry *xx = diff_below(&w->a, x, a, level, slot),
                                    *yy = diff_below(&w->b, y, b, level, slot);
            if (diff_same(w, xx, yy, w->at, level - 1))
                continue;
            if (diff_bare(xx, yy))
                return diff_run(w, xx, yy, level - 1);
            x = xx;
            y = yy;
            break;
        }
    }
}

static void diff_told(struct plx_msg *msg)
{
    struct plx_pool_diff *d = plx_container_of(msg, struct plx_pool_diff, msg);
    d->done(d);
}

static void diff_over(struct pool_diff *w, int result)
{
    struct plx_pool_diff *d = w->d;
    struct plx_pool *p = w->pool;
    if (result == -ENOENT)
        plx_fail(&d->err, result, "%s has been deleted meanwhile", d->to);
    else if (result)
        plx_fail(&d->err, result, "what %s%s%s maps cannot be read: %s", d->from ? d->from : "", d->from ? " or " : "",
                 d->to, "`pollux pool check` says what is damaged");
    d->size = w->size << p->unit_shift;
    d->offset = w->at << p->unit_shift;
    d->result = result;
    free(w);
    d->msg.fn = diff_told;
    plx_reactor_send(d->reactor ? d->reactor : p->keeper, &d->msg);
}

static void diff_try(struct pool_diff *w)
{
    struct plx_pool *p = w->pool;
    struct pool_try t = {.ch = p->keeper_ch, .wait = &w->wait};
    bool more = true;
    w->n_load = 0;
    pool_lock(p);
    int ret = diff_find(p, &w->a);
    if (!ret)
        ret = diff_find(p, &w->b);
    for (unsigned i = 0; i < DIFF_STEPS && !ret && w->at < w->size && w->n_load == 0; i++)
        ret = diff_step(w, &t);
    more = !ret && w->at < w->size;
    pool_try_end(p, &t);
    for (unsigned i = 0; i < w->n_load; i++) /* which wakes it by a message, and so not before it has returned */
        pool_node_load(p, w->load[i], p->keeper_ch);
    if (ret == POOL_AGAIN)
        return;
    if (more)
        plx_reactor_send(p->keeper, &w->msg);
    else
        diff_over(w, ret > 0 ? 0 : ret);
}

static void diff_again(struct pool_wait *wait)
{
    struct pool_diff *w = plx_container_of(wait, struct pool_diff, wait);
    if (wait->status)
        diff_over(w, -EIO);
    else
        diff_try(w);
}

static void diff_go_on(struct plx_msg *msg)
{
    diff_try(plx_container_of(msg, struct pool_diff, msg));
}

/* @return 0; -ENOENT with err filled */
static int diff_name(struct plx_pool *p, struct plx_pool_diff *d, const char *name, struct diff_side *s)
{
    const struct pool_volume *v = pool_volume_find(p, name);
    if (!v)
        return plx_fail(&d->err, -ENOENT, "there is no volume %s", name);
    s->number = v->number;
    memcpy(s->uuid, v->uuid, sizeof s->uuid);
    s->size = v->size;
    if (v->flags & POOL_OUTER)
        memcpy(s->outer, v->outer, sizeof s->outer);
    return 0;
}

/* What nothing means beyond the end of the one is zeroes, whatever it means in the other. */
static void diff_sides(struct pool_diff *w)
{
    w->size = w->b.size;
    w->a.none = !w->d->from;
    if (w->a.none && w->d->own) {
        w->a.size = w->b.size;
        memcpy(w->a.outer, w->b.outer, sizeof w->a.outer);
    }
    if (strcmp(w->a.outer, w->b.outer) != 0)
        w->alike = 0;
    else
        w->alike = w->b.outer[0] && w->a.size < w->b.size ? w->a.size : UINT64_MAX;
}

static void diff_begin(struct plx_msg *msg)
{
    struct plx_pool_diff *d = plx_container_of(msg, struct plx_pool_diff, msg);
    struct plx_pool *p = d->pool;
    struct pool_diff *w = calloc(1, sizeof *w);
    d->n = 0;
    d->result = w ? 0 : plx_fail(&d->err, -ENOMEM, "out of memory");
    pool_lock(p);
    if (w && d->from)
        d->result = diff_name(p, d, d->from, &w->a);
    if (w && !d->result)
        d->result = diff_name(p, d, d->to, &w->b);
    pool_unlock(p);
    if (d->result) {
        free(w);
        d->msg.fn = diff_told;
        plx_reactor_send(d->reactor ? d->reactor : p->keeper, &d->msg);
        return;
    }
    w->pool = p;
    w->d = d;
    diff_sides(w);
    w->at = d->offset >> p->unit_shift;
    w->wait.reactor = p->keeper;
    w->wait.again = diff_again;
    w->msg.fn = diff_go_on;
    diff_try(w);
}

void plx_pool_diff_submit(struct plx_pool *pool, struct plx_pool_diff *d)
{
    d->pool = pool;
    d->err.text[0] = 0;
    d->msg.fn = diff_begin;
    plx_reactor_send(pool->keeper, &d->msg);
}

static void diff_post(struct plx_pool_diff *d)
{
    sem_post(d->arg);
}

int plx_pool_diff(struct plx_pool *pool, struct plx_pool_diff *d)
{
    sem_t over;
    sem_init(&over, 0, 0);
    d->done = diff_post;
    d->arg = &over;
    d->reactor = NULL;
    plx_pool_diff_submit(pool, d);
    while (sem_wait(&over) < 0)
        continue;
    sem_destroy(&over);
    return d->result;
}
