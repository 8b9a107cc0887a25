/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A pool on a disk that a running server has open. Who has it is known from the file's lock; where that process takes
 * calls stands in its command line, or else is the usual place; that it is it that answers there the kernel says. The
 * pool is named by its UUID, which is read from the file: whatever the server calls the disk, it is that pool.
 */
#include "pool.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    ROOT_BYTES = 512,
    ROOT_OTHER = 16384, /* bytes: where the second root is, of units of 4 KiB */
    CMDLINE = 64 << 10,
};

/* ---- the server ---- */

/* Of a pool's root, wherever it is whole enough to be known. @return whether there is one */
static bool read_uuid(const char *disk, uint8_t uuid[16])
{
    static const off_t places[] = {0, ROOT_OTHER};
    char path[PATH_MAX];
    uint8_t mem[ROOT_BYTES];
    struct plx_error err;
    bool found = false;
    int fd = plx_bdev_path(disk, path, sizeof path, &err) == 1 ? open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;
    for (size_t i = 0; i < 2 && fd >= 0 && !found; i++) {
        found = lseek(fd, places[i], SEEK_SET) == places[i] && read(fd, mem, sizeof mem) == (ssize_t)sizeof mem &&
                memcmp(mem, "PLXPOOL", 8) == 0;
        if (found)
            memcpy(uuid, mem + 16, 16);
    }
    if (fd >= 0)
        close(fd);
    return found;
}

/* A path of that process's: one that is not absolute is below its directory. */
static void path_in(long pid, const char *text, char out[PATH_MAX])
{
    char link[64], cwd[PATH_MAX / 2];
    snprintf(link, sizeof link, "/proc/%ld/cwd", pid);
    ssize_t n = *text == '/' ? 0 : readlink(link, cwd, sizeof cwd - 1);
    if (n > 0)
        snprintf(out, PATH_MAX, "%.*s/%s", (int)n, cwd, text);
    else
        snprintf(out, PATH_MAX, "%s", text);
}

/* What follows -r or --rpc in its command line. */
static void socket_of(long pid, char out[PATH_MAX])
{
    static char line[CMDLINE];
    char path[64];
    snprintf(path, sizeof path, "/proc/%ld/cmdline", pid);
    snprintf(out, PATH_MAX, "%s", CTL_SOCKET);
    FILE *file = fopen(path, "re");
    const size_t len = file ? fread(line, 1, sizeof line - 1, file) : 0;
    if (file)
        fclose(file);
    line[len] = 0;
    for (size_t at = 0; at < len; at += strlen(line + at) + 1) {
        const char *word = line + at, *value = NULL;
        if (strcmp(word, "-r") == 0 || strcmp(word, "--rpc") == 0)
            value = at + strlen(word) + 1 < len ? word + strlen(word) + 1 : NULL;
        else if (strncmp(word, "--rpc=", 6) == 0)
            value = word + 6;
        else if (strncmp(word, "-r", 2) == 0)
            value = word + 2;
        if (value)
            path_in(pid, value, out);
    }
}

/* ---- calls ---- */

static int served_get(const struct pool_at *at, json_t **out)
{
    struct ctl *c = &((struct pool_at *)(uintptr_t)at)->server; /* which counts its calls */
    return ctl_call(c, "pollux_pool_get", json_pack("{s:s}", "uuid", at->uuid), out);
}

bool pool_served(struct pool_at *at, const char *disk, const char *busy)
{
    const char *process = strstr(busy, "by process ");
    const long pid = process ? strtol(process + strlen("by process "), NULL, 10) : 0;
    uint8_t uuid[16];
    json_t *got = NULL;
    char *error = NULL;
    if (pid <= 0 || !read_uuid(disk, uuid))
        return false;
    socket_of(pid, at->socket);
    pool_uuid(uuid, at->uuid);
    at->server = (struct ctl){.socket = at->socket, .fd = -1};
    if (access(at->socket, R_OK | W_OK) < 0 ||
        ctl_try(&at->server, "pollux_pool_get", json_pack("{s:s}", "uuid", at->uuid), &got, &error) ||
        ctl_server_pid(&at->server) != pid) {
        ctl_close(&at->server);
        json_decref(got);
        free(error);
        return false;
    }
    snprintf(at->lvstore, sizeof at->lvstore, "%s", ctl_str(got, "lvstore"));
    json_decref(got);
    at->is_served = true;
    return true;
}

