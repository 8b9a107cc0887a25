/* SPDX-License-Identifier: BSD-3-Clause */
/* A disk's channels on every reactor of a set: all or none, and the last flush has a limit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <pthread.h>

#include "base/util.h"
#include "bdev/access.h"
#include "failalloc.h"
#include "test_disk.h"

enum { REACTORS = 3 };

static struct plx_reactor *reactors[REACTORS];
static pthread_t threads[REACTORS];
static struct test_disk *disk;
static struct plx_bdev_access access_;
static int told, result;
static unsigned apart; /* 1: the home reactor has no channel */
static int seen;       /* by the disk, before the flush */
static uint16_t status;
static _Atomic int ended;

static void *run(void *arg)
{
    plx_reactor_run(arg);
    return NULL;
}

static int begin(void **state)
{
    (void)state;
    apart = 0;
    disk = test_disk_new();
    for (int i = 0; i < REACTORS; i++) {
        assert_int_equal(plx_reactor_create(&reactors[i], NULL), 0);
        if (i)
            pthread_create(&threads[i], NULL, run, reactors[i]);
    }
    return 0;
}

static int begin_apart(void **state)
{
    int ret = begin(state);
    apart = 1;
    return ret;
}

static int end(void **state)
{
    (void)state;
    for (int i = 1; i < REACTORS; i++) {
        plx_reactor_stop(reactors[i]);
        pthread_join(threads[i], NULL);
    }
    for (int i = 0; i < REACTORS; i++)
        plx_reactor_destroy(reactors[i]);
    assert_int_equal(disk->channels, 0);
    plx_bdev_close(&disk->bdev);
    return 0;
}

static void tell(struct plx_bdev_access *a, int ret)
{
    assert_ptr_equal(a, &access_);
    told++;
    result = ret;
    plx_reactor_stop(reactors[0]);
}

/* @return what the answer was, which is one */
static int answer(void)
{
    plx_reactor_run(reactors[0]);
    assert_int_equal(told, 1);
    told = 0;
    return result;
}

static int open_all(void)
{
    int ret = plx_bdev_access_open(&access_, &disk->bdev, reactors + apart, REACTORS - apart, reactors[0], tell);
    assert_int_equal(told, 0);
    return ret ? ret : answer();
}

static void close_all(void)
{
    plx_bdev_access_close(&access_, tell);
    assert_int_equal(answer(), 0);
    assert_int_equal(disk->channels, 0);
}

static void end_here(struct plx_msg *msg)
{
    (void)msg;
    ended = test_disk_end(disk, status) ? 1 : -1;
}

static void flush(uint32_t limit_ms)
{
    seen = disk->seen;
    plx_bdev_access_flush(&access_, limit_ms, tell);
}

/* The disk ends the flush that is on its way to it, on the reactor that it came on. */
static void end_flush(uint16_t with)
{
    static struct plx_msg msg = {.fn = end_here};
    while (disk->seen == seen)
        plx_reactor_poll(reactors[0]);
    status = with;
    ended = 0;
    plx_reactor_send(access_.flusher->reactor, &msg);
    while (!ended)
        plx_reactor_poll(reactors[0]);
    assert_int_equal(ended, 1);
}

static void every_reactor_gets_a_channel_of_its_own(void **state)
{
    (void)state;
    assert_int_equal(open_all(), 0);
    assert_int_equal(disk->channels, REACTORS - apart);
    for (unsigned i = 0; i < REACTORS - apart; i++)
        assert_ptr_equal(plx_bdev_access_channel(&access_, i)->reactor, reactors[i + apart]);
    close_all();
}

static void what_fails_on_one_reactor_is_undone_on_all(void **state)
{
    (void)state;
    for (unsigned i = apart; i < REACTORS; i++) {
        disk->refuse = reactors[i];
        disk->open_result = -EMFILE;
        assert_int_equal(open_all(), -EMFILE);
        assert_int_equal(disk->channels, 0);
    }
    disk->refuse = NULL;
    failalloc_at(1);
    assert_int_equal(open_all(), -ENOMEM);
    failalloc_at(0);
}

static void a_flush_tells_how_it_ended(void **state)
{
    (void)state;
    assert_int_equal(open_all(), 0);
    flush(60000);
    assert_int_equal(told, 0);
    end_flush(PLX_SC_SUCCESS);
    assert_int_equal(answer(), 0);

    flush(60000);
    end_flush(PLX_SC_WRITE_FAULT);
    assert_int_equal(answer(), -EIO);
    assert_int_equal(access_.flush.status, PLX_SC_WRITE_FAULT);
    assert_int_equal(plx_reactor_timeout(reactors[0]), -1); /* no limit is left running */

    disk->bdev.info.write_cache = false; /* nothing to flush */
    flush(60000);
    assert_int_equal(answer(), 0);
    disk->bdev.info.write_cache = disk->bdev.info.read_only = true;
    flush(60000);
    assert_int_equal(answer(), 0);
    disk->bdev.info.read_only = false;
    assert_int_equal(disk->seen, seen);
    close_all();
}

static void an_overdue_flush_is_aborted_and_not_waited_for(void **state)
{
    (void)state;
    for (int ignores = 0; ignores < 2; ignores++) {
        assert_int_equal(open_all(), 0);
        disk->ignores_aborts = ignores;
        disk->aborts = 0;
        flush(10);
        assert_int_equal(answer(), -ETIMEDOUT);
        plx_bdev_access_close(&access_, tell);
        if (ignores) { /* channels are not put back under the disk's hands */
            for (int i = 0; i < 100; i++)
                plx_reactor_poll(reactors[0]);
            assert_int_equal(disk->channels, REACTORS - apart);
            assert_int_equal(told, 0);
            end_flush(PLX_SC_SUCCESS);
        }
        assert_int_equal(answer(), 0);
        assert_int_equal(disk->channels, 0);
        assert_int_equal(disk->aborts, 1);
    }
}

/* Both reactors are polled here. */
static void a_flush_that_ends_as_its_limit_passes_is_not_aborted(void **state)
{
    (void)state;
    struct plx_reactor *home, *other;
    assert_int_equal(plx_reactor_create(&home, NULL), 0);
    assert_int_equal(plx_reactor_create(&other, NULL), 0);
    assert_int_equal(plx_bdev_access_open(&access_, &disk->bdev, &other, 1, home, tell), 0);
    while (!told)
        plx_reactor_poll(other), plx_reactor_poll(home);
    told = 0;
    flush(10);
    while (disk->seen == seen)
        plx_reactor_poll(other);
    while (!told)
        plx_reactor_poll(home);
    told = 0;
    assert_int_equal(result, -ETIMEDOUT);
    assert_true(test_disk_end(disk, PLX_SC_SUCCESS));
    plx_bdev_access_close(&access_, tell);
    while (!told)
        plx_reactor_poll(other), plx_reactor_poll(home);
    told = 0;
    assert_int_equal(disk->aborts, 0);
    plx_reactor_destroy(home);
    plx_reactor_destroy(other);
}

int main(void)
{
#define EACH(f) cmocka_unit_test_setup_teardown(f, begin, end), cmocka_unit_test_setup_teardown(f, begin_apart, end)
    const struct CMUnitTest tests[] = {
        EACH(every_reactor_gets_a_channel_of_its_own),
        EACH(what_fails_on_one_reactor_is_undone_on_all),
        EACH(a_flush_tells_how_it_ended),
        EACH(an_overdue_flush_is_aborted_and_not_waited_for),
        cmocka_unit_test_setup_teardown(a_flush_that_ends_as_its_limit_passes_is_not_aborted, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
