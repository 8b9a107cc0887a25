/* SPDX-License-Identifier: BSD-3-Clause */
/* `pollux volume`: the volumes of a pool, their snapshots and clones. */
#include "pool.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { FREED_MS = 10 };

/* ---- which there are ---- */

struct found {
    const char *name; /* or UUID */
    struct plx_volume_info info;
    bool there;
};

static bool volume_is(const struct plx_volume_info *info, const char *name)
{
    char uuid[40];
    pool_uuid(info->uuid, uuid);
    return strcmp(info->name, name) == 0 || strcasecmp(uuid, name) == 0;
}

static bool find_one(void *arg, const struct plx_volume_info *info)
{
    struct found *f = arg;
    f->there = volume_is(info, f->name);
    if (f->there)
        f->info = *info;
    return !f->there;
}

int pool_find_volume(struct pool_at *at, const char *name, struct plx_volume_info *info)
{
    struct found f = {.name = name};
    int ret = pool_each(at, find_one, &f);
    if (ret)
        return ret;
    *info = f.info;
    return f.there ? EXIT_OK
                   : cli_fail(EXIT_USAGE, "there is no volume named %s; \"pollux volume ls %s\" lists those there are",
                              name, at->name);
}

/* ---- how they are shown ---- */

static const char *kind_of(const struct plx_volume_info *info)
{
    return info->snapshot ? "snapshot" : info->thick ? "thick" : "thin";
}

static json_t *size_text(uint64_t bytes)
{
    char text[32];
    ctl_size((double)bytes, text, sizeof text);
    return json_string(text);
}

static json_t *date_text(uint64_t seconds)
{
    const time_t at = (time_t)seconds;
    char text[64];
    struct tm tm;
    if (!localtime_r(&at, &tm) || !strftime(text, sizeof text, "%Y-%m-%d %H:%M", &tm))
        return json_string("-");
    return json_string(text);
}

struct shown {
    json_t *rows;
    const char *only; /* or NULL */
    bool json;
};

static json_t *volume_json(const struct plx_volume_info *info)
{
    char uuid[40];
    json_t *o = json_object();
    pool_uuid(info->uuid, uuid);
    json_object_set_new(o, "name", pool_json_text(info->name));
    json_object_set_new(o, "uuid", json_string(uuid));
    json_object_set_new(o, "size", cli_json_number(info->size));
    json_object_set_new(o, "written", cli_json_number(info->mapped));
    json_object_set_new(o, "kind", json_string(kind_of(info)));
    json_object_set_new(o, "from", *info->parent ? pool_json_text(info->parent) : json_null());
    json_object_set_new(o, "created", cli_json_number(info->created));
    return o;
}

static json_t *volume_row(const struct plx_volume_info *info)
{
    json_t *row = json_array();
    json_array_append_new(row, ctl_text(info->name));
    json_array_append_new(row, size_text(info->size));
    json_array_append_new(row, size_text(info->mapped));
    json_array_append_new(row, json_string(kind_of(info)));
    json_array_append_new(row, ctl_text(info->parent));
    json_array_append_new(row, date_text(info->created));
    return row;
}

static bool add_shown(void *arg, const struct plx_volume_info *info)
{
    struct shown *s = arg;
    if (!s->only || volume_is(info, s->only))
        json_array_append_new(s->rows, s->json ? volume_json(info) : volume_row(info));
    return true;
}

/* Takes them. */
static void show_rows(const struct pool_command *o, json_t *rows)
{
    static const char *const heads[] = {"NAME", "SIZE", "WRITTEN", "KIND", "FROM", "CREATED"};
    if (!o->json) {
        ctl_print_table(heads, "lrrlll", rows);
        return;
    }
    ctl_print_json(rows);
    json_decref(rows);
}

/* Those that operations have made. */
static int show_snapshots(const struct pool_command *o, struct pool_at *at, const struct plx_pool_op *ops, unsigned n)
{
    struct shown s = {.rows = json_array(), .json = o->json};
    int ret = EXIT_OK;
    for (unsigned i = 0; i < n && !ret; i++) {
        s.only = ops[i].name;
        ret = pool_each(at, add_shown, &s);
    }
    if (ret)
        json_decref(s.rows);
    else
        show_rows(o, s.rows);
    return ret;
}

