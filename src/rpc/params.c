/* SPDX-License-Identifier: BSD-3-Clause */
/* Parameters, as the tables of the methods have them: checked, completed, described. */
#include "rpc/rpc.h"

#include "base/uuid.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- what a type is, in words ---- */

static uint64_t most(const struct rpc_param *p)
{
    uint64_t fits = p->bits ? (UINT64_C(1) << p->bits) - 1 : UINT64_MAX;
    if (p->type == RPC_INT)
        fits >>= 1;
    return p->max ? plx_min_u64(p->max, fits) : fits;
}

static void what_it_takes(const struct rpc_param *p, char *out, size_t size)
{
    switch (p->type) {
    case RPC_BOOL:
        snprintf(out, size, "true or false");
        break;
    case RPC_UINT:
        snprintf(out, size, "a number from %" PRIu64 " to %" PRIu64, p->min, most(p));
        break;
    case RPC_INT:
        snprintf(out, size, "a number up to %" PRIu64, most(p));
        break;
    case RPC_STRING:
        if (p->max)
            snprintf(out, size, "a text of %" PRIu64 " to %" PRIu64 " bytes", p->min, p->max);
        else
            snprintf(out, size, "a text");
        break;
    case RPC_UUID:
        snprintf(out, size, "a UUID");
        break;
    case RPC_ENUM:
        snprintf(out, size, "one of %s", p->values);
        break;
    case RPC_FLAGS:
        snprintf(out, size, "an array of %s", p->values);
        break;
    case RPC_STRINGS:
        snprintf(out, size, "an array of texts");
        break;
    case RPC_UINTS:
        snprintf(out, size, "an array of numbers");
        break;
    case RPC_OBJECT:
        snprintf(out, size, "an object");
        break;
    case RPC_OBJECTS:
        snprintf(out, size, "an array of %" PRIu64 " to %" PRIu64 " objects", p->min, p->max);
        break;
    case RPC_MAP:
        snprintf(out, size, "an object of texts");
        break;
    }
}

