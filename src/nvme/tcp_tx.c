/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * PDUs out: commands are built where they will be sent from, and all that a round produced for a queue pair leaves in
 * one system call.
 */
#include "nvme/tcp_qpair.h"

/* ---- the stream: headers and digests one behind the other in tx_buf, data wherever it lies ---- */

uint8_t *nvme_tcp_put(struct nvme_tcp_qp *q, unsigned bytes)
{
    uint8_t *p = q->tx_buf + q->tx_len;
    struct iovec *last = q->tx_iov + q->tx_niov - 1;
    q->tx_len += bytes;
    q->tx_queued += bytes;
    if (q->tx_niov > q->tx_first && (uint8_t *)last->iov_base + last->iov_len == p)
        last->iov_len += bytes;
    else
        q->tx_iov[q->tx_niov++] = (struct iovec){p, bytes};
    return p;
}

/* Puts data and its digest. */
static void put_data(struct nvme_tcp_qp *q, struct nvme_tcp_slot *slot, uint32_t len)
{
    uint32_t crc = (uint32_t)PLX_CRC32C_INIT;
    slot->moved += len;
    q->tx_queued += len;
    while (len) {
        uint8_t *p;
        size_t n = plx_iov_next(&slot->at, len, &p);
        if (q->frame.rules.data_digest)
            crc = plx_crc32c_add(crc, p, n);
        q->tx_iov[q->tx_niov++] = (struct iovec){p, n};
        len -= (uint32_t)n;
    }
    if (q->frame.rules.data_digest)
        plx_poke32(nvme_tcp_put(q, NVME_TCP_DIGEST), plx_crc32c_end(crc));
    slot->tx_end = q->tx_queued;
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
static bool has_room(const struct nvme_tcp_qp *q, unsigned pdus, unsigned npieces)
{
    unsigned unit = q->cmd_pdo + NVME_TCP_DIGEST; /* H2CData has a shorter header */
    return q->tx_size - q->tx_len >= pdus * unit && q->tx_iovs - q->tx_niov >= (int)(2 * pdus + npieces);
}

/* ---- commands ---- */

/* Whether data goes in the capsule: few pieces must do, as a capsule is built whole. @return their number, or 0 */
static unsigned inline_pieces(const struct nvme_tcp_qp *q, const struct nvme_req *req)
{
    if (req->dir != NVME_FROM_HOST || req->len > q->qp.max_inline)
        return 0;
    unsigned n = pieces(req->data, req->len, NVME_TCP_TX_SPARE / 2);
    return n <= NVME_TCP_TX_SPARE / 2 ? n : 0;
}

static struct nvme_tcp_slot *take_slot(struct nvme_tcp_qp *q, struct nvme_req *req)
{
    struct nvme_tcp_slot *slot = &q->slots[q->free[q->qp.in_flight++]];
    slot->cid = (uint16_t)(slot->cid + NVME_TCP_SLOT_MASK + 1);
    slot->req = req;
    slot->at = req->data;
    slot->moved = slot->r2t_left = 0;
    slot->bad_digest = slot->answered = false;
    req->cmd.cid = plx_put16(slot->cid);
    nvme_req_begin(req, &q->qp);
    return slot;
}

/* The PDU up to its data. */
static void put_command(struct nvme_tcp_qp *q, const struct nvme_req *req, struct nvme_tcp_hdr hdr, unsigned len)
{
    uint8_t *p = nvme_tcp_put(q, len);
    struct nvme_tcp_cmd pdu = {.hdr = hdr};
    memcpy(&pdu.cmd, &req->cmd, offsetof(struct nvme_words, cdw10));
    pdu.cmd.flags |= NVME_PSDT_SGL;
    pdu.cmd.sgl.length = plx_put32(req->len);
    pdu.cmd.sgl.type = hdr.pdo ? NVME_SGL_DATA_BLOCK_OFFSET : NVME_SGL_TRANSPORT_DATA;
    memcpy(&pdu.cmd.cdw10, &req->cmd.cdw10, sizeof req->cmd - offsetof(struct nvme_words, cdw10));
    memcpy(p, &pdu, sizeof pdu);
    nvme_tcp_put_header_digest(&q->frame.rules, p, sizeof pdu);
}

static void issue(struct nvme_tcp_qp *q, struct nvme_req *req)
{
    struct nvme_tcp_slot *slot = take_slot(q, req);
    put_command(q, req, q->cmd_hdr, q->cmd_len);
    slot->tx_end = q->tx_queued;
}

static void issue_in_capsule(struct nvme_tcp_qp *q, struct nvme_req *req)
{
    const struct nvme_tcp_rules *rules = &q->frame.rules;
    struct nvme_tcp_slot *slot = take_slot(q, req);
    unsigned digest = rules->data_digest ? NVME_TCP_DIGEST : 0, padding = (unsigned)(q->cmd_pdo - q->cmd_len);
    const struct nvme_tcp_hdr hdr = nvme_tcp_header(rules, NVME_TCP_CMD, digest ? NVME_TCP_DDGSTF : 0, NVME_TCP_CMD_LEN,
                                                    q->cmd_pdo, q->cmd_pdo + req->len + digest);
    put_command(q, req, hdr, q->cmd_len);
    if (padding)
        memset(nvme_tcp_put(q, padding), 0, padding);
    put_data(q, slot, req->len);
}

static bool try_issue(struct nvme_tcp_qp *q, struct nvme_req *req)
{
    unsigned n = inline_pieces(q, req);
    if (plx_unlikely(q->qp.in_flight == q->qp.depth || !has_room(q, 1, n)))
        return false;
    if (n)
        issue_in_capsule(q, req);
    else
        issue(q, req);
    return true;
}

/* Both halves, or none: nothing may come between them (Base 3.4.2). */
static bool try_issue_fused(struct nvme_tcp_qp *q, struct nvme_req *first)
{
    unsigned n = inline_pieces(q, first) + inline_pieces(q, first->next);
    struct nvme_req *second = first->next;
    return q->qp.in_flight + 2 <= q->qp.depth && has_room(q, 2, n) && try_issue(q, first) && try_issue(q, second);
}

static void wait_in_backlog(struct nvme_qp *qp, struct nvme_req *req)
{
    req->waiting = true;
    nvme_queue_push(&qp->backlog, req);
}

void nvme_tcp_submit(struct nvme_qp *qp, struct nvme_req *req)
{
    struct nvme_tcp_qp *q = nvme_tcp_qp_of(qp);
    req->qp = qp;
    req->lost = false;
    if (plx_unlikely(qp->backlog.head || !try_issue(q, req)))
        wait_in_backlog(qp, req);
    plx_stream_dirty(&q->stream);
}

void nvme_tcp_submit_fused(struct nvme_qp *qp, struct nvme_req *first)
{
    struct nvme_tcp_qp *q = nvme_tcp_qp_of(qp);
    struct nvme_req *second = first->next;
    first->qp = second->qp = qp;
    first->lost = second->lost = false;
    if (qp->backlog.head || !try_issue_fused(q, first)) {
        wait_in_backlog(qp, first);
        wait_in_backlog(qp, second);
    }
    plx_stream_dirty(&q->stream);
}

static void issue_backlog(struct nvme_tcp_qp *q)
{
    struct nvme_queue *waiting = &q->qp.backlog;
    while (waiting->head) {
        struct nvme_req *req = waiting->head, *rest = req->fused ? req->next->next : req->next;
        if (!(req->fused ? try_issue_fused(q, req) : try_issue(q, req)))
            return;
        waiting->head = rest;
        if (!rest)
            waiting->tail = &waiting->head;
    }
}

/* ---- data that was asked for ---- */

/* One H2CData PDU. Without room for all the pieces that it is in, it is made shorter. */
static void put_h2c(struct nvme_tcp_qp *q, struct nvme_tcp_slot *slot)
{
    const struct nvme_tcp_rules *rules = &q->frame.rules;
    uint32_t len = (uint32_t)plx_min_u64(slot->r2t_left, q->max_h2c);
    unsigned max = (unsigned)(q->tx_iovs - q->tx_niov) - 2, n = 0;
    uint32_t fits = 0;
    struct plx_iov_at at = slot->at;
    for (uint8_t *p; fits < len && n < max; n++)
        fits += (uint32_t)plx_iov_next(&at, len - fits, &p);
    if (fits < len)
        len = fits & ~3u ? fits & ~3u : fits;
    slot->r2t_left -= len;
    unsigned digest = rules->data_digest ? NVME_TCP_DIGEST : 0;
    const uint8_t flags = (uint8_t)((digest ? NVME_TCP_DDGSTF : 0) | (slot->r2t_left ? 0 : NVME_TCP_LAST));
    struct nvme_tcp_data pdu = {
        .hdr = nvme_tcp_header(rules, NVME_TCP_H2C_DATA, flags, sizeof pdu, q->h2c_pdo, q->h2c_pdo + len + digest),
        .cccid = plx_put16(slot->cid),
        .ttag = plx_put16(slot->ttag),
        .datao = plx_put32(slot->moved),
        .datal = plx_put32(len),
    };
    uint8_t *p = nvme_tcp_put(q, q->h2c_pdo);
    memset(p + sizeof pdu, 0, q->h2c_pdo - sizeof pdu);
    memcpy(p, &pdu, sizeof pdu);
    nvme_tcp_put_header_digest(rules, p, sizeof pdu);
    put_data(q, slot, len);
}

static void answer_r2ts(struct nvme_tcp_qp *q)
{
    uint64_t from = q->tx_queued;
    while (q->h2c.head && q->tx_queued - from < NVME_TCP_TX_BYTES && has_room(q, 1, 1)) {
        struct nvme_tcp_slot *slot = q->h2c.head;
        put_h2c(q, slot);
        if (slot->r2t_left)
            continue;
        nvme_tcp_slots_pop(&q->h2c);
        if (plx_unlikely(slot->answered))
            nvme_tcp_slots_push(&q->held, slot);
    }
}

/* ---- sending ---- */

static void tx_advance(struct nvme_tcp_qp *q, size_t n)
{
    struct iovec *v = q->tx_iov + q->tx_first, *end = q->tx_iov + q->tx_niov;
    q->tx_sent += n;
    if (q->tx_sent == q->tx_queued) {
        q->tx_first = q->tx_niov = 0;
        q->tx_len = 0;
        return;
    }
    while (v < end && n >= v->iov_len)
        n -= v++->iov_len;
    v->iov_base = (uint8_t *)v->iov_base + n;
    v->iov_len -= n;
    q->tx_first = (uint16_t)(v - q->tx_iov);
}

/* Commands that were answered before their data had left. */
static void release_held(struct nvme_tcp_qp *q)
{
    struct nvme_tcp_slots held = q->held;
    nvme_tcp_slots_init(&q->held);
    while (held.head && q->stream.state == PLX_STREAM_OPEN) {
        struct nvme_tcp_slot *slot = nvme_tcp_slots_pop(&held);
        if (slot->tx_end > q->tx_sent)
            nvme_tcp_slots_push(&q->held, slot);
        else
            nvme_tcp_slot_end(q, slot);
    }
}

int nvme_tcp_out(struct plx_stream *s)
{
    struct nvme_tcp_qp *q = nvme_tcp_of_stream(s);
    int progress = 0;
    for (;;) {
        if (plx_unlikely(q->h2c.head))
            answer_r2ts(q);
        if (plx_unlikely(q->qp.backlog.head) && q->frame.rules.initialized)
            issue_backlog(q);
        if (q->tx_first == q->tx_niov)
            break;
        ssize_t n = plx_stream_send(s, q->tx_iov + q->tx_first, (unsigned)(q->tx_niov - q->tx_first));
        if (n < 0 && n != -EAGAIN) {
            nvme_tcp_fail(q, n == -EPIPE || n == -ECONNRESET ? NULL : strerror((int)-n));
            return 1;
        }
        if (n > 0) {
            progress = 1;
            tx_advance(q, (size_t)n);
        }
        if (q->tx_first != q->tx_niov) {
            s->blocked = true;
            break;
        }
    }
    if (plx_unlikely(q->held.head))
        release_held(q);
    s->quiet = nvme_tcp_is_quiet(q);
    return progress;
}
