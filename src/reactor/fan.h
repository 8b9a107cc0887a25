/* SPDX-License-Identifier: BSD-3-Clause */
/* A fan asks every reactor of a set, and goes on when all have answered. */
#ifndef PLX_REACTOR_FAN_H
#define PLX_REACTOR_FAN_H

#include <pollux/reactor.h>

struct plx_fan;

/* What goes to one reactor, and comes back. */
struct plx_fan_leg {
    struct plx_fan *fan;
    struct plx_reactor *reactor;
    void *arg; /* the user's, NULL at first; belongs to the leg's reactor from one question to its answer */
    int result;
    struct plx_msg msg;
};

struct plx_fan {
    struct plx_reactor *home;
    struct plx_fan_leg *legs;
    unsigned n, waiting;
    int result;
    void (*here)(struct plx_fan_leg *leg);
    void (*done)(struct plx_fan *fan, int result);
};

/* A leg for each of n reactors, in this order; at least one. @return 0 or -ENOMEM */
int plx_fan_init(struct plx_fan *fan, struct plx_reactor *home, struct plx_reactor *const *reactors, unsigned n);
/* Frees the legs, while no question is under way; in `done`, say. Harmless for a fan that is zeroed. */
void plx_fan_destroy(struct plx_fan *fan);

/*
 * Calls `here` for each leg on its reactor, which calls plx_fan_answer() then or later. When all have answered, `done`
 * is called on the home reactor with the first negative result, or 0; it may ask again. On the home reactor, or before
 * that runs; neither is called before this returns.
 */
void plx_fan_out(struct plx_fan *fan, void (*here)(struct plx_fan_leg *leg),
                 void (*done)(struct plx_fan *fan, int result));

/* On the leg's reactor, once a question. */
void plx_fan_answer(struct plx_fan_leg *leg, int result);

#endif
