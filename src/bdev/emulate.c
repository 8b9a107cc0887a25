/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a driver leaves out, done by what it has: verify, compare, compare and write, copy, and write zeroes by means of
 * reads and writes, and unmaps that are larger than it takes by means of smaller ones.
 *
 * A layer like any other: an operation is a sequence of steps, each of which either goes on at once or waits for one
 * thing: the range lock, the sub-request that does the parts of the work, a piece of memory, or such a part, which goes
 * to the driver. All its state is in the request's context, which is the driver's at other times. They are got in this
 * order, so that nobody has a sub-request and waits for the lock, whose owner may need it.
 *
 *   verify, compare    SUB, PIECE, then READ, CHECK for each piece; FREE
 *   compare and write  LOCK, as compare, WRITE; FREE, UNLOCK
 *   copy               SUB, PIECE, then READ, WRITE, WRITTEN for each piece; FREE
 *   write zeroes       SUB, then WRITE, WRITTEN for each piece; FREE
 *   unmap              the same
 */
#include "bdev/core.h"

#include <assert.h>

enum step { LOCK, SUB, PIECE, READ, CHECK, WRITE, WRITTEN, FREE, UNLOCK, END };

/* What zeroes are written from. Never written to, so it takes no memory. */
enum { ZEROES = 1 << 20 };
static uint8_t zeroes[ZEROES] __attribute__((aligned(PLX_BUF_MIN)));

uint32_t plx_emulate_ops(const struct plx_bdev *bdev)
{
    const uint32_t read = 1 << PLX_BDEV_READ, write = 1 << PLX_BDEV_WRITE;
    uint32_t has = bdev->native_ops, ops = 0;
    if (bdev->info.zone_blocks) /* what is written is not for anybody else to choose */
        return (1 << PLX_BDEV_COMPARE | 1 << PLX_BDEV_VERIFY) & ~has;
    if (has & read)
        ops |= 1 << PLX_BDEV_COMPARE | 1 << PLX_BDEV_VERIFY;
    if (has & write)
        ops |= 1 << PLX_BDEV_WRITE_ZEROES;
    if (has & read && has & write)
        ops |= 1 << PLX_BDEV_COPY;
    /* The range lock waits for requests in flight, which only tracked disks know, and holds in this process alone. */
    if (has & read && has & write && !bdev->info.shared)
        ops |= 1 << PLX_BDEV_COMPARE_AND_WRITE;
    return ops & ~has;
}

/* ---- parts: requests to the driver ---- */

void plx_emulate_part_done(struct plx_bdev_req *part)
{
    struct plx_bdev_req *req = plx_bdev_req_of(((struct plx_bdev_sub *)part)->whole);
    struct plx_emulation *e = plx_emulation(req);
    e->part_busy = false;
    e->status = part->status;
    plx_emulate_wake(req);
}

bool plx_emulate_is_part_of(const struct plx_bdev_channel *ch, struct plx_bdev_req *part)
{
    return plx_bdev_req_of(((struct plx_bdev_sub *)part)->whole)->ch == ch;
}

/* Has the driver do a part, of its iovec as it is now. */
static void begin_part(struct plx_bdev_req *req, enum plx_bdev_op op, uint64_t lba, uint32_t nlb)
{
    struct plx_emulation *e = plx_emulation(req);
    struct plx_bdev_req *part = &e->part.first->req;
    part->done = plx_emulate_part_done;
    part->op = (uint8_t)op;
    part->flags = op == PLX_BDEV_WRITE ? req->flags & PLX_BDEV_FUA : 0;
    part->lba = lba;
    part->nlb = nlb;
    e->part_busy = true;
    e->waiting = true;
    plx_bdev_start_part(req->ch, part);
}

static void use_memory(struct plx_bdev_req *req, void *mem)
{
    struct plx_bdev_sub *sub = plx_emulation(req)->part.first;
    sub->iov[0] = (struct iovec){mem, (size_t)plx_emulation(req)->nlb << req->ch->bdev->block_shift};
    sub->req.iov = sub->iov;
    sub->req.iovcnt = 1;
}

