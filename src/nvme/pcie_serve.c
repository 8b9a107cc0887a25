/* SPDX-License-Identifier: BSD-3-Clause */
/* What associations ask of a device, on its thread: see struct pcie_call. */
#include "nvme/pcie_dev.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>

enum {
    ADMIN_DELETE_SQ = 0x00,
    ADMIN_CREATE_SQ = 0x01,
    ADMIN_DELETE_CQ = 0x04,
    ADMIN_CREATE_CQ = 0x05,
    QUEUE_CONTIGUOUS = 1 << 0,
    QUEUE_PRIORITY_SHIFT = 1, /* of a submission queue */
    QUEUE_INTERRUPTS = 1 << 1,
};

/* ---- answers ---- */

static void admin_free(struct pcie_admin *a)
{
    struct pcie_dev *d = a->dev;
    for (unsigned i = 0; i < PCIE_LINE; i++)
        free(a->calls[i].own);
    free(a);
    pcie_dev_forget(d);
}

/* One of its messages is where it belongs. @return whether there is somebody to hear of it */
static bool message_back(struct pcie_admin *a)
{
    pthread_mutex_lock(&a->dev->lock);
    const bool gone = a->gone, last = --a->out == 0;
    pthread_mutex_unlock(&a->dev->lock);
    if (gone && last)
        admin_free(a);
    return !gone;
}

bool pcie_call_back(struct pcie_call *call)
{
    struct pcie_hw *hw = call->hw;
    if (message_back(call->from))
        return true;
    if (hw)
        pcie_hw_end(hw);
    return false;
}

bool pcie_stop_back(struct pcie_admin *a)
{
    pthread_mutex_lock(&a->dev->lock);
    a->told = false;
    pthread_mutex_unlock(&a->dev->lock);
    return message_back(a);
}

void pcie_admin_gone(struct pcie_admin *a)
{
    struct pcie_dev *d = a->dev;
    pthread_mutex_lock(&d->lock);
    a->gone = true;
    const bool last = a->out == 0;
    pthread_mutex_unlock(&d->lock);
    pcie_dev_put(d); /* it need not wait for messages that are on their way to our reactor */
    if (last)
        admin_free(a);
}

static void answer(struct pcie_call *call)
{
    struct pcie_admin *a = call->from;
    pthread_mutex_lock(&a->dev->lock);
    const bool gone = a->gone;
    call->msg.fn = pcie_admin_answered;
    if (!gone)
        plx_reactor_send(a->reactor,
                         &call->msg); /* under the lock: the reactor is there for as long as it is not gone */
    pthread_mutex_unlock(&a->dev->lock);
    if (gone)
        pcie_call_back(call);
}

static void answer_lost(struct pcie_call *call)
{
    call->op.lost = true;
    answer(call);
}

static void answer_failed(struct pcie_call *call, int ret, const char *why)
{
    call->ret = ret;
    snprintf(call->why, sizeof call->why, "%.*s", (int)sizeof call->why - 1, why);
    answer(call);
}

/* ---- coming and going ---- */

static void join(struct pcie_dev *d, struct pcie_call *call)
{
    struct pcie_admin *a = call->from;
    a->member = true;
    a->nevents = 0;
    plx_list_add_tail(&d->members, &a->link);
    call->cap = d->cap;
    call->vs = d->vs;
    call->stripes = d->quirks.stripes;
    answer(call);
}

void pcie_serve_ready(struct pcie_dev *d)
{
    while (!plx_list_empty(&d->opening)) {
        struct pcie_call *call = plx_list_entry(d->opening.next, struct pcie_call, link);
        plx_list_del(&call->link);
        join(d, call);
    }
}

void pcie_serve_failed(struct pcie_dev *d, int ret)
{
    while (!plx_list_empty(&d->opening)) {
        struct pcie_call *call = plx_list_entry(d->opening.next, struct pcie_call, link);
        plx_list_del(&call->link);
        answer_failed(call, ret, d->err.text);
    }
}

static void serve_open(struct pcie_dev *d, struct pcie_call *call)
{
    if (d->state == PCIE_READY) {
        join(d, call);
        return;
    }
    if (call->arbitration) /* which holds for all queues */
        d->arbitration = call->arbitration;
    plx_list_add_tail(&d->opening, &call->link);
    pcie_ctrl_start(d);
}

