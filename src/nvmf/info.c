/* SPDX-License-Identifier: BSD-3-Clause */
/* For those who look at what they, or others, have made. */
#include "nvmf/nvmf.h"
#include "nvmf/reservation.h"

#include <stdio.h>

/* An element of a list after one, which is NULL before the first; or NULL. */
static struct plx_list *list_after(const struct plx_list *list, const struct plx_list *one)
{
    struct plx_list *next = one ? one->next : list->next;
    return next == list ? NULL : next;
}

struct plx_nvmf_subsystem *plx_nvmf_subsystem_next(const struct plx_nvmf_target *t, const struct plx_nvmf_subsystem *s)
{
    nvmf_assert_control(t);
    struct plx_list *link = list_after(&t->subsystems, s ? &s->link : NULL);
    if (link == &t->discovery->link)
        link = list_after(&t->subsystems, link);
    return link ? plx_list_entry(link, struct plx_nvmf_subsystem, link) : NULL;
}

struct plx_nvmf_subsystem *plx_nvmf_subsystem_find(const struct plx_nvmf_target *t, const char *nqn)
{
    struct plx_nvmf_subsystem *s = NULL;
    while ((s = plx_nvmf_subsystem_next(t, s)) && strcmp(s->nqn, nqn) != 0)
        ;
    return s;
}

/* Out of a field that is padded with blanks. */
static void unpad(char *out, const char *field, size_t size)
{
    memcpy(out, field, size);
    while (size && out[size - 1] == ' ')
        size--;
    out[size] = 0;
}

void plx_nvmf_subsystem_info(const struct plx_nvmf_subsystem *s, struct plx_nvmf_subsystem_info *out)
{
    nvmf_assert_control(s->target);
    *out = (struct plx_nvmf_subsystem_info){.allow_any_host = s->allow_any_host,
                                            .min_cntlid = s->min_cntlid,
                                            .max_cntlid = s->max_cntlid,
                                            .max_namespaces = s->max_namespaces};
    memcpy(out->nqn, s->nqn, sizeof s->nqn);
    unpad(out->serial, s->serial, sizeof s->serial);
    unpad(out->model, s->model, sizeof s->model);
}

const char *plx_nvmf_subsystem_host(const struct plx_nvmf_subsystem *s, unsigned i)
{
    nvmf_assert_control(s->target);
    return i < s->nhosts ? s->hosts[i].nqn : NULL;
}

bool plx_nvmf_ns_info(const struct plx_nvmf_subsystem *s, uint32_t nsid, struct plx_nvmf_ns_info *out)
{
    nvmf_assert_control(s->target);
    const struct nvmf_ns *ns = nsid - 1 < s->nns ? s->ns[nsid - 1] : NULL;
    if (!ns)
        return false;
    *out = (struct plx_nvmf_ns_info){.nsid = nsid,
                                     .anagrpid = ns->anagrpid,
                                     .bdev = ns->bdev,
                                     .own_uuid = ns->own_uuid,
                                     .own_nguid = ns->own_nguid,
                                     .no_auto_visible = ns->masked,
                                     .ptpl_file = nvmf_resv_file(ns)};
    memcpy(out->uuid, ns->uuid, sizeof ns->uuid);
    memcpy(out->nguid, ns->nguid, sizeof ns->nguid);
    memcpy(out->eui64, ns->eui64, sizeof ns->eui64);
    return true;
}

uint32_t plx_nvmf_ns_next(const struct plx_nvmf_subsystem *s, uint32_t nsid)
{
    nvmf_assert_control(s->target);
    for (; nsid < s->nns; nsid++)
        if (s->ns[nsid])
            return nsid + 1;
    return 0;
}

struct plx_nvmf_listener *plx_nvmf_listener_next(const struct plx_nvmf_target *t, const struct plx_nvmf_listener *l)
{
    nvmf_assert_control(t);
    struct plx_list *link = list_after(&t->listeners, l ? &l->link : NULL);
    return link ? plx_list_entry(link, struct plx_nvmf_listener, link) : NULL;
}

static const struct nvmf_port *port_of(const struct plx_nvmf_subsystem *s, const struct plx_nvmf_listener *l)
{
    for (unsigned i = 0; i < s->nports; i++)
        if (s->ports[i].portid == l->portid)
            return &s->ports[i];
    return &s->ports[0];
}

bool plx_nvmf_subsystem_reachable(const struct plx_nvmf_subsystem *s, const struct plx_nvmf_listener *l)
{
    nvmf_assert_control(s->target);
    return s->everywhere || port_of(s, l)->reachable;
}

enum plx_nvmf_ana plx_nvmf_subsystem_ana(const struct plx_nvmf_subsystem *s, const struct plx_nvmf_listener *l,
                                         uint32_t anagrpid)
{
    nvmf_assert_control(s->target);
    return (enum plx_nvmf_ana)port_of(s, l)->ana[anagrpid - 1];
}

const char *plx_nvmf_referral(const struct plx_nvmf_target *t, unsigned i, uint16_t *port)
{
    nvmf_assert_control(t);
    if (i >= t->nreferrals)
        return NULL;
    *port = t->referrals[i].port;
    return t->referrals[i].addr;
}
