/* SPDX-License-Identifier: BSD-3-Clause */
/* Volumes that are given another parent, or none: what they have afterwards, beside a model of who has what. */
#include "pool_rig.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { UNIT = 4096, LBAS = UNIT / 512, UNITS = 600 }; /* more than two nodes have */

static bool pick(void *arg, const struct plx_volume_info *info)
{
    struct plx_volume_info *out = arg;
    if (strcmp(info->name, out->name))
        return true;
    *out = *info;
    return false;
}

static struct plx_volume_info info_of(struct pool_rig *rig, const char *name)
{
    struct plx_volume_info info = {.mapped = UINT64_MAX};
    snprintf(info.name, sizeof info.name, "%s", name);
    plx_pool_each(rig->pool, pick, &info);
    assert_true(info.mapped != UINT64_MAX);
    return info;
}

static uint64_t free_of(struct pool_rig *rig)
{
    struct plx_pool_info info;
    rig_settle(rig);
    plx_pool_get_info(rig->pool, &info);
    return info.free;
}

/* Writes units that are full of a byte. */
static void fill(struct tu *t, uint64_t at, uint32_t n, uint8_t byte)
{
    uint8_t *data = malloc((size_t)n * UNIT);
    memset(data, byte, (size_t)n * UNIT);
    assert_int_equal(rig_io(t, PLX_BDEV_WRITE, at * LBAS, n * LBAS, data), 0);
    free(data);
}

static uint8_t byte_at(struct tu *t, uint64_t at)
{
    uint8_t data[UNIT];
    assert_int_equal(rig_io(t, PLX_BDEV_READ, at * LBAS, LBAS, data), 0);
    for (unsigned i = 1; i < UNIT; i++)
        assert_int_equal(data[i], data[0]);
    return data[0];
}

static void expect(struct pool_rig *rig, const char *name, const char *bytes)
{
    struct tu t;
    rig_open(rig, name, &t);
    for (unsigned i = 0; bytes[i]; i++)
        if (byte_at(&t, i * 100ULL) != bytes[i] - '0')
            fail_msg("%s: at %u is %u", name, i, byte_at(&t, i * 100ULL));
    rig_close(rig, &t);
}

/* A volume "v" with "11110" in it, then a snapshot "s1", 2 over the second, "s2", 3 over the third. */
static void make_chain(struct pool_rig *rig, const char *url)
{
    struct tu t;
    rig_make(rig, url, NULL);
    rig_create(rig, "v", UNITS * UNIT);
    rig_open(rig, "v", &t);
    fill(&t, 0, 400, 1);
    rig_do(rig, PLX_POOL_SNAPSHOT, "v", "s1", 0);
    fill(&t, 100, 100, 2);
    rig_do(rig, PLX_POOL_SNAPSHOT, "v", "s2", 0);
    fill(&t, 200, 100, 3);
    rig_close(rig, &t);
    expect(rig, "v", "12310");
}

static void decoupled_volumes_go_back_one_further(void **state)
{
    struct pool_rig rig;
    (void)state;
    make_chain(&rig, "ram:64M");
    const uint64_t room = free_of(&rig);
    rig_do(&rig, PLX_POOL_DECOUPLE, "v", NULL, 0);
    assert_string_equal(info_of(&rig, "v").parent, "s1");
    assert_int_equal(info_of(&rig, "s2").children, 0);
    assert_int_equal(info_of(&rig, "s1").children, 2);
    expect(&rig, "v", "12310");
    assert_in_range(room - free_of(&rig), 100 * UNIT, 110 * UNIT); /* what s2 has that s1 has not */
    rig_do(&rig, PLX_POOL_DELETE, "s2", NULL, 0);
    expect(&rig, "v", "12310");
    rig_do(&rig, PLX_POOL_DECOUPLE, "v", NULL, 0);
    struct plx_volume_info v = info_of(&rig, "v");
    assert_string_equal(v.parent, "");
    assert_false(v.thick);
    assert_int_equal(v.mapped, 400 * UNIT);
    rig_do(&rig, PLX_POOL_DELETE, "s1", NULL, 0);
    rig_settle(&rig);
    rig_check(&rig);
    expect(&rig, "v", "12310");
    assert_int_equal(rig_try(&rig, PLX_POOL_DECOUPLE, "v", NULL, 0), -EINVAL);
    rig_reopen(&rig);
    expect(&rig, "v", "12310");
    rig_do(&rig, PLX_POOL_DELETE, "v", NULL, 0);
    rig_settle(&rig);
    assert_int_equal(rig_check(&rig), 0);
    rig_end(&rig);
}

