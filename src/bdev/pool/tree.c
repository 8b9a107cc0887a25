/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Trees of entries. A node that is on the disk is never changed: what is to be changed is moved to another unit, with
 * all that leads to it, up to the root; until the next checkpoint it can be changed where it is then.
 */
#include "pool.h"

#include <errno.h>
#include <string.h>

int pool_tree_find(struct plx_pool *p, struct pool_try *t, struct pool_tree *tree, uint64_t at, unsigned level,
                   struct pool_node **out)
{
    const struct pool_entry *e = &tree->root;
    *out = NULL;
    for (unsigned l = tree->height;; l--) {
        struct pool_node *n;
        if (!e->where.raw)
            return 0;
        int ret = pool_node_get(p, t, e, l, &n);
        if (plx_unlikely(ret))
            return ret;
        if (l == level) {
            *out = n;
            return 0;
        }
        e = &pool_entries(n)[pool_slot(p, at, l - 1)];
    }
}

struct pool_node *pool_tree_peek(struct plx_pool *p, const struct pool_tree *tree, uint64_t at)
{
    const struct pool_entry *e = &tree->root;
    for (unsigned l = tree->height; e->where.raw; l--) {
        struct pool_node *n = pool_node_find(p, pool_entry_unit(e));
        if (!n || n->state == POOL_NODE_LOADING || n->level != l)
            return NULL;
        if (!n->used)
            n->used = true;
        if (l == 1)
            return n;
        e = &pool_entries(n)[pool_slot(p, at, l - 1)];
    }
    return NULL;
}

/* What the next checkpoint has of it is another root, whatever comes of what it is changed for. */
static void root_changes(struct pool_tree *tree)
{
    if (tree->of)
        tree->of->changed = true;
}

/* Makes what an entry leads to dirty; the unit for it is there. */
static int node_dirty(struct plx_pool *p, struct pool_tree *tree, struct pool_node *parent, struct pool_entry *e,
                      uint64_t at, unsigned level, struct pool_node **out)
{
    const bool own = pool_tree_owns(tree, e, pool_span_end(p, at, level));
    struct pool_node *old = e->where.raw ? pool_node_find(p, pool_entry_unit(e)) : NULL, *n;
    uint64_t unit;
    if (old && old->state == POOL_NODE_DIRTY) {
        *out = old;
        return 0;
    }
    pool_space_take(p, POOL_FOR_NODES, 1, &unit);
    int ret = pool_node_new(p, unit, level, &n);
    if (ret) {
        pool_space_return(p, unit, 1);
        return ret;
    }
    if (old) {
        memcpy(n->mem, old->mem, (size_t)1 << p->unit_shift);
        if (own) {
            pool_space_free(p, old->unit);
            pool_node_drop(p, old);
        }
    }
    for (uint32_t i = 0; pool_entry_zeroes(e) && i < 1U << p->fan_shift; i++)
        pool_entries(n)[i] = *e;
    n->parent = parent;
    n->tree = tree;
    n->slot = (uint32_t)(parent ? e - pool_entries(parent) : 0);
    if (!parent)
        root_changes(tree);
    *e = pool_entry_make(unit, pool_birth(p, tree->of), 0);
    *out = n; /* none of those below is dirty, as then this one had been */
    return 0;
}

/*
 * As much is dirty as a checkpoint should have, or twice that, which is what there may be. A log has what one left, and
 * what came while it was written: it is replayed whole, and one that changes twice as much is none of ours.
 */
static int dirty_ready(struct plx_pool *p, struct pool_try *t)
{
    if (p->replaying)
        return p->n_dirty < 8 * p->dirty_max ? 0 : -EUCLEAN;
    if (p->n_dirty < p->dirty_max)
        return 0;
    pool_checkpoint_want(p);
    t->kick = true;
    if (p->n_dirty < 2 * p->dirty_max)
        return 0;
    pool_wait_in(&p->space_waits, t->wait);
    return POOL_AGAIN;
}

