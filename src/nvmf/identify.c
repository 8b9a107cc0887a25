/* SPDX-License-Identifier: BSD-3-Clause */
/* Identify (Base 5.1.13, NVM and ZNS 4.1.5): what the target, its controllers and its namespaces say of themselves. */
#include "nvmf/nvmf.h"

#include <stdio.h>
#include <string.h>

enum {
    IDENTIFY_BYTES = 4096,
    PAGE_SHIFT = 12, /* CAP.MPSMIN: 4 KiB */
    CSI_ANY = 0xff,
    CELSIUS_70 = 343,
    CELSIUS_80 = 353,
};

/* The command set that the command is about. */
static uint8_t csi_asked(const struct nvmf_req *req)
{
    return (uint8_t)(plx_get32(req->cmd.cdw11) >> 24);
}

static unsigned log2_of(uint32_t v)
{
    return 31 - (unsigned)__builtin_clz(v);
}

/* ---- controllers ---- */

static unsigned oncs_of(uint32_t ops)
{
    return (ops & 1u << PLX_BDEV_COMPARE ? 1u << 0 : 0) | (ops & 1u << PLX_BDEV_UNMAP ? 1u << 2 : 0) |
           (ops & 1u << PLX_BDEV_WRITE_ZEROES ? 1u << 3 : 0) | 1u << 5 /* reservations */ |
           (ops & 1u << PLX_BDEV_VERIFY ? 1u << 7 : 0) | (ops & 1u << PLX_BDEV_COPY ? 1u << 8 : 0);
}

/* What both kinds of controllers have. */
static void fill_common(const struct nvmf_ctrlr *c, struct nvme_id_ctrl *id)
{
    const struct plx_nvmf_opts *opts = &c->target->opts;
    memcpy(id->sn, c->subsys->serial, sizeof id->sn);
    memcpy(id->mn, c->subsys->model, sizeof id->mn);
    nvmf_pad(id->fr, sizeof id->fr, plx_version());
    id->mdts = (uint8_t)(log2_of(opts->max_io_size) - PAGE_SHIFT);
    id->cntlid = plx_put16(c->cntlid);
    id->ver = plx_put32(NVME_VERSION);
    id->lpa = 1 << 2; /* Get Log Page takes lengths and offsets of 32 bits */
    id->oaes = plx_put32(nvmf_events(c));
    id->elpe = NVMF_ERROR_LOG - 1;
    id->aerl = NVMF_AER_LIMIT - 1;
    id->kas = plx_put16(NVMF_KATO_UNIT_MS / 100);
    id->maxcmd = plx_put16(opts->queue_depth);
    /* SGLs: supported without alignment; offsets in the capsule; the transport's descriptor */
    id->sgls = plx_put32(1u << 0 | 1u << 20 | 1u << 21);
    snprintf(id->subnqn, sizeof id->subnqn, "%s", c->subsys->nqn);
}

static void fill_discovery_ctrl(const struct nvmf_ctrlr *c, struct nvme_id_ctrl *id)
{
    fill_common(c, id);
    id->cntrltype = 2;
}

static void fill_ctrl(const struct nvmf_ctrlr *c, const struct nvmf_image *image, struct nvme_id_ctrl *id)
{
    const struct plx_nvmf_opts *opts = &c->target->opts;
    fill_common(c, id);
    id->rab = 6;
    id->cmic = 1 << 0 | 1 << 1 | 1 << 3;       /* several ports, several controllers, ANA */
    id->ctratt = plx_put32(1u << 0 | 1u << 6); /* host identifier of 128 bits; traffic based keep-alive */
    id->cntrltype = 1;
    id->acl = NVMF_ABORT_LIMIT - 1;
    id->frmw = 1 << 0 | 1 << 1; /* one firmware slot, read-only */
    id->lpa |= 1 << 1 | 1 << 5; /* Commands Supported and Effects; Supported Log Pages */
    id->wctemp = plx_put16(CELSIUS_70);
    id->cctemp = plx_put16(CELSIUS_80);
    id->anatt = 10;
    id->anacap = 0x1f; /* reports all states; a namespace may change its group */
    id->anagrpmax = plx_put32(PLX_NVMF_ANA_GROUPS);
    id->nanagrpid = plx_put32(PLX_NVMF_ANA_GROUPS);
    id->sqes = 0x66;
    id->cqes = 0x44;
    id->nn = plx_put32(c->subsys->max_namespaces);
    id->mnan = plx_put32(c->subsys->max_namespaces);
    id->oncs = plx_put16(oncs_of(image->can.ops | image->can.zoned_ops));
    id->fuses = plx_put16(image->can.ops & 1u << PLX_BDEV_COMPARE_AND_WRITE ? 1 : 0);
    /* There always is one: a disk that has it may come later, and hosts look when they connect alone. */
    id->vwc = 1 | 3 << 1; /* Flush takes all namespaces at once */
    id->acwu = plx_put16(NVMF_FUSED_BLOCKS - 1);
    id->cdfs = plx_put16(1 << 0); /* Copy: descriptor format 0 */
    id->ioccsz = plx_put32((64 + opts->in_capsule_size) / 16);
    id->iorcsz = plx_put32(1);
    id->msdbd = 1;
    id->ofcs = plx_put16(1 << 0); /* Disconnect */
    id->psd[0].max_power = plx_put16(2500);
}

