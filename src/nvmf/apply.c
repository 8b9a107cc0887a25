/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * How what was edited becomes what hosts see. A snapshot of it is sent to every reactor, each of which goes over to it
 * within one message: its queue pairs get their new images, connections that are not allowed any more end,
 * and hosts are told what has changed. What was added is there before that, what was taken away is let go of after.
 *
 * Messages between two reactors stay in order. So a Connect that the control reactor has decided by a snapshot is
 * finished under the same one, and a connection that it has dealt out is there when a later one comes.
 */
#include "nvmf/nvmf.h"

#include <errno.h>
#include <stdlib.h>

static void apply_step(struct plx_nvmf_target *t);

/* ---- on each reactor ---- */

static const char *unwelcome(const struct nvmf_qpair *qp, const struct nvmf_image *image)
{
    const struct nvmf_ctrlr *c = qp->ctrlr;
    if (!image)
        return "its subsystem was removed";
    if (!nvmf_image_allows(image, c->hostnqn))
        return "its host is not allowed any more";
    return nvmf_image_reachable(image, qp->portid) ? NULL : "its subsystem is not reachable here any more";
}

static bool has_listener(const struct nvmf_snapshot *snap, uint16_t portid)
{
    for (unsigned i = 0; i < snap->nlisteners; i++)
        if (snap->listeners[i].portid == portid)
            return true;
    return !portid;
}

/* Whether a path leads to every namespace, so that no command needs to be looked at for that. */
static bool all_accessible(const struct nvmf_image *image, uint16_t portid)
{
    const struct nvmf_port *port = nvmf_image_port(image, portid);
    for (uint32_t i = 0; i < image->nns; i++)
        if (image->ns[i].ns && nvmf_ana_status(port, image->ns[i].anagrpid))
            return false;
    return true;
}

static void set_image(struct nvmf_qpair *qp, const struct nvmf_image *image)
{
    qp->image = image;
    qp->last_nsid = 0;
    qp->last = NULL;
    qp->access_nsid = 0;
}

void nvmf_group_see(struct nvmf_group *g)
{
    g->in_place = g->snap->in_place && plx_list_empty(&g->pauses) && plx_list_empty(&g->host_parts);
}

void nvmf_qpair_see(struct nvmf_qpair *qp)
{
    set_image(qp, nvmf_image_seen_by(qp->group->snap->images[qp->ctrlr->subsys->index], qp->ctrlr->hostnqn));
    qp->host_part = nvmf_host_part(qp);
    qp->plain = qp->state == NVMF_QP_READY && all_accessible(qp->image, qp->portid) && !nvmf_paused(qp) &&
                !nvmf_resv_concerns(qp) && !qp->host_part;
}

static bool same_discovery(const struct nvmf_snapshot *old, const struct nvmf_snapshot *new, struct nvmf_qpair *qp)
{
    size_t old_len, new_len;
    struct nvme_discovery_header *a = nvmf_discovery_log(old, qp, &old_len), *b = nvmf_discovery_log(new, qp, &new_len);
    bool same = a && b && old_len == new_len && memcmp(a + 1, b + 1, old_len - sizeof *a) == 0;
    free(a);
    free(b);
    return same;
}

/* Whether no group that has namespaces has another state, or had none to have one of; and none has another group. */
static bool same_ana(const struct nvmf_image *old, const struct nvmf_image *new, uint16_t portid)
{
    bool had[PLX_NVMF_ANA_GROUPS + 1] = {false};
    for (uint32_t i = 0; i < old->nns; i++)
        had[old->ns[i].ns ? old->ns[i].anagrpid : 0] = true;
    const struct nvmf_port *was = nvmf_image_port(old, portid), *is = nvmf_image_port(new, portid);
    for (uint32_t i = 0; i < new->nns; i++) {
        uint32_t group = new->ns[i].ns ? new->ns[i].anagrpid : 0;
        if (group && (!had[group] || was->ana[group - 1] != is->ana[group - 1]))
            return false;
        if (group && i < old->nns && old->ns[i].ns == new->ns[i].ns && old->ns[i].anagrpid != group)
            return false;
    }
    return true;
}

