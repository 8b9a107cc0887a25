/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A volume gets units of its own in place of those that it shares with the snapshot that it goes back to, so that it
 * can go back to another one, or to none. All of it is gone through twice: first it is counted what it takes, and that
 * is set aside; then a row of units at a time is copied, and entered as if it had been written. Requests go on
 * meanwhile: as with a write, nobody else writes to those units until they are entered. What a volume leaves may be a
 * disk outside as well: then all of that which shows through is copied.
 */
#include "disk.h"
#include "op.h"

#include "base/crc32c.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    ROW = 64,          /* units that are copied at once */
    NODES_A_TURN = 64, /* that are gone through before others have their turn */
    TRIES = 1000,      /* of a request that a disk wants to have once more, as newcomers' first ones now and then */
    PAUSE_NS = 1000 * 1000,
};

enum own_stage {
    OWN_COUNT,
    OWN_COPY,
    OWN_ENTER,
    OWN_DONE,
};

struct own {
    struct pool_io io;
    struct plx_pool_work *work;
    struct pool_volume *to; /* what it will go back to, or (PLX_POOL_SET_PARENT) does; or NULL; it has a pin */
    enum own_stage stage;
    uint64_t at;       /* units before it are done with */
    uint64_t needed;   /* units that are to be copied */
    uint64_t reserved; /* units that are set aside for that, and for what will be thick */
    uint64_t from;     /* of the row that is being copied, or 0: it is read from the disk outside; */
    struct pool_busy busy;
    struct pool_limbo limbo; /* and to where */
    plx_le32 crcs[ROW];      /* of a pool with checksums: they go with the data, whatever has become of that */
    uint16_t status;
    uint8_t *mem;
    struct plx_timer timer; /* of a request that is tried again */
    unsigned tries;
    char outer[POOL_OUTER_NAME]; /* the disk outside that is read, or that the volume will go back to; "" for none */
    bool leaves;                 /* it is read, and left */
    bool opened;                 /* that is held, if there is any */
    uint64_t outer_units;        /* that it has, of those of the volume */
    uint64_t bare;               /* up to where it shows through from `at` on, without a node; or 0 */
    uint64_t through;            /* units where it does, of those that are needed */
};

/* ---- finding ---- */

/* What it shares with others than that which it will go back to. */
static bool is_wanted(const struct own *o, const struct pool_entry *e, uint64_t at)
{
    const struct pool_volume *v = o->work->v;
    return e->where.raw && pool_entry_birth(e) > (o->to ? o->to->instant : 0) && !pool_tree_owns(&v->tree, e, at + 1);
}

/* What shows through of a disk outside that it leaves. */
static bool is_through(const struct own *o, const struct pool_entry *e, uint64_t at)
{
    return !e->where.raw && !pool_entry_zeroes(e) && at < o->outer_units;
}

/*
 * A node may be shared that leads to nothing but what will be shared: it was changed when something was discarded.
 * @return 0; 1 when it is another one now; POOL_AGAIN; -errno
 */
static int node_own(struct own *o, struct pool_try *t, const struct pool_entry *e, unsigned level)
{
    struct plx_pool *p = o->work->pool;
    struct pool_tree *tree = &o->work->v->tree;
    struct pool_node *n;
    if (pool_tree_owns(tree, e, pool_span_end(p, o->at, level)))
        return 0;
    if (o->stage == OWN_COUNT) {
        o->needed += level == 1;
        return 0;
    }
    int ret = pool_tree_change(p, t, tree, o->at, level, &n);
    return ret ? ret : 1;
}

/* The node of level 1 that o->at is in, or NULL: then o->at goes on, or o->bare is beyond it. @return as node_own() */
static int leaf_find(struct own *o, struct pool_try *t, struct pool_node **leaf)
{
    struct plx_pool *p = o->work->pool;
    const struct pool_tree *tree = &o->work->v->tree;
    const struct pool_entry *e = &tree->root;
    struct pool_node *n = NULL;
    for (unsigned l = tree->height; l; l--) {
        if (is_through(o, e, o->at)) {
            o->bare = plx_min_u64(pool_span_end(p, o->at, l), o->outer_units);
            return 0;
        }
        /* What leads to a unit is not older than that. */
        if (!e->where.raw || pool_entry_birth(e) <= (o->to ? o->to->instant : 0)) {
            o->at = pool_span_end(p, o->at, l);
            return 0;
        }
        int ret = pool_node_get(p, t, e, l, &n);
        if (!ret)
            ret = node_own(o, t, e, l);
        if (ret)
            return ret;
        e = &pool_entries(n)[pool_slot(p, o->at, l - 1)];
    }
    *leaf = n;
    return 0;
}

