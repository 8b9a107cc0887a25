/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a pool's log has is replayed whole or not at all: power may be cut at any moment of it, and it is there to be
 * replayed once more.
 */
#include "pool_rig.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bdev/filter/crash.h"

enum {
    LEAF = 256 * 8, /* blocks that a leaf of a volume's tree leads to */
    DIRTY_MAX = 16, /* nodes that a checkpoint should have, in a pool as small as this */
};

static uint8_t data[2 * 4096], is[4096];

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
    rig_cut(rig, rig->disk);
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
        rig_restore(&rig, rig.disk);
    }
    plx_crash_arm(rig.disk, 0, 0);
    assert_true(cuts > 8);
    rig_open(&rig, "v", &t);
    for (unsigned i = 0; i < LEAVES; i++) {
        data[0] = (uint8_t)i;
        assert_int_equal(rig_io(&t, PLX_BDEV_READ, (uint64_t)i * LEAF, 8, is), 0);
        assert_memory_equal(is, data, sizeof is);
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

/* ---- room for the root that comes then ---- */

enum { SHARED = 60, VOLUMES = 40 };

/* A full pool in which a snapshot has what a volume has, many pages of records, and that volume, open. */
static void fill_pool(struct pool_rig *rig, struct tu *t)
{
    uint16_t status = 0;
    struct tu f;
    char name[16];
    rig_make(rig, "crash:ram:16M?seed=1", NULL);
    rig->pool->full_wait_ns = 0;
    rig_create(rig, "v", (uint64_t)SHARED * LEAF * 512);
    for (unsigned i = 0; i < VOLUMES; i++) {
        snprintf(name, sizeof name, "n%u", i);
        rig_create(rig, name, 4 * LEAF * 512);
    }
    rig_open(rig, "v", t);
    for (unsigned i = 0; i < SHARED; i++)
        assert_int_equal(rig_io(t, PLX_BDEV_WRITE, (uint64_t)i * LEAF, 16, data), 0);
    rig_do(rig, PLX_POOL_SNAPSHOT, "v", "s", 0);
    rig_create(rig, "f", 32 << 20);
    rig_open(rig, "f", &f);
    for (unsigned i = 0; !status && i < 8192; i++)
        status = rig_io(&f, PLX_BDEV_WRITE, 8 * i, 8, data);
    assert_int_equal(status, PLX_SC_CAPACITY_EXCEEDED);
    assert_int_equal(rig_io(&f, PLX_BDEV_FLUSH, 0, 0, NULL), 0);
    rig_close(rig, &f);
    rig_settle(rig);
}

/*
 * What is discarded of a snapshot's takes nodes for good, and gives nothing back. Discards come to an end; the roots do
 * not, nor what a cut leaves of them.
 */
static void discard_and_cut(unsigned most)
{
    struct plx_error err = {""};
    struct pool_rig rig;
    struct tu t, n;
    uint16_t status = 0;
    unsigned done = 0;
    char name[16];
    fill_pool(&rig, &t);
    for (unsigned i = 0; i < VOLUMES && i < most; i += 4) { /* records of many pages are changed */
        snprintf(name, sizeof name, "n%u", i);
        rig_open(&rig, name, &n);
        rig_io(&n, PLX_BDEV_WRITE_ZEROES, 0, 8, NULL);
        rig_close(&rig, &n);
    }
    for (; !status && done < most; done += !status)
        status = rig_io(&t, PLX_BDEV_UNMAP, (uint64_t)(done % SHARED) * LEAF + done / SHARED * 8, 8, NULL);
    assert_true(!status || status == PLX_SC_CAPACITY_EXCEEDED);
    assert_int_equal(rig_io(&t, PLX_BDEV_FLUSH, 0, 0, NULL), 0);
    rig_close(&rig, &t);
    rig_cut(&rig, rig.disk);
    if (open_pool(&rig, &err))
        fail_msg("after %u discards: %s", done, err.text);
    rig.pool->full_wait_ns = 0;
    rig_open(&rig, "v", &t);
    for (unsigned i = 0; i < done; i++) {
        assert_int_equal(rig_io(&t, PLX_BDEV_READ, (uint64_t)(i % SHARED) * LEAF + i / SHARED * 8, 8, is), 0);
        assert_true(tu_zeroed(is, sizeof is));
    }
    rig_close(&rig, &t);
    rig_do(&rig, PLX_POOL_DELETE, "f", NULL, 0);
    rig_do(&rig, PLX_POOL_DELETE, "s", NULL, 0);
    rig_settle(&rig);
    rig_check(&rig);
    rig_end(&rig);
}

static void test_volumes_leave_a_root_what_it_needs(void **state)
{
    (void)state;
    for (unsigned most = 1; most < 70; most++)
        discard_and_cut(most);
}

/* What is discarded is free when a root says so, and not before: what is set aside has no unit for a while. */
static void test_thick_data_leaves_a_root_what_it_needs(void **state)
{
    struct pool_rig rig;
    struct tu t;
    (void)state;
    rig_make(&rig, "crash:ram:16M?seed=1", NULL);
    rig.pool->full_wait_ns = 0;
    const uint64_t units = pool_space_room(rig.pool);
    struct plx_pool_op op = {.kind = PLX_POOL_CREATE, .name = "t", .size = units << 12, .thick = true};
    assert_int_equal(rig_run(&rig, &op), 0);
    rig_open(&rig, "t", &t);
    for (uint64_t i = 0; i < units; i++)
        assert_int_equal(rig_io(&t, PLX_BDEV_WRITE, 8 * i, 8, data), 0);
    for (unsigned round = 0; round < 3; round++) {
        assert_int_equal(rig_io(&t, PLX_BDEV_UNMAP, 8, LEAF - 8, NULL), 0);
        for (uint64_t i = 1; i < LEAF / 8; i++)
            assert_int_equal(rig_io(&t, PLX_BDEV_WRITE, 8 * i, 8, data), 0);
    }
    assert_int_equal(rig_io(&t, PLX_BDEV_FLUSH, 0, 0, NULL), 0);
    rig_close(&rig, &t);
    assert_int_equal(rig.pool->broken, 0);
    rig_cut(&rig, rig.disk);
    rig_pool(&rig);
    rig_settle(&rig);
    rig_check(&rig);
    rig_end(&rig);
}

/* Each page of records is a unit for good. Volumes come to an end, and those that are there can go. */
static void test_volumes_in_a_full_pool(void **state)
{
    struct pool_rig rig;
    struct tu t;
    char name[16];
    unsigned n = 0;
    int ret = 0;
    (void)state;
    fill_pool(&rig, &t);
    rig_close(&rig, &t);
    for (; !ret && n < 2000; n += !ret) {
        snprintf(name, sizeof name, "m%u", n);
        ret = rig_try(&rig, n % 2 ? PLX_POOL_SNAPSHOT : PLX_POOL_CREATE, n % 2 ? "n0" : NULL, name, 1 << 20);
    }
    assert_true(n > VOLUMES);
    assert_int_equal(ret, -ENOSPC);
    rig_reopen(&rig);
    for (unsigned i = 0; i < n; i += 2) {
        snprintf(name, sizeof name, "m%u", i);
        rig_do(&rig, PLX_POOL_DELETE, name, NULL, 0);
    }
    rig_do(&rig, PLX_POOL_DELETE, "f", NULL, 0);
    rig_settle(&rig);
    rig_check(&rig);
    rig_reopen(&rig);
    rig_create(&rig, "more", 1 << 20);
    rig_end(&rig);
}

/* ---- ghosts ---- */

/*
 * Snapshot "g" was deleted, and two go back to it. One overwrites what it has of it, which only the log knows, and
 * power is cut. With `one`, the other has gone as well meanwhile, while something had the ghost stay.
 */
static void leave_ghost(struct pool_rig *rig, bool one)
{
    struct tu t;
    rig_make(rig, one ? "crash:ram:16M?seed=1" : "crash:ram:16M?seed=1&latency=20s", NULL);
    rig_create(rig, "v", 40 * LEAF * 512);
    rig_open(rig, "v", &t);
    for (unsigned i = 0; i < 40; i++)
        assert_int_equal(rig_io(&t, PLX_BDEV_WRITE, (uint64_t)i * LEAF, 8, data), 0);
    rig_do(rig, PLX_POOL_SNAPSHOT, "v", "g", 0);
    struct pool_volume *g = pool_volume_find(rig->pool, "g");
    rig_do(rig, PLX_POOL_CLONE, "g", "c", 0);
    rig_do(rig, PLX_POOL_DELETE, "g", NULL, 0);
    rig_settle(rig);
    assert_int_equal(g->state, POOL_GHOST);
    if (one) {
        g->pins++; /* as who copies what it has does */
        rig_do(rig, PLX_POOL_DELETE, "c", NULL, 0);
        while (g->children > 1 || rig->pool->checkpoint || rig->pool->checkpoint_wanted)
            rig_turn(rig->reactor);
    }
    for (unsigned i = 0; i < 15; i++)
        assert_int_equal(rig_io(&t, PLX_BDEV_WRITE, (uint64_t)i * LEAF, 8, data), 0);
    assert_int_equal(rig_io(&t, PLX_BDEV_FLUSH, 0, 0, NULL), 0);
    rig_close(rig, &t);
    if (one)
        g->pins--;
    rig_cut(rig, rig->disk);
}

static void look_at_ghost(bool one)
{
    struct plx_error err = {""};
    struct pool_rig rig;
    struct tu t;
    leave_ghost(&rig, one);
    if (open_pool(&rig, &err))
        fail_msg("%s", err.text);
    for (unsigned i = 0; i < 100; i++)
        rig_turn(rig.reactor);
    rig_settle(&rig);
    rig_check(&rig);
    rig_open(&rig, "v", &t);
    for (unsigned i = 0; i < 40; i++) {
        assert_int_equal(rig_io(&t, PLX_BDEV_READ, (uint64_t)i * LEAF, 8, is), 0);
        assert_memory_equal(is, data, sizeof is);
    }
    rig_close(&rig, &t);
    rig_end(&rig);
}

static void test_a_ghost_that_is_found_stale_may_go(void **state)
{
    (void)state;
    look_at_ghost(true);
}

/* It takes seconds, after which ghosts that are stale are gone through otherwise. */
static void test_ghosts_wait_until_it_is_over(void **state)
{
    (void)state;
    look_at_ghost(false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_power_is_cut_while_it_is_replayed),
        cmocka_unit_test(test_a_log_that_changes_too_much),
        cmocka_unit_test(test_volumes_leave_a_root_what_it_needs),
        cmocka_unit_test(test_thick_data_leaves_a_root_what_it_needs),
        cmocka_unit_test(test_volumes_in_a_full_pool),
        cmocka_unit_test(test_a_ghost_that_is_found_stale_may_go),
        cmocka_unit_test(test_ghosts_wait_until_it_is_over),
    };
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 7 + 3);
    rig_simulate(true);
    int ret = cmocka_run_group_tests(tests, NULL, NULL);
    rig_simulate(false);
    return ret;
}
