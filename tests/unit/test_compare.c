/* SPDX-License-Identifier: BSD-3-Clause */
/* What `pollux compare` makes of figures: on simulated ones, of which it is known what is right. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/sample.h"
#include "base/util.h"
#include "compare/cells.h"

enum { TRIALS = 2000, ROUNDS = 6 };

static uint64_t seed = 88172645463325252; /* always the same */

static double uniform(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (double)(seed >> 11) / (double)(UINT64_C(1) << 53);
}

/* About normal. */
static double noise(void)
{
    double sum = 0;
    for (unsigned k = 0; k < 12; k++)
        sum += uniform();
    return sum - 6;
}

/* Machines of different kinds: quiet, noisy, one with rare breaks, one that becomes slower all the time. */
static double machine(unsigned kind, double at)
{
    switch (kind) {
    case 0:
        return 1000 + 5 * noise();
    case 1:
        return 1000 * exp(0.2 * noise());
    case 2:
        return uniform() < 0.1 ? 300 + 100 * uniform() : 1000 + 10 * noise();
    default:
        return 1000 * (1 - 0.01 * at) + 10 * noise();
    }
}

/* A and B in the order of a run. */
static bool says_no_difference(unsigned kind, double times)
{
    double v[2][ROUNDS];
    struct plx_interval change;
    for (unsigned round = 0; round < ROUNDS; round++)
        for (unsigned i = 0; i < 2; i++) {
            unsigned side = compare_turn(round, i, 2);
            v[side][round] = machine(kind, 2 * round + i) * (side ? times : 1);
        }
    assert_true(plx_median_change(v[0], v[1], ROUNDS, &change));
    return plx_no_difference(&change);
}

/* A against A. */
static void of_the_same_twice_no_difference_is_said_in_95_of_100_runs(void **state)
{
    (void)state;
    for (unsigned kind = 0; kind < 4; kind++) {
        unsigned none = 0;
        for (unsigned trial = 0; trial < TRIALS; trial++)
            none += says_no_difference(kind, 1);
        assert_in_range(none, TRIALS * 95 / 100, TRIALS);
    }
}

/* And not always: what is there is seen. */
static void a_difference_that_is_beyond_the_noise_is_said(void **state)
{
    unsigned none = 0;
    (void)state;
    for (unsigned trial = 0; trial < TRIALS; trial++)
        none += says_no_difference(0, 1.05);
    assert_int_equal(none, 0);
}

static void a_round_goes_forth_and_the_next_one_back(void **state)
{
    unsigned sum[4] = {0};
    (void)state;
    for (unsigned round = 0; round < ROUNDS; round++)
        for (unsigned i = 0; i < 4; i++)
            sum[compare_turn(round, i, 4)] += 4 * round + i;
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(sum[i], sum[0]); /* so that what rises evenly falls on all alike */
        assert_int_equal(compare_turn(0, i, 4), i);
        assert_int_equal(compare_turn(1, i, 4), 3 - i);
    }
}

/* ---- plans ---- */

static const struct compare_axes few = {.sizes = {4096, 512},
                                        .nsizes = 2,
                                        .depths = {32, 1, 128},
                                        .ndepths = 3,
                                        .reads = {100, 0},
                                        .nreads = 2,
                                        .cores = {1, 4},
                                        .ncores = 2,
                                        .digests = {false, true},
                                        .ndigests = 2,
                                        .polls = {PLX_POLL_ADAPTIVE},
                                        .npolls = 1};

static void one_thing_is_varied_at_a_time(void **state)
{
    static struct compare_load loads[COMPARE_LOADS];
    char text[96];
    (void)state;
    assert_int_equal(compare_plan(&few, loads), 3 + 1 + 1 + 1 + 1);
    compare_load_text(&loads[0], text, sizeof text);
    assert_string_equal(text, "4 KiB read, QD32");
    compare_load_text(&loads[3], text, sizeof text);
    assert_string_equal(text, "4 KiB write, QD32");
    compare_load_text(&loads[4], text, sizeof text);
    assert_string_equal(text, "512 B read, QD32");
    compare_load_text(&loads[6], text, sizeof text);
    assert_string_equal(text, "4 KiB read, QD32, 4 cores");
}

/* A depth below the number of queues is that number: of two loads that become the same so, there is one. */
static void all_combinations_are_each_once(void **state)
{
    static struct compare_load loads[COMPARE_LOADS];
    struct compare_axes all = few;
    (void)state;
    all.cross = true;
    unsigned n = compare_plan(&all, loads);
    assert_int_equal(n, 2 * 3 * 2 * 2 * 2);
    for (unsigned i = 0; i < n; i++) {
        assert_true(loads[i].depth >= loads[i].cores);
        for (unsigned k = 0; k < i; k++)
            assert_memory_not_equal(&loads[i], &loads[k], sizeof loads[i]);
    }
}

/* ---- results ---- */

static struct compare_load base = {.size = 4096, .depth = 32, .read_percent = 100, .cores = 1};
static struct compare_pair pairs[2] = {{.target = COMPARE_KERNEL, .host = COMPARE_POLLUX},
                                       {.target = COMPARE_POLLUX, .host = COMPARE_POLLUX}};
static struct compare_round rounds[2][ROUNDS];
static struct compare_cell cells[2];

