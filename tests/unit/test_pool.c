/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Pools on one reactor: what is written to volumes is there, whatever is done to them, and when they are opened again.
 */
#include "pool_rig.h"

#include "base/uuid.h"

#include <errno.h>
#include <pollux/bdev_filter.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { K = 1024, UNIT = 4096 };

static void test_made_and_opened(void **state)
{
    struct pool_rig rig;
    struct plx_pool_info info;
    (void)state;
    rig_make(&rig, "ram:64M", NULL);
    plx_pool_get_info(rig.pool, &info);
    assert_int_equal(info.size, 64 << 20);
    assert_true(info.free > 60 << 20);
    assert_int_equal(info.unit, UNIT);
    rig_reopen(&rig);
    rig_end(&rig);
}

static void test_no_pool(void **state)
{
    struct pool_rig rig;
    struct plx_error err = {""};
    struct plx_pool *p;
    (void)state;
    rig_disk(&rig, "ram:64M");
    const struct pool_keeper keeper = {rig.reactor, rig_turn};
    assert_int_equal(pool_open_on(rig.disk, &keeper, &p, &err), -ENODATA);
    assert_non_null(strstr(err.text, "there is no pool on it"));
    rig_end(&rig);
}

/* Whoever looks for what was there finds nothing, wherever its signs were. */
static void test_what_was_there_is_gone(void **state)
{
    static const uint32_t places[] = {0, 2, 128, 64 * 2048 - 1, 64 * 2048 - 16, 63 * 2048};
    struct pool_rig rig;
    struct tu t;
    struct plx_pool *p;
    struct plx_error err = {""};
    uint8_t *data = tu_pattern(512, 1);
    char text[128];
    (void)state;
    for (int made = 0; made < 2; made++) {
        rig_disk(&rig, "ram:64M");
        const struct pool_keeper keeper = {rig.reactor, rig_turn};
        tu_join(&t, rig.disk);
        for (unsigned i = 0; i < 6; i++)
            assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, places[i], 1, data), 0);
        tu_leave(&t);
        if (made) {
            assert_int_equal(pool_make_on(rig.disk, &keeper, &(struct plx_pool_opts){0}, &err), 0);
            assert_int_equal(pool_open_on(rig.disk, &keeper, &p, &err), 0);
            assert_int_equal(plx_pool_erase(rig.disk, &err), -EBUSY); /* it is open */
            assert_int_equal(pool_close_on(p), 0);
        }
        assert_int_equal(pool_erase_on(rig.disk, &keeper, &err), 0);
        assert_int_equal(pool_open_on(rig.disk, &keeper, &p, &err), -ENODATA);
        assert_int_equal(plx_bdev_content(rig.disk, text, sizeof text, &err), 0);
        rig_end(&rig);
    }
    free(data);
}

static void test_names_of_pools(void **state)
{
    static const char *const wrong[] = {"a\nb", "a/b", "\x1b[2J", "\xff"};
    struct pool_rig rig;
    struct plx_pool_info info;
    struct plx_error err = {""};
    (void)state;
    rig_disk(&rig, "ram:64M");
    const struct pool_keeper keeper = {rig.reactor, rig_turn};
    for (unsigned i = 0; i < 4; i++) {
        const struct plx_pool_opts opts = {.name = wrong[i]};
        assert_int_equal(pool_make_on(rig.disk, &keeper, &opts, &err), -EINVAL);
        assert_non_null(strstr(err.text, "the name of a pool"));
    }
    const struct plx_pool_opts opts = {.name = "fast disks"};
    assert_int_equal(pool_make_on(rig.disk, &keeper, &opts, &err), 0);
    rig_pool(&rig);
    plx_pool_get_info(rig.pool, &info);
    assert_string_equal(info.name, "fast disks");
    rig_end(&rig);
}

/* The disk is opened once for all volumes on it, by whatever names, and closed with the last one. */
static void test_one_pool_for_all_volumes(void **state)
{
    static const char *const forms[] = {"volume:%s?name=a", "volume:[file:%s]?name=b"};
    struct plx_error err = {""};
    struct plx_bdev *disk, *volumes[2], *other;
    struct plx_pool *p;
    char url[320];
    (void)state;
    assert_int_equal(plx_bdev_open(tu_path, &disk, &err), 0);
    assert_int_equal(plx_pool_make(disk, &(struct plx_pool_opts){0}, &err), 0);
    assert_int_equal(plx_pool_open(disk, &p, &err), 0);
    for (unsigned i = 0; i < 2; i++) {
        struct plx_pool_op op = {.kind = PLX_POOL_CREATE, .name = i ? "b" : "a", .size = 1 << 20};
        assert_int_equal(plx_pool_do(p, &op), 0);
    }
    assert_int_equal(plx_pool_close(p), 0);
    assert_int_equal(plx_bdev_close(disk), 0);
    for (unsigned last = 0; last < 2; last++) { /* to be closed */
        for (unsigned i = 0; i < 2; i++) {
            snprintf(url, sizeof url, forms[i], tu_path);
            if (plx_bdev_open(url, &volumes[i], &err))
                fail_msg("%s", err.text);
        }
        assert_int_equal(plx_bdev_open(url, &other, &err), -EBUSY);
        assert_int_equal(plx_bdev_close(volumes[!last]), 0);
        assert_int_equal(plx_bdev_open(tu_path, &other, &err), -EBUSY);
        assert_int_equal(plx_bdev_close(volumes[last]), 0);
        assert_int_equal(plx_bdev_open(tu_path, &other, &err), 0);
        assert_int_equal(plx_bdev_close(other), 0);
    }
}

