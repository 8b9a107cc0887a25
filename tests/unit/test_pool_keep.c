/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A pool that is looked at from outside while it is written to, so much that roots come and go meanwhile: nothing is
 * found, at the first look. Those who write have the better right: they wait no longer than is said, and never for
 * space.
 */
#include "pool_rig.h"

#include <errno.h>
#include <pollux/pool_check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "reactor/clock.h"

enum {
    LEAVES = 1024, /* of the volume's tree; what is written is all over it */
    LEAF = 256 * 8,
    SLOTS = 16,
    ROWS = 64, /* leaves with so many units in a row besides, which are told to the disk when they become free */
    ROW = 32,
    DEPTH = 8,
};

#define TAKES_A_WHILE "crash:ram:64M?latency=20us&seed=1"
#define TAKES_MORE "crash:ram:256M?latency=20us&seed=1" /* where nothing is overwritten in place */

struct writer {
    struct pool_rig rig;
    struct tu t;
    struct slot {
        struct plx_bdev_req req __attribute__((aligned(16)));
        struct iovec iov;
        bool busy;
    } slot[DEPTH];
    uint64_t seed, done;
    bool over;
};

static struct writer w;
static uint8_t data[ROW * 4096];

static void slot_done(struct plx_bdev_req *req)
{
    struct slot *s = plx_container_of(req, struct slot, req);
    assert_int_equal(req->status, 0);
    s->busy = false;
    w.done++;
}

static void slot_begin(struct slot *s)
{
    const uint64_t dice = tu_random(&w.seed) % 16;
    s->req = (struct plx_bdev_req){.done = slot_done,
                                   .op = dice > 8 ? PLX_BDEV_UNMAP
                                         : dice   ? PLX_BDEV_WRITE
                                                  : PLX_BDEV_FLUSH};
    if (dice == 1 || dice == 15) {
        s->req.lba = tu_random(&w.seed) % ROWS * LEAF + SLOTS * 8;
        s->req.nlb = ROW * 8;
    } else if (dice) {
        s->req.lba = tu_random(&w.seed) % LEAVES * LEAF + tu_random(&w.seed) % SLOTS * 8;
        s->req.nlb = 8;
    }
    s->iov = (struct iovec){data, (size_t)s->req.nlb * 512};
    if (s->req.op == PLX_BDEV_WRITE) {
        s->req.iov = &s->iov;
        s->req.iovcnt = 1;
    }
    s->busy = true;
    plx_bdev_submit(w.t.ch, &s->req);
}

static void writer_turn(struct plx_reactor *r)
{
    for (unsigned turn = 0; turn < 4; turn++) {
        for (unsigned i = 0; i < DEPTH && !w.over; i++)
            if (!w.slot[i].busy)
                slot_begin(&w.slot[i]);
        rig_turn(r);
    }
}

static void writer_begin(const char *url, const struct plx_pool_opts *opts)
{
    w = (struct writer){.seed = 1};
    rig_make(&w.rig, url, opts);
    rig_create(&w.rig, "v", (uint64_t)LEAVES * LEAF * 512);
    rig_open(&w.rig, "v", &w.t);
}

static void writer_stop(void)
{
    bool busy = true;
    w.over = true;
    while (busy) {
        busy = false;
        for (unsigned i = 0; i < DEPTH; i++)
            busy |= w.slot[i].busy;
        rig_turn(w.rig.reactor);
    }
}

static void writer_end(void)
{
    writer_stop();
    rig_close(&w.rig, &w.t);
    rig_settle(&w.rig);
    rig_check(&w.rig);
    rig_end(&w.rig);
}

static void write_for(uint64_t n)
{
    for (const uint64_t end = w.done + n; w.done < end;)
        writer_turn(w.rig.reactor);
}

static void print_finding(void *arg, const struct plx_pool_finding *f)
{
    (void)arg;
    if (f->severity != PLX_POOL_NOTE)
        print_message("found: %s\n", f->text);
}

/* Roots are written meanwhile, and many a node of before is not led to any more. */
static void check_clean(const struct plx_pool_opts *opts)
{
    struct plx_error err;
    writer_begin(opts ? TAKES_MORE : TAKES_A_WHILE, opts);
    write_for(20000);
    const uint64_t first = w.rig.pool->generation;
    for (unsigned round = 0; round < 5; round++) {
        struct plx_pool_check c = {.pool = w.rig.pool,
                                   .data = opts != NULL,
                                   .reactor = w.rig.reactor,
                                   .turn = writer_turn,
                                   .found = print_finding};
        const uint64_t generation = w.rig.pool->generation;
        if (plx_pool_check(w.rig.disk, &c, &err))
            fail_msg("%s", err.text);
        assert_int_equal(c.wastes + c.damages, 0);
        assert_int_equal(c.tries, 0);
        assert_true(c.volumes == 1 && c.nodes > LEAVES / 2);
        assert_true(w.rig.pool->generation > generation);
        assert_true(!opts || c.data_bytes);
    }
    assert_true(w.rig.pool->generation > first + 10);
    writer_end();
}