/* Calls in a list that are one association's. */
static void drop_calls(struct plx_list *list, const struct pcie_admin *a, void (*end)(struct pcie_call *call))
{
    plx_list_for_each_safe(it, list) {
        struct pcie_call *call = plx_list_entry(it, struct pcie_call, link);
        if (call->from != a)
            continue;
        plx_list_del(&call->link);
        end(call);
    }
}

static void end_opening(struct pcie_call *call)
{
    answer_failed(call, -ECANCELED, "it was given up");
}

/* Whether a command is under way whose time nobody looks after from now on. */
static bool leaves_behind(const struct pcie_dev *d, const struct pcie_admin *a)
{
    bool found = false;
    for (unsigned i = 0; i < PCIE_LINE; i++)
        found |= a->calls[i].op.forever && pcie_ctrl_cid(d, &a->calls[i].op) != UINT16_MAX;
    return found;
}

static void serve_leave(struct pcie_dev *d, struct pcie_call *call)
{
    struct pcie_admin *a = call->from;
    drop_calls(&d->opening, a, end_opening);
    drop_calls(&d->events, a, answer_lost);
    const bool hangs = leaves_behind(d, a);
    if (a->member)
        plx_list_del(&a->link);
    a->member = false;
    answer(call);
    if (hangs)
        pcie_ctrl_reset(d, false, "an admin command that is given up does not end");
    pcie_ctrl_left(d);
}

void pcie_serve_stop(struct pcie_dev *d, struct pcie_admin *a, const char *why)
{
    pthread_mutex_lock(&d->lock);
    if (!a->gone && !a->told) { /* who is gone has sent word that it leaves */
        a->told = true;
        a->out++;
        snprintf(a->stop_why, sizeof a->stop_why, "%s", why);
        plx_reactor_send(a->reactor, &a->stop);
    }
    pthread_mutex_unlock(&d->lock);
}

/* ---- events: one is told to all ---- */

static void give_event(struct pcie_call *call, uint32_t dw0)
{
    call->op.dw0 = dw0;
    call->op.status = PLX_SC_SUCCESS;
    answer(call);
}

static struct pcie_call *waits_for_event(struct pcie_dev *d, const struct pcie_admin *a)
{
    plx_list_for_each(it, &d->events) {
        struct pcie_call *call = plx_list_entry(it, struct pcie_call, link);
        if (call->from == a)
            return call;
    }
    return NULL;
}

/* One that it has not heard of yet is not kept twice: to look once is enough. */
static void keep_event(struct pcie_admin *a, uint32_t dw0)
{
    for (unsigned i = 0; i < a->nevents; i++)
        if (a->events[i] == dw0)
            return;
    if (a->nevents < PCIE_EVENTS)
        a->events[a->nevents++] = dw0;
}

void pcie_serve_event(struct pcie_dev *d, uint32_t dw0)
{
    plx_list_for_each(it, &d->members) {
        struct pcie_admin *a = plx_list_entry(it, struct pcie_admin, link);
        struct pcie_call *call = waits_for_event(d, a);
        if (call) {
            plx_list_del(&call->link);
            give_event(call, dw0);
        } else {
            keep_event(a, dw0);
        }
    }
}

static void serve_event_request(struct pcie_dev *d, struct pcie_call *call)
{
    struct pcie_admin *a = call->from;
    if (!a->nevents) {
        plx_list_add_tail(&d->events, &call->link);
        return;
    }
    const uint32_t dw0 = a->events[0];
    a->nevents--;
    memmove(a->events, a->events + 1, a->nevents * sizeof a->events[0]);
    give_event(call, dw0);
}

/* ---- commands ---- */

static void command_done(struct pcie_dev *d, struct pcie_op *op)
{
    struct pci_dma *dma = op->guard.dma;
    (void)d;
    pcie_guard_free(&op->guard);
    if (dma)
        pci_dma_put(dma);
    answer(plx_container_of(op, struct pcie_call, op));
}

static void answer_value(struct pcie_call *call, uint32_t dw0)
{
    call->op.status = PLX_SC_SUCCESS;
    call->op.dw0 = dw0;
    answer(call);
}

/* Features that are all associations': they have been set. */
static bool set_already(struct pcie_dev *d, struct pcie_call *call)
{
    if (call->op.cmd.opcode != NVME_ADMIN_SET_FEATURES)
        return false;
    switch (plx_get32(call->op.cmd.cdw10) & 0xff) {
    case NVME_FEAT_ASYNC_EVENT:
        answer_value(call, 0);
        return true;
    case NVME_FEAT_NUMBER_OF_QUEUES:
        answer_value(call, (d->nqueues - 1) | (d->nqueues - 1) << 16);
        return true;
    default:
        return false;
    }
}

