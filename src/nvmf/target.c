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

/* Of the reactor with the smallest buffers: hosts may come to any. */
static size_t largest_buffer(struct plx_reactor *const *reactors, unsigned n)
{
    size_t max = SIZE_MAX;
    for (unsigned i = 0; i < n; i++)
        max = plx_min_u64(max, plx_buf_max_bytes(reactors[i]));
    return max;
}

const struct plx_nvmf_opts *plx_nvmf_target_opts(const struct plx_nvmf_target *t)
{
    return &t->opts;
}

int plx_nvmf_target_set_opts(struct plx_nvmf_target *t, const struct plx_nvmf_opts *opts, struct plx_error *err)
{
    struct plx_nvmf_opts checked;
    nvmf_assert_control(t);
    /* Connections keep what they began with, and every size that was negotiated. */
    if (!plx_list_empty(&t->listeners) || atomic_load(&t->connections))
        return plx_fail(err, -EBUSY, "limits cannot change while there are listeners or connections");
    int ret = set_options(&checked, opts, largest_buffer(t->reactors, t->nreactors), err);
    checked.control_apart = t->opts.control_apart;
    if (!ret)
        t->opts = checked;
    return ret;
}

int plx_nvmf_target_create(struct plx_nvmf_target **out, struct plx_reactor *const *reactors, unsigned nreactors,
                           const struct plx_nvmf_opts *opts, struct plx_error *err)
{
    struct plx_nvmf_opts checked;
    const unsigned apart = opts && opts->control_apart ? 1 : 0;
    int ret = !nreactors ? plx_fail(err, -EINVAL, "a target needs a reactor")
              : apart == nreactors
                  ? plx_fail(err, -EINVAL, "a control path apart needs a second reactor, for hosts")
                  : set_options(&checked, opts, largest_buffer(reactors + apart, nreactors - apart), err);
    if (ret)
        return ret;
    struct plx_nvmf_target *t = calloc(1, sizeof *t);
    if (!t)
        return plx_fail(err, -ENOMEM, "out of memory");
    t->opts = checked;
    t->control = reactors[0];
    reactors += apart;
    t->nreactors = nreactors -= apart;
    t->transport = &nvmf_transport_tcp;
    struct nvmf_apply *a = &t->apply;
    struct plx_list *const lists[] = {
        &t->subsystems,         &t->listeners,         &t->ctrlrs,  &t->removed_ns,
        &t->removed_subsystems, &t->removed_listeners, &t->late_ns, &t->pauses,
        &t->host_groups,        &a->callers,           &a->later,   &a->ns,
        &a->subsystems,         &a->listeners,
    };
    for (size_t i = 0; i < PLX_ARRAY_SIZE(lists); i++)
        plx_list_init(lists[i]);
    t->reactors = calloc(nreactors, sizeof(struct plx_reactor *));
    t->groups = plx_alloc_apart(nreactors * sizeof *t->groups);
    if (t->reactors)
        memcpy(t->reactors, reactors, nreactors * sizeof(struct plx_reactor *));
    if (!t->reactors || !t->groups || nvmf_apply_init(t) ||
        plx_fan_init(&t->phase.fan, nvmf_control_reactor(t), t->reactors, nreactors) || nvmf_discovery_create(t)) {
        plx_nvmf_target_destroy(t);
        return plx_fail(err, -ENOMEM, "out of memory");
    }
    for (unsigned i = 0; i < nreactors; i++) {
        t->groups[i].target = t;
        t->groups[i].index = i;
        t->groups[i].reactor = reactors[i];
        plx_list_init(&t->groups[i].qpairs);
        plx_list_init(&t->groups[i].pauses);
        plx_list_init(&t->groups[i].host_parts);
    }
    *out = t;
    return 0;
}

void plx_nvmf_target_destroy(struct plx_nvmf_target *t)
{
    assert(t->state == NVMF_STOPPED && plx_list_empty(&t->ctrlrs));
    if (!plx_list_empty(&t->late_ns))
        return; /* a disk has requests yet, whose end leads here */
    for (unsigned i = 0; t->groups && i < t->nreactors;
         i++) { /* where a disk was late at the stop, and has ended since */
        if (t->groups[i].transport)
            t->transport->group_free(&t->groups[i]);
        nvmf_slabs_free(&t->groups[i]);
    }
    nvmf_listeners_free(t);
    while (!plx_list_empty(&t->subsystems))
        plx_nvmf_subsystem_remove(plx_list_entry(t->subsystems.next, struct plx_nvmf_subsystem, link));
    while (!plx_list_empty(&t->removed_ns))
        nvmf_ns_free(plx_list_entry(t->removed_ns.next, struct nvmf_ns, link));
    while (!plx_list_empty(&t->removed_subsystems))
        nvmf_subsystem_free(plx_list_entry(t->removed_subsystems.next, struct plx_nvmf_subsystem, link));
    plx_fan_destroy(&t->apply.fan);
    plx_fan_destroy(&t->phase.fan);
    free(t->referrals);
    free(t->groups);
    free(t->reactors);
    free(t);
}