static void test_a_busy_pool_is_found_clean(void **state)
{
    (void)state;
    check_clean(NULL);
}

static void test_a_busy_pool_with_checksums_is_found_clean(void **state)
{
    static const struct plx_pool_opts opts = {.checksums = true};
    (void)state;
    check_clean(&opts);
}

/* ---- one that comes meanwhile ---- */

static unsigned turns, comes_at;

/* A volume is made, written to and flushed: the log has it, and not the root that was read before. */
static void volume_comes(struct plx_reactor *r)
{
    char name[16];
    struct tu t;
    if (turns++ != comes_at) {
        rig_turn(r);
        return;
    }
    snprintf(name, sizeof name, "v%u", comes_at);
    rig_create(&w.rig, name, 1 << 20);
    rig_open(&w.rig, name, &t);
    assert_int_equal(rig_io(&t, PLX_BDEV_WRITE, 0, 8, data), 0);
    assert_int_equal(rig_io(&t, PLX_BDEV_FLUSH, 0, 0, NULL), 0);
    rig_close(&w.rig, &t);
}

static void test_a_volume_that_comes_is_nothing_wrong(void **state)
{
    struct plx_error err;
    (void)state;
    writer_begin(TAKES_A_WHILE, NULL);
    w.over = true;
    for (comes_at = 0; comes_at < 60; comes_at++) {
        struct plx_pool_check c = {
            .pool = w.rig.pool, .reactor = w.rig.reactor, .turn = volume_comes, .found = print_finding};
        turns = 0;
        if (plx_pool_check(w.rig.disk, &c, &err))
            fail_msg("%s", err.text);
        assert_int_equal(c.wastes + c.damages, 0);
        assert_int_equal(c.tries, 0);
        if (turns <= comes_at)
            break;
    }
    assert_true(comes_at > 8);
    writer_end();
}

/* What is damaged is told, though it is changed meanwhile. */
static void test_what_is_wrong_with_a_busy_pool_is_found(void **state)
{
    struct plx_error err;
    (void)state;
    writer_begin(TAKES_A_WHILE, NULL);
    write_for(20000);
    uint64_t unit; /* that somebody took, and forgot */
    assert_int_equal(pool_space_take(w.rig.pool, POOL_FOR_DATA, 1, &unit), 1);
    for (unsigned round = 0; round < 3; round++) {
        struct plx_pool_check c = {.pool = w.rig.pool, .reactor = w.rig.reactor, .turn = writer_turn};
        write_for(2000);
        if (plx_pool_check(w.rig.disk, &c, &err))
            fail_msg("%s", err.text);
        assert_int_equal(c.damages, 0);
        assert_int_equal(c.wastes, 1);
        assert_int_equal(c.tries, 0);
    }
    writer_stop();
    rig_close(&w.rig, &w.t);
    rig_end(&w.rig);
}

/* ---- who writes has the better right ---- */

static void keep_nodes(void)
{
    assert_int_equal(plx_pool_keep(w.rig.pool, PLX_POOL_KEEP_MAPS), 0);
    assert_int_equal(plx_pool_keep(w.rig.pool, PLX_POOL_KEEP_MAPS), -EBUSY);
    assert_int_equal(plx_pool_keep(w.rig.pool, PLX_POOL_KEEP_NODES), 0);
}

/* All that becomes free is kept until it is needed: no write waits, or fails, for that. */
static void test_space_that_is_needed_is_not_kept(void **state)
{
    (void)state;
    writer_begin(TAKES_A_WHILE, NULL);
    w.rig.pool->full_wait_ns = 0;
    write_for(20000);
    for (unsigned round = 0; round < 3; round++) {
        uint64_t n = 0;
        keep_nodes();
        while (!w.rig.pool->keep_lost && n++ < 10000)
            write_for(100);
        assert_true(w.rig.pool->keep_lost);
        for (const uint64_t end = w.done + 20000; w.done < end;)
            writer_turn(w.rig.reactor);
        assert_int_equal(plx_pool_keep(w.rig.pool, PLX_POOL_KEEP_NOTHING), -EAGAIN);
    }
    keep_nodes();
    write_for(1000);
    assert_int_equal(plx_pool_keep(w.rig.pool, PLX_POOL_KEEP_NOTHING), 0);
    writer_end();
}

