/* SPDX-License-Identifier: BSD-3-Clause */
/* The target: made of subsystems and listeners, then started and stopped on all of its reactors. */
#include "nvmf/nvmf.h"

#include <assert.h>
#include <errno.h>
#include <pollux/nvme.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_IO_SIZE = 1 << 20,
    MIN_IO_SIZE = 4096,
    QUEUE_DEPTH = 128,
    MAX_QUEUE_DEPTH = 1024,
    MAX_QUEUES = 128,
    IN_CAPSULE = 8192,
    MAX_IN_CAPSULE = 65536,
    PEER_TIMEOUT_MS = 30000,
    MAX_CONNECTIONS = 4096,
};

static int set_options(struct plx_nvmf_opts *o, const struct plx_nvmf_opts *given, size_t buf_max,
                       struct plx_error *err)
{
    *o = given ? *given : (struct plx_nvmf_opts){0};
    o->max_io_size = o->max_io_size ? o->max_io_size : MAX_IO_SIZE;
    o->queue_depth = o->queue_depth ? o->queue_depth : QUEUE_DEPTH;
    o->max_queues = o->max_queues ? o->max_queues : MAX_QUEUES;
    if (o->no_in_capsule)
        o->in_capsule_size = 0;
    else
        o->in_capsule_size = o->in_capsule_size ? o->in_capsule_size : IN_CAPSULE;
    o->peer_timeout_ms = o->peer_timeout_ms ? o->peer_timeout_ms : PEER_TIMEOUT_MS;
    o->max_connections = o->max_connections ? o->max_connections : MAX_CONNECTIONS;
    if (o->max_io_size < MIN_IO_SIZE || o->max_io_size > buf_max || o->max_io_size & (o->max_io_size - 1))
        return plx_fail(err, -EINVAL, "the largest transfer is a power of two from 4K to %zu, not %u", buf_max,
                        o->max_io_size);
    if (o->queue_depth < 2 || o->queue_depth > MAX_QUEUE_DEPTH)
        return plx_fail(err, -EINVAL, "the queue depth is 2 to %d, not %u", MAX_QUEUE_DEPTH, o->queue_depth);
    if (o->max_queues > MAX_QUEUES)
        return plx_fail(err, -EINVAL, "there are 1 to %d I/O queues, not %u", MAX_QUEUES, o->max_queues);
    if (o->in_capsule_size > MAX_IN_CAPSULE || o->in_capsule_size % 512)
        return plx_fail(err, -EINVAL, "in-capsule data is a multiple of 512 bytes up to 64K, not %u",
                        o->in_capsule_size);
    return 0;
}

int plx_nvmf_target_create(struct plx_nvmf_target **out, struct plx_reactor *const *reactors, unsigned nreactors,
                           const struct plx_nvmf_opts *opts, struct plx_error *err)
{
    struct plx_nvmf_opts checked;
    size_t buf_max = SIZE_MAX; /* of the reactor with the smallest buffers: hosts may come to any */
    for (unsigned i = 0; i < nreactors; i++)
        buf_max = plx_min_u64(buf_max, plx_buf_max_bytes(reactors[i]));
    int ret =
        nreactors ? set_options(&checked, opts, buf_max, err) : plx_fail(err, -EINVAL, "a target needs a reactor");
    if (ret)
        return ret;
    struct plx_nvmf_target *t = calloc(1, sizeof *t);
    if (!t)
        return plx_fail(err, -ENOMEM, "out of memory");
    t->opts = checked;
    t->nreactors = nreactors;
    t->transport = nvmf_transports[0];
    plx_list_init(&t->subsystems);
    plx_list_init(&t->listeners);
    plx_list_init(&t->ctrlrs);
    t->reactors = calloc(nreactors, sizeof(struct plx_reactor *));
    t->groups = calloc(nreactors, sizeof *t->groups);
    if (!t->reactors || !t->groups || nvmf_discovery_create(t)) {
        plx_nvmf_target_destroy(t);
        return plx_fail(err, -ENOMEM, "out of memory");
    }
    memcpy(t->reactors, reactors, nreactors * sizeof(struct plx_reactor *));
    for (unsigned i = 0; i < nreactors; i++) {
        t->groups[i].target = t;
        t->groups[i].reactor = reactors[i];
    }
    *out = t;
    return 0;
}

void plx_nvmf_target_destroy(struct plx_nvmf_target *t)
{
    assert(!t->started && plx_list_empty(&t->ctrlrs));
    nvmf_listeners_free(t);
    plx_list_for_each_safe(it, &t->subsystems) {
        nvmf_subsystem_destroy(plx_list_entry(it, struct plx_nvmf_subsystem, link));
    }
    free(t->groups);
    free(t->reactors);
    free(t);
}

/* ---- a group: all that is on one reactor ---- */

