/* SPDX-License-Identifier: BSD-3-Clause */
/* `pollux pool repair`: what it makes anew, what it keeps, and what it leaves alone. */
#include "pool_hurt.h"

#include <errno.h>
#include <pollux/bdev_filter.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bdev/filter/crash.h"

static uint8_t image[2][8 << 20] __attribute__((aligned(4096)));

/* ---- a snapshot is lost, and two go back to it ---- */

static void make_of_one_snapshot(struct pool_rig *rig, bool clone)
{
    uint8_t *data = tu_pattern(64 * HURT_UNIT, 1);
    struct tu t;
    rig_make(rig, "ram:8M", NULL);
    rig_create(rig, "a", HURT_VOLUME);
    rig_open(rig, "a", &t);
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 0, 64 * HURT_BLOCKS, data), 0);
    rig_do(rig, PLX_POOL_SNAPSHOT, "a", "s", 0);
    if (clone)
        rig_do(rig, PLX_POOL_CLONE, "s", "b", 0);
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 0, HURT_BLOCKS, data), 0); /* with nodes of its own */
    rig_close(rig, &t);
    assert_int_equal(pool_close_on(rig->pool), 0);
    rig->pool = NULL;
    free(data);
}

static void become_free(struct pck_record *r)
{
    memset(r, 0, sizeof *r);
}

/* Neither is made the owner of what both have: to free it in one would hurt_take it from the other. */
static void test_two_that_have_lost_the_same_snapshot(void **state)
{
    static const struct hurt_edit lose = {1, become_free}, damage = {1, hurt_absurd_size};
    struct pool_rig rig;
    (void)state;
    make_of_one_snapshot(&rig, true);
    hurt_dir(&rig, hurt_edit_record, &damage); /* what is left of it is kept, to tell it by */
    hurt_expect(&rig, PLX_POOL_DAMAGE, false, "a goes back to volume 1, which is no snapshot of before it, and others");
    assert_non_null(strstr(hurt_seen.texts, "b goes back to volume 1, which is no snapshot of before it, and others"));
    hurt_look(&rig, true);
    assert_int_equal(hurt_record_of(&rig, 0).parent, 2);
    assert_int_equal(hurt_record_of(&rig, 2).parent, 2);
    rig_end(&rig);
    make_of_one_snapshot(&rig, false); /* the only one is its owner */
    hurt_dir(&rig, hurt_edit_record, &lose);
    hurt_expect(&rig, PLX_POOL_DAMAGE, true, "a goes back to volume 1, which is no snapshot of before it; nobody else");
    hurt_mend(&rig, 1);
    assert_int_equal(hurt_seen.per[PLX_POOL_DAMAGE], 0);
}

/* Another one cannot be read to its end, and may have what it has. */
static void test_what_cannot_be_read_may_be_shared(void **state)
{
    static const struct hurt_edit lose = {1, become_free};
    struct pool_rig rig;
    (void)state;
    make_of_one_snapshot(&rig, false);
    rig_pool(&rig);
    rig_create(&rig, "z", HURT_VOLUME);
    struct tu t;
    rig_open(&rig, "z", &t);
    uint8_t *data = tu_pattern(HURT_UNIT, 1);
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 0, HURT_BLOCKS, data), 0);
    free(data);
    rig_close(&rig, &t);
    assert_int_equal(pool_close_on(rig.pool), 0);
    rig.pool = NULL;
    hurt_rot(&rig, hurt_record_of(&rig, 2).root.unit, 40);
    hurt_dir(&rig, hurt_edit_record, &lose);
    hurt_expect(&rig, PLX_POOL_DAMAGE, false, "others have what it has, or may have it");
    hurt_look(&rig, true);
    assert_int_equal(hurt_record_of(&rig, 0).parent, 2);
    rig_end(&rig);
}

static void get_image(struct pool_rig *rig, uint8_t *mem)
{
    struct tu t = {.bdev = rig->disk, .reactor = rig->reactor, .info = plx_bdev_info(rig->disk)};
    assert_int_equal(plx_bdev_channel_get(rig->disk, rig->reactor, &t.ch), 0);
    for (uint64_t lba = 0; lba < sizeof image[0] / 512; lba += 512)
        assert_int_equal(tu_io(&t, PLX_BDEV_READ, lba, 512, mem + lba * 512), 0);
    plx_bdev_channel_put(t.ch);
}

