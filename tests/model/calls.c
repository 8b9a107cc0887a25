/* SPDX-License-Identifier: BSD-3-Clause */
/* What compilers call for -fsanitize=thread. */
#include "explore.h"

#include <string.h>

#pragma GCC diagnostic ignored "-Wmissing-prototypes"

void __tsan_init(void);
void __tsan_init(void)
{
}
void __tsan_func_entry(void *pc);
void __tsan_func_entry(void *pc)
{
    (void)pc;
}
void __tsan_func_exit(void);
void __tsan_func_exit(void)
{
}

#define PLAIN(bytes)                                                                                                   \
    void __tsan_read##bytes(void *at)                                                                                  \
    {                                                                                                                  \
        explore_plain(at, bytes, false);                                                                               \
    }                                                                                                                  \
    void __tsan_write##bytes(void *at)                                                                                 \
    {                                                                                                                  \
        explore_plain(at, bytes, true);                                                                                \
    }                                                                                                                  \
    void __tsan_unaligned_read##bytes(void *at)                                                                        \
    {                                                                                                                  \
        explore_plain(at, bytes, false);                                                                               \
    }                                                                                                                  \
    void __tsan_unaligned_write##bytes(void *at)                                                                       \
    {                                                                                                                  \
        explore_plain(at, bytes, true);                                                                                \
    }
PLAIN(1)
PLAIN(2)
PLAIN(4)
PLAIN(8)
PLAIN(16)

void __tsan_read_range(void *at, unsigned long bytes)
{
    explore_plain(at, (unsigned)bytes, false);
}

void __tsan_write_range(void *at, unsigned long bytes)
{
    explore_plain(at, (unsigned)bytes, true);
}

/* With --param tsan-distinguish-volatile=1: what peers may change at any time, read once. */
#define VOLATILE(bytes, type)                                                                                          \
    void __tsan_volatile_read##bytes(void *at)                                                                         \
    {                                                                                                                  \
        type v = (type)explore_atomic(at, bytes, (struct op){.kind = OP_READ, .order = __ATOMIC_RELAXED});             \
        memcpy(at, &v, bytes);                                                                                         \
    }                                                                                                                  \
    void __tsan_volatile_write##bytes(void *at)                                                                        \
    {                                                                                                                  \
        explore_plain(at, bytes, true);                                                                                \
    }
VOLATILE(1, uint8_t)
VOLATILE(2, uint16_t)
VOLATILE(4, uint32_t)
VOLATILE(8, uint64_t)

uint64_t explore_outside(const volatile void *at, unsigned bytes, const struct op *o)
{
    void *p = (void *)(uintptr_t)at;
    uint64_t was = 0;
    memcpy(&was, p, bytes);
    if (o->kind == OP_READ || (o->compares && was != o->expect))
        return was;
    const uint64_t v = explore_updated(o, was, bytes);
    memcpy(p, &v, bytes);
    return was;
}

#define UPDATE(bits, type, name, how)                                                                                  \
    type __tsan_atomic##bits##_##name(volatile type *at, type v, int order)                                            \
    {                                                                                                                  \
        return (type)explore_atomic(at, bits / 8,                                                                      \
                                    (struct op){.kind = OP_RMW, .order = (uint8_t)order, .rmw = how, .arg = v});       \
    }

#define ATOMIC(bits, type)                                                                                             \
    type __tsan_atomic##bits##_load(const volatile type *at, int order)                                                \
    {                                                                                                                  \
        return (type)explore_atomic(at, bits / 8, (struct op){.kind = OP_READ, .order = (uint8_t)order});              \
    }                                                                                                                  \
    void __tsan_atomic##bits##_store(volatile type *at, type v, int order)                                             \
    {                                                                                                                  \
        explore_atomic(at, bits / 8, (struct op){.kind = OP_WRITE, .order = (uint8_t)order, .arg = v});                \
    }                                                                                                                  \
    UPDATE(bits, type, exchange, RMW_SET)                                                                              \
    UPDATE(bits, type, fetch_add, RMW_ADD)                                                                             \
    UPDATE(bits, type, fetch_sub, RMW_SUB)                                                                             \
    UPDATE(bits, type, fetch_and, RMW_AND)                                                                             \
    UPDATE(bits, type, fetch_or, RMW_OR)                                                                               \
    UPDATE(bits, type, fetch_xor, RMW_XOR)                                                                             \
    type __tsan_atomic##bits##_compare_exchange_val(volatile type *at, type expect, type v, int order, int fail)       \
    {                                                                                                                  \
        return (type)explore_atomic(at, bits / 8,                                                                      \
                                    (struct op){.kind = OP_RMW,                                                        \
                                                .order = (uint8_t)order,                                               \
                                                .fail_order = (uint8_t)fail,                                           \
                                                .compares = true,                                                      \
                                                .expect = expect,                                                      \
                                                .arg = v});                                                            \
    }                                                                                                                  \
    int __tsan_atomic##bits##_compare_exchange_strong(volatile type *at, type *expect, type v, int order, int fail)    \
    {                                                                                                                  \
        type was = __tsan_atomic##bits##_compare_exchange_val(at, *expect, v, order, fail);                            \
        if (was == *expect)                                                                                            \
            return 1;                                                                                                  \
        *expect = was;                                                                                                 \
        return 0;                                                                                                      \
    }                                                                                                                  \
    int __tsan_atomic##bits##_compare_exchange_weak(volatile type *at, type *expect, type v, int order, int fail)      \
    {                                                                                                                  \
        return __tsan_atomic##bits##_compare_exchange_strong(at, expect, v, order, fail);                              \
    }
ATOMIC(8, uint8_t)
ATOMIC(16, uint16_t)
ATOMIC(32, uint32_t)
ATOMIC(64, uint64_t)

void __tsan_atomic_thread_fence(int order)
{
    explore_fence(order, __builtin_return_address(0));
}

/* Of a thread and what interrupts it, its end perhaps: nothing to other threads. */
void __tsan_atomic_signal_fence(int order)
{
    explore_signal_fence(order, __builtin_return_address(0));
}
