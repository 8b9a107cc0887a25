/* SPDX-License-Identifier: BSD-3-Clause */
/* Controllers of vhost-user as they are made and ended, whatever fails meanwhile. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <pollux/vhost.h>

#include "failalloc.h"
#include "test_disk.h"

enum { REACTORS = 3 };

static struct plx_reactor *reactors[REACTORS];
static struct test_disk *disk;
static char folder[] = "/tmp/test_vhost_XXXXXX", path[64];
static int told, result;

static void done(void *arg, int ret)
{
    (void)arg;
    told++;
    result = ret;
}

static void poll_all(void)
{
    for (int i = 0; i < 20; i++)
        for (int k = 0; k < REACTORS; k++)
            plx_reactor_poll(reactors[k]);
    while (test_disk_end(disk, PLX_SC_SUCCESS)) /* the last flush */
        for (int k = 0; k < 3 * REACTORS; k++)
            plx_reactor_poll(reactors[k % REACTORS]);
    for (int i = 0; i < 20; i++)
        for (int k = 0; k < REACTORS; k++)
            plx_reactor_poll(reactors[k]);
}

static int setup(void **state)
{
    (void)state;
    disk = test_disk_new();
    told = 0;
    for (int i = 0; i < REACTORS; i++)
        assert_int_equal(plx_reactor_create(&reactors[i], NULL), 0);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    assert_int_equal(disk->channels, 0);
    assert_int_equal(plx_bdev_close(&disk->bdev), 0); /* nobody holds it */
    for (int i = 0; i < REACTORS; i++)
        plx_reactor_destroy(reactors[i]);
    assert_int_equal(access(path, F_OK), -1);
    return 0;
}

static void stop(struct plx_vhost *v)
{
    told = 0;
    plx_vhost_stop(v, 1000, done, NULL);
    poll_all();
    assert_int_equal(told, 1);
    assert_int_equal(result, 0);
    plx_vhost_destroy(v);
}

static bool make_and_stop(void *arg)
{
    const struct plx_vhost_opts opts = {.control_apart = true};
    struct plx_vhost *v = NULL;
    struct plx_vhost_ctrlr *c;
    struct plx_error err = {""};
    (void)arg;
    told = result = 0;
    int ret = plx_vhost_create(&v, reactors, REACTORS, &opts, &err);
    if (ret)
        return ret == -ENOMEM && *err.text;
    ret = plx_vhost_blk_create(v, path, &disk->bdev, NULL, done, NULL, &c, &err);
    poll_all();
    bool well = ret ? ret == -ENOMEM && *err.text && !told && !plx_vhost_next(v, NULL)
                    : told == 1 && (!result || (result == -ENOMEM && !plx_vhost_next(v, NULL)));
    stop(v);
    return well;
}

static void each_allocation_fails(void **state)
{
    (void)state;
    assert_true(failalloc_each(make_and_stop, NULL) > 5);
}

static void a_reactor_without_a_channel(void **state)
{
    struct plx_vhost *v;
    struct plx_vhost_ctrlr *c;
    (void)state;
    assert_int_equal(plx_vhost_create(&v, reactors, REACTORS, NULL, NULL), 0);
    disk->refuse = reactors[2];
    disk->open_result = -EMFILE;
    assert_int_equal(plx_vhost_blk_create(v, path, &disk->bdev, NULL, done, NULL, &c, NULL), 0);
    poll_all();
    assert_int_equal(told, 1);
    assert_int_equal(result, -EMFILE);
    assert_null(plx_vhost_next(v, NULL));
    stop(v);
}

static void options_that_cannot_be(void **state)
{
    struct plx_vhost *v;
    struct plx_vhost_ctrlr *c;
    struct plx_error err;
    const int nowhere = 500;
    const struct plx_vhost_blk_opts wrong[] = {{.queues = 257},
                                               {.queue_size = 2048},
                                               {.queue_size = 3},
                                               {.serial = "123456789012345678901"},
                                               {.cores = &nowhere, .ncores = 1}};
    (void)state;
    assert_int_equal(plx_vhost_create(&v, reactors, REACTORS, NULL, NULL), 0);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_int_equal(plx_vhost_blk_create(v, path, &disk->bdev, &wrong[i], done, NULL, &c, &err), -EINVAL);
    assert_int_equal(plx_vhost_blk_create(v, path, &disk->bdev, NULL, done, NULL, &c, &err), 0);
    assert_int_equal(plx_vhost_blk_create(v, path, &disk->bdev, NULL, done, NULL, &c, &err), -EEXIST);
    poll_all();
    assert_ptr_equal(plx_vhost_find(v, path), c);
    assert_int_equal(plx_vhost_set_coalescing(c, 1001, 0, &err), -EINVAL);
    assert_int_equal(plx_vhost_remove(c, done, NULL), 0);
    assert_int_equal(plx_vhost_remove(c, done, NULL), -EALREADY);
    poll_all();
    assert_int_equal(told, 2);
    assert_null(plx_vhost_find(v, path));
    stop(v);
}

