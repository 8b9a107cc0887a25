/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * I/O commands of the NVM command set (NVM 3.2, 3.3), and of zoned namespaces (ZNS 3.4): each is parsed into requests
 * to the namespace's disk.
 */
#include "nvmf/nvmf.h"

#include <string.h>

#define DNR NVME_STATUS_DNR

static uint64_t lba_of(const struct nvmf_req *req)
{
    return plx_get32(req->cmd.cdw10) | (uint64_t)plx_get32(req->cmd.cdw11) << 32;
}

static uint32_t nlb_of(const struct nvmf_req *req)
{
    return (plx_get32(req->cmd.cdw12) & 0xffff) + 1;
}

/* What a host should not try again: all but what may be different next time. */
static uint16_t with_dnr(uint16_t status)
{
    if (plx_likely(status == PLX_SC_SUCCESS))
        return status;
    if (status >> 8 == 3) /* a remote disk without a path to it; another controller may have one */
        return PLX_SC_CONTROLLER_PATHING_ERROR;
    switch (status) {
    case PLX_SC_INTERNAL_ERROR:
    case PLX_SC_ABORTED_BY_REQUEST:
    case PLX_SC_COMMAND_INTERRUPTED:
    case PLX_SC_NAMESPACE_NOT_READY:
        return status;
    default:
        return status | DNR;
    }
}

static void bio_done(struct plx_bdev_req *bio)
{
    nvmf_req_complete(plx_container_of(bio, struct nvmf_req, bio), with_dnr(bio->status));
}

/* Begins the request to the disk that req->bio is: of the command's data, if it has any. */
static void submit_flags(struct nvmf_req *req, enum plx_bdev_op op, uint8_t flags, uint64_t lba, uint32_t nlb,
                         void (*done)(struct plx_bdev_req *))
{
    struct plx_bdev_req *bio = &req->bio;
    req->iov[0] = (struct iovec){req->data, req->len};
    bio->done = done;
    bio->iov = req->iov;
    bio->iovcnt = req->data ? 1 : 0;
    bio->op = (uint8_t)op;
    bio->flags = flags | (req->in_place ? PLX_BDEV_IN_PLACE : 0);
    bio->lba = lba;
    bio->nlb = nlb;
    plx_bdev_submit(req->ns->ch, bio);
}

static uint8_t fua_of(const struct nvmf_req *req)
{
    return plx_get32(req->cmd.cdw12) & NVME_RW_FUA ? PLX_BDEV_FUA : 0;
}

static void submit(struct nvmf_req *req, enum plx_bdev_op op, uint64_t lba, uint32_t nlb,
                   void (*done)(struct plx_bdev_req *))
{
    submit_flags(req, op, fua_of(req), lba, nlb, done);
}

static void io_go_on(struct plx_msg *msg)
{
    struct nvmf_req *req = plx_container_of(msg, struct nvmf_req, u.later.msg);
    nvmf_execute_fn fn = req->u.later.fn;
    req->between = false;
    if (req->qp->plain || !nvmf_pause_hold(req, req->ns, fn))
        fn(req);
}

/*
 * Commands that take several requests to the disk go on with the next one in a later round: a disk that completes at
 * once would otherwise make one long step of them, while other hosts wait.
 */
static void go_on_later(struct nvmf_req *req, nvmf_execute_fn fn)
{
    req->between = true;
    req->u.later.fn = fn;
    req->u.later.msg.fn = io_go_on;
    plx_reactor_send(req->qp->group->reactor, &req->u.later.msg);
}

void nvmf_io_abort(struct nvmf_req *req)
{
    if (req->mate && !req->fused_first)
        req = req->mate; /* the first half's request to the disk does both */
    if (!req->abort_status)
        req->abort_status = PLX_SC_ABORTED_BY_REQUEST; /* what takes several requests ends before the next one */
    if (req->ns && !req->between)
        plx_bdev_abort(req->ns->ch, &req->bio);
}

