/* SPDX-License-Identifier: BSD-3-Clause */
/* `pollux pool check`: each structure of a pool is injured, found to be, and mended where that can be. */
#include "pool_hurt.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- what is done to it ---- */

static void test_a_pool_with_one_of_each_is_clean(void **state)
{
    struct pool_rig rig;
    (void)state;
    hurt_begin(&rig);
    struct plx_pool_check c = {.reactor = rig.reactor, .turn = rig_turn};
    assert_int_equal(plx_pool_check(rig.disk, &c, NULL), 0);
    assert_int_equal(c.volumes, 3);
    assert_int_equal(c.snapshots, 1);
    assert_int_equal(c.others, 1);
    assert_true(c.nodes >= 6);
    rig_end(&rig);
}

static void clear_bit(uint8_t *mem, const void *arg)
{
    mem[*(const int *)arg / 8] &= (uint8_t) ~(1 << *(const int *)arg % 8);
}

static void test_a_unit_that_nothing_leads_to_is_freed(void **state)
{
    static const int last = 2047;
    struct pool_rig rig;
    (void)state;
    hurt_begin(&rig);
    hurt_map(&rig, hurt_set_bit, &last);
    hurt_expect(&rig, PLX_POOL_WASTE, true, "1 units of region 0 are not free, and nothing leads to them");
    hurt_mend(&rig, 4);
}

/* The first unit of the volume "a" is said to be free: the next write would go there. */
static void test_a_unit_in_use_that_is_free(void **state)
{
    struct pool_rig rig;
    (void)state;
    hurt_begin(&rig);
    struct pck_root r = hurt_root_of(&rig);
    const int first = (int)r.dir.unit;
    hurt_map(&rig, clear_bit, &first);
    hurt_expect(&rig, PLX_POOL_DAMAGE, true, "1 units of region 0 are in use, and free by its map");
    hurt_mend(&rig, 4);
}

static void test_a_damaged_map_is_made_anew(void **state)
{
    struct pool_rig rig;
    (void)state;
    for (unsigned what = 0; what < 2; what++) {
        hurt_begin(&rig);
        struct pck_root r = hurt_root_of(&rig);
        hurt_get(&rig, r.maps.unit);
        const struct pck_entry e = pck_get_entry(hurt_unit);
        hurt_rot(&rig, what ? r.maps.unit : e.unit, 3);
        hurt_expect(&rig, PLX_POOL_DAMAGE, true, "the map of region 0");
        hurt_mend(&rig, 4);
    }
}

static void test_a_wrong_count(void **state)
{
    struct pool_rig rig;
    (void)state;
    hurt_begin(&rig);
    hurt_dir(&rig, hurt_set_mapped, NULL);
    hurt_expect(&rig, PLX_POOL_WASTE, true, "a maps 118 units, and says that it maps 121");
    hurt_mend(&rig, 4);
    hurt_begin(&rig);
    struct pck_root r = hurt_root_of(&rig);
    r.used += 5;
    hurt_put_root(&rig, &r);
    hurt_expect(&rig, PLX_POOL_WASTE, true, "and the root says");
    hurt_mend(&rig, 4);
}

static void lose_name(struct pck_record *r)
{
    memset(r->name, 0, sizeof r->name);
}

static void lose_parent(struct pck_record *r)
{
    r->parent = 100;
}

static void test_records_that_cannot_be(void **state)
{
    static const struct {
        struct hurt_edit edit;
        const char *text;
        bool mendable;
        uint32_t volumes; /* that there are then */
    } tries[] = {
        {{0, lose_name}, "has no name", true, 4},
        {{0, hurt_twin_name}, "have the same name", true, 4},
        {{3, hurt_absurd_size}, "its size cannot be", true, 3},
        {{3, lose_parent}, "goes back to volume 99", false, 0}, /* others have what it has */
    };
    struct pool_rig rig;
    (void)state;
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(tries); i++) {
        hurt_begin(&rig);
        struct pck_root r = hurt_root_of(&rig);
        r.slots = 128;
        hurt_put_root(&rig, &r);
        hurt_dir(&rig, hurt_edit_record, &tries[i].edit);
        hurt_expect(&rig, PLX_POOL_DAMAGE, tries[i].mendable, tries[i].text);
        if (tries[i].mendable)
            hurt_mend(&rig, tries[i].volumes);
        else
            rig_end(&rig);
    }
}

