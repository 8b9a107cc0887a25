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

/* A prefetch wants to know at compile time whether it is for writing. */
#define PLX_FETCH(memory, len, write)                                                                                  \
    do {                                                                                                               \
        enum { LINE = 64 }; /* what one prefetch brings, at least */                                                   \
        const char *p_ = (memory), *end_ = p_ + (len);                                                                 \
        for (; p_ + 8 * LINE <= end_; p_ += 8 * LINE) {                                                                \
            __builtin_prefetch(p_, write);                                                                             \
            __builtin_prefetch(p_ + LINE, write);                                                                      \
            __builtin_prefetch(p_ + 2 * LINE, write);                                                                  \
            __builtin_prefetch(p_ + 3 * LINE, write);                                                                  \
            __builtin_prefetch(p_ + 4 * LINE, write);                                                                  \
            __builtin_prefetch(p_ + 5 * LINE, write);                                                                  \
            __builtin_prefetch(p_ + 6 * LINE, write);                                                                  \
            __builtin_prefetch(p_ + 7 * LINE, write);                                                                  \
        }                                                                                                              \
        for (; p_ < end_; p_ += LINE)                                                                                  \
            __builtin_prefetch(p_, write);                                                                             \
    } while (0)

/* Begins to bring memory into the cache that will be read soon. */
static inline void plx_fetch(const void *memory, size_t len)
{
    PLX_FETCH(memory, len, 0);
}

/* The same of memory that will be written. */
static inline void plx_fetch_to_write(const void *memory, size_t len)
{
    PLX_FETCH(memory, len, 1);
}

#endif
