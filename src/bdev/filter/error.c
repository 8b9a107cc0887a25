/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A disk that fails when it is told to. What is injected into an operation is one fault, which the control side
 * replaces while reactors look at it: they take a count of it with a compare-and-swap, which fails when it is another
 * one by then.
 *
 * Requests go below as sub-requests, as the filter is to see their ends: it counts how many are there, and corrupts
 * what was read. A write that is corrupted goes below as it is, and then the block with the wrong byte once more: the
 * caller's memory is not ours to change.
 */
#include "filter.h"

#include "base/iov.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { ERROR_SUBS = 1024 }; /* of a channel: as many requests as one disk may hold of a target's reactor */

/* What is injected into an operation. Fields may be of two faults until a count has been taken. */
struct fault {
    /* Requests that it is for yet, PLX_BDEV_INJECT_FOREVER; and above them, in bits 63:32, which fault this is. */
    _Atomic uint64_t left;
    _Atomic uint64_t how; /* fault_pack() */
    _Atomic uint64_t offset;
    _Atomic uint32_t cleared; /* the last fault that was none: what was kept pending by earlier ones goes on */
};

struct error_disk {
    struct plx_filter f;
    pthread_mutex_t lock; /* control path: who changes faults */
    struct fault faults[PLX_BDEV_OPS];
};

struct error_channel {
    struct plx_filter_bell *bell;
    struct plx_list pending;
    uint32_t below; /* requests that the disk below has */
};

/* In the context of a request. */
struct faulty {
    struct plx_bdev_subs subs; /* one */
    struct plx_list link;      /* FAULTY_PENDING */
    struct plx_piece piece;
    uint64_t offset; /* of the byte to corrupt */
    uint32_t which;  /* FAULTY_PENDING: the fault */
    uint8_t value;   /* 0 when there is none */
    uint8_t stage;
};
PLX_BDEV_FITS(struct faulty);

enum faulty_stage {
    FAULTY_PENDING,
    FAULTY_IN_LINE, /* for a sub-request */
    FAULTY_BELOW,
    FAULTY_PIECE, /* waits for memory */
};

/* A fault's fields, as they are looked at together. */
struct drawn {
    enum plx_bdev_injection_type type;
    uint16_t status;
    uint8_t value;
    uint32_t queue_depth;
    uint32_t which;
    uint64_t offset;
};

static struct error_channel *error_channel_of(struct plx_bdev_channel *ch)
{
    return (struct error_channel *)(void *)ch->driver;
}

static struct faulty *faulty_of(struct plx_bdev_req *req)
{
    return (struct faulty *)(void *)req->context;
}

/* ---- faults ---- */

static uint64_t fault_pack(const struct plx_bdev_injection *i)
{
    return (uint64_t)i->queue_depth << 32 | (uint64_t)i->status << 16 | (uint64_t)i->corrupt_value << 8 | i->type;
}

/*
 * Each store of a field comes after that of `left`, and each load of one before the exchange of it: who has read a
 * field of a later fault does not get a count of an earlier one. The exchange acquires where it fails, as fields are
 * read again then (and only therefore where it does not: compilers want that). tests/model/test_error.c finds that all
 * of these orders are needed and enough.
 */
static void fault_set(struct fault *f, const struct plx_bdev_injection *i)
{
    uint64_t which = ((atomic_load_explicit(&f->left, memory_order_relaxed) >> 32) + 1) << 32;
    if (i->type == PLX_BDEV_INJECT_NONE)
        atomic_store_explicit(&f->cleared, (uint32_t)(which >> 32), memory_order_relaxed);
    atomic_store_explicit(&f->left, which, memory_order_relaxed);
    atomic_store_explicit(&f->how, fault_pack(i), memory_order_release);
    atomic_store_explicit(&f->offset, i->corrupt_offset, memory_order_release);
    atomic_store_explicit(&f->left, which | i->count, memory_order_release);
}

static void fault_look(const struct fault *f, struct drawn *out)
{
    uint64_t how = atomic_load_explicit(&f->how, memory_order_acquire);
    out->offset = atomic_load_explicit(&f->offset, memory_order_acquire);
    out->type = (enum plx_bdev_injection_type)(how & 0xff);
    out->value = (uint8_t)(how >> 8);
    out->status = (uint16_t)(how >> 16);
    out->queue_depth = (uint32_t)(how >> 32);
}

