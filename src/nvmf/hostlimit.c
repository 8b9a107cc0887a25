/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Rate limits of hosts: those of a group share one limiter, over all subsystems, controllers and reactors.
 *
 * A queue pair of such a host is not `plain`, so that its commands are looked at; reads, writes and compares get
 * another `execute`, which asks the limiter once their data is here. What must wait is held as what is paused is
 * (NVMF_REQ_LIMITED), in a lane of its reactor, one for reads and one for writes, in order. Fused commands go on, and
 * are charged for. When the target stops, what waits goes on at once.
 *
 * Other limits hold at once: lanes look every 50 ms at least. Other hosts make a group anew, in the place of the old
 * one.
 */
#include "nvmf/nvmf.h"

#include "bdev/limit.h"

#include <errno.h>
#include <pollux/nvme.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    LOOK_MS = 50,
    LANE_STEP = 64, /* commands that a lane lets go in a round */
    HOSTS_MAX = 1024,
};

struct host_lane {
    struct plx_limit_user user;
    struct nvmf_host_part *part;
    struct plx_list held; /* requests, in order */
    struct plx_timer timer;
};

/* A group on one reactor, whose it is. */
struct nvmf_host_part {
    struct plx_list link; /* in nvmf_group->host_parts */
    struct host_group *group;
    struct nvmf_group *on;
    struct host_lane lanes[2]; /* reads, writes */
    struct plx_fan_leg *leg;   /* answered when nothing is held any more */
    bool open;                 /* its lanes let everything go: it leaves, or the target stops */
} PLX_APART;
PLX_IS_APART(struct nvmf_host_part);

/* The control reactor's, but for what never changes, and the limiter. */
struct host_group {
    struct plx_list link; /* in target->host_groups */
    struct plx_nvmf_target *target;
    char name[PLX_NVMF_HOST_GROUP_NAME];
    struct nvmf_host *hosts;
    unsigned nhosts;
    struct plx_bdev_limits limits;
    struct plx_limiter *limiter;
    struct host_group *old; /* that it takes the place of */
    struct nvmf_caller caller;
    struct plx_fan fan;
    bool leaving;
    struct nvmf_host_part parts[]; /* by reactor */
};

/* ---- on each reactor ---- */

static bool group_has(const struct host_group *group, const char *hostnqn)
{
    for (unsigned i = 0; i < group->nhosts; i++)
        if (strcmp(group->hosts[i].nqn, hostnqn) == 0)
            return true;
    return false;
}

struct nvmf_host_part *nvmf_host_part(const struct nvmf_qpair *qp)
{
    plx_list_for_each(it, &qp->group->host_parts) {
        struct nvmf_host_part *part = plx_list_entry(it, struct nvmf_host_part, link);
        if (group_has(part->group, qp->ctrlr->hostnqn))
            return part;
    }
    return NULL;
}

static struct host_lane *lane_for(const struct nvmf_req *req)
{
    return &req->qp->host_part->lanes[req->cmd.opcode == NVME_IO_WRITE || req->cmd.opcode == NVME_IO_ZONE_APPEND];
}

static uint64_t range_bytes(const struct nvmf_req *req)
{
    return ((uint64_t)(plx_get32(req->cmd.cdw12) & 0xffff) + 1) << req->ns->block_shift;
}

static uint64_t lane_asks(struct host_lane *lane, const struct nvmf_req *req)
{
    const struct nvmf_host_part *part = lane->part;
    return part->open ? 0
                      : plx_limiter_ask(part->group->limiter, &lane->user, lane != part->lanes, range_bytes(req),
                                        plx_reactor_now(part->on->reactor));
}

static void lane_look(struct host_lane *lane, uint64_t until)
{
    struct plx_reactor *r = lane->part->on->reactor;
    plx_timer_set(r, &lane->timer, plx_min_u64(until - plx_reactor_now(r), LOOK_MS * PLX_NS_PER_MS));
}

/* It may go: but its subsystem may be paused meanwhile. */
static void go(struct nvmf_req *req)
{
    nvmf_execute_fn execute = req->u.held.limited;
    req->execute = execute;
    if (!nvmf_pause_hold(req, req->ns, execute))
        execute(req);
}

