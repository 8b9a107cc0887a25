/* SPDX-License-Identifier: BSD-3-Clause */
/* A user's access to a disk from a set of reactors: its channels on all of them, and the last flush. */
#ifndef PLX_BDEV_ACCESS_H
#define PLX_BDEV_ACCESS_H

#include <pollux/bdev.h>

#include "reactor/fan.h"

/* Memory of the user's, who leaves it alone until it is closed, or could not be opened. */
struct plx_bdev_access {
    struct plx_bdev *bdev;
    struct plx_fan fan; /* legs[i].arg is the channel of reactor i */
    void (*done)(struct plx_bdev_access *a, int result);
    int result;
    struct plx_fan_leg *flusher; /* whose channel flushes: the home reactor's, or the first where that has none */
    struct plx_timer limit;
    bool flushing;             /* the disk has the flush, or it is on its way there or back */
    bool closing;              /* once it has come back */
    bool at_disk;              /* the flusher's: the disk has it */
    struct plx_msg flush_msg;  /* there and back */
    struct plx_msg abort_msg;  /* there, which is before the channel is asked for */
    struct plx_bdev_req flush; /* its status is there for whoever is told that the flush failed */
};

/*
 * Opens a channel on each of n reactors. The home reactor may be one of them, or have none: a disk that is used on one
 * reactor alone is faster than one that two share, though one of those never asks. `done` is called on the home
 * reactor, with 0 or, when it could not be done on one of them and has been undone on all, -errno. On the home reactor,
 * or before that runs; done is not called before this returns. @return 0, or -ENOMEM: then done is not called
 */
int plx_bdev_access_open(struct plx_bdev_access *a, struct plx_bdev *bdev, struct plx_reactor *const *reactors,
                         unsigned n, struct plx_reactor *home, void (*done)(struct plx_bdev_access *a, int result));

/* The channel of reactors[i], to be used there. */
static inline struct plx_bdev_channel *plx_bdev_access_channel(const struct plx_bdev_access *a, unsigned i)
{
    return a->fan.legs[i].arg;
}

/*
 * Flushes the disk if it has anything to flush. On the home reactor, where `done` is called with 0; -EIO when the disk
 * refused, see a->flush.status; or -ETIMEDOUT when it has not answered after limit_ms, whatever becomes of it. Perhaps
 * before this returns.
 */
void plx_bdev_access_flush(struct plx_bdev_access *a, uint32_t limit_ms,
                           void (*done)(struct plx_bdev_access *a, int result));

/*
 * Puts all channels back, on which nothing of the user's is in flight. `done` is called on the home reactor, with 0;
 * when a flush was overdue that is not before the disk has let go of it. On the home reactor.
 */
void plx_bdev_access_close(struct plx_bdev_access *a, void (*done)(struct plx_bdev_access *a, int result));

#endif