static bool fault_cleared(const struct fault *f, uint32_t which)
{
    return (int32_t)(atomic_load_explicit(&f->cleared, memory_order_relaxed) - which) > 0;
}

/* Takes a count of the fault, if there is one for this request. */
static void fault_draw(struct fault *f, uint32_t below, uint64_t bytes, struct drawn *out)
{
    uint64_t left = atomic_load_explicit(&f->left, memory_order_acquire), next;
    do {
        out->type = PLX_BDEV_INJECT_NONE;
        if (plx_likely(!(uint32_t)left))
            return;
        fault_look(f, out);
        out->which = (uint32_t)(left >> 32);
        if (below < out->queue_depth || (out->type == PLX_BDEV_INJECT_CORRUPT && out->offset >= bytes)) {
            out->type = PLX_BDEV_INJECT_NONE;
            return;
        }
        next = (uint32_t)left == PLX_BDEV_INJECT_FOREVER ? left : left - 1;
    } while (!atomic_compare_exchange_weak_explicit(&f->left, &left, next, memory_order_acquire, memory_order_acquire));
}

/* ---- requests below ---- */

static struct plx_bdev_req *request_below(struct plx_bdev_req *req)
{
    return &faulty_of(req)->subs.first->req;
}

static void error_end(struct plx_bdev_req *req, uint16_t status)
{
    struct faulty *f = faulty_of(req);
    error_channel_of(req->ch)->below--;
    if (f->piece.mem)
        plx_piece_put(req->ch, &f->piece);
    plx_bdev_subs_put(req->ch, &f->subs);
    plx_bdev_complete(req, status);
}

static void begin_below(struct plx_bdev_req *req)
{
    faulty_of(req)->stage = FAULTY_BELOW;
    plx_bdev_submit(req->ch->below, request_below(req));
}

static void rewritten(struct plx_bdev_req *below)
{
    error_end(plx_bdev_req_of(((struct plx_bdev_sub *)below)->whole), below->status);
}

/* Writes the block that has the byte to corrupt once more, with that. */
static void rewrite(struct plx_piece *piece)
{
    struct faulty *f = plx_container_of(piece, struct faulty, piece);
    struct plx_bdev_req *req = plx_bdev_req_of(f), *below = request_below(req);
    struct plx_bdev_sub *sub = f->subs.first;
    const uint32_t block = req->ch->bdev->info.block_size;
    const uint64_t nth = f->offset / block;
    struct plx_iov_at at = {req->iov, 0};
    plx_iov_skip(&at, nth * block);
    plx_iov_gather(&at, piece->mem, block);
    ((uint8_t *)piece->mem)[f->offset % block] ^= f->value;
    sub->iov[0] = (struct iovec){piece->mem, block};
    below->done = rewritten;
    below->iov = sub->iov;
    below->iovcnt = 1;
    below->lba = req->lba + nth;
    below->nlb = 1;
    begin_below(req);
}

static void corrupt_read(struct plx_bdev_req *req)
{
    struct faulty *f = faulty_of(req);
    struct plx_iov_at at = {req->iov, 0};
    uint8_t *byte;
    plx_iov_skip(&at, f->offset);
    plx_iov_next(&at, 1, &byte);
    *byte ^= f->value;
}

static void done_below(struct plx_bdev_req *below)
{
    struct plx_bdev_req *req = plx_bdev_req_of(((struct plx_bdev_sub *)below)->whole);
    struct faulty *f = faulty_of(req);
    if (!below->status && f->value && req->op == PLX_BDEV_WRITE) {
        f->stage = FAULTY_PIECE;
        f->piece.ready = rewrite;
        plx_piece_get(req->ch, &f->piece, req->ch->bdev->info.block_size);
        return;
    }
    if (!below->status && f->value)
        corrupt_read(req);
    error_end(req, below->status);
}

static void below_ready(struct plx_bdev_subs *subs)
{
    struct plx_bdev_req *req = plx_bdev_req_of(subs), *below = request_below(req);
    error_channel_of(req->ch)->below++;
    below->done = done_below;
    below->iov = req->iov;
    below->iovcnt = req->iovcnt;
    below->op = req->op;
    below->flags = req->flags;
    below->lba = req->lba;
    below->src_lba = req->src_lba;
    below->nlb = req->nlb;
    begin_below(req);
}