static void inflated_volumes_are_thick_and_alone(void **state)
{
    struct pool_rig rig;
    struct plx_pool_info info;
    (void)state;
    make_chain(&rig, "ram:64M");
    rig_do(&rig, PLX_POOL_INFLATE, "v", NULL, 0);
    rig_do(&rig, PLX_POOL_INFLATE, "v", NULL, 0);
    struct plx_volume_info v = info_of(&rig, "v");
    assert_true(v.thick && !v.parent[0]);
    plx_pool_get_info(rig.pool, &info);
    assert_int_equal(info.set_aside, (UNITS - 400) * UNIT);
    rig_do(&rig, PLX_POOL_DELETE, "s1", NULL, 0);
    rig_do(&rig, PLX_POOL_DELETE, "s2", NULL, 0);
    rig_settle(&rig);
    rig_check(&rig);
    rig_reopen(&rig);
    plx_pool_get_info(rig.pool, &info);
    assert_int_equal(info.set_aside, (UNITS - 400) * UNIT);
    expect(&rig, "v", "12310");
    rig_end(&rig);
}

/* Of a snapshot that others go back to they would have to have what it has. */
static void snapshots_without_children_can_be_inflated(void **state)
{
    struct pool_rig rig;
    (void)state;
    make_chain(&rig, "ram:64M");
    assert_int_equal(rig_try(&rig, PLX_POOL_INFLATE, "s2", NULL, 0), -EINVAL);
    rig_do(&rig, PLX_POOL_DELETE, "v", NULL, 0);
    rig_settle(&rig);
    rig_do(&rig, PLX_POOL_INFLATE, "s2", NULL, 0);
    rig_do(&rig, PLX_POOL_CLONE, "s2", "c", 0);
    rig_do(&rig, PLX_POOL_DELETE, "s1", NULL, 0);
    rig_settle(&rig);
    rig_check(&rig);
    rig_do(&rig, PLX_POOL_DELETE, "s2", NULL, 0);
    rig_settle(&rig);
    rig_check(&rig);
    expect(&rig, "c", "12110");
    rig_reopen(&rig);
    rig_do(&rig, PLX_POOL_DELETE, "c", NULL, 0);
    rig_settle(&rig);
    assert_int_equal(rig_check(&rig), 0);
    rig_end(&rig);
}

static void what_does_not_fit_is_not_begun(void **state)
{
    struct pool_rig rig;
    struct tu t;
    (void)state;
    make_chain(&rig, "ram:8M");
    rig.pool->full_wait_ns = 0;
    rig_create(&rig, "w", 16 << 20);
    rig_open(&rig, "w", &t);
    while (free_of(&rig) > 200 * UNIT)
        fill(&t, (4 << 10) - free_of(&rig) / UNIT, 8, 7);
    const uint64_t room = free_of(&rig);
    assert_int_equal(rig_try(&rig, PLX_POOL_INFLATE, "v", NULL, 0), -ENOSPC);
    assert_int_equal(free_of(&rig), room);
    assert_int_equal(rig_io(&t, PLX_BDEV_UNMAP, 0, 32768, NULL), 0);
    rig_close(&rig, &t);
    rig_settle(&rig);
    rig_do(&rig, PLX_POOL_INFLATE, "v", NULL, 0);
    expect(&rig, "v", "12310");
    rig_settle(&rig);
    rig_check(&rig);
    rig_end(&rig);
}

