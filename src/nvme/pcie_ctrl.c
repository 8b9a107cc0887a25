/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A controller over PCIe, on its device's thread: enabled and asked what it is, reset, shut down (Base 3.5, 3.6), and
 * its admin queue.
 */
#include "nvme/pcie_dev.h"

#include "base/log.h"
#include "base/text.h"
#include "reactor/eventfd.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/sysinfo.h>
#include <unistd.h>

enum {
    PROP_AQA = 0x24,
    PROP_ASQ = 0x28,
    PROP_ACQ = 0x30,
    PROP_CRTO = 0x68,
    CAP_AMS_WEIGHTED = 1 << 17,
    CC_AMS_WEIGHTED = 1,
    ARBITRATION_WEIGHTS = 0xffffff00,
    CAP_CRMS_SHIFT = 59, /* with controller ready with media */
    CC_SHN_NORMAL = 1 << NVME_CC_SHN_SHIFT,
    CC_SHN_MASK = 3 << NVME_CC_SHN_SHIFT,
    CTRATT_ELBAS = 1 << 15,
    BEHAVIOR_LBAFEE = 2, /* byte of Host Behavior Support: extended formats are known */
    OACS_DOORBELLS = 1 << 8,
    ADMIN_DOORBELL_BUFFER = 0x7c,
    SMART_EVENTS = 0x1f,
    NOTICES = 1 << 8 | 1 << 11, /* of namespaces and of ANA states */
    POLL_FAST_NS = 100000,      /* looking at CSTS, at first */
    POLL_SLOW_NS = 2000000,
    POLL_FAST_MS = 20,
    TO_UNIT_MS = 500,
    SHUTDOWN_MIN_MS = 5000,
    SHUTDOWN_MAX_MS = 60000,
    TICK_MS = 1000,
    ADMIN_TICKS = 30, /* an admin command takes no longer */
    PLACE_MASK = PCIE_ADMIN_DEPTH - 1,
    VECTORS_SPARE = 32,
    BUDGET = 32,
    ADMIN_ENTRIES = 64, /* of the admin queue, a page of commands: some (Microsoft's) take no part of one */
    SQES = 6,           /* of entries, as powers of two */
    CQES = 4,
    LOOK_NS = 200000,
    LOOK_SELDOM_NS = 50000000,
};

/* What is asked of a controller that is ready, in this order. */
enum step {
    STEP_IDENTIFY,
    STEP_BEHAVIOR,
    STEP_ARBITRATION,
    STEP_EVENTS,
    STEP_QUEUES,
    STEP_DOORBELLS,
    STEP_READY,
};

/* Its pages: the smallest that it knows, in which queues begin. */
static size_t ctrl_page(const struct pcie_dev *d)
{
    return (size_t)NVME_PAGE << (d->cap >> 48 & 15);
}

static bool is_there(const struct pcie_dev *d)
{
    return pci_get32(d->f, NVME_PROP_CSTS) != UINT32_MAX;
}

/* ---- admin commands ---- */

static bool takes_commands(const struct pcie_dev *d)
{
    return d->state == PCIE_READY || d->state == PCIE_STARTING;
}

static void put_op(struct pcie_dev *d, struct pcie_op *op)
{
    unsigned i = 0;
    while (d->places[i].op)
        i++;
    struct pcie_place *place = &d->places[i];
    struct nvme_cmd *sqe = &d->ring.sq[d->ring.tail];
    uint8_t *data = d->memory.at + 2 * ctrl_page(d) + (size_t)i * PCIE_ADMIN_DATA;
    place->op = op;
    place->tick = d->ticks;
    place->cid = (uint16_t)(place->cid + PCIE_ADMIN_DEPTH);
    d->nplaces++;
    *sqe = (struct nvme_cmd){.opcode = op->cmd.opcode, .cid = plx_put16(place->cid), .nsid = op->cmd.nsid};
    memcpy(&sqe->cdw10, &op->cmd.cdw10, sizeof op->cmd - offsetof(struct nvme_words, cdw10));
    uint64_t iova = op->iova;
    const bool copied = op->len && !op->guard.dma;
    if (copied)
        iova = d->memory.iova + (uint64_t)(data - d->memory.at);
    if (copied && !op->to_host)
        memcpy(data, op->data, op->len);
    sqe->sgl.address = plx_put64(iova); /* PRP entry 1 */
    if (op->guard.dma)
        pcie_guard_set(&op->guard, sqe);
    if (op->cmd.opcode == ADMIN_DOORBELL_BUFFER) {
        const plx_le64 second = plx_put64(iova + NVME_PAGE);
        memcpy((uint8_t *)&sqe->sgl + sizeof second, &second, sizeof second);
    }
    pcie_ring_step(&d->ring, &d->ring.tail);
    pcie_ring_submit(&d->ring);
    if (!d->nvectors)
        plx_timer_set(d->reactor, &d->look, LOOK_NS);
}

