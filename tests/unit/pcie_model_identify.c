/* SPDX-License-Identifier: BSD-3-Clause */
/* Identify and Get Log Page: Base 5.1.13, 5.1.12; NVM 4.1.5 */
#include "pcie_model_impl.h"

#include <stdio.h>
#include <string.h>

enum { DNR = NVME_STATUS_DNR };

/* ---- Identify ---- */

/* Text in ASCII, padded with spaces. */
static void pm_ascii(char *to, size_t bytes, const char *text)
{
    memset(to, ' ', bytes);
    memcpy(to, text, strnlen(text, bytes));
}

static void pm_id_ctrl(const struct pcie_model *m, struct nvme_id_ctrl *id)
{
    const struct pcie_model_opts *o = &m->o;
    id->vid = id->ssvid = plx_put16(o->vendor);
    pm_ascii(id->sn, sizeof id->sn, o->serial);
    pm_ascii(id->mn, sizeof id->mn, o->model);
    pm_ascii(id->fr, sizeof id->fr, "1.0");
    id->mdts = o->mdts;
    id->cntlid = plx_put16(1);
    if (o->version >= 0x00010200) {
        id->ver = plx_put32(o->version);
        id->rtd3e = plx_put32(o->rtd3e);
        id->oaes = plx_put32(o->oaes);
        id->ctratt = plx_put32(o->ctratt);
    }
    if (o->version >= 0x00010400) {
        id->cntrltype = 1;
        for (unsigned i = 0; i < 3; i++)
            id->crdt[i] = plx_put16(o->crdt[i]);
    }
    id->oacs = plx_put16(o->oacs);
    id->acl = o->acl;
    id->aerl = o->aerl;
    id->frmw = 0x02;
    id->lpa = o->lpa;
    id->elpe = o->elpe;
    id->wctemp = plx_put16(o->temperature + 50u);
    id->cctemp = plx_put16(o->temperature + 60u);
    id->sqes = o->sqes;
    id->cqes = o->cqes;
    for (unsigned i = 0; i < m->nns; i++)
        if (m->ns[i].is.nsid > plx_get32(id->nn))
            id->nn = plx_put32(m->ns[i].is.nsid);
    id->oncs = plx_put16(o->oncs);
    id->fuses = plx_put16(o->fuses);
    id->vwc = o->vwc;
    id->awun = id->awupf = plx_put16(o->awun);
    id->cdfs = plx_put16(1);
    id->sgls = plx_put32(o->sgls);
    if (o->version >= 0x00010201)
        snprintf(id->subnqn, sizeof id->subnqn, "%s", o->subnqn);
    id->psd[0].max_power = plx_put16(1000);
}

/* Controllers with different serial numbers have different namespaces. */
static uint32_t pm_which(const struct pcie_model *m)
{
    uint32_t sum = 0;
    for (const char *p = m->o.serial; *p; p++)
        sum = sum * 31 + (uint8_t)*p;
    return sum;
}

static void pm_nguid(const struct pcie_model *m, const struct pm_ns *ns, uint8_t *nguid)
{
    memset(nguid, 0xa5, 16);
    plx_poke32(nguid + 8, pm_which(m));
    plx_poke32(nguid + 12, ns->is.nsid);
}

static void pm_id_ns(const struct pcie_model *m, const struct pm_ns *ns, struct nvme_id_ns *id)
{
    id->nsze = id->ncap = id->nuse = plx_put64(ns->is.blocks);
    id->nlbaf = 1; /* two of them */
    id->flbas = (uint8_t)((ns->is.block_bits == 12) | ns->is.interleaved << 4);
    id->mc = ns->is.metadata ? 3 : 0;
    id->dpc = ns->is.metadata >= pm_tuple_bytes(ns) ? 0x1f : 0;
    id->dps = (uint8_t)(ns->is.pi | ns->is.pi_first << 3);
    id->lbaf[0] = plx_put32(9 << 16 | ns->is.metadata);
    id->lbaf[1] = plx_put32(12 << 16 | ns->is.metadata);
    if (m->o.version >= 0x00010300)
        id->dlfeat = 0x09; /* reads zeroes; Write Zeroes deallocates */
    id->noiob = plx_put16(ns->is.noiob);
    if (ns->is.npwg || ns->is.npda) {
        id->nsfeat = 1 << 4;
        id->npwg = id->npwa = plx_put16(ns->is.npwg);
        id->npda = id->npdg = plx_put16(ns->is.npda);
    }
    id->mssrl = plx_put16(m->o.mssrl);
    id->mcl = plx_put32(m->o.mcl);
    id->msrc = m->o.msrc;
    if (m->o.version >= 0x00010200)
        pm_nguid(m, ns, id->nguid);
    if (m->o.version >= 0x00010100)
        memcpy(id->eui64, "\xa5\xa5\xa5\xa5\0\0\0", 7), id->eui64[7] = (uint8_t)ns->is.nsid;
}

