/* SPDX-License-Identifier: BSD-3-Clause */
/* How much is logged: of each call, about each peer, in an interval; and that what is left out is counted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "reactor/reactor.h"

enum { FLOOD = 1000, THREADS = 4 };

/* What was logged since begin(). */
static struct {
    pthread_mutex_t lock;
    unsigned lines, counts;   /* lines as they are, and those that tell how many were left out */
    unsigned long left_out;   /* the sum of the latter */
    enum plx_log_level level; /* the last one's */
    char last[512];
} got = {.lock = PTHREAD_MUTEX_INITIALIZER};

static _Atomic uint64_t now_ns = PLX_NS_PER_S;

static uint64_t simulated(void)
{
    return atomic_load(&now_ns);
}

static void keep(void *arg, enum plx_log_level level, const char *line)
{
    unsigned long n;
    int used = 0;
    (void)arg;
    pthread_mutex_lock(&got.lock);
    if (sscanf(line, "%lu more like this were left out: %n", &n, &used) == 1 && used) {
        got.counts++;
        got.left_out += n;
    } else {
        got.lines++;
    }
    got.level = level;
    snprintf(got.last, sizeof got.last, "%s", line);
    pthread_mutex_unlock(&got.lock);
}

static void forget(void)
{
    got.lines = got.counts = 0;
    got.left_out = 0;
    got.last[0] = 0;
}

/* The interval is over, and somebody who has a clock says so. */
static void next_interval(void)
{
    now_ns += PLX_LOG_INTERVAL_NS;
    plx_log_tick(now_ns);
}

/* No test has to do with the counts of another. */
static int begin(void **state)
{
    (void)state;
    plx_log_set(NULL, NULL, PLX_LOG_ERROR);
    plx_log_set(keep, NULL, PLX_LOG_DEBUG);
    next_interval();
    forget();
    return 0;
}

static void a_flood_is_cut_off_and_its_rest_is_counted_when_it_is_over(void **state)
{
    (void)state;
    for (int i = 0; i < FLOOD; i++)
        plx_warn("%s: no greeting, attempt %d", "10.0.0.1:999", i);
    assert_int_equal(got.lines, PLX_LOG_LINES);
    assert_int_equal(got.counts, 0);
    next_interval(); /* the flood has stopped: nobody logs */
    assert_int_equal(got.lines, PLX_LOG_LINES);
    assert_string_equal(got.last, "990 more like this were left out: 10.0.0.1:999: no greeting, attempt 10");
    assert_int_equal(got.level, PLX_LOG_WARN);
    next_interval();
    assert_int_equal(got.counts, 1); /* told once */
}

static void as_many_lines_as_are_allowed_have_no_count(void **state)
{
    (void)state;
    for (int i = 0; i < PLX_LOG_LINES; i++)
        plx_debug("%s: hello", "10.0.0.1:1");
    assert_int_equal(plx_log_due(), 0);
    next_interval();
    assert_int_equal(got.lines, PLX_LOG_LINES);
    assert_int_equal(got.counts, 0);
}

static void a_count_is_told_at_the_level_of_its_lines_and_not_before_the_interval_is_over(void **state)
{
    (void)state;
    for (int i = 0; i < FLOOD; i++)
        plx_debug("%s: again", "10.0.0.1:999");
    now_ns += PLX_LOG_INTERVAL_NS;
    plx_log_tick(now_ns - PLX_LOG_INTERVAL_NS / 2);
    assert_int_equal(got.counts, 0);
    plx_log_tick(now_ns);
    assert_int_equal(got.counts, 1);
    assert_int_equal(got.level, PLX_LOG_DEBUG);
}

/* Logs from one place in the source. */
static void knock(const char *peer)
{
    plx_info("%s: knocks", peer);
}

static void flood(const char *peer)
{
    for (int i = 0; i < FLOOD; i++)
        knock(peer);
}

