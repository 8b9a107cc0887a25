/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Connections: adopted from a listener, given up with an error or without, freed once nothing of theirs is in flight.
 */
#include "nvmf/tcp/tcp.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool tcp_queue_remove(struct tcp_queue *q, struct tcp_req *req)
{
    for (struct tcp_req **p = &q->head; *p; p = &(*p)->next) {
        if (*p != req)
            continue;
        *p = req->next;
        if (!*p)
            q->tail = p;
        return true;
    }
    return false;
}

static const struct plx_stream_user stream_user = {.in = tcp_rx, .out = tcp_tx_flush};

struct tcp_conn *tcp_conn_create(struct plx_nvmf_target *t)
{
    const struct nvme_tcp_rules rules = {.target = true,
                                         .max_capsule_data = (uint32_t)plx_max_u64(t->opts.in_capsule_size, 8192),
                                         .max_data = TCP_MAXH2CDATA};
    struct tcp_conn *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    plx_stream_init(&c->stream, &stream_user);
    nvme_tcp_frame_init(&c->frame, &rules);
    tcp_queue_init(&c->tx);
    tcp_queue_init(&c->abandoned);
    for (unsigned i = 0; i < TCP_WAIT_CLASSES; i++) {
        tcp_queue_init(&c->wait[i]);
        plx_list_init(&c->wait_link[i]);
    }
    plx_list_init(&c->unsent_link);
    plx_list_init(&c->link);
    plx_list_init(&c->fresh_link);
    return c;
}

static void release(struct plx_stream *s)
{
    free(tcp_stream_conn(s));
}

void tcp_conn_free(struct tcp_conn *c)
{
    plx_stream_free(&c->stream, release);
}

/* ---- what the core asks of its transport ---- */

/*
 * The host may still send the data that it was asked for. The response goes out by a request of its own, and this one
 * stays behind to see the data off.
 */
static bool abandon(struct tcp_conn *c, struct tcp_req *req)
{
    struct tcp_req *response = tcp_req_get(c);
    if (!response)
        return false;
    if (req->core.mate || req->core.fused_first)
        nvmf_fused_leave(&req->core);
    nvmf_pending_del(&req->core);
    response->core.cmd = req->core.cmd;
    tcp_buf_drop(req);
    response->core.ns = req->core.ns; /* whose it was; no more data of it is wanted */
    req->core.ns = NULL;
    req->state = TCP_REQ_ABANDONED;
    tcp_queue_push(&c->abandoned, req);
    nvmf_req_complete(&response->core, PLX_SC_ABORTED_BY_REQUEST);
    return true;
}

void tcp_forget(struct tcp_conn *c, struct tcp_req *req)
{
    tcp_queue_remove(&c->abandoned, req);
    c->r2ts--;
    tcp_req_put(req);
}

bool tcp_abort(struct nvmf_req *core)
{
    struct tcp_req *req = tcp_req_of(core);
    struct tcp_conn *c = tcp_req_conn(req);
    switch ((enum tcp_req_state)req->state) {
    case TCP_REQ_WAIT_BUF:
        for (unsigned i = 0; i < TCP_WAIT_CLASSES; i++)
            if (tcp_queue_remove(&c->wait[i], req) && !c->wait[i].head)
                plx_list_del(&c->wait_link[i]);
        nvmf_req_complete(core, PLX_SC_ABORTED_BY_REQUEST);
        return true;
    case TCP_REQ_R2T:
        /* A host that has not asked for it cannot see a response while it sends the data: Linux is lost then. */
        if (!req->tx && c->rx_req != req && !nvmf_req_lost(core))
            return abandon(c, req);
        core->abort_status = PLX_SC_ABORTED_BY_REQUEST; /* the PDU under way first; sent() or the core does the rest */
        return true;
    case TCP_REQ_DATA_IN:
        core->abort_status = PLX_SC_ABORTED_BY_REQUEST;
        return true;
    case TCP_REQ_NEW:
    case TCP_REQ_ABANDONED:
        break;
    }
    return false;
}

