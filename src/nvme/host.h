/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The NVMe host, for the rooms above: an association with a controller, its queue pairs, and commands to it.
 *
 * An association (struct nvme_ctrlr) belongs to one reactor with all its queue pairs, the admin queue among them; every
 * function here is called on that reactor, or before it runs, and every callback comes on it. When its connection is
 * lost an association makes itself anew, again and again until it is destroyed; what was in flight comes back as lost,
 * for its owner to try again there or elsewhere.
 */
#ifndef PLX_NVME_HOST_H
#define PLX_NVME_HOST_H

#include "base/addr.h"
#include "base/iov.h"
#include "nvme/spec.h"

#include <netinet/in.h>
#include <pollux/reactor.h>

struct nvme_ctrlr;
struct nvme_qp;
struct nvme_transport;

struct nvme_uring_node;

extern const struct nvme_transport nvme_tcp, nvme_pcie, nvme_uring;

/* As bits 1:0 of an opcode have it: Base 3.3.3.1. */
enum nvme_dir {
    NVME_NO_DATA,
    NVME_FROM_HOST,
    NVME_TO_HOST,
};

/* What a command says: struct nvme_cmd but for what the transport puts between, which is where its data is. */
struct nvme_words {
    union {
        struct {
            uint8_t opcode;
            uint8_t flags; /* fused: NVME_FUSE_MASK */
            plx_le16 cid;  /* the queue pair's, while it is in flight */
            plx_le32 nsid;
        };
        plx_le64 head;
    };
    union {
        struct {
            plx_le32 cdw10, cdw11, cdw12, cdw13, cdw14, cdw15;
        };
        plx_le64 cdws[3]; /* the same, two at a time */
    };
};
_Static_assert(sizeof(struct nvme_words) == 32, "");

/*
 * nvme_req.forever of a command of struct nvme_pass, of which nobody knows how much it transfers. One at a time of an
 * association, in memory of malloc().
 */
enum { NVME_RAW = 2 };

/*
 * A command. Memory of the caller's, who leaves it, its iovec and its data alone from submission until done is called.
 * The upper fields are the caller's to set, and are left as they are, so that it can be submitted again.
 */
struct nvme_req {
    /* Called exactly once, never before nvme_submit() or nvme_submit_admin() returns. */
    void (*done)(struct nvme_req *req);
    struct plx_iov_at data;
    uint32_t len;    /* bytes of data */
    uint8_t dir;     /* enum nvme_dir */
    uint8_t forever; /* may stay unanswered, as an Asynchronous Event Request: true, or NVME_RAW */
    uint8_t fused;   /* bool: the first half of a fused command: `next` is the second, which is submitted by
                      nvme_submit_fused() alone */

    bool lost;         /* result: the connection went before there was an answer; there is no status */
    uint16_t status;   /* result: enum plx_nvme_status, perhaps with NVME_STATUS_DNR */
    uint32_t dw0, dw1; /* result */

    /* The queue pair's. */
    union {
        struct {
            uint8_t aborting; /* enum nvme_aborting */
            bool waiting;     /* in the queue pair's backlog */
            uint16_t epoch;   /* when it was issued, in ticks */
        };
        uint32_t progress; /* these, at one go */
    };
    struct nvme_qp *qp; /* NULL when it is none's */
    struct nvme_req *next;

    struct nvme_words cmd; /* the caller's too, but for cid */
};

enum {
    NVME_DEPTH_DEFAULT = 128,
    NVME_DEPTH_MAX = 1024,
    NVME_QUEUES_MAX = 128,
    NVME_MAX_TRANSFER = 1 << 20, /* of a command, where the controller states no lower limit */
    NVME_ADDRS_MAX = 4,          /* that are tried of a name */
    NVME_TIMEOUT_MAX_S = 30000,  /* twice that is counted in 16 bits of ticks */
};

struct nvme_addr {
    struct sockaddr_storage addr; /* IPv4 or IPv6; of no use over PCIe */
    char name[PLX_ADDR_TEXT];     /* for people: "192.0.2.1:4420"; over PCIe that is all there is: "0000:01:00.0" */
};

