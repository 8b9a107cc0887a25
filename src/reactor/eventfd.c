/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Reading knows a flag of its own for not waiting (RWF_NOWAIT); writing knows none. But the kernel itself adds one, and
 * never waits, where an eventfd is to be told of the end of a request of aio(7) (IOCB_FLAG_RESFD). So a request is
 * made of which only that is wanted: to read no bytes of an eventfd of ours, which has ended when the call returns.
 */
#include "reactor/eventfd.h"

#include "reactor/owner.h"
#include "reactor/reactor.h"

#include <errno.h>
#include <linux/aio_abi.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* What the kernel maps for whoever has a context, at the address that is its name. */
struct aio_ring {
    unsigned id, nr, head, tail, magic;
};

enum { AIO_RING_MAGIC = 0xa10a10a1, SPARES = 256 };

/* ---- reading ---- */

static ssize_t hear_now(int fd, uint64_t *value)
{
    const struct iovec iov = {value, sizeof *value};
    return preadv2(fd, &iov, 1, -1, RWF_NOWAIT);
}

/* Linux before 5.8 knows the flag not for eventfds; a later one not for what is none. Found out once. */
static bool kernel_waits(void)
{
    static _Atomic int waits; /* 1: yes, -1: no */
    uint64_t one;
    if (!atomic_load(&waits)) {
        int own = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
        if (own < 0)
            return false;
        atomic_store(&waits, hear_now(own, &one) < 0 ? 1 : -1);
        close(own);
    }
    return atomic_load(&waits) > 0;
}

uint64_t plx_eventfd_hear(int fd)
{
    uint64_t value = 0;
    ssize_t n = hear_now(fd, &value);
    if (plx_unlikely(n < 0 && errno == EOPNOTSUPP) && kernel_waits())
        n = read(fd, &value, sizeof value);
    return n == sizeof value ? value : 0;
}

/* ---- writing ---- */

/* @return false when it could not be done now */
static bool tell_by_aio(struct plx_reactor *r, int fd)
{
    struct iocb request = {.aio_lio_opcode = IOCB_CMD_PREAD,
                           .aio_fildes = (uint32_t)r->wake_fd,
                           .aio_flags = IOCB_FLAG_RESFD,
                           .aio_resfd = (uint32_t)fd};
    struct iocb *list = &request;
    struct aio_ring *ring = (struct aio_ring *)r->teller.context;
    if (plx_unlikely(syscall(SYS_io_submit, r->teller.context, 1, &list) != 1))
        return errno != EAGAIN; /* it is no eventfd */
    /* What came of it is not looked at, and makes room for the next one. */
    __atomic_store_n(&ring->head, __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE), __ATOMIC_RELEASE);
    return true;
}

/* Whether it does what it should: some kernels have no aio, and before Linux 5.8 it reads no eventfds. */
static bool aio_tells(struct plx_reactor *r)
{
    uint64_t told = 0;
    int own = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    const struct aio_ring *ring = (const struct aio_ring *)r->teller.context;
    if (own < 0)
        return false;
    const bool works =
        ring->magic == AIO_RING_MAGIC && tell_by_aio(r, own) && read(own, &told, sizeof told) == sizeof told;
    close(own);
    return works && told == 1;
}

/* Those of reactors that have ended, for the next: it takes the kernel 50 ms to destroy one. */
static struct {
    pthread_mutex_t lock;
    unsigned n;
    unsigned long contexts[SPARES];
} spare = {.lock = PTHREAD_MUTEX_INITIALIZER};

static unsigned long take_spare(void)
{
    pthread_mutex_lock(&spare.lock);
    const unsigned long context = spare.n ? spare.contexts[--spare.n] : 0;
    pthread_mutex_unlock(&spare.lock);
    return context;
}

void plx_teller_destroy(struct plx_reactor *r)
{
    pthread_mutex_lock(&spare.lock);
    if (r->teller.context && spare.n < SPARES) {
        spare.contexts[spare.n++] = r->teller.context;
        r->teller.context = 0;
    }
    pthread_mutex_unlock(&spare.lock);
    if (r->teller.context)
        syscall(SYS_io_destroy, r->teller.context);
}

static void teller_make(struct plx_reactor *r)
{
    r->teller.tried = true;
    r->teller.context = take_spare();
    if (r->teller.context)
        return;
    if (syscall(SYS_io_setup, 1, &r->teller.context) < 0)
        r->teller.context = 0;
    if (!r->teller.context || aio_tells(r))
        return;
    syscall(SYS_io_destroy, r->teller.context);
    r->teller.context = 0;
}

void plx_eventfd_tell(struct plx_reactor *r, int fd)
{
    const uint64_t one = 1;
    plx_assert_here(r);
    if (plx_unlikely(!r->teller.tried))
        teller_make(r);
    if (plx_likely(r->teller.context && tell_by_aio(r, fd)))
        return;
    ssize_t ignored = write(fd, &one, sizeof one); /* EAGAIN means that it is as readable as can be */
    (void)ignored;
}