/* ---- what volumes are told to remember ---- */

static bool has_attribute(struct pool_rig *rig)
{
    const struct pck_record r = hurt_record_of(rig, 0);
    return memcmp(r.attributes, "who\0me", sizeof "who\0me") == 0 && pck_attributes_ok(r.attributes);
}

static bool has_checksum(struct pool_rig *rig)
{
    const struct pck_record r = hurt_record_of(rig, 1);
    assert_int_equal(r.checksum, r.has_checksum ? HURT_CHECKSUM : 0);
    return r.has_checksum;
}

static void test_a_repair_keeps_attributes_and_checksums(void **state)
{
    struct pool_rig rig;
    (void)state;
    hurt_begin(&rig);
    hurt_dir(&rig, hurt_set_mapped, NULL);
    hurt_look(&rig, true);
    assert_int_equal(hurt_seen.mendable, 1);
    assert_true(has_attribute(&rig));
    assert_true(has_checksum(&rig));
    hurt_mend(&rig, 4);
}

static void attribute_without_a_value(struct pck_record *r)
{
    memset(r->attributes + 7, 'x', sizeof r->attributes - 8);
}

static void attribute_that_steers(struct pck_record *r)
{
    r->attributes[5] = '\033';
}

static void attributes_without_an_end(struct pck_record *r)
{
    memset(r->attributes + 4, 'x', sizeof r->attributes - 4);
}

static void attributes_with_more_behind(struct pck_record *r)
{
    r->attributes[sizeof r->attributes - 1] = 1;
}

static void test_attributes_that_cannot_be(void **state)
{
    static const struct hurt_edit edits[] = {
        {0, attribute_without_a_value},
        {0, attribute_that_steers},
        {0, attributes_without_an_end},
        {0, attributes_with_more_behind},
    };
    struct pool_rig rig;
    (void)state;
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(edits); i++) {
        hurt_begin(&rig);
        hurt_dir(&rig, hurt_edit_record, &edits[i]);
        hurt_expect(&rig, PLX_POOL_DAMAGE, true, "a has attributes that cannot be");
        hurt_look(&rig, true);
        assert_false(has_attribute(&rig));
        assert_true(has_checksum(&rig));
        hurt_mend(&rig, 4);
    }
}

static void nothing_of_its_own(struct pck_record *r)
{
    r->parent = 100;
    r->root = (struct pck_entry){0};
    r->mapped = 0;
}

/* "b" has nothing, and goes back to what is not there: it is a volume of its own then. */
static void test_checksums_go_when_somebody_shows_something_else(void **state)
{
    static const struct hurt_edit lost = {3, nothing_of_its_own};
    struct pool_rig rig;
    (void)state;
    hurt_begin(&rig);
    struct pck_root r = hurt_root_of(&rig);
    r.slots = 128;
    hurt_put_root(&rig, &r);
    hurt_dir(&rig, hurt_edit_record, &lost);
    hurt_expect(&rig, PLX_POOL_DAMAGE, true, "b goes back to volume 99");
    assert_true(has_checksum(&rig));
    hurt_look(&rig, true);
    assert_false(has_checksum(&rig));
    assert_true(has_attribute(&rig));
    hurt_mend(&rig, 4);
}

/* The page of all volumes has a bit that is another one, in one of them: the others are what they were. */
static void test_a_damaged_page_of_the_directory(void **state)
{
    struct pool_rig rig;
    (void)state;
    hurt_begin(&rig);
    struct pck_root r = hurt_root_of(&rig);
    for (int level = 0; level < 2; level++) {
        hurt_get(&rig, r.dir.unit);
        r.dir = pck_get_entry(hurt_unit);
    }
    hurt_rot(&rig, r.dir.unit, 3 * PCK_RECORD_BYTES + 72); /* where the tree of "b" is */
    hurt_expect(&rig, PLX_POOL_DAMAGE, true, "4 of them can be told, 1 cannot");
    hurt_mend(&rig, 3);
}

/* ---- what leads beyond an end ---- */

static void test_maps_beyond_the_end(void **state)
{
    static const struct hurt_entry beyond = {1, {16385, 2, 0}};
    struct pool_rig rig;
    (void)state;
    hurt_begin(&rig);
    hurt_maps(&rig, hurt_set_entry, &beyond);
    hurt_expect(&rig, PLX_POOL_DAMAGE, true,
                "the tree of maps goes on beyond the 1 regions that are in use, to unit 16385");
    hurt_mend(&rig, 4);
}

