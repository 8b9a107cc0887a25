/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The connection to a back-end: messages in an order that all back-ends take, each sent when the one before has been
 * answered, and again from the first when the connection was lost. One table says what they are.
 */
#include "bdev/driver/virtio_disk.h"

#include "base/log.h"
#include "net/fdpass.h"
#include "reactor/eventfd.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum { STEP_NEXT = 0, STEP_WAIT = 1, STEP_AGAIN = 2 };

enum { STEP_DOWN = 0, STEP_FIRST = 1, STEP_RESETS = 9, STEP_UP = 15, STEP_SIZE = 16, STEP_REGIONS = 17 };

struct vio_step {
    /* @return STEP_NEXT, STEP_WAIT for an answer, or -errno with c->err filled */
    int (*go)(struct vio_disk *d);
    /* It is in c->in. NULL: it says whether that was right. @return STEP_NEXT, STEP_AGAIN, or -errno */
    int (*got)(struct vio_disk *d);
};

static struct vio_disk *disk_of_conn(struct vio_conn *c)
{
    return plx_container_of(c, struct vio_disk, conn);
}

static bool speaks(const struct vio_conn *c, unsigned feature)
{
    return c->protocol >> feature & 1;
}

/* ---- messages ---- */

static int vu_ask(struct vio_conn *c, enum vu_request request, const void *payload, uint32_t size)
{
    int ret = vu_send(c, request, 0, payload, size, NULL, 0);
    c->awaiting = request;
    return ret ? ret : STEP_WAIT;
}

/* Where the back-end can (REPLY_ACK), it says whether that was right. */
static int vu_tell(struct vio_conn *c, enum vu_request request, const void *payload, uint32_t size, const int *fds,
                   unsigned nfds)
{
    bool ack = speaks(c, VU_P_REPLY_ACK);
    int ret = vu_send(c, request, ack ? VU_NEED_REPLY : 0, payload, size, fds, nfds);
    c->awaiting = ack ? request : 0;
    return ret ? ret : ack ? STEP_WAIT : STEP_NEXT;
}

static int got_ack(struct vio_conn *c)
{
    const struct vu_inbox *in = &c->in;
    if (in->header.size == sizeof in->payload.u64 && !in->payload.u64)
        return 0;
    return plx_fail(&c->err, -EPROTO, "the back-end refuses message %u", in->header.request);
}

static int got_u64(struct vio_conn *c, uint64_t *value)
{
    *value = 0;
    if (c->in.header.size != sizeof *value)
        return plx_fail(&c->err, -EPROTO, "the back-end's answer to message %u has %u bytes, not 8",
                        c->in.header.request, c->in.header.size);
    *value = c->in.payload.u64;
    return 0;
}

/* ---- what the device is ---- */

static int go_owner(struct vio_disk *d)
{
    return vu_send(&d->conn, VU_SET_OWNER, 0, NULL, 0, NULL, 0);
}

static int go_features(struct vio_disk *d)
{
    return vu_ask(&d->conn, VU_GET_FEATURES, NULL, 0);
}

static int got_features(struct vio_disk *d)
{
    struct vio_conn *c = &d->conn;
    int ret = got_u64(c, &c->features);
    if (ret)
        return ret;
    if (!(c->features & VIO_BIT(VIO_F_VERSION_1)) || !(c->features & VIO_BIT(VIO_F_PROTOCOL_FEATURES)))
        return plx_fail(&c->err, -ENOTSUP,
                        "the back-end has no virtio 1 (VERSION_1), or cannot tell the size (PROTOCOL_FEATURES): "
                        "features %llx",
                        (unsigned long long)c->features);
    if (d->mem && (c->features & d->features) != d->features)
        return plx_fail(&c->err, -ESTALE, "the back-end lacks features that it had: %llx",
                        (unsigned long long)(d->features & ~c->features));
    return 0;
}

static int go_protocol(struct vio_disk *d)
{
    return vu_ask(&d->conn, VU_GET_PROTOCOL_FEATURES, NULL, 0);
}

