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
    struct plx_bdev *outer; /* that shows through where nothing is; or NULL */
    struct plx_bdev_hold *outer_hold;
    bool resized, gone;         /* which is to be told */
    bool telling;               /* that is being done: the disk stays */
    struct known_leaf leaves[]; /* as many as the volume has, or as are worth it */
};

struct disk_channel {
    struct pool_channel c;
    struct plx_bdev_channel *disk;
    struct plx_bdev_channel *outer; /* or NULL */
    struct plx_bdev_sub *plain;     /* those of requests that go the plain way; used before, and free */
    uint32_t plain_subs;            /* that there are */
};

/* Blocks of a unit, as a power of two. */
static inline unsigned pool_unit_blocks_shift(const struct plx_pool *p)
{
    return p->unit_shift - p->block_shift;
}

/* Bytes that a disk outside has which shows through in one. */
uint64_t pool_disk_outer_bytes(const struct plx_bdev *volume);
void pool_disk_submit(struct plx_bdev_channel *ch, struct plx_bdev_req *req);
/* summed.c: the same, of a pool with checksums. */
void pool_summed_submit(struct plx_bdev_channel *ch, struct plx_bdev_req *req);
void pool_summed_abort(struct plx_bdev_channel *ch, struct plx_bdev_req *req);
void pool_disk_abort(struct plx_bdev_channel *ch, struct plx_bdev_req *req);

#endif
