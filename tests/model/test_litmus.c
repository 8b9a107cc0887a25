/* SPDX-License-Identifier: BSD-3-Clause */
/* The checker itself: what RC11 allows of well-known small programs, and what it does not. */
#include "model.h"

#include <stdarg.h>

#include <setjmp.h>

#include <cmocka.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

static atomic_int x, y;
static int plain;
static int a, b, c, d; /* what threads have read: each is one thread's */

static void begin(void)
{
    x = y = 0;
    plain = a = b = c = d = 0;
    model_name(&x, sizeof x, "x");
    model_name(&y, sizeof y, "y");
    model_name(&plain, sizeof plain, "plain");
}

#define LOAD(at, order) atomic_load_explicit(&at, memory_order_##order)
#define STORE(at, v, order) atomic_store_explicit(&at, v, memory_order_##order)
#define FENCE(order) atomic_thread_fence(memory_order_##order)

/* Whether an execution ends with `is`. */
static bool seen(void (*t0)(void), void (*t1)(void), void (*t2)(void), void (*t3)(void), void (*end)(void))
{
    const struct model_program p = {.name = "litmus", .begin = begin, .thread = {t0, t1, t2, t3}, .end = end};
    const char *wrong = model_run(&p);
    assert_true(!wrong || !strcmp(wrong, "seen"));
    assert_true(wrong || model_executions() > 0);
    return wrong != NULL;
}

#define THREAD(name, ...)                                                                                              \
    static void name(void)                                                                                             \
    {                                                                                                                  \
        __VA_ARGS__                                                                                                    \
    }
#define SEEN(name, is) THREAD(name, model_hold(!(is), "seen");)

/* ---- store buffering ---- */

SEEN(both_zero, a == 0 && b == 0)
THREAD(sb0_sc, STORE(x, 1, seq_cst); a = LOAD(y, seq_cst);)
THREAD(sb1_sc, STORE(y, 1, seq_cst); b = LOAD(x, seq_cst);)
THREAD(sb0_ra, STORE(x, 1, release); a = LOAD(y, acquire);)
THREAD(sb1_ra, STORE(y, 1, release); b = LOAD(x, acquire);)
THREAD(sb0_fence, STORE(x, 1, relaxed); FENCE(seq_cst); a = LOAD(y, relaxed);)
THREAD(sb1_fence, STORE(y, 1, relaxed); FENCE(seq_cst); b = LOAD(x, relaxed);)
THREAD(sb0_weak_fence, STORE(x, 1, relaxed); FENCE(acq_rel); a = LOAD(y, relaxed);)

static void test_stores_are_buffered_unless_both_sides_are_sequentially_consistent(void **state)
{
    (void)state;
    assert_false(seen(sb0_sc, sb1_sc, NULL, NULL, both_zero));
    assert_true(seen(sb0_ra, sb1_ra, NULL, NULL, both_zero));
    assert_true(seen(sb0_sc, sb1_ra, NULL, NULL, both_zero));
    assert_false(seen(sb0_fence, sb1_fence, NULL, NULL, both_zero));
    assert_true(seen(sb0_weak_fence, sb1_fence, NULL, NULL, both_zero));
}

/* ---- message passing ---- */

SEEN(flag_without_data, a == 1 && b == 0)
THREAD(mp0_rel, STORE(x, 1, relaxed); STORE(y, 1, release);)
THREAD(mp0_rlx, STORE(x, 1, relaxed); STORE(y, 1, relaxed);)
THREAD(mp0_fence, STORE(x, 1, relaxed); FENCE(release); STORE(y, 1, relaxed);)
THREAD(mp1_acq, a = LOAD(y, acquire); b = LOAD(x, relaxed);)
THREAD(mp1_rlx, a = LOAD(y, relaxed); b = LOAD(x, relaxed);)
THREAD(mp1_fence, a = LOAD(y, relaxed); FENCE(acquire); b = LOAD(x, relaxed);)

