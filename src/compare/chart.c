/* SPDX-License-Identifier: BSD-3-Clause */
#include "compare/chart.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "base/util.h"

enum { PAIRS = 4, VALUES = 64 };

const char *const compare_pair_names[PAIRS] = {"kernel target, kernel host", "kernel target, Pollux host",
                                               "Pollux target, kernel host", "Pollux target, Pollux host"};

const char *compare_text(const json_t *o, const char *name)
{
    const char *text = json_string_value(json_object_get(o, name));
    return text ? text : "";
}

int compare_pair_number(const json_t *cell)
{
    bool target = strcmp(compare_text(cell, "target"), "pollux") == 0;
    bool host = strcmp(compare_text(cell, "host"), "pollux") == 0;
    return 2 * target + host;
}

const json_t *compare_figure(const json_t *cell, const char *name)
{
    const json_t *of =
        json_object_get(cell, name[0] == 'p' && name[1] >= '0' && name[1] <= '9' ? "latency_us" : "figures");
    return json_object_get(of, name);
}

/* ---- which cells ---- */

static const char *const axes[] = {"queue_depth", "io_size", "read_percent", "cores", "digests", "poll"};

/* Whether a load is the base, but for one axis; with NULL for any one of them. */
static bool is_varied(const json_t *load, const json_t *base, const char *axis)
{
    unsigned differ = 0;
    for (size_t i = 0; i < PLX_ARRAY_SIZE(axes); i++) {
        bool same = json_equal(json_object_get(load, axes[i]), json_object_get(base, axes[i]));
        differ += !same;
        if (!same && axis && strcmp(axes[i], axis))
            return false;
    }
    return differ <= 1;
}

/* The loads of a chart, each once, those of a number in its order. */
struct loads {
    const json_t *v[VALUES];
    size_t n;
};

static double axis_value(const json_t *load, const char *axis)
{
    return json_number_value(json_object_get(load, axis));
}

static struct loads loads_of(const json_t *doc, const json_t *base, const char *axis)
{
    struct loads l = {.n = 0};
    size_t i;
    const json_t *cell;
    json_array_foreach(json_object_get(doc, "cells"), i, cell)
    {
        const json_t *load = json_object_get(cell, "load");
        size_t at = 0;
        bool known = false;
        for (size_t k = 0; k < l.n; k++)
            known |= json_equal(l.v[k], load);
        if (known || l.n == VALUES || !is_varied(load, base, axis))
            continue;
        while (at < l.n && (!axis || axis_value(l.v[at], axis) <= axis_value(load, axis)))
            at++;
        memmove(&l.v[at + 1], &l.v[at], (l.n - at) * sizeof(json_t *));
        l.v[at] = load;
        l.n++;
    }
    return l;
}

static const json_t *cell_of(const json_t *doc, const json_t *load, int pair)
{
    size_t i;
    const json_t *cell;
    json_array_foreach(json_object_get(doc, "cells"), i, cell)
    {
        if (compare_pair_number(cell) == pair && json_equal(json_object_get(cell, "load"), load))
            return cell;
    }
    return NULL;
}

/* ---- series ---- */

static json_t *or_null(const json_t *v)
{
    return v ? json_incref((json_t *)(uintptr_t)v) : json_null();
}

/* @return false when nothing of it was measured */
static bool add_series(json_t *series, const json_t *doc, const struct loads *l, int pair, const char *figure)
{
    json_t *mid = json_array(), *low = json_array(), *high = json_array();
    bool any = false;
    for (size_t i = 0; i < l->n; i++) {
        const json_t *cell = cell_of(doc, l->v[i], pair), *f = cell ? compare_figure(cell, figure) : NULL;
        any |= f != NULL;
        json_array_append_new(mid, or_null(json_object_get(f, "mid")));
        json_array_append_new(low, or_null(json_object_get(f, "low")));
        json_array_append_new(high, or_null(json_object_get(f, "high")));
    }
    json_array_append_new(series, json_pack("{ss,si,so,so,so}", "name", compare_pair_names[pair], "colour", pair, "mid",
                                            mid, "low", low, "high", high));
    if (!any)
        json_array_remove(series, json_array_size(series) - 1);
    return any;
}

struct chart {
    const char *id, *title, *note, *kind, *axis, *x, *y, *figure;
    bool log, wide, labels;
};

static json_t *values_of(const struct loads *l, const struct chart *chart)
{
    json_t *out = json_array();
    for (size_t i = 0; i < l->n; i++)
        json_array_append(out, json_object_get(l->v[i], strcmp(chart->kind, "lines") ? "text" : chart->axis));
    return out;
}

static void add_chart(json_t *out, const json_t *doc, const json_t *base, const struct chart *chart, size_t least)
{
    struct loads l = loads_of(doc, base, chart->axis);
    json_t *series = json_array();
    bool any = false;
    for (int pair = 0; pair < PAIRS; pair++)
        any |= add_series(series, doc, &l, pair, chart->figure);
    if (!any || l.n < least) {
        json_decref(series);
        return;
    }
    json_array_append_new(out,
                          json_pack("{ss,ss,ss,ss,sb,sb,s{ss,so},s{ss,sb},so}", "id", chart->id, "title", chart->title,
                                    "note", chart->note, "kind", chart->kind, "wide", chart->wide, "labels",
                                    chart->labels, "x", "label", chart->x, "values", values_of(&l, chart), "y", "label",
                                    chart->y, "log", chart->log, "series", series));
}

