/* SPDX-License-Identifier: BSD-3-Clause */
/* Admin commands: queues, features, events. Base 5.1, 5.2 */
#include "pcie_model_impl.h"

#include <string.h>

enum { DNR = NVME_STATUS_DNR };

enum {
    FID_ARBITRATION = 0x01,
    FID_POWER = 0x02,
    FID_TEMPERATURE = 0x04,
    FID_ERROR_RECOVERY = 0x05,
    FID_WRITE_CACHE = 0x06,
    FID_QUEUES = 0x07,
    FID_COALESCING = 0x08,
    FID_VECTOR = 0x09,
    FID_ATOMICITY = 0x0a,
    FID_EVENTS = 0x0b,
    FID_HOST_ID = 0x81,
};

static uint32_t pm_dw(const struct pm_cmd *c, unsigned n)
{
    const plx_le32 *dw = &c->sqe.cdw10;
    return plx_get32(dw[n - 10]);
}

static uint64_t pm_prp1(const struct pm_cmd *c)
{
    return plx_get64(c->sqe.sgl.address);
}

uint16_t pm_answer_data(struct pcie_model *m, const struct pm_cmd *c, const void *data, uint64_t bytes)
{
    uint16_t status = pm_too_long(m, c, bytes, m->o.mdts);
    if (!status)
        status = pm_data(m, c, bytes);
    return status ? status : pm_write_host(m, data, bytes);
}

/* ---- queues: Base 5.2.1 to 5.2.4 ---- */

static bool pm_queue_id(const struct pm_queue *queues, unsigned granted, unsigned qid, bool wanted)
{
    return qid && qid <= granted && queues[qid].live == wanted;
}

static uint16_t pm_queue_memory(struct pcie_model *m, const struct pm_cmd *c, unsigned entry)
{
    const uint32_t size = (pm_dw(c, 10) >> 16) + 1;
    if (size == 1 || size > m->o.mqes + 1u || !(m->cc >> (entry == 64 ? 16 : 20) & 0xf))
        return PM_SC_QUEUE_SIZE | DNR;
    if ((m->cc >> 16 & 0xff) != 0x46) {
        pm_complain(&m->complaints, "queues are created with CC.IOSQES and CC.IOCQES of other sizes: CC 0x%08x", m->cc);
        return PM_SC_QUEUE_SIZE | DNR;
    }
    if (!(pm_dw(c, 11) & 1)) {
        if (m->o.loose)
            pm_complain(&m->complaints, "a queue in pieces is not modelled");
        return PLX_SC_INVALID_FIELD | DNR;
    }
    if (pm_prp1(c) % m->page) {
        pm_complain(&m->complaints, "a queue at 0x%llx: not aligned", (unsigned long long)pm_prp1(c));
        return PM_SC_PRP_OFFSET | DNR;
    }
    if (!pm_mapped(m, pm_prp1(c), (uint64_t)size * entry)) {
        pm_complain(&m->complaints, "a queue at 0x%llx is not mapped", (unsigned long long)pm_prp1(c));
        return PLX_SC_DATA_TRANSFER_ERROR | DNR;
    }
    return 0;
}

static uint16_t pm_create_cq(struct pcie_model *m, const struct pm_cmd *c)
{
    const unsigned qid = pm_dw(c, 10) & 0xffff, vector = pm_dw(c, 11) >> 16;
    if (!pm_queue_id(m->cqs, m->granted_cqs, qid, false))
        return PLX_SC_INVALID_QUEUE_IDENTIFIER | DNR;
    uint16_t status = pm_queue_memory(m, c, sizeof(struct nvme_cqe));
    if (status)
        return status;
    if (pm_dw(c, 11) & 2 && vector >= m->o.vectors)
        return PM_SC_INTERRUPT_VECTOR | DNR;
    struct pm_queue *q = pm_queue_start(m, qid, true, pm_prp1(c), (pm_dw(c, 10) >> 16) + 1);
    q->armed = pm_dw(c, 11) & 2;
    q->vector = (uint16_t)(q->armed ? vector : 0);
    if (q->armed && vector >= m->nfds)
        pm_complain(&m->complaints, "completion queue %u: interrupt vector %u, and %u are set", qid, vector, m->nfds);
    return 0;
}