/* It is told as long as it goes on. */
static void test_freeing_is_told(void **state)
{
    enum { NODES = 300 }; /* more than are freed in a round */
    struct pool_rig rig;
    struct tu t;
    struct plx_pool_info before, info;
    struct plx_pool_op op = {.kind = PLX_POOL_DELETE, .volume = "v"};
    uint8_t *data = tu_pattern(UNIT, 1);
    bool done, seen = false;
    (void)state;
    rig_make(&rig, "ram:64M", NULL);
    rig_create(&rig, "v", (uint64_t)NODES << 20);
    rig_open(&rig, "v", &t);
    for (uint64_t i = 0; i < NODES; i++)
        assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, i * 2048, 8, data), 0);
    rig_close(&rig, &t);
    plx_pool_get_info(rig.pool, &before);
    assert_false(before.freeing);
    rig_begin(&rig, &op, &done);
    for (info = before; !done || info.freeing; plx_pool_get_info(rig.pool, &info)) {
        seen |= info.freeing;
        rig_turn(rig.reactor);
    }
    assert_true(seen);
    rig_reopen(&rig);
    plx_pool_get_info(rig.pool, &info);
    assert_true(info.free >= before.free + (uint64_t)NODES * UNIT);
    rig_end(&rig);
    free(data);
}

static void test_written_and_read(void **state)
{
    struct pool_rig rig;
    struct tu t;
    uint8_t *a = tu_pattern(256 * K, 1), *out = tu_pattern(256 * K, 2);
    (void)state;
    rig_make(&rig, "ram:64M", NULL);
    rig_create(&rig, "v", 16 << 20);
    rig_open(&rig, "v", &t);
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, 0, 512, out), 0);
    assert_true(tu_zeroed(out, 256 * K));
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 100, 512, a), 0); /* begins and ends within units */
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, 100, 512, out), 0);
    assert_memory_equal(a, out, 256 * K);
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, 96, 4, out), 0);
    assert_true(tu_zeroed(out, 4 * 512));
    rig_close(&rig, &t);
    rig_reopen(&rig);
    rig_open(&rig, "v", &t);
    memset(out, 0, 256 * K);
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, 100, 512, out), 0);
    assert_memory_equal(a, out, 256 * K);
    rig_close(&rig, &t);
    rig_end(&rig);
    free(a);
    free(out);
}

static void memory_in_pieces(struct tu_req *q, uint8_t *data, size_t bytes)
{
    static const size_t cuts[] = {0, 100, 5000, 20000};
    q->req->iovcnt = 4;
    for (unsigned i = 0; i < 4; i++)
        q->iov[i] = (struct iovec){data + cuts[i], (i < 3 ? cuts[i + 1] : bytes) - cuts[i]};
}

/* A request of several pieces of data, whose memory is in several pieces, too, and is the caller's as it was. */
static void test_memory_in_pieces(void **state)
{
    enum { BYTES = 56 * K };
    struct pool_rig rig;
    struct tu t;
    struct tu_req q;
    uint8_t *a = tu_pattern(BYTES, 1), *one = tu_pattern(UNIT, 2), *out = tu_pattern(BYTES, 3);
    (void)state;
    rig_make(&rig, "ram:64M", NULL);
    rig_create(&rig, "v", 16 << 20);
    rig_open(&rig, "v", &t);
    for (int lap = 0; lap < 2; lap++) {
        for (uint64_t lba = 8; lba < 100; lba += 24) /* so that what is around it is elsewhere */
            assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, lba, 8, one), 0);
        tu_req_init(&q);
        for (int op = PLX_BDEV_WRITE; op >= PLX_BDEV_READ; op--) {
            struct iovec was[4];
            memory_in_pieces(&q, op == PLX_BDEV_WRITE ? a : out, BYTES);
            memcpy(was, q.iov, sizeof was);
            tu_start(&t, &q, (enum plx_bdev_op)op, 3, BYTES / 512, NULL);
            assert_int_equal(tu_finish(&t, &q), 0);
            assert_memory_equal(was, q.iov, sizeof was);
        }
        assert_memory_equal(a, out, BYTES);
        tu_req_free(&q);
        memset(out, 0, BYTES);
        rig_do(&rig, PLX_POOL_SNAPSHOT, "v", lap ? "s2" : "s1", 0);
    }
    rig_close(&rig, &t);
    rig_end(&rig);
    free(a);
    free(one);
    free(out);
}

