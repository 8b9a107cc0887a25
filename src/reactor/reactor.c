/* SPDX-License-Identifier: BSD-3-Clause */
/* The loop of a core: rounds over what can produce work, spinning while that pays, sleeping when it does not. */
#include "reactor/reactor.h"

#include "base/apart.h"
#include "base/log.h"
#include "reactor/aio.h"
#include "reactor/aside.h"
#include "reactor/owner.h"

#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    SPIN_MAX_US = 50,
    NIC_US = 50,
    SPIN_MIN_NS = 2000,
    SLICE_NS = 100000, /* the shortest that there is */
    BUFFER_BYTES = 16 << 20,
    BUFFER_MAX = 1 << 20,
};

/* While there is always something to poll, descriptors that are only watched are looked at this often. */
#define WATCH_PERIOD_NS (1 * PLX_NS_PER_MS)

#ifdef PLX_CHECK_OWNER
static _Thread_local char self; /* its address stands for the thread */

bool plx_reactor_is_here(const struct plx_reactor *r)
{
    const void *owner = atomic_load_explicit(&r->owner, memory_order_relaxed);
    return !owner || owner == &self;
}

/* @return what to set it back to */
static const void *reactor_own(struct plx_reactor *r)
{
    assert(plx_reactor_is_here(r));
    return atomic_exchange_explicit(&r->owner, &self, memory_order_relaxed);
}

static void reactor_disown(struct plx_reactor *r, const void *was)
{
    atomic_store_explicit(&r->owner, was, memory_order_relaxed);
}
#else
static const void *reactor_own(struct plx_reactor *r)
{
    return r;
}

static void reactor_disown(struct plx_reactor *r, const void *was)
{
    (void)r, (void)was;
}
#endif

static int create(struct plx_reactor **out, const struct plx_reactor_opts *opts, bool told)
{
    struct plx_reactor *r = plx_alloc_apart(sizeof *r);
    if (!r)
        return -ENOMEM;
    r->core = opts->core;
    r->mode = opts->mode;
    r->spin.window = r->spin.max = (opts->spin_us ? opts->spin_us : SPIN_MAX_US) * PLX_NS_PER_US;
    plx_rhythm_init(&r->rhythm);
    r->napi.us = opts->nic_us == PLX_NIC_NOT_POLLED ? 0 : opts->nic_us ? opts->nic_us : NIC_US;
    r->now = r->born = plx_clock_ns();

    int ret = plx_buf_pool_init(&r->buf, opts->buffer_bytes ? opts->buffer_bytes : BUFFER_BYTES,
                                plx_max_u64(opts->buffer_max, BUFFER_MAX), opts->shared, told);
    if (ret)
        goto free_reactor;
    r->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (r->epoll_fd < 0) {
        ret = -errno;
        goto free_pool;
    }
    r->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (r->wake_fd < 0) {
        ret = -errno;
        goto close_epoll;
    }
    struct epoll_event ev = {.events = EPOLLIN};
    if (epoll_ctl(r->epoll_fd, EPOLL_CTL_ADD, r->wake_fd, &ev) < 0) {
        ret = -errno;
        goto close_wake;
    }
    *out = r;
    return 0;

close_wake:
    close(r->wake_fd);
close_epoll:
    close(r->epoll_fd);
free_pool:
    plx_buf_pool_destroy(&r->buf);
free_reactor:
    free(r);
    return ret;
}

int plx_reactor_create(struct plx_reactor **out, const struct plx_reactor_opts *opts)
{
    static const struct plx_reactor_opts defaults = {.core = -1};
    return create(out, opts ? opts : &defaults, true);
}

int plx_reactor_create_aside(struct plx_reactor **out)
{
    static const struct plx_reactor_opts opts = {.core = -1, .mode = PLX_POLL_SLEEP};
    return create(out, &opts, false);
}

void plx_reactor_destroy(struct plx_reactor *r)
{
    plx_assert_here(r);
    /* Who sent a message counts on its being run, for its memory if nothing else. */
    while (plx_messages_run(r) > 0)
        ;
    plx_aio_destroy(r);
    for (struct plx_source *s; (s = r->sources);) {
        plx_source_remove(r, s);
        if (s->ops->destroy)
            s->ops->destroy(s);
    }
    plx_teller_destroy(r);
    close(r->wake_fd);
    close(r->epoll_fd);
    plx_buf_pool_destroy(&r->buf);
    free(r);
}

_Static_assert(offsetof(struct plx_reactor, now) == 0, "now.h");

uint64_t plx_reactor_now(const struct plx_reactor *r)
{
    return r->now;
}

const uint64_t *plx_reactor_now_at(const struct plx_reactor *r)
{
    return &r->now;
}

