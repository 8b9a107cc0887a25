/* SPDX-License-Identifier: BSD-3-Clause */
/* The histogram behind the latencies of `pollux perf`. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "compare/histogram.h"

static struct histogram h, other;

static void fresh(void)
{
    histogram_init(&h);
    histogram_init(&other);
}

static void every_value_is_in_a_bucket_that_holds_it(void **state)
{
    (void)state;
    for (unsigned shift = 0; shift < HISTOGRAM_MAX_BITS; shift++) {
        for (int64_t off = -2; off <= 2; off++) {
            uint64_t v = (UINT64_C(1) << shift) + (uint64_t)off;
            if ((int64_t)v < 0 || v >> HISTOGRAM_MAX_BITS)
                continue;
            uint32_t b = histogram_bucket(v);
            assert_true(b < HISTOGRAM_BUCKETS);
            assert_true(v <= histogram_bucket_max(b));
            assert_true(b == 0 || v > histogram_bucket_max(b - 1));
        }
    }
}

static void a_bucket_is_at_most_a_128th_wide(void **state)
{
    (void)state;
    for (uint32_t b = 1; b < HISTOGRAM_BUCKETS; b++) {
        uint64_t low = histogram_bucket_max(b - 1) + 1, high = histogram_bucket_max(b);
        assert_true(high >= low);
        assert_true((high - low + 1) * 128 <= low || high == low);
    }
}

static void what_is_too_long_is_counted_as_the_longest(void **state)
{
    (void)state;
    assert_int_equal(histogram_bucket(UINT64_MAX), HISTOGRAM_BUCKETS - 1);
    fresh();
    histogram_add(&h, UINT64_MAX / 2, 1);
    assert_int_equal(h.buckets[HISTOGRAM_BUCKETS - 1], 1);
    assert_true(h.max == UINT64_MAX / 2);
}

static void percentiles_of_small_values_are_exact(void **state)
{
    (void)state;
    fresh();
    for (uint64_t v = 1; v <= 100; v++)
        histogram_add(&h, v, 1);
    assert_int_equal(histogram_percentile(&h, 1), 1);
    assert_int_equal(histogram_percentile(&h, 50), 50);
    assert_int_equal(histogram_percentile(&h, 90), 90);
    assert_int_equal(histogram_percentile(&h, 99), 99);
    assert_int_equal(histogram_percentile(&h, 99.5), 100);
    assert_int_equal(histogram_percentile(&h, 100), 100);
    assert_int_equal(histogram_percentile(&h, 0), 1);
    assert_true(histogram_average(&h) == 50.5);
}

static void percentiles_never_exceed_the_largest_value(void **state)
{
    (void)state;
    fresh();
    histogram_add(&h, 1000001, 3);
    assert_int_equal(histogram_percentile(&h, 50), 1000001);
    assert_int_equal(histogram_percentile(&h, 99.99), 1000001);
    assert_int_equal(h.min, 1000001);
}

static void percentiles_of_large_values_are_right_to_a_128th(void **state)
{
    (void)state;
    fresh();
    for (uint64_t v = 1; v <= 100000; v++)
        histogram_add(&h, v * 1000, 1);
    const double percents[] = {10, 50, 90, 99, 99.9, 99.99};
    for (size_t i = 0; i < sizeof percents / sizeof percents[0]; i++) {
        double exact = percents[i] * 1000 * 1000, got = (double)histogram_percentile(&h, percents[i]);
        assert_true(got >= exact && got <= exact * (1 + 1.0 / 128));
    }
}

static void a_value_may_be_counted_many_times_at_once(void **state)
{
    (void)state;
    fresh();
    histogram_add(&h, 10, 99);
    histogram_add(&h, 5000, 1);
    assert_int_equal(h.count, 100);
    assert_int_equal(h.sum, 990 + 5000);
    assert_int_equal(histogram_percentile(&h, 99), 10);
    assert_int_equal(histogram_percentile(&h, 99.9), 5000);
}

static void two_become_one(void **state)
{
    (void)state;
    fresh();
    histogram_add(&h, 7, 1);
    histogram_add(&other, 3, 2);
    histogram_add(&other, 70000, 1);
    histogram_merge(&h, &other);
    assert_int_equal(h.count, 4);
    assert_int_equal(h.min, 3);
    assert_int_equal(h.max, 70000);
    assert_int_equal(histogram_percentile(&h, 50), 3);
    assert_int_equal(histogram_percentile(&h, 75), 7);
}

static void an_empty_one_says_nothing(void **state)
{
    (void)state;
    fresh();
    assert_int_equal(histogram_percentile(&h, 99), 0);
    assert_true(histogram_average(&h) == 0);
    histogram_merge(&h, &other);
    assert_int_equal(h.count, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_value_is_in_a_bucket_that_holds_it),
        cmocka_unit_test(a_bucket_is_at_most_a_128th_wide),
        cmocka_unit_test(what_is_too_long_is_counted_as_the_longest),
        cmocka_unit_test(percentiles_of_small_values_are_exact),
        cmocka_unit_test(percentiles_never_exceed_the_largest_value),
        cmocka_unit_test(percentiles_of_large_values_are_right_to_a_128th),
        cmocka_unit_test(a_value_may_be_counted_many_times_at_once),
        cmocka_unit_test(two_become_one),
        cmocka_unit_test(an_empty_one_says_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
