/* SPDX-License-Identifier: BSD-3-Clause */
/* Requests to a remote disk, made into NVM commands (NVM 3.2, 3.3): one each where it fits, else in pieces. */
#include "bdev/driver/nvme_disk.h"

#include "base/log.h"

#include <stdatomic.h>
#include <string.h>

/*
 * Controllers offer Write Zeroes and refuse it where what they are made on cannot do it: Linux says it by the last one.
 */
static bool refuses(uint16_t status)
{
    return status == PLX_SC_INVALID_OPCODE || status == PLX_SC_INVALID_FIELD ||
           status == PLX_SC_COMMAND_SIZE_LIMIT_EXCEEDED;
}

static void bio_end(struct nvme_channel *nc, struct plx_bdev_req *bio, uint16_t status)
{
    if (plx_unlikely(status) && bio->op == PLX_BDEV_WRITE_ZEROES && refuses(status)) {
        if (!atomic_exchange(&nc->disk->refuses_zeroes, true))
            plx_info("%s: refuses Write Zeroes, status %03x: zeroes are written instead", nc->disk->bdev.info.name,
                     status);
        plx_bdev_emulate(bio);
        return;
    }
    if (plx_unlikely(status) && bio->op == PLX_BDEV_VERIFY && refuses(status)) {
        plx_bdev_emulate(bio); /* reads tell whether it is well, too */
        return;
    }
    plx_bdev_complete(bio, status);
}

static void bio_split(struct nvme_channel *nc, struct nvme_io *io);

static void whole_end(struct nvme_io *io, uint16_t status)
{
    struct plx_bdev_req *bio = plx_bdev_req_of(io);
    if (plx_likely(status != NVME_TOO_LARGE))
        bio_end(io->t.nc, bio, status);
    else if (bio->op == PLX_BDEV_COPY)
        plx_bdev_emulate(bio);
    else if (PLX_BDEV_ZONED_OPS >> bio->op & 1)
        nvme_zoned_too_large(io);
    else
        bio_split(io->t.nc, io);
}

static void whole_done(struct nvme_req *req)
{
    struct nvme_io *io = plx_container_of(req, struct nvme_io, t.req);
    if (nvme_try_succeeded(&io->t))
        plx_bdev_complete(plx_bdev_req_of(io), PLX_SC_SUCCESS);
    else
        nvme_try_not_done(&io->t);
}

/* ---- commands ---- */

static void init_heads(struct nvme_channel *nc)
{
    static const uint8_t opcodes[PLX_BDEV_OPS] = {
        [PLX_BDEV_READ] = NVME_IO_READ,       [PLX_BDEV_WRITE] = NVME_IO_WRITE,
        [PLX_BDEV_COMPARE] = NVME_IO_COMPARE, [PLX_BDEV_WRITE_ZEROES] = NVME_IO_WRITE_ZEROES,
        [PLX_BDEV_FLUSH] = NVME_IO_FLUSH,     [PLX_BDEV_UNMAP] = NVME_IO_DSM,
        [PLX_BDEV_COPY] = NVME_IO_COPY,       [PLX_BDEV_VERIFY] = NVME_IO_VERIFY,
    };
    for (int op = 0; op < PLX_BDEV_OPS; op++)
        nc->heads[op] = plx_put64(opcodes[op] | (uint64_t)nc->disk->ns.nsid << 32);
}

static inline void set_range(struct nvme_req *req, const struct nvme_channel *nc, enum plx_bdev_op op, uint64_t lba,
                             uint32_t nlb, uint32_t flags)
{
    const plx_le64 head = nc->heads[op];
    req->dir = plx_get64(head) & 3; /* as opcodes say it */
    req->cmd.head = head;
    req->cmd.cdws[0] = plx_put64(lba);
    req->cmd.cdws[1] = plx_put64((nlb - 1) | flags);
    req->cmd.cdws[2] = plx_put64(0);
}