static int got_protocol(struct vio_disk *d)
{
    const uint64_t known = VIO_BIT(VU_P_MQ) | VIO_BIT(VU_P_REPLY_ACK) | VIO_BIT(VU_P_CONFIG) |
                           VIO_BIT(VU_P_BACKEND_REQ) | VIO_BIT(VU_P_INFLIGHT) | VIO_BIT(VU_P_MEM_SLOTS);
    struct vio_conn *c = &d->conn;
    uint64_t offered;
    int ret = got_u64(c, &offered);
    if (ret)
        return ret;
    if (!(offered >> VU_P_CONFIG & 1))
        return plx_fail(&c->err, -ENOTSUP, "the back-end has no configuration (CONFIG), as one of a disk would");
    c->protocol = offered & known;
    return 0;
}

static int go_set_protocol(struct vio_disk *d)
{
    struct vio_conn *c = &d->conn; /* what it says of REPLY_ACK holds from the next message on */
    return vu_send(c, VU_SET_PROTOCOL_FEATURES, 0, &c->protocol, sizeof c->protocol, NULL, 0);
}

static int go_queues(struct vio_disk *d)
{
    return speaks(&d->conn, VU_P_MQ) ? vu_ask(&d->conn, VU_GET_QUEUE_NUM, NULL, 0) : STEP_NEXT;
}

static int check_queues(struct vio_disk *d, uint64_t there)
{
    uint64_t want = d->mem ? d->nqueues : d->want_queues ? d->want_queues : 1;
    if (there >= want && there)
        return 0;
    return plx_fail(&d->conn.err, d->mem ? -ESTALE : -EINVAL, "the back-end has %llu queue%s, not %llu",
                    (unsigned long long)there, there == 1 ? "" : "s", (unsigned long long)want);
}

static int got_queues(struct vio_disk *d)
{
    uint64_t n;
    int ret = got_u64(&d->conn, &n);
    if (!ret)
        ret = check_queues(d, n);
    if (!ret && !d->mem)
        d->nqueues = (unsigned)plx_min_u64(n, VIO_QUEUES_MAX);
    return ret;
}

static int go_requests(struct vio_disk *d)
{
    struct vio_conn *c = &d->conn;
    int ends[2];
    if (!speaks(c, VU_P_BACKEND_REQ))
        return STEP_NEXT;
    int ret = plx_fds_pair(ends);
    if (ret)
        return plx_fail(&c->err, ret, "cannot make a socket: %s", strerror(-ret));
    ret = vu_tell(c, VU_SET_BACKEND_REQ_FD, NULL, 0, &ends[1], 1);
    close(ends[1]);
    c->requests = c->requests_watch.fd = ends[0];
    int added = plx_watch_add(c->reactor, &c->requests_watch);
    if (added) {
        close(c->requests);
        c->requests = -1;
        return plx_fail(&c->err, added, "cannot watch a socket: %s", strerror(-added));
    }
    return ret;
}

/* Back-ends answer for so much as they have, or not at all. */
static uint32_t config_bytes(const struct vio_conn *c)
{
    bool all = c->features & (VIO_BIT(VIO_F_DISCARD) | VIO_BIT(VIO_F_WRITE_ZEROES));
    return all ? sizeof(struct vio_config) : VIO_CONFIG_SHORT;
}

static int go_config(struct vio_disk *d)
{
    struct vu_config payload = {.size = config_bytes(&d->conn)};
    return vu_ask(&d->conn, VU_GET_CONFIG, &payload, (uint32_t)offsetof(struct vu_config, bytes) + payload.size);
}

static int take_config(struct vio_conn *c, struct vio_config *config)
{
    const uint32_t bytes = config_bytes(c), head = offsetof(struct vu_config, bytes);
    const struct vu_config *got = &c->in.payload.config;
    if (c->in.header.size != head + bytes || got->size != bytes)
        return plx_fail(&c->err, -EPROTO, "the back-end does not tell its configuration, of %u bytes", bytes);
    memset(config, 0, sizeof *config);
    memcpy(config, got->bytes, bytes);
    return 0;
}

