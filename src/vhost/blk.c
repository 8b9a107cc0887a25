/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Requests of a block device: virtio 1.2, 5.2.6. Where descriptors begin and end means nothing (2.7.4.2): a request is
 * a header, data, and one byte of status at the very end.
 */
#include "vhost/blk.h"

#include "base/iov.h"
#include "bdev/reservation.h"
#include "vhost/ring.h"

/* ---- ends ---- */

/* The status is the last byte that is written; what was read comes first. */
static void blk_end(struct vhost_slot *s, enum virtio_blk_status status, uint32_t written)
{
    if (plx_likely(!atomic_load_explicit(s->ring->halted, memory_order_relaxed)))
        *s->status = (uint8_t)status;
    vhost_ring_done(s, written + 1);
}

static void blk_fail(struct vhost_slot *s, enum virtio_blk_status status)
{
    blk_end(s, status, 0);
}

static enum virtio_blk_status status_of(uint16_t nvme)
{
    return nvme == PLX_SC_INVALID_OPCODE ? VIRTIO_BLK_UNSUPP : VIRTIO_BLK_IOERR;
}

static void blk_done(struct plx_bdev_req *req)
{
    struct vhost_slot *s = plx_container_of(req, struct vhost_slot, req);
    if (plx_likely(req->status == PLX_SC_SUCCESS))
        blk_end(s, VIRTIO_BLK_OK, s->in_bytes);
    else
        blk_fail(s, status_of(req->status));
}

static inline bool blk_may(const struct vhost_slot *s, enum plx_resv_access what)
{
    return plx_likely(!(atomic_load_explicit(&s->ring->blk->forbidden, memory_order_relaxed) & what));
}

/* ---- reads and writes ---- */

/* Not inlined: most requests have one entry, for which it would save registers. */
static __attribute__((noinline)) uint64_t iov_bytes(const struct iovec *iov, unsigned n)
{
    uint64_t bytes = 0;
    for (unsigned i = 0; i < n; i++)
        bytes += iov[i].iov_len;
    return bytes;
}

/* @return whether it is whole blocks, and so many bytes that they and the status can be told */
static inline bool blk_place(struct vhost_slot *s, uint64_t sector, uint64_t bytes)
{
    const unsigned shift = s->ring->blk->sector_shift;
    const uint64_t mask = ((uint64_t)VIRTIO_BLK_SECTOR << shift) - 1;
    if (plx_unlikely((sector * VIRTIO_BLK_SECTOR | bytes) & mask || !bytes || bytes >= UINT32_MAX))
        return false;
    s->req.lba = sector >> shift;
    s->req.nlb = (uint32_t)(bytes / VIRTIO_BLK_SECTOR >> shift);
    return true;
}

static inline void blk_transfer(struct vhost_slot *s, uint8_t op, uint64_t sector, struct iovec *iov, unsigned n)
{
    struct vhost_ring *r = s->ring;
    const uint64_t bytes = n == 1 ? iov->iov_len : iov_bytes(iov, n);
    if (plx_unlikely(!blk_place(s, sector, bytes))) {
        blk_fail(s, VIRTIO_BLK_IOERR);
        return;
    }
    s->in_bytes = op == PLX_BDEV_READ ? (uint32_t)bytes : 0;
    s->req.done = blk_done;
    s->req.op = op;
    s->req.flags = op == PLX_BDEV_WRITE && r->is.fua ? PLX_BDEV_FUA : 0;
    s->req.iov = iov;
    s->req.iovcnt = n;
    plx_bdev_submit(r->channel, &s->req);
}

static void blk_flush(struct vhost_slot *s)
{
    s->req.done = blk_done;
    s->in_bytes = 0;
    s->req.op = PLX_BDEV_FLUSH;
    s->req.flags = 0;
    s->req.iovcnt = 0;
    s->req.nlb = 0;
    plx_bdev_submit(s->ring->channel, &s->req);
}

