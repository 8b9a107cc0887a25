/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What is going on, for people who ask. Each reactor says what it knows in memory of the question's, in steps that are
 * short however much there is; when all have, it is put together on the control reactor.
 */
#include "nvmf/nvmf.h"

#include "reactor/fan.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct query;

/* What one reactor finds. */
struct part {
    struct query *query;
    struct nvmf_group *group;
    struct plx_fan_leg *leg;
    struct plx_msg msg;
    struct nvmf_walk at; /* of its requests */
    void *found;         /* by the kind of question */
    size_t n, room;
    uint64_t left_out;
    uint16_t *heap; /* of the commands found, the youngest on top: the one to go when there are too many */
    bool no_memory;
};

struct query {
    struct plx_nvmf_target *target;
    const struct plx_nvmf_subsystem *subsys; /* compared with, and not looked into: it may be gone meanwhile */
    struct plx_fan fan;
    union {
        void (*controllers)(void *arg, const struct plx_nvmf_controller_info *c, unsigned n);
        void (*inflight)(void *arg, const struct plx_nvmf_command_info *c, unsigned n, uint64_t left_out);
        void (*stats)(void *arg, const struct plx_nvmf_reactor_info *r, unsigned n);
    } done;
    void *arg;
    struct part parts[]; /* by reactor */
};

/* @return 0 or a negative errno value */
static int query_new(struct plx_nvmf_target *t, void *arg, struct query **out)
{
    nvmf_assert_control(t);
    if (t->state != NVMF_RUNNING)
        return -ECANCELED;
    struct query *q = *out = calloc(1, sizeof *q + t->nreactors * sizeof q->parts[0]);
    if (!q)
        return -ENOMEM;
    q->target = t;
    q->arg = arg;
    if (plx_fan_init(&q->fan, nvmf_control_reactor(t), t->reactors, t->nreactors)) {
        free(q);
        return -ENOMEM;
    }
    t->queries++;
    for (unsigned i = 0; i < t->nreactors; i++) {
        q->parts[i].query = q;
        q->parts[i].group = &t->groups[i];
    }
    return 0;
}

static void query_free(struct query *q)
{
    struct plx_nvmf_target *t = q->target;
    for (unsigned i = 0; i < t->nreactors; i++) {
        free(q->parts[i].found);
        free(q->parts[i].heap);
    }
    plx_fan_destroy(&q->fan);
    free(q);
    t->queries--;
    nvmf_target_may_stop(t);
}

static struct part *query_part_of(struct plx_fan_leg *leg)
{
    struct query *q = plx_container_of(leg->fan, struct query, fan);
    struct part *p = &q->parts[leg - leg->fan->legs];
    p->leg = leg;
    return p;
}

/* Room for one more of what is found. @return NULL, for good, when there is no memory */
static void *part_add(struct part *p, size_t size)
{
    if (p->n == p->room && !p->no_memory) {
        size_t room = p->room ? 2 * p->room : 16;
        void *found = realloc(p->found, room * size);
        p->no_memory = !found;
        p->found = found ? found : p->found;
        p->room = found ? room : p->room;
    }
    return p->no_memory ? NULL : (uint8_t *)p->found + size * p->n++;
}

static void part_over(struct part *p)
{
    plx_fan_answer(p->leg, p->no_memory ? -ENOMEM : 0);
}

/* All that all parts have found, in their order, in memory of malloc()'s; or NULL. */
static void *gather_parts(const struct query *q, size_t size, size_t *n)
{
    *n = 0;
    for (unsigned i = 0; i < q->target->nreactors; i++)
        *n += q->parts[i].n;
    uint8_t *all = malloc((*n + 1) * size), *to = all;
    for (unsigned i = 0; all && i < q->target->nreactors; i++) {
        const struct part *p = &q->parts[i];
        if (p->n)
            memcpy(to, p->found, p->n * size);
        to += p->n * size;
    }
    return all;
}

static uint64_t age(const struct nvmf_group *g, uint64_t since)
{
    uint64_t now = plx_reactor_now(g->reactor);
    return now > since ? now - since : 0;
}

