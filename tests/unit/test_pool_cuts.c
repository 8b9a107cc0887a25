/* SPDX-License-Identifier: BSD-3-Clause */
/* Cuts of power at moments that lives by chance (test_pool_crash) come to once in 10^5 times, and which hurt once. */
#include "pool_rig.h"

#include <errno.h>
#include <pollux/bdev_filter.h>
#include <string.h>

#include "bdev/filter/crash.h"
#include "bdev/pool/disk.h"
#include "bdev/pool/op.h"

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

/* "a", open as t, of which the first unit is written. */
static void make_volume(struct pool_rig *rig, struct tu *t)
{
    static uint8_t data[8 * BLOCK];
    rig_create(rig, "a", SIZE);
    rig_open(rig, "a", t);
    assert_int_equal(unit_io(t, PLX_BDEV_WRITE, 0, 1, data), 0);
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
    make_volume(&rig, &t);
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
    make_volume(&rig, &t);
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

static const struct plx_bdev_injection one_pending = {
    .type = PLX_BDEV_INJECT_PENDING, .ops = 1 << PLX_BDEV_WRITE, .count = 1};
static const struct plx_bdev_injection none_pending = {.type = PLX_BDEV_INJECT_NONE, .ops = 1 << PLX_BDEV_WRITE};

static uint32_t keep_all(void *arg, const struct plx_crash_write *writes, uint32_t n, struct plx_crash_keep *keep)
{
    (void)arg, (void)writes;
    for (uint32_t i = 0; i < n; i++)
        keep[i] = (struct plx_crash_keep){.write = i, .units = PLX_CRASH_WHOLE};
    return n;
}

/* Until a checkpoint has had its moment, and waits for the first of its writes; and for some time. */
static void until_frozen(struct pool_rig *rig)
{
    while (!rig->pool->checkpoint)
        rig_turn(rig->reactor);
    for (unsigned i = 0; i < 200; i++)
        rig_turn(rig->reactor);
    assert_non_null(rig->pool->checkpoint);
}

/* What a snapshot has that is being deleted is nobody else's before a cut cannot bring it back. */
static void a_snapshot_that_comes_back_is_as_it_was(void **state)
{
    static uint8_t data[8 * BLOCK];
    struct plx_pool_op op = {.kind = PLX_POOL_DELETE, .volume = "s"};
    bool done = false;
    struct pool_rig rig;
    struct tu t;
    (void)state;
    rig_simulate(true);
    rig_make(&rig, "error:crash:ram:8M", NULL);
    struct plx_bdev *crash = plx_bdev_below(rig.disk);
    plx_crash_choose(crash, keep_all, NULL);
    make_volume(&rig, &t);
    rig_do(&rig, PLX_POOL_SNAPSHOT, "a", "s", 0);
    rig_settle(&rig);
    assert_int_equal(plx_bdev_error_inject(rig.disk, &one_pending, NULL), 0);
    rig_begin(&rig, &op, &done);
    until_frozen(&rig);
    assert_int_equal(unit_io(&t, PLX_BDEV_WRITE, 0, 2, data), 0);
    assert_int_equal(unit_io(&t, PLX_BDEV_READ, 0, 0, data), 0);
    assert_int_equal(data[0], 2);
    rig_close(&rig, &t);
    plx_bdev_crash_cut(crash, NULL);
    assert_int_equal(plx_bdev_error_inject(rig.disk, &none_pending, NULL), 0);
    while (!done)
        rig_turn(rig.reactor);
    pool_close_on(rig.pool);
    rig.pool = NULL;
    rig_restore(&rig, crash);
    rig_pool(&rig);
    rig_open(&rig, "s", &t);
    assert_int_equal(unit_io(&t, PLX_BDEV_READ, 0, 0, data), 0);
    assert_int_equal(data[0], 1);
    rig_close(&rig, &t);
    rig_do(&rig, PLX_POOL_DELETE, "s", NULL, 0); /* and it can be deleted all the same */
    rig_settle(&rig);
    rig_open(&rig, "a", &t);
    const uint64_t used = rig.pool->used;
    assert_int_equal(unit_io(&t, PLX_BDEV_WRITE, 0, 3, data), 0);
    assert_int_equal(rig.pool->used, used); /* in place: it is the volume's own */
    rig_close(&rig, &t);
    rig_settle(&rig);
    rig_check(&rig);
    rig_end(&rig);
    rig_simulate(false);
}

/* What is not on the disk is not opened: its log would be of a volume that a cut has never seen. */
static void a_volume_is_not_opened_before_it_is_there_for_good(void **state)
{
    static const struct {
        enum plx_pool_op_kind kind;
        const char *volume, *name, *opened;
        uint64_t size;
    } cases[] = {{PLX_POOL_CREATE, NULL, "new", "new", SIZE},
                 {PLX_POOL_CLONE, "s", "new", "new", 0},
                 {PLX_POOL_SNAPSHOT, "a", "new", "new", 0},
                 {PLX_POOL_RESIZE, "a", NULL, "a", 2 * SIZE}};
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(cases); i++) {
        struct plx_pool_op op = {
            .kind = cases[i].kind, .volume = cases[i].volume, .name = cases[i].name, .size = cases[i].size};
        struct plx_error err;
        struct plx_bdev *bdev;
        bool done = false;
        struct pool_rig rig;
        struct tu t;
        (void)state;
        rig_simulate(true);
        rig_make(&rig, "error:ram:8M", NULL);
        rig_create(&rig, "a", SIZE);
        rig_do(&rig, PLX_POOL_SNAPSHOT, "a", "s", 0);
        rig_settle(&rig);
        assert_int_equal(plx_bdev_error_inject(rig.disk, &one_pending, NULL), 0);
        rig_begin(&rig, &op, &done);
        until_frozen(&rig);
        assert_false(done);
        assert_int_equal(pool_disk_new(rig.pool, cases[i].opened, &bdev, &err), -EBUSY);
        assert_int_equal(plx_bdev_error_inject(rig.disk, &none_pending, NULL), 0);
        while (!done)
            rig_turn(rig.reactor);
        assert_int_equal(op.result, 0);
        rig_open(&rig, cases[i].opened, &t);
        rig_close(&rig, &t);
        rig_end(&rig);
        rig_simulate(false);
    }
}

