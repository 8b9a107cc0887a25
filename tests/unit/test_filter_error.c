/* SPDX-License-Identifier: BSD-3-Clause */
/* Disks that fail when they are told to: what is injected reaches the requests that it is for, and no others. */
#include "bdev_util.h"

#include <errno.h>
#include <pollux/bdev_filter.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bdev/core.h"
#include "test_disk.h"

enum { BLOCK = 512 };

/* ---- a disk that fails, on one that ends requests when it is told to ---- */

struct frail {
    struct test_disk *d;
    struct tu t;
    uint8_t data[4 * BLOCK];
};

static void frail_begin(struct frail *s)
{
    struct plx_bdev *bdev;
    struct plx_error err;
    memset(s, 0, sizeof *s);
    s->d = test_disk_new();
    if (plx_bdev_error_create(&s->d->bdev, "EE_test", NULL, &bdev, &err))
        fail_msg("%s", err.text);
    tu_join(&s->t, bdev);
}

static void frail_end(struct frail *s)
{
    assert_null(s->d->first);
    tu_close(&s->t);
    assert_int_equal(plx_bdev_close(&s->d->bdev), 0);
}

static void frail_start(struct frail *s, struct tu_req *q, enum plx_bdev_op op)
{
    tu_req_init(q);
    tu_start(&s->t, q, op, 3, 2, s->data);
}

static void frail_settle(struct plx_reactor *r)
{
    while (plx_reactor_poll(r))
        ;
}

static void inject(struct plx_bdev *bdev, enum plx_bdev_injection_type type, uint32_t ops, uint32_t count)
{
    const struct plx_bdev_injection what = {
        .type = type, .ops = ops, .count = count, .corrupt_value = 0x81, .status = PLX_SC_WRITE_FAULT};
    struct plx_error err;
    if (plx_bdev_error_inject(bdev, &what, &err))
        fail_msg("%s", err.text);
}

static void ended(struct tu_req *q, uint16_t status)
{
    assert_int_equal(q->done, 1);
    assert_int_equal(q->req->status, status);
    tu_req_free(q);
}

/* The disk below gets a request of this kind, and answers. */
static void passes(struct frail *s, enum plx_bdev_op op)
{
    struct tu_req q;
    int seen = s->d->seen;
    frail_start(s, &q, op);
    assert_int_equal(q.done, 0);
    assert_int_equal(s->d->seen, seen + 1);
    assert_int_equal(s->d->first->op, op);
    test_disk_end(s->d, PLX_SC_CAPACITY_EXCEEDED);
    ended(&q, PLX_SC_CAPACITY_EXCEEDED);
}

/* It does not. */
static void fails(struct frail *s, enum plx_bdev_op op, uint16_t status)
{
    struct tu_req q;
    int seen = s->d->seen;
    frail_start(s, &q, op);
    assert_int_equal(s->d->seen, seen);
    ended(&q, status);
}

static const enum plx_bdev_op ops[] = {PLX_BDEV_READ,  PLX_BDEV_WRITE,   PLX_BDEV_WRITE_ZEROES,      PLX_BDEV_UNMAP,
                                       PLX_BDEV_FLUSH, PLX_BDEV_COMPARE, PLX_BDEV_COMPARE_AND_WRITE, PLX_BDEV_COPY};

static void so_many_requests_of_an_operation_fail(void **state)
{
    (void)state;
    struct frail s;
    frail_begin(&s);
    for (size_t i = 0; i < PLX_ARRAY_SIZE(ops); i++) {
        inject(s.t.bdev, PLX_BDEV_INJECT_FAILURE, 1u << ops[i], 2);
        for (size_t k = 0; k < PLX_ARRAY_SIZE(ops); k++)
            if (k != i)
                passes(&s, ops[k]);
        fails(&s, ops[i], PLX_SC_WRITE_FAULT);
        fails(&s, ops[i], PLX_SC_WRITE_FAULT);
        passes(&s, ops[i]);
    }
    inject(s.t.bdev, PLX_BDEV_INJECT_FAILURE, PLX_BDEV_INJECT_ALL, 1); /* each has its own count */
    passes(&s, PLX_BDEV_ALLOCATED);
    for (size_t i = 0; i < PLX_ARRAY_SIZE(ops); i++)
        fails(&s, ops[i], PLX_SC_WRITE_FAULT);
    for (size_t i = 0; i < PLX_ARRAY_SIZE(ops); i++)
        passes(&s, ops[i]);
    frail_end(&s);
}

