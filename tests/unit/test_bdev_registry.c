/* SPDX-License-Identifier: BSD-3-Clause */
/* Disks by name, who holds them, what these are told, and opening without blocking a reactor. */
#include "bdev_util.h"

#include <errno.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/util.h"
#include "base/uuid.h"
#include "bdev/driver.h"
#include "filters.h"
#include "test_disk.h"

enum { BLOCK = 512 };

/* ---- names ---- */

static void a_disk_is_found_by_name_uuid_and_what_was_opened(void **state)
{
    (void)state;
    struct plx_bdev *a, *b, *c;
    char text[PLX_UUID_TEXT];
    assert_int_equal(plx_bdev_open("ram:1M", &a, NULL), 0);
    assert_int_equal(plx_bdev_open_as("ram:1M", "Malloc0", &b, NULL), 0);
    assert_int_equal(plx_bdev_open_as("null:1T", "ram:1M", &c, NULL), 0); /* a name comes before all else */
    assert_string_equal(plx_bdev_info(b)->name, "Malloc0");
    assert_ptr_equal(plx_bdev_find("Malloc0"), b);
    assert_ptr_equal(plx_bdev_find("ram:1M"), c);
    plx_uuid_format(plx_bdev_info(a)->uuid, text);
    assert_ptr_equal(plx_bdev_find(text), a);
    plx_uuid_format(plx_bdev_info(b)->uuid, text);
    assert_ptr_equal(plx_bdev_find(text), b);
    plx_bdev_close(c);
    assert_ptr_equal(plx_bdev_find("ram:1M"), a);
    plx_bdev_close(b);
    assert_null(plx_bdev_find("Malloc0"));
    assert_null(plx_bdev_find(text));
    plx_bdev_close(a);
    assert_null(plx_bdev_find("ram:1M"));
}

static void a_disk_is_found_by_its_alias(void **state)
{
    (void)state;
    struct plx_bdev *a, *b, *c;
    struct plx_error err;
    char alias[64];
    assert_int_equal(plx_bdev_open_as("ram:1M", "a", &a, NULL), 0);
    assert_int_equal(plx_bdev_open_as("ram:1M", "b", &b, NULL), 0);
    assert_false(plx_bdev_get_alias(a, alias, sizeof alias));
    assert_int_equal(plx_bdev_set_alias(a, "lvs/a", &err), 0);
    assert_ptr_equal(plx_bdev_find("lvs/a"), a);
    assert_int_equal(plx_bdev_set_alias(a, "lvs/a", &err), 0);
    assert_true(plx_bdev_get_alias(a, alias, sizeof alias));
    assert_string_equal(alias, "lvs/a");
    assert_int_equal(plx_bdev_set_alias(b, "lvs/a", &err), -EEXIST);
    assert_int_equal(plx_bdev_set_alias(b, "a", &err), -EEXIST);
    assert_int_equal(plx_bdev_set_alias(b, "", &err), -EINVAL);
    assert_int_equal(plx_bdev_open_as("ram:1M", "lvs/a", &c, &err), -EEXIST);
    assert_int_equal(plx_bdev_set_alias(a, "lvs/b", &err), 0);
    assert_null(plx_bdev_find("lvs/a"));
    assert_int_equal(plx_bdev_set_alias(b, "lvs/a", &err), 0);
    assert_int_equal(plx_bdev_set_alias(b, NULL, &err), 0);
    assert_null(plx_bdev_find("lvs/a"));
    plx_bdev_close(a);
    assert_null(plx_bdev_find("lvs/b"));
    plx_bdev_close(b);
}

static void a_uuid_is_that_of_the_filter_and_not_of_the_disk_below(void **state)
{
    (void)state;
    struct plx_bdev *disk;
    char text[PLX_UUID_TEXT];
    assert_int_equal(plx_bdev_open("ram:1M", &disk, NULL), 0);
    struct plx_bdev *filter = filter_pass_new(disk);
    plx_uuid_format(plx_bdev_info(disk)->uuid, text);
    assert_ptr_equal(plx_bdev_find(text), filter);
    plx_bdev_close(filter);
    assert_ptr_equal(plx_bdev_find(text), disk);
    plx_bdev_close(disk);
}

