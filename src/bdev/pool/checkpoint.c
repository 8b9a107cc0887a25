/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Checkpoints: the trees of one moment are written to where nothing was, then the maps of what is in use, then, after a
 * flush, the root that leads to them. What was logged before that moment is needed no longer, and what was freed is
 * free.
 *
 * At that moment all that is dirty is frozen: who wants to change it moves it once more. So requests go on meanwhile.
 */
#include "pool.h"

#include "base/crc32c.h"
#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    NODES_AT_ONCE = 64,
    UNMAP_MIN = 16, /* units */
};

enum checkpoint_step {
    STEP_NODES,
    STEP_MAPS,
    STEP_FLUSH,
    STEP_ROOT,
    STEP_FLUSH_ROOT,
    STEP_DONE,
    STEP_UNMAP,
};

struct pool_checkpoint {
    struct pool_io io;
    struct pool_wait wait;
    struct pool_grace grace;
    struct plx_pool *pool;
    enum checkpoint_step step;
    uint64_t log_seq;
    uint8_t *root;
    struct pool_node *nodes[NODES_AT_ONCE];
    unsigned n;
    struct plx_list *region;     /* in pool->loaded: the next to look at */
    struct pool_region *written; /* whose map is being written */
    size_t unmapped;
    bool going, came; /* a request that was begun has ended already */
    uint16_t failed;
};

static void checkpoint_go(struct pool_checkpoint *c);

/* ---- the moment ---- */

static int dirty_records(struct plx_pool *p, struct pool_try *t)
{
    const unsigned shift = p->unit_shift - 9;
    for (uint32_t i = 0; i < p->slots; i++) {
        struct pool_node *page;
        if (!p->volume[i] || !p->volume[i]->changed)
            continue;
        int ret = pool_tree_change(p, t, &p->dir, i >> shift, 0, &page);
        if (ret)
            return ret;
    }
    return 0;
}

static void write_records(struct plx_pool *p)
{
    const unsigned shift = p->unit_shift - 9;
    for (uint32_t i = 0; i < p->slots; i++) {
        struct pool_node *page;
        struct pool_volume *v = p->volume[i];
        if (!v || !v->changed)
            continue;
        if (pool_tree_find(p, NULL, &p->dir, i >> shift, 0, &page))
            continue;
        struct pool_record *r = (struct pool_record *)page->mem + (i & ((1U << shift) - 1));
        pool_volume_to_record(v, r);
        v->changed = false;
        if (v->state == POOL_FREE) {
            p->volume[i] = NULL;
            free(v);
        }
    }
}

/* The CRCs of what is dirty, of volumes or of what leads to them, from the leaves up. */
static void finish_nodes(struct plx_pool *p, bool volumes)
{
    for (unsigned level = 0; level < POOL_LEVELS; level++)
        plx_list_for_each(it, &p->dirty[level]) {
            struct pool_node *n = plx_list_entry(it, struct pool_node, link);
            if ((n->tree->of != NULL) != volumes)
                continue;
            struct pool_entry *e = n->parent ? &pool_entries(n->parent)[n->slot] : &n->tree->root;
            e->crc = plx_put32(plx_crc32c(n->mem, (size_t)1 << p->unit_shift));
        }
}

static void freeze_nodes(struct plx_pool *p)
{
    for (unsigned level = 0; level < POOL_LEVELS; level++)
        while (!plx_list_empty(&p->dirty[level])) {
            struct pool_node *n = plx_list_entry(p->dirty[level].next, struct pool_node, link);
            n->state = POOL_NODE_FROZEN;
            plx_list_del(&n->link);
            plx_list_add_tail(&p->frozen[level], &n->link);
        }
    p->n_frozen = p->n_dirty;
    p->n_dirty = 0;
}

void pool_root_image(const struct plx_pool *p, struct pool_root *r)
{
    memset(r, 0, sizeof *r);
    memcpy(r->magic, POOL_MAGIC, sizeof r->magic);
    r->version = plx_put32(POOL_VERSION);
    memcpy(r->uuid, p->uuid, sizeof r->uuid);
    const uint64_t units = p->units_next ? p->units_next : p->units;
    r->units = plx_put64(units);
    r->log_units = plx_put64(p->log_units);
    r->regions = plx_put64(p->regions);
    r->used = plx_put64(pool_space_used(p) + pool_units_fixed(p, units) - pool_space_fixed(p));
    r->created = plx_put64(p->created);
    r->instant = plx_put32(p->instant);
    r->slots = plx_put32(p->slots);
    r->cluster = plx_put32(p->cluster);
    r->flags = plx_put16(p->flags);
    r->unit_shift = (uint8_t)p->unit_shift;
    r->maps_height = p->maps.height;
    r->dir = p->dir.root;
    r->maps = p->maps.root;
    memcpy(r->name, p->name, sizeof r->name);
}