/* What cannot interrupt is polled, and seldom where all that is awaited is an event. */
static void look_due(struct plx_timer *t)
{
    struct pcie_dev *d = plx_container_of(t, struct pcie_dev, look);
    if (takes_commands(d) && !d->nvectors) /* the source is polled in this round */
        plx_timer_set(d->reactor, t, d->nplaces > 1 ? LOOK_NS : LOOK_SELDOM_NS);
}

static void op_over(struct pcie_dev *d, struct pcie_op *op, bool lost, uint16_t status)
{
    op->lost = lost;
    op->status = status;
    op->done(d, op);
}

void pcie_ctrl_send(struct pcie_dev *d, struct pcie_op *op)
{
    if (!takes_commands(d))
        op_over(d, op, true, PLX_SC_SUCCESS);
    else if (op->len > PCIE_ADMIN_DATA && !op->guard.dma)
        op_over(d, op, false, PLX_SC_INVALID_FIELD | NVME_STATUS_DNR);
    else if (d->nplaces == PCIE_ADMIN_DEPTH - 1)
        plx_list_add_tail(&d->line, &op->link);
    else
        put_op(d, op);
}

uint16_t pcie_ctrl_cid(const struct pcie_dev *d, const struct pcie_op *op)
{
    for (unsigned i = 0; i < PCIE_ADMIN_DEPTH; i++)
        if (d->places[i].op == op)
            return d->places[i].cid;
    return UINT16_MAX; /* it is not sent yet, or not any more */
}

static void take_answer(struct pcie_dev *d, struct pcie_seen seen)
{
    const uint16_t cid = (uint16_t)seen.last;
    struct pcie_place *place = &d->places[cid & PLACE_MASK];
    struct pcie_op *op = place->op;
    const uint16_t status = (uint16_t)(seen.last >> 17);
    const uint32_t dw0 = plx_get32(seen.cqe->dw0), dw1 = plx_get32(seen.cqe->dw1);
    pcie_ring_next(&d->ring);
    if (!op || place->cid != cid) {
        pcie_ctrl_reset(d, false, "it completed an admin command that it was not sent");
        return;
    }
    if (op->len && op->to_host && !status)
        memcpy(op->data,
               op->guard.dma ? op->guard.data
                             : d->memory.at + 2 * ctrl_page(d) + (size_t)(cid & PLACE_MASK) * PCIE_ADMIN_DATA,
               op->len);
    op->dw0 = dw0;
    op->dw1 = dw1;
    place->op = NULL;
    d->nplaces--;
    op_over(d, op, false, status);
}

static int admin_poll(struct plx_source *s)
{
    struct pcie_dev *d = plx_container_of(s, struct pcie_dev, source);
    struct pcie_seen seen;
    int n = 0;
    while (takes_commands(d) && n < BUDGET && pcie_ring_peek(&d->ring, &seen)) {
        take_answer(d, seen);
        n++;
    }
    if (!n || !takes_commands(d))
        return n;
    pcie_ring_return(&d->ring);
    while (!plx_list_empty(&d->line) && d->nplaces < PCIE_ADMIN_DEPTH - 1) {
        struct pcie_op *op = plx_list_entry(d->line.next, struct pcie_op, link);
        plx_list_del(&op->link);
        put_op(d, op);
    }
    return n;
}

/* The vector is never masked: what comes between this and the sleep is in the descriptor. */
static int admin_arm(struct plx_source *s)
{
    struct pcie_dev *d = plx_container_of(s, struct pcie_dev, source);
    if (!takes_commands(d))
        return 0;
    plx_eventfd_hear(d->fds[0]);
    return pcie_ring_waiting(&d->ring);
}

static const struct plx_source_ops admin_source = {.poll = admin_poll, .arm = admin_arm};

