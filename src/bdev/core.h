/* SPDX-License-Identifier: BSD-3-Clause */
/* What the files of the block layer's core share; drivers know driver.h only. */
#ifndef PLX_BDEV_CORE_H
#define PLX_BDEV_CORE_H

#include "base/iov.h"
#include "bdev/driver.h"

#include "base/util.h"

/* plx_bdev_req.stage */
enum plx_stage {
    PLX_STAGE_DRIVER, /* it is the driver's */
    PLX_STAGE_HELD,   /* by the range lock */
    PLX_STAGE_EMULATED,
    PLX_STAGE_ASKING,  /* a reset that asks what is older to end */
    PLX_STAGE_LIMITED, /* waits for its rate limit */
};

/* plx_bdev_req.kept, of what is in the list of its channel */
enum plx_kept {
    PLX_KEPT = 1,
    PLX_KEPT_PART, /* and is part of another that is emulated there, which is the one that counts */
};

/* An operation that emulate.c does, in the context of its request. */
struct plx_emulation {
    struct plx_bdev_subs part; /* one */
    uint8_t step;
    bool stepping; /* within the step function's loop: what completes at once must not start another */
    bool waiting;
    bool part_busy; /* the driver has it at present */
    bool locked;    /* owns the range lock, or waits for it */
    uint16_t status;
    uint32_t at;  /* blocks done */
    uint32_t nlb; /* blocks of the piece at hand */
    struct plx_piece piece;
    struct plx_msg msg;       /* the range lock's answer */
    struct plx_list line;     /* those that wait for the range lock */
    struct plx_iov_tail tail; /* of the caller's iovec */
};
PLX_BDEV_FITS(struct plx_emulation);

static inline struct plx_emulation *plx_emulation(struct plx_bdev_req *req)
{
    return (struct plx_emulation *)(void *)req->context;
}

enum {
    PLX_BDEV_WRITERS = 1 << PLX_BDEV_WRITE | 1 << PLX_BDEV_WRITE_ZEROES | 1 << PLX_BDEV_UNMAP |
                       1 << PLX_BDEV_COMPARE_AND_WRITE | 1 << PLX_BDEV_COPY | 1 << PLX_BDEV_ZONE_APPEND |
                       1 << PLX_BDEV_ZONE_MANAGE,
};

/* bdev.c: gives a request to the driver, or to emulate.c. */
void plx_bdev_start(struct plx_bdev_channel *ch, struct plx_bdev_req *req);
static inline void plx_bdev_enter(struct plx_bdev_channel *ch, struct plx_bdev_req *req, enum plx_kept how)
{
    req->kept = (uint8_t)how;
    req->aborted = false;
    req->stage = PLX_STAGE_DRIVER;
    req->since = *ch->now;
    plx_list_add_tail(&ch->requests, &req->link);
}

/* bdev.c: enters a request that does not leave its channel at once into the list of what is in flight there. */
void plx_bdev_keep(struct plx_bdev_channel *ch, struct plx_bdev_req *req);
/* bdev.c: gives a part of one to the driver, past the range lock and the statistics. */
void plx_bdev_start_part(struct plx_bdev_channel *ch, struct plx_bdev_req *part);

/* emulate.c */
uint32_t plx_emulate_ops(const struct plx_bdev *bdev);
void plx_emulate_submit(struct plx_bdev_channel *ch, struct plx_bdev_req *req);
void plx_emulate_abort(struct plx_bdev_channel *ch, struct plx_bdev_req *req);
void plx_emulate_part_done(struct plx_bdev_req *part);
/* Of a request that ends with that: whether it is part of one of this channel, or has been forwarded to it. */
bool plx_emulate_is_part_of(const struct plx_bdev_channel *ch, struct plx_bdev_req *part);
/* For people: what one that is emulated waits for; or the part of it that is under way. */
const char *plx_emulate_waits(const struct plx_bdev_req *req, const struct plx_bdev_req **part);
/* What a request waited for has come: takes its next steps. */
void plx_emulate_wake(struct plx_bdev_req *req);

