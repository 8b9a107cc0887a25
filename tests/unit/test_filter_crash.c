/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A disk whose power is cut keeps what it has promised, and of the rest what it may: by chance, judged by the oracle,
 * with all requests of a life on one reactor in simulated time; and one case after the other. One that lies is caught.
 */
#include "bdev_util.h"
#include "oracle.h"

#include <errno.h>
#include <pollux/bdev_filter.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "bdev/filter/crash.h"
#include "reactor/clock.h"

enum { OFF = PLX_SC_INVALID_NAMESPACE_OR_FORMAT, MAX_BYTES = 8 * 4096 };

static uint64_t simulated_ns;

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

static struct plx_reactor *other; /* on this thread too; or NULL */

/* Rounds until there is nothing to do but to wait; then time moves on. @return false when there is nothing to wait for
 */
static bool step(struct plx_reactor *r)
{
    while (plx_reactor_poll(r) + (other ? plx_reactor_poll(other) : 0))
        ;
    int64_t timeout = plx_reactor_timeout(r), too = other ? plx_reactor_timeout(other) : -1;
    if (timeout < 0 || (too >= 0 && too < timeout))
        timeout = too;
    if (timeout > 0)
        simulated_ns += (uint64_t)timeout;
    return timeout >= 0;
}

static void settle(struct plx_reactor *r)
{
    while (step(r))
        ;
}

static struct plx_crash_state look(struct plx_bdev *bdev)
{
    struct plx_crash_state s;
    plx_crash_look(bdev, &s);
    return s;
}

static void restore(struct plx_bdev *bdev)
{
    struct plx_error err;
    if (plx_bdev_crash_restore(bdev, &err))
        fail_msg("%s", err.text);
}

static void cut(struct tu *t)
{
    assert_int_equal(plx_bdev_crash_cut(t->bdev, NULL), 0);
    settle(t->reactor);
    assert_true(look(t->bdev).settled);
}

/* ---- lives by chance ---- */

enum { DEPTH = 8 };

struct life;

struct slot {
    struct life *l;
    struct plx_bdev_req req __attribute__((aligned(16)));
    struct iovec iov;
    bool busy;
    uint64_t known; /* to the oracle */
    uint8_t data[MAX_BYTES];
};

struct life {
    struct tu t, too; /* with a reactor of its own, if there are to be two */
    struct oracle *o;
    uint64_t seed, serial;
    uint8_t *image;
    unsigned lost, kept; /* blocks that have not, or have changed */
    struct oracle_finding f;
    struct slot slots[DEPTH];
};

/* What nobody ever wrote before. */
static void fill(struct life *l, uint8_t *data, size_t bytes)
{
    uint64_t word = ++l->serial << 24;
    for (size_t at = 0; at < bytes; at += sizeof word, word++)
        memcpy(data + at, &word, sizeof word);
}

static void life_done(struct plx_bdev_req *req)
{
    struct slot *s = plx_container_of(req, struct slot, req);
    struct life *l = s->l;
    struct oracle_finding f;
    assert_true(s->busy);
    assert_true(!req->status || req->status == OFF);
    s->busy = false;
    if (req->op != PLX_BDEV_READ || req->status)
        oracle_done(l->o, s->known, !req->status);
    else if (!oracle_read_done(l->o, s->known, req->lba, req->nlb, s->data, &f) && !l->f.what)
        l->f = f;
}

static void life_request(struct life *l, struct slot *s)
{
    const uint32_t size = l->t.info->block_size, dice = tu_random(&l->seed) % 100;
    struct plx_bdev_req *r = &s->req;
    bool fua = dice < 10;
    r->nlb = 1 + tu_random(&l->seed) % (MAX_BYTES / size);
    r->lba = tu_random(&l->seed) % (l->t.info->blocks - r->nlb + 1);
    r->op = dice < 50   ? PLX_BDEV_WRITE
            : dice < 55 ? PLX_BDEV_WRITE_ZEROES
            : dice < 60 ? PLX_BDEV_UNMAP
            : dice < 80 ? PLX_BDEV_READ
                        : PLX_BDEV_FLUSH;
    r->flags = fua ? PLX_BDEV_FUA : 0;
    s->iov = (struct iovec){s->data, (size_t)r->nlb * size};
    if (r->op == PLX_BDEV_WRITE)
        fill(l, s->data, s->iov.iov_len);
    s->known = r->op == PLX_BDEV_WRITE          ? oracle_write(l->o, r->lba, r->nlb, s->data, fua)
               : r->op == PLX_BDEV_WRITE_ZEROES ? oracle_zeroes(l->o, r->lba, r->nlb, fua)
               : r->op == PLX_BDEV_UNMAP        ? oracle_discard(l->o, r->lba, r->nlb)
               : r->op == PLX_BDEV_READ         ? oracle_read(l->o)
                                                : oracle_flush(l->o);
    s->busy = true;
    plx_bdev_submit(l->too.ch && (s - l->slots) % 2 ? l->too.ch : l->t.ch, r);
}