/* A value, as it was given, cut off when it is long. */
static void what_was_given(const json_t *v, char *out, size_t size)
{
    char *text = json_is_object(v) || json_is_array(v) ? NULL : json_dumps(v, JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
    snprintf(out, size, "%.60s%s",
             text                ? text
             : json_is_object(v) ? "an object"
                                 : "an array",
             text && strlen(text) > 60 ? "..." : "");
    free(text);
}

/* ---- checking ---- */

struct check {
    const struct rpc_method *method;
    int *code;
    struct plx_error *err;
};

/* The value of what is no number at all, or not that of its type: what existing clients get for it is this code. */
static int wrong(const struct check *k, int code, const struct rpc_param *p, const json_t *v)
{
    char takes[160], given[80];
    what_it_takes(p, takes, sizeof takes);
    what_was_given(v, given, sizeof given);
    *k->code = code;
    return plx_fail(k->err, -EINVAL, "%s is %s, and takes %s", p->name, given, takes);
}

static int beyond(const struct check *k, const struct rpc_param *p, const json_t *v)
{
    return wrong(k, k->method->bad ? k->method->bad : -EINVAL, p, v);
}

static bool one_of(const char *values, const char *text)
{
    size_t len = strlen(text);
    for (const char *at = values;; at++) {
        size_t n = strcspn(at, "|");
        if (n == len && !memcmp(at, text, n))
            return true;
        at += n;
        if (!*at)
            return false;
    }
}

static int check_number(const struct check *k, const struct rpc_param *p, json_t **v)
{
    /* 1e3 is a whole number as well. */
    if (json_is_real(*v) && fabs(json_real_value(*v)) < 9e15 && floor(json_real_value(*v)) == json_real_value(*v)) {
        json_t *whole = json_integer((json_int_t)json_real_value(*v));
        json_decref(*v);
        *v = whole;
    }
    if (!json_is_integer(*v))
        return wrong(k, RPC_INTERNAL, p, *v);
    json_int_t n = json_integer_value(*v);
    uint64_t fits = p->bits ? (UINT64_C(1) << p->bits) - 1 : UINT64_MAX;
    if (p->type == RPC_INT) {
        int64_t limit = p->bits ? INT64_C(1) << (p->bits - 1) : INT64_MAX;
        return n < -limit || n >= limit ? wrong(k, RPC_INTERNAL, p, *v) : 0;
    }
    if (n < 0 || (uint64_t)n > fits)
        return wrong(k, RPC_INTERNAL, p, *v);
    return (uint64_t)n < p->min || (uint64_t)n > most(p) ? beyond(k, p, *v) : 0;
}

static int check_text(const struct check *k, const struct rpc_param *p, const json_t *v)
{
    uint8_t uuid[16];
    if (!json_is_string(v))
        return wrong(k, RPC_INTERNAL, p, v);
    const char *text = json_string_value(v);
    if (p->type == RPC_UUID && !plx_uuid_parse(text, uuid))
        return wrong(k, RPC_INTERNAL, p, v);
    if (p->type == RPC_ENUM && !one_of(p->values, text))
        return wrong(k, RPC_INTERNAL, p, v);
    size_t len = strlen(text);
    return len < p->min || (p->max && len > p->max) ? beyond(k, p, v) : 0;
}

static int check_list(const struct check *k, const struct rpc_param *p, const json_t *v)
{
    size_t i;
    json_t *item;
    if (!json_is_array(v))
        return wrong(k, RPC_INTERNAL, p, v);
    json_array_foreach(v, i, item)
    {
        if (p->type == RPC_UINTS) {
            if (!json_is_integer(item) || json_integer_value(item) < 0)
                return wrong(k, RPC_INTERNAL, p, item);
            continue;
        }
        if (!json_is_string(item) || (p->type == RPC_FLAGS && !one_of(p->values, json_string_value(item))))
            return wrong(k, RPC_INTERNAL, p, item);
    }
    return 0;
}

static json_t *check_members(const struct check *k, const struct rpc_param *members, const json_t *given,
                             const char *what);

static int check_object(const struct check *k, const struct rpc_param *p, json_t **v)
{
    if (!json_is_object(*v))
        return wrong(k, RPC_INTERNAL, p, *v);
    json_t *checked = check_members(k, p->members, *v, p->name);
    if (!checked)
        return -EINVAL;
    json_decref(*v);
    *v = checked;
    return 0;
}

static int check_objects(const struct check *k, const struct rpc_param *p, json_t **v)
{
    const size_t n = json_is_array(*v) ? json_array_size(*v) : 0;
    if (!json_is_array(*v) || n < p->min || n > p->max)
        return wrong(k, RPC_INTERNAL, p, *v);
    json_t *out = json_array();
    for (size_t i = 0; i < n; i++) {
        json_t *item = json_incref(json_array_get(*v, i));
        if (check_object(k, p, &item)) {
            json_decref(item);
            json_decref(out);
            return -EINVAL;
        }
        json_array_append_new(out, item);
    }
    json_decref(*v);
    *v = out;
    return 0;
}

static int check_map(const struct check *k, const struct rpc_param *p, json_t **v)
{
    const char *name;
    json_t *each;
    if (json_is_null(*v))
        *v = json_object();
    if (!json_is_object(*v))
        return wrong(k, RPC_INTERNAL, p, *v);
    json_object_foreach(*v, name, each) if (!json_is_string(each)) return wrong(k, RPC_INTERNAL, p, each);
    return 0;
}

static int check_value(const struct check *k, const struct rpc_param *p, json_t **v)
{
    switch (p->type) {
    case RPC_BOOL:
        return json_is_boolean(*v) ? 0 : wrong(k, RPC_INTERNAL, p, *v);
    case RPC_UINT:
    case RPC_INT:
        return check_number(k, p, v);
    case RPC_STRING:
    case RPC_UUID:
    case RPC_ENUM:
        return check_text(k, p, *v);
    case RPC_FLAGS:
    case RPC_STRINGS:
    case RPC_UINTS:
        return check_list(k, p, *v);
    case RPC_OBJECTS:
        return check_objects(k, p, v);
    case RPC_MAP:
        return check_map(k, p, v);
    case RPC_OBJECT:
        break;
    }
    return check_object(k, p, v);
}

static const struct rpc_param *find_param(const struct rpc_param *members, const char *name)
{
    for (; members && members->name; members++)
        if (strcmp(members->name, name) == 0)
            return members;
    return NULL;
}

/* "a, b and c" */
static void list_names(const struct rpc_param *members, char *out, size_t size)
{
    size_t n = 0;
    out[0] = 0;
    for (const struct rpc_param *p = members; p && p->name && n + 1 < size; p++)
        n += (size_t)snprintf(out + n, size - n, "%s%s", p == members ? "" : p[1].name ? ", " : " and ", p->name);
}

static int check_unknown(const struct check *k, const struct rpc_param *members, const json_t *given, const char *what)
{
    const char *name;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)given, name, v)
    {
        if (find_param(members, name))
            continue;
        char there[200];
        list_names(members, there, sizeof there);
        *k->code = RPC_INTERNAL;
        return plx_fail(k->err, -EINVAL, "%s has no parameter %.60s; %s%s", what, name,
                        there[0] ? "there are " : "it has none", there);
    }
    return 0;
}

