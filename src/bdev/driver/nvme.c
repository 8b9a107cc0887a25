/* SPDX-License-Identifier: BSD-3-Clause */
/* A namespace of a controller, over NVMe/TCP or PCIe: what it is, learnt when it is opened. */
#include "bdev/driver/nvme_disk.h"

#include "base/text.h"
#include "base/uuid.h"
#include "reactor/aside.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    ONCS_COMPARE = 1 << 0,
    ONCS_DSM = 1 << 2,
    ONCS_WRITE_ZEROES = 1 << 3,
    ONCS_VERIFY = 1 << 7,
    ONCS_COPY = 1 << 8,
    CDFS_FORMAT_0 = 1 << 0,
    FUSES_COMPARE_AND_WRITE = 1 << 0,
    VWC_PRESENT = 1 << 0,
    NSFEAT_OPTPERF = 3 << 4,
    DLFEAT_READS = 7,
    DLFEAT_READS_ZERO = 1,
    DLFEAT_DEAC = 1 << 3,
    NSATTR_WRITE_PROTECTED = 1 << 0,
    NLB_MAX = 65536, /* blocks of a command: NLB has 16 bits */
};

/* ---- learning what it is ---- */

struct probe {
    struct plx_reactor *reactor;
    struct nvme_disk *disk;
    int ret;
    struct plx_error *err;
    const char *name;
};

/* A limit that is given as a power of two of pages, zero for none, in blocks. */
static uint32_t in_blocks(const struct nvme_ctrlr *c, unsigned shift, uint8_t exponent, uint32_t none)
{
    unsigned bits = exponent + 12u + (unsigned)(nvme_ctrlr_cap(c) >> 48 & 15);
    if (!exponent || bits >= shift + 32u)
        return none;
    return (uint32_t)plx_max_u64(1, plx_min_u64(none, UINT64_C(1) << bits >> shift));
}

struct nvme_limits nvme_limits_of(const struct nvme_ctrlr *c, unsigned shift)
{
    const struct nvme_ns *ns = nvme_ctrlr_ns(c);
    uint64_t dmrsl = plx_get32(ns->limits.dmrsl), dmsl = plx_get64(ns->limits.dmsl); /* 0: no limit */
    return (struct nvme_limits){
        .zero = in_blocks(c, shift, ns->limits.wzsl, NLB_MAX),
        .verify = in_blocks(c, shift, ns->limits.vsl, NLB_MAX),
        .fused = plx_get16(nvme_ctrlr_id(c)->acwu) + 1u,
        .copy = (uint32_t)plx_min_u64(plx_get16(ns->id.mssrl), plx_get32(ns->id.mcl)),
        .unmap = (uint32_t)plx_min_u64(dmrsl ? dmrsl : UINT32_MAX, dmsl ? dmsl : UINT32_MAX),
    };
}

static uint32_t nvme_ops_of(const struct nvme_id_ctrl *id)
{
    unsigned oncs = plx_get16(id->oncs);
    return 1u << PLX_BDEV_READ | 1u << PLX_BDEV_WRITE | 1u << PLX_BDEV_FLUSH |
           (oncs & ONCS_COMPARE ? 1u << PLX_BDEV_COMPARE : 0) |
           (oncs & ONCS_WRITE_ZEROES ? 1u << PLX_BDEV_WRITE_ZEROES : 0) | (oncs & ONCS_DSM ? 1u << PLX_BDEV_UNMAP : 0) |
           (oncs & ONCS_COPY && (plx_get16(id->cdfs) & CDFS_FORMAT_0 || !plx_get16(id->cdfs)) ? 1u << PLX_BDEV_COPY
                                                                                              : 0) |
           (oncs & ONCS_VERIFY ? 1u << PLX_BDEV_VERIFY : 0) |
           (plx_get16(id->fuses) & FUSES_COMPARE_AND_WRITE ? 1u << PLX_BDEV_COMPARE_AND_WRITE : 0);
}

static bool is_pcie(const struct nvme_disk *d)
{
    return d->where.o.transport == &nvme_pcie;
}

