/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Worker threads of a reactor: for what may block and no io_uring does. They take operations from one queue and send
 * the results to the reactor as messages. The first operation makes the first thread, and more are made while
 * operations find none idle.
 *
 * A file that hangs must not stop the others: operations are passed over while their file has its share of the threads.
 */
#include "reactor/aio_engine.h"
#include "reactor/thread.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

enum {
    THREADS = 16,
    SHARE = 4, /* of a file */
};

struct worker {
    struct plx_workers *all;
    pthread_t thread;
    bool busy;
    int fd; /* of what it does */
};

struct plx_workers {
    struct plx_reactor *reactor;
    pthread_mutex_t lock; /* all below */
    pthread_cond_t more;
    struct plx_aio *queue, **tail;
    unsigned queued, idle, threads;
    bool stop;
    struct worker worker[THREADS];
};

static int64_t call_result(ssize_t ret)
{
    return ret < 0 ? -errno : ret;
}

static int64_t write_flagged(const struct plx_aio *io, int iovcnt)
{
    ssize_t n = pwritev2(io->fd, io->iov, iovcnt, (off_t)io->offset, io->mode);
    if (n >= 0 || !io->mode || (errno != EOPNOTSUPP && errno != ENOSYS))
        return call_result(n);
    /* A kernel or file that does not know the flag. The flag is RWF_DSYNC, so this is the same. */
    n = pwritev(io->fd, io->iov, iovcnt, (off_t)io->offset);
    return n >= 0 && fdatasync(io->fd) < 0 ? -errno : call_result(n);
}

int64_t plx_aio_perform(struct plx_aio *io)
{
    int iovcnt = (int)io->iovcnt;
    switch (io->op) {
    case PLX_AIO_READ:
        return call_result(preadv(io->fd, io->iov, iovcnt, (off_t)io->offset));
    case PLX_AIO_WRITE:
        return write_flagged(io, iovcnt);
    case PLX_AIO_FDATASYNC:
        return call_result(fdatasync(io->fd));
    case PLX_AIO_FALLOCATE:
        return call_result(fallocate(io->fd, io->mode, (off_t)io->offset, (off_t)io->length));
    case PLX_AIO_CALL:
        return io->call(io);
    }
    return -EINVAL;
}

static void delivered(struct plx_msg *msg)
{
    struct plx_aio *io = plx_container_of(msg, struct plx_aio, msg);
    io->done(io);
}

static void deliver(struct plx_workers *w, struct plx_aio *io, int64_t res)
{
    io->res = res;
    io->msg.fn = delivered;
    plx_reactor_send(w->reactor, &io->msg);
}

static bool may_have_thread(const struct plx_workers *w, const struct plx_aio *io)
{
    unsigned own = 0;
    for (unsigned i = 0; i < w->threads; i++)
        own += w->worker[i].busy && w->worker[i].fd == io->fd;
    return own < SHARE;
}

static void workers_unlink(struct plx_workers *w, struct plx_aio **link)
{
    *link = (*link)->next;
    if (!*link)
        w->tail = link;
    w->queued--;
}

/* The oldest that may have a thread. */
static struct plx_aio *workers_take(struct plx_workers *w)
{
    const struct plx_aio *refused = NULL; /* whose file may have none; it is likely that there are many of it */
    for (struct plx_aio **link = &w->queue; *link; link = &(*link)->next) {
        struct plx_aio *io = *link;
        if ((refused && io->fd == refused->fd) || !may_have_thread(w, io)) {
            refused = io;
            continue;
        }
        workers_unlink(w, link);
        return io;
    }
    return NULL;
}

static void *work(void *arg)
{
    struct worker *self = arg;
    struct plx_workers *w = self->all;
    pthread_mutex_lock(&w->lock);
    for (;;) {
        struct plx_aio *io = workers_take(w);
        if (io) {
            self->busy = true;
            self->fd = io->fd;
            pthread_mutex_unlock(&w->lock);
            deliver(w, io, plx_aio_perform(io));
            pthread_mutex_lock(&w->lock);
            self->busy = false;
            continue;
        }
        if (w->stop)
            break;
        w->idle++;
        pthread_cond_wait(&w->more, &w->lock);
        w->idle--;
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

/* Workers may run wherever the reactor's thread might before it was pinned to its core. */
static int start_worker(struct plx_workers *w)
{
    struct worker *fresh = &w->worker[w->threads];
    fresh->all = w;
    int ret =
        plx_thread_start(&fresh->thread, w->reactor->pinned ? &w->reactor->unpinned : NULL, work, fresh, "pollux-disk");
    w->threads += !ret;
    return ret;
}

void plx_workers_submit(struct plx_workers *w, struct plx_aio *io)
{
    int ret = 0;
    pthread_mutex_lock(&w->lock);
    bool next = may_have_thread(w, io); /* else it is for a thread that ends one of the file's others */
    if (next && w->queued >= w->idle && w->threads < THREADS)
        ret = start_worker(w);
    if (ret && !w->threads) {
        pthread_mutex_unlock(&w->lock);
        deliver(w, io, ret);
        return;
    }
    io->next = NULL;
    *w->tail = io;
    w->tail = &io->next;
    w->queued++;
    if (next)
        pthread_cond_signal(&w->more);
    pthread_mutex_unlock(&w->lock);
}

void plx_workers_cancel(struct plx_workers *w, struct plx_aio *io)
{
    struct plx_aio *found = NULL;
    pthread_mutex_lock(&w->lock);
    for (struct plx_aio **link = &w->queue; *link && !found; link = &(*link)->next) {
        if (*link != io)
            continue;
        found = io;
        workers_unlink(w, link);
        break;
    }
    pthread_mutex_unlock(&w->lock);
    if (found)
        deliver(w, io, -ECANCELED);
}

int plx_workers_create(struct plx_workers **out, struct plx_reactor *r)
{
    struct plx_workers *w = calloc(1, sizeof *w);
    if (!w)
        return -ENOMEM;
    w->reactor = r;
    w->tail = &w->queue;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->more, NULL);
    *out = w;
    return 0;
}

void plx_workers_destroy(struct plx_workers *w)
{
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_cond_broadcast(&w->more);
    pthread_mutex_unlock(&w->lock);
    for (unsigned i = 0; i < w->threads; i++)
        pthread_join(w->worker[i].thread, NULL);
    pthread_cond_destroy(&w->more);
    pthread_mutex_destroy(&w->lock);
    free(w);
}
