/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A pool with a keeper of its own, and two reactors that write to the same volume, each to its own blocks, while
 * snapshots of it are made, read and deleted.
 */
#include <errno.h>
#include <pollux/pool.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "bdev_util.h"

enum { BLOCKS = 2048, WRITES = 4000, MAX_BLOCKS = 24, SNAPSHOTS = 12 };

struct writer {
    struct plx_bdev *bdev;
    unsigned which;
    uint64_t seed;
    _Atomic bool *go_on;
    uint8_t data[BLOCKS * 512];
    unsigned writes;
};

/* A disk in memory has requests tried again while it comes to be shared by reactors. */
static uint16_t io(struct tu *t, enum plx_bdev_op op, uint64_t lba, uint32_t nlb, void *data)
{
    uint16_t status;
    do
        status = tu_io(t, op, lba, nlb, data);
    while (status == PLX_SC_COMMAND_INTERRUPTED);
    return status;
}

/* Every other stretch of 64 blocks, so that both have the same nodes. */
static void *writer_run(void *arg)
{
    struct writer *w = arg;
    struct tu t;
    tu_join(&t, w->bdev);
    for (; w->writes < WRITES || *w->go_on; w->writes++) {
        uint64_t at = (tu_random(&w->seed) % (BLOCKS / 128)) * 128 + w->which * 64 + tu_random(&w->seed) % 40;
        uint32_t n = 1 + tu_random(&w->seed) % MAX_BLOCKS, dice = tu_random(&w->seed) % 16;
        uint8_t *data = tu_pattern((size_t)n * 512, tu_random(&w->seed));
        enum plx_bdev_op op = dice < 12   ? PLX_BDEV_WRITE
                              : dice < 13 ? PLX_BDEV_UNMAP
                              : dice < 15 ? PLX_BDEV_READ
                                          : PLX_BDEV_FLUSH;
        assert_int_equal(io(&t, op, at, n, data), 0);
        if (op == PLX_BDEV_WRITE)
            memcpy(w->data + at * 512, data, (size_t)n * 512);
        else if (op == PLX_BDEV_UNMAP)
            memset(w->data + at * 512, 0, (size_t)n * 512);
        else if (op == PLX_BDEV_READ)
            assert_memory_equal(w->data + at * 512, data, (size_t)n * 512);
        free(data);
    }
    tu_leave(&t);
    return NULL;
}

static void pool_do(struct plx_pool *pool, enum plx_pool_op_kind kind, const char *volume, const char *name)
{
    struct plx_pool_op op = {.kind = kind, .volume = volume, .name = name, .size = BLOCKS * 512};
    if (plx_pool_do(pool, &op))
        fail_msg("%s", op.err.text);
}

static void check_still(const char *name, const uint8_t *first)
{
    struct tu t;
    uint8_t *out = tu_pattern(BLOCKS * 512, 9);
    char url[64];
    snprintf(url, sizeof url, "volume:base?name=%s", name);
    tu_open(&t, url);
    assert_true(t.info->read_only);
    assert_int_equal(io(&t, PLX_BDEV_READ, 0, BLOCKS, out), 0);
    if (first)
        assert_memory_equal(first, out, BLOCKS * 512);
    tu_close(&t);
    free(out);
}

static void test_two_reactors_and_a_keeper(void **state)
{
    static struct writer w[2];
    const struct plx_pool_opts opts = {.name = "p"};
    struct plx_error err = {""};
    struct plx_bdev *disk, *v;
    struct plx_pool *pool, *same;
    pthread_t threads[2];
    _Atomic bool go_on = true;
    struct tu t;
    uint8_t *out = tu_pattern(BLOCKS * 512, 9);
    (void)state;
    assert_int_equal(plx_bdev_open_as("ram:64M", "base", &disk, &err), 0);
    assert_int_equal(plx_pool_make(disk, &opts, &err), 0);
    assert_int_equal(plx_pool_open(disk, &pool, &err), 0);
    assert_int_equal(plx_pool_open(disk, &same, &err), 0);
    assert_ptr_equal(pool, same);
    assert_int_equal(plx_pool_close(same), 0);
    pool_do(pool, PLX_POOL_CREATE, NULL, "v");
    assert_int_equal(plx_bdev_open("volume:base?name=v", &v, &err), 0);
    for (unsigned i = 0; i < 2; i++) {
        w[i].bdev = v;
        w[i].which = i;
        w[i].seed = i + 1;
        w[i].go_on = &go_on;
        assert_int_equal(pthread_create(&threads[i], NULL, writer_run, &w[i]), 0);
    }
    for (unsigned i = 0; i < SNAPSHOTS; i++) {
        char name[16], url[40];
        uint8_t *first = tu_pattern(BLOCKS * 512, 9);
        struct tu s;
        snprintf(name, sizeof name, "s%u", i);
        pool_do(pool, PLX_POOL_SNAPSHOT, "v", name);
        snprintf(url, sizeof url, "volume:base?name=%s", name);
        tu_open(&s, url);
        assert_int_equal(io(&s, PLX_BDEV_READ, 0, BLOCKS, first), 0);
        tu_close(&s);
        check_still(name, first);
        free(first);
        snprintf(name, sizeof name, "s%u", i - 2);
        if (i >= 2)
            pool_do(pool, PLX_POOL_DELETE, name, NULL);
    }
    go_on = false;
    for (unsigned i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    tu_join(&t, v);
    assert_int_equal(io(&t, PLX_BDEV_READ, 0, BLOCKS, out), 0);
    for (uint64_t at = 0; at < BLOCKS; at += 64)
        assert_memory_equal(w[at / 64 % 2].data + at * 512, out + at * 512, 64 * 512);
    tu_leave(&t);
    assert_int_equal(plx_bdev_close(v), 0);
    assert_int_equal(plx_pool_close(pool), 0);
    assert_int_equal(plx_bdev_close(disk), 0);
    free(out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_two_reactors_and_a_keeper),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