static void a_name_is_given_once(void **state)
{
    (void)state;
    struct plx_bdev *a, *b = NULL;
    struct plx_error err;
    char long_name[300];
    memset(long_name, 'x', sizeof long_name);
    long_name[256] = 0;
    const char *const bad[] = {"", "a\nb", "\xff", long_name};
    assert_int_equal(plx_bdev_open_as("ram:1M", "Malloc0", &a, NULL), 0);
    assert_int_equal(plx_bdev_open_as(tu_url, "Malloc0", &b, &err), -EEXIST);
    assert_non_null(strstr(err.text, "Malloc0"));
    for (size_t i = 0; i < PLX_ARRAY_SIZE(bad); i++) {
        assert_int_equal(plx_bdev_open_as(tu_url, bad[i], &b, &err), -EINVAL);
        assert_non_null(strstr(err.text, "255"));
    }
    assert_null(b);
    long_name[255] = 0;
    assert_int_equal(plx_bdev_open_as(tu_url, long_name, &b, NULL), 0); /* and the file is not held from before */
    assert_ptr_equal(plx_bdev_find(long_name), b);
    plx_bdev_close(b);
    plx_bdev_close(a);
}

static bool count_three(void *arg, struct plx_bdev *bdev)
{
    int *n = arg;
    assert_string_equal(plx_bdev_info(bdev)->driver, "null");
    return ++*n < 3;
}

static void all_disks_are_gone_through_until_it_is_enough(void **state)
{
    (void)state;
    struct plx_bdev *disks[4];
    int n = 0;
    plx_bdev_each(count_three, &n);
    assert_int_equal(n, 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(plx_bdev_open("null:1M", &disks[i], NULL), 0);
    plx_bdev_each(count_three, &n);
    assert_int_equal(n, 3);
    for (int i = 0; i < 4; i++)
        plx_bdev_close(disks[i]);
}

/* ---- claims ---- */

static void claims_conflict_where_one_of_two_cannot_have_the_other(void **state)
{
    (void)state;
    static const char *const names[] = {"reader", "clone", "sharer", "lvstore lvs0"};
    struct plx_bdev *bdev;
    assert_int_equal(plx_bdev_open("null:1M", &bdev, NULL), 0);
    for (int a = PLX_BDEV_READS; a <= PLX_BDEV_EXCLUSIVE; a++) {
        for (int b = PLX_BDEV_READS; b <= PLX_BDEV_EXCLUSIVE; b++) {
            struct plx_bdev_hold *first, *second;
            struct plx_error err = {""};
            struct plx_bdev_hold_opts o = {.who = names[a], .claim = (enum plx_bdev_claim)a};
            assert_int_equal(plx_bdev_hold(bdev, &o, &first, NULL), 0);
            o = (struct plx_bdev_hold_opts){.who = "another", .claim = (enum plx_bdev_claim)b};
            bool conflict = a && b && (a != b || a == PLX_BDEV_EXCLUSIVE);
            assert_int_equal(plx_bdev_hold(bdev, &o, &second, &err), conflict ? -EBUSY : 0);
            if (conflict)
                assert_non_null(strstr(err.text, names[a]));
            else
                plx_bdev_release(second);
            if (a == PLX_BDEV_EXCLUSIVE && conflict)
                assert_string_equal(err.text, "null:1M is used exclusively by lvstore lvs0");
            plx_bdev_release(first);
        }
    }
    plx_bdev_close(bdev);
}

static void a_disk_in_use_is_not_closed(void **state)
{
    (void)state;
    struct tu t;
    struct plx_bdev_hold *hold;
    const struct plx_bdev_hold_opts o = {.who = "somebody"};
    uint8_t data[BLOCK] = {0};
    tu_open(&t, "ram:1M");
    assert_int_equal(plx_bdev_close(t.bdev), -EBUSY); /* a channel is open */
    assert_int_equal(plx_bdev_hold(t.bdev, &o, &hold, NULL), 0);
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 0, 1, data), 0);
    tu_leave(&t);
    assert_int_equal(plx_bdev_close(t.bdev), -EBUSY);
    assert_ptr_equal(plx_bdev_find("ram:1M"), t.bdev);
    plx_bdev_release(hold);
    struct plx_bdev *filter = filter_pass_new(t.bdev);
    struct plx_error err;
    assert_int_equal(plx_bdev_close(t.bdev), -EBUSY); /* a filter stands on it, */
    assert_null(filter_pass_new(t.bdev));             /* which has it for itself */
    const struct plx_bdev_hold_opts writer = {.who = "writer", .claim = PLX_BDEV_SHARED};
    assert_int_equal(plx_bdev_hold(t.bdev, &writer, &hold, &err), -EBUSY);
    assert_string_equal(err.text, "ram:1M is used exclusively by pass:");
    assert_int_equal(plx_bdev_close(filter), 0);
    assert_int_equal(plx_bdev_close(t.bdev), 0);
}

