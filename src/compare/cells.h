/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What `pollux compare` measures, and what it makes of it. Part of the command, not of the library. One thread, no
 * reactor.
 *
 * A load is what is asked of a target; a pair is whose target and whose host; a cell is a load on a pair, measured in
 * several rounds. In each round a cell is run twice: once as fast as requests complete, which is its throughput, and
 * once by a schedule that is the same for all pairs, which is its latency.
 */
#ifndef PLX_COMPARE_CELLS_H
#define PLX_COMPARE_CELLS_H

#include <jansson.h>
#include <pollux/reactor.h>
#include <stdio.h>

#include "compare/histogram.h"
#include "compare/usage.h"

enum {
    COMPARE_ROUNDS = 100,
    COMPARE_ROUNDS_MIN = 6, /* fewer have no interval of 95 % */
    COMPARE_LOADS = 200,
    COMPARE_PAIRS = 4,
    COMPARE_REASON = 256,
    COMPARE_IN_CAPSULE = 16384, /* of both targets: on pages of 4 KiB what the kernel's own has */
};

enum compare_side { COMPARE_POLLUX, COMPARE_KERNEL, COMPARE_SIDES };

struct compare_load {
    uint32_t size, depth;  /* depth: over all queues */
    uint32_t read_percent; /* at random places, always */
    uint32_t cores;        /* of each side, with a queue each */
    bool digests;          /* of headers and data */
    enum plx_poll_mode poll;
};

struct compare_pair {
    enum compare_side target, host;
    char reason[COMPARE_REASON]; /* why it cannot be measured, or "" */
};

/* What one run came to. */
struct compare_run {
    double iops, seconds;
    uint64_t requests, errors;
    uint64_t late;               /* by schedule: due and never sent */
    struct compare_usage host;   /* the host's machine, and its process */
    struct compare_usage target; /* the same of the target; on one machine all but its process is with the host */
    struct histogram latency;
};

struct compare_cell {
    const struct compare_load *load;
    const struct compare_pair *pair;
    char reason[COMPARE_REASON]; /* why there is nothing, or no more, or "" */
    bool failed;                 /* it was tried, and could not be done */
    double rate;                 /* of the schedule */
    struct compare_round {
        struct compare_run fast, paced;
    } * rounds; /* of all cells alike, in turn */
    unsigned nrounds;
};

/* ---- plan.c ---- */

/* What is asked for: of each the first is the base, from which one is varied at a time, or all combined. */
struct compare_axes {
    uint32_t sizes[16], depths[16], reads[16], cores[16];
    unsigned nsizes, ndepths, nreads, ncores;
    bool digests[2];
    unsigned ndigests;
    enum plx_poll_mode polls[3];
    unsigned npolls;
    bool cross;
};
/* @return how many loads, at most COMPARE_LOADS; each once */
unsigned compare_plan(const struct compare_axes *axes, struct compare_load *loads);
/* How many there are at most: what is above COMPARE_LOADS is not to be planned. */
unsigned compare_plan_size(const struct compare_axes *axes);
/* For people: "4 KiB read, QD 32", and then what is not usual. */
void compare_load_text(const struct compare_load *load, char *out, size_t size);
const char *compare_side_name(enum compare_side side); /* "pollux", "kernel" */
/* Which of n pairs is the i-th of a round, from 0 on: forth in one round, back in the next. */
unsigned compare_turn(unsigned round, unsigned i, unsigned n);

/* ---- environment.c ---- */

/* This machine: CPU, memory, kernel, mitigations, NICs, sysctls. What cannot be read is "unknown". */
json_t *compare_environment(void);
/* Seconds since 1970. */
uint64_t compare_wall_seconds(void);

/* ---- result.c ---- */

struct compare_results {
    const struct compare_cell *cells;
    unsigned ncells;
    unsigned rounds; /* that were asked for */
    bool whole;      /* nothing ended it before */
};
/*
 * The results as JSON: {cells, comparisons, complete}. A cell has {load, target, host, status, reason, rate, figures,
 * runs}; of each figure {mid, low, high}, low and high being null where there are fewer than 6 rounds.
 */
json_t *compare_results(const struct compare_results *r);

/* ---- html.c ---- */

/* A report on results that compare_results() made, with what was added to them. @return 0 or a negative errno value */
int compare_html(const json_t *doc, FILE *f);

#endif
