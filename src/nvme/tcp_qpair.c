/* SPDX-License-Identifier: BSD-3-Clause */
/* Queue pairs: their connection's beginning and end. */
#include "nvme/nvme.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    UNIT_MAX = 4 * (NVME_TCP_HPDA_MAX + 1) + NVME_TCP_DIGEST, /* the longest header with padding, and a data digest */
    IOV_MAX_SEND = 1024,
};

bool nvme_queue_remove(struct nvme_queue *q, struct nvme_req *req)
{
    for (struct nvme_req **p = &q->head; *p; p = &(*p)->next) {
        if (*p != req)
            continue;
        *p = req->next;
        if (!*p)
            q->tail = p;
        return true;
    }
    return false;
}

/* ---- making ---- */

static void destroy(struct nvme_qp *qp)
{
    free(qp->slots);
    free(qp->free);
    free(qp->tx_buf);
    free(qp->tx_iov);
    free(qp);
}

struct nvme_qp *nvme_qp_create(struct nvme_group *g, unsigned depth)
{
    struct nvme_qp *qp = calloc(1, sizeof *qp);
    if (!qp)
        return NULL;
    qp->group = g;
    qp->fd = -1;
    qp->slots_made = (uint16_t)depth;
    qp->tx_size = (depth + TCP_TX_SPARE) * UNIT_MAX;
    qp->tx_iovs = (uint16_t)plx_min_u64(2 * depth + 2 * TCP_TX_SPARE, IOV_MAX_SEND);
    qp->slots = calloc(depth, sizeof *qp->slots);
    qp->free = calloc(depth, sizeof *qp->free);
    qp->tx_buf = malloc(qp->tx_size);
    qp->tx_iov = calloc(qp->tx_iovs, sizeof *qp->tx_iov);
    plx_list_init(&qp->link);
    plx_list_init(&qp->dirty_link);
    if (!qp->slots || !qp->free || !qp->tx_buf || !qp->tx_iov) {
        destroy(qp);
        return NULL;
    }
    for (unsigned i = 0; i < depth; i++)
        qp->slots[i].cid = (uint16_t)i;
    return qp;
}

void nvme_qp_set_depth(struct nvme_qp *qp, unsigned depth)
{
    qp->nslots = qp->nfree = (uint16_t)plx_min_u64(depth, qp->slots_made);
    for (unsigned i = 0; i < qp->nfree; i++)
        qp->free[i] = (uint16_t)(qp->nfree - 1 - i);
}

void nvme_qp_free(struct nvme_qp *qp)
{
    nvme_qp_close(qp);
    /* Someone up the stack may be in the middle of it. */
    if (qp->group->polling)
        plx_list_add_tail(&qp->group->dead, &qp->link);
    else
        destroy(qp);
}

/* ---- connecting ---- */

static void set_int(int fd, int level, int name, int value)
{
    setsockopt(fd, level, name, &value, sizeof value); /* an optimization: not fatal */
}

/* No header is found in the place of another: see check() in tcp_rx.c. Any other value may come from the peer. */
static void forget_headers(struct nvme_qp *qp)
{
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(qp->memo); i++)
        memset(&qp->memo[i].raw, (int)(~i << 1 & 0xff), sizeof qp->memo[i].raw);
}

static void reset(struct nvme_qp *qp)
{
    qp->rules = (struct nvme_tcp_rules){.max_data = NVME_MAX_TRANSFER};
    forget_headers(qp);
    nvme_queue_init(&qp->backlog);
    nvme_queue_init(&qp->h2c);
    nvme_queue_init(&qp->held);
    qp->tx_len = qp->tx_first = qp->tx_niov = 0;
    qp->tx_sent = qp->tx_queued;
    qp->rx_state = NVME_RX_HEADER;
    qp->rx_req = NULL;
    qp->hdr_have = qp->hdr_need = 0;
    qp->blocked = false;
    nvme_qp_set_depth(qp, qp->slots_made);
}

