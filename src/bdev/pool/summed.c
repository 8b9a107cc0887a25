/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A volume of a pool with checksums as a disk. Each unit that is read is read as a whole, and is what the CRC in its
 * entry says, or is not handed out. Data and CRC cannot change at once where they are: so whatever is written gets new
 * units, a part of one together with the rest of what was there.
 *
 * All data passes through memory of our own, as the caller's may change while it is on its way: a guest's does, and
 * what it made of it later would have another CRC. A request is done piece by piece, one after the other.
 *
 * Where the disk below has several copies, a unit that is not what was written is read from each of them, and the one
 * that is right is written again. Nobody else can be given that place meanwhile, as the request is counted.
 */
#include "disk.h"

#include "base/crc32c.h"
#include "base/iov.h"
#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    UNITS_AT_ONCE = 31,   /* of a piece: with their CRCs behind them they are 32, which is what buffers come in */
    STEPS_AT_ONCE = 32,   /* nodes that are unmapped before others have their turn */
    PLACES_MAX = 1 << 10, /* that are damaged, of a pool: those are remembered, and told once */
};

enum summed_stage {
    SUMMED_NEXT,   /* what comes next is looked for */
    SUMMED_MEMORY, /* there is none for it yet */
    SUMMED_OLD,    /* the unit of which a part is written is to be read */
    SUMMED_NEW,    /* what is to be written is to be put into memory, and written */
    SUMMED_READS,
    SUMMED_READS_OLD,
    SUMMED_READS_COPY, /* of one unit of them */
    SUMMED_MENDS,      /* with which it is written again */
    SUMMED_WRITES,
    SUMMED_ENTER, /* what was written is to be entered */
    SUMMED_FLUSH,
};

/* In the context of a request. */
struct summed_req {
    struct plx_bdev_subs subs; /* one */
    struct pool_wait wait;
    union {
        struct plx_piece piece;
        struct plx_timer full; /* how long it waits for space; `full` below */
    } memory;
    struct pool_busy busy;
    struct pool_limbo limbo; /* n is 0: it has no new units */
    _Atomic uint32_t *counted;
    uint64_t from;            /* the first unit that is read; */
    struct pool_outer *outer; /* or the disk outside that is read in place of it, which has no CRCs */
    uint32_t pos;             /* blocks that are done */
    uint32_t units;
    plx_le32 one; /* the CRC, if it is one unit */
    uint16_t status;
    uint8_t stage;
    uint8_t read_stage; /* which it was when it was seen that */
    uint8_t bad, copy;  /* this unit of those is not right, and is read from here */
    bool waits : 1, can_stop : 1, going : 1;
    bool has_memory : 1, full : 1, late : 1;
    bool active : 1; /* the disk has the sub-request */
};
PLX_BDEV_FITS(struct summed_req);

static struct summed_req *summed_req_of(struct plx_bdev_req *req)
{
    return (struct summed_req *)(void *)req->context;
}

static struct pool_disk *summed_disk(const struct summed_req *r)
{
    return (struct pool_disk *)plx_bdev_req_of((struct summed_req *)(uintptr_t)r)->ch->bdev;
}

static struct disk_channel *summed_channel(struct summed_req *r)
{
    return (struct disk_channel *)(void *)plx_bdev_req_of(r)->ch->driver;
}

static void summed_go(struct summed_req *r);

/* ---- pieces ---- */

/* The CRCs of the units in memory. */
static plx_le32 *summed_crcs(struct summed_req *r)
{
    return r->units == 1
               ? &r->one
               : (plx_le32 *)((uint8_t *)r->memory.piece.mem + ((size_t)r->units << summed_disk(r)->pool->unit_shift));
}

/* Where the request is: the unit, the block in it, and blocks up to the end of the request or of that unit. */
struct place {
    uint64_t at;
    uint32_t into, n;
};

static struct place summed_place(struct summed_req *r)
{
    const struct plx_bdev_req *req = plx_bdev_req_of(r);
    const unsigned shift = summed_disk(r)->shift;
    const uint64_t lba = req->lba + r->pos;
    const uint32_t into = (uint32_t)(lba & ((1U << shift) - 1));
    return (struct place){lba >> shift, into, (uint32_t)plx_min_u64(req->nlb - r->pos, (1U << shift) - into)};
}

static bool is_zeroing(const struct plx_bdev_req *req)
{
    return req->op == PLX_BDEV_WRITE_ZEROES || req->op == PLX_BDEV_UNMAP;
}