/* ---- Read, Write, Compare, Verify, Write Zeroes ---- */

static bool has_prinfo(const struct nvmf_req *req)
{
    return plx_unlikely(plx_get32(req->cmd.cdw12) & NVME_RW_PRINFO_MASK & ~(uint32_t)NVME_RW_DEAC);
}

static uint16_t parse_range(struct nvmf_req *req, enum plx_bdev_op op)
{
    if (has_prinfo(req))
        return PLX_SC_INVALID_PROTECTION_INFORMATION | DNR; /* namespaces have none */
    uint16_t status = plx_bdev_check(req->ns->bdev, op, lba_of(req), nlb_of(req));
    return plx_unlikely(status) ? status | DNR : status;
}

static void execute_read(struct nvmf_req *req)
{
    const void *src = req->lent ? plx_bdev_map_again(req->ns->ch, lba_of(req), nlb_of(req)) : NULL;
    if (src) { /* wanted as a copy, because a digest will cover it */
        memcpy(req->data, src, req->len);
        req->lent = false;
        nvmf_req_complete(req, PLX_SC_SUCCESS);
        return;
    }
    req->lent = false;
    submit(req, PLX_BDEV_READ, lba_of(req), nlb_of(req), bio_done);
}

static uint16_t parse_read(struct nvmf_req *req)
{
    const void *memory = plx_bdev_map(req->ns->ch, lba_of(req), nlb_of(req)); /* of blocks that there are */
    uint16_t status = memory && !has_prinfo(req) ? PLX_SC_SUCCESS : parse_range(req, PLX_BDEV_READ);
    if (plx_unlikely(status))
        return status;
    req->execute = execute_read;
    status = nvmf_expect_data(req, NVMF_TO_HOST, (uint64_t)nlb_of(req) << req->ns->block_shift);
    if (plx_unlikely(status))
        return status;
    req->lent = memory != NULL;
    if (memory) {
        plx_bdev_count_mapped(req->ns->ch, nlb_of(req));
        plx_fetch(memory); /* else the kernel waits for it when it is sent */
    }
    return status;
}

const void *nvmf_io_map(struct nvmf_req *req)
{
    return plx_bdev_map_again(req->ns->ch, lba_of(req), nlb_of(req));
}

/*
 * What a write stores waits for memory that is in no cache; that of the write behind this one is fetched meanwhile. The
 * command has not been looked at by anybody: it is a guess, and nothing else comes of it.
 */
void nvmf_io_fetch(struct nvmf_qpair *qp, const uint8_t *raw)
{
    const struct nvmf_nsref *ns = qp->last;
    if (raw[offsetof(struct nvme_cmd, opcode)] != NVME_IO_WRITE || !ns ||
        plx_peek32(raw + offsetof(struct nvme_cmd, nsid)) != qp->last_nsid)
        return;
    const uint64_t lba = plx_peek32(raw + offsetof(struct nvme_cmd, cdw10)) |
                         (uint64_t)plx_peek32(raw + offsetof(struct nvme_cmd, cdw11)) << 32;
    const void *memory = plx_bdev_map(ns->ch, lba, 1);
    if (memory)
        plx_fetch_to_write(memory);
}

static void execute_write(struct nvmf_req *req)
{
    submit(req, PLX_BDEV_WRITE, lba_of(req), nlb_of(req), bio_done);
}

static void execute_compare(struct nvmf_req *req)
{
    submit(req, PLX_BDEV_COMPARE, lba_of(req), nlb_of(req), bio_done);
}

static void execute_fused(struct nvmf_req *req);