/* All that was sent comes back, as nobody will answer it any more. */
static void drop_ops(struct pcie_dev *d)
{
    for (unsigned i = 0; i < PCIE_ADMIN_DEPTH; i++) {
        struct pcie_op *op = d->places[i].op;
        if (!op)
            continue;
        d->places[i].op = NULL;
        d->nplaces--;
        op_over(d, op, true, PLX_SC_SUCCESS);
    }
    while (!plx_list_empty(&d->line)) {
        struct pcie_op *op = plx_list_entry(d->line.next, struct pcie_op, link);
        plx_list_del(&op->link);
        op_over(d, op, true, PLX_SC_SUCCESS);
    }
}

/* ---- the function ---- */

static void ctrl_close(struct pcie_dev *d)
{
    if (d->polled)
        plx_source_remove(d->reactor, &d->source);
    if (d->lost_watch.fd >= 0)
        plx_watch_remove(d->reactor, &d->lost_watch);
    d->polled = false;
    d->lost_watch.fd = -1;
    if (d->nvectors)
        d->f->ops->set_vectors(d->f, NULL, 0);
    pcie_cmb_end(d);
    if (d->guard)
        plx_guard_give(d->guard);
    d->guard = NULL;
    d->f->ops->close(d->f);
    d->f = NULL;
    if (d->dma) {
        pci_memory_free(d->dma, &d->memory);
        pci_memory_free(d->dma, &d->shadow);
        pci_dma_put(d->dma);
    }
    d->dma = NULL;
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(d->fds); i++) {
        if (d->fds[i] >= 0)
            close(d->fds[i]);
        d->fds[i] = -1;
    }
    d->nvectors = 0;
    d->state = PCIE_CLOSED;
}

static void function_lost(struct plx_watch *w)
{
    struct pcie_dev *d = plx_container_of(w, struct pcie_dev, lost_watch);
    plx_eventfd_hear(w->fd);
    pcie_ctrl_reset(d, true, "it is being removed, or has failed for good");
}

/* One for the admin queue, and one for each of as many I/O queues as there are likely to be. */
static int set_vectors(struct pcie_dev *d)
{
    const unsigned wanted = 1 + (unsigned)get_nprocs() + VECTORS_SPARE;
    const unsigned n = (unsigned)plx_min_u64(plx_min_u64(wanted, d->f->vectors), PCIE_QUEUES_MAX + 1);
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(d->fds); i++) {
        if (i > n && i) /* that many at first; others as they are asked for */
            break;
        d->fds[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (d->fds[i] < 0)
            return -errno;
    }
    if (!n)
        return 0;
    int ret = d->f->ops->set_vectors(d->f, d->fds, n);
    d->nvectors = ret ? 0 : n;
    return ret;
}

static int check_ctrlr(struct pcie_dev *d)
{
    const unsigned mpsmin = d->cap >> 48 & 15, stride = d->cap >> 32 & 15;
    if (d->cap == UINT64_MAX)
        return plx_fail(&d->err, -ENODEV, "it does not answer: its registers read as ones");
    if (!(d->cap >> NVME_CAP_CSS_NVM_SHIFT & 1) && !(d->cap >> NVME_CAP_CSS_ALL_SHIFT & 1))
        return plx_fail(&d->err, -ENOTSUP, "it has no NVM command set");
    if ((d->cap & 0xffff) < 2) /* MQES, of which one entry is always free */
        return plx_fail(&d->err, -ENOTSUP, "its queues hold %u commands; at least 2 are needed",
                        (unsigned)(d->cap & 0xffff));
    if (mpsmin > 4)
        return plx_fail(&d->err, -ENOTSUP, "it wants pages of at least %u KiB; up to 64 are possible", 4u << mpsmin);
    if (d->f->regs_bytes < PCIE_DOORBELLS + (UINT64_C(16) << stride))
        return plx_fail(&d->err, -ENOTSUP, "it has registers of %zu bytes, too few for an I/O queue", d->f->regs_bytes);
    return 0;
}