static void served_text(const json_t *o, const char *key, char *out, size_t size)
{
    snprintf(out, size, "%s", ctl_str(o, key));
}

static uint64_t served_number(const json_t *o, const char *key)
{
    const json_int_t v = ctl_int(o, key);
    return v < 0 ? 0 : (uint64_t)v;
}

/* What is none is left as zeroes. */
static void served_uuid(const json_t *o, const char *key, uint8_t uuid[16])
{
    const char *text = ctl_str(o, key);
    memset(uuid, 0, 16);
    for (unsigned i = 0; i < 16 && *text; i++, text += 2) {
        unsigned byte;
        text += *text == '-';
        if (sscanf(text, "%2x", &byte) != 1)
            return;
        uuid[i] = (uint8_t)byte;
    }
}

void pool_info(const struct pool_at *at, struct plx_pool_info *out)
{
    json_t *got = NULL;
    if (!at->is_served) {
        plx_pool_get_info(at->pool, out);
        return;
    }
    served_get(at, &got);
    *out = (struct plx_pool_info){.unit = (uint32_t)served_number(got, "unit"),
                                  .cluster = (uint32_t)served_number(got, "cluster"),
                                  .size = served_number(got, "size"),
                                  .usable = served_number(got, "usable"),
                                  .free = served_number(got, "free"),
                                  .set_aside = served_number(got, "set_aside"),
                                  .beyond = served_number(got, "beyond"),
                                  .checksums = json_is_true(json_object_get(got, "checksums")),
                                  .damages = served_number(got, "checksum_errors"),
                                  .freeing = json_is_true(json_object_get(got, "freeing")),
                                  .broken = (uint16_t)served_number(got, "broken")};
    served_text(got, "name", out->name, sizeof out->name);
    served_uuid(got, "uuid", out->uuid);
    json_decref(got);
}

void pool_each(const struct pool_at *at, bool (*fn)(void *arg, const struct plx_volume_info *info), void *arg)
{
    json_t *got = NULL, *v;
    size_t i;
    if (!at->is_served) {
        plx_pool_each(at->pool, fn, arg);
        return;
    }
    served_get(at, &got);
    json_array_foreach(json_object_get(got, "volumes"), i, v)
    {
        struct plx_volume_info info = {.size = served_number(v, "size"),
                                       .mapped = served_number(v, "mapped"),
                                       .snapshot = json_is_true(json_object_get(v, "snapshot")),
                                       .thick = json_is_true(json_object_get(v, "thick")),
                                       .children = (uint32_t)served_number(v, "children"),
                                       .created = served_number(v, "created")};
        served_text(v, "name", info.name, sizeof info.name);
        served_text(v, "parent", info.parent, sizeof info.parent);
        served_uuid(v, "uuid", info.uuid);
        if (!fn(arg, &info))
            break;
    }
    json_decref(got);
}

/* ---- changes ---- */

enum { MIB_SHIFT = 20 };

static json_int_t whole_mib(uint64_t bytes)
{
    return (json_int_t)((bytes + (1 << MIB_SHIFT) - 1) >> MIB_SHIFT);
}

/* How calls name what is done. */
static const struct served_change {
    enum plx_pool_op_kind kind;
    const char *change;        /* of pollux_pool_change */
    const char *method;        /* of an lvstore, whose volumes are disks of the server's; or NULL */
    const char *volume, *name; /* its parameters */
} served_changes[] = {
    {PLX_POOL_CREATE, "create", "bdev_lvol_create", NULL, "lvol_name"},
    {PLX_POOL_SNAPSHOT, "snapshot", "bdev_lvol_snapshot", "lvol_name", "snapshot_name"},
    {PLX_POOL_CLONE, "clone", "bdev_lvol_clone", "snapshot_name", "clone_name"},
    {PLX_POOL_DELETE, "delete", "bdev_lvol_delete", "name", NULL},
    {PLX_POOL_RENAME, "rename", "bdev_lvol_rename", "old_name", "new_name"},
    {PLX_POOL_RESIZE, "resize", "bdev_lvol_resize", "name", NULL},
    {PLX_POOL_REVERT, "revert", NULL, NULL, NULL},
    {PLX_POOL_INFLATE, "inflate", "bdev_lvol_inflate", "name", NULL},
    {PLX_POOL_DECOUPLE, "decouple", "bdev_lvol_decouple_parent", "name", NULL},
    {PLX_POOL_SET_PARENT, "set_parent", "bdev_lvol_set_parent", "lvol_name", "parent_name"},
    {PLX_POOL_GROW, "grow", "bdev_lvol_grow_lvstore", NULL, NULL},
};
/* Of PLX_POOL_SET_PARENT, to none. */
static const struct served_change served_detach = {PLX_POOL_SET_PARENT, "set_parent", "bdev_lvol_detach_parent", "name",
                                                   NULL};

