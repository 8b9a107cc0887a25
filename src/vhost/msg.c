/* SPDX-License-Identifier: BSD-3-Clause */
#include "vhost/msg.h"

#include "base/util.h"

#include <stdio.h>

enum body {
    NOTHING,
    U64,     /* anything */
    STATE,   /* the index is a ring's */
    ADDR,    /* so it is here */
    RING_FD, /* and here, in a u64, with a descriptor unless bit 8 is set */
    TABLE,
    SINGLE,
    LOG,
    CONFIG,
    INFLIGHT,
};

/* fds: at least and at most. need: the protocol feature that it is of, or -1. */
static const struct rule {
    const char *name;
    uint8_t body, min_fds, max_fds;
    int8_t need;
    bool answers; /* in any case */
} rules[VHOST_REQUESTS] = {
    [VHOST_GET_FEATURES] = {"GET_FEATURES", NOTHING, 0, 0, -1, true},
    [VHOST_SET_FEATURES] = {"SET_FEATURES", U64, 0, 0, -1, false},
    [VHOST_SET_OWNER] = {"SET_OWNER", NOTHING, 0, 0, -1, false},
    [VHOST_RESET_OWNER] = {"RESET_OWNER", NOTHING, 0, 0, -1, false},
    [VHOST_SET_MEM_TABLE] = {"SET_MEM_TABLE", TABLE, 0, VHOST_TABLE_REGIONS, -1, false},
    [VHOST_SET_LOG_BASE] = {"SET_LOG_BASE", LOG, 0, 1, VHOST_PROTOCOL_LOG_SHMFD, true},
    [VHOST_SET_LOG_FD] = {"SET_LOG_FD", NOTHING, 0, 1, -1, false},
    [VHOST_SET_VRING_NUM] = {"SET_VRING_NUM", STATE, 0, 0, -1, false},
    [VHOST_SET_VRING_ADDR] = {"SET_VRING_ADDR", ADDR, 0, 0, -1, false},
    [VHOST_SET_VRING_BASE] = {"SET_VRING_BASE", STATE, 0, 0, -1, false},
    [VHOST_GET_VRING_BASE] = {"GET_VRING_BASE", STATE, 0, 0, -1, true},
    [VHOST_SET_VRING_KICK] = {"SET_VRING_KICK", RING_FD, 0, 1, -1, false},
    [VHOST_SET_VRING_CALL] = {"SET_VRING_CALL", RING_FD, 0, 1, -1, false},
    [VHOST_SET_VRING_ERR] = {"SET_VRING_ERR", RING_FD, 0, 1, -1, false},
    [VHOST_GET_PROTOCOL_FEATURES] = {"GET_PROTOCOL_FEATURES", NOTHING, 0, 0, -1, true},
    [VHOST_SET_PROTOCOL_FEATURES] = {"SET_PROTOCOL_FEATURES", U64, 0, 0, -1, false},
    [VHOST_GET_QUEUE_NUM] = {"GET_QUEUE_NUM", NOTHING, 0, 0, VHOST_PROTOCOL_MQ, true},
    [VHOST_SET_VRING_ENABLE] = {"SET_VRING_ENABLE", STATE, 0, 0, -1, false},
    [VHOST_SET_BACKEND_REQ_FD] = {"SET_BACKEND_REQ_FD", NOTHING, 1, 1, VHOST_PROTOCOL_BACKEND_REQ, false},
    [VHOST_GET_CONFIG] = {"GET_CONFIG", CONFIG, 0, 0, VHOST_PROTOCOL_CONFIG, true},
    [VHOST_SET_CONFIG] = {"SET_CONFIG", CONFIG, 0, 0, VHOST_PROTOCOL_CONFIG, false},
    [VHOST_GET_INFLIGHT_FD] = {"GET_INFLIGHT_FD", INFLIGHT, 0, 0, VHOST_PROTOCOL_INFLIGHT_SHMFD, true},
    [VHOST_SET_INFLIGHT_FD] = {"SET_INFLIGHT_FD", INFLIGHT, 1, 1, VHOST_PROTOCOL_INFLIGHT_SHMFD, false},
    [VHOST_RESET_DEVICE] = {"RESET_DEVICE", NOTHING, 0, 0, VHOST_PROTOCOL_RESET_DEVICE, false},
    [VHOST_GET_MAX_MEM_SLOTS] = {"GET_MAX_MEM_SLOTS", NOTHING, 0, 0, VHOST_PROTOCOL_CONFIGURE_MEM_SLOTS, true},
    [VHOST_ADD_MEM_REG] = {"ADD_MEM_REG", SINGLE, 1, 1, VHOST_PROTOCOL_CONFIGURE_MEM_SLOTS, false},
    /* Some send the descriptor here, too, which is not used. */
    [VHOST_REM_MEM_REG] = {"REM_MEM_REG", SINGLE, 0, 1, VHOST_PROTOCOL_CONFIGURE_MEM_SLOTS, false},
    [VHOST_SET_STATUS] = {"SET_STATUS", U64, 0, 0, VHOST_PROTOCOL_STATUS, false},
    [VHOST_GET_STATUS] = {"GET_STATUS", NOTHING, 0, 0, VHOST_PROTOCOL_STATUS, true},
};