int nvme_qp_connect(struct nvme_qp *qp, const struct nvme_opts *o, const struct nvme_addr *addr)
{
    bool v6 = addr->addr.ss_family == AF_INET6;
    socklen_t len = v6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
    int fd = socket(addr->addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), ret;
    if (fd < 0)
        return -errno;
    set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    if (connect(fd, (const struct sockaddr *)&addr->addr, len) < 0 && errno != EINPROGRESS) {
        ret = -errno;
        close(fd);
        return ret;
    }
    reset(qp);
    qp->fd = fd;
    qp->peer = addr->name;
    qp->rules.header_digest = o->hdgst; /* what is asked for; the answer decides */
    qp->rules.data_digest = o->ddgst;
    qp->state = NVME_QP_CONNECTING;
    ret = nvme_group_add(qp);
    if (ret) {
        qp->state = NVME_QP_CLOSED;
        close(fd);
        qp->fd = -1;
    }
    return ret;
}

/* TCP 3.6.2.2: HPDA 0, so that data comes right behind headers; MAXR2T 0, one R2T of a command at a time. */
static void send_icreq(struct nvme_qp *qp)
{
    struct nvme_tcp_ic pdu = {
        .hdr = {.type = NVME_TCP_ICREQ, .hlen = sizeof pdu, .plen = plx_put32(sizeof pdu)},
        .dgst = (uint8_t)((qp->rules.header_digest ? NVME_TCP_DGST_HEADER : 0) |
                          (qp->rules.data_digest ? NVME_TCP_DGST_DATA : 0)),
    };
    memcpy(nvme_tx_put(qp, sizeof pdu), &pdu, sizeof pdu);
    nvme_group_dirty(qp);
}