static unsigned queues_wanted(const struct vio_disk *d)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    unsigned n = d->conn.features & VIO_BIT(VIO_F_MQ) && speaks(&d->conn, VU_P_MQ) ? d->nqueues : 1;
    uint64_t want = d->want_queues ? d->want_queues : cpus > 0 ? (uint64_t)cpus : 1;
    return (unsigned)plx_min_u64(n, want);
}

static int got_config(struct vio_disk *d)
{
    struct vio_conn *c = &d->conn;
    struct vio_config config;
    int ret = take_config(c, &config);
    if (ret)
        return ret;
    if (d->mem) {
        if (!vio_same(d, &config))
            return plx_fail(&c->err, -ESTALE, "the back-end has another disk than it had");
        c->changed = true; /* but perhaps in its size; told of when it is up */
        return 0;
    }
    ret = vio_learn(d, c->features, &config, &c->err);
    unsigned queues = queues_wanted(d);
    if (!ret && queues < d->want_queues)
        ret = plx_fail(&c->err, -EINVAL, "queues=%u: the back-end has one (no MQ)", d->want_queues);
    return ret ? ret : vio_memory_init(d, queues, &c->err);
}

/* ---- what it is to use ---- */

static int go_set_features(struct vio_disk *d)
{
    return vu_tell(&d->conn, VU_SET_FEATURES, &d->features, sizeof d->features, NULL, 0);
}

static void drop_inflight(struct vio_disk *d)
{
    if (d->inflight_fd >= 0)
        close(d->inflight_fd);
    d->inflight_fd = -1;
}

static bool resets_pending(const struct vio_disk *d)
{
    for (unsigned i = 0; i < d->nqueues; i++)
        if (vio_ask_is(&d->queues[i].ask, VIO_ASK_RESET))
            return true;
    return false;
}

/*
 * From here on the back-end has the rings, or is about to. Without a record of what was in flight they begin anew; each
 * on the reactor of its channel, if it has one.
 */
static int go_resets(struct vio_disk *d)
{
    struct vio_conn *c = &d->conn;
    bool keep = c->settled || (d->inflight_fd >= 0 && speaks(c, VU_P_INFLIGHT));
    pthread_mutex_lock(&d->lock);
    d->state = VIO_UP;
    for (unsigned i = 0; i < d->nqueues && !keep; i++) {
        if (d->queues[i].ch)
            vio_ask_queue(c->reactor, &d->queues[i], VIO_ASK_RESET);
        else
            vio_queue_reset(d, &d->queues[i]);
    }
    pthread_mutex_unlock(&d->lock);
    if (!keep)
        drop_inflight(d);
    return resets_pending(d) ? STEP_WAIT : STEP_NEXT;
}

static int go_get_inflight(struct vio_disk *d)
{
    struct vio_conn *c = &d->conn;
    if (!speaks(c, VU_P_INFLIGHT) || d->inflight_fd >= 0)
        return STEP_NEXT;
    d->inflight =
        (struct vu_inflight){.num_queues = (uint16_t)d->nqueues, .queue_size = (uint16_t)vio_ring_size(&d->ring)};
    return vu_ask(c, VU_GET_INFLIGHT_FD, &d->inflight, sizeof d->inflight);
}

/* Its memory is the back-end's: only kept here, for the next one. */
static int got_inflight(struct vio_disk *d)
{
    struct vu_inbox *in = &d->conn.in;
    if (in->header.size < VU_INFLIGHT_BYTES)
        return plx_fail(&d->conn.err, -EPROTO, "the back-end's answer about what is in flight has %u bytes",
                        in->header.size);
    if (!in->nfds || !in->payload.inflight.mmap_size)
        return 0; /* it has none, whatever it said */
    d->inflight.mmap_size = in->payload.inflight.mmap_size;
    d->inflight.mmap_offset = in->payload.inflight.mmap_offset;
    d->inflight_fd = in->fds[0];
    in->fds[0] = -1;
    return 0;
}