static void identify_ctrl(struct nvmf_req *req)
{
    struct nvme_id_ctrl *id = (void *)req->data;
    const struct nvmf_ctrlr *c = req->qp->ctrlr;
    memset(id, 0, sizeof *id);
    if (c->subsys->discovery)
        fill_discovery_ctrl(c, id);
    else
        fill_ctrl(c, req->qp->image, id);
    nvmf_req_complete(req, PLX_SC_SUCCESS);
}

/* The NVM command set's own limits; all of them as powers of two of 4 KiB pages. */
static void identify_csi_ctrl(struct nvmf_req *req)
{
    struct nvme_id_ctrl_nvm *id = (void *)req->data;
    memset(id, 0, sizeof *id);
    id->vsl = (uint8_t)(log2_of(req->qp->group->target->opts.max_io_size) - PAGE_SHIFT);
    nvmf_req_complete(req, PLX_SC_SUCCESS);
}

/* How much may be appended at once: no zoned disk takes less. */
static void identify_zoned_ctrl(struct nvmf_req *req)
{
    struct nvme_id_ctrl_zoned *id = (void *)req->data;
    const uint32_t limit =
        (uint32_t)plx_min_u64(req->qp->image->can.append_bytes, req->qp->group->target->opts.max_io_size);
    memset(id, 0, sizeof *id);
    id->zasl = (uint8_t)(log2_of(limit) - PAGE_SHIFT);
    nvmf_req_complete(req, PLX_SC_SUCCESS);
}

/* ---- namespaces ---- */

static uint8_t csi_of(const struct nvmf_ns *ns)
{
    return plx_bdev_info(ns->bdev)->zone_blocks ? NVME_CSI_ZONED : NVME_CSI_NVM;
}

static const struct nvmf_image_ns *ns_of(const struct nvmf_req *req)
{
    return nvmf_image_ns(req->qp->image, plx_get32(req->cmd.nsid));
}

/* RESCAP: persistence through power loss; all six types; the Ignore Existing Key of revision 1.3 or later */
static uint8_t rescap_of(const struct nvmf_ns *ns)
{
    return (uint8_t)(ns->can_persist | 0x7e | 1 << 7);
}

static void fill_ns(const struct nvmf_image_ns *of, const struct plx_nvmf_opts *opts, struct nvme_id_ns *id)
{
    const struct nvmf_ns *ns = of->ns;
    const struct plx_bdev_info *info = plx_bdev_info(ns->bdev);
    unsigned unit = info->write_unit > info->block_size ? info->write_unit / info->block_size : 1;
    id->nsze = id->ncap = id->nuse = plx_put64(of->blocks);
    id->nsfeat = (uint8_t)(1 << 4 | (info->ops >> PLX_BDEV_ALLOCATED & 1)); /* preferred sizes given; thin */
    id->nmic = 1; /* may be reached through several controllers */
    id->rescap = rescap_of(ns);
    if (info->unmap_reads_zero) /* deallocated blocks do, and Write Zeroes may make such */
        id->dlfeat = (uint8_t)(1 | (info->ops & 1u << PLX_BDEV_WRITE_ZEROES ? 1 << 3 : 0));
    id->npwg = id->npwa = id->nows = plx_put16(unit - 1);
    id->npdg = id->npda = plx_put16(info->unmap_granularity ? plx_min_u64(info->unmap_granularity - 1, UINT16_MAX) : 0);
    if (info->ops & 1u << PLX_BDEV_COPY) {
        uint32_t blocks = opts->max_io_size / info->block_size;
        id->mssrl = plx_put16(plx_min_u64(blocks, UINT16_MAX));
        id->mcl = plx_put32(plx_min_u64(blocks, UINT16_MAX) * NVMF_COPY_RANGES);
        id->msrc = NVMF_COPY_RANGES - 1;
    }
    id->anagrpid = plx_put32(of->anagrpid);
    id->nsattr = info->read_only;
    memcpy(id->nguid, ns->nguid, sizeof id->nguid);
    memcpy(id->eui64, ns->eui64, sizeof id->eui64);
    id->lbaf[0] = plx_put32(log2_of(info->block_size) << 16);
}

