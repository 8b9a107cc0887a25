/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The io_uring of a reactor. Operations are gathered as they come and submitted a few at a time, so that the disk has
 * begun with a burst while it is being made; those that are left, in the next round, which also reaps what has
 * completed.
 *
 * A file that hangs must not stop the others. Of the room in the ring, and of the threads of the kernel, which some
 * operations need, no file has more than is left: the first that hangs has half, the second a quarter, and so on. Seven
 * of them have all threads, and eleven all room. What is beyond a file's share waits in a line of its own. Operations
 * that the kernel gives to a thread because the file would have had to wait are not known here, and count as those that
 * need none.
 */
#include "reactor/aio_engine.h"

#include "base/list.h"
#include "reactor/ring.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/sysinfo.h>

enum {
    SQ_ENTRIES = 256,
    IN_FLIGHT_MAX = 1536, /* operations that need no thread */
    CQ_ENTRIES = 4096,    /* so the completions of all and of their cancels always fit: of threads there are 512 */
    REAP_MAX = 64,        /* completions a round */
    EARLY = 4,            /* that were gathered are submitted at once: one system call is little beside their cost */
    LONGEST = 1 << 30,    /* bytes of one entry, whose length has 32 bits; what is longer is a short transfer */
    THREADS_MIN = 64,     /* that may be; they come as they are needed */
    LINES = 1024,         /* a hung file stops those whose descriptors are the same modulo this */
};

/* What a file asks for beyond its share. */
struct line {
    unsigned in_flight; /* operations of the file that have what they need */
    struct plx_aio *waiting, **tail;
    struct plx_list link; /* while some wait */
};

/* Room in the ring, or threads of the kernel, and the files' shares of it. */
struct shared {
    unsigned max, in_flight;
    struct plx_list waiting; /* lines */
    struct line lines[LINES];
};

struct plx_uring {
    struct plx_source source;
    struct plx_reactor *reactor;
    struct plx_ring ring;
    unsigned in_flight; /* operations and cancels that the ring has */
    struct shared room, threads;
    struct plx_aio *ended; /* never reached the kernel; res is set */
};

static unsigned first_length(const struct plx_aio *io)
{
    return (unsigned)plx_min_u64(io->iov->iov_len, LONGEST);
}

static void uring_prepare(struct io_uring_sqe *sqe, struct plx_aio *io)
{
    switch (io->op) {
    case PLX_AIO_READ:
        if (io->iovcnt == 1)
            io_uring_prep_read(sqe, io->fd, io->iov->iov_base, first_length(io), io->offset);
        else
            io_uring_prep_readv(sqe, io->fd, io->iov, io->iovcnt, io->offset);
        break;
    case PLX_AIO_WRITE:
        if (io->iovcnt == 1)
            io_uring_prep_write(sqe, io->fd, io->iov->iov_base, first_length(io), io->offset);
        else
            io_uring_prep_writev(sqe, io->fd, io->iov, io->iovcnt, io->offset);
        sqe->rw_flags = io->mode;
        break;
    case PLX_AIO_FDATASYNC:
        io_uring_prep_fsync(sqe, io->fd, IORING_FSYNC_DATASYNC);
        break;
    case PLX_AIO_FALLOCATE:
        io_uring_prep_fallocate(sqe, io->fd, io->mode, (off_t)io->offset, (off_t)io->length);
        break;
    case PLX_AIO_CALL: /* the worker threads' */
        break;
    }
    io_uring_sqe_set_data(sqe, io);
}

/* Whether the kernel has a thread do it, which shares the reactor's core. */
static bool is_threaded(const struct plx_aio *io)
{
    return io->way == PLX_AIO_THREADED || (io->op != PLX_AIO_READ && io->op != PLX_AIO_WRITE);
}

static struct shared *shared_of(struct plx_uring *u, const struct plx_aio *io)
{
    return is_threaded(io) ? &u->threads : &u->room;
}

static struct line *line_of(struct shared *s, const struct plx_aio *io)
{
    return &s->lines[(unsigned)io->fd % LINES];
}

/* Whether the file has less than is left. */
static bool has_share(const struct shared *s, const struct line *l)
{
    return l->in_flight < s->max - s->in_flight;
}