/* Of units that are ready: ghosts, which give space back, have what others leave them. */
static uint64_t left_to_ghosts(const struct pool_tree *tree)
{
    return tree->of && tree->of->state != POOL_GHOST ? POOL_LEVELS + 1 : 0;
}

int pool_tree_change(struct plx_pool *p, struct pool_try *t, struct pool_tree *tree, uint64_t at, unsigned level,
                     struct pool_node **out)
{
    struct pool_node *n = NULL;
    int ret = pool_tree_find(p, t, tree, at, level, &n);
    if (ret)
        return ret;
    if (n && n->state == POOL_NODE_DIRTY) {
        n->summed = false;
        *out = n;
        return 0;
    }
    ret = pool_space_ready(p, t, tree->height + 1U + left_to_ghosts(tree), false);
    if (!ret)
        ret = pool_space_free_ready(p, tree->height + 1U);
    if (!ret && tree->of)
        ret = dirty_ready(p, t);
    if (ret)
        return ret;
    struct pool_entry *e = &tree->root;
    n = NULL;
    for (unsigned l = tree->height;; l--) {
        ret = node_dirty(p, tree, n, e, at, l, &n);
        if (ret)
            return ret;
        if (l == level) {
            *out = n;
            return 0;
        }
        e = &pool_entries(n)[pool_slot(p, at, l - 1)];
    }
}

bool pool_tree_zeroes(struct plx_pool *p, const struct pool_tree *tree, uint64_t at)
{
    const struct pool_entry *e = &tree->root;
    for (unsigned l = tree->height; l && e->where.raw; l--) {
        const struct pool_node *n = pool_node_find(p, pool_entry_unit(e));
        if (!n || n->state == POOL_NODE_LOADING)
            return false;
        e = &pool_entries(n)[pool_slot(p, at, l - 1)];
    }
    return pool_entry_zeroes(e);
}

/* It has nothing, or nothing but zeroes: then the latest of them stands for all. */
static bool node_empty(const struct plx_pool *p, const struct pool_node *n, struct pool_entry *all)
{
    const struct pool_entry *e = pool_entries(n);
    *all = e[0];
    for (uint32_t i = 0; i < 1U << p->fan_shift; i++) {
        if (e[i].where.raw || pool_entry_zeroes(&e[i]) != pool_entry_zeroes(all))
            return false;
        if (pool_entry_birth(&e[i]) > pool_entry_birth(all))
            *all = e[i];
    }
    return true;
}

void pool_tree_prune(struct plx_pool *p, struct pool_node *n)
{
    struct pool_entry all;
    while (n && node_empty(p, n, &all)) {
        struct pool_node *parent = n->parent;
        struct pool_entry *e = parent ? &pool_entries(parent)[n->slot] : &n->tree->root;
        pool_space_return(p, n->unit, 1); /* which no checkpoint has seen */
        if (!parent)
            root_changes(n->tree);
        *e = all;
        pool_node_drop(p, n);
        n = parent;
    }
}

int pool_tree_raise(struct plx_pool *p, struct pool_try *t, struct pool_tree *tree, unsigned height)
{
    while (tree->height < height) {
        root_changes(tree);
        if (tree->root.where.raw || pool_entry_zeroes(&tree->root)) {
            struct pool_node *n, *old = tree->root.where.raw ? pool_node_find(p, pool_entry_unit(&tree->root)) : NULL;
            uint64_t unit;
            int ret = pool_space_ready(p, t, 1 + left_to_ghosts(tree), false);
            if (ret)
                return ret;
            pool_space_take(p, POOL_FOR_NODES, 1, &unit);
            ret = pool_node_new(p, unit, tree->height + 1U, &n);
            if (ret) {
                pool_space_return(p, unit, 1);
                return ret;
            }
            pool_entries(n)[0] = tree->root;
            n->tree = tree;
            if (old && old->state == POOL_NODE_DIRTY) {
                old->parent = n;
                old->slot = 0;
            }
            tree->root = pool_entry_make(unit, pool_birth(p, tree->of), 0);
        }
        tree->height++;
    }
    return 0;
}
