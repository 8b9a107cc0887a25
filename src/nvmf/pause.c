/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Pausing: commands for a namespace, or for all of a subsystem, are held on every reactor, and what disks have of them
 * already comes to its end; until the pause is over hosts see slow commands, and nothing else.
 *
 * Commands are held where they would go to the disk. Those that are parsed while there is a pause (`plain` is false
 * then), and those that wait for memory or data when it begins, get another `execute`, which asks whether there still
 * is one; commands that take several requests to the disk, and the second half of a fused one, ask by themselves. So a
 * command that is not paused pays nothing. What is held keeps all that a command has, and is bounded as commands are
 * that a slow disk has.
 */
#include "nvmf/nvmf.h"

#include <errno.h>
#include <stdlib.h>

enum {
    PAUSE_LIMIT_MS = 5000, /* for disks to end what they have, well within what hosts wait for a command */
    PAUSE_LOOK_US = 500,   /* from one look at that to the next */
    PAUSE_RELEASED = 32,   /* go on in one round */
};

enum pause_step {
    PAUSE_BEGIN,
    PAUSE_DRAIN, /* commands are held; disks end what they have */
    PAUSE_HELD,
    PAUSE_RELEASE, /* what was held goes on */
};

/* A pause on one reactor, whose it is. */
struct pause_part {
    struct plx_list link; /* in group->pauses */
    struct nvmf_pause *pause;
    struct plx_list held; /* requests, in order */
    struct nvmf_walk at;  /* no request before this one is at the disk */
    uint64_t until;       /* reactor time */
    struct plx_fan_leg *leg;
    struct plx_timer timer;
    struct plx_msg msg;
};

/* Of a namespace identifier, or of all: those to come included. The control reactor's, but for what never changes. */
struct nvmf_pause {
    struct plx_list link; /* in target->pauses */
    struct plx_nvmf_subsystem *s;
    uint32_t nsid; /* 0: all */
    enum pause_step step;
    int result;
    _Atomic bool cancelled; /* nobody waits for disks any longer */
    struct nvmf_caller pauser, resumer;
    struct plx_fan fan;
    struct pause_part parts[]; /* by reactor */
};

/* ---- on each reactor ---- */

static bool covers(const struct pause_part *part, const struct nvmf_nsref *ref)
{
    const struct nvmf_ns *ns = plx_container_of(ref - ref->group->index, struct nvmf_ns, refs);
    const struct nvmf_pause *p = part->pause;
    return !ref->gone && ns->owner == p->s && (!p->nsid || p->nsid == ns->nsid);
}

static struct pause_part *part_of(const struct nvmf_nsref *ref)
{
    plx_list_for_each(it, &ref->group->pauses) {
        struct pause_part *part = plx_list_entry(it, struct pause_part, link);
        if (covers(part, ref))
            return part;
    }
    return NULL;
}

bool nvmf_ns_paused(const struct nvmf_nsref *ref)
{
    return part_of(ref) != NULL;
}

bool nvmf_paused(const struct nvmf_qpair *qp)
{
    plx_list_for_each(it, &qp->group->pauses) {
        if (plx_list_entry(it, struct pause_part, link)->pause->s == qp->ctrlr->subsys)
            return true;
    }
    return false;
}

void nvmf_req_hold(struct nvmf_req *req, enum nvmf_req_state state, struct plx_list *held, nvmf_execute_fn execute)
{
    req->state = (uint8_t)state;
    req->qp->paused += state == NVMF_REQ_PAUSED;
    req->u.held.execute = execute;
    plx_list_add_tail(held, &req->u.held.link);
}

bool nvmf_pause_hold(struct nvmf_req *req, const struct nvmf_nsref *ref, nvmf_execute_fn execute)
{
    struct pause_part *part = ref && !req->abort_status ? part_of(ref) : NULL;
    if (!part)
        return false;
    nvmf_req_hold(req, NVMF_REQ_PAUSED, &part->held, execute);
    return true;
}

