/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the core does for drivers that cannot: on files, whose driver knows no compare and no copy; and its atomicity
 * over reactors.
 */
#include "bdev_util.h"

#include <pollux/bdev_filter.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/util.h"

static void compare_tells_where_data_differ(void **state)
{
    (void)state;
    struct tu t;
    tu_open(&t, tu_url);
    uint8_t *in = tu_pattern(1 << 20, 1);
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 8, 2048, in), 0);
    assert_int_equal(tu_io(&t, PLX_BDEV_COMPARE, 8, 2048, in), 0);
    in[(1 << 20) - 1] ^= 1; /* in the last of several pieces */
    assert_int_equal(tu_io(&t, PLX_BDEV_COMPARE, 8, 2048, in), PLX_SC_COMPARE_FAILURE);
    assert_int_equal(tu_io(&t, PLX_BDEV_COMPARE, 8, 2047, in), 0);
    free(in);
    tu_close(&t);
}

static void compare_and_write_takes_data_in_odd_pieces(void **state)
{
    (void)state;
    struct tu t;
    struct tu_req q;
    uint8_t out[1024];
    tu_open(&t, tu_url);
    tu_req_init(&q);
    uint8_t *data = tu_pattern(2048, 2), *before = tu_pattern(2048, 2);
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 4, 2, data), 0);
    /* The border between what is compared and what is written lies within an entry. */
    q.iov[0] = (struct iovec){data, 600};
    q.iov[1] = (struct iovec){data + 600, 700};
    q.iov[2] = (struct iovec){data + 1300, 748};
    q.req->iovcnt = 3;
    struct iovec iov[3];
    memcpy(iov, q.iov, sizeof iov);
    tu_start(&t, &q, PLX_BDEV_COMPARE_AND_WRITE, 4, 2, NULL);
    assert_int_equal(tu_finish(&t, &q), 0);
    assert_memory_equal(iov, q.iov, sizeof iov); /* the caller's iovec is as it was */
    assert_memory_equal(data, before, 2048);
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, 4, 2, out), 0);
    assert_memory_equal(out, data + 1024, 1024);
    tu_start(&t, &q, PLX_BDEV_COMPARE_AND_WRITE, 4, 2, NULL);
    assert_int_equal(tu_finish(&t, &q), PLX_SC_COMPARE_FAILURE);
    tu_req_free(&q);
    free(data);
    free(before);
    tu_close(&t);
}

/* By reads, each of them: what cannot be read, in whichever piece, is found. */
static void verify_reads(void **state)
{
    (void)state;
    struct tu t;
    char url[400];
    snprintf(url, sizeof url, "error:[%s]", tu_url);
    tu_open(&t, url);
    const uint32_t blocks = (uint32_t)t.info->blocks;
    struct plx_bdev_stats stats = {0};
    struct plx_error err;
    struct plx_bdev_injection i = {.type = PLX_BDEV_INJECT_FAILURE,
                                   .ops = 1 << PLX_BDEV_READ,
                                   .count = 1,
                                   .status = PLX_SC_UNRECOVERED_READ_ERROR};
    assert_int_equal(tu_io(&t, PLX_BDEV_VERIFY, 0, blocks, NULL), 0);
    plx_bdev_get_stats(plx_bdev_below(t.bdev), &stats);
    assert_int_equal(stats.blocks[PLX_BDEV_READ], blocks);
    assert_true(stats.ops[PLX_BDEV_READ] > 1);
    assert_int_equal(tu_io(&t, PLX_BDEV_VERIFY, 1, blocks, NULL), PLX_SC_LBA_OUT_OF_RANGE);
    assert_int_equal(tu_io(&t, PLX_BDEV_VERIFY, 1, 0, NULL), PLX_SC_INVALID_FIELD);
    assert_int_equal(plx_bdev_error_inject(t.bdev, &i, &err), 0);
    assert_int_equal(tu_io(&t, PLX_BDEV_VERIFY, 0, blocks, NULL), PLX_SC_UNRECOVERED_READ_ERROR);
    assert_int_equal(tu_io(&t, PLX_BDEV_VERIFY, 0, blocks, NULL), 0);
    tu_close(&t);
}

