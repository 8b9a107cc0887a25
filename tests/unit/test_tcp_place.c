/* SPDX-License-Identifier: BSD-3-Clause */
/* Where connections go: to the reactor whose core has their interrupts, evenly otherwise. */
#include "nvmf/tcp/tcp.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { REACTORS = 4, FIRST_CORE = 10 };

static struct nvmf_group groups[REACTORS];
static struct plx_reactor *reactors[REACTORS];
static struct plx_nvmf_target target;
static enum plx_nvmf_placed why;

static int setup(void **state)
{
    (void)state;
    memset(groups, 0, sizeof groups);
    target = (struct plx_nvmf_target){.reactors = reactors, .groups = groups, .nreactors = REACTORS};
    for (int i = 0; i < REACTORS; i++) {
        const struct plx_reactor_opts opts = {.core = FIRST_CORE + i};
        assert_int_equal(plx_reactor_create(&reactors[i], &opts), 0);
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    for (int i = 0; i < REACTORS; i++)
        plx_reactor_destroy(reactors[i]);
    return 0;
}

static unsigned place(int cpu, unsigned napi)
{
    const unsigned to = tcp_place(&target, cpu, napi, &why);
    assert_true(to < REACTORS);
    groups[to].connections++;
    target.connections++;
    return to;
}

static void leave(unsigned from)
{
    groups[from].connections--;
    target.connections--;
}

static void test_interrupts_decide(void **state)
{
    (void)state;
    for (int i = REACTORS - 1; i >= 0; i--) {
        assert_int_equal(place(FIRST_CORE + i, 7), i);
        assert_int_equal(why, PLX_NVMF_PLACED_CPU);
    }
}

static void test_where_nothing_is_known_all_get_as_many(void **state)
{
    (void)state;
    for (int i = 0; i < 3 * REACTORS; i++) {
        place(-1, 0);
        assert_int_equal(why, PLX_NVMF_PLACED_LOAD);
    }
    for (int i = 0; i < REACTORS; i++)
        assert_int_equal(groups[i].connections, 3);
    leave(2);
    assert_int_equal(place(-1, 0), 2);
}

static void test_connections_of_a_queue_stay_together(void **state)
{
    (void)state;
    const unsigned first = place(99, 5), second = place(99, 6);
    assert_int_equal(why, PLX_NVMF_PLACED_LOAD);
    assert_int_not_equal(first, second);
    assert_int_equal(place(99, 5), first);
    assert_int_equal(why, PLX_NVMF_PLACED_NAPI);
    assert_int_equal(place(99, 6), second);
}

/* All interrupts on one core: it gets twice its share, and the others the rest. */
static void test_no_reactor_gets_more_than_twice_its_share(void **state)
{
    (void)state;
    for (int i = 0; i < 8 * REACTORS; i++)
        place(FIRST_CORE + 1, 3);
    assert_int_equal(groups[1].connections, 16);
    for (int i = 0; i < REACTORS; i++)
        if (i != 1)
            assert_in_range(groups[i].connections, 5, 6);
}

/* More queues than are remembered: it only knows the latest. */
static void test_queues_that_are_many_are_forgotten(void **state)
{
    (void)state;
    for (unsigned napi = 1; napi <= 2 * NVMF_NAPIS; napi++)
        place(-1, napi);
    place(-1, 2 * NVMF_NAPIS);
    assert_int_equal(why, PLX_NVMF_PLACED_NAPI);
    place(-1, 1);
    assert_int_equal(why, PLX_NVMF_PLACED_LOAD);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_interrupts_decide, setup, teardown),
        cmocka_unit_test_setup_teardown(test_where_nothing_is_known_all_get_as_many, setup, teardown),
        cmocka_unit_test_setup_teardown(test_connections_of_a_queue_stay_together, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_reactor_gets_more_than_twice_its_share, setup, teardown),
        cmocka_unit_test_setup_teardown(test_queues_that_are_many_are_forgotten, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
