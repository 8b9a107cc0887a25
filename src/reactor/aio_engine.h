/* SPDX-License-Identifier: BSD-3-Clause */
/* The two engines of aio.c: an io_uring, and worker threads. */
#ifndef PLX_REACTOR_AIO_ENGINE_H
#define PLX_REACTOR_AIO_ENGINE_H

#include "reactor/aio.h"
#include "reactor/reactor.h"

struct plx_uring;
struct plx_workers;

struct plx_aio_engine {
    struct plx_reactor *reactor;
    struct plx_uring *uring; /* NULL where the kernel forbids it */
    struct plx_workers *workers;
    struct plx_source here; /* reads of memory, which the reactor does itself */
    struct plx_aio *queue, **tail;
    bool swapped; /* as seen at: */
    uint64_t looked;
};

/* @return 0, or -errno when there can be no io_uring */
int plx_uring_create(struct plx_uring **out, struct plx_reactor *r);
void plx_uring_destroy(struct plx_uring *u);
void plx_uring_submit(struct plx_uring *u, struct plx_aio *io);
void plx_uring_cancel(struct plx_uring *u, struct plx_aio *io);

/* Threads are made when the first operation comes. */
int plx_workers_create(struct plx_workers **out, struct plx_reactor *r);
void plx_workers_destroy(struct plx_workers *w);
void plx_workers_submit(struct plx_workers *w, struct plx_aio *io);
void plx_workers_cancel(struct plx_workers *w, struct plx_aio *io);

/* Does an operation, on whatever thread that is. @return its res */
int64_t plx_aio_perform(struct plx_aio *io);

#endif
