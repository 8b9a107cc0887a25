/* SPDX-License-Identifier: BSD-3-Clause */
#include "memnet.h"

#include "base/iov.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Bytes on their way to one end. */
struct memnet_end {
    struct memnet_conn *conn;
    uint8_t *bytes;
    size_t first, n;
    uint64_t not_before; /* simulated time at which they are there */
    bool finished;       /* the other end sends no more */
    bool closed;         /* nobody receives here any more */
};

struct memnet_conn {
    struct plx_list link;
    struct memnet_end ends[2]; /* [0] connected, [1] was accepted */
    bool accepted, broken;
    unsigned starts; /* in vain, before it is connected */
};

static struct memnet_opts now;
static struct plx_list conns;
static const struct plx_net *before;

uint64_t memnet_random(uint64_t below)
{
    /* splitmix64 */
    uint64_t z = now.seed += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return (z ^ z >> 31) % below;
}

static bool happens(unsigned share)
{
    return share && memnet_random(65536) < share;
}

static struct memnet_end *end_of(const struct plx_stream *s)
{
    return (struct memnet_end *)s->impl;
}

static struct memnet_end *other(const struct memnet_end *e)
{
    return &e->conn->ends[e == &e->conn->ends[0]];
}

/* ---- connections ---- */

static struct memnet_conn *make_conn(void)
{
    struct memnet_conn *c = calloc(1, sizeof *c);
    assert(c);
    for (int i = 0; i < 2; i++) {
        c->ends[i].conn = c;
        c->ends[i].bytes = malloc(now.window);
        assert(c->ends[i].bytes);
    }
    plx_list_add_tail(&conns, &c->link);
    return c;
}

static void free_if_closed(struct memnet_conn *c)
{
    if (!c->ends[0].closed || (c->accepted && !c->ends[1].closed))
        return;
    plx_list_del(&c->link);
    free(c->ends[0].bytes);
    free(c->ends[1].bytes);
    free(c);
}

/* ---- a stream's operations ---- */

static int mem_start(struct plx_stream *s)
{
    struct memnet_conn *c = end_of(s)->conn;
    if (c->starts) {
        c->starts--;
        return -EAGAIN;
    }
    if (c->broken)
        return -ECONNREFUSED;
    return c->accepted ? 0 : -EAGAIN;
}

/* How much of n bytes is moved now; or why nothing is. */
static ssize_t share_of(struct memnet_end *e, size_t n)
{
    if (happens(now.reset))
        e->conn->broken = true;
    if (e->conn->broken)
        return -ECONNRESET;
    if (!n || happens(now.busy))
        return -EAGAIN;
    return (ssize_t)(happens(now.cut) ? 1 + memnet_random(n) : n);
}

static bool arrived(const struct memnet_end *e)
{
    return e->n && (!now.time || *now.time >= e->not_before);
}

static ssize_t mem_recv(struct plx_stream *s, const struct iovec *iov, unsigned niov)
{
    struct memnet_end *e = end_of(s);
    size_t room = 0, done = 0;
    for (unsigned i = 0; i < niov; i++)
        room += iov[i].iov_len;
    if (!e->n && e->finished && !e->conn->broken)
        return 0;
    ssize_t n = share_of(e, arrived(e) ? plx_min_u64(room, e->n) : 0);
    if (n <= 0)
        return n;
    for (struct plx_iov_at at = {iov, 0}; done < (size_t)n;) {
        size_t k = plx_min_u64((size_t)n - done, now.window - e->first);
        plx_iov_scatter(&at, e->bytes + e->first, k);
        e->first = (e->first + k) % now.window;
        done += k;
    }
    e->n -= done;
    return n;
}

