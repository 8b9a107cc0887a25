/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file Disks that stand on another one, to test what uses disks with: one that is slow, one that fails, one whose
 * power is cut.
 *
 * Each is a disk like any other, closed with plx_bdev_close(), and has the disk below for itself. That is opened with
 * it and closed with it when it came of a name, "delay:ram:1G?read=2ms"; it stays open when it was open before, and was
 * given as it is, by its name or by its UUID. What is set here is set from any thread, at any time, and holds for the
 * requests that come after that on every reactor.
 */
#ifndef POLLUX_BDEV_FILTER_H
#define POLLUX_BDEV_FILTER_H

#include <pollux/bdev.h>

#ifdef __cplusplus
extern "C" {
#endif

/** The disk that a filter, or the pool of a volume, stands on; or NULL. */
PLX_API struct plx_bdev *plx_bdev_below(const struct plx_bdev *bdev);
/** Calls fn for each disk that stands right on this one, from the latest on, until it returns false. */
PLX_API void plx_bdev_each_above(const struct plx_bdev *of, bool (*fn)(void *arg, struct plx_bdev *bdev), void *arg);

/* ---- a slow disk ---- */

enum plx_bdev_delay {
    PLX_BDEV_DELAY_AVG_READ,  /**< 99 of 100 reads and compares, at random */
    PLX_BDEV_DELAY_P99_READ,  /**< the others */
    PLX_BDEV_DELAY_AVG_WRITE, /**< 99 of 100 writes, copies, and compares with a write */
    PLX_BDEV_DELAY_P99_WRITE,
};

/** How long requests wait before the disk below gets them, in microseconds; all others do not wait. */
struct plx_bdev_delays {
    uint64_t avg_read_us, p99_read_us, avg_write_us, p99_write_us;
};

#define PLX_BDEV_DELAY_MAX_US (UINT64_C(86400) * 1000000) /**< the longest */

/**
 * Makes a slow disk of a disk.
 * @param name unique; or NULL
 * @param uuid NULL for that of the disk below
 * @return 0, or -errno with err filled
 */
PLX_API int plx_bdev_delay_create(struct plx_bdev *below, const char *name, const uint8_t uuid[16],
                                  const struct plx_bdev_delays *d, struct plx_bdev **out, struct plx_error *err);
/** What waits already does so as long as it was to. @return 0; -EINVAL with err filled, for another kind of disk too */
PLX_API int plx_bdev_delay_set(struct plx_bdev *bdev, enum plx_bdev_delay which, uint64_t us, struct plx_error *err);
PLX_API int plx_bdev_delay_get(const struct plx_bdev *bdev, struct plx_bdev_delays *out, struct plx_error *err);

/* ---- a disk that fails ---- */

enum plx_bdev_injection_type {
    PLX_BDEV_INJECT_NONE,    /**< nothing any more; what was kept pending goes on */
    PLX_BDEV_INJECT_FAILURE, /**< requests end with a status, and do not reach the disk below */
    PLX_BDEV_INJECT_PENDING, /**< requests do not end until they are aborted or reset, or until that is taken back */
    PLX_BDEV_INJECT_CORRUPT, /**< a byte of what is read or written is another one */
};

enum {
    /** The operations that something can be injected into. */
    PLX_BDEV_INJECT_ALL = 1 << PLX_BDEV_READ | 1 << PLX_BDEV_WRITE | 1 << PLX_BDEV_WRITE_ZEROES | 1 << PLX_BDEV_UNMAP |
                          1 << PLX_BDEV_FLUSH | 1 << PLX_BDEV_COMPARE | 1 << PLX_BDEV_COMPARE_AND_WRITE |
                          1 << PLX_BDEV_COPY,
};

#define PLX_BDEV_INJECT_FOREVER UINT32_MAX

struct plx_bdev_injection {
    enum plx_bdev_injection_type type;
    uint32_t ops;            /**< bit 1 << enum plx_bdev_op of each; PLX_BDEV_INJECT_ALL. Each has its own count */
    uint32_t count;          /**< into how many requests; 0 is as PLX_BDEV_INJECT_NONE */
    uint32_t queue_depth;    /**< only while the disk below has at least so many requests of the same reactor */
    uint16_t status;         /**< of a failure: enum plx_nvme_status; 0 for PLX_SC_INTERNAL_ERROR */
    uint8_t corrupt_value;   /**< the bits of the byte that are turned over; not 0 */
    uint64_t corrupt_offset; /**< which byte of a request's data; a request that has fewer is left alone */
};

/** Makes a disk that fails when it is told to. As plx_bdev_delay_create(). */
PLX_API int plx_bdev_error_create(struct plx_bdev *below, const char *name, const uint8_t uuid[16],
                                  struct plx_bdev **out, struct plx_error *err);
/** In the place of what was injected into these operations before. @return 0; -EINVAL with err filled */
PLX_API int plx_bdev_error_inject(struct plx_bdev *bdev, const struct plx_bdev_injection *what, struct plx_error *err);

/* ---- a disk whose power is cut ---- */

/*
 * A disk with a volatile write cache, "crash:DISK", opened by name as any. What is written is read at once, and held
 * back from the disk below until it is flushed, or written with PLX_BDEV_FUA, or has to make room: a flush persists the
 * writes that had completed before it was submitted. Copies, and compares with a write, are reads and writes.
 *
 * When power is cut, by a call or as its settings say, the disk below gets some of the writes that were held back,
 * those in flight among them: any of them, in any order, perhaps torn, as the seed has it. All requests, also those in
 * flight, end with PLX_SC_INVALID_NAMESPACE_OR_FORMAT then, until it is restored, or closed and opened. Closing it is a
 * cut of which nothing is left.
 */

/**
 * Cuts power. From any thread. A channel then does what is to be done to the disk below; while there is none, nothing
 * of what was held back gets there.
 * @return 0; -EINVAL with err filled, for another kind of disk; -EALREADY when power has been cut
 */
PLX_API int plx_bdev_crash_cut(struct plx_bdev *bdev, struct plx_error *err);
/**
 * Gives it power again, with what was left. From any thread.
 * @return 0; -EINVAL, -EALREADY when it has power; -EBUSY when a channel is at what the cut leaves: poll its reactor,
 * and try again. With err filled
 */
PLX_API int plx_bdev_crash_restore(struct plx_bdev *bdev, struct plx_error *err);

#ifdef __cplusplus
}
#endif
#endif
