/* SPDX-License-Identifier: BSD-3-Clause */
/* A namespace as a party to the reservations of its disk; and reservation commands, on their way there and back. */
#include "nvmf/nvmf.h"

#include "base/uuid.h"

#define DNR NVME_STATUS_DNR

static struct nvmf_ns *ns_of_ref(struct nvmf_nsref *ref)
{
    return plx_container_of(ref - ref->group->index, struct nvmf_ns, refs);
}

static struct nvmf_ns *resv_leg(const struct plx_fan_leg *leg, struct nvmf_nsref **ref)
{
    struct nvmf_ns *ns = plx_container_of(plx_resv_party_of(leg), struct nvmf_ns, resv);
    *ref = &ns->refs[leg - leg->fan->legs];
    return ns;
}

/* ---- on each reactor: it goes over to another state ---- */

bool nvmf_resv_concerns(const struct nvmf_qpair *qp)
{
    for (uint32_t i = 0; i < qp->image->nns; i++)
        if (qp->image->ns[i].ns && qp->image->ns[i].ns->refs[qp->group->index].resv)
            return true;
    return false;
}

uint16_t nvmf_resv_refusal(struct nvmf_qpair *qp, const struct nvmf_nsref *ref, uint32_t nsid, uint8_t opcode)
{
    unsigned need = nvmf_resv_need(opcode);
    if (!ref->resv)
        return PLX_SC_SUCCESS;
    if (nsid != qp->access_nsid) { /* kept until either changes: see nvmf_qpair_see() */
        qp->access = (uint8_t)plx_resv_access(ref->resv, qp->ctrlr->hostid);
        qp->access_nsid = nsid;
    }
    return (qp->access & need) == need ? PLX_SC_SUCCESS : PLX_SC_RESERVATION_CONFLICT | DNR;
}

static bool sees(const struct nvmf_qpair *qp, const struct nvmf_ns *ns)
{
    const struct nvmf_image *image = qp->image;
    return image && qp->state != NVMF_QP_DETACHED && ns->nsid <= image->nns && image->ns[ns->nsid - 1].ns == ns;
}

static void execute_persist(struct nvmf_req *req);

/* An I/O command that a reservation may concern, and that has not ended; or what a closed connection has left. */
static bool begun(const struct nvmf_req *req)
{
    bool io = (req->qp->qid || !req->qp->ctrlr) && req->execute != execute_persist; /* which is in our own line */
    return req->state != NVMF_REQ_DONE && io && nvmf_resv_need(req->cmd.opcode);
}

static bool has_steps(const struct nvmf_req *req)
{
    uint8_t opcode = req->cmd.opcode;
    return opcode == NVME_IO_WRITE_ZEROES || opcode == NVME_IO_DSM || opcode == NVME_IO_COPY;
}

/*
 * Who may not any more what was allowed when the command came: it ends instead of beginning, once its data is here
 * (Linux is lost when a command ends that it sends data for) and no pause holds it; and what has several steps ends
 * before the next one.
 */
static void hold_back(struct nvmf_req *req)
{
    const struct nvmf_ctrlr *c = req->qp->ctrlr;
    unsigned need = nvmf_resv_need(req->cmd.opcode);
    if (!begun(req) || !c || (plx_resv_access(req->ns->resv, c->hostid) & need) == need)
        return;
    if (req->state == NVMF_REQ_HELD)
        nvmf_req_complete(req, NVMF_HELD_BACK);
    else if (!req->abort_status && (req->state != NVMF_REQ_EXECUTING || has_steps(req)))
        req->abort_status = NVMF_HELD_BACK;
}

static void show_here(struct plx_fan_leg *leg)
{
    struct nvmf_nsref *ref;
    const struct nvmf_ns *ns = resv_leg(leg, &ref);
    const bool was = ref->resv;
    ref->resv = plx_resv_shown(&ns->resv);
    plx_list_for_each(it, &ref->group->qpairs) {
        struct nvmf_qpair *qp = plx_list_entry(it, struct nvmf_qpair, link);
        if (!sees(qp, ns))
            continue;
        qp->access_nsid = 0;
        if (was != (ref->resv != NULL)) /* else it concerns the same queue pairs */
            nvmf_qpair_see(qp);
    }
    if (ref->resv && ref->in_flight)
        nvmf_reqs_of(ref, hold_back);
    plx_fan_answer(leg, 0);
}