void nvmf_host_limit_execute(struct nvmf_req *req)
{
    /* Its host's limits may have been taken away since. */
    struct host_lane *lane = req->qp->host_part && req->ns && !req->abort_status ? lane_for(req) : NULL;
    bool waits = lane && !plx_list_empty(&lane->held);
    uint64_t until = lane && !waits ? lane_asks(lane, req) : 0;
    if (!waits && !until) {
        go(req);
        return;
    }
    nvmf_req_hold(req, NVMF_REQ_LIMITED, &lane->held, nvmf_host_limit_execute);
    if (until)
        lane_look(lane, until);
}

void nvmf_host_limit_parsed(struct nvmf_req *req)
{
    const uint8_t op = req->cmd.opcode;
    struct nvmf_host_part *part = req->qp->host_part;
    const bool limited =
        op == NVME_IO_READ || op == NVME_IO_WRITE || op == NVME_IO_COMPARE || op == NVME_IO_ZONE_APPEND;
    if (!part || !req->ns || !req->execute || !limited)
        return;
    if (req->cmd.flags & NVME_FUSE_MASK) {
        struct host_lane *lane = lane_for(req);
        plx_limiter_charge(part->group->limiter, &lane->user, lane != part->lanes, range_bytes(req),
                           plx_reactor_now(part->on->reactor));
        return;
    }
    req->u.held.limited = req->execute;
    req->execute = nvmf_host_limit_execute;
    req->lent = req->in_place = false; /* it is executed, and perhaps later */
}

static void part_may_leave(struct nvmf_host_part *part)
{
    struct plx_fan_leg *leg = part->leg;
    if (!leg || !plx_list_empty(&part->lanes[0].held) || !plx_list_empty(&part->lanes[1].held))
        return;
    part->leg = NULL;
    plx_timer_cancel(part->on->reactor, &part->lanes[0].timer);
    plx_timer_cancel(part->on->reactor, &part->lanes[1].timer);
    plx_fan_answer(leg, 0);
}

static void host_lane_go_on(struct plx_timer *timer)
{
    struct host_lane *lane = plx_container_of(timer, struct host_lane, timer);
    struct nvmf_host_part *part = lane->part;
    for (int n = 0; !plx_list_empty(&lane->held); n++) {
        struct nvmf_req *req = plx_list_entry(lane->held.next, struct nvmf_req, u.held.link);
        uint64_t until = n == LANE_STEP ? plx_reactor_now(part->on->reactor) + 1 /* in the next round */
                                        : lane_asks(lane, req);
        if (until) {
            lane_look(lane, until);
            return;
        }
        nvmf_pause_forget(req);
        req->execute = req->u.held.limited;
        if (!nvmf_pause_hold(req, req->ns, req->execute))
            nvmf_req_execute(req);
    }
    part_may_leave(part);
}

/* By their timers: whichever of them is through last answers, and the part may be gone then. */
static void open_lanes(struct nvmf_host_part *part)
{
    part->open = true;
    plx_timer_set(part->on->reactor, &part->lanes[0].timer, 0);
    plx_timer_set(part->on->reactor, &part->lanes[1].timer, 0);
}

static void see_hosts(struct nvmf_group *g)
{
    nvmf_group_see(g);
    plx_list_for_each(it, &g->qpairs) {
        struct nvmf_qpair *qp = plx_list_entry(it, struct nvmf_qpair, link);
        qp->host_part = NULL; /* of those too that are about to end */
        if (qp->image && qp->state == NVMF_QP_READY)
            nvmf_qpair_see(qp);
    }
}

/* A group comes in the place of another, or leaves: what the old one holds goes on. */
static void change_here(struct plx_fan_leg *leg)
{
    struct host_group *group = plx_container_of(leg->fan, struct host_group, fan);
    unsigned i = (unsigned)(leg - leg->fan->legs);
    struct nvmf_host_part *part = &group->parts[i];
    struct nvmf_host_part *leaves = group->leaving ? part : group->old ? &group->old->parts[i] : NULL;
    if (!group->leaving)
        plx_list_add_tail(&part->on->host_parts, &part->link);
    if (leaves)
        plx_list_del(&leaves->link);
    see_hosts(part->on);
    if (!leaves) {
        plx_fan_answer(leg, 0);
        return;
    }
    leaves->leg = leg;
    open_lanes(leaves);
}

