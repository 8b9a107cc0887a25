/* SPDX-License-Identifier: BSD-3-Clause */
/* A volume as a disk: what its requests (disk.c) and its life (disk_life.c) share. */
#ifndef PLX_POOL_DISK_H
#define PLX_POOL_DISK_H

#include "pool.h"

enum { POOL_LEAVES = 64 };

/* Where the entry of a unit was found lately, of which there are as many as are worth it. Under the lock. */
struct known_leaf {
    uint64_t shape; /* plx_pool.shape then */
    uint64_t at;    /* number of the node */
    struct pool_node *node;
};

struct pool_disk {
    struct plx_bdev bdev;
    struct plx_pool *pool;
    struct pool_volume *v;
    bool resized, gone; /* which is to be told */
    bool telling;       /* that is being done: the disk stays */
    struct known_leaf leaves[POOL_LEAVES];
};

struct disk_channel {
    struct pool_channel c;
    struct plx_bdev_channel *disk;
};

/* Blocks of a unit, as a power of two. */
static inline unsigned pool_unit_blocks_shift(const struct plx_pool *p)
{
    return p->unit_shift - p->block_shift;
}

void pool_disk_submit(struct plx_bdev_channel *ch, struct plx_bdev_req *req);
void pool_disk_abort(struct plx_bdev_channel *ch, struct plx_bdev_req *req);

#endif
