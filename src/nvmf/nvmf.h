/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The NVMe-oF target's core: commands, not sockets. A transport (tcp/) hands it command capsules and gets completions
 * back.
 *
 * Who touches what:
 * - the control path (subsystems, the list of controllers, connecting and disconnecting) runs on the target's control
 * reactor, the first that it was given;
 * - what it has made known is a snapshot: immutable, one for all reactors, replaced as a whole on each of them by
 * message (apply.c);
 * - a queue pair, its requests and its group belong to the reactor of its connection;
 * - a controller's own state belongs to the reactor of its admin queue, but for what is marked atomic.
 */
#ifndef PLX_NVMF_NVMF_H
#define PLX_NVMF_NVMF_H

#include <pollux/nvmf.h>

#include "base/addr.h"
#include "base/apart.h"
#include "base/list.h"
#include "base/log.h"
#include "bdev/access.h"
#include "nvme/spec.h"
#include "nvmf/reservation.h"
#include "reactor/once.h"
#include "reactor/owner.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

enum {
    NVMF_PENDING_BUCKETS = 64,
    NVMF_MAX_NAMESPACES = 1024, /* of a subsystem */
    NVMF_AER_LIMIT = 4,
    NVMF_NAPIS = 64, /* queues of NICs that are remembered */
    NVMF_ABORT_LIMIT = 4,
    NVMF_ERROR_LOG = 32,
    NVMF_KATO_UNIT_MS = 100, /* KAS: keep-alive granularity */
    NVMF_ADMIN_QUEUE_ENTRIES = 32,
    NVMF_FUSED_BLOCKS = 1, /* ACWU: fused compare and write reach this many blocks */
    NVMF_DSM_RANGES = 256,
    NVMF_DSM_PIECE_BYTES = 64 << 20,   /* deallocated in one step */
    NVMF_ZEROES_PIECE_BYTES = 1 << 20, /* written in one step by Write Zeroes */
    NVMF_FLUSH_LIMIT_MS = 1500,        /* for the disks' last flush, at a stop, and what is left of the grace */
    NVMF_MAX_REQUESTS = 32768,         /* of one reactor at a time */
    NVMF_DISK_REQUESTS = 1024,         /* of those a disk may always have; more only of what is left */
    NVMF_COPY_RANGES = 128,
    NVMF_DISCOVERY_IDLE_MS = 120000, /* a discovery controller without keep-alive is dropped after this */
    NVMF_ORPHAN_MS = 2000, /* what a closed connection had in flight may keep it, and its controller, for so long */
    NVMF_LEAVE_MS = 1000,  /* until connections end that hold on to a namespace which was removed */
    NVMF_LATE_MS = 500,    /* after that, or at a stop: until its disk, which was told to abort, is late */
};

/*
 * A walk over all requests of a reactor, free ones included, but not those that are made while it goes on; `n` is
 * counted up by whoever walks.
 */
struct nvmf_walk {
    struct nvmf_slab *slab;
    unsigned n;
};

/* What one reactor needs of one namespace; its alone. */
struct nvmf_nsref {
    struct plx_bdev_channel *ch;
    struct plx_bdev *bdev;
    const struct plx_bdev_info *info;
    struct nvmf_group *group;
    uint32_t in_flight; /* requests */
    uint8_t block_shift;
    bool gone;               /* removed: nothing more is begun */
    size_t bytes;            /* of buffers that those requests hold */
    struct plx_fan_leg *leg; /* of ns->drain: answered when nothing is in flight */
    struct plx_timer limit;
    const struct plx_resv *resv; /* NULL while the namespace is not reserved */
    struct {                     /* a Preempt and Abort, while commands are waited for that it ends */
        struct plx_fan_leg *leg;
        struct plx_timer timer;
        struct nvmf_walk at; /* no request before this one is waited for */
    } expel;
} PLX_APART;
PLX_IS_APART(struct nvmf_nsref);

/*
 * A namespace: constant from plx_nvmf_subsystem_add_ns() on, but for what is marked as the control reactor's. Freed
 * when no reactor uses it any more.
 */
struct nvmf_ns {
    struct plx_list link; /* once removed: in a list of what leaves; the control reactor's */
    struct plx_nvmf_target *target;
    struct plx_nvmf_subsystem *subsys;      /* the control reactor's; NULL once removed */
    const struct plx_nvmf_subsystem *owner; /* the same, which may go once a reactor knows that this is gone */
    struct plx_bdev *bdev;
    uint32_t nsid;
    uint32_t anagrpid; /* the control reactor's */
    uint8_t nguid[16], uuid[16], eui64[8];
    bool can_persist; /* reservations do, through power loss */
    struct plx_resv_party resv;
    uint64_t before;             /* plx_nvmf_subsystem.changed, before it came; the control reactor's */
    uint64_t taken;              /* from a host, last in this generation; the same */
    bool seen;                   /* is in an image; the same */
    bool opened;                 /* has channels; the same */
    struct plx_bdev_hold *hold;  /* while it has; the same */
    struct plx_bdev_access disk; /* the control reactor's */
    struct plx_fan drain;
    bool own_uuid, own_nguid; /* given, and not derived */
    bool masked;              /* seen by those hosts alone that it is attached to */
    struct nvmf_nsref refs[]; /* by reactor */
};

