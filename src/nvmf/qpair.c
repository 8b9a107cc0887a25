/* SPDX-License-Identifier: BSD-3-Clause */
/* Queue pairs and the life of a request: parse, execute, complete. */
#include "nvmf/nvmf.h"

#include "reactor/now.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum {
    SLAB_REQUESTS = 32,
    SOME_SLABS = 8,
};

/* Requests come in slabs that are kept until the group ends: no more is received above NVMF_MAX_REQUESTS. */
struct nvmf_slab {
    struct nvmf_slab *next;
    uint8_t requests[] __attribute__((aligned(64)));
};

static bool grow(struct nvmf_group *g)
{
    const size_t prefix = g->target->transport->req_prefix;
    struct nvmf_slab *slab = aligned_alloc(64, plx_align_up(sizeof *slab + SLAB_REQUESTS * g->req_size, 64));
    if (!slab)
        return false;
    slab->next = g->slabs;
    g->slabs = slab;
    for (unsigned i = 0; i < SLAB_REQUESTS; i++) {
        struct nvmf_req *req = (struct nvmf_req *)(void *)(slab->requests + i * g->req_size + prefix);
        req->ns = NULL;
        req->qp = NULL;
        req->next = g->free_reqs;
        g->free_reqs = req;
    }
    return true;
}

struct nvmf_walk nvmf_walk_from(const struct nvmf_group *g)
{
    return (struct nvmf_walk){.slab = g->slabs};
}

struct nvmf_req *nvmf_walk_req(const struct nvmf_group *g, struct nvmf_walk *w)
{
    if (w->n == SLAB_REQUESTS)
        *w = (struct nvmf_walk){.slab = w->slab->next};
    if (!w->slab)
        return NULL;
    return (struct nvmf_req *)(void *)(w->slab->requests + w->n * g->req_size + g->target->transport->req_prefix);
}

/* New slabs are put in front: what is made meanwhile is not walked over. */
void nvmf_reqs_each(const struct nvmf_group *g, void (*fn)(struct nvmf_req *req, void *arg), void *arg)
{
    struct nvmf_walk w = nvmf_walk_from(g);
    for (struct nvmf_req *req; (req = nvmf_walk_req(g, &w)); w.n++)
        fn(req, arg);
}

bool nvmf_reqs_some(const struct nvmf_group *g, struct nvmf_walk *w, void (*fn)(struct nvmf_req *req, void *arg),
                    void *arg)
{
    struct nvmf_req *req = nvmf_walk_req(g, w);
    for (unsigned n = 0; req && n < SOME_SLABS * SLAB_REQUESTS; n++) {
        fn(req, arg);
        w->n++;
        req = nvmf_walk_req(g, w);
    }
    return req != NULL;
}

struct of_ns {
    struct nvmf_nsref *ref;
    void (*fn)(struct nvmf_req *req);
};

static void if_of_ns(struct nvmf_req *req, void *arg)
{
    const struct of_ns *of = arg;
    if (req->ns == of->ref)
        of->fn(req);
}

void nvmf_reqs_of(struct nvmf_nsref *ref, void (*fn)(struct nvmf_req *req))
{
    struct of_ns of = {ref, fn};
    nvmf_reqs_each(ref->group, if_of_ns, &of);
}

void nvmf_slabs_free(struct nvmf_group *g)
{
    while (g->slabs) {
        struct nvmf_slab *next = g->slabs->next;
        free(g->slabs);
        g->slabs = next;
    }
    g->free_reqs = NULL;
}

struct nvmf_req *nvmf_req_get(struct nvmf_qpair *qp)
{
    struct nvmf_group *g = qp->group;
    if (plx_unlikely(!g->free_reqs) && !grow(g))
        return NULL;
    struct nvmf_req *req = g->free_reqs;
    g->free_reqs = req->next;
    g->reqs_in_use++;
    req->qp = qp;
    _Static_assert(!NVMF_NONE && !NVMF_REQ_TRANSPORT, "what a new request is");
    memset(&req->execute, 0, offsetof(struct nvmf_req, cqe.sqhd) - offsetof(struct nvmf_req, execute));
    req->start = plx_reactor_round_time(g->reactor);
    qp->in_flight++;
    return req;
}

void nvmf_req_put(struct nvmf_req *req)
{
    struct nvmf_qpair *qp = req->qp;
    assert(!req->pending && qp->in_flight > 0);
    nvmf_req_leave_ns(req);
    req->qp = NULL;
    qp->in_flight--;
    qp->completed++;
    qp->group->reqs_in_use--;
    req->next = qp->group->free_reqs;
    qp->group->free_reqs = req;
}

/* ---- pending requests, by command identifier ---- */

