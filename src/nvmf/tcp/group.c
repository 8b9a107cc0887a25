/* SPDX-License-Identifier: BSD-3-Clause */
/* All connections of one reactor: what is done beside receiving and sending, and the limits that they are held to. */
#include "nvmf/tcp/tcp.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

static struct tcp_group *tcp_group_of(struct plx_source *s)
{
    return plx_container_of(s, struct tcp_group, source);
}

static void detached(struct nvmf_qpair *qp)
{
    struct tcp_conn *c = tcp_conn_of(qp);
    struct tcp_group *g = c->group;
    plx_list_del(&c->link);
    atomic_fetch_sub(&g->core->target->connections, 1);
    atomic_fetch_sub_explicit(&g->core->connections, 1, memory_order_relaxed);
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

static int tcp_group_poll(struct plx_source *s)
{
    struct tcp_group *g = tcp_group_of(s);
    int work = tcp_buf_serve(g);
    if (plx_unlikely(!plx_list_empty(&g->unsent)))
        work += tcp_tx_resume(g);
    if (plx_unlikely(!plx_list_empty(&g->dead)))
        work += reap(g);
    return work;
}

static int tcp_group_arm(struct plx_source *s)
{
    struct tcp_group *g = tcp_group_of(s);
    plx_list_for_each(it, &g->dead) {
        struct tcp_conn *c = plx_list_entry(it, struct tcp_conn, link);
        if (!c->detaching && !c->qp.in_flight)
            return 1;
    }
    return 0;
}

static const struct plx_source_ops source_ops = {.poll = tcp_group_poll, .arm = tcp_group_arm};

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
    g->core = core;
    g->reactor = core->reactor;
    plx_list_init(&g->conns);
    plx_list_init(&g->dead);
    plx_list_init(&g->fresh);
    plx_list_init(&g->unsent);
    for (unsigned i = 0; i < TCP_WAIT_CLASSES; i++)
        plx_list_init(&g->line[i]);
    g->tick.fn = tick;
    g->source.ops = &source_ops;
    g->source.fd = -1;
    g->orphans = calloc(1, sizeof *g->orphans);
    g->streams = g->orphans ? plx_stream_group_get(g->reactor) : NULL;
    int ret = g->streams ? plx_source_add(g->reactor, &g->source) : -ENOMEM;
    if (ret) {
        if (g->streams)
            plx_stream_group_put(g->streams);
        free(g->orphans);
        free(g);
        return ret;
    }
    g->orphans->group = g;
    g->orphans->qp.group = core;
    g->orphans->state = TCP_DEAD;
    core->transport = g;
    return 0;
}

void tcp_group_free(struct nvmf_group *core)
{
    struct tcp_group *g = core->transport;
    assert(!g->nconns && plx_list_empty(&g->dead));
    plx_timer_cancel(g->reactor, &g->tick);
    plx_source_remove(g->reactor, &g->source);
    plx_stream_group_put(g->streams);
    if (g->spare)
        plx_buf_put(g->reactor, g->spare, TCP_SPARE_BYTES);
    free(g->orphans);
    free(g);
    core->transport = NULL;
}

/* ---- stopping: quiet connections close at once, the others when they are quiet or when time is up ---- */

/* What a pause holds is not waited for. */
static bool quiet(const struct tcp_conn *c)
{
    bool admin = c->qp.ctrlr && !c->qp.qid;
    unsigned held = admin ? c->qp.ctrlr->naers : 0;
    if (admin && atomic_load(&c->qp.ctrlr->nqpairs) > 1)
        return false; /* its end would take the I/O queues along */
    bool between = c->frame.state == NVME_TCP_FRAME_HEADER || (c->frame.discard && !c->rx_req);
    return c->qp.in_flight <= held + c->qp.paused && !c->tx.head && !c->ctrl_len && between;
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
