/* SPDX-License-Identifier: BSD-3-Clause */
/* Zoned namespaces (NVMe's Zoned Namespace Command Set 1.1): appends, and zones that are managed and reported. */
#include "bdev/driver/nvme_disk.h"

#include <endian.h>

_Static_assert(sizeof(struct plx_bdev_zones) == NVME_ZONE_BYTES && sizeof(struct plx_bdev_zone) == NVME_ZONE_BYTES, "");

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

static struct nvme_words zone_words(const struct nvme_channel *nc, uint8_t opcode, uint64_t lba, uint32_t cdw12,
                                    uint32_t cdw13)
{
    return (struct nvme_words){.opcode = opcode,
                               .nsid = plx_put32(nc->disk->ns.nsid),
                               .cdw10 = plx_put32(lba),
                               .cdw11 = plx_put32(lba >> 32),
                               .cdw12 = plx_put32(cdw12),
                               .cdw13 = plx_put32(cdw13)};
}

static void bio_append(struct nvme_channel *nc, struct plx_bdev_req *bio)
{
    struct nvme_io *io = (struct nvme_io *)(void *)bio->context;
    struct nvme_req *req = &io->t.req;
    if (bio->nlb > nc->disk->bdev.info.max_append_blocks) {
        plx_bdev_complete(bio, PLX_SC_INVALID_FIELD);
        return;
    }
    req->done = zone_done;
    req->data = (struct plx_iov_at){bio->iov, 0};
    req->len = bio->nlb << nc->shift;
    req->dir = NVME_FROM_HOST;
    req->cmd = zone_words(nc, NVME_IO_ZONE_APPEND, bio->lba,
                          (bio->nlb - 1) | (bio->flags & PLX_BDEV_FUA ? NVME_RW_FUA : 0), 0);
    nvme_try_begin(nc, &io->t, NVME_WHOLE);
}

static void bio_zone_manage(struct nvme_channel *nc, const struct plx_bdev_req *bio)
{
    struct nvme_io *io = (struct nvme_io *)(void *)bio->context;
    struct nvme_req *req = &io->t.req;
    req->done = zone_done;
    req->len = 0;
    req->dir = NVME_NO_DATA;
    req->cmd = zone_words(nc, NVME_IO_ZONE_MANAGE, bio->lba, 0,
                          bio->zone_action | (bio->flags & PLX_BDEV_ALL_ZONES ? NVME_ZONE_ALL : 0));
    nvme_try_begin(nc, &io->t, NVME_WHOLE);
}

/*
 * ---- reports: by one command where it transfers all of it, else by several, each for the zones behind those of the
 * one before. What comes before zones in the data of each lies where the last zone is that was told of, which is kept
 * meanwhile. ----
 */

/* Where a zone is in a report, or with 0 what comes before them. */
static struct plx_iov_at report_at(const struct plx_bdev_req *bio, uint32_t zone)
{
    struct plx_iov_at at = {bio->iov, 0};
    plx_iov_skip(&at, (size_t)zone * NVME_ZONE_BYTES);
    return at;
}

static void report_end(const struct nvme_io *io, struct plx_bdev_req *bio)
{
    struct plx_iov_at at = report_at(bio, io->report.told + 1);
    const plx_le64 count = plx_put64(bio->flags & PLX_BDEV_PARTIAL ? io->report.told : io->report.count);
    if (io->report.told + 1 < bio->nlb)
        plx_iov_zero(&at, (size_t)(bio->nlb - 1 - io->report.told) * NVME_ZONE_BYTES);
    at = report_at(bio, 0);
    plx_iov_scatter(&at, &count, sizeof count);
    plx_bdev_complete(bio, PLX_SC_SUCCESS);
}

static void report_done(struct nvme_req *req);

static void report_next(struct nvme_channel *nc, struct nvme_io *io, const struct plx_bdev_req *bio)
{
    struct nvme_req *req = &io->t.req;
    const uint64_t left = (uint64_t)(bio->nlb - io->report.told) * NVME_ZONE_BYTES;
    const uint32_t most = plx_min_u64((uint64_t)nc->max_blocks << nc->shift, UINT32_MAX) & ~(NVME_ZONE_BYTES - 1u);
    req->done = report_done;
    req->data = report_at(bio, io->report.told);
    req->len = (uint32_t)plx_min_u64(left, most);
    req->dir = NVME_TO_HOST;
    req->cmd = zone_words(nc, NVME_IO_ZONE_REPORT, io->report.from, req->len / 4 - 1,
                          (uint32_t)bio->zone_report << NVME_ZONE_REPORT_SHIFT |
                              (bio->flags & PLX_BDEV_PARTIAL ? NVME_ZONE_PARTIAL : 0));
    nvme_try_begin(nc, &io->t, NVME_WHOLE);
}

static void report_done(struct nvme_req *req)
{
    struct nvme_io *io = plx_container_of(req, struct nvme_io, t.req);
    struct plx_bdev_req *bio = plx_bdev_req_of(io);
    const struct plx_bdev *bdev = &io->t.nc->disk->bdev;
    const uint32_t room = req->len / NVME_ZONE_BYTES - 1;
    struct plx_iov_at at = report_at(bio, io->report.told);
    plx_le64 count;
    if (!nvme_try_succeeded(&io->t)) {
        nvme_try_not_done(&io->t);
        return;
    }
    plx_iov_gather(&at, &count, sizeof count);
    at = report_at(bio, io->report.told);
    if (io->report.told)
        plx_iov_scatter(&at, &io->report.last, NVME_ZONE_BYTES);
    else
        io->report.count = plx_get64(count);
    const uint32_t got = (uint32_t)plx_min_u64(plx_get64(count), room);
    io->report.told += got;
    if (got < room || io->report.told + 1 == bio->nlb) {
        report_end(io, bio);
        return;
    }
    at = report_at(bio, io->report.told);
    plx_iov_gather(&at, &io->report.last, NVME_ZONE_BYTES);
    io->report.from = le64toh(io->report.last.lba) + bdev->info.zone_blocks;
    if (io->report.from >= plx_bdev_blocks(bdev))
        report_end(io, bio);
    else
        report_next(io->t.nc, io, bio);
}

static void bio_zone_report(struct nvme_channel *nc, struct plx_bdev_req *bio)
{
    struct nvme_io *io = (struct nvme_io *)(void *)bio->context;
    if (!bio->nlb) {
        plx_bdev_complete(bio, PLX_SC_INVALID_FIELD);
        return;
    }
    io->report.from = bio->lba;
    io->report.told = 0;
    report_next(nc, io, bio);
}

void nvme_zoned_too_large(struct nvme_io *io)
{
    struct plx_bdev_req *bio = plx_bdev_req_of(io);
    if (bio->op == PLX_BDEV_ZONE_REPORT)
        report_next(io->t.nc, io, bio);
    else
        plx_bdev_complete(bio, PLX_SC_INVALID_FIELD);
}

void nvme_zoned_submit(struct plx_bdev_channel *ch, struct plx_bdev_req *bio)
{
    struct nvme_channel *nc = nvme_channel_of(ch);
    if (bio->op == PLX_BDEV_ZONE_APPEND)
        bio_append(nc, bio);
    else if (bio->op == PLX_BDEV_ZONE_REPORT)
        bio_zone_report(nc, bio);
    else if (bio->op == PLX_BDEV_ZONE_MANAGE)
        bio_zone_manage(nc, bio);
    else
        nvme_bio_submit(ch, bio);
}
