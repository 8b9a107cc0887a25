/* SPDX-License-Identifier: BSD-3-Clause */
/* Requests to the disk into requests to the back-end (virtio 5.2.6): one each where it fits, else in parts. */
#include "bdev/driver/virtio_disk.h"

#include "base/log.h"

#include <string.h>

static unsigned sector_shift(const struct vio_disk *d)
{
    return d->shift - VIO_SECTOR_SHIFT;
}

/* ---- the line of those that wait for slots or buffers ---- */

static void line_push(struct vio_channel *vc, struct plx_bdev_req *req)
{
    vio_io_of(req)->queued = true;
    req->next = NULL;
    *vc->line_tail = req;
    vc->line_tail = &req->next;
}

static void line_remove(struct vio_channel *vc, struct plx_bdev_req *req)
{
    struct plx_bdev_req **p = &vc->line;
    while (*p != req)
        p = &(*p)->next;
    *p = req->next;
    if (!*p)
        vc->line_tail = p;
    vio_io_of(req)->queued = false;
}

/* ---- one request to the back-end ---- */

static void set_entry(const struct vio_disk *d, struct vio_desc *table, unsigned slot, unsigned i, const void *memory,
                      uint64_t bytes, unsigned flags)
{
    unsigned base = d->ring.indirect ? 0 : slot * VIO_DIRECT;
    if (plx_unlikely(d->ring.packed)) { /* flags stand elsewhere, and entries follow each other: 2.8.8 */
        table[i] = (struct vio_desc){
            .addr = plx_put64((uintptr_t)memory), .len = plx_put32(bytes), .next = plx_put16(flags & VIO_DESC_WRITE)};
        return;
    }
    table[i] =
        (struct vio_desc){plx_put64((uintptr_t)memory), plx_put32(bytes), plx_put16(flags), plx_put16(base + i + 1)};
}

static struct vio_cmd *slot_take(struct vio_queue *q, unsigned *slot, struct plx_bdev_req *req)
{
    *slot = q->free_slot;
    q->free_slot = q->slots[*slot].next_free;
    q->slots[*slot].req = req;
    return &q->cmds[*slot];
}

/* Header and status, around n entries of data that are there already. */
static void slot_send(struct vio_channel *vc, unsigned slot, uint32_t type, uint64_t sector, unsigned n)
{
    struct vio_disk *d = vc->disk;
    struct vio_queue *q = vc->q;
    struct vio_cmd *cmd = &q->cmds[slot];
    struct vio_desc *table = vio_table(d, q, slot);
    cmd->header = (struct vio_header){.type = plx_put32(type), .sector = plx_put64(sector)};
    cmd->status = VIO_S_NONE;
    set_entry(d, table, slot, 0, &cmd->header, sizeof cmd->header, VIO_DESC_NEXT);
    set_entry(d, table, slot, n + 1, &cmd->status, sizeof cmd->status, VIO_DESC_WRITE);
    q->slots[slot].entries = (uint16_t)(n + 2);
    vio_ring_add(&q->ring, slot, vio_indirect(d, q, slot), n + 2);
}

/* Memory for data on its way to or from memory that the back-end does not see. @return NULL when there is none now */
static uint8_t *bounce_take(struct vio_queue *q, unsigned slot, size_t bytes)
{
    struct vio_slot *s = &q->slots[slot];
    if (bytes <= VIO_SMALL) {
        s->bounce = q->small + (size_t)slot * VIO_SMALL;
    } else if (q->free_larges) {
        s->large = (uint8_t)(q->free_large[--q->free_larges] + 1);
        s->bounce = q->larges + (size_t)(s->large - 1) * VIO_LARGE;
    }
    return s->bounce;
}

/* Through memory of the disk's. @return entries of the table, or 0: there is no such memory now */
static unsigned bounce_data(struct vio_channel *vc, struct vio_io *io, unsigned slot, size_t bytes)
{
    struct vio_disk *d = vc->disk;
    struct vio_slot *s = &vc->q->slots[slot];
    bool read = io->type == VIO_T_IN;
    unsigned n = 0;
    uint8_t *memory = bounce_take(vc->q, slot, bytes);
    if (!memory)
        return 0;
    if (read) {
        s->to = io->where;
        s->bytes = (uint32_t)bytes;
        plx_iov_skip(&io->where, bytes);
    } else {
        plx_iov_gather(&io->where, memory, bytes);
    }
    struct vio_desc *table = vio_table(d, vc->q, slot);
    for (size_t at = 0, len; at < bytes; at += len) {
        len = plx_min_u64(bytes - at, d->seg_bytes);
        set_entry(d, table, slot, ++n, memory + at, len, VIO_DESC_NEXT | (read ? VIO_DESC_WRITE : 0));
    }
    return n;
}

