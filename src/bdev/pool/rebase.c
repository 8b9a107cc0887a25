/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A volume is made to go back to another snapshot, or to none, or to a disk outside. What it has of its own stays; all
 * else is as that one has it. So a tree is made beside the volume's, its shadow, which begins as that of the snapshot,
 * and in which all is entered that is the volume's own; and at one moment the two are exchanged. Who writes to the
 * volume meanwhile enters that in both, where the shadow has been made already.
 *
 * The shadow is a volume that is dying. Data that it leads to is the volume's, so that only its nodes are freed
 * (POOL_BORROWS), when that is not done to its end; and when it is, as what it was exchanged for, in the same way.
 */
#include "op.h"

#include <errno.h>
#include <string.h>

/* @return 0, or -errno with op->err filled */
static int rebase_check_outer(const struct plx_pool_work *w)
{
    struct plx_pool_op *op = w->op;
    const struct pool_volume *v = w->v;
    if (!op->outer || !pool_outer_name_ok(op->outer))
        return plx_fail(&op->err, -EINVAL, "the name of a disk outside has 1 to %d bytes of printable characters",
                        POOL_OUTER_NAME - 1);
    if (v->flags & POOL_THICK)
        return plx_fail(&op->err, -EINVAL, "%s is thick; what goes back to a disk outside is thin", v->name);
    if (v->flags & POOL_OUTER && !v->parent && !strcmp(v->outer, op->outer))
        return plx_fail(&op->err, -EEXIST, "%s goes back to %s already", v->name, op->outer);
    return 0;
}

int pool_rebase_check(struct plx_pool_work *w, struct pool_volume **to)
{
    struct plx_pool_op *op = w->op;
    struct pool_volume *v = w->v, *s = op->name ? pool_volume_find(w->pool, op->name) : NULL;
    const struct pool_volume *now = pool_volume_live_parent(v);
    if (op->kind == PLX_POOL_SET_OUTER)
        return rebase_check_outer(w);
    *to = s;
    if (op->name && !s)
        return pool_work_no_volume(op, op->name);
    if (v->flags & POOL_THICK)
        return plx_fail(&op->err, -EINVAL, "%s is thick; what goes back to a snapshot is thin", v->name);
    if (!s)
        return now || v->flags & POOL_OUTER
                   ? 0
                   : plx_fail(&op->err, -EINVAL, "%s has no snapshot that it goes back to", v->name);
    if (s->state != POOL_SNAPSHOT || s == v)
        return plx_fail(&op->err, -EINVAL, "%s is no snapshot that %s could go back to", s->name, v->name);
    if (s == now)
        return plx_fail(&op->err, -EEXIST, "%s goes back to %s already", v->name, s->name);
    if (s->size != v->size)
        return plx_fail(&op->err, -EINVAL, "%s has %llu bytes, and %s %llu: their sizes are to be the same", v->name,
                        (unsigned long long)(v->size << w->pool->unit_shift), s->name,
                        (unsigned long long)(s->size << w->pool->unit_shift));
    if (s->locked)
        return plx_fail(&op->err, -EBUSY, "%s is being changed", s->name);
    return 0;
}

int pool_rebase_begin(struct plx_pool_work *w, struct pool_volume *to)
{
    struct plx_pool *p = w->pool;
    struct pool_volume *v = w->v, *shadow;
    int ret = p->instant >= UINT32_MAX - p->slots ? -ENOSPC : pool_work_number(p, &shadow);
    if (ret)
        return plx_fail(&w->op->err, ret, "no more volumes fit: %s", strerror(-ret));
    shadow->state = POOL_DYING;
    shadow->flags = POOL_BORROWS;
    shadow->instant = p->instant++;
    shadow->size = v->size;
    shadow->tree.height = to ? to->tree.height : v->tree.height;
    if (w->op->kind == PLX_POOL_SET_OUTER) {
        shadow->flags |= POOL_OUTER;
        memccpy(shadow->outer, w->op->outer, 0, sizeof shadow->outer - 1);
    }
    if (to) {
        pool_volume_take_outer(shadow, to);
        shadow->mapped = to->mapped;
        shadow->tree.root = to->tree.root;
        shadow->parent = to;
        to->children++;
        to->pins++;
    }
    shadow->changed = true;
    w->made = shadow;
    v->shadow = shadow;
    v->shadow_at = 0;
    return 0;
}

/* ---- the shadow ---- */

static void shadow_set(struct plx_pool *p, struct pool_volume *shadow, struct pool_entry *e, uint64_t unit,
                       uint32_t crc)
{
    shadow->mapped += unit != 0;
    shadow->mapped -= e->where.raw != 0;
    *e = unit || shadow->flags & POOL_OUTER ? pool_entry_make(unit, pool_birth(p, shadow), unit ? crc : 0)
                                            : (struct pool_entry){0};
}

int pool_shadow_ready(struct plx_pool *p, struct pool_try *t, struct pool_volume *v, uint64_t at,
                      struct pool_node **leaf)
{
    *leaf = NULL;
    return v->shadow && at < v->shadow_at ? pool_tree_change(p, t, &v->shadow->tree, at, 1, leaf) : 0;
}

void pool_shadow_enter(struct plx_pool *p, struct pool_volume *v, struct pool_node *leaf, uint64_t at, uint64_t n,
                       uint64_t to, const plx_le32 *crcs)
{
    if (!leaf)
        return;
    struct pool_entry *e = &pool_entries(leaf)[pool_slot(p, at, 0)];
    for (uint64_t i = 0; i < n; i++)
        shadow_set(p, v->shadow, &e[i], to ? to + i : 0, crcs ? plx_get32(crcs[i]) : 0);
    v->shadow->changed = true;
    pool_tree_prune(p, leaf);
}