/* All, or one. */
static int show_volumes(const struct pool_command *o, struct pool_at *at, const char *only)
{
    struct shown s = {.rows = json_array(), .only = only, .json = o->json};
    int ret = pool_each(at, add_shown, &s);
    if (!ret && (!o->json || !only)) {
        show_rows(o, s.rows);
        return EXIT_OK;
    }
    if (!ret)
        ctl_print_json(json_array_get(s.rows, 0));
    json_decref(s.rows);
    return ret;
}

int pool_show_volume(const struct pool_command *o, struct pool_at *at, const char *name)
{
    return show_volumes(o, at, name);
}

static int volume_list(const struct pool_command *o, const struct pool_verb *v)
{
    struct pool_at at;
    int ret = pool_open_pool(&at, o->words[0], v);
    if (ret)
        return ret;
    return pool_put(&at, show_volumes(o, &at, NULL));
}

/* ---- how they are changed ---- */

/* Does it, and shows the volume that it was about; name may be NULL. */
static int change(const struct pool_command *o, struct pool_at *at, struct plx_pool_op *op, const char *name)
{
    int ret = pool_do(at, op);
    if (ret)
        return cli_fail(pool_status(ret), "%s: %s", at->name, op->err.text);
    return name ? show_volumes(o, at, name) : EXIT_OK;
}

/* What is not there is an error before anything is asked. */
static int run_on_volume(const struct pool_command *o, const struct pool_verb *v, enum plx_pool_op_kind kind)
{
    struct plx_pool_op op = {.kind = kind, .volume = o->words[1], .name = o->words[2]};
    struct plx_volume_info info;
    struct pool_at at;
    int ret = pool_open_pool(&at, o->words[0], v);
    if (ret)
        return ret;
    ret = pool_find_volume(&at, op.volume, &info);
    if (!ret)
        ret = change(o, &at, &op, op.name);
    return pool_put(&at, ret);
}

/* Until what was deleted is free: no other than a server would see to it before the pool is opened again. */
static void await_freed(const struct pool_at *at)
{
    struct plx_pool_info info = {.freeing = !at->is_served};
    while (info.freeing && !info.broken) {
        plx_pool_get_info(at->pool, &info);
        if (info.freeing)
            poll(NULL, 0, FREED_MS);
    }
}

static int run_on_one(const struct pool_command *o, const struct pool_verb *v, enum plx_pool_op_kind kind)
{
    struct plx_pool_op op = {.kind = kind, .volume = o->words[1]};
    struct plx_volume_info info;
    struct pool_at at;
    int ret = pool_open_pool(&at, o->words[0], v);
    if (ret)
        return ret;
    ret = pool_find_volume(&at, op.volume, &info);
    if (!ret)
        ret = change(o, &at, &op, op.volume);
    if (!ret)
        await_freed(&at);
    return pool_put(&at, ret);
}

static int parse_volume_size(const char *text, uint64_t *size)
{
    if (!plx_parse_size(text, size) && *size)
        return EXIT_OK;
    return cli_fail(EXIT_USAGE, "\"%s\" is no size of a volume; one is 10G, 1.5T or 512M", text);
}

static int volume_create(const struct pool_command *o, const struct pool_verb *v)
{
    struct plx_pool_op op = {.kind = PLX_POOL_CREATE, .name = o->words[1], .thick = o->thick};
    struct pool_at at;
    if (parse_volume_size(o->words[2], &op.size))
        return EXIT_USAGE;
    int ret = pool_open_pool(&at, o->words[0], v);
    if (ret)
        return ret;
    ret = change(o, &at, &op, op.name);
    return pool_put(&at, ret);
}