static int go_set_inflight(struct vio_disk *d)
{
    if (d->inflight_fd < 0)
        return STEP_NEXT;
    return vu_tell(&d->conn, VU_SET_INFLIGHT_FD, &d->inflight, sizeof d->inflight, &d->inflight_fd, 1);
}

/* Addresses of guests are our own. */
static struct vu_region region_of(const struct plx_shared_region *r)
{
    return (struct vu_region){(uintptr_t)r->base, r->bytes, (uintptr_t)r->base, 0};
}

/* With what data of requests may be in that the last back-end had: this one may be about to do these. */
static int go_memory(struct vio_disk *d)
{
    struct vu_mem_table table = {.n = d->regions.n + 1,
                                 .regions = {{(uintptr_t)d->mem, d->mem_bytes, (uintptr_t)d->mem, 0}}};
    int fds[VU_TABLE_MAX] = {d->mem_fd};
    if (d->conn.settled)
        table.n = 1 + (d->regions.n = plx_shared_list(d->regions.list, VIO_REGIONS, &d->regions.freed));
    for (unsigned i = 0; i < d->regions.n; i++) {
        table.regions[i + 1] = region_of(&d->regions.list[i]);
        fds[i + 1] = d->regions.list[i].fd;
    }
    uint32_t size = (uint32_t)(offsetof(struct vu_mem_table, regions) + table.n * sizeof table.regions[0]);
    return vu_tell(&d->conn, VU_SET_MEM_TABLE, &table, size, fds, table.n);
}

/* ---- memory that comes and goes while it is up ---- */

static bool has_region(const struct vio_regions *r, uint64_t id)
{
    for (unsigned i = 0; i < r->n; i++)
        if (r->list[i].id == id)
            return true;
    return false;
}

static void region_drop(struct vio_disk *d, unsigned i)
{
    close(d->regions.list[i].fd);
    pthread_mutex_lock(&d->lock);
    d->regions.list[i] = d->regions.list[--d->regions.n];
    pthread_mutex_unlock(&d->lock);
}

static void region_take(struct vio_disk *d, unsigned i)
{
    struct plx_shared_region *r = &d->conn.next.list[i];
    pthread_mutex_lock(&d->lock);
    d->regions.list[d->regions.n++] = *r;
    pthread_mutex_unlock(&d->lock);
    r->fd = -1;
}

static void regions_taken(struct vio_disk *d)
{
    struct vio_conn *c = &d->conn;
    for (unsigned i = 0; i < c->next.n; i++)
        if (c->next.list[i].fd >= 0)
            close(c->next.list[i].fd);
    c->next.n = 0;
    c->taking = false;
}

static int region_message(struct vio_conn *c, enum vu_request request, const struct plx_shared_region *r)
{
    struct vu_mem_reg reg = {.region = region_of(r)};
    return vu_tell(c, request, &reg, sizeof reg, &r->fd, request == VU_ADD_MEM_REG);
}

/*
 * The back-end gives back what is gone, before it is given what is new and may have the same addresses. One that cannot
 * (CONFIGURE_MEM_SLOTS) has what there was when it was connected to: a new table, while there are requests, would have
 * it lose memory that it is using.
 */
static int go_regions(struct vio_disk *d)
{
    struct vio_conn *c = &d->conn;
    bool slots = speaks(c, VU_P_MEM_SLOTS) && speaks(c, VU_P_REPLY_ACK);
    if (!c->taking)
        c->next.n = plx_shared_list(c->next.list, VIO_REGIONS, &c->next.freed);
    c->taking = true;
    for (unsigned i = 0; i < d->regions.n;) {
        c->region = i;
        if (has_region(&c->next, d->regions.list[i].id))
            i++;
        else if (slots)
            return region_message(c, VU_REM_MEM_REG, &d->regions.list[i]);
        else
            region_drop(d, i);
    }
    for (c->region = 0; slots && c->region < c->next.n && d->regions.n < VIO_REGIONS; c->region++)
        if (!has_region(&d->regions, c->next.list[c->region].id))
            return region_message(c, VU_ADD_MEM_REG, &c->next.list[c->region]);
    pthread_mutex_lock(&d->lock);
    d->regions.freed = c->next.freed;
    for (unsigned i = 0; i < d->nqueues; i++)
        vio_ask_queue(c->reactor, &d->queues[i], VIO_ASK_MEMORY);
    pthread_mutex_unlock(&d->lock);
    regions_taken(d);
    c->step = STEP_UP - 1;
    return STEP_NEXT;
}

