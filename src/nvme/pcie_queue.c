/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * An I/O queue pair over PCIe, on its reactor: a source that is polled. Commands are put into the queue as they come,
 * and the controller told of them once a round. It sleeps with its interrupt unmasked, and only then: while it polls
 * the vector is masked, which costs one store at either change and none in between.
 */
#include "nvme/pcie.h"

#include "reactor/eventfd.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum { PCIE_BUDGET = 64 }; /* completions a round */

struct pcie_queue {
    struct nvme_qp qp;
    struct plx_source source;
    struct pcie_hw *hw;    /* while it is open */
    struct pcie_ring ring; /* of hw, which lends it */
    struct pcie_data data;
    struct pcie_slot *slots;
    struct pcie_slot **free; /* those from in_flight on are free */
    uint16_t nslots;
    uint32_t low; /* of a CID: the place */
    int left;     /* completions that a round may take; 0 when it is closed */
    bool ready;   /* its source is polled */
    bool quiet;   /* closed, with commands in flight: they come back when the controller is disabled */
    bool freed;
    bool told; /* its vector was unmasked: the descriptor may have been written */
    unsigned polling;
    struct nvme_queue failed; /* what could not be issued */
};

static struct pcie_queue *pcie_queue_of(const struct nvme_qp *qp)
{
    return plx_container_of(qp, struct pcie_queue, qp);
}

/* ---- commands ---- */

static inline struct nvme_cmd *next_entry(const struct pcie_queue *q)
{
    return &q->ring.sq[q->ring.tail];
}

/* What a command says, but for where its data is, which may change its flags. */
static inline void set_words(const struct pcie_queue *q, struct pcie_slot *slot, struct nvme_req *req,
                             struct nvme_cmd *sqe)
{
    slot->cid = (uint16_t)(slot->cid + q->low + 1); /* this use's; the place stays */
    req->cmd.cid = plx_put16(slot->cid);
    /* What is between is zero, and has been so from the beginning, but for where data is. */
    memcpy(sqe, &req->cmd, offsetof(struct nvme_words, cdw10));
    memcpy(&sqe->cdw10, &req->cmd.cdw10, sizeof req->cmd - offsetof(struct nvme_words, cdw10));
}

/* The next entry is the command: the controller will be told of it. */
static inline void queue_enter(struct pcie_queue *q, struct pcie_slot *slot, struct nvme_req *req)
{
    slot->req = req;
    nvme_req_begin(req, &q->qp);
    q->qp.in_flight++;
    pcie_ring_step(&q->ring, &q->ring.tail);
}

/* @return what pcie_data_set() says */
static int queue_put(struct pcie_queue *q, struct nvme_req *req)
{
    struct pcie_slot *slot = q->free[q->qp.in_flight];
    struct nvme_cmd *sqe = next_entry(q);
    set_words(q, slot, req, sqe);
    int ret = pcie_data_set(&q->data, slot, req, sqe);
    if (!ret)
        queue_enter(q, slot, req);
    return ret;
}

/* Takes the latest one back, of which the controller has not been told. */
static void take_command_back(struct pcie_queue *q, struct nvme_req *req)
{
    struct pcie_slot *slot = q->free[--q->qp.in_flight];
    assert(slot->req == req);
    if (slot->bounce != PCIE_DIRECT)
        pcie_data_done(&q->data, slot, false);
    slot->req = NULL;
    q->ring.tail = (uint16_t)(q->ring.tail ? q->ring.tail - 1 : q->ring.entries - 1);
}

static void await(struct pcie_queue *q, struct nvme_req *req)
{
    req->qp = &q->qp;
    req->waiting = true;
    nvme_queue_push(&q->qp.backlog, req);
}

static void cannot_issue(struct pcie_queue *q, struct nvme_req *req)
{
    struct nvme_req *second = req->fused ? req->next : NULL;
    req->qp = &q->qp;
    nvme_queue_push(&q->failed, req);
    if (second)
        nvme_queue_push(&q->failed, second);
}