/* What an admin queue's host is told of: the difference that a snapshot makes to it. */
static void tell(struct nvmf_qpair *qp, const struct nvmf_snapshot *old, const struct nvmf_snapshot *new)
{
    const struct nvmf_image *image = qp->image;
    struct nvmf_ctrlr *c = qp->ctrlr;
    if (c->subsys->discovery) {
        if (new->genctr > old->genctr && nvmf_event_wanted(c, NVMF_EVENT_DISCOVERY) && !same_discovery(old, new, qp))
            nvmf_event(c, NVMF_EVENT_DISCOVERY);
        return;
    }
    const struct nvmf_image *before = c->subsys->index < old->nimages ? old->images[c->subsys->index] : NULL;
    before = nvmf_image_seen_by(before, c->hostnqn);
    if (image == before)
        return;
    for (uint32_t i = 0; i < image->nns; i++) {
        if (image->ns[i].changed > plx_max_u64(old->generation, c->ns_seen)) {
            nvmf_event(c, NVMF_EVENT_NS);
            break;
        }
    }
    if (before && !same_ana(before, image, qp->portid))
        nvmf_event(c, NVMF_EVENT_ANA);
}

/* When no reactor works by the old one any more: a host that is told may use any of its queues. */
static void tell_here(struct plx_fan_leg *leg)
{
    struct plx_nvmf_target *t = plx_container_of(leg->fan, struct plx_nvmf_target, apply.fan);
    struct nvmf_group *g = &t->groups[leg - leg->fan->legs];
    plx_list_for_each_safe(it, &g->qpairs) {
        struct nvmf_qpair *qp = plx_list_entry(it, struct nvmf_qpair, link);
        if (qp->image && !qp->qid && qp->state == NVMF_QP_READY && t->apply.old)
            tell(qp, t->apply.old, g->snap);
    }
    plx_fan_answer(leg, 0);
}

static void publish_to(struct nvmf_qpair *qp, const struct nvmf_snapshot *new)
{
    if (qp->state == NVMF_QP_DETACHED)
        return; /* its controller may be gone already */
    const char *why = has_listener(new, qp->portid) ? NULL : "its listener was removed";
    unsigned index = qp->ctrlr ? qp->ctrlr->subsys->index : 0;
    const struct nvmf_image *image = qp->ctrlr && index < new->nimages ? new->images[index] : NULL;
    if (!why && image && qp->image && image == qp->image->whole)
        return;
    if (!why && qp->ctrlr)
        why = unwelcome(qp, image);
    if (why) {
        set_image(qp, NULL);
        qp->plain = false;
        nvmf_transport_of(qp)->kill(qp, why);
    } else if (qp->ctrlr) {
        nvmf_qpair_see(qp);
    }
}

static void publish_here(struct plx_fan_leg *leg)
{
    struct plx_nvmf_target *t = plx_container_of(leg->fan, struct plx_nvmf_target, apply.fan);
    struct nvmf_group *g = &t->groups[leg - leg->fan->legs];
    g->snap = t->apply.next;
    nvmf_group_see(g);
    plx_list_for_each_safe(it, &g->qpairs) {
        publish_to(plx_list_entry(it, struct nvmf_qpair, link), g->snap);
    }
    plx_fan_answer(leg, 0);
}

/* ---- on the control reactor ---- */

static void move_all(struct plx_list *to, struct plx_list *from)
{
    while (!plx_list_empty(from)) {
        struct plx_list *it = from->next;
        plx_list_del(it);
        plx_list_add_tail(to, it);
    }
}

static void give_up(struct plx_nvmf_target *t, struct nvmf_ns *ns, int result)
{
    t->apply.result = result;
    nvmf_snapshot_omit(t->apply.next, ns);
    if (ns->subsys)
        nvmf_ns_undo(ns);
    nvmf_ns_free(ns);
}

static void open_disks(struct plx_nvmf_target *t)
{
    plx_list_for_each(it, &t->subsystems) {
        struct plx_nvmf_subsystem *s = plx_list_entry(it, struct plx_nvmf_subsystem, link);
        for (uint32_t i = 0; i < s->nns; i++) {
            struct nvmf_ns *ns = s->ns[i];
            int ret = ns && !ns->opened ? nvmf_ns_open(ns) : -EALREADY;
            if (!ret)
                t->apply.opening++;
            else if (ret != -EALREADY)
                give_up(t, ns, ret);
        }
    }
}

