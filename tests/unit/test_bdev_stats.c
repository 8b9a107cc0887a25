/* SPDX-License-Identifier: BSD-3-Clause */
/* What disks tell of themselves: statistics, latencies in simulated time, and what is in flight. */
#include "bdev_util.h"

#include <stdio.h>
#include <string.h>

#include "bdev/core.h"
#include "filters.h"
#include "reactor/clock.h"
#include "test_disk.h"

#define MS PLX_NS_PER_MS

static uint64_t simulated_ns;
static uint8_t data[65536];

static uint64_t simulated(void)
{
    return simulated_ns;
}

static int time_simulated(void **state)
{
    (void)state;
    simulated_ns = 1000 * PLX_NS_PER_S;
    plx_clock_simulate(simulated);
    return 0;
}

static int time_real(void **state)
{
    (void)state;
    plx_clock_simulate(NULL);
    return 0;
}

static void pass(struct tu *t, uint64_t ns)
{
    simulated_ns += ns;
    while (plx_reactor_poll(t->reactor))
        ;
}

static struct plx_bdev_stats stats_of(struct plx_bdev *bdev)
{
    struct plx_bdev_stats s = {0};
    plx_bdev_get_stats(bdev, &s);
    return s;
}

/* One request, that the disk ends after so long. */
static void take(struct tu *t, struct test_disk *d, enum plx_bdev_op op, uint64_t ns, uint16_t status)
{
    struct tu_req q;
    tu_req_init(&q);
    pass(t, 0);
    tu_start(t, &q, op, 0, 1, data);
    pass(t, ns);
    assert_true(test_disk_end(d, status));
    assert_int_equal(q.done, 1);
    tu_req_free(&q);
}

static void latencies_are_told_by_operation(void **state)
{
    (void)state;
    static const enum plx_bdev_op ops[] = {PLX_BDEV_READ, PLX_BDEV_WRITE, PLX_BDEV_UNMAP, PLX_BDEV_COPY};
    struct test_disk *d = test_disk_new();
    struct tu t;
    tu_join(&t, &d->bdev);
    for (size_t i = 0; i < PLX_ARRAY_SIZE(ops); i++) {
        take(&t, d, ops[i], (2 + i) * MS, 0);
        take(&t, d, ops[i], 10 * MS, i == 1 ? PLX_SC_WRITE_FAULT : 0);
        take(&t, d, ops[i], 1 * MS, 0);
    }
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, 2048, 1, data), PLX_SC_LBA_OUT_OF_RANGE);
    assert_int_equal(tu_io(&t, PLX_BDEV_OPS + 5, 0, 1, data), PLX_SC_INVALID_OPCODE);
    struct plx_bdev_stats s = stats_of(&d->bdev);
    for (size_t i = 0; i < PLX_ARRAY_SIZE(ops); i++) {
        assert_int_equal(s.ops[ops[i]], 3);
        assert_int_equal(s.latency_ns[ops[i]], (13 + i) * MS);
        assert_int_equal(s.min_latency_ns[ops[i]], MS);
        assert_int_equal(s.max_latency_ns[ops[i]], 10 * MS);
        assert_int_equal(s.failed[ops[i]], i < 2);
    }
    assert_int_equal(s.errors, 3);
    assert_int_equal(s.max_latency_ns[PLX_BDEV_FLUSH] + s.min_latency_ns[PLX_BDEV_FLUSH], 0);
    tu_leave(&t);
    /* A channel that is gone counts on. */
    struct plx_bdev_stats after = stats_of(&d->bdev);
    assert_memory_equal(&after, &s, sizeof s);
    /* The smallest of all, and the largest. */
    after.min_latency_ns[PLX_BDEV_READ] = 5 * MS;
    after.max_latency_ns[PLX_BDEV_READ] = 6 * MS;
    plx_bdev_get_stats(&d->bdev, &after);
    assert_int_equal(after.min_latency_ns[PLX_BDEV_READ], MS);
    assert_int_equal(after.max_latency_ns[PLX_BDEV_READ], 10 * MS);
    assert_int_equal(after.latency_ns[PLX_BDEV_READ], 26 * MS);
    plx_bdev_close(&d->bdev);
}

