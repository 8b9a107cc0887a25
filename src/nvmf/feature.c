/* SPDX-License-Identifier: BSD-3-Clause */
/* Get and Set Features (Base 5.1.11, 5.1.25). Nothing is saveable; every feature is listed once, in features[]. */
#include "nvmf/nvmf.h"

#include <string.h>

enum {
    SELECT_CURRENT = 0,
    SELECT_DEFAULT = 1,
    SELECT_SAVED = 2,
    SELECT_SUPPORTED = 3,
    CHANGEABLE = 1 << 2, /* of the attributes that SELECT_SUPPORTED reports */
    BY_NAMESPACE = 1 << 1,
    HOST_BEHAVIOR_BYTES = 512,
    HOST_ID_BYTES = 16,
    TEMPERATURE_OVER = 343, /* Kelvin, like WCTEMP */
    COMMAND_SETS = 0x1ff,   /* the combination of command sets that is chosen */
};

struct feature {
    uint8_t id;
    bool changeable;
    bool discovery; /* a discovery controller has it too */
    uint16_t data;  /* bytes of data that go with it */
    /* NULL, with set, of those that namespaces have: reserve.c's */
    uint32_t (*get)(const struct nvmf_ctrlr *c, uint32_t cdw11, bool defaults);
    uint16_t (*set)(struct nvmf_ctrlr *c, struct nvmf_req *req, uint32_t cdw11);
};

/* A feature that is a plain word of the controller. */
#define WORD_FEATURE(name, member, initial, mask)                                                                      \
    static uint32_t get_##name(const struct nvmf_ctrlr *c, uint32_t cdw11, bool defaults)                              \
    {                                                                                                                  \
        (void)cdw11;                                                                                                   \
        return defaults ? (initial) : c->member;                                                                       \
    }                                                                                                                  \
    static uint16_t set_##name(struct nvmf_ctrlr *c, struct nvmf_req *req, uint32_t cdw11)                             \
    {                                                                                                                  \
        (void)req;                                                                                                     \
        c->member = cdw11 & (mask);                                                                                    \
        return PLX_SC_SUCCESS;                                                                                         \
    }

WORD_FEATURE(arbitration, feat_arbitration, 0, 0xffffffff)
WORD_FEATURE(error_recovery, feat_error_recovery, 0, 0xffff)
WORD_FEATURE(atomicity, feat_atomicity, 0, 1)

static uint32_t get_power(const struct nvmf_ctrlr *c, uint32_t cdw11, bool defaults)
{
    (void)cdw11;
    return defaults ? 0 : c->feat_power;
}

static uint16_t set_power(struct nvmf_ctrlr *c, struct nvmf_req *req, uint32_t cdw11)
{
    (void)req;
    if (cdw11 & 0x1f) /* there is power state 0 alone */
        return PLX_SC_INVALID_FIELD | NVME_STATUS_DNR;
    c->feat_power = cdw11 & 0xff;
    return PLX_SC_SUCCESS;
}

/*
 * Temperature Threshold: bits 21:20 choose over (0) or under (1), bits 19:16 the sensor (0, the composite, is all there
 * is).
 */
static uint32_t get_temperature(const struct nvmf_ctrlr *c, uint32_t cdw11, bool defaults)
{
    bool under = (cdw11 >> 20) & 3;
    if (defaults)
        return under ? 0 : TEMPERATURE_OVER;
    return under ? c->feat_temp_under : c->feat_temp_over;
}

static uint16_t set_temperature(struct nvmf_ctrlr *c, struct nvmf_req *req, uint32_t cdw11)
{
    (void)req;
    unsigned kind = (cdw11 >> 20) & 3, sensor = (cdw11 >> 16) & 15;
    if (kind > 1 || (sensor != 0 && sensor != 15))
        return PLX_SC_INVALID_FIELD | NVME_STATUS_DNR;
    *(kind ? &c->feat_temp_under : &c->feat_temp_over) = cdw11 & 0xffff;
    return PLX_SC_SUCCESS;
}

static uint32_t get_write_cache(const struct nvmf_ctrlr *c, uint32_t cdw11, bool defaults)
{
    (void)c, (void)cdw11, (void)defaults;
    return 1;
}

static uint16_t set_write_cache(struct nvmf_ctrlr *c, struct nvmf_req *req, uint32_t cdw11)
{
    (void)c, (void)req;
    /* The cache is the operating system's below a disk: it cannot be switched from here. */
    return cdw11 & 1 ? PLX_SC_SUCCESS : PLX_SC_FEATURE_NOT_CHANGEABLE | NVME_STATUS_DNR;
}

/* Number of Queues: 0's based, submission queues in the low half, completion queues in the high one. */
static uint32_t get_queues(const struct nvmf_ctrlr *c, uint32_t cdw11, bool defaults)
{
    (void)cdw11;
    uint32_t n = (c->nqueues && !defaults ? c->nqueues : c->target->opts.max_queues) - 1;
    return n << 16 | n;
}

