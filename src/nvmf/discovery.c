/* SPDX-License-Identifier: BSD-3-Clause */
/* The discovery log (Base 5.1.12.3.1): every subsystem that the asking host may connect to, at every listener. */
#include "nvmf/nvmf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void fill_entry(struct nvme_discovery_entry *e, const struct plx_nvmf_subsystem *s,
                       const struct plx_nvmf_listener *l, const char *addr)
{
    char port[8];
    memset(e, 0, sizeof *e);
    e->trtype = l->target->transport->trtype;
    e->adrfam = l->family == AF_INET6 ? NVME_ADRFAM_IPV6 : NVME_ADRFAM_IPV4;
    e->subtype = s->discovery ? NVME_SUBTYPE_CURRENT_DISCOVERY : NVME_SUBTYPE_NVM;
    e->treq = 1 << 2; /* a secure channel is not specified; SQ flow control may be disabled */
    e->portid = plx_put16(l->portid);
    e->cntlid = plx_put16(NVME_CNTLID_DYNAMIC);
    e->asqsz = plx_put16(NVMF_ADMIN_QUEUE_ENTRIES);
    e->eflags =
        plx_put16(s->discovery ? 1 << 0 | 1 << 1 : 0); /* same records at all ports; explicit persistent connections */
    snprintf(port, sizeof port, "%u", l->port);
    nvmf_pad(e->trsvcid, sizeof e->trsvcid, port);
    nvmf_pad(e->traddr, sizeof e->traddr, addr);
    snprintf(e->subnqn, sizeof e->subnqn, "%s", s->nqn);
}

/*
 * A listener at a wildcard address is reached where this host reached it, if the families are the same. What stands
 * after '%' is this machine's own name for a link, and says nothing to others (RFC 4007, 6).
 */
static bool address_for(const struct plx_nvmf_listener *l, const struct sockaddr_storage *local,
                        char addr[PLX_ADDR_TEXT])
{
    if (l->wildcard && local->ss_family != l->family)
        return false;
    if (l->wildcard)
        plx_addr_host(local, addr);
    else
        memcpy(addr, l->addr, sizeof l->addr);
    addr[strcspn(addr, "%")] = 0;
    return true;
}

/* One subsystem, at every listener. @return how many entries that are */
static uint64_t fill_entries(struct nvme_discovery_entry *e, const struct plx_nvmf_subsystem *s,
                             const struct sockaddr_storage *local)
{
    uint64_t n = 0;
    plx_list_for_each(it, &s->target->listeners) {
        char addr[PLX_ADDR_TEXT];
        const struct plx_nvmf_listener *l = plx_list_entry(it, struct plx_nvmf_listener, link);
        if (address_for(l, local, addr))
            fill_entry(&e[n++], s, l, addr);
    }
    return n;
}

void *nvmf_discovery_log(struct nvmf_ctrlr *c, struct nvmf_qpair *qp, size_t *len)
{
    struct plx_nvmf_target *t = c->target;
    struct sockaddr_storage local = {0};
    size_t max = 0;
    plx_list_for_each(l, &t->listeners) {
        max += t->nsubsystems;
    }
    struct nvme_discovery_header *log = calloc(1, sizeof *log + max * sizeof(struct nvme_discovery_entry));
    if (!log)
        return NULL;
    struct nvme_discovery_entry *entries = (void *)(log + 1);
    uint64_t n = 0;
    t->transport->local_addr(qp, &local);
    plx_list_for_each(it, &t->subsystems) {
        const struct plx_nvmf_subsystem *s = plx_list_entry(it, struct plx_nvmf_subsystem, link);
        if (s != t->discovery && nvmf_subsystem_allows(s, c->hostnqn))
            n += fill_entries(&entries[n], s, &local);
    }
    n += fill_entries(&entries[n], t->discovery, &local); /* last: some hosts read the first entries only */
    log->genctr = plx_put64(1);                           /* nothing changes while the target runs */
    log->numrec = plx_put64(n);
    *len = sizeof *log + n * sizeof *entries;
    return log;
}
