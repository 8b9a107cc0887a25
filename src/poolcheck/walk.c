/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * All trees, parents before their children, each beside that of its parent: what is not its own must be what the parent
 * has in the same place, and is not gone through again; what is its own nobody has had before. So each unit is seen
 * once, however many snapshots there are.
 */
#include "check.h"

#include "base/util.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { KIN_STEPS_MAX = 1 << 28 }; /* more than that an attacker would have us take */

struct pck_volume *pck_parent_at(struct pck *c, const struct pck_volume *v, uint64_t end)
{
    struct pck_volume *s = v->parent;
    while (s && s->r.state == PCK_DYING && plx_min_u64(end, s->r.size) <= s->r.done) {
        s = s->parent;
        if (++c->kin_steps > KIN_STEPS_MAX && !c->stop)
            c->stop = plx_fail(c->err, -EUCLEAN, "more volumes are being freed than can ever have been deleted");
        if (c->stop)
            return NULL;
    }
    return s;
}

bool pck_entry_at(struct pck *c, const struct pck_volume *s, unsigned level, uint64_t at, struct pck_entry *out)
{
    *out = s->r.root;
    if (level > s->r.height || (s->r.height < PCK_HEIGHT_MAX && at >> (s->r.height * pck_fan(&c->root)))) {
        *out = (struct pck_entry){0};
        return true;
    }
    for (unsigned l = s->r.height; l > level && out->unit; l--) {
        const uint8_t *node = out->unit < c->root.units ? pck_node(c, out) : NULL;
        if (!node)
            return false;
        const uint64_t slot = at >> ((l - 1) * pck_fan(&c->root)) & ((UINT64_C(1) << pck_fan(&c->root)) - 1);
        *out = pck_get_entry(node + slot * 16);
    }
    return true;
}

static void say_of(struct pck *c, struct pck_volume *v, const struct pck_entry *e, uint64_t at, const char *what)
{
    char offset[32];
    c->blind = true; /* something else should be there, which may be one of those that nothing leads to */
    pck_say(c, PLX_POOL_DAMAGE, false, v, (int64_t)(e->unit & INT64_MAX), "%s, from byte %s on: unit %llu %s", v->shown,
            pck_offset(c, at, offset), (unsigned long long)e->unit, what);
}

/* Whether an entry can be, but for who else has it. */
static bool entry_can_be(struct pck *c, struct pck_volume *v, const struct pck_entry *e, uint64_t at)
{
    const uint32_t until = v->r.instant ? v->r.instant : c->root.instant;
    if (e->unit >= c->root.units || pck_is_fixed(&c->root, e->unit)) {
        say_of(c, v, e, at, "is none that a volume can have");
        v->damaged = true;
        return false;
    }
    if (at >= v->r.size) {
        say_of(c, v, e, at, "is beyond the end of the volume");
        return false;
    }
    if (!e->birth || e->birth > until)
        say_of(c, v, e, at, "was entered at an instant that had not come");
    return true;
}

/* What of it can be read is known of the parent: whether it is the same. @return 1: it is; 0: it is not; -1: unknown */
static int same_as_parent(struct pck *c, struct pck_volume *v, const struct pck_volume *s, const struct pck_entry *e,
                          unsigned level, uint64_t at)
{
    struct pck_entry other;
    if (!pck_entry_at(c, s, level, at, &other))
        return -1;
    if (other.unit == e->unit && other.birth == e->birth && other.crc == e->crc)
        return 1;
    say_of(c, v, e, at, "belongs to the snapshot that it goes back to, which has another one there");
    return 0;
}

static uint64_t count_below(struct pck *c, struct pck_volume *v, const struct pck_entry *e, unsigned level)
{
    uint64_t n = 1;
    if (level && !pck_count_get(c, e->unit, &n))
        v->inexact = true;
    return n;
}

static void nodes_ahead(struct pck *c, struct pck_volume *v, const uint8_t *mem, unsigned level, uint64_t first,
                        uint32_t from)
{
    struct pck_entry wanted[PCK_AT_ONCE];
    const uint32_t fan = 1U << pck_fan(&c->root), to = from + PCK_AT_ONCE < fan ? from + PCK_AT_ONCE : fan;
    unsigned n = 0;
    for (uint32_t i = from; i < to; i++) {
        const struct pck_entry e = pck_get_entry(mem + (size_t)i * 16);
        const uint64_t at = first + ((uint64_t)i << (level * pck_fan(&c->root)));
        if (!e.unit || e.unit >= c->root.units || pck_bit(c, &c->used, e.unit))
            continue;
        const struct pck_volume *s = pck_parent_at(c, v, pck_span_end(&c->root, at, level));
        if (!s || e.birth > s->r.instant)
            wanted[n++] = e;
    }
    if (n)
        pck_nodes_read(c, wanted, n);
}

static uint64_t tree_walk(struct pck *c, struct pck_volume *v, const struct pck_entry *e, unsigned level, uint64_t at);

/* @return units of data below it */
static uint64_t node_walk(struct pck *c, struct pck_volume *v, const struct pck_entry *e, unsigned level, uint64_t at)
{
    uint8_t *mem = c->level[level];
    const uint8_t *node = pck_node(c, e);
    uint64_t n = 0;
    if (!node) {
        char offset[32];
        pck_say(c, PLX_POOL_DAMAGE, v->r.state == PCK_DYING, v, (int64_t)e->unit,
                "%s: the node of level %u in unit %llu, which leads to what is from byte %s on, is damaged", v->shown,
                level, (unsigned long long)e->unit, pck_offset(c, at, offset));
        v->damaged = v->inexact = true;
        c->blind |= v->r.state != PCK_DYING;
        return 0;
    }
    c->opts->nodes++;
    memcpy(mem, node, c->unit);
    for (uint32_t i = 0; i < 1U << pck_fan(&c->root) && !c->stop; i++) {
        if (level > 1 && i % PCK_AT_ONCE == 0)
            nodes_ahead(c, v, mem, level - 1, at, i);
        const struct pck_entry below = pck_get_entry(mem + (size_t)i * 16);
        if (below.unit)
            n += tree_walk(c, v, &below, level - 1, at + ((uint64_t)i << ((level - 1) * pck_fan(&c->root))));
    }
    pck_count_put(c, e->unit, n);
    return n;
}

