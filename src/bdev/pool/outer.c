/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A disk outside the pool, to which a volume goes back. It is held for as long as that volume is a disk, and while an
 * operation reads it; a volume can come to it, and leave it, while it is in use. So its channels are opened when they
 * are wanted first, and those of a disk that was left are put back each on its own reactor.
 */
#include "disk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { DEEPEST = 32 }; /* disks, one on the other */

struct outer_channel {
    struct pool_outer *of;
    struct plx_bdev_channel *ch;
    struct disk_channel *owner; /* NULL: that is closed, and so is this */
    struct outer_channel *next; /* of the owner's */
    struct plx_msg msg;         /* that it is to be put back */
    bool sent;                  /* under the lock */
};

/* ---- holding it ---- */

static void outer_event(void *arg, struct plx_bdev *bdev, enum plx_bdev_event what)
{
    struct pool_outer *o = arg;
    struct plx_pool *p = o->pool;
    (void)bdev;
    if (what != PLX_BDEV_GONE)
        return;
    pool_lock(p);
    if (o->d)
        o->d->gone = true;
    pool_unlock(p);
    atomic_store_explicit(&p->volumes_gone, true, memory_order_relaxed);
    pool_kick(p);
}

int pool_outer_open(struct plx_pool *p, const char *volume, const char *name, struct pool_outer **out,
                    struct plx_error *err)
{
    const uint32_t block = plx_bdev_info(p->disk)->block_size;
    struct plx_bdev *disk = plx_bdev_find(name);
    if (!disk)
        return plx_fail(err, -ENODEV, "%s goes back to a disk, %s, that is not there", volume, name);
    if (plx_volume_pool(disk) == p)
        return plx_fail(err, -EINVAL, "%s is in the same pool as %s, and no disk outside", name, volume);
    if (block % plx_bdev_info(disk)->block_size)
        return plx_fail(err, -EINVAL, "%s goes back to %s, whose blocks of %u bytes are no parts of its own, of %u",
                        volume, plx_bdev_info(disk)->name, plx_bdev_info(disk)->block_size, block);
    struct pool_outer *o = calloc(1, sizeof *o);
    if (!o)
        return plx_fail(err, -ENOMEM, "out of memory");
    o->pool = p;
    o->disk = disk;
    o->refs = 1;
    const struct plx_bdev_hold_opts hold = {.who = volume, .claim = PLX_BDEV_STILL, .event = outer_event, .arg = o};
    int ret = plx_bdev_hold(disk, &hold, &o->hold, err);
    if (ret)
        free(o);
    else
        *out = o;
    return ret;
}

/* Whether requests to a disk, which is held, may come to another one. */
static bool leads_to(struct plx_bdev *disk, const struct plx_bdev *to, unsigned depth)
{
    struct plx_bdev *outer = NULL;
    if (!disk)
        return false;
    if (disk == to || depth == DEEPEST || leads_to(disk->below, to, depth + 1) || leads_to(disk->on, to, depth + 1))
        return true;
    if (pool_volume_of(disk)) {
        const struct pool_disk *d = (const struct pool_disk *)disk;
        pool_lock(d->pool);
        outer = d->outer ? d->outer->disk : NULL;
        pool_unlock(d->pool);
    }
    return leads_to(outer, to, depth + 1);
}

int pool_outer_may_change(struct plx_pool *p, const struct pool_volume *v, const struct pool_outer *next,
                          struct plx_error *err)
{
    int ret = 0;
    pool_lock(p);
    struct pool_disk *d = v->disk && !v->disk->closing ? v->disk : NULL;
    if (d)
        d->telling = true; /* it stays */
    pool_unlock(p);
    if (!d)
        return 0;
    if (plx_bdev_is_still(&d->bdev))
        ret = plx_fail(err, -EBUSY, "others go back to %s as to a disk outside, so that it stays as it is", v->name);
    else if (next && leads_to(next->disk, &d->bdev, 0))
        ret = plx_fail(err, -EINVAL, "%s goes back to %s itself", plx_bdev_info(next->disk)->name, v->name);
    pool_lock(p);
    d->telling = false;
    pool_unlock(p);
    return ret;
}

void pool_outer_put(struct pool_outer *o)
{
    pool_lock(o->pool);
    const bool last = !--o->refs;
    pool_unlock(o->pool);
    if (!last)
        return;
    plx_bdev_release(o->hold);
    if (o->told)
        pool_wake_one(o->told, 0);
    free(o);
}

