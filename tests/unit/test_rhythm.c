/* SPDX-License-Identifier: BSD-3-Clause */
/* The rhythm of work: told in advance where there is one, and cheap where there is none. Time is simulated. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>

#include "base/util.h"
#include "reactor/rhythm.h"

#define US UINT64_C(1000)

enum { LATE_US = 50, WARM_UP = 200, BURSTS = 1000 };

/* A reactor that sleeps and spins as it is told, in a kernel that wakes it LATE_US late. */
struct sim {
    struct plx_rhythm rhythm;
    uint64_t now, spun, seed;
    unsigned met, wakes; /* bursts that were met spinning; sleeps that ended by themselves */
};

static int setup(void **state)
{
    struct sim *s = calloc(1, sizeof *s);
    assert_non_null(s);
    plx_rhythm_init(&s->rhythm);
    s->now = 1000 * PLX_NS_PER_MS;
    *state = s;
    return 0;
}

static int teardown(void **state)
{
    free(*state);
    return 0;
}

static uint64_t random_below(struct sim *s, uint64_t limit)
{
    s->seed = s->seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (s->seed >> 33) % limit;
}

/* Passes the time until the burst that begins at `at`. @return whether it was met spinning */
static bool wait_for(struct sim *s, uint64_t at)
{
    uint64_t slept = s->now, wake;
    bool spinning;
    while ((spinning = plx_rhythm_due(&s->rhythm, s->now, 200 * US, &wake)) || wake) {
        if (spinning) {
            s->now += US;
            s->spun += US;
            if (s->now < at)
                continue;
            plx_rhythm_learn(&s->rhythm, s->now, s->now);
            s->met++;
            return true;
        }
        assert_true(wake > s->now);
        if (wake + LATE_US * US >= at)
            break; /* it comes before we are awake */
        s->now = wake + LATE_US * US;
        s->wakes++;
        plx_rhythm_overslept(&s->rhythm, LATE_US * US);
    }
    slept = plx_max_u64(slept, s->now);
    s->now = plx_max_u64(s->now, at) + LATE_US * US;
    plx_rhythm_learn(&s->rhythm, plx_max_u64(s->now - s->rhythm.late, slept), s->now);
    if (wake && s->now > wake)
        plx_rhythm_overslept(&s->rhythm, s->now - wake);
    return false;
}

/* Bursts by a schedule, each off it by up to `noise` in either direction. @return how many were met */
static unsigned steady(struct sim *s, unsigned n, uint64_t period, uint64_t noise)
{
    const uint64_t start = s->now;
    s->met = 0;
    s->spun = 0;
    for (unsigned i = 1; i <= n; i++)
        wait_for(s, start + i * period - noise + random_below(s, 2 * noise + 1));
    return s->met;
}

static void a_steady_rhythm_is_met(void **state)
{
    struct sim *s = *state;
    steady(s, WARM_UP, 1000 * US, 2 * US);
    assert_in_range(steady(s, BURSTS, 1000 * US, 2 * US), BURSTS * 95 / 100, BURSTS);
    assert_true(s->spun < BURSTS * 1000 * US / 16);
}

static void a_rhythm_is_found_again_at_another_pace(void **state)
{
    struct sim *s = *state;
    steady(s, WARM_UP, 1000 * US, US);
    steady(s, WARM_UP, 3000 * US, US);
    assert_in_range(steady(s, BURSTS, 3000 * US, US), BURSTS * 95 / 100, BURSTS);
    steady(s, WARM_UP, 700 * US, US);
    assert_in_range(steady(s, BURSTS, 700 * US, US), BURSTS * 95 / 100, BURSTS);
}

static void what_is_out_of_rhythm_now_and_then_does_not_disturb_it(void **state)
{
    struct sim *s = *state;
    steady(s, WARM_UP, 1000 * US, US);
    unsigned met = 0;
    uint64_t at = s->now;
    for (unsigned i = 1; i <= BURSTS; i++) {
        at += 1000 * US;
        met += wait_for(s, i % 20 ? at : at + 400 * US);
    }
    assert_in_range(met, BURSTS * 70 / 100, BURSTS);
}

static void irregular_work_is_not_waited_for(void **state)
{
    struct sim *s = *state;
    for (unsigned i = 0; i < BURSTS; i++)
        wait_for(s, s->now + 100 * US + random_below(s, 3000 * US));
    assert_true(s->spun < s->now / 100);
}

static void what_comes_too_often_or_too_rarely_is_not_waited_for(void **state)
{
    struct sim *s = *state;
    assert_int_equal(steady(s, BURSTS, 150 * US, 0), 0); /* waking takes longer than a quarter of that */
    assert_int_equal(s->spun, 0);
    const uint64_t second = 1000 * PLX_NS_PER_MS;
    assert_int_equal(steady(s, BURSTS, second, second / 1000), 0); /* regular, but not to 200 us */
    assert_int_equal(s->spun, 0);
}

static void a_burst_that_does_not_come_is_waited_for_once(void **state)
{
    struct sim *s = *state;
    steady(s, WARM_UP, 1000 * US, US);
    uint64_t wake;
    s->now += 2000 * US;
    assert_false(plx_rhythm_due(&s->rhythm, s->now, 200 * US, &wake));
    assert_int_equal(wake, 0);
    unsigned wakes = s->wakes;
    wait_for(s, s->now + 3600 * UINT64_C(1000) * PLX_NS_PER_MS);
    assert_int_equal(s->wakes, wakes);
}

static void one_long_oversleep_is_got_over(void **state)
{
    struct sim *s = *state;
    steady(s, WARM_UP, 1000 * US, US);
    for (unsigned i = 0; i < 20; i++)
        plx_rhythm_overslept(&s->rhythm, 50 * PLX_NS_PER_MS);
    steady(s, BURSTS, 1000 * US, US);
    assert_in_range(steady(s, BURSTS, 1000 * US, US), BURSTS * 95 / 100, BURSTS);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_steady_rhythm_is_met),
        TEST(a_rhythm_is_found_again_at_another_pace),
        TEST(what_is_out_of_rhythm_now_and_then_does_not_disturb_it),
        TEST(irregular_work_is_not_waited_for),
        TEST(what_comes_too_often_or_too_rarely_is_not_waited_for),
        TEST(a_burst_that_does_not_come_is_waited_for_once),
        TEST(one_long_oversleep_is_got_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
