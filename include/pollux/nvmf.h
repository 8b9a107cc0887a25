/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file The NVMe-oF target: subsystems of namespaces, served to hosts over NVMe/TCP.  Build a target, its subsystems
 * and its listeners, then start it on reactors that run. What is built can be changed while it runs: change what is to
 * be changed, then call plx_nvmf_target_apply(), and hosts see all of it at once. Unless a comment says otherwise,
 * functions here are called from one thread at a time before plx_nvmf_target_start(), and on the first reactor after
 * that.
 */
#ifndef POLLUX_NVMF_H
#define POLLUX_NVMF_H

#include <pollux/bdev.h>
#include <pollux/reactor.h>

#ifdef __cplusplus
extern "C" {
#endif

struct plx_nvmf_target;
struct plx_nvmf_subsystem;
struct plx_nvmf_listener;

/** Limits; a zero stands for the default. */
struct plx_nvmf_opts {
    uint32_t max_io_size; /**< bytes of the largest transfer (MDTS), a power of two from 4 KiB to what the reactors'
                             buffers hold; 1 MiB */
    uint32_t queue_depth; /**< entries of a queue (CAP.MQES), 2 to 1024; 128 */
    uint32_t max_queues;  /**< I/O queue pairs of a controller, 1 to 128; 128 */
    uint32_t
        in_capsule_size; /**< bytes of data that a command capsule may carry, a multiple of 512 up to 64 KiB; 8 KiB */
    bool no_in_capsule;  /**< I/O commands carry no data, whatever in_capsule_size says */
    uint32_t peer_timeout_ms; /**< how long a peer may leave a PDU, an R2T or its receive window unanswered; 30 s */
    uint32_t max_connections; /**< over all reactors; 4096 */
    bool control_apart; /**< the first of several reactors has the control path alone: no connection, no channel */
};

/**
 * Makes a target on reactors, of which the first also runs the control path, or runs that alone, so that what else runs
 * there may take its time.
 * @param reactors stay the caller's, and must outlive the target
 * @return 0, -ENOMEM, or -EINVAL with err filled
 */
PLX_API int plx_nvmf_target_create(struct plx_nvmf_target **out, struct plx_reactor *const *reactors,
                                   unsigned nreactors, const struct plx_nvmf_opts *opts, struct plx_error *err);

enum { PLX_NVMF_NQN_SIZE = 224 }; /**< the longest NQN, with its terminating zero */

/**
 * An NQN for a subsystem of these disks, of the form nqn.2014-08.org.nvmexpress:uuid:...: the same on the same machine
 * at every start.
 * @return 0 or -ENOMEM
 */
PLX_API int plx_nvmf_default_nqn(struct plx_bdev *const *disks, unsigned n, char nqn[PLX_NVMF_NQN_SIZE],
                                 struct plx_error *err);

/** What a zero or NULL stands for is said with each. */
struct plx_nvmf_subsystem_opts {
    const char *nqn;         /**< "nqn.2024-01.com.example:name", at most 223 bytes: Base 4.7 */
    const char *serial;      /**< at most 20 printable characters; NULL for one made from the NQN */
    const char *model;       /**< at most 40 printable characters; NULL for "Pollux" */
    bool allow_any_host;     /**< let every host in */
    bool some_listeners;     /**< reachable only by what plx_nvmf_subsystem_add_listener() says; else everywhere */
    uint16_t min_cntlid;     /**< controller identifiers that hosts get, from 1 */
    uint16_t max_cntlid;     /**< to 65519 */
    uint32_t max_namespaces; /**< the largest namespace identifier, 1 to 1024; 1024 */
};

/** Adds a subsystem. @return 0, -ENOMEM, -EEXIST or -EINVAL with err filled */
PLX_API int plx_nvmf_subsystem_create(struct plx_nvmf_target *t, const struct plx_nvmf_subsystem_opts *opts,
                                      struct plx_nvmf_subsystem **out, struct plx_error *err);
/** Removes a subsystem with its namespaces; it must not be named any more. Its hosts are disconnected. */
PLX_API void plx_nvmf_subsystem_remove(struct plx_nvmf_subsystem *s);
PLX_API const char *plx_nvmf_subsystem_nqn(const struct plx_nvmf_subsystem *s);

/** Lets a host in. @return 0, -ENOMEM, -EEXIST or -EINVAL with err filled */
PLX_API int plx_nvmf_subsystem_allow_host(struct plx_nvmf_subsystem *s, const char *hostnqn, struct plx_error *err);
/** Lets it in no more, and disconnects it. @return 0 or -ENOENT with err filled */
PLX_API int plx_nvmf_subsystem_disallow_host(struct plx_nvmf_subsystem *s, const char *hostnqn, struct plx_error *err);
/** Lets every host in, or only those that are allowed. */
PLX_API void plx_nvmf_subsystem_allow_any_host(struct plx_nvmf_subsystem *s, bool any);

enum { PLX_NVMF_ANA_GROUPS = 128 }; /**< the largest ANA group identifier */

/** Of a namespace. What is NULL is derived from the disk's UUID and the subsystem's NQN, but for an EUI64. */
struct plx_nvmf_ns_opts {
    uint32_t nsid;        /**< 0 for the lowest free one */
    uint32_t anagrpid;    /**< ANA group, 1 to PLX_NVMF_ANA_GROUPS; 0 for 1 */
    const uint8_t *uuid;  /**< 16 bytes */
    const uint8_t *nguid; /**< 16 bytes */
    const uint8_t *eui64; /**< 8 bytes; NULL for none */
    bool no_auto_visible; /**< no host sees it, but those that plx_nvmf_ns_add_host() attaches it to */
    /**
     * Keeps reservations of the disk through power loss, where hosts ask for that (PTPL: Base 8.1.22): a file of its
     * own, which is made when it is not there. All servers of the disk share what is reserved, and name the same file,
     * or none of them does. NULL: hosts that ask for it are refused.
     */
    const char *ptpl_file;
};

/**
 * Adds a disk as a namespace. Its ptpl_file is read now, and what it has of another one (another UUID), or is
 * damaged, is an error.
 * @param bdev stays the caller's, and must stay open until the target has stopped, or an apply of the namespace's
 * removal has ended with 0
 * @param opts may be NULL
 * @return the namespace identifier, or a negative errno value with err filled
 */
PLX_API int plx_nvmf_subsystem_add_ns(struct plx_nvmf_subsystem *s, struct plx_bdev *bdev,
                                      const struct plx_nvmf_ns_opts *opts, struct plx_error *err);
/** Removes a namespace; its commands in flight are aborted. @return 0 or -ENOENT with err filled */
PLX_API int plx_nvmf_subsystem_remove_ns(struct plx_nvmf_subsystem *s, uint32_t nsid, struct plx_error *err);
/**
 * Attaches a namespace that was added with no_auto_visible to a host, which has it from the next apply on. That the
 * host may connect is said apart from this: plx_nvmf_subsystem_allow_host().
 * @return 0, -ENOENT without such a namespace, -EEXIST when it is attached already, -EINVAL when it is visible to all
 * or the NQN is none, or -ENOMEM, with err filled
 */
PLX_API int plx_nvmf_ns_add_host(struct plx_nvmf_subsystem *s, uint32_t nsid, const char *hostnqn,
                                 struct plx_error *err);
/**
 * Takes it from the host with the next apply, which aborts what the host has in flight for it, and ends when that has
 * ended, as that of a removal does.
 * @return 0, -ENOENT when it is not attached, or there is none, or -EINVAL, with err filled
 */
PLX_API int plx_nvmf_ns_remove_host(struct plx_nvmf_subsystem *s, uint32_t nsid, const char *hostnqn,
                                    struct plx_error *err);
/** Calls each for every host that a namespace is attached to, by name. */
PLX_API void plx_nvmf_ns_each_host(const struct plx_nvmf_subsystem *s, uint32_t nsid,
                                   void (*each)(void *arg, const char *hostnqn), void *arg);

/** Moves a namespace to another ANA group, 1 to PLX_NVMF_ANA_GROUPS. @return 0, -ENOENT or -EINVAL with err filled */
PLX_API int plx_nvmf_subsystem_set_ns_ana_group(struct plx_nvmf_subsystem *s, uint32_t nsid, uint32_t anagrpid,
                                                struct plx_error *err);

/**
 * Binds to an address; hosts can connect from plx_nvmf_target_start(), or the next apply, on. A discovery controller is
 * reachable at every listener.
 * @param addr a numeric IPv4 or IPv6 address, perhaps with a port: see plx_parse_addr()
 * @param port where addr has none; 0 for any free one
 * @return 0 or a negative errno value with err filled
 */
PLX_API int plx_nvmf_listen(struct plx_nvmf_target *t, const char *addr, uint16_t port, struct plx_nvmf_listener **out,
                            struct plx_error *err);
/** Removes a listener, which must not be named any more, and disconnects the hosts that came by it. */
PLX_API void plx_nvmf_listener_remove(struct plx_nvmf_listener *l);
/** Makes a subsystem reachable at a listener. @return 0, -ENOMEM or -EEXIST with err filled */
PLX_API int plx_nvmf_subsystem_add_listener(struct plx_nvmf_subsystem *s, const struct plx_nvmf_listener *l,
                                            struct plx_error *err);
/**
 * Makes it unreachable there, and disconnects its hosts that came by it; one that was reachable everywhere is reachable
 * at all other listeners that there are now, from then on.
 * @return 0, -ENOMEM or -ENOENT with err filled
 */
PLX_API int plx_nvmf_subsystem_remove_listener(struct plx_nvmf_subsystem *s, const struct plx_nvmf_listener *l,
                                               struct plx_error *err);

/** Asymmetric Namespace Access: what a path is good for (Base 8.1.1). */
enum plx_nvmf_ana {
    PLX_NVMF_ANA_OPTIMIZED = 1,
    PLX_NVMF_ANA_NON_OPTIMIZED = 2,
    PLX_NVMF_ANA_INACCESSIBLE = 3,
    PLX_NVMF_ANA_PERSISTENT_LOSS = 4,
    PLX_NVMF_ANA_CHANGE = 15,
};

/**
 * Sets the state of an ANA group of a subsystem, as seen by hosts that come by a listener.
 * @param l NULL for all, those to come included
 * @param anagrpid 0 for all groups
 * @return 0, -ENOMEM or -EINVAL with err filled
 */
PLX_API int plx_nvmf_subsystem_set_ana(struct plx_nvmf_subsystem *s, const struct plx_nvmf_listener *l,
                                       uint32_t anagrpid, enum plx_nvmf_ana state, struct plx_error *err);

/**
 * Adds or removes an entry of the discovery log that refers hosts to another discovery controller, of NVMe/TCP.
 * @param addr, port as for plx_nvmf_listen(), but not 0
 * @return 0, -ENOMEM, -EINVAL, -EEXIST or -ENOENT with err filled
 */
PLX_API int plx_nvmf_referral_add(struct plx_nvmf_target *t, const char *addr, uint16_t port, struct plx_error *err);
PLX_API int plx_nvmf_referral_remove(struct plx_nvmf_target *t, const char *addr, uint16_t port, struct plx_error *err);

PLX_API const char *plx_nvmf_listener_addr(const struct plx_nvmf_listener *l);
/**
 * Where hosts reach a listener: its address, or for a wildcard that of this machine on its default route. Written to
 * `out`, which is returned.
 */
PLX_API const char *plx_nvmf_listener_reach(const struct plx_nvmf_listener *l, char *out, size_t size);
PLX_API uint16_t plx_nvmf_listener_port(const struct plx_nvmf_listener *l);

/* ---- looking at what there is, changes that were not applied yet included ---- */

/** The subsystem with this NQN, or NULL; not that of discovery. */
PLX_API struct plx_nvmf_subsystem *plx_nvmf_subsystem_find(const struct plx_nvmf_target *t, const char *nqn);
/** The one after s, in the order in which they were made; the first for NULL; NULL at the end. */
PLX_API struct plx_nvmf_subsystem *plx_nvmf_subsystem_next(const struct plx_nvmf_target *t,
                                                           const struct plx_nvmf_subsystem *s);

struct plx_nvmf_subsystem_info {
    char nqn[PLX_NVMF_NQN_SIZE];
    char serial[21], model[41];
    bool allow_any_host;
    uint16_t min_cntlid, max_cntlid;
    uint32_t max_namespaces;
};
PLX_API void plx_nvmf_subsystem_info(const struct plx_nvmf_subsystem *s, struct plx_nvmf_subsystem_info *out);
/** The i-th host that is allowed, or NULL. Stays until hosts are changed. */
PLX_API const char *plx_nvmf_subsystem_host(const struct plx_nvmf_subsystem *s, unsigned i);

struct plx_nvmf_ns_info {
    uint32_t nsid, anagrpid;
    struct plx_bdev *bdev;
    uint8_t uuid[16], nguid[16], eui64[8]; /**< zeroes: none */
    bool own_uuid, own_nguid;              /**< that it was given, and not derived */
    bool no_auto_visible;
    const char *ptpl_file; /**< or NULL; stays until it is removed */
};
/** @return false when there is no such namespace */
PLX_API bool plx_nvmf_ns_info(const struct plx_nvmf_subsystem *s, uint32_t nsid, struct plx_nvmf_ns_info *out);
/** The lowest namespace identifier above nsid that is in use, or 0. */
PLX_API uint32_t plx_nvmf_ns_next(const struct plx_nvmf_subsystem *s, uint32_t nsid);

/** As plx_nvmf_subsystem_next(). */
PLX_API struct plx_nvmf_listener *plx_nvmf_listener_next(const struct plx_nvmf_target *t,
                                                         const struct plx_nvmf_listener *l);
PLX_API bool plx_nvmf_subsystem_reachable(const struct plx_nvmf_subsystem *s, const struct plx_nvmf_listener *l);
PLX_API enum plx_nvmf_ana plx_nvmf_subsystem_ana(const struct plx_nvmf_subsystem *s, const struct plx_nvmf_listener *l,
                                                 uint32_t anagrpid);
/** The i-th referral, or NULL. */
PLX_API const char *plx_nvmf_referral(const struct plx_nvmf_target *t, unsigned i, uint16_t *port);

/** The limits in use. */
PLX_API const struct plx_nvmf_opts *plx_nvmf_target_opts(const struct plx_nvmf_target *t);
/** Others, as for plx_nvmf_target_create(), for a target without listeners. @return 0, -EBUSY or -EINVAL with err */
PLX_API int plx_nvmf_target_set_opts(struct plx_nvmf_target *t, const struct plx_nvmf_opts *opts,
                                     struct plx_error *err);

/** Called on the first reactor when a start, an apply or a stop is over; ret is 0 or a negative errno value. */
typedef void (*plx_nvmf_done_fn)(void *arg, int ret);

/** Opens the disks' channels on every reactor, then begins to accept hosts. From any thread. */
PLX_API void plx_nvmf_target_start(struct plx_nvmf_target *t, plx_nvmf_done_fn done, void *arg);

/**
 * Makes known to hosts what was changed since the last time, all of it at once. A disk that goes, or changes its size,
 * makes known with that what was changed until then. done is called when every reactor works by it, and what was
 * removed is not used any more: its disks may be closed, its addresses are free. One that is asked for while another
 * one runs begins after it. Errors:
 * - a negative errno value of a disk that could not be opened on every reactor, or a listener that could not listen:
 *   those are removed again, and all else is done. A listener must then not be named any more; which one it was is
 *   logged, and seen by connecting: apply them one by one where that matters;
 * - -ENOMEM: so, or nothing was changed yet, which another apply does;
 * - -ETIMEDOUT: a disk has not ended the requests that it had. All is done, but plx_bdev_close() of that disk ends with
 *   -EBUSY until it has;
 * - -ECANCELED: the target stops.
 * Before plx_nvmf_target_start() there is nothing to do: done is called with 0 before this returns.
 */
PLX_API void plx_nvmf_target_apply(struct plx_nvmf_target *t, plx_nvmf_done_fn done, void *arg);

/**
 * Holds the I/O commands of a subsystem's hosts, and calls done when its disks have none any more. Hosts see slow
 * commands and no error, until those are held for longer than they wait; all else goes on. What is held ends with its
 * connection, by an Abort, or when its namespace is removed. Errors, after which nothing is held:
 * - -ENOENT: there is no such namespace;
 * - -EALREADY: that is paused, or about to be; -EBUSY: that is being resumed;
 * - -ETIMEDOUT: a disk has not ended what it has within 5 s. A host that does not read what it asked for for so long
 *   loses its connection instead;
 * - -ECANCELED: by plx_nvmf_subsystem_resume(), as the subsystem was removed, or as the target stops or does not run;
 * - -ENOMEM.
 * @param nsid a namespace identifier; or 0 for all, those to come included. A namespace may be paused by both, and is
 * until both are over
 */
PLX_API void plx_nvmf_subsystem_pause(struct plx_nvmf_subsystem *s, uint32_t nsid, plx_nvmf_done_fn done, void *arg);
/**
 * Ends the pause of the same identifier, or what has begun of it: what was held goes on in its order, and done is
 * called. -ENOENT: it is not paused; -EALREADY: it is being resumed.
 */
PLX_API void plx_nvmf_subsystem_resume(struct plx_nvmf_subsystem *s, uint32_t nsid, plx_nvmf_done_fn done, void *arg);

enum { PLX_NVMF_HOST_GROUP_NAME = 64 }; /**< with the terminating zero */

/**
 * Limits the rate of a group of hosts together, over all subsystems: their reads, compares, writes and appends wait. At
 * once, for those that are connected too; other limits of the same hosts hold within 50 ms.
 * @param name of the group; another group of that name is replaced
 * @param hosts NQNs, of which each is in one group
 * @param done called when every reactor works by it
 * @return 0; or -EINVAL, -EEXIST, -EBUSY (it is being changed, or the target does not run) or -ENOMEM with err filled,
 * and done is not called
 */
PLX_API int plx_nvmf_host_limits_set(struct plx_nvmf_target *t, const char *name, const char *const *hosts, unsigned n,
                                     const struct plx_bdev_limits *limits, plx_nvmf_done_fn done, void *arg,
                                     struct plx_error *err);
/** Takes them away. @return as above; -ENOENT when there is no such group */
PLX_API int plx_nvmf_host_limits_remove(struct plx_nvmf_target *t, const char *name, plx_nvmf_done_fn done, void *arg,
                                        struct plx_error *err);

/** A group of hosts; its texts stay until groups are changed. */
struct plx_nvmf_host_group_info {
    const char *name;
    const char *hosts; /**< see plx_nvmf_host_group_host() */
    unsigned nhosts;
    struct plx_bdev_limits limits;
};
/** The i-th group. @return false when there is none */
PLX_API bool plx_nvmf_host_limits_get(const struct plx_nvmf_target *t, unsigned i,
                                      struct plx_nvmf_host_group_info *out);
/** The i-th host of a group, or NULL. */
PLX_API const char *plx_nvmf_host_group_host(const struct plx_nvmf_host_group_info *info, unsigned i);

/**
 * Stops accepting, lets what is in flight finish for at most grace_ms, closes all connections, flushes the disks, and
 * puts their channels back. From any thread, once, after the start was over. Ends with -EIO when a disk refused to be
 * flushed; with -ETIMEDOUT when a disk has not ended its requests in time, which is logged: the disk and the reactors
 * must then stay as they are, as what the disk does yet is done there.
 */
PLX_API void plx_nvmf_target_stop(struct plx_nvmf_target *t, uint32_t grace_ms, plx_nvmf_done_fn done, void *arg);

/**
 * Frees a target that has stopped or never started; also while its reactors no longer run. Memory that requests are in
 * that a disk still has is left to the disk, with the target: once that has ended them, on the reactors that go on for
 * it, they are to be stopped, and this called again.
 */
PLX_API void plx_nvmf_target_destroy(struct plx_nvmf_target *t);

/* ---- what is going on: asked of every reactor, so the answer comes later ---- */

/*
 * On the first reactor, while the target runs. The answer comes there later, and what it points to is there until
 * `done` returns; a stop that is asked for meanwhile begins after it. Each returns 0, or, without calling `done`,
 * -ENOMEM, or -ECANCELED when the target does not run.
 */

/** One end of a connection; addr is "" where that is not known, as of a peer that has left. */
struct plx_nvmf_end {
    char addr[64];
    uint16_t port;
    bool ipv6;
};

/** Why a connection is on the reactor that it is on. */
enum plx_nvmf_placed {
    PLX_NVMF_PLACED_LOAD, /**< that had the fewest connections */
    PLX_NVMF_PLACED_CPU,  /**< its core handles what comes from the host */
    PLX_NVMF_PLACED_NAPI, /**< others that come by the same queue of the NIC are there */
};

/** A queue pair. */
struct plx_nvmf_qpair_info {
    uint16_t qid;
    uint16_t entries;
    int core; /**< of its reactor, or -1 */
    enum plx_nvmf_placed placed;
    int incoming_cpu;   /**< where the kernel handled what came from the host when it connected; -1: not known */
    uint32_t in_flight; /**< commands: of an admin queue those too that wait for events */
    uint64_t completed; /**< commands */
    uint64_t age_ns;    /**< of its connection */
    struct plx_nvmf_end peer, local;
    bool header_digest, data_digest;
};

/** A controller: what one host has of a subsystem. */
struct plx_nvmf_controller_info {
    uint16_t cntlid;
    char hostnqn[PLX_NVMF_NQN_SIZE]; /**< "" of a host that gave itself none */
    uint8_t hostid[16];
    uint32_t kato_ms;                         /**< keep-alive timeout; 0 for none */
    uint64_t age_ns;                          /**< since its Connect */
    struct plx_nvmf_end listener;             /**< that it came by; port 0 where that has been removed */
    unsigned nio;                             /**< I/O queue pairs */
    const struct plx_nvmf_qpair_info *qpairs; /**< the admin queue, then those, by qid */
};

/**
 * The controllers of a subsystem, by identifier.
 * @param done c is NULL where there was no memory for the answer
 */
PLX_API int plx_nvmf_query_controllers(struct plx_nvmf_subsystem *s,
                                       void (*done)(void *arg, const struct plx_nvmf_controller_info *c, unsigned n),
                                       void *arg);

/** Where a command is. */
enum plx_nvmf_stage {
    PLX_NVMF_STAGE_CAPSULE, /**< its capsule is arriving */
    PLX_NVMF_STAGE_BUFFER,  /**< waits for a buffer */
    PLX_NVMF_STAGE_DATA,    /**< waits for its data, which the host was asked for */
    PLX_NVMF_STAGE_HELD,    /**< half of a fused command, waits for the other */
    PLX_NVMF_STAGE_PAUSED,  /**< waits for its subsystem, or its namespace, which is paused */
    PLX_NVMF_STAGE_LIMITED, /**< waits for the rate limit of its host */
    PLX_NVMF_STAGE_TARGET,  /**< with the target itself */
    PLX_NVMF_STAGE_EVENT,   /**< waits for an event, as an Asynchronous Event Request does */
    PLX_NVMF_STAGE_DISK,    /**< at its disk */
    PLX_NVMF_STAGE_SOCKET,  /**< its answer, or what asks for its data, is being sent, and the host has not taken it */
    PLX_NVMF_STAGE_ABORTED, /**< aborted and answered, but data that the host was asked for may still come */
    PLX_NVMF_STAGES,
};

/** As people say it: "waiting for its data". */
PLX_API const char *plx_nvmf_stage_text(enum plx_nvmf_stage stage);

/** A command in flight. */
struct plx_nvmf_command_info {
    uint64_t age_ns; /**< since its capsule came */
    enum plx_nvmf_stage stage;
    int core;                        /**< of its reactor, or -1 */
    char subnqn[PLX_NVMF_NQN_SIZE];  /**< "" before Connect, and of an orphan */
    char hostnqn[PLX_NVMF_NQN_SIZE]; /**< the same */
    bool orphan;                     /**< its connection is gone, and its disk has not ended it */
    uint16_t cntlid, qid, cid;
    uint8_t opcode;
    uint32_t nsid;
    bool range; /**< it is one of blocks: lba, nlb */
    uint64_t lba;
    uint32_t nlb;
    char disk[64]; /**< the beginning of its name; "" of one that is for none */
};

enum { PLX_NVMF_INFLIGHT_MAX = 1024 }; /**< commands in an answer, the oldest ones */

/**
 * The commands in flight, oldest first.
 * @param done c is NULL where there was no memory for the answer; left_out is how many younger ones there are
 */
PLX_API int plx_nvmf_query_inflight(struct plx_nvmf_target *t,
                                    void (*done)(void *arg, const struct plx_nvmf_command_info *c, unsigned n,
                                                 uint64_t left_out),
                                    void *arg);

/** What one reactor does for a target. */
struct plx_nvmf_reactor_info {
    int core;                                 /**< or -1 */
    unsigned admin_qpairs, io_qpairs;         /**< connected now, */
    uint64_t all_admin_qpairs, all_io_qpairs; /**< and since the start */
    unsigned unassociated;                    /**< connections that have not done Connect */
    uint64_t admin_commands, io_commands;     /**< completed since the start */
    uint32_t in_flight;                       /**< commands, those that wait for events and orphans included */
    uint32_t at_disks;                        /**< of these */
    size_t buffer_bytes, buffer_free;         /**< of the reactor's pool */
};

/** Of each of the target's reactors, in their order. */
PLX_API int plx_nvmf_query_stats(struct plx_nvmf_target *t,
                                 void (*done)(void *arg, const struct plx_nvmf_reactor_info *r, unsigned n), void *arg);

#ifdef __cplusplus
}
#endif
#endif
