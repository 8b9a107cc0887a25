/* SPDX-License-Identifier: BSD-3-Clause */
/* `pollux pool check`, `repair` and `dump`: pools looked at from outside. */
#include "pool.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* As of fsck(8). */
enum {
    CHECK_REPAIRED = 1,
    CHECK_LEFT = 4,
    CHECK_FAILED = 8,
};

enum { CHECK_ROUNDS = 3 }; /* of repair: what was taken out may leave space that the next one frees */

struct checking {
    struct plx_pool_check check;
    const struct pool_command *o;
    const char *disk;
    json_t *findings; /* for --json */
    bool quiet;       /* findings are not shown */
    uint64_t mendable;
    struct pool_progress progress;
};

static bool check_progress(void *arg, uint64_t done, uint64_t total, uint64_t ns)
{
    struct checking *k = arg;
    pool_progress(&k->progress, done, total, ns);
    return true;
}

static const char *severity_of(const struct plx_pool_finding *f)
{
    return f->severity == PLX_POOL_NOTE ? "note" : f->severity == PLX_POOL_WASTE ? "waste" : "damage";
}

static json_t *finding_json(const struct plx_pool_finding *f)
{
    json_t *o = json_object();
    json_object_set_new(o, "severity", json_string(severity_of(f)));
    json_object_set_new(o, "text", pool_json_text(f->text));
    json_object_set_new(o, "volume", f->volume ? pool_json_text(f->volume) : json_null());
    json_object_set_new(o, "number", f->number >= 0 ? json_integer(f->number) : json_null());
    json_object_set_new(o, "unit", f->unit >= 0 ? json_integer(f->unit) : json_null());
    json_object_set_new(o, "offset", f->offset >= 0 ? json_integer(f->offset) : json_null());
    json_object_set_new(o, "repairable", json_boolean(f->mendable));
    return o;
}

static void check_found(void *arg, const struct plx_pool_finding *f)
{
    struct checking *k = arg;
    char text[512];
    k->mendable += f->mendable && f->severity != PLX_POOL_NOTE;
    if (k->quiet)
        return;
    pool_progress_clear(&k->progress);
    if (k->findings)
        json_array_append_new(k->findings, finding_json(f));
    snprintf(text, sizeof text, "%s", f->text);
    if (!k->o->json)
        printf("%s: %s%s\n", severity_of(f), cli_clean(text),
               f->mendable && f->severity != PLX_POOL_NOTE ? " (can be repaired)" : "");
}

/* @return EXIT_OK, or CHECK_FAILED after having said why */
static int check_run(struct checking *k, const struct pool_at *at, bool repair)
{
    struct plx_error err;
    k->check = (struct plx_pool_check){
        .repair = repair, .data = k->o->data && !repair, .found = check_found, .progress = check_progress, .arg = k};
    k->mendable = 0;
    k->progress = (struct pool_progress){.what = "check", .quiet = k->o->json};
    int ret = plx_pool_check(at->disk, &k->check, &err);
    pool_progress_clear(&k->progress);
    return ret ? cli_fail(CHECK_FAILED, "%s", cli_clean(err.text)) : EXIT_OK;
}

static void checked_json(const struct checking *k, json_t *o)
{
    const struct plx_pool_check *c = &k->check;
    char uuid[40];
    pool_uuid(c->uuid, uuid);
    json_object_set_new(o, "disk", pool_json_text(k->disk));
    json_object_set_new(o, "name", pool_json_text(c->name));
    json_object_set_new(o, "uuid", json_string(uuid));
    json_object_set_new(o, "generation", cli_json_number(c->generation));
    json_object_set_new(o, "volumes", json_integer(c->volumes));
    json_object_set_new(o, "snapshots", json_integer(c->snapshots));
    json_object_set_new(o, "deleted", json_integer(c->others));
    json_object_set_new(o, "nodes", cli_json_number(c->nodes));
    json_object_set_new(o, "log_pages", cli_json_number(c->log_pages));
    json_object_set_new(o, "data_bytes", cli_json_number(c->data_bytes));
    json_object_set_new(o, "notes", cli_json_number(c->notes));
    json_object_set_new(o, "wastes", cli_json_number(c->wastes));
    json_object_set_new(o, "damages", cli_json_number(c->damages));
}

static void checked_text(const struct checking *k)
{
    const struct plx_pool_check *c = &k->check;
    char size[32], used[32], count[POOL_COUNT];
    const struct pool_count n = {c->volumes, c->snapshots};
    pool_count_text(&n, count);
    ctl_size((double)c->size, size, sizeof size);
    ctl_size((double)c->used, used, sizeof used);
    printf("%s: generation %" PRIu64 ", %s, %s of %s used, %" PRIu64 " nodes", k->disk, c->generation, count, used,
           size, c->nodes);
    ctl_size((double)c->data_bytes, size, sizeof size);
    printf(c->data_bytes ? " and %s of data: " : ": ", size);
    if (!c->wastes && !c->damages)
        printf("clean\n");
    else
        printf("%" PRIu64 " damage%s, %" PRIu64 " of lost space or wrong counts\n", c->damages,
               c->damages == 1 ? "" : "s", c->wastes);
}

