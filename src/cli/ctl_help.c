/* SPDX-License-Identifier: BSD-3-Clause */
/* Help for `pollux ctl`, for its completion, and docs/methods.md: all of it from the table. */
#include "ctl.h"

#include <string.h>

void ctl_usage(void)
{
    puts("pollux ctl [OPTION]... VERB [WORD]...\n"
         "pollux ctl [OPTION]... METHOD [KEY=VALUE]...\n"
         "  Controls a \"pollux serve -r SOCKET\" that runs.\n\n"
         "verbs:");
    for (const struct ctl_verb *v = ctl_verbs; v->name; v++) {
        char head[80];
        snprintf(head, sizeof head, "%s %s", v->name, v->args);
        if (strlen(head) > 28)
            printf("  %s\n  %-28s  %s\n", head, "", v->help);
        else
            printf("  %-28s  %s\n", head, v->help);
    }
    puts("\nmethods are called as they are named, with parameters of the types they have: numbers as they are,\n"
         "true or false, texts, lists as a,b,c, members of objects as namespace.bdev_name=disk0, and lists\n"
         "and objects as JSON.\n\n"
         "options:\n"
         "  -s, --socket SOCKET           where the server listens ($POLLUX_SOCKET, or " CTL_SOCKET ")\n"
         "      --json                    print JSON\n"
         "      --timeout SECONDS         wait so long for an answer; 0: for ever (60)\n"
         "      --nqn NQN                 the subsystem that is meant, where there are several\n"
         "      --name NAME               add: what the disk is called there\n"
         "      --nsid N                  add: the identifier of the namespace\n"
         "      --listen ADDR[:PORT]      create: where hosts reach it; may be given later, by listen\n\n"
         "\"pollux ctl help\" lists methods, and \"pollux ctl help METHOD\" explains one.");
}

/* ---- of methods ---- */

/* The first word of a name: methods are shown in groups by it. */
static void group_of(const json_t *method, char *out, size_t size)
{
    const char *name = ctl_str(method, "name");
    snprintf(out, size, "%.*s", (int)strcspn(name, "_"), name);
}

/* Groups in the order in which the table first has them, and methods within. */
static json_t *by_group(const json_t *methods)
{
    json_t *groups = json_object(), *m;
    size_t i;
    json_array_foreach(methods, i, m)
    {
        char group[40];
        group_of(m, group, sizeof group);
        if (!json_object_get(groups, group))
            json_object_set_new(groups, group, json_array());
        json_array_append(json_object_get(groups, group), m);
    }
    return groups;
}

static void list_methods(const struct ctl *c)
{
    json_t *groups = by_group(c->methods), *group, *m;
    const char *name;
    size_t i;
    json_object_foreach(groups, name, group)
    {
        putchar('\n');
        json_array_foreach(group, i, m)
        {
            printf("  %-40s  %s\n", ctl_str(m, "name"), ctl_str(m, "help"));
        }
    }
    json_decref(groups);
}