/* Opens its function, which resets it, and touches nothing yet. */
static int ctrl_open(struct pcie_dev *d)
{
    int ret = pci_open(d->addr, &d->f, &d->err);
    if (ret)
        return ret;
    d->lost_watch.fd = -1;
    d->quirks = pcie_quirks_of(d->f->vendor, d->f->device);
    d->guard = plx_guard_take((void *)(uintptr_t)d->f->regs, d->f->regs_bytes, true, &d->fault);
    if (!d->guard)
        ret = plx_fail(&d->err, -ENOMEM,
                       "%u mappings that may be taken away are in use, as many as there can be; use fewer disks",
                       (unsigned)PLX_GUARDS);
    if (!ret && d->f->lost_fd >= 0) {
        d->lost_watch = (struct plx_watch){.fd = d->f->lost_fd, .ready = function_lost};
        ret = plx_watch_add(d->reactor, &d->lost_watch);
        if (ret)
            plx_fail(&d->err, ret, "cannot set it up: %s", strerror(-ret));
        d->lost_watch.fd = ret ? -1 : d->f->lost_fd;
    }
    if (ret)
        ctrl_close(d);
    return ret;
}

/* Memory, vectors and the admin queue's source. */
static int ctrl_setup(struct pcie_dev *d)
{
    d->cap = pci_get64(d->f, NVME_PROP_CAP);
    d->vs = pci_get32(d->f, NVME_PROP_VS);
    int ret = check_ctrlr(d);
    if (ret)
        goto close;
    d->dma = pci_dma_get(d->f->iommu);
    ret = d->dma ? pci_memory_alloc(d->dma, 2 * ctrl_page(d) + PCIE_ADMIN_DEPTH * (size_t)PCIE_ADMIN_DATA, ctrl_page(d),
                                    &d->memory)
                 : -ENOMEM;
    if (!ret)
        ret = set_vectors(d);
    if (!ret) {
        d->source.ops = &admin_source;
        d->source.fd = d->fds[0];
        ret = plx_source_add(d->reactor, &d->source);
        d->polled = !ret;
    }
    if (!ret)
        return 0;
    plx_fail(&d->err, ret, "cannot set it up: %s%s", strerror(-ret),
             ret != -ENOMEM             ? ""
             : d->f->iommu->ops->locate ? "; without an IOMMU it takes huge pages: echo 64 >" PCI_HUGE_PAGES
                                        : "; perhaps this process may lock too little memory (ulimit -l)");
close:
    ctrl_close(d);
    return ret;
}

/* ---- enabling ---- */

/* Who waits is told when it is disabled again, or closed. */
static void ctrl_failed(struct pcie_dev *d)
{
    plx_timer_cancel(d->reactor, &d->poll);
    pcie_ctrl_reset(d, !is_there(d), d->err.text);
}

/* EN has just been changed. */
static void rest(struct pcie_dev *d)
{
    plx_timer_set(d->reactor, &d->poll, plx_max_u64(POLL_FAST_NS, d->quirks.rest_ms * PLX_NS_PER_MS));
}

static void set_deadline(struct pcie_dev *d, uint64_t ms)
{
    d->deadline = plx_reactor_now(d->reactor) + ms * PLX_NS_PER_MS;
}

static void poll_later(struct pcie_dev *d, uint64_t since_ms)
{
    plx_timer_set(d->reactor, &d->poll, since_ms < POLL_FAST_MS ? POLL_FAST_NS : POLL_SLOW_NS);
}

/* CAP.TO, or CRTO where that says more (Base 3.1.4.1, 3.1.4.20); one unit more, as both are rounded down at times. */
static uint64_t ready_ms(const struct pcie_dev *d)
{
    uint64_t units = d->cap >> 24 & 0xff;
    if (d->cap >> CAP_CRMS_SHIFT & 3 && d->f->regs_bytes > PROP_CRTO + 4)
        units = plx_max_u64(units, pci_get32(d->f, PROP_CRTO) & 0xffff);
    return (units + 1) * TO_UNIT_MS;
}