static struct nvmf_req **bucket(struct nvmf_qpair *qp, uint16_t cid)
{
    return &qp->pending[cid % NVMF_PENDING_BUCKETS];
}

struct nvmf_req *nvmf_pending_find(struct nvmf_qpair *qp, uint16_t cid)
{
    for (struct nvmf_req *req = *bucket(qp, cid); req; req = req->chain)
        if (plx_get16(req->cmd.cid) == cid)
            return req;
    return NULL;
}

void nvmf_pending_add(struct nvmf_req *req)
{
    if (req->pending)
        return;
    struct nvmf_req **b = bucket(req->qp, plx_get16(req->cmd.cid));
    req->chain = *b;
    *b = req;
    req->pending = true;
}

void nvmf_pending_del(struct nvmf_req *req)
{
    if (!req->pending)
        return;
    struct nvmf_req **p = bucket(req->qp, plx_get16(req->cmd.cid));
    while (*p != req)
        p = &(*p)->chain;
    *p = req->chain;
    req->pending = false;
}

/* ---- parse ---- */

uint16_t nvmf_expect_no_data(struct nvmf_req *req)
{
    req->dir = NVMF_NONE;
    return PLX_SC_SUCCESS;
}

/* The SGL of a Fabrics capsule: one descriptor, in the capsule or by the transport (Base 4.3.2, TCP 3.5). */
uint16_t nvmf_expect_data(struct nvmf_req *req, enum nvmf_dir dir, uint64_t len)
{
    const struct nvme_sgl *sgl = &req->cmd.sgl;
    uint32_t have = plx_get32(sgl->length);
    if (len > req->qp->group->target->opts.max_io_size)
        return PLX_SC_INVALID_FIELD | NVME_STATUS_DNR;
    if (sgl->type == NVME_SGL_DATA_BLOCK_OFFSET && dir == NVMF_FROM_HOST) {
        uint64_t offset = plx_get64(sgl->address);
        if (offset > req->capsule_data || (offset == req->capsule_data && have))
            return PLX_SC_SGL_OFFSET_INVALID | NVME_STATUS_DNR;
        if (have > req->capsule_data - offset)
            return PLX_SC_DATA_SGL_LENGTH_INVALID | NVME_STATUS_DNR;
        req->in_capsule = true;
        req->capsule_off = (uint32_t)offset;
    } else if (sgl->type != NVME_SGL_TRANSPORT_DATA) {
        return PLX_SC_SGL_DESCRIPTOR_TYPE_INVALID | NVME_STATUS_DNR;
    }
    if (have != len)
        return PLX_SC_DATA_SGL_LENGTH_INVALID | NVME_STATUS_DNR;
    req->dir = len ? dir : NVMF_NONE;
    req->len = (uint32_t)len;
    return PLX_SC_SUCCESS;
}

/* Half of a fused command is to end: now, or when the data that is on its way is here. */
static void end_half(struct nvmf_req *half, uint16_t status)
{
    half->fused_first = false;
    const bool held = half->state == NVMF_REQ_HELD || half->state == NVMF_REQ_PAUSED;
    nvmf_pause_forget(half);
    if (held)
        nvmf_req_complete(half, status);
    else
        half->abort_status = status;
}

void nvmf_fused_leave(struct nvmf_req *req)
{
    struct nvmf_req *mate = req->mate;
    if (req->qp->fused == req) {
        req->qp->fused = NULL;
        req->qp->fused_failed = true;
    }
    if (!mate)
        return;
    req->mate = mate->mate = NULL;
    end_half(mate, PLX_SC_ABORTED_FAILED_FUSED | NVME_STATUS_DNR);
}

/* The first half of a fused command waits in vain: what came next in its queue is not its second half (Base 3.4.2). */
static void drop_unpaired_fused(struct nvmf_qpair *qp, uint16_t status)
{
    struct nvmf_req *first = qp->fused;
    qp->fused = NULL;
    qp->fused_failed = false;
    if (first)
        end_half(first, status);
}

static bool is_property(const struct nvme_cmd *cmd)
{
    uint8_t type = ((const struct nvme_property_cmd *)(const void *)cmd)->fctype;
    return cmd->opcode == NVME_FABRICS && (type == NVME_FABRICS_PROPERTY_GET || type == NVME_FABRICS_PROPERTY_SET);
}

static bool cid_in_use(struct nvmf_req *req)
{
    struct nvmf_req *old = nvmf_pending_find(req->qp, plx_get16(req->cmd.cid));
    if (!old)
        return false;
    /*
     * Some hosts forget their event requests when they shut a controller down, and use the identifiers of these for
     * the properties that it takes. Those are answered at once, and there will be no more events that matter.
     */
    return old->cmd.opcode != NVME_ADMIN_ASYNC_EVENT || req->qp->qid || !is_property(&req->cmd);
}

