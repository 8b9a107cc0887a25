/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The report: one page that needs nothing from elsewhere. Its tables are there without scripts; its charts are drawn
 * from JSON by scripts of whose text the policy of the page has the hash, so that nothing else can run or be fetched.
 */
#include <errno.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "compare/asset.h"
#include "compare/cells.h"
#include "compare/chart.h"

enum { ROWS = 240, HASH = 32 }; /* the JSON has the others */

static void put_text(FILE *f, const char *text)
{
    for (; *text; text++) {
        const char *entity = *text == '&'   ? "&amp;"
                             : *text == '<' ? "&lt;"
                             : *text == '>' ? "&gt;"
                             : *text == '"' ? "&quot;"
                                            : NULL;
        if (entity)
            fputs(entity, f);
        else
            fputc(*text, f);
    }
}

static const struct compare_asset *asset_of(const char *name, size_t size)
{
    const struct compare_asset *a = compare_assets;
    while (a->name && (strlen(a->name) != size || memcmp(a->name, name, size)))
        a++;
    return a->name ? a : NULL;
}

/* ---- numbers ---- */

static void put_number(FILE *f, double v)
{
    char text[32];
    snprintf(text, sizeof text, v >= 1000 ? "%.0f" : v >= 100 ? "%.1f" : "%.2f", v);
    size_t whole = strcspn(text, ".");
    for (size_t i = 0; text[i]; i++) {
        if (i && i < whole && (whole - i) % 3 == 0)
            fputs("\xe2\x80\xaf", f); /* a narrow space that does not break */
        fputc(text[i], f);
    }
}

/* With its interval, where there is one. */
static void put_figure(FILE *f, const json_t *figure)
{
    fputs("<td>", f);
    if (json_is_number(json_object_get(figure, "mid"))) {
        put_number(f, json_number_value(json_object_get(figure, "mid")));
        if (json_is_number(json_object_get(figure, "low"))) {
            fputs("<br><small>", f);
            put_number(f, json_number_value(json_object_get(figure, "low")));
            fputs(" \xe2\x80\x93 ", f);
            put_number(f, json_number_value(json_object_get(figure, "high")));
            fputs("</small>", f);
        }
    } else {
        fputs("\xe2\x80\x93", f);
    }
    fputs("</td>", f);
}

/* ---- parts of the page ---- */

static void put_card(FILE *f, const json_t *cell)
{
    int pair = compare_pair_number(cell);
    fprintf(f, "<div class=\"card k%d\"><span class=\"what\">%s</span>", pair, compare_pair_names[pair]);
    const json_t *iops = compare_figure(cell, "iops");
    if (!iops) {
        fputs("<b>\xe2\x80\x93</b><span class=\"sub\">", f);
        put_text(f, compare_text(cell, "status"));
        fputs(": ", f);
        put_text(f, compare_text(cell, "reason"));
        fputs("</span></div>\n", f);
        return;
    }
    fputs("<b>", f);
    put_number(f, json_number_value(json_object_get(iops, "mid")));
    fputs(" IOPS</b><span class=\"sub\">", f);
    put_number(f, json_number_value(json_object_get(compare_figure(cell, "iops_per_core"), "mid")));
    fputs(" a core \xc2\xb7 ", f);
    put_number(f, json_number_value(json_object_get(compare_figure(cell, "cpu_us"), "mid")));
    fputs(" \xc2\xb5s of CPU an I/O \xc2\xb7 p99 ", f);
    put_number(f, json_number_value(json_object_get(compare_figure(cell, "p99"), "mid")));
    fputs(" \xc2\xb5s</span></div>\n", f);
}

