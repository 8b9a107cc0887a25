/* SPDX-License-Identifier: BSD-3-Clause */
/* The core of the block layer: disks and channels come and go, and every request passes the one checked dispatcher. */
#include "bdev/core.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

const struct plx_bdev_driver *const plx_bdev_drivers[] = {&plx_bdev_file, &plx_bdev_ram, &plx_bdev_null,
                                                          &plx_bdev_nvme_tcp, NULL};

enum {
    NO_RANGE = 1 << PLX_BDEV_FLUSH | 1 << PLX_BDEV_RESET,
    SLOW = NO_RANGE | 1 << PLX_BDEV_COPY, /* copy has two ranges */
};

/* ---- disks ---- */

const char *const *plx_bdev_kinds(void)
{
    static const char *kinds[PLX_ARRAY_SIZE(plx_bdev_drivers)];
    /* Several threads may write this at once: always the same values, as single stores. */
    for (size_t i = 0; plx_bdev_drivers[i]; i++)
        __atomic_store_n(&kinds[i], plx_bdev_drivers[i]->help, __ATOMIC_RELAXED);
    return kinds;
}

/* Completes what the driver's open said of the disk. */
static void finish_info(struct plx_bdev *bdev, const char *driver, const char *name)
{
    struct plx_bdev_info *info = &bdev->info;
    info->driver = driver;
    memccpy(info->name, name, 0, sizeof info->name - 1);
    assert(info->block_size >= 512 && info->block_size <= 65536 && !(info->block_size & (info->block_size - 1)));
    assert(info->blocks > 0);
    bdev->block_shift = (unsigned)__builtin_ctz(info->block_size);
    bdev->native_ops = info->ops;
    bdev->tracked = !info->in_place;
    bdev->driver_context = (uint32_t)plx_align_up(info->request_context, 16);

    uint32_t emulated = plx_emulate_ops(bdev);
    bdev->emulates = emulated != 0;
    info->ops |= emulated | 1 << PLX_BDEV_RESET;
    if (info->read_only)
        info->ops &= ~(uint32_t)PLX_BDEV_WRITERS;
    if (!(info->ops & 1 << PLX_BDEV_UNMAP))
        info->unmap_granularity = info->max_unmap_blocks = 0;
    else if (info->max_unmap_blocks < info->blocks)
        bdev->native_ops &= ~(1u << PLX_BDEV_UNMAP); /* the driver does what emulate.c cuts */
    assert(bdev->tracked || !(info->ops & ~bdev->native_ops & 1 << PLX_BDEV_UNMAP));
    bdev->fast_ops = bdev->tracked ? 0 : bdev->native_ops & info->ops & ~(uint32_t)SLOW;
    info->request_context = bdev->driver_context;
    /* An emulated operation hands the driver a request of its own, which brings the driver's context once more. */
    if (bdev->tracked || bdev->emulates)
        info->request_context += (uint32_t)plx_align_up(sizeof(struct plx_bdev_core), 16) + bdev->driver_context;
}

int plx_bdev_register(struct plx_bdev *bdev, const char *driver, const char *name, struct plx_error *err)
{
    (void)err;
    finish_info(bdev, driver, name);
    pthread_mutex_init(&bdev->lock, NULL);
    plx_list_init(&bdev->channels);
    plx_range_lock_init(bdev);
    return 0;
}

int plx_bdev_open(const char *name, struct plx_bdev **out, struct plx_error *err)
{
    struct plx_url *url = malloc(sizeof *url);
    if (!url)
        return plx_fail(err, -ENOMEM, "out of memory");
    const struct plx_bdev_driver *const *driver = plx_bdev_drivers;
    struct plx_bdev *bdev;
    int ret = plx_url_parse(name, url, err);
    if (ret)
        goto free_url;
    while (*driver && strcmp((*driver)->scheme, url->scheme))
        driver++;
    assert(*driver); /* plx_url_parse() knows no other schemes */
    ret = (*driver)->open(url, &bdev, err);
    if (ret)
        goto free_url;
    ret = plx_bdev_register(bdev, (*driver)->scheme, url->text, err);
    *out = bdev;
free_url:
    free(url);
    return ret;
}

void plx_bdev_close(struct plx_bdev *bdev)
{
    assert(plx_list_empty(&bdev->channels));
    assert(!bdev->range_lock.owner);
    pthread_mutex_destroy(&bdev->lock);
    bdev->ops->close(bdev);
}

