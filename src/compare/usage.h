/* SPDX-License-Identifier: BSD-3-Clause */
/* CPU time of a whole machine, and of those that used it. */
#ifndef PLX_COMPARE_USAGE_H
#define PLX_COMPARE_USAGE_H

#include <pollux/base.h>

/*
 * Seconds of CPU time up to a moment, and between two of them.
 *
 * `busy` is what the CPUs were not idle for: all that was done, by whomever, interrupts and the kernel's threads
 * included. It is taken from the idle time, which the kernel counts exactly where CPUs that idle have no tick, and
 * not from the times of what ran, which it samples. What the hypervisor took (`stolen`) is not in it.
 */
struct compare_usage {
    double at; /* the moment, in seconds */
    double busy;
    double user, system; /* of one process, if one was named; its share of `busy` */
    double threads;      /* of the kernel's threads; of `busy` too */
    double softirq; /* as sampled; of `busy`, and where interrupts are not accounted for apart, of the others too */
    double stolen;
};

/* @param pid a process, or 0. @return 0 or a negative errno value: -ESRCH when there is none */
int compare_usage(int pid, struct compare_usage *out);
/* What was used from a to b, less what the machine uses when nothing is done: `idle` of it a second. */
struct compare_usage compare_used(const struct compare_usage *a, const struct compare_usage *b, double idle);

#endif
