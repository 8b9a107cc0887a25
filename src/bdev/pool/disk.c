/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A volume as a disk. A request is cut into pieces: data that lies in a row on the disk below, or is nowhere. What is
 * overwritten and the volume's own is written where it is. Other units get new places: they are written there first,
 * and entered when that is done; until then nobody else writes to them.
 */
#include "disk.h"

#include "base/iov.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

enum {
    SUBS_AT_ONCE = 8, /* of a request */
    ZEROES = 65536,
    STEPS_AT_ONCE = 32, /* nodes that are unmapped before others have their turn */
};

/* In the context of a request. */
struct volume_req {
    struct plx_bdev_subs subs;
    struct pool_wait wait;
    union {
        struct plx_piece piece;     /* the unit of a write that covers a part of it */
        struct plx_iov_tail cut[2]; /* of the caller's iovec: where a piece begins and ends */
        struct plx_timer full;      /* how long it waits for space; `full` below */
    } memory;
    struct pool_busy busy;
    struct pool_limbo limbo;
    struct plx_bdev_req *plain; /* the one sub-request of a request that goes the plain way; or NULL */
    _Atomic uint32_t *counted;  /* where it counts as under way */
    struct plx_bdev_req *idle;  /* sub-requests, by their `next` */
    struct plx_bdev_req *mover; /* that of STAGE_MOVE or STAGE_READ */
    uint32_t pos;               /* blocks that have been begun */
    uint16_t status;
    uint8_t stage;  /* enum volume_stage */
    uint8_t active; /* sub-requests that the disk has */
    bool waits : 1, can_stop : 1, going : 1;
    bool part : 1;   /* memory is a piece */
    bool copies : 1; /* of a unit that may become the volume's own meanwhile: it is counted as moving */
    bool full : 1;   /* there is no space, and memory is the timer of that */
    bool late : 1;   /* which is over */
};
PLX_BDEV_FITS(struct volume_req);

/* What a request does beside its pieces: one thing at a time. */
enum volume_stage {
    STAGE_PIECES,
    STAGE_MOVE,  /* units are written to their new place */
    STAGE_READ,  /* the rest of a unit of which a part is written */
    STAGE_ENTER, /* they are to be entered */
    STAGE_FLUSH,
};

static const uint8_t zeroes[ZEROES] __attribute__((aligned(4096)));

static struct pool_disk *volume_disk(const struct plx_bdev_req *req)
{
    return (struct pool_disk *)req->ch->bdev;
}

static struct disk_channel *channel_of(const struct plx_bdev_req *req)
{
    return (struct disk_channel *)(void *)req->ch->driver;
}

static struct volume_req *volume_req_of(struct plx_bdev_req *req)
{
    return (struct volume_req *)(void *)req->context;
}

static void volume_go(struct volume_req *r);

static struct known_leaf *leaf_place(struct pool_disk *d, uint64_t leaf)
{
    return &d->leaves[leaf & d->leaves_mask];
}

/* Whether it is that of a unit. */
static inline bool leaf_is(const struct pool_disk *d, const struct plx_pool *p, const struct known_leaf *k, uint64_t at)
{
    return k->shape == p->shape && k->at == at >> d->fan_shift;
}

/*
 * The entry of a unit, if its node was found lately. That is not marked as used: nodes are forgotten one by
 * one, which is another shape each time, after which what is used is found, and marked, once more.
 */
static struct pool_entry *leaf_known(struct pool_disk *d, uint64_t at)
{
    const struct known_leaf *k = leaf_place(d, at >> d->fan_shift);
    return leaf_is(d, d->pool, k, at) ? &k->entries[at & d->fan_mask] : NULL;
}

/* Of a node that has been found. */
static struct pool_entry *leaf_entry(struct pool_disk *d, uint64_t at, struct pool_node *n)
{
    const uint64_t leaf = at >> d->fan_shift;
    if (!n)
        return NULL;
    *leaf_place(d, leaf) = (struct known_leaf){d->pool->shape, leaf, pool_entries(n)};
    return &pool_entries(n)[at & d->fan_mask];
}

/* pool_tree_find() of it. *out is NULL where nothing is */
static int volume_entry(struct pool_disk *d, struct pool_try *t, uint64_t at, struct pool_entry **out)
{
    struct pool_node *n;
    *out = leaf_known(d, at);
    if (*out)
        return 0;
    int ret = pool_tree_find(d->pool, t, &d->v->tree, at, 1, &n);
    if (!ret)
        *out = leaf_entry(d, at, n);
    return ret;
}

/* ---- units ---- */

/* Whether any of n units, which one node has, is being moved; then the request waits. Under the lock. */
static bool is_busy(struct plx_pool *p, struct pool_volume *v, uint64_t at, uint64_t n, struct volume_req *r)
{
    if (!pool_volume_is_busy(p, v, at, n))
        return false;
    pool_wait_in(&p->busy_waits, &r->wait);
    return true;
}