static const struct served_change *served_change(enum plx_pool_op_kind kind, bool named)
{
    if (kind == PLX_POOL_SET_PARENT && !named)
        return &served_detach;
    for (size_t i = 0; i < sizeof served_changes / sizeof served_changes[0]; i++)
        if (served_changes[i].kind == kind)
            return &served_changes[i];
    return NULL;
}

/* uuid: of the volume; name: that it gets, or the UUID of the snapshot that it is about, too */
static json_t *lvol_params(const struct pool_at *at, const struct served_change *s, const struct plx_pool_op *op,
                           const char *uuid, const char *name)
{
    json_t *o = json_object();
    if (s->volume)
        json_object_set_new(o, s->volume, json_string(uuid));
    else
        json_object_set_new(o, "lvs_name", json_string(at->lvstore));
    if (s->name && op->name)
        json_object_set_new(o, s->name, json_string(name));
    if (op->size)
        json_object_set_new(o, "size_in_mib", json_integer(whole_mib(op->size)));
    if (s->kind == PLX_POOL_CREATE)
        json_object_set_new(o, "thin_provision", json_boolean(!op->thick));
    return o;
}

static json_t *change_params(const struct pool_at *at, const struct served_change *s, const struct plx_pool_op *op)
{
    json_t *o = json_pack("{s:s, s:s}", "uuid", at->uuid, "change", s->change);
    if (op->volume)
        json_object_set_new(o, "volume", json_string(op->volume));
    if (op->name)
        json_object_set_new(o, "name", json_string(op->name));
    if (op->size)
        json_object_set_new(o, "size", json_integer((json_int_t)op->size));
    if (op->thick)
        json_object_set_new(o, "thick", json_true());
    return o;
}

struct uuid_search {
    const char *name;
    char uuid[40];
};

static bool search_uuid(void *arg, const struct plx_volume_info *info)
{
    struct uuid_search *s = arg;
    char uuid[40];
    pool_uuid(info->uuid, uuid);
    if (strcmp(info->name, s->name) == 0 || strcasecmp(uuid, s->name) == 0)
        memcpy(s->uuid, uuid, sizeof uuid);
    return true;
}

static int served_find(const struct pool_at *at, const char *name, struct uuid_search *out, struct plx_error *err)
{
    *out = (struct uuid_search){.name = name};
    if (name)
        pool_each(at, search_uuid, out);
    return name && !*out->uuid ? plx_fail(err, -EINVAL, "there is no volume named %s", name) : 0;
}

static int ask_server(struct pool_at *at, const char *method, json_t *params, struct plx_error *err)
{
    char *error = NULL;
    if (!ctl_try(&at->server, method, params, NULL, &error))
        return 0;
    plx_fail(err, -EINVAL, "%s", error ? error : "the server has not answered");
    free(error);
    return -EINVAL;
}

/* Snapshots of several volumes, at one instant. */
static int served_group(struct pool_at *at, struct plx_pool_op *op)
{
    json_t *all = json_array();
    for (const struct plx_pool_op *each = op; each; each = each->with) {
        struct uuid_search s;
        int ret = served_find(at, each->volume, &s, &op->err);
        if (ret) {
            json_decref(all);
            return ret;
        }
        json_array_append_new(all, json_pack("{s:s, s:s}", "lvol_name", s.uuid, "snapshot_name", each->name));
    }
    return ask_server(at, "bdev_lvol_snapshot_group",
                      json_pack("{s:s, s:o}", "lvs_name", at->lvstore, "snapshots", all), &op->err);
}

