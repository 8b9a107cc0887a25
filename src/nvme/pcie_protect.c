/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Commands to a namespace with metadata. Data and metadata of a command are in memory of the queue pair's, through
 * which they are copied: what guards are made of, and checked against, cannot change meanwhile, as the memory of
 * virtual machines does.
 */
#include "nvme/pcie.h"
#include "nvme/protect.h"

#include <errno.h>
#include <stdlib.h>

enum {
    SMALL_BYTES = 8192,
    LARGE_COUNT = 16,
    POOL_BYTES = 2 << 20, /* where there is no IOMMU, more is not in one piece */
};

/* Pieces of memory of one size. */
struct pcie_pool {
    struct pci_memory memory;
    uint32_t bytes;
    uint16_t count, nfree;
    uint16_t *free;
};

struct pcie_protect {
    struct nvme_protection is;
    struct pcie_pool pools[2]; /* for a few blocks, one for each command; for as many as there may be */
};

static int pool_make(struct pci_dma *dma, struct pcie_pool *pool, size_t bytes, unsigned most)
{
    pool->bytes = (uint32_t)plx_align_up(bytes, NVME_PAGE);
    const unsigned count = (unsigned)plx_min_u64(most, POOL_BYTES / pool->bytes);
    pool->free = calloc(count, sizeof *pool->free);
    int ret = pool->free ? pci_memory_alloc(dma, (size_t)pool->bytes * count, NVME_PAGE, &pool->memory) : -ENOMEM;
    for (pool->count = (uint16_t)count; !ret && pool->nfree < count; pool->nfree++)
        pool->free[pool->nfree] = pool->nfree;
    return ret;
}

int pcie_protect_begin(struct pcie_data *d, const struct nvme_ctrlr *c, unsigned depth)
{
    struct plx_error err;
    struct nvme_protection is;
    if (nvme_protection_of(&c->ns, &c->o, &is, &err) || !is.metadata)
        return 0; /* one that is not supported is nobody's disk */
    struct pcie_protect *p = d->protect = calloc(1, sizeof *p);
    if (!p)
        return -ENOMEM;
    p->is = is;
    if (!is.transfers)
        return 0;
    int ret = pool_make(d->dma, &p->pools[0], SMALL_BYTES, depth);
    if (!ret)
        ret = pool_make(d->dma, &p->pools[1],
                        nvme_protect_size(&is, (uint32_t)plx_max_u64(1, NVME_PROTECT_BYTES >> is.shift)),
                        (unsigned)plx_min_u64(depth, LARGE_COUNT));
    if (ret)
        pcie_protect_end(d);
    return ret;
}

void pcie_protect_end(struct pcie_data *d)
{
    for (unsigned i = 0; d->protect && i < PLX_ARRAY_SIZE(d->protect->pools); i++) {
        pci_memory_free(d->dma, &d->protect->pools[i].memory);
        free(d->protect->pools[i].free);
    }
    free(d->protect);
    d->protect = NULL;
}

/* ---- commands ---- */

static uint64_t slba_of(const struct nvme_req *req)
{
    return plx_get32(req->cmd.cdw10) | (uint64_t)plx_get32(req->cmd.cdw11) << 32;
}

static void set_protect_words(struct nvme_cmd *cmd, const struct nvme_req *req, const struct nvme_protect_words *w)
{
    cmd->cdw3 = plx_put32(w->cdw3);
    cmd->cdw12 = plx_put32(plx_get32(req->cmd.cdw12) | w->prinfo);
    cmd->cdw14 = plx_put32(w->cdw14);
    cmd->cdw15 = plx_put32(w->cdw15);
}

static struct pcie_pool *pool_of(struct pcie_protect *p, const struct pcie_slot *slot)
{
    return &p->pools[slot->bounce == PCIE_PROTECTED_LARGE];
}

static uint8_t *buffer_of(struct pcie_protect *p, const struct pcie_slot *slot)
{
    const struct pcie_pool *pool = pool_of(p, slot);
    return pool->memory.at + (size_t)slot->buffer * pool->bytes;
}

void pcie_protect_set_none(const struct pcie_data *d, const struct nvme_req *req, struct nvme_cmd *cmd)
{
    const bool verifies = req->cmd.opcode == NVME_IO_VERIFY;
    if (!verifies && req->cmd.opcode != NVME_IO_WRITE_ZEROES)
        return;
    const struct nvme_protect_words w =
        (verifies ? nvme_protect_verify : nvme_protect_zeroes)(&d->protect->is, slba_of(req));
    set_protect_words(cmd, req, &w);
}

int pcie_protect_set(struct pcie_data *d, struct pcie_slot *slot, const struct nvme_req *req, struct nvme_cmd *cmd)
{
    struct pcie_protect *p = d->protect;
    const bool transfer = req->cmd.opcode == NVME_IO_READ || req->cmd.opcode == NVME_IO_WRITE;
    cmd->cdw3 = plx_put32(0); /* as a command left them that was here before */
    cmd->mptr = plx_put64(0);
    if (transfer) {
        const struct nvme_protect_words w = nvme_protect_transfer(&p->is, slba_of(req));
        set_protect_words(cmd, req, &w);
    }
    if (!transfer || !p->is.transfers) {
        int ret = pcie_data_place(d, slot, req, cmd);
        d->last.bytes = 0; /* every command comes here */
        return ret;
    }
    const uint32_t nlb = req->len >> p->is.shift;
    const size_t bytes = nvme_protect_size(&p->is, nlb);
    const bool large = bytes > p->pools[0].bytes;
    struct pcie_pool *pool = &p->pools[large];
    if (!pool->nfree)
        return -EAGAIN;
    slot->buffer = pool->free[--pool->nfree];
    slot->bounce = large ? PCIE_PROTECTED_LARGE : PCIE_PROTECTED;
    const struct nvme_protect_memory m = nvme_protect_at(&p->is, buffer_of(p, slot), nlb);
    const uint64_t iova = pool->memory.iova + (uint64_t)(m.data - pool->memory.at);
    if (req->dir == NVME_FROM_HOST)
        nvme_protect_write(&p->is, &m, req->data, slba_of(req), nlb);
    if (!p->is.interleaved)
        cmd->mptr = plx_put64(iova + (uint64_t)(m.metadata - m.data));
    pcie_data_set_contiguous(d, slot, iova, p->is.interleaved ? (uint32_t)bytes : req->len, cmd);
    return 0;
}

void pcie_protect_done(struct pcie_data *d, struct pcie_slot *slot, bool ok)
{
    struct pcie_protect *p = d->protect;
    struct pcie_pool *pool = pool_of(p, slot);
    struct nvme_req *req = slot->req;
    if (ok && req->dir == NVME_TO_HOST) {
        const uint32_t nlb = req->len >> p->is.shift;
        const struct nvme_protect_memory m = nvme_protect_at(&p->is, buffer_of(p, slot), nlb);
        uint32_t bad = 0;
        req->status = nvme_protect_read(&p->is, &m, req->data, slba_of(req), nlb, &bad);
        req->dw0 = req->status ? bad + 1 : 0;
    }
    pool->free[pool->nfree++] = slot->buffer;
}
