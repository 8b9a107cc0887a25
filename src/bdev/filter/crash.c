/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A disk whose power is cut. What is written to it is held back in memory, in the order of submission, and lies over
 * what is read from the disk below. A write that has been submitted is there at once, for reads and for a cut; it ends
 * later, when there is a latency. What ends it is in crash_job.c, what a cut leaves in crash_cut.c.
 *
 * One lock guards it all, for all reactors, and writes are looked for in one list, and take memory as they come: it is
 * a disk for tests, and simple comes before fast. Compares, compares with a write, and copies are the core's, which
 * does them by reads and writes; these are what is counted.
 */
#include "crash_disk.h"

#include "base/iov.h"
#include "base/log.h"
#include "base/uuid.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    CRASH_SUBS = 1024, /* of a channel: reads that are below */
    CRASH_PER_MILLE = 1000,
};
#define CRASH_MEMORY_DEFAULT (UINT64_C(256) << 20)
#define CRASH_MEMORY_MIN (UINT64_C(64) << 10)

struct crash_channel {
    struct plx_filter_bell *bell;
    struct plx_list waiting;
};

/* In the context of a request. */
struct crash_io {
    struct plx_bdev_subs subs; /* one, of a read */
    struct crash_job job;
    struct plx_list link;   /* in waiting, of its channel; in reads, of the disk */
    struct plx_timer timer; /* CRASH_IO_WAITS */
    uint64_t power;
    uint64_t id; /* of the write that is held; 0 when it waits for memory */
    uint8_t stage;
    bool stale; /* a read: what it reads was written below meanwhile */
};
PLX_BDEV_FITS(struct crash_io);

enum crash_io_stage {
    CRASH_IO_WAITS,
    CRASH_IO_JOB,
    CRASH_IO_IN_LINE, /* for a sub-request */
    CRASH_IO_BELOW,
};

static struct crash_channel *crash_channel_of(struct plx_bdev_channel *ch)
{
    return (struct crash_channel *)(void *)ch->driver;
}

static struct crash_io *crash_io_of(struct plx_bdev_req *req)
{
    return (struct crash_io *)(void *)req->context;
}

static bool crash_writes(const struct plx_bdev_req *req)
{
    return req->op == PLX_BDEV_WRITE || req->op == PLX_BDEV_WRITE_ZEROES || req->op == PLX_BDEV_UNMAP;
}

/* ---- what is held back; under the lock ---- */

static size_t crash_held_bytes(const struct crash_disk *d, const struct plx_bdev_req *req)
{
    size_t data = req->op == PLX_BDEV_WRITE ? (size_t)req->nlb << d->f.bdev.block_shift : 0;
    return sizeof(struct crash_held) + data;
}

bool crash_has_room(const struct crash_disk *d, size_t bytes)
{
    return d->held_bytes + bytes <= d->o.memory;
}

/* Where a write goes: elsewhere, now and then. The disk may have become smaller since it came. */
static uint64_t crash_direct(struct crash_disk *d, const struct plx_bdev_req *req)
{
    const uint64_t blocks = plx_bdev_blocks(&d->f.bdev);
    if (!d->o.misdirect || crash_draw(&d->random) % CRASH_PER_MILLE >= d->o.misdirect || blocks < req->nlb)
        return req->lba;
    return crash_draw(&d->random) % (blocks - req->nlb + 1);
}

static uint16_t crash_hold(struct crash_disk *d, struct plx_bdev_req *req)
{
    const size_t bytes = crash_held_bytes(d, req);
    struct plx_iov_at at = {req->iov, 0};
    struct crash_held *w = malloc(bytes);
    if (!w)
        return PLX_SC_COMMAND_INTERRUPTED; /* try again */
    w->id = crash_io_of(req)->id = ++d->ids;
    w->ended = 0;
    w->lba = crash_direct(d, req);
    w->nlb = req->nlb;
    w->op = req->op;
    w->bytes = bytes;
    if (req->op == PLX_BDEV_WRITE)
        plx_iov_gather(&at, w->data, bytes - sizeof *w);
    plx_list_add_tail(&d->held, &w->link);
    d->held_bytes += bytes;
    d->held_count++;
    return PLX_SC_SUCCESS;
}