/* ---- what the disk has ---- */

/* A request counts for one epoch, from its first piece that is under way until none is. Under the lock. */
static inline void disk_count(struct disk_channel *c, struct volume_req *r)
{
    r->counted = pool_begin(&c->c);
}

/* @return whether somebody waits for it who is to look: pool_grace_look() */
static inline bool disk_uncount(struct disk_channel *c, struct volume_req *r)
{
    return plx_unlikely(pool_end(&c->c, r->counted));
}

static void piece_count(struct disk_channel *c, struct volume_req *r)
{
    if (!r->active++)
        disk_count(c, r);
}

static void piece_done(struct plx_bdev_req *sub);

/* Begins a piece of n blocks at block `to` of the disk. Not under the lock. */
static void piece_begin(struct volume_req *r, enum plx_bdev_op op, struct iovec *iov, uint32_t iovcnt, uint64_t to,
                        uint32_t n)
{
    struct plx_bdev_req *req = plx_bdev_req_of(r), *sub = r->idle;
    r->idle = sub->next;
    sub->done = piece_done;
    sub->op = (uint8_t)op;
    sub->flags = 0;
    sub->lba = to;
    sub->nlb = n;
    sub->iov = iov;
    sub->iovcnt = iovcnt;
    plx_bdev_submit(channel_of(req)->disk, sub);
}

/* ---- the disk outside ---- */

uint64_t pool_disk_outer_bytes(const struct plx_bdev *volume)
{
    const struct pool_disk *d = (const struct pool_disk *)volume;
    pool_lock(d->pool);
    const uint64_t blocks = d->outer ? pool_outer_blocks(d->pool, d->outer) : 0;
    pool_unlock(d->pool);
    return blocks << volume->block_shift;
}

/* A piece of n blocks at block `to` of the volume, which is read. Not under the lock. */
static void outer_begin(struct volume_req *r, struct pool_outer *o, struct iovec *iov, uint32_t iovcnt, uint64_t to,
                        uint32_t n)
{
    struct plx_bdev_req *req = plx_bdev_req_of(r), *sub = r->idle;
    const unsigned shift = pool_outer_shift(o->pool, o);
    struct plx_bdev_channel *ch = pool_outer_channel(req->ch, o);
    r->idle = sub->next;
    sub->done = piece_done;
    sub->op = PLX_BDEV_READ;
    sub->flags = 0;
    sub->lba = to << shift;
    sub->nlb = n << shift;
    sub->iov = iov;
    sub->iovcnt = iovcnt;
    if (ch) {
        plx_bdev_submit(ch, sub);
        return;
    }
    sub->status = PLX_SC_INTERNAL_ERROR;
    piece_done(sub);
}

/* ---- data ---- */

/* Whether the pieces of a request are to come one after the other, as each cuts the caller's iovec for itself. */
static bool is_serial(const struct plx_bdev_req *req)
{
    return req->iovcnt > PLX_ARRAY_SIZE(((struct plx_bdev_sub *)NULL)->iov);
}

/* The data of n blocks from `pos` on. */
static struct iovec *data_of(struct volume_req *r, uint32_t n, uint32_t *iovcnt)
{
    const struct plx_bdev_req *req = plx_bdev_req_of(r);
    const unsigned shift = req->ch->bdev->block_shift;
    struct plx_bdev_sub *sub = (struct plx_bdev_sub *)r->idle;
    size_t bytes = (size_t)n << shift;
    struct plx_iov_at at = {req->iov, 0};
    *iovcnt = req->iovcnt;
    if (!r->pos && n == req->nlb)
        return req->iov;
    if (is_serial(req)) {
        struct iovec *first = plx_iov_cut(&r->memory.cut[0], req->iov, iovcnt, (size_t)r->pos << shift), *last = first;
        for (*iovcnt = 1; last->iov_len < bytes; ++*iovcnt)
            bytes -= last++->iov_len;
        r->memory.cut[1] = (struct plx_iov_tail){last, *last};
        last->iov_len = bytes;
        return first;
    }
    plx_iov_skip(&at, (size_t)r->pos << shift);
    for (*iovcnt = 0; bytes; ++*iovcnt) {
        uint8_t *mem;
        size_t len = plx_iov_next(&at, bytes, &mem);
        sub->iov[*iovcnt] = (struct iovec){mem, len};
        bytes -= len;
    }
    return sub->iov;
}

/* The caller's iovec is whole again. */
static void data_mend(struct volume_req *r)
{
    if (!r->memory.cut[0].entry)
        return;
    plx_iov_mend(&r->memory.cut[1]); /* which may be of what the first one was cut to */
    plx_iov_mend(&r->memory.cut[0]);
}

/* ---- the end ---- */