static uint16_t parse(struct nvmf_req *req)
{
    struct nvmf_qpair *qp = req->qp;
    if (cid_in_use(req))
        return PLX_SC_COMMAND_ID_CONFLICT | NVME_STATUS_DNR;
    /* Fabrics commands have no choice of PRP or SGL to state, and hosts differ in what they put there (Base 6). */
    if ((req->cmd.flags & NVME_PSDT_MASK) != NVME_PSDT_SGL && req->cmd.opcode != NVME_FABRICS)
        return PLX_SC_INVALID_FIELD | NVME_STATUS_DNR;
    if (plx_likely(qp->qid && req->cmd.opcode != NVME_FABRICS))
        return nvmf_parse_io(req);
    if (req->cmd.flags & NVME_FUSE_MASK)
        return PLX_SC_INVALID_FIELD | NVME_STATUS_DNR;
    if (req->cmd.opcode == NVME_FABRICS)
        return nvmf_parse_fabrics(req);
    if (qp->state != NVMF_QP_READY)
        return PLX_SC_COMMAND_SEQUENCE_ERROR | NVME_STATUS_DNR;
    return nvmf_parse_admin(req);
}

uint16_t nvmf_req_parse(struct nvmf_req *req, uint32_t capsule_data)
{
    struct nvmf_qpair *qp = req->qp;
    if (++qp->sqhd >= qp->entries)
        qp->sqhd = 0;
    qp->active = true;
    req->capsule_data = capsule_data;
    if (plx_likely(!qp->fused && !qp->fused_failed))
        return parse(req);
    bool second = (req->cmd.flags & NVME_FUSE_MASK) == NVME_FUSE_SECOND;
    if (!second)
        drop_unpaired_fused(qp, PLX_SC_ABORTED_MISSING_FUSED);
    uint16_t status = parse(req);
    if (second) /* a good one has taken the first half out */
        drop_unpaired_fused(qp, PLX_SC_ABORTED_FAILED_FUSED | NVME_STATUS_DNR);
    return status;
}

/* ---- execute, complete ---- */

void nvmf_req_execute(struct nvmf_req *req)
{
    if (plx_unlikely(req->abort_status)) {
        nvmf_req_complete(req, req->abort_status);
        return;
    }
    req->state = NVMF_REQ_EXECUTING;
    req->execute(req);
    /*
     * A completed request is not put back before the transport has sent its response, so it may still be looked at
     * here.
     */
    if (req->state != NVMF_REQ_DONE)
        nvmf_pending_add(req);
}

bool nvmf_req_abort(struct nvmf_req *req)
{
    switch ((enum nvmf_req_state)req->state) {
    case NVMF_REQ_TRANSPORT:
        return nvmf_transport_of(req->qp)->abort(req);
    case NVMF_REQ_PAUSED:
    case NVMF_REQ_LIMITED:
        nvmf_pause_forget(req);
        __attribute__((fallthrough));
    case NVMF_REQ_HELD:
        nvmf_req_complete(req, PLX_SC_ABORTED_BY_REQUEST);
        return true;
    case NVMF_REQ_EXECUTING:
        if (req->ns)
            nvmf_io_abort(req);
        break; /* it ends soon, one way or the other; the host sees which */
    case NVMF_REQ_DONE:
        break;
    }
    return false;
}

void nvmf_req_complete(struct nvmf_req *req, uint16_t status)
{
    if (plx_unlikely(status)) {
        /* Aborted because its namespace went, which is what its host is told: it is inactive now (Base 3.2.1). */
        if (nvmf_req_lost(req) && status == PLX_SC_ABORTED_BY_REQUEST)
            status = PLX_SC_INVALID_NAMESPACE_OR_FORMAT | NVME_STATUS_DNR;
        else if (status == PLX_SC_ABORTED_BY_REQUEST && req->abort_status == PLX_SC_PREEMPTED_AND_ABORTED)
            status = PLX_SC_PREEMPTED_AND_ABORTED;
        if (req->qp->ctrlr)
            nvmf_ctrlr_log_error(req, status);
    }
    assert(req->state != NVMF_REQ_DONE);
    if (plx_unlikely(req->mate || req->fused_first))
        nvmf_fused_leave(req);
    nvmf_pending_del(req);
    req->state = NVMF_REQ_DONE;
    req->cqe.sqid = plx_put16(req->qp->qid);
    req->cqe.cid = req->cmd.cid;
    req->cqe.status = plx_put16((unsigned)status << 1);
    nvmf_transport_of(req->qp)->complete(req);
}

