/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file The block layer, for those who use disks: open one, get a channel on each reactor, submit requests.
 */
#ifndef POLLUX_BDEV_H
#define POLLUX_BDEV_H

#include <pollux/nvme_status.h>
#include <pollux/reactor.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

struct plx_bdev;
struct plx_bdev_channel;

enum plx_bdev_op {
    PLX_BDEV_READ,         /**< iov receives nlb blocks from lba on */
    PLX_BDEV_WRITE,        /**< iov holds nlb blocks */
    PLX_BDEV_WRITE_ZEROES, /**< no data; PLX_BDEV_UNMAP_OK allows freeing the space */
    PLX_BDEV_UNMAP,        /**< no data; a hint, after which the blocks read as info->unmap_reads_zero says */
    PLX_BDEV_FLUSH,   /**< all writes that completed before it are on stable storage when it completes; lba and nlb are
                         ignored */
    PLX_BDEV_COMPARE, /**< iov holds nlb blocks to compare with; ends with PLX_SC_COMPARE_FAILURE when they differ */
    PLX_BDEV_COMPARE_AND_WRITE, /**< iov holds 2 * nlb blocks: first what to compare with, then what to write if that is
                                   equal; atomic */
    PLX_BDEV_COPY,              /**< no data; nlb blocks from src_lba to lba, which may overlap */
    PLX_BDEV_RESET, /**< ends what is in flight on its channel, perhaps with PLX_SC_ABORTED_BY_REQUEST; then completes
                     */
    PLX_BDEV_ALLOCATED, /**< iov receives a uint64_t: how many blocks take space now; lba and nlb are ignored */
    /* Of zoned disks (info->zone_blocks) alone: NVMe's Zoned Namespace Command Set 1.1 */
    PLX_BDEV_ZONE_APPEND, /**< iov holds nlb blocks, which are written to where the write pointer is of the zone that
                             begins at lba; src_lba is then the first of them */
    PLX_BDEV_ZONE_MANAGE, /**< no data; zone_action on the zone that begins at lba, or on all: PLX_BDEV_ALL_ZONES */
    PLX_BDEV_ZONE_REPORT, /**< iov receives nlb times 64 bytes: a struct plx_bdev_zones, and a struct plx_bdev_zone for
                             each zone from that of lba on, of those that zone_report says, as far as there is room;
                             then zeroes */
    PLX_BDEV_VERIFY,      /**< no data; ends as a read of the blocks would: NVM 3.3.5 */
    PLX_BDEV_OPS,
};

enum { PLX_BDEV_ZONED_OPS = 1 << PLX_BDEV_ZONE_APPEND | 1 << PLX_BDEV_ZONE_MANAGE | 1 << PLX_BDEV_ZONE_REPORT };

/** Of enum plx_bdev_op PLX_BDEV_ZONE_MANAGE, with the values of ZNS 3.4.3. */
enum plx_bdev_zone_action {
    PLX_BDEV_ZONE_CLOSE = 1,
    PLX_BDEV_ZONE_FINISH = 2, /**< it becomes full */
    PLX_BDEV_ZONE_OPEN = 3,
    PLX_BDEV_ZONE_RESET = 4, /**< it becomes empty */
    PLX_BDEV_ZONE_OFFLINE = 5,
};

/** Of enum plx_bdev_op PLX_BDEV_ZONE_REPORT, with the values of ZNS 3.4.2. */
enum plx_bdev_zone_report {
    PLX_BDEV_ZONES_ALL = 0,
    PLX_BDEV_ZONES_EMPTY = 1,
    PLX_BDEV_ZONES_OPEN = 2, /**< by a write */
    PLX_BDEV_ZONES_EXPLICITLY_OPEN = 3,
    PLX_BDEV_ZONES_CLOSED = 4,
    PLX_BDEV_ZONES_FULL = 5,
    PLX_BDEV_ZONES_READ_ONLY = 6,
    PLX_BDEV_ZONES_OFFLINE = 7,
};

/** With the values of ZNS 3.4.2.2.3. */
enum plx_bdev_zone_state {
    PLX_BDEV_ZONE_IS_EMPTY = 1,
    PLX_BDEV_ZONE_IS_OPEN = 2, /**< by a write */
    PLX_BDEV_ZONE_IS_EXPLICITLY_OPEN = 3,
    PLX_BDEV_ZONE_IS_CLOSED = 4,
    PLX_BDEV_ZONE_IS_READ_ONLY = 13,
    PLX_BDEV_ZONE_IS_FULL = 14,
    PLX_BDEV_ZONE_IS_OFFLINE = 15,
};

