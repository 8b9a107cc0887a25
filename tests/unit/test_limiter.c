/* SPDX-License-Identifier: BSD-3-Clause */
/* The policy of rate limits, in simulated time: how much goes, and who goes. */
#include "bdev/limit.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#define SECOND PLX_NS_PER_S
#define START (1000 * SECOND) /* the machine has been up for a while */

enum { USERS = 5 };

/* Users who always have something to ask for, and wake up late: as a reactor does that has other things to do. */
struct crowd {
    struct plx_limiter *l;
    struct user {
        struct plx_limit_user at;
        bool write;
        uint64_t bytes, late; /* of a request; ns, at most */
        uint64_t due, asked;
        uint64_t went, waits;
    } users[USERS];
    unsigned n;
    uint64_t now, seed;
};

static struct plx_limiter *limiter_new(void)
{
    struct plx_limiter *l = plx_limiter_new();
    assert_non_null(l);
    return l;
}

static uint64_t crowd_random(struct crowd *c, uint64_t below)
{
    c->seed = c->seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return below ? (c->seed >> 33) % below : 0;
}

static void crowd_init(struct crowd *c, unsigned n, uint64_t bytes, uint64_t late)
{
    *c = (struct crowd){.l = limiter_new(), .n = n, .now = START, .seed = 1};
    for (unsigned i = 0; i < n; i++) {
        c->users[i].bytes = bytes;
        c->users[i].late = late;
        c->users[i].due = START;
    }
}

/* Runs for so long: whoever is due next asks for as long as it is given. */
static void crowd_run(struct crowd *c, uint64_t ns)
{
    const uint64_t end = c->now + ns;
    for (;;) {
        struct user *u = &c->users[0];
        for (unsigned i = 1; i < c->n; i++)
            if (c->users[i].due < u->due)
                u = &c->users[i];
        if (u->due >= end)
            break;
        c->now = plx_max_u64(c->now, u->due);
        uint64_t until;
        while (!(until = plx_limiter_ask(c->l, &u->at, u->write, u->bytes, c->now)))
            u->went++;
        assert_true(until > c->now);
        u->due = until + crowd_random(c, u->late);
        u->waits++;
    }
    c->now = end;
}

static uint64_t went(const struct crowd *c)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < c->n; i++)
        sum += c->users[i].went;
    return sum;
}

static void within(uint64_t is, uint64_t wanted, unsigned percent)
{
    if (is * 100 < wanted * (100 - percent) || is * 100 > wanted * (100 + percent))
        fail_msg("%llu, not %llu", (unsigned long long)is, (unsigned long long)wanted);
}

static void the_rate_is_what_was_set(void **state)
{
    (void)state;
    static const uint64_t rates[] = {100, 997, 12345, 250000, 1000000, 7000000};
    for (size_t i = 0; i < PLX_ARRAY_SIZE(rates); i++) {
        for (unsigned n = 1; n <= USERS; n += USERS - 1) {
            struct crowd c;
            crowd_init(&c, n, 4096, 2 * PLX_NS_PER_MS);
            plx_limiter_set(c.l, &(struct plx_bdev_limits){.ios = rates[i]}, START);
            crowd_run(&c, 5 * SECOND);
            within(went(&c), 5 * rates[i], 2);
            for (unsigned k = 0; k < n; k++)
                assert_true(c.users[k].waits < 5 * 2000 + 2); /* that is how often the common memory is written to */
            free(c.l);
        }
    }
}

static void the_rate_in_bytes_is_exact_for_large_requests_and_for_small_ones(void **state)
{
    (void)state;
    static const uint64_t rates[] = {1 << 20, 100 << 20, UINT64_C(100) << 30};
    static const uint64_t sizes[] = {512, 4096, 1 << 20, 16 << 20}; /* the last is 16 s of the lowest rate */
    for (size_t i = 0; i < PLX_ARRAY_SIZE(rates); i++) {
        for (size_t k = i > 1 ? 1 : 0; k < PLX_ARRAY_SIZE(sizes); k++) {
            struct crowd c;
            crowd_init(&c, USERS, sizes[k], PLX_NS_PER_MS);
            plx_limiter_set(c.l, &(struct plx_bdev_limits){.bytes = rates[i]}, START);
            uint64_t ns = plx_max_u64(SECOND, 100 * sizes[k] * SECOND / rates[i]);
            crowd_run(&c, ns);
            within(went(&c) * sizes[k], (uint64_t)((double)rates[i] * (double)ns / 1e9), 3);
            free(c.l);
        }
    }
}

/* One is always there at once, the others never. */
static void all_take_turns(void **state)
{
    (void)state;
    static const uint64_t rates[] = {100, 10000, 1000000};
    for (size_t i = 0; i < PLX_ARRAY_SIZE(rates); i++) {
        struct crowd c;
        crowd_init(&c, USERS, 4096, 200 * PLX_NS_PER_US);
        c.users[0].late = 0;
        plx_limiter_set(c.l, &(struct plx_bdev_limits){.ios = rates[i]}, START);
        crowd_run(&c, 5 * SECOND);
        within(went(&c), 5 * rates[i], 3);
        for (unsigned k = 0; k < USERS; k++)
            within(c.users[k].went, rates[i], 15);
        free(c.l);
    }
}