/* Where and how a subsystem is reached by one listener. */
struct nvmf_port {
    uint16_t portid;                  /* 0: all those that have no entry of their own */
    bool reachable;                   /* even if the subsystem is not reachable everywhere */
    uint64_t changed;                 /* generation in which its ANA states last did */
    uint8_t ana[PLX_NVMF_ANA_GROUPS]; /* enum plx_nvmf_ana by group, of which the first is 1 */
};

struct nvmf_host {
    char nqn[NVME_NQN_MAX + 1];
};

/*
 * A subsystem: the control reactor's, but for what never changes (its NQN, serial and model number, limits, index, and
 * whether it is discovery), which is read from anywhere. It outlives its controllers.
 */
struct plx_nvmf_subsystem {
    struct plx_nvmf_target *target;
    struct plx_list link;
    char nqn[NVME_NQN_MAX + 1];
    char serial[20], model[40]; /* padded with blanks, not terminated */
    uint16_t min_cntlid, max_cntlid;
    uint32_t max_namespaces;
    unsigned index; /* among the target's subsystems */
    bool discovery;

    bool allow_any_host;
    bool everywhere;     /* reachable at every listener */
    bool dirty;          /* differs from its image */
    bool common_changed; /* so does what all its hosts see of namespaces */
    struct nvmf_host *hosts;
    unsigned nhosts;
    struct nvmf_port *ports; /* the first is for those that have none of their own */
    unsigned nports;
    struct nvmf_ns **ns;          /* by nsid - 1; NULL where there is none */
    uint64_t *changed;            /* the same: generation in which it last did; NVMF_NEXT for the one to come */
    uint32_t nns;                 /* entries of both */
    struct nvmf_viewer **viewers; /* hosts to which namespaces are attached, by name: mask.c */
    unsigned nviewers;
    unsigned nctrlrs;
    uint16_t last_cntlid;
    struct nvmf_image *image; /* its latest */
};

#define NVMF_NEXT UINT64_MAX

/* Namespaces as hosts see them. Immutable as well, shared by images, and counted in the same way. */
struct nvmf_table {
    unsigned refs;
    uint32_t nns;
    struct nvmf_image_ns {
        struct nvmf_ns *ns; /* NULL where there is none */
        uint64_t changed;   /* generation; of removed ones too */
        uint64_t taken;     /* generation in which a host last lost it, 0 for never */
        uint64_t blocks;
        uint32_t anagrpid;
    } ns[]; /* by nsid - 1 */
};

/* What at least one of its disks can do: bit 1 << enum plx_bdev_op. */
struct nvmf_abilities {
    uint32_t ops, zoned_ops; /* of disks of the NVM command set, and of zoned ones */
    uint32_t append_bytes;   /* the most that all of the latter append at once; UINT32_MAX where there are none */
};

/*
 * A subsystem as hosts see it. Immutable, and shared by the snapshots between two of its changes; which those are is
 * counted by the control reactor alone. Hosts to which namespaces are attached have an image of their own in it.
 */
struct nvmf_image {
    unsigned refs;
    const struct nvmf_image *whole; /* the subsystem's, of which this is one host's view; or itself */
    struct plx_nvmf_subsystem *subsys;
    bool allow_any_host, everywhere;
    struct nvmf_abilities can;
    unsigned nhosts, nports;
    struct nvmf_host *hosts;
    struct nvmf_port *ports;
    uint32_t nns;
    struct nvmf_image_ns *ns; /* the table's */
    struct nvmf_table *table; /* what this host sees, or hosts that have no view of their own */
    struct nvmf_table *all;   /* all that there is: the same, where nothing is attached to single hosts */
    struct nvmf_view *views;  /* by name */
    unsigned nviews;
};

/* How one host sees it; the arrays are the whole image's. */
struct nvmf_view {
    struct nvmf_image image;
    char nqn[NVME_NQN_MAX + 1];
};

/* An address, as the discovery log has it. */
struct nvmf_where {
    char addr[PLX_ADDR_TEXT];
    uint16_t port, portid;
    int family;
    bool wildcard;
};

/* All that hosts see of a target. Immutable; freed when the next one has replaced it on every reactor. */
struct nvmf_snapshot {
    uint64_t generation; /* counts snapshots */
    uint64_t genctr;     /* generation in which the discovery log last changed */
    bool in_place;       /* all disks are: data that comes in capsules is used where it was received */
    unsigned nimages, nlisteners, nreferrals;
    struct nvmf_image **images; /* by subsystem index; NULL where there is none */
    struct nvmf_where *listeners, *referrals;
};