uint64_t plx_reactor_clock(const struct plx_reactor *r)
{
    (void)r; /* the one clock that there is */
    return plx_clock_ns();
}

int plx_reactor_core(const struct plx_reactor *r)
{
    return r->core;
}

int plx_reactor_fd(const struct plx_reactor *r)
{
    return r->epoll_fd;
}

void plx_reactor_get_stats(const struct plx_reactor *r, struct plx_reactor_stats *out)
{
    out->rounds = atomic_load_explicit(&r->rounds, memory_order_relaxed);
    out->busy_ns = atomic_load_explicit(&r->busy_ns, memory_order_relaxed);
    out->idle_ns = plx_clock_ns() - r->born;
    out->idle_ns = out->idle_ns > out->busy_ns ? out->idle_ns - out->busy_ns : 0;
    out->tid = atomic_load_explicit(&r->tid, memory_order_relaxed);
    out->busy_rounds = atomic_load_explicit(&r->busy_rounds, memory_order_relaxed);
    out->sleeps = atomic_load_explicit(&r->sleeps, memory_order_relaxed);
    out->nic_sockets = atomic_load_explicit(&r->napi.sockets, memory_order_relaxed);
    out->nic_us = atomic_load_explicit(&r->napi.now, memory_order_relaxed);
}

/* Only the reactor writes its statistics, so a plain load and store is enough, without a locked instruction. */
static void stat_count(_Atomic uint64_t *n)
{
    atomic_store_explicit(n, atomic_load_explicit(n, memory_order_relaxed) + 1, memory_order_relaxed);
}

/* ---- sources and watched descriptors ---- */

int plx_source_add(struct plx_reactor *r, struct plx_source *s)
{
    plx_assert_here(r);
    if (s->fd >= 0) {
        struct epoll_event ev = {.events = EPOLLIN};
        if (epoll_ctl(r->epoll_fd, EPOLL_CTL_ADD, s->fd, &ev) < 0)
            return -errno;
    }
    s->next = r->sources;
    r->sources = s;
    return 0;
}

void plx_source_remove(struct plx_reactor *r, struct plx_source *s)
{
    plx_assert_here(r);
    for (struct plx_source **p = &r->sources; *p; p = &(*p)->next) {
        if (*p != s)
            continue;
        if (r->polling == &s->next)
            r->polling = p;
        *p = s->next;
        if (s->fd >= 0)
            epoll_ctl(r->epoll_fd, EPOLL_CTL_DEL, s->fd, NULL);
        return;
    }
}

struct plx_source *plx_source_find(struct plx_reactor *r, const struct plx_source_ops *ops)
{
    struct plx_source *s = r->sources;
    while (s && s->ops != ops)
        s = s->next;
    return s;
}

int plx_watch_add(struct plx_reactor *r, struct plx_watch *w)
{
    plx_assert_here(r);
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = w};
    return epoll_ctl(r->epoll_fd, EPOLL_CTL_ADD, w->fd, &ev) < 0 ? -errno : 0;
}

void plx_watch_remove(struct plx_reactor *r, struct plx_watch *w)
{
    plx_assert_here(r);
    epoll_ctl(r->epoll_fd, EPOLL_CTL_DEL, w->fd, NULL);
    for (int i = 0; i < r->nevents; i++)
        if (r->events[i].data.ptr == w)
            r->events[i].data.ptr = NULL;
}

static int wait_kernel(struct plx_reactor *r, int64_t timeout_ns)
{
    struct timespec ts = {timeout_ns / (int64_t)PLX_NS_PER_S, timeout_ns % (int64_t)PLX_NS_PER_S};
    int n = epoll_pwait2(r->epoll_fd, r->events, PLX_FD_EVENTS, timeout_ns < 0 ? NULL : &ts, NULL);
    /* Before Linux 5.11, or where a filter does not know the call: milliseconds, rounded up so as not to spin. */
    if (n < 0 && (errno == ENOSYS || errno == EPERM)) {
        uint64_t ms = ((uint64_t)timeout_ns + PLX_NS_PER_MS - 1) / PLX_NS_PER_MS;
        n = epoll_wait(r->epoll_fd, r->events, PLX_FD_EVENTS, timeout_ns < 0 ? -1 : (int)plx_min_u64(ms, 1 << 30));
    }
    return n < 0 ? 0 : n;
}

/*
 * Waits for descriptors for at most timeout_ns (-1: for ever), and calls back those that are watched. @return how
 * many
 */
