/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Slow disks, in simulated time: who waits and how long, what ends that early, and the names of filters.
 */
#include "bdev_util.h"

#include <errno.h>
#include <pollux/bdev_filter.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bdev/core.h"
#include "reactor/clock.h"
#include "test_disk.h"

enum { BLOCK = 512, MS = 1000 }; /* in bytes; in us */

static uint64_t now_ns;

static uint64_t simulated(void)
{
    return now_ns;
}

static int begin_time(void **state)
{
    (void)state;
    now_ns = PLX_NS_PER_S;
    plx_clock_simulate(simulated);
    return 0;
}

static int end_time(void **state)
{
    (void)state;
    plx_clock_simulate(NULL);
    return 0;
}

/* ---- a slow disk on one that ends requests when it is told to ---- */

struct slow {
    struct test_disk *d;
    struct tu t;
    uint8_t data[2 * BLOCK];
};

static void slow_begin(struct slow *s, const struct plx_bdev_delays *delays)
{
    struct plx_bdev *bdev;
    struct plx_error err;
    memset(s, 0, sizeof *s);
    s->d = test_disk_new();
    if (plx_bdev_delay_create(&s->d->bdev, "slow", NULL, delays, &bdev, &err))
        fail_msg("%s", err.text);
    tu_join(&s->t, bdev);
}

static void slow_end(struct slow *s)
{
    tu_close(&s->t);
    assert_int_equal(plx_bdev_close(&s->d->bdev), 0); /* which the filter did not */
}

static void slow_start(struct slow *s, struct tu_req *q, enum plx_bdev_op op)
{
    tu_req_init(q);
    tu_start(&s->t, q, op, 3, 1, s->data);
}

static void settle(struct plx_reactor *r)
{
    while (plx_reactor_poll(r))
        ;
}

static void pass_ns(struct plx_reactor *r, uint64_t ns)
{
    now_ns += ns;
    settle(r);
}

static void finish_below(struct slow *s, struct tu_req *q)
{
    assert_true(test_disk_end(s->d, PLX_SC_WRITE_FAULT));
    assert_int_equal(q->done, 1);
    assert_int_equal(q->req->status, PLX_SC_WRITE_FAULT); /* it is what the disk below said */
    tu_req_free(q);
}

static void requests_wait_as_long_as_their_kind(void **state)
{
    (void)state;
    static const struct {
        enum plx_bdev_op op;
        unsigned us;
    } kinds[] = {
        {PLX_BDEV_READ, 2 * MS},    {PLX_BDEV_COMPARE, 2 * MS}, {PLX_BDEV_VERIFY, 2 * MS},
        {PLX_BDEV_WRITE, 5 * MS},   {PLX_BDEV_COPY, 5 * MS},    {PLX_BDEV_COMPARE_AND_WRITE, 5 * MS},
        {PLX_BDEV_WRITE_ZEROES, 0}, {PLX_BDEV_UNMAP, 0},        {PLX_BDEV_FLUSH, 0},
        {PLX_BDEV_ALLOCATED, 0},
    };
    static const struct plx_bdev_delays delays = {2 * MS, 2 * MS, 5 * MS, 5 * MS};
    struct slow s;
    slow_begin(&s, &delays);
    for (size_t i = 0; i < PLX_ARRAY_SIZE(kinds); i++) {
        struct tu_req q;
        int seen = s.d->seen;
        slow_start(&s, &q, kinds[i].op);
        if (kinds[i].us) {
            pass_ns(s.t.reactor, kinds[i].us * PLX_NS_PER_US - 1);
            assert_int_equal(s.d->seen, seen);
            assert_int_equal(plx_reactor_timeout(s.t.reactor), 1);
            pass_ns(s.t.reactor, 1);
        }
        assert_int_equal(s.d->seen, seen + 1);
        finish_below(&s, &q);
    }
    slow_end(&s);
}

