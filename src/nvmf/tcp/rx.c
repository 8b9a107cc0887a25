/* SPDX-License-Identifier: BSD-3-Clause */
/* PDUs in, turned into commands. */
#include "nvmf/tcp/tcp.h"

#include <string.h>

static struct tcp_conn *conn_of(struct nvme_tcp_frame *f)
{
    return plx_container_of(f, struct tcp_conn, frame);
}

static void rx_fatal(struct tcp_conn *c, enum nvme_tcp_fes fes, uint32_t fei, const uint8_t *hdr, size_t len)
{
    const struct nvme_tcp_error err = {fes, fei};
    tcp_conn_fatal(c, &err, hdr, len);
}

/* ---- commands whose data, if any came in the capsule, is here ---- */

/* Sends a command on its way. Its in-capsule data, if it has any, is in req->core.data. */
static void start_command(struct tcp_conn *c, struct tcp_req *req)
{
    if (req->core.dir == NVMF_NONE || (req->core.dir == NVMF_FROM_HOST && req->core.in_capsule)) {
        if (plx_unlikely(req->data_error))
            nvmf_req_complete(&req->core, PLX_SC_TRANSIENT_TRANSPORT_ERROR);
        else
            nvmf_req_execute(&req->core);
        if (plx_unlikely(req->core.state == NVMF_REQ_HELD) && !tcp_buf_hold(req))
            nvmf_req_complete(&req->core, PLX_SC_COMMAND_INTERRUPTED);
        return;
    }
    if (req->core.lent && (!c->frame.rules.data_digest || req->core.len <= TCP_SPARE_BYTES)) {
        nvmf_req_complete(&req->core, PLX_SC_SUCCESS); /* mapped when it is sent */
        return;
    }
    tcp_buf_acquire(req);
}

/* In-capsule data that is whole in the receive buffer. */
static void capsule_data_here(struct tcp_conn *c, struct tcp_req *req, const uint8_t *data, bool ok)
{
    req->data_error = !ok;
    if (!req->core.in_capsule || req->core.dir != NVMF_FROM_HOST || !ok) {
        start_command(c, req);
        return;
    }
    data += req->core.capsule_off;
    if (req->core.in_place) {
        req->core.data = (uint8_t *)(uintptr_t)data; /* only read from, and only before execute returns */
        nvmf_req_execute(&req->core);
        return;
    }
    if (!tcp_buf_take(req, req->core.len)) {
        nvmf_req_complete(&req->core, PLX_SC_COMMAND_INTERRUPTED);
        return;
    }
    memcpy(req->core.data, data, req->core.len);
    start_command(c, req);
}

/* ---- data that comes in pieces ---- */

static struct tcp_req *find_abandoned(const struct tcp_conn *c, uint16_t cid)
{
    struct tcp_req *req = c->abandoned.head;
    while (req && plx_get16(req->core.cmd.cid) != cid)
        req = req->next;
    return req;
}

/* The host has used the identifier of an aborted command again: no more data will come for that one. */
static void forget_reused(struct tcp_conn *c, uint16_t cid)
{
    struct tcp_req *req = find_abandoned(c, cid);
    if (req)
        tcp_forget(c, req);
}

static void r2t_data_here(struct tcp_conn *c, struct tcp_req *req)
{
    if (req->received < req->core.len)
        return;
    c->r2ts--;
    req->state = TCP_REQ_NEW;
    if (plx_unlikely(req->data_error))
        nvmf_req_complete(&req->core, PLX_SC_TRANSIENT_TRANSPORT_ERROR);
    else
        nvmf_req_execute(&req->core);
}

/* All of a PDU's data that was wanted has come into place. */
static void wanted_data_here(struct tcp_conn *c, struct tcp_req *req)
{
    if (req->state == TCP_REQ_R2T) {
        req->received += c->frame.len;
        r2t_data_here(c, req);
        return;
    }
    nvmf_pending_del(&req->core);
    if (req->core.capsule_off)
        memmove(req->core.data, req->core.data + req->core.capsule_off, req->core.len);
    start_command(c, req);
}

