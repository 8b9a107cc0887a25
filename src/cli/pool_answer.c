/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Answers of a server that has a pool, member by member: each is there, of its type, and within what a pool can have.
 * Whoever holds the lock of a disk may answer here, of whatever version, and made by whomever.
 */
#include "pool_answer.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* An object that is looked at; of what is wrong with it the first counts. */
struct answer {
    const json_t *o;
    const char *wrong; /* a member, or NULL */
};

static bool answer_refuse(struct answer *a, const char *key)
{
    if (!a->wrong)
        a->wrong = key;
    return false;
}

static bool pool_answer_failed(const struct answer *a, const char *method, struct plx_error *err)
{
    if (a->wrong)
        plx_fail(
            err, -EBADMSG,
            "what the server answers to %s cannot be: its \"%s\" is missing, or none that there is; a server of the "
            "same version answers otherwise",
            method, a->wrong);
    return a->wrong != NULL;
}

/* Printable, and shorter than its place. */
static const char *answer_text(struct answer *a, const char *key, size_t size)
{
    const char *text = json_string_value(json_object_get(a->o, key));
    size_t len = 0;
    for (size_t n; text && len < size && (n = plx_text_printable(text + len));)
        len += n;
    if (text && len < size && !text[len])
        return text;
    answer_refuse(a, key);
    return "";
}

static void answer_copy(struct answer *a, const char *key, char *out, size_t size)
{
    memccpy(out, answer_text(a, key, size), 0, size);
}

static uint64_t answer_number(struct answer *a, const char *key, uint64_t min, uint64_t max)
{
    const json_t *v = json_object_get(a->o, key);
    const json_int_t n = json_integer_value(v);
    if (json_is_integer(v) && n >= 0 && (uint64_t)n >= min && (uint64_t)n <= max)
        return (uint64_t)n;
    answer_refuse(a, key);
    return min;
}

static bool answer_bool(struct answer *a, const char *key)
{
    const json_t *v = json_object_get(a->o, key);
    return json_is_boolean(v) ? json_is_true(v) : answer_refuse(a, key);
}

static const json_t *answer_array(struct answer *a, const char *key)
{
    const json_t *v = json_object_get(a->o, key);
    if (!json_is_array(v))
        answer_refuse(a, key);
    return v;
}

static unsigned hex_value(char ch)
{
    return isdigit((unsigned char)ch) ? (unsigned)(ch - '0') : (unsigned)(ch - 'a' + 10);
}

/* "01234567-89ab-cdef-0123-456789abcdef" */
static void answer_uuid(struct answer *a, const char *key, uint8_t uuid[16])
{
    enum { TEXT = 36 };
    const char *text = answer_text(a, key, TEXT + 1);
    bool good = strlen(text) == TEXT;
    for (unsigned i = 0; i < TEXT && good; i++) {
        const bool dash = i == 8 || i == 13 || i == 18 || i == 23;
        good = dash ? text[i] == '-' : isdigit((unsigned char)text[i]) || (text[i] >= 'a' && text[i] <= 'f');
    }
    if (!good)
        answer_refuse(a, key);
    for (unsigned i = 0; i < 16 && good; i++, text += 2) {
        text += *text == '-';
        uuid[i] = (uint8_t)(hex_value(text[0]) << 4 | hex_value(text[1]));
    }
}

/* ---- pools ---- */

enum {
    UNIT_MIN = 4 << 10,
    UNIT_MAX = 64 << 10,
    VOLUMES_MAX = 1 << 24,
};

static bool answer_volume(struct answer *a, struct plx_volume_info *v)
{
    answer_copy(a, "name", v->name, sizeof v->name);
    if (!v->name[0])
        answer_refuse(a, "name");
    answer_copy(a, "parent", v->parent, sizeof v->parent);
    answer_uuid(a, "uuid", v->uuid);
    v->size = answer_number(a, "size", 1, INT64_MAX);
    v->mapped = answer_number(a, "mapped", 0, INT64_MAX);
    v->children = (uint32_t)answer_number(a, "children", 0, VOLUMES_MAX);
    v->created = answer_number(a, "created", 0, INT64_MAX);
    v->snapshot = answer_bool(a, "snapshot");
    v->thick = answer_bool(a, "thick");
    return !a->wrong;
}