static void pm_descriptors(const struct pcie_model *m, const struct pm_ns *ns, bool csi, uint8_t *to)
{
    to[0] = NVME_NIDT_NGUID;
    to[1] = 16;
    pm_nguid(m, ns, to + 4);
    to += 20;
    to[0] = NVME_NIDT_UUID;
    to[1] = 16;
    memset(to + 4, 0x5a, 16);
    plx_poke32(to + 12, pm_which(m));
    plx_poke32(to + 16, ns->is.nsid);
    to += 20;
    if (!csi)
        return;
    to[0] = NVME_NIDT_CSI;
    to[1] = 1;
    to[4] = ns->is.csi;
}

static void pm_ns_list(const struct pcie_model *m, uint32_t beyond, bool inactive, uint8_t *to)
{
    for (unsigned n = 0; n < 1024; n++) {
        const struct pm_ns *next = NULL;
        for (unsigned i = 0; i < m->nns; i++)
            if (m->ns[i].is.nsid > beyond && (m->ns[i].is.blocks || inactive) &&
                (!next || m->ns[i].is.nsid < next->is.nsid))
                next = &m->ns[i];
        if (!next)
            return;
        beyond = next->is.nsid;
        plx_poke32(to + 4 * (size_t)n, beyond);
    }
}

static void pm_id_zoned(const struct pm_ns *ns, struct nvme_id_ns_zoned *id)
{
    id->zoc = plx_put16(ns->is.zoc);
    id->ozcs = plx_put16(ns->is.ozcs);
    id->mar = plx_put32(ns->is.max_active - 1);
    id->mor = plx_put32(ns->is.max_open - 1);
    id->lbafe[ns->is.block_bits == 12].zsze = plx_put64(ns->is.zone_blocks);
}

/* Of one namespace. @return status */
static uint16_t pm_identify_ns(const struct pcie_model *m, unsigned cns, unsigned csi, const struct pm_ns *ns,
                               uint8_t *to)
{
    if (!ns)
        return PLX_SC_INVALID_NAMESPACE_OR_FORMAT | DNR;
    if (!ns->is.blocks) /* an inactive one: zeroes, or no descriptors */
        return cns == NVME_CNS_NS_DESCRIPTORS || cns == NVME_CNS_CSI_NS ? PLX_SC_INVALID_FIELD | DNR : 0;
    if (cns == NVME_CNS_NS)
        pm_id_ns(m, ns, (void *)to);
    else if (cns == NVME_CNS_CSI_NS && csi == NVME_CSI_NVM)
        for (unsigned i = 0; i < 2; i++)
            ((struct nvme_id_ns_nvm *)(void *)to)->elbaf[i] = plx_put32((uint32_t)ns->is.pif << 7 | ns->is.sts);
    else if (cns == NVME_CNS_NS_DESCRIPTORS)
        pm_descriptors(m, ns, m->o.version >= 0x00020000, to);
    else if (cns == NVME_CNS_CSI_NS && csi == NVME_CSI_ZONED)
        pm_id_zoned(ns, (void *)to);
    else if (cns == NVME_CNS_CSI_INDEPENDENT_NS)
        to[14] = 1; /* NSTAT: ready */
    return 0;
}

static uint16_t pm_identify_any(struct pcie_model *m, unsigned cns, unsigned csi, uint32_t nsid, uint8_t *to)
{
    const unsigned any = NVME_NSID_ALL - 1;
    switch (cns) {
    case NVME_CNS_NS:
        if (nsid == NVME_NSID_ALL) { /* what all have in common */
            ((struct nvme_id_ns *)(void *)to)->nlbaf = 1;
            ((struct nvme_id_ns *)(void *)to)->lbaf[0] = plx_put32(9 << 16);
            ((struct nvme_id_ns *)(void *)to)->lbaf[1] = plx_put32(12 << 16);
            return 0;
        }
        return pm_identify_ns(m, cns, csi, pm_ns_of(m, nsid), to);
    case NVME_CNS_NS_DESCRIPTORS:
    case NVME_CNS_CSI_NS:
    case NVME_CNS_CSI_INDEPENDENT_NS:
        return pm_identify_ns(m, cns, csi, pm_ns_of(m, nsid), to);
    case NVME_CNS_CTRL:
        pm_id_ctrl(m, (void *)to);
        return 0;
    case NVME_CNS_ACTIVE_NS:
    case NVME_CNS_CSI_ACTIVE_NS:
    case NVME_CNS_ALLOCATED_NS:
        if (nsid >= any)
            return PLX_SC_INVALID_NAMESPACE_OR_FORMAT | DNR;
        pm_ns_list(m, nsid, cns == NVME_CNS_ALLOCATED_NS, to);
        return 0;
    case NVME_CNS_CSI_CTRL: {
        if (csi == NVME_CSI_ZONED) {
            to[0] = m->ns[0].is.zasl;
            return 0;
        }
        struct nvme_id_ctrl_nvm *id = (void *)to;
        id->vsl = m->o.vsl;
        id->wzsl = m->o.wzsl;
        id->dmrl = m->o.dmrl;
        id->dmrsl = plx_put32(m->o.dmrsl);
        return 0;
    }
    case NVME_CNS_COMMAND_SETS:
        to[0] = m->o.css >> 6 & 1 ? 1 | 1 << NVME_CSI_ZONED : 1; /* one combination */
        return 0;
    default:
        return PLX_SC_INVALID_FIELD | DNR;
    }
}

