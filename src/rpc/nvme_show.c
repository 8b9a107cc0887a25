/* SPDX-License-Identifier: BSD-3-Clause */
/* What there is to tell of controllers without asking them: they, their paths, their disks. */
#include "rpc/nvme.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

void remote_fail_none(struct rpc_call *c, const char *name)
{
    struct plx_error err;
    plx_fail(&err, -ENODEV, "there is no controller %.100s; bdev_nvme_get_controllers lists them", name);
    rpc_fail_errno(c, -ENODEV, &err);
}

static json_t *remote_path_json(const struct remote_path *p)
{
    const char *state = p->live ? "enabled" : p->attached ? "reconnecting" : "connecting";
    return json_pack("{s:s, s:o, s:i, s:{s:s, s:s, s:s}}", "state", state, "trid",
                     remote_trid_json(&p->addr, p->r->subnqn), "cntlid", p->watch ? nvme_ctrlr_cntlid(p->watch) : 0,
                     "host", "nqn", p->r->hostnqn, "addr", "", "svcid", "");
}

static void add_remote(json_t *list, const struct remote *r)
{
    json_t *paths = json_array();
    plx_list_for_each(it, &r->paths)
        json_array_append_new(paths, remote_path_json(plx_list_entry(it, struct remote_path, link)));
    json_array_append_new(list, json_pack("{s:s, s:o}", "name", r->name, "ctrlrs", paths));
}

void remote_get_controllers(struct rpc_call *c)
{
    const char *name = rpc_str(c, "name");
    if (name && !remote_find(c->rpc, name)) {
        remote_fail_none(c, name);
        return;
    }
    json_t *out = json_array();
    plx_list_for_each(it, &c->rpc->remotes) {
        const struct remote *r = plx_list_entry(it, struct remote, link);
        if (!name || strcmp(r->name, name) == 0)
            add_remote(out, r);
    }
    rpc_ok(c, out);
}

/* ---- paths ---- */

struct path_listing {
    json_t *out; /* by reactor */
    struct plx_rpc *rpc;
    const struct remote_ns *ns;
};

static void list_io_path(void *arg, const struct plx_bdev_nvme_path *path)
{
    struct path_listing *l = arg;
    const struct remote_addr *addr = NULL;
    plx_list_for_each(it, &l->ns->r->paths) {
        const struct remote_path *p = plx_list_entry(it, struct remote_path, link);
        if (strcmp(p->addr.name, path->address) == 0)
            addr = &p->addr;
    }
    for (unsigned i = 0; addr && i < l->rpc->o.nreactors; i++) {
        if (l->rpc->o.reactors[i] != path->reactor)
            continue;
        json_t *list = json_object_get(json_array_get(l->out, i), "io_paths");
        json_array_append_new(list, json_pack("{s:s, s:i, s:b, s:b, s:b, s:i, s:o}", "bdev_name", l->ns->name, "cntlid",
                                              path->cntlid, "current", path->in_use, "connected", path->connected,
                                              "accessible", path->usable, "ana_state", path->ana_state, "transport",
                                              remote_trid_json(addr, NULL)));
    }
}

void remote_get_io_paths(struct rpc_call *c)
{
    struct path_listing l = {.out = json_array(), .rpc = c->rpc};
    const char *name = rpc_str(c, "name");
    for (unsigned i = 0; i < c->rpc->o.nreactors; i++) {
        char thread[40];
        snprintf(thread, sizeof thread, i ? "nvmf_tgt_poll_group_%03u" : "app_thread", i - 1);
        json_array_append_new(l.out, json_pack("{s:s, s:[]}", "thread", thread, "io_paths"));
    }
    plx_list_for_each(it, &c->rpc->remotes) {
        const struct remote *r = plx_list_entry(it, struct remote, link);
        plx_list_for_each(at, &r->namespaces) {
            const struct rpc_disk *d;
            l.ns = plx_list_entry(at, struct remote_ns, link);
            d = name && strcmp(l.ns->name, name) != 0 ? NULL : remote_ns_disk(l.ns);
            if (d)
                plx_bdev_nvme_each_path(d->bdev, list_io_path, &l);
        }
    }
    rpc_ok(c, json_pack("{s:o}", "poll_groups", l.out));
}