static int wait_fds(struct plx_reactor *r, int64_t timeout_ns)
{
    int done = 0;
    r->nevents = wait_kernel(r, timeout_ns);
    r->fds_checked = r->now = plx_clock_ns();
    plx_log_tick(r->now);
    for (int i = 0; i < r->nevents; i++) {
        struct plx_watch *w = r->events[i].data.ptr;
        if (w) { /* else the wake-up of a source, which is polled anyway, or a watch that was removed meanwhile */
            w->ready(w);
            done++;
        }
    }
    r->nevents = 0;
    return done;
}

/* ---- rounds ---- */

static void disarm(struct plx_reactor *r)
{
    r->armed = false;
    plx_inbox_rise(&r->inbox);
    uint64_t ignored;
    if (read(r->wake_fd, &ignored, sizeof ignored) < 0 && errno != EAGAIN)
        plx_error("reactor: cannot read its own eventfd: %s", strerror(errno));
    for (struct plx_source *s = r->sources; s; s = s->next)
        if (s->ops->disarm)
            s->ops->disarm(s);
}

int plx_reactor_poll(struct plx_reactor *r)
{
    /* Driven by an outer loop, which waited for our descriptor: what woke it may be a watch. */
    bool woken = r->armed;
    const void *was = reactor_own(r);
    if (plx_unlikely(woken))
        disarm(r);
    uint64_t before = r->now;
    r->now = plx_clock_ns();
    if (r->was_busy) /* until here */
        atomic_store_explicit(&r->busy_ns, r->busy_ns + (r->now - before), memory_order_relaxed);
    r->in_round = true;
    int work = plx_messages_run(r) + plx_timers_run(r), own = work;
    for (r->polling = &r->sources; *r->polling;) {
        struct plx_source *s = *r->polling;
        r->polling = &s->next;
        work += s->ops->poll(s);
    }
    r->polling = NULL;
    r->sourced = work > own;
    if (woken || r->now - r->fds_checked > WATCH_PERIOD_NS || plx_clock_simulated())
        work += wait_fds(r, 0);
    r->in_round = false;
    stat_count(&r->rounds);
    r->was_busy = work != 0;
    if (work)
        stat_count(&r->busy_rounds);
    reactor_disown(r, was);
    return work;
}

int plx_reactor_arm(struct plx_reactor *r)
{
    r->armed = true;
    int work = plx_inbox_doze(&r->inbox) || atomic_load_explicit(&r->stop, memory_order_relaxed);
    for (struct plx_source *s = r->sources; s; s = s->next)
        if (s->ops->arm)
            work |= s->ops->arm(s);
    if (work)
        disarm(r);
    return work;
}

int64_t plx_reactor_timeout(struct plx_reactor *r)
{
    uint64_t due = plx_log_due();
    if (r->timers && (!due || r->timers->due < due))
        due = r->timers->due;
    if (!due)
        return -1;
    r->now = plx_clock_ns();
    return due > r->now ? (int64_t)(due - r->now) : 0;
}

/* Sleeps until there is work, at the latest until the given time, if that is not 0. */
static void sleep_until_work(struct plx_reactor *r, uint64_t limit)
{
    struct plx_spin *s = &r->spin;
    int64_t timeout = plx_reactor_timeout(r);
    if (limit && (timeout < 0 || limit < r->now + (uint64_t)timeout))
        timeout = limit > r->now ? (int64_t)(limit - r->now) : 0;
    if (timeout == 0 || plx_clock_simulated() || plx_reactor_arm(r))
        return;
    uint64_t end = r->now + (uint64_t)timeout;
    s->slept = r->now;
    stat_count(&r->sleeps);
    if (plx_unlikely(atomic_load_explicit(&r->napi.sockets, memory_order_relaxed) > 0))
        plx_napi_sleep(r);
    wait_fds(r, timeout);
    s->woken = true;
    if (timeout > 0 && r->now > end)
        plx_rhythm_overslept(&r->rhythm, r->now - end);
    disarm(r);
}

/*
 * The policy of when to sleep, whole.
 *
 * Spin for a window that grows towards its maximum when work came within that maximum, and shrinks when spinning was
 * in vain; then sleep. That serves loads that come thick and loads that come rarely.
 *
 * Between them are clients that ask in a steady rhythm. To wake a core takes several times as long as to serve them, so
 * where the rhythm is regular enough, sleep ends shortly before the next burst is due, and it is waited for spinning.
 * That costs a quarter of a core at most, and four times the maximal window for each burst; a burst that does not come
 * is not waited for again.
 */