static const struct rule *rule_of(uint32_t request)
{
    return request < VHOST_REQUESTS && rules[request].name ? &rules[request] : NULL;
}

const char *vhost_msg_name(uint32_t request)
{
    const struct rule *r = rule_of(request);
    return r ? r->name : "an unknown message";
}

enum vhost_verdict vhost_msg_header(const struct vhost_header *h)
{
    bool version = (h->flags & VHOST_VERSION_MASK) == VHOST_VERSION;
    return version && !(h->flags & VHOST_REPLY) && h->size <= sizeof(union vhost_body) ? VHOST_TAKE : VHOST_BREAK;
}

static bool size_fits(const struct vhost_msg *m, enum body body)
{
    const uint32_t size = m->header.size;
    switch (body) {
    case NOTHING: /* some send a u64 along */
        return size == 0 || size == sizeof(uint64_t);
    case U64:
    case RING_FD:
        return size == sizeof(uint64_t);
    case STATE:
        return size == sizeof(struct vhost_state);
    case ADDR:
        return size == sizeof(struct vhost_addr);
    case TABLE:
        return size >= offsetof(struct vhost_mem_table, regions) && m->body.table.n <= VHOST_TABLE_REGIONS &&
               size >= offsetof(struct vhost_mem_table, regions[m->body.table.n]);
    case SINGLE:
        return size == sizeof(struct vhost_mem_single);
    case LOG:
        return size == sizeof(struct vhost_log_base);
    case CONFIG:
        return size >= VHOST_CONFIG_HEADER && m->body.config.size == size - VHOST_CONFIG_HEADER;
    case INFLIGHT: /* with its padding, or without */
        return size == sizeof(struct vhost_inflight) || size == offsetof(struct vhost_inflight, padding);
    }
    return false;
}

int vhost_msg_ring(const struct vhost_msg *m)
{
    const struct rule *r = rule_of(m->header.request);
    switch (r ? (int)r->body : NOTHING) {
    case STATE:
        return (int)m->body.state.index;
    case ADDR:
        return (int)m->body.addr.index;
    case RING_FD:
        return (int)(m->body.u64 & 0xff);
    default:
        return -1;
    }
}

/* All of the field is looked at: an index that was cut to the bits that count would be another ring's. */
static bool ring_is_there(const struct vhost_msg *m, enum body body, unsigned rings)
{
    switch ((int)body) {
    case STATE:
        return m->body.state.index < rings;
    case ADDR:
        return m->body.addr.index < rings;
    case RING_FD:
        return (m->body.u64 & ~(uint64_t)VHOST_NO_FD) < rings;
    case NOTHING:
    case U64:
    case TABLE:
    case SINGLE:
    case LOG:
    case CONFIG:
    case INFLIGHT:
        break;
    }
    return true;
}

/* Those below are of the kind of device, and mean something else of another. */
static const char *feature_name(unsigned bit)
{
    static const struct {
        unsigned bit;
        const char *name;
    } names[] = {{VHOST_F_LOG_ALL, "LOG_ALL"},          {VIRTIO_F_INDIRECT_DESC, "INDIRECT_DESC"},
                 {VIRTIO_F_EVENT_IDX, "EVENT_IDX"},     {VHOST_USER_F_PROTOCOL_FEATURES, "PROTOCOL_FEATURES"},
                 {VIRTIO_F_VERSION_1, "VERSION_1"},     {33, "ACCESS_PLATFORM"},
                 {VIRTIO_F_RING_PACKED, "RING_PACKED"}, {35, "IN_ORDER"}};
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(names); i++)
        if (names[i].bit == bit)
            return names[i].name;
    return NULL;
}

