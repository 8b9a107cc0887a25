/* SPDX-License-Identifier: BSD-3-Clause */
/* PDUs out: whatever is queued for a connection is gathered into as few sends as possible. */
#include "nvmf/tcp/tcp.h"

#include <string.h>

static const uint8_t padding[4 * (NVME_TCP_HPDA_MAX + 1)];

/* What the headers of a connection's answers have in common. */
void tcp_tx_agreed(struct tcp_conn *c)
{
    const struct nvme_tcp_rules *rules = &c->frame.rules;
    unsigned resp = nvme_tcp_with_digest(rules, sizeof(struct nvme_tcp_resp));
    unsigned pdo = nvme_tcp_with_digest(rules, sizeof(struct nvme_tcp_data)) + c->pad;
    uint8_t flags = NVME_TCP_LAST | (rules->data_digest ? NVME_TCP_DDGSTF : 0);
    c->resp = nvme_tcp_header(rules, NVME_TCP_RESP, 0, sizeof(struct nvme_tcp_resp), 0, resp);
    c->data = nvme_tcp_header(rules, NVME_TCP_C2H_DATA, flags, sizeof(struct nvme_tcp_data), pdo, 0);
    c->head_len = (uint8_t)resp; /* C2HData and R2T have headers as long */
    c->data_overhead = (uint16_t)(pdo + (rules->data_digest ? NVME_TCP_DIGEST : 0));
}

static void build_response(const struct tcp_conn *c, const struct tcp_req *req, uint8_t *at)
{
    const struct nvme_cqe *cqe = &req->core.cqe;
    /* Without SQ flow control the head is not used; FFFFh, in the response to Connect, agrees to that (Base 6.3). */
    const plx_le16 sqhd = plx_put16(c->qp.no_sq_flow ? 0xffff : c->qp.sqhd), sqid = plx_put16(c->qp.qid);
    /*
     * Field by field: a load that is wider than what has just been stored there waits for all stores before it, those
     * of a write to the disk's memory included, which is in no cache. That took a quarter of a target's core.
     */
    memcpy(at, &c->resp, sizeof c->resp);
    memcpy(at + offsetof(struct nvme_tcp_resp, cqe.dw0), &cqe->dw0, sizeof cqe->dw0);
    memcpy(at + offsetof(struct nvme_tcp_resp, cqe.dw1), &cqe->dw1, sizeof cqe->dw1);
    memcpy(at + offsetof(struct nvme_tcp_resp, cqe.sqhd), &sqhd, sizeof sqhd);
    memcpy(at + offsetof(struct nvme_tcp_resp, cqe.sqid), &sqid, sizeof sqid);
    memcpy(at + offsetof(struct nvme_tcp_resp, cqe.cid), &req->core.cmd.cid, sizeof cqe->cid);
    memcpy(at + offsetof(struct nvme_tcp_resp, cqe.status), &cqe->status, sizeof cqe->status);
    if (plx_unlikely(c->frame.rules.header_digest))
        nvme_tcp_put_header_digest(&c->frame.rules, at, sizeof(struct nvme_tcp_resp));
}

/* The whole data in one PDU; with the SUCCESS flag it is its own response where the host can do without the SQ head. */
static bool ends_with_success(const struct tcp_conn *c, const struct tcp_req *req)
{
    return c->qp.no_sq_flow && !(req->core.cqe.dw0.raw | req->core.cqe.dw1.raw);
}

static void build_data(const struct tcp_conn *c, struct tcp_req *req)
{
    unsigned digest = c->frame.rules.data_digest ? NVME_TCP_DIGEST : 0;
    bool success = ends_with_success(c, req);
    struct nvme_tcp_data pdu = {.hdr = c->data, .cccid = req->core.cmd.cid, .datal = plx_put32(req->core.len)};
    pdu.hdr.plen = plx_put32(c->data_overhead + req->core.len);
    if (success)
        pdu.hdr.flags |= NVME_TCP_SUCCESS;
    memcpy(req->head, &pdu, sizeof pdu);
    req->head_len = c->head_len;
    req->tail_len = (uint8_t)digest;
    if (plx_unlikely(c->frame.rules.header_digest))
        nvme_tcp_put_header_digest(&c->frame.rules, req->head, sizeof pdu);
    if (plx_unlikely(digest) && !req->core.lent)
        plx_poke32(req->tail, plx_crc32c(req->core.data, req->core.len));
    if (!success) {
        build_response(c, req, req->tail + digest);
        req->tail_len += c->head_len;
    }
}