enum plx_nvmf_stage tcp_stage(const struct nvmf_req *core)
{
    const struct tcp_req *req = plx_container_of(core, const struct tcp_req, core);
    switch ((enum tcp_req_state)req->state) {
    case TCP_REQ_NEW:
    case TCP_REQ_DATA_IN:
        break;
    case TCP_REQ_WAIT_BUF:
        return PLX_NVMF_STAGE_BUFFER;
    case TCP_REQ_R2T:
        return req->tx ? PLX_NVMF_STAGE_SOCKET : PLX_NVMF_STAGE_DATA;
    case TCP_REQ_ABANDONED:
        return PLX_NVMF_STAGE_ABORTED;
    }
    return PLX_NVMF_STAGE_CAPSULE;
}

void tcp_kill(struct nvmf_qpair *qp, const char *why)
{
    tcp_conn_close(tcp_conn_of(qp), why);
}

void tcp_local_addr(struct nvmf_qpair *qp, struct sockaddr_storage *ss)
{
    plx_stream_addr(&tcp_conn_of(qp)->stream, false, ss);
}

/* ---- beginning and end ---- */

void tcp_conn_adopt(struct tcp_group *g, struct tcp_conn *c)
{
    struct sockaddr_storage peer, local;
    c->group = g;
    c->born = plx_reactor_now(g->reactor);
    nvmf_qpair_init(&c->qp, g->core);
    plx_stream_addr(&c->stream, true, &peer);
    if (peer.ss_family == AF_UNSPEC)
        snprintf(c->qp.peer, sizeof c->qp.peer, "a peer that has left");
    else
        plx_addr_format(&peer, c->qp.peer);
    plx_stream_addr(&c->stream, false, &local);
    if (local.ss_family != AF_UNSPEC)
        plx_addr_format(&local, c->qp.local);
    plx_list_add_tail(&g->conns, &c->link);
    g->nconns++;
    if (g->nfresh == TCP_FRESH_MAX)
        tcp_conn_close(plx_list_entry(g->fresh.next, struct tcp_conn, fresh_link),
                       "too many connections without Connect");
    c->fresh = true;
    g->nfresh++;
    plx_list_add_tail(&g->fresh, &c->fresh_link);
    int ret = plx_stream_add(g->streams, &c->stream);
    if (ret || g->stopping)
        tcp_conn_close(c, ret ? strerror(-ret) : NULL);
    else if (!g->tick.set)
        plx_timer_set(g->reactor, &g->tick, TCP_TICK_MS * PLX_NS_PER_MS);
}

void tcp_conn_connected(struct tcp_conn *c)
{
    if (!c->fresh)
        return;
    c->fresh = false;
    c->stream.quiet = !c->qp.qid; /* admin commands are rare */
    c->group->nfresh--;
    plx_list_del(&c->fresh_link);
}

static void put_core(struct nvmf_req *core)
{
    tcp_req_put(tcp_req_of(core));
}

/* Ends the requests that wait in the transport; what the core or a disk has comes back through tcp_tx_complete(). */
static void drop_requests(struct tcp_conn *c)
{
    struct tcp_req *partial = c->rx_req;
    while (c->tx.head) {
        struct tcp_req *req = tcp_queue_pop(&c->tx);
        req->tx = TCP_TX_NONE;
        if (!req->core.pending) /* an R2T is found again below */
            tcp_req_put(req);
    }
    c->rx_req = NULL;
    if (partial && !partial->core.pending && partial->state != TCP_REQ_ABANDONED)
        tcp_req_put(partial);
    for (unsigned i = 0; i < TCP_WAIT_CLASSES; i++) {
        tcp_queue_init(&c->wait[i]);
        plx_list_del(&c->wait_link[i]);
    }
    plx_list_del(&c->unsent_link);
    while (c->abandoned.head)
        tcp_forget(c, c->abandoned.head);
    nvmf_qpair_close(&c->qp, put_core);
}

void tcp_conn_orphan(struct tcp_conn *c)
{
    struct tcp_conn *to = c->group->orphans;
    if (c->qp.in_flight && !c->detaching)
        nvmf_qpair_orphan(&c->qp, &to->qp);
    tcp_buf_orphan(c, to);
}