static void ctrl_enable(struct pcie_dev *d)
{
    const unsigned mps = d->cap >> 48 & 15;
    const bool all = d->cap >> NVME_CAP_CSS_ALL_SHIFT & 1; /* else the NVM command set: see check_ctrlr() */
    const bool weighted = d->arbitration & ARBITRATION_WEIGHTS && d->cap & CAP_AMS_WEIGHTED;
    const uint32_t entries = ADMIN_ENTRIES - 1, stride = 4u << (d->cap >> 32 & 15);
    if (d->arbitration & ARBITRATION_WEIGHTS && !weighted)
        plx_warn("%s: it has no weighted round robin: all queues are equal, and weights of no effect", d->addr);
    memset(d->memory.at, 0, 2 * ctrl_page(d));
    d->ring = (struct pcie_ring){.sq = (void *)d->memory.at,
                                 .cq = (void *)(d->memory.at + ctrl_page(d)),
                                 .sq_db = (void *)(d->f->regs + PCIE_DOORBELLS),
                                 .cq_db = (void *)(d->f->regs + PCIE_DOORBELLS + stride),
                                 .entries = ADMIN_ENTRIES};
    pcie_ring_init(&d->ring);
    pci_put32(d->f, PROP_AQA, entries | entries << 16);
    pci_put64(d->f, PROP_ASQ, d->memory.iova);
    pci_put64(d->f, PROP_ACQ, d->memory.iova + ctrl_page(d));
    pci_put32(d->f, NVME_PROP_CC,
              NVME_CC_EN | (all ? NVME_CC_CSS_ALL << NVME_CC_CSS_SHIFT : 0) | mps << NVME_CC_MPS_SHIFT |
                  (weighted ? CC_AMS_WEIGHTED << NVME_CC_AMS_SHIFT : 0) | (uint32_t)SQES << NVME_CC_IOSQES_SHIFT |
                  (uint32_t)CQES << NVME_CC_IOCQES_SHIFT);
    d->generation++;
    d->state = PCIE_STARTING;
    d->step = STEP_IDENTIFY;
    memset(d->used, 0, sizeof d->used);
    d->used[0] = 1; /* the admin queue */
    set_deadline(d, ready_ms(d) + d->quirks.rest_ms);
    rest(d);
}

/* What is granted is counted from zero, of each kind; of these, those whose doorbells are in what is mapped. */
static void take_queues(struct pcie_dev *d, uint32_t granted)
{
    const uint64_t pairs = (d->f->regs_bytes - PCIE_DOORBELLS) / (UINT64_C(8) << (d->cap >> 32 & 15));
    const uint64_t n = plx_min_u64(granted & 0xffff, granted >> 16) + 1;
    d->nqueues = (unsigned)plx_min_u64(PCIE_QUEUES_MAX, plx_min_u64(n, pairs - 1)); /* one is the admin queue's */
}

/* Entries as large as it needs: commands are 64 bytes, and their ends 16. @return whether it is content with that */
static bool takes_entries(struct pcie_dev *d)
{
    const unsigned sq = d->id.sqes & 15, cq = d->id.cqes & 15;
    if (sq <= SQES && cq <= CQES)
        return true;
    plx_fail(&d->err, -ENOTSUP, "it wants queues with entries of %u and %u bytes; 64 and 16 are possible", 1u << sq,
             1u << cq);
    return false;
}

static void start_step(struct pcie_dev *d);

static void ctrl_answered(struct pcie_dev *d, struct pcie_op *op)
{
    static const char *const needed[] = {
        [STEP_IDENTIFY] = "Identify Controller", [STEP_QUEUES] = "Set Features, Number of Queues", [STEP_READY] = NULL};
    if (op->lost)
        return;
    if (op->status && needed[d->step]) {
        plx_fail(&d->err, -EIO, "%s failed: %s (%03x)", needed[d->step], nvme_status_text(op->status, false),
                 op->status & 0x7ff);
        ctrl_failed(d);
        return;
    }
    if (d->step == STEP_IDENTIFY && !takes_entries(d)) {
        ctrl_failed(d);
        return;
    }
    if (d->step == STEP_QUEUES)
        take_queues(d, op->dw0);
    if (d->step == STEP_DOORBELLS && op->status)
        pci_memory_free(d->dma, &d->shadow);
    d->step++;
    start_step(d);
}

static void own_command(struct pcie_dev *d, uint8_t opcode, uint32_t cdw10, uint32_t cdw11)
{
    d->own = (struct pcie_op){.done = ctrl_answered,
                              .cmd = {.opcode = opcode, .cdw10 = plx_put32(cdw10), .cdw11 = plx_put32(cdw11)}};
    if (opcode == NVME_ADMIN_IDENTIFY) {
        d->own.data = (uint8_t *)&d->id;
        d->own.len = sizeof d->id;
        d->own.to_host = true;
    } else if (opcode == ADMIN_DOORBELL_BUFFER) {
        d->own.iova = d->shadow.iova;
    } else if (cdw10 == NVME_FEAT_HOST_BEHAVIOR) {
        d->own.data = d->behavior;
        d->own.len = sizeof d->behavior;
    }
    pcie_ctrl_send(d, &d->own);
}