static void enqueue(struct tcp_req *req, enum tcp_tx what)
{
    struct tcp_conn *c = tcp_req_conn(req);
    req->tx = (uint8_t)what;
    tcp_queue_push(&c->tx, req);
    plx_stream_dirty(&c->stream);
}

void tcp_tx_complete(struct nvmf_req *core)
{
    struct tcp_req *req = tcp_req_of(core);
    struct tcp_conn *c = tcp_req_conn(req);
    if (plx_unlikely(c->state >= TCP_TERM)) {
        tcp_req_put(req);
        return;
    }
    if (req->core.dir == NVMF_TO_HOST && !req->core.cqe.status.raw) {
        build_data(c, req);
        enqueue(req, TCP_TX_DATA);
        return;
    }
    build_response(c, req, req->head);
    req->head_len = c->head_len;
    req->tail_len = 0;
    enqueue(req, TCP_TX_RESP);
    if (plx_unlikely(c->fresh && c->qp.state == NVMF_QP_READY))
        tcp_conn_connected(c);
}

void tcp_tx_r2t(struct tcp_req *req)
{
    struct tcp_conn *c = tcp_req_conn(req);
    struct nvme_tcp_r2t pdu = {
        .hdr = nvme_tcp_header(&c->frame.rules, NVME_TCP_R2T, 0, sizeof pdu, 0,
                               nvme_tcp_with_digest(&c->frame.rules, sizeof pdu)),
        .cccid = req->core.cmd.cid,
        .ttag = req->core.cmd.cid,
        .r2tl = plx_put32(req->core.len),
    };
    memcpy(req->head, &pdu, sizeof pdu);
    nvme_tcp_put_header_digest(&c->frame.rules, req->head, sizeof pdu);
    req->head_len = c->head_len;
    req->tail_len = 0;
    req->state = TCP_REQ_R2T;
    req->since = plx_reactor_now(c->group->reactor);
    c->r2ts++;
    nvmf_pending_add(&req->core);
    enqueue(req, TCP_TX_R2T);
}

void tcp_tx_icresp(struct tcp_conn *c)
{
    const struct nvme_tcp_ic pdu = nvme_tcp_make_ic(NVME_TCP_ICRESP, &c->frame.rules, TCP_MAXH2CDATA);
    memcpy(c->ctrl, &pdu, sizeof pdu);
    c->ctrl_len = sizeof pdu;
    c->ctrl_off = 0;
    plx_stream_dirty(&c->stream);
}

/* ---- gathering and sending ---- */

static size_t unit_len(const struct tcp_conn *c, const struct tcp_req *req)
{
    return (size_t)req->head_len + (req->tx == TCP_TX_DATA ? c->pad + (size_t)req->core.len : 0) + req->tail_len;
}

/* Adds a piece but for its first *skip bytes. */
static struct iovec *add_piece(struct iovec *v, const void *base, size_t len, size_t *skip)
{
    if (*skip >= len) {
        *skip -= len;
        return v;
    }
    v->iov_base = (uint8_t *)(uintptr_t)base + *skip;
    v->iov_len = len - *skip;
    *skip = 0;
    return v + 1;
}

/* The disk's memory, but for what is kept because a part of it has left already: that is sent as it was then. */
static struct iovec *add_lent(struct tcp_req *req, const uint8_t *memory, struct iovec *v, size_t *skip)
{
    if (plx_likely(!req->buf_size))
        return add_piece(v, memory, req->core.len, skip);
    v = add_piece(v, memory, req->kept_from, skip);
    v = add_piece(v, req->core.data, req->kept_to - req->kept_from, skip);
    return add_piece(v, memory + req->kept_to, req->core.len - req->kept_to, skip);
}

/* The pieces of a PDU of which `skip` bytes have left. */
static struct iovec *add_rest(const struct tcp_conn *c, struct tcp_req *req, const uint8_t *memory, struct iovec *v,
                              size_t skip)
{
    v = add_piece(v, req->head, req->head_len, &skip);
    if (req->tx == TCP_TX_DATA) {
        v = add_piece(v, padding, c->pad, &skip);
        v = req->core.lent ? add_lent(req, memory, v, &skip) : add_piece(v, req->core.data, req->core.len, &skip);
    }
    return add_piece(v, req->tail, req->tail_len, &skip);
}

/* The same of one that is whole. */
static inline struct iovec *add_whole(const struct tcp_conn *c, struct tcp_req *req, const uint8_t *memory,
                                      struct iovec *v)
{
    *v++ = (struct iovec){req->head, req->head_len};
    if (plx_likely(req->tx == TCP_TX_DATA)) {
        if (plx_unlikely(c->pad))
            *v++ = (struct iovec){(uint8_t *)(uintptr_t)padding, c->pad};
        *v++ = (struct iovec){memory ? (uint8_t *)(uintptr_t)memory : req->core.data, req->core.len};
    }
    if (plx_unlikely(req->tail_len))
        *v++ = (struct iovec){req->tail, req->tail_len};
    return v;
}