static bool life_busy(const struct life *l)
{
    bool busy = false;
    for (unsigned i = 0; i < DEPTH; i++)
        busy |= l->slots[i].busy;
    return busy;
}

static struct life *life_new(const char *url, unsigned flags, unsigned reactors)
{
    struct life *l = calloc(1, sizeof *l);
    assert_non_null(l);
    tu_open(&l->t, url);
    if (reactors > 1)
        tu_join(&l->too, l->t.bdev);
    other = l->too.reactor;
    l->o = oracle_new(l->t.info->blocks, l->t.info->block_size, flags);
    l->image = calloc(2, l->t.info->blocks * l->t.info->block_size);
    assert_non_null(l->image);
    for (unsigned i = 0; i < DEPTH; i++) {
        l->slots[i].l = l;
        l->slots[i].req.done = life_done;
        l->slots[i].req.iov = &l->slots[i].iov;
        l->slots[i].req.iovcnt = 1;
    }
    return l;
}

static void life_free(struct life *l)
{
    oracle_free(l->o);
    if (other)
        tu_leave(&l->too);
    other = NULL;
    tu_close(&l->t);
    free(l->image);
    free(l);
}

static void life_read(struct life *l, uint8_t *out)
{
    struct tu_req q;
    tu_req_init(&q);
    tu_start(&l->t, &q, PLX_BDEV_READ, 0, (uint32_t)l->t.info->blocks, out);
    while (!q.done)
        step(l->t.reactor);
    assert_int_equal(q.req->status, 0);
    tu_req_free(&q);
}

/* From power to the next, and what is there then. @return whether the oracle has found nothing */
static bool live(struct life *l, uint64_t seed)
{
    const size_t bytes = (size_t)(l->t.info->blocks * l->t.info->block_size);
    const uint32_t size = l->t.info->block_size;
    uint8_t *now = l->image + bytes;
    l->seed = seed;
    l->f.what = ORACLE_FINE;
    plx_crash_seed(l->t.bdev, seed + 1);
    plx_crash_arm(l->t.bdev, 0, 1 + tu_random(&l->seed) % 40);
    while (!look(l->t.bdev).off) {
        unsigned n = 1 + tu_random(&l->seed) % 3;
        for (unsigned i = 0; i < n && !look(l->t.bdev).off; i++) {
            struct slot *s = &l->slots[tu_random(&l->seed) % DEPTH];
            if (!s->busy)
                life_request(l, s);
        }
        step(l->t.reactor);
    }
    while (life_busy(l) || !look(l->t.bdev).settled)
        step(l->t.reactor);
    restore(l->t.bdev);
    life_read(l, now);
    for (size_t at = 0; at < bytes; at += size)
        *(memcmp(now + at, l->image + at, size) ? &l->kept : &l->lost) += 1;
    if (!l->f.what)
        oracle_check(l->o, 0, (uint32_t)l->t.info->blocks, now, &l->f);
    memcpy(l->image, now, bytes);
    oracle_restart(l->o, now);
    return !l->f.what;
}

static const struct {
    const char *url;
    unsigned flags, lives, reactors;
} honest[] = {
    {"crash:ram:32K", ORACLE_DISCARD_ZEROES, 5000, 1},
    {"crash:ram:32K?latency=100us", ORACLE_DISCARD_ZEROES, 5000, 1},
    {"crash:ram:32K?torn=none&latency=1ms&memory=64K", ORACLE_DISCARD_ZEROES, 2000, 1},
    {"crash:[ram:128K?block=4096]?torn=sector&latency=100us", ORACLE_TORN | ORACLE_DISCARD_ZEROES, 2000, 1},
    {"crash:[delay:ram:32K?read=100us&write=50us]?latency=100us", ORACLE_DISCARD_ZEROES, 2000, 1},
    {"crash:[delay:ram:128K?read=100us&write=50us]?memory=64K", ORACLE_DISCARD_ZEROES, 1000, 1},
    {"crash:ram:32K?latency=100us&memory=64K", ORACLE_DISCARD_ZEROES, 2000, 2},
    {"crash:[delay:ram:32K?read=100us&write=50us]?latency=100us", ORACLE_DISCARD_ZEROES, 2000, 2},
    {"crash:error:crash:ram:32K?latency=100us", ORACLE_DISCARD_ZEROES, 500, 1},
};