void pool_root_end(struct pool_root *r, uint64_t generation, uint64_t log_seq)
{
    r->generation = plx_put64(generation);
    r->log_seq = plx_put64(log_seq);
    r->crc = plx_put32(0);
    r->crc = plx_put32(plx_crc32c(r, sizeof *r));
}

/* @return 0; POOL_AGAIN; or why it cannot be done at all */
static int freeze(struct plx_pool *p, struct pool_checkpoint *c, struct pool_try *t)
{
    int ret = dirty_records(p, t);
    if (!ret)
        ret = pool_space_freeze(p, t);
    if (ret)
        return ret;
    finish_nodes(p, true);
    while (!plx_list_empty(&p->applying)) {
        struct pool_apply *a = plx_list_entry(p->applying.next, struct pool_apply, link);
        plx_list_del(&a->link);
        plx_list_add_tail(&p->applied, &a->link);
        a->apply(p, a);
    }
    write_records(p);
    pool_space_image(p);
    finish_nodes(p, false);
    c->region = p->loaded.next;
    c->log_seq = pool_log_turn(p);
    pool_root_image(p, (struct pool_root *)(void *)c->root);
    pool_root_end((struct pool_root *)(void *)c->root, p->generation + 1, c->log_seq);
    freeze_nodes(p);
    p->checkpoint_wanted = false;
    while (!plx_list_empty(&p->checkpoint_next)) {
        struct plx_list *first = p->checkpoint_next.next;
        plx_list_del(first);
        plx_list_add_tail(&p->checkpoint_waits, first);
    }
    return 0;
}

/* ---- writing ---- */

static void end_applied(struct plx_pool *p, struct plx_list *all, uint16_t status)
{
    while (!plx_list_empty(all)) {
        struct pool_apply *a = plx_list_entry(all->next, struct pool_apply, link);
        plx_list_del(&a->link);
        a->over(p, a, status);
    }
}

/* Once as it becomes so full, and again when it had become less so by as much as makes a difference. */
static void tell_full(struct plx_pool *p)
{
    static const unsigned marks[] = {95, 90, 80};
    const uint64_t percent = (p->used + p->set_aside) * 100 / p->units;
    unsigned mark = 0;
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(marks) && !mark; i++)
        mark = percent >= marks[i] ? marks[i] : 0;
    if (mark > p->told_full)
        plx_warn("pool %s on %s is more than %u %% full: volumes will soon have no space", p->name,
                 plx_bdev_info(p->disk)->name, mark);
    if (mark > p->told_full || percent + 2 < p->told_full)
        p->told_full = mark;
}

static void checkpoint_over(struct pool_checkpoint *c, uint16_t status)
{
    struct plx_pool *p = c->pool;
    pool_lock(p);
    if (status) {
        plx_error("pool %s: cannot be written to (%s): nothing of it changes any more until it is opened anew", p->name,
                  "see the disk below it");
        p->broken = status;
        pool_wake(&p->space_waits, status);
        pool_wake(&p->checkpoint_next, status);
    }
    pool_wake(&p->checkpoint_waits, status);
    end_applied(p, &p->applied, status);
    if (status)
        end_applied(p, &p->applying, status);
    p->checkpoint = NULL;
    pool_nodes_trim(p);
    tell_full(p);
    pool_unlock(p);
    pool_ops_late(p);
    free(c->root);
    free(c);
    pool_kick(p);
}

static void checkpoint_io_done(struct plx_bdev_req *req)
{
    struct pool_checkpoint *c = plx_container_of(req, struct pool_checkpoint, io.req);
    if (req->status && c->step != STEP_UNMAP)
        c->failed = req->status;
    if (c->step == STEP_NODES && !c->failed) {
        pool_lock(c->pool);
        for (unsigned i = 0; i < c->n; i++)
            pool_node_cleaned(c->pool, c->nodes[i]);
        pool_unlock(c->pool);
    }
    c->came = true;
    if (c->going)
        return;
    if (c->failed)
        checkpoint_over(c, c->failed);
    else
        checkpoint_go(c);
}