/* A queued PDU has left. */
static void sent(struct tcp_conn *c, struct tcp_req *req)
{
    bool asked = req->tx == TCP_TX_R2T;
    req->tx = TCP_TX_NONE;
    if (plx_unlikely(asked)) {
        req->since = plx_reactor_now(c->group->reactor);
        if (plx_unlikely(req->core.abort_status == PLX_SC_ABORTED_BY_REQUEST && req->state == TCP_REQ_R2T))
            tcp_abort(&req->core); /* could not be aborted before */
        return;
    }
    c->outstanding--;
    tcp_req_put(req);
}

/*
 * Of the first queued PDU only a part has left. Lent memory may change after this round, and no block may be seen torn:
 * so the rest of the block that was begun is kept as it is now; and all the rest, where a digest covers it.
 */
static void keep_rest(struct tcp_conn *c)
{
    struct tcp_req *req = c->tx.head;
    size_t before = (size_t)req->head_len + c->pad;
    if (req->tx != TCP_TX_DATA || !req->core.lent || c->tx_off <= before || c->tx_off >= before + req->core.len)
        return;
    uint32_t block = 1u << req->core.ns->block_shift, done = (uint32_t)(c->tx_off - before);
    uint32_t from = done & ~(block - 1), to = c->frame.rules.data_digest ? req->core.len : from + block;
    const uint8_t *memory = nvmf_io_map(&req->core);
    if ((done == from && !c->frame.rules.data_digest) || !memory || (req->buf_size && done < req->kept_to))
        return; /* between two blocks, or still in what is kept already */
    if (!req->buf_size)
        tcp_buf_keep(req, to - from);
    memcpy(req->core.data, memory + from, to - from);
    req->kept_from = from;
    req->kept_to = to;
}

/* n bytes have left. @return whether a queued PDU has left whole */
static bool advance(struct tcp_conn *c, size_t n)
{
    bool whole = false;
    n += c->tx_off;
    while (c->tx.head) {
        size_t len = unit_len(c, c->tx.head);
        if (n < len)
            break;
        n -= len;
        sent(c, tcp_queue_pop(&c->tx));
        whole = true;
    }
    if (c->tx.head) {
        c->tx_off = (uint32_t)n;
        if (n)
            keep_rest(c);
    } else {
        c->tx_off = 0;
        c->ctrl_off += (uint16_t)n;
        if (c->ctrl_off == c->ctrl_len)
            c->ctrl_off = c->ctrl_len = 0;
    }
    return whole;
}

/*
 * The disk does not lend its memory any more, as it has come to be shared with another reactor (ram.c). What has not
 * begun to leave is answered: try again. @return false when some has left
 */
static bool taken_back(struct tcp_conn *c, struct tcp_req *req, size_t skip)
{
    if (skip)
        return false;
    req->core.lent = false;
    req->core.cqe.status = plx_put16(PLX_SC_COMMAND_INTERRUPTED << 1);
    build_response(c, req, req->head);
    req->head_len = c->head_len;
    req->tail_len = 0;
    req->tx = TCP_TX_RESP;
    return true;
}

/*
 * The digest of lent data. To fetch it from memory takes five times as long as to sum it, so while a piece is summed
 * the same piece of the next PDU's data is fetched.
 */
static uint32_t sum_lent(struct tcp_req *req, const uint8_t *data)
{
    struct tcp_req *after = req->next;
    const uint8_t *next = after && after->core.lent ? nvmf_io_map(&after->core) : NULL;
    const uint32_t fetched = next ? after->core.len : 0;
    uint32_t crc = (uint32_t)PLX_CRC32C_INIT;
    for (uint32_t at = 0, n; at < req->core.len; at += n) {
        n = (uint32_t)plx_min_u64(req->core.len - at, TCP_SUM_PIECE);
        for (uint32_t k = at; k < at + n && k < fetched; k += PLX_FETCHED)
            plx_fetch(next + k);
        crc = plx_crc32c_add(crc, data + at, n);
    }
    return plx_crc32c_end(crc);
}

/*
 * Finds the memory that a disk lends for this round, and makes its digest. `skip` bytes of the PDU have left.
 * @return false when the PDU cannot be sent to its end
 */
