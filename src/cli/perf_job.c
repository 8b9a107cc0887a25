/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The path of a request of `pollux perf`, and the phases of a job.
 *
 * Completions only push their slot onto the worker's stack; a step takes all that is there, with one look at the clock, notes the latencies and submits
 * the slots again. A disk that completes within plx_bdev_submit() so fills the stack of the next step instead of recursing.
 *
 * A latency thus runs from the clock read before a batch was submitted to the clock read after the completion was found: never less than
 * what a caller sees, and at most a batch more.
 */
#include "perf.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    BUDGET = 256, /* requests of disks in place before the reactor looks at everything else again */
    SLOT_ALIGN = 128,
    DUE_SHIFT = 16,
};

#define NS_PER_S UINT64_C(1000000000)

static struct perf_slot *slot_of(struct plx_bdev_req *req)
{
    return (struct perf_slot *)((char *)req - offsetof(struct perf_slot, req));
}

static struct perf_job *job_of_timer(struct plx_timer *t)
{
    return (struct perf_job *)((char *)t - offsetof(struct perf_job, timer));
}

static void request_done(struct plx_bdev_req *req)
{
    struct perf_slot *s = slot_of(req);
    struct perf_worker *w = s->job->worker;
    w->ready[w->nready++] = s;
}

/* ---- submitting ---- */

/* xorshift64*: its high bits, which choose the place, are the good ones. */
static inline uint64_t next_random(uint64_t *state)
{
    uint64_t x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return x * UINT64_C(0x2545f4914f6cdd1d);
}

static inline uint64_t choose_unit(struct perf_job *job, uint64_t random)
{
    if (job->randomly)
        return (uint64_t)(((unsigned __int128)random * job->units) >> 64);
    uint64_t unit = job->cursor++;
    if (job->cursor == job->units)
        job->cursor = 0;
    return unit;
}

static inline void submit(struct perf_job *job, struct perf_slot *s, uint64_t start)
{
    uint64_t random = next_random(&job->random);
    uint64_t unit = choose_unit(job, random);
    s->start = start;
    s->req.op = (random & 0xffff) < job->read_below ? PLX_BDEV_READ : PLX_BDEV_WRITE;
    if (__builtin_expect(job->verify != NULL, 0))
        unit = perf_verify_begin(job, s, unit);
    s->req.lba = job->first_lba + unit * job->unit_blocks;
    job->in_flight++;
    plx_bdev_submit(job->ch, &s->req);
}

/* Sends what the schedule says is due, as far as there are slots; what waits for one is late, and its latency says so. */
static int submit_due(struct perf_job *job, uint64_t now)
{
    int n = 0;
    while (job->nfree && job->left && job->due >> DUE_SHIFT <= now) {
        job->left--;
        submit(job, job->free[--job->nfree], job->due >> DUE_SHIFT);
        job->due += job->interval;
        n++;
    }
    return n;
}

/* ---- phases ---- */

static void job_through(struct perf_job *job)
{
    struct perf_worker *w = job->worker;
    uint64_t one = 1;
    if (--w->busy == 0 && write(w->notify, &one, sizeof one) < 0)
        abort(); /* cannot be: nothing counts that far */
}

/* Reads one unit that was written, or ends the job when there is none left. */
static void read_back(struct perf_job *job, struct perf_slot *s)
{
    if (!perf_verify_written(job, &job->cursor)) {
        if (!job->in_flight) {
            job->phase = PERF_OVER;
            job_through(job);
        }
        return;
    }
    s->req.op = PLX_BDEV_READ;
    s->req.lba = job->first_lba + perf_verify_begin(job, s, job->cursor++) * job->unit_blocks;
    job->in_flight++;
    plx_bdev_submit(job->ch, &s->req);
}

/* Nothing is in flight any more. */
static void drained(struct perf_job *job)
{
    job->phase = PERF_OVER;
    if (job->verify && job->read_below < 65536) {
        job->phase = PERF_READBACK;
        job->cursor = 0;
        for (uint32_t i = 0; i < job->nslots && job->phase == PERF_READBACK; i++)
            read_back(job, job->slots[i]);
    } else {
        job_through(job);
    }
}

