/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A disk whose power is cut, for tests that try every case: they say when, and see and choose what is left. With one
 * reactor, or while the disk is not in use.
 */
#ifndef PLX_BDEV_FILTER_CRASH_H
#define PLX_BDEV_FILTER_CRASH_H

#include <pollux/bdev_filter.h>

/* A write that the disk below does not have yet as power is cut. They are in the order of their submission. */
struct plx_crash_write {
    uint64_t lba;
    uint32_t nlb;
    uint8_t op;       /* PLX_BDEV_WRITE, PLX_BDEV_WRITE_ZEROES, PLX_BDEV_UNMAP */
    bool ended;       /* who submitted it has been told so */
    const void *data; /* of PLX_BDEV_WRITE; else NULL. Valid during the call */
};

/* One of them, as it gets to the disk below; what comes later lies over what came earlier. */
struct plx_crash_keep {
    uint32_t write; /* which */
    bool sectors;   /* units are sectors of 512 bytes; else blocks */
    bool garbage;   /* bytes by chance in its place */
    /* Bit 0 is whether the first unit gets there. Of a write of more than 64, each bit is for as many as others. */
    uint64_t units;
};

#define PLX_CRASH_WHOLE UINT64_MAX /* all units */

/* Fills keep, which has room for n. @return how many */
typedef uint32_t (*plx_crash_choose_fn)(void *arg, const struct plx_crash_write *writes, uint32_t n,
                                        struct plx_crash_keep *keep);

/* Has fn choose from the next cut on, in place of chance. NULL: chance again. */
void plx_crash_choose(struct plx_bdev *bdev, plx_crash_choose_fn fn, void *arg);

/* Has power cut as the so many-th write, or request of any kind, from now on comes; 0 for never. */
void plx_crash_arm(struct plx_bdev *bdev, uint64_t writes, uint64_t requests);

/* Begins with another seed, as if it had just been opened. */
void plx_crash_seed(struct plx_bdev *bdev, uint64_t seed);

struct plx_crash_state {
    uint64_t seed, requests, writes, cuts; /* that there have been */
    uint32_t held;                         /* writes that the disk below does not have */
    bool off;                              /* power has been cut */
    bool settled;                          /* and what is left is there */
};

void plx_crash_look(struct plx_bdev *bdev, struct plx_crash_state *out);

#endif
