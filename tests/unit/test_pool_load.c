/* SPDX-License-Identifier: BSD-3-Clause */
/* Volumes under load: many requests at once, and what goes on beside them. */
#include "pool_rig.h"

#include <stdlib.h>
#include <string.h>

#include <pollux/bdev_filter.h>

enum { UNIT = 4096, NLB = 8, MANY = 600 };

struct many {
    struct tu_req q[MANY];
    uint8_t *data[MANY];
};

static void many_init(struct many *m)
{
    for (unsigned i = 0; i < MANY; i++) {
        tu_req_init(&m->q[i]);
        m->data[i] = tu_pattern(UNIT, i);
    }
}

static void many_free(struct many *m)
{
    for (unsigned i = 0; i < MANY; i++) {
        tu_req_free(&m->q[i]);
        free(m->data[i]);
    }
}

/* All of them at once, each of a unit. Every so many-th is aborted, if any. */
static void many_io(struct many *m, struct tu *t, enum plx_bdev_op op, unsigned abort)
{
    for (unsigned i = 0; i < MANY; i++)
        tu_start(t, &m->q[i], op, (uint64_t)i * NLB, NLB, m->data[i]);
    for (unsigned i = 0; abort && i < MANY; i += abort)
        plx_bdev_abort(t->ch, m->q[i].req);
    for (unsigned i = 0; i < MANY; i++) {
        while (!m->q[i].done)
            rig_turn(t->reactor);
        if (!abort || i % abort)
            assert_int_equal(m->q[i].req->status, 0);
        else
            assert_true(!m->q[i].req->status || m->q[i].req->status == PLX_SC_ABORTED_BY_REQUEST);
    }
}

/* More than a channel has sub-requests for, of either way; and all are back when it ends. */
static void test_more_requests_than_sub_requests(void **state)
{
    struct pool_rig rig;
    struct tu t;
    struct many *m = malloc(sizeof *m);
    (void)state;
    rig_simulate(true);
    rig_make(&rig, "delay:ram:64M?read=1ms&write=1ms", NULL);
    rig_create(&rig, "v", 16 << 20);
    rig_open(&rig, "v", &t);
    many_init(m);
    many_io(m, &t, PLX_BDEV_WRITE, 0);
    for (unsigned round = 0; round < 4; round++) {
        for (unsigned i = 0; i < MANY; i++)
            memset(m->data[i], 0, UNIT);
        many_io(m, &t, PLX_BDEV_READ, 0);
        for (unsigned i = 0; i < MANY; i++) {
            uint8_t *was = tu_pattern(UNIT, i);
            assert_memory_equal(m->data[i], was, UNIT);
            free(was);
        }
        many_io(m, &t, PLX_BDEV_WRITE, 0); /* in place */
        if (round % 2)
            many_io(m, &t, PLX_BDEV_READ, 3);
    }
    many_free(m);
    free(m);
    rig_close(&rig, &t);
    rig_end(&rig);
    rig_simulate(false);
}

/*
 * What a checkpoint writes it writes at once, and others go on meanwhile: first writes that are spread so far that each
 * needs nodes of its own, on a disk on which each write takes a millisecond. Were nodes written one after the other, a
 * checkpoint would take as many milliseconds as there are, and others would wait for it.
 */
static void test_checkpoints_are_not_waited_for(void **state)
{
    enum { AT_ONCE = 32, WRITES = 8000, LIMIT_MS = 30 };
    struct pool_rig rig;
    struct tu t;
    struct many *m = malloc(sizeof *m);
    uint64_t began[AT_ONCE], longest = 0, seed = 1;
    (void)state;
    rig_simulate(true);
    rig_make(&rig, "delay:ram:1G?write=1ms", NULL);
    rig_create(&rig, "v", UINT64_C(1) << 40);
    rig_open(&rig, "v", &t);
    many_init(m);
    assert_true(rig.pool->dirty_max >= 1000);
    const uint64_t first = rig.pool->generation;
    for (unsigned i = 0; i < WRITES + AT_ONCE; i++) {
        struct tu_req *q = &m->q[i % AT_ONCE];
        while (i >= AT_ONCE && !q->done)
            rig_turn(t.reactor);
        const uint64_t now = plx_reactor_now(t.reactor);
        if (i >= AT_ONCE) {
            assert_int_equal(q->req->status, 0);
            longest = plx_max_u64(longest, now - began[i % AT_ONCE]);
        }
        began[i % AT_ONCE] = now;
        if (i < WRITES)
            tu_start(&t, q, PLX_BDEV_WRITE, (tu_random(&seed) % (1U << 28)) * NLB, NLB, m->data[0]);
    }
    assert_true(rig.pool->generation >= first + 3);
    assert_true(longest < LIMIT_MS * PLX_NS_PER_MS);
    many_free(m);
    free(m);
    rig_close(&rig, &t);
    rig_end(&rig);
    rig_simulate(false);
}