static void one_request_of_a_hundred_is_the_slow_one(void **state)
{
    (void)state;
    enum { REQS = 10000, PART = 500 };
    static const struct plx_bdev_delays delays = {1 * MS, 100 * MS, 2 * MS, 100 * MS};
    struct slow s;
    static struct tu_req q[PART];
    int late = 0;
    slow_begin(&s, &delays);
    for (int i = 0; i < REQS; i += PART) {
        for (int k = 0; k < PART; k++)
            slow_start(&s, &q[k], k % 2 ? PLX_BDEV_READ : PLX_BDEV_WRITE);
        pass_ns(s.t.reactor, 2 * MS * PLX_NS_PER_US);
        while (test_disk_end(s.d, 0))
            ;
        for (int k = 0; k < PART; k++)
            late += !q[k].done;
        pass_ns(s.t.reactor, 97 * MS * PLX_NS_PER_US);
        assert_false(test_disk_end(s.d, 0));
        pass_ns(s.t.reactor, MS * PLX_NS_PER_US);
        while (test_disk_end(s.d, 0))
            ;
        for (int k = 0; k < PART; k++) {
            assert_int_equal(q[k].done, 1);
            tu_req_free(&q[k]);
        }
    }
    assert_in_range(late, REQS / 100 * 3 / 4, REQS / 100 * 5 / 4);
    slow_end(&s);
}

static void delays_change_while_requests_wait(void **state)
{
    (void)state;
    static const struct plx_bdev_delays delays = {1, 2, 3, 4};
    struct plx_bdev_delays is;
    struct slow s;
    struct tu_req old, fresh, later;
    slow_begin(&s, &delays);
    assert_int_equal(plx_bdev_delay_get(s.t.bdev, &is, NULL), 0);
    assert_memory_equal(&is, &delays, sizeof is);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(plx_bdev_delay_set(s.t.bdev, (enum plx_bdev_delay)i, (4 - i) * MS, NULL), 0);
    assert_int_equal(plx_bdev_delay_get(s.t.bdev, &is, NULL), 0);
    assert_true(is.avg_read_us == 4 * MS && is.p99_read_us == 3 * MS && is.avg_write_us == 2 * MS &&
                is.p99_write_us == MS);
    plx_bdev_delay_set(s.t.bdev, PLX_BDEV_DELAY_P99_READ, 4 * MS, NULL);
    slow_start(&s, &old, PLX_BDEV_READ);
    plx_bdev_delay_set(s.t.bdev, PLX_BDEV_DELAY_AVG_READ, MS, NULL);
    plx_bdev_delay_set(s.t.bdev, PLX_BDEV_DELAY_P99_READ, MS, NULL);
    slow_start(&s, &later, PLX_BDEV_READ);
    plx_bdev_delay_set(s.t.bdev, PLX_BDEV_DELAY_AVG_READ, 0, NULL);
    plx_bdev_delay_set(s.t.bdev, PLX_BDEV_DELAY_P99_READ, 0, NULL);
    slow_start(&s, &fresh, PLX_BDEV_READ);
    finish_below(&s, &fresh);
    pass_ns(s.t.reactor, MS * PLX_NS_PER_US);
    finish_below(&s, &later); /* not behind the one that has been longer there */
    pass_ns(s.t.reactor, 3 * MS * PLX_NS_PER_US - 1);
    assert_int_equal(s.d->seen, 2);
    pass_ns(s.t.reactor, 1);
    finish_below(&s, &old);
    slow_end(&s);
}

static void what_waits_can_be_aborted_and_is_not_done(void **state)
{
    (void)state;
    static const struct plx_bdev_delays delays = {MS, MS, MS, MS};
    struct slow s;
    struct tu_req q[3], reset;
    slow_begin(&s, &delays);
    for (int i = 0; i < 3; i++)
        slow_start(&s, &q[i], PLX_BDEV_WRITE);
    plx_bdev_abort(s.t.ch, q[1].req);
    assert_int_equal(q[1].done, 1);
    assert_int_equal(q[1].req->status, PLX_SC_ABORTED_BY_REQUEST);
    assert_int_equal(q[0].done + q[2].done, 0);
    slow_start(&s, &reset, PLX_BDEV_RESET);
    assert_int_equal(reset.done, 1);
    assert_int_equal(reset.req->status, 0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(q[i].done, 1);
        assert_int_equal(q[i].req->status, PLX_SC_ABORTED_BY_REQUEST);
        tu_req_free(&q[i]);
    }
    tu_req_free(&reset);
    pass_ns(s.t.reactor, 10 * MS * PLX_NS_PER_US);
    assert_int_equal(s.d->seen, 0);
    assert_int_equal(plx_reactor_timeout(s.t.reactor), -1);
    slow_start(&s, &q[0], PLX_BDEV_WRITE); /* when the disk below has it, that is asked */
    pass_ns(s.t.reactor, MS * PLX_NS_PER_US);
    assert_int_equal(q[0].done, 0);
    plx_bdev_abort(s.t.ch, q[0].req);
    assert_int_equal(s.d->aborts, 1);
    assert_int_equal(q[0].done, 1);
    tu_req_free(&q[0]);
    slow_end(&s);
}