static void put_cards(FILE *f, const json_t *doc)
{
    size_t i;
    const json_t *cell, *cells = json_object_get(doc, "cells"),
                        *base = json_object_get(json_array_get(cells, 0), "load");
    fputs("<h2>At a glance</h2>\n<p class=\"sub\">", f);
    put_text(f, compare_text(base, "text"));
    fputs("</p>\n<div class=\"cards\">\n", f);
    json_array_foreach(cells, i, cell)
    {
        if (json_equal(json_object_get(cell, "load"), base))
            put_card(f, cell);
    }
    fputs("</div>\n", f);
}

static void put_row(FILE *f, const json_t *cell)
{
    static const char *const names[] = {"iops",         "mib_s", "cores", "iops_per_core", "cpu_us",
                                        "paced_cpu_us", "p50",   "p99",   "p99.9"};
    fprintf(f, "<tr><td>%s</td>", compare_pair_names[compare_pair_number(cell)]);
    if (!json_object_get(cell, "figures")) {
        fputs("<td class=\"why\" colspan=\"9\">", f);
        put_text(f, compare_text(cell, "status"));
        fputs(": ", f);
        put_text(f, compare_text(cell, "reason"));
        fputs("</td></tr>\n", f);
        return;
    }
    for (size_t i = 0; i < PLX_ARRAY_SIZE(names); i++)
        put_figure(f, compare_figure(cell, names[i]));
    fputs("</tr>\n", f);
}

static void put_tables(FILE *f, const json_t *doc)
{
    static const char head[] =
        "<div class=\"scroll\"><table><thead><tr><th></th><th>IOPS</th><th>MiB/s</th><th>cores</th>"
        "<th>IOPS per core</th><th>\xc2\xb5s CPU an I/O</th><th>at the pace</th><th>p50 "
        "\xc2\xb5s</th><th>p99</th><th>p99.9</th></tr></thead><tbody>\n";
    const char *last = "";
    size_t i;
    const json_t *cell, *cells = json_object_get(doc, "cells");
    fputs("<h2>All figures</h2>\n<p class=\"sub\">Medians of the rounds, each above its interval of 95 %. "
          "Latencies are those of a "
          "schedule that is the same for all of a table, counted from the moment that a request was due.</p>\n",
          f);
    json_array_foreach(cells, i, cell)
    {
        const json_t *load = json_object_get(cell, "load");
        if (i == ROWS) {
            fprintf(f,
                    "</tbody></table></div>\n<p class=\"more\">%zu more rows are in the JSON "
                    "only.</p>\n<div><table><tbody>",
                    json_array_size(cells) - i);
            break;
        }
        if (strcmp(last, compare_text(load, "text"))) {
            fprintf(f, "%s<h3>", i ? "</tbody></table></div>\n" : "");
            put_text(f, compare_text(load, "text"));
            fputs("</h3>\n", f);
            fputs(head, f);
        }
        last = compare_text(load, "text");
        put_row(f, cell);
    }
    fputs("</tbody></table></div>\n", f);
}

static void put_change(FILE *f, const json_t *change)
{
    const json_t *low = json_object_get(change, "low");
    fputs("<td>", f);
    if (!json_is_number(low))
        fputs("\xe2\x80\x93", f);
    else if (strcmp(compare_text(change, "verdict"), "difference"))
        fputs("no difference", f);
    else
        fprintf(f, "%+.1f %%", 100 * json_number_value(json_object_get(change, "mid")));
    if (json_is_number(low))
        fprintf(f, "<br><small>%+.1f to %+.1f %%</small>", 100 * json_number_value(low),
                100 * json_number_value(json_object_get(change, "high")));
    fputs("</td>", f);
}

