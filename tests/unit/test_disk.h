/* SPDX-License-Identifier: BSD-3-Clause */
/* A disk under the test's thumb: it ends requests when it is told to, with what it is told. */
#ifndef TEST_DISK_H
#define TEST_DISK_H

#include "bdev/driver.h"

struct test_disk {
    struct plx_bdev bdev;
    int open_result;                    /* of the next channel; then back to 0 */
    struct plx_reactor *refuse;         /* where opening a channel fails, with open_result */
    bool ignores_aborts;                /* else they end requests */
    _Atomic int channels, seen, aborts; /* open; requests that came; aborts that came */
    struct plx_bdev_req *first, **last; /* in order of arrival; of one reactor */
};

/* 1 MiB in blocks of 512 bytes, every operation native. */
struct test_disk *test_disk_new(void);
/* Ends the oldest request. @return false when there is none */
bool test_disk_end(struct test_disk *d, uint16_t status);

#endif