static bool uring_gather(struct plx_uring *u, struct shared *s, struct line *l, struct plx_aio *io)
{
    struct io_uring_sqe *sqe = has_share(s, l) ? io_uring_get_sqe(&u->ring.ring) : NULL;
    if (!sqe)
        return false;
    uring_prepare(sqe, io);
    u->in_flight++;
    s->in_flight++;
    l->in_flight++;
    u->reactor->threaded += is_threaded(io);
    return true;
}

static void uring_wait(struct shared *s, struct line *l, struct plx_aio *io)
{
    if (!l->waiting) {
        l->tail = &l->waiting;
        plx_list_add_tail(&s->waiting, &l->link);
    }
    io->next = NULL;
    *l->tail = io;
    l->tail = &io->next;
}

/* One of each line that may, again and again; who was served is behind the others the next time. */
static void uring_gather_waiting(struct plx_uring *u, struct shared *s)
{
    for (bool more = true; more;) {
        more = false;
        plx_list_for_each_safe(it, &s->waiting) {
            struct line *l = plx_list_entry(it, struct line, link);
            if (!uring_gather(u, s, l, l->waiting))
                continue;
            more = true;
            l->waiting = l->waiting->next;
            plx_list_del(&l->link);
            if (l->waiting)
                plx_list_add_tail(&s->waiting, &l->link);
        }
    }
}

static bool are_waiting(const struct plx_uring *u)
{
    return !plx_list_empty(&u->room.waiting) || !plx_list_empty(&u->threads.waiting);
}

/* Whether some wait that need not: the ring took no more. */
static bool may_gather(const struct shared *s)
{
    plx_list_for_each(it, &s->waiting)
        if (has_share(s, plx_list_entry(it, struct line, link)))
            return true;
    return false;
}

/* Hands the kernel what was gathered. What it does not take now is offered again in the next round. */
static int uring_flush(struct plx_uring *u)
{
    uring_gather_waiting(u, &u->room);
    uring_gather_waiting(u, &u->threads);
    if (!io_uring_sq_ready(&u->ring.ring))
        return 0;
    int n = io_uring_submit(&u->ring.ring);
    assert(n != -EEXIST); /* another thread's ring: the reactor changed hands with operations in flight */
    return n > 0 ? n : 0;
}

static void uring_end(struct plx_uring *u, struct plx_aio *io, int res)
{
    io->res = res;
    io->next = u->ended;
    u->ended = io;
}

/* Twice as many, so that one file alone may have as many as ever. Kernels before 5.15 cannot be told. */
static unsigned threads_of(struct io_uring *ring)
{
    unsigned n = (unsigned)plx_min_u64(SQ_ENTRIES, 4 * (unsigned)get_nprocs());        /* unless told otherwise */
    unsigned wanted = (unsigned)plx_max_u64(2 * n, THREADS_MIN), max[2] = {wanted, 0}; /* for others, unchanged */
    return io_uring_register_iowq_max_workers(ring, max) < 0 ? n : wanted;
}

/* Makes this thread the ring's issuer. */
static int uring_adopt(struct plx_uring *u)
{
    int ret = plx_ring_adopt(&u->ring);
    if (ret > 0)
        u->threads.max = threads_of(&u->ring.ring);
    return ret < 0 ? ret : 0;
}

void plx_uring_submit(struct plx_uring *u, struct plx_aio *io)
{
    if (plx_unlikely(!u->in_flight && !plx_ring_is_mine(&u->ring))) {
        int ret = uring_adopt(u);
        if (ret) {
            uring_end(u, io, ret);
            return;
        }
    }
    struct shared *s = shared_of(u, io);
    struct line *l = line_of(s, io);
    if (l->waiting || !uring_gather(u, s, l, io))
        uring_wait(s, l, io);
    else if (io_uring_sq_ready(&u->ring.ring) >= EARLY)
        uring_flush(u);
}

