/* SPDX-License-Identifier: BSD-3-Clause */
#include "reactor/clock.h"

#include "base/util.h"

#include <time.h>

static uint64_t (*simulation)(void);

uint64_t plx_clock_ns(void)
{
    struct timespec t;
    if (plx_unlikely(simulation))
        return simulation();
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * PLX_NS_PER_S + (uint64_t)t.tv_nsec;
}

uint64_t plx_wall_seconds(void)
{
    return plx_unlikely(simulation) ? simulation() / PLX_NS_PER_S : (uint64_t)time(NULL);
}

void plx_clock_simulate(uint64_t (*ns)(void))
{
    simulation = ns;
}

bool plx_clock_simulated(void)
{
    return simulation != NULL;
}