static void what_was_promised_is_there_after_any_cut(void **state)
{
    (void)state;
    for (size_t i = 0; i < PLX_ARRAY_SIZE(honest); i++) {
        char url[200];
        bool settings = strchr(honest[i].url, '?') && strrchr(honest[i].url, '?') > strrchr(honest[i].url, ':');
        snprintf(url, sizeof url, "%s%cseed=1", honest[i].url, settings ? '&' : '?');
        struct life *l = life_new(url, honest[i].flags, honest[i].reactors);
        for (uint64_t seed = 0; seed < honest[i].lives; seed++)
            if (!live(l, seed))
                fail_msg("%s, life %u: %s", url, (unsigned)seed, l->f.text);
        assert_true(l->lost > honest[i].lives && l->kept > honest[i].lives);
        life_free(l);
    }
}

/* Has the oracle find something, and of this kind. */
static void is_caught(const char *url, unsigned flags, unsigned lives, unsigned kinds)
{
    struct life *l = life_new(url, flags, 1);
    unsigned found = 0, all = 0;
    for (uint64_t seed = 0; seed < lives; seed++)
        if (!live(l, seed)) {
            found |= 1u << l->f.what;
            all++;
        }
    if (found != kinds)
        fail_msg("%s: found are 0x%x, in %u lives of %u", url, found, all, lives);
    life_free(l);
}

static void a_disk_that_lies_is_caught(void **state)
{
    (void)state;
    is_caught("crash:ram:32K?seed=1&lie=1", ORACLE_DISCARD_ZEROES, 300, 1 << ORACLE_LOST | 1 << ORACLE_OLD);
}

static void misdirected_writes_are_caught(void **state)
{
    (void)state;
    is_caught("crash:ram:32K?seed=1&misdirect=20", ORACLE_DISCARD_ZEROES, 500,
              1 << ORACLE_LOST | 1 << ORACLE_OLD | 1 << ORACLE_FOREIGN);
}

static void garbage_is_caught(void **state)
{
    (void)state;
    is_caught("crash:ram:32K?seed=1&garbage=100", ORACLE_DISCARD_ZEROES, 300, 1 << ORACLE_GARBAGE);
}

static void torn_blocks_are_caught(void **state)
{
    (void)state;
    is_caught("crash:[ram:128K?block=4096]?seed=1&torn=sector", ORACLE_DISCARD_ZEROES, 300, 1 << ORACLE_MIXED);
}

static void a_seed_repeats_everything(void **state)
{
    (void)state;
    static uint8_t first[32 << 10];
    unsigned different = 0;
    for (uint64_t seed = 0; seed < 50; seed++) {
        for (int again = 0; again < 3; again++) {
            struct life *l = life_new("crash:ram:32K?seed=1&latency=100us&garbage=100", 0, 1);
            live(l, again == 2 ? seed + 1000 : seed);
            if (again == 1)
                assert_memory_equal(first, l->image, sizeof first);
            different += again == 2 && memcmp(first, l->image, sizeof first);
            memcpy(first, l->image, again ? 0 : sizeof first);
            life_free(l);
        }
    }
    assert_true(different > 40);
}

/* ---- one after the other ---- */

enum { BLOCK = 512 };

/* A disk below that others look at, and the one whose power is cut. */
struct both {
    struct tu below, t;
    uint8_t data[64 * BLOCK];
};

/* The disk whose power is cut, on the same reactor as the one below. */
static void both_open(struct both *b, const char *settings)
{
    struct plx_error err = {""};
    char url[128];
    snprintf(url, sizeof url, "crash:below?seed=7%s", settings);
    b->t.reactor = b->below.reactor;
    if (plx_bdev_open(url, &b->t.bdev, &err))
        fail_msg("%s", err.text);
    b->t.info = plx_bdev_info(b->t.bdev);
    assert_int_equal(plx_bdev_channel_get(b->t.bdev, b->t.reactor, &b->t.ch), 0);
}

static void both_begin(struct both *b, const char *below, const char *settings)
{
    struct plx_error err = {""};
    struct plx_bdev *bdev;
    memset(b, 0, sizeof *b);
    if (plx_bdev_open_as(below, "below", &bdev, &err))
        fail_msg("%s", err.text);
    tu_join(&b->below, bdev);
    both_open(b, settings);
}

