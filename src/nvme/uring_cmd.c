/* SPDX-License-Identifier: BSD-3-Clause */
/* Commands as the kernel takes them, and what its answers mean. */
#include "nvme/uring.h"

#include <errno.h>
#include <liburing.h>
#include <linux/nvme_ioctl.h>

_Static_assert(offsetof(struct io_uring_sqe, cmd) + sizeof(struct nvme_uring_cmd) <= NVME_URING_SQE, "");

/* ---- data ---- */

/* Pages that some bytes are in: that many pieces of memory they may be. */
static size_t pages_of(const uint8_t *p, size_t len, unsigned page)
{
    return ((uintptr_t)p % page + len + page - 1) / page;
}

/* Whether the data is just the first n entries, as many as it has pieces of some length. */
static bool is_whole(struct plx_iov_at at, uint32_t len, uint32_t n)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += at.iov[i].iov_len;
    return sum == len;
}

struct nvme_uring_data nvme_uring_place(struct plx_iov_at at, uint32_t len, unsigned max_segments, unsigned page,
                                        struct iovec own[NVME_URING_OWN])
{
    struct nvme_uring_data data = {.kind = NVME_URING_ONE};
    struct plx_iov_at next;
    size_t pages = 0;
    uint32_t n = 0;
    while (len && at.offset == at.iov->iov_len)
        at = (struct plx_iov_at){at.iov + 1, 0};
    next = at;
    for (uint32_t left = len; left; n++) {
        uint8_t *p;
        size_t bytes = plx_iov_next(&next, left, &p);
        pages += pages_of(p, bytes, page);
        left -= (uint32_t)bytes;
        if (!n)
            data.addr = p;
        if (n < NVME_URING_OWN)
            own[n] = (struct iovec){p, bytes};
    }
    const bool whole = n > 1 && is_whole(at, len, n);
    data.count = n;
    data.iov = whole ? at.iov : own;
    if (pages > max_segments || n > IOV_MAX || (n > NVME_URING_OWN && !whole))
        data.kind = NVME_URING_BOUNCE;
    else if (n > 1)
        data.kind = NVME_URING_MANY;
    return data;
}

/* ---- commands ---- */

void nvme_uring_fill(struct io_uring_sqe *sqe, int fd, const struct nvme_words *cmd, const struct nvme_uring_data *data,
                     uint32_t len)
{
    struct nvme_uring_cmd c = {
        .opcode = cmd->opcode,
        .nsid = plx_get32(cmd->nsid),
        .cdw10 = plx_get32(cmd->cdw10),
        .cdw11 = plx_get32(cmd->cdw11),
        .cdw12 = plx_get32(cmd->cdw12),
        .cdw13 = plx_get32(cmd->cdw13),
        .cdw14 = plx_get32(cmd->cdw14),
        .cdw15 = plx_get32(cmd->cdw15),
    };
    const bool many = data->kind == NVME_URING_MANY;
    if (len) {
        c.addr = (uintptr_t)(many ? (const void *)data->iov : data->addr);
        c.data_len = many ? data->count : len;
    }
    memset(sqe, 0, NVME_URING_SQE);
    sqe->opcode = IORING_OP_URING_CMD;
    sqe->fd = fd;
    sqe->cmd_op = many ? NVME_URING_CMD_IO_VEC : NVME_URING_CMD_IO;
    memcpy(sqe->cmd, &c, sizeof c);
}

/* ---- answers ---- */

/* Nobody knows whether it was done; whoever may do it twice does. */
static int came_back_lost(struct nvme_req *req, int error)
{
    req->lost = true;
    req->status = 0;
    return error;
}

int nvme_uring_result(struct nvme_req *req, int res, uint64_t result)
{
    req->dw0 = (uint32_t)result;
    req->dw1 = (uint32_t)(result >> 32);
    if (res >= 0) {
        req->status = (uint16_t)(res & (0x7ff | NVME_STATUS_DNR));
        /* The kernel's own: none of its controllers takes commands now. */
        return (req->status & 0x7ff) == PLX_SC_HOST_PATHING_ERROR ? came_back_lost(req, -EAGAIN) : 0;
    }
    switch (-res) {
    case ENODEV:
    case ENXIO:
        return came_back_lost(req, res);
    case EINVAL: /* of a namespace with several paths also that there is none now */
    case EIO:    /* the queue was not there, as the controller is reset */
        req->status = PLX_SC_TRANSIENT_TRANSPORT_ERROR;
        return res;
    case EINTR: /* ended by the kernel, which has reset the controller */
    case ETIMEDOUT:
    case EAGAIN:
    case EBUSY:
    case ENOMEM:
        req->status = PLX_SC_TRANSIENT_TRANSPORT_ERROR;
        return 0;
    case EACCES: /* commands that may have other effects than reading and writing need CAP_SYS_ADMIN */
    case EPERM:
        req->status = PLX_SC_INVALID_OPCODE | NVME_STATUS_DNR;
        return 0;
    default:
        req->status = PLX_SC_INTERNAL_ERROR;
        return 0;
    }
}