/* They are a page, in which there has to be room for all queues, as far apart as the others. */
static bool want_doorbells(struct pcie_dev *d)
{
    const uint64_t bytes = (d->nqueues + UINT64_C(1)) * (8 << (d->cap >> 32 & 15));
    if (!(plx_get16(d->id.oacs) & OACS_DOORBELLS) || d->cap >> 48 & 15 || bytes > NVME_PAGE)
        return false;
    if (!d->shadow.at && pci_memory_alloc(d->dma, 2 * (size_t)NVME_PAGE, NVME_PAGE, &d->shadow))
        return false;
    memset(d->shadow.at, 0, 2 * (size_t)NVME_PAGE);
    return true;
}

static void ctrl_tick(struct plx_timer *t)
{
    struct pcie_dev *d = plx_container_of(t, struct pcie_dev, tick);
    plx_timer_set(d->reactor, t, TICK_MS * PLX_NS_PER_MS);
    d->ticks++;
    if (!takes_commands(d))
        return;
    const uint32_t csts = pci_get32(d->f, NVME_PROP_CSTS);
    if (csts == UINT32_MAX) {
        pcie_ctrl_reset(d, true, "it is gone: its registers read as ones");
        return;
    }
    if (csts & NVME_CSTS_CFS) {
        pcie_ctrl_reset(d, false, "it reports a fatal status");
        return;
    }
    if (d->state == PCIE_READY && !(csts & NVME_CSTS_RDY)) {
        pcie_ctrl_reset(d, false, "it is not ready any more: it was reset, or its power was cut");
        return;
    }
    for (unsigned i = 0; i < PCIE_ADMIN_DEPTH; i++) {
        const struct pcie_place *place = &d->places[i];
        if (place->op && place->op->cmd.opcode != NVME_ADMIN_ASYNC_EVENT && !place->op->forever &&
            (uint16_t)(d->ticks - place->tick) > ADMIN_TICKS) {
            pcie_ctrl_reset(d, false, "an admin command has not been answered in time");
            return;
        }
    }
}

static void ctrl_event(struct pcie_dev *d, struct pcie_op *op);

static void ask_for_event(struct pcie_dev *d)
{
    d->aer = (struct pcie_op){.done = ctrl_event, .cmd = {.opcode = NVME_ADMIN_ASYNC_EVENT}};
    pcie_ctrl_send(d, &d->aer);
}

static void ctrl_event(struct pcie_dev *d, struct pcie_op *op)
{
    if (op->lost || op->status)
        return;
    pcie_serve_event(d, op->dw0);
    ask_for_event(d);
}

static void start_step(struct pcie_dev *d)
{
    switch ((enum step)d->step) {
    case STEP_IDENTIFY:
        own_command(d, NVME_ADMIN_IDENTIFY, NVME_CNS_CTRL, 0);
        break;
    case STEP_BEHAVIOR: /* without which commands to namespaces with guards of 64 bits may be refused */
        d->behavior[BEHAVIOR_LBAFEE] = 1;
        if (plx_get32(d->id.ctratt) & CTRATT_ELBAS) {
            own_command(d, NVME_ADMIN_SET_FEATURES, NVME_FEAT_HOST_BEHAVIOR, 0);
            break;
        }
        d->step++;
        /* fall through */
    case STEP_ARBITRATION:
        if (d->arbitration) {
            own_command(d, NVME_ADMIN_SET_FEATURES, NVME_FEAT_ARBITRATION, d->arbitration);
            break;
        }
        d->step++;
        /* fall through */
    case STEP_EVENTS:
        own_command(d, NVME_ADMIN_SET_FEATURES, NVME_FEAT_ASYNC_EVENT,
                    (plx_get32(d->id.oaes) & NOTICES) | SMART_EVENTS);
        break;
    case STEP_QUEUES:
        own_command(d, NVME_ADMIN_SET_FEATURES, NVME_FEAT_NUMBER_OF_QUEUES,
                    (PCIE_QUEUES_MAX - 1) | (PCIE_QUEUES_MAX - 1) << 16);
        break;
    case STEP_DOORBELLS:
        if (want_doorbells(d)) {
            own_command(d, ADMIN_DOORBELL_BUFFER, 0, 0);
            break;
        }
        pci_memory_free(d->dma, &d->shadow);
        d->step++;
        /* fall through */
    case STEP_READY:
        d->state = PCIE_READY;
        ask_for_event(d);
        pcie_serve_ready(d);
        break;
    }
}

