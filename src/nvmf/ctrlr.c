/* SPDX-License-Identifier: BSD-3-Clause */
/* Controllers: made by Connect, enabled and shut down through properties, kept alive, gone with their admin queue. */
#include "nvmf/nvmf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    ENABLE_TIMEOUT = 10,       /* CAP.TO, in units of 500 ms */
    LATE_MS = 100,             /* a timer that is later than this shows that the reactor was held up */
    KEEP_ALIVE_SLACK_MS = 500, /* traffic on other reactors is noticed with this delay */
};

/* ---- on the control reactor ---- */

struct nvmf_ctrlr *nvmf_ctrlr_find(struct plx_nvmf_target *t, const struct plx_nvmf_subsystem *s, uint16_t cntlid)
{
    plx_list_for_each(it, &t->ctrlrs) {
        struct nvmf_ctrlr *c = plx_list_entry(it, struct nvmf_ctrlr, link);
        if (c->subsys == s && c->cntlid == cntlid)
            return c;
    }
    return NULL;
}

/* Identifiers are handed out in turn, so that one is not reused while a host may still believe in it. */
static uint16_t free_cntlid(struct plx_nvmf_subsystem *s)
{
    for (unsigned tries = 0; tries <= (unsigned)s->max_cntlid - s->min_cntlid; tries++) {
        bool inside = s->last_cntlid >= s->min_cntlid && s->last_cntlid < s->max_cntlid;
        s->last_cntlid = (uint16_t)(inside ? s->last_cntlid + 1 : s->min_cntlid);
        if (nvmf_ctrlr_find(s->target, s, s->last_cntlid))
            continue;
        s->target->last_cntlid = s->last_cntlid; /* from where a subsystem goes on that is made anew */
        return s->last_cntlid;
    }
    return 0;
}

struct nvmf_ctrlr *nvmf_ctrlr_create(struct plx_nvmf_subsystem *s, const struct nvme_connect_data *host,
                                     uint32_t kato_ms, struct nvmf_qpair *admin)
{
    struct plx_nvmf_target *t = s->target;
    unsigned queues = (s->discovery ? 0 : t->opts.max_queues) + 1;
    uint16_t cntlid = free_cntlid(s);
    struct nvmf_ctrlr *c = cntlid ? calloc(1, sizeof *c) : NULL;
    if (!c)
        return NULL;
    c->qpairs = calloc(queues, sizeof *c->qpairs);
    if (!c->qpairs) {
        free(c);
        return NULL;
    }
    c->target = t;
    c->subsys = s;
    c->cntlid = cntlid;
    c->kato_ms = kato_ms;
    c->since = plx_reactor_now(nvmf_control_reactor(t));
    memcpy(c->hostid, host->hostid, sizeof c->hostid);
    snprintf(c->hostnqn, sizeof c->hostnqn, "%.*s", NVME_NQN_MAX, host->hostnqn);
    snprintf(c->name, sizeof c->name, "%scontroller %u", s->discovery ? "discovery " : "", cntlid);
    pthread_mutex_init(&c->error_lock, NULL);
    c->qpairs[0] = admin;
    c->nqpairs = 1;
    nvmf_features_reset(c);
    plx_list_add_tail(&t->ctrlrs, &c->link);
    s->nctrlrs++;
    plx_info("%s: host %s is %s of %s", admin->peer, nvmf_host_name(c->hostnqn), c->name, c->subsys->nqn);
    return c;
}

void nvmf_ctrlr_kill_queues(struct nvmf_ctrlr *c)
{
    unsigned queues = (c->subsys->discovery ? 0 : c->target->opts.max_queues) + 1;
    for (unsigned i = 1; i < queues; i++)
        if (c->qpairs[i])
            nvmf_qpair_kill_from_afar(c->qpairs[i]);
}

void nvmf_ctrlr_detach(struct nvmf_ctrlr *c, struct nvmf_qpair *qp)
{
    c->qpairs[qp->qid] = NULL;
    c->nqpairs--;
    if (!qp->qid && !c->dying) {
        c->dying = true;
        plx_info("%s: host %s has left %s, %s", qp->peer, nvmf_host_name(c->hostnqn), c->name, c->subsys->nqn);
        nvmf_ctrlr_kill_queues(c);
    }
    if (c->nqpairs)
        return;
    struct plx_nvmf_target *t = c->target;
    plx_list_del(&c->link);
    c->subsys->nctrlrs--;
    pthread_mutex_destroy(&c->error_lock);
    free(c->qpairs);
    free(c);
    nvmf_apply_released(t); /* the last of a subsystem that was removed, perhaps */
}

/* ---- on the admin queue's reactor ---- */