/*
 * The next node that may have such entries, from o->at on. @return 0 with *leaf NULL at the end, or with o->bare;
 * POOL_AGAIN; -errno
 */
static int next_leaf(struct own *o, struct pool_try *t, unsigned *nodes, struct pool_node **leaf)
{
    int ret = 0;
    o->bare = 0;
    for (*leaf = NULL; ret >= 0 && !*leaf && !o->bare && o->at < o->work->v->size && *nodes < NODES_A_TURN; ++*nodes)
        ret = leaf_find(o, t, leaf);
    return ret < 0 ? ret : 0;
}

/* ---- counting ---- */

static int own_check(struct own *o)
{
    struct plx_pool_work *w = o->work;
    struct plx_pool *p = w->pool;
    const bool thick = w->op->kind == PLX_POOL_INFLATE && w->v->state == POOL_VOLUME;
    const uint64_t nodes = o->needed >> p->fan_shift; /* above those that were counted */
    const uint64_t more = thick ? w->v->size - w->v->mapped - plx_min_u64(o->through, w->v->size - w->v->mapped) : 0;
    const uint64_t all = o->needed + nodes + more, room = pool_space_room(p);
    if (all > room)
        return plx_fail(&w->op->err, -ENOSPC, "%s would need %llu bytes more, and %llu are free", w->v->name,
                        (unsigned long long)(all << p->unit_shift), (unsigned long long)(room << p->unit_shift));
    p->set_aside += all;
    o->reserved = all;
    o->stage = OWN_COPY;
    o->at = 0;
    return 0;
}

/* In a node of level 1; or, without one, up to o->bare. */
static void count_some(struct own *o, const struct pool_node *leaf)
{
    const struct plx_pool *p = o->work->pool;
    if (!leaf) {
        const uint64_t n = o->bare - o->at;
        o->through += n;
        o->needed += n + (n >> p->fan_shift) + 1; /* with the nodes that will lead to them */
        o->at = o->bare;
        return;
    }
    for (uint32_t i = pool_slot(p, o->at, 0); i < 1U << p->fan_shift; i++, o->at++) {
        const bool through = is_through(o, &pool_entries(leaf)[i], o->at);
        o->through += through;
        o->needed += through || is_wanted(o, &pool_entries(leaf)[i], o->at);
    }
}

static int own_count(struct own *o, struct pool_try *t)
{
    struct pool_node *leaf;
    unsigned nodes = 0;
    while (o->at < o->work->v->size) {
        int ret = next_leaf(o, t, &nodes, &leaf);
        if (ret)
            return ret;
        if (leaf || o->bare)
            count_some(o, leaf);
        if (nodes >= NODES_A_TURN) {
            o->work->begin = pool_work_yield;
            return POOL_AGAIN;
        }
    }
    return own_check(o);
}

/* ---- copying ---- */

static void own_submit(struct own *o, enum plx_bdev_op op, uint64_t unit);

static void row_again(struct plx_timer *timer)
{
    struct own *o = plx_container_of(timer, struct own, timer);
    const bool outer = o->io.req.op == PLX_BDEV_READ && !o->from;
    plx_bdev_submit(outer ? o->work->outer_ch : o->work->pool->keeper_ch, &o->io.req);
}

static void row_done(struct plx_bdev_req *req)
{
    struct own *o = plx_container_of(req, struct own, io.req);
    const unsigned shift = o->work->pool->unit_shift;
    if (req->status == PLX_SC_COMMAND_INTERRUPTED && o->tries++ < TRIES) {
        o->timer = (struct plx_timer){.fn = row_again};
        plx_timer_set(o->work->pool->keeper, &o->timer, PAUSE_NS);
        return;
    }
    o->tries = 0;
    o->status = req->status;
    if (!req->status && req->op == PLX_BDEV_READ && !o->from)
        for (uint32_t i = 0; i < o->busy.n; i++)
            o->crcs[i] = plx_put32(plx_crc32c(o->mem + ((size_t)i << shift), (size_t)1 << shift));
    if (!req->status && req->op == PLX_BDEV_READ)
        own_submit(o, PLX_BDEV_WRITE, o->limbo.unit);
    else
        pool_work_try(o->work);
}

