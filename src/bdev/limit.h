/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Rate limits. A limiter is the policy alone, so that it can be shared by several who are to be limited together: any
 * number of reactors ask it, without a lock. A lane is a channel's line of requests that wait for that of their disk.
 */
#ifndef PLX_BDEV_LIMIT_H
#define PLX_BDEV_LIMIT_H

#include <pollux/bdev.h>

#include "base/apart.h"

#include <stdatomic.h>

/* ---- limiter.c: how much in a second ---- */

enum plx_limit_kind {
    PLX_LIMIT_IOS,
    PLX_LIMIT_BYTES,
    PLX_LIMIT_READ_IOS,
    PLX_LIMIT_READ_BYTES,
    PLX_LIMIT_WRITE_IOS,
    PLX_LIMIT_WRITE_BYTES,
    PLX_LIMIT_KINDS,
};

enum { PLX_LIMIT_EACH = 4 }; /* apply to a request */

struct plx_limit_bucket {
    _Atomic uint64_t rate; /* a second; 0: no limit */
    _Atomic uint64_t next; /* the time up to which it is booked, and the version: see limiter.c */
};

/* On cache lines of its own, as all who ask write to it, if rarely. */
struct plx_limiter {
    _Alignas(PLX_CACHE_ALIGN) struct plx_limit_bucket buckets[PLX_LIMIT_KINDS];
    _Atomic uint64_t burst;
    _Atomic uint32_t version; /* counts changes */
};
PLX_IS_APART(struct plx_limiter);

/* One who asks: on one reactor, for reads alone or for writes alone. Zeroed at first. */
struct plx_limit_user {
    uint64_t credit[PLX_LIMIT_EACH]; /* what is booked and was not used yet, */
    uint64_t due;                    /* and when that may be */
    uint32_t version;                /* of the limits that it was booked by */
};

/* One that limits nothing, or NULL; to be freed. */
struct plx_limiter *plx_limiter_new(void);

/* Sets the limits. Who sets those of one limiter at the same time sees to it that it is one after the other. */
void plx_limiter_set(struct plx_limiter *l, const struct plx_bdev_limits *limits, uint64_t now);

/*
 * Whether a request may go: @return 0, and it is counted; or else the time, later than now, at which to ask again.
 * What comes to be asked for first then is given first. To ask earlier is to no avail, but for a change of limits.
 */
uint64_t plx_limiter_ask(struct plx_limiter *l, struct plx_limit_user *u, bool write, uint64_t bytes, uint64_t now);

/* Counts one that goes, whether it may or not: those after it pay for it. */
void plx_limiter_charge(struct plx_limiter *l, struct plx_limit_user *u, bool write, uint64_t bytes, uint64_t now);

/* ---- limit.c: a channel's requests that wait, of reads or of writes ---- */

struct plx_limit_lane {
    struct plx_limit_user user;
    struct plx_bdev_channel *ch;
    struct plx_bdev_req *first, **tail;
    struct plx_timer timer; /* set while there is one */
};

#endif
