/* SPDX-License-Identifier: BSD-3-Clause */
/* Messages of vhost-user: a header, a payload, descriptors that come with the header. */
#include "bdev/driver/virtio_disk.h"

#include "net/fdpass.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* The socket's buffer has room for hundreds of them: who does not take them does not answer either. */
static int vu_send_all(int sock, const struct iovec *iov, unsigned niov, const int *fds, unsigned nfds)
{
    size_t bytes = 0;
    for (unsigned i = 0; i < niov; i++)
        bytes += iov[i].iov_len;
    ssize_t n = plx_fds_send(sock, iov, niov, fds, nfds);
    return n < 0 ? (int)n : (size_t)n < bytes ? -EAGAIN : 0;
}

int vu_send(struct vio_conn *c, enum vu_request request, uint32_t flags, const void *payload, uint32_t size,
            const int *fds, unsigned nfds)
{
    struct vu_header header = {.request = request, .flags = VU_VERSION | flags, .size = size};
    struct iovec iov[] = {{&header, sizeof header}, {(void *)(uintptr_t)payload, size}};
    int ret = vu_send_all(c->sock, iov, size ? 2 : 1, fds, nfds);
    return ret ? plx_fail(&c->err, ret, "cannot send to the back-end: %s", strerror(-ret)) : 0;
}

int vu_answer(int sock, const struct vu_header *to, uint64_t value)
{
    struct vu_header header = {.request = to->request, .flags = VU_VERSION | VU_REPLY, .size = sizeof value};
    struct iovec iov[] = {{&header, sizeof header}, {&value, sizeof value}};
    return vu_send_all(sock, iov, 2, NULL, 0);
}

void vu_inbox_clear(struct vu_inbox *in)
{
    for (unsigned i = 0; i < in->nfds; i++)
        if (in->fds[i] >= 0)
            close(in->fds[i]);
    in->nfds = 0;
    in->have = 0;
}

static int vu_check(const struct vu_inbox *in, struct plx_error *err)
{
    const struct vu_header *h = &in->header;
    if ((h->flags & VU_VERSION_MASK) != VU_VERSION)
        return plx_fail(err, -EPROTO, "the back-end speaks version %u of vhost-user, not 1",
                        h->flags & VU_VERSION_MASK);
    if (h->size > sizeof in->payload)
        return plx_fail(err, -EPROTO, "message %u of the back-end has %u bytes, more than any that there is",
                        h->request, h->size);
    return 0;
}

int vu_receive(int sock, struct vu_inbox *in, struct plx_error *err)
{
    for (;;) {
        uint32_t head = sizeof in->header, whole = in->have < head ? head : head + in->header.size;
        if (in->have >= head && in->have == whole)
            return 1;
        unsigned nfds = VIO_FDS - in->nfds;
        struct iovec iov = {in->have < head ? (uint8_t *)&in->header + in->have
                                            : (uint8_t *)&in->payload + (in->have - head),
                            whole - in->have};
        ssize_t n = plx_fds_recv(sock, &iov, 1, in->fds + in->nfds, &nfds);
        in->nfds += nfds;
        if (n == -EAGAIN)
            return 0;
        if (n < 0)
            return plx_fail(err, (int)n, "the connection has failed: %s", strerror((int)-n));
        if (!n)
            return plx_fail(err, -ECONNRESET, "the back-end has closed the connection");
        in->have += (uint32_t)n;
        int ret = in->have == head ? vu_check(in, err) : 0;
        if (ret)
            return ret;
    }
}