static void it_fails_for_ever_until_that_is_taken_back(void **state)
{
    (void)state;
    const struct plx_bdev_injection internal = {
        .type = PLX_BDEV_INJECT_FAILURE, .ops = 1 << PLX_BDEV_READ, .count = PLX_BDEV_INJECT_FOREVER};
    struct frail s;
    frail_begin(&s);
    assert_int_equal(plx_bdev_error_inject(s.t.bdev, &internal, NULL), 0);
    for (int i = 0; i < 1000; i++)
        fails(&s, PLX_BDEV_READ, PLX_SC_INTERNAL_ERROR);
    inject(s.t.bdev, PLX_BDEV_INJECT_FAILURE, 1 << PLX_BDEV_READ, 1); /* in the place of that */
    fails(&s, PLX_BDEV_READ, PLX_SC_WRITE_FAULT);
    passes(&s, PLX_BDEV_READ);
    for (int none = 0; none < 2; none++) {
        inject(s.t.bdev, PLX_BDEV_INJECT_FAILURE, PLX_BDEV_INJECT_ALL, PLX_BDEV_INJECT_FOREVER);
        inject(s.t.bdev, none ? PLX_BDEV_INJECT_NONE : PLX_BDEV_INJECT_FAILURE, 1 << PLX_BDEV_READ, none ? 5 : 0);
        passes(&s, PLX_BDEV_READ);
        fails(&s, PLX_BDEV_WRITE, PLX_SC_WRITE_FAULT);
    }
    frail_end(&s);
}

static void only_a_deep_queue_fails(void **state)
{
    (void)state;
    const struct plx_bdev_injection what = {
        .type = PLX_BDEV_INJECT_FAILURE, .ops = 1 << PLX_BDEV_READ, .count = PLX_BDEV_INJECT_FOREVER, .queue_depth = 3};
    struct frail s;
    struct tu_req q[3];
    frail_begin(&s);
    frail_start(&s, &q[0], PLX_BDEV_WRITE); /* of whatever kind, and before it is injected */
    assert_int_equal(plx_bdev_error_inject(s.t.bdev, &what, NULL), 0);
    frail_start(&s, &q[1], PLX_BDEV_READ);
    frail_start(&s, &q[2], PLX_BDEV_READ);
    assert_int_equal(s.d->seen, 3);
    fails(&s, PLX_BDEV_READ, PLX_SC_INTERNAL_ERROR);
    test_disk_end(s.d, 0);
    ended(&q[0], 0);
    frail_start(&s, &q[0], PLX_BDEV_READ);
    assert_int_equal(s.d->seen, 4);
    for (int i = 0; i < 3; i++)
        test_disk_end(s.d, 0);
    for (int i = 0; i < 3; i++)
        ended(&q[i], 0);
    frail_end(&s);
}

/* ---- pending ---- */

