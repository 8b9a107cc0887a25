/* SPDX-License-Identifier: BSD-3-Clause */
/* What can be called, as the table of the library has it; and parameters, as they are on a command line. */
#include "ctl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_MAX_LEN = 160 };

/* ---- the nearest name ---- */

struct nearest {
    const char *word;
    char best[NAME_MAX_LEN];
    size_t distance;
};

/* How many letters must be put in, left out or changed to make one of the other. */
static size_t edit_distance(const char *a, const char *b)
{
    size_t row[NAME_MAX_LEN + 1], na = strlen(a), nb = strlen(b);
    if (na > NAME_MAX_LEN || nb > NAME_MAX_LEN)
        return NAME_MAX_LEN;
    for (size_t k = 0; k <= nb; k++)
        row[k] = k;
    for (size_t i = 1; i <= na; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t k = 1; k <= nb; k++) {
            size_t change = diagonal + (a[i - 1] != b[k - 1]), other = row[k] < row[k - 1] ? row[k] : row[k - 1];
            diagonal = row[k];
            row[k] = change < other + 1 ? change : other + 1;
        }
    }
    return row[nb];
}

/* A name may be given as it is otherwise: `as`, of which another part stands before it. */
static void consider(struct nearest *n, const char *name, const char *as)
{
    size_t d = edit_distance(n->word, name), len = strlen(n->word), near = len / 3 > 2 ? len / 3 : 2;
    bool inside = len > 3 && strstr(name, n->word);
    if (inside)
        d = 1;
    if (d > near || d >= len || d >= n->distance)
        return;
    n->distance = d;
    snprintf(n->best, sizeof n->best, "%s", as);
}

static struct nearest nearest_to(const char *word)
{
    return (struct nearest){.word = word, .distance = NAME_MAX_LEN};
}

/* ---- methods ---- */

const json_t *ctl_find_method(const struct ctl *c, const char *name)
{
    size_t i;
    const json_t *m;
    json_array_foreach(c->methods, i, m)
    {
        if (strcmp(ctl_str(m, "name"), name) == 0 || strcmp(ctl_str(m, "alias"), name) == 0)
            return m;
    }
    return NULL;
}

int ctl_no_method(const struct ctl *c, const char *name)
{
    struct nearest n = nearest_to(name);
    size_t i;
    const json_t *m;
    for (const struct ctl_verb *v = ctl_verbs; v->name; v++)
        consider(&n, v->name, v->name);
    json_array_foreach(c->methods, i, m)
    {
        consider(&n, ctl_str(m, "name"), ctl_str(m, "name"));
        consider(&n, ctl_str(m, "alias"), ctl_str(m, "alias"));
    }
    if (n.best[0])
        return cli_fail(EXIT_USAGE, "there is no method or verb \"%s\"; is %s meant?", name, n.best);
    return cli_fail(EXIT_USAGE, "there is no method or verb \"%s\"; \"pollux ctl help\" lists those there are", name);
}

/* ---- parameters ---- */

static const json_t *find_key(const json_t *params, const char *name, size_t len)
{
    size_t i;
    const json_t *p;
    json_array_foreach(params, i, p)
    {
        if (strncmp(ctl_str(p, "name"), name, len) == 0 && strlen(ctl_str(p, "name")) == len)
            return p;
    }
    return NULL;
}

static void consider_keys(struct nearest *n, const json_t *params, const char *prefix)
{
    size_t i;
    const json_t *p;
    json_array_foreach(params, i, p)
    {
        char whole[NAME_MAX_LEN];
        snprintf(whole, sizeof whole, "%s%s", prefix, ctl_str(p, "name"));
        consider(n, whole, whole);
        consider(n, ctl_str(p, "name"), whole);
        if (!json_object_get(p, "members"))
            continue;
        snprintf(whole, sizeof whole, "%s%s.", prefix, ctl_str(p, "name"));
        consider_keys(n, json_object_get(p, "members"), whole);
    }
}

static int no_key(const json_t *method, const char *key)
{
    const char *name = ctl_str(method, "name");
    const json_t *params = json_object_get(method, "params");
    struct nearest n = nearest_to(key);
    consider_keys(&n, params, "");
    if (n.best[0])
        return cli_fail(EXIT_USAGE, "%s has no parameter \"%s\"; is %s meant?", name, key, n.best);
    if (!json_array_size(params))
        return cli_fail(EXIT_USAGE, "%s has no parameters, and \"%s\" is one", name, key);
    return cli_fail(EXIT_USAGE, "%s has no parameter \"%s\"; \"pollux ctl help %s\" lists those it has", name, key,
                    name);
}

static json_t *flag_value(const char *text)
{
    static const char *const yes[] = {"true", "yes", "on", "1"}, *const no[] = {"false", "no", "off", "0"};
    for (size_t i = 0; i < sizeof yes / sizeof yes[0]; i++)
        if (strcmp(text, yes[i]) == 0 || strcmp(text, no[i]) == 0)
            return json_boolean(strcmp(text, yes[i]) == 0);
    return NULL;
}

