/* SPDX-License-Identifier: BSD-3-Clause */
/* All queue pairs of a reactor: one source that polls them. */
#include "nvme/nvme.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

static struct nvme_group *group_of(struct plx_source *s)
{
    return plx_container_of(s, struct nvme_group, source);
}

/* ---- sockets of the epoll set ---- */

static void set_events(struct nvme_qp *qp, bool want_out)
{
    if (qp->want_out == want_out)
        return;
    struct epoll_event ev = {.events = EPOLLIN | (want_out ? EPOLLOUT : 0), .data.ptr = qp};
    qp->want_out = want_out;
    epoll_ctl(qp->group->source.fd, EPOLL_CTL_MOD, qp->fd, &ev);
}

int nvme_group_add(struct nvme_qp *qp)
{
    struct nvme_group *g = qp->group;
    struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT, .data.ptr = qp};
    if (epoll_ctl(g->source.fd, EPOLL_CTL_ADD, qp->fd, &ev) < 0)
        return -errno;
    qp->want_out = true;
    plx_list_del(&qp->link);
    plx_list_add_tail(&g->qps, &qp->link);
    g->nqps++;
    g->changes++;
    return 0;
}

void nvme_group_unwatch(struct nvme_qp *qp)
{
    epoll_ctl(qp->group->source.fd, EPOLL_CTL_DEL, qp->fd, NULL);
}

void nvme_group_remove(struct nvme_qp *qp)
{
    if (qp->fd >= 0)
        nvme_group_unwatch(qp);
    if (qp->dirty)
        plx_list_del(&qp->dirty_link);
    qp->dirty = false;
    plx_list_del(&qp->link);
    qp->group->nqps--;
    qp->group->changes++;
    for (int i = qp->group->event; i < qp->group->nevents; i++)
        if (qp->group->events[i].data.ptr == qp)
            qp->group->events[i].data.ptr = NULL;
}

void nvme_group_dirty(struct nvme_qp *qp)
{
    if (qp->dirty || qp->state == NVME_QP_CLOSED)
        return;
    qp->dirty = true;
    plx_list_add_tail(&qp->group->dirty, &qp->dirty_link);
}

/* ---- polling ---- */

static int flush(struct nvme_qp *qp)
{
    int work = nvme_tx_flush(qp);
    if (plx_unlikely(qp->state == NVME_QP_CLOSED))
        return 1;
    if (plx_unlikely(qp->blocked)) {
        if (qp->group->nqps > TCP_FEW)
            set_events(qp, true);
        return work;
    }
    /*
     * Requests that were completed by this very send may have been followed by others: those are sent next. A fused
     * command waits for two slots.
     */
    const struct nvme_req *next = qp->backlog.head;
    if (plx_unlikely(qp->tx_first != qp->tx_niov || (next && qp->nfree > (next->fused ? 1 : 0))))
        return work + 1;
    /* What waits for slots is sent when some get free, which makes it dirty again. */
    if (qp->dirty)
        plx_list_del(&qp->dirty_link);
    qp->dirty = false;
    set_events(qp, false);
    return work;
}

static int serve(struct nvme_qp *qp, bool in, bool out)
{
    if (plx_unlikely(qp->state == NVME_QP_CONNECTING)) {
        nvme_qp_check_connected(qp);
        in = false;
    }
    int work = in ? nvme_rx(qp) : 0;
    if (qp->dirty && qp->state >= NVME_QP_INIT && (!qp->blocked || out))
        work += flush(qp);
    return work;
}

/*
 * Whether a queue pair is to be tried in this round: those from which nothing is expected are only tried now and then.
 */
static bool tried(const struct nvme_group *g, const struct nvme_qp *qp)
{
    unsigned expected = qp->qid ? 0 : 1; /* admin queues: an event, perhaps in a year */
    return qp->in_flight > expected || qp->dirty || qp->state != NVME_QP_OPEN || g->rounds % TCP_QUIET_ROUNDS == 0;
}

/*
 * Serves one queue pair that has something: then it is for those who wait for its answers to go on, and what they
 * submit is sent before the next queue pair is served. So the controller always has something to do.
 */
static int poll_few(struct nvme_group *g)
{
    int work = 0;
    unsigned seen = g->changes; /* a callback may end any queue pair, so that the list is not what it was */
    struct plx_list *it = g->qps.next;
    while (!work && it != &g->qps && seen == g->changes) {
        struct nvme_qp *qp = plx_list_entry(it, struct nvme_qp, link);
        it = it->next;
        work = tried(g, qp) ? serve(qp, true, true) : 0;
        if (work && seen == g->changes) { /* the others first in the next round */
            plx_list_del(&qp->link);
            plx_list_add_tail(&g->qps, &qp->link);
        }
    }
    return work;
}

static int poll_ready(struct nvme_group *g)
{
    int work = 0;
    if (g->event == g->nevents) {
        int n = epoll_wait(g->source.fd, g->events, TCP_EVENTS, 0);
        g->event = 0;
        g->nevents = n < 0 ? 0 : n;
    }
    while (!work && g->event < g->nevents) {
        const struct epoll_event *ev = &g->events[g->event++];
        struct nvme_qp *qp = ev->data.ptr;
        if (qp) /* else it was closed meanwhile */
            work = serve(qp, ev->events & ~(uint32_t)EPOLLOUT, ev->events & EPOLLOUT);
    }
    return work;
}