static void test_snapshot_keeps(void **state)
{
    struct pool_rig rig;
    struct tu t, s;
    uint8_t *a = tu_pattern(64 * K, 1), *b = tu_pattern(64 * K, 2), *out = tu_pattern(64 * K, 3);
    (void)state;
    rig_make(&rig, "ram:64M", NULL);
    rig_create(&rig, "v", 16 << 20);
    rig_open(&rig, "v", &t);
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 0, 128, a), 0);
    rig_do(&rig, PLX_POOL_SNAPSHOT, "v", "s", 0);
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 3, 64, b), 0);
    rig_open(&rig, "s", &s);
    assert_int_equal(tu_io(&s, PLX_BDEV_READ, 0, 128, out), 0);
    assert_memory_equal(a, out, 64 * K);
    memcpy(a + 3 * 512, b, 64 * 512);
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, 0, 128, out), 0);
    assert_memory_equal(a, out, 64 * K);
    rig_close(&rig, &s);
    rig_close(&rig, &t);
    rig_do(&rig, PLX_POOL_DELETE, "v", NULL, 0);
    rig_do(&rig, PLX_POOL_DELETE, "s", NULL, 0);
    rig_settle(&rig);
    assert_int_equal(rig_check(&rig), 0);
    rig_end(&rig);
    free(a);
    free(b);
    free(out);
}

/* A unit that was freed is not another's before those have read it who began to before that. */
static void test_freed_units_are_read_in_peace(void **state)
{
    struct pool_rig rig;
    struct tu t;
    struct tu_req reader, q;
    uint8_t *a = tu_pattern(UNIT, 1), *b = tu_pattern(UNIT, 2), *out = tu_pattern(UNIT, 3);
    (void)state;
    rig_simulate(true);
    rig_make(&rig, "delay:ram:8M?read=50ms", NULL);
    rig_create(&rig, "v", 16 << 20);
    rig_open(&rig, "v", &t);
    tu_req_init(&reader);
    tu_req_init(&q);
    assert_int_equal(tu_io_flags(&t, PLX_BDEV_WRITE, PLX_BDEV_FUA, 0, 8, a), 0);
    tu_start(&t, &reader, PLX_BDEV_READ, 0, 8, out);
    tu_start(&t, &q, PLX_BDEV_UNMAP, 0, 8, NULL);
    rig.pool->full_wait_ns = 0;
    for (uint64_t lba = 8; !q.done || !q.req->status; lba += 8) { /* as long as there is any space */
        for (int i = 0; i < 1000 && !q.done; i++)
            plx_reactor_poll(rig.reactor); /* and no time passes */
        if (!q.done)
            break; /* for the checkpoint that waits for the reader */
        pool_checkpoint_want(rig.pool);
        pool_kick(rig.pool);
        tu_start(&t, &q, PLX_BDEV_WRITE, lba, 8, b);
    }
    assert_false(reader.done);
    while (!reader.done || !q.done)
        rig_turn(rig.reactor);
    assert_int_equal(reader.req->status, 0);
    assert_memory_equal(a, out, UNIT);
    tu_req_free(&reader);
    tu_req_free(&q);
    rig_close(&rig, &t);
    rig_end(&rig);
    rig_simulate(false);
    free(a);
    free(b);
    free(out);
}

/* A part of a unit is not copied away from under a write of before a snapshot, which has not got there yet. */
static void test_writes_of_before_a_snapshot_are_not_left_behind(void **state)
{
    struct pool_rig rig;
    struct tu t;
    struct tu_req early, late;
    struct plx_pool_op op = {.kind = PLX_POOL_SNAPSHOT, .volume = "v", .name = "s"};
    uint8_t *a = tu_pattern(UNIT, 1), *b = tu_pattern(UNIT, 2), *out = tu_pattern(UNIT, 3);
    bool done;
    (void)state;
    rig_simulate(true);
    rig_make(&rig, "delay:ram:8M?write=10ms", NULL);
    rig_create(&rig, "v", 16 << 20);
    rig_open(&rig, "v", &t);
    tu_req_init(&early);
    tu_req_init(&late);
    tu_start(&t, &early, PLX_BDEV_WRITE, 0, 8, a);
    while (!early.done)
        rig_turn(rig.reactor);
    tu_start(&t, &early, PLX_BDEV_WRITE, 0, 4, b); /* in place */
    rig_begin(&rig, &op, &done);
    while (!rig.pool->volume[0]->settling)
        assert_true(plx_reactor_poll(rig.reactor));
    tu_start(&t, &late, PLX_BDEV_WRITE, 4, 4, b + 4 * 512); /* to another unit */
    while (!done || !early.done || !late.done)
        rig_turn(rig.reactor);
    assert_int_equal(op.result | early.req->status | late.req->status, 0);
    tu_start(&t, &late, PLX_BDEV_READ, 0, 8, out);
    while (!late.done)
        rig_turn(rig.reactor);
    assert_memory_equal(b, out, UNIT);
    tu_req_free(&early);
    tu_req_free(&late);
    rig_close(&rig, &t);
    rig_end(&rig);
    rig_simulate(false);
    free(a);
    free(b);
    free(out);
}

static void note_event(void *arg, struct plx_bdev *bdev, enum plx_bdev_event what)
{
    (void)bdev;
    *(unsigned *)arg |= 1U << what;
}