int pool_do(struct pool_at *at, struct plx_pool_op *op)
{
    struct uuid_search volume, parent = {0};
    const bool sets_parent = op->kind == PLX_POOL_SET_PARENT;
    if (!at->is_served)
        return plx_pool_do(at->pool, op);
    const struct served_change *c = served_change(op->kind, op->name != NULL);
    if (!c || (*at->lvstore && !c->method) || (op->with && !*at->lvstore))
        return plx_fail(&op->err, -EINVAL, "this is done while no server has the disk");
    if (op->with)
        return served_group(at, op);
    int ret = served_find(at, op->volume, &volume, &op->err);
    if (!ret && sets_parent)
        ret = served_find(at, op->name, &parent, &op->err);
    if (ret)
        return ret;
    if (!*at->lvstore)
        return ask_server(at, "pollux_pool_change", change_params(at, c, op), &op->err);
    return ask_server(at, c->method, lvol_params(at, c, op, volume.uuid, sets_parent ? parent.uuid : op->name),
                      &op->err);
}

/* ---- what is different, and data ---- */

int pool_diff(struct pool_at *at, struct plx_pool_diff *d)
{
    json_t *got = NULL, *e;
    char *error = NULL;
    size_t i;
    if (!at->is_served)
        return plx_pool_diff(at->pool, d);
    json_t *params = json_pack("{s:s, s:s, s:I}", "uuid", at->uuid, "to", d->to, "offset", (json_int_t)d->offset);
    if (d->from)
        json_object_set_new(params, "from", json_string(d->from));
    d->n = 0;
    if (ctl_try(&at->server, "pollux_pool_diff", params, &got, &error)) {
        plx_fail(&d->err, -EINVAL, "%s", error ? error : "the server has not answered");
        free(error);
        return -EINVAL;
    }
    json_array_foreach(json_object_get(got, "extents"), i, e)
    {
        if (d->n < d->room)
            d->extents[d->n++] = (struct plx_pool_extent){
                .offset = (uint64_t)json_integer_value(json_array_get(e, 0)),
                .length = (uint64_t)json_integer_value(json_array_get(e, 1)),
                .data = json_is_true(json_array_get(e, 2)),
            };
    }
    d->size = served_number(got, "size");
    d->offset = served_number(got, "next");
    json_decref(got);
    return 0;
}

static int base64_value(char ch)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    static int8_t values[256];
    if (!values['B'])
        for (int i = 0; digits[i]; i++)
            values[(unsigned char)digits[i]] = (int8_t)i;
    return values[(unsigned char)ch];
}

int pool_read(struct pool_at *at, const uint8_t volume[16], uint64_t offset, uint64_t length, uint8_t *mem)
{
    char uuid[40];
    json_t *got = NULL;
    pool_uuid(volume, uuid);
    int ret = ctl_call(&at->server, "pollux_pool_read",
                       json_pack("{s:s, s:s, s:I, s:I}", "uuid", at->uuid, "volume", uuid, "offset", (json_int_t)offset,
                                 "length", (json_int_t)length),
                       &got);
    const char *text = ret ? "" : ctl_str(got, "data");
    if (!ret && strlen(text) != (length + 2) / 3 * 4)
        ret = cli_fail(EXIT_RUNTIME, "%s: the server has sent something else than was asked for", at->name);
    for (uint64_t i = 0; i < length && !ret; i += 3, text += 4) {
        const unsigned bits = (unsigned)base64_value(text[0]) << 18 | (unsigned)base64_value(text[1]) << 12 |
                              (unsigned)base64_value(text[2]) << 6 | (unsigned)base64_value(text[3]);
        for (unsigned k = 0; k < 3 && i + k < length; k++)
            mem[i + k] = (uint8_t)(bits >> (16 - 8 * k));
    }
    json_decref(got);
    return ret;
}

int pool_served_check(struct pool_at *at, bool data, json_t **out)
{
    json_t *params = json_pack("{s:s}", "uuid", at->uuid);
    if (data)
        json_object_set_new(params, "data", json_true());
    return ctl_call(&at->server, "pollux_pool_check", params, out);
}