/* Writes that others make of one, or in another order, are not for zones. */
static void take_zones(struct nvme_disk *d, const struct nvme_ctrlr *c)
{
    struct plx_bdev_info *info = &d->bdev.info;
    info->zone_blocks = d->ns.zone_blocks;
    info->max_open_zones = d->ns.max_open;
    info->max_active_zones = d->ns.max_active;
    info->reads_cross_zones = d->ns.ozcs & NVME_OZCS_READ_ACROSS;
    info->zone_capacity_varies = d->ns.zoc & NVME_ZOC_VARIABLE_CAPACITY;
    info->zones_finish = d->ns.zoc & NVME_ZOC_EXCURSIONS;
    info->max_append_blocks = (uint32_t)plx_min_u64(d->max_blocks, in_blocks(c, d->shift, d->ns.zasl, NLB_MAX));
    info->ops &= 1u << PLX_BDEV_READ | 1u << PLX_BDEV_WRITE | 1u << PLX_BDEV_FLUSH | 1u << PLX_BDEV_COMPARE |
                 1u << PLX_BDEV_VERIFY;
    info->ops |= PLX_BDEV_ZONED_OPS;
    info->max_unmap_blocks = 0;
}

static void take_limits(struct nvme_disk *d, const struct nvme_ctrlr *c)
{
    d->max_blocks = (uint32_t)plx_min_u64(nvme_protect_blocks(&d->protection, nvme_ctrlr_max_transfer(c)), NLB_MAX);
    d->limits = nvme_limits_of(c, d->shift);
    d->limits.fused = (uint32_t)plx_min_u64(d->limits.fused, d->max_blocks);
    if (is_pcie(d) && !d->ns.zone_blocks) /* where pieces would have to wait for each other */
        d->boundary = nvme_ctrlr_stripes(c) ? d->max_blocks : plx_get16(d->ns.id.noiob);
    d->deallocates = d->ns.id.dlfeat & DLFEAT_DEAC;
}

static void nvme_fill_info(struct nvme_disk *d, const struct nvme_ctrlr *c)
{
    const struct nvme_id_ctrl *id = nvme_ctrlr_id(c);
    const struct nvme_id_ns *ns = &d->ns.id;
    struct plx_bdev_info *info = &d->bdev.info;
    bool sizes = ns->nsfeat & NSFEAT_OPTPERF;
    info->block_size = 1u << d->shift;
    info->blocks = plx_get64(ns->nsze);
    info->ops = nvme_ops_of(id);
    if (!d->limits.copy)
        info->ops &= ~(1u << PLX_BDEV_COPY);
    /* What compares or copies tuples is done by reads and writes, which check and make them. */
    if (d->protection.metadata)
        info->ops &= ~(1u << PLX_BDEV_COMPARE | 1u << PLX_BDEV_COPY | 1u << PLX_BDEV_COMPARE_AND_WRITE);
    info->write_unit = info->block_size * (sizes ? (uint32_t)plx_min_u64(plx_get16(ns->npwg) + 1u, 2048) : 1);
    info->unmap_granularity = sizes ? plx_get16(ns->npdg) + 1u : 1;
    info->max_unmap_blocks = d->limits.unmap;
    info->unmap_reads_zero = (ns->dlfeat & DLFEAT_READS) == DLFEAT_READS_ZERO;
    info->write_cache = id->vwc & VWC_PRESENT;
    info->shared = d->where.o.transport != &nvme_pcie;
    info->read_only = ns->nsattr & NSATTR_WRITE_PROTECTED;
    if (d->ns.zone_blocks)
        take_zones(d, c);
}

/* The namespace's own identifier; else one made from where it is. */
static int fill_uuid(struct nvme_disk *d)
{
    uint8_t *uuid = d->bdev.info.uuid;
    if (d->ns.has_uuid && !plx_uuid_nil(d->ns.uuid)) {
        memcpy(uuid, d->ns.uuid, 16);
        return 0;
    }
    if (!plx_uuid_nil(d->ns.id.nguid)) {
        memcpy(uuid, d->ns.id.nguid, 16);
        return 0;
    }
    uint8_t name[NVME_NQN_FIELD + 4] = {0};
    plx_le32 nsid = plx_put32(d->ns.nsid);
    memcpy(name, d->where.o.subnqn, NVME_NQN_FIELD);
    memcpy(name + NVME_NQN_FIELD, &nsid, sizeof nsid);
    return plx_uuid_from_name(name, sizeof name, uuid);
}