static void both_end(struct both *b)
{
    plx_bdev_channel_put(b->t.ch);
    assert_int_equal(plx_bdev_close(b->t.bdev), 0);
    tu_close(&b->below);
}

static uint16_t both_io(struct tu *t, enum plx_bdev_op op, uint8_t flags, uint64_t lba, uint32_t nlb, void *data)
{
    struct tu_req q;
    tu_req_init(&q);
    q.req->flags = flags;
    tu_start(t, &q, op, lba, nlb, data);
    while (!q.done)
        assert_true(step(t->reactor) || q.done);
    uint16_t status = q.req->status;
    tu_req_free(&q);
    return status;
}

/* Writes blocks that hold a number each. */
static void both_put(struct both *b, uint64_t lba, uint32_t nlb, uint8_t value, uint8_t flags)
{
    memset(b->data, value, (size_t)nlb * b->t.info->block_size);
    assert_int_equal(both_io(&b->t, PLX_BDEV_WRITE, flags, lba, nlb, b->data), 0);
}

static void both_flush(struct both *b)
{
    assert_int_equal(both_io(&b->t, PLX_BDEV_FLUSH, 0, 0, 0, NULL), 0);
}

/* Each block begins with one of these, and consists of it. */
static void holds(struct both *b, struct tu *t, uint64_t lba, const char *values)
{
    const uint32_t size = t->info->block_size, n = (uint32_t)strlen(values);
    uint8_t is[17] = {0};
    assert_int_equal(both_io(t, PLX_BDEV_READ, 0, lba, n, b->data), 0);
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *block = b->data + (size_t)i * size;
        assert_memory_equal(block, block + 1, size - 1);
        is[i] = block[0] ? block[0] : '.';
    }
    assert_string_equal((const char *)is, values);
}

static void what_is_written_is_held_back_until_it_is_flushed(void **state)
{
    (void)state;
    struct both b;
    both_begin(&b, "ram:1M", "");
    both_put(&b, 3, 4, 'a', 0);
    both_put(&b, 4, 1, 'b', PLX_BDEV_FUA); /* which brings with it what it lies upon */
    both_put(&b, 9, 2, 'c', 0);
    assert_int_equal(both_io(&b.t, PLX_BDEV_UNMAP, 0, 6, 1, NULL), 0);
    holds(&b, &b.t, 0, "...aba...cc.");
    holds(&b, &b.below, 0, "...abaa.....");
    assert_int_equal(look(b.t.bdev).held, 2);
    both_put(&b, 0, 1, 'd', PLX_BDEV_FUA);
    holds(&b, &b.below, 0, "d..abaa.....");
    both_flush(&b);
    holds(&b, &b.t, 0, "d..aba...cc.");
    holds(&b, &b.below, 0, "d..aba...cc.");
    assert_int_equal(look(b.t.bdev).held, 0);
    /* The core's, by reads and writes. */
    assert_int_equal(tu_copy(&b.t, 5, 0, 1), 0);
    memset(b.data, 'd', BLOCK);
    memset(b.data + BLOCK, 'e', BLOCK);
    assert_int_equal(both_io(&b.t, PLX_BDEV_COMPARE_AND_WRITE, 0, 5, 1, b.data), 0);
    holds(&b, &b.t, 0, "d..abe...cc.");
    holds(&b, &b.below, 0, "d..aba...cc.");
    assert_int_equal(both_io(&b.t, PLX_BDEV_WRITE_ZEROES, PLX_BDEV_FUA, 4, 3, NULL), 0);
    holds(&b, &b.below, 0, "d..a.....cc.");
    both_end(&b);
}

static void a_flush_leaves_what_was_in_flight(void **state)
{
    (void)state;
    struct both b;
    struct tu_req early, late, flush;
    both_begin(&b, "ram:1M", "&latency=1ms");
    both_put(&b, 0, 1, 'a', 0);
    uint8_t one[BLOCK], two[BLOCK];
    memset(one, 'x', BLOCK);
    memset(two, 'y', BLOCK);
    tu_req_init(&early);
    tu_req_init(&late);
    tu_req_init(&flush);
    tu_start(&b.t, &early, PLX_BDEV_WRITE, 1, 1, one);
    tu_start(&b.t, &flush, PLX_BDEV_FLUSH, 0, 0, NULL);
    tu_start(&b.t, &late, PLX_BDEV_WRITE, 2, 1, two);
    while (!flush.done)
        step(b.t.reactor);
    holds(&b, &b.below, 0, "a..");
    holds(&b, &b.t, 0, "axy");
    settle(b.t.reactor);
    assert_true(early.done && late.done);
    both_flush(&b);
    holds(&b, &b.below, 0, "axy");
    tu_req_free(&early);
    tu_req_free(&late);
    tu_req_free(&flush);
    both_end(&b);
}

