/* SPDX-License-Identifier: BSD-3-Clause */
/* Units of a SCSI host, which come and go: disks that are gone, reactors that refuse, hosts that end meanwhile. */
#include "test_disk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include <errno.h>
#include <pollux/vhost.h>

enum { REACTORS = 2, ROUNDS = 1000, NOT_YET = 1 };

static struct plx_reactor *reactors[REACTORS];
static struct plx_vhost *vhost;
static struct plx_vhost_ctrlr *host;
static struct test_disk *disk;
static char folder[] = "/tmp/pollux-scsi-XXXXXX", path[64];

static void told(void *arg, int ret)
{
    *(int *)arg = ret;
}

/* All that the disk is asked for is its last flush. */
static void settle(const int *result)
{
    for (int i = 0; i < ROUNDS && *result == NOT_YET; i++) {
        for (int k = 0; k < REACTORS; k++)
            plx_reactor_poll(reactors[k]);
        if (disk)
            test_disk_end(disk, PLX_SC_SUCCESS);
    }
}

static void rounds(void)
{
    int never = NOT_YET;
    settle(&never);
}

static int begin(void **state)
{
    const struct plx_reactor_opts opts = {.core = -1, .mode = PLX_POLL_BUSY, .buffer_bytes = 1 << 20};
    int made = NOT_YET;
    (void)state;
    for (int i = 0; i < REACTORS; i++)
        assert_int_equal(plx_reactor_create(&reactors[i], &opts), 0);
    assert_int_equal(plx_vhost_create(&vhost, reactors, REACTORS, NULL, NULL), 0);
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/s", folder);
    assert_int_equal(plx_vhost_scsi_create(vhost, path, NULL, told, &made, &host, NULL), 0);
    assert_int_equal(made, NOT_YET);
    settle(&made);
    assert_int_equal(made, 0);
    disk = test_disk_new();
    return 0;
}

static int end(void **state)
{
    int stopped = NOT_YET;
    (void)state;
    plx_vhost_stop(vhost, 1000, told, &stopped);
    settle(&stopped);
    assert_int_equal(stopped, 0);
    plx_vhost_destroy(vhost);
    assert_int_equal(disk->channels, 0);
    assert_int_equal(plx_bdev_close(&disk->bdev), 0);
    disk = NULL;
    for (int i = 0; i < REACTORS; i++)
        plx_reactor_destroy(reactors[i]);
    assert_int_equal(rmdir(folder), 0);
    snprintf(folder + sizeof folder - 7, 7, "XXXXXX");
    return 0;
}

/* @return the result, NOT_YET when that comes later */
static int add(unsigned target, unsigned lun, int *result)
{
    const struct plx_vhost_lun what = {.target = target, .lun = lun, .bdev = &disk->bdev};
    struct plx_error err;
    *result = NOT_YET;
    return plx_vhost_scsi_add(host, &what, told, result, &err);
}

static unsigned units(void)
{
    unsigned n = 0;
    for (struct plx_vhost_lun at = {0}; plx_vhost_scsi_next(host, &at);)
        n++;
    return n;
}

static void units_are_listed_in_order(void **state)
{
    static const unsigned order[] = {0, 255, 256, 3 * 256 + 7, 255 * 256 + 255};
    int result[5];
    (void)state;
    for (int i = 4; i >= 0; i--) {
        assert_int_equal(add(order[i] >> 8, order[i] & 0xff, &result[i]), 0);
        assert_int_equal(result[i], NOT_YET);
    }
    assert_int_equal(units(), 0);
    settle(&result[0]);
    unsigned n = 0;
    for (struct plx_vhost_lun at = {0}; plx_vhost_scsi_next(host, &at); n++)
        assert_int_equal(at.target << 8 | at.lun, order[n]);
    assert_int_equal(n, 5);
    int again;
    assert_int_equal(add(3, 7, &again), -EEXIST);
    assert_int_equal(add(256, 0, &again), -EINVAL);
    assert_int_equal(add(0, 256, &again), -EINVAL);
}

static void a_disk_that_is_gone_takes_its_unit_along(void **state)
{
    int result;
    (void)state;
    assert_int_equal(add(1, 0, &result), 0);
    settle(&result);
    assert_int_equal(units(), 1);
    assert_int_equal(disk->channels, REACTORS);
    plx_bdev_gone(&disk->bdev, "the test says so");
    rounds();
    assert_int_equal(units(), 0);
    assert_int_equal(disk->channels, 0);
}

static void a_reactor_that_refuses_undoes_it(void **state)
{
    int result;
    (void)state;
    disk->refuse = reactors[1];
    disk->open_result = -EMFILE;
    assert_int_equal(add(1, 0, &result), 0);
    settle(&result);
    assert_int_equal(result, -EMFILE);
    assert_int_equal(units(), 0);
    disk->refuse = NULL;
    assert_int_equal(add(1, 0, &result), 0);
    settle(&result);
    assert_int_equal(result, 0);
}

static void a_host_that_ends_while_a_unit_comes(void **state)
{
    int result, removed = NOT_YET, late;
    (void)state;
    assert_int_equal(add(1, 0, &result), 0);
    assert_int_equal(plx_vhost_remove(host, told, &removed), 0);
    assert_int_equal(removed, NOT_YET);
    assert_int_equal(add(2, 0, &late), -EBUSY);
    settle(&removed);
    assert_int_equal(removed, 0);
    assert_int_equal(result, -ECANCELED);
    assert_null(plx_vhost_next(vhost, NULL));
}

static void a_unit_is_removed_once(void **state)
{
    int result, removed = NOT_YET;
    struct plx_error err;
    (void)state;
    assert_int_equal(plx_vhost_scsi_remove(host, 1, 0, told, &removed, &err), -ENODEV);
    assert_int_equal(add(1, 0, &result), 0);
    assert_int_equal(plx_vhost_scsi_remove(host, 1, 0, told, &removed, &err), -EBUSY);
    settle(&result);
    assert_int_equal(plx_vhost_scsi_remove(host, 1, 0, told, &removed, &err), 0);
    assert_int_equal(plx_vhost_scsi_remove(host, 1, 0, told, &result, &err), -EBUSY);
    assert_int_equal(units(), 0);
    settle(&removed);
    assert_int_equal(removed, 0);
    assert_int_equal(disk->channels, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(units_are_listed_in_order, begin, end),
        cmocka_unit_test_setup_teardown(a_disk_that_is_gone_takes_its_unit_along, begin, end),
        cmocka_unit_test_setup_teardown(a_reactor_that_refuses_undoes_it, begin, end),
        cmocka_unit_test_setup_teardown(a_host_that_ends_while_a_unit_comes, begin, end),
        cmocka_unit_test_setup_teardown(a_unit_is_removed_once, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