/* Who holds a volume hears of it: that it has another size, and that the disk of its pool is gone. */
static void test_holders_are_told(void **state)
{
    struct pool_rig rig;
    struct tu t;
    struct plx_bdev_hold *hold;
    struct plx_error err = {""};
    unsigned events = 0;
    const struct plx_bdev_hold_opts opts = {
        .who = "a test", .claim = PLX_BDEV_READS, .event = note_event, .arg = &events};
    (void)state;
    rig_make(&rig, "ram:64M", NULL);
    rig_create(&rig, "v", 16 << 20);
    rig_open(&rig, "v", &t);
    assert_int_equal(plx_bdev_hold(t.bdev, &opts, &hold, &err), 0);
    rig_do(&rig, PLX_POOL_RESIZE, "v", NULL, 32 << 20);
    assert_int_equal(events, 1 << PLX_BDEV_RESIZED);
    assert_int_equal(plx_bdev_blocks(t.bdev), (32 << 20) / 512);
    plx_bdev_gone(rig.disk, "the test says so");
    while (events != (1 << PLX_BDEV_RESIZED | 1 << PLX_BDEV_GONE))
        rig_turn(rig.reactor);
    uint8_t data[512];
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, 0, 1, data), PLX_SC_INVALID_NAMESPACE_OR_FORMAT);
    plx_bdev_release(hold);
    rig_close(&rig, &t);
    assert_int_equal(pool_close_on(rig.pool), -EIO);
    rig.pool = NULL;
    rig_end(&rig);
}

/* ---- full ---- */

/* A pool of 8 MiB, of which a volume has all that it can; the last write waits for more. */
static void fill(struct pool_rig *rig, struct tu *t, struct tu_req *q, const uint8_t *data)
{
    uint64_t lba = 0;
    rig_make(rig, "ram:8M", NULL);
    rig_create(rig, "v", 16 << 20);
    rig_open(rig, "v", t);
    tu_req_init(q);
    memory_in_pieces(q, (uint8_t *)(uintptr_t)data, 32 * K);
    for (;; lba += 64) {
        tu_start(t, q, PLX_BDEV_WRITE, lba, 64, (void *)(uintptr_t)data);
        for (int i = 0; i < 100 && !q->done; i++)
            plx_reactor_poll(rig->reactor);
        if (!q->done)
            break;
        assert_int_equal(q->req->status, 0);
    }
    assert_in_range(lba * 512, 6 << 20, 8 << 20);
}

static void test_full_waits_for_space(void **state)
{
    struct pool_rig rig;
    struct tu t;
    struct tu_req q;
    uint8_t *data = tu_pattern(32 * K, 1), *out = tu_pattern(32 * K, 2);
    (void)state;
    rig_simulate(true);
    fill(&rig, &t, &q, data);
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 8, 8, data + UNIT), 0); /* what is there is overwritten as ever */
    rig_do(&rig, PLX_POOL_CREATE, NULL, "w", 4096);
    assert_false(q.done);
    struct tu_req less, unit; /* of memory in pieces, which waits from its beginning on */
    tu_req_init(&less);
    tu_req_init(&unit);
    unit.req->iovcnt = 4;
    for (unsigned i = 0; i < 4; i++)
        unit.iov[i] = (struct iovec){data + (size_t)i * K, K};
    tu_start(&t, &unit, PLX_BDEV_WRITE, 30000, 8, NULL);
    for (int i = 0; i < 100; i++)
        plx_reactor_poll(rig.reactor);
    assert_false(unit.done);
    tu_start(&t, &less, PLX_BDEV_UNMAP, 0, 256, NULL);
    while (!q.done || !unit.done)
        rig_turn(rig.reactor);
    assert_int_equal(unit.req->status, 0);
    tu_req_free(&unit);
    assert_int_equal(q.req->status, 0);
    assert_int_equal(less.req->status, 0);
    q.req->iovcnt = 1;
    tu_start(&t, &q, PLX_BDEV_READ, q.req->lba, 64, out);
    while (!q.done)
        rig_turn(rig.reactor);
    assert_memory_equal(data, out, 32 * K);
    tu_req_free(&less);
    tu_req_free(&q);
    rig_close(&rig, &t);
    rig_settle(&rig);
    rig_check(&rig);
    rig_look(&rig);
    rig_end(&rig);
    rig_simulate(false);
    free(data);
    free(out);
}

static void test_full_ends_with_capacity_exceeded(void **state)
{
    struct pool_rig rig;
    struct tu t;
    struct tu_req q;
    uint8_t *data = tu_pattern(32 * K, 1);
    (void)state;
    rig_simulate(true);
    fill(&rig, &t, &q, data);
    while (!q.done)
        rig_turn(rig.reactor);
    assert_int_equal(q.req->status, PLX_SC_CAPACITY_EXCEEDED);
    tu_start(&t, &q, PLX_BDEV_WRITE, 30000, 64, data);
    rig_turn(rig.reactor);
    plx_bdev_abort(t.ch, q.req);
    for (int i = 0; i < 100 && !q.done; i++)
        plx_reactor_poll(rig.reactor);
    assert_true(q.done);
    assert_int_equal(q.req->status, PLX_SC_ABORTED_BY_REQUEST);
    tu_req_free(&q);
    rig_do(&rig, PLX_POOL_SNAPSHOT, "v", "s", 0);
    rig_close(&rig, &t);
    rig_do(&rig, PLX_POOL_DELETE, "v", NULL, 0);
    rig_do(&rig, PLX_POOL_DELETE, "s", NULL, 0);
    rig_settle(&rig);
    assert_int_equal(rig_check(&rig), 0);
    rig_end(&rig);
    rig_simulate(false);
    free(data);
}