static uint32_t flags_of(const struct nvme_disk *d, const struct plx_bdev_req *bio)
{
    uint32_t flags = bio->flags & PLX_BDEV_FUA ? NVME_RW_FUA : 0;
    if (bio->op == PLX_BDEV_WRITE_ZEROES && bio->flags & PLX_BDEV_UNMAP_OK && d->deallocates)
        flags |= NVME_RW_DEAC;
    return flags;
}

/* ---- requests that are too large for a command ---- */

void nvme_commands_init(struct nvme_channel *nc)
{
    nc->shift = nc->disk->shift;
    init_heads(nc);
    nc->split_tail = &nc->split;
    for (unsigned i = 0; i < NVME_PIECES; i++) {
        nc->pieces[i].next = nc->free_pieces;
        nc->free_pieces = &nc->pieces[i];
    }
}

static uint32_t largest(const struct nvme_channel *nc, const struct plx_bdev_req *bio)
{
    return bio->op == PLX_BDEV_WRITE_ZEROES ? nc->limits.zero
           : bio->op == PLX_BDEV_VERIFY     ? nc->limits.verify
                                            : nc->max_blocks;
}

static void unsplit(struct nvme_channel *nc, struct nvme_io *io)
{
    struct nvme_io **p = &nc->split;
    while (*p != io)
        p = &(*p)->next;
    *p = io->next;
    if (!*p)
        nc->split_tail = p;
    io->splitting = false;
}

static void split_piece_done(struct nvme_req *req);
static void send_fused(struct nvme_channel *nc, struct nvme_io *io, struct nvme_piece *second);

/* Whether its pieces are to be written one after the other. */
static bool is_in_order(const struct nvme_disk *d, const struct plx_bdev_req *bio)
{
    return d->ns.zone_blocks && bio->op == PLX_BDEV_WRITE;
}

/* Data of its own, from block to block. */
static bool req_transfers(const struct plx_bdev_req *bio)
{
    return bio->op == PLX_BDEV_READ || bio->op == PLX_BDEV_WRITE || bio->op == PLX_BDEV_COMPARE;
}

static void send_piece(struct nvme_channel *nc, struct nvme_io *io)
{
    const struct nvme_disk *d = nc->disk;
    struct plx_bdev_req *bio = plx_bdev_req_of(io);
    struct nvme_piece *piece = nc->free_pieces;
    nc->free_pieces = piece->next;
    piece->io = io;
    if (bio->op == PLX_BDEV_COMPARE_AND_WRITE) {
        unsplit(nc, io);
        send_fused(nc, io, piece);
        return;
    }
    uint32_t nlb = (uint32_t)plx_min_u64(bio->nlb - io->at, largest(nc, bio));
    if (d->boundary && req_transfers(bio))
        nlb = (uint32_t)plx_min_u64(nlb, d->boundary - (bio->lba + io->at) % d->boundary);
    struct nvme_req *req = &piece->t.req;
    set_range(req, nc, bio->op, bio->lba + io->at, nlb, flags_of(d, bio));
    req->len = req->dir == NVME_NO_DATA ? 0 : nlb << nc->shift;
    req->data = io->where;
    plx_iov_skip(&io->where, req->len);
    io->at += nlb;
    io->in_flight++;
    if (io->at == bio->nlb)
        unsplit(nc, io);
    req->done = split_piece_done;
    nvme_try_begin(nc, &piece->t, NVME_PIECE);
}

static void send_pieces(struct nvme_channel *nc)
{
    if (nc->sending)
        return; /* a piece has ended at once: whoever sent it goes on, else this would go as deep as there are many */
    nc->sending = true;
    nc->ch->refs++; /* pieces may end at once, and a callback put the channel back */
    while (nc->split && nc->free_pieces && !(nc->split->in_flight && is_in_order(nc->disk, plx_bdev_req_of(nc->split))))
        send_piece(nc, nc->split);
    nc->sending = false;
    plx_bdev_channel_put(nc->ch);
}

