/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A disk that holds nothing: what is written is gone, what is read is zeroes. For measuring what stands above it.
 *
 * Its reads come from a region of zeroes that it lends (plx_bdev_map()). A plain read of no more than that region
 * leaves the caller's memory as it was (info.undefined_reads), as measuring is what it is for; whoever reads for
 * others is to map. The core takes that back under filters that do not.
 */
#include "base/iov.h"
#include "bdev/driver.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { LENT = 1 << 20 };

struct null_disk {
    struct plx_bdev bdev;
    uint8_t *zeroes; /* LENT bytes, not writable */
};

static size_t bytes_of(const struct plx_bdev *bdev, uint32_t nlb)
{
    return (size_t)nlb << bdev->block_shift;
}

static void null_close(struct plx_bdev *bdev)
{
    struct null_disk *d = (struct null_disk *)bdev;
    munmap(d->zeroes, LENT);
    free(d);
}

static void fill_zeroes(struct iovec *iov, uint32_t iovcnt)
{
    for (uint32_t i = 0; i < iovcnt; i++)
        memset(iov[i].iov_base, 0, iov[i].iov_len);
}

/* Whether the first `bytes` of an iovec are zeroes. */
static bool all_zeroes(const struct null_disk *d, const struct iovec *iov, size_t bytes)
{
    struct plx_iov_at at = {iov, 0};
    for (size_t n; bytes; bytes -= n) {
        n = plx_min_u64(bytes, LENT);
        if (!plx_iov_equals(&at, d->zeroes, n))
            return false;
    }
    return true;
}

/* Not inlined, and to the end: what does nothing is not to save registers for what does. */
static __attribute__((noinline)) void null_look(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    const struct null_disk *d = (const struct null_disk *)ch->bdev;
    bool equal = true;
    if (req->op == PLX_BDEV_READ)
        fill_zeroes(req->iov, req->iovcnt);
    else
        equal = all_zeroes(d, req->iov, bytes_of(ch->bdev, req->nlb));
    plx_bdev_complete(req, equal ? PLX_SC_SUCCESS : PLX_SC_COMPARE_FAILURE);
}

static void null_submit(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    bool undefined = __atomic_load_n(&ch->bdev->info.undefined_reads, __ATOMIC_RELAXED);
    bool filled = req->op == PLX_BDEV_READ && (!undefined || bytes_of(ch->bdev, req->nlb) > LENT);
    if (plx_unlikely(filled || req->op == PLX_BDEV_COMPARE || req->op == PLX_BDEV_COMPARE_AND_WRITE))
        null_look(ch, req);
    else
        plx_bdev_complete(req, PLX_SC_SUCCESS);
}

static const void *null_map(struct plx_bdev_channel *ch, uint64_t lba, uint32_t nlb)
{
    const struct null_disk *d = (const struct null_disk *)ch->bdev;
    (void)lba;
    return bytes_of(ch->bdev, nlb) <= LENT ? d->zeroes : NULL;
}

static int null_resize(struct plx_bdev *bdev, uint64_t blocks, struct plx_error *err)
{
    (void)err;
    plx_bdev_resized(bdev, blocks);
    return 0;
}

static const struct plx_bdev_ops null_ops = {
    .close = null_close,
    .submit = null_submit,
    .map = null_map,
    .resize = null_resize,
};

static int null_open(const struct plx_url *url, struct plx_bdev **out, struct plx_error *err)
{
    uint64_t size;
    uint32_t block;
    uint8_t uuid[16];
    int ret = plx_url_volatile(url, &block, &size, uuid, err);
    if (ret)
        return ret;

    struct null_disk *d = calloc(1, sizeof *d);
    if (!d)
        return plx_fail(err, -ENOMEM, "out of memory");
    d->zeroes = mmap(NULL, LENT, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (d->zeroes == MAP_FAILED) {
        free(d);
        return plx_fail(err, -ENOMEM, "out of memory");
    }
    d->bdev.ops = &null_ops;
    struct plx_bdev_info *info = &d->bdev.info;
    info->block_size = info->write_unit = block;
    info->blocks = size / block;
    info->ops = ((1 << PLX_BDEV_OPS) - 1) & ~(1 << PLX_BDEV_ALLOCATED | PLX_BDEV_ZONED_OPS);
    info->unmap_granularity = 1;
    info->max_unmap_blocks = UINT32_MAX;
    info->unmap_reads_zero = info->in_place = info->undefined_reads = true;
    memcpy(info->uuid, uuid, sizeof uuid);
    *out = &d->bdev;
    return 0;
}

const struct plx_bdev_driver plx_bdev_null = {
    .scheme = "null",
    .help = "null:SIZE[?block=N]  nothing: reads zeroes, forgets writes; to measure with",
    .open = null_open,
};