static void reads_and_writes_have_limits_of_their_own_and_one_together(void **state)
{
    (void)state;
    struct crowd c;
    crowd_init(&c, 2, 4096, PLX_NS_PER_MS);
    c.users[1].write = true;
    plx_limiter_set(c.l, &(struct plx_bdev_limits){.ios = 5000, .read_ios = 1000, .write_bytes = 2000 * 4096}, START);
    crowd_run(&c, 5 * SECOND);
    within(c.users[0].went, 5000, 2);
    within(c.users[1].went, 10000, 2);
    plx_limiter_set(c.l, &(struct plx_bdev_limits){.ios = 5000, .read_ios = 1000, .write_bytes = 200000 * 4096}, c.now);
    c.users[0].went = c.users[1].went = 0;
    c.users[0].due = c.users[1].due = c.now;
    crowd_run(&c, 5 * SECOND);
    within(c.users[0].went, 5000, 2);
    within(c.users[1].went, 20000, 2); /* what reads leave of all */
    free(c.l);
}

static void one_larger_than_the_burst_passes_and_is_paid_for_after(void **state)
{
    (void)state;
    struct plx_limiter *l = limiter_new();
    struct plx_limit_user u = {0}, other = {0};
    plx_limiter_set(l, &(struct plx_bdev_limits){.bytes = 1000}, START);
    assert_int_equal(plx_limiter_ask(l, &u, false, 1000000, START), 0); /* 1000 s */
    assert_int_equal(plx_limiter_ask(l, &other, true, 1, START), START + 1000 * SECOND);
    assert_int_equal(plx_limiter_ask(l, &u, false, 1, START + 999 * SECOND), START + 1000 * SECOND + SECOND / 1000);
    assert_int_equal(plx_limiter_ask(l, &other, true, 1, START + 1000 * SECOND), 0);
    /* The highest debt that there is does not overflow: of one, and of all. */
    plx_limiter_charge(l, &u, false, UINT64_C(1) << 61, START);
    assert_true(plx_limiter_ask(l, &other, true, 2, START) > START + UINT64_C(1000000) * SECOND);
    for (int i = 0; i < 511; i++) /* 2^56 in all */
        plx_limiter_charge(l, &u, false, UINT64_C(1) << 61, START);
    other = (struct plx_limit_user){.version = other.version};
    assert_true(plx_limiter_ask(l, &other, true, 1, START) > START + UINT64_C(100000000) * SECOND);
    free(l);
}

static void what_was_left_unused_is_kept_for_the_burst(void **state)
{
    (void)state;
    static const unsigned bursts[] = {0, 1, 500};
    for (size_t i = 0; i < PLX_ARRAY_SIZE(bursts); i++) {
        struct crowd c;
        crowd_init(&c, 1, 4096, 0);
        uint64_t ms = bursts[i] ? bursts[i] : 50;
        plx_limiter_set(c.l, &(struct plx_bdev_limits){.ios = 100000, .burst_ms = bursts[i]}, START);
        c.now = c.users[0].due = START + 60 * SECOND; /* idle */
        crowd_run(&c, 1);
        within(went(&c), ms * 100, ms > 1 ? 2 : 51); /* and a booking */
        free(c.l);
    }
}

static void a_change_counts_at_once(void **state)
{
    (void)state;
    struct plx_limiter *l = limiter_new();
    struct plx_limit_user u = {0}, other = {0};
    uint64_t now = START;
    assert_int_equal(plx_limiter_ask(l, &u, true, 4096, now), 0); /* no limit */
    plx_limiter_set(l, &(struct plx_bdev_limits){.write_ios = 1}, now);
    assert_int_equal(plx_limiter_ask(l, &u, true, 4096, now), 0);
    assert_int_equal(plx_limiter_ask(l, &u, true, 4096, now), now + SECOND);
    assert_int_equal(plx_limiter_ask(l, &other, true, 4096, now), now + 2 * SECOND);
    now += PLX_NS_PER_MS;
    plx_limiter_set(l, &(struct plx_bdev_limits){.write_ios = 1000}, now);
    assert_int_equal(plx_limiter_ask(l, &other, true, 4096, now), 0);
    assert_int_equal(plx_limiter_ask(l, &u, true, 4096, now), now + PLX_NS_PER_MS);
    plx_limiter_set(l, &(struct plx_bdev_limits){0}, now);
    for (int i = 0; i < 5000; i++)
        assert_int_equal(plx_limiter_ask(l, &u, true, 4096, now), 0);
    /* What was booked ahead is not counted twice, nor is any of it used by the new limits. */
    plx_limiter_set(l, &(struct plx_bdev_limits){.write_ios = 1000000}, now);
    assert_int_equal(plx_limiter_ask(l, &u, true, 4096, now), 0);
    plx_limiter_set(l, &(struct plx_bdev_limits){.write_ios = 10}, now);
    assert_int_equal(plx_limiter_ask(l, &u, true, 4096, now), 0);
    assert_int_equal(plx_limiter_ask(l, &u, true, 4096, now), now + SECOND / 10);
    free(l);
}