static uint16_t parse_from_host(struct nvmf_req *req, enum plx_bdev_op op, nvmf_execute_fn execute)
{
    req->execute = execute;
    bool in_place = __atomic_load_n(&req->ns->info->in_place, __ATOMIC_RELAXED);
    if (plx_unlikely(!in_place))
        req->qp->group->in_place = false; /* it was, perhaps, when the snapshot was made, and has a rate limit now */
    req->in_place = in_place && execute != execute_fused;
    uint16_t status = nvmf_expect_data(req, NVMF_FROM_HOST, (uint64_t)nlb_of(req) << req->ns->block_shift);
    if (plx_unlikely(status))
        return status;
    /* Where the data is here, the disk is asked at once, and says the same. */
    return plx_likely(req->in_capsule && req->in_place && !has_prinfo(req)) ? status : parse_range(req, op);
}

static void execute_verify(struct nvmf_req *req)
{
    submit(req, PLX_BDEV_VERIFY, lba_of(req), nlb_of(req), bio_done);
}

static uint16_t parse_verify(struct nvmf_req *req)
{
    uint16_t status = parse_range(req, PLX_BDEV_VERIFY);
    uint64_t len = (uint64_t)nlb_of(req) << req->ns->block_shift;
    if (status)
        return status;
    if (len > req->qp->group->target->opts.max_io_size) /* VSL */
        return PLX_SC_INVALID_FIELD | DNR;
    req->execute = execute_verify;
    return nvmf_expect_no_data(req);
}

/* ---- Write Zeroes: of any length, piece by piece ---- */

static void zeroes_next(struct nvmf_req *req);

static void zeroes_done(struct plx_bdev_req *bio)
{
    struct nvmf_req *req = plx_container_of(bio, struct nvmf_req, bio);
    req->done += bio->nlb;
    if (bio->status || req->done == nlb_of(req))
        bio_done(bio);
    else
        go_on_later(req, zeroes_next);
}

static void zeroes_next(struct nvmf_req *req)
{
    uint8_t unmap = plx_get32(req->cmd.cdw12) & NVME_RW_DEAC ? PLX_BDEV_UNMAP_OK : 0;
    uint32_t piece = NVMF_ZEROES_PIECE_BYTES >> req->ns->block_shift;
    if (req->abort_status) {
        nvmf_req_complete(req, req->abort_status);
        return;
    }
    submit_flags(req, PLX_BDEV_WRITE_ZEROES, unmap | fua_of(req), lba_of(req) + req->done,
                 (uint32_t)plx_min_u64(nlb_of(req) - req->done, piece), zeroes_done);
}

static uint16_t parse_write_zeroes(struct nvmf_req *req)
{
    uint16_t status = parse_range(req, PLX_BDEV_WRITE_ZEROES);
    if (status)
        return status;
    req->execute = zeroes_next;
    return nvmf_expect_no_data(req);
}

/* ---- Flush: one namespace, or all of them one after the other ---- */

static void flush_next(struct nvmf_req *req);

static void flush_done(struct plx_bdev_req *bio)
{
    struct nvmf_req *req = plx_container_of(bio, struct nvmf_req, bio);
    bool removed = nvmf_req_lost(req) && req->qp->image && req->abort_status == PLX_SC_ABORTED_BY_REQUEST;
    if (removed)
        req->abort_status = 0, req->taken = false; /* those that are there are to be flushed */
    if (bio->status && !removed)
        nvmf_req_complete(req, with_dnr(bio->status));
    else
        flush_next(req);
}

static void flush_next(struct nvmf_req *req)
{
    struct nvmf_nsref *ns = NULL;
    if (plx_unlikely(req->abort_status)) {
        nvmf_req_complete(req, req->abort_status);
        return;
    }
    while (!ns && req->step < req->qp->image->nns)
        ns = nvmf_ref(req->qp, ++req->step);
    if (!ns || nvmf_disk_full(ns)) {
        nvmf_req_complete(req, ns ? PLX_SC_COMMAND_INTERRUPTED : PLX_SC_SUCCESS);
        return;
    }
    nvmf_req_leave_ns(req);
    if (!req->qp->plain && nvmf_pause_hold(req, ns, flush_next)) {
        req->step--;
        return;
    }
    nvmf_req_enter_ns(req, ns);
    submit(req, PLX_BDEV_FLUSH, 0, 0, flush_done);
}

