/* SPDX-License-Identifier: BSD-3-Clause */
/* Admin commands: which there are, and the small ones: Abort, Asynchronous Event Request, Keep Alive (Base 5.1). */
#include "nvmf/nvmf.h"

/* ---- Asynchronous Event Request: held until there is an event, an abort, or the end ---- */

/* What there is to tell, and the log page that says more. */
static const struct event {
    enum nvmf_event bit;
    uint8_t type, info; /* Base 5.1.2.1 */
    uint8_t lid;
} events[] = {
    {NVMF_EVENT_NS, NVME_EVENT_NOTICE, 0x00, NVME_LOG_CHANGED_NS},
    {NVMF_EVENT_ANA, NVME_EVENT_NOTICE, 0x03, NVME_LOG_ANA},
    {NVMF_EVENT_DISCOVERY, NVME_EVENT_NOTICE, 0xf0, NVME_LOG_DISCOVERY},
    {NVMF_EVENT_RESERVATION, NVME_EVENT_IO_SET, 0x00, NVME_LOG_RESERVATION},
};

static void send_events(struct nvmf_ctrlr *c)
{
    for (size_t i = 0; i < PLX_ARRAY_SIZE(events) && c->naers; i++) {
        if (!(c->events & (uint32_t)events[i].bit))
            continue;
        struct nvmf_req *req = c->aers[--c->naers];
        c->events &= ~(uint32_t)events[i].bit;
        c->events_masked |= (uint32_t)events[i].bit;
        req->cqe.dw0 = plx_put32(events[i].type | (uint32_t)events[i].info << 8 | (uint32_t)events[i].lid << 16);
        nvmf_req_complete(req, PLX_SC_SUCCESS);
    }
}

bool nvmf_event_wanted(const struct nvmf_ctrlr *c, enum nvmf_event event)
{
    return (c->feat_async_event | NVMF_EVENT_RESERVATION) & ~(c->events | c->events_masked) & (uint32_t)event;
}

void nvmf_event(struct nvmf_ctrlr *c, enum nvmf_event event)
{
    if (!nvmf_event_wanted(c, event))
        return;
    c->events |= (uint32_t)event;
    send_events(c);
}

void nvmf_event_clear(struct nvmf_ctrlr *c, uint8_t lid)
{
    for (size_t i = 0; i < PLX_ARRAY_SIZE(events); i++)
        if (events[i].lid == lid) {
            c->events &= ~(uint32_t)events[i].bit;
            c->events_masked &= ~(uint32_t)events[i].bit;
        }
}

static void execute_async_event(struct nvmf_req *req)
{
    struct nvmf_ctrlr *c = req->qp->ctrlr;
    if (c->naers == NVMF_AER_LIMIT) {
        nvmf_req_complete(req, PLX_SC_AER_LIMIT_EXCEEDED | NVME_STATUS_DNR);
        return;
    }
    c->aers[c->naers++] = req;
    send_events(c);
}

static bool forget_aer(struct nvmf_ctrlr *c, const struct nvmf_req *req)
{
    for (unsigned i = 0; i < c->naers; i++) {
        if (c->aers[i] != req)
            continue;
        c->aers[i] = c->aers[--c->naers];
        return true;
    }
    return false;
}

void nvmf_aers_abort(struct nvmf_ctrlr *c)
{
    while (c->naers)
        nvmf_req_complete(c->aers[--c->naers], PLX_SC_ABORTED_SQ_DELETION);
}

/* ---- Abort: from the admin queue, by way of the control reactor, to the queue pair with the command, and back ---- */

static bool abort_here(struct nvmf_qpair *qp, uint16_t cid)
{
    struct nvmf_req *req = nvmf_pending_find(qp, cid);
    if (!req)
        return false;
    if (!qp->qid && qp->ctrlr && forget_aer(qp->ctrlr, req)) {
        nvmf_req_complete(req, PLX_SC_ABORTED_BY_REQUEST);
        return true;
    }
    return nvmf_req_abort(req);
}

