/* SPDX-License-Identifier: BSD-3-Clause */
/* What tests of disks share: a disk with a reactor and a channel, and requests that are run to their end. */
#ifndef TEST_BDEV_UTIL_H
#define TEST_BDEV_UTIL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pollux/bdev.h>
#include <pthread.h>
#include <stdbool.h>

struct tu {
    struct plx_reactor *reactor;
    struct plx_bdev *bdev;
    struct plx_bdev_channel *ch;
    const struct plx_bdev_info *info;
};

/* Opens a disk with a reactor and a channel of its own; the test fails when that does not work. */
void tu_open(struct tu *t, const char *url);
/* The same, with worker threads instead of an io_uring. */
void tu_open_threads(struct tu *t, const char *url);
/* One more reactor with a channel, to a disk that is open. */
void tu_join(struct tu *t, struct plx_bdev *bdev);
void tu_leave(struct tu *t);
void tu_close(struct tu *t);

/* A request with one iovec entry, and zeroes where the caller is to set it; its `done` counts. */
struct tu_req {
    struct iovec iov[4];
    int done;
    struct plx_bdev_req *req;
};
void tu_req_init(struct tu_req *q);
void tu_req_free(struct tu_req *q);
void tu_start(struct tu *t, struct tu_req *q, enum plx_bdev_op op, uint64_t lba, uint32_t nlb, void *data);
/* Runs the reactor, sleeping where it may, until the request is done. @return its status */
uint16_t tu_finish(struct tu *t, struct tu_req *q);

/* One request from beginning to end. data holds what the operation needs. */
uint16_t tu_io(struct tu *t, enum plx_bdev_op op, uint64_t lba, uint32_t nlb, void *data);
uint16_t tu_io_flags(struct tu *t, enum plx_bdev_op op, uint8_t flags, uint64_t lba, uint32_t nlb, void *data);
uint16_t tu_copy(struct tu *t, uint64_t to, uint64_t from, uint32_t nlb);

/* Random copies within the disk, which may overlap, are as memmove(). */
void tu_check_copies(struct tu *t);

/* A file of 4 MiB, in memory where that is possible, for all tests of a program. */
extern char tu_path[256], tu_url[300];
int tu_make_file(void **state);
int tu_remove_file(void **state);

/* Opening must fail, with a sentence that contains `word`. */
void tu_refused(const char *url, const char *word);

/* Aligned memory, filled from a seed. */
uint8_t *tu_pattern(size_t bytes, uint32_t seed);

bool tu_zeroed(const void *p, size_t n);

/* A small generator, for tests that can be repeated. */
uint32_t tu_random(uint64_t *state);

/* A round of the reactor; sleeps for a little when there was nothing to do. */
void tu_turn(struct plx_reactor *r);

#endif