/* Pairs of words: a volume, and its snapshot; all at one instant. */
static int volume_snapshot(const struct pool_command *o, const struct pool_verb *v)
{
    const unsigned n = (o->nwords - 1) / 2;
    struct plx_volume_info info;
    struct pool_at at;
    if (o->nwords % 2 == 0)
        return cli_fail(EXIT_USAGE, "%s has no name for its snapshot: pollux volume snapshot %s", o->words[2 * n + 1],
                        v->takes);
    struct plx_pool_op *ops = calloc(n, sizeof *ops);
    if (!ops)
        return cli_fail(EXIT_RUNTIME, "out of memory");
    int ret = pool_open_pool(&at, o->words[0], v);
    if (ret) {
        free(ops);
        return ret;
    }
    for (unsigned i = 0; i < n && !ret; i++) {
        ops[i] = (struct plx_pool_op){.kind = PLX_POOL_SNAPSHOT,
                                      .volume = o->words[2 * i + 1],
                                      .name = o->words[2 * i + 2],
                                      .with = i + 1 < n ? &ops[i + 1] : NULL};
        ret = pool_find_volume(&at, ops[i].volume, &info);
    }
    if (!ret)
        ret = change(o, &at, ops, n == 1 ? ops->name : NULL);
    if (!ret && n > 1)
        ret = show_snapshots(o, &at, ops, n);
    free(ops);
    return pool_put(&at, ret);
}

static int volume_clone(const struct pool_command *o, const struct pool_verb *v)
{
    return run_on_volume(o, v, PLX_POOL_CLONE);
}

static int volume_inflate(const struct pool_command *o, const struct pool_verb *v)
{
    return run_on_one(o, v, PLX_POOL_INFLATE);
}

static int volume_decouple(const struct pool_command *o, const struct pool_verb *v)
{
    return run_on_one(o, v, PLX_POOL_DECOUPLE);
}

static int volume_rename(const struct pool_command *o, const struct pool_verb *v)
{
    return run_on_volume(o, v, PLX_POOL_RENAME);
}

/* "web (10 GiB, 2.5 MiB of it written, ext4 (file system))" */
static void volume_describe(const struct pool_at *at, const struct plx_volume_info *info, char *text, size_t room)
{
    char url[CLI_URL], size[32], written[32], content[POOL_TEXT] = "";
    struct plx_error err;
    struct plx_bdev *disk;
    size_t n = (size_t)snprintf(url, sizeof url, "volume:[%s]?name=", at->disk ? plx_bdev_info(at->disk)->name : "");
    for (const char *p = info->name; *p && n + 4 < sizeof url; p++)
        n += (size_t)snprintf(url + n, sizeof url - n, "%%%02x", (unsigned char)*p);
    if (at->disk && info->mapped && !plx_bdev_open(url, &disk, &err)) {
        if (pool_content(disk, content, &err) <= 0)
            content[0] = 0;
        plx_bdev_close(disk);
    }
    ctl_size((double)info->size, size, sizeof size);
    ctl_size((double)info->mapped, written, sizeof written);
    snprintf(text, room, "%s (%s, %s of it written%s%s)", info->name, size, written, *content ? ", " : "", content);
}

static int volume_revert(const struct pool_command *o, const struct pool_verb *v)
{
    struct plx_pool_op op = {.kind = PLX_POOL_REVERT, .volume = o->words[1], .name = o->words[2]};
    struct plx_volume_info info, to;
    char text[2 * POOL_TEXT];
    struct pool_at at;
    int ret = pool_open_pool(&at, o->words[0], v);
    if (ret)
        return ret;
    ret = pool_find_volume(&at, op.volume, &info);
    if (!ret)
        ret = pool_find_volume(&at, op.name, &to);
    if (!ret && strcmp(info.parent, to.name) == 0) { /* else it is refused below */
        volume_describe(&at, &info, text, sizeof text);
        ret = pool_ask(o, "%s: what %s has now, and %s has not, will be lost", at.name, text, to.name);
    }
    if (!ret)
        ret = change(o, &at, &op, op.volume);
    if (!ret)
        await_freed(&at);
    return pool_put(&at, ret);
}