/* From which version on there is one: 0: not here */
static uint32_t pm_cns_since(const struct pcie_model *m, unsigned cns)
{
    return cns <= NVME_CNS_CTRL             ? 0x00010000
           : cns == NVME_CNS_ACTIVE_NS      ? 0x00010100
           : cns == NVME_CNS_NS_DESCRIPTORS ? 0x00010300
           : cns == NVME_CNS_CSI_CTRL       ? 0x00010400 /* of which TP 4040 made it a part */
           : cns == NVME_CNS_CSI_NS && m->o.ctratt & PCIE_MODEL_CTRATT_ELBAS    ? 0x00010400 /* likewise TP 4068 */
           : cns == NVME_CNS_ALLOCATED_NS && m->o.oacs & 1 << 3                 ? 0x00010200
           : cns <= NVME_CNS_CSI_INDEPENDENT_NS || cns == NVME_CNS_COMMAND_SETS ? 0x00020000
                                                                                : UINT32_MAX;
}

uint16_t pm_identify(struct pcie_model *m, const struct pm_cmd *c)
{
    static const uint8_t zeroes[4096];
    const unsigned cns = plx_get32(c->sqe.cdw10) & 0xff, csi = plx_get32(c->sqe.cdw11) >> 24;
    if (m->o.version < pm_cns_since(m, cns) || (csi && !(csi == NVME_CSI_ZONED && m->o.css >> 6 & 1) &&
                                                cns >= NVME_CNS_CSI_NS && cns <= NVME_CNS_CSI_ACTIVE_NS))
        return PLX_SC_INVALID_FIELD | DNR;
    memcpy(m->bounce, zeroes, sizeof zeroes);
    uint16_t status = pm_identify_any(m, cns, csi, plx_get32(c->sqe.nsid), m->bounce);
    return status ? status : pm_answer_data(m, c, m->bounce, sizeof zeroes);
}

/* ---- log pages ---- */

void pm_log_error(struct pcie_model *m, const struct pm_cmd *c)
{
    struct nvme_error_entry *e = &m->errors[m->nerrors++ % (m->o.elpe + 1u)];
    *e = (struct nvme_error_entry){.count = plx_put64(m->nerrors),
                                   .sqid = plx_put16(c->sqid),
                                   .cid = plx_put16(c->cid),
                                   .status = plx_put16((unsigned)c->status << 1),
                                   .location = plx_put16(0xffff),
                                   .nsid = c->sqe.nsid};
}

static size_t pm_log_errors(const struct pcie_model *m, uint8_t *to)
{
    const unsigned n = m->o.elpe + 1u;
    for (unsigned i = 0; i < n && i < m->nerrors; i++)
        memcpy(to + i * sizeof *m->errors, &m->errors[(m->nerrors - 1 - i) % n], sizeof *m->errors);
    return n * sizeof *m->errors;
}

static size_t pm_log_health(const struct pcie_model *m, uint8_t *to)
{
    struct nvme_health_log *log = (void *)to;
    log->critical_warning = m->critical_warning;
    log->temperature = plx_put16(m->o.temperature);
    log->spare = 100;
    log->spare_threshold = 10;
    plx_poke32(log->data_units_read, (uint32_t)((m->read_blocks + 999) / 1000));
    plx_poke32(log->data_units_written, (uint32_t)((m->written_blocks + 999) / 1000));
    plx_poke32(log->host_reads, (uint32_t)m->nreads);
    plx_poke32(log->host_writes, (uint32_t)m->nwrites);
    plx_poke32(log->media_errors, (uint32_t)m->media_errors);
    plx_poke32(log->error_entries, (uint32_t)m->nerrors);
    plx_poke32(log->power_cycles, 1);
    return sizeof *log;
}

static size_t pm_log_changed(struct pcie_model *m, uint8_t *to, bool keep)
{
    for (unsigned i = 0; i < m->nchanged; i++)
        plx_poke32(to + 4 * (size_t)i, m->changed[i]);
    if (!keep)
        m->nchanged = 0;
    return 4096;
}

