/* SPDX-License-Identifier: BSD-3-Clause */
/* Queues: doorbells, fetching, completions, interrupts. Base 3.3.1, 4.1, 4.2; PCIe transport 3.3, 3.5 */
#include "pcie_model_impl.h"

#include <string.h>
#include <sys/eventfd.h>

struct pm_queue *pm_queue_start(struct pcie_model *m, unsigned qid, bool cq, uint64_t base, unsigned size)
{
    struct pm_queue *q = cq ? &m->cqs[qid] : &m->sqs[qid];
    *q = (struct pm_queue){.live = true, .qid = (uint16_t)qid, .size = (uint16_t)size, .base = base, .phase = 1};
    q->is_cq = cq;
    /* Of new queues every other one is looked at at once, and the others when they are told of. */
    q->asleep = m->dbbuf && m->count[0][PM_CREATE_SQ] & 1;
    q->bell = (uint32_t *)(void *)(m->bar + PM_BELLS + (2 * (size_t)qid + cq) * (4u << m->o.dstrd));
    return q;
}

struct pm_cmd *pm_cmd_new(struct pcie_model *m)
{
    struct pm_cmd *c = m->spare;
    if (c)
        m->spare = c->next;
    else if (m->npool < PM_COMMANDS)
        c = &m->pool[m->npool++];
    else
        return NULL;
    memset(c, 0, sizeof *c);
    *m->last = c;
    m->last = &c->next;
    return c;
}

/* ---- doorbells ---- */

static uint32_t *pm_shadow(struct pcie_model *m, const struct pm_queue *q, uint64_t base)
{
    return (uint32_t *)(void *)pm_at(m, base + (2 * (uint64_t)q->qid + q->is_cq) * (4u << m->o.dstrd), 4,
                                     "doorbell buffer");
}

/* Wants the doorbell in the registers from now on, unless the shadow has moved. @return whether it has not */
static bool pm_sleep(struct pcie_model *m, struct pm_queue *q, uint16_t is)
{
    uint32_t *shadow = pm_shadow(m, q, m->shadow), *event = pm_shadow(m, q, m->event_idx);
    if (!shadow || !event)
        return false;
    __atomic_store_n(event, is, __ATOMIC_RELEASE);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    q->asleep = __atomic_load_n(shadow, __ATOMIC_ACQUIRE) == is;
    return q->asleep;
}

/* @return where the host says that it is, or PM_BELL_NONE */
static uint32_t pm_told(struct pcie_model *m, struct pm_queue *q)
{
    uint32_t v = pm_bell_take(q->bell);
    /* The admin queue's doorbells are the ones in the registers, as hosts have it. */
    if (!m->dbbuf || q->qid == 0)
        return v;
    if (q->asleep && v == PM_BELL_NONE)
        return v;
    q->asleep = false;
    const uint32_t *shadow = pm_shadow(m, q, m->shadow);
    const uint32_t is = shadow ? __atomic_load_n(shadow, __ATOMIC_ACQUIRE) : PM_BELL_NONE;
    if (v == PM_BELL_NONE && is == (q->is_cq ? q->head : q->tail))
        return PM_BELL_NONE;
    return is;
}

static void pm_nonsense(struct pcie_model *m, const struct pm_queue *q, uint32_t v, const char *what)
{
    pm_complain(&m->complaints, "%s queue %u of %u entries, head %u, tail %u: doorbell %u %s",
                q->is_cq ? "completion" : "submission", q->qid, q->size, q->head, q->tail, v, what);
    pm_fatal(m);
}

static unsigned pm_look_at_bell(struct pcie_model *m, struct pm_queue *q)
{
    const uint32_t v = pm_told(m, q);
    if (v == PM_BELL_NONE)
        return 0;
    const unsigned used = (unsigned)(q->tail + q->size - q->head) % q->size;
    uint16_t *is = q->is_cq ? &q->head : &q->tail;
    const unsigned moved = (v + q->size - *is) % q->size;
    if (v >= q->size)
        pm_nonsense(m, q, v, "is beyond its end");
    else if (moved == 0 && !q->fast && (!m->dbbuf || q->qid == 0))
        pm_complain(&m->complaints, "queue %u: doorbell written with what it was, %u", q->qid, v);
    else if (q->is_cq && moved > used)
        pm_nonsense(m, q, v, "is beyond what is complete");
    else if (!q->is_cq && used + moved >= q->size)
        pm_nonsense(m, q, v, "overruns it");
    else
        *is = (uint16_t)v;
    return moved != 0;
}