static void pending_requests_end_when_they_are_aborted_or_reset(void **state)
{
    (void)state;
    struct frail s;
    struct tu_req q[4], reset;
    frail_begin(&s);
    inject(s.t.bdev, PLX_BDEV_INJECT_NONE, PLX_BDEV_INJECT_ALL, 0); /* which was before that */
    inject(s.t.bdev, PLX_BDEV_INJECT_PENDING, 1 << PLX_BDEV_READ | 1 << PLX_BDEV_FLUSH, 3);
    for (int i = 0; i < 4; i++)
        frail_start(&s, &q[i], i == 1 ? PLX_BDEV_FLUSH : PLX_BDEV_READ);
    passes(&s, PLX_BDEV_READ);                                      /* the count is over */
    inject(s.t.bdev, PLX_BDEV_INJECT_NONE, 1 << PLX_BDEV_WRITE, 0); /* of another operation */
    frail_settle(s.t.reactor);
    assert_int_equal(s.d->seen, 1);
    for (int i = 0; i < 4; i++)
        assert_int_equal(q[i].done, 0);
    plx_bdev_abort(s.t.ch, q[2].req);
    ended(&q[2], PLX_SC_ABORTED_BY_REQUEST);
    assert_int_equal(q[0].done + q[1].done + q[3].done, 0);
    frail_start(&s, &reset, PLX_BDEV_RESET);
    ended(&reset, 0);
    ended(&q[0], PLX_SC_ABORTED_BY_REQUEST);
    ended(&q[1], PLX_SC_ABORTED_BY_REQUEST);
    ended(&q[3], PLX_SC_ABORTED_BY_REQUEST);
    frail_end(&s);
}

static void pending_requests_go_on_when_that_is_taken_back(void **state)
{
    (void)state;
    struct frail s;
    struct tu other;
    struct tu_req reads[2], flush, far;
    frail_begin(&s);
    tu_join(&other, s.t.bdev);
    inject(s.t.bdev, PLX_BDEV_INJECT_PENDING, PLX_BDEV_INJECT_ALL, 2);
    frail_start(&s, &reads[0], PLX_BDEV_READ);
    frail_start(&s, &flush, PLX_BDEV_FLUSH);
    tu_req_init(&far);
    tu_start(&other, &far, PLX_BDEV_READ, 0, 2, s.data);
    inject(s.t.bdev, PLX_BDEV_INJECT_FAILURE, 1 << PLX_BDEV_READ, 1); /* something else takes nothing back */
    frail_settle(s.t.reactor);
    frail_settle(other.reactor);
    assert_int_equal(reads[0].done + flush.done + far.done, 0);
    /* What is injected into it again does not keep what was to go on. */
    inject(s.t.bdev, PLX_BDEV_INJECT_NONE, 1 << PLX_BDEV_READ, 0);
    inject(s.t.bdev, PLX_BDEV_INJECT_PENDING, 1 << PLX_BDEV_READ, 1);
    frail_settle(other.reactor);
    assert_int_equal(far.done + s.d->seen, 0); /* the new one was for this, */
    frail_settle(s.t.reactor);
    assert_int_equal(s.d->seen, 1); /* and not for that */
    test_disk_end(s.d, 0);
    ended(&reads[0], 0);
    assert_int_equal(far.done + flush.done, 0);
    inject(s.t.bdev, PLX_BDEV_INJECT_PENDING, PLX_BDEV_INJECT_ALL, 0); /* into none is as nothing */
    frail_settle(s.t.reactor);
    assert_int_equal(s.d->first->op, PLX_BDEV_FLUSH);
    test_disk_end(s.d, 0);
    ended(&flush, 0);
    frail_settle(other.reactor);
    test_disk_end(s.d, 0);
    ended(&far, 0);
    tu_leave(&other);
    frail_end(&s);
}

static void pending_requests_end_when_the_disk_below_is_gone(void **state)
{
    (void)state;
    struct frail s;
    struct tu_req q[2], below;
    frail_begin(&s);
    frail_start(&s, &below, PLX_BDEV_READ);
    inject(s.t.bdev, PLX_BDEV_INJECT_PENDING, PLX_BDEV_INJECT_ALL, 9);
    for (int i = 0; i < 2; i++)
        frail_start(&s, &q[i], PLX_BDEV_WRITE);
    plx_bdev_gone(&s.d->bdev, "a test wants it so");
    frail_settle(s.t.reactor);
    for (int i = 0; i < 2; i++)
        ended(&q[i], PLX_SC_INVALID_NAMESPACE_OR_FORMAT);
    assert_int_equal(below.done, 0); /* the disk's own to end */
    test_disk_end(s.d, 0);
    ended(&below, 0);
    fails(&s, PLX_BDEV_WRITE, PLX_SC_INVALID_NAMESPACE_OR_FORMAT);
    frail_end(&s);
}