static void answer_info(struct answer *a, struct plx_pool_info *i)
{
    answer_copy(a, "name", i->name, sizeof i->name);
    answer_uuid(a, "uuid", i->uuid);
    i->unit = (uint32_t)answer_number(a, "unit", UNIT_MIN, UNIT_MAX);
    i->cluster = (uint32_t)answer_number(a, "cluster", i->unit, UINT32_MAX);
    if (i->unit & (i->unit - 1))
        answer_refuse(a, "unit");
    if (i->cluster % i->unit)
        answer_refuse(a, "cluster");
    i->size = answer_number(a, "size", 1, INT64_MAX);
    i->usable = answer_number(a, "usable", 0, i->size);
    i->free = answer_number(a, "free", 0, i->size);
    i->set_aside = answer_number(a, "set_aside", 0, i->size - i->free);
    i->beyond = answer_number(a, "beyond", 0, INT64_MAX);
    i->checksums = answer_bool(a, "checksums");
    i->damages = answer_number(a, "checksum_errors", 0, INT64_MAX);
    if (json_object_get(a->o, "checksum_mended")) /* servers of before have none */
        i->mended = answer_number(a, "checksum_mended", 0, i->damages);
    i->freeing = answer_bool(a, "freeing");
    i->broken = (uint16_t)answer_number(a, "broken", 0, UINT16_MAX);
    if (json_object_get(a->o, "lost")) /* nor this */
        i->lost = (uint32_t)answer_number(a, "lost", 0, VOLUMES_MAX);
}

struct pool_seen *pool_answer_pool(const json_t *got, const char *uuid, struct plx_error *err)
{
    struct answer a = {.o = got};
    const json_t *volumes = answer_array(&a, "volumes");
    const size_t n = json_array_size(volumes);
    if (n > VOLUMES_MAX)
        answer_refuse(&a, "volumes");
    struct pool_seen *s = a.wrong ? NULL : calloc(1, sizeof *s + n * sizeof s->volumes[0]);
    if (!s && !a.wrong) {
        plx_fail(err, -ENOMEM, "out of memory");
        return NULL;
    }
    if (s) {
        char text[40];
        answer_info(&a, &s->info);
        pool_uuid(s->info.uuid, text);
        if (strcmp(text, uuid) != 0)
            answer_refuse(&a, "uuid");
        answer_copy(&a, "lvstore", s->lvstore, sizeof s->lvstore);
        for (; s->n < n && !a.wrong; s->n++) {
            struct answer each = {.o = json_array_get(volumes, s->n)};
            if (!answer_volume(&each, &s->volumes[s->n]))
                answer_refuse(&a, each.wrong);
        }
    }
    if (!pool_answer_failed(&a, "pollux_pool_get", err))
        return s;
    free(s);
    return NULL;
}

/* ---- what is different ---- */

/* [offset, length, data], behind all others */
static bool answer_extent(const json_t *e, uint64_t at, uint64_t size, uint32_t unit, struct plx_pool_extent *out)
{
    const json_t *offset = json_array_get(e, 0), *length = json_array_get(e, 1), *data = json_array_get(e, 2);
    const json_int_t o = json_integer_value(offset), l = json_integer_value(length);
    if (!json_is_integer(offset) || !json_is_integer(length) || !json_is_boolean(data) || o < 0 || l <= 0)
        return false;
    *out = (struct plx_pool_extent){.offset = (uint64_t)o, .length = (uint64_t)l, .data = json_is_true(data)};
    return out->offset >= at && out->offset < size && out->length <= size - out->offset && out->offset % unit == 0 &&
           (out->length % unit == 0 || out->offset + out->length == size);
}

bool pool_answer_diff(const json_t *got, uint32_t unit, struct plx_pool_diff *d)
{
    struct answer a = {.o = got};
    const json_t *extents = answer_array(&a, "extents");
    const uint64_t size = answer_number(&a, "size", 1, INT64_MAX), next = answer_number(&a, "next", 0, size);
    uint64_t at = d->offset;
    if (json_array_size(extents) > d->room)
        answer_refuse(&a, "extents");
    if (next <= at && next < size) /* it would never end */
        answer_refuse(&a, "next");
    for (d->n = 0; d->n < json_array_size(extents) && !a.wrong; d->n++) {
        struct plx_pool_extent *e = &d->extents[d->n];
        if (answer_extent(json_array_get(extents, d->n), at, size, unit, e))
            at = e->offset + e->length;
        else
            answer_refuse(&a, "extents");
    }
    d->size = size;
    d->offset = next;
    return !pool_answer_failed(&a, "pollux_pool_diff", &d->err);
}