static void await_ready(struct pcie_dev *d)
{
    const uint32_t csts = pci_get32(d->f, NVME_PROP_CSTS);
    const uint64_t now = plx_reactor_now(d->reactor);
    if (csts == UINT32_MAX || csts & NVME_CSTS_CFS) {
        plx_fail(&d->err, -EIO, "%s",
                 csts == UINT32_MAX ? "it is gone" : "it reports a fatal status when it is enabled");
        ctrl_failed(d);
    } else if (csts & NVME_CSTS_RDY) {
        start_step(d);
    } else if (now >= d->deadline) {
        plx_fail(&d->err, -ETIMEDOUT, "it has not become ready within %llu ms", (unsigned long long)ready_ms(d));
        d->anew = true; /* if its power was cut, to open it is what it has its addresses again from */
        ctrl_failed(d);
    } else {
        poll_later(d, ready_ms(d) - (d->deadline - now) / PLX_NS_PER_MS);
    }
}

/* ---- disabling ---- */

static void disabled(struct pcie_dev *d)
{
    d->state = d->f ? PCIE_OFF : PCIE_CLOSED;
    drop_ops(d);
    pcie_serve_quiet(d);
    if (d->err.text[0] && !plx_list_empty(&d->opening))
        pcie_serve_failed(d, -EIO);
    else if (!plx_list_empty(&d->opening))
        pcie_ctrl_start(d);
    pcie_dev_ended(d);
}

/* It cannot be disabled, or is gone: what is closed reaches no memory. */
static void cut_off(struct pcie_dev *d)
{
    plx_timer_cancel(d->reactor, &d->poll);
    ctrl_close(d);
    disabled(d);
}

static void await_disabled(struct pcie_dev *d)
{
    const uint32_t csts = pci_get32(d->f, NVME_PROP_CSTS);
    if (csts == UINT32_MAX) {
        cut_off(d);
    } else if (!(csts & NVME_CSTS_RDY)) {
        if (d->anew)
            cut_off(d);
        else
            disabled(d);
    } else if (plx_reactor_now(d->reactor) < d->deadline) {
        poll_later(d, POLL_FAST_MS);
    } else if (!d->reset_tried) {
        plx_warn("%s: it cannot be disabled; its function is reset", d->addr);
        d->reset_tried = true;
        set_deadline(d, ready_ms(d) + d->quirks.open_ms);
        if (d->f->ops->reset(d->f))
            cut_off(d);
        else
            plx_timer_set(d->reactor, &d->poll, plx_max_u64(POLL_FAST_NS, d->quirks.open_ms * PLX_NS_PER_MS));
    } else {
        plx_error("%s: it cannot be reset; it is closed", d->addr);
        cut_off(d);
    }
}

static void ctrl_disable(struct pcie_dev *d)
{
    if (d->lost) {
        cut_off(d);
        return;
    }
    d->state = PCIE_DISABLING;
    d->reset_tried = false;
    pci_put32(d->f, NVME_PROP_CC, pci_get32(d->f, NVME_PROP_CC) & ~(uint32_t)(NVME_CC_EN | CC_SHN_MASK));
    set_deadline(d, ready_ms(d) + d->quirks.rest_ms);
    rest(d);
}

void pcie_ctrl_reset(struct pcie_dev *d, bool lost, const char *why)
{
    d->lost |= lost;
    if (d->state == PCIE_CLOSED || d->state == PCIE_STOPPING || d->state == PCIE_SHUTTING)
        return;
    if (d->state == PCIE_OPENED || d->state == PCIE_OFF || d->state == PCIE_DISABLING) {
        if (lost) /* whoever takes it out waits for that */
            cut_off(d);
        return;
    }
    if (d->state == PCIE_READY) {
        plx_warn("%s: %s: %s", d->addr, lost ? "it is given up" : "its controller is reset", why);
        d->err.text[0] = 0;
    }
    d->state = PCIE_STOPPING;
    plx_timer_cancel(d->reactor, &d->poll);
    plx_list_for_each(it, &d->members)
        pcie_serve_stop(d, plx_list_entry(it, struct pcie_admin, link), why);
    pcie_ctrl_left(d);
}