/* ---- making it ---- */

/*
 * The entry of a tree that leads to a node of a level, or says that there are zeroes; or NULL. @return 0, POOL_AGAIN,
 * -errno
 */
static int entry_find(struct plx_pool *p, struct pool_try *t, struct pool_volume *v, uint64_t at, unsigned level,
                      const struct pool_entry **e)
{
    struct pool_node *n = NULL;
    int ret = 0;
    *e = NULL;
    if (!v || at >> v->tree.height * p->fan_shift)
        return 0;
    if (level < v->tree.height)
        ret = pool_tree_find(p, t, &v->tree, at, level + 1, &n);
    if (level >= v->tree.height)
        *e = &v->tree.root; /* in which it is, or below which there is more */
    else if (n)
        *e = &pool_entries(n)[pool_slot(p, at, level)];
    if (*e && !(*e)->where.raw && !pool_entry_zeroes(*e))
        *e = NULL;
    return ret;
}

/* top: what is there when it has no node */
static int leaf_enter(struct plx_pool_work *w, struct pool_try *t, const struct pool_node *mine,
                      const struct pool_node *theirs, const struct pool_entry *top, uint32_t until)
{
    struct plx_pool *p = w->pool;
    struct pool_volume *v = w->v;
    struct pool_node *leaf = NULL;
    for (uint32_t i = 0; i < 1U << p->fan_shift; i++) {
        const struct pool_entry *e = mine ? &pool_entries(mine)[i] : top;
        const bool own = pool_entry_birth(e) > until; /* a unit, or zeroes */
        if (!own && (e->where.raw || !theirs || !pool_entries(theirs)[i].where.raw))
            continue; /* what it has from its snapshot; or nothing, as that */
        if (!leaf) {
            int ret = pool_tree_change(p, t, &v->shadow->tree, v->shadow_at, 1, &leaf);
            if (ret)
                return ret;
        }
        shadow_set(p, v->shadow, &pool_entries(leaf)[i], own ? pool_entry_unit(e) : 0, plx_get32(e->crc));
    }
    if (leaf) {
        v->shadow->changed = true;
        pool_tree_prune(p, leaf);
    }
    return 0;
}

/* As far as one entry goes. */
static int rebase_step(struct plx_pool_work *w, struct pool_try *t, struct pool_volume *now)
{
    struct plx_pool *p = w->pool;
    struct pool_volume *v = w->v;
    const uint32_t until = now ? now->instant : 0;
    struct pool_entry top = {0};
    struct pool_node *mine = NULL, *theirs = NULL;
    const struct pool_entry *e = NULL, *other = NULL;
    for (unsigned l = v->tree.height; l; l--) {
        int ret = entry_find(p, t, v, v->shadow_at, l, &e);
        if (!ret)
            ret = entry_find(p, t, now, v->shadow_at, l, &other);
        if (ret)
            return ret;
        if ((!e && !other) || (e && pool_entry_birth(e) <= until)) {
            v->shadow_at = pool_span_end(p, v->shadow_at, l);
            return 0;
        }
        if (e && !e->where.raw) {
            top = *e;
            break;
        }
    }
    int ret = e && e->where.raw ? pool_node_get(p, t, e, 1, &mine) : 0;
    if (!ret && other)
        ret = pool_tree_find(p, t, &now->tree, v->shadow_at, 1, &theirs);
    if (!ret)
        ret = leaf_enter(w, t, mine, theirs, &top, until);
    if (!ret)
        v->shadow_at = pool_span_end(p, v->shadow_at, 1);
    return ret;
}

int pool_rebase_attempt(struct plx_pool_work *w, struct pool_try *t, struct pool_volume *now)
{
    for (unsigned i = 0; w->v->shadow_at < w->v->size; i++) {
        if (i == w->pool->job_steps) {
            w->begin = pool_work_yield;
            return POOL_AGAIN;
        }
        int ret = rebase_step(w, t, now);
        if (ret)
            return ret;
    }
    w->v->changed = w->made->changed = true;
    return 0;
}

/* ---- the end ---- */

void pool_rebase_apply(struct plx_pool_work *w)
{
    struct plx_pool *p = w->pool;
    struct pool_volume *v = w->v, *shadow = w->made, *parent = v->parent;
    const struct pool_tree tree = v->tree;
    const uint64_t mapped = v->mapped;
    if (strcmp(v->outer, shadow->outer) != 0)
        pool_work_leave(w);
    pool_volume_take_outer(v, shadow);
    shadow->flags &= ~(uint32_t)POOL_OUTER; /* of which nothing is in units */
    v->parent = shadow->parent;
    p->families++;
    v->tree.root = shadow->tree.root;
    v->tree.height = shadow->tree.height;
    v->mapped = shadow->mapped;
    shadow->parent = parent;
    shadow->tree.root = tree.root;
    shadow->tree.height = tree.height;
    shadow->mapped = mapped;
    if (v->state == POOL_SNAPSHOT)
        v->instant = shadow->instant;      /* until which all of it was entered */
    shadow->instant = pool_instant_end(p); /* what it was has been entered until now */
    p->shape++;
    v->shadow = NULL;
    w->made = NULL;
    if (v->parent)
        pool_volume_unpin(p, v->parent);
    pool_volume_die(p, shadow);
}

void pool_rebase_end(struct plx_pool_work *w)
{
    struct pool_volume *shadow = w->v->shadow;
    if (!shadow)
        return;
    w->v->shadow = NULL;
    if (shadow->parent)
        pool_volume_unpin(w->pool, shadow->parent);
    pool_volume_die(w->pool, shadow);
}