/* @return 0 or -errno */
static int guard_command(struct pcie_dev *d, struct pcie_call *call)
{
    struct pcie_op *op = &call->op;
    struct pci_dma *dma = pci_dma_get(d->f->iommu);
    int ret = dma && call->own ? pcie_guard_make(&op->guard, dma, op->len, (size_t)NVME_PAGE << (d->cap >> 48 & 15))
                               : -ENOMEM;
    if (ret && dma)
        pci_dma_put(dma);
    if (!ret && !op->to_host)
        memcpy(op->guard.data, call->own, op->len);
    return ret;
}

/* An Abort of an admin command says which of the association's it is; the controller knows it by another number. */
static void translate_abort(const struct pcie_dev *d, struct pcie_call *call)
{
    const uint32_t cdw10 = plx_get32(call->op.cmd.cdw10), place = cdw10 >> 16;
    if (call->op.cmd.opcode == NVME_ADMIN_ABORT && !(cdw10 & 0xffff))
        call->op.cmd.cdw10 = plx_put32(
            (uint32_t)(place < PCIE_LINE ? pcie_ctrl_cid(d, &call->from->calls[place].op) : UINT16_MAX) << 16);
}

static void serve_command(struct pcie_dev *d, struct pcie_call *call)
{
    if (d->state != PCIE_READY || !call->from->member) {
        answer_lost(call);
    } else if (call->op.cmd.opcode == NVME_ADMIN_ASYNC_EVENT) {
        serve_event_request(d, call);
    } else if (call->raw && guard_command(d, call)) {
        call->op.status = PLX_SC_INTERNAL_ERROR;
        answer(call);
    } else if (!set_already(d, call)) {
        translate_abort(d, call);
        call->op.done = command_done;
        pcie_ctrl_send(d, &call->op);
    }
}

/* ---- I/O queue pairs ---- */

static void hw_free(struct pcie_dev *d, struct pcie_hw *hw)
{
    if (hw->generation == d->generation && hw->ring.qid) {
        d->used[hw->ring.qid / 64] &= ~(UINT64_C(1) << hw->ring.qid % 64);
        pcie_cmb_give(d, hw);
    }
    pci_memory_free(hw->dma, &hw->ring.memory);
    if (hw->owner) {
        plx_reactor_send(hw->reactor, &hw->msg);
        return;
    }
    pci_dma_put(hw->dma);
    free(hw);
}

/* The controller does not touch it any more. */
static void hw_quiet(struct pcie_dev *d, struct pcie_hw *hw)
{
    plx_list_del(&hw->link);
    hw->msg.fn = pcie_queue_quiet;
    hw_free(d, hw);
}

void pcie_serve_quiet(struct pcie_dev *d)
{
    while (!plx_list_empty(&d->quiet))
        hw_quiet(d, plx_list_entry(d->quiet.next, struct pcie_hw, link));
}

static void make_failed(struct pcie_dev *d, struct pcie_hw *hw, int ret, const char *what)
{
    struct pcie_call *call = hw->call;
    char why[sizeof call->why];
    if (ret == -EIO && hw->op.lost)
        snprintf(why, sizeof why, "the controller was reset");
    else if (ret == -EIO)
        snprintf(why, sizeof why, "%s failed: %s (%03x)", what, nvme_status_text(hw->op.status, false),
                 hw->op.status & 0x7ff);
    else
        snprintf(why, sizeof why, "%s: %s", what, strerror(-ret));
    hw_free(d, hw);
    answer_failed(call, ret, why);
}

static void hw_command(struct pcie_dev *d, struct pcie_hw *hw, void (*done)(struct pcie_dev *, struct pcie_op *),
                       uint8_t opcode, uint64_t iova, uint32_t cdw11)
{
    const bool makes = opcode == ADMIN_CREATE_CQ || opcode == ADMIN_CREATE_SQ;
    const uint32_t cdw10 = hw->ring.qid | (makes ? (uint32_t)(hw->ring.entries - 1) << 16 : 0);
    hw->op = (struct pcie_op){
        .done = done, .iova = iova, .cmd = {.opcode = opcode, .cdw10 = plx_put32(cdw10), .cdw11 = plx_put32(cdw11)}};
    pcie_ctrl_send(d, &hw->op);
}

static struct pcie_hw *hw_of(struct pcie_op *op)
{
    return plx_container_of(op, struct pcie_hw, op);
}

