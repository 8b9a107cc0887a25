/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file The vhost-user server: disks for virtual machines, and for other processes that share their memory. Each disk
 * is a virtio block device behind a local socket, or a unit of a SCSI host behind one. Messages are handled on the
 * first reactor; rings are spread over the others.
 */
#ifndef POLLUX_VHOST_H
#define POLLUX_VHOST_H

#include <pollux/bdev.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

struct plx_vhost;
struct plx_vhost_ctrlr;

enum {
    PLX_VHOST_QUEUES_MAX = 256,
    PLX_VHOST_QUEUE_SIZE_MAX = 1024,
    PLX_VHOST_DELAY_MAX_US = 1000,
    PLX_VHOST_SERIAL_SIZE = 21,                           /**< with the zero at its end */
    PLX_VHOST_SCSI_QUEUES_MAX = PLX_VHOST_QUEUES_MAX - 2, /**< besides those of control and of events */
    PLX_VHOST_INITIATOR_SIZE = 256,                       /**< with the zero at its end */
};

struct plx_vhost_opts {
    bool control_apart; /**< the first of several reactors has no rings */
    bool has_group; /**< sockets are a group's, whose members may connect (0660), and not their owner's alone (0600) */
    gid_t group;    /**< which; the process has to be in it, or be privileged */
};

/**
 * Makes a server. Reactors stay the caller's, and outlive it; the first is the control reactor. opts may be NULL.
 * Everything here is called on that one, or before it runs.
 * @return 0, or -errno with err filled
 */
PLX_API int plx_vhost_create(struct plx_vhost **out, struct plx_reactor *const *reactors, unsigned n,
                             const struct plx_vhost_opts *opts, struct plx_error *err);

typedef void (*plx_vhost_done_fn)(void *arg, int ret);

/**
 * Ends all connections, and closes all devices. done is called with 0, or with -ETIMEDOUT after grace_ms, when disks
 * have requests yet: then the server and its reactors must stay as they are.
 */
PLX_API void plx_vhost_stop(struct plx_vhost *vhost, uint32_t grace_ms, plx_vhost_done_fn done, void *arg);
/** Frees one that was stopped, or never had a device. */
PLX_API void plx_vhost_destroy(struct plx_vhost *vhost);

/* ---- devices ---- */

struct plx_vhost_blk_opts {
    bool read_only;
    bool packed;           /**< packed rings are offered besides split ones */
    uint32_t queues;       /**< at most; 0 for 128 */
    uint32_t queue_size;   /**< that requests are to fit in without indirect descriptors; 0 for 128 */
    const char *serial;    /**< at most 20 characters; NULL: made of the disk's UUID */
    const char *ptpl_file; /**< where reservations are kept to which the guest keeps: see struct plx_vhost_lun */
    const int *cores;      /**< rings are on the reactors of these; NULL for all */
    unsigned ncores;
};

/**
 * Makes a block device of a disk, behind a socket at a path. done is called with 0 when front-ends can connect, or with
 * -errno: then there is no device. Not before this returns. A disk that goes away leaves a device behind whose requests
 * fail, and that has no capacity, until it is removed.
 * @return 0, or -errno with err filled: then done is not called. -EBUSY: another process, or device, has that path
 */
PLX_API int plx_vhost_blk_create(struct plx_vhost *vhost, const char *path, struct plx_bdev *bdev,
                                 const struct plx_vhost_blk_opts *opts, plx_vhost_done_fn done, void *arg,
                                 struct plx_vhost_ctrlr **out, struct plx_error *err);

struct plx_vhost_scsi_opts {
    bool packed;     /**< packed rings are offered besides split ones */
    uint32_t queues; /**< of requests, at most; 0 for 126 */
    const int *cores;
    unsigned ncores;
    /** Who its front-ends are, together, where disks are reserved (SPC-5, 5.14). NULL: the name of the socket's file */
    const char *initiator;
};

/** The same for a SCSI host, which has no units yet. */
PLX_API int plx_vhost_scsi_create(struct plx_vhost *vhost, const char *path, const struct plx_vhost_scsi_opts *opts,
                                  plx_vhost_done_fn done, void *arg, struct plx_vhost_ctrlr **out,
                                  struct plx_error *err);

/** A logical unit of a SCSI host, by its target, 0 to 255, and its number there, 0 to 255. */
struct plx_vhost_lun {
    unsigned target, lun;
    struct plx_bdev *bdev;
    bool read_only;
    /**
     * Keeps reservations of the disk through power loss, where guests ask for that (APTPL). All servers of the disk
     * share what is reserved, and name the same file, or none of them does.
     */
    const char *ptpl_file;
};

/**
 * Gives a host a unit, whose guests are told, where they want to be. done is called with 0 when the unit is there, or
 * with -errno; not before this returns. A disk that goes away takes its unit with it.
 * @return 0, or -errno with err filled: then done is not called
 */
PLX_API int plx_vhost_scsi_add(struct plx_vhost_ctrlr *ctrlr, const struct plx_vhost_lun *what, plx_vhost_done_fn done,
                               void *arg, struct plx_error *err);
/**
 * Takes a unit away: guests are told, its requests come to their ends, and done is called with 0 when the disk is not
 * used any more. @return 0; -ENODEV, or -EBUSY when it is coming or going, with err filled: then done is not called
 */
PLX_API int plx_vhost_scsi_remove(struct plx_vhost_ctrlr *ctrlr, unsigned target, unsigned lun, plx_vhost_done_fn done,
                                  void *arg, struct plx_error *err);