static void put_changes(FILE *f, const json_t *doc)
{
    static const char *const names[] = {"iops", "iops_per_core", "cpu_us", "p50", "p99"};
    const json_t *all = json_object_get(doc, "comparisons"), *each;
    size_t i;
    if (!json_array_size(all))
        return;
    fputs("<h2>Differences</h2>\n<p class=\"sub\">Round by round, the second against the first. It says "
          "\xe2\x80\x9cno difference\xe2\x80\x9d where the "
          "interval of 95 % holds none.</p>\n<div class=\"scroll\"><table><thead><tr><th></th><th "
          "class=\"l\">from</th><th class=\"l\">to</th><th>IOPS</th>"
          "<th>IOPS per core</th><th>CPU an I/O</th><th>p50</th><th>p99</th></tr></thead><tbody>\n",
          f);
    json_array_foreach(all, i, each)
    {
        if (i == ROWS)
            break;
        fputs("<tr><td>", f);
        put_text(f, compare_text(json_object_get(each, "load"), "text"));
        fprintf(f, "</td><td class=\"l\">%s</td><td class=\"l\">%s</td>",
                compare_pair_names[compare_pair_number(json_object_get(each, "from"))],
                compare_pair_names[compare_pair_number(json_object_get(each, "to"))]);
        for (size_t k = 0; k < PLX_ARRAY_SIZE(names); k++)
            put_change(f, json_object_get(json_object_get(each, "changes"), names[k]));
        fputs("</tr>\n", f);
    }
    fputs("</tbody></table></div>\n", f);
}

/* Whatever it is: an object is a list of its own. */
static void put_value(FILE *f, const json_t *v)
{
    if (json_is_string(v)) {
        put_text(f, json_string_value(v));
        return;
    }
    char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(6));
    put_text(f, text ? text : "");
    free(text);
}

static void put_list(FILE *f, const char *title, const json_t *o, bool open)
{
    const char *name;
    json_t *v;
    if (!json_is_object(o))
        return;
    fprintf(f, "<details%s><summary>%s</summary><dl>\n", open ? " open" : "", title);
    json_object_foreach((json_t *)(uintptr_t)o, name, v)
    {
        fputs("<dt>", f);
        put_text(f, name);
        fputs("</dt><dd>", f);
        put_value(f, v);
        fputs("</dd>\n", f);
    }
    fputs("</dl></details>\n", f);
}

static void put_header(FILE *f, const json_t *doc)
{
    const json_t *machine = json_object_get(doc, "machine"), *settings = json_object_get(doc, "settings");
    double idle = json_number_value(json_object_get(settings, "idle_cores"));
    double cpus = json_number_value(json_object_get(json_object_get(machine, "cpu"), "count"));
    fputs("<header><h1>NVMe/TCP, side by side: Pollux and the Linux kernel</h1>\n<p class=\"sub\">", f);
    put_text(f, compare_text(json_object_get(machine, "cpu"), "model"));
    fprintf(f, ", %.0f CPUs \xc2\xb7 Linux ", cpus);
    put_text(f, compare_text(json_object_get(machine, "kernel"), "release"));
    fputs(" \xc2\xb7 Pollux ", f);
    put_text(f, compare_text(doc, "pollux"));
    fputs(" \xc2\xb7 ", f);
    put_text(f, compare_text(doc, "began"));
    fputs("</p></header>\n", f);
    if (strcmp(compare_text(settings, "network"), "namespaces") == 0)
        fprintf(f,
                "<p class=\"warn\">Over virtual NICs (MTU %.0f) between two network namespaces: both ends share one "
                "machine and its caches, and there is no NIC. These figures compare; they are not those of a "
                "network.</p>\n",
                json_number_value(json_object_get(settings, "mtu")));
    if (strcmp(compare_text(settings, "network"), "loopback") == 0)
        fputs("<p class=\"warn\">Over loopback: both ends share one machine and its caches, and there is no "
              "NIC. These figures compare; they are not those of a network.</p>\n",
              f);
    if (cpus > 0 && idle > 0.05 * cpus)
        fprintf(f,
                "<p class=\"warn\">The machine was not idle before: %.2f cores were in use by others. CPU times "
                "are less that, and the intervals are wide for it.</p>\n",
                idle);
    if (!json_is_true(json_object_get(doc, "complete")))
        fputs("<p class=\"warn\">It was interrupted: these are the rounds that were through.</p>\n", f);
}