static void part_ready(struct plx_bdev_subs *s)
{
    plx_emulate_wake(plx_bdev_req_of(s));
}

static void emulation_piece_ready(struct plx_piece *p)
{
    plx_emulate_wake(plx_bdev_req_of(plx_container_of(p, struct plx_emulation, piece)));
}

/* ---- the steps ---- */

/*
 * Where the piece at hand begins, in blocks from the start: a copy to higher blocks of its own source goes backwards.
 */
static uint32_t offset(const struct plx_bdev_req *req, const struct plx_emulation *c)
{
    bool backwards = req->op == PLX_BDEV_COPY && req->lba > req->src_lba && req->lba - req->src_lba < req->nlb;
    return backwards ? req->nlb - c->at - c->nlb : c->at;
}

static void read_step(struct plx_bdev_req *req, struct plx_emulation *c)
{
    bool copy = req->op == PLX_BDEV_COPY;
    c->nlb = (uint32_t)plx_min_u64(req->nlb - c->at, c->piece.size >> req->ch->bdev->block_shift);
    c->step = copy ? WRITE : CHECK;
    use_memory(req, c->piece.mem);
    begin_part(req, PLX_BDEV_READ, (copy ? req->src_lba : req->lba) + offset(req, c), c->nlb);
}

/* What was read is as the caller has it. */
static bool piece_equals(const struct plx_bdev_req *req, const struct plx_emulation *c)
{
    struct plx_iov_at at = {req->iov, 0};
    plx_iov_skip(&at, (size_t)c->at << req->ch->bdev->block_shift);
    return plx_iov_equals(&at, c->piece.mem, (size_t)c->nlb << req->ch->bdev->block_shift);
}

static void check_step(struct plx_bdev_req *req, struct plx_emulation *c)
{
    const bool fits = req->op == PLX_BDEV_VERIFY || piece_equals(req, c); /* to have been read is enough there */
    c->at += c->nlb;
    if (!fits) {
        c->status = PLX_SC_COMPARE_FAILURE;
        c->step = FREE;
    } else if (c->at < req->nlb) {
        c->step = READ;
    } else {
        c->step = req->op == PLX_BDEV_COMPARE_AND_WRITE ? WRITE : FREE;
        /* Not kept while writing: the driver may need a piece itself, and nobody has one and waits for another. */
        plx_piece_put(req->ch, &c->piece);
    }
}

static void write_step(struct plx_bdev_req *req, struct plx_emulation *c)
{
    struct plx_bdev *bdev = req->ch->bdev;
    struct plx_bdev_req *part = &c->part.first->req;
    c->step = WRITTEN;
    switch (req->op) {
    case PLX_BDEV_COPY:
        begin_part(req, PLX_BDEV_WRITE, req->lba + offset(req, c), c->nlb);
        break;
    case PLX_BDEV_WRITE_ZEROES:
        c->nlb = (uint32_t)plx_min_u64(req->nlb - c->at, ZEROES >> bdev->block_shift);
        use_memory(req, zeroes);
        begin_part(req, PLX_BDEV_WRITE, req->lba + c->at, c->nlb);
        break;
    case PLX_BDEV_UNMAP:
        c->nlb = (uint32_t)plx_min_u64(req->nlb - c->at, bdev->info.max_unmap_blocks);
        begin_part(req, PLX_BDEV_UNMAP, req->lba + c->at, c->nlb);
        break;
    default: /* compare and write: what to write follows what was compared with */
        c->step = FREE;
        part->iovcnt = req->iovcnt;
        part->iov = plx_iov_cut(&c->tail, req->iov, &part->iovcnt, (size_t)req->nlb << bdev->block_shift);
        begin_part(req, PLX_BDEV_WRITE, req->lba, req->nlb);
        break;
    }
}