/**
 * The unit after this one, by target and number; the first when at->bdev is NULL. @return false at the end, and of what
 * is no SCSI host
 */
PLX_API bool plx_vhost_scsi_next(const struct plx_vhost_ctrlr *ctrlr, struct plx_vhost_lun *at);

/**
 * Ends a device: its connections are closed, and done is called with 0 when the disk is through with all requests and
 * is not used any more; until then it is there. @return 0, or -EALREADY: then done is not called
 */
PLX_API int plx_vhost_remove(struct plx_vhost_ctrlr *ctrlr, plx_vhost_done_fn done, void *arg);

/**
 * Has all devices let go of a disk that is to be closed, and of those that stand on it: units of SCSI hosts are taken
 * away; block devices stay, without a disk, as when it goes away by itself. Requests in flight are asked to end, and
 * fail. done is called with 0 when nobody uses the disk any more, perhaps before this returns; or with -ETIMEDOUT after
 * grace_ms, when requests are in flight yet: they are waited for all the same.
 * @return 0, or -ENOMEM: then done is not called
 */
PLX_API int plx_vhost_drop(struct plx_vhost *vhost, const struct plx_bdev *bdev, uint32_t grace_ms,
                           plx_vhost_done_fn done, void *arg);

/**
 * While a ring has more than this many requests a second, the guest is told of the end of some at most so often.
 * @param delay_us 0: always at once
 * @return 0, or -EINVAL with err filled
 */
PLX_API int plx_vhost_set_coalescing(struct plx_vhost_ctrlr *ctrlr, uint32_t delay_us, uint32_t iops_threshold,
                                     struct plx_error *err);

/* ---- what there is ---- */

/** The device after this one, or the first; NULL at the end. */
PLX_API struct plx_vhost_ctrlr *plx_vhost_next(struct plx_vhost *vhost, struct plx_vhost_ctrlr *ctrlr);
/** The one that has this socket, or NULL. */
PLX_API struct plx_vhost_ctrlr *plx_vhost_find(struct plx_vhost *vhost, const char *path);

struct plx_vhost_info {
    const char *path;
    bool scsi;             /**< a host, whose units plx_vhost_scsi_next() lists */
    struct plx_bdev *bdev; /**< NULL when it is gone; and for a host, which has no size of queues nor serial number */
    bool read_only, packed;
    uint32_t queues, queue_size;
    char serial[PLX_VHOST_SERIAL_SIZE];
    uint32_t delay_us, iops_threshold;
    uint64_t alone_ns;    /**< for so long no front-end is connected; 0 while one is */
    unsigned connections; /**< of front-ends */
    unsigned draining;    /**< that have ended, whose requests disks have yet */
    unsigned rings;       /**< running */
    unsigned broken;      /**< of them, those whose guest has done what must not be */
};
PLX_API void plx_vhost_get_info(const struct plx_vhost_ctrlr *ctrlr, struct plx_vhost_info *out);

/* In the order of how far they have come. */
enum plx_vhost_state {
    PLX_VHOST_WAITING,   /**< of a device: no front-end is connected */
    PLX_VHOST_DRAINING,  /**< the connection has ended, and requests of it are waited for */
    PLX_VHOST_CONNECTED, /**< no ring has begun yet, or all were stopped */
    PLX_VHOST_HELD,      /**< none may begin yet: requests of connections that have ended come first */
    PLX_VHOST_STOPPING,  /**< the front-end stops a ring, whose requests are waited for */
    PLX_VHOST_STARTED,   /**< rings run */
};

enum { PLX_VHOST_WHERE = 320 };

struct plx_vhost_ring_info {
    unsigned index, size;
    bool packed;
    int core;           /**< of its reactor, or -1 */
    const char *broken; /**< why nothing is taken off it any more, or NULL */
    unsigned in_flight; /**< requests that were taken off it, and are not published */
    uint64_t oldest_ns; /**< how long the one has been where it is that has been so for longest; 0: none is at a disk */
    char where[PLX_VHOST_WHERE]; /**< that is, for people: see plx_bdev_where() */
    uint64_t requests;           /**< that were taken off it, since the front-end connected, */
    uint64_t kicks;              /**< by which it has woken us, as far as that was looked at, */
    uint64_t calls;              /**< by which it was told */
};

/** A front-end's connection. */
struct plx_vhost_connection_info {
    const struct plx_vhost_ctrlr *ctrlr;
    char name[64];  /**< for people */
    unsigned index; /**< among those of the device at the time */
    int32_t pid;    /**< of its process, where that can be known, or 0 */
    uint32_t uid;
    enum plx_vhost_state state;
    uint64_t state_ns;                       /**< for so long */
    uint64_t age_ns;                         /**< since it has connected */
    unsigned nrings;                         /**< that run, */
    const struct plx_vhost_ring_info *rings; /**< in their order */
};

/** What is found is valid during the call. */
typedef void (*plx_vhost_found_fn)(void *arg, const struct plx_vhost_connection_info *found, unsigned n);

/**
 * Finds out about all connections, those included that have ended and are waited for. done is called when all reactors
 * have answered, perhaps before this returns. @return 0, or -ENOMEM: then done is not called
 */
PLX_API int plx_vhost_query(struct plx_vhost *vhost, plx_vhost_found_fn done, void *arg);

/* ---- memory that vanishes ---- */

#ifdef __cplusplus
}
#endif
#endif
