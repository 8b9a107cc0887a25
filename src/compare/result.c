/* SPDX-License-Identifier: BSD-3-Clause */
/* What runs say together: of each cell medians with their intervals, of cells of one load their differences. */
#include <stdlib.h>
#include <string.h>

#include "base/sample.h"
#include "base/util.h"
#include "compare/cells.h"

enum { PERCENTILES = 5 };

/* A figure of a round; what is compared has a direction in which it is better. */
struct figure {
    const char *name;
    double (*of)(const struct compare_round *r);
    bool compared;
};

/*
 * Of all machines: on one, the target's is empty but for its process. Where others used more before than they do now,
 * it is no less than what the two processes used.
 */
static double busy_of(const struct compare_run *r)
{
    double own = r->host.user + r->host.system + r->target.user + r->target.system;
    double busy = r->host.busy + r->target.busy;
    return busy > own ? busy : own;
}

static double per_io_us(const struct compare_run *r, double seconds)
{
    double window = r->host.at > 0 ? r->host.at : r->seconds;
    return r->iops > 0 ? seconds / window / r->iops * 1e6 : 0;
}

static double iops_of(const struct compare_round *r)
{
    return r->fast.iops;
}

static double cores_of(const struct compare_round *r)
{
    return r->fast.host.at > 0 ? busy_of(&r->fast) / r->fast.host.at : 0;
}

static double iops_per_core_of(const struct compare_round *r)
{
    double cores = cores_of(r);
    return cores > 0 ? r->fast.iops / cores : 0;
}

static double cpu_us_of(const struct compare_round *r)
{
    return per_io_us(&r->fast, busy_of(&r->fast));
}

static double paced_cpu_us_of(const struct compare_round *r)
{
    return per_io_us(&r->paced, busy_of(&r->paced));
}

static double host_user_us(const struct compare_round *r)
{
    return per_io_us(&r->fast, r->fast.host.user);
}

static double host_system_us(const struct compare_round *r)
{
    return per_io_us(&r->fast, r->fast.host.system);
}

static double target_user_us(const struct compare_round *r)
{
    return per_io_us(&r->fast, r->fast.target.user);
}

static double target_system_us(const struct compare_round *r)
{
    return per_io_us(&r->fast, r->fast.target.system);
}

static double threads_us(const struct compare_round *r)
{
    return per_io_us(&r->fast, r->fast.host.threads + r->fast.target.threads);
}

/* What is left of the whole: interrupts where they are accounted for apart, and whoever else there was. */
static double rest_us(const struct compare_round *r)
{
    double parts = host_user_us(r) + host_system_us(r) + target_user_us(r) + target_system_us(r) + threads_us(r);
    double all = cpu_us_of(r);
    return all > parts ? all - parts : 0;
}

static const struct figure figures[] = {
    {"iops", iops_of, true},
    {"iops_per_core", iops_per_core_of, true},
    {"cores", cores_of, false},
    {"cpu_us", cpu_us_of, true},
    {"paced_cpu_us", paced_cpu_us_of, true},
    {"host_user_us", host_user_us, false},
    {"host_system_us", host_system_us, false},
    {"target_user_us", target_user_us, false},
    {"target_system_us", target_system_us, false},
    {"threads_us", threads_us, false},
    {"rest_us", rest_us, false},
};

static const struct percentile {
    const char *name;
    double percent;
} percentiles[PERCENTILES] = {{"p50", 50}, {"p90", 90}, {"p99", 99}, {"p99.9", 99.9}, {"p99.99", 99.99}};

/* ---- a cell ---- */

static json_t *interval_json(const struct plx_interval *i, bool known)
{
    json_t *low = known ? json_real(i->low) : json_null(), *high = known ? json_real(i->high) : json_null();
    return json_pack("{sf,so,so}", "mid", i->mid, "low", low, "high", high);
}

static json_t *median_json(double *v, unsigned n)
{
    struct plx_interval i;
    bool known = plx_median_interval(v, n, &i);
    return interval_json(&i, known);
}