static uint16_t pm_create_sq(struct pcie_model *m, const struct pm_cmd *c)
{
    const unsigned qid = pm_dw(c, 10) & 0xffff, cqid = pm_dw(c, 11) >> 16;
    if (!pm_queue_id(m->sqs, m->granted_sqs, qid, false))
        return PLX_SC_INVALID_QUEUE_IDENTIFIER | DNR;
    if (cqid == 0 || cqid > m->granted_cqs)
        return PLX_SC_INVALID_QUEUE_IDENTIFIER | DNR;
    if (!m->cqs[cqid].live)
        return PM_SC_CQ_INVALID | DNR;
    uint16_t status = pm_queue_memory(m, c, sizeof(struct nvme_cmd));
    if (status)
        return status;
    struct pm_queue *q = pm_queue_start(m, qid, false, pm_prp1(c), (pm_dw(c, 10) >> 16) + 1);
    q->cqid = (uint16_t)cqid;
    q->priority = pm_dw(c, 11) >> 1 & 3;
    m->cqs[cqid].users++;
    return 0;
}

static uint16_t pm_delete_sq(struct pcie_model *m, const struct pm_cmd *c)
{
    const unsigned qid = pm_dw(c, 10) & 0xffff;
    if (!pm_queue_id(m->sqs, m->granted_sqs, qid, true))
        return PLX_SC_INVALID_QUEUE_IDENTIFIER | DNR;
    pm_queue_end(m, &m->sqs[qid]);
    m->cqs[m->sqs[qid].cqid].users--;
    return 0;
}

static uint16_t pm_delete_cq(struct pcie_model *m, const struct pm_cmd *c)
{
    const unsigned qid = pm_dw(c, 10) & 0xffff;
    if (!pm_queue_id(m->cqs, m->granted_cqs, qid, true))
        return PLX_SC_INVALID_QUEUE_IDENTIFIER | DNR;
    if (m->cqs[qid].users)
        return PM_SC_QUEUE_DELETION | DNR;
    m->cqs[qid].live = false;
    return 0;
}

/* Base 5.2.5 */
static uint16_t pm_doorbell_buffers(struct pcie_model *m, const struct pm_cmd *c)
{
    uint64_t prp[2];
    memcpy(prp, &c->sqe.sgl, sizeof prp);
    prp[0] = le64toh(prp[0]);
    prp[1] = le64toh(prp[1]);
    if (!(m->o.oacs & PCIE_MODEL_OACS_DBBUF))
        return PLX_SC_INVALID_OPCODE | DNR;
    if (prp[0] % m->page || prp[1] % m->page) {
        pm_complain(&m->complaints, "doorbell buffers that are not aligned");
        return PLX_SC_INVALID_FIELD | DNR;
    }
    if (!pm_mapped(m, prp[0], m->page) || !pm_mapped(m, prp[1], m->page)) {
        pm_complain(&m->complaints, "doorbell buffers that are not mapped");
        return PLX_SC_DATA_TRANSFER_ERROR | DNR;
    }
    m->shadow = prp[0];
    m->event_idx = prp[1];
    m->dbbuf = true;
    return 0;
}

/* ---- Abort: Base 5.1.1 ---- */

static uint16_t pm_abort(struct pcie_model *m, struct pm_cmd *c)
{
    const unsigned sqid = pm_dw(c, 10) & 0xffff, cid = pm_dw(c, 10) >> 16;
    unsigned aborts = 0;
    for (const struct pm_cmd *a = m->first; a; a = a->next)
        aborts += a->sqid == 0 && a->sqe.opcode == PM_ABORT && !a->done && !a->extra;
    c->dw0 = 1;
    if (aborts > m->o.acl + 1u)
        return PLX_SC_ABORT_COMMAND_LIMIT_EXCEEDED;
    if (c->kind == PCIE_MODEL_ABORT_IDLE)
        return 0;
    for (struct pm_cmd *a = m->first; a; a = a->next) {
        if (a == c || a->sqid != sqid || a->cid != cid || a->done || a->gone)
            continue;
        a->done = true;
        a->waits = false;
        a->status = PLX_SC_ABORTED_BY_REQUEST;
        a->due = m->steps;
        if (a->pair && !a->pair->done) {
            a->pair->done = true;
            a->pair->status = PLX_SC_ABORTED_FAILED_FUSED;
            a->pair->due = m->steps;
        }
        c->dw0 = 0;
        break;
    }
    return 0;
}