/* ---- a group: all that is on one reactor ---- */

static struct nvmf_group *leg_group(struct plx_fan_leg *leg)
{
    struct plx_nvmf_target *t = plx_container_of(leg->fan, struct plx_nvmf_target, phase.fan);
    return &t->groups[leg - leg->fan->legs];
}

static void open_here(struct plx_fan_leg *leg)
{
    struct nvmf_group *g = leg_group(leg);
    const struct nvmf_transport *transport = g->target->transport;
    g->req_size = plx_align_up(transport->req_prefix + sizeof(struct nvmf_req), 64);
    plx_fan_answer(leg, transport->group_start(g));
}

static void drained(struct nvmf_group *g)
{
    plx_fan_answer(g->leg, 0);
}

static void group_drain_here(struct plx_fan_leg *leg)
{
    struct nvmf_group *g = leg_group(leg);
    g->leg = leg;
    nvmf_host_limits_stop(g);
    g->target->transport->group_stop(g, g->target->phase.grace_ms, drained);
}

static void close_here(struct plx_fan_leg *leg)
{
    struct nvmf_group *g = leg_group(leg);
    bool idle = !g->reqs_in_use; /* else a disk has some of its requests yet, and everything that they lead to stays */
    g->snap = NULL;
    plx_list_init(&g->pauses); /* whose commands have ended with their connections */
    nvmf_host_limits_close(g);
    if (idle && g->transport)
        g->target->transport->group_free(g);
    if (idle)
        nvmf_slabs_free(g);
    plx_fan_answer(leg, idle ? 0 : -ETIMEDOUT);
}

/* ---- starting and stopping: phases, each ended by the answer of every reactor ---- */

static void phase_step(struct plx_nvmf_target *t);

static void phase_result(struct plx_nvmf_target *t, int result)
{
    t->phase.result = t->phase.result ? t->phase.result : result;
    phase_step(t);
}

static void all_answered(struct plx_fan *fan, int result)
{
    phase_result(plx_container_of(fan, struct plx_nvmf_target, phase.fan), result);
}

static void apply_over(void *arg, int result)
{
    phase_result(arg, result);
}

/* ---- the disks' last flush: of all at once ---- */

static void flush_over(struct plx_nvmf_target *t)
{
    if (--t->phase.flushing == 0)
        phase_step(t);
}

static void flushed(struct plx_bdev_access *disk, int result)
{
    struct nvmf_ns *ns = plx_container_of(disk, struct nvmf_ns, disk);
    const char *name = plx_bdev_info(ns->bdev)->name;
    if (result == -ETIMEDOUT)
        plx_error("%s: has not answered its last flush in time", name);
    else if (result)
        plx_error("%s: cannot be flushed: status %03x, %s", name, disk->flush.status,
                  plx_nvme_status_text(disk->flush.status));
    if (result && !ns->target->phase.result)
        ns->target->phase.result = result;
    flush_over(ns->target);
}

static void flush_disks(struct plx_nvmf_target *t)
{
    uint64_t now = plx_reactor_now(nvmf_control_reactor(t)), by = t->phase.stop_by;
    uint32_t left = by > now ? (uint32_t)((by - now) / PLX_NS_PER_MS) : 0;
    uint32_t limit = (uint32_t)plx_max_u64(left, NVMF_FLUSH_LIMIT_MS);
    t->phase.flushing = 1; /* this function */
    plx_list_for_each(it, &t->subsystems) {
        const struct plx_nvmf_subsystem *s = plx_list_entry(it, struct plx_nvmf_subsystem, link);
        for (uint32_t i = 0; i < s->nns; i++) {
            if (!s->ns[i] || !s->ns[i]->opened)
                continue;
            t->phase.flushing++;
            plx_bdev_access_flush(&s->ns[i]->disk, limit, flushed);
        }
    }
    flush_over(t);
}

