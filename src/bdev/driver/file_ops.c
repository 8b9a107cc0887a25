/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Requests to a file or a block device, each one or more operations of the reactor's aio engine. file_io_step() takes
 * what the last one returned and begins the next, or ends the request; the states say what is under way.
 */
#include "bdev/driver/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

enum state {
    TRANSFER, /* a read or a write, or the rest of one that came out short */
    PUNCH,    /* a hole, for unmap or write zeroes */
    ZERO,     /* a range of zeroes */
    SYNC,     /* a flush, or the end of one of the above with FUA */
    COUNT,    /* of the space that is taken */
};

enum { RETRIES = 100 }; /* of an operation that the kernel says to try again */

static struct plx_file_io *io_of(struct plx_bdev_req *req)
{
    return (struct plx_file_io *)(void *)req->context;
}

static struct plx_file *file_of(const struct plx_bdev_req *req)
{
    return (struct plx_file *)req->ch->bdev;
}

static void file_io_end(struct plx_bdev_req *req, int64_t res)
{
    struct plx_file_io *io = io_of(req);
    plx_iov_mend(&io->tail);
    if (io->piece.mem)
        plx_piece_put(req->ch, &io->piece);
    plx_bdev_complete(req, plx_bdev_status(res < 0 ? res : 0, req->op != PLX_BDEV_READ));
}

/* ---- beginning an operation ---- */

static void file_io_begin(struct plx_bdev_req *req, enum state state, enum plx_aio_op op)
{
    struct plx_file_io *io = io_of(req);
    io->state = (uint8_t)state;
    io->aio.op = op;
    plx_aio_submit(req->ch->reactor, &io->aio);
}

static void file_begin_transfer(struct plx_bdev_req *req)
{
    struct plx_file_io *io = io_of(req);
    bool write = req->op == PLX_BDEV_WRITE;
    plx_iov_mend(&io->tail);
    io->aio.offset = (req->lba << req->ch->bdev->block_shift) + io->done;
    io->aio.mode = write && req->flags & PLX_BDEV_FUA ? RWF_DSYNC : 0;
    io->aio.iovcnt = req->iovcnt;
    io->aio.iov = req->iov;
    if (io->bounced) {
        io->iov.iov_base = io->piece.mem;
        io->iov.iov_len = plx_min_u64(io->length - io->done, io->piece.size);
        io->aio.iovcnt = 1;
        io->aio.iov = &io->iov;
        struct plx_iov_at at = {req->iov, 0};
        plx_iov_skip(&at, io->done);
        if (write)
            plx_iov_gather(&at, io->piece.mem, io->iov.iov_len);
    } else if (io->done) {
        io->aio.iov = plx_iov_cut(&io->tail, req->iov, &io->aio.iovcnt, io->done);
    }
    file_io_begin(req, TRANSFER, write ? PLX_AIO_WRITE : PLX_AIO_READ);
}

static void file_begin_range(struct plx_bdev_req *req, enum state state, int mode)
{
    struct plx_file_io *io = io_of(req);
    io->aio.mode = mode | FALLOC_FL_KEEP_SIZE;
    io->aio.offset = req->lba << req->ch->bdev->block_shift;
    file_io_begin(req, state, file_of(req)->block_device ? PLX_AIO_CALL : PLX_AIO_FALLOCATE);
}

/* On a worker thread. What a block device discards may read as anything; what it zeroes it keeps. */
static int64_t device_range(struct plx_aio *aio)
{
    uint64_t range[2] = {aio->offset, aio->length};
    unsigned long request = aio->mode & FALLOC_FL_PUNCH_HOLE ? BLKDISCARD : BLKZEROOUT;
    return ioctl(aio->fd, request, range) < 0 ? -errno : 0;
}