static void what_waits_ends_when_the_disk_below_is_gone(void **state)
{
    (void)state;
    static const struct plx_bdev_delays delays = {PLX_BDEV_DELAY_MAX_US, PLX_BDEV_DELAY_MAX_US, 0, 0};
    struct slow s;
    struct tu other;
    struct tu_req q[3], after;
    slow_begin(&s, &delays);
    tu_join(&other, s.t.bdev);
    tu_leave(&other); /* who has left is not told */
    tu_join(&other, s.t.bdev);
    slow_start(&s, &q[0], PLX_BDEV_READ);
    slow_start(&s, &q[1], PLX_BDEV_READ);
    tu_req_init(&q[2]);
    tu_start(&other, &q[2], PLX_BDEV_READ, 0, 1, s.data);
    plx_bdev_gone(&s.d->bdev, "a test wants it so");
    settle(s.t.reactor);
    assert_int_equal(q[2].done, 0); /* on its own reactor */
    settle(other.reactor);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(q[i].done, 1);
        assert_int_equal(q[i].req->status, PLX_SC_INVALID_NAMESPACE_OR_FORMAT);
        tu_req_free(&q[i]);
    }
    slow_start(&s, &after, PLX_BDEV_READ);
    assert_int_equal(after.done, 1);
    assert_int_equal(after.req->status, PLX_SC_INVALID_NAMESPACE_OR_FORMAT);
    tu_req_free(&after);
    assert_int_equal(s.d->seen, 0);
    tu_leave(&other);
    slow_end(&s);
}

/* The message finds no channel any more; that it is freed then is the sanitizer's to see. */
static void a_channel_may_be_put_back_before_it_hears_that_the_disk_is_gone(void **state)
{
    (void)state;
    static const struct plx_bdev_delays delays = {0};
    struct slow s;
    slow_begin(&s, &delays);
    plx_bdev_gone(&s.d->bdev, "a test wants it so");
    plx_bdev_channel_put(s.t.ch);
    assert_int_equal(plx_bdev_close(s.t.bdev), 0);
    settle(s.t.reactor);
    plx_reactor_destroy(s.t.reactor);
    plx_bdev_close(&s.d->bdev);
}

static void a_slow_disk_is_as_large_as_the_disk_below(void **state)
{
    (void)state;
    static const struct plx_bdev_delays delays = {0};
    struct plx_bdev *below, *top;
    assert_int_equal(plx_bdev_open("null:1G", &below, NULL), 0);
    assert_int_equal(plx_bdev_delay_create(below, NULL, NULL, &delays, &top, NULL), 0);
    assert_ptr_equal(plx_bdev_below(top), below);
    assert_null(plx_bdev_below(below));
    assert_int_equal(plx_bdev_resize(below, 77, NULL), 0);
    assert_int_equal(plx_bdev_blocks(top), 77);
    assert_int_equal(plx_bdev_resize(top, 78, NULL), 0); /* and the other way round */
    assert_int_equal(plx_bdev_blocks(top), 78);
    assert_int_equal(plx_bdev_blocks(below), 78);
    plx_bdev_close(top);
    plx_bdev_close(below);
}

/* Nothing gets round the delay; and what the null disk leaves undefined for itself is zeroes. */
static void a_slow_disk_neither_lends_nor_completes_in_place(void **state)
{
    (void)state;
    uint8_t data[BLOCK];
    struct tu t;
    tu_open(&t, "delay:null:1M");
    assert_null(plx_bdev_map(t.ch, 0, 1));
    assert_false(t.info->in_place);
    memset(data, 0xa5, sizeof data);
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, 0, 1, data), 0);
    assert_true(tu_zeroed(data, sizeof data));
    tu_close(&t);
}

