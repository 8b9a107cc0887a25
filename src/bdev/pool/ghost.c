/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A ghost, a snapshot that was deleted while several others went back to it, is there for what these have of it. What
 * none of them has any more, because it was overwritten or discarded in all, is given back: the ghost is gone through
 * now and then, a node at a time, and such entries are taken out of its tree, as if it were written to. Where one of
 * the others has a node of it as it is, all below that is needed.
 *
 * This begins soon after others came to go back to it, or one went; after discards it waits, for ten times as long as
 * it took last.
 */
#include "pool.h"

#include "base/log.h"

#include <errno.h>
#include <string.h>

enum {
    WAIT_MS = 2000,
    WAITS = 10, /* it takes at most so much less of the time than it waits */
    CHILDREN_AT_ONCE = 32,
};

/* ---- which ---- */

void pool_ghost_stale(struct plx_pool *p, struct pool_volume *g, bool now)
{
    if (!g || g->state != POOL_GHOST)
        return;
    p->sweep_now |= now;
    if (g->swept_again || (!plx_list_empty(&g->dying) && !g->sweeping))
        return;
    if (g->sweeping)
        g->swept_again = true;
    else
        plx_list_add_tail(&p->stale, &g->dying);
    pool_kick(p);
}

void pool_ghost_over(struct pool_volume *g)
{
    plx_list_del(&g->dying);
    g->sweeping = g->swept_again = false;
}

static void sweeps_begin(struct plx_pool *p)
{
    p->sweep_now = false;
    p->sweep_since = plx_reactor_now(p->keeper);
    while (!plx_list_empty(&p->stale)) {
        struct pool_volume *g = plx_list_entry(p->stale.next, struct pool_volume, dying);
        plx_list_del(&g->dying);
        plx_list_add_tail(&p->sweeps, &g->dying);
        g->sweeping = true;
        g->swept = 0;
    }
    p->sweep.of = NULL;
}

static void ghost_timer(struct plx_timer *timer)
{
    struct plx_pool *p = plx_container_of(timer, struct plx_pool, sweep_timer);
    pool_lock(p);
    p->sweep_now = true;
    pool_unlock(p);
    pool_kick(p);
}

void pool_ghosts_init(struct plx_pool *p)
{
    plx_list_init(&p->stale);
    plx_list_init(&p->sweeps);
    p->sweep_timer.fn = ghost_timer;
    p->sweep_wait_ns = WAIT_MS * PLX_NS_PER_MS;
}

void pool_ghosts_look(struct plx_pool *p)
{
    pool_lock(p);
    const bool wait = !plx_list_empty(&p->stale) && !p->sweep_now && !p->sweep_timer.set && !p->closing &&
                      p->job_wait.reactor; /* else it is being opened */
    const uint64_t ns = p->sweep_wait_ns;
    pool_unlock(p);
    if (wait)
        plx_timer_set(p->keeper, &p->sweep_timer, ns);
}

/* ---- what of it is needed ---- */

static bool is_needed(const struct plx_pool *p, uint32_t i)
{
    return p->sweep.needed[i / 64] >> i % 64 & 1;
}

/* Whether something below a node may be given back: what is its own, or what the ghost that it goes back to has. */
static bool may_leave(const struct plx_pool *p, const struct pool_volume *g, const struct pool_entry *e, uint64_t end)
{
    (void)p;
    return pool_tree_owns(&g->tree, e, end) || (g->parent && g->parent->state == POOL_GHOST);
}

static void sweep_go(struct plx_pool *p, struct pool_volume *g, uint64_t end)
{
    g->swept = end;
    p->sweep.of = NULL; /* begins anew there */
}

/*
 * The nodes of the ghost on the way to where it is being gone through. @return 0; 1 when there is nothing to be done up
 * to the next; POOL_AGAIN, -errno
 */
static int sweep_path(struct plx_pool *p, struct pool_try *t, struct pool_volume *g, struct pool_node **path)
{
    const struct pool_entry *e = &g->tree.root;
    for (unsigned l = g->tree.height; l; l--) {
        const uint64_t end = pool_span_end(p, g->swept, l);
        if (!e->where.raw || !may_leave(p, g, e, end)) {
            sweep_go(p, g, end);
            return 1;
        }
        int ret = pool_node_get(p, t, e, l, &path[l]);
        if (ret)
            return ret;
        e = &pool_entries(path[l])[pool_slot(p, g->swept, l - 1)];
    }
    return 0;
}

/* What one that goes back to it has of it there. @return as sweep_path() */
static int sweep_child(struct plx_pool *p, struct pool_try *t, struct pool_volume *g, struct pool_volume *c,
                       struct pool_node *const *path)
{
    const struct pool_entry *mine = pool_entries(path[1]), *theirs;
    struct pool_node *n = NULL;
    for (unsigned l = plx_min_u64(g->tree.height, c->tree.height); l; l--) {
        int ret = pool_tree_find(p, t, &c->tree, g->swept, l, &n);
        if (ret || !n)
            return ret;
        if (n->unit == path[l]->unit) {
            sweep_go(p, g, pool_span_end(p, g->swept, l));
            return 1;
        }
    }
    theirs = pool_entries(n);
    for (uint32_t i = 0; i < 1U << p->fan_shift; i++)
        if (mine[i].where.raw && mine[i].where.raw == theirs[i].where.raw)
            p->sweep.needed[i / 64] |= UINT64_C(1) << i % 64;
    return 0;
}