/* Data has been thrown away: of a command that is refused, or takes none; or of one that was aborted. */
static void unwanted_data_here(struct tcp_conn *c, struct tcp_req *req)
{
    if (req->state != TCP_REQ_ABANDONED) {
        if (c->rx_status)
            nvmf_req_complete(&req->core, c->rx_status);
        else
            start_command(c, req);
        return;
    }
    req->received += c->frame.len;
    if (req->received == req->core.len)
        tcp_forget(c, req);
}

static void data_here(struct nvme_tcp_frame *f, bool ok)
{
    struct tcp_conn *c = conn_of(f);
    struct tcp_req *req = c->rx_req;
    c->rx_req = NULL;
    if (!req)
        return; /* of a target that stops */
    if (!ok)
        req->data_error = true;
    if (f->discard)
        unwanted_data_here(c, req);
    else
        wanted_data_here(c, req);
}

static const struct nvme_tcp_frame_ops frame_ops;

static size_t receive_into(struct tcp_conn *c, struct tcp_req *req, uint8_t *dst, const struct nvme_tcp_layout *l,
                           const uint8_t *rest, size_t n)
{
    c->rx_req = req;
    c->rx_iov = (struct iovec){dst, l->data};
    const struct plx_iov_at to = {&c->rx_iov, 0};
    return nvme_tcp_frame_data(&c->frame, &frame_ops, l, &to, rest, n);
}

static size_t discard(struct tcp_conn *c, struct tcp_req *req, uint16_t status, const struct nvme_tcp_layout *l,
                      const uint8_t *rest, size_t n)
{
    c->rx_req = req;
    c->rx_status = status;
    return nvme_tcp_frame_data(&c->frame, &frame_ops, l, NULL, rest, n);
}

/* ---- PDUs; these return how much of what follows their header they took ---- */

/* A capsule that is not whole in the receive buffer. */
static size_t capsule_data_comes(struct tcp_conn *c, struct tcp_req *req, uint16_t status,
                                 const struct nvme_tcp_layout *l, const uint8_t *rest, size_t n)
{
    req->state = TCP_REQ_DATA_IN;
    if (status || !req->core.in_capsule || req->core.dir != NVMF_FROM_HOST)
        return discard(c, req, status, l, rest, n);
    if (!tcp_buf_take(req, l->data))
        return discard(c, req, PLX_SC_COMMAND_INTERRUPTED, l, rest, n);
    /* A refused command may carry the identifier of another one: only good ones go into the table. */
    nvmf_pending_add(&req->core);
    return receive_into(c, req, req->core.data, l, rest, n);
}

static size_t capsule_cmd(struct tcp_conn *c, const uint8_t *hdr, const struct nvme_tcp_layout *l, const uint8_t *rest,
                          size_t n)
{
    struct nvmf_qpair *qp = &c->qp;
    /* A target that stops begins no more commands, and does not answer them: their host does them again elsewhere. */
    if (plx_unlikely(c->group->stopping))
        return l->data ? discard(c, NULL, PLX_SC_SUCCESS, l, rest, n) : 0;
    struct tcp_req *req = qp->in_flight < 2u * qp->entries ? tcp_req_get(c) : NULL;
    if (plx_unlikely(!req || c->outstanding >= qp->entries)) {
        if (req)
            tcp_req_put(req);
        rx_fatal(c, NVME_TCP_FES_SEQUENCE, 0, hdr, NVME_TCP_CMD_LEN); /* more commands than the queue has entries */
        return 0;
    }
    c->outstanding++;
    memcpy(&req->core.cmd, hdr + sizeof(struct nvme_tcp_hdr), sizeof req->core.cmd);
    if (plx_unlikely(c->abandoned.head))
        forget_reused(c, plx_get16(req->core.cmd.cid));
    uint16_t status = nvmf_req_parse(&req->core, l->data);
    uint32_t whole = l->data + l->digest;
    if (plx_unlikely(n < whole))
        return capsule_data_comes(c, req, status, l, rest, n);
    if (plx_unlikely(status))
        nvmf_req_complete(&req->core, status);
    else if (l->data) {
        if (plx_likely(req->core.ns && n >= whole + NVME_TCP_CMD_LEN))
            nvmf_io_fetch(qp, rest + whole + sizeof(struct nvme_tcp_hdr));
        capsule_data_here(c, req, rest, !l->digest || nvme_tcp_digest_ok(rest, l->data, rest + l->data));
    } else
        start_command(c, req);
    return whole;
}