/** The beginning of a report, little-endian: ZNS 3.4.2.2.2. */
struct plx_bdev_zones {
    uint64_t count; /**< such zones from there to the end of the disk: there may be more than fit, but for
                       PLX_BDEV_PARTIAL */
    uint8_t reserved[56];
};

/** A zone, little-endian: ZNS 3.4.2.2.3. */
struct plx_bdev_zone {
    uint8_t type;  /**< 2: it has to be written in order */
    uint8_t state; /**< enum plx_bdev_zone_state in bits 7:4 */
    uint8_t attributes, attributes_info, reserved4[4];
    uint64_t capacity; /**< blocks of it that can be written */
    uint64_t lba;
    uint64_t write_pointer; /**< the block that is to be written next */
    uint8_t reserved32[32];
};

enum plx_bdev_flag {
    PLX_BDEV_FUA = 1 << 0,       /**< write, write zeroes, compare and write: on stable storage when it completes */
    PLX_BDEV_UNMAP_OK = 1 << 1,  /**< write zeroes: the space may be freed */
    PLX_BDEV_ALL_ZONES = 1 << 3, /**< zone manage: all zones that are in a state for it */
    PLX_BDEV_PARTIAL = 1 << 4,   /**< zone report: those zones are counted alone that are told of */
    PLX_BDEV_ONE_COPY = 1 << 5,  /**< read: from the copy of that number alone; a layer may leave this out */
    PLX_BDEV_IN_PLACE = 1 << 2,  /**< its data was counted on as info->in_place says, and is gone when plx_bdev_submit()
                                   returns: a rate limit that was set just now counts it, and does not hold it back */
};

/** What a disk is; constant while it is open, but for its size, and what comes and goes with a rate limit. */
struct plx_bdev_info {
    const char *driver;  /**< "ram", "file", ... */
    char name[256];      /**< the name that it was given, else what was opened, in its full form */
    uint8_t uuid[16];    /**< identifies the data: the same disk has the same at the next start, if it keeps its data */
    uint8_t origin[16];  /**< identifies what was asked for: the same for the same disk with the same settings, at every
                            start */
    uint32_t block_size; /**< bytes, a power of two from 512 to 64 KiB */
    uint64_t blocks;     /**< may change: see plx_bdev_blocks() */
    uint32_t ops;        /**< bit 1 << enum plx_bdev_op for each operation that it can do */
    uint32_t write_unit; /**< bytes that are best written at once; the block size or a multiple */
    uint32_t unmap_granularity; /**< blocks; 0 when it cannot unmap */
    uint32_t max_unmap_blocks;  /**< at once: longer unmaps are cut, and are not atomic anyway */
    bool read_only;
    bool write_cache;      /**< a completed write may be lost by a power cut until it is flushed */
    bool unmap_reads_zero; /**< unmapped blocks read as zeroes */
    bool shared;           /**< others than this process may change it: what is done in several steps is not atomic */
    bool rotational;
    /** Every request completes within plx_bdev_submit(): its data is never needed afterwards. Not while there is a rate
     *  limit; who counts on it sets PLX_BDEV_IN_PLACE. */
    bool in_place;
    bool shares_memory;   /**< data in memory of plx_shared_alloc() is not copied on its way */
    bool undefined_reads; /**< a read may leave its iov as it was: what goes to others is to be mapped, if it can be */
    /** Blocks from one zone to the next; 0: it is not zoned. A write then begins at its zone's write pointer, or ends
     *  with PLX_SC_ZONE_INVALID_WRITE: one at a time in a zone, or appends, of which there may be many. */
    uint64_t zone_blocks;
    uint32_t max_open_zones, max_active_zones; /**< at a time; 0: any number */
    uint32_t max_append_blocks;                /**< of one append */
    bool reads_cross_zones;                    /**< else a read that does ends with PLX_SC_ZONE_BOUNDARY_ERROR */
    bool zone_capacity_varies;                 /**< a zone that is reset may have another */
    bool zones_finish;                         /**< a zone may become full that nobody has filled */
    /** Of all that is written it has so many, each of which can be read alone; 0: one. Who knows that one is not what
     *  was written asks for the others, and writes what is right, which makes all of them right. */
    uint8_t copies;
    uint32_t max_reactors; /**< that can have a channel at a time, as each takes a queue; 0: any number */
};

/**
 * Whether so many reactors can have a channel, if no others have. @return 0, or -EBUSY with err filled: how many can
 */
PLX_API int plx_bdev_check_reactors(const struct plx_bdev *bdev, unsigned reactors, struct plx_error *err);

