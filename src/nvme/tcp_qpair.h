/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The inside of queue pairs over TCP.
 *
 * What a round submitted to a queue pair leaves in one system call: commands are built one behind the other in one
 * buffer, their data goes out from where it lies. What comes in is received into a buffer that all streams of the
 * reactor share, so that it stays in the cache, and parsed in place; data is copied from there, or received where it
 * belongs when there is much of it.
 */
#ifndef PLX_NVME_TCP_QPAIR_H
#define PLX_NVME_TCP_QPAIR_H

#include "net/stream.h"
#include "nvme/nvme.h"
#include "nvme/tcp_frame.h"

enum {
    NVME_TCP_TX_BYTES = 1 << 20,  /* of one send, roughly */
    NVME_TCP_TX_SPARE = 64,       /* room for headers of H2CData PDUs, and pieces of data, beyond one a command */
    NVME_TCP_SLOT_MASK = 0xfff,   /* of a command identifier: which slot; the rest tells its uses apart */
    NVME_TCP_ADMIN_INLINE = 8192, /* in-capsule data that every admin queue takes: TCP 3.3 */
};

/* A command in flight. */
struct nvme_tcp_slot {
    struct nvme_req *req; /* NULL: none */
    struct plx_iov_at at; /* where its data goes on */
    uint64_t tx_end;      /* where in the stream the last that was sent of it ends */
    uint32_t moved;       /* bytes of data that came, or were sent */
    uint32_t r2t_left;    /* bytes that the R2T still asks for */
    uint16_t cid;         /* of its present or last use */
    uint16_t ttag;        /* of the R2T */
    bool bad_digest;      /* of data that came */
    bool answered;        /* but its data is still being sent, from the caller's memory */
    struct nvme_tcp_slot *next;
};

struct nvme_tcp_slots {
    struct nvme_tcp_slot *head, **tail;
};

struct nvme_tcp_qp {
    struct nvme_qp qp;
    struct plx_stream stream;

    struct nvme_tcp_slot *slots;
    uint16_t *free; /* slots: from qp.in_flight on those that are free, the one used last, and warmest, first */
    uint16_t nslots;
    struct nvme_tcp_hdr cmd_hdr; /* of a command without data, */
    uint8_t cmd_len;             /* and the length of that */
    uint8_t cmd_pdo, h2c_pdo;    /* where data begins */
    uint32_t max_h2c;            /* data of one H2CData PDU: the controller's MAXH2CDATA */

    uint8_t *tx_buf; /* headers and digests, in the order of the stream */
    struct iovec *tx_iov;
    uint32_t tx_len, tx_size;
    uint16_t tx_first, tx_niov, tx_iovs;
    uint64_t tx_queued, tx_sent; /* places in the stream */
    struct nvme_tcp_slots h2c;   /* writes whose R2T is being answered */
    struct nvme_tcp_slots held;  /* those that are answered, for what is still being sent */

    struct nvme_tcp_slot *rx_slot; /* whose data comes */
    uint8_t rx_flags;              /* of the C2HData PDU */
    struct nvme_tcp_frame frame;
};

static inline struct nvme_tcp_qp *nvme_tcp_qp_of(const struct nvme_qp *qp)
{
    return plx_container_of(qp, struct nvme_tcp_qp, qp);
}

static inline struct nvme_tcp_qp *nvme_tcp_of_stream(struct plx_stream *s)
{
    return plx_container_of(s, struct nvme_tcp_qp, stream);
}

static inline void nvme_tcp_slots_init(struct nvme_tcp_slots *q)
{
    q->head = NULL;
    q->tail = &q->head;
}

static inline void nvme_tcp_slots_push(struct nvme_tcp_slots *q, struct nvme_tcp_slot *slot)
{
    slot->next = NULL;
    *q->tail = slot;
    q->tail = &slot->next;
}

static inline struct nvme_tcp_slot *nvme_tcp_slots_pop(struct nvme_tcp_slots *q)
{
    struct nvme_tcp_slot *slot = q->head;
    q->head = slot->next;
    if (!q->head)
        q->tail = &q->head;
    return slot;
}

/*
 * Nothing is to come, or on an admin queue one thing: mostly the event that is asked for, which may take any time, and
 * what else it may be can wait for some rounds.
 */
static inline bool nvme_tcp_is_quiet(const struct nvme_tcp_qp *q)
{
    return q->frame.rules.initialized && q->qp.in_flight <= (q->qp.qid ? 0 : 1);
}

/* tcp_qpair.c */
/* Closes it on its own account: the controller is told first. `why` may be NULL: the peer did it. */
void nvme_tcp_fail(struct nvme_tcp_qp *q, const char *why);
/* A violation of the protocol: sends a TermReq PDU, then closes. `hdr` is the offending header, as far as it came. */
void nvme_tcp_fatal(struct nvme_tcp_qp *q, const struct nvme_tcp_error *err, const uint8_t *hdr, size_t len);
void nvme_tcp_icresp(struct nvme_tcp_qp *q, const uint8_t *hdr);

/* tcp_tx.c */
void nvme_tcp_submit(struct nvme_qp *qp, struct nvme_req *req);
void nvme_tcp_submit_fused(struct nvme_qp *qp, struct nvme_req *first);
/* Room for bytes of a PDU in the stream. */
uint8_t *nvme_tcp_put(struct nvme_tcp_qp *q, unsigned bytes);
/* Sends what there is to send, as far as the stream takes it. @return progress */
int nvme_tcp_out(struct plx_stream *s);

/* tcp_rx.c */
/* Receives once, and handles all that came. @return progress */
int nvme_tcp_in(struct plx_stream *s);
/* An answered command, whose data has left: its slot is free. */
void nvme_tcp_slot_end(struct nvme_tcp_qp *q, struct nvme_tcp_slot *slot);

#endif