void nvmf_reply(struct nvmf_req *req, const void *src, size_t len)
{
    size_t n = plx_min_u64(len, req->len);
    memcpy(req->data, src, n);
    memset(req->data + n, 0, req->len - n);
}

/* ---- queue pairs ---- */

void nvmf_qpair_init(struct nvmf_qpair *qp, struct nvmf_group *group)
{
    qp->group = group;
    qp->since = plx_reactor_now(group->reactor);
    qp->entries = NVMF_ADMIN_QUEUE_ENTRIES; /* until Connect says how many */
    qp->state = NVMF_QP_NEW;
    plx_list_add_tail(&group->qpairs, &qp->link);
}

/* Asks disks to end what they have. Each may take others along, so a chain is looked at from its beginning again. */
static void abort_at_disks(struct nvmf_qpair *qp)
{
    for (unsigned b = 0; b < NVMF_PENDING_BUCKETS; b++)
        for (struct nvmf_req *req = qp->pending[b]; req;) {
            bool told = req->abort_status && req->abort_status != NVMF_HELD_BACK;
            bool asked = req->state != NVMF_REQ_EXECUTING || told || !req->ns;
            req->abort_status = PLX_SC_ABORTED_SQ_DELETION; /* heeded between two requests to the disk */
            if (!asked)
                nvmf_io_abort(req);
            req = asked ? req->chain : qp->pending[b];
        }
}

void nvmf_qpair_close(struct nvmf_qpair *qp, void (*put)(struct nvmf_req *req))
{
    for (unsigned b = 0; b < NVMF_PENDING_BUCKETS; b++)
        for (struct nvmf_req *req = qp->pending[b], *next; req; req = next) {
            next = req->chain;
            if (req->state == NVMF_REQ_EXECUTING)
                continue;
            nvmf_pause_forget(req);
            nvmf_pending_del(req);
            put(req);
        }
    qp->fused = NULL;
    if (qp->ctrlr && !qp->qid)
        nvmf_aers_abort(qp->ctrlr);
    abort_at_disks(qp);
}

void nvmf_qpair_orphan(struct nvmf_qpair *qp, struct nvmf_qpair *to)
{
    for (unsigned b = 0; b < NVMF_PENDING_BUCKETS; b++)
        for (struct nvmf_req *req = qp->pending[b], *next; req; req = next) {
            next = req->chain;
            if (req->state != NVMF_REQ_EXECUTING || !req->ns)
                continue;
            nvmf_pending_del(req);
            qp->in_flight--;
            req->qp = to;
            to->in_flight++;
            nvmf_pending_add(req);
        }
}

static void kill_here(struct plx_msg *msg)
{
    struct nvmf_qpair *qp = plx_container_of(msg, struct nvmf_qpair, kill_msg);
    nvmf_transport_of(qp)->kill(qp, "its controller is gone");
}

void nvmf_qpair_kill_from_afar(struct nvmf_qpair *qp)
{
    if (!plx_once_ask(&qp->kill_sent))
        return;
    qp->kill_msg.fn = kill_here;
    plx_reactor_send(qp->group->reactor, &qp->kill_msg);
}

static void let_qpair_go(struct nvmf_qpair *qp)
{
    qp->ctrlr = NULL;
    qp->group->completed[qp->qid != 0] += qp->completed;
    plx_list_del(&qp->link);
    qp->detached(qp);
}

static void detach_finish(struct plx_msg *msg)
{
    let_qpair_go(plx_container_of(msg, struct nvmf_qpair, detach_msg));
}

static void detach_on_control(struct plx_msg *msg)
{
    struct nvmf_qpair *qp = plx_container_of(msg, struct nvmf_qpair, detach_msg);
    nvmf_ctrlr_detach(qp->ctrlr, qp);
    /* Whatever the control path sent to this queue pair was sent before this message, and arrives before it. */
    msg->fn = detach_finish;
    plx_reactor_send(qp->group->reactor, msg);
}

void nvmf_qpair_detach(struct nvmf_qpair *qp, void (*detached)(struct nvmf_qpair *qp))
{
    assert(qp->in_flight == 0 && qp->state != NVMF_QP_CONNECTING && qp->state != NVMF_QP_DETACHED);
    qp->state = NVMF_QP_DETACHED;
    qp->plain = false;
    qp->detached = detached;
    if (!qp->ctrlr) {
        let_qpair_go(qp);
        return;
    }
    if (qp->qid == 0)
        plx_timer_cancel(qp->group->reactor, &qp->ctrlr->kato_timer);
    qp->detach_msg.fn = detach_on_control;
    plx_reactor_send(nvmf_control_reactor(qp->group->target), &qp->detach_msg);
}
