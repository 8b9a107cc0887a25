/* SPDX-License-Identifier: BSD-3-Clause */
/* What is different between two snapshots: all of it, and nothing else. */
#include "pool_rig.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { UNIT = 4096, BLOCKS_A_UNIT = 8, UNITS = 3000, SNAPSHOTS = 6, HIGH = 70000 };

/* What each unit of a volume was written as, and of each snapshot; 0: nothing. */
struct known {
    uint32_t unit[HIGH];
    uint64_t size;
};

static void diff_done(struct plx_pool_diff *d)
{
    *(bool *)d->arg = true;
}

/* All of it, in pieces of `room` extents. @return how many there are */
static unsigned run_diff(struct pool_rig *rig, const char *from, const char *to, uint32_t room,
                         struct plx_pool_extent *out, unsigned most)
{
    struct plx_pool_diff d = {.from = from, .to = to, .room = room, .reactor = rig->reactor, .done = diff_done};
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
    const unsigned n = run_diff(rig, from, to, room, out, 2 * HIGH);
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
    };
    rig_simulate(true);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rig_checksums(true);
    return failed + cmocka_run_group_tests_name("with checksums", tests, NULL, NULL);
}
