/* SPDX-License-Identifier: BSD-3-Clause */
/* A namespace that a driver of the kernel has, through its generic node (/dev/ng0n1) and io_uring. */
#include "bdev/driver/nvme_disk.h"

#include "base/text.h"
#include "base/uuid.h"
#include "bdev/nvme.h"
#include "nvme/uring.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NMIC_SHARED = 1 << 0 }; /* several controllers may have it */

static void ng_close(struct plx_bdev *bdev)
{
    struct nvme_disk *d = nvme_disk_of(bdev);
    nvme_uring_close(d->node);
    free(d);
}

/* Nobody tells of changes: they are looked for. */
static int ng_rescan(struct plx_bdev *bdev, struct plx_error *err)
{
    struct nvme_disk *d = nvme_disk_of(bdev);
    const struct nvme_words cmd = {.nsid = plx_put32(d->ns.nsid), .cdw10 = plx_put32(NVME_CNS_NS)};
    union {
        struct nvme_id_ns ns;
        uint8_t page[4096];
    } now;
    int ret = nvme_uring_look_again(d->node);
    if (nvme_uring_state(d->node) == NVME_URING_GONE) {
        plx_bdev_gone(bdev, "the kernel has the device no more");
        return 0;
    }
    if (ret)
        return plx_fail(err, ret, "%s: cannot tell its size: %s", bdev->info.name, strerror(-ret));
    nvme_uring_identify(d->node, &cmd, now.page);
    if (nvme_ns_format(&now.ns) != nvme_ns_format(&d->ns.id)) {
        plx_bdev_gone(bdev, "it has another format now, and another content with it");
        return 0;
    }
    if (!nvme_blocks_possible(plx_get64(now.ns.nsze), d->shift))
        return plx_fail(err, -EINVAL, "%s has become empty; it is taken to be as large as before", bdev->info.name);
    plx_bdev_resized(bdev, plx_get64(now.ns.nsze));
    return 0;
}

static const struct plx_bdev_ops ng_ops = {
    .close = ng_close,
    .rescan = ng_rescan,
    .channel_open = nvme_channel_open,
    .channel_close = nvme_channel_close,
    .submit = nvme_bio_submit,
    .abort = nvme_bio_abort,
};

static int ng_settings(struct nvme_disk *d, const struct plx_url *url, bool *ro, uint8_t uuid[16],
                       struct plx_error *err)
{
    const char *depth = plx_url_param(url, "depth");
    int ret = plx_url_only(url, "depth ro uuid", err);
    if (!ret)
        ret = plx_url_bool(url, "ro", ro, err);
    if (!ret)
        ret = plx_url_uuid(url, NULL, uuid, err);
    if (!ret && depth)
        ret = plx_blame(url->name, nvme_where_param(&d->where, "depth", depth, err), err);
    return ret;
}

/* What is done for other disks of this protocol, and here is the kernel's, or cannot be. */
static void ng_info(struct nvme_disk *d, bool ro)
{
    struct plx_bdev_info *info = &d->bdev.info;
    info->ops &= ~(1u << PLX_BDEV_COMPARE_AND_WRITE); /* the kernel fuses nothing */
    info->shared = d->ns.id.nmic & NMIC_SHARED;
    info->read_only |= ro;
}

static int ng_open(const struct plx_url *url, struct plx_bdev **out, struct plx_error *err)
{
    uint8_t uuid[16];
    bool ro = false;
    struct nvme_disk *d = calloc(1, sizeof *d);
    if (!d)
        return plx_fail(err, -ENOMEM, "out of memory");
    d->where.o.depth = NVME_DEPTH_MAX;
    int ret = ng_settings(d, url, &ro, uuid, err);
    const uint32_t depth = d->where.o.depth;
    if (!ret)
        ret = nvme_uring_open(url->body, ro ? NVME_URING_READ : NVME_URING_SERVE, &d->node, err);
    if (ret)
        goto free_disk;
    nvme_uring_where(&d->where, d->node);
    d->where.o.depth = depth;
    ret = nvme_disk_probe(d, 0, err);
    if (ret)
        goto close_node;
    ng_info(d, ro);
    if (!plx_uuid_nil(uuid))
        memcpy(d->bdev.info.uuid, uuid, sizeof uuid);
    d->bdev.ops = &ng_ops;
    nvme_control_init(d);
    d->bdev.channel_size = sizeof(struct nvme_channel);
    *out = &d->bdev;
    return 0;

close_node:
    nvme_uring_close(d->node);
free_disk:
    free(d);
    return ret;
}

bool plx_nvme_disk_node(const struct plx_bdev *bdev, char *out, size_t size)
{
    if (bdev->ops != &ng_ops)
        return false;
    snprintf(out, size, "%s", nvme_disk_of(bdev)->node->path);
    return true;
}

bool plx_bdev_path_is_ng(const char *path)
{
    return nvme_uring_is_node(path);
}

const struct plx_bdev_driver plx_bdev_ng = {
    .scheme = "ng",
    .help = "/dev/ngXnY or ng:PATH[?ro=1&depth=N]  an NVMe namespace that the kernel has, by its own commands",
    .open = ng_open,
};
