/* SPDX-License-Identifier: BSD-3-Clause */
/* `pollux compare`: our target and host beside the kernel's, in turn, on one machine. */
#include "compare.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define QUICK_SECONDS 95.0  /* all of a quick run */
#define RUN_COST 0.15       /* what a run takes beside its time: processes, connections */
#define QUICK_SHORTEST 0.25 /* of a run */
#define QUICK_LONGEST 2.0
#define WARM_UP_SECONDS 0.25 /* of the runs before the rounds, at most */
#define PACE 0.5             /* of what the slowest pair can do */

enum { QUICK_LOADS = 9, MIN_RATE = 100 };

volatile sig_atomic_t compare_interrupted;

struct comparing {
    struct compare_options *o;
    struct compare_load loads[COMPARE_LOADS];
    unsigned nloads;
    unsigned measured; /* of them: --quick has time for the first of them */
    struct compare_pair pairs[COMPARE_PAIRS];
    unsigned npairs;
    struct compare_cell *cells; /* by load, then pair */
    unsigned ncells;
    struct compare_kernel *kernel;
    struct compare_site site;
    struct compare_wire *wire; /* to the target's machine, or NULL */
    struct compare_network *network;
    json_t *there; /* that machine */
    double seconds, idle, idle_there;
    unsigned done, all; /* runs */
    uint64_t started;   /* ns */
    char what[160];     /* is being done */
};

static struct comparing *running; /* for compare_tick() */

static void compare_signal(int number)
{
    (void)number;
    compare_interrupted = 1;
}

static void take_signals(void)
{
    struct sigaction act = {.sa_handler = compare_signal};
    sigemptyset(&act.sa_mask);
    sigaction(SIGINT, &act, NULL);
    sigaction(SIGTERM, &act, NULL);
    sigaction(SIGHUP, &act, NULL);
    signal(SIGPIPE, SIG_IGN);
}

/* ---- what is to be measured ---- */

/*
 * The cores that we may use: the first half is the target's, the other the load's, or both if there are two machines.
 * With one core they share it.
 */
static int choose_sides(struct compare_options *o)
{
    cpu_set_t set;
    int all[COMPARE_CORES], n = 0;
    CPU_ZERO(&set);
    sched_getaffinity(0, sizeof set, &set); /* or, where there are more than fit into it, the core that we run on */
    for (int i = 0; i < CPU_SETSIZE && n < COMPARE_CORES; i++)
        if (CPU_ISSET(i, &set))
            all[n++] = i;
    int half = n > 1 && o->where == COMPARE_HERE ? n / 2 : n;
    if (!o->ntarget_cores) {
        memcpy(o->target_cores, all, (size_t)half * sizeof *all);
        o->ntarget_cores = half;
    }
    if (!o->nhost_cores) {
        memcpy(o->host_cores, all + n - half, (size_t)half * sizeof *all);
        o->nhost_cores = half;
    }
    int status = cli_choose_cores(o->target_cores, &o->ntarget_cores, 0, COMPARE_CORES);
    return status ? status : cli_choose_cores(o->host_cores, &o->nhost_cores, 0, COMPARE_CORES);
}

/* Of each side no more cores than it has. */
static int choose_scaling(struct compare_options *o, json_int_t there)
{
    json_int_t targets = there ? there : o->ntarget_cores;
    unsigned most = (unsigned)(targets < o->nhost_cores ? targets : o->nhost_cores);
    bool given = o->axes.ncores > 0;
    for (unsigned i = 0; i < o->axes.ncores; i++)
        if (o->axes.cores[i] > most)
            return cli_fail(EXIT_USAGE,
                            "--cores %u: each side has %u here; --target-cores and --host-cores name others",
                            o->axes.cores[i], most);
    for (unsigned i = 1; !given && i <= most && o->axes.ncores < 16; i *= 2)
        o->axes.cores[o->axes.ncores++] = i;
    if (compare_plan_size(&o->axes) > COMPARE_LOADS)
        return cli_fail(EXIT_USAGE, "--cross: these are %u combinations, and at most %d can be measured in a run",
                        compare_plan_size(&o->axes), COMPARE_LOADS);
    return EXIT_OK;
}

