/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A network of memory, for tests: streams whose bytes are cut, delayed, held back and lost as a seed has it, the same
 * way each time. It has no descriptors and no time of its own, so that host and target run against each other in one
 * thread, in simulated time.
 */
#ifndef PLX_TESTS_MEMNET_H
#define PLX_TESTS_MEMNET_H

#include "net/stream.h"

struct memnet_end;

/* Shares are of 65,536. */
struct memnet_opts {
    uint64_t seed;
    size_t window;        /* bytes on their way in one direction of a connection */
    unsigned busy;        /* sends and receives that find nothing possible for now */
    unsigned cut;         /* sends and receives that move only a part */
    unsigned late;        /* bytes that arrive after a while, */
    uint64_t late_ns;     /* at most so long */
    unsigned reset;       /* sends and receives with which the connection breaks */
    unsigned refuse;      /* connections that do not come to be */
    unsigned flip;        /* sends in which a bit is turned over */
    const uint64_t *time; /* simulated, in ns */
    /* Somebody has connected: opens the stream of the other end with memnet_open(). */
    void (*accepted)(void *arg, struct memnet_end *end);
    void *arg;
};

/* From here on streams connect here (plx_net). One at a time. */
void memnet_begin(const struct memnet_opts *opts);
/* All connections must have been closed. */
void memnet_over(void);

/* Those who have connected are accepted. @return how many */
int memnet_accept(void);
/* The other end of a connection, for whoever accepts it. */
void memnet_open(struct plx_stream *s, struct memnet_end *end);
/* Two ends that are connected, without anybody accepting. */
void memnet_pair(struct plx_stream *a, struct plx_stream *b);

/* When bytes that are late will have arrived; 0 when none are. */
uint64_t memnet_due(void);
/* Changes a share while it runs; breaks all connections. */
struct memnet_opts *memnet_now(void);
void memnet_break_all(void);

/* Of its seed; for tests that want to be as repeatable. */
uint64_t memnet_random(uint64_t below);

#endif