static void make_cells(void)
{
    for (unsigned k = 0; k < 2; k++) {
        cells[k] = (struct compare_cell){
            .load = &base, .pair = &pairs[k], .rate = 1000, .rounds = rounds[k], .nrounds = ROUNDS};
        for (unsigned i = 0; i < ROUNDS; i++) {
            struct compare_round *r = &rounds[k][i];
            memset(r, 0, sizeof *r);
            r->fast.iops = 100000 * (k + 1) + i;
            r->fast.seconds = 1;
            r->fast.host = (struct compare_usage){.at = 1, .busy = 2, .user = 0.5, .system = 0.5, .threads = 0.25};
            r->fast.target = (struct compare_usage){.user = 0.25, .system = 0.25};
            histogram_init(&r->fast.latency);
            histogram_init(&r->paced.latency);
        }
    }
}

static double figure(const json_t *cell, const char *group, const char *name, const char *part)
{
    return json_number_value(json_object_get(json_object_get(json_object_get(cell, group), name), part));
}

static void cpu_time_is_that_of_the_whole_machine(void **state)
{
    const struct compare_results r = {cells, 2, ROUNDS, true};
    (void)state;
    make_cells();
    json_t *doc = compare_results(&r), *cell = json_array_get(json_object_get(doc, "cells"), 0);
    assert_float_equal(figure(cell, "figures", "cores", "mid"), 2, 1e-9);
    assert_float_equal(figure(cell, "figures", "cpu_us", "mid"), 2e6 / 100002.5, 1e-3);
    assert_float_equal(figure(cell, "figures", "iops_per_core", "mid"), 50001.25, 1e-3);
    static const char *const parts[] = {"host_user_us",     "host_system_us", "target_user_us",
                                        "target_system_us", "threads_us",     "rest_us"};
    double sum = 0;
    for (size_t i = 0; i < PLX_ARRAY_SIZE(parts); i++)
        sum += figure(cell, "figures", parts[i], "mid");
    assert_float_equal(sum, figure(cell, "figures", "cpu_us", "mid"), 1e-3);
    json_t *change = json_object_get(json_array_get(json_object_get(doc, "comparisons"), 0), "changes");
    assert_float_equal(json_number_value(json_object_get(json_object_get(change, "iops"), "mid")), 1, 1e-3);
    assert_string_equal(json_string_value(json_object_get(json_object_get(change, "iops"), "verdict")), "difference");
    assert_string_equal(json_string_value(json_object_get(json_object_get(change, "cpu_us"), "verdict")), "difference");
    json_decref(doc);
}

/* Five rounds with all at 100 us and one with all at 10 ms: the median of the averages would not show it. */
static void percentiles_are_of_all_rounds_together(void **state)
{
    const struct compare_results r = {cells, 1, ROUNDS, true};
    (void)state;
    make_cells();
    for (unsigned i = 0; i < ROUNDS; i++)
        histogram_add(&rounds[0][i].paced.latency, i == 3 ? 10000000 : 100000, 1000);
    json_t *doc = compare_results(&r), *cell = json_array_get(json_object_get(doc, "cells"), 0);
    assert_float_equal(figure(cell, "latency_us", "p50", "mid"), 100, 1);
    assert_float_equal(figure(cell, "latency_us", "p90", "mid"), 10000, 100);
    assert_float_equal(figure(cell, "latency_us", "p90", "low"), 100, 1);
    json_decref(doc);
}

static void fewer_than_six_rounds_have_no_interval_and_no_verdict(void **state)
{
    const struct compare_results r = {cells, 2, ROUNDS, false};
    (void)state;
    make_cells();
    cells[0].nrounds = cells[1].nrounds = 5;
    json_t *doc = compare_results(&r), *cell = json_array_get(json_object_get(doc, "cells"), 0);
    json_t *iops = json_object_get(json_object_get(cell, "figures"), "iops");
    assert_true(json_is_null(json_object_get(iops, "low")));
    json_t *change = json_object_get(json_array_get(json_object_get(doc, "comparisons"), 0), "changes");
    assert_string_equal(json_string_value(json_object_get(json_object_get(change, "iops"), "verdict")),
                        "too few rounds");
    assert_true(json_is_false(json_object_get(doc, "complete")));
    json_decref(doc);
}

static void a_cell_without_figures_says_why(void **state)
{
    const struct compare_results r = {cells, 2, ROUNDS, true};
    (void)state;
    make_cells();
    cells[0].nrounds = 0;
    snprintf(cells[0].reason, sizeof cells[0].reason, "no module <here>");
    json_t *doc = compare_results(&r), *cell = json_array_get(json_object_get(doc, "cells"), 0);
    assert_string_equal(json_string_value(json_object_get(cell, "status")), "not measured");
    assert_null(json_object_get(cell, "figures"));
    json_object_set_new(doc, "machine", json_object());
    char *page = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&page, &size);
    assert_int_equal(compare_html(doc, f), 0);
    fclose(f);
    assert_non_null(strstr(page, "not measured: no module &lt;here&gt;"));
    assert_null(strstr(page, "{{")); /* every place of the page was filled */
    free(page);
    json_decref(doc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(of_the_same_twice_no_difference_is_said_in_95_of_100_runs),
        cmocka_unit_test(a_difference_that_is_beyond_the_noise_is_said),
        cmocka_unit_test(a_round_goes_forth_and_the_next_one_back),
        cmocka_unit_test(one_thing_is_varied_at_a_time),
        cmocka_unit_test(all_combinations_are_each_once),
        cmocka_unit_test(cpu_time_is_that_of_the_whole_machine),
        cmocka_unit_test(percentiles_are_of_all_rounds_together),
        cmocka_unit_test(fewer_than_six_rounds_have_no_interval_and_no_verdict),
        cmocka_unit_test(a_cell_without_figures_says_why),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
