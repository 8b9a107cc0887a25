/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A disk that stops for 5 ms in each second, in simulated time. By a schedule, what was due meanwhile waits: one
 * request in 200, for anything up to 5 ms, evenly. So a thousandth waits for 4 ms and longer, and that is p99.9. Who
 * only sends when something has completed meets the stop with as many requests as he has in flight, and does not see
 * it there.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include "bdev_util.h"
#include "cli/perf.h"
#include "reactor/clock.h"
#include "test_disk.h"

#define STEP_NS UINT64_C(10000)
#define SECOND UINT64_C(1000000000)

enum { SECONDS = 10, STALL_MS = 5, RATE = 10000, DEPTH = 128 };

static uint64_t time_ns;

static uint64_t simulated(void)
{
    return time_ns;
}

int cli_fail(int status, const char *fmt, ...)
{
    (void)status;
    fail_msg("%s", fmt);
    return status;
}

static bool stalled(uint64_t since)
{
    return since % SECOND < STALL_MS * UINT64_C(1000000);
}

/* Runs for some seconds, all requests that came up to a step being ended in the next one. @return p99.9 in us */
static double run(uint64_t rate, uint32_t depth)
{
    struct perf_worker *w = calloc(1, sizeof *w);
    struct perf_job *job = calloc(1, sizeof *job), *jobs[1] = {job};
    const struct plx_reactor_opts opts = {.core = -1, .mode = PLX_POLL_BUSY};
    const struct perf_options o = {.random = true,
                                   .read_percent = 100,
                                   .depth = depth,
                                   .size = 4096,
                                   .qpairs = 1,
                                   .time_ns = SECONDS * SECOND,
                                   .rate = rate};
    time_ns = SECOND;
    plx_clock_simulate(simulated);
    struct test_disk *d = test_disk_new();
    assert_int_equal(plx_reactor_create(&w->reactor, &opts), 0);
    w->notify = eventfd(0, EFD_NONBLOCK);
    w->paced = rate > 0;
    w->jobs = jobs;
    w->njobs = 1;
    job->worker = w;
    assert_int_equal(perf_job_open(job, &o, &d->bdev, 0), 0);
    assert_int_equal(perf_worker_open(w), 0);
    perf_start(w);
    for (uint64_t since = 0; since <= SECONDS * SECOND + SECOND / 10; since += STEP_NS) {
        time_ns = SECOND + since;
        while (!stalled(since) && test_disk_end(d, PLX_SC_SUCCESS)) {
        }
        plx_reactor_poll(w->reactor);
    }
    assert_int_equal(w->busy, 0);
    assert_int_equal(job->errors, 0);
    double p = (double)histogram_percentile(&job->latency, 99.9) / 1000;
    plx_source_remove(w->reactor, &w->source);
    plx_bdev_channel_put(job->ch);
    plx_reactor_poll(w->reactor);
    plx_reactor_destroy(w->reactor);
    perf_job_close(job);
    plx_bdev_close(&d->bdev);
    close(w->notify);
    free(w->ready);
    free(w->spare);
    free(w);
    plx_clock_simulate(NULL);
    return p;
}

static void a_stall_is_in_p999_where_theory_puts_it(void **state)
{
    (void)state;
    double p = run(RATE, DEPTH);
    assert_true(p > 3900 && p < 4100);
}

static void who_waits_for_answers_does_not_see_it(void **state)
{
    (void)state;
    assert_true(run(0, 1) < 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stall_is_in_p999_where_theory_puts_it),
        cmocka_unit_test(who_waits_for_answers_does_not_see_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