static uint16_t set_queues(struct nvmf_ctrlr *c, struct nvmf_req *req, uint32_t cdw11)
{
    uint32_t sq = cdw11 & 0xffff, cq = cdw11 >> 16;
    if (sq == 0xffff || cq == 0xffff)
        return PLX_SC_INVALID_FIELD | NVME_STATUS_DNR;
    if (atomic_load(&c->nqpairs) > 1)
        return PLX_SC_COMMAND_SEQUENCE_ERROR | NVME_STATUS_DNR; /* only before there are I/O queues (Base 5.1.25.1.5) */
    uint32_t n = (uint32_t)plx_min_u64(plx_min_u64(sq, cq) + 1, c->target->opts.max_queues);
    c->nqueues = (uint16_t)n;
    req->cqe.dw0 = plx_put32((n - 1) << 16 | (n - 1));
    return PLX_SC_SUCCESS;
}

static uint32_t get_keep_alive(const struct nvmf_ctrlr *c, uint32_t cdw11, bool defaults)
{
    (void)cdw11;
    return defaults ? 0 : c->kato_ms;
}

static uint16_t set_keep_alive(struct nvmf_ctrlr *c, struct nvmf_req *req, uint32_t cdw11)
{
    (void)req;
    c->kato_ms = cdw11;
    nvmf_ctrlr_start_keep_alive(c);
    return PLX_SC_SUCCESS;
}

static uint32_t get_async_event(const struct nvmf_ctrlr *c, uint32_t cdw11, bool defaults)
{
    (void)cdw11;
    return defaults ? 0 : c->feat_async_event;
}

static uint16_t set_async_event(struct nvmf_ctrlr *c, struct nvmf_req *req, uint32_t cdw11)
{
    (void)req;
    /* Events that OAES offers; and critical warnings, which need no offer (Base 5.1.25.1.6): none will ever come. */
    if (cdw11 & ~(nvmf_events(c) | 0xff))
        return PLX_SC_INVALID_FIELD | NVME_STATUS_DNR;
    c->feat_async_event = cdw11;
    c->events &= cdw11 | NVMF_EVENT_RESERVATION;
    return PLX_SC_SUCCESS;
}

/* Of combinations of command sets, as Identify tells them, there is the first alone. */
static uint16_t set_command_sets(struct nvmf_ctrlr *c, struct nvmf_req *req, uint32_t cdw11)
{
    (void)c, (void)req;
    return cdw11 & COMMAND_SETS ? PLX_SC_COMMAND_SETS_REJECTED | NVME_STATUS_DNR : PLX_SC_SUCCESS;
}

static uint32_t get_nothing(const struct nvmf_ctrlr *c, uint32_t cdw11, bool defaults)
{
    (void)c, (void)cdw11, (void)defaults;
    return 0;
}

static uint16_t set_host_behavior(struct nvmf_ctrlr *c, struct nvmf_req *req, uint32_t cdw11)
{
    (void)cdw11;
    memcpy(c->host_behavior, req->data, sizeof c->host_behavior);
    return PLX_SC_SUCCESS;
}

static uint16_t set_host_id(struct nvmf_ctrlr *c, struct nvmf_req *req, uint32_t cdw11)
{
    (void)c, (void)req, (void)cdw11;
    return PLX_SC_COMMAND_SEQUENCE_ERROR | NVME_STATUS_DNR; /* over Fabrics it comes with Connect (Base 5.1.25.1.28) */
}

static const struct feature features[] = {
    {NVME_FEAT_ARBITRATION, true, false, 0, get_arbitration, set_arbitration},
    {NVME_FEAT_POWER_MANAGEMENT, true, false, 0, get_power, set_power},
    {NVME_FEAT_TEMPERATURE_THRESHOLD, true, false, 0, get_temperature, set_temperature},
    {NVME_FEAT_ERROR_RECOVERY, true, false, 0, get_error_recovery, set_error_recovery},
    {NVME_FEAT_WRITE_CACHE, false, false, 0, get_write_cache, set_write_cache},
    {NVME_FEAT_NUMBER_OF_QUEUES, true, false, 0, get_queues, set_queues},
    {NVME_FEAT_WRITE_ATOMICITY, true, false, 0, get_atomicity, set_atomicity},
    {NVME_FEAT_ASYNC_EVENT, true, true, 0, get_async_event, set_async_event},
    {NVME_FEAT_KEEP_ALIVE, true, true, 0, get_keep_alive, set_keep_alive},
    {NVME_FEAT_HOST_BEHAVIOR, true, false, HOST_BEHAVIOR_BYTES, get_nothing, set_host_behavior},
    {NVME_FEAT_COMMAND_SET_PROFILE, true, false, 0, get_nothing, set_command_sets},
    {NVME_FEAT_HOST_ID, false, false, HOST_ID_BYTES, get_nothing, set_host_id},
    {NVME_FEAT_RESV_MASK, true, false, 0, NULL, NULL},
    {NVME_FEAT_RESV_PERSIST, true, false, 0, NULL, NULL},
};

