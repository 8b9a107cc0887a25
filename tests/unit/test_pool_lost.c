/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Pools of which the directory is damaged: it costs the volumes that are there, and never the pool. The others have
 * what they had, take what is written, and nothing of what any of them has is given to another; and what is left by
 * that can be repaired as if it had not been opened.
 */
#include "pool_hurt.h"

#include <errno.h>
#include <pollux/bdev_filter.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCKS = HURT_VOLUME / 512, PIECE = 64, MANY = 20 };

/* Of hurt_make(), by number. */
static const char *const names[] = {"a", "one", NULL, "b", "c"};

/* What volumes have. */
static uint8_t is[HURT_VOLUME], had[PLX_ARRAY_SIZE(names)][HURT_VOLUME];

static bool is_there(struct pool_rig *rig, unsigned i)
{
    return names[i] && pool_volume_find(rig->pool, names[i]);
}

static void read_volume(struct pool_rig *rig, const char *name, uint8_t *mem)
{
    struct tu t;
    rig_open(rig, name, &t);
    for (unsigned at = 0; at < BLOCKS; at += 8 * PIECE)
        assert_int_equal(rig_io(&t, PLX_BDEV_READ, at, 8 * PIECE, mem + at * 512), 0);
    rig_close(rig, &t);
}

static void look_at_volumes(struct pool_rig *rig)
{
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(names); i++) {
        if (!is_there(rig, i))
            continue;
        read_volume(rig, names[i], is);
        if (memcmp(is, had[i], sizeof is))
            fail_msg("%s has not what it had", names[i]);
    }
}

/* Begins with the pool open, and what its volumes have known. */
static void begin(struct pool_rig *rig)
{
    hurt_begin(rig);
    rig_pool(rig);
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(names); i++)
        if (names[i])
            read_volume(rig, names[i], had[i]);
    rig_settle(rig);
    assert_int_equal(pool_close_on(rig->pool), 0);
    rig->pool = NULL;
}

/* Writes and discards in all that can be written to, here and there, until there is no room any more. */
static void use_volumes(struct pool_rig *rig, uint64_t seed)
{
    static uint8_t data[4096 * 8];
    rig->pool->full_wait_ns = 0;
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(names); i++) {
        if (!is_there(rig, i) || pool_volume_find(rig->pool, names[i])->state != POOL_VOLUME)
            continue;
        struct tu t;
        rig_open(rig, names[i], &t);
        for (unsigned n = 0; n < 60; n++) {
            const uint64_t lba = tu_random(&seed) % (BLOCKS - 64);
            const uint32_t nlb = 1 + (uint32_t)(tu_random(&seed) % 64);
            const bool gone = n % 4 == 3;
            for (uint32_t k = 0; k < nlb * 512; k++)
                data[k] = (uint8_t)tu_random(&seed);
            const uint16_t status =
                rig_io(&t, gone ? PLX_BDEV_WRITE_ZEROES : PLX_BDEV_WRITE, lba, nlb, gone ? NULL : data);
            if (status) /* in part, perhaps */
                assert_int_equal(rig_io(&t, PLX_BDEV_READ, lba, nlb, had[i] + lba * 512), 0);
            else if (gone)
                memset(had[i] + lba * 512, 0, nlb * 512);
            else
                memcpy(had[i] + lba * 512, data, nlb * 512);
        }
        assert_int_equal(rig_io(&t, PLX_BDEV_FLUSH, 0, 0, NULL), 0);
        rig_close(rig, &t);
    }
}

static void expect_refused(struct pool_rig *rig, enum plx_pool_op_kind kind, const char *volume, const char *name)
{
    struct plx_pool_op op = {.kind = kind, .volume = volume, .name = name};
    assert_int_equal(rig_run(rig, &op), -EUCLEAN);
    assert_non_null(strstr(op.err.text, "has lost volumes"));
}