static void volume_end(struct volume_req *r)
{
    struct plx_bdev_req *req = plx_bdev_req_of(r);
    uint16_t status = r->status;
    plx_bdev_subs_put(req->ch, &r->subs);
    plx_bdev_complete(req, status);
}

static void volume_flush(struct volume_req *r)
{
    struct plx_bdev_req *req = plx_bdev_req_of(r);
    r->stage = STAGE_FLUSH;
    r->waits = true;
    pool_commit(volume_disk(req)->pool, channel_of(req)->disk, &r->wait);
}

/* ---- moving units ---- */

static void move_over(struct volume_req *r, bool entered)
{
    struct plx_pool *p = volume_disk(plx_bdev_req_of(r))->pool;
    plx_list_del(&r->busy.link);
    plx_list_del(&r->limbo.link);
    if (!entered)
        pool_space_return(p, r->limbo.unit, r->limbo.n);
    if (r->copies)
        volume_disk(plx_bdev_req_of(r))->v->moving--;
    r->copies = false;
    pool_wake(&p->busy_waits, 0);
    r->stage = STAGE_PIECES;
}

/* Under the lock. */
static int move_enter(struct volume_req *r, struct pool_try *t)
{
    struct pool_disk *d = volume_disk(plx_bdev_req_of(r));
    int ret = 0;
    if (!r->status)
        ret = pool_volume_map(d->pool, t, d->v, r->busy.at, r->busy.n, r->limbo.unit, NULL, true);
    if (ret == POOL_AGAIN)
        return ret;
    if (ret && !r->status)
        r->status = plx_bdev_status(ret, true);
    move_over(r, !r->status);
    return 0;
}

/* Takes places for up to n units from `at` on, of which none is the volume's own yet. Under the lock. */
static int move_begin(struct volume_req *r, struct pool_try *t, uint64_t at, uint64_t n, bool thick)
{
    struct pool_disk *d = volume_disk(plx_bdev_req_of(r));
    struct plx_pool *p = d->pool;
    if (is_busy(p, d->v, at, n, r))
        return POOL_AGAIN;
    int ret = p->broken ? -EIO : pool_space_ready(p, t, 1, !thick);
    if (ret)
        return ret;
    r->busy.at = at;
    if (!thick)
        n = plx_min_u64(n, pool_space_room(p));
    r->busy.n = (uint32_t)pool_space_take(p, POOL_FOR_DATA, n, &r->limbo.unit);
    r->limbo.n = r->busy.n;
    plx_list_add_tail(pool_busy_list(p, d->v, at), &r->busy.link);
    plx_list_add_tail(&p->limbo, &r->limbo.link);
    return 0;
}

/* ---- a part of a unit ---- */

static void part_write(struct volume_req *r)
{
    struct plx_bdev_req *req = plx_bdev_req_of(r);
    struct pool_disk *d = volume_disk(req);
    struct plx_pool *p = d->pool;
    const unsigned shift = pool_unit_blocks_shift(p);
    const uint64_t lba = req->lba + r->pos;
    const uint32_t into = (uint32_t)(lba & ((1U << shift) - 1));
    const uint32_t n = (uint32_t)plx_min_u64(req->nlb - r->pos, (1U << shift) - into);
    uint8_t *to = (uint8_t *)r->memory.piece.mem + ((size_t)into << p->block_shift);
    struct plx_iov_at at = {req->iov, 0};
    if (req->op == PLX_BDEV_WRITE) {
        plx_iov_skip(&at, (size_t)r->pos << p->block_shift);
        plx_iov_gather(&at, to, (size_t)n << p->block_shift);
    } else {
        memset(to, 0, (size_t)n << p->block_shift);
    }
    r->pos += n;
    struct plx_bdev_sub *sub = (struct plx_bdev_sub *)r->idle;
    sub->iov[0] = (struct iovec){r->memory.piece.mem, (size_t)1 << p->unit_shift};
    r->stage = STAGE_MOVE;
    r->mover = r->idle;
    pool_lock(p);
    piece_count(channel_of(req), r);
    pool_unlock(p);
    piece_begin(r, PLX_BDEV_WRITE, sub->iov, 1, r->limbo.unit << shift, 1U << shift);
}

/* The rest of a unit, of which a part is written, as the disk outside has it; what is beyond its end is zeroed. */
static void part_read_outer(struct volume_req *r, struct pool_outer *o, uint32_t blocks)
{
    const struct pool_disk *d = volume_disk(plx_bdev_req_of(r));
    struct plx_bdev_sub *sub = (struct plx_bdev_sub *)r->idle;
    sub->iov[0] = (struct iovec){r->memory.piece.mem, (size_t)blocks << d->bdev.block_shift};
    r->mover = r->idle;
    outer_begin(r, o, sub->iov, 1, r->busy.at << d->shift, blocks);
}

