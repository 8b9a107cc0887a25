/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Making an association (Base 3.5.2, TCP 3.1): the admin queue, the controller, the namespace, the I/O queues.
 *
 * One admin command is under way at a time, and c->step says what it was; what became of it is looked at, and the next
 * one sent, in the same place.
 */
#include "nvme/nvme.h"

#include <errno.h>
#include <string.h>

enum step {
    /* the admin queue and the controller */
    OPENED,
    CONNECTED,
    HAVE_CAP,
    HAVE_VS,
    ENABLED,
    HAVE_CSTS,
    HAVE_CTRLR,
    HAVE_EVENTS,
    /* the namespace */
    FIND_NS,
    HAVE_NS_LIST,
    HAVE_NS,
    HAVE_DESCRIPTORS,
    HAVE_LIMITS,
    HAVE_ANA,
    /* the I/O queues */
    SET_UP,
    HAVE_QUEUES,
    QUEUE_OPENED,
    QUEUE_CONNECTED,
};

enum {
    CAP_MPSMIN_SHIFT = 48,
    AEN_NS = 1 << 8,
    AEN_ANA = 1 << 11,
    AEN_DISCOVERY = 1u << 31,
    CNTRLTYPE_DISCOVERY = 2,
};

static void connect_step(struct nvme_ctrlr *c, uint16_t status);

static void step_done(struct nvme_req *req)
{
    struct nvme_ctrlr *c = plx_container_of(req, struct nvme_ctrlr, req);
    if (!req->lost && c->state == NVME_CTRLR_CONNECTING)
        connect_step(c, req->status);
}

/* ---- Fabrics commands ---- */

static void get_property(struct nvme_ctrlr *c, uint32_t offset, unsigned bytes)
{
    const struct nvme_property_cmd cmd = {.opcode = NVME_FABRICS,
                                          .fctype = NVME_FABRICS_PROPERTY_GET,
                                          .attrib = bytes == 8 ? 1 : 0,
                                          .offset = plx_put32(offset)};
    nvme_own_command(c, (const void *)&cmd, NVME_NO_DATA, 0, step_done);
}

static void enable(struct nvme_ctrlr *c)
{
    unsigned mps = (c->cap >> CAP_MPSMIN_SHIFT) & 15;
    bool all = !(c->cap >> NVME_CAP_CSS_NVM_SHIFT & 1) && c->cap >> NVME_CAP_CSS_ALL_SHIFT & 1;
    unsigned css = all ? NVME_CC_CSS_ALL : 0;
    uint32_t cc = NVME_CC_EN | css << NVME_CC_CSS_SHIFT | mps << NVME_CC_MPS_SHIFT | 6u << NVME_CC_IOSQES_SHIFT |
                  4u << NVME_CC_IOCQES_SHIFT;
    const struct nvme_property_cmd cmd = {.opcode = NVME_FABRICS,
                                          .fctype = NVME_FABRICS_PROPERTY_SET,
                                          .offset = plx_put32(NVME_PROP_CC),
                                          .value = plx_put64(cc)};
    nvme_own_command(c, (const void *)&cmd, NVME_NO_DATA, 0, step_done);
}

/*
 * Connect goes out on the queue that it connects: with a slot there is always, and data that every queue takes in the
 * capsule (TCP 3.3).
 */
