/* SPDX-License-Identifier: BSD-3-Clause */
/* Mappings of what others can take away: who touches them then gets SIGBUS. See plx_memory_fault(). */
#ifndef PLX_REACTOR_GUARD_H
#define PLX_REACTOR_GUARD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

struct plx_guard;

enum { PLX_GUARDS = 16384 };

/*
 * Has memory put in the place of a mapping when it is touched in vain.
 * @param ones it reads as ones then, as registers of a device do that is gone; else as zeroes
 * @param fault is set then
 * @return NULL when there are as many as there can be
 */
struct plx_guard *plx_guard_take(void *base, size_t bytes, bool ones, atomic_bool *fault);
void plx_guard_give(struct plx_guard *g);

#endif