/* All that a target has on a reactor that has connections. */
struct nvmf_group {
    struct plx_nvmf_target *target;
    unsigned index; /* of its reactor */
    struct plx_reactor *reactor;
    const struct nvmf_snapshot *snap;
    struct plx_list qpairs;
    struct nvmf_req *free_reqs;
    unsigned reqs_in_use;
    _Atomic unsigned connections; /* that are here; relaxed, and seldom changed */
    bool in_place;                /* see the snapshot; and nothing is paused */
    struct plx_list pauses, host_parts;
    uint64_t connected[2]; /* admin and I/O queue pairs since the start, */
    uint64_t completed[2]; /* and commands of those that have left */
    struct nvmf_slab *slabs;
    size_t req_size;
    void *transport;            /* its transport's */
    struct plx_fan_leg *leg;    /* of a stop under way */
    struct plx_fan_leg *taking; /* of an apply, while hosts have commands in flight that it takes from them: mask.c */
    struct nvmf_walk taking_at; /* no request before this one is one of them */
    uint64_t taking_since;
    struct plx_timer take;
} PLX_APART;
PLX_IS_APART(struct nvmf_group);

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
    char name[64];  /* for logs: "controller 3" */
    uint64_t since; /* reactor time */

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
    unsigned aborts;        /* under way */
    uint32_t events;        /* that happened and wait for a request to be told by: bits of nvmf_events() */
    uint32_t events_masked; /* that were told, until the host has read their log page */
    uint64_t ns_seen;       /* generation in which it read which namespaces have changed */
    struct nvmf_resv_log resv_log;
    uint8_t resv_mask[NVMF_MAX_NAMESPACES]; /* feature 82h, by nsid - 1: bits 1 << enum nvme_resv_notice */
    uint64_t last_keep_alive;               /* reactor time */
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

enum nvmf_event {
    NVMF_EVENT_NS = 1 << 8,                 /* Namespace Attribute Changed */
    NVMF_EVENT_ANA = 1 << 11,               /* Asymmetric Namespace Access Change */
    NVMF_EVENT_RESERVATION = 1 << 30,       /* Reservation Log Page Available: feature 82h has it, and not 0Bh */
    NVMF_EVENT_DISCOVERY = (int)(1u << 31), /* Discovery Log Page Change */
};

/*
 * Events that a controller sends, as OAES and feature 0Bh have them. Of an NVM controller: changed namespaces, and ANA
 * states; of a discovery controller: its log.
 */
static inline uint32_t nvmf_events(const struct nvmf_ctrlr *c)
{
    return c->subsys->discovery ? (uint32_t)NVMF_EVENT_DISCOVERY : NVMF_EVENT_NS | NVMF_EVENT_ANA;
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
    NVMF_REQ_PAUSED,    /* the same: its namespace is paused */
    NVMF_REQ_LIMITED,   /* the same: it waits for the rate limit of its host */
    NVMF_REQ_EXECUTING, /* the core */
    NVMF_REQ_DONE,      /* its transport again: the response is on its way */
};

struct nvmf_req;
typedef void (*nvmf_execute_fn)(struct nvmf_req *req);

/* A command: allocated once, used again and again, embedded in its transport's. Hot members first. */
struct nvmf_req {
    struct nvmf_req *next; /* free list, or a queue of the transport's */
    struct nvmf_qpair *qp; /* NULL while it is not in use */
    struct nvmf_nsref *ns; /* counted there */

    nvmf_execute_fn execute; /* from here to cqe.dw1: zero in a new one */
    uint8_t *data;           /* the command's data, or NULL; its transport's memory */
    struct nvmf_req *mate;   /* the other half of a fused command */
    uint32_t len;            /* bytes of data */
    uint32_t step;           /* of commands that take several requests to the disk */
    uint32_t done;           /* blocks of a command that is done piece by piece */
    uint8_t dir;             /* enum nvmf_dir */
    uint8_t state;           /* enum nvmf_req_state */
    bool in_capsule;
    bool in_place; /* FROM_HOST: the data is not needed any more once execute has returned */
    bool lent;     /* data is the disk's own memory, mapped when it is sent */
    bool pending;  /* in the table of pending requests */
    bool between;  /* two requests to the disk: see u.later */
    bool fused_first;
    uint16_t abort_status; /* what it is to end with instead of being executed; 0 for nothing */
    bool taken;            /* its host does not see its namespace any more */
    uint32_t capsule_off;  /* where in what came in the capsule the command's data begins */
    struct nvme_cqe cqe;
    uint32_t capsule_data; /* bytes of data that came in the capsule */
    struct nvme_cmd cmd;
    struct nvmf_req *chain; /* next in its bucket of pending requests */
    uint64_t start;         /* reactor time at which the command came */
    union {
        struct {
            struct plx_msg msg;
            struct nvmf_qpair *qp; /* whose command is to be aborted */
            bool aborted;
        } abort;
        struct {
            struct plx_msg msg;
            nvmf_execute_fn fn;
        } later; /* of commands that go on in another round */
        struct {
            struct plx_list link;    /* while it is held */
            nvmf_execute_fn execute; /* what it is to do when that is over */
            bool lent;               /* so it was parsed */
            nvmf_execute_fn limited; /* what it is to do when its host's rate limit lets it: hostlimit.c */
        } held;                      /* of commands for a namespace that is paused, or of a host that is limited */
    } u;
    struct iovec iov[2];
    union {
        struct plx_bdev_req bio;
        struct plx_resv_op resv; /* of commands that no disk sees */
    };
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
    void (*free_listener)(struct plx_nvmf_listener *l); /* whether it takes connections or not */

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
    /* Ends the connection: no command comes from it any more. Ends later with nvmf_qpair_detach(). */
    void (*kill)(struct nvmf_qpair *qp, const char *why);
    /* Where a request is that it has (NVMF_REQ_TRANSPORT). */
    enum plx_nvmf_stage (*stage)(const struct nvmf_req *req);
    /* The local address, for the discovery log; AF_UNSPEC where there is none. */
    void (*local_addr)(struct nvmf_qpair *qp, struct sockaddr_storage *ss);
};

