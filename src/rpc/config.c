/* SPDX-License-Identifier: BSD-3-Clause */
/* Dumps: the calls that make again what there is, in groups, of which each needs those before it alone. */
#include "rpc/rpc.h"

#include <string.h>

void rpc_config_add(json_t *list, const char *method, json_t *params)
{
    json_t *call = json_pack("{s:s}", "method", method);
    if (params)
        json_object_set_new(call, "params", params);
    json_array_append_new(list, call);
}

struct option_listing {
    struct plx_rpc *rpc;
    const char *group;
    json_t *list;
};

/* Options, as they were set or are otherwise, in the order of the tables. */
static void add_options(void *arg, const struct rpc_method *m)
{
    struct option_listing *o = arg;
    struct plx_error err;
    int code;
    if (m->kind != RPC_OPTIONS || strcmp(m->group, o->group) != 0)
        return;
    json_t *params = json_incref(json_object_get(o->rpc->options, m->name));
    rpc_config_add(o->list, m->name, params ? params : rpc_params_check(m, NULL, &code, &err));
}

static void config_keyring(struct plx_rpc *rpc, json_t *list)
{
    const char *name;
    json_t *path;
    json_object_foreach(rpc->keys, name, path)
    {
        rpc_config_add(list, "keyring_file_add_key", json_pack("{s:s, s:O}", "name", name, "path", path));
    }
}

static const struct {
    const char *name;
    const char *depends[5];
    void (*more)(struct plx_rpc *rpc, json_t *list);
} groups[] = {
    {"keyring", {NULL}, config_keyring},
    {"iobuf", {NULL}, NULL},
    {"sock", {NULL}, rpc_config_sock},
    {"bdev", {"keyring", "sock", "iobuf"}, rpc_config_disks},
    {"nvmf", {"bdev", "keyring", "sock", "iobuf"}, rpc_config_nvmf},
    {"vhost_blk", {"bdev"}, rpc_config_vhost},
    {"vhost_scsi", {"bdev"}, rpc_config_vhost_scsi},
};

json_t *rpc_config_groups(void)
{
    json_t *out = json_array();
    for (size_t i = 0; i < PLX_ARRAY_SIZE(groups); i++) {
        json_t *depends = json_array();
        for (const char *const *d = groups[i].depends; *d; d++)
            json_array_append_new(depends, json_string(*d));
        json_array_append_new(out, json_pack("{s:s, s:o}", "subsystem", groups[i].name, "depends_on", depends));
    }
    return out;
}

json_t *rpc_config_group(struct plx_rpc *rpc, const char *group)
{
    for (size_t i = 0; i < PLX_ARRAY_SIZE(groups); i++) {
        if (strcmp(groups[i].name, group) != 0)
            continue;
        struct option_listing o = {.rpc = rpc, .group = group, .list = json_array()};
        rpc_methods_each(add_options, &o);
        if (groups[i].more)
            groups[i].more(rpc, o.list);
        return o.list;
    }
    return NULL;
}

json_t *rpc_config(struct plx_rpc *rpc)
{
    json_t *out = json_array();
    for (size_t i = 0; i < PLX_ARRAY_SIZE(groups); i++)
        json_array_append_new(
            out, json_pack("{s:s, s:o}", "subsystem", groups[i].name, "config", rpc_config_group(rpc, groups[i].name)));
    return json_pack("{s:o}", "subsystems", out);
}