static int got_regions(struct vio_disk *d)
{
    struct vio_conn *c = &d->conn;
    int ret = got_ack(c);
    if (ret && c->in.header.request == VU_REM_MEM_REG)
        return ret;
    if (ret)
        c->protocol &= ~VIO_BIT(VU_P_MEM_SLOTS); /* it has no room for more: what it has is enough */
    else if (c->in.header.request == VU_REM_MEM_REG)
        region_drop(d, c->region);
    else
        region_take(d, c->region);
    return STEP_AGAIN;
}

/* What a message about a ring is to say. */
static int ring_message(struct vio_conn *c, enum vu_request request, unsigned index, uint32_t num)
{
    struct vu_vring v = {.index = index, .num = num};
    return vu_send(c, request, 0, &v, sizeof v, NULL, 0);
}

static int ring_fd(struct vio_conn *c, enum vu_request request, unsigned index, int fd)
{
    uint64_t v = index;
    return vu_send(c, request, 0, &v, sizeof v, &fd, 1);
}

/* One after the other; the answers of the last ones stand for all. */
static int go_rings(struct vio_disk *d)
{
    struct vio_conn *c = &d->conn;
    int ret = 0;
    for (unsigned i = 0; i < d->nqueues && !ret; i++) {
        const struct vio_queue *q = &d->queues[i];
        struct vu_vring_addr addr = {.index = i};
        vio_ring_addr(&q->ring, &addr);
        ret = ring_message(c, VU_SET_VRING_NUM, i, q->ring.size);
        if (!ret)
            ret = ring_message(c, VU_SET_VRING_BASE, i, vio_ring_base(&q->ring));
        if (!ret)
            ret = vu_send(c, VU_SET_VRING_ADDR, 0, &addr, sizeof addr, NULL, 0);
        if (!ret)
            ret = ring_fd(c, VU_SET_VRING_CALL, i, q->call_fd);
        if (!ret)
            ret = ring_fd(c, VU_SET_VRING_KICK, i, q->kick_fd);
        if (!ret)
            ret = ring_message(c, VU_SET_VRING_ENABLE, i, 1);
    }
    return ret ? ret : STEP_NEXT;
}

/* A question whose answer is known: what was said before has been heard by then. */
static int got_fence(struct vio_disk *d)
{
    uint64_t features;
    return got_u64(&d->conn, &features);
}

static int go_up(struct vio_disk *d);

static int got_size(struct vio_disk *d)
{
    struct vio_config config;
    int ret = take_config(&d->conn, &config);
    uint64_t blocks = ret ? 0 : vio_blocks(d, &config);
    if (blocks)
        plx_bdev_resized(&d->bdev, blocks);
    return ret;
}

static const struct vio_step vio_steps[] = {
    [STEP_FIRST] = {go_owner, NULL},
    {go_features, got_features},
    {go_protocol, got_protocol},
    {go_set_protocol, NULL},
    {go_queues, got_queues},
    {go_requests, NULL},
    {go_config, got_config},
    {go_set_features, NULL},
    [STEP_RESETS] = {go_resets, NULL},
    {go_get_inflight, got_inflight},
    {go_set_inflight, NULL},
    {go_memory, NULL},
    {go_rings, NULL},
    {go_features, got_fence},
    [STEP_UP] = {go_up, NULL},
    [STEP_SIZE] = {go_config, got_size},
    [STEP_REGIONS] = {go_regions, got_regions},
};

/* ---- going on, and failing ---- */

static void conn_fail(struct vio_disk *d, int ret);