void pcie_ctrl_left(struct pcie_dev *d)
{
    if (d->state == PCIE_STOPPING && plx_list_empty(&d->members))
        ctrl_disable(d);
}

/* ---- the end ---- */

static void await_shut(struct pcie_dev *d)
{
    const uint32_t csts = pci_get32(d->f, NVME_PROP_CSTS);
    const bool over = csts == UINT32_MAX || (csts & NVME_CSTS_SHST_MASK) == NVME_CSTS_SHST_COMPLETE;
    if (!over && plx_reactor_now(d->reactor) < d->deadline) {
        poll_later(d, POLL_FAST_MS);
        return;
    }
    if (!over)
        plx_warn("%s: it has not shut down in time", d->addr);
    d->lost |= csts == UINT32_MAX;
    ctrl_disable(d);
}

void pcie_ctrl_end(struct pcie_dev *d)
{
    if (d->state == PCIE_OPENED || d->state == PCIE_OFF) {
        plx_timer_cancel(d->reactor, &d->poll);
        ctrl_close(d);
    } else if (d->state == PCIE_READY) {
        const uint64_t ms = plx_get32(d->id.rtd3e) / 1000;
        d->state = PCIE_SHUTTING;
        pci_put32(d->f, NVME_PROP_CC, pci_get32(d->f, NVME_PROP_CC) | CC_SHN_NORMAL);
        set_deadline(d, plx_min_u64(SHUTDOWN_MAX_MS, plx_max_u64(SHUTDOWN_MIN_MS, ms)));
        poll_later(d, 0);
    } else if (d->state == PCIE_STARTING) {
        pcie_ctrl_reset(d, false, "nobody waits for it any more");
    }
}

/* ---- the beginning ---- */

static void ctrl_begin(struct pcie_dev *d)
{
    const uint32_t cc = pci_get32(d->f, NVME_PROP_CC);
    if (cc & NVME_CC_EN || pci_get32(d->f, NVME_PROP_CSTS) & NVME_CSTS_RDY)
        ctrl_disable(d); /* as somebody left it; then it is enabled */
    else
        ctrl_enable(d);
}

static void opened(struct pcie_dev *d)
{
    int ret = ctrl_setup(d);
    if (ret)
        pcie_serve_failed(d, ret);
    else
        ctrl_begin(d);
}

static void poll_due(struct plx_timer *t)
{
    struct pcie_dev *d = plx_container_of(t, struct pcie_dev, poll);
    switch ((enum pcie_state)d->state) {
    case PCIE_OPENED:
        opened(d);
        break;
    case PCIE_STARTING:
        await_ready(d);
        break;
    case PCIE_DISABLING:
        await_disabled(d);
        break;
    case PCIE_SHUTTING:
        await_shut(d);
        break;
    case PCIE_CLOSED:
    case PCIE_OFF:
    case PCIE_READY:
    case PCIE_STOPPING:
        break;
    }
}

void pcie_ctrl_start(struct pcie_dev *d)
{
    if (d->state != PCIE_CLOSED && d->state != PCIE_OFF)
        return; /* it comes to that by itself */
    d->err.text[0] = 0;
    d->lost = d->anew = false;
    if (d->state == PCIE_OFF) {
        ctrl_begin(d);
        return;
    }
    int ret = ctrl_open(d);
    if (ret) {
        pcie_serve_failed(d, ret);
    } else if (d->quirks.open_ms) {
        d->state = PCIE_OPENED;
        plx_timer_set(d->reactor, &d->poll, d->quirks.open_ms * PLX_NS_PER_MS);
    } else {
        opened(d);
    }
}

void pcie_ctrl_init(struct pcie_dev *d)
{
    d->poll.fn = poll_due;
    d->tick.fn = ctrl_tick;
    d->look.fn = look_due;
    d->lost_watch.fd = -1;
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(d->fds); i++)
        d->fds[i] = -1;
    for (unsigned i = 0; i < PCIE_ADMIN_DEPTH; i++)
        d->places[i].cid = (uint16_t)i;
    plx_timer_set(d->reactor, &d->tick, TICK_MS * PLX_NS_PER_MS);
}
