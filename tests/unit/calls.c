/* SPDX-License-Identifier: BSD-3-Clause */
#include "calls.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

struct calls_req {
    calls_done done;
    void *arg;
    struct nvmf_req core __attribute__((aligned(16)));
};

/* A reactor's part: a connection that is never open, for what disks do not let go of. */
struct calls_group {
    struct calls_qpair orphans;
    struct plx_timer deadline;
    uint64_t stop_by;
    void (*stopped)(struct nvmf_group *g);
};

static struct calls_qpair *qpair_of(struct nvmf_qpair *qp)
{
    return plx_container_of(qp, struct calls_qpair, qp);
}

static void gone(struct nvmf_qpair *qp)
{
    qpair_of(qp)->gone = true;
}

static void detach_if_idle(struct calls_qpair *q)
{
    if (!q->closed || q->detaching || q->qp.in_flight)
        return;
    q->detaching = true;
    plx_timer_cancel(q->qp.group->reactor, &q->orphan);
    nvmf_qpair_detach(&q->qp, gone);
}

static void orphan(struct plx_timer *timer)
{
    struct calls_qpair *q = plx_container_of(timer, struct calls_qpair, orphan);
    nvmf_qpair_orphan(&q->qp, &((struct calls_group *)q->qp.group->transport)->orphans.qp);
    detach_if_idle(q);
}

void calls_close(struct calls_qpair *q)
{
    if (q->closed)
        return;
    q->closed = true;
    nvmf_qpair_close(&q->qp, nvmf_req_put);
    q->orphan.fn = orphan;
    plx_timer_set(q->qp.group->reactor, &q->orphan, NVMF_ORPHAN_MS * PLX_NS_PER_MS);
    detach_if_idle(q);
}

static void calls_kill(struct nvmf_qpair *qp, const char *why __attribute__((unused)))
{
    calls_close(qpair_of(qp));
}

static void calls_complete(struct nvmf_req *core)
{
    struct calls_req *req = plx_container_of(core, struct calls_req, core);
    struct calls_qpair *q = qpair_of(core->qp);
    const struct nvme_cqe cqe = core->cqe;
    calls_done done = req->done;
    void *arg = req->arg;
    nvmf_req_put(core);
    if (!q->closed)
        done(arg, &cqe);
    else
        detach_if_idle(q);
}

static bool calls_abort(struct nvmf_req *req __attribute__((unused)))
{
    return false; /* nothing waits here */
}

static enum plx_nvmf_stage calls_stage(const struct nvmf_req *req __attribute__((unused)))
{
    return PLX_NVMF_STAGE_CAPSULE;
}

static void calls_local_addr(struct nvmf_qpair *qp __attribute__((unused)), struct sockaddr_storage *ss)
{
    ss->ss_family = AF_UNSPEC;
}

void calls_connect(struct calls_qpair *q, struct nvmf_group *g, uint16_t portid)
{
    memset(q, 0, sizeof *q);
    q->qp.portid = portid;
    nvmf_qpair_init(&q->qp, g);
    snprintf(q->qp.peer, sizeof q->qp.peer, "a call");
}

void calls_send(struct calls_qpair *q, const struct nvme_cmd *cmd, void *data, uint32_t len, calls_done done, void *arg)
{
    struct nvmf_req *core = q->closed ? NULL : nvmf_req_get(&q->qp);
    if (!core)
        return;
    struct calls_req *req = plx_container_of(core, struct calls_req, core);
    req->done = done;
    req->arg = arg;
    core->cmd = *cmd;
    core->cmd.flags |= NVME_PSDT_SGL;
    core->cmd.sgl = (struct nvme_sgl){.length = plx_put32(len), .type = NVME_SGL_TRANSPORT_DATA};
    uint16_t status = nvmf_req_parse(core, 0);
    if (status) {
        nvmf_req_complete(core, status);
        return;
    }
    core->data = core->dir ? data : NULL;
    nvmf_req_execute(core);
}

/* ---- listeners and groups ---- */

static int calls_listen(struct plx_nvmf_target *t __attribute__((unused)), const char *addr, uint16_t port,
                        struct plx_nvmf_listener **out, struct plx_error *err)
{
    *out = calloc(1, sizeof **out);
    if (!*out)
        return plx_fail(err, -ENOMEM, "out of memory");
    (*out)->family = AF_INET;
    (*out)->port = port;
    snprintf((*out)->addr, sizeof(*out)->addr, "%s", addr);
    return 0;
}

static int calls_accept(struct plx_nvmf_listener *l __attribute__((unused)))
{
    return 0;
}

static void calls_deafen(struct plx_nvmf_listener *l __attribute__((unused)))
{
}

static void calls_free_listener(struct plx_nvmf_listener *l)
{
    free(l);
}

static int calls_group_start(struct nvmf_group *core)
{
    struct calls_group *g = core->transport = calloc(1, sizeof *g);
    if (!g)
        return -ENOMEM;
    g->orphans.qp.group = core;
    g->orphans.closed = g->orphans.detaching = true;
    return 0;
}

static void stop_step(struct plx_timer *timer)
{
    struct calls_group *g = plx_container_of(timer, struct calls_group, deadline);
    struct nvmf_group *core = g->orphans.qp.group;
    plx_list_for_each_safe(it, &core->qpairs) {
        struct calls_qpair *q = qpair_of(plx_list_entry(it, struct nvmf_qpair, link));
        calls_close(q);
        if (plx_reactor_now(core->reactor) >= g->stop_by && !q->detaching)
            orphan(&q->orphan);
    }
    if (plx_list_empty(&core->qpairs))
        g->stopped(core);
    else
        plx_timer_set(core->reactor, timer, PLX_NS_PER_MS);
}

static void calls_group_stop(struct nvmf_group *core, uint32_t grace_ms, void (*done)(struct nvmf_group *g))
{
    struct calls_group *g = core->transport;
    g->stopped = done;
    g->stop_by = plx_reactor_now(core->reactor) + grace_ms * PLX_NS_PER_MS;
    g->deadline.fn = stop_step;
    stop_step(&g->deadline);
}

static void calls_group_free(struct nvmf_group *core)
{
    free(core->transport);
    core->transport = NULL;
}

const struct nvmf_transport calls_transport = {
    .trtype = 254, /* Base: intra-host */
    .req_prefix = offsetof(struct calls_req, core),
    .listen = calls_listen,
    .accept = calls_accept,
    .deafen = calls_deafen,
    .free_listener = calls_free_listener,
    .group_start = calls_group_start,
    .group_stop = calls_group_stop,
    .group_free = calls_group_free,
    .complete = calls_complete,
    .abort = calls_abort,
    .kill = calls_kill,
    .stage = calls_stage,
    .local_addr = calls_local_addr,
};
