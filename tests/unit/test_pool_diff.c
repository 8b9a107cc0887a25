/* SPDX-License-Identifier: BSD-3-Clause */
/* What is different between two snapshots: all of it, and nothing else. */
#include "pool_rig.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { UNIT = 4096, BLOCKS_A_UNIT = 8, UNITS = 3000, SNAPSHOTS = 6, HIGH = 70000 };

/* What each unit of a volume was written as, and of each snapshot; 0: nothing; OUTER: what a disk outside has. */
#define OUTER UINT32_MAX
struct known {
    uint32_t unit[HIGH];
    uint64_t size;
};

static void diff_done(struct plx_pool_diff *d)
{
    *(bool *)d->arg = true;
}

/* All of it, in pieces of `room` extents. @return how many there are */
static unsigned run_diff(struct pool_rig *rig, const char *from, bool own, const char *to, uint32_t room,
                         struct plx_pool_extent *out, unsigned most)
{
    struct plx_pool_diff d = {
        .from = from, .own = own, .to = to, .room = room, .reactor = rig->reactor, .done = diff_done};
    unsigned n = 0;
    do {
        bool done = false;
        d.arg = &done;
        d.extents = out + n;
        assert_true(n + room <= most);
        plx_pool_diff_submit(rig->pool, &d);
        while (!done)
            rig_turn(rig->reactor);
        if (d.result)
            fail_msg("%s", d.err.text);
        n += d.n;
        assert_true(d.n || d.offset == d.size);
    } while (d.offset < d.size);
    return n;
}

static void expect_diff(struct pool_rig *rig, const char *from, const struct known *a, const char *to,
                        const struct known *b, uint32_t room)
{
    static struct plx_pool_extent out[2 * HIGH];
    const unsigned n = run_diff(rig, from, a && !from, to, room, out, 2 * HIGH);
    unsigned at = 0;
    for (uint64_t i = 0; i < b->size; i++) {
        const uint32_t was = a && i < a->size ? a->unit[i] : 0;
        while (at < n && out[at].offset + out[at].length <= i * UNIT)
            at++;
        const bool in = at < n && out[at].offset <= i * UNIT;
        if (in != (was != b->unit[i]))
            fail_msg("%s to %s: unit %llu is %s", from ? from : "nothing", to, (unsigned long long)i,
                     in ? "the same" : "different");
        if (in)
            assert_int_equal(out[at].data, b->unit[i] != 0);
        if (in)
            assert_int_equal(out[at].outer, b->unit[i] == OUTER);
    }
    for (unsigned i = 1; i < n; i++)
        assert_true(out[i].offset >= out[i - 1].offset + out[i - 1].length);
}

static void change(struct known *k, struct tu *t, uint64_t *seed, uint32_t *serial, const uint8_t *data)
{
    const uint64_t n = 1 + tu_random(seed) % 20, at = tu_random(seed) % (k->size - n);
    const bool discard = tu_random(seed) % 4 == 0;
    ++*serial;
    if (discard)
        assert_int_equal(tu_io(t, PLX_BDEV_UNMAP, at * BLOCKS_A_UNIT, (uint32_t)n * BLOCKS_A_UNIT, NULL), 0);
    else
        assert_int_equal(tu_io(t, PLX_BDEV_WRITE, at * BLOCKS_A_UNIT, (uint32_t)n * BLOCKS_A_UNIT, (void *)data), 0);
    for (uint64_t i = 0; i < n; i++)
        k->unit[at + i] = discard ? 0 : *serial;
}