/* After a power cut what a replay needs is read at once: 1,000 changes, each with a node of its own, 1 ms a read */
static void test_replay_reads_ahead(void **state)
{
    enum { WRITES = 1000, LIMIT_MS = 200 };
    struct pool_rig rig;
    struct tu t;
    struct tu_req q;
    uint8_t *data = tu_pattern(UNIT, 1);
    uint64_t seed = 1;
    (void)state;
    rig_simulate(true);
    rig_make(&rig, "crash:[delay:ram:1G?read=1ms]", NULL);
    rig_create(&rig, "v", UINT64_C(1) << 40);
    rig_open(&rig, "v", &t);
    tu_req_init(&q);
    for (unsigned round = 0; round < 2; round++) { /* the nodes of the second one are on the disk */
        for (unsigned i = 0; i <= WRITES; i++) {
            const bool over = i == WRITES;
            const uint64_t unit = ((tu_random(&seed) % (1U << 20)) << 8) + round;
            tu_start(&t, &q, over ? PLX_BDEV_FLUSH : PLX_BDEV_WRITE, over ? 0 : unit * NLB, over ? 0 : NLB, data);
            while (!q.done)
                rig_turn(t.reactor);
            assert_int_equal(q.req->status, 0);
        }
        seed = 1;
        if (!round)
            rig_do(&rig, PLX_POOL_NAME_IT, NULL, "p", 0);
        rig.pool->dirty_max = 8 * WRITES; /* no checkpoint by itself */
    }
    assert_int_equal(plx_bdev_crash_cut(rig.disk, NULL), 0);
    tu_req_free(&q);
    rig_close(&rig, &t);
    pool_close_on(rig.pool);
    assert_int_equal(plx_bdev_crash_restore(rig.disk, NULL), 0);
    plx_reactor_poll(rig.reactor);
    const uint64_t began = plx_reactor_now(rig.reactor);
    rig_pool(&rig);
    plx_reactor_poll(rig.reactor);
    assert_true(plx_reactor_now(rig.reactor) - began < LIMIT_MS * PLX_NS_PER_MS);
    assert_int_equal(rig.pool->volume[0]->mapped, 2 * WRITES);
    assert_true(rig.pool->nodes > WRITES);
    rig_end(&rig);
    rig_simulate(false);
    free(data);
}

/* A leaf that is changed after its CRC was made for the next checkpoint has another one. */
static void test_sums_made_early_are_of_what_is_written(void **state)
{
    struct pool_rig rig;
    struct tu t;
    uint8_t *a = tu_pattern(UNIT, 1), *b = tu_pattern(UNIT, 2), *out = tu_pattern(UNIT, 3);
    uint32_t left = 100;
    (void)state;
    rig_make(&rig, "ram:64M", NULL);
    rig_create(&rig, "v", 16 << 20);
    rig_open(&rig, "v", &t);
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 0, NLB, a), 0);
    assert_true(rig.pool->n_dirty);
    while (left)
        pool_nodes_sum(rig.pool, &left);
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, NLB, NLB, b), 0);
    rig_close(&rig, &t);
    rig_reopen(&rig);
    rig_open(&rig, "v", &t);
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, 0, NLB, out), 0);
    assert_memory_equal(out, a, UNIT);
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, NLB, NLB, out), 0);
    assert_memory_equal(out, b, UNIT);
    rig_close(&rig, &t);
    rig_end(&rig);
    free(a);
    free(b);
    free(out);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_more_requests_than_sub_requests),
        cmocka_unit_test(test_checkpoints_are_not_waited_for),
        cmocka_unit_test(test_replay_reads_ahead),
        cmocka_unit_test(test_sums_made_early_are_of_what_is_written),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