/* There is something to repair, too; not a byte of the disk is changed. */
static void expect_left_alone(struct pool_rig *rig)
{
    static const int last = 2047;
    struct plx_error err = {""};
    struct plx_pool_check c = {
        .repair = true, .reactor = rig->reactor, .turn = rig_turn, .found = hurt_take, .arg = &hurt_seen};
    hurt_map(rig, hurt_set_bit, &last);
    get_image(rig, image[0]);
    hurt_seen = (struct hurt_seen){.texts = ""};
    plx_pool_check(rig->disk, &c, &err);
    get_image(rig, image[1]);
    if (memcmp(image[0], image[1], sizeof image[0]) || c.repaired || hurt_seen.mendable)
        fail_msg("it was not left alone: %s", hurt_seen.texts);
}

static void later_state(struct pck_record *r)
{
    r->state = PCK_STATES;
}

static void later_flag(struct pck_record *r)
{
    r->flags |= 0x100;
}

static void set_byte(uint8_t *mem, const void *arg)
{
    mem[*(const unsigned *)arg] = 2;
}

static void expect_not_opened(struct pool_rig *rig, const char *text)
{
    const struct pool_keeper keeper = {rig->reactor, rig_turn};
    struct plx_error err = {""};
    assert_int_not_equal(pool_open_on(rig->disk, &keeper, &rig->pool, &err), 0);
    if (!strstr(err.text, text))
        fail_msg("not \"%s\", but: %s", text, err.text);
    rig->pool = NULL;
}

static void test_volumes_of_a_later_version_are_left_alone(void **state)
{
    static const struct {
        struct hurt_edit edit;
        const char *text, *opened;
    } tries[] = {{{3, later_state},
                  "volume 3 is in a state that is not known here",
                  "volume 3 of its pool is in state 5, which this program does not know"},
                 {{3, later_flag},
                  "volume 3 has flags that are not known here",
                  "volume 3 of its pool has flags 0x100, not all of which this program knows"}};
    static const unsigned bytes[] = {65, 71, 224};
    struct pool_rig rig;
    (void)state;
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(tries); i++) {
        hurt_begin(&rig);
        hurt_dir(&rig, hurt_edit_record, &tries[i].edit);
        hurt_expect(&rig, PLX_POOL_DAMAGE, false, tries[i].text);
        expect_left_alone(&rig);
        expect_not_opened(&rig, tries[i].opened);
        rig_end(&rig);
    }
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(bytes); i++) {
        hurt_begin(&rig);
        hurt_dir(&rig, set_byte, &bytes[i]);
        hurt_expect(&rig, PLX_POOL_NOTE, false, "a has fields that are not known here");
        expect_left_alone(&rig);
        rig_end(&rig);
    }
}

static void put_root_byte(struct pool_rig *rig, unsigned at, uint8_t value)
{
    struct pck_root r = hurt_root_of(rig);
    hurt_get(rig, r.generation % 2 * PCK_ROOT_PLACE);
    hurt_unit[at] = value;
    memset(hurt_unit + 12, 0, 4);
    const uint32_t crc = pck_crc(hurt_unit, PCK_ROOT_BYTES);
    memcpy(hurt_unit + 12, &crc, 4);
    hurt_put(rig, r.generation % 2 * PCK_ROOT_PLACE);
}

static void test_pools_of_a_later_version_are_left_alone(void **state)
{
    static const struct {
        unsigned at;
        uint8_t value;
        const char *text;
    } tries[] = {{8, 2, "is of another version than 1: a later version of this program made it"},
                 {101, 1, "has flags that are not known here: a later version"},
                 {200, 1, NULL},
                 {511, 1, NULL}};
    static const int last = 2047;
    struct pool_rig rig;
    (void)state;
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(tries); i++) {
        struct plx_error err = {""};
        hurt_begin(&rig);
        hurt_map(&rig, hurt_set_bit, &last);
        put_root_byte(&rig, tries[i].at, tries[i].value);
        struct plx_pool_check c = {
            .repair = true, .reactor = rig.reactor, .turn = rig_turn, .found = hurt_take, .arg = &hurt_seen};
        hurt_seen = (struct hurt_seen){.texts = ""};
        get_image(&rig, image[0]);
        assert_int_equal(plx_pool_check(rig.disk, &c, &err), tries[i].text ? -EUCLEAN : 0);
        assert_non_null(strstr(tries[i].text ? err.text : hurt_seen.texts,
                               tries[i].text ? tries[i].text : "the root has fields that are not known here"));
        assert_int_equal(hurt_seen.mendable, 0);
        get_image(&rig, image[1]);
        assert_memory_equal(image[0], image[1], sizeof image[0]);
        rig_end(&rig);
    }
}

