/* SPDX-License-Identifier: BSD-3-Clause */
/* Limits that change while others book: what is booked by the old ones does not count among the new ones. */
#include "bdev/limiter.c"

#include "model.h"

#include <stdarg.h>

#include <setjmp.h>

#include <cmocka.h>

static struct plx_limiter limiter;
static const struct plx_bdev_limits slow = {.ios = 1}, fast = {.ios = SLICES * 2};

static void begin(void)
{
    memset(&limiter, 0, sizeof limiter);
    plx_limiter_set(&limiter, &slow, 0);
    for (unsigned i = 0; i < PLX_LIMIT_KINDS; i++) {
        model_name(&limiter.buckets[i].next, sizeof limiter.buckets[i].next, "next");
        model_name(&limiter.buckets[i].rate, sizeof limiter.buckets[i].rate, "rate");
    }
    model_name(&limiter.version, sizeof limiter.version, "version");
}

static void change(void)
{
    plx_limiter_set(&limiter, &fast, 0);
}

/* One that has not seen any limits, and one that has seen the old ones. */
static void ask_new(void)
{
    struct plx_limit_user u = {0};
    plx_limiter_ask(&limiter, &u, false, 0, 0);
}

static void ask_old(void)
{
    struct plx_limit_user u = {.version = 1};
    plx_limiter_ask(&limiter, &u, false, 0, 0);
    plx_limiter_ask(&limiter, &u, false, 0, 0);
}

/* A slice of the fast limit is two requests, which take TICKS_PER_S / SLICES. */
static void only_new_bookings(void)
{
    const uint64_t word = limiter.buckets[PLX_LIMIT_IOS].next, slice = TICKS_PER_S / SLICES;
    MODEL_HOLD((word & TAG) == 2);
    MODEL_HOLD(word >> TAG_BITS == 0 || word >> TAG_BITS == slice || word >> TAG_BITS == 2 * slice);
}

static const struct model_program one = {
    .name = "one asks", .begin = begin, .thread = {change, ask_new}, .end = only_new_bookings};
static const struct model_program again = {
    .name = "one asks again", .begin = begin, .thread = {change, ask_old}, .end = only_new_bookings};

static void test_old_bookings_are_void(void **state)
{
    (void)state;
    const struct model_program *const all[] = {&one, &again, NULL};
    assert_int_equal(model_suite("limiter", all, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_old_bookings_are_void)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