/* "a number from 1 to 4, 2 without it" */
static void takes_text(const json_t *p, char *out, size_t size)
{
    const json_t *init = json_object_get(p, "default");
    char *text = init && !json_is_object(init) ? json_dumps(init, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    bool required = json_is_true(json_object_get(p, "required")), inert = json_is_true(json_object_get(p, "inert"));
    snprintf(out, size, "%s%s%s%s%s", ctl_str(p, "takes"), required ? "; required" : "", text ? "; default " : "",
             text ? text : "", inert ? "; taken and kept, without effect" : "");
    free(text);
}

static void explain_params(const json_t *params, const char *prefix)
{
    const json_t *p;
    size_t i;
    json_array_foreach(params, i, p)
    {
        char takes[400], key[160];
        takes_text(p, takes, sizeof takes);
        printf("  %s%s\n      %s\n      %s\n", prefix, ctl_str(p, "name"), ctl_str(p, "help"), takes);
        if (!json_object_get(p, "members"))
            continue;
        snprintf(key, sizeof key, "%s%s.", prefix, ctl_str(p, "name"));
        explain_params(json_object_get(p, "members"), key);
    }
}

static void explain(const json_t *method)
{
    const json_t *params = json_object_get(method, "params");
    printf("pollux ctl %s%s\n  %s\n", ctl_str(method, "name"), json_array_size(params) ? " [KEY=VALUE]..." : "",
           ctl_str(method, "help"));
    if (json_object_get(method, "alias"))
        printf("  Its older name is %s.\n", ctl_str(method, "alias"));
    if (strcmp(ctl_str(method, "when"), "after initialisation") != 0)
        printf("  May be called %s%s.\n", ctl_str(method, "when"),
               strcmp(ctl_str(method, "when"), "always") == 0 ? ", before the initialisation too" : " alone");
    if (json_array_size(params))
        puts("\nparameters:");
    explain_params(params, "");
}

/* ---- for completion ---- */

static void name_keys(const json_t *params, const char *prefix)
{
    const json_t *p;
    size_t i;
    json_array_foreach(params, i, p)
    {
        char key[160], values[1024];
        snprintf(key, sizeof key, "%s%s", prefix, ctl_str(p, "name"));
        snprintf(values, sizeof values, "%s", ctl_str(p, "values"));
        bool flag = strcmp(ctl_str(p, "type"), "boolean") == 0;
        for (char *bar = values; (bar = strchr(bar, '|'));)
            *bar = ' ';
        if (json_object_get(p, "members")) {
            snprintf(key, sizeof key, "%s%s.", prefix, ctl_str(p, "name"));
            name_keys(json_object_get(p, "members"), key);
        } else {
            printf("%s= %s\n", key, flag ? "true false" : values);
        }
    }
}

static void name_all(const struct ctl *c)
{
    const json_t *m;
    size_t i;
    for (const struct ctl_verb *v = ctl_verbs; v->name; v++)
        puts(v->name);
    json_array_foreach(c->methods, i, m)
    {
        puts(ctl_str(m, "name"));
    }
}

/* ---- docs/methods.md ---- */

/* '|' ends a cell of a table. */
static void print_escaped(const char *text)
{
    for (; *text; text++)
        printf(*text == '|' ? "\\|" : "%c", *text);
}

static void markdown_params(const json_t *params, const char *prefix)
{
    const json_t *p;
    size_t i;
    json_array_foreach(params, i, p)
    {
        char takes[400], key[160];
        takes_text(p, takes, sizeof takes);
        printf("| `%s%s` | ", prefix, ctl_str(p, "name"));
        print_escaped(ctl_str(p, "help"));
        fputs(" | ", stdout);
        print_escaped(takes);
        puts(" |");
        if (!json_object_get(p, "members"))
            continue;
        snprintf(key, sizeof key, "%s%s.", prefix, ctl_str(p, "name"));
        markdown_params(json_object_get(p, "members"), key);
    }
}

static void markdown_method(const json_t *m)
{
    const char *when = ctl_str(m, "when");
    printf("\n### %s\n\n%s", ctl_str(m, "name"), ctl_str(m, "help"));
    if (strcmp(when, "always") == 0)
        printf(" May be called before the initialisation, too.");
    else if (strcmp(when, "before initialisation") == 0)
        printf(" May be called before the initialisation alone.");
    if (json_object_get(m, "alias"))
        printf(" Its older name, `%s`, is taken too.", ctl_str(m, "alias"));
    putchar('\n');
    if (!json_array_size(json_object_get(m, "params")))
        return;
    puts("\n| parameter | what it is | takes |\n|---|---|---|");
    markdown_params(json_object_get(m, "params"), "");
}

static void markdown(const struct ctl *c)
{
    json_t *groups = by_group(c->methods), *group, *m;
    const char *name;
    size_t i;
    puts(
        "# Methods\n\n"
        "What can be called over the control socket of `pollux serve -r SOCKET`, and with what. Made from the table\n"
        "that the server checks calls by, by `scripts/methods-doc`; [control.md](control.md) says how it is done, and\n"
        "`pollux ctl help METHOD` shows the same. Members of an object are written with a dot. What is taken without\n"
        "effect is there for clients that were written for others' servers: it is checked, and it is in dumps.\n");
    json_object_foreach(groups, name, group)
    {
        printf("- `%s_`:", name);
        json_array_foreach(group, i, m)
        {
            const char *method = ctl_str(m, "name"), *rest = strchr(method, '_');
            printf("%s [%s](#%s)", i ? "," : "", rest ? rest + 1 : method, method);
        }
        putchar('\n');
    }
    json_object_foreach(groups, name, group)
    {
        printf("\n## %s\n", name);
        json_array_foreach(group, i, m)
        {
            markdown_method(m);
        }
    }
    json_decref(groups);
}

/* ---- */

int ctl_help(const struct ctl *c, const struct ctl_help_wanted *w, char *const *words, int n)
{
    const json_t *m = n ? ctl_find_method(c, words[0]) : NULL;
    const struct ctl_verb *v = n ? ctl_find_verb(words[0]) : NULL;
    if (n > 1)
        return cli_fail(EXIT_USAGE, "help takes one method or verb: \"%s\" is a word too many", words[1]);
    if (w->keys && !n)
        return cli_fail(EXIT_USAGE, "help --keys lists those of a method: name one");
    if (n && !m && !v)
        return ctl_no_method(c, words[0]);
    if (w->names)
        name_all(c);
    else if (w->keys)
        name_keys(json_object_get(m, "params"), "");
    else if (w->markdown)
        markdown(c);
    else if (m)
        explain(m);
    else if (v)
        printf("pollux ctl %s%s%s\n  %s\n", v->name, v->args[0] ? " " : "", v->args, v->help);
    if (n || w->names || w->markdown)
        return EXIT_OK;
    ctl_usage();
    puts("\nmethods:");
    list_methods(c);
    return EXIT_OK;
}