extern const struct nvmf_transport nvmf_transport_tcp;

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
    /* The group's snapshot's; replaced with it, so nobody keeps them for another round. */
    const struct nvmf_image *image;
    struct nvmf_nsref *last; /* that of the last I/O command, which is likely to be the next one's too; or NULL */
    uint32_t last_nsid;
    struct plx_list link; /* in group->qpairs */
    uint16_t portid;      /* of the listener that it came by, set by its transport; 0 for none */
    uint16_t qid;
    uint16_t entries;
    uint16_t sqhd;
    uint8_t state; /* enum nvmf_qpair_state */
    bool plain;    /* ready, and every namespace accessible and not reserved: I/O commands need no closer look */
    bool no_sq_flow;
    uint32_t in_flight;               /* requests between capsule and response */
    uint32_t paused;                  /* of these: NVMF_REQ_PAUSED */
    uint64_t completed;               /* commands */
    uint64_t since;                   /* reactor time at which its connection came */
    bool header_digest, data_digest;  /* its transport's, to be told */
    struct nvmf_req *fused;           /* first half of a fused command whose second half must come next */
    bool active;                      /* a command came since the transport last told the controller */
    bool fused_failed;                /* the first half of a fused command was refused */
    struct nvmf_host_part *host_part; /* its host's rate limits here, or NULL */
    uint8_t access;                   /* enum plx_resv_access, to the namespace access_nsid, which may be 0 */
    uint32_t access_nsid;
    uint8_t placed; /* enum plx_nvmf_placed */
    int incoming_cpu;
    struct plx_msg kill_msg;
    _Atomic bool kill_sent;
    struct plx_msg detach_msg;
    void (*detached)(struct nvmf_qpair *qp); /* called on the queue pair's reactor */
    char peer[PLX_ADDR_TEXT], local[PLX_ADDR_TEXT];
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

/* Making what was edited visible to hosts: see apply.c. */
enum nvmf_apply_step {
    NVMF_APPLY_IDLE,
    NVMF_APPLY_OPEN,    /* channels of new disks are opened */
    NVMF_APPLY_PUBLISH, /* the snapshot goes to every reactor */
    NVMF_APPLY_TELL,    /* hosts are told what it changes */
    NVMF_APPLY_TAKE,    /* what hosts have in flight ends, for namespaces that others see yet */
    NVMF_APPLY_RELEASE, /* what was taken away is let go of */
};

/* One who waits for an apply. */
struct nvmf_caller {
    struct plx_list link;
    plx_nvmf_done_fn done;
    void *arg;
    bool allocated;
};

struct nvmf_apply {
    enum nvmf_apply_step step;
    bool starting;   /* the target's first one, which fails as a whole */
    uint64_t taking; /* the first generation since the last apply in which a namespace was taken from a host, or 0 */
    int result;
    unsigned opening;
    struct nvmf_snapshot *next, *old;
    struct plx_list callers, later;            /* of this one, and of the one after it */
    struct plx_list ns, subsystems, listeners; /* that leave */
    struct plx_fan fan;
};

/* A start or a stop: see target.c. */
enum nvmf_phase_step {
    NVMF_PHASE_OPEN,  /* start: transports on every reactor */
    NVMF_PHASE_SERVE, /* the first snapshot, listeners */
    NVMF_PHASE_SERVED,
    NVMF_PHASE_DRAIN, /* stop: no new connections, what is in flight finishes */
    NVMF_PHASE_FLUSH, /* disks */
    NVMF_PHASE_LEAVE, /* channels are put back */
    NVMF_PHASE_CLOSE, /* transports end */
    NVMF_PHASE_END,
};