static void peers_do_not_silence_each_other(void **state)
{
    (void)state;
    flood("10.0.1.1:5");
    forget();
    knock("10.0.1.2:5");
    assert_string_equal(got.last, "10.0.1.2:5: knocks");
    knock("10.0.1.1:5");
    knock("10.0.1.2:6");
    assert_string_equal(got.last, "10.0.1.2:6: knocks");
    assert_int_equal(got.lines, 2);
    next_interval();
    assert_string_equal(got.last, "991 more like this were left out: 10.0.1.1:5: knocks");
    assert_int_equal(got.counts, 1);
}

static void calls_do_not_silence_each_other(void **state)
{
    (void)state;
    flood("10.0.2.1:5");
    forget();
    plx_info("%s: knocks", "10.0.2.1:5");
    assert_int_equal(got.lines, 1);
}

static void another_port_is_no_other_peer(void **state)
{
    (void)state;
    char peer[64];
    for (int i = 0; i < 100; i++) {
        snprintf(peer, sizeof peer, "10.0.3.1:%d", 1024 + i);
        knock(peer);
        snprintf(peer, sizeof peer, "[2001:db8:0:3::%x]:%d", i + 1, 1024 + i); /* nor a host of the same network */
        knock(peer);
        snprintf(peer, sizeof peer, "[fe80::%x%%eth0]:%d", i + 1, 1024 + i);
        knock(peer);
    }
    assert_int_equal(got.lines, 3 * PLX_LOG_LINES);
    knock("[2001:db8:0:4::1]:1024");
    assert_int_equal(got.lines, 3 * PLX_LOG_LINES + 1);
}

static void disks_are_told_apart_by_their_whole_names(void **state)
{
    (void)state;
    flood("nvme+tcp://host:1");
    forget();
    knock("nvme+tcp://host:2");
    knock("[a file");
    knock("");
    assert_int_equal(got.lines, 3);
}

static void a_flood_that_goes_on_has_only_its_count_told(void **state)
{
    (void)state;
    flood("10.0.4.1:5");
    next_interval();
    forget();
    for (int i = 0; i < 3; i++) {
        flood("10.0.4.1:6");
        assert_int_equal(got.lines, 0);
        next_interval();
        assert_string_equal(got.last, "1000 more like this were left out: 10.0.4.1:6: knocks");
    }
    assert_int_equal(got.counts, 3);
    knock("10.0.4.2:5"); /* an interval in which that peer says nothing */
    now_ns += PLX_LOG_INTERVAL_NS;
    plx_log_tick(now_ns);
    knock("10.0.4.1:7");
    assert_string_equal(got.last, "10.0.4.1:7: knocks");
}

static void peers_beyond_those_told_apart_have_a_limit_together(void **state)
{
    (void)state;
    char peer[64];
    for (int round = 0; round < 2 * PLX_LOG_LINES; round++)
        for (int i = 0; i < 200; i++) {
            snprintf(peer, sizeof peer, "10.1.0.%d:5", i);
            knock(peer);
        }
    assert_int_equal(got.lines, (PLX_LOG_PEERS + 1) * PLX_LOG_LINES);
    next_interval();
    assert_int_equal(got.lines, (PLX_LOG_PEERS + 1) * PLX_LOG_LINES);
    assert_int_equal(got.counts, PLX_LOG_PEERS + 1);
    assert_int_equal(got.lines + got.left_out, 2 * PLX_LOG_LINES * 200);
}

static void what_nobody_wants_to_see_is_not_counted(void **state)
{
    (void)state;
    plx_log_set(keep, NULL, PLX_LOG_WARN);
    flood("10.0.5.1:5");
    assert_int_equal(plx_log_due(), 0);
    next_interval();
    assert_int_equal(got.lines + got.counts, 0);
}