/* What cannot be deleted is there, and written to, until the controller is disabled. */
static void hw_stays(struct pcie_dev *d, struct pcie_hw *hw, const char *why)
{
    plx_list_add_tail(&d->quiet, &hw->link);
    pcie_ctrl_reset(d, false, why);
}

static void hw_deleted(struct pcie_dev *d, struct pcie_op *op)
{
    if (op->lost || !op->status)
        hw_free(d, hw_of(op));
    else
        hw_stays(d, hw_of(op), "it does not delete a completion queue");
}

static void hw_sq_deleted(struct pcie_dev *d, struct pcie_op *op)
{
    struct pcie_hw *hw = hw_of(op);
    if (op->lost) {
        hw_free(d, hw);
    } else if (op->status) {
        hw_stays(d, hw, "it does not delete a submission queue");
    } else {
        hw_command(d, hw, hw_deleted, ADMIN_DELETE_CQ, 0, 0);
    }
}

/* A queue pair that is made needs an SQ, without which its CQ goes. */
static void sq_failed(struct pcie_dev *d, struct pcie_op *op)
{
    struct pcie_call *call = hw_of(op)->call;
    hw_deleted(d, op);
    answer(call);
}

static void sq_created(struct pcie_dev *d, struct pcie_op *op)
{
    struct pcie_hw *hw = hw_of(op);
    struct pcie_call *call = hw->call;
    if (!op->lost && !op->status) {
        call->hw = hw;
        answer(call);
    } else if (op->lost) {
        make_failed(d, hw, -EIO, "Create I/O Submission Queue");
    } else {
        call->ret = -EIO;
        snprintf(call->why, sizeof call->why, "Create I/O Submission Queue failed: %s (%03x)",
                 nvme_status_text(op->status, false), op->status & 0x7ff);
        hw_command(d, hw, sq_failed, ADMIN_DELETE_CQ, 0, 0);
    }
}

static void cq_created(struct pcie_dev *d, struct pcie_op *op)
{
    struct pcie_hw *hw = hw_of(op);
    if (op->lost || op->status)
        make_failed(d, hw, -EIO, "Create I/O Completion Queue");
    else
        hw_command(d, hw, sq_created, ADMIN_CREATE_SQ, hw->ring.cmb ? hw->cmb_iova : hw->ring.memory.iova,
                   QUEUE_CONTIGUOUS | (uint32_t)hw->call->priority << QUEUE_PRIORITY_SHIFT |
                       (uint32_t)hw->ring.qid << 16);
}

static unsigned free_qid(const struct pcie_dev *d)
{
    for (unsigned qid = 1; qid <= d->nqueues; qid++)
        if (!(d->used[qid / 64] >> qid % 64 & 1))
            return qid;
    return 0;
}

static volatile uint32_t *doorbell(const struct pcie_dev *d, unsigned index)
{
    return (volatile uint32_t *)(volatile void *)(d->f->regs + PCIE_DOORBELLS + index * (4u << (d->cap >> 32 & 15)));
}

/* Memory of the queues and of lists, doorbells, and a vector. @return 0 or -errno */
static int hw_setup(struct pcie_dev *d, struct pcie_hw *hw, const struct pcie_call *call)
{
    struct pcie_ring *r = &hw->ring;
    const size_t page = (size_t)NVME_PAGE << (d->cap >> 48 & 15);
    const uint64_t few = plx_min_u64(d->quirks.min_entries, (d->cap & 0xffff) + 1);
    const uint16_t entries = (uint16_t)plx_max_u64(call->entries, few);
    const size_t sq = plx_align_up(entries * sizeof *r->sq, page);
    const size_t cq = plx_align_up(entries * sizeof *r->cq, page);
    const uint32_t stride = 4u << (d->cap >> 32 & 15);
    int *fd = &d->fds[r->qid];
    if (*fd < 0)
        *fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (*fd < 0)
        return -errno;
    int ret = pci_memory_alloc(hw->dma, sq + cq + call->lists * (size_t)NVME_PAGE, page, &r->memory);
    if (ret)
        return ret;
    r->entries = entries;
    r->sq = (void *)r->memory.at;
    r->cq = (void *)(r->memory.at + sq);
    r->sq_db = doorbell(d, 2u * r->qid);
    r->cq_db = doorbell(d, 2u * r->qid + 1);
    if (d->shadow.at) {
        r->shadow = (void *)(d->shadow.at + 2u * r->qid * stride);
        r->event = (void *)(d->shadow.at + NVME_PAGE + 2u * r->qid * stride);
        r->shadow_step = stride;
        for (uint32_t k = 0; k < 2; k++) { /* the one that had this number before has left its own there */
            pci_store32((volatile uint8_t *)r->shadow + k * stride, 0);
            pci_store32((volatile uint8_t *)r->event + k * stride, 0);
        }
    }
    pcie_ring_init(r);
    if (call->cmb)
        pcie_cmb_take(d, hw);
    hw->fd = *fd;
    hw->no_sgl = d->quirks.no_sgl;
    hw->interrupts = r->qid < d->nvectors;
    if (hw->interrupts && d->f->msix)
        hw->mask = (void *)(d->f->msix + (size_t)r->qid * PCI_MSIX_ENTRY + PCI_MSIX_CONTROL);
    return 0;
}