static void add_pair(struct comparing *c, enum compare_side target, enum compare_side host, const char *no_target,
                     const char *no_host)
{
    if (!c->o->targets[target] || !c->o->hosts[host])
        return;
    struct compare_pair *p = &c->pairs[c->npairs++];
    p->target = target;
    p->host = host;
    const char *why = target == COMPARE_KERNEL && no_target[0] ? no_target : host == COMPARE_KERNEL ? no_host : "";
    snprintf(p->reason, sizeof p->reason, "%s", why);
    cli_clean(p->reason); /* the last character may be cut off in its middle */
}

/* What the kernel cannot be here, and why. Modules are loaded only for what was asked for. */
static void make_pairs(struct comparing *c)
{
    char no_target[COMPARE_REASON] = "", no_host[COMPARE_REASON] = "";
    if (c->wire)
        snprintf(no_target, sizeof no_target, "%s", json_string_value(json_object_get(c->there, "no_kernel")));
    else if (c->o->targets[COMPARE_KERNEL])
        compare_kernel_target_possible(c->kernel, no_target, sizeof no_target);
    if (c->o->hosts[COMPARE_KERNEL])
        compare_kernel_host_possible(c->kernel, no_host, sizeof no_host);
    add_pair(c, COMPARE_KERNEL, COMPARE_KERNEL, no_target, no_host);
    add_pair(c, COMPARE_KERNEL, COMPARE_POLLUX, no_target, no_host);
    add_pair(c, COMPARE_POLLUX, COMPARE_KERNEL, no_target, no_host);
    add_pair(c, COMPARE_POLLUX, COMPARE_POLLUX, no_target, no_host);
}

static unsigned possible_pairs(const struct comparing *c)
{
    unsigned n = 0;
    for (unsigned i = 0; i < c->npairs; i++)
        n += !c->pairs[i].reason[0];
    return n;
}

/* A quick run measures as many loads, in their order, as fit into its time. */
static void choose_time(struct comparing *c)
{
    unsigned pairs = possible_pairs(c), rounds = c->o->rounds;
    c->measured = c->nloads;
    double each = c->o->seconds > 0 ? c->o->seconds : 2;
    if (c->o->quick && pairs) {
        double run = QUICK_SHORTEST + RUN_COST, warm = WARM_UP_SECONDS + RUN_COST;
        unsigned most = (unsigned)(QUICK_SECONDS / (pairs * (2 * rounds * run + warm)));
        most = most < 1 ? 1 : most > QUICK_LOADS ? QUICK_LOADS : most;
        c->measured = c->nloads > most ? most : c->nloads;
        each = (QUICK_SECONDS / (c->measured * pairs) - warm) / (2 * rounds) - RUN_COST;
        each = each > QUICK_LONGEST ? QUICK_LONGEST : each < QUICK_SHORTEST ? QUICK_SHORTEST : each;
    }
    c->seconds = each;
    c->all = c->measured * pairs * (1 + 2 * rounds);
}

static int make_cells(struct comparing *c)
{
    c->ncells = c->nloads * c->npairs;
    c->cells = calloc(c->ncells ? c->ncells : 1, sizeof *c->cells);
    for (unsigned i = 0; c->cells && i < c->ncells; i++) {
        struct compare_cell *cell = &c->cells[i];
        cell->load = &c->loads[i / c->npairs];
        cell->pair = &c->pairs[i % c->npairs];
        bool late = i / c->npairs >= c->measured;
        snprintf(cell->reason, sizeof cell->reason, "%s",
                 late && !cell->pair->reason[0] ? "--quick has no time for it" : cell->pair->reason);
        if (cell->reason[0])
            continue;
        cell->rounds = calloc(c->o->rounds, sizeof *cell->rounds);
        if (!cell->rounds)
            return cli_fail(EXIT_RUNTIME, "out of memory");
    }
    return c->cells ? EXIT_OK : cli_fail(EXIT_RUNTIME, "out of memory");
}

/* ---- measuring ---- */

/* Why no more is measured, or NULL. */
static const char *why_stopped(const struct comparing *c)
{
    return compare_interrupted ? "interrupted" : compare_wire_problem(c->wire);
}

static void compare_tick(void)
{
    struct comparing *c = running;
    double spent = (double)(plx_reactor_clock(NULL) - c->started) / 1e9;
    /* From what is known of the time of a run, until enough of them are through to tell. */
    double each = c->done > c->all / 20 ? spent / c->done : c->seconds + RUN_COST;
    compare_progress(c->done, c->all, each * (c->all - c->done), c->what);
}