/* ---- requests that the disk below has ---- */

static void the_disk_below_gets_requests_as_they_are(void **state)
{
    (void)state;
    struct frail s;
    struct tu_req q;
    frail_begin(&s);
    tu_req_init(&q);
    q.req->flags = PLX_BDEV_FUA;
    q.req->src_lba = 77;
    tu_start(&s.t, &q, PLX_BDEV_WRITE, 3, 2, s.data);
    assert_int_equal(s.d->first->flags, PLX_BDEV_FUA);
    assert_int_equal(s.d->first->lba, 3);
    assert_int_equal(s.d->first->src_lba, 77);
    assert_int_equal(s.d->first->nlb, 2);
    assert_ptr_equal(s.d->first->iov, q.iov);
    test_disk_end(s.d, 0);
    ended(&q, 0);
    frail_end(&s);
}

static void what_the_disk_below_has_is_aborted_there(void **state)
{
    (void)state;
    struct frail s;
    struct tu_req q;
    frail_begin(&s);
    frail_start(&s, &q, PLX_BDEV_READ);
    plx_bdev_abort(s.t.ch, q.req);
    assert_int_equal(s.d->aborts, 1);
    ended(&q, PLX_SC_ABORTED_BY_REQUEST);
    frail_end(&s);
}

static void more_requests_than_the_disk_below_is_given_wait_in_line(void **state)
{
    (void)state;
    enum { ROOM = 1024, REQS = ROOM + 20 };
    static struct tu_req q[REQS];
    struct frail s;
    frail_begin(&s);
    for (int i = 0; i < REQS; i++)
        frail_start(&s, &q[i], PLX_BDEV_WRITE);
    assert_int_equal(s.d->seen, ROOM);
    plx_bdev_abort(s.t.ch, q[REQS - 5].req);
    assert_int_equal(q[REQS - 5].done, 1);
    assert_int_equal(s.d->aborts, 0);
    while (test_disk_end(s.d, 0))
        ;
    for (int i = 0; i < REQS; i++)
        ended(&q[i], i == REQS - 5 ? PLX_SC_ABORTED_BY_REQUEST : 0);
    frail_end(&s);
}

/* ---- corruption ---- */

static void corrupt(struct plx_bdev *bdev, uint32_t which, uint64_t offset, uint32_t count)
{
    const struct plx_bdev_injection what = {
        .type = PLX_BDEV_INJECT_CORRUPT, .ops = which, .count = count, .corrupt_offset = offset, .corrupt_value = 0x81};
    assert_int_equal(plx_bdev_error_inject(bdev, &what, NULL), 0);
}

/* A RAM disk, or a file: with direct I/O where it has that, for which memory has to be aligned. */
enum { KINDS = 2 };

static void open_kind(struct tu *t, size_t i)
{
    char name[400];
    snprintf(name, sizeof name, i ? "error:[%s]" : "error:ram:4M", tu_url);
    tu_open(t, name);
}

static void a_byte_of_what_is_read_is_another(void **state)
{
    (void)state;
    enum { N = 4 };
    for (size_t i = 0; i < KINDS; i++) {
        struct tu t;
        uint8_t *data = tu_pattern(N * BLOCK, 1), *out = tu_pattern(N * BLOCK, 2);
        open_kind(&t, i);
        assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 8, N, data), 0);
        corrupt(t.bdev, PLX_BDEV_INJECT_ALL, 700, 1);
        assert_int_equal(tu_io(&t, PLX_BDEV_READ, 8, 1, out), 0); /* which has no such byte, */
        assert_memory_equal(out, data, BLOCK);
        assert_int_equal(tu_io(&t, PLX_BDEV_COMPARE, 8, N, data), 0);
        assert_int_equal(tu_io(&t, PLX_BDEV_READ, 8, N, out), 0); /* and took no count */
        assert_int_equal(out[700], data[700] ^ 0x81);
        out[700] = data[700];
        assert_memory_equal(out, data, N * BLOCK);
        assert_int_equal(tu_io(&t, PLX_BDEV_READ, 8, N, out), 0);
        assert_memory_equal(out, data, N * BLOCK);
        tu_close(&t);
        free(data);
        free(out);
    }
}