static void keep_alive_expired(struct plx_timer *timer)
{
    struct nvmf_ctrlr *c = plx_container_of(timer, struct nvmf_ctrlr, kato_timer);
    struct nvmf_qpair *admin = c->qpairs[0]; /* ours: it is detached only after this timer has been cancelled */
    struct plx_reactor *r = admin->group->reactor;
    /*
     * The keep-alive timer runs while the controller is ready (Base 3.9); before that a host has as long as an idle
     * discovery.
     */
    bool ready = atomic_load(&c->csts) & NVME_CSTS_RDY;
    uint64_t limit = ready && c->kato_ms ? (uint64_t)c->kato_ms + KEEP_ALIVE_SLACK_MS : NVMF_DISCOVERY_IDLE_MS;
    uint64_t seen = plx_max_u64(c->last_keep_alive, atomic_load_explicit(&c->last_seen, memory_order_relaxed));
    uint64_t quiet = plx_reactor_now(r) > seen ? plx_reactor_now(r) - seen : 0;
    if (quiet < limit * PLX_NS_PER_MS) {
        plx_timer_set(r, &c->kato_timer, limit * PLX_NS_PER_MS - quiet);
        return;
    }
    if (plx_reactor_now(r) > timer->due + LATE_MS * PLX_NS_PER_MS) {
        /* It was we who were held up: what the host sent meanwhile may lie in its socket. */
        plx_timer_set(r, &c->kato_timer, KEEP_ALIVE_SLACK_MS * PLX_NS_PER_MS);
        return;
    }
    plx_warn("%s: host %s has been silent for longer than its keep-alive timeout of %u ms: %s ends", admin->peer,
             nvmf_host_name(c->hostnqn), c->kato_ms, c->name);
    atomic_fetch_or(&c->csts, NVME_CSTS_CFS); /* Base 3.9: a fatal error, and the association ends */
    nvmf_transport_of(admin)->kill(admin, "keep-alive timeout");
}

void nvmf_ctrlr_start_keep_alive(struct nvmf_ctrlr *c)
{
    struct plx_reactor *r = c->qpairs[0]->group->reactor;
    c->kato_ms =
        (uint32_t)plx_min_u64((c->kato_ms + (uint64_t)NVMF_KATO_UNIT_MS - 1) / NVMF_KATO_UNIT_MS * NVMF_KATO_UNIT_MS,
                              UINT32_MAX / NVMF_KATO_UNIT_MS * NVMF_KATO_UNIT_MS);
    c->last_keep_alive = plx_reactor_now(r);
    c->kato_timer.fn = keep_alive_expired;
    if (c->kato_ms || c->subsys->discovery || !(atomic_load(&c->csts) & NVME_CSTS_RDY))
        keep_alive_expired(&c->kato_timer); /* not yet: this sets it */
    else
        plx_timer_cancel(r, &c->kato_timer);
}

/* What a host knows when it is new, or has reset the controller: everything as it is now. */
static void forget_events(struct nvmf_ctrlr *c)
{
    c->events = c->events_masked = 0;
    c->ns_seen = c->qpairs[0]->group->snap->generation;
    memset(&c->resv_log, 0, sizeof c->resv_log);
}

void nvmf_ctrlr_start(struct nvmf_ctrlr *c)
{
    forget_events(c);
    nvmf_ctrlr_start_keep_alive(c);
}

void nvmf_ctrlr_keep_alive(struct nvmf_ctrlr *c)
{
    c->last_keep_alive = plx_reactor_now(c->qpairs[0]->group->reactor);
}

/* CAP: Base 3.1.4.1 */
static uint64_t capabilities(const struct nvmf_ctrlr *c)
{
    uint64_t mqes = c->target->opts.queue_depth - 1;
    /* The NVM command set; and all I/O command sets, which is the same, but some hosts ask for nothing less. */
    uint64_t css = UINT64_C(1) << NVME_CAP_CSS_NVM_SHIFT;
    if (!c->subsys->discovery)
        css |= UINT64_C(1) << NVME_CAP_CSS_ALL_SHIFT;
    return mqes | UINT64_C(1) << 16 /* CQR */ | (uint64_t)ENABLE_TIMEOUT << 24 | css;
}

uint16_t nvmf_property_get(struct nvmf_ctrlr *c, uint32_t offset, unsigned bytes, uint64_t *value)
{
    unsigned size = offset == NVME_PROP_CAP ? 8 : 4;
    switch (offset) {
    case NVME_PROP_CAP:
        *value = capabilities(c);
        break;
    case NVME_PROP_VS:
        *value = NVME_VERSION;
        break;
    case NVME_PROP_CC:
        *value = atomic_load(&c->cc);
        break;
    case NVME_PROP_CSTS:
        *value = atomic_load(&c->csts);
        /* A reset is over when the I/O queues are gone; hosts wait for that. */
        if (!(atomic_load(&c->cc) & NVME_CC_EN) && atomic_load(&c->nqpairs) > 1)
            *value |= NVME_CSTS_RDY;
        break;
    default:
        return PLX_SC_INVALID_FIELD | NVME_STATUS_DNR;
    }
    if (size != bytes) {
        *value = 0;
        return PLX_SC_INVALID_FIELD | NVME_STATUS_DNR;
    }
    return PLX_SC_SUCCESS;
}

