/* SPDX-License-Identifier: BSD-3-Clause */
#include "reactor/napi.h"

#include "base/log.h"
#include "reactor/napi_ask.h"
#include "reactor/owner.h"
#include "reactor/reactor.h"
#include "reactor/thread.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>

enum {
    NAPI_BUDGET = 64, /* packets a poll: the most that needs no CAP_NET_ADMIN */
    POKE_NS = 10000,
};

/* What the C library's headers have only of late: see ioctl_eventpoll(2). */
struct napi_params {
    uint32_t us;
    uint16_t budget;
    uint8_t prefer, pad;
};
#define NAPI_SET _IOW(0x8a, 1, struct napi_params)

static bool napi_suspends(const struct plx_reactor *r)
{
    return atomic_load_explicit(&r->napi.suspends, memory_order_relaxed);
}

static bool napi_set(struct plx_reactor *r, uint32_t us)
{
    const struct napi_params p = {.us = us, .budget = NAPI_BUDGET, .prefer = napi_suspends(r)};
    if (ioctl(r->epoll_fd, NAPI_SET, &p) < 0) {
        if (errno != ENOTTY && errno != EINVAL && errno != EOPNOTSUPP) /* which is how it is not known */
            plx_info("reactor: NICs are not polled while it waits: %s", strerror(errno));
        r->napi.us = 0;
        us = 0;
    }
    r->napi.prefer = p.prefer && r->napi.us;
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

/* ---- whether interrupts can be off meanwhile ---- */

void plx_napi_must_interrupt(struct plx_reactor *r)
{
    atomic_store_explicit(&r->napi.suspends, false, memory_order_relaxed);
    r->napi.suspended = false;
}

static void napi_ask(struct plx_reactor *r);

static void napi_answered(struct plx_msg *msg)
{
    struct plx_reactor *r = plx_container_of(msg, struct plx_reactor, napi.answer);
    plx_assert_here(r);
    pthread_join(r->napi.asker, NULL);
    r->napi.asking = false;
    if (r->napi.queue == r->napi.asked)
        atomic_store_explicit(&r->napi.suspends, r->napi.answered, memory_order_relaxed);
    else if (r->napi.queue)
        napi_ask(r);
}

static void *napi_asks(void *arg)
{
    struct plx_reactor *r = arg;
    r->napi.answered = plx_napi_ask(r->napi.asked);
    plx_reactor_send(r, &r->napi.answer);
    return NULL;
}

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
}

/* A reactor waits for one queue: where its packets come by several, those that it does not wait for must interrupt. */
static void napi_queue(struct plx_reactor *r, unsigned queue)
{
    if (!napi_sockets(r)) {
        r->napi.queue = queue;
        if (!r->napi.asking)
            napi_ask(r);
    } else if (r->napi.queue != queue) {
        r->napi.queue = 0;
        plx_napi_must_interrupt(r);
    }
}

/* ---- whose ---- */

/*
 * It is in the reactor's set, beside the set of all streams in that, as the kernel polls for sockets of the very set
 * that is waited for. It wakes once for what comes, as the other one does; what it says is not looked at.
 */
bool plx_napi_add(struct plx_reactor *r, int fd, unsigned queue)
{
    struct epoll_event ev = {.events = EPOLLIN | EPOLLET};
    if (!plx_napi_polls(r))
        return false;
    if (!napi_sockets(r) && !napi_set(r, r->napi.us))
        return false;
    if (epoll_ctl(r->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0)
        return false;
    napi_queue(r, queue);
    atomic_store_explicit(&r->napi.sockets, napi_sockets(r) + 1, memory_order_relaxed);
    return true;
}

void plx_napi_remove(struct plx_reactor *r, int fd)
{
    epoll_ctl(r->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
    atomic_store_explicit(&r->napi.sockets, napi_sockets(r) - 1, memory_order_relaxed);
    if (napi_sockets(r))
        return;
    r->napi.queue = 0;
    plx_napi_must_interrupt(r);
    if (napi_now(r) || r->napi.prefer)
        napi_set(r, 0);
}

/* ---- while it waits ---- */

static void napi_tell(struct plx_reactor *r, uint32_t us)
{
    if (napi_now(r) != us || r->napi.prefer != napi_suspends(r))
        napi_set(r, us);
}

/*
 * As long as loads come thick: the window is what the reactor has learnt of that. Where it spins in vain most of the
 * time, so would the kernel.
 */
void plx_napi_sleep(struct plx_reactor *r)
{
    napi_tell(r, 2 * r->spin.window >= r->spin.max ? r->napi.us : 0);
}

bool plx_napi_due(const struct plx_reactor *r, bool idle)
{
    return r->napi.suspended && (idle || r->now - r->fds_checked > POKE_NS);
}

int64_t plx_napi_poke(struct plx_reactor *r)
{
    napi_tell(r, 0);
    return 1;
}

void plx_napi_waited(struct plx_reactor *r, int64_t timeout_ns)
{
    if (r->nevents)
        plx_reactor_count(&r->napi.suspensions);
    if (r->nevents || timeout_ns) /* it only looks else, which changes nothing */
        r->napi.suspended = r->nevents > 0;
}
