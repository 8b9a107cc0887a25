/* SPDX-License-Identifier: BSD-3-Clause */
/* Threads of the library's own, for what blocks: few, and none unasked. */
#ifndef PLX_REACTOR_THREAD_H
#define PLX_REACTOR_THREAD_H

#include <pthread.h>
#include <sched.h>

/*
 * Starts one that takes no signals, which are the program's.
 * @param thread to be joined; NULL: it ends by itself
 * @param where it may run; NULL: where the caller may
 * @return 0 or -errno
 */
int plx_thread_start(pthread_t *thread, const cpu_set_t *where, void *(*fn)(void *arg), void *arg, const char *name);

#endif