/* Of a request with several entries, and at their borders. */
static uint16_t scattered(struct tu *t, enum plx_bdev_op op, uint8_t *data)
{
    struct tu_req q;
    tu_req_init(&q);
    q.req->iovcnt = 4;
    q.iov[0] = (struct iovec){data, 100};
    q.iov[1] = (struct iovec){data + 100, 0};
    q.iov[2] = (struct iovec){data + 100, 600};
    q.iov[3] = (struct iovec){data + 700, 4 * BLOCK - 700};
    tu_start(t, &q, op, 8, 4, NULL);
    uint16_t status = tu_finish(t, &q);
    tu_req_free(&q);
    return status;
}

static void a_byte_of_what_is_written_is_another(void **state)
{
    (void)state;
    enum { N = 4 };
    static const uint64_t places[] = {0, 99, 100, 511, 512, 699, 700, 4 * BLOCK - 1};
    for (size_t i = 0; i < KINDS * PLX_ARRAY_SIZE(places); i++) {
        const uint64_t at = places[i / 2];
        struct tu t;
        uint8_t *data = tu_pattern(N * BLOCK, 1), *same = tu_pattern(N * BLOCK, 1), *out = tu_pattern(N * BLOCK, 2);
        open_kind(&t, i % 2);
        corrupt(t.bdev, 1 << PLX_BDEV_WRITE, at, 1);
        assert_int_equal(scattered(&t, PLX_BDEV_WRITE, data), 0);
        assert_memory_equal(data, same, N * BLOCK); /* the caller's memory is his */
        assert_int_equal(tu_io(&t, PLX_BDEV_READ, 8, N, out), 0);
        assert_int_equal(out[at], data[at] ^ 0x81);
        out[at] = data[at];
        assert_memory_equal(out, data, N * BLOCK);
        assert_int_equal(scattered(&t, PLX_BDEV_WRITE, data), 0);
        corrupt(t.bdev, 1 << PLX_BDEV_READ, at, 1);
        assert_int_equal(scattered(&t, PLX_BDEV_READ, out), 0);
        assert_int_equal(out[at], data[at] ^ 0x81);
        out[at] = data[at];
        assert_memory_equal(out, data, N * BLOCK);
        tu_close(&t);
        free(data);
        free(same);
        free(out);
    }
}

static void a_corrupted_write_ends_as_its_parts_do(void **state)
{
    (void)state;
    struct frail s;
    struct tu_req q[2];
    frail_begin(&s);
    corrupt(s.t.bdev, 1 << PLX_BDEV_WRITE, BLOCK + 7, PLX_BDEV_INJECT_FOREVER);
    frail_start(&s, &q[0], PLX_BDEV_WRITE);
    test_disk_end(s.d, PLX_SC_WRITE_FAULT);
    ended(&q[0], PLX_SC_WRITE_FAULT);
    frail_start(&s, &q[0], PLX_BDEV_WRITE);
    test_disk_end(s.d, 0);
    assert_int_equal(q[0].done, 0);
    assert_int_equal(s.d->first->lba, 4);
    assert_int_equal(s.d->first->nlb, 1);
    assert_int_equal(((uint8_t *)s.d->first->iov->iov_base)[7], 0x81);
    test_disk_end(s.d, PLX_SC_CAPACITY_EXCEEDED);
    ended(&q[0], PLX_SC_CAPACITY_EXCEEDED);
    frail_start(&s, &q[0], PLX_BDEV_WRITE);
    test_disk_end(s.d, 0);
    plx_bdev_abort(s.t.ch, q[0].req);
    ended(&q[0], PLX_SC_ABORTED_BY_REQUEST);

    /* Without memory but for the channel's reserve, which the first has. */
    size_t n = plx_buf_total_bytes(s.t.reactor) / PLX_BUF_MIN;
    void **bufs = calloc(n, sizeof *bufs);
    for (size_t i = 0; i < n; i++)
        bufs[i] = plx_buf_get(s.t.reactor, PLX_BUF_MIN);
    frail_start(&s, &q[0], PLX_BDEV_WRITE);
    frail_start(&s, &q[1], PLX_BDEV_WRITE);
    test_disk_end(s.d, 0);
    test_disk_end(s.d, 0);
    assert_int_equal(q[1].done, 0);
    plx_bdev_abort(s.t.ch, q[1].req);
    ended(&q[1], PLX_SC_ABORTED_BY_REQUEST);
    test_disk_end(s.d, 0);
    ended(&q[0], 0);
    for (size_t i = 0; i < n; i++)
        plx_buf_put(s.t.reactor, bufs[i], PLX_BUF_MIN);
    free(bufs);
    frail_end(&s);
}

