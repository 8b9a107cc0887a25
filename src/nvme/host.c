/* SPDX-License-Identifier: BSD-3-Clause */
/* Associations with a controller: their beginning, their loss, their next attempt, their end. */
#include "nvme/nvme.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- memory ---- */

void nvme_ctrlr_release(struct nvme_ctrlr *c)
{
    if (--c->holds)
        return;
    for (unsigned i = 0; c->io && i < c->o.queues; i++)
        if (c->io[i])
            c->o.transport->free(c->io[i]);
    if (c->admin)
        c->o.transport->free(c->admin);
    free(c->io);
    free(c->page);
    free(c);
}

void nvme_qp_lost(struct nvme_qp *qp, const char *why)
{
    struct nvme_ctrlr *c = qp->ctrlr;
    if (!why)
        why = "the controller closed the connection";
    if (c->state == NVME_CTRLR_LIVE)
        nvme_ctrlr_lost(c, why);
    else if (c->state == NVME_CTRLR_CONNECTING)
        nvme_ctrlr_attempt_failed(c, -ECONNREFUSED, "%s", why);
}

static struct nvme_qp *make_queue(struct nvme_ctrlr *c, unsigned depth, unsigned qid)
{
    struct nvme_qp *qp = c->o.transport->create(c, depth);
    if (!qp)
        return NULL;
    qp->ctrlr = c;
    qp->qid = (uint16_t)qid;
    return qp;
}

static void attempt_overdue(struct plx_timer *t)
{
    struct nvme_ctrlr *c = plx_container_of(t, struct nvme_ctrlr, attempt);
    nvme_ctrlr_attempt_failed(c, -ETIMEDOUT, "no answer within %u s", (c->o.connect_timeout_ms + 999) / 1000);
}

static void begin_attempt(struct nvme_ctrlr *c)
{
    c->state = NVME_CTRLR_CONNECTING;
    plx_timer_set(c->reactor, &c->attempt, c->o.connect_timeout_ms * PLX_NS_PER_MS);
    nvme_connect_begin(c);
}

static void attempt_again(struct plx_timer *t)
{
    begin_attempt(plx_container_of(t, struct nvme_ctrlr, retry));
}

int nvme_ctrlr_create(struct plx_reactor *r, const struct nvme_opts *opts, const struct nvme_ctrlr_ops *ops, void *arg,
                      struct nvme_ctrlr **out)
{
    struct nvme_ctrlr *c = calloc(1, sizeof *c);
    if (!c)
        return -ENOMEM;
    c->reactor = r;
    c->o = *opts;
    c->addr = c->o.addrs.list;
    c->ops = ops;
    c->arg = arg;
    c->holds = 1;
    c->attempt.fn = attempt_overdue;
    c->retry.fn = attempt_again;
    c->poll.fn = nvme_connect_polled;
    c->page = aligned_alloc(NVME_PAGE, NVME_PAGE);
    c->admin = make_queue(c, NVME_ADMIN_DEPTH, 0);
    c->io = calloc(opts->queues + 1, sizeof(struct nvme_qp *));
    bool ok = c->page && c->admin && c->io;
    for (unsigned i = 0; ok && i < opts->queues; i++) {
        c->io[i] = make_queue(c, opts->depth, i + 1);
        ok = c->io[i] != NULL;
    }
    if (!ok) {
        nvme_ctrlr_release(c);
        return -ENOMEM;
    }
    *out = c;
    return 0;
}

/* ---- life ---- */

static void close_queues(struct nvme_ctrlr *c)
{
    for (unsigned i = 0; i < c->o.queues; i++)
        c->o.transport->close(c->io[i]);
    c->o.transport->close(c->admin);
}

void nvme_ctrlr_start(struct nvme_ctrlr *c, bool once)
{
    c->once = once;
    c->backoff_ms = c->o.transport->pause_ms;
    begin_attempt(c);
}

