/* SPDX-License-Identifier: BSD-3-Clause */
#include "test_disk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static struct test_disk *disk_of(const struct plx_bdev_channel *ch)
{
    return (struct test_disk *)ch->bdev;
}

static void disk_close(struct plx_bdev *bdev)
{
    free(bdev);
}

static int disk_channel_open(struct plx_bdev_channel *ch)
{
    struct test_disk *d = disk_of(ch);
    if (ch->reactor == d->refuse)
        return d->open_result;
    d->channels++;
    return 0;
}

static void disk_channel_close(struct plx_bdev_channel *ch)
{
    disk_of(ch)->channels--;
}

static void disk_submit(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    struct test_disk *d = disk_of(ch);
    d->seen++;
    req->next = NULL;
    *d->last = req;
    d->last = &req->next;
}

static void take(struct test_disk *d, struct plx_bdev_req *req)
{
    struct plx_bdev_req **p = &d->first;
    while (*p != req)
        p = &(*p)->next;
    *p = req->next;
    if (!*p)
        d->last = p;
}

static void disk_abort(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    struct test_disk *d = disk_of(ch);
    d->aborts++;
    if (d->ignores_aborts)
        return;
    take(d, req);
    plx_bdev_complete(req, PLX_SC_ABORTED_BY_REQUEST);
}

bool test_disk_end(struct test_disk *d, uint16_t status)
{
    struct plx_bdev_req *req = d->first;
    if (!req)
        return false;
    take(d, req);
    plx_bdev_complete(req, status);
    return true;
}

static struct test_disk *disk_make(void)
{
    static const struct plx_bdev_ops ops = {
        .close = disk_close,
        .channel_open = disk_channel_open,
        .channel_close = disk_channel_close,
        .submit = disk_submit,
        .abort = disk_abort,
    };
    struct test_disk *d = calloc(1, sizeof *d);
    assert_non_null(d);
    d->last = &d->first;
    d->bdev.ops = &ops;
    d->bdev.info.block_size = d->bdev.info.write_unit = 512;
    d->bdev.info.blocks = 2048;
    d->bdev.info.ops = ((1 << PLX_BDEV_OPS) - 1) & ~(1 << PLX_BDEV_RESET | PLX_BDEV_ZONED_OPS);
    d->bdev.info.write_cache = true;
    d->bdev.info.unmap_granularity = 1;
    return d;
}

static struct test_disk *disk_open(struct test_disk *d)
{
    assert_int_equal(plx_bdev_register(&d->bdev, "test", "test:", NULL, NULL), 0);
    return d;
}

struct test_disk *test_disk_new(void)
{
    return test_disk_new_limited(UINT32_MAX);
}

struct test_disk *test_disk_new_limited(uint32_t max_unmap_blocks)
{
    struct test_disk *d = disk_make();
    d->bdev.info.max_unmap_blocks = max_unmap_blocks;
    return disk_open(d);
}

struct test_disk *test_disk_new_zoned(uint32_t max_append_blocks, bool read_only)
{
    struct test_disk *d = disk_make();
    struct plx_bdev_info *info = &d->bdev.info;
    info->ops = 1 << PLX_BDEV_READ | 1 << PLX_BDEV_WRITE | 1 << PLX_BDEV_FLUSH | 1 << PLX_BDEV_COMPARE |
                1 << PLX_BDEV_VERIFY | PLX_BDEV_ZONED_OPS;
    info->zone_blocks = 256;
    info->max_append_blocks = max_append_blocks;
    info->unmap_reads_zero = true;
    info->read_only = read_only;
    return disk_open(d);
}
