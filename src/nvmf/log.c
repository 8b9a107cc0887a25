/* SPDX-License-Identifier: BSD-3-Clause */
/* Get Log Page (Base 5.1.12): each page is built whole, then the part that was asked for is copied out. */
#include "nvmf/nvmf.h"

#include <stdlib.h>
#include <string.h>

enum {
    CSUPP = 1 << 0, /* Commands Supported and Effects: supported; changes data; both are of Base 5.1.12.1.6 */
    LBCC = 1 << 1,
    KELVIN = 273,
    UNKNOWN_TEMPERATURE = 25 + KELVIN,
    SMALL_PAGE = 4096,
    RETAIN_EVENT = 1 << 15, /* RAE, of dword 10 */
    /* What every zoned disk does that may be written to: hosts ask before there is one, perhaps. */
    OF_ALL_ZONED = PLX_BDEV_ZONED_OPS | 1 << PLX_BDEV_READ | 1 << PLX_BDEV_WRITE | 1 << PLX_BDEV_FLUSH,
};

struct page {
    uint8_t lid;
    bool nvm, discovery; /* which kinds of controller have it */
    /*
     * Builds the page. Small ones into `small`, zeroed; larger ones return memory of malloc()'s. @return the page, or
     * NULL without memory
     */
    void *(*build)(struct nvmf_req *req, uint8_t small[SMALL_PAGE], size_t *len);
};

static const struct page *log_find(uint8_t lid, bool discovery);

static void *build_supported(struct nvmf_req *req, uint8_t *small, size_t *len)
{
    plx_le32 *page = (void *)small;
    bool discovery = req->qp->ctrlr->subsys->discovery;
    for (unsigned lid = 0; lid < 256; lid++)
        if (log_find((uint8_t)lid, discovery))
            page[lid] = plx_put32(CSUPP);
    *len = 1024;
    return small;
}

/* Newest first, as Base 5.1.12.1.2 wants it. */
static void *build_errors(struct nvmf_req *req, uint8_t *small, size_t *len)
{
    struct nvmf_ctrlr *c = req->qp->ctrlr;
    struct nvme_error_entry *page = (void *)small;
    pthread_mutex_lock(&c->error_lock);
    for (uint64_t i = 0; i < NVMF_ERROR_LOG && i < c->nerrors; i++)
        page[i] = c->errors[(c->nerrors - 1 - i) % NVMF_ERROR_LOG];
    pthread_mutex_unlock(&c->error_lock);
    *len = NVMF_ERROR_LOG * sizeof *page;
    return small;
}

static void put128(uint8_t field[16], uint64_t v)
{
    plx_le64 low = plx_put64(v);
    memset(field, 0, 16);
    memcpy(field, &low, sizeof low);
}

static void *build_health(struct nvmf_req *req, uint8_t *small, size_t *len)
{
    struct nvmf_ctrlr *c = req->qp->ctrlr;
    struct nvme_health_log *page = (void *)small;
    uint64_t blocks_read, blocks_written, reads, writes;
    nvmf_image_stats(req->qp->image, &blocks_read, &blocks_written, &reads, &writes);
    page->temperature = plx_put16(UNKNOWN_TEMPERATURE);
    page->spare = 100;
    page->spare_threshold = 10;
    /* Data units are thousands of 512 bytes, rounded up. */
    put128(page->data_units_read, (blocks_read + 999) / 1000);
    put128(page->data_units_written, (blocks_written + 999) / 1000);
    put128(page->host_reads, reads);
    put128(page->host_writes, writes);
    put128(page->power_cycles, 1);
    put128(page->power_on_hours,
           (plx_reactor_now(req->qp->group->reactor) - c->target->started_at) / (3600 * PLX_NS_PER_S));
    pthread_mutex_lock(&c->error_lock);
    put128(page->error_entries, c->nerrors);
    pthread_mutex_unlock(&c->error_lock);
    *len = sizeof *page;
    return small;
}

static void *build_firmware(struct nvmf_req *req, uint8_t *small, size_t *len)
{
    (void)req;
    const char *v = plx_version();
    small[0] = 1; /* slot 1 is active */
    memset(small + 8, ' ', 8);
    memcpy(small + 8, v, plx_min_u64(strlen(v), 8));
    *len = 512;
    return small;
}

/* Ascending, since the page was last read (Base 5.1.12.1.5). A page holds as many as there can be. */
static void *build_changed_ns(struct nvmf_req *req, uint8_t *small, size_t *len)
{
    const struct nvmf_image *image = req->qp->image;
    plx_le32 *page = (void *)small;
    unsigned n = 0;
    for (uint32_t i = 0; i < image->nns; i++)
        if (image->ns[i].changed > req->qp->ctrlr->ns_seen)
            page[n++] = plx_put32(i + 1);
    *len = SMALL_PAGE;
    return small;
}

/* The I/O command set that a page is about. */
static uint8_t csi_of_log(const struct nvmf_req *req)
{
    return (uint8_t)(plx_get32(req->cmd.cdw14) >> 24);
}

