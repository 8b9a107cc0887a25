/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the directory of a pool says of its volumes, when it is opened. A record that cannot be, or whose page is
 * damaged, costs its volume: its number is kept, as others may go back to it, and nothing more is known of it. They are
 * what they were, but none of what they have may be freed that it may have as well: not at all until the pool was
 * repaired, but for what was written since. Where a repair, or another reading, may bring it back it is kept: nobody
 * takes its name, and what the log has of it stays there.
 */
#include "op.h"

#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { LOST_TOLD = 8 }; /* one by one */

/* All that there is was born until now, and so is not the own of who goes back to it: see pool_shared_until(). */
static void volume_lose(struct plx_pool *p, struct pool_volume *v)
{
    if (v->state == POOL_LOST)
        return;
    if (v->flags & POOL_THICK && v->state == POOL_VOLUME && v->mapped <= v->size)
        p->set_aside -= v->size - v->mapped;
    v->state = POOL_LOST;
    v->flags = 0;
    v->parent = NULL;
    v->parent_number = 0;
    v->instant = p->instant;
    v->size = v->mapped = v->done = 0;
    v->tree.root = (struct pool_entry){0};
    memset(v->uuid, 0, sizeof v->uuid);
    memset(v->name, 0, sizeof v->name);
    p->lost++;
}

int pool_volume_lost(struct plx_pool *p, uint32_t number, bool kept, const char *why, struct plx_error *err)
{
    struct pool_volume *v = p->volume[number] ? p->volume[number] : pool_volume_new(p, number);
    if (!v)
        return plx_fail(err, -ENOMEM, "out of memory");
    if (why && p->lost < LOST_TOLD)
        plx_error("pool %s: volume %u is lost: %s", pool_shown(p), number, why);
    volume_lose(p, v);
    v->kept |= kept;
    p->kept |= kept;
    return 0;
}

static bool record_ok(const struct plx_pool *p, const struct pool_record *r)
{
    const uint32_t state = plx_get32(r->state);
    const bool named = state == POOL_VOLUME || state == POOL_SNAPSHOT;
    const uint64_t size = plx_get64(r->size);
    return size && !(size >> POOL_UNITS_SHIFT_MAX) && r->height && r->height < POOL_LEVELS &&
           r->height >= pool_height(size, p->unit_shift) && plx_get64(r->done) <= size &&
           plx_get32(r->parent) <= p->slots && plx_get32(r->instant) < p->instant &&
           (state == POOL_VOLUME) == !plx_get32(r->instant) && memchr(r->name, 0, sizeof r->name) &&
           (!named || pool_name_ok(r->name)) && (!(plx_get32(r->flags) & POOL_OUTER) || pool_outer_name_ok(r->outer)) &&
           pool_entry_unit(&r->root) < p->units;
}

int pool_volume_from_record(struct plx_pool *p, uint32_t number, const struct pool_record *r, struct plx_error *err)
{
    const uint32_t state = plx_get32(r->state), flags = plx_get32(r->flags);
    if (state == POOL_FREE)
        return 0;
    if (flags & ~(uint32_t)(POOL_THICK | POOL_OUTER | POOL_BORROWS))
        return plx_fail(err, -EINVAL, "%s: volume %u of its pool has flags 0x%x, not all of which this program knows",
                        plx_bdev_info(p->disk)->name, number, flags);
    if (state > POOL_DYING)
        return plx_fail(err, -EINVAL, "%s: volume %u of its pool is in state %u, which this program does not know",
                        plx_bdev_info(p->disk)->name, number, state);
    if (!record_ok(p, r))
        return pool_volume_lost(p, number, false, "what the directory says of it cannot be", err);
    struct pool_volume *v = pool_volume_new(p, number);
    if (!v)
        return plx_fail(err, -ENOMEM, "out of memory");
    v->state = (enum pool_state)state;
    v->flags = flags;
    if (v->flags & POOL_OUTER)
        memcpy(v->outer, r->outer, sizeof v->outer);
    memcpy(v->uuid, r->uuid, sizeof v->uuid);
    if (pool_attributes_ok(r->attributes)) /* else it remembers nothing, which does no other harm */
        memcpy(v->attributes, r->attributes, sizeof v->attributes);
    v->has_checksum = r->has_checksum == 1;
    v->checksum = plx_get64(r->checksum);
    if (state == POOL_VOLUME || state == POOL_SNAPSHOT)
        memcpy(v->name, r->name, sizeof v->name);
    v->size = plx_get64(r->size);
    v->mapped = plx_get64(r->mapped);
    v->done = plx_get64(r->done);
    v->created = plx_get64(r->created);
    v->instant = plx_get32(r->instant);
    v->tree.height = r->height;
    v->tree.root = r->root;
    v->parent_number = plx_get32(r->parent);
    if (v->flags & POOL_THICK && v->state == POOL_VOLUME && v->mapped <= v->size)
        p->set_aside += v->size - v->mapped;
    return 0;
}

static int compare_names(const void *a, const void *b)
{
    const struct pool_volume *x = *(struct pool_volume *const *)a, *y = *(struct pool_volume *const *)b;
    const int order = strcmp(x->name, y->name);
    return order ? order : x->number < y->number ? -1 : 1;
}

/* Of two with the same name, which nobody could tell apart, there is the first. */
static int check_names(struct plx_pool *p, struct plx_error *err)
{
    struct pool_volume **named = calloc(p->slots + 1, sizeof(struct pool_volume *));
    size_t n = 0;
    int ret = named ? 0 : plx_fail(err, -ENOMEM, "out of memory");
    for (uint32_t i = 0; i < p->slots && !ret; i++)
        if (p->volume[i] && p->volume[i]->name[0])
            named[n++] = p->volume[i];
    if (n)
        qsort(named, n, sizeof(struct pool_volume *), compare_names);
    for (size_t i = n; i-- > 1 && !ret;)
        if (!strcmp(named[i - 1]->name, named[i]->name))
            ret = pool_volume_lost(p, named[i]->number, true, "it has the name of another", err);
    free(named);
    return ret;
}

/* Along parents instants fall, so that nobody goes back to itself. What goes back to what is lost is as it was. */
int pool_volumes_link(struct plx_pool *p, struct plx_error *err)
{
    int ret = check_names(p, err);
    for (uint32_t i = 0; i < p->slots && !ret; i++) {
        struct pool_volume *v = p->volume[i];
        if (!v || !v->parent_number)
            continue;
        if (!p->volume[v->parent_number - 1])
            ret = pool_volume_lost(p, v->parent_number - 1, true,
                                   "others go back to it, and it is not in the directory", err);
        struct pool_volume *s = p->volume[v->parent_number - 1];
        if (!ret && s->state != POOL_LOST && (!s->instant || (v->instant && s->instant >= v->instant)))
            ret = pool_volume_lost(p, i, true, "it goes back to what is no snapshot of before it", err);
        if (ret || v->state == POOL_LOST)
            continue;
        v->parent = s;
        s->children++;
    }
    if (ret || !p->lost)
        return ret;
    if (p->instant >= UINT32_MAX - p->slots)
        return plx_fail(err, -ENOSPC, "%s: its pool has had too many snapshots", plx_bdev_info(p->disk)->name);
    p->instant++;
    plx_error(
        "pool %s: %u of its volumes are lost, and nothing is deleted from it; `pollux pool check` says what can be "
        "repaired",
        pool_shown(p), p->lost);
    return 0;
}
