/* SPDX-License-Identifier: BSD-3-Clause */
/* What there is to tell of remote controllers: they, their paths, their health. */
#include "rpc/nvme.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KELVIN = 273 };

void remote_fail_none(struct rpc_call *c, const char *name)
{
    struct plx_error err;
    plx_fail(&err, -ENODEV, "there is no controller %.100s; bdev_nvme_get_controllers lists them", name);
    rpc_fail_errno(c, -ENODEV, &err);
}

json_t *remote_trid_json(const struct remote_addr *addr, const char *subnqn)
{
    return json_pack("{s:s, s:s, s:s, s:s, s:s}", "trtype", "TCP", "adrfam", addr->adrfam, "traddr", addr->traddr,
                     "trsvcid", addr->trsvcid, "subnqn", subnqn);
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
        json_array_append_new(list, json_pack("{s:s, s:i, s:b, s:b, s:b, s:i, s:{s:s, s:s, s:s, s:s}}", "bdev_name",
                                              l->ns->name, "cntlid", path->cntlid, "current", path->in_use, "connected",
                                              path->connected, "accessible", path->usable, "ana_state", path->ana_state,
                                              "transport", "trtype", "TCP", "traddr", addr->traddr, "trsvcid",
                                              addr->trsvcid, "adrfam", addr->adrfam));
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

/* ---- health ---- */

struct health {
    struct nvme_req req;
    struct iovec iov;
    struct rpc_call *call;
    struct nvme_id_ctrl id;
    char traddr[64];
    struct nvme_health_log log;
};

/* A count of 128 bits, as far as JSON has them here. */
static json_t *count_json(const uint8_t n[16])
{
    uint64_t low = 0;
    bool beyond = n[7] >> 7;
    for (int i = 15; i >= 0; i--) {
        beyond |= i > 7 && n[i];
        low = i > 7 ? 0 : low << 8 | n[i];
    }
    return json_integer(beyond ? INT64_MAX : (json_int_t)low);
}

/* Text of a fixed length, without the spaces at its end. */
static json_t *field_json(const char *field, size_t size)
{
    while (size && (field[size - 1] == ' ' || !field[size - 1]))
        size--;
    json_t *text = json_stringn(field, size);
    return text ? text : json_string("");
}

static json_t *health_json(const struct health *h)
{
    const struct nvme_health_log *log = &h->log;
    unsigned kelvin = plx_get16(log->temperature);
    json_t *o = json_pack("{s:o, s:o, s:o, s:s, s:i, s:i, s:i, s:i, s:i}", "model_number",
                          field_json(h->id.mn, sizeof h->id.mn), "serial_number", field_json(h->id.sn, sizeof h->id.sn),
                          "firmware_revision", field_json(h->id.fr, sizeof h->id.fr), "traddr", h->traddr,
                          "critical_warning", log->critical_warning, "temperature_celsius",
                          kelvin ? (int)kelvin - KELVIN : 0, "available_spare_percentage", log->spare,
                          "available_spare_threshold_percentage", log->spare_threshold, "percentage_used", log->used);
    const struct {
        const char *name;
        const uint8_t *count;
    } counts[] = {
        {"data_units_read", log->data_units_read}, {"data_units_written", log->data_units_written},
        {"host_read_commands", log->host_reads},   {"host_write_commands", log->host_writes},
        {"controller_busy_time", log->busy_time},  {"power_cycles", log->power_cycles},
        {"power_on_hours", log->power_on_hours},   {"unsafe_shutdowns", log->unsafe_shutdowns},
        {"media_errors", log->media_errors},       {"num_err_log_entries", log->error_entries},
    };
    for (size_t i = 0; i < PLX_ARRAY_SIZE(counts); i++)
        json_object_set_new(o, counts[i].name, count_json(counts[i].count));
    plx_le32 warning, critical;
    memcpy(&warning, log->reserved192, sizeof warning);
    memcpy(&critical, log->reserved192 + 4, sizeof critical);
    json_object_set_new(o, "warning_temperature_time_minutes", json_integer(plx_get32(warning)));
    json_object_set_new(o, "critical_composite_temperature_time_minutes", json_integer(plx_get32(critical)));
    return o;
}

static void took_health(struct nvme_req *req)
{
    struct health *h = plx_container_of(req, struct health, req);
    struct rpc_call *c = h->call;
    struct plx_error err;
    if (!req->lost && !req->status) {
        rpc_ok(c, health_json(h));
        return;
    }
    if (req->lost)
        plx_fail(&err, -EIO, "the connection is lost");
    else
        plx_fail(&err, -EIO, "Get Log Page failed: status %03x", req->status & 0x7ff);
    rpc_fail_errno(c, -EIO, &err);
}

static struct remote_path *first_live(const struct remote *r)
{
    plx_list_for_each(it, &r->paths) {
        struct remote_path *p = plx_list_entry(it, struct remote_path, link);
        if (p->live && p->attached)
            return p;
    }
    return NULL;
}

/* Get Log Page, 02h, of the controller: Base 5.1.12.1.3 */
void remote_get_health(struct rpc_call *c)
{
    struct plx_error err;
    const struct remote *r = remote_find(c->rpc, rpc_str(c, "name"));
    if (!r) {
        remote_fail_none(c, rpc_str(c, "name"));
        return;
    }
    const struct remote_path *p = first_live(r);
    struct health *h = p ? c->state = calloc(1, sizeof *h) : NULL;
    if (!h) {
        int ret = p ? -ENOMEM : plx_fail(&err, -EIO, "controller %.100s is not connected", r->name);
        rpc_fail_errno(c, ret, p ? NULL : &err);
        return;
    }
    h->call = c;
    h->id = *nvme_ctrlr_id(p->watch);
    memcpy(h->traddr, p->addr.traddr, sizeof h->traddr);
    h->iov = (struct iovec){&h->log, sizeof h->log};
    h->req = (struct nvme_req){
        .done = took_health,
        .data = {&h->iov, 0},
        .len = sizeof h->log,
        .dir = NVME_TO_HOST,
        .cmd = {.opcode = NVME_ADMIN_GET_LOG_PAGE,
                .nsid = plx_put32(NVME_NSID_ALL),
                .cdw10 = plx_put32(NVME_LOG_HEALTH | (sizeof h->log / 4 - 1) << 16)},
    };
    rpc_takes_long(c);
    nvme_submit_admin(p->watch, &h->req);
}