/* ---- events ---- */

struct listener {
    struct plx_reactor *reactor;
    pthread_t thread;
    struct plx_bdev *bdev;
    struct plx_bdev_hold *hold;
    struct plx_msg msg;
    _Atomic int resized, gone;
    _Atomic uint64_t blocks;
    bool release; /* when told */
};

static void *run(void *arg)
{
    plx_reactor_run(arg);
    return NULL;
}

static void listener_told(void *arg, struct plx_bdev *bdev, enum plx_bdev_event what)
{
    struct listener *l = arg;
    assert_ptr_equal(bdev, l->bdev);
    assert_true(pthread_equal(pthread_self(), l->thread));
    l->blocks = plx_bdev_blocks(bdev);
    if (l->release)
        plx_bdev_release(l->hold);
    if (what == PLX_BDEV_RESIZED)
        l->resized++;
    else
        l->gone++;
}

static void listener_release(struct plx_msg *msg)
{
    struct listener *l = plx_container_of(msg, struct listener, msg);
    plx_bdev_release(l->hold);
    plx_reactor_stop(l->reactor);
}

static void listener_start(struct listener *l, struct plx_bdev *bdev)
{
    memset(l, 0, sizeof *l);
    l->bdev = bdev;
    assert_int_equal(plx_reactor_create(&l->reactor, NULL), 0);
    const struct plx_bdev_hold_opts o = {
        .who = "listener", .claim = PLX_BDEV_SHARED, .event = listener_told, .arg = l, .reactor = l->reactor};
    assert_int_equal(plx_bdev_hold(bdev, &o, &l->hold, NULL), 0);
}

static void listener_end(struct listener *l)
{
    if (l->release) {
        plx_reactor_stop(l->reactor);
    } else {
        l->msg.fn = listener_release;
        plx_reactor_send(l->reactor, &l->msg);
    }
    pthread_join(l->thread, NULL);
    plx_reactor_destroy(l->reactor);
}

static void wait_until(_Atomic int *n, int value)
{
    for (int ms = 0; *n < value; ms++) {
        assert_true(ms < 60000);
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
}

static void holders_are_told_on_their_reactor_that_it_was_resized(void **state)
{
    (void)state;
    struct tu t;
    struct listener a, b;
    uint8_t data[BLOCK] = {0};
    struct plx_error err;
    tu_open(&t, "null:1M");
    listener_start(&a, t.bdev);
    listener_start(&b, t.bdev);
    b.release = true; /* in the middle of being told */
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, 2048, 1, data), PLX_SC_LBA_OUT_OF_RANGE);
    assert_int_equal(plx_bdev_resize(t.bdev, 4096, NULL), 0);
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, 4095, 1, data), 0);
    assert_int_equal(plx_bdev_resize(t.bdev, 4096, NULL), 0); /* no news */
    assert_int_equal(plx_bdev_resize(t.bdev, 100, NULL), 0);
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, 99, 2, data), PLX_SC_LBA_OUT_OF_RANGE);
    assert_null(plx_bdev_map(t.ch, 100, 1));
    assert_int_equal(a.resized, 0); /* its reactor has not run yet */
    pthread_create(&a.thread, NULL, run, a.reactor);
    pthread_create(&b.thread, NULL, run, b.reactor);
    wait_until(&a.resized, 1);
    wait_until(&b.resized, 1);
    assert_int_equal(a.blocks, 100); /* once for both, and what it is now */
    assert_int_equal(plx_bdev_resize(t.bdev, 200, NULL), 0);
    wait_until(&a.resized, 2);
    assert_int_equal(a.blocks, 200);
    listener_end(&a);
    listener_end(&b);
    assert_int_equal(b.resized, 1);
    assert_int_equal(plx_bdev_resize(t.bdev, 0, &err), -EINVAL);
    assert_int_equal(plx_bdev_resize(t.bdev, UINT64_MAX / 512, &err), -EINVAL);
    tu_close(&t);
}