static void what_is_wrong_is_said(void **state)
{
    (void)state;
    static const struct plx_bdev_delays none = {0}, much = {.p99_write_us = PLX_BDEV_DELAY_MAX_US + 1};
    struct plx_bdev_delays out;
    struct plx_error err = {""};
    struct plx_bdev *ram, *top;
    assert_int_equal(plx_bdev_open("ram:1M", &ram, NULL), 0);
    assert_int_equal(plx_bdev_delay_set(ram, PLX_BDEV_DELAY_AVG_READ, 1, &err), -EINVAL);
    assert_non_null(strstr(err.text, "ram:1M is of kind ram, and has no delays"));
    assert_int_equal(plx_bdev_delay_get(ram, &out, &err), -EINVAL);
    assert_int_equal(plx_bdev_error_create(ram, NULL, NULL, &top, &err), 0);
    assert_int_equal(plx_bdev_delay_set(top, PLX_BDEV_DELAY_AVG_READ, 1, &err), -EINVAL);
    plx_bdev_close(top);
    assert_int_equal(plx_bdev_delay_create(ram, NULL, NULL, &much, &top, &err), -EINVAL);
    assert_non_null(strstr(err.text, "a day"));
    assert_int_equal(plx_bdev_delay_create(ram, "", NULL, &none, &top, &err), -EINVAL);
    assert_int_equal(plx_bdev_delay_create(ram, "one", NULL, &none, &top, &err), 0);
    assert_int_equal(plx_bdev_delay_set(top, (enum plx_bdev_delay)4, 1, &err), -EINVAL);
    assert_non_null(strstr(err.text, "one: there are 4 delays"));
    assert_int_equal(plx_bdev_delay_set(top, PLX_BDEV_DELAY_P99_READ, PLX_BDEV_DELAY_MAX_US + 1, &err), -EINVAL);
    struct plx_bdev *second;
    assert_int_equal(plx_bdev_delay_create(ram, "two", NULL, &none, &second, &err), -EBUSY); /* it has it for itself */
    assert_non_null(strstr(err.text, "one"));
    plx_bdev_close(top);
    plx_bdev_close(ram);
}

/* ---- names ---- */

static bool count_disk(void *arg, struct plx_bdev *bdev)
{
    (void)bdev;
    ++*(int *)arg;
    return true;
}

static int count_disks(void)
{
    int n = 0;
    plx_bdev_each(count_disk, &n);
    return n;
}

/* Opens a name; it is known by its full form, under which it can be opened again. */
static void check_name(const char *name, const char *full, int disks)
{
    struct plx_bdev *bdev;
    struct plx_error err;
    int before = count_disks();
    for (int i = 0; i < 2; i++) {
        if (plx_bdev_open(i ? full : name, &bdev, &err))
            fail_msg("%s: %s", i ? full : name, err.text);
        assert_string_equal(plx_bdev_info(bdev)->name, full);
        assert_int_equal(count_disks(), before + disks);
        assert_int_equal(plx_bdev_close(bdev), 0);
        assert_int_equal(count_disks(), before); /* what it opened it has closed */
    }
}

static void names_of_filters_are_understood(void **state)
{
    (void)state;
    char name[600], full[600];
    check_name("delay:ram:1M?read=2ms", "delay:ram:1M?read=2ms", 2);
    check_name("delay:[ram:1M]?read=2ms", "delay:ram:1M?read=2ms", 2);
    check_name("delay:[ram:1M?block=4096]", "delay:[ram:1M?block=4096]", 2);
    check_name("error:[delay:[null:1M?block=4096]?read=1s&write_p99=0]?io=read&type=failure",
               "error:[delay:[null:1M?block=4096]?read=1s&write_p99=0]?io=read&type=failure", 3);
    check_name("delay:delay:error:ram:1M?read=1us", "delay:delay:error:ram:1M?read=1us", 4);
    snprintf(name, sizeof name, "delay:[%s]?read=1ms", tu_path);
    snprintf(full, sizeof full, "delay:file://%s?read=1ms", tu_path);
    check_name(name, full, 2);
    snprintf(name, sizeof name, "delay:[file:%s?ro=1]?read=1ms&uuid=01234567-89ab-cdef-0123-456789abcdef", tu_path);
    snprintf(full, sizeof full, "delay:[file://%s?ro=1]?read=1ms", tu_path);
    check_name(name, full, 2);
}