void nvmf_apply_opened(struct plx_nvmf_target *t, struct nvmf_ns *ns, int result)
{
    if (result)
        give_up(t, ns, result);
    if (--t->apply.opening == 0)
        apply_step(t);
}

static void all_have(struct plx_fan *fan, int result)
{
    struct plx_nvmf_target *t = plx_container_of(fan, struct plx_nvmf_target, apply.fan);
    (void)result;
    apply_step(t);
}

static void all_taken(struct plx_fan *fan, int result)
{
    struct plx_nvmf_target *t = plx_container_of(fan, struct plx_nvmf_target, apply.fan);
    if (result)
        plx_error("a disk has not ended what a host had in flight for a namespace that was taken from it");
    t->apply.result = t->apply.result ? t->apply.result : result;
    apply_step(t);
}

/* What never was seen is gone at once. */
static void let_go(struct plx_nvmf_target *t)
{
    plx_list_for_each(it, &t->apply.subsystems) {
        nvmf_pauses_leave(plx_list_entry(it, struct plx_nvmf_subsystem, link));
    }
    plx_list_for_each_safe(it, &t->apply.ns) {
        struct nvmf_ns *ns = plx_list_entry(it, struct nvmf_ns, link);
        if (ns->opened)
            nvmf_ns_leave(ns);
        else
            nvmf_ns_free(ns);
    }
}

/* @return whether nothing that was removed is there any more, but for disks that are late */
static bool all_gone(struct nvmf_apply *a)
{
    plx_list_for_each_safe(it, &a->subsystems) {
        struct plx_nvmf_subsystem *s = plx_list_entry(it, struct plx_nvmf_subsystem, link);
        if (!s->nctrlrs && !nvmf_pauses_of(s))
            nvmf_subsystem_free(s);
    }
    return plx_list_empty(&a->ns) && plx_list_empty(&a->subsystems);
}

void nvmf_apply_released(struct plx_nvmf_target *t)
{
    if (t->apply.step == NVMF_APPLY_RELEASE && all_gone(&t->apply))
        apply_step(t);
}

void nvmf_apply_late(struct plx_nvmf_target *t, struct nvmf_ns *ns)
{
    plx_error("%s: has not ended its requests, and stays in use until it has", plx_bdev_info(ns->bdev)->name);
    plx_list_del(&ns->link);
    plx_list_add_tail(&t->late_ns, &ns->link);
    t->apply.result = t->apply.result ? t->apply.result : -ETIMEDOUT;
    nvmf_apply_released(t);
}

static void call_back(struct plx_list *callers, int result)
{
    while (!plx_list_empty(callers)) {
        struct nvmf_caller *c = plx_list_entry(callers->next, struct nvmf_caller, link);
        struct nvmf_caller copy = *c;
        plx_list_del(&c->link);
        if (c->allocated)
            free(c);
        copy.done(copy.arg, result);
    }
}

/* All over; those who asked meanwhile are next. */
static void apply_finish(struct plx_nvmf_target *t)
{
    struct nvmf_apply *a = &t->apply;
    struct plx_list callers;
    plx_list_init(&callers);
    move_all(&callers, &a->callers);
    a->step = NVMF_APPLY_IDLE;
    a->starting = false;
    call_back(&callers, a->result);
    if (t->state == NVMF_STOPPING) {
        call_back(&a->later, -ECANCELED);
        nvmf_target_may_stop(t);
    } else if (!plx_list_empty(&a->later) && a->step == NVMF_APPLY_IDLE) {
        apply_step(t);
    }
}

/* @return whether there is a snapshot to go on with */
static bool apply_begin(struct plx_nvmf_target *t)
{
    struct nvmf_apply *a = &t->apply;
    a->result = 0;
    move_all(&a->callers, &a->later);
    a->next = nvmf_snapshot_make(t);
    if (!a->next) {
        a->result = -ENOMEM;
        return false;
    }
    a->taking = t->taken;
    t->taken = 0;
    move_all(&a->ns, &t->removed_ns);
    move_all(&a->subsystems, &t->removed_subsystems);
    move_all(&a->listeners, &t->removed_listeners);
    open_disks(t);
    return true;
}

