/* SPDX-License-Identifier: BSD-3-Clause */
/* Cuts of power at moments that lives by chance (test_pool_crash) come to once in 10^5 times, and which hurt once. */
#include "pool_rig.h"

#include <pollux/bdev_filter.h>
#include <string.h>

#include "bdev/filter/crash.h"

enum { BLOCK = 512, SIZE = 1 << 20 };

static uint32_t keep_none(void *arg, const struct plx_crash_write *writes, uint32_t n, struct plx_crash_keep *keep)
{
    (void)arg, (void)writes, (void)n, (void)keep;
    return 0;
}

static uint16_t unit_io(struct tu *t, enum plx_bdev_op op, uint64_t unit, uint8_t byte, uint8_t *data)
{
    if (op == PLX_BDEV_WRITE)
        memset(data, byte, 8 * BLOCK);
    return rig_io(t, op, unit * 8, 8, data);
}

/* A write that is under way as a snapshot is made is in it or not; as it is when that is done, it stays. */
static void a_snapshot_never_changes(void **state)
{
    static uint8_t data[8 * BLOCK], before[8 * BLOCK];
    static const struct plx_bdev_injection pending = {
        .type = PLX_BDEV_INJECT_PENDING, .ops = 1 << PLX_BDEV_WRITE, .count = 1};
    static const struct plx_bdev_injection none = {.type = PLX_BDEV_INJECT_NONE, .ops = 1 << PLX_BDEV_WRITE};
    struct plx_pool_op snapshot = {.kind = PLX_POOL_SNAPSHOT, .volume = "a", .name = "s"};
    bool done = false;
    struct pool_rig rig;
    struct tu t;
    struct tu_req write;
    (void)state;
    rig_simulate(true);
    rig_make(&rig, "error:crash:ram:8M", NULL);
    struct plx_bdev *crash = plx_bdev_below(rig.disk);
    plx_crash_choose(crash, keep_none, NULL);
    rig_create(&rig, "a", SIZE);
    rig_open(&rig, "a", &t);
    assert_int_equal(unit_io(&t, PLX_BDEV_WRITE, 0, 1, data), 0);
    assert_int_equal(rig_io(&t, PLX_BDEV_FLUSH, 0, 0, NULL), 0);
    assert_int_equal(plx_bdev_error_inject(rig.disk, &pending, NULL), 0);
    memset(data, 2, sizeof data);
    tu_req_init(&write);
    tu_start(&t, &write, PLX_BDEV_WRITE, 0, 8, data);
    const uint64_t generation = rig.pool->generation;
    rig_begin(&rig, &snapshot, &done);
    while (rig.pool->generation == generation) /* until it is on the disk */
        rig_turn(rig.reactor);
    assert_false(done || write.done);
    assert_int_equal(plx_bdev_error_inject(rig.disk, &none, NULL), 0);
    while (!done || !write.done)
        rig_turn(rig.reactor);
    assert_int_equal(snapshot.result, 0);
    tu_req_free(&write);
    rig_close(&rig, &t);
    rig_open(&rig, "s", &t);
    assert_int_equal(unit_io(&t, PLX_BDEV_READ, 0, 0, before), 0);
    rig_close(&rig, &t);
    rig_cut(&rig, crash);
    rig_pool(&rig);
    rig_open(&rig, "s", &t);
    assert_int_equal(unit_io(&t, PLX_BDEV_READ, 0, 0, data), 0);
    assert_memory_equal(data, before, sizeof data);
    rig_close(&rig, &t);
    rig_end(&rig);
    rig_simulate(false);
}

/* A write changes the tree, and has to wait then, as the log is full: for a checkpoint, which has that tree. */
static void a_checkpoint_has_trees_of_those_who_wait_for_it(void **state)
{
    static uint8_t data[8 * BLOCK];
    struct pool_rig rig;
    struct tu t;
    (void)state;
    rig_simulate(true);
    rig_make(&rig, "crash:ram:8M", NULL);
    plx_crash_choose(rig.disk, keep_none, NULL);
    rig_create(&rig, "a", SIZE);
    rig_open(&rig, "a", &t);
    assert_int_equal(unit_io(&t, PLX_BDEV_WRITE, 0, 1, data), 0);
    rig_close(&rig, &t);
    rig_reopen(&rig); /* nothing of it is dirty now */
    rig_open(&rig, "a", &t);
    struct plx_pool *p = rig.pool;
    const uint64_t generation = p->generation;
    assert_null(p->log_page);
    p->log_seq = p->log_first + p->log_units - 1;
    assert_int_equal(unit_io(&t, PLX_BDEV_WRITE, 3, 2, data), 0);
    assert_int_equal(p->generation, generation + 1);
    rig_close(&rig, &t);
    rig_cut(&rig, rig.disk);
    rig_look(&rig);
    rig_pool(&rig);
    rig_open(&rig, "a", &t);
    assert_int_equal(unit_io(&t, PLX_BDEV_READ, 0, 0, data), 0);
    assert_int_equal(data[0], 1);
    rig_close(&rig, &t);
    rig_settle(&rig);
    rig_check(&rig);
    rig_end(&rig);
    rig_simulate(false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_snapshot_never_changes),
        cmocka_unit_test(a_checkpoint_has_trees_of_those_who_wait_for_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
