/* SPDX-License-Identifier: BSD-3-Clause */
/* Metadata and end-to-end data protection: NVM 5.2, 5.3. Guards are computed here once more. */
#include "pcie_model_impl.h"

#include <string.h>

enum {
    DNR = NVME_STATUS_DNR,
    PRINFO_REF = 1,
    PRINFO_APP = 2,
    PRINFO_GUARD = 4,
    PRINFO_PRACT = 8,
    ESCAPE = 0xffff,
};

/* Tables of what eight bits that come in do to a remainder; the model's lock is held. */
static const uint64_t *pm_table16(void)
{
    static uint64_t table[256];
    for (unsigned i = 0; i < 256 && !table[255]; i++) {
        uint64_t v = (uint64_t)i << 8;
        for (unsigned bit = 0; bit < 8; bit++)
            v = (v << 1 ^ (v >> 15 & 1 ? 0x8bb7 : 0)) & 0xffff;
        table[i] = v;
    }
    return table;
}

static uint64_t pm_crc16(uint64_t crc, const uint8_t *p, size_t n)
{
    const uint64_t *table = pm_table16();
    for (; n; n--)
        crc = (crc << 8 ^ table[crc >> 8 ^ *p++]) & 0xffff;
    return crc;
}

static uint64_t pm_reversed(uint64_t v)
{
    uint64_t out = 0;
    for (unsigned bit = 0; bit < 64; bit++)
        out |= (v >> bit & 1) << (63 - bit);
    return out;
}

/* As the specification has it: what comes in and what goes out is reflected, the polynomial is not. */
static const uint64_t *pm_table64(void)
{
    static uint64_t table[256];
    for (unsigned i = 0; i < 256 && !table[255]; i++) {
        uint64_t v = pm_reversed(i);
        for (unsigned bit = 0; bit < 8; bit++)
            v = v << 1 ^ (v >> 63 ? UINT64_C(0xad93d23594c93659) : 0);
        table[i] = pm_reversed(v);
    }
    return table;
}

static uint64_t pm_crc64(uint64_t crc, const uint8_t *p, size_t n)
{
    const uint64_t *table = pm_table64();
    for (crc = ~crc; n; n--)
        crc = crc >> 8 ^ table[(crc ^ *p++) & 0xff];
    return ~crc;
}

struct pm_tuple {
    uint64_t guard, ref;
    uint16_t app;
};

static unsigned pm_guard_bytes(const struct pm_ns *ns)
{
    return ns->is.pif == 2 ? 8 : 2;
}

unsigned pm_tuple_bytes(const struct pm_ns *ns)
{
    return ns->is.pif == 2 ? 16 : 8;
}

static uint64_t pm_ref_mask(const struct pm_ns *ns)
{
    return ns->is.pif == 2 ? 0xffffffffffff : 0xffffffff;
}

static unsigned pm_tuple_at(const struct pm_ns *ns)
{
    return ns->is.pi_first ? 0 : ns->is.metadata - pm_tuple_bytes(ns);
}

static uint64_t pm_big(const uint8_t *p, unsigned n)
{
    uint64_t v = 0;
    for (; n; n--)
        v = v << 8 | *p++;
    return v;
}

static void pm_put_big(uint8_t *p, unsigned n, uint64_t v)
{
    for (; n; n--, v >>= 8)
        p[n - 1] = (uint8_t)v;
}

static uint64_t pm_guard(const struct pm_ns *ns, const uint8_t *data, const uint8_t *md)
{
    uint64_t (*crc)(uint64_t, const uint8_t *, size_t) = ns->is.pif == 2 ? pm_crc64 : pm_crc16;
    return crc(crc(0, data, (size_t)1 << ns->is.block_bits), md, pm_tuple_at(ns));
}

static struct pm_tuple pm_get_tuple(const struct pm_ns *ns, const uint8_t *md)
{
    const unsigned g = pm_guard_bytes(ns);
    md += pm_tuple_at(ns);
    return (struct pm_tuple){.guard = pm_big(md, g),
                             .app = (uint16_t)pm_big(md + g, 2),
                             .ref = pm_big(md + g + 2, pm_tuple_bytes(ns) - g - 2)};
}

static void pm_put_tuple(const struct pm_ns *ns, const uint8_t *data, uint8_t *md, uint16_t app, uint64_t ref)
{
    const unsigned g = pm_guard_bytes(ns);
    uint8_t *at = md + pm_tuple_at(ns);
    pm_put_big(at, g, pm_guard(ns, data, md));
    pm_put_big(at + g, 2, app);
    pm_put_big(at + g + 2, pm_tuple_bytes(ns) - g - 2, ref);
}

/* What a command says of it. */
struct pm_protect {
    unsigned prinfo;
    uint16_t app, mask;
    uint64_t ref;
};

