/* SPDX-License-Identifier: BSD-3-Clause */
/* Filters to test the block layer with, and what stands on it. */
#ifndef TEST_FILTERS_H
#define TEST_FILTERS_H

#include "bdev/driver.h"

/* Each makes a disk that stands on `below`, which must stay open until it is closed. */
struct plx_bdev *filter_pass_new(struct plx_bdev *below);
/* The same, with a submit of its own that forwards. */
struct plx_bdev *filter_forward_new(struct plx_bdev *below);
/* It offers reads, writes and flushes alone: the core does the rest above it. */
struct plx_bdev *filter_plain_new(struct plx_bdev *below);
/* Its channels have `subs` sub-requests in reserve; each request of one iovec entry and two blocks takes two. */
struct plx_bdev *filter_halve_new(struct plx_bdev *below, uint32_t subs);

/* The same data on each of its legs, which must stay open until it is closed, and each of which can be read alone. */
enum { MIRROR_LEGS = 3 };
struct plx_bdev *filter_mirror_new(struct plx_bdev *const *leg, unsigned legs);

struct filter_mirror_rule {
    unsigned read;    /* this leg is read, where it does not matter */
    bool writes_fail; /* and do nothing */
};
struct filter_mirror_rule *filter_mirror_rule(struct plx_bdev *mirror);

#endif