struct nvmf_phase {
    plx_nvmf_done_fn done;
    void *arg;
    enum nvmf_phase_step step;
    int result;
    uint32_t grace_ms;
    uint64_t stop_by; /* reactor time: the grace, and NVMF_FLUSH_LIMIT_MS */
    unsigned flushing;
    struct plx_msg msg;
    struct plx_fan fan;
    struct nvmf_caller caller; /* of the apply that is a part of it */
};

enum nvmf_target_state {
    NVMF_STOPPED,
    NVMF_STARTING,
    NVMF_RUNNING,
    NVMF_STOPPING,
};

struct plx_nvmf_target {
    struct plx_nvmf_opts opts;
    struct plx_reactor *control;   /* may be none of those that have connections */
    struct plx_reactor **reactors; /* that have */
    unsigned nreactors;
    struct nvmf_group *groups; /* of each of these */
    const struct nvmf_transport *transport;
    struct plx_list ctrlrs;
    uint16_t last_cntlid, last_portid;
    unsigned next_group; /* for the next connection, of several that are as good */
    struct nvmf_napi {   /* queues of NICs, by which connections came lately */
        unsigned id, group;
    } napis[NVMF_NAPIS];
    unsigned next_napi;
    _Atomic unsigned connections;
    uint64_t started_at; /* reactor time */

    /* What hosts are to see, as it is edited. */
    struct plx_list subsystems;
    struct plx_nvmf_subsystem *discovery;
    struct plx_list listeners; /* of plx_nvmf_listener */
    struct nvmf_where *referrals;
    unsigned nreferrals;
    bool discovery_changed;
    uint64_t taken; /* what the next apply's `taking` is to be */
    /* Removed since the last apply; and what an apply did not wait for any longer. */
    struct plx_list removed_ns, removed_subsystems, removed_listeners;
    struct plx_list late_ns;
    struct plx_list pauses;

    /* What they see. */
    struct nvmf_snapshot *snap; /* the latest that was published */
    uint64_t generation, genctr;
    struct nvmf_apply apply;
    unsigned queries; /* under way: query.c */
    struct plx_list host_groups;
    unsigned host_changes; /* of them, under way: hostlimit.c */
    enum nvmf_target_state state;
    struct nvmf_phase phase;
};

/* ---- qpair.c: requests and queue pairs ---- */

/* A request for a new command, or NULL when there is no memory. */
struct nvmf_req *nvmf_req_get(struct nvmf_qpair *qp);
void nvmf_req_put(struct nvmf_req *req);
void nvmf_slabs_free(struct nvmf_group *g);
/* Calls fn for each request of a namespace. */
void nvmf_reqs_of(struct nvmf_nsref *ref, void (*fn)(struct nvmf_req *req));
struct nvmf_walk nvmf_walk_from(const struct nvmf_group *g);
/* The request that it is at, or NULL at its end. */
struct nvmf_req *nvmf_walk_req(const struct nvmf_group *g, struct nvmf_walk *w);
/* The same for each there is memory for; those not in use have no namespace. */
void nvmf_reqs_each(const struct nvmf_group *g, void (*fn)(struct nvmf_req *req, void *arg), void *arg);
/* Goes on with a walk for a while. @return whether there are more: in another round */
bool nvmf_reqs_some(const struct nvmf_group *g, struct nvmf_walk *w, void (*fn)(struct nvmf_req *req, void *arg),
                    void *arg);
/* Asks a request to end early, whoever has it. @return true if it was, or will be, without being executed */
bool nvmf_req_abort(struct nvmf_req *req);

/*
 * Takes in a command: req->cmd is set, capsule_data is the length of the data that came in its capsule. Sets what the
 * transport needs (dir, len, in_capsule, execute).
 * @return PLX_SC_SUCCESS, or the status that the command ends with: give that to nvmf_req_complete() once the capsule's
 * data has been skipped
 */
uint16_t nvmf_req_parse(struct nvmf_req *req, uint32_t capsule_data);

/* Runs a parsed command whose data, if any, is in req->data (FROM_HOST) or has room there (TO_HOST). */
void nvmf_req_execute(struct nvmf_req *req);

/* Ends a command; exactly once. status is an enum plx_nvme_status, with NVME_STATUS_DNR where retrying is of no use. */
void nvmf_req_complete(struct nvmf_req *req, uint16_t status);

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
/*
 * Its connection is closed: what has not begun is put back, by the transport's `put`, and disks are asked to end what
 * they have, which comes back by `complete` as ever.
 */
void nvmf_qpair_close(struct nvmf_qpair *qp, void (*put)(struct nvmf_req *req));
/*
 * What disks still have of a connection that is closed goes to another one, `to`, that is never open: the transport
 * gets its memory back when the disk has ended it, and the connection can be let go of.
 */
void nvmf_qpair_orphan(struct nvmf_qpair *qp, struct nvmf_qpair *to);
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

/* Fetches the memory of what may be a write that comes next, on a queue pair that has a namespace. */
void nvmf_io_fetch(struct nvmf_qpair *qp, const uint8_t *raw);