/* What it reads as where it has nothing of its own is another's then, which cannot be told beforehand. */
static int volume_set_parent(const struct pool_command *o, const struct pool_verb *v)
{
    struct plx_pool_op op = {
        .kind = PLX_POOL_SET_PARENT, .volume = o->words[1], .name = o->nwords > 2 ? o->words[2] : NULL};
    struct plx_volume_info info, to = {.name = "zeroes"};
    char text[2 * POOL_TEXT];
    struct pool_at at;
    int ret = pool_open_pool(&at, o->words[0], v);
    if (ret)
        return ret;
    ret = pool_find_volume(&at, op.volume, &info);
    if (!ret && op.name)
        ret = pool_find_volume(&at, op.name, &to);
    if (!ret && info.parent[0] &&
        strcmp(info.parent, to.name)) { /* else there is nothing to be lost, or it is refused */
        volume_describe(&at, &info, text, sizeof text);
        ret = pool_ask(o, "%s: what %s has from %s will be lost for it, and be %s%s", at.name, text, info.parent,
                       op.name ? "what it is in " : "", to.name);
    }
    if (!ret)
        ret = change(o, &at, &op, op.volume);
    if (!ret)
        await_freed(&at);
    return pool_put(&at, ret);
}

static int volume_size(const struct pool_command *o, const struct pool_verb *v)
{
    struct plx_pool_op op = {.kind = PLX_POOL_RESIZE, .volume = o->words[1]};
    struct plx_volume_info info;
    char size[32];
    struct pool_at at;
    if (parse_volume_size(o->words[2], &op.size))
        return EXIT_USAGE;
    int ret = pool_open_pool(&at, o->words[0], v);
    if (ret)
        return ret;
    ret = pool_find_volume(&at, op.volume, &info);
    if (!ret && op.size < info.size && !info.snapshot) {
        char text[2 * POOL_TEXT];
        volume_describe(&at, &info, text, sizeof text);
        ctl_size((double)op.size, size, sizeof size);
        ret = pool_ask(o, "%s: what %s has beyond %s will be lost", at.name, text, size);
    }
    if (!ret)
        ret = change(o, &at, &op, op.volume);
    return pool_put(&at, ret);
}

/* All of them are there, and are named in one question. */
static int ask_to_remove(const struct pool_command *o, struct pool_at *at)
{
    struct plx_volume_info info;
    char *all = NULL, text[2 * POOL_TEXT];
    size_t room = 0;
    int ret = EXIT_OK;
    FILE *list = open_memstream(&all, &room);
    if (!list)
        return cli_fail(EXIT_RUNTIME, "out of memory");
    for (unsigned i = 1; i < o->nwords && !ret; i++) {
        ret = pool_find_volume(at, o->words[i], &info);
        if (!ret) {
            volume_describe(at, &info, text, sizeof text);
            fprintf(list, "%s%s", i > 1 ? ", " : "", text);
        }
    }
    if (fclose(list) && !ret)
        ret = cli_fail(EXIT_RUNTIME, "out of memory");
    if (!ret)
        ret = pool_ask(o, "%s: %s will be lost", at->name, all);
    free(all);
    return ret;
}

static int volume_remove(const struct pool_command *o, const struct pool_verb *v)
{
    struct pool_at at;
    json_t *gone = json_array();
    int ret = pool_open_pool(&at, o->words[0], v);
    if (ret) {
        json_decref(gone);
        return ret;
    }
    ret = ask_to_remove(o, &at);
    for (unsigned i = 1; i < o->nwords && !ret; i++) {
        struct plx_pool_op op = {.kind = PLX_POOL_DELETE, .volume = o->words[i]};
        ret = change(o, &at, &op, NULL);
        if (!ret && !o->json)
            printf("%s is gone\n", o->words[i]);
        if (!ret)
            json_array_append_new(gone, pool_json_text(o->words[i]));
    }
    if (o->json && json_array_size(gone))
        ctl_print_json(gone);
    json_decref(gone);
    await_freed(&at);
    return pool_put(&at, ret);
}

