/* SPDX-License-Identifier: BSD-3-Clause */
#include "reactor/napi.h"

#include "base/list.h"
#include "base/log.h"
#include "reactor/napi_ask.h"
#include "reactor/owner.h"
#include "reactor/reactor.h"
#include "reactor/thread.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum {
    NAPI_BUDGET = 64, /* packets a poll: the most that needs no CAP_NET_ADMIN */
    NAPI_LOOK_US = 1, /* the shortest; with 0 it would be as long as net.core.busy_poll has it */
};

/* What the C library's headers have only of late: see ioctl_eventpoll(2). */
struct napi_params {
    uint32_t us;
    uint16_t budget;
    uint8_t prefer, pad;
};
#define NAPI_SET _IOW(0x8a, 1, struct napi_params)

static bool napi_tell(int epoll_fd, uint32_t us, bool prefer)
{
    const struct napi_params p = {.us = us, .budget = NAPI_BUDGET, .prefer = prefer};
    return ioctl(epoll_fd, NAPI_SET, &p) == 0;
}

static bool napi_set(struct plx_reactor *r, uint32_t us)
{
    if (!napi_tell(r->epoll_fd, us, false)) {
        if (errno != ENOTTY && errno != EINVAL && errno != EOPNOTSUPP) /* which is how it is not known */
            plx_info("reactor: NICs are not polled while it waits: %s", strerror(errno));
        r->napi.us = 0;
        us = 0;
    }
    atomic_store_explicit(&r->napi.now, us, memory_order_relaxed);
    return us != 0;
}

static unsigned napi_sockets(const struct plx_reactor *r)
{
    return atomic_load_explicit(&r->napi.sockets, memory_order_relaxed);
}

static uint32_t napi_now(const struct plx_reactor *r)
{
    return atomic_load_explicit(&r->napi.now, memory_order_relaxed);
}

bool plx_napi_polls(const struct plx_reactor *r)
{
    return r->napi.us && r->mode == PLX_POLL_ADAPTIVE;
}

void plx_napi_init(struct plx_reactor *r)
{
    plx_list_init(&r->napi.all);
    r->napi.set = -1;
}

/*
 * It wakes once for what comes, as the set of all streams does, which is where it is received; what it says is not
 * looked at.
 */
static bool napi_enter(int epoll_fd, int fd)
{
    struct epoll_event ev = {.events = EPOLLIN | EPOLLET};
    return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &ev) == 0;
}

/* ---- interrupts that are off while packets come ---- */

/* The end of the set has the kernel turn them on. */
static void napi_interrupts(struct plx_reactor *r)
{
    if (r->napi.set >= 0)
        close(r->napi.set);
    r->napi.set = -1;
    r->napi.suspended = false;
    atomic_store_explicit(&r->napi.suspends, false, memory_order_relaxed);
}

static void napi_no_interrupts(struct plx_reactor *r)
{
    r->napi.set = epoll_create1(EPOLL_CLOEXEC);
    bool ok = r->napi.set >= 0 && napi_tell(r->napi.set, NAPI_LOOK_US, true);
    for (struct plx_list *it = r->napi.all.next; ok && it != &r->napi.all; it = it->next)
        ok = napi_enter(r->napi.set, plx_list_entry(it, struct plx_napi_socket, link)->fd);
    if (ok)
        atomic_store_explicit(&r->napi.suspends, true, memory_order_relaxed);
    else
        napi_interrupts(r);
}

bool plx_napi_look(struct plx_reactor *r, bool poll)
{
    struct epoll_event events[PLX_FD_EVENTS];
    const struct timespec timeout = {.tv_nsec = poll};
    const int n = epoll_pwait2(r->napi.set, events, PLX_FD_EVENTS, &timeout, NULL);
    r->napi.looked = r->now;
    if (n < 0 && errno != EINTR) /* a filter that does not know the call */
        napi_interrupts(r);
    else if (n > 0 || poll)
        r->napi.suspended = n > 0;
    if (n > 0)
        plx_reactor_count(&r->napi.suspensions);
    return n > 0;
}

