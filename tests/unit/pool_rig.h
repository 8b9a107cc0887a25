/* SPDX-License-Identifier: BSD-3-Clause */
/* A pool under test: its disk, its keeper and its volumes are all on one reactor, which the test runs. */
#ifndef TEST_POOL_RIG_H
#define TEST_POOL_RIG_H

#include "bdev_util.h"

#include "bdev/pool/pool.h"

struct pool_rig {
    struct plx_reactor *reactor;
    struct plx_bdev *disk;
    struct plx_pool *pool;
};

/* In simulated time, which goes on when there is nothing to do but to wait; else in real time. Before and after all. */
void rig_simulate(bool simulated);
/* A round of the reactor, and a wait. */
void rig_turn(struct plx_reactor *r);

/* Whether pools that are made from now on have checksums. */
void rig_checksums(bool on);

/* A disk with a reactor, and no pool; the test fails when that does not work, as with all of these. */
void rig_disk(struct pool_rig *rig, const char *url);
void rig_make(struct pool_rig *rig, const char *url, const struct plx_pool_opts *opts);
/* The same on the disk that it has. */
void rig_make_here(struct pool_rig *rig, const struct plx_pool_opts *opts);
/* The same, of a disk that has no more than so many bytes as the pool is made, and all it can have then. */
void rig_make_small(struct pool_rig *rig, const char *url, const struct plx_pool_opts *opts, uint64_t bytes);
/* The disk has so many bytes from now on. */
void rig_disk_size(struct pool_rig *rig, uint64_t bytes);
/* The pool of the disk. */
void rig_pool(struct pool_rig *rig);
/* Closes the pool, and opens it. */
void rig_reopen(struct pool_rig *rig);
void rig_end(struct pool_rig *rig);

/* An operation. */
void rig_begin(struct pool_rig *rig, struct plx_pool_op *op, bool *done);
/* The same from beginning to end. @return its result */
int rig_run(struct pool_rig *rig, struct plx_pool_op *op);
int rig_try(struct pool_rig *rig, enum plx_pool_op_kind kind, const char *volume, const char *name, uint64_t size);
void rig_do(struct pool_rig *rig, enum plx_pool_op_kind kind, const char *volume, const char *name, uint64_t size);
void rig_create(struct pool_rig *rig, const char *name, uint64_t size);

/* A volume as a disk, with a channel. */
void rig_open(struct pool_rig *rig, const char *name, struct tu *t);
void rig_close(struct pool_rig *rig, struct tu *t);
/* As tu_io(), in whatever time it is. */
uint16_t rig_io(struct tu *t, enum plx_bdev_op op, uint64_t lba, uint32_t nlb, void *data);

/* Power of a disk of `crash:`, the pool's or below it, is cut while the pool is open; what is left comes back. */
void rig_cut(struct pool_rig *rig, struct plx_bdev *crash);
/* The latter, where it was cut already. */
void rig_restore(struct pool_rig *rig, struct plx_bdev *crash);

/* Until nothing is being freed any more, and there is no checkpoint under way. */
void rig_settle(struct pool_rig *rig);
/*
 * That what is led to is not free, and that what is not is: the whole pool is gone through. After rig_settle().
 * @return units that volumes lead to
 */
uint64_t rig_check(struct pool_rig *rig);
/* The same by the check that shares nothing with what writes pools; data is compared with its checksums. */
void rig_check_outside(struct pool_rig *rig);

/*
 * That `pollux pool check` finds nothing wrong with what is on the disk, whether a log is to be replayed or not. The
 * pool is not open, or has nothing under way.
 */
void rig_look(struct pool_rig *rig);

#endif
