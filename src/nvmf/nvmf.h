/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The NVMe-oF target's core: commands, not sockets. A transport (tcp/) hands it command capsules and gets completions
 * back.
 *
 * Who touches what:
 * - the control path (subsystems, the list of controllers, connecting and disconnecting) runs on the target's first
 * reactor;
 * - a queue pair, its requests and its group belong to the reactor of its connection;
 * - a controller's own state belongs to the reactor of its admin queue, but for what is marked atomic.
 */
#ifndef PLX_NVMF_NVMF_H
#define PLX_NVMF_NVMF_H

#include <pollux/nvmf.h>

#include "base/addr.h"
#include "base/list.h"
#include "base/log.h"
#include "nvme/spec.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

enum {
    NVMF_PENDING_BUCKETS = 64,
    NVMF_ANA_GROUP = 1, /* the one that all namespaces are in */
    NVMF_AER_LIMIT = 4,
    NVMF_ABORT_LIMIT = 4,
    NVMF_ERROR_LOG = 32,
    NVMF_KATO_UNIT_MS = 100, /* KAS: keep-alive granularity */
    NVMF_ADMIN_QUEUE_ENTRIES = 32,
    NVMF_FUSED_BLOCKS = 1, /* ACWU: fused compare and write reach this many blocks */
    NVMF_DSM_RANGES = 256,
    NVMF_DSM_PIECE_BYTES = 64 << 20,   /* deallocated in one step */
    NVMF_ZEROES_PIECE_BYTES = 1 << 20, /* written in one step by Write Zeroes */
    NVMF_FLUSH_LIMIT_MS = 1500,        /* for the disks' last flush, at a stop */
    NVMF_MAX_REQUESTS = 32768,         /* of one reactor at a time */
    NVMF_COPY_RANGES = 128,
    NVMF_DISCOVERY_IDLE_MS = 120000, /* a discovery controller without keep-alive is dropped after this */
};

/* A namespace. Constant once the target has started. */
struct nvmf_ns {
    struct plx_bdev *bdev;
    uint32_t nsid;
    unsigned index; /* among all namespaces of the target */
    uint8_t nguid[16];
};

struct plx_nvmf_subsystem {
    struct plx_nvmf_target *target;
    struct plx_list link;
    char nqn[NVME_NQN_MAX + 1];
    char serial[20], model[40]; /* padded with blanks, not terminated */
    unsigned index;             /* among the target's subsystems */
    bool discovery;
    bool allow_any_host;
    char **hosts;
    unsigned nhosts;
    struct nvmf_ns **ns; /* by nsid - 1; NULL where there is none */
    uint32_t nns;        /* entries of ns */
};

/* What I/O queue pairs of one reactor need of one namespace. Entries without a disk have ch == NULL. */
struct nvmf_nsref {
    struct plx_bdev_channel *ch;
    struct plx_bdev *bdev;
    const struct plx_bdev_info *info;
    unsigned block_shift;
};

/* A subsystem as one reactor sees it; immutable, found through the queue pair. */
struct nvmf_view {
    uint32_t n;
    struct nvmf_nsref ns[];
};

struct nvmf_group;

/* All that a target has on one reactor. */
struct nvmf_group {
    struct plx_nvmf_target *target;
    struct plx_reactor *reactor;
    struct plx_bdev_channel **channels; /* by nvmf_ns.index */
    struct nvmf_view **views;           /* by plx_nvmf_subsystem.index */
    struct nvmf_req *free_reqs;
    unsigned reqs_in_use;
    bool in_place; /* all disks are: data that comes in capsules is used where it was received */
    struct nvmf_slab *slabs;
    size_t req_size;
    void *transport;    /* its transport's */
    struct plx_msg msg; /* of the start or stop under way */
    int result;
};

/* For messages: some programs give their host no name. */
static inline const char *nvmf_host_name(const char *hostnqn)
{
    return hostnqn[0] ? hostnqn : "without a name";
}

/* A controller: Base 3.1 */
struct nvmf_ctrlr {
    struct plx_list link; /* in target->ctrlrs */
    struct plx_nvmf_subsystem *subsys;
    struct plx_nvmf_target *target;
    uint16_t cntlid;
    uint8_t hostid[16];
    char hostnqn[NVME_NQN_MAX + 1];
    char name[64]; /* for logs: "controller 3 of host ..." */