static void parents_are_set(void **state)
{
    struct pool_rig rig;
    struct tu t;
    (void)state;
    make_chain(&rig, "ram:64M");
    rig_create(&rig, "w", UNITS * UNIT);
    rig_open(&rig, "w", &t);
    fill(&t, 0, 600, 8);
    rig_do(&rig, PLX_POOL_SNAPSHOT, "w", "t", 0);
    rig_close(&rig, &t);
    rig_open(&rig, "v", &t);
    assert_int_equal(rig_io(&t, PLX_BDEV_UNMAP, 0, 100 * LBAS, NULL), 0);
    rig_do(&rig, PLX_POOL_SET_PARENT, "v", "t", 0); /* while it is open */
    assert_int_equal(byte_at(&t, 0), 0);            /* it was discarded: that is its own */
    assert_int_equal(byte_at(&t, 100), 8);
    assert_int_equal(byte_at(&t, 200), 3);
    fill(&t, 100, 1, 4);
    rig_close(&rig, &t);
    expect(&rig, "v", "043888");
    assert_string_equal(info_of(&rig, "v").parent, "t");
    assert_int_equal(info_of(&rig, "s2").children, 0);
    assert_int_equal(info_of(&rig, "t").children, 2);
    assert_int_equal(rig_try(&rig, PLX_POOL_SET_PARENT, "v", "t", 0), -EEXIST);
    assert_int_equal(rig_try(&rig, PLX_POOL_SET_PARENT, "v", "w", 0), -EINVAL);
    assert_int_equal(rig_try(&rig, PLX_POOL_SET_PARENT, "v", "x", 0), -ENOENT);
    rig_create(&rig, "small", 1 << 20);
    assert_int_equal(rig_try(&rig, PLX_POOL_SET_PARENT, "small", "t", 0), -EINVAL);
    assert_int_equal(rig_try(&rig, PLX_POOL_SET_PARENT, "w", NULL, 0), 0);
    expect(&rig, "w", "000000");
    assert_int_equal(rig_try(&rig, PLX_POOL_SET_PARENT, "w", NULL, 0), -EINVAL);
    rig_settle(&rig);
    rig_check(&rig);
    rig_reopen(&rig);
    expect(&rig, "v", "043888");
    expect(&rig, "t", "888888");
    expect(&rig, "s2", "121100");
    rig_do(&rig, PLX_POOL_DELETE, "t", NULL, 0);
    rig_settle(&rig);
    rig_check(&rig);
    expect(&rig, "v", "043888");
    rig_end(&rig);
}

/* While it goes on, what it is about stays, and what is written gets there. */
static void writes_and_deletes_meanwhile(void **state)
{
    struct pool_rig rig;
    struct tu t;
    struct tu_req q;
    bool done, del;
    uint8_t *data = tu_pattern(UNIT, 5), out[UNIT];
    (void)state;
    for (int kind = PLX_POOL_INFLATE; kind <= PLX_POOL_DECOUPLE; kind++) {
        /* What does not wait for the disk takes its turns with writes that do not, either. */
        make_chain(&rig, kind == PLX_POOL_SET_PARENT ? "ram:64M" : "delay:ram:64M?read=1ms&write=1ms");
        rig.pool->job_steps = 1;
        rig_do(&rig, PLX_POOL_DELETE, "v", NULL, 0);
        rig_do(&rig, PLX_POOL_CLONE, "s2", "v", 0);
        rig_do(&rig, PLX_POOL_CLONE, "s1", "u", 0);
        rig_open(&rig, "u", &t);
        fill(&t, 590, 10, 9);
        rig_do(&rig, PLX_POOL_SNAPSHOT, "u", "p", 0);
        rig_close(&rig, &t);
        rig_open(&rig, "v", &t);
        tu_req_init(&q);
        struct plx_pool_op op = {.kind = (enum plx_pool_op_kind)kind, .volume = "v", .name = "p"};
        struct plx_pool_op other = {.kind = PLX_POOL_DELETE, .volume = "s1"};
        rig_begin(&rig, &op, &done);
        unsigned i = 0;
        while (!done) {
            tu_start(&t, &q, i % 3 ? PLX_BDEV_WRITE : PLX_BDEV_UNMAP, i * 37 % UNITS * LBAS, LBAS, data);
            while (!q.done)
                rig_turn(rig.reactor);
            if (kind == PLX_POOL_SET_PARENT)
                rig_turn(rig.reactor);
            assert_int_equal(q.req->status, 0);
            if (i == 2 && kind == PLX_POOL_DECOUPLE) {
                rig_begin(&rig, &other, &del);
                while (!del)
                    rig_turn(rig.reactor);
                assert_int_equal(other.result, -EBUSY);
                assert_true(info_of(&rig, "v").busy);
                assert_int_equal(rig_try(&rig, PLX_POOL_SNAPSHOT, "v", "x", 0), -EBUSY);
            }
            for (unsigned k = 0; k <= i && k < UNITS; k++) { /* the last one that was written to each */
                if (k + UNITS <= i)
                    continue;
                assert_int_equal(rig_io(&t, PLX_BDEV_READ, k * 37 % UNITS * LBAS, LBAS, out), 0);
                if (k % 3)
                    assert_memory_equal(out, data, UNIT);
                else if (kind != PLX_POOL_SET_PARENT)
                    assert_true(tu_zeroed(out, UNIT));
            }
            i++;
        }
        assert_int_equal(op.result, 0);
        tu_req_free(&q);
        rig_close(&rig, &t);
        rig_settle(&rig);
        rig_check(&rig);
        rig_end(&rig);
    }
    free(data);
}