static void idle(struct plx_reactor *r)
{
    struct plx_spin *s = &r->spin;
    uint64_t limit = 0;
    /* The thread of the kernel that works for us may be waiting for this very core. */
    if (r->threaded)
        sched_yield();
    if (r->mode == PLX_POLL_BUSY)
        return;
    s->woken = false;
    if (!s->idle_since)
        s->idle_since = r->now;
    if (r->mode == PLX_POLL_ADAPTIVE) {
        if (r->now - s->idle_since < s->window)
            return;
        if (plx_rhythm_due(&r->rhythm, r->now, 4 * s->max, &limit))
            return;
        s->window = plx_max_u64(s->window / 2, SPIN_MIN_NS);
    }
    sleep_until_work(r, limit);
}

/* Work has come after rounds without. */
static void idle_over(struct plx_reactor *r)
{
    struct plx_spin *s = &r->spin;
    if (r->now - s->idle_since < s->max)
        s->window = plx_min_u64(s->window * (s->woken ? 4 : 2), s->max);
    else if (r->sourced)
        plx_rhythm_learn(&r->rhythm, s->woken ? plx_max_u64(r->now - r->rhythm.late, s->slept) : r->now, r->now);
    s->idle_since = 0;
    s->woken = false;
}

static void pin(struct plx_reactor *r)
{
    cpu_set_t set;
    if (r->core < 0 || r->core >= CPU_SETSIZE)
        return;
    CPU_ZERO(&set);
    CPU_SET(r->core, &set);
    if (sched_getaffinity(0, sizeof r->unpinned, &r->unpinned) < 0 || sched_setaffinity(0, sizeof set, &set) < 0)
        plx_warn("reactor: cannot run on core %d (%s); running where the kernel puts it", r->core, strerror(errno));
    else
        r->pinned = true;
}

static void unpin(struct plx_reactor *r)
{
    if (r->pinned)
        sched_setaffinity(0, sizeof r->unpinned, &r->unpinned);
    r->pinned = false;
}

/* What sched_setattr() takes; the C library's headers have it only of late. */
struct slice_attr {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
};

/*
 * Where others want the core too, a reactor that asks for it in small pieces gets it as soon as it is woken, not when
 * the piece of somebody else's is over, milliseconds later (EEVDF, from Linux 6.12 on; before, nothing comes of this).
 * One that has no core to itself is somebody else to those that do, and is not to have pieces as small as theirs.
 * @return what it was, 0 where it cannot be known
 */
static uint64_t set_slice(uint64_t ns)
{
    struct slice_attr attr = {.size = sizeof attr};
    if (!ns || syscall(SYS_sched_getattr, 0, &attr, sizeof attr, 0) || attr.policy != SCHED_OTHER || !attr.runtime)
        return 0;
    const uint64_t was = attr.runtime;
    attr.runtime = ns;
    return syscall(SYS_sched_setattr, 0, &attr, 0) ? 0 : was;
}

void plx_reactor_run(struct plx_reactor *r)
{
    const uint64_t slice = r->core < 0 ? 0 : set_slice(SLICE_NS);
    int slack = prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0);
    const void *was = reactor_own(r);
    prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0); /* sleep as long as we said, and not up to 50 us longer */
    pin(r);
    atomic_store_explicit(&r->tid, (int)gettid(), memory_order_relaxed);
    while (!atomic_load_explicit(&r->stop, memory_order_relaxed)) {
        if (plx_reactor_poll(r)) {
            if (r->spin.idle_since)
                idle_over(r);
            continue;
        }
        idle(r);
    }
    atomic_store_explicit(&r->tid, 0, memory_order_relaxed);
    atomic_store_explicit(&r->stop, false, memory_order_relaxed);
    reactor_disown(r, was);
    unpin(r);
    set_slice(slice);
    if (slack >= 0)
        prctl(PR_SET_TIMERSLACK, slack, 0, 0, 0);
}

static void wake(struct plx_reactor *r)
{
    uint64_t one = 1;
    ssize_t ignored = write(r->wake_fd, &one, sizeof one);
    (void)ignored; /* EAGAIN means that it is as readable as can be */
}

void plx_reactor_stop(struct plx_reactor *r)
{
    atomic_store_explicit(&r->stop, true, memory_order_relaxed);
    wake(r);
}

/* ---- messages ---- */

void plx_reactor_send(struct plx_reactor *r, struct plx_msg *msg)
{
    if (plx_inbox_push(&r->inbox, msg))
        wake(r);
}

bool plx_messages_waiting(struct plx_reactor *r)
{
    return plx_inbox_waiting(&r->inbox);
}

int plx_messages_run(struct plx_reactor *r)
{
    if (!plx_messages_waiting(r))
        return 0;
    struct plx_msg *queue = plx_inbox_take(&r->inbox);
    int n = 0;
    for (; queue; n++) {
        struct plx_msg *msg = queue;
        queue = msg->next;
        msg->fn(msg);
    }
    return n;
}