static void volume_part_ready(struct plx_piece *piece)
{
    struct volume_req *r = plx_container_of(piece, struct volume_req, memory.piece);
    struct plx_bdev_req *req = plx_bdev_req_of(r);
    struct pool_disk *d = volume_disk(req);
    struct plx_pool *p = d->pool;
    struct pool_try t = {.ch = channel_of(req)->disk, .wait = &r->wait};
    struct pool_entry *e;
    uint64_t from = 0;
    uint32_t outer = 0; /* blocks that the disk outside has */
    struct pool_outer *o;
    pool_lock(p);
    o = d->outer;
    r->wait.status = 0;
    int ret = volume_entry(d, &t, r->busy.at, &e);
    if (!ret && e)
        from = pool_entry_unit(e);
    if (!ret && !from && pool_disk_through(d, e, r->busy.at))
        outer = pool_outer_left(d, o, r->busy.at);
    if (!ret && (from || outer))
        piece_count(channel_of(req), r);
    r->waits = ret == POOL_AGAIN;
    pool_try_end(p, &t);
    if (r->waits)
        return;
    if (ret) {
        r->status = plx_bdev_status(ret, false);
        r->stage = STAGE_ENTER;
        volume_go(r);
    } else if (from) {
        struct plx_bdev_sub *sub = (struct plx_bdev_sub *)r->idle;
        sub->iov[0] = (struct iovec){piece->mem, (size_t)1 << p->unit_shift};
        r->mover = r->idle;
        piece_begin(r, PLX_BDEV_READ, sub->iov, 1, from << pool_unit_blocks_shift(p), 1U << pool_unit_blocks_shift(p));
    } else {
        memset(piece->mem, 0, (size_t)1 << p->unit_shift);
        if (outer)
            part_read_outer(r, o, outer);
        else
            part_write(r);
    }
}

/* ---- pieces ---- */

struct piece {
    uint64_t to;              /* block of the disk */
    uint32_t n;               /* blocks */
    bool mapped;              /* else there is nothing */
    bool move;                /* units that are to be moved, */
    bool part;                /* one of which only a part is written */
    struct pool_outer *outer; /* the disk outside that it is read from, at block `to` of the volume; or NULL */
};

/* How many of n units, which are nowhere, are as the first one is. */
static uint32_t outer_row(const struct pool_disk *d, const struct pool_entry *e, uint64_t at, uint32_t n,
                          struct piece *out)
{
    uint32_t same = 1;
    const bool through = pool_disk_through(d, e, at);
    while (same < n && (!e || pool_entry_zeroes(&e[same]) != through))
        same++;
    out->outer = through ? d->outer : NULL;
    return same;
}

/* Blocks of the disk outside that a piece is, which ends where that does; beyond its end there are zeroes. */
static void outer_range(const struct pool_disk *d, uint64_t lba, struct piece *out)
{
    const uint64_t blocks = pool_outer_blocks(d->pool, out->outer);
    if (lba < blocks)
        out->n = (uint32_t)plx_min_u64(out->n, blocks - lba);
    else
        out->outer = NULL;
    out->to = lba;
}

/* What the request comes to next. Under the lock. @return 0, POOL_AGAIN, -errno */
static int piece_find(struct volume_req *r, struct pool_try *t, struct piece *out)
{
    struct plx_bdev_req *req = plx_bdev_req_of(r);
    struct pool_disk *d = volume_disk(req);
    struct plx_pool *p = d->pool;
    const unsigned shift = pool_unit_blocks_shift(p);
    const uint64_t lba = req->lba + r->pos, at = lba >> shift;
    const uint32_t into = (uint32_t)(lba & ((1U << shift) - 1)), left = req->nlb - r->pos;
    const uint32_t slot = (uint32_t)at & ((1U << p->fan_shift) - 1);
    const bool write = req->op != PLX_BDEV_READ;
    struct pool_entry *e;
    int ret = volume_entry(d, t, at, &e);
    if (plx_unlikely(ret))
        return ret;
    uint32_t most =
        (uint32_t)plx_min_u64(((uint64_t)into + left + (1U << shift) - 1) >> shift, (1U << p->fan_shift) - slot);
    const uint64_t unit = e ? pool_entry_unit(e) : 0;
    const bool own = unit && (!write || (pool_tree_owns(&d->v->tree, e, at + 1)));
    uint32_t n = 1;
    if (own) {
        while (n < most && pool_entry_unit(&e[n]) == unit + n &&
               (!write || pool_tree_owns(&d->v->tree, &e[n], at + n + 1)))
            n++;
    } else {
        while (n < most &&
               (!e || (write ? !e[n].where.raw || !pool_tree_owns(&d->v->tree, &e[n], at + n + 1) : !e[n].where.raw)))
            n++;
    }
    if (own && write && d->v->moving && is_busy(p, d->v, at, n, r))
        return POOL_AGAIN; /* it became its own while it was copied */
    out->mapped = own;
    out->move = write && !own;
    out->part = false;
    out->to = (unit << shift) + into;
    if (!own && !write && d->outer && d->v->flags & POOL_OUTER)
        n = outer_row(d, e, at, n, out);
    out->n = (uint32_t)plx_min_u64(left, ((uint64_t)n << shift) - into);
    if (out->outer)
        outer_range(d, lba, out);
    if (!out->move)
        return 0;
    if (req->op != PLX_BDEV_WRITE && !unit && !pool_disk_through(d, e, at)) { /* zeroes, where there is nothing */
        out->move = false;
        out->n = (uint32_t)plx_min_u64(left, (1U << shift) - into);
        return 0;
    }
    if (into || left < 1U << shift || req->op != PLX_BDEV_WRITE) {
        if (d->v->settling) { /* what is read might not be what is being written there yet */
            pool_wait_in(&p->busy_waits, &r->wait);
            return POOL_AGAIN;
        }
        out->part = true;
        n = 1;
    } else {
        n = (uint32_t)plx_min_u64(n, left >> shift);
    }
    ret = move_begin(r, t, at, n, d->v->flags & POOL_THICK && !unit);
    if (ret)
        return ret;
    r->copies = out->part && unit;
    if (r->copies)
        d->v->moving++;
    out->to = r->limbo.unit << shift;
    out->n = out->part ? (uint32_t)plx_min_u64(left, (1U << shift) - into) : r->busy.n << shift;
    return 0;
}

