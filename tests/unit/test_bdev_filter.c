/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Layers over disks: filters eight deep, whether they forward requests or take sub-requests, are as the disk below; and
 * what the dispatcher refuses, no layer sees.
 */
#include "bdev_util.h"

#include <stdlib.h>
#include <string.h>

#include "bdev/core.h"
#include "filters.h"
#include "test_disk.h"

enum { DEEP = 8, BLOCK = 512 };

/* ---- a stack ---- */

enum kind { PASS, FORWARD, HALVE };

struct stack {
    struct tu t; /* of the top */
    struct plx_bdev *disks[DEEP + 1];
};

static void pile(struct stack *s, struct plx_bdev *bottom, enum kind kind)
{
    s->disks[0] = bottom;
    for (int i = 0; i < DEEP; i++) {
        struct plx_bdev *below = s->disks[i];
        s->disks[i + 1] = kind == PASS      ? filter_pass_new(below)
                          : kind == FORWARD ? filter_forward_new(below)
                                            : filter_halve_new(below, 4);
        assert_non_null(s->disks[i + 1]);
    }
    tu_join(&s->t, s->disks[DEEP]);
}

static void pile_on(struct stack *s, const char *name, enum kind kind)
{
    struct plx_error err = {""};
    struct plx_bdev *bottom;
    if (plx_bdev_open(name, &bottom, &err))
        fail_msg("%s: %s", name, err.text);
    pile(s, bottom, kind);
}

/* That all reserves are whole again is asserted where channels are put back. */
static void raze(struct stack *s)
{
    tu_leave(&s->t);
    for (int i = DEEP; i >= 0; i--)
        plx_bdev_close(s->disks[i]);
}

/* ---- every operation, on data ---- */

static void check_operations(struct tu *t, bool keeps_data)
{
    enum { N = 64 };
    uint8_t *a = tu_pattern(N * BLOCK, 1), *out = tu_pattern(N * BLOCK, 2), *both = tu_pattern(2 * N * BLOCK, 3);
    static const uint8_t zeroes[N * BLOCK];
    assert_int_equal(tu_io(t, PLX_BDEV_FLUSH, 0, 0, NULL), 0);
    assert_int_equal(tu_io(t, PLX_BDEV_RESET, 0, 0, NULL), 0);
    assert_int_equal(tu_io(t, PLX_BDEV_WRITE, 8, N, a), 0);
    if (keeps_data) {
        assert_int_equal(tu_io(t, PLX_BDEV_READ, 8, N, out), 0);
        assert_memory_equal(a, out, N * BLOCK);
        assert_int_equal(tu_io(t, PLX_BDEV_COMPARE, 8, N, a), 0);
        assert_int_equal(tu_copy(t, 200, 8, N), 0);
        assert_int_equal(tu_io(t, PLX_BDEV_COMPARE, 200, N, a), 0);
        memcpy(both, a, N * BLOCK);
        assert_int_equal(tu_io(t, PLX_BDEV_COMPARE_AND_WRITE, 8, N, both), 0);
        assert_int_equal(tu_io(t, PLX_BDEV_COMPARE, 8, N, both + N * BLOCK), 0);
        assert_int_equal(tu_io_flags(t, PLX_BDEV_WRITE, PLX_BDEV_FUA, 9, 3, a), 0);
        assert_int_equal(tu_io(t, PLX_BDEV_COMPARE, 9, 3, a), 0);
    }
    assert_int_equal(tu_io(t, PLX_BDEV_COMPARE_AND_WRITE, 8, N, both), PLX_SC_COMPARE_FAILURE);
    assert_int_equal(tu_io(t, PLX_BDEV_COMPARE, 8, N, a), PLX_SC_COMPARE_FAILURE);
    assert_int_equal(tu_io(t, PLX_BDEV_WRITE_ZEROES, 8, N, NULL), 0);
    assert_int_equal(tu_io(t, PLX_BDEV_COMPARE, 8, N, (void *)(uintptr_t)zeroes), 0);
    assert_int_equal(tu_io(t, PLX_BDEV_UNMAP, 200, N, NULL), 0);
    if (t->info->unmap_reads_zero)
        assert_int_equal(tu_io(t, PLX_BDEV_COMPARE, 200, N, (void *)(uintptr_t)zeroes), 0);
    assert_int_equal(tu_io(t, PLX_BDEV_READ, t->info->blocks, 1, out), PLX_SC_LBA_OUT_OF_RANGE);
    free(a);
    free(out);
    free(both);
}

