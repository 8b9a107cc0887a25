/* SPDX-License-Identifier: BSD-3-Clause */
/* The one clock: monotonic time in nanoseconds. */
#ifndef PLX_REACTOR_CLOCK_H
#define PLX_REACTOR_CLOCK_H

#include <pollux/reactor.h>

uint64_t plx_clock_ns(void);

/* Seconds since 1970, for what is kept. */
uint64_t plx_wall_seconds(void);

/* Where a reactor keeps plx_reactor_now(), for those who look at every request. */
const uint64_t *plx_reactor_now_at(const struct plx_reactor *r);

/*
 * For tests: from here on time is what `ns` says, for every reactor of the process; NULL makes it real again. While no
 * reactor runs. In simulated time reactors do not sleep, and look at descriptors in every round: whoever drives them
 * polls until there is nothing to do, and then moves time on to the next timer (plx_reactor_timeout()).
 */
void plx_clock_simulate(uint64_t (*ns)(void));
bool plx_clock_simulated(void);

#endif