static void bad_outer(struct pck_record *r)
{
    r->flags |= PCK_OUTER;
    memset(r->outer, 'x', sizeof r->outer); /* without an end */
}

static void no_outer(struct pck_record *r)
{
    r->flags |= PCK_OUTER;
}

static void endless_name(struct pck_record *r)
{
    memset(r->name, 'x', sizeof r->name);
}

static void test_names_that_cannot_be_opened(void **state)
{
    static const struct {
        struct hurt_edit edit;
        const char *text;
    } tries[] = {{{3, bad_outer}, "b goes back to a disk outside that has no name; a repair names that lost-3"},
                 {{3, no_outer}, "b goes back to a disk outside that has no name"},
                 {{2, endless_name}, "ghost 2 has a name, which has no end"}};
    struct plx_error err;
    struct pool_rig rig;
    (void)state;
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(tries); i++) {
        hurt_begin(&rig);
        hurt_dir(&rig, hurt_edit_record, &tries[i].edit);
        const struct pool_keeper keeper = {rig.reactor, rig_turn};
        assert_int_equal(pool_open_on(rig.disk, &keeper, &rig.pool, &err), 0); /* without that one */
        assert_int_equal(rig.pool->lost, 1);
        assert_int_equal(pool_close_on(rig.pool), 0);
        rig.pool = NULL;
        hurt_expect(&rig, PLX_POOL_DAMAGE, true, tries[i].text);
        hurt_mend(&rig, 4);
    }
}

/* Three of one name, and one that has the name that another is to have. */
static void test_each_gets_a_name_of_its_own(void **state)
{
    struct pool_rig rig;
    (void)state;
    rig_make(&rig, "ram:8M", NULL);
    for (unsigned i = 0; i < 15; i++) {
        char name[32];
        snprintf(name, sizeof name, i < 3 ? "a%u" : "repaired-%u", i < 3 ? i : i - 3);
        rig_create(&rig, name, HURT_VOLUME);
    }
    assert_int_equal(pool_close_on(rig.pool), 0);
    rig.pool = NULL;
    for (unsigned i = 0; i < 3; i++) {
        const struct hurt_edit twin = {i, hurt_twin_name};
        hurt_dir(&rig, hurt_edit_record, &twin);
    }
    hurt_expect(&rig, PLX_POOL_DAMAGE, true, "have the same name");
    assert_int_equal(hurt_seen.mendable, 2);
    hurt_mend(&rig, 15);
}

/* Makes its CRC right, whatever its header has. */
static void seal_page(uint8_t *mem)
{
    memset(mem + 8, 0, 4);
    const uint32_t crc = pck_crc(mem, HURT_UNIT);
    memcpy(mem + 8, &crc, 4);
}

static void leave_log(struct pool_rig *rig)
{
    struct plx_crash_state s;
    struct plx_error err;
    uint8_t *data = tu_pattern(64 * HURT_UNIT, 1);
    struct tu t;
    rig_make(rig, "crash:ram:8M", NULL);
    rig_create(rig, "a", HURT_VOLUME);
    rig_open(rig, "a", &t);
    for (unsigned i = 0; i < 20; i++)
        assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 160 * i, 8, data), 0);
    assert_int_equal(tu_io(&t, PLX_BDEV_FLUSH, 0, 0, NULL), 0);
    plx_bdev_crash_cut(rig->disk, NULL);
    rig_close(rig, &t);
    pool_close_on(rig->pool);
    rig->pool = NULL;
    do {
        rig_turn(rig->reactor);
        plx_crash_look(rig->disk, &s);
    } while (!s.settled);
    assert_int_equal(plx_bdev_crash_restore(rig->disk, &err), 0);
    free(data);
}

