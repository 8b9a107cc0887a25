/* SPDX-License-Identifier: BSD-3-Clause */
/* Commands of the NVM command set: NVM 3.3 */
#include "pcie_model_impl.h"

#include <string.h>
#include <sys/mman.h>

enum { DNR = NVME_STATUS_DNR };

struct pm_ns *pm_ns_of(struct pcie_model *m, uint32_t nsid)
{
    for (unsigned i = 0; i < m->nns; i++)
        if (m->ns[i].is.nsid == nsid && nsid)
            return &m->ns[i];
    return NULL;
}

static uint64_t pm_slba(const struct nvme_cmd *sqe)
{
    return plx_get32(sqe->cdw10) | (uint64_t)plx_get32(sqe->cdw11) << 32;
}

static uint64_t pm_nlb(const struct nvme_cmd *sqe)
{
    return (plx_get32(sqe->cdw12) & 0xffff) + 1u;
}

static uint16_t pm_check_range(const struct pm_ns *ns, uint64_t lba, uint64_t n)
{
    return lba >= ns->is.blocks || n > ns->is.blocks - lba ? PLX_SC_LBA_OUT_OF_RANGE | DNR : 0;
}

static uint8_t *pm_medium(const struct pm_ns *ns, uint64_t lba)
{
    return ns->medium + (lba << ns->is.block_bits);
}

uint16_t pm_too_long(struct pcie_model *m, const struct pm_cmd *c, uint64_t bytes, unsigned limit)
{
    if (!limit || bytes <= (UINT64_C(4096) << m->o.mpsmin) << limit)
        return 0;
    pm_complain(&m->complaints, "queue %u opcode 0x%02x: %llu bytes are beyond the limit", c->sqid, c->sqe.opcode,
                (unsigned long long)bytes);
    return PLX_SC_INVALID_FIELD | DNR;
}

/* ---- commands ---- */

static uint16_t pm_transfer(struct pcie_model *m, struct pm_cmd *c, struct pm_ns *ns)
{
    const bool writes = c->sqe.opcode == NVME_IO_WRITE || c->sqe.opcode == NVME_IO_ZONE_APPEND;
    uint64_t lba = pm_slba(&c->sqe);
    const uint64_t n = pm_nlb(&c->sqe), bytes = n << ns->is.block_bits;
    uint16_t status = pm_check_range(ns, lba, n);
    if (!status && !ns->is.metadata)
        status = pm_too_long(m, c, bytes, m->o.mdts);
    if (!status && c->sqe.opcode == NVME_IO_ZONE_APPEND)
        status = pm_too_long(m, c, bytes, ns->is.zasl);
    if (!status && !ns->is.metadata)
        status = pm_data(m, c, bytes);
    if (!status && ns->nzones && writes)
        status = pm_zone_write(m, c, ns, &lba, n);
    if (!status && ns->nzones && !writes)
        status = pm_zone_read(ns, lba, n);
    if (status)
        return status;
    if (c->sqe.opcode == NVME_IO_READ) {
        m->nreads++;
        m->read_blocks += bytes / 512;
        return ns->is.metadata ? pm_transfer_protected(m, c, ns, lba, n) : pm_write_host(m, pm_medium(ns, lba), bytes);
    }
    if (writes) {
        m->nwrites++;
        m->written_blocks += bytes / 512;
        m->fua += (plx_get32(c->sqe.cdw12) & NVME_RW_FUA) != 0;
        return ns->is.metadata ? pm_transfer_protected(m, c, ns, lba, n) : pm_read_host(m, pm_medium(ns, lba), bytes);
    }
    if (ns->is.metadata)
        return pm_transfer_protected(m, c, ns, lba, n);
    status = pm_read_host(m, m->bounce, bytes);
    if (status)
        return status;
    return memcmp(m->bounce, pm_medium(ns, lba), bytes) != 0 ? PLX_SC_COMPARE_FAILURE : 0;
}