static void without_power_every_request_fails_and_then_it_is_back(void **state)
{
    (void)state;
    static const enum plx_bdev_op ops[] = {PLX_BDEV_READ, PLX_BDEV_WRITE, PLX_BDEV_FLUSH, PLX_BDEV_UNMAP};
    struct both b;
    struct plx_error err;
    struct tu_req q[4];
    both_begin(&b, "ram:1M", "&latency=1ms");
    both_put(&b, 0, 1, 'a', PLX_BDEV_FUA);
    for (int i = 0; i < 4; i++) {
        tu_req_init(&q[i]);
        tu_start(&b.t, &q[i], ops[i], 1, 1, b.data);
    }
    assert_int_equal(plx_bdev_crash_restore(b.t.bdev, &err), -EALREADY);
    assert_int_equal(plx_bdev_crash_cut(b.t.bdev, &err), 0);
    assert_int_equal(plx_bdev_crash_cut(b.t.bdev, &err), -EALREADY);
    assert_int_equal(plx_bdev_crash_restore(b.t.bdev, &err), -EBUSY);
    const uint64_t now = simulated_ns;
    while (plx_reactor_poll(b.t.reactor))
        ;
    for (int i = 0; i < 4; i++) {
        assert_int_equal(q[i].done, 1);
        assert_int_equal(q[i].req->status, OFF);
        tu_req_free(&q[i]);
        assert_int_equal(both_io(&b.t, ops[i], 0, 1, 1, b.data), OFF);
    }
    assert_int_equal(now, simulated_ns);
    assert_int_equal(both_io(&b.t, PLX_BDEV_ALLOCATED, 0, 0, 0, b.data), PLX_SC_INVALID_OPCODE);
    restore(b.t.bdev);
    both_put(&b, 3, 1, 'd', PLX_BDEV_FUA);
    holds(&b, &b.t, 0, "a");
    holds(&b, &b.below, 3, "d");
    both_end(&b);
}

/* ---- when ---- */

/* Opened once more it has power, and what the cut left. */
static void it_is_cut_at_the_write_that_was_asked_for(void **state)
{
    (void)state;
    static const char *const settings[] = {"&cut_write=3", "&cut_request=5", "&cut_chance=1"};
    for (size_t i = 0; i < PLX_ARRAY_SIZE(settings); i++) {
        struct both b;
        both_begin(&b, "ram:1M", settings[i]);
        for (int n = 1; n < (i == 2 ? 1 : 3); n++)
            both_put(&b, (uint64_t)n, 1, 'a', 0);
        if (i < 2)
            both_flush(&b);
        if (i == 1)
            holds(&b, &b.t, 1, "aa");
        assert_int_equal(both_io(&b.t, PLX_BDEV_WRITE, 0, 9, 1, b.data), OFF);
        struct plx_crash_state s = look(b.t.bdev);
        assert_true(s.off && s.settled);
        assert_int_equal(s.writes, i == 2 ? 1 : 3);
        assert_int_equal(s.requests, i == 0 ? 4 : i == 1 ? 5 : 1);
        assert_int_equal(both_io(&b.t, PLX_BDEV_READ, 0, 1, 1, b.data), OFF);
        plx_bdev_channel_put(b.t.ch);
        assert_int_equal(plx_bdev_close(b.t.bdev), 0);
        both_open(&b, "");
        holds(&b, &b.t, 1, i == 2 ? ".." : "aa");
        both_end(&b);
    }
}

/* ---- chosen by the test ---- */

struct chosen {
    struct plx_crash_write seen[8];
    uint32_t n, kept;
    struct plx_crash_keep keep[8];
};

static uint32_t choose(void *arg, const struct plx_crash_write *writes, uint32_t n, struct plx_crash_keep *keep)
{
    struct chosen *c = arg;
    assert_in_range(n, 1, 8);
    memcpy(c->seen, writes, n * sizeof *writes);
    memcpy(keep, c->keep, c->kept * sizeof *keep);
    c->n = n;
    return c->kept;
}

