/* SPDX-License-Identifier: BSD-3-Clause */
/* Rate limits of disks: in simulated time how much goes and what waits, and on threads that limits may change. */
#include "bdev_util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bdev/core.h"
#include "filters.h"
#include "reactor/clock.h"
#include "test_disk.h"

enum { BLOCK = 4096, REACTORS = 2, DEPTH = 256, DEPTH_MAX = 2048 };

#define TICK (200 * PLX_NS_PER_US) /* a round of a reactor that has much to do */
#define LIMITS(...) (&(const struct plx_bdev_limits){__VA_ARGS__})

/* cmocka's assertions are for its own thread. */
#define must(what) ((what) ? (void)0 : (fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #what), abort()))

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

/* Time passes, from one timer to the next. */
static void pass(struct tu *t, unsigned n, uint64_t ns)
{
    const uint64_t end = simulated_ns + ns;
    for (uint64_t next = 0; next < end; simulated_ns = next) {
        next = end;
        for (unsigned i = 0; i < n; i++) {
            while (plx_reactor_poll(t[i].reactor))
                ;
            int64_t timeout = plx_reactor_timeout(t[i].reactor);
            next = timeout < 0 ? next : plx_min_u64(next, simulated_ns + plx_max_u64((uint64_t)timeout, 1));
        }
    }
}

static void set_limits(struct plx_bdev *bdev, const struct plx_bdev_limits *limits)
{
    assert_int_equal(plx_bdev_set_limits(bdev, limits, NULL), 0);
}

/* ---- loads: requests that are submitted anew when they have ended ---- */

struct load {
    struct tu *t;
    enum plx_bdev_op op;
    unsigned depth;
    uint32_t nlb;
    uint64_t done;
    struct tu_req reqs[DEPTH_MAX];
};

static uint8_t data[64 * BLOCK];

static struct load *load_new(struct tu *t, enum plx_bdev_op op, unsigned depth, uint32_t nlb)
{
    struct load *l = calloc(1, sizeof *l);
    assert_non_null(l);
    *l = (struct load){.t = t, .op = op, .depth = depth, .nlb = nlb};
    for (unsigned i = 0; i < depth; i++) {
        tu_req_init(&l->reqs[i]);
        tu_start(t, &l->reqs[i], op, 0, nlb, data);
    }
    return l;
}

static void load_go_on(struct load *l, bool again)
{
    for (unsigned i = 0; i < l->depth; i++) {
        if (!l->reqs[i].done)
            continue;
        assert_int_equal(l->reqs[i].req->status, 0);
        l->done++;
        l->reqs[i].done = 0;
        if (again)
            tu_start(l->t, &l->reqs[i], l->op, 0, l->nlb, data);
    }
}

static void loads_run(struct load *const *loads, unsigned n, uint64_t ns)
{
    for (uint64_t end = simulated_ns + ns; simulated_ns < end; simulated_ns += TICK) {
        for (unsigned i = 0; i < n; i++) {
            load_go_on(loads[i], true);
            while (plx_reactor_poll(loads[i]->t->reactor))
                ;
        }
    }
}

static void load_free(struct load *l)
{
    for (unsigned i = 0; i < l->depth; i++)
        tu_req_free(&l->reqs[i]);
    free(l);
}

static void within(uint64_t is, uint64_t wanted, unsigned percent)
{
    if (is * 100 < wanted * (100 - percent) || is * 100 > wanted * (100 + percent))
        fail_msg("%llu, not %llu", (unsigned long long)is, (unsigned long long)wanted);
}

/* A disk on two reactors, with a load on each. */
struct pair {
    struct tu t[REACTORS];
    struct load *loads[REACTORS];
};

static void pair_open(struct pair *p, const char *url, const struct plx_bdev_limits *limits, enum plx_bdev_op op,
                      uint32_t nlb)
{
    tu_open(&p->t[0], url);
    tu_join(&p->t[1], p->t[0].bdev);
    set_limits(p->t[0].bdev, limits);
    for (unsigned i = 0; i < REACTORS; i++)
        p->loads[i] = load_new(&p->t[i], op, DEPTH, nlb);
}

static uint64_t pair_done(struct pair *p, uint64_t ns)
{
    p->loads[0]->done = p->loads[1]->done = 0;
    loads_run(p->loads, REACTORS, ns);
    return p->loads[0]->done + p->loads[1]->done;
}

