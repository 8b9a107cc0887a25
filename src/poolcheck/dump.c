/* SPDX-License-Identifier: BSD-3-Clause */
/* What is on the disk, a structure at a time, as JSON: whoever shows it to people needs to know none of them. */
#include "check.h"

#include "base/uuid.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct dump {
    struct pck *c;
    bool (*item)(void *arg, const char *json);
    void *arg;
};

/* @return false when it is to end */
static bool dump_item(struct dump *d, json_t *o)
{
    char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
    bool more = text && d->item(d->arg, text);
    if (!text)
        d->c->stop = plx_fail(d->c->err, -ENOMEM, "out of memory");
    else if (!more)
        d->c->stop = plx_fail(d->c->err, -ECANCELED, "it was ended");
    free(text);
    json_decref(o);
    return more;
}

/* Text of the disk's: what is no UTF-8 is not shown. */
static json_t *dump_text(const char *name)
{
    char text[PCK_NAME + 1] = "";
    memcpy(text, name, PCK_NAME);
    json_t *v = json_string(text);
    return v ? v : json_string("?");
}

static json_t *dump_uuid(const uint8_t uuid[16])
{
    char text[PLX_UUID_TEXT];
    plx_uuid_format(uuid, text);
    return json_string(text);
}

/* JSON has no room for more than 63 bits. */
static json_t *dump_number(uint64_t v)
{
    return json_integer(v > INT64_MAX ? INT64_MAX : (json_int_t)v);
}

static json_t *dump_entry(const struct pck_entry *e)
{
    char crc[12];
    snprintf(crc, sizeof crc, "%08x", e->crc);
    return e->unit || e->birth
               ? json_pack("{s:o,s:I,s:s}", "unit", dump_number(e->unit), "birth", (json_int_t)e->birth, "crc", crc)
               : json_null();
}

static bool dump_root(struct dump *d, unsigned i)
{
    struct pck *c = d->c;
    struct pck_root r;
    uint8_t *mem = aligned_alloc(4096, c->unit);
    const uint64_t unit = (uint64_t)i * PCK_ROOT_PLACE;
    bool whole = mem && !pck_disk_read_one(&c->disk, unit, mem) && pck_get_root(mem, &r);
    free(mem);
    json_t *o = json_pack("{s:s,s:I,s:b,s:b}", "is", "root", "unit", (json_int_t)unit, "whole", whole, "valid",
                          whole && i == c->place);
    if (!whole)
        return dump_item(d, o);
    json_t *more = json_pack("{s:I,s:I,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:I,s:I,s:I,s:I,s:I,s:I,s:o,s:o,s:o}", "version",
                             (json_int_t)r.version, "flags", (json_int_t)r.flags, "uuid", dump_uuid(r.uuid), "name",
                             dump_text(r.name), "generation", dump_number(r.generation), "units", dump_number(r.units),
                             "log_units", dump_number(r.log_units), "log_first", dump_number(r.log_first), "regions",
                             dump_number(r.regions), "instant", (json_int_t)r.instant, "slots", (json_int_t)r.slots,
                             "cluster", (json_int_t)r.cluster, "unit_shift", (json_int_t)r.shift, "maps_height",
                             (json_int_t)r.maps_height, "created", (json_int_t)(r.created & INT64_MAX), "used",
                             dump_number(r.used), "dir", dump_entry(&r.dir), "maps", dump_entry(&r.maps));
    if (o && more)
        json_object_update(o, more);
    json_decref(more);
    return dump_item(d, o);
}

static json_t *dump_attributes(const char attributes[PCK_ATTRIBUTES])
{
    json_t *all = json_object();
    if (!pck_attributes_ok(attributes))
        return all;
    for (const char *name = attributes, *value; name < attributes + PCK_ATTRIBUTES && *name;
         name = value + strlen(value) + 1) {
        value = name + strlen(name) + 1;
        json_object_set_new(all, name, json_string(value));
    }
    return all;
}

static bool dump_volume(struct dump *d, const struct pck_volume *v)
{
    static const char *const states[PCK_STATES] = {"free", "volume", "snapshot", "ghost", "dying"};
    const struct pck_record *r = &v->r;
    return dump_item(
        d, json_pack(
               "{s:s,s:I,s:s,s:o,s:o,s:b,s:b,s:o,s:o,s:o,s:o,s:I,s:I,s:I,s:o,s:o,s:o,s:o}", "is", "record", "number",
               (json_int_t)v->number, "state", states[r->state], "name", dump_text(r->name), "uuid", dump_uuid(r->uuid),
               "thick", r->flags & PCK_THICK, "outer", r->flags & PCK_OUTER, "size", dump_number(r->size), "mapped",
               dump_number(r->mapped), "done", dump_number(r->done), "created", dump_number(r->created), "parent",
               (json_int_t)r->parent - 1, "instant", (json_int_t)r->instant, "height", (json_int_t)r->height, "root",
               dump_entry(&r->root), "outer_disk", r->flags & PCK_OUTER ? dump_text(r->outer) : json_null(), "checksum",
               r->has_checksum ? dump_number(r->checksum) : json_null(), "attributes", dump_attributes(r->attributes)));
}

static json_t *dump_change(const struct pck_change *g)
{
    return json_pack("{s:s,s:I,s:o,s:o,s:o}", "kind",
                     g->kind == PCK_MAP     ? "map"
                     : g->kind == PCK_UNMAP ? "unmap"
                                            : "unknown",
                     "volume", (json_int_t)g->volume, "at", dump_number(g->at), "units",
                     g->kind == PCK_MAP ? json_integer(g->count) : dump_number(g->to), "to",
                     g->kind == PCK_MAP ? dump_number(g->to) : json_null());
}