static void check_lost_volume(unsigned victim)
{
    const struct hurt_edit edit = {victim, hurt_absurd_size};
    struct plx_pool_info info;
    struct pool_rig rig;
    begin(&rig);
    hurt_dir(&rig, hurt_edit_record, &edit);
    for (unsigned round = 0; round < 3; round++) {
        rig_pool(&rig);
        plx_pool_get_info(rig.pool, &info);
        assert_int_equal(info.lost, 1);
        assert_false(info.freeing);
        for (unsigned i = 0; i < PLX_ARRAY_SIZE(names); i++)
            assert_int_equal(is_there(&rig, i), names[i] && i != victim);
        look_at_volumes(&rig);
        if (!round) /* of one whose parent is lost, perhaps */
            rig_do(&rig, PLX_POOL_SNAPSHOT, victim ? "a" : "b", "new", 0);
        use_volumes(&rig, 10 * victim + round);
        look_at_volumes(&rig);
        expect_refused(&rig, PLX_POOL_DELETE, "new", NULL);
        expect_refused(&rig, PLX_POOL_DELETE, victim == 4 ? "b" : "c", NULL);
        expect_refused(&rig, PLX_POOL_DECOUPLE, victim == 4 ? "b" : "c", NULL);
        expect_refused(&rig, PLX_POOL_REVERT, victim ? "a" : "b", "new");
        assert_int_equal(pool_close_on(rig.pool), 0);
        rig.pool = NULL;
    }
    if (victim == 1 || victim == 2) { /* which several go back to */
        hurt_expect(&rig, PLX_POOL_DAMAGE, false, "whose that is cannot be told");
        rig_end(&rig);
        return;
    }
    for (int i = 0; i < 3; i++)
        hurt_look(&rig, true);
    hurt_expect_clean(&rig);
    rig_pool(&rig);
    assert_int_equal(rig.pool->lost, 0);
    look_at_volumes(&rig);
    rig_settle(&rig);
    rig_check(&rig);
    rig_do(&rig, PLX_POOL_REVERT, victim ? "a" : "b", "new", 0);
    rig_settle(&rig);
    rig_check(&rig);
    rig_end(&rig);
}

/* A volume, a snapshot that one goes back to and one that several do, one that was deleted, and clones. */
static void test_a_record_that_cannot_be_costs_its_volume(void **state)
{
    (void)state;
    for (unsigned victim = 0; victim < PLX_ARRAY_SIZE(names); victim++)
        check_lost_volume(victim);
}

static void test_of_two_with_one_name_there_is_one(void **state)
{
    static const struct hurt_edit twin = {0, hurt_twin_name};
    struct pool_rig rig;
    (void)state;
    begin(&rig);
    hurt_dir(&rig, hurt_edit_record, &twin);
    rig_pool(&rig);
    assert_int_equal(rig.pool->lost, 1);
    memcpy(had[3], had[0], sizeof had[0]); /* "b", the first of the two */
    look_at_volumes(&rig);
    assert_int_equal(pool_close_on(rig.pool), 0);
    rig.pool = NULL;
    hurt_mend(&rig, 4);
}

static void goes_back_to_itself(struct pck_record *r)
{
    r->parent = 4;
}

static void goes_back_to_nobody(struct pck_record *r)
{
    r->parent = 8;
}

static void test_parents_that_cannot_be(void **state)
{
    static const struct {
        struct hurt_edit edit;
        bool lost;
    } tries[] = {{{3, goes_back_to_itself}, true}, {{3, goes_back_to_nobody}, false}};
    struct pool_rig rig;
    (void)state;
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(tries); i++) {
        begin(&rig);
        hurt_dir(&rig, hurt_edit_record, &tries[i].edit);
        rig_pool(&rig);
        assert_int_equal(rig.pool->lost, 1);
        assert_int_equal(is_there(&rig, 3), !tries[i].lost);
        look_at_volumes(&rig);
        use_volumes(&rig, i);
        look_at_volumes(&rig);
        assert_int_equal(pool_close_on(rig.pool), 0);
        rig.pool = NULL;
        hurt_look(&rig, true);
        rig_pool(&rig);
        look_at_volumes(&rig);
        rig_end(&rig);
    }
}

/* What was written since it was opened is its own: it is overwritten in place, or given back. */
static void test_what_goes_back_to_what_is_lost_takes_no_more_than_it_has(void **state)
{
    static const struct hurt_edit edit = {1, hurt_absurd_size};
    uint8_t *data = tu_pattern(4096, 3);
    struct pool_rig rig;
    struct tu t;
    (void)state;
    begin(&rig);
    hurt_dir(&rig, hurt_edit_record, &edit);
    rig_pool(&rig);
    rig.pool->full_wait_ns = 0;
    rig_open(&rig, "b", &t);
    for (unsigned i = 0; i < 3000; i++) { /* the pool has 2048 */
        data[0] = (uint8_t)i;
        assert_int_equal(rig_io(&t, PLX_BDEV_WRITE, 8 * (i % 4), 8, data), 0);
    }
    rig_close(&rig, &t);
    rig_end(&rig);
    free(data);
}