static void pair_close(struct pair *p)
{
    set_limits(p->t[0].bdev, LIMITS(0));
    pass(p->t, REACTORS, 100 * PLX_NS_PER_MS);
    for (unsigned i = 0; i < REACTORS; i++) {
        load_go_on(p->loads[i], false);
        load_free(p->loads[i]);
    }
    tu_leave(&p->t[1]);
    tu_close(&p->t[0]);
}

/* ---- how much goes ---- */

static void all_reactors_together_have_the_rate(void **state)
{
    (void)state;
    static const uint64_t rates[] = {100, 20000, 1000000};
    for (size_t i = 0; i < PLX_ARRAY_SIZE(rates); i++) {
        struct pair p;
        pair_open(&p, "null:1T?block=4096", LIMITS(.write_ios = rates[i]), PLX_BDEV_WRITE, 1);
        uint64_t seconds = i < 2 ? 5 : 1;
        within(pair_done(&p, seconds * PLX_NS_PER_S), seconds * rates[i], 3);
        within(p.loads[0]->done, seconds * rates[i] / 2, 10);
        pair_close(&p);
    }
}

static void bytes_are_limited_however_many_requests_they_are(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {1, 64};
    for (size_t i = 0; i < PLX_ARRAY_SIZE(sizes); i++) {
        struct pair p;
        pair_open(&p, "null:1T?block=4096", LIMITS(.bytes = 10000 * BLOCK), PLX_BDEV_WRITE, sizes[i]);
        within(pair_done(&p, 5 * PLX_NS_PER_S) * sizes[i], 5 * 10000, 3);
        pair_close(&p);
    }
}

static void a_change_holds_for_what_waits(void **state)
{
    (void)state;
    struct pair p;
    pair_open(&p, "null:1T?block=4096", LIMITS(.ios = 1), PLX_BDEV_WRITE, 1);
    assert_true(pair_done(&p, PLX_NS_PER_S / 2) <= 1);
    set_limits(p.t[0].bdev, LIMITS(.ios = 1000));
    assert_true(pair_done(&p, 100 * PLX_NS_PER_MS) >= 40);
    within(pair_done(&p, 5 * PLX_NS_PER_S), 5000, 3);
    set_limits(p.t[0].bdev, LIMITS(.write_ios = 100));
    assert_true(pair_done(&p, 100 * PLX_NS_PER_MS) <= 10 + 2);
    within(pair_done(&p, 5 * PLX_NS_PER_S), 500, 3);
    set_limits(p.t[0].bdev, LIMITS(.read_ios = 1, .read_bytes = 1));
    assert_true(pair_done(&p, 100 * PLX_NS_PER_MS) > 50000); /* all, in every round */
    pair_close(&p);
}

static void limits_are_told_as_they_were_set(void **state)
{
    (void)state;
    struct plx_bdev_limits is = {.ios = 9}, set = {1, 2, 3, 4, 5, 6, 7};
    struct plx_error err = {""};
    struct tu t;
    tu_open(&t, "ram:1M");
    plx_bdev_get_limits(t.bdev, &is);
    assert_true(tu_zeroed(&is, sizeof is));
    set_limits(t.bdev, &set);
    assert_int_equal(plx_bdev_set_limits(t.bdev, LIMITS(.burst_ms = PLX_BDEV_BURST_MS_MAX + 1), &err), -EINVAL);
    assert_non_null(strstr(err.text, "10000 ms, not 10001"));
    plx_bdev_get_limits(t.bdev, &is);
    assert_memory_equal(&is, &set, offsetof(struct plx_bdev_limits, burst_ms) + sizeof is.burst_ms);
    tu_close(&t);
}

/* ---- what waits, and what does not ---- */

static void neither_reads_nor_writes_stand_behind_the_other(void **state)
{
    (void)state;
    struct tu t;
    struct tu_req r[2], w;
    tu_open(&t, "ram:1M?block=4096");
    set_limits(t.bdev, LIMITS(.read_ios = 1, .write_ios = 1000));
    for (int i = 0; i < 2; i++) {
        tu_req_init(&r[i]);
        tu_start(&t, &r[i], PLX_BDEV_READ, 0, 1, data);
    }
    tu_req_init(&w);
    tu_start(&t, &w, PLX_BDEV_WRITE, 0, 1, data);
    assert_true(r[0].done && !r[1].done && w.done);
    pass(&t, 1, PLX_NS_PER_S + PLX_NS_PER_MS);
    assert_int_equal(r[1].done, 1);
    for (int i = 0; i < 2; i++)
        tu_req_free(&r[i]);
    tu_req_free(&w);
    tu_close(&t);
}