/* Blocks of the request that a piece of so many units from where it is has. */
static uint32_t piece_blocks(struct summed_req *r, uint32_t units)
{
    const struct place at = summed_place(r);
    return (uint32_t)plx_min_u64(plx_bdev_req_of(r)->nlb - r->pos,
                                 ((uint64_t)units << summed_disk(r)->shift) - at.into);
}

static void memory_put(struct summed_req *r)
{
    if (r->has_memory)
        plx_piece_put(plx_bdev_req_of(r)->ch, &r->memory.piece);
    memset(&r->memory, 0, sizeof r->memory);
    r->has_memory = false;
}

/* ---- damage ---- */

/* @return whether it is a place that has not been told of. Under the lock */
static bool place_is_new(struct plx_pool *p, uint64_t unit)
{
    uint64_t *places = p->damaged;
    if (!places)
        places = p->damaged = calloc(PLACES_MAX, sizeof *places);
    if (!places || p->n_damaged >= PLACES_MAX / 2)
        return false;
    uint64_t i = unit * UINT64_C(0x9e3779b97f4a7c15) >> 54;
    while (places[i % PLACES_MAX] && places[i % PLACES_MAX] != unit)
        i++;
    if (places[i % PLACES_MAX])
        return false;
    places[i % PLACES_MAX] = unit;
    p->n_damaged++;
    return true;
}

enum damage {
    DAMAGE_LEFT,
    DAMAGE_AVOIDED, /* another copy was right, */
    DAMAGE_MENDED,  /* and is everywhere now */
};

static void tell_damage(struct summed_req *r, enum damage damage)
{
    static const char *const words[] = {
        [DAMAGE_LEFT] = "is damaged: it is not what was written there",
        [DAMAGE_AVOIDED] = "is damaged in one copy, and was read from another",
        [DAMAGE_MENDED] = "was damaged in one copy, and was mended from another",
    };
    const struct pool_disk *d = summed_disk(r);
    const uint64_t unit = r->from + r->bad, block = (summed_place(r).at + r->bad) << d->shift;
    struct plx_pool *p = d->pool;
    char name[POOL_NAME];
    pool_lock(p);
    p->damages++;
    p->mended += damage == DAMAGE_MENDED;
    const bool tell = place_is_new(p, unit), last = tell && p->n_damaged == PLACES_MAX / 2;
    memcpy(name, d->v->name, sizeof name);
    pool_unlock(p);
    if (tell)
        PLX_LOG(damage == DAMAGE_LEFT ? PLX_LOG_ERROR : PLX_LOG_WARN,
                "pool %s: volume %s: block %llu %s (unit %llu of %s)", pool_shown(p), name, (unsigned long long)block,
                words[damage], (unsigned long long)unit, plx_bdev_info(p->disk)->name);
    if (last)
        plx_error("pool %s: so much is damaged that further places are counted, but not told", pool_shown(p));
}

static uint8_t *summed_unit(struct summed_req *r, uint32_t i)
{
    return (uint8_t *)r->memory.piece.mem + ((size_t)i << summed_disk(r)->pool->unit_shift);
}

/* Whether what was read of a unit is what was written. */
static bool summed_ok(struct summed_req *r, uint32_t i)
{
    return plx_crc32c(summed_unit(r, i), (size_t)1 << summed_disk(r)->pool->unit_shift) == plx_get32(summed_crcs(r)[i]);
}

/* ---- the disk below ---- */

static void summed_sub_done(struct plx_bdev_req *sub);

/* Under the lock, with what is to be read or written known; then without. */
static void summed_count(struct summed_req *r)
{
    struct disk_channel *c = summed_channel(r);
    r->counted = c->c.present;
    atomic_fetch_add_explicit(r->counted, 1, memory_order_relaxed);
}

/* n units, from a number in memory on. */
static void summed_begin_at(struct summed_req *r, enum plx_bdev_op op, uint64_t unit, uint32_t i, uint32_t n,
                            enum summed_stage stage)
{
    const struct pool_disk *d = summed_disk(r);
    struct plx_bdev_sub *sub = r->subs.first;
    r->stage = (uint8_t)stage;
    r->active = true;
    sub->req.done = summed_sub_done;
    sub->req.op = (uint8_t)op;
    sub->req.flags = stage == SUMMED_READS_COPY ? PLX_BDEV_ONE_COPY : 0;
    sub->req.copy = r->copy;
    sub->req.lba = unit << d->shift;
    sub->req.nlb = n << d->shift;
    sub->iov[0] = (struct iovec){summed_unit(r, i), (size_t)n << d->pool->unit_shift};
    sub->req.iov = sub->iov;
    sub->req.iovcnt = 1;
    plx_bdev_submit(summed_channel(r)->disk, &sub->req);
}

