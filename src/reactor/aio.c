/* SPDX-License-Identifier: BSD-3-Clause */
/* Asynchronous file I/O: picks the engine, and sends what may block for long to worker threads in either case. */
#include "reactor/aio_engine.h"

#include "base/log.h"
#include "reactor/owner.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int plx_aio_prepare(struct plx_reactor *r)
{
    if (r->aio)
        return 0;
    struct plx_aio_engine *e = calloc(1, sizeof *e);
    if (!e)
        return -ENOMEM;
    e->reactor = r;
    int ret = plx_workers_create(&e->workers, r);
    if (ret) {
        free(e);
        return ret;
    }
    ret = r->aio_threads ? 0 : plx_uring_create(&e->uring, r);
    if (ret)
        plx_info("disks: no io_uring here (%s); worker threads do its work", strerror(-ret));
    r->aio = e;
    return 0;
}

void plx_aio_destroy(struct plx_reactor *r)
{
    struct plx_aio_engine *e = r->aio;
    if (!e)
        return;
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
    if (is_uring(e, io))
        plx_uring_submit(e->uring, io);
    else
        plx_workers_submit(e->workers, io);
}

void plx_aio_cancel(struct plx_reactor *r, struct plx_aio *io)
{
    struct plx_aio_engine *e = r->aio;
    plx_assert_here(r);
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
