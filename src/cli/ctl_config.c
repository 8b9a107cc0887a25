/* SPDX-License-Identifier: BSD-3-Clause */
/* Configurations: save and load. */
#include "ctl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_BYTES = 256 << 20 };

/* ---- save ---- */

int ctl_save(struct ctl *c, char *const *words, int n)
{
    json_t *config;
    (void)words, (void)n;
    int ret = ctl_call(c, "pollux_save", NULL, &config);
    if (ret)
        return ret;
    ctl_print_json(config);
    json_decref(config);
    return EXIT_OK;
}

/* ---- files ---- */

/* Where a comment that begins here ends; NULL where none begins. */
static char *comment_end(char *text)
{
    if (text[0] != '/' || (text[1] != '/' && text[1] != '*'))
        return NULL;
    char *end = text[1] == '/' ? strchr(text, '\n') : strstr(text + 2, "*/");
    return !end ? text + strlen(text) : text[1] == '/' ? end : end + 2;
}

/* Comments as C has them become spaces, outside of texts; lines stay where they are. */
static void remove_comments(char *text)
{
    bool quoted = false;
    while (*text) {
        char *end = quoted ? NULL : comment_end(text);
        for (; end && text < end; text++)
            *text = *text == '\n' ? '\n' : ' ';
        if (end)
            continue;
        if (*text == '"')
            quoted = !quoted;
        text += quoted && text[0] == '\\' && text[1] ? 2 : 1;
    }
}

static char *read_whole(const char *path)
{
    bool standard = strcmp(path, "-") == 0;
    FILE *f = standard ? stdin : fopen(path, "re");
    char *text = NULL;
    size_t room = 0;
    if (!f) {
        cli_fail(EXIT_USAGE, "%s: %s", path, strerror(errno));
        return NULL;
    }
    ssize_t n = getdelim(&text, &room, 0, f); /* JSON has no zeroes */
    bool whole = n >= 0 && n <= FILE_BYTES && strlen(text) == (size_t)n && !ferror(f);
    if (!whole) {
        cli_fail(EXIT_USAGE, "%s: %s", path, ferror(f) ? strerror(errno) : n < 0 ? "it is empty" : "it is no JSON");
        free(text);
        text = NULL;
    }
    if (!standard)
        fclose(f);
    return text;
}

json_t *ctl_read_json(const char *path)
{
    json_error_t problem;
    char *text = read_whole(path);
    if (!text)
        return NULL;
    remove_comments(text);
    json_t *v = json_loads(text, JSON_REJECT_DUPLICATES, &problem);
    free(text);
    if (!v)
        cli_fail(EXIT_USAGE, "%s: line %d, column %d: %s", path, problem.line, problem.column, problem.text);
    return v;
}

/* ---- load ---- */

/* All calls of a configuration, in order; NULL after having said that it is none. */
static json_t *calls_of(const json_t *config, const char *path)
{
    const json_t *groups = json_object_get(config, "subsystems"), *group, *calls;
    json_t *out = json_array(), *call;
    size_t i, k;
    if (!json_is_array(groups)) {
        cli_fail(EXIT_USAGE, "%s: a configuration is an object with an array \"subsystems\", as save prints one", path);
        goto fail;
    }
    json_array_foreach(groups, i, group)
    {
        calls = json_object_get(group, "config");
        if (!json_is_array(calls) && !json_is_null(calls)) {
            cli_fail(EXIT_USAGE, "%s: entry %zu of \"subsystems\" has no array \"config\"", path, i);
            goto fail;
        }
        json_array_foreach(calls, k, call)
        {
            if (!json_is_string(json_object_get(call, "method"))) {
                cli_fail(EXIT_USAGE, "%s: entry %zu of \"subsystems\": call %zu has no \"method\"", path, i, k);
                goto fail;
            }
            json_array_append(out, call);
        }
    }
    return out;

fail:
    json_decref(out);
    return NULL;
}

static bool comes_early(const struct ctl *c, const json_t *call)
{
    const json_t *m = ctl_find_method(c, ctl_str(call, "method"));
    return strcmp(ctl_str(m, "when"), "before initialisation") == 0;
}

/* The calls that may be made before the initialisation alone, or all others. */
static int make_calls(struct ctl *c, const json_t *calls, bool early, const char *path, size_t *made)
{
    size_t i;
    const json_t *call;
    json_array_foreach(calls, i, call)
    {
        const char *method = ctl_str(call, "method");
        char *error = NULL;
        if (comes_early(c, call) != early || strcmp(method, "framework_start_init") == 0)
            continue;
        int ret = ctl_try(c, method, json_incref(json_object_get(call, "params")), NULL, &error);
        if (error)
            cli_fail(EXIT_RUNTIME, "%s: %s: %s; calls that were made before it: %zu", path, method, error, *made);
        free(error);
        if (ret)
            return ret;
        ++*made;
    }
    return EXIT_OK;
}

/* Whether the server is before its initialisation, where options may still be set. */
static int is_early(struct ctl *c, bool *early)
{
    json_t *names;
    const json_t *name;
    size_t i;
    int ret = ctl_call(c, "rpc_get_methods", json_pack("{s:b}", "current", true), &names);
    if (ret)
        return ret;
    *early = false;
    json_array_foreach(names, i, name)
    {
        if (strcmp(json_string_value(name) ? json_string_value(name) : "", "framework_start_init") == 0)
            *early = true;
    }
    json_decref(names);
    return EXIT_OK;
}

static int ctl_load_calls(struct ctl *c, const json_t *calls, const char *path)
{
    bool early;
    size_t made = 0, left = 0, i;
    const json_t *call;
    int ret = is_early(c, &early);
    if (!ret && early)
        ret = make_calls(c, calls, true, path, &made);
    if (!ret && early)
        ret = ctl_call(c, "framework_start_init", NULL, NULL);
    if (!ret)
        ret = make_calls(c, calls, false, path, &made);
    if (ret || early)
        return ret;
    json_array_foreach(calls, i, call)
    {
        left += comes_early(c, call);
    }
    if (left)
        cli_fail(EXIT_OK,
                 "%s: calls that set options are left out, %zu of them: they can be made before the initialisation "
                 "alone, as \"pollux serve -c\" does",
                 path, left);
    return EXIT_OK;
}

int ctl_load(struct ctl *c, char *const *words, int n)
{
    (void)n;
    json_t *config = ctl_read_json(words[0]), *calls = config ? calls_of(config, words[0]) : NULL;
    json_decref(config);
    if (!calls)
        return EXIT_USAGE;
    int ret = ctl_load_calls(c, calls, words[0]);
    json_decref(calls);
    return ret;
}
