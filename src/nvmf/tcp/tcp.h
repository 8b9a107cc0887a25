/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The NVMe/TCP transport (NVMe/TCP Transport 1.1): connections, PDUs in and out.
 *
 * Receiving goes into a buffer that all connections of a reactor share, where PDUs are parsed in place; only what is
 * cut off at its end is kept with the connection. Everything that one round produced for a connection leaves in one
 * system call, straight from the disk's memory where that can be lent.
 */
#ifndef PLX_NVMF_TCP_TCP_H
#define PLX_NVMF_TCP_TCP_H

#include "nvme/tcp_frame.h"
#include "nvmf/nvmf.h"

enum {
    TCP_TX_IOV = 512,          /* pieces of one send */
    TCP_TX_BYTES = 1 << 20,    /* and bytes, roughly */
    TCP_TX_SUMMED = 128 << 10, /* as many at first where digests are made in the course of it: see summed_limit() */
    TCP_SUM_PIECE = 1024,      /* data that a digest is made of at once */
    TCP_FRESH_MAX = 512, /* connections of a reactor that have not done Connect: a few hosts open all queues at once */
    TCP_SERVED = 64,     /* requests that get buffers in one round */
    TCP_TICK_MS = 500,
    TCP_CONNECT_MS = 10000,  /* from accept to the end of Connect */
    TCP_CONTENDED_MS = 5000, /* the limit for peers while others wait for the buffers they hold */
    TCP_MAXH2CDATA = 1 << 20,
    TCP_SPARE_BYTES = 64 << 10, /* the largest logical block */
    TCP_RX_ANSWER = 128,        /* received even when memory is short, from hosts that were asked for data */
    TCP_SHARE = 8,              /* a connection may hold this part of the pool, and always one buffer */
    TCP_RESERVE = 8,            /* this part is kept for data that comes unasked, and for what sockets take in part, */
    TCP_UNASKED = 16,           /* of it this part for the former alone */
    TCP_RESTS_SHARE = 4,        /* what sockets take in part may hold this part */
};

enum tcp_conn_state {
    TCP_NEW, /* waiting for ICReq */
    TCP_OPEN,
    TCP_TERM, /* a TermReq PDU is on its way; what comes in is thrown away */
    TCP_DEAD, /* the stream is closed; what is in flight finishes */
};

/* What is queued for sending of a request. */
enum tcp_tx {
    TCP_TX_NONE,
    TCP_TX_R2T,
    TCP_TX_DATA, /* C2HData, and a response capsule unless it has the SUCCESS flag */
    TCP_TX_RESP,
};

/* Who gets buffers is kept apart, so that none can take all. */
enum tcp_wait_class {
    TCP_WAIT_R2T,  /* data that hosts are to send */
    TCP_WAIT_READ, /* data that disks are to fill */
    TCP_HALVES,    /* of fused commands, that came in capsules and are held: nobody waits here, they are refused */
    TCP_RESTS,     /* of lent data that sockets took in part: who would need one waits in tcp_group.unsent */
    TCP_WAIT_CLASSES,
};

/* Where a request is that the core has not got: what NVMF_REQ_TRANSPORT means here. */
enum tcp_req_state {
    TCP_REQ_NEW,
    TCP_REQ_DATA_IN,   /* in-capsule data is arriving */
    TCP_REQ_WAIT_BUF,  /* in line for a buffer */
    TCP_REQ_R2T,       /* data was asked for */
    TCP_REQ_ABANDONED, /* aborted, but data that was asked for may still come */
};

struct tcp_req {
    struct tcp_req *next; /* in a queue */
    uint32_t buf_size;    /* size that the buffer at core.data was got with; 0 for none */
    uint32_t disk_bytes;  /* what of the buffer counts towards its disk's share: none if it came to the disk later */
    uint32_t received;    /* bytes of R2T data */
    uint8_t state;        /* enum tcp_req_state */
    bool data_error;      /* a data digest was wrong */
    uint8_t counted;      /* 1 + the class that its buffer counts in; 0 for none */
    uint8_t tx;           /* enum tcp_tx: what is queued for sending */
    uint8_t head_len, tail_len;
    uint32_t kept_from, kept_to; /* the part of lent data that is kept in the buffer */
    uint64_t since;              /* reactor time at which it entered its state, where a limit applies */
    uint8_t head[32];            /* PDU header being sent, and its digest */
    uint8_t tail[32];            /* data digest, response PDU */
    struct nvmf_req core;        /* last: the disks' context follows */
};