static void allocated(struct plx_bdev_req *bio)
{
    struct nvmf_req *req = plx_container_of(bio, struct nvmf_req, bio);
    struct nvme_id_ns *id = (void *)req->data;
    uint64_t used;
    memcpy(&used, &id->nuse, sizeof used);
    id->nuse = bio->status ? id->ncap : plx_put64(used);
    nvmf_req_complete(req, PLX_SC_SUCCESS);
}

static void identify_ns(struct nvmf_req *req)
{
    struct nvme_id_ns *id = (void *)req->data;
    const struct nvmf_image_ns *of = ns_of(req);
    memset(id, 0, sizeof *id);
    if (of)
        fill_ns(of, &req->qp->group->target->opts, id);
    struct nvmf_nsref *ref = of ? nvmf_ref(req->qp, of->ns->nsid) : NULL;
    if (!ref || !(ref->info->ops >> PLX_BDEV_ALLOCATED & 1) || nvmf_disk_full(ref) || nvmf_ns_paused(ref)) {
        nvmf_req_complete(req, PLX_SC_SUCCESS);
        return;
    }
    nvmf_req_enter_ns(req, ref);
    req->iov[0] = (struct iovec){&id->nuse, sizeof id->nuse};
    req->bio.done = allocated;
    req->bio.iov = req->iov;
    req->bio.iovcnt = 1;
    req->bio.op = PLX_BDEV_ALLOCATED;
    req->bio.flags = 0;
    plx_bdev_submit(req->ns->ch, &req->bio);
}

static void identify_independent_ns(struct nvmf_req *req)
{
    struct nvme_id_ns_independent *id = (void *)req->data;
    const struct nvmf_image_ns *of = ns_of(req);
    memset(id, 0, sizeof *id);
    if (of) {
        const struct plx_bdev_info *info = plx_bdev_info(of->ns->bdev);
        id->nsfeat = info->rotational ? 1 << 4 : 0;
        id->nmic = 1;
        id->rescap = rescap_of(of->ns);
        id->anagrpid = plx_put32(of->anagrpid);
        id->nsattr = info->read_only;
        id->nstat = 1; /* ready */
    }
    nvmf_req_complete(req, PLX_SC_SUCCESS);
}

static size_t put_descriptor(uint8_t *p, enum nvme_nidt type, const void *id, uint8_t len)
{
    p[0] = (uint8_t)type;
    p[1] = len;
    memcpy(p + 4, id, len);
    return 4 + (size_t)len;
}

static void identify_ns_descriptors(struct nvmf_req *req)
{
    static const uint8_t none[sizeof(((struct nvmf_ns *)0)->eui64)];
    const struct nvmf_image_ns *of = ns_of(req);
    uint8_t *p = req->data;
    memset(p, 0, req->len);
    if (!of) { /* removed while this waited for its buffer */
        nvmf_req_complete(req, PLX_SC_INVALID_NAMESPACE_OR_FORMAT | NVME_STATUS_DNR);
        return;
    }
    if (memcmp(of->ns->eui64, none, sizeof none) != 0)
        p += put_descriptor(p, NVME_NIDT_EUI64, of->ns->eui64, sizeof none);
    p += put_descriptor(p, NVME_NIDT_NGUID, of->ns->nguid, sizeof of->ns->nguid);
    p += put_descriptor(p, NVME_NIDT_UUID, of->ns->uuid, sizeof of->ns->uuid);
    const uint8_t csi = csi_of(of->ns);
    put_descriptor(p, NVME_NIDT_CSI, &csi, 1);
    nvmf_req_complete(req, PLX_SC_SUCCESS);
}

