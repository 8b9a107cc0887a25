/* SPDX-License-Identifier: BSD-3-Clause */
/* Messages of reactors: nothing is lost, slept through, or seen half; and what one sender sends stays in order. */
#include "reactor/inbox.h"

#include "model.h"

#include <stdarg.h>

#include <setjmp.h>

#include <cmocka.h>
#include <string.h>

static struct plx_inbox inbox;
static uint32_t eventfd;

static struct letter {
    struct plx_msg msg;
    uint64_t text; /* what its sender wrote before */
} letters[3];

static void begin(void)
{
    memset(&inbox, 0, sizeof inbox);
    memset(letters, 0, sizeof letters);
    eventfd = 0;
    model_name(&inbox.top, sizeof inbox.top, "top");
    model_name(&inbox.asleep, sizeof inbox.asleep, "asleep");
    model_name(letters, sizeof letters, "message");
    model_name(&eventfd, sizeof eventfd, "eventfd");
}

static void send_letter(unsigned i)
{
    letters[i].text = 1 + i;
    if (plx_inbox_push(&inbox, &letters[i].msg))
        model_tell(&eventfd);
}

static void send_0(void)
{
    send_letter(0);
}

static void send_1(void)
{
    send_letter(1);
}

static void send_0_and_1(void)
{
    send_letter(0);
    send_letter(1);
}

/* plx_reactor_run(), with rounds that find nothing left out. */
static void receive(unsigned want, bool in_order)
{
    for (unsigned got = 0;;) {
        for (struct plx_msg *m = plx_inbox_take(&inbox), *next; m; m = next) {
            const struct letter *l = plx_container_of(m, struct letter, msg);
            next = m->next;
            MODEL_HOLD(l->text == (uint64_t)(l - letters) + 1);
            MODEL_HOLD(!in_order || l->text == got + 1);
            got++;
        }
        if (got == want)
            return;
        if (!plx_inbox_doze(&inbox))
            model_hear(&eventfd);
        plx_inbox_rise(&inbox);
    }
}

static void receive_1(void)
{
    receive(1, true);
}

static void receive_2(void)
{
    receive(2, false);
}

static void receive_2_in_order(void)
{
    receive(2, true);
}

static const struct model_program one = {.name = "one message", .begin = begin, .thread = {send_0, receive_1}};
static const struct model_program two_senders = {
    .name = "two senders", .begin = begin, .thread = {send_0, send_1, receive_2}};
static const struct model_program in_order = {
    .name = "two of one sender", .begin = begin, .thread = {send_0_and_1, receive_2_in_order}};

static void test_no_message_is_lost_or_slept_through(void **state)
{
    (void)state;
    const struct model_program *const all[] = {&one, &two_senders, &in_order, NULL};
    assert_int_equal(model_suite("inbox", all, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_no_message_is_lost_or_slept_through)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