static bool lend(struct tcp_conn *c, struct tcp_req *req, size_t skip, const uint8_t **memory)
{
    size_t before = (size_t)req->head_len + c->pad;
    *memory = nvmf_io_map(&req->core);
    if (plx_unlikely(!*memory))
        return taken_back(c, req, skip);
    if (c->frame.rules.data_digest && skip <= before)
        plx_poke32(req->tail, sum_lent(req, *memory));
    return true;
}

/*
 * Where digests are made in the course of it, they are made in vain for what the socket does not take, as the memory
 * may have changed by the next time. So no more than twice as much is offered as it took last.
 */
static size_t summed_limit(const struct tcp_conn *c)
{
    return plx_min_u64(plx_max_u64(2 * (uint64_t)c->tx_taken, TCP_TX_SUMMED), TCP_TX_BYTES);
}

/* Gathers what is queued, up to the limits of one send. @return bytes; none when memory is short; -1: see lend() */
static ssize_t gather(struct tcp_conn *c, unsigned *niov)
{
    struct iovec *first = c->group->iov, *v = first;
    struct tcp_req *req = c->tx.head;
    const size_t limit = plx_unlikely(c->frame.rules.data_digest) ? summed_limit(c) : TCP_TX_BYTES;
    size_t total = 0, skip = c->tx_off;
    /* A PDU has six pieces at most; one more is for the connection's own. */
    for (; req && v + 7 <= first + TCP_TX_IOV && total < limit; req = req->next) {
        const uint8_t *memory = NULL;
        if (req->core.lent && plx_likely(req->tx == TCP_TX_DATA)) { /* else: aborted, no data */
            /* What the socket leaves of it is kept: where it was kept before, or else in the spare buffer. */
            if (plx_unlikely(!c->group->spare) && !req->buf_size && !tcp_buf_spare(c->group))
                break;
            if (plx_unlikely(!lend(c, req, skip, &memory)))
                return -1;
        }
        v = plx_likely(!skip) ? add_whole(c, req, memory, v) : add_rest(c, req, memory, v, skip);
        total += unit_len(c, req) - skip;
        skip = 0;
    }
    if (!req && c->ctrl_len) {
        *v++ = (struct iovec){c->ctrl + c->ctrl_off, c->ctrl_len - c->ctrl_off};
        total += c->ctrl_len - c->ctrl_off;
    }
    *niov = (unsigned)(v - first);
    return (ssize_t)total;
}

/* All that there was to send has left. */
static void sent_all(struct tcp_conn *c)
{
    c->tx_since = 0;
    if (plx_unlikely(c->state == TCP_TERM || (c->qp.state == NVMF_QP_DISCONNECTED && !c->qp.in_flight)))
        tcp_conn_close(c, NULL);
}

/* There is no buffer for what the socket may leave of lent memory: not its peer's doing, if it would take any. */
static void wait_to_send(struct tcp_conn *c)
{
    if (!c->stream.refusals && c->state != TCP_TERM)
        c->tx_since = 0;
    if (plx_list_empty(&c->unsent_link))
        plx_list_add_tail(&c->group->unsent, &c->unsent_link);
}

int tcp_tx_resume(struct tcp_group *g)
{
    int n = 0;
    for (; n < TCP_SERVED && !plx_list_empty(&g->unsent) && tcp_buf_spare(g); n++) {
        struct tcp_conn *c = plx_list_entry(g->unsent.next, struct tcp_conn, unsent_link);
        plx_list_del(&c->unsent_link);
        plx_stream_dirty(&c->stream);
    }
    return n;
}

int tcp_tx_flush(struct plx_stream *s)
{
    struct tcp_conn *c = tcp_stream_conn(s);
    int progress = 0;
    bool whole = false;
    while (c->tx.head || c->ctrl_len) {
        unsigned niov;
        ssize_t total = gather(c, &niov);
        if (plx_unlikely(total < 0)) {
            tcp_conn_close(c, "the disk has taken back the memory that was being sent");
            return 1;
        }
        if (plx_unlikely(!total)) {
            wait_to_send(c);
            return progress;
        }
        ssize_t n = plx_stream_send(s, c->group->iov, niov);
        if (n < 0 && n != -EAGAIN) {
            tcp_conn_close(c, n == -EPIPE || n == -ECONNRESET ? NULL : strerror((int)-n));
            return 1;
        }
        c->tx_taken = n > 0 ? (uint32_t)n : 0;
        if (n > 0) {
            progress = 1;
            whole |= advance(c, (size_t)n);
        }
        if (n < total) {
            /* The time is for a whole PDU: who takes a byte now and then would hold the rest for ever. */
            if (whole || !c->tx_since)
                c->tx_since = plx_reactor_now(c->group->reactor);
            s->blocked = true;
            return progress;
        }
    }
    sent_all(c);
    return progress;
}