const struct plx_bdev_info *plx_bdev_info(const struct plx_bdev *bdev)
{
    return &bdev->info;
}

/* ---- channels ---- */

static struct plx_bdev_channel *channel_find(struct plx_bdev *bdev, const struct plx_reactor *r)
{
    struct plx_bdev_channel *found = NULL;
    pthread_mutex_lock(&bdev->lock);
    plx_list_for_each(it, &bdev->channels) {
        struct plx_bdev_channel *ch = plx_list_entry(it, struct plx_bdev_channel, link);
        if (ch->reactor == r)
            found = ch;
    }
    pthread_mutex_unlock(&bdev->lock);
    return found;
}

int plx_bdev_channel_get(struct plx_bdev *bdev, struct plx_reactor *r, struct plx_bdev_channel **out)
{
    struct plx_bdev_channel *ch = channel_find(bdev, r);
    if (ch) {
        ch->refs++;
        *out = ch;
        return 0;
    }
    size_t bytes = plx_align_up(sizeof *ch + bdev->channel_size, PLX_CACHE_ALIGN);
    ch = aligned_alloc(PLX_CACHE_ALIGN, bytes);
    if (!ch)
        return -ENOMEM;
    memset(ch, 0, bytes);
    ch->bdev = bdev;
    ch->reactor = r;
    ch->refs = 1;
    plx_list_init(&ch->requests);
    int ret = plx_pieces_init(ch);
    if (!ret && bdev->ops->channel_open)
        ret = bdev->ops->channel_open(ch);
    if (ret) {
        plx_bdev_channel_free(ch);
        return ret;
    }
    pthread_mutex_lock(&bdev->lock);
    plx_list_add_tail(&bdev->channels, &ch->link);
    plx_gate_init(ch);
    pthread_mutex_unlock(&bdev->lock);
    *out = ch;
    return 0;
}

void plx_bdev_channel_free(struct plx_bdev_channel *ch)
{
    plx_pieces_destroy(ch);
    free(ch);
}

static uint64_t peek(const _Atomic uint64_t *n)
{
    return atomic_load_explicit(n, memory_order_relaxed);
}

static void add_stats(struct plx_bdev_stats *to, const struct plx_bdev_channel *ch)
{
    for (int op = 0; op < PLX_BDEV_OPS; op++) {
        to->ops[op] += peek(&ch->ops[op]);
        to->blocks[op] += peek(&ch->blocks[op]);
    }
    to->errors += peek(&ch->errors);
}

void plx_bdev_channel_put(struct plx_bdev_channel *ch)
{
    struct plx_bdev *bdev = ch->bdev;
    assert(ch->refs > 0);
    if (--ch->refs)
        return;
    assert(!ch->in_flight && plx_list_empty(&ch->requests));
    if (bdev->ops->channel_close)
        bdev->ops->channel_close(ch);
    pthread_mutex_lock(&bdev->lock);
    add_stats(&bdev->past, ch);
    plx_list_del(&ch->link);
    bool unused = plx_gate_close(ch);
    pthread_mutex_unlock(&bdev->lock);
    if (unused)
        plx_bdev_channel_free(ch);
}

struct plx_bdev *plx_bdev_channel_bdev(const struct plx_bdev_channel *ch)
{
    return ch->bdev;
}

void plx_bdev_get_stats(struct plx_bdev *bdev, struct plx_bdev_stats *out)
{
    pthread_mutex_lock(&bdev->lock);
    for (int op = 0; op < PLX_BDEV_OPS; op++) {
        out->ops[op] += bdev->past.ops[op];
        out->blocks[op] += bdev->past.blocks[op];
    }
    out->errors += bdev->past.errors;
    plx_list_for_each(it, &bdev->channels)
        add_stats(out, plx_list_entry(it, struct plx_bdev_channel, link));
    pthread_mutex_unlock(&bdev->lock);
}

/*
 * Only the channel's reactor adds to its statistics, so a plain load and store is enough, without a locked
 * instruction.
 */
static inline void add(_Atomic uint64_t *n, uint64_t by)
{
    atomic_store_explicit(n, peek(n) + by, memory_order_relaxed);
}

void plx_bdev_count_mapped(struct plx_bdev_channel *ch, uint32_t nlb)
{
    add(&ch->ops[PLX_BDEV_READ], 1);
    add(&ch->blocks[PLX_BDEV_READ], nlb);
}