void nvmf_pause_forget(struct nvmf_req *req)
{
    if (req->state != NVMF_REQ_PAUSED && req->state != NVMF_REQ_LIMITED)
        return;
    req->qp->paused -= req->state == NVMF_REQ_PAUSED;
    req->state = NVMF_REQ_EXECUTING;
    plx_list_del(&req->u.held.link);
}

/* What a command does whose data, or memory, came after a pause had begun. */
static void execute_if_not_paused(struct nvmf_req *req)
{
    nvmf_execute_fn execute = req->u.held.execute;
    req->lent = req->u.held.lent;
    if (!nvmf_pause_hold(req, req->ns, execute))
        execute(req);
}

void nvmf_pause_parsed(struct nvmf_req *req)
{
    const bool half = req->cmd.flags & NVME_FUSE_MASK; /* which asks when both are here */
    if (half || !req->ns || !req->execute || req->execute == execute_if_not_paused || !part_of(req->ns))
        return;
    req->u.held.execute = req->execute;
    req->execute = execute_if_not_paused;
    req->u.held.lent = req->lent;
    req->lent = req->in_place = false; /* it is executed, and that later */
}

static bool at_disk(const struct pause_part *part, const struct nvmf_req *req)
{
    bool uses = req->state == NVMF_REQ_EXECUTING || (req->state == NVMF_REQ_DONE && req->lent);
    return req->ns && uses && covers(part, req->ns);
}

static struct nvmf_group *part_group(const struct pause_part *part)
{
    return &part->pause->s->target->groups[part - part->pause->parts];
}

/* Commands have to be looked at, or not any more. */
static void look_again(struct nvmf_group *g, const struct plx_nvmf_subsystem *s)
{
    nvmf_group_see(g);
    plx_list_for_each(it, &g->qpairs) {
        struct nvmf_qpair *qp = plx_list_entry(it, struct nvmf_qpair, link);
        if (qp->image && qp->image->subsys == s && qp->state == NVMF_QP_READY)
            nvmf_qpair_see(qp);
    }
}

/* A host that does not read what a disk has lent for it keeps nobody from pausing that: it may come back. */
static int end_conns(struct pause_part *part)
{
    struct nvmf_group *g = part_group(part);
    for (struct nvmf_walk w = part->at; nvmf_walk_req(g, &w); w.n++)
        if (at_disk(part, nvmf_walk_req(g, &w)) && nvmf_walk_req(g, &w)->state == NVMF_REQ_EXECUTING)
            return -ETIMEDOUT;
    for (struct nvmf_req *req; (req = nvmf_walk_req(g, &part->at)); part->at.n++)
        if (at_disk(part, req))
            nvmf_transport_of(req->qp)->kill(req->qp, "it does not read from a namespace that is to be paused");
    return 0;
}

/* Nothing comes to be at the disk behind our back, so each request is looked at until it is not there. */
static void part_drain(struct plx_timer *timer)
{
    struct pause_part *part = plx_container_of(timer, struct pause_part, timer);
    struct nvmf_group *g = part_group(part);
    struct nvmf_req *req;
    while ((req = nvmf_walk_req(g, &part->at)) && !at_disk(part, req))
        part->at.n++;
    if (!req)
        plx_fan_answer(part->leg, 0);
    else if (atomic_load(&part->pause->cancelled))
        plx_fan_answer(part->leg, -ECANCELED);
    else if (plx_reactor_now(g->reactor) >= part->until)
        plx_fan_answer(part->leg, end_conns(part));
    else
        plx_timer_set(g->reactor, timer, (uint64_t)PAUSE_LOOK_US * 1000);
}

static struct pause_part *leg_part(struct plx_fan_leg *leg)
{
    struct nvmf_pause *p = plx_container_of(leg->fan, struct nvmf_pause, fan);
    struct pause_part *part = &p->parts[leg - leg->fan->legs];
    part->leg = leg;
    return part;
}