static void say_what(struct comparing *c, const struct compare_cell *cell, unsigned round)
{
    char load[96], when[32];
    compare_load_text(cell->load, load, sizeof load);
    snprintf(when, sizeof when, round ? "round %u of %u" : "warming up", round, c->o->rounds);
    snprintf(c->what, sizeof c->what, "%s: %s; %s target, %s host", when, load, compare_side_name(cell->pair->target),
             compare_side_name(cell->pair->host));
    compare_tick();
}

/* What the host sees of a target, as a disk of pollux perf. The kernel's host is connected for it. */
static int connect_host(struct comparing *c, const struct compare_cell *cell, const struct compare_place *place,
                        char disk[CLI_URL], struct plx_error *err)
{
    const struct compare_load *l = cell->load;
    if (cell->pair->host == COMPARE_POLLUX) {
        snprintf(disk, CLI_URL,
                 strchr(place->addr, ':') ? "nvme+tcp://[%s]:%u/%s?depth=%u%s" : "nvme+tcp://%s:%u/%s?depth=%u%s",
                 place->addr, place->port, place->nqn, compare_entries(l), l->digests ? "&hdgst=1&ddgst=1" : "");
        return 0;
    }
    char device[64] = "";
    const struct compare_connect options = {.addr = place->addr,
                                            .nqn = place->nqn,
                                            .port = place->port,
                                            .queues = l->cores,
                                            .entries = compare_entries(l),
                                            .digests = l->digests};
    int ret = compare_network_enter(c->network, COMPARE_END_HOST);
    if (ret)
        return plx_fail(err, ret, "the host's network namespace cannot be entered: %s", strerror(-ret));
    ret = compare_nvme_connect(c->kernel, &options, device, err);
    int left = compare_network_leave(c->network);
    snprintf(disk, CLI_URL, "%s", device);
    return ret || !left ? ret : plx_fail(err, left, "the host's network namespace cannot be left: %s", strerror(-left));
}

static int run_cell(struct comparing *c, struct compare_cell *cell, double seconds, double rate,
                    struct compare_run *out, struct plx_error *err)
{
    struct compare_place place;
    char disk[CLI_URL];
    int ret = site_start(&c->site, cell->pair->target, cell->load, &place, err);
    if (!ret)
        ret = connect_host(c, cell, &place, disk, err);
    const struct compare_job job = {.disk = disk,
                                    .load = cell->load,
                                    .cores = c->o->host_cores,
                                    .seconds = seconds,
                                    .rate = rate,
                                    .idle = c->idle,
                                    .target = cell->pair->target == COMPARE_POLLUX ? c->site.pid : 0,
                                    .wire = c->wire,
                                    .network = c->network,
                                    .idle_there = c->idle_there,
                                    .tick = compare_tick};
    if (!ret)
        ret = compare_measure(&job, out, err);
    if (cell->pair->host == COMPARE_KERNEL)
        compare_nvme_disconnect(c->kernel);
    c->done++;
    return ret;
}

/* What could not be done says so in its place, and is not tried again. */
static void cell_failed(struct comparing *c, struct compare_cell *cell, int ret, const struct plx_error *err)
{
    if (ret == -EINTR || why_stopped(c))
        return;
    cell->failed = true;
    snprintf(cell->reason, sizeof cell->reason, "%.*s", COMPARE_REASON - 1, err->text);
    cli_clean(cell->reason); /* the last character may be cut off in its middle */
    site_stop(&c->site);
}

/* Before the rounds: what is slower the first time is so here, and the rate of the schedules comes of it. */
static void warm_up(struct comparing *c, struct compare_cell *cells)
{
    static struct compare_run run;
    double slowest = 0, seconds = c->seconds < WARM_UP_SECONDS ? c->seconds : WARM_UP_SECONDS;
    struct plx_error err;
    for (unsigned i = 0; i < c->npairs && !why_stopped(c); i++) {
        if (cells[i].reason[0])
            continue;
        say_what(c, &cells[i], 0);
        int ret = run_cell(c, &cells[i], seconds, 0, &run, &err);
        if (ret)
            cell_failed(c, &cells[i], ret, &err);
        else if (slowest == 0 || run.iops < slowest)
            slowest = run.iops;
    }
    double rate = slowest * PACE > MIN_RATE ? (double)(uint64_t)(slowest * PACE) : MIN_RATE;
    for (unsigned i = 0; i < c->npairs; i++)
        cells[i].rate = cells[i].reason[0] ? 0 : rate;
}