/* Of an operation that failed a snapshot may have a tree that no checkpoint has: a clone's would be without a CRC. */
static void a_clone_begins_with_a_tree_that_is_on_the_disk(void **state)
{
    static uint8_t data[8 * BLOCK];
    struct pool_rig rig;
    struct pool_node *leaf;
    struct tu t;
    (void)state;
    rig_simulate(true);
    rig_make(&rig, "ram:8M", NULL);
    make_volume(&rig, &t);
    rig_close(&rig, &t);
    rig_do(&rig, PLX_POOL_SNAPSHOT, "a", "s", 0);
    rig_do(&rig, PLX_POOL_DELETE, "a", NULL, 0); /* nobody else has that tree */
    rig_settle(&rig);
    struct plx_pool *p = rig.pool;
    struct pool_try try = {.ch = p->keeper_ch};
    pool_lock(p);
    assert_int_equal(pool_tree_change(p, &try, &pool_volume_find(p, "s")->tree, 0, 1, &leaf), 0);
    pool_unlock(p);
    rig_do(&rig, PLX_POOL_CLONE, "s", "c", 0);
    rig_reopen(&rig);
    rig_open(&rig, "c", &t);
    assert_int_equal(unit_io(&t, PLX_BDEV_READ, 0, 0, data), 0);
    assert_int_equal(data[0], 1);
    rig_close(&rig, &t);
    rig_settle(&rig);
    rig_check(&rig);
    rig_end(&rig);
    rig_simulate(false);
}