/* One command, or two that are fused. @return what pcie_data_set() says, -EAGAIN when there is no place */
static int queue_issue(struct pcie_queue *q, struct nvme_req *req)
{
    struct nvme_req *second = req->fused ? req->next : NULL;
    if (q->qp.in_flight + (second != NULL) >= q->qp.depth)
        return -EAGAIN;
    int ret = queue_put(q, req);
    if (ret || !second)
        return ret;
    ret = queue_put(q, second);
    if (ret)
        take_command_back(q, req);
    return ret;
}

/* Not inlined, as what is plain would then save registers for it. */
static __attribute__((noinline)) void queue_submit_odd(struct pcie_queue *q, struct nvme_req *req)
{
    int ret = q->qp.backlog.head ? -EAGAIN : queue_issue(q, req);
    if (ret == -EAGAIN)
        await(q, req);
    else if (ret)
        cannot_issue(q, req);
}

static void pcie_queue_submit(struct nvme_qp *qp, struct nvme_req *req)
{
    struct pcie_queue *q = pcie_queue_of(qp);
    if (plx_likely(pcie_data_current(&q->data) && !qp->backlog.head && qp->in_flight < qp->depth && req->len)) {
        struct nvme_cmd *sqe = next_entry(q);
        if (plx_likely(pcie_data_set_near(&q->data, req, sqe))) {
            struct pcie_slot *slot = q->free[qp->in_flight];
            set_words(q, slot, req, sqe);
            queue_enter(q, slot, req);
            return;
        }
    }
    queue_submit_odd(q, req);
}

void pcie_queue_submit_fused(struct nvme_qp *qp, struct nvme_req *first)
{
    struct pcie_queue *q = pcie_queue_of(qp);
    struct nvme_req *second = first->next;
    int ret = qp->backlog.head ? -EAGAIN : queue_issue(q, first);
    if (!ret)
        return;
    if (ret != -EAGAIN) {
        cannot_issue(q, first);
        return;
    }
    await(q, first);
    await(q, second);
}

/* A request of the backlog whose second half, if it has one, is right behind it. */
static void queue_backlog(struct pcie_queue *q)
{
    while (q->qp.backlog.head) {
        struct nvme_req *req = q->qp.backlog.head;
        int ret = queue_issue(q, req);
        if (ret == -EAGAIN)
            return;
        struct nvme_req *second = req->fused ? req->next : NULL;
        struct nvme_req *next = second ? second->next : req->next;
        q->qp.backlog.head = next;
        if (!next)
            q->qp.backlog.tail = &q->qp.backlog.head;
        if (ret)
            cannot_issue(q, req);
    }
}

/* ---- completions ---- */

static __attribute__((noinline, cold)) void queue_broken(struct pcie_queue *q, unsigned cid)
{
    char why[100];
    q->hw->broken = true;
    snprintf(why, sizeof why, "it completed command %04xh on queue %u, which it was not sent", cid, q->ring.qid);
    nvme_qp_lost(&q->qp, why);
}

static inline bool take_completion(struct pcie_queue *q, struct pcie_seen seen)
{
    const uint16_t cid = (uint16_t)seen.last;
    struct pcie_slot *slot = &q->slots[seen.last & q->low];
    struct nvme_req *req = slot->req; /* there are as many slots as a place can say, if not as many places */
    pcie_ring_next(&q->ring);
    if (plx_unlikely(!req || slot->cid != cid)) {
        queue_broken(q, cid);
        return false;
    }
    req->status = (uint16_t)(seen.last >> 17);
    req->dw0 = plx_get32(seen.cqe->dw0);
    req->dw1 = plx_get32(seen.cqe->dw1);
    if (plx_unlikely(slot->bounce != PCIE_DIRECT))
        pcie_data_done(&q->data, slot, !req->status);
    slot->req = NULL;
    q->free[--q->qp.in_flight] = slot;
    nvme_req_end(req);
    return true;
}

static void end_failed(struct pcie_queue *q)
{
    while (q->failed.head) {
        struct nvme_req *req = nvme_queue_pop(&q->failed);
        req->lost = req->waiting = false;
        req->status = PLX_SC_INTERNAL_ERROR;
        nvme_req_end(req);
    }
}