/* Zeroes, and gives the memory back where that is possible. */
static void pm_zero(const struct pm_ns *ns, uint64_t lba, uint64_t n)
{
    uint8_t *at = pm_medium(ns, lba), *end = pm_medium(ns, lba + n);
    uint8_t *first = (uint8_t *)(uintptr_t)plx_align_up((uintptr_t)at, 65536), *last = end - (uintptr_t)end % 65536;
    if (first >= last) {
        memset(at, 0, (size_t)(end - at));
        return;
    }
    memset(at, 0, (size_t)(first - at));
    madvise(first, (size_t)(last - first), MADV_DONTNEED);
    memset(last, 0, (size_t)(end - last));
}

static uint16_t pm_write_zeroes(struct pcie_model *m, const struct pm_cmd *c, struct pm_ns *ns)
{
    const uint64_t lba = pm_slba(&c->sqe), n = pm_nlb(&c->sqe);
    uint16_t status = pm_check_range(ns, lba, n);
    if (!status)
        status = pm_too_long(m, c, n << ns->is.block_bits, m->o.wzsl);
    if (!status)
        pm_zero(ns, lba, n);
    return status ? status : pm_zero_protected(m, c, ns, lba, n, plx_get32(c->sqe.cdw12) & NVME_RW_DEAC);
}

static uint16_t pm_verify(struct pcie_model *m, const struct pm_cmd *c, struct pm_ns *ns)
{
    const uint64_t lba = pm_slba(&c->sqe), n = pm_nlb(&c->sqe);
    uint16_t status = pm_check_range(ns, lba, n);
    if (!status)
        status = pm_too_long(m, c, n << ns->is.block_bits, m->o.vsl);
    return status || !ns->is.metadata ? status : pm_transfer_protected(m, c, ns, lba, n);
}

static uint16_t pm_dsm(struct pcie_model *m, const struct pm_cmd *c, struct pm_ns *ns)
{
    const unsigned n = (plx_get32(c->sqe.cdw10) & 0xff) + 1;
    struct nvme_dsm_range ranges[256];
    uint16_t status = pm_data(m, c, n * sizeof *ranges);
    if (!status)
        status = pm_read_host(m, ranges, n * sizeof *ranges);
    if (!status && m->o.dmrl && n > m->o.dmrl)
        status = PLX_SC_COMMAND_SIZE_LIMIT_EXCEEDED | DNR;
    for (unsigned i = 0; i < n && !status; i++) {
        const uint32_t nlb = plx_get32(ranges[i].nlb);
        status = pm_check_range(ns, plx_get64(ranges[i].slba), nlb);
        if (m->o.dmrsl && nlb > m->o.dmrsl)
            status = PLX_SC_COMMAND_SIZE_LIMIT_EXCEEDED | DNR;
    }
    for (unsigned i = 0; i < n && !status && plx_get32(c->sqe.cdw11) & NVME_DSM_AD; i++) {
        pm_zero(ns, plx_get64(ranges[i].slba), plx_get32(ranges[i].nlb));
        pm_zero_protected(m, c, ns, plx_get64(ranges[i].slba), plx_get32(ranges[i].nlb), true);
    }
    return status;
}

static uint16_t pm_copy_blocks(struct pcie_model *m, const struct pm_cmd *c, struct pm_ns *ns)
{
    const uint32_t cdw12 = plx_get32(c->sqe.cdw12);
    const unsigned n = (cdw12 & 0xff) + 1;
    struct nvme_copy_range ranges[256];
    uint64_t total = 0;
    uint16_t status = cdw12 >> 8 & 0xf ? PLX_SC_INVALID_FIELD | DNR : 0;
    if (!status && n > m->o.msrc + 1u)
        status = PLX_SC_COMMAND_SIZE_LIMIT_EXCEEDED | DNR;
    if (!status)
        status = pm_data(m, c, n * sizeof *ranges);
    if (!status)
        status = pm_read_host(m, ranges, n * sizeof *ranges);
    for (unsigned i = 0; i < n && !status; i++) {
        const uint64_t lba = plx_get64(ranges[i].slba), nlb = plx_get16(ranges[i].nlb) + 1u;
        status = nlb > m->o.mssrl ? PLX_SC_COMMAND_SIZE_LIMIT_EXCEEDED | DNR : pm_check_range(ns, lba, nlb);
        if (!status && (total + nlb) << ns->is.block_bits <= m->bounce_bytes)
            memcpy(m->bounce + (total << ns->is.block_bits), pm_medium(ns, lba), nlb << ns->is.block_bits);
        total += nlb;
    }
    if (!status && total > m->o.mcl)
        status = PLX_SC_COMMAND_SIZE_LIMIT_EXCEEDED | DNR;
    if (!status)
        status = pm_check_range(ns, pm_slba(&c->sqe), total);
    if (!status)
        memcpy(pm_medium(ns, pm_slba(&c->sqe)), m->bounce, total << ns->is.block_bits);
    return status;
}

