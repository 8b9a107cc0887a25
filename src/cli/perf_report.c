/* SPDX-License-Identifier: BSD-3-Clause */
/* What `pollux perf` says at its end: a table for people, JSON for programs. */
#include "perf.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MARKS = 5 };
static const double mark_percents[MARKS] = {50, 90, 99, 99.9, 99.99};
static const char *const mark_names[MARKS] = {"p50", "p90", "p99", "p99.9", "p99.99"};

/*
 * The kernel brings CPU times up to date, and tells those of other processes, in steps of up to 10 ms: of a run that is
 * not much longer than that, they say nothing.
 */
#define CPU_SECONDS 0.2

static double us(double ns)
{
    return ns / 1000;
}

/* What stalls one queue pair of a disk stalls the others: those of the one with the most are those of the disk. */
static void add_stalls(const struct perf_result *r, unsigned disk, struct perf_summary *sum)
{
    uint64_t most = 0;
    for (unsigned i = 0; i < r->njobs; i++) {
        const struct perf_job *job = r->jobs[i];
        if (job->disk != disk)
            continue;
        most = job->stalls > most ? job->stalls : most;
        sum->stall_longest = job->stall_longest > sum->stall_longest ? job->stall_longest : sum->stall_longest;
    }
    sum->stalls += most;
}

void perf_summarize(const struct perf_result *r, int disk, struct perf_summary *sum)
{
    memset(sum, 0, offsetof(struct perf_summary, latency));
    histogram_init(&sum->latency);
    for (unsigned i = 0; i < r->njobs; i++) {
        const struct perf_job *job = r->jobs[i];
        if (disk >= 0 && job->disk != (unsigned)disk)
            continue;
        uint64_t done = atomic_load(&job->done), ns = job->ended - job->started;
        sum->iops += ns ? (double)done * 1e9 / (double)ns : 0;
        sum->requests += done;
        sum->late += job->late;
        if (job->errors && !sum->errors)
            sum->first_error = job->first_error;
        sum->errors += job->errors;
        histogram_merge(&sum->latency, &job->latency);
        if (!job->verify)
            continue;
        sum->checked += job->verify->checked;
        sum->unknown += job->verify->unknown;
        if (job->verify->wrong && !sum->wrong)
            sum->first_wrong = job->verify->first.text;
        sum->wrong += job->verify->wrong;
    }
    for (unsigned i = 0; i < r->o->ndisks; i++)
        if (disk < 0 || i == (unsigned)disk)
            add_stalls(r, i, sum);
    sum->mib_s = sum->iops * r->o->size / (1 << 20);
    if (!sum->latency.count)
        sum->latency.min = 0;
}

/* ---- for people ---- */

static void print_row(const char *name, const struct perf_summary *s)
{
    printf("%11.0f %10.1f", s->iops, s->mib_s);
    printf(" %9.2f %9.2f", us(histogram_average(&s->latency)), us((double)s->latency.min));
    for (int i = 0; i < MARKS; i++)
        printf(" %9.2f", us((double)histogram_percentile(&s->latency, mark_percents[i])));
    printf(" %9.2f  %s\n", us((double)s->latency.max), name);
}

static void print_heading(void)
{
    printf("%11s %10s %9s %9s", "IOPS", "MiB/s", "avg us", "min");
    for (int i = 0; i < MARKS; i++)
        printf(" %9s", mark_names[i]);
    printf(" %9s  disk\n", "max");
}

static void print_cpu(const struct perf_result *r)
{
    if (r->wall < CPU_SECONDS) {
        printf("CPU: not told of a run of less than %.1f s\n", CPU_SECONDS);
        return;
    }
    printf("CPU: %.1f %% of a core here", 100 * r->own_cpu / r->wall);
    for (unsigned i = 0; i < r->npeers; i++)
        printf(", %.1f %% in %s (process %d)", 100 * r->peers[i].cpu / r->wall, r->peers[i].name, r->peers[i].pid);
    printf("\n");
}

static void print_table(const struct perf_result *r, const struct perf_summary *all)
{
    print_heading();
    for (unsigned i = 0; i < r->o->ndisks; i++) {
        struct perf_summary one;
        perf_summarize(r, (int)i, &one);
        print_row(plx_bdev_info(r->disks[i])->name, &one);
    }
    if (r->o->ndisks > 1)
        print_row("all", all);
    print_cpu(r);
    if (all->stalls)
        printf("interrupted %" PRIu64 " time%s: nothing completed for %s%.1f s\n", all->stalls,
               all->stalls == 1 ? "" : "s", all->stalls == 1 ? "" : "up to ", (double)all->stall_longest / 1e9);
    if (all->late)
        printf("behind schedule: %" PRIu64 " requests were due and never sent\n", all->late);
    if (!r->o->verify)
        return;
    printf("verify: %" PRIu64 " requests read what was written, %" PRIu64 " did not", all->checked, all->wrong);
    printf(all->unknown ? ", %" PRIu64 " found nothing to check: not written in this run\n" : "\n", all->unknown);
}

