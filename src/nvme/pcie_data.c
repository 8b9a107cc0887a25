/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Where a command's data is: PRPs (Base 4.3.1) where its pieces are such, else SGLs (Base 4.3.2) where the controller
 * takes them, else a copy. Data in memory that the device does not reach is always copied.
 */
#include "nvme/pcie.h"

#include <errno.h>

enum {
    DWORD_MASK = 3, /* of addresses, in PRPs */
    SGL_DATA_BLOCK = 0x00,
    SGL_LAST_SEGMENT = 0x30,
};

/* @return whether the device reaches it, and by which address */
static bool address_of(struct pcie_data *d, const void *at, size_t bytes, uint64_t *iova)
{
    d->table = pci_table_renew(d->dma, d->table);
    const struct pci_span *s = pci_table_find(d->table, at, bytes);
    if (!s)
        return false;
    d->last = *s;
    d->known = d->table->version;
    *iova = s->iova + ((uintptr_t)at - s->at);
    return true;
}

/* One contiguous piece. */
static inline void set_contiguous(const struct pcie_data *d, struct pcie_slot *slot, uint64_t iova, uint32_t len,
                                  struct nvme_cmd *cmd)
{
    const uint32_t page = d->page, offset = (uint32_t)iova & (page - 1);
    uint64_t next = iova - offset + page;
    if (offset + len <= page) {
        pcie_set_prps(cmd, iova, 0);
    } else if (offset + len <= 2 * page) {
        pcie_set_prps(cmd, iova, next);
    } else {
        plx_le64 *list = (void *)slot->list;
        for (uint32_t left = offset + len - page, i = 0;; i++, next += page, left -= page) {
            list[i] = plx_put64(next);
            if (left <= page)
                break;
        }
        pcie_set_prps(cmd, iova, slot->list_iova);
    }
}

/* Several pieces, as PRPs: all but the first begin with a page, and all but the last end with one. */
static bool set_pieces(struct pcie_data *d, struct pcie_slot *slot, const struct nvme_req *req, struct nvme_cmd *cmd)
{
    struct plx_iov_at at = req->data;
    plx_le64 *list = (void *)slot->list;
    uint64_t iova, first = 0;
    unsigned n = 0;
    for (uint32_t left = req->len; left;) {
        uint8_t *p;
        uint32_t len = (uint32_t)plx_iov_next(&at, left, &p);
        if (!address_of(d, p, len, &iova) || iova & DWORD_MASK)
            return false;
        const bool begins = left == req->len;
        uint32_t offset = (uint32_t)iova & (d->page - 1);
        left -= len;
        if ((!begins && offset) || (left && ((offset + len) & (d->page - 1))))
            return false;
        if (begins) {
            first = iova;
            const uint32_t head = (uint32_t)plx_min_u64(len, d->page - offset);
            iova += head;
            len -= head;
        }
        for (; len; iova += d->page, len -= (uint32_t)plx_min_u64(len, d->page))
            list[n++] = plx_put64(iova);
    }
    pcie_set_prps(cmd, first, !n ? 0 : n == 1 ? plx_get64(list[0]) : slot->list_iova);
    return true;
}

static struct nvme_sgl sgl_of(uint64_t iova, uint32_t len, uint8_t type)
{
    return (struct nvme_sgl){.address = plx_put64(iova), .length = plx_put32(len), .type = type};
}

/* Pieces that lie as they like. */
static bool set_sgl(struct pcie_data *d, struct pcie_slot *slot, const struct nvme_req *req, struct nvme_cmd *cmd)
{
    struct plx_iov_at at = req->data;
    struct nvme_sgl *list = (void *)slot->list;
    unsigned n = 0;
    for (uint32_t left = req->len; left;) {
        uint64_t iova;
        uint8_t *p;
        const uint32_t len = (uint32_t)plx_iov_next(&at, left, &p);
        if (n == NVME_PAGE / sizeof *list || !address_of(d, p, len, &iova) || (iova | len) & d->sgl_align_mask)
            return false;
        list[n++] = sgl_of(iova, len, SGL_DATA_BLOCK);
        left -= len;
    }
    cmd->flags |= NVME_PSDT_SGL;
    cmd->sgl = n == 1 ? list[0] : sgl_of(slot->list_iova, n * (uint32_t)sizeof *list, SGL_LAST_SEGMENT);
    return true;
}

/* ---- of unknown length ---- */

/*
 * A transfer of up to two pages would have no list, and what follows them would be taken for one: it is moved to where
 * it is in three. (That of a page and 4 bytes cannot.)
 */
static size_t guard_offset(uint32_t len, size_t page)
{
    const size_t offset = plx_align_up(2 * page + 1 - plx_min_u64(len, 2 * page), 4);
    return len > page && len <= 2 * page && offset < page ? offset : 0;
}

int pcie_guard_make(struct pcie_guard *g, struct pci_dma *dma, uint32_t len, size_t page)
{
    const size_t offset = guard_offset(len, page), bytes = plx_align_up(plx_max_u64(offset + len, 1), page);
    const size_t entries = page / sizeof(plx_le64), pages = bytes / page;
    int ret = pages > entries - 2 ? -E2BIG : pci_memory_alloc(dma, 2 * page + bytes, page, &g->memory);
    if (ret)
        return ret;
    g->dma = dma;
    g->data = g->memory.at + 2 * page + offset;
    g->spare = g->memory.iova + page;
    g->first = g->memory.iova + 2 * page + offset;
    g->list = pages == 2 ? g->first - offset + page : g->memory.iova;
    plx_le64 *list = (void *)g->memory.at;
    for (size_t i = 0; i < entries - 1; i++)
        list[i] = plx_put64(i + 1 < pages ? g->memory.iova + (3 + i) * page : g->spare);
    list[entries - 1] = plx_put64(g->memory.iova); /* where a list goes on, it does so from its beginning */
    return 0;
}