static void filters_are_as_the_disk_below(void **state)
{
    (void)state;
    const char *const names[] = {"ram:4M", tu_url, "null:4M"};
    for (size_t i = 0; i < PLX_ARRAY_SIZE(names); i++) {
        for (enum kind kind = PASS; kind <= HALVE; kind++) {
            struct stack s;
            pile_on(&s, names[i], kind);
            const struct plx_bdev_info *below = plx_bdev_info(s.disks[0]);
            assert_int_equal(s.t.info->blocks, below->blocks);
            assert_int_equal(s.t.info->ops, below->ops);
            assert_int_equal(s.t.info->in_place, below->in_place && kind != HALVE);
            check_operations(&s.t, i < 2);
            raze(&s);
        }
    }
}

static void what_a_filter_does_not_offer_is_emulated_above_it(void **state)
{
    (void)state;
    const char *const names[] = {"ram:4M", tu_url};
    for (size_t i = 0; i < PLX_ARRAY_SIZE(names); i++) {
        struct plx_error err = {""};
        struct plx_bdev *below, *top;
        struct tu t;
        assert_int_equal(plx_bdev_open(names[i], &below, &err), 0);
        top = filter_plain_new(below);
        assert_non_null(top);
        tu_join(&t, top);
        assert_false(t.info->in_place); /* a compare may have to wait for memory, on a RAM disk too */
        assert_int_equal(t.info->ops >> PLX_BDEV_UNMAP & 1, 0);
        uint8_t *data = tu_pattern(2 * BLOCK, 1);
        assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 0, 2, data), 0);
        assert_int_equal(tu_io(&t, PLX_BDEV_COMPARE, 0, 2, data), 0);
        assert_int_equal(tu_copy(&t, 1, 0, 2), 0); /* onto itself */
        assert_int_equal(tu_io(&t, PLX_BDEV_COMPARE, 1, 2, data), 0);
        assert_int_equal(tu_io(&t, PLX_BDEV_COMPARE_AND_WRITE, 1, 1, data), 0);
        assert_int_equal(tu_io(&t, PLX_BDEV_COMPARE, 1, 1, data + BLOCK), 0);
        assert_int_equal(tu_io(&t, PLX_BDEV_WRITE_ZEROES, 1, 1, NULL), 0);
        assert_int_equal(tu_io(&t, PLX_BDEV_COMPARE, 1, 1, data + BLOCK), PLX_SC_COMPARE_FAILURE);
        free(data);
        tu_close(&t);
        plx_bdev_close(below);
    }
}

/* A filter that has every operation below it, and needs memory for writes, and the core for compares. */
static void needy_close(struct plx_bdev *bdev)
{
    free(bdev);
}

static void needy_ready(struct plx_piece *p)
{
    struct plx_bdev_req *req = plx_bdev_req_of(p);
    assert_non_null(p->mem);
    memset(p->mem, 0xa5, p->size);
    plx_piece_put(req->ch, p);
    plx_bdev_forward(req->ch->below, req);
}

static void needy_submit(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    struct plx_piece *p = (struct plx_piece *)(void *)req->context;
    p->ready = needy_ready;
    if (req->op == PLX_BDEV_WRITE)
        plx_piece_get(ch, p, (size_t)req->nlb * BLOCK);
    else if (req->op == PLX_BDEV_COMPARE)
        plx_bdev_emulate(req);
    else
        plx_bdev_forward(ch->below, req);
}

static void a_filter_may_need_what_the_disk_below_does_not(void **state)
{
    (void)state;
    static const struct plx_bdev_ops ops = {.close = needy_close, .submit = needy_submit};
    struct plx_bdev *below, *needy = calloc(1, sizeof *needy);
    struct tu t;
    assert_non_null(needy);
    assert_int_equal(plx_bdev_open("ram:4M", &below, NULL), 0);
    plx_bdev_filter_init(needy, below);
    needy->ops = &ops;
    needy->info.in_place = false;
    assert_int_equal(plx_bdev_register(needy, "needy", "needy:", NULL, NULL), 0);
    tu_join(&t, needy);
    size_t n = plx_buf_total_bytes(t.reactor) / PLX_BUF_MIN;
    void **bufs = calloc(n, sizeof *bufs);
    uint8_t *data = tu_pattern(100 * BLOCK, 1);
    for (size_t i = 0; i < n; i++)
        bufs[i] = plx_buf_get(t.reactor, PLX_BUF_MIN);
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 0, 100, data), 0);
    assert_int_equal(tu_io(&t, PLX_BDEV_COMPARE, 0, 100, data), 0);
    assert_int_equal(tu_io(&t, PLX_BDEV_COMPARE, 1, 99, data), PLX_SC_COMPARE_FAILURE);
    for (size_t i = 0; i < n; i++)
        plx_buf_put(t.reactor, bufs[i], PLX_BUF_MIN);
    free(bufs);
    free(data);
    tu_close(&t);
    plx_bdev_close(below);
}