static size_t pm_log_effects(const struct pcie_model *m, uint8_t *to)
{
    static const uint8_t admin[] = {PM_DELETE_SQ, PM_CREATE_SQ, PM_LOG_PAGE,     PM_DELETE_CQ,    PM_CREATE_CQ,
                                    PM_IDENTIFY,  PM_ABORT,     PM_SET_FEATURES, PM_GET_FEATURES, PM_ASYNC_EVENT};
    for (unsigned i = 0; i < sizeof admin; i++)
        plx_poke32(to + 4 * (size_t)admin[i], 1);
    if (m->o.oacs & PCIE_MODEL_OACS_FORMAT)
        plx_poke32(to + 4 * (size_t)PM_FORMAT, 1 | 1 << 1 | 1 << 16); /* changes contents, one at a time */
    if (m->o.oacs & PCIE_MODEL_OACS_DBBUF)
        plx_poke32(to + 4 * (size_t)PM_DBBUF, 1);
    uint8_t *io = to + 1024;
    const unsigned oncs = m->o.oncs;
    plx_poke32(io + 4 * NVME_IO_FLUSH, 1);
    plx_poke32(io + 4 * NVME_IO_WRITE, 1 | 1 << 1);
    plx_poke32(io + 4 * NVME_IO_READ, 1);
    plx_poke32(io + 4 * NVME_IO_COMPARE, oncs & PCIE_MODEL_ONCS_COMPARE ? 1 : 0);
    plx_poke32(io + 4 * NVME_IO_WRITE_ZEROES, oncs & PCIE_MODEL_ONCS_WRITE_ZEROES ? 3 : 0);
    plx_poke32(io + 4 * NVME_IO_DSM, oncs & PCIE_MODEL_ONCS_DSM ? 3 : 0);
    plx_poke32(io + 4 * NVME_IO_VERIFY, oncs & PCIE_MODEL_ONCS_VERIFY ? 1 : 0);
    plx_poke32(io + 4 * NVME_IO_COPY, oncs & PCIE_MODEL_ONCS_COPY ? 3 : 0);
    return 4096;
}

static size_t pm_log_supported(const struct pcie_model *m, uint8_t *to)
{
    for (unsigned lid = NVME_LOG_SUPPORTED; lid <= NVME_LOG_EFFECTS; lid++)
        plx_poke32(to + 4 * (size_t)lid, lid != NVME_LOG_EFFECTS || m->o.lpa & 1 << 1);
    return 1024;
}

static size_t pm_log_of(struct pcie_model *m, unsigned lid, bool keep, uint8_t *to)
{
    switch (lid) {
    case NVME_LOG_SUPPORTED:
        return m->o.version >= 0x00020000 ? pm_log_supported(m, to) : 0;
    case NVME_LOG_ERROR:
        return pm_log_errors(m, to);
    case NVME_LOG_HEALTH:
        if (!keep)
            m->masked &= ~(1u << 1);
        return pm_log_health(m, to);
    case NVME_LOG_FIRMWARE:
        to[0] = 1; /* from slot 1, where it is: */
        pm_ascii((char *)to + 8, 8, "1.0");
        return 512;
    case NVME_LOG_CHANGED_NS:
        if (!keep)
            m->masked &= ~(1u << 2);
        return pm_log_changed(m, to, keep);
    case NVME_LOG_EFFECTS:
        return m->o.lpa & 1 << 1 ? pm_log_effects(m, to) : 0;
    default:
        return 0;
    }
}

uint16_t pm_log_page(struct pcie_model *m, const struct pm_cmd *c)
{
    static const uint8_t zeroes[8192];
    const uint32_t cdw10 = plx_get32(c->sqe.cdw10);
    const bool extended = m->o.lpa & 1 << 2;
    const uint64_t dwords = (cdw10 >> 16 & (extended ? 0xffff : 0xfff)) |
                            (extended ? (uint64_t)(plx_get32(c->sqe.cdw11) & 0xffff) << 16 : 0);
    const uint64_t bytes = (dwords + 1) * 4;
    const uint64_t offset = extended ? plx_get32(c->sqe.cdw12) | (uint64_t)plx_get32(c->sqe.cdw13) << 32 : 0;
    if (bytes + offset > m->bounce_bytes / 2 || offset % 4 || offset > sizeof zeroes)
        return PLX_SC_INVALID_FIELD | DNR;
    memset(m->bounce, 0, plx_max_u64(sizeof zeroes, bytes + offset));
    size_t size = pm_log_of(m, cdw10 & 0xff, cdw10 >> 15 & 1, m->bounce);
    if (!size)
        return PLX_SC_INVALID_LOG_PAGE | DNR;
    if (offset > size)
        return PLX_SC_INVALID_FIELD | DNR;
    return pm_answer_data(m, c, m->bounce + offset, bytes);
}