/*
 * Whether what the channel knows of shared memory is true: what the back-end has may be gone, and other memory there.
 * When there is other memory than there was, the home is asked for another list.
 */
static bool regions_true(struct vio_channel *vc)
{
    uint64_t made = atomic_load_explicit(&plx_shared_made, memory_order_relaxed);
    uint64_t freed = atomic_load_explicit(&plx_shared_freed, memory_order_relaxed);
    if (plx_unlikely(made + freed != vc->asked)) {
        vc->asked = made + freed;
        vio_ask_home(vc->disk, VIO_HOME_MEMORY);
    }
    return freed == vc->regions.freed;
}

static bool has_memory(const struct vio_channel *vc, const uint8_t *p, size_t bytes)
{
    for (unsigned i = 0; i < vc->regions.n; i++) {
        const struct plx_shared_region *r = &vc->regions.list[i];
        size_t at = (uintptr_t)p - (uintptr_t)r->base;
        if (at < r->bytes && bytes <= r->bytes - at)
            return true;
    }
    return false;
}

/*
 * Where the request has it, as much of *bytes as a table takes. @return entries of the table, or 0: the back-end does
 * not see it
 */
static unsigned direct_data(struct vio_channel *vc, struct vio_io *io, unsigned slot, size_t *bytes)
{
    struct vio_disk *d = vc->disk;
    struct vio_desc *table = vio_table(d, vc->q, slot);
    const unsigned flags = VIO_DESC_NEXT | (io->type == VIO_T_IN ? VIO_DESC_WRITE : 0);
    if (!regions_true(vc) || !vc->regions.n)
        return 0;
    while (*bytes) {
        struct plx_iov_at at = io->where;
        unsigned n = 0;
        size_t sum = 0;
        while (sum < *bytes && n < d->segs) {
            uint8_t *p;
            size_t len = plx_iov_next(&at, plx_min_u64(*bytes - sum, d->seg_bytes), &p);
            if (!has_memory(vc, p, len))
                return 0;
            set_entry(d, table, slot, ++n, p, len, flags);
            sum += len;
        }
        if (plx_likely(sum == *bytes)) {
            io->where = at;
            return n;
        }
        *bytes = sum >> d->shift << d->shift; /* whole blocks of it, once more */
    }
    return 0;
}

static bool issue_data(struct vio_channel *vc, struct plx_bdev_req *req)
{
    struct vio_disk *d = vc->disk;
    struct vio_io *io = vio_io_of(req);
    const size_t most = plx_min_u64((size_t)(req->nlb - io->at) << d->shift, d->part_bytes);
    size_t bytes = most;
    unsigned slot;
    slot_take(vc->q, &slot, req);
    unsigned n = direct_data(vc, io, slot, &bytes);
    if (!n) {
        bytes = plx_min_u64(most, VIO_LARGE);
        n = bounce_data(vc, io, slot, bytes);
    }
    if (plx_unlikely(!n)) {
        vio_slot_free(vc->q, slot);
        return false;
    }
    slot_send(vc, slot, io->type, (req->lba + io->at) << sector_shift(d), n);
    io->at += (uint32_t)(bytes >> d->shift);
    return true;
}