/* ---- aborts of what waits in the core ---- */

struct held {
    struct test_disk *d;
    struct tu t; /* of a filter on it, above which the core emulates */
    uint8_t *data;
};

static void hold_begin(struct held *h)
{
    h->d = test_disk_new();
    tu_join(&h->t, filter_plain_new(&h->d->bdev));
    h->data = tu_pattern((size_t)2 * 64 * BLOCK, 1);
}

static void hold_end(struct held *h)
{
    free(h->data);
    tu_close(&h->t);
    plx_bdev_close(&h->d->bdev);
}

static void start(struct held *h, struct tu_req *q, enum plx_bdev_op op, uint64_t lba)
{
    tu_req_init(q);
    tu_start(&h->t, q, op, lba, 8, h->data);
}

/* At once, and without having reached the disk. */
static void check_abort(struct held *h, struct tu_req *q)
{
    int seen = h->d->seen;
    assert_int_equal(q->done, 0);
    plx_bdev_abort(h->t.ch, q->req);
    assert_int_equal(q->done, 1);
    assert_int_equal(q->req->status, PLX_SC_ABORTED_BY_REQUEST);
    assert_int_equal(h->d->seen, seen);
    tu_req_free(q);
}

static void finish(struct held *h, struct tu_req *q, uint16_t status)
{
    assert_int_equal(q->done, 0);
    while (!q->done) {
        test_disk_end(h->d, 0);
        tu_turn(h->t.reactor);
    }
    assert_int_equal(q->req->status, status);
    tu_req_free(q);
}

static void what_waits_for_a_compare_and_write_can_be_aborted(void **state)
{
    (void)state;
    struct held h;
    struct tu_req owner, next, held, other, late;
    hold_begin(&h);
    start(&h, &owner, PLX_BDEV_COMPARE_AND_WRITE, 0);
    start(&h, &next, PLX_BDEV_COMPARE_AND_WRITE, 100);
    while (h.d->seen < 1) /* until it reads, with the range for itself */
        tu_turn(h.t.reactor);
    start(&h, &held, PLX_BDEV_WRITE, 7);
    start(&h, &late, PLX_BDEV_WRITE, 7);
    start(&h, &other, PLX_BDEV_WRITE, 8);
    assert_int_equal(h.d->seen, 2); /* the other, which is beside the range */
    check_abort(&h, &held);
    check_abort(&h, &next);
    finish(&h, &owner, PLX_SC_COMPARE_FAILURE); /* the disk has left memory as it was */
    finish(&h, &late, 0);
    assert_int_equal(other.done, 1);
    tu_req_free(&other);
    hold_end(&h);
}

static void what_waits_for_memory_can_be_aborted(void **state)
{
    (void)state;
    struct held h;
    struct tu_req first, second;
    hold_begin(&h);
    size_t n = plx_buf_total_bytes(h.t.reactor) / PLX_BUF_MIN;
    void **bufs = calloc(n, sizeof *bufs);
    for (size_t i = 0; i < n; i++)
        bufs[i] = plx_buf_get(h.t.reactor, PLX_BUF_MIN);
    start(&h, &first, PLX_BDEV_COMPARE, 0); /* has the channel's reserve */
    start(&h, &second, PLX_BDEV_COMPARE, 0);
    assert_int_equal(h.d->seen, 1);
    check_abort(&h, &second);
    finish(&h, &first, PLX_SC_COMPARE_FAILURE);
    for (size_t i = 0; i < n; i++)
        plx_buf_put(h.t.reactor, bufs[i], PLX_BUF_MIN);
    free(bufs);
    hold_end(&h);
}

