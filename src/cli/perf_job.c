/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The path of a request of `pollux perf`, and the phases of a job.
 *
 * Completions only push their slot onto the worker's stack; a step takes all that is there, with one look at the clock,
 * notes the latencies and submits the slots again. A disk that completes within plx_bdev_submit() so fills the stack of
 * the next step instead of recursing.
 *
 * A latency thus runs from the clock read before a batch was submitted to the clock read after the completion was
 * found: never less than what a caller sees, and at most a batch more.
 */
#include "perf.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    BUDGET = 256, /* requests of disks in place before the reactor looks at everything else again */
    LINE = 128,   /* what different slots write to is kept this far apart */
    PAGE = 4096,
    DUE_SHIFT = 16,
    PENDING = UINT16_MAX, /* the status of a request in flight: no disk ends one with it */
    STALL_MS = 500,       /* less than what connecting again takes at least */
};

#define NS_PER_S UINT64_C(1000000000)
#define FOR_EVER (UINT64_C(1) << 62)

static struct perf_slot *job_slot_of(struct plx_bdev_req *req)
{
    return (struct perf_slot *)((char *)req - offsetof(struct perf_slot, req));
}

static struct perf_job *job_of_timer(struct plx_timer *t)
{
    return (struct perf_job *)((char *)t - offsetof(struct perf_job, timer));
}