/* The same. A hole of a block device is zeroes that take no space, or an error where it cannot do that. */
static int64_t device_zeroes_freed(struct plx_aio *aio)
{
    int ret;
    do
        ret = fallocate(aio->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)aio->offset, (off_t)aio->length);
    while (ret < 0 && errno == EINTR);
    return ret < 0 ? device_range(aio) : 0;
}

/* On a worker thread: the file system may be at the other end of a network. */
static int64_t allocated_bytes(struct plx_aio *aio)
{
    struct stat st;
    return fstat(aio->fd, &st) < 0 ? -errno : (int64_t)st.st_blocks * 512;
}

static void file_begin_zeroes(struct plx_bdev_req *req)
{
    struct plx_file *f = file_of(req);
    if (f->block_device && req->flags & PLX_BDEV_UNMAP_OK)
        io_of(req)->aio.call = device_zeroes_freed;
    if (f->block_device)
        file_begin_range(req, ZERO, FALLOC_FL_ZERO_RANGE);
    else if (req->flags & PLX_BDEV_UNMAP_OK && !f->no_punch_hole)
        file_begin_range(req, PUNCH, FALLOC_FL_PUNCH_HOLE);
    else if (!f->no_zero_range)
        file_begin_range(req, ZERO, FALLOC_FL_ZERO_RANGE);
    else
        plx_bdev_emulate(req);
}

/* ---- going on when one has ended ---- */

static void file_transferred(struct plx_bdev_req *req, int64_t res)
{
    struct plx_file_io *io = io_of(req);
    /*
     * A short transfer is gone on with from the last whole block. One that moves nothing is the end of a file that
     * was cut short, or of the device.
     */
    uint64_t n = (uint64_t)res & ~(uint64_t)(req->ch->bdev->info.block_size - 1);
    if (!n) {
        file_io_end(req, -EIO);
        return;
    }
    if (io->bounced && req->op == PLX_BDEV_READ) {
        struct plx_iov_at at = {req->iov, 0};
        plx_iov_skip(&at, io->done);
        plx_iov_scatter(&at, io->piece.mem, n);
    }
    io->done += n;
    io->retries = 0;
    if (io->done >= io->length)
        file_io_end(req, 0);
    else if (io->aborted)
        file_io_end(req, -ECANCELED);
    else
        file_begin_transfer(req);
}

/* The file system's own notes on the file may count as well. */
static void file_counted(struct plx_bdev_req *req, int64_t bytes)
{
    const struct plx_bdev_info *info = &req->ch->bdev->info;
    uint64_t blocks =
        plx_min_u64(((uint64_t)bytes + info->block_size - 1) / info->block_size, plx_bdev_blocks(req->ch->bdev));
    struct plx_iov_at at = {req->iov, 0};
    plx_iov_scatter(&at, (const uint8_t *)&blocks, sizeof blocks);
    file_io_end(req, 0);
}

/* The file system does not know how: the next best way. */
static void not_supported(struct plx_bdev_req *req)
{
    struct plx_file *f = file_of(req);
    if (io_of(req)->state == PUNCH)
        f->no_punch_hole = true;
    else
        f->no_zero_range = true;
    if (req->op == PLX_BDEV_WRITE_ZEROES)
        file_begin_zeroes(req);
    else
        file_io_end(req, f->bdev.info.unmap_reads_zero ? -EOPNOTSUPP : 0); /* else it is only a hint */
}

static void file_io_step(struct plx_aio *aio)
{
    struct plx_file_io *io = plx_container_of(aio, struct plx_file_io, aio);
    struct plx_bdev_req *req = plx_bdev_req_of(io);
    int64_t res = aio->res;
    if (res == -EINTR || res == -EAGAIN) {
        if (io->aborted)
            file_io_end(req, -ECANCELED);
        else if (io->retries++ < RETRIES)
            plx_aio_submit(req->ch->reactor, aio);
        else
            file_io_end(req, res);
        return;
    }
    bool range = io->state == PUNCH || io->state == ZERO;
    if (range && res == -EOPNOTSUPP && !file_of(req)->block_device)
        not_supported(req);
    else if (range && res == -EOPNOTSUPP && req->op == PLX_BDEV_UNMAP)
        file_io_end(req, 0); /* a hint that the device does not take */
    else if (res < 0)
        file_io_end(req, res);
    else if (io->state == TRANSFER)
        file_transferred(req, res);
    else if (io->state == COUNT)
        file_counted(req, res);
    else if (range && req->flags & PLX_BDEV_FUA)
        file_io_begin(req, SYNC, PLX_AIO_FDATASYNC);
    else
        file_io_end(req, 0);
}