/* Of a kind, and with a field, that a later version of the program may make. */
static void expect_log_left_alone(struct pool_rig *rig)
{
    static const struct {
        unsigned at;
        const char *text;
    } tries[] = {{PCK_PAGE_HEADER + 4, "has a change of a kind that is not known here"},
                 {40, "has a field that is not known here"}};
    const struct pck_root r = hurt_root_of(rig);
    const uint64_t page = PCK_LOG_PLACE + r.log_first % r.log_units;
    static uint8_t was[HURT_UNIT];
    hurt_get(rig, page);
    memcpy(was, hurt_unit, HURT_UNIT);
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(tries); i++) {
        memcpy(hurt_unit, was, HURT_UNIT);
        hurt_unit[tries[i].at] = 9;
        seal_page(hurt_unit);
        hurt_put(rig, page);
        hurt_expect(rig, PLX_POOL_DAMAGE, false, tries[i].text);
        get_image(rig, image[0]);
        hurt_look(rig, true);
        get_image(rig, image[1]);
        assert_memory_equal(image[0], image[1], sizeof image[0]);
    }
    memcpy(hurt_unit, was, HURT_UNIT);
    hurt_put(rig, page);
}

/* Data that nothing but the log leads to is compared with what the log has of it. */
static void expect_logged_data(struct pool_rig *rig)
{
    const struct pck_root r = hurt_root_of(rig);
    struct pck_change g;
    if (!(r.flags & PCK_ROOT_CHECKSUMS))
        return;
    assert_int_equal(hurt_look_data(rig), 20 * HURT_UNIT);
    assert_int_equal(hurt_seen.per[PLX_POOL_DAMAGE], 0);
    hurt_get(rig, PCK_LOG_PLACE + r.log_first % r.log_units);
    pck_get_change(hurt_unit + PCK_PAGE_HEADER + 7 * (PCK_CHANGE_BYTES + 8), PCK_CHANGE_BYTES + 8, &r, &g);
    hurt_rot(rig, g.to, 0);
    hurt_look_data(rig);
    assert_non_null(strstr(hurt_seen.texts, "a, byte 573440: has data that is not what was written"));
    assert_int_equal(hurt_seen.per[PLX_POOL_DAMAGE], 1);
    hurt_rot(rig, g.to, 0);
}

static void test_a_log_that_cannot_be_replayed(void **state)
{
    struct pool_rig rig;
    struct plx_error err;
    struct tu t;
    (void)state;
    leave_log(&rig);
    hurt_expect_clean(&rig);
    assert_non_null(strstr(hurt_seen.texts, "1 page of the log will be replayed"));
    expect_log_left_alone(&rig);
    expect_logged_data(&rig);
    const struct pck_root r = hurt_root_of(&rig);
    hurt_get(&rig, PCK_LOG_PLACE + r.log_first % r.log_units);
    const int64_t bytes = pck_get_page(hurt_unit, &r, r.log_first);
    const uint32_t change = PCK_CHANGE_BYTES + (r.flags & PCK_ROOT_CHECKSUMS ? 8 : 0); /* with the CRC of a unit */
    assert_int_equal(bytes, 20 * change);
    pck_put64(hurt_unit + PCK_PAGE_HEADER + 5 * change + 8, UINT64_MAX); /* the sixth is of no unit there is */
    pck_put_page(hurt_unit, &r, r.log_first, (uint32_t)bytes);
    hurt_put(&rig, PCK_LOG_PLACE + r.log_first % r.log_units);
    hurt_expect(&rig, PLX_POOL_DAMAGE, true, "goes beyond the end of its volume");
    const struct pool_keeper keeper = {rig.reactor, rig_turn};
    assert_int_equal(pool_open_on(rig.disk, &keeper, &rig.pool, &err), -EUCLEAN);
    hurt_look(&rig, true);
    hurt_expect_clean(&rig);
    rig_pool(&rig);
    assert_int_equal(rig.pool->volume[0]->mapped, 19);
    rig_open(&rig, "a", &t);
    uint8_t *data = tu_pattern(HURT_UNIT, 1), *is = calloc(1, HURT_UNIT);
    for (unsigned i = 0; i < 20; i++) {
        assert_int_equal(tu_io(&t, PLX_BDEV_READ, 160 * i, 8, is), 0);
        assert_true(i == 5 ? tu_zeroed(is, HURT_UNIT) : !memcmp(is, data, HURT_UNIT));
    }
    free(data);
    free(is);
    rig_close(&rig, &t);
    rig_settle(&rig);
    rig_check(&rig);
    rig_end(&rig);
}

