/* SPDX-License-Identifier: BSD-3-Clause */
/* Pools of any size, and that become larger with their disk. */
#include "pool_rig.h"

#include "bdev/driver.h"

#include <errno.h>
#include <pollux/bdev_filter.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
    rig_simulate(true);
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
    rig_simulate(false);
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

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_log_ends_before_the_maps_that_follow),
        cmocka_unit_test(test_logs_that_were_too_long_become_shorter),
        cmocka_unit_test(test_a_last_region_of_any_length),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