static void copies_may_overlap(void **state)
{
    (void)state;
    struct tu t;
    tu_open(&t, tu_url);
    tu_check_copies(&t);
    tu_close(&t);
}

static void it_works_when_the_pool_of_buffers_is_empty(void **state)
{
    (void)state;
    struct tu t;
    enum { REQS = 8 };
    struct tu_req q[REQS];
    tu_open(&t, tu_url);
    size_t n = plx_buf_total_bytes(t.reactor) / PLX_BUF_MIN;
    void **bufs = calloc(n, sizeof *bufs);
    for (size_t i = 0; i < n; i++)
        bufs[i] = plx_buf_get(t.reactor, PLX_BUF_MIN);
    tu_check_copies(&t);
    for (int i = 0; i < REQS; i++) { /* several at once take turns */
        tu_req_init(&q[i]);
        q[i].req->src_lba = 0;
        tu_start(&t, &q[i], PLX_BDEV_COPY, 1024 + 512 * (uint64_t)i, 512, NULL);
    }
    for (int i = 0; i < REQS; i++) {
        assert_int_equal(tu_finish(&t, &q[i]), 0);
        tu_req_free(&q[i]);
    }
    for (size_t i = 0; i < n; i++)
        plx_buf_put(t.reactor, bufs[i], PLX_BUF_MIN);
    free(bufs);
    tu_close(&t);
}

static void what_waits_can_be_aborted(void **state)
{
    (void)state;
    struct tu t;
    enum { REQS = 6 };
    struct tu_req q[REQS];
    static const enum plx_bdev_op ops[REQS] = {PLX_BDEV_COMPARE_AND_WRITE,
                                               PLX_BDEV_COMPARE_AND_WRITE,
                                               PLX_BDEV_WRITE,
                                               PLX_BDEV_COPY,
                                               PLX_BDEV_COMPARE,
                                               PLX_BDEV_READ};
    tu_open(&t, tu_url);
    for (int round = 0; round < 20; round++) {
        uint8_t *data[REQS];
        for (int i = 0; i < REQS; i++) {
            data[i] = tu_pattern(1 << 20, 1);
            tu_req_init(&q[i]);
            q[i].req->src_lba = 2048;
            tu_start(&t, &q[i], ops[i], 0, 1024, data[i]);
        }
        for (int i = 0; i < round; i++)
            plx_reactor_poll(t.reactor);
        for (int i = 0; i < REQS; i++)
            if (!q[i].done)
                plx_bdev_abort(t.ch, q[i].req);
        for (int i = 0; i < REQS; i++) {
            uint16_t status = tu_finish(&t, &q[i]);
            assert_true(status == 0 || status == PLX_SC_ABORTED_BY_REQUEST || status == PLX_SC_COMPARE_FAILURE);
            tu_req_free(&q[i]);
            free(data[i]);
        }
    }
    tu_close(&t);
}