static void test_thick_has_its_space(void **state)
{
    struct pool_rig rig;
    struct tu t;
    uint8_t *data = tu_pattern(1024 * K, 1);
    struct plx_pool_op op = {.kind = PLX_POOL_CREATE, .name = "thick", .size = 4 << 20, .thick = true};
    struct plx_pool_info info;
    (void)state;
    rig_make(&rig, "ram:8M", NULL);
    rig.pool->full_wait_ns = 0;
    assert_int_equal(rig_run(&rig, &op), 0);
    plx_pool_get_info(rig.pool, &info);
    assert_int_equal(info.set_aside, 4 << 20);
    op = (struct plx_pool_op){.kind = PLX_POOL_CREATE, .name = "more", .size = 4 << 20, .thick = true};
    assert_int_equal(rig_run(&rig, &op), -ENOSPC);
    rig_create(&rig, "thin", 8 << 20);
    rig_open(&rig, "thin", &t);
    uint16_t status = 0;
    for (uint64_t lba = 0; !status; lba += 64)
        status = tu_io(&t, PLX_BDEV_WRITE, lba, 64, data);
    assert_int_equal(status, PLX_SC_CAPACITY_EXCEEDED);
    rig_close(&rig, &t);
    rig_open(&rig, "thick", &t);
    for (uint64_t lba = 0; lba < 8192; lba += 2048)
        assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, lba, 2048, data), 0);
    rig_close(&rig, &t);
    rig_end(&rig);
    free(data);
}

static void test_pool_is_renamed(void **state)
{
    struct pool_rig rig;
    struct plx_pool_info info;
    const struct plx_pool_opts opts = {.name = "first"};
    (void)state;
    rig_make(&rig, "ram:64M", &opts);
    rig_do(&rig, PLX_POOL_NAME_IT, NULL, "second", 0);
    assert_int_equal(rig_try(&rig, PLX_POOL_NAME_IT, NULL, "", 0), -EINVAL);
    assert_int_equal(rig_try(&rig, PLX_POOL_NAME_IT, NULL, "a/b", 0), -EINVAL);
    rig_reopen(&rig);
    plx_pool_get_info(rig.pool, &info);
    assert_string_equal(info.name, "second");
    rig_end(&rig);
}

static void test_frozen(void **state)
{
    struct pool_rig rig;
    struct tu t;
    uint8_t *a = tu_pattern(64 * K, 1), *out = tu_pattern(64 * K, 2);
    (void)state;
    rig_make(&rig, "ram:64M", NULL);
    struct plx_pool_op thick = {.kind = PLX_POOL_CREATE, .name = "v", .size = 16 << 20, .thick = true};
    rig_run(&rig, &thick);
    rig_open(&rig, "v", &t);
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 0, 128, a), 0);
    assert_int_equal(rig_try(&rig, PLX_POOL_FREEZE, "v", NULL, 0), -EBUSY);
    rig_close(&rig, &t);
    rig_do(&rig, PLX_POOL_FREEZE, "v", NULL, 0);
    assert_int_equal(rig_try(&rig, PLX_POOL_FREEZE, "v", NULL, 0), -EINVAL);
    assert_int_equal(rig_try(&rig, PLX_POOL_FREEZE, "w", NULL, 0), -ENOENT);
    struct plx_pool_info info;
    plx_pool_get_info(rig.pool, &info);
    assert_int_equal(info.set_aside, 0);
    rig_reopen(&rig);
    rig_open(&rig, "v", &t);
    assert_true(t.info->read_only);
    rig_close(&rig, &t);
    rig_do(&rig, PLX_POOL_CLONE, "v", "c", 0);
    rig_open(&rig, "c", &t);
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 0, 64, out), 0);
    rig_close(&rig, &t);
    rig_open(&rig, "v", &t);
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, 0, 128, out), 0);
    assert_memory_equal(a, out, 64 * K);
    rig_close(&rig, &t);
    rig_end(&rig);
    free(a);
    free(out);
}

/* What is about to be a snapshot, or smaller, is not opened as what it was. */
static void test_not_opened_meanwhile(void **state)
{
    static const enum plx_pool_op_kind kinds[] = {PLX_POOL_RESIZE, PLX_POOL_FREEZE};
    struct pool_rig rig;
    struct tu t;
    (void)state;
    rig_make(&rig, "ram:64M", NULL);
    rig_create(&rig, "v", 16 << 20);
    for (unsigned i = 0; i < 2; i++) {
        struct plx_error err = {""};
        struct plx_bdev *bdev;
        bool done;
        struct plx_pool_op op = {.kind = kinds[i], .volume = "v", .size = 8 << 20};
        rig_begin(&rig, &op, &done);
        while (plx_list_empty(&rig.pool->applying) && !rig.pool->checkpoint)
            rig_turn(rig.reactor);
        assert_false(done);
        assert_int_equal(pool_disk_new(rig.pool, "v", &bdev, &err), -EBUSY);
        while (!done)
            rig_turn(rig.reactor);
        assert_int_equal(op.result, 0);
        rig_open(&rig, "v", &t);
        assert_int_equal(t.info->blocks, (8 << 20) / 512);
        rig_close(&rig, &t);
    }
    rig_end(&rig);
}

