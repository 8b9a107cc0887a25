/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Copying: many chunks under way at once, each through the steps read, then write (or compare). Within a chunk, runs of
 * zeroes are not transferred: the destination is told to be zero there, and may free the space.
 */
#include "cp.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct cp_slot {
    struct cp_slot *next; /* free ones */
    struct cp_job *job;
    struct plx_bdev_req req;
    struct iovec iov;
    uint8_t *data;
    uint64_t at;           /* where the chunk begins */
    uint32_t len;          /* its bytes */
    uint32_t run, run_end; /* of it, what is being written */
};

static uint32_t min_u32(uint64_t a, uint64_t b)
{
    return (uint32_t)(a < b ? a : b);
}

static void cp_submit(struct cp_slot *s, struct plx_bdev_channel *ch, enum plx_bdev_op op, uint32_t from, uint32_t to,
                      void (*done)(struct plx_bdev_req *))
{
    uint32_t block = plx_bdev_info(plx_bdev_channel_bdev(ch))->block_size;
    s->iov = (struct iovec){s->data + from, to - from};
    s->req.done = done;
    s->req.iov = &s->iov;
    s->req.iovcnt = op == PLX_BDEV_WRITE_ZEROES || op == PLX_BDEV_FLUSH ? 0 : 1;
    s->req.op = (uint8_t)op;
    s->req.flags = op == PLX_BDEV_WRITE_ZEROES ? PLX_BDEV_UNMAP_OK : 0;
    s->req.lba = (s->at + from) / block;
    s->req.nlb = (to - from) / block;
    plx_bdev_submit(ch, &s->req);
}

static struct cp_slot *cp_slot_of(struct plx_bdev_req *req)
{
    return (struct cp_slot *)(void *)((char *)req - offsetof(struct cp_slot, req));
}

/* ---- the end ---- */

static void cp_flushed(struct plx_bdev_req *req)
{
    struct cp_slot *s = cp_slot_of(req);
    if (req->status && !s->job->status) {
        s->job->status = req->status;
        s->job->what = "flushing";
        s->job->of_source = false;
        s->job->where = s->job->bytes;
    }
    plx_reactor_stop(s->job->reactor);
}

static void all_done(struct cp_job *job)
{
    if (job->status || job->verify)
        plx_reactor_stop(job->reactor);
    else
        cp_submit(&job->slots[0], job->to, PLX_BDEV_FLUSH, 0, 0, cp_flushed);
}

/* ---- a chunk ---- */

static void begin_chunk(struct cp_slot *s);

/*
 * Slots that are free take the next chunks from here, one after the other: on disks that complete at once chunks would
 * otherwise begin each other, ever deeper.
 */
static void begin_ready(struct cp_job *job)
{
    if (job->beginning)
        return;
    job->beginning = true;
    while (job->ready) {
        struct cp_slot *s = job->ready;
        job->ready = s->next;
        if (!job->status && job->next < job->bytes)
            begin_chunk(s);
    }
    job->beginning = false;
    if (!job->busy)
        all_done(job);
}

static void end_chunk(struct cp_slot *s)
{
    struct cp_job *job = s->job;
    job->busy--;
    s->next = job->ready;
    job->ready = s;
    begin_ready(job);
}

static bool cp_failed(struct cp_slot *s, const char *what, uint32_t offset)
{
    struct cp_job *job = s->job;
    if (!s->req.status)
        return false;
    if (!job->status) {
        job->status = s->req.status;
        job->what = what;
        job->of_source = s->req.ch == job->from;
        job->where = s->at + offset;
    }
    return true;
}

static bool all_zero(const uint8_t *p, size_t n)
{
    return p[0] == 0 && memcmp(p, p + 1, n - 1) == 0;
}

static bool grain_zero(const struct cp_slot *s, uint32_t at)
{
    return all_zero(s->data + at, min_u32(s->len - at, CP_GRAIN));
}

static void next_run(struct cp_slot *s);