/* Each back-end may have slept through the first requests: they were there before it was. */
static int go_up(struct vio_disk *d)
{
    struct vio_conn *c = &d->conn;
    plx_timer_cancel(c->reactor, &c->timer);
    plx_timer_cancel(c->reactor, &c->deadline);
    for (unsigned i = 0; i < d->nqueues; i++) {
        plx_eventfd_tell(c->reactor, d->queues[i].kick_fd);
        if (c->given_up)
            vio_ask_queue(c->reactor, &d->queues[i], VIO_ASK_UP);
    }
    if (c->lost)
        plx_info("%s: the back-end is there again%s", d->bdev.info.name,
                 d->inflight_fd >= 0 ? "" : "; it keeps no record, and is sent again what was in flight");
    c->lost = c->given_up = c->wrong = false;
    c->attempts = 0;
    if (c->settled)
        c->settled(c);
    return STEP_WAIT;
}

/* What there is to do while it is up. */
static bool next_task(struct vio_conn *c)
{
    if (c->step != STEP_UP || !(c->changed || c->remap))
        return false;
    c->step = c->changed ? STEP_SIZE : STEP_REGIONS;
    if (c->changed)
        c->changed = false;
    else
        c->remap = false;
    plx_timer_set(c->reactor, &c->timer, VIO_CALL_MS * PLX_NS_PER_MS);
    return true;
}

static void conn_go_on(struct vio_disk *d)
{
    struct vio_conn *c = &d->conn;
    for (;;) {
        int ret = vio_steps[c->step].go(d);
        if (ret < 0) {
            conn_fail(d, ret);
            return;
        }
        if (ret == STEP_NEXT)
            c->step++;
        else if (!next_task(c))
            return;
    }
}

static void conn_answered(struct vio_disk *d)
{
    struct vio_conn *c = &d->conn;
    const struct vio_step *step = &vio_steps[c->step];
    bool expected = c->awaiting && c->in.header.request == c->awaiting && c->in.header.flags & VU_REPLY;
    int ret = expected ? step->got ? step->got(d) : got_ack(c)
                       : plx_fail(&c->err, -EPROTO, "the back-end says what it was not asked, message %u",
                                  c->in.header.request);
    vu_inbox_clear(&c->in);
    c->awaiting = 0;
    if (ret < 0) {
        conn_fail(d, ret);
        return;
    }
    if (ret == STEP_NEXT)
        c->step = c->step == STEP_SIZE ? STEP_UP : c->step + 1;
    conn_go_on(d);
}

static void conn_receive(struct vio_disk *d)
{
    struct vio_conn *c = &d->conn;
    while (c->sock >= 0) {
        int ret = vu_receive(c->sock, &c->in, &c->err);
        if (ret < 0)
            conn_fail(d, ret);
        if (ret <= 0)
            return;
        conn_answered(d);
    }
}

static void sock_ready(struct plx_watch *w)
{
    conn_receive(disk_of_conn(plx_container_of(w, struct vio_conn, sock_watch)));
}

int vio_conn_poll(struct vio_disk *d)
{
    if (d->conn.step != STEP_UP && d->conn.sock >= 0)
        conn_receive(d);
    return 0;
}

/* The back-end's own requests, of which there is one that we know. */
static void requests_ready(struct plx_watch *w)
{
    struct vio_conn *c = plx_container_of(w, struct vio_conn, requests_watch);
    struct vio_disk *d = disk_of_conn(c);
    enum { AT_ONCE = 16 };
    int ret = 0;
    for (int n = 0; n < AT_ONCE && (ret = vu_receive(c->requests, &c->request, &c->err)) > 0; n++) {
        const struct vu_header *h = &c->request.header;
        bool known = h->request == VU_BACKEND_CONFIG_CHANGE;
        c->changed |= known;
        ret = h->flags & VU_NEED_REPLY ? vu_answer(c->requests, h, !known) : 0;
        vu_inbox_clear(&c->request);
        if (ret)
            break;
    }
    if (ret < 0) {
        plx_watch_remove(c->reactor, &c->requests_watch); /* the connection itself says whether it has ended */
        vu_inbox_clear(&c->request);
        close(c->requests);
        c->requests = -1;
    }
    if (next_task(c))
        conn_go_on(d);
}