/*
 * A percentile is that of all that was measured, in one histogram; its interval is of the same in each round, widened
 * to have it inside.
 */
static json_t *percentile_json(const struct compare_cell *c, const struct histogram *all, double percent)
{
    double v[COMPARE_ROUNDS];
    struct plx_interval i;
    for (unsigned k = 0; k < c->nrounds; k++)
        v[k] = (double)histogram_percentile(&c->rounds[k].paced.latency, percent) / 1000;
    bool known = plx_median_interval(v, c->nrounds, &i);
    i.mid = (double)histogram_percentile(all, percent) / 1000;
    i.low = i.low < i.mid ? i.low : i.mid;
    i.high = i.high > i.mid ? i.high : i.mid;
    return interval_json(&i, known);
}

static json_t *histogram_json(const struct histogram *h)
{
    json_t *out = json_array();
    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++)
        if (h->buckets[i])
            json_array_append_new(out,
                                  json_pack("[I,I]", (json_int_t)histogram_bucket_max(i), (json_int_t)h->buckets[i]));
    return out;
}

static void add_latencies(const struct compare_cell *c, json_t *cell)
{
    struct histogram *all = malloc(sizeof *all);
    json_t *out = json_object();
    if (!all)
        return;
    histogram_init(all);
    for (unsigned i = 0; i < c->nrounds; i++)
        histogram_merge(all, &c->rounds[i].paced.latency);
    for (unsigned i = 0; i < PERCENTILES; i++)
        json_object_set_new(out, percentiles[i].name, percentile_json(c, all, percentiles[i].percent));
    json_object_set_new(cell, "latency_us", out);
    json_object_set_new(cell, "latency_max_us", json_real((double)all->max / 1000));
    json_object_set_new(cell, "histogram_ns", histogram_json(all));
    free(all);
}

static json_t *usage_json(const struct compare_usage *u)
{
    return json_pack("{sf,sf,sf,sf,sf,sf,sf}", "window", u->at, "busy", u->busy, "user", u->user, "system", u->system,
                     "kernel_threads", u->threads, "softirq_sampled", u->softirq, "stolen", u->stolen);
}

static json_t *run_json(const struct compare_run *r)
{
    json_t *latency = json_object();
    for (unsigned i = 0; i < PERCENTILES; i++)
        json_object_set_new(latency, percentiles[i].name,
                            json_real((double)histogram_percentile(&r->latency, percentiles[i].percent) / 1000));
    return json_pack("{sf,sf,sI,sI,sI,so,so,so}", "iops", r->iops, "seconds", r->seconds, "requests",
                     (json_int_t)r->requests, "errors", (json_int_t)r->errors, "late", (json_int_t)r->late,
                     "latency_us", latency, "host", usage_json(&r->host), "target", usage_json(&r->target));
}

static json_t *load_json(const struct compare_load *l)
{
    static const char *const polls[] = {
        [PLX_POLL_ADAPTIVE] = "adaptive", [PLX_POLL_BUSY] = "busy", [PLX_POLL_SLEEP] = "sleep"};
    char text[96];
    compare_load_text(l, text, sizeof text);
    return json_pack("{ss,si,si,si,si,sb,ss}", "text", text, "io_size", l->size, "queue_depth", l->depth,
                     "read_percent", l->read_percent, "cores", l->cores, "digests", l->digests, "poll", polls[l->poll]);
}

/* Hosts that are the limit say little of a target. */
static bool host_bound(const struct compare_cell *c)
{
    double v[COMPARE_ROUNDS];
    for (unsigned i = 0; i < c->nrounds; i++) {
        const struct compare_usage *u = &c->rounds[i].fast.host;
        v[i] = u->at > 0 ? (u->user + u->system) / u->at / c->load->cores : 0;
    }
    return c->load->poll != PLX_POLL_BUSY && plx_median(v, c->nrounds) > 0.9;
}

