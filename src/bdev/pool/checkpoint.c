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
    UNITS_AT_ONCE = 64, /* of a request */
    WRITES_AT_ONCE = 16,
};

enum checkpoint_step {
    STEP_WRITE,
    STEP_FLUSH,
    STEP_ROOT,
    STEP_FLUSH_ROOT,
    STEP_DONE,
    STEP_SETTLE,
    STEP_FLUSH_SETTLED,
    STEP_UNMAP,
};

/* A unit to be written. */
struct part {
    uint64_t unit;
    void *mem;
    struct pool_node *node; /* NULL: the map of a region */
};

/* Some in a row. */
struct part_write {
    struct pool_io io;
    const struct part *first;
    size_t n;
    struct part_write *next; /* of those that are free */
};

struct pool_checkpoint {
    struct pool_io io;
    struct pool_wait wait;
    struct pool_grace grace;
    struct plx_pool *pool;
    enum checkpoint_step step;
    uint64_t log_seq;
    uint8_t *root;
    struct part *parts; /* nodes and maps */
    size_t n, at;       /* that have been begun */
    struct part_write writes[WRITES_AT_ONCE], *idle;
    unsigned active;
    size_t unmapped;
    bool kept;        /* what is free is left as it is */
    bool going, came; /* a request that was begun has ended meanwhile */
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
            e->crc = plx_put32(pool_node_crc(p, n));
        }
}

/* Maps that are to be written: after pool_space_freeze(). */
static size_t count_maps(const struct plx_pool *p)
{
    size_t n = 0;
    plx_list_for_each(it, &p->loaded)
        n += plx_list_entry(it, struct pool_region, link)->image != NULL;
    return n;
}

static void freeze_maps(struct plx_pool *p, struct pool_checkpoint *c)
{
    plx_list_for_each(it, &p->loaded) {
        const struct pool_region *r = plx_list_entry(it, struct pool_region, link);
        if (r->image)
            c->parts[c->n++] = (struct part){(r->number << p->region_shift) + POOL_MAP_FIRST + r->copy, r->image, NULL};
    }
}