static void is_deleted(struct pck_record *r)
{
    r->state = PCK_DYING;
}

/* A snapshot was deleted, and is not freed yet; the one that goes back to it is lost, and has what it had. */
static void test_what_is_being_freed_stays(void **state)
{
    static const struct hurt_edit edit = {2, hurt_absurd_size}, dying = {1, is_deleted};
    uint8_t *data = tu_pattern(64 * HURT_UNIT, 5);
    struct pool_rig rig;
    struct tu t;
    (void)state;
    rig_make(&rig, "ram:8M", NULL);
    rig_create(&rig, "a", HURT_VOLUME);
    rig_open(&rig, "a", &t);
    for (unsigned at = 0; at < BLOCKS; at += 64 * HURT_BLOCKS)
        assert_int_equal(rig_io(&t, PLX_BDEV_WRITE, at, 64 * HURT_BLOCKS, data), 0);
    rig_do(&rig, PLX_POOL_SNAPSHOT, "a", "one", 0);
    assert_int_equal(rig_io(&t, PLX_BDEV_WRITE, 0, 8, data), 0);
    rig_do(&rig, PLX_POOL_SNAPSHOT, "a", "two", 0);
    rig_close(&rig, &t);
    rig_settle(&rig);
    assert_int_equal(pool_close_on(rig.pool), 0);
    rig.pool = NULL;
    hurt_dir(&rig, hurt_edit_record, &dying);
    hurt_dir(&rig, hurt_edit_record, &edit);
    rig_pool(&rig);
    assert_int_equal(rig.pool->lost, 1);
    const uint64_t used = rig.pool->used;
    for (unsigned i = 0; i < 1000; i++)
        rig_turn(rig.reactor);
    assert_true(rig.pool->used >= used && !rig.pool->freed.n);
    read_volume(&rig, "a", had[0]);
    use_volumes(&rig, 1);
    look_at_volumes(&rig);
    rig_end(&rig);
    free(data);
}

/* ---- pages ---- */

static void many_begin(struct pool_rig *rig, const char *url)
{
    struct tu t;
    uint8_t *data = tu_pattern(4096, 7);
    rig_make(rig, url, NULL);
    for (unsigned i = 0; i < MANY; i++) {
        char name[16];
        snprintf(name, sizeof name, "v%u", i);
        rig_create(rig, name, 1 << 20);
        rig_open(rig, name, &t);
        data[0] = (uint8_t)i;
        assert_int_equal(rig_io(&t, PLX_BDEV_WRITE, 8 * i, 8, data), 0);
        rig_close(rig, &t);
    }
    rig_settle(rig);
    free(data);
}

/* Those of the first page are lost, and so are the others not. */
static void many_look(struct pool_rig *rig, bool lost)
{
    uint8_t *data = tu_pattern(4096, 7);
    struct tu t;
    for (unsigned i = 0; i < MANY; i++) {
        char name[16];
        snprintf(name, sizeof name, "v%u", i);
        assert_int_equal(pool_volume_find(rig->pool, name) == NULL, lost && i < 8);
        if (lost && i < 8)
            continue;
        rig_open(rig, name, &t);
        data[0] = (uint8_t)i;
        assert_int_equal(rig_io(&t, PLX_BDEV_READ, 8 * i, 8, is), 0);
        assert_memory_equal(is, data, 4096);
        rig_close(rig, &t);
    }
    free(data);
}

static uint64_t first_page(struct pool_rig *rig)
{
    struct pck_root r = hurt_root_of(rig);
    for (int level = 0; level < 2; level++) {
        hurt_get(rig, r.dir.unit);
        r.dir = pck_get_entry(hurt_unit);
    }
    return r.dir.unit;
}

static void test_a_page_that_is_damaged_costs_what_is_in_it(void **state)
{
    struct pool_rig rig;
    (void)state;
    many_begin(&rig, "ram:16M");
    assert_int_equal(pool_close_on(rig.pool), 0);
    hurt_rot(&rig, first_page(&rig), 3 * PCK_RECORD_BYTES + 72);
    for (unsigned round = 0; round < 2; round++) {
        rig_pool(&rig);
        assert_int_equal(rig.pool->lost, 8);
        many_look(&rig, true);
        expect_refused(&rig, PLX_POOL_CREATE, NULL, "v2"); /* which may come back */
        expect_refused(&rig, PLX_POOL_RENAME, "v12", "v2");
        expect_refused(&rig, PLX_POOL_SNAPSHOT, "v12", "v2");
        expect_refused(&rig, PLX_POOL_DELETE, "v12", NULL);
        assert_int_equal(pool_close_on(rig.pool), 0);
    }
    rig.pool = NULL;
    for (int i = 0; i < 3; i++)
        hurt_look(&rig, true);
    hurt_expect_clean(&rig);
    rig_pool(&rig);
    assert_int_equal(rig.pool->lost, 0);
    assert_null(pool_volume_find(rig.pool, "v3"));
    assert_non_null(pool_volume_find(rig.pool, "v2")); /* which could be told, in that page */
    rig_settle(&rig);
    rig_check(&rig);
    rig_end(&rig);
}