static void measure_load(struct comparing *c, struct compare_cell *cells, unsigned round)
{
    struct plx_error err;
    for (unsigned i = 0; i < c->npairs && !why_stopped(c); i++) {
        struct compare_cell *cell = &cells[compare_turn(round, i, c->npairs)];
        if (cell->reason[0])
            continue;
        struct compare_round *r = &cell->rounds[round];
        say_what(c, cell, round + 1);
        int ret = run_cell(c, cell, c->seconds, 0, &r->fast, &err);
        if (!ret)
            ret = run_cell(c, cell, c->seconds, cell->rate, &r->paced, &err);
        if (ret)
            cell_failed(c, cell, ret, &err);
        else
            cell->nrounds = round + 1;
    }
}

/* What the machines do when nothing is asked of them is not the work of what is measured. */
static int measure_idle(struct comparing *c)
{
    struct plx_error err;
    c->idle = compare_idle();
    if (!c->wire)
        return EXIT_OK;
    json_t *there = compare_wire_ask(c->wire, json_pack("{ss}", "do", "idle"), COMPARE_ANSWER_MS, &err);
    if (!there)
        return cli_fail(EXIT_RUNTIME, "%s", err.text);
    const json_t *idle = json_object_get(there, "idle");
    c->idle_there = json_number_value(idle);
    bool good = json_is_number(idle) && c->idle_there >= 0 && c->idle_there <= COMPARE_REMOTE_CPUS;
    json_decref(there);
    return good ? EXIT_OK : cli_fail(EXIT_RUNTIME, "the machine of the target says nonsense of how idle it is");
}

static void measure_all(struct comparing *c)
{
    running = c;
    c->started = plx_reactor_clock(NULL);
    for (unsigned i = 0; i < c->measured && !why_stopped(c); i++)
        warm_up(c, &c->cells[i * c->npairs]);
    for (unsigned round = 0; round < c->o->rounds && !why_stopped(c); round++) {
        for (unsigned i = 0; i < c->measured; i++)
            measure_load(c, &c->cells[i * c->npairs], round);
        site_stop(&c->site); /* each round has targets of its own */
    }
    site_stop(&c->site);
    compare_progress_end();
}

/* ---- what came of it ---- */

static json_t *compare_settings(const struct comparing *c)
{
    json_t *disk = c->wire ? json_incref(json_object_get(c->there, "disk")) : compare_disk_name(c->o);
    json_t *settings =
        json_pack("{ss,so,sf,si,sf,si,sI,so}", "network",
                  c->wire      ? "two machines"
                  : c->network ? "namespaces"
                               : "loopback",
                  "disk", disk, "seconds", c->seconds, "rounds", c->o->rounds, "idle_cores", c->idle + c->idle_there,
                  "in_capsule_bytes", COMPARE_IN_CAPSULE, "disk_bytes", (json_int_t)c->o->medium.bytes,
                  "kernel_target_disk", compare_json_text(compare_nvmet_medium(c->kernel)));
    if (!c->wire)
        json_object_set_new(settings, "mtu", json_integer(c->network ? (int)c->o->mtu : compare_network_mtu()));
    json_t *t = json_array(), *h = json_array();
    for (int i = 0; i < c->o->ntarget_cores; i++)
        json_array_append_new(t, json_integer(c->o->target_cores[i]));
    for (int i = 0; i < c->o->nhost_cores; i++)
        json_array_append_new(h, json_integer(c->o->host_cores[i]));
    json_object_set_new(settings, "target_cores", t);
    json_object_set_new(settings, "host_cores", h);
    return settings;
}

static json_t *results_of(const struct comparing *c, const char *began)
{
    const struct compare_results r = {c->cells, c->ncells, c->o->rounds, !why_stopped(c)};
    json_t *doc = compare_results(&r);
    json_object_set_new(doc, "pollux", json_string(plx_version()));
    json_object_set_new(doc, "format", json_integer(1));
    json_object_set_new(doc, "began", json_string(began));
    json_object_set_new(doc, "settings", compare_settings(c));
    json_object_set_new(doc, "machine", compare_environment());
    if (c->wire) {
        json_object_set_new(doc, "two_machines", json_true());
        json_object_set(doc, "target_machine", json_object_get(c->there, "machine"));
    }
    return doc;
}

