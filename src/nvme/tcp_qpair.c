/* SPDX-License-Identifier: BSD-3-Clause */
/* Queue pairs over TCP: their connection's beginning and end. */
#include "nvme/tcp_qpair.h"

#include <errno.h>
#include <stdlib.h>

enum {
    UNIT_MAX = 4 * (NVME_TCP_HPDA_MAX + 1) + NVME_TCP_DIGEST, /* the longest header with padding, and a data digest */
    IOV_MAX_SEND = 1024,
};

/* ---- making ---- */

static void tcp_release(struct plx_stream *s)
{
    struct nvme_tcp_qp *q = nvme_tcp_of_stream(s);
    free(q->slots);
    free(q->free);
    free(q->tx_buf);
    free(q->tx_iov);
    free(q);
}

static void tcp_started(struct plx_stream *s, int ret);

static const struct plx_stream_user stream_user = {
    .started = tcp_started, .in = nvme_tcp_in, .out = nvme_tcp_out, .one_a_round = true};

static struct nvme_qp *tcp_create(struct nvme_ctrlr *c, unsigned depth)
{
    struct nvme_tcp_qp *q = calloc(1, sizeof *q);
    if (!q)
        return NULL;
    plx_stream_init(&q->stream, &stream_user);
    q->qp.submit = nvme_tcp_submit;
    q->nslots = (uint16_t)depth;
    q->tx_size = (depth + NVME_TCP_TX_SPARE) * UNIT_MAX;
    q->tx_iovs = (uint16_t)plx_min_u64(2 * depth + 2 * NVME_TCP_TX_SPARE, IOV_MAX_SEND);
    q->slots = calloc(depth, sizeof *q->slots);
    q->free = calloc(depth, sizeof *q->free);
    q->tx_buf = malloc(q->tx_size);
    q->tx_iov = calloc(q->tx_iovs, sizeof *q->tx_iov);
    if (q->slots && q->free && q->tx_buf && q->tx_iov)
        q->stream.group = plx_stream_group_get(c->reactor);
    if (!q->stream.group) {
        tcp_release(&q->stream);
        return NULL;
    }
    nvme_queue_init(&q->qp.backlog);
    for (unsigned i = 0; i < depth; i++)
        q->slots[i].cid = (uint16_t)i;
    return &q->qp;
}

static void tcp_close(struct nvme_qp *qp);

static void tcp_free(struct nvme_qp *qp)
{
    struct nvme_tcp_qp *q = nvme_tcp_qp_of(qp);
    struct plx_stream_group *g = q->stream.group;
    tcp_close(qp);
    plx_stream_free(&q->stream, tcp_release);
    plx_stream_group_put(g);
}

/* ---- connecting ---- */

static int tcp_open(struct nvme_qp *qp)
{
    struct nvme_tcp_qp *q = nvme_tcp_qp_of(qp);
    const struct nvme_opts *o = &qp->ctrlr->o;
    /* Digests are those that are asked for; the answer decides. */
    const struct nvme_tcp_rules rules = {
        .max_data = NVME_MAX_TRANSFER, .header_digest = o->hdgst, .data_digest = o->ddgst};
    plx_stream_close(&q->stream); /* it may linger */
    int ret = plx_net->connect(&q->stream, &qp->ctrlr->addr->addr);
    if (ret)
        return ret;
    nvme_tcp_frame_init(&q->frame, &rules);
    nvme_tcp_slots_init(&q->h2c);
    nvme_tcp_slots_init(&q->held);
    q->tx_len = q->tx_first = q->tx_niov = 0;
    q->tx_sent = q->tx_queued;
    for (unsigned i = 0; i < q->nslots; i++)
        q->free[i] = (uint16_t)i; /* so that with a smaller depth the first ones are used */
    qp->depth = q->nslots;
    qp->max_inline = NVME_TCP_ADMIN_INLINE; /* of Connect, whatever it connects */
    return plx_stream_add(q->stream.group, &q->stream);
}

/* TCP 3.6.2.2: HPDA 0, so that data comes right behind headers; MAXR2T 0, one R2T of a command at a time. */
static void tcp_started(struct plx_stream *s, int ret)
{
    struct nvme_tcp_qp *q = nvme_tcp_of_stream(s);
    if (ret) {
        nvme_tcp_fail(q, strerror(-ret));
        return;
    }
    const struct nvme_tcp_ic pdu = nvme_tcp_make_ic(NVME_TCP_ICREQ, &q->frame.rules, 0);
    memcpy(nvme_tcp_put(q, sizeof pdu), &pdu, sizeof pdu);
    plx_stream_dirty(s);
}