static void what_waits_for_a_part_can_be_aborted(void **state)
{
    (void)state;
    struct held h;
    struct tu_req q[65];
    hold_begin(&h);
    for (int i = 0; i < 65; i++)
        start(&h, &q[i], PLX_BDEV_WRITE_ZEROES, 0);
    assert_int_equal(h.d->seen, 64);
    check_abort(&h, &q[64]);
    for (int i = 0; i < 64; i++) {
        assert_true(test_disk_end(h.d, 0));
        assert_int_equal(q[i].done, 1);
        tu_req_free(&q[i]);
    }
    hold_end(&h);
}

static void memory_is_lent_through_filters(void **state)
{
    (void)state;
    struct stack s;
    uint8_t data[BLOCK] = "lent";
    pile_on(&s, "ram:4M", FORWARD);
    assert_int_equal(tu_io(&s.t, PLX_BDEV_WRITE, 5, 1, data), 0);
    const char *memory = plx_bdev_map(s.t.ch, 5, 1);
    assert_non_null(memory);
    assert_string_equal(memory, "lent");
    assert_null(plx_bdev_map(s.t.ch, 8191, 2)); /* out of range is not lent */
    assert_null(plx_bdev_map(s.t.ch, 0, 0));
    raze(&s);
    pile_on(&s, "ram:4M", HALVE);
    assert_null(plx_bdev_map(s.t.ch, 5, 1));
    raze(&s);
}

/* What a null disk leaves undefined for its own user must not be what the pool of buffers held before. */
static void reads_for_others_are_defined(void **state)
{
    (void)state;
    for (int plain = 0; plain < 2; plain++) {
        struct tu t;
        struct plx_bdev *null, *pass, *top;
        uint8_t data[4 * BLOCK];
        assert_int_equal(plx_bdev_open("null:4M", &null, NULL), 0);
        pass = filter_pass_new(null);
        assert_true(plx_bdev_info(pass)->undefined_reads); /* it lends */
        top = plain ? filter_plain_new(pass) : filter_halve_new(pass, 2);
        assert_false(plx_bdev_info(top)->undefined_reads);
        tu_join(&t, top);
        memset(data, 0xa5, sizeof data);
        assert_int_equal(tu_io(&t, PLX_BDEV_READ, 3, 4, data), 0);
        assert_true(tu_zeroed(data, sizeof data));
        uint8_t *stale = plx_buf_get(t.reactor, PLX_BUF_MIN);
        memset(stale, 0xa5, PLX_BUF_MIN);
        plx_buf_put(t.reactor, stale, PLX_BUF_MIN);
        assert_int_equal(tu_io(&t, PLX_BDEV_COMPARE, 3, 4, data), 0);
        tu_close(&t);
        plx_bdev_close(pass);
        plx_bdev_close(null);
    }
}

static void everything_a_filter_forwarded_can_be_aborted(void **state)
{
    (void)state;
    enum { REQS = 5 };
    for (enum kind kind = PASS; kind <= FORWARD; kind++) {
        struct stack s;
        struct test_disk *d = test_disk_new();
        struct tu_req q[REQS], reset;
        uint8_t data[BLOCK] = {0};
        pile(&s, &d->bdev, kind);
        for (int i = 0; i < REQS; i++) {
            tu_req_init(&q[i]);
            tu_start(&s.t, &q[i], PLX_BDEV_WRITE, (uint64_t)i, 1, data);
        }
        assert_int_equal(d->seen, REQS);
        plx_bdev_abort(s.t.ch, q[2].req);
        assert_int_equal(q[2].done, 1);
        assert_int_equal(q[2].req->status, PLX_SC_ABORTED_BY_REQUEST);
        d->ignores_aborts = true;
        tu_req_init(&reset);
        tu_start(&s.t, &reset, PLX_BDEV_RESET, 0, 0, NULL);
        assert_int_equal(d->aborts, REQS);
        while (d->first) {
            assert_int_equal(reset.done, 0); /* until all that came before it have ended */
            test_disk_end(d, PLX_SC_SUCCESS);
        }
        assert_int_equal(reset.done, 1);
        for (int i = 0; i < REQS; i++) {
            assert_int_equal(q[i].done, 1);
            tu_req_free(&q[i]);
        }
        tu_req_free(&reset);
        raze(&s);
    }
}

/* ---- sub-requests ---- */