static bool pm_supported(const struct pcie_model *m, unsigned opcode)
{
    const unsigned oncs = m->o.oncs;
    return opcode == NVME_IO_FLUSH || opcode == NVME_IO_WRITE || opcode == NVME_IO_READ ||
           (opcode == NVME_IO_COMPARE && oncs & PCIE_MODEL_ONCS_COMPARE) ||
           (opcode == NVME_IO_DSM && oncs & PCIE_MODEL_ONCS_DSM) ||
           (opcode == NVME_IO_WRITE_ZEROES && oncs & PCIE_MODEL_ONCS_WRITE_ZEROES) ||
           (opcode == NVME_IO_VERIFY && oncs & PCIE_MODEL_ONCS_VERIFY) ||
           (opcode == NVME_IO_COPY && oncs & PCIE_MODEL_ONCS_COPY);
}

static bool is_zoned(unsigned opcode)
{
    return opcode == NVME_IO_ZONE_MANAGE || opcode == NVME_IO_ZONE_REPORT || opcode == NVME_IO_ZONE_APPEND;
}

/* Base 3.4.2: a compare and a write of the same blocks. */
static uint16_t pm_check_fused(struct pcie_model *m, const struct pm_cmd *c)
{
    const unsigned fuse = c->sqe.flags & NVME_FUSE_MASK;
    if (fuse == 0)
        return 0;
    if (!(m->o.fuses & 1) || fuse == NVME_FUSE_MASK ||
        c->sqe.opcode != (fuse == NVME_FUSE_FIRST ? NVME_IO_COMPARE : NVME_IO_WRITE))
        return PLX_SC_INVALID_FIELD | DNR;
    const struct pm_cmd *second = c->pair;
    if (second && (pm_slba(&second->sqe) != pm_slba(&c->sqe) || pm_nlb(&second->sqe) != pm_nlb(&c->sqe)))
        return PLX_SC_INVALID_FIELD | DNR;
    return 0;
}

