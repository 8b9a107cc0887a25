/* SPDX-License-Identifier: BSD-3-Clause */
/* Spin locks: one at a time, and each sees what the one before has done. */
#include "base/spin.h"

#include "model.h"

#include <stdarg.h>

#include <setjmp.h>

#include <cmocka.h>

static _Atomic bool taken;
static uint64_t count; /* under the lock */

static void begin(void)
{
    taken = false;
    count = 0;
    model_name(&taken, sizeof taken, "lock");
    model_name(&count, sizeof count, "count");
}

static void add(void)
{
    plx_spin_lock(&taken);
    count++;
    plx_spin_unlock(&taken);
}

static void all_came(void)
{
    MODEL_HOLD(count == 2);
}

static void three_came(void)
{
    MODEL_HOLD(count == 3);
}

static const struct model_program two = {.name = "two", .begin = begin, .thread = {add, add}, .end = all_came};
static const struct model_program three = {
    .name = "three", .begin = begin, .thread = {add, add, add}, .end = three_came};

static void test_one_at_a_time(void **state)
{
    (void)state;
    const struct model_program *const all[] = {&two, &three, NULL};
    assert_int_equal(model_suite("spin lock", all, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_one_at_a_time)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