static void add_figures(const struct compare_cell *c, json_t *cell)
{
    json_t *out = json_object(), *runs = json_array();
    double v[COMPARE_ROUNDS];
    for (size_t f = 0; f < PLX_ARRAY_SIZE(figures); f++) {
        for (unsigned i = 0; i < c->nrounds; i++)
            v[i] = figures[f].of(&c->rounds[i]);
        json_object_set_new(out, figures[f].name, median_json(v, c->nrounds));
    }
    for (unsigned i = 0; i < c->nrounds; i++)
        v[i] = c->rounds[i].fast.iops * c->load->size / (1 << 20);
    json_object_set_new(out, "mib_s", median_json(v, c->nrounds));
    json_object_set_new(cell, "figures", out);
    json_object_set_new(cell, "host_bound", json_boolean(host_bound(c)));
    add_latencies(c, cell);
    for (unsigned i = 0; i < c->nrounds; i++)
        json_array_append_new(
            runs, json_pack("{so,so}", "fast", run_json(&c->rounds[i].fast), "paced", run_json(&c->rounds[i].paced)));
    json_object_set_new(cell, "rounds", runs);
}

static json_t *cell_json(const struct compare_cell *c)
{
    const char *status = c->failed ? "failed" : c->nrounds ? "measured" : "not measured";
    json_t *cell =
        json_pack("{so,ss,ss,ss,ss,sf}", "load", load_json(c->load), "target", compare_side_name(c->pair->target),
                  "host", compare_side_name(c->pair->host), "status", status, "reason", c->reason, "rate", c->rate);
    if (c->nrounds && !c->failed)
        add_figures(c, cell);
    return cell;
}

/* ---- differences ---- */

static void compare_figure(const struct compare_cell *a, const struct compare_cell *b, const char *name,
                           double (*of)(const struct compare_round *r), json_t *out)
{
    double x[COMPARE_ROUNDS], y[COMPARE_ROUNDS];
    unsigned n = a->nrounds < b->nrounds ? a->nrounds : b->nrounds;
    struct plx_interval change;
    for (unsigned i = 0; i < n; i++) {
        x[i] = of(&a->rounds[i]);
        y[i] = of(&b->rounds[i]);
        if (x[i] <= 0 || y[i] <= 0)
            return;
    }
    bool known = n && plx_median_change(x, y, n, &change);
    if (!n)
        return;
    json_t *entry = interval_json(&change, known);
    json_object_set_new(entry, "verdict",
                        json_string(!known                       ? "too few rounds"
                                    : plx_no_difference(&change) ? "no difference"
                                                                 : "difference"));
    json_object_set_new(out, name, entry);
}

static double p50_of(const struct compare_round *r)
{
    return (double)histogram_percentile(&r->paced.latency, 50);
}

static double p99_of(const struct compare_round *r)
{
    return (double)histogram_percentile(&r->paced.latency, 99);
}

static json_t *difference(const struct compare_cell *a, const struct compare_cell *b)
{
    json_t *changes = json_object();
    for (size_t f = 0; f < PLX_ARRAY_SIZE(figures); f++)
        if (figures[f].compared)
            compare_figure(a, b, figures[f].name, figures[f].of, changes);
    compare_figure(a, b, "p50", p50_of, changes);
    compare_figure(a, b, "p99", p99_of, changes);
    return json_pack("{so,s{ssss},s{ssss},so}", "load", load_json(a->load), "from", "target",
                     compare_side_name(a->pair->target), "host", compare_side_name(a->pair->host), "to", "target",
                     compare_side_name(b->pair->target), "host", compare_side_name(b->pair->host), "changes", changes);
}

json_t *compare_results(const struct compare_results *r)
{
    json_t *cells = json_array(), *differences = json_array();
    for (unsigned i = 0; i < r->ncells; i++) {
        const struct compare_cell *a = &r->cells[i];
        json_array_append_new(cells, cell_json(a));
        for (unsigned k = 0; k < i; k++) {
            const struct compare_cell *b = &r->cells[k];
            if (a->load == b->load && a->nrounds && b->nrounds && !a->failed && !b->failed)
                json_array_append_new(differences, difference(b, a));
        }
    }
    return json_pack("{so,so,si,sb}", "cells", cells, "comparisons", differences, "rounds", r->rounds, "complete",
                     r->whole);
}