static void pause_here(struct plx_fan_leg *leg)
{
    struct pause_part *part = leg_part(leg);
    struct nvmf_group *g = part_group(part);
    plx_list_add_tail(&g->pauses, &part->link);
    look_again(g, part->pause->s);
    part->at = nvmf_walk_from(g);
    for (struct nvmf_walk w = part->at; nvmf_walk_req(g, &w); w.n++)
        if (nvmf_walk_req(g, &w)->ns && nvmf_walk_req(g, &w)->state == NVMF_REQ_TRANSPORT)
            nvmf_pause_parsed(nvmf_walk_req(g, &w));
    part->until = plx_reactor_now(g->reactor) + PAUSE_LIMIT_MS * PLX_NS_PER_MS;
    part->timer.fn = part_drain;
    part_drain(&part->timer);
}

/* Some of what was held goes on; others have their turn before the next. New commands do not wait behind it. */
static void release_some(struct plx_msg *msg)
{
    struct pause_part *part = plx_container_of(msg, struct pause_part, msg);
    for (unsigned i = 0; i < PAUSE_RELEASED && !plx_list_empty(&part->held); i++) {
        struct nvmf_req *req = plx_list_entry(part->held.next, struct nvmf_req, u.held.link);
        nvmf_pause_forget(req);
        req->execute = req->u.held.execute;
        if (!nvmf_pause_hold(req, req->ns, req->execute)) /* by another pause */
            nvmf_req_execute(req);
    }
    if (plx_list_empty(&part->held))
        plx_fan_answer(part->leg, 0);
    else
        plx_reactor_send(part_group(part)->reactor, msg);
}

static void release_here(struct plx_fan_leg *leg)
{
    struct pause_part *part = leg_part(leg);
    plx_list_del(&part->link);
    look_again(part_group(part), part->pause->s);
    part->msg.fn = release_some;
    release_some(&part->msg);
}

/* ---- on the control reactor ---- */

static void pause_step(struct nvmf_pause *p);

static void all_parts(struct plx_fan *fan, int result)
{
    struct nvmf_pause *p = plx_container_of(fan, struct nvmf_pause, fan);
    p->result = p->step == PAUSE_DRAIN ? result : p->result;
    pause_step(p);
}

static void pause_tell(struct nvmf_caller *c, int result)
{
    struct nvmf_caller copy = *c;
    c->done = NULL;
    if (copy.done)
        copy.done(copy.arg, result);
}

static void pause_free(struct nvmf_pause *p)
{
    plx_list_del(&p->link);
    plx_fan_destroy(&p->fan);
    free(p);
}

static void pause_finish(struct nvmf_pause *p)
{
    struct plx_nvmf_target *t = p->s->target;
    struct nvmf_caller pauser = p->pauser, resumer = p->resumer;
    int result = p->result;
    if (result == -ETIMEDOUT)
        plx_warn("%s: not paused, as a disk has not ended its requests within %d ms", p->s->nqn, PAUSE_LIMIT_MS);
    pause_free(p);
    nvmf_apply_released(t); /* its subsystem was removed, perhaps */
    nvmf_target_may_stop(t);
    pause_tell(&pauser, result);
    pause_tell(&resumer, 0);
}

/* The sequence of a pause, whole: called when every reactor has answered, and when it is to be over. */
static void pause_step(struct nvmf_pause *p)
{
    switch (p->step) {
    case PAUSE_BEGIN:
        p->step = PAUSE_DRAIN;
        plx_fan_out(&p->fan, pause_here, all_parts);
        return;
    case PAUSE_DRAIN:
        if (p->cancelled && !p->result)
            p->result = -ECANCELED;
        if (!p->result) {
            p->step = PAUSE_HELD;
            pause_tell(&p->pauser, 0);
            return;
        }
        __attribute__((fallthrough));
    case PAUSE_HELD:
        p->step = PAUSE_RELEASE;
        plx_fan_out(&p->fan, release_here, all_parts);
        return;
    case PAUSE_RELEASE:
        pause_finish(p);
        return;
    }
}