static void take_step(struct plx_bdev_req *req, struct plx_emulation *c)
{
    struct plx_bdev_channel *ch = req->ch;
    if (req->aborted && (c->step == SUB || c->step == PIECE || c->step == READ || c->step == WRITE))
        c->status = PLX_SC_ABORTED_BY_REQUEST;
    if (c->status && c->step < FREE)
        c->step = FREE;
    switch ((enum step)c->step) {
    case LOCK:
        c->step = SUB;
        c->waiting = true;
        plx_range_lock(req);
        break;
    case SUB:
        c->step = req->op == PLX_BDEV_WRITE_ZEROES || req->op == PLX_BDEV_UNMAP ? WRITE : PIECE;
        c->waiting = true;
        plx_reserve_get(&ch->parts, &c->part);
        break;
    case PIECE:
        c->step = READ;
        c->waiting = true;
        c->piece.ready = emulation_piece_ready;
        plx_piece_get(ch, &c->piece, (size_t)req->nlb << ch->bdev->block_shift);
        break;
    case READ:
        read_step(req, c);
        break;
    case CHECK:
        check_step(req, c);
        break;
    case WRITE:
        write_step(req, c);
        break;
    case WRITTEN:
        c->at += c->nlb;
        c->step = c->at == req->nlb ? FREE : req->op == PLX_BDEV_COPY ? READ : WRITE;
        break;
    case FREE:
        c->step = UNLOCK;
        plx_iov_mend(&c->tail);
        if (c->piece.mem)
            plx_piece_put(ch, &c->piece);
        if (c->part.first)
            plx_reserve_put(&ch->parts, &c->part);
        break;
    case UNLOCK:
        c->step = END;
        if (c->locked) {
            c->waiting = true;
            plx_range_unlock(req);
        }
        break;
    case END:
        break;
    }
}

/* A loop rather than a recursion: what completes at once only clears `waiting`. */
static void run_emulation(struct plx_bdev_req *req, struct plx_emulation *c)
{
    c->stepping = true;
    while (!c->waiting && c->step != END)
        take_step(req, c);
    c->stepping = false;
    if (c->step != END || c->waiting)
        return;
    req->stage = PLX_STAGE_DRIVER;
    plx_bdev_complete(req, c->status);
}

void plx_emulate_wake(struct plx_bdev_req *req)
{
    struct plx_emulation *c = plx_emulation(req);
    c->waiting = false;
    if (!c->stepping)
        run_emulation(req, c);
}

void plx_emulate_submit(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    struct plx_emulation *e = plx_emulation(req);
    assert(req->done != plx_emulate_part_done);
    if (!req->kept)
        plx_bdev_keep(ch, req);
    req->stage = PLX_STAGE_EMULATED;
    e->step = req->op == PLX_BDEV_COMPARE_AND_WRITE ? LOCK : SUB;
    e->stepping = e->waiting = e->part_busy = e->locked = false;
    e->status = PLX_SC_SUCCESS;
    e->at = 0;
    e->tail.entry = NULL;
    e->piece.mem = NULL;
    e->part = (struct plx_bdev_subs){.ready = part_ready, .n = 1};
    run_emulation(req, e);
}

void plx_emulate_abort(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    struct plx_emulation *e = plx_emulation(req);
    /* Steps check req->aborted, which is set; what is waited for is hurried up. */
    if (e->part_busy)
        plx_bdev_abort(ch, &e->part.first->req);
    else if ((e->locked && e->step == SUB && plx_range_lock_cancel(req)) ||
             (!e->part.first && plx_reserve_cancel(&ch->parts, &e->part)) ||
             (e->step == READ && plx_piece_cancel(ch, &e->piece)))
        plx_emulate_wake(req);
}

const char *plx_emulate_waits(const struct plx_bdev_req *req, const struct plx_bdev_req **part)
{
    const struct plx_emulation *e = (const struct plx_emulation *)(const void *)req->context;
    *part = e->part_busy ? &e->part.first->req : NULL;
    if (e->locked && e->step == SUB)
        return "waiting for its turn to compare and write in";
    if (e->step == END)
        return "ending a compare and write in";
    if (!e->part.first)
        return "waiting for a sub-request of";
    return "waiting for memory in";
}