/* ---- check ---- */

static bool answer_finding(const json_t *o, const struct plx_pool_check *c)
{
    static const char *const severities[] = {"note", "waste", "damage"};
    enum { SEVERITY = 8 };
    struct answer a = {.o = o};
    const char *severity = answer_text(&a, "severity", SEVERITY);
    const json_t *text = json_object_get(o, "text"), *volume = json_object_get(o, "volume"),
                 *number = json_object_get(o, "number"), *unit = json_object_get(o, "unit"),
                 *offset = json_object_get(o, "offset");
    struct plx_pool_finding f = {.mendable = answer_bool(&a, "repairable")};
    size_t i = 0;
    while (i < 3 && strcmp(severity, severities[i]) != 0)
        i++;
    if (i == 3 || !json_is_string(text) || !(json_is_string(volume) || json_is_null(volume)) ||
        !json_is_integer(number) || !json_is_integer(unit) || !json_is_integer(offset))
        return false;
    f.severity = i == 0 ? PLX_POOL_NOTE : i == 1 ? PLX_POOL_WASTE : PLX_POOL_DAMAGE;
    f.text = json_string_value(text); /* these two have what is on the disk in them, and are shown with care */
    f.volume = json_string_value(volume);
    f.number = json_integer_value(number);
    f.unit = json_integer_value(unit);
    f.offset = json_integer_value(offset);
    if (!a.wrong)
        c->found(c->arg, &f);
    return !a.wrong;
}

bool pool_answer_check(const json_t *got, struct plx_pool_check *c, struct plx_error *err)
{
    struct answer a = {.o = got};
    const json_t *findings = answer_array(&a, "findings");
    answer_copy(&a, "name", c->name, sizeof c->name);
    answer_uuid(&a, "uuid", c->uuid);
    c->generation = answer_number(&a, "generation", 0, INT64_MAX);
    c->size = answer_number(&a, "size", 0, INT64_MAX);
    c->used = answer_number(&a, "used", 0, INT64_MAX);
    c->volumes = (uint32_t)answer_number(&a, "volumes", 0, UINT32_MAX);
    c->snapshots = (uint32_t)answer_number(&a, "snapshots", 0, UINT32_MAX);
    c->others = (uint32_t)answer_number(&a, "deleted", 0, UINT32_MAX);
    c->nodes = answer_number(&a, "nodes", 0, INT64_MAX);
    c->log_pages = answer_number(&a, "log_pages", 0, INT64_MAX);
    c->data_bytes = answer_number(&a, "data_bytes", 0, INT64_MAX);
    c->notes = answer_number(&a, "notes", 0, INT64_MAX);
    c->wastes = answer_number(&a, "wastes", 0, INT64_MAX);
    c->damages = answer_number(&a, "damages", 0, INT64_MAX);
    for (size_t i = 0; i < json_array_size(findings) && !a.wrong; i++)
        if (!answer_finding(json_array_get(findings, i), c))
            answer_refuse(&a, "findings");
    return !pool_answer_failed(&a, "pollux_pool_check", err);
}

/* ---- data ---- */

/* RFC 4648, 4. @return -1 when it is no digit */
static int base64_value(char ch)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    static int8_t values[256];
    if (!values['B'])
        for (int i = 0; digits[i]; i++)
            values[(unsigned char)digits[i]] = (int8_t)(i + 1);
    return values[(unsigned char)ch] - 1;
}

bool pool_answer_data(const json_t *got, uint8_t *mem, uint64_t length, struct plx_error *err)
{
    struct answer a = {.o = got};
    const char *text = json_string_value(json_object_get(got, "data"));
    if (!text || strlen(text) != (length + 2) / 3 * 4)
        answer_refuse(&a, "data");
    for (uint64_t i = 0; i < length && !a.wrong; i += 3, text += 4) {
        unsigned bits = 0;
        for (unsigned k = 0; k < 4; k++) {
            const int value = base64_value(text[k]);
            if (value < 0 && (text[k] != '=' || i + k <= length))
                answer_refuse(&a, "data");
            bits = bits << 6 | (value < 0 ? 0U : (unsigned)value);
        }
        for (unsigned k = 0; k < 3 && i + k < length; k++)
            mem[i + k] = (uint8_t)(bits >> (16 - 8 * k));
    }
    return !pool_answer_failed(&a, "pollux_pool_read", err);
}
