/* SPDX-License-Identifier: BSD-3-Clause */
#include "pcie_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PATIENCE = 10000 }; /* steps */

void rig_open(struct rig *r, const struct pcie_model_opts *opts)
{
    struct plx_error err;
    memset(r, 0, sizeof *r);
    r->m = pcie_model_new(opts);
    assert_int_equal(pcie_model_open(r->m->addr, &r->f, &err), 0);
    r->memory = mmap(NULL, RIG_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(r->memory != MAP_FAILED);
    r->f->iommu->ops->hold(r->f->iommu);
    assert_int_equal(r->f->iommu->ops->map(r->f->iommu, r->memory, RIG_BYTES, RIG_BASE), 0);
    for (unsigned i = 0; i < 4; i++)
        r->fds[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (r->f->vectors >= 4)
        assert_int_equal(r->f->ops->set_vectors(r->f, r->fds, 4), 0);
}

void rig_close(struct rig *r)
{
    struct pci_iommu *u = &r->m->iommu->is;
    if (r->f)
        r->f->ops->close(r->f);
    u->ops->unmap(u, RIG_BASE, RIG_BYTES);
    u->ops->release(u);
    assert_string_equal(pcie_model_complaint(r->m, 0), "");
    assert_int_equal(pcie_model_complaints(r->m), 0);
    assert_int_equal(r->m->iommu->nmaps, 0);
    pcie_model_free(r->m);
    munmap(r->memory, RIG_BYTES);
    for (unsigned i = 0; i < 4; i++)
        close(r->fds[i]);
}

void rig_complained(struct rig *r, const char *part)
{
    if (!strstr(pcie_model_complaint(r->m, 0), part))
        assert_string_equal(pcie_model_complaint(r->m, 0), part);
    assert_int_equal(pcie_model_complaints(r->m), 1);
    pcie_model_forgive(r->m);
}

uint32_t rig_get(struct rig *r, uint32_t offset)
{
    return __atomic_load_n((volatile uint32_t *)(volatile void *)(r->f->regs + offset), __ATOMIC_ACQUIRE);
}

void rig_put(struct rig *r, uint32_t offset, uint32_t value)
{
    __atomic_store_n((volatile uint32_t *)(volatile void *)(r->f->regs + offset), value, __ATOMIC_RELEASE);
}

static void rig_step(struct rig *r)
{
    if (r->m->threaded)
        usleep(50);
    else
        pcie_model_step(r->m);
}

bool rig_wait_csts(struct rig *r, uint32_t mask, uint32_t value)
{
    for (unsigned i = 0; i < PATIENCE; i++) {
        if ((rig_get(r, PM_CSTS) & mask) == value)
            return true;
        rig_step(r);
    }
    return false;
}

void rig_write_admin_registers(struct rig *r)
{
    memset(r->memory, 0, RIG_DATA);
    memset(r->q, 0, sizeof r->q);
    r->q[0] = (struct rig_queue){.phase = 1, .size = RIG_DEPTH, .sq = RIG_ASQ, .cq = RIG_ACQ};
    rig_put(r, PM_AQA, (RIG_DEPTH - 1) | (RIG_DEPTH - 1) << 16);
    rig_put(r, PM_ASQ, RIG_BASE + RIG_ASQ);
    rig_put(r, PM_ASQ + 4, 0);
    rig_put(r, PM_ACQ, RIG_BASE + RIG_ACQ);
    rig_put(r, PM_ACQ + 4, 0);
}

void rig_enable(struct rig *r)
{
    rig_write_admin_registers(r);
    rig_put(r, PM_CC, 0x00460001 | (uint32_t)r->m->o.mpsmin << 7);
    assert_true(rig_wait_csts(r, ~0u, PM_CSTS_RDY));
}

void rig_disable(struct rig *r)
{
    rig_put(r, PM_CC, rig_get(r, PM_CC) & ~(uint32_t)PM_CC_EN);
    assert_true(rig_wait_csts(r, ~0u, 0));
}

/* ---- commands ---- */

void rig_put_cmd(struct rig *r, unsigned qid, struct nvme_cmd cmd)
{
    struct rig_queue *q = &r->q[qid];
    cmd.cid = plx_put16(++r->cid);
    memcpy(r->memory + q->sq + (size_t)q->tail * sizeof cmd, &cmd, sizeof cmd);
    q->tail = (q->tail + 1) % q->size;
}

static uint32_t rig_bell(const struct rig *r, unsigned qid, unsigned cq)
{
    return PM_BELLS + (2 * qid + cq) * (4u << r->m->o.dstrd);
}

void rig_ring_sq(struct rig *r, unsigned qid)
{
    rig_put(r, rig_bell(r, qid, 0), r->q[qid].tail);
}

bool rig_take(struct rig *r, unsigned qid, struct nvme_cqe *cqe)
{
    struct rig_queue *q = &r->q[qid];
    uint8_t *at = r->memory + q->cq + (size_t)q->head * sizeof *cqe;
    const uint32_t last = __atomic_load_n((uint32_t *)(void *)(at + 12), __ATOMIC_ACQUIRE);
    if ((last >> 16 & 1) != q->phase)
        return false;
    memcpy(cqe, at, 12);
    memcpy((uint8_t *)cqe + 12, &last, 4);
    q->head = (q->head + 1) % q->size;
    if (q->head == 0)
        q->phase ^= 1;
    rig_put(r, rig_bell(r, qid, 1), q->head);
    return true;
}

uint16_t rig_status(const struct nvme_cqe *cqe)
{
    return plx_get16(cqe->status) >> 1;
}

uint16_t rig_do(struct rig *r, unsigned qid, struct nvme_cmd cmd, struct nvme_cqe *cqe)
{
    struct nvme_cqe mine;
    bool taken = false;
    if (!cqe)
        cqe = &mine;
    rig_put_cmd(r, qid, cmd);
    rig_ring_sq(r, qid);
    for (unsigned i = 0; i < PATIENCE && !taken; i++) {
        rig_step(r);
        taken = rig_take(r, qid, cqe);
    }
    assert_true(taken);
    assert_int_equal(plx_get16(cqe->cid), r->cid);
    assert_int_equal(plx_get16(cqe->sqid), qid);
    assert_int_equal(plx_get16(cqe->sqhd), r->q[qid].tail);
    return rig_status(cqe);
}

void rig_must(struct rig *r, unsigned qid, struct nvme_cmd cmd)
{
    assert_int_equal(rig_do(r, qid, cmd, NULL), 0);
}

struct nvme_cmd rig_cmd(struct rig *r, uint8_t opcode, uint32_t nsid, unsigned at, uint64_t bytes)
{
    const uint64_t page = UINT64_C(4096) << r->m->o.mpsmin, first = RIG_BASE + at;
    const uint64_t second = (first / page + 1) * page, end = first + bytes;
    uint64_t prp[2] = {htole64(first), htole64(second)};
    struct nvme_cmd cmd = {.opcode = opcode, .nsid = plx_put32(nsid)};
    if (end > second + page) {
        uint64_t *list = (uint64_t *)(void *)(r->memory + RIG_LIST);
        for (uint64_t p = second; p < end; p += page)
            *list++ = htole64(p);
        prp[1] = htole64(RIG_BASE + RIG_LIST);
    }
    memcpy(&cmd.sgl, prp, sizeof prp);
    return cmd;
}

struct nvme_cmd rig_io(struct rig *r, uint8_t opcode, uint64_t lba, unsigned blocks, unsigned at)
{
    struct nvme_cmd cmd = rig_cmd(r, opcode, 1, at, (uint64_t)blocks << r->m->ns[0].is.block_bits);
    cmd.cdw10 = plx_put32((uint32_t)lba);
    cmd.cdw11 = plx_put32(lba >> 32);
    cmd.cdw12 = plx_put32(blocks - 1);
    return cmd;
}

struct nvme_cmd rig_create(unsigned qid, bool cq, int vector)
{
    struct nvme_cmd cmd = {.opcode = cq ? PM_CREATE_CQ : PM_CREATE_SQ};
    cmd.sgl.address = plx_put64(RIG_BASE + RIG_QUEUES + qid * 0x2000u + cq * 0x1000u);
    cmd.cdw10 = plx_put32(qid | (RIG_DEPTH - 1) << 16);
    cmd.cdw11 = plx_put32(cq ? 1u | (vector >= 0) << 1 | (vector >= 0 ? (unsigned)vector : 0) << 16 : 1 | qid << 16);
    return cmd;
}

void rig_queues(struct rig *r, unsigned n)
{
    struct nvme_cmd cmd = {
        .opcode = PM_SET_FEATURES, .cdw10 = plx_put32(7), .cdw11 = plx_put32((n - 1) | (n - 1) << 16)};
    rig_must(r, 0, cmd);
    for (unsigned qid = 1; qid <= n; qid++) {
        rig_must(r, 0, rig_create(qid, true, (int)qid));
        rig_must(r, 0, rig_create(qid, false, -1));
        r->q[qid] = (struct rig_queue){
            .phase = 1, .size = RIG_DEPTH, .sq = RIG_QUEUES + qid * 0x2000u, .cq = RIG_QUEUES + qid * 0x2000u + 0x1000};
    }
}

void rig_up(struct rig *r, const struct pcie_model_opts *opts, unsigned n)
{
    rig_open(r, opts);
    rig_enable(r);
    rig_queues(r, n);
}

unsigned rig_irqs(struct rig *r, unsigned vector)
{
    eventfd_t n = 0;
    return eventfd_read(r->fds[vector], &n) == 0 ? (unsigned)n : 0;
}

void rig_pattern(struct rig *r, unsigned at, size_t bytes, unsigned seed)
{
    for (size_t i = 0; i < bytes; i++)
        r->memory[at + i] = (uint8_t)(seed + i * 7 + i / 256);
}
