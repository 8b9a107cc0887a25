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

/* Begins to bring memory into the cache that will be read soon. */
static inline void plx_fetch(const void *memory, size_t len)
{
    enum { LINE = 64 }; /* what one prefetch brings, at least */
    const char *p = memory, *end = p + len;
    for (; p + 8 * LINE <= end; p += 8 * LINE) {
        __builtin_prefetch(p);
        __builtin_prefetch(p + LINE);
        __builtin_prefetch(p + 2 * LINE);
        __builtin_prefetch(p + 3 * LINE);
        __builtin_prefetch(p + 4 * LINE);
        __builtin_prefetch(p + 5 * LINE);
        __builtin_prefetch(p + 6 * LINE);
        __builtin_prefetch(p + 7 * LINE);
    }
    for (; p < end; p += LINE)
        __builtin_prefetch(p);
}

/* The same of memory that will be written soon. */
static inline void plx_fetch_to_write(void *memory, size_t len)
{
    enum { LINE = 64 };
    for (char *p = memory, *end = p + len; p < end; p += LINE)
        __builtin_prefetch(p, 1);
}

#endif
