/* SPDX-License-Identifier: BSD-3-Clause */
/* Asynchronous file I/O of a reactor: io_uring, or a few worker threads where the kernel forbids that. */
#ifndef PLX_REACTOR_AIO_H
#define PLX_REACTOR_AIO_H

#include <pollux/reactor.h>

#include <sys/uio.h>

enum plx_aio_op {
    PLX_AIO_READ,      /* iov, offset */
    PLX_AIO_WRITE,     /* iov, offset */
    PLX_AIO_FDATASYNC, /* fd alone */
    PLX_AIO_FALLOCATE, /* mode, offset, length */
    PLX_AIO_CALL,      /* call: anything that may block, such as an ioctl; always run by a worker thread */
};

/* How reads and writes of a file are done. */
enum plx_aio_way {
    PLX_AIO_ASYNC,    /* the kernel begins them at once, and tells when they have ended */
    PLX_AIO_THREADED, /* it hands each to a thread of its own, which shares the reactor's core */
    PLX_AIO_MEMORY,   /* it would, but nothing there waits for a device: the reactor reads by itself */
};

/*
 * One operation, memory of the caller's, who leaves it and what it points to alone until done is called, on the
 * reactor that it was submitted on and never from within plx_aio_submit(). res is then what the system call would
 * have returned, or -errno.
 */
struct plx_aio {
    void (*done)(struct plx_aio *io);
    int64_t res;
    int fd; /* also whose operations take turns with those of other files; PLX_AIO_CALL: -1 for those of none */
    enum plx_aio_op op;
    enum plx_aio_way way; /* of the file: plx_aio_way_of() */
    const struct iovec *iov;
    unsigned iovcnt; /* at most IOV_MAX */
    int mode;        /* PLX_AIO_WRITE: RWF_ flags; PLX_AIO_FALLOCATE: its mode */
    uint64_t offset;
    uint64_t length;                     /* of a read or write at least what iov holds */
    int64_t (*call)(struct plx_aio *io); /* PLX_AIO_CALL: on another thread; returns res */
    /* The engine's. */
    struct plx_aio *next;
    struct plx_msg msg;
};

/*
 * Makes the engine if the reactor has none yet. On the reactor's thread, or before it first runs. @return 0 or -errno
 */
int plx_aio_prepare(struct plx_reactor *r);

/* Looks at an open file, a block device included. */
enum plx_aio_way plx_aio_way_of(int fd);

/*
 * Submits. Operations are gathered, and reach the kernel in the reactor's next round at the latest, or before it
 * sleeps.
 */
void plx_aio_submit(struct plx_reactor *r, struct plx_aio *io);

/* Tries to end an operation early; done is called either way, later, with -ECANCELED if it was ended. */
void plx_aio_cancel(struct plx_reactor *r, struct plx_aio *io);

/*
 * Ends the engine; nothing may be in flight. Called by plx_reactor_destroy(), on whatever thread that is; nothing
 * happens when there is none.
 */
void plx_aio_destroy(struct plx_reactor *r);

/* For tests: the reactor, which has no engine yet, gets worker threads rather than an io_uring. */
void plx_aio_force_threads(struct plx_reactor *r);

/* "io_uring" or "threads": for logs and tests. NULL before plx_aio_prepare(). */
const char *plx_aio_name(const struct plx_reactor *r);

#endif
