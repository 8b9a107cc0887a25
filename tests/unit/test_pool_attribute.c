/* SPDX-License-Identifier: BSD-3-Clause */
/* What volumes remember: attributes, and checksums of snapshots as long as they are of what there is. */
#include "pool_rig.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "bdev/pool/op.h"

#define DISK "ram:64M?block=4096"

enum { MIB = 1 << 20 };

static int try_set(struct pool_rig *rig, const char *volume, const char *name, const char *value, struct plx_error *err)
{
    const struct plx_volume_attribute one = {name, value};
    struct plx_pool_op op = {.kind = PLX_POOL_SET, .volume = volume, .attributes = &one, .n_attributes = 1};
    rig_run(rig, &op);
    if (err)
        *err = op.err;
    return op.result;
}

static void set(struct pool_rig *rig, const char *volume, const char *name, const char *value)
{
    assert_int_equal(try_set(rig, volume, name, value, NULL), 0);
}

/* NULL: it has none. */
static void has(struct pool_rig *rig, const char *volume, const char *name, const char *value)
{
    char got[PLX_VOLUME_ATTRIBUTES];
    struct tu t;
    rig_open(rig, volume, &t);
    int n = plx_volume_get_attribute(t.bdev, name, got, sizeof got);
    rig_close(rig, &t);
    if (!value) {
        assert_int_equal(n, -ENOENT);
        return;
    }
    assert_int_equal(n, strlen(value));
    assert_string_equal(got, value);
}

static void attributes_are_set_and_stay(void **state)
{
    struct pool_rig rig;
    (void)state;
    rig_make(&rig, DISK, NULL);
    rig_create(&rig, "a", MIB);
    rig_create(&rig, "b", MIB);
    has(&rig, "a", "one", NULL);
    set(&rig, "a", "one", "1");
    set(&rig, "a", "two", "");
    set(&rig, "a", "three", "drei");
    set(&rig, "a", "one", "another 1");
    for (int again = 0; again < 2; again++) {
        has(&rig, "a", "one", "another 1");
        has(&rig, "a", "two", "");
        has(&rig, "a", "three", "drei");
        has(&rig, "a", "thr", NULL);
        has(&rig, "a", "drei", NULL); /* a value is no name */
        has(&rig, "b", "one", NULL);
        rig_reopen(&rig);
    }
    set(&rig, "a", "two", NULL);
    set(&rig, "a", "none", NULL);
    has(&rig, "a", "two", NULL);
    has(&rig, "a", "one", "another 1");
    has(&rig, "a", "three", "drei");
    rig_check_outside(&rig);
    rig_end(&rig);
}

static void what_does_not_fit_changes_nothing(void **state)
{
    struct pool_rig rig;
    struct plx_error err;
    char value[PLX_VOLUME_ATTRIBUTES + 1];
    (void)state;
    rig_make(&rig, DISK, NULL);
    rig_create(&rig, "a", MIB);
    set(&rig, "a", "x", "kept");
    memset(value, 'v', sizeof value);
    value[PLX_VOLUME_ATTRIBUTES - 7 - 3] = 0; /* "x", "kept", "y", each with a zero, and its own */
    set(&rig, "a", "y", value);
    has(&rig, "a", "y", value);
    assert_int_equal(try_set(&rig, "a", "z", "", &err), -ENOSPC);
    assert_non_null(strstr(err.text, "at most 287 bytes"));
    set(&rig, "a", "x", "tpek"); /* in its place */
    assert_int_equal(try_set(&rig, "a", "x", "other", &err), -ENOSPC);
    has(&rig, "a", "x", "tpek");
    has(&rig, "a", "y", value);
    assert_int_equal(try_set(&rig, "a", "", "v", &err), -EINVAL);
    assert_int_equal(try_set(&rig, "a", "x", "a\nb", &err), -EINVAL);
    assert_int_equal(try_set(&rig, "a", "\x1b", "v", &err), -EINVAL);
    assert_int_equal(try_set(&rig, "none", "x", "v", &err), -ENOENT);
    rig_reopen(&rig);
    has(&rig, "a", "x", "tpek");
    has(&rig, "a", "y", value);
    rig_end(&rig);
}

static void snapshots_are_made_with_them(void **state)
{
    struct pool_rig rig;
    const struct plx_volume_attribute of_s[] = {{"one", "1"}, {"two", "2"}}, of_t[] = {{"one", "of t"}},
                                      wrong[] = {{"", "x"}};
    (void)state;
    rig_make(&rig, DISK, NULL);
    rig_create(&rig, "a", MIB);
    rig_create(&rig, "b", MIB);
    set(&rig, "a", "own", "a's");
    struct plx_pool_op second = {.volume = "b", .name = "t", .attributes = wrong, .n_attributes = 1};
    struct plx_pool_op first = {
        .kind = PLX_POOL_SNAPSHOT, .volume = "a", .name = "s", .attributes = of_s, .n_attributes = 2, .with = &second};
    assert_int_equal(rig_run(&rig, &first), -EINVAL);
    assert_int_equal(rig_try(&rig, PLX_POOL_DELETE, "s", NULL, 0), -ENOENT); /* all, or none */
    second.attributes = of_t;
    assert_int_equal(rig_run(&rig, &first), 0);
    rig_reopen(&rig);
    has(&rig, "s", "one", "1");
    has(&rig, "s", "two", "2");
    has(&rig, "s", "own", NULL);
    has(&rig, "t", "one", "of t");
    has(&rig, "t", "two", NULL);
    has(&rig, "a", "own", "a's");
    rig_end(&rig);
}

