/* SPDX-License-Identifier: BSD-3-Clause */
/* What the oracle lets pass after a cut, and each thing that it does not. */
#include "oracle.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum { BLOCK = 1024, BLOCKS = 8 };

static uint8_t block[BLOCK];

/* Contents that a number stands for; 0 for zeroes. In two sectors, of as many numbers. */
static const uint8_t *of_two(uint8_t first, uint8_t second)
{
    memset(block, first, 512);
    memset(block + 512, second, 512);
    return block;
}

static const uint8_t *of(uint8_t value)
{
    return of_two(value, value);
}

static void put(struct oracle *o, uint64_t lba, uint8_t value)
{
    oracle_done(o, oracle_write(o, lba, 1, of(value), false), true);
}

static void put_fua(struct oracle *o, uint64_t lba, uint8_t value)
{
    oracle_done(o, oracle_write(o, lba, 1, of(value), true), true);
}

static void flush(struct oracle *o)
{
    oracle_done(o, oracle_flush(o), true);
}

static void judged(struct oracle *o, uint64_t lba, uint8_t first, uint8_t second, enum oracle_verdict what)
{
    struct oracle_finding f;
    assert_int_equal(oracle_check(o, lba, 1, of_two(first, second), &f), what == ORACLE_FINE);
    assert_int_equal(f.what, what);
    if (what)
        assert_int_equal(f.lba, lba);
}

static void may_be(struct oracle *o, uint64_t lba, uint8_t value)
{
    judged(o, lba, value, value, ORACLE_FINE);
}

static void may_not_be(struct oracle *o, uint64_t lba, uint8_t value, enum oracle_verdict what)
{
    judged(o, lba, value, value, what);
}

static void what_was_not_flushed_may_be_there_or_not(void **state)
{
    (void)state;
    struct oracle *o = oracle_new(BLOCKS, BLOCK, 0);
    put(o, 3, 1);
    put(o, 3, 2);
    oracle_write(o, 3, 1, of(3), false); /* in flight */
    for (uint8_t v = 0; v <= 3; v++)
        may_be(o, 3, v);
    may_not_be(o, 3, 4, ORACLE_GARBAGE);
    may_not_be(o, 4, 1, ORACLE_FOREIGN);
    oracle_free(o);
}

static void what_was_flushed_is_there(void **state)
{
    (void)state;
    struct oracle *o = oracle_new(BLOCKS, BLOCK, 0);
    put(o, 3, 1);
    put(o, 3, 2);
    flush(o);
    may_not_be(o, 3, 0, ORACLE_LOST);
    may_not_be(o, 3, 1, ORACLE_OLD);
    may_be(o, 3, 2);
    put(o, 3, 3);
    may_be(o, 3, 2);
    may_be(o, 3, 3);
    put_fua(o, 3, 4);
    may_not_be(o, 3, 2, ORACLE_OLD);
    may_not_be(o, 3, 3, ORACLE_OLD);
    may_be(o, 3, 4);
    may_be(o, 2, 0);
    oracle_free(o);
}

static void a_flush_is_of_what_had_completed_before_it_was_submitted(void **state)
{
    (void)state;
    struct oracle *o = oracle_new(BLOCKS, BLOCK, 0);
    uint64_t w = oracle_write(o, 0, 1, of(1), false), first = oracle_flush(o);
    oracle_done(o, w, true);
    uint64_t second = oracle_flush(o);
    oracle_done(o, first, true);
    may_be(o, 0, 0);
    may_be(o, 0, 1);
    oracle_done(o, second, true);
    may_not_be(o, 0, 0, ORACLE_LOST);
    may_be(o, 0, 1);

    w = oracle_write(o, 0, 1, of(2), true); /* FUA, in flight */
    may_be(o, 0, 1);
    may_be(o, 0, 2);
    oracle_done(o, w, false);
    flush(o); /* of what failed nothing is certain */
    may_be(o, 0, 1);
    may_be(o, 0, 2);

    put(o, 0, 3);
    oracle_done(o, oracle_flush(o), false);
    may_be(o, 0, 1);
    may_be(o, 0, 2);
    flush(o);
    may_not_be(o, 0, 2, ORACLE_OLD); /* which failed before that was submitted */
    may_be(o, 0, 3);
    oracle_free(o);
}

static void of_two_at_the_same_time_either_may_win(void **state)
{
    (void)state;
    struct oracle *o = oracle_new(BLOCKS, BLOCK, 0);
    uint64_t a = oracle_write(o, 0, 2, (uint8_t[2 * BLOCK]){0}, false), b = oracle_write(o, 1, 1, of(2), false);
    oracle_done(o, b, true);
    oracle_done(o, a, true);
    put(o, 2, 9);
    flush(o);
    may_be(o, 1, 0);
    may_be(o, 1, 2);
    may_not_be(o, 1, 9, ORACLE_FOREIGN);
    oracle_free(o);
}

