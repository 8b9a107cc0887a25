/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * PDUs out: commands are built where they will be sent from, and all that a round produced for a queue pair leaves in
 * one system call.
 */
#include "nvme/nvme.h"

#include "base/crc32c.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

static void write32(uint8_t *p, uint32_t v)
{
    plx_le32 le = plx_put32(v);
    memcpy(p, &le, sizeof le);
}

/* ---- the stream: headers and digests one behind the other in tx_buf, data wherever it lies ---- */

uint8_t *nvme_tx_put(struct nvme_qp *qp, unsigned bytes)
{
    uint8_t *p = qp->tx_buf + qp->tx_len;
    struct iovec *last = qp->tx_iov + qp->tx_niov - 1;
    qp->tx_len += bytes;
    qp->tx_queued += bytes;
    if (qp->tx_niov > qp->tx_first && (uint8_t *)last->iov_base + last->iov_len == p)
        last->iov_len += bytes;
    else
        qp->tx_iov[qp->tx_niov++] = (struct iovec){p, bytes};
    return p;
}

/* Puts data and its digest. */
static void put_data(struct nvme_qp *qp, struct nvme_req *req, uint32_t len)
{
    uint32_t crc = (uint32_t)PLX_CRC32C_INIT;
    qp->tx_queued += len;
    while (len) {
        uint8_t *p;
        size_t n = plx_iov_next(&req->at, len, &p);
        if (qp->rules.data_digest)
            crc = plx_crc32c_add(crc, p, n);
        qp->tx_iov[qp->tx_niov++] = (struct iovec){p, n};
        len -= (uint32_t)n;
    }
    if (qp->rules.data_digest)
        write32(nvme_tx_put(qp, NVME_TCP_DIGEST), plx_crc32c_end(crc));
    req->tx_end = qp->tx_queued;
}

/* Pieces of memory that the next len bytes of data are in, at most max + 1. */
static unsigned pieces(struct plx_iov_at at, uint32_t len, unsigned max)
{
    unsigned n = 0;
    for (uint8_t *p; len && n <= max; n++)
        len -= (uint32_t)plx_iov_next(&at, len, &p);
    return n;
}

/* Room for that many PDUs with so many pieces of data in all. */
static bool room(const struct nvme_qp *qp, unsigned pdus, unsigned npieces)
{
    unsigned unit = qp->cmd_pdo + NVME_TCP_DIGEST; /* H2CData has a shorter header */
    return qp->tx_size - qp->tx_len >= pdus * unit && qp->tx_iovs - qp->tx_niov >= (int)(2 * pdus + npieces);
}

/* ---- commands ---- */

/* Whether data goes in the capsule: few pieces must do, as a capsule is built whole. @return their number, or 0 */
static unsigned inline_pieces(const struct nvme_qp *qp, const struct nvme_req *req)
{
    if (req->dir != NVME_FROM_HOST || req->len > qp->max_inline)
        return 0;
    unsigned n = pieces(req->data, req->len, TCP_TX_SPARE / 2);
    return n <= TCP_TX_SPARE / 2 ? n : 0;
}

static void issue(struct nvme_qp *qp, struct nvme_req *req, bool in_capsule)
{
    unsigned slot = qp->free[--qp->nfree];
    struct nvme_slot *s = &qp->slots[slot];
    s->cid = (uint16_t)(s->cid + TCP_SLOT_MASK + 1);
    s->req = req;
    qp->in_flight++;
    req->cid = s->cid;
    req->phase = NVME_ISSUED;
    req->bad_digest = req->aborting = false;
    req->epoch = qp->tick;
    req->moved = req->r2t_left = 0;
    req->at = req->data;

    unsigned digest = in_capsule && qp->rules.data_digest ? NVME_TCP_DIGEST : 0;
    uint32_t plen = in_capsule ? qp->cmd_pdo + req->len + digest : qp->cmd_len;
    struct nvme_tcp_cmd pdu = {
        .hdr = {.type = NVME_TCP_CMD,
                .flags = (uint8_t)((qp->rules.header_digest ? NVME_TCP_HDGSTF : 0) | (digest ? NVME_TCP_DDGSTF : 0)),
                .hlen = sizeof pdu,
                .pdo = in_capsule ? qp->cmd_pdo : 0,
                .plen = plx_put32(plen)},
        .cmd = req->cmd,
    };
    pdu.cmd.flags = (uint8_t)((req->cmd.flags & NVME_FUSE_MASK) | NVME_PSDT_SGL);
    pdu.cmd.cid = plx_put16(s->cid);
    pdu.cmd.sgl = (struct nvme_sgl){.length = plx_put32(req->len),
                                    .type = in_capsule ? NVME_SGL_DATA_BLOCK_OFFSET : NVME_SGL_TRANSPORT_DATA};
    uint8_t *p = nvme_tx_put(qp, in_capsule ? qp->cmd_pdo : qp->cmd_len);
    memcpy(p, &pdu, sizeof pdu);
    if (qp->rules.header_digest)
        write32(p + sizeof pdu, plx_crc32c(&pdu, sizeof pdu));
    if (in_capsule) {
        memset(p + qp->cmd_len, 0, (size_t)(qp->cmd_pdo - qp->cmd_len));
        put_data(qp, req, req->len);
        req->moved = req->len;
    }
    req->tx_end = qp->tx_queued;
}

