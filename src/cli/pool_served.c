/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A pool on a disk that a running server has open. Who has it is known from the file's lock; where that process takes
 * calls stands in its command line, or else is the usual place; that it is it that answers there the kernel says. The
 * pool is named by its UUID, which is read from the file: whatever the server calls the disk, it is that pool.
 */
#include "pool_answer.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    ROOT_BYTES = 512,
    ROOT_OTHER = 16384, /* bytes: where the second root is, of units of 4 KiB */
    CMDLINE = 64 << 10,
    ANSWER_S = 60, /* that a server has to say what the pool is */
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

/* @return 0; -EBADMSG, or another when it has not answered, with err filled */
static int served_look(struct pool_at *at, struct plx_error *err)
{
    json_t *got = NULL;
    char *error = NULL;
    free(at->seen);
    at->seen = NULL;
    at->server.timeout = ANSWER_S;
    int ret = ctl_try(&at->server, "pollux_pool_get", json_pack("{s:s}", "uuid", at->uuid), &got, &error);
    at->server.timeout = 0; /* what is changed may take long */
    if (ret)
        plx_fail(err, -EIO, "%s", error ? error : "out of memory");
    else
        at->seen = pool_answer_pool(got, at->uuid, err);
    free(error);
    json_decref(got);
    return ret ? -EIO : at->seen ? 0 : -EBADMSG;
}

static int served_fail(const struct pool_at *at, const struct plx_error *err)
{
    return cli_fail(EXIT_RUNTIME, "%s: %s", at->name, err->text);
}

void pool_served_end(struct pool_at *at)
{
    ctl_close(&at->server);
    free(at->seen);
    at->seen = NULL;
}

/* The last word of "... is in use by process 123". */
static long busy_pid(const char *busy)
{
    const char *last = strrchr(busy, ' ');
    return last && strstr(busy, "by process ") ? strtol(last, NULL, 10) : 0;
}

int pool_served(struct pool_at *at, const char *disk, const char *busy)
{
    const long pid = busy_pid(busy);
    struct plx_error err;
    uint8_t uuid[16];
    if (pid <= 0 || !read_uuid(disk, uuid))
        return 0;
    socket_of(pid, at->socket);
    pool_uuid(uuid, at->uuid);
    at->server = (struct ctl){.socket = at->socket, .fd = -1, .quiet = true};
    int ret = access(at->socket, R_OK | W_OK) < 0 ? -EIO : served_look(at, &err);
    const bool ours = at->server.fd >= 0 && ctl_server_pid(&at->server) == pid;
    if (ret || !ours) {
        pool_served_end(at);
        if (ret != -EBADMSG || !ours)
            return 0;
        served_fail(at, &err);
        return -1;
    }
    memcpy(at->lvstore, at->seen->lvstore, sizeof at->lvstore);
    at->unit = at->seen->info.unit;
    at->is_served = true;
    return 1;
}

int pool_info(struct pool_at *at, struct plx_pool_info *out)
{
    struct plx_error err;
    if (!at->is_served) {
        plx_pool_get_info(at->pool, out);
        return EXIT_OK;
    }
    if (served_look(at, &err))
        return served_fail(at, &err);
    *out = at->seen->info;
    return EXIT_OK;
}