static void close_window(struct perf_job *job, uint64_t now)
{
    job->phase = PERF_DRAINING;
    job->ended = now;
    plx_timer_cancel(job->worker->reactor, &job->timer);
    if (job->interval && job->due >> DUE_SHIFT < job->end && now > job->due >> DUE_SHIFT) {
        uint64_t until = now < job->end ? now : job->end;
        uint64_t late = ((until << DUE_SHIFT) - job->due) / job->interval;
        job->late = late < job->left ? late : job->left;
    }
    if (!job->in_flight)
        drained(job);
}

static void check_end(struct perf_job *job, uint64_t now)
{
    if (job->phase == PERF_RUNNING && (now >= job->end || (!job->left && !job->in_flight)))
        close_window(job, now);
    else if (job->phase == PERF_DRAINING && !job->in_flight)
        drained(job);
}

/* When a job has to be looked at though nothing completes: at its end, or when the next request is due. */
static void set_timer(struct perf_job *job, uint64_t now)
{
    struct perf_worker *w = job->worker;
    if (job->phase != PERF_RUNNING)
        return;
    uint64_t at = job->end;
    if (w->paced && w->sleeps && job->nfree && job->left && job->due >> DUE_SHIFT < at)
        at = job->due >> DUE_SHIFT;
    plx_timer_set(w->reactor, &job->timer, at > now ? at - now : 0);
}

/* ---- completing ---- */

static inline void publish(_Atomic uint64_t *to, uint64_t add)
{
    atomic_store_explicit(to, atomic_load_explicit(to, memory_order_relaxed) + add, memory_order_relaxed);
}

/* Counts requests of one job that have the same latency. */
static inline void count(struct perf_job *job, uint64_t latency, uint32_t n)
{
    job->in_flight -= n;
    if (job->phase == PERF_RUNNING)
        publish(&job->done, n);
    else if (job->phase != PERF_DRAINING)
        return;
    histogram_add(&job->latency, latency, n);
    publish(&job->latency_sum, latency * n);
}

static void failed(struct perf_job *job, struct perf_slot *s)
{
    job->in_flight--;
    if (!job->errors++)
        job->first_error = s->req.status;
}

/* Notes what a batch of slots took. Those that were submitted in one step are counted at once. */
static void collect(struct perf_slot **batch, uint32_t n, uint64_t now)
{
    struct perf_job *job = batch[0]->job;
    uint64_t start = batch[0]->start;
    uint32_t same = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct perf_slot *s = batch[i];
        if (__builtin_expect(s->job->verify != NULL, 0) && s->job->phase != PERF_PROBING)
            perf_verify_end(s->job, s);
        if (__builtin_expect(s->req.status != PLX_SC_SUCCESS, 0)) {
            failed(s->job, s);
            continue;
        }
        if (s->start != start || s->job != job) {
            if (same)
                count(job, now - start, same);
            job = s->job;
            start = s->start;
            same = 0;
        }
        same++;
    }
    if (same)
        count(job, now - start, same);
}

/* What becomes of a slot whose request has completed. */
static inline void reuse(struct perf_slot *s, uint64_t now)
{
    struct perf_job *job = s->job;
    switch (job->phase) {
    case PERF_RUNNING:
        if (job->interval) {
            job->free[job->nfree++] = s;
        } else if (job->left && now < job->end) {
            job->left--;
            submit(job, s, now);
        } else {
            check_end(job, now);
        }
        break;
    case PERF_PROBING:
        job_through(job);
        break;
    case PERF_READBACK:
        read_back(job, s);
        break;
    default:
        check_end(job, now);
        break;
    }
}