/**
 * Opens a disk by path or URL: "disk.img", "/dev/sdb", "file:///path?ro=1&block=4096", "ram:1G?block=4096", "null:1T",
 * "/dev/ng0n1".
 * @return 0, or -errno with err filled: what was wrong, and what would be right
 */
PLX_API int plx_bdev_open(const char *url, struct plx_bdev **out, struct plx_error *err);

/** The same, with a name of its own, which no other disk of this process has. NULL for none. */
PLX_API int plx_bdev_open_as(const char *url, const char *name, struct plx_bdev **out, struct plx_error *err);

/**
 * The path of the file or device that a disk's name stands for, which need not be there.
 * @return 1; 0 when it is another kind of disk; -errno with err filled when it is no disk's name
 */
PLX_API int plx_bdev_path(const char *name, char *path, size_t size, struct plx_error *err);

/**
 * Closes a disk whose channels have all been put back, and that nobody holds.
 * @return 0; or -EBUSY, and nothing has happened: who uses it is logged
 */
PLX_API int plx_bdev_close(struct plx_bdev *bdev);

/**
 * How what was begun has ended. bdev is the disk, NULL when there is none, because it could not be opened or has been
 * closed; err is filled when result is not 0.
 */
typedef void (*plx_bdev_done_fn)(void *arg, struct plx_bdev *bdev, int result, const struct plx_error *err);

/**
 * Opens or closes a disk from a reactor, or looks at one again (plx_bdev_rescan()), without blocking it: a worker
 * thread does it. done is called on the reactor, never before these return. A disk that is looked at cannot be closed
 * until done is about to be called, nor may it be from elsewhere then.
 * @return 0, or -errno: then done is not called
 */
PLX_API int plx_bdev_open_begin(struct plx_reactor *r, const char *url, const char *name, plx_bdev_done_fn done,
                                void *arg);
PLX_API int plx_bdev_close_begin(struct plx_reactor *r, struct plx_bdev *bdev, plx_bdev_done_fn done, void *arg);
PLX_API int plx_bdev_rescan_begin(struct plx_reactor *r, struct plx_bdev *bdev, plx_bdev_done_fn done, void *arg);

/**
 * Gives a disk that has a name one more that it is found by, instead of the one that it had; NULL for none.
 * @return 0; -EEXIST with err filled when another disk has it, or it as an alias; -errno
 */
PLX_API int plx_bdev_set_alias(struct plx_bdev *bdev, const char *alias, struct plx_error *err);
/** @return false when it has none */
PLX_API bool plx_bdev_get_alias(struct plx_bdev *bdev, char *out, size_t size);

/**
 * The disk with this name, alias or UUID, or else the first that was opened as this without a name; or NULL. All disks
 * of the process are known. The disk is there until somebody closes it: whoever opens and closes disks finds them, or
 * those who find them hold them and are told.
 */
PLX_API struct plx_bdev *plx_bdev_find(const char *name);
/** Calls fn for each disk until it returns false; fn must not open or close any. */
PLX_API void plx_bdev_each(bool (*fn)(void *arg, struct plx_bdev *bdev), void *arg);

/** How many blocks it has now. From any thread. */
PLX_API uint64_t plx_bdev_blocks(const struct plx_bdev *bdev);
/** Gives it another size. @return 0, or -errno with err filled; -EOPNOTSUPP where that is not ours to do */
PLX_API int plx_bdev_resize(struct plx_bdev *bdev, uint64_t blocks, struct plx_error *err);
/**
 * Looks whether a file or block device has another size, or is gone. It may block: see plx_bdev_rescan_begin(). @return
 * 0, or -errno with err filled
 */
PLX_API int plx_bdev_rescan(struct plx_bdev *bdev, struct plx_error *err);

/**
 * What is on a disk that is open, for people: "ext4 (file system)", "a partition table (gpt) with 3 partitions", "data
 * of no known kind". Reads its beginning and its end, and blocks. Of a pool see <pollux/pool.h>.
 * @return 1; 0 when all that was read is zeroes; -errno with err filled
 */
PLX_API int plx_bdev_content(struct plx_bdev *bdev, char *text, size_t size, struct plx_error *err);

/* ---- users of a disk, towards each other ---- */

enum plx_bdev_claim {
    PLX_BDEV_READS,     /**< or only looks on; conflicts with nothing */
    PLX_BDEV_STILL,     /**< reads, and nobody writes */
    PLX_BDEV_SHARED,    /**< writes, and so may others */
    PLX_BDEV_EXCLUSIVE, /**< writes, and nobody else does */
};