/* ---- the driver's operations ---- */

int plx_file_channel_open(struct plx_bdev_channel *ch)
{
    return plx_aio_prepare(ch->reactor);
}

/* Whether the kernel takes the caller's memory as it is. */
static bool is_taken(const struct plx_file *f, const struct plx_bdev_req *req)
{
    uintptr_t addresses = 0, lengths = 0;
    if (!f->direct || req->iovcnt > IOV_MAX)
        return req->iovcnt <= IOV_MAX;
    for (uint32_t i = 0; i < req->iovcnt; i++) {
        addresses |= (uintptr_t)req->iov[i].iov_base;
        lengths |= req->iov[i].iov_len;
    }
    return !(addresses & (f->mem_align - 1)) && !(lengths & (f->len_align - 1));
}

static void file_piece_ready(struct plx_piece *p)
{
    file_begin_transfer(plx_bdev_req_of(plx_container_of(p, struct plx_file_io, piece)));
}

void plx_file_submit(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    struct plx_file *f = (struct plx_file *)ch->bdev;
    struct plx_file_io *io = io_of(req);
    io->aio.done = file_io_step;
    io->aio.fd = f->fd;
    io->aio.way = f->way;
    io->aio.call = device_range;
    io->piece.mem = NULL;
    io->tail.entry = NULL;
    io->length = io->aio.length = (uint64_t)req->nlb << ch->bdev->block_shift;
    io->done = io->retries = 0;
    io->bounced = io->aborted = false;
    switch ((enum plx_bdev_op)req->op) {
    case PLX_BDEV_READ:
    case PLX_BDEV_WRITE:
        if (is_taken(f, req)) {
            file_begin_transfer(req);
            break;
        }
        io->bounced = true;
        io->state = TRANSFER;
        io->piece.ready = file_piece_ready;
        plx_piece_get(ch, &io->piece, io->length);
        break;
    case PLX_BDEV_WRITE_ZEROES:
        file_begin_zeroes(req);
        break;
    case PLX_BDEV_UNMAP:
        file_begin_range(req, PUNCH, FALLOC_FL_PUNCH_HOLE);
        break;
    case PLX_BDEV_ALLOCATED:
        io->aio.call = allocated_bytes;
        file_io_begin(req, COUNT, PLX_AIO_CALL);
        break;
    case PLX_BDEV_FLUSH:
        file_io_begin(req, SYNC, PLX_AIO_FDATASYNC);
        break;
    case PLX_BDEV_COMPARE:
    case PLX_BDEV_COMPARE_AND_WRITE:
    case PLX_BDEV_COPY:
    case PLX_BDEV_RESET:
    case PLX_BDEV_ZONE_APPEND:
    case PLX_BDEV_ZONE_MANAGE:
    case PLX_BDEV_ZONE_REPORT:
    case PLX_BDEV_VERIFY:
    case PLX_BDEV_OPS: /* not offered, or the core's */
        plx_bdev_complete(req, PLX_SC_INVALID_OPCODE);
        break;
    }
}

void plx_file_abort(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    struct plx_file_io *io = io_of(req);
    io->aborted = true;
    if (!io->bounced || io->piece.mem)
        plx_aio_cancel(ch->reactor, &io->aio);
    else if (plx_piece_cancel(ch, &io->piece))
        file_io_end(req, -ECANCELED);
}