static void summed_begin(struct summed_req *r, enum plx_bdev_op op, uint64_t unit, enum summed_stage stage)
{
    summed_begin_at(r, op, unit, 0, r->units, stage);
}

/* The same units of a disk outside, as those of the volume from `at` on: what is beyond its end is zeroes. */
static void summed_outer_begin(struct summed_req *r, uint64_t at, enum summed_stage stage)
{
    const struct pool_disk *d = summed_disk(r);
    const struct plx_pool *p = d->pool;
    const unsigned shift = pool_outer_shift(p, r->outer);
    struct plx_bdev_sub *sub = r->subs.first;
    struct plx_bdev_channel *ch = pool_outer_channel(plx_bdev_req_of(r)->ch, r->outer);
    const uint64_t first = at << d->shift, end = pool_outer_blocks(p, r->outer), most = (uint64_t)r->units << d->shift;
    const uint64_t blocks = first < end ? plx_min_u64(most, end - first) : 0;
    uint8_t *mem = r->memory.piece.mem;
    r->stage = (uint8_t)stage;
    r->active = true;
    memset(mem + (blocks << p->block_shift), 0, (most - blocks) << p->block_shift);
    sub->req.done = summed_sub_done;
    sub->req.op = PLX_BDEV_READ;
    sub->req.flags = 0;
    sub->req.lba = first << shift;
    sub->req.nlb = (uint32_t)(blocks << shift);
    sub->iov[0] = (struct iovec){mem, blocks << p->block_shift};
    sub->req.iov = sub->iov;
    sub->req.iovcnt = 1;
    if (ch && blocks) {
        plx_bdev_submit(ch, &sub->req);
        return;
    }
    sub->req.status = ch ? 0 : PLX_SC_INTERNAL_ERROR; /* there it has become smaller meanwhile */
    summed_sub_done(&sub->req);
}

/* ---- reading ---- */

/* How many of n units, which are nowhere, are as the first one is: zeroes, or what r->outer has. Under the lock. */
static uint64_t nowhere_row(struct summed_req *r, const struct pool_entry *e, uint64_t at, uint64_t n)
{
    const struct pool_disk *d = summed_disk(r);
    const bool outer = d->outer && d->v->flags & POOL_OUTER, through = pool_disk_through(d, e, at);
    uint64_t same = 1;
    while (same < n && !(e && e[same].where.raw) && !(outer && e && pool_entry_zeroes(&e[same]) == through))
        same++;
    if (!through || !pool_outer_left(d, d->outer, at))
        return same;
    const uint64_t end = ((pool_outer_blocks(d->pool, d->outer) - 1) >> d->shift) + 1;
    r->outer = d->outer;
    return plx_min_u64(same, end - at);
}

/*
 * The next units, and their CRCs, which hold for those units whatever becomes of the volume meanwhile. Under the lock.
 * @return 0, POOL_AGAIN, -errno; *unit is 0 when there is nothing, or what r->outer has
 */
static int read_find(struct summed_req *r, struct pool_try *t, uint64_t *unit)
{
    struct pool_disk *d = summed_disk(r);
    const struct plx_pool *p = d->pool;
    const struct place at = summed_place(r);
    const uint64_t span = (((uint64_t)at.into + plx_bdev_req_of(r)->nlb - r->pos - 1) >> d->shift) + 1;
    struct pool_node *leaf;
    int ret = pool_tree_find(d->pool, t, &d->v->tree, at.at, 1, &leaf);
    if (ret)
        return ret;
    const uint32_t slot = pool_slot(p, at.at, 0);
    const struct pool_entry *e = leaf ? &pool_entries(leaf)[slot] : NULL;
    const uint64_t most = plx_min_u64(span, (UINT64_C(1) << p->fan_shift) - slot);
    *unit = e ? pool_entry_unit(e) : 0;
    r->outer = NULL;
    uint64_t n = *unit ? 1 : nowhere_row(r, e, at.at, most);
    if (!*unit && !r->outer) {
        r->units = (uint32_t)n;
        return 0;
    }
    if (!r->has_memory) {
        r->units = (uint32_t)plx_min_u64(span, UNITS_AT_ONCE);
        return 0;
    }
    const uint64_t room = plx_max_u64(r->memory.piece.size >> p->unit_shift, 2) - 1;
    if (r->outer) {
        r->units = (uint32_t)plx_min_u64(n, room);
        return 0;
    }
    while (n < plx_min_u64(most, room) && pool_entry_unit(&e[n]) == *unit + n)
        n++;
    r->units = (uint32_t)n;
    for (uint64_t i = 0; i < n; i++)
        summed_crcs(r)[i] = e[i].crc;
    return 0;
}

