/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Makes the n-th allocation fail, for n = 1, 2, 3, ...: whatever stands on memory must then end with a clean error,
 * and leave none behind.
 *
 * The program is to be linked with FAILALLOC_LINK (see meson.build), so that the library's objects call these instead
 * of the C library's.
 */
#ifndef TEST_FAILALLOC_H
#define TEST_FAILALLOC_H

#include <stdbool.h>
#include <stddef.h>

/* The n-th allocation from now on fails, all others work; 0 for none. Also forgets what was counted. */
void failalloc_at(unsigned n);

/* Whether it has come to that. */
bool failalloc_failed(void);

/* Allocations since failalloc_at() that were not freed. */
long failalloc_live(void);

/*
 * Calls what(arg) with the first allocation failing, then with the second, and so on until it no longer comes to a
 * failure. what() returns whether it ended well, that is: it worked, or it said why not. @return the allocations
 * there are, or -1 when what() returned false or memory was left over
 */
int failalloc_each(bool (*what)(void *arg), void *arg);

#endif
