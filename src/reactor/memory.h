/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Memory that data of requests is in, for those who have devices read and write it there: see plx_memory_add().
 * Control path: there are few pieces, and they come and go with reactors, jobs and guests.
 */
#ifndef PLX_REACTOR_MEMORY_H
#define PLX_REACTOR_MEMORY_H

#include <pollux/reactor.h>

#include "base/list.h"

/* Whoever is told of all there is. Both may block, and must not call what is here. */
struct plx_memory_user {
    struct plx_list link;
    void (*added)(struct plx_memory_user *u, void *at, size_t bytes);
    /* No request has anything there any more; when this has returned no device does. */
    void (*removed)(struct plx_memory_user *u, void *at, size_t bytes);
};

/* Is told of what there is before this returns, and of what comes from then on, on whichever thread that is. */
void plx_memory_watch(struct plx_memory_user *u);
/* As plx_memory_add(), where that takes no time. @return false: somebody is told, and it was not made known */
bool plx_memory_add_unheard(void *at, size_t bytes);
/* Is not told of anything any more. */
void plx_memory_unwatch(struct plx_memory_user *u);

#endif