struct tcp_queue {
    struct tcp_req *head, **tail;
};

struct tcp_conn {
    struct nvmf_qpair qp;
    struct plx_stream stream;
    struct tcp_group *group;
    uint8_t state; /* enum tcp_conn_state */
    bool fresh;    /* in group->fresh */
    bool detaching;
    uint8_t pad; /* bytes between the header of C2HData and its data, for the host's alignment */

    uint8_t head_len; /* of a response, C2HData or R2T with its digest */
    uint16_t data_overhead;
    struct nvme_tcp_hdr resp, data; /* what those begin with */

    struct tcp_req *rx_req; /* whose data is coming, */
    struct iovec rx_iov;    /* and where it goes; */
    uint16_t rx_status;     /* of data that nobody wants: what rx_req ends with, if there is one */

    struct tcp_queue tx;
    uint32_t tx_taken;           /* bytes that the socket took at once the last time */
    uint32_t tx_off;             /* bytes of the first queued request that have been sent */
    uint16_t ctrl_len, ctrl_off; /* a PDU of the connection's own: ICResp, TermReq */

    struct tcp_queue wait[TCP_WAIT_CLASSES];
    struct plx_list wait_link[TCP_WAIT_CLASSES];
    struct plx_list unsent_link;
    size_t held[TCP_WAIT_CLASSES]; /* bytes of buffers */
    unsigned r2ts;                 /* outstanding */
    unsigned outstanding;          /* commands whose response has not been sent */
    struct tcp_queue abandoned;    /* by an abort: data may still come for them */

    uint64_t born, pdu_since, tx_since, closed;
    struct plx_list link, fresh_link;
    struct plx_msg msg;
    struct nvme_tcp_frame frame;
    uint8_t ctrl[NVME_TCP_TERM_MAX];
};

/* All connections of a reactor; polled for what has to be done beside receiving and sending. */
struct tcp_group {
    struct plx_source source;
    struct plx_stream_group *streams;
    struct nvmf_group *core;
    struct plx_reactor *reactor;
    struct plx_list conns; /* alive */
    unsigned nconns;
    struct plx_list dead;     /* closed, not yet free */
    struct tcp_conn *orphans; /* never open: has what disks have not ended of those that were */
    struct plx_list fresh;    /* no Connect yet, oldest first */
    unsigned nfresh;
    struct plx_list line[TCP_WAIT_CLASSES]; /* connections that wait for buffers */
    size_t class_bytes[TCP_WAIT_CLASSES];
    bool refused;   /* a buffer was not to be had, other than for a connection's own share, since the last tick */
    uint8_t *spare; /* for lent memory that a socket takes in part, when there is no other buffer */
    struct plx_list unsent; /* connections that wait for one, to send lent memory */
    struct plx_timer tick;
    struct plx_timer deadline;
    bool stopping;
    uint64_t abort_at, stop_by; /* reactor time */
    void (*stopped)(struct nvmf_group *g);
    struct iovec iov[TCP_TX_IOV];
};

static inline struct tcp_conn *tcp_conn_of(struct nvmf_qpair *qp)
{
    return plx_container_of(qp, struct tcp_conn, qp);
}

static inline struct tcp_conn *tcp_stream_conn(struct plx_stream *s)
{
    return plx_container_of(s, struct tcp_conn, stream);
}

static inline struct tcp_req *tcp_req_of(struct nvmf_req *req)
{
    return plx_container_of(req, struct tcp_req, core);
}

static inline struct tcp_conn *tcp_req_conn(const struct tcp_req *req)
{
    return tcp_conn_of(req->core.qp);
}

static inline void tcp_queue_init(struct tcp_queue *q)
{
    q->head = NULL;
    q->tail = &q->head;
}

static inline void tcp_queue_push(struct tcp_queue *q, struct tcp_req *req)
{
    req->next = NULL;
    *q->tail = req;
    q->tail = &req->next;
}

static inline struct tcp_req *tcp_queue_pop(struct tcp_queue *q)
{
    struct tcp_req *req = q->head;
    q->head = req->next;
    if (!q->head)
        q->tail = &q->head;
    return req;
}

/* @return whether it was there */
bool tcp_queue_remove(struct tcp_queue *q, struct tcp_req *req);

