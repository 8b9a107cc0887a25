/* SPDX-License-Identifier: BSD-3-Clause */
/* `pollux pool`: a pool on a disk: made, looked at, and erased. */
#include "pool.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum {
    BAR = 40,
    CLUSTER_MIN = 4 << 10,
    CLUSTER_MAX = 1 << 30,
};

/* How full a pool is when it is time to look after it, in percent. */
static const unsigned marks[] = {80, 90, 95};
enum { MARKS = sizeof marks / sizeof marks[0] };

static double full_of(const struct plx_pool_info *info)
{
    return 100.0 * (double)(info->size - info->free) / (double)info->size;
}

/* The highest mark that it is beyond, or 0. */
static unsigned full_mark(double full)
{
    unsigned mark = 0;
    for (unsigned i = 0; i < MARKS; i++)
        mark = full >= marks[i] ? marks[i] : mark;
    return mark;
}

/* "[############....................|...|.|.]" */
static void full_bar(double full, char bar[BAR + 3])
{
    bar[0] = '[';
    memset(bar + 1, '.', BAR);
    for (unsigned i = 0; i < MARKS; i++)
        bar[1 + marks[i] * BAR / 100] = '|';
    memset(bar + 1, '#', (size_t)(full * BAR / 100));
    memcpy(bar + 1 + BAR, "]", 2);
}

static void status_text(const struct pool_count *n, const struct plx_pool_info *info)
{
    char uuid[40], text[POOL_COUNT], used[32], aside[32], free[32], size[32], bar[BAR + 3];
    const double full = full_of(info);
    pool_uuid(info->uuid, uuid);
    pool_count_text(n, text);
    ctl_size((double)info->size, size, sizeof size);
    ctl_size((double)info->free, free, sizeof free);
    ctl_size((double)info->set_aside, aside, sizeof aside);
    ctl_size((double)(info->size - info->free - info->set_aside), used, sizeof used);
    full_bar(full, bar);
    char name[PLX_POOL_NAME];
    snprintf(name, sizeof name, "%s", info->name);
    printf("pool       %s\n", *name ? cli_clean(name) : uuid);
    if (*name)
        printf("uuid       %s\n", uuid);
    printf("has        %s\nsize       %s\nused       %s\nset aside  %s\nfree       %s\n", text, size, used, aside,
           free);
    printf("full       %s %.1f %%\n", bar, full);
    if (info->checksums)
        printf("checksums  of all data; %llu that were read since it was opened were wrong\n",
               (unsigned long long)info->damages);
    if (info->mended)
        printf("           %llu of them were mended from another copy\n", (unsigned long long)info->mended);
    if (info->beyond) {
        char beyond[32];
        ctl_size((double)info->beyond, beyond, sizeof beyond);
        printf("the disk has %s more, which \"pollux pool grow\" takes\n", beyond);
    }
    if (full_mark(full))
        printf("more than %u %% of it is taken: when all is, what needs a place waits a minute, and fails\n",
               full_mark(full));
    if (info->broken)
        printf("nothing of it can be changed: %s\n", plx_nvme_status_text(info->broken));
    if (info->lost)
        printf("%u %s lost, and nothing is deleted from it: \"pollux pool check\" says what can be repaired\n",
               info->lost, info->lost == 1 ? "volume is" : "volumes are");
}

static void status_json(const struct pool_at *at, const struct pool_count *n, const struct plx_pool_info *info)
{
    char uuid[40];
    json_t *o = json_object();
    pool_uuid(info->uuid, uuid);
    json_object_set_new(o, "disk", pool_json_text(at->name));
    json_object_set_new(o, "name", pool_json_text(info->name));
    json_object_set_new(o, "uuid", json_string(uuid));
    json_object_set_new(o, "size", cli_json_number(info->size));
    json_object_set_new(o, "used", cli_json_number(info->size - info->free - info->set_aside));
    json_object_set_new(o, "set_aside", cli_json_number(info->set_aside));
    json_object_set_new(o, "free", cli_json_number(info->free));
    json_object_set_new(o, "checksum", json_boolean(info->checksums));
    json_object_set_new(o, "checksum_errors", cli_json_number(info->damages));
    json_object_set_new(o, "checksum_mended", cli_json_number(info->mended));
    json_object_set_new(o, "beyond", cli_json_number(info->beyond));
    json_object_set_new(o, "full_percent", json_integer((json_int_t)full_of(info)));
    json_object_set_new(o, "mark", json_integer(full_mark(full_of(info))));
    json_object_set_new(o, "unit", json_integer(info->unit));
    json_object_set_new(o, "cluster", json_integer(info->cluster));
    json_object_set_new(o, "volumes", json_integer(n->volumes));
    json_object_set_new(o, "snapshots", json_integer(n->snapshots));
    json_object_set_new(o, "lost", json_integer(info->lost));
    ctl_print_json(o);
    json_decref(o);
}

static int show_status(const struct pool_command *o, struct pool_at *at)
{
    struct plx_pool_info info;
    struct pool_count n;
    int ret = pool_info(at, &info);
    if (!ret)
        ret = pool_count(at, &n);
    if (!ret && o->json)
        status_json(at, &n, &info);
    else if (!ret)
        status_text(&n, &info);
    return ret;
}

static int pool_show(const struct pool_command *o, const struct pool_verb *v)
{
    struct pool_at at;
    int ret = pool_open_pool(&at, o->words[0], v);
    if (ret)
        return ret;
    return pool_put(&at, show_status(o, &at));
}

/* Names what is on a disk, and asks. */
static int ask_for(const struct pool_command *o, struct pool_at *at)
{
    struct plx_error err;
    char text[POOL_TEXT];
    int ret = pool_content(at->disk, text, &err);
    if (ret < 0)
        return cli_fail(pool_status(ret), "%s", err.text);
    return ret ? pool_ask(o, "%s: %s will be lost", at->name, text) : EXIT_OK;
}

