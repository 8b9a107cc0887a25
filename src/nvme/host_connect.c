/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Making an association (Base 3.5): the admin queue, the controller, the namespace, the I/O queues.
 *
 * One thing is asked for at a time, and c->step says what; what became of it is looked at, and the next one asked for,
 * in the same place.
 */
#include "nvme/nvme.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* What is there now, in this order. */
enum step {
    /* the admin queue and the controller */
    NVME_STEP_OPENED,
    NVME_STEP_ATTACHED,
    NVME_STEP_CAP,
    NVME_STEP_VS,
    NVME_STEP_ENABLED,
    NVME_STEP_CSTS,
    NVME_STEP_CTRLR,
    NVME_STEP_EVENTS,
    /* the namespace */
    NVME_STEP_NS_LIST,
    NVME_STEP_NS,
    NVME_STEP_FORMATS,
    NVME_STEP_DESCRIPTORS,
    NVME_STEP_LIMITS,
    NVME_STEP_ZONES,
    NVME_STEP_APPEND,
    NVME_STEP_ANA,
    /* the I/O queues */
    NVME_STEP_QUEUES,
    NVME_STEP_QUEUE_OPENED,
    NVME_STEP_QUEUE_ATTACHED,
};

/* What an attempt ends with when it fails; a controller does without the others. */
static const char *const needed[] = {
    [NVME_STEP_CAP] = "reading CAP",
    [NVME_STEP_ENABLED] = "enabling the controller",
    [NVME_STEP_CSTS] = "enabling the controller",
    [NVME_STEP_CTRLR] = "Identify Controller",
    [NVME_STEP_NS_LIST] = "Identify, the list of namespaces",
    [NVME_STEP_NS] = "Identify Namespace",
    [NVME_STEP_FORMATS] = "Identify, the extended formats",
    [NVME_STEP_ZONES] = "Identify, the zones of the namespace",
    [NVME_STEP_QUEUES] = "Set Features, Number of Queues",
    [NVME_STEP_QUEUE_ATTACHED] = NULL, /* the last one */
};

enum {
    CAP_MPSMIN_SHIFT = 48,
    AEN_NS = 1 << 8,
    AEN_ANA = 1 << 11,
    AEN_DISCOVERY = 1u << 31,
    CNTRLTYPE_DISCOVERY = 2,
    CTRATT_ELBAS = 1 << 15,
    DPS_TYPE = 7,
};

static void connect_step(struct nvme_ctrlr *c, uint16_t status);

static void step_done(struct nvme_req *req)
{
    struct nvme_ctrlr *c = plx_container_of(req, struct nvme_ctrlr, req);
    if (!req->lost && c->state == NVME_CTRLR_CONNECTING)
        connect_step(c, req->status);
}

/* ---- what is asked for ---- */

static void open_queue(struct nvme_ctrlr *c, struct nvme_qp *qp)
{
    int ret = c->o.transport->open(qp);
    if (ret)
        nvme_ctrlr_attempt_failed(c, ret, "%s", strerror(-ret));
}

static void get_register(struct nvme_ctrlr *c, uint32_t offset, unsigned bytes)
{
    c->o.transport->get(c, offset, bytes, step_done);
}

static void enable_ctrlr(struct nvme_ctrlr *c)
{
    unsigned mps = (c->cap >> CAP_MPSMIN_SHIFT) & 15;
    const bool all = c->cap >> NVME_CAP_CSS_ALL_SHIFT & 1;
    unsigned css = all ? NVME_CC_CSS_ALL : 0;
    uint32_t cc = NVME_CC_EN | css << NVME_CC_CSS_SHIFT | mps << NVME_CC_MPS_SHIFT | 6u << NVME_CC_IOSQES_SHIFT |
                  4u << NVME_CC_IOCQES_SHIFT;
    c->o.transport->set(c, NVME_PROP_CC, cc, step_done);
}

