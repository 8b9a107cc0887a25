/* SPDX-License-Identifier: BSD-3-Clause */
/* Pools of any size, and that become larger with their disk. */
#include "pool_rig.h"

#include <errno.h>
#include <pollux/bdev_filter.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { UNIT = 4096, BLOCKS_OF_UNIT = 8, MIB = 1 << 20, REGION = 64 * MIB };

static void write_unit(struct tu *t, uint64_t unit, uint64_t word)
{
    uint64_t data[UNIT / 8];
    for (unsigned i = 0; i < UNIT / 8; i++)
        data[i] = word;
    assert_int_equal(tu_io(t, PLX_BDEV_WRITE, unit * BLOCKS_OF_UNIT, BLOCKS_OF_UNIT, data), 0);
}

static void check_unit(struct tu *t, uint64_t unit, uint64_t word)
{
    uint64_t data[UNIT / 8];
    assert_int_equal(tu_io(t, PLX_BDEV_READ, unit * BLOCKS_OF_UNIT, BLOCKS_OF_UNIT, data), 0);
    for (unsigned i = 0; i < UNIT / 8; i++)
        assert_int_equal(data[i], word);
}

/* ---- any size ---- */

/* Power is cut when pages of the log are where the maps of the second region would be, if it was as long as that. */
static void test_the_log_ends_before_the_maps_that_follow(void **state)
{
    enum { UNITS = 20000, PAGES = REGION / UNIT - 4 };
    uint64_t n = 0;
    struct plx_error err;
    struct pool_rig rig;
    struct tu t;
    (void)state;
    rig_make(&rig, "crash:ram:5G", NULL);
    const uint64_t last = rig.pool->log_seq + PAGES;
    rig_create(&rig, "v", (uint64_t)UNITS * UNIT);
    rig_open(&rig, "v", &t);
    for (uint64_t i = 0; i < UNITS; i++)
        write_unit(&t, i, i + 1);
    for (; rig.pool->log_seq < last; n++) {
        assert_int_equal(tu_io(&t, PLX_BDEV_UNMAP, n * BLOCKS_OF_UNIT, BLOCKS_OF_UNIT, NULL), 0);
        write_unit(&t, n, n + 7);
        assert_int_equal(tu_io(&t, PLX_BDEV_FLUSH, 0, 0, NULL), 0);
    }
    plx_bdev_crash_cut(rig.disk, NULL);
    rig_close(&rig, &t);
    pool_close_on(rig.pool);
    assert_int_equal(plx_bdev_crash_restore(rig.disk, &err), 0);
    rig_pool(&rig);
    rig_settle(&rig);
    rig_check(&rig);
    rig_open(&rig, "v", &t);
    for (uint64_t i = 0; i < UNITS; i += 100)
        check_unit(&t, i, i < n ? i + 7 : i + 1);
    rig_close(&rig, &t);
    rig_end(&rig);
}

/* Whatever has been used of them. */
static void test_logs_that_were_too_long_become_shorter(void **state)
{
    enum { UNITS = 20000 };
    (void)state;
    for (int used = 0; used < 2; used++) {
        struct pool_rig rig;
        struct tu t;
        rig_make(&rig, "ram:5G", NULL);
        struct plx_pool *p = rig.pool;
        p->used -= pool_space_fixed(p);
        p->log_units = REGION / UNIT; /* as they were made once */
        p->used += pool_space_fixed(p);
        rig_create(&rig, "v", (uint64_t)UNITS * UNIT);
        rig_open(&rig, "v", &t);
        for (uint64_t i = 0; i < (used ? UNITS : 1); i++)
            write_unit(&t, i, i + 1);
        rig_close(&rig, &t);
        rig_reopen(&rig);
        assert_true(rig.pool->log_units < REGION / UNIT);
        rig_settle(&rig);
        rig_check(&rig);
        rig_reopen(&rig);
        rig_check(&rig);
        rig_check_outside(&rig);
        rig_end(&rig);
    }
}