static bool dump_page(struct dump *d, uint64_t n)
{
    struct pck *c = d->c;
    const uint64_t number = c->root.log_first + n;
    const uint8_t *mem = c->log[n] + PCK_PAGE_HEADER;
    uint32_t room = (uint32_t)pck_get_page(c->log[n], &c->root, number);
    json_t *changes = json_array();
    for (uint32_t bytes = 1; room && bytes; mem += bytes, room -= bytes) {
        struct pck_change g;
        bytes = pck_get_change(mem, room, &c->root, &g);
        if (bytes)
            json_array_append_new(changes, dump_change(&g));
    }
    return dump_item(d, json_pack("{s:s,s:o,s:o,s:o}", "is", "page", "number", dump_number(number), "unit",
                                  dump_number(PCK_LOG_PLACE + number % c->root.log_units), "changes", changes));
}

/* ---- trees ---- */

static bool is_next(const struct pck_entry *e, const struct pck_entry *to, uint64_t n)
{
    return to->unit == e->unit + n && to->birth == e->birth && !to->crc && !e->crc;
}

/* A node of level 1: runs of entries that go on where the last one ended. */
static json_t *dump_runs(struct pck *c, const uint8_t *mem, uint64_t at)
{
    json_t *runs = json_array();
    const uint64_t fan = UINT64_C(1) << pck_fan(&c->root);
    for (uint64_t i = 0, n; i < fan; i += n) {
        const struct pck_entry e = pck_get_entry(mem + i * 16);
        n = 1;
        if (!e.unit && !e.birth)
            continue;
        for (; i + n < fan; n++) {
            const struct pck_entry to = pck_get_entry(mem + (i + n) * 16);
            if (!is_next(&e, &to, n))
                break;
        }
        json_array_append_new(
            runs, json_pack("{s:o,s:o,s:o}", "at", dump_number(at + i), "units", dump_number(n), "to", dump_entry(&e)));
    }
    return runs;
}

static bool dump_tree(struct dump *d, const struct pck_entry *e, unsigned level, uint64_t at)
{
    struct pck *c = d->c;
    /* One that is led to from many places, which only an attacker's is, is shown once. */
    const bool first = e->unit < c->root.units && pck_bit_set(c, &c->used, e->unit);
    const uint8_t *node = first ? pck_node(c, e) : NULL;
    json_t *o = json_pack("{s:s,s:I,s:o,s:o,s:b}", "is", "node", "level", (json_int_t)level, "at", dump_number(at),
                          "entry", dump_entry(e), "whole", node != NULL);
    if (node)
        memcpy(c->level[level], node, c->unit);
    if (node && level == 1)
        json_object_set_new(o, "maps", dump_runs(c, c->level[1], at));
    if (!dump_item(d, o))
        return false;
    for (uint64_t i = 0; node && level > 1 && i < UINT64_C(1) << pck_fan(&c->root); i++) {
        const struct pck_entry below = pck_get_entry(c->level[level] + i * 16);
        if (below.unit && !dump_tree(d, &below, level - 1, at + (i << ((level - 1) * pck_fan(&c->root)))))
            return false;
    }
    return true;
}

static const struct pck_volume *volume_called(struct pck *c, const char *name)
{
    uint8_t uuid[16];
    char *end;
    const unsigned long number = strtoul(name, &end, 10);
    const bool by_uuid = plx_uuid_parse(name, uuid);
    for (uint32_t i = 0; i < c->n; i++)
        if (!strncmp(c->order[i]->r.name, name, PCK_NAME) || (by_uuid && !memcmp(c->order[i]->r.uuid, uuid, 16)))
            return c->order[i];
    return !*end && *name && number < c->root.slots ? c->volume[number] : NULL;
}

static int dump_all(struct dump *d, const char *volume)
{
    struct pck *c = d->c;
    int ret = pck_begin(c);
    const struct pck_volume *v = !ret && volume ? volume_called(c, volume) : NULL;
    if (!ret && volume && !v)
        return plx_fail(c->err, -ENOENT, "%s: its pool has no volume %.80s", plx_bdev_info(c->disk.bdev)->name, volume);
    if (v) {
        if (dump_volume(d, v) && v->r.root.unit)
            dump_tree(d, &v->r.root, v->r.height, 0);
        return c->stop;
    }
    if (ret || !dump_root(d, 0) || !dump_root(d, 1))
        return ret ? ret : c->stop;
    for (uint32_t i = 0; i < c->root.slots; i++)
        if (c->volume[i] && !dump_volume(d, c->volume[i]))
            return c->stop;
    ret = pck_log(c);
    for (uint64_t n = 0; n < c->log_pages && !ret; n++)
        ret = dump_page(d, n) ? 0 : c->stop;
    return ret;
}

int plx_pool_dump(struct plx_bdev *disk, const char *volume, bool (*item)(void *arg, const char *json), void *arg,
                  struct plx_error *err)
{
    struct plx_pool_check none = {.found = NULL};
    struct pck *c = calloc(1, sizeof *c);
    if (!c)
        return plx_fail(err, -ENOMEM, "out of memory");
    struct dump d = {c, item, arg};
    c->opts = &none;
    c->err = err;
    int ret = pck_disk_open(&c->disk, disk, NULL, NULL);
    if (ret)
        plx_fail(err, ret, "%s: cannot be read: %s", plx_bdev_info(disk)->name, strerror(-ret));
    else
        ret = dump_all(&d, volume);
    pck_disk_close(&c->disk);
    pck_memory_free(c);
    free(c);
    return ret;
}
