/* SPDX-License-Identifier: BSD-3-Clause */
/* What the files of the block layer's core share; drivers know driver.h only. */
#ifndef PLX_BDEV_CORE_H
#define PLX_BDEV_CORE_H

#include "base/iov.h"
#include "bdev/driver.h"

#include "base/util.h"

/* The core's part of a request's context: behind the driver's, on disks that are tracked or emulate something. */
struct plx_bdev_core {
    struct plx_list link; /* in ch->requests */
    bool held;            /* by the range lock */
    bool aborted;         /* was asked to end early */
    bool emulated;        /* is emulate.c's at present */
    bool asking;          /* a reset that asks what is older to end */

    /* An emulated operation: see emulate.c. */
    struct plx_bdev_req *req; /* whose context this is */
    uint8_t step;
    bool stepping; /* within the step function's loop: what completes at once must not start another */
    bool waiting;
    bool sub_busy; /* `sub` is the driver's at present */
    bool locked;   /* owns the range lock, or waits for it */
    uint16_t status;
    uint32_t at;  /* blocks done */
    uint32_t nlb; /* blocks of the piece at hand */
    struct plx_piece piece;
    struct plx_msg msg;       /* the range lock's answer */
    struct plx_list line;     /* those that wait for the range lock */
    struct iovec iov;         /* of `sub` */
    struct plx_iov_tail tail; /* of the caller's iovec */
    struct plx_bdev_req sub;  /* last: the driver's context follows */
};

enum {
    PLX_BDEV_WRITERS = 1 << PLX_BDEV_WRITE | 1 << PLX_BDEV_WRITE_ZEROES | 1 << PLX_BDEV_UNMAP |
                       1 << PLX_BDEV_COMPARE_AND_WRITE | 1 << PLX_BDEV_COPY,
};

static inline struct plx_bdev_core *plx_bdev_core(const struct plx_bdev *bdev, struct plx_bdev_req *req)
{
    return (struct plx_bdev_core *)(req->context + bdev->driver_context);
}

static inline struct plx_bdev_req *plx_bdev_core_req(const struct plx_bdev *bdev, struct plx_bdev_core *c)
{
    return (struct plx_bdev_req *)((uint8_t *)c - bdev->driver_context - sizeof(struct plx_bdev_req));
}

static inline struct plx_bdev_core *plx_bdev_req_core(struct plx_bdev_req *req)
{
    return plx_bdev_core(req->ch->bdev, req);
}

/* bdev.c: gives a request to the driver, or to emulate.c. */
void plx_bdev_start(struct plx_bdev_channel *ch, struct plx_bdev_req *req);

/* emulate.c */
uint32_t plx_emulate_ops(const struct plx_bdev *bdev);
void plx_emulate_submit(struct plx_bdev_channel *ch, struct plx_bdev_req *req);
void plx_emulate_abort(struct plx_bdev_channel *ch, struct plx_bdev_req *req);
void plx_emulate_sub_done(struct plx_bdev_req *sub);
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

/* piece.c */
int plx_pieces_init(struct plx_bdev_channel *ch);
void plx_pieces_destroy(struct plx_bdev_channel *ch);

void plx_bdev_channel_free(struct plx_bdev_channel *ch);

#endif