/* conn.c */
/* Ends a request that waits, for the core. */
bool tcp_abort(struct nvmf_req *core);
enum plx_nvmf_stage tcp_stage(const struct nvmf_req *core);
void tcp_kill(struct nvmf_qpair *qp, const char *why);
void tcp_local_addr(struct nvmf_qpair *qp, struct sockaddr_storage *ss);
/* A connection whose stream is to be opened, then adopted by a group. */
struct tcp_conn *tcp_conn_create(struct plx_nvmf_target *t);
void tcp_conn_adopt(struct tcp_group *g, struct tcp_conn *c);
void tcp_conn_free(struct tcp_conn *c);
/* Closes the stream and drops what waits in the transport. why is logged; NULL for a peer that simply left. */
void tcp_conn_close(struct tcp_conn *c, const char *why);
/*
 * A violation of the protocol: sends a TermReq PDU, then closes (TCP 3.6.2.3). `hdr` is the offending header, as far as
 * it came.
 */
void tcp_conn_fatal(struct tcp_conn *c, const struct nvme_tcp_error *err, const uint8_t *hdr, size_t len);
void tcp_conn_connected(struct tcp_conn *c);
/* A closed connection that disks do not let go of lets go of what they have. */
void tcp_conn_orphan(struct tcp_conn *c);
/* Drops connections whose limits have passed. */
void tcp_conn_check_limits(struct tcp_conn *c, uint64_t now);

/* place.c: the number of the reactor for a connection, by plx_stream_incoming(). On the control reactor. */
unsigned tcp_place(struct plx_nvmf_target *t, int cpu, unsigned napi, enum plx_nvmf_placed *why);

/* rx.c */
/* Receives once, and handles all that came. @return progress */
int tcp_rx(struct plx_stream *s);

/* tx.c */
void tcp_tx_complete(struct nvmf_req *core);
void tcp_tx_r2t(struct tcp_req *req);
/* The digests have been agreed on. */
void tcp_tx_agreed(struct tcp_conn *c);
void tcp_tx_icresp(struct tcp_conn *c);
/* Sends what is queued, as far as the stream takes it. @return progress */
int tcp_tx_flush(struct plx_stream *s);
/* Some of those who wait to send lent memory go on, if they can. @return how many */
int tcp_tx_resume(struct tcp_group *g);

/* group.c */
int tcp_group_start(struct nvmf_group *core);
void tcp_group_stop(struct nvmf_group *core, uint32_t grace_ms, void (*done)(struct nvmf_group *g));
void tcp_group_free(struct nvmf_group *core);

/* buffer.c */
/* A request for a command that has come; NULL when there is no memory. */
struct tcp_req *tcp_req_get(struct tcp_conn *c);
/* Gets a request its buffer, now or later; then it goes on to R2T (FROM_HOST) or to be executed (TO_HOST). */
void tcp_buf_acquire(struct tcp_req *req);
/* A buffer for data that is already here; not counted, never waits. @return false when there is none */
bool tcp_buf_take(struct tcp_req *req, uint32_t size);
/* A buffer for what a socket left of lent data: the spare one if there is no other, which there is: tcp_buf_spare(). */
void tcp_buf_keep(struct tcp_req *req, uint32_t size);
/* Lent data may be sent only when there is a buffer for what the socket may leave of it. @return whether there is */
bool tcp_buf_spare(struct tcp_group *g);
void tcp_req_put(struct tcp_req *req);
/* The data of half a fused command is to be held. @return false when its connection already holds its share */
bool tcp_buf_hold(struct tcp_req *req);
/* A request gets memory that was got from the reactor's pool with `size`. */
void tcp_buf_own(struct tcp_req *req, void *mem, uint32_t size);
/* What requests hold that went over to another connection is held by that one. */
void tcp_buf_orphan(struct tcp_conn *c, struct tcp_conn *to);
/* Gives a request's buffer back. */
void tcp_buf_drop(struct tcp_req *req);
/* Forgets a command that was aborted: no data comes for it any more. */
void tcp_forget(struct tcp_conn *c, struct tcp_req *req);
/* Serves those who wait. @return how many */
int tcp_buf_serve(struct tcp_group *g);
/* How much may be received from a connection, such that commands and their in-capsule data find memory. */
size_t tcp_buf_rx_limit(const struct tcp_conn *c);

#endif
