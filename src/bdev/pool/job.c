/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What was deleted is freed, from its beginning to its end, one volume at a time. Of a snapshot that is what neither
 * the one that it goes back to has, which was born before that, nor the one that goes back to it. How far that has come
 * is kept with what was freed; behind it the child is the owner of what is left: see pool_shared_until().
 */
#include "pool.h"

#include "base/log.h"

#include <errno.h>
#include <string.h>

enum {
    FREED_MAX = 1 << 18, /* units that wait for a checkpoint, before one is made */
};

static struct pool_volume *child_of(const struct plx_pool *p, const struct pool_volume *s)
{
    for (uint32_t i = 0; i < p->slots; i++)
        if (p->volume[i] && p->volume[i]->parent == s)
            return p->volume[i];
    return NULL;
}

/* Who has what is below `end` of one that is being freed: not its child, where that has been freed itself. */
static struct pool_volume *heir_at(const struct plx_pool *p, struct pool_volume *child, uint64_t end)
{
    while (child && child->state == POOL_DYING && plx_min_u64(end, child->size) <= child->done)
        child = child_of(p, child);
    return child;
}

/*
 * What borrows its data goes first: while it is there, nothing of those that it goes back to is freed, some of which
 * would be left to it.
 */
static void dying_enter(struct plx_pool *p, struct pool_volume *v)
{
    if (v->flags & POOL_BORROWS)
        plx_list_add_tail(p->dying.next, &v->dying);
    else
        plx_list_add_tail(&p->dying, &v->dying);
}

void pool_volume_die(struct plx_pool *p, struct pool_volume *v)
{
    pool_ghost_over(v);
    v->state = POOL_DYING;
    v->fresh = p->checkpoint != NULL;
    v->done = 0;
    v->changed = true;
    if (!v->instant) /* of a volume: none goes back to it, so that the last one there is does for many */
        v->instant = pool_instant_end(p);
    dying_enter(p, v);
}

void pool_volume_leave(struct plx_pool *p, struct pool_volume *s)
{
    s->children--;
    p->families++;
    if (s->state == POOL_GHOST && s->children <= 1 && !s->pins)
        pool_volume_die(p, s);
    else
        pool_ghost_stale(p, s, true);
}

void pool_volume_unpin(struct plx_pool *p, struct pool_volume *s)
{
    s->pins--;
    if (s->state == POOL_GHOST && s->children <= 1 && !s->pins)
        pool_volume_die(p, s);
    else
        pool_ghost_stale(p, s, true);
}

static void volume_gone(struct plx_pool *p, struct pool_volume *s)
{
    struct pool_volume *child = child_of(p, s), *parent = s->parent;
    plx_list_del(&s->dying);
    s->state = POOL_FREE;
    s->changed = true;
    if (child) {
        child->parent = parent;
        child->changed = true;
        p->families++;
        pool_ghost_stale(p, parent, true);
    } else if (parent) {
        pool_volume_leave(p, parent);
    }
    s->parent = NULL;
}

/* The nodes on the way to `end` that map nothing beyond it. */
static void free_path(struct plx_pool *p, struct pool_volume *s, struct pool_node *const path[POOL_LEVELS],
                      unsigned level, uint64_t end)
{
    for (unsigned l = level; l <= s->tree.height; l++) {
        if (end < s->size && end & ((UINT64_C(1) << (l * p->fan_shift)) - 1))
            return;
        pool_space_free(p, path[l]->unit);
        pool_node_drop(p, path[l]);
    }
}

static void dying_go(struct plx_pool *p, struct pool_volume *s, struct pool_node *const path[POOL_LEVELS],
                     unsigned level, uint64_t end)
{
    free_path(p, s, path, level, plx_min_u64(end, s->size));
    s->done = plx_min_u64(end, s->size);
    s->changed = true;
}

