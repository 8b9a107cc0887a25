/* SPDX-License-Identifier: BSD-3-Clause */
/* The io_uring that commands of the kernel's passthrough go through. */
#ifndef PLX_NVME_URING_RING_H
#define PLX_NVME_URING_RING_H

#include "reactor/ring.h"

/* For so many commands in flight. @return 0 or -errno */
static inline int nvme_uring_ring(struct plx_ring *ring, unsigned depth)
{
    enum { GATHERED = 128 }; /* at most, until they are submitted */
    return plx_ring_create(ring, depth < GATHERED ? depth : GATHERED, depth, IORING_SETUP_SQE128 | IORING_SETUP_CQE32);
}

#endif
