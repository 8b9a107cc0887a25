/* SPDX-License-Identifier: BSD-3-Clause */
/* A disk under the test's thumb: it ends requests when it is told to, with what it is told. */
#ifndef TEST_DISK_H
#define TEST_DISK_H

#include "bdev/driver.h"

struct test_disk {
    struct plx_bdev bdev;
    struct plx_reactor *refuse;         /* where opening a channel fails, */
    int open_result;                    /* with this */
    bool ignores_aborts;                /* else they end requests */
    _Atomic int channels, seen, aborts; /* open; requests that came; aborts that came */
    struct plx_bdev_req *first, **last; /* in order of arrival; of one reactor */
};

/* 1 MiB in blocks of 512 bytes, every operation native. */
struct test_disk *test_disk_new(void);
/* The same, that unmaps only so many blocks at once. */
struct test_disk *test_disk_new_limited(uint32_t max_unmap_blocks);
/* The same in zones of 256 blocks, of which it appends so many at once. */
struct test_disk *test_disk_new_zoned(uint32_t max_append_blocks, bool read_only);
/* Ends the oldest request. @return false when there is none */
bool test_disk_end(struct test_disk *d, uint16_t status);

#endif