/* ---- controllers ---- */

/* A queue pair, and what of its controller its reactor may look at. */
struct found_qpair {
    uint16_t cntlid;
    struct plx_nvmf_qpair_info info;
    char peer[PLX_ADDR_TEXT], local[PLX_ADDR_TEXT];
    struct plx_nvmf_controller_info of; /* of an admin queue */
};

static void find_listener(const struct nvmf_group *g, uint16_t portid, struct plx_nvmf_end *out)
{
    for (unsigned i = 0; g->snap && i < g->snap->nlisteners; i++) {
        const struct nvmf_where *l = &g->snap->listeners[i];
        if (l->portid != portid)
            continue;
        memcpy(out->addr, l->addr, sizeof out->addr);
        out->port = l->port;
        out->ipv6 = l->family == AF_INET6;
        return;
    }
}

static void find_qpair(struct part *p, const struct nvmf_qpair *qp)
{
    const struct nvmf_ctrlr *c = qp->ctrlr;
    struct found_qpair *f = part_add(p, sizeof *f);
    if (!f)
        return;
    memset(f, 0, sizeof *f);
    f->cntlid = c->cntlid;
    f->info.qid = qp->qid;
    f->info.entries = qp->entries;
    f->info.core = plx_reactor_core(p->group->reactor);
    f->info.placed = qp->placed;
    f->info.incoming_cpu = qp->incoming_cpu;
    f->info.in_flight = qp->in_flight;
    f->info.completed = qp->completed;
    f->info.age_ns = age(p->group, qp->since);
    f->info.header_digest = qp->header_digest;
    f->info.data_digest = qp->data_digest;
    memcpy(f->peer, qp->peer, sizeof f->peer);
    memcpy(f->local, qp->local, sizeof f->local);
    if (qp->qid)
        return;
    f->of.cntlid = c->cntlid;
    memcpy(f->of.hostnqn, c->hostnqn, sizeof f->of.hostnqn);
    memcpy(f->of.hostid, c->hostid, sizeof f->of.hostid);
    f->of.kato_ms = c->kato_ms;
    f->of.age_ns = age(p->group, c->since);
    find_listener(p->group, qp->portid, &f->of.listener);
}

static void find_qpairs(struct plx_fan_leg *leg)
{
    struct part *p = query_part_of(leg);
    plx_list_for_each(it, &p->group->qpairs) {
        const struct nvmf_qpair *qp = plx_list_entry(it, struct nvmf_qpair, link);
        /* That of a detached one may be gone already. */
        if (qp->ctrlr && qp->state != NVMF_QP_DETACHED && qp->ctrlr->subsys == p->query->subsys)
            find_qpair(p, qp);
    }
    part_over(p);
}

static int order_of_qpairs(const void *left, const void *right)
{
    const struct found_qpair *a = left, *b = right;
    return a->cntlid != b->cntlid ? a->cntlid - b->cntlid : a->info.qid - b->info.qid;
}

static void set_end(struct plx_nvmf_end *out, const char *text)
{
    char host[PLX_ADDR_HOST];
    if (plx_addr_split(text, strlen(text), host, &out->port, NULL) || !out->port)
        return;
    snprintf(out->addr, sizeof out->addr, "%.*s", (int)sizeof out->addr - 1, host);
    out->ipv6 = strchr(host, ':') != NULL;
}

/* Of those that are sorted. A controller is one that has its admin queue; others are about to go. */
static unsigned put_controllers(struct found_qpair *f, size_t n, struct plx_nvmf_controller_info *c,
                                struct plx_nvmf_qpair_info *qpairs)
{
    unsigned found = 0;
    for (size_t i = 0; i < n; i++) {
        bool admin = !f[i].info.qid;
        if (!admin && (!found || c[found - 1].cntlid != f[i].cntlid))
            continue;
        set_end(&f[i].info.peer, f[i].peer);
        set_end(&f[i].info.local, f[i].local);
        if (admin) {
            c[found] = f[i].of;
            c[found++].qpairs = qpairs;
        } else {
            c[found - 1].nio++;
        }
        *qpairs++ = f[i].info;
    }
    return found;
}