static void checkpoint_submit(struct pool_checkpoint *c, enum plx_bdev_op op, uint64_t unit, uint64_t n)
{
    pool_io_init(&c->io, op, unit, n, c->pool, checkpoint_io_done, NULL);
    plx_bdev_submit(c->pool->keeper_ch, &c->io.req);
}

/* @return false when all are written */
static bool write_nodes(struct pool_checkpoint *c)
{
    struct plx_pool *p = c->pool;
    c->n = 0;
    pool_lock(p);
    for (unsigned level = 0; level < POOL_LEVELS && !c->n; level++)
        plx_list_for_each(it, &p->frozen[level]) {
            struct pool_node *n = plx_list_entry(it, struct pool_node, link);
            if (c->n == NODES_AT_ONCE || (c->n && n->unit != c->nodes[0]->unit + c->n))
                break;
            c->io.iov[c->n] = (struct iovec){n->mem, (size_t)1 << p->unit_shift};
            c->nodes[c->n++] = n;
        }
    pool_unlock(p);
    if (!c->n)
        return false;
    checkpoint_submit(c, PLX_BDEV_WRITE, c->nodes[0]->unit, c->n);
    return true;
}

static bool write_maps(struct pool_checkpoint *c)
{
    struct plx_pool *p = c->pool;
    struct pool_region *r = NULL;
    pool_lock(p);
    if (c->written) {
        free(c->written->image);
        c->written->image = NULL;
        c->written = NULL;
    }
    for (; c->region != &p->loaded && !c->written; c->region = c->region->next) {
        r = plx_list_entry(c->region, struct pool_region, link);
        c->written = r->image ? r : NULL;
    }
    pool_unlock(p);
    if (!c->written)
        return false;
    c->io.iov[0] = (struct iovec){r->image, (size_t)1 << p->unit_shift};
    checkpoint_submit(c, PLX_BDEV_WRITE, (r->number << p->region_shift) + POOL_MAP_FIRST + r->copy, 1);
    return true;
}

