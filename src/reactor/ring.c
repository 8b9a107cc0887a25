/* SPDX-License-Identifier: BSD-3-Clause */
#include "reactor/ring.h"

#include "base/log.h"
#include "base/util.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

static int ring_setup(const struct plx_ring *r, struct io_uring *ring)
{
    static const unsigned flags[] = {
        IORING_SETUP_R_DISABLED | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
        IORING_SETUP_R_DISABLED | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
        IORING_SETUP_R_DISABLED,
    };
    struct io_uring_params p;
    int ret = -EINVAL;
    for (size_t i = 0; ret == -EINVAL && i < PLX_ARRAY_SIZE(flags); i++) {
        p = (struct io_uring_params){.flags = flags[i] | r->flags | IORING_SETUP_CQSIZE, .cq_entries = r->cq_entries};
        ret = io_uring_queue_init_params(r->entries, ring, &p);
    }
    if (ret)
        return ret;
    /* Linux 5.12: from there on all operations that we use are there, and its workers are threads of this process. */
    ret = p.features & IORING_FEAT_NATIVE_WORKERS ? io_uring_register_eventfd(ring, r->fd) : -ENOSYS;
    if (!ret)
        ret = io_uring_cq_eventfd_toggle(ring, false);
    if (ret)
        io_uring_queue_exit(ring);
    return ret;
}

int plx_ring_create(struct plx_ring *r, unsigned entries, unsigned cq_entries, unsigned flags)
{
    *r = (struct plx_ring){.entries = entries, .cq_entries = cq_entries, .flags = flags};
    r->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int ret = r->fd < 0 ? -errno : ring_setup(r, &r->ring);
    if (ret && r->fd >= 0)
        close(r->fd);
    return ret;
}

void plx_ring_destroy(struct plx_ring *r)
{
    io_uring_queue_exit(&r->ring);
    close(r->fd);
}

int plx_ring_adopt(struct plx_ring *r)
{
    const bool replace = r->enabled;
    if (replace) {
        struct io_uring fresh;
        int ret = ring_setup(r, &fresh);
        if (ret)
            return ret;
        io_uring_queue_exit(&r->ring);
        r->ring = fresh;
        r->enabled = false;
    }
    /* liburing 2.3 declares io_uring_enable_rings() but its shared library lacks it. */
    if (syscall(__NR_io_uring_register, r->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0) < 0)
        return -errno;
    r->enabled = true;
    r->issuer = pthread_self();
    return replace;
}

bool plx_ring_arm(struct plx_ring *r)
{
    io_uring_cq_eventfd_toggle(&r->ring, true);
    r->armed = true;
    /* Either the kernel sees that it is to signal, or we see what it has done before: tests/model/test_ring.c. */
    atomic_thread_fence(memory_order_seq_cst);
    return io_uring_cq_ready(&r->ring) ||
           IO_URING_READ_ONCE(*r->ring.sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW);
}

void plx_ring_disarm(struct plx_ring *r)
{
    uint64_t count;
    if (!r->armed)
        return;
    r->armed = false;
    io_uring_cq_eventfd_toggle(&r->ring, false);
    if (read(r->fd, &count, sizeof count) < 0 && errno != EAGAIN)
        plx_error("io_uring: cannot read an eventfd: %s", strerror(errno));
}