/* Limits of open zones count from zero, so that without one all bits are set. */
static void identify_zoned_ns(struct nvmf_req *req)
{
    struct nvme_id_ns_zoned *id = (void *)req->data;
    const struct nvmf_image_ns *of = ns_of(req);
    const struct plx_bdev_info *info = of ? plx_bdev_info(of->ns->bdev) : NULL;
    memset(id, 0, sizeof *id);
    if (info && !info->zone_blocks) {
        nvmf_req_complete(req, PLX_SC_INVALID_COMMAND_SET | NVME_STATUS_DNR);
        return;
    }
    if (info) {
        id->zoc = plx_put16((info->zone_capacity_varies ? NVME_ZOC_VARIABLE_CAPACITY : 0) |
                            (info->zones_finish ? NVME_ZOC_EXCURSIONS : 0));
        id->ozcs = plx_put16(info->reads_cross_zones ? NVME_OZCS_READ_ACROSS : 0);
        id->mar = plx_put32(info->max_active_zones - 1);
        id->mor = plx_put32(info->max_open_zones - 1);
        id->lbafe[0].zsze = plx_put64(info->zone_blocks);
    }
    nvmf_req_complete(req, PLX_SC_SUCCESS);
}

/* Namespace identifiers greater than the command's, ascending; those of a command set, or all. */
static void put_ns_list(struct nvmf_req *req, const struct nvmf_table *table, uint8_t csi)
{
    plx_le32 *list = (void *)req->data;
    unsigned n = 0;
    memset(list, 0, req->len);
    for (uint64_t nsid = (uint64_t)plx_get32(req->cmd.nsid) + 1; nsid <= table->nns && n < IDENTIFY_BYTES / 4; nsid++)
        if (table->ns[nsid - 1].ns && (csi == CSI_ANY || csi == csi_of(table->ns[nsid - 1].ns)))
            list[n++] = plx_put32(nsid);
    nvmf_req_complete(req, PLX_SC_SUCCESS);
}

static void identify_ns_list(struct nvmf_req *req)
{
    put_ns_list(req, req->qp->image->table, CSI_ANY);
}

static void identify_csi_ns_list(struct nvmf_req *req)
{
    put_ns_list(req, req->qp->image->table, csi_asked(req));
}

/* ---- allocated namespaces: all there are, whether this host sees them or not (Base 3.2.1.5) ---- */

static void identify_allocated_list(struct nvmf_req *req)
{
    put_ns_list(req, req->qp->image->whole->all, CSI_ANY);
}

static void identify_allocated_ns(struct nvmf_req *req)
{
    struct nvme_id_ns *id = (void *)req->data;
    const struct nvmf_table *all = req->qp->image->whole->all;
    uint32_t nsid = plx_get32(req->cmd.nsid);
    memset(id, 0, sizeof *id);
    if (nsid <= all->nns && all->ns[nsid - 1].ns)
        fill_ns(&all->ns[nsid - 1], &req->qp->group->target->opts, id);
    nvmf_req_complete(req, PLX_SC_SUCCESS);
}

/* ---- lists ---- */

/*
 * The only controller that a host may know of for certain is its own: controllers are made and end as hosts come and
 * go.
 */
static void identify_ctrl_list(struct nvmf_req *req)
{
    plx_le16 *list = (void *)req->data;
    uint16_t cntlid = req->qp->ctrlr->cntlid, from = (uint16_t)(plx_get32(req->cmd.cdw10) >> 16);
    memset(list, 0, req->len);
    if (cntlid >= from) {
        list[0] = plx_put16(1);
        list[1] = plx_put16(cntlid);
    }
    nvmf_req_complete(req, PLX_SC_SUCCESS);
}

static void identify_zeroes(struct nvmf_req *req)
{
    memset(req->data, 0, req->len);
    nvmf_req_complete(req, PLX_SC_SUCCESS);
}

/* One combination of command sets: NVM, and zoned namespaces. */
static void identify_command_sets(struct nvmf_req *req)
{
    memset(req->data, 0, req->len);
    req->data[0] = 1 << NVME_CSI_NVM | 1 << NVME_CSI_ZONED;
    nvmf_req_complete(req, PLX_SC_SUCCESS);
}