/* All that there is, and a page that is larger than what the root says that there is. */
static void test_the_only_page_is_damaged(void **state)
{
    struct pool_rig rig;
    (void)state;
    rig_make(&rig, "ram:8M", NULL);
    rig_create(&rig, "v", 1 << 20);
    assert_int_equal(pool_close_on(rig.pool), 0);
    hurt_rot(&rig, first_page(&rig), 72);
    rig_pool(&rig);
    assert_int_equal(rig.pool->lost, 8);
    rig_end(&rig);
}

/* ---- the log ---- */

/* Written, discarded and flushed to, and nothing but the log knows. */
static void leave_changes(struct pool_rig *rig, uint8_t *data)
{
    static const char *const written[] = {"v2", "v12"};
    struct tu t;
    many_begin(rig, "crash:ram:16M");
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(written); i++) {
        rig_open(rig, written[i], &t);
        assert_int_equal(rig_io(&t, PLX_BDEV_WRITE, 400, 8, data), 0);
        assert_int_equal(rig_io(&t, PLX_BDEV_UNMAP, 8 * (i ? 12 : 2), 8, NULL), 0);
        assert_int_equal(rig_io(&t, PLX_BDEV_FLUSH, 0, 0, NULL), 0);
        rig_close(rig, &t);
    }
    rig_cut(rig, rig->disk);
}

static void look_at_changes(struct pool_rig *rig, const char *name, uint64_t gone, const uint8_t *data)
{
    struct tu t;
    rig_open(rig, name, &t);
    assert_int_equal(rig_io(&t, PLX_BDEV_READ, 400, 8, is), 0);
    assert_memory_equal(is, data, 4096);
    assert_int_equal(rig_io(&t, PLX_BDEV_READ, gone, 8, is), 0);
    assert_true(tu_zeroed(is, 4096));
    rig_close(rig, &t);
}

/* A repair brings the volume back, with all that was flushed to it: until then it is left where it is. */
static void test_changes_of_what_may_come_back_are_kept(void **state)
{
    uint8_t *data = tu_pattern(4096, 9);
    struct plx_error err = {""};
    struct pool_rig rig;
    (void)state;
    leave_changes(&rig, data);
    hurt_rot(&rig, first_page(&rig), 72); /* of v0 */
    const struct pool_keeper keeper = {rig.reactor, rig_turn};
    assert_int_equal(pool_open_on(rig.disk, &keeper, &rig.pool, &err), -ESTALE);
    assert_non_null(strstr(err.text, "may be brought back"));
    for (int i = 0; i < 3; i++)
        hurt_look(&rig, true);
    hurt_expect_clean(&rig);
    rig_pool(&rig);
    assert_int_equal(rig.pool->lost, 0);
    look_at_changes(&rig, "v2", 16, data);
    look_at_changes(&rig, "v12", 96, data);
    rig_settle(&rig);
    rig_check(&rig);
    rig_end(&rig);
    free(data);
}

/* Nothing brings it back: what the log has of it is lost with it, and the others' is not. */
static void test_changes_of_what_is_lost_for_good(void **state)
{
    static const struct hurt_edit edit = {2, hurt_absurd_size};
    uint8_t *data = tu_pattern(4096, 9);
    struct pool_rig rig;
    (void)state;
    leave_changes(&rig, data);
    hurt_dir(&rig, hurt_edit_record, &edit);
    rig_pool(&rig);
    assert_int_equal(rig.pool->lost, 1);
    look_at_changes(&rig, "v12", 96, data);
    rig_create(&rig, "new", 1 << 20);
    assert_int_equal(pool_volume_find(rig.pool, "new")->number, MANY); /* not where it was */
    rig_end(&rig);
    free(data);
}

/* ---- what cannot be read ---- */

#define TAKES_A_WHILE "error:[crash:ram:16M?latency=50us&seed=1]"