static void queue_release(struct pcie_queue *q)
{
    free(q->slots);
    free(q->free);
    free(q);
}

/* Callbacks may close it, or free it. */
static int queue_reap(struct pcie_queue *q, struct pcie_seen seen)
{
    int n = 0;
    q->polling++;
    q->qp.active = true;
    q->left = PCIE_BUDGET;
    do {
        n++;
    } while (take_completion(q, seen) && q->left > n && pcie_ring_peek(&q->ring, &seen));
    if (plx_likely(q->ready)) {
        pcie_ring_return(&q->ring);
        if (plx_unlikely(q->qp.backlog.head))
            queue_backlog(q);
        if (q->ring.tail != q->ring.rung)
            pcie_ring_submit(&q->ring);
    }
    if (!--q->polling && plx_unlikely(q->freed))
        queue_release(q);
    return n;
}

static int queue_poll(struct plx_source *s)
{
    struct pcie_queue *q = plx_container_of(s, struct pcie_queue, source);
    struct pcie_seen seen;
    if (q->ring.tail != q->ring.rung)
        pcie_ring_submit(&q->ring);
    if (pcie_ring_peek(&q->ring, &seen))
        return queue_reap(q, seen);
    if (plx_likely(!q->failed.head))
        return 0;
    q->polling++;
    end_failed(q);
    if (!--q->polling && q->freed)
        queue_release(q);
    return 1;
}

/* ---- sleeping ---- */

static void set_mask(const struct pcie_queue *q, bool masked)
{
    if (q->hw->mask)
        pci_store32(q->hw->mask, masked ? PCI_MSIX_MASKED : 0);
}

/* What came before the vector was unmasked is seen; what comes after wakes. Without a vector it does not sleep. */
static int queue_arm(struct plx_source *s)
{
    struct pcie_queue *q = plx_container_of(s, struct pcie_queue, source);
    if (q->ring.tail != q->ring.rung || q->failed.head)
        return 1;
    if (q->told || !q->hw->mask)
        plx_eventfd_hear(q->hw->fd);
    q->told = false;
    if (!q->qp.in_flight)
        return 0;
    if (!q->hw->interrupts)
        return 1;
    q->told = true;
    set_mask(q, false);
    pci_barrier();
    return pcie_ring_waiting(&q->ring);
}

static void queue_disarm(struct plx_source *s)
{
    const struct pcie_queue *q = plx_container_of(s, struct pcie_queue, source);
    if (q->told)
        set_mask(q, true);
}

static const struct plx_source_ops queue_source = {.poll = queue_poll, .arm = queue_arm, .disarm = queue_disarm};

/* ---- life ---- */

struct nvme_qp *pcie_queue_create(struct nvme_ctrlr *c, unsigned depth)
{
    struct pcie_queue *q = calloc(1, sizeof *q);
    (void)c;
    if (!q)
        return NULL;
    q->qp.submit = pcie_queue_submit;
    q->nslots = (uint16_t)depth;
    for (q->low = 1; q->low < depth; q->low = 2 * q->low + 1)
        ;
    q->slots = calloc(q->low + 1u, sizeof *q->slots);
    q->free = calloc(depth, sizeof *q->free);
    if (!q->slots || !q->free) {
        queue_release(q);
        return NULL;
    }
    for (unsigned i = 0; i < depth; i++)
        q->slots[i].cid = (uint16_t)i;
    nvme_queue_init(&q->qp.backlog);
    nvme_queue_init(&q->failed);
    return &q->qp;
}