static void a_filter_stands_on_a_disk_that_is_open(void **state)
{
    (void)state;
    static const char uuid[] = "01234567-89ab-cdef-0123-456789abcdef";
    char name[80];
    struct plx_bdev *disk, *unnamed, *top;
    struct plx_error err;
    assert_int_equal(plx_bdev_open_as("ram:1M?uuid=01234567-89ab-cdef-0123-456789abcdef", "a [disk]?", &disk, NULL), 0);
    check_name("delay:[a [disk]?]?read=2ms", "delay:[a [disk]?]?read=2ms", 1);
    assert_int_equal(plx_bdev_open("error:[a [disk]?]", &top, NULL), 0);
    assert_ptr_equal(plx_bdev_below(top), disk);
    assert_int_equal(plx_bdev_close(disk), -EBUSY);
    assert_int_equal(plx_bdev_open("delay:[a [disk]?]", &unnamed, &err), -EBUSY);
    assert_int_equal(plx_bdev_close(top), 0);
    snprintf(name, sizeof name, "delay:%s?read=1ms", uuid);
    assert_int_equal(plx_bdev_open(name, &top, NULL), 0);
    assert_ptr_equal(plx_bdev_below(top), disk);
    assert_ptr_equal(plx_bdev_find(uuid), top); /* which has it now */
    assert_int_equal(plx_bdev_close(top), 0);
    assert_int_equal(plx_bdev_close(disk), 0);
    /* What was opened without a name is no name. */
    assert_int_equal(plx_bdev_open("ram:1M", &unnamed, NULL), 0);
    assert_int_equal(plx_bdev_open("delay:ram:1M", &top, NULL), 0);
    assert_ptr_not_equal(plx_bdev_below(top), unnamed);
    plx_bdev_close(top);
    plx_bdev_close(unnamed);
    /* Its UUID is one all the same. */
    assert_int_equal(plx_bdev_open("ram:1M?uuid=01234567-89ab-cdef-0123-456789abcdef", &unnamed, NULL), 0);
    assert_int_equal(plx_bdev_open("delay:01234567-89AB-CDEF-0123-456789abcdef", &top, NULL), 0);
    assert_ptr_equal(plx_bdev_below(top), unnamed);
    plx_bdev_close(top);
    plx_bdev_close(unnamed);
}

static void identity(const char *name, const char *driver, struct plx_bdev_info *out)
{
    struct plx_bdev *bdev;
    assert_int_equal(plx_bdev_open(name, &bdev, NULL), 0);
    *out = *plx_bdev_info(bdev);
    assert_string_equal(out->driver, driver);
    plx_bdev_close(bdev);
}

static void a_filter_is_the_disk_below_unless_it_is_told_otherwise(void **state)
{
    (void)state;
    char name[600];
    struct plx_bdev_info below, top, again;
    identity(tu_url, "file", &below);
    snprintf(name, sizeof name, "delay:%s?read=1ms", tu_url);
    identity(name, "delay", &top);
    assert_memory_equal(top.uuid, below.uuid, 16);
    snprintf(name, sizeof name, "error:%s?uuid=01234567-89ab-cdef-0123-456789abcdef", tu_url);
    identity(name, "error", &top);
    assert_int_equal(top.uuid[1], 0x23);
    /* A RAM disk's UUID is another one each time, but what was asked for is the same. */
    identity("delay:ram:1M?read=1ms", "delay", &top);
    identity("delay:ram:1M?read=1ms", "delay", &again);
    assert_memory_not_equal(top.uuid, again.uuid, 16);
    assert_memory_equal(top.origin, again.origin, 16);
    identity("delay:ram:1M?read=2ms", "delay", &again);
    assert_memory_not_equal(top.origin, again.origin, 16);
}

