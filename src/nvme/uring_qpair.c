/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Queue pairs over the kernel's passthrough. An I/O queue pair is an io_uring of its own: commands are gathered, reach
 * the kernel a few at a time or in the next round, and come back from there. An admin queue has none: what is asked for
 * is known, and comes back in the next round.
 *
 * What the kernel has it ends itself: nothing takes a command back from there, whose data it reads and writes until
 * then. So a queue pair that is closed gives back what waits, and the rest as it comes; one that is freed lives until
 * then.
 */
#include "nvme/nvme.h"
#include "nvme/uring.h"
#include "nvme/uring_ring.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

enum {
    REAP = 64, /* completions a round */
    EARLY = 4, /* that were gathered are submitted at once: one system call is little beside their cost */
    MQES = NVME_DEPTH_MAX - 1,
};

struct pass_slot {
    struct nvme_req *req; /* NULL: none */
    bool bounced;
    struct iovec own[NVME_URING_OWN];
};

/* What the controller is told in the next round. */
enum pass_news { PASS_NOTHING, PASS_OPENED, PASS_ATTACHED };

struct pass_qp {
    struct nvme_qp qp;
    struct plx_source source;
    struct plx_reactor *reactor;
    struct nvme_uring_node *node;
    uint8_t news;
    bool added;   /* the source */
    bool open;    /* else what comes back with an error is lost */
    bool polling; /* is within its poll */
    bool freed;
    struct nvme_queue answered; /* requests that come back in the next round */

    /* Of an I/O queue pair. */
    bool has_ring;
    bool bouncing; /* a command has the memory below */
    struct plx_ring ring;
    struct pass_slot *slots;
    uint16_t *free; /* slots: from qp.in_flight on those that are free */
    uint16_t nslots;
    uint8_t *bounce; /* for a command whose data is in more pieces than the kernel takes */
};

static struct pass_qp *pass_of(const struct nvme_qp *qp)
{
    return plx_container_of(qp, struct pass_qp, qp);
}

/* ---- making, and ending ---- */

static void pass_release(struct pass_qp *q)
{
    if (q->has_ring)
        plx_ring_destroy(&q->ring);
    free(q->slots);
    free(q->free);
    free(q->bounce);
    free(q);
}

static void pass_submit(struct nvme_qp *qp, struct nvme_req *req);

static struct nvme_qp *pass_create(struct nvme_ctrlr *c, unsigned depth)
{
    struct pass_qp *q = calloc(1, sizeof *q);
    if (!q)
        return NULL;
    q->qp.submit = pass_submit;
    q->reactor = c->reactor;
    q->node = c->o.node;
    q->nslots = (uint16_t)depth;
    q->slots = calloc(depth, sizeof *q->slots);
    q->free = calloc(depth, sizeof *q->free);
    q->bounce = aligned_alloc(q->node->page, plx_align_up(q->node->max_transfer, q->node->page));
    nvme_queue_init(&q->qp.backlog);
    nvme_queue_init(&q->answered);
    for (unsigned i = 0; q->free && i < depth; i++)
        q->free[i] = (uint16_t)i;
    if (q->slots && q->free && q->bounce)
        return &q->qp;
    pass_release(q);
    return NULL;
}

static void give_back_lost(struct nvme_queue *queue)
{
    struct nvme_queue all = *queue;
    nvme_queue_init(queue);
    while (all.head) {
        struct nvme_req *req = nvme_queue_pop(&all);
        req->waiting = false;
        req->lost = true;
        nvme_req_end(req);
    }
}

static void pass_close(struct nvme_qp *qp)
{
    struct pass_qp *q = pass_of(qp);
    q->open = false;
    q->news = PASS_NOTHING;
    give_back_lost(&qp->backlog);
    give_back_lost(&q->answered);
}

static void pass_end_of_life(struct pass_qp *q)
{
    if (!q->freed || q->polling || q->qp.in_flight)
        return;
    if (q->added)
        plx_source_remove(q->reactor, &q->source);
    pass_release(q);
}

static void pass_free(struct nvme_qp *qp)
{
    struct pass_qp *q = pass_of(qp);
    pass_close(qp);
    q->freed = true;
    pass_end_of_life(q);
}

/* ---- I/O commands ---- */