/* range_lock.c */
void plx_range_lock_init(struct plx_bdev *bdev);
/* Both call plx_emulate_wake() when they are through. */
void plx_range_lock(struct plx_bdev_req *req);
void plx_range_unlock(struct plx_bdev_req *req);
/* Leaves the line. @return false when it was not in it */
bool plx_range_lock_cancel(struct plx_bdev_req *req);
/* A channel comes, under the disk's lock. */
void plx_gate_init(struct plx_bdev_channel *ch);
/* A channel goes, under the disk's lock. @return whether to free it; else that is done later */
bool plx_gate_close(struct plx_bdev_channel *ch);
/* A write that the closed gate may hold back. @return whether it did */
bool plx_gate_hold(struct plx_bdev_channel *ch, struct plx_bdev_req *req);
/* Takes a held write back. */
void plx_gate_release(struct plx_bdev_channel *ch, struct plx_bdev_req *req);
/* A write has ended while the gate is closed. */
void plx_gate_passed(struct plx_bdev_channel *ch);

/* bdev.c: what a request is refused with at present. */
uint16_t plx_bdev_check_request(const struct plx_bdev *bdev, const struct plx_bdev_req *req);
/* bdev.c: a disk is gone, or rate limits have changed, its own or of one below. */
void plx_bdev_adapt(struct plx_bdev *bdev);

/* stats.c */
void plx_stats_init(struct plx_bdev *bdev);
/* A channel goes, under the disk's lock. */
void plx_stats_keep(struct plx_bdev_channel *ch);
/* Extremes of latencies begin anew. From any thread. */
void plx_stats_begin(struct plx_bdev_channel *ch);
static inline uint64_t plx_stat_peek(const _Atomic uint64_t *n)
{
    return atomic_load_explicit(n, memory_order_relaxed);
}
/*
 * Only the channel's reactor adds to its statistics, so a plain load and store is enough, without a locked
 * instruction.
 */
static inline void plx_stat_add(_Atomic uint64_t *n, uint64_t by)
{
    atomic_store_explicit(n, plx_stat_peek(n) + by, memory_order_relaxed);
}

static inline struct plx_op_counts *plx_stats_of(struct plx_bdev_channel *ch, uint8_t op)
{
    return __builtin_assume_aligned(&ch->counts[op], _Alignof(struct plx_op_counts));
}

static inline void plx_stat_count(struct plx_bdev_channel *ch, uint8_t op, uint32_t blocks)
{
    struct plx_op_counts *c = plx_stats_of(ch, op);
    plx_stat_add(&c->ops, 1);
    plx_stat_add(&c->blocks, blocks);
}

/* limit.c */
void plx_lanes_init(struct plx_bdev_channel *ch);
/* The operations that are subject to a limit of the disk's, or of one below it. */
uint32_t plx_limited_ops(const struct plx_bdev *bdev);
/* Counts a request that is subject to a limit of the disk's. @return whether it has to wait, and is in the list */
bool plx_limit_hold(struct plx_bdev_channel *ch, struct plx_bdev_req *req);
/* Takes a waiting one back. */
void plx_limit_release(struct plx_bdev_channel *ch, struct plx_bdev_req *req);

int plx_bdev_close_checked(struct plx_bdev *bdev, struct plx_error *err);

/* registry.c */
int plx_registry_check_name(const char *name, struct plx_error *err);
/* A disk is there from now on; a filter holds the disk below. */
int plx_registry_add(struct plx_bdev *bdev, struct plx_error *err);
/* Fails for one that is in use. */
int plx_registry_remove(struct plx_bdev *bdev, struct plx_error *err);

/* sub.c */
int plx_reserve_init(struct plx_bdev_reserve *r, uint32_t n);
void plx_reserve_destroy(struct plx_bdev_reserve *r);
void plx_reserve_get(struct plx_bdev_reserve *r, struct plx_bdev_subs *s);
void plx_reserve_put(struct plx_bdev_reserve *r, struct plx_bdev_subs *s);
bool plx_reserve_cancel(struct plx_bdev_reserve *r, struct plx_bdev_subs *s);

/* piece.c */
int plx_pieces_init(struct plx_bdev_channel *ch);
void plx_pieces_destroy(struct plx_bdev_channel *ch);

void plx_bdev_channel_free(struct plx_bdev_channel *ch);

#endif