static void serve_queue(struct pcie_dev *d, struct pcie_call *call)
{
    struct pcie_hw *hw;
    char why[100];
    const unsigned qid = free_qid(d);
    if (d->state != PCIE_READY || !call->from->member) {
        answer_failed(call, -ECONNRESET, "the controller was reset");
        return;
    }
    if (!qid) {
        snprintf(why, sizeof why, "all of its %u I/O queues are in use; give the disk fewer cores", d->nqueues);
        answer_failed(call, -ENOSPC, why);
        return;
    }
    hw = calloc(1, sizeof *hw);
    if (hw)
        hw->dma = pci_dma_get(d->f->iommu);
    if (!hw || !hw->dma) {
        free(hw);
        answer_failed(call, -ENOMEM, "out of memory");
        return;
    }
    plx_list_init(&hw->link);
    hw->dev = d;
    hw->call = call;
    hw->generation = d->generation;
    hw->ring.qid = (uint16_t)qid;
    d->used[qid / 64] |= UINT64_C(1) << qid % 64;
    int ret = hw_setup(d, hw, call);
    if (ret)
        make_failed(d, hw, ret, "no memory for an I/O queue");
    else
        hw_command(d, hw, cq_created, ADMIN_CREATE_CQ,
                   hw->ring.memory.iova + (uint64_t)((uint8_t *)hw->ring.cq - hw->ring.memory.at),
                   QUEUE_CONTIGUOUS | (hw->interrupts ? QUEUE_INTERRUPTS | (uint32_t)qid << 16 : 0));
}

static void hw_ended(struct plx_msg *msg)
{
    struct pcie_hw *hw = plx_container_of(msg, struct pcie_hw, msg);
    struct pcie_dev *d = hw->dev;
    if (hw->generation != d->generation || d->state == PCIE_CLOSED || d->state == PCIE_OPENED || d->state == PCIE_OFF) {
        hw_quiet(d, hw);
    } else if (hw->owner || hw->broken) {
        hw_stays(d, hw, hw->broken ? "it completed what it was not sent" : "commands have to be taken back");
    } else if (d->state == PCIE_READY) {
        hw_command(d, hw, hw_sq_deleted, ADMIN_DELETE_SQ, 0, 0);
    } else {
        plx_list_add_tail(&d->quiet, &hw->link);
    }
}

void pcie_hw_end(struct pcie_hw *hw)
{
    struct pcie_dev *d = hw->dev;
    hw->msg.fn = hw_ended;
    pthread_mutex_lock(&d->lock);
    const bool over = d->over;
    if (!over)
        plx_reactor_send(d->reactor, &hw->msg);
    pthread_mutex_unlock(&d->lock);
    if (!over)
        return;
    pci_memory_free(hw->dma, &hw->ring.memory); /* it was made for an association that did not live to have it */
    pci_dma_put(hw->dma);
    free(hw);
}

/* ---- calls ---- */

static void serve_call(struct plx_msg *msg)
{
    struct pcie_call *call = plx_container_of(msg, struct pcie_call, msg);
    struct pcie_dev *d = call->from->dev;
    switch ((enum pcie_what)call->what) {
    case PCIE_OPEN:
        serve_open(d, call);
        break;
    case PCIE_LEAVE:
        serve_leave(d, call);
        break;
    case PCIE_COMMAND:
        serve_command(d, call);
        break;
    case PCIE_QUEUE:
        serve_queue(d, call);
        break;
    }
}

void pcie_call(struct pcie_call *call)
{
    struct pcie_admin *a = call->from;
    pthread_mutex_lock(&a->dev->lock);
    a->out++;
    pthread_mutex_unlock(&a->dev->lock);
    call->msg.fn = serve_call;
    plx_reactor_send(a->dev->reactor, &call->msg);
}