void pcie_queue_begin(struct nvme_qp *qp, struct pcie_hw *hw)
{
    struct pcie_queue *q = pcie_queue_of(qp);
    const struct nvme_ctrlr *c = qp->ctrlr;
    const uint32_t sgls = plx_get32(c->id.sgls) & 3;
    const uint64_t lists = (uint64_t)(hw->ring.memory.bytes - (size_t)q->nslots * NVME_PAGE);
    q->hw = hw;
    q->ring = hw->ring;
    qp->qid = hw->ring.qid;
    qp->depth = (uint32_t)plx_min_u64(q->nslots, hw->ring.entries - 1u);
    q->data = (struct pcie_data){.dma = hw->dma,
                                 .version = pci_dma_version(hw->dma),
                                 .page = UINT32_C(1) << (12 + (c->cap >> 48 & 15)),
                                 .sgl = !hw->no_sgl && (sgls == 1 || sgls == 2),
                                 .sgl_align_mask = sgls == 2 ? 3 : 0};
    for (uint16_t i = 0; i < q->nslots; i++) {
        q->free[i] = &q->slots[i];
        q->slots[i].list = hw->ring.memory.at + lists + (size_t)i * NVME_PAGE;
        q->slots[i].list_iova = hw->ring.memory.iova + lists + (uint64_t)i * NVME_PAGE;
        q->slots[i].bounce = PCIE_DIRECT;
    }
    q->source.ops = &queue_source;
    q->source.fd = hw->fd;
    set_mask(q, true);
    q->told = true; /* perhaps by whoever had the queue before */
    int ret = pcie_protect_begin(&q->data, c, q->nslots);
    if (!ret)
        ret = plx_source_add(qp->ctrlr->reactor, &q->source);
    if (ret) {
        nvme_qp_lost(qp, strerror(-ret));
        return;
    }
    q->ready = true;
    nvme_connect_attached(qp->ctrlr);
}

/* What has not been issued comes back at once. */
static void drop_backlog(struct pcie_queue *q)
{
    struct nvme_queue all[] = {q->qp.backlog, q->failed};
    nvme_queue_init(&q->qp.backlog);
    nvme_queue_init(&q->failed);
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(all); i++) {
        while (all[i].head) {
            struct nvme_req *req = nvme_queue_pop(&all[i]);
            req->waiting = false;
            req->lost = true;
            nvme_req_end(req);
        }
    }
}

void pcie_queue_close(struct nvme_qp *qp)
{
    struct pcie_queue *q = pcie_queue_of(qp);
    struct pcie_hw *hw = q->hw;
    if (!hw)
        return;
    if (q->ready)
        plx_source_remove(qp->ctrlr->reactor, &q->source);
    q->ready = false;
    q->left = 0;
    q->hw = NULL;
    q->quiet = qp->in_flight > 0;
    hw->owner = q->quiet ? q : NULL;
    hw->reactor = qp->ctrlr->reactor;
    if (!q->quiet)
        pcie_data_end(&q->data);
    hw->ring = q->ring;
    pcie_hw_end(hw);
    q->polling++;
    drop_backlog(q);
    if (!--q->polling && q->freed)
        queue_release(q);
}

void pcie_queue_quiet(struct plx_msg *msg)
{
    struct pcie_hw *hw = plx_container_of(msg, struct pcie_hw, msg);
    struct pcie_queue *q = hw->owner;
    struct nvme_queue all;
    nvme_queue_init(&all);
    for (unsigned i = 0; i < q->nslots; i++) {
        struct pcie_slot *slot = &q->slots[i];
        if (!slot->req)
            continue;
        slot->req->lost = true;
        slot->bounce = PCIE_DIRECT;
        nvme_queue_push(&all, slot->req);
        slot->req = NULL;
        q->free[--q->qp.in_flight] = slot;
    }
    pcie_data_end(&q->data);
    pci_dma_put(hw->dma);
    free(hw);
    q->quiet = false;
    while (all.head)
        nvme_req_end(nvme_queue_pop(&all));
}

void pcie_queue_free(struct nvme_qp *qp)
{
    struct pcie_queue *q = pcie_queue_of(qp);
    pcie_queue_close(qp);
    assert(!q->quiet); /* who has commands in flight waits for them */
    q->freed = true;
    if (!q->polling)
        queue_release(q);
}

struct nvme_req *pcie_queue_in_flight(const struct nvme_qp *qp, unsigned place)
{
    const struct pcie_queue *q = pcie_queue_of(qp);
    return q->slots[place].req;
}