/* ---- a disk outside ---- */

/* Zeroes that stand for a whole node, or for the whole tree, hide what is there, whatever comes of them. */
static void what_is_discarded_hides_the_disk_outside(void **state)
{
    struct pool_rig rig;
    struct plx_error err;
    struct plx_bdev *outer;
    struct tu t;
    struct plx_pool_op op = {.kind = PLX_POOL_CREATE, .name = "v", .size = 256 * UNIT, .outer = "outer"};
    (void)state;
    if (plx_bdev_open_as("ram:4M", "outer", &outer, &err))
        fail_msg("%s", err.text);
    rig_make(&rig, "ram:64M", NULL);
    tu_join(&t, outer);
    fill(&t, 0, 1000, 5);
    tu_leave(&t);
    assert_int_equal(rig_run(&rig, &op), 0);
    rig_open(&rig, "v", &t);
    assert_int_equal(byte_at(&t, 255), 5);
    assert_int_equal(rig_io(&t, PLX_BDEV_UNMAP, 0, 256 * LBAS, NULL), 0); /* all of the tree */
    assert_int_equal(byte_at(&t, 255), 0);
    rig_do(&rig, PLX_POOL_RESIZE, "v", NULL, 1100 * UNIT);
    rig_close(&rig, &t);
    rig_reopen(&rig);
    rig_open(&rig, "v", &t);
    const uint8_t wanted[] = {0, 0, 0, 5, 5, 5, 5, 5, 5, 5, 0}; /* the disk outside ends there */
    for (unsigned i = 0; i < 11; i++)
        assert_int_equal(byte_at(&t, i * 100), wanted[i]);
    assert_int_equal(rig_io(&t, PLX_BDEV_UNMAP, 256 * LBAS, 512 * LBAS, NULL), 0); /* two whole nodes */
    rig_do(&rig, PLX_POOL_SNAPSHOT, "v", "s", 0);
    fill(&t, 300, 1, 7);
    fill(&t, 10, 1, 8);
    rig_close(&rig, &t);
    for (int lap = 0; lap < 2; lap++) {
        expect(&rig, "s", "00000000550");
        expect(&rig, "v", "00070000550");
        rig_open(&rig, "v", &t);
        assert_int_equal(byte_at(&t, 10), 8);
        for (unsigned i = 0; i < 768; i++)
            if (i != 10 && i != 300)
                assert_int_equal(byte_at(&t, i), 0);
        rig_close(&rig, &t);
        rig_settle(&rig);
        rig_check(&rig);
        rig_reopen(&rig);
    }
    rig_do(&rig, PLX_POOL_DELETE, "v", NULL, 0);
    rig_do(&rig, PLX_POOL_DELETE, "s", NULL, 0);
    rig_settle(&rig);
    assert_int_equal(rig_check(&rig), 0);
    rig_end(&rig);
    assert_int_equal(plx_bdev_close(outer), 0);
}

static int run_op(struct pool_rig *rig, const struct plx_pool_op *what)
{
    struct plx_pool_op op = *what;
    rig_run(rig, &op);
    return op.result;
}

/* A disk outside of so many units and a block, all of which are full of a byte. */
static struct plx_bdev *make_outer(const char *name, uint32_t units, uint8_t byte)
{
    struct plx_error err;
    struct plx_bdev *outer;
    char url[32];
    struct tu t;
    uint8_t *data = malloc((size_t)units * UNIT + 512);
    snprintf(url, sizeof url, "ram:%u", units * UNIT + 512);
    if (plx_bdev_open_as(url, name, &outer, &err))
        fail_msg("%s", err.text);
    tu_join(&t, outer);
    memset(data, byte, (size_t)units * UNIT + 512);
    assert_int_equal(rig_io(&t, PLX_BDEV_WRITE, 0, units * LBAS + 1, data), 0);
    tu_leave(&t);
    free(data);
    return outer;
}

/* A block more than whole units of it are a byte, and all else of that unit zeroes. */
static void expect_tail(struct tu *t, uint64_t at, uint8_t byte)
{
    uint8_t data[UNIT];
    assert_int_equal(rig_io(t, PLX_BDEV_READ, at * LBAS, LBAS, data), 0);
    for (unsigned i = 0; i < UNIT; i++)
        assert_int_equal(data[i], i < 512 ? byte : 0);
}