static void a_reset_ends_after_everything_before_it(void **state)
{
    (void)state;
    struct tu t;
    enum { REQS = 12 };
    struct tu_req q[REQS], late;
    tu_open(&t, tu_url);
    assert_int_equal(tu_io(&t, PLX_BDEV_RESET, 0, 0, NULL), 0); /* nothing in flight */
    uint8_t *data = tu_pattern(1 << 20, 1);
    for (int i = 0; i < REQS; i++) {
        tu_req_init(&q[i]);
        q[i].req->src_lba = 4096;
        enum plx_bdev_op op = i % 5 == 4   ? PLX_BDEV_RESET
                              : i % 3 == 0 ? PLX_BDEV_COMPARE_AND_WRITE
                              : i % 3 == 1 ? PLX_BDEV_COPY
                                           : PLX_BDEV_WRITE;
        tu_start(&t, &q[i], op, 0, 1024, data);
        for (int k = 0; k < i; k++)
            assert_true(op != PLX_BDEV_RESET || !q[i].done || q[k].done);
    }
    tu_req_init(&late);
    tu_start(&t, &late, PLX_BDEV_FLUSH, 0, 0, NULL);
    while (!q[9].done) {
        tu_turn(t.reactor);
        for (int i = 0; i < 9; i++)
            assert_true(!q[9].done || q[i].done);
    }
    assert_int_equal(tu_finish(&t, &late), 0); /* what comes after a reset is not its concern */
    for (int i = 0; i < REQS; i++) {
        tu_finish(&t, &q[i]);
        tu_req_free(&q[i]);
    }
    tu_req_free(&late);
    free(data);
    tu_close(&t);
}

/* ---- over two reactors ---- */

struct worker {
    struct tu t;
    int number, wrong;
    uint64_t done;
    pthread_t thread;
};

enum { INCREMENTS = 400 };

/* Adds one to a number on the disk, by nothing but compare and write. */
static void *increment(void *arg)
{
    struct worker *w = arg;
    uint64_t *both = (void *)tu_pattern(2 * 512, 1);
    for (int i = 0; i < INCREMENTS;) {
        w->wrong += tu_io(&w->t, PLX_BDEV_READ, 3, 1, both) != 0;
        memcpy(both + 64, both, 512);
        both[64]++;
        uint16_t status = tu_io(&w->t, PLX_BDEV_COMPARE_AND_WRITE, 3, 1, both);
        i += status == 0;
        w->wrong += status != 0 && status != PLX_SC_COMPARE_FAILURE;
    }
    free(both);
    __atomic_store_n(&w->done, 1, __ATOMIC_RELEASE);
    return NULL;
}

static void run_both(void *(*a)(void *), void *(*b)(void *), struct worker w[2])
{
    tu_open(&w[0].t, tu_url);
    tu_join(&w[1].t, w[0].t.bdev);
    assert_int_equal(tu_io_flags(&w[0].t, PLX_BDEV_WRITE_ZEROES, 0, 0, 64, NULL), 0);
    pthread_create(&w[0].thread, NULL, a, &w[0]);
    pthread_create(&w[1].thread, NULL, b, &w[1]);
    /* A reactor whose thread is through must go on answering the other's announcements. */
    struct timespec nap = {0, 1000000};
    while (!__atomic_load_n(&w[0].done, __ATOMIC_ACQUIRE) || !__atomic_load_n(&w[1].done, __ATOMIC_ACQUIRE)) {
        for (int i = 0; i < 2; i++)
            if (__atomic_load_n(&w[i].done, __ATOMIC_ACQUIRE))
                plx_reactor_poll(w[i].t.reactor);
        nanosleep(&nap, NULL);
    }
    pthread_join(w[0].thread, NULL);
    pthread_join(w[1].thread, NULL);
    assert_int_equal(w[0].wrong, 0);
    assert_int_equal(w[1].wrong, 0);
}

static void compare_and_write_is_atomic_over_reactors(void **state)
{
    (void)state;
    struct worker w[2];
    uint64_t block[64];
    memset(w, 0, sizeof w);
    run_both(increment, increment, w);
    assert_int_equal(tu_io(&w[0].t, PLX_BDEV_READ, 3, 1, block), 0);
    assert_int_equal(block[0], 2 * INCREMENTS);
    tu_leave(&w[1].t);
    tu_close(&w[0].t);
}

enum { WRITES = 300 };