static void freeze_nodes(struct plx_pool *p, struct pool_checkpoint *c)
{
    for (unsigned level = 0; level < POOL_LEVELS; level++)
        while (!plx_list_empty(&p->dirty[level])) {
            struct pool_node *n = plx_list_entry(p->dirty[level].next, struct pool_node, link);
            n->state = POOL_NODE_FROZEN;
            c->parts[c->n++] = (struct part){n->unit, n->mem, n};
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
    c->parts = malloc((p->n_dirty + count_maps(p) + 1) * sizeof *c->parts);
    if (!c->parts)
        return -ENOMEM;
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
    c->log_seq = pool_log_turn(p);
    pool_root_image(p, (struct pool_root *)(void *)c->root);
    pool_root_end((struct pool_root *)(void *)c->root, p->generation + 1, c->log_seq);
    freeze_nodes(p, c);
    freeze_maps(p, c);
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
        plx_warn("pool %s on %s is more than %u %% full: volumes will soon have no space", pool_shown(p),
                 plx_bdev_info(p->disk)->name, mark);
    if (mark > p->told_full || percent + 2 < p->told_full)
        p->told_full = mark;
}

static void checkpoint_over(struct pool_checkpoint *c, uint16_t status)
{
    struct plx_pool *p = c->pool;
    pool_lock(p);
    if (status) {
        plx_error("pool %s: cannot be written to (%s): nothing of it changes any more until it is opened anew",
                  pool_shown(p), "see the disk below it");
        p->broken = status;
        pool_wake(&p->space_waits, status);
        pool_wake(&p->checkpoint_next, status);
    }
    pool_wake(&p->checkpoint_waits, status);
    end_applied(p, &p->applied, status);
    if (status)
        end_applied(p, &p->applying, status);
    plx_list_for_each(it, &p->dying)
        plx_list_entry(it, struct pool_volume, dying)->fresh = false;
    p->checkpoint = NULL;
    tell_full(p);
    bool more = pool_nodes_trim(p);
    pool_unlock(p);
    while (more) {
        pool_lock(p);
        more = pool_nodes_trim(p);
        pool_unlock(p);
    }
    pool_ops_late(p);
    free(c->parts);
    free(c->root);
    free(c);
    pool_kick(p);
}

static void checkpoint_io_done(struct plx_bdev_req *req)
{
    struct pool_checkpoint *c = plx_container_of(req, struct pool_checkpoint, io.req);
    if (req->status && c->step != STEP_UNMAP)
        c->failed = req->status;
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

static int compare_parts(const void *a, const void *b)
{
    const struct part *x = a, *y = b;
    return x->unit < y->unit ? -1 : x->unit > y->unit;
}

static void write_done(struct plx_bdev_req *req)
{
    struct part_write *w = plx_container_of(req, struct part_write, io.req);
    struct pool_checkpoint *c = w->io.arg;
    struct plx_pool *p = c->pool;
    if (req->status)
        c->failed = req->status;
    pool_lock(p);
    for (size_t i = 0; i < w->n && !req->status; i++)
        if (w->first[i].node)
            pool_node_cleaned(p, w->first[i].node);
    pool_unlock(p);
    w->next = c->idle;
    c->idle = w;
    c->active--;
    c->came = true;
    if (!c->going)
        checkpoint_go(c);
}

/* Of what is to be written, which is in order: as much as goes at once. @return whether anything is under way */
static bool write_parts(struct pool_checkpoint *c)
{
    struct plx_pool *p = c->pool;
    while (c->at < c->n && c->idle && !c->failed) {
        struct part_write *w = c->idle;
        c->idle = w->next;
        w->first = &c->parts[c->at];
        for (w->n = 0; c->at < c->n && w->n < UNITS_AT_ONCE && c->parts[c->at].unit == w->first->unit + w->n; c->at++)
            w->io.iov[w->n++] = (struct iovec){c->parts[c->at].mem, (size_t)1 << p->unit_shift};
        c->active++;
        pool_io_init(&w->io, PLX_BDEV_WRITE, w->first->unit, w->n, p, write_done, c);
        plx_bdev_submit(p->keeper_ch, &w->io.req);
    }
    return c->active;
}

static void maps_written(struct plx_pool *p)
{
    pool_lock(p);
    plx_list_for_each(it, &p->loaded) {
        struct pool_region *r = plx_list_entry(it, struct pool_region, link);
        free(r->image);
        r->image = NULL;
    }
    pool_unlock(p);
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
    if (!(info->ops & 1 << PLX_BDEV_UNMAP) || c->kept)
        return false;
    while (c->unmapped < f->n) {
        const uint64_t first = f->units[c->unmapped++];
        uint64_t n = 1;
        while (c->unmapped < f->n && f->units[c->unmapped] == first + n && n < most) {
            c->unmapped++;
            n++;
        }
        if (n < POOL_UNMAP_MIN)
            continue;
        checkpoint_submit(c, PLX_BDEV_UNMAP, first, n);
        return true;
    }
    return false;
}

/* Others have the lock now and then. */
static void thaw(struct plx_pool *p)
{
    bool more;
    do {
        pool_lock(p);
        more = pool_space_thaw(p);
        pool_unlock(p);
    } while (more);
}

static void checkpoint_graced(struct plx_pool *p, struct pool_grace *g)
{
    struct pool_checkpoint *c = plx_container_of(g, struct pool_checkpoint, grace);
    c->step = STEP_SETTLE;
    c->kept = p->keep;
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

/* @return whether requests have been begun, with which it goes on, or it has failed */
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
    case STEP_WRITE:
        if (write_parts(c) || c->failed)
            return true;
        maps_written(p);
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
    case STEP_SETTLE: /* a snapshot has what was being written at that moment: that is not to change any more */
        c->step = STEP_FLUSH_SETTLED;
        if (cached && !plx_list_empty(&p->applied)) {
            checkpoint_submit(c, PLX_BDEV_FLUSH, 0, 0);
            return true;
        }
        /* fall through */
    case STEP_FLUSH_SETTLED:
        c->step = STEP_UNMAP;
        /* fall through */
    case STEP_UNMAP:
        if (unmap_below(c))
            return true;
        thaw(p);
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
    if (c->failed && !c->active)
        checkpoint_over(c, c->failed);
}

/* ---- when ---- */

/* Most of the work of that moment, before it. */
static void prepare(struct plx_pool *p)
{
    uint32_t left;
    pool_lock(p);
    for (left = p->n_dirty; left;) {
        pool_nodes_sum(p, &left);
        pool_unlock(p);
        pool_lock(p);
    }
    pool_unlock(p);
}

static void checkpoint_try(struct pool_checkpoint *c)
{
    struct plx_pool *p = c->pool;
    struct pool_try t = {.ch = p->keeper_ch, .wait = &c->wait, .checkpoint = true};
    prepare(p);
    pool_lock(p);
    int ret = p->broken ? -EIO : freeze(p, c, &t);
    pool_try_end(p, &t);
    if (ret == POOL_AGAIN)
        return;
    if (ret) {
        plx_error("pool %s: no checkpoint can be made: %s", pool_shown(p), strerror(-ret));
        checkpoint_over(c, p->broken ? p->broken : plx_bdev_status(ret, true));
        return;
    }
    qsort(c->parts, c->n, sizeof *c->parts, compare_parts);
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
    if (p->checkpoint_wanted && !p->checkpoint && !p->replaying && pool_keep_lets_begin(p)) {
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
    for (unsigned i = 0; i < WRITES_AT_ONCE; i++) {
        c->writes[i].next = c->idle;
        c->idle = &c->writes[i];
    }
    c->wait.reactor = p->keeper;
    c->wait.again = checkpoint_again;
    checkpoint_try(c);
}