static bool find_info(void *arg, const struct plx_volume_info *info)
{
    struct plx_volume_info *wanted = arg;
    if (strcmp(wanted->name, info->name) != 0)
        return true;
    *wanted = *info;
    return false;
}

static struct plx_volume_info info_of(struct pool_rig *rig, const char *name)
{
    struct plx_volume_info info = {.size = 0};
    snprintf(info.name, sizeof info.name, "%s", name);
    plx_pool_each(rig->pool, find_info, &info);
    assert_true(info.size);
    return info;
}

static void join(void *arg, const char *name)
{
    char *all = arg;
    strncat(all, name, 63 - strlen(all));
}

/* A snapshot that was deleted while two go back to it is not seen: they go back to what it went back to. */
static void test_who_goes_back_to_whom(void **state)
{
    struct pool_rig rig;
    struct plx_error err = {""};
    struct plx_bdev *bdev;
    char children[64] = "";
    (void)state;
    rig_make(&rig, "ram:64M", NULL);
    rig_create(&rig, "v", 16 << 20);
    rig_do(&rig, PLX_POOL_SNAPSHOT, "v", "a", 0);
    rig_do(&rig, PLX_POOL_SNAPSHOT, "v", "b", 0);
    rig_do(&rig, PLX_POOL_CLONE, "b", "c", 0);
    assert_string_equal(info_of(&rig, "c").parent, "b");
    rig_do(&rig, PLX_POOL_DELETE, "b", NULL, 0);
    assert_string_equal(info_of(&rig, "c").parent, "a");
    assert_string_equal(info_of(&rig, "v").parent, "a");
    assert_int_equal(plx_pool_open_volume(rig.pool, info_of(&rig, "a").uuid, "disk", &bdev, &err), 0);
    assert_string_equal(plx_bdev_info(bdev)->name, "disk");
    assert_ptr_equal(plx_bdev_below(bdev), rig.disk);
    assert_ptr_equal(plx_volume_pool(bdev), rig.pool);
    assert_null(plx_volume_pool(rig.disk));
    plx_volume_each_child(bdev, join, children);
    assert_string_equal(children, "vc");
    struct plx_volume_info info;
    plx_volume_get_info(bdev, &info);
    assert_string_equal(info.name, "a");
    assert_ptr_equal(info.disk, bdev);
    struct plx_bdev *other;
    assert_int_equal(plx_pool_open_volume(rig.pool, info_of(&rig, "c").uuid, "disk", &other, &err), -EEXIST);
    assert_null(info_of(&rig, "c").disk);
    assert_int_equal(plx_bdev_close(bdev), 0);
    rig_end(&rig);
}

/* Whoever says a UUID means that volume, whatever others are called. */
static void test_name_that_is_a_uuid(void **state)
{
    struct pool_rig rig;
    char text[PLX_UUID_TEXT];
    (void)state;
    rig_make(&rig, "ram:64M", NULL);
    rig_create(&rig, "v", 16 << 20);
    plx_uuid_format(info_of(&rig, "v").uuid, text);
    rig_create(&rig, text, 1 << 20);
    rig_do(&rig, PLX_POOL_RENAME, text, "w", 0);
    assert_int_equal(info_of(&rig, "w").size, 16 << 20);
    rig_do(&rig, PLX_POOL_DELETE, "w", NULL, 0);
    rig_do(&rig, PLX_POOL_RENAME, text, "x", 0);
    assert_int_equal(info_of(&rig, "x").size, 1 << 20);
    rig_end(&rig);
}

static void test_erased(void **state)
{
    struct pool_rig rig;
    struct plx_error err = {""};
    (void)state;
    rig_make(&rig, "ram:64M", NULL);
    const struct pool_keeper keeper = {rig.reactor, rig_turn};
    assert_int_equal(pool_erase_on(rig.disk, &keeper, &err), -EBUSY); /* it is open */
    rig_create(&rig, "v", 1 << 20);                                   /* both roots are there */
    assert_int_equal(pool_close_on(rig.pool), 0);
    assert_int_equal(pool_erase_on(rig.disk, &keeper, &err), 0);
    assert_int_equal(pool_open_on(rig.disk, &keeper, &rig.pool, &err), -ENODATA);
    rig.pool = NULL;
    rig_end(&rig);
}

/* ---- anything, at random, beside a model of it ---- */

enum { MODELS = 6, BLOCKS = 6 * 1024 * 2, WRITES = 64 };

struct model {
    char name[16];
    bool snapshot, open;
    struct tu t;
    uint64_t blocks;
    int parent; /* index, or -1 */
    uint8_t *data;
};

struct world {
    struct pool_rig rig;
    struct model m[MODELS];
    uint64_t seed;
    unsigned names;
};

static struct model *model_any(struct world *w, bool there, int snapshot)
{
    for (int tries = 0; tries < 20; tries++) {
        struct model *m = &w->m[tu_random(&w->seed) % MODELS];
        if (!!m->data == there && (!there || snapshot < 0 || m->snapshot == snapshot))
            return m;
    }
    return NULL;
}