static void a_disk_that_fails_neither_lends_nor_completes_in_place(void **state)
{
    (void)state;
    uint8_t data[BLOCK];
    struct tu t;
    tu_open(&t, "error:null:1M");
    assert_null(plx_bdev_map(t.ch, 0, 1));
    assert_false(t.info->in_place);
    memset(data, 0xa5, sizeof data);
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, 0, 1, data), 0);
    assert_true(tu_zeroed(data, sizeof data));
    tu_close(&t);
}

/* ---- what is refused, and settings ---- */

static void not_injected(struct plx_bdev *bdev, struct plx_bdev_injection what, const char *word)
{
    struct plx_error err = {""};
    assert_int_equal(plx_bdev_error_inject(bdev, &what, &err), -EINVAL);
    if (!strstr(err.text, word))
        fail_msg("'%s' does not say '%s'", err.text, word);
}

static void what_cannot_be_injected_is_refused(void **state)
{
    (void)state;
    const enum plx_bdev_injection_type F = PLX_BDEV_INJECT_FAILURE, C = PLX_BDEV_INJECT_CORRUPT;
    const enum plx_bdev_injection_type none = (enum plx_bdev_injection_type)4;
    struct frail s;
    frail_begin(&s);
    not_injected(&s.d->bdev, (struct plx_bdev_injection){.type = F, .ops = 1, .count = 1}, "is of kind test");
    struct plx_bdev *slow;
    assert_int_equal(plx_bdev_open("delay:ram:1M", &slow, NULL), 0);
    not_injected(slow, (struct plx_bdev_injection){.type = F, .ops = 1, .count = 1}, "is of kind delay");
    plx_bdev_close(slow);
    not_injected(s.t.bdev, (struct plx_bdev_injection){.type = F, .count = 1}, "operations 0x0");
    not_injected(s.t.bdev, (struct plx_bdev_injection){.type = F, .ops = 1 << PLX_BDEV_RESET, .count = 1},
                 "operations");
    not_injected(s.t.bdev, (struct plx_bdev_injection){.type = none, .ops = 1, .count = 1}, "no injection of type 4");
    not_injected(s.t.bdev, (struct plx_bdev_injection){.type = F, .ops = 1, .count = 1, .status = 0x800},
                 "status 0x800");
    not_injected(s.t.bdev, (struct plx_bdev_injection){.type = C, .ops = 1, .count = 1}, "0x01 to 0xff");
    not_injected(s.t.bdev,
                 (struct plx_bdev_injection){.type = C, .ops = 1 << PLX_BDEV_FLUSH, .count = 1, .corrupt_value = 1},
                 "only what is read and written");
    for (size_t i = 0; i < PLX_ARRAY_SIZE(ops); i++)
        passes(&s, ops[i]);
    frail_end(&s);
}