/* ---- disks that go ---- */

static struct plx_vhost *server;

static struct plx_vhost_ctrlr *device_of_disk(void)
{
    struct plx_vhost_ctrlr *c;
    assert_int_equal(plx_vhost_create(&server, reactors, REACTORS, NULL, NULL), 0);
    assert_int_equal(plx_vhost_blk_create(server, path, &disk->bdev, NULL, done, NULL, &c, NULL), 0);
    return c;
}

static const struct plx_bdev *disk_of(const struct plx_vhost_ctrlr *c)
{
    struct plx_vhost_info info;
    plx_vhost_get_info(c, &info);
    return info.bdev;
}

static void a_device_whose_disk_is_gone_stays_and_lets_go_of_it(void **state)
{
    struct plx_vhost_ctrlr *c = device_of_disk();
    (void)state;
    poll_all();
    assert_ptr_equal(disk_of(c), &disk->bdev);
    assert_int_equal(disk->channels, REACTORS);
    plx_bdev_gone(&disk->bdev, "the test says so");
    poll_all();
    assert_null(disk_of(c));
    assert_int_equal(disk->channels, 0);
    assert_ptr_equal(plx_vhost_find(server, path), c);
    told = 0;
    assert_int_equal(plx_vhost_remove(c, done, NULL), 0);
    poll_all();
    assert_int_equal(told, 1);
    stop(server);
}

static void a_disk_that_goes_before_its_device_is_there(void **state)
{
    const struct plx_vhost_ctrlr *c = device_of_disk();
    (void)state;
    plx_bdev_gone(&disk->bdev, "the test says so");
    poll_all();
    assert_int_equal(told, 1);
    assert_int_equal(result, 0);
    assert_null(disk_of(c));
    assert_int_equal(disk->channels, 0);
    stop(server);
}

/* Rounds without an end of requests. */
static void poll_only(void)
{
    for (int i = 0; i < 60; i++)
        plx_reactor_poll(reactors[i % REACTORS]);
}

static void a_device_is_removed_while_its_disk_goes(void **state)
{
    struct plx_vhost_ctrlr *c = device_of_disk();
    (void)state;
    poll_all();
    told = 0;
    assert_int_equal(plx_vhost_drop(server, &disk->bdev, 10000, done, NULL), 0);
    poll_only(); /* it is flushed */
    assert_int_equal(plx_vhost_remove(c, done, NULL), 0);
    poll_only();
    assert_int_equal(told, 0);
    poll_all();
    assert_int_equal(told, 2);
    assert_null(plx_vhost_find(server, path));
    stop(server);
}

static void who_wants_a_disk_that_nobody_has_is_told_at_once(void **state)
{
    struct test_disk *other = test_disk_new();
    (void)state;
    device_of_disk();
    poll_all();
    told = 0;
    assert_int_equal(plx_vhost_drop(server, &other->bdev, 10000, done, NULL), 0);
    assert_int_equal(told, 1);
    assert_int_equal(result, 0);
    assert_int_equal(plx_bdev_close(&other->bdev), 0);
    stop(server);
}

static void who_waits_for_a_disk_is_told_when_that_is_late_and_when_the_server_stops(void **state)
{
    (void)state;
    device_of_disk();
    poll_all();
    told = 0;
    assert_int_equal(plx_vhost_drop(server, &disk->bdev, 1, done, NULL), 0);
    while (!told)
        poll_only();
    assert_int_equal(result, -ETIMEDOUT);
    assert_int_equal(plx_vhost_drop(server, &disk->bdev, 10000, done, NULL), 0);
    told = 0;
    plx_vhost_stop(server, 10000, done, NULL);
    poll_all();
    assert_int_equal(told, 2);
    assert_int_equal(result, 0);
    plx_vhost_destroy(server);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(each_allocation_fails, setup, teardown),
        cmocka_unit_test_setup_teardown(a_reactor_without_a_channel, setup, teardown),
        cmocka_unit_test_setup_teardown(options_that_cannot_be, setup, teardown),
        cmocka_unit_test_setup_teardown(a_device_whose_disk_is_gone_stays_and_lets_go_of_it, setup, teardown),
        cmocka_unit_test_setup_teardown(a_disk_that_goes_before_its_device_is_there, setup, teardown),
        cmocka_unit_test_setup_teardown(a_device_is_removed_while_its_disk_goes, setup, teardown),
        cmocka_unit_test_setup_teardown(who_wants_a_disk_that_nobody_has_is_told_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(who_waits_for_a_disk_is_told_when_that_is_late_and_when_the_server_stops, setup,
                                        teardown),
    };
    if (!mkdtemp(folder))
        return 1;
    snprintf(path, sizeof path, "%s/d0", folder);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(folder);
    return failed;
}