/* ---- Preempt and Abort: what those have in flight who were thrown out ends, before the command does ---- */

/* Of a connection that is closed already it is not known whose it was: it is waited for in any case. */
static bool of_expelled(const struct nvmf_req *req)
{
    const struct nvmf_ctrlr *c = req->qp->ctrlr;
    return begun(req) && (!c || plx_resv_expelled(plx_resv_notices(&ns_of_ref(req->ns)->resv), c->hostid));
}

static void end_expelled(struct nvmf_req *req)
{
    if (!of_expelled(req))
        return;
    if (req->state == NVMF_REQ_HELD) {
        nvmf_req_complete(req, PLX_SC_PREEMPTED_AND_ABORTED);
        return;
    }
    if (!req->abort_status || req->abort_status == NVMF_HELD_BACK)
        req->abort_status = PLX_SC_PREEMPTED_AND_ABORTED;
    if (req->state == NVMF_REQ_EXECUTING)
        nvmf_io_abort(req);
}

/*
 * Looked for from time to time, so that commands need not say whose they were when they end. None begins any more
 * behind our back, so each request is looked at until it is none of these.
 */
static void look_for_expelled(struct plx_timer *timer)
{
    struct nvmf_nsref *ref = plx_container_of(timer, struct nvmf_nsref, expel.timer);
    struct nvmf_walk *at = &ref->expel.at;
    const struct nvmf_req *req = NULL;
    while (ref->in_flight && (req = nvmf_walk_req(ref->group, at)) &&
           !(req->ns == ref && req->state == NVMF_REQ_EXECUTING && of_expelled(req)))
        at->n++;
    if (req)
        plx_timer_set(ref->group->reactor, timer, NVMF_PREEMPT_LOOK_MS * PLX_NS_PER_MS);
    else
        plx_fan_answer(ref->expel.leg, 0);
}

static void expel_here(struct plx_fan_leg *leg)
{
    struct nvmf_nsref *ref;
    resv_leg(leg, &ref);
    ref->expel.leg = leg;
    ref->expel.timer.fn = look_for_expelled;
    ref->expel.at = nvmf_walk_from(ref->group);
    if (ref->in_flight)
        nvmf_reqs_of(ref, end_expelled);
    look_for_expelled(&ref->expel.timer);
}

/* ---- notifications ---- */

static void note(struct nvmf_ctrlr *c, uint32_t nsid, uint8_t type)
{
    struct nvmf_resv_log *log = &c->resv_log;
    if (c->resv_mask[nsid - 1] & 1u << type)
        return;
    unsigned at = log->count++ % NVMF_RESV_LOG;
    log->kept[at].nsid = nsid;
    log->kept[at].type = type;
    if (log->n < NVMF_RESV_LOG) /* else the oldest is lost, which its count tells */
        log->n++;
    nvmf_event(c, NVMF_EVENT_RESERVATION);
}

static void resv_tell_here(struct plx_fan_leg *leg)
{
    struct nvmf_nsref *ref;
    const struct nvmf_ns *ns = resv_leg(leg, &ref);
    const struct plx_resv_notices *notices = plx_resv_notices(&ns->resv);
    plx_list_for_each(it, &ref->group->qpairs) {
        struct nvmf_qpair *qp = plx_list_entry(it, struct nvmf_qpair, link);
        if (!sees(qp, ns) || qp->qid || qp->state != NVMF_QP_READY)
            continue;
        for (unsigned i = 0; i < notices->n; i++)
            if (memcmp(notices->of[i].name, qp->ctrlr->hostid, sizeof qp->ctrlr->hostid) == 0)
                note(qp->ctrlr, ns->nsid, notices->of[i].news);
    }
    plx_fan_answer(leg, 0);
}

void nvmf_resv_log_page(const struct nvmf_ctrlr *c, struct nvme_resv_log *page)
{
    const struct nvmf_resv_log *log = &c->resv_log;
    if (!log->n)
        return; /* an empty page is zeroes */
    uint64_t first = log->count - log->n;
    page->count = plx_put64(first + 1);
    page->type = log->kept[first % NVMF_RESV_LOG].type;
    page->available = (uint8_t)(log->n - 1);
    page->nsid = plx_put32(log->kept[first % NVMF_RESV_LOG].nsid);
}