static void summed_wants_memory(struct summed_req *r);

static void summed_fail(struct summed_req *r, int ret)
{
    r->status =
        ret == -ENOSPC ? PLX_SC_CAPACITY_EXCEEDED : plx_bdev_status(ret, plx_bdev_req_of(r)->op != PLX_BDEV_READ);
}

static void read_next(struct summed_req *r)
{
    const struct plx_bdev_req *req = plx_bdev_req_of(r);
    struct plx_pool *p = summed_disk(r)->pool;
    struct pool_try t = {.ch = summed_channel(r)->disk, .wait = &r->wait};
    uint64_t unit = 0;
    pool_lock(p);
    int ret = read_find(r, &t, &unit);
    if (!ret && (unit || r->outer) && r->has_memory)
        summed_count(r);
    r->waits = ret == POOL_AGAIN;
    r->can_stop = false;
    pool_try_end(p, &t);
    if (r->waits)
        return;
    if (ret) {
        summed_fail(r, ret);
    } else if (!unit && !r->outer) {
        const uint32_t n = piece_blocks(r, r->units);
        struct plx_iov_at at = {req->iov, 0};
        plx_iov_skip(&at, (size_t)r->pos << p->block_shift);
        plx_iov_zero(&at, (size_t)n << p->block_shift);
        r->pos += n;
    } else if (!r->has_memory) {
        summed_wants_memory(r);
    } else if (r->outer) {
        summed_outer_begin(r, summed_place(r).at, SUMMED_READS);
    } else {
        r->from = unit;
        summed_begin(r, PLX_BDEV_READ, unit, SUMMED_READS);
    }
}

static void read_over(struct summed_req *r)
{
    const struct plx_bdev_req *req = plx_bdev_req_of(r);
    const struct plx_pool *p = summed_disk(r)->pool;
    const uint32_t n = piece_blocks(r, r->units);
    struct plx_iov_at at = {req->iov, 0};
    r->stage = SUMMED_NEXT;
    if (r->status)
        return;
    plx_iov_skip(&at, (size_t)r->pos << p->block_shift);
    plx_iov_scatter(&at, (uint8_t *)r->memory.piece.mem + ((size_t)summed_place(r).into << p->block_shift),
                    (size_t)n << p->block_shift);
    r->pos += n;
}

/* ---- writing ---- */

/*
 * Places for what overwrites the volume's own are given back by the next checkpoint: so when there is no more room, a
 * quarter of what is kept for nodes is there for them.
 */
static int overwrite_ready(struct plx_pool *p, struct pool_try *t, uint64_t *n)
{
    const uint64_t left = pool_space_free_units(p), kept = p->spare - p->spare / 4;
    if (pool_space_room(p) >= *n)
        return pool_space_ready(p, t, 1, true);
    if (left <= kept) {
        if (!p->freed.n && !p->freeing.n)
            return -ENOSPC;
        pool_checkpoint_want(p);
        t->kick = true;
        pool_wait_in(&p->space_waits, t->wait);
        return POOL_AGAIN;
    }
    *n = plx_min_u64(*n, left - kept);
    return pool_space_ready(p, t, 1, false);
}

enum owner { OWNER_NONE, OWNER_SELF, OWNER_OTHER };

static enum owner owner_of(const struct pool_disk *d, const struct pool_entry *e, uint64_t at)
{
    if (!e || !e->where.raw)
        return OWNER_NONE;
    return pool_tree_owns(&d->v->tree, e, at + 1) ? OWNER_SELF : OWNER_OTHER;
}

/*
 * Takes places for the next units, which nobody else writes to from now on. Under the lock. @return 0, POOL_AGAIN,
 * -errno
 */
