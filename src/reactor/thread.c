/* SPDX-License-Identifier: BSD-3-Clause */
#include "reactor/thread.h"

#include <signal.h>
#include <stddef.h>

enum { STACK = 256 << 10 };

int plx_thread_start(pthread_t *thread, const cpu_set_t *where, void *(*fn)(void *arg), void *arg, const char *name)
{
    pthread_t fresh;
    pthread_attr_t attr;
    sigset_t all, before;
    int ret = pthread_attr_init(&attr);
    if (ret)
        return -ret;
    pthread_attr_setstacksize(&attr, STACK);
    if (where)
        pthread_attr_setaffinity_np(&attr, sizeof *where, where);
    sigfillset(&all);
    sigdelset(&all, SIGBUS); /* of what it does itself */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    ret = pthread_create(&fresh, &attr, fn, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    if (ret)
        return -ret;
    pthread_setname_np(fresh, name);
    if (thread)
        *thread = fresh;
    else
        pthread_detach(fresh);
    return 0;
}