/* Serial numbers shorter than the field are filled with zeroes. */
static void blk_id(struct vhost_slot *s, const struct iovec *iov, unsigned n)
{
    struct plx_iov_at at = {.iov = iov};
    const uint32_t bytes = (uint32_t)plx_min_u64(iov_bytes(iov, n), VIRTIO_BLK_ID);
    plx_iov_scatter(&at, s->ring->blk->serial, bytes);
    blk_end(s, VIRTIO_BLK_OK, bytes);
}

/* ---- discard and write zeroes: one range after the other (5.2.6.2) ---- */

/* What is read may change between two looks, so it is used as it was read, and checked each time. */
static bool read_range(const struct vhost_slot *s, const struct iovec *iov, unsigned i, struct virtio_blk_range *out)
{
    struct plx_iov_at at = {.iov = iov};
    plx_iov_skip(&at, i * sizeof *out);
    plx_iov_gather(&at, out, sizeof *out);
    const uint32_t known = s->req.op == PLX_BDEV_WRITE_ZEROES ? VIRTIO_BLK_UNMAP : 0;
    return !(plx_get32(out->flags) & ~known);
}

/* @return false when it has ended */
static bool range_submit(struct vhost_slot *s)
{
    struct virtio_blk_range range;
    const bool known = read_range(s, s->req.iov, s->range, &range);
    if (!s->ring->channel || !known || !blk_may(s, PLX_MAY_WRITE) || plx_get32(range.sectors) > VHOST_RANGE_SECTORS ||
        !blk_place(s, plx_get64(range.sector), (uint64_t)plx_get32(range.sectors) * VIRTIO_BLK_SECTOR)) {
        blk_fail(s, known ? VIRTIO_BLK_IOERR : VIRTIO_BLK_UNSUPP);
        return false;
    }
    s->req.flags = (uint8_t)((plx_get32(range.flags) & VIRTIO_BLK_UNMAP ? PLX_BDEV_UNMAP_OK : 0) |
                             (s->req.op == PLX_BDEV_WRITE_ZEROES && s->ring->is.fua ? PLX_BDEV_FUA : 0));
    s->range++;
    plx_bdev_submit(s->ring->channel, &s->req);
    return true;
}

/* Not one within the other: there may be hundreds that are done in place. */
static void ranges_step(struct vhost_slot *s)
{
    do {
        s->again = false;
        if (s->range == s->nranges) {
            blk_end(s, VIRTIO_BLK_OK, 0);
            return;
        }
        s->stepping = true;
        const bool going = range_submit(s);
        s->stepping = false;
        if (!going)
            return;
    } while (s->again);
}

static void range_done(struct plx_bdev_req *req)
{
    struct vhost_slot *s = plx_container_of(req, struct vhost_slot, req);
    if (req->status) {
        s->again = false;
        blk_fail(s, status_of(req->status));
        return;
    }
    s->again = true;
    if (!s->stepping)
        ranges_step(s);
}

static void blk_ranges(struct vhost_slot *s, uint8_t op, struct iovec *iov, unsigned n)
{
    const uint64_t bytes = iov_bytes(iov, n);
    struct virtio_blk_range range;
    s->req.op = op;
    if (!bytes || bytes % sizeof range || bytes / sizeof range > VHOST_RANGES) {
        blk_fail(s, VIRTIO_BLK_IOERR);
        return;
    }
    s->range = 0;
    s->nranges = (uint16_t)(bytes / sizeof range);
    for (unsigned i = 0; i < s->nranges; i++)
        if (!read_range(s, iov, i, &range)) { /* nothing is done then */
            blk_fail(s, VIRTIO_BLK_UNSUPP);
            return;
        }
    s->req.done = range_done;
    s->req.iov = iov;
    s->req.iovcnt = n;
    ranges_step(s);
}

/* ---- beginnings ---- */

static bool agreed(const struct vhost_slot *s, enum vhost_feature f)
{
    return s->ring->is.features & VHOST_BIT(f);
}