static void what_waits_takes_time(void **state)
{
    (void)state;
    struct test_disk *d = test_disk_new();
    struct plx_bdev *top = filter_plain_new(&d->bdev);
    struct tu t;
    struct tu_req q[2];
    tu_join(&t, top);
    assert_int_equal(plx_bdev_set_limits(top, &(struct plx_bdev_limits){.write_ios = 10}, NULL), 0);
    pass(&t, 0);
    for (int i = 0; i < 2; i++) {
        tu_req_init(&q[i]);
        tu_start(&t, &q[i], PLX_BDEV_COPY, 8, 1, data);
    }
    for (int i = 0; i < 4; i++) {
        if (!d->first) {
            pass(&t, 49 * MS);
            pass(&t, 30 * MS);
            assert_null(d->first);
            pass(&t, 1 * MS);
        }
        pass(&t, 10 * MS);
        assert_true(test_disk_end(d, i == 3 ? PLX_SC_WRITE_FAULT : 0));
    }
    struct plx_bdev_stats s = stats_of(top);
    assert_int_equal(s.errors, 1);
    assert_int_equal(s.failed[PLX_BDEV_COPY], 1);
    assert_int_equal(s.ops[PLX_BDEV_COPY], 2);
    assert_int_equal(s.min_latency_ns[PLX_BDEV_COPY], 20 * MS);
    assert_int_equal(s.max_latency_ns[PLX_BDEV_COPY], 120 * MS); /* 100 ms until it may go, and its own */
    assert_int_equal(s.latency_ns[PLX_BDEV_READ] + s.latency_ns[PLX_BDEV_WRITE], 0);
    s = stats_of(&d->bdev); /* where they are requests of their own */
    assert_int_equal(s.ops[PLX_BDEV_COPY], 0);
    assert_int_equal(s.latency_ns[PLX_BDEV_READ], 20 * MS);
    assert_int_equal(s.failed[PLX_BDEV_WRITE], 1);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(q[i].done, 1);
        tu_req_free(&q[i]);
    }
    tu_leave(&t);
    plx_bdev_close(top);
    plx_bdev_close(&d->bdev);
}

static void of_what_is_done_in_parts_the_whole_counts(void **state)
{
    (void)state;
    struct test_disk *d = test_disk_new_limited(4); /* blocks */
    struct tu t;
    struct tu_req q;
    tu_join(&t, &d->bdev);
    tu_req_init(&q);
    pass(&t, 0);
    tu_start(&t, &q, PLX_BDEV_UNMAP, 0, 8, NULL);
    for (int i = 0; i < 2; i++) {
        pass(&t, 10 * MS);
        assert_true(test_disk_end(d, i ? PLX_SC_WRITE_FAULT : 0));
    }
    struct plx_bdev_stats s = stats_of(&d->bdev);
    assert_int_equal(q.done, 1);
    assert_int_equal(s.ops[PLX_BDEV_UNMAP], 1);
    assert_int_equal(s.latency_ns[PLX_BDEV_UNMAP], 20 * MS);
    assert_int_equal(s.min_latency_ns[PLX_BDEV_UNMAP], 20 * MS);
    assert_int_equal(s.errors, 1);
    tu_req_free(&q);
    tu_leave(&t);
    plx_bdev_close(&d->bdev);
}