static struct nvmf_pause *pause_make(struct plx_nvmf_subsystem *s, uint32_t nsid)
{
    struct plx_nvmf_target *t = s->target;
    struct nvmf_pause *p = calloc(1, sizeof *p + t->nreactors * sizeof p->parts[0]);
    if (!p || plx_fan_init(&p->fan, nvmf_control_reactor(t), t->reactors, t->nreactors)) {
        free(p);
        return NULL;
    }
    p->s = s;
    p->nsid = nsid;
    for (unsigned i = 0; i < t->nreactors; i++) {
        p->parts[i].pause = p;
        plx_list_init(&p->parts[i].link);
        plx_list_init(&p->parts[i].held);
    }
    plx_list_add_tail(&t->pauses, &p->link);
    return p;
}

/* The pause of this identifier; or, with `covering`, one that includes it. Or NULL. */
static struct nvmf_pause *pause_find(const struct plx_nvmf_subsystem *s, uint32_t nsid, bool covering)
{
    plx_list_for_each(it, &s->target->pauses) {
        struct nvmf_pause *p = plx_list_entry(it, struct nvmf_pause, link);
        if (p->s == s && (p->nsid == nsid || (covering && !p->nsid)))
            return p;
    }
    return NULL;
}

void plx_nvmf_subsystem_pause(struct plx_nvmf_subsystem *s, uint32_t nsid, plx_nvmf_done_fn done, void *arg)
{
    struct plx_nvmf_target *t = s->target;
    nvmf_assert_control(t);
    const struct nvmf_pause *old = pause_find(s, nsid, true);
    bool there = !nsid || (nsid <= s->nns && s->ns[nsid - 1]);
    int ret = t->state != NVMF_RUNNING           ? -ECANCELED
              : old && old->step < PAUSE_RELEASE ? -EALREADY
              : old                              ? -EBUSY
              : !there                           ? -ENOENT
                                                 : 0;
    struct nvmf_pause *p = ret ? NULL : pause_make(s, nsid);
    if (!p) {
        done(arg, ret ? ret : -ENOMEM);
        return;
    }
    p->pauser = (struct nvmf_caller){.done = done, .arg = arg};
    pause_step(p);
}

/* Ends a pause, or what is under way to one. */
static void pause_end(struct nvmf_pause *p)
{
    if (p->step == PAUSE_DRAIN)
        atomic_store(&p->cancelled, true);
    else if (p->step == PAUSE_HELD)
        pause_step(p);
}

void plx_nvmf_subsystem_resume(struct plx_nvmf_subsystem *s, uint32_t nsid, plx_nvmf_done_fn done, void *arg)
{
    nvmf_assert_control(s->target);
    struct nvmf_pause *p = pause_find(s, nsid, false);
    if (!p || p->resumer.done) {
        done(arg, p ? -EALREADY : -ENOENT);
        return;
    }
    p->resumer = (struct nvmf_caller){.done = done, .arg = arg};
    pause_end(p);
}

void nvmf_pauses_leave(const struct plx_nvmf_subsystem *s)
{
    plx_list_for_each_safe(it, &s->target->pauses) {
        if (plx_list_entry(it, struct nvmf_pause, link)->s == s)
            pause_end(plx_list_entry(it, struct nvmf_pause, link));
    }
}

bool nvmf_pauses_of(const struct plx_nvmf_subsystem *s)
{
    plx_list_for_each(it, &s->target->pauses) {
        if (plx_list_entry(it, struct nvmf_pause, link)->s == s)
            return true;
    }
    return false;
}

bool nvmf_pauses_stop(struct plx_nvmf_target *t)
{
    bool quiet = true;
    plx_list_for_each(it, &t->pauses) {
        struct nvmf_pause *p = plx_list_entry(it, struct nvmf_pause, link);
        if (p->step == PAUSE_DRAIN)
            pause_end(p);
        quiet = quiet && p->step == PAUSE_HELD;
    }
    return quiet;
}

void nvmf_pauses_free(struct plx_nvmf_target *t)
{
    while (!plx_list_empty(&t->pauses))
        pause_free(plx_list_entry(t->pauses.next, struct nvmf_pause, link));
}
