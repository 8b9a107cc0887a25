/* SPDX-License-Identifier: BSD-3-Clause */
/* The pool of buffers: alignment, exhaustion, merging. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pollux/reactor.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"

enum { KIB = 1024, MIB = 1024 * 1024 };

static struct plx_reactor *make(size_t bytes, size_t largest)
{
    struct plx_reactor_opts opts = {.core = -1, .buffer_bytes = bytes, .buffer_max = largest};
    struct plx_reactor *r;
    assert_int_equal(plx_reactor_create(&r, &opts), 0);
    return r;
}

static uint32_t next_random(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*state >> 33);
}

static void every_buffer_is_aligned(void **state)
{
    (void)state;
    struct plx_reactor *r = make(0, 0);
    static const size_t sizes[] = {1, 512, 8192, 8193, 20000, 65536, 100000, MIB};
    assert_int_equal(plx_buf_max_bytes(r), MIB);
    for (size_t i = 0; i < PLX_ARRAY_SIZE(sizes); i++) {
        void *b = plx_buf_get(r, sizes[i]);
        assert_non_null(b);
        assert_int_equal((uintptr_t)b % PLX_BUF_MIN, 0);
        memset(b, 1, sizes[i]);
        plx_buf_put(r, b, sizes[i]);
    }
    assert_int_equal(plx_buf_free_bytes(r), plx_buf_total_bytes(r));
    plx_reactor_destroy(r);
}

static void an_empty_pool_says_so_and_recovers_whole(void **state)
{
    (void)state;
    struct plx_reactor *r = make(4 * MIB, MIB);
    size_t n = plx_buf_total_bytes(r) / PLX_BUF_MIN;
    void **b = calloc(n, sizeof *b);
    for (size_t i = 0; i < n; i++)
        assert_non_null(b[i] = plx_buf_get(r, PLX_BUF_MIN));
    assert_null(plx_buf_get(r, 1));
    assert_int_equal(plx_buf_free_bytes(r), 0);
    for (size_t i = 0; i < n; i += 2) /* every other one: nothing merges */
        plx_buf_put(r, b[i], PLX_BUF_MIN);
    assert_null(plx_buf_get(r, PLX_BUF_MIN + 1));
    for (size_t i = 1; i < n; i += 2)
        plx_buf_put(r, b[i], PLX_BUF_MIN);
    for (size_t i = 0; i < plx_buf_total_bytes(r) / MIB; i++) /* all merged: as many of the largest as ever */
        assert_non_null(b[i] = plx_buf_get(r, MIB));
    for (size_t i = 0; i < plx_buf_total_bytes(r) / MIB; i++)
        plx_buf_put(r, b[i], MIB);
    free(b);
    plx_reactor_destroy(r);
}

struct held {
    uint8_t *mem;
    size_t size;
    uint8_t tag;
};

static void check(const struct held *h)
{
    for (size_t i = 0; i < h->size; i += 61)
        assert_int_equal(h->mem[i], h->tag);
    assert_int_equal(h->mem[h->size - 1], h->tag);
}

static void buffers_never_overlap_whatever_the_order(void **state)
{
    (void)state;
    struct plx_reactor *r = make(8 * MIB, 512 * KIB);
    struct held held[256];
    size_t n = 0, refused = 0;
    uint64_t seed = 42;
    for (int i = 0; i < 50000; i++) {
        if (n && (n == PLX_ARRAY_SIZE(held) || next_random(&seed) % 100 < 47)) {
            size_t which = next_random(&seed) % n;
            check(&held[which]);
            plx_buf_put(r, held[which].mem, held[which].size);
            held[which] = held[--n];
            continue;
        }
        size_t size = 1 + next_random(&seed) % (UINT32_C(1) << (9 + next_random(&seed) % 11));
        uint8_t *mem = plx_buf_get(r, size);
        if (!mem) {
            refused++;
            continue;
        }
        held[n] = (struct held){mem, size, (uint8_t)i};
        memset(mem, held[n].tag, size);
        n++;
    }
    assert_true(refused > 0); /* it was full now and then */
    while (n--) {
        check(&held[n]);
        plx_buf_put(r, held[n].mem, held[n].size);
    }
    assert_int_equal(plx_buf_free_bytes(r), plx_buf_total_bytes(r));
    plx_reactor_destroy(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_buffer_is_aligned),
        cmocka_unit_test(an_empty_pool_says_so_and_recovers_whole),
        cmocka_unit_test(buffers_never_overlap_whatever_the_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