    /* The control reactor's. */
    struct nvmf_qpair **qpairs; /* by qid; [0] is the admin queue */
    _Atomic unsigned nqpairs;   /* attached */
    bool dying;

    /* The admin queue's reactor's; cc and csts are read by I/O queue pairs. */
    _Atomic uint32_t cc, csts;
    uint32_t kato_ms;
    struct plx_timer kato_timer;
    struct nvmf_req *aers[NVMF_AER_LIMIT];
    unsigned naers;
    unsigned aborts;          /* under way */
    uint64_t last_keep_alive; /* reactor time */
    struct plx_msg reset_msg;
    _Atomic bool reset_sent;
    uint32_t feat_arbitration, feat_power, feat_error_recovery, feat_atomicity, feat_async_event;
    uint32_t feat_temp_over, feat_temp_under;
    uint8_t host_behavior[512];
    uint16_t nqueues; /* granted I/O queue pairs, 0 until Number of Queues was set */

    _Atomic uint64_t
        last_seen; /* reactor time of traffic on any queue, to half a second: written now and then by all */

    /* Errors come from every queue pair, and are not the data path. */
    pthread_mutex_t error_lock;
    struct nvme_error_entry errors[NVMF_ERROR_LOG];
    uint64_t nerrors;
};

/*
 * Events that a controller sends, as OAES and feature 0Bh have them. Of an NVM controller: changed namespaces, and ANA
 * states; of a discovery controller: its log.
 */
static inline uint32_t nvmf_events(const struct nvmf_ctrlr *c)
{
    return c->subsys->discovery ? 1u << 31 : 1u << 8 | 1u << 11;
}

enum nvmf_dir {
    NVMF_NONE,
    NVMF_FROM_HOST,
    NVMF_TO_HOST,
};

/* Who has a request. */
enum nvmf_req_state {
    NVMF_REQ_TRANSPORT, /* its transport: data is on its way, or it waits for memory */
    NVMF_REQ_HELD,      /* nobody: half of a fused command, waiting for the other */
    NVMF_REQ_EXECUTING, /* the core */
    NVMF_REQ_DONE,      /* its transport again: the response is on its way */
};

struct nvmf_req;
typedef void (*nvmf_execute_fn)(struct nvmf_req *req);

/* A command: allocated once, used again and again, embedded in its transport's. Hot members first. */
struct nvmf_req {
    struct nvmf_req *next; /* free list, or a queue of the transport's */
    struct nvmf_qpair *qp;
    nvmf_execute_fn execute;
    const struct nvmf_nsref *ns;
    uint8_t *data; /* the command's data, or NULL; its transport's memory */
    uint32_t len;  /* bytes of data */
    uint32_t step; /* of commands that take several requests to the disk */
    uint32_t done; /* blocks of a command that is done piece by piece */
    uint8_t dir;   /* enum nvmf_dir */
    uint8_t state; /* enum nvmf_req_state */
    bool in_capsule;
    bool in_place; /* FROM_HOST: the data is not needed any more once execute has returned */
    bool lent;     /* data is the disk's own memory, mapped when it is sent */
    bool pending;  /* in the table of pending requests */
    bool fused_first;
    uint16_t abort_status; /* what it is to end with instead of being executed; 0 for nothing */
    uint32_t capsule_data; /* bytes of data that came in the capsule */
    uint32_t capsule_off;  /* where in those the command's data begins */
    struct nvme_cqe cqe;
    struct nvme_cmd cmd;
    struct nvmf_req *chain; /* next in its bucket of pending requests */
    struct nvmf_req *mate;  /* the other half of a fused command */
    union {
        struct nvmf_connect *connect;
        struct {
            struct plx_msg msg;
            struct nvmf_qpair *qp; /* whose command is to be aborted */
            bool aborted;
        } abort;
        struct plx_msg later; /* of commands that go on in another round */
    } u;
    struct iovec iov[2];
    struct plx_bdev_req bio;
};

/*
 * What carries capsules: all that the core calls of a transport. It embeds struct nvmf_req at the end of its own
 * requests, struct nvmf_qpair in its connections, struct plx_nvmf_listener in its listeners.
 */