/* Pools were made once that end with a region without room for its maps. */
static void test_a_last_region_without_maps(void **state)
{
    struct plx_error err = {""};
    static const struct pck_entry there = {16384, 3, 0};
    struct pool_rig rig;
    (void)state;
    for (unsigned more = 1; more <= 2; more++) {
        hurt_make(&rig, "ram:67117056"); /* three units more than a region */
        struct pck_root r = hurt_root_of(&rig);
        r.units = 16384 + more;
        r.used += more == 2; /* as if it were a map */
        hurt_put_root(&rig, &r);
        hurt_expect_clean(&rig);
        hurt_leaf(&rig, 200, &there);
        hurt_expect(&rig, PLX_POOL_DAMAGE, false, "is none that a volume can have");
        r = hurt_root_of(&rig);
        r.regions = 2; /* so that its map is beyond the end */
        hurt_put_root(&rig, &r);
        struct plx_pool_check c = {.repair = true, .reactor = rig.reactor, .turn = rig_turn};
        assert_int_equal(plx_pool_check(rig.disk, &c, &err), -EUCLEAN);
        assert_non_null(strstr(err.text, "its last region, which is in use, has no room for its maps"));
        rig_end(&rig);
    }
}

/* As they were made once; and a log that none has. */
static void test_a_log_that_is_too_long_is_told_as_that(void **state)
{
    enum { REGION = 16384 };
    struct plx_error err = {""};
    uint8_t *data = tu_pattern(64 * HURT_UNIT, 1);
    struct pool_rig rig;
    struct tu t;
    (void)state;
    for (int used = 0; used < 2; used++) {
        rig_make(&rig, "ram:300M", NULL);
        rig.pool->used -= pool_space_fixed(rig.pool);
        rig.pool->log_units = REGION;
        rig.pool->used += pool_space_fixed(rig.pool);
        rig_create(&rig, "a", HURT_VOLUME);
        rig_open(&rig, "a", &t);
        if (used)
            assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 0, 64 * HURT_BLOCKS, data), 0);
        rig_close(&rig, &t);
        assert_int_equal(pool_close_on(rig.pool), 0);
        rig.pool = NULL;
        hurt_expect_clean(&rig);
        assert_non_null(strstr(hurt_seen.texts, "the log has 16384 units, 8 more than the first region has room for"));
        struct pck_root r = hurt_root_of(&rig);
        r.used += 3;
        hurt_put_root(&rig, &r);
        hurt_look(&rig, true);
        hurt_expect_clean(&rig);
        assert_null(strstr(hurt_seen.texts, "the log has"));
        hurt_mend(&rig, 1);
    }
    rig_make(&rig, "ram:300M", NULL); /* of which nothing was ever used */
    assert_int_equal(pool_close_on(rig.pool), 0);
    rig.pool = NULL;
    struct pck_root r = hurt_root_of(&rig);
    r.used += REGION + 6 - PCK_LOG_PLACE - r.log_units; /* six more of the second region */
    r.log_units = REGION;
    hurt_put_root(&rig, &r);
    hurt_expect_clean(&rig);
    rig_end(&rig);
    hurt_begin(&rig);
    r = hurt_root_of(&rig);
    r.log_units = r.units / 4 + 1;
    hurt_put_root(&rig, &r);
    struct plx_pool_check c = {.reactor = rig.reactor, .turn = rig_turn};
    assert_int_equal(plx_pool_check(rig.disk, &c, &err), -EUCLEAN);
    assert_non_null(strstr(err.text, "its log is of a size that none has"));
    rig_end(&rig);
    free(data);
}

/* ---- trees ---- */

/* What is lost of a volume is said; nothing of its space is given out, and the others are as they were. */
static void test_a_damaged_node_costs_its_volume(void **state)
{
    struct pool_rig rig;
    (void)state;
    hurt_begin(&rig);
    const struct pck_record a = hurt_record_of(&rig, 0);
    hurt_rot(&rig, a.root.unit, 40);
    hurt_expect(&rig, PLX_POOL_DAMAGE, false, "a: the node of level 2 in unit");
    assert_non_null(strstr(hurt_seen.texts, "nothing that can be read leads to them"));
    hurt_look(&rig, true);
    rig_pool(&rig);
    rig_settle(&rig);
    assert_int_equal(pool_close_on(rig.pool), 0);
    rig.pool = NULL;
    rig_end(&rig);
}

