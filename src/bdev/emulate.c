/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a driver leaves out, done by what it has: compare, compare and write, copy, and write zeroes by means of reads
 * and writes; unmaps that are too long for it by shorter ones.
 *
 * An operation is a sequence of steps, each of which either goes on at once or waits for one thing: the range lock, a
 * piece of memory, or a part of the work, a request to the driver. All its state is in the request's context.
 *
 *   compare            PIECE, then READ, CHECK for each piece; FREE
 *   compare and write  LOCK, as compare, WRITE; FREE, UNLOCK
 *   copy               PIECE, then READ, WRITE, WRITTEN for each piece; FREE
 *   write zeroes       WRITE, WRITTEN for each piece
 *   unmap              the same
 */
#include "bdev/core.h"

#include <assert.h>

enum step { LOCK, PIECE, READ, CHECK, WRITE, WRITTEN, FREE, UNLOCK, END };

/* What zeroes are written from. Never written to, so it takes no memory. */
enum { ZEROES = 1 << 20 };
static uint8_t zeroes[ZEROES] __attribute__((aligned(PLX_BUF_MIN)));

uint32_t plx_emulate_ops(const struct plx_bdev *bdev)
{
    const uint32_t read = 1 << PLX_BDEV_READ, write = 1 << PLX_BDEV_WRITE;
    uint32_t has = bdev->native_ops, ops = 0;
    if (has & read)
        ops |= 1 << PLX_BDEV_COMPARE;
    if (has & write)
        ops |= 1 << PLX_BDEV_WRITE_ZEROES;
    if (has & read && has & write)
        ops |= 1 << PLX_BDEV_COPY;
    /* The range lock waits for requests in flight, which only tracked disks know, and holds in this process alone. */
    if (has & read && has & write && bdev->tracked && !bdev->info.shared)
        ops |= 1 << PLX_BDEV_COMPARE_AND_WRITE;
    return ops & ~has;
}

/* ---- parts: requests to the driver ---- */

void plx_emulate_sub_done(struct plx_bdev_req *sub)
{
    struct plx_bdev_core *c = plx_container_of(sub, struct plx_bdev_core, sub);
    c->sub_busy = false;
    c->status = sub->status;
    plx_emulate_wake(c->req);
}

/* Has the driver read or write; iov is c->iov unless c->sub has another. */
static void part(struct plx_bdev_core *c, enum plx_bdev_op op, uint64_t lba, uint32_t nlb)
{
    struct plx_bdev_channel *ch = c->req->ch;
    c->sub.done = plx_emulate_sub_done;
    c->sub.op = (uint8_t)op;
    c->sub.flags = op == PLX_BDEV_WRITE ? c->req->flags & PLX_BDEV_FUA : 0;
    c->sub.lba = lba;
    c->sub.nlb = nlb;
    c->sub.ch = ch;
    c->sub_busy = true;
    c->waiting = true;
    ch->bdev->ops->submit(ch, &c->sub);
}

static void use_iov(struct plx_bdev_core *c, void *mem)
{
    c->iov.iov_base = mem;
    c->iov.iov_len = (size_t)c->nlb << c->req->ch->bdev->block_shift;
    c->sub.iov = &c->iov;
    c->sub.iovcnt = 1;
}

static void piece_ready(struct plx_piece *p)
{
    plx_emulate_wake(plx_container_of(p, struct plx_bdev_core, piece)->req);
}

/* ---- the steps ---- */

/*
 * Where the piece at hand begins, in blocks from the start: a copy to higher blocks of its own source goes backwards.
 */
static uint32_t offset(const struct plx_bdev_req *req, const struct plx_bdev_core *c)
{
    bool backwards = req->op == PLX_BDEV_COPY && req->lba > req->src_lba && req->lba - req->src_lba < req->nlb;
    return backwards ? req->nlb - c->at - c->nlb : c->at;
}

static void read_step(struct plx_bdev_req *req, struct plx_bdev_core *c)
{
    bool copy = req->op == PLX_BDEV_COPY;
    c->nlb = (uint32_t)plx_min_u64(req->nlb - c->at, c->piece.size >> req->ch->bdev->block_shift);
    c->step = copy ? WRITE : CHECK;
    use_iov(c, c->piece.mem);
    part(c, PLX_BDEV_READ, (copy ? req->src_lba : req->lba) + offset(req, c), c->nlb);
}

