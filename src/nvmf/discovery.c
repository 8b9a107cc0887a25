/* SPDX-License-Identifier: BSD-3-Clause */
/* The discovery log (Base 5.1.12.3.1): every subsystem that the asking host may connect to, at every listener. */
#include "nvmf/nvmf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void fill_entry(struct nvme_discovery_entry *e, const char *nqn, uint8_t subtype, const struct nvmf_where *w,
                       const char *addr, uint8_t trtype)
{
    char port[8];
    memset(e, 0, sizeof *e);
    e->trtype = trtype;
    e->adrfam = w->family == AF_INET6 ? NVME_ADRFAM_IPV6 : NVME_ADRFAM_IPV4;
    e->subtype = subtype;
    e->treq = 1 << 2; /* a secure channel is not specified; SQ flow control may be disabled */
    e->portid = plx_put16(w->portid);
    e->cntlid = plx_put16(NVME_CNTLID_DYNAMIC);
    e->asqsz = plx_put16(NVMF_ADMIN_QUEUE_ENTRIES);
    if (subtype == NVME_SUBTYPE_CURRENT_DISCOVERY) /* same records at all ports; explicit persistent connections */
        e->eflags = plx_put16(1 << 0 | 1 << 1);
    snprintf(port, sizeof port, "%u", w->port);
    nvmf_pad(e->trsvcid, sizeof e->trsvcid, port);
    nvmf_pad(e->traddr, sizeof e->traddr, addr);
    snprintf(e->subnqn, sizeof e->subnqn, "%s", nqn);
}

/*
 * A listener at a wildcard address is reached where this host reached it, if the families are the same. What stands
 * after '%' is this machine's own name for a link, and says nothing to others (RFC 4007, 6).
 */
static bool address_for(const struct nvmf_where *w, const struct sockaddr_storage *local, char addr[PLX_ADDR_TEXT])
{
    if (w->wildcard && local->ss_family != w->family)
        return false;
    if (w->wildcard)
        plx_addr_host(local, addr);
    else
        memcpy(addr, w->addr, sizeof w->addr);
    addr[strcspn(addr, "%")] = 0;
    return true;
}

/* One subsystem, at every listener where it is reachable. @return how many entries that are */
static uint64_t fill_entries(struct nvme_discovery_entry *e, const struct nvmf_snapshot *snap,
                             const struct nvmf_image *image, const struct sockaddr_storage *local)
{
    const struct plx_nvmf_subsystem *s = image->subsys;
    uint64_t n = 0;
    for (unsigned i = 0; i < snap->nlisteners; i++) {
        char addr[PLX_ADDR_TEXT];
        const struct nvmf_where *w = &snap->listeners[i];
        if (nvmf_image_reachable(image, w->portid) && address_for(w, local, addr))
            fill_entry(&e[n++], s->nqn, s->discovery ? NVME_SUBTYPE_CURRENT_DISCOVERY : NVME_SUBTYPE_NVM, w, addr,
                       s->target->transport->trtype);
    }
    return n;
}

void *nvmf_discovery_log(const struct nvmf_snapshot *snap, struct nvmf_qpair *qp, size_t *len)
{
    const struct plx_nvmf_target *t = qp->group->target;
    struct sockaddr_storage local = {0};
    size_t max = (size_t)snap->nlisteners * snap->nimages + snap->nreferrals;
    struct nvme_discovery_header *log = calloc(1, sizeof *log + max * sizeof(struct nvme_discovery_entry));
    if (!log)
        return NULL;
    struct nvme_discovery_entry *entries = (void *)(log + 1);
    uint64_t n = 0;
    t->transport->local_addr(qp, &local);
    for (unsigned i = 0; i < snap->nimages; i++) {
        const struct nvmf_image *image = snap->images[i];
        if (image && !image->subsys->discovery && nvmf_image_allows(image, qp->ctrlr->hostnqn))
            n += fill_entries(&entries[n], snap, image, &local);
    }
    for (unsigned i = 0; i < snap->nreferrals; i++)
        fill_entry(&entries[n++], NVME_DISCOVERY_NQN, NVME_SUBTYPE_DISCOVERY, &snap->referrals[i],
                   snap->referrals[i].addr, t->transport->trtype);
    /* Discovery itself is last: some hosts read the first entries only. */
    n += fill_entries(&entries[n], snap, snap->images[t->discovery->index], &local);
    log->genctr = plx_put64(snap->genctr);
    log->numrec = plx_put64(n);
    *len = sizeof *log + n * sizeof *entries;
    return log;
}
