/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Reservation commands (Base 7.5 to 7.8), each from its queue to the control reactor, where it is decided, and back.
 * What it changes is on stable storage, where hosts asked for that, and every reactor has gone over to it before it is
 * answered: from then on no command begins that it forbids.
 */
#include "nvmf/nvmf.h"

#include "base/uuid.h"
#include "reactor/aio.h"
#include "reactor/keep.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define DNR NVME_STATUS_DNR

enum resv_step {
    RESV_IDLE,
    RESV_SAVE,    /* to its file */
    RESV_PUBLISH, /* every reactor goes over to it */
    RESV_EXPEL,   /* commands end of hosts that a Preempt and Abort has thrown out */
    RESV_TELL,    /* hosts are notified */
};

/* Reservations of a namespace, once there was a command that concerns them: the control reactor's. */
struct nvmf_ns_resv {
    struct nvmf_ns *ns;
    enum resv_step step;
    struct plx_list ops; /* of nvmf_resv_op: the first is under way */
    struct nvmf_resv states[2];
    unsigned current; /* of these; the other is what the command under way makes of it */
    struct nvmf_notices notices;
    struct plx_fan fan;
    char *file; /* or NULL */
    struct plx_aio aio;
    size_t text_len;
    char text[NVMF_RESV_TEXT];
    struct expelling { /* by reactor */
        struct plx_fan_leg *leg;
        struct plx_timer timer;
        unsigned left;
    } expelling[];
};

static struct nvmf_resv *resv_now(struct nvmf_ns_resv *v)
{
    return &v->states[v->current];
}

static struct nvmf_resv *resv_next(struct nvmf_ns_resv *v)
{
    return &v->states[!v->current];
}

/* As reactors have it. */
static const struct nvmf_resv *shown(const struct nvmf_resv *r)
{
    return r->type ? r : NULL;
}

static struct nvmf_ns *ns_of_ref(struct nvmf_nsref *ref)
{
    return plx_container_of(ref - ref->group->index, struct nvmf_ns, refs);
}

static struct nvmf_ns_resv *resv_leg(const struct plx_fan_leg *leg, struct nvmf_nsref **ref)
{
    struct nvmf_ns_resv *v = plx_container_of(leg->fan, struct nvmf_ns_resv, fan);
    *ref = &v->ns->refs[leg - leg->fan->legs];
    return v;
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
        qp->access = (uint8_t)nvmf_resv_access(ref->resv, qp->ctrlr->hostid);
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
    if (!begun(req) || !c || (nvmf_resv_access(req->ns->resv, c->hostid) & need) == need)
        return;
    if (req->state == NVMF_REQ_HELD)
        nvmf_req_complete(req, NVMF_HELD_BACK);
    else if (!req->abort_status && (req->state != NVMF_REQ_EXECUTING || has_steps(req)))
        req->abort_status = NVMF_HELD_BACK;
}

