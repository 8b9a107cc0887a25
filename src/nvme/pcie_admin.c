/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * An association's share of a device, on the association's reactor: registers as they were when it was opened, admin
 * commands by way of the device thread, I/O queues that are made there. And the table of what NVMe over PCIe is.
 */
#include "nvme/pcie.h"

#include <errno.h>
#include <stdlib.h>

static struct pcie_admin *admin_of(const struct nvme_qp *qp)
{
    return plx_container_of(qp, struct pcie_admin, qp);
}

/* ---- making ---- */

static void admin_submit(struct nvme_qp *qp, struct nvme_req *req);

static struct nvme_qp *admin_create(struct nvme_ctrlr *c)
{
    struct pcie_admin *a = calloc(1, sizeof *a);
    if (!a || pcie_dev_get(c->o.addrs.list[0].name, &a->dev)) {
        free(a);
        return NULL;
    }
    a->reactor = c->reactor;
    a->qp.submit = admin_submit;
    a->qp.depth = PCIE_LINE;
    a->stop.fn = pcie_admin_stop;
    a->opening.from = a->leaving.from = a->making.from = a;
    a->opening.what = PCIE_OPEN;
    a->opening.arbitration = c->o.arbitration.burst | (uint32_t)c->o.arbitration.low << 8 |
                             (uint32_t)c->o.arbitration.medium << 16 | (uint32_t)c->o.arbitration.high << 24;
    a->leaving.what = PCIE_LEAVE;
    a->making.what = PCIE_QUEUE;
    nvme_queue_init(&a->qp.backlog);
    plx_list_init(&a->link);
    while (a->nfree < PCIE_LINE) {
        struct pcie_call *call = &a->calls[a->nfree];
        call->from = a;
        a->free[a->nfree++] = call;
    }
    return &a->qp;
}

/* The admin queue is the first that is made. */
static struct nvme_qp *qp_create(struct nvme_ctrlr *c, unsigned depth)
{
    return c->admin ? pcie_queue_create(c, depth) : admin_create(c);
}

static void admin_close(struct nvme_qp *qp);

static void admin_drop(struct nvme_qp *qp)
{
    if (qp->qid) {
        pcie_queue_free(qp);
        return;
    }
    admin_close(qp);
    pcie_admin_gone(admin_of(qp));
}

/* ---- commands ---- */

/* One of struct nvme_pass: its data, which outlives the request when that is given back. */
static void take_raw(struct pcie_call *call, const struct nvme_req *req)
{
    struct plx_iov_at at = req->data;
    call->own = malloc((size_t)req->len + 1);
    call->op.data = call->own;
    call->op.forever = true;
    if (call->own && req->dir == NVME_FROM_HOST)
        plx_iov_gather(&at, call->own, req->len);
}

static void admin_issue(struct pcie_admin *a, struct nvme_req *req)
{
    struct pcie_call *call = a->free[--a->nfree];
    a->qp.in_flight++;
    nvme_req_begin(req, &a->qp);
    req->cmd.cid = plx_put16((uint16_t)(call - a->calls)); /* for an Abort: its own is not known here */
    call->req = req;
    call->what = PCIE_COMMAND;
    call->op =
        (struct pcie_op){.cmd = req->cmd, .data = call->data, .len = req->len, .to_host = req->dir == NVME_TO_HOST};
    call->raw = req->forever == NVME_RAW;
    if (call->raw) {
        take_raw(call, req);
    } else if (req->dir == NVME_FROM_HOST && req->len <= PCIE_ADMIN_DATA) {
        struct plx_iov_at at = req->data;
        plx_iov_gather(&at, call->data, req->len);
    }
    pcie_call(call);
}

static void admin_submit(struct nvme_qp *qp, struct nvme_req *req)
{
    if (admin_of(qp)->nfree) {
        admin_issue(admin_of(qp), req);
    } else {
        req->qp = qp;
        req->waiting = true;
        nvme_queue_push(&qp->backlog, req);
    }
}

static void command_answered(struct pcie_admin *a, struct pcie_call *call)
{
    struct nvme_req *req = call->req;
    call->req = NULL;
    a->free[a->nfree++] = call;
    uint8_t *own = call->own;
    call->own = NULL;
    if (!req) { /* it was given back when the association closed */
        free(own);
        return;
    }
    a->qp.in_flight--;
    a->qp.active = true;
    req->lost = call->op.lost;
    req->status = call->op.status;
    req->dw0 = call->op.dw0;
    req->dw1 = call->op.dw1;
    if (req->dir == NVME_TO_HOST && !req->lost && !req->status) {
        struct plx_iov_at at = req->data;
        plx_iov_scatter(&at, call->op.data, req->len);
    }
    free(own);
    if (a->qp.backlog.head)
        admin_issue(a, nvme_queue_pop(&a->qp.backlog));
    nvme_req_end(req);
}

/* ---- opening and closing ---- */

static void admin_ask(struct pcie_call *call)
{
    call->ret = 0;
    call->hw = NULL;
    call->out = true;
    pcie_call(call);
}

static bool is_asking(const struct pcie_admin *a)
{
    return a->opening.out || a->leaving.out || a->making.out;
}

static int admin_open(struct nvme_qp *qp)
{
    if (qp->qid) { /* the way is there already */
        nvme_connect_opened(qp);
        return 0;
    }
    struct pcie_admin *a = admin_of(qp);
    a->open = true;
    a->want_open = is_asking(a);
    if (!a->want_open)
        admin_ask(&a->opening);
    return 0;
}

