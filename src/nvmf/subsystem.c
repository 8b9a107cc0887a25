/* SPDX-License-Identifier: BSD-3-Clause */
/* Subsystems: a name, the hosts that may connect, and where. What they serve is in namespace.c. */
#include "nvmf/nvmf.h"

#include "base/uuid.h"

#include <errno.h>
#include <openssl/evp.h>
#include <pollux/nvme.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool printable(const char *text, size_t max)
{
    size_t len = strlen(text);
    for (size_t i = 0; i < len; i++)
        if (text[i] < 0x20 || text[i] > 0x7e)
            return false;
    return len > 0 && len <= max;
}

void nvmf_digest(const char *text, size_t len, uint8_t out[32])
{
    unsigned n = 0;
    if (!EVP_Digest(text, len, out, &n, EVP_sha256(), NULL))
        memset(out, 0, 32);
}

/* The same NQN gives the same serial number at every start. */
static void serial_from_nqn(char *serial, size_t size, const char *nqn)
{
    uint8_t sum[32];
    char text[21];
    nvmf_digest(nqn, strlen(nqn), sum);
    snprintf(text, sizeof text, "PLX%02X%02X%02X%02X%02X%02X", sum[0], sum[1], sum[2], sum[3], sum[4], sum[5]);
    nvmf_pad(serial, size, text);
}

static struct plx_nvmf_subsystem *find_subsystem(const struct plx_nvmf_target *t, const char *nqn)
{
    plx_list_for_each(it, &t->subsystems) {
        struct plx_nvmf_subsystem *s = plx_list_entry(it, struct plx_nvmf_subsystem, link);
        if (strcmp(s->nqn, nqn) == 0)
            return s;
    }
    return NULL;
}

static bool index_taken(const struct plx_list *subsystems, unsigned index)
{
    plx_list_for_each(it, subsystems) {
        if (plx_list_entry(it, struct plx_nvmf_subsystem, link)->index == index)
            return true;
    }
    return false;
}

static unsigned free_index(const struct plx_nvmf_target *t)
{
    unsigned n = 0;
    while (index_taken(&t->subsystems, n) || index_taken(&t->removed_subsystems, n) ||
           index_taken(&t->apply.subsystems, n))
        n++;
    return n;
}

/* The subsystem's own copy of what is known of a listener, which begins as that of all others; or NULL. */
static struct nvmf_port *own_port(struct plx_nvmf_subsystem *s, uint16_t portid)
{
    for (unsigned i = 0; i < s->nports; i++)
        if (s->ports[i].portid == portid)
            return &s->ports[i];
    struct nvmf_port *ports = realloc(s->ports, (s->nports + 1) * sizeof *ports);
    if (!ports)
        return NULL;
    s->ports = ports;
    struct nvmf_port *p = &ports[s->nports++];
    if (portid) {
        *p = ports[0];
    } else {
        memset(p->ana, PLX_NVMF_ANA_OPTIMIZED, sizeof p->ana);
        p->changed = NVMF_NEXT;
    }
    p->portid = portid;
    p->reachable = false;
    return p;
}

/* Hosts that it has are to see what has changed. */
static void subsystem_touch(struct plx_nvmf_subsystem *s, bool in_discovery_log)
{
    nvmf_assert_control(s->target);
    s->dirty = true;
    if (in_discovery_log)
        s->target->discovery_changed = true;
}

static struct plx_nvmf_subsystem *add(struct plx_nvmf_target *t, const char *nqn)
{
    struct plx_nvmf_subsystem *s = calloc(1, sizeof *s);
    if (!s || !own_port(s, 0)) {
        free(s);
        return NULL;
    }
    s->target = t;
    s->index = free_index(t);
    s->everywhere = true;
    s->last_cntlid = t->last_cntlid;
    s->min_cntlid = 1;
    s->max_cntlid = NVME_CNTLID_MAX;
    s->max_namespaces = NVMF_MAX_NAMESPACES;
    snprintf(s->nqn, sizeof s->nqn, "%s", nqn);
    serial_from_nqn(s->serial, sizeof s->serial, nqn);
    nvmf_pad(s->model, sizeof s->model, "Pollux");
    plx_list_add_tail(&t->subsystems, &s->link);
    subsystem_touch(s, true);
    return s;
}

