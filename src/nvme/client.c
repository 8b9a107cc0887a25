/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The public face for tools: a connection on a reactor of its own, which the calling thread runs for as long as
 * something is under way.
 */
#include <pollux/nvme.h>

#include "nvme/nvme.h"
#include "nvme/uring.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    DISCOVERY_PORT = 8009,
    NVM_PORT = 4420,
    DISCOVERY_KATO_MS = 120000,
    LOG_PIECE = 64 << 10,
    PCIE_PIECE = NVME_PAGE,
    RECORDS_MAX = 8192,
    GENERATIONS = 10, /* how often a log may change while it is read */
    EVENTS_MAX = 32,  /* different ones that wait to be told of */
};

struct plx_nvme {
    struct plx_reactor *reactor;
    struct nvme_ctrlr *c;
    struct nvme_where where;
    struct nvme_req req;
    struct iovec iov;
    struct plx_timer timer;
    bool connected, answered, lost, timed_out;
    bool held;                   /* the device, over PCIe */
    uint16_t no_events;          /* the status with which the controller refused to tell of them, or 0 */
    uint32_t events[EVENTS_MAX]; /* that came and were not told of yet, the oldest first */
    unsigned nevents;
    int ret;
    char why[200];
};

/* ---- callbacks: each ends the run of the reactor ---- */

static void live(struct nvme_ctrlr *c, void *arg)
{
    struct plx_nvme *n = arg;
    (void)c;
    n->connected = true;
    plx_reactor_stop(n->reactor);
}

static void down(struct nvme_ctrlr *c, void *arg)
{
    struct plx_nvme *n = arg;
    (void)c;
    n->lost = true;
    plx_reactor_stop(n->reactor);
}

static void connect_failed(struct nvme_ctrlr *c, void *arg, int ret, const char *why, bool again)
{
    struct plx_nvme *n = arg;
    (void)c, (void)again;
    n->ret = ret;
    memccpy(n->why, why, 0, sizeof n->why - 1);
    plx_reactor_stop(n->reactor);
}

static void ana(struct nvme_ctrlr *c, void *arg)
{
    (void)c, (void)arg;
}

/*
 * May come while something else is waited for. That of what waits already says nothing new; and a controller has fewer
 * kinds than there is room for, unless it means us ill.
 */
static void event(struct nvme_ctrlr *c, void *arg, uint32_t dw0)
{
    struct plx_nvme *n = arg;
    (void)c;
    for (unsigned i = 0; i < n->nevents; i++)
        if (n->events[i] == dw0)
            return;
    if (n->nevents == EVENTS_MAX)
        return;
    n->events[n->nevents++] = dw0;
    plx_reactor_stop(n->reactor);
}

static void no_events(struct nvme_ctrlr *c, void *arg, uint16_t status)
{
    struct plx_nvme *n = arg;
    (void)c;
    n->no_events = status;
    plx_reactor_stop(n->reactor);
}

static uint32_t take_event(struct plx_nvme *n)
{
    uint32_t dw0 = n->events[0];
    memmove(n->events, n->events + 1, --n->nevents * sizeof n->events[0]);
    return dw0;
}

static const struct nvme_ctrlr_ops ops = {
    .live = live, .down = down, .failed = connect_failed, .ana = ana, .event = event, .no_events = no_events};

static void answered(struct nvme_req *req)
{
    struct plx_nvme *n = plx_container_of(req, struct plx_nvme, req);
    n->answered = true;
    plx_reactor_stop(n->reactor);
}

static void time_is_up(struct plx_timer *t)
{
    struct plx_nvme *n = plx_container_of(t, struct plx_nvme, timer);
    n->timed_out = true;
    plx_reactor_stop(n->reactor);
}

/* ---- connecting ---- */