static uint64_t tree_walk(struct pck *c, struct pck_volume *v, const struct pck_entry *e, unsigned level, uint64_t at)
{
    const uint64_t end = pck_span_end(&c->root, at, level);
    if (v->r.state == PCK_DYING && plx_min_u64(end, v->r.size) <= v->r.done)
        return 0; /* was freed */
    if (!entry_can_be(c, v, e, at)) {
        v->inexact = true;
        return 0;
    }
    const struct pck_volume *s = pck_parent_at(c, v, end);
    const bool own = !s || e->birth > s->r.instant;
    const int same = own ? 0 : same_as_parent(c, v, s, e, level, at);
    if (same > 0 || (!level && v->r.flags & PCK_BORROWS))
        return count_below(c, v, e, level);
    if (pck_bit(c, &c->meta, e->unit) || !pck_bit_set(c, &c->used, e->unit)) {
        if (v->orphan) {
            v->shares = true;
            pck_bit_set(c, &c->twice, e->unit);
        }
        if (own && !v->orphan && !c->stop)
            say_of(c, v, e, at, "is in use elsewhere as well");
        v->inexact = true;
        return count_below(c, v, e, level);
    }
    c->n_used++;
    pck_step(c);
    if (level)
        return node_walk(c, v, e, level, at);
    pck_data_entry(c, v, e, at);
    return 1;
}

/*
 * Whether it leads to what an orphan after it leads to as well. `seen` has what was gone through: an attacker's tree
 * may lead to a node from anywhere.
 */
static bool leads_to_twice(struct pck *c, const struct pck_entry *e, unsigned level, struct pck_bits *seen)
{
    if (!e->unit || e->unit >= c->root.units || c->stop)
        return false;
    if (pck_bit(c, &c->twice, e->unit))
        return true;
    if (!level || !pck_bit_set(c, seen, e->unit))
        return false;
    pck_step(c);
    const uint8_t *node = pck_node(c, e);
    bool found = false;
    if (node)
        memcpy(c->level[level], node, c->unit);
    for (uint32_t i = 0; node && i < 1U << pck_fan(&c->root) && !found; i++) {
        const struct pck_entry below = pck_get_entry(c->level[level] + (size_t)i * 16);
        found = leads_to_twice(c, &below, level - 1, seen);
    }
    return found;
}

/*
 * Of those that have lost the snapshot that they go back to, the first that is gone through leads to nothing that was
 * seen: what the others share with it is found with them. And what cannot be read may lead to what any of them has.
 */
static void find_orphans_sharing(struct pck *c)
{
    bool twice = false, unknown = false;
    for (uint32_t i = 0; i < c->n; i++) {
        twice |= c->order[i]->shares;
        unknown |= c->order[i]->damaged;
    }
    for (uint32_t i = 0; i < c->n && (twice || unknown) && !c->stop; i++) {
        struct pck_volume *v = c->order[i];
        struct pck_bits seen = {NULL};
        if (!v->orphan || v->shares)
            continue;
        seen.region = calloc(pck_regions(&c->root), sizeof *seen.region);
        if (!seen.region)
            c->stop = plx_fail(c->err, -ENOMEM, "out of memory");
        else
            v->shares = unknown || leads_to_twice(c, &v->r.root, v->r.height, &seen);
        pck_bits_free(c, &seen);
    }
}

static void say_orphan(struct pck *c, struct pck_volume *v)
{
    if (!v->shares) {
        pck_say(
            c, PLX_POOL_DAMAGE, true, v, PLX_POOL_NOWHERE,
            "%s goes back to volume %u, which is no snapshot of before it; nobody else has what it has, so that all "
            "of that is its own",
            v->shown, v->r.parent - 1);
        v->r.parent = 0;
        c->views_changed = true;
        return;
    }
    c->leave = true; /* there would be less to tell it by */
    pck_say(
        c, PLX_POOL_DAMAGE, false, v, PLX_POOL_NOWHERE,
        "%s goes back to volume %u, which is no snapshot of before it, and others have what it has, or may have it: "
        "whose that is cannot be told, and while that is so nothing is deleted from the pool",
        v->shown, v->r.parent - 1);
}

void pck_trees(struct pck *c)
{
    for (uint32_t i = 0; i < c->n && !c->stop; i++) {
        struct pck_volume *v = c->order[i];
        if (v->r.root.unit)
            v->counted = tree_walk(c, v, &v->r.root, v->r.height, 0);
    }
    pck_data_end(c);
    find_orphans_sharing(c);
    for (uint32_t i = 0; i < c->n && !c->stop; i++) {
        struct pck_volume *v = c->order[i];
        if (v->orphan)
            say_orphan(c, v);
        if (v->inexact || v->r.state == PCK_DYING || v->counted == v->r.mapped)
            continue;
        pck_say(c, PLX_POOL_WASTE, true, v, PLX_POOL_NOWHERE, "%s maps %llu units, and says that it maps %llu",
                v->shown, (unsigned long long)v->counted, (unsigned long long)v->r.mapped);
        v->r.mapped = v->counted;
        c->records_wrong = true;
    }
}