static unsigned pm_look_at_bells(struct pcie_model *m)
{
    unsigned n = 0;
    for (unsigned i = 0; i <= m->o.queues; i++) {
        for (unsigned cq = 0; cq < 2; cq++) {
            struct pm_queue *q = cq ? &m->cqs[i] : &m->sqs[i];
            if (q->live) {
                n += pm_look_at_bell(m, q);
                continue;
            }
            uint32_t *bell = (uint32_t *)(void *)(m->bar + PM_BELLS + (2 * (size_t)i + cq) * (4u << m->o.dstrd));
            const uint32_t v = pm_bell_take(bell);
            if (v == PM_BELL_NONE)
                continue;
            pm_complain(&m->complaints, "%s queue %u: doorbell written (%u), and there is no such queue",
                        cq ? "completion" : "submission", i, v);
            pm_fatal(m);
        }
    }
    return n;
}

/* ---- fetching ---- */

static bool pm_cid_taken(struct pcie_model *m, unsigned sqid, unsigned cid)
{
    uint64_t *word = &m->cids[sqid][cid / 64], bit = UINT64_C(1) << cid % 64;
    bool was = *word & bit;
    *word |= bit;
    return was;
}

static struct pm_cmd *pm_fetch_one(struct pcie_model *m, struct pm_queue *sq)
{
    const uint8_t *at =
        pm_at(m, sq->base + (uint64_t)sq->head * sizeof(struct nvme_cmd), sizeof(struct nvme_cmd), "SQ");
    struct pm_cmd *c = at ? pm_cmd_new(m) : NULL;
    if (!c) {
        if (!at)
            pm_fatal(m);
        return NULL;
    }
    memcpy(&c->sqe, at, sizeof c->sqe);
    sq->head = (uint16_t)((sq->head + 1) % sq->size);
    c->sqid = sq->qid;
    c->cid = plx_get16(c->sqe.cid);
    c->due = m->steps + m->o.latency + (m->o.shuffle ? pm_random(&m->shuffle, m->o.shuffle + 1) : 0);
    m->count[sq->qid != 0][c->sqe.opcode]++;
    if (pm_cid_taken(m, sq->qid, c->cid)) {
        pm_complain(&m->complaints, "queue %u: command identifier %u is in use", sq->qid, c->cid);
        c->done = true;
        c->status = PLX_SC_COMMAND_ID_CONFLICT | NVME_STATUS_DNR;
    }
    return c;
}

/* The second of a fused operation comes with the first, right behind it: Base 3.4.2 */
static void pm_fetch_second(struct pcie_model *m, struct pm_queue *sq, struct pm_cmd *c)
{
    const unsigned fuse = c->sqe.flags & NVME_FUSE_MASK;
    struct pm_cmd *second;
    if (c->done || fuse == 0 || sq->qid == 0)
        return;
    if (fuse == NVME_FUSE_FIRST && sq->head != sq->tail) {
        const uint8_t *at = pm_at(m, sq->base + (uint64_t)sq->head * sizeof c->sqe, 2, "SQ");
        if (at && (at[1] & NVME_FUSE_MASK) == NVME_FUSE_SECOND && (second = pm_fetch_one(m, sq))) {
            c->pair = second;
            second->due = PM_NEVER;
            return;
        }
    }
    pm_complain(&m->complaints, "queue %u: a command is fused with none", sq->qid);
    c->done = true;
    c->status = PLX_SC_ABORTED_MISSING_FUSED;
}

static unsigned pm_fetch(struct pcie_model *m, struct pm_queue *sq)
{
    unsigned n = 0;
    for (struct pm_cmd *c; n < m->o.burst && sq->head != sq->tail && !m->halted; n++) {
        if (!(c = pm_fetch_one(m, sq)))
            break;
        pm_fetch_second(m, sq, c);
        if (!c->done)
            pm_fault_of(m, c);
        if (m->pulled)
            return n;
    }
    if (!m->dbbuf || sq->qid == 0 || sq->asleep)
        return n;
    sq->idle = n ? 0 : sq->idle + 1;
    return sq->idle <= PM_AWAKE ? n + 1 : n + !pm_sleep(m, sq, sq->tail);
}

/* ---- completing ---- */

void pm_run(struct pcie_model *m, struct pm_cmd *c)
{
    uint16_t status = c->kind == PCIE_MODEL_STATUS ? (uint16_t)(c->value & 0x7fff)
                      : c->sqid == 0               ? pm_admin(m, c)
                                                   : pm_io(m, c);
    if (status == PM_WAITS) {
        c->waits = true;
        c->due = PM_NEVER;
        return;
    }
    c->done = true;
    c->status = status;
    c->due = m->steps;
    if (status)
        pm_log_error(m, c);
    if (!c->pair || c->pair->done)
        return;
    if (!status) {
        pm_run(m, c->pair);
        return;
    }
    c->pair->done = true;
    c->pair->status = PLX_SC_ABORTED_FAILED_FUSED;
    c->pair->due = m->steps;
}