static void execute_flush(struct nvmf_req *req)
{
    submit(req, PLX_BDEV_FLUSH, 0, 0, bio_done);
}

static uint16_t parse_flush(struct nvmf_req *req)
{
    req->execute = plx_get32(req->cmd.nsid) == NVME_NSID_ALL ? flush_next : execute_flush;
    return nvmf_expect_no_data(req);
}

/* ---- Dataset Management: deallocate, range by range ---- */

static uint32_t dsm_ranges(const struct nvmf_req *req)
{
    return (plx_get32(req->cmd.cdw10) & 0xff) + 1;
}

static void dsm_next(struct nvmf_req *req);

static void dsm_done(struct plx_bdev_req *bio)
{
    struct nvmf_req *req = plx_container_of(bio, struct nvmf_req, bio);
    if (bio->status) {
        nvmf_req_complete(req, with_dnr(bio->status));
        return;
    }
    req->done += bio->nlb;
    if (req->done == plx_get32(((const struct nvme_dsm_range *)(const void *)req->data)[req->step].nlb)) {
        req->step++;
        req->done = 0;
    }
    go_on_later(req, dsm_next);
}

/* The range at req->step, from its block req->done on, or a piece of that. */
static void dsm_next(struct nvmf_req *req)
{
    const struct nvme_dsm_range *ranges = (const void *)req->data;
    while (req->step < dsm_ranges(req) && !plx_get32(ranges[req->step].nlb))
        req->step++;
    if (req->step == dsm_ranges(req) || req->abort_status) {
        nvmf_req_complete(req, req->abort_status);
        return;
    }
    const struct nvme_dsm_range *r = &ranges[req->step];
    uint32_t piece = NVMF_DSM_PIECE_BYTES >> req->ns->block_shift;
    submit_flags(req, PLX_BDEV_UNMAP, 0, plx_get64(r->slba) + req->done,
                 (uint32_t)plx_min_u64(plx_get32(r->nlb) - req->done, piece), dsm_done);
}

static void execute_dsm(struct nvmf_req *req)
{
    const struct nvme_dsm_range *ranges = (const void *)req->data;
    if (!(plx_get32(req->cmd.cdw11) & NVME_DSM_AD)) { /* hints on how data will be used: taken note of */
        nvmf_req_complete(req, PLX_SC_SUCCESS);
        return;
    }
    for (uint32_t i = 0; i < dsm_ranges(req); i++) {
        uint32_t nlb = plx_get32(ranges[i].nlb);
        uint16_t status = nlb ? plx_bdev_check(req->ns->bdev, PLX_BDEV_UNMAP, plx_get64(ranges[i].slba), nlb) : 0;
        if (status) {
            nvmf_req_complete(req, status | DNR);
            return;
        }
    }
    req->done = 0;
    dsm_next(req);
}

static uint16_t parse_dsm(struct nvmf_req *req)
{
    if (!(req->ns->info->ops & 1u << PLX_BDEV_UNMAP))
        return PLX_SC_INVALID_OPCODE | DNR;
    req->execute = execute_dsm;
    /* Linux always sends a page, however few ranges there are in it. */
    uint32_t have = plx_get32(req->cmd.sgl.length), need = dsm_ranges(req) * (uint32_t)sizeof(struct nvme_dsm_range);
    bool page = have >= need && have <= NVMF_DSM_RANGES * sizeof(struct nvme_dsm_range);
    return nvmf_expect_data(req, NVMF_FROM_HOST, page ? have : need);
}

/* ---- Copy: source ranges, one after the other, to one destination (NVM 3.2.2) ---- */

static uint32_t copy_ranges(const struct nvmf_req *req)
{
    return (plx_get32(req->cmd.cdw12) & 0xff) + 1;
}

static void copy_next(struct nvmf_req *req);