static struct pm_protect pm_protect_of(const struct pm_ns *ns, const struct pm_cmd *c)
{
    const uint32_t cdw15 = plx_get32(c->sqe.cdw15);
    return (struct pm_protect){.prinfo = plx_get32(c->sqe.cdw12) >> 26 & 0xf,
                               .app = (uint16_t)cdw15,
                               .mask = (uint16_t)(cdw15 >> 16),
                               .ref = plx_get32(c->sqe.cdw14) |
                                      (ns->is.pif == 2 ? (uint64_t)(plx_get32(c->sqe.cdw3) & 0xffff) << 32 : 0)};
}

/* NVM 5.3.3 */
static uint16_t pm_check_block(struct pcie_model *m, const struct pm_ns *ns, const struct pm_protect *w, uint64_t i,
                               const uint8_t *data, const uint8_t *md)
{
    const struct pm_tuple t = pm_get_tuple(ns, md);
    uint16_t status = 0;
    if (ns->is.lax || (t.app == ESCAPE && (ns->is.pi != 3 || t.ref == pm_ref_mask(ns))))
        return 0;
    if (w->prinfo & PRINFO_GUARD && t.guard != pm_guard(ns, data, md))
        status = PLX_SC_GUARD_CHECK_ERROR;
    else if (w->prinfo & PRINFO_APP && (t.app ^ w->app) & w->mask)
        status = PLX_SC_APPLICATION_TAG_CHECK_ERROR;
    else if (w->prinfo & PRINFO_REF && ns->is.pi != 3 && t.ref != ((w->ref + i) & pm_ref_mask(ns)))
        status = PLX_SC_REFERENCE_TAG_CHECK_ERROR;
    m->media_errors += status != 0;
    return status;
}

static uint16_t pm_check_words(struct pcie_model *m, const struct pm_ns *ns, const struct pm_cmd *c)
{
    const struct pm_protect w = pm_protect_of(ns, c);
    const uint64_t lba = plx_get32(c->sqe.cdw10) | (uint64_t)plx_get32(c->sqe.cdw11) << 32;
    if (!ns->is.pi)
        return 0;
    if (w.prinfo & PRINFO_PRACT && c->sqe.opcode == NVME_IO_VERIFY) {
        pm_complain(&m->complaints, "queue %u: a verify with PRACT", c->sqid);
        return PLX_SC_INVALID_PROTECTION_INFORMATION | DNR;
    }
    if (w.prinfo & PRINFO_REF && (ns->is.pi == 3 || (ns->is.pi == 1 && w.ref != (lba & pm_ref_mask(ns))))) {
        pm_complain(&m->complaints, "queue %u opcode 0x%02x: invalid protection information", c->sqid, c->sqe.opcode);
        return PLX_SC_INVALID_PROTECTION_INFORMATION | DNR;
    }
    return 0;
}

/* ---- commands: blocks with their metadata are gathered in m->bounce, one behind the other ---- */

static uint8_t *pm_md(const struct pm_ns *ns, uint64_t lba)
{
    return ns->metadata + lba * ns->is.metadata;
}

/* What the host transfers: all of it, or the controller makes and takes off what is no more than tuples. */
static bool pm_strips(const struct pm_ns *ns, const struct pm_protect *w)
{
    return ns->is.pi && w->prinfo & PRINFO_PRACT && ns->is.metadata == pm_tuple_bytes(ns);
}

static uint16_t pm_from_host(struct pcie_model *m, const struct pm_cmd *c, const struct pm_ns *ns, uint64_t n,
                             bool strips)
{
    const size_t block = (size_t)1 << ns->is.block_bits, step = block + ns->is.metadata;
    const bool whole = ns->is.interleaved && !strips;
    uint8_t *at = m->bounce + (whole ? 0 : n * step);
    uint16_t status = pm_read_host(m, at, n * (whole ? step : block));
    if (status || whole)
        return status;
    const uint8_t *md = strips ? NULL : pm_at(m, plx_get64(c->sqe.mptr), n * ns->is.metadata, "metadata");
    if (!strips && !md)
        return PLX_SC_DATA_TRANSFER_ERROR | DNR;
    for (uint64_t i = 0; i < n; i++) {
        memcpy(m->bounce + i * step, at + i * block, block);
        memset(m->bounce + i * step + block, 0, ns->is.metadata);
        if (md)
            memcpy(m->bounce + i * step + block, md + i * ns->is.metadata, ns->is.metadata);
    }
    return 0;
}

static uint16_t pm_to_host(struct pcie_model *m, const struct pm_cmd *c, const struct pm_ns *ns, uint64_t n,
                           bool strips)
{
    const size_t block = (size_t)1 << ns->is.block_bits, step = block + ns->is.metadata;
    uint8_t *at = m->bounce + n * step;
    if (ns->is.interleaved && !strips)
        return pm_write_host(m, m->bounce, n * step);
    uint8_t *md = strips ? NULL : pm_at(m, plx_get64(c->sqe.mptr), n * ns->is.metadata, "metadata");
    if (!strips && !md)
        return PLX_SC_DATA_TRANSFER_ERROR | DNR;
    for (uint64_t i = 0; i < n; i++) {
        memcpy(at + i * block, m->bounce + i * step, block);
        if (md)
            memcpy(md + i * ns->is.metadata, m->bounce + i * step + block, ns->is.metadata);
    }
    return pm_write_host(m, at, n * block);
}