static void tell_controllers(struct plx_fan *fan, int result)
{
    struct query *q = plx_container_of(fan, struct query, fan);
    size_t n = 0;
    struct found_qpair *f = result ? NULL : gather_parts(q, sizeof *f, &n);
    struct plx_nvmf_controller_info *c = malloc((n + 1) * sizeof *c);
    struct plx_nvmf_qpair_info *qpairs = malloc((n + 1) * sizeof *qpairs);
    if (f && c && qpairs) {
        qsort(f, n, sizeof *f, order_of_qpairs);
        q->done.controllers(q->arg, c, put_controllers(f, n, c, qpairs));
    } else {
        q->done.controllers(q->arg, NULL, 0);
    }
    free(f);
    free(c);
    free(qpairs);
    query_free(q);
}

int plx_nvmf_query_controllers(struct plx_nvmf_subsystem *s,
                               void (*done)(void *arg, const struct plx_nvmf_controller_info *c, unsigned n), void *arg)
{
    struct query *q;
    int ret = query_new(s->target, arg, &q);
    if (ret)
        return ret;
    q->subsys = s;
    q->done.controllers = done;
    plx_fan_out(&q->fan, find_qpairs, tell_controllers);
    return 0;
}

/* ---- commands in flight ---- */

const char *plx_nvmf_stage_text(enum plx_nvmf_stage stage)
{
    static const char *const texts[PLX_NVMF_STAGES] = {
        [PLX_NVMF_STAGE_CAPSULE] = "arriving",
        [PLX_NVMF_STAGE_BUFFER] = "waiting for a buffer",
        [PLX_NVMF_STAGE_DATA] = "waiting for its data",
        [PLX_NVMF_STAGE_HELD] = "waiting for the other half of a fused command",
        [PLX_NVMF_STAGE_PAUSED] = "held, as its subsystem is paused",
        [PLX_NVMF_STAGE_LIMITED] = "waiting for the rate limit of its host",
        [PLX_NVMF_STAGE_TARGET] = "in the target",
        [PLX_NVMF_STAGE_EVENT] = "waiting for an event",
        [PLX_NVMF_STAGE_DISK] = "at the disk",
        [PLX_NVMF_STAGE_SOCKET] = "in the socket",
        [PLX_NVMF_STAGE_ABORTED] = "aborted, but data may still come",
    };
    return (unsigned)stage < PLX_NVMF_STAGES ? texts[stage] : "unknown";
}

static enum plx_nvmf_stage stage_of(const struct nvmf_req *req)
{
    switch ((enum nvmf_req_state)req->state) {
    case NVMF_REQ_TRANSPORT:
        return nvmf_transport_of(req->qp)->stage(req);
    case NVMF_REQ_HELD:
        return PLX_NVMF_STAGE_HELD;
    case NVMF_REQ_PAUSED:
        return PLX_NVMF_STAGE_PAUSED;
    case NVMF_REQ_LIMITED:
        return PLX_NVMF_STAGE_LIMITED;
    case NVMF_REQ_EXECUTING:
        if (req->ns && !req->between)
            return PLX_NVMF_STAGE_DISK;
        return !req->qp->qid && req->cmd.opcode == NVME_ADMIN_ASYNC_EVENT ? PLX_NVMF_STAGE_EVENT
                                                                          : PLX_NVMF_STAGE_TARGET;
    case NVMF_REQ_DONE:
        break;
    }
    return PLX_NVMF_STAGE_SOCKET;
}

static bool has_range(const struct nvmf_req *req)
{
    static const uint8_t opcodes[] = {NVME_IO_READ,         NVME_IO_WRITE,  NVME_IO_COMPARE,
                                      NVME_IO_WRITE_ZEROES, NVME_IO_VERIFY, NVME_IO_ZONE_APPEND};
    return req->ns && memchr(opcodes, req->cmd.opcode, sizeof opcodes);
}