/* @return 0 when all have been looked at, else as sweep_path(); 2: there are more */
static int sweep_children(struct plx_pool *p, struct pool_try *t, struct pool_volume *g, struct pool_node *const *path)
{
    unsigned n = 0;
    for (; p->sweep.slot < p->slots; p->sweep.slot++) {
        struct pool_volume *c = p->volume[p->sweep.slot];
        if (!c || c->parent != g)
            continue;
        if (n++ == CHILDREN_AT_ONCE)
            return 2;
        int ret = sweep_child(p, t, g, c, path);
        if (ret)
            return ret;
    }
    return 0;
}

/* ---- giving it back ---- */

static int sweep_leaf(struct plx_pool *p, struct pool_try *t, struct pool_volume *g, struct pool_node *leaf)
{
    const uint64_t first = g->swept & ~((UINT64_C(1) << p->fan_shift) - 1);
    const struct pool_entry *e = pool_entries(leaf);
    uint32_t n = 0;
    for (uint32_t i = 0; i < 1U << p->fan_shift; i++)
        n += e[i].where.raw && !is_needed(p, i) && may_leave(p, g, &e[i], first + i + 1);
    int ret = n ? pool_tree_change(p, t, &g->tree, g->swept, 1, &leaf) : 0;
    if (!ret && n)
        ret = pool_space_free_ready(p, n);
    if (ret)
        return ret;
    struct pool_entry *gone = pool_entries(leaf);
    for (uint32_t i = 0; n && i < 1U << p->fan_shift; i++) {
        if (!gone[i].where.raw || is_needed(p, i) || !may_leave(p, g, &gone[i], first + i + 1))
            continue;
        if (pool_tree_owns(&g->tree, &gone[i], first + i + 1))
            pool_space_free(p, pool_entry_unit(&gone[i]));
        else
            pool_ghost_stale(p, g->parent, true);
        memset(&gone[i], 0, sizeof gone[i]);
        g->mapped--;
        g->changed = true;
    }
    if (n)
        pool_tree_prune(p, leaf);
    sweep_go(p, g, pool_span_end(p, g->swept, 1));
    return 0;
}

/* One of those that go back to it is being freed: there will be less to keep. */
static bool has_dying_child(const struct plx_pool *p, const struct pool_volume *g)
{
    for (uint32_t i = 0; i < p->slots; i++)
        if (p->volume[i] && p->volume[i]->parent == g && p->volume[i]->state == POOL_DYING)
            return true;
    return false;
}

static int sweep_step(struct plx_pool *p, struct pool_try *t, struct pool_volume *g)
{
    struct pool_node *path[POOL_LEVELS] = {NULL};
    if (p->sweep.of != g || p->sweep.families != p->families) {
        memset(&p->sweep, 0, sizeof p->sweep);
        p->sweep.of = g;
        p->sweep.families = p->families;
    }
    int ret = sweep_path(p, t, g, path);
    if (!ret)
        ret = sweep_children(p, t, g, path);
    if (!ret)
        ret = sweep_leaf(p, t, g, path[1]);
    return ret > 0 ? 0 : ret;
}

/* It is done with, or will be gone through anew. */
static void sweep_end(struct plx_pool *p, struct pool_volume *g, bool again)
{
    again |= g->swept_again;
    pool_ghost_over(g);
    p->sweep.of = NULL;
    if (again)
        plx_list_add_tail(&p->stale, &g->dying);
    if (plx_list_empty(&p->sweeps)) {
        const uint64_t took = plx_reactor_now(p->keeper) - p->sweep_since;
        p->sweep_wait_ns = plx_max_u64(WAIT_MS * PLX_NS_PER_MS, WAITS * took);
        pool_checkpoint_want(p); /* what was given back is to be free soon */
    }
}

bool pool_ghosts_idle(const struct plx_pool *p)
{
    return plx_list_empty(&p->sweeps) && !(p->sweep_now && !plx_list_empty(&p->stale));
}

int pool_ghosts_step(struct plx_pool *p, struct pool_try *t)
{
    if (plx_list_empty(&p->sweeps))
        sweeps_begin(p);
    if (plx_list_empty(&p->sweeps))
        return 0;
    struct pool_volume *g = plx_list_entry(p->sweeps.next, struct pool_volume, dying);
    if (g->swept >= g->size || g->pins || has_dying_child(p, g)) {
        sweep_end(p, g, g->swept < g->size);
        return 0;
    }
    return sweep_step(p, t, g);
}

void pool_ghosts_unreadable(struct plx_pool *p)
{
    if (plx_list_empty(&p->sweeps))
        return;
    struct pool_volume *g = plx_list_entry(p->sweeps.next, struct pool_volume, dying);
    plx_warn(
        "pool %s: volume %u, which was deleted, or one that goes back to it, cannot be read: what only that has is "
        "not given back for now",
        pool_shown(p), g->number);
    sweep_end(p, g, false);
}
