/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a disk whose power is cut does to the disk below: flushes, writes that are to be persistent at once, making
 * room, and what a cut leaves. One job at a time, of all reactors, and of that one request at a time: so no two writes
 * of the same blocks are below together. No write gets there before an earlier one of the same blocks, even where only
 * the later one has to: any write may get there at any time.
 */
#include "crash_disk.h"

#include <assert.h>

/* ---- requests below ---- */

static void jobs_go(struct crash_disk *d, struct crash_job *job);

static void crash_below_done(struct plx_bdev_req *below)
{
    struct crash_disk *d = plx_container_of(below, struct crash_disk, below);
    d->waiting = false;
    if (!d->stepping)
        jobs_go(d, d->job);
}

void crash_below(struct crash_disk *d, enum plx_bdev_op op, uint8_t flags, uint64_t lba, uint32_t nlb, void *data)
{
    d->iov = (struct iovec){data, (size_t)nlb << d->f.bdev.block_shift};
    d->below.done = crash_below_done;
    d->below.iov = &d->iov;
    d->below.iovcnt = 1;
    d->below.op = (uint8_t)op;
    d->below.flags = flags;
    d->below.lba = lba;
    d->below.nlb = nlb;
    d->waiting = true;
    plx_bdev_submit(d->job->ch->below, &d->below);
}

/* ---- which write is next ---- */

static bool held_overlap(const struct crash_held *a, const struct crash_held *b)
{
    return a->lba < b->lba + b->nlb && b->lba < a->lba + a->nlb;
}

/* What is to get below before this write: the earliest of those that it lies upon, and that they lie upon. */
static struct crash_held *earliest_under(struct crash_disk *d, struct crash_held *w)
{
    struct plx_list *it = d->held.next;
    while (it != &w->link) {
        struct crash_held *earlier = plx_list_entry(it, struct crash_held, link);
        it = it->next;
        if (!held_overlap(earlier, w))
            continue;
        w = earlier;
        it = d->held.next;
    }
    return w;
}

static bool job_wants(const struct crash_disk *d, const struct crash_job *job, const struct crash_held *w)
{
    switch (job->kind) {
    case CRASH_FLUSH:
        return w->ended && w->ended <= job->which;
    case CRASH_PERSIST:
        return w->id == job->which;
    case CRASH_ROOM:
        return !crash_has_room(d, job->which);
    case CRASH_CUT:
        break;
    }
    return false;
}

static struct crash_held *job_next_write(struct crash_disk *d, const struct crash_job *job)
{
    plx_list_for_each(it, &d->held) {
        struct crash_held *w = plx_list_entry(it, struct crash_held, link);
        if (job_wants(d, job, w))
            return earliest_under(d, w);
    }
    return NULL;
}

/* ---- jobs ---- */

/* What was begun below has ended. Under the lock. */
static void job_hears(struct crash_disk *d, struct crash_job *job)
{
    const uint64_t blocks = plx_bdev_blocks(d->f.bdev.below);
    struct crash_held *w = d->persisting;
    uint16_t status = d->below.status;
    if (w && status == PLX_SC_LBA_OUT_OF_RANGE && w->lba < blocks && w->nlb > blocks - w->lba) {
        w->nlb = (uint32_t)(blocks - w->lba); /* a disk that shrank: what it still has a place for is tried again */
    } else if (w && (!status || status == PLX_SC_LBA_OUT_OF_RANGE)) {
        crash_mend(d, w->lba, w->nlb);
        crash_drop(d, w);
    } else if (d->persisting || job->flushed) {
        job->status = status;
    }
    d->persisting = NULL;
}

/* @return false when it has ended */
static bool job_step(struct crash_disk *d)
{
    struct crash_job *job = d->job;
    struct crash_held *w = NULL;
    bool over;
    if (job->kind == CRASH_CUT)
        return crash_cut_step(d);
    pthread_mutex_lock(&d->lock);
    job_hears(d, job);
    if (job->power != d->power)
        job->status = CRASH_OFF;
    over = job->status || job->flushed;
    if (!over)
        w = d->persisting = job_next_write(d, job);
    pthread_mutex_unlock(&d->lock);
    if (w && w->op == PLX_BDEV_WRITE) {
        crash_below(d, PLX_BDEV_WRITE, 0, w->lba, w->nlb, w->data);
    } else if (w) {
        crash_below(d, PLX_BDEV_WRITE_ZEROES, w->op == PLX_BDEV_UNMAP ? PLX_BDEV_UNMAP_OK : 0, w->lba, w->nlb, NULL);
    } else if (!over && job->kind != CRASH_ROOM) {
        job->flushed = true;
        crash_below(d, PLX_BDEV_FLUSH, 0, 0, 0, NULL);
    } else {
        return false;
    }
    return true;
}

/* A loop rather than a recursion: what completes at once only clears `waiting`. @return whether the job has ended */
static bool job_drive(struct crash_disk *d)
{
    bool more;
    d->stepping = true;
    do
        more = job_step(d);
    while (more && !d->waiting);
    d->stepping = false;
    return !more;
}

void crash_job_add(struct crash_disk *d, struct crash_job *job, struct plx_bdev_channel *ch)
{
    job->ch = ch;
    job->flushed = false;
    job->status = PLX_SC_SUCCESS;
    plx_list_add_tail(&d->jobs, &job->link);
}

/* The next job, if it is this channel's turn; others are told when it is theirs. Under the lock. */
static struct crash_job *job_take(struct crash_disk *d, struct plx_bdev_channel *ch)
{
    if (d->job || plx_list_empty(&d->jobs))
        return NULL;
    struct crash_job *job = plx_list_entry(d->jobs.next, struct crash_job, link);
    if (job->ch && job->ch != ch) {
        plx_filter_ring(&d->f);
        return NULL;
    }
    if (!job->ch && plx_bdev_channel_get(&d->f.bdev, ch->reactor, &job->ch)) /* a call is no request that keeps it */
        assert(!"the channel is there");
    d->job = job;
    return job;
}

static void jobs_go(struct crash_disk *d, struct crash_job *job)
{
    while (job && job_drive(d)) {
        struct crash_job *ended = job;
        struct plx_bdev_channel *ch = ended->ch;
        bool cut = ended->kind == CRASH_CUT, call = ended == &d->cut_job;
        if (cut)
            crash_cut_end(d);
        pthread_mutex_lock(&d->lock);
        plx_list_del(&ended->link);
        d->job = NULL;
        d->cutting &= !cut;
        job = job_take(d, ch); /* before its request ends: the channel is there as long as it has others */
        pthread_mutex_unlock(&d->lock);
        if (call)
            plx_bdev_channel_put(ch);
        else
            crash_job_over(ended);
    }
}

void crash_jobs_run(struct plx_bdev_channel *ch)
{
    struct crash_disk *d = crash_disk_of(ch);
    pthread_mutex_lock(&d->lock);
    struct crash_job *job = job_take(d, ch);
    pthread_mutex_unlock(&d->lock);
    jobs_go(d, job);
}