static void send_connect(struct nvme_ctrlr *c, struct nvme_qp *qp)
{
    struct nvme_connect_data *data = (void *)c->page;
    unsigned mqes = (unsigned)(c->cap & 0xffff);
    unsigned maxcmd = qp->qid ? plx_get16(c->id.maxcmd) : 0;
    unsigned sqsize = qp->qid ? (unsigned)plx_min_u64(c->o.depth, mqes) : NVME_ADMIN_DEPTH;
    if (maxcmd && maxcmd < sqsize)
        sqsize = maxcmd;
    if (sqsize < 2) {
        nvme_ctrlr_attempt_failed(c, -EPROTO, "its queues hold %u commands; at least 2 are needed", sqsize);
        return;
    }
    const struct nvme_connect_cmd cmd = {
        .opcode = NVME_FABRICS,
        .fctype = NVME_FABRICS_CONNECT,
        .qid = plx_put16(qp->qid),
        .sqsize = plx_put16(sqsize),
        .cattr = c->o.sq_flow ? 0 : NVME_CONNECT_NO_SQ_FLOW,
        .kato = plx_put32(qp->qid ? 0 : c->o.kato_ms),
    };
    memset(data, 0, sizeof *data);
    memcpy(data->hostid, c->o.hostid, sizeof data->hostid);
    data->cntlid = plx_put16(qp->qid ? c->cntlid : NVME_CNTLID_DYNAMIC);
    memcpy(data->subnqn, c->o.subnqn, sizeof data->subnqn);
    memcpy(data->hostnqn, c->o.hostnqn, sizeof data->hostnqn);
    /* A queue takes one command less than it has entries, which is what SQSIZE counts from zero: Base 3.3.1.1 */
    nvme_qp_set_depth(qp, sqsize);
    qp->max_inline = TCP_ADMIN_INLINE;
    c->iov = (struct iovec){data, sizeof *data};
    c->req = (struct nvme_req){.done = step_done, .data = {&c->iov, 0}, .len = sizeof *data, .dir = NVME_FROM_HOST};
    memcpy(&c->req.cmd, &cmd, sizeof cmd);
    nvme_qp_submit(qp, &c->req);
}

static void set_feature(struct nvme_ctrlr *c, uint8_t feature, uint32_t value)
{
    const struct nvme_cmd cmd = {
        .opcode = NVME_ADMIN_SET_FEATURES, .cdw10 = plx_put32(feature), .cdw11 = plx_put32(value)};
    nvme_own_command(c, &cmd, NVME_NO_DATA, 0, step_done);
}

/* ---- what can go wrong ---- */

static void refused(struct nvme_ctrlr *c, uint16_t status)
{
    uint16_t sc = status & 0x7ff;
    uint32_t where = c->req.dw0;
    bool subnqn = where == (0x10000u | offsetof(struct nvme_connect_data, subnqn));
    if (sc == PLX_SC_CONNECT_INVALID_PARAMETERS && subnqn)
        nvme_ctrlr_attempt_failed(c, -ENOENT, "there is no subsystem %s", c->o.subnqn);
    else if (sc == PLX_SC_CONNECT_INVALID_HOST)
        nvme_ctrlr_attempt_failed(c, -EACCES, "the host %s is not allowed to connect", c->o.hostnqn);
    else if (sc == PLX_SC_CONNECT_INVALID_PARAMETERS)
        nvme_ctrlr_attempt_failed(c, -EINVAL, "Connect Invalid Parameters, %s at byte %u",
                                  where >> 16 & 1 ? "data" : "command", where & 0xffff);
    else
        nvme_ctrlr_attempt_failed(c, -ECONNREFUSED, "the controller refused Connect: %s (%03x)",
                                  nvme_status_text(status, true), sc);
}

static void failed(struct nvme_ctrlr *c, const char *what, uint16_t status)
{
    nvme_ctrlr_attempt_failed(c, -EIO, "%s failed: %s (%03x)", what, nvme_status_text(status, false), status & 0x7ff);
}

static void open_queue(struct nvme_ctrlr *c, struct nvme_qp *qp)
{
    int ret = nvme_qp_connect(qp, &c->o, c->addr);
    if (ret)
        nvme_ctrlr_attempt_failed(c, ret, "%s", strerror(-ret));
}

/* ---- results ---- */

static void take_ctrlr(struct nvme_ctrlr *c)
{
    unsigned mpsmin = 12 + ((c->cap >> CAP_MPSMIN_SHIFT) & 15);
    memcpy(&c->id, c->page, sizeof c->id);
    c->max_transfer = NVME_MAX_TRANSFER;
    if (c->id.mdts && c->id.mdts + mpsmin < 31)
        c->max_transfer = (uint32_t)plx_min_u64(NVME_MAX_TRANSFER, UINT64_C(1) << (c->id.mdts + mpsmin));
    c->ana = NVME_ANA_OPTIMIZED;
}