/* @return whether two in a row are at once */
static bool twice_at_once(struct tu *t, enum plx_bdev_op op)
{
    struct tu_req q[2];
    for (int i = 0; i < 2; i++) {
        tu_req_init(&q[i]);
        tu_start(t, &q[i], op, 0, 1, data);
    }
    bool both = q[0].done && q[1].done;
    for (int i = 0; i < 2; i++) {
        while (!q[i].done)
            pass(t, 1, TICK);
        assert_int_equal(q[i].req->status, 0);
        tu_req_free(&q[i]);
    }
    return both;
}

static void only_what_moves_data_is_limited(void **state)
{
    (void)state;
    static const enum plx_bdev_op reads[] = {PLX_BDEV_READ, PLX_BDEV_COMPARE, PLX_BDEV_VERIFY},
                                  writes[] = {PLX_BDEV_WRITE, PLX_BDEV_COMPARE_AND_WRITE, PLX_BDEV_COPY},
                                  others[] = {PLX_BDEV_WRITE_ZEROES, PLX_BDEV_UNMAP, PLX_BDEV_FLUSH, PLX_BDEV_RESET};
    struct plx_bdev *below, *plain;
    struct tu t, top;
    tu_open(&t, "ram:1M?block=4096");
    for (int k = 0; k < 2; k++) {
        set_limits(t.bdev, k ? LIMITS(.read_bytes = BLOCK) : LIMITS(.write_bytes = BLOCK));
        for (size_t i = 0; i < PLX_ARRAY_SIZE(reads); i++)
            assert_int_equal(twice_at_once(&t, reads[i]), !k);
        for (size_t i = 0; i < PLX_ARRAY_SIZE(writes); i++)
            assert_int_equal(twice_at_once(&t, writes[i]), k);
        for (size_t i = 0; i < PLX_ARRAY_SIZE(others); i++)
            assert_true(twice_at_once(&t, others[i]));
    }
    tu_close(&t);
    assert_int_equal(plx_bdev_open("ram:1M?block=4096", &below, NULL), 0);
    plain = filter_plain_new(below); /* above which zeroes are written */
    tu_join(&top, plain);
    set_limits(plain, LIMITS(.ios = 1));
    assert_false(twice_at_once(&top, PLX_BDEV_WRITE_ZEROES));
    tu_leave(&top);
    plx_bdev_close(plain);
    plx_bdev_close(below);
}

static void what_may_go_goes_in_several_rounds(void **state)
{
    (void)state;
    struct load *l;
    struct tu t;
    tu_open(&t, "null:1T?block=4096");
    set_limits(t.bdev, LIMITS(.ios = 1));
    l = load_new(&t, PLX_BDEV_WRITE, DEPTH_MAX, 1);
    set_limits(t.bdev, LIMITS(0));
    simulated_ns += PLX_NS_PER_S;
    for (unsigned round = 1; round <= 4; round++) {
        plx_reactor_poll(t.reactor);
        load_go_on(l, false);
        within(l->done, round * DEPTH_MAX / 4, 10);
        simulated_ns += PLX_NS_PER_US;
    }
    pass(&t, 1, PLX_NS_PER_MS);
    load_free(l);
    tu_close(&t);
}

/* A disk of which the first request went, and the second waits for an hour. */
struct stuck {
    struct tu t;
    struct test_disk *disk;
    struct plx_bdev *top; /* or the disk itself */
    struct tu_req q[2];
};

static void stuck_open(struct stuck *s, struct plx_bdev *(*filter)(struct plx_bdev *below))
{
    s->disk = test_disk_new();
    s->top = filter ? filter(&s->disk->bdev) : &s->disk->bdev;
    tu_join(&s->t, s->top);
    set_limits(&s->disk->bdev, LIMITS(.bytes = 1));
    for (int i = 0; i < 2; i++) {
        tu_req_init(&s->q[i]);
        tu_start(&s->t, &s->q[i], PLX_BDEV_WRITE, 2047, 1, data);
    }
    pass(&s->t, 1, 400 * PLX_NS_PER_S);
    assert_int_equal(s->disk->seen, 1);
}