static void hang_up(struct vio_conn *c)
{
    if (c->sock >= 0) {
        plx_watch_remove(c->reactor, &c->sock_watch);
        close(c->sock);
    }
    if (c->requests >= 0) {
        plx_watch_remove(c->reactor, &c->requests_watch);
        close(c->requests);
    }
    c->sock = c->requests = -1;
    vu_inbox_clear(&c->in);
    vu_inbox_clear(&c->request);
    regions_taken(disk_of_conn(c));
    c->step = STEP_DOWN;
    c->awaiting = 0;
}

static void tell_lost(struct vio_disk *d, int ret)
{
    struct vio_conn *c = &d->conn;
    bool wrong = ret == -ESTALE || ret == -EPROTO || ret == -ENOTSUP;
    if (!c->lost)
        plx_warn("%s: %s; requests wait for it to come back", d->bdev.info.name, c->err.text);
    else if (wrong && !c->wrong)
        plx_error("%s: %s: it is not used", d->bdev.info.name, c->err.text);
    c->wrong = wrong;
}

static void conn_fail(struct vio_disk *d, int ret)
{
    struct vio_conn *c = &d->conn;
    hang_up(c);
    c->ret = ret;
    if (c->settled) {
        plx_timer_cancel(c->reactor, &c->timer);
        c->settled(c);
        return;
    }
    tell_lost(d, ret);
    pthread_mutex_lock(&d->lock);
    d->state = c->given_up ? VIO_GIVEN_UP : VIO_DOWN;
    pthread_mutex_unlock(&d->lock);
    if (d->deadline_ms && !c->lost)
        plx_timer_set(c->reactor, &c->deadline, d->deadline_ms * PLX_NS_PER_MS);
    c->lost = true;
    uint32_t ms = c->wrong ? VIO_RETRY_WRONG_MS : c->attempts < VIO_RETRIES ? VIO_RETRY_MS : VIO_RETRY_LATER_MS;
    plx_timer_set(c->reactor, &c->timer, ms * PLX_NS_PER_MS);
}

static void conn_connect(struct vio_disk *d)
{
    struct vio_conn *c = &d->conn;
    c->attempts++;
    int ret = plx_fds_connect(d->path, &c->err);
    if (ret >= 0) {
        c->sock = c->sock_watch.fd = ret;
        ret = plx_watch_add(c->reactor, &c->sock_watch);
        if (ret) {
            close(c->sock);
            c->sock = -1;
            plx_fail(&c->err, ret, "cannot watch a socket: %s", strerror(-ret));
        }
    }
    if (ret < 0) {
        conn_fail(d, ret);
        return;
    }
    plx_timer_set(c->reactor, &c->timer, VIO_CALL_MS * PLX_NS_PER_MS);
    c->step = STEP_FIRST;
    conn_go_on(d);
}

static void conn_due(struct plx_timer *timer)
{
    struct vio_conn *c = plx_container_of(timer, struct vio_conn, timer);
    struct vio_disk *d = disk_of_conn(c);
    if (c->step == STEP_DOWN)
        conn_connect(d);
    else if (c->step != STEP_UP)
        conn_fail(d, plx_fail(&c->err, -ETIMEDOUT, "the back-end at %s does not answer; it may serve another front-end",
                              d->path));
}

/* Nobody who has waited for so long waits on; once a back-end is there they may again. */
static void deadline_over(struct plx_timer *timer)
{
    struct vio_conn *c = plx_container_of(timer, struct vio_conn, deadline);
    struct vio_disk *d = disk_of_conn(c);
    pthread_mutex_lock(&d->lock);
    bool now = d->state == VIO_DOWN;
    if (now) {
        d->state = VIO_GIVEN_UP;
        c->given_up = true;
        for (unsigned i = 0; i < d->nqueues; i++)
            vio_ask_queue(c->reactor, &d->queues[i], VIO_ASK_GIVE_UP);
    }
    pthread_mutex_unlock(&d->lock);
    if (now)
        plx_warn("%s: no back-end for %u s: requests fail from now on", d->bdev.info.name, d->deadline_ms / 1000);
    else
        plx_timer_set(c->reactor, timer, PLX_NS_PER_S); /* one is just coming: that ends soon, this way or the other */
}