/* What shows through becomes its own, whatever has been written and discarded, and that disk can be closed. */
static void what_leaves_a_disk_outside_has_a_copy_of_it(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 8; i++) {
        const bool open = i & 1, inflate = i & 2, child = i & 4;
        struct plx_bdev *outer = make_outer("outer", 490, 5);
        struct pool_rig rig;
        struct tu t;
        rig_make(&rig, "ram:64M", NULL);
        const struct plx_pool_op make = {.kind = PLX_POOL_CREATE, .name = "v", .size = UNITS * UNIT, .outer = "outer"};
        assert_int_equal(run_op(&rig, &make), 0);
        rig_open(&rig, "v", &t);
        fill(&t, 100, 100, 2);
        assert_int_equal(rig_io(&t, PLX_BDEV_UNMAP, 256 * LBAS, 150 * LBAS, NULL), 0);
        if (child)
            rig_do(&rig, PLX_POOL_SNAPSHOT, "v", "s", 0);
        if (!open)
            rig_close(&rig, &t);
        const uint64_t room = free_of(&rig);
        if (child && !inflate) { /* what its snapshot has first */
            rig_do(&rig, PLX_POOL_DECOUPLE, "v", NULL, 0);
            assert_string_equal(info_of(&rig, "v").parent, "");
            assert_string_equal(info_of(&rig, "v").outer, "outer");
        }
        rig_do(&rig, inflate ? PLX_POOL_INFLATE : PLX_POOL_DECOUPLE, "v", NULL, 0);
        const struct plx_volume_info v = info_of(&rig, "v");
        assert_string_equal(v.outer, "");
        assert_int_equal(v.thick, inflate);
        assert_int_equal(v.mapped, (491 - 150) * UNIT);
        const uint64_t taken = (inflate ? UNITS : 491 - 150) * UNIT - (child ? 0 : 100 * UNIT);
        assert_in_range(room - free_of(&rig), taken, taken + 10 * UNIT);
        if (child)
            rig_do(&rig, PLX_POOL_DELETE, "s", NULL, 0);
        if (!open)
            rig_open(&rig, "v", &t);
        assert_int_equal(plx_bdev_close(outer), 0);
        for (int lap = 0; lap < 2; lap++) {
            assert_int_equal(byte_at(&t, 255), 5);
            assert_int_equal(byte_at(&t, 256), 0);
            assert_int_equal(byte_at(&t, 489), 5);
            expect_tail(&t, 490, 5);
            assert_int_equal(byte_at(&t, 491), 0);
            rig_close(&rig, &t);
            expect(&rig, "v", "525000");
            rig_settle(&rig);
            rig_check(&rig);
            rig_check_outside(&rig);
            rig_reopen(&rig);
            rig_open(&rig, "v", &t);
        }
        rig_close(&rig, &t);
        rig_do(&rig, PLX_POOL_DELETE, "v", NULL, 0);
        rig_settle(&rig);
        assert_int_equal(rig_check(&rig), 0);
        rig_end(&rig);
    }
}

/* Reads and writes of parts go on, and what comes of them is the volume's. */
static void inflated_off_a_disk_outside_under_writes(void **state)
{
    struct plx_bdev *outer = make_outer("outer", 600, 5);
    uint8_t *data = tu_pattern(512, 7), out[UNIT];
    struct pool_rig rig;
    struct tu t;
    struct tu_req q;
    bool done;
    unsigned i = 0;
    (void)state;
    rig_make(&rig, "delay:ram:64M?read=1ms&write=1ms", NULL);
    const struct plx_pool_op make = {.kind = PLX_POOL_CREATE, .name = "v", .size = UNITS * UNIT, .outer = "outer"};
    assert_int_equal(run_op(&rig, &make), 0);
    rig_open(&rig, "v", &t);
    tu_req_init(&q);
    struct plx_pool_op op = {.kind = PLX_POOL_INFLATE, .volume = "v"};
    rig_begin(&rig, &op, &done);
    for (; !done && i < UNITS; i++) {
        tu_start(&t, &q, PLX_BDEV_WRITE, i * 37ULL % UNITS * LBAS + 3, 1, data);
        while (!q.done)
            rig_turn(rig.reactor);
        assert_int_equal(q.req->status, 0);
    }
    while (!done)
        rig_turn(rig.reactor);
    assert_int_equal(op.result, 0);
    assert_true(i > 3);
    tu_req_free(&q);
    assert_int_equal(plx_bdev_close(outer), 0);
    for (unsigned k = 0; k < UNITS; k++) {
        assert_int_equal(rig_io(&t, PLX_BDEV_READ, k * 37ULL % UNITS * LBAS, LBAS, out), 0);
        for (unsigned b = 0; b < UNIT; b++)
            assert_int_equal(out[b], k < i && b / 512 == 3 ? data[b - 3 * 512] : 5);
    }
    rig_close(&rig, &t);
    rig_settle(&rig);
    rig_check(&rig);
    rig_end(&rig);
    free(data);
}