/* Checks H2CData against the R2T that it answers. @return the request, or NULL after a fatal error */
static struct tcp_req *match_r2t(struct tcp_conn *c, const uint8_t *hdr, const struct nvme_tcp_layout *l)
{
    struct nvme_tcp_data d;
    memcpy(&d, hdr, sizeof d);
    struct nvmf_req *pending = nvmf_pending_find(&c->qp, plx_get16(d.cccid));
    struct tcp_req *req = pending ? tcp_req_of(pending) : find_abandoned(c, plx_get16(d.cccid));
    enum nvme_tcp_fes fes = NVME_TCP_FES_INVALID_HEADER;
    size_t where;
    if (!req || req->state < TCP_REQ_R2T || req->tx)
        where = offsetof(struct nvme_tcp_data, cccid);
    else if (plx_get16(d.ttag) != plx_get16(d.cccid)) /* our transfer tag is the command identifier */
        where = offsetof(struct nvme_tcp_data, ttag);
    else if (plx_get32(d.datal) != l->data)
        where = offsetof(struct nvme_tcp_data, datal);
    else if (plx_get32(d.datao) != req->received)
        fes = NVME_TCP_FES_SEQUENCE, where = 0; /* data comes in order: TCP 3.3.2 */
    else if (l->data > req->core.len - req->received)
        fes = NVME_TCP_FES_OUT_OF_RANGE, where = offsetof(struct nvme_tcp_data, datal);
    else if (!(d.hdr.flags & NVME_TCP_LAST) != (l->data < req->core.len - req->received))
        where = offsetof(struct nvme_tcp_hdr, flags);
    else
        return req;
    rx_fatal(c, fes, (uint32_t)where, hdr, sizeof d);
    return NULL;
}

static size_t h2c_data(struct tcp_conn *c, const uint8_t *hdr, const struct nvme_tcp_layout *l, const uint8_t *rest,
                       size_t n)
{
    struct tcp_req *req = match_r2t(c, hdr, l);
    if (!req)
        return 0;
    if (req->state == TCP_REQ_ABANDONED)
        return discard(c, req, PLX_SC_SUCCESS, l, rest, n);
    return receive_into(c, req, req->core.data + req->received, l, rest, n);
}

static void icreq(struct tcp_conn *c, const uint8_t *hdr)
{
    struct nvme_tcp_rules *rules = &c->frame.rules;
    struct nvme_tcp_ic ic;
    struct nvme_tcp_error err;
    memcpy(&ic, hdr, sizeof ic);
    if (nvme_tcp_check_ic(&ic, rules, &err)) {
        tcp_conn_fatal(c, &err, hdr, sizeof ic);
        return;
    }
    rules->header_digest = ic.dgst & NVME_TCP_DGST_HEADER;
    rules->data_digest = ic.dgst & NVME_TCP_DGST_DATA;
    rules->initialized = true;
    c->qp.header_digest = rules->header_digest;
    c->qp.data_digest = rules->data_digest;
    nvme_tcp_frame_rules_changed(&c->frame);
    unsigned header = nvme_tcp_with_digest(rules, sizeof(struct nvme_tcp_data));
    unsigned align = 4 * (ic.pda + 1u);
    c->pad = (uint8_t)((align - header % align) % align);
    c->state = TCP_OPEN;
    tcp_tx_agreed(c);
    tcp_tx_icresp(c);
}

static void h2c_term(struct tcp_conn *c, const uint8_t *hdr)
{
    char text[96];
    plx_warn("%s: the host ends the connection: H2CTermReq, %s", c->qp.peer,
             nvme_tcp_term_text(hdr, text, sizeof text));
    tcp_conn_close(c, NULL);
}