void crash_drop(struct crash_disk *d, struct crash_held *w)
{
    plx_list_for_each(it, &d->reads) {
        struct crash_io *io = plx_list_entry(it, struct crash_io, link);
        const struct plx_bdev_req *read = plx_bdev_req_of(io);
        if (read->lba < w->lba + w->nlb && w->lba < read->lba + read->nlb)
            io->stale = true;
    }
    plx_list_del(&w->link);
    d->held_bytes -= w->bytes;
    d->held_count--;
    free(w);
}

static void crash_drop_all(struct crash_disk *d)
{
    while (!plx_list_empty(&d->held))
        crash_drop(d, plx_list_entry(d->held.next, struct crash_held, link));
}

/* A write has ended. */
static void crash_ended(struct crash_disk *d, uint64_t id)
{
    d->ended++;
    for (struct plx_list *it = d->held.prev; it != &d->held; it = it->prev) {
        struct crash_held *w = plx_list_entry(it, struct crash_held, link);
        if (w->id == id)
            w->ended = d->ended;
        if (w->id <= id)
            break;
    }
}

/* ---- blocks that cannot be read; under the lock ---- */

void crash_mend(struct crash_disk *d, uint64_t lba, uint32_t nlb)
{
    for (uint64_t at = lba; d->mended && at < plx_min_u64(lba + nlb, d->mended_blocks); at++)
        d->mended[at / 64] |= UINT64_C(1) << at % 64;
}

static bool crash_is_bad(const struct crash_disk *d, uint64_t lba)
{
    if (lba >= d->mended_blocks || d->mended[lba / 64] >> lba % 64 & 1)
        return false;
    if (crash_mix(d->o.seed ^ crash_mix(lba + 1)) % CRASH_PER_MILLE >= d->o.latent)
        return false;
    plx_list_for_each(it, &d->held) {
        const struct crash_held *w = plx_list_entry(it, struct crash_held, link);
        if (lba >= w->lba && lba - w->lba < w->nlb)
            return false;
    }
    return true;
}

/* ---- reads ---- */

static void crash_end(struct plx_bdev_req *req, uint16_t status)
{
    plx_bdev_subs_put(req->ch, &crash_io_of(req)->subs);
    plx_bdev_complete(req, status);
}

/* Puts what is held back over what was read. */
static uint16_t crash_overlay(const struct crash_disk *d, const struct plx_bdev_req *req)
{
    const unsigned shift = d->f.bdev.block_shift;
    for (uint64_t lba = req->lba; d->mended && lba < req->lba + req->nlb; lba++)
        if (crash_is_bad(d, lba))
            return PLX_SC_UNRECOVERED_READ_ERROR;
    plx_list_for_each(it, &d->held) {
        const struct crash_held *w = plx_list_entry(it, struct crash_held, link);
        uint64_t from = plx_max_u64(w->lba, req->lba), to = plx_min_u64(w->lba + w->nlb, req->lba + req->nlb);
        struct plx_iov_at at = {req->iov, 0};
        if (from >= to)
            continue;
        plx_iov_skip(&at, (size_t)(from - req->lba) << shift);
        if (w->op == PLX_BDEV_WRITE)
            plx_iov_scatter(&at, w->data + ((size_t)(from - w->lba) << shift), (size_t)(to - from) << shift);
        else
            plx_iov_zero(&at, (size_t)(to - from) << shift);
    }
    return PLX_SC_SUCCESS;
}

static void crash_read_below(struct plx_bdev_req *req)
{
    struct crash_disk *d = crash_disk_of(req->ch);
    struct crash_io *io = crash_io_of(req);
    pthread_mutex_lock(&d->lock);
    bool off = io->power != d->power;
    io->stale = false;
    if (!off)
        plx_list_add_tail(&d->reads, &io->link);
    pthread_mutex_unlock(&d->lock);
    if (off)
        crash_end(req, CRASH_OFF);
    else
        plx_bdev_submit(req->ch->below, &io->subs.first->req);
}

static void crash_read_done(struct plx_bdev_req *below)
{
    struct plx_bdev_req *req = plx_bdev_req_of(((struct plx_bdev_sub *)below)->whole);
    struct crash_disk *d = crash_disk_of(req->ch);
    struct crash_io *io = crash_io_of(req);
    uint16_t status = below->status;
    pthread_mutex_lock(&d->lock);
    plx_list_del(&io->link);
    bool off = io->power != d->power, again = !status && !off && io->stale;
    if (!status && !off && !again)
        status = crash_overlay(d, req);
    pthread_mutex_unlock(&d->lock);
    if (again)
        crash_read_below(req);
    else
        crash_end(req, off ? CRASH_OFF : status);
}