void vhost_msg_unoffered(uint64_t features, char *out, size_t size)
{
    const char *before = "features that are not offered: ";
    for (size_t n = 0; features && n < size; before = ", ") {
        const unsigned bit = (unsigned)__builtin_ctzll(features);
        const char *name = feature_name(bit);
        n += (size_t)snprintf(out + n, size - n, name ? "%s%u (%s)" : "%s%u", before, bit, name);
        features &= features - 1;
    }
}

static const char *region_problem(const struct vhost_mem_region *r)
{
    if (!r->size)
        return "a region of no bytes";
    if (r->guest + r->size < r->guest || r->user + r->size < r->user || r->offset + r->size < r->offset)
        return "a region that goes beyond the end of an address space";
    return NULL;
}

static const char *table_problem(const struct vhost_msg *m)
{
    const struct vhost_mem_table *t = &m->body.table;
    if (m->nfds != t->n)
        return "not one descriptor a region";
    for (uint32_t i = 0; i < t->n; i++)
        if (region_problem(&t->regions[i]))
            return region_problem(&t->regions[i]);
    return NULL;
}

static const char *num_problem(uint32_t num, const struct vhost_terms *t)
{
    if (!num || num > VHOST_RING_MAX)
        return "a ring has 1 to 1024 descriptors";
    return !t->packed && num & (num - 1) ? "the size of a split ring is a power of two" : NULL;
}

static const char *inflight_problem(const struct vhost_msg *m, const struct vhost_terms *t)
{
    const struct vhost_inflight *i = &m->body.inflight;
    if (!i->queues || i->queues > t->rings)
        return "another number of rings than there can be";
    if (!i->queue_size || i->queue_size > VHOST_RING_MAX)
        return "a ring has 1 to 1024 descriptors";
    if (m->header.request == VHOST_SET_INFLIGHT_FD && (!i->size || i->offset + i->size < i->offset))
        return "a region that goes beyond the end of a file";
    return NULL;
}

static const char *value_problem(const struct vhost_msg *m, const struct vhost_terms *t)
{
    switch (m->header.request) {
    case VHOST_SET_FEATURES:
        return m->body.u64 & ~t->offered ? "a feature that is not offered" : NULL;
    case VHOST_SET_PROTOCOL_FEATURES:
        return m->body.u64 & ~t->offered_protocol ? "a protocol feature that was not offered" : NULL;
    case VHOST_SET_MEM_TABLE:
        return table_problem(m);
    case VHOST_ADD_MEM_REG:
    case VHOST_REM_MEM_REG:
        return region_problem(&m->body.single.region);
    case VHOST_SET_VRING_NUM:
        return num_problem(m->body.state.num, t);
    case VHOST_SET_VRING_BASE:
        return !t->packed && m->body.state.num > UINT16_MAX ? "an index of a split ring has 16 bits" : NULL;
    case VHOST_SET_VRING_KICK:
    case VHOST_SET_VRING_CALL:
    case VHOST_SET_VRING_ERR:
        return m->nfds != !(m->body.u64 & VHOST_NO_FD) ? "a descriptor that is there or not, against what is said"
                                                       : NULL;
    case VHOST_SET_LOG_BASE:
        return m->nfds != 1 || !m->body.log.size || m->body.log.offset + m->body.log.size < m->body.log.size
                   ? "no log that could be written"
                   : NULL;
    case VHOST_GET_INFLIGHT_FD:
    case VHOST_SET_INFLIGHT_FD:
        return inflight_problem(m, t);
    default:
        return NULL;
    }
}

enum vhost_verdict vhost_msg_check(const struct vhost_msg *m, const struct vhost_terms *t, const char **why)
{
    const struct rule *r = rule_of(m->header.request);
    *why = "it is not known";
    if (!r)
        return VHOST_REFUSE;
    *why = "it has another size";
    if (!size_fits(m, (enum body)r->body))
        return VHOST_BREAK;
    *why = "it carries another number of descriptors";
    if (m->nfds < r->min_fds || m->nfds > r->max_fds)
        return VHOST_BREAK;
    *why = "the protocol feature that it is of was not agreed on";
    if (r->need >= 0 && !(t->protocol & VHOST_BIT(r->need)))
        return VHOST_REFUSE;
    *why = "there is no such ring: the front-end has more queues than the device";
    if (!ring_is_there(m, (enum body)r->body, t->rings))
        return VHOST_REFUSE;
    *why = value_problem(m, t);
    return *why ? VHOST_REFUSE : VHOST_TAKE;
}

bool vhost_msg_answers(const struct vhost_msg *m)
{
    const struct rule *r = rule_of(m->header.request);
    return r && r->answers;
}
