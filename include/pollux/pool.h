/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file Pools: volumes on a disk, thin or thick, with snapshots and clones.
 *
 * What is on the disk is described in docs/format-pool.md. A power cut, or the end of the process at any moment, loses
 * nothing that was flushed; a change of what volumes there are is on the disk when it has been told to be done.
 *
 * A volume is a disk like any other: "volume:DISK?name=NAME", where DISK is a disk's name, or what it was opened as.
 * All volumes of a disk share one pool, which is open as long as any of them is, or somebody else has it open.
 */
#ifndef POLLUX_POOL_H
#define POLLUX_POOL_H

#include <pollux/bdev.h>

#ifdef __cplusplus
extern "C" {
#endif

struct plx_pool;

enum { PLX_POOL_NAME = 64 }; /**< bytes of a name, with the zero at its end */

struct plx_pool_opts {
    const char *name;    /**< NULL for none */
    uint32_t cluster;    /**< bytes, as clients are told; 0 for the default of 4 MiB. Space is in units of 4 KiB */
    const uint8_t *uuid; /**< NULL for a random one */
    bool checksums;      /**< of all data, each of which is checked whenever it is read */
};

/**
 * Makes a pool of a disk that nobody else uses; what was on it is lost, and so is every sign of it. Blocks.
 * @return 0, or -errno with err filled
 */
PLX_API int plx_pool_make(struct plx_bdev *disk, const struct plx_pool_opts *opts, struct plx_error *err);

/**
 * Makes a disk that nobody else uses one without a pool, or any other sign of what was on it. Blocks.
 * @return 0, or -errno with err filled
 */
PLX_API int plx_pool_erase(struct plx_bdev *disk, struct plx_error *err);

/**
 * Opens the pool of a disk, or the one that is open already; it holds the disk. Blocks, for well under a second.
 * @return 0, or -errno with err filled: -ENODATA when there is none on the disk
 */
PLX_API int plx_pool_open(struct plx_bdev *disk, struct plx_pool **out, struct plx_error *err);

/**
 * The pool of this UUID, if it is open in this process; it is put back like one that was opened. May block for as long
 * as another is being opened. @return -ENODEV when it is not
 */
PLX_API int plx_pool_find(const uint8_t uuid[16], struct plx_pool **out);

/**
 * Puts a pool back. When nobody has it open any more, and none of its volumes is, it is written as it is, and the disk
 * released. Blocks. @return 0, or -EIO when that could not be done: it will be recovered when it is opened again
 */
PLX_API int plx_pool_close(struct plx_pool *pool);

/** What a pool is at present. Space is in bytes. */
struct plx_pool_info {
    char name[PLX_POOL_NAME]; /**< "" for none */
    uint8_t uuid[16];
    struct plx_bdev *disk;
    uint32_t unit;      /**< bytes that space is given out in */
    uint32_t cluster;   /**< as it was made */
    uint64_t size;      /**< of the disk, as far as the pool goes */
    bool checksums;     /**< as it was made */
    uint64_t damages;   /**< units that were read since it was opened, and were not what had been written */
    uint64_t mended;    /**< such as were right in another copy, which a mirror below has: they are right again */
    uint64_t beyond;    /**< that the disk has beyond that, for PLX_POOL_GROW */
    uint64_t usable;    /**< that volumes can take of it when there are none */
    uint64_t free;      /**< that they can still take */
    uint64_t set_aside; /**< for thick volumes; not free */
    bool freeing;       /**< space of what was deleted is still to become free */
    uint16_t broken;    /**< why nothing of it can be changed any more: an NVMe status; or 0 */
    /**
     * Volumes whose records in the directory are damaged. The others are as they were, but nothing is deleted, and no
     * space becomes free but by discards of what was written since, until the pool is repaired (pollux/pool_check.h).
     */
    uint32_t lost;
};
PLX_API void plx_pool_get_info(struct plx_pool *pool, struct plx_pool_info *out);

/** What is on the disk is to stay as it is for somebody who looks at it there; pollux/pool_check.h does. */
enum plx_pool_keep {
    PLX_POOL_KEEP_NOTHING,
    PLX_POOL_KEEP_NODES, /**< what the root leads to that was valid at any time while maps were kept */
    PLX_POOL_KEEP_MAPS,  /**< and the maps of that: one root may be written meanwhile, and no second one */
};

/**
 * First maps are kept, then nodes, in the end nothing: who has begun has to end. Hosts come first: in a pool that runs
 * out of room, or in which a root has had to wait for a second, nothing is kept any more. Does not block.
 * @return 0 when all that was asked for was kept until now; -EAGAIN when it was not. -EBUSY: somebody else has begun
 */
PLX_API int plx_pool_keep(struct plx_pool *pool, enum plx_pool_keep what);

/** What a volume is at present. */
struct plx_volume_info {
    char name[PLX_POOL_NAME];
    uint8_t uuid[16];
    uint64_t size;   /**< bytes */
    uint64_t mapped; /**< bytes that have been written, whoever shares them */
    bool snapshot;   /**< cannot be changed */
    bool thick;
    char outer[PLX_POOL_NAME];  /**< UUID or name of a disk outside, which shows through where nothing is; or "" */
    char parent[PLX_POOL_NAME]; /**< the snapshot that it goes back to, of those there are; "" for none */
    uint32_t children;          /**< of a snapshot: that go back to it */
    bool busy;                  /**< an operation that takes long is under way */
    uint32_t altered;           /**< another number whenever what is its own may have become more, or less */
    uint64_t created;           /**< seconds since 1970 */
    struct plx_bdev *disk;      /**< as which it is open; or NULL */
};
/** Calls fn for each volume and snapshot until it returns false; fn must not do anything with the pool. */
PLX_API void plx_pool_each(struct plx_pool *pool, bool (*fn)(void *arg, const struct plx_volume_info *info), void *arg);

/**
 * A volume or snapshot of a pool that the caller has open, as a disk, which has the pool open as well. Does not block.
 * @param name the disk's, or NULL
 * @return 0, or -errno with err filled
 */
PLX_API int plx_pool_open_volume(struct plx_pool *pool, const uint8_t uuid[16], const char *name, struct plx_bdev **out,
                                 struct plx_error *err);
/** The pool that a disk is a volume of; NULL when it is none. */
PLX_API struct plx_pool *plx_volume_pool(const struct plx_bdev *volume);
/** What a volume is that is open as this disk. */
PLX_API void plx_volume_get_info(struct plx_bdev *volume, struct plx_volume_info *out);
/**
 * An attribute of a volume: a text by a name, which the pool keeps, and which means nothing to it.
 * @return bytes of it without the zero, also when it does not fit; or -ENOENT
 */
PLX_API int plx_volume_get_attribute(struct plx_bdev *volume, const char *name, char *out, size_t size);
/** What PLX_POOL_SET_CHECKSUM has kept, and is of what the snapshot still has. @return whether there is one */
PLX_API bool plx_volume_get_checksum(struct plx_bdev *snapshot, uint64_t *checksum);
/** Calls fn for each that goes back to a snapshot, which is open as this disk, and to none in between. */
PLX_API void plx_volume_each_child(struct plx_bdev *snapshot, void (*fn)(void *arg, const char *name), void *arg);

enum plx_pool_op_kind {
    PLX_POOL_CREATE,   /**< a volume `name` of `size` bytes, thick or not */
    PLX_POOL_SNAPSHOT, /**< of `volume`, which is `name` */
    PLX_POOL_CLONE,    /**< a volume `name` of the snapshot `volume` */
    PLX_POOL_DELETE,   /**< `volume`, which is not open; its space is free a while later */
    PLX_POOL_RENAME,   /**< `volume` to `name` */
    PLX_POOL_RESIZE,   /**< `volume` to `size` bytes; what is cut off is lost */
    PLX_POOL_REVERT,   /**< `volume`, which is not open, to what the snapshot `name` is, which it goes back to */
    PLX_POOL_FREEZE,   /**< `volume`, which is not open, is a snapshot from now on */
    PLX_POOL_NAME_IT,  /**< the pool is `name` from now on */
    PLX_POOL_GROW,     /**< the pool has all of its disk, which has become larger */
    PLX_POOL_SET,      /**< `volume` has `attributes`, beside those that it had by other names */
    /**
     * `volume`, a snapshot, has `checksum`, until what is its own changes; -EBUSY when that has changed already, and
     * `altered` is not what it was when it was read.
     */
    PLX_POOL_SET_CHECKSUM,
    /*
     * These take long, and go on while `volume` is in use. Whatever ends them before they are through, it holds what it
     * did; what was copied is its own. A snapshot can be `volume` when none goes back to it.
     */
    PLX_POOL_INFLATE, /**< `volume` goes back to nothing any more, and is thick: all space is its own */
    /**
     * `volume`, which is thin, goes back to the snapshot `name` from now on, which has the same size; or to none.
     * What it has of its own stays, and all else is as that one has it, or zeroes. -EEXIST when it does already.
     */
    PLX_POOL_SET_PARENT,
    PLX_POOL_DECOUPLE, /**< `volume` goes back to what its snapshot does: it gets its own of what that one has */
    /** Like PLX_POOL_SET_PARENT, but it goes back to a disk outside, `outer`, of any size, and to no snapshot. */
    PLX_POOL_SET_OUTER,
};

enum { PLX_VOLUME_ATTRIBUTES = 287 }; /**< bytes of all names and values of a volume, each with a zero */
struct plx_volume_attribute {
    const char *name;  /**< printable, 1 byte or more, as */
    const char *value; /**< is this, which may be empty; NULL: there is none any more */
};

/** Something to be done to a pool. Memory of the caller's, who leaves it alone until done is called. */
struct plx_pool_op {
    enum plx_pool_op_kind kind;
    const char *volume; /**< its UUID, or name */
    const char *name;
    uint64_t size;
    bool thick;
    const struct plx_volume_attribute *attributes; /**< PLX_POOL_SET, PLX_POOL_SNAPSHOT: of what is made */
    uint32_t n_attributes;
    uint64_t checksum;
    uint32_t altered;
    const char *outer; /**< UUID or name of a disk outside that shows through where nothing is; or NULL */
    uint8_t uuid[16];  /**< of what is made: zeroes for a random one; it is there when it is done */
    /**
     * PLX_POOL_SNAPSHOT: one more, or NULL, of the same instant: whatever order writes to all these volumes had, what
     * the snapshots have of them is the first ones. All are made, or none; `volume`, `name`, `uuid` and `attributes` of
     * those that are reached this way are used, and nothing else of them.
     */
    struct plx_pool_op *with;
    /** Called on the reactor, or NULL: on a thread of the pool's, which must not be blocked. */
    void (*done)(struct plx_pool_op *op);
    struct plx_reactor *reactor;
    void *arg;  /**< the caller's */
    int result; /**< 0, or -errno with err filled */
    struct plx_error err;

    /* The pool's. */
    struct plx_pool *pool;
    struct plx_msg msg;
};

/** Begins it. From any thread. */
PLX_API void plx_pool_submit(struct plx_pool *pool, struct plx_pool_op *op);
/** Operations that take long end soon, with -ECANCELED; for good: the pool is to be closed. From any thread. */
PLX_API void plx_pool_cancel(struct plx_pool *pool);
/** The same, and waits for it; done and reactor are not looked at. Not on a reactor. @return op->result */
PLX_API int plx_pool_do(struct plx_pool *pool, struct plx_pool_op *op);

/* ---- what is different ---- */

/** Bytes in a row, in whole units of the pool, but for the end of the volume. */
struct plx_pool_extent {
    uint64_t offset, length;
    bool data;  /**< `to` has something there; else it has nothing, and reads as zeroes */
    bool outer; /**< which is what a disk outside has, and zeroes beyond the end of that */
};

/**
 * Where a volume is not what another one is, which is mostly a snapshot that it goes back to, from what they map alone:
 * what both share is not looked at. Exact for snapshots; a volume may change meanwhile. Memory of the caller's, who
 * leaves it alone until done is called.
 */
struct plx_pool_diff {
    const char *from; /**< UUID or name; NULL for a volume that has nothing, and reads as zeroes */
    const char *to;
    uint64_t offset; /**< where to begin; then where to go on: the end of `to` when that was all */
    struct plx_pool_extent *extents;
    uint32_t room; /**< for so many */
    bool own;      /**< `from` is NULL: what a disk outside has, to which `to` goes back, is not different */
    /** Called on the reactor, or NULL: on a thread of the pool's, which must not be blocked. */
    void (*done)(struct plx_pool_diff *d);
    struct plx_reactor *reactor;
    void *arg; /**< the caller's */

    uint32_t n;    /**< extents, in order, none of which touches the next unless that is of the other kind */
    uint64_t size; /**< of `to` */
    int result;    /**< 0, or -errno with err filled: -ENOENT, -EIO when a part of either cannot be read */
    struct plx_error err;

    /* The pool's. */
    struct plx_pool *pool;
    struct plx_msg msg;
};

/** Begins it. From any thread. */
PLX_API void plx_pool_diff_submit(struct plx_pool *pool, struct plx_pool_diff *d);
/** The same, and waits for it; done and reactor are not looked at. Not on a reactor. @return d->result */
PLX_API int plx_pool_diff(struct plx_pool *pool, struct plx_pool_diff *d);

/* ---- copied to another disk ---- */

struct pool_send;

/**
 * What a snapshot has is written to the same places of another disk. Memory of the caller's, who leaves it alone until
 * done is called, but for looking how far it has come. All on the one reactor.
 */
struct plx_volume_copy {
    struct plx_bdev *volume;  /**< a snapshot, open as this disk */
    struct plx_bdev *to;      /**< at least as large; nobody else may use it meanwhile */
    bool all;                 /**< what those that it goes back to have, too; else what is its own */
    const uint64_t *clusters; /**< only these, which are unmapped where there is nothing to be written; or NULL */
    uint32_t n_clusters;
    struct plx_reactor *reactor;
    void (*done)(struct plx_volume_copy *c); /**< may be called before plx_volume_copy_begin() returns */
    void *arg;                               /**< the caller's */

    uint64_t copied, unmapped; /**< clusters of which something has been written, or nothing is there */
    uint64_t total;            /**< of them, once they have been counted */
    int result;                /**< at the end: 0, or -errno with err filled */
    struct plx_error err;

    struct pool_send *inner; /**< the pool's */
};

/**
 * Begins it. @return 0; or -errno with err filled, and done is not called: -EPERM when it is no snapshot, -EINVAL when
 * the disks do not fit, -EBUSY when either is in use
 */
PLX_API int plx_volume_copy_begin(struct plx_volume_copy *c);
/** It ends soon, with -ECANCELED. */
PLX_API void plx_volume_copy_stop(struct plx_volume_copy *c);

#ifdef __cplusplus
}
#endif
#endif
