/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The io_uring of a reactor. Operations are gathered as they come and submitted a few at a time, so that the disk has
 * begun with a burst while it is being made; those that are left, in the next round, which also reaps what has
 * completed. The ring has a single issuer and defers its work to that call
 * (DEFER_TASKRUN, Linux 6.1), so the kernel never interrupts the reactor; its flag IORING_SQ_TASKRUN, which liburing
 * looks at, says when the call is worth making. Older kernels get what they know of this.
 *
 * A sleeping reactor is woken through an eventfd: the descriptor of such a ring itself does not become readable when
 * there is deferred work (seen on Linux 6.18). The kernel signals it only while that is enabled, which is from arm to
 * disarm.
 *
 * The issuer is whichever thread enables the ring, so it is made disabled: the engine may be prepared before the
 * reactor's thread runs. Should the reactor have been handed to another thread, between operations, the ring is
 * replaced.
 *
 * A file that hangs must not stop the others. Of the room in the ring, and of the threads of the kernel, which some
 * operations need, no file has more than is left: the first that hangs has half, the second a quarter, and so on. Seven
 * of them have all threads, and eleven all room. What is beyond a file's share waits in a line of its own. Operations
 * that the kernel gives to a thread because the file would have had to wait are not known here, and count as those that
 * need none.
 */
#include "reactor/aio_engine.h"

#include "base/list.h"
#include "base/log.h"

#include <assert.h>
#include <errno.h>
#include <liburing.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <unistd.h>

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
    struct io_uring ring;
    bool enabled;
    bool armed;         /* the kernel signals source.fd */
    pthread_t issuer;   /* once enabled */
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
    struct io_uring_sqe *sqe = has_share(s, l) ? io_uring_get_sqe(&u->ring) : NULL;
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
    if (!io_uring_sq_ready(&u->ring))
        return 0;
    int n = io_uring_submit(&u->ring);
    assert(n != -EEXIST); /* another thread's ring: the reactor changed hands with operations in flight */
    return n > 0 ? n : 0;
}

static void uring_end(struct plx_uring *u, struct plx_aio *io, int res)
{
    io->res = res;
    io->next = u->ended;
    u->ended = io;
}

static int uring_setup(struct io_uring *ring, int event_fd);

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
    if (u->enabled) {
        struct io_uring fresh;
        int ret = uring_setup(&fresh, u->source.fd);
        if (ret)
            return ret;
        io_uring_queue_exit(&u->ring);
        u->ring = fresh;
        u->threads.max = threads_of(&u->ring);
        u->enabled = false;
    }
    /* liburing 2.3 declares io_uring_enable_rings() but its shared library lacks it. */
    if (syscall(__NR_io_uring_register, u->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0) < 0)
        return -errno;
    u->enabled = true;
    u->issuer = pthread_self();
    return 0;
}

void plx_uring_submit(struct plx_uring *u, struct plx_aio *io)
{
    if (plx_unlikely(!u->in_flight && !(u->enabled && pthread_equal(u->issuer, pthread_self())))) {
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
    else if (io_uring_sq_ready(&u->ring) >= EARLY)
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
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
    if (!sqe) {
        uring_flush(u);
        sqe = io_uring_get_sqe(&u->ring);
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
    unsigned n = io_uring_peek_batch_cqe(&u->ring, cqes, REAP_MAX);
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
    io_uring_cq_advance(&u->ring, n);
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
    if (io_uring_sq_ready(&u->ring) || may_gather(&u->room) || may_gather(&u->threads))
        return 1; /* to be offered once more */
    io_uring_cq_eventfd_toggle(&u->ring, true);
    u->armed = true;
    /* Either the kernel sees that it is to signal, or we see what it has done before. */
    atomic_thread_fence(memory_order_seq_cst);
    return io_uring_cq_ready(&u->ring) ||
           IO_URING_READ_ONCE(*u->ring.sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW);
}

static void uring_disarm(struct plx_source *s)
{
    struct plx_uring *u = plx_container_of(s, struct plx_uring, source);
    uint64_t count;
    if (!u->armed)
        return;
    u->armed = false;
    io_uring_cq_eventfd_toggle(&u->ring, false);
    if (read(s->fd, &count, sizeof count) < 0 && errno != EAGAIN)
        plx_error("disks: cannot read an eventfd: %s", strerror(errno));
}

static int uring_setup(struct io_uring *ring, int event_fd)
{
    static const unsigned flags[] = {
        IORING_SETUP_R_DISABLED | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
        IORING_SETUP_R_DISABLED | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
        IORING_SETUP_R_DISABLED,
    };
    struct io_uring_params p;
    int ret = -EINVAL;
    for (size_t i = 0; ret == -EINVAL && i < PLX_ARRAY_SIZE(flags); i++) {
        p = (struct io_uring_params){.flags = flags[i] | IORING_SETUP_CQSIZE, .cq_entries = CQ_ENTRIES};
        ret = io_uring_queue_init_params(SQ_ENTRIES, ring, &p);
    }
    if (ret)
        return ret;
    /* Linux 5.12: from there on all operations that we use are there, and its workers are threads of this process. */
    ret = p.features & IORING_FEAT_NATIVE_WORKERS ? io_uring_register_eventfd(ring, event_fd) : -ENOSYS;
    if (!ret)
        ret = io_uring_cq_eventfd_toggle(ring, false);
    if (ret)
        io_uring_queue_exit(ring);
    return ret;
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
    u->source.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int ret = u->source.fd < 0 ? -errno : 0;
    if (ret)
        goto free_engine;
    ret = uring_setup(&u->ring, u->source.fd);
    if (ret)
        goto close_event;
    ret = plx_source_add(r, &u->source);
    if (ret)
        goto exit_ring;
    u->threads.max = threads_of(&u->ring);
    *out = u;
    return 0;

exit_ring:
    io_uring_queue_exit(&u->ring);
close_event:
    close(u->source.fd);
free_engine:
    free(u);
    return ret;
}

void plx_uring_destroy(struct plx_uring *u)
{
    plx_source_remove(u->reactor, &u->source);
    io_uring_queue_exit(&u->ring);
    close(u->source.fd);
    free(u);
}