static void *build_effects(struct nvmf_req *req, uint8_t *small, size_t *len)
{
    static const uint8_t admin[] = {NVME_ADMIN_GET_LOG_PAGE, NVME_ADMIN_IDENTIFY,     NVME_ADMIN_ABORT,
                                    NVME_ADMIN_SET_FEATURES, NVME_ADMIN_GET_FEATURES, NVME_ADMIN_ASYNC_EVENT,
                                    NVME_ADMIN_KEEP_ALIVE};
    static const struct {
        uint8_t opcode;
        uint8_t op; /* enum plx_bdev_op that a disk must have for it */
        uint8_t effects;
    } io[] = {
        {NVME_IO_FLUSH, PLX_BDEV_FLUSH, CSUPP | LBCC},
        {NVME_IO_WRITE, PLX_BDEV_WRITE, CSUPP | LBCC},
        {NVME_IO_READ, PLX_BDEV_READ, CSUPP},
        {NVME_IO_COMPARE, PLX_BDEV_COMPARE, CSUPP},
        {NVME_IO_WRITE_ZEROES, PLX_BDEV_WRITE_ZEROES, CSUPP | LBCC},
        {NVME_IO_DSM, PLX_BDEV_UNMAP, CSUPP | LBCC},
        {NVME_IO_VERIFY, PLX_BDEV_VERIFY, CSUPP},
        {NVME_IO_COPY, PLX_BDEV_COPY, CSUPP | LBCC},
        {NVME_IO_RESV_REGISTER, PLX_BDEV_READ, CSUPP},
        {NVME_IO_RESV_REPORT, PLX_BDEV_READ, CSUPP},
        {NVME_IO_RESV_ACQUIRE, PLX_BDEV_READ, CSUPP},
        {NVME_IO_RESV_RELEASE, PLX_BDEV_READ, CSUPP},
        {NVME_IO_ZONE_MANAGE, PLX_BDEV_ZONE_MANAGE, CSUPP | LBCC},
        {NVME_IO_ZONE_REPORT, PLX_BDEV_ZONE_REPORT, CSUPP},
        {NVME_IO_ZONE_APPEND, PLX_BDEV_ZONE_APPEND, CSUPP | LBCC},
    };
    const struct nvmf_abilities *can = &req->qp->image->can;
    const uint32_t ops = csi_of_log(req) == NVME_CSI_ZONED ? can->zoned_ops | OF_ALL_ZONED : can->ops;
    plx_le32 *page = (void *)small;
    for (size_t i = 0; i < sizeof admin; i++)
        page[admin[i]] = plx_put32(CSUPP);
    for (size_t i = 0; i < PLX_ARRAY_SIZE(io); i++)
        if (ops & 1u << io[i].op)
            page[256 + io[i].opcode] = plx_put32(io[i].effects);
    *len = SMALL_PAGE;
    return small;
}

/* One group that has namespaces: 32 bytes, then those (Base 5.1.12.1.13). @return the end, or p where there are none */
static uint8_t *put_ana_group(uint8_t *p, const struct nvmf_image *image, const struct nvmf_port *port, uint32_t group,
                              bool groups_only)
{
    plx_le32 *nsids = (void *)(p + 32);
    uint32_t n = 0;
    uint64_t changed = port->changed;
    for (uint32_t i = 0; i < image->nns; i++) {
        if (!image->ns[i].ns || image->ns[i].anagrpid != group)
            continue;
        nsids[n++] = plx_put32(i + 1);
        changed = plx_max_u64(changed, image->ns[i].changed);
    }
    if (!n)
        return p;
    if (groups_only)
        memset(nsids, 0, n * sizeof *nsids), n = 0;
    *(plx_le32 *)(void *)p = plx_put32(group);
    *(plx_le32 *)(void *)(p + 4) = plx_put32(n);
    *(plx_le64 *)(void *)(p + 8) = plx_put64(changed);
    p[16] = port->ana[group - 1];
    return p + 32 + n * sizeof *nsids;
}

/* What the path by which the host came is good for: 16 bytes of header, then groups. */
static void *build_ana(struct nvmf_req *req, uint8_t *small, size_t *len)
{
    (void)small;
    const struct nvmf_image *image = req->qp->image;
    const struct nvmf_port *port = nvmf_image_port(image, req->qp->portid);
    bool groups_only = (plx_get32(req->cmd.cdw10) >> 8) & 1; /* LSP bit 0: RGO */
    uint8_t *page = calloc(1, 16 + 32 * (size_t)PLX_NVMF_ANA_GROUPS + 4 * (size_t)image->nns);
    if (!page)
        return NULL;
    uint8_t *p = page + 16;
    unsigned n = 0;
    uint64_t changed = port->changed;
    for (uint32_t group = 1; group <= PLX_NVMF_ANA_GROUPS; group++) {
        uint8_t *end = put_ana_group(p, image, port, group, groups_only);
        n += end != p;
        p = end;
    }
    for (uint32_t i = 0; i < image->nns; i++) /* those that have left a group, too */
        changed = plx_max_u64(changed, image->ns[i].changed);
    *(plx_le64 *)(void *)page = plx_put64(changed);
    *(plx_le16 *)(void *)(page + 8) = plx_put16(n);
    *len = (size_t)(p - page);
    return page;
}