static void crash_read_ready(struct plx_bdev_subs *subs)
{
    struct plx_bdev_req *req = plx_bdev_req_of(subs), *below = &subs->first->req;
    below->done = crash_read_done;
    below->iov = req->iov;
    below->iovcnt = req->iovcnt;
    below->op = PLX_BDEV_READ;
    below->flags = 0;
    below->lba = req->lba;
    below->nlb = req->nlb;
    crash_io_of(req)->stage = CRASH_IO_BELOW;
    crash_read_below(req);
}

static void crash_read(struct plx_bdev_req *req)
{
    struct crash_io *io = crash_io_of(req);
    io->subs = (struct plx_bdev_subs){.ready = crash_read_ready, .n = 1};
    io->stage = CRASH_IO_IN_LINE;
    plx_bdev_subs_get(req->ch, &io->subs);
}

/* ---- writes and flushes ---- */

static void crash_write_ends(struct plx_bdev_req *req, uint16_t status)
{
    struct crash_disk *d = crash_disk_of(req->ch);
    struct crash_io *io = crash_io_of(req);
    pthread_mutex_lock(&d->lock);
    if (io->power != d->power)
        status = CRASH_OFF;
    else if (io->id)
        crash_ended(d, io->id);
    pthread_mutex_unlock(&d->lock);
    plx_bdev_complete(req, status);
}

static void crash_begin_job(struct plx_bdev_req *req, enum crash_job_kind kind, uint64_t which)
{
    struct plx_bdev_channel *ch = req->ch;
    struct crash_disk *d = crash_disk_of(ch);
    struct crash_io *io = crash_io_of(req);
    io->stage = CRASH_IO_JOB;
    io->job.kind = kind;
    io->job.which = which;
    io->job.power = io->power;
    plx_bdev_filter_keep(ch, req);
    pthread_mutex_lock(&d->lock);
    crash_job_add(d, &io->job, ch);
    pthread_mutex_unlock(&d->lock);
    crash_jobs_run(ch);
}

/* What a request does once it has waited for as long as it takes. */
static void crash_go_on(struct plx_bdev_req *req)
{
    const struct crash_disk *d = crash_disk_of(req->ch);
    struct crash_io *io = crash_io_of(req);
    if (req->op == PLX_BDEV_READ)
        crash_read(req);
    else if (req->op == PLX_BDEV_FLUSH && d->o.lie)
        crash_write_ends(req, PLX_SC_SUCCESS);
    else if (req->op == PLX_BDEV_FLUSH)
        crash_begin_job(req, CRASH_FLUSH, io->job.which);
    else if (!io->id)
        crash_begin_job(req, CRASH_ROOM, crash_held_bytes(d, req));
    else if (req->flags & PLX_BDEV_FUA && !d->o.lie)
        crash_begin_job(req, CRASH_PERSIST, io->id);
    else
        crash_write_ends(req, PLX_SC_SUCCESS);
}

void crash_job_over(struct crash_job *job)
{
    struct plx_bdev_req *req = plx_bdev_req_of(plx_container_of(job, struct crash_io, job));
    struct crash_disk *d = crash_disk_of(req->ch);
    struct crash_io *io = crash_io_of(req);
    uint16_t status = job->status;
    if (job->kind == CRASH_FLUSH || job->kind == CRASH_CUT) {
        plx_bdev_complete(req, job->kind == CRASH_CUT ? CRASH_OFF : status);
        return;
    }
    if (job->kind == CRASH_PERSIST) {
        crash_write_ends(req, status);
        return;
    }
    pthread_mutex_lock(&d->lock);
    if (!status)
        status = io->power != d->power ? CRASH_OFF : crash_hold(d, req);
    pthread_mutex_unlock(&d->lock);
    if (status)
        plx_bdev_complete(req, status);
    else
        crash_go_on(req);
}

/* ---- requests ---- */

/*
 * Under the lock. All requests that are there end, each on its reactor; but one by which power is cut when what that
 * leaves is below, so that nobody closes the disk before.
 */
static void crash_power_off(struct crash_disk *d, struct crash_job *job, struct plx_bdev_channel *ch)
{
    d->off = d->cutting = true;
    d->power++;
    job->kind = CRASH_CUT;
    crash_job_add(d, job, ch);
    plx_filter_ring(&d->f);
}

