/* SPDX-License-Identifier: BSD-3-Clause */
#include "reactor/fan.h"

#include "base/util.h"
#include "reactor/owner.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int plx_fan_init(struct plx_fan *fan, struct plx_reactor *home, struct plx_reactor *const *reactors, unsigned n)
{
    assert(n > 0);
    *fan = (struct plx_fan){.home = home, .legs = calloc(n, sizeof *fan->legs), .n = n};
    if (!fan->legs)
        return -ENOMEM;
    for (unsigned i = 0; i < n; i++)
        fan->legs[i] = (struct plx_fan_leg){.fan = fan, .reactor = reactors[i]};
    return 0;
}

void plx_fan_destroy(struct plx_fan *fan)
{
    assert(!fan->waiting);
    free(fan->legs);
    memset(fan, 0, sizeof *fan);
}

static void leg_answered(struct plx_msg *msg)
{
    struct plx_fan_leg *leg = plx_container_of(msg, struct plx_fan_leg, msg);
    struct plx_fan *fan = leg->fan;
    if (leg->result < 0 && !fan->result)
        fan->result = leg->result;
    if (--fan->waiting == 0)
        fan->done(fan, fan->result);
}

void plx_fan_answer(struct plx_fan_leg *leg, int result)
{
    plx_assert_here(leg->reactor);
    leg->result = result;
    leg->msg.fn = leg_answered;
    plx_reactor_send(leg->fan->home, &leg->msg);
}

static void leg_asked(struct plx_msg *msg)
{
    struct plx_fan_leg *leg = plx_container_of(msg, struct plx_fan_leg, msg);
    leg->fan->here(leg);
}

void plx_fan_out(struct plx_fan *fan, void (*here)(struct plx_fan_leg *leg),
                 void (*done)(struct plx_fan *fan, int result))
{
    plx_assert_here(fan->home);
    assert(!fan->waiting);
    fan->here = here;
    fan->done = done;
    fan->result = 0;
    fan->waiting = fan->n;
    for (unsigned i = 0; i < fan->n; i++) {
        fan->legs[i].msg.fn = leg_asked;
        plx_reactor_send(fan->legs[i].reactor, &fan->legs[i].msg);
    }
}