enum plx_bdev_event {
    PLX_BDEV_RESIZED, /**< see plx_bdev_blocks() */
    PLX_BDEV_GONE,    /**< for good: requests end with PLX_SC_INVALID_NAMESPACE_OR_FORMAT; to be released and closed */
};

struct plx_bdev_hold_opts {
    const char *who; /**< for people: "lvstore lvs0" */
    enum plx_bdev_claim claim;
    /** Called on the reactor when something happened to the disk, not before plx_bdev_hold() returns. May be NULL. */
    void (*event)(void *arg, struct plx_bdev *bdev, enum plx_bdev_event what);
    void *arg;
    /** NULL: event is called on any thread, at once, and must not block, hold or release. */
    struct plx_reactor *reactor;
};

struct plx_bdev_hold;

/**
 * Holds a disk: it stays open until it is released. From any thread.
 * @return 0; -EBUSY when the claim conflicts with another's, whom err names; -ENODEV when it is gone
 */
PLX_API int plx_bdev_hold(struct plx_bdev *bdev, const struct plx_bdev_hold_opts *opts, struct plx_bdev_hold **out,
                          struct plx_error *err);
/** On its reactor, if it has one; after this event is not called. */
PLX_API void plx_bdev_release(struct plx_bdev_hold *hold);

/* ---- rate limits ---- */

/**
 * How much a disk does in a second, on all reactors together; 0 for no limit. What is more waits. Reads are reads,
 * compares and verifies; writes are writes, copies, compare and writes, and write zeroes where these are done by
 * writing. Others are not limited. A request counts as one, and as the bytes of its blocks.
 */
struct plx_bdev_limits {
    uint64_t ios, read_ios, write_ios;
    uint64_t bytes, read_bytes, write_bytes;
    uint32_t burst_ms; /**< what was left unused in so many ms may be made up for; 0 for the default of 50 */
};

enum { PLX_BDEV_BURST_MS_MAX = 10000 };

/**
 * Sets its limits, from any thread, at any time; also for what waits already. They hold from within 50 ms. Whatever the
 * limits that were set before had still to be paid for is forgiven.
 * @return 0, or -EINVAL with err filled
 */
PLX_API int plx_bdev_set_limits(struct plx_bdev *bdev, const struct plx_bdev_limits *limits, struct plx_error *err);
PLX_API void plx_bdev_get_limits(struct plx_bdev *bdev, struct plx_bdev_limits *out);

PLX_API const struct plx_bdev_info *plx_bdev_info(const struct plx_bdev *bdev);

/** For people: one line a kind of disk, NULL-terminated, such as "ram:SIZE[?block=N]  memory". */
PLX_API const char *const *plx_bdev_kinds(void);

/**
 * A channel: one reactor's way to a disk. On that reactor, or before it first runs. Asked for again on the same
 * reactor it is the same channel, to be put back as often.
 * @return 0 or -errno
 */
PLX_API int plx_bdev_channel_get(struct plx_bdev *bdev, struct plx_reactor *r, struct plx_bdev_channel **out);
/** Puts a channel back that has nothing in flight. */
PLX_API void plx_bdev_channel_put(struct plx_bdev_channel *ch);
PLX_API struct plx_bdev *plx_bdev_channel_bdev(const struct plx_bdev_channel *ch);

enum { PLX_BDEV_CONTEXT = 256 };

/**
 * A request. Memory of the caller's, aligned to 16, the same for every disk. The caller leaves it, the iovec and the
 * data alone from submission until done is called. The upper fields are the caller's to set, and are left as they are.
 */
struct plx_bdev_req {
    /** Called exactly once, on the channel's reactor, perhaps before plx_bdev_submit() returns. */
    void (*done)(struct plx_bdev_req *req);
    struct iovec *iov;
    uint32_t iovcnt;
    uint8_t op;      /**< enum plx_bdev_op */
    uint8_t flags;   /**< enum plx_bdev_flag */
    uint16_t status; /**< result: enum plx_nvme_status */
    uint64_t lba;
    uint64_t src_lba;
    uint32_t nlb; /**< blocks, at least 1 but for flush and reset */
    union {
        uint8_t zone_action; /**< enum plx_bdev_zone_action */
        uint8_t zone_report; /**< enum plx_bdev_zone_report */
        uint8_t copy;        /**< of PLX_BDEV_ONE_COPY: from 0 on */
    };

