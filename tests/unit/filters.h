/* SPDX-License-Identifier: BSD-3-Clause */
/* Filters to test the block layer with: one that passes everything on, and one that does by halves what it can. */
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

#endif