static void pm_put_cqe(struct pcie_model *m, struct pm_queue *cq, const struct nvme_cqe *cqe, bool quiet)
{
    uint8_t *at = pm_at(m, cq->base + (uint64_t)cq->tail * sizeof *cqe, sizeof *cqe, "CQ");
    uint32_t last;
    if (!at) {
        pm_fatal(m);
        return;
    }
    memcpy(at, cqe, 12);
    memcpy(&last, (const uint8_t *)cqe + 12, 4);
    __atomic_store_n((uint32_t *)(void *)(at + 12), last, __ATOMIC_RELEASE);
    cq->tail = (uint16_t)((cq->tail + 1) % cq->size);
    if (cq->tail == 0)
        cq->phase ^= 1;
    if (cq->armed && !quiet)
        m->raise[cq->vector] = true;
}

/* One more answer to a command. */
static void pm_again(struct pcie_model *m, const struct pm_cmd *c, uint16_t cid, uint32_t delay)
{
    struct pm_cmd *more = pm_cmd_new(m);
    if (!more)
        return;
    more->sqid = c->sqid;
    more->cid = cid;
    more->status = c->status;
    more->dw0 = c->dw0;
    more->dw1 = c->dw1;
    more->done = more->extra = true;
    more->due = m->steps + delay;
}

/* @return whether it is answered, and over */
static bool pm_answer(struct pcie_model *m, struct pm_cmd *c)
{
    struct pm_queue *sq = &m->sqs[c->sqid], *cq = &m->cqs[sq->cqid];
    uint16_t cid = c->cid, sqid = c->sqid, sqhd = sq->head;
    if (c->gone || !sq->live || c->kind == PCIE_MODEL_LOSE)
        return true;
    if (pm_full(cq)) {
        if (m->dbbuf && cq->qid && !cq->asleep)
            pm_sleep(m, cq, cq->head);
        return false;
    }
    const uint32_t value = c->value;
    const uint16_t other = (uint16_t)(cid ^ (value ? value : 0x8000));
    if (c->kind == PCIE_MODEL_BOGUS_CID)
        cid = other;
    else if (c->kind == PCIE_MODEL_BAD_SQID)
        sqid = (uint16_t)(sqid + (value ? value : 1));
    else if (c->kind == PCIE_MODEL_BAD_SQHD)
        sqhd = (uint16_t)(sqhd + (value ? value : sq->size));
    else if (!c->extra)
        m->cids[c->sqid][cid / 64] &= ~(UINT64_C(1) << cid % 64);
    const struct nvme_cqe cqe = {.dw0 = plx_put32(c->dw0),
                                 .dw1 = plx_put32(c->dw1),
                                 .sqhd = plx_put16(sqhd),
                                 .sqid = plx_put16(sqid),
                                 .cid = plx_put16(cid),
                                 .status = plx_put16((unsigned)c->status << 1 | cq->phase)};
    pm_put_cqe(m, cq, &cqe, c->kind == PCIE_MODEL_LOSE_IRQ);
    if (c->kind == PCIE_MODEL_TWICE)
        pm_again(m, c, cid, value);
    else if (c->kind == PCIE_MODEL_GHOST)
        pm_again(m, c, other, 0);
    return true;
}

/* A submission queue is deleted: what it has is over, and answered as far as there is room. Base 3.7.3 */
void pm_queue_end(struct pcie_model *m, struct pm_queue *sq)
{
    for (struct pm_cmd *c = m->first; c; c = c->next) {
        if (c->sqid != sq->qid || c->gone)
            continue;
        if (!c->done)
            c->status = PLX_SC_ABORTED_SQ_DELETION;
        pm_answer(m, c);
        c->gone = true;
    }
    sq->live = false;
    memset(m->cids[sq->qid], 0, sizeof m->cids[0]);
}

static unsigned pm_run_commands(struct pcie_model *m)
{
    unsigned n = 0, waits = 0;
    for (struct pm_cmd **at = &m->first, *c; (c = *at) && !m->halted;) {
        if (!c->done && !c->gone && c->due <= m->steps) {
            pm_run(m, c);
            n++;
        }
        if (c->gone || (c->done && c->due <= m->steps && pm_answer(m, c))) {
            *at = c->next;
            if (!*at)
                m->last = at;
            c->next = m->spare;
            m->spare = c;
            n++;
            continue;
        }
        waits |= c->due != PM_NEVER && c->due > m->steps;
        at = &c->next;
    }
    return n + waits;
}