static int pass_flush(struct pass_qp *q)
{
    if (!io_uring_sq_ready(&q->ring.ring))
        return 0;
    int n = io_uring_submit(&q->ring.ring);
    assert(n != -EEXIST); /* another thread's ring: the reactor changed hands with commands in flight */
    return n > 0 ? n : 0;
}

static struct io_uring_sqe *pass_sqe(struct pass_qp *q)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&q->ring.ring);
    if (!sqe && pass_flush(q))
        sqe = io_uring_get_sqe(&q->ring.ring);
    return sqe;
}

/* @return false when it has to wait */
static bool pass_issue(struct pass_qp *q, struct nvme_req *req)
{
    if (plx_unlikely(q->qp.in_flight == q->qp.depth))
        return false;
    struct pass_slot *slot = &q->slots[q->free[q->qp.in_flight]];
    struct nvme_uring_data data =
        nvme_uring_place(req->data, req->len, q->node->max_segments, q->node->page, slot->own);
    const bool bounces = data.kind == NVME_URING_BOUNCE;
    struct io_uring_sqe *sqe = bounces && q->bouncing ? NULL : pass_sqe(q);
    if (!sqe)
        return false;
    if (plx_unlikely(bounces)) {
        struct plx_iov_at from = req->data;
        data = (struct nvme_uring_data){.kind = NVME_URING_ONE, .addr = q->bounce, .count = 1};
        q->bouncing = true;
        if (req->dir == NVME_FROM_HOST)
            plx_iov_gather(&from, q->bounce, req->len);
    }
    slot->req = req;
    slot->bounced = bounces;
    req->cmd.cid = plx_put16((uint16_t)(slot - q->slots));
    nvme_req_begin(req, &q->qp);
    q->qp.in_flight++;
    nvme_uring_fill(sqe, q->node->fd, &req->cmd, &data, req->len);
    io_uring_sqe_set_data(sqe, slot);
    return true;
}

static void pass_issue_backlog(struct pass_qp *q)
{
    struct nvme_queue *waiting = &q->qp.backlog;
    while (waiting->head && pass_issue(q, waiting->head)) /* which leaves its `next` alone */
        nvme_queue_pop(waiting);
}

static void pass_answer(struct pass_qp *q, struct nvme_req *req, uint16_t status)
{
    req->status = status;
    nvme_queue_push(&q->answered, req);
}

static void pass_submit_io(struct pass_qp *q, struct nvme_req *req)
{
    if (plx_unlikely(!q->qp.in_flight && !plx_ring_is_mine(&q->ring)) && plx_ring_adopt(&q->ring) < 0) {
        pass_answer(q, req, PLX_SC_INTERNAL_ERROR);
        return;
    }
    if (plx_unlikely(q->qp.backlog.head || !pass_issue(q, req))) {
        req->waiting = true;
        nvme_queue_push(&q->qp.backlog, req);
    } else if (io_uring_sq_ready(&q->ring.ring) >= EARLY) {
        pass_flush(q);
    }
}

/*
 * An answer. @return 0, or -errno when no controller takes commands: this one, and what comes next, is for another time
 */
static int pass_take(struct pass_qp *q, struct pass_slot *slot, const struct io_uring_cqe *cqe)
{
    struct nvme_req *req = slot->req;
    int trouble = nvme_uring_result(req, cqe->res, cqe->big_cqe[0]);
    if (plx_unlikely(trouble && !req->lost && q->open)) { /* else the node may have been closed */
        req->lost = nvme_uring_state(q->node) != NVME_URING_LIVE;
        trouble = req->lost ? trouble : 0;
    }
    if (plx_unlikely(!q->open && req->status))
        req->lost = true;
    if (plx_unlikely(slot->bounced)) {
        struct plx_iov_at to = req->data;
        q->bouncing = false;
        if (req->dir == NVME_TO_HOST && !req->lost && !req->status)
            plx_iov_scatter(&to, q->bounce, req->len);
    }
    slot->req = NULL;
    q->free[--q->qp.in_flight] = (uint16_t)(slot - q->slots);
    return trouble;
}