static void stuck_close(struct stuck *s)
{
    for (int i = 0; i < 2; i++) {
        assert_int_equal(s->q[i].done, 1);
        tu_req_free(&s->q[i]);
    }
    tu_leave(&s->t);
    if (s->top != &s->disk->bdev)
        plx_bdev_close(s->top);
    plx_bdev_close(&s->disk->bdev);
}

static void what_waits_can_be_aborted(void **state)
{
    (void)state;
    struct stuck s;
    for (int filtered = 0; filtered < 2; filtered++) {
        stuck_open(&s, filtered ? filter_pass_new : NULL);
        plx_bdev_abort(s.t.ch, s.q[1].req);
        assert_int_equal(s.q[1].done, 1);
        assert_int_equal(s.q[1].req->status, PLX_SC_ABORTED_BY_REQUEST);
        assert_int_equal(s.disk->aborts, 0);
        assert_int_equal(plx_reactor_timeout(s.t.reactor), -1); /* nothing waits */
        assert_true(test_disk_end(s.disk, 0));
        stuck_close(&s);
    }
}

static void what_waits_ends_at_a_reset(void **state)
{
    (void)state;
    struct stuck s;
    for (int filtered = 0; filtered < 2; filtered++) {
        struct tu_req reset;
        stuck_open(&s, filtered ? filter_pass_new : NULL);
        tu_req_init(&reset);
        tu_start(&s.t, &reset, PLX_BDEV_RESET, 0, 0, NULL);
        assert_int_equal(reset.done, 1);
        assert_int_equal(s.q[1].req->status, PLX_SC_ABORTED_BY_REQUEST);
        tu_req_free(&reset);
        stuck_close(&s);
    }
}

static void what_waits_ends_when_its_disk_is_gone_or_smaller(void **state)
{
    (void)state;
    struct stuck s;
    for (int gone = 0; gone < 2; gone++) {
        stuck_open(&s, NULL);
        if (gone)
            plx_bdev_gone(&s.disk->bdev, "the test has it so");
        else
            plx_bdev_resized(&s.disk->bdev, 2047);
        pass(&s.t, 1, 100 * PLX_NS_PER_MS);
        assert_int_equal(s.q[1].done, 1);
        assert_int_equal(s.q[1].req->status, gone ? PLX_SC_INVALID_NAMESPACE_OR_FORMAT : PLX_SC_LBA_OUT_OF_RANGE);
        assert_int_equal(s.disk->seen, 1);
        assert_true(test_disk_end(s.disk, 0));
        stuck_close(&s);
    }
}

static void what_cannot_wait_does_not_and_is_counted(void **state)
{
    (void)state;
    struct tu t;
    struct tu_req q[2];
    tu_open(&t, "ram:1M?block=4096");
    assert_true(t.info->in_place);
    set_limits(t.bdev, LIMITS(.write_ios = 10));
    assert_false(t.info->in_place);
    for (int i = 0; i < 10; i++)
        assert_int_equal(tu_io_flags(&t, PLX_BDEV_WRITE, PLX_BDEV_IN_PLACE, 0, 1, data), 0);
    for (int i = 0; i < 2; i++) {
        tu_req_init(&q[i]);
        tu_start(&t, &q[i], PLX_BDEV_WRITE, 0, 1, data);
    }
    pass(&t, 1, 990 * PLX_NS_PER_MS);
    assert_false(q[0].done);
    pass(&t, 1, 20 * PLX_NS_PER_MS);
    assert_true(q[0].done && !q[1].done);
    set_limits(t.bdev, LIMITS(0));
    assert_true(t.info->in_place);
    pass(&t, 1, 60 * PLX_NS_PER_MS);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(q[i].done, 1);
        tu_req_free(&q[i]);
    }
    tu_close(&t);
}

/* ---- layers ---- */

static void each_layer_has_limits_of_its_own(void **state)
{
    (void)state;
    for (int lower = 0; lower < 2; lower++) {
        struct plx_bdev *below, *top;
        struct load *load;
        struct tu t;
        assert_int_equal(plx_bdev_open("null:1T?block=4096", &below, NULL), 0);
        top = filter_halve_new(below, 64);
        assert_non_null(top);
        tu_join(&t, top);
        set_limits(lower ? below : top, LIMITS(.ios = 1000)); /* two below are one above */
        set_limits(lower ? top : below, LIMITS(.ios = 10000));
        load = load_new(&t, PLX_BDEV_WRITE, 16, 2);
        loads_run(&load, 1, 2 * PLX_NS_PER_S);
        within(load->done, lower ? 1000 : 2000, 3);
        set_limits(below, LIMITS(0));
        set_limits(top, LIMITS(0));
        pass(&t, 1, 200 * PLX_NS_PER_MS);
        load_free(load);
        tu_leave(&t);
        plx_bdev_close(top);
        plx_bdev_close(below);
    }
}