static void check_step(struct plx_bdev_req *req, struct plx_bdev_core *c)
{
    struct plx_iov_at at = {req->iov, 0};
    plx_iov_skip(&at, (size_t)c->at << req->ch->bdev->block_shift);
    c->at += c->nlb;
    if (!plx_iov_equals(&at, c->piece.mem, c->iov.iov_len)) {
        c->status = PLX_SC_COMPARE_FAILURE;
        c->step = FREE;
    } else if (c->at < req->nlb) {
        c->step = READ;
    } else {
        c->step = req->op == PLX_BDEV_COMPARE ? FREE : WRITE;
        /* Not kept while writing: the driver may need a piece itself, and nobody has one and waits for another. */
        plx_piece_put(req->ch, &c->piece);
    }
}

static void write_step(struct plx_bdev_req *req, struct plx_bdev_core *c)
{
    unsigned shift = req->ch->bdev->block_shift;
    switch (req->op) {
    case PLX_BDEV_COPY:
        c->step = WRITTEN;
        part(c, PLX_BDEV_WRITE, req->lba + offset(req, c), c->nlb);
        break;
    case PLX_BDEV_WRITE_ZEROES:
        c->step = WRITTEN;
        c->nlb = (uint32_t)plx_min_u64(req->nlb - c->at, ZEROES >> shift);
        use_iov(c, zeroes);
        part(c, PLX_BDEV_WRITE, req->lba + c->at, c->nlb);
        break;
    case PLX_BDEV_UNMAP:
        c->step = WRITTEN;
        c->nlb = (uint32_t)plx_min_u64(req->nlb - c->at, req->ch->bdev->info.max_unmap_blocks);
        part(c, PLX_BDEV_UNMAP, req->lba + c->at, c->nlb);
        break;
    default: /* compare and write: what to write follows what was compared with */
        c->step = FREE;
        c->sub.iovcnt = req->iovcnt;
        c->sub.iov = plx_iov_cut(&c->tail, req->iov, &c->sub.iovcnt, (size_t)req->nlb << shift);
        part(c, PLX_BDEV_WRITE, req->lba, req->nlb);
        break;
    }
}

static void take_step(struct plx_bdev_req *req, struct plx_bdev_core *c)
{
    struct plx_bdev_channel *ch = req->ch;
    if (c->aborted && (c->step == PIECE || c->step == READ || c->step == WRITE))
        c->status = PLX_SC_ABORTED_BY_REQUEST;
    if (c->status && c->step < FREE)
        c->step = FREE;
    switch ((enum step)c->step) {
    case LOCK:
        c->step = PIECE;
        c->waiting = true;
        plx_range_lock(req);
        break;
    case PIECE:
        c->step = READ;
        c->waiting = true;
        c->piece.ready = piece_ready;
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
static void run(struct plx_bdev_req *req, struct plx_bdev_core *c)
{
    c->stepping = true;
    while (!c->waiting && c->step != END)
        take_step(req, c);
    c->stepping = false;
    if (c->step != END || c->waiting)
        return;
    c->emulated = false;
    plx_bdev_complete(req, c->status);
}

void plx_emulate_wake(struct plx_bdev_req *req)
{
    struct plx_bdev_core *c = plx_bdev_req_core(req);
    c->waiting = false;
    if (!c->stepping)
        run(req, c);
}

void plx_emulate_submit(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    static const uint8_t first[PLX_BDEV_OPS] = {
        [PLX_BDEV_COMPARE] = PIECE, [PLX_BDEV_COMPARE_AND_WRITE] = LOCK,
        [PLX_BDEV_COPY] = PIECE,    [PLX_BDEV_WRITE_ZEROES] = WRITE,
        [PLX_BDEV_UNMAP] = WRITE,
    };
    struct plx_bdev_core *c = plx_bdev_core(ch->bdev, req);
    c->req = req;
    c->emulated = true;
    c->step = first[req->op];
    c->stepping = c->waiting = c->sub_busy = c->locked = false;
    c->status = PLX_SC_SUCCESS;
    c->at = 0;
    c->tail.entry = NULL;
    c->piece.mem = NULL;
    if (!ch->bdev->tracked)
        c->aborted = false; /* else set by whoever asked, who may have done so before */
    run(req, c);
}

void plx_emulate_abort(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    struct plx_bdev_core *c = plx_bdev_core(ch->bdev, req);
    /* Steps check c->aborted, which is set; what is waited for is hurried up. */
    if (c->sub_busy) {
        if (ch->bdev->ops->abort)
            ch->bdev->ops->abort(ch, &c->sub);
    } else if ((c->locked && c->step == PIECE && plx_range_lock_cancel(req)) ||
               (c->step == READ && plx_piece_cancel(ch, &c->piece))) {
        plx_emulate_wake(req);
    }
}
