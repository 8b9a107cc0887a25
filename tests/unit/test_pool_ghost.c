/* SPDX-License-Identifier: BSD-3-Clause */
/* Snapshots that were deleted while several went back to them: they keep what these have, and nothing else. */
#include "pool_rig.h"

#include <pollux/bdev_filter.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bdev/filter/crash.h"
#include "reactor/clock.h"

enum { UNIT = 4096, LBAS = 8, UNITS = 700, CHILDREN = 3, PER_NODE = 256 };

static struct tu_req one;

static uint16_t run_io(struct tu *t, enum plx_bdev_op op, uint64_t unit, uint32_t n, void *data)
{
    tu_start(t, &one, op, unit * LBAS, n * LBAS, data);
    while (!one.done)
        rig_turn(t->reactor);
    return one.req->status;
}

/* Every volume has been written a byte that is its own, or shares what the first one was written. */
static void fill(struct pool_rig *rig, const char *name, uint64_t unit, uint32_t n, uint8_t byte)
{
    struct tu t;
    uint8_t *data = malloc((size_t)n * UNIT);
    memset(data, byte, (size_t)n * UNIT);
    rig_open(rig, name, &t);
    assert_int_equal(run_io(&t, PLX_BDEV_WRITE, unit, n, data), 0);
    rig_close(rig, &t);
    free(data);
}

static void discard(struct pool_rig *rig, const char *name, uint64_t unit, uint32_t n)
{
    struct tu t;
    rig_open(rig, name, &t);
    assert_int_equal(run_io(&t, PLX_BDEV_UNMAP, unit, n, NULL), 0);
    rig_close(rig, &t);
}

static uint8_t byte_at(struct pool_rig *rig, const char *name, uint64_t unit)
{
    struct tu t;
    uint8_t data[UNIT];
    rig_open(rig, name, &t);
    assert_int_equal(run_io(&t, PLX_BDEV_READ, unit, 1, data), 0);
    rig_close(rig, &t);
    return data[17];
}

static uint64_t free_units(struct pool_rig *rig)
{
    struct plx_pool_info info;
    plx_pool_get_info(rig->pool, &info);
    return info.free / UNIT;
}

/* "a" with all its units, and clones "c0", "c1", ... of a snapshot "s" of it, which is deleted. */
static void make_ghost(struct pool_rig *rig)
{
    char name[8];
    rig_create(rig, "a", (uint64_t)UNITS * UNIT);
    fill(rig, "a", 0, UNITS, 1);
    rig_do(rig, PLX_POOL_SNAPSHOT, "a", "s", 0);
    for (unsigned i = 0; i < CHILDREN - 1; i++) {
        snprintf(name, sizeof name, "c%u", i);
        rig_do(rig, PLX_POOL_CLONE, "s", name, 0);
    }
    rig_do(rig, PLX_POOL_DELETE, "s", NULL, 0);
    rig_settle(rig);
}

static bool waited;

static void wait_over(struct plx_timer *timer)
{
    (void)timer;
    waited = true;
}

/* Time goes by, and nothing else. */
static void wait_s(struct pool_rig *rig, unsigned s)
{
    struct plx_timer timer = {.fn = wait_over};
    waited = false;
    plx_timer_set(rig->reactor, &timer, s * PLX_NS_PER_S);
    while (!waited)
        rig_turn(rig->reactor);
}

static void test_what_all_have_discarded_is_free_by_itself(void **state)
{
    static const char *const names[CHILDREN] = {"a", "c0", "c1"};
    struct pool_rig rig;
    (void)state;
    rig_make(&rig, "ram:16M", NULL);
    make_ghost(&rig);
    const uint64_t before = free_units(&rig);
    for (unsigned i = 0; i < CHILDREN; i++) {
        assert_true(free_units(&rig) < before + 10); /* one of them has it */
        discard(&rig, names[i], 10, 600);
        wait_s(&rig, 6);
    }
    assert_true(free_units(&rig) > before + 590);
    for (unsigned i = 0; i < CHILDREN; i++) {
        assert_int_equal(byte_at(&rig, names[i], 9), 1);
        assert_int_equal(byte_at(&rig, names[i], 10), 0);
        assert_int_equal(byte_at(&rig, names[i], 610), 1);
    }
    rig_settle(&rig);
    rig_check(&rig);
    rig_check_outside(&rig);
    rig_end(&rig);
}

/* What one has overwritten, and the others that went had. */
static void test_those_who_go_leave_nothing(void **state)
{
    struct pool_rig rig;
    (void)state;
    rig_make(&rig, "ram:16M", NULL);
    make_ghost(&rig);
    fill(&rig, "a", 0, 600, 2);
    fill(&rig, "c0", 300, 400, 3);
    rig_settle(&rig);
    const uint64_t before = free_units(&rig);
    rig_do(&rig, PLX_POOL_DELETE, "c1", NULL, 0); /* which alone has units 300 to 599 */
    rig_settle(&rig);
    rig_check(&rig);
    assert_in_range(free_units(&rig), before + 295, before + 310);
    assert_int_equal(byte_at(&rig, "a", 650), 1);
    assert_int_equal(byte_at(&rig, "c0", 299), 1);
    rig_end(&rig);
}