static json_t *check_members(const struct check *k, const struct rpc_param *members, const json_t *given,
                             const char *what)
{
    if (check_unknown(k, members, given, what))
        return NULL;
    json_t *out = json_object();
    for (const struct rpc_param *p = members; out && p && p->name; p++) {
        json_t *v = json_incref(json_object_get(given, p->name));
        if (!v && p->required) {
            char takes[160];
            what_it_takes(p, takes, sizeof takes);
            *k->code = RPC_INTERNAL;
            plx_fail(k->err, -EINVAL, "%s is missing: %s takes it as %s", p->name, what, takes);
            goto fail;
        }
        bool init = !v;
        if (!v && p->init)
            v = json_loads(p->init, JSON_DECODE_ANY, NULL);
        if (!v)
            continue;
        if ((!init || p->type == RPC_OBJECT) && check_value(k, p, &v)) {
            json_decref(v);
            goto fail;
        }
        json_object_set_new(out, p->name, v);
    }
    return out;

fail:
    json_decref(out);
    return NULL;
}

json_t *rpc_params_check(const struct rpc_method *m, const json_t *given, int *code, struct plx_error *err)
{
    const struct check k = {.method = m, .code = code, .err = err};
    json_t *none = NULL, *out;
    *code = RPC_INTERNAL;
    if (!given || json_is_null(given))
        given = none = json_object();
    if (json_is_object(given)) {
        out = check_members(&k, m->params, given, m->name);
    } else {
        plx_fail(err, -EINVAL, "%s takes its parameters by name, as members of an object", m->name);
        out = NULL;
    }
    json_decref(none);
    return out;
}

/* ---- describing ---- */

static json_t *describe_params(const struct rpc_param *members)
{
    static const char *const types[] = {
        [RPC_BOOL] = "boolean", [RPC_UINT] = "number",   [RPC_INT] = "number",    [RPC_STRING] = "string",
        [RPC_UUID] = "uuid",    [RPC_ENUM] = "string",   [RPC_FLAGS] = "array",   [RPC_STRINGS] = "array",
        [RPC_UINTS] = "array",  [RPC_OBJECT] = "object", [RPC_OBJECTS] = "array", [RPC_MAP] = "object",
    };
    json_t *out = json_array();
    for (const struct rpc_param *p = members; p && p->name; p++) {
        char takes[160];
        what_it_takes(p, takes, sizeof takes);
        json_t *o = json_pack("{s:s, s:s, s:s, s:b, s:s?}", "name", p->name, "type", types[p->type], "takes", takes,
                              "required", p->required, "help", p->help);
        if (p->values)
            json_object_set_new(o, "values", json_string(p->values));
        if (p->init)
            json_object_set_new(o, "default", json_loads(p->init, JSON_DECODE_ANY, NULL));
        if (p->inert)
            json_object_set_new(o, "inert", json_true());
        if (p->members)
            json_object_set_new(o, "members", describe_params(p->members));
        json_array_append_new(out, o);
    }
    return out;
}

json_t *rpc_describe_method(const struct rpc_method *m)
{
    json_t *o = json_pack("{s:s, s:s, s:s, s:o}", "name", m->name, "help", m->help, "when",
                          m->startup_only ? "before initialisation"
                          : m->startup    ? "always"
                                          : "after initialisation",
                          "params", describe_params(m->params));
    if (m->alias)
        json_object_set_new(o, "alias", json_string(m->alias));
    return o;
}