/* As many units beyond a region as there are, all of the pool can be filled. */
static void test_a_last_region_of_any_length(void **state)
{
    uint8_t data[512] = {1};
    char url[32];
    (void)state;
    for (unsigned more = 0; more < 6; more++) {
        struct pool_rig rig;
        struct plx_pool_info info;
        struct tu t;
        snprintf(url, sizeof url, "ram:%uK", REGION / 1024 + 4 * more);
        rig_make(&rig, url, NULL);
        plx_pool_get_info(rig.pool, &info);
        rig.pool->full_wait_ns = 0;
        const uint64_t units = info.free / UNIT;
        rig_create(&rig, "v", (units + 100) * UNIT);
        rig_open(&rig, "v", &t);
        uint64_t n = 0;
        while (!tu_io(&t, PLX_BDEV_WRITE, n * BLOCKS_OF_UNIT, 1, data))
            n++;
        assert_in_range(n, units - units / 128, units); /* the rest is nodes */
        assert_int_equal(tu_io(&t, PLX_BDEV_FLUSH, 0, 0, NULL), 0);
        rig_close(&rig, &t);
        rig_settle(&rig);
        rig_check(&rig);
        assert_int_equal(rig.pool->broken, 0);
        rig_reopen(&rig);
        rig_end(&rig);
    }
}

/* ---- larger ---- */

static uint64_t pool_size(const struct pool_rig *rig)
{
    struct plx_pool_info info;
    plx_pool_get_info(rig->pool, &info);
    return info.size;
}

/* Takes all there is. @return units */
static uint64_t fill(struct tu *t, uint64_t from)
{
    uint64_t word[64] = {from}, n = from;
    for (; !tu_io(t, PLX_BDEV_WRITE, n * BLOCKS_OF_UNIT, 1, word); word[0] = ++n)
        ;
    return n;
}

static void check_filled(struct tu *t, uint64_t units)
{
    uint64_t word[64];
    for (uint64_t i = 0; i < units; i++) {
        assert_int_equal(tu_io(t, PLX_BDEV_READ, i * BLOCKS_OF_UNIT, 1, word), 0);
        assert_int_equal(word[0], i);
    }
}

/* Within a region, to several, and from where none is loaded: each time what is new can be filled. */
static void test_a_full_pool_grows_and_is_filled(void **state)
{
    static const uint64_t sizes[] = {5 * MIB, 5 * MIB + 4096, 63 * MIB, REGION + 12288, 3 * REGION + MIB};
    struct pool_rig rig;
    struct tu t;
    uint64_t units = 0, before;
    (void)state;
    rig_make_small(&rig, "ram:256M", NULL, 4 * MIB);
    rig_create(&rig, "v", 256 * MIB);
    for (unsigned i = 0; i <= PLX_ARRAY_SIZE(sizes); i++) {
        rig.pool->full_wait_ns = 0;
        rig_open(&rig, "v", &t);
        before = units;
        units = fill(&t, units);
        assert_true(units > before || (i && sizes[i - 1] - pool_size(&rig) < 4096) || i == 2);
        check_filled(&t, units);
        rig_close(&rig, &t);
        rig_settle(&rig);
        rig_check(&rig);
        if (i % 2)
            rig_reopen(&rig);
        if (i == PLX_ARRAY_SIZE(sizes))
            break;
        rig_disk_size(&rig, sizes[i]);
        rig_do(&rig, PLX_POOL_GROW, NULL, NULL, 0);
        assert_int_equal(pool_size(&rig), sizes[i]);
        rig_do(&rig, PLX_POOL_GROW, NULL, NULL, 0); /* there is no more */
        assert_int_equal(pool_size(&rig), sizes[i]);
    }
    rig_end(&rig);
}