/* From anything to a disk outside, and from there to another one, to snapshots, and to nothing, while it is in use. */
static void disks_outside_are_set(void **state)
{
    struct plx_bdev *one = make_outer("one", 490, 5), *two = make_outer("two", 290, 6);
    struct pool_rig rig;
    struct tu t;
    (void)state;
    make_chain(&rig, "ram:64M");
    rig_open(&rig, "v", &t);
    assert_int_equal(rig_io(&t, PLX_BDEV_UNMAP, 0, 100 * LBAS, NULL), 0); /* which is its own */
    struct plx_pool_op set = {.kind = PLX_POOL_SET_OUTER, .volume = "v", .outer = "none"};
    assert_int_equal(run_op(&rig, &set), -ENODEV);
    set.outer = "one";
    assert_int_equal(run_op(&rig, &set), 0);
    assert_int_equal(run_op(&rig, &set), -EEXIST);
    assert_string_equal(info_of(&rig, "v").outer, "one");
    assert_string_equal(info_of(&rig, "v").parent, "");
    assert_int_equal(plx_bdev_close(one), -EBUSY);
    static const uint8_t with_one[] = {0, 5, 3, 5, 5, 0};
    for (unsigned i = 0; i < 6; i++)
        assert_int_equal(byte_at(&t, i * 100ULL), with_one[i]);
    expect_tail(&t, 490, 5);
    rig_do(&rig, PLX_POOL_SNAPSHOT, "v", "w", 0);
    fill(&t, 150, 1, 9);
    assert_int_equal(rig_io(&t, PLX_BDEV_UNMAP, 160 * LBAS, LBAS, NULL), 0);
    set.outer = "two";
    assert_int_equal(run_op(&rig, &set), 0);
    assert_int_equal(byte_at(&t, 0), 6); /* what was its snapshot's is not its own */
    assert_int_equal(byte_at(&t, 150), 9);
    assert_int_equal(byte_at(&t, 160), 0);
    assert_int_equal(byte_at(&t, 200), 6);
    rig_close(&rig, &t);
    expect(&rig, "v", "666000");
    expect(&rig, "w", "053550");
    rig_settle(&rig);
    rig_check(&rig);
    rig_check_outside(&rig);
    rig_reopen(&rig);
    rig_open(&rig, "v", &t);
    assert_int_equal(byte_at(&t, 160), 0);
    rig_do(&rig, PLX_POOL_SET_PARENT, "v", "w", 0); /* and to that one's disk */
    assert_int_equal(byte_at(&t, 150), 9);
    assert_int_equal(byte_at(&t, 160), 0);
    assert_int_equal(byte_at(&t, 161), 5);
    assert_int_equal(plx_bdev_close(two), 0);
    rig_do(&rig, PLX_POOL_SET_PARENT, "v", "s1", 0);
    assert_int_equal(byte_at(&t, 160), 0);
    assert_int_equal(byte_at(&t, 161), 1);
    assert_int_equal(plx_bdev_close(one), 0);
    rig_close(&rig, &t);
    rig_do(&rig, PLX_POOL_INFLATE, "v", NULL, 0);
    set.outer = "one";
    assert_int_equal(run_op(&rig, &set), -EINVAL); /* it is thick */
    rig_settle(&rig);
    rig_check(&rig);
    rig_check_outside(&rig);
    rig_end(&rig);
}

/* ---- by chance, beside a model ---- */

enum { VOLUMES = 7, SMALL = 300 };

struct vol {
    char name[16];
    bool there, snapshot, thick;
    int parent; /* index, or -1 */
    uint8_t byte[SMALL];
    bool own[SMALL]; /* it has it, or has not what its parent has */
};

struct family {
    struct pool_rig rig;
    struct vol v[VOLUMES];
    uint64_t seed;
    unsigned names, done;
};