void tcp_conn_close(struct tcp_conn *c, const char *why)
{
    struct tcp_group *g = c->group;
    bool linger = c->state == TCP_TERM && !c->tx.head && !c->ctrl_len; /* until the host has read the TermReq PDU */
    if (c->state == TCP_DEAD)
        return;
    if (why)
        plx_warn("%s: connection closed: %s", c->qp.peer, why);
    c->state = TCP_DEAD;
    c->frame.ended = true;
    tcp_conn_connected(c);
    if (linger)
        plx_stream_linger(&c->stream);
    else
        plx_stream_close(&c->stream);
    plx_list_del(&c->link);
    plx_list_add_tail(&g->dead, &c->link);
    g->nconns--;
    c->closed = plx_reactor_now(g->reactor);
    drop_requests(c);
}

void tcp_conn_fatal(struct tcp_conn *c, const struct nvme_tcp_error *err, const uint8_t *hdr, size_t len)
{
    if (c->state >= TCP_TERM)
        return;
    if (hdr[0] == NVME_TCP_H2C_TERM) { /* is not answered in kind: TCP 3.5 */
        tcp_conn_close(c, "H2CTermReq PDU with a wrong header");
        return;
    }
    plx_warn("%s: %s, in a PDU of type %02xh, information %u: connection ends", c->qp.peer,
             nvme_tcp_fes_names[err->fes], hdr[0], err->fei);
    c->state = TCP_TERM; /* and still one of those that have not done Connect, if it was */
    c->frame.ended = true;
    c->ctrl_len = (uint16_t)nvme_tcp_make_term(NVME_TCP_C2H_TERM, err, hdr, len, c->ctrl);
    c->ctrl_off = 0;
    plx_stream_dirty(&c->stream);
}

/* ---- limits ---- */

/*
 * What the host has not sent in time: data that it was asked for, or the second half of a fused command. @return what
 * to say of it, or NULL
 */
static const char *overdue(const struct tcp_conn *c, uint64_t now, uint64_t limit)
{
    bool any = c->r2ts || c->held[TCP_WAIT_R2T] || c->held[TCP_HALVES];
    for (unsigned b = 0; any && b < NVMF_PENDING_BUCKETS; b++)
        for (struct nvmf_req *core = c->qp.pending[b]; core; core = core->chain) {
            if (tcp_req_of(core)->state == TCP_REQ_R2T && now - tcp_req_of(core)->since > limit)
                return "left an R2T unanswered";
            bool ours = core->mate && core->mate->state == NVMF_REQ_PAUSED;
            if (core->state == NVMF_REQ_HELD && !ours && now - tcp_req_of(core)->since > limit)
                return "left a fused command half done";
        }
    for (const struct tcp_req *req = c->abandoned.head; req; req = req->next)
        if (now - req->since > limit)
            return "left an R2T unanswered";
    return NULL;
}

void tcp_conn_check_limits(struct tcp_conn *c, uint64_t now)
{
    const struct plx_nvmf_opts *opts = &c->qp.group->target->opts;
    bool contended = c->group->refused; /* somebody found no buffer since the last look */
    uint64_t limit = opts->peer_timeout_ms;
    uint64_t connect = plx_min_u64(TCP_CONNECT_MS, limit) * PLX_NS_PER_MS;
    limit = (contended ? plx_min_u64(limit, TCP_CONTENDED_MS) : limit) * PLX_NS_PER_MS;

    if (c->qp.active && c->qp.ctrlr && c->qp.state == NVMF_QP_READY) {
        atomic_store_explicit(&c->qp.ctrlr->last_seen, now, memory_order_relaxed);
        c->qp.active = false;
    }
    if (c->state == TCP_TERM) {
        if (c->tx_since && now - c->tx_since > limit)
            tcp_conn_close(c, NULL);
        return;
    }
    bool within = c->pdu_since && !c->stream.stalled; /* which stalls at headers only, where it holds nothing */
    const char *why = c->fresh && now - c->born > connect        ? "no Connect command in time"
                      : within && now - c->pdu_since > limit     ? "stopped in the middle of a PDU"
                      : c->tx_since && now - c->tx_since > limit ? "does not read its responses"
                                                                 : overdue(c, now, limit);
    if (why)
        tcp_conn_close(c, why);
}
