/* SPDX-License-Identifier: BSD-3-Clause */
/* What an association does on its own once it is live: keep-alive, events and what they call for, time limits. */
#include "nvme/nvme.h"

#include <string.h>

enum {
    EVENT_NOTICE = 2,
    NOTICE_NS_CHANGED = 0x00,
    NOTICE_ANA_CHANGED = 0x03,
    TBKAS = 1 << 6, /* CTRATT: traffic counts as keep-alive */
    ANA_HEADER = 16,
    ANA_DESCRIPTOR = 32,
    ANA_PIECE = NVME_PAGE / ANA_DESCRIPTOR * ANA_DESCRIPTOR - ANA_DESCRIPTOR,
    LPA_OFFSET = 1 << 2, /* Get Log Page takes an offset */
    ANA_GROUPS_ONLY = 1, /* LSP */
};

/* ---- commands ---- */

void nvme_own_command(struct nvme_ctrlr *c, const struct nvme_words *cmd, enum nvme_dir dir, uint32_t len,
                      void (*done)(struct nvme_req *))
{
    c->iov = (struct iovec){c->page, len};
    c->req = (struct nvme_req){.done = done, .data = {&c->iov, 0}, .len = len, .dir = (uint8_t)dir, .cmd = *cmd};
    nvme_submit_admin(c, &c->req);
}

void nvme_own_identify(struct nvme_ctrlr *c, uint8_t cns, uint32_t nsid, void (*done)(struct nvme_req *))
{
    const struct nvme_words cmd = {.opcode = NVME_ADMIN_IDENTIFY, .nsid = plx_put32(nsid), .cdw10 = plx_put32(cns)};
    memset(c->page, 0, NVME_PAGE);
    nvme_own_command(c, &cmd, NVME_TO_HOST, NVME_PAGE, done);
}

/* `offset` is not 0 only where the controller takes one. */
static void own_log(struct nvme_ctrlr *c, uint8_t lid, uint8_t lsp, uint32_t offset, uint32_t bytes,
                    void (*done)(struct nvme_req *))
{
    uint32_t dwords = bytes / 4 - 1;
    const struct nvme_words cmd = {
        .opcode = NVME_ADMIN_GET_LOG_PAGE,
        .nsid = plx_put32(NVME_NSID_ALL),
        .cdw10 = plx_put32(lid | (uint32_t)lsp << 8 | (dwords & 0xffff) << 16),
        .cdw11 = plx_put32(dwords >> 16),
        .cdw12 = plx_put32(offset),
    };
    nvme_own_command(c, &cmd, NVME_TO_HOST, bytes, done);
}

/* ---- namespaces, and access to them ---- */

/* Base 5.1.13.2.3: a list of type, length, identifier, that a zero length ends. */
void nvme_take_ns_descriptors(struct nvme_ns *ns, const uint8_t *page)
{
    for (unsigned at = 0; at + 4 <= NVME_PAGE && page[at + 1];) {
        uint8_t type = page[at], len = page[at + 1];
        const uint8_t *id = page + at + 4;
        if (at + 4 + len > NVME_PAGE)
            return;
        if (type == NVME_NIDT_UUID && len == sizeof ns->uuid) {
            memcpy(ns->uuid, id, len);
            ns->has_uuid = true;
        } else if (type == NVME_NIDT_CSI && len == 1) {
            ns->csi = id[0];
        }
        at += 4u + len;
    }
}

bool nvme_same_identity(const struct nvme_id_ns *was, const struct nvme_id_ns *now)
{
    static const uint8_t none[sizeof now->nguid];
    bool named = memcmp(now->nguid, none, sizeof now->nguid) || memcmp(now->eui64, none, sizeof now->eui64);
    return named && plx_get64(now->nsze) && now->flbas == was->flbas &&
           !memcmp(now->lbaf, was->lbaf, sizeof now->lbaf) && !memcmp(now->nguid, was->nguid, sizeof now->nguid) &&
           !memcmp(now->eui64, was->eui64, sizeof now->eui64);
}