/* feature.c: the n-th feature identifier there is, or -1. */
int nvmf_feature_id(unsigned n);
/* feature.c: all features have their defaults again. */
void nvmf_features_reset(struct nvmf_ctrlr *c);

/* ---- admin.c ---- */

/* Ends the held Asynchronous Event Requests of a controller. */
void nvmf_aers_abort(struct nvmf_ctrlr *c);
/* Whether it would be told. */
bool nvmf_event_wanted(const struct nvmf_ctrlr *c, enum nvmf_event event);
/* An event has happened, one bit of nvmf_events(): its host is told, if it wants to be, now or when it asks. */
void nvmf_event(struct nvmf_ctrlr *c, enum nvmf_event event);
/* The host has read a log page: it knows now, and may be told of what comes next. */
void nvmf_event_clear(struct nvmf_ctrlr *c, uint8_t lid);

/* ---- ctrlr.c ---- */

/* On the control reactor; NULL when there is no memory or no identifier left. */
struct nvmf_ctrlr *nvmf_ctrlr_create(struct plx_nvmf_subsystem *s, const struct nvme_connect_data *host,
                                     uint32_t kato_ms, struct nvmf_qpair *admin);
struct nvmf_ctrlr *nvmf_ctrlr_find(struct plx_nvmf_target *t, const struct plx_nvmf_subsystem *s, uint16_t cntlid);
/* On the control reactor: ends the connections of a controller's I/O queues. */
void nvmf_ctrlr_kill_queues(struct nvmf_ctrlr *c);
/* On the control reactor: a queue pair has gone. */
void nvmf_ctrlr_detach(struct nvmf_ctrlr *c, struct nvmf_qpair *qp);
/* On the admin queue's reactor: it has an admin queue. */
void nvmf_ctrlr_start(struct nvmf_ctrlr *c);
void nvmf_ctrlr_start_keep_alive(struct nvmf_ctrlr *c);
void nvmf_ctrlr_keep_alive(struct nvmf_ctrlr *c);
uint16_t nvmf_property_get(struct nvmf_ctrlr *c, uint32_t offset, unsigned bytes, uint64_t *value);
uint16_t nvmf_property_set(struct nvmf_ctrlr *c, uint32_t offset, unsigned bytes, uint64_t value);
void nvmf_ctrlr_log_error(struct nvmf_req *req, uint16_t status);

/* ---- subsystem.c ---- */

int nvmf_discovery_create(struct plx_nvmf_target *t);
void nvmf_subsystem_free(struct plx_nvmf_subsystem *s);
/* Subsystems forget what they knew of a listener. */
void nvmf_subsystems_forget_port(struct plx_nvmf_target *t, uint16_t portid);
/* SHA-256, of which the beginning is used to derive identities. */
void nvmf_digest(const char *text, size_t len, uint8_t out[32]);

/* ---- namespace.c ---- */

/* On the control reactor; NULL with err filled when there is none. */
struct nvmf_ns *nvmf_ns_find(const struct plx_nvmf_subsystem *s, uint32_t nsid, struct plx_error *err);

/* Takes a namespace out of its subsystem: it leaves with the next apply, or at once if it never was visible. */
void nvmf_ns_remove(struct nvmf_ns *ns);
/* It could not be opened for the snapshot under way: it never was there. */
void nvmf_ns_undo(struct nvmf_ns *ns);
/* Holds its disk, and opens its channels; ends with nvmf_apply_opened(). @return 0, or -errno when it cannot be held */
int nvmf_ns_open(struct nvmf_ns *ns);
/*
 * Ends its requests on every reactor, puts its channels back when there are none any more, and frees it; ends with
 * nvmf_apply_released().
 */
void nvmf_ns_leave(struct nvmf_ns *ns);
/* Nothing is in flight on a reactor any more. */
void nvmf_ns_drained(struct nvmf_nsref *ref);
void nvmf_ns_free(struct nvmf_ns *ns);
/* Nobody asks its reactors about reservations any more. */
void nvmf_resv_left(struct nvmf_ns *ns);

/*
 * A disk that is slow, or hangs, holds what its requests are made of. It may hold twice as much of it as is left over
 * for others: alone two thirds, with a second one like it two fifths each, and so on, so something is left always.
 * @return how many more requests, or bytes of buffers, that are
 */
static inline size_t nvmf_share_left(size_t held, size_t left)
{
    return held < 2 * left ? (2 * left - held) / 3 : 0;
}

static inline size_t nvmf_disk_bytes_left(const struct nvmf_nsref *ref)
{
    return nvmf_share_left(ref->bytes, plx_buf_free_bytes(ref->group->reactor));
}

static inline size_t nvmf_disk_requests_left(const struct nvmf_nsref *ref)
{
    size_t in_use = plx_min_u64(ref->group->reqs_in_use, NVMF_MAX_REQUESTS);
    return nvmf_share_left(ref->in_flight, NVMF_MAX_REQUESTS - in_use);
}

