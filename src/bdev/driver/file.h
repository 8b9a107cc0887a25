/* SPDX-License-Identifier: BSD-3-Clause */
/* The file driver's two halves: file.c opens, file_ops.c reads and writes. */
#ifndef PLX_BDEV_DRIVER_FILE_H
#define PLX_BDEV_DRIVER_FILE_H

#include "base/iov.h"
#include "bdev/driver.h"
#include "reactor/aio.h"

struct plx_file {
    struct plx_bdev bdev;
    int fd;
    enum plx_aio_way way;
    bool block_device;
    bool direct;        /* past the page cache */
    uint32_t mem_align; /* direct: what the addresses of memory are multiples of; a power of two */
    uint32_t len_align; /* the same for the lengths of its pieces, and for offsets */
    /* What the file system turned out not to do; learnt by requests on any reactor. */
    _Atomic bool no_punch_hole;
    _Atomic bool no_zero_range;
};

/* The driver's context of a request. */
struct plx_file_io {
    struct plx_aio aio;
    struct plx_piece piece;   /* what badly aligned memory is bounced through */
    struct iovec iov;         /* the piece, or what is used of it */
    struct plx_iov_tail tail; /* of the caller's iovec, when a short transfer is resumed */
    uint64_t length, done;    /* bytes */
    uint8_t state;
    uint8_t retries;
    bool bounced;
    bool aborted;
};
PLX_BDEV_FITS(struct plx_file_io);

int plx_file_channel_open(struct plx_bdev_channel *ch);
void plx_file_submit(struct plx_bdev_channel *ch, struct plx_bdev_req *req);
void plx_file_abort(struct plx_bdev_channel *ch, struct plx_bdev_req *req);

#endif
