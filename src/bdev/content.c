/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What is on a disk. libblkid looks at files: it is given one of the disk's size, in memory, into which the beginning
 * and the end of the disk have been read, as that is where signatures are.
 */
#include "bdev/driver.h"

#include "base/content.h"
#include "base/util.h"
#include "reactor/aside.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    HEAD = 4 << 20,
    TAIL = 1 << 20,
    AT_ONCE = 256 << 10,
    TRIES = 100, /* of what ends as interrupted, which means that it is to be tried again */
    PAUSE_MS = 10,
};

struct content {
    struct plx_reactor *reactor;
    struct plx_bdev_channel *ch;
    int fd;
    bool zeroes; /* nothing else has been seen */
};

struct content_io {
    struct plx_bdev_req req;
    struct plx_reactor *reactor;
};

static void content_done(struct plx_bdev_req *req)
{
    plx_reactor_stop(plx_container_of(req, struct content_io, req)->reactor);
}

static uint16_t content_read_piece(struct content *c, uint64_t at, uint8_t *mem, size_t bytes)
{
    const uint32_t block = plx_bdev_info(plx_bdev_channel_bdev(c->ch))->block_size;
    struct iovec iov = {mem, bytes};
    struct content_io io = {.reactor = c->reactor};
    int tries = 0;
    do {
        io.req = (struct plx_bdev_req){.done = content_done,
                                       .iov = &iov,
                                       .iovcnt = 1,
                                       .op = PLX_BDEV_READ,
                                       .lba = at / block,
                                       .nlb = (uint32_t)(bytes / block)};
        plx_bdev_submit(c->ch, &io.req);
        plx_reactor_run(c->reactor);
    } while (io.req.status == PLX_SC_COMMAND_INTERRUPTED && tries++ < TRIES && !poll(NULL, 0, PAUSE_MS));
    return io.req.status;
}

/* @return 0 or -errno */
static int content_read(struct content *c, uint64_t at, size_t bytes)
{
    uint8_t *mem = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, c->fd, (off_t)at);
    uint16_t status = 0;
    if (mem == MAP_FAILED)
        return -errno;
    for (size_t done = 0, n; done < bytes && !status; done += n) {
        n = bytes - done < AT_ONCE ? bytes - done : AT_ONCE;
        status = content_read_piece(c, at + done, mem + done, n);
    }
    /* it is as its own beginning, moved by one */
    c->zeroes = c->zeroes && !mem[0] && !memcmp(mem, mem + 1, bytes - 1);
    munmap(mem, bytes);
    return status ? -EIO : 0;
}

static int content_find(struct content *c, uint64_t size, char *text, size_t room)
{
    /* where the end begins fits blocks, and pages */
    const uint64_t tail = size > HEAD + TAIL ? (size - TAIL) & ~(uint64_t)(AT_ONCE - 1) : 0;
    c->zeroes = true;
    int ret = ftruncate(c->fd, (off_t)size) < 0 ? -errno : 0;
    if (!ret)
        ret = content_read(c, 0, tail ? HEAD : (size_t)size);
    if (!ret && tail)
        ret = content_read(c, tail, (size_t)(size - tail));
    if (!ret)
        ret = plx_content(c->fd, text, room);
    if (ret || c->zeroes)
        return ret;
    snprintf(text, room, "data of no known kind");
    return 1;
}

int plx_bdev_content(struct plx_bdev *bdev, char *text, size_t size, struct plx_error *err)
{
    struct content c = {.fd = memfd_create("content", MFD_CLOEXEC)};
    int ret = c.fd < 0 ? -errno : plx_reactor_create_aside(&c.reactor);
    text[0] = 0;
    if (!ret)
        ret = plx_bdev_channel_get(bdev, c.reactor, &c.ch);
    if (!ret) {
        ret = content_find(&c, plx_bdev_blocks(bdev) * bdev->info.block_size, text, size);
        plx_bdev_channel_put(c.ch);
    }
    if (c.reactor)
        plx_reactor_destroy(c.reactor);
    if (c.fd >= 0)
        close(c.fd);
    return ret < 0 ? plx_fail(err, ret, "what is on %s cannot be read: %s", bdev->info.name, strerror(-ret)) : ret;
}