/* Whether a disk has so many requests that another one is not given to it. */
static inline bool nvmf_disk_full(const struct nvmf_nsref *ref)
{
    return plx_unlikely(ref->in_flight >= NVMF_DISK_REQUESTS) && !nvmf_disk_requests_left(ref);
}

/* A request is for a namespace, which stays until it has ended or left it. */
static inline void nvmf_req_enter_ns(struct nvmf_req *req, struct nvmf_nsref *ref)
{
    req->ns = ref;
    ref->in_flight++;
}

/* Whether its namespace is not there any more for its host, and its end has to tell that. */
static inline bool nvmf_req_lost(const struct nvmf_req *req)
{
    return req->ns && (req->ns->gone || req->taken);
}

/* and no more. */
static inline void nvmf_req_leave_ns(struct nvmf_req *req)
{
    struct nvmf_nsref *ref = req->ns;
    if (!ref)
        return;
    req->ns = NULL;
    if (plx_unlikely(!--ref->in_flight && ref->leg))
        nvmf_ns_drained(ref);
}

/* ---- pause.c: on the control reactor ---- */

/* Pauses of a subsystem that was removed, and has no hosts any more, end. */
void nvmf_pauses_leave(const struct plx_nvmf_subsystem *s);
bool nvmf_pauses_of(const struct plx_nvmf_subsystem *s);
/* The target stops, and no pause waits for disks any longer. @return false: ends with nvmf_target_may_stop() */
bool nvmf_pauses_stop(struct plx_nvmf_target *t);
void nvmf_pauses_free(struct plx_nvmf_target *t);

/* ---- hostlimit.c ---- */

/* The limits of a queue pair's host on its reactor, or NULL. */
struct nvmf_host_part *nvmf_host_part(const struct nvmf_qpair *qp);
/* A command of a queue pair that has them was parsed: it may have to wait before it is executed, by this. */
void nvmf_host_limit_parsed(struct nvmf_req *req);
void nvmf_host_limit_execute(struct nvmf_req *req);
/* A reactor's connections are to end: nothing waits for limits any more. */
void nvmf_host_limits_stop(struct nvmf_group *g);
/* It has none any more. */
void nvmf_host_limits_close(struct nvmf_group *g);
void nvmf_host_limits_free(struct plx_nvmf_target *t);

/* on the reactor of a request, or queue pair */

/* Whether the disk is to be left alone. */
bool nvmf_ns_paused(const struct nvmf_nsref *ref);
/* Whether commands of a queue pair that has a controller are to be looked at for that. */
bool nvmf_paused(const struct nvmf_qpair *qp);
/* A command was parsed, of such a queue pair: it waits when its data is here, if its namespace is paused then. */
void nvmf_pause_parsed(struct nvmf_req *req);
/*
 * A command is about to go to the disk of a namespace. @return false if it may; else it is held, unless it ends before
 * that, until `execute` is called
 */
bool nvmf_pause_hold(struct nvmf_req *req, const struct nvmf_nsref *ref, nvmf_execute_fn execute);
/*
 * Holds a command (NVMF_REQ_PAUSED, NVMF_REQ_LIMITED), in a list of whoever lets it go on later, by `execute`. A stop
 * does not wait for what is paused.
 */
void nvmf_req_hold(struct nvmf_req *req, enum nvmf_req_state state, struct plx_list *held, nvmf_execute_fn execute);
/* What may be held, by either, is to end, or goes on. */
void nvmf_pause_forget(struct nvmf_req *req);

/* ---- snapshot.c ---- */

/* What hosts are to see now, with namespaces whose channels are not open yet; or NULL. */
struct nvmf_snapshot *nvmf_snapshot_make(struct plx_nvmf_target *t);
/* Takes a namespace out of a snapshot that has not been published. */
void nvmf_snapshot_omit(struct nvmf_snapshot *snap, const struct nvmf_ns *ns);
void nvmf_snapshot_free(struct nvmf_snapshot *snap);
void nvmf_image_put(struct nvmf_image *image);
struct nvmf_table *nvmf_table_new(uint32_t nns);
void nvmf_table_put(struct nvmf_table *table);
/* A namespace as it is now. */
void nvmf_image_show(struct nvmf_image_ns *entry, struct nvmf_ns *ns);
/* The image of a subsystem by its NQN, or NULL. */
const struct nvmf_image *nvmf_snapshot_find(const struct nvmf_snapshot *snap, const char *nqn);
bool nvmf_image_allows(const struct nvmf_image *image, const char *hostnqn);
bool nvmf_image_reachable(const struct nvmf_image *image, uint16_t portid);
/* A namespace, or NULL. */
const struct nvmf_image_ns *nvmf_image_ns(const struct nvmf_image *image, uint32_t nsid);
const struct nvmf_port *nvmf_image_port(const struct nvmf_image *image, uint16_t portid);
/* What a path to a namespace's group ends commands with (Base 8.1.1), or PLX_SC_SUCCESS. */
uint16_t nvmf_ana_status(const struct nvmf_port *port, uint32_t anagrpid);
/* Sums up what went through all disks of a subsystem. */
void nvmf_image_stats(const struct nvmf_image *image, uint64_t *blocks512_read, uint64_t *blocks512_written,
                      uint64_t *reads, uint64_t *writes);