static void test_a_repair_that_is_cut_off(void **state)
{
    static const int last = 2047;
    struct plx_crash_state s;
    struct plx_error err;
    (void)state;
    bool cut = true;
    for (uint64_t at = 1; cut; at++) {
        struct pool_rig rig;
        hurt_make(&rig, "crash:ram:8M");
        hurt_map(&rig, hurt_set_bit, &last);
        hurt_dir(&rig, hurt_set_mapped, NULL);
        struct tu t = {.bdev = rig.disk, .reactor = rig.reactor, .info = plx_bdev_info(rig.disk)};
        assert_int_equal(plx_bdev_channel_get(rig.disk, rig.reactor, &t.ch), 0);
        assert_int_equal(tu_io(&t, PLX_BDEV_FLUSH, 0, 0, NULL), 0);
        plx_bdev_channel_put(t.ch);
        plx_crash_seed(rig.disk, at);
        plx_crash_arm(rig.disk, 0, at);
        struct plx_pool_check c = {.repair = true, .reactor = rig.reactor, .turn = rig_turn};
        const int ret = plx_pool_check(rig.disk, &c, &err);
        plx_crash_look(rig.disk, &s);
        cut = s.off;
        plx_crash_arm(rig.disk, 0, 0);
        assert_int_equal(ret, cut ? -EIO : 0);
        if (cut) {
            while (!s.settled) {
                rig_turn(rig.reactor);
                plx_crash_look(rig.disk, &s);
            }
            assert_int_equal(plx_bdev_crash_restore(rig.disk, &err), 0);
        }
        hurt_look(&rig, true); /* as it was, or as it is to be */
        if (hurt_seen.per[PLX_POOL_DAMAGE] || (hurt_seen.per[PLX_POOL_WASTE] && hurt_seen.per[PLX_POOL_WASTE] != 3))
            fail_msg("cut at %u: %s", (unsigned)at, hurt_seen.texts);
        hurt_mend(&rig, 4);
        assert_in_range(at, 1, 40);
    }
}
/* ---- what is being freed, and is damaged ---- */

static void become_dying(struct pck_record *r)
{
    r->state = PCK_DYING;
    memset(r->name, 0, sizeof r->name);
}

/* It is taken out, and who goes back to it owns what is left of it; but not if there are two of them. */
static void test_what_is_freed_and_damaged_is_taken_out(void **state)
{
    static const struct hurt_edit dying = {1, become_dying};
    struct pool_rig rig;
    (void)state;
    for (int two = 0; two < 2; two++) {
        make_of_one_snapshot(&rig, two);
        hurt_rot(&rig, hurt_record_of(&rig, 1).root.unit, 40);
        hurt_dir(&rig, hurt_edit_record, &dying);
        hurt_look(&rig, true);
        assert_int_equal(hurt_record_of(&rig, 1).state, two ? PCK_DYING : PCK_FREE);
        assert_int_equal(hurt_record_of(&rig, 0).parent, two ? 2 : 0);
        rig_end(&rig);
    }
}

/* ---- what it keeps ---- */

enum { KEPT_LEAVES = 12, KEPT_BLOCKS = KEPT_LEAVES * 2048 };

static struct plx_bdev *outside(void)
{
    uint8_t *data = tu_pattern(64 * HURT_UNIT, 9);
    struct plx_error err;
    struct plx_bdev *outer;
    struct tu t;
    if (plx_bdev_open_as("ram:1M", "outside", &outer, &err))
        fail_msg("%s", err.text);
    tu_join(&t, outer);
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 0, 64 * HURT_BLOCKS, data), 0);
    tu_leave(&t);
    free(data);
    return outer;
}

/*
 * Volumes of all kinds: "a", of "one"; "b", which is being made to go back to another snapshot, for which there is a
 * tree that borrows; "o", which goes back to a disk outside, in pools without checksums; and power is cut when what was
 * flushed of "a" is in the log alone.
 */
