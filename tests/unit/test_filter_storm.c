/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Filters on two reactors, with a third thread that changes at any time what they do. ThreadSanitizer looks at who
 * touches what; the test at that every request ends, with a status that somebody asked for, and once only.
 */
#include "bdev_util.h"

#include <pollux/bdev_filter.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"

enum { REACTORS = 2, DEPTH = 16, REQS = 20000, CHANGES = 2000, BLOCK = 512 };

static const uint16_t statuses[] = {0x281, 0x282, 0x283, 0x284};

struct worker;

struct slot {
    struct worker *w;
    struct plx_bdev_req req __attribute__((aligned(16)));
    struct iovec iov;
    bool busy;
    uint8_t data[BLOCK];
};

struct worker {
    struct plx_bdev *bdev;
    uint16_t also; /* a status that requests may end with besides */
    pthread_t thread;
    uint64_t seed;
    unsigned begun, ended;
    atomic_uint failed;
    struct slot slots[DEPTH];
};

static atomic_bool stopping; /* who has done REQS requests ends then */

static void slot_done(struct plx_bdev_req *req)
{
    struct slot *s = plx_container_of(req, struct slot, req);
    bool known = !req->status || req->status == s->w->also || req->status == PLX_SC_ABORTED_BY_REQUEST;
    for (size_t i = 0; i < PLX_ARRAY_SIZE(statuses); i++)
        known |= req->status == statuses[i];
    if (!known || !s->busy)
        abort();
    s->busy = false;
    s->w->ended++;
    s->w->failed += req->status != 0;
}

static void slot_begin(struct worker *w, struct plx_bdev_channel *ch, struct slot *s)
{
    static const enum plx_bdev_op ops[] = {PLX_BDEV_READ, PLX_BDEV_WRITE, PLX_BDEV_WRITE, PLX_BDEV_FLUSH};
    s->w = w;
    s->busy = true;
    s->iov = (struct iovec){s->data, BLOCK};
    s->req.done = slot_done;
    s->req.iov = &s->iov;
    s->req.iovcnt = 1;
    s->req.op = (uint8_t)ops[tu_random(&w->seed) % PLX_ARRAY_SIZE(ops)];
    s->req.flags = 0;
    s->req.lba = tu_random(&w->seed) % 100;
    s->req.nlb = 1;
    w->begun++;
    plx_bdev_submit(ch, &s->req);
}

/* Keeps its slots full; now and then somebody loses patience, which is what ends what is pending. */
static void *work(void *arg)
{
    struct worker *w = arg;
    struct plx_reactor *r;
    struct plx_bdev_channel *ch;
    if (plx_reactor_create(&r, NULL) || plx_bdev_channel_get(w->bdev, r, &ch))
        abort();
    while (!stopping || w->ended < REQS || w->begun > w->ended) {
        for (int i = 0; i < DEPTH && (!stopping || w->ended < REQS); i++)
            if (!w->slots[i].busy)
                slot_begin(w, ch, &w->slots[i]);
        struct slot *s = &w->slots[tu_random(&w->seed) % DEPTH];
        if (s->busy && tu_random(&w->seed) % 64 == 0)
            plx_bdev_abort(ch, &s->req);
        plx_reactor_poll(r);
    }
    plx_bdev_channel_put(ch);
    plx_reactor_destroy(r);
    return NULL;
}

static void change_one(struct plx_bdev *slow, struct plx_bdev *frail, uint64_t *seed)
{
    struct plx_bdev_injection what = {
        .type = (enum plx_bdev_injection_type)(tu_random(seed) % 4),
        .ops = tu_random(seed) % 2 ? PLX_BDEV_INJECT_ALL : 1 << PLX_BDEV_READ | 1 << PLX_BDEV_WRITE,
        .count = tu_random(seed) % 4 ? tu_random(seed) % 50 : PLX_BDEV_INJECT_FOREVER,
        .queue_depth = tu_random(seed) % 4,
        .status = statuses[tu_random(seed) % PLX_ARRAY_SIZE(statuses)],
        .corrupt_value = 1,
        .corrupt_offset = tu_random(seed) % (2 * BLOCK),
    };
    if (plx_bdev_error_inject(frail, &what, NULL) ||
        plx_bdev_delay_set(slow, (enum plx_bdev_delay)(tu_random(seed) % 4), tu_random(seed) % 3 * 10, NULL))
        abort();
}