static void napi_answered(struct plx_msg *msg)
{
    struct plx_reactor *r = plx_container_of(msg, struct plx_reactor, napi.answer);
    plx_assert_here(r);
    pthread_join(r->napi.asker, NULL);
    r->napi.asking = false;
    if (r->napi.queue && r->napi.queue == r->napi.asked && r->napi.answered)
        napi_no_interrupts(r);
}

static void *napi_asks(void *arg)
{
    struct plx_reactor *r = arg;
    r->napi.answered = plx_napi_ask(r->napi.asked);
    plx_reactor_send(r, &r->napi.answer);
    return NULL;
}

/* Once for a queue, until there is no socket any more. */
static void napi_ask(struct plx_reactor *r)
{
    r->napi.asked = r->napi.queue;
    r->napi.answer.fn = napi_answered;
    r->napi.asking = !plx_thread_start(&r->napi.asker, r->pinned ? &r->unpinned : NULL, napi_asks, r, "pollux-nic");
}

void plx_napi_destroy(struct plx_reactor *r)
{
    r->napi.queue = 0;
    for (; r->napi.asking; plx_messages_run(r))
        sched_yield();
    napi_interrupts(r);
}

/* ---- whose ---- */

/* A reactor looks for packets of one queue: where they come by several, others have to interrupt it. */
static void napi_queue(struct plx_reactor *r, int fd, unsigned queue)
{
    if (!napi_sockets(r)) {
        r->napi.queue = queue;
        if (!r->napi.asking) /* else it is read, and the answer is of no use */
            r->napi.asked = 0;
    } else if (r->napi.queue != queue) {
        r->napi.queue = 0;
        napi_interrupts(r);
    } else if (r->napi.set >= 0 && !napi_enter(r->napi.set, fd)) {
        napi_interrupts(r);
    }
}

/*
 * It is in the reactor's set, beside the set of all streams in that, as the kernel polls for sockets of the very set
 * that is waited for.
 */
void plx_napi_add(struct plx_reactor *r, struct plx_napi_socket *s, int fd, unsigned queue)
{
    if (!plx_napi_polls(r) || !napi_enter(r->epoll_fd, fd))
        return;
    if (!napi_sockets(r) && !napi_set(r, r->napi.us)) {
        epoll_ctl(r->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
        return;
    }
    napi_queue(r, fd, queue);
    s->fd = fd;
    s->added = true;
    plx_list_add_tail(&r->napi.all, &s->link);
    atomic_store_explicit(&r->napi.sockets, napi_sockets(r) + 1, memory_order_relaxed);
}

void plx_napi_remove(struct plx_reactor *r, struct plx_napi_socket *s)
{
    if (!s->added)
        return;
    s->added = false;
    plx_list_del(&s->link);
    epoll_ctl(r->epoll_fd, EPOLL_CTL_DEL, s->fd, NULL);
    if (r->napi.set >= 0)
        epoll_ctl(r->napi.set, EPOLL_CTL_DEL, s->fd, NULL);
    atomic_store_explicit(&r->napi.sockets, napi_sockets(r) - 1, memory_order_relaxed);
    if (napi_sockets(r))
        return;
    r->napi.queue = 0;
    napi_interrupts(r);
    if (napi_now(r))
        napi_set(r, 0);
}

/* ---- before sleep ---- */

/*
 * As long as loads come thick: the window is what the reactor has learnt of that. Where it spins in vain most of the
 * time, so would the kernel.
 */
void plx_napi_sleep(struct plx_reactor *r)
{
    const uint32_t us = 2 * r->spin.window >= r->spin.max ? r->napi.us : 0;
    if (napi_now(r) != us)
        napi_set(r, us);
    if (plx_unlikely(r->napi.queue != r->napi.asked) && r->napi.queue && !r->napi.asking)
        napi_ask(r);
}
