/* SPDX-License-Identifier: BSD-3-Clause */
/* PDUs in: matched to the commands they belong to, data brought to where it belongs. */
#include "nvme/tcp_qpair.h"

static struct nvme_tcp_qp *qp_of(struct nvme_tcp_frame *f)
{
    return plx_container_of(f, struct nvme_tcp_qp, frame);
}

static void c2h_fatal(struct nvme_tcp_qp *q, enum nvme_tcp_fes fes, size_t fei, const uint8_t *hdr)
{
    const struct nvme_tcp_error err = {fes, (uint32_t)fei};
    nvme_tcp_fatal(q, &err, hdr, hdr[offsetof(struct nvme_tcp_hdr, hlen)]);
}

/* ---- the ends of commands ---- */

void nvme_tcp_slot_end(struct nvme_tcp_qp *q, struct nvme_tcp_slot *slot)
{
    struct nvme_req *req = slot->req;
    slot->req = NULL;
    q->free[--q->qp.in_flight] = (uint16_t)(slot - q->slots);
    if (plx_unlikely(q->qp.backlog.head))
        plx_stream_dirty(&q->stream);
    nvme_req_end(req);
}

static void rx_answered(struct nvme_tcp_qp *q, struct nvme_tcp_slot *slot, uint16_t status)
{
    struct nvme_req *req = slot->req;
    q->qp.active = true;
    if (plx_unlikely(!status && slot->moved < req->len) && req->forever != NVME_RAW)
        status = PLX_SC_DATA_TRANSFER_ERROR; /* it claims to have done what it cannot have done */
    if (plx_unlikely(slot->bad_digest) && !status)
        status = PLX_SC_TRANSIENT_TRANSPORT_ERROR;
    req->status = status;
    if (plx_likely(!slot->r2t_left && slot->tx_end <= q->tx_sent)) {
        nvme_tcp_slot_end(q, slot);
        return;
    }
    /*
     * Its data is still being sent from the caller's memory; all that was asked for is sent, as the controller waits
     * for it.
     */
    slot->answered = true;
    if (!slot->r2t_left)
        nvme_tcp_slots_push(&q->held, slot);
    plx_stream_dirty(&q->stream);
}

/* The command that a PDU is about, or NULL: it is unknown, or was answered already. */
static struct nvme_tcp_slot *find_slot(const struct nvme_tcp_qp *q, uint16_t cid)
{
    unsigned i = cid & NVME_TCP_SLOT_MASK;
    if (plx_unlikely(i >= q->nslots))
        return NULL;
    struct nvme_tcp_slot *slot = &q->slots[i];
    return plx_likely(slot->cid == cid && slot->req && !slot->answered) ? slot : NULL;
}

/* ---- PDUs whose header is whole ---- */

static void rx_resp(struct nvme_tcp_qp *q, const uint8_t *hdr)
{
    struct nvme_tcp_resp pdu;
    memcpy(&pdu, hdr, sizeof pdu);
    struct nvme_tcp_slot *slot = find_slot(q, plx_get16(pdu.cqe.cid));
    if (plx_unlikely(!slot)) {
        c2h_fatal(q, NVME_TCP_FES_INVALID_HEADER, offsetof(struct nvme_tcp_resp, cqe.cid), hdr);
        return;
    }
    slot->req->dw0 = plx_get32(pdu.cqe.dw0);
    slot->req->dw1 = plx_get32(pdu.cqe.dw1);
    rx_answered(q, slot, (uint16_t)(plx_get16(pdu.cqe.status) >> 1) & (NVME_STATUS_DNR | 0x7ff));
}

/* Checks C2HData against the command that it belongs to. @return that, or NULL after a fatal error */
static struct nvme_tcp_slot *match_data(struct nvme_tcp_qp *q, const uint8_t *hdr, uint32_t len)
{
    struct nvme_tcp_data d;
    memcpy(&d, hdr, sizeof d);
    struct nvme_tcp_slot *slot = find_slot(q, plx_get16(d.cccid));
    enum nvme_tcp_fes fes = NVME_TCP_FES_INVALID_HEADER;
    size_t where;
    if (plx_unlikely(!slot || slot->req->dir != NVME_TO_HOST))
        where = offsetof(struct nvme_tcp_data, cccid);
    else if (plx_unlikely(plx_get32(d.datal) != len))
        where = offsetof(struct nvme_tcp_data, datal);
    else if (plx_unlikely(plx_get32(d.datao) != slot->moved)) /* data comes in order */
        fes = NVME_TCP_FES_OUT_OF_RANGE, where = offsetof(struct nvme_tcp_data, datao);
    else if (plx_unlikely(len > slot->req->len - slot->moved))
        fes = NVME_TCP_FES_OUT_OF_RANGE, where = offsetof(struct nvme_tcp_data, datal);
    else if (plx_unlikely((d.hdr.flags & (NVME_TCP_SUCCESS | NVME_TCP_LAST)) == NVME_TCP_SUCCESS))
        where = offsetof(struct nvme_tcp_hdr, flags);
    else
        return slot;
    c2h_fatal(q, fes, where, hdr);
    return NULL;
}

