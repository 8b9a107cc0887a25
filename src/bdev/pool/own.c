/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A volume gets units of its own in place of those that it shares with the snapshot that it goes back to, so that it
 * can go back to another one, or to none. All of it is gone through twice: first it is counted what it takes, and that
 * is set aside; then a row of units at a time is copied, and entered as if it had been written. Requests go on
 * meanwhile: as with a write, nobody else writes to those units until they are entered.
 */
#include "op.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    ROW = 64,          /* units that are copied at once */
    NODES_A_TURN = 64, /* that are gone through before others have their turn */
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
    uint64_t from;     /* of the row that is being copied; */
    struct pool_busy busy;
    struct pool_limbo limbo; /* and to where */
    plx_le32 crcs[ROW];      /* of a pool with checksums: they go with the data, whatever has become of that */
    uint16_t status;
    uint8_t *mem;
};

/* ---- finding ---- */

/* What it shares with others than that which it will go back to. */
static bool is_wanted(const struct own *o, const struct pool_entry *e, uint64_t at)
{
    const struct pool_volume *v = o->work->v;
    return e->where.raw && pool_entry_birth(e) > (o->to ? o->to->instant : 0) && !pool_tree_owns(&v->tree, e, at + 1);
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

/* The node of level 1 that o->at is in, or NULL: then o->at goes on. @return as node_own() */
static int leaf_find(struct own *o, struct pool_try *t, struct pool_node **leaf)
{
    struct plx_pool *p = o->work->pool;
    const struct pool_tree *tree = &o->work->v->tree;
    const struct pool_entry *e = &tree->root;
    struct pool_node *n = NULL;
    for (unsigned l = tree->height; l; l--) {
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

/* The next node that may have such entries, from o->at on. @return 0 with *leaf NULL at the end; POOL_AGAIN; -errno */
static int next_leaf(struct own *o, struct pool_try *t, unsigned *nodes, struct pool_node **leaf)
{
    int ret = 0;
    for (*leaf = NULL; ret >= 0 && !*leaf && o->at < o->work->v->size && *nodes < NODES_A_TURN; ++*nodes)
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
    const uint64_t all = o->needed + nodes + (thick ? w->v->size - w->v->mapped : 0), room = pool_space_room(p);
    if (all > room)
        return plx_fail(&w->op->err, -ENOSPC, "%s would need %llu bytes more, and %llu are free", w->v->name,
                        (unsigned long long)(all << p->unit_shift), (unsigned long long)(room << p->unit_shift));
    p->set_aside += all;
    o->reserved = all;
    o->stage = OWN_COPY;
    o->at = 0;
    return 0;
}

static int own_count(struct own *o, struct pool_try *t)
{
    struct plx_pool *p = o->work->pool;
    struct pool_node *leaf;
    unsigned nodes = 0;
    while (o->at < o->work->v->size) {
        int ret = next_leaf(o, t, &nodes, &leaf);
        if (ret)
            return ret;
        if (leaf)
            for (uint32_t i = pool_slot(p, o->at, 0); i < 1U << p->fan_shift; i++, o->at++)
                o->needed += is_wanted(o, &pool_entries(leaf)[i], o->at);
        if (nodes >= NODES_A_TURN) {
            o->work->begin = pool_work_yield;
            return POOL_AGAIN;
        }
    }
    return own_check(o);
}

/* ---- copying ---- */

static void own_submit(struct own *o, enum plx_bdev_op op, uint64_t unit);

static void row_done(struct plx_bdev_req *req)
{
    struct own *o = plx_container_of(req, struct own, io.req);
    o->status = req->status;
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

static void own_read(struct plx_pool_work *w)
{
    struct own *o = w->steps;
    own_submit(o, PLX_BDEV_READ, o->from);
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

/* Begins with a row of units, of which the first is at o->at. */
static int row_begin(struct own *o, struct pool_try *t, const struct pool_entry *e)
{
    struct plx_pool_work *w = o->work;
    struct plx_pool *p = w->pool;
    const uint64_t from = pool_entry_unit(e), most = (1U << p->fan_shift) - pool_slot(p, o->at, 0);
    uint32_t n = 1;
    while (n < most && n < ROW && pool_entry_unit(&e[n]) == from + n && is_wanted(o, &e[n], o->at + n))
        n++;
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
    for (uint32_t i = 0; i < o->busy.n; i++)
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
        if (leaf)
            for (uint32_t i = pool_slot(p, o->at, 0); i < 1U << p->fan_shift; i++, o->at++)
                if (is_wanted(o, &pool_entries(leaf)[i], o->at))
                    return row_begin(o, t, &pool_entries(leaf)[i]);
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
    w->v->locked = w->v->moving = false;
    pool_rebase_end(w);
    if (o->to)
        pool_volume_unpin(p, o->to);
    free(o->mem);
    free(o);
    w->steps = NULL;
    w->end = NULL;
}

static int own_begin(struct plx_pool_work *w)
{
    struct plx_pool *p = w->pool;
    int ret = pool_work_lock(w);
    if (ret)
        return ret;
    struct pool_volume *v = w->v, *s = pool_volume_live_parent(v), *to = NULL;
    ret = w->op->kind == PLX_POOL_SET_PARENT ? pool_rebase_check(w, &to) : 0;
    if (ret)
        return ret;
    if (w->op->kind == PLX_POOL_DECOUPLE && !s)
        return plx_fail(&w->op->err, -EINVAL, "%s has no snapshot that it goes back to", v->name);
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
    if (w->op->kind == PLX_POOL_SET_PARENT)
        o->to = s;
    else if (w->op->kind == PLX_POOL_DECOUPLE)
        o->to = s->parent;
    while (o->to && o->to->state == POOL_DYING) /* which has one child at most */
        o->to = o->to->parent;
    if (o->to)
        o->to->pins++;
    v->locked = v->moving = true;
    return w->op->kind == PLX_POOL_SET_PARENT ? pool_rebase_begin(w, to) : 0;
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
    int ret = w->steps ? 0 : own_begin(w);
    if (ret)
        return ret;
    struct own *o = w->steps;
    if (w->pool->closing || atomic_load(&w->pool->cancelled))
        return plx_fail(&w->op->err, -ECANCELED, "the pool is being closed; what was copied stays so");
    if (w->v->flags & POOL_THICK && !w->v->parent)
        return 0;
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
    return w->op->kind == PLX_POOL_SET_PARENT ? pool_rebase_attempt(w, t, o->to) : 0;
}

void pool_own_apply(struct plx_pool_work *w)
{
    struct own *o = w->steps;
    struct plx_pool *p = w->pool;
    struct pool_volume *v = w->v, *s = v->parent;
    p->set_aside -= o->reserved;
    o->reserved = 0;
    if (w->op->kind == PLX_POOL_SET_PARENT) {
        pool_rebase_apply(w);
        return;
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