/* What was submitted outside of receiving. */
static int flush_dirty(struct nvme_group *g)
{
    int work = 0;
    unsigned seen = g->changes;
    struct plx_list *it = g->dirty.next;
    while (it != &g->dirty && seen == g->changes) {
        struct nvme_qp *qp = plx_list_entry(it, struct nvme_qp, dirty_link);
        it = it->next;
        if (!qp->blocked && qp->state >= NVME_QP_INIT)
            work += flush(qp);
        else if (qp->blocked && g->nqps > TCP_FEW)
            set_events(qp, true); /* it was blocked when there were few */
    }
    return work;
}

static void group_destroy(struct nvme_group *g);

static int group_poll(struct plx_source *s)
{
    struct nvme_group *g = group_of(s);
    g->polling = true;
    g->rounds++;
    int work = plx_list_empty(&g->dirty) ? 0 : flush_dirty(g);
    work += g->nqps <= TCP_FEW ? poll_few(g) : poll_ready(g);
    g->polling = false;
    while (plx_unlikely(!plx_list_empty(&g->dead))) {
        struct nvme_qp *qp = plx_list_entry(g->dead.next, struct nvme_qp, link);
        plx_list_del(&qp->link);
        nvme_qp_free(qp);
    }
    if (plx_unlikely(!g->refs))
        group_destroy(g);
    return work;
}

static int group_arm(struct plx_source *s)
{
    struct nvme_group *g = group_of(s);
    plx_list_for_each(it, &g->dirty) {
        struct nvme_qp *qp = plx_list_entry(it, struct nvme_qp, dirty_link);
        if (qp->state < NVME_QP_INIT)
            continue;
        if (!qp->blocked)
            return 1;
        set_events(qp, true);
    }
    return 0;
}

static const struct plx_source_ops source_ops = {.poll = group_poll, .arm = group_arm};

/* ---- lingering sockets ---- */

static void linger_close(struct nvme_group *g, struct nvme_linger *l)
{
    close(l->fd);
    l->fd = -1;
    g->nlingers--;
}

/* Reads what comes and throws it away: closing a socket that has unread data would take back what was sent last. */
static void linger_tick(struct plx_timer *t)
{
    struct nvme_group *g = plx_container_of(t, struct nvme_group, linger_timer);
    uint64_t now = plx_reactor_now(g->reactor);
    for (unsigned i = 0; i < TCP_LINGERS; i++) {
        struct nvme_linger *l = &g->lingers[i];
        if (l->fd < 0)
            continue;
        ssize_t n = recv(l->fd, g->rx, TCP_RX_BYTES, MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR) || now >= l->until)
            linger_close(g, l);
    }
    if (g->nlingers)
        plx_timer_set(g->reactor, t, 20 * PLX_NS_PER_MS);
}

void nvme_group_linger(struct nvme_group *g, int fd)
{
    unsigned i = 0;
    while (i < TCP_LINGERS - 1 && g->lingers[i].fd >= 0)
        i++;
    if (g->lingers[i].fd >= 0)
        linger_close(g, &g->lingers[i]);
    g->lingers[i] = (struct nvme_linger){fd, plx_reactor_now(g->reactor) + TCP_LINGER_MS * PLX_NS_PER_MS};
    g->nlingers++;
    plx_timer_set(g->reactor, &g->linger_timer, PLX_NS_PER_MS);
}

/* ---- beginning and end ---- */

struct nvme_group *nvme_group_get(struct plx_reactor *r)
{
    struct plx_source *found = plx_source_find(r, &source_ops);
    if (found) {
        group_of(found)->refs++;
        return group_of(found);
    }
    struct nvme_group *g = calloc(1, sizeof *g);
    if (!g)
        return NULL;
    g->reactor = r;
    g->refs = 1;
    plx_list_init(&g->qps);
    plx_list_init(&g->dirty);
    plx_list_init(&g->dead);
    for (unsigned i = 0; i < TCP_LINGERS; i++)
        g->lingers[i].fd = -1;
    g->linger_timer.fn = linger_tick;
    g->source.ops = &source_ops;
    g->rx = mmap(NULL, TCP_RX_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (g->rx == MAP_FAILED)
        goto free_group;
    g->source.fd = epoll_create1(EPOLL_CLOEXEC);
    if (g->source.fd < 0)
        goto unmap;
    if (plx_source_add(r, &g->source) == 0)
        return g;
    close(g->source.fd);
unmap:
    munmap(g->rx, TCP_RX_BYTES);
free_group:
    free(g);
    return NULL;
}

static void group_destroy(struct nvme_group *g)
{
    for (unsigned i = 0; i < TCP_LINGERS; i++)
        if (g->lingers[i].fd >= 0)
            linger_close(g, &g->lingers[i]);
    plx_timer_cancel(g->reactor, &g->linger_timer);
    plx_source_remove(g->reactor, &g->source);
    close(g->source.fd);
    munmap(g->rx, TCP_RX_BYTES);
    free(g);
}

void nvme_group_put(struct nvme_group *g)
{
    if (--g->refs == 0 && !g->polling)
        group_destroy(g);
}