/* ---- mask.c ---- */

/* A namespace that is attached to hosts has changed. */
void nvmf_mask_touch(struct plx_nvmf_subsystem *s, uint32_t nsid);
/* It is attached to none any more. */
void nvmf_mask_forget(struct plx_nvmf_subsystem *s, uint32_t nsid);
void nvmf_mask_free(struct plx_nvmf_subsystem *s);
/* Hosts' views of an image that is otherwise whole. @return false without memory */
bool nvmf_mask_make(struct plx_nvmf_subsystem *s, struct nvmf_image *image);
/* Takes a namespace out of those, as nvmf_snapshot_omit() does. */
void nvmf_mask_omit(struct nvmf_image *image, const struct nvmf_ns *ns);
/* What a host sees of a subsystem; NULL of NULL. */
const struct nvmf_image *nvmf_image_seen_by(const struct nvmf_image *image, const char *hostnqn);
/*
 * A leg of the apply: ends what hosts have in flight for namespaces that were taken from them, and answers when it has
 * ended, or with -ETIMEDOUT.
 */
void nvmf_mask_take_here(struct plx_fan_leg *leg);

/* ---- apply.c ---- */

int nvmf_apply_init(struct plx_nvmf_target *t);
/* One that nobody has asked for: its result shows in the log. */
void nvmf_apply_unasked(struct plx_nvmf_target *t);
/* The first snapshot, which fails as a whole. */
void nvmf_apply_start(struct plx_nvmf_target *t, struct nvmf_caller *caller);
/* Removes all namespaces of a target that has no hosts any more. */
void nvmf_apply_leave(struct plx_nvmf_target *t, struct nvmf_caller *caller);
/* The disk of a namespace that leaves does not let go of it: it is not waited for any longer, and goes when it can. */
void nvmf_apply_late(struct plx_nvmf_target *t, struct nvmf_ns *ns);
/* A namespace's channels are open, or were not to be had: then it is gone. */
void nvmf_apply_opened(struct plx_nvmf_target *t, struct nvmf_ns *ns, int result);
/* Something that was removed is gone for good. */
void nvmf_apply_released(struct plx_nvmf_target *t);
/* What of a group follows from its snapshot, and from what is paused. */
void nvmf_group_see(struct nvmf_group *g);
/* A queue pair has become one of a controller: it sees the group's snapshot. */
void nvmf_qpair_see(struct nvmf_qpair *qp);

/* A text field of a data structure: padded with blanks, not terminated. */
static inline void nvmf_pad(char *field, size_t size, const char *text)
{
    memset(field, ' ', size);
    memcpy(field, text, plx_min_u64(strlen(text), size));
}

/* ---- discovery.c ---- */

/* The discovery log as one host sees it by a snapshot, in memory of malloc()'s, or NULL. */
void *nvmf_discovery_log(const struct nvmf_snapshot *snap, struct nvmf_qpair *qp, size_t *len);

/* ---- transport.c ---- */

/*
 * Listens at those that do not yet. Where that fails *result is set, if it is not yet, and the listener is removed,
 * with an apply of its own; with `all`, none is left listening.
 */
void nvmf_listeners_start(struct plx_nvmf_target *t, bool all, int *result);
/* Nobody is listened for any more, those included that were removed and not applied. */
void nvmf_listeners_stop(struct plx_nvmf_target *t);
/* Frees those that leave with the apply under way. */
void nvmf_listeners_reap(struct plx_nvmf_target *t);
void nvmf_listeners_free(struct plx_nvmf_target *t);

/* ---- target.c ---- */

/* No apply, pause or query is under way any more: a stop that has waited for that begins. */
void nvmf_target_may_stop(struct plx_nvmf_target *t);

/* What hosts are to see is edited before the target runs, or on its control reactor. */
#define nvmf_assert_control(t) ((t)->snap ? plx_assert_here(nvmf_control_reactor(t)) : (void)0)

/* A namespace as the reactor of a queue pair uses it, which has an image; or NULL. */
static inline struct nvmf_nsref *nvmf_ref(const struct nvmf_qpair *qp, uint32_t nsid)
{
    struct nvmf_ns *ns = nsid - 1 < qp->image->nns ? qp->image->ns[nsid - 1].ns : NULL;
    return ns ? &ns->refs[qp->group->index] : NULL;
}

static inline struct plx_reactor *nvmf_control_reactor(const struct plx_nvmf_target *t)
{
    return t->control;
}

static inline const struct nvmf_transport *nvmf_transport_of(const struct nvmf_qpair *qp)
{
    return qp->group->target->transport;
}

#endif
