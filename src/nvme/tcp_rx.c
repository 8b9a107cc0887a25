/* SPDX-License-Identifier: BSD-3-Clause */
/* PDUs in: received in bulk, checked, parsed in place, data brought to where it belongs. */
#include "nvme/nvme.h"

#include "base/crc32c.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

static void fatal(struct nvme_qp *qp, enum nvme_tcp_fes fes, uint32_t fei, const uint8_t *hdr)
{
    const struct nvme_tcp_error err = {fes, fei};
    nvme_qp_fatal(qp, &err, hdr, hdr[offsetof(struct nvme_tcp_hdr, hlen)]);
}

static uint32_t read32(const uint8_t *p)
{
    plx_le32 v;
    memcpy(&v, p, sizeof v);
    return plx_get32(v);
}

/* ---- the ends of requests ---- */

void nvme_req_end(struct nvme_qp *qp, struct nvme_req *req)
{
    unsigned slot = req->cid & TCP_SLOT_MASK;
    qp->slots[slot].req = NULL;
    qp->free[qp->nfree++] = (uint16_t)slot;
    qp->in_flight--;
    req->phase = NVME_IDLE;
    req->qp = NULL;
    if (plx_unlikely(qp->backlog.head))
        nvme_group_dirty(qp);
    req->done(req);
}

static void answered(struct nvme_qp *qp, struct nvme_req *req, uint16_t status)
{
    qp->active = true;
    if (plx_unlikely(!status && req->moved < req->len))
        status = PLX_SC_DATA_TRANSFER_ERROR; /* it claims to have done what it cannot have done */
    if (plx_unlikely(req->bad_digest) && !status)
        status = PLX_SC_TRANSIENT_TRANSPORT_ERROR;
    req->status = status;
    if (plx_likely(!req->r2t_left && req->tx_end <= qp->tx_sent)) {
        nvme_req_end(qp, req);
        return;
    }
    /*
     * Its data is still being sent from the caller's memory; all that was asked for is sent, as the controller waits
     * for it.
     */
    req->phase = NVME_HELD;
    if (!req->r2t_left)
        nvme_queue_push(&qp->held, req);
    nvme_group_dirty(qp);
}

/* The command that a PDU is about, or NULL: it is unknown, has not been sent yet, or was answered already. */
static struct nvme_req *find(const struct nvme_qp *qp, uint16_t cid)
{
    unsigned slot = cid & TCP_SLOT_MASK;
    if (plx_unlikely(slot >= qp->nslots))
        return NULL;
    const struct nvme_slot *s = &qp->slots[slot];
    return plx_likely(s->cid == cid && s->req && s->req->phase == NVME_ISSUED) ? s->req : NULL;
}

/* ---- PDUs whose header is whole; they return how much of what follows it they took ---- */

static void resp(struct nvme_qp *qp, const uint8_t *hdr)
{
    struct nvme_tcp_resp pdu;
    memcpy(&pdu, hdr, sizeof pdu);
    struct nvme_req *req = find(qp, plx_get16(pdu.cqe.cid));
    if (plx_unlikely(!req)) {
        fatal(qp, NVME_TCP_FES_INVALID_HEADER, offsetof(struct nvme_tcp_resp, cqe.cid), hdr);
        return;
    }
    req->dw0 = plx_get32(pdu.cqe.dw0);
    req->dw1 = plx_get32(pdu.cqe.dw1);
    answered(qp, req, (uint16_t)(plx_get16(pdu.cqe.status) >> 1) & (NVME_STATUS_DNR | 0x7ff));
}

static void data_complete(struct nvme_qp *qp)
{
    struct nvme_req *req = qp->rx_req;
    qp->rx_state = NVME_RX_HEADER;
    qp->rx_req = NULL;
    if (qp->rx_digest && plx_unlikely(read32(qp->digest) != plx_crc32c_end(qp->rx_crc)))
        req->bad_digest = true;
    if (qp->rx_flags & NVME_TCP_SUCCESS) {
        req->dw0 = req->dw1 = 0;
        answered(qp, req, PLX_SC_SUCCESS);
    }
}

