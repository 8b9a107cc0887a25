/* SPDX-License-Identifier: BSD-3-Clause */
/* What queues of a disk are asked by its home, and it by them: all is seen that led to it, and all that was done. */
#include "bdev/driver/virtio_ask.h"

#include "model.h"

#include <stdarg.h>

#include <setjmp.h>

#include <cmocka.h>

enum { QUEUES = 2, RESET = 1, GIVE_UP = 2, IS_RESET = 1 };

static struct {
    _Atomic uint32_t ask;
    uint32_t call; /* its descriptor */
    uint64_t ring; /* begins anew by what the home has found */
} queue[QUEUES];
static _Atomic uint32_t home_ask;
static uint32_t home_call;
static uint64_t found;

static void begin(void)
{
    for (unsigned i = 0; i < QUEUES; i++) {
        queue[i].ask = queue[i].call = 0;
        queue[i].ring = 0;
        model_name(&queue[i].ask, sizeof queue[i].ask, "ask");
        model_name(&queue[i].ring, sizeof queue[i].ring, "ring");
    }
    home_ask = home_call = 0;
    found = 0;
    model_name(&home_ask, sizeof home_ask, "ask");
    model_name(&found, sizeof found, "found");
}

/* go_resets(), and home_asked() until nothing is pending. */
static void home(void)
{
    found = 1;
    for (unsigned i = 0; i < QUEUES; i++) {
        vio_ask_add(&queue[i].ask, RESET);
        model_tell(&queue[i].call);
    }
    for (bool all = false; !all;) {
        model_hear(&home_call);
        if (!(vio_ask_take(&home_ask, UINT32_MAX) & IS_RESET))
            continue;
        all = true;
        for (unsigned i = 0; i < QUEUES; i++)
            all &= !vio_ask_is(&queue[i].ask, RESET);
    }
    for (unsigned i = 0; i < QUEUES; i++)
        MODEL_HOLD(queue[i].ring == 1);
}

/* vio_asked(), of a reactor that need not have slept. */
static void reset(unsigned i)
{
    while (!atomic_load_explicit(&queue[i].ask, memory_order_relaxed))
        model_spin();
    if (!vio_ask_is(&queue[i].ask, RESET))
        return;
    queue[i].ring = found;
    vio_ask_take(&queue[i].ask, RESET);
    vio_ask_add(&home_ask, IS_RESET);
    model_tell(&home_call);
}

static void queue_0(void)
{
    reset(0);
}

static void queue_1(void)
{
    reset(1);
}

static void home_that_gives_up(void)
{
    found = 1;
    vio_ask_add(&queue[0].ask, GIVE_UP);
}

static void queue_that_takes(void)
{
    if (vio_ask_take(&queue[0].ask, GIVE_UP))
        MODEL_HOLD(found == 1);
}

static const struct model_program resets = {.name = "resets", .begin = begin, .thread = {home, queue_0, queue_1}};
static const struct model_program given_up = {
    .name = "giving up", .begin = begin, .thread = {home_that_gives_up, queue_that_takes}};

static void test_who_is_asked_sees_why_and_who_asked_what_was_done(void **state)
{
    (void)state;
    const struct model_program *const all[] = {&resets, &given_up, NULL};
    assert_int_equal(model_suite("asks", all, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_who_is_asked_sees_why_and_who_asked_what_was_done)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