bool nvme_has_ana(const struct nvme_ctrlr *c)
{
    return c->id.cmic & 1 << 3 && plx_get32(c->ns.id.anagrpid);
}

static uint32_t ana_bytes(const struct nvme_ctrlr *c)
{
    return ANA_HEADER + ANA_DESCRIPTOR * (uint32_t)plx_min_u64(plx_get32(c->id.nanagrpid), UINT16_MAX);
}

/*
 * Base 5.1.12.1.13, groups only: a header, and 32 bytes each, of which a page holds 127. c->req has brought the piece
 * at c->ana_at.
 */
static void read_ana(struct nvme_ctrlr *c, uint32_t at, void (*done)(struct nvme_req *))
{
    uint32_t most = at ? ANA_PIECE : ANA_HEADER + ANA_PIECE;
    c->ana_at = at;
    own_log(c, NVME_LOG_ANA, ANA_GROUPS_ONLY, at, (uint32_t)plx_min_u64(ana_bytes(c) - at, most), done);
}

void nvme_read_ana(struct nvme_ctrlr *c, void (*done)(struct nvme_req *))
{
    read_ana(c, 0, done);
}

bool nvme_took_ana(struct nvme_ctrlr *c, unsigned *state)
{
    const uint8_t *page = c->page;
    uint32_t at = c->ana_at ? 0 : ANA_HEADER, len = c->req.len;
    *state = NVME_ANA_OPTIMIZED; /* a group that is not told of */
    if (!c->ana_at)
        c->ana_groups = page[8] | (unsigned)page[9] << 8;
    for (; c->ana_groups && at + ANA_DESCRIPTOR <= len; at += ANA_DESCRIPTOR, c->ana_groups--) {
        plx_le32 id, nsids;
        memcpy(&id, page + at, sizeof id);
        memcpy(&nsids, page + at + 4, sizeof nsids);
        if (plx_get32(nsids))
            return true; /* groups alone were asked for */
        if (plx_get32(id) == plx_get32(c->ns.id.anagrpid)) {
            *state = page[at + 16] & 15;
            return true;
        }
    }
    if (!c->ana_groups || !(c->id.lpa & LPA_OFFSET) || c->ana_at + len >= ana_bytes(c))
        return true;
    read_ana(c, c->ana_at + len, c->req.done);
    return false;
}

/* ---- what events call for, one after the other ---- */

static void look(struct nvme_ctrlr *c);
static void send_aer(struct nvme_ctrlr *c);

/*
 * Whether an answer still matters: when an association ends, a command that was answered before it had left entirely
 * (slot->answered, of TCP) comes back with its answer.
 */
static bool still_live(const struct nvme_ctrlr *c, const struct nvme_req *req)
{
    return !req->lost && c->state == NVME_CTRLR_LIVE;
}

static void took_changed_ns(struct nvme_req *req)
{
    struct nvme_ctrlr *c = plx_container_of(req, struct nvme_ctrlr, req);
    c->busy = false;
    if (still_live(c, req))
        look(c);
}

static void took_ns(struct nvme_req *req)
{
    struct nvme_ctrlr *c = plx_container_of(req, struct nvme_ctrlr, req);
    c->busy = false;
    if (!still_live(c, req))
        return;
    if (!req->status) {
        const struct nvme_id_ns *now = (const void *)c->page;
        if (!nvme_same_identity(&c->ns.id, now)) {
            nvme_ctrlr_lost(c, "the namespace may be another one now"); /* connecting again finds out */
            return;
        }
        uint64_t before = plx_get64(c->ns.id.nsze);
        memcpy(&c->ns.id, c->page, sizeof c->ns.id);
        if (plx_get64(c->ns.id.nsze) != before)
            plx_warn("%s: namespace %u has changed its size, from %llu to %llu blocks", nvme_ctrlr_name(c), c->ns.nsid,
                     (unsigned long long)before, (unsigned long long)plx_get64(c->ns.id.nsze));
    }
    look(c);
}