static void reset_on_control(struct plx_msg *msg)
{
    struct nvmf_ctrlr *c = plx_container_of(msg, struct nvmf_ctrlr, reset_msg);
    plx_once_hear(&c->reset_sent);
    nvmf_ctrlr_kill_queues(c);
}

/* A controller level reset by CC.EN: the I/O queues are deleted, outstanding event requests end (Base 3.7.2). */
static void disable(struct nvmf_ctrlr *c)
{
    atomic_store(&c->csts, 0);
    nvmf_aers_abort(c);
    nvmf_features_reset(c);
    forget_events(c);
    nvmf_ctrlr_start_keep_alive(c);
    if (!plx_once_ask(&c->reset_sent))
        return;
    c->reset_msg.fn = reset_on_control;
    plx_reactor_send(nvmf_control_reactor(c->target), &c->reset_msg);
}

/*
 * CC: Base 3.1.4.5. What it asks for must be what CAP offers: the NVM command set, 4 KiB pages, round robin, 64 and 16
 * byte entries.
 */
static bool cc_valid(const struct nvmf_ctrlr *c, uint32_t cc)
{
    unsigned sqes = (cc >> NVME_CC_IOSQES_SHIFT) & 15, cqes = (cc >> NVME_CC_IOCQES_SHIFT) & 15;
    unsigned css = (cc >> NVME_CC_CSS_SHIFT) & 7;
    bool entries = c->subsys->discovery ? (sqes == 0 || sqes == 6) && (cqes == 0 || cqes == 4) : sqes == 6 && cqes == 4;
    bool sets = !css || (css == NVME_CC_CSS_ALL && !c->subsys->discovery);
    return sets && ((cc >> NVME_CC_MPS_SHIFT) & 15) == 0 && ((cc >> NVME_CC_AMS_SHIFT) & 7) == 0 && entries;
}

static uint16_t set_cc(struct nvmf_ctrlr *c, uint32_t cc)
{
    uint32_t old = atomic_load(&c->cc), csts = atomic_load(&c->csts);
    unsigned shutdown = (cc >> NVME_CC_SHN_SHIFT) & 3;
    if ((cc & NVME_CC_EN) && !(old & NVME_CC_EN)) {
        if (!cc_valid(c, cc))
            return PLX_SC_INVALID_FIELD | NVME_STATUS_DNR;
        csts = NVME_CSTS_RDY;
        atomic_store(&c->csts, csts);
        nvmf_ctrlr_start_keep_alive(c);
    }
    atomic_store(&c->cc, cc);
    if (!(cc & NVME_CC_EN) && (old & NVME_CC_EN)) {
        disable(c);
        csts = 0;
    }
    /* Nothing is cached here that a shutdown would have to save: it is complete at once (Base 3.6). */
    if (shutdown == 1 || shutdown == 2)
        csts = (csts & ~(uint32_t)NVME_CSTS_SHST_MASK) | NVME_CSTS_SHST_COMPLETE;
    atomic_store(&c->csts, csts);
    return PLX_SC_SUCCESS;
}

uint16_t nvmf_property_set(struct nvmf_ctrlr *c, uint32_t offset, unsigned bytes, uint64_t value)
{
    if (offset != NVME_PROP_CC || bytes != 4)
        return PLX_SC_INVALID_FIELD | NVME_STATUS_DNR;
    return set_cc(c, (uint32_t)value);
}

/* ---- from any of its queue pairs ---- */

void nvmf_ctrlr_log_error(struct nvmf_req *req, uint16_t status)
{
    struct nvmf_ctrlr *c = req->qp->ctrlr;
    bool io = req->qp->qid != 0;
    struct nvme_error_entry e = {
        .sqid = plx_put16(req->qp->qid),
        .cid = req->cmd.cid,
        .status = plx_put16((unsigned)status << 1),
        .location = plx_put16(0xffff), /* not told */
        .lba = plx_put64(io ? plx_get32(req->cmd.cdw10) | (uint64_t)plx_get32(req->cmd.cdw11) << 32 : 0),
        .nsid = req->cmd.nsid,
        .trtype = nvmf_transport_of(req->qp)->trtype,
        .opcode = req->cmd.opcode,
        .version = 1,
    };
    pthread_mutex_lock(&c->error_lock);
    e.count = plx_put64(++c->nerrors);
    c->errors[(c->nerrors - 1) % NVMF_ERROR_LOG] = e;
    pthread_mutex_unlock(&c->error_lock);
}