void nvmf_host_limits_stop(struct nvmf_group *g)
{
    plx_list_for_each(it, &g->host_parts) {
        open_lanes(plx_list_entry(it, struct nvmf_host_part, link));
    }
}

void nvmf_host_limits_close(struct nvmf_group *g)
{
    plx_list_for_each_safe(it, &g->host_parts) {
        struct nvmf_host_part *part = plx_list_entry(it, struct nvmf_host_part, link);
        plx_timer_cancel(g->reactor, &part->lanes[0].timer);
        plx_timer_cancel(g->reactor, &part->lanes[1].timer);
        plx_list_del(it);
    }
}

/* ---- on the control reactor ---- */

static void host_group_free(struct host_group *group)
{
    plx_list_del(&group->link);
    plx_fan_destroy(&group->fan);
    free(group->limiter);
    free(group->hosts);
    free(group);
}

static void changed(struct plx_fan *fan, int result)
{
    struct host_group *group = plx_container_of(fan, struct host_group, fan);
    struct plx_nvmf_target *t = group->target;
    struct nvmf_caller caller = group->caller;
    (void)result;
    if (group->old)
        host_group_free(group->old);
    group->old = NULL;
    group->caller.done = NULL;
    if (group->leaving)
        host_group_free(group);
    t->host_changes--;
    caller.done(caller.arg, 0);
    nvmf_target_may_stop(t);
}

static struct host_group *host_group_make(struct plx_nvmf_target *t, const char *name, const char *const *hosts,
                                          unsigned n)
{
    struct host_group *group = plx_alloc_apart(sizeof *group + t->nreactors * sizeof group->parts[0]);
    if (!group)
        return NULL;
    plx_list_init(&group->link);
    group->target = t;
    group->limiter = plx_limiter_new();
    group->hosts = calloc(n ? n : 1, sizeof *group->hosts);
    if (!group->limiter || !group->hosts ||
        plx_fan_init(&group->fan, nvmf_control_reactor(t), t->reactors, t->nreactors)) {
        free(group->limiter);
        free(group->hosts);
        free(group);
        return NULL;
    }
    snprintf(group->name, sizeof group->name, "%s", name);
    for (group->nhosts = 0; group->nhosts < n; group->nhosts++)
        snprintf(group->hosts[group->nhosts].nqn, sizeof group->hosts->nqn, "%s", hosts[group->nhosts]);
    for (unsigned i = 0; i < t->nreactors; i++) {
        struct nvmf_host_part *part = &group->parts[i];
        *part = (struct nvmf_host_part){.group = group, .on = &t->groups[i]};
        plx_list_init(&part->link);
        for (unsigned k = 0; k < 2; k++) {
            part->lanes[k].part = part;
            part->lanes[k].timer.fn = host_lane_go_on;
            plx_list_init(&part->lanes[k].held);
        }
    }
    return group;
}

static struct host_group *host_group_find(const struct plx_nvmf_target *t, const char *name)
{
    plx_list_for_each(it, &t->host_groups) {
        struct host_group *group = plx_list_entry(it, struct host_group, link);
        if (strcmp(group->name, name) == 0)
            return group;
    }
    return NULL;
}

static int check_hosts(const struct plx_nvmf_target *t, const char *name, const char *const *hosts, unsigned n,
                       struct plx_error *err)
{
    if (!n || n > HOSTS_MAX)
        return plx_fail(err, -EINVAL, "a group has 1 to %d hosts, not %u", HOSTS_MAX, n);
    for (unsigned i = 0; i < n; i++) {
        const char *problem = plx_nvme_nqn_problem(hosts[i]);
        if (problem)
            return plx_fail(err, -EINVAL, "host NQN %.223s %s", hosts[i], problem);
        plx_list_for_each(it, &t->host_groups) {
            const struct host_group *other = plx_list_entry(it, struct host_group, link);
            if (strcmp(other->name, name) != 0 && group_has(other, hosts[i]))
                return plx_fail(err, -EEXIST, "host %.150s is in group %s already", hosts[i], other->name);
        }
    }
    return 0;
}

