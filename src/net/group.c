/* SPDX-License-Identifier: BSD-3-Clause */
/* All streams of a reactor: one source that polls them, and whose turn it is. */
#include "net/stream.h"

#include "reactor/napi.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    EVENTS = 64,       /* ready streams that are asked for at once */
    VAIN = 4,          /* streams tried in vain in a round, on average, from which on it is cheaper to ask */
    VAIN_SHIFT = 4,    /* that average moves by a sixteenth, and is kept in sixteenths */
    MANY = 32,         /* more than this are never just tried */
    ASK_ROUNDS = 256,  /* before it is found out again */
    NAPI_ASKS = 8,     /* sleeps at which a stream is asked by what NIC its packets come: none may have come yet */
    QUIET_ROUNDS = 16, /* so often are those of few tried from which nothing is expected */
    REFUSALS = 4,      /* and those that take nothing, after 2, 4, 8 rounds: 2 to the power of this */
    LINGER_MS = 1000,  /* how long the other side has to read what was sent last */
    LINGER_MAX = 64,
    LINGER_TICK_MS = 100,
};

struct plx_stream_group {
    struct plx_stream_dirty_list dirty; /* first: plx_stream_dirty() finds it */
    struct plx_source source;           /* fd: an epoll set of all streams that have a descriptor */
    struct plx_reactor *reactor;
    unsigned refs;
    bool polling;
    bool woken; /* something came while everybody slept */
    unsigned rounds;
    int vain;        /* see try_all() */
    unsigned asking; /* rounds to go in which the kernel is asked who is ready */
    struct epoll_event events[EVENTS];
    int event, nevents; /* the next one to be served */
    uint8_t *rx;
    struct plx_list streams; /* not closed */
    unsigned n;
    unsigned changes; /* of that list */
    unsigned nodd;    /* of those, without a descriptor, or with ops->pending */
    unsigned nstalled;
    unsigned nasked; /* that are asked by what NIC their packets come */
    struct plx_list lingering;
    unsigned nlingering;
    struct plx_timer linger_timer;
    struct plx_list freed; /* to be released when the poll is over */
};

static struct plx_stream_group *stream_group_of(struct plx_source *source)
{
    return plx_container_of(source, struct plx_stream_group, source);
}

uint8_t *plx_stream_group_rx(const struct plx_stream_group *g)
{
    return g->rx;
}

/* ---- streams come and go ---- */

void plx_stream_init(struct plx_stream *s, const struct plx_stream_user *user)
{
    memset(s, 0, sizeof *s);
    s->user = user;
    s->fd = -1;
    plx_list_init(&s->link);
    plx_list_init(&s->dirty_link);
}

static void watch_events(struct plx_stream *s, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.ptr = s};
    if (s->watched == events || s->fd < 0)
        return;
    s->watched = events;
    epoll_ctl(s->group->source.fd, EPOLL_CTL_MOD, s->fd, &ev);
}

static void watch_out(struct plx_stream *s, bool out)
{
    watch_events(s, EPOLLIN | (out ? EPOLLOUT : 0));
}

static bool is_odd(const struct plx_stream *s)
{
    return s->fd < 0 || s->ops->pending;
}

int plx_stream_add(struct plx_stream_group *g, struct plx_stream *s)
{
    bool starts = s->ops->start != NULL;
    struct epoll_event ev = {.events = EPOLLIN | (starts ? EPOLLOUT : 0), .data.ptr = s};
    s->group = g;
    s->dirty = s->blocked = s->quiet = s->stalled = s->ended = s->gone = false;
    s->refusals = 0;
    if (s->fd >= 0 && epoll_ctl(g->source.fd, EPOLL_CTL_ADD, s->fd, &ev) < 0) {
        int ret = -errno;
        s->ops->close(s);
        s->fd = -1;
        return ret;
    }
    s->watched = ev.events;
    s->state = starts ? PLX_STREAM_STARTING : PLX_STREAM_OPEN;
    plx_list_add_tail(&g->streams, &s->link);
    g->n++;
    g->changes++;
    g->nodd += is_odd(s);
    s->napi = false;
    s->asks = s->fd >= 0 && plx_napi_polls(g->reactor) ? NAPI_ASKS : 0;
    g->nasked += s->asks > 0;
    return 0;
}

