/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The host's inside: controllers, and queue pairs as far as they are the same over every transport. What is not is
 * behind struct nvme_transport; tcp_qpair.h, pcie.h and uring.h are the insides of those there are.
 */
#ifndef PLX_NVME_NVME_H
#define PLX_NVME_NVME_H

#include "base/list.h"
#include "base/log.h"
#include "nvme/host.h"

enum nvme_aborting {
    NVME_ABORT_NO,
    NVME_ABORT_WANTED, /* by whoever submitted it; the controller takes no more Aborts at present */
    NVME_ABORT_ASKED,  /* by whoever submitted it: an Abort was sent */
    NVME_ABORT_LATE,   /* it took too long: an Abort was sent */
};

/* Requests that wait for something. */
struct nvme_queue {
    struct nvme_req *head, **tail;
};

/* A queue pair; the transport embeds it. */
struct nvme_qp {
    struct nvme_ctrlr *ctrlr;
    /* The transport's: issues a command, or has it wait in the backlog. */
    void (*submit)(struct nvme_qp *qp, struct nvme_req *req);
    uint16_t qid;
    union {
        struct {
            uint8_t aborting; /* NVME_ABORT_NO, */
            bool waiting;     /* and false, as of a request that is issued now */
            uint16_t tick; /* counted by the controller's timer: tells how old commands are without reading a clock */
        };
        uint32_t progress; /* these, at one go */
    };
    uint32_t depth; /* commands that may be in flight; set before the queue is used */
    uint32_t in_flight;
    uint32_t max_inline;       /* data that goes along with a command, where the transport can do that; set likewise */
    bool active;               /* an answer came since this was last cleared */
    struct nvme_queue backlog; /* requests that wait until they can be issued */
};

/* How a controller is reached. */
struct nvme_transport {
    uint32_t pause_ms; /* before it is connected to again, at first: it may be at work on what it was sent before */
    bool local;        /* it is this machine's, and has its name from Identify */
    /* Room for that many commands in flight, with submit(). @return NULL without memory or descriptors */
    struct nvme_qp *(*create)(struct nvme_ctrlr *c, unsigned depth);
    /* Closes it if need be. Allowed from within any callback. */
    void (*free)(struct nvme_qp *qp);
    /*
     * Begins to make a way for commands, to o.addr: nvme_connect_opened() or nvme_qp_lost() is called, not before this
     * returns. @return 0 or -errno
     */
    int (*open)(struct nvme_qp *qp);
    /*
     * All requests come back as lost; those whose data something else still reads and writes, once it has ended that.
     * Nothing happens when it is closed.
     */
    void (*close)(struct nvme_qp *qp);
    /* Once it is open, has the controller make a queue of it: nvme_connect_attached() is called, unless that fails. */
    void (*attach)(struct nvme_qp *qp);
    /* Registers of the controller; c->req comes back as that of a command does, with the value in its dwords. */
    void (*get)(struct nvme_ctrlr *c, uint32_t offset, unsigned bytes, void (*done)(struct nvme_req *));
    void (*set)(struct nvme_ctrlr *c, uint32_t offset, uint64_t value, void (*done)(struct nvme_req *));
    /* As submit() of the queue pair; NULL where commands cannot be fused. */
    void (*submit_fused)(struct nvme_qp *qp, struct nvme_req *first);
    /* One of the queue's depth places. @return the command that is in flight there, or NULL */
    struct nvme_req *(*in_flight)(const struct nvme_qp *qp, unsigned place);
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

/* A request is in flight from now on. */
static inline void nvme_req_begin(struct nvme_req *req, struct nvme_qp *qp)
{
    req->qp = qp;
    req->lost = false;
    req->progress = qp->progress;
}

/* A request that is none's any more goes back to whoever submitted it. */
static inline void nvme_req_end(struct nvme_req *req)
{
    req->qp = NULL;
    req->done(req);
}

/* ---- associations ---- */

enum nvme_ctrlr_state {
    NVME_CTRLR_IDLE, /* not started, or given up */
    NVME_CTRLR_CONNECTING,
    NVME_CTRLR_LIVE,
    NVME_CTRLR_WAITING, /* to connect again */
};

enum {
    NVME_TICK_MS = 1000,
    NVME_BACKOFF_MAX_MS = 30000,
    NVME_READY_POLL_MS = 10,
    NVME_ADMIN_DEPTH = 31,
    NVME_PAGE = 4096,
    NVME_ABORTS = 4,
    NVME_ABORT_TICKS = 2, /* two NVME_TICK_MS, and up to three: so long may an Abort take */
};

struct nvme_abort {
    struct nvme_req req;
    struct nvme_ctrlr *ctrlr;
};

struct nvme_ctrlr {
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
    unsigned nio;         /* those that are connected */
    struct nvme_qp *only; /* of these, when it is one */
    unsigned next;        /* where the next command goes, */
    unsigned share;       /* until it has this many in flight */

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
    bool stripes;
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

    struct nvme_req aer, keep_alive;       /* under way while they have a queue pair, */
    struct nvme_abort aborts[NVME_ABORTS]; /* and so are these */
    bool want_aborts;                      /* some command is in NVME_ABORT_WANTED */
    unsigned silent;                       /* keep-alive intervals without a sign of life */
    struct plx_timer tick, keep_alive_timer;
};

/* host_connect.c */
void nvme_connect_begin(struct nvme_ctrlr *c);
/* Whether there is a controller at the address, as far as the transport can tell. */
bool nvme_connect_reached(const struct nvme_ctrlr *c);
/* A queue pair's way to the controller is there. */
void nvme_connect_opened(struct nvme_qp *qp);
/* The controller has made a queue of it. */
void nvme_connect_attached(struct nvme_ctrlr *c);
void nvme_connect_polled(struct plx_timer *t);

/* fabrics.c: what those transports have in common that are fabrics; see struct nvme_transport */
void nvme_fabrics_get(struct nvme_ctrlr *c, uint32_t offset, unsigned bytes, void (*done)(struct nvme_req *));
void nvme_fabrics_set(struct nvme_ctrlr *c, uint32_t offset, uint64_t value, void (*done)(struct nvme_req *));
/* By the command Connect, which the queue pair takes before any other. */
void nvme_fabrics_attach(struct nvme_qp *qp);

/* host_admin.c: commands of its own */
/* Begins c->req; its data comes into c->page. */
void nvme_own_identify(struct nvme_ctrlr *c, uint8_t cns, uint32_t nsid, void (*done)(struct nvme_req *));
void nvme_own_command(struct nvme_ctrlr *c, const struct nvme_words *cmd, enum nvme_dir dir, uint32_t len,
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
/* A queue pair has closed by itself; `why` may be NULL: the controller did it. May free it. */
void nvme_qp_lost(struct nvme_qp *qp, const char *why);

/* status.c: a status in words, as the specification has them. */
const char *nvme_status_text(uint16_t status, bool connect);

#endif