/* Latencies of the base by how many requests are slower: 1 in 2, in 10, in 100, ... */
static void add_tail(json_t *out, const json_t *doc, const json_t *base)
{
    static const char *const names[] = {"p50", "p90", "p99", "p99.9", "p99.99"};
    json_t *series = json_array(), *values = json_array(), *text = json_array();
    for (size_t i = 0; i < PLX_ARRAY_SIZE(names); i++) {
        json_array_append_new(values, json_integer(1 << i)); /* as far apart as each other */
        json_array_append_new(text, json_string(names[i]));
    }
    for (int pair = 0; pair < PAIRS; pair++) {
        const json_t *cell = cell_of(doc, base, pair);
        if (!json_object_get(cell, "latency_us"))
            continue;
        json_t *part[3] = {json_array(), json_array(), json_array()};
        static const char *const members[] = {"mid", "low", "high"};
        for (size_t i = 0; i < PLX_ARRAY_SIZE(names); i++)
            for (int k = 0; k < 3; k++)
                json_array_append_new(part[k], or_null(json_object_get(compare_figure(cell, names[i]), members[k])));
        json_array_append_new(series, json_pack("{ss,si,so,so,so}", "name", compare_pair_names[pair], "colour", pair,
                                                "mid", part[0], "low", part[1], "high", part[2]));
    }
    json_array_append_new(
        out,
        json_pack("{ss,ss,ss,ss,s{ss,so,so},s{ss,sb},so}", "id", "tail", "title", "How slow the slowest are", "note",
                  "Latency at half of what the slowest can do, from the moment that a request was due. Logarithmic.",
                  "kind", "lines", "x", "label", "requests that were faster", "values", values, "text", text, "y",
                  "label", "microseconds", "log", 1, "series", series));
    if (!json_array_size(series))
        json_array_remove(out, json_array_size(out) - 1);
}

/* What an I/O costs, by whom it was spent: pairs beside each other. */
static void add_split(json_t *out, const json_t *doc, const json_t *base)
{
    static const struct {
        const char *figure, *name;
    } parts[] = {{"host_user_us", "host process, its own code"},
                 {"host_system_us", "host process, in the kernel"},
                 {"target_user_us", "target process, its own code"},
                 {"target_system_us", "target process, in the kernel"},
                 {"threads_us", "kernel threads"},
                 {"rest_us", "interrupts and the rest"}};
    static const int colours[] = {2, 0, 3, 1, 6, 5};
    json_t *values = json_array(), *series = json_array();
    for (size_t part = 0; part < PLX_ARRAY_SIZE(parts); part++) {
        json_t *mid = json_array();
        for (int pair = 0; pair < PAIRS; pair++) {
            const json_t *cell = cell_of(doc, base, pair), *f = compare_figure(cell, parts[part].figure);
            if (!f)
                continue;
            json_array_append(mid, json_object_get(f, "mid"));
            if (!part)
                json_array_append_new(values, json_string(compare_pair_names[pair]));
        }
        json_array_append_new(series,
                              json_pack("{ss,si,so}", "name", parts[part].name, "colour", colours[part], "mid", mid));
    }
    bool any = json_array_size(values) > 0;
    json_t *chart = json_pack(
        "{ss,ss,ss,ss,sb,s{ss,so},s{ss},so}", "id", "split", "title", "What an I/O costs, and whom", "note",
        "CPU time per I/O of the whole machine. Softirqs are in the times of whom they interrupted, where the "
        "kernel does not account for them apart.",
        "kind", "stack", "wide", 0, "x", "label", "", "values", values, "y", "label", "microseconds per I/O", "series",
        series);
    if (any)
        json_array_append_new(out, chart);
    else
        json_decref(chart);
}

json_t *compare_charts(const json_t *doc)
{
    static const struct chart charts[] = {
        {"depth-iops", "Throughput against queue depth", "As fast as requests complete.", "lines", "queue_depth",
         "requests in flight", "IOPS", "iops", false, false, false},
        {"depth-p50", "Median latency against queue depth",
         "At half of what the slowest can do at that depth, by a schedule.", "lines", "queue_depth",
         "requests in flight", "microseconds", "p50", false, false, false},
        {"per-core", "IOPS per core",
         "Of the whole machine: both ends, interrupts and the kernel's threads. Higher is better.", "bars", NULL, "",
         "IOPS per core", "iops_per_core", false, true, true},
        {"size", "Throughput by size", "MiB a second.", "bars", "io_size", "", "MiB/s", "mib_s", false, false, true},
        {"cores", "Scaling with cores", "Cores of each side, with a queue each.", "lines", "cores",
         "cores of each side", "IOPS", "iops", false, false, false},
        {"p99", "Latency of the slowest hundredth",
         "p99 at half of what the slowest can do, by a schedule. Lower is better.", "bars", NULL, "", "microseconds",
         "p99", false, true, true},
    };
    const json_t *base = json_object_get(json_array_get(json_object_get(doc, "cells"), 0), "load");
    json_t *out = json_array();
    for (size_t i = 0; i < 2; i++)
        add_chart(out, doc, base, &charts[i], 2);
    add_chart(out, doc, base, &charts[2], 1);
    add_split(out, doc, base);
    add_tail(out, doc, base);
    add_chart(out, doc, base, &charts[3], 2);
    add_chart(out, doc, base, &charts[4], 2);
    add_chart(out, doc, base, &charts[5], 1);
    return out;
}