static void take_told_text(char *out, const char *field, size_t size)
{
    while (size && (field[size - 1] == ' ' || !field[size - 1]))
        size--;
    memcpy(out, field, size);
}

static void take_told(struct nvme_disk *d, const struct nvme_ctrlr *c)
{
    const struct nvme_id_ctrl *id = nvme_ctrlr_id(c);
    struct plx_bdev_nvme_info *told = &d->told;
    *told = (struct plx_bdev_nvme_info){.nsid = d->ns.nsid,
                                        .version = nvme_ctrlr_vs(c),
                                        .cntlid = nvme_ctrlr_cntlid(c),
                                        .vendor = plx_get16(id->vid),
                                        .oacs = plx_get16(id->oacs),
                                        .cmic = id->cmic,
                                        .nmic = d->ns.id.nmic};
    const struct nvme_protection *p = &d->protection;
    told->md_size = p->metadata;
    told->md_interleave = p->interleaved;
    told->dif_type = p->type;
    told->dif_first = p->type && p->first;
    told->dif_guard_bits = (uint8_t)(!p->type ? 0 : p->tuple == 8 ? 16 : 64);
    told->checks_guard = p->type && (p->alone || p->guard);
    told->checks_reftag = p->type && p->type != 3 && (p->alone || p->ref);
    told->checks_apptag = p->app;
    take_told_text(told->model, id->mn, sizeof id->mn);
    take_told_text(told->serial, id->sn, sizeof id->sn);
    take_told_text(told->firmware, id->fr, sizeof id->fr);
    snprintf(told->subnqn, sizeof told->subnqn, "%.223s", nvme_ctrlr_subnqn(c));
    if (d->where.o.transport == &nvme_pcie)
        snprintf(told->pci_address, sizeof told->pci_address, "%.15s", d->where.paths[0].list[0].name);
}

/* Metadata comes and goes over PCIe alone. */
static int learn_protection(struct nvme_disk *d, const char *name, struct plx_error *err)
{
    struct plx_error why;
    const unsigned metadata = nvme_ns_format(&d->ns.id) & 0xffff;
    if (metadata && d->where.o.transport != &nvme_pcie)
        return plx_fail(err, -ENOTSUP, "%s: namespace %u has metadata, %u bytes a block; format it without", name,
                        d->ns.nsid, metadata);
    if (metadata && d->ns.csi == NVME_CSI_ZONED)
        return plx_fail(err, -ENOTSUP,
                        "%s: namespace %u is zoned, and has metadata, %u bytes a block; format it without", name,
                        d->ns.nsid, metadata);
    if (nvme_protection_of(&d->ns, &d->where.o, &d->protection, &why))
        return plx_fail(err, -ENOTSUP, "%s: namespace %u %s", name, d->ns.nsid, why.text);
    return 0;
}

