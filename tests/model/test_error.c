/* SPDX-License-Identifier: BSD-3-Clause */
/* Faults that are replaced while requests draw from them: a request has all of one, and no fault is drawn too often. */
#include "bdev/filter/error.c"

#include "model.h"

#include <stdarg.h>

#include <setjmp.h>

#include <cmocka.h>

static struct fault fault;
static uint32_t drawn_by[2]; /* which fault, each thread's own */

static const struct plx_bdev_injection first = {
    .type = PLX_BDEV_INJECT_FAILURE, .status = 1, .count = 1, .corrupt_offset = 1};
static const struct plx_bdev_injection second = {
    .type = PLX_BDEV_INJECT_FAILURE, .status = 2, .count = 1, .corrupt_offset = 2};

static void begin(void)
{
    memset(&fault, 0, sizeof fault);
    memset(drawn_by, 0, sizeof drawn_by);
    fault_set(&fault, &first);
    model_name(&fault.left, sizeof fault.left, "left");
    model_name(&fault.how, sizeof fault.how, "how");
    model_name(&fault.offset, sizeof fault.offset, "offset");
    model_name(&fault.cleared, sizeof fault.cleared, "cleared");
}

static void replace(void)
{
    fault_set(&fault, &second);
}

static void replace_and_back(void)
{
    fault_set(&fault, &second);
    fault_set(&fault, &first);
}

static void draw(unsigned me)
{
    struct drawn d;
    fault_draw(&fault, 8, 8, &d);
    if (d.type == PLX_BDEV_INJECT_NONE)
        return;
    MODEL_HOLD(d.status == (d.which == 2 ? 2 : 1));
    MODEL_HOLD(d.offset == (d.which == 2 ? 2 : 1));
    drawn_by[me] = d.which;
}

static void draw_0(void)
{
    draw(0);
}

static void draw_1(void)
{
    draw(1);
}

static void once_each(void)
{
    MODEL_HOLD(!drawn_by[0] || drawn_by[0] != drawn_by[1]);
}

static const struct model_program one = {.name = "one draws", .begin = begin, .thread = {replace_and_back, draw_0}};
static const struct model_program two = {
    .name = "two draw", .begin = begin, .thread = {replace, draw_0, draw_1}, .end = once_each};

static void test_a_fault_is_drawn_whole_and_as_often_as_it_says(void **state)
{
    (void)state;
    const struct model_program *const all[] = {&one, &two, NULL};
    /* C has none that is weaker where it succeeds than where it fails, which acquires. */
    const char *const enough[] = {"left compare-exchange acquire", NULL};
    assert_int_equal(model_suite("faults", all, enough), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_a_fault_is_drawn_whole_and_as_often_as_it_says)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