/* Whether power is cut as this request comes. Under the lock. */
static bool crash_counts(struct crash_disk *d, const struct plx_bdev_req *req)
{
    bool write = crash_writes(req);
    if (req->op == PLX_BDEV_ALLOCATED)
        return false; /* a question */
    d->writes += write;
    d->requests++;
    return (write && d->writes == d->cut_write) || d->requests == d->cut_request ||
           (d->o.cut_chance && crash_draw(&d->random) % d->o.cut_chance == 0);
}

static struct plx_bdev_req *crash_take(struct crash_io *io)
{
    struct plx_bdev_req *req = plx_bdev_req_of(io);
    plx_timer_cancel(req->ch->reactor, &io->timer);
    plx_list_del(&io->link);
    return req;
}

static void crash_waited(struct plx_timer *timer)
{
    crash_go_on(crash_take(plx_container_of(timer, struct crash_io, timer)));
}

static void crash_wait(struct plx_bdev_channel *ch, struct plx_bdev_req *req, uint64_t ns)
{
    struct crash_io *io = crash_io_of(req);
    io->stage = CRASH_IO_WAITS;
    io->timer = (struct plx_timer){.fn = crash_waited};
    plx_bdev_filter_keep(ch, req);
    plx_list_add_tail(&crash_channel_of(ch)->waiting, &io->link);
    plx_timer_set(ch->reactor, &io->timer, ns + plx_reactor_clock(ch->reactor) - plx_reactor_now(ch->reactor));
}

/* Its place among others is taken when it comes: a write is there, a flush is of what has ended. Under the lock. */
static uint16_t crash_enter(struct plx_bdev_channel *ch, struct plx_bdev_req *req, bool *cut, uint64_t *ns)
{
    struct crash_disk *d = crash_disk_of(ch);
    struct crash_io *io = crash_io_of(req);
    uint16_t status = PLX_SC_SUCCESS;
    if (d->off)
        return CRASH_OFF;
    io->power = d->power;
    io->id = 0;
    io->job.which = d->ended;
    *cut = crash_counts(d, req);
    if (crash_writes(req) && crash_has_room(d, crash_held_bytes(d, req)))
        status = crash_hold(d, req);
    if (d->o.latency_us)
        *ns = crash_draw(&d->random) % (d->o.latency_us * PLX_NS_PER_US + 1);
    if (!*cut)
        return status;
    io->stage = CRASH_IO_JOB;
    plx_bdev_filter_keep(ch, req);
    crash_power_off(d, &io->job, ch);
    return PLX_SC_SUCCESS;
}

static void crash_submit(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    struct crash_disk *d = crash_disk_of(ch);
    uint64_t ns = 0;
    bool cut = false;
    pthread_mutex_lock(&d->lock);
    uint16_t status = crash_enter(ch, req, &cut, &ns);
    pthread_mutex_unlock(&d->lock);
    if (cut)
        crash_jobs_run(ch);
    else if (status)
        plx_bdev_complete(req, status);
    else if (req->op == PLX_BDEV_ALLOCATED)
        plx_bdev_forward(ch->below, req);
    else if (ns)
        crash_wait(ch, req, ns);
    else
        crash_go_on(req);
}

static void crash_abort(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    struct crash_disk *d = crash_disk_of(ch);
    struct crash_io *io = crash_io_of(req);
    bool waited = false;
    switch ((enum crash_io_stage)io->stage) {
    case CRASH_IO_WAITS:
        crash_take(io);
        crash_write_ends(req, PLX_SC_ABORTED_BY_REQUEST);
        break;
    case CRASH_IO_JOB:
        pthread_mutex_lock(&d->lock);
        waited = d->job != &io->job && io->job.kind != CRASH_CUT;
        if (waited)
            plx_list_del(&io->job.link);
        pthread_mutex_unlock(&d->lock);
        if (waited)
            crash_write_ends(req, PLX_SC_ABORTED_BY_REQUEST);
        break;
    case CRASH_IO_IN_LINE:
        if (plx_bdev_subs_cancel(ch, &io->subs))
            plx_bdev_complete(req, PLX_SC_ABORTED_BY_REQUEST);
        break;
    case CRASH_IO_BELOW:
        plx_bdev_abort(ch->below, &io->subs.first->req);
        break;
    }
}

