/* SPDX-License-Identifier: BSD-3-Clause */
/* All connections of one reactor: one source that polls them, and the limits that they are held to. */
#include "nvmf/tcp/tcp.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

static struct tcp_group *group_of(struct plx_source *s)
{
    return plx_container_of(s, struct tcp_group, source);
}

static void set_events(struct tcp_conn *c, bool want_out)
{
    if (c->want_out == want_out)
        return;
    struct epoll_event ev = {.events = EPOLLIN | (want_out ? EPOLLOUT : 0), .data.ptr = c};
    c->want_out = want_out;
    epoll_ctl(c->group->source.fd, EPOLL_CTL_MOD, c->fd, &ev);
}

/*
 * Sends what a connection has to send; a socket that takes no more is left alone until epoll says so, unless there are
 * few to try.
 */
static int flush(struct tcp_conn *c)
{
    struct tcp_group *g = c->group;
    int work = tcp_tx_flush(c);
    if (c->state == TCP_DEAD)
        return 1;
    if (!c->blocked) {
        if (c->dirty)
            plx_list_del(&c->dirty_link);
        c->dirty = false;
        set_events(c, false);
    } else if (g->nconns > TCP_FEW_CONNS) {
        set_events(c, true);
    }
    return work;
}

static int serve_conn(struct tcp_conn *c, bool in, bool out)
{
    int work = in ? tcp_rx(c) : 0;
    if (c->state != TCP_DEAD && c->dirty && (!c->blocked || out))
        work += flush(c);
    return work;
}

static int poll_few(struct tcp_group *g)
{
    int work = 0;
    plx_list_for_each_safe(it, &g->conns) {
        work += serve_conn(plx_list_entry(it, struct tcp_conn, link), true, true);
    }
    return work;
}

static int poll_ready(struct tcp_group *g)
{
    struct epoll_event ev[TCP_EVENTS];
    int work = 0, n = epoll_wait(g->source.fd, ev, TCP_EVENTS, 0);
    for (int i = 0; i < n; i++) {
        struct tcp_conn *c = ev[i].data.ptr;
        if (c->state == TCP_DEAD)
            continue; /* closed by one before it in this round; it is freed later */
        work += serve_conn(c, ev[i].events & ~(uint32_t)EPOLLOUT, ev[i].events & EPOLLOUT);
    }
    return work;
}

/* Responses to what completed outside of receiving. */
static int flush_dirty(struct tcp_group *g)
{
    int work = 0;
    plx_list_for_each_safe(it, &g->dirty) {
        struct tcp_conn *c = plx_list_entry(it, struct tcp_conn, dirty_link);
        if (!c->blocked)
            work += flush(c);
        else if (g->nconns > TCP_FEW_CONNS)
            set_events(c, true); /* it was blocked when there were few */
    }
    return work;
}

static void detached(struct nvmf_qpair *qp)
{
    struct tcp_conn *c = tcp_conn_of(qp);
    struct tcp_group *g = c->group;
    plx_list_del(&c->link);
    atomic_fetch_sub(&g->core->target->connections, 1);
    tcp_conn_free(c);
}

/* Lets go of connections that are closed and have nothing in flight any more. */
static int reap(struct tcp_group *g)
{
    int work = 0;
    plx_list_for_each_safe(it, &g->dead) {
        struct tcp_conn *c = plx_list_entry(it, struct tcp_conn, link);
        if (c->detaching || c->qp.in_flight)
            continue;
        c->detaching = true;
        work++;
        nvmf_qpair_detach(&c->qp, detached);
    }
    return work;
}

static int group_poll(struct plx_source *s)
{
    struct tcp_group *g = group_of(s);
    int work = g->nconns <= TCP_FEW_CONNS ? poll_few(g) : poll_ready(g);
    work += tcp_buf_serve(g);
    if (!plx_list_empty(&g->dirty))
        work += flush_dirty(g);
    if (plx_unlikely(!plx_list_empty(&g->dead)))
        work += reap(g);
    return work;
}

static int group_arm(struct plx_source *s)
{
    struct tcp_group *g = group_of(s);
    plx_list_for_each(it, &g->dirty) {
        struct tcp_conn *c = plx_list_entry(it, struct tcp_conn, dirty_link);
        if (!c->blocked)
            return 1;
        set_events(c, true);
    }
    plx_list_for_each(it, &g->dead) {
        struct tcp_conn *c = plx_list_entry(it, struct tcp_conn, link);
        if (!c->detaching && !c->qp.in_flight)
            return 1;
    }
    return 0;
}

static const struct plx_source_ops source_ops = {.poll = group_poll, .arm = group_arm};