static void free_piece(struct nvme_channel *nc, struct nvme_piece *piece)
{
    piece->next = nc->free_pieces;
    nc->free_pieces = piece;
    piece->io = NULL;
}

static void piece_end(struct nvme_piece *piece, uint16_t status)
{
    struct nvme_io *io = piece->io;
    struct nvme_channel *nc = piece->t.nc;
    free_piece(nc, piece);
    io->in_flight--;
    if (status && !io->status)
        io->status = status;
    if (io->status && io->splitting)
        unsplit(nc, io);
    bool ended = !io->in_flight && !io->splitting;
    send_pieces(nc);
    if (ended && io->status == NVME_TOO_LARGE)
        bio_split(nc, io); /* all of it again, in smaller pieces */
    else if (ended)
        bio_end(nc, plx_bdev_req_of(io), io->status); /* last: the channel may go with it */
}

static void split_piece_done(struct nvme_req *req)
{
    struct nvme_piece *piece = plx_container_of(req, struct nvme_piece, t.req);
    if (nvme_try_succeeded(&piece->t))
        piece_end(piece, PLX_SC_SUCCESS);
    else
        nvme_try_not_done(&piece->t);
}

static void await_pieces(struct nvme_channel *nc, struct nvme_io *io, enum nvme_kind kind)
{
    io->t.kind = (uint8_t)kind;
    io->in_flight = 0;
    io->splitting = true;
    io->next = NULL;
    *nc->split_tail = io;
    nc->split_tail = &io->next;
    send_pieces(nc);
}

static void bio_split(struct nvme_channel *nc, struct nvme_io *io)
{
    io->at = 0;
    io->status = PLX_SC_SUCCESS;
    io->where = (struct plx_iov_at){plx_bdev_req_of(io)->iov, 0};
    await_pieces(nc, io, NVME_SPLIT);
}

/* ---- operations ---- */

static inline void bio_transfer(struct nvme_channel *nc, struct nvme_io *io, const struct plx_bdev_req *bio,
                                uint32_t flags)
{
    set_range(&io->t.req, nc, bio->op, bio->lba, bio->nlb, flags);
    io->t.req.len = bio->nlb << nc->shift;
    io->t.req.data = (struct plx_iov_at){bio->iov, 0};
    nvme_try_begin(nc, &io->t, NVME_WHOLE);
}

static void try_no_data(struct nvme_channel *nc, struct nvme_io *io)
{
    io->t.req.len = 0;
    io->t.req.dir = NVME_NO_DATA;
    nvme_try_begin(nc, &io->t, NVME_WHOLE);
}

/* Data that is part of the command. */
static void try_own_data(struct nvme_channel *nc, struct nvme_io *io, void *data, uint32_t len)
{
    io->iov = (struct iovec){data, len};
    io->t.req.data = (struct plx_iov_at){&io->iov, 0};
    io->t.req.len = len;
    io->t.req.dir = NVME_FROM_HOST;
    nvme_try_begin(nc, &io->t, NVME_WHOLE);
}

static void bio_flush(struct nvme_channel *nc, struct nvme_io *io)
{
    io->t.req.cmd = (struct nvme_words){.opcode = NVME_IO_FLUSH, .nsid = plx_put32(nc->disk->ns.nsid)};
    try_no_data(nc, io);
}

static void bio_unmap(struct nvme_channel *nc, struct nvme_io *io, const struct plx_bdev_req *bio)
{
    io->t.req.cmd = (struct nvme_words){
        .opcode = NVME_IO_DSM, .nsid = plx_put32(nc->disk->ns.nsid), .cdw11 = plx_put32(NVME_DSM_AD)};
    io->dsm = (struct nvme_dsm_range){.nlb = plx_put32(bio->nlb), .slba = plx_put64(bio->lba)};
    try_own_data(nc, io, &io->dsm, sizeof io->dsm);
}