static int write_file(const char *option, const char *path, const json_t *doc, int (*fn)(const json_t *doc, FILE *f))
{
    bool out = strcmp(path, "-") == 0;
    FILE *f = out ? stdout : fopen(path, "we");
    if (!f)
        return cli_fail(EXIT_RUNTIME, "--%s %s: cannot be written: %s", option, path, strerror(errno));
    bool failed = fn(doc, f) || fflush(f) || ferror(f);
    if (!out)
        failed |= fclose(f) != 0;
    return failed ? cli_fail(EXIT_RUNTIME, "--%s %s: could not be written whole", option, path) : EXIT_OK;
}

static int dump(const json_t *doc, FILE *f)
{
    int ret = json_dumpf(doc, f, JSON_INDENT(1) | JSON_PRESERVE_ORDER | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(14));
    fputc('\n', f);
    return ret;
}

/* What came from a file, or from another machine, must not steer a terminal. */
static void clean_texts(json_t *v)
{
    const char *name;
    size_t i;
    json_t *each;
    char *copy = json_is_string(v) ? strdup(json_string_value(v)) : NULL;
    if (copy)
        json_string_set(v, cli_clean(copy));
    free(copy);
    json_object_foreach(v, name, each) clean_texts(each);
    json_array_foreach(v, i, each) clean_texts(each);
}

static int show(const struct compare_options *o, json_t *doc)
{
    int status = EXIT_OK;
    clean_texts(doc);
    if (!o->json || strcmp(o->json, "-"))
        compare_table(doc);
    if (o->json && !o->from)
        status = write_file("json", o->json, doc, dump);
    if (o->html && !status)
        status = write_file("html", o->html, doc, compare_html);
    return status;
}

static bool any_measured(const struct comparing *c)
{
    for (unsigned i = 0; i < c->ncells; i++)
        if (c->cells[i].nrounds)
            return true;
    return false;
}

/* ---- the command ---- */

static void say_cleaned(const char *text)
{
    cli_say("pollux: %s\n", text);
}

static int clean(bool tell)
{
    int n = compare_clean(say_cleaned);
    if (n < 0)
        return cli_fail(EXIT_RUNTIME, "what a run that was killed has left could not be taken down: %s", strerror(-n));
    if (!n && tell)
        puts("nothing was left");
    return EXIT_OK;
}

static int show_saved(const struct compare_options *o)
{
    json_error_t why;
    json_t *doc = json_load_file(o->from, 0, &why);
    if (!doc || !json_is_array(json_object_get(doc, "cells"))) {
        json_decref(doc);
        return cli_fail(EXIT_USAGE, "--from %s: is no file that pollux compare --json wrote%s%s", o->from,
                        why.text[0] ? ": " : "", why.text);
    }
    int status = show(o, doc);
    json_decref(doc);
    return status;
}

/* That a file cannot be written is said before the work is done. */
static int check_files(const struct compare_options *o)
{
    const char *const paths[] = {o->json, o->html};
    for (int i = 0; i < 2; i++) {
        FILE *f = paths[i] && strcmp(paths[i], "-") ? fopen(paths[i], "ae") : NULL;
        if (paths[i] && strcmp(paths[i], "-") && !f)
            return cli_fail(EXIT_USAGE, "--%s %s: cannot be written: %s", i ? "html" : "json", paths[i],
                            strerror(errno));
        if (f)
            fclose(f);
    }
    return EXIT_OK;
}

static int measure_and_show(struct comparing *c)
{
    char began[32];
    time_t now = (time_t)compare_wall_seconds();
    strftime(began, sizeof began, "%Y-%m-%dT%H:%M:%SZ", gmtime(&now));
    if (!possible_pairs(c))
        return cli_fail(EXIT_RUNTIME, "nothing of what was asked for can be measured here: %s", c->pairs[0].reason);
    int status = measure_idle(c);
    if (status)
        return status;
    measure_all(c);
    const char *why = why_stopped(c);
    if (why && !any_measured(c))
        return cli_fail(EXIT_RUNTIME, "%s", why);
    if (why)
        cli_say("pollux: %s; what follows is of the rounds that were through\n", why);
    json_t *doc = results_of(c, began);
    status = show(c->o, doc);
    json_decref(doc);
    return why ? EXIT_RUNTIME : status;
}

