/* SPDX-License-Identifier: BSD-3-Clause */
/* A volume as a disk: it comes and goes, with its channels, and its holders are told what happens to it. */
#include "disk.h"

#include "base/uuid.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

/* ---- channels ---- */

static int volume_channel_open(struct plx_bdev_channel *ch)
{
    struct disk_channel *c = (struct disk_channel *)(void *)ch->driver;
    struct plx_pool *p = ((struct pool_disk *)ch->bdev)->pool;
    int ret = plx_bdev_channel_get(p->disk, ch->reactor, &c->disk);
    if (ret)
        return ret;
    pool_lock(p);
    pool_channel_tell(p, &c->c);
    plx_list_add_tail(&p->channels, &c->c.link);
    pool_unlock(p);
    return 0;
}

static void volume_channel_close(struct plx_bdev_channel *ch)
{
    struct disk_channel *c = (struct disk_channel *)(void *)ch->driver;
    struct plx_pool *p = ((struct pool_disk *)ch->bdev)->pool;
    for (struct plx_bdev_sub *sub; (sub = c->plain);) {
        c->plain = sub->next;
        plx_bdev_sub_give(ch, sub);
    }
    pool_outer_channels_close(c);
    pool_lock(p);
    plx_list_del(&c->c.link);
    pool_grace_step(p);
    pool_unlock(p);
    if (atomic_exchange(&p->kick_after, false))
        pool_kick(p);
    plx_bdev_channel_put(c->disk);
}

/* ---- disks ---- */

static void pool_disk_free(struct pool_disk *d)
{
    struct pool_outer *o = NULL;
    pool_lock(d->pool);
    d->closing = true;
    o = pool_outer_exchange(d, &o);
    pool_unlock(d->pool);
    if (o)
        pool_outer_put(o);
    pool_lock(d->pool);
    while (d->telling) {
        pool_unlock(d->pool);
        sched_yield();
        pool_lock(d->pool);
    }
    d->v->disk = NULL; /* from here on it may be deleted */
    pool_unlock(d->pool);
    free(d);
}

static void volume_close(struct plx_bdev *bdev)
{
    struct pool_disk *d = (struct pool_disk *)bdev;
    struct plx_pool *p = d->pool;
    pool_disk_free(d);
    plx_pool_close(p);
}

static int volume_resize(struct plx_bdev *bdev, uint64_t blocks, struct plx_error *err)
{
    struct pool_disk *d = (struct pool_disk *)bdev;
    char uuid[PLX_UUID_TEXT]; /* it may be renamed meanwhile */
    struct plx_pool_op op = {.kind = PLX_POOL_RESIZE, .volume = uuid, .size = blocks << bdev->block_shift};
    plx_uuid_format(d->v->uuid, uuid);
    int ret = plx_pool_do(d->pool, &op);
    return ret ? plx_fail(err, ret, "%s", op.err.text) : 0;
}

static const struct plx_bdev_ops volume_ops = {
    .close = volume_close,
    .channel_open = volume_channel_open,
    .channel_close = volume_channel_close,
    .submit = pool_disk_submit,
    .abort = pool_disk_abort,
    .resize = volume_resize,
};

static const struct plx_bdev_ops summed_ops = {
    .close = volume_close,
    .channel_open = volume_channel_open,
    .channel_close = volume_channel_close,
    .submit = pool_summed_submit,
    .abort = pool_summed_abort,
    .resize = volume_resize,
};

static bool is_volume(const struct plx_bdev *bdev)
{
    return bdev->ops == &volume_ops || bdev->ops == &summed_ops;
}

void pool_disk_resized(struct pool_volume *v)
{
    if (v->disk)
        v->disk->resized = true;
}

struct pool_volume *pool_volume_of(const struct plx_bdev *bdev)
{
    return is_volume(bdev) ? ((const struct pool_disk *)bdev)->v : NULL;
}

struct plx_pool *plx_volume_pool(const struct plx_bdev *volume)
{
    return is_volume(volume) ? ((const struct pool_disk *)volume)->pool : NULL;
}

struct plx_bdev *pool_disk_of(const struct pool_volume *v)
{
    return v->disk ? &v->disk->bdev : NULL;
}

void pool_disks_gone(struct plx_pool *p)
{
    for (uint32_t i = 0; i < p->slots; i++)
        if (p->volume[i] && p->volume[i]->disk)
            p->volume[i]->disk->gone = true;
}

void pool_disks_tell(struct plx_pool *p)
{
    pool_lock(p);
    for (uint32_t i = 0; i < p->slots; i++) {
        struct pool_disk *d = p->volume[i] ? p->volume[i]->disk : NULL;
        if (!d || !(d->resized || d->gone))
            continue;
        const bool resized = d->resized, gone = d->gone;
        const uint64_t blocks = d->v->size << pool_unit_blocks_shift(p);
        d->resized = d->gone = false;
        d->telling = true;
        pool_unlock(p);
        if (resized)
            plx_bdev_resized(&d->bdev, blocks);
        if (gone)
            plx_bdev_gone(&d->bdev, "the disk below it is");
        pool_lock(p);
        d->telling = false;
    }
    pool_unlock(p);
}