/* ---- features: Base 5.1.25, 5.1.11 ---- */

static uint32_t pm_feature_default(const struct pcie_model *m, unsigned fid)
{
    return fid == FID_TEMPERATURE   ? m->o.temperature + 60u
           : fid == FID_WRITE_CACHE ? m->o.vwc & 1u
           : fid == FID_ARBITRATION ? 7
                                    : 0;
}

void pm_features_reset(struct pcie_model *m)
{
    for (unsigned fid = 0; fid < PLX_ARRAY_SIZE(m->features); fid++)
        m->features[fid] = pm_feature_default(m, fid);
    memset(m->host_id, 0, sizeof m->host_id);
}

static bool pm_feature_known(const struct pcie_model *m, unsigned fid)
{
    return (fid >= FID_ARBITRATION && fid <= FID_EVENTS && fid != 0x03 && (fid != FID_WRITE_CACHE || m->o.vwc & 1)) ||
           fid == FID_HOST_ID || (fid == PM_FID_BEHAVIOR && m->o.ctratt & PCIE_MODEL_CTRATT_ELBAS);
}

static uint16_t pm_set_queues(struct pcie_model *m, struct pm_cmd *c)
{
    const uint32_t v = pm_dw(c, 11), nsq = v & 0xffff, ncq = v >> 16;
    for (unsigned i = 1; i <= m->o.queues; i++)
        if (m->sqs[i].live || m->cqs[i].live)
            return PLX_SC_COMMAND_SEQUENCE_ERROR | DNR;
    if (nsq == 0xffff || ncq == 0xffff)
        return PLX_SC_INVALID_FIELD | DNR;
    m->granted_sqs = (uint16_t)plx_min_u64(nsq + 1, m->o.queues);
    m->granted_cqs = (uint16_t)plx_min_u64(ncq + 1, m->o.queues);
    c->dw0 = (m->granted_sqs - 1u) | (m->granted_cqs - 1u) << 16;
    m->features[FID_QUEUES] = c->dw0;
    return 0;
}

static uint16_t pm_set_feature(struct pcie_model *m, struct pm_cmd *c)
{
    const unsigned fid = pm_dw(c, 10) & 0xff;
    const uint32_t value = pm_dw(c, 11);
    if (!pm_feature_known(m, fid))
        return PLX_SC_INVALID_FIELD | DNR;
    if (pm_dw(c, 10) >> 31)
        return PLX_SC_FEATURE_NOT_SAVEABLE | DNR;
    if (fid == FID_QUEUES)
        return pm_set_queues(m, c);
    if (fid == FID_VECTOR && (value & 0xffff) >= m->o.vectors)
        return PLX_SC_INVALID_FIELD | DNR;
    if (fid == FID_HOST_ID) {
        uint16_t status = pm_data(m, c, value & 1 ? 16 : 8);
        return status ? status : pm_read_host(m, m->host_id, value & 1 ? 16 : 8);
    }
    if (fid == PM_FID_BEHAVIOR) { /* LBAFEE */
        uint8_t behavior[512];
        uint16_t status = pm_data(m, c, sizeof behavior);
        if (!status)
            status = pm_read_host(m, behavior, sizeof behavior);
        if (!status)
            m->features[fid] = behavior[2];
        return status;
    }
    m->features[fid] = value;
    return 0;
}

static uint16_t pm_get_feature(struct pcie_model *m, struct pm_cmd *c)
{
    const unsigned fid = pm_dw(c, 10) & 0xff, select = pm_dw(c, 10) >> 8 & 7;
    if (!pm_feature_known(m, fid) || select > 3 || (select && !(m->o.oncs & PCIE_MODEL_ONCS_SAVE)))
        return PLX_SC_INVALID_FIELD | DNR;
    if (select == 3) { /* what can be done with it: it can be changed */
        c->dw0 = 1 << 2;
        return 0;
    }
    if (fid == FID_HOST_ID)
        return pm_answer_data(m, c, m->host_id, pm_dw(c, 11) & 1 ? 16 : 8);
    c->dw0 = select ? pm_feature_default(m, fid) : m->features[fid];
    return 0;
}