static void took_ana(struct nvme_req *req)
{
    struct nvme_ctrlr *c = plx_container_of(req, struct nvme_ctrlr, req);
    unsigned ana = c->ana;
    if (still_live(c, req) && !req->status && !nvme_took_ana(c, &ana))
        return;
    c->busy = false;
    if (!still_live(c, req))
        return;
    bool changed = ana != c->ana;
    c->ana = ana;
    c->holds++;
    if (changed)
        c->ops->ana(c, c->arg);
    if (!c->destroyed)
        look(c);
    nvme_ctrlr_release(c);
}

static void look(struct nvme_ctrlr *c)
{
    if (c->busy || c->state != NVME_CTRLR_LIVE)
        return;
    c->busy = true;
    if (c->want_changed_ns) {
        c->want_changed_ns = false;
        own_log(c, NVME_LOG_CHANGED_NS, 0, 0, NVME_PAGE, took_changed_ns); /* reading it allows the next such event */
    } else if (c->want_ns && c->ns.nsid) {
        c->want_ns = false;
        nvme_own_identify(c, NVME_CNS_NS, c->ns.nsid, took_ns);
    } else if (c->want_ana && nvme_has_ana(c)) {
        c->want_ana = false;
        nvme_read_ana(c, took_ana);
    } else {
        c->busy = false;
        if (c->want_event) {
            c->want_event = false;
            send_aer(c);
            c->ops->event(c, c->arg, c->event);
        }
    }
}

void nvme_ctrlr_refresh_ana(struct nvme_ctrlr *c)
{
    c->want_ana = true;
    look(c);
}

static void event_came(struct nvme_req *req)
{
    struct nvme_ctrlr *c = plx_container_of(req, struct nvme_ctrlr, aer);
    if (!still_live(c, req))
        return;
    if (req->status) {
        if (c->ops->no_events)
            c->ops->no_events(c, c->arg, req->status);
        return;
    }
    unsigned type = req->dw0 & 7, info = (req->dw0 >> 8) & 0xff;
    plx_info("%s: asynchronous event %08x", nvme_ctrlr_name(c), req->dw0);
    if (type == EVENT_NOTICE && info == NOTICE_NS_CHANGED)
        c->want_changed_ns = c->want_ns = c->want_ana = true;
    else if (type == EVENT_NOTICE && info == NOTICE_ANA_CHANGED)
        c->want_ana = true;
    c->event = req->dw0;
    c->want_event = c->ops->event != NULL;
    if (!c->want_event)
        send_aer(c); /* else when it has been told of: until then the controller keeps the next one */
    look(c);
}

static void send_aer(struct nvme_ctrlr *c)
{
    if (c->aer.qp)
        return;
    c->aer = (struct nvme_req){.done = event_came, .forever = true, .cmd.opcode = NVME_ADMIN_ASYNC_EVENT};
    nvme_submit_admin(c, &c->aer);
}

void nvme_ctrlr_want_events(struct nvme_ctrlr *c)
{
    if (c->state == NVME_CTRLR_LIVE)
        send_aer(c);
}

/* ---- keep-alive ---- */

static bool heard_of_it(struct nvme_ctrlr *c)
{
    bool heard = c->admin->active;
    c->admin->active = false;
    for (unsigned i = 0; i < c->nio; i++) {
        heard |= c->io[i]->active;
        c->io[i]->active = false;
    }
    return heard;
}

/* A third of the timeout: with one interval skipped because of traffic, two thirds have passed at most. */
static void plan_keep_alive(struct nvme_ctrlr *c)
{
    plx_timer_set(c->reactor, &c->keep_alive_timer, c->o.kato_ms * PLX_NS_PER_MS / 3);
}