void plx_uring_cancel(struct plx_uring *u, struct plx_aio *io)
{
    struct line *l = line_of(shared_of(u, io), io);
    for (struct plx_aio **link = &l->waiting; *link; link = &(*link)->next) {
        if (*link != io)
            continue;
        *link = io->next;
        if (!*link)
            l->tail = link;
        if (!l->waiting)
            plx_list_del(&l->link);
        uring_end(u, io, -ECANCELED);
        return;
    }
    if (!u->in_flight || u->in_flight == CQ_ENTRIES)
        return; /* it has ended, or does when it does; and an empty ring may be another thread's */
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring.ring);
    if (!sqe) {
        uring_flush(u);
        sqe = io_uring_get_sqe(&u->ring.ring);
    }
    if (!sqe)
        return; /* the kernel takes no more now */
    io_uring_prep_cancel(sqe, io, 0);
    io_uring_sqe_set_data(sqe, NULL);
    u->in_flight++;
}

static int uring_reap(struct plx_uring *u)
{
    struct io_uring_cqe *cqes[REAP_MAX];
    unsigned n = io_uring_peek_batch_cqe(&u->ring.ring, cqes, REAP_MAX);
    struct plx_aio *done = NULL, **tail = &done;
    for (unsigned i = 0; i < n; i++) {
        struct plx_aio *io = io_uring_cqe_get_data(cqes[i]);
        if (!io)
            continue; /* a cancel: the operation itself says how it ended */
        struct shared *s = shared_of(u, io);
        io->res = cqes[i]->res;
        s->in_flight--;
        line_of(s, io)->in_flight--;
        u->reactor->threaded -= is_threaded(io);
        *tail = io;
        tail = &io->next;
    }
    *tail = NULL;
    io_uring_cq_advance(&u->ring.ring, n);
    u->in_flight -= n;
    /* Before those that are submitted from callbacks now, which would pass them every time. */
    uring_gather_waiting(u, &u->room);
    uring_gather_waiting(u, &u->threads);
    while (done) {
        struct plx_aio *io = done;
        done = io->next;
        io->done(io);
    }
    return (int)n;
}

static int uring_poll(struct plx_source *s)
{
    struct plx_uring *u = plx_container_of(s, struct plx_uring, source);
    int work = 0;
    while (u->ended) {
        struct plx_aio *io = u->ended;
        u->ended = io->next;
        io->done(io);
        work++;
    }
    if (u->in_flight || are_waiting(u))
        work += uring_flush(u) + uring_reap(u);
    return work;
}

static int uring_arm(struct plx_source *s)
{
    struct plx_uring *u = plx_container_of(s, struct plx_uring, source);
    if (u->ended)
        return 1;
    if (!u->in_flight && !are_waiting(u))
        return 0;
    uring_flush(u);
    if (io_uring_sq_ready(&u->ring.ring) || may_gather(&u->room) || may_gather(&u->threads))
        return 1; /* to be offered once more */
    return plx_ring_arm(&u->ring);
}

static void uring_disarm(struct plx_source *s)
{
    struct plx_uring *u = plx_container_of(s, struct plx_uring, source);
    plx_ring_disarm(&u->ring);
}

int plx_uring_create(struct plx_uring **out, struct plx_reactor *r)
{
    static const struct plx_source_ops ops = {.poll = uring_poll, .arm = uring_arm, .disarm = uring_disarm};
    struct plx_uring *u = calloc(1, sizeof *u);
    if (!u)
        return -ENOMEM;
    u->reactor = r;
    u->room.max = IN_FLIGHT_MAX;
    plx_list_init(&u->room.waiting);
    plx_list_init(&u->threads.waiting);
    u->source.ops = &ops;
    int ret = plx_ring_create(&u->ring, SQ_ENTRIES, CQ_ENTRIES, 0);
    if (ret)
        goto free_engine;
    u->source.fd = u->ring.fd;
    ret = plx_source_add(r, &u->source);
    if (ret)
        goto destroy_ring;
    u->threads.max = threads_of(&u->ring.ring);
    *out = u;
    return 0;

destroy_ring:
    plx_ring_destroy(&u->ring);
free_engine:
    free(u);
    return ret;
}

void plx_uring_destroy(struct plx_uring *u)
{
    plx_source_remove(u->reactor, &u->source);
    plx_ring_destroy(&u->ring);
    free(u);
}