static int pass_reap(struct pass_qp *q)
{
    struct io_uring_cqe *cqes[REAP];
    struct nvme_queue done;
    int trouble = 0;
    unsigned n = io_uring_peek_batch_cqe(&q->ring.ring, cqes, REAP);
    nvme_queue_init(&done);
    for (unsigned i = 0; i < n; i++) {
        struct pass_slot *slot = io_uring_cqe_get_data(cqes[i]);
        struct nvme_req *req = slot->req;
        int ret = pass_take(q, slot, cqes[i]);
        trouble = trouble ? trouble : ret;
        nvme_queue_push(&done, req);
    }
    io_uring_cq_advance(&q->ring.ring, n);
    q->qp.active |= n != 0;
    if (plx_unlikely(trouble && q->open)) /* first, so that what is lost is not sent here again at once */
        nvme_qp_lost(&q->qp, trouble == -EAGAIN ? "the kernel's driver has no controller for it" : strerror(-trouble));
    pass_issue_backlog(q);
    while (done.head)
        nvme_req_end(nvme_queue_pop(&done));
    return (int)n;
}

/* ---- what is answered here ---- */

static uint16_t pass_identify(struct pass_qp *q, struct nvme_req *req)
{
    uint8_t page[NVME_PAGE];
    struct plx_iov_at to = req->data;
    if (!nvme_uring_identify(q->node, &req->cmd, page))
        return PLX_SC_INVALID_FIELD | NVME_STATUS_DNR;
    plx_iov_scatter(&to, page, plx_min_u64(req->len, sizeof page));
    return PLX_SC_SUCCESS;
}

/* Features, events, paths and time limits are the kernel's, and stay as it has them. */
static uint16_t pass_admin(struct pass_qp *q, struct nvme_req *req)
{
    const struct nvme_ctrlr *c = q->qp.ctrlr;
    req->dw0 = req->dw1 = 0;
    switch (req->cmd.opcode) {
    case NVME_ADMIN_IDENTIFY:
        return pass_identify(q, req);
    case NVME_ADMIN_SET_FEATURES:
        if ((plx_get32(req->cmd.cdw10) & 0xff) == NVME_FEAT_NUMBER_OF_QUEUES)
            req->dw0 = (c->o.queues - 1) | (c->o.queues - 1) << 16;
        return PLX_SC_SUCCESS;
    case NVME_ADMIN_ABORT:
        req->dw0 = 1; /* it was not aborted, and ends by itself: Base 5.1.1 */
        return PLX_SC_SUCCESS;
    case NVME_ADMIN_GET_LOG_PAGE:
        return PLX_SC_INVALID_LOG_PAGE | NVME_STATUS_DNR;
    default:
        return PLX_SC_INVALID_OPCODE | NVME_STATUS_DNR;
    }
}

static void pass_submit_admin(struct pass_qp *q, struct nvme_req *req)
{
    uint16_t status = pass_admin(q, req);
    if (status && q->node->use == NVME_URING_ASK && q->open && req->cmd.opcode != NVME_ADMIN_ASYNC_EVENT) {
        nvme_uring_ask(q->node, req);
        status = req->lost ? PLX_SC_INTERNAL_ERROR : req->status;
        req->lost = false;
    }
    pass_answer(q, req, status);
}

static void pass_submit(struct nvme_qp *qp, struct nvme_req *req)
{
    struct pass_qp *q = pass_of(qp);
    req->qp = qp;
    req->lost = false;
    if (plx_likely(qp->qid))
        pass_submit_io(q, req);
    else
        pass_submit_admin(q, req);
}

static void pass_register(struct nvme_ctrlr *c, uint64_t value, void (*done)(struct nvme_req *))
{
    c->req = (struct nvme_req){.done = done, .qp = c->admin, .dw0 = (uint32_t)value, .dw1 = (uint32_t)(value >> 32)};
    nvme_queue_push(&pass_of(c->admin)->answered, &c->req);
}

/* There are none to be read: what is true of a controller that a driver has. Its pages are of 4 KiB at least. */
static void pass_get(struct nvme_ctrlr *c, uint32_t offset, unsigned bytes, void (*done)(struct nvme_req *))
{
    const struct nvme_uring_node *node = pass_of(c->admin)->node;
    (void)bytes;
    pass_register(c,
                  offset == NVME_PROP_CAP    ? MQES | UINT64_C(1) << NVME_CAP_CSS_NVM_SHIFT
                  : offset == NVME_PROP_VS   ? plx_get32(node->ctrl.ver)
                  : offset == NVME_PROP_CSTS ? NVME_CSTS_RDY
                                             : 0,
                  done);
}