/* Power has been cut, or it is this channel's turn. */
static void crash_wake(struct plx_bdev_channel *ch)
{
    struct crash_disk *d = crash_disk_of(ch);
    struct plx_list *waiting = &crash_channel_of(ch)->waiting, *it = waiting->next;
    pthread_mutex_lock(&d->lock);
    uint64_t power = d->power;
    pthread_mutex_unlock(&d->lock);
    if (plx_bdev_channel_get(ch->bdev, ch->reactor, &ch)) /* what ends here may put it back */
        assert(!"the channel is there");
    while (it != waiting) {
        struct crash_io *io = plx_list_entry(it, struct crash_io, link);
        it = it->next;
        if (io->power == power && !ch->bdev->gone)
            continue;
        plx_bdev_complete(crash_take(io), CRASH_OFF);
        it = waiting->next; /* what ends may have others aborted */
    }
    crash_jobs_run(ch);
    plx_bdev_channel_put(ch);
}

/* ---- channels, and the disk ---- */

static int crash_channel_open(struct plx_bdev_channel *ch)
{
    struct crash_disk *d = crash_disk_of(ch);
    plx_list_init(&crash_channel_of(ch)->waiting);
    int ret = plx_filter_bell_hang(ch, &crash_channel_of(ch)->bell);
    if (ret)
        return ret;
    pthread_mutex_lock(&d->lock);
    d->channels++;
    if (d->cutting)
        plx_filter_ring(&d->f); /* there may have been nobody to do it */
    pthread_mutex_unlock(&d->lock);
    return 0;
}

static void crash_channel_close(struct plx_bdev_channel *ch)
{
    struct crash_disk *d = crash_disk_of(ch);
    assert(plx_list_empty(&crash_channel_of(ch)->waiting));
    pthread_mutex_lock(&d->lock);
    d->channels--;
    pthread_mutex_unlock(&d->lock);
    plx_filter_bell_take(crash_channel_of(ch)->bell);
}

static void crash_close(struct plx_bdev *bdev)
{
    struct crash_disk *d = (struct crash_disk *)bdev;
    crash_drop_all(d);
    free(d->mended);
    free(d->scratch);
    pthread_mutex_destroy(&d->lock);
    plx_filter_close(bdev);
}

static const struct plx_bdev_ops crash_ops = {
    .close = crash_close,
    .channel_open = crash_channel_open,
    .channel_close = crash_channel_close,
    .submit = crash_submit,
    .abort = crash_abort,
    .map = plx_bdev_map_never,
    .event = plx_filter_event,
};

/* ---- power ---- */

static int crash_check_kind(const struct plx_bdev *bdev, struct plx_error *err)
{
    if (bdev->ops == &crash_ops)
        return 0;
    return plx_fail(err, -EINVAL, "%s is of kind %s, whose power cannot be cut; that of crash:DISK can",
                    bdev->info.name, bdev->info.driver);
}

int plx_bdev_crash_cut(struct plx_bdev *bdev, struct plx_error *err)
{
    struct crash_disk *d = (struct crash_disk *)bdev;
    int ret = crash_check_kind(bdev, err);
    if (ret)
        return ret;
    pthread_mutex_lock(&d->lock);
    if (d->off)
        ret = plx_fail(err, -EALREADY, "%s: its power has been cut already", bdev->info.name);
    else
        crash_power_off(d, &d->cut_job, NULL);
    pthread_mutex_unlock(&d->lock);
    return ret;
}

int plx_bdev_crash_restore(struct plx_bdev *bdev, struct plx_error *err)
{
    struct crash_disk *d = (struct crash_disk *)bdev;
    int ret = crash_check_kind(bdev, err);
    if (ret)
        return ret;
    pthread_mutex_lock(&d->lock);
    if (!d->off)
        ret = plx_fail(err, -EALREADY, "%s has power", bdev->info.name);
    else if (d->cutting && d->channels)
        ret = plx_fail(err, -EBUSY, "%s: what the cut leaves is not all on the disk below yet; try again",
                       bdev->info.name);
    if (!ret) {
        plx_list_del(&d->cut_job.link); /* if there was nobody to do it: then nothing is left */
        crash_drop_all(d);
        d->off = d->cutting = false;
    }
    pthread_mutex_unlock(&d->lock);
    return ret;
}

