/* SPDX-License-Identifier: BSD-3-Clause */
#include "failalloc.h"

#include <stdatomic.h>
#include <stdio.h>

/* Made by the linker's --wrap. */
void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
void *__real_aligned_alloc(size_t align, size_t size);
void __real_free(void *p);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);
void *__wrap_aligned_alloc(size_t align, size_t size);
void __wrap_free(void *p);

static _Atomic unsigned left;
static _Atomic bool failed;
static _Atomic long live;

void failalloc_at(unsigned n)
{
    left = n;
    failed = false;
    live = 0;
}

bool failalloc_failed(void)
{
    return failed;
}

long failalloc_live(void)
{
    return live;
}

/* Whether this one is to fail. */
static bool unlucky(void)
{
    unsigned n = left;
    while (n && !atomic_compare_exchange_weak(&left, &n, n - 1))
        ;
    if (n != 1)
        return false;
    failed = true;
    return true;
}

static void *counted(void *p)
{
    if (p)
        live++;
    return p;
}

void *__wrap_malloc(size_t size)
{
    return unlucky() ? NULL : counted(__real_malloc(size));
}

void *__wrap_calloc(size_t n, size_t size)
{
    return unlucky() ? NULL : counted(__real_calloc(n, size));
}

void *__wrap_realloc(void *p, size_t size)
{
    if (unlucky())
        return NULL;
    void *q = __real_realloc(p, size);
    return p ? q : counted(q);
}

void *__wrap_aligned_alloc(size_t align, size_t size)
{
    return unlucky() ? NULL : counted(__real_aligned_alloc(align, size));
}

void __wrap_free(void *p)
{
    if (p)
        live--;
    __real_free(p);
}

int failalloc_each(bool (*what)(void *arg), void *arg)
{
    for (unsigned n = 1;; n++) {
        failalloc_at(n);
        bool well = what(arg), came = failalloc_failed();
        long rest = failalloc_live();
        failalloc_at(0);
        if (!well || rest) {
            fprintf(stderr, "allocation %u failing: %s, %ld left over\n", n, well ? "ended well" : "not handled", rest);
            return -1;
        }
        if (!came)
            return (int)n - 1;
    }
}
