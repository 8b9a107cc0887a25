/* SPDX-License-Identifier: BSD-3-Clause */
/* Operations that meet: whatever is begun before another one is over, it comes to the same as one after the other. */
#include "pool_rig.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bdev/driver.h"

enum { UNIT = 4096, LBAS = UNIT / 512, UNITS = 600, LARGEST = 2304, SAMPLE = 20, MOST = 16 };

static void fill(struct tu *t, uint64_t at, uint32_t n, uint8_t byte)
{
    uint8_t *data = malloc((size_t)n * UNIT);
    memset(data, byte, (size_t)n * UNIT);
    assert_int_equal(tu_io(t, PLX_BDEV_WRITE, at * LBAS, n * LBAS, data), 0);
    free(data);
}

/* "v" goes back to "s2", and that to "s1"; "w" is thick, and "t" a snapshot of neither. */
static void make_pool(struct pool_rig *rig)
{
    struct tu t;
    rig_make(rig, "ram:24M", NULL);
    rig_create(rig, "v", UNITS * UNIT);
    rig_open(rig, "v", &t);
    fill(&t, 0, 400, 1);
    rig_do(rig, PLX_POOL_SNAPSHOT, "v", "s1", 0);
    fill(&t, 100, 100, 2);
    rig_do(rig, PLX_POOL_SNAPSHOT, "v", "s2", 0);
    fill(&t, 200, 350, 3);
    rig_close(rig, &t);
    struct plx_pool_op thick = {.kind = PLX_POOL_CREATE, .name = "w", .size = UNITS * UNIT, .thick = true};
    assert_int_equal(rig_run(rig, &thick), 0);
    rig_open(rig, "w", &t);
    fill(&t, 0, 50, 4);
    rig_close(rig, &t);
    rig_create(rig, "t", UNITS * UNIT);
    rig_open(rig, "t", &t);
    fill(&t, 50, 500, 5);
    rig_close(rig, &t);
    rig_do(rig, PLX_POOL_FREEZE, "t", NULL, 0);
}

/* ---- what there is ---- */

struct seen {
    struct plx_volume_info info;
    uint8_t byte[LARGEST / SAMPLE + 1];
};

struct state {
    struct seen v[MOST];
    unsigned n;
};

static bool see(void *arg, const struct plx_volume_info *info)
{
    struct state *s = arg;
    assert_true(s->n < MOST);
    s->v[s->n++].info = *info;
    return true;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct seen *)a)->info.name, ((const struct seen *)b)->info.name);
}

static void look(struct pool_rig *rig, struct state *s)
{
    memset(s, 0, sizeof *s);
    plx_pool_each(rig->pool, see, s);
    qsort(s->v, s->n, sizeof s->v[0], by_name);
    for (unsigned i = 0; i < s->n; i++) {
        struct tu t;
        uint8_t data[UNIT];
        assert_true(s->v[i].info.size / UNIT <= LARGEST);
        rig_open(rig, s->v[i].info.name, &t);
        for (uint64_t k = 0; k < s->v[i].info.size / UNIT; k += SAMPLE) {
            assert_int_equal(tu_io(&t, PLX_BDEV_READ, k * LBAS, LBAS, data), 0);
            s->v[i].byte[k / SAMPLE] = data[0];
        }
        rig_close(rig, &t);
    }
}

static bool same(const struct state *a, const struct state *b)
{
    bool ok = a->n == b->n;
    for (unsigned i = 0; ok && i < a->n; i++) {
        const struct seen *x = &a->v[i], *y = &b->v[i];
        ok = !by_name(x, y) && !strcmp(x->info.parent, y->info.parent) && x->info.size == y->info.size &&
             x->info.mapped == y->info.mapped && x->info.thick == y->info.thick &&
             x->info.snapshot == y->info.snapshot && !memcmp(x->byte, y->byte, sizeof x->byte);
    }
    return ok;
}

/* ---- every two ---- */