/* Whether each has met with something that was injected: one may not have had a core yet. */
static bool all_have_failed(struct worker *workers)
{
    bool all = true;
    for (int i = 0; i < REACTORS; i++)
        all = all && workers[i].failed;
    return all;
}

static void what_filters_do_changes_under_load(void **state)
{
    (void)state;
    static struct worker workers[REACTORS];
    const struct plx_bdev_injection none = {.ops = PLX_BDEV_INJECT_ALL};
    struct plx_bdev *slow, *frail;
    uint64_t seed = 7;
    assert_int_equal(plx_bdev_open("delay:error:null:1M", &slow, NULL), 0);
    frail = plx_bdev_below(slow);
    stopping = false;
    for (int i = 0; i < REACTORS; i++) {
        workers[i].bdev = slow;
        workers[i].seed = (uint64_t)i;
        assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    alarm(100); /* ends the test: it hangs */
    for (int i = 0; i < CHANGES || !all_have_failed(workers); i++) {
        change_one(slow, frail, &seed);
        if (i % 16 == 0)
            usleep(100);
    }
    stopping = true;
    assert_int_equal(plx_bdev_error_inject(frail, &none, NULL), 0);
    for (int i = 0; i < REACTORS; i++) {
        pthread_join(workers[i].thread, NULL);
        assert_int_equal(workers[i].begun, workers[i].ended);
        assert_in_range(workers[i].failed, 1, workers[i].ended - 1);
    }
    alarm(0);
    assert_int_equal(plx_bdev_close(slow), 0);
}

/* A count is of all reactors together, and what is taken of it is never too much or too little. */
static void a_count_is_of_all_reactors(void **state)
{
    (void)state;
    static struct worker workers[REACTORS];
    enum { COUNT = 12345 };
    const struct plx_bdev_injection what = {
        .type = PLX_BDEV_INJECT_FAILURE, .ops = PLX_BDEV_INJECT_ALL, .count = COUNT, .status = 0x281};
    struct plx_bdev *frail;
    unsigned failed = 0;
    assert_int_equal(plx_bdev_open("error:null:1M", &frail, NULL), 0);
    struct plx_bdev_injection one = what;
    for (int op = 0; op < PLX_BDEV_OPS; op++) { /* into each operation a third of it, of the three that are used */
        one.ops = 1u << op & (1 << PLX_BDEV_READ | 1 << PLX_BDEV_WRITE | 1 << PLX_BDEV_FLUSH);
        one.count = COUNT / 3;
        if (one.ops)
            assert_int_equal(plx_bdev_error_inject(frail, &one, NULL), 0);
    }
    stopping = true;
    for (int i = 0; i < REACTORS; i++) {
        workers[i].bdev = frail;
        workers[i].seed = (uint64_t)i + 5;
        assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (int i = 0; i < REACTORS; i++) {
        pthread_join(workers[i].thread, NULL);
        failed += workers[i].failed;
    }
    assert_int_equal(failed, COUNT / 3 * 3);
    assert_int_equal(plx_bdev_close(frail), 0);
}

/* Power comes and goes while the caches of both reactors are one, and are written to the disk below. */
static void power_is_cut_under_load(void **state)
{
    (void)state;
    static struct worker workers[REACTORS];
    struct plx_bdev *crash;
    assert_int_equal(plx_bdev_open("crash:[delay:null:1M?write=10us]?latency=20us&memory=64K&seed=5", &crash, NULL), 0);
    stopping = false;
    for (int i = 0; i < REACTORS; i++) {
        workers[i].bdev = crash;
        workers[i].also = PLX_SC_INVALID_NAMESPACE_OR_FORMAT;
        workers[i].seed = (uint64_t)i + 9;
        assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    alarm(100); /* ends the test: it hangs */
    for (int i = 0; i < CHANGES / 2 || !all_have_failed(workers); i++) {
        assert_int_equal(plx_bdev_crash_cut(crash, NULL), 0);
        while (plx_bdev_crash_restore(crash, NULL))
            usleep(10);
        usleep(100);
    }
    stopping = true;
    for (int i = 0; i < REACTORS; i++) {
        pthread_join(workers[i].thread, NULL);
        assert_int_equal(workers[i].begun, workers[i].ended);
        assert_in_range(workers[i].failed, 1, workers[i].ended - 1);
    }
    alarm(0);
    assert_int_equal(plx_bdev_close(crash), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_filters_do_changes_under_load),
        cmocka_unit_test(a_count_is_of_all_reactors),
        cmocka_unit_test(power_is_cut_under_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