/* Number of Queues: what is granted is counted from zero, for each of the two kinds. */
static unsigned granted(const struct nvme_ctrlr *c)
{
    unsigned sq = (c->req.dw0 & 0xffff) + 1, cq = (c->req.dw0 >> 16) + 1;
    return (unsigned)plx_min_u64(c->o.queues, plx_min_u64(sq, cq));
}

static void queue_ready(struct nvme_ctrlr *c)
{
    struct nvme_qp *qp = c->io[c->nio++];
    uint32_t capsule = plx_get32(c->id.ioccsz) * 16;
    qp->max_inline = capsule > sizeof(struct nvme_cmd) ? capsule - (uint32_t)sizeof(struct nvme_cmd) : 0;
    qp->max_inline = (uint32_t)plx_min_u64(qp->max_inline, NVME_MAX_TRANSFER);
}

void nvme_connect_polled(struct plx_timer *t)
{
    struct nvme_ctrlr *c = plx_container_of(t, struct nvme_ctrlr, poll);
    c->step = HAVE_CSTS;
    get_property(c, NVME_PROP_CSTS, 4);
}

/*
 * Before anything is read that an event may tell a change of: a change between the two would go unnoticed otherwise.
 * The controller keeps events until it is asked for them.
 */
static void ask_for_events(struct nvme_ctrlr *c)
{
    uint32_t events = plx_get32(c->id.oaes) & (AEN_NS | AEN_ANA | AEN_DISCOVERY);
    if (events && (c->o.queues || c->o.nsid == NVME_NSID_ALL)) /* else it does not last long enough */
        set_feature(c, NVME_FEAT_ASYNC_EVENT, events);
    else
        connect_step(c, PLX_SC_SUCCESS);
}

/* ---- the sequence ---- */

static void ctrlr_step(struct nvme_ctrlr *c, uint16_t status)
{
    switch ((enum step)c->step) {
    case OPENED:
        c->step = CONNECTED;
        send_connect(c, c->admin);
        return;
    case CONNECTED:
        if (status) {
            refused(c, status);
            return;
        }
        c->cntlid = (uint16_t)c->req.dw0;
        c->step = HAVE_CAP;
        get_property(c, NVME_PROP_CAP, 8);
        return;
    case HAVE_CAP:
        if (status) {
            failed(c, "Property Get", status);
            return;
        }
        c->cap = c->req.dw0 | (uint64_t)c->req.dw1 << 32;
        c->step = HAVE_VS;
        get_property(c, NVME_PROP_VS, 4);
        return;
    case HAVE_VS:
        c->vs = status ? 0 : c->req.dw0;
        c->step = ENABLED;
        enable(c);
        return;
    case ENABLED:
        if (status) {
            failed(c, "enabling the controller", status);
            return;
        }
        c->step = HAVE_CSTS;
        get_property(c, NVME_PROP_CSTS, 4);
        return;
    case HAVE_CSTS:
        if (status || c->req.dw0 & NVME_CSTS_CFS) {
            failed(c, "enabling the controller", status ? status : PLX_SC_INTERNAL_ERROR);
        } else if (c->req.dw0 & NVME_CSTS_RDY) {
            c->step = HAVE_CTRLR;
            nvme_own_identify(c, NVME_CNS_CTRL, 0, step_done);
        } else {
            plx_timer_set(c->reactor, &c->poll, NVME_READY_POLL_MS * PLX_NS_PER_MS);
        }
        return;
    case HAVE_CTRLR:
        if (status) {
            failed(c, "Identify Controller", status);
            return;
        }
        take_ctrlr(c);
        c->step = HAVE_EVENTS;
        ask_for_events(c);
        return;
    default: /* HAVE_EVENTS: a controller that has none does without */
        c->step = c->o.nsid == NVME_NSID_ALL || c->id.cntrltype == CNTRLTYPE_DISCOVERY ? SET_UP : FIND_NS;
        connect_step(c, PLX_SC_SUCCESS);
        return;
    }
}