static void checked_end(struct checking *k, bool repaired)
{
    const bool clean = !k->check.wastes && !k->check.damages;
    if (!k->o->json) {
        checked_text(k);
        return;
    }
    json_t *o = json_object();
    checked_json(k, o);
    json_object_set_new(o, "clean", json_boolean(clean));
    json_object_set_new(o, "repaired", json_boolean(repaired));
    json_object_set(o, "findings", k->findings);
    ctl_print_json(o);
    json_decref(o);
}

static int check_status(const struct checking *k, bool repaired)
{
    if (k->check.wastes || k->check.damages)
        return CHECK_LEFT;
    return repaired ? CHECK_REPAIRED : EXIT_OK;
}

/* By the server, which has it open. */
static int check_served(struct checking *k, struct pool_at *at)
{
    k->check = (struct plx_pool_check){.found = check_found, .arg = k};
    return pool_served_check(at, k->o->data, &k->check) ? CHECK_FAILED : EXIT_OK;
}

/* A disk that cannot be opened at all is an error of operation here. */
static int check_open(struct pool_at *at, const char *disk, const struct pool_verb *v)
{
    return pool_open_disk(at, disk, v) ? CHECK_FAILED : EXIT_OK;
}

int pool_check(const struct pool_command *o, const struct pool_verb *v)
{
    struct checking k = {.o = o, .disk = o->words[0], .findings = o->json ? json_array() : NULL};
    struct pool_at at;
    int ret = pool_open_served(&at, o->words[0], v) ? CHECK_FAILED : EXIT_OK;
    if (!ret) {
        ret = at.is_served ? check_served(&k, &at) : check_run(&k, &at, false);
        if (!ret) {
            checked_end(&k, false);
            ret = check_status(&k, false);
        }
        ret = pool_put(&at, ret);
    }
    json_decref(k.findings);
    return ret;
}

/* Looks, asks, and repairs until there is nothing that can be repaired. */
static int repair_disk(struct checking *k, const struct pool_at *at, bool *repaired)
{
    int ret = check_run(k, at, false);
    if (ret || !k->mendable)
        return ret;
    ret =
        pool_ask(k->o, "%s: %" PRIu64 " of what was found can be repaired; nobody else may write to the disk meanwhile",
                 k->disk, k->mendable);
    for (int i = 0; i < CHECK_ROUNDS && !ret && k->mendable; i++) {
        k->quiet = true;
        ret = check_run(k, at, true);
        *repaired |= !ret && k->check.repaired;
        if (k->findings)
            json_array_clear(k->findings);
        k->quiet = false;
        if (!ret)
            ret = check_run(k, at, false);
    }
    return ret;
}

int pool_repair(const struct pool_command *o, const struct pool_verb *v)
{
    struct checking k = {.o = o, .disk = o->words[0], .findings = o->json ? json_array() : NULL};
    bool repaired = false;
    struct pool_at at;
    int ret = check_open(&at, o->words[0], v);
    if (!ret) {
        ret = repair_disk(&k, &at, &repaired);
        if (!ret) {
            checked_end(&k, repaired);
            ret = check_status(&k, repaired);
        }
        ret = pool_put(&at, ret);
    }
    json_decref(k.findings);
    return ret;
}

/* ---- dump ---- */

static void dump_value(const json_t *v)
{
    char *text = json_is_string(v) ? strdup(json_string_value(v)) : json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY);
    printf("%s", text ? cli_clean(text) : "?");
    free(text);
}

/* "root: unit=0 whole=true ..."; arrays a line each. */
static void dump_line(json_t *o)
{
    const char *key;
    json_t *v;
    printf("%s:", ctl_str(o, "is"));
    json_object_foreach(o, key, v)
    {
        if (strcmp(key, "is") == 0 || json_is_array(v))
            continue;
        printf(" %s=", key);
        dump_value(v);
    }
    printf("\n");
    json_object_foreach(o, key, v) for (size_t i = 0; json_is_array(v) && i < json_array_size(v); i++)
    {
        const char *inner;
        json_t *w;
        printf("  ");
        json_object_foreach(json_array_get(v, i), inner, w)
        {
            printf(" %s=", inner);
            dump_value(w);
        }
        printf("\n");
    }
}

struct dumping {
    bool json, any;
};

static bool dump_one(void *arg, const char *json)
{
    struct dumping *d = arg;
    if (d->json) {
        printf("%s%s", d->any ? ",\n" : "[\n", json);
    } else {
        json_t *o = json_loads(json, 0, NULL);
        dump_line(o);
        json_decref(o);
    }
    d->any = true;
    return !ferror(stdout);
}

int pool_dump(const struct pool_command *o, const struct pool_verb *v)
{
    struct dumping d = {.json = o->json};
    struct plx_error err;
    struct pool_at at;
    int ret = check_open(&at, o->words[0], v);
    if (ret)
        return ret;
    ret = plx_pool_dump(at.disk, o->nwords > 1 ? o->words[1] : NULL, dump_one, &d, &err);
    if (d.json)
        puts(d.any ? "\n]" : "[]");
    if (ret)
        ret = cli_fail(CHECK_FAILED, "%s", cli_clean(err.text));
    return pool_put(&at, ret);
}