/* A ghost that goes back to a ghost hands on what it has of that one. */
static void test_ghosts_of_ghosts(void **state)
{
    struct pool_rig rig;
    (void)state;
    rig_make(&rig, "ram:16M", NULL);
    rig_create(&rig, "a", (uint64_t)UNITS * UNIT);
    fill(&rig, "a", 0, UNITS, 1);
    rig_do(&rig, PLX_POOL_SNAPSHOT, "a", "s", 0);
    rig_do(&rig, PLX_POOL_CLONE, "s", "c", 0);
    fill(&rig, "a", 100, 100, 2);
    rig_do(&rig, PLX_POOL_SNAPSHOT, "a", "t", 0);
    rig_do(&rig, PLX_POOL_CLONE, "t", "d", 0);
    rig_do(&rig, PLX_POOL_DELETE, "s", NULL, 0);
    rig_do(&rig, PLX_POOL_DELETE, "t", NULL, 0);
    rig_settle(&rig);
    const uint64_t before = free_units(&rig);
    discard(&rig, "c", 0, UNITS);
    discard(&rig, "a", 0, UNITS);
    discard(&rig, "d", 0, 650);
    wait_s(&rig, 20);
    assert_true(free_units(&rig) > before + 740);
    rig_settle(&rig);
    rig_check(&rig);
    assert_int_equal(byte_at(&rig, "d", 650), 1);
    rig_reopen(&rig);
    assert_int_equal(byte_at(&rig, "d", 699), 1);
    rig_settle(&rig);
    rig_check(&rig);
    rig_check_outside(&rig);
    rig_end(&rig);
}

/* More than are looked at at once, of which the last one has it. */
static void test_many_clones(void **state)
{
    enum { MANY = 100 };
    struct pool_rig rig;
    char name[8];
    (void)state;
    rig_make(&rig, "ram:32M", NULL);
    rig_create(&rig, "a", (uint64_t)UNITS * UNIT);
    fill(&rig, "a", 0, UNITS, 1);
    rig_do(&rig, PLX_POOL_SNAPSHOT, "a", "s", 0);
    for (unsigned i = 0; i < MANY; i++) {
        snprintf(name, sizeof name, "c%u", i);
        rig_do(&rig, PLX_POOL_CLONE, "s", name, 0);
    }
    rig_do(&rig, PLX_POOL_DELETE, "s", NULL, 0);
    discard(&rig, "a", 0, 300);
    for (unsigned i = 0; i + 1 < MANY; i++) {
        snprintf(name, sizeof name, "c%u", i);
        discard(&rig, name, i % 2, 300);
    }
    rig_settle(&rig);
    rig_check(&rig);
    snprintf(name, sizeof name, "c%u", MANY - 1);
    for (unsigned i = 0; i < 300; i += 13)
        assert_int_equal(byte_at(&rig, name, i), 1);
    const uint64_t before = free_units(&rig);
    discard(&rig, name, 0, 300);
    rig_settle(&rig);
    rig_check(&rig);
    assert_in_range(free_units(&rig), before + 295, before + 305); /* c1, c3, ... have the first one */
    assert_int_equal(byte_at(&rig, "c1", 0), 1);
    rig_end(&rig);
}

/* Power is cut at each request while it is gone through. */
static void test_power_is_cut_meanwhile(void **state)
{
    enum { KEEPS = 4 }; /* different subsets of what was not flushed */
    bool cut = true;
    unsigned lives = 0;
    (void)state;
    for (uint64_t at = KEEPS; cut || at % KEEPS; at++, lives++) {
        struct plx_error err;
        struct plx_crash_state s;
        struct pool_rig rig;
        rig_make(&rig, "crash:ram:16M", NULL);
        plx_crash_seed(rig.disk, at);
        make_ghost(&rig);
        discard(&rig, "a", 20, 400);
        fill(&rig, "c0", 10, 500, 3);
        rig_settle(&rig);
        plx_crash_arm(rig.disk, 0, at / KEEPS);
        struct tu t;
        rig_open(&rig, "c1", &t);
        run_io(&t, PLX_BDEV_UNMAP, 300, 300, NULL);
        run_io(&t, PLX_BDEV_FLUSH, 0, 0, NULL);
        const bool flushed = !one.req->status;
        rig_close(&rig, &t);
        wait_s(&rig, 5);
        plx_crash_look(rig.disk, &s);
        cut = s.off;
        plx_crash_arm(rig.disk, 0, 0);
        if (!cut)
            plx_bdev_crash_cut(rig.disk, NULL);
        pool_close_on(rig.pool);
        do {
            rig_turn(rig.reactor);
            plx_crash_look(rig.disk, &s);
        } while (!s.settled);
        assert_int_equal(plx_bdev_crash_restore(rig.disk, &err), 0);
        rig_pool(&rig);
        rig_settle(&rig);
        rig_check(&rig);
        for (unsigned unit = 0; unit < UNITS; unit += 9) {
            const uint8_t byte = byte_at(&rig, "c1", unit);
            assert_int_equal(byte_at(&rig, "a", unit), unit < 20 || unit >= 420);
            assert_int_equal(byte_at(&rig, "c0", unit), unit < 10 || unit >= 510 ? 1 : 3);
            assert_true(unit < 300 || unit >= 600 ? byte == 1 : !byte || (byte == 1 && !flushed));
        }
        rig_check(&rig);
        rig_check_outside(&rig);
        rig_end(&rig);
    }
    print_message("%u lives\n", lives);
    assert_true(lives > 8 * KEEPS);
}

static int simulate(void **state)
{
    (void)state;
    rig_simulate(true);
    tu_req_init(&one);
    return 0;
}

static int in_real_time(void **state)
{
    (void)state;
    tu_req_free(&one);
    rig_simulate(false);
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_all_have_discarded_is_free_by_itself),
        cmocka_unit_test(test_those_who_go_leave_nothing),
        cmocka_unit_test(test_ghosts_of_ghosts),
        cmocka_unit_test(test_many_clones),
        cmocka_unit_test(test_power_is_cut_meanwhile),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    int failed = cmocka_run_group_tests(tests, simulate, in_real_time);
    rig_checksums(true);
    return failed + cmocka_run_group_tests_name("with checksums", tests, simulate, in_real_time);
}