/* Without an eighth level of halves, so that the disk sees what was asked for: one filter. */
static void sub_requests_are_first_come_first_served(void **state)
{
    (void)state;
    enum { REQS = 10 };
    struct test_disk *d = test_disk_new();
    struct plx_bdev *top = filter_halve_new(&d->bdev, 5); /* two requests and a half */
    struct tu t;
    struct tu_req q[REQS];
    uint8_t data[2 * BLOCK] = {0};
    tu_join(&t, top);
    for (int i = 0; i < REQS; i++) {
        tu_req_init(&q[i]);
        tu_start(&t, &q[i], PLX_BDEV_WRITE, (uint64_t)i * 2, 2, data);
    }
    assert_int_equal(d->seen, 4);
    plx_bdev_abort(t.ch, q[5].req); /* in line */
    assert_int_equal(q[5].done, 1);
    assert_int_equal(q[5].req->status, PLX_SC_ABORTED_BY_REQUEST);
    for (uint64_t i = 0; i < REQS; i++) {
        if (i == 5)
            continue;
        assert_int_equal(d->first->lba, 2 * i);
        assert_int_equal(q[i].done, 0);
        test_disk_end(d, i == 7 ? PLX_SC_WRITE_FAULT : 0);
        assert_int_equal(d->first->lba, 2 * i + 1);
        test_disk_end(d, 0);
        assert_int_equal(q[i].done, 1); /* and no other has overtaken it */
        assert_int_equal(q[i].req->status, i == 7 ? PLX_SC_WRITE_FAULT : 0);
    }
    assert_false(test_disk_end(d, 0));
    for (int i = 0; i < REQS; i++)
        tu_req_free(&q[i]);
    tu_leave(&t);
    plx_bdev_close(top);
    plx_bdev_close(&d->bdev);
}

struct waiter {
    struct plx_bdev_subs subs;
    int served;
};

static void waiter_ready(struct plx_bdev_subs *subs)
{
    plx_container_of(subs, struct waiter, subs)->served++;
}

static void who_needs_little_does_not_overtake_who_needs_much(void **state)
{
    (void)state;
    static const uint32_t wanted[] = {2, 2, 1, 1, 3};
    enum { N = PLX_ARRAY_SIZE(wanted) };
    struct plx_bdev_reserve r = {0};
    struct waiter w[N] = {0};
    assert_int_equal(plx_reserve_init(&r, 3), 0);
    for (size_t i = 0; i < N; i++) {
        w[i].subs = (struct plx_bdev_subs){.ready = waiter_ready, .n = wanted[i]};
        plx_reserve_get(&r, &w[i].subs);
    }
    assert_int_equal(w[0].served, 1);
    assert_int_equal(w[1].served + w[2].served, 0); /* though there is one left */
    assert_true(plx_reserve_cancel(&r, &w[1].subs));
    assert_false(plx_reserve_cancel(&r, &w[1].subs));
    assert_int_equal(w[2].served, 1); /* its turn now, though nothing came back */
    assert_int_equal(w[3].served, 0);
    plx_reserve_put(&r, &w[0].subs);
    assert_int_equal(w[3].served, 1);
    plx_reserve_put(&r, &w[2].subs);
    assert_int_equal(w[4].served, 0);
    plx_reserve_put(&r, &w[3].subs);
    assert_int_equal(w[4].served, 1);
    plx_reserve_put(&r, &w[4].subs);
    plx_reserve_destroy(&r);
}

/* A load far larger than the reserves of all levels, with aborts, until everything has ended. */
static void churn(struct stack *s, bool aborts, uint64_t seed)
{
    enum { REQS = 96, NLB = 300 };
    static const enum plx_bdev_op ops[] = {
        PLX_BDEV_WRITE, PLX_BDEV_READ,  PLX_BDEV_COMPARE, PLX_BDEV_WRITE_ZEROES,
        PLX_BDEV_UNMAP, PLX_BDEV_FLUSH, PLX_BDEV_COPY,    PLX_BDEV_COMPARE_AND_WRITE};
    struct tu_req q[REQS];
    uint8_t *data = tu_pattern(2 * NLB * BLOCK, 7);
    for (int i = 0; i < REQS; i++) {
        tu_req_init(&q[i]);
        q[i].req->src_lba = 1000;
        tu_start(&s->t, &q[i], ops[tu_random(&seed) % PLX_ARRAY_SIZE(ops)], tu_random(&seed) % 4000,
                 1 + tu_random(&seed) % NLB, data);
        if (aborts && tu_random(&seed) % 3 == 0) {
            int which = (int)(tu_random(&seed) % (unsigned)(i + 1));
            if (!q[which].done)
                plx_bdev_abort(s->t.ch, q[which].req);
        }
        if (tu_random(&seed) % 8 == 0)
            plx_reactor_poll(s->t.reactor);
    }
    if (aborts)
        assert_int_equal(tu_io(&s->t, PLX_BDEV_RESET, 0, 0, NULL), 0);
    for (int i = 0; i < REQS; i++) {
        uint16_t status = tu_finish(&s->t, &q[i]);
        assert_true(!status || status == PLX_SC_COMPARE_FAILURE || (aborts && status == PLX_SC_ABORTED_BY_REQUEST));
        tu_req_free(&q[i]);
    }
    free(data);
}