static int learn(struct nvme_disk *d, const struct nvme_ctrlr *c, struct plx_error *err)
{
    const char *name = nvme_ctrlr_name(c);
    d->ns = *nvme_ctrlr_ns(c);
    if (!d->ns.nsid)
        return plx_fail(err, -EINVAL, "%s: %s is a discovery subsystem, and has no disks", name, d->where.o.subnqn);
    uint32_t format = nvme_ns_format(&d->ns.id);
    d->shift = format >> 16 & 0xff;
    if (d->ns.csi != NVME_CSI_NVM && d->ns.csi != NVME_CSI_ZONED)
        return plx_fail(err, -ENOTSUP, "%s: namespace %u has command set %u; NVM (0) and zoned (2) are possible", name,
                        d->ns.nsid, d->ns.csi);
    if (d->ns.csi == NVME_CSI_ZONED && (!d->ns.zone_blocks || d->ns.zone_blocks > plx_get64(d->ns.id.nsze)))
        return plx_fail(err, -ENOTSUP, "%s: namespace %u has zones of %llu blocks, more than it has, or none", name,
                        d->ns.nsid, (unsigned long long)d->ns.zone_blocks);
    if (learn_protection(d, name, err))
        return -ENOTSUP;
    if (d->shift < 9 || d->shift > 16 || !nvme_blocks_possible(plx_get64(d->ns.id.nsze), d->shift))
        return plx_fail(err, -ENOTSUP,
                        "%s: namespace %u has blocks of 2^%u bytes, %llu of them; 512 to 64K is possible", name,
                        d->ns.nsid, d->shift, (unsigned long long)plx_get64(d->ns.id.nsze));
    if (nvme_protect_blocks(&d->protection, nvme_ctrlr_max_transfer(c)) == 0)
        return plx_fail(err, -ENOTSUP, "%s: a command transfers %u bytes at most, less than a block of namespace %u",
                        name, nvme_ctrlr_max_transfer(c), d->ns.nsid);
    memcpy(d->where.o.subnqn, nvme_ctrlr_subnqn(c), sizeof d->where.o.subnqn);
    take_limits(d, c);
    nvme_fill_info(d, c);
    take_told(d, c);
    return fill_uuid(d) ? plx_fail(err, -ENOMEM, "cannot make a UUID for the disk") : 0;
}

static void probe_live(struct nvme_ctrlr *c, void *arg)
{
    struct probe *p = arg;
    p->ret = learn(p->disk, c, p->err);
    plx_reactor_stop(p->reactor);
}

static void probe_failed(struct nvme_ctrlr *c, void *arg, int ret, const char *why, bool again)
{
    struct probe *p = arg;
    (void)c, (void)again;
    p->ret = plx_fail(p->err, ret, "%s: %s", p->name, why);
    plx_reactor_stop(p->reactor);
}

static void probe_ignore(struct nvme_ctrlr *c, void *arg)
{
    (void)c, (void)arg;
}

static const struct nvme_ctrlr_ops probe_ops = {
    .live = probe_live, .down = probe_ignore, .failed = probe_failed, .ana = probe_ignore};

int nvme_disk_probe(struct nvme_disk *d, unsigned path, struct plx_error *err)
{
    struct nvme_opts o = nvme_where_opts(&d->where, path);
    struct probe p = {.disk = d, .err = err, .name = o.addrs.list[0].name};
    struct nvme_ctrlr *c;
    int ret = plx_reactor_create_aside(&p.reactor);
    if (ret)
        return plx_fail(err, ret, "cannot make a reactor: %s", strerror(-ret));
    o.queues = 0;
    ret = nvme_ctrlr_create(p.reactor, &o, &probe_ops, &p, &c);
    if (ret) {
        plx_fail(err, ret, "%s: %s", p.name, strerror(-ret));
    } else {
        nvme_ctrlr_start(c, true);
        plx_reactor_run(p.reactor);
        nvme_ctrlr_destroy(c);
        ret = p.ret;
    }
    plx_reactor_destroy(p.reactor);
    return ret;
}

/* ---- the disk ---- */

static void disk_free(struct nvme_disk *d)
{
    if (d->held)
        nvme_pcie_release(d->where.paths[0].list[0].name);
    free(d);
}

static void nvme_disk_close(struct plx_bdev *bdev)
{
    disk_free(nvme_disk_of(bdev));
}

int nvme_channel_open(struct plx_bdev_channel *ch)
{
    struct nvme_channel *nc = nvme_channel_of(ch);
    nc->ch = ch;
    nc->disk = nvme_disk_of(ch->bdev);
    nvme_commands_init(nc);
    return nvme_paths_open(nc);
}

void nvme_channel_close(struct plx_bdev_channel *ch)
{
    nvme_paths_close(nvme_channel_of(ch));
}

static const struct plx_bdev_ops nvme_ops = {
    .close = nvme_disk_close,
    .channel_open = nvme_channel_open,
    .channel_close = nvme_channel_close,
    .submit = nvme_bio_submit,
    .abort = nvme_bio_abort,
};