static void bio_write_zeroes(struct nvme_channel *nc, struct nvme_io *io, struct plx_bdev_req *bio)
{
    const struct nvme_disk *d = nc->disk;
    if (atomic_load_explicit(&d->refuses_zeroes, memory_order_relaxed)) {
        plx_bdev_emulate(bio);
        return;
    }
    if (bio->nlb > nc->limits.zero) {
        bio_split(nc, io);
        return;
    }
    set_range(&io->t.req, nc, bio->op, bio->lba, bio->nlb, flags_of(d, bio));
    try_no_data(nc, io);
}

static void bio_verify(struct nvme_channel *nc, struct nvme_io *io, const struct plx_bdev_req *bio)
{
    if (bio->nlb > nc->limits.verify) {
        bio_split(nc, io);
        return;
    }
    set_range(&io->t.req, nc, bio->op, bio->lba, bio->nlb, 0);
    try_no_data(nc, io);
}

/*
 * One range that does not overlap its destination, as long as the controller takes; the others the core does by reading
 * and writing.
 */
static void bio_copy(struct nvme_channel *nc, struct nvme_io *io, struct plx_bdev_req *bio)
{
    const struct nvme_disk *d = nc->disk;
    uint64_t distance = bio->lba > bio->src_lba ? bio->lba - bio->src_lba : bio->src_lba - bio->lba;
    if (bio->nlb > nc->limits.copy || distance < bio->nlb) {
        plx_bdev_emulate(bio);
        return;
    }
    set_range(&io->t.req, nc, bio->op, bio->lba, 1, flags_of(d, bio)); /* one range, in format 0 */
    io->copy = (struct nvme_copy_range){.slba = plx_put64(bio->src_lba), .nlb = plx_put16(bio->nlb - 1)};
    try_own_data(nc, io, &io->copy, sizeof io->copy);
}

static void fused_end(struct nvme_io *io, uint16_t status)
{
    struct nvme_channel *nc = io->t.nc;
    free_piece(nc, io->second);
    send_pieces(nc);
    bio_end(nc, plx_bdev_req_of(io), status); /* last: the channel may go with it */
}

static void send_fused(struct nvme_channel *nc, struct nvme_io *io, struct nvme_piece *piece)
{
    const struct nvme_disk *d = nc->disk;
    const struct plx_bdev_req *bio = plx_bdev_req_of(io);
    struct nvme_req *first = &io->t.req, *second = &piece->t.req;
    set_range(first, nc, PLX_BDEV_COMPARE, bio->lba, bio->nlb, 0);
    set_range(second, nc, PLX_BDEV_WRITE, bio->lba, bio->nlb, flags_of(d, bio));
    first->cmd.flags = NVME_FUSE_FIRST;
    second->cmd.flags = NVME_FUSE_SECOND;
    first->data = second->data = (struct plx_iov_at){bio->iov, 0};
    first->len = second->len = bio->nlb << d->shift;
    first->dir = second->dir = NVME_FROM_HOST;
    plx_iov_skip(&second->data, first->len);
    io->second = piece;
    nvme_try_begin_fused(nc, &io->t);
}

static void bio_compare_and_write(struct nvme_channel *nc, struct nvme_io *io, struct plx_bdev_req *bio)
{
    if (bio->nlb > nc->limits.fused)
        plx_bdev_complete(bio, PLX_SC_COMMAND_SIZE_LIMIT_EXCEEDED);
    else
        await_pieces(nc, io, NVME_FUSED);
}

void nvme_try_end(struct nvme_try *t, uint16_t status)
{
    if (t->kind == NVME_PIECE)
        piece_end(plx_container_of(t, struct nvme_piece, t), status);
    else if (t->kind == NVME_FUSED)
        fused_end(plx_container_of(t, struct nvme_io, t), status);
    else
        whole_end(plx_container_of(t, struct nvme_io, t), status);
}