static void unlink_stream(struct plx_stream *s)
{
    struct plx_stream_group *g = s->group;
    if (s->dirty)
        plx_list_del(&s->dirty_link);
    s->dirty = s->blocked = false;
    plx_list_del(&s->link);
    g->n--;
    g->changes++;
    g->nodd -= is_odd(s);
    g->nstalled -= s->stalled;
    s->stalled = false;
    g->nasked -= s->asks > 0;
    s->asks = 0;
    if (s->napi)
        plx_napi_remove(g->reactor, s->fd);
    s->napi = false;
    for (int i = g->event; i < g->nevents; i++)
        if (g->events[i].data.ptr == s)
            g->events[i].data.ptr = NULL;
}

void plx_stream_stall(struct plx_stream *s, bool stalled)
{
    if (s->stalled == stalled)
        return;
    s->stalled = stalled;
    s->group->nstalled += stalled ? 1u : -1u;
}

static void close_now(struct plx_stream *s)
{
    if (s->fd >= 0)
        epoll_ctl(s->group->source.fd, EPOLL_CTL_DEL, s->fd, NULL);
    s->ops->close(s);
    s->fd = -1;
}

static void end_linger(struct plx_stream *s)
{
    plx_list_del(&s->link);
    s->group->nlingering--;
    s->until = 0;
    close_now(s);
    if (s->release)
        s->release(s);
}

void plx_stream_close(struct plx_stream *s)
{
    if (s->state == PLX_STREAM_CLOSED) {
        if (s->until)
            end_linger(s);
        return;
    }
    s->state = PLX_STREAM_CLOSED;
    unlink_stream(s);
    close_now(s);
}

void plx_stream_free(struct plx_stream *s, void (*release)(struct plx_stream *s))
{
    if (s->state != PLX_STREAM_CLOSED)
        plx_stream_close(s);
    s->release = release;
    if (s->until)
        return;
    if (s->group && s->group->polling)
        plx_list_add_tail(&s->group->freed, &s->link);
    else
        release(s);
}

static void release_freed(struct plx_stream_group *g)
{
    while (!plx_list_empty(&g->freed)) {
        struct plx_stream *s = plx_list_entry(g->freed.next, struct plx_stream, link);
        plx_list_del(&s->link);
        s->release(s);
    }
}

/* ---- lingering: closing what has unread data would take back what was sent last ---- */

static void throw_away(struct plx_stream *s)
{
    struct plx_stream_group *g = s->group;
    const struct iovec iov = {g->rx, PLX_STREAM_RX_BYTES};
    ssize_t n = s->ops->recv(s, &iov, 1);
    if ((n <= 0 && n != -EAGAIN) || plx_reactor_now(g->reactor) >= s->until)
        end_linger(s);
}

static void linger_tick(struct plx_timer *t)
{
    struct plx_stream_group *g = plx_container_of(t, struct plx_stream_group, linger_timer);
    plx_list_for_each_safe(it, &g->lingering) {
        throw_away(plx_list_entry(it, struct plx_stream, link));
    }
    if (g->nlingering)
        plx_timer_set(g->reactor, t, LINGER_TICK_MS * PLX_NS_PER_MS);
}

void plx_stream_linger(struct plx_stream *s)
{
    struct plx_stream_group *g = s->group;
    if (s->state != PLX_STREAM_OPEN) {
        plx_stream_close(s);
        return;
    }
    if (g->nlingering == LINGER_MAX)
        end_linger(plx_list_entry(g->lingering.next, struct plx_stream, link));
    s->state = PLX_STREAM_CLOSED;
    unlink_stream(s);
    if (s->fd >= 0) /* looked at now and then is enough */
        epoll_ctl(g->source.fd, EPOLL_CTL_DEL, s->fd, NULL);
    s->ops->shut(s);
    s->until = plx_reactor_now(g->reactor) + LINGER_MS * PLX_NS_PER_MS;
    plx_list_add_tail(&g->lingering, &s->link);
    if (!g->nlingering++)
        plx_timer_set(g->reactor, &g->linger_timer, LINGER_TICK_MS * PLX_NS_PER_MS);
}

/* ---- polling ---- */

static int start(struct plx_stream *s)
{
    int ret = s->ops->start(s);
    if (ret == -EAGAIN)
        return 0;
    if (!ret) {
        s->state = PLX_STREAM_OPEN;
        watch_out(s, false);
    }
    s->user->started(s, ret);
    return 1;
}

static bool ask(const struct plx_stream_group *g)
{
    return (g->asking || g->n > MANY || g->event < g->nevents) && !g->nodd;
}

/*
 * A stream that takes no more is left alone until the kernel says so, and in no list. Where streams are just tried it
 * is tried, ever more rarely; it stays in the list of those that have something to send, until the kernel is asked.
 */
