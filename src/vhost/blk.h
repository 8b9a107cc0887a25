/* SPDX-License-Identifier: BSD-3-Clause */
/* A block device: what rings and the control side know of its disk (virtio 1.2, 5.2). */
#ifndef PLX_VHOST_BLK_H
#define PLX_VHOST_BLK_H

#include <pollux/bdev.h>
#include <stdatomic.h>

#include "vhost/spec.h"

enum { VHOST_RANGES = 256, VHOST_RANGE_SECTORS = 1 << 22 }; /* of a discard, and of one of its ranges */

struct vhost_blk {
    struct plx_bdev *bdev; /* NULL: it is gone */
    unsigned sector_shift; /* 512-byte sectors of a block, as a power of two */
    bool read_only, packed;
    /*
     * PLX_MAY_READ, PLX_MAY_WRITE: what a reservation forbids, as guests of block devices do not register. Every ring's
     * reactor has heard of a change before that is answered.
     */
    _Atomic uint8_t forbidden;
    unsigned queues, queue_size;
    _Atomic uint32_t delay_us, iops_threshold; /* see plx_vhost_set_coalescing() */
    char serial[VIRTIO_BLK_ID];                /* without a zero at its end, when it is that long */
    struct plx_bdev_info info; /* as it was at first: what was offered of a disk is so as well when that is gone */
    bool gone;                 /* or about to be: guests are to see no capacity */
};

/* Features of the device, and of its rings; without those of the protocol. */
uint64_t vhost_blk_features(const struct vhost_blk *blk);
void vhost_blk_config(const struct vhost_blk *blk, bool writeback, struct virtio_blk_config *out);

#endif