static bool try_issue(struct nvme_qp *qp, struct nvme_req *req)
{
    unsigned n = inline_pieces(qp, req);
    if (plx_unlikely(!qp->nfree || !room(qp, 1, n)))
        return false;
    issue(qp, req, n > 0);
    return true;
}

/* Both halves, or none: nothing may come between them (Base 3.4.2). */
static bool try_issue_fused(struct nvme_qp *qp, struct nvme_req *first)
{
    struct nvme_req *second = first->next;
    unsigned n1 = inline_pieces(qp, first), n2 = inline_pieces(qp, second);
    if (qp->nfree < 2 || !room(qp, 2, n1 + n2))
        return false;
    issue(qp, first, n1 > 0);
    issue(qp, second, n2 > 0);
    return true;
}

void nvme_qp_submit(struct nvme_qp *qp, struct nvme_req *req)
{
    req->qp = qp;
    req->lost = false;
    if (plx_unlikely(qp->backlog.head || !try_issue(qp, req))) {
        req->phase = NVME_WAITING;
        nvme_queue_push(&qp->backlog, req);
    }
    if (!qp->dirty)
        nvme_group_dirty(qp);
}

void nvme_qp_submit_fused(struct nvme_qp *qp, struct nvme_req *first)
{
    struct nvme_req *second = first->next;
    first->qp = second->qp = qp;
    first->lost = second->lost = false;
    if (qp->backlog.head || !try_issue_fused(qp, first)) {
        first->phase = second->phase = NVME_WAITING;
        nvme_queue_push(&qp->backlog, first);
        nvme_queue_push(&qp->backlog, second);
    }
    nvme_group_dirty(qp);
}

static void issue_backlog(struct nvme_qp *qp)
{
    while (qp->backlog.head) {
        struct nvme_req *req = qp->backlog.head, *rest = req->fused ? req->next->next : req->next;
        if (!(req->fused ? try_issue_fused(qp, req) : try_issue(qp, req)))
            return;
        qp->backlog.head = rest;
        if (!rest)
            qp->backlog.tail = &qp->backlog.head;
    }
}

/* ---- data that was asked for ---- */

void nvme_tx_r2t(struct nvme_qp *qp, struct nvme_req *req)
{
    nvme_queue_push(&qp->h2c, req);
    nvme_group_dirty(qp);
}

