/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Who gets buffers: memory is bounded whatever hosts do, so requests wait in line for it. Hosts that were asked for
 * data, and disks that were asked to read, are two lines, neither of which can take more than three quarters of the
 * pool; both together leave a reserve; and one connection can hold an eighth of the pool in each, and another in held
 * halves of fused commands. Within a line connections take turns. What sockets leave of lent memory has a part of its
 * own.
 */
#include "nvmf/tcp/tcp.h"

#include <assert.h>

enum {
    SMALLEST_CAPSULE = NVME_TCP_CMD_LEN,
    IN_PLACE_ENOUGH = 8, /* for the few commands that keep their data even so: fused ones, lists of ranges */
};

static size_t rounded(size_t size)
{
    return size <= PLX_BUF_MIN ? PLX_BUF_MIN : (size_t)1 << (64 - __builtin_clzll(size - 1));
}

static enum tcp_wait_class class_of(const struct tcp_req *req)
{
    return req->core.in_capsule ? TCP_HALVES : req->core.dir == NVMF_FROM_HOST ? TCP_WAIT_R2T : TCP_WAIT_READ;
}

/* Whether a request's disk already holds its share. */
static bool disk_over_share(const struct tcp_req *req, size_t size)
{
    const struct nvmf_nsref *ref = req->core.ns;
    return ref && nvmf_disk_bytes_left(ref) < size;
}

/* Whether a connection already holds its share, and must wait for itself. */
static bool conn_over_share(const struct tcp_conn *c, const struct tcp_req *req)
{
    enum tcp_wait_class cls = class_of(req);
    size_t size =
        rounded(plx_max_u64(req->core.len, req->buf_size)); /* what came in a capsule has its buffer already */
    return c->held[cls] && c->held[cls] + size > plx_buf_total_bytes(c->group->reactor) / TCP_SHARE;
}

static bool over_share(const struct tcp_conn *c, const struct tcp_req *req)
{
    return conn_over_share(c, req) || disk_over_share(req, rounded(req->core.len));
}

static void count(struct tcp_conn *c, struct tcp_req *req, enum tcp_wait_class cls)
{
    size_t size = rounded(req->buf_size);
    req->counted = (uint8_t)(1 + cls);
    c->held[cls] += size;
    c->group->class_bytes[cls] += size;
}

static bool try_get(struct tcp_conn *c, struct tcp_req *req)
{
    struct tcp_group *g = c->group;
    enum tcp_wait_class cls = class_of(req);
    size_t size = rounded(req->core.len), total = plx_buf_total_bytes(g->reactor);
    if (g->class_bytes[cls] + size <= total / 4 * 3 && plx_buf_free_bytes(g->reactor) >= size + total / TCP_RESERVE)
        req->core.data = plx_buf_get(g->reactor, req->core.len);
    if (!req->core.data) {
        g->refused = true;
        return false;
    }
    tcp_buf_own(req, req->core.data, req->core.len);
    count(c, req, cls);
    return true;
}

bool tcp_buf_hold(struct tcp_req *req)
{
    struct tcp_conn *c = tcp_req_conn(req);
    if (conn_over_share(c, req))
        return false;
    req->since = plx_reactor_now(c->group->reactor);
    count(c, req, TCP_HALVES);
    return true;
}

/* The buffer is there. */
static void buf_go_on(struct tcp_req *req)
{
    if (req->core.dir == NVMF_FROM_HOST)
        tcp_tx_r2t(req);
    else
        nvmf_req_execute(&req->core);
}

void tcp_buf_acquire(struct tcp_req *req)
{
    struct tcp_conn *c = tcp_req_conn(req);
    enum tcp_wait_class cls = class_of(req);
    if (plx_list_empty(&c->group->line[cls]) && !over_share(c, req) && try_get(c, req)) {
        buf_go_on(req);
        return;
    }
    req->state = TCP_REQ_WAIT_BUF;
    nvmf_pending_add(&req->core);
    if (!c->wait[cls].head)
        plx_list_add_tail(&c->group->line[cls], &c->wait_link[cls]);
    tcp_queue_push(&c->wait[cls], req);
}

void tcp_buf_own(struct tcp_req *req, void *mem, uint32_t size)
{
    req->core.data = mem;
    req->buf_size = size;
    req->disk_bytes = req->core.ns ? (uint32_t)rounded(size) : 0;
    if (req->core.ns)
        req->core.ns->bytes += req->disk_bytes;
}

bool tcp_buf_take(struct tcp_req *req, uint32_t size)
{
    struct plx_reactor *r = req->core.qp->group->reactor;
    /* How much is received heeds the share of the disk; what comes all the same leaves others a reserve. */
    bool reserve = plx_buf_free_bytes(r) < plx_buf_total_bytes(r) / TCP_RESERVE;
    void *mem = reserve && disk_over_share(req, rounded(size)) ? NULL : plx_buf_get(r, size);
    if (mem)
        tcp_buf_own(req, mem, size);
    return mem != NULL;
}

/*
 * Whether what sockets take in part may have more. Peers that do not read can have all that it may, so that is a part
 * of the pool, and leaves data that comes unasked its own.
 */
static bool may_keep(const struct tcp_group *g, size_t size)
{
    size_t total = plx_buf_total_bytes(g->reactor);
    return g->class_bytes[TCP_RESTS] + size <= total / TCP_RESTS_SHARE &&
           plx_buf_free_bytes(g->reactor) >= size + total / TCP_UNASKED;
}

bool tcp_buf_spare(struct tcp_group *g)
{
    if (!g->spare && may_keep(g, TCP_SPARE_BYTES))
        g->spare = plx_buf_get(g->reactor, TCP_SPARE_BYTES);
    if (!g->spare)
        g->refused = true;
    return g->spare != NULL;
}