static void opening_answered(struct pcie_admin *a)
{
    struct nvme_ctrlr *c = a->qp.ctrlr;
    if (!a->open || a->want_open)
        return; /* given up meanwhile */
    a->cap = a->opening.cap;
    a->vs = a->opening.vs;
    c->stripes = a->opening.stripes;
    if (a->opening.ret)
        nvme_ctrlr_attempt_failed(c, a->opening.ret, "%s", a->opening.why);
    else
        nvme_connect_opened(&a->qp);
}

static void pcie_attach(struct nvme_qp *qp)
{
    struct nvme_ctrlr *c = qp->ctrlr;
    struct pcie_admin *a = admin_of(c->admin);
    if (!qp->qid) {
        nvme_connect_attached(c);
        return;
    }
    a->making.entries = (uint16_t)plx_min_u64(c->o.depth + 1, (a->cap & 0xffff) + 1); /* one is always free */
    a->making.lists = (uint16_t)c->o.depth;
    a->making.cmb = c->o.cmb;
    a->making.priority = c->o.arbitration.priority;
    admin_ask(&a->making);
}

static void making_answered(struct pcie_admin *a)
{
    struct nvme_ctrlr *c = a->qp.ctrlr;
    struct pcie_hw *hw = a->making.hw;
    if (!a->open || a->want_open) {
        if (hw)
            pcie_hw_end(hw);
    } else if (hw) {
        pcie_queue_begin(c->io[c->nio], hw);
    } else {
        nvme_ctrlr_attempt_failed(c, a->making.ret, "%s", a->making.why);
    }
}

static void drop_commands(struct pcie_admin *a)
{
    struct nvme_queue all;
    nvme_queue_init(&all);
    for (unsigned i = 0; i < PCIE_LINE; i++) {
        if (!a->calls[i].req)
            continue;
        nvme_queue_push(&all, a->calls[i].req);
        a->calls[i].req = NULL;
        a->qp.in_flight--;
    }
    while (a->qp.backlog.head)
        nvme_queue_push(&all, nvme_queue_pop(&a->qp.backlog));
    while (all.head) {
        struct nvme_req *req = nvme_queue_pop(&all);
        req->waiting = false;
        req->lost = true;
        nvme_req_end(req);
    }
}

static void admin_close(struct nvme_qp *qp)
{
    if (qp->qid) {
        pcie_queue_close(qp);
        return;
    }
    struct pcie_admin *a = admin_of(qp);
    if (!a->open)
        return;
    a->open = false;
    if (!a->want_open) /* else it was never asked for */
        admin_ask(&a->leaving);
    a->want_open = false;
    drop_commands(a);
}

void pcie_admin_stop(struct plx_msg *msg)
{
    struct pcie_admin *a = plx_container_of(msg, struct pcie_admin, stop);
    if (pcie_stop_back(a) && a->open && !a->want_open)
        nvme_qp_lost(&a->qp, a->stop_why);
}

void pcie_admin_answered(struct plx_msg *msg)
{
    struct pcie_call *call = plx_container_of(msg, struct pcie_call, msg);
    struct pcie_admin *a = call->from;
    call->out = false;
    if (!pcie_call_back(call))
        return;
    /* Looked at before: a callback may destroy it, and another thread frees it then. Where it is true there is none. */
    const bool again = a->want_open && !is_asking(a);
    if (call == &a->opening)
        opening_answered(a);
    else if (call == &a->making)
        making_answered(a);
    else if (call != &a->leaving)
        command_answered(a, call);
    if (again) {
        a->want_open = false;
        admin_ask(&a->opening);
    }
}

/* ---- registers ---- */

/* They are the device thread's; what it has seen of them is told, and what it has done is not done again. */
static void pcie_get(struct nvme_ctrlr *c, uint32_t offset, unsigned bytes, void (*done)(struct nvme_req *))
{
    const struct pcie_admin *a = admin_of(c->admin);
    const uint64_t value = offset == NVME_PROP_CAP    ? a->cap
                           : offset == NVME_PROP_VS   ? a->vs
                           : offset == NVME_PROP_CSTS ? NVME_CSTS_RDY
                                                      : 0;
    (void)bytes;
    c->req = (struct nvme_req){.done = done, .dw0 = (uint32_t)value, .dw1 = (uint32_t)(value >> 32)};
    done(&c->req);
}

static void pcie_set(struct nvme_ctrlr *c, uint32_t offset, uint64_t value, void (*done)(struct nvme_req *))
{
    (void)offset, (void)value;
    c->req = (struct nvme_req){.done = done};
    done(&c->req);
}

static struct nvme_req *pcie_in_flight(const struct nvme_qp *qp, unsigned place)
{
    return qp->qid ? pcie_queue_in_flight(qp, place) : admin_of(qp)->calls[place].req;
}

const struct nvme_transport nvme_pcie = {
    .pause_ms = 10, /* it comes back when it has been disabled */
    .local = true,
    .create = qp_create,
    .free = admin_drop,
    .open = admin_open,
    .close = admin_close,
    .attach = pcie_attach,
    .get = pcie_get,
    .set = pcie_set,
    .submit_fused = pcie_queue_submit_fused,
    .in_flight = pcie_in_flight,
};