static void zero_data(const struct plx_bdev_req *req, uint32_t pos, uint32_t n)
{
    const unsigned shift = req->ch->bdev->block_shift;
    struct plx_iov_at at = {req->iov, 0};
    plx_iov_skip(&at, (size_t)pos << shift);
    for (size_t bytes = (size_t)n << shift; bytes;) {
        uint8_t *p;
        size_t len = plx_iov_next(&at, bytes, &p);
        memset(p, 0, len);
        bytes -= len;
    }
}

/* Whole units that are zeroed are nothing from now on. @return 0, POOL_AGAIN, -errno */
static int units_zero(struct volume_req *r, struct pool_try *t, uint64_t at, uint64_t *n)
{
    struct pool_disk *d = volume_disk(plx_bdev_req_of(r));
    struct plx_pool *p = d->pool;
    *n = plx_min_u64(*n, (UINT64_C(1) << p->fan_shift) - (at & ((UINT64_C(1) << p->fan_shift) - 1)));
    if (is_busy(p, d->v, at, *n, r))
        return POOL_AGAIN;
    return pool_volume_unmap(p, t, d->v, at, n, true);
}

/* The memory of a piece that zeroes a part of a unit. */
static struct iovec *piece_zeroes(struct volume_req *r, struct piece *piece, uint32_t *iovcnt)
{
    const struct plx_bdev_req *req = plx_bdev_req_of(r);
    const struct plx_pool *p = volume_disk(req)->pool;
    struct plx_bdev_sub *sub = (struct plx_bdev_sub *)r->idle;
    const uint64_t unit_left =
        (1U << pool_unit_blocks_shift(p)) - ((req->lba + r->pos) & ((1U << pool_unit_blocks_shift(p)) - 1));
    piece->n = (uint32_t)plx_min_u64(piece->n, unit_left);
    sub->iov[0] = (struct iovec){(void *)(uintptr_t)zeroes, (size_t)piece->n << p->block_shift};
    *iovcnt = 1;
    return sub->iov;
}

/* ---- a pool that is full ---- */

static void full_over(struct volume_req *r)
{
    if (!r->full)
        return;
    plx_timer_cancel(r->wait.reactor, &r->memory.full);
    memset(&r->memory, 0, sizeof r->memory); /* no iovec is cut: see data_mend() */
    r->full = false;
}

static void full_late(struct plx_timer *timer)
{
    struct volume_req *r = plx_container_of(timer, struct volume_req, memory.full);
    struct plx_pool *p = volume_disk(plx_bdev_req_of(r))->pool;
    pool_lock(p);
    r->late = true;
    if (!plx_list_empty(&r->wait.link)) { /* else it is on its way */
        plx_list_del(&r->wait.link);
        pool_wake_one(&r->wait, 0);
    }
    pool_unlock(p);
}

/* Waits for space to become free. Under the lock. @return POOL_AGAIN, or -ENOSPC when it has waited enough */
static int full_wait(struct volume_req *r)
{
    struct plx_pool *p = volume_disk(plx_bdev_req_of(r))->pool;
    if (r->late || !p->full_wait_ns)
        return -ENOSPC;
    if (!r->full) {
        r->full = true;
        r->memory.full = (struct plx_timer){.fn = full_late};
        plx_timer_set(r->wait.reactor, &r->memory.full, p->full_wait_ns);
    }
    pool_wait_in(&p->space_waits, &r->wait);
    return POOL_AGAIN;
}