struct nvmf_transport {
    uint8_t trtype;    /* Base 5.1.12.3.1 */
    size_t req_prefix; /* bytes of its own in front of each struct nvmf_req, a multiple of 16 */

    /* Listening, on the control reactor, or before that runs. listen() fills the core's part of *out. */
    int (*listen)(struct plx_nvmf_target *t, const char *addr, uint16_t port, struct plx_nvmf_listener **out,
                  struct plx_error *err);
    /* Begins to take connections. */
    int (*accept)(struct plx_nvmf_listener *l);
    /* Takes none any more; the address is free again. */
    void (*deafen)(struct plx_nvmf_listener *l);
    void (*free_listener)(struct plx_nvmf_listener *l);

    /* All connections of a reactor. On that reactor. */
    int (*group_start)(struct nvmf_group *g);
    /* Ends all connections, letting what is in flight finish until grace has passed; then calls done. */
    void (*group_stop)(struct nvmf_group *g, uint32_t grace_ms, void (*done)(struct nvmf_group *g));
    void (*group_free)(struct nvmf_group *g);

    /* On the queue pair's reactor. */
    /* A request has ended: send its response. */
    void (*complete)(struct nvmf_req *req);
    /* Ends a request that it has (NVMF_REQ_TRANSPORT) early. @return true if that was, or will be, done */
    bool (*abort)(struct nvmf_req *req);
    /* Ends the connection; ends later with nvmf_qpair_detach(). */
    void (*kill)(struct nvmf_qpair *qp, const char *why);
    /* The local address, for the discovery log; AF_UNSPEC where there is none. */
    void (*local_addr)(struct nvmf_qpair *qp, struct sockaddr_storage *ss);
};

/* All of them, NULL-terminated; the first is the default. */
extern const struct nvmf_transport nvmf_transport_tcp;
extern const struct nvmf_transport *const nvmf_transports[];

enum nvmf_qpair_state {
    NVMF_QP_NEW,        /* no Connect command yet */
    NVMF_QP_CONNECTING, /* Connect is being worked on */
    NVMF_QP_READY,
    NVMF_QP_DISCONNECTED, /* by a Disconnect command; the connection is closed once its response is sent */
    NVMF_QP_DETACHED,
};

/* A queue pair; embedded in the transport's connection. */
struct nvmf_qpair {
    struct nvmf_group *group;
    struct nvmf_ctrlr *ctrlr;
    const struct nvmf_view *view;
    uint16_t qid;
    uint16_t entries;
    uint16_t sqhd;
    uint8_t state; /* enum nvmf_qpair_state */
    bool no_sq_flow;
    uint32_t in_flight;     /* requests between capsule and response */
    struct nvmf_req *fused; /* first half of a fused command whose second half must come next */
    bool active;            /* a command came since the transport last told the controller */
    bool fused_failed;      /* the first half of a fused command was refused */
    struct plx_msg kill_msg;
    _Atomic bool kill_sent;
    struct plx_msg detach_msg;
    void (*detached)(struct nvmf_qpair *qp); /* called on the queue pair's reactor */
    char peer[PLX_ADDR_TEXT];
    struct nvmf_req *pending[NVMF_PENDING_BUCKETS]; /* by command identifier */
};

/* An address hosts can connect to. */
struct plx_nvmf_listener {
    struct plx_list link; /* in target->listeners */
    struct plx_nvmf_target *target;
    char addr[PLX_ADDR_TEXT];
    char reach[PLX_ADDR_TEXT]; /* where hosts find it: of a wildcard, this machine's address on its default route */
    uint16_t port;
    uint16_t portid;
    int family;
    bool wildcard;
    bool listening;
};

enum nvmf_phase_step {
    NVMF_PHASE_OPEN, /* start: channels and transports on every reactor */
    NVMF_PHASE_LISTEN,
    NVMF_PHASE_DRAIN, /* stop: no new connections, what is in flight finishes */
    NVMF_PHASE_FLUSH,
    NVMF_PHASE_CLOSE,
    NVMF_PHASE_END,
};

/* A flush of a disk at the end. */
struct nvmf_phase_flush {
    struct plx_nvmf_target *target;
    struct plx_timer limit;
    struct plx_bdev_req bio;
};