void nvmf_resv_log_drop(struct nvmf_ctrlr *c)
{
    if (c->resv_log.n)
        c->resv_log.n--;
}

/* ---- namespaces that come and go ---- */

int nvmf_resv_open(struct nvmf_ns *ns, const char *file, struct plx_error *err)
{
    static const struct plx_resv_party_ops ops = {.show = show_here, .expel = expel_here, .tell = resv_tell_here};
    const struct plx_nvmf_target *t = ns->target;
    int ret = plx_resv_party_init(&ns->resv, ns->bdev, file, ns->uuid, nvmf_control_reactor(t), t->reactors,
                                  t->nreactors, &ops, err);
    ns->can_persist = nvmf_resv_file(ns);
    return ret;
}

const char *nvmf_resv_file(const struct nvmf_ns *ns)
{
    return plx_resv_file(&ns->resv);
}

void nvmf_resv_close(struct nvmf_ns *ns)
{
    plx_resv_party_destroy(&ns->resv);
}

void nvmf_resv_begin(struct nvmf_ns *ns)
{
    plx_resv_join(&ns->resv);
}

static void resv_left(struct plx_resv_party *p)
{
    plx_resv_party_destroy(p);
    nvmf_resv_left(plx_container_of(p, struct nvmf_ns, resv));
}

void nvmf_resv_end(struct nvmf_ns *ns)
{
    plx_resv_leave(&ns->resv, resv_left);
}

/* ---- commands, on their reactor ---- */

static struct nvmf_req *op_req(struct plx_resv_op *op)
{
    return plx_container_of(op, struct nvmf_req, resv);
}

static bool persist_next(struct nvmf_req *req);

static void resv_finish(struct plx_resv_op *op)
{
    struct nvmf_req *req = op_req(op);
    req->between = false;
    if (!op->answer && op->cmd.kind == PLX_RESV_SET_PERSIST && plx_get32(req->cmd.nsid) == NVME_NSID_ALL)
        if (persist_next(req))
            return;
    nvmf_req_complete(req, nvmf_resv_status(op->answer));
}

/* A command goes on its way. Its namespace is counted in already, and no disk has it. */
static void resv_send(struct nvmf_req *req)
{
    struct plx_resv_op *op = &req->resv;
    op->reactor = req->qp->group->reactor;
    op->done = resv_finish;
    memcpy(op->cmd.name, req->qp->ctrlr->hostid, sizeof op->cmd.name);
    req->between = true; /* nothing to abort at a disk */
    plx_resv_submit(&ns_of_ref(req->ns)->resv, op);
}

static void report(struct plx_resv_op *op, const struct plx_resv *r)
{
    struct nvmf_req *req = op_req(op);
    nvmf_resv_report(r, req->data, req->len);
}

static void get_persist(struct plx_resv_op *op, const struct plx_resv *r)
{
    op_req(op)->cqe.dw0 = plx_put32(r->persist);
}

static void execute_reservation(struct nvmf_req *req)
{
    const uint8_t opcode = req->cmd.opcode;
    struct nvme_resv_keys keys = {0};
    struct plx_resv_cmd *cmd = &req->resv.cmd;
    if (opcode == NVME_IO_RESV_REPORT) {
        *cmd = (struct plx_resv_cmd){.kind = PLX_RESV_LOOK};
        req->resv.look = report;
    } else {
        nvmf_resv_parse(opcode, plx_get32(req->cmd.cdw10), cmd);
        memcpy(&keys, req->data, opcode == NVME_IO_RESV_RELEASE ? sizeof keys.current : sizeof keys);
        cmd->current = plx_get64(keys.current);
        cmd->other = plx_get64(keys.other);
    }
    resv_send(req);
}