static void kept_alive(struct nvme_req *req)
{
    (void)req; /* that it was answered is what counts: heard_of_it() */
}

static void keep_alive(struct plx_timer *t)
{
    struct nvme_ctrlr *c = plx_container_of(t, struct nvme_ctrlr, keep_alive_timer);
    bool heard = heard_of_it(c);
    /*
     * Sent at the last interval but two, and nothing was heard since: it counts as dead when it would count us as dead.
     */
    if (c->keep_alive.qp && !heard) {
        if (++c->silent >= 3) {
            nvme_ctrlr_lost(c, "keep-alive timeout");
            return;
        }
    } else {
        c->silent = 0;
    }
    plan_keep_alive(c);
    if (c->keep_alive.qp || (heard && plx_get32(c->id.ctratt) & TBKAS))
        return;
    c->keep_alive = (struct nvme_req){.done = kept_alive, .forever = true, .cmd.opcode = NVME_ADMIN_KEEP_ALIVE};
    nvme_submit_admin(c, &c->keep_alive);
}

/* ---- aborting, and time limits ---- */

static void send_wanted_aborts(struct nvme_ctrlr *c);

static void abort_answered(struct nvme_req *req)
{
    /* What became of the other command shows there. */
    struct nvme_ctrlr *c = plx_container_of(req, struct nvme_abort, req)->ctrlr;
    if (still_live(c, req))
        send_wanted_aborts(c);
}

/* As many at a time as the controller takes: ACL counts from zero. @return false when it takes no more at present */
static bool send_abort(struct nvme_ctrlr *c, struct nvme_req *req, enum nvme_aborting why)
{
    unsigned limit = (unsigned)plx_min_u64(NVME_ABORTS, c->id.acl + 1u);
    for (unsigned i = 0; i < limit; i++) {
        struct nvme_req *abort = &c->aborts[i].req;
        if (abort->qp)
            continue;
        c->aborts[i].ctrlr = c;
        *abort = (struct nvme_req){.done = abort_answered,
                                   .epoch = c->admin->tick,
                                   .cmd = {.opcode = NVME_ADMIN_ABORT,
                                           .cdw10 = plx_put32(req->qp->qid | (uint32_t)plx_get16(req->cmd.cid) << 16)}};
        nvme_submit_admin(c, abort);
        req->aborting = (uint8_t)why;
        return true;
    }
    return false;
}

static void send_wanted_aborts(struct nvme_ctrlr *c)
{
    bool more = c->want_aborts;
    c->want_aborts = false;
    for (unsigned i = 0; more && i <= c->nio; i++) {
        const struct nvme_qp *qp = i < c->nio ? c->io[i] : c->admin;
        for (unsigned place = 0; more && place < qp->depth; place++) {
            struct nvme_req *req = c->o.transport->in_flight(qp, place);
            if (req && req->aborting == NVME_ABORT_WANTED)
                more = send_abort(c, req, NVME_ABORT_ASKED);
            c->want_aborts |= !more;
        }
    }
}

static void take_back(struct nvme_queue *q, struct nvme_req *req)
{
    struct nvme_req **p = &q->head;
    while (*p != req)
        p = &(*p)->next;
    *p = req->next;
    if (!*p)
        q->tail = p;
    req->waiting = req->lost = false; /* what has never been in flight has no word of that yet */
    req->status = PLX_SC_ABORTED_BY_REQUEST;
}

void nvme_abort(struct nvme_ctrlr *c, struct nvme_req *req)
{
    struct nvme_qp *qp = req->qp;
    if (!qp || qp->ctrlr != c)
        return;
    if (req->waiting) {
        struct nvme_req *second = req->fused ? req->next : NULL;
        take_back(&qp->backlog, req);
        if (second)
            take_back(&qp->backlog, second);
        nvme_req_end(req);
        if (second)
            nvme_req_end(second);
    } else if (c->state == NVME_CTRLR_LIVE && req->aborting == NVME_ABORT_LATE) {
        req->aborting = NVME_ABORT_ASKED;
    } else if (c->state == NVME_CTRLR_LIVE && !req->aborting && !send_abort(c, req, NVME_ABORT_ASKED)) {
        req->aborting = NVME_ABORT_WANTED;
        c->want_aborts = true;
    }
}