/* Writes a number; until it writes the next, whatever stands there must have come from this one. */
static void *write_roots(void *arg)
{
    struct worker *w = arg;
    uint64_t *block = (void *)tu_pattern(3 * 512, 1);
    for (uint64_t i = 1; i <= WRITES; i++) {
        /* By turns: exactly the block, a range around it, and a copy onto it. */
        memset(block, 0, 3 * 512);
        block[64] = i;
        if (i % 3 == 0) {
            w->wrong += tu_io(&w->t, PLX_BDEV_WRITE, 2, 3, block) != 0;
        } else if (i % 3 == 1) {
            w->wrong += tu_io(&w->t, PLX_BDEV_WRITE, 3, 1, block + 64) != 0;
        } else {
            w->wrong += tu_io(&w->t, PLX_BDEV_WRITE, 40, 1, block + 64) != 0;
            w->wrong += tu_copy(&w->t, 3, 40, 1) != 0;
        }
        for (int k = 0; k < 3; k++) {
            w->wrong += tu_io(&w->t, PLX_BDEV_READ, 3, 1, block) != 0;
            w->wrong += block[0] != i;
        }
    }
    free(block);
    __atomic_store_n(&w->done, 1, __ATOMIC_RELEASE);
    return NULL;
}

/*
 * Keeps the number that it finds, and counts beside it: this must never bring back a number that was overwritten
 * meanwhile.
 */
static void *count_beside(void *arg)
{
    struct worker *w = arg;
    uint64_t *both = (void *)tu_pattern(2 * 512, 1);
    for (int i = 0; i < WRITES; i++) {
        w->wrong += tu_io(&w->t, PLX_BDEV_READ, 3, 1, both) != 0;
        memcpy(both + 64, both, 512);
        both[65]++;
        uint16_t status = tu_io(&w->t, PLX_BDEV_COMPARE_AND_WRITE, 3, 1, both);
        w->wrong += status != 0 && status != PLX_SC_COMPARE_FAILURE;
    }
    free(both);
    __atomic_store_n(&w->done, 1, __ATOMIC_RELEASE);
    return NULL;
}

static void no_write_comes_between_a_compare_and_its_write(void **state)
{
    (void)state;
    struct worker w[2];
    memset(w, 0, sizeof w);
    run_both(write_roots, count_beside, w);
    tu_leave(&w[1].t);
    tu_close(&w[0].t);
}

/* A channel comes and goes all the time. */
static void *come_and_go(void *arg)
{
    struct worker *w = arg;
    uint8_t *block = tu_pattern(512, 1);
    while (!__atomic_load_n(&w[-1].done, __ATOMIC_ACQUIRE)) {
        struct tu t;
        tu_join(&t, w->t.bdev);
        for (int i = 0; i < 3; i++)
            w->wrong += tu_io(&t, PLX_BDEV_WRITE, 10, 1, block) != 0;
        plx_reactor_poll(t.reactor);
        tu_leave(&t);
        plx_reactor_poll(w->t.reactor);
    }
    free(block);
    __atomic_store_n(&w->done, 1, __ATOMIC_RELEASE);
    return NULL;
}

static void channels_may_come_and_go_meanwhile(void **state)
{
    (void)state;
    struct worker w[2];
    memset(w, 0, sizeof w);
    run_both(increment, come_and_go, w);
    tu_leave(&w[1].t);
    tu_close(&w[0].t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(compare_tells_where_data_differ),
        cmocka_unit_test(compare_and_write_takes_data_in_odd_pieces),
        cmocka_unit_test(verify_reads),
        cmocka_unit_test(copies_may_overlap),
        cmocka_unit_test(it_works_when_the_pool_of_buffers_is_empty),
        cmocka_unit_test(what_waits_can_be_aborted),
        cmocka_unit_test(a_reset_ends_after_everything_before_it),
        cmocka_unit_test(compare_and_write_is_atomic_over_reactors),
        cmocka_unit_test(no_write_comes_between_a_compare_and_its_write),
        cmocka_unit_test(channels_may_come_and_go_meanwhile),
    };
    return cmocka_run_group_tests(tests, tu_make_file, tu_remove_file);
}