/* All addresses of a host's name, one as good as the other: no paths, but what an attempt to connect tries in turn. */
struct nvme_addrs {
    struct nvme_addr list[NVME_ADDRS_MAX];
    unsigned n;
};

/* How to reach a controller. */
struct nvme_opts {
    const struct nvme_transport *transport;
    struct nvme_addrs addrs;
    char subnqn[NVME_NQN_FIELD];
    char hostnqn[NVME_NQN_FIELD];
    uint8_t hostid[16];
    bool hdgst, ddgst;           /* ask for digests */
    bool quiet;                  /* why it could not be connected to at first is for failed() to tell */
    bool cmb;                    /* over PCIe: submission queues are in the controller's memory, if it has any */
    bool sq_flow;                /* do not ask to do without SQ flow control */
    uint32_t nsid;               /* the namespace to look at; 0 for the first, NVME_NSID_ALL for none */
    uint32_t queues;             /* I/O queue pairs; 0 for none */
    uint32_t depth;              /* commands in flight of each */
    uint32_t kato_ms;            /* keep-alive timeout; 0 for none */
    uint32_t timeout_ms;         /* of a command: then it is aborted, and after as long again the connection reset */
    uint32_t connect_timeout_ms; /* of one attempt to connect, to each address */
    uint32_t max_transfer;       /* of a command, whatever the controller takes; 0 for any */
    /* Over PCIe: Arbitration as Set Features has it (Base 5.1.25.1.1), and the class of queues (QPRIO). */
    struct {
        uint8_t burst, low, medium, high; /* all 0: as the device has it */
        uint8_t priority;                 /* 0, urgent, to 3, low */
    } arbitration;
    /* Of protection information, over PCIe: see protect.h. */
    bool prchk_guard, prchk_reftag, check_apptag;
    uint16_t apptag;
    /* Of transport nvme_uring; the caller's, for longer than the association. */
    struct nvme_uring_node *node;
};

enum { NVME_PATHS_MAX = 8 };

/*
 * A controller, or several of one subsystem, as people name them: //ADDR:PORT,ADDR:PORT/NQN and parameters. See
 * where.c.
 */
struct nvme_where {
    struct nvme_opts o; /* of all paths; addrs are those of the first */
    struct nvme_addrs paths[NVME_PATHS_MAX];
    unsigned npaths;
    bool round_robin;               /* over the paths that are equally good */
    uint32_t reconnect_deadline_ms; /* requests wait no longer than that for a path; 0 for any time */
};

#define NVME_WHERE_PARAMS                                                                                              \
    "nsid hdgst ddgst hostnqn hostid queues depth kato timeout connect_timeout reconnect_deadline policy sqflow "      \
    "uuid"

#define NVME_PCIE_PARAMS                                                                                               \
    "depth timeout connect_timeout reconnect_deadline cmb prchk_guard prchk_reftag apptag arbitration_burst "          \
    "low_priority_weight medium_priority_weight high_priority_weight priority uuid"

/* The defaults. */
void nvme_where_init(struct nvme_where *w);
/*
 * ADDR, ADDR:PORT, [V6], [V6]:PORT; names are looked up, which may take time. Adds a path. @return 0 or -errno with err
 * filled
 */
int nvme_where_addr(struct nvme_where *w, const char *text, size_t len, uint16_t port, struct plx_error *err);
/* //ADDR:PORT,ADDR:PORT/NQN */
int nvme_where_body(struct nvme_where *w, const char *body, struct plx_error *err);
/* //0000:01:00.0/NSID, or without a namespace for the first */
int nvme_where_pcie(struct nvme_where *w, const char *body, struct plx_error *err);
/* One of NVME_WHERE_PARAMS. */
int nvme_where_param(struct nvme_where *w, const char *key, const char *value, struct plx_error *err);
/* key=value&key=value, or NULL for none. */
int nvme_where_query(struct nvme_where *w, const char *params, struct plx_error *err);
/* After all of those: who we are, unless that was said. */
int nvme_where_finish(struct nvme_where *w, struct plx_error *err);
/* All of it: nvme+tcp://ADDR:PORT/NQN?key=value&key=value */
int nvme_where_parse(struct nvme_where *w, const char *url, struct plx_error *err);
/* The options for one path. */
struct nvme_opts nvme_where_opts(const struct nvme_where *w, unsigned path);

