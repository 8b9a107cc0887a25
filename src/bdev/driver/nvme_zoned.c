/* SPDX-License-Identifier: BSD-3-Clause */
/* Zoned namespaces (NVMe's Zoned Namespace Command Set 1.1): appends, and zones that are managed and reported. */
#include "bdev/driver/nvme_disk.h"

_Static_assert(sizeof(struct plx_bdev_zones) == 64 && sizeof(struct plx_bdev_zone) == 64, "");

enum { ZONE_SELECT_ALL = 1 << 8 };

static void zone_done(struct nvme_req *req)
{
    struct nvme_io *io = plx_container_of(req, struct nvme_io, t.req);
    struct plx_bdev_req *bio = plx_bdev_req_of(io);
    if (!nvme_try_succeeded(&io->t)) {
        nvme_try_not_done(&io->t);
        return;
    }
    if (bio->op == PLX_BDEV_ZONE_APPEND)
        bio->src_lba = req->dw0 | (uint64_t)req->dw1 << 32;
    plx_bdev_complete(bio, PLX_SC_SUCCESS);
}

static void send_zone_command(struct nvme_channel *nc, const struct plx_bdev_req *bio, uint8_t opcode, uint32_t cdw12,
                              uint32_t cdw13, uint32_t len)
{
    struct nvme_io *io = (struct nvme_io *)(void *)bio->context;
    struct nvme_req *req = &io->t.req;
    req->done = zone_done;
    req->data = (struct plx_iov_at){bio->iov, 0};
    req->len = len;
    req->dir = !len ? NVME_NO_DATA : bio->op == PLX_BDEV_ZONE_APPEND ? NVME_FROM_HOST : NVME_TO_HOST;
    req->cmd = (struct nvme_words){.opcode = opcode,
                                   .nsid = plx_put32(nc->disk->ns.nsid),
                                   .cdw10 = plx_put32(bio->lba),
                                   .cdw11 = plx_put32(bio->lba >> 32),
                                   .cdw12 = plx_put32(cdw12),
                                   .cdw13 = plx_put32(cdw13)};
    nvme_try_begin(nc, &io->t, NVME_WHOLE);
}

static void bio_append(struct nvme_channel *nc, struct plx_bdev_req *bio)
{
    if (bio->nlb > nc->disk->bdev.info.max_append_blocks)
        plx_bdev_complete(bio, PLX_SC_INVALID_FIELD);
    else
        send_zone_command(nc, bio, NVME_IO_ZONE_APPEND, (bio->nlb - 1) | (bio->flags & PLX_BDEV_FUA ? NVME_RW_FUA : 0),
                          0, bio->nlb << nc->shift);
}

/* All zones from there on are counted, and as many told as fit. */
static void bio_zone_report(struct nvme_channel *nc, struct plx_bdev_req *bio)
{
    const uint64_t bytes = (uint64_t)bio->nlb * sizeof(struct plx_bdev_zone);
    if (bytes > (uint64_t)nc->max_blocks << nc->shift)
        plx_bdev_complete(bio, PLX_SC_INVALID_FIELD);
    else
        send_zone_command(nc, bio, NVME_IO_ZONE_REPORT, (uint32_t)bytes / 4 - 1, 0, (uint32_t)bytes);
}

void nvme_zoned_submit(struct plx_bdev_channel *ch, struct plx_bdev_req *bio)
{
    struct nvme_channel *nc = nvme_channel_of(ch);
    if (bio->op == PLX_BDEV_ZONE_APPEND)
        bio_append(nc, bio);
    else if (bio->op == PLX_BDEV_ZONE_REPORT)
        bio_zone_report(nc, bio);
    else if (bio->op == PLX_BDEV_ZONE_MANAGE)
        send_zone_command(nc, bio, NVME_IO_ZONE_MANAGE, 0,
                          bio->zone_action | (bio->flags & PLX_BDEV_ALL_ZONES ? ZONE_SELECT_ALL : 0), 0);
    else
        nvme_bio_submit(ch, bio);
}