static void test_entries_that_cannot_be(void **state)
{
    struct pool_rig rig;
    (void)state;
    hurt_make(&rig, "ram:8M");
    const struct pck_record a = hurt_record_of(&rig, 0);
    const struct {
        struct pck_entry e;
        const char *text;
    } tries[] = {
        {{5000, 3, 0}, "is none that a volume can have"},
        {{2, 3, 0}, "is none that a volume can have"},
        {{a.root.unit, 3, 0}, "is in use elsewhere as well"},
        {{2048, 3, 0}, "is none that a volume can have"}, /* the first beyond the end of the disk */
        {{1900, 100, 0}, "was entered at an instant that had not come"},
        {{1900, 1, 0}, "belongs to the snapshot that it goes back to, which has another one there"},
    };
    rig_end(&rig);
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(tries); i++) {
        hurt_begin(&rig);
        hurt_leaf(&rig, 200, &tries[i].e);
        hurt_look(&rig, false);
        if (!hurt_seen.per[PLX_POOL_DAMAGE] || !strstr(hurt_seen.texts, tries[i].text))
            fail_msg("not \"%s\", but: %s", tries[i].text, hurt_seen.texts);
        rig_end(&rig);
    }
}

static void test_a_torn_root_is_told(void **state)
{
    struct pool_rig rig;
    (void)state;
    hurt_begin(&rig);
    const struct pck_root r = hurt_root_of(&rig);
    hurt_rot(&rig, !(r.generation % 2) * PCK_ROOT_PLACE, 200);
    hurt_look(&rig, false);
    assert_int_equal(hurt_seen.per[PLX_POOL_NOTE], 1);
    assert_non_null(strstr(hurt_seen.texts, "the root of before is not whole"));
    hurt_mend(&rig, 4);
}

/* ---- two snapshots that are being freed ---- */

/*
 * The older one of two is deleted while the other is being freed, and the pool is opened anew, upon which the older one
 * is gone through first.
 */
static void test_snapshots_that_are_freed_in_another_order(void **state)
{
    enum { LEAVES = 40 };
    struct pool_rig rig;
    struct tu t;
    uint8_t *data = tu_pattern(HURT_UNIT, 1);
    bool done[2];
    (void)state;
    rig_make(&rig, "ram:16M", NULL);
    rig_create(&rig, "a", LEAVES << 20);
    rig_open(&rig, "a", &t);
    for (unsigned i = 0; i < 3; i++) {
        static const char *const names[] = {"one", "two", "three"};
        for (uint64_t leaf = 0; leaf < LEAVES; leaf++)
            assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, leaf * 2048 + (leaf % 2 ? 8 * i : 0), 8, data), 0);
        rig_do(&rig, PLX_POOL_SNAPSHOT, "a", names[i], 0);
    }
    rig.pool->job_steps = 1;
    struct plx_pool_op two = {.kind = PLX_POOL_DELETE, .volume = "two"},
                       one = {.kind = PLX_POOL_DELETE, .volume = "one"};
    rig_begin(&rig, &two, &done[0]);
    const struct pool_volume *freed = rig.pool->volume[2];
    while (freed->done < (LEAVES / 2) << 8) {
        rig_turn(rig.reactor);
        assert_ptr_equal(rig.pool->volume[2], freed);
    }
    rig_begin(&rig, &one, &done[1]);
    while (!done[1])
        rig_turn(rig.reactor);
    rig_close(&rig, &t);
    assert_int_equal(pool_close_on(rig.pool), 0);
    rig.pool = NULL;
    hurt_expect_clean(&rig);
    assert_int_equal(hurt_seen.per[PLX_POOL_NOTE], 2); /* both are being freed */
    rig_pool(&rig);
    rig_settle(&rig);
    assert_null(rig.pool->volume[1]);
    assert_null(rig.pool->volume[2]);
    assert_int_equal(pool_close_on(rig.pool), 0);
    rig.pool = NULL;
    hurt_expect_clean(&rig);
    rig_end(&rig);
    free(data);
}

/* ---- data ---- */