static void request_done(struct plx_bdev_req *req)
{
    struct perf_slot *s = job_slot_of(req);
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

static inline void job_submit(struct perf_job *job, struct perf_slot *s, uint64_t start)
{
    uint64_t random = next_random(&job->random);
    uint64_t unit = choose_unit(job, random);
    s->start = start;
    s->req.status = PENDING;
    s->req.op = (random & 0xffff) < job->read_below ? PLX_BDEV_READ : PLX_BDEV_WRITE;
    if (job->apart)
        s->iov.iov_base = s->data[s->req.op == PLX_BDEV_WRITE];
    if (__builtin_expect(job->verify != NULL, 0))
        unit = perf_verify_begin(job, s, unit);
    s->req.lba = job->first_lba + unit * job->unit_blocks;
    job->in_flight++;
    plx_bdev_submit(job->ch, &s->req);
}

/* When the next request is due, by schedule. */
static inline uint64_t due_at(const struct perf_job *job)
{
    return job->started + (job->due >> DUE_SHIFT);
}

/*
 * Sends what the schedule says is due, as far as there are slots; what waits for one is late, and its latency says so.
 */
static int submit_due(struct perf_job *job, uint64_t now)
{
    int n = 0;
    while (job->nfree && job->left && due_at(job) <= now) {
        job->left--;
        job_submit(job, job->free[--job->nfree], due_at(job));
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

/* Reads a unit that was written. @return false when there is none left */
static bool read_back(struct perf_job *job, struct perf_slot *s)
{
    if (!perf_verify_written(job, &job->cursor))
        return false;
    s->req.status = PENDING;
    s->req.op = PLX_BDEV_READ;
    s->start = plx_reactor_now(job->worker->reactor);
    s->req.lba = job->first_lba + perf_verify_begin(job, s, job->cursor++) * job->unit_blocks;
    job->in_flight++;
    plx_bdev_submit(job->ch, &s->req);
    return true;
}

/* Nothing is in flight after the end: what was written is read once more, if it is to be verified. */
static void job_drained(struct perf_job *job)
{
    bool more = job->phase == PERF_DRAINING && job->verify && job->read_below < 65536;
    if (more) {
        job->phase = PERF_READBACK;
        job->cursor = 0;
        for (uint32_t i = 0; i < job->nslots && more; i++)
            more = read_back(job, job->slots[i]);
    }
    if (!job->in_flight) {
        job->phase = PERF_OVER;
        job_through(job);
    }
}

static void close_window(struct perf_job *job, uint64_t now)
{
    job->phase = PERF_DRAINING;
    job->ended = now;
    plx_timer_cancel(job->worker->reactor, &job->timer);
    if (!job->interval)
        return;
    uint64_t until = now < job->end ? now : job->end;
    if (job->left && due_at(job) < until) {
        uint64_t late = ((until - due_at(job)) << DUE_SHIFT) / job->interval + 1;
        job->late = late < job->left ? late : job->left;
    }
}

static void check_end(struct perf_job *job, uint64_t now)
{
    if (job->phase == PERF_RUNNING && (now >= job->end || (!job->left && !job->in_flight)))
        close_window(job, now);
    if ((job->phase == PERF_DRAINING || job->phase == PERF_READBACK) && !job->in_flight)
        job_drained(job);
}

/* When a job has to be looked at though nothing completes: at its end, or when the next request is due. */
static void set_timer(struct perf_job *job)
{
    struct perf_worker *w = job->worker;
    if (job->phase != PERF_RUNNING)
        return;
    uint64_t at = job->end;
    if (w->paced && w->sleeps && job->nfree && job->left && due_at(job) < at)
        at = due_at(job);
    /* Timers count from the round's time; at least 1, so that it is not due again in this very round. */
    uint64_t now = plx_reactor_now(w->reactor);
    plx_timer_set(w->reactor, &job->timer, at > now ? at - now : 1);
}

/* ---- completing ---- */

static inline void publish(_Atomic uint64_t *to, uint64_t add)
{
    atomic_store_explicit(to, atomic_load_explicit(to, memory_order_relaxed) + add, memory_order_relaxed);
}

/* A request that was under way since `start` has ended. When nothing has for long, that was a stall. */
static inline void note_end(struct perf_job *job, uint64_t start, uint64_t now)
{
    uint64_t since = start > job->seen ? start : job->seen, ns = now - since;
    job->seen = now;
    if (__builtin_expect(ns < STALL_MS * UINT64_C(1000000), 1) || job->phase == PERF_PROBING)
        return;
    job->stalls++;
    job->stall_longest = ns > job->stall_longest ? ns : job->stall_longest;
}

/* Counts requests of one job that began at the same time. */
static inline void job_count(struct perf_job *job, uint64_t start, uint64_t now, uint32_t n)
{
    uint64_t latency = now - start;
    job->in_flight -= n;
    note_end(job, start, now);
    if (job->phase == PERF_RUNNING)
        publish(&job->done, n);
    else if (job->phase != PERF_DRAINING)
        return;
    histogram_add(&job->latency, latency, n);
    publish(&job->latency_sum, latency * n);
}

static void job_failed(struct perf_job *job, struct perf_slot *s, uint64_t now)
{
    job->in_flight--;
    note_end(job, s->start, now);
    if (!job->errors++)
        job->first_error = s->req.status;
}

void perf_give_up(struct perf_job *job, uint64_t now)
{
    if (job->in_flight)
        note_end(job, job->seen, now);
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
            job_failed(s->job, s, now);
            continue;
        }
        if (s->start != start || s->job != job) {
            if (same)
                job_count(job, start, now, same);
            job = s->job;
            start = s->start;
            same = 0;
        }
        same++;
    }
    if (same)
        job_count(job, start, now, same);
}

/*
 * What becomes of a slot whose request has completed. @return whether it got nothing to do, so that its job may be at
 * an end
 */
static inline bool reuse(struct perf_slot *s, uint64_t now)
{
    struct perf_job *job = s->job;
    switch (job->phase) {
    case PERF_RUNNING:
        if (job->interval) {
            job->free[job->nfree++] = s;
            if (job->nfree == 1 && job->worker->sleeps)
                set_timer(job);
            return !job->left;
        }
        if (!job->left || now >= job->end)
            return true;
        job->left--;
        job_submit(job, s, now);
        return false;
    case PERF_PROBING:
        job_through(job);
        return false;
    case PERF_READBACK:
        return !read_back(job, s);
    case PERF_DRAINING:
    case PERF_OVER:
        break;
    }
    return true;
}

static int step(struct perf_worker *w)
{
    uint32_t n = w->nready;
    uint64_t now = plx_reactor_clock(w->reactor);
    struct perf_slot **batch = w->ready;
    bool idle = false;
    w->ready = w->spare;
    w->spare = batch;
    w->nready = 0;
    collect(batch, n, now);
    for (uint32_t i = 0; i < n; i++)
        idle |= reuse(batch[i], now);
    /* Only now, as the next phase of a job takes all its slots at once. */
    for (unsigned i = 0; idle && i < w->njobs; i++)
        check_end(w->jobs[i], now);
    return (int)n;
}

static int step_paced(struct perf_worker *w)
{
    int n = 0;
    for (unsigned i = 0; i < w->njobs; i++) {
        struct perf_job *job = w->jobs[i];
        /* The round's time is a little old: only when it says so is a fresh one needed. */
        if (job->phase != PERF_RUNNING || !job->nfree || due_at(job) > plx_reactor_now(w->reactor))
            continue;
        uint64_t now = plx_reactor_clock(w->reactor);
        if (now < job->end)
            n += submit_due(job, now);
        check_end(job, now);
        if (w->sleeps)
            set_timer(job);
    }
    return n;
}

static struct perf_worker *job_worker_of(struct plx_source *s)
{
    return (struct perf_worker *)((char *)s - offsetof(struct perf_worker, source));
}

static int worker_poll(struct plx_source *s)
{
    struct perf_worker *w = job_worker_of(s);
    int work = 0;
    while (w->nready && work < BUDGET)
        work += step(w);
    if (w->paced)
        work += step_paced(w);
    return work;
}

static int worker_arm(struct plx_source *s)
{
    return job_worker_of(s)->nready > 0;
}

static const struct plx_source_ops worker_ops = {.poll = worker_poll, .arm = worker_arm};

static void timer_due(struct plx_timer *t)
{
    struct perf_job *job = job_of_timer(t);
    uint64_t now = plx_reactor_clock(job->worker->reactor);
    if (job->phase == PERF_RUNNING && job->interval && now < job->end)
        submit_due(job, now);
    check_end(job, now);
    set_timer(job);
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
        s->req.status = PENDING;
        s->req.op = PLX_BDEV_READ;
        s->req.lba = job->first_lba;
        job->in_flight++;
        plx_bdev_submit(job->ch, &s->req);
    }
}