static void what_is_injected_can_be_a_setting(void **state)
{
    (void)state;
    struct tu t;
    uint8_t data[BLOCK] = {0};
    tu_open(&t, "error:[ram:1M?block=512]?io=write,flush&type=failure&count=2&status=0x281");
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, 0, 1, data), 0);
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 0, 1, data), 0x281);
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 0, 1, data), 0x281);
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 0, 1, data), 0);
    assert_int_equal(tu_io(&t, PLX_BDEV_FLUSH, 0, 0, NULL), 0x281);
    tu_close(&t);
    tu_open(&t, "error:ram:1M?type=failure"); /* all, for ever */
    for (int i = 0; i < 10; i++)
        assert_int_equal(tu_io(&t, PLX_BDEV_WRITE_ZEROES, 0, 1, NULL), PLX_SC_INTERNAL_ERROR);
    tu_close(&t);
    tu_open(&t, "error:ram:1M?type=failure&queue_depth=1");
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, 0, 1, data), 0);
    tu_close(&t);
    tu_open(&t, "error:ram:1M?io=read&type=corrupt&offset=511&value=3");
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, 0, 1, data), 0);
    assert_int_equal(data[511], 3);
    assert_true(tu_zeroed(data, 511));
    tu_close(&t);
}

static void wrong_settings_get_a_sentence(void **state)
{
    (void)state;
    tu_refused("error:ram:1M?io=read", "what is injected is failure, pending or corrupt");
    tu_refused("error:ram:1M?type=fail", "type=fail: what is injected is");
    tu_refused("error:ram:1M?type=failure&io=", "io=: it is all, or some of read");
    tu_refused("error:ram:1M?type=failure&io=read,", "it is all, or some of read");
    tu_refused("error:ram:1M?type=failure&io=read,sync", "io=sync: it is all");
    tu_refused("error:ram:1M?type=failure&status=0", "status=0: it is a number from 1 to 2047");
    tu_refused("error:ram:1M?type=failure&status=0x", "status=0x: it is a number");
    tu_refused("error:ram:1M?type=failure&status=281x", "status=281x: it is a number");
    tu_refused("error:ram:1M?type=failure&status=-1", "status=-1: it is a number");
    tu_refused("error:ram:1M?type=failure&count=0", "count=0: it is a number");
    tu_refused("error:ram:1M?type=failure&queue_depth=4294967296", "queue_depth=4294967296: it is a number");
    tu_refused("error:ram:1M?type=corrupt&value=256", "value=256: it is a number from 1 to 255");
    tu_refused("error:ram:1M?type=corrupt&offset=99999999999999999999", "offset=99999999999999999999: it is a number");
    tu_refused("error:ram:1M?type=corrupt&offset=-1", "offset=-1: it is a number");
    tu_refused("error:ram:1M?type=corrupt&offset=", "offset=: it is a number");
    tu_refused("error:ram:1M?type=corrupt&offset=0x", "offset=0x: it is a number");
    tu_refused("error:ram:1M?type=corrupt&io=flush,unmap", "only what is read and written can be corrupted");
    tu_refused("error:ram:1M?count=1&block=4096", "error:[ram:1G?block=4096]");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(so_many_requests_of_an_operation_fail),
        cmocka_unit_test(it_fails_for_ever_until_that_is_taken_back),
        cmocka_unit_test(only_a_deep_queue_fails),
        cmocka_unit_test(pending_requests_end_when_they_are_aborted_or_reset),
        cmocka_unit_test(pending_requests_go_on_when_that_is_taken_back),
        cmocka_unit_test(pending_requests_end_when_the_disk_below_is_gone),
        cmocka_unit_test(the_disk_below_gets_requests_as_they_are),
        cmocka_unit_test(what_the_disk_below_has_is_aborted_there),
        cmocka_unit_test(more_requests_than_the_disk_below_is_given_wait_in_line),
        cmocka_unit_test(a_byte_of_what_is_read_is_another),
        cmocka_unit_test(a_byte_of_what_is_written_is_another),
        cmocka_unit_test(a_corrupted_write_ends_as_its_parts_do),
        cmocka_unit_test(a_disk_that_fails_neither_lends_nor_completes_in_place),
        cmocka_unit_test(what_cannot_be_injected_is_refused),
        cmocka_unit_test(what_is_injected_can_be_a_setting),
        cmocka_unit_test(wrong_settings_get_a_sentence),
    };
    return cmocka_run_group_tests(tests, tu_make_file, tu_remove_file);
}