static int write_find(struct summed_req *r, struct pool_try *t)
{
    struct pool_disk *d = summed_disk(r);
    struct plx_pool *p = d->pool;
    const struct plx_bdev_req *req = plx_bdev_req_of(r);
    const struct place at = summed_place(r);
    const uint32_t slot = pool_slot(p, at.at, 0);
    const bool part = at.into || at.n < 1U << d->shift;
    struct pool_node *leaf;
    int ret = pool_tree_find(p, t, &d->v->tree, at.at, 1, &leaf);
    if (ret)
        return ret;
    const struct pool_entry *e = leaf ? &pool_entries(leaf)[slot] : NULL;
    const enum owner owner = owner_of(d, e, at.at);
    uint64_t n = 1;
    r->units = 1;
    if (is_zeroing(req) && owner == OWNER_NONE && !pool_disk_through(d, e, at.at))
        return 0;
    const uint64_t whole = part ? 1 : (req->nlb - r->pos) >> d->shift;
    const uint64_t most = plx_min_u64(plx_min_u64(whole, UNITS_AT_ONCE), (UINT64_C(1) << p->fan_shift) - slot);
    while (n < most && owner_of(d, e ? e + n : NULL, at.at + n) == owner)
        n++;
    if (pool_volume_is_busy(p, d->v, at.at, n)) {
        pool_wait_in(&p->busy_waits, &r->wait);
        return POOL_AGAIN;
    }
    const bool kept = owner == OWNER_NONE && d->v->flags & POOL_THICK;
    ret = p->broken ? -EIO : owner == OWNER_SELF ? overwrite_ready(p, t, &n) : pool_space_ready(p, t, 1, !kept);
    if (ret)
        return ret;
    if (!kept && owner != OWNER_SELF)
        n = plx_min_u64(n, pool_space_room(p));
    r->busy.at = at.at;
    r->busy.n = (uint32_t)pool_space_take(p, POOL_FOR_DATA, n, &r->limbo.unit);
    r->limbo.n = r->units = r->busy.n;
    plx_list_add_tail(pool_busy_list(p, d->v, at.at), &r->busy.link);
    plx_list_add_tail(&p->limbo, &r->limbo.link);
    return 0;
}

static void full_end(struct summed_req *r)
{
    if (!r->full)
        return;
    plx_timer_cancel(r->wait.reactor, &r->memory.full);
    memset(&r->memory, 0, sizeof r->memory);
    r->full = false;
}

static void full_too_long(struct plx_timer *timer)
{
    struct summed_req *r = plx_container_of(timer, struct summed_req, memory.full);
    struct plx_pool *p = summed_disk(r)->pool;
    pool_lock(p);
    r->late = true;
    if (!plx_list_empty(&r->wait.link)) { /* else it is on its way */
        plx_list_del(&r->wait.link);
        pool_wake_one(&r->wait, 0);
    }
    pool_unlock(p);
}

/* Waits for space to become free. Under the lock. @return POOL_AGAIN, or -ENOSPC when it has waited enough */
static int summed_full(struct summed_req *r)
{
    struct plx_pool *p = summed_disk(r)->pool;
    if (r->late || !p->full_wait_ns)
        return -ENOSPC;
    if (!r->full) {
        r->full = true;
        r->memory.full = (struct plx_timer){.fn = full_too_long};
        plx_timer_set(r->wait.reactor, &r->memory.full, p->full_wait_ns);
    }
    pool_wait_in(&p->space_waits, &r->wait);
    return POOL_AGAIN;
}

static void write_next(struct summed_req *r)
{
    const struct plx_bdev_req *req = plx_bdev_req_of(r);
    struct pool_disk *d = summed_disk(r);
    struct plx_pool *p = d->pool;
    struct pool_try t = {.ch = summed_channel(r)->disk, .wait = &r->wait};
    const struct place at = summed_place(r);
    uint64_t whole = is_zeroing(req) && !at.into ? (req->nlb - r->pos) >> d->shift : 0;
    int ret;
    pool_lock(p);
    if (whole) {
        whole = plx_min_u64(whole, (UINT64_C(1) << p->fan_shift) - pool_slot(p, at.at, 0));
        ret = pool_volume_is_busy(p, d->v, at.at, whole) ? POOL_AGAIN : 0;
        if (ret)
            pool_wait_in(&p->busy_waits, &r->wait);
        else
            ret = pool_volume_unmap(p, &t, d->v, at.at, &whole, true);
    } else {
        ret = write_find(r, &t);
    }
    if (ret == -ENOSPC)
        ret = summed_full(r);
    r->waits = ret == POOL_AGAIN;
    r->can_stop = r->waits && !t.load;
    pool_try_end(p, &t);
    if (r->waits)
        return;
    full_end(r);
    if (ret)
        summed_fail(r, ret);
    else if (whole)
        r->pos += (uint32_t)(whole << d->shift);
    else if (r->limbo.n)
        summed_wants_memory(r);
    else
        r->pos += at.n; /* there was nothing, and is to be nothing */
}

