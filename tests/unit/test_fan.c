/* SPDX-License-Identifier: BSD-3-Clause */
/* Asking every reactor of a set: on its own thread, answered at once or later, the first error told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <pthread.h>

#include "base/util.h"
#include "reactor/fan.h"

enum { REACTORS = 4, ROUNDS = 200 };

struct rig {
    struct plx_fan fan;
    struct plx_reactor *r[REACTORS];
    pthread_t thread[REACTORS];
    int asked[REACTORS];
    struct plx_timer later[REACTORS];
    int rounds, result;
};

static struct rig rig;

static void *run(void *arg)
{
    plx_reactor_run(arg);
    return NULL;
}

/* The home reactor, r[0], is run by the test; the others have threads. */
static void begin(void)
{
    rig = (struct rig){0};
    for (int i = 0; i < REACTORS; i++) {
        assert_int_equal(plx_reactor_create(&rig.r[i], NULL), 0);
        if (i)
            pthread_create(&rig.thread[i], NULL, run, rig.r[i]);
    }
    assert_int_equal(plx_fan_init(&rig.fan, rig.r[0], rig.r, REACTORS), 0);
}

static void end(void)
{
    plx_fan_destroy(&rig.fan);
    for (int i = 1; i < REACTORS; i++) {
        plx_reactor_stop(rig.r[i]);
        pthread_join(rig.thread[i], NULL);
    }
    for (int i = 0; i < REACTORS; i++)
        plx_reactor_destroy(rig.r[i]);
}

static int index_of(const struct plx_fan_leg *leg)
{
    return (int)(leg - leg->fan->legs);
}

static void answer_later(struct plx_timer *t)
{
    int i = (int)(t - rig.later);
    plx_fan_answer(&rig.fan.legs[i], i);
}

/* Every other leg answers at once; the others from a timer. Not atomic: ThreadSanitizer sees to the ordering. */
static void ask(struct plx_fan_leg *leg)
{
    int i = index_of(leg);
    assert_ptr_equal(leg->reactor, rig.r[i]);
    rig.asked[i]++;
    if (i % 2) {
        plx_fan_answer(leg, 0);
        return;
    }
    rig.later[i].fn = answer_later;
    plx_timer_set(leg->reactor, &rig.later[i], 1000);
}

static void again(struct plx_fan *fan, int result)
{
    rig.result |= result;
    for (int i = 0; i < REACTORS; i++)
        assert_int_equal(rig.asked[i], rig.rounds + 1);
    if (++rig.rounds == ROUNDS)
        plx_reactor_stop(rig.r[0]);
    else
        plx_fan_out(fan, ask, again);
}

static void it_goes_on_when_every_reactor_has_answered(void **state)
{
    (void)state;
    begin();
    plx_fan_out(&rig.fan, ask, again);
    assert_int_equal(rig.rounds, 0);
    plx_reactor_run(rig.r[0]);
    assert_int_equal(rig.rounds, ROUNDS);
    assert_int_equal(rig.result, 0); /* positive results are no errors */
    end();
}

static void fail_some(struct plx_fan_leg *leg)
{
    int i = index_of(leg);
    if (i == 2) {
        rig.later[i].fn = answer_later; /* after the first error */
        plx_timer_set(leg->reactor, &rig.later[i], 5 * PLX_NS_PER_MS);
        return;
    }
    plx_fan_answer(leg, i == 1 ? -EIO : 0);
}

static void failed(struct plx_fan *fan, int result)
{
    (void)fan;
    rig.result = result;
    plx_reactor_stop(rig.r[0]);
}

static void the_first_error_is_told_after_the_last_answer(void **state)
{
    (void)state;
    begin();
    plx_fan_out(&rig.fan, fail_some, failed);
    plx_reactor_run(rig.r[0]);
    assert_int_equal(rig.result, -EIO);
    rig.result = 0;
    plx_fan_out(&rig.fan, ask, again); /* and forgotten by the next question */
    plx_reactor_run(rig.r[0]);
    assert_int_equal(rig.result, 0);
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_goes_on_when_every_reactor_has_answered),
        cmocka_unit_test(the_first_error_is_told_after_the_last_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