static void job_start(struct perf_job *job, uint64_t now)
{
    job->phase = PERF_RUNNING;
    job->started = job->seen = now;
    job->end = now + job->time_ns;
    for (uint32_t i = 0; i < job->nslots; i++) {
        if (job->interval) {
            job->free[job->nfree++] = job->slots[i];
        } else if (job->left) {
            job->left--;
            job_submit(job, job->slots[i], now);
        }
    }
    set_timer(job);
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
        if (job->phase == PERF_PROBING && job->in_flight)
            plx_bdev_abort(job->ch, &job->slots[0]->req);
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
            if (job->slots[k]->req.status == PENDING)
                plx_bdev_abort(job->ch, &job->slots[k]->req);
    }
}

/* ---- memory ---- */

static size_t align_up(size_t v, size_t to)
{
    return (v + to - 1) / to * to;
}

static struct perf_slot *slot_init(struct perf_job *job, void *memory, size_t index)
{
    struct perf_slot *s = memory;
    char *data = (char *)job->buffers + index * job->size;
    s->job = job;
    s->data[0] = data;
    s->data[1] = job->apart ? data + (size_t)job->nslots * job->size : data;
    s->iov = (struct iovec){data, job->size};
    s->req.done = request_done;
    s->req.iov = &s->iov;
    s->req.iovcnt = 1;
    s->req.nlb = job->unit_blocks;
    return s;
}

/* Data that neither a disk nor a network could make less of. */
static void fill_buffers(struct perf_job *job)
{
    uint64_t *words = job->buffers, state = job->random;
    for (size_t i = 0; i < job->buffer_bytes / sizeof *words; i++)
        words[i] = next_random(&state);
}

static void *make_buffers(const struct perf_job *job)
{
    if (job->shared)
        return plx_shared_alloc(job->buffer_bytes);
    void *m = mmap(NULL, job->buffer_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m == MAP_FAILED)
        return NULL;
    madvise(m, job->buffer_bytes, MADV_HUGEPAGE);
    plx_memory_add(m, job->buffer_bytes);
    return m;
}

static void free_buffers(struct perf_job *job)
{
    if (job->shared) {
        plx_shared_free(job->buffers);
    } else if (job->buffers) {
        plx_memory_remove(job->buffers);
        munmap(job->buffers, job->buffer_bytes);
    }
}