/* @return 0, POOL_AGAIN, or -errno */
static int dying_step(struct plx_pool *p, struct pool_try *t, struct pool_volume *s)
{
    const uint64_t at = s->done;
    struct pool_volume *child = child_of(p, s);
    struct pool_node *path[POOL_LEVELS] = {NULL}, *theirs = NULL;
    const struct pool_entry *e = &s->tree.root;
    int ret = pool_space_free_ready(p, (1U << p->fan_shift) + POOL_LEVELS);
    if (ret)
        return ret;
    for (unsigned l = s->tree.height;; l--) {
        const uint64_t end = pool_span_end(p, at, l);
        bool kept = !e->where.raw || !pool_tree_owns(&s->tree, e, end);
        struct pool_volume *heir = kept ? NULL : heir_at(p, child, end);
        theirs = NULL;
        if (heir) {
            ret = pool_tree_find(p, t, &heir->tree, at, l, &theirs);
            if (ret)
                return ret;
            kept = theirs && theirs->unit == pool_entry_unit(e);
        }
        if (kept) {
            dying_go(p, s, path, l + 1, end);
            return 0;
        }
        ret = pool_node_get(p, t, e, l, &path[l]);
        if (ret)
            return ret;
        if (l == 1)
            break;
        e = &pool_entries(path[l])[at >> ((l - 1) * p->fan_shift) & ((1U << p->fan_shift) - 1)];
    }
    const struct pool_entry *mine = pool_entries(path[1]), *other = theirs ? pool_entries(theirs) : NULL;
    const uint64_t first = at & ~((UINT64_C(1) << p->fan_shift) - 1);
    for (uint32_t i = 0; i < 1U << p->fan_shift && !(s->flags & POOL_BORROWS); i++)
        if (mine[i].where.raw && pool_tree_owns(&s->tree, &mine[i], first + i + 1) &&
            (!other || other[i].where.raw != mine[i].where.raw))
            pool_space_free(p, pool_entry_unit(&mine[i]));
    dying_go(p, s, path, 1, pool_span_end(p, at, 1));
    return 0;
}

static void job_again(struct pool_wait *w)
{
    struct plx_pool *p = plx_container_of(w, struct plx_pool, job_wait);
    p->jobs_busy = false;
    if (!w->status) {
        pool_jobs_serve(p);
        return;
    }
    pool_lock(p);
    struct pool_volume *s = p->dying_now;
    if (s) {
        plx_error("pool %s: volume %u, which was deleted, cannot be read: its space is not given back", pool_shown(p),
                  s->number);
        plx_list_del(&s->dying);
        p->dying_now = NULL;
    } else {
        pool_ghosts_unreadable(p);
    }
    pool_unlock(p);
    pool_kick(p);
}

/* @return 0, 1 when a checkpoint is to be awaited first, POOL_AGAIN, or -errno */
static int freeing_step(struct plx_pool *p, struct pool_try *t)
{
    struct pool_volume *s = NULL;
    if (!plx_list_empty(&p->dying))
        s = plx_list_entry(p->dying.next, struct pool_volume, dying);
    p->dying_now = s;
    if (s && s->done >= s->size)
        volume_gone(p, s);
    else if (p->freed.n >= FREED_MAX || (p->checkpoint && p->freed.n))
        return 1;
    else
        return s ? dying_step(p, t, s) : pool_ghosts_step(p, t);
    if (plx_list_empty(&p->dying))
        pool_checkpoint_want(p); /* what was freed is to be free soon */
    return 0;
}

/* Until a checkpoint says so on the disk, what a volume has that dies is not given up: a cut would have it live. */
static bool jobs_idle(const struct plx_pool *p)
{
    if (plx_list_empty(&p->dying))
        return pool_ghosts_idle(p);
    return plx_list_entry(p->dying.next, struct pool_volume, dying)->fresh;
}

void pool_jobs_serve(struct plx_pool *p)
{
    struct pool_try t = {.ch = p->keeper_ch, .wait = &p->job_wait};
    int ret = 0;
    if (p->jobs_busy || p->closing || p->lost || !p->job_wait.reactor) /* it is being opened */
        return;
    pool_lock(p);
    for (unsigned i = 0; i < p->job_steps && !ret && !jobs_idle(p) && !p->broken; i++)
        ret = freeing_step(p, &t);
    if (ret == 1) {
        pool_checkpoint_want(p);
        pool_wait_in(&p->space_waits, &p->job_wait);
        ret = POOL_AGAIN;
        t.kick = true;
    }
    p->jobs_busy = ret == POOL_AGAIN;
    t.kick |= !ret && !p->broken &&
              (!jobs_idle(p) ||
               (p->checkpoint_wanted && !p->checkpoint && (p->keep != PLX_POOL_KEEP_MAPS || !p->keep_timer.set)));
    pool_try_end(p, &t);
}

void pool_jobs_begin(struct plx_pool *p)
{
    p->job_wait.reactor = p->keeper;
    p->job_wait.again = job_again;
    for (uint32_t i = 0; i < p->slots; i++) {
        struct pool_volume *v = p->volume[i];
        if (v && (v->state == POOL_DYING || (v->state == POOL_GHOST && v->children <= 1))) {
            pool_ghost_over(v); /* which a log that was replayed may have found stale */
            v->state = POOL_DYING;
            dying_enter(p, v);
        } else if (v) {
            pool_ghost_stale(p, v, false);
        }
    }
    pool_kick(p);
}