static void go_below(struct plx_bdev_channel *ch, struct plx_bdev_req *req, const struct drawn *drawn)
{
    struct faulty *f = faulty_of(req);
    f->subs = (struct plx_bdev_subs){.ready = below_ready, .n = 1};
    f->piece.mem = NULL;
    f->offset = drawn->offset;
    f->value = drawn->type == PLX_BDEV_INJECT_CORRUPT ? drawn->value : 0;
    f->stage = FAULTY_IN_LINE;
    plx_bdev_subs_get(ch, &f->subs);
}

/* ---- requests ---- */

static void stay_pending(struct plx_bdev_channel *ch, struct plx_bdev_req *req, uint32_t which)
{
    struct faulty *f = faulty_of(req);
    f->stage = FAULTY_PENDING;
    f->which = which;
    plx_bdev_filter_keep(ch, req);
    plx_list_add_tail(&error_channel_of(ch)->pending, &f->link);
}

static void error_submit(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    struct error_disk *d = (struct error_disk *)ch->bdev;
    struct drawn drawn = {0};
    fault_draw(&d->faults[req->op], error_channel_of(ch)->below, (uint64_t)req->nlb << ch->bdev->block_shift, &drawn);
    switch (drawn.type) {
    case PLX_BDEV_INJECT_FAILURE:
        plx_bdev_complete(req, drawn.status);
        break;
    case PLX_BDEV_INJECT_PENDING:
        stay_pending(ch, req, drawn.which);
        break;
    case PLX_BDEV_INJECT_CORRUPT:
    case PLX_BDEV_INJECT_NONE:
        go_below(ch, req, &drawn);
        break;
    }
}

static void error_abort(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    struct faulty *f = faulty_of(req);
    switch ((enum faulty_stage)f->stage) {
    case FAULTY_PENDING:
        plx_list_del(&f->link);
        plx_bdev_complete(req, PLX_SC_ABORTED_BY_REQUEST);
        break;
    case FAULTY_IN_LINE:
        if (plx_bdev_subs_cancel(ch, &f->subs))
            plx_bdev_complete(req, PLX_SC_ABORTED_BY_REQUEST);
        break;
    case FAULTY_BELOW:
        plx_bdev_abort(ch->below, request_below(req));
        break;
    case FAULTY_PIECE:
        if (plx_piece_cancel(ch, &f->piece))
            error_end(req, PLX_SC_ABORTED_BY_REQUEST);
        break;
    }
}

/* Pending requests go on where that was taken back, and end when the disk is gone. */
static void error_wake(struct plx_bdev_channel *ch)
{
    struct error_disk *d = (struct error_disk *)ch->bdev;
    struct plx_list all;
    plx_list_init(&all);
    plx_list_for_each_safe(it, &error_channel_of(ch)->pending) {
        struct faulty *f = plx_list_entry(it, struct faulty, link);
        if (!d->f.bdev.gone && !fault_cleared(&d->faults[plx_bdev_req_of(f)->op], f->which))
            continue;
        plx_list_del(it);
        plx_list_add_tail(&all, it);
    }
    /* The channel stays as long as anything is in this list; and what ends may have others aborted. */
    while (!plx_list_empty(&all)) {
        struct faulty *f = plx_list_entry(all.next, struct faulty, link);
        plx_list_del(&f->link);
        if (d->f.bdev.gone)
            plx_bdev_complete(plx_bdev_req_of(f), PLX_SC_INVALID_NAMESPACE_OR_FORMAT);
        else
            error_submit(ch, plx_bdev_req_of(f));
    }
}

/* ---- channels, and the disk ---- */

static int error_channel_open(struct plx_bdev_channel *ch)
{
    plx_list_init(&error_channel_of(ch)->pending);
    return plx_filter_bell_hang(ch, &error_channel_of(ch)->bell);
}

static void error_channel_close(struct plx_bdev_channel *ch)
{
    assert(plx_list_empty(&error_channel_of(ch)->pending) && !error_channel_of(ch)->below);
    plx_filter_bell_take(error_channel_of(ch)->bell);
}

static void error_close(struct plx_bdev *bdev)
{
    pthread_mutex_destroy(&((struct error_disk *)bdev)->lock);
    plx_filter_close(bdev);
}

static const struct plx_bdev_ops error_ops = {
    .close = error_close,
    .channel_open = error_channel_open,
    .channel_close = error_channel_close,
    .submit = error_submit,
    .abort = error_abort,
    .map = plx_bdev_map_never, /* what is lent ends well */
    .event = plx_filter_event,
};