static void what_was_released_meanwhile_is_not_told(void **state)
{
    (void)state;
    struct plx_bdev *bdev;
    struct listener l;
    assert_int_equal(plx_bdev_open("null:1M", &bdev, NULL), 0);
    listener_start(&l, bdev);
    assert_int_equal(plx_bdev_resize(bdev, 1, NULL), 0);
    plx_bdev_release(l.hold); /* with the message on its way */
    assert_int_equal(plx_bdev_close(bdev), 0);
    plx_reactor_poll(l.reactor);
    assert_int_equal(l.resized, 0);
    plx_reactor_destroy(l.reactor);
}

static void each_of_several_events_is_told(void **state)
{
    (void)state;
    struct plx_bdev *bdev;
    struct listener l;
    assert_int_equal(plx_bdev_open("null:1M", &bdev, NULL), 0);
    listener_start(&l, bdev);
    l.thread = pthread_self();
    assert_int_equal(plx_bdev_resize(bdev, 1, NULL), 0);
    plx_bdev_gone(bdev, "at the same time");
    while (plx_reactor_poll(l.reactor))
        ;
    assert_int_equal(l.resized, 1);
    assert_int_equal(l.gone, 1);
    plx_bdev_release(l.hold);
    plx_reactor_destroy(l.reactor);
    plx_bdev_close(bdev);
}

static void free_filter(struct plx_bdev *filter)
{
    free(filter);
}

static void one_block_less(struct plx_bdev *filter, enum plx_bdev_event what)
{
    if (what == PLX_BDEV_RESIZED)
        plx_bdev_resized(filter, plx_bdev_blocks(filter->below) - 1);
}

/* A filter that has the size of the disk below, or one block less; and a disk that is resized before they are one. */
static void a_filter_hears_of_what_happened_while_it_was_made(void **state)
{
    (void)state;
    static const struct plx_bdev_ops ops[] = {{.close = free_filter}, {.close = free_filter, .event = one_block_less}};
    struct test_disk *d = test_disk_new();
    for (unsigned less = 0; less < PLX_ARRAY_SIZE(ops); less++) {
        for (uint64_t blocks = 4096; blocks >= 2048; blocks -= 1024) {
            struct plx_bdev *filter = calloc(1, sizeof *filter);
            assert_non_null(filter);
            plx_bdev_filter_init(filter, &d->bdev);
            filter->ops = &ops[less];
            filter->info.blocks -= less;
            plx_bdev_resized(&d->bdev, blocks);
            assert_int_equal(plx_bdev_register(filter, "less", "less:", NULL, NULL), 0);
            assert_int_equal(plx_bdev_blocks(filter), blocks - less);
            plx_bdev_resized(&d->bdev, 100);
            assert_int_equal(plx_bdev_blocks(filter), 100 - less);
            assert_int_equal(plx_bdev_close(filter), 0);
        }
    }
    assert_int_equal(plx_bdev_close(&d->bdev), 0);
}