static void what_completes_in_place_takes_no_time(void **state)
{
    (void)state;
    struct tu t;
    tu_open(&t, "ram:1M");
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 0, 8, data), 0);
    struct plx_bdev_stats s = stats_of(t.bdev);
    assert_int_equal(s.ops[PLX_BDEV_WRITE], 1);
    assert_int_equal(s.blocks[PLX_BDEV_WRITE], 8);
    assert_int_equal(s.latency_ns[PLX_BDEV_WRITE] + s.max_latency_ns[PLX_BDEV_WRITE], 0);
    tu_close(&t);
}

static void statistics_begin_anew(void **state)
{
    (void)state;
    struct test_disk *d = test_disk_new();
    struct plx_bdev_stats none = {0}, s, totals = {0};
    struct tu t;
    for (int gone = 0; gone < 2; gone++) { /* also of channels that are */
        tu_join(&t, &d->bdev);
        take(&t, d, PLX_BDEV_WRITE, 5 * MS, PLX_SC_WRITE_FAULT);
        if (gone) {
            tu_leave(&t);
            tu_join(&t, &d->bdev);
        }
        plx_bdev_reset_stats(&d->bdev, false);
        s = stats_of(&d->bdev);
        assert_int_equal(s.ops[PLX_BDEV_WRITE], 1);
        assert_int_equal(s.failed[PLX_BDEV_WRITE], 1);
        assert_int_equal(s.errors, 1);
        assert_int_equal(s.latency_ns[PLX_BDEV_WRITE], 5 * MS);
        assert_int_equal(s.max_latency_ns[PLX_BDEV_WRITE] + s.min_latency_ns[PLX_BDEV_WRITE], 0);
        take(&t, d, PLX_BDEV_WRITE, 7 * MS, 0);
        s = stats_of(&d->bdev);
        assert_int_equal(s.min_latency_ns[PLX_BDEV_WRITE], 7 * MS);
        assert_int_equal(s.max_latency_ns[PLX_BDEV_WRITE], 7 * MS);
        assert_int_equal(s.latency_ns[PLX_BDEV_WRITE], 12 * MS);
        if (gone) {
            tu_leave(&t);
            tu_join(&t, &d->bdev);
        }
        plx_bdev_reset_stats(&d->bdev, true);
        s = stats_of(&d->bdev);
        assert_memory_equal(&s, &none, sizeof s);
        tu_leave(&t);
    }
    plx_bdev_get_totals(&d->bdev, &totals);
    assert_int_equal(totals.ops[PLX_BDEV_WRITE], 4);
    assert_int_equal(totals.blocks[PLX_BDEV_WRITE], 4);
    assert_int_equal(totals.errors, 2);
    assert_int_equal(totals.latency_ns[PLX_BDEV_WRITE], 24 * MS);
    plx_bdev_close(&d->bdev);
}

/* ---- on threads ---- */

enum { WRITERS = 2, WRITES = 30000 };

static void *write_much(void *arg)
{
    struct tu *t = arg;
    struct tu_req q;
    static uint8_t zero[WRITERS][512];
    tu_req_init(&q);
    q.done = 1;
    for (int i = 0; i < WRITES; i++) {
        tu_start(t, &q, PLX_BDEV_WRITE, (uint64_t)(i % 64), 1, zero[i & 1]);
        while (!q.done)
            plx_reactor_poll(t->reactor);
    }
    tu_req_free(&q);
    return NULL;
}

static void nothing_is_lost_that_is_counted_while_they_begin_anew(void **state)
{
    (void)state;
    struct plx_bdev *below, *top;
    pthread_t threads[WRITERS];
    struct tu t[WRITERS];
    struct plx_bdev_stats totals = {0};
    assert_int_equal(plx_bdev_open("null:1T", &below, NULL), 0);
    top = filter_halve_new(below, 4); /* whose requests are listed */
    for (int i = 0; i < WRITERS; i++)
        tu_join(&t[i], top);
    for (int i = 0; i < WRITERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, write_much, &t[i]), 0);
    for (uint64_t was = 0; was < WRITERS * WRITES;) {
        plx_bdev_reset_stats(below, true);
        struct plx_bdev_stats now = {0}, s = stats_of(below);
        plx_bdev_get_totals(below, &now);
        assert_true(s.ops[PLX_BDEV_WRITE] <= now.ops[PLX_BDEV_WRITE] - was); /* of before, nothing */
        was = now.ops[PLX_BDEV_WRITE];
    }
    for (int i = 0; i < WRITERS; i++) {
        pthread_join(threads[i], NULL);
        tu_leave(&t[i]);
    }
    plx_bdev_get_totals(top, &totals);
    assert_int_equal(totals.ops[PLX_BDEV_WRITE], WRITERS * WRITES);
    plx_bdev_close(top);
    plx_bdev_close(below);
}