/* All but reads and writes by one command. Not inlined, as those would then save registers for it. */
static __attribute__((noinline)) void bio_odd(struct nvme_channel *nc, struct nvme_io *io, struct plx_bdev_req *bio)
{
    switch ((enum plx_bdev_op)bio->op) {
    case PLX_BDEV_READ:
    case PLX_BDEV_WRITE:
    case PLX_BDEV_COMPARE:
        if (bio->nlb > nc->max_blocks)
            bio_split(nc, io);
        else
            bio_transfer(nc, io, bio, flags_of(nc->disk, bio));
        break;
    case PLX_BDEV_FLUSH:
        bio_flush(nc, io);
        break;
    case PLX_BDEV_WRITE_ZEROES:
        bio_write_zeroes(nc, io, bio);
        break;
    case PLX_BDEV_UNMAP:
        bio_unmap(nc, io, bio);
        break;
    case PLX_BDEV_VERIFY:
        bio_verify(nc, io, bio);
        break;
    case PLX_BDEV_COPY:
        bio_copy(nc, io, bio);
        break;
    case PLX_BDEV_COMPARE_AND_WRITE:
        bio_compare_and_write(nc, io, bio);
        break;
    case PLX_BDEV_ALLOCATED:
    case PLX_BDEV_RESET:
    case PLX_BDEV_ZONE_APPEND:
    case PLX_BDEV_ZONE_MANAGE:
    case PLX_BDEV_ZONE_REPORT:
    case PLX_BDEV_OPS: /* not offered, or the core's; of zones: nvme_zoned.c */
        plx_bdev_complete(bio, PLX_SC_INVALID_OPCODE);
        break;
    }
}

void nvme_bio_submit(struct plx_bdev_channel *ch, struct plx_bdev_req *bio)
{
    struct nvme_channel *nc = nvme_channel_of(ch);
    struct nvme_io *io = (struct nvme_io *)(void *)bio->context;
    io->t.req.done = whole_done;
    if (plx_likely(bio->op <= PLX_BDEV_WRITE && !(bio->flags & PLX_BDEV_FUA) && bio->nlb <= nc->max_blocks))
        bio_transfer(nc, io, bio, 0);
    else
        bio_odd(nc, io, bio);
}

void nvme_bio_submit_bounded(struct plx_bdev_channel *ch, struct plx_bdev_req *bio)
{
    struct nvme_channel *nc = nvme_channel_of(ch);
    const uint32_t boundary = nc->disk->boundary;
    if (req_transfers(bio) && bio->lba % boundary + bio->nlb > boundary)
        bio_split(nc, (struct nvme_io *)(void *)bio->context);
    else
        nvme_bio_submit(ch, bio);
}

static void abort_split(struct nvme_channel *nc, struct nvme_io *io)
{
    io->status = PLX_SC_ABORTED_BY_REQUEST;
    io->in_flight++; /* keeps it here until all of its pieces have been seen */
    if (io->splitting)
        unsplit(nc, io);
    for (unsigned i = 0; i < NVME_PIECES; i++)
        if (nc->pieces[i].io == io)
            nvme_try_abort(&nc->pieces[i].t);
    if (--io->in_flight == 0)
        plx_bdev_complete(plx_bdev_req_of(io), io->status);
}

void nvme_bio_abort(struct plx_bdev_channel *ch, struct plx_bdev_req *bio)
{
    struct nvme_channel *nc = nvme_channel_of(ch);
    struct nvme_io *io = (struct nvme_io *)(void *)bio->context;
    if (io->t.kind == NVME_SPLIT) {
        abort_split(nc, io);
    } else if (io->t.kind == NVME_FUSED && io->splitting) {
        unsplit(nc, io);
        plx_bdev_complete(bio, PLX_SC_ABORTED_BY_REQUEST);
    } else {
        nvme_try_abort(&io->t);
    }
}