/* ---- injecting ---- */

/* Makes whole what was asked for. */
static int injection_check(const char *name, struct plx_bdev_injection *i, struct plx_error *err)
{
    const uint32_t data = 1 << PLX_BDEV_READ | 1 << PLX_BDEV_WRITE;
    if (!i->ops || i->ops & ~(uint32_t)PLX_BDEV_INJECT_ALL)
        return plx_fail(err, -EINVAL, "%s: operations 0x%x are none that anything is injected into; all are 0x%x", name,
                        i->ops, (unsigned)PLX_BDEV_INJECT_ALL);
    if ((unsigned)i->type > PLX_BDEV_INJECT_CORRUPT)
        return plx_fail(err, -EINVAL, "%s: there is no injection of type %u", name, (unsigned)i->type);
    if (!i->count)
        i->type = PLX_BDEV_INJECT_NONE;
    if (i->type == PLX_BDEV_INJECT_NONE)
        i->count = 0;
    if (i->type == PLX_BDEV_INJECT_FAILURE && !i->status)
        i->status = PLX_SC_INTERNAL_ERROR;
    if (i->type == PLX_BDEV_INJECT_FAILURE && i->status > 0x7ff)
        return plx_fail(err, -EINVAL, "%s: status 0x%x: one is a status code type and a status code, up to 0x7ff", name,
                        i->status);
    if (i->type != PLX_BDEV_INJECT_CORRUPT)
        return 0;
    if (!i->corrupt_value)
        return plx_fail(err, -EINVAL, "%s: a byte is corrupted by turning over bits of it, 0x01 to 0xff", name);
    i->ops &= data;
    return i->ops ? 0 : plx_fail(err, -EINVAL, "%s: only what is read and written can be corrupted", name);
}

static void error_set(struct error_disk *d, const struct plx_bdev_injection *i)
{
    pthread_mutex_lock(&d->lock);
    for (int op = 0; op < PLX_BDEV_OPS; op++)
        if (i->ops >> op & 1)
            fault_set(&d->faults[op], i);
    pthread_mutex_unlock(&d->lock);
    if (i->type == PLX_BDEV_INJECT_NONE)
        plx_filter_ring(&d->f);
}

int plx_bdev_error_inject(struct plx_bdev *bdev, const struct plx_bdev_injection *what, struct plx_error *err)
{
    struct plx_bdev_injection i = *what;
    if (bdev->ops != &error_ops)
        return plx_fail(err, -EINVAL, "%s is of kind %s, into which nothing is injected; into error:DISK it is",
                        bdev->info.name, bdev->info.driver);
    int ret = injection_check(bdev->info.name, &i, err);
    if (!ret)
        error_set((struct error_disk *)bdev, &i);
    return ret;
}

/* ---- making one ---- */

static int error_new(struct plx_bdev *below, const uint8_t *uuid, struct error_disk **out, struct plx_error *err)
{
    struct error_disk *d = calloc(1, sizeof *d);
    if (!d)
        return plx_fail(err, -ENOMEM, "out of memory");
    pthread_mutex_init(&d->lock, NULL);
    d->f.bdev.channel_size = sizeof(struct error_channel);
    d->f.bdev.subs = ERROR_SUBS;
    int ret = plx_filter_init(&d->f, below, &error_ops, error_wake, uuid, err);
    d->f.bdev.info.ops &= ~(1u << PLX_BDEV_VERIFY); /* done by reads, which fail as they are told to */
    if (ret)
        error_close(&d->f.bdev);
    else
        *out = d;
    return ret;
}

int plx_bdev_error_create(struct plx_bdev *below, const char *name, const uint8_t uuid[16], struct plx_bdev **out,
                          struct plx_error *err)
{
    struct error_disk *d = NULL;
    int ret = error_new(below, uuid, &d, err);
    if (!ret)
        ret = plx_filter_register(&d->f, plx_bdev_filter_error.scheme, name, err);
    if (!ret)
        *out = &d->f.bdev;
    return ret;
}

/* ---- settings ---- */

/* @return the place of a word in a list of them, or -1 */
static int word_index(const char *word, size_t len, const char *const *list, int n)
{
    for (int i = 0; i < n; i++)
        if (strlen(list[i]) == len && !memcmp(list[i], word, len))
            return i;
    return -1;
}