static void blocks_are_torn_where_they_may_be(void **state)
{
    (void)state;
    for (unsigned torn = 0; torn < 2; torn++) {
        struct oracle *o = oracle_new(BLOCKS, BLOCK, torn ? ORACLE_TORN : 0);
        put(o, 0, 1);
        flush(o);
        put(o, 0, 2);
        put(o, 1, 7);
        judged(o, 0, 1, 2, torn ? ORACLE_FINE : ORACLE_MIXED);
        judged(o, 0, 2, 1, torn ? ORACLE_FINE : ORACLE_MIXED);
        judged(o, 0, 2, 0, ORACLE_LOST);
        judged(o, 0, 1, 7, ORACLE_FOREIGN);
        judged(o, 0, 1, 8, ORACLE_GARBAGE);
        oracle_free(o);
    }
}

static void a_discard_is_a_hint_unless_it_zeroes(void **state)
{
    (void)state;
    for (unsigned zeroes = 0; zeroes < 2; zeroes++) {
        struct oracle *o = oracle_new(BLOCKS, BLOCK, zeroes ? ORACLE_DISCARD_ZEROES : 0);
        struct oracle_finding f;
        put(o, 0, 1);
        flush(o);
        oracle_done(o, oracle_discard(o, 0, 1), true);
        may_be(o, 0, 0);
        may_be(o, 0, 1);
        assert_int_equal(oracle_read_done(o, oracle_read(o), 0, 1, of(1), &f), !zeroes);
        flush(o);
        may_be(o, 0, 0);
        may_not_be(o, 0, 1, zeroes ? ORACLE_OLD : ORACLE_FINE);
        oracle_done(o, oracle_zeroes(o, 0, 1, true), true);
        may_be(o, 0, 0);
        may_not_be(o, 0, 1, ORACLE_OLD);
        oracle_free(o);
    }
}

static void with_power_what_has_completed_is_read(void **state)
{
    (void)state;
    struct oracle *o = oracle_new(BLOCKS, BLOCK, ORACLE_TORN);
    struct oracle_finding f;
    uint64_t early = oracle_read(o), w = oracle_write(o, 0, 1, of(1), false), during = oracle_read(o);
    oracle_done(o, w, true);
    uint64_t late = oracle_read(o), again = oracle_read(o);
    assert_true(oracle_read_done(o, early, 0, 1, of(1), &f));
    assert_true(oracle_read_done(o, during, 0, 1, of(0), &f));
    assert_false(oracle_read_done(o, late, 0, 1, of(0), &f));
    assert_int_equal(f.what, ORACLE_LOST);
    put(o, 0, 2);
    assert_false(oracle_read_done(o, again, 0, 1, of_two(1, 2), &f)); /* torn by a cut alone */
    assert_int_equal(f.what, ORACLE_MIXED);
    assert_non_null(strstr(f.text, "block 0, sector 1, has parts"));
    oracle_free(o);
}

static void what_was_read_after_a_cut_is_there_from_then_on(void **state)
{
    (void)state;
    static uint8_t all[BLOCKS * BLOCK];
    struct oracle *o = oracle_new(BLOCKS, BLOCK, 0);
    put(o, 0, 1);
    uint64_t w = oracle_write(o, 0, 1, of(2), false), r = oracle_read(o);
    struct oracle_finding f;
    memset(all, 1, BLOCK);
    assert_true(oracle_check(o, 0, BLOCKS, all, &f));
    oracle_restart(o, all);
    oracle_done(o, w, true);
    assert_true(oracle_read_done(o, r, 0, 1, of(77), &f)); /* forgotten */
    may_be(o, 0, 1);
    may_not_be(o, 0, 0, ORACLE_FOREIGN);
    may_not_be(o, 0, 2, ORACLE_GARBAGE);
    may_not_be(o, 1, 1, ORACLE_FOREIGN);
    put(o, 0, 3);
    may_be(o, 0, 1);
    flush(o);
    may_not_be(o, 0, 1, ORACLE_LOST);
    oracle_free(o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_not_flushed_may_be_there_or_not),
        cmocka_unit_test(what_was_flushed_is_there),
        cmocka_unit_test(a_flush_is_of_what_had_completed_before_it_was_submitted),
        cmocka_unit_test(of_two_at_the_same_time_either_may_win),
        cmocka_unit_test(blocks_are_torn_where_they_may_be),
        cmocka_unit_test(a_discard_is_a_hint_unless_it_zeroes),
        cmocka_unit_test(with_power_what_has_completed_is_read),
        cmocka_unit_test(what_was_read_after_a_cut_is_there_from_then_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