static void own_submit(struct own *o, enum plx_bdev_op op, uint64_t unit)
{
    struct plx_pool *p = o->work->pool;
    o->io.iov[0] = (struct iovec){o->mem, (size_t)o->busy.n << p->unit_shift};
    pool_io_init(&o->io, op, unit, o->busy.n, p, row_done, NULL);
    plx_bdev_submit(p->keeper_ch, &o->io.req);
}

/* What is beyond its end is zeroes. */
static void own_read_outer(struct own *o)
{
    const struct plx_pool *p = o->work->pool;
    const struct pool_outer *outer = o->work->outer;
    const unsigned shift = outer->disk->block_shift;
    const uint64_t at = o->busy.at << p->unit_shift, end = pool_outer_blocks(p, outer) << p->block_shift;
    const uint64_t most = (uint64_t)o->busy.n << p->unit_shift, bytes = at < end ? plx_min_u64(most, end - at) : 0;
    memset(o->mem + bytes, 0, most - bytes);
    o->io.iov[0] = (struct iovec){o->mem, bytes};
    pool_io_init(&o->io, PLX_BDEV_READ, 0, 0, o->work->pool, row_done, NULL);
    o->io.req.lba = at >> shift;
    o->io.req.nlb = (uint32_t)(bytes >> shift);
    o->io.req.iovcnt = 1;
    if (bytes)
        plx_bdev_submit(o->work->outer_ch, &o->io.req);
    else /* it has become smaller */
        row_done(&o->io.req);
}

static void own_read(struct plx_pool_work *w)
{
    struct own *o = w->steps;
    if (o->from)
        own_submit(o, PLX_BDEV_READ, o->from);
    else
        own_read_outer(o);
}

static void row_over(struct own *o, bool entered)
{
    struct plx_pool *p = o->work->pool;
    if (o->stage != OWN_ENTER)
        return;
    plx_list_del(&o->busy.link);
    plx_list_del(&o->limbo.link);
    if (!entered)
        pool_space_return(p, o->limbo.unit, o->limbo.n);
    pool_wake(&p->busy_waits, 0);
    o->stage = OWN_COPY;
}

static int row_enter(struct own *o, struct pool_try *t)
{
    struct plx_pool_work *w = o->work;
    struct plx_pool *p = w->pool;
    if (o->status)
        return plx_fail(&w->op->err, -EIO, "%s could not be copied: the disk below failed", w->v->name);
    int ret = pool_volume_map(p, t, w->v, o->busy.at, o->busy.n, o->limbo.unit,
                              p->flags & POOL_CHECKSUMS ? o->crcs : NULL, w->v->state == POOL_VOLUME);
    if (ret)
        return ret;
    const uint64_t n = plx_min_u64(o->reserved, o->busy.n);
    o->reserved -= n;
    p->set_aside -= n;
    row_over(o, true);
    return 0;
}

/* How many units, of which the first is at o->at, are copied at once. e: the entry of that; NULL: up to o->bare */
static uint32_t row_length(const struct own *o, const struct pool_entry *e)
{
    const struct plx_pool *p = o->work->pool;
    const uint64_t from = e ? pool_entry_unit(e) : 0;
    uint64_t most = plx_min_u64((1U << p->fan_shift) - pool_slot(p, o->at, 0), ROW);
    uint32_t n = 1;
    if (!e)
        return (uint32_t)plx_min_u64(most, o->bare - o->at);
    while (n < most && (from ? pool_entry_unit(&e[n]) == from + n && is_wanted(o, &e[n], o->at + n)
                             : is_through(o, &e[n], o->at + n)))
        n++;
    return n;
}

