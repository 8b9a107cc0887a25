/* SPDX-License-Identifier: BSD-3-Clause */
/* Units of a disk, read many at a time by whoever waits for them. */
#include "check.h"

#include "base/util.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>

enum {
    INTERRUPTED_TRIES = 100, /* of what ends as interrupted, which means that it is to be tried again */
    INTERRUPTED_MS = 10,
};

struct pck_io {
    struct plx_bdev_req req;
    struct iovec iov;
    struct pck_disk *disk;
};

static void pck_io_done(struct plx_bdev_req *req)
{
    struct pck_disk *d = plx_container_of(req, struct pck_io, req)->disk;
    if (!--d->pending && d->running)
        plx_reactor_stop(d->reactor);
}

static void pck_io_submit(struct pck_disk *d, struct pck_io *io, enum plx_bdev_op op, uint64_t unit, void *mem)
{
    const unsigned shift = d->shift - d->block_shift;
    io->disk = d;
    io->iov = (struct iovec){mem, (size_t)1 << d->shift};
    io->req = (struct plx_bdev_req){.done = pck_io_done, .op = (uint8_t)op};
    if (mem) {
        io->req.iov = &io->iov;
        io->req.iovcnt = 1;
        io->req.lba = unit << shift;
        io->req.nlb = 1U << shift;
    }
    d->pending++;
    plx_bdev_submit(d->ch, &io->req);
}

static void pck_io_await(struct pck_disk *d)
{
    if (d->turn) {
        while (d->pending)
            d->turn(d->reactor);
    } else if (d->pending) {
        d->running = true;
        plx_reactor_run(d->reactor);
        d->running = false;
    }
}

int pck_disk_open(struct pck_disk *d, struct plx_bdev *bdev, struct plx_reactor *reactor,
                  void (*turn)(struct plx_reactor *r))
{
    static const struct plx_reactor_opts opts = {.core = -1, .mode = PLX_POLL_SLEEP};
    *d = (struct pck_disk){.bdev = bdev, .reactor = reactor, .turn = reactor ? turn : NULL};
    d->block_shift = (unsigned)__builtin_ctz(plx_bdev_info(bdev)->block_size);
    d->shift = d->block_shift > PCK_SHIFT_MIN ? d->block_shift : PCK_SHIFT_MIN;
    d->io = aligned_alloc(16, PCK_AT_ONCE * sizeof *d->io);
    int ret = d->io ? 0 : -ENOMEM;
    if (!ret && !reactor)
        ret = plx_reactor_create(&d->reactor, &opts);
    if (!ret)
        ret = plx_bdev_channel_get(bdev, d->reactor, &d->ch);
    if (ret)
        pck_disk_close(d);
    return ret;
}

void pck_disk_close(struct pck_disk *d)
{
    if (d->ch)
        plx_bdev_channel_put(d->ch);
    if (!d->turn && d->reactor)
        plx_reactor_destroy(d->reactor);
    free(d->io);
    *d = (struct pck_disk){0};
}

static void units_read(struct pck_disk *d, struct pck_read *reads, unsigned n)
{
    const uint64_t units = pck_disk_units(d);
    bool sent[PCK_AT_ONCE];
    for (int tries = 0, again = 1; again && tries < INTERRUPTED_TRIES; tries++) {
        again = 0;
        for (unsigned i = 0; i < n; i++) {
            sent[i] = reads[i].unit < units && (!tries || reads[i].status == PLX_SC_COMMAND_INTERRUPTED);
            if (sent[i])
                pck_io_submit(d, &d->io[i], PLX_BDEV_READ, reads[i].unit, reads[i].mem);
            else if (reads[i].unit >= units)
                reads[i].status = PLX_SC_LBA_OUT_OF_RANGE;
        }
        pck_io_await(d);
        for (unsigned i = 0; i < n; i++) {
            reads[i].status = sent[i] ? d->io[i].req.status : reads[i].status;
            again |= reads[i].status == PLX_SC_COMMAND_INTERRUPTED;
        }
        if (again)
            poll(NULL, 0, INTERRUPTED_MS);
    }
}

void pck_disk_read(struct pck_disk *d, struct pck_read *reads, unsigned n)
{
    for (unsigned at = 0; at < n; at += PCK_AT_ONCE)
        units_read(d, reads + at, n - at < PCK_AT_ONCE ? n - at : PCK_AT_ONCE);
}

uint16_t pck_disk_read_one(struct pck_disk *d, uint64_t unit, void *mem)
{
    struct pck_read r = {.unit = unit, .mem = mem};
    units_read(d, &r, 1);
    return r.status;
}

uint16_t pck_disk_write(struct pck_disk *d, uint64_t unit, void *mem)
{
    pck_io_submit(d, d->io, PLX_BDEV_WRITE, unit, mem);
    pck_io_await(d);
    return d->io->req.status;
}

uint16_t pck_disk_flush(struct pck_disk *d)
{
    if (!(plx_bdev_info(d->bdev)->ops & 1 << PLX_BDEV_FLUSH))
        return 0;
    pck_io_submit(d, d->io, PLX_BDEV_FLUSH, 0, NULL);
    pck_io_await(d);
    return d->io->req.status;
}

uint64_t pck_disk_units(const struct pck_disk *d)
{
    return plx_bdev_blocks(d->bdev) >> (d->shift - d->block_shift);
}
