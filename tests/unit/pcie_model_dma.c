/* SPDX-License-Identifier: BSD-3-Clause */
/* Addresses: what is mapped, and where the data of a command is. Base 4.3.1 (PRP), 4.3.2 (SGL) */
#include "pcie_model_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SGL_DATA = 0x0, SGL_SEGMENT = 0x2, SGL_LAST_SEGMENT = 0x3, SGLS_DWORD = 0x2, SGLS_LONGER = 1 << 18 };

/* ---- what is mapped ---- */

/* The first map that ends beyond an address. */
static unsigned pm_map_at(const struct pcie_model_iommu *u, uint64_t iova)
{
    unsigned low = 0, high = u->nmaps;
    while (low < high) {
        const unsigned middle = (low + high) / 2;
        if (u->maps[middle].iova + (u->maps[middle].bytes - 1) < iova)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool pm_in_range(const struct pci_iommu *is, uint64_t iova, size_t bytes)
{
    for (unsigned i = 0; i < is->nranges; i++)
        if (iova >= is->ranges[i].first && iova <= is->ranges[i].last && bytes - 1 <= is->ranges[i].last - iova)
            return true;
    return false;
}

static int pm_map_insert(struct pcie_model_iommu *u, void *at, size_t bytes, uint64_t iova)
{
    const unsigned i = pm_map_at(u, iova);
    if (i < u->nmaps && u->maps[i].iova <= iova + (bytes - 1))
        return -EEXIST;
    if (u->max_maps && u->nmaps >= u->max_maps)
        return -ENOSPC;
    if (u->fail_next) {
        u->fail_next--;
        return -ENOMEM;
    }
    if (u->limit && u->bytes + bytes > u->limit)
        return -ENOMEM;
    if (u->nmaps == u->capacity) {
        struct pcie_model_map *more = realloc(u->maps, (u->capacity * 2 + 16) * sizeof *more);
        if (!more)
            return -ENOMEM;
        u->maps = more;
        u->capacity = u->capacity * 2 + 16;
    }
    memmove(&u->maps[i + 1], &u->maps[i], (u->nmaps - i) * sizeof *u->maps);
    u->maps[i] = (struct pcie_model_map){iova, bytes, at};
    u->nmaps++;
    u->bytes += bytes;
    return 0;
}

static int pm_map(struct pci_iommu *is, void *at, size_t bytes, uint64_t iova)
{
    struct pcie_model_iommu *u = plx_container_of(is, struct pcie_model_iommu, is);
    int r = -EINVAL;
    pthread_mutex_lock(&u->lock);
    if (bytes && ((uintptr_t)at | bytes | iova) % is->page == 0 && pm_in_range(is, iova, bytes))
        r = pm_map_insert(u, at, bytes, iova);
    if (r == -EINVAL || r == -EEXIST)
        pm_complain(&u->complaints, "map of 0x%zx bytes at 0x%llx: %s", bytes, (unsigned long long)iova,
                    r == -EEXIST ? "overlaps what is mapped" : "is not of whole pages in one of the ranges");
    pthread_mutex_unlock(&u->lock);
    return r;
}

/* Several maps at once, but none in part. */
static void pm_unmap(struct pci_iommu *is, uint64_t iova, size_t bytes)
{
    struct pcie_model_iommu *u = plx_container_of(is, struct pcie_model_iommu, is);
    size_t found = 0;
    pthread_mutex_lock(&u->lock);
    const unsigned i = pm_map_at(u, iova);
    unsigned n = 0;
    for (; i + n < u->nmaps && found < bytes && u->maps[i + n].iova == iova + found; n++)
        found += u->maps[i + n].bytes;
    if (!bytes || found != bytes) {
        pm_complain(&u->complaints, "unmap of 0x%zx bytes at 0x%llx, which was not mapped so", bytes,
                    (unsigned long long)iova);
    } else {
        memmove(&u->maps[i], &u->maps[i + n], (u->nmaps - i - n) * sizeof *u->maps);
        u->nmaps -= n;
        u->bytes -= bytes;
        u->unmaps++;
    }
    pthread_mutex_unlock(&u->lock);
}

static void pm_hold(struct pci_iommu *is)
{
    struct pcie_model_iommu *u = plx_container_of(is, struct pcie_model_iommu, is);
    pthread_mutex_lock(&u->lock);
    u->holds++;
    pthread_mutex_unlock(&u->lock);
}

static void pm_release(struct pci_iommu *is)
{
    struct pcie_model_iommu *u = plx_container_of(is, struct pcie_model_iommu, is);
    pthread_mutex_lock(&u->lock);
    if (u->holds == 0 || (u->holds == 1 && u->nmaps))
        pm_complain(&u->complaints, "released, with %u holders and %u maps", u->holds, u->nmaps);
    u->holds -= u->holds != 0;
    pthread_mutex_unlock(&u->lock);
}

static const struct pci_iommu_ops pm_iommu_ops = {
    .map = pm_map, .unmap = pm_unmap, .hold = pm_hold, .release = pm_release};

struct pcie_model_iommu *pcie_model_iommu_new(const struct pci_range *ranges, unsigned nranges, size_t page)
{
    static const struct pci_range usual[] = {{0, 0xfedfffff}, {0xfef00000, (UINT64_C(1) << 39) - 1}};
    struct pcie_model_iommu *u = calloc(1, sizeof *u);
    if (!u)
        abort();
    if (!nranges) {
        ranges = usual;
        nranges = PLX_ARRAY_SIZE(usual);
    }
    u->is.ops = &pm_iommu_ops;
    u->is.nranges = nranges;
    memcpy(u->is.ranges, ranges, nranges * sizeof *ranges);
    u->is.page = plx_max_u64(page, (uint64_t)sysconf(_SC_PAGESIZE));
    pthread_mutex_init(&u->lock, NULL);
    return u;
}

void pcie_model_iommu_free(struct pcie_model_iommu *u)
{
    pthread_mutex_destroy(&u->lock);
    free(u->maps);
    free(u);
}

/* What is at an address, and how much of it in one piece; NULL: nothing. */
static uint8_t *pm_find(const struct pcie_model *m, uint64_t iova, uint64_t *bytes)
{
    const struct pcie_model_iommu *u = m->iommu;
    const unsigned i = pm_map_at(u, iova);
    const uint64_t cmb = PM_CMB_BUS + PM_CMB_OFFSET, cmb_bytes = m->o.cmb_kib * UINT64_C(1024);
    const uint64_t told = pm_get(m, PM_CMBMSC) | (uint64_t)pm_get(m, PM_CMBMSC + 4) << 32; /* CBA, CMSE, CRE */
    if (iova - cmb < cmb_bytes && (m->o.cmb_fixed || told == (cmb | 3))) {
        *bytes = cmb_bytes - (iova - cmb);
        return m->cmb + (iova - PM_CMB_BUS);
    }
    if (i == u->nmaps || u->maps[i].iova > iova || (m->o.dma_bits && iova >> m->o.dma_bits))
        return NULL;
    *bytes = u->maps[i].bytes - (iova - u->maps[i].iova);
    return u->maps[i].at + (iova - u->maps[i].iova);
}

bool pm_mapped(struct pcie_model *m, uint64_t iova, uint64_t bytes)
{
    for (uint64_t n = 0; bytes; iova += n, bytes -= n) {
        if (!pm_find(m, iova, &n))
            return false;
        n = plx_min_u64(n, bytes);
    }
    return true;
}

uint8_t *pm_at(struct pcie_model *m, uint64_t iova, size_t bytes, const char *what)
{
    uint64_t n = 0;
    uint8_t *at = pm_find(m, iova, &n);
    if (at && n >= bytes)
        return at;
    pm_complain(&m->complaints, "%s: %zu bytes at 0x%llx are reached, where there is nothing mapped", what, bytes,
                (unsigned long long)iova);
    return NULL;
}

/* ---- PRP ---- */

static uint16_t pm_bad_prp(struct pcie_model *m, const struct pm_cmd *c, uint64_t prp, const char *what)
{
    pm_complain(&m->complaints, "queue %u opcode 0x%02x: PRP 0x%llx %s", c->sqid, c->sqe.opcode,
                (unsigned long long)prp, what);
    return PM_SC_PRP_OFFSET | NVME_STATUS_DNR;
}

static uint16_t pm_add_seg(struct pcie_model *m, const struct pm_cmd *c, uint64_t iova, uint64_t bytes)
{
    if (m->nsegs == m->segs_max || !pm_mapped(m, iova, bytes)) {
        pm_complain(&m->complaints,
                    "queue %u opcode 0x%02x: %llu bytes of data at 0x%llx, where there is nothing mapped", c->sqid,
                    c->sqe.opcode, (unsigned long long)bytes, (unsigned long long)iova);
        return PLX_SC_DATA_TRANSFER_ERROR | NVME_STATUS_DNR;
    }
    m->segs[m->nsegs++] = (struct pm_seg){iova, (uint32_t)bytes};
    return 0;
}

static uint16_t pm_prp_list(struct pcie_model *m, const struct pm_cmd *c, uint64_t list, uint64_t bytes)
{
    if (list % 8)
        return pm_bad_prp(m, c, list, "of a list is not aligned to 8 bytes");
    while (bytes) {
        const uint8_t *at = pm_at(m, list, 8, "PRP list");
        uint64_t prp;
        if (!at)
            return PLX_SC_DATA_TRANSFER_ERROR | NVME_STATUS_DNR;
        memcpy(&prp, at, 8);
        prp = le64toh(prp);
        if (prp % m->page)
            return pm_bad_prp(m, c, prp, "in a list has an offset");
        if ((list + 8) % m->page == 0 && bytes > m->page) {
            list = prp; /* the last one of a page is where the list goes on */
            continue;
        }
        const uint64_t n = plx_min_u64(bytes, m->page);
        uint16_t status = pm_add_seg(m, c, prp, n);
        if (status)
            return status;
        bytes -= n;
        list += 8;
    }
    return 0;
}

static uint16_t pm_prp(struct pcie_model *m, const struct pm_cmd *c, uint64_t bytes)
{
    uint64_t prp[2];
    memcpy(prp, &c->sqe.sgl, sizeof prp); /* DPTR */
    prp[0] = le64toh(prp[0]);
    prp[1] = le64toh(prp[1]);
    if (prp[0] % 4)
        return pm_bad_prp(m, c, prp[0], "is not aligned to 4 bytes");
    const uint64_t first = plx_min_u64(bytes, m->page - prp[0] % m->page);
    uint16_t status = pm_add_seg(m, c, prp[0], first);
    bytes -= first;
    if (status || !bytes)
        return status;
    if (bytes > m->page)
        return pm_prp_list(m, c, prp[1], bytes);
    if (prp[1] % m->page)
        return pm_bad_prp(m, c, prp[1], "is the second, and has an offset");
    return pm_add_seg(m, c, prp[1], bytes);
}

/* ---- SGL ---- */

static uint16_t pm_bad_sgl(struct pcie_model *m, const struct pm_cmd *c, uint16_t status, const char *what)
{
    pm_complain(&m->complaints, "queue %u opcode 0x%02x: SGL %s", c->sqid, c->sqe.opcode, what);
    return status | NVME_STATUS_DNR;
}

static uint16_t pm_sgl_block(struct pcie_model *m, const struct pm_cmd *c, const struct nvme_sgl *sgl, uint64_t *bytes)
{
    const uint64_t at = plx_get64(sgl->address), len = plx_get32(sgl->length);
    if ((m->o.sgls & 3) == SGLS_DWORD && (at % 4 || len % 4))
        return pm_bad_sgl(m, c, PM_SC_SGL_GRANULARITY, "data block is not aligned to 4 bytes");
    if (len > *bytes && !(m->o.sgls & SGLS_LONGER))
        return pm_bad_sgl(m, c, PLX_SC_DATA_SGL_LENGTH_INVALID, "is longer than the data");
    const uint64_t n = plx_min_u64(len, *bytes);
    *bytes -= n;
    return n ? pm_add_seg(m, c, at, n) : 0;
}

static uint16_t pm_sgl(struct pcie_model *m, const struct pm_cmd *c, uint64_t bytes)
{
    struct nvme_sgl one = c->sqe.sgl;
    unsigned left = 1, seen = 0;
    uint64_t at = 0;
    bool last = false;
    for (; left; left--, at += sizeof one) {
        if (seen) {
            const uint8_t *p = pm_at(m, at, sizeof one, "SGL segment");
            if (!p)
                return PLX_SC_DATA_TRANSFER_ERROR | NVME_STATUS_DNR;
            memcpy(&one, p, sizeof one);
        }
        if (++seen > m->o.max_sgl + 1)
            return pm_bad_sgl(m, c, PLX_SC_INVALID_NUMBER_OF_SGL_DESCRIPTORS, "has too many descriptors");
        const unsigned type = one.type >> 4;
        if (one.type & 0xf || (type != SGL_DATA && type != SGL_SEGMENT && type != SGL_LAST_SEGMENT))
            return pm_bad_sgl(m, c, PLX_SC_SGL_DESCRIPTOR_TYPE_INVALID, "descriptor is of a type that is not known");
        if (type == SGL_DATA) {
            uint16_t status = pm_sgl_block(m, c, &one, &bytes);
            if (status)
                return status;
            continue;
        }
        const uint32_t len = plx_get32(one.length);
        if (left != 1 || last || !len || len % sizeof one || plx_get64(one.address) % 8)
            return pm_bad_sgl(m, c, PLX_SC_INVALID_SGL_SEGMENT, "segment is not the last descriptor, or not whole");
        last = type == SGL_LAST_SEGMENT;
        left = len / sizeof one + 1;
        at = plx_get64(one.address) - sizeof one;
    }
    if (seen > 1 && !last)
        return pm_bad_sgl(m, c, PLX_SC_INVALID_SGL_SEGMENT, "ends with a segment that is not said to be the last");
    return bytes ? pm_bad_sgl(m, c, PLX_SC_DATA_SGL_LENGTH_INVALID, "is shorter than the data") : 0;
}

/* ---- data ---- */

uint16_t pm_data(struct pcie_model *m, const struct pm_cmd *c, uint64_t bytes)
{
    const unsigned psdt = c->sqe.flags & NVME_PSDT_MASK;
    m->nsegs = 0;
    if (!bytes)
        return 0;
    if (psdt == 0)
        return pm_prp(m, c, bytes);
    if (c->sqid == 0 || psdt != NVME_PSDT_SGL || !(m->o.sgls & 3)) {
        pm_complain(&m->complaints, "queue %u opcode 0x%02x: SGL, where there is none", c->sqid, c->sqe.opcode);
        return PLX_SC_INVALID_FIELD | NVME_STATUS_DNR;
    }
    return pm_sgl(m, c, bytes);
}

static uint16_t pm_copy(struct pcie_model *m, uint8_t *to, const uint8_t *from, uint64_t bytes)
{
    for (unsigned i = 0; i < m->nsegs && bytes; i++) {
        uint64_t at = m->segs[i].iova, left = plx_min_u64(m->segs[i].bytes, bytes), n = 0;
        for (; left; at += n, left -= n, bytes -= n) {
            uint8_t *host = pm_find(m, at, &n);
            if (!host)
                return PLX_SC_DATA_TRANSFER_ERROR;
            n = plx_min_u64(n, left);
            memcpy(to ? to : host, to ? host : from, n);
            to = to ? to + n : NULL;
            from = from ? from + n : NULL;
        }
    }
    return 0;
}

uint16_t pm_read_host(struct pcie_model *m, void *to, uint64_t bytes)
{
    return pm_copy(m, to, NULL, bytes);
}

uint16_t pm_write_host(struct pcie_model *m, const void *from, uint64_t bytes)
{
    return pm_copy(m, NULL, from, bytes);
}