void nvme_qp_check_connected(struct nvme_qp *qp)
{
    struct pollfd p = {.fd = qp->fd, .events = POLLOUT};
    int error = 0;
    socklen_t len = sizeof error;
    if (poll(&p, 1, 0) <= 0)
        return;
    if (getsockopt(qp->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
        error = errno;
    if (error) {
        nvme_qp_fail(qp, strerror(error));
        return;
    }
    qp->state = NVME_QP_INIT;
    send_icreq(qp);
}

void nvme_qp_icresp(struct nvme_qp *qp, const uint8_t *hdr)
{
    struct nvme_tcp_ic ic;
    struct nvme_tcp_error err;
    memcpy(&ic, hdr, sizeof ic);
    if (nvme_tcp_check_ic(&ic, &qp->rules, &err)) {
        nvme_qp_fatal(qp, &err, hdr, sizeof ic);
        return;
    }
    bool header = ic.dgst & NVME_TCP_DGST_HEADER, data = ic.dgst & NVME_TCP_DGST_DATA;
    if ((header && !qp->rules.header_digest) || (data && !qp->rules.data_digest)) {
        err = (struct nvme_tcp_error){NVME_TCP_FES_INVALID_HEADER, offsetof(struct nvme_tcp_ic, dgst)};
        nvme_qp_fatal(qp, &err, hdr, sizeof ic); /* a digest that was not asked for */
        return;
    }
    if (header != qp->rules.header_digest || data != qp->rules.data_digest) {
        nvme_qp_fail(qp, "the controller does without the digests that were asked for");
        return;
    }
    qp->rules.header_digest = header;
    qp->rules.data_digest = data;
    qp->rules.initialized = true;
    forget_headers(qp); /* the rules have changed */
    unsigned digest = header ? NVME_TCP_DIGEST : 0, align = 4 * (ic.pda + 1u);
    qp->cmd_len = (uint8_t)(NVME_TCP_CMD_LEN + digest);
    qp->cmd_pdo = (uint8_t)((qp->cmd_len + align - 1) / align * align);
    qp->h2c_pdo = (uint8_t)((NVME_TCP_DATA_LEN + digest + align - 1) / align * align);
    qp->max_h2c = plx_get32(ic.max);
    qp->state = NVME_QP_OPEN;
    qp->opened(qp);
}

/* ---- ending ---- */

static void shut(struct nvme_qp *qp)
{
    if (qp->state == NVME_QP_CLOSED)
        return;
    nvme_group_remove(qp);
    if (qp->fd >= 0)
        close(qp->fd);
    qp->fd = -1;
    qp->state = NVME_QP_CLOSED;
}

/* Gives everything back, what was answered with its answer. */
static void drop_requests(struct nvme_qp *qp)
{
    struct nvme_queue all = qp->backlog;
    for (struct nvme_req *req = all.head; req; req = req->next)
        req->lost = true;
    if (!all.head)
        nvme_queue_init(&all);
    for (unsigned i = 0; i < qp->nslots; i++) {
        struct nvme_req *req = qp->slots[i].req;
        if (!req)
            continue;
        qp->slots[i].req = NULL;
        req->lost = req->phase != NVME_HELD;
        nvme_queue_push(&all, req);
    }
    qp->in_flight = 0;
    nvme_queue_init(&qp->backlog);
    nvme_queue_init(&qp->h2c);
    nvme_queue_init(&qp->held);
    while (all.head) {
        struct nvme_req *req = nvme_queue_pop(&all);
        req->phase = NVME_IDLE;
        req->qp = NULL;
        req->done(req);
    }
}

void nvme_qp_close(struct nvme_qp *qp)
{
    shut(qp);
    drop_requests(qp); /* also of one that nvme_qp_fail() has shut and is about to report */
}

void nvme_qp_fail(struct nvme_qp *qp, const char *why)
{
    if (qp->state == NVME_QP_CLOSED)
        return;
    shut(qp);
    qp->closed(qp,
               why); /* may free it: then its requests have been dropped, and it lives until the group's poll ends */
    drop_requests(qp);
}

void nvme_qp_fatal(struct nvme_qp *qp, const struct nvme_tcp_error *err, const uint8_t *hdr, size_t len)
{
    if (qp->state < NVME_QP_INIT)
        return;
    plx_warn("%s: %s, in a PDU of type %02xh, information %u: connection ends", qp->peer, nvme_tcp_fes_names[err->fes],
             hdr[0], err->fei);
    if (hdr[0] != NVME_TCP_C2H_TERM) { /* that is not answered in kind: TCP 3.5 */
        len = plx_min_u64(len, NVME_TCP_TERM_MAX - NVME_TCP_TERM_LEN);
        struct nvme_tcp_term pdu = {
            .hdr = {.type = NVME_TCP_H2C_TERM, .hlen = sizeof pdu, .plen = plx_put32(sizeof pdu + len)},
            .fes = plx_put16(err->fes),
            .fei_low = plx_put16(err->fei & 0xffff),
            .fei_high = plx_put16(err->fei >> 16),
        };
        uint8_t text[NVME_TCP_TERM_MAX];
        memcpy(text, &pdu, sizeof pdu);
        memcpy(text + sizeof pdu, hdr, len);
        /* In the middle of another PDU it would not be understood. */
        bool between = qp->tx_first == qp->tx_niov;
        int fd = qp->fd;
        if (between && send(fd, text, sizeof pdu + len, MSG_NOSIGNAL | MSG_DONTWAIT) > 0) {
            nvme_group_unwatch(qp);
            qp->fd = -1;
            shutdown(fd, SHUT_WR);
            nvme_group_linger(qp->group, fd);
        }
    }
    nvme_qp_fail(qp, nvme_tcp_fes_names[err->fes]);
}

bool nvme_qp_cancel(struct nvme_qp *qp, struct nvme_req *req)
{
    return req->phase == NVME_WAITING && !(req->cmd.flags & NVME_FUSE_MASK) && nvme_queue_remove(&qp->backlog, req);
}

struct nvme_req *nvme_qp_overdue(struct nvme_qp *qp, unsigned ticks, bool aborting)
{
    struct nvme_req *oldest = NULL;
    for (unsigned i = 0; i < qp->nslots; i++) {
        struct nvme_req *req = qp->slots[i].req;
        if (!req || req->forever || (req->aborting && !aborting))
            continue;
        unsigned age = (uint16_t)(qp->tick - req->epoch);
        if (age < ticks)
            continue;
        ticks = age;
        oldest = req;
    }
    return oldest;
}