static void make_kept(struct pool_rig *rig, uint64_t at)
{
    uint8_t *data = tu_pattern(8 * HURT_UNIT, 3);
    struct plx_error err;
    struct plx_crash_state s;
    struct plx_pool_op outer = {
        .kind = PLX_POOL_CREATE, .name = "o", .size = (uint64_t)KEPT_BLOCKS * 512, .outer = "outside"};
    struct plx_pool_op move = {.kind = PLX_POOL_SET_PARENT, .volume = "b"};
    bool done = false;
    struct tu a, b, o;
    rig_make(rig, "crash:ram:8M", NULL);
    rig->pool->job_steps = 1;
    rig_create(rig, "a", (uint64_t)KEPT_BLOCKS * 512);
    rig_open(rig, "a", &a);
    for (uint64_t lba = 0; lba < KEPT_BLOCKS; lba += 2048)
        assert_int_equal(tu_io(&a, PLX_BDEV_WRITE, lba, 16, data), 0);
    rig_do(rig, PLX_POOL_SNAPSHOT, "a", "one", 0);
    rig_do(rig, PLX_POOL_CLONE, "one", "b", 0);
    rig_open(rig, "b", &b);
    for (uint64_t lba = 0; lba < KEPT_BLOCKS; lba += 2048)
        assert_int_equal(tu_io(&b, PLX_BDEV_WRITE, lba + 8, 16, data + HURT_UNIT), 0);
    if (!(rig->pool->flags & POOL_CHECKSUMS)) {
        assert_int_equal(rig_run(rig, &outer), 0);
        rig_open(rig, "o", &o);
        assert_int_equal(tu_io(&o, PLX_BDEV_UNMAP, 16, 8, NULL), 0);
        assert_int_equal(tu_io(&o, PLX_BDEV_WRITE, 35, 8, data), 0);
        rig_close(rig, &o);
    }
    rig_settle(rig);
    rig_begin(rig, &move, &done);
    for (uint64_t i = 0; i < at && !done; i++)
        rig_turn(rig->reactor);
    assert_int_equal(tu_io(&a, PLX_BDEV_WRITE, 4096, 64, data), 0);
    assert_int_equal(tu_io(&a, PLX_BDEV_FLUSH, 0, 0, NULL), 0);
    plx_bdev_crash_cut(rig->disk, NULL);
    while (!done)
        rig_turn(rig->reactor);
    rig_close(rig, &a);
    rig_close(rig, &b);
    pool_close_on(rig->pool);
    rig->pool = NULL;
    do {
        rig_turn(rig->reactor);
        plx_crash_look(rig->disk, &s);
    } while (!s.settled);
    assert_int_equal(plx_bdev_crash_restore(rig->disk, &err), 0);
    free(data);
}

static bool borrows(struct pool_rig *rig)
{
    for (unsigned i = 0; i < 8; i++) {
        const struct pck_record r = hurt_record_of(rig, i);
        if (r.state == PCK_DYING && r.flags & PCK_BORROWS)
            return true;
    }
    return false;
}

/* All that volumes hold, as who opens the pool reads it; which is changed by that. @return bytes of mem that are set */
static size_t read_kept(struct pool_rig *rig, uint8_t *mem)
{
    static const char *const names[] = {"a", "b", "one", "o"};
    size_t n = 0;
    struct tu t;
    rig_pool(rig);
    for (unsigned i = 0; i < (rig->pool->flags & POOL_CHECKSUMS ? 3 : 4); i++) {
        rig_open(rig, names[i], &t);
        for (uint64_t lba = 0; lba < KEPT_BLOCKS; lba += 2048, n += 64 * 512)
            assert_int_equal(tu_io(&t, PLX_BDEV_READ, lba, 64, mem + n), 0);
        rig_close(rig, &t);
    }
    rig_settle(rig);
    rig_check(rig);
    assert_int_equal(pool_close_on(rig->pool), 0);
    rig->pool = NULL;
    hurt_expect_clean(rig);
    return n;
}

static void put_image(struct pool_rig *rig, const uint8_t *mem)
{
    struct tu t = {.bdev = rig->disk, .reactor = rig->reactor, .info = plx_bdev_info(rig->disk)};
    assert_int_equal(plx_bdev_channel_get(rig->disk, rig->reactor, &t.ch), 0);
    for (uint64_t lba = 0; lba < sizeof image[0] / 512; lba += 512) {
        memcpy(image[1], mem + lba * 512, (size_t)512 * 512);
        assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, lba, 512, image[1]), 0);
    }
    plx_bdev_channel_put(t.ch);
}

