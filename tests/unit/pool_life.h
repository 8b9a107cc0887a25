/* SPDX-License-Identifier: BSD-3-Clause */
/* What a test of pools whose power is cut knows of a pool: its volumes, what they may hold, and who has what. */
#ifndef TEST_POOL_LIFE_H
#define TEST_POOL_LIFE_H

#include "oracle.h"
#include "pool_rig.h"
#include "pool_units.h"

enum {
    BLOCK = 512,
    VOLUMES = 6,
    BLOCKS = 2 * 512 + 64, /* of a volume: more than one node has */
    UNITS = POOL_UNITS,    /* that these are */
    DEPTH = 6,
    MAX_BLOCKS = 40,
};

struct life;

struct vol {
    struct life *l;
    char name[16];
    bool there, snapshot;
    bool maybe_there; /* power was cut while it was made, or deleted */
    bool unknown;     /* made while there were writes under way: what it has is not known until it has been read */
    bool open;
    struct tu t;
    struct oracle *o;
    struct pool_units u;
};

struct io {
    struct life *l;
    struct vol *v;
    struct plx_bdev_req req __attribute__((aligned(16)));
    struct iovec iov;
    bool busy;
    uint64_t known;
    uint8_t data[MAX_BLOCKS * BLOCK];
};

struct life {
    struct pool_rig rig;
    struct vol v[VOLUMES];
    struct io io[DEPTH];
    uint64_t seed, serial;
    unsigned names, cuts, ops;
    bool tight;             /* there is little memory for what has changed */
    bool look;              /* what a cut has left is looked at by those who did not write it */
    struct plx_bdev *outer; /* that some volumes go back to */
};

#endif
