/* SPDX-License-Identifier: BSD-3-Clause */
/* What figures that were measured several times say. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/sample.h"
#include "base/util.h"

#define assert_near(a, b, by) assert_true(fabs((a) - (b)) < (by))

static void the_median_of_an_even_number_is_between_two(void **state)
{
    double odd[] = {9, 1, 5}, even[] = {4, 1, 9, 2}, single[] = {7};
    (void)state;
    assert_near(plx_median(odd, 3), 5, 1e-9);
    assert_near(plx_median(even, 4), 3, 1e-9);
    assert_near(plx_median(single, 1), 7, 1e-9);
}

/* By the binomial distribution: of 6 values from the 1st to the 6th, of 10 from the 2nd to the 9th. */
static void the_interval_of_a_median_is_between_the_values_that_tables_have(void **state)
{
    static const struct {
        unsigned n, low;
        bool enough;
    } table[] = {{1, 1, false}, {5, 1, false}, {6, 1, true}, {8, 1, true}, {9, 2, true}, {10, 2, true}, {20, 6, true}};
    (void)state;
    for (size_t i = 0; i < PLX_ARRAY_SIZE(table); i++) {
        double v[32];
        struct plx_interval found;
        for (unsigned k = 0; k < table[i].n; k++)
            v[k] = (double)(table[i].n - k);
        assert_int_equal(plx_median_interval(v, table[i].n, &found), table[i].enough);
        assert_near(found.low, table[i].low, 1e-9);
        assert_near(found.high, table[i].n + 1 - table[i].low, 1e-9);
    }
}

/* Quantiles as tables have them, of 1, 5, 10, 12, 30 and 99 degrees of freedom. */
static void the_interval_of_a_mean_is_as_wide_as_students_distribution_has_it(void **state)
{
    static const struct {
        unsigned n;
        double t;
    } table[] = {{2, 12.706}, {6, 2.571}, {11, 2.228}, {13, 2.179}, {31, 2.042}, {100, 1.984}};
    (void)state;
    for (size_t i = 0; i < PLX_ARRAY_SIZE(table); i++) {
        double v[100], n = table[i].n, mean = (n + 1) / 2;
        struct plx_interval found;
        for (unsigned k = 0; k < table[i].n; k++)
            v[k] = k + 1;
        double deviation = sqrt(n * (n + 1) / 12); /* of 1 to n */
        assert_true(plx_mean_interval(v, table[i].n, &found));
        assert_near(found.mid, mean, 1e-9);
        assert_near((found.high - mean) / (deviation / sqrt(n)), table[i].t, 0.002);
        assert_near(mean - found.low, found.high - mean, 1e-9);
    }
}

static void one_value_has_no_interval(void **state)
{
    double v[] = {3};
    struct plx_interval found;
    (void)state;
    assert_false(plx_mean_interval(v, 1, &found));
    assert_near(found.mid, 3, 1e-9);
}

/* Twice and half as much are the same change, in two directions. */
static void a_change_is_a_part_of_what_was_before(void **state)
{
    double a[] = {100, 200, 50}, b[] = {200, 400, 100};
    struct plx_interval up, down;
    (void)state;
    assert_true(plx_change_interval(a, b, 3, &up));
    assert_true(plx_change_interval(b, a, 3, &down));
    assert_near(up.mid, 1, 1e-9);
    assert_near(down.mid, -0.5, 1e-9);
    assert_near(up.low, 1, 1e-9);
    assert_false(plx_no_difference(&up));
    assert_false(plx_no_difference(&down));
    assert_false(plx_change_interval(a, b, 1, &up));
}

static void what_goes_both_ways_is_no_difference(void **state)
{
    double a[] = {100, 100, 100, 100}, b[] = {103, 98, 102, 99};
    struct plx_interval found;
    (void)state;
    assert_true(plx_change_interval(a, b, 4, &found));
    assert_true(found.low < 0 && found.high > 0);
    assert_true(plx_no_difference(&found));
    assert_true(plx_no_difference(&(struct plx_interval){0, 0, 0}));
}

/* What rises with each run rises by as much for either. */
static void what_drifts_evenly_falls_on_both_alike(void **state)
{
    double sum[2] = {0, 0};
    (void)state;
    for (unsigned i = 0; i < 8; i++)
        sum[plx_abba(i)] += i;
    assert_false(plx_abba(0));
    assert_true(plx_abba(1));
    assert_near(sum[0], sum[1], 1e-9);
}

/* A versus A: intervals of 95 % miss 0 in about one of twenty. */
static void of_the_same_twice_few_differ(void **state)
{
    uint64_t x = 88172645463325252; /* xorshift, always the same */
    unsigned differ = 0;
    (void)state;
    for (unsigned trial = 0; trial < 1000; trial++) {
        double v[2][8];
        struct plx_interval found;
        for (unsigned i = 0; i < 16; i++) {
            double sum = 0;
            for (unsigned k = 0; k < 12; k++) { /* about normal */
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                sum += (double)(x >> 11) / (double)(UINT64_C(1) << 53);
            }
            v[i % 2][i / 2] = 1000 + 20 * (sum - 6);
        }
        assert_true(plx_change_interval(v[0], v[1], 8, &found));
        differ += !plx_no_difference(&found);
    }
    assert_in_range(differ, 25, 80);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_median_of_an_even_number_is_between_two),
        cmocka_unit_test(the_interval_of_a_median_is_between_the_values_that_tables_have),
        cmocka_unit_test(the_interval_of_a_mean_is_as_wide_as_students_distribution_has_it),
        cmocka_unit_test(one_value_has_no_interval),
        cmocka_unit_test(a_change_is_a_part_of_what_was_before),
        cmocka_unit_test(what_goes_both_ways_is_no_difference),
        cmocka_unit_test(what_drifts_evenly_falls_on_both_alike),
        cmocka_unit_test(of_the_same_twice_few_differ),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
