/* SPDX-License-Identifier: BSD-3-Clause */
/* Memory that other processes can be given, for those who give it to them: see plx_shared_alloc(). */
#ifndef PLX_REACTOR_SHARED_H
#define PLX_REACTOR_SHARED_H

#include <pollux/reactor.h>
#include <stdatomic.h>

struct plx_shared_region {
    uint8_t *base;
    size_t bytes;
    int fd;
    uint64_t id; /* of no other region that there ever is */
};

/*
 * How many regions there ever were, and how many of these are gone. Who knows regions by their addresses must know of
 * those that are gone: others may be at their addresses since. The memory of a request is there for as long as that is,
 * so it is enough to look when one comes.
 */
extern _Atomic uint64_t plx_shared_made, plx_shared_freed;

/*
 * What there is. From any thread.
 * @param regions receives up to max of them, with descriptors that are the caller's
 * @param freed what plx_shared_freed was then
 * @return how many
 */
unsigned plx_shared_list(struct plx_shared_region *regions, unsigned max, uint64_t *freed);

/* The same as plx_shared_alloc(), aligned to a power of two, and not made known by plx_memory_add(). */
void *plx_shared_make(size_t bytes, size_t align);

#endif
