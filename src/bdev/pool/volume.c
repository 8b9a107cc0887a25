/* SPDX-License-Identifier: BSD-3-Clause */
/* What a volume maps: changes of its tree, each of which is logged. */
#include "pool.h"

#include <errno.h>
#include <string.h>

/* What an entry of data leads to is not this volume's any more. */
static void entry_leave(struct plx_pool *p, struct pool_volume *v, const struct pool_entry *e, uint64_t at)
{
    if (pool_tree_owns(&v->tree, e, at + 1))
        pool_space_free(p, pool_entry_unit(e));
    else
        pool_ghost_stale(p, v->parent, false);
}

bool pool_volume_is_busy(const struct plx_pool *p, struct pool_volume *v, uint64_t at, uint64_t n)
{
    plx_list_for_each(it, pool_busy_list(p, v, at)) {
        const struct pool_busy *b = plx_list_entry(it, struct pool_busy, link);
        if (b->at < at + n && at < b->at + b->n)
            return true;
    }
    return false;
}

/* What a change needs, so that it cannot fail any more. */
static int change_ready(struct plx_pool *p, struct pool_try *t, unsigned units, uint32_t log)
{
    int ret = pool_space_free_ready(p, units);
    return !ret && log ? pool_log_ready(p, t, log) : ret;
}

int pool_volume_map(struct plx_pool *p, struct pool_try *t, struct pool_volume *v, uint64_t at, unsigned n, uint64_t to,
                    const plx_le32 *crcs, bool log)
{
    struct pool_node *leaf, *shadow;
    if (!crcs != !(p->flags & POOL_CHECKSUMS))
        return -EINVAL;
    int ret = p->broken ? -EIO : pool_tree_change(p, t, &v->tree, at, 1, &leaf);
    if (!ret)
        ret = pool_shadow_ready(p, t, v, at, &shadow);
    if (!ret)
        ret = change_ready(p, t, n, log ? pool_change_bytes(p, POOL_MAP, n) : 0);
    if (ret)
        return ret;
    struct pool_entry *e = &pool_entries(leaf)[pool_slot(p, at, 0)];
    v->changed = true;
    for (unsigned i = 0; i < n; i++, e++) {
        if (!e->where.raw) {
            v->mapped++;
            if (v->flags & POOL_THICK)
                p->set_aside--;
        } else {
            entry_leave(p, v, e, at + i);
        }
        *e = pool_entry_make(to + i, pool_birth(p, v), crcs ? plx_get32(crcs[i]) : 0);
    }
    pool_shadow_enter(p, v, shadow, at, n, to, crcs);
    if (log)
        pool_log_add(p, v->number, POOL_MAP, at, to, n, crcs);
    return 0;
}

int pool_volume_unmap(struct plx_pool *p, struct pool_try *t, struct pool_volume *v, uint64_t at, uint64_t *n, bool log)
{
    struct pool_node *leaf, *shadow;
    const uint64_t most = plx_min_u64(*n, (UINT64_C(1) << p->fan_shift) - pool_slot(p, at, 0));
    int ret = p->broken ? -EIO : pool_tree_find(p, t, &v->tree, at, 1, &leaf);
    if (ret)
        return ret;
    const struct pool_entry *e = leaf ? &pool_entries(leaf)[pool_slot(p, at, 0)] : NULL;
    bool mapped = false;
    *n = most;
    const bool outer = v->flags & POOL_OUTER;
    for (uint64_t i = 0; e && i < most && !mapped; i++)
        mapped = e[i].where.raw || (outer && !pool_entry_zeroes(&e[i]));
    mapped |= !e && outer && !pool_tree_zeroes(p, &v->tree, at);
    if (!mapped)
        return 0;
    ret = pool_tree_change(p, t, &v->tree, at, 1, &leaf);
    if (!ret)
        ret = pool_shadow_ready(p, t, v, at, &shadow);
    if (!ret)
        ret = change_ready(p, t, (unsigned)most, log ? pool_change_bytes(p, POOL_UNMAP, 0) : 0);
    if (ret)
        return ret;
    struct pool_entry *gone = &pool_entries(leaf)[pool_slot(p, at, 0)];
    v->changed = true;
    for (uint64_t i = 0; i < most; i++, gone++) {
        const bool there = gone->where.raw;
        if (there)
            entry_leave(p, v, gone, at + i);
        if (there || outer)
            *gone = outer ? pool_entry_make(0, pool_birth(p, v), 0) : (struct pool_entry){0};
        if (!there)
            continue;
        v->mapped--;
        if (v->flags & POOL_THICK)
            p->set_aside++;
    }
    pool_tree_prune(p, leaf);
    pool_shadow_enter(p, v, shadow, at, most, 0, NULL);
    if (log)
        pool_log_add(p, v->number, POOL_UNMAP, at, most, 0, NULL);
    return 0;
}

/* ---- records ---- */

void pool_volume_to_record(const struct pool_volume *v, struct pool_record *r)
{
    memset(r, 0, sizeof *r);
    if (v->state == POOL_FREE)
        return;
    r->state = plx_put32(v->state);
    r->flags = plx_put32(v->flags);
    memcpy(r->uuid, v->uuid, sizeof r->uuid);
    r->size = plx_put64(v->size);
    r->mapped = plx_put64(v->mapped);
    r->done = plx_put64(v->done);
    r->created = plx_put64(v->created);
    r->parent = plx_put32(v->parent ? v->parent->number + 1 : 0);
    r->instant = plx_put32(v->instant);
    r->height = v->tree.height;
    r->root = v->tree.root;
    memcpy(r->name, v->name, sizeof r->name);
    memcpy(r->outer, v->outer, sizeof r->outer);
    r->checksum = plx_put64(v->checksum);
    r->has_checksum = v->has_checksum;
    memcpy(r->attributes, v->attributes, sizeof r->attributes);
}