/* @return whether there is more to be begun at once */
static bool piece_next(struct volume_req *r)
{
    struct plx_bdev_req *req = plx_bdev_req_of(r);
    struct disk_channel *c = channel_of(req);
    struct pool_disk *d = volume_disk(req);
    struct plx_pool *p = d->pool;
    const unsigned shift = pool_unit_blocks_shift(p);
    const uint64_t lba = req->lba + r->pos, at = lba >> shift;
    struct pool_try t = {.ch = c->disk, .wait = &r->wait};
    struct piece piece = {0};
    struct iovec *iov = NULL;
    uint32_t iovcnt = 0;
    const bool zero = req->op == PLX_BDEV_WRITE_ZEROES || req->op == PLX_BDEV_UNMAP;
    uint64_t whole = zero && !(lba & ((1U << shift) - 1)) ? (req->nlb - r->pos) >> shift : 0;
    pool_lock(p);
    int ret = whole ? units_zero(r, &t, at, &whole) : piece_find(r, &t, &piece);
    if (ret == -ENOSPC && !r->active)
        ret = full_wait(r);
    const bool below = !ret && !whole && (piece.mapped || piece.outer || (piece.move && !piece.part));
    if (below)
        piece_count(c, r);
    r->waits = ret == POOL_AGAIN;
    r->can_stop = r->waits && !t.load;
    pool_try_end(p, &t);
    if (r->waits || (ret == -ENOSPC && r->active && !r->late))
        return false; /* tried once more when it has ended */
    full_over(r);
    if (ret) {
        r->status = ret == -ENOSPC ? PLX_SC_CAPACITY_EXCEEDED : plx_bdev_status(ret, req->op != PLX_BDEV_READ);
        return false;
    }
    if (whole) {
        r->pos += (uint32_t)(whole << shift);
        return true;
    }
    if (piece.part) {
        r->stage = STAGE_READ;
        r->part = true;
        r->memory.piece = (struct plx_piece){.ready = volume_part_ready};
        plx_piece_get(req->ch, &r->memory.piece, (size_t)1 << p->unit_shift);
        return false;
    }
    if (!below) {
        if (req->op == PLX_BDEV_READ)
            zero_data(req, r->pos, piece.n);
        r->pos += piece.n;
        return true;
    }
    if (zero)
        iov = piece_zeroes(r, &piece, &iovcnt);
    else
        iov = data_of(r, piece.n, &iovcnt);
    r->stage = piece.move ? STAGE_MOVE : STAGE_PIECES;
    r->mover = piece.move ? r->idle : NULL;
    r->pos += piece.n;
    if (piece.outer)
        outer_begin(r, piece.outer, iov, iovcnt, piece.to, piece.n);
    else
        piece_begin(r, zero ? PLX_BDEV_WRITE : (enum plx_bdev_op)req->op, iov, iovcnt, piece.to, piece.n);
    return !piece.move;
}

/* ---- how it goes ---- */

static void move_go(struct volume_req *r)
{
    struct plx_bdev_req *req = plx_bdev_req_of(r);
    struct plx_pool *p = volume_disk(req)->pool;
    struct pool_try t = {.ch = channel_of(req)->disk, .wait = &r->wait};
    if (r->part) {
        plx_piece_put(req->ch, &r->memory.piece);
        memset(&r->memory, 0, sizeof r->memory);
    }
    r->part = false;
    pool_lock(p);
    r->waits = move_enter(r, &t) == POOL_AGAIN;
    r->can_stop = false;
    pool_try_end(p, &t);
}

static void volume_go(struct volume_req *r)
{
    struct plx_bdev_req *req = plx_bdev_req_of(r);
    if (r->going)
        return;
    r->going = true;
    for (unsigned steps = 0; !r->waits; steps++) {
        if (r->stage == STAGE_ENTER) {
            move_go(r);
            continue;
        }
        if (r->stage != STAGE_PIECES || r->status || r->pos == req->nlb || !r->idle || (r->active && is_serial(req)))
            break;
        const bool more = piece_next(r);
        if (!more && r->active && r->stage == STAGE_PIECES && !r->waits)
            break;
        if (more && steps >= STEPS_AT_ONCE && req->op != PLX_BDEV_READ && !r->active) {
            r->waits = true;
            pool_wake_one(&r->wait, 0);
        }
    }
    r->going = false;
    if (r->active || r->waits || r->stage != STAGE_PIECES)
        return;
    if (!r->status && r->pos < req->nlb)
        return;
    if (!r->status && req->flags & PLX_BDEV_FUA && req->op != PLX_BDEV_READ)
        volume_flush(r);
    else
        volume_end(r);
}