static void show_here(struct plx_fan_leg *leg)
{
    struct nvmf_nsref *ref;
    struct nvmf_ns_resv *v = resv_leg(leg, &ref);
    const bool was = ref->resv;
    ref->resv = shown(resv_next(v));
    plx_list_for_each(it, &ref->group->qpairs) {
        struct nvmf_qpair *qp = plx_list_entry(it, struct nvmf_qpair, link);
        if (!sees(qp, v->ns))
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
    return begun(req) && (!c || nvmf_resv_expelled(&req->ns->expelling->notices, c->hostid));
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

static void count_expelled(struct nvmf_req *req)
{
    struct nvmf_ns_resv *v = ns_of_ref(req->ns)->resv;
    if (req->state == NVMF_REQ_EXECUTING && of_expelled(req))
        v->expelling[req->ns->group->index].left++;
}

/* Looked for from time to time, so that commands need not say whose they were when they end. */
static void look_for_expelled(struct plx_timer *timer)
{
    struct expelling *e = plx_container_of(timer, struct expelling, timer);
    struct nvmf_nsref *ref;
    resv_leg(e->leg, &ref);
    e->left = 0;
    if (ref->in_flight)
        nvmf_reqs_of(ref, count_expelled);
    if (e->left) {
        plx_timer_set(ref->group->reactor, timer, NVMF_PREEMPT_LOOK_MS * PLX_NS_PER_MS);
        return;
    }
    ref->expelling = NULL;
    plx_fan_answer(e->leg, 0);
}

static void expel_here(struct plx_fan_leg *leg)
{
    struct nvmf_nsref *ref;
    struct nvmf_ns_resv *v = resv_leg(leg, &ref);
    struct expelling *e = &v->expelling[leg - leg->fan->legs];
    e->leg = leg;
    e->timer.fn = look_for_expelled;
    ref->expelling = v;
    if (ref->in_flight)
        nvmf_reqs_of(ref, end_expelled);
    look_for_expelled(&e->timer);
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
    struct nvmf_ns_resv *v = resv_leg(leg, &ref);
    plx_list_for_each(it, &ref->group->qpairs) {
        struct nvmf_qpair *qp = plx_list_entry(it, struct nvmf_qpair, link);
        if (!sees(qp, v->ns) || qp->qid || qp->state != NVMF_QP_READY)
            continue;
        for (unsigned i = 0; i < v->notices.n; i++)
            if (memcmp(v->notices.of[i].hostid, qp->ctrlr->hostid, sizeof qp->ctrlr->hostid) == 0)
                note(qp->ctrlr, v->ns->nsid, v->notices.of[i].type);
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

/* ---- on the control reactor: one command after the other ---- */

static void resv_finish(struct plx_msg *msg);

static void answer(struct nvmf_resv_op *op, uint16_t status)
{
    op->status = status;
    op->msg.fn = resv_finish;
    plx_list_del(&op->link);
    plx_reactor_send(op->group->reactor, &op->msg);
}

static struct nvmf_resv_op *op_under_way(const struct nvmf_ns_resv *v)
{
    return plx_list_entry(v->ops.next, struct nvmf_resv_op, link);
}

static struct nvmf_req *op_req(struct nvmf_resv_op *op)
{
    return plx_container_of(op, struct nvmf_req, resv);
}

/* Commands that only ask, or fail, or change nothing, are answered. @return whether there is one that does */
static bool resv_decide(struct nvmf_ns_resv *v)
{
    while (!plx_list_empty(&v->ops)) {
        struct nvmf_resv_op *op = op_under_way(v);
        struct nvmf_req *req = op_req(op);
        *resv_next(v) = *resv_now(v);
        op->status = nvmf_resv_execute(resv_next(v), &op->cmd, &v->notices);
        if (!op->status && !nvmf_resv_same(resv_now(v), resv_next(v)))
            return true;
        if (op->cmd.kind == NVMF_RESV_REPORT)
            nvmf_resv_report(resv_now(v), req->data, req->len);
        if (op->cmd.kind == NVMF_RESV_GET_PERSIST)
            req->cqe.dw0 = plx_put32(resv_now(v)->persist);
        answer(op, op->status);
    }
    return false;
}

static int64_t save_call(struct plx_aio *io)
{
    const struct nvmf_ns_resv *v = plx_container_of(io, struct nvmf_ns_resv, aio);
    return plx_keep_write(v->file, v->text, v->text_len);
}

static bool resv_step(struct nvmf_ns_resv *v);

static void resv_go_on(struct nvmf_ns_resv *v)
{
    while (resv_step(v))
        ;
}

static void resv_saved(struct plx_aio *io)
{
    struct nvmf_ns_resv *v = plx_container_of(io, struct nvmf_ns_resv, aio);
    if (io->res < 0)
        plx_error("%s: reservations cannot be kept there: %s", v->file, strerror((int)-io->res));
    resv_go_on(v);
}

static void reactors_have(struct plx_fan *fan, int result)
{
    (void)result;
    resv_go_on(plx_container_of(fan, struct nvmf_ns_resv, fan));
}

static void save(struct nvmf_ns_resv *v)
{
    v->text_len = nvmf_resv_format(resv_next(v), v->ns->uuid, v->text);
    v->aio = (struct plx_aio){.op = PLX_AIO_CALL, .fd = -1, .call = save_call, .done = resv_saved};
    plx_aio_submit(nvmf_control_reactor(v->ns->target), &v->aio);
}

/* The sequence of a command that changes something, whole. @return whether to go on at once */
static bool resv_step(struct nvmf_ns_resv *v)
{
    switch (v->step) {
    case RESV_IDLE:
        if (!resv_decide(v))
            return false;
        v->step = RESV_SAVE;
        v->aio.res = 0;
        if (!resv_now(v)->persist && !resv_next(v)->persist)
            return true;
        save(v);
        return false;
    case RESV_SAVE:
        v->step = RESV_PUBLISH;
        if (v->aio.res < 0) { /* nobody has seen it */
            v->step = RESV_IDLE;
            answer(op_under_way(v), PLX_SC_INTERNAL_ERROR | DNR);
            return true;
        }
        if (!resv_now(v)->type && !resv_next(v)->type)
            return true;
        plx_fan_out(&v->fan, show_here, reactors_have);
        return false;
    case RESV_PUBLISH: {
        const struct nvmf_resv_cmd *cmd = &op_under_way(v)->cmd;
        v->step = RESV_EXPEL;
        if (cmd->kind != NVMF_RESV_ACQUIRE || cmd->action != NVME_RACQA_PREEMPT_AND_ABORT)
            return true;
        plx_fan_out(&v->fan, expel_here, reactors_have);
        return false;
    }
    case RESV_EXPEL:
        v->step = RESV_TELL;
        if (!v->notices.n)
            return true;
        plx_fan_out(&v->fan, resv_tell_here, reactors_have);
        return false;
    case RESV_TELL:
        v->step = RESV_IDLE;
        v->current = !v->current;
        answer(op_under_way(v), PLX_SC_SUCCESS);
        return true;
    }
    return false;
}

static struct nvmf_ns_resv *resv_create(struct nvmf_ns *ns, const char *file)
{
    const struct plx_nvmf_target *t = ns->target;
    struct nvmf_ns_resv *v = calloc(1, sizeof *v + t->nreactors * sizeof v->expelling[0]);
    if (!v)
        return NULL;
    const size_t size = file ? strlen(file) + 1 : 0;
    v->ns = ns;
    v->file = file ? malloc(size) : NULL;
    if (v->file)
        memcpy(v->file, file, size);
    plx_list_init(&v->ops);
    if ((!file || v->file) && plx_fan_init(&v->fan, nvmf_control_reactor(t), t->reactors, t->nreactors) == 0)
        return v;
    free(v->file);
    free(v);
    return NULL;
}

static void resv_on_control(struct plx_msg *msg)
{
    struct nvmf_resv_op *op = plx_container_of(msg, struct nvmf_resv_op, msg);
    if (!op->ns->resv)
        op->ns->resv = resv_create(op->ns, NULL);
    struct nvmf_ns_resv *v = op->ns->resv;
    plx_list_init(&op->link);
    if (!v) {
        answer(op, PLX_SC_INTERNAL_ERROR);
        return;
    }
    plx_list_add_tail(&v->ops, &op->link);
    if (v->step == RESV_IDLE)
        resv_go_on(v);
}

/* ---- namespaces that come and go ---- */

static bool file_taken(const struct plx_nvmf_target *t, const char *file)
{
    plx_list_for_each(it, &t->subsystems) {
        const struct plx_nvmf_subsystem *s = plx_list_entry(it, struct plx_nvmf_subsystem, link);
        for (uint32_t i = 0; i < s->nns; i++)
            if (s->ns[i] && s->ns[i]->resv && s->ns[i]->resv->file && strcmp(s->ns[i]->resv->file, file) == 0)
                return true;
    }
    return false;
}

/* Nothing was kept yet: so that nobody is told of this only when a host asks, it must be possible. */
static int may_be_made(const char *file)
{
    char dir[4096];
    const char *slash = strrchr(file, '/');
    if (slash && (size_t)(slash - file) + 2 > sizeof dir)
        return -ENAMETOOLONG;
    snprintf(dir, sizeof dir, "%.*s", slash ? (int)(slash - file) + 1 : 1, slash ? file : ".");
    return access(dir, W_OK | X_OK) ? -errno : 0;
}

static int resv_restore(struct nvmf_ns_resv *v, struct plx_error *err)
{
    long len = plx_keep_read(v->file, v->text, sizeof v->text);
    int ret = len == -ENOENT ? may_be_made(v->file) : len == -EFBIG ? -EINVAL : len < 0 ? (int)len : 0;
    if (len == -ENOENT && !ret)
        return 0;
    if (len >= 0) {
        v->text[len] = 0;
        ret = nvmf_resv_parse(v->text, (size_t)len, v->ns->uuid, &v->states[0]);
    }
    switch (ret) {
    case 0:
        return 0;
    case -EINVAL:
        return plx_fail(err, ret, "%.200s is not what was written there of reservations: restore it, or remove it",
                        v->file);
    case -EXDEV:
        return plx_fail(err, ret, "%.200s has the reservations of another namespace; give each its own", v->file);
    default:
        return plx_fail(err, ret, "%.200s, which is to keep reservations, cannot be used: %s", v->file, strerror(-ret));
    }
}

const char *nvmf_resv_file(const struct nvmf_ns *ns)
{
    return ns->resv ? ns->resv->file : NULL;
}

int nvmf_resv_open(struct nvmf_ns *ns, const char *file, struct plx_error *err)
{
    if (!file)
        return 0;
    if (file_taken(ns->target, file))
        return plx_fail(err, -EEXIST, "%.200s is in use for the reservations of another namespace; give each its own",
                        file);
    int ret = plx_aio_prepare(nvmf_control_reactor(ns->target));
    if (ret)
        return plx_fail(err, ret, "reservations cannot be kept in a file: %s", strerror(-ret));
    ns->resv = resv_create(ns, file);
    if (!ns->resv)
        return plx_fail(err, -ENOMEM, "out of memory");
    ns->can_persist = true;
    return resv_restore(ns->resv, err);
}

void nvmf_resv_close(struct nvmf_ns *ns)
{
    if (!ns->resv)
        return;
    plx_fan_destroy(&ns->resv->fan);
    free(ns->resv->file);
    free(ns->resv);
}

const struct nvmf_resv *nvmf_resv_seen(const struct nvmf_ns *ns)
{
    return ns->resv ? shown(resv_now(ns->resv)) : NULL;
}

/* ---- on the reactor of the command ---- */

static bool persist_next(struct nvmf_req *req);

static void resv_finish(struct plx_msg *msg)
{
    struct nvmf_resv_op *op = plx_container_of(msg, struct nvmf_resv_op, msg);
    struct nvmf_req *req = op_req(op);
    req->between = false;
    if (!op->status && op->cmd.kind == NVMF_RESV_SET_PERSIST && plx_get32(req->cmd.nsid) == NVME_NSID_ALL)
        if (persist_next(req))
            return;
    nvmf_req_complete(req, op->status);
}

/* A command goes on its way. Its namespace is counted in already, and no disk has it. */
static void resv_send(struct nvmf_req *req)
{
    struct nvmf_resv_op *op = &req->resv;
    op->ns = ns_of_ref(req->ns);
    op->group = req->qp->group;
    op->cmd.can_persist = op->ns->can_persist;
    memcpy(op->cmd.hostid, req->qp->ctrlr->hostid, sizeof op->cmd.hostid);
    op->msg.fn = resv_on_control;
    req->between = true; /* nothing to abort at a disk */
    plx_reactor_send(nvmf_control_reactor(op->group->target), &op->msg);
}

static enum nvmf_resv_kind kind_of(uint8_t opcode)
{
    return opcode == NVME_IO_RESV_REGISTER  ? NVMF_RESV_REGISTER
           : opcode == NVME_IO_RESV_ACQUIRE ? NVMF_RESV_ACQUIRE
           : opcode == NVME_IO_RESV_RELEASE ? NVMF_RESV_RELEASE
                                            : NVMF_RESV_REPORT;
}

static void execute_reservation(struct nvmf_req *req)
{
    const uint32_t cdw10 = plx_get32(req->cmd.cdw10);
    const enum nvmf_resv_kind kind = kind_of(req->cmd.opcode);
    struct nvme_resv_keys keys = {0};
    if (kind != NVMF_RESV_REPORT)
        memcpy(&keys, req->data, kind == NVMF_RESV_RELEASE ? sizeof keys.current : sizeof keys);
    req->resv.cmd = (struct nvmf_resv_cmd){.kind = (uint8_t)kind,
                                           .action = cdw10 & 7,
                                           .type = (uint8_t)(cdw10 >> 8),
                                           .cptpl = (uint8_t)(cdw10 >> 30),
                                           .ignore_key = cdw10 & 1 << 3,
                                           .current = plx_get64(keys.current),
                                           .other = plx_get64(keys.other)};
    resv_send(req);
}

uint16_t nvmf_parse_reservation(struct nvmf_req *req)
{
    const uint32_t cdw10 = plx_get32(req->cmd.cdw10);
    const enum nvmf_resv_kind kind = kind_of(req->cmd.opcode);
    req->execute = execute_reservation;
    if (kind == NVMF_RESV_REPORT) {
        if (!(plx_get32(req->cmd.cdw11) & 1)) /* EDS: host identifiers are of 128 bits */
            return PLX_SC_HOST_ID_INCONSISTENT_FORMAT | DNR;
        return nvmf_expect_data(req, NVMF_TO_HOST, ((uint64_t)cdw10 + 1) * 4);
    }
    uint16_t status = nvmf_resv_check(kind, cdw10);
    if (status)
        return status;
    if (plx_uuid_nil(req->qp->ctrlr->hostid)) /* several hosts may have this one */
        return PLX_SC_HOST_ID_NOT_INITIALIZED | DNR;
    /* Linux sends two keys always, where Release has one. */
    uint32_t need = kind == NVMF_RESV_RELEASE ? sizeof(plx_le64) : sizeof(struct nvme_resv_keys);
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
    req->resv.cmd = (struct nvmf_resv_cmd){.kind = get ? NVMF_RESV_GET_PERSIST : NVMF_RESV_SET_PERSIST,
                                           .persist = plx_get32(req->cmd.cdw11) & 1};
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