/* ---- for programs ---- */

static void json_string(FILE *f, const char *text)
{
    fputc('"', f);
    for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
        if (*p == '"' || *p == '\\')
            fprintf(f, "\\%c", *p);
        else if (*p < 0x20)
            fprintf(f, "\\u%04x", *p);
        else
            fputc(*p, f);
    }
    fputc('"', f);
}

static void json_summary(FILE *f, const struct perf_summary *s, const char *indent)
{
    const struct histogram *h = &s->latency;
    fprintf(f, "%s\"iops\": %.1f,\n%s\"mib_s\": %.3f,\n", indent, s->iops, indent, s->mib_s);
    fprintf(f, "%s\"latency_us\": {\"avg\": %.3f, \"min\": %.3f, \"max\": %.3f", indent, us(histogram_average(h)),
            us((double)h->min), us((double)h->max));
    for (int i = 0; i < MARKS; i++)
        fprintf(f, ", \"%s\": %.3f", mark_names[i], us((double)histogram_percentile(h, mark_percents[i])));
    fprintf(f, "},\n%s\"requests\": %" PRIu64 ",\n%s\"errors\": %" PRIu64, indent, s->requests, indent, s->errors);
    fprintf(f, ",\n%s\"interruptions\": {\"count\": %" PRIu64 ", \"longest_seconds\": %.3f}", indent, s->stalls,
            (double)s->stall_longest / 1e9);
}

static void json_top(FILE *f, const struct perf_result *r, const struct perf_summary *all)
{
    const struct perf_options *o = r->o;
    fprintf(f, "{\n");
    json_summary(f, all, "  ");
    fprintf(f, ",\n  \"seconds\": %.6f,\n  \"late\": %" PRIu64 ",\n", r->seconds, all->late);
    fprintf(f,
            "  \"workload\": {\"kind\": \"%s\", \"read_percent\": %u, \"io_size\": %u, \"queue_depth\": %u, "
            "\"qpairs\": %u, \"rate\": %" PRIu64 ", \"count\": %" PRIu64 "},\n",
            o->workload, o->read_percent, o->size, o->depth, o->qpairs, o->rate, o->count);
    if (o->verify)
        fprintf(f, "  \"verify\": {\"right\": %" PRIu64 ", \"wrong\": %" PRIu64 ", \"unknown\": %" PRIu64 "},\n",
                all->checked, all->wrong, all->unknown);
    fprintf(f, "  \"cpu\": {\"wall_seconds\": %.3f, \"own_seconds\": %.3f, \"targets\": [", r->wall, r->own_cpu);
    for (unsigned i = 0; i < r->npeers; i++) {
        fprintf(f, "%s{\"pid\": %d, \"name\": ", i ? ", " : "", r->peers[i].pid);
        json_string(f, r->peers[i].name);
        fprintf(f, ", \"seconds\": %.3f}", r->peers[i].cpu);
    }
    fprintf(f, "]},\n");
}

static int write_json(const struct perf_result *r, const struct perf_summary *all)
{
    bool out = strcmp(r->o->json, "-") == 0;
    FILE *f = out ? stdout : fopen(r->o->json, "we");
    if (!f)
        return cli_fail(EXIT_RUNTIME, "--json %s: %s", r->o->json, strerror(errno));
    json_top(f, r, all);
    fprintf(f, "  \"disks\": [");
    for (unsigned i = 0; i < r->o->ndisks; i++) {
        struct perf_summary one;
        perf_summarize(r, (int)i, &one);
        fprintf(f, "%s\n    {\n      \"disk\": ", i ? "," : "");
        json_string(f, plx_bdev_info(r->disks[i])->name);
        fprintf(f, ",\n");
        json_summary(f, &one, "      ");
        fprintf(f, "\n    }");
    }
    fprintf(f, "\n  ]\n}\n");
    bool failed = fflush(f) || ferror(f);
    if (!out)
        failed |= fclose(f) != 0;
    return failed ? cli_fail(EXIT_RUNTIME, "--json %s: %s", r->o->json, strerror(errno)) : EXIT_OK;
}

int perf_report(const struct perf_result *r)
{
    struct perf_summary all;
    int status = EXIT_OK;
    perf_summarize(r, -1, &all);
    if (!r->o->json || strcmp(r->o->json, "-"))
        print_table(r, &all);
    if (r->o->json)
        status = write_json(r, &all);
    if (all.errors)
        status = cli_fail(EXIT_RUNTIME, "%" PRIu64 " requests failed, the first with NVMe status %03x, %s", all.errors,
                          all.first_error, plx_nvme_status_text(all.first_error));
    if (all.wrong)
        status =
            cli_fail(EXIT_RUNTIME, "%" PRIu64 " requests read wrong data; the first: %s", all.wrong, all.first_wrong);
    return status;
}
