/* SPDX-License-Identifier: BSD-3-Clause */
/* Zones: what may be written where, how many may be open, and what is told of them. ZNS 2.1, 3.4 */
#include "pcie_model_impl.h"

#include <string.h>

enum {
    DNR = NVME_STATUS_DNR,
    EMPTY = 1,
    OPEN = 2, /* by a write */
    OPENED = 3,
    CLOSED = 4,
    READ_ONLY = 13,
    FULL = 14,
    OFFLINE = 15,
    ZSA_CLOSE = 1,
    ZSA_FINISH = 2,
    ZSA_OPEN = 3,
    ZSA_RESET = 4,
    ZSA_OFFLINE = 5,
    ZONE_BYTES = 64, /* of a descriptor, and of what is before them */
};

void pm_zones_init(struct pm_ns *ns)
{
    ns->nzones = ns->is.zone_blocks ? (unsigned)(ns->is.blocks / ns->is.zone_blocks) : 0;
    for (unsigned i = 0; i < ns->nzones; i++)
        ns->zones[i] = (struct pm_zone){.state = EMPTY, .wp = (uint64_t)i * ns->is.zone_blocks};
}

static bool is_open(const struct pm_zone *z)
{
    return z->state == OPEN || z->state == OPENED;
}

static uint64_t zone_start(const struct pm_ns *ns, const struct pm_zone *z)
{
    return (uint64_t)(z - ns->zones) * ns->is.zone_blocks;
}

/* A zone becomes open: others that writes have opened make room. @return status */
static uint16_t zone_open(struct pm_ns *ns, struct pm_zone *z, uint8_t state)
{
    unsigned open = 0, active = 0;
    struct pm_zone *other = NULL;
    for (unsigned i = 0; i < ns->nzones; i++) {
        open += is_open(&ns->zones[i]);
        active += is_open(&ns->zones[i]) || ns->zones[i].state == CLOSED;
        if (ns->zones[i].state == OPEN)
            other = &ns->zones[i];
    }
    if (is_open(z)) {
        z->state = z->state == OPENED ? OPENED : state;
        return 0;
    }
    if (z->state == EMPTY && ns->is.max_active && active == ns->is.max_active)
        return PLX_SC_TOO_MANY_ACTIVE_ZONES | DNR;
    if (ns->is.max_open && open == ns->is.max_open && !other)
        return PLX_SC_TOO_MANY_OPEN_ZONES | DNR;
    if (ns->is.max_open && open == ns->is.max_open)
        other->state = CLOSED;
    z->state = state;
    return 0;
}

uint16_t pm_zone_write(struct pcie_model *m, struct pm_cmd *c, struct pm_ns *ns, uint64_t *lba, uint64_t n)
{
    struct pm_zone *z = &ns->zones[*lba / ns->is.zone_blocks];
    const uint64_t start = zone_start(ns, z);
    (void)m;
    if (z->state == FULL)
        return PLX_SC_ZONE_IS_FULL | DNR;
    if (z->state == READ_ONLY)
        return PLX_SC_ZONE_IS_READ_ONLY | DNR;
    if (z->state == OFFLINE)
        return PLX_SC_ZONE_IS_OFFLINE | DNR;
    if (c->sqe.opcode == NVME_IO_ZONE_APPEND && *lba != start)
        return PLX_SC_INVALID_FIELD | DNR;
    if (c->sqe.opcode == NVME_IO_ZONE_APPEND)
        *lba = z->wp;
    if (*lba != z->wp)
        return PLX_SC_ZONE_INVALID_WRITE | DNR;
    if (n > start + ns->is.zone_capacity - *lba)
        return PLX_SC_ZONE_BOUNDARY_ERROR | DNR;
    uint16_t status = zone_open(ns, z, OPEN);
    if (status)
        return status;
    z->wp += n;
    if (z->wp == start + ns->is.zone_capacity)
        z->state = FULL;
    c->dw0 = (uint32_t)*lba;
    c->dw1 = (uint32_t)(*lba >> 32);
    return 0;
}

uint16_t pm_zone_read(const struct pm_ns *ns, uint64_t lba, uint64_t n)
{
    const uint64_t first = lba / ns->is.zone_blocks, last = (lba + n - 1) / ns->is.zone_blocks;
    for (uint64_t i = first; i <= last; i++)
        if (ns->zones[i].state == OFFLINE)
            return PLX_SC_ZONE_IS_OFFLINE | DNR;
    return first != last && !(ns->is.ozcs & 1) ? PLX_SC_ZONE_BOUNDARY_ERROR | DNR : 0;
}

void pcie_model_zone_set(struct pcie_model *m, uint32_t nsid, unsigned zone, uint8_t state)
{
    pthread_mutex_lock(&m->lock);
    pm_ns_of(m, nsid)->zones[zone].state = state;
    pthread_mutex_unlock(&m->lock);
}