static void piece_done(struct plx_bdev_req *sub)
{
    struct volume_req *r = plx_container_of(((struct plx_bdev_sub *)sub)->whole, struct volume_req, subs);
    struct plx_bdev_req *req = plx_bdev_req_of(r);
    if (sub->status && !r->status)
        r->status = sub->status;
    sub->done = NULL;
    sub->next = r->idle;
    r->idle = sub;
    if (is_serial(req) && r->stage != STAGE_READ && !r->part)
        data_mend(r);
    if (!--r->active && disk_uncount(channel_of(req), r))
        pool_grace_look(volume_disk(req)->pool);
    if (sub == r->mover) {
        r->mover = NULL;
        if (r->stage == STAGE_READ && !r->status) {
            part_write(r);
            return;
        }
        r->stage = STAGE_ENTER;
    }
    volume_go(r);
}

static void volume_again(struct pool_wait *w)
{
    struct volume_req *r = plx_container_of(w, struct volume_req, wait);
    struct plx_bdev_req *req = plx_bdev_req_of(r);
    r->waits = false;
    if (r->stage == STAGE_FLUSH) {
        if (w->status == POOL_COMMIT_AGAIN) {
            volume_flush(r);
            return;
        }
        r->status = w->status;
        if (req->op == PLX_BDEV_FLUSH)
            plx_bdev_complete(req, r->status);
        else
            volume_end(r);
        return;
    }
    if (w->status && !r->status)
        r->status = w->status;
    if (r->stage == STAGE_READ) {
        if (!r->status) {
            volume_part_ready(&r->memory.piece);
            return;
        }
        r->stage = STAGE_ENTER;
    }
    volume_go(r);
}

static void subs_ready(struct plx_bdev_subs *subs)
{
    struct volume_req *r = plx_container_of(subs, struct volume_req, subs);
    r->idle = NULL;
    for (struct plx_bdev_sub *sub = subs->first; sub; sub = sub->next) {
        sub->req.done = NULL;
        sub->req.next = r->idle;
        r->idle = &sub->req;
    }
    volume_go(r);
}

/* ---- the plain way: all of it is in a row on the disk, and may be read or written there ---- */

static __attribute__((noinline)) void plain_over(struct plx_bdev_req *req, uint16_t status)
{
    pool_grace_look(volume_disk(req)->pool);
    plx_bdev_complete(req, status);
}

/* The request that a sub-request of the plain way is for. */
static inline void **plain_whole(struct plx_bdev_sub *sub)
{
    return &sub->iov[0].iov_base;
}

static void plain_done(struct plx_bdev_req *done)
{
    struct plx_bdev_sub *sub = (struct plx_bdev_sub *)done;
    struct plx_bdev_req *req = *plain_whole(sub);
    struct disk_channel *c = channel_of(req);
    sub->next = c->plain;
    c->plain = sub;
    if (plx_unlikely(disk_uncount(c, volume_req_of(req))))
        plain_over(req, done->status);
    else
        plx_bdev_complete(req, done->status);
}

/* Another one, if there are not as many as there should be. */
static struct plx_bdev_sub *plain_sub_new(struct plx_bdev_channel *ch)
{
    struct disk_channel *c = (struct disk_channel *)(void *)ch->driver;
    struct plx_bdev_sub *sub = c->plain_subs < POOL_PLAIN_SUBS ? plx_bdev_sub_take(ch) : NULL;
    if (!sub)
        return NULL;
    c->plain_subs++;
    sub->req.done = plain_done;
    sub->req.flags = 0;
    sub->next = NULL;
    return sub;
}

/* With the first of those that are free. Gives the lock back. */
static inline void plain_begin(struct plx_pool *p, struct disk_channel *c, struct plx_bdev_req *req, uint64_t to)
{
    struct volume_req *r = volume_req_of(req);
    struct plx_bdev_sub *sub = c->plain;
    c->plain = sub->next;
    disk_count(c, r);
    pool_unlock(p);
    r->plain = &sub->req;
    *plain_whole(sub) = req;
    sub->req.op = req->op;
    sub->req.iov = req->iov;
    sub->req.iovcnt = req->iovcnt;
    sub->req.lba = to;
    sub->req.nlb = req->nlb;
    plx_bdev_submit_like(c->disk, &sub->req);
}

static inline bool may_be_plain(const struct plx_bdev_req *req)
{
    return (uint16_t)(req->op | req->flags << 8) <= PLX_BDEV_WRITE; /* of both, in one look */
}

/* Whether the entries of n units, which one node has, are in a row, and the volume's own where that matters. */
static inline bool plain_row(const struct pool_disk *d, const struct pool_entry *e, uint64_t at, uint64_t n, bool write)
{
    if (write && d->v->moving)
        return false;
    const uint64_t unit = pool_entry_unit(e);
    for (uint64_t i = 0; i < n; i++)
        if (!unit || pool_entry_unit(&e[i]) != unit + i || (write && !pool_tree_owns(&d->v->tree, &e[i], at + i + 1)))
            return false;
    return true;
}