/* ---- what is in flight ---- */

enum { SEEN = 16 };

struct seen {
    unsigned n, until;
    const struct plx_bdev_req *req[SEEN];
    uint64_t age[SEEN];
    char where[SEEN][320];
};

static bool see(void *arg, const struct plx_bdev_req *req, uint64_t age_ns, const char *where)
{
    struct seen *s = arg;
    assert_true(s->n < SEEN);
    s->req[s->n] = req;
    s->age[s->n] = age_ns;
    snprintf(s->where[s->n], sizeof s->where[0], "%s", where);
    return ++s->n != s->until;
}

static struct seen look(struct tu *t)
{
    struct seen s = {0};
    plx_bdev_channel_each(t->ch, see, &s);
    return s;
}

static void is_at(const struct seen *s, unsigned at, const struct tu_req *q, uint64_t age, const char *where)
{
    char told[320];
    assert_true(at < s->n);
    assert_ptr_equal(s->req[at], q->req);
    assert_int_equal(s->age[at], age);
    assert_string_equal(s->where[at], where);
    assert_string_equal(plx_bdev_where(q->req, told, sizeof told), where);
}

static void what_is_in_flight_is_told_with_its_age(void **state)
{
    (void)state;
    struct test_disk *d = test_disk_new();
    struct tu_req q[4];
    struct tu t;
    tu_join(&t, &d->bdev);
    d->ignores_aborts = true;
    assert_int_equal(look(&t).n, 0);
    assert_int_equal(plx_bdev_set_limits(&d->bdev, &(struct plx_bdev_limits){.ios = 1}, NULL), 0);
    pass(&t, 0);
    for (int i = 0; i < 4; i++)
        tu_req_init(&q[i]);
    tu_start(&t, &q[0], PLX_BDEV_WRITE, 0, 1, data);
    pass(&t, 10 * MS);
    tu_start(&t, &q[1], PLX_BDEV_WRITE, 0, 1, data);
    pass(&t, 10 * MS);
    tu_start(&t, &q[2], PLX_BDEV_FLUSH, 0, 0, NULL);
    struct seen s = look(&t);
    assert_int_equal(s.n, 3);
    is_at(&s, 0, &q[0], 20 * MS, "in test:");
    is_at(&s, 1, &q[1], 10 * MS, "waiting for the rate limit of test:");
    is_at(&s, 2, &q[2], 0, "in test:");
    s = (struct seen){.until = 2};
    plx_bdev_channel_each(t.ch, see, &s);
    assert_int_equal(s.n, 2);
    tu_start(&t, &q[3], PLX_BDEV_RESET, 0, 0, NULL);
    s = look(&t);
    assert_int_equal(s.n, 3); /* what waited has ended */
    is_at(&s, 2, &q[3], 0, "waiting for older requests to end in test:");
    while (test_disk_end(d, 0))
        ;
    for (int i = 0; i < 4; i++) {
        assert_int_equal(q[i].done, 1);
        tu_req_free(&q[i]);
    }
    tu_leave(&t);
    plx_bdev_close(&d->bdev);
}

