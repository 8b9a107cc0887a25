/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file Pools looked at from outside: checked, repaired, and shown as they are on their disk.
 *
 * What does this shares nothing with what writes pools but the description of the format, docs/format-pool.md: each
 * finds the other's mistakes. None of it opens the pool, nor is a log replayed.
 */
#ifndef POLLUX_POOL_CHECK_H
#define POLLUX_POOL_CHECK_H

#include <pollux/bdev.h>

struct plx_pool;

#ifdef __cplusplus
extern "C" {
#endif

enum plx_pool_severity {
    PLX_POOL_NOTE,   /**< worth to know; nothing is wrong */
    PLX_POOL_WASTE,  /**< space is lost, or a count is wrong; no data is in danger */
    PLX_POOL_DAMAGE, /**< data, or what leads to it, is lost or in danger */
};

enum { PLX_POOL_NOWHERE = -1 };

struct plx_pool_finding {
    enum plx_pool_severity severity;
    bool mendable;      /**< plx_pool_check() with repair sees to it */
    const char *volume; /**< its name, "volume 7" when it has none; NULL: of the pool */
    int64_t number;     /**< of the volume, or PLX_POOL_NOWHERE */
    int64_t unit;       /**< of the pool, or PLX_POOL_NOWHERE */
    int64_t offset;     /**< of data: bytes from the beginning of the volume; else PLX_POOL_NOWHERE */
    const char *text;   /**< one sentence without its stop, for people; may have what is on the disk in it */
};

/** Memory of the caller's; the lower half is filled. */
struct plx_pool_check {
    bool data;             /**< is compared with its checksums as well, in pools that have them */
    bool repair;           /**< what can be mended without a guess; nobody else has the disk open */
    struct plx_pool *pool; /**< that of the disk, where it is open here, and is to keep what is looked at; or NULL */
    struct plx_reactor *reactor; /**< that the caller drives by `turn`; NULL: one of its own */
    void (*turn)(struct plx_reactor *r);
    void (*found)(void *arg, const struct plx_pool_finding *f);
    /** Now and then: units of the pool, and how long it took. @return false to end it. May be NULL, as may found. */
    bool (*progress)(void *arg, uint64_t done, uint64_t total, uint64_t ns);
    void *arg;

    uint8_t uuid[16];
    char name[64];
    uint64_t generation, size, used;     /**< bytes */
    uint32_t volumes, snapshots, others; /**< others: that were deleted, and are not free yet */
    uint64_t nodes;                      /**< units of metadata that were read */
    uint64_t log_pages;                  /**< that are still to be replayed; */
    uint64_t data_bytes;                 /**< of data that were compared */
    uint64_t notes, wastes, damages;     /**< findings, also those beyond the number that are told */
    bool repaired;                       /**< something was written */
    unsigned tries;                      /**< how often it began anew, as somebody was writing */
};

/**
 * Goes through all that is on a disk that has a pool. Somebody may be writing to it: what is looked at is one
 * generation, and when that is over before all has been seen it is begun anew. Blocks; not on a reactor that runs.
 * @return 0 when all has been looked at, whatever was found; -errno with err filled: -ENODATA when there is no pool,
 * -EBUSY when it is changed faster than it can be looked at, -ECANCELED when progress ended it
 */
PLX_API int plx_pool_check(struct plx_bdev *disk, struct plx_pool_check *c, struct plx_error *err);

/**
 * Shows what is on the disk, a structure a call: a JSON object whose "is" says which. volume is a number, a name or a
 * UUID, whose tree is shown as well; NULL for none. Blocks.
 * @return 0, or -errno with err filled
 */
PLX_API int plx_pool_dump(struct plx_bdev *disk, const char *volume, bool (*item)(void *arg, const char *json),
                          void *arg, struct plx_error *err);

#ifdef __cplusplus
}
#endif
#endif
