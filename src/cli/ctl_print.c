/* SPDX-License-Identifier: BSD-3-Clause */
/* What `pollux ctl` prints: results, and tables of them. */
#include "ctl.h"

#include <stdlib.h>
#include <string.h>

enum { COLUMNS_MAX = 12 };

void ctl_print_json(const json_t *v)
{
    json_dumpf(v, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER | JSON_ENSURE_ASCII | JSON_ENCODE_ANY);
    putchar('\n');
}

void ctl_print_result(const struct ctl *c, const json_t *result)
{
    char *text;
    if (c->json || json_is_object(result) || json_is_array(result)) {
        ctl_print_json(result);
    } else if (json_is_string(result)) {
        text = strdup(json_string_value(result));
        if (text)
            puts(cli_clean(text));
        free(text);
    } else if (result && !json_is_true(result)) { /* true says that it is done */
        ctl_print_json(result);
    }
}

/* ---- tables ---- */

json_t *ctl_text(const char *text)
{
    char *copy = strdup(text && text[0] ? text : "-");
    json_t *v = copy ? json_string(cli_clean(copy)) : NULL;
    free(copy);
    return v ? v : json_string("?");
}

json_t *ctl_textf(const char *fmt, ...)
{
    char *text;
    va_list ap;
    va_start(ap, fmt);
    int len = vasprintf(&text, fmt, ap);
    va_end(ap);
    json_t *v = ctl_text(len < 0 ? "?" : text);
    if (len >= 0)
        free(text);
    return v;
}

/* Places on a terminal: characters, and not bytes. */
static int width_of(const char *text)
{
    int n = 0;
    for (; *text; text++)
        n += ((unsigned char)*text & 0xc0) != 0x80;
    return n;
}

static void print_cell(const char *text, int width, char align, bool last)
{
    int pad = width - width_of(text);
    if (align == 'r')
        printf("%*s%s", pad, "", text);
    else
        printf("%s%*s", text, last ? 0 : pad, "");
    fputs(last ? "\n" : "  ", stdout);
}

void ctl_print_table(const char *const *heads, const char *align, json_t *rows)
{
    size_t n = strlen(align), i;
    int widths[COLUMNS_MAX];
    json_t *row;
    for (size_t k = 0; k < n; k++)
        widths[k] = width_of(heads[k]);
    json_array_foreach(rows, i, row)
    {
        for (size_t k = 0; k < n; k++) {
            int w = width_of(json_string_value(json_array_get(row, k)));
            widths[k] = w > widths[k] ? w : widths[k];
        }
    }
    for (size_t k = 0; k < n; k++)
        print_cell(heads[k], widths[k], align[k], k + 1 == n);
    json_array_foreach(rows, i, row)
    {
        for (size_t k = 0; k < n; k++)
            print_cell(json_string_value(json_array_get(row, k)), widths[k], align[k], k + 1 == n);
    }
    json_decref(rows);
}

void ctl_size(double bytes, char *out, size_t size)
{
    const char *unit = cli_unit(&bytes);
    snprintf(out, size, bytes == (double)(int64_t)bytes ? "%.0f %s" : "%.2f %s", bytes, unit);
}

const char *ctl_str(const json_t *o, const char *name)
{
    const char *text = json_string_value(json_object_get(o, name));
    return text ? text : "";
}

json_int_t ctl_int(const json_t *o, const char *name)
{
    return json_integer_value(json_object_get(o, name));
}