static void a_disk_that_cannot_be_resized_says_so(void **state)
{
    (void)state;
    struct plx_bdev *bdev;
    struct plx_error err;
    assert_int_equal(plx_bdev_open("ram:1M", &bdev, NULL), 0);
    assert_int_equal(plx_bdev_resize(bdev, 4096, &err), -EOPNOTSUPP);
    assert_non_null(strstr(err.text, "ram:1M"));
    assert_int_equal(plx_bdev_rescan(bdev, &err), 0); /* nothing to see */
    plx_bdev_close(bdev);
}

static void a_disk_that_is_gone_ends_requests_and_can_be_closed(void **state)
{
    (void)state;
    enum { DEEP = 8 };
    static const enum plx_bdev_op ops[] = {PLX_BDEV_READ,  PLX_BDEV_WRITE, PLX_BDEV_WRITE_ZEROES, PLX_BDEV_UNMAP,
                                           PLX_BDEV_FLUSH, PLX_BDEV_COPY,  PLX_BDEV_COMPARE};
    struct test_disk *d = test_disk_new();
    struct plx_bdev *disks[DEEP + 1] = {&d->bdev};
    struct tu t;
    struct tu_req q;
    struct listener l;
    uint8_t data[BLOCK] = {0};
    for (int i = 0; i < DEEP; i++)
        disks[i + 1] = filter_pass_new(disks[i]);
    tu_join(&t, disks[DEEP]);
    listener_start(&l, disks[DEEP]);
    pthread_create(&l.thread, NULL, run, l.reactor);
    tu_req_init(&q);
    tu_start(&t, &q, PLX_BDEV_WRITE, 0, 1, data);
    plx_bdev_resized(&d->bdev, 4096); /* the top hears of both */
    wait_until(&l.resized, 1);
    assert_int_equal(plx_bdev_blocks(t.bdev), 4096);
    plx_bdev_gone(&d->bdev, "it was pulled out");
    plx_bdev_gone(&d->bdev, "once more");
    plx_bdev_resized(&d->bdev, 1);
    wait_until(&l.gone, 1);
    assert_int_equal(l.resized, 1);
    int seen = d->seen;
    for (size_t i = 0; i < PLX_ARRAY_SIZE(ops); i++) /* Invalid Namespace: a host that hears it does not try again */
        assert_int_equal(tu_io(&t, ops[i], 0, ops[i] == PLX_BDEV_FLUSH ? 0 : 1, data),
                         PLX_SC_INVALID_NAMESPACE_OR_FORMAT);
    assert_int_equal(d->seen, seen);
    assert_null(plx_bdev_map(t.ch, 0, 1));
    assert_int_equal(q.done, 0); /* what was in flight is the driver's still, and can be ended */
    assert_int_equal(tu_io(&t, PLX_BDEV_RESET, 0, 0, NULL), 0);
    assert_int_equal(q.done, 1);
    tu_req_free(&q);
    const struct plx_bdev_hold_opts o = {.who = "late"};
    struct plx_bdev_hold *hold;
    assert_int_equal(plx_bdev_hold(t.bdev, &o, &hold, NULL), -ENODEV);
    listener_end(&l);
    assert_int_equal(l.gone, 1);
    tu_leave(&t);
    for (int i = DEEP; i >= 0; i--)
        assert_int_equal(plx_bdev_close(disks[i]), 0);
}

/* ---- what a worker thread does ---- */

static struct outcome {
    struct plx_bdev *bdev;
    int done, result;
    struct plx_error err;
} outcome;

static void task_over(void *arg, struct plx_bdev *bdev, int result, const struct plx_error *err)
{
    struct outcome *o = arg;
    o->done++;
    o->bdev = bdev;
    o->result = result;
    o->err = *err;
}

static void finish(struct plx_reactor *r)
{
    while (!outcome.done) /* the test's own time limit ends this */
        tu_turn(r);
    assert_int_equal(outcome.done, 1);
    outcome.done = 0;
}

/* The reactor is not run at all meanwhile, so it was not on it. */
static void wait_for_disk(const char *name, bool there)
{
    for (int ms = 0; (plx_bdev_find(name) != NULL) != there; ms++) {
        assert_true(ms < 60000);
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
}

static bool no_threads;

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *), void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *), void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *), void *arg)
{
    return no_threads ? EAGAIN : __real_pthread_create(thread, attr, fn, arg);
}