static int error_parse_io(const struct plx_url *url, uint32_t *ops, struct plx_error *err)
{
    static const char *const names[] = {
        "all", "read", "write", "write_zeroes", "unmap", "flush", "compare", "compare_and_write", "copy"};
    static const uint32_t bits[] = {
        PLX_BDEV_INJECT_ALL, 1 << PLX_BDEV_READ,  1 << PLX_BDEV_WRITE,   1 << PLX_BDEV_WRITE_ZEROES,
        1 << PLX_BDEV_UNMAP, 1 << PLX_BDEV_FLUSH, 1 << PLX_BDEV_COMPARE, 1 << PLX_BDEV_COMPARE_AND_WRITE,
        1 << PLX_BDEV_COPY};
    const char *text = plx_url_param(url, "io");
    *ops = text ? 0 : PLX_BDEV_INJECT_ALL;
    for (size_t len; text; text = text[len] ? text + len + 1 : NULL) {
        len = strcspn(text, ",");
        int which = word_index(text, len, names, PLX_ARRAY_SIZE(names));
        if (which < 0)
            return plx_fail(err, -EINVAL,
                            "%s: io=%.40s: it is all, or some of read, write, write_zeroes, unmap, flush, compare, "
                            "compare_and_write and copy, with commas between",
                            url->name, text);
        *ops |= bits[which];
    }
    return 0;
}

static int error_parse_type(const struct plx_url *url, enum plx_bdev_injection_type *type, struct plx_error *err)
{
    static const char *const names[] = {"failure", "pending", "corrupt"};
    const char *text = plx_url_param(url, "type");
    int which = text ? word_index(text, strlen(text), names, PLX_ARRAY_SIZE(names)) : -1;
    if (which < 0)
        return plx_fail(err, -EINVAL, "%s: type=%.40s: what is injected is failure, pending or corrupt", url->name,
                        text ? text : "");
    *type = (enum plx_bdev_injection_type)(PLX_BDEV_INJECT_FAILURE + which);
    return 0;
}

static int error_parse(const struct plx_url *url, struct plx_bdev_injection *i, struct plx_error *err)
{
    uint64_t count = PLX_BDEV_INJECT_FOREVER, depth = 0, status = 0, value = 0xff, offset = 0;
    int ret = error_parse_io(url, &i->ops, err);
    if (!ret)
        ret = error_parse_type(url, &i->type, err);
    if (!ret)
        ret = plx_filter_number(url, "count", 1, UINT32_MAX - 1, &count, err);
    if (!ret)
        ret = plx_filter_number(url, "queue_depth", 0, UINT32_MAX, &depth, err);
    if (!ret)
        ret = plx_filter_number(url, "status", 1, 0x7ff, &status, err);
    if (!ret)
        ret = plx_filter_number(url, "value", 1, 0xff, &value, err);
    if (!ret)
        ret = plx_filter_number(url, "offset", 0, UINT64_MAX, &offset, err);
    i->count = (uint32_t)count;
    i->queue_depth = (uint32_t)depth;
    i->status = (uint16_t)status;
    i->corrupt_value = (uint8_t)value;
    i->corrupt_offset = offset;
    return ret ? ret : injection_check(url->name, i, err);
}

static int error_open(const struct plx_url *url, struct plx_bdev **out, struct plx_error *err)
{
    struct plx_bdev_injection i = {0};
    struct plx_bdev *below;
    struct error_disk *d = NULL;
    uint8_t uuid[16];
    bool opened;
    int ret = plx_filter_only(url, "io type count queue_depth status value offset uuid", err);
    if (!ret)
        ret = plx_url_uuid(url, NULL, uuid, err);
    if (!ret && url->nparams > (plx_url_param(url, "uuid") != NULL))
        ret = error_parse(url, &i, err);
    if (!ret)
        ret = plx_bdev_find_below(url, &below, &opened, err);
    if (ret)
        return ret;
    ret = error_new(below, uuid, &d, err);
    if (ret) {
        if (opened)
            plx_bdev_close(below);
        return ret;
    }
    d->f.opened = opened ? below : NULL;
    error_set(d, &i);
    *out = &d->f.bdev;
    return 0;
}

const struct plx_bdev_driver plx_bdev_filter_error = {
    .scheme = "error",
    .help = "error:DISK[?io=read&type=failure&count=N]  a disk that fails, hangs or corrupts, for tests",
    .open = error_open,
};