/* Begins with such a row. */
static int row_begin(struct own *o, struct pool_try *t, const struct pool_entry *e)
{
    struct plx_pool_work *w = o->work;
    struct plx_pool *p = w->pool;
    const uint64_t from = e ? pool_entry_unit(e) : 0;
    const uint32_t n = row_length(o, e);
    /* What was written before a snapshot may still be under way. */
    if (w->v->settling || pool_volume_is_busy(p, w->v, o->at, n)) {
        pool_wait_in(&p->busy_waits, &w->wait);
        return POOL_AGAIN;
    }
    int ret = pool_space_ready(p, t, 1, false);
    if (ret)
        return ret;
    o->from = from;
    o->busy.at = o->at;
    o->busy.n = (uint32_t)pool_space_take(p, POOL_FOR_DATA, n, &o->limbo.unit);
    o->limbo.n = o->busy.n;
    for (uint32_t i = 0; from && i < o->busy.n; i++)
        o->crcs[i] = e[i].crc;
    plx_list_add_tail(pool_busy_list(p, w->v, o->at), &o->busy.link);
    plx_list_add_tail(&p->limbo, &o->limbo.link);
    o->stage = OWN_ENTER;
    w->begin = own_read;
    return POOL_AGAIN;
}

static int own_copy(struct own *o, struct pool_try *t)
{
    struct plx_pool *p = o->work->pool;
    struct pool_node *leaf;
    unsigned nodes = 0;
    while (o->at < o->work->v->size) {
        int ret = next_leaf(o, t, &nodes, &leaf);
        if (ret)
            return ret;
        if (o->bare)
            return row_begin(o, t, NULL);
        for (uint32_t i = pool_slot(p, o->at, 0); leaf && i < 1U << p->fan_shift; i++, o->at++) {
            const struct pool_entry *e = &pool_entries(leaf)[i];
            if (is_wanted(o, e, o->at) || is_through(o, e, o->at))
                return row_begin(o, t, e);
        }
        if (nodes >= NODES_A_TURN) {
            o->work->begin = pool_work_yield;
            return POOL_AGAIN;
        }
    }
    return 0;
}

/* ---- the operation ---- */

static void own_end(struct plx_pool_work *w)
{
    struct own *o = w->steps;
    struct plx_pool *p = w->pool;
    row_over(o, false);
    p->set_aside -= o->reserved;
    w->v->locked = false;
    w->v->moving--;
    pool_rebase_end(w);
    if (o->to)
        pool_volume_unpin(p, o->to);
    free(o->mem);
    free(o);
    w->steps = NULL;
    w->end = NULL;
}

/* What it goes back to is found, or refused. to: a snapshot that is to be its parent. @return 0, or -errno */
static int own_look(struct plx_pool_work *w, struct pool_volume **to)
{
    const struct pool_volume *v = w->v;
    *to = NULL;
    if (pool_work_rebases(w))
        return pool_rebase_check(w, to);
    if (w->op->kind == PLX_POOL_DECOUPLE && !pool_volume_live_parent(v) && !(v->flags & POOL_OUTER))
        return plx_fail(&w->op->err, -EINVAL, "%s has no snapshot that it goes back to", v->name);
    return 0;
}

/* The disk outside that it is about, if it is. */
static void own_outer(struct own *o, const struct pool_volume *to)
{
    const struct plx_pool_work *w = o->work;
    const struct pool_volume *v = w->v;
    const char *next = w->op->kind == PLX_POOL_SET_OUTER ? w->op->outer : to && to->flags & POOL_OUTER ? to->outer : "";
    o->leaves = !pool_work_rebases(w) && (v->flags & (POOL_OUTER | POOL_THICK)) == POOL_OUTER &&
                (w->op->kind == PLX_POOL_INFLATE || !pool_volume_live_parent(v));
    if (o->leaves)
        next = v->outer;
    else if (!strcmp(next, v->outer))
        next = ""; /* which it has */
    snprintf(o->outer, sizeof o->outer, "%s", next);
}