static const struct plx_pool_op ops[] = {
    {.kind = PLX_POOL_SNAPSHOT, .volume = "v", .name = "x"},
    {.kind = PLX_POOL_SNAPSHOT, .volume = "w", .name = "y"},
    {.kind = PLX_POOL_CLONE, .volume = "s2", .name = "c"},
    {.kind = PLX_POOL_CREATE, .name = "z", .size = LARGEST * UNIT, .thick = true},
    {.kind = PLX_POOL_DELETE, .volume = "v"},
    {.kind = PLX_POOL_DELETE, .volume = "w"},
    {.kind = PLX_POOL_DELETE, .volume = "s1"},
    {.kind = PLX_POOL_DELETE, .volume = "s2"},
    {.kind = PLX_POOL_DELETE, .volume = "t"},
    {.kind = PLX_POOL_RENAME, .volume = "v", .name = "r"},
    {.kind = PLX_POOL_RESIZE, .volume = "v", .size = 700 * UNIT},
    {.kind = PLX_POOL_RESIZE, .volume = "v", .size = 250 * UNIT},
    {.kind = PLX_POOL_RESIZE, .volume = "w", .size = 900 * UNIT},
    {.kind = PLX_POOL_RESIZE, .volume = "w", .size = 30 * UNIT},
    {.kind = PLX_POOL_REVERT, .volume = "v", .name = "s2"},
    {.kind = PLX_POOL_REVERT, .volume = "v", .name = "s1"},
    {.kind = PLX_POOL_FREEZE, .volume = "v"},
    {.kind = PLX_POOL_FREEZE, .volume = "w"},
    {.kind = PLX_POOL_INFLATE, .volume = "v"},
    {.kind = PLX_POOL_INFLATE, .volume = "w"},
    {.kind = PLX_POOL_DECOUPLE, .volume = "v"},
    {.kind = PLX_POOL_SET_PARENT, .volume = "v"},
    {.kind = PLX_POOL_SET_PARENT, .volume = "v", .name = "t"},
    {.kind = PLX_POOL_SET_PARENT, .volume = "v", .name = "s1"},
};

static int run_one(struct pool_rig *rig, const struct plx_pool_op *what)
{
    struct plx_pool_op op = *what;
    rig_run(rig, &op);
    return op.result;
}

/* One after the other, or the first alone; with the results. */
static void run_in_turn(const struct plx_pool_op *a, const struct plx_pool_op *b, struct state *out, int result[2])
{
    struct pool_rig rig;
    make_pool(&rig);
    result[0] = run_one(&rig, a);
    if (b)
        result[1] = run_one(&rig, b);
    rig_settle(&rig);
    look(&rig, out);
    rig_end(&rig);
}

/* The second is begun so many rounds after the first. */
static void run_both(const struct plx_pool_op *a, const struct plx_pool_op *b, unsigned rounds, struct state *out,
                     int result[2])
{
    struct pool_rig rig;
    struct plx_pool_op first = *a, second = *b;
    struct state again;
    bool done[2];
    make_pool(&rig);
    rig.pool->job_steps = 1;
    rig_begin(&rig, &first, &done[0]);
    while (rounds--)
        rig_turn(rig.reactor);
    rig_begin(&rig, &second, &done[1]);
    while (!done[0] || !done[1])
        rig_turn(rig.reactor);
    result[0] = first.result;
    result[1] = second.result;
    rig_settle(&rig);
    rig_check(&rig);
    rig_check_outside(&rig);
    look(&rig, out);
    rig_reopen(&rig);
    look(&rig, &again);
    assert_true(same(out, &again));
    rig_end(&rig);
}

static void check_two(unsigned i, unsigned k)
{
    static struct state both, turns;
    int got[2], want[2];
    for (unsigned rounds = 0; rounds < 4; rounds += 1 + rounds) {
        run_both(&ops[i], &ops[k], rounds, &both, got);
        run_in_turn(&ops[i], got[1] == -EBUSY ? NULL : &ops[k], &turns, want);
        if (got[0] != want[0] || (got[1] != -EBUSY && got[1] != want[1]))
            fail_msg("%u and, %u rounds later, %u: %d and %d, and not %d and %d", i, rounds, k, got[0], got[1], want[0],
                     want[1]);
        if (!same(&both, &turns))
            fail_msg("%u and, %u rounds later, %u: that is not as one after the other", i, rounds, k);
    }
}

static void every_two_operations_are_as_one_after_the_other(void **state)
{
    (void)state;
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(ops); i++)
        for (unsigned k = 0; k < PLX_ARRAY_SIZE(ops); k++)
            check_two(i, k);
}

/* ---- what takes long ---- */

/* What it will go back to is deleted by what was begun before it. */
static void what_will_be_the_parent_may_be_on_its_way_out(void **state)
{
    struct pool_rig rig;
    struct state now;
    bool done[2];
    (void)state;
    make_pool(&rig);
    struct plx_pool_op del = {.kind = PLX_POOL_DELETE, .volume = "s1"};
    struct plx_pool_op own = {.kind = PLX_POOL_DECOUPLE, .volume = "v"};
    rig.pool->job_steps = 1;
    rig_begin(&rig, &del, &done[0]);
    rig_begin(&rig, &own, &done[1]);
    while (!done[0] || !done[1])
        rig_turn(rig.reactor);
    assert_int_equal(del.result, 0);
    assert_int_equal(own.result, 0);
    rig_settle(&rig);
    rig_check(&rig);
    look(&rig, &now);
    for (unsigned i = 0; i < now.n; i++)
        assert_string_equal(now.v[i].info.parent, "");
    rig_end(&rig);
}

/* ---- the way back ---- */