/* The directory, the maps and the root are made anew; all that they say of volumes is what it was. */
static void test_a_repair_keeps_what_it_does_not_mend(void **state)
{
    static uint8_t was[4 * KEPT_LEAVES * 64 * 512], is[sizeof was];
    static const int last = 2047;
    struct pool_rig rig;
    struct pck_record before[8];
    (void)state;
    struct plx_bdev *outer = outside();
    uint64_t at = 1;
    make_kept(&rig, at);
    hurt_expect_clean(&rig);
    while (!borrows(&rig) || !strstr(hurt_seen.texts, "of the log will be replayed")) {
        rig_end(&rig);
        make_kept(&rig, ++at);
        hurt_expect_clean(&rig);
        assert_in_range(at, 1, 200);
    }
    get_image(&rig, image[0]);
    const size_t n = read_kept(&rig, was);
    put_image(&rig, image[0]);
    const struct pck_root root = hurt_root_of(&rig);
    hurt_map(&rig, hurt_set_bit, &last);
    hurt_dir(&rig, hurt_set_mapped, NULL);
    for (unsigned i = 0; i < 8; i++)
        before[i] = hurt_record_of(&rig, i);
    hurt_look(&rig, true);
    hurt_expect_clean(&rig);
    const struct pck_root now = hurt_root_of(&rig);
    assert_int_equal(now.generation, root.generation + 1);
    assert_int_equal(now.flags, root.flags);
    assert_int_equal(now.log_first, root.log_first);
    for (unsigned i = 0; i < 8; i++) {
        const struct pck_record after = hurt_record_of(&rig, i);
        before[i].mapped -= i ? 0 : 3;
        assert_memory_equal(&before[i], &after, sizeof after);
    }
    assert_int_equal(read_kept(&rig, is), n);
    assert_memory_equal(was, is, n);
    rig_end(&rig);
    assert_int_equal(plx_bdev_close(outer), 0);
}

/* ---- what cannot be read for now ---- */

static struct {
    struct plx_bdev *disk;
    unsigned left; /* turns until the next read fails */
} bad;

static void fail_next(void)
{
    struct plx_bdev_injection fail = {.type = PLX_BDEV_INJECT_FAILURE, .ops = 1 << PLX_BDEV_READ, .count = 1};
    struct plx_error err;
    assert_int_equal(plx_bdev_error_inject(bad.disk, &fail, &err), 0);
}

static void turn_bad(struct plx_reactor *r)
{
    rig_turn(r);
    if (bad.left && !--bad.left)
        fail_next();
}

/* Whichever it is: nothing is made anew as if there was nothing. */
static void test_a_read_that_fails_costs_nothing(void **state)
{
    static const int last = 2047;
    static const uint8_t uuid[16] = {1};
    static const struct plx_bdev_delays delays = {1, 1, 0, 0};
    struct plx_error err;
    struct pool_rig rig;
    unsigned failed = 0, left_alone = 0;
    (void)state;
    hurt_begin(&rig);
    hurt_map(&rig, hurt_set_bit, &last);
    hurt_dir(&rig, hurt_set_mapped, NULL);
    get_image(&rig, image[0]);
    const uint64_t generation = hurt_root_of(&rig).generation;
    for (unsigned at = 0; at < 100; at++) {
        struct plx_pool_check c = {
            .repair = true, .reactor = rig.reactor, .turn = turn_bad, .found = hurt_take, .arg = &hurt_seen};
        struct plx_bdev *slow; /* so that it is waited for each */
        assert_int_equal(plx_bdev_delay_create(rig.disk, "slow", uuid, &delays, &slow, &err), 0);
        assert_int_equal(plx_bdev_error_create(slow, "bad", uuid, &bad.disk, &err), 0);
        bad.left = at;
        if (!at)
            fail_next();
        hurt_seen = (struct hurt_seen){.texts = ""};
        int ret = plx_pool_check(bad.disk, &c, &err);
        const bool over = bad.left;
        assert_int_equal(plx_bdev_close(bad.disk), 0);
        assert_int_equal(plx_bdev_close(slow), 0);
        failed += ret != 0;
        left_alone += !ret && !c.repaired;
        assert_true(!c.repaired || !hurt_seen.per[PLX_POOL_DAMAGE] || strstr(hurt_seen.texts, "the map of region") ||
                    strstr(hurt_seen.texts, "a: the node") || strstr(hurt_seen.texts, "the node of"));
        assert_true(!c.repaired || c.generation == generation); /* not of the root of before */
        hurt_look(&rig, false);
        if (hurt_seen.per[PLX_POOL_DAMAGE])
            fail_msg("the read at turn %u: %s", at, hurt_seen.texts);
        rig_pool(&rig);
        uint32_t n = 0;
        for (uint32_t i = 0; i < rig.pool->slots; i++)
            n += rig.pool->volume[i] && rig.pool->volume[i]->name[0];
        assert_int_equal(n, 4);
        assert_int_equal(pool_close_on(rig.pool), 0);
        rig.pool = NULL;
        put_image(&rig, image[0]);
        if (over)
            break;
    }
    assert_in_range(left_alone, 3, 20); /* roots, and what the directory is */
    assert_in_range(failed, 1, 20);
    rig_end(&rig);
}