/* It waits for a part of the tree when its volume gets another name. */
static void a_volume_that_becomes_smaller_is_renamed(void **state)
{
    static uint8_t data[8 * BLOCK];
    struct plx_pool_op resize = {.kind = PLX_POOL_RESIZE, .volume = "a", .size = SIZE / 2};
    bool done = false;
    struct pool_rig rig;
    struct tu t;
    (void)state;
    rig_simulate(true);
    rig_make(&rig, "delay:[ram:8M]?read=10ms", NULL);
    rig_create(&rig, "a", SIZE);
    rig_open(&rig, "a", &t);
    assert_int_equal(unit_io(&t, PLX_BDEV_WRITE, SIZE / 4096 - 1, 1, data), 0);
    rig_close(&rig, &t);
    rig_reopen(&rig); /* its tree is not in memory */
    rig_begin(&rig, &resize, &done);
    while (!pool_volume_find(rig.pool, "a")->op)
        plx_reactor_poll(rig.reactor);
    assert_false(done);
    rig_do(&rig, PLX_POOL_RENAME, "a", "b", 0);
    while (!done)
        rig_turn(rig.reactor);
    assert_int_equal(resize.result, 0);
    rig_open(&rig, "b", &t);
    assert_int_equal(plx_bdev_blocks(t.bdev), SIZE / 2 / BLOCK);
    rig_close(&rig, &t);
    rig_end(&rig);
    rig_simulate(false);
}

/* A part of a unit is copied to where it is to be while what it is copied from becomes the volume's own. */
static void a_write_beside_one_that_copies_is_not_lost(void **state)
{
    static uint8_t data[8 * BLOCK], part[BLOCK], other[BLOCK];
    struct pool_rig rig;
    struct tu t;
    struct tu_req copies, beside;
    (void)state;
    rig_simulate(true);
    rig_make(&rig, "delay:[ram:8M]?read=10ms&write=10ms", NULL);
    make_volume(&rig, &t);
    rig_do(&rig, PLX_POOL_SNAPSHOT, "a", "s", 0);
    rig_settle(&rig);
    struct plx_pool *p = rig.pool;
    p->jobs_busy = true; /* what it has is not given up yet */
    rig_do(&rig, PLX_POOL_DELETE, "s", NULL, 0);
    memset(part, 2, sizeof part);
    memset(other, 3, sizeof other);
    tu_req_init(&copies);
    tu_start(&t, &copies, PLX_BDEV_WRITE, 0, 1, part);
    for (unsigned i = 0; i < 20; i++)
        plx_reactor_poll(rig.reactor);
    assert_false(copies.done);
    p->jobs_busy = false;
    pool_kick(p);
    for (unsigned i = 0; i < 200; i++)
        plx_reactor_poll(rig.reactor);
    assert_true(plx_list_empty(&p->dying)); /* it is now */
    assert_false(copies.done);
    tu_req_init(&beside);
    tu_start(&t, &beside, PLX_BDEV_WRITE, 1, 1, other);
    while (!copies.done || !beside.done)
        rig_turn(rig.reactor);
    assert_int_equal(copies.req->status | beside.req->status, 0);
    tu_req_free(&copies);
    tu_req_free(&beside);
    assert_int_equal(unit_io(&t, PLX_BDEV_READ, 0, 0, data), 0);
    assert_int_equal(data[0], 2);
    assert_int_equal(data[BLOCK], 3);
    assert_int_equal(data[2 * BLOCK], 1);
    const uint64_t used = p->used;
    rig_settle(&rig);
    assert_int_equal(pool_volume_find(p, "a")->moving, 0);
    assert_true(p->used <= used);
    rig_close(&rig, &t);
    rig_settle(&rig);
    rig_check(&rig);
    rig_end(&rig);
    rig_simulate(false);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_snapshot_never_changes),
        cmocka_unit_test(a_checkpoint_has_trees_of_those_who_wait_for_it),
        cmocka_unit_test(a_snapshot_that_comes_back_is_as_it_was),
        cmocka_unit_test(a_volume_is_not_opened_before_it_is_there_for_good),
        cmocka_unit_test(a_clone_begins_with_a_tree_that_is_on_the_disk),
        cmocka_unit_test(a_volume_that_becomes_smaller_is_renamed),
        cmocka_unit_test(a_write_beside_one_that_copies_is_not_lost),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