static void pass_set(struct nvme_ctrlr *c, uint32_t offset, uint64_t value, void (*done)(struct nvme_req *))
{
    (void)offset, (void)value; /* it is enabled */
    pass_register(c, 0, done);
}

/* ---- the source ---- */

/* Whether there is somebody to send commands to. */
static void pass_opened(struct pass_qp *q)
{
    struct nvme_ctrlr *c = q->qp.ctrlr;
    switch (nvme_uring_state(q->node)) {
    case NVME_URING_GONE:
        c->once = true;
        nvme_ctrlr_attempt_failed(c, -ENODEV, "the kernel has the device no more");
        break;
    case NVME_URING_BUSY:
        nvme_ctrlr_attempt_failed(c, -EAGAIN, "the kernel's driver resets its controller, or connects to it");
        break;
    case NVME_URING_LIVE:
        nvme_connect_opened(&q->qp);
        break;
    }
}

static int pass_tell(struct pass_qp *q)
{
    const enum pass_news news = q->news;
    q->news = PASS_NOTHING;
    if (news == PASS_OPENED)
        pass_opened(q);
    else if (news == PASS_ATTACHED)
        nvme_connect_attached(q->qp.ctrlr);
    return news != PASS_NOTHING;
}

static int pass_poll(struct plx_source *s)
{
    struct pass_qp *q = plx_container_of(s, struct pass_qp, source);
    q->polling = true; /* whoever is called may free it */
    int work = pass_tell(q);
    for (; q->answered.head && work < REAP; work++)
        nvme_req_end(nvme_queue_pop(&q->answered));
    if (q->qp.in_flight)
        work += pass_flush(q) + pass_reap(q);
    q->polling = false;
    pass_end_of_life(q);
    return work;
}

static int pass_arm(struct plx_source *s)
{
    struct pass_qp *q = plx_container_of(s, struct pass_qp, source);
    if (q->answered.head || q->news != PASS_NOTHING)
        return 1;
    if (!q->qp.in_flight)
        return 0;
    pass_flush(q);
    if (io_uring_sq_ready(&q->ring.ring))
        return 1; /* to be offered once more */
    return plx_ring_arm(&q->ring);
}

static void pass_disarm(struct plx_source *s)
{
    struct pass_qp *q = plx_container_of(s, struct pass_qp, source);
    if (q->has_ring)
        plx_ring_disarm(&q->ring);
}

/* The reactor ends, and the kernel still has commands of a queue pair that was freed. */
static void pass_destroy(struct plx_source *s)
{
    pass_release(plx_container_of(s, struct pass_qp, source));
}

static int pass_open(struct nvme_qp *qp)
{
    static const struct plx_source_ops ops = {
        .poll = pass_poll, .arm = pass_arm, .disarm = pass_disarm, .destroy = pass_destroy};
    struct pass_qp *q = pass_of(qp);
    int ret = 0;
    if (qp->qid && !q->has_ring) {
        ret = nvme_uring_ring(&q->ring, q->nslots);
        q->has_ring = !ret;
    }
    if (!ret && !q->added) {
        q->source = (struct plx_source){.ops = &ops, .fd = q->has_ring ? q->ring.fd : -1};
        ret = plx_source_add(q->reactor, &q->source);
        q->added = !ret;
    }
    qp->depth = q->nslots;
    q->open = !ret;
    q->news = ret ? PASS_NOTHING : PASS_OPENED;
    return ret;
}

static void pass_attach(struct nvme_qp *qp)
{
    struct pass_qp *q = pass_of(qp);
    q->news = PASS_ATTACHED;
}

static struct nvme_req *pass_in_flight(const struct nvme_qp *qp, unsigned place)
{
    return pass_of(qp)->slots[place].req;
}

const struct nvme_transport nvme_uring = {
    .pause_ms = 100, /* the kernel has ended all that it had */
    .local = true,
    .create = pass_create,
    .free = pass_free,
    .open = pass_open,
    .close = pass_close,
    .attach = pass_attach,
    .get = pass_get,
    .set = pass_set,
    .in_flight = pass_in_flight,
};