static int make_slots(struct perf_job *job)
{
    size_t stride = align_up(sizeof(struct perf_slot), LINE);
    job->slots = calloc(job->nslots, sizeof(struct perf_slot *));
    job->free = calloc(job->nslots, sizeof(struct perf_slot *));
    job->slot_memory = aligned_alloc(LINE, job->nslots * stride);
    job->buffer_bytes = align_up((size_t)job->nslots * job->size * (job->apart ? 2 : 1), PAGE);
    job->buffers = make_buffers(job);
    if (!job->slots || !job->free || !job->slot_memory || !job->buffers)
        return -ENOMEM;
    fill_buffers(job);
    memset(job->slot_memory, 0, job->nslots * stride);
    for (uint32_t i = 0; i < job->nslots; i++)
        job->slots[i] = slot_init(job, (char *)job->slot_memory + i * stride, i);
    return 0;
}

/*
 * Requests that each have their place go through the whole disk once; those that go in order, or know what they wrote,
 * have parts of their own.
 */
static int share_out(struct perf_job *job, const struct perf_options *o, const struct plx_bdev_info *info,
                     uint32_t index)
{
    uint64_t units = info->blocks / job->unit_blocks;
    bool parts = !o->random || o->verify;
    job->units = parts ? units / o->qpairs : units;
    job->first_lba = parts ? index * job->units * job->unit_blocks : 0;
    if (!job->units || (o->verify && job->units < job->nslots))
        return cli_fail(EXIT_USAGE, "%s is too small for %u requests of %u bytes on %u queue pairs", info->name,
                        o->depth, o->size, o->qpairs);
    job->left = o->count ? o->count / o->qpairs + (index < o->count % o->qpairs) : UINT64_MAX;
    job->time_ns = o->time_ns ? o->time_ns : FOR_EVER;
    if (o->rate) {
        job->interval = ((o->qpairs * NS_PER_S) << DUE_SHIFT) / o->rate;
        job->due = ((index * NS_PER_S) << DUE_SHIFT) / o->rate;
    }
    return EXIT_OK;
}

int perf_job_open(struct perf_job *job, const struct perf_options *o, struct plx_bdev *bdev, uint32_t index)
{
    const struct plx_bdev_info *info = plx_bdev_info(bdev);
    job->size = o->size;
    job->unit_blocks = o->size / info->block_size;
    job->nslots = o->depth / o->qpairs + (index < o->depth % o->qpairs);
    job->randomly = o->random;
    job->read_below = o->read_percent * 65536 / 100;
    job->apart = o->read_percent > 0 && o->read_percent < 100 && !o->verify;
    job->random = (job->disk * PERF_MAX_QPAIRS + index + 1) * UINT64_C(0x9e3779b97f4a7c15);
    job->shared = info->shares_memory;
    job->timer.fn = timer_due;
    histogram_init(&job->latency);
    int status = share_out(job, o, info, index);
    if (status)
        return status;
    int ret = make_slots(job);
    if (!ret && o->verify) {
        job->verify = perf_verify_new(job->units, (uint32_t)plx_reactor_clock(NULL), o->read_percent == 100);
        ret = job->verify ? 0 : -ENOMEM;
    }
    if (!ret)
        ret = plx_bdev_channel_get(bdev, job->worker->reactor, &job->ch);
    return ret ? cli_fail(EXIT_RUNTIME, "%s: cannot get queue pair %u: %s", info->name, index + 1, strerror(-ret))
               : EXIT_OK;
}

void perf_job_close(struct perf_job *job)
{
    perf_verify_free(job->verify);
    free_buffers(job);
    free(job->slot_memory);
    free(job->free);
    free(job->slots);
    free(job);
}

int perf_worker_open(struct perf_worker *w)
{
    size_t slots = 0;
    for (unsigned i = 0; i < w->njobs; i++)
        slots += w->jobs[i]->nslots;
    w->ready = calloc(slots, sizeof(struct perf_slot *));
    w->spare = calloc(slots, sizeof(struct perf_slot *));
    if (!w->ready || !w->spare)
        return -ENOMEM;
    w->source.ops = &worker_ops;
    w->source.fd = -1;
    return plx_source_add(w->reactor, &w->source);
}

void perf_worker_close(struct perf_worker *w)
{
    free(w->ready);
    free(w->spare);
    free(w->jobs);
}