static void describe(const struct part *p, const struct nvmf_req *req, struct plx_nvmf_command_info *c)
{
    const struct nvmf_qpair *qp = req->qp;
    const struct nvmf_ctrlr *ctrlr = qp->state == NVMF_QP_DETACHED ? NULL : qp->ctrlr;
    memset(c, 0, sizeof *c);
    c->age_ns = age(p->group, req->start);
    c->stage = stage_of(req);
    c->core = plx_reactor_core(p->group->reactor);
    c->orphan = !ctrlr && req->ns;
    c->qid = qp->qid;
    c->cid = plx_get16(req->cmd.cid);
    c->opcode = req->cmd.opcode;
    c->nsid = plx_get32(req->cmd.nsid);
    if (ctrlr) {
        c->cntlid = ctrlr->cntlid;
        memcpy(c->hostnqn, ctrlr->hostnqn, sizeof c->hostnqn);
        memcpy(c->subnqn, ctrlr->subsys->nqn, sizeof c->subnqn);
    }
    if (req->ns)
        snprintf(c->disk, sizeof c->disk, "%.*s", (int)sizeof c->disk - 1, req->ns->info->name);
    if (!has_range(req))
        return;
    c->range = true;
    c->lba = plx_get32(req->cmd.cdw10) | (uint64_t)plx_get32(req->cmd.cdw11) << 32;
    c->nlb = (plx_get32(req->cmd.cdw12) & 0xffff) + 1;
}

/* ---- the oldest, of more than there is room for: a heap of places in `found`, as those are large ---- */

static bool younger(const struct part *p, unsigned a, unsigned b)
{
    const struct plx_nvmf_command_info *c = p->found;
    return c[p->heap[a]].age_ns < c[p->heap[b]].age_ns;
}

static void sift(struct part *p, unsigned at, unsigned n)
{
    for (unsigned child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && younger(p, child + 1, child))
            child++;
        if (!younger(p, child, at))
            return;
        uint16_t swap = p->heap[at];
        p->heap[at] = p->heap[child];
        p->heap[child] = swap;
    }
}

static bool heap_make(struct part *p)
{
    p->heap = p->heap ? p->heap : malloc(PLX_NVMF_INFLIGHT_MAX * sizeof *p->heap);
    p->no_memory |= !p->heap;
    for (unsigned i = 0; p->heap && i < p->n; i++)
        p->heap[i] = (uint16_t)i;
    for (unsigned i = (unsigned)p->n / 2; p->heap && i-- > 0;)
        sift(p, i, (unsigned)p->n);
    return p->heap != NULL;
}

static void find_in_flight(struct nvmf_req *req, void *arg)
{
    struct part *p = arg;
    struct plx_nvmf_command_info *c;
    if (!req->qp || p->no_memory)
        return;
    if (p->n < PLX_NVMF_INFLIGHT_MAX) {
        c = part_add(p, sizeof *c);
        if (c)
            describe(p, req, c);
        return;
    }
    p->left_out++;
    if (!p->heap && !heap_make(p))
        return;
    c = (struct plx_nvmf_command_info *)p->found + p->heap[0];
    if (age(p->group, req->start) <= c->age_ns)
        return;
    describe(p, req, c);
    sift(p, 0, PLX_NVMF_INFLIGHT_MAX);
}

static void find_more_commands(struct plx_msg *msg)
{
    struct part *p = plx_container_of(msg, struct part, msg);
    if (nvmf_reqs_some(p->group, &p->at, find_in_flight, p) && !p->no_memory)
        plx_reactor_send(p->group->reactor, msg);
    else
        part_over(p);
}

static void find_commands(struct plx_fan_leg *leg)
{
    struct part *p = query_part_of(leg);
    p->at = nvmf_walk_from(p->group);
    p->msg.fn = find_more_commands;
    find_more_commands(&p->msg);
}

static int older_first(const void *left, const void *right)
{
    const struct plx_nvmf_command_info *a = left, *b = right;
    return (a->age_ns < b->age_ns) - (a->age_ns > b->age_ns);
}