static bool same_hosts(const struct host_group *group, const char *const *hosts, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (!group_has(group, hosts[i]))
            return false;
    return group->nhosts == n;
}

static void change_begin(struct host_group *group, plx_nvmf_done_fn done, void *arg)
{
    group->caller = (struct nvmf_caller){.done = done, .arg = arg};
    group->target->host_changes++;
    plx_fan_out(&group->fan, change_here, changed);
}

int plx_nvmf_host_limits_set(struct plx_nvmf_target *t, const char *name, const char *const *hosts, unsigned n,
                             const struct plx_bdev_limits *limits, plx_nvmf_done_fn done, void *arg,
                             struct plx_error *err)
{
    nvmf_assert_control(t);
    struct host_group *old = host_group_find(t, name), *group = old;
    if (!name[0] || strlen(name) >= sizeof group->name)
        return plx_fail(err, -EINVAL, "the name of a group has 1 to %zu bytes", sizeof group->name - 1);
    if (limits->burst_ms > PLX_BDEV_BURST_MS_MAX)
        return plx_fail(err, -EINVAL, "the burst of a rate limit is at most %d ms, not %u", PLX_BDEV_BURST_MS_MAX,
                        limits->burst_ms);
    if (t->state != NVMF_RUNNING || (old && old->caller.done))
        return plx_fail(err, -EBUSY, old ? "group %s is being changed" : "the target does not run", name);
    int ret = check_hosts(t, name, hosts, n, err);
    if (ret)
        return ret;
    bool anew = !old || !same_hosts(old, hosts, n);
    if (anew)
        group = host_group_make(t, name, hosts, n);
    if (!group)
        return plx_fail(err, -ENOMEM, "out of memory");
    group->limits = *limits;
    plx_limiter_set(group->limiter, limits, plx_reactor_clock(NULL));
    if (!anew) {
        done(arg, 0);
        return 0;
    }
    group->old = old;
    if (old)
        plx_list_del(&old->link);
    plx_list_add_tail(&t->host_groups, &group->link);
    change_begin(group, done, arg);
    return 0;
}

int plx_nvmf_host_limits_remove(struct plx_nvmf_target *t, const char *name, plx_nvmf_done_fn done, void *arg,
                                struct plx_error *err)
{
    nvmf_assert_control(t);
    struct host_group *group = host_group_find(t, name);
    if (!group)
        return plx_fail(err, -ENOENT, "there is no group %.100s of hosts", name);
    if (t->state != NVMF_RUNNING || group->caller.done)
        return plx_fail(err, -EBUSY, group->caller.done ? "group %s is being changed" : "the target does not run",
                        name);
    group->leaving = true;
    change_begin(group, done, arg);
    return 0;
}

bool plx_nvmf_host_limits_get(const struct plx_nvmf_target *t, unsigned i, struct plx_nvmf_host_group_info *out)
{
    nvmf_assert_control(t);
    plx_list_for_each(it, &t->host_groups) {
        const struct host_group *group = plx_list_entry(it, struct host_group, link);
        if (group->leaving || i--)
            continue;
        *out = (struct plx_nvmf_host_group_info){
            .name = group->name, .hosts = (const char *)group->hosts, .nhosts = group->nhosts, .limits = group->limits};
        return true;
    }
    return false;
}

const char *plx_nvmf_host_group_host(const struct plx_nvmf_host_group_info *info, unsigned i)
{
    return i < info->nhosts ? info->hosts + (size_t)i * sizeof(struct nvmf_host) : NULL;
}

void nvmf_host_limits_free(struct plx_nvmf_target *t)
{
    while (!plx_list_empty(&t->host_groups))
        host_group_free(plx_list_entry(t->host_groups.next, struct host_group, link));
}