static void mind_blocked(struct plx_stream *s, int work)
{
    s->refusals = s->blocked && !work ? (uint8_t)plx_min_u64(s->refusals + 1u, REFUSALS) : 0;
    if (s->blocked && !ask(s->group) && !(s->watched & EPOLLOUT))
        plx_stream_dirty(s);
    else
        watch_out(s, s->blocked);
}

static void watch_blocked(struct plx_stream *s)
{
    plx_list_del(&s->dirty_link);
    s->dirty = false;
    watch_out(s, true);
}

static int flush(struct plx_stream *s)
{
    const bool before = s->blocked;
    plx_list_del(&s->dirty_link);
    s->dirty = s->blocked = false;
    int work = s->user->out(s);
    if (plx_unlikely(s->state == PLX_STREAM_CLOSED))
        return 1;
    if (plx_unlikely(before || s->blocked))
        mind_blocked(s, work);
    return work;
}

static int serve(struct plx_stream *s, bool in, bool out)
{
    if (plx_unlikely(s->state == PLX_STREAM_STARTING))
        return start(s);
    int work = in ? s->user->in(s) : 0;
    if (plx_unlikely(s->blocked) ? out : s->dirty)
        work += flush(s);
    return work;
}

/*
 * Each stream in turn. To try one in vain costs a system call, to ask who is ready costs one for all: so when more than
 * a few were tried in vain of late, the kernel is asked for a while.
 */
static int try_all(struct plx_stream_group *g)
{
    bool all = g->woken || g->rounds % QUIET_ROUNDS == 0;
    unsigned seen = g->changes; /* a callback may end any stream, so that the list is not what it was */
    int work = 0, vain = 0;
    g->woken = false;
    for (struct plx_list *it = g->streams.next; it != &g->streams && seen == g->changes;) {
        struct plx_stream *s = plx_list_entry(it, struct plx_stream, link);
        it = it->next;
        if (s->quiet && !s->dirty && !all)
            continue;
        int did = serve(s, true, plx_unlikely(s->blocked) && (all || !(g->rounds & ((1u << s->refusals) - 1))));
        work += did;
        vain += !did;
        if (!did || !s->user->one_a_round)
            continue;
        if (seen == g->changes) { /* the others first in the next round */
            plx_list_del(&s->link);
            plx_list_add_tail(&g->streams, &s->link);
        }
        break;
    }
    g->vain += vain - (g->vain >> VAIN_SHIFT);
    if (g->vain > VAIN << VAIN_SHIFT)
        g->asking = ASK_ROUNDS;
    return work;
}

static int serve_ready(struct plx_stream_group *g)
{
    int work = 0;
    if (g->asking && --g->asking == 0)
        g->vain = 0;
    if (g->event == g->nevents) {
        int n = epoll_wait(g->source.fd, g->events, EVENTS, 0);
        g->event = 0;
        g->nevents = n < 0 ? 0 : n;
    }
    while (g->event < g->nevents) {
        const struct epoll_event *ev = &g->events[g->event++];
        struct plx_stream *s = ev->data.ptr;
        if (!s)
            continue; /* closed meanwhile */
        int did = serve(s, ev->events & ~(uint32_t)EPOLLOUT, ev->events & EPOLLOUT);
        work += did;
        if (did && s->user->one_a_round)
            break;
    }
    return work;
}

/* What is to be sent for other reasons than that something came. */
static int flush_dirty(struct plx_stream_group *g)
{
    int work = 0;
    unsigned seen = g->changes;
    const struct plx_list *last = g->dirty.list.prev; /* what gets dirty meanwhile has its turn in the next round */
    for (struct plx_list *it = g->dirty.list.next, *next; it != &g->dirty.list && seen == g->changes; it = next) {
        struct plx_stream *s = plx_list_entry(it, struct plx_stream, dirty_link);
        bool end = it == last;
        next = it->next;
        if (s->state == PLX_STREAM_OPEN && !s->blocked)
            work += flush(s);
        else if (s->blocked && ask(g))
            watch_blocked(s); /* since streams were just tried */
        if (end)
            break;
    }
    return work;
}

static void stream_group_destroy(struct plx_stream_group *g);

static int stream_group_poll(struct plx_source *source)
{
    struct plx_stream_group *g = stream_group_of(source);
    g->polling = true;
    g->rounds++;
    int work = plx_list_empty(&g->dirty.list) ? 0 : flush_dirty(g);
    work += ask(g) ? serve_ready(g) : try_all(g);
    g->polling = false;
    if (plx_unlikely(!plx_list_empty(&g->freed)))
        release_freed(g);
    if (plx_unlikely(!g->refs))
        stream_group_destroy(g);
    return work;
}