static ssize_t mem_send(struct plx_stream *s, const struct iovec *iov, unsigned niov)
{
    struct memnet_end *to = other(end_of(s));
    size_t have = 0, done = 0;
    for (unsigned i = 0; i < niov; i++)
        have += iov[i].iov_len;
    if (to->closed)
        return -EPIPE;
    ssize_t n = share_of(to, plx_min_u64(have, now.window - to->n));
    if (n <= 0)
        return n;
    for (struct plx_iov_at at = {iov, 0}; done < (size_t)n;) {
        size_t place = (to->first + to->n + done) % now.window, k = plx_min_u64((size_t)n - done, now.window - place);
        plx_iov_gather(&at, to->bytes + place, k);
        done += k;
    }
    if (happens(now.flip))
        to->bytes[(to->first + to->n + memnet_random(done)) % now.window] ^= (uint8_t)(1 << memnet_random(8));
    to->n += done;
    if (now.time && happens(now.late))
        to->not_before = *now.time + 1 + memnet_random(now.late_ns);
    return n;
}

static bool mem_pending(const struct plx_stream *s)
{
    const struct memnet_end *e = end_of(s);
    return arrived(e) || e->finished || e->conn->broken;
}

static void mem_shut(struct plx_stream *s)
{
    other(end_of(s))->finished = true;
}

static void mem_close(struct plx_stream *s)
{
    struct memnet_end *e = end_of(s);
    e->closed = true;
    other(e)->finished = true;
    free_if_closed(e->conn);
}

static const struct plx_stream_ops mem_ops = {.start = mem_start,
                                              .recv = mem_recv,
                                              .send = mem_send,
                                              .pending = mem_pending,
                                              .shut = mem_shut,
                                              .close = mem_close};
static const struct plx_stream_ops mem_ops_connected = {
    .recv = mem_recv, .send = mem_send, .pending = mem_pending, .shut = mem_shut, .close = mem_close};

static void open_end(struct plx_stream *s, struct memnet_end *e, const struct plx_stream_ops *ops)
{
    s->ops = ops;
    s->fd = -1;
    s->impl = e;
}

static int mem_connect(struct plx_stream *s, const struct sockaddr_storage *to)
{
    (void)to;
    if (happens(now.refuse))
        return -ECONNREFUSED;
    struct memnet_conn *c = make_conn();
    c->broken = happens(now.refuse);
    c->starts = (unsigned)memnet_random(4);
    open_end(s, &c->ends[0], &mem_ops);
    return 0;
}

static const struct plx_net memnet = {.connect = mem_connect};

/* ---- for tests ---- */

void memnet_open(struct plx_stream *s, struct memnet_end *e)
{
    open_end(s, e, &mem_ops_connected);
}

void memnet_pair(struct plx_stream *a, struct plx_stream *b)
{
    struct memnet_conn *c = make_conn();
    c->accepted = true;
    open_end(a, &c->ends[0], &mem_ops_connected);
    open_end(b, &c->ends[1], &mem_ops_connected);
}

int memnet_accept(void)
{
    int n = 0;
    plx_list_for_each_safe(it, &conns) {
        struct memnet_conn *c = plx_list_entry(it, struct memnet_conn, link);
        if (c->accepted || c->broken || c->ends[0].closed)
            continue;
        c->accepted = true;
        n++;
        now.accepted(now.arg, &c->ends[1]);
    }
    return n;
}

uint64_t memnet_due(void)
{
    uint64_t due = 0;
    plx_list_for_each(it, &conns) {
        const struct memnet_conn *c = plx_list_entry(it, struct memnet_conn, link);
        for (int i = 0; i < 2; i++) {
            const struct memnet_end *e = &c->ends[i];
            if (e->n && !e->closed && now.time && e->not_before > *now.time && (!due || e->not_before < due))
                due = e->not_before;
        }
    }
    return due;
}

struct memnet_opts *memnet_now(void)
{
    return &now;
}

void memnet_break_all(void)
{
    plx_list_for_each(it, &conns)
        plx_list_entry(it, struct memnet_conn, link)->broken = true;
}

void memnet_begin(const struct memnet_opts *opts)
{
    now = *opts;
    plx_list_init(&conns);
    before = plx_net;
    plx_net = &memnet;
}

void memnet_over(void)
{
    assert(plx_list_empty(&conns));
    plx_net = before;
}