/* ---- disks ---- */

/* The best of what its channels see by a path. */
struct ana_look {
    const char *address;
    uint8_t state;
};

static void look_at_ana(void *arg, const struct plx_bdev_nvme_path *path)
{
    struct ana_look *l = arg;
    if (strcmp(path->address, l->address) == 0 && path->ana_state && (!l->state || path->ana_state < l->state))
        l->state = path->ana_state;
}

static const char *disk_ana_text(const struct plx_bdev *bdev, const char *address)
{
    struct ana_look l = {.address = address};
    plx_bdev_nvme_each_path(bdev, look_at_ana, &l);
    switch (l.state) {
    case NVME_ANA_NON_OPTIMIZED:
        return "non_optimized";
    case NVME_ANA_INACCESSIBLE:
        return "inaccessible";
    case NVME_ANA_PERSISTENT_LOSS:
        return "persistent_loss";
    case NVME_ANA_CHANGE:
        return "change";
    default: /* what it is until somebody has looked */
        return "optimized";
    }
}

static json_t *ctrlr_data_json(const struct plx_bdev_nvme_info *info)
{
    char vendor[8];
    snprintf(vendor, sizeof vendor, "0x%04x", info->vendor);
    return json_pack("{s:i, s:s, s:s, s:s, s:s, s:s, s:{s:i, s:i, s:i, s:i}, s:b, s:b}", "cntlid", info->cntlid,
                     "vendor_id", vendor, "model_number", info->model, "serial_number", info->serial,
                     "firmware_revision", info->firmware, "subnqn", info->subnqn, "oacs", "security", info->oacs & 1,
                     "format", info->oacs >> 1 & 1, "firmware", info->oacs >> 2 & 1, "ns_manage", info->oacs >> 3 & 1,
                     "multi_ctrlr", info->cmic >> 1 & 1, "ana_reporting", info->cmic >> 3 & 1);
}

/* As existing clients know it, for each path. */
static json_t *disk_path_json(const struct plx_bdev *bdev, const struct plx_bdev_nvme_info *info, const char *address)
{
    struct remote_addr addr = {.pcie = info->pci_address[0]};
    struct plx_error err;
    char version[24], host[PLX_ADDR_HOST];
    uint16_t port = 0;
    if (addr.pcie)
        remote_addr_parse(&addr, "PCIe", NULL, address, NULL, 0, &err);
    else if (!plx_addr_split(address, strlen(address), host, &port, &err))
        remote_addr_parse(&addr, "TCP", NULL, host, NULL, port, &err);
    const unsigned major = info->version >> 16, minor = info->version >> 8 & 0xff, third = info->version & 0xff;
    snprintf(version, sizeof version, third ? "%u.%u.%u" : "%u.%u", major, minor, third);
    json_t *ns = json_pack("{s:i, s:b}", "id", info->nsid, "can_share", info->nmic & 1);
    if (info->cmic >> 3 & 1)
        json_object_set_new(ns, "ana_state", json_string(disk_ana_text(bdev, address)));
    return json_pack("{s:s*, s:o, s:o, s:{s:s}, s:o}", "pci_address", addr.pcie ? info->pci_address : NULL, "trid",
                     remote_trid_json(&addr, info->subnqn), "ctrlr_data", ctrlr_data_json(info), "vs", "nvme_version",
                     version, "ns_data", ns);
}

json_t *remote_disk_json(const struct plx_bdev *bdev)
{
    struct plx_bdev_nvme_info info;
    char address[64];
    if (!plx_bdev_nvme_get_info(bdev, &info))
        return json_object();
    json_t *paths = json_array();
    for (unsigned i = 0; plx_bdev_nvme_address(bdev, i, address, sizeof address); i++)
        json_array_append_new(paths, disk_path_json(bdev, &info, address));
    return json_pack("{s:o, s:s}", "nvme", paths, "mp_policy",
                     plx_bdev_nvme_policy(bdev) ? "active_active" : "active_passive");
}