static const struct pool_verb volume_verbs[] = {
    {"ls", "DISK", 1, 1, "", "bdev_lvol_get_lvols", .run = volume_list},
    {"create", "[--thick] DISK NAME SIZE", 3, 3, "t", "bdev_lvol_create", .run = volume_create},
    {"snapshot", "DISK NAME NEW [NAME NEW]...", 3, UINT_MAX, "", "bdev_lvol_snapshot", .run = volume_snapshot},
    {"clone", "DISK SNAPSHOT NEW", 3, 3, "", "bdev_lvol_clone", .run = volume_clone},
    {"revert", "[--yes] DISK NAME SNAPSHOT", 3, 3, "y", NULL, .run = volume_revert},
    {"resize", "[--yes] DISK NAME SIZE", 3, 3, "y", "bdev_lvol_resize", .run = volume_size},
    {"inflate", "DISK NAME", 2, 2, "", "bdev_lvol_inflate", .run = volume_inflate},
    {"decouple", "DISK NAME", 2, 2, "", "bdev_lvol_decouple_parent", .run = volume_decouple},
    {"set-parent", "[--yes] DISK NAME [SNAPSHOT]", 2, 3, "y", "bdev_lvol_set_parent", .run = volume_set_parent},
    {"rename", "DISK NAME NEW", 3, 3, "", "bdev_lvol_rename", .run = volume_rename},
    {"diff", "DISK [FROM] TO", 2, 3, "", NULL, .run = volume_diff},
    {"export", "[--base SNAPSHOT] [--offset BYTES] DISK SNAPSHOT [FILE]", 2, 3, "bo", NULL, .run = volume_export},
    {"import", "DISK NAME [FILE]", 2, 3, "", NULL, .run = volume_import},
    {"rm", "[--yes] DISK NAME...", 2, UINT_MAX, "y", "bdev_lvol_delete", .run = volume_remove},
    {0},
};

static void volume_help(void)
{
    puts("pollux volume ls DISK\n"
         "  Lists the volumes and snapshots of the pool on a disk.\n\n"
         "pollux volume create [--thick] DISK NAME SIZE\n"
         "  Makes a volume, which is the disk volume:DISK?name=NAME. It takes space as it is written to.\n\n"
         "pollux volume snapshot DISK NAME NEW [NAME NEW]...\n"
         "  Keeps what the volume is now, as the snapshot NEW, which can be read as a disk and never changes.\n"
         "  Those of several volumes are of one instant.\n\n"
         "pollux volume clone DISK SNAPSHOT NEW\n"
         "  Makes a volume that begins as the snapshot is.\n\n"
         "pollux volume revert [--yes] DISK NAME SNAPSHOT\n"
         "  Makes a volume again what the snapshot is, which must be the one that it goes back to.\n\n"
         "pollux volume diff DISK [FROM] TO\n"
         "  Lists where the snapshot TO is not what the snapshot FROM is, in bytes; without FROM, where it has\n"
         "  anything at all. Either can be a volume, too.\n\n"
         "pollux volume export [--base SNAPSHOT] [--offset BYTES] DISK SNAPSHOT [FILE]\n"
         "  Writes a snapshot as a stream: all of it, or what is different from --base, to a file or standard\n"
         "  output. --offset begins at that byte of the snapshot, to go on where an import was cut off.\n\n"
         "pollux volume import DISK NAME [FILE]\n"
         "  Makes the snapshot NAME of a stream. One that was cut off goes on when it is begun again.\n\n"
         "pollux volume inflate DISK NAME\n"
         "  Gives a volume all space of its own, with a copy of what it shares with its snapshot.\n\n"
         "pollux volume decouple DISK NAME\n"
         "  Gives a volume a copy of what its snapshot has, and has it go back to what that one goes back to.\n\n"
         "pollux volume set-parent [--yes] DISK NAME [SNAPSHOT]\n"
         "  Has a volume go back to another snapshot, or to none: what it has not of its own becomes that one's.\n\n"
         "pollux volume resize [--yes] DISK NAME SIZE\n"
         "pollux volume rename DISK NAME NEW\n"
         "pollux volume rm [--yes] DISK NAME...\n\n"
         "DISK is the disk that the pool is on. A server that has it open is asked to do it; not to import into an\n"
         "lvstore of its own. NAME can be a UUID. What is lost is named, and asked about, before it is.\n\n"
         "options:\n"
         "      --thick    create: with all its space set aside\n"
         "      --yes      revert, set-parent, resize, rm: do not ask\n"
         "      --json     as JSON");
}

static int volume_command(int argc, char **argv)
{
    return pool_run(argc, argv, volume_verbs, volume_help);
}

const struct cli_command cli_volume = {
    .name = "volume",
    .summary = "the volumes of a pool, their snapshots and clones",
    .run = volume_command,
    .help = volume_help,
};