static void lent_reads_are_limited_too(void **state)
{
    (void)state;
    struct plx_bdev *below, *middle, *top;
    struct tu t;
    assert_int_equal(plx_bdev_open("null:1T?block=4096", &below, NULL), 0);
    middle = filter_pass_new(below);
    top = filter_pass_new(middle);
    tu_join(&t, top);
    struct plx_bdev *const disks[] = {below, middle, top};
    for (int i = 0; i < 3; i++) {
        const void *lent = plx_bdev_map(t.ch, 5, 1);
        assert_non_null(lent);
        assert_true(t.info->in_place);
        set_limits(disks[i], LIMITS(.write_ios = 1));
        assert_ptr_equal(plx_bdev_map(t.ch, 5, 1), lent);
        assert_false(t.info->in_place);
        set_limits(disks[i], LIMITS(.bytes = 1));
        assert_null(plx_bdev_map(t.ch, 5, 1));
        assert_ptr_equal(plx_bdev_map_again(t.ch, 5, 1), lent); /* for those that have begun */
        assert_null(plx_bdev_map_again(t.ch, t.info->blocks, 1));
        /* Those that were mapped are read now, and what they read is to be theirs. */
        memset(data, 1, BLOCK);
        assert_int_equal(tu_io(&t, PLX_BDEV_READ, 5, 1, data), 0);
        assert_true(tu_zeroed(data, BLOCK));
        set_limits(disks[i], LIMITS(0));
        assert_true(t.info->in_place);
    }
    set_limits(below, LIMITS(.bytes = 1));
    struct plx_bdev *later = filter_pass_new(top);
    assert_false(plx_bdev_info(later)->in_place);
    set_limits(below, LIMITS(0));
    assert_true(plx_bdev_info(later)->in_place);
    plx_bdev_close(later);
    plx_bdev_gone(below, "the test has it so");
    assert_null(plx_bdev_map_again(t.ch, 5, 1));
    tu_leave(&t);
    for (int i = 2; i >= 0; i--)
        plx_bdev_close(disks[i]);
}

/* A write that waits is not under way, so that a compare and write does not wait for it; but then it may have to. */
static void what_waits_is_not_in_the_way_of_a_compare_and_write(void **state)
{
    (void)state;
    struct test_disk *d = test_disk_new();
    struct plx_bdev *top = filter_plain_new(&d->bdev);
    struct tu t[2];
    struct tu_req w[2], cw;
    static uint8_t both[2 * 512];
    for (int i = 0; i < 2; i++) {
        tu_join(&t[i], top);
        tu_req_init(&w[i]);
    }
    tu_req_init(&cw);
    set_limits(top, LIMITS(.ios = 1));
    tu_start(&t[0], &w[0], PLX_BDEV_WRITE, 100, 1, data);
    tu_start(&t[0], &w[1], PLX_BDEV_WRITE, 0, 1, data);
    pass(t, 2, PLX_NS_PER_MS);
    assert_int_equal(d->seen, 1);
    assert_true(test_disk_end(d, 0));
    cw.req->flags = PLX_BDEV_IN_PLACE; /* at once */
    tu_start(&t[1], &cw, PLX_BDEV_COMPARE_AND_WRITE, 0, 1, both);
    pass(t, 2, PLX_NS_PER_MS);
    assert_int_equal(d->seen, 2); /* its read */
    pass(t, 2, 2 * PLX_NS_PER_S);
    assert_int_equal(d->seen, 2); /* the write may go, but for the compare and write */
    memset(d->first->iov->iov_base, 0, 512);
    assert_true(test_disk_end(d, 0));
    assert_int_equal(d->seen, 3); /* its write */
    assert_true(test_disk_end(d, 0));
    pass(t, 2, PLX_NS_PER_MS);
    assert_int_equal(cw.done, 1);
    assert_int_equal(cw.req->status, 0);
    assert_int_equal(d->seen, 4);
    assert_true(test_disk_end(d, 0));
    for (int i = 0; i < 2; i++) {
        assert_int_equal(w[i].done, 1);
        tu_req_free(&w[i]);
        tu_leave(&t[i]);
    }
    tu_req_free(&cw);
    plx_bdev_close(top);
    plx_bdev_close(&d->bdev);
}