/* Checks C2HData against the command that it belongs to. @return that, or NULL after a fatal error */
static struct nvme_req *match_data(struct nvme_qp *qp, const uint8_t *hdr, uint32_t len)
{
    struct nvme_tcp_data d;
    memcpy(&d, hdr, sizeof d);
    struct nvme_req *req = find(qp, plx_get16(d.cccid));
    enum nvme_tcp_fes fes = NVME_TCP_FES_INVALID_HEADER;
    size_t where;
    if (plx_unlikely(!req || req->dir != NVME_TO_HOST))
        where = offsetof(struct nvme_tcp_data, cccid);
    else if (plx_unlikely(plx_get32(d.datal) != len))
        where = offsetof(struct nvme_tcp_data, datal);
    else if (plx_unlikely(plx_get32(d.datao) != req->moved)) /* data comes in order */
        fes = NVME_TCP_FES_OUT_OF_RANGE, where = offsetof(struct nvme_tcp_data, datao);
    else if (plx_unlikely(len > req->len - req->moved))
        fes = NVME_TCP_FES_OUT_OF_RANGE, where = offsetof(struct nvme_tcp_data, datal);
    else if (plx_unlikely((d.hdr.flags & (NVME_TCP_SUCCESS | NVME_TCP_LAST)) == NVME_TCP_SUCCESS))
        where = offsetof(struct nvme_tcp_hdr, flags);
    else
        return req;
    fatal(qp, fes, (uint32_t)where, hdr);
    return NULL;
}

static void take_data(struct nvme_qp *qp, const uint8_t *p, size_t n)
{
    struct nvme_req *req = qp->rx_req;
    if (qp->rx_digest)
        qp->rx_crc = plx_crc32c_add(qp->rx_crc, p, n);
    plx_iov_scatter(&req->at, p, n);
    req->moved += (uint32_t)n;
    qp->rx_left -= (uint32_t)n;
}

static size_t c2h_data(struct nvme_qp *qp, const uint8_t *hdr, const struct nvme_tcp_layout *l, const uint8_t *rest,
                       size_t n)
{
    struct nvme_req *req = match_data(qp, hdr, l->data);
    if (plx_unlikely(!req))
        return 0;
    qp->rx_req = req;
    qp->rx_flags = hdr[offsetof(struct nvme_tcp_hdr, flags)];
    qp->rx_left = l->data;
    qp->rx_digest = (uint8_t)l->digest;
    qp->rx_crc = (uint32_t)PLX_CRC32C_INIT;
    qp->digest_have = 0;
    size_t whole = l->data + l->digest;
    if (plx_likely(n >= whole)) {
        take_data(qp, rest, l->data);
        memcpy(qp->digest, rest + l->data, l->digest);
        data_complete(qp);
        return whole;
    }
    qp->rx_state = NVME_RX_DATA;
    return 0;
}

static void r2t(struct nvme_qp *qp, const uint8_t *hdr)
{
    struct nvme_tcp_r2t pdu;
    memcpy(&pdu, hdr, sizeof pdu);
    struct nvme_req *req = find(qp, plx_get16(pdu.cccid));
    uint32_t len = plx_get32(pdu.r2tl);
    if (!req || req->dir != NVME_FROM_HOST)
        fatal(qp, NVME_TCP_FES_INVALID_HEADER, offsetof(struct nvme_tcp_r2t, cccid), hdr);
    else if (req->r2t_left) /* we said that we take one at a time: MAXR2T */
        fatal(qp, NVME_TCP_FES_LIMIT_EXCEEDED, 0, hdr);
    else if (plx_get32(pdu.r2to) != req->moved)
        fatal(qp, NVME_TCP_FES_OUT_OF_RANGE, offsetof(struct nvme_tcp_r2t, r2to), hdr);
    else if (!len || len > req->len - req->moved)
        fatal(qp, NVME_TCP_FES_OUT_OF_RANGE, offsetof(struct nvme_tcp_r2t, r2tl), hdr);
    else {
        req->ttag = plx_get16(pdu.ttag);
        req->r2t_left = len;
        nvme_tx_r2t(qp, req);
    }
}