static int own_begin(struct plx_pool_work *w, struct pool_try *t)
{
    struct plx_pool *p = w->pool;
    struct pool_volume *to;
    int ret = pool_work_lock(w);
    if (!ret)
        ret = own_look(w, &to);
    if (!ret && pool_work_rebases(w) && to)
        ret = pool_work_tree(w, t, &to->tree);
    if (ret)
        return ret;
    struct pool_volume *v = w->v, *s = pool_volume_live_parent(v);
    struct own *o = calloc(1, sizeof *o);
    uint8_t *mem = o ? aligned_alloc(4096, (size_t)ROW << p->unit_shift) : NULL;
    if (!mem) {
        free(o);
        return plx_fail(&w->op->err, -ENOMEM, "out of memory");
    }
    o->work = w;
    o->mem = mem;
    w->steps = o;
    w->end = own_end;
    own_outer(o, to);
    if (pool_work_rebases(w))
        o->to = s;
    else if (w->op->kind == PLX_POOL_DECOUPLE)
        o->to = s ? s->parent : NULL;
    while (o->to && o->to->state == POOL_DYING) /* which has one child at most */
        o->to = o->to->parent;
    if (o->to)
        o->to->pins++;
    v->locked = true;
    v->moving++;
    return pool_work_rebases(w) ? pool_rebase_begin(w, to) : 0;
}

/* The keeper's, without the lock. */
static void own_open(struct plx_pool_work *w)
{
    struct own *o = w->steps;
    int ret = o->outer[0] ? pool_outer_open(w->pool, w->v->name, o->outer, &w->outer, &w->op->err) : 0;
    if (!ret && pool_work_rebases(w))
        ret = pool_outer_may_change(w->pool, w->v, w->outer, &w->op->err);
    if (!ret && o->leaves)
        ret = plx_bdev_channel_get(w->outer->disk, w->pool->keeper, &w->outer_ch);
    if (ret) {
        pool_work_fail(w, ret);
        return;
    }
    o->opened = true;
    if (o->leaves)
        o->outer_units = plx_min_u64(
            w->v->size, ((pool_outer_blocks(w->pool, w->outer) - 1) >> pool_unit_blocks_shift(w->pool)) + 1);
    pool_work_try(w);
}

/* All who may be left by it: their records are part of the checkpoint that does it. */
static void mark_changed(struct pool_volume *v, const struct pool_volume *to)
{
    for (v->changed = true; v && v != to; v = v->parent)
        if (v->state == POOL_GHOST || v->state == POOL_DYING)
            v->changed = true;
}

int pool_own_attempt(struct plx_pool_work *w, struct pool_try *t)
{
    int ret = w->steps ? 0 : own_begin(w, t);
    if (ret)
        return ret;
    struct own *o = w->steps;
    if (w->pool->closing || atomic_load(&w->pool->cancelled))
        return plx_fail(&w->op->err, -ECANCELED, "the pool is being closed; what was copied stays so");
    if (w->v->flags & POOL_THICK && !w->v->parent)
        return 0;
    if (!o->opened && (o->outer[0] || pool_work_rebases(w))) {
        w->begin = own_open;
        return POOL_AGAIN;
    }
    if (o->stage == OWN_COUNT)
        ret = own_count(o, t);
    if (!ret && o->stage == OWN_ENTER)
        ret = row_enter(o, t);
    if (!ret && o->stage == OWN_COPY)
        ret = own_copy(o, t);
    if (ret)
        return ret;
    o->stage = OWN_DONE;
    mark_changed(w->v, o->to);
    return pool_work_rebases(w) ? pool_rebase_attempt(w, t, o->to) : 0;
}

void pool_own_apply(struct plx_pool_work *w)
{
    struct own *o = w->steps;
    struct plx_pool *p = w->pool;
    struct pool_volume *v = w->v, *s = v->parent;
    p->set_aside -= o->reserved;
    o->reserved = 0;
    pool_volume_altered(v);
    if (pool_work_rebases(w)) {
        pool_rebase_apply(w);
        return;
    }
    if (o->leaves) {
        struct pool_outer *read = w->outer; /* it is let go with the one that is left */
        w->outer = NULL;
        pool_work_leave(w);
        w->outer = read;
        v->flags &= ~(uint32_t)POOL_OUTER;
        memset(v->outer, 0, sizeof v->outer);
    }
    if (s != o->to) {
        v->parent = o->to;
        p->families++;
        if (o->to)
            o->to->children++;
        pool_volume_leave(p, s);
    }
    if (w->op->kind != PLX_POOL_INFLATE || v->state != POOL_VOLUME || v->flags & POOL_THICK)
        return;
    v->flags |= POOL_THICK;
    p->set_aside += v->size - v->mapped;
}