static void test_exactly_what_was_changed(void **state)
{
    static struct known now, was[SNAPSHOTS];
    static const char *const names[SNAPSHOTS] = {"s0", "s1", "s2", "s3", "s4", "s5"};
    struct pool_rig rig;
    struct tu t;
    uint8_t *data = tu_pattern(20 * UNIT, 1);
    uint64_t seed = 5;
    uint32_t serial = 0;
    (void)state;
    memset(&now, 0, sizeof now);
    rig_make(&rig, "ram:64M", NULL);
    now.size = UNITS;
    rig_create(&rig, "v", (uint64_t)UNITS * UNIT);
    rig_open(&rig, "v", &t);
    for (unsigned s = 0; s < SNAPSHOTS; s++) {
        if (s == 3) { /* its tree becomes higher by one */
            rig_do(&rig, PLX_POOL_RESIZE, "v", NULL, (uint64_t)HIGH * UNIT);
            now.size = HIGH;
        }
        for (unsigned i = 0; i < 30; i++)
            change(&now, &t, &seed, &serial, data);
        rig_do(&rig, PLX_POOL_SNAPSHOT, "v", names[s], 0);
        was[s] = now;
    }
    rig_close(&rig, &t);
    for (unsigned lap = 0; lap < 2; lap++) {
        for (unsigned a = 0; a < SNAPSHOTS; a++)
            for (unsigned b = 0; b < SNAPSHOTS; b++)
                expect_diff(&rig, names[a], &was[a], names[b], &was[b], a == b ? 1 : 7 + b);
        for (unsigned b = 0; b < SNAPSHOTS; b++)
            expect_diff(&rig, NULL, NULL, names[b], &was[b], 100);
        rig_do(&rig, PLX_POOL_DELETE, "v", NULL, 0);
        rig_do(&rig, PLX_POOL_CLONE, "s5", "v", 0);
        rig_reopen(&rig); /* nothing of the trees is in memory */
    }
    expect_diff(&rig, "s5", &was[5], "v", &was[5], 1);
    rig_end(&rig);
    free(data);
}

/* ---- what goes back to a disk outside ---- */

enum { OUTER_UNITS = 1000, BEGINS = 600, GROWN = 1100 };

/* A volume on a disk outside, larger than that in the end, and four snapshots; with them what they have. */
static struct plx_bdev *make_outer(struct pool_rig *rig, struct known was[4], uint8_t *data)
{
    static struct known now;
    struct plx_bdev *outer;
    struct plx_error err;
    struct tu t;
    struct plx_pool_op op = {.kind = PLX_POOL_CREATE, .name = "v", .size = BEGINS * UNIT, .outer = "outer"};
    if (plx_bdev_open_as("ram:4000K", "outer", &outer, &err))
        fail_msg("%s", err.text);
    tu_join(&t, outer);
    for (uint64_t i = 0; i < OUTER_UNITS; i += 20)
        assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, i * BLOCKS_A_UNIT, 20 * BLOCKS_A_UNIT, data), 0);
    tu_leave(&t);
    rig_make(rig, "ram:64M", NULL);
    assert_int_equal(rig_run(rig, &op), 0);
    rig_open(rig, "v", &t);
    now.size = BEGINS;
    memset(now.unit, 0xff, sizeof now.unit);
    static const struct {
        uint64_t at, n, size;
        bool discard;
    } steps[] = {{0, 20, BEGINS, false}, {256, 256, BEGINS, true}, {590, 10, BEGINS, true},  {5, 5, BEGINS, true},
                 {0, 0, GROWN, false},   {1090, 10, GROWN, false}, {512, 256, GROWN, true},  {300, 3, GROWN, false},
                 {700, 1, GROWN, false}, {256, 256, GROWN, true},  {768, 256, GROWN, false}, {768, 256, GROWN, true}};
    for (uint32_t i = 0; i < PLX_ARRAY_SIZE(steps); i++) {
        if (steps[i].size != now.size)
            rig_do(rig, PLX_POOL_RESIZE, "v", NULL, steps[i].size * UNIT);
        now.size = steps[i].size;
        for (uint64_t k = steps[i].at; k < steps[i].at + steps[i].n; k++) {
            assert_int_equal(tu_io(&t, steps[i].discard ? PLX_BDEV_UNMAP : PLX_BDEV_WRITE, k * BLOCKS_A_UNIT,
                                   BLOCKS_A_UNIT, data + UNIT),
                             0);
            now.unit[k] = steps[i].discard ? 0 : i + 1;
        }
        if (i % 3 == 2) {
            char name[4] = {'s', (char)('0' + i / 3), 0};
            rig_do(rig, PLX_POOL_SNAPSHOT, "v", name, 0);
            was[i / 3] = now;
        }
    }
    rig_close(rig, &t);
    return outer;
}

