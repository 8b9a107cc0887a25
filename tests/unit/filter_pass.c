/* SPDX-License-Identifier: BSD-3-Clause */
#include <stdlib.h>

#include "filters.h"

static void pass_close(struct plx_bdev *bdev)
{
    free(bdev);
}

static void forward_submit(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    plx_bdev_forward(ch->below, req);
}

static struct plx_bdev *filter_new(struct plx_bdev *below, const struct plx_bdev_ops *ops, uint32_t without)
{
    struct plx_bdev *bdev = calloc(1, sizeof *bdev);
    if (!bdev)
        return NULL;
    plx_bdev_filter_init(bdev, below);
    bdev->ops = ops;
    bdev->info.ops &= ~without;
    if (plx_bdev_register(bdev, "pass", "pass:", NULL, NULL)) {
        free(bdev);
        return NULL;
    }
    return bdev;
}

struct plx_bdev *filter_pass_new(struct plx_bdev *below)
{
    static const struct plx_bdev_ops ops = {.close = pass_close};
    return filter_new(below, &ops, 0);
}

struct plx_bdev *filter_forward_new(struct plx_bdev *below)
{
    static const struct plx_bdev_ops ops = {.close = pass_close, .submit = forward_submit};
    return filter_new(below, &ops, 0);
}

struct plx_bdev *filter_plain_new(struct plx_bdev *below)
{
    static const struct plx_bdev_ops ops = {.close = pass_close};
    return filter_new(below, &ops, ~(1u << PLX_BDEV_READ | 1u << PLX_BDEV_WRITE | 1u << PLX_BDEV_FLUSH));
}