static void tick(struct plx_timer *t)
{
    struct tcp_group *g = plx_container_of(t, struct tcp_group, tick);
    uint64_t now = plx_reactor_now(g->reactor);
    bool late =
        now > t->due + TCP_TICK_MS * PLX_NS_PER_MS; /* we were held up: what peers sent may lie in their sockets */
    plx_list_for_each_safe(it, &g->conns) {
        if (late)
            break;
        tcp_conn_check_limits(plx_list_entry(it, struct tcp_conn, link), now);
    }
    plx_list_for_each(it, &g->dead) {
        struct tcp_conn *c = plx_list_entry(it, struct tcp_conn, link);
        if (now - c->closed > NVMF_ORPHAN_MS * PLX_NS_PER_MS)
            tcp_conn_orphan(c);
    }
    g->refused = false;
    if (g->nconns || !plx_list_empty(&g->dead))
        plx_timer_set(g->reactor, &g->tick, TCP_TICK_MS * PLX_NS_PER_MS);
}

int tcp_group_start(struct nvmf_group *core)
{
    struct tcp_group *g = calloc(1, sizeof *g);
    if (!g)
        return -ENOMEM;
    int ret = -ENOMEM;
    g->core = core;
    g->reactor = core->reactor;
    plx_list_init(&g->conns);
    plx_list_init(&g->dead);
    plx_list_init(&g->dirty);
    plx_list_init(&g->fresh);
    for (unsigned i = 0; i < TCP_WAIT_CLASSES; i++)
        plx_list_init(&g->line[i]);
    g->tick.fn = tick;
    g->source.ops = &source_ops;
    /* Memory of its own pages, used only as far as hosts fill it. */
    g->orphans = calloc(1, sizeof *g->orphans);
    if (!g->orphans)
        goto free_group;
    g->orphans->group = g;
    g->orphans->qp.group = core;
    g->orphans->state = TCP_DEAD;
    g->rx = mmap(NULL, TCP_RX_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (g->rx == MAP_FAILED)
        goto free_group;
    g->source.fd = epoll_create1(EPOLL_CLOEXEC);
    if (g->source.fd < 0) {
        ret = -errno;
        goto unmap;
    }
    ret = plx_source_add(g->reactor, &g->source);
    if (ret)
        goto close_epoll;
    core->transport = g;
    return 0;

close_epoll:
    close(g->source.fd);
unmap:
    munmap(g->rx, TCP_RX_BYTES);
free_group:
    free(g->orphans);
    free(g);
    return ret;
}

void tcp_group_free(struct nvmf_group *core)
{
    struct tcp_group *g = core->transport;
    assert(!g->nconns && plx_list_empty(&g->dead));
    plx_timer_cancel(g->reactor, &g->tick);
    plx_source_remove(g->reactor, &g->source);
    if (g->spare)
        plx_buf_put(g->reactor, g->spare, TCP_SPARE_BYTES);
    close(g->source.fd);
    munmap(g->rx, TCP_RX_BYTES);
    free(g->orphans);
    free(g);
    core->transport = NULL;
}

/* ---- stopping: quiet connections close at once, the others when they are quiet or when time is up ---- */

static bool quiet(const struct tcp_conn *c)
{
    bool admin = c->qp.ctrlr && !c->qp.qid;
    unsigned held = admin ? c->qp.ctrlr->naers : 0;
    if (admin && atomic_load(&c->qp.ctrlr->nqpairs) > 1)
        return false; /* its end would take the I/O queues along */
    bool between = c->rx_state == TCP_RX_HEADER || (c->rx_state == TCP_RX_DISCARD && !c->rx_req);
    return c->qp.in_flight <= held && !c->tx.head && !c->ctrl_len && between;
}

static void stop_step(struct plx_timer *t)
{
    struct tcp_group *g = plx_container_of(t, struct tcp_group, deadline);
    uint64_t now = plx_reactor_now(g->reactor);
    bool late = now >= g->abort_at;
    plx_list_for_each_safe(it, &g->conns) {
        struct tcp_conn *c = plx_list_entry(it, struct tcp_conn, link);
        if (late || quiet(c))
            tcp_conn_close(c, quiet(c) ? NULL : "the target stops");
    }
    plx_list_for_each(it, &g->dead) {
        if (now >= g->stop_by)
            tcp_conn_orphan(plx_list_entry(it, struct tcp_conn, link));
    }
    if (!g->nconns && plx_list_empty(&g->dead)) {
        g->stopped(g->core);
        return;
    }
    plx_timer_set(g->reactor, &g->deadline, PLX_NS_PER_MS);
}

void tcp_group_stop(struct nvmf_group *core, uint32_t grace_ms, void (*done)(struct nvmf_group *g))
{
    struct tcp_group *g = core->transport;
    g->stopping = true;
    g->stopped = done;
    /* The last fifth is for disks that are told to abort what they have. */
    g->abort_at = plx_reactor_now(g->reactor) + grace_ms * PLX_NS_PER_MS / 5 * 4;
    g->stop_by = plx_reactor_now(g->reactor) + grace_ms * PLX_NS_PER_MS;
    g->deadline.fn = stop_step;
    stop_step(&g->deadline);
}