/* ---- requests ---- */

static inline bool in_range(const struct plx_bdev *bdev, uint64_t lba, uint32_t nlb)
{
    return lba <= bdev->info.blocks && nlb <= bdev->info.blocks - lba && nlb;
}

uint16_t plx_bdev_check(const struct plx_bdev *bdev, enum plx_bdev_op op, uint64_t lba, uint32_t nlb)
{
    if (op >= PLX_BDEV_OPS)
        return PLX_SC_INVALID_OPCODE;
    uint32_t bit = UINT32_C(1) << op;
    if (!(bdev->info.ops & bit))
        return bdev->info.read_only && bit & PLX_BDEV_WRITERS ? PLX_SC_NAMESPACE_WRITE_PROTECTED
                                                              : PLX_SC_INVALID_OPCODE;
    if (bit & NO_RANGE || in_range(bdev, lba, nlb))
        return PLX_SC_SUCCESS;
    return nlb ? PLX_SC_LBA_OUT_OF_RANGE : PLX_SC_INVALID_FIELD;
}

void plx_bdev_start(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    struct plx_bdev *bdev = ch->bdev;
    if (bdev->native_ops & UINT32_C(1) << req->op)
        bdev->ops->submit(ch, req);
    else if (req->op == PLX_BDEV_RESET)
        plx_bdev_complete(req, PLX_SC_SUCCESS); /* of a disk that has nothing in flight, ever */
    else
        plx_emulate_submit(ch, req);
}

/*
 * Asks everything older than the reset to end. The list is walked anew each time, as an abort may end any number of
 * requests.
 */
static void abort_older(struct plx_bdev_channel *ch, struct plx_bdev_req *reset)
{
    struct plx_bdev_core *own = plx_bdev_req_core(reset);
    own->asking = true; /* and stays in the list, the oldest or not: it tells older from newer */
    for (;;) {
        struct plx_bdev_req *found = NULL;
        plx_list_for_each(it, &ch->requests) {
            struct plx_bdev_core *c = plx_list_entry(it, struct plx_bdev_core, link);
            if (c == own)
                break;
            struct plx_bdev_req *req = plx_bdev_core_req(ch->bdev, c);
            if (c->aborted || req->op == PLX_BDEV_RESET)
                continue;
            found = req;
            break;
        }
        if (!found)
            break;
        plx_bdev_abort(ch, found);
    }
    own->asking = false;
    if (ch->requests.next == &own->link)
        plx_bdev_complete(reset, PLX_SC_SUCCESS); /* else when it is the oldest: see complete_tracked() */
}

static void start_tracked(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    struct plx_bdev_core *c = plx_bdev_req_core(req);
    memset(c, 0, offsetof(struct plx_bdev_core, sub));
    plx_list_add_tail(&ch->requests, &c->link);
    if (req->op == PLX_BDEV_RESET) {
        ch->resets++;
        abort_older(ch, req);
        return;
    }
    if (plx_unlikely(ch->gate.closed) && plx_gate_hold(ch, req))
        return;
    plx_bdev_start(ch, req);
}

/* All but the plainest requests. */
static void submit_slow(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    struct plx_bdev *bdev = ch->bdev;
    uint16_t status = plx_bdev_check(bdev, req->op, req->lba, req->nlb);
    if (!status && req->op == PLX_BDEV_COPY && !in_range(bdev, req->src_lba, req->nlb))
        status = PLX_SC_LBA_OUT_OF_RANGE;
    req->ch = ch;
    ch->in_flight++;
    if (status) {
        add(&ch->errors, 1);
        ch->in_flight--;
        req->status = status;
        req->done(req);
        return;
    }
    add(&ch->ops[req->op], 1);
    if (!(NO_RANGE >> req->op & 1))
        add(&ch->blocks[req->op], req->nlb);
    if (bdev->tracked)
        start_tracked(ch, req);
    else
        plx_bdev_start(ch, req);
}

void plx_bdev_submit(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    struct plx_bdev *bdev = ch->bdev;
    if (plx_unlikely(req->op >= PLX_BDEV_OPS || !(bdev->fast_ops >> req->op & 1) ||
                     !in_range(bdev, req->lba, req->nlb))) {
        submit_slow(ch, req);
        return;
    }
    req->ch = ch;
    add(&ch->ops[req->op], 1);
    add(&ch->blocks[req->op], req->nlb);
    ch->in_flight++;
    bdev->ops->submit(ch, req);
}