static int check_opts(const struct plx_nvmf_subsystem_opts *opts, struct plx_error *err)
{
    const char *problem = plx_nvme_nqn_problem(opts->nqn);
    if (problem)
        return plx_fail(err, -EINVAL, "NQN %.223s %s", opts->nqn, problem);
    if (opts->serial && !printable(opts->serial, 20))
        return plx_fail(err, -EINVAL, "serial number \"%s\" is not 1 to 20 printable characters", opts->serial);
    if (opts->model && !printable(opts->model, 40))
        return plx_fail(err, -EINVAL, "model number \"%s\" is not 1 to 40 printable characters", opts->model);
    uint16_t max = opts->max_cntlid ? opts->max_cntlid : NVME_CNTLID_MAX;
    if (max > NVME_CNTLID_MAX || opts->min_cntlid > max)
        return plx_fail(err, -EINVAL, "controller identifiers are from 1 to %d, not from %u to %u", NVME_CNTLID_MAX,
                        opts->min_cntlid, opts->max_cntlid);
    if (opts->max_namespaces > NVMF_MAX_NAMESPACES)
        return plx_fail(err, -EINVAL, "a subsystem has at most %d namespaces, not %u", NVMF_MAX_NAMESPACES,
                        opts->max_namespaces);
    return 0;
}

int plx_nvmf_subsystem_create(struct plx_nvmf_target *t, const struct plx_nvmf_subsystem_opts *opts,
                              struct plx_nvmf_subsystem **out, struct plx_error *err)
{
    int ret = check_opts(opts, err);
    if (ret)
        return ret;
    if (find_subsystem(t, opts->nqn))
        return plx_fail(err, -EEXIST, "there are two subsystems %s; give each an NQN of its own", opts->nqn);
    struct plx_nvmf_subsystem *s = add(t, opts->nqn);
    if (!s)
        return plx_fail(err, -ENOMEM, "out of memory");
    s->allow_any_host = opts->allow_any_host;
    s->everywhere = !opts->some_listeners;
    s->min_cntlid = opts->min_cntlid ? opts->min_cntlid : s->min_cntlid;
    s->max_cntlid = opts->max_cntlid ? opts->max_cntlid : s->max_cntlid;
    s->max_namespaces = opts->max_namespaces ? opts->max_namespaces : s->max_namespaces;
    if (opts->serial)
        nvmf_pad(s->serial, sizeof s->serial, opts->serial);
    if (opts->model)
        nvmf_pad(s->model, sizeof s->model, opts->model);
    *out = s;
    return 0;
}

int nvmf_discovery_create(struct plx_nvmf_target *t)
{
    t->discovery = add(t, NVME_DISCOVERY_NQN);
    if (!t->discovery)
        return -ENOMEM;
    t->discovery->discovery = true;
    t->discovery->allow_any_host = true;
    return 0;
}

void nvmf_subsystem_free(struct plx_nvmf_subsystem *s)
{
    if (s->image)
        nvmf_image_put(s->image);
    nvmf_mask_free(s);
    plx_list_del(&s->link);
    free(s->hosts);
    free(s->ports);
    free(s->ns);
    free(s->changed);
    free(s);
}

void plx_nvmf_subsystem_remove(struct plx_nvmf_subsystem *s)
{
    subsystem_touch(s, true);
    for (uint32_t i = 0; i < s->nns; i++)
        if (s->ns[i])
            nvmf_ns_remove(s->ns[i]);
    plx_list_del(&s->link);
    plx_list_add_tail(&s->target->removed_subsystems, &s->link);
}

const char *plx_nvmf_subsystem_nqn(const struct plx_nvmf_subsystem *s)
{
    return s->nqn;
}

/* ---- hosts ---- */

static struct nvmf_host *find_host(const struct plx_nvmf_subsystem *s, const char *hostnqn)
{
    for (unsigned i = 0; i < s->nhosts; i++)
        if (strcmp(s->hosts[i].nqn, hostnqn) == 0)
            return &s->hosts[i];
    return NULL;
}

int plx_nvmf_subsystem_allow_host(struct plx_nvmf_subsystem *s, const char *hostnqn, struct plx_error *err)
{
    const char *problem = plx_nvme_nqn_problem(hostnqn);
    if (problem)
        return plx_fail(err, -EINVAL, "host NQN %.223s %s", hostnqn, problem);
    if (find_host(s, hostnqn))
        return plx_fail(err, -EEXIST, "host %s is allowed already", hostnqn);
    struct nvmf_host *hosts = realloc(s->hosts, (s->nhosts + 1) * sizeof *hosts);
    if (!hosts)
        return plx_fail(err, -ENOMEM, "out of memory");
    s->hosts = hosts;
    snprintf(hosts[s->nhosts++].nqn, sizeof hosts->nqn, "%s", hostnqn);
    subsystem_touch(s, true);
    return 0;
}

int plx_nvmf_subsystem_disallow_host(struct plx_nvmf_subsystem *s, const char *hostnqn, struct plx_error *err)
{
    struct nvmf_host *h = find_host(s, hostnqn);
    if (!h)
        return plx_fail(err, -ENOENT, "host %.223s is not one of those that are allowed", hostnqn);
    *h = s->hosts[--s->nhosts];
    subsystem_touch(s, true);
    return 0;
}