static void phase_finish(struct plx_nvmf_target *t, enum nvmf_target_state state)
{
    t->state = state;
    if (!plx_list_empty(&t->late_ns) && !t->phase.result)
        t->phase.result = -ETIMEDOUT;
    if (state == NVMF_STOPPED) {
        nvmf_pauses_free(t);
        nvmf_host_limits_free(t);
        nvmf_snapshot_free(t->snap);
        t->snap = NULL;
    }
    t->phase.done(t->phase.arg, t->phase.result);
}

/* The sequence of a start and of a stop, whole: called when the step before is over on every reactor. */
static void phase_step(struct plx_nvmf_target *t)
{
    struct nvmf_phase *p = &t->phase;
    switch (p->step) {
    case NVMF_PHASE_OPEN:
        p->step = NVMF_PHASE_SERVE;
        plx_fan_out(&p->fan, open_here, all_answered);
        return;
    case NVMF_PHASE_SERVE:
        p->step = NVMF_PHASE_SERVED;
        if (!p->result) {
            nvmf_apply_start(t, &p->caller);
            return;
        }
        __attribute__((fallthrough));
    case NVMF_PHASE_SERVED:
        t->started_at = plx_reactor_now(nvmf_control_reactor(t));
        if (!p->result) {
            phase_finish(t, NVMF_RUNNING);
            return;
        }
        p->step = NVMF_PHASE_CLOSE; /* undo */
        t->state = NVMF_STOPPING;   /* for whoever asks for an apply meanwhile */
        nvmf_apply_leave(t, &p->caller);
        return;
    case NVMF_PHASE_DRAIN:
        p->step = NVMF_PHASE_FLUSH;
        nvmf_listeners_stop(t);
        plx_fan_out(&p->fan, group_drain_here, all_answered);
        return;
    case NVMF_PHASE_FLUSH:
        p->step = NVMF_PHASE_LEAVE;
        flush_disks(t);
        return;
    case NVMF_PHASE_LEAVE:
        p->step = NVMF_PHASE_CLOSE;
        nvmf_apply_leave(t, &p->caller);
        return;
    case NVMF_PHASE_CLOSE:
        p->step = NVMF_PHASE_END;
        plx_fan_out(&p->fan, close_here, all_answered);
        return;
    case NVMF_PHASE_END:
        phase_finish(t, NVMF_STOPPED);
        return;
    }
}

void nvmf_target_may_stop(struct plx_nvmf_target *t)
{
    if (t->state == NVMF_STOPPING && t->phase.step == NVMF_PHASE_DRAIN && t->apply.step == NVMF_APPLY_IDLE &&
        nvmf_pauses_stop(t) && !t->queries && !t->host_changes)
        phase_step(t);
}

static void start_here(struct plx_msg *msg)
{
    struct plx_nvmf_target *t = plx_container_of(msg, struct plx_nvmf_target, phase.msg);
    t->state = NVMF_STARTING;
    phase_step(t);
}

static void stop_here(struct plx_msg *msg)
{
    struct plx_nvmf_target *t = plx_container_of(msg, struct plx_nvmf_target, phase.msg);
    t->state = NVMF_STOPPING;
    t->phase.stop_by =
        plx_reactor_now(nvmf_control_reactor(t)) + ((uint64_t)t->phase.grace_ms + NVMF_FLUSH_LIMIT_MS) * PLX_NS_PER_MS;
    nvmf_target_may_stop(t); /* else when what is under way is over */
}

static void phase_begin(struct plx_nvmf_target *t, enum nvmf_phase_step step, uint32_t grace_ms, plx_nvmf_done_fn done,
                        void *arg)
{
    struct nvmf_phase *p = &t->phase;
    p->done = done;
    p->arg = arg;
    p->step = step;
    p->result = 0;
    p->grace_ms = grace_ms;
    p->caller = (struct nvmf_caller){.done = apply_over, .arg = t};
    p->msg.fn = step == NVMF_PHASE_OPEN ? start_here : stop_here;
    plx_reactor_send(nvmf_control_reactor(t), &p->msg);
}

void plx_nvmf_target_start(struct plx_nvmf_target *t, plx_nvmf_done_fn done, void *arg)
{
    phase_begin(t, NVMF_PHASE_OPEN, 0, done, arg);
}

void plx_nvmf_target_stop(struct plx_nvmf_target *t, uint32_t grace_ms, plx_nvmf_done_fn done, void *arg)
{
    phase_begin(t, NVMF_PHASE_DRAIN, grace_ms, done, arg);
}
