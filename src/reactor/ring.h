/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * An io_uring that belongs to a reactor: set up as well as the kernel knows, and able to wake the reactor up.
 *
 * It has a single issuer and defers its work to the call that asks for it (DEFER_TASKRUN, Linux 6.1), so the kernel
 * never interrupts the reactor; its flag IORING_SQ_TASKRUN, which liburing looks at, says when the call is worth
 * making. Older kernels get what they know of this.
 *
 * A sleeping reactor is woken through an eventfd: the descriptor of such a ring itself does not become readable when
 * there is deferred work (seen on Linux 6.18). The kernel signals it only while that is enabled, which is from arm to
 * disarm.
 */
#ifndef PLX_REACTOR_RING_H
#define PLX_REACTOR_RING_H

#include <liburing.h>
#include <pthread.h>
#include <stdbool.h>

struct plx_ring {
    struct io_uring ring;
    int fd; /* becomes readable, from arm to disarm, when something has completed */
    unsigned entries, cq_entries, flags;
    bool enabled;
    bool armed;       /* the kernel signals fd */
    pthread_t issuer; /* once enabled */
};

/*
 * Makes one. The issuer is whichever thread adopts it, so this may be called before the reactor's thread runs.
 * @param flags IORING_SETUP_ ones besides those that all have
 * @return 0, or -errno when there can be no such io_uring
 */
int plx_ring_create(struct plx_ring *r, unsigned entries, unsigned cq_entries, unsigned flags);
void plx_ring_destroy(struct plx_ring *r);

/* Whether the calling thread is its issuer. */
static inline bool plx_ring_is_mine(const struct plx_ring *r)
{
    return r->enabled && pthread_equal(r->issuer, pthread_self());
}

/*
 * Makes the calling thread the issuer of a ring that has nothing in flight: should the reactor have been handed to
 * another thread, the ring is replaced. @return 0; 1 when it was replaced; or -errno
 */
int plx_ring_adopt(struct plx_ring *r);

/* The reactor is about to sleep. @return whether something has completed already */
bool plx_ring_arm(struct plx_ring *r);
void plx_ring_disarm(struct plx_ring *r);

#endif