static void copy_done(struct plx_bdev_req *bio)
{
    struct nvmf_req *req = plx_container_of(bio, struct nvmf_req, bio);
    if (bio->status) {
        req->cqe.dw0 = plx_put32(req->step); /* the first range that was not copied */
        nvmf_req_complete(req, with_dnr(bio->status));
        return;
    }
    req->step++;
    go_on_later(req, copy_next);
}

static void copy_next(struct nvmf_req *req)
{
    const struct nvme_copy_range *ranges = (const void *)req->data;
    uint32_t n = req->step;
    if (n == copy_ranges(req) || req->abort_status) {
        req->cqe.dw0 = plx_put32(n == copy_ranges(req) ? 0 : n);
        nvmf_req_complete(req, req->abort_status);
        return;
    }
    req->bio.src_lba = plx_get64(ranges[n].slba);
    submit(req, PLX_BDEV_COPY, n ? req->bio.lba + req->bio.nlb : lba_of(req), plx_get16(ranges[n].nlb) + 1u, copy_done);
}

static void execute_copy(struct nvmf_req *req)
{
    const struct nvme_copy_range *ranges = (const void *)req->data;
    uint32_t limit = req->qp->group->target->opts.max_io_size >> req->ns->block_shift;
    uint64_t total = 0;
    uint16_t status = PLX_SC_SUCCESS;
    for (uint32_t i = 0; i < copy_ranges(req) && !status; i++) {
        uint32_t nlb = plx_get16(ranges[i].nlb) + 1u;
        status = nlb > limit ? PLX_SC_COMMAND_SIZE_LIMIT_EXCEEDED
                             : plx_bdev_check(req->ns->bdev, PLX_BDEV_READ, plx_get64(ranges[i].slba), nlb);
        total += nlb;
    }
    if (!status) /* at most 128 ranges of 64 Ki blocks: no overflow */
        status = plx_bdev_check(req->ns->bdev, PLX_BDEV_COPY, lba_of(req), (uint32_t)total);
    if (status) {
        req->cqe.dw0 = plx_put32(0);
        nvmf_req_complete(req, status | DNR);
        return;
    }
    copy_next(req);
}

static uint16_t parse_copy(struct nvmf_req *req)
{
    unsigned format = (plx_get32(req->cmd.cdw12) >> 8) & 15;
    if (!(req->ns->info->ops & 1u << PLX_BDEV_COPY))
        return PLX_SC_INVALID_OPCODE | DNR;
    if (format != 0)
        return PLX_SC_INVALID_FIELD | DNR;
    if (copy_ranges(req) > NVMF_COPY_RANGES)
        return PLX_SC_COMMAND_SIZE_LIMIT_EXCEEDED | DNR;
    req->execute = execute_copy;
    return nvmf_expect_data(req, NVMF_FROM_HOST, copy_ranges(req) * sizeof(struct nvme_copy_range));
}

/* ---- zones ---- */

static void append_done(struct plx_bdev_req *bio)
{
    struct nvmf_req *req = plx_container_of(bio, struct nvmf_req, bio);
    if (!bio->status) {
        req->cqe.dw0 = plx_put32(bio->src_lba); /* where it went */
        req->cqe.dw1 = plx_put32(bio->src_lba >> 32);
    }
    bio_done(bio);
}

static void execute_append(struct nvmf_req *req)
{
    submit(req, PLX_BDEV_ZONE_APPEND, lba_of(req), nlb_of(req), append_done);
}

static bool is_zone(const struct nvmf_req *req)
{
    return lba_of(req) % req->ns->info->zone_blocks == 0;
}

static uint16_t parse_append(struct nvmf_req *req)
{
    uint16_t status = parse_range(req, PLX_BDEV_ZONE_APPEND);
    if (status)
        return status;
    if (!is_zone(req) || nlb_of(req) > req->ns->info->max_append_blocks)
        return PLX_SC_INVALID_FIELD | DNR;
    return parse_from_host(req, PLX_BDEV_ZONE_APPEND, execute_append);
}