/*
 * A reset ends when it has become the oldest. Those that now are leave the list first and complete after `req`: still
 * counted as in flight, they keep the channel there while the callbacks run.
 */
static void complete_tracked(struct plx_bdev_req *req)
{
    struct plx_bdev_channel *ch = req->ch;
    struct plx_bdev_core *c = plx_bdev_req_core(req);
    struct plx_bdev_req *resets = NULL, **tail = &resets;
    plx_list_del(&c->link);
    if (req->op == PLX_BDEV_RESET)
        ch->resets--;
    if (plx_unlikely(ch->gate.closed))
        plx_gate_passed(ch);
    while (plx_unlikely(ch->resets > 0) && !plx_list_empty(&ch->requests)) {
        c = plx_list_entry(ch->requests.next, struct plx_bdev_core, link);
        struct plx_bdev_req *oldest = plx_bdev_core_req(ch->bdev, c);
        if (oldest->op != PLX_BDEV_RESET || c->asking)
            break;
        plx_list_del(&c->link);
        ch->resets--;
        oldest->next = NULL;
        *tail = oldest;
        tail = &oldest->next;
    }
    ch->in_flight--;
    req->done(req);
    while (resets) {
        struct plx_bdev_req *reset = resets;
        resets = reset->next;
        reset->status = PLX_SC_SUCCESS;
        ch->in_flight--;
        reset->done(reset);
    }
}

void plx_bdev_complete(struct plx_bdev_req *req, uint16_t status)
{
    struct plx_bdev_channel *ch = req->ch;
    req->status = status;
    if (plx_unlikely(req->done == plx_emulate_sub_done)) {
        req->done(req); /* a part of a request, which is the one that counts */
        return;
    }
    assert(ch->in_flight > 0);
    if (plx_unlikely(status != PLX_SC_SUCCESS))
        add(&ch->errors, 1);
    if (ch->bdev->tracked) {
        complete_tracked(req);
        return;
    }
    ch->in_flight--;
    req->done(req);
}

void plx_bdev_emulate(struct plx_bdev_req *req)
{
    plx_emulate_submit(req->ch, req);
}

void plx_bdev_abort(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    struct plx_bdev *bdev = ch->bdev;
    assert(req->ch == ch);
    if (!bdev->tracked)
        return; /* what is in place is through already */
    struct plx_bdev_core *c = plx_bdev_req_core(req);
    c->aborted = true;
    if (c->held) {
        plx_gate_release(ch, req);
        plx_bdev_complete(req, PLX_SC_ABORTED_BY_REQUEST);
    } else if (c->emulated) {
        plx_emulate_abort(ch, req);
    } else if (bdev->ops->abort && req->op != PLX_BDEV_RESET) {
        bdev->ops->abort(ch, req);
    }
}

const void *plx_bdev_map(struct plx_bdev_channel *ch, uint64_t lba, uint32_t nlb)
{
    assert(in_range(ch->bdev, lba, nlb));
    return ch->bdev->ops->map ? ch->bdev->ops->map(ch, lba, nlb) : NULL;
}

/* ---- status ---- */

uint16_t plx_bdev_status(int64_t err, bool write)
{
    switch (-err) {
    case 0:
        return PLX_SC_SUCCESS;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return PLX_SC_CAPACITY_EXCEEDED;
    case EROFS:
    case EPERM:
    case EACCES:
        return PLX_SC_NAMESPACE_WRITE_PROTECTED;
    case EIO:
    case ENODATA: /* how Linux tells a medium error of a block device */
        return write ? PLX_SC_WRITE_FAULT : PLX_SC_UNRECOVERED_READ_ERROR;
    case ECANCELED:
        return PLX_SC_ABORTED_BY_REQUEST;
    case EOPNOTSUPP:
        return PLX_SC_INVALID_OPCODE;
    case EBADE: /* how Linux tells a reservation conflict of a block device */
        return PLX_SC_RESERVATION_CONFLICT;
    case ENOMEM:
    case EAGAIN:
        return PLX_SC_COMMAND_INTERRUPTED; /* try again */
    default:
        return PLX_SC_INTERNAL_ERROR;
    }
}