static struct nvmf_view *make_view(const struct nvmf_group *g, const struct plx_nvmf_subsystem *s)
{
    struct nvmf_view *view = calloc(1, sizeof *view + s->nns * sizeof view->ns[0]);
    if (!view)
        return NULL;
    view->n = s->nns;
    for (uint32_t i = 0; i < s->nns; i++) {
        if (!s->ns[i])
            continue;
        struct plx_bdev *bdev = s->ns[i]->bdev;
        const struct plx_bdev_info *info = plx_bdev_info(bdev);
        view->ns[i] = (struct nvmf_nsref){.ch = g->channels[s->ns[i]->index],
                                          .bdev = bdev,
                                          .info = info,
                                          .block_shift = (unsigned)__builtin_ctz(info->block_size)};
    }
    return view;
}

static int open_channels(struct nvmf_group *g)
{
    struct plx_nvmf_target *t = g->target;
    g->in_place = true;
    plx_list_for_each(it, &t->subsystems) {
        struct plx_nvmf_subsystem *s = plx_list_entry(it, struct plx_nvmf_subsystem, link);
        for (uint32_t i = 0; i < s->nns; i++) {
            if (!s->ns[i])
                continue;
            int ret = plx_bdev_channel_get(s->ns[i]->bdev, g->reactor, &g->channels[s->ns[i]->index]);
            if (ret)
                return ret;
            g->in_place &= plx_bdev_info(s->ns[i]->bdev)->in_place;
        }
        g->views[s->index] = make_view(g, s);
        if (!g->views[s->index])
            return -ENOMEM;
    }
    g->req_size = plx_align_up(t->transport->req_prefix + sizeof(struct nvmf_req), 64);
    return 0;
}

static void close_group(struct nvmf_group *g)
{
    struct plx_nvmf_target *t = g->target;
    if (g->transport)
        t->transport->group_free(g);
    for (unsigned i = 0; g->channels && i < t->nnamespaces; i++)
        if (g->channels[i])
            plx_bdev_channel_put(g->channels[i]);
    for (unsigned i = 0; g->views && i < t->nsubsystems; i++)
        free(g->views[i]);
    nvmf_slabs_free(g);
    free(g->channels);
    free(g->views);
    g->channels = NULL;
    g->views = NULL;
}

static int open_group(struct nvmf_group *g)
{
    struct plx_nvmf_target *t = g->target;
    g->channels = calloc(t->nnamespaces + 1, sizeof(struct plx_bdev_channel *));
    g->views = calloc(t->nsubsystems, sizeof(struct nvmf_view *));
    int ret = g->channels && g->views ? open_channels(g) : -ENOMEM;
    if (!ret)
        ret = t->transport->group_start(g);
    if (ret)
        close_group(g);
    return ret;
}

/* ---- starting and stopping: phases, each ended by the answer of every reactor ---- */

static void phase_step(struct plx_nvmf_target *t);

static void answered(struct plx_msg *msg)
{
    struct nvmf_group *g = plx_container_of(msg, struct nvmf_group, msg);
    struct nvmf_phase *p = &g->target->phase;
    if (g->result && !p->result)
        p->result = g->result;
    if (--p->waiting == 0)
        phase_step(g->target);
}

static void answer(struct nvmf_group *g, int result)
{
    g->result = result;
    g->msg.fn = answered;
    plx_reactor_send(nvmf_control_reactor(g->target), &g->msg);
}

static void ask_all(struct plx_nvmf_target *t, void (*fn)(struct plx_msg *msg))
{
    t->phase.waiting = t->nreactors;
    for (unsigned i = 0; i < t->nreactors; i++) {
        t->groups[i].msg.fn = fn;
        plx_reactor_send(t->reactors[i], &t->groups[i].msg);
    }
}

static void open_here(struct plx_msg *msg)
{
    struct nvmf_group *g = plx_container_of(msg, struct nvmf_group, msg);
    answer(g, open_group(g));
}

static void drained(struct nvmf_group *g)
{
    answer(g, 0);
}

static void drain_here(struct plx_msg *msg)
{
    struct nvmf_group *g = plx_container_of(msg, struct nvmf_group, msg);
    g->target->transport->group_stop(g, g->target->phase.grace_ms, drained);
}

static void close_here(struct plx_msg *msg)
{
    struct nvmf_group *g = plx_container_of(msg, struct nvmf_group, msg);
    close_group(g);
    answer(g, 0);
}

/* Flushes the disks in turn, through the first reactor's channels; then the phase goes on. */
static void flush_disks(struct plx_nvmf_target *t);

static void flushed(struct plx_bdev_req *bio)
{
    struct plx_nvmf_target *t = plx_container_of(bio, struct nvmf_phase_flush, bio)->target;
    if (bio->status) {
        plx_error("%s: cannot be flushed: status %03x, %s", plx_bdev_info(plx_bdev_channel_bdev(bio->ch))->name,
                  bio->status, plx_nvme_status_text(bio->status));
        t->phase.result = -EIO;
    }
    flush_disks(t);
}