static struct vol *any(struct family *f, bool there)
{
    for (int i = 0; i < 30; i++) {
        struct vol *v = &f->v[tu_random(&f->seed) % VOLUMES];
        if (v->there == there)
            return v;
    }
    return NULL;
}

static bool is_parent(const struct family *f, const struct vol *s)
{
    bool found = false;
    for (int i = 0; i < VOLUMES; i++)
        found |= f->v[i].there && f->v[i].parent == s - f->v;
    return found;
}

static void give_to_children(struct family *f, struct vol *s)
{
    for (int i = 0; i < VOLUMES; i++) {
        struct vol *v = &f->v[i];
        if (!v->there || v->parent != s - f->v)
            continue;
        for (int k = 0; k < SMALL; k++)
            v->own[k] |= s->own[k];
        v->parent = s->parent;
    }
}

/* What it has not is its own where its parent has it. */
static void own_of_what_is_not(struct family *f)
{
    for (int i = 0; i < VOLUMES; i++) {
        struct vol *v = &f->v[i];
        const struct vol *s = v->parent < 0 ? NULL : &f->v[v->parent];
        for (int k = 0; k < SMALL && v->there; k++)
            v->own[k] = v->byte[k] ? v->own[k] || !s : s && s->byte[k];
    }
}

static void family_make(struct family *f, struct vol *of)
{
    struct vol *v = any(f, false);
    if (!v)
        return;
    memset(v, 0, sizeof *v);
    v->there = true;
    v->parent = -1;
    snprintf(v->name, sizeof v->name, "n%u", f->names++);
    if (!of) {
        rig_create(&f->rig, v->name, SMALL * UNIT);
        return;
    }
    memcpy(v->byte, of->byte, sizeof v->byte);
    if (of->snapshot) {
        v->parent = (int)(of - f->v);
    } else {
        v->snapshot = true;
        v->parent = of->parent;
        memcpy(v->own, of->own, sizeof v->own);
        memset(of->own, 0, sizeof of->own);
        of->parent = (int)(v - f->v);
        of->thick = false;
    }
    rig_do(&f->rig, of->snapshot ? PLX_POOL_CLONE : PLX_POOL_SNAPSHOT, of->name, v->name, 0);
}

static void family_write(struct family *f, struct vol *v)
{
    struct tu t;
    rig_open(&f->rig, v->name, &t);
    for (int i = 0; i < 12; i++) {
        const uint32_t at = tu_random(&f->seed) % SMALL, n = 1 + tu_random(&f->seed) % 30;
        const uint32_t most = at + n > SMALL ? SMALL - at : n;
        const bool discard = tu_random(&f->seed) % 3 == 0;
        const uint8_t byte = discard ? 0 : (uint8_t)(1 + tu_random(&f->seed) % 255);
        if (discard)
            assert_int_equal(rig_io(&t, PLX_BDEV_UNMAP, at * LBAS, most * LBAS, NULL), 0);
        else
            fill(&t, at, most, byte);
        const struct vol *s = v->parent < 0 ? NULL : &f->v[v->parent];
        memset(v->byte + at, byte, most);
        for (uint32_t k = at; k < at + most; k++)
            v->own[k] = byte || (s && s->byte[k]);
    }
    rig_close(&f->rig, &t);
}

static void family_change(struct family *f, struct vol *v)
{
    const uint32_t dice = tu_random(&f->seed) % 4;
    const bool held = v->snapshot && is_parent(f, v);
    struct vol *s = v->parent < 0 ? NULL : &f->v[v->parent], *to = any(f, true);
    int ret, want = held ? -EINVAL : 0;
    if (dice == 0) {
        ret = rig_try(&f->rig, PLX_POOL_INFLATE, v->name, NULL, 0);
        if (!want) {
            v->parent = -1;
            v->thick = !v->snapshot;
        }
    } else if (dice == 1) {
        ret = rig_try(&f->rig, PLX_POOL_DECOUPLE, v->name, NULL, 0);
        want = s ? want : -EINVAL;
        for (int k = 0; k < SMALL && !want; k++)
            v->own[k] |= s->own[k];
        if (!want)
            v->parent = s->parent;
    } else {
        to = dice == 2 ? NULL : to;
        ret = rig_try(&f->rig, PLX_POOL_SET_PARENT, v->name, to ? to->name : NULL, 0);
        if (!want)
            want = v->thick || (!to && !s) || (to && (!to->snapshot || to == v)) ? -EINVAL : to == s ? -EEXIST : 0;
        for (int k = 0; k < SMALL && !want; k++)
            v->byte[k] = v->own[k] ? v->byte[k] : to ? to->byte[k] : 0;
        if (!want)
            v->parent = to ? (int)(to - f->v) : -1;
    }
    if (ret != want)
        fail_msg("%s: change %u is %d, and not %d", v->name, dice, ret, want);
    f->done += !ret;
    own_of_what_is_not(f);
}