static const struct plx_bdev_ops zoned_ops = {
    .close = nvme_disk_close,
    .channel_open = nvme_channel_open,
    .channel_close = nvme_channel_close,
    .submit = nvme_zoned_submit,
    .abort = nvme_bio_abort,
};

/* What devices do best with, if they say so; for others that is not looked at. */
static const struct plx_bdev_ops nvme_bounded_ops = {
    .close = nvme_disk_close,
    .channel_open = nvme_channel_open,
    .channel_close = nvme_channel_close,
    .submit = nvme_bio_submit_bounded,
    .abort = nvme_bio_abort,
};

bool nvme_is_disk(const struct plx_bdev *bdev)
{
    return bdev->ops == &nvme_ops || bdev->ops == &zoned_ops || bdev->ops == &nvme_bounded_ops;
}

/* Where it is, by its name. */
static int take_where(struct nvme_disk *d, const struct plx_url *url, bool pcie, struct plx_error *err)
{
    nvme_where_init(&d->where);
    int ret = plx_url_only(url, pcie ? NVME_PCIE_PARAMS : NVME_WHERE_PARAMS, err);
    if (!ret)
        ret = pcie ? nvme_where_pcie(&d->where, url->body, err) : nvme_where_body(&d->where, url->body, err);
    for (int i = 0; i < url->nparams && !ret; i++)
        ret = plx_blame(url->name, nvme_where_param(&d->where, url->params[i].key, url->params[i].value, err), err);
    return ret || pcie ? ret : nvme_where_finish(&d->where, err);
}

/* The device is held from before it is looked at, so that it is not begun with anew for each channel. */
static int look_at_it(struct nvme_disk *d, struct plx_error *err)
{
    int ret = is_pcie(d) ? nvme_pcie_hold(d->where.paths[0].list[0].name) : 0;
    if (ret)
        return plx_fail(err, ret, "cannot make a thread for the device: %s", strerror(-ret));
    d->held = is_pcie(d);
    ret = -EHOSTUNREACH;
    for (unsigned i = 0; i < d->where.npaths && ret; i++)
        ret = nvme_disk_probe(d, i, err);
    return ret;
}

static int nvme_open(const struct plx_url *url, bool pcie, struct plx_bdev **out, struct plx_error *err)
{
    uint8_t uuid[16];
    struct nvme_disk *d = calloc(1, sizeof *d);
    if (!d)
        return plx_fail(err, -ENOMEM, "out of memory");
    int ret = plx_url_uuid(url, NULL, uuid, err);
    if (!ret)
        ret = take_where(d, url, pcie, err);
    if (!ret)
        ret = look_at_it(d, err);
    if (ret) {
        disk_free(d);
        return ret;
    }
    if (!plx_uuid_nil(uuid))
        memcpy(d->bdev.info.uuid, uuid, sizeof uuid);
    d->bdev.ops = d->ns.zone_blocks ? &zoned_ops : d->boundary ? &nvme_bounded_ops : &nvme_ops;
    nvme_control_init(d);
    d->bdev.channel_size = sizeof(struct nvme_channel);
    *out = &d->bdev;
    return 0;
}

static int nvme_tcp_open(const struct plx_url *url, struct plx_bdev **out, struct plx_error *err)
{
    return nvme_open(url, false, out, err);
}

static int nvme_pcie_open(const struct plx_url *url, struct plx_bdev **out, struct plx_error *err)
{
    return nvme_open(url, true, out, err);
}

const struct plx_bdev_driver plx_bdev_nvme_tcp = {
    .scheme = "nvme+tcp",
    .help = "nvme+tcp://ADDR:PORT[,ADDR:PORT]/NQN[?nsid=N&queues=N&hdgst=1&ddgst=1&...]  a remote namespace",
    .open = nvme_tcp_open,
};

const struct plx_bdev_driver plx_bdev_nvme_pcie = {
    .scheme = "pcie",
    .help = "pcie://0000:01:00.0[/NSID][?depth=N&timeout=S&...]  an SSD, driven by this process",
    .open = nvme_pcie_open,
};