/* ---- events: Base 5.1.2 ---- */

enum { EVENT_SMART = 1 << 1, EVENT_NOTICE = 1 << 2 };

static uint16_t pm_async_event(struct pcie_model *m)
{
    unsigned n = 0;
    for (const struct pm_cmd *c = m->first; c; c = c->next)
        n += c->waits;
    return n > m->o.aerl ? PLX_SC_AER_LIMIT_EXCEEDED | DNR : PM_WAITS;
}

static void pm_tell(struct pcie_model *m, unsigned event, uint32_t dw0)
{
    if (!(m->events & event) || m->masked & event)
        return;
    for (struct pm_cmd *c = m->first; c; c = c->next) {
        if (!c->waits)
            continue;
        c->waits = false;
        c->done = true;
        c->due = m->steps;
        c->dw0 = dw0;
        m->events &= ~event;
        m->masked |= event;
        return;
    }
}

void pm_events(struct pcie_model *m)
{
    static const uint8_t info[] = {2, 1, 0, 0, 0, 0}; /* spare, temperature, reliability */
    unsigned bit = 0;
    while (bit < 5 && !(m->critical_warning >> bit & 1))
        bit++;
    pm_tell(m, EVENT_SMART, 1 | (uint32_t)info[bit] << 8 | NVME_LOG_HEALTH << 16);
    pm_tell(m, EVENT_NOTICE, 2 | NVME_LOG_CHANGED_NS << 16);
}

void pcie_model_smart(struct pcie_model *m, uint8_t critical_warning)
{
    pthread_mutex_lock(&m->lock);
    if (critical_warning & ~m->critical_warning & m->features[FID_EVENTS])
        m->events |= EVENT_SMART;
    m->critical_warning = critical_warning;
    pthread_mutex_unlock(&m->lock);
}

void pcie_model_ns_resize(struct pcie_model *m, uint32_t nsid, uint64_t blocks)
{
    pthread_mutex_lock(&m->lock);
    struct pm_ns *ns = pm_ns_of(m, nsid);
    unsigned i = 0;
    if (ns && blocks <= ns->medium_bytes >> ns->is.block_bits) {
        ns->is.blocks = blocks;
        while (i < m->nchanged && m->changed[i] != nsid)
            i++;
        if (i == m->nchanged)
            m->changed[m->nchanged++] = nsid;
        if (m->features[FID_EVENTS] & m->o.oaes & 1 << 8)
            m->events |= EVENT_NOTICE;
    }
    pthread_mutex_unlock(&m->lock);
}

/* ---- all of them ---- */

uint16_t pm_admin(struct pcie_model *m, struct pm_cmd *c)
{
    if (c->sqe.flags & NVME_PSDT_MASK) {
        pm_complain(&m->complaints, "admin opcode 0x%02x: with an SGL", c->sqe.opcode);
        return PLX_SC_INVALID_FIELD | DNR;
    }
    if (c->sqe.flags & NVME_FUSE_MASK)
        return PLX_SC_INVALID_FIELD | DNR;
    switch (c->sqe.opcode) {
    case PM_DELETE_SQ:
        return pm_delete_sq(m, c);
    case PM_CREATE_SQ:
        return pm_create_sq(m, c);
    case PM_LOG_PAGE:
        return pm_log_page(m, c);
    case PM_DELETE_CQ:
        return pm_delete_cq(m, c);
    case PM_CREATE_CQ:
        return pm_create_cq(m, c);
    case PM_IDENTIFY:
        return pm_identify(m, c);
    case PM_ABORT:
        return pm_abort(m, c);
    case PM_SET_FEATURES:
        return pm_set_feature(m, c);
    case PM_GET_FEATURES:
        return pm_get_feature(m, c);
    case PM_ASYNC_EVENT:
        return pm_async_event(m);
    case PM_DBBUF:
        return pm_doorbell_buffers(m, c);
    case PM_FORMAT:
        return m->o.oacs & PCIE_MODEL_OACS_FORMAT ? pm_format(m, c) : PLX_SC_INVALID_OPCODE | DNR;
    default:
        return PLX_SC_INVALID_OPCODE | DNR;
    }
}