static void test_a_release_that_is_acquired_passes_on_what_came_before(void **state)
{
    (void)state;
    assert_false(seen(mp0_rel, mp1_acq, NULL, NULL, flag_without_data));
    assert_true(seen(mp0_rlx, mp1_acq, NULL, NULL, flag_without_data));
    assert_true(seen(mp0_rel, mp1_rlx, NULL, NULL, flag_without_data));
    assert_false(seen(mp0_fence, mp1_fence, NULL, NULL, flag_without_data));
    assert_false(seen(mp0_fence, mp1_acq, NULL, NULL, flag_without_data));
    assert_false(seen(mp0_rel, mp1_fence, NULL, NULL, flag_without_data));
}

THREAD(add_to_y, atomic_fetch_add_explicit(&y, 1, memory_order_relaxed);)
THREAD(store_to_y, STORE(y, 2, relaxed);)
THREAD(mp1_two, a = LOAD(y, acquire) == 2; b = LOAD(x, relaxed);)

static void test_an_update_goes_on_with_a_release_and_a_store_does_not(void **state)
{
    (void)state;
    assert_false(seen(mp0_rel, add_to_y, mp1_two, NULL, flag_without_data)); /* it is 2 only when it was 1 before */
    assert_true(seen(mp0_rel, store_to_y, mp1_two, NULL, flag_without_data));
}

/* ---- load buffering, coherence, independent readers ---- */

SEEN(out_of_thin_air, a == 1 && b == 1)
THREAD(lb0, a = LOAD(x, relaxed); STORE(y, 1, relaxed);)
THREAD(lb1, b = LOAD(y, relaxed); STORE(x, 1, relaxed);)

SEEN(backwards, a == 1 && b == 0)
THREAD(co0, STORE(x, 1, relaxed);)
THREAD(co1, a = LOAD(x, relaxed); b = LOAD(x, relaxed);)

SEEN(readers_differ, a == 1 && b == 0 && c == 1 && d == 0)
THREAD(w_x_sc, STORE(x, 1, seq_cst);)
THREAD(w_y_sc, STORE(y, 1, seq_cst);)
THREAD(r_xy_sc, a = LOAD(x, seq_cst); b = LOAD(y, seq_cst);)
THREAD(r_yx_sc, c = LOAD(y, seq_cst); d = LOAD(x, seq_cst);)
THREAD(r_xy_acq, a = LOAD(x, acquire); b = LOAD(y, acquire);)
THREAD(r_yx_acq, c = LOAD(y, acquire); d = LOAD(x, acquire);)

static void test_what_threads_agree_on(void **state)
{
    (void)state;
    assert_false(seen(lb0, lb1, NULL, NULL, out_of_thin_air)); /* RC11 */
    assert_false(seen(co0, co1, NULL, NULL, backwards));
    assert_false(seen(w_x_sc, w_y_sc, r_xy_sc, r_yx_sc, readers_differ));
    assert_true(seen(w_x_sc, w_y_sc, r_xy_acq, r_yx_acq, readers_differ));
}

/* A sequentially consistent store is no fence: what follows it may be seen before it, as with Arm's stlr. */
SEEN(later_first, a == 1 && b == 0)
THREAD(sc_then_relaxed, STORE(x, 1, seq_cst); STORE(y, 1, relaxed);)
THREAD(relaxed_then_sc, a = LOAD(y, relaxed); b = LOAD(x, seq_cst);)

/* 2+2W: both first stores are last. */
SEEN(crossed, x == 1 && y == 1)
THREAD(w2_0, STORE(x, 1, relaxed); STORE(y, 2, relaxed);)
THREAD(w2_1, STORE(y, 1, relaxed); STORE(x, 2, relaxed);)
THREAD(w2_0_sc, STORE(x, 1, seq_cst); STORE(y, 2, seq_cst);)
THREAD(w2_1_sc, STORE(y, 1, seq_cst); STORE(x, 2, seq_cst);)

static void test_stores_of_two_threads_cross(void **state)
{
    (void)state;
    assert_true(seen(sc_then_relaxed, relaxed_then_sc, NULL, NULL, later_first));
    assert_true(seen(w2_0, w2_1, NULL, NULL, crossed));
    assert_false(seen(w2_0_sc, w2_1_sc, NULL, NULL, crossed));
}

/* ---- updates, races, waiting ---- */