void tcp_buf_keep(struct tcp_req *req, uint32_t size)
{
    struct tcp_conn *c = tcp_req_conn(req);
    if (!may_keep(c->group, rounded(size)) || !tcp_buf_take(req, size)) {
        tcp_buf_own(req, c->group->spare, TCP_SPARE_BYTES);
        c->group->spare = NULL;
    }
    count(c, req, TCP_RESTS);
}

static void uncount(struct tcp_req *req)
{
    if (!req->counted)
        return;
    struct tcp_conn *c = tcp_req_conn(req);
    const unsigned cls = req->counted - 1u;
    size_t size = rounded(req->buf_size);
    assert(c->held[cls] >= size && c->group->class_bytes[cls] >= size);
    c->held[cls] -= size;
    c->group->class_bytes[cls] -= size;
    req->counted = 0;
}

void tcp_buf_orphan(struct tcp_conn *c, struct tcp_conn *to)
{
    size_t stays[TCP_WAIT_CLASSES] = {0};
    /* What disks do not have stays, such as Connect, which ends soon. All that a closed one has is in its table. */
    for (unsigned b = 0; b < NVMF_PENDING_BUCKETS; b++)
        for (struct nvmf_req *core = c->qp.pending[b]; core; core = core->chain)
            if (tcp_req_of(core)->counted)
                stays[tcp_req_of(core)->counted - 1] += rounded(tcp_req_of(core)->buf_size);
    for (unsigned i = 0; i < TCP_WAIT_CLASSES; i++) {
        to->held[i] += c->held[i] - stays[i];
        c->held[i] = stays[i];
    }
}

struct tcp_req *tcp_req_get(struct tcp_conn *c)
{
    struct nvmf_req *core = nvmf_req_get(&c->qp);
    if (plx_unlikely(!core))
        return NULL;
    struct tcp_req *req = tcp_req_of(core);
    req->buf_size = req->received = 0;
    req->state = TCP_REQ_NEW;
    req->data_error = false;
    req->counted = 0;
    req->tx = TCP_TX_NONE;
    return req;
}

void tcp_buf_drop(struct tcp_req *req)
{
    if (!req->buf_size)
        return;
    uncount(req);
    plx_buf_put(req->core.qp->group->reactor, req->core.data, req->buf_size);
    if (req->disk_bytes)
        req->core.ns->bytes -= req->disk_bytes;
    req->buf_size = 0;
    req->core.data = NULL;
}

void tcp_req_put(struct tcp_req *req)
{
    if (plx_unlikely(req->buf_size))
        tcp_buf_drop(req);
    nvmf_req_put(&req->core);
}

/* The first request of a connection in line that is not to wait for its connection or its disk, or NULL. */
static struct tcp_req *next_in_line(const struct tcp_conn *c, enum tcp_wait_class cls)
{
    struct tcp_req *req = c->wait[cls].head;
    while (req && disk_over_share(req, rounded(req->core.len)))
        req = req->next;
    return req && !conn_over_share(c, req) ? req : NULL;
}

/*
 * One turn for each connection of a line, in order; those that still wait keep their places behind those not yet seen.
 */
static int serve_line(struct tcp_group *g, enum tcp_wait_class cls)
{
    int served = 0;
    plx_list_for_each_safe(it, &g->line[cls]) {
        struct tcp_conn *c = plx_list_entry(it, struct tcp_conn, wait_link[cls]);
        struct tcp_req *req = next_in_line(c, cls);
        if (!req)
            continue;
        if (!try_get(c, req))
            break; /* whoever is first for the pool stays first, lest small requests overtake a large one for ever */
        tcp_queue_remove(&c->wait[cls], req);
        plx_list_del(it);
        if (c->wait[cls].head)
            plx_list_add_tail(&g->line[cls], it);
        served++;
        buf_go_on(req);
        break; /* going on may have changed the line */
    }
    return served;
}

int tcp_buf_serve(struct tcp_group *g)
{
    int served = 0, more;
    do {
        more = 0;
        for (unsigned cls = 0; cls < TCP_WAIT_CLASSES; cls++)
            if (!plx_list_empty(&g->line[cls]))
                more += serve_line(g, (enum tcp_wait_class)cls);
        served += more;
    } while (more && served < TCP_SERVED);
    return served;
}

size_t tcp_buf_rx_limit(const struct tcp_conn *c)
{
    struct tcp_group *g = c->group;
    const struct nvmf_nsref *disk = c->qp.last;
    const size_t one = rounded(c->frame.rules.max_capsule_data);
    /*
     * Each capsule needs a request, and one with data may need a buffer, or only the last one does, which may be cut
     * off.
     */
    size_t buffers = plx_buf_free_bytes(g->reactor) / one;
    size_t requests = NVMF_MAX_REQUESTS - plx_min_u64(g->core->reqs_in_use, NVMF_MAX_REQUESTS);
    bool in_place = plx_likely(g->core->in_place && buffers > IN_PLACE_ENOUGH);
    if (plx_unlikely(!buffers || !requests))
        g->refused = true;
    if (!in_place && disk)
        buffers = plx_min_u64(buffers, nvmf_disk_bytes_left(disk) / one);
    if (plx_unlikely(disk && disk->in_flight >= NVMF_DISK_REQUESTS))
        requests = plx_min_u64(requests, nvmf_disk_requests_left(disk));
    if (in_place)
        buffers = SIZE_MAX / SMALLEST_CAPSULE;
    return plx_min_u64(PLX_STREAM_RX_BYTES, plx_min_u64(buffers, requests) * SMALLEST_CAPSULE);
}