static void flush_disks(struct plx_nvmf_target *t)
{
    struct nvmf_phase *p = &t->phase;
    while (p->flushing < t->nnamespaces) {
        struct plx_bdev_channel *ch = t->groups[0].channels[p->flushing++];
        const struct plx_bdev_info *info = plx_bdev_info(plx_bdev_channel_bdev(ch));
        if (!info->write_cache || info->read_only)
            continue;
        p->flush->bio.done = flushed;
        p->flush->bio.op = PLX_BDEV_FLUSH;
        plx_bdev_submit(ch, &p->flush->bio);
        return;
    }
    plx_timer_cancel(nvmf_control_reactor(t), &p->flush->limit);
    free(p->flush);
    p->flush = NULL;
    phase_step(t);
}

/* A disk that does not answer, such as one behind a network that is gone, must not keep the target for ever. */
static void flush_overdue(struct plx_timer *timer)
{
    struct nvmf_phase_flush *f = plx_container_of(timer, struct nvmf_phase_flush, limit);
    /* Set first, for the next disk: the abort may end the last flush at once, which cancels the timer and frees f. */
    plx_timer_set(nvmf_control_reactor(f->target), timer, NVMF_FLUSH_LIMIT_MS * PLX_NS_PER_MS);
    plx_bdev_abort(f->bio.ch, &f->bio);
}

static void begin_flush(struct plx_nvmf_target *t)
{
    struct nvmf_phase *p = &t->phase;
    p->flushing = 0;
    p->flush = aligned_alloc(64, plx_align_up(sizeof *p->flush, 64));
    if (!p->flush) {
        p->result = -ENOMEM;
        phase_step(t);
        return;
    }
    memset(p->flush, 0, sizeof *p->flush);
    p->flush->target = t;
    p->flush->limit.fn = flush_overdue;
    plx_timer_set(nvmf_control_reactor(t), &p->flush->limit, NVMF_FLUSH_LIMIT_MS * PLX_NS_PER_MS);
    flush_disks(t);
}

static void finish(struct plx_nvmf_target *t, bool started)
{
    t->started = started;
    t->stopping = false;
    t->phase.done(t->phase.arg, t->phase.result);
}

/* The sequence of a start and of a stop, whole: called when the step before is over on every reactor. */
static void phase_step(struct plx_nvmf_target *t)
{
    struct nvmf_phase *p = &t->phase;
    switch (p->step) {
    case NVMF_PHASE_OPEN:
        p->step = NVMF_PHASE_LISTEN;
        ask_all(t, open_here);
        return;
    case NVMF_PHASE_LISTEN:
        t->started_at = plx_reactor_now(nvmf_control_reactor(t));
        if (!p->result)
            p->result = nvmf_listeners_start(t);
        if (!p->result) {
            finish(t, true);
            return;
        }
        p->step = NVMF_PHASE_END; /* undo: reactors that did start close again */
        ask_all(t, close_here);
        return;
    case NVMF_PHASE_DRAIN:
        p->step = NVMF_PHASE_FLUSH;
        nvmf_listeners_stop(t);
        ask_all(t, drain_here);
        return;
    case NVMF_PHASE_FLUSH:
        p->step = NVMF_PHASE_CLOSE;
        begin_flush(t);
        return;
    case NVMF_PHASE_CLOSE:
        p->step = NVMF_PHASE_END;
        ask_all(t, close_here);
        return;
    case NVMF_PHASE_END:
        finish(t, false);
        return;
    }
}

static void phase_here(struct plx_msg *msg)
{
    struct plx_nvmf_target *t = plx_container_of(msg, struct plx_nvmf_target, msg);
    t->stopping = t->phase.step == NVMF_PHASE_DRAIN;
    phase_step(t);
}

static void begin(struct plx_nvmf_target *t, enum nvmf_phase_step step, uint32_t grace_ms, plx_nvmf_done_fn done,
                  void *arg)
{
    t->phase = (struct nvmf_phase){.done = done, .arg = arg, .step = step, .grace_ms = grace_ms};
    t->msg.fn = phase_here;
    plx_reactor_send(nvmf_control_reactor(t), &t->msg);
}

void plx_nvmf_target_start(struct plx_nvmf_target *t, plx_nvmf_done_fn done, void *arg)
{
    begin(t, NVMF_PHASE_OPEN, 0, done, arg);
}

void plx_nvmf_target_stop(struct plx_nvmf_target *t, uint32_t grace_ms, plx_nvmf_done_fn done, void *arg)
{
    begin(t, NVMF_PHASE_DRAIN, grace_ms, done, arg);
}