/* What the caller has is in memory, and so is the rest. */
static void write_begin(struct summed_req *r)
{
    const struct plx_bdev_req *req = plx_bdev_req_of(r);
    struct plx_pool *p = summed_disk(r)->pool;
    const size_t unit = (size_t)1 << p->unit_shift;
    const struct place place = summed_place(r);
    uint8_t *mem = r->memory.piece.mem, *to = mem + ((size_t)place.into << p->block_shift);
    const size_t bytes = (size_t)piece_blocks(r, r->units) << p->block_shift;
    struct plx_iov_at at = {req->iov, 0};
    if (is_zeroing(req)) {
        memset(to, 0, bytes);
    } else {
        plx_iov_skip(&at, (size_t)r->pos << p->block_shift);
        plx_iov_gather(&at, to, bytes);
    }
    for (uint32_t i = 0; i < r->units; i++)
        summed_crcs(r)[i] = plx_put32(plx_crc32c(mem + i * unit, unit));
    pool_lock(p);
    summed_count(r);
    pool_unlock(p);
    summed_begin(r, PLX_BDEV_WRITE, r->limbo.unit, SUMMED_WRITES);
}

/* The unit that is there, of which a part is overwritten: nobody changes it now. */
static void write_old(struct summed_req *r)
{
    struct pool_disk *d = summed_disk(r);
    struct plx_pool *p = d->pool;
    struct pool_try t = {.ch = summed_channel(r)->disk, .wait = &r->wait};
    struct pool_node *leaf;
    uint64_t unit = 0;
    pool_lock(p);
    int ret = pool_tree_find(p, &t, &d->v->tree, r->busy.at, 1, &leaf);
    const struct pool_entry *e = !ret && leaf ? &pool_entries(leaf)[pool_slot(p, r->busy.at, 0)] : NULL;
    r->outer = NULL;
    if (e) {
        unit = pool_entry_unit(e);
        r->one = e->crc;
    }
    if (!ret && !unit && pool_disk_through(d, e, r->busy.at))
        r->outer = d->outer;
    if (unit || r->outer)
        summed_count(r);
    r->waits = ret == POOL_AGAIN;
    pool_try_end(p, &t);
    if (r->waits)
        return;
    if (ret) {
        summed_fail(r, ret);
        r->stage = SUMMED_ENTER;
    } else if (unit) {
        r->from = unit;
        summed_begin(r, PLX_BDEV_READ, unit, SUMMED_READS_OLD);
    } else if (r->outer) {
        summed_outer_begin(r, r->busy.at, SUMMED_READS_OLD);
    } else {
        memset(r->memory.piece.mem, 0, (size_t)1 << p->unit_shift);
        r->stage = SUMMED_NEW;
    }
}

/* How it ended, there is nobody who waits for it any more. */
static void write_enter(struct summed_req *r)
{
    struct pool_disk *d = summed_disk(r);
    struct plx_pool *p = d->pool;
    struct pool_try t = {.ch = summed_channel(r)->disk, .wait = &r->wait};
    int ret = 0;
    pool_lock(p);
    if (!r->status)
        ret = pool_volume_map(p, &t, d->v, r->busy.at, r->busy.n, r->limbo.unit, summed_crcs(r), true);
    r->waits = ret == POOL_AGAIN;
    r->can_stop = false;
    if (!r->waits) {
        plx_list_del(&r->busy.link);
        plx_list_del(&r->limbo.link);
        if (r->status || ret)
            pool_space_return(p, r->limbo.unit, r->limbo.n);
        pool_wake(&p->busy_waits, 0);
    }
    pool_try_end(p, &t);
    if (r->waits)
        return;
    r->limbo.n = 0;
    if (ret)
        summed_fail(r, ret);
    if (!r->status)
        r->pos += piece_blocks(r, r->units);
    memory_put(r);
    r->stage = SUMMED_NEXT;
}

/* ---- memory ---- */

/* There is less than was asked for when there is little: then fewer units are written at once. */
static void write_fewer(struct summed_req *r)
{
    struct plx_pool *p = summed_disk(r)->pool;
    const uint64_t room = plx_max_u64(r->memory.piece.size >> p->unit_shift, 2) - 1, n = r->limbo.n;
    if (n <= room)
        return;
    pool_lock(p);
    pool_space_return(p, r->limbo.unit + room, n - room);
    r->limbo.n = r->busy.n = r->units = (uint32_t)room;
    pool_wake(&p->busy_waits, 0);
    pool_unlock(p);
}