static bool can_be_read(struct pool_rig *rig, uint64_t number)
{
    struct tu t = {.bdev = rig->disk, .reactor = rig->reactor, .info = plx_bdev_info(rig->disk)};
    assert_int_equal(plx_bdev_channel_get(rig->disk, rig->reactor, &t.ch), 0);
    const uint16_t status = tu_io(&t, PLX_BDEV_READ, number * HURT_BLOCKS, HURT_BLOCKS, hurt_unit);
    plx_bdev_channel_put(t.ch);
    return !status;
}

/* The root of before is there, and must not be taken for the one that is valid. */
static void test_a_root_that_cannot_be_read(void **state)
{
    char path[] = "/tmp/pollux-test-XXXXXX", url[64];
    struct plx_error err;
    struct pool_rig rig;
    (void)state;
    const int fd = mkstemp(path);
    assert_true(fd >= 0 && !ftruncate(fd, 8 << 20));
    hurt_make(&rig, path);
    const struct pck_root r = hurt_root_of(&rig);
    const uint64_t place = r.generation % 2 * PCK_ROOT_PLACE;
    struct pck_root before;
    hurt_get(&rig, PCK_ROOT_PLACE - place);
    assert_true(pck_get_root(hurt_unit, &before));
    before.used += 3; /* there is something to repair */
    hurt_put_root(&rig, &before);
    rig_end(&rig);
    snprintf(url, sizeof url, "crash:%s?latent=1", path);
    rig_disk(&rig, url);
    uint64_t seed = 1;
    for (plx_crash_seed(rig.disk, seed); can_be_read(&rig, place) || !can_be_read(&rig, PCK_ROOT_PLACE - place);
         plx_crash_seed(rig.disk, ++seed))
        assert_in_range(seed, 1, 100000);
    struct plx_pool_check c = {
        .repair = true, .reactor = rig.reactor, .turn = rig_turn, .found = hurt_take, .arg = &hurt_seen};
    hurt_seen = (struct hurt_seen){.texts = ""};
    const int ret = plx_pool_check(rig.disk, &c, &err);
    assert_true(ret == -EIO ||
                (!ret && strstr(hurt_seen.texts, "cannot be read, which may be so for now, and may be")));
    assert_false(c.repaired || hurt_seen.mendable);
    rig_end(&rig);
    rig_disk(&rig, path);
    assert_int_equal(hurt_root_of(&rig).generation, r.generation);
    hurt_expect_clean(&rig);
    rig_end(&rig);
    close(fd);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_two_that_have_lost_the_same_snapshot),
        cmocka_unit_test(test_what_cannot_be_read_may_be_shared),
        cmocka_unit_test(test_volumes_of_a_later_version_are_left_alone),
        cmocka_unit_test(test_pools_of_a_later_version_are_left_alone),
        cmocka_unit_test(test_names_that_cannot_be_opened),
        cmocka_unit_test(test_each_gets_a_name_of_its_own),
        cmocka_unit_test(test_a_log_that_cannot_be_replayed),
        cmocka_unit_test(test_a_repair_that_is_cut_off),
        cmocka_unit_test(test_what_is_freed_and_damaged_is_taken_out),
        cmocka_unit_test(test_a_repair_keeps_what_it_does_not_mend),
        cmocka_unit_test(test_a_read_that_fails_costs_nothing),
        cmocka_unit_test(test_a_root_that_cannot_be_read),
    };
    rig_simulate(true); /* nobody waits for timers */
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rig_checksums(true);
    return failed + cmocka_run_group_tests_name("with checksums", tests, NULL, NULL);
}