/* One start or stop: reactors that still have to answer, and whom to tell. */
struct nvmf_phase {
    plx_nvmf_done_fn done;
    void *arg;
    enum nvmf_phase_step step;
    unsigned waiting;
    int result;
    uint32_t grace_ms;
    unsigned flushing;
    struct nvmf_phase_flush *flush;
};

struct plx_nvmf_target {
    struct plx_nvmf_opts opts;
    struct plx_reactor **reactors;
    unsigned nreactors;
    struct nvmf_group *groups;
    struct plx_list subsystems;
    unsigned nsubsystems;
    unsigned nnamespaces;
    struct plx_nvmf_subsystem *discovery;
    const struct nvmf_transport *transport;
    struct plx_list listeners; /* of plx_nvmf_listener */
    struct plx_list ctrlrs;
    unsigned nctrlrs;
    uint16_t last_cntlid;
    bool started, stopping;
    unsigned next_group; /* for the next connection */
    _Atomic unsigned connections;
    struct nvmf_phase phase;
    struct plx_msg msg;
    uint64_t started_at; /* reactor time */
};

/* ---- qpair.c: requests and queue pairs ---- */

/* A request for a new command, or NULL when there is no memory. */
struct nvmf_req *nvmf_req_get(struct nvmf_qpair *qp);
void nvmf_req_put(struct nvmf_req *req);
void nvmf_slabs_free(struct nvmf_group *g);

/*
 * Takes in a command: req->cmd is set, capsule_data is the length of the data that came in its capsule. Sets what the
 * transport needs (dir, len, in_capsule, execute).
 * @return PLX_SC_SUCCESS, or the status that the command ends with: give that to nvmf_req_complete() once the capsule's
 * data has been skipped
 */
uint16_t nvmf_req_parse(struct nvmf_req *req, uint32_t capsule_data);

/* Runs a parsed command whose data, if any, is in req->data (FROM_HOST) or has room there (TO_HOST). */
void nvmf_req_execute(struct nvmf_req *req);

/* Ends a command; exactly once. status is an enum plx_nvme_status. */
void nvmf_req_complete(struct nvmf_req *req, uint16_t status);
/* The same, with NVME_STATUS_DNR or'ed in where retrying makes no sense, and a location for the error log. */
void nvmf_req_fail(struct nvmf_req *req, uint16_t status, unsigned location);

/* The table of pending requests. */
struct nvmf_req *nvmf_pending_find(struct nvmf_qpair *qp, uint16_t cid);
void nvmf_pending_add(struct nvmf_req *req);
void nvmf_pending_del(struct nvmf_req *req);

void nvmf_qpair_init(struct nvmf_qpair *qp, struct nvmf_group *group);
/*
 * The transport is done with a queue pair that has nothing in flight: detached() is called once the controller has let
 * go of it.
 */
void nvmf_qpair_detach(struct nvmf_qpair *qp, void (*detached)(struct nvmf_qpair *qp));
/* Ends a connection, from any thread. */
void nvmf_qpair_kill_from_afar(struct nvmf_qpair *qp);

/* ---- parsing and executing, by file ---- */

uint16_t nvmf_parse_fabrics(struct nvmf_req *req);      /* fabrics.c */
uint16_t nvmf_parse_admin(struct nvmf_req *req);        /* admin.c */
uint16_t nvmf_parse_io(struct nvmf_req *req);           /* io.c */
uint16_t nvmf_parse_identify(struct nvmf_req *req);     /* identify.c */
uint16_t nvmf_parse_get_log(struct nvmf_req *req);      /* log.c */
uint16_t nvmf_parse_set_features(struct nvmf_req *req); /* feature.c */
uint16_t nvmf_parse_get_features(struct nvmf_req *req);

/* A command's data must be dir, and exactly len bytes. */
uint16_t nvmf_expect_data(struct nvmf_req *req, enum nvmf_dir dir, uint64_t len);
/* Half of a fused command ends by itself: the other half fails with it, now or when its data is here. */
void nvmf_fused_leave(struct nvmf_req *req);
/* A command has no data. */
uint16_t nvmf_expect_no_data(struct nvmf_req *req);

/* Copies part of what a command asked for; the rest of its data is zeroed. */
void nvmf_reply(struct nvmf_req *req, const void *src, size_t len);