static size_t pdu(struct nvme_tcp_frame *f, const uint8_t *hdr, const struct nvme_tcp_layout *l, const uint8_t *rest,
                  size_t n)
{
    struct tcp_conn *c = conn_of(f);
    switch (hdr[offsetof(struct nvme_tcp_hdr, type)]) {
    case NVME_TCP_CMD:
        return capsule_cmd(c, hdr, l, rest, n);
    case NVME_TCP_H2C_DATA:
        return h2c_data(c, hdr, l, rest, n);
    case NVME_TCP_ICREQ:
        icreq(c, hdr);
        return 0;
    default: /* nvme_tcp_check() lets nothing else pass */
        h2c_term(c, hdr);
        return 0;
    }
}

static void frame_fatal(struct nvme_tcp_frame *f, const struct nvme_tcp_error *err, const uint8_t *hdr, size_t len)
{
    tcp_conn_fatal(conn_of(f), err, hdr, plx_min_u64(len, NVME_TCP_IC_LEN));
}

static void frame_lost(struct nvme_tcp_frame *f, int ret)
{
    tcp_conn_close(conn_of(f), ret && ret != -ECONNRESET ? strerror(-ret) : NULL);
}

static const struct nvme_tcp_frame_ops frame_ops = {
    .pdu = pdu, .data = data_here, .fatal = frame_fatal, .lost = frame_lost};

/* What is to come of the present PDU and needs no memory: it would be we who keep that PDU unfinished. */
static size_t rest_of_pdu(const struct nvme_tcp_frame *f)
{
    switch ((enum nvme_tcp_frame_state)f->state) {
    case NVME_TCP_FRAME_DATA:
        return f->discard ? plx_min_u64(f->left, PLX_STREAM_RX_BYTES) : 0; /* other data goes to its place */
    case NVME_TCP_FRAME_DIGEST:
        return (size_t)(f->digest_len - f->digest_have);
    case NVME_TCP_FRAME_HEADER:
        break;
    }
    return 0;
}

/* A peer has no time to lose while it is we who take nothing. */
static void stall(struct tcp_conn *c, bool stalled)
{
    if (c->stream.stalled && !stalled && c->pdu_since)
        c->pdu_since = plx_reactor_now(c->group->reactor);
    plx_stream_stall(&c->stream, stalled);
}

static int receive(struct tcp_conn *c, size_t limit)
{
    uint32_t before = c->frame.pdus;
    if (!nvme_tcp_frame_receive(&c->frame, &frame_ops, &c->stream, limit))
        return 0;
    if (plx_likely(nvme_tcp_frame_between(&c->frame)))
        c->pdu_since = 0;
    else if (!c->pdu_since || c->frame.pdus != before)
        c->pdu_since = plx_reactor_now(c->group->reactor);
    return 1;
}

/* Memory is short: takes in what gives it back, the data that was asked for and its headers, and what needs none. */
static int receive_little(struct tcp_conn *c)
{
    struct plx_stream *s = &c->stream;
    const size_t limit = plx_max_u64(c->r2ts ? TCP_RX_ANSWER : 0, rest_of_pdu(&c->frame));
    const unsigned before = c->outstanding;
    stall(c, !limit && c->frame.state != NVME_TCP_FRAME_DATA);
    if (s->stalled && s->gone) {
        tcp_conn_close(c, NULL);
        return 1;
    }
    if (s->stalled)
        return 0;
    int work = receive(c, limit);
    /* What was received for its data was another command: there must be an end of that. */
    if (c->outstanding > before && c->group->core->reqs_in_use > 2 * NVMF_MAX_REQUESTS)
        tcp_conn_close(c,
                       "it sends commands instead of the data that it was asked for, and there are too many already");
    return work;
}

int tcp_rx(struct plx_stream *s)
{
    struct tcp_conn *c = tcp_stream_conn(s);
    size_t limit = tcp_buf_rx_limit(c);
    if (plx_unlikely(!limit))
        return receive_little(c);
    if (plx_unlikely(s->stalled))
        stall(c, false);
    return receive(c, limit);
}