static void where_there_can_be_no_thread_it_says_so(void **state)
{
    (void)state;
    struct plx_reactor *r;
    struct test_disk *d = test_disk_new();
    assert_int_equal(plx_reactor_create(&r, NULL), 0);
    no_threads = true;
    assert_int_equal(plx_bdev_open_begin(r, "ram:1M", "File0", task_over, &outcome), 0);
    finish(r);
    assert_int_equal(outcome.result, -EAGAIN);
    assert_null(outcome.bdev);
    assert_non_null(strstr(outcome.err.text, "ram:1M: cannot make a thread"));
    assert_int_equal(plx_bdev_rescan_begin(r, &d->bdev, task_over, &outcome), 0);
    finish(r);
    assert_int_equal(outcome.result, -EAGAIN);
    assert_non_null(strstr(outcome.err.text, "test:: cannot make a thread"));
    no_threads = false;
    assert_int_equal(plx_bdev_close_begin(r, &d->bdev, task_over, &outcome), 0);
    finish(r);
    assert_int_equal(outcome.result, 0);
    plx_reactor_destroy(r);
}

static void opening_and_closing_are_not_done_on_the_reactor(void **state)
{
    (void)state;
    struct plx_reactor *r;
    assert_int_equal(plx_reactor_create(&r, NULL), 0);
    assert_int_equal(plx_bdev_open_begin(r, tu_url, "File0", task_over, &outcome), 0);
    wait_for_disk("File0", true);
    assert_int_equal(outcome.done, 0);
    finish(r);
    assert_int_equal(outcome.result, 0);
    struct plx_bdev *bdev = outcome.bdev;
    assert_ptr_equal(bdev, plx_bdev_find("File0"));

    assert_int_equal(plx_bdev_open_begin(r, "ram:1M", "File0", task_over, &outcome), 0);
    finish(r);
    assert_int_equal(outcome.result, -EEXIST);
    assert_null(outcome.bdev);
    assert_non_null(strstr(outcome.err.text, "File0"));
    assert_int_equal(plx_bdev_open_begin(r, "nonsense:1", NULL, task_over, &outcome), 0);
    finish(r);
    assert_int_equal(outcome.result, -EINVAL);
    assert_non_null(strstr(outcome.err.text, "nonsense"));

    struct plx_bdev_hold *hold;
    const struct plx_bdev_hold_opts o = {.who = "somebody"};
    assert_int_equal(plx_bdev_hold(bdev, &o, &hold, NULL), 0);
    assert_int_equal(plx_bdev_close_begin(r, bdev, task_over, &outcome), 0);
    finish(r);
    assert_int_equal(outcome.result, -EBUSY);
    assert_ptr_equal(outcome.bdev, bdev);
    assert_string_equal(outcome.err.text, "File0 is used by somebody");
    plx_bdev_release(hold);
    assert_int_equal(plx_bdev_close_begin(r, bdev, task_over, &outcome), 0);
    wait_for_disk("File0", false);
    finish(r);
    assert_int_equal(outcome.result, 0);
    assert_null(outcome.bdev);
    plx_reactor_destroy(r);
}