void pcie_guard_free(struct pcie_guard *g)
{
    if (g->dma)
        pci_memory_free(g->dma, &g->memory);
    g->dma = NULL;
}

static int set_guarded(struct pcie_data *d, struct pcie_slot *slot, const struct nvme_req *req, struct nvme_cmd *cmd)
{
    int ret = d->guard.dma ? -EAGAIN : pcie_guard_make(&d->guard, d->dma, req->len, d->page);
    if (ret)
        return ret;
    slot->bounce = PCIE_GUARDED;
    if (req->dir == NVME_FROM_HOST) {
        struct plx_iov_at at = req->data;
        plx_iov_gather(&at, d->guard.data, req->len);
    }
    pcie_guard_set(&d->guard, cmd);
    return 0;
}

/* ---- copied ---- */

static int take_bounce(struct pcie_data *d, struct pcie_slot *slot)
{
    int ret =
        d->bounce.at ? 0 : pci_memory_alloc(d->dma, (size_t)PCIE_BOUNCES * NVME_MAX_TRANSFER, d->page, &d->bounce);
    if (ret)
        return ret;
    for (int8_t i = 0; i < PCIE_BOUNCES; i++) {
        if (!d->bounces[i]) {
            d->bounces[i] = true;
            slot->bounce = i;
            return 0;
        }
    }
    return -EAGAIN;
}

static uint8_t *bounce_at(const struct pcie_data *d, const struct pcie_slot *slot)
{
    return slot->bounce == PCIE_OWN_PAGE  ? slot->list
           : slot->bounce == PCIE_GUARDED ? d->guard.data
                                          : d->bounce.at + (size_t)slot->bounce * NVME_MAX_TRANSFER;
}

static int set_copied(struct pcie_data *d, struct pcie_slot *slot, const struct nvme_req *req, struct nvme_cmd *cmd)
{
    uint64_t iova = slot->list_iova;
    if (req->len <= NVME_PAGE) {
        slot->bounce = PCIE_OWN_PAGE; /* of which no list is needed */
    } else {
        int ret = take_bounce(d, slot);
        if (ret)
            return ret;
        iova = d->bounce.iova + (uint64_t)slot->bounce * NVME_MAX_TRANSFER;
    }
    if (req->dir == NVME_FROM_HOST) {
        struct plx_iov_at at = req->data;
        plx_iov_gather(&at, bounce_at(d, slot), req->len);
    }
    set_contiguous(d, slot, iova, req->len, cmd);
    return 0;
}

/* ---- */

int pcie_data_place(struct pcie_data *d, struct pcie_slot *slot, const struct nvme_req *req, struct nvme_cmd *cmd)
{
    const struct plx_iov_at *at = &req->data;
    uint64_t iova;
    if (plx_likely(at->iov->iov_len - at->offset >= req->len)) {
        const void *p = (const uint8_t *)at->iov->iov_base + at->offset;
        if (plx_likely(address_of(d, p, req->len, &iova) && !(iova & DWORD_MASK))) {
            set_contiguous(d, slot, iova, req->len, cmd);
            return 0;
        }
    } else if (set_pieces(d, slot, req, cmd)) {
        return 0;
    }
    if (d->sgl && set_sgl(d, slot, req, cmd))
        return 0;
    return set_copied(d, slot, req, cmd);
}

/* What commands before it had between, in the same entry of the queue. */
static void set_none(const struct pcie_data *d, const struct nvme_req *req, struct nvme_cmd *cmd)
{
    memset(&cmd->cdw2, 0, offsetof(struct nvme_cmd, cdw10) - offsetof(struct nvme_cmd, cdw2));
    if (d->protect)
        pcie_protect_set_none(d, req, cmd);
}

int pcie_data_set(struct pcie_data *d, struct pcie_slot *slot, const struct nvme_req *req, struct nvme_cmd *cmd)
{
    if (plx_unlikely(req->forever == NVME_RAW))
        return set_guarded(d, slot, req, cmd);
    if (plx_unlikely(!req->len)) {
        set_none(d, req, cmd);
        return 0;
    }
    return plx_unlikely(d->protect) ? pcie_protect_set(d, slot, req, cmd) : pcie_data_place(d, slot, req, cmd);
}

void pcie_data_set_contiguous(const struct pcie_data *d, struct pcie_slot *slot, uint64_t iova, uint32_t len,
                              struct nvme_cmd *cmd)
{
    set_contiguous(d, slot, iova, len, cmd);
}

void pcie_data_done(struct pcie_data *d, struct pcie_slot *slot, bool ok)
{
    const struct nvme_req *req = slot->req;
    if (slot->bounce <= PCIE_PROTECTED) {
        pcie_protect_done(d, slot, ok);
        slot->bounce = PCIE_DIRECT;
        return;
    }
    if (ok && req->dir == NVME_TO_HOST) {
        struct plx_iov_at at = req->data;
        plx_iov_scatter(&at, bounce_at(d, slot), req->len);
    }
    if (slot->bounce >= 0)
        d->bounces[slot->bounce] = false;
    else if (slot->bounce == PCIE_GUARDED)
        pcie_guard_free(&d->guard);
    slot->bounce = PCIE_DIRECT;
}

void pcie_data_end(struct pcie_data *d)
{
    pcie_protect_end(d);
    if (d->dma)
        pci_memory_free(d->dma, &d->bounce);
    pcie_guard_free(&d->guard);
    pci_table_put(d->table);
    d->table = NULL;
    d->dma = NULL;
}