static void execute_zone_manage(struct nvmf_req *req)
{
    const uint32_t cdw13 = plx_get32(req->cmd.cdw13);
    const bool all = cdw13 & NVME_ZONE_ALL;
    req->bio.zone_action = (uint8_t)cdw13;
    submit_flags(req, PLX_BDEV_ZONE_MANAGE, all ? PLX_BDEV_ALL_ZONES : 0, all ? 0 : lba_of(req), 0, bio_done);
}

/* Zone Management Send. There are no random write areas, and no descriptor extensions. */
static uint16_t parse_zone_manage(struct nvmf_req *req)
{
    const uint32_t cdw13 = plx_get32(req->cmd.cdw13), action = cdw13 & 0xff;
    const bool all = cdw13 & NVME_ZONE_ALL;
    uint16_t status = plx_bdev_check(req->ns->bdev, PLX_BDEV_ZONE_MANAGE, all ? 0 : lba_of(req), 1);
    if (status)
        return status | DNR;
    if (action < PLX_BDEV_ZONE_CLOSE || action > PLX_BDEV_ZONE_OFFLINE || cdw13 & NVME_ZONE_SEND_OPTION ||
        (!all && !is_zone(req)))
        return PLX_SC_INVALID_FIELD | DNR;
    req->execute = execute_zone_manage;
    return nvmf_expect_no_data(req);
}

/* As many descriptors as fit; a piece of one is none. */
static void execute_zone_report(struct nvmf_req *req)
{
    struct plx_bdev_req *bio = &req->bio;
    const uint32_t cdw13 = plx_get32(req->cmd.cdw13), whole = req->len & ~(NVME_ZONE_BYTES - 1u);
    memset(req->data + whole, 0, req->len - whole);
    req->iov[0] = (struct iovec){req->data, whole};
    bio->done = bio_done;
    bio->iov = req->iov;
    bio->iovcnt = 1;
    bio->op = PLX_BDEV_ZONE_REPORT;
    bio->flags = cdw13 & NVME_ZONE_PARTIAL ? PLX_BDEV_PARTIAL : 0;
    bio->zone_report = (uint8_t)(cdw13 >> NVME_ZONE_REPORT_SHIFT);
    bio->lba = lba_of(req);
    bio->nlb = whole / NVME_ZONE_BYTES;
    plx_bdev_submit(req->ns->ch, bio);
}

/* Zone Management Receive. Without descriptor extensions there is no extended report. */
static uint16_t parse_zone_report(struct nvmf_req *req)
{
    const uint32_t cdw13 = plx_get32(req->cmd.cdw13), report = cdw13 >> NVME_ZONE_REPORT_SHIFT & 0xff;
    const uint64_t bytes = (plx_get32(req->cmd.cdw12) + UINT64_C(1)) * 4;
    uint16_t status = plx_bdev_check(req->ns->bdev, PLX_BDEV_ZONE_REPORT, lba_of(req), 1);
    if (status)
        return status | DNR;
    if ((cdw13 & 0xff) != NVME_ZONE_REPORT || report > PLX_BDEV_ZONES_OFFLINE || bytes < NVME_ZONE_BYTES)
        return PLX_SC_INVALID_FIELD | DNR;
    req->execute = execute_zone_report;
    return nvmf_expect_data(req, NVMF_TO_HOST, bytes);
}

/* Of disks that have none these end as commands that there are not. */
static __attribute__((noinline, cold)) uint16_t parse_zones(struct nvmf_req *req)
{
    switch (req->cmd.opcode) {
    case NVME_IO_ZONE_MANAGE:
        return parse_zone_manage(req);
    case NVME_IO_ZONE_REPORT:
        return parse_zone_report(req);
    case NVME_IO_ZONE_APPEND:
        return parse_append(req);
    default:
        return PLX_SC_INVALID_OPCODE | DNR;
    }
}

/* ---- fused Compare and Write: both halves' data must be here, then one request does both ---- */