uint16_t nvmf_parse_reservation(struct nvmf_req *req)
{
    const uint32_t cdw10 = plx_get32(req->cmd.cdw10);
    struct plx_resv_cmd cmd;
    req->execute = execute_reservation;
    if (req->cmd.opcode == NVME_IO_RESV_REPORT) {
        if (!(plx_get32(req->cmd.cdw11) & 1)) /* EDS: host identifiers are of 128 bits */
            return PLX_SC_HOST_ID_INCONSISTENT_FORMAT | DNR;
        return nvmf_expect_data(req, NVMF_TO_HOST, ((uint64_t)cdw10 + 1) * 4);
    }
    uint16_t status = nvmf_resv_parse(req->cmd.opcode, cdw10, &cmd);
    if (status)
        return status;
    if (plx_uuid_nil(req->qp->ctrlr->hostid)) /* several hosts may have this one */
        return PLX_SC_HOST_ID_NOT_INITIALIZED | DNR;
    /* Linux sends two keys always, where Release has one. */
    uint32_t need = req->cmd.opcode == NVME_IO_RESV_RELEASE ? sizeof(plx_le64) : sizeof(struct nvme_resv_keys);
    uint32_t have = plx_get32(req->cmd.sgl.length);
    return nvmf_expect_data(req, NVMF_FROM_HOST, have >= need && have <= NVMF_RESV_DATA_MAX ? have : need);
}

/* ---- features 82h, Reservation Notification Mask, and 83h, Reservation Persistence ---- */

static void execute_mask(struct nvmf_req *req)
{
    struct nvmf_ctrlr *c = req->qp->ctrlr;
    uint32_t nsid = plx_get32(req->cmd.nsid);
    uint8_t mask = plx_get32(req->cmd.cdw11) & 0xe;
    if (req->cmd.opcode == NVME_ADMIN_GET_FEATURES)
        req->cqe.dw0 = plx_put32((plx_get32(req->cmd.cdw10) >> 8) & 7 ? 0 : c->resv_mask[nsid - 1]);
    else if (nsid == NVME_NSID_ALL)
        memset(c->resv_mask, mask, sizeof c->resv_mask);
    else
        c->resv_mask[nsid - 1] = mask;
    nvmf_req_complete(req, PLX_SC_SUCCESS);
}

/* Of all namespaces, those that can: the next one. @return whether there is one */
static bool persist_next(struct nvmf_req *req)
{
    const struct nvmf_image *image = req->abort_status ? NULL : req->qp->image;
    struct nvmf_nsref *ref = NULL;
    while (image && !ref && req->step < image->nns) {
        const struct nvmf_image_ns *of = nvmf_image_ns(image, ++req->step);
        ref = of && of->ns->can_persist ? nvmf_ref(req->qp, req->step) : NULL;
    }
    if (!ref)
        return false;
    nvmf_req_leave_ns(req);
    nvmf_req_enter_ns(req, ref);
    resv_send(req);
    return true;
}

static void execute_persist(struct nvmf_req *req)
{
    uint32_t nsid = plx_get32(req->cmd.nsid);
    bool get = req->cmd.opcode == NVME_ADMIN_GET_FEATURES;
    const bool persist = plx_get32(req->cmd.cdw11) & 1;
    req->resv.look = get_persist;
    req->resv.cmd = (struct plx_resv_cmd){.kind = get ? PLX_RESV_LOOK : PLX_RESV_SET_PERSIST,
                                          .persist = persist ? PLX_RESV_PERSISTENT : PLX_RESV_TRANSIENT};
    struct nvmf_nsref *ref = nsid == NVME_NSID_ALL ? NULL : nvmf_ref(req->qp, nsid);
    if (nsid == NVME_NSID_ALL) {
        if (!persist_next(req))
            nvmf_req_complete(req, PLX_SC_SUCCESS);
    } else if (get && (plx_get32(req->cmd.cdw10) >> 8) & 7) { /* defaults */
        nvmf_req_complete(req, PLX_SC_SUCCESS);
    } else if (!ref) { /* removed while this waited */
        nvmf_req_complete(req, PLX_SC_INVALID_NAMESPACE_OR_FORMAT | DNR);
    } else {
        nvmf_req_enter_ns(req, ref);
        resv_send(req);
    }
}

uint16_t nvmf_parse_resv_feature(struct nvmf_req *req)
{
    bool mask = (plx_get32(req->cmd.cdw10) & 0xff) == NVME_FEAT_RESV_MASK;
    req->execute = mask ? execute_mask : execute_persist;
    return nvmf_expect_no_data(req);
}