/* ---- homes ---- */

static void home_asked(struct plx_watch *w)
{
    struct vio_conn *c = plx_container_of(w, struct vio_conn, ask_watch);
    struct vio_disk *d = disk_of_conn(c);
    eventfd_t ignored;
    eventfd_read(d->ask_fd, &ignored);
    uint32_t bits = vio_ask_take(&d->ask, UINT32_MAX);
    if (bits & VIO_HOME_BROKEN)
        drop_inflight(d); /* is not to be believed either, whether the connection has just ended or not */
    if (bits & VIO_HOME_BROKEN && c->step != STEP_DOWN) {
        conn_fail(d, plx_fail(&c->err, -EPROTO, "the back-end has ended requests that it was not sent"));
    }
    c->remap |= bits & VIO_HOME_MEMORY;
    if (next_task(c))
        conn_go_on(d);
    if (bits & VIO_HOME_RESET && c->step == STEP_RESETS && !resets_pending(d)) {
        c->step++;
        conn_go_on(d);
    }
}

void vio_ask_home(struct vio_disk *d, uint32_t bits)
{
    vio_ask_add(&d->ask, bits);
    eventfd_write(d->ask_fd, 1);
}

void vio_conn_init(struct vio_conn *c)
{
    c->sock = c->requests = -1;
    c->sock_watch.ready = sock_ready;
    c->requests_watch.ready = requests_ready;
    c->ask_watch.ready = home_asked;
    c->timer.fn = conn_due;
    c->deadline.fn = deadline_over;
}

void vio_conn_open(struct vio_disk *d, struct plx_reactor *r, void (*settled)(struct vio_conn *c))
{
    d->conn.settled = settled;
    d->conn.reactor = r;
    conn_connect(d);
}

int vio_conn_attach(struct vio_disk *d, struct plx_reactor *r)
{
    struct vio_conn *c = &d->conn;
    c->settled = NULL;
    c->ask_watch.fd = d->ask_fd;
    int ret = plx_watch_add(r, &c->ask_watch);
    if (!ret && c->sock >= 0) {
        ret = plx_watch_add(r, &c->sock_watch);
        if (!ret && c->requests >= 0)
            ret = plx_watch_add(r, &c->requests_watch);
        if (ret)
            plx_watch_remove(r, &c->sock_watch);
    }
    if (ret) {
        plx_watch_remove(r, &c->ask_watch);
        return ret;
    }
    c->reactor = r;
    if (c->step != STEP_UP)
        plx_timer_set(r, &c->timer, c->step == STEP_DOWN ? 0 : VIO_CALL_MS * PLX_NS_PER_MS);
    if (c->lost && d->deadline_ms && !c->given_up)
        plx_timer_set(r, &c->deadline, d->deadline_ms * PLX_NS_PER_MS);
    return 0;
}

void vio_conn_detach(struct vio_disk *d)
{
    struct vio_conn *c = &d->conn;
    if (c->ask_watch.fd >= 0)
        plx_watch_remove(c->reactor, &c->ask_watch);
    if (c->sock >= 0)
        plx_watch_remove(c->reactor, &c->sock_watch);
    if (c->requests >= 0)
        plx_watch_remove(c->reactor, &c->requests_watch);
    plx_timer_cancel(c->reactor, &c->timer);
    plx_timer_cancel(c->reactor, &c->deadline);
    c->reactor = NULL;
}

void vio_conn_close(struct vio_conn *c)
{
    if (c->sock >= 0)
        close(c->sock);
    if (c->requests >= 0)
        close(c->requests);
    vu_inbox_clear(&c->in);
    vu_inbox_clear(&c->request);
    regions_taken(disk_of_conn(c));
}