static void wrong_names_of_filters_get_a_sentence(void **state)
{
    (void)state;
    int before = count_disks();
    tu_refused("delay:?read=1ms", "delay: names no disk to stand on");
    tu_refused("delay:[]", "names no disk to stand on");
    tu_refused("delay:[ram:1G", "a [ is not closed");
    tu_refused("delay:[ram:[1G]", "a [ is not closed");
    tu_refused("delay:[ram:1G]x?read=1ms", "after the ] come settings");
    tu_refused("delay:[ram:1x]?read=1ms", "ram:1x names no size");
    tu_refused("delay:error:rma:1G?read=1ms", "'rma' is no kind of disk");
    tu_refused("delay:ram:1G?block=4096", "delay:[ram:1G?block=4096]");
    tu_refused("delay:ram:1G?uuid=x", "uuid=x");
    static const char *const times[] = {"",
                                        "2",
                                        "2h",
                                        "ms",
                                        "-1ms",
                                        "1.ms",
                                        "0x1s",
                                        "1e3s",
                                        "90000s",
                                        "2 ms",
                                        "inf",
                                        "99999999999999999999999s",
                                        "18446744073710s"};
    for (size_t i = 0; i < PLX_ARRAY_SIZE(times); i++) {
        char name[80];
        snprintf(name, sizeof name, "delay:ram:1G?write_p99=%s", times[i]);
        tu_refused(name, "a time is a number of us, ms or s, as in write_p99=2ms");
    }
    assert_int_equal(count_disks(), before);
}

static void times_are_understood(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        struct plx_bdev_delays d;
    } names[] = {
        {"read=2ms", {2000, 2000, 0, 0}},
        {"write=500us", {0, 0, 500, 500}},
        {"read=1.5ms&read_p99=1.25s", {1500, 1250000, 0, 0}},
        {"write_p99=86400s&read_p99=0", {0, 0, 0, PLX_BDEV_DELAY_MAX_US}},
        {"read=1.0000019s", {1000001, 1000001, 0, 0}},
    };
    for (size_t i = 0; i < PLX_ARRAY_SIZE(names); i++) {
        struct plx_bdev_delays d;
        struct plx_bdev *bdev;
        char name[120];
        snprintf(name, sizeof name, "delay:ram:1M?%s", names[i].text);
        assert_int_equal(plx_bdev_open(name, &bdev, NULL), 0);
        assert_int_equal(plx_bdev_delay_get(bdev, &d, NULL), 0);
        assert_memory_equal(&d, &names[i].d, sizeof d);
        plx_bdev_close(bdev);
    }
}

/* ---- one upon the other ---- */

/* A name with so many filters on a RAM disk, of either kind in turn, the lowest a slow one. */
static void name_tower(char *name, int filters)
{
    name[0] = 0;
    for (int i = filters - 1; i >= 0; i--)
        name = stpcpy(name, i % 2 ? "error:[" : "delay:[");
    name = stpcpy(name, "ram:1M?block=512");
    for (int i = 0; i < filters; i++)
        name = stpcpy(name, i % 2 ? "]" : "]?read=1ms&write=1ms");
}

static void advance(struct tu *t, struct tu_req *q)
{
    while (!q->done) {
        now_ns += PLX_NS_PER_MS;
        settle(t->reactor);
    }
}

static uint16_t slowly(struct tu *t, enum plx_bdev_op op, uint32_t nlb, void *data)
{
    struct tu_req q;
    tu_req_init(&q);
    q.req->src_lba = 100;
    tu_start(t, &q, op, 8, nlb, data);
    advance(t, &q);
    uint16_t status = q.req->status;
    tu_req_free(&q);
    return status;
}

