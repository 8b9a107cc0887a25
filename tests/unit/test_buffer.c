/* SPDX-License-Identifier: BSD-3-Clause */
/* The pool of buffers: alignment, exhaustion, merging. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pollux/reactor.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "reactor/aside.h"
#include "reactor/memory.h"

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

/* ---- what devices are told ---- */

struct device {
    struct plx_memory_user user;
    pthread_mutex_t lock;
    pthread_cond_t more;
    pthread_t own; /* the reactor's thread: it must not be held up */
    const uint8_t *first;
    size_t bytes, own_bytes; /* in all; told on that thread */
};

static void device_added(struct plx_memory_user *u, void *at, size_t bytes)
{
    struct device *d = plx_container_of(u, struct device, user);
    pthread_mutex_lock(&d->lock);
    if (!d->bytes)
        d->first = at;
    assert_true((uint8_t *)at == d->first + d->bytes); /* piece by piece */
    d->bytes += bytes;
    if (pthread_equal(d->own, pthread_self()))
        d->own_bytes += bytes;
    pthread_cond_broadcast(&d->more);
    pthread_mutex_unlock(&d->lock);
}

static void device_removed(struct plx_memory_user *u, void *at, size_t bytes)
{
    struct device *d = plx_container_of(u, struct device, user);
    (void)at;
    pthread_mutex_lock(&d->lock);
    d->bytes -= bytes;
    pthread_mutex_unlock(&d->lock);
}

static void device_open(struct device *d)
{
    *d = (struct device){.user = {.added = device_added, .removed = device_removed}, .own = pthread_self()};
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->more, NULL);
    plx_memory_watch(&d->user);
}

static void device_close(struct device *d)
{
    plx_memory_unwatch(&d->user);
    pthread_mutex_destroy(&d->lock);
    pthread_cond_destroy(&d->more);
}

static size_t device_bytes(struct device *d)
{
    pthread_mutex_lock(&d->lock);
    const size_t bytes = d->bytes;
    pthread_mutex_unlock(&d->lock);
    return bytes;
}

static void device_wait(struct device *d, size_t bytes)
{
    pthread_mutex_lock(&d->lock);
    while (d->bytes < bytes)
        pthread_cond_wait(&d->more, &d->lock);
    pthread_mutex_unlock(&d->lock);
}

static void check_device(bool shared)
{
    const struct plx_reactor_opts opts = {.core = -1, .buffer_bytes = 16 * MIB, .shared = shared};
    struct device d;
    struct plx_reactor *r;
    device_open(&d);
    assert_int_equal(plx_reactor_create(&r, &opts), 0);
    assert_int_equal(device_bytes(&d), 2 * MIB);
    uint8_t *one = plx_buf_get(r, PLX_BUF_MIN);
    assert_true(d.first && one >= d.first && one + MIB <= d.first + 2 * MIB);
    device_wait(&d, 16 * MIB);
    assert_int_equal(d.own_bytes, 2 * MIB);
    plx_buf_put(r, one, PLX_BUF_MIN);
    plx_reactor_destroy(r);
    assert_int_equal(device_bytes(&d), 0);
    device_close(&d);
}

static void devices_are_told_of_the_rest_as_it_comes_into_use(void **state)
{
    (void)state;
    check_device(false);
    check_device(true);
}

/* The thread that tells may be at it. */
static void a_reactor_may_go_while_devices_are_told(void **state)
{
    struct device d;
    (void)state;
    device_open(&d);
    for (int i = 0; i < 20; i++) {
        struct plx_reactor *r = make(16 * MIB, MIB);
        plx_buf_put(r, plx_buf_get(r, MIB), MIB);
        void *all[16];
        for (size_t n = 0; n < PLX_ARRAY_SIZE(all); n++)
            all[n] = plx_buf_get(r, MIB);
        for (size_t n = 0; n < PLX_ARRAY_SIZE(all); n++)
            plx_buf_put(r, all[n], MIB);
        plx_reactor_destroy(r);
        assert_int_equal(device_bytes(&d), 0);
    }
    device_close(&d);
}

/* One that comes later is told of what is in use by then. */
static void a_device_that_comes_later_is_told_of_the_same(void **state)
{
    struct plx_reactor *r = make(16 * MIB, MIB);
    struct device d;
    (void)state;
    device_open(&d);
    assert_int_equal(device_bytes(&d), 2 * MIB);
    device_close(&d);
    void *held[] = {plx_buf_get(r, 1), plx_buf_get(r, MIB)};
    device_open(&d);
    assert_int_equal(device_bytes(&d), 16 * MIB);
    device_close(&d);
    plx_buf_put(r, held[0], 1);
    plx_buf_put(r, held[1], MIB);
    plx_reactor_destroy(r);
}

static void devices_are_not_told_of_a_reactor_aside(void **state)
{
    struct device d;
    struct plx_reactor *r;
    (void)state;
    device_open(&d);
    assert_int_equal(plx_reactor_create_aside(&r), 0);
    void *held[] = {plx_buf_get(r, MIB), plx_buf_get(r, MIB)};
    for (size_t n = 0; n < PLX_ARRAY_SIZE(held); n++)
        plx_buf_put(r, held[n], MIB);
    plx_reactor_destroy(r);
    assert_null(d.first);
    device_close(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_buffer_is_aligned),
        cmocka_unit_test(an_empty_pool_says_so_and_recovers_whole),
        cmocka_unit_test(buffers_never_overlap_whatever_the_order),
        cmocka_unit_test(devices_are_told_of_the_rest_as_it_comes_into_use),
        cmocka_unit_test(a_reactor_may_go_while_devices_are_told),
        cmocka_unit_test(a_device_that_comes_later_is_told_of_the_same),
        cmocka_unit_test(devices_are_not_told_of_a_reactor_aside),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