static void volume_begin(struct volume_req *r);

/* What is not as plain as that, or where the lock has to be waited for. */
static __attribute__((noinline)) void submit_otherwise(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    struct pool_disk *d = (struct pool_disk *)ch->bdev;
    struct disk_channel *c = (struct disk_channel *)(void *)ch->driver;
    const uint64_t at = req->lba >> d->shift, last = (req->lba + req->nlb - 1) >> d->shift;
    if (may_be_plain(req) && at >> d->fan_shift == last >> d->fan_shift &&
        (c->plain || (c->plain = plain_sub_new(ch)))) {
        pool_lock(d->pool);
        const struct pool_entry *e = leaf_known(d, at);
        if (!e)
            e = leaf_entry(d, at, pool_tree_peek(d->pool, &d->v->tree, at));
        if (e && plain_row(d, e, at, last - at + 1, req->op == PLX_BDEV_WRITE)) {
            plain_begin(d->pool, c, req, ((pool_entry_unit(e) - at) << d->shift) + req->lba);
            return;
        }
        pool_unlock(d->pool);
    }
    volume_begin(volume_req_of(req));
}

/* What most requests are: one unit, whose node was found lately. */
void pool_disk_submit(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    struct pool_disk *d = (struct pool_disk *)ch->bdev;
    struct disk_channel *c = (struct disk_channel *)(void *)ch->driver;
    struct plx_pool *p = d->pool;
    const uint64_t lba = req->lba, at = lba >> d->shift;
    if (plx_likely(may_be_plain(req) && (lba + req->nlb - 1) >> d->shift == at && c->plain) && pool_lock_try(p)) {
        const struct known_leaf *leaf = leaf_place(d, at >> d->fan_shift);
        if (plx_likely(leaf_is(d, p, leaf, at))) {
            const struct pool_entry *e = &leaf->entries[at & d->fan_mask];
            const uint64_t unit = pool_entry_unit(e);
            if (plx_likely(unit && (req->op == PLX_BDEV_READ || pool_volume_surely_owns(d->v, e)))) {
                plain_begin(p, c, req, ((unit - at) << d->shift) + lba);
                return;
            }
        }
        pool_unlock(p);
    }
    submit_otherwise(ch, req);
}

static void volume_begin(struct volume_req *r)
{
    struct plx_bdev_req *req = plx_bdev_req_of(r);
    struct plx_bdev_channel *ch = req->ch;
    struct pool_disk *d = (struct pool_disk *)ch->bdev;
    struct plx_pool *p = d->pool;
    const unsigned shift = pool_unit_blocks_shift(p);
    memset(r, 0, sizeof *r);
    plx_bdev_filter_keep(ch, req);
    r->wait.reactor = ch->reactor;
    r->wait.again = volume_again;
    plx_list_init(&r->wait.link);
    if (req->op == PLX_BDEV_FLUSH) {
        volume_flush(r);
        return;
    }
    if (req->op == PLX_BDEV_ALLOCATED) {
        struct plx_iov_at at = {req->iov, 0};
        uint64_t blocks;
        pool_lock(p);
        blocks = d->v->mapped << shift;
        pool_unlock(p);
        plx_iov_scatter(&at, &blocks, sizeof blocks);
        plx_bdev_complete(req, PLX_SC_SUCCESS);
        return;
    }
    const uint64_t units = ((req->lba + req->nlb - 1) >> shift) - (req->lba >> shift) + 1;
    r->subs.ready = subs_ready;
    r->subs.n = (uint32_t)plx_min_u64(units, SUBS_AT_ONCE);
    plx_bdev_subs_get(ch, &r->subs);
}

void pool_disk_abort(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    struct volume_req *r = volume_req_of(req);
    struct plx_pool *p = ((struct pool_disk *)ch->bdev)->pool;
    if (r->plain) {
        plx_bdev_abort(channel_of(req)->disk, r->plain);
        return;
    }
    if (req->op == PLX_BDEV_FLUSH || req->op == PLX_BDEV_ALLOCATED)
        return;
    if (plx_bdev_subs_cancel(ch, &r->subs)) {
        plx_bdev_complete(req, PLX_SC_ABORTED_BY_REQUEST);
        return;
    }
    if (r->waits && r->can_stop && r->stage == STAGE_PIECES) {
        pool_lock(p);
        bool stopped = !plx_list_empty(&r->wait.link);
        plx_list_del(&r->wait.link);
        pool_unlock(p);
        if (stopped) {
            full_over(r);
            r->waits = false;
            r->status = PLX_SC_ABORTED_BY_REQUEST;
            volume_go(r);
            return;
        }
    }
    for (struct plx_bdev_sub *sub = r->subs.first; sub && r->active; sub = sub->next)
        if (sub->req.done)
            plx_bdev_abort(sub->req.ch, &sub->req);
}