/* io.c: asks the disk to end a request early. */
void nvmf_io_abort(struct nvmf_req *req);
/* The disk's own memory that a lent read is to be answered from, within the present round only. */
const void *nvmf_io_map(struct nvmf_req *req);

/* feature.c: the n-th feature identifier there is, or -1. */
int nvmf_feature_id(unsigned n);
/* feature.c: all features have their defaults again. */
void nvmf_features_reset(struct nvmf_ctrlr *c);

/* ---- admin.c ---- */

/* Ends the held Asynchronous Event Requests of a controller. */
void nvmf_aers_abort(struct nvmf_ctrlr *c);

/* ---- ctrlr.c ---- */

struct nvmf_connect_info {
    struct plx_nvmf_subsystem *subsys;
    const char *hostnqn;
    const uint8_t *hostid;
    uint32_t kato_ms;
};
/* On the control reactor; NULL when there is no memory or no identifier left. */
struct nvmf_ctrlr *nvmf_ctrlr_create(struct plx_nvmf_target *t, const struct nvmf_connect_info *info,
                                     struct nvmf_qpair *admin);
struct nvmf_ctrlr *nvmf_ctrlr_find(struct plx_nvmf_target *t, const struct plx_nvmf_subsystem *s, uint16_t cntlid);
/* On the control reactor: ends all connections of a controller but those of `except`. */
void nvmf_ctrlr_kill_queues(struct nvmf_ctrlr *c, bool admin_too);
/* On the control reactor: a queue pair has gone. */
void nvmf_ctrlr_detach(struct nvmf_ctrlr *c, struct nvmf_qpair *qp);
/* On the admin queue's reactor. */
void nvmf_ctrlr_start_keep_alive(struct nvmf_ctrlr *c);
void nvmf_ctrlr_keep_alive(struct nvmf_ctrlr *c);
uint16_t nvmf_property_get(struct nvmf_ctrlr *c, uint32_t offset, unsigned bytes, uint64_t *value);
uint16_t nvmf_property_set(struct nvmf_ctrlr *c, uint32_t offset, unsigned bytes, uint64_t value);
void nvmf_ctrlr_log_error(struct nvmf_req *req, uint16_t status, unsigned location);

/* ---- subsystem.c ---- */

struct plx_nvmf_subsystem *nvmf_subsystem_find(struct plx_nvmf_target *t, const char *nqn);
/* Whether a write to one of its disks may be lost by a power cut until it is flushed. */
bool nvmf_subsystem_write_cache(const struct plx_nvmf_subsystem *s);
bool nvmf_subsystem_allows(const struct plx_nvmf_subsystem *s, const char *hostnqn);
struct nvmf_ns *nvmf_subsystem_ns(const struct plx_nvmf_subsystem *s, uint32_t nsid);
void nvmf_subsystem_destroy(struct plx_nvmf_subsystem *s);
int nvmf_discovery_create(struct plx_nvmf_target *t);
/* What is wrong with an NQN, or NULL. */
const char *nvmf_nqn_problem(const char *nqn);
/* Sums up what went through all disks of a subsystem. */
void nvmf_subsystem_stats(const struct plx_nvmf_subsystem *s, uint64_t *blocks512_read, uint64_t *blocks512_written,
                          uint64_t *reads, uint64_t *writes);

/* A text field of a data structure: padded with blanks, not terminated. */
static inline void nvmf_pad(char *field, size_t size, const char *text)
{
    memset(field, ' ', size);
    memcpy(field, text, plx_min_u64(strlen(text), size));
}

/* ---- discovery.c ---- */

/* The discovery log as one host sees it, in memory of malloc()'s, or NULL. */
void *nvmf_discovery_log(struct nvmf_ctrlr *c, struct nvmf_qpair *qp, size_t *len);

/* ---- transport.c ---- */

int nvmf_listeners_start(struct plx_nvmf_target *t);
void nvmf_listeners_stop(struct plx_nvmf_target *t);
void nvmf_listeners_free(struct plx_nvmf_target *t);

/* ---- target.c ---- */

static inline struct plx_reactor *nvmf_control_reactor(const struct plx_nvmf_target *t)
{
    return t->reactors[0];
}

static inline const struct nvmf_transport *nvmf_transport_of(const struct nvmf_qpair *qp)
{
    return qp->group->target->transport;
}

#endif
