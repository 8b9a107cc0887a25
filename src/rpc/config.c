/* SPDX-License-Identifier: BSD-3-Clause */
/* Dumps: the calls that make again what there is, in groups, of which each needs those before it alone. */
#include "rpc/rpc.h"

#include <stdlib.h>
#include <string.h>

static void config_end(struct rpc_config *list, const char *bytes)
{
    if (!list->short_of_memory && !rpc_text_end(&list->text, bytes))
        list->short_of_memory = true;
}

void rpc_config_add(struct rpc_config *list, const char *method, json_t *params)
{
    config_end(list, list->calls++ ? ",\n{\"method\":\"" : "\n{\"method\":\"");
    config_end(list, method);
    config_end(list, params ? "\",\"params\":" : "\"");
    if (params && !list->short_of_memory && !rpc_text_add(&list->text, params))
        list->short_of_memory = true;
    config_end(list, "}");
    json_decref(params);
}

char *rpc_config_keep(struct rpc_config *list, const char *method, json_t *params)
{
    size_t before = list->text ? list->text->len + (list->calls ? 2 : 1) : 1;
    rpc_config_add(list, method, params);
    const size_t len = list->short_of_memory ? 0 : list->text->len - before; /* and no zero behind it */
    char *kept = len ? malloc(len + 1) : NULL;
    if (!kept)
        return NULL;
    memcpy(kept, list->text->text + before, len);
    kept[len] = '\0';
    return kept;
}

void rpc_config_add_kept(struct rpc_config *list, const char *text)
{
    config_end(list, list->calls++ ? ",\n" : "\n");
    config_end(list, text);
}

struct option_listing {
    struct plx_rpc *rpc;
    const char *group;
    struct rpc_config *list;
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

static void config_keyring(struct plx_rpc *rpc, struct rpc_config *list)
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
    void (*more)(struct plx_rpc *rpc, struct rpc_config *list);
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

static void add_group(struct plx_rpc *rpc, struct rpc_config *list, size_t i)
{
    struct option_listing o = {.rpc = rpc, .group = groups[i].name, .list = list};
    list->calls = 0;
    config_end(list, "[");
    rpc_methods_each(add_options, &o);
    if (groups[i].more)
        groups[i].more(rpc, list);
    config_end(list, "]");
}

/* A list that is complete as text, or NULL. */
static struct rpc_text *config_take(struct rpc_config *list)
{
    if (list->short_of_memory) {
        free(list->text);
        list->text = NULL;
    }
    return list->text;
}

static json_t *config_value(struct rpc_text *text)
{
    json_t *v = text ? json_loadb(text->text, text->len, 0, NULL) : NULL;
    free(text);
    return v;
}

json_t *rpc_config_group(struct plx_rpc *rpc, const char *group)
{
    struct rpc_config list = {.text = NULL};
    for (size_t i = 0; i < PLX_ARRAY_SIZE(groups); i++)
        if (strcmp(groups[i].name, group) == 0) {
            add_group(rpc, &list, i);
            return config_value(config_take(&list));
        }
    return NULL;
}

struct rpc_text *rpc_config_text(struct plx_rpc *rpc)
{
    struct rpc_config list = {.text = NULL};
    for (size_t i = 0; i < PLX_ARRAY_SIZE(groups); i++) {
        config_end(&list, i ? ",\n{\"subsystem\":\"" : "{\"subsystems\":[\n{\"subsystem\":\"");
        config_end(&list, groups[i].name);
        config_end(&list, "\",\"config\":");
        add_group(rpc, &list, i);
        config_end(&list, "}");
    }
    config_end(&list, "]}\n");
    return config_take(&list);
}

json_t *rpc_config(struct plx_rpc *rpc)
{
    return config_value(rpc_config_text(rpc));
}