static void no_load_and_no_abort_makes_sub_requests_hang(void **state)
{
    (void)state;
    const char *const names[] = {"ram:4M", tu_url};
    for (size_t i = 0; i < PLX_ARRAY_SIZE(names); i++) {
        struct stack s;
        pile_on(&s, names[i], HALVE);
        for (uint64_t seed = 1; seed <= 8; seed++)
            churn(&s, seed > 3, seed);
        check_operations(&s.t, true);
        raze(&s);
    }
}

/* ---- what the core does itself ---- */

static void an_unmap_is_cut_to_what_the_disk_takes(void **state)
{
    (void)state;
    struct test_disk *d = test_disk_new_limited(8);
    struct stack s;
    struct tu_req q;
    pile(&s, &d->bdev, PASS);
    tu_req_init(&q);
    q.req->iovcnt = 0;
    tu_start(&s.t, &q, PLX_BDEV_UNMAP, 100, 20, NULL);
    for (uint32_t at = 0; at < 20; at += 8) {
        assert_int_equal(q.done, 0);
        assert_int_equal(d->first->op, PLX_BDEV_UNMAP);
        assert_int_equal(d->first->lba, 100 + at);
        assert_int_equal(d->first->nlb, at < 16 ? 8 : 4);
        test_disk_end(d, 0);
    }
    assert_int_equal(q.done, 1);
    assert_int_equal(q.req->status, 0);

    tu_start(&s.t, &q, PLX_BDEV_UNMAP, 100, 8, NULL); /* as it is */
    assert_ptr_equal(d->first, q.req);                /* no layer took a part for it */
    test_disk_end(d, 0);

    tu_start(&s.t, &q, PLX_BDEV_UNMAP, 100, 20, NULL);
    test_disk_end(d, PLX_SC_WRITE_FAULT); /* the rest is not tried */
    assert_int_equal(q.done, 1);
    assert_int_equal(q.req->status, PLX_SC_WRITE_FAULT);

    tu_start(&s.t, &q, PLX_BDEV_UNMAP, 100, 20, NULL);
    test_disk_end(d, 0);
    plx_bdev_abort(s.t.ch, q.req);
    assert_int_equal(q.done, 1);
    assert_int_equal(q.req->status, PLX_SC_ABORTED_BY_REQUEST);
    tu_req_free(&q);
    raze(&s);
}

static void more_is_emulated_at_once_than_there_are_parts(void **state)
{
    (void)state;
    enum { REQS = 200 };
    struct tu t;
    struct tu_req q[REQS];
    uint8_t *data = tu_pattern(2 * BLOCK, 1);
    tu_open(&t, tu_url);
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 0, 1, data), 0);
    for (int i = 0; i < REQS; i++) {
        tu_req_init(&q[i]);
        tu_start(&t, &q[i], i % 3 ? PLX_BDEV_COMPARE : PLX_BDEV_COMPARE_AND_WRITE, 0, 1, data);
        if (i % 7 == 0)
            plx_bdev_abort(t.ch, q[i].req);
    }
    plx_bdev_abort(t.ch, q[REQS - 1].req); /* surely in line, which it leaves at once */
    assert_int_equal(q[REQS - 1].done, 1);
    for (int i = 0; i < REQS; i++) {
        uint16_t status = tu_finish(&t, &q[i]);
        assert_true(status == 0 || status == PLX_SC_COMPARE_FAILURE || status == PLX_SC_ABORTED_BY_REQUEST);
        tu_req_free(&q[i]);
    }
    free(data);
    tu_close(&t);
}