static json_t *number_value(const char *text)
{
    char *rest;
    errno = 0;
    long long v = strtoll(text, &rest, 10);
    bool number = (text[0] >= '0' && text[0] <= '9') || (text[0] == '-' && text[1] >= '0' && text[1] <= '9');
    return number && !*rest && !errno ? json_integer(v) : NULL;
}

/* Whether a text, n bytes of it, is one of "a|b|c"; any is, where there are no such values. */
static bool is_value(const char *values, const char *text, size_t n)
{
    for (const char *at = values; *at; at += *at == '|') {
        size_t len = strcspn(at, "|");
        if (len == n && !memcmp(at, text, n))
            return true;
        at += len;
    }
    return !*values;
}

/* "a,b,c", or JSON; nothing is an empty one. */
static json_t *list_value(const char *values, const char *text)
{
    if (text[0] == '[')
        return json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    json_t *out = json_array();
    while (*text) {
        size_t n = strcspn(text, ",");
        if (!n || !is_value(values, text, n)) {
            json_decref(out);
            return NULL;
        }
        json_array_append_new(out, json_stringn(text, n));
        text += n;
        text += *text == ',';
    }
    return out;
}

/* @return NULL when it is none of the parameter's type */
static json_t *typed_value(const json_t *param, const char *text)
{
    const char *type = ctl_str(param, "type"), *values = ctl_str(param, "values");
    if (strcmp(type, "boolean") == 0)
        return flag_value(text);
    if (strcmp(type, "number") == 0)
        return number_value(text);
    if (strcmp(type, "array") == 0)
        return list_value(values, text);
    if (strcmp(type, "object") == 0)
        return text[0] == '{' ? json_loads(text, JSON_REJECT_DUPLICATES, NULL) : NULL;
    return is_value(values, text, strlen(text)) ? json_string(text) : NULL;
}

static int wrong_value(const json_t *param, const char *key, const char *value)
{
    if (json_object_get(param, "members"))
        return cli_fail(EXIT_USAGE,
                        "%s=%s: it is an object: give its members, as in %s.%s=..., or all of it as JSON in quotes",
                        key, value, key, ctl_str(json_array_get(json_object_get(param, "members"), 0), "name"));
    return cli_fail(EXIT_USAGE, "%s=%s: it takes %s", key, value, ctl_str(param, "takes"));
}

/* One word; what is named by a key with dots is found, or made, on the way. */
static int set_key(const json_t *method, json_t *out, const char *key, const char *value)
{
    const json_t *params = json_object_get(method, "params"), *param;
    const char *at = key;
    for (;; at += strcspn(at, ".") + 1) {
        size_t len = strcspn(at, ".");
        param = find_key(params, at, len);
        params = json_object_get(param, "members");
        if (!param || (at[len] && !params))
            return no_key(method, key);
        if (!at[len])
            break;
        json_t *inner = json_object_get(out, ctl_str(param, "name"));
        if (!inner) {
            inner = json_object();
            json_object_set_new(out, ctl_str(param, "name"), inner);
        }
        out = inner;
    }
    if (json_object_get(out, at))
        return cli_fail(EXIT_USAGE, "%s is given twice", key);
    json_t *v = typed_value(param, value);
    if (!v)
        return wrong_value(param, key, value);
    json_object_set_new(out, at, v);
    return EXIT_OK;
}

static int find_missing(const json_t *method, const json_t *params, const json_t *given, const char *prefix)
{
    size_t i;
    const json_t *p;
    json_array_foreach(params, i, p)
    {
        const char *name = ctl_str(p, "name");
        const json_t *v = json_object_get(given, name), *members = json_object_get(p, "members");
        char whole[NAME_MAX_LEN];
        if (!v && json_is_true(json_object_get(p, "required")) && !members)
            return cli_fail(EXIT_USAGE, "%s needs %s%s=..., %s; \"pollux ctl help %s\" lists its parameters",
                            ctl_str(method, "name"), prefix, name, ctl_str(p, "takes"), ctl_str(method, "name"));
        snprintf(whole, sizeof whole, "%s%s.", prefix, name);
        bool look = members && (json_is_object(v) || json_is_true(json_object_get(p, "required")));
        if (look && find_missing(method, members, v, whole))
            return EXIT_USAGE;
    }
    return EXIT_OK;
}

json_t *ctl_params(const json_t *method, char *const *words, int n)
{
    json_t *out = json_object();
    for (int i = 0; i < n; i++) {
        char key[NAME_MAX_LEN];
        const char *value = strchr(words[i], '=');
        size_t len = value ? (size_t)(value - words[i]) : 0;
        if (!len || len >= sizeof key) {
            cli_fail(EXIT_USAGE, "\"%s\" is no parameter: %s takes KEY=VALUE; \"pollux ctl help %s\" lists keys",
                     words[i], ctl_str(method, "name"), ctl_str(method, "name"));
            goto fail;
        }
        snprintf(key, sizeof key, "%.*s", (int)len, words[i]);
        if (set_key(method, out, key, value + 1))
            goto fail;
    }
    if (find_missing(method, json_object_get(method, "params"), out, ""))
        goto fail;
    return out;

fail:
    json_decref(out);
    return NULL;
}