static void filters_stand_eight_deep(void **state)
{
    (void)state;
    enum { N = 16 };
    char name[2000];
    struct tu t;
    uint8_t *a = tu_pattern((size_t)2 * N * BLOCK, 1), *b = tu_pattern((size_t)N * BLOCK, 2);
    int before = count_disks();
    name_tower(name, 8);
    tu_open(&t, name);
    assert_int_equal(count_disks(), before + 9);
    assert_int_equal(slowly(&t, PLX_BDEV_WRITE, N, a), 0);
    assert_int_equal(slowly(&t, PLX_BDEV_READ, N, b), 0);
    assert_memory_equal(a, b, N * BLOCK);
    assert_int_equal(slowly(&t, PLX_BDEV_COMPARE, N, a), 0);
    assert_int_equal(slowly(&t, PLX_BDEV_COMPARE_AND_WRITE, N, a), 0);
    assert_int_equal(slowly(&t, PLX_BDEV_COMPARE, N, a + N * BLOCK), 0);
    assert_int_equal(slowly(&t, PLX_BDEV_FLUSH, 0, NULL), 0);
    assert_int_equal(slowly(&t, PLX_BDEV_COPY, N, NULL), 0); /* zeroes */
    assert_int_equal(slowly(&t, PLX_BDEV_READ, N, b), 0);
    assert_true(tu_zeroed(b, N * BLOCK));
    assert_int_equal(slowly(&t, PLX_BDEV_WRITE, N, a), 0);
    assert_int_equal(slowly(&t, PLX_BDEV_WRITE_ZEROES, N, NULL), 0);
    assert_int_equal(slowly(&t, PLX_BDEV_UNMAP, N, NULL), 0);
    assert_int_equal(slowly(&t, PLX_BDEV_READ, N, b), 0);
    assert_true(tu_zeroed(b, N * BLOCK));

    struct plx_bdev *bottom = t.bdev;
    while (plx_bdev_below(bottom))
        bottom = plx_bdev_below(bottom);
    plx_bdev_resized(bottom, 99);
    assert_int_equal(plx_bdev_blocks(t.bdev), 99);

    struct tu_req q[5], reset;
    for (int i = 0; i < 5; i++) {
        tu_req_init(&q[i]);
        tu_start(&t, &q[i], PLX_BDEV_WRITE, 0, 1, a);
        now_ns += PLX_NS_PER_MS;
        settle(t.reactor);
    }
    assert_int_equal(q[0].done, 1);
    assert_int_equal(q[1].done, 1); /* it came when the first had a delay behind it, of four */
    assert_int_equal(q[2].done + q[3].done + q[4].done, 0);
    plx_bdev_abort(t.ch, q[2].req);
    assert_int_equal(q[2].req->status, PLX_SC_ABORTED_BY_REQUEST);
    tu_req_init(&reset);
    tu_start(&t, &reset, PLX_BDEV_RESET, 0, 0, NULL);
    assert_int_equal(reset.done, 1);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(q[i].done, 1);
        assert_int_equal(q[i].req->status, i < 2 ? 0 : PLX_SC_ABORTED_BY_REQUEST);
        tu_req_free(&q[i]);
    }
    tu_req_free(&reset);
    plx_bdev_gone(bottom, "a test wants it so");
    settle(t.reactor);
    assert_int_equal(slowly(&t, PLX_BDEV_READ, N, b), PLX_SC_INVALID_NAMESPACE_OR_FORMAT);
    tu_close(&t);
    assert_int_equal(count_disks(), before);
    free(a);
    free(b);
}

static void filters_stand_no_deeper_than_their_limit(void **state)
{
    (void)state;
    char name[2000];
    struct plx_bdev *bdev;
    int before = count_disks();
    name_tower(name, 32);
    assert_int_equal(plx_bdev_open(name, &bdev, NULL), 0);
    plx_bdev_close(bdev);
    name_tower(name, 33);
    tu_refused(name, "32 filters one upon the other already");
    assert_int_equal(count_disks(), before);
}

int main(void)
{
#define TIMED(test) cmocka_unit_test_setup_teardown(test, begin_time, end_time)
    const struct CMUnitTest tests[] = {
        TIMED(requests_wait_as_long_as_their_kind),
        TIMED(one_request_of_a_hundred_is_the_slow_one),
        TIMED(delays_change_while_requests_wait),
        TIMED(what_waits_can_be_aborted_and_is_not_done),
        TIMED(what_waits_ends_when_the_disk_below_is_gone),
        TIMED(a_channel_may_be_put_back_before_it_hears_that_the_disk_is_gone),
        cmocka_unit_test(a_slow_disk_is_as_large_as_the_disk_below),
        cmocka_unit_test(a_slow_disk_neither_lends_nor_completes_in_place),
        cmocka_unit_test(what_is_wrong_is_said),
        cmocka_unit_test(names_of_filters_are_understood),
        cmocka_unit_test(a_filter_stands_on_a_disk_that_is_open),
        cmocka_unit_test(a_filter_is_the_disk_below_unless_it_is_told_otherwise),
        cmocka_unit_test(wrong_names_of_filters_get_a_sentence),
        cmocka_unit_test(times_are_understood),
        TIMED(filters_stand_eight_deep),
        cmocka_unit_test(filters_stand_no_deeper_than_their_limit),
    };
    return cmocka_run_group_tests(tests, tu_make_file, tu_remove_file);
}