static void fused_done(struct plx_bdev_req *bio)
{
    struct nvmf_req *first = plx_container_of(bio, struct nvmf_req, bio), *second = first->mate;
    uint16_t status = with_dnr(bio->status);
    first->mate = second->mate = NULL;
    bool compared = bio->status == PLX_SC_COMPARE_FAILURE || !bio->status;
    nvmf_req_complete(first, compared ? status : PLX_SC_ABORTED_FAILED_FUSED);
    nvmf_req_complete(second, !compared ? status : bio->status ? PLX_SC_ABORTED_FAILED_FUSED | DNR : PLX_SC_SUCCESS);
}

static void execute_fused(struct nvmf_req *req)
{
    struct nvmf_req *first = req->fused_first ? req : req->mate, *second = first->mate;
    struct nvmf_req *other = req->mate;
    req->state = NVMF_REQ_HELD;
    if (!other || other->state != NVMF_REQ_HELD)
        return; /* the other half's data is still on its way */
    if (!req->qp->plain && nvmf_pause_hold(req, req->ns, execute_fused))
        return;
    first->state = second->state = NVMF_REQ_EXECUTING;
    first->iov[0] = (struct iovec){first->data, first->len};
    first->iov[1] = (struct iovec){second->data, second->len};
    first->bio.done = fused_done;
    first->bio.iov = first->iov;
    first->bio.iovcnt = 2;
    first->bio.op = PLX_BDEV_COMPARE_AND_WRITE;
    first->bio.flags = plx_get32(second->cmd.cdw12) & NVME_RW_FUA ? PLX_BDEV_FUA : 0;
    first->bio.lba = lba_of(first);
    first->bio.nlb = nlb_of(first);
    plx_bdev_submit(first->ns->ch, &first->bio);
}

static uint16_t parse_fused_first(struct nvmf_req *req)
{
    uint16_t status = PLX_SC_INVALID_FIELD | DNR;
    if (req->cmd.opcode == NVME_IO_COMPARE && nlb_of(req) <= NVMF_FUSED_BLOCKS &&
        req->ns->info->ops & 1u << PLX_BDEV_COMPARE_AND_WRITE)
        status = parse_from_host(req, PLX_BDEV_COMPARE_AND_WRITE, execute_fused);
    if (status) {
        req->qp->fused_failed = true;
        return status;
    }
    req->fused_first = true;
    req->qp->fused = req;
    return PLX_SC_SUCCESS;
}

/* On failure the first half is still in qp->fused, and nvmf_req_parse() ends it. */
static uint16_t parse_fused_second(struct nvmf_req *req)
{
    struct nvmf_qpair *qp = req->qp;
    struct nvmf_req *first = qp->fused;
    if (!first)
        return (qp->fused_failed ? PLX_SC_ABORTED_FAILED_FUSED : PLX_SC_ABORTED_MISSING_FUSED) | DNR;
    if (req->cmd.opcode != NVME_IO_WRITE || lba_of(req) != lba_of(first) || nlb_of(req) != nlb_of(first) ||
        req->ns != first->ns)
        return PLX_SC_INVALID_FIELD | DNR;
    uint16_t status = parse_from_host(req, PLX_BDEV_COMPARE_AND_WRITE, execute_fused);
    if (status)
        return status;
    qp->fused = NULL;
    req->mate = first;
    first->mate = req;
    return PLX_SC_SUCCESS;
}

/* ---- which there are ---- */

static bool writes(uint8_t opcode)
{
    return opcode == NVME_IO_WRITE || opcode == NVME_IO_WRITE_ZEROES || opcode == NVME_IO_DSM ||
           opcode == NVME_IO_COPY || opcode == NVME_IO_ZONE_APPEND || opcode == NVME_IO_ZONE_MANAGE;
}