/* Somebody does not come back who keeps roots from being written: but one more, or the one that is under way. */
static void test_roots_wait_for_no_longer_than_that(void **state)
{
    struct plx_pool *p;
    (void)state;
    writer_begin(TAKES_A_WHILE, NULL);
    p = w.rig.pool;
    for (unsigned round = 0; round < 10; round++) {
        write_for(2000);
        const uint64_t generation = p->generation;
        assert_int_equal(plx_pool_keep(p, PLX_POOL_KEEP_MAPS), 0);
        const uint64_t until = p->keep_until;
        while (!p->keep_lost) {
            assert_true(p->generation <= generation + 1);
            writer_turn(w.rig.reactor);
        }
        assert_true(plx_clock_ns() >= until);
        write_for(20000);
        assert_true(p->generation > generation + 1);
        assert_int_equal(plx_pool_keep(p, PLX_POOL_KEEP_NOTHING), -EAGAIN);
    }
    writer_end();
}

/* What became free while it was kept, in rows, the disk is told of afterwards. */
static void test_the_disk_is_told_afterwards(void **state)
{
    struct plx_bdev_stats before = {0}, meanwhile = {0}, after = {0};
    (void)state;
    writer_begin(TAKES_A_WHILE, NULL);
    w.over = true;
    for (unsigned i = 0; i < ROWS; i++)
        assert_int_equal(rig_io(&w.t, PLX_BDEV_WRITE, (uint64_t)i * LEAF, ROW * 8, data), 0);
    rig_settle(&w.rig);
    plx_bdev_get_totals(w.rig.disk, &before);
    keep_nodes();
    for (unsigned i = 0; i < ROWS; i++)
        assert_int_equal(rig_io(&w.t, PLX_BDEV_UNMAP, (uint64_t)i * LEAF, ROW * 8, NULL), 0);
    rig_settle(&w.rig);
    assert_true(w.rig.pool->n_kept >= ROWS * ROW);
    plx_bdev_get_totals(w.rig.disk, &meanwhile);
    assert_int_equal(meanwhile.blocks[PLX_BDEV_UNMAP], before.blocks[PLX_BDEV_UNMAP]);
    assert_int_equal(plx_pool_keep(w.rig.pool, PLX_POOL_KEEP_NOTHING), 0);
    rig_settle(&w.rig);
    assert_int_equal(w.rig.pool->n_kept, 0);
    plx_bdev_get_totals(w.rig.disk, &after);
    assert_true(after.blocks[PLX_BDEV_UNMAP] >= meanwhile.blocks[PLX_BDEV_UNMAP] + ROWS * ROW * 8);
    writer_end();
}

/* Nobody writes, and somebody keeps the maps who does not come back. */
static void test_space_of_what_is_deleted_comes_back(void **state)
{
    struct plx_pool *p;
    (void)state;
    writer_begin("crash:ram:64M?seed=1", NULL);
    p = w.rig.pool;
    w.over = true;
    for (unsigned i = 0; i < ROWS; i++)
        assert_int_equal(rig_io(&w.t, PLX_BDEV_WRITE, (uint64_t)i * LEAF, ROW * 8, data), 0);
    rig_close(&w.rig, &w.t);
    rig_settle(&w.rig);
    const uint64_t used = p->used;
    for (unsigned round = 0; round < 2; round++) {
        assert_int_equal(plx_pool_keep(p, PLX_POOL_KEEP_MAPS), 0);
        rig_do(&w.rig, round ? PLX_POOL_CREATE : PLX_POOL_DELETE, round ? NULL : "v", round ? "v" : NULL, 1 << 20);
        for (unsigned i = 0; i < 100 && p->used > used - ROWS * ROW; i++)
            rig_turn(w.rig.reactor);
        assert_true(p->used <= used - ROWS * ROW);
        plx_pool_keep(p, PLX_POOL_KEEP_NOTHING);
    }
    rig_settle(&w.rig);
    rig_check(&w.rig);
    rig_end(&w.rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_busy_pool_is_found_clean),
        cmocka_unit_test(test_a_busy_pool_with_checksums_is_found_clean),
        cmocka_unit_test(test_a_volume_that_comes_is_nothing_wrong),
        cmocka_unit_test(test_what_is_wrong_with_a_busy_pool_is_found),
        cmocka_unit_test(test_space_that_is_needed_is_not_kept),
        cmocka_unit_test(test_roots_wait_for_no_longer_than_that),
        cmocka_unit_test(test_the_disk_is_told_afterwards),
        cmocka_unit_test(test_space_of_what_is_deleted_comes_back),
    };
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 7 + 3);
    rig_simulate(true);
    int ret = cmocka_run_group_tests(tests, NULL, NULL);
    rig_simulate(false);
    return ret;
}