static void tell_commands(struct plx_fan *fan, int result)
{
    struct query *q = plx_container_of(fan, struct query, fan);
    size_t n = 0;
    uint64_t left_out = 0;
    struct plx_nvmf_command_info *c = result ? NULL : gather_parts(q, sizeof *c, &n);
    for (unsigned i = 0; i < q->target->nreactors; i++)
        left_out += q->parts[i].left_out;
    if (c) {
        unsigned told = (unsigned)plx_min_u64(n, PLX_NVMF_INFLIGHT_MAX);
        qsort(c, n, sizeof *c, older_first);
        q->done.inflight(q->arg, c, told, left_out + n - told);
    } else {
        q->done.inflight(q->arg, NULL, 0, 0);
    }
    free(c);
    query_free(q);
}

int plx_nvmf_query_inflight(struct plx_nvmf_target *t,
                            void (*done)(void *arg, const struct plx_nvmf_command_info *c, unsigned n,
                                         uint64_t left_out),
                            void *arg)
{
    struct query *q;
    int ret = query_new(t, arg, &q);
    if (ret)
        return ret;
    q->done.inflight = done;
    plx_fan_out(&q->fan, find_commands, tell_commands);
    return 0;
}

/* ---- reactors ---- */

static void count_at_disk(struct nvmf_req *req, void *arg)
{
    struct plx_nvmf_reactor_info *r = arg;
    r->at_disks += req->qp && stage_of(req) == PLX_NVMF_STAGE_DISK;
}

static void count_more(struct plx_msg *msg)
{
    struct part *p = plx_container_of(msg, struct part, msg);
    if (nvmf_reqs_some(p->group, &p->at, count_at_disk, p->found))
        plx_reactor_send(p->group->reactor, msg);
    else
        part_over(p);
}

static void count_qpair(struct plx_nvmf_reactor_info *r, const struct nvmf_qpair *qp)
{
    *(qp->qid ? &r->io_commands : &r->admin_commands) += qp->completed;
    if (qp->state == NVMF_QP_DETACHED)
        return;
    if (!qp->ctrlr)
        r->unassociated++;
    else if (qp->qid)
        r->io_qpairs++;
    else
        r->admin_qpairs++;
}

static void find_stats(struct plx_fan_leg *leg)
{
    struct part *p = query_part_of(leg);
    const struct nvmf_group *g = p->group;
    struct plx_nvmf_reactor_info *r = part_add(p, sizeof *r);
    if (!r) {
        part_over(p);
        return;
    }
    *r = (struct plx_nvmf_reactor_info){.core = plx_reactor_core(g->reactor),
                                        .all_admin_qpairs = g->connected[0],
                                        .all_io_qpairs = g->connected[1],
                                        .admin_commands = g->completed[0],
                                        .io_commands = g->completed[1],
                                        .in_flight = g->reqs_in_use,
                                        .buffer_bytes = plx_buf_total_bytes(g->reactor),
                                        .buffer_free = plx_buf_free_bytes(g->reactor)};
    plx_list_for_each(it, &g->qpairs) {
        count_qpair(r, plx_list_entry(it, struct nvmf_qpair, link));
    }
    p->at = nvmf_walk_from(p->group);
    p->msg.fn = count_more;
    count_more(&p->msg);
}

static void tell_stats(struct plx_fan *fan, int result)
{
    struct query *q = plx_container_of(fan, struct query, fan);
    size_t n = 0;
    struct plx_nvmf_reactor_info *r = result ? NULL : gather_parts(q, sizeof *r, &n);
    q->done.stats(q->arg, r, r ? (unsigned)n : 0);
    free(r);
    query_free(q);
}

int plx_nvmf_query_stats(struct plx_nvmf_target *t,
                         void (*done)(void *arg, const struct plx_nvmf_reactor_info *r, unsigned n), void *arg)
{
    struct query *q;
    int ret = query_new(t, arg, &q);
    if (ret)
        return ret;
    q->done.stats = done;
    plx_fan_out(&q->fan, find_stats, tell_stats);
    return 0;
}