/* The tree of maps becomes higher twice. */
static void test_from_megabytes_to_terabytes(void **state)
{
    static const uint64_t sizes[] = {(uint64_t)17 << 30, (uint64_t)5 << 40};
    struct pool_rig rig;
    struct tu t;
    (void)state;
    assert_int_equal(truncate(tu_path, (off_t)sizes[1]), 0);
    rig_make_small(&rig, tu_path, NULL, 64 * MIB);
    rig_create(&rig, "v", 200 * MIB);
    for (unsigned i = 0; i < 2; i++) {
        const unsigned height = rig.pool->maps.height;
        rig_disk_size(&rig, sizes[i]);
        if (i)
            rig_reopen(&rig);
        rig_do(&rig, PLX_POOL_GROW, NULL, NULL, 0);
        assert_int_equal(pool_size(&rig), sizes[i]);
        assert_true(rig.pool->maps.height > height);
        rig_open(&rig, "v", &t);
        for (uint64_t n = 0; n < 40000; n++)
            write_unit(&t, n, n * (i + 1));
        rig_close(&rig, &t);
        rig_reopen(&rig);
        rig_open(&rig, "v", &t);
        for (uint64_t n = 0; n < 40000; n += 50)
            check_unit(&t, n, n * (i + 1));
        rig_close(&rig, &t);
    }
    rig_end(&rig);
}

/* What waits for space gets it. */
static void test_grows_under_writes(void **state)
{
    enum { DEPTH = 16 };
    static struct tu_req q[DEPTH];
    struct pool_rig rig;
    struct plx_pool_op op = {.kind = PLX_POOL_GROW};
    struct tu t;
    uint8_t *data = tu_pattern(UNIT, 3);
    uint64_t done_at[DEPTH] = {0}, written = 0;
    bool grown = true;
    (void)state;
    rig_make_small(&rig, "ram:64M", NULL, 4 * MIB);
    rig_create(&rig, "v", 48 * MIB);
    rig_open(&rig, "v", &t);
    for (unsigned i = 0; i < DEPTH; i++)
        tu_req_init(&q[i]);
    for (uint64_t bytes = 5 * MIB; written < 40 * MIB / UNIT;) {
        for (unsigned i = 0; i < DEPTH; i++) {
            if (done_at[i] && !q[i].done)
                continue;
            if (done_at[i])
                assert_int_equal(q[i].req->status, 0);
            if (written < 40 * MIB / UNIT) {
                done_at[i] = ++written;
                tu_start(&t, &q[i], PLX_BDEV_WRITE, (written - 1) * BLOCKS_OF_UNIT, BLOCKS_OF_UNIT, data);
            }
        }
        if (grown && bytes <= 64 * MIB) {
            rig_disk_size(&rig, bytes);
            rig_begin(&rig, &op, &grown);
            bytes += MIB;
        }
        plx_reactor_poll(rig.reactor);
    }
    for (unsigned i = 0; i < DEPTH; i++) {
        while (!q[i].done)
            rig_turn(rig.reactor);
        assert_int_equal(q[i].req->status, 0);
        tu_req_free(&q[i]);
    }
    while (!grown)
        rig_turn(rig.reactor);
    rig_close(&rig, &t);
    rig_settle(&rig);
    rig_check(&rig);
    rig_check_outside(&rig);
    rig_end(&rig);
    free(data);
}

/* ---- smaller ---- */

