/* SPDX-License-Identifier: BSD-3-Clause */
/* Reactors, disks and channels when memory runs out at any point: an error with a sentence, nothing left over. */
#include "bdev_util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "failalloc.h"
#include "filters.h"

static char path[128];

/* From nothing to a channel through a filter, and back. */
static int use_channel(struct plx_bdev *bdev, struct plx_reactor *r)
{
    struct plx_bdev_channel *ch;
    int ret = plx_bdev_channel_get(bdev, r, &ch);
    if (ret)
        return ret;
    ret = plx_bdev_check(bdev, PLX_BDEV_READ, 0, 1) ? -EIO : 0;
    plx_bdev_channel_put(ch);
    return ret;
}

/* Limits that cannot be set are not. */
static int limit(struct plx_bdev *bdev)
{
    const struct plx_bdev_limits limits = {.ios = 1000};
    struct plx_bdev_limits are;
    struct plx_error err = {""};
    int ret = plx_bdev_set_limits(bdev, &limits, &err);
    plx_bdev_get_limits(bdev, &are);
    return are.ios != (ret ? 0 : limits.ios) || (ret && !err.text[0]) ? -EIO : ret;
}

static int use_disk(struct plx_bdev *bdev, struct plx_reactor *r)
{
    const struct plx_bdev_hold_opts o = {.who = "a test", .claim = PLX_BDEV_READS};
    struct plx_bdev_hold *hold;
    struct plx_bdev *filter = filter_halve_new(bdev, 8);
    if (!filter)
        return -ENOMEM;
    int ret = plx_bdev_hold(filter, &o, &hold, NULL);
    if (!ret) {
        ret = limit(filter);
        if (!ret)
            ret = use_channel(filter, r);
        plx_bdev_release(hold);
    }
    return plx_bdev_close(filter) ? -EIO : ret;
}

static bool serve(void *url)
{
    struct plx_reactor *r;
    struct plx_bdev *bdev;
    struct plx_error err = {""};
    int ret = plx_reactor_create(&r, NULL);
    if (ret)
        return ret == -ENOMEM;
    ret = plx_bdev_open_as(url, "a name", &bdev, &err);
    if (ret) {
        plx_reactor_destroy(r);
        return ret == -ENOMEM && err.text[0];
    }
    ret = use_disk(bdev, r);
    if (plx_bdev_close(bdev))
        return false;
    plx_reactor_destroy(r);
    return !ret || ret == -ENOMEM;
}

static void opening_survives_every_failed_allocation(void **state)
{
    const char *const urls[] = {"ram:1M", "null:1T", path, "delay:error:null:1T?read=1ms",
                                "error:[delay:[ram:1M]]?type=failure"};
    (void)state;
    for (size_t i = 0; i < 5; i++) {
        char url[128];
        memcpy(url, urls[i], strlen(urls[i]) + 1);
        assert_true(serve(url)); /* what OpenSSL allocates once and for all */
        assert_true(failalloc_each(serve, url) > 5);
    }
}

static int make_file(void **state)
{
    (void)state;
    snprintf(path, sizeof path, "/tmp/pollux-failalloc-%d", (int)getpid());
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int ret = fd < 0 ? -1 : ftruncate(fd, 1 << 20);
    close(fd);
    return ret;
}

static int remove_file(void **state)
{
    (void)state;
    return unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opening_survives_every_failed_allocation),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}