static void c2h_term(struct nvme_qp *qp, const uint8_t *hdr)
{
    struct nvme_tcp_term t;
    memcpy(&t, hdr, sizeof t);
    plx_warn("%s: the controller ends the connection: C2HTermReq, fatal error status %u, information %u", qp->peer,
             plx_get16(t.fes), plx_get16(t.fei_low) | (unsigned)plx_get16(t.fei_high) << 16);
    nvme_qp_fail(qp, NULL);
}

static size_t pdu(struct nvme_qp *qp, const uint8_t *hdr, const struct nvme_tcp_layout *l, const uint8_t *rest,
                  size_t n)
{
    uint8_t type = hdr[offsetof(struct nvme_tcp_hdr, type)], hlen = hdr[offsetof(struct nvme_tcp_hdr, hlen)];
    if (plx_unlikely(qp->rules.header_digest && type >= NVME_TCP_CMD) && plx_crc32c(hdr, hlen) != read32(hdr + hlen)) {
        fatal(qp, NVME_TCP_FES_HEADER_DIGEST, read32(hdr + hlen), hdr);
        return 0;
    }
    switch (type) {
    case NVME_TCP_C2H_DATA:
        return c2h_data(qp, hdr, l, rest, n);
    case NVME_TCP_RESP:
        resp(qp, hdr);
        return 0;
    case NVME_TCP_R2T:
        r2t(qp, hdr);
        return 0;
    case NVME_TCP_ICRESP:
        nvme_qp_icresp(qp, hdr);
        return 0;
    default: /* nvme_tcp_check() lets nothing else pass */
        c2h_term(qp, hdr);
        return 0;
    }
}

/* ---- the stream ---- */

/* Checks a header of which at least the common part is at p. @return its layout, or NULL after a fatal error */
static const struct nvme_tcp_layout *check(struct nvme_qp *qp, const uint8_t *p, size_t n)
{
    struct nvme_rx_memo *memo = &qp->memo[(p[0] >> 1) & 3];
    uint64_t raw;
    memcpy(&raw, p, sizeof raw);
    if (plx_likely(raw == memo->raw))
        return &memo->layout;
    struct nvme_tcp_hdr h;
    struct nvme_tcp_error err;
    memcpy(&h, p, sizeof h);
    if (nvme_tcp_check(&h, &qp->rules, &err)) {
        nvme_qp_fatal(qp, &err, p, plx_min_u64(n, NVME_TCP_TERM_MAX - NVME_TCP_TERM_LEN));
        return NULL;
    }
    memo->raw = raw;
    memo->layout = nvme_tcp_layout(&h);
    return &memo->layout;
}

/* A header of which only a part is there. @return how much of p was taken */
static size_t take_split_header(struct nvme_qp *qp, const uint8_t *p, size_t n)
{
    if (!qp->hdr_need)
        qp->hdr_need = sizeof(struct nvme_tcp_hdr);
    size_t k = plx_min_u64(n, (size_t)(qp->hdr_need - qp->hdr_have));
    memcpy(qp->hdr + qp->hdr_have, p, k);
    qp->hdr_have += (uint16_t)k;
    if (qp->hdr_have < qp->hdr_need)
        return k;
    const struct nvme_tcp_layout *found = check(qp, qp->hdr, qp->hdr_have);
    if (!found)
        return n;
    if (qp->hdr_have < found->header) {
        qp->hdr_need = (uint16_t)found->header;
        return k;
    }
    const struct nvme_tcp_layout l = *found;
    qp->hdr_have = qp->hdr_need = 0;
    return k + pdu(qp, qp->hdr, &l, p + k, n - k);
}