SEEN(an_update_lost, x != 2)
THREAD(add, atomic_fetch_add_explicit(&x, 1, memory_order_relaxed);)
THREAD(add_badly, STORE(x, LOAD(x, relaxed) + 1, relaxed);)
static void add_by_exchange(void)
{
    int was = LOAD(x, relaxed);
    while (!atomic_compare_exchange_weak_explicit(&x, &was, was + 1, memory_order_relaxed, memory_order_relaxed))
        ;
}

THREAD(race0, plain = 1; STORE(y, 1, release);)
THREAD(race1, if (LOAD(y, acquire)) a = plain;)
THREAD(race1_rlx, if (LOAD(y, relaxed)) a = plain;)
static void wait_for_y(void)
{
    while (!LOAD(y, acquire))
        model_spin();
    a = plain;
}
THREAD(nothing, (void)0;)

static const char *run2(void (*t0)(void), void (*t1)(void), void (*end)(void))
{
    const struct model_program p = {.name = "litmus", .begin = begin, .thread = {t0, t1}, .end = end};
    return model_run(&p);
}

static void test_updates_races_and_waiting(void **state)
{
    (void)state;
    assert_null(run2(add, add, an_update_lost));
    assert_null(run2(add, add_by_exchange, an_update_lost));
    assert_string_equal(run2(add, add_badly, an_update_lost), "seen");
    assert_null(run2(race0, race1, NULL));
    assert_string_equal(run2(race0, race1_rlx, NULL), "a data race: plain");
    assert_null(run2(race0, wait_for_y, NULL));
    assert_string_equal(run2(nothing, wait_for_y, NULL), "a thread waits for ever");
}

/* ---- orders weakened ---- */

static const struct model_program passing = {.name = "passing", .begin = begin, .thread = {race0, wait_for_y}};
THREAD(race0_sc, plain = 1; STORE(y, 1, seq_cst);)
static const struct model_program too_strong = {.name = "too strong", .begin = begin, .thread = {race0_sc, wait_for_y}};

static void test_an_order_that_is_too_strong_is_a_finding(void **state)
{
    (void)state;
    assert_int_equal(model_suite("exact", (const struct model_program *const[]){&passing, NULL}, NULL), 0);
    assert_int_equal(model_suite("strong", (const struct model_program *const[]){&too_strong, NULL}, NULL), 1);
    const char *const pass[] = {"y store seq_cst", NULL};
    assert_int_equal(model_suite("let pass", (const struct model_program *const[]){&too_strong, NULL}, pass), 0);
    const char *const needless[] = {"y store release", NULL};
    assert_int_equal(model_suite("needless", (const struct model_program *const[]){&passing, NULL}, needless), 1);
    const char *const stale[] = {"x store release", NULL};
    assert_int_equal(model_suite("stale", (const struct model_program *const[]){&passing, NULL}, stale), 1);
}

/* Where x is not there yet with y, it is looked for more often than the model can follow: that is not known to fail. */
THREAD(x_then_y, STORE(x, 1, relaxed); STORE(y, 1, release);)
static void x_when_y(void)
{
    if (LOAD(y, acquire))
        while (!LOAD(x, relaxed))
            ;
}
static const struct model_program endless = {.name = "endless", .begin = begin, .thread = {x_then_y, x_when_y}};

static void test_what_the_model_cannot_follow_is_a_finding(void **state)
{
    (void)state;
    assert_int_equal(model_suite("beyond", (const struct model_program *const[]){&endless, NULL}, NULL), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stores_are_buffered_unless_both_sides_are_sequentially_consistent),
        cmocka_unit_test(test_a_release_that_is_acquired_passes_on_what_came_before),
        cmocka_unit_test(test_an_update_goes_on_with_a_release_and_a_store_does_not),
        cmocka_unit_test(test_what_threads_agree_on),
        cmocka_unit_test(test_stores_of_two_threads_cross),
        cmocka_unit_test(test_updates_races_and_waiting),
        cmocka_unit_test(test_an_order_that_is_too_strong_is_a_finding),
        cmocka_unit_test(test_what_the_model_cannot_follow_is_a_finding),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
