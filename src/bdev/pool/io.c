/* SPDX-License-Identifier: BSD-3-Clause */
/* Reads and writes of a pool's own. */
#include "pool.h"

void pool_io_init(struct pool_io *io, enum plx_bdev_op op, uint64_t unit, uint64_t n, struct plx_pool *p,
                  void (*done)(struct plx_bdev_req *req), void *arg)
{
    const unsigned shift = p->unit_shift - p->block_shift;
    const bool data = op == PLX_BDEV_READ || op == PLX_BDEV_WRITE;
    io->arg = arg;
    io->copies = 0;
    io->req.done = done;
    io->req.op = (uint8_t)op;
    io->req.flags = 0;
    io->req.status = 0;
    io->req.lba = unit << shift;
    io->req.src_lba = 0;
    io->req.nlb = (uint32_t)(n << shift);
    io->req.iov = io->iov;
    io->req.iovcnt = 0;
    for (uint64_t bytes = data ? n << p->unit_shift : 0; bytes; io->req.iovcnt++)
        bytes -= io->iov[io->req.iovcnt].iov_len;
}

bool pool_io_again(struct pool_io *io, const struct plx_pool *p)
{
    const uint8_t copies = plx_bdev_info(p->disk)->copies;
    if (copies < 2 || io->copies == copies)
        return false;
    io->req.flags = PLX_BDEV_ONE_COPY;
    io->req.copy = io->copies++;
    plx_bdev_submit(io->req.ch, &io->req);
    return true;
}
