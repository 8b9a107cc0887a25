/* SPDX-License-Identifier: BSD-3-Clause */
/* Small things that C lacks. */
#ifndef PLX_BASE_UTIL_H
#define PLX_BASE_UTIL_H

#include <stddef.h>
#include <stdint.h>

#define plx_container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))
#define plx_likely(x) __builtin_expect(!!(x), 1)
#define plx_unlikely(x) __builtin_expect(!!(x), 0)
#define PLX_ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/*
 * What two cores write to apart is kept this far apart: two lines of 64 bytes that prefetchers pair, or one line of
 * 128.
 */
#define PLX_CACHE_ALIGN 128

#define PLX_NS_PER_US UINT64_C(1000)
#define PLX_NS_PER_MS UINT64_C(1000000)
#define PLX_NS_PER_S UINT64_C(1000000000)

static inline uint64_t plx_min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t plx_max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* to is a power of two */
static inline uint64_t plx_align_up(uint64_t v, uint64_t to)
{
    return (v + to - 1) & ~(to - 1);
}

/* @return what a hex digit stands for, or -1 */
static inline int plx_hex(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

enum { PLX_FETCHED = 512 }; /* bytes; hardware guesses what follows */

/*
 * Begins to bring memory into the cache: PLX_FETCHED bytes that will be read, or written, soon. Always inlined: a
 * function that does nothing but prefetch has no effect in the eyes of gcc 12, which deletes calls to it.
 */
#define PLX_FETCH(name, write)                                                                                         \
    static inline __attribute__((always_inline)) void name(const void *memory)                                         \
    {                                                                                                                  \
        const char *p = memory;                                                                                        \
        __builtin_prefetch(p, write);                                                                                  \
        __builtin_prefetch(p + 64, write);                                                                             \
        __builtin_prefetch(p + 128, write);                                                                            \
        __builtin_prefetch(p + 192, write);                                                                            \
        __builtin_prefetch(p + 256, write);                                                                            \
        __builtin_prefetch(p + 320, write);                                                                            \
        __builtin_prefetch(p + 384, write);                                                                            \
        __builtin_prefetch(p + 448, write);                                                                            \
    }
PLX_FETCH(plx_fetch, 0)
PLX_FETCH(plx_fetch_to_write, 1)

#endif
