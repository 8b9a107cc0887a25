/* SPDX-License-Identifier: BSD-3-Clause */
/* Findings for people: first what could be done, then what is well, and what could not be found out. */
#include "tune.h"

#include <stdio.h>
#include <string.h>

enum {
    LABEL = 8, /* columns */
    COLUMNS = 110,
    COMMANDS_SHOWN = 3,
};

static const char *text_of(const json_t *f, const char *name)
{
    const char *text = json_string_value(json_object_get(f, name));
    return text ? text : "";
}

static bool is_state(const json_t *f, const char *state)
{
    return strcmp(text_of(f, "state"), state) == 0;
}

/* A label, and a text whose lines begin beside it. */
static void print_wrapped(const char *label, const char *text)
{
    size_t at = LABEL;
    if (!text[0])
        return;
    printf("    %-*s", LABEL, label);
    while (*text) {
        size_t n = strcspn(text, " ");
        if (at > LABEL && at + 1 + n > COLUMNS) {
            printf("\n    %*s", LABEL, "");
            at = LABEL;
        }
        printf(at > LABEL ? " %.*s" : "%.*s", (int)n, text);
        at += n + (at > LABEL);
        text += n + strspn(text + n, " ");
    }
    putchar('\n');
}

static void print_gain(const json_t *f)
{
    const json_t *gain = json_object_get(f, "gain");
    const char *origin = text_of(gain, "origin"), *source = text_of(gain, "source");
    char text[1024];
    bool measured = strcmp(origin, "measured") == 0;
    snprintf(text, sizeof text, "%s%s%s%s%s", text_of(gain, "text"), source[0] ? " (" : "",
             source[0] && measured ? "measured here: " : "", source, source[0] ? ")" : "");
    print_wrapped("brings", text);
}

static void print_commands(const json_t *f)
{
    const json_t *commands = json_object_get(f, "commands");
    size_t n = json_array_size(commands);
    for (size_t i = 0; i < n && i < COMMANDS_SHOWN; i++)
        printf("    %-*s%s\n", LABEL, i ? "" : "do", json_string_value(json_array_get(commands, i)));
    if (n > COMMANDS_SHOWN)
        printf("    %-*sand %zu more: --json lists them\n", LABEL, "", n - COMMANDS_SHOWN);
}

static void print_finding(const json_t *f)
{
    const char *subject = text_of(f, "subject");
    printf("%-8s%s%s%s: %s\n", text_of(f, "state"), text_of(f, "check"), subject[0] ? " " : "", subject,
           text_of(f, "title"));
    print_wrapped("found", text_of(f, "found"));
    print_wrapped("better", text_of(f, "wanted"));
    print_wrapped("why", text_of(f, "why"));
    print_gain(f);
    print_wrapped("costs", text_of(f, "cost"));
    print_commands(f);
    putchar('\n');
}

static void print_short(const json_t *findings, const char *state, const char *head)
{
    size_t i;
    json_t *f;
    bool any = false;
    json_array_foreach(findings, i, f)
    {
        if (!is_state(f, state))
            continue;
        if (!any)
            printf("%s\n", head);
        any = true;
        printf("    %-20s %s%s%s\n", text_of(f, "check"), text_of(f, "subject"), text_of(f, "subject")[0] ? ": " : "",
               text_of(f, "found"));
    }
    if (any)
        putchar('\n');
}

void tune_print(const json_t *findings, const struct tune_options *o)
{
    static const char *const first[] = {"better", "choice"};
    size_t i, reversible = 0;
    json_t *f;
    for (unsigned k = 0; k < 2; k++)
        json_array_foreach(findings, i, f) if (is_state(f, first[k])) print_finding(f);
    print_short(findings, "ok", "as it should be:");
    print_short(findings, "absent", "not on this machine:");
    print_short(findings, "unknown", "not known:");
    json_array_foreach(findings, i, f)
    {
        reversible += is_state(f, "better") && json_is_true(json_object_get(f, "reversible")) &&
                      !json_is_true(json_object_get(f, "careful"));
    }
    if (reversible && !o->apply)
        printf("pollux tune --apply makes the changes of %zu of these, which pollux tune --undo takes back; it makes a "
               "\"choice\" when it is named.\n",
               reversible);
}