static void pm_load(struct pcie_model *m, const struct pm_ns *ns, uint64_t lba, uint64_t n)
{
    const size_t block = (size_t)1 << ns->is.block_bits, step = block + ns->is.metadata;
    for (uint64_t i = 0; i < n; i++) {
        memcpy(m->bounce + i * step, ns->medium + (lba + i) * block, block);
        memcpy(m->bounce + i * step + block, pm_md(ns, lba + i), ns->is.metadata);
    }
}

uint16_t pm_transfer_protected(struct pcie_model *m, const struct pm_cmd *c, struct pm_ns *ns, uint64_t lba, uint64_t n)
{
    const struct pm_protect w = pm_protect_of(ns, c);
    const size_t block = (size_t)1 << ns->is.block_bits, step = block + ns->is.metadata;
    const bool strips = pm_strips(ns, &w), reads = c->sqe.opcode != NVME_IO_WRITE;
    const uint64_t bytes = n * (ns->is.interleaved && !strips ? step : block);
    uint16_t status = pm_check_words(m, ns, c);
    if (!status && c->sqe.opcode == NVME_IO_COMPARE) {
        pm_complain(&m->complaints, "a compare, of a namespace with metadata: not modelled");
        return PLX_SC_INVALID_FIELD | DNR;
    }
    const bool verifies = c->sqe.opcode == NVME_IO_VERIFY;
    if (!status && !verifies)
        status = pm_too_long(m, c, bytes, m->o.mdts);
    if (!status && !verifies)
        status = pm_data(m, c, bytes);
    if (status)
        return status;
    if (reads)
        pm_load(m, ns, lba, n);
    else
        status = pm_from_host(m, c, ns, n, strips);
    for (uint64_t i = 0; i < n && !status && ns->is.pi; i++) {
        uint8_t *at = m->bounce + i * step;
        if (!reads && w.prinfo & PRINFO_PRACT)
            pm_put_tuple(ns, at, at + block, w.app, ns->is.pi == 3 ? w.ref : (w.ref + i) & pm_ref_mask(ns));
        else
            status = pm_check_block(m, ns, &w, i, at, at + block);
    }
    if (reads)
        return status || verifies ? status : pm_to_host(m, c, ns, n, strips);
    for (uint64_t i = 0; i < n && !status; i++) {
        memcpy(ns->medium + (lba + i) * block, m->bounce + i * step, block);
        memcpy(pm_md(ns, lba + i), m->bounce + i * step + block, ns->is.metadata);
    }
    return status;
}

/* Blocks that are zero now. Deallocated ones have tuples that are not checked. */
uint16_t pm_zero_protected(struct pcie_model *m, const struct pm_cmd *c, struct pm_ns *ns, uint64_t lba, uint64_t n,
                           bool deallocated)
{
    const struct pm_protect w = pm_protect_of(ns, c);
    uint16_t status = deallocated ? 0 : pm_check_words(m, ns, c);
    if (status || !ns->is.metadata)
        return status;
    memset(pm_md(ns, lba), deallocated && ns->is.pi ? 0xff : 0, n * ns->is.metadata);
    for (uint64_t i = 0; i < n && ns->is.pi && !deallocated && w.prinfo & PRINFO_PRACT; i++)
        pm_put_tuple(ns, ns->medium + ((lba + i) << ns->is.block_bits), pm_md(ns, lba + i), w.app,
                     ns->is.pi == 3 ? w.ref : (w.ref + i) & pm_ref_mask(ns));
    return 0;
}

/* ---- past the controller ---- */

void pcie_model_flip(struct pcie_model *m, uint32_t nsid, uint64_t lba, unsigned byte, unsigned bit)
{
    pthread_mutex_lock(&m->lock);
    const struct pm_ns *ns = pm_ns_of(m, nsid);
    const unsigned block = 1u << ns->is.block_bits;
    uint8_t *at = byte < block ? ns->medium + (lba << ns->is.block_bits) + byte : pm_md(ns, lba) + (byte - block);
    *at ^= (uint8_t)(1u << bit);
    pthread_mutex_unlock(&m->lock);
}

unsigned pcie_model_media_errors(struct pcie_model *m)
{
    pthread_mutex_lock(&m->lock);
    const uint64_t n = m->media_errors;
    pthread_mutex_unlock(&m->lock);
    return (unsigned)n;
}

void pcie_model_metadata(struct pcie_model *m, uint32_t nsid, uint64_t lba, void *to)
{
    pthread_mutex_lock(&m->lock);
    const struct pm_ns *ns = pm_ns_of(m, nsid);
    memcpy(to, pm_md(ns, lba), ns->is.metadata);
    pthread_mutex_unlock(&m->lock);
}

uint64_t pcie_model_guard(struct pcie_model *m, uint32_t nsid, const void *data, const void *metadata)
{
    pthread_mutex_lock(&m->lock);
    const uint64_t guard = pm_guard(pm_ns_of(m, nsid), data, metadata);
    pthread_mutex_unlock(&m->lock);
    return guard;
}