static void who_waits_for_a_sub_request_is_told(void **state)
{
    (void)state;
    enum { MANY = 65 }; /* a channel has one fewer */
    struct test_disk *d = test_disk_new_limited(4);
    struct tu_req q[MANY];
    char where[64];
    struct tu t;
    tu_join(&t, &d->bdev);
    for (int i = 0; i < MANY; i++) {
        tu_req_init(&q[i]);
        tu_start(&t, &q[i], PLX_BDEV_UNMAP, 0, 8, NULL);
    }
    assert_string_equal(plx_bdev_where(q[MANY - 2].req, where, sizeof where), "in test:");
    assert_string_equal(plx_bdev_where(q[MANY - 1].req, where, sizeof where), "waiting for a sub-request of test:");
    while (test_disk_end(d, 0))
        ;
    for (int i = 0; i < MANY; i++) {
        assert_int_equal(q[i].done, 1);
        tu_req_free(&q[i]);
    }
    tu_leave(&t);
    plx_bdev_close(&d->bdev);
}

static void what_is_in_flight_is_found_in_the_layers_below(void **state)
{
    (void)state;
    struct test_disk *d = test_disk_new();
    struct plx_bdev *halve = filter_halve_new(&d->bdev, 2), *plain = filter_plain_new(halve);
    struct tu_req q[4];
    struct tu t;
    tu_join(&t, plain);
    for (int i = 0; i < 4; i++)
        tu_req_init(&q[i]);
    tu_start(&t, &q[0], PLX_BDEV_WRITE, 0, 2, data); /* takes both sub-requests */
    pass(&t, 10 * MS);
    tu_start(&t, &q[1], PLX_BDEV_COMPARE_AND_WRITE, 8, 1, data);
    tu_start(&t, &q[2], PLX_BDEV_COMPARE_AND_WRITE, 8, 1, data);
    pass(&t, 0);
    tu_start(&t, &q[3], PLX_BDEV_WRITE, 8, 1, data);
    pass(&t, 10 * MS);
    struct seen s = look(&t);
    /* Those of the top; what it forwarded; and what filters have made, or forwarded, at the bottom. */
    assert_int_equal(s.n, 3 + 1 + 2);
    is_at(&s, 0, &q[1], 10 * MS, "in test:"); /* its read */
    is_at(&s, 1, &q[2], 10 * MS, "waiting for its turn to compare and write in pass:");
    is_at(&s, 2, &q[3], 10 * MS, "held by a compare and write in pass:");
    is_at(&s, 3, &q[0], 20 * MS, "in halve:");
    for (int i = 4; i < 6; i++) {
        assert_string_equal(s.where[i], "in test:");
        assert_int_equal(s.age[i], 20 * MS);
    }
    s = (struct seen){.until = 2};
    plx_bdev_channel_each(t.ch, see, &s);
    assert_int_equal(s.n, 2);
    for (bool all = false; !all;) {
        while (test_disk_end(d, 0))
            ;
        pass(&t, MS);
        all = q[0].done && q[1].done && q[2].done && q[3].done;
    }
    for (int i = 0; i < 4; i++)
        tu_req_free(&q[i]);
    tu_leave(&t);
    plx_bdev_close(plain);
    plx_bdev_close(halve);
    plx_bdev_close(&d->bdev);
}

#define timed(test) cmocka_unit_test_setup_teardown(test, time_simulated, time_real)

int main(void)
{
    const struct CMUnitTest tests[] = {
        timed(latencies_are_told_by_operation),
        timed(what_waits_takes_time),
        timed(of_what_is_done_in_parts_the_whole_counts),
        timed(what_completes_in_place_takes_no_time),
        timed(statistics_begin_anew),
        timed(what_is_in_flight_is_told_with_its_age),
        timed(who_waits_for_a_sub_request_is_told),
        timed(what_is_in_flight_is_found_in_the_layers_below),
        cmocka_unit_test(nothing_is_lost_that_is_counted_while_they_begin_anew),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