static void abort_finish(struct plx_msg *msg)
{
    struct nvmf_req *req = plx_container_of(msg, struct nvmf_req, u.abort.msg);
    req->qp->ctrlr->aborts--;
    req->cqe.dw0 = plx_put32(req->u.abort.aborted ? 0 : 1); /* Base 5.1.1: bit 0 clear when it was aborted */
    nvmf_req_complete(req, PLX_SC_SUCCESS);
}

static void abort_on_qpair(struct plx_msg *msg)
{
    struct nvmf_req *req = plx_container_of(msg, struct nvmf_req, u.abort.msg);
    req->u.abort.aborted = abort_here(req->u.abort.qp, (uint16_t)(plx_get32(req->cmd.cdw10) >> 16));
    msg->fn = abort_finish;
    plx_reactor_send(req->qp->group->reactor, msg);
}

static void abort_on_control(struct plx_msg *msg)
{
    struct nvmf_req *req = plx_container_of(msg, struct nvmf_req, u.abort.msg);
    struct nvmf_ctrlr *c = req->qp->ctrlr;
    uint16_t sqid = plx_get32(req->cmd.cdw10) & 0xffff;
    struct nvmf_qpair *qp = c->qpairs[sqid];
    /* A queue pair that is still here has not been told yet that it may go, so it will be there when this arrives. */
    req->u.abort.qp = qp;
    req->u.abort.aborted = false;
    msg->fn = qp ? abort_on_qpair : abort_finish;
    plx_reactor_send((qp ? qp : req->qp)->group->reactor, msg);
}

static void execute_abort(struct nvmf_req *req)
{
    struct nvmf_ctrlr *c = req->qp->ctrlr;
    uint16_t sqid = plx_get32(req->cmd.cdw10) & 0xffff;
    if (sqid > c->target->opts.max_queues) {
        nvmf_req_complete(req, PLX_SC_INVALID_FIELD | NVME_STATUS_DNR);
        return;
    }
    if (c->aborts == NVMF_ABORT_LIMIT) {
        nvmf_req_complete(req, PLX_SC_ABORT_COMMAND_LIMIT_EXCEEDED);
        return;
    }
    c->aborts++;
    req->u.abort.msg.fn = abort_on_control;
    plx_reactor_send(nvmf_control_reactor(c->target), &req->u.abort.msg);
}

static void execute_keep_alive(struct nvmf_req *req)
{
    nvmf_ctrlr_keep_alive(req->qp->ctrlr);
    nvmf_req_complete(req, PLX_SC_SUCCESS);
}

uint16_t nvmf_parse_admin(struct nvmf_req *req)
{
    const struct nvmf_ctrlr *c = req->qp->ctrlr;
    bool discovery = c->subsys->discovery;
    if (!(atomic_load_explicit(&c->csts, memory_order_relaxed) & NVME_CSTS_RDY) &&
        req->cmd.opcode != NVME_ADMIN_KEEP_ALIVE)
        return PLX_SC_COMMAND_SEQUENCE_ERROR | NVME_STATUS_DNR;
    switch (req->cmd.opcode) {
    case NVME_ADMIN_GET_LOG_PAGE:
        return nvmf_parse_get_log(req);
    case NVME_ADMIN_IDENTIFY:
        return nvmf_parse_identify(req);
    case NVME_ADMIN_SET_FEATURES:
        return nvmf_parse_set_features(req);
    case NVME_ADMIN_GET_FEATURES:
        return nvmf_parse_get_features(req);
    case NVME_ADMIN_ABORT:
        if (discovery)
            return PLX_SC_INVALID_OPCODE | NVME_STATUS_DNR;
        req->execute = execute_abort;
        return nvmf_expect_no_data(req);
    case NVME_ADMIN_ASYNC_EVENT:
        req->execute = execute_async_event;
        return nvmf_expect_no_data(req);
    case NVME_ADMIN_KEEP_ALIVE:
        req->execute = execute_keep_alive;
        return nvmf_expect_no_data(req);
    default:
        return PLX_SC_INVALID_OPCODE | NVME_STATUS_DNR;
    }
}