static void set_feature(struct nvme_ctrlr *c, uint8_t feature, uint32_t value)
{
    const struct nvme_words cmd = {
        .opcode = NVME_ADMIN_SET_FEATURES, .cdw10 = plx_put32(feature), .cdw11 = plx_put32(value)};
    nvme_own_command(c, &cmd, NVME_NO_DATA, 0, step_done);
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

static void ask_for_queues(struct nvme_ctrlr *c)
{
    c->step = NVME_STEP_QUEUES;
    if (c->o.queues)
        set_feature(c, NVME_FEAT_NUMBER_OF_QUEUES, (c->o.queues - 1) | (c->o.queues - 1) << 16);
    else
        nvme_ctrlr_connected(c);
}

static void find_ns(struct nvme_ctrlr *c)
{
    uint32_t nsid = c->o.nsid;
    memset(&c->ns, 0, sizeof c->ns);
    if (nsid == NVME_NSID_ALL || c->id.cntrltype == CNTRLTYPE_DISCOVERY)
        ask_for_queues(c);
    else
        nvme_own_identify(c, NVME_CNS_ACTIVE_NS, nsid ? nsid - 1 : 0, step_done);
}

/* ---- what came ---- */

static void step_failed(struct nvme_ctrlr *c, const char *what, uint16_t status)
{
    nvme_ctrlr_attempt_failed(c, -EIO, "%s failed: %s (%03x)", what, nvme_status_text(status, false), status & 0x7ff);
}

static void took_csts(struct nvme_ctrlr *c)
{
    if (c->req.dw0 & NVME_CSTS_CFS) {
        step_failed(c, needed[NVME_STEP_CSTS], PLX_SC_INTERNAL_ERROR);
    } else if (c->req.dw0 & NVME_CSTS_RDY) {
        nvme_own_identify(c, NVME_CNS_CTRL, 0, step_done);
    } else {
        c->step = NVME_STEP_CSTS;
        plx_timer_set(c->reactor, &c->poll, NVME_READY_POLL_MS * PLX_NS_PER_MS);
    }
}

void nvme_connect_polled(struct plx_timer *t)
{
    get_register(plx_container_of(t, struct nvme_ctrlr, poll), NVME_PROP_CSTS, 4);
}

/* Its subsystem's; of one that has none yet as Base 4.7.1 makes one. */
static void take_name(struct nvme_ctrlr *c)
{
    const struct nvme_id_ctrl *id = &c->id;
    if (memcmp(id->subnqn, "nqn.", 4) == 0)
        snprintf(c->o.subnqn, sizeof c->o.subnqn, "%.*s", NVME_NQN_MAX, id->subnqn);
    else
        snprintf(c->o.subnqn, sizeof c->o.subnqn, "nqn.2014.08.org.nvmexpress:%04x%04x%.20s%.40s", plx_get16(id->vid),
                 plx_get16(id->ssvid), id->sn, id->mn);
}

static void took_ctrlr(struct nvme_ctrlr *c)
{
    unsigned mpsmin = 12 + ((c->cap >> CAP_MPSMIN_SHIFT) & 15);
    memcpy(&c->id, c->page, sizeof c->id);
    c->max_transfer = NVME_MAX_TRANSFER;
    if (c->id.mdts && c->id.mdts + mpsmin < 31)
        c->max_transfer = (uint32_t)plx_min_u64(NVME_MAX_TRANSFER, UINT64_C(1) << (c->id.mdts + mpsmin));
    if (c->o.max_transfer)
        c->max_transfer = (uint32_t)plx_min_u64(c->max_transfer, c->o.max_transfer);
    c->ana = NVME_ANA_OPTIMIZED;
    if (c->o.transport->local)
        take_name(c);
    c->cntlid = c->o.transport->local ? plx_get16(c->id.cntlid) : c->cntlid;
    ask_for_events(c);
}

static void took_ns_list(struct nvme_ctrlr *c)
{
    uint32_t nsid = c->o.nsid;
    c->ns.nsid = plx_get32(*(plx_le32 *)(void *)c->page);
    if (!c->ns.nsid || (nsid && c->ns.nsid != nsid)) {
        c->ns.nsid = 0;
        nvme_ctrlr_attempt_failed(c, -ENOENT, nsid ? "%s has no namespace %u" : "%s has no namespaces", c->o.subnqn,
                                  nsid);
        return;
    }
    nvme_own_identify(c, NVME_CNS_NS, c->ns.nsid, step_done);
}

static void ask_for_descriptors(struct nvme_ctrlr *c)
{
    c->step = NVME_STEP_DESCRIPTORS;
    nvme_own_identify(c, NVME_CNS_NS_DESCRIPTORS, c->ns.nsid, step_done);
}

/* Which guards there are in protection information, where there are others than of 16 bits. */
static void took_namespace(struct nvme_ctrlr *c)
{
    memcpy(&c->ns.id, c->page, sizeof c->ns.id);
    if (c->ns.id.dps & DPS_TYPE && plx_get32(c->id.ctratt) & CTRATT_ELBAS)
        nvme_own_identify(c, NVME_CNS_CSI_NS, c->ns.nsid, step_done);
    else
        ask_for_descriptors(c);
}

static void took_formats(struct nvme_ctrlr *c)
{
    const struct nvme_id_ns_nvm *id = (const void *)c->page;
    c->ns.elbaf = plx_get32(id->elbaf[nvme_ns_format_index(&c->ns.id)]);
    ask_for_descriptors(c);
}

/* Whether the controller has no such page; another status may pass. */
static bool has_none(uint16_t status)
{
    const uint16_t sc = status & 0x7ff;
    return status & NVME_STATUS_DNR || sc == PLX_SC_INVALID_FIELD || sc == PLX_SC_INVALID_OPCODE;
}

/*
 * From 1.3 on. Without it the namespace could not be told from another one: a controller that has it is asked for it
 * again.
 */
static void took_descriptors(struct nvme_ctrlr *c, uint16_t status)
{
    if (status && !has_none(status)) {
        step_failed(c, "Identify, the identifiers of the namespace", status);
        return;
    }
    if (!status)
        nvme_take_ns_descriptors(&c->ns, c->page);
    nvme_own_identify(c, NVME_CNS_CSI_CTRL, 0, step_done);
}

static void identify_zoned(struct nvme_ctrlr *c, uint8_t cns, uint32_t nsid)
{
    const struct nvme_words cmd = {.opcode = NVME_ADMIN_IDENTIFY,
                                   .nsid = plx_put32(nsid),
                                   .cdw10 = plx_put32(cns),
                                   .cdw11 = plx_put32((uint32_t)NVME_CSI_ZONED << 24)};
    memset(c->page, 0, NVME_PAGE);
    nvme_own_command(c, &cmd, NVME_TO_HOST, NVME_PAGE, step_done);
}

static void ask_for_ana(struct nvme_ctrlr *c)
{
    c->step = NVME_STEP_ANA;
    if (nvme_has_ana(c))
        nvme_read_ana(c, step_done);
    else
        connect_step(c, PLX_SC_INVALID_LOG_PAGE);
}

/*
 * From 2.0 on. A disk that was opened without it would find no path that takes as much as it does. It is asked for
 * without a namespace, which controllers that do not know it may have been looking for.
 */
static void took_limits(struct nvme_ctrlr *c, uint16_t status)
{
    if (status && !has_none(status) && (status & 0x7ff) != PLX_SC_INVALID_NAMESPACE_OR_FORMAT) {
        step_failed(c, "Identify, the limits of commands", status);
        return;
    }
    if (!status)
        memcpy(&c->ns.limits, c->page, sizeof c->ns.limits);
    if (c->ns.csi == NVME_CSI_ZONED && c->o.transport == &nvme_uring)
        nvme_ctrlr_attempt_failed(
            c, -ENOTSUP, "namespace %u is zoned: it can be driven over PCIe, but not through the kernel", c->ns.nsid);
    else if (c->ns.csi == NVME_CSI_ZONED)
        identify_zoned(c, NVME_CNS_CSI_NS, c->ns.nsid);
    else
        ask_for_ana(c);
}

static void took_zones(struct nvme_ctrlr *c)
{
    const struct nvme_id_ns_zoned *id = (const void *)c->page;
    c->ns.zone_blocks = plx_get64(id->lbafe[nvme_ns_format_index(&c->ns.id)].zsze);
    c->ns.zoc = plx_get16(id->zoc);
    c->ns.ozcs = plx_get16(id->ozcs);
    c->ns.max_active = plx_get32(id->mar) + 1; /* counted from zero: that without a limit becomes 0 */
    c->ns.max_open = plx_get32(id->mor) + 1;
    identify_zoned(c, NVME_CNS_CSI_CTRL, 0);
}

static void took_ana_log(struct nvme_ctrlr *c, uint16_t status)
{
    if (status || nvme_took_ana(c, &c->ana))
        ask_for_queues(c);
    else
        c->step = NVME_STEP_ANA; /* there is more of it */
}

/* Number of Queues: what is granted is counted from zero, for each of the two kinds. */
static void took_queues(struct nvme_ctrlr *c)
{
    unsigned sq = (c->req.dw0 & 0xffff) + 1, cq = (c->req.dw0 >> 16) + 1;
    c->granted = (unsigned)plx_min_u64(c->o.queues, plx_min_u64(sq, cq));
    open_queue(c, c->io[c->nio]);
}

static void took_queue(struct nvme_ctrlr *c)
{
    if (++c->nio == c->granted) {
        nvme_ctrlr_connected(c);
        return;
    }
    c->step = NVME_STEP_QUEUE_OPENED;
    open_queue(c, c->io[c->nio]);
}

/* ---- the sequence ---- */

static void connect_step(struct nvme_ctrlr *c, uint16_t status)
{
    const enum step step = c->step++;
    if (status && needed[step]) {
        step_failed(c, needed[step], status);
        return;
    }
    switch (step) {
    case NVME_STEP_OPENED:
        c->o.transport->attach(c->admin);
        break;
    case NVME_STEP_ATTACHED:
        get_register(c, NVME_PROP_CAP, 8);
        break;
    case NVME_STEP_CAP:
        c->cap = c->req.dw0 | (uint64_t)c->req.dw1 << 32;
        get_register(c, NVME_PROP_VS, 4);
        break;
    case NVME_STEP_VS:
        c->vs = status ? 0 : c->req.dw0;
        enable_ctrlr(c);
        break;
    case NVME_STEP_ENABLED:
        get_register(c, NVME_PROP_CSTS, 4);
        break;
    case NVME_STEP_CSTS:
        took_csts(c);
        break;
    case NVME_STEP_CTRLR:
        took_ctrlr(c);
        break;
    case NVME_STEP_EVENTS:
        find_ns(c);
        break;
    case NVME_STEP_NS_LIST:
        took_ns_list(c);
        break;
    case NVME_STEP_NS:
        took_namespace(c);
        break;
    case NVME_STEP_FORMATS:
        took_formats(c);
        break;
    case NVME_STEP_DESCRIPTORS:
        took_descriptors(c, status);
        break;
    case NVME_STEP_LIMITS:
        took_limits(c, status);
        break;
    case NVME_STEP_ZONES:
        took_zones(c);
        break;
    case NVME_STEP_APPEND:
        c->ns.zasl = status ? 0 : ((const struct nvme_id_ctrl_zoned *)c->page)->zasl;
        ask_for_ana(c);
        break;
    case NVME_STEP_ANA:
        took_ana_log(c, status);
        break;
    case NVME_STEP_QUEUES:
        took_queues(c);
        break;
    case NVME_STEP_QUEUE_OPENED:
        c->o.transport->attach(c->io[c->nio]);
        break;
    case NVME_STEP_QUEUE_ATTACHED:
        took_queue(c);
        break;
    }
}

void nvme_connect_opened(struct nvme_qp *qp)
{
    connect_step(qp->ctrlr, PLX_SC_SUCCESS);
}

void nvme_connect_attached(struct nvme_ctrlr *c)
{
    connect_step(c, PLX_SC_SUCCESS);
}

bool nvme_connect_reached(const struct nvme_ctrlr *c)
{
    return c->step != NVME_STEP_OPENED;
}

void nvme_connect_begin(struct nvme_ctrlr *c)
{
    c->nio = c->next = c->share = 0;
    c->step = NVME_STEP_OPENED;
    open_queue(c, c->admin);
}
