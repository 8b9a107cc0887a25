/* SPDX-License-Identifier: BSD-3-Clause */
#include "reactor/napi.h"

#include "base/log.h"
#include "reactor/reactor.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

enum { NAPI_BUDGET = 64 }; /* packets a poll: the most that needs no CAP_NET_ADMIN */

/* What the C library's headers have only of late: see ioctl_eventpoll(2). */
struct napi_params {
    uint32_t us;
    uint16_t budget;
    uint8_t prefer, pad;
};
#define NAPI_SET _IOW(0x8a, 1, struct napi_params)

static bool napi_set(struct plx_reactor *r, uint32_t us)
{
    const struct napi_params p = {.us = us, .budget = NAPI_BUDGET};
    if (ioctl(r->epoll_fd, NAPI_SET, &p) < 0) {
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

/*
 * It is in the reactor's set, beside the set of all streams in that, as the kernel polls for sockets of the very set
 * that is waited for. It wakes once for what comes, as the other one does; what it says is not looked at.
 */
bool plx_napi_add(struct plx_reactor *r, int fd)
{
    struct epoll_event ev = {.events = EPOLLIN | EPOLLET};
    if (!plx_napi_polls(r))
        return false;
    if (!napi_sockets(r) && !napi_set(r, r->napi.us))
        return false;
    if (epoll_ctl(r->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0)
        return false;
    atomic_store_explicit(&r->napi.sockets, napi_sockets(r) + 1, memory_order_relaxed);
    return true;
}

void plx_napi_remove(struct plx_reactor *r, int fd)
{
    epoll_ctl(r->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
    atomic_store_explicit(&r->napi.sockets, napi_sockets(r) - 1, memory_order_relaxed);
    if (!napi_sockets(r) && napi_now(r))
        napi_set(r, 0);
}

/*
 * As long as loads come thick: the window is what the reactor has learnt of that. Where it spins in vain most of the
 * time, so would the kernel.
 */
void plx_napi_sleep(struct plx_reactor *r)
{
    const uint32_t us = 2 * r->spin.window >= r->spin.max ? r->napi.us : 0;
    if (napi_now(r) != us)
        napi_set(r, us);
}