/* Whether that can be done in that state, as Select All has it. */
static bool may(const struct pm_zone *z, unsigned action)
{
    return action == ZSA_CLOSE    ? is_open(z)
           : action == ZSA_FINISH ? is_open(z) || z->state == CLOSED
           : action == ZSA_OPEN   ? z->state == CLOSED
           : action == ZSA_RESET  ? is_open(z) || z->state == CLOSED || z->state == FULL
                                  : z->state == READ_ONLY;
}

static uint16_t act(struct pm_ns *ns, struct pm_zone *z, unsigned action, bool all)
{
    const bool here = may(z, action) || (z->state == EMPTY && action != ZSA_CLOSE && action != ZSA_OFFLINE) ||
                      (action == ZSA_CLOSE && z->state == CLOSED) || (action == ZSA_FINISH && z->state == FULL);
    if (all && !may(z, action))
        return 0;
    if (!here)
        return PLX_SC_INVALID_ZONE_STATE_TRANSITION | DNR;
    switch (action) {
    case ZSA_CLOSE:
        z->state = z->wp == zone_start(ns, z) ? EMPTY : CLOSED;
        return 0;
    case ZSA_FINISH:
        z->state = FULL;
        return 0;
    case ZSA_OPEN:
        return zone_open(ns, z, OPENED);
    case ZSA_OFFLINE:
        z->state = OFFLINE;
        return 0;
    default:
        *z = (struct pm_zone){.state = EMPTY, .wp = zone_start(ns, z)};
        return 0;
    }
}

static uint16_t manage(struct pm_cmd *c, struct pm_ns *ns, uint64_t lba)
{
    const uint32_t cdw13 = plx_get32(c->sqe.cdw13);
    const unsigned action = cdw13 & 0xff;
    const bool all = cdw13 >> 8 & 1;
    uint16_t status = 0;
    if (action < ZSA_CLOSE || action > ZSA_OFFLINE || (!all && lba % ns->is.zone_blocks))
        return PLX_SC_INVALID_FIELD | DNR;
    if (!all)
        return act(ns, &ns->zones[lba / ns->is.zone_blocks], action, false);
    for (unsigned i = 0; i < ns->nzones && !status; i++)
        status = act(ns, &ns->zones[i], action, true);
    return status;
}

static uint16_t report(struct pcie_model *m, struct pm_cmd *c, struct pm_ns *ns, uint64_t lba)
{
    static const uint8_t reported[] = {0, EMPTY, OPEN, OPENED, CLOSED, FULL, READ_ONLY, OFFLINE}; /* ZRASF */
    const size_t bytes = (plx_get32(c->sqe.cdw12) + UINT64_C(1)) * 4;
    const unsigned first = (unsigned)(lba / ns->is.zone_blocks);
    const uint32_t cdw13 = plx_get32(c->sqe.cdw13);
    uint32_t count = 0, told = 0;
    if (cdw13 & 0xff || (cdw13 >> 8 & 0xff) >= sizeof reported || bytes > m->bounce_bytes)
        return PLX_SC_INVALID_FIELD | DNR;
    if (pm_too_long(m, c, bytes, m->o.mdts))
        return PLX_SC_INVALID_FIELD | DNR;
    memset(m->bounce, 0xa5, bytes); /* what is behind the zones that are told of is anything */
    memset(m->bounce, 0, plx_min_u64(bytes, ZONE_BYTES));
    for (unsigned i = first; i < ns->nzones; i++) {
        if (reported[cdw13 >> 8 & 0xff] && reported[cdw13 >> 8 & 0xff] != ns->zones[i].state)
            continue;
        count++;
        if ((told + 2) * (size_t)ZONE_BYTES > bytes)
            continue;
        uint8_t *to = m->bounce + ++told * (size_t)ZONE_BYTES;
        const plx_le64 numbers[] = {plx_put64(ns->is.zone_capacity), plx_put64(zone_start(ns, &ns->zones[i])),
                                    plx_put64(ns->zones[i].wp)};
        memset(to, 0, ZONE_BYTES);
        memcpy(to + 8, numbers, sizeof numbers);
        to[0] = 2;
        to[1] = (uint8_t)(ns->zones[i].state << 4);
    }
    plx_poke32(m->bounce, cdw13 >> 16 & 1 ? told : count); /* partial */
    return pm_answer_data(m, c, m->bounce, bytes);
}

uint16_t pm_zone_command(struct pcie_model *m, struct pm_cmd *c, struct pm_ns *ns)
{
    const uint64_t lba = plx_get32(c->sqe.cdw10) | (uint64_t)plx_get32(c->sqe.cdw11) << 32;
    if (lba >= ns->is.blocks)
        return PLX_SC_LBA_OUT_OF_RANGE | DNR;
    return c->sqe.opcode == NVME_IO_ZONE_MANAGE ? manage(c, ns, lba) : report(m, c, ns, lba);
}