static int compare_prepared(struct comparing *c)
{
    make_pairs(c);
    c->nloads = compare_plan(&c->o->axes, c->loads);
    choose_time(c);
    c->site = (struct compare_site){.wire = c->wire,
                                    .kernel = c->kernel,
                                    .medium = c->o->medium,
                                    .network = c->network,
                                    .addr = compare_network_addr(c->network),
                                    .cores = c->o->target_cores,
                                    .ncores = c->o->ntarget_cores};
    int status = make_cells(c);
    return status ? status : measure_and_show(c);
}

/* What the target's machine says of itself. */
static bool is_machine(const json_t *there)
{
    json_int_t cores = json_integer_value(json_object_get(there, "cores"));
    return cores >= 1 && cores <= COMPARE_REMOTE_CPUS && json_is_object(json_object_get(there, "machine")) &&
           json_is_string(json_object_get(there, "no_kernel")) && json_is_string(json_object_get(there, "disk"));
}

/* The target's machine: lets us in, and says what it is. */
static int meet(struct comparing *c)
{
    struct plx_error err;
    if (compare_wire_connect(c->o->peer, &compare_interrupted, &c->wire, &err))
        return cli_fail(EXIT_RUNTIME, "%s", err.text);
    json_t *in = compare_wire_ask(c->wire, json_pack("{ss}", "key", c->o->key), COMPARE_ANSWER_MS, &err);
    if (in)
        c->there = compare_wire_ask(c->wire, json_pack("{ss}", "do", "machine"), COMPARE_ANSWER_MS, &err);
    json_decref(in);
    if (!c->there)
        return cli_fail(EXIT_RUNTIME, "%s", err.text);
    if (!is_machine(c->there))
        return cli_fail(EXIT_RUNTIME, "the machine of the target says nonsense of what it is");
    return EXIT_OK;
}

static int compare_set_up(struct comparing *c)
{
    struct plx_error err;
    int status = choose_sides(c->o);
    if (!status)
        status = check_files(c->o);
    if (!status && c->o->where == COMPARE_HOST)
        status = meet(c);
    if (!status)
        status = choose_scaling(c->o, json_integer_value(json_object_get(c->there, "cores")));
    if (!status && c->o->mtu && compare_network_open(c->o->mtu, &c->network, &err))
        status = cli_fail(EXIT_RUNTIME, "%s", err.text);
    if (!status)
        status = clean(false);
    if (!status && compare_kernel_open(&c->kernel, &err))
        status = cli_fail(EXIT_RUNTIME, "%s", err.text);
    return status;
}

static int compare_run_all(struct compare_options *o)
{
    struct plx_error err;
    struct comparing *c = calloc(1, sizeof *c);
    if (!c)
        return cli_fail(EXIT_RUNTIME, "out of memory");
    c->o = o;
    take_signals();
    int status = compare_set_up(c);
    if (!status)
        status = compare_prepared(c);
    if (c->kernel && compare_kernel_close(c->kernel, &err))
        status = cli_fail(EXIT_RUNTIME, "%s", err.text);
    for (unsigned i = 0; c->cells && i < c->ncells; i++)
        free(c->cells[i].rounds);
    free(c->cells);
    compare_wire_close(c->wire);
    compare_network_close(c->network);
    json_decref(c->there);
    free(c);
    return status;
}

static int compare_serve(struct compare_options *o)
{
    take_signals();
    int status = choose_sides(o);
    if (!status)
        status = clean(false);
    return status ? status : compare_target(o);
}

static int compare_command(int argc, char **argv)
{
    struct compare_options o;
    int status = compare_parse(argc, argv, &o);
    if (status)
        return status;
    if (o.help) {
        compare_help();
        return EXIT_OK;
    }
    if (o.clean)
        return clean(true);
    if (o.where == COMPARE_TARGET)
        return compare_serve(&o);
    return o.from ? show_saved(&o) : compare_run_all(&o);
}

const struct cli_command cli_compare = {
    .name = "compare",
    .summary = "our target and host beside the kernel's: how fast, at what cost",
    .run = compare_command,
    .help = compare_help,
};