static void model_open(struct world *w, struct model *m)
{
    if (!m->open)
        rig_open(&w->rig, m->name, &m->t);
    m->open = true;
}

static void model_close(struct world *w, struct model *m)
{
    if (m->open)
        rig_close(&w->rig, &m->t);
    m->open = false;
}

static void model_check(struct world *w, struct model *m)
{
    uint8_t *out = malloc(m->blocks * 512);
    model_open(w, m);
    assert_int_equal(m->t.info->blocks, m->blocks);
    for (uint64_t at = 0; at < m->blocks;) {
        uint32_t n = 1 + tu_random(&w->seed) % 3000;
        n = n > m->blocks - at ? (uint32_t)(m->blocks - at) : n;
        assert_int_equal(tu_io(&m->t, PLX_BDEV_READ, at, n, out + at * 512), 0);
        at += n;
    }
    for (uint64_t i = 0; i < m->blocks; i++)
        if (memcmp(out + i * 512, m->data + i * 512, 512))
            fail_msg("block %llu of %s is wrong", (unsigned long long)i, m->name);
    free(out);
}

static void model_name(struct world *w, struct model *m)
{
    snprintf(m->name, sizeof m->name, "n%u", w->names++);
}

static void step_write(struct world *w, struct model *m)
{
    static const enum plx_bdev_op ops[] = {PLX_BDEV_WRITE,        PLX_BDEV_WRITE, PLX_BDEV_WRITE,
                                           PLX_BDEV_WRITE_ZEROES, PLX_BDEV_UNMAP, PLX_BDEV_FLUSH};
    model_open(w, m);
    for (int i = 0; i < WRITES; i++) {
        enum plx_bdev_op op = ops[tu_random(&w->seed) % 6];
        uint64_t at = tu_random(&w->seed) % m->blocks;
        uint32_t n = 1 + tu_random(&w->seed) % (tu_random(&w->seed) % 8 ? 24 : 2500);
        n = n > m->blocks - at ? (uint32_t)(m->blocks - at) : n;
        uint8_t *data = tu_pattern((size_t)n * 512, tu_random(&w->seed));
        assert_int_equal(tu_io_flags(&m->t, op, op == PLX_BDEV_WRITE && i % 8 == 0 ? PLX_BDEV_FUA : 0, at, n, data), 0);
        if (op == PLX_BDEV_WRITE)
            memcpy(m->data + at * 512, data, (size_t)n * 512);
        else if (op != PLX_BDEV_FLUSH)
            memset(m->data + at * 512, 0, (size_t)n * 512);
        free(data);
    }
}

static void model_copy(struct world *w, struct model *to, const struct model *from, bool snapshot)
{
    (void)w;
    to->snapshot = snapshot;
    to->blocks = from->blocks;
    to->data = malloc(from->blocks * 512);
    memcpy(to->data, from->data, from->blocks * 512);
}

static void step_resize(struct world *w, struct model *m)
{
    uint64_t blocks = (1 + tu_random(&w->seed) % (2 * BLOCKS / 8)) * 8;
    if (blocks < m->blocks)
        model_close(w, m);
    rig_do(&w->rig, PLX_POOL_RESIZE, m->name, NULL, blocks * 512);
    m->data = realloc(m->data, blocks * 512);
    if (blocks > m->blocks)
        memset(m->data + m->blocks * 512, 0, (blocks - m->blocks) * 512);
    m->blocks = blocks;
}

static void step_freeze(struct world *w, struct model *m)
{
    if (tu_random(&w->seed) % 2)
        return;
    model_close(w, m);
    rig_do(&w->rig, PLX_POOL_FREEZE, m->name, NULL, 0);
    m->snapshot = true;
}

static void world_close(struct world *w)
{
    for (int i = 0; i < MODELS; i++)
        model_close(w, &w->m[i]);
}

static void step(struct world *w)
{
    struct model *m, *fresh = model_any(w, false, -1);
    switch (tu_random(&w->seed) % 12) {
    case 0:
        if (!fresh)
            break;
        model_name(w, fresh);
        fresh->blocks = (1 + tu_random(&w->seed) % (BLOCKS / 8)) * 8;
        fresh->data = calloc(fresh->blocks, 512);
        fresh->snapshot = false;
        rig_create(&w->rig, fresh->name, fresh->blocks * 512);
        break;
    case 1:
    case 2:
        m = model_any(w, true, false);
        if (!fresh || !m)
            break;
        model_name(w, fresh);
        rig_do(&w->rig, PLX_POOL_SNAPSHOT, m->name, fresh->name, 0);
        model_copy(w, fresh, m, true);
        break;
    case 3:
    case 4:
        m = model_any(w, true, true);
        if (!fresh || !m)
            break;
        model_name(w, fresh);
        rig_do(&w->rig, PLX_POOL_CLONE, m->name, fresh->name, 0);
        model_copy(w, fresh, m, false);
        break;
    case 5:
    case 6:
        m = model_any(w, true, -1);
        if (!m)
            break;
        model_close(w, m);
        rig_do(&w->rig, PLX_POOL_DELETE, m->name, NULL, 0);
        free(m->data);
        memset(m, 0, sizeof *m);
        break;
    case 7:
        m = model_any(w, true, false);
        if (m)
            step_resize(w, m);
        break;
    case 8:
        m = model_any(w, true, -1);
        if (m)
            model_check(w, m);
        break;
    case 10:
        m = model_any(w, true, false);
        if (m)
            step_freeze(w, m);
        break;
    case 9:
        if (tu_random(&w->seed) % 4)
            break;
        world_close(w);
        rig_reopen(&w->rig);
        break;
    default:
        m = model_any(w, true, false);
        if (m)
            step_write(w, m);
        break;
    }
}