uint64_t pool_outer_blocks(const struct plx_pool *p, const struct pool_outer *o)
{
    return plx_bdev_blocks(o->disk) >> pool_outer_shift(p, o);
}

/* ---- channels ---- */

/* @return 0, or -errno */
static int channel_new(struct plx_bdev_channel *volume, struct pool_outer *o, struct outer_channel **out)
{
    struct disk_channel *c = (struct disk_channel *)(void *)volume->driver;
    struct outer_channel *oc = calloc(1, sizeof *oc);
    int ret = oc ? plx_bdev_channel_get(o->disk, volume->reactor, &oc->ch) : -ENOMEM;
    if (ret) {
        free(oc);
        return ret;
    }
    oc->of = o;
    oc->owner = c;
    pool_lock(o->pool);
    o->refs++;
    oc->next = c->outers;
    c->outers = oc;
    pool_unlock(o->pool);
    *out = oc;
    return 0;
}

struct plx_bdev_channel *pool_outer_channel(struct plx_bdev_channel *volume, struct pool_outer *o)
{
    struct outer_channel *oc = ((struct disk_channel *)(void *)volume->driver)->outers;
    while (oc && oc->of != o)
        oc = oc->next;
    return oc || !channel_new(volume, o, &oc) ? oc->ch : NULL;
}

void pool_outer_channels_close(struct disk_channel *c)
{
    for (struct outer_channel *oc; (oc = c->outers);) {
        struct pool_outer *o = oc->of;
        pool_lock(o->pool);
        c->outers = oc->next;
        oc->owner = NULL;
        const bool sent = oc->sent;
        pool_unlock(o->pool);
        plx_bdev_channel_put(oc->ch);
        if (!sent)
            free(oc);
        pool_outer_put(o);
    }
}

/* ---- leaving it ---- */

static void channel_left(struct plx_msg *msg)
{
    struct outer_channel *oc = plx_container_of(msg, struct outer_channel, msg);
    struct pool_outer *o = oc->of;
    if (!oc->owner) {
        free(oc);
        return;
    }
    struct outer_channel **link = &oc->owner->outers;
    pool_lock(o->pool);
    while (*link != oc)
        link = &(*link)->next;
    *link = oc->next;
    pool_unlock(o->pool);
    plx_bdev_channel_put(oc->ch);
    free(oc);
    pool_outer_put(o);
}

void pool_outer_leave(struct pool_outer *o, struct pool_wait *told)
{
    struct plx_pool *p = o->pool;
    o->told = told;
    pool_lock(p);
    plx_list_for_each(it, &p->channels) {
        const struct pool_channel *c = plx_list_entry(it, struct pool_channel, link);
        for (struct outer_channel *oc = ((const struct disk_channel *)(const void *)c)->outers; oc; oc = oc->next) {
            if (oc->of != o || oc->sent)
                continue;
            oc->sent = true;
            oc->msg.fn = channel_left;
            plx_reactor_send(oc->ch->reactor, &oc->msg);
        }
    }
    pool_unlock(p);
    pool_outer_put(o);
}

/* ---- the disk of a volume ---- */

struct pool_outer *pool_outer_exchange(struct pool_disk *d, struct pool_outer **o)
{
    struct pool_outer *was = d->outer;
    d->outer = *o;
    *o = NULL;
    if (was)
        was->d = NULL;
    if (d->outer)
        d->outer->d = d;
    return was;
}

/* It goes back to another one meanwhile, or to none: then that one is looked for. */
int pool_outer_hold(struct pool_disk *d, struct plx_error *err)
{
    struct plx_pool *p = d->pool;
    for (bool settled = false; !settled;) {
        char name[POOL_OUTER_NAME], volume[POOL_NAME];
        struct pool_outer *o = NULL;
        pool_lock(p);
        memcpy(name, d->v->outer, sizeof name);
        memcpy(volume, d->v->name, sizeof volume);
        settled = d->outer || !(d->v->flags & POOL_OUTER);
        pool_unlock(p);
        if (settled)
            break;
        int ret = pool_outer_open(p, volume, name, &o, err);
        if (ret)
            return ret;
        pool_lock(p);
        if (!d->outer && d->v->flags & POOL_OUTER && !strcmp(d->v->outer, name))
            pool_outer_exchange(d, &o);
        pool_unlock(p);
        if (o)
            pool_outer_put(o);
    }
    return 0;
}