/* What was learnt about the namespace. */
struct nvme_ns {
    uint32_t nsid; /* 0: there is none */
    struct nvme_id_ns id;
    struct nvme_id_ctrl_nvm limits; /* zeroes where the controller has no such page */
    uint8_t uuid[16];
    bool has_uuid;
    uint8_t csi;
    uint32_t elbaf; /* Extended LBA Format of the one that it has: NVM 4.1.5.3; 0 where there is none */
    /* Of a zoned one: */
    uint64_t zone_blocks;
    uint16_t zoc, ozcs;            /* NVME_ZOC_, NVME_OZCS_ */
    uint32_t max_open, max_active; /* 0: no limit */
    uint8_t zasl;                  /* of an append, as MDTS; 0: that is the limit */
};

/* Whether a namespace is certainly the one it was; without identifiers in this page that cannot be told. */
bool nvme_same_identity(const struct nvme_id_ns *was, const struct nvme_id_ns *now);

static inline unsigned nvme_ns_format_index(const struct nvme_id_ns *id)
{
    return (id->flbas & 15u) | (id->flbas >> 5 & 3u) << 4;
}

/* The format that it has: metadata bytes in bits 15:0, block size as a power of two in bits 23:16. */
static inline uint32_t nvme_ns_format(const struct nvme_id_ns *id)
{
    return plx_get32(id->lbaf[nvme_ns_format_index(id)]);
}

enum nvme_ana_state {
    NVME_ANA_OPTIMIZED = 1,
    NVME_ANA_NON_OPTIMIZED = 2,
    NVME_ANA_INACCESSIBLE = 3,
    NVME_ANA_PERSISTENT_LOSS = 4,
    NVME_ANA_CHANGE = 15,
};

struct nvme_ctrlr_ops {
    /* Connected: commands may be submitted. */
    void (*live)(struct nvme_ctrlr *c, void *arg);
    /* It was live, and is not any more. What was in flight comes back as lost after this. */
    void (*down)(struct nvme_ctrlr *c, void *arg);
    /*
     * An attempt to connect failed. `again`: there will be another, in a while. Else trying is of no use, or was not
     * wanted.
     */
    void (*failed)(struct nvme_ctrlr *c, void *arg, int ret, const char *why, bool again);
    /* The ANA state of the namespace has changed: see nvme_ctrlr_ana(). */
    void (*ana)(struct nvme_ctrlr *c, void *arg);
    /*
     * An asynchronous event, dword 0 of its completion; namespaces and ANA states have been looked at again if it was
     * about them. May be NULL.
     */
    void (*event)(struct nvme_ctrlr *c, void *arg, uint32_t dw0);
    /* The controller has refused to tell of events, and is not asked again. May be NULL. */
    void (*no_events)(struct nvme_ctrlr *c, void *arg, uint16_t status);
};

/* @return 0 or -ENOMEM, or -errno of what the kernel refused. ops, opts are copied as pointer and as contents. */
int nvme_ctrlr_create(struct plx_reactor *r, const struct nvme_opts *opts, const struct nvme_ctrlr_ops *ops, void *arg,
                      struct nvme_ctrlr **out);
/* Begins to connect. `once`: does not try again when it fails or is lost. */
void nvme_ctrlr_start(struct nvme_ctrlr *c, bool once);
/*
 * Gives the association up, for another one: what is in flight comes back as lost. After the same pause as when the
 * connection is lost, so that the controller has ended what it was asked for before.
 */
void nvme_ctrlr_reset(struct nvme_ctrlr *c);
/* Ends the association and frees it; what is in flight comes back as lost first. Allowed from within any callback. */
void nvme_ctrlr_destroy(struct nvme_ctrlr *c);

/*
 * Asks to be told of events, of all that come while it is connected: one that is to connect again and again does so
 * anyway. Live.
 */
void nvme_ctrlr_want_events(struct nvme_ctrlr *c);