int pool_each(struct pool_at *at, bool (*fn)(void *arg, const struct plx_volume_info *info), void *arg)
{
    struct plx_error err;
    if (!at->is_served) {
        plx_pool_each(at->pool, fn, arg);
        return EXIT_OK;
    }
    if (!at->seen && served_look(at, &err))
        return served_fail(at, &err);
    for (size_t i = 0; i < at->seen->n && fn(arg, &at->seen->volumes[i]); i++)
        continue;
    return EXIT_OK;
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
    {PLX_POOL_FREEZE, "freeze", NULL, NULL, NULL},
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
    static const uint8_t none[16];
    char uuid[40];
    json_t *o = json_pack("{s:s, s:s}", "uuid", at->uuid, "change", s->change);
    if (op->volume)
        json_object_set_new(o, "volume", json_string(op->volume));
    if (op->name)
        json_object_set_new(o, "name", json_string(op->name));
    if (op->size)
        json_object_set_new(o, "size", json_integer((json_int_t)op->size));
    if (op->thick)
        json_object_set_new(o, "thick", json_true());
    if (memcmp(op->uuid, none, sizeof none) != 0) {
        pool_uuid(op->uuid, uuid);
        json_object_set_new(o, "new_uuid", json_string(uuid));
    }
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

static int served_find(struct pool_at *at, const char *name, struct uuid_search *out, struct plx_error *err)
{
    *out = (struct uuid_search){.name = name};
    int ret = name && !at->seen ? served_look(at, err) : 0;
    for (size_t i = 0; !ret && name && i < at->seen->n; i++)
        search_uuid(out, &at->seen->volumes[i]);
    return ret ? ret : name && !*out->uuid ? plx_fail(err, -EINVAL, "there is no volume named %s", name) : 0;
}

static int ask_server(struct pool_at *at, const char *method, json_t *params, struct plx_error *err)
{
    char *error = NULL;
    free(at->seen);
    at->seen = NULL;
    if (!ctl_try(&at->server, method, params, NULL, &error))
        return 0;
    plx_fail(err, -EINVAL, "%s", error ? error : "out of memory");
    free(error);
    return -EINVAL;
}

/* Snapshots of several volumes, at one instant. */
static int served_group(struct pool_at *at, struct plx_pool_op *op)
{
    const bool lvols = *at->lvstore != 0;
    json_t *all = json_array();
    for (const struct plx_pool_op *each = op; each; each = each->with) {
        struct uuid_search s;
        int ret = served_find(at, each->volume, &s, &op->err);
        if (ret) {
            json_decref(all);
            return ret;
        }
        if (lvols || each != op)
            json_array_append_new(all, json_pack("{s:s, s:s}", lvols ? "lvol_name" : "volume", s.uuid,
                                                 lvols ? "snapshot_name" : "name", each->name));
    }
    if (lvols)
        return ask_server(at, "bdev_lvol_snapshot_group",
                          json_pack("{s:s, s:o}", "lvs_name", at->lvstore, "snapshots", all), &op->err);
    json_t *params = change_params(at, served_change(op->kind, true), op);
    json_object_set_new(params, "with", all);
    return ask_server(at, "pollux_pool_change", params, &op->err);
}

/* What JSON cannot have would be left out of a call. @return 0, or -EINVAL with op->err filled */
static int served_names(struct plx_pool_op *op)
{
    for (const struct plx_pool_op *each = op; each; each = each->with) {
        const char *name = each->name ? each->name : "";
        for (size_t n; (n = plx_text_printable(name)); name += n)
            continue;
        if (*name)
            return plx_fail(&op->err, -EINVAL, "the name of a volume has 1 to %d bytes of printable characters, no '/'",
                            PLX_POOL_NAME - 1);
    }
    return 0;
}

int pool_do(struct pool_at *at, struct plx_pool_op *op)
{
    struct uuid_search volume, parent = {0};
    const bool sets_parent = op->kind == PLX_POOL_SET_PARENT;
    if (!at->is_served)
        return plx_pool_do(at->pool, op);
    const struct served_change *c = served_change(op->kind, op->name != NULL);
    if (!c || (*at->lvstore && !c->method))
        return plx_fail(
            &op->err, -EINVAL,
            "in an lvstore of a server this is done while no server has the disk: stop it, or have it forget "
            "the disk, before");
    if (served_names(op))
        return -EINVAL;
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
    json_t *got = NULL;
    char *error = NULL;
    if (!at->is_served)
        return plx_pool_diff(at->pool, d);
    json_t *params = json_pack("{s:s, s:s, s:I}", "uuid", at->uuid, "to", d->to, "offset", (json_int_t)d->offset);
    if (d->from)
        json_object_set_new(params, "from", json_string(d->from));
    d->n = 0;
    if (ctl_try(&at->server, "pollux_pool_diff", params, &got, &error)) {
        plx_fail(&d->err, -EINVAL, "%s", error ? error : "out of memory");
        free(error);
        return -EINVAL;
    }
    int ret = pool_answer_diff(got, at->unit, d) ? 0 : -EBADMSG;
    json_decref(got);
    return ret;
}

int pool_read(struct pool_at *at, const uint8_t volume[16], uint64_t offset, uint64_t length, uint8_t *mem)
{
    struct plx_error err;
    char uuid[40];
    json_t *got = NULL;
    pool_uuid(volume, uuid);
    int ret = ctl_call(&at->server, "pollux_pool_read",
                       json_pack("{s:s, s:s, s:I, s:I}", "uuid", at->uuid, "volume", uuid, "offset", (json_int_t)offset,
                                 "length", (json_int_t)length),
                       &got);
    if (!ret && !pool_answer_data(got, mem, length, &err))
        ret = served_fail(at, &err);
    json_decref(got);
    return ret;
}

/* Of a call: a request has at most 1 MiB, and others wait for it. */
enum { WRITE_MAX = 512 << 10, ZEROES_MAX = 1 << 30 };

static int write_some(struct pool_at *at, json_t *params, const uint8_t *mem, uint64_t n)
{
    unsigned char *text = mem ? malloc(4 * (WRITE_MAX / 3 + 1) + 1) : NULL;
    if (mem && !text) {
        json_decref(params);
        return cli_fail(EXIT_RUNTIME, "out of memory");
    }
    if (mem)
        EVP_EncodeBlock(text, mem, (int)n);
    json_object_set_new(params, mem ? "data" : "zeroes",
                        mem ? json_string((const char *)text) : json_integer((json_int_t)n));
    free(text);
    return ctl_call(&at->server, "pollux_pool_write", params, NULL);
}

int pool_write(struct pool_at *at, const uint8_t volume[16], uint64_t offset, uint64_t length, const uint8_t *mem)
{
    char uuid[40];
    int ret = EXIT_OK;
    pool_uuid(volume, uuid);
    if (!length)
        return ctl_call(&at->server, "pollux_pool_write",
                        json_pack("{s:s, s:s, s:b}", "uuid", at->uuid, "volume", uuid, "flush", true), NULL);
    for (uint64_t done = 0, n; done < length && !ret; done += n) {
        const uint64_t most = mem ? WRITE_MAX : ZEROES_MAX;
        n = length - done > most ? most : length - done;
        ret = write_some(
            at, json_pack("{s:s, s:s, s:I}", "uuid", at->uuid, "volume", uuid, "offset", (json_int_t)(offset + done)),
            mem ? mem + done : NULL, n);
    }
    return ret;
}

int pool_served_check(struct pool_at *at, bool data, struct plx_pool_check *c)
{
    struct plx_error err;
    json_t *got = NULL, *params = json_pack("{s:s}", "uuid", at->uuid);
    if (data)
        json_object_set_new(params, "data", json_true());
    int ret = ctl_call(&at->server, "pollux_pool_check", params, &got);
    if (!ret && !pool_answer_check(got, c, &err))
        ret = served_fail(at, &err);
    json_decref(got);
    return ret;
}
