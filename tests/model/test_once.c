/* SPDX-License-Identifier: BSD-3-Clause */
/* One message for however many reasons: no reason is left lying, and the message is never on its way twice. */
#include "reactor/inbox.h"
#include "reactor/once.h"

#include "model.h"

#include <stdarg.h>

#include <setjmp.h>

#include <cmocka.h>
#include <string.h>

enum { REASONS = 2 };

static struct plx_inbox inbox;
static uint32_t eventfd;
static struct plx_msg msg;
static _Atomic bool asked, reasons[REASONS];

static void begin(void)
{
    memset(&inbox, 0, sizeof inbox);
    memset(&msg, 0, sizeof msg);
    eventfd = 0;
    asked = reasons[0] = reasons[1] = false;
    /* The inbox's own orders have a test of theirs. */
    model_name(&asked, sizeof asked, "asked");
    model_name(&inbox.top, sizeof inbox.top, "top");
    model_name(&msg, sizeof msg, "message");
}

static void heard(struct plx_msg *m)
{
    (void)m;
    plx_once_hear(&asked);
}

static void ask(unsigned why)
{
    atomic_store_explicit(&reasons[why], true, memory_order_relaxed);
    if (!plx_once_ask(&asked))
        return;
    msg.fn = heard;
    if (plx_inbox_push(&inbox, &msg))
        model_tell(&eventfd);
}

static void ask_0(void)
{
    ask(0);
}

static void ask_1(void)
{
    ask(1);
}

static void ask_both(void)
{
    ask(0);
    ask(1);
}

static void look(void)
{
    for (unsigned found = 0; found < REASONS;) {
        for (struct plx_msg *m = plx_inbox_take(&inbox), *next; m; m = next) {
            next = m->next;
            MODEL_HOLD(!next);
            m->fn(m);
            for (unsigned i = 0; i < REASONS; i++)
                found += atomic_exchange_explicit(&reasons[i], false, memory_order_relaxed);
        }
        if (found == REASONS)
            return;
        if (!plx_inbox_doze(&inbox))
            model_hear(&eventfd);
        plx_inbox_rise(&inbox);
    }
}

static const struct model_program two = {.name = "two ask", .begin = begin, .thread = {ask_0, ask_1, look}};
static const struct model_program twice = {.name = "one asks twice", .begin = begin, .thread = {ask_both, look}};

static void test_no_reason_is_left_lying(void **state)
{
    (void)state;
    const struct model_program *const all[] = {&two, &twice, NULL};
    assert_int_equal(model_suite("once", all, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_no_reason_is_left_lying)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
