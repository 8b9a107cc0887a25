/* SPDX-License-Identifier: BSD-3-Clause */
/* Memory that vanishes, while other memory is guarded and given back: who touches it finds its own, and no other. */
#include "model.h"

#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

static void *replaced(void *at, size_t bytes);
static void filled(void *at, int with, size_t bytes);
#define mmap(at, bytes, prot, flags, fd, offset) replaced(at, bytes)
#define memset(at, with, bytes) filled(at, with, bytes)
#include "reactor/guard.c"
#undef memset
#undef mmap

#include <stdarg.h>

#include <setjmp.h>

#include <cmocka.h>

enum { SMALL = 16, LARGE = 64 };

static char memory[256]; /* never touched: only its addresses are */
static atomic_bool fault_a, fault_b, fault_c;
static struct plx_guard *guard_b;

static void begin(void)
{
    for (unsigned i = 0; i < PLX_GUARDS; i++)
        plx_guard_give(&guards[i]);
    guards_used = 0;
    fault_a = fault_b = fault_c = false;
    /* In the first place what is given back, in the second what vanishes: the handler looks at both. */
    guard_b = plx_guard_take(memory + 32, SMALL, false, &fault_b);
    plx_guard_take(memory + 64, SMALL, true, &fault_a);
    model_name(&guards_used, sizeof guards_used, "used");
    for (unsigned i = 0; i < 4; i++) {
        model_name(&guards[i].base, sizeof guards[i].base, "base");
        model_name(&guards[i].bytes, sizeof guards[i].bytes, "bytes");
        model_name(&guards[i].fault, sizeof guards[i].fault, "fault");
        model_name(&guards[i].ones, sizeof guards[i].ones, "ones");
    }
}

static void *replaced(void *at, size_t bytes)
{
    MODEL_HOLD(((char *)at == memory + 64 && bytes == SMALL) || ((char *)at == memory && bytes == LARGE) ||
               ((char *)at == memory + 32 && bytes == SMALL));
    return at;
}

static void filled(void *at, int with, size_t bytes)
{
    (void)with;
    MODEL_HOLD((char *)at == memory + 64 && bytes == SMALL);
}

/* Another, larger one in the place of the first: with the old base and the new size it would reach what vanishes. */
static void change(void)
{
    plx_guard_give(guard_b);
    plx_guard_take(memory + 128, LARGE, false, &fault_c);
}

static bool is_set(atomic_bool *fault)
{
    return atomic_load_explicit(fault, memory_order_relaxed);
}

/* A smaller one, before what vanishes: with the old size it would reach it. */
static void change_to_near(void)
{
    plx_guard_give(guard_b);
    plx_guard_take(memory + 32, SMALL, false, &fault_c);
}

static void touch(void)
{
    MODEL_HOLD(plx_memory_fault(memory + 64));
    MODEL_HOLD(is_set(&fault_a) && !is_set(&fault_b) && !is_set(&fault_c));
}

/* Memory that is guarded meanwhile is found by whoever has been told of it. */
static uint64_t there;

static void guard_more(void)
{
    plx_guard_take(memory, LARGE, false, &fault_c);
    __atomic_store_n(&there, 1, __ATOMIC_RELEASE);
}

static void guard_other(void)
{
    plx_guard_take(memory + 192, SMALL, false, &fault_b);
}

static void touch_more(void)
{
    if (!__atomic_load_n(&there, __ATOMIC_ACQUIRE))
        return;
    MODEL_HOLD(plx_memory_fault(memory));
    MODEL_HOLD(is_set(&fault_c) && !is_set(&fault_a));
}

static void begin_more(void)
{
    there = 0;
    begin();
}

static void begin_near(void)
{
    begin();
    plx_guard_give(guard_b);
    guard_b = plx_guard_take(memory + 128, LARGE, false, &fault_b);
}

static void give_back(void)
{
    plx_guard_give(guard_b);
}

static void take_and_touch(void)
{
    plx_guard_take(memory, LARGE, false, &fault_c);
    MODEL_HOLD(plx_memory_fault(memory));
    MODEL_HOLD(is_set(&fault_c) && !is_set(&fault_a) && !is_set(&fault_b));
}

static const struct model_program changed = {.name = "another", .begin = begin, .thread = {change, touch}};
static const struct model_program near = {.name = "near", .begin = begin_near, .thread = {change_to_near, touch}};
static const struct model_program told = {
    .name = "told of", .begin = begin_more, .thread = {guard_more, touch_more, guard_other}};
static const struct model_program reused = {
    .name = "a place taken anew", .begin = begin, .thread = {give_back, take_and_touch}};

static void test_whoever_touches_memory_that_is_gone_finds_its_own(void **state)
{
    (void)state;
    const struct model_program *const all[] = {&changed, &near, &told, &reused, NULL};
    assert_int_equal(model_suite("guards", all, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_whoever_touches_memory_that_is_gone_finds_its_own)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