/* What a command ends with because of its queue, of the state of the path that it came by, or of a reservation. */
static uint16_t refusal(const struct nvmf_req *req, uint32_t nsid)
{
    struct nvmf_qpair *qp = req->qp;
    if (qp->state != NVMF_QP_READY || !qp->image)
        return PLX_SC_COMMAND_SEQUENCE_ERROR | DNR;
    const struct nvmf_port *port = nvmf_image_port(qp->image, qp->portid);
    uint16_t status = PLX_SC_SUCCESS;
    uint32_t first = nsid == NVME_NSID_ALL ? 1 : nsid, last = nsid == NVME_NSID_ALL ? qp->image->nns : nsid;
    for (uint32_t i = first; i <= last && !status; i++) {
        const struct nvmf_image_ns *of = nvmf_image_ns(qp->image, i);
        status = of ? nvmf_ana_status(port, of->anagrpid) : status;
        if (of && !status)
            status = nvmf_resv_refusal(qp, nvmf_ref(qp, i), i, req->cmd.opcode);
    }
    return status;
}

static inline uint16_t parse_plain(struct nvmf_req *req)
{
    struct nvmf_qpair *qp = req->qp;
    uint32_t nsid = plx_get32(req->cmd.nsid);
    if (plx_unlikely(!(atomic_load_explicit(&qp->ctrlr->csts, memory_order_relaxed) & NVME_CSTS_RDY)))
        return PLX_SC_COMMAND_SEQUENCE_ERROR | DNR;
    if (plx_unlikely(nsid != qp->last_nsid)) {
        qp->last_nsid = nsid;
        qp->last = nvmf_ref(qp, nsid);
    }
    struct nvmf_nsref *ns = qp->last;
    if (plx_likely(ns)) {
        if (nvmf_disk_full(ns))
            return PLX_SC_COMMAND_INTERRUPTED;
        nvmf_req_enter_ns(req, ns);
    } else if (nsid != NVME_NSID_ALL || req->cmd.opcode != NVME_IO_FLUSH)
        return PLX_SC_INVALID_NAMESPACE_OR_FORMAT | DNR;

    if (plx_unlikely(req->cmd.flags & NVME_FUSE_MASK)) {
        switch (req->cmd.flags & NVME_FUSE_MASK) {
        case NVME_FUSE_FIRST:
            return parse_fused_first(req);
        case NVME_FUSE_SECOND:
            return parse_fused_second(req);
        default:
            return PLX_SC_INVALID_FIELD | DNR;
        }
    }
    if (plx_unlikely(req->ns && req->ns->info->read_only && writes(req->cmd.opcode)))
        return PLX_SC_NAMESPACE_WRITE_PROTECTED | DNR;
    switch (req->cmd.opcode) {
    case NVME_IO_READ:
        return parse_read(req);
    case NVME_IO_WRITE:
        return parse_from_host(req, PLX_BDEV_WRITE, execute_write);
    case NVME_IO_FLUSH:
        return parse_flush(req);
    case NVME_IO_COMPARE:
        return parse_from_host(req, PLX_BDEV_COMPARE, execute_compare);
    case NVME_IO_WRITE_ZEROES:
        return parse_write_zeroes(req);
    case NVME_IO_DSM:
        return parse_dsm(req);
    case NVME_IO_VERIFY:
        return parse_verify(req);
    case NVME_IO_COPY:
        return parse_copy(req);
    case NVME_IO_RESV_REGISTER:
    case NVME_IO_RESV_REPORT:
    case NVME_IO_RESV_ACQUIRE:
    case NVME_IO_RESV_RELEASE:
        return nvmf_parse_reservation(req);
    default:
        return parse_zones(req);
    }
}

/* The same where commands have to be looked at. */
static __attribute__((noinline, cold)) uint16_t parse_closely(struct nvmf_req *req)
{
    uint16_t status = refusal(req, plx_get32(req->cmd.nsid));
    status = status ? status : parse_plain(req);
    if (!status) {
        nvmf_host_limit_parsed(req);
        nvmf_pause_parsed(req);
    }
    return status;
}

uint16_t nvmf_parse_io(struct nvmf_req *req)
{
    return plx_likely(req->qp->plain) ? parse_plain(req) : parse_closely(req);
}