/* One H2CData PDU. Without room for all the pieces that it is in, it is made shorter. */
static void put_h2c(struct nvme_qp *qp, struct nvme_req *req)
{
    uint32_t len = (uint32_t)plx_min_u64(req->r2t_left, qp->max_h2c);
    unsigned max = (unsigned)(qp->tx_iovs - qp->tx_niov) - 2, n = 0;
    uint32_t fits = 0;
    struct plx_iov_at at = req->at;
    for (uint8_t *p; fits < len && n < max; n++)
        fits += (uint32_t)plx_iov_next(&at, len - fits, &p);
    if (fits < len)
        len = fits & ~3u ? fits & ~3u : fits;
    req->r2t_left -= len;
    unsigned digest = qp->rules.data_digest ? NVME_TCP_DIGEST : 0;
    struct nvme_tcp_data pdu = {
        .hdr = {.type = NVME_TCP_H2C_DATA,
                .flags = (uint8_t)((qp->rules.header_digest ? NVME_TCP_HDGSTF : 0) | (digest ? NVME_TCP_DDGSTF : 0) |
                                   (req->r2t_left ? 0 : NVME_TCP_LAST)),
                .hlen = sizeof pdu,
                .pdo = qp->h2c_pdo,
                .plen = plx_put32(qp->h2c_pdo + len + digest)},
        .cccid = plx_put16(req->cid),
        .ttag = plx_put16(req->ttag),
        .datao = plx_put32(req->moved),
        .datal = plx_put32(len),
    };
    uint8_t *p = nvme_tx_put(qp, qp->h2c_pdo);
    memset(p + sizeof pdu, 0, qp->h2c_pdo - sizeof pdu);
    memcpy(p, &pdu, sizeof pdu);
    if (qp->rules.header_digest)
        write32(p + sizeof pdu, plx_crc32c(&pdu, sizeof pdu));
    put_data(qp, req, len);
    req->moved += len;
}

static void answer_r2ts(struct nvme_qp *qp)
{
    uint64_t from = qp->tx_queued;
    while (qp->h2c.head && qp->tx_queued - from < TCP_TX_BYTES && room(qp, 1, 1)) {
        struct nvme_req *req = qp->h2c.head;
        put_h2c(qp, req);
        if (req->r2t_left)
            continue;
        nvme_queue_pop(&qp->h2c);
        if (plx_unlikely(req->phase == NVME_HELD))
            nvme_queue_push(&qp->held, req);
    }
}

/* ---- sending ---- */

static void advance(struct nvme_qp *qp, size_t n)
{
    struct iovec *v = qp->tx_iov + qp->tx_first, *end = qp->tx_iov + qp->tx_niov;
    qp->tx_sent += n;
    if (qp->tx_sent == qp->tx_queued) {
        qp->tx_first = qp->tx_niov = 0;
        qp->tx_len = 0;
        return;
    }
    while (v < end && n >= v->iov_len)
        n -= v++->iov_len;
    v->iov_base = (uint8_t *)v->iov_base + n;
    v->iov_len -= n;
    qp->tx_first = (uint16_t)(v - qp->tx_iov);
}

/* Requests that were answered before their data had left. */
static void release_held(struct nvme_qp *qp)
{
    struct nvme_queue held = qp->held;
    if (!held.head)
        return;
    nvme_queue_init(&qp->held);
    while (held.head && qp->state == NVME_QP_OPEN) {
        struct nvme_req *req = nvme_queue_pop(&held);
        if (req->tx_end > qp->tx_sent)
            nvme_queue_push(&qp->held, req);
        else
            nvme_req_end(qp, req);
    }
}

static ssize_t send_some(struct nvme_qp *qp)
{
    struct msghdr msg = {.msg_iov = qp->tx_iov + qp->tx_first, .msg_iovlen = (size_t)(qp->tx_niov - qp->tx_first)};
    if (msg.msg_iovlen == 1)
        return send(qp->fd, msg.msg_iov->iov_base, msg.msg_iov->iov_len, MSG_NOSIGNAL | MSG_DONTWAIT);
    return sendmsg(qp->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
}

int nvme_tx_flush(struct nvme_qp *qp)
{
    int progress = 0;
    qp->blocked = false;
    for (;;) {
        if (plx_unlikely(qp->h2c.head))
            answer_r2ts(qp);
        if (plx_unlikely(qp->backlog.head) && qp->state == NVME_QP_OPEN)
            issue_backlog(qp);
        if (qp->tx_first == qp->tx_niov)
            break;
        ssize_t n = send_some(qp);
        if (n < 0) {
            if (errno != EAGAIN && errno != EINTR) {
                nvme_qp_fail(qp, errno == EPIPE || errno == ECONNRESET ? NULL : strerror(errno));
                return 1;
            }
            qp->blocked = true;
            break;
        }
        progress = 1;
        advance(qp, (size_t)n);
        if (qp->tx_first != qp->tx_niov) {
            qp->blocked = true;
            break;
        }
    }
    if (plx_unlikely(qp->held.head))
        release_held(qp);
    return progress;
}
