/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The host's inside: queue pairs over TCP, and the group of all queue pairs of a reactor.
 *
 * What a round submitted to a queue pair leaves in one system call: commands are built one behind the other in one
 * buffer, their data goes out from where it lies. What comes in is received into a buffer that all queue pairs of the
 * reactor share, so that it stays in the cache, and parsed in place; data is copied from there, or received where it
 * belongs when there is much of it.
 */
#ifndef PLX_NVME_NVME_H
#define PLX_NVME_NVME_H

#include "base/list.h"
#include "base/log.h"
#include "nvme/host.h"
#include "nvme/tcp_pdu.h"

#include <sys/epoll.h>

enum {
    TCP_RX_BYTES = 256 << 10, /* the shared receive buffer */
    TCP_RX_DIRECT = 4 << 10,  /* data with at least this much to come is received where it belongs */
    TCP_FEW = 20,             /* up to here sockets are simply tried in turn, without asking epoll which are ready */
    TCP_QUIET_ROUNDS = 16,    /* so often are those of few tried from which nothing is expected */
    TCP_EVENTS = 64,
    TCP_TX_BYTES = 1 << 20, /* of one send, roughly */
    TCP_TX_SPARE = 64,      /* room for headers of H2CData PDUs, and pieces of data, beyond one for each command */
    TCP_LINGER_MS = 1000,   /* how long a peer has to read a TermReq PDU */
    TCP_LINGERS = 8,
    TCP_SLOT_MASK = 0xfff,   /* of a command identifier: which slot; the rest tells its uses apart */
    TCP_ADMIN_INLINE = 8192, /* in-capsule data that every admin queue takes: TCP 3.3 */
};

enum nvme_phase {
    NVME_IDLE,
    NVME_WAITING, /* for a slot or for room, in the queue pair's backlog */
    NVME_ISSUED,
    NVME_HELD, /* answered, but its data is still being sent */
};

enum nvme_qp_state {
    NVME_QP_CLOSED,
    NVME_QP_CONNECTING, /* TCP */
    NVME_QP_INIT,       /* ICReq is sent */
    NVME_QP_OPEN,
};

enum nvme_rx_state {
    NVME_RX_HEADER, /* PDU header, header digest, padding */
    NVME_RX_DATA,   /* data of rx_req */
    NVME_RX_DIGEST, /* data digest of rx_req */
};

struct nvme_slot {
    struct nvme_req *req;
    uint16_t cid; /* of its present or last use */
};

/* The layout of a header that has passed the validator: the same eight bytes pass again. */
struct nvme_rx_memo {
    uint64_t raw;
    struct nvme_tcp_layout layout;
};

struct nvme_queue {
    struct nvme_req *head, **tail;
};

struct nvme_qp {
    struct nvme_group *group;
    int fd;
    uint8_t state;    /* enum nvme_qp_state */
    uint8_t rx_state; /* enum nvme_rx_state */
    bool dirty;       /* in group->dirty */
    bool blocked;     /* the socket took no more */
    bool want_out;    /* epoll is asked for EPOLLOUT */
    bool active;      /* an answer came since this was last cleared */
    uint16_t qid;
    uint16_t tick; /* counted by the controller's timer: tells how old commands are without reading a clock */

    struct nvme_slot *slots;
    uint16_t *free; /* stack of free slots: the one used last is the warmest */
    uint16_t nfree, nslots;
    uint16_t slots_made;       /* the arrays' size */
    uint16_t in_flight;        /* slots in use */
    struct nvme_queue backlog; /* requests that wait for a slot or for room to be built in */

    struct nvme_tcp_rules rules;
    uint32_t max_inline;      /* data that a command capsule may carry */
    uint32_t max_h2c;         /* data of one H2CData PDU: the controller's MAXH2CDATA */
    uint8_t cmd_len;          /* of a command PDU without data */
    uint8_t cmd_pdo, h2c_pdo; /* where data begins */

    uint8_t *tx_buf; /* headers and digests, in the order of the stream */
    struct iovec *tx_iov;
    uint32_t tx_len, tx_size;
    uint16_t tx_first, tx_niov, tx_iovs;
    uint64_t tx_queued, tx_sent; /* places in the stream */
    struct nvme_queue h2c;       /* writes whose R2T is being answered */
    struct nvme_queue held;      /* NVME_HELD */

    struct nvme_rx_memo memo[4]; /* by bits 2:1 of the PDU type */
    struct nvme_req *rx_req;
    uint32_t rx_left; /* bytes of data still to come of this PDU */
    uint32_t rx_crc;
    uint8_t rx_flags; /* of the C2HData PDU */
    uint8_t rx_digest;
    uint8_t digest_have;
    uint16_t hdr_have, hdr_need;
    uint8_t digest[4];
    uint8_t hdr[NVME_TCP_PDO_MAX + 1] __attribute__((aligned(8)));

