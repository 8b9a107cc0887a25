/* SPDX-License-Identifier: BSD-3-Clause */
/* What `pollux compare` says on a terminal: how far it is, and a table. */
#include "compare.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BAR = 24, NOTES = COMPARE_LOADS * COMPARE_PAIRS };

json_t *compare_json_text(const char *bytes)
{
    char *copy = strdup(bytes);
    json_t *text = copy ? json_string(cli_clean(copy)) : NULL;
    free(copy);
    return text ? text : json_string("?");
}

void compare_progress(unsigned done, unsigned all, double left, const char *what)
{
    static unsigned said = 0;
    unsigned filled = all ? done * BAR / all : 0, seconds = left > 0 ? (unsigned)(left + 0.5) : 0;
    if (isatty(STDERR_FILENO)) {
        fprintf(stderr, "\r\033[K[%.*s%.*s] %3u %%  %u:%02u left  %s", (int)filled, "########################",
                (int)(BAR - filled), "........................", all ? done * 100 / all : 0, seconds / 60, seconds % 60,
                what);
        fflush(stderr);
    } else if (all && done * 10 / all >= said + 1) { /* a line each tenth */
        said = done * 10 / all;
        cli_say("pollux: %u %% done, %u:%02u left\n", said * 10, seconds / 60, seconds % 60);
    }
}

void compare_progress_end(void)
{
    if (isatty(STDERR_FILENO))
        fputs("\r\033[K", stderr);
}

/* ---- the table ---- */

static const char *text_at(const json_t *o, const char *name)
{
    const char *text = json_string_value(json_object_get(o, name));
    return text ? text : "";
}

static double number_at(const json_t *o, const char *group, const char *name, const char *what)
{
    return json_number_value(json_object_get(json_object_get(json_object_get(o, group), name), what));
}

static double mid_of(const json_t *cell, const char *name)
{
    return number_at(cell, "figures", name, "mid");
}

/* Reasons are told once each, below. @return the number of one; a file may have more, whose is 0 */
static unsigned note_of(const char *notes[NOTES], unsigned *n, const char *reason)
{
    unsigned i = 0;
    while (i < *n && strcmp(notes[i], reason))
        i++;
    if (i == NOTES)
        return 0;
    if (i == *n)
        notes[(*n)++] = reason;
    return i + 1;
}

static void print_measured(const json_t *cell)
{
    double iops = mid_of(cell, "iops"), low = number_at(cell, "figures", "iops", "low"),
           high = number_at(cell, "figures", "iops", "high");
    printf(" %10.0f", iops);
    if (high > 0 && iops > 0)
        printf(" (%+5.1f %+5.1f %%)", 100 * (low / iops - 1), 100 * (high / iops - 1));
    else
        printf(" %16s", "");
    printf(" %8.1f %6.2f %9.0f %7.2f %9.1f %9.1f %9.1f%s\n", mid_of(cell, "mib_s"), mid_of(cell, "cores"),
           mid_of(cell, "iops_per_core"), mid_of(cell, "cpu_us"), number_at(cell, "latency_us", "p50", "mid"),
           number_at(cell, "latency_us", "p99", "mid"), number_at(cell, "latency_us", "p99.9", "mid"),
           json_is_true(json_object_get(cell, "host_bound")) ? "  host is the limit" : "");
}

static void print_pair(const json_t *cell, const char *notes[NOTES], unsigned *nnotes)
{
    const char *reason = text_at(cell, "reason"), *status = text_at(cell, "status");
    printf("  %-7s %-7s", text_at(cell, "target"), text_at(cell, "host"));
    if (json_object_get(cell, "figures")) {
        print_measured(cell);
        return;
    }
    unsigned note = note_of(notes, nnotes, reason);
    if (note)
        printf(" %10s  %s [%u]\n", "-", status, note);
    else
        printf(" %10s  %s: %s\n", "-", status, reason);
}

static void print_load(const json_t *cell)
{
    const json_t *load = json_object_get(cell, "load");
    double rate = json_number_value(json_object_get(cell, "rate"));
    printf("\n%s", text_at(load, "text"));
    if (rate > 0)
        printf("; latencies at %.0f requests a second", rate);
    printf("\n");
}

static void print_change(const json_t *entry, const char *name)
{
    const json_t *low = json_object_get(entry, "low");
    if (!entry || !json_is_real(low))
        return;
    if (strcmp(text_at(entry, "verdict"), "difference"))
        printf("  %s: no difference", name);
    else
        printf("  %s: %+.1f %%", name, 100 * json_number_value(json_object_get(entry, "mid")));
    printf(" (%+.1f to %+.1f)", 100 * json_number_value(low), 100 * json_number_value(json_object_get(entry, "high")));
}

static void print_changes(const json_t *doc)
{
    size_t i;
    const json_t *each;
    bool any = false;
    json_array_foreach(json_object_get(doc, "comparisons"), i, each)
    {
        const json_t *from = json_object_get(each, "from"), *to = json_object_get(each, "to"),
                     *changes = json_object_get(each, "changes");
        if (!any)
            printf("\ndifferences, each with its interval of 95 %%:\n");
        any = true;
        printf("%-36s %s target, %s host -> %s target, %s host:", text_at(json_object_get(each, "load"), "text"),
               text_at(from, "target"), text_at(from, "host"), text_at(to, "target"), text_at(to, "host"));
        print_change(json_object_get(changes, "iops"), "IOPS");
        print_change(json_object_get(changes, "cpu_us"), "CPU per I/O");
        print_change(json_object_get(changes, "p99"), "p99");
        printf("\n");
    }
}

void compare_table(const json_t *doc)
{
    const char *notes[NOTES], *last = "";
    unsigned nnotes = 0;
    size_t i;
    const json_t *cell;
    printf("  %-7s %-7s %10s %16s %8s %6s %9s %7s %9s %9s %9s\n", "target", "host", "IOPS", "95 %", "MiB/s", "cores",
           "IOPS/core", "us/IO", "p50 us", "p99", "p99.9");
    json_array_foreach(json_object_get(doc, "cells"), i, cell)
    {
        const char *load = text_at(json_object_get(cell, "load"), "text");
        if (strcmp(load, last))
            print_load(cell);
        last = load;
        print_pair(cell, notes, &nnotes);
    }
    print_changes(doc);
    for (unsigned k = 0; k < nnotes; k++)
        printf("%s[%u] %s\n", k ? "" : "\n", k + 1, notes[k]);
    printf("\ncores, IOPS/core and us/IO count the whole machine%s, interrupts and the kernel's threads included.\n",
           json_object_get(doc, "two_machines") ? "s" : "");
}