static int compare_units(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

/* What is free is told to the disk, a long row of units at a time; what is in no such row is soon taken again. */
static bool unmap_below(struct pool_checkpoint *c)
{
    struct plx_pool *p = c->pool;
    const struct plx_bdev_info *info = plx_bdev_info(p->disk);
    const struct pool_freed *f = &p->freeing; /* nobody else's until it is thawed */
    const uint64_t most = UINT32_MAX >> (p->unit_shift - p->block_shift);
    if (!(info->ops & 1 << PLX_BDEV_UNMAP))
        return false;
    while (c->unmapped < f->n) {
        const uint64_t first = f->units[c->unmapped++];
        uint64_t n = 1;
        while (c->unmapped < f->n && f->units[c->unmapped] == first + n && n < most) {
            c->unmapped++;
            n++;
        }
        if (n < UNMAP_MIN)
            continue;
        checkpoint_submit(c, PLX_BDEV_UNMAP, first, n);
        return true;
    }
    return false;
}

static void checkpoint_graced(struct plx_pool *p, struct pool_grace *g)
{
    struct pool_checkpoint *c = plx_container_of(g, struct pool_checkpoint, grace);
    c->step = STEP_UNMAP;
    plx_list_add_tail(&p->graced, &g->link);
    p->kick_after = true;
}

static void checkpoint_written(struct pool_checkpoint *c)
{
    struct plx_pool *p = c->pool;
    pool_lock(p);
    p->generation++;
    pool_log_forget(p, c->log_seq);
    c->grace.over = checkpoint_graced;
    pool_grace(p, &c->grace);
    pool_unlock(p);
    pool_kick(p);
}

/* @return whether a request has been begun, with which it goes on */
static bool checkpoint_next(struct pool_checkpoint *c)
{
    struct plx_pool *p = c->pool;
    const bool cached = plx_bdev_info(p->disk)->write_cache;
    if (p->broken && c->step < STEP_ROOT) { /* since it began */
        c->failed = p->broken;
        c->came = true;
        return true;
    }
    switch (c->step) {
    case STEP_NODES:
        if (write_nodes(c))
            return true;
        c->step = STEP_MAPS;
        /* fall through */
    case STEP_MAPS:
        if (write_maps(c))
            return true;
        c->step = STEP_FLUSH;
        if (cached) {
            checkpoint_submit(c, PLX_BDEV_FLUSH, 0, 0);
            return true;
        }
        /* fall through */
    case STEP_FLUSH:
        c->step = STEP_ROOT;
        c->io.iov[0] = (struct iovec){c->root, (size_t)1 << p->unit_shift};
        checkpoint_submit(c, PLX_BDEV_WRITE, (p->generation + 1) % 2 * POOL_ROOT_STEP, 1);
        return true;
    case STEP_ROOT:
        c->step = STEP_FLUSH_ROOT;
        if (cached) {
            checkpoint_submit(c, PLX_BDEV_FLUSH, 0, 0);
            return true;
        }
        /* fall through */
    case STEP_FLUSH_ROOT:
        c->step = STEP_DONE;
        checkpoint_written(c);
        return false;
    case STEP_UNMAP:
        if (unmap_below(c))
            return true;
        pool_lock(p);
        pool_space_thaw(p);
        pool_unlock(p);
        checkpoint_over(c, 0);
        return false;
    case STEP_DONE:
    default:
        return false;
    }
}

static void checkpoint_go(struct pool_checkpoint *c)
{
    c->going = true;
    do {
        c->came = false;
        if (!checkpoint_next(c))
            return; /* c may be gone */
    } while (c->came && !c->failed);
    c->going = false;
    if (c->came)
        checkpoint_over(c, c->failed);
}

/* ---- when ---- */

static void checkpoint_try(struct pool_checkpoint *c)
{
    struct plx_pool *p = c->pool;
    struct pool_try t = {.ch = p->keeper_ch, .wait = &c->wait};
    pool_lock(p);
    int ret = p->broken ? -EIO : freeze(p, c, &t);
    pool_try_end(p, &t);
    if (ret == POOL_AGAIN)
        return;
    if (ret) {
        plx_error("pool %s: no checkpoint can be made: %s", p->name, strerror(-ret));
        checkpoint_over(c, p->broken ? p->broken : plx_bdev_status(ret, true));
        return;
    }
    checkpoint_go(c);
}

static void checkpoint_again(struct pool_wait *w)
{
    struct pool_checkpoint *c = plx_container_of(w, struct pool_checkpoint, wait);
    if (w->status)
        checkpoint_over(c, w->status);
    else
        checkpoint_try(c);
}

void pool_checkpoint_want(struct plx_pool *p)
{
    p->checkpoint_wanted = true;
}

void pool_checkpoint_wait(struct plx_pool *p, struct pool_wait *w)
{
    pool_wait_in(&p->checkpoint_next, w);
    p->checkpoint_wanted = true;
}

void pool_checkpoint_apply(struct plx_pool *p, struct pool_apply *a)
{
    plx_list_add_tail(&p->applying, &a->link);
    p->checkpoint_wanted = true;
}

void pool_checkpoint_serve(struct plx_pool *p)
{
    struct pool_checkpoint *c = NULL;
    pool_lock(p);
    if (!plx_list_empty(&p->graced)) {
        struct pool_grace *g = plx_list_entry(p->graced.next, struct pool_grace, link);
        plx_list_del(&g->link);
        pool_unlock(p);
        c = plx_container_of(g, struct pool_checkpoint, grace);
        if (p->freeing.n)
            qsort(p->freeing.units, p->freeing.n, sizeof *p->freeing.units, compare_units);
        c->going = false;
        checkpoint_go(c);
        return;
    }
    if (p->checkpoint_wanted && !p->checkpoint) {
        c = calloc(1, sizeof *c);
        if (c)
            c->root = aligned_alloc(4096, (size_t)1 << p->unit_shift);
        if (c && c->root) {
            memset(c->root, 0, (size_t)1 << p->unit_shift);
            p->checkpoint = c;
            p->checkpoint_wanted = false;
        } else {
            free(c);
            c = NULL;
        }
    }
    pool_unlock(p);
    if (!c)
        return;
    c->pool = p;
    c->wait.reactor = p->keeper;
    c->wait.again = checkpoint_again;
    checkpoint_try(c);
}