/* FROM is the snapshot that is seen, whatever was deleted in between. */
static void reverted_to_the_snapshot_that_is_seen(void **state)
{
    struct pool_rig rig;
    struct state now;
    (void)state;
    for (int ghost = 0; ghost < 2; ghost++) {
        make_pool(&rig);
        rig.pool->job_steps = 1;
        if (ghost)
            rig_do(&rig, PLX_POOL_CLONE, "s2", "c", 0);
        rig_do(&rig, PLX_POOL_DELETE, "s2", NULL, 0);
        rig_do(&rig, PLX_POOL_REVERT, "v", "s1", 0);
        for (int lap = 0; lap < 2; lap++) {
            rig_settle(&rig);
            rig_check(&rig);
            rig_check_outside(&rig);
            look(&rig, &now);
            const struct seen *v = &now.v[now.n - 2];
            assert_string_equal(v->info.name, "v");
            assert_string_equal(v->info.parent, "s1");
            for (unsigned i = 0; i < UNITS / SAMPLE; i++)
                assert_int_equal(v->byte[i], i < 400 / SAMPLE);
            if (ghost)
                assert_int_equal(now.v[0].byte[150 / SAMPLE], 2);
            rig_reopen(&rig);
        }
        rig_end(&rig);
    }
}

/* ---- room ---- */

/* What one was promised the other does not get. */
static void thick_volumes_that_grow_at_once(void **state)
{
    struct pool_rig rig;
    struct plx_pool_info info;
    bool done[2];
    (void)state;
    rig_make(&rig, "ram:24M", NULL);
    plx_pool_get_info(rig.pool, &info);
    const uint64_t most = info.free / 4 * 3 / UNIT * UNIT;
    static const char *const names[] = {"a", "b"};
    struct plx_pool_op grow[2];
    for (int i = 0; i < 2; i++) {
        const struct plx_pool_op make = {.kind = PLX_POOL_CREATE, .name = names[i], .size = UNIT, .thick = true};
        assert_int_equal(run_one(&rig, &make), 0);
        grow[i] = (struct plx_pool_op){.kind = PLX_POOL_RESIZE, .volume = names[i], .size = most};
    }
    for (int i = 0; i < 2; i++)
        rig_begin(&rig, &grow[i], &done[i]);
    while (!done[0] || !done[1])
        rig_turn(rig.reactor);
    assert_int_equal(grow[0].result, 0);
    assert_int_equal(grow[1].result, -ENOSPC);
    plx_pool_get_info(rig.pool, &info);
    assert_int_equal(info.set_aside, most + UNIT);
    rig_reopen(&rig);
    plx_pool_get_info(rig.pool, &info);
    assert_int_equal(info.set_aside, most + UNIT);
    rig_end(&rig);
}

/* ---- the disk outside ---- */

static void *close_it(void *arg)
{
    struct plx_bdev *bdev = arg;
    bdev->ops->close(bdev);
    return NULL;
}

struct closing {
    struct plx_pool *pool;
    struct pool_volume *v;
    struct plx_bdev *bdev;
    pthread_t thread;
    bool open;
};

/* While this goes on no disk is let go: nor has the volume been, which could be deleted then. */
static bool close_meanwhile(void *arg, struct plx_bdev *bdev)
{
    struct closing *c = arg;
    const struct timespec ms = {0, 1000 * 1000};
    (void)bdev;
    assert_int_equal(pthread_create(&c->thread, NULL, close_it, c->bdev), 0);
    c->open = true;
    for (int i = 0; i < 30 && c->open; i++) {
        nanosleep(&ms, NULL);
        pool_lock(c->pool);
        c->open = pool_disk_of(c->v) != NULL;
        pool_unlock(c->pool);
    }
    return false;
}

static void a_disk_outside_is_let_go_before_the_volume(void **state)
{
    struct pool_rig rig;
    struct plx_error err;
    struct plx_bdev *outer;
    const struct plx_pool_op make = {.kind = PLX_POOL_CREATE, .name = "v", .size = UNIT, .outer = "outer"};
    (void)state;
    if (plx_bdev_open_as("ram:4M", "outer", &outer, &err))
        fail_msg("%s", err.text);
    rig_make(&rig, "ram:24M", NULL);
    assert_int_equal(run_one(&rig, &make), 0);
    struct closing c = {.pool = rig.pool};
    if (pool_disk_new(rig.pool, "v", &c.bdev, &err))
        fail_msg("%s", err.text);
    rig.pool->refs++;
    c.v = pool_volume_of(c.bdev);
    assert_int_equal(plx_bdev_close(outer), -EBUSY);
    plx_bdev_each(close_meanwhile, &c);
    assert_true(c.open);
    pthread_join(c.thread, NULL);
    assert_int_equal(plx_bdev_close(outer), 0);
    rig_end(&rig);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_two_operations_are_as_one_after_the_other),
        cmocka_unit_test(what_will_be_the_parent_may_be_on_its_way_out),
        cmocka_unit_test(reverted_to_the_snapshot_that_is_seen),
        cmocka_unit_test(thick_volumes_that_grow_at_once),
        cmocka_unit_test(a_disk_outside_is_let_go_before_the_volume),
    };
    rig_simulate(true);
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
