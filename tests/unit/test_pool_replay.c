/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a pool's log has is replayed whole or not at all: power may be cut at any moment of it, and it is there to be
 * replayed once more.
 */
#include "pool_rig.h"

#include <errno.h>
#include <pollux/bdev_filter.h>
#include <stdlib.h>
#include <string.h>

#include "bdev/filter/crash.h"

enum {
    LEAF = 256 * 8, /* blocks that a leaf of a volume's tree leads to */
    DIRTY_MAX = 16, /* nodes that a checkpoint should have, in a pool as small as this */
};

static uint8_t data[4096], is[4096];

static void restore(struct pool_rig *rig)
{
    struct plx_crash_state s;
    struct plx_error err;
    do {
        rig_turn(rig->reactor);
        plx_crash_look(rig->disk, &s);
    } while (!s.settled);
    assert_int_equal(plx_bdev_crash_restore(rig->disk, &err), 0);
}

/* A pool with a log that changes as many leaves of a volume's tree, and power is cut. */
static void leave_log(struct pool_rig *rig, unsigned leaves)
{
    struct tu t;
    rig_make(rig, "crash:ram:16M?seed=1", NULL);
    assert_int_equal(rig->pool->dirty_max, DIRTY_MAX);
    rig->pool->dirty_max = 2 * leaves; /* as if the checkpoints that are due took their time */
    rig_create(rig, "v", (uint64_t)leaves * LEAF * 512);
    rig_settle(rig);
    rig_open(rig, "v", &t);
    for (unsigned i = 0; i < leaves; i++) {
        data[0] = (uint8_t)i;
        assert_int_equal(rig_io(&t, PLX_BDEV_WRITE, (uint64_t)i * LEAF, 8, data), 0);
    }
    assert_int_equal(rig_io(&t, PLX_BDEV_FLUSH, 0, 0, NULL), 0);
    rig_close(rig, &t);
    plx_bdev_crash_cut(rig->disk, NULL);
    pool_close_on(rig->pool);
    rig->pool = NULL;
    restore(rig);
}

static int open_pool(struct pool_rig *rig, struct plx_error *err)
{
    const struct pool_keeper keeper = {rig->reactor, rig_turn};
    int ret = pool_open_on(rig->disk, &keeper, &rig->pool, err);
    if (ret)
        rig->pool = NULL;
    return ret;
}

/* As many as two checkpoints one after the other may leave to it: all that there is while the second is under way. */
static void test_power_is_cut_while_it_is_replayed(void **state)
{
    enum { LEAVES = 4 * DIRTY_MAX - 6 };
    struct plx_crash_state s;
    struct plx_error err = {""};
    struct pool_rig rig;
    struct tu t;
    unsigned cuts = 0;
    (void)state;
    leave_log(&rig, LEAVES);
    for (;; cuts++) {
        plx_crash_arm(rig.disk, 0, 1 + cuts);
        const int ret = open_pool(&rig, &err);
        plx_crash_look(rig.disk, &s);
        if (!s.off) {
            if (ret)
                fail_msg("after %u cuts: %s", cuts, err.text);
            break;
        }
        if (rig.pool)
            pool_close_on(rig.pool);
        rig.pool = NULL;
        restore(&rig);
    }
    plx_crash_arm(rig.disk, 0, 0);
    assert_true(cuts > 8);
    rig_open(&rig, "v", &t);
    for (unsigned i = 0; i < LEAVES; i++) {
        data[0] = (uint8_t)i;
        assert_int_equal(rig_io(&t, PLX_BDEV_READ, (uint64_t)i * LEAF, 8, is), 0);
        assert_memory_equal(is, data, sizeof data);
    }
    rig_close(&rig, &t);
    rig_settle(&rig);
    rig_check(&rig);
    rig_look(&rig);
    rig_end(&rig);
}

/* No pool leaves a log that changes as much: memory for what is somebody's making has an end. */
static void test_a_log_that_changes_too_much(void **state)
{
    struct plx_error err = {""};
    struct pool_rig rig;
    (void)state;
    leave_log(&rig, 9 * DIRTY_MAX);
    assert_int_equal(open_pool(&rig, &err), -EUCLEAN);
    assert_non_null(strstr(err.text, "the log of its pool cannot be replayed"));
    rig_end(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_power_is_cut_while_it_is_replayed),
        cmocka_unit_test(test_a_log_that_changes_too_much),
    };
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 7 + 3);
    rig_simulate(true);
    int ret = cmocka_run_group_tests(tests, NULL, NULL);
    rig_simulate(false);
    return ret;
}
