/* SPDX-License-Identifier: BSD-3-Clause */
/* `pollux cp`: cp.c is the command, cp_engine.c the copying. */
#ifndef PLX_CLI_CP_H
#define PLX_CLI_CP_H

#include "cli.h"

enum {
    CP_DEPTH = 32,
    CP_DEPTH_MAX = 256,
    CP_CHUNK = 256 << 10,
    CP_CHUNK_MIN = 64 << 10,
    CP_CHUNK_MAX = 1 << 20,
    CP_GRAIN = 64 << 10, /* zeroes are looked for in pieces of this much */
};

struct cp_slot;

/* A copy, or the check of one. Filled by the command; the counters are for it to look at. */
struct cp_job {
    struct plx_reactor *reactor;
    struct plx_bdev *src, *dst;
    uint64_t bytes; /* to copy */
    uint32_t chunk; /* bytes of a request; a multiple of both block sizes */
    uint32_t depth; /* chunks under way */
    bool fresh;     /* the destination reads as zeroes throughout: zeroes need not be written */
    bool verify;    /* compare instead of copying */

    uint64_t done;    /* bytes that have been seen to */
    uint64_t zeroes;  /* of these, found to be zeroes and not transferred */
    uint16_t status;  /* the first error */
    const char *what; /* the operation that it befell */
    bool of_source;   /* on the source */
    uint64_t where;   /* and its byte */

    /* The engine's. */
    struct plx_bdev_channel *from, *to;
    struct cp_slot *slots;
    uint64_t next; /* the first byte that nobody has begun with */
    unsigned busy;
    uint8_t *memory;
    bool shared; /* that is of plx_shared_alloc() */
    struct cp_slot *ready;
    bool beginning;
};

/* Gets channels and memory. @return 0 or -errno with nothing left behind */
int cp_begin(struct cp_job *job);
/*
 * Copies, or compares, all of it, and flushes; stops the reactor when that is over. Called between runs of the reactor.
 */
void cp_run(struct cp_job *job);
void cp_end(struct cp_job *job);

#endif
