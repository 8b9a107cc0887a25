/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Asynchronous file I/O: picks the engine, and sends what may block for long to worker threads in either case.
 *
 * Files in memory have no asynchronous path, so an io_uring would hand each operation to a thread of the kernel, and to
 * switch to that and back costs more than to copy the data. As nothing there waits for a device, the reactor reads them
 * itself, a bounded number in a round. What might wait is left to the thread: writes, which take the file's lock, and
 * whoever frees a gigabyte of the file holds that for long; and reads while memory is swapped out.
 */
#include "reactor/aio_engine.h"

#include "base/log.h"
#include "reactor/owner.h"

#include <assert.h>
#include <errno.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/vfs.h>

enum {
    HERE_LARGEST = 128 * 1024, /* of a read, in bytes */
    HERE_BUDGET = 256 * 1024,  /* of a round, in bytes, */
    HERE_CALL = 4096,          /* to which a system call adds what it costs: as much as to copy these */
};

/* How old the answer may be to whether memory is swapped out. */
#define SWAP_PERIOD_NS (100 * PLX_NS_PER_MS)

enum plx_aio_way plx_aio_way_of(int fd)
{
    char byte;
    struct iovec iov = {&byte, 1};
    struct stat st;
    struct statfs fs;
    if (preadv2(fd, &iov, 1, 0, RWF_NOWAIT) >= 0 || errno != EOPNOTSUPP)
        return PLX_AIO_ASYNC;
    /* The node of a device lives in memory too; what it leads to does not. */
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || fstatfs(fd, &fs) < 0)
        return PLX_AIO_THREADED;
    return fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC ? PLX_AIO_MEMORY : PLX_AIO_THREADED;
}

/* Whether reading memory may mean to wait for a disk. */
static bool is_swapped(struct plx_aio_engine *e)
{
    struct sysinfo info;
    if (e->reactor->now - e->looked >= SWAP_PERIOD_NS) {
        e->looked = e->reactor->now;
        e->swapped = sysinfo(&info) < 0 || info.freeswap < info.totalswap;
    }
    return e->swapped;
}

static int here_poll(struct plx_source *s)
{
    struct plx_aio_engine *e = plx_container_of(s, struct plx_aio_engine, here);
    int done = 0;
    for (uint64_t spent = 0; e->queue && spent < HERE_BUDGET; done++) {
        struct plx_aio *io = e->queue;
        e->queue = io->next;
        if (!e->queue)
            e->tail = &e->queue;
        io->res = plx_aio_perform(io);
        spent += HERE_CALL + io->length;
        io->done(io);
    }
    return done;
}

static int here_arm(struct plx_source *s)
{
    return plx_container_of(s, struct plx_aio_engine, here)->queue != NULL;
}

int plx_aio_prepare(struct plx_reactor *r)
{
    static const struct plx_source_ops here_ops = {.poll = here_poll, .arm = here_arm};
    if (r->aio)
        return 0;
    struct plx_aio_engine *e = calloc(1, sizeof *e);
    if (!e)
        return -ENOMEM;
    e->reactor = r;
    e->here = (struct plx_source){.ops = &here_ops, .fd = -1};
    e->tail = &e->queue;
    int ret = plx_workers_create(&e->workers, r);
    if (ret) {
        free(e);
        return ret;
    }
    ret = r->aio_threads ? 0 : plx_uring_create(&e->uring, r);
    if (ret)
        plx_info("disks: no io_uring here (%s); worker threads do its work", strerror(-ret));
    plx_source_add(r, &e->here); /* without a descriptor it cannot fail */
    r->aio = e;
    return 0;
}

void plx_aio_destroy(struct plx_reactor *r)
{
    struct plx_aio_engine *e = r->aio;
    if (!e)
        return;
    plx_source_remove(r, &e->here);
    if (e->uring)
        plx_uring_destroy(e->uring);
    plx_workers_destroy(e->workers);
    free(e);
    r->aio = NULL;
}

static bool is_uring(const struct plx_aio_engine *e, const struct plx_aio *io)
{
    return e->uring && io->op != PLX_AIO_CALL;
}

void plx_aio_submit(struct plx_reactor *r, struct plx_aio *io)
{
    struct plx_aio_engine *e = r->aio;
    plx_assert_here(r);
    assert(e);
    io->next = NULL;
    if (io->way == PLX_AIO_MEMORY && (io->op != PLX_AIO_READ || io->length > HERE_LARGEST || is_swapped(e)))
        io->way = PLX_AIO_THREADED;
    if (io->way == PLX_AIO_MEMORY) {
        *e->tail = io;
        e->tail = &io->next;
    } else if (is_uring(e, io)) {
        plx_uring_submit(e->uring, io);
    } else {
        plx_workers_submit(e->workers, io);
    }
}

void plx_aio_cancel(struct plx_reactor *r, struct plx_aio *io)
{
    struct plx_aio_engine *e = r->aio;
    plx_assert_here(r);
    if (io->way == PLX_AIO_MEMORY)
        return; /* it ends by itself soon enough */
    if (is_uring(e, io))
        plx_uring_cancel(e->uring, io);
    else
        plx_workers_cancel(e->workers, io);
}

void plx_aio_force_threads(struct plx_reactor *r)
{
    assert(!r->aio);
    r->aio_threads = true;
}

const char *plx_aio_name(const struct plx_reactor *r)
{
    return !r->aio ? NULL : r->aio->uring ? "io_uring" : "threads";
}