/* ---- on threads ---- */

enum { WORKERS = 3, CHANGES = 300, INFLIGHT = 16 };

static struct worker {
    struct tu t;
    pthread_t thread;
    struct tu_req reqs[INFLIGHT];
    _Atomic uint64_t done;
    uint8_t data[BLOCK];
} workers[WORKERS];

static _Atomic bool storm_over;

/* Submits what has ended anew, unless it is over. @return how many are under way */
static unsigned work_on(struct worker *w, bool over)
{
    unsigned busy = 0;
    for (int i = 0; i < INFLIGHT; i++) {
        if (w->reqs[i].done && !over) {
            must(!w->reqs[i].req->status || w->reqs[i].req->status == PLX_SC_ABORTED_BY_REQUEST);
            w->done++;
            tu_start(&w->t, &w->reqs[i], i % 2 ? PLX_BDEV_WRITE : PLX_BDEV_READ, 0, 1, w->data);
        }
        busy += !w->reqs[i].done;
    }
    return busy;
}

static void *work(void *arg)
{
    struct worker *w = arg;
    for (int i = 0; i < INFLIGHT; i++)
        w->reqs[i].done = 1;
    for (bool over = false; work_on(w, over) || !over;) {
        over = atomic_load(&storm_over);
        if (w->done % 7 == 0 && !w->reqs[3].done)
            plx_bdev_abort(w->t.ch, w->reqs[3].req);
        plx_reactor_poll(w->t.reactor);
    }
    return NULL;
}

static bool all_have_done(uint64_t n)
{
    bool all = true;
    for (int i = 0; i < WORKERS; i++)
        all = all && atomic_load(&workers[i].done) >= n;
    return all;
}

static void limits_change_under_load(void **state)
{
    (void)state;
    struct plx_bdev *bdev;
    uint64_t seed = 1;
    assert_int_equal(plx_bdev_open("null:1T?block=4096", &bdev, NULL), 0);
    alarm(60); /* ends the test: it hangs */
    for (int i = 0; i < WORKERS; i++) {
        tu_join(&workers[i].t, bdev);
        for (int k = 0; k < INFLIGHT; k++)
            tu_req_init(&workers[i].reqs[k]);
        assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (int i = 0; i < CHANGES || !all_have_done(10 * INFLIGHT); i++) {
        uint64_t rate = UINT64_C(1) << tu_random(&seed) % 24;
        struct plx_bdev_limits limits = {.ios = i % 3 ? rate : 0, .read_bytes = i % 4 ? rate << 12 : 0};
        set_limits(bdev, &limits);
        usleep(100);
    }
    set_limits(bdev, LIMITS(0));
    atomic_store(&storm_over, true);
    for (int i = 0; i < WORKERS; i++) {
        pthread_join(workers[i].thread, NULL);
        for (int k = 0; k < INFLIGHT; k++)
            tu_req_free(&workers[i].reqs[k]);
        tu_leave(&workers[i].t);
    }
    alarm(0);
    plx_bdev_close(bdev);
}

#define timed(test) cmocka_unit_test_setup_teardown(test, time_simulated, time_real)

int main(void)
{
    const struct CMUnitTest tests[] = {
        timed(all_reactors_together_have_the_rate),
        timed(bytes_are_limited_however_many_requests_they_are),
        timed(a_change_holds_for_what_waits),
        timed(limits_are_told_as_they_were_set),
        timed(neither_reads_nor_writes_stand_behind_the_other),
        timed(only_what_moves_data_is_limited),
        timed(what_may_go_goes_in_several_rounds),
        timed(what_waits_can_be_aborted),
        timed(what_waits_ends_at_a_reset),
        timed(what_waits_ends_when_its_disk_is_gone_or_smaller),
        timed(what_cannot_wait_does_not_and_is_counted),
        timed(each_layer_has_limits_of_its_own),
        timed(lent_reads_are_limited_too),
        timed(what_waits_is_not_in_the_way_of_a_compare_and_write),
        cmocka_unit_test(limits_change_under_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
