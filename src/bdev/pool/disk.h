/* SPDX-License-Identifier: BSD-3-Clause */
/* A volume as a disk: what its requests (disk.c) and its life (disk_life.c) share. */
#ifndef PLX_POOL_DISK_H
#define PLX_POOL_DISK_H

#include "pool.h"

enum {
    POOL_LEAVES = 1024,    /* at most, of a disk */
    POOL_SUBS = 128,       /* sub-requests of a channel */
    POOL_PLAIN_SUBS = 128, /* that are for requests which need one, and no more */
};

/* Where the entry of a unit was found lately. Under the lock. */
struct known_leaf {
    uint64_t shape; /* plx_pool.shape then, as long as it is this one the node is where it was */
    uint64_t at;    /* number of the node */
    struct pool_entry *entries;
};

struct pool_disk {
    struct plx_bdev bdev;
    struct plx_pool *pool;
    struct pool_volume *v;
    /* What every request needs: blocks of a unit and entries of a node as powers of two; less one, these and leaves. */
    uint8_t shift, fan_shift;
    uint32_t fan_mask, leaves_mask;
    struct pool_outer *outer;   /* that shows through where nothing is; or NULL. Under the lock */
    bool resized, gone;         /* which is to be told */
    bool closing;               /* it gets no disk outside any more */
    bool telling;               /* that is being done: the disk stays */
    struct known_leaf leaves[]; /* as many as the volume has, or as are worth it */
};

/* A disk outside that is held: outer.c */
struct pool_outer {
    struct plx_pool *pool;
    struct plx_bdev *disk;
    struct plx_bdev_hold *hold;
    struct pool_disk *d;    /* in which it shows through; or NULL. Under the lock */
    unsigned refs;          /* of who has it, and of its channels. Under the lock */
    struct pool_wait *told; /* when there are none any more, and it is let go */
};

struct outer_channel;

struct disk_channel {
    struct pool_channel c;
    struct plx_bdev_channel *disk;
    struct outer_channel *outers; /* of disks outside: changed on the reactor, under the lock */
    struct plx_bdev_sub *plain;   /* those of requests that go the plain way; used before, and free */
    uint32_t plain_subs;          /* that there are */
};

/* Blocks of a unit, as a power of two. */
static inline unsigned pool_unit_blocks_shift(const struct plx_pool *p)
{
    return p->unit_shift - p->block_shift;
}

/* Of its blocks a block of the pool is so many, as a power of two; and it has so many of those. */
static inline unsigned pool_outer_shift(const struct plx_pool *p, const struct pool_outer *o)
{
    return p->block_shift - o->disk->block_shift;
}
uint64_t pool_outer_blocks(const struct plx_pool *p, const struct pool_outer *o);
/* Finds and holds it. @return 0, or -errno with err filled */
int pool_outer_open(struct plx_pool *p, const char *volume, const char *name, struct pool_outer **out,
                    struct plx_error *err);
/*
 * Whether a volume can go back to another one, or to none: not while others go back to it, who would read something
 * else, nor if requests to that disk come to the volume itself. Of two of whom each is to go back to the other, both
 * having been opened for that, one is refused. @return 0, or -errno with err filled. The keeper's
 */
int pool_outer_may_change(struct plx_pool *p, const struct pool_volume *v, const struct pool_outer *next,
                          struct plx_error *err);
/* The last one lets it go. Without the lock, as all of these but pool_outer_exchange(). */
void pool_outer_put(struct pool_outer *o);
/* Of the channel of a volume, on its reactor; opened if it is not. NULL: that cannot be done */
struct plx_bdev_channel *pool_outer_channel(struct plx_bdev_channel *volume, struct pool_outer *o);
void pool_outer_channels_close(struct disk_channel *c);
/* Nobody who has a channel of it uses it: these are put back, and so is it. `told` is told when it has been let go */
void pool_outer_leave(struct pool_outer *o, struct pool_wait *told);
/* It has another one from now on, *o, or none; *o is NULL then. @return the one before, or NULL. Under the lock */
struct pool_outer *pool_outer_exchange(struct pool_disk *d, struct pool_outer **o);
/* It has the one that its volume goes back to, if it goes back to one. @return 0, or -errno with err filled */
int pool_outer_hold(struct pool_disk *d, struct plx_error *err);
/* Whether it shows through in a unit that is nowhere. Under the lock, right after that was looked for. */
static inline bool pool_disk_through(const struct pool_disk *d, const struct pool_entry *e, uint64_t at)
{
    return d->outer && d->v->flags & POOL_OUTER &&
           !(e ? pool_entry_zeroes(e) : pool_tree_zeroes(d->pool, &d->v->tree, at));
}
/* Blocks of a unit, counted as the volume's, that it has. */
static inline uint32_t pool_outer_left(const struct pool_disk *d, const struct pool_outer *o, uint64_t unit)
{
    const uint64_t first = unit << d->shift, blocks = pool_outer_blocks(d->pool, o);
    return first < blocks ? (uint32_t)plx_min_u64(blocks - first, UINT64_C(1) << d->shift) : 0;
}
/* Bytes that a disk outside has which shows through in one. */
uint64_t pool_disk_outer_bytes(const struct plx_bdev *volume);
void pool_disk_submit(struct plx_bdev_channel *ch, struct plx_bdev_req *req);
/* summed.c: the same, of a pool with checksums. */
void pool_summed_submit(struct plx_bdev_channel *ch, struct plx_bdev_req *req);
void pool_summed_abort(struct plx_bdev_channel *ch, struct plx_bdev_req *req);
void pool_disk_abort(struct plx_bdev_channel *ch, struct plx_bdev_req *req);

#endif