static int connect_path(struct plx_nvme *n, unsigned path, struct plx_error *err)
{
    const struct nvme_opts o = nvme_where_opts(&n->where, path);
    n->connected = n->lost = false;
    n->ret = 0;
    int ret = nvme_ctrlr_create(n->reactor, &o, &ops, n, &n->c);
    if (ret)
        return plx_fail(err, ret, "%s: %s", o.addrs.list[0].name, strerror(-ret));
    nvme_ctrlr_start(n->c, true);
    while (!n->connected && !n->ret)
        plx_reactor_run(n->reactor);
    if (n->connected)
        return 0;
    nvme_ctrlr_destroy(n->c);
    n->c = NULL;
    return plx_fail(err, n->ret, "%s: %s", o.addrs.list[0].name, n->why);
}

static void client_free(struct plx_nvme *n)
{
    if (n->held)
        nvme_pcie_release(n->where.paths[0].list[0].name);
    if (n->where.o.node)
        nvme_uring_close(n->where.o.node);
    free(n);
}

static int connect_any(struct plx_nvme *n, struct plx_nvme **out, struct plx_error *err)
{
    static const struct plx_reactor_opts opts = {.core = -1, .mode = PLX_POLL_SLEEP};
    int ret = plx_reactor_create(&n->reactor, &opts);
    if (ret) {
        client_free(n);
        return plx_fail(err, ret, "cannot make a reactor: %s", strerror(-ret));
    }
    n->timer.fn = time_is_up;
    n->where.o.queues = 0;
    n->held = n->where.o.transport == &nvme_pcie && nvme_pcie_hold(n->where.paths[0].list[0].name) == 0;
    ret = -EHOSTUNREACH;
    for (unsigned i = 0; i < n->where.npaths && ret; i++)
        ret = connect_path(n, i, err);
    if (ret)
        plx_nvme_disconnect(n);
    else
        *out = n;
    return ret;
}

static int find_node(struct plx_nvme *n, const char *path, struct plx_error *err)
{
    struct nvme_uring_node *node;
    int ret = nvme_uring_open(path, NVME_URING_ASK, &node, err);
    if (!ret)
        nvme_uring_where(&n->where, node);
    return ret;
}

int plx_nvme_connect(const char *url, struct plx_nvme **out, struct plx_error *err)
{
    struct plx_nvme *n = calloc(1, sizeof *n);
    if (!n)
        return plx_fail(err, -ENOMEM, "out of memory");
    const char *path = nvme_uring_path(url);
    int ret = path ? find_node(n, path, err) : nvme_where_parse(&n->where, url, err);
    if (ret) {
        free(n);
        return ret;
    }
    if (strcmp(n->where.o.subnqn, NVME_DISCOVERY_NQN) == 0)
        n->where.o.nsid = NVME_NSID_ALL;
    return connect_any(n, out, err);
}

void plx_nvme_disconnect(struct plx_nvme *n)
{
    if (n->c)
        nvme_ctrlr_destroy(n->c);
    plx_timer_cancel(n->reactor, &n->timer);
    plx_reactor_destroy(n->reactor);
    client_free(n);
}

void plx_nvme_get_info(const struct plx_nvme *n, struct plx_nvme_info *out)
{
    const struct nvme_ns *ns = nvme_ctrlr_ns(n->c);
    *out = (struct plx_nvme_info){.cap = nvme_ctrlr_cap(n->c),
                                  .vs = n->c->vs,
                                  .cntlid = n->c->cntlid,
                                  .nsid = n->where.o.nsid == NVME_NSID_ALL ? 0 : n->where.o.nsid,
                                  .ana_state = ns->nsid ? nvme_ctrlr_ana(n->c) : 0};
    snprintf(out->address, sizeof out->address, "%s", nvme_ctrlr_name(n->c));
}

/* ---- commands ---- */

static int lost(const struct plx_nvme *n, struct plx_error *err)
{
    return plx_fail(err, -EIO, "%s: the connection is lost", nvme_ctrlr_name(n->c));
}

static int execute(struct plx_nvme *n, const struct nvme_words *cmd, void *data, uint32_t len, const char *what,
                   struct plx_error *err)
{
    if (n->lost)
        return lost(n, err);
    n->iov = (struct iovec){data, len};
    n->req = (struct nvme_req){
        .done = answered, .data = {&n->iov, 0}, .len = len, .dir = len ? NVME_TO_HOST : NVME_NO_DATA, .cmd = *cmd};
    n->answered = false;
    nvme_submit_admin(n->c, &n->req);
    while (!n->answered)
        plx_reactor_run(n->reactor);
    if (n->req.lost)
        return lost(n, err);
    if (n->req.status)
        return plx_fail(err, -EIO, "%s: %s failed: %s (%03x)", nvme_ctrlr_name(n->c), what,
                        nvme_status_text(n->req.status, false), n->req.status & 0x7ff);
    return 0;
}