static void a_file_that_was_resized_is_seen_when_it_is_looked_at(void **state)
{
    (void)state;
    struct tu t;
    uint8_t data[BLOCK] = {1};
    assert_int_equal(truncate(tu_path, 1 << 20), 0);
    tu_open(&t, tu_url);
    struct plx_bdev *filter = NULL;
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 2048, 1, data), PLX_SC_LBA_OUT_OF_RANGE);
    assert_int_equal(truncate(tu_path, (2 << 20) + 100), 0); /* not whole blocks: what is over is not seen */
    tu_leave(&t);
    filter = filter_pass_new(t.bdev);
    tu_join(&t, filter);
    assert_int_equal(plx_bdev_rescan_begin(t.reactor, filter, task_over, &outcome), 0); /* is passed on */
    finish(t.reactor);
    assert_int_equal(outcome.result, 0);
    assert_ptr_equal(outcome.bdev, filter);
    assert_int_equal(plx_bdev_blocks(filter), 4096);
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 4095, 1, data), 0);
    assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 4096, 1, data), PLX_SC_LBA_OUT_OF_RANGE);
    assert_int_equal(truncate(tu_path, 0), 0);
    assert_int_equal(plx_bdev_rescan_begin(t.reactor, filter, task_over, &outcome), 0);
    finish(t.reactor);
    assert_int_equal(outcome.result, -EINVAL);
    assert_non_null(strstr(outcome.err.text, "empty"));
    assert_int_equal(truncate(tu_path, 1 << 20), 0);
    assert_int_equal(plx_bdev_rescan(filter, NULL), 0);
    assert_int_equal(plx_bdev_blocks(filter), 2048);
    struct plx_bdev *below = filter->below;
    tu_close(&t);
    plx_bdev_close(below);
}

static sem_t look_on;

static int slow_rescan(struct plx_bdev *bdev, struct plx_error *err)
{
    (void)bdev, (void)err;
    while (sem_wait(&look_on) < 0)
        continue;
    return 0;
}

static void a_disk_is_not_closed_while_it_is_looked_at(void **state)
{
    (void)state;
    struct test_disk *d = test_disk_new();
    struct plx_bdev_ops slow = *d->bdev.ops;
    struct outcome look = {.done = 0};
    struct plx_reactor *r;
    slow.rescan = slow_rescan;
    d->bdev.ops = &slow;
    assert_int_equal(sem_init(&look_on, 0, 0), 0);
    assert_int_equal(plx_reactor_create(&r, NULL), 0);
    for (int gone = 0; gone < 2; gone++) {
        assert_int_equal(plx_bdev_rescan_begin(r, &d->bdev, task_over, &look), 0);
        assert_int_equal(plx_bdev_close_begin(r, &d->bdev, task_over, &outcome), 0);
        finish(r);
        assert_int_equal(outcome.result, -EBUSY);
        assert_string_equal(outcome.err.text, "test: is used by a look at its size");
        assert_int_equal(look.done, gone);
        sem_post(&look_on);
        while (look.done == gone)
            tu_turn(r);
        assert_int_equal(look.result, 0);
        plx_bdev_gone(&d->bdev, "the test is done with it");
    }
    assert_int_equal(plx_bdev_close(&d->bdev), 0);
    plx_reactor_destroy(r);
    sem_destroy(&look_on);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_disk_is_found_by_name_uuid_and_what_was_opened),
        cmocka_unit_test(a_disk_is_found_by_its_alias),
        cmocka_unit_test(a_uuid_is_that_of_the_filter_and_not_of_the_disk_below),
        cmocka_unit_test(a_name_is_given_once),
        cmocka_unit_test(all_disks_are_gone_through_until_it_is_enough),
        cmocka_unit_test(claims_conflict_where_one_of_two_cannot_have_the_other),
        cmocka_unit_test(a_disk_in_use_is_not_closed),
        cmocka_unit_test(holders_are_told_on_their_reactor_that_it_was_resized),
        cmocka_unit_test(what_was_released_meanwhile_is_not_told),
        cmocka_unit_test(each_of_several_events_is_told),
        cmocka_unit_test(a_filter_hears_of_what_happened_while_it_was_made),
        cmocka_unit_test(a_disk_that_cannot_be_resized_says_so),
        cmocka_unit_test(a_disk_that_is_gone_ends_requests_and_can_be_closed),
        cmocka_unit_test(where_there_can_be_no_thread_it_says_so),
        cmocka_unit_test(opening_and_closing_are_not_done_on_the_reactor),
        cmocka_unit_test(a_file_that_was_resized_is_seen_when_it_is_looked_at),
        cmocka_unit_test(a_disk_is_not_closed_while_it_is_looked_at),
    };
    return cmocka_run_group_tests(tests, tu_make_file, tu_remove_file);
}