void plx_nvmf_subsystem_allow_any_host(struct plx_nvmf_subsystem *s, bool any)
{
    s->allow_any_host = any;
    subsystem_touch(s, true);
}

/* ---- listeners, and ANA states there ---- */

int plx_nvmf_subsystem_add_listener(struct plx_nvmf_subsystem *s, const struct plx_nvmf_listener *l,
                                    struct plx_error *err)
{
    struct nvmf_port *p = s->everywhere ? NULL : own_port(s, l->portid);
    if (s->everywhere || (p && p->reachable))
        return plx_fail(err, -EEXIST, "%s is reachable at %s port %u already", s->nqn, l->addr, l->port);
    if (!p)
        return plx_fail(err, -ENOMEM, "out of memory");
    p->reachable = true;
    subsystem_touch(s, true);
    return 0;
}

int plx_nvmf_subsystem_remove_listener(struct plx_nvmf_subsystem *s, const struct plx_nvmf_listener *l,
                                       struct plx_error *err)
{
    plx_list_for_each(it, &s->target->listeners) {
        struct nvmf_port *p = own_port(s, plx_list_entry(it, struct plx_nvmf_listener, link)->portid);
        if (!p)
            return plx_fail(err, -ENOMEM, "out of memory");
        if (!s->everywhere && !p->reachable && p->portid == l->portid)
            return plx_fail(err, -ENOENT, "%s is not reachable at %s port %u", s->nqn, l->addr, l->port);
        p->reachable = (s->everywhere || p->reachable) && p->portid != l->portid;
    }
    s->everywhere = false;
    subsystem_touch(s, true);
    return 0;
}

void nvmf_subsystems_forget_port(struct plx_nvmf_target *t, uint16_t portid)
{
    plx_list_for_each(it, &t->subsystems) {
        struct plx_nvmf_subsystem *s = plx_list_entry(it, struct plx_nvmf_subsystem, link);
        for (unsigned i = 1; i < s->nports; i++) {
            if (s->ports[i].portid != portid)
                continue;
            s->ports[i] = s->ports[--s->nports];
            subsystem_touch(s, true);
            break;
        }
    }
}

int plx_nvmf_subsystem_set_ana(struct plx_nvmf_subsystem *s, const struct plx_nvmf_listener *l, uint32_t anagrpid,
                               enum plx_nvmf_ana state, struct plx_error *err)
{
    if (anagrpid > PLX_NVMF_ANA_GROUPS)
        return plx_fail(err, -EINVAL, "ANA groups are 1 to %d, not %u", PLX_NVMF_ANA_GROUPS, anagrpid);
    if (!(state >= PLX_NVMF_ANA_OPTIMIZED && state <= PLX_NVMF_ANA_PERSISTENT_LOSS) && state != PLX_NVMF_ANA_CHANGE)
        return plx_fail(err, -EINVAL, "there is no ANA state %d", (int)state);
    if (l && !own_port(s, l->portid))
        return plx_fail(err, -ENOMEM, "out of memory");
    for (unsigned i = 0; i < s->nports; i++) {
        struct nvmf_port *p = &s->ports[i];
        if (l && p->portid != l->portid)
            continue;
        for (uint32_t g = anagrpid ? anagrpid : 1; g <= (anagrpid ? anagrpid : PLX_NVMF_ANA_GROUPS); g++) {
            if (p->ana[g - 1] != state)
                p->changed = NVMF_NEXT;
            p->ana[g - 1] = (uint8_t)state;
        }
    }
    subsystem_touch(s, false);
    return 0;
}

/* ---- a name for those who have none ---- */

int plx_nvmf_default_nqn(struct plx_bdev *const *disks, unsigned n, char nqn[PLX_NVMF_NQN_SIZE], struct plx_error *err)
{
    enum { ORIGIN = sizeof plx_bdev_info(NULL)->origin };
    char text[PLX_UUID_TEXT];
    uint8_t uuid[16], *origins = malloc((n + 1) * (size_t)ORIGIN);
    for (unsigned i = 0; origins && i < n; i++)
        memcpy(origins + (size_t)i * ORIGIN, plx_bdev_info(disks[i])->origin, ORIGIN);
    int ret = origins ? plx_uuid_from_name(origins, (size_t)n * ORIGIN, uuid) : -ENOMEM;
    free(origins);
    if (ret)
        return plx_fail(err, ret, "out of memory");
    plx_uuid_format(uuid, text);
    snprintf(nqn, PLX_NVMF_NQN_SIZE, NVME_NQN_UUID "%s", text);
    return 0;
}
