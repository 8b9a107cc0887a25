/* SPDX-License-Identifier: BSD-3-Clause */
/* What a device says of itself: features, and its configuration (virtio 1.2, 5.2.3 and 5.2.4). */
#include "vhost/blk.h"
#include "vhost/ring.h"

#include <string.h>

uint64_t vhost_blk_features(const struct vhost_blk *blk)
{
    const struct plx_bdev_info *info = &blk->info;
    uint64_t f = VHOST_BIT(VIRTIO_F_VERSION_1) | VHOST_BIT(VIRTIO_F_INDIRECT_DESC) | VHOST_BIT(VIRTIO_F_EVENT_IDX) |
                 VHOST_BIT(VIRTIO_BLK_F_SIZE_MAX) | VHOST_BIT(VIRTIO_BLK_F_SEG_MAX) | VHOST_BIT(VIRTIO_BLK_F_BLK_SIZE) |
                 VHOST_BIT(VIRTIO_BLK_F_TOPOLOGY) | VHOST_BIT(VIRTIO_BLK_F_FLUSH) | VHOST_BIT(VIRTIO_BLK_F_CONFIG_WCE);
    if (blk->packed)
        f |= VHOST_BIT(VIRTIO_F_RING_PACKED);
    if (blk->queues > 1)
        f |= VHOST_BIT(VIRTIO_BLK_F_MQ);
    if (blk->read_only)
        return f | VHOST_BIT(VIRTIO_BLK_F_RO);
    if (info->ops & 1 << PLX_BDEV_UNMAP)
        f |= VHOST_BIT(VIRTIO_BLK_F_DISCARD);
    if (info->ops & 1 << PLX_BDEV_WRITE_ZEROES)
        f |= VHOST_BIT(VIRTIO_BLK_F_WRITE_ZEROES);
    return f;
}

void vhost_blk_config(const struct vhost_blk *blk, bool writeback, struct virtio_blk_config *out)
{
    const struct plx_bdev_info *info = &blk->info;
    const uint32_t block = info->block_size, unit = info->write_unit > block ? info->write_unit / block : 1;
    /* Without indirect descriptors a request must fit into the ring, with its header and its status. */
    const uint32_t segs = (uint32_t)plx_min_u64(VHOST_SEGS, blk->queue_size > 2 ? blk->queue_size - 2 : 1);
    const bool unmaps = info->ops & 1 << PLX_BDEV_UNMAP;
    const uint32_t granularity = info->unmap_granularity ? info->unmap_granularity : 1;
    memset(out, 0, sizeof *out);
    out->capacity = plx_put64(blk->gone ? 0 : plx_bdev_blocks(blk->bdev) << blk->sector_shift);
    out->size_max = plx_put32(VHOST_SIZE_MAX);
    out->seg_max = plx_put32(segs);
    out->blk_size = plx_put32(block);
    out->physical_block_exp = (uint8_t)__builtin_ctz(unit);
    out->min_io_size = plx_put16(unit);
    out->writeback = writeback;
    out->num_queues = plx_put16(blk->queues);
    if (blk->read_only)
        return;
    if (unmaps) {
        out->max_discard_sectors = plx_put32(VHOST_RANGE_SECTORS);
        out->max_discard_seg = plx_put32(VHOST_RANGES);
        out->discard_sector_alignment = plx_put32((uint64_t)granularity << blk->sector_shift);
    }
    out->max_write_zeroes_sectors = plx_put32(VHOST_RANGE_SECTORS);
    out->max_write_zeroes_seg = plx_put32(VHOST_RANGES);
    out->write_zeroes_may_unmap = unmaps;
}
