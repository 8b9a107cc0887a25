/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A pool with a keeper of its own, and two reactors that write to the same volume, each to its own blocks, while
 * snapshots of it are made, read and deleted, and the whole is looked at from outside; and to two volumes, in order, of
 * which there are snapshots of one instant.
 */
#include <errno.h>
#include <pollux/pool.h>
#include <pollux/pool_check.h>
#include <pthread.h>
#include <sched.h>
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

/* By somebody else, while all go on. */
static void check_clean(struct plx_bdev *disk, struct plx_pool *pool)
{
    struct plx_error err;
    struct plx_pool_check c = {.pool = pool};
    if (plx_pool_check(disk, &c, &err))
        fail_msg("%s", err.text);
    assert_int_equal(c.wastes + c.damages, 0);
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
        check_clean(disk, pool);
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

/* ---- several volumes at one instant ---- */

enum { HOSTS = 2, SLOTS = 8, GROUPS = 60 };

/* Counts: writes each number to the first volume, then to the second. */
struct host {
    struct plx_bdev *v[2];
    unsigned which;
    _Atomic uint64_t count;
    _Atomic bool *go_on;
};

static uint64_t slot_lba(unsigned which, uint64_t number)
{
    return (which * SLOTS + number % SLOTS) * 8;
}

static void *host_run(void *arg)
{
    struct host *h = arg;
    struct tu t[2];
    uint64_t data[4096 / 8];
    tu_join(&t[0], h->v[0]);
    t[1] = t[0];
    t[1].bdev = h->v[1];
    assert_int_equal(plx_bdev_channel_get(h->v[1], t[0].reactor, &t[1].ch), 0);
    while (*h->go_on) {
        h->count++;
        for (unsigned i = 0; i < 4096 / 8; i++)
            data[i] = h->count;
        for (unsigned i = 0; i < 2; i++) {
            const uint64_t lba = slot_lba(h->which, h->count);
            if (h->count % 5 == 0)
                assert_int_equal(io(&t[i], PLX_BDEV_UNMAP, lba, 8, NULL), 0);
            assert_int_equal(io(&t[i], PLX_BDEV_WRITE, lba, h->count % 3 ? 1 : 8, data), 0);
        }
    }
    plx_bdev_channel_put(t[1].ch);
    tu_leave(&t[0]);
    return NULL;
}

/* @return the last number that a host wrote to this snapshot; all those of before it are there */
static uint64_t last_number(const char *snapshot, unsigned which)
{
    struct tu t;
    char url[64];
    uint64_t words[SLOTS], last = 0, data[512 / 8];
    snprintf(url, sizeof url, "volume:base?name=%s", snapshot);
    tu_open(&t, url);
    for (unsigned i = 0; i < SLOTS; i++) {
        assert_int_equal(io(&t, PLX_BDEV_READ, slot_lba(which, i), 1, data), 0);
        words[i] = data[0];
        last = words[i] > last ? words[i] : last;
    }
    tu_close(&t);
    for (uint64_t n = last > SLOTS ? last - SLOTS + 1 : 1; n <= last; n++)
        if (words[n % SLOTS] != n && !(n == last - SLOTS + 1 && !words[n % SLOTS])) /* it was just discarded */
            fail_msg("%s: host %u wrote %llu and then %llu, and there is %llu", snapshot, which, (unsigned long long)n,
                     (unsigned long long)last, (unsigned long long)words[n % SLOTS]);
    return last;
}

static void group_snapshot(struct plx_pool *pool, unsigned i, char names[2][16])
{
    struct plx_pool_op ops[2] = {{.kind = PLX_POOL_SNAPSHOT, .volume = "a", .name = names[0], .with = &ops[1]},
                                 {.volume = "b", .name = names[1]}};
    for (unsigned k = 0; k < 2; k++)
        snprintf(names[k], 16, "%c%u", 'x' + (int)k, i);
    if (i % 2) { /* whichever is first */
        ops[0].volume = "b";
        ops[1].volume = "a";
        ops[0].name = names[1];
        ops[1].name = names[0];
    }
    if (plx_pool_do(pool, ops))
        fail_msg("%s", ops[0].err.text);
}

static void test_snapshots_of_one_instant_have_writes_in_their_order(void **state)
{
    static struct host h[HOSTS];
    struct plx_error err = {""};
    struct plx_bdev *disk, *v[2];
    struct plx_pool *pool;
    pthread_t threads[HOSTS];
    _Atomic bool go_on = true;
    uint64_t first = 0, last = 0, apart = 0;
    (void)state;
    assert_int_equal(plx_bdev_open_as("ram:64M", "base", &disk, &err), 0);
    assert_int_equal(plx_pool_make(disk, &(struct plx_pool_opts){0}, &err), 0);
    assert_int_equal(plx_pool_open(disk, &pool, &err), 0);
    pool_do(pool, PLX_POOL_CREATE, NULL, "a");
    pool_do(pool, PLX_POOL_CREATE, NULL, "b");
    assert_int_equal(plx_bdev_open("volume:base?name=a", &v[0], &err), 0);
    assert_int_equal(plx_bdev_open("volume:base?name=b", &v[1], &err), 0);
    for (unsigned i = 0; i < HOSTS; i++) {
        h[i] = (struct host){{v[0], v[1]}, i, 0, &go_on};
        assert_int_equal(pthread_create(&threads[i], NULL, host_run, &h[i]), 0);
    }
    for (unsigned i = 0; i < GROUPS; i++) {
        char names[2][16];
        for (unsigned k = 0; k < HOSTS; k++) /* each has gone on since the last one */
            for (const uint64_t before = h[k].count; h[k].count < before + 2;)
                sched_yield();
        group_snapshot(pool, i, names);
        for (unsigned k = 0; k < HOSTS; k++) {
            const uint64_t in_a = last_number(names[0], k), in_b = last_number(names[1], k);
            if (in_b > in_a || in_a > in_b + 1)
                fail_msg("host %u wrote %llu to a before %llu to b", k, (unsigned long long)in_a,
                         (unsigned long long)in_b);
            apart += in_a != in_b;
            first = i ? first : in_a;
            last = in_a;
        }
        pool_do(pool, PLX_POOL_DELETE, names[i % 2], NULL);
        pool_do(pool, PLX_POOL_DELETE, names[!(i % 2)], NULL);
    }
    go_on = false;
    for (unsigned i = 0; i < HOSTS; i++)
        pthread_join(threads[i], NULL);
    print_message("%llu writes, %llu of %d snapshots between two\n", (unsigned long long)(h[0].count + h[1].count),
                  (unsigned long long)apart, GROUPS * HOSTS);
    assert_true(last > first);
    assert_int_equal(plx_bdev_close(v[0]), 0);
    assert_int_equal(plx_bdev_close(v[1]), 0);
    assert_int_equal(plx_pool_close(pool), 0);
    assert_int_equal(plx_bdev_close(disk), 0);
}

/* ---- disks outside come and go ---- */

enum { TURNS = 30 };

static struct plx_bdev *outer_new(unsigned which)
{
    static const char *const names[] = {"one", "two"};
    struct plx_error err = {""};
    struct plx_bdev *outer;
    uint8_t *data = malloc(BLOCKS * 512);
    struct tu t;
    if (plx_bdev_open_as("ram:1M", names[which], &outer, &err))
        fail_msg("%s", err.text);
    memset(data, 0xa0 + (int)which, BLOCKS * 512);
    tu_join(&t, outer);
    assert_int_equal(io(&t, PLX_BDEV_WRITE, 0, BLOCKS, data), 0);
    tu_leave(&t);
    free(data);
    return outer;
}

/* What it wrote is there, and of all else either of the two. */
static void *reader_run(void *arg)
{
    struct writer *w = arg;
    struct tu t;
    uint8_t data[4096];
    tu_join(&t, w->bdev);
    for (; *w->go_on; w->writes++) {
        const uint64_t mine = 16 * (w->writes % 8) + 8 * w->which, other = 128 + tu_random(&w->seed) % (BLOCKS - 136);
        memset(data, 0x10 + (int)w->which, 512);
        assert_int_equal(io(&t, PLX_BDEV_WRITE, mine + 1, 1, data), 0); /* a part: the rest is as that disk has it */
        assert_int_equal(io(&t, PLX_BDEV_READ, mine, 8, data), 0);
        assert_int_equal(data[512], 0x10 + w->which);
        assert_true((data[0] & 0xfe) == 0xa0 && data[0] == data[4095]);
        assert_int_equal(io(&t, PLX_BDEV_READ, other, 8, data), 0);
        for (unsigned i = 0; i < 4096; i++)
            assert_int_equal(data[i] & 0xfe, 0xa0);
        plx_reactor_poll(t.reactor); /* requests to disks in memory end without */
    }
    tu_leave(&t);
    return NULL;
}

static void outer_do(struct plx_pool *pool, enum plx_pool_op_kind kind, const char *outer)
{
    struct plx_pool_op op = {.kind = kind, .volume = "v", .name = "v", .size = BLOCKS * 512, .outer = outer};
    if (plx_pool_do(pool, &op))
        fail_msg("%s", op.err.text);
}

/* Each is let go when the volume has left it, whatever the reactors are doing; and its pool has checksums or not. */
static void test_disks_outside_under_readers_and_writers(void **state)
{
    static struct writer w[2];
    (void)state;
    for (unsigned checksums = 0; checksums < 2; checksums++) {
        struct plx_error err = {""};
        struct plx_bdev *disk, *v, *outer[2] = {outer_new(0), outer_new(1)};
        struct plx_pool *pool;
        pthread_t threads[2];
        _Atomic bool go_on = true;
        const struct plx_pool_opts opts = {.checksums = checksums};
        assert_int_equal(plx_bdev_open_as("ram:64M", "base", &disk, &err), 0);
        assert_int_equal(plx_pool_make(disk, &opts, &err), 0);
        assert_int_equal(plx_pool_open(disk, &pool, &err), 0);
        outer_do(pool, PLX_POOL_CREATE, "one");
        assert_int_equal(plx_bdev_open("volume:base?name=v", &v, &err), 0);
        for (unsigned i = 0; i < 2; i++) {
            w[i] = (struct writer){.bdev = v, .which = i, .seed = i + 1, .go_on = &go_on};
            assert_int_equal(pthread_create(&threads[i], NULL, reader_run, &w[i]), 0);
        }
        for (unsigned i = 1; i <= TURNS; i++) {
            outer_do(pool, PLX_POOL_SET_OUTER, i % 2 ? "two" : "one");
            assert_int_equal(plx_bdev_close(outer[!(i % 2)]), 0);
            outer[!(i % 2)] = outer_new(!(i % 2));
        }
        outer_do(pool, PLX_POOL_INFLATE, NULL);
        for (unsigned i = 0; i < 2; i++)
            assert_int_equal(plx_bdev_close(outer[i]), 0);
        go_on = false;
        for (unsigned i = 0; i < 2; i++)
            pthread_join(threads[i], NULL);
        assert_int_equal(plx_bdev_close(v), 0);
        assert_int_equal(plx_pool_close(pool), 0);
        assert_int_equal(plx_bdev_close(disk), 0);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_two_reactors_and_a_keeper),
        cmocka_unit_test(test_snapshots_of_one_instant_have_writes_in_their_order),
        cmocka_unit_test(test_disks_outside_under_readers_and_writers),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