/* Gives up for now. @return whether there will be another attempt */
static bool stand_down(struct nvme_ctrlr *c)
{
    plx_timer_cancel(c->reactor, &c->attempt);
    plx_timer_cancel(c->reactor, &c->poll);
    nvme_upkeep_stop(c);
    c->state = c->once ? NVME_CTRLR_IDLE : NVME_CTRLR_WAITING;
    c->nio = c->tried = 0;
    if (c->once)
        return false;
    plx_timer_set(c->reactor, &c->retry, c->backoff_ms * PLX_NS_PER_MS);
    c->backoff_ms = (uint32_t)plx_min_u64(2ull * c->backoff_ms, NVME_BACKOFF_MAX_MS);
    return true;
}

/*
 * Nobody is at this address: it is the turn of the next one of that name. An attempt begins with the one that was
 * connected last, or else the first of the list. @return false when all have been tried
 */
static bool try_next_address(struct nvme_ctrlr *c)
{
    const struct nvme_addrs *all = &c->o.addrs;
    if (c->destroyed || nvme_connect_reached(c))
        return false;
    if (++c->addr == all->list + all->n)
        c->addr = all->list;
    if (++c->tried >= all->n)
        return false;
    close_queues(c);
    plx_timer_cancel(c->reactor, &c->attempt);
    plx_timer_set(c->reactor, &c->retry, 1); /* not from within a callback of the queue that is closed */
    return true;
}

/* Adds what is wrong at one address to what was at the others, which have their names with them. */
static void note_why(struct nvme_ctrlr *c, const char *why)
{
    size_t n = c->tried ? strlen(c->why) : 0;
    if (c->tried)
        snprintf(c->why + n, sizeof c->why - n, "; %s: %s", nvme_ctrlr_name(c), why);
    else
        snprintf(c->why, sizeof c->why, "%s", why);
}

/* A reason is said once, however often it is met. */
static void tell_why(struct nvme_ctrlr *c, const char *why)
{
    if (strcmp(c->told, why) == 0 || (c->o.quiet && !c->was_live)) {
        plx_info("%s: cannot connect: %s", nvme_ctrlr_name(c), why);
        return;
    }
    snprintf(c->told, sizeof c->told, "%s", why);
    plx_warn("%s: cannot connect, and will try again: %s", nvme_ctrlr_name(c), why);
}

void nvme_ctrlr_attempt_failed(struct nvme_ctrlr *c, int ret, const char *fmt, ...)
{
    char why[sizeof c->why];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    note_why(c, why);
    if (try_next_address(c))
        return;
    memcpy(why, c->why, sizeof why); /* what it calls may destroy it */
    bool again = stand_down(c);
    if (again)
        tell_why(c, why);
    c->holds++;
    close_queues(c);
    if (!c->destroyed)
        c->ops->failed(c, c->arg, ret, why, again);
    nvme_ctrlr_release(c);
}

void nvme_ctrlr_connected(struct nvme_ctrlr *c)
{
    plx_timer_cancel(c->reactor, &c->attempt);
    if (c->was_live)
        plx_warn("%s: connected again to %s", nvme_ctrlr_name(c), c->o.subnqn);
    c->only = c->nio == 1 ? c->io[0] : NULL;
    c->was_live = true;
    c->told[0] = 0;
    c->state = NVME_CTRLR_LIVE;
    c->backoff_ms = c->o.transport->pause_ms;
    nvme_upkeep_start(c);
    c->ops->live(c, c->arg);
}

void nvme_ctrlr_lost(struct nvme_ctrlr *c, const char *why)
{
    plx_warn("%s: lost %s: %s%s", nvme_ctrlr_name(c), c->o.subnqn, why, c->once ? "" : "; connecting again");
    stand_down(c);
    c->holds++;
    c->ops->down(c, c->arg);
    close_queues(c);
    nvme_ctrlr_release(c);
}