/* Someone who has seen the old limits, and is interrupted until they are others, does not book by them. */
static void who_is_late_does_not_book_by_limits_that_were(void **state)
{
    (void)state;
    struct plx_limiter *l = limiter_new();
    struct plx_limit_user u = {0}, other = {0};
    plx_limiter_set(l, &(struct plx_bdev_limits){.bytes = 1}, START);
    uint32_t old = l->version;
    plx_limiter_set(l, &(struct plx_bdev_limits){.bytes = 1000000}, START);
    l->version = old; /* as it still sees it: then the change is not complete */
    assert_int_equal(plx_limiter_ask(l, &u, true, 1 << 20, START), START + PLX_NS_PER_MS);
    l->version = old + 1;
    assert_int_equal(plx_limiter_ask(l, &other, true, 1, START), 0);
    free(l);
}

static void who_cannot_wait_is_paid_for_by_those_who_can(void **state)
{
    (void)state;
    struct plx_limiter *l = limiter_new();
    struct plx_limit_user u = {0};
    plx_limiter_set(l, &(struct plx_bdev_limits){.ios = 100}, START);
    for (int i = 0; i < 10; i++)
        plx_limiter_charge(l, &u, true, 4096, START);
    assert_int_equal(plx_limiter_ask(l, &u, true, 4096, START), START + SECOND / 10);
    free(l);
}

/* ---- several threads ---- */

enum { THREADS = 3, CHANGES = 20000, ASKED = 1000 };

static struct {
    struct plx_limiter *l;
    _Atomic bool over;
    _Atomic unsigned asked[THREADS];
} storm;

/* Time stands still, so that each books once for each change of the limits. */
static void *ask_all_the_time(void *arg)
{
    struct plx_limit_user u = {0};
    while (!atomic_load_explicit(&storm.over, memory_order_relaxed)) {
        plx_limiter_ask(storm.l, &u, false, 4096, START);
        atomic_fetch_add_explicit((_Atomic unsigned *)arg, 1, memory_order_relaxed);
    }
    return NULL;
}

static bool all_asked(unsigned times)
{
    bool all = true;
    for (int i = 0; i < THREADS; i++)
        all = all && atomic_load_explicit(&storm.asked[i], memory_order_relaxed) >= times;
    return all;
}

/* Whoever asks has begun to after this was called. */
static void all_ask_anew(void)
{
    unsigned before[THREADS];
    for (int i = 0; i < THREADS; i++)
        before[i] = atomic_load(&storm.asked[i]);
    for (int i = 0; i < THREADS; i++)
        while (atomic_load(&storm.asked[i]) - before[i] < 2)
            sched_yield();
}

static void change_limits(unsigned i)
{
    plx_limiter_set(
        storm.l,
        &(struct plx_bdev_limits){.ios = i % 3 ? 1 + i % CHANGES * 100 : 0, .read_bytes = i % 2 ? 1 : UINT64_MAX},
        START);
}

/* At its end nobody is 256 changes late, whose booking could not be told from one by the limits that are. */
static void limits_change_while_others_ask(void **state)
{
    (void)state;
    pthread_t threads[THREADS];
    storm.l = limiter_new();
    alarm(60); /* ends the test: it hangs */
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, ask_all_the_time, &storm.asked[i]), 0);
    for (unsigned i = 0; i < CHANGES || !all_asked(ASKED); i++)
        change_limits(i);
    all_ask_anew();
    for (unsigned i = 0; i < 200; i++)
        change_limits(i);
    plx_limiter_set(storm.l, &(struct plx_bdev_limits){.read_bytes = 1 << 30}, START);
    atomic_store(&storm.over, true);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    alarm(0);
    /* Nobody has booked by limits that no longer are: 4096 bytes at one a second. */
    struct plx_limit_user u = {0};
    assert_true(plx_limiter_ask(storm.l, &u, false, 4096, START) < START + SECOND);
    free(storm.l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_rate_is_what_was_set),
        cmocka_unit_test(the_rate_in_bytes_is_exact_for_large_requests_and_for_small_ones),
        cmocka_unit_test(all_take_turns),
        cmocka_unit_test(reads_and_writes_have_limits_of_their_own_and_one_together),
        cmocka_unit_test(one_larger_than_the_burst_passes_and_is_paid_for_after),
        cmocka_unit_test(what_was_left_unused_is_kept_for_the_burst),
        cmocka_unit_test(a_change_counts_at_once),
        cmocka_unit_test(who_is_late_does_not_book_by_limits_that_were),
        cmocka_unit_test(who_cannot_wait_is_paid_for_by_those_who_can),
        cmocka_unit_test(limits_change_while_others_ask),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