static void closing_it_or_a_cut_that_nobody_sees_leaves_nothing(void **state)
{
    (void)state;
    struct chosen none = {.kept = 0};
    for (int seen = 0; seen < 2; seen++) {
        struct both b;
        both_begin(&b, "ram:1M", "");
        both_put(&b, 0, 1, 'a', 0);
        plx_bdev_channel_put(b.t.ch);
        if (seen) {
            assert_int_equal(plx_bdev_crash_cut(b.t.bdev, NULL), 0);
            assert_false(look(b.t.bdev).settled);
            restore(b.t.bdev);
            assert_int_equal(plx_bdev_channel_get(b.t.bdev, b.t.reactor, &b.t.ch), 0);
        } else {
            assert_int_equal(plx_bdev_close(b.t.bdev), 0);
            both_open(&b, "");
        }
        holds(&b, &b.t, 0, ".");
        plx_crash_choose(b.t.bdev, choose, &none);
        both_put(&b, 0, 1, 'b', 0); /* and that cut is over */
        both_flush(&b);
        holds(&b, &b.below, 0, "b");
        both_end(&b);
    }
}

static void who_comes_after_a_cut_does_what_it_leaves(void **state)
{
    (void)state;
    struct both b;
    both_begin(&b, "ram:1M", "");
    both_put(&b, 0, 1, 'a', 0);
    plx_bdev_channel_put(b.t.ch);
    assert_int_equal(plx_bdev_crash_cut(b.t.bdev, NULL), 0);
    assert_int_equal(plx_bdev_channel_get(b.t.bdev, b.t.reactor, &b.t.ch), 0);
    settle(b.t.reactor);
    assert_true(look(b.t.bdev).settled);
    both_end(&b);
}

static void a_test_chooses_what_is_left(void **state)
{
    (void)state;
    struct chosen c = {.kept = 3,
                       .keep = {{.write = 2, .units = 0x5}, {.write = 0, .units = 0x6}, {.write = 3, .units = 2}}};
    struct both b;
    struct tu_req q;
    both_begin(&b, "ram:1M", "&latency=1ms");
    plx_crash_choose(b.t.bdev, choose, &c);
    both_put(&b, 0, 12, '-', PLX_BDEV_FUA);
    both_put(&b, 0, 3, 'a', 0);
    both_put(&b, 5, 1, 'b', 0);
    both_put(&b, 1, 4, 'c', 0);
    assert_int_equal(both_io(&b.t, PLX_BDEV_UNMAP, 0, 8, 2, NULL), 0);
    memset(b.data, 'e', BLOCK);
    tu_req_init(&q);
    tu_start(&b.t, &q, PLX_BDEV_WRITE, 10, 1, b.data); /* in flight */
    cut(&b.t);
    assert_int_equal(q.req->status, OFF);
    tu_req_free(&q);
    assert_int_equal(c.n, 5);
    assert_true(c.seen[0].ended && c.seen[3].ended && !c.seen[4].ended);
    assert_true(c.seen[0].data && !c.seen[3].data && c.seen[3].op == PLX_BDEV_UNMAP);
    assert_true(c.seen[2].lba == 1 && c.seen[2].nlb == 4);
    holds(&b, &b.below, 0, "-aac-----.--");
    restore(b.t.bdev);
    holds(&b, &b.t, 0, "-aac-----.--");
    both_end(&b);
}

/* Two writes that overlap: each is left or not, and either lies over the other. */
static void chance_leaves_whatever_may_be_left(void **state)
{
    (void)state;
    static const char *const may_be[] = {"---", "aa-", "b-b", "bab", "aab"};
    unsigned seen[PLX_ARRAY_SIZE(may_be)] = {0};
    struct both b;
    both_begin(&b, "ram:1M", "&torn=none");
    for (uint64_t seed = 1; seed <= 300; seed++) {
        char is[4] = "";
        plx_crash_seed(b.t.bdev, seed);
        both_put(&b, 0, 3, '-', PLX_BDEV_FUA);
        both_put(&b, 1, 2, 'a', 0);
        both_put(&b, 0, 2, 'b', 0);
        cut(&b.t);
        restore(b.t.bdev);
        assert_int_equal(both_io(&b.t, PLX_BDEV_READ, 0, 0, 3, b.data), 0);
        is[0] = (char)b.data[BLOCK];
        is[1] = (char)b.data[2 * BLOCK];
        is[2] = (char)b.data[0];
        size_t i = 0;
        while (i < PLX_ARRAY_SIZE(may_be) && strcmp(is, may_be[i]) != 0)
            i++;
        assert_in_range(i, 0, PLX_ARRAY_SIZE(may_be) - 1);
        seen[i]++;
    }
    for (size_t i = 0; i < PLX_ARRAY_SIZE(may_be); i++)
        assert_in_range(seen[i], 10, 200);
    both_end(&b);
}