int nvmf_feature_id(unsigned n)
{
    return n < PLX_ARRAY_SIZE(features) ? features[n].id : -1;
}

static const struct feature *feature_find(const struct nvmf_req *req)
{
    uint8_t id = plx_get32(req->cmd.cdw10) & 0xff;
    for (size_t i = 0; i < PLX_ARRAY_SIZE(features); i++)
        if (features[i].id == id && (features[i].discovery || !req->qp->ctrlr->subsys->discovery))
            return &features[i];
    return NULL;
}

/* Error Recovery is kept by namespace (Base 5.1.25.1.4); ours do not differ, but the namespace must be there. */
static bool ns_ok(const struct nvmf_req *req, const struct feature *f)
{
    uint32_t nsid = plx_get32(req->cmd.nsid);
    bool all = nsid == NVME_NSID_ALL && (f->get || req->cmd.opcode == NVME_ADMIN_SET_FEATURES);
    return (f->id != NVME_FEAT_ERROR_RECOVERY && f->get) || all || nvmf_image_ns(req->qp->image, nsid);
}

void nvmf_features_reset(struct nvmf_ctrlr *c)
{
    c->feat_arbitration = c->feat_power = c->feat_error_recovery = c->feat_atomicity = c->feat_async_event = 0;
    c->feat_temp_over = TEMPERATURE_OVER;
    c->feat_temp_under = 0;
    memset(c->host_behavior, 0, sizeof c->host_behavior);
    memset(c->resv_mask, 0, sizeof c->resv_mask);
    c->nqueues = 0;
}

static void execute_set(struct nvmf_req *req)
{
    const struct feature *f = feature_find(req);
    nvmf_req_complete(req, f->set(req->qp->ctrlr, req, plx_get32(req->cmd.cdw11)));
}

uint16_t nvmf_parse_set_features(struct nvmf_req *req)
{
    const struct feature *f = feature_find(req);
    if (!f)
        return PLX_SC_INVALID_FIELD | NVME_STATUS_DNR;
    if (!ns_ok(req, f))
        return PLX_SC_INVALID_NAMESPACE_OR_FORMAT | NVME_STATUS_DNR;
    if (plx_get32(req->cmd.cdw10) & 0x80000000)
        return PLX_SC_FEATURE_NOT_SAVEABLE | NVME_STATUS_DNR;
    if (!f->get)
        return nvmf_parse_resv_feature(req);
    req->execute = execute_set;
    req->in_place = true;
    if (f->id == NVME_FEAT_HOST_ID)
        return nvmf_expect_no_data(req); /* refused whatever its data */
    return f->data ? nvmf_expect_data(req, NVMF_FROM_HOST, f->data) : nvmf_expect_no_data(req);
}

static void execute_get(struct nvmf_req *req)
{
    const struct nvmf_ctrlr *c = req->qp->ctrlr;
    const struct feature *f = feature_find(req);
    unsigned select = (plx_get32(req->cmd.cdw10) >> 8) & 7;
    if (f->data) {
        static const uint8_t zeroes[HOST_BEHAVIOR_BYTES];
        const uint8_t *from = f->id == NVME_FEAT_HOST_ID ? c->hostid : c->host_behavior;
        nvmf_reply(req, select == SELECT_CURRENT || f->id == NVME_FEAT_HOST_ID ? from : zeroes, f->data);
    }
    req->cqe.dw0 = plx_put32(f->get(c, plx_get32(req->cmd.cdw11), select != SELECT_CURRENT));
    nvmf_req_complete(req, PLX_SC_SUCCESS);
}

static void execute_get_supported(struct nvmf_req *req)
{
    const struct feature *f = feature_find(req);
    req->cqe.dw0 = plx_put32((f->changeable ? CHANGEABLE : 0) | (f->get ? 0 : BY_NAMESPACE));
    nvmf_req_complete(req, PLX_SC_SUCCESS);
}

uint16_t nvmf_parse_get_features(struct nvmf_req *req)
{
    const struct feature *f = feature_find(req);
    unsigned select = (plx_get32(req->cmd.cdw10) >> 8) & 7;
    if (!f || select > SELECT_SUPPORTED)
        return PLX_SC_INVALID_FIELD | NVME_STATUS_DNR;
    if (!ns_ok(req, f))
        return PLX_SC_INVALID_NAMESPACE_OR_FORMAT | NVME_STATUS_DNR;
    if (select == SELECT_SUPPORTED) {
        req->execute = execute_get_supported;
        return nvmf_expect_no_data(req);
    }
    if (!f->get)
        return nvmf_parse_resv_feature(req);
    /* Host Identifier: the extended format of 16 bytes is the only one over Fabrics */
    if (f->id == NVME_FEAT_HOST_ID && !(plx_get32(req->cmd.cdw11) & 1))
        return PLX_SC_INVALID_FIELD | NVME_STATUS_DNR;
    req->execute = execute_get;
    return f->data ? nvmf_expect_data(req, NVMF_TO_HOST, f->data) : nvmf_expect_no_data(req);
}