    /* The owner's: both may close the queue pair. */
    void (*opened)(struct nvme_qp *qp);
    void (*closed)(struct nvme_qp *qp,
                   const char *why); /* by itself, not by nvme_qp_close(); `why` may be NULL: the peer left */
    struct nvme_ctrlr *ctrlr;
    const char *peer;

    struct plx_list link; /* in group->qps, or group->dead */
    struct plx_list dirty_link;
};

/* A socket on which a TermReq PDU was sent: closed when the peer closes, or after a while. */
struct nvme_linger {
    int fd; /* -1: none */
    uint64_t until;
};

/* All queue pairs of a reactor. */
struct nvme_group {
    struct plx_source source; /* fd: an epoll set of all sockets */
    struct plx_reactor *reactor;
    unsigned refs;
    bool polling;
    unsigned rounds;
    struct epoll_event events[TCP_EVENTS]; /* being served, one a round */
    int event, nevents;
    uint8_t *rx;
    struct plx_list qps; /* not closed */
    unsigned nqps;
    unsigned changes;      /* of that list */
    struct plx_list dirty; /* something to send */
    struct plx_list dead;  /* freed while polling */
    struct nvme_linger lingers[TCP_LINGERS];
    unsigned nlingers;
    struct plx_timer linger_timer;
};

static inline void nvme_queue_init(struct nvme_queue *q)
{
    q->head = NULL;
    q->tail = &q->head;
}

static inline void nvme_queue_push(struct nvme_queue *q, struct nvme_req *req)
{
    req->next = NULL;
    *q->tail = req;
    q->tail = &req->next;
}

static inline struct nvme_req *nvme_queue_pop(struct nvme_queue *q)
{
    struct nvme_req *req = q->head;
    q->head = req->next;
    if (!q->head)
        q->tail = &q->head;
    return req;
}

/* @return whether it was there */
bool nvme_queue_remove(struct nvme_queue *q, struct nvme_req *req);

/* tcp_group.c */
/* The reactor's group, made on first use; to be put back as often. @return NULL without memory or descriptors */
struct nvme_group *nvme_group_get(struct plx_reactor *r);
void nvme_group_put(struct nvme_group *g);
void nvme_group_dirty(struct nvme_qp *qp);
int nvme_group_add(struct nvme_qp *qp);
void nvme_group_remove(struct nvme_qp *qp);
/* Its socket is not waited for any more. */
void nvme_group_unwatch(struct nvme_qp *qp);
void nvme_group_linger(struct nvme_group *g, int fd);

/* tcp_qpair.c */
struct nvme_qp *nvme_qp_create(struct nvme_group *g, unsigned depth);
/* Closes it if need be. Allowed from within any callback. */
void nvme_qp_free(struct nvme_qp *qp);
/* Begins to connect: opened() or closed() is called, not before this returns. @return 0 or -errno */
int nvme_qp_connect(struct nvme_qp *qp, const struct nvme_opts *o, const struct nvme_addr *addr);
/* Closes the socket; all requests come back as lost. Nothing happens when it is closed. */
void nvme_qp_close(struct nvme_qp *qp);
/* The same on the queue pair's own account: the owner is told first. */
void nvme_qp_fail(struct nvme_qp *qp, const char *why);
/* A violation of the protocol: sends a TermReq PDU, then closes. `hdr` is the offending header, as far as it came. */
void nvme_qp_fatal(struct nvme_qp *qp, const struct nvme_tcp_error *err, const uint8_t *hdr, size_t len);
/* How many commands may be in flight from now on; nothing is in flight. */
void nvme_qp_set_depth(struct nvme_qp *qp, unsigned depth);
/* The socket may have connected. */
void nvme_qp_check_connected(struct nvme_qp *qp);
/* ICResp has come. */
void nvme_qp_icresp(struct nvme_qp *qp, const uint8_t *hdr);
/* Takes back a request that waits. @return false when it is not waiting */
bool nvme_qp_cancel(struct nvme_qp *qp, struct nvme_req *req);
/*
 * The oldest command that was issued `ticks` ago or earlier, or NULL; those that are being aborted only if asked for.
 */
struct nvme_req *nvme_qp_overdue(struct nvme_qp *qp, unsigned ticks, bool aborting);

/* tcp_tx.c */
void nvme_qp_submit(struct nvme_qp *qp, struct nvme_req *req);
void nvme_qp_submit_fused(struct nvme_qp *qp, struct nvme_req *first);
/* Room for bytes of a PDU in the stream. */
uint8_t *nvme_tx_put(struct nvme_qp *qp, unsigned bytes);
/* An R2T has come. */
void nvme_tx_r2t(struct nvme_qp *qp, struct nvme_req *req);
/* Sends what is there to send, as far as the socket takes it. @return progress */
int nvme_tx_flush(struct nvme_qp *qp);