uint16_t pm_io(struct pcie_model *m, struct pm_cmd *c)
{
    const uint32_t nsid = plx_get32(c->sqe.nsid);
    struct pm_ns *ns = pm_ns_of(m, nsid);
    uint16_t status = pm_check_fused(m, c);
    if (status)
        return status;
    if (!(ns && ns->nzones && is_zoned(c->sqe.opcode)) && !pm_supported(m, c->sqe.opcode))
        return PLX_SC_INVALID_OPCODE | DNR;
    if (c->sqe.opcode == NVME_IO_FLUSH && nsid == NVME_NSID_ALL)
        return (m->o.vwc >> 1 & 3) == 3 ? 0 : PLX_SC_INVALID_NAMESPACE_OR_FORMAT | DNR;
    if (!ns)
        return PLX_SC_INVALID_NAMESPACE_OR_FORMAT | DNR;
    if (!ns->is.blocks) /* an inactive one: Base 3.2.1.4 */
        return PLX_SC_INVALID_FIELD | DNR;
    if ((ns->is.metadata && (ns->nzones || c->sqe.opcode == NVME_IO_COPY)) || (ns->is.csi && !ns->nzones) ||
        (ns->nzones && (m->cc >> 4 & 7) != 6)) {
        pm_complain(&m->complaints,
                    "namespace %u is used, which has another command set, or copies metadata, or has it in zones",
                    nsid);
        return PLX_SC_INVALID_FIELD | DNR;
    }
    if (ns->nzones && c->sqe.opcode != NVME_IO_FLUSH && c->sqe.opcode != NVME_IO_READ &&
        c->sqe.opcode != NVME_IO_WRITE && c->sqe.opcode != NVME_IO_COMPARE && !is_zoned(c->sqe.opcode))
        return PLX_SC_INVALID_OPCODE | DNR;
    const bool plain = c->sqe.opcode == NVME_IO_FLUSH || c->sqe.opcode == NVME_IO_DSM;
    const bool none = ns->is.metadata && !ns->is.interleaved && (plain || c->sqe.opcode == NVME_IO_WRITE_ZEROES);
    if ((none ? plx_get64(c->sqe.mptr) : 0) || (plain || !ns->is.pif ? plx_get32(c->sqe.cdw3) : 0))
        pm_complain(&m->complaints, "queue %u opcode 0x%02x: reserved dwords are not 0", c->sqid, c->sqe.opcode);
    if (ns->is.pif && !m->features[PM_FID_BEHAVIOR]) {
        pm_complain(&m->complaints, "namespace %u is used, and the host has not said that it knows its format", nsid);
        return PLX_SC_INVALID_NAMESPACE_OR_FORMAT | DNR;
    }
    switch (c->sqe.opcode) {
    case NVME_IO_FLUSH:
        return 0;
    case NVME_IO_ZONE_MANAGE:
    case NVME_IO_ZONE_REPORT:
        return pm_zone_command(m, c, ns);
    case NVME_IO_WRITE_ZEROES:
        return pm_write_zeroes(m, c, ns);
    case NVME_IO_VERIFY:
        return pm_verify(m, c, ns);
    case NVME_IO_DSM:
        return pm_dsm(m, c, ns);
    case NVME_IO_COPY:
        return pm_copy_blocks(m, c, ns);
    default:
        return pm_transfer(m, c, ns);
    }
}

/* Format NVM: Base 5.1.10 */
uint16_t pm_format(struct pcie_model *m, const struct pm_cmd *c)
{
    static const unsigned bits[] = {9, 12};
    const uint32_t nsid = plx_get32(c->sqe.nsid), cdw10 = plx_get32(c->sqe.cdw10);
    const unsigned format = cdw10 & 0xf;
    if (nsid != NVME_NSID_ALL && !pm_ns_of(m, nsid))
        return PLX_SC_INVALID_NAMESPACE_OR_FORMAT | DNR;
    if (format >= PLX_ARRAY_SIZE(bits) || cdw10 >> 4 & 0xff)
        return PM_SC_FORMAT | DNR; /* nor metadata, nor protection information */
    for (unsigned i = 0; i < m->nns; i++) {
        struct pm_ns *ns = &m->ns[i];
        if (nsid != NVME_NSID_ALL && ns->is.nsid != nsid)
            continue;
        ns->is.blocks = ns->is.blocks << ns->is.block_bits >> bits[format];
        ns->is.block_bits = bits[format];
        madvise(ns->medium, ns->medium_bytes, MADV_DONTNEED);
    }
    return 0;
}

/* ---- the medium, past the controller ---- */

static void pm_reach(struct pcie_model *m, uint32_t nsid, uint64_t offset, uint8_t *to, const uint8_t *from, size_t n)
{
    pthread_mutex_lock(&m->lock);
    const struct pm_ns *ns = pm_ns_of(m, nsid);
    if (ns && offset <= ns->medium_bytes && n <= ns->medium_bytes - offset)
        memcpy(to ? to : ns->medium + offset, to ? ns->medium + offset : from, n);
    pthread_mutex_unlock(&m->lock);
}

void pcie_model_peek(struct pcie_model *m, uint32_t nsid, uint64_t offset, void *to, size_t bytes)
{
    pm_reach(m, nsid, offset, to, NULL, bytes);
}

void pcie_model_poke(struct pcie_model *m, uint32_t nsid, uint64_t offset, const void *from, size_t bytes)
{
    pm_reach(m, nsid, offset, NULL, from, bytes);
}