void nvme_tcp_icresp(struct nvme_tcp_qp *q, const uint8_t *hdr)
{
    struct nvme_tcp_rules *rules = &q->frame.rules;
    struct nvme_tcp_ic ic;
    struct nvme_tcp_error err;
    memcpy(&ic, hdr, sizeof ic);
    if (nvme_tcp_check_ic(&ic, rules, &err)) {
        nvme_tcp_fatal(q, &err, hdr, sizeof ic);
        return;
    }
    bool header = ic.dgst & NVME_TCP_DGST_HEADER, data = ic.dgst & NVME_TCP_DGST_DATA;
    if ((header && !rules->header_digest) || (data && !rules->data_digest)) {
        err = (struct nvme_tcp_error){NVME_TCP_FES_INVALID_HEADER, offsetof(struct nvme_tcp_ic, dgst)};
        nvme_tcp_fatal(q, &err, hdr, sizeof ic); /* a digest that was not asked for */
        return;
    }
    if (header != rules->header_digest || data != rules->data_digest) {
        nvme_tcp_fail(q, "the controller does without the digests that were asked for");
        return;
    }
    rules->initialized = true;
    nvme_tcp_frame_rules_changed(&q->frame);
    unsigned align = 4 * (ic.pda + 1u);
    q->cmd_len = (uint8_t)nvme_tcp_with_digest(rules, NVME_TCP_CMD_LEN);
    q->cmd_hdr = nvme_tcp_header(rules, NVME_TCP_CMD, 0, NVME_TCP_CMD_LEN, 0, q->cmd_len);
    q->cmd_pdo = (uint8_t)((q->cmd_len + align - 1) / align * align);
    q->h2c_pdo = (uint8_t)((nvme_tcp_with_digest(rules, NVME_TCP_DATA_LEN) + align - 1) / align * align);
    q->max_h2c = plx_get32(ic.max);
    nvme_connect_opened(&q->qp);
}

/* ---- ending ---- */

/* Gives everything back, what was answered with its answer. */
static void tcp_drop_requests(struct nvme_tcp_qp *q)
{
    struct nvme_queue all;
    nvme_queue_init(&all);
    while (q->qp.backlog.head) {
        struct nvme_req *req = nvme_queue_pop(&q->qp.backlog);
        req->waiting = false;
        req->lost = true;
        nvme_queue_push(&all, req);
    }
    for (unsigned i = 0; q->qp.in_flight && i < q->nslots; i++) {
        struct nvme_tcp_slot *slot = &q->slots[i];
        if (!slot->req)
            continue;
        slot->req->lost = !slot->answered;
        nvme_queue_push(&all, slot->req);
        slot->req = NULL;
        q->free[--q->qp.in_flight] = (uint16_t)i;
    }
    nvme_tcp_slots_init(&q->h2c);
    nvme_tcp_slots_init(&q->held);
    while (all.head)
        nvme_req_end(nvme_queue_pop(&all));
}

static void tcp_close(struct nvme_qp *qp)
{
    struct nvme_tcp_qp *q = nvme_tcp_qp_of(qp);
    q->frame.ended = true;
    if (q->stream.state != PLX_STREAM_CLOSED) /* else it may linger */
        plx_stream_close(&q->stream);
    tcp_drop_requests(q); /* also of one that has ended by itself, and tells so only now */
}

/* The stream is closed. Whoever is told may free the queue pair, but it lives until the poll of its group is over. */
static void tcp_ended(struct nvme_tcp_qp *q, const char *why)
{
    q->frame.ended = true;
    nvme_qp_lost(&q->qp, why);
    tcp_drop_requests(q);
}

void nvme_tcp_fail(struct nvme_tcp_qp *q, const char *why)
{
    if (q->stream.state == PLX_STREAM_CLOSED)
        return;
    plx_stream_close(&q->stream);
    tcp_ended(q, why);
}

void nvme_tcp_fatal(struct nvme_tcp_qp *q, const struct nvme_tcp_error *err, const uint8_t *hdr, size_t len)
{
    if (q->stream.state == PLX_STREAM_CLOSED)
        return;
    plx_warn("%s: %s, in a PDU of type %02xh, information %u: connection ends", nvme_ctrlr_name(q->qp.ctrlr),
             nvme_tcp_fes_names[err->fes], hdr[0], err->fei);
    /* C2HTermReq is not answered in kind: TCP 3.5. In the middle of another PDU it would not be understood. */
    if (hdr[0] != NVME_TCP_C2H_TERM && q->tx_first == q->tx_niov) {
        uint8_t term[NVME_TCP_TERM_MAX];
        const struct iovec iov = {term, nvme_tcp_make_term(NVME_TCP_H2C_TERM, err, hdr, len, term)};
        if (plx_stream_send(&q->stream, &iov, 1) > 0) {
            plx_stream_linger(&q->stream);
            tcp_ended(q, nvme_tcp_fes_names[err->fes]);
            return;
        }
    }
    nvme_tcp_fail(q, nvme_tcp_fes_names[err->fes]);
}

/* ---- what the controller asks of its transport ---- */

static struct nvme_req *tcp_in_flight(const struct nvme_qp *qp, unsigned place)
{
    return nvme_tcp_qp_of(qp)->slots[place].req;
}

const struct nvme_transport nvme_tcp = {
    .pause_ms = 1000,
    .create = tcp_create,
    .free = tcp_free,
    .open = tcp_open,
    .close = tcp_close,
    .attach = nvme_fabrics_attach,
    .get = nvme_fabrics_get,
    .set = nvme_fabrics_set,
    .submit_fused = nvme_tcp_submit_fused,
    .in_flight = tcp_in_flight,
};