/* Memory for the disk of a volume, which knows as many of its leaves as are worth it. */
static struct pool_disk *disk_alloc(const struct plx_pool *p, const struct pool_volume *v)
{
    uint32_t leaves = 1;
    while (leaves < POOL_LEAVES && leaves < v->size >> p->fan_shift)
        leaves *= 2;
    struct pool_disk *d = calloc(1, sizeof *d + leaves * sizeof d->leaves[0]);
    if (!d)
        return NULL;
    d->shift = (uint8_t)pool_unit_blocks_shift(p);
    d->fan_shift = (uint8_t)p->fan_shift;
    d->fan_mask = (1U << p->fan_shift) - 1;
    d->leaves_mask = leaves - 1;
    return d;
}

int pool_disk_new(struct plx_pool *p, const char *name, struct plx_bdev **out, struct plx_error *err)
{
    const struct plx_bdev_info *below = plx_bdev_info(p->disk);
    struct pool_disk *d = NULL;
    int ret = 0;
    pool_lock(p);
    struct pool_volume *v = pool_volume_find(p, name);
    if (!v) {
        ret = -ENOENT;
    } else if (v->disk || v->barred) {
        ret = -EBUSY;
    } else if (!(d = disk_alloc(p, v))) {
        ret = -ENOMEM;
    } else {
        d->pool = p;
        d->v = v;
        v->disk = d;
        d->bdev.info.blocks = v->size << pool_unit_blocks_shift(p);
        d->bdev.info.read_only = v->state == POOL_SNAPSHOT || below->read_only;
        memcpy(d->bdev.info.uuid, v->uuid, sizeof v->uuid);
    }
    pool_unlock(p);
    if (ret == -ENOMEM)
        return plx_fail(err, ret, "out of memory");
    if (ret)
        return ret == -EBUSY ? plx_fail(err, ret, "volume %s is open already, or about to be another", name)
                             : plx_fail(err, ret, "there is no volume named %s on %s", name, below->name);
    d->bdev.on = p->disk;
    d->bdev.ops = p->flags & POOL_CHECKSUMS ? &summed_ops : &volume_ops;
    d->bdev.channel_size = sizeof(struct disk_channel);
    d->bdev.subs = POOL_SUBS + POOL_PLAIN_SUBS;
    struct plx_bdev_info *info = &d->bdev.info;
    info->block_size = below->block_size;
    info->write_unit = 1U << p->unit_shift;
    info->ops = 1 << PLX_BDEV_READ | 1 << PLX_BDEV_WRITE | 1 << PLX_BDEV_WRITE_ZEROES | 1 << PLX_BDEV_UNMAP |
                1 << PLX_BDEV_FLUSH | 1 << PLX_BDEV_ALLOCATED;
    info->unmap_granularity = 1U << pool_unit_blocks_shift(p);
    info->max_unmap_blocks = UINT32_MAX;
    info->unmap_reads_zero = true;
    info->write_cache = true;
    info->rotational = below->rotational;
    ret = pool_outer_hold(d, err);
    if (ret) {
        pool_disk_free(d);
        return ret;
    }
    *out = &d->bdev;
    return 0;
}

int plx_pool_open_volume(struct plx_pool *pool, const uint8_t uuid[16], const char *name, struct plx_bdev **out,
                         struct plx_error *err)
{
    char text[PLX_UUID_TEXT];
    plx_uuid_format(uuid, text);
    int ret = pool_disk_new(pool, text, out, err);
    if (ret)
        return ret;
    ret = plx_bdev_register(*out, plx_bdev_volume.scheme, text, name, err);
    if (ret)
        pool_disk_free((struct pool_disk *)*out);
    else
        atomic_fetch_add(&pool->refs, 1); /* the disk's: closing it puts the pool back */
    return ret;
}

static int volume_open(const struct plx_url *url, struct plx_bdev **out, struct plx_error *err)
{
    const char *name = plx_url_param(url, "name");
    struct plx_pool *p;
    int ret = plx_url_only(url, "name", err);
    if (!ret && !name)
        ret = plx_fail(err, -EINVAL, "%s: which volume? volume:DISK?name=NAME says that", url->name);
    if (!ret)
        ret = pool_open_below(url, &p, err);
    if (ret)
        return ret;
    ret = pool_disk_new(p, name, out, err);
    if (ret)
        plx_pool_close(p);
    return ret;
}

const struct plx_bdev_driver plx_bdev_volume = {
    .scheme = "volume",
    .help = "volume:DISK?name=NAME  a volume of the pool on a disk: see pollux pool",
    .open = volume_open,
};