/* tcp_rx.c */
/* Receives once, and handles all that came. @return progress */
int nvme_rx(struct nvme_qp *qp);
/* Gives a request back to whoever submitted it. */
void nvme_req_end(struct nvme_qp *qp, struct nvme_req *req);

/* ---- associations ---- */

enum nvme_ctrlr_state {
    NVME_CTRLR_IDLE, /* not started, or given up */
    NVME_CTRLR_CONNECTING,
    NVME_CTRLR_LIVE,
    NVME_CTRLR_WAITING, /* to connect again */
};

enum {
    NVME_TICK_MS = 1000,
    NVME_BACKOFF_MIN_MS = 1000,
    NVME_BACKOFF_MAX_MS = 30000,
    NVME_READY_POLL_MS = 10,
    NVME_ADMIN_DEPTH = 31,
    NVME_PAGE = 4096,
    NVME_ABORTS = 4,
};

struct nvme_ctrlr {
    struct nvme_group *group;
    struct plx_reactor *reactor;
    struct nvme_opts o;
    const struct nvme_ctrlr_ops *ops;
    void *arg;
    const struct nvme_addr *addr; /* of o.addrs: the one in use, or being tried */
    unsigned tried;               /* in vain, in this attempt */
    uint8_t state;                /* enum nvme_ctrlr_state */
    bool once, destroyed;
    unsigned holds; /* freed when there are none */

    struct nvme_qp *admin, **io;
    unsigned nio;   /* those that are connected */
    unsigned next;  /* where the next command goes, */
    unsigned share; /* until it has this many in flight */

    /* Connecting: see host_connect.c. */
    uint8_t step;
    bool was_live;    /* at some time: its loss is worth a line in the log */
    unsigned granted; /* I/O queues that the controller allows */
    uint32_t backoff_ms;
    struct plx_timer attempt, retry, poll;
    char why[200];
    char told[200]; /* the latest reason that was said aloud */

    /* What was learnt. */
    uint64_t cap;
    uint32_t vs;
    uint16_t cntlid;
    unsigned ana; /* enum nvme_ana_state */
    uint32_t max_transfer;
    struct nvme_id_ctrl id;
    struct nvme_ns ns;

    /* One admin command at a time of its own: connecting, then whatever events call for. */
    struct nvme_req req;
    struct iovec iov;
    uint8_t *page; /* NVME_PAGE bytes */
    bool busy;
    bool want_changed_ns, want_ns, want_ana, want_event;
    uint32_t event;
    uint32_t ana_at;     /* the piece of the ANA log that is being read, */
    unsigned ana_groups; /* and groups from there on */

    struct nvme_req aer, keep_alive, aborts[NVME_ABORTS]; /* under way while they have a queue pair */
    unsigned silent;                                      /* keep-alive intervals without a sign of life */
    struct plx_timer tick, keep_alive_timer;
};

/* host_connect.c */
void nvme_connect_begin(struct nvme_ctrlr *c);
/* Whether there is a controller at the address, which has sent its ICResp. */
bool nvme_connect_reached(const struct nvme_ctrlr *c);
/* The admin queue or an I/O queue has got its ICResp. */
void nvme_connect_opened(struct nvme_qp *qp);
void nvme_connect_polled(struct plx_timer *t);

/* host_admin.c: commands of its own */
/* Begins c->req; its data comes into c->page. */
void nvme_own_identify(struct nvme_ctrlr *c, uint8_t cns, uint32_t nsid, void (*done)(struct nvme_req *));
void nvme_own_command(struct nvme_ctrlr *c, const struct nvme_cmd *cmd, enum nvme_dir dir, uint32_t len,
                      void (*done)(struct nvme_req *));
bool nvme_has_ana(const struct nvme_ctrlr *c);
void nvme_read_ana(struct nvme_ctrlr *c, void (*done)(struct nvme_req *));
/*
 * A piece of the log that nvme_read_ana() asked for has come. @return whether the state of the namespace's group is
 * known; if not, the next piece has been asked for, and done() is called again
 */
bool nvme_took_ana(struct nvme_ctrlr *c, unsigned *state);
void nvme_take_ns_descriptors(struct nvme_ns *ns, const uint8_t *page);
/* It is live: begins to keep it alive, to wait for events, to watch for commands that take too long. */
void nvme_upkeep_start(struct nvme_ctrlr *c);
void nvme_upkeep_stop(struct nvme_ctrlr *c);

/* host.c */
void nvme_ctrlr_release(struct nvme_ctrlr *c);
void nvme_ctrlr_attempt_failed(struct nvme_ctrlr *c, int ret, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void nvme_ctrlr_connected(struct nvme_ctrlr *c);
void nvme_ctrlr_lost(struct nvme_ctrlr *c, const char *why);

/* status.c: a status in words, as the specification has them. */
const char *nvme_status_text(uint16_t status, bool connect);

#endif