static void issue_range(struct vio_channel *vc, struct plx_bdev_req *req)
{
    struct vio_disk *d = vc->disk;
    struct vio_io *io = vio_io_of(req);
    bool zeroes = io->type == VIO_T_WRITE_ZEROES;
    uint32_t nlb = (uint32_t)plx_min_u64(req->nlb - io->at, zeroes ? d->max_zero : UINT32_MAX);
    unsigned slot;
    struct vio_cmd *cmd = slot_take(vc->q, &slot, req);
    cmd->range = (struct vio_range){
        .sector = plx_put64((req->lba + io->at) << sector_shift(d)),
        .nsectors = plx_put32((uint64_t)nlb << sector_shift(d)),
        .flags = plx_put32(zeroes && d->may_unmap && req->flags & PLX_BDEV_UNMAP_OK ? VIO_WZ_UNMAP : 0),
    };
    set_entry(d, vio_table(d, vc->q, slot), slot, 1, &cmd->range, sizeof cmd->range, VIO_DESC_NEXT);
    slot_send(vc, slot, io->type, 0, 1);
    io->at += nlb;
}

/* As much of a request as there is room for. @return whether all of it is on its way */
static bool issue_parts(struct vio_channel *vc, struct plx_bdev_req *req)
{
    struct vio_io *io = vio_io_of(req);
    while (io->more && vc->q->free_slot != VIO_NO_SLOT) {
        unsigned slot;
        if (io->type == VIO_T_FLUSH) {
            slot_take(vc->q, &slot, req);
            slot_send(vc, slot, VIO_T_FLUSH, 0, 0);
            io->more = false;
        } else if (io->type == VIO_T_IN || io->type == VIO_T_OUT) {
            if (!issue_data(vc, req))
                return false;
            io->more = io->at < req->nlb;
        } else {
            issue_range(vc, req);
            io->more = io->at < req->nlb;
        }
        io->parts++;
    }
    return !io->more;
}

void vio_line_issue(struct vio_channel *vc)
{
    while (vc->line && issue_parts(vc, vc->line))
        line_remove(vc, vc->line);
}

/* ---- ends ---- */

static void vio_end(struct vio_channel *vc, struct plx_bdev_req *req, uint16_t status)
{
    struct vio_disk *d = vc->disk;
    if (plx_unlikely(status == PLX_SC_INVALID_OPCODE) && req->op == PLX_BDEV_WRITE_ZEROES) {
        if (!atomic_exchange(&d->refuses_zeroes, true))
            plx_info("%s: refuses to write zeroes: they are written as data", d->bdev.info.name);
        plx_bdev_emulate(req);
        return;
    }
    plx_bdev_complete(req, status);
}

static uint16_t virtio_status(uint8_t status, const struct plx_bdev_req *req)
{
    switch (status) {
    case VIO_S_OK:
        return PLX_SC_SUCCESS;
    case VIO_S_IOERR:
        return req->op == PLX_BDEV_READ ? PLX_SC_UNRECOVERED_READ_ERROR : PLX_SC_WRITE_FAULT;
    case VIO_S_UNSUPP:
        return PLX_SC_INVALID_OPCODE;
    default: /* nothing, or what is none */
        return PLX_SC_INTERNAL_ERROR;
    }
}

static __attribute__((noinline)) void part_failed(struct vio_channel *vc, struct plx_bdev_req *req, uint16_t status)
{
    struct vio_io *io = vio_io_of(req);
    if (!io->status)
        io->status = status;
    io->more = io->flush = false;
    if (io->queued)
        line_remove(vc, req);
}

static void part_ended(struct vio_channel *vc, struct plx_bdev_req *req, uint16_t status)
{
    struct vio_io *io = vio_io_of(req);
    io->parts--;
    if (plx_unlikely(status))
        part_failed(vc, req, status);
    if (io->parts || io->more)
        return;
    if (plx_unlikely(io->flush)) { /* FUA, which virtio has not */
        io->flush = false;
        io->type = VIO_T_FLUSH;
        io->more = true;
        line_push(vc, req);
        vio_line_issue(vc);
        return;
    }
    vio_end(vc, req, io->status);
}

void vio_slot_done(struct vio_channel *vc, unsigned slot)
{
    struct vio_queue *q = vc->q;
    struct vio_slot *s = &q->slots[slot];
    struct plx_bdev_req *req = s->req;
    if (plx_unlikely(!req)) {
        vio_slot_free(q, slot);
        return;
    }
    uint16_t status = virtio_status(q->cmds[slot].status, req);
    if (s->bounce && req->op == PLX_BDEV_READ && plx_likely(!status))
        plx_iov_scatter(&s->to, s->bounce, s->bytes);
    vio_slot_free(q, slot);
    part_ended(vc, req, status);
}

