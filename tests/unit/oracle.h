/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a volume may read as, block by block, while it has power and after that was cut. It is told of each request as
 * it is submitted, and as it completes, and then judges what is read.
 *
 * A value may be there unless one that came later is known to be: a write supersedes those of the same block that had
 * completed before it was submitted, for who reads as soon as it has completed, for who comes after a cut once a flush
 * that was submitted after that has completed, or it had FUA. Writes that failed, or were in flight, may be there or
 * not, for as long as nothing supersedes them.
 *
 * Contents are told apart by 512 bytes, which is what it tears blocks by; workloads write what they never wrote before.
 */
#ifndef TEST_ORACLE_H
#define TEST_ORACLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct oracle;

enum oracle_flag {
    ORACLE_TORN = 1 << 0,           /* after a cut each sector of a block may be another value's */
    ORACLE_DISCARD_ZEROES = 1 << 1, /* discarded blocks read as zeroes; else as that, or as what was there */
};

enum oracle_verdict {
    ORACLE_FINE,
    ORACLE_LOST,    /* a write that was there for certain is not: what was there at the beginning is */
    ORACLE_OLD,     /* nor is it: a value is that had been superseded since */
    ORACLE_MIXED,   /* sectors of several values */
    ORACLE_FOREIGN, /* a value of another block */
    ORACLE_GARBAGE,
};

struct oracle_finding {
    enum oracle_verdict what;
    uint64_t lba;    /* the first block that is wrong */
    unsigned sector; /* in it */
    char text[160];
};

/* Blocks that all hold zeroes. A block is of 512 bytes or a multiple. */
struct oracle *oracle_new(uint64_t blocks, uint32_t block_size, unsigned flags);
void oracle_free(struct oracle *o);

/* A request is submitted. @return what it is known by until it completes, or is forgotten */
uint64_t oracle_write(struct oracle *o, uint64_t lba, uint32_t nlb, const void *data, bool fua);
uint64_t oracle_zeroes(struct oracle *o, uint64_t lba, uint32_t nlb, bool fua);
uint64_t oracle_discard(struct oracle *o, uint64_t lba, uint32_t nlb);
uint64_t oracle_flush(struct oracle *o);
/* Only to know when it was submitted: for oracle_read_done(). */
uint64_t oracle_read(struct oracle *o);

/* It completes; `ok` when it succeeded. Of a request that has been forgotten nothing is. */
void oracle_done(struct oracle *o, uint64_t request, bool ok);
/* A read completes, with power: judges what it read. @return whether that may be */
bool oracle_read_done(struct oracle *o, uint64_t read, uint64_t lba, uint32_t nlb, const void *data,
                      struct oracle_finding *f);

/* Power was cut, and what has come back is read: judges it. @return whether that may be */
bool oracle_check(struct oracle *o, uint64_t lba, uint32_t nlb, const void *data, struct oracle_finding *f);
/* All requests are forgotten, and what may be there is what was read: first of all blocks. */
void oracle_restart(struct oracle *o, const void *data);

#endif
