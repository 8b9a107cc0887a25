/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Bits that a queue, or the home of a disk's connection, is asked by others, who then write its descriptor.
 *
 * Orders, of which tests/model/test_ask.c finds that they are needed and enough: descriptors wake, but who does not
 * sleep sees the bits before those. So asking releases what led to it, and looking acquires that; taking a bit back
 * releases what was done about it, and who asked and looks whether it is still there acquires that.
 */
#ifndef PLX_BDEV_VIRTIO_ASK_H
#define PLX_BDEV_VIRTIO_ASK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

static inline void vio_ask_add(_Atomic uint32_t *ask, uint32_t bits)
{
    atomic_fetch_or_explicit(ask, bits, memory_order_release);
}

static inline bool vio_ask_is(const _Atomic uint32_t *ask, uint32_t bits)
{
    return atomic_load_explicit(ask, memory_order_acquire) & bits;
}

/* @return those of the bits that were there, and are no more */
static inline uint32_t vio_ask_take(_Atomic uint32_t *ask, uint32_t bits)
{
    return atomic_fetch_and_explicit(ask, ~bits, memory_order_acq_rel) & bits;
}

#endif