static void family_check(struct family *f, struct vol *v)
{
    struct tu t;
    uint8_t *out = malloc(SMALL * UNIT);
    rig_open(&f->rig, v->name, &t);
    assert_int_equal(rig_io(&t, PLX_BDEV_READ, 0, SMALL * LBAS, out), 0);
    for (int k = 0; k < SMALL * UNIT; k++)
        if (out[k] != v->byte[k / UNIT])
            fail_msg("seed %llu: %s: unit %d is %u, and not %u", (unsigned long long)f->seed, v->name, k / UNIT, out[k],
                     v->byte[k / UNIT]);
    const struct plx_volume_info info = info_of(&f->rig, v->name);
    assert_string_equal(info.parent, v->parent < 0 ? "" : f->v[v->parent].name);
    assert_int_equal(info.thick, v->thick);
    rig_close(&f->rig, &t);
    free(out);
}

static void family_step(struct family *f)
{
    struct vol *v = any(f, true);
    f->rig.pool->job_steps = tu_random(&f->seed) % 2 ? 64 : 1;
    switch (v ? tu_random(&f->seed) % 12 : 0) {
    case 0:
        family_make(f, NULL);
        break;
    case 1:
    case 2:
    case 3:
        family_make(f, v);
        break;
    case 4:
        rig_do(&f->rig, PLX_POOL_DELETE, v->name, NULL, 0);
        give_to_children(f, v);
        v->there = false;
        own_of_what_is_not(f);
        break;
    case 5:
    case 6:
    case 7:
    case 8:
        family_change(f, v);
        break;
    case 9:
        family_check(f, v);
        if (tu_random(&f->seed) % 4 == 0)
            rig_reopen(&f->rig);
        break;
    default:
        if (!v->snapshot)
            family_write(f, v);
        break;
    }
}

static void families_are_as_the_model_has_them(void **state)
{
    const char *seed = getenv("POLLUX_SEED"), *rounds = getenv("POLLUX_ROUNDS");
    static struct family f;
    unsigned done = 0;
    (void)state;
    const int lives = rounds ? (int)strtol(rounds, NULL, 10) : 25;
    for (int i = 0; i < lives; i++) {
        memset(&f, 0, sizeof f);
        f.seed = (seed ? strtoull(seed, NULL, 10) : 1) + (unsigned)i;
        rig_make(&f.rig, "ram:32M", NULL);
        for (int k = 0; k < 150; k++)
            family_step(&f);
        rig_settle(&f.rig);
        rig_check(&f.rig);
        rig_reopen(&f.rig);
        for (int k = 0; k < VOLUMES; k++)
            if (f.v[k].there)
                family_check(&f, &f.v[k]);
        for (int k = 0; k < VOLUMES; k++)
            if (f.v[k].there)
                rig_do(&f.rig, PLX_POOL_DELETE, f.v[k].name, NULL, 0);
        rig_settle(&f.rig);
        assert_int_equal(rig_check(&f.rig), 0);
        rig_end(&f.rig);
        done += f.done;
    }
    print_message("%u changes\n", done);
    assert_true(done > 4 * (unsigned)lives || lives < 5);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decoupled_volumes_go_back_one_further),
        cmocka_unit_test(inflated_volumes_are_thick_and_alone),
        cmocka_unit_test(snapshots_without_children_can_be_inflated),
        cmocka_unit_test(what_does_not_fit_is_not_begun),
        cmocka_unit_test(parents_are_set),
        cmocka_unit_test(writes_and_deletes_meanwhile),
        cmocka_unit_test(what_is_discarded_hides_the_disk_outside),
        cmocka_unit_test(what_leaves_a_disk_outside_has_a_copy_of_it),
        cmocka_unit_test(inflated_off_a_disk_outside_under_writes),
        cmocka_unit_test(disks_outside_are_set),
        cmocka_unit_test(families_are_as_the_model_has_them),
    };
    rig_simulate(true);
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rig_checksums(true);
    return failed + cmocka_run_group_tests_name("with checksums", tests, NULL, NULL);
}