/* A PDU's data has come into place. */
static void rx_data_here(struct nvme_tcp_qp *q, struct nvme_tcp_slot *slot, uint32_t len, uint8_t flags)
{
    slot->moved += len;
    if (flags & NVME_TCP_SUCCESS) {
        slot->req->dw0 = slot->req->dw1 = 0;
        rx_answered(q, slot, PLX_SC_SUCCESS);
    }
}

static void rx_data(struct nvme_tcp_frame *f, bool ok)
{
    struct nvme_tcp_qp *q = qp_of(f);
    q->rx_slot->at = f->to;
    if (plx_unlikely(!ok))
        q->rx_slot->bad_digest = true;
    rx_data_here(q, q->rx_slot, f->len, q->rx_flags);
}

static const struct nvme_tcp_frame_ops frame_ops;

static size_t rx_c2h_data(struct nvme_tcp_qp *q, const uint8_t *hdr, const struct nvme_tcp_layout *l,
                          const uint8_t *rest, size_t n)
{
    uint8_t flags = hdr[offsetof(struct nvme_tcp_hdr, flags)];
    struct nvme_tcp_slot *slot = match_data(q, hdr, l->data);
    if (plx_unlikely(!slot))
        return 0;
    if (plx_unlikely(n < l->data || l->digest)) {
        q->rx_slot = slot;
        q->rx_flags = flags;
        return nvme_tcp_frame_data(&q->frame, &frame_ops, l, &slot->at, rest, n);
    }
    plx_iov_scatter(&slot->at, rest, l->data);
    rx_data_here(q, slot, l->data, flags);
    return l->data;
}

static void rx_r2t(struct nvme_tcp_qp *q, const uint8_t *hdr)
{
    struct nvme_tcp_r2t pdu;
    memcpy(&pdu, hdr, sizeof pdu);
    struct nvme_tcp_slot *slot = find_slot(q, plx_get16(pdu.cccid));
    uint32_t len = plx_get32(pdu.r2tl);
    if (!slot || slot->req->dir != NVME_FROM_HOST)
        c2h_fatal(q, NVME_TCP_FES_INVALID_HEADER, offsetof(struct nvme_tcp_r2t, cccid), hdr);
    else if (slot->r2t_left) /* we said that we take one at a time: MAXR2T */
        c2h_fatal(q, NVME_TCP_FES_LIMIT_EXCEEDED, 0, hdr);
    else if (plx_get32(pdu.r2to) != slot->moved)
        c2h_fatal(q, NVME_TCP_FES_OUT_OF_RANGE, offsetof(struct nvme_tcp_r2t, r2to), hdr);
    else if (!len || len > slot->req->len - slot->moved)
        c2h_fatal(q, NVME_TCP_FES_OUT_OF_RANGE, offsetof(struct nvme_tcp_r2t, r2tl), hdr);
    else {
        slot->ttag = plx_get16(pdu.ttag);
        slot->r2t_left = len;
        nvme_tcp_slots_push(&q->h2c, slot);
        plx_stream_dirty(&q->stream);
    }
}

static void rx_term(struct nvme_tcp_qp *q, const uint8_t *hdr)
{
    char text[96];
    plx_warn("%s: the controller ends the connection: C2HTermReq, %s", nvme_ctrlr_name(q->qp.ctrlr),
             nvme_tcp_term_text(hdr, text, sizeof text));
    nvme_tcp_fail(q, NULL);
}

static size_t rx_pdu(struct nvme_tcp_frame *f, const uint8_t *hdr, const struct nvme_tcp_layout *l, const uint8_t *rest,
                     size_t n)
{
    struct nvme_tcp_qp *q = qp_of(f);
    switch (hdr[offsetof(struct nvme_tcp_hdr, type)]) {
    case NVME_TCP_C2H_DATA:
        return rx_c2h_data(q, hdr, l, rest, n);
    case NVME_TCP_RESP:
        rx_resp(q, hdr);
        return 0;
    case NVME_TCP_R2T:
        rx_r2t(q, hdr);
        return 0;
    case NVME_TCP_ICRESP:
        nvme_tcp_icresp(q, hdr);
        return 0;
    default: /* nvme_tcp_check() lets nothing else pass */
        rx_term(q, hdr);
        return 0;
    }
}

static void rx_frame_fatal(struct nvme_tcp_frame *f, const struct nvme_tcp_error *err, const uint8_t *hdr, size_t len)
{
    nvme_tcp_fatal(qp_of(f), err, hdr, len);
}

static void rx_lost(struct nvme_tcp_frame *f, int ret)
{
    nvme_tcp_fail(qp_of(f), ret && ret != -ECONNRESET ? strerror(-ret) : NULL);
}

static const struct nvme_tcp_frame_ops frame_ops = {
    .pdu = rx_pdu, .data = rx_data, .fatal = rx_frame_fatal, .lost = rx_lost};

int nvme_tcp_in(struct plx_stream *s)
{
    struct nvme_tcp_qp *q = nvme_tcp_of_stream(s);
    int work = nvme_tcp_frame_receive(&q->frame, &frame_ops, s, PLX_STREAM_RX_BYTES);
    s->quiet = nvme_tcp_is_quiet(q);
    return work;
}