/* The sequence of an apply, whole: called when what the step before it waits for is over. */
static void apply_step(struct plx_nvmf_target *t)
{
    struct nvmf_apply *a = &t->apply;
    switch (a->step) {
    case NVMF_APPLY_IDLE:
        a->step = NVMF_APPLY_OPEN;
        if (!apply_begin(t)) {
            apply_finish(t);
            return;
        }
        if (a->opening)
            return;
        __attribute__((fallthrough));
    case NVMF_APPLY_OPEN:
        if (a->result && a->starting) {
            nvmf_snapshot_free(a->next);
            apply_finish(t);
            return;
        }
        a->step = NVMF_APPLY_PUBLISH;
        nvmf_listeners_reap(t);
        a->old = t->snap;
        t->snap = a->next;
        plx_fan_out(&a->fan, publish_here, all_have);
        return;
    case NVMF_APPLY_PUBLISH:
        a->step = NVMF_APPLY_TELL;
        plx_fan_out(&a->fan, tell_here, all_have);
        return;
    case NVMF_APPLY_TELL:
        nvmf_snapshot_free(a->old);
        a->old = NULL;
        nvmf_listeners_start(t, a->starting, &a->result);
        a->step = NVMF_APPLY_TAKE;
        if (a->taking) {
            plx_fan_out(&a->fan, nvmf_mask_take_here, all_taken);
            return;
        }
        __attribute__((fallthrough));
    case NVMF_APPLY_TAKE:
        a->step = NVMF_APPLY_RELEASE;
        let_go(t);
        if (!all_gone(a))
            return;
        __attribute__((fallthrough));
    case NVMF_APPLY_RELEASE:
        apply_finish(t);
        return;
    }
}

/* ---- who asks ---- */

void plx_nvmf_target_apply(struct plx_nvmf_target *t, plx_nvmf_done_fn done, void *arg)
{
    nvmf_assert_control(t);
    if (t->state == NVMF_STOPPED || t->state == NVMF_STOPPING) {
        done(arg, t->state == NVMF_STOPPED ? 0 : -ECANCELED);
        return;
    }
    struct nvmf_caller *c = malloc(sizeof *c);
    if (!c) {
        done(arg, -ENOMEM);
        return;
    }
    *c = (struct nvmf_caller){.done = done, .arg = arg, .allocated = true};
    plx_list_add_tail(&t->apply.later, &c->link);
    if (t->apply.step == NVMF_APPLY_IDLE && t->state == NVMF_RUNNING)
        apply_step(t);
}

static void nobody(void *arg, int result)
{
    (void)arg, (void)result;
}

void nvmf_apply_unasked(struct plx_nvmf_target *t)
{
    plx_nvmf_target_apply(t, nobody, NULL);
}

void nvmf_apply_start(struct plx_nvmf_target *t, struct nvmf_caller *caller)
{
    t->apply.starting = true;
    plx_list_add_tail(&t->apply.later, &caller->link);
    apply_step(t);
}

void nvmf_apply_leave(struct plx_nvmf_target *t, struct nvmf_caller *caller)
{
    struct nvmf_apply *a = &t->apply;
    plx_list_for_each(it, &t->subsystems) {
        struct plx_nvmf_subsystem *s = plx_list_entry(it, struct plx_nvmf_subsystem, link);
        for (uint32_t i = 0; i < s->nns; i++)
            if (s->ns[i])
                nvmf_ns_remove(s->ns[i]);
    }
    a->result = 0;
    plx_list_add_tail(&a->callers, &caller->link);
    move_all(&a->ns, &t->removed_ns);
    a->step = NVMF_APPLY_RELEASE;
    let_go(t);
    if (all_gone(a))
        apply_step(t);
}

int nvmf_apply_init(struct plx_nvmf_target *t)
{
    return plx_fan_init(&t->apply.fan, nvmf_control_reactor(t), t->reactors, t->nreactors);
}