    /* The block layer's. */
    uint8_t kept;                /**< by its channel, in the list of what is in flight: 0, or how */
    bool aborted;                /**< was asked to end early */
    uint16_t stage;              /**< how far it has come on that channel */
    struct plx_bdev_channel *ch; /**< where it is at present: that of a disk below, perhaps */
    struct plx_bdev_req *next;   /**< free for whoever holds the request at the time */
    struct plx_list link;        /**< in the list */
    uint64_t since;              /**< when it was entered there, in plx_reactor_now() time */
    /** The layer's that has the request at the time. */
    uint8_t context[PLX_BDEV_CONTEXT] __attribute__((aligned(16)));
};

/**
 * Submits a request. What is out of range, not supported, a write to a read-only disk, or whose iovec has not exactly
 * the bytes that nlb says ends with the status that NVMe has for it.
 */
PLX_API void plx_bdev_submit(struct plx_bdev_channel *ch, struct plx_bdev_req *req);

/**
 * Asks for a request in flight, on the channel that it was submitted to, to end early, with PLX_SC_ABORTED_BY_REQUEST;
 * it may complete normally all the same.
 */
PLX_API void plx_bdev_abort(struct plx_bdev_channel *ch, struct plx_bdev_req *req);

/**
 * Lends the memory that holds nlb blocks from lba on, to be read from within the present round of the reactor only: it
 * may change afterwards. A disk lends memory only while no other reactor can tear a block.
 * @return the memory, or NULL when it cannot be lent, or is out of range: read it then
 */
PLX_API const void *plx_bdev_map(struct plx_bdev_channel *ch, uint64_t lba, uint32_t nlb);

/**
 * Lends it once more, in a later round, to go on with a read that plx_bdev_map() lent it for: a rate limit that was set
 * meanwhile does not stop that.
 */
PLX_API const void *plx_bdev_map_again(struct plx_bdev_channel *ch, uint64_t lba, uint32_t nlb);

/** The status that a request for this range would be refused with, or PLX_SC_SUCCESS. */
PLX_API uint16_t plx_bdev_check(const struct plx_bdev *bdev, enum plx_bdev_op op, uint64_t lba, uint32_t nlb);

/**
 * What went through a channel. Readable from any thread. Latencies are from submission to completion, as exact as a
 * round of the reactor is short, of requests that did not complete in place; those that did took none, so that the mean
 * of all is latency_ns / ops. What a filter forwards is measured below it.
 */
struct plx_bdev_stats {
    uint64_t ops[PLX_BDEV_OPS]; /**< submitted */
    uint64_t blocks[PLX_BDEV_OPS];
    uint64_t errors;
    uint64_t failed[PLX_BDEV_OPS];     /**< of errors, those of an operation that there is */
    uint64_t latency_ns[PLX_BDEV_OPS]; /**< the sum */
    uint64_t min_latency_ns[PLX_BDEV_OPS], max_latency_ns[PLX_BDEV_OPS]; /**< both 0 where there was none */
};

/**
 * Adds what went through all channels of a disk, past and present, since it was opened or plx_bdev_reset_stats() was
 * called, into out, which begins as zeroes. From any thread.
 */
PLX_API void plx_bdev_get_stats(struct plx_bdev *bdev, struct plx_bdev_stats *out);
/** The same since it was opened, but for the extremes of latencies. */
PLX_API void plx_bdev_get_totals(struct plx_bdev *bdev, struct plx_bdev_stats *out);
/** Begins anew: the extremes of latencies alone, or all. From any thread; what is counted meanwhile is not lost. */
PLX_API void plx_bdev_reset_stats(struct plx_bdev *bdev, bool all);

/** Counts a read that was served from lent memory. */
PLX_API void plx_bdev_count_mapped(struct plx_bdev_channel *ch, uint32_t nlb);

/* ---- what is in flight ---- */

/**
 * Where a request in flight is, for people: "in disk0", or "waiting for the rate limit of disk0". On its reactor.
 * @return where
 */
PLX_API const char *plx_bdev_where(const struct plx_bdev_req *req, char *where, size_t size);

/** How long it has been there; 0 when it is not in flight, or on its way. On its reactor. */
PLX_API uint64_t plx_bdev_age(const struct plx_bdev_req *req);

/**
 * Calls fn for each request that is in flight on the channel, and then for those on the channels below it, which are
 * those that were forwarded and those that filters have made; until fn returns false. The oldest of each channel first.
 * On the channel's reactor; fn must not submit any, nor have any end.
 * @param age_ns how long it has been on that channel
 * @param where see plx_bdev_where(); valid during the call
 */
PLX_API void plx_bdev_channel_each(struct plx_bdev_channel *ch,
                                   bool (*fn)(void *arg, const struct plx_bdev_req *req, uint64_t age_ns,
                                              const char *where),
                                   void *arg);

#ifdef __cplusplus
}
#endif
#endif