static void ns_step(struct nvme_ctrlr *c, uint16_t status)
{
    uint32_t nsid = c->o.nsid;
    switch ((enum step)c->step) {
    case FIND_NS:
        memset(&c->ns, 0, sizeof c->ns);
        c->step = HAVE_NS_LIST;
        nvme_own_identify(c, NVME_CNS_ACTIVE_NS, nsid ? nsid - 1 : 0, step_done);
        return;
    case HAVE_NS_LIST:
        if (status) {
            failed(c, "Identify, the list of namespaces", status);
            return;
        }
        c->ns.nsid = plx_get32(*(plx_le32 *)(void *)c->page);
        if (!c->ns.nsid || (nsid && c->ns.nsid != nsid)) {
            c->ns.nsid = 0;
            nvme_ctrlr_attempt_failed(c, -ENOENT, nsid ? "%s has no namespace %u" : "%s has no namespaces", c->o.subnqn,
                                      nsid);
            return;
        }
        c->step = HAVE_NS;
        nvme_own_identify(c, NVME_CNS_NS, c->ns.nsid, step_done);
        return;
    case HAVE_NS:
        if (status) {
            failed(c, "Identify Namespace", status);
            return;
        }
        memcpy(&c->ns.id, c->page, sizeof c->ns.id);
        c->step = HAVE_DESCRIPTORS;
        nvme_own_identify(c, NVME_CNS_NS_DESCRIPTORS, c->ns.nsid, step_done);
        return;
    case HAVE_DESCRIPTORS: /* from 1.3 on */
        if (!status)
            nvme_take_ns_descriptors(&c->ns, c->page);
        c->step = HAVE_LIMITS;
        nvme_own_identify(c, NVME_CNS_CSI_CTRL, 0, step_done);
        return;
    case HAVE_LIMITS: /* from 2.0 on */
        if (!status)
            memcpy(&c->ns.limits, c->page, sizeof c->ns.limits);
        c->step = HAVE_ANA;
        if (nvme_has_ana(c))
            nvme_read_ana(c, step_done);
        else
            connect_step(c, PLX_SC_INVALID_LOG_PAGE);
        return;
    default: /* HAVE_ANA */
        if (!status && !nvme_took_ana(c, &c->ana))
            return;
        c->step = SET_UP;
        connect_step(c, PLX_SC_SUCCESS);
        return;
    }
}

static void queues_step(struct nvme_ctrlr *c, uint16_t status)
{
    switch ((enum step)c->step) {
    case SET_UP:
        if (!c->o.queues) {
            nvme_ctrlr_connected(c);
            return;
        }
        c->step = HAVE_QUEUES;
        set_feature(c, NVME_FEAT_NUMBER_OF_QUEUES, (c->o.queues - 1) | (c->o.queues - 1) << 16);
        return;
    case HAVE_QUEUES:
        if (status) {
            failed(c, "Set Features, Number of Queues", status);
            return;
        }
        c->granted = granted(c);
        c->step = QUEUE_OPENED;
        open_queue(c, c->io[c->nio]);
        return;
    case QUEUE_OPENED:
        c->step = QUEUE_CONNECTED;
        send_connect(c, c->io[c->nio]);
        return;
    default: /* QUEUE_CONNECTED */
        if (status) {
            refused(c, status);
            return;
        }
        queue_ready(c);
        if (c->nio < c->granted) {
            c->step = QUEUE_OPENED;
            open_queue(c, c->io[c->nio]);
        } else {
            nvme_ctrlr_connected(c);
        }
        return;
    }
}

static void connect_step(struct nvme_ctrlr *c, uint16_t status)
{
    if (c->step <= HAVE_EVENTS)
        ctrlr_step(c, status);
    else if (c->step <= HAVE_ANA)
        ns_step(c, status);
    else
        queues_step(c, status);
}

void nvme_connect_opened(struct nvme_qp *qp)
{
    connect_step(qp->ctrlr, PLX_SC_SUCCESS);
}

bool nvme_connect_reached(const struct nvme_ctrlr *c)
{
    return c->step != OPENED;
}

void nvme_connect_begin(struct nvme_ctrlr *c)
{
    c->nio = c->next = c->share = 0;
    c->step = OPENED;
    c->req.phase = NVME_IDLE;
    open_queue(c, c->admin);
}