static void put_body(FILE *f, const json_t *doc)
{
    put_header(f, doc);
    put_cards(f, doc);
    fputs("<h2>Charts</h2>\n<p class=\"needs-script sub\">These need scripts; all that they show is in the "
          "tables below.</p>\n<div class=\"charts\"></div>\n",
          f);
    put_changes(f, doc);
    put_tables(f, doc);
    fputs("<h2>How it was measured</h2>\n<p>Each pair of a target and a host is run in turn, forth in one round "
          "and back in the next, after a run of each "
          "that does not count. A round has two runs: one as fast as requests complete, and one by a schedule "
          "at half of what the slowest "
          "pair can do. Percentiles are those of all rounds in one histogram; none is an average of others. CPU "
          "time is what the whole machine "
          "was not idle for, less what it used before.</p>\n",
          f);
    put_list(f, "Settings", json_object_get(doc, "settings"), true);
    const json_t *machine = json_object_get(doc, "machine");
    put_list(f, "CPU", json_object_get(machine, "cpu"), false);
    put_list(f, "Kernel", json_object_get(machine, "kernel"), false);
    put_list(f, "Sysctls", json_object_get(machine, "sysctls"), false);
    put_list(f, "All of the machine", machine, false);
    put_list(f, "The target's machine", json_object_get(doc, "target_machine"), false);
}

/* As text of a script element: what ends the element does not stand in it. */
static void put_charts(FILE *f, const json_t *doc)
{
    json_t *charts = compare_charts(doc);
    char *text = json_dumps(charts, JSON_COMPACT | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(6));
    for (const char *p = text ? text : "[]"; *p; p++) {
        if (*p == '<')
            fputs("\\u003c", f);
        else
            fputc(*p, f);
    }
    free(text);
    json_decref(charts);
}

static void put_hash(FILE *f, const char *name)
{
    const struct compare_asset *a = asset_of(name, strlen(name));
    unsigned char digest[HASH], text[HASH * 2];
    unsigned n = 0;
    EVP_Digest(a->data, a->size, digest, &n, EVP_sha256(), NULL);
    EVP_EncodeBlock(text, digest, HASH);
    fprintf(f, "'sha256-%s' ", text);
}

/* ---- the page ---- */

static void put_part(FILE *f, const json_t *doc, const char *name, size_t size)
{
    const struct compare_asset *a = asset_of(name, size);
    if (a) {
        fwrite(a->data, 1, a->size, f);
    } else if (strncmp(name, "body", size) == 0) {
        put_body(f, doc);
    } else if (strncmp(name, "charts", size) == 0) {
        put_charts(f, doc);
    } else if (strncmp(name, "title", size) == 0) {
        fputs("Pollux and the kernel, compared", f);
    } else if (strncmp(name, "foot", size) == 0) {
        fputs("Made by pollux compare. Charts by uPlot.", f);
    } else if (strncmp(name, "script-hashes", size) == 0) {
        put_hash(f, "uPlot.iife.min.js");
        put_hash(f, "report.js");
    } else if (strncmp(name, "style-hashes", size) == 0) {
        put_hash(f, "uPlot.min.css");
        put_hash(f, "report.css");
    }
}

int compare_html(const json_t *doc, FILE *f)
{
    const struct compare_asset *page = asset_of("page.html", sizeof "page.html" - 1);
    const char *at = (const char *)page->data, *end = at + page->size;
    while (at < end) {
        const char *open = memmem(at, (size_t)(end - at), "{{", 2);
        const char *close = open ? memmem(open, (size_t)(end - open), "}}", 2) : NULL;
        fwrite(at, 1, (size_t)((close ? open : end) - at), f);
        if (!close)
            break;
        put_part(f, doc, open + 2, (size_t)(close - open - 2));
        at = close + 2;
    }
    return ferror(f) ? -EIO : 0;
}