/* Others than the plainest: what was not agreed on is not supported. Data to be written is iov[0..n-1]. */
static void blk_execute_odd(struct vhost_slot *s, uint32_t type, struct iovec *iov, unsigned n)
{
    const bool writes = type == VIRTIO_BLK_OUT || type == VIRTIO_BLK_DISCARD || type == VIRTIO_BLK_WRITE_ZEROES;
    if (type == VIRTIO_BLK_IN || (writes && (s->ring->blk->read_only || !blk_may(s, PLX_MAY_WRITE))))
        blk_fail(s, VIRTIO_BLK_IOERR);
    else if (type == VIRTIO_BLK_FLUSH)
        blk_flush(s);
    else if (type == VIRTIO_BLK_GET_ID)
        blk_id(s, s->iov + s->nout, s->niov - s->nout);
    else if (type == VIRTIO_BLK_DISCARD && agreed(s, VIRTIO_BLK_F_DISCARD))
        blk_ranges(s, PLX_BDEV_UNMAP, iov, n);
    else if (type == VIRTIO_BLK_WRITE_ZEROES && agreed(s, VIRTIO_BLK_F_WRITE_ZEROES))
        blk_ranges(s, PLX_BDEV_WRITE_ZEROES, iov, n);
    else
        blk_fail(s, VIRTIO_BLK_UNSUPP);
}

static inline void blk_execute(struct vhost_slot *s, uint32_t type, uint64_t sector, struct iovec *iov, unsigned n)
{
    if (plx_likely(type == VIRTIO_BLK_IN && blk_may(s, PLX_MAY_READ)))
        blk_transfer(s, PLX_BDEV_READ, sector, s->iov + s->nout, s->niov - s->nout);
    else if (type == VIRTIO_BLK_OUT && !s->ring->blk->read_only && blk_may(s, PLX_MAY_WRITE))
        blk_transfer(s, PLX_BDEV_WRITE, sector, iov, n);
    else
        blk_execute_odd(s, type, iov, n);
}

/* The guest wrote the header in pieces, or with data behind it, or not all of it. */
static __attribute__((noinline)) void blk_start_odd(struct vhost_slot *s)
{
    struct virtio_blk_head head;
    struct plx_iov_at at = {.iov = s->iov};
    struct plx_iov_tail tail;
    uint32_t left = s->nout;
    if (iov_bytes(s->iov, left) < sizeof head) {
        blk_fail(s, VIRTIO_BLK_IOERR);
        return;
    }
    plx_iov_gather(&at, &head, sizeof head);
    struct iovec *iov = plx_iov_cut(&tail, s->iov, &left, sizeof head);
    blk_execute(s, plx_get32(head.type), plx_get64(head.sector), iov, left);
}

static __attribute__((noinline)) void blk_start_mute(struct vhost_slot *s)
{
    s->status = NULL;
    vhost_ring_break(s->ring, "a request without room for its status");
    vhost_ring_done(s, 0);
}

/* @return false when it has ended, as there is no place for it */
static inline bool blk_take_status(struct vhost_slot *s)
{
    if (plx_unlikely(s->niov == s->nout)) {
        blk_start_mute(s);
        return false;
    }
    struct iovec *last = &s->iov[s->niov - 1];
    s->status = (uint8_t *)last->iov_base + --last->iov_len;
    s->niov -= !last->iov_len;
    return true;
}

void vhost_blk_start(struct vhost_slot *s)
{
    if (plx_unlikely(!blk_take_status(s)))
        return;
    if (plx_unlikely(!s->nout || s->iov->iov_len != sizeof(struct virtio_blk_head))) {
        blk_start_odd(s);
        return;
    }
    const void *head = s->iov->iov_base;
    const uint32_t type = (uint32_t)vhost_read_once(head, 0);
    blk_execute(s, type, vhost_read_once(head, 1), s->iov + 1, s->nout - 1);
}

/* It is still called what it was. */
void vhost_blk_start_gone(struct vhost_slot *s)
{
    struct virtio_blk_head head = {.type = plx_put32(UINT32_MAX)};
    struct plx_iov_at at = {.iov = s->iov};
    if (!blk_take_status(s))
        return;
    if (iov_bytes(s->iov, s->nout) >= sizeof head)
        plx_iov_gather(&at, &head, sizeof head);
    if (plx_get32(head.type) == VIRTIO_BLK_GET_ID)
        blk_id(s, s->iov + s->nout, s->niov - s->nout);
    else
        blk_fail(s, VIRTIO_BLK_IOERR);
}