/* What comes for a stalled stream is to wake nobody, but its end is. @return whether that has come */
static bool deafen(struct plx_stream *s)
{
    struct pollfd p = {.fd = s->fd, .events = s->ended ? 0 : POLLRDHUP};
    s->gone = s->fd >= 0 && poll(&p, 1, 0) > 0;
    if (!s->gone)
        watch_events(s, (s->ended ? 0 : EPOLLRDHUP) | (s->blocked ? EPOLLOUT : 0));
    return s->gone;
}

/* Before a sleep, as then there is time; and packets have come for those that are not new. */
static void ask_nics(struct plx_stream_group *g)
{
    plx_list_for_each(it, &g->streams) {
        struct plx_stream *s = plx_list_entry(it, struct plx_stream, link);
        int cpu;
        unsigned napi;
        if (!s->asks || s->state != PLX_STREAM_OPEN)
            continue;
        plx_stream_incoming(s, &cpu, &napi);
        s->napi = napi && plx_napi_add(g->reactor, s->fd);
        s->asks = napi ? 0 : (uint8_t)(s->asks - 1);
        g->nasked -= !s->asks;
    }
}

static int stream_group_arm(struct plx_source *source)
{
    struct plx_stream_group *g = stream_group_of(source);
    if (plx_unlikely(g->nasked > 0))
        ask_nics(g);
    if (g->event < g->nevents)
        return 1;
    plx_list_for_each(it, &g->dirty.list) {
        struct plx_stream *s = plx_list_entry(it, struct plx_stream, dirty_link);
        if (s->state != PLX_STREAM_OPEN)
            continue;
        if (!s->blocked)
            return 1;
        watch_out(s, true);
    }
    if (!g->nodd && !g->nstalled)
        return 0;
    plx_list_for_each(it, &g->streams) {
        struct plx_stream *s = plx_list_entry(it, struct plx_stream, link);
        if (s->stalled && deafen(s))
            return 1;
        if (!s->stalled && s->ops->pending && s->ops->pending(s))
            return 1;
    }
    return 0;
}

static void stream_group_disarm(struct plx_source *source)
{
    struct plx_stream_group *g = stream_group_of(source);
    g->woken = true;
    if (plx_likely(!g->nstalled))
        return;
    plx_list_for_each(it, &g->streams) {
        struct plx_stream *s = plx_list_entry(it, struct plx_stream, link);
        if (s->state == PLX_STREAM_OPEN)
            watch_out(s, s->watched & EPOLLOUT);
    }
}

static const struct plx_source_ops source_ops = {
    .poll = stream_group_poll, .arm = stream_group_arm, .disarm = stream_group_disarm};

/* ---- beginning and end ---- */

struct plx_stream_group *plx_stream_group_get(struct plx_reactor *r)
{
    struct plx_source *found = plx_source_find(r, &source_ops);
    if (found) {
        stream_group_of(found)->refs++;
        return stream_group_of(found);
    }
    struct plx_stream_group *g = calloc(1, sizeof *g);
    if (!g)
        return NULL;
    g->reactor = r;
    g->refs = 1;
    plx_list_init(&g->dirty.list);
    plx_list_init(&g->streams);
    plx_list_init(&g->lingering);
    plx_list_init(&g->freed);
    g->linger_timer.fn = linger_tick;
    g->source.ops = &source_ops;
    /* Memory of its own pages, used only as far as peers fill it. */
    g->rx = mmap(NULL, PLX_STREAM_RX_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (g->rx == MAP_FAILED)
        goto free_group;
    g->source.fd = epoll_create1(EPOLL_CLOEXEC);
    if (g->source.fd < 0)
        goto unmap;
    if (plx_source_add(r, &g->source) == 0)
        return g;
    close(g->source.fd);
unmap:
    munmap(g->rx, PLX_STREAM_RX_BYTES);
free_group:
    free(g);
    return NULL;
}

static void stream_group_destroy(struct plx_stream_group *g)
{
    while (g->nlingering)
        end_linger(plx_list_entry(g->lingering.next, struct plx_stream, link));
    plx_timer_cancel(g->reactor, &g->linger_timer);
    plx_source_remove(g->reactor, &g->source);
    close(g->source.fd);
    munmap(g->rx, PLX_STREAM_RX_BYTES);
    free(g);
}

void plx_stream_group_put(struct plx_stream_group *g)
{
    if (--g->refs == 0 && !g->polling)
        stream_group_destroy(g);
}
