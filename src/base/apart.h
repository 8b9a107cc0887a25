/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Data of different reactors lies PLX_CACHE_ALIGN bytes apart, so that a core which writes its own takes no line away
 * from another. A type of which there is one a reactor, in an array or beside others, is declared so:
 *
 *     struct leg {
 *         ...
 *     } PLX_APART;
 *     PLX_IS_APART(struct leg);
 *
 * and its memory is of plx_alloc_apart(), as that of malloc() is aligned to 16 bytes.
 */
#ifndef PLX_BASE_APART_H
#define PLX_BASE_APART_H

#include "base/util.h"

#include <stdlib.h>
#include <string.h>

#define PLX_APART __attribute__((aligned(PLX_CACHE_ALIGN)))
#define PLX_IS_APART(type)                                                                                             \
    _Static_assert(_Alignof(type) >= PLX_CACHE_ALIGN && sizeof(type) % PLX_CACHE_ALIGN == 0, #type " shares a line")

/* @return zeroed memory, which free() gives back, or NULL */
static inline void *plx_alloc_apart(size_t bytes)
{
    bytes = plx_align_up(bytes, PLX_CACHE_ALIGN);
    void *memory = aligned_alloc(PLX_CACHE_ALIGN, bytes);
    return memory ? memset(memory, 0, bytes) : NULL;
}

#endif