/* The address that it is connected to, or that is tried, for people. */
const char *nvme_ctrlr_name(const struct nvme_ctrlr *c);
/* What it said of itself; valid once it has been live, and for failed(). */
const struct nvme_id_ctrl *nvme_ctrlr_id(const struct nvme_ctrlr *c);
const struct nvme_ns *nvme_ctrlr_ns(const struct nvme_ctrlr *c);
uint64_t nvme_ctrlr_cap(const struct nvme_ctrlr *c);
uint32_t nvme_ctrlr_vs(const struct nvme_ctrlr *c);
/* Of the subsystem: as it was asked for, or where that is not how it is found, as it says. */
const char *nvme_ctrlr_subnqn(const struct nvme_ctrlr *c);
/* Bytes of the largest transfer of one command. */
uint32_t nvme_ctrlr_max_transfer(const struct nvme_ctrlr *c);
/* Whether a transfer had best not cross a multiple of the largest one, though the namespace says nothing of it. */
bool nvme_ctrlr_stripes(const struct nvme_ctrlr *c);
/* The identifier that the controller has, or had when it was live last. */
uint16_t nvme_ctrlr_cntlid(const struct nvme_ctrlr *c);
/* Whether no I/O command is under way. */
bool nvme_ctrlr_idle(const struct nvme_ctrlr *c);
/* enum nvme_ana_state of the namespace; optimized where the controller has no ANA. */
unsigned nvme_ctrlr_ana(const struct nvme_ctrlr *c);

/* An I/O command, to a controller that is live. It leaves at the end of the round. */
void nvme_submit(struct nvme_ctrlr *c, struct nvme_req *req);
/* Two commands that are fused, one right behind the other: first->next is the second. */
void nvme_submit_fused(struct nvme_ctrlr *c, struct nvme_req *first);
/* An admin command, to a controller that is live. */
void nvme_submit_admin(struct nvme_ctrlr *c, struct nvme_req *req);
/* The path may have changed: has the ANA state looked at again. */
void nvme_ctrlr_refresh_ana(struct nvme_ctrlr *c);
/*
 * Asks for a command, or the fused command of which this is the first half, to end early: it comes back aborted, or as
 * if nothing had happened. When the controller answers neither it nor the Abort command for two or three seconds, the
 * association is lost.
 */
void nvme_abort(struct nvme_ctrlr *c, struct nvme_req *req);

/* ---- pass.c ---- */

/* A command as somebody else has made it. */
struct nvme_pass {
    bool admin;
    struct nvme_cmd cmd; /* but for its identifier, and where its data is */
    uint8_t dir;         /* enum nvme_dir, */
    uint8_t *data;       /* and what there is to be sent, or room for what comes */
    uint32_t len;
    uint32_t timeout_ms; /* until it is aborted */
    _Atomic bool cancel; /* it is not waited for any more; set by any thread */
    struct nvme_cqe cqe; /* result: an answer of the controller, whatever its status */
};

/*
 * Sends a command by an association of its own, and waits; not on a reactor. What would break this driver is refused,
 * and what says one thing and has data for another. A command that is not answered in time is aborted, after that its
 * association is given up, over PCIe with a reset of the controller.
 * @return 0, or -errno with err filled: -EINVAL for what it says, -EPERM for what is refused
 */
int nvme_pass(const struct nvme_opts *o, struct nvme_pass *p, struct plx_error *err);
/* The same through a generic node of the kernel's, which has the time limit, and the resets. */
int nvme_pass_node(const char *path, struct nvme_pass *p, struct plx_error *err);

/*
 * A device that is driven over PCIe stays as it is for as long as it is held, without an association. Not on a reactor:
 * the last release waits until it has been shut down. @return 0 or -errno
 */
int nvme_pcie_hold(const char *addr);
void nvme_pcie_release(const char *addr);
/*
 * Has its controller reset: all associations lose it, and connect again. Begins before anything that the caller asks of
 * it afterwards. The caller has an association there, or holds it. @return 0 or -ENODEV
 */
int nvme_pcie_reset(const char *addr);
/* SSDs that are there to be driven, by address. May block: not on a reactor. @return how many */
unsigned nvme_pcie_list(char (*addrs)[PLX_ADDR_TEXT], unsigned max);

#endif