/* ---- beginnings ---- */

/* @return whether there is something to be done */
static bool set_type(const struct vio_disk *d, struct vio_io *io, const struct plx_bdev_req *req)
{
    static const uint32_t types[PLX_BDEV_OPS] = {
        [PLX_BDEV_READ] = VIO_T_IN,       [PLX_BDEV_WRITE] = VIO_T_OUT,   [PLX_BDEV_WRITE_ZEROES] = VIO_T_WRITE_ZEROES,
        [PLX_BDEV_UNMAP] = VIO_T_DISCARD, [PLX_BDEV_FLUSH] = VIO_T_FLUSH,
    };
    io->type = types[req->op];
    io->flush = req->flags & PLX_BDEV_FUA && d->bdev.info.write_cache;
    return io->type != VIO_T_FLUSH || vio_has(d, VIO_F_FLUSH);
}

void vio_submit(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    struct vio_channel *vc = vio_channel_of(ch);
    struct vio_disk *d = vc->disk;
    struct vio_io *io = vio_io_of(req);
    if (plx_unlikely(vc->failing)) {
        plx_bdev_complete(req, PLX_SC_HOST_PATHING_ERROR);
        return;
    }
    if (req->op == PLX_BDEV_WRITE_ZEROES && atomic_load_explicit(&d->refuses_zeroes, memory_order_relaxed)) {
        plx_bdev_emulate(req);
        return;
    }
    io->where = (struct plx_iov_at){req->iov, 0};
    io->at = io->parts = 0;
    io->status = PLX_SC_SUCCESS;
    io->queued = false;
    io->more = true;
    if (!set_type(d, io, req)) {
        plx_bdev_complete(req, PLX_SC_SUCCESS);
        return;
    }
    if (plx_unlikely(vc->line != NULL) || !issue_parts(vc, req))
        line_push(vc, req);
    if (vc->q->ring.busy == 1) /* nothing else is with the back-end: why wait for the round's end? */
        vio_show(vc);
}

/* ---- ends before their time ---- */

/* What the back-end had is ended: there is none, and the lock, which is held, keeps the next one away. */
static void orphan_parts(struct vio_channel *vc, const struct plx_bdev_req *of)
{
    struct vio_queue *q = vc->q;
    for (unsigned i = 0; i < vc->disk->ring.slots; i++) {
        struct plx_bdev_req *req = q->slots[i].req;
        if (!req || (of && req != of))
            continue;
        vio_io_of(req)->parts--;
        vio_slot_orphan(vc->disk, q, i);
    }
}

/* One that a back-end has ends when that is through with it: its memory must not be given back before. */
void vio_abort(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    struct vio_channel *vc = vio_channel_of(ch);
    struct vio_io *io = vio_io_of(req);
    if (io->queued)
        line_remove(vc, req);
    if (io->more)
        io->status = PLX_SC_ABORTED_BY_REQUEST;
    io->more = io->flush = false;
    if (io->parts) {
        pthread_mutex_lock(&vc->disk->lock);
        if (vc->disk->state != VIO_UP) {
            orphan_parts(vc, req);
            io->status = PLX_SC_ABORTED_BY_REQUEST;
        }
        pthread_mutex_unlock(&vc->disk->lock);
    }
    if (!io->parts)
        plx_bdev_complete(req, io->status);
}

void vio_fail_all(struct vio_channel *vc)
{
    struct vio_disk *d = vc->disk;
    struct vio_queue *q = vc->q;
    pthread_mutex_lock(&d->lock);
    vc->failing = d->state == VIO_GIVEN_UP;
    for (unsigned i = 0; i < d->ring.slots && vc->failing; i++) {
        struct plx_bdev_req *req = q->slots[i].req;
        if (!req)
            continue;
        vio_slot_orphan(d, q, i);
        if (!--vio_io_of(req)->parts && !vio_io_of(req)->queued)
            line_push(vc, req);
    }
    pthread_mutex_unlock(&d->lock);
    while (vc->failing && vc->line) { /* which nothing joins any more */
        struct plx_bdev_req *req = vc->line;
        line_remove(vc, req);
        plx_bdev_complete(req, PLX_SC_HOST_PATHING_ERROR);
    }
}