static void summed_memory(struct plx_piece *piece)
{
    struct summed_req *r = plx_container_of(piece, struct summed_req, memory.piece);
    const struct place at = summed_place(r);
    r->has_memory = true;
    if (plx_bdev_req_of(r)->op == PLX_BDEV_READ) {
        r->stage = SUMMED_NEXT;
    } else if (at.into || at.n < 1U << summed_disk(r)->shift) {
        r->stage = SUMMED_OLD;
    } else {
        write_fewer(r);
        r->stage = SUMMED_NEW;
    }
    summed_go(r);
}

static void summed_wants_memory(struct summed_req *r)
{
    const size_t bytes = ((size_t)r->units + (r->units > 1)) << summed_disk(r)->pool->unit_shift;
    r->stage = SUMMED_MEMORY;
    r->memory.piece = (struct plx_piece){.ready = summed_memory};
    plx_piece_get(plx_bdev_req_of(r)->ch, &r->memory.piece, bytes);
}

/* ---- how it goes ---- */

static void summed_end(struct summed_req *r)
{
    struct plx_bdev_req *req = plx_bdev_req_of(r);
    const uint16_t status = r->status;
    plx_bdev_subs_put(req->ch, &r->subs);
    plx_bdev_complete(req, status);
}

static void summed_flush(struct summed_req *r)
{
    r->stage = SUMMED_FLUSH;
    r->waits = true;
    pool_commit(summed_disk(r)->pool, summed_channel(r)->disk, &r->wait);
}

/* One step. @return whether another can follow */
static bool summed_step(struct summed_req *r)
{
    const struct plx_bdev_req *req = plx_bdev_req_of(r);
    switch ((enum summed_stage)r->stage) {
    case SUMMED_NEXT:
        if (r->status || r->pos == req->nlb)
            return false;
        if (req->op == PLX_BDEV_READ)
            read_next(r);
        else
            write_next(r);
        return true;
    case SUMMED_OLD:
        write_old(r);
        return true;
    case SUMMED_NEW:
        write_begin(r);
        return true;
    case SUMMED_ENTER:
        write_enter(r);
        return true;
    case SUMMED_MEMORY:
    case SUMMED_READS:
    case SUMMED_READS_OLD:
    case SUMMED_READS_COPY:
    case SUMMED_MENDS:
    case SUMMED_WRITES:
    case SUMMED_FLUSH:
        break;
    }
    return false;
}

static void summed_go(struct summed_req *r)
{
    const struct plx_bdev_req *req = plx_bdev_req_of(r);
    if (r->going)
        return;
    r->going = true;
    for (unsigned steps = 0; !r->waits && !r->active && summed_step(r); steps++)
        if (steps >= STEPS_AT_ONCE && r->stage == SUMMED_NEXT && !r->waits && !r->active) {
            r->waits = true;
            r->can_stop = false;
            pool_wake_one(&r->wait, 0);
        }
    r->going = false;
    if (r->waits || r->active || r->stage != SUMMED_NEXT)
        return;
    memory_put(r);
    if (!r->status && req->flags & PLX_BDEV_FUA && req->op != PLX_BDEV_READ)
        summed_flush(r);
    else
        summed_end(r);
}

/* ---- another copy ---- */

/* Goes on where it is: a unit that is not right is read from each copy. @return whether one is being read */
static bool mend_go(struct summed_req *r)
{
    const uint8_t copies = plx_bdev_info(summed_disk(r)->pool->disk)->copies;
    for (; r->bad < r->units; r->bad++, r->copy = 0) {
        if (!r->copy && summed_ok(r, r->bad))
            continue;
        if (plx_bdev_req_of(r)->aborted) {
            r->status = PLX_SC_ABORTED_BY_REQUEST;
            return false;
        }
        if (copies > 1 && r->copy < copies) {
            summed_begin_at(r, PLX_BDEV_READ, r->from + r->bad, r->bad, 1, SUMMED_READS_COPY);
            return true;
        }
        tell_damage(r, DAMAGE_LEFT);
        r->status = PLX_SC_UNRECOVERED_READ_ERROR;
    }
    return false;
}

static bool mend_over(struct summed_req *r, enum damage damage)
{
    tell_damage(r, damage);
    r->bad++;
    r->copy = 0;
    return mend_go(r);
}