static int step(struct perf_worker *w)
{
    uint32_t n = w->nready;
    uint64_t now = plx_reactor_clock(w->reactor);
    struct perf_slot **batch = w->ready;
    w->ready = w->spare;
    w->spare = batch;
    w->nready = 0;
    collect(batch, n, now);
    for (uint32_t i = 0; i < n; i++)
        reuse(batch[i], now);
    return (int)n;
}

static int step_paced(struct perf_worker *w)
{
    int n = 0;
    for (unsigned i = 0; i < w->njobs; i++) {
        struct perf_job *job = w->jobs[i];
        /* The round's time is a little old: only when it says so is a fresh one needed. */
        if (job->phase != PERF_RUNNING || !job->nfree || job->due >> DUE_SHIFT > plx_reactor_now(w->reactor))
            continue;
        uint64_t now = plx_reactor_clock(w->reactor);
        if (now < job->end)
            n += submit_due(job, now);
        check_end(job, now);
        if (w->sleeps)
            set_timer(job, now);
    }
    return n;
}

static struct perf_worker *worker_of(struct plx_source *s)
{
    return (struct perf_worker *)((char *)s - offsetof(struct perf_worker, source));
}

static int worker_poll(struct plx_source *s)
{
    struct perf_worker *w = worker_of(s);
    int work = 0;
    while (w->nready && work < BUDGET)
        work += step(w);
    if (w->paced)
        work += step_paced(w);
    return work;
}

static int worker_arm(struct plx_source *s)
{
    return worker_of(s)->nready > 0;
}

static const struct plx_source_ops worker_ops = {.poll = worker_poll, .arm = worker_arm};

static void timer_due(struct plx_timer *t)
{
    struct perf_job *job = job_of_timer(t);
    uint64_t now = plx_reactor_clock(job->worker->reactor);
    if (job->phase == PERF_RUNNING && job->interval && now < job->end)
        submit_due(job, now);
    check_end(job, now);
    set_timer(job, now);
}

/* ---- what a worker is told to do ---- */

void perf_probe(struct perf_worker *w)
{
    w->busy = w->njobs;
    for (unsigned i = 0; i < w->njobs; i++) {
        struct perf_job *job = w->jobs[i];
        struct perf_slot *s = job->slots[0];
        job->phase = PERF_PROBING;
        s->start = plx_reactor_clock(w->reactor);
        s->req.op = PLX_BDEV_READ;
        s->req.lba = job->first_lba;
        job->in_flight++;
        plx_bdev_submit(job->ch, &s->req);
    }
}

static void job_start(struct perf_job *job, uint64_t now)
{
    job->phase = PERF_RUNNING;
    job->started = now;
    job->end = now + job->time_ns;
    job->due += now << DUE_SHIFT;
    for (uint32_t i = 0; i < job->nslots; i++) {
        if (job->interval) {
            job->free[job->nfree++] = job->slots[i];
        } else if (job->left) {
            job->left--;
            submit(job, job->slots[i], now);
        }
    }
    set_timer(job, now);
}

void perf_start(struct perf_worker *w)
{
    uint64_t now = plx_reactor_clock(w->reactor);
    w->busy = w->njobs;
    for (unsigned i = 0; i < w->njobs; i++)
        job_start(w->jobs[i], now);
}

void perf_stop(struct perf_worker *w)
{
    uint64_t now = plx_reactor_clock(w->reactor);
    for (unsigned i = 0; i < w->njobs; i++) {
        struct perf_job *job = w->jobs[i];
        if (job->phase == PERF_READBACK)
            job->cursor = job->units; /* no more of it */
        if (job->phase == PERF_RUNNING) {
            job->end = now;
            check_end(job, now);
        }
    }
}

void perf_abort(struct perf_worker *w)
{
    for (unsigned i = 0; i < w->njobs; i++) {
        struct perf_job *job = w->jobs[i];
        for (uint32_t k = 0; k < job->nslots; k++)
            if (job->slots[k]->req.status == UINT16_MAX)
                plx_bdev_abort(job->ch, &job->slots[k]->req);
    }
}