static void check_world(const char *url, uint64_t seed, int steps)
{
    struct world w = {.seed = seed};
    print_message("seed %llu\n", (unsigned long long)seed);
    rig_make(&w.rig, url, NULL);
    for (int i = 0; i < steps; i++) {
        w.rig.pool->job_steps = seed % 2 ? 64 : 1; /* so that what is being freed is seen in between */
        step(&w);
    }
    for (int i = 0; i < MODELS; i++)
        if (w.m[i].data)
            model_check(&w, &w.m[i]);
    world_close(&w);
    rig_settle(&w.rig);
    rig_check(&w.rig);
    rig_look(&w.rig);
    rig_reopen(&w.rig);
    for (int i = 0; i < MODELS; i++)
        if (w.m[i].data)
            model_check(&w, &w.m[i]);
    world_close(&w);
    for (int i = 0; i < MODELS; i++) {
        if (!w.m[i].data)
            continue;
        rig_do(&w.rig, PLX_POOL_DELETE, w.m[i].name, NULL, 0);
        free(w.m[i].data);
    }
    rig_settle(&w.rig);
    assert_int_equal(rig_check(&w.rig), 0); /* not a unit is lost */
    rig_look(&w.rig);
    rig_end(&w.rig);
}

static void test_anything(void **state)
{
    const char *seed = getenv("POLLUX_SEED"), *rounds = getenv("POLLUX_ROUNDS");
    (void)state;
    rig_simulate(true); /* so that nothing is waited for */
    for (int i = 0; i < (rounds ? (int)strtol(rounds, NULL, 10) : 6); i++)
        check_world("ram:256M", (seed ? strtoull(seed, NULL, 10) : 1) + (unsigned)i, 100);
    rig_simulate(false);
}

/* The last ones are for what is deleted, of which there is no end. */
static void test_the_last_instant(void **state)
{
    uint8_t *data = tu_pattern(4096, 1);
    struct pool_rig rig;
    struct tu t;
    (void)state;
    rig_make(&rig, "ram:8M", NULL);
    rig_create(&rig, "v", 1 << 20);
    rig_do(&rig, PLX_POOL_SNAPSHOT, "v", "s", 0);
    rig.pool->instant = UINT32_MAX - 1;
    for (unsigned i = 0; i < 3; i++) {
        rig_create(&rig, "w", 4 << 20);
        rig_open(&rig, "w", &t);
        for (unsigned at = 0; at < 8192; at += 2048)
            assert_int_equal(rig_io(&t, PLX_BDEV_WRITE, at, 8, data), 0);
        rig_close(&rig, &t);
        assert_int_equal(rig_try(&rig, PLX_POOL_SNAPSHOT, "v", "t", 0), -ENOSPC);
        assert_int_equal(rig_try(&rig, PLX_POOL_REVERT, "v", "s", 0), -ENOSPC);
        rig.pool->job_steps = 1;
        rig_do(&rig, PLX_POOL_DELETE, "w", NULL, 0);
        rig_look(&rig); /* while it is being freed */
        rig_settle(&rig);
        rig_reopen(&rig);
        assert_int_equal(rig.pool->instant, UINT32_MAX);
    }
    rig_check(&rig);
    rig_check_outside(&rig);
    rig_end(&rig);
    free(data);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_made_and_opened),
        cmocka_unit_test(test_no_pool),
        cmocka_unit_test(test_written_and_read),
        cmocka_unit_test(test_memory_in_pieces),
        cmocka_unit_test(test_snapshot_keeps),
        cmocka_unit_test(test_freed_units_are_read_in_peace),
        cmocka_unit_test(test_writes_of_before_a_snapshot_are_not_left_behind),
        cmocka_unit_test(test_holders_are_told),
        cmocka_unit_test(test_full_waits_for_space),
        cmocka_unit_test(test_full_ends_with_capacity_exceeded),
        cmocka_unit_test(test_thick_has_its_space),
        cmocka_unit_test(test_anything),
        cmocka_unit_test(test_what_was_there_is_gone),
        cmocka_unit_test(test_names_of_pools),
        cmocka_unit_test(test_freeing_is_told),
        cmocka_unit_test_setup_teardown(test_one_pool_for_all_volumes, tu_make_file, tu_remove_file),
        cmocka_unit_test(test_pool_is_renamed),
        cmocka_unit_test(test_frozen),
        cmocka_unit_test(test_not_opened_meanwhile),
        cmocka_unit_test(test_who_goes_back_to_whom),
        cmocka_unit_test(test_name_that_is_a_uuid),
        cmocka_unit_test(test_erased),
        cmocka_unit_test(test_the_last_instant),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rig_checksums(true);
    return failed + cmocka_run_group_tests_name("with checksums", tests, NULL, NULL);
}