/* Every subset of four writes that lie upon each other: each leaves what it should, and the oracle lets all pass. */
static void every_subset_is_left(void **state)
{
    (void)state;
    struct oracle *o = oracle_new(8, BLOCK, 0);
    struct chosen c;
    struct both b;
    both_begin(&b, "ram:1M", "");
    plx_crash_choose(b.t.bdev, choose, &c);
    for (unsigned mask = 0; mask < 16; mask++) {
        struct oracle_finding f;
        uint8_t model[8] = "--------";
        c.kept = 0;
        both_put(&b, 0, 8, '-', PLX_BDEV_FUA);
        oracle_restart(o, b.data);
        for (uint8_t i = 0; i < 4; i++) {
            both_put(&b, i, 3, 'a' + i, 0);
            oracle_done(o, oracle_write(o, i, 3, b.data, false), true);
            if (!(mask >> i & 1))
                continue;
            c.keep[c.kept++] = (struct plx_crash_keep){.write = i, .units = PLX_CRASH_WHOLE};
            memset(model + i, 'a' + i, 3);
        }
        cut(&b.t);
        restore(b.t.bdev);
        assert_int_equal(both_io(&b.t, PLX_BDEV_READ, 0, 0, 8, b.data), 0);
        for (unsigned i = 0; i < 8; i++)
            assert_int_equal(b.data[(size_t)i * BLOCK], model[i]);
        assert_true(oracle_check(o, 0, 8, b.data, &f));
    }
    oracle_free(o);
    both_end(&b);
}

static void blocks_are_torn_at_sectors(void **state)
{
    (void)state;
    enum { SIZE = 4096 };
    struct chosen c = {.kept = 3,
                       .keep = {{.write = 0, .units = 0xfff0, .sectors = true},
                                {.write = 1, .units = 0x01, .sectors = true, .garbage = true},
                                {.write = 2, .units = 0x80, .sectors = true}}};
    struct both b;
    both_begin(&b, "ram:1M?block=4096", "");
    plx_crash_choose(b.t.bdev, choose, &c);
    both_put(&b, 0, 2, '-', PLX_BDEV_FUA);
    both_put(&b, 0, 2, 'a', 0);
    both_put(&b, 1, 1, 'b', 0);
    assert_int_equal(both_io(&b.t, PLX_BDEV_WRITE_ZEROES, 0, 1, 1, NULL), 0);
    cut(&b.t);
    restore(b.t.bdev);
    assert_int_equal(both_io(&b.t, PLX_BDEV_READ, 0, 0, 2, b.data), 0);
    assert_memory_equal(b.data, b.data + 1, SIZE / 2 - 1);
    assert_memory_equal(b.data + SIZE / 2, b.data + SIZE / 2 + 1, SIZE / 2 - 1);
    assert_true(b.data[0] == '-' && b.data[SIZE / 2] == 'a');
    assert_memory_not_equal(b.data + SIZE, b.data + SIZE + 1, BLOCK - 1); /* garbage */
    for (unsigned i = BLOCK; i < SIZE; i++)
        assert_int_equal(b.data[SIZE + i], i < SIZE - BLOCK ? 'a' : 0);
    both_end(&b);
}

static void a_long_write_is_torn_in_64_places(void **state)
{
    (void)state;
    struct chosen c = {.kept = 1, .keep = {{.write = 0, .units = 0xffff0000ffff0001}}};
    struct both b;
    uint8_t *data = tu_pattern(640 * BLOCK, 3), *is = calloc(640, BLOCK);
    assert_non_null(is);
    both_begin(&b, "ram:1M", "");
    plx_crash_choose(b.t.bdev, choose, &c);
    assert_int_equal(both_io(&b.t, PLX_BDEV_WRITE, 0, 5, 640, data), 0);
    cut(&b.t);
    restore(b.t.bdev);
    assert_int_equal(both_io(&b.t, PLX_BDEV_READ, 0, 5, 640, is), 0);
    for (size_t i = 0; i < 640; i++) {
        if (c.keep[0].units >> i / 10 & 1)
            assert_memory_equal(is + i * BLOCK, data + i * BLOCK, BLOCK);
        else
            assert_true(tu_zeroed(is + i * BLOCK, BLOCK));
    }
    free(data);
    free(is);
    both_end(&b);
}