static struct plx_bdev *failing;
static unsigned turns, fails_at;

/* Reads fail: as many as pages are read ahead, by whom it is not told, and one more. */
static void failing_turn(struct plx_reactor *r)
{
    static const struct plx_bdev_injection fail = {.type = PLX_BDEV_INJECT_FAILURE,
                                                   .ops = 1 << PLX_BDEV_READ,
                                                   .count = 4,
                                                   .status = PLX_SC_UNRECOVERED_READ_ERROR};
    struct plx_error err;
    if (turns++ == fails_at)
        assert_int_equal(plx_bdev_error_inject(failing, &fail, &err), 0);
    rig_turn(r);
}

/* From some time of the opening on. @return whether it is open */
static bool open_failing(struct pool_rig *rig, unsigned at, struct plx_error *err)
{
    static const struct plx_bdev_injection none = {.ops = 1 << PLX_BDEV_READ};
    const struct pool_keeper keeper = {rig->reactor, failing_turn};
    failing = rig->disk;
    fails_at = at;
    turns = 0;
    const int ret = pool_open_on(rig->disk, &keeper, &rig->pool, err);
    assert_int_equal(plx_bdev_error_inject(failing, &none, NULL), 0);
    assert_true(!ret || err->text[0]);
    if (ret)
        rig->pool = NULL;
    return !ret;
}

static void test_volumes_that_cannot_be_read_for_now(void **state)
{
    struct plx_error err;
    struct pool_rig rig;
    unsigned lost = 0;
    (void)state;
    many_begin(&rig, TAKES_A_WHILE);
    assert_int_equal(pool_close_on(rig.pool), 0);
    for (unsigned at = 0; at < 16; at++) {
        if (!open_failing(&rig, at, &err))
            continue;
        for (unsigned i = 0; rig.pool->lost && i < 8; i++)
            assert_true(rig.pool->volume[i]->kept);
        lost += rig.pool->lost;
        assert_int_equal(pool_close_on(rig.pool), 0);
    }
    assert_true(lost);
    rig_pool(&rig); /* they are there again */
    assert_int_equal(rig.pool->lost, 0);
    many_look(&rig, false);
    rig_end(&rig);
}

/* What the log has of them does not go. */
static void test_changes_of_what_cannot_be_read_for_now(void **state)
{
    uint8_t *data = tu_pattern(4096, 9);
    struct pool_rig rig;
    unsigned told = 0;
    struct tu t;
    (void)state;
    many_begin(&rig, TAKES_A_WHILE);
    for (unsigned at = 0; at < 16; at++) {
        struct plx_error err = {""};
        rig_open(&rig, "v2", &t);
        assert_int_equal(rig_io(&t, PLX_BDEV_WRITE, 400 + 8 * at, 8, data), 0);
        assert_int_equal(rig_io(&t, PLX_BDEV_FLUSH, 0, 0, NULL), 0);
        rig_close(&rig, &t);
        rig_cut(&rig, plx_bdev_below(rig.disk));
        if (!open_failing(&rig, at, &err)) {
            told += strstr(err.text, "may be brought back") != NULL;
            rig_pool(&rig);
        }
        assert_int_equal(rig.pool->lost, 0);
        rig_open(&rig, "v2", &t);
        assert_int_equal(rig_io(&t, PLX_BDEV_READ, 400 + 8 * at, 8, is), 0);
        assert_memory_equal(is, data, 4096);
        rig_close(&rig, &t);
    }
    assert_true(told);
    rig_end(&rig);
    free(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_record_that_cannot_be_costs_its_volume),
        cmocka_unit_test(test_of_two_with_one_name_there_is_one),
        cmocka_unit_test(test_parents_that_cannot_be),
        cmocka_unit_test(test_what_goes_back_to_what_is_lost_takes_no_more_than_it_has),
        cmocka_unit_test(test_what_is_being_freed_stays),
        cmocka_unit_test(test_a_page_that_is_damaged_costs_what_is_in_it),
        cmocka_unit_test(test_the_only_page_is_damaged),
        cmocka_unit_test(test_changes_of_what_may_come_back_are_kept),
        cmocka_unit_test(test_changes_of_what_is_lost_for_good),
        cmocka_unit_test(test_volumes_that_cannot_be_read_for_now),
        cmocka_unit_test(test_changes_of_what_cannot_be_read_for_now),
    };
    rig_simulate(true);
    int ret = cmocka_run_group_tests(tests, NULL, NULL);
    rig_simulate(false);
    return ret;
}