int plx_nvme_identify_set(struct plx_nvme *n, uint8_t cns, uint8_t csi, uint32_t nsid, void *data,
                          struct plx_error *err)
{
    const struct nvme_words cmd = {.opcode = NVME_ADMIN_IDENTIFY,
                                   .nsid = plx_put32(nsid),
                                   .cdw10 = plx_put32(cns),
                                   .cdw11 = plx_put32((uint32_t)csi << 24)};
    return execute(n, &cmd, data, PLX_NVME_IDENTIFY_BYTES, "Identify", err);
}

int plx_nvme_identify(struct plx_nvme *n, uint8_t cns, uint32_t nsid, void *data, struct plx_error *err)
{
    return plx_nvme_identify_set(n, cns, 0, nsid, data, err);
}

int plx_nvme_get_log(struct plx_nvme *n, uint8_t lid, uint8_t lsp, uint32_t nsid, uint64_t offset, void *data,
                     uint32_t len, struct plx_error *err)
{
    uint32_t piece = (uint32_t)plx_min_u64(n->held ? PCIE_PIECE : LOG_PIECE, nvme_ctrlr_max_transfer(n->c));
    if (len % 4 || offset % 4 || !len)
        return plx_fail(err, -EINVAL, "a log page is read in multiples of 4 bytes");
    for (uint32_t at = 0; at < len; at += piece) {
        uint32_t bytes = (uint32_t)plx_min_u64(len - at, piece), dwords = bytes / 4 - 1;
        const struct nvme_words cmd = {
            .opcode = NVME_ADMIN_GET_LOG_PAGE,
            .nsid = plx_put32(nsid),
            .cdw10 = plx_put32(lid | (uint32_t)(lsp & 0x7f) << 8 | (dwords & 0xffff) << 16),
            .cdw11 = plx_put32(dwords >> 16),
            .cdw12 = plx_put32(offset + at),
            .cdw13 = plx_put32((offset + at) >> 32),
        };
        int ret = execute(n, &cmd, (uint8_t *)data + at, bytes, "Get Log Page", err);
        if (ret)
            return ret;
    }
    return 0;
}

int plx_nvme_wait_event(struct plx_nvme *n, int timeout_ms, uint32_t *dw0, struct plx_error *err)
{
    n->timed_out = false;
    n->no_events = 0;
    nvme_ctrlr_want_events(n->c);
    if (timeout_ms >= 0)
        plx_timer_set(n->reactor, &n->timer, (uint64_t)timeout_ms * PLX_NS_PER_MS);
    while (!n->nevents && !n->timed_out && !n->lost && !n->no_events)
        plx_reactor_run(n->reactor);
    plx_timer_cancel(n->reactor, &n->timer);
    if (n->nevents) {
        *dw0 = take_event(n);
        return 1;
    }
    if (n->no_events)
        return plx_fail(err, -EIO, "%s: the controller refuses to tell of events: %s (%03x)", nvme_ctrlr_name(n->c),
                        nvme_status_text(n->no_events, false), n->no_events & 0x7ff);
    return n->lost ? lost(n, err) : 0;
}

const char *plx_nvme_status_text(uint16_t status)
{
    return nvme_status_text(status, false);
}

/* ---- discovery ---- */