static size_t take_header(struct nvme_qp *qp, const uint8_t *p, size_t n)
{
    if (plx_unlikely(qp->hdr_have || n < sizeof(struct nvme_tcp_hdr)))
        return take_split_header(qp, p, n);
    const struct nvme_tcp_layout *found = check(qp, p, n);
    if (plx_unlikely(!found))
        return n;
    if (plx_unlikely(n < found->header))
        return take_split_header(qp, p, n);
    const struct nvme_tcp_layout l = *found; /* what a completion submits may be answered with another one */
    return l.header + pdu(qp, p, &l, p + l.header, n - l.header);
}

static void consume(struct nvme_qp *qp, const uint8_t *p, size_t n)
{
    while (n && qp->state >= NVME_QP_INIT) {
        size_t k = 0;
        switch ((enum nvme_rx_state)qp->rx_state) {
        case NVME_RX_HEADER:
            k = take_header(qp, p, n);
            break;
        case NVME_RX_DATA:
            k = plx_min_u64(n, qp->rx_left);
            take_data(qp, p, k);
            break;
        case NVME_RX_DIGEST:
            k = plx_min_u64(n, (size_t)(NVME_TCP_DIGEST - qp->digest_have));
            memcpy(qp->digest + qp->digest_have, p, k);
            qp->digest_have += (uint8_t)k;
            break;
        }
        p += k;
        n -= k;
        if (qp->rx_state == NVME_RX_DATA && !qp->rx_left)
            qp->rx_state = NVME_RX_DIGEST;
        if (qp->rx_state == NVME_RX_DIGEST && qp->digest_have >= qp->rx_digest)
            data_complete(qp);
    }
}

enum { DIRECT_PIECES = 15 };

/*
 * What there is of the present data goes straight to where it belongs, and only what follows it into the shared buffer.
 */
static ssize_t receive_direct(struct nvme_qp *qp, size_t *direct)
{
    struct nvme_req *req = qp->rx_req;
    struct iovec iov[DIRECT_PIECES + 1];
    struct plx_iov_at at = req->at;
    size_t left = qp->rx_left, n = 0;
    for (uint8_t *p; left && n < DIRECT_PIECES; n++) {
        size_t k = plx_iov_next(&at, left, &p);
        iov[n] = (struct iovec){p, k};
        left -= k;
    }
    if (!left)
        iov[n++] = (struct iovec){qp->group->rx, TCP_RX_BYTES};
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = n};
    ssize_t got = recvmsg(qp->fd, &msg, MSG_DONTWAIT);
    if (got <= 0)
        return got;
    *direct = plx_min_u64((uint64_t)got, qp->rx_left - left);
    for (size_t i = 0, k = *direct; qp->rx_digest && k; i++) {
        size_t part = plx_min_u64(k, iov[i].iov_len);
        qp->rx_crc = plx_crc32c_add(qp->rx_crc, iov[i].iov_base, part);
        k -= part;
    }
    plx_iov_skip(&req->at, *direct);
    req->moved += (uint32_t)*direct;
    qp->rx_left -= (uint32_t)*direct;
    return got;
}

int nvme_rx(struct nvme_qp *qp)
{
    size_t direct = 0;
    ssize_t n = qp->rx_state == NVME_RX_DATA && qp->rx_left >= TCP_RX_DIRECT
                    ? receive_direct(qp, &direct)
                    : recv(qp->fd, qp->group->rx, TCP_RX_BYTES, MSG_DONTWAIT);
    if (n <= 0) {
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return 0;
        nvme_qp_fail(qp, n < 0 && errno != ECONNRESET ? strerror(errno) : NULL);
        return 1;
    }
    if (direct && !qp->rx_left) {
        qp->rx_state = NVME_RX_DIGEST;
        if (!qp->rx_digest)
            data_complete(qp);
    }
    consume(qp, qp->group->rx, (size_t)n - direct);
    return 1;
}
