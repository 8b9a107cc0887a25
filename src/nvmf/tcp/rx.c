/* SPDX-License-Identifier: BSD-3-Clause */
/* PDUs in: received in bulk, checked, parsed in place, turned into commands. */
#include "nvmf/tcp/tcp.h"

#include "base/crc32c.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

static void fatal(struct tcp_conn *c, enum nvme_tcp_fes fes, uint32_t fei, const uint8_t *hdr, size_t len)
{
    const struct nvme_tcp_error err = {fes, fei};
    tcp_conn_fatal(c, &err, hdr, len);
}

static uint32_t read32(const uint8_t *p)
{
    plx_le32 v;
    memcpy(&v, p, sizeof v);
    return plx_get32(v);
}

static bool digest_ok(const void *data, size_t len, const uint8_t *digest)
{
    return plx_crc32c(data, len) == read32(digest);
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
    if (req->core.lent && (!c->rules.data_digest || req->core.len <= TCP_SPARE_BYTES)) {
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

static struct tcp_req *find_abandoned(const struct tcp_conn *c, uint16_t cid)
{
    struct tcp_req *req = c->abandoned.head;
    while (req && plx_get16(req->core.cmd.cid) != cid)
        req = req->next;
    return req;
}

/* ---- data that comes in pieces ---- */

static void expect_header(struct tcp_conn *c)
{
    c->rx_state = TCP_RX_HEADER;
    c->rx_req = NULL;
    c->hdr_have = c->hdr_need = 0;
    c->pdu_since = 0;
}

static void discard(struct tcp_conn *c, struct tcp_req *req, uint32_t bytes, uint16_t status)
{
    c->rx_state = TCP_RX_DISCARD;
    c->rx_req = req;
    c->rx_left = bytes;
    c->rx_status = status;
}

static void receive_into(struct tcp_conn *c, struct tcp_req *req, uint8_t *dst, const struct nvme_tcp_layout *l)
{
    c->rx_state = TCP_RX_DATA;
    c->rx_req = req;
    c->rx_dst = dst;
    c->rx_left = c->rx_len = l->data;
    c->rx_digest = (uint8_t)l->digest;
    c->digest_have = 0;
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

/* The host has used the identifier of an aborted command again: no more data will come for that one. */
static void forget_reused(struct tcp_conn *c, uint16_t cid)
{
    struct tcp_req *req = find_abandoned(c, cid);
    if (req)
        tcp_forget(c, req);
}

/* An aborted command has been sent all the data that it had asked for: now it can be forgotten. */
static void abandoned_data_here(struct tcp_conn *c, struct tcp_req *req, uint32_t len)
{
    req->received += len;
    if (req->received == req->core.len)
        tcp_forget(c, req);
}

/* All of a PDU's data has come into place. */
static void data_complete(struct tcp_conn *c)
{
    struct tcp_req *req = c->rx_req;
    bool ok = !c->rx_digest || digest_ok(c->rx_dst - c->rx_len, c->rx_len, c->digest);
    expect_header(c);
    if (!ok)
        req->data_error = true;
    if (req->state == TCP_REQ_R2T) {
        req->received += c->rx_len;
        r2t_data_here(c, req);
        return;
    }
    nvmf_pending_del(&req->core);
    if (req->core.capsule_off)
        memmove(req->core.data, req->core.data + req->core.capsule_off, req->core.len);
    start_command(c, req);
}

static void discard_complete(struct tcp_conn *c)
{
    struct tcp_req *req = c->rx_req;
    uint32_t len = c->rx_len;
    expect_header(c);
    if (!req)
        return;
    if (req->state == TCP_REQ_ABANDONED)
        abandoned_data_here(c, req, len);
    else if (c->rx_status)
        nvmf_req_complete(&req->core, c->rx_status);
    else
        start_command(c, req);
}

/*
 * ---- PDUs whose header is whole; `rest` is what has been received behind it. They return how much of it they took.
 * ----
 */

/*
 * Of a target that stops: the command is not begun any more, and not answered. Its host does it again elsewhere, or
 * later.
 */
static size_t leave_out(struct tcp_conn *c, const struct nvme_tcp_layout *l, size_t n)
{
    uint32_t whole = l->data + l->digest;
    if (n >= whole)
        return whole;
    discard(c, NULL, whole, PLX_SC_SUCCESS);
    return 0;
}

static size_t capsule_cmd(struct tcp_conn *c, const uint8_t *hdr, const struct nvme_tcp_layout *l, const uint8_t *rest,
                          size_t n)
{
    struct nvmf_qpair *qp = &c->qp;
    if (plx_unlikely(c->group->stopping))
        return leave_out(c, l, n);
    struct tcp_req *req = qp->in_flight < 2u * qp->entries ? tcp_req_get(c) : NULL;
    if (plx_unlikely(!req || c->outstanding >= qp->entries)) {
        if (req)
            tcp_req_put(req);
        fatal(c, NVME_TCP_FES_SEQUENCE, 0, hdr, NVME_TCP_CMD_LEN); /* more commands than the queue has entries */
        return 0;
    }
    c->outstanding++;
    memcpy(&req->core.cmd, hdr + sizeof(struct nvme_tcp_hdr), sizeof req->core.cmd);
    if (plx_unlikely(c->abandoned.head))
        forget_reused(c, plx_get16(req->core.cmd.cid));
    c->last_nsid = plx_get32(req->core.cmd.nsid);
    uint16_t status = nvmf_req_parse(&req->core, l->data);
    if (!l->data) {
        if (plx_unlikely(status))
            nvmf_req_complete(&req->core, status);
        else
            start_command(c, req);
        return 0;
    }
    uint32_t whole = l->data + l->digest;
    if (plx_likely(n >= whole)) {
        if (plx_unlikely(status))
            nvmf_req_complete(&req->core, status);
        else
            capsule_data_here(c, req, rest, !l->digest || digest_ok(rest, l->data, rest + l->data));
        return whole;
    }
    req->state = TCP_REQ_DATA_IN;
    if (status || !req->core.in_capsule || req->core.dir != NVMF_FROM_HOST) {
        discard(c, req, whole, status);
    } else if (!tcp_buf_take(req, l->data)) {
        discard(c, req, whole, PLX_SC_COMMAND_INTERRUPTED);
    } else {
        receive_into(c, req, req->core.data, l);
    }
    /* A refused command may carry the identifier of another one: only good ones go into the table. */
    if (c->rx_state == TCP_RX_DATA)
        nvmf_pending_add(&req->core);
    return 0;
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
    fatal(c, fes, (uint32_t)where, hdr, sizeof d);
    return NULL;
}

static size_t h2c_data(struct tcp_conn *c, const uint8_t *hdr, const struct nvme_tcp_layout *l, const uint8_t *rest,
                       size_t n)
{
    struct tcp_req *req = match_r2t(c, hdr, l);
    uint32_t whole = l->data + l->digest;
    if (!req)
        return 0;
    if (req->state == TCP_REQ_ABANDONED) {
        c->rx_len = l->data;
        discard(c, req, whole, PLX_SC_SUCCESS);
        return 0;
    }
    if (n < whole) {
        receive_into(c, req, req->core.data + req->received, l);
        return 0;
    }
    memcpy(req->core.data + req->received, rest, l->data);
    if (l->digest && !digest_ok(rest, l->data, rest + l->data))
        req->data_error = true;
    req->received += l->data;
    r2t_data_here(c, req);
    return whole;
}

static void icreq(struct tcp_conn *c, const uint8_t *hdr)
{
    struct nvme_tcp_ic ic;
    struct nvme_tcp_error err;
    memcpy(&ic, hdr, sizeof ic);
    if (nvme_tcp_check_ic(&ic, &c->rules, &err)) {
        tcp_conn_fatal(c, &err, hdr, sizeof ic);
        return;
    }
    c->rules.header_digest = ic.dgst & NVME_TCP_DGST_HEADER;
    c->rules.data_digest = ic.dgst & NVME_TCP_DGST_DATA;
    c->rules.initialized = true;
    unsigned header = sizeof(struct nvme_tcp_data) + (c->rules.header_digest ? NVME_TCP_DIGEST : 0);
    unsigned align = 4 * (ic.pda + 1u);
    c->pad = (uint8_t)((align - header % align) % align);
    c->state = TCP_OPEN;
    tcp_tx_icresp(c);
}

static void h2c_term(struct tcp_conn *c, const uint8_t *hdr)
{
    struct nvme_tcp_term t;
    memcpy(&t, hdr, sizeof t);
    plx_warn("%s: the host ends the connection: H2CTermReq, fatal error status %u, information %u", c->qp.peer,
             plx_get16(t.fes), plx_get16(t.fei_low) | (unsigned)plx_get16(t.fei_high) << 16);
    tcp_conn_close(c, NULL);
}

static size_t pdu(struct tcp_conn *c, const uint8_t *hdr, const struct nvme_tcp_layout *l, const uint8_t *rest,
                  size_t n)
{
    uint8_t type = hdr[offsetof(struct nvme_tcp_hdr, type)], hlen = hdr[offsetof(struct nvme_tcp_hdr, hlen)];
    if (plx_unlikely(c->rules.header_digest && type >= NVME_TCP_CMD) && !digest_ok(hdr, hlen, hdr + hlen)) {
        fatal(c, NVME_TCP_FES_HEADER_DIGEST, read32(hdr + hlen), hdr, hlen);
        return 0;
    }
    switch (type) {
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

/* ---- the stream ---- */

/* Checks a header of which at least the common part is at p. @return false after a fatal error */
static bool check(struct tcp_conn *c, const uint8_t *p, size_t n, struct nvme_tcp_layout *l)
{
    struct nvme_tcp_hdr h;
    struct nvme_tcp_error err;
    memcpy(&h, p, sizeof h);
    if (plx_unlikely(nvme_tcp_check(&h, &c->rules, &err))) {
        tcp_conn_fatal(c, &err, p, plx_min_u64(n, sizeof(struct nvme_tcp_ic)));
        return false;
    }
    *l = nvme_tcp_layout(&h);
    return true;
}

/* A header, whole in the receive buffer or put together in c->hdr. @return how much of p was taken */
static size_t take_header(struct tcp_conn *c, const uint8_t *p, size_t n)
{
    struct nvme_tcp_layout l;
    if (plx_likely(c->hdr_have == 0 && n >= sizeof(struct nvme_tcp_hdr))) {
        if (!check(c, p, n, &l))
            return n;
        c->pdu_since = 0;
        if (plx_likely(n >= l.header))
            return l.header + pdu(c, p, &l, p + l.header, n - l.header);
        c->hdr_need = (uint16_t)l.header;
        memcpy(c->hdr, p, n);
        c->hdr_have = (uint16_t)n;
        return n;
    }
    if (!c->hdr_need)
        c->hdr_need = sizeof(struct nvme_tcp_hdr);
    size_t k = plx_min_u64(n, c->hdr_need - c->hdr_have);
    memcpy(c->hdr + c->hdr_have, p, k);
    c->hdr_have += (uint16_t)k;
    if (c->hdr_have < c->hdr_need)
        return k;
    if (!check(c, c->hdr, c->hdr_have, &l))
        return n;
    if (c->hdr_have < l.header) {
        c->hdr_need = (uint16_t)l.header;
        return k;
    }
    c->hdr_have = c->hdr_need = 0;
    c->pdu_since = 0;
    return k + pdu(c, c->hdr, &l, p + k, n - k);
}

static size_t take_data(struct tcp_conn *c, const uint8_t *p, size_t n)
{
    size_t k = plx_min_u64(n, c->rx_left);
    memcpy(c->rx_dst, p, k);
    c->rx_dst += k;
    c->rx_left -= (uint32_t)k;
    return k;
}

static void data_or_digest_next(struct tcp_conn *c)
{
    if (c->rx_digest)
        c->rx_state = TCP_RX_DIGEST;
    else
        data_complete(c);
}

static void consume(struct tcp_conn *c, const uint8_t *p, size_t n)
{
    while (n && c->state < TCP_TERM) {
        size_t k = 0;
        switch ((enum tcp_rx_state)c->rx_state) {
        case TCP_RX_HEADER:
            k = take_header(c, p, n);
            break;
        case TCP_RX_DATA:
            k = take_data(c, p, n);
            if (!c->rx_left)
                data_or_digest_next(c);
            break;
        case TCP_RX_DIGEST:
            k = plx_min_u64(n, NVME_TCP_DIGEST - c->digest_have);
            memcpy(c->digest + c->digest_have, p, k);
            c->digest_have += (uint8_t)k;
            if (c->digest_have == NVME_TCP_DIGEST)
                data_complete(c);
            break;
        case TCP_RX_DISCARD:
            k = plx_min_u64(n, c->rx_left);
            c->rx_left -= (uint32_t)k;
            if (!c->rx_left)
                discard_complete(c);
            break;
        }
        p += k;
        n -= k;
    }
}

/* Large data goes straight into its buffer, and only what follows it into the shared one. */
static ssize_t receive(struct tcp_conn *c, size_t limit, size_t *direct)
{
    struct tcp_group *g = c->group;
    *direct = 0;
    if (plx_likely(c->rx_state != TCP_RX_DATA || (c->rx_left < TCP_RX_DIRECT && limit)))
        return recv(c->fd, g->rx, limit, MSG_DONTWAIT);
    struct iovec iov[2] = {{c->rx_dst, c->rx_left}, {g->rx, limit}};
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = limit ? 2 : 1};
    ssize_t n = recvmsg(c->fd, &msg, MSG_DONTWAIT);
    if (n > 0)
        *direct = plx_min_u64((uint64_t)n, c->rx_left);
    return n;
}

int tcp_rx(struct tcp_conn *c)
{
    size_t direct, limit = tcp_buf_rx_limit(c);
    if (plx_unlikely(!limit)) {
        /* Memory is short: take in what gives it back, the data that was asked for and its headers. */
        if (c->r2ts)
            limit = TCP_RX_ANSWER;
        else if (c->rx_state != TCP_RX_DATA)
            return 0;
    }
    ssize_t n = receive(c, limit, &direct);
    if (n <= 0) {
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return 0;
        tcp_conn_close(c, n < 0 && errno != ECONNRESET ? strerror(errno) : NULL);
        return 1;
    }
    if (direct) {
        c->rx_dst += direct;
        c->rx_left -= (uint32_t)direct;
        if (!c->rx_left)
            data_or_digest_next(c);
    }
    consume(c, c->group->rx, (size_t)n - direct);
    bool between = c->rx_state == TCP_RX_HEADER && !c->hdr_have;
    if (between)
        c->pdu_since = 0;
    else if (!c->pdu_since)
        c->pdu_since = plx_reactor_now(c->group->reactor);
    return 1;
}