/* Feature Identifiers Supported and Effects: Base 5.1.12.1.16 */
static void *build_features(struct nvmf_req *req, uint8_t *small, size_t *len)
{
    (void)req;
    plx_le32 *page = (void *)small;
    for (unsigned i = 0; nvmf_feature_id(i) >= 0; i++) {
        int id = nvmf_feature_id(i);
        bool by_ns = id == NVME_FEAT_RESV_MASK || id == NVME_FEAT_RESV_PERSIST;
        page[id] = plx_put32(1u << 0 | 1u << (by_ns ? 20 : 21)); /* supported; scope: a namespace, or the controller */
    }
    *len = 1024;
    return small;
}

/* One notification, the oldest that has not been read. */
static void *build_reservation(struct nvmf_req *req, uint8_t *small, size_t *len)
{
    nvmf_resv_log_page(req->qp->ctrlr, (void *)small);
    *len = sizeof(struct nvme_resv_log);
    return small;
}

static void *build_discovery(struct nvmf_req *req, uint8_t *small, size_t *len)
{
    (void)small;
    return nvmf_discovery_log(req->qp->group->snap, req->qp, len);
}

static const struct page pages[] = {
    {NVME_LOG_SUPPORTED, true, true, build_supported},
    {NVME_LOG_ERROR, true, true, build_errors},
    {NVME_LOG_HEALTH, true, false, build_health},
    {NVME_LOG_FIRMWARE, true, false, build_firmware},
    {NVME_LOG_CHANGED_NS, true, false, build_changed_ns},
    {NVME_LOG_EFFECTS, true, false, build_effects},
    {NVME_LOG_ANA, true, false, build_ana},
    {NVME_LOG_FEATURES, true, false, build_features},
    {NVME_LOG_DISCOVERY, false, true, build_discovery},
    {NVME_LOG_RESERVATION, true, false, build_reservation},
};

static const struct page *log_find(uint8_t lid, bool discovery)
{
    for (size_t i = 0; i < PLX_ARRAY_SIZE(pages); i++)
        if (pages[i].lid == lid && (discovery ? pages[i].discovery : pages[i].nvm))
            return &pages[i];
    return NULL;
}

static void execute_get_log(struct nvmf_req *req)
{
    _Alignas(8) uint8_t small[SMALL_PAGE] = {0};
    size_t len = 0;
    uint64_t offset = plx_get32(req->cmd.cdw12) | (uint64_t)plx_get32(req->cmd.cdw13) << 32;
    const struct page *p = log_find(plx_get32(req->cmd.cdw10) & 0xff, req->qp->ctrlr->subsys->discovery);
    uint8_t *page = p->build(req, small, &len);
    uint16_t status = PLX_SC_SUCCESS;
    if (!page)
        status = PLX_SC_INTERNAL_ERROR;
    else if (offset > len)
        status = PLX_SC_INVALID_FIELD | NVME_STATUS_DNR;
    else
        nvmf_reply(req, page + offset, len - offset);
    if (page != small)
        free(page);
    if (!status && !(plx_get32(req->cmd.cdw10) & RETAIN_EVENT)) {
        nvmf_event_clear(req->qp->ctrlr, p->lid);
        if (p->lid == NVME_LOG_CHANGED_NS)
            req->qp->ctrlr->ns_seen = req->qp->group->snap->generation;
        if (p->lid == NVME_LOG_RESERVATION)
            nvmf_resv_log_drop(req->qp->ctrlr);
    }
    nvmf_req_complete(req, status);
}

uint16_t nvmf_parse_get_log(struct nvmf_req *req)
{
    uint32_t cdw10 = plx_get32(req->cmd.cdw10), cdw11 = plx_get32(req->cmd.cdw11), cdw14 = plx_get32(req->cmd.cdw14);
    uint64_t dwords = ((uint64_t)(cdw11 & 0xffff) << 16 | cdw10 >> 16) + 1;
    uint8_t lid = cdw10 & 0xff;
    bool index_offset = cdw14 & 1u << 23;
    if (!log_find(lid, req->qp->ctrlr->subsys->discovery))
        return PLX_SC_INVALID_LOG_PAGE | NVME_STATUS_DNR;
    if (lid == NVME_LOG_EFFECTS && csi_of_log(req) != NVME_CSI_NVM && csi_of_log(req) != NVME_CSI_ZONED)
        return PLX_SC_INVALID_FIELD | NVME_STATUS_DNR;
    if ((plx_get32(req->cmd.cdw12) & 3) || index_offset)
        return PLX_SC_INVALID_FIELD | NVME_STATUS_DNR;
    req->execute = execute_get_log;
    return nvmf_expect_data(req, NVMF_TO_HOST, dwords * 4);
}