/* ---- checksums ---- */

static uint32_t altered(struct pool_rig *rig, const char *volume)
{
    struct plx_volume_info info;
    struct tu t;
    rig_open(rig, volume, &t);
    plx_volume_get_info(t.bdev, &info);
    rig_close(rig, &t);
    return info.altered;
}

static int try_checksum(struct pool_rig *rig, const char *volume, uint64_t checksum, uint32_t when)
{
    struct plx_pool_op op = {.kind = PLX_POOL_SET_CHECKSUM, .volume = volume, .checksum = checksum, .altered = when};
    rig_run(rig, &op);
    return op.result;
}

static bool has_checksum(struct pool_rig *rig, const char *volume, uint64_t wanted)
{
    uint64_t checksum;
    struct tu t;
    rig_open(rig, volume, &t);
    bool there = plx_volume_get_checksum(t.bdev, &checksum);
    rig_close(rig, &t);
    if (there)
        assert_int_equal(checksum, wanted);
    return there;
}

static void a_checksum_is_kept_until_what_it_is_of_changes(void **state)
{
    const uint64_t sum = UINT64_C(0xfedcba9876543210);
    struct pool_rig rig;
    (void)state;
    rig_make(&rig, DISK, NULL);
    rig_create(&rig, "a", MIB);
    assert_int_equal(try_checksum(&rig, "a", sum, 0), -EPERM);
    assert_int_equal(try_checksum(&rig, "none", sum, 0), -ENOENT);
    rig_do(&rig, PLX_POOL_SNAPSHOT, "a", "s", 0);
    rig_do(&rig, PLX_POOL_SNAPSHOT, "a", "t", 0);
    rig_do(&rig, PLX_POOL_SNAPSHOT, "a", "u", 0);
    for (int i = 0; i < 3; i++) {
        const char *name = (const char *[]){"s", "t", "u"}[i];
        assert_false(has_checksum(&rig, name, 0));
        assert_int_equal(try_checksum(&rig, name, sum + (uint64_t)i, altered(&rig, name)), 0);
    }
    rig_reopen(&rig);
    assert_true(has_checksum(&rig, "s", sum) && has_checksum(&rig, "t", sum + 1) && has_checksum(&rig, "u", sum + 2));
    const uint32_t before = altered(&rig, "t");
    rig_do(&rig, PLX_POOL_DELETE, "s", NULL, 0); /* what it had is t's */
    assert_false(has_checksum(&rig, "t", 0));
    assert_true(has_checksum(&rig, "u", sum + 2));
    assert_int_equal(try_checksum(&rig, "t", sum, before), -EBUSY); /* it is of what was read before */
    assert_int_equal(try_checksum(&rig, "t", sum, altered(&rig, "t")), 0);
    rig_reopen(&rig);
    assert_true(has_checksum(&rig, "t", sum));
    rig_end(&rig);
}

static void a_checksum_goes_when_a_snapshot_gets_another_parent(void **state)
{
    static const enum plx_pool_op_kind kinds[] = {PLX_POOL_DECOUPLE, PLX_POOL_INFLATE, PLX_POOL_SET_PARENT};
    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        struct pool_rig rig;
        rig_make(&rig, DISK, NULL);
        rig_create(&rig, "a", MIB);
        rig_do(&rig, PLX_POOL_SNAPSHOT, "a", "s", 0);
        rig_do(&rig, PLX_POOL_CLONE, "s", "c", 0);
        rig_do(&rig, PLX_POOL_FREEZE, "c", NULL, 0);
        assert_int_equal(try_checksum(&rig, "c", 7, altered(&rig, "c")), 0);
        rig_do(&rig, kinds[i], "c", NULL, 0);
        rig_reopen(&rig);
        assert_false(has_checksum(&rig, "c", 0));
        rig_end(&rig);
    }
}

/* ---- records ---- */

static void what_is_no_attribute_is_none(void **state)
{
    static const struct {
        const char *bytes;
        size_t n;
        bool ok;
    } cases[] = {{"", 1, true},          {"a\0b\0", 5, true},     {"a\0\0c\0d\0", 8, true},
                 {"a\0b\n\0", 6, false}, {"\x1b\0b\0", 5, false}, {"a\0\xff\0", 5, false}};
    char all[POOL_ATTRIBUTES];
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        memset(all, 0, sizeof all);
        memcpy(all, cases[i].bytes, cases[i].n);
        assert_int_equal(pool_attributes_ok(all), cases[i].ok);
    }
    memset(all, 'x', sizeof all);
    assert_false(pool_attributes_ok(all));
    all[5] = 0;
    assert_false(pool_attributes_ok(all));
    all[sizeof all - 1] = 0;
    assert_true(pool_attributes_ok(all));
    all[5] = 'x';
    assert_false(pool_attributes_ok(all)); /* a name to the very end, which has no value */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attributes_are_set_and_stay),
        cmocka_unit_test(what_does_not_fit_changes_nothing),
        cmocka_unit_test(snapshots_are_made_with_them),
        cmocka_unit_test(a_checksum_is_kept_until_what_it_is_of_changes),
        cmocka_unit_test(a_checksum_goes_when_a_snapshot_gets_another_parent),
        cmocka_unit_test(what_is_no_attribute_is_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