static void test_a_disk_that_is_smaller_than_its_pool(void **state)
{
    struct pool_rig rig;
    struct plx_error err = {""};
    struct plx_pool_op op = {.kind = PLX_POOL_GROW};
    struct plx_pool *p;
    struct tu t;
    uint8_t *before = malloc(64 * MIB), *after = malloc(64 * MIB), *data = tu_pattern(UNIT, 3);
    (void)state;
    rig_make(&rig, "ram:64M", NULL);
    const struct pool_keeper keeper = {rig.reactor, rig_turn};
    rig_create(&rig, "v", 1 * MIB);
    rig_open(&rig, "v", &t);
    write_unit(&t, 0, 7);
    assert_int_equal(tu_io(&t, PLX_BDEV_FLUSH, 0, 0, NULL), 0);
    rig_disk_size(&rig, 63 * MIB);
    struct tu disk = {.bdev = rig.disk, .reactor = rig.reactor, .info = plx_bdev_info(rig.disk)};
    assert_int_equal(plx_bdev_channel_get(rig.disk, rig.reactor, &disk.ch), 0);
    for (unsigned i = 0; i < 62; i++)
        assert_int_equal(tu_io(&disk, PLX_BDEV_READ, (uint64_t)i * 2048, 2048, before + (size_t)i * MIB), 0);
    check_unit(&t, 0, 7);
    assert_int_not_equal(tu_io(&t, PLX_BDEV_WRITE, 8, 8, data), 0);
    assert_int_equal(rig_run(&rig, &op), -EROFS);
    struct plx_pool_info info;
    plx_pool_get_info(rig.pool, &info);
    assert_int_equal(info.broken, PLX_SC_LBA_OUT_OF_RANGE);
    rig_close(&rig, &t);
    pool_close_on(rig.pool);
    assert_int_equal(pool_open_on(rig.disk, &keeper, &p, &err), -EINVAL);
    assert_non_null(strstr(err.text, "it has become smaller"));
    for (unsigned i = 0; i < 62; i++)
        assert_int_equal(tu_io(&disk, PLX_BDEV_READ, (uint64_t)i * 2048, 2048, after + (size_t)i * MIB), 0);
    assert_memory_equal(before, after, 62 * MIB);
    plx_bdev_channel_put(disk.ch);
    rig_disk_size(&rig, 64 * MIB);
    rig_pool(&rig);
    rig_open(&rig, "v", &t);
    check_unit(&t, 0, 7);
    rig_close(&rig, &t);
    rig_end(&rig);
    free(before);
    free(after);
    free(data);
}

/* One that finds nothing to be taken ends while another one's root is on its way. */
static void test_grown_when_the_root_that_says_so_is_written(void **state)
{
    struct pool_rig rig;
    struct plx_pool_info info;
    struct plx_pool_op vain = {.kind = PLX_POOL_GROW}, grow = vain;
    bool done[2];
    (void)state;
    rig_make_small(&rig, "delay:ram:96M?write=1ms", NULL, 64 * MIB);
    rig_disk_size(&rig, 64 * MIB);
    rig_begin(&rig, &vain, &done[0]);
    while (plx_list_empty(&rig.pool->applied))
        rig_turn(rig.reactor);
    rig_disk_size(&rig, 96 * MIB);
    rig_begin(&rig, &grow, &done[1]);
    while (!done[0])
        rig_turn(rig.reactor);
    assert_false(done[1]);
    plx_pool_get_info(rig.pool, &info);
    assert_int_equal(info.size, 64 * MIB);
    while (!done[1])
        rig_turn(rig.reactor);
    assert_int_equal(vain.result | grow.result, 0);
    plx_pool_get_info(rig.pool, &info);
    assert_int_equal(info.size, 96 * MIB);
    rig_end(&rig);
}

static int simulate(void **state)
{
    (void)state;
    rig_simulate(true);
    return 0;
}

static int in_real_time(void **state)
{
    (void)state;
    rig_simulate(false);
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_log_ends_before_the_maps_that_follow),
        cmocka_unit_test(test_logs_that_were_too_long_become_shorter),
        cmocka_unit_test(test_a_last_region_of_any_length),
        cmocka_unit_test(test_a_full_pool_grows_and_is_filled),
        cmocka_unit_test_setup_teardown(test_from_megabytes_to_terabytes, tu_make_file, tu_remove_file),
        cmocka_unit_test(test_grows_under_writes),
        cmocka_unit_test(test_grown_when_the_root_that_says_so_is_written),
        cmocka_unit_test(test_a_disk_that_is_smaller_than_its_pool),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, simulate, in_real_time);
}