unsigned pm_run_queues(struct pcie_model *m)
{
    if (m->halted) /* its host may not know yet */
        return 0;
    unsigned n = pm_look_at_bells(m);
    for (unsigned i = 0; i <= m->o.queues && !m->pulled; i++)
        if (m->sqs[i].live)
            n += pm_fetch(m, &m->sqs[i]);
    if (m->pulled || m->halted)
        return n;
    pm_events(m);
    return n + pm_run_commands(m);
}

/* ---- interrupts: PCIe 6.1.4 ---- */

static bool pm_vector_idle(const struct pcie_model *m, unsigned vector)
{
    for (unsigned i = 0; i <= m->o.queues; i++) {
        const struct pm_queue *cq = &m->cqs[i];
        if (cq->live && cq->armed && cq->vector == vector && cq->head != cq->tail)
            return false;
    }
    return true;
}

unsigned pm_send_interrupts(struct pcie_model *m)
{
    unsigned n = 0;
    for (unsigned v = 0; v < m->nfds; v++) {
        if (!m->raise[v] && !m->pending[v])
            continue;
        const uint8_t *control = m->msix + v * PCI_MSIX_ENTRY + PCI_MSIX_CONTROL;
        const bool raised = m->raise[v];
        m->raise[v] = false;
        if (__atomic_load_n((const uint32_t *)(const void *)control, __ATOMIC_ACQUIRE) & PCI_MSIX_MASKED) {
            /* What has been seen to meanwhile is no longer pending. */
            m->pending[v] = raised || !pm_vector_idle(m, v);
            continue;
        }
        m->pending[v] = false;
        eventfd_write(m->fds[v], 1);
        m->irqs++;
        n++;
    }
    return n;
}

/* ---- as fast as can be ---- */

static bool pm_find_entries(struct pcie_model *m, struct pm_queue *q, unsigned entry)
{
    if (q->at && q->unmaps == m->iommu->unmaps)
        return true;
    pthread_mutex_lock(&m->iommu->lock);
    q->at = pm_at(m, q->base, (size_t)q->size * entry, "queue, in one piece");
    q->unmaps = m->iommu->unmaps;
    q->fast = true;
    pthread_mutex_unlock(&m->iommu->lock);
    return q->at;
}

unsigned pcie_model_complete_all(struct pcie_model *m, unsigned qid)
{
    struct pm_queue *sq = &m->sqs[qid], *cq = &m->cqs[sq->cqid];
    if (plx_unlikely(!sq->live || !pm_find_entries(m, sq, sizeof(struct nvme_cmd)) ||
                     !pm_find_entries(m, cq, sizeof(struct nvme_cqe))))
        return 0;
    const uint32_t tail = __atomic_load_n(sq->bell, __ATOMIC_ACQUIRE);
    if (tail == sq->head || tail == PM_BELL_NONE)
        return 0;
    const uint32_t freed = __atomic_load_n(cq->bell, __ATOMIC_ACQUIRE);
    if (freed != PM_BELL_NONE)
        cq->head = (uint16_t)freed;
    /* What the loop needs is at hand: it is counted by instructions. */
    const struct nvme_cmd *sqes = (const void *)sq->at, *sqe = sqes + sq->head, *sq_end = sqes + sq->size;
    struct nvme_cqe *cqes = (void *)cq->at, *cqe = cqes + cq->tail, *cq_end = cqes + cq->size;
    const unsigned ready = tail + (tail < sq->head ? sq->size : 0) - sq->head;
    const unsigned room = cq->head + (cq->head <= cq->tail ? cq->size : 0) - cq->tail - 1u;
    const unsigned n = ready < room ? ready : room;
    uint64_t head = sq->head | (uint64_t)qid << 16 | (uint64_t)cq->phase << 48; /* the upper half of an entry */
    for (unsigned i = 0; i < n; i++) {
        const uint64_t cid = (uint64_t)plx_get16(sqe->cid) << 32;
        head++;
        if (plx_unlikely(++sqe == sq_end)) {
            sqe = sqes;
            head -= sq->size;
        }
        memset(cqe, 0, 8);
        __atomic_store_n((uint64_t *)(void *)&cqe->sqhd, htole64(head | cid), __ATOMIC_RELEASE);
        if (plx_unlikely(++cqe == cq_end)) {
            cqe = cqes;
            head ^= UINT64_C(1) << 48;
        }
    }
    sq->head = (uint16_t)(sqe - sqes);
    sq->tail = (uint16_t)tail;
    cq->tail = (uint16_t)(cqe - cqes);
    cq->phase = head >> 48 & 1;
    if (cq->armed && n) {
        m->raise[cq->vector] = true;
        pm_send_interrupts(m);
    }
    return n;
}