void plx_crash_choose(struct plx_bdev *bdev, plx_crash_choose_fn fn, void *arg)
{
    struct crash_disk *d = (struct crash_disk *)bdev;
    assert(bdev->ops == &crash_ops);
    d->choose = fn;
    d->choose_arg = arg;
}

void plx_crash_arm(struct plx_bdev *bdev, uint64_t writes, uint64_t requests)
{
    struct crash_disk *d = (struct crash_disk *)bdev;
    assert(bdev->ops == &crash_ops);
    d->cut_write = writes ? d->writes + writes : 0;
    d->cut_request = requests ? d->requests + requests : 0;
}

void plx_crash_seed(struct plx_bdev *bdev, uint64_t seed)
{
    struct crash_disk *d = (struct crash_disk *)bdev;
    assert(bdev->ops == &crash_ops);
    d->o.seed = d->random = seed;
    d->requests = d->writes = 0;
    d->cut_write = d->o.cut_write;
    d->cut_request = d->o.cut_request;
    if (d->mended)
        memset(d->mended, 0, (d->mended_blocks + 63) / 64 * sizeof *d->mended);
}

void plx_crash_look(struct plx_bdev *bdev, struct plx_crash_state *out)
{
    struct crash_disk *d = (struct crash_disk *)bdev;
    assert(bdev->ops == &crash_ops);
    pthread_mutex_lock(&d->lock);
    *out = (struct plx_crash_state){.seed = d->o.seed,
                                    .requests = d->requests,
                                    .writes = d->writes,
                                    .cuts = d->power,
                                    .held = d->held_count,
                                    .off = d->off,
                                    .settled = d->off && !d->cutting};
    pthread_mutex_unlock(&d->lock);
}

/* ---- making one ---- */

/* A seed where none is given, and memory. */
static int crash_fill(struct crash_disk *d, const struct plx_bdev *below, struct plx_error *err)
{
    uint8_t uuid[16];
    if (below->info.zone_blocks)
        return plx_fail(err, -ENOTSUP, "%s is zoned, and what is kept back here would reach its zones in another order",
                        below->info.name);
    if (!d->o.memory)
        d->o.memory = CRASH_MEMORY_DEFAULT;
    if (!d->o.seed) {
        int ret = plx_uuid_random(uuid);
        if (ret)
            return plx_fail(err, ret, "cannot make a seed: %s", strerror(-ret));
        memcpy(&d->o.seed, uuid, sizeof d->o.seed);
        plx_info("%s: the disk over it, whose power is cut, has seed=%llu", below->info.name,
                 (unsigned long long)d->o.seed);
    }
    d->random = d->o.seed;
    d->scratch = aligned_alloc(below->info.block_size, below->info.block_size);
    if (d->o.latent) {
        d->mended_blocks = plx_bdev_blocks(below);
        d->mended = calloc((d->mended_blocks + 63) / 64, sizeof *d->mended);
    }
    if (!d->scratch || (d->o.latent && !d->mended))
        return plx_fail(err, -ENOMEM, "out of memory");
    return 0;
}

static void crash_fill_info(struct plx_bdev_info *info)
{
    info->ops &= 1 << PLX_BDEV_READ | 1 << PLX_BDEV_WRITE | 1 << PLX_BDEV_UNMAP | 1 << PLX_BDEV_ALLOCATED;
    info->ops |= 1 << PLX_BDEV_WRITE_ZEROES | 1 << PLX_BDEV_FLUSH;
    info->write_cache = true;
    info->unmap_reads_zero = true; /* an unmap is done by write zeroes that may free the space */
    info->max_unmap_blocks = UINT32_MAX;
}

static int crash_new(struct plx_bdev *below, const uint8_t *uuid, const struct crash_opts *o, struct crash_disk **out,
                     struct plx_error *err)
{
    struct crash_disk *d = calloc(1, sizeof *d);
    if (!d)
        return plx_fail(err, -ENOMEM, "out of memory");
    pthread_mutex_init(&d->lock, NULL);
    plx_list_init(&d->held);
    plx_list_init(&d->reads);
    plx_list_init(&d->jobs);
    plx_list_init(&d->cut_job.link);
    d->o = *o;
    d->cut_write = o->cut_write;
    d->cut_request = o->cut_request;
    d->f.bdev.channel_size = sizeof(struct crash_channel);
    d->f.bdev.subs = CRASH_SUBS;
    int ret = plx_filter_init(&d->f, below, &crash_ops, crash_wake, uuid, err);
    crash_fill_info(&d->f.bdev.info);
    if (!ret)
        ret = crash_fill(d, below, err);
    if (ret)
        crash_close(&d->f.bdev);
    else
        *out = d;
    return ret;
}