static uint16_t with_iov(struct tu *t, enum plx_bdev_op op, uint32_t nlb, const size_t lens[4], uint32_t n)
{
    static uint8_t data[16 * BLOCK];
    struct tu_req q;
    tu_req_init(&q);
    for (uint32_t i = 0; i < n; i++)
        q.iov[i] = (struct iovec){data, lens[i]};
    q.req->iovcnt = n;
    q.req->op = (uint8_t)op;
    q.req->lba = 0;
    q.req->nlb = nlb;
    plx_bdev_submit(t->ch, q.req);
    uint16_t status = tu_finish(t, &q);
    tu_req_free(&q);
    return status;
}

static void an_iovec_that_does_not_fit_its_range_is_refused(void **state)
{
    (void)state;
    const char *const names[] = {"ram:4M", tu_url};
    static const enum plx_bdev_op ops[] = {PLX_BDEV_READ, PLX_BDEV_WRITE, PLX_BDEV_COMPARE};
    for (size_t i = 0; i < PLX_ARRAY_SIZE(names); i++) {
        struct tu t;
        tu_open(&t, names[i]);
        for (size_t k = 0; k < PLX_ARRAY_SIZE(ops); k++) {
            assert_int_equal(with_iov(&t, PLX_BDEV_WRITE_ZEROES, 8, NULL, 0), 0);
            uint16_t fits = ops[k] == PLX_BDEV_COMPARE ? with_iov(&t, ops[k], 1, (size_t[4]){BLOCK}, 1) : 0;
            assert_int_equal(with_iov(&t, ops[k], 2, (size_t[4]){2 * BLOCK}, 1), fits);
            assert_int_equal(with_iov(&t, ops[k], 2, (size_t[4]){100, 0, 2 * BLOCK - 100}, 3), fits);
            assert_int_equal(with_iov(&t, ops[k], 2, (size_t[4]){BLOCK}, 1), PLX_SC_DATA_SGL_LENGTH_INVALID);
            assert_int_equal(with_iov(&t, ops[k], 2, (size_t[4]){3 * BLOCK}, 1), PLX_SC_DATA_SGL_LENGTH_INVALID);
            assert_int_equal(with_iov(&t, ops[k], 2, (size_t[4]){BLOCK, BLOCK, 1}, 3), PLX_SC_DATA_SGL_LENGTH_INVALID);
            assert_int_equal(with_iov(&t, ops[k], 2, (size_t[4]){BLOCK, SIZE_MAX - BLOCK + 1}, 2),
                             PLX_SC_DATA_SGL_LENGTH_INVALID);
            assert_int_equal(with_iov(&t, ops[k], 2, (size_t[4]){3 * BLOCK, SIZE_MAX - BLOCK + 1}, 2),
                             PLX_SC_DATA_SGL_LENGTH_INVALID); /* wraps round to the right sum */
            assert_int_equal(with_iov(&t, ops[k], 2, NULL, 0), PLX_SC_DATA_SGL_LENGTH_INVALID);
        }
        assert_int_equal(with_iov(&t, PLX_BDEV_COMPARE_AND_WRITE, 2, (size_t[4]){2 * BLOCK}, 1),
                         PLX_SC_DATA_SGL_LENGTH_INVALID);
        tu_close(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(filters_are_as_the_disk_below),
        cmocka_unit_test(what_a_filter_does_not_offer_is_emulated_above_it),
        cmocka_unit_test(a_filter_may_need_what_the_disk_below_does_not),
        cmocka_unit_test(what_waits_for_a_compare_and_write_can_be_aborted),
        cmocka_unit_test(what_waits_for_memory_can_be_aborted),
        cmocka_unit_test(what_waits_for_a_part_can_be_aborted),
        cmocka_unit_test(memory_is_lent_through_filters),
        cmocka_unit_test(reads_for_others_are_defined),
        cmocka_unit_test(everything_a_filter_forwarded_can_be_aborted),
        cmocka_unit_test(sub_requests_are_first_come_first_served),
        cmocka_unit_test(who_needs_little_does_not_overtake_who_needs_much),
        cmocka_unit_test(no_load_and_no_abort_makes_sub_requests_hang),
        cmocka_unit_test(an_unmap_is_cut_to_what_the_disk_takes),
        cmocka_unit_test(more_is_emulated_at_once_than_there_are_parts),
        cmocka_unit_test(an_iovec_that_does_not_fit_its_range_is_refused),
    };
    return cmocka_run_group_tests(tests, tu_make_file, tu_remove_file);
}