/* Whether an Abort has been without an answer for so long that none is to be expected. */
static bool ignores_aborts(const struct nvme_ctrlr *c)
{
    for (unsigned i = 0; i < NVME_ABORTS; i++)
        if (c->aborts[i].req.qp && (uint16_t)(c->admin->tick - c->aborts[i].req.epoch) >= NVME_ABORT_TICKS)
            return true;
    return false;
}

/* @return false when the association is at its end */
static bool check_command(struct nvme_ctrlr *c, struct nvme_req *req, bool ignores, bool *said)
{
    const struct nvme_qp *qp = req->qp;
    const unsigned limit = (c->o.timeout_ms + NVME_TICK_MS - 1) / NVME_TICK_MS + 1;
    const unsigned age = (uint16_t)(qp->tick - req->epoch);
    if (ignores && (req->aborting == NVME_ABORT_WANTED || req->aborting == NVME_ABORT_ASKED)) {
        nvme_ctrlr_lost(c, "it answers neither a command that is to end nor an Abort");
        return false;
    }
    if (!c->o.timeout_ms || req->forever || age < limit)
        return true;
    if (age >= (qp->qid ? 2 * limit : limit)) {
        nvme_ctrlr_lost(c, "a command has not been answered in time");
        return false;
    }
    if (req->aborting || !send_abort(c, req, NVME_ABORT_LATE))
        return true;
    if (!*said)
        plx_warn("%s: command %02xh on queue %u has had no answer for %u s: aborting it", nvme_ctrlr_name(c),
                 req->cmd.opcode, qp->qid, age * NVME_TICK_MS / 1000);
    *said = true;
    return true;
}

static bool check_queue(struct nvme_ctrlr *c, struct nvme_qp *qp, bool ignores)
{
    bool said = false;
    qp->tick++;
    for (unsigned place = 0; place < qp->depth; place++) {
        struct nvme_req *req = c->o.transport->in_flight(qp, place);
        if (req && !check_command(c, req, ignores, &said))
            return false;
    }
    return true;
}

static void upkeep_tick(struct plx_timer *t)
{
    struct nvme_ctrlr *c = plx_container_of(t, struct nvme_ctrlr, tick);
    const bool ignores = ignores_aborts(c);
    plx_timer_set(c->reactor, t, NVME_TICK_MS * PLX_NS_PER_MS);
    for (unsigned i = 0; i < c->nio; i++)
        if (!check_queue(c, c->io[i], ignores))
            return;
    if (!check_queue(c, c->admin, ignores))
        return;
    if (c->ana == NVME_ANA_CHANGE)
        nvme_ctrlr_refresh_ana(c); /* its end may come without an event */
}

/* ---- beginning and end ---- */

void nvme_upkeep_start(struct nvme_ctrlr *c)
{
    c->busy = false;
    c->want_changed_ns = c->want_ns = c->want_ana = c->want_event = c->want_aborts = false;
    c->silent = 0;
    c->tick.fn = upkeep_tick;
    c->keep_alive_timer.fn = keep_alive;
    plx_timer_set(c->reactor, &c->tick, NVME_TICK_MS * PLX_NS_PER_MS);
    if (c->o.kato_ms)
        plan_keep_alive(c);
    if (!c->once)
        send_aer(c);
}

void nvme_upkeep_stop(struct nvme_ctrlr *c)
{
    plx_timer_cancel(c->reactor, &c->tick);
    plx_timer_cancel(c->reactor, &c->keep_alive_timer);
}
