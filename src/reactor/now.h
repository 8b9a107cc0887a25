/* SPDX-License-Identifier: BSD-3-Clause */
/* plx_reactor_now() without a call, for what is done for every command. */
#ifndef PLX_REACTOR_NOW_H
#define PLX_REACTOR_NOW_H

#include <pollux/reactor.h>

static inline uint64_t plx_reactor_round_time(const struct plx_reactor *r)
{
    return *(const uint64_t *)(const void *)r; /* its first member, as reactor.c asserts */
}

#endif