/* ---- settings ---- */

static int crash_parse_torn(const struct plx_url *url, enum crash_torn *torn, struct plx_error *err)
{
    static const char *const names[] = {"block", "sector", "none"};
    const char *text = plx_url_param(url, "torn");
    for (unsigned i = 0; text && i < PLX_ARRAY_SIZE(names); i++) {
        *torn = (enum crash_torn)i;
        if (!strcmp(text, names[i]))
            return 0;
    }
    return text ? plx_fail(err, -EINVAL, "%s: torn=%.40s: writes are torn at a block or a sector, or none is",
                           url->name, text)
                : 0;
}

static int crash_parse_memory(const struct plx_url *url, uint64_t *memory, struct plx_error *err)
{
    const char *text = plx_url_param(url, "memory");
    if (!text || (!plx_parse_size(text, memory) && *memory >= CRASH_MEMORY_MIN))
        return 0;
    return plx_fail(err, -EINVAL, "%s: memory=%.40s: it is a size such as 256M, of 64K or more", url->name, text);
}

static int crash_parse_numbers(const struct plx_url *url, struct crash_opts *o, struct plx_error *err)
{
    uint64_t garbage = 0, misdirect = 0, latent = 0;
    int ret = plx_filter_number(url, "seed", 1, UINT64_MAX, &o->seed, err);
    if (!ret)
        ret = plx_filter_number(url, "cut_write", 1, UINT64_MAX, &o->cut_write, err);
    if (!ret)
        ret = plx_filter_number(url, "cut_request", 1, UINT64_MAX, &o->cut_request, err);
    if (!ret)
        ret = plx_filter_number(url, "cut_chance", 1, UINT64_MAX, &o->cut_chance, err);
    if (!ret)
        ret = plx_filter_number(url, "garbage", 0, CRASH_PER_MILLE, &garbage, err);
    if (!ret)
        ret = plx_filter_number(url, "misdirect", 0, CRASH_PER_MILLE, &misdirect, err);
    if (!ret)
        ret = plx_filter_number(url, "latent", 0, CRASH_PER_MILLE, &latent, err);
    o->garbage = (uint32_t)garbage;
    o->misdirect = (uint32_t)misdirect;
    o->latent = (uint32_t)latent;
    return ret;
}

static int crash_parse(const struct plx_url *url, struct crash_opts *o, uint8_t uuid[16], struct plx_error *err)
{
    int ret = plx_filter_only(
        url, "seed cut_write cut_request cut_chance torn garbage misdirect latent lie memory latency uuid", err);
    if (!ret)
        ret = crash_parse_numbers(url, o, err);
    if (!ret)
        ret = crash_parse_torn(url, &o->torn, err);
    if (!ret)
        ret = plx_url_bool(url, "lie", &o->lie, err);
    if (!ret)
        ret = crash_parse_memory(url, &o->memory, err);
    if (!ret)
        ret = plx_filter_time(url, "latency", &o->latency_us, err);
    return ret ? ret : plx_url_uuid(url, NULL, uuid, err);
}

static int crash_open(const struct plx_url *url, struct plx_bdev **out, struct plx_error *err)
{
    struct crash_opts o = {0};
    struct plx_bdev *below;
    struct crash_disk *d = NULL;
    uint8_t uuid[16];
    bool opened;
    int ret = crash_parse(url, &o, uuid, err);
    if (!ret)
        ret = plx_bdev_find_below(url, &below, &opened, err);
    if (ret)
        return ret;
    ret = crash_new(below, uuid, &o, &d, err);
    if (ret) {
        if (opened)
            plx_bdev_close(below);
        return ret;
    }
    d->f.opened = opened ? below : NULL;
    *out = &d->f.bdev;
    return 0;
}

const struct plx_bdev_driver plx_bdev_filter_crash = {
    .scheme = "crash",
    .help = "crash:DISK[?seed=N&cut_write=N]  a disk that loses what was not flushed when its power is cut, for tests",
    .open = crash_open,
};