/* ---- other faults ---- */

static void latent_errors_are_there_until_the_block_is_written(void **state)
{
    (void)state;
    struct both b;
    unsigned bad = 0;
    both_begin(&b, "ram:1M", "&latent=100");
    for (uint64_t lba = 0; lba < 2048; lba++) {
        uint16_t status = both_io(&b.t, PLX_BDEV_READ, 0, lba, 1, b.data);
        assert_int_equal(both_io(&b.t, PLX_BDEV_READ, 0, lba, 1, b.data), status);
        if (!status)
            continue;
        assert_int_equal(status, PLX_SC_UNRECOVERED_READ_ERROR);
        bad++;
        both_put(&b, lba, 1, 'a', 0);
        holds(&b, &b.t, lba, "a");
        both_flush(&b);
        holds(&b, &b.t, lba, "a");
    }
    assert_in_range(bad, 100, 300);
    both_end(&b);
}

static void what_is_held_back_is_bounded(void **state)
{
    (void)state;
    struct both b;
    both_begin(&b, "ram:1M", "&memory=64K");
    for (uint64_t lba = 0; lba < 1000; lba++) {
        both_put(&b, lba, 1, 'a', 0);
        assert_in_range(look(b.t.bdev).held, 1, 127);
    }
    assert_in_range(look(b.t.bdev).held, 90, 127); /* and the oldest are below */
    holds(&b, &b.below, 868, "aaaa");
    holds(&b, &b.below, 996, "....");
    holds(&b, &b.t, 996, "aaaa.");
    uint8_t *data = tu_pattern(512 << 10, 3); /* one there may always be */
    assert_int_equal(both_io(&b.t, PLX_BDEV_WRITE, 0, 0, 1024, data), 0);
    assert_int_equal(look(b.t.bdev).held, 1);
    free(data);
    both_end(&b);
}

static void settings_that_make_no_sense_are_refused(void **state)
{
    (void)state;
    struct plx_bdev *bdev;
    struct plx_error err;
    tu_refused("crash:ram:1M?torn=page", "at a block or a sector, or none");
    tu_refused("crash:ram:1M?cut=1", "there is no setting cut=");
    tu_refused("crash:ram:1M?seed=0", "a number from 1 to");
    tu_refused("crash:ram:1M?garbage=1001", "from 0 to 1000");
    tu_refused("crash:ram:1M?lie=yes", "0 or 1");
    tu_refused("crash:ram:1M?memory=1K", "64K or more");
    tu_refused("crash:ram:1M?latency=1", "a number of us, ms or s");
    tu_refused("crash:", "names no disk to stand on");
    assert_int_equal(plx_bdev_open("ram:1M", &bdev, NULL), 0);
    assert_int_equal(plx_bdev_crash_cut(bdev, &err), -EINVAL);
    assert_non_null(strstr(err.text, "crash:DISK"));
    assert_int_equal(plx_bdev_crash_restore(bdev, &err), -EINVAL);
    assert_int_equal(plx_bdev_close(bdev), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_promised_is_there_after_any_cut),
        cmocka_unit_test(a_disk_that_lies_is_caught),
        cmocka_unit_test(misdirected_writes_are_caught),
        cmocka_unit_test(garbage_is_caught),
        cmocka_unit_test(torn_blocks_are_caught),
        cmocka_unit_test(a_seed_repeats_everything),
        cmocka_unit_test(what_is_written_is_held_back_until_it_is_flushed),
        cmocka_unit_test(a_flush_leaves_what_was_in_flight),
        cmocka_unit_test(without_power_every_request_fails_and_then_it_is_back),
        cmocka_unit_test(it_is_cut_at_the_write_that_was_asked_for),
        cmocka_unit_test(closing_it_or_a_cut_that_nobody_sees_leaves_nothing),
        cmocka_unit_test(who_comes_after_a_cut_does_what_it_leaves),
        cmocka_unit_test(a_test_chooses_what_is_left),
        cmocka_unit_test(chance_leaves_whatever_may_be_left),
        cmocka_unit_test(every_subset_is_left),
        cmocka_unit_test(blocks_are_torn_at_sectors),
        cmocka_unit_test(a_long_write_is_torn_in_64_places),
        cmocka_unit_test(latent_errors_are_there_until_the_block_is_written),
        cmocka_unit_test(what_is_held_back_is_bounded),
        cmocka_unit_test(settings_that_make_no_sense_are_refused),
    };
    return cmocka_run_group_tests(tests, time_simulated, time_real);
}