static struct pck_entry entry_of(struct pool_rig *rig, const struct pck_record *v, uint64_t at)
{
    struct pck_entry e = v->root;
    for (unsigned level = v->height; level; level--) {
        hurt_get(rig, e.unit);
        e = pck_get_entry(hurt_unit + (at >> ((level - 1) * 8) & 255) * 16);
    }
    return e;
}

/* Each unit by itself: it is named by one that people know, who has it there, though it belongs to a ghost. */
static void test_data_that_is_not_what_was_written(void **state)
{
    static const struct {
        unsigned volume;
        uint64_t at;
        const char *text;
    } tries[] = {
        {0, 2, "a, byte 8192: has data that is not what was written, in unit "},
        {1, 10, "b, byte 40960: has data that is not what was written, in unit "}, /* of "one" */
        {4, 3, "c, byte 12288: has data that is not what was written, in unit "},  /* of the ghost */
        {3, 63, "a, byte 258048: has data that is not what was written, in unit "},
        {0, 663, "a, byte 2715648: has data that is not what was written, in unit "},
    };
    struct pool_rig rig;
    char text[128];
    (void)state;
    hurt_begin(&rig);
    const uint64_t all = hurt_look_data(&rig);
    if (!(hurt_root_of(&rig).flags & PCK_ROOT_CHECKSUMS)) {
        assert_int_equal(all, 0);
        assert_non_null(strstr(hurt_seen.texts, "the pool has no checksums"));
        assert_int_equal(hurt_seen.per[PLX_POOL_WASTE] + hurt_seen.per[PLX_POOL_DAMAGE], 0);
        rig_end(&rig);
        return;
    }
    assert_int_equal(hurt_seen.per[PLX_POOL_WASTE] + hurt_seen.per[PLX_POOL_DAMAGE], 0);
    assert_int_equal(all, (128 + 4) * HURT_UNIT); /* 64 and 64, and what "a" wrote between its snapshots */
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(tries); i++) {
        const struct pck_record v = hurt_record_of(&rig, tries[i].volume);
        const struct pck_entry e = entry_of(&rig, &v, tries[i].at);
        hurt_rot(&rig, e.unit, 4095);
        hurt_expect_clean(&rig); /* by metadata */
        assert_int_equal(hurt_look_data(&rig), all);
        snprintf(text, sizeof text, "%s%llu", tries[i].text, (unsigned long long)e.unit);
        if (hurt_seen.per[PLX_POOL_DAMAGE] != 1 || !strstr(hurt_seen.texts, text) || hurt_seen.mendable)
            fail_msg("not \"%s\", but: %s", text, hurt_seen.texts);
        assert_int_equal(hurt_seen.offset, (int64_t)tries[i].at * HURT_UNIT);
        hurt_rot(&rig, e.unit, 4095);
    }
    hurt_look_data(&rig);
    assert_int_equal(hurt_seen.per[PLX_POOL_DAMAGE], 0);
    rig_end(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_pool_with_one_of_each_is_clean),
        cmocka_unit_test(test_a_unit_that_nothing_leads_to_is_freed),
        cmocka_unit_test(test_a_unit_in_use_that_is_free),
        cmocka_unit_test(test_a_damaged_map_is_made_anew),
        cmocka_unit_test(test_a_wrong_count),
        cmocka_unit_test(test_records_that_cannot_be),
        cmocka_unit_test(test_a_repair_keeps_attributes_and_checksums),
        cmocka_unit_test(test_attributes_that_cannot_be),
        cmocka_unit_test(test_checksums_go_when_somebody_shows_something_else),
        cmocka_unit_test(test_a_damaged_page_of_the_directory),
        cmocka_unit_test(test_maps_beyond_the_end),
        cmocka_unit_test(test_a_last_region_without_maps),
        cmocka_unit_test(test_a_log_that_is_too_long_is_told_as_that),
        cmocka_unit_test(test_a_damaged_node_costs_its_volume),
        cmocka_unit_test(test_entries_that_cannot_be),
        cmocka_unit_test(test_a_torn_root_is_told),
        cmocka_unit_test(test_data_that_is_not_what_was_written),
        cmocka_unit_test(test_snapshots_that_are_freed_in_another_order),
    };
    rig_simulate(true); /* nobody waits for timers */
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rig_checksums(true);
    return failed + cmocka_run_group_tests_name("with checksums", tests, NULL, NULL);
}