static int pool_create(const struct pool_command *o, const struct pool_verb *v)
{
    struct plx_pool_opts opts = {.name = o->name, .checksums = o->checksum};
    struct plx_error err;
    struct pool_at at;
    if (o->cluster && cli_parse_size("cluster", o->cluster, "4K to 1G", CLUSTER_MIN, CLUSTER_MAX, true, &opts.cluster))
        return EXIT_USAGE;
    int ret = pool_open_disk(&at, o->words[0], v);
    if (ret)
        return ret;
    ret = ask_for(o, &at);
    if (ret)
        return pool_put(&at, ret);
    ret = plx_pool_make(at.disk, &opts, &err);
    if (!ret)
        ret = plx_pool_open(at.disk, &at.pool, &err);
    if (ret)
        return pool_put(&at, cli_fail(pool_status(ret), "%s", err.text));
    return pool_put(&at, show_status(o, &at));
}

static int pool_grow(const struct pool_command *o, const struct pool_verb *v)
{
    struct plx_pool_op op = {.kind = PLX_POOL_GROW};
    struct pool_at at;
    int ret = pool_open_pool(&at, o->words[0], v);
    if (ret)
        return ret;
    ret = pool_do(&at, &op);
    if (ret)
        return pool_put(&at, cli_fail(pool_status(ret), "%s: %s", at.name, op.err.text));
    return pool_put(&at, show_status(o, &at));
}

static int pool_remove(const struct pool_command *o, const struct pool_verb *v)
{
    struct plx_error err;
    struct pool_at at;
    char text[POOL_TEXT];
    int ret = pool_open_disk(&at, o->words[0], v);
    if (ret)
        return ret;
    ret = pool_on(at.disk, text, &err);
    if (!ret)
        return pool_put(&at, cli_fail(EXIT_USAGE, "%s", err.text));
    if (ret < 0)
        return pool_put(&at, cli_fail(pool_status(ret), "%s", err.text));
    ret = pool_ask(o, "%s: %s will be lost", at.name, text);
    if (ret)
        return pool_put(&at, ret);
    ret = plx_pool_erase(at.disk, &err);
    if (ret)
        return pool_put(&at, cli_fail(pool_status(ret), "%s", err.text));
    if (o->json)
        ctl_print_json(json_true());
    else
        printf("%s has no pool any more\n", at.name);
    return pool_put(&at, EXIT_OK);
}

static const struct pool_verb pool_verbs[] = {
    {"create", "[--name NAME] [--cluster SIZE] [--checksum] [--yes] DISK", 1, 1, "ynck", "bdev_lvol_create_lvstore",
     .run = pool_create, .why = "a pool is made"},
    {"status", "DISK", 1, 1, "", "bdev_lvol_get_lvstores", .run = pool_show},
    {"grow", "DISK", 1, 1, "", "bdev_lvol_grow_lvstore", .run = pool_grow},
    {"check", "[--data] DISK", 1, 1, "d", NULL, .run = pool_check},
    {"repair", "[--yes] DISK", 1, 1, "y", NULL, .run = pool_repair, .why = "it is repaired", .spares = true},
    {"dump", "DISK [VOLUME]", 1, 2, "", NULL, .run = pool_dump, .why = "it is dumped", .spares = true},
    {"rm", "[--yes] DISK", 1, 1, "y", "bdev_lvol_delete_lvstore", .run = pool_remove, .why = "it is erased"},
    {0},
};

static void pool_help(void)
{
    puts("pollux pool create [--name NAME] [--cluster SIZE] [--checksum] [--yes] DISK\n"
         "  Makes a pool of a disk, of which volumes are made then: \"pollux help volume\".\n\n"
         "pollux pool status DISK\n"
         "  Shows what the pool is, and how full; the bar has marks at 80, 90 and 95 %.\n\n"
         "pollux pool grow DISK\n"
         "  Gives the pool all of its disk, which has become larger since.\n\n"
         "pollux pool check DISK\n"
         "  Looks at all that the pool is, and changes nothing. The exit status is 0 when it is clean, 4 when\n"
         "  something is wrong, and 8 when it could not be looked at.\n\n"
         "pollux pool repair [--yes] DISK\n"
         "  Looks, and repairs what can be repaired without a guess. The exit status is 0 when there was nothing\n"
         "  to do, 1 when all was repaired, 4 when something is left, and 8 when it could not be done.\n\n"
         "pollux pool dump DISK [VOLUME]\n"
         "  Prints what is on the disk: roots, records, the log; or the tree of one volume.\n\n"
         "pollux pool rm [--yes] DISK\n"
         "  Erases the pool, and all volumes with it.\n\n"
         "DISK is any disk. A server that has it open is asked to do it; create, repair, dump and rm are for one that\n"
         "nobody has open. What is on it is named, and asked about, before it is erased.\n\n"
         "options:\n"
         "      --name NAME      create: a name for the pool\n"
         "      --cluster SIZE   create: of a cluster, as it is told to SPDK's clients: 4K to 1G, a power of two (4M)\n"
         "      --checksum       create: with a checksum of each 4 KiB, which is checked whenever that is read\n"
         "      --yes            create, repair, rm: do not ask\n"
         "      --json           as JSON");
}

static int pool_command(int argc, char **argv)
{
    return pool_run(argc, argv, pool_verbs, pool_help);
}

const struct cli_command cli_pool = {
    .name = "pool",
    .summary = "a pool on a disk, of which volumes are made",
    .run = pool_command,
    .help = pool_help,
};