void nvme_ctrlr_reset(struct nvme_ctrlr *c)
{
    c->holds++;
    if (c->state == NVME_CTRLR_LIVE)
        nvme_ctrlr_lost(c, "it is reset");
    if (!c->destroyed && c->state == NVME_CTRLR_WAITING) {
        c->backoff_ms = c->o.transport->pause_ms;
        plx_timer_set(c->reactor, &c->retry, c->backoff_ms * PLX_NS_PER_MS);
    }
    nvme_ctrlr_release(c);
}

void nvme_ctrlr_destroy(struct nvme_ctrlr *c)
{
    if (c->destroyed)
        return;
    c->destroyed = true;
    plx_timer_cancel(c->reactor, &c->attempt);
    plx_timer_cancel(c->reactor, &c->poll);
    plx_timer_cancel(c->reactor, &c->retry);
    nvme_upkeep_stop(c);
    c->state = NVME_CTRLR_IDLE;
    close_queues(c);
    nvme_ctrlr_release(c);
}

/* ---- what there is to know ---- */

const char *nvme_ctrlr_name(const struct nvme_ctrlr *c)
{
    return c->addr->name;
}

const struct nvme_id_ctrl *nvme_ctrlr_id(const struct nvme_ctrlr *c)
{
    return &c->id;
}

const struct nvme_ns *nvme_ctrlr_ns(const struct nvme_ctrlr *c)
{
    return &c->ns;
}

uint64_t nvme_ctrlr_cap(const struct nvme_ctrlr *c)
{
    return c->cap;
}

uint32_t nvme_ctrlr_vs(const struct nvme_ctrlr *c)
{
    return c->vs;
}

uint32_t nvme_ctrlr_max_transfer(const struct nvme_ctrlr *c)
{
    return c->max_transfer;
}

const char *nvme_ctrlr_subnqn(const struct nvme_ctrlr *c)
{
    return c->o.subnqn;
}

bool nvme_ctrlr_stripes(const struct nvme_ctrlr *c)
{
    return c->stripes;
}

uint16_t nvme_ctrlr_cntlid(const struct nvme_ctrlr *c)
{
    return c->cntlid;
}

bool nvme_ctrlr_idle(const struct nvme_ctrlr *c)
{
    for (unsigned i = 0; i < c->nio; i++)
        if (c->io[i]->in_flight || c->io[i]->backlog.head)
            return false;
    return true;
}

unsigned nvme_ctrlr_ana(const struct nvme_ctrlr *c)
{
    return c->ana;
}

/* ---- commands ---- */

/*
 * One queue pair is filled up to its share of what is in flight, then it is the turn of the next one that has less:
 * what leaves together is cheaper to send, and its answers come together, too.
 */
static struct nvme_qp *choose_queue(struct nvme_ctrlr *c)
{
    if (plx_likely(c->only))
        return c->only;
    struct nvme_qp *qp = c->io[c->next];
    if (plx_likely(qp->in_flight < c->share && qp->in_flight < qp->depth))
        return qp;
    unsigned in_flight = 0;
    for (unsigned i = 0; i < c->nio; i++)
        in_flight += c->io[i]->in_flight;
    c->share = in_flight / c->nio + 1;
    do /* comes to an end, as one of them has no more than the average */
        c->next = c->next + 1 < c->nio ? c->next + 1 : 0;
    while (c->io[c->next]->in_flight >= c->share);
    return c->io[c->next];
}

void nvme_submit(struct nvme_ctrlr *c, struct nvme_req *req)
{
    struct nvme_qp *qp = choose_queue(c);
    qp->submit(qp, req);
}

void nvme_submit_fused(struct nvme_ctrlr *c, struct nvme_req *first)
{
    c->o.transport->submit_fused(choose_queue(c), first);
}

void nvme_submit_admin(struct nvme_ctrlr *c, struct nvme_req *req)
{
    c->admin->submit(c->admin, req);
}