static void run_written(struct plx_bdev_req *req)
{
    struct cp_slot *s = cp_slot_of(req);
    if (cp_failed(s, "writing", s->run)) {
        end_chunk(s);
        return;
    }
    s->job->done += s->run_end - s->run;
    s->run = s->run_end;
    next_run(s);
}

/* Grains that are alike, zero or not, go together. What needs no writing is passed over in the loop. */
static void next_run(struct cp_slot *s)
{
    struct cp_job *job = s->job;
    while (s->run < s->len) {
        bool zero = grain_zero(s, s->run);
        s->run_end = s->run;
        do
            s->run_end += min_u32(s->len - s->run_end, CP_GRAIN);
        while (s->run_end < s->len && grain_zero(s, s->run_end) == zero);
        if (zero)
            job->zeroes += s->run_end - s->run;
        if (!zero || !job->fresh) {
            cp_submit(s, job->to, zero ? PLX_BDEV_WRITE_ZEROES : PLX_BDEV_WRITE, s->run, s->run_end, run_written);
            return;
        }
        job->done += s->run_end - s->run;
        s->run = s->run_end;
    }
    end_chunk(s);
}

static void compared(struct plx_bdev_req *req)
{
    struct cp_slot *s = cp_slot_of(req);
    if (!cp_failed(s, "comparing", 0))
        s->job->done += s->len;
    end_chunk(s);
}

static void chunk_read(struct plx_bdev_req *req)
{
    struct cp_slot *s = cp_slot_of(req);
    s->run = 0;
    if (cp_failed(s, "reading", 0))
        end_chunk(s);
    else if (s->job->verify)
        cp_submit(s, s->job->to, PLX_BDEV_COMPARE, 0, s->len, compared);
    else
        next_run(s);
}

static void begin_chunk(struct cp_slot *s)
{
    struct cp_job *job = s->job;
    s->at = job->next;
    s->len = min_u32(job->bytes - job->next, job->chunk);
    job->next += s->len;
    job->busy++;
    if (plx_bdev_info(job->src)->undefined_reads)
        memset(s->data, 0, s->len);
    cp_submit(s, job->from, PLX_BDEV_READ, 0, s->len, chunk_read);
}

void cp_run(struct cp_job *job)
{
    job->next = job->done = job->zeroes = 0;
    job->busy = 0;
    job->ready = NULL;
    for (unsigned i = job->depth; i-- > 0;) {
        job->slots[i].next = job->ready;
        job->ready = &job->slots[i];
    }
    begin_ready(job);
}

/* ---- beginning and end ---- */

int cp_begin(struct cp_job *job)
{
    int ret = plx_bdev_channel_get(job->src, job->reactor, &job->from);
    if (ret)
        return ret;
    ret = plx_bdev_channel_get(job->dst, job->reactor, &job->to);
    if (ret) {
        plx_bdev_channel_put(job->from);
        job->from = NULL;
        return ret;
    }
    job->slots = aligned_alloc(16, job->depth * sizeof *job->slots);
    if (job->slots)
        memset(job->slots, 0, job->depth * sizeof *job->slots);
    job->shared = plx_bdev_info(job->src)->shares_memory || plx_bdev_info(job->dst)->shares_memory;
    const size_t bytes = (size_t)job->depth * job->chunk;
    job->memory = job->shared ? plx_shared_alloc(bytes) : aligned_alloc(4096, bytes);
    ret = job->slots && job->memory ? 0 : -ENOMEM;
    if (!ret && !job->shared)
        plx_memory_add(job->memory, bytes);
    for (unsigned i = 0; i < job->depth && !ret; i++) {
        job->slots[i].job = job;
        job->slots[i].data = job->memory + (size_t)i * job->chunk;
    }
    if (ret)
        cp_end(job);
    return ret;
}

void cp_end(struct cp_job *job)
{
    free(job->slots);
    if (job->shared) {
        plx_shared_free(job->memory);
    } else {
        plx_memory_remove(job->memory);
        free(job->memory);
    }
    if (job->to)
        plx_bdev_channel_put(job->to);
    if (job->from)
        plx_bdev_channel_put(job->from);
    job->to = job->from = NULL;
}