/* ---- which there are ---- */

enum ns_use {
    NS_NONE,   /* NSID is not used */
    NS_ACTIVE, /* must be an active namespace */
    NS_VALID,  /* must be valid; an inactive one gives zeroes */
    NS_LIST,   /* where a list begins: below FFFFFFFEh */
};

struct page {
    uint8_t cns;
    uint8_t ns;  /* enum ns_use */
    uint8_t csi; /* of the command set whose it is, which the command names; or CSI_ANY */
    bool discovery;
    nvmf_execute_fn execute;
};

static const struct page pages[] = {
    {NVME_CNS_NS, NS_VALID, CSI_ANY, false, identify_ns},
    {NVME_CNS_CTRL, NS_NONE, CSI_ANY, true, identify_ctrl},
    {NVME_CNS_ACTIVE_NS, NS_LIST, CSI_ANY, false, identify_ns_list},
    {NVME_CNS_NS_DESCRIPTORS, NS_ACTIVE, CSI_ANY, false, identify_ns_descriptors},
    {NVME_CNS_CSI_NS, NS_VALID, NVME_CSI_NVM, false, identify_zeroes}, /* zoned ones are of that set as well */
    {NVME_CNS_CSI_NS, NS_VALID, NVME_CSI_ZONED, false, identify_zoned_ns},
    {NVME_CNS_CSI_CTRL, NS_NONE, NVME_CSI_NVM, false, identify_csi_ctrl},
    {NVME_CNS_CSI_CTRL, NS_NONE, NVME_CSI_ZONED, false, identify_zoned_ctrl},
    {NVME_CNS_CSI_ACTIVE_NS, NS_LIST, NVME_CSI_NVM, false, identify_csi_ns_list},
    {NVME_CNS_CSI_ACTIVE_NS, NS_LIST, NVME_CSI_ZONED, false, identify_csi_ns_list},
    {NVME_CNS_CSI_INDEPENDENT_NS, NS_VALID, CSI_ANY, false, identify_independent_ns},
    {NVME_CNS_ALLOCATED_NS, NS_LIST, CSI_ANY, false, identify_allocated_list},
    {NVME_CNS_ALLOCATED_NS_DATA, NS_VALID, CSI_ANY, false, identify_allocated_ns},
    {NVME_CNS_CTRL_LIST_OF_NS, NS_ACTIVE, CSI_ANY, false, identify_ctrl_list},
    {NVME_CNS_CTRL_LIST, NS_NONE, CSI_ANY, false, identify_ctrl_list},
    {NVME_CNS_NS_GRANULARITY, NS_NONE, CSI_ANY, false, identify_zeroes},
    {NVME_CNS_COMMAND_SETS, NS_NONE, CSI_ANY, false, identify_command_sets},
};

static uint16_t identify_check_ns(const struct nvmf_req *req, enum ns_use use)
{
    uint32_t nsid = plx_get32(req->cmd.nsid);
    bool ok = false;
    switch (use) {
    case NS_NONE:
        return PLX_SC_SUCCESS;
    case NS_LIST:
        ok = nsid < NVME_NSID_ALL - 1;
        break;
    case NS_VALID:
        ok = nsid && nsid <= req->qp->ctrlr->subsys->max_namespaces;
        break;
    case NS_ACTIVE:
        ok = ns_of(req) != NULL;
        break;
    }
    return ok ? PLX_SC_SUCCESS : PLX_SC_INVALID_NAMESPACE_OR_FORMAT | NVME_STATUS_DNR;
}

uint16_t nvmf_parse_identify(struct nvmf_req *req)
{
    uint8_t cns = plx_get32(req->cmd.cdw10) & 0xff;
    for (size_t i = 0; i < PLX_ARRAY_SIZE(pages); i++) {
        const struct page *p = &pages[i];
        if (p->cns != cns || (req->qp->ctrlr->subsys->discovery && !p->discovery))
            continue;
        if (p->csi != CSI_ANY && p->csi != csi_asked(req))
            continue;
        uint16_t status = identify_check_ns(req, p->ns);
        if (status)
            return status;
        req->execute = p->execute;
        return nvmf_expect_data(req, NVMF_TO_HOST, IDENTIFY_BYTES);
    }
    return PLX_SC_INVALID_FIELD | NVME_STATUS_DNR;
}