int plx_nvme_connect_discovery(const char *where, const char *params, bool persistent, struct plx_nvme **out,
                               struct plx_error *err)
{
    char host[PLX_ADDR_HOST];
    uint16_t port = 0;
    struct plx_nvme *n = calloc(1, sizeof *n);
    if (!n)
        return plx_fail(err, -ENOMEM, "out of memory");
    nvme_where_init(&n->where);
    memcpy(n->where.o.subnqn, NVME_DISCOVERY_NQN, sizeof NVME_DISCOVERY_NQN);
    n->where.o.nsid = NVME_NSID_ALL;
    n->where.o.kato_ms = persistent ? DISCOVERY_KATO_MS : 0;
    int ret = nvme_where_query(&n->where, params, err);
    if (!ret)
        ret = nvme_where_addr(&n->where, where, strlen(where), DISCOVERY_PORT, err);
    if (!ret)
        ret = plx_addr_split(where, strlen(where), host, &port, err);
    if (!ret && !port)
        ret = nvme_where_addr(&n->where, where, strlen(where), NVM_PORT, err);
    if (!ret)
        ret = nvme_where_finish(&n->where, err);
    if (ret) {
        free(n);
        return ret;
    }
    return connect_any(n, out, err);
}

static void take_text(char *to, const char *field, size_t size)
{
    memcpy(to, field, size);
    to[size] = 0;
    size_t len = strlen(to);
    while (len && to[len - 1] == ' ')
        to[--len] = 0;
}

static void take_record(struct plx_nvme_record *r, const struct nvme_discovery_entry *e)
{
    *r = (struct plx_nvme_record){.trtype = e->trtype,
                                  .adrfam = e->adrfam,
                                  .subtype = e->subtype,
                                  .treq = e->treq,
                                  .portid = plx_get16(e->portid),
                                  .cntlid = plx_get16(e->cntlid),
                                  .asqsz = plx_get16(e->asqsz),
                                  .eflags = plx_get16(e->eflags),
                                  .sectype = e->tsas[0]};
    take_text(r->trsvcid, e->trsvcid, sizeof e->trsvcid);
    take_text(r->traddr, e->traddr, sizeof e->traddr);
    take_text(r->subnqn, e->subnqn, sizeof e->subnqn);
}

static int get_header(struct plx_nvme *n, struct nvme_discovery_header *h, struct plx_error *err)
{
    return plx_nvme_get_log(n, NVME_LOG_DISCOVERY, 0, 0, 0, h, sizeof *h, err);
}

/* One generation of the log. @return 1 when it changed meanwhile */
static int read_log(struct plx_nvme *n, struct plx_nvme_discovery **out, struct plx_error *err)
{
    struct nvme_discovery_header h;
    int ret = get_header(n, &h, err);
    if (ret)
        return ret;
    uint64_t generation = plx_get64(h.genctr), count = plx_get64(h.numrec);
    if (count > RECORDS_MAX)
        return plx_fail(err, -EIO, "%s: a discovery log of %llu records is not believed", nvme_ctrlr_name(n->c),
                        (unsigned long long)count);
    struct nvme_discovery_entry *entries = calloc(count + 1, sizeof *entries);
    struct plx_nvme_discovery *d = calloc(1, sizeof *d + count * sizeof d->records[0]);
    ret = entries && d ? 0 : plx_fail(err, -ENOMEM, "out of memory");
    if (!ret && count)
        ret =
            plx_nvme_get_log(n, NVME_LOG_DISCOVERY, 0, 0, sizeof h, entries, (uint32_t)(count * sizeof *entries), err);
    if (!ret)
        ret = get_header(n, &h, err);
    if (!ret && plx_get64(h.genctr) != generation)
        ret = 1;
    if (!ret) {
        d->genctr = generation;
        d->count = (uint32_t)count;
        for (uint64_t i = 0; i < count; i++)
            take_record(&d->records[i], &entries[i]);
        *out = d;
        d = NULL;
    }
    free(d);
    free(entries);
    return ret;
}

int plx_nvme_get_discovery(struct plx_nvme *n, struct plx_nvme_discovery **out, struct plx_error *err)
{
    int ret = 1;
    for (int i = 0; i < GENERATIONS && ret == 1; i++)
        ret = read_log(n, out, err);
    return ret == 1 ? plx_fail(err, -EAGAIN, "%s: the discovery log keeps changing", nvme_ctrlr_name(n->c)) : ret;
}

void plx_nvme_discovery_free(struct plx_nvme_discovery *d)
{
    free(d);
}