static void what_nobody_listens_to_is_not_told_later(void **state)
{
    (void)state;
    plx_log_set(NULL, NULL, PLX_LOG_DEBUG);
    flood("10.0.9.1:5");
    plx_log_set(keep, NULL, PLX_LOG_DEBUG);
    next_interval();
    assert_int_equal(got.lines + got.counts, 0);
}

static void the_rest_is_told_to_whom_it_was_kept_from(void **state)
{
    (void)state;
    flood("10.0.6.1:5");
    plx_log_set(NULL, NULL, PLX_LOG_ERROR);
    assert_int_equal(got.lines, PLX_LOG_LINES);
    assert_int_equal(got.left_out, FLOOD - PLX_LOG_LINES);
}

static void a_reactor_does_not_sleep_past_a_count_that_is_due(void **state)
{
    (void)state;
    struct plx_reactor *r;
    plx_clock_simulate(simulated);
    assert_int_equal(plx_reactor_create(&r, NULL), 0);
    assert_int_equal(plx_reactor_timeout(r), -1);
    flood("10.0.7.1:5");
    int64_t wait = plx_reactor_timeout(r);
    assert_true(wait > 0 && wait <= (int64_t)PLX_LOG_INTERVAL_NS);
    struct plx_timer timer = {0};
    plx_timer_set(r, &timer, (uint64_t)wait / 2); /* the sooner of both */
    assert_int_equal(plx_reactor_timeout(r), wait / 2);
    plx_timer_cancel(r, &timer);
    now_ns += (uint64_t)wait;
    assert_int_equal(plx_reactor_timeout(r), 0);
    plx_reactor_poll(r);
    assert_int_equal(got.counts, 1);
    assert_int_equal(plx_reactor_timeout(r), -1);
    plx_reactor_destroy(r);
    plx_clock_simulate(NULL);
}

/* Many short intervals, so that every way in which a line and the end of one can meet is met. */
static void *flood_from_thread(void *arg)
{
    (void)arg;
    for (int i = 0; i < 2 * FLOOD; i++) {
        for (int n = 0; n <= PLX_LOG_LINES; n++)
            knock(i % 2 ? "10.0.8.1:5" : "10.0.8.2:5");
        if (i % 3)
            next_interval();
    }
    return NULL;
}

static void every_line_of_several_threads_is_logged_or_counted(void **state)
{
    (void)state;
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, flood_from_thread, NULL), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    plx_log_set(NULL, NULL, PLX_LOG_ERROR);
    assert_int_equal(got.lines + got.left_out, THREADS * 2 * FLOOD * (PLX_LOG_LINES + 1));
    assert_true(got.counts > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_flood_is_cut_off_and_its_rest_is_counted_when_it_is_over, begin),
        cmocka_unit_test_setup(as_many_lines_as_are_allowed_have_no_count, begin),
        cmocka_unit_test_setup(a_count_is_told_at_the_level_of_its_lines_and_not_before_the_interval_is_over, begin),
        cmocka_unit_test_setup(peers_do_not_silence_each_other, begin),
        cmocka_unit_test_setup(calls_do_not_silence_each_other, begin),
        cmocka_unit_test_setup(another_port_is_no_other_peer, begin),
        cmocka_unit_test_setup(disks_are_told_apart_by_their_whole_names, begin),
        cmocka_unit_test_setup(a_flood_that_goes_on_has_only_its_count_told, begin),
        cmocka_unit_test_setup(peers_beyond_those_told_apart_have_a_limit_together, begin),
        cmocka_unit_test_setup(what_nobody_wants_to_see_is_not_counted, begin),
        cmocka_unit_test_setup(what_nobody_listens_to_is_not_told_later, begin),
        cmocka_unit_test_setup(the_rest_is_told_to_whom_it_was_kept_from, begin),
        cmocka_unit_test_setup(a_reactor_does_not_sleep_past_a_count_that_is_due, begin),
        cmocka_unit_test_setup(every_line_of_several_threads_is_logged_or_counted, begin),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