static void test_what_shows_through_of_a_disk_outside(void **state)
{
    static struct known was[4], through;
    static const char *const names[] = {"s0", "s1", "s2", "s3"};
    uint8_t *data = tu_pattern(21 * UNIT, 3);
    struct pool_rig rig;
    (void)state;
    struct plx_bdev *outer = make_outer(&rig, was, data);
    memset(&through, 0xff, sizeof through);
    for (int lap = 0; lap < 2; lap++) {
        for (unsigned b = 0; b < 4; b++) {
            for (unsigned a = 0; a < 4; a++)
                expect_diff(&rig, names[a], &was[a], names[b], &was[b], 1 + a);
            expect_diff(&rig, NULL, NULL, names[b], &was[b], 3);
            expect_diff(&rig, NULL, &through, names[b], &was[b], 3);
        }
        rig_do(&rig, PLX_POOL_CLONE, "s3", "left", 0); /* it leaves that disk, and has what is its own */
        for (uint64_t i = 0; i < GROWN; i++)
            through.unit[i] = was[3].unit[i] == OUTER ? 0 : was[3].unit[i];
        rig_do(&rig, PLX_POOL_SET_PARENT, "left", NULL, 0);
        memset(through.unit, 0, sizeof through.unit);
        through.size = GROWN;
        expect_diff(&rig, "left", &through, "s3", &was[3], 2);
        expect_diff(&rig, "s3", &was[3], "left", &through, 2);
        memset(&through, 0xff, sizeof through);
        rig_do(&rig, PLX_POOL_DELETE, "left", NULL, 0);
        rig_reopen(&rig);
    }
    rig_end(&rig);
    assert_int_equal(plx_bdev_close(outer), 0);
    free(data);
}

static void copied(struct plx_volume_copy *c)
{
    *(bool *)c->arg = true;
}

/* A deep copy is what is read; a shallow one has what is the snapshot's own, and leaves all else as it was. */
static void test_copies_of_what_shows_through(void **state)
{
    static struct known was[4];
    uint8_t *data = tu_pattern(21 * UNIT, 3), theirs[UNIT], ours[UNIT];
    struct pool_rig rig;
    struct plx_error err;
    (void)state;
    struct plx_bdev *outer = make_outer(&rig, was, data), *to;
    struct tu t, from;
    rig_open(&rig, "s0", &from);
    for (int all = 0; all < 2; all++) {
        bool done = false;
        if (plx_bdev_open("ram:5M", &to, &err))
            fail_msg("%s", err.text);
        tu_join(&t, to);
        memset(ours, 0xee, sizeof ours);
        for (uint64_t i = 0; !all && i < BEGINS; i++)
            assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, i * BLOCKS_A_UNIT, BLOCKS_A_UNIT, ours), 0);
        tu_leave(&t);
        struct plx_volume_copy c = {
            .volume = from.bdev, .to = to, .all = all, .reactor = rig.reactor, .done = copied, .arg = &done};
        if (plx_volume_copy_begin(&c))
            fail_msg("%s", c.err.text);
        while (!done)
            rig_turn(rig.reactor);
        if (c.result)
            fail_msg("%s", c.err.text);
        tu_join(&t, to);
        for (uint64_t i = 0; i < BEGINS; i++) {
            assert_int_equal(tu_io(&from, PLX_BDEV_READ, i * BLOCKS_A_UNIT, BLOCKS_A_UNIT, theirs), 0);
            if (!all && was[0].unit[i] == OUTER)
                memset(theirs, 0xee, sizeof theirs);
            assert_int_equal(tu_io(&t, PLX_BDEV_READ, i * BLOCKS_A_UNIT, BLOCKS_A_UNIT, ours), 0);
            assert_memory_equal(ours, theirs, UNIT);
        }
        tu_leave(&t);
        assert_int_equal(plx_bdev_close(to), 0);
    }
    rig_close(&rig, &from);
    rig_end(&rig);
    assert_int_equal(plx_bdev_close(outer), 0);
    free(data);
}

static void test_what_is_not_there(void **state)
{
    struct plx_pool_extent out[4];
    struct pool_rig rig;
    bool done = false;
    (void)state;
    rig_make(&rig, "ram:8M", NULL);
    rig_create(&rig, "v", 1 << 20);
    struct plx_pool_diff d = {
        .from = "w", .to = "v", .room = 4, .extents = out, .reactor = rig.reactor, .done = diff_done, .arg = &done};
    plx_pool_diff_submit(rig.pool, &d);
    while (!done)
        rig_turn(rig.reactor);
    assert_int_equal(d.result, -ENOENT);
    assert_string_equal(d.err.text, "there is no volume w");
    rig_end(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exactly_what_was_changed),
        cmocka_unit_test(test_what_is_not_there),
        cmocka_unit_test(test_what_shows_through_of_a_disk_outside),
        cmocka_unit_test(test_copies_of_what_shows_through),
    };
    rig_simulate(true);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rig_checksums(true);
    return failed + cmocka_run_group_tests_name("with checksums", tests, NULL, NULL);
}