/* What was read, or written, of a copy is over. @return whether it goes on */
static bool mend_done(struct summed_req *r, uint16_t status)
{
    if (r->stage == SUMMED_MENDS) /* where it cannot be written, what was asked for is there all the same */
        return mend_over(r, status ? DAMAGE_AVOIDED : DAMAGE_MENDED);
    if (status || !summed_ok(r, r->bad)) {
        r->copy++;
        return mend_go(r);
    }
    if (plx_bdev_info(summed_disk(r)->pool->disk)->read_only)
        return mend_over(r, DAMAGE_AVOIDED);
    summed_begin_at(r, PLX_BDEV_WRITE, r->from + r->bad, r->bad, 1, SUMMED_MENDS);
    return true;
}

/* Something of the disk below is over. @return whether it was read, and other copies of it are needed */
static bool summed_mend(struct summed_req *r, uint16_t status)
{
    if (r->stage == SUMMED_READS_COPY || r->stage == SUMMED_MENDS) {
        if (mend_done(r, status))
            return true;
        r->stage = r->read_stage;
    } else if (r->stage != SUMMED_WRITES) {
        r->read_stage = r->stage;
        r->bad = r->copy = 0;
        if (!status && !r->outer)
            return mend_go(r);
        r->status = status;
    } else if (status) {
        r->status = status;
    }
    return false;
}

static void summed_sub_done(struct plx_bdev_req *sub)
{
    struct summed_req *r = plx_container_of(((struct plx_bdev_sub *)sub)->whole, struct summed_req, subs);
    struct disk_channel *c = summed_channel(r);
    r->active = false;
    if (summed_mend(r, sub->status))
        return;
    /* Who waits sets `draining` and then looks here; one of the two sees the other. */
    if (atomic_fetch_sub(r->counted, 1) == 1 && plx_unlikely(atomic_load(&c->c.draining)))
        pool_grace_look(summed_disk(r)->pool);
    if (r->stage == SUMMED_READS)
        read_over(r);
    else
        r->stage = r->stage == SUMMED_READS_OLD && !r->status ? SUMMED_NEW : SUMMED_ENTER;
    summed_go(r);
}

static void summed_again(struct pool_wait *w)
{
    struct summed_req *r = plx_container_of(w, struct summed_req, wait);
    r->waits = false;
    if (r->stage == SUMMED_FLUSH) {
        if (w->status == POOL_COMMIT_AGAIN) {
            summed_flush(r);
            return;
        }
        r->status = w->status;
        summed_end(r);
        return;
    }
    if (w->status && !r->status)
        r->status = w->status;
    if (r->status && r->stage == SUMMED_OLD)
        r->stage = SUMMED_ENTER;
    if (r->status)
        full_end(r);
    summed_go(r);
}

static void summed_subs_ready(struct plx_bdev_subs *subs)
{
    summed_go(plx_container_of(subs, struct summed_req, subs));
}

void pool_summed_submit(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    struct summed_req *r = summed_req_of(req);
    if (req->op == PLX_BDEV_FLUSH || req->op == PLX_BDEV_ALLOCATED) {
        pool_disk_submit(ch, req);
        return;
    }
    memset(r, 0, sizeof *r);
    plx_bdev_filter_keep(ch, req);
    r->wait.reactor = ch->reactor;
    r->wait.again = summed_again;
    plx_list_init(&r->wait.link);
    r->subs.ready = summed_subs_ready;
    r->subs.n = 1;
    plx_bdev_subs_get(ch, &r->subs);
}

void pool_summed_abort(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    struct summed_req *r = summed_req_of(req);
    struct plx_pool *p = ((struct pool_disk *)ch->bdev)->pool;
    if (req->op == PLX_BDEV_FLUSH || req->op == PLX_BDEV_ALLOCATED)
        return;
    if (plx_bdev_subs_cancel(ch, &r->subs)) {
        plx_bdev_complete(req, PLX_SC_ABORTED_BY_REQUEST);
        return;
    }
    if (r->waits && r->can_stop && r->stage == SUMMED_NEXT) {
        pool_lock(p);
        const bool stopped = !plx_list_empty(&r->wait.link);
        plx_list_del(&r->wait.link);
        pool_unlock(p);
        if (stopped) {
            full_end(r);
            r->waits = false;
            r->status = PLX_SC_ABORTED_BY_REQUEST;
            summed_go(r);
        }
    } else if (r->active) {
        plx_bdev_abort(r->subs.first->req.ch, &r->subs.first->req);
    }
}
