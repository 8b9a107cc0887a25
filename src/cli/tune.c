/* SPDX-License-Identifier: BSD-3-Clause */
/* `pollux tune`: looks at the machine, and explains; changes settings, and takes that back; measures what it brings. */
#include "tune.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tune/advice.h"
#include "tune/measure.h"

enum {
    OPT_APPLY = 256, /* options that have no letter */
    OPT_UNDO,
    OPT_FORGET,
    OPT_DRY_RUN,
    OPT_JSON,
    OPT_MEASURE,
    OPT_LOAD,
    OPT_TARGET,
    OPT_ROUNDS,
    OPT_SECONDS,
    OPT_STATE,
    OPT_ROOT,
    OPT_LIST,
    COMMAND_MAX = 4 * PATH_MAX,
};

/* What is told while settings are changed: on the terminal as it comes, or in the JSON. */
struct tune_told {
    json_t *messages; /* or NULL */
};

static volatile sig_atomic_t interrupted;

static void tune_interrupt(int number)
{
    (void)number;
    interrupted = 1;
}

static void tune_help(void)
{
    puts(
        "pollux tune [OPTION]... [CHECK]...\n"
        "  Looks at this machine and says of each setting what it is, what would be better and why, what that brings\n"
        "  and where that figure comes from, and the command for it. Needs no root, and changes nothing.\n"
        "  CHECK is a name of --list, or a group of them: cpu, core, mem, limit, numa, iommu, pci, disk, kernel, nic,\n"
        "  net.\n\n"
        "  better   something is better           choice   better for some, and worse for others\n"
        "  absent   there is no such thing here   unknown  it could not be found out\n\n"
        "options:\n"
        "  -m, --cores LIST     where reactors run, or are to run (default: those of the pollux that runs); auto:4\n"
        "                       for the four that pollux serve would choose, which are told\n"
        "      --apply          make the changes that are better, and of named checks those of a choice\n"
        "      --undo           take back all that --apply did; what was changed by others since is left alone\n"
        "      --forget         with --undo: forget what was left alone\n"
        "      --dry-run        with --apply or --undo: only say what would be done\n"
        "      --measure        measure what each change brings, with a load, and take it back\n"
        "      --load COMMAND   the load: a shell command whose last line begins with its figure, more is better\n"
        "      --target DISK    the load: pollux perf against that disk\n"
        "      --seconds N      with --target: for so long at a time (default 5)\n"
        "      --rounds N       measure without, with, with and without it so many times (default 6)\n"
        "      --json           as JSON: an object with findings\n"
        "      --list           the names of the checks\n"
        "      --state FILE     what --apply has done (default /var/lib/pollux-tune/journal.json)\n"
        "      --root DIR       look at a machine whose files were copied to below that folder");
}

static int tune_option(struct tune_options *o, int opt)
{
    switch (opt) {
    case 'm':
        if (cli_parse_cores(optarg, SERVE_MAX_CORES, o->cores, &o->ncores, &o->placed))
            return EXIT_USAGE;
        if (o->ncores && o->cores[o->ncores - 1] >= TUNE_CPUS) /* they ascend */
            return cli_fail(EXIT_USAGE, "--cores %s: cores are numbered below %d", optarg, TUNE_CPUS);
        break;
    case OPT_ROUNDS:
        return cli_parse_u32("rounds", optarg, "a number", 2, TUNE_ROUNDS, &o->rounds);
    case OPT_SECONDS:
        return cli_parse_u32("seconds", optarg, "seconds", 1, 3600, &o->seconds);
    case OPT_LOAD:
        o->load = optarg;
        break;
    case OPT_TARGET:
        o->target = optarg;
        break;
    case OPT_STATE:
        o->state = optarg;
        break;
    case OPT_ROOT:
        o->root = optarg;
        break;
    default:
        o->apply |= opt == OPT_APPLY;
        o->undo |= opt == OPT_UNDO;
        o->forget |= opt == OPT_FORGET;
        o->dry_run |= opt == OPT_DRY_RUN;
        o->measure |= opt == OPT_MEASURE;
        o->json |= opt == OPT_JSON;
        o->list |= opt == OPT_LIST;
        o->help |= opt == 'h';
    }
    return EXIT_OK;
}

static int tune_parse(int argc, char **argv, struct tune_options *o)
{
    static const struct option table[] = {{"cores", required_argument, NULL, 'm'},
                                          {"apply", no_argument, NULL, OPT_APPLY},
                                          {"undo", no_argument, NULL, OPT_UNDO},
                                          {"forget", no_argument, NULL, OPT_FORGET},
                                          {"dry-run", no_argument, NULL, OPT_DRY_RUN},
                                          {"json", no_argument, NULL, OPT_JSON},
                                          {"measure", no_argument, NULL, OPT_MEASURE},
                                          {"load", required_argument, NULL, OPT_LOAD},
                                          {"target", required_argument, NULL, OPT_TARGET},
                                          {"rounds", required_argument, NULL, OPT_ROUNDS},
                                          {"seconds", required_argument, NULL, OPT_SECONDS},
                                          {"state", required_argument, NULL, OPT_STATE},
                                          {"root", required_argument, NULL, OPT_ROOT},
                                          {"list", no_argument, NULL, OPT_LIST},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    struct cli_options options = {"tune", ":m:h", table, NULL, 0};
    for (int opt; (opt = cli_next_option(&options, argc, argv)) != -1;)
        if (opt == CLI_WRONG || tune_option(o, opt))
            return EXIT_USAGE;
    o->names = argv + optind;
    o->nnames = (unsigned)(argc - optind);
    return EXIT_OK;
}

/* What is of no use with the others is an error: it was meant to do something. */
static int check_tune_options(const struct tune_options *o)
{
    if (o->apply + o->undo + o->measure > 1)
        return cli_fail(EXIT_USAGE, "--apply, --undo and --measure: one at a time");
    if (o->forget && !o->undo)
        return cli_fail(EXIT_USAGE, "--forget is for --undo");
    if (o->dry_run && !o->apply && !o->undo)
        return cli_fail(EXIT_USAGE, "--dry-run is for --apply and --undo");
    if (o->undo && o->nnames)
        return cli_fail(EXIT_USAGE, "--undo takes back all changes: \"%s\" is a word too many", o->names[0]);
    if ((o->load || o->target) && !o->measure)
        return cli_fail(EXIT_USAGE, "--%s is for --measure", o->load ? "load" : "target");
    if (o->measure && !o->load == !o->target)
        return cli_fail(EXIT_USAGE, "--measure takes a load: --load COMMAND, or --target DISK for pollux perf");
    for (unsigned i = 0; i < o->nnames; i++)
        if (!tune_is_name(o->names[i]))
            return cli_fail(EXIT_USAGE, "there is no check \"%s\"; \"pollux tune --list\" names them", o->names[i]);
    return EXIT_OK;
}

/* ---- changing ---- */

static void tune_tell(void *arg, bool bad, const char *line)
{
    struct tune_told *t = arg;
    if (t->messages)
        json_array_append_new(t->messages, json_pack("{sbss}", "bad", bad, "text", line));
    if (bad)
        cli_fail(EXIT_RUNTIME, "%s", line);
    else if (!t->messages)
        printf("%s\n", line);
}

static bool is_asked_for(const struct tune_options *o, const char *check, bool itself)
{
    for (unsigned i = 0; i < o->nnames; i++)
        if (!itself || strcmp(o->names[i], check) == 0)
            return true;
    return false;
}

static bool is_careful(const json_t *f)
{
    return json_is_true(json_object_get(f, "careful"));
}

/* Of those that were looked at: "better" ones, and choices if they were named; careful ones by their own name. */
static bool is_to_change(const struct tune_options *o, const json_t *f)
{
    const char *state = json_string_value(json_object_get(f, "state"));
    const char *check = json_string_value(json_object_get(f, "check"));
    bool choice = strcmp(state, "choice") == 0 && (o->measure || o->nnames);
    return json_is_true(json_object_get(f, "reversible")) && (choice || strcmp(state, "better") == 0) &&
           (!is_careful(f) || is_asked_for(o, check, true));
}

static void say_commands(const json_t *f)
{
    size_t i;
    json_t *command;
    json_array_foreach(json_object_get(f, "commands"), i, command) printf("%s\n", json_string_value(command));
}

/* Those that are careful, or those that are not. @return how many; *first is the first error */
static unsigned apply_kind(const struct tune_options *o, struct tune_journal *j, const json_t *findings, bool careful,
                           int *first)
{
    size_t i;
    json_t *f;
    unsigned n = 0;
    json_array_foreach(findings, i, f)
    {
        if (is_careful(f) != careful || !is_to_change(o, f))
            continue;
        int ret = o->dry_run ? 0 : tune_apply(j, f);
        *first = *first ? *first : ret;
        n++;
        if (o->dry_run && !o->json)
            say_commands(f);
    }
    return n;
}

/*
 * A NIC that has got other queues has other interrupts, and what was found of these is of numbers that may be another
 * device's by now: so we look again.
 */
static int apply_findings(const struct tune_options *o, struct tune_machine *m, struct tune_journal *j,
                          json_t *findings)
{
    int first = 0;
    bool again = apply_kind(o, j, findings, true, &first) && !o->dry_run;
    json_t *now = again ? tune_look(m, o->names, o->nnames) : json_incref(findings);
    apply_kind(o, j, now, false, &first);
    json_decref(now);
    return first;
}

static int run_load(const struct tune_load *load, double *figure)
{
    return interrupted ? -EINTR : tune_run_load(load->name, figure);
}

static int measure_findings(const struct tune_options *o, struct tune_journal *j, json_t *findings, const char *command)
{
    const struct tune_load load = {command, run_load};
    size_t i;
    json_t *f;
    int first = 0;
    static const int ends[] = {SIGINT, SIGTERM, SIGHUP};
    for (unsigned k = 0; k < sizeof ends / sizeof ends[0]; k++)
        signal(ends[k], tune_interrupt); /* the load ends, by it or by itself; what was changed is taken back */
    json_array_foreach(findings, i, f)
    {
        if (interrupted || !is_to_change(o, f))
            continue;
        int ret = tune_measure(j, f, &load, o->rounds);
        first = first ? first : ret;
        if (!ret)
            cli_say("%s: %s\n", json_string_value(json_object_get(f, "check")),
                    json_string_value(json_object_get(json_object_get(f, "gain"), "text")));
    }
    return interrupted ? -EINTR : first;
}

/* ---- the command ---- */

static int tune_change(const struct tune_options *o, struct tune_machine *m, json_t *findings, struct tune_told *told)
{
    char command[COMMAND_MAX];
    struct tune_journal *j;
    struct plx_error err;
    if (o->apply && o->dry_run)
        return apply_findings(o, m, NULL, findings);
    if (o->target && tune_perf_command(o->target, o->seconds, command, sizeof command))
        return -EINVAL;
    int ret = tune_journal_open(m, o->state, tune_tell, told, &j, &err);
    if (ret)
        return cli_fail(ret, "%s%s", err.text, ret == -EACCES || ret == -EPERM ? "; changing settings takes root" : "");
    ret = o->undo    ? tune_undo(j, o->forget, o->dry_run)
          : o->apply ? apply_findings(o, m, j, findings)
                     : measure_findings(o, j, findings, o->load ? o->load : command);
    tune_journal_close(j);
    return ret;
}

static int tune_show(const struct tune_options *o, json_t *findings, json_t *messages)
{
    if (o->json) {
        json_t *root = json_pack("{sO}", "findings", findings), *cores = json_array();
        for (int i = 0; i < o->ncores; i++)
            json_array_append_new(cores, json_integer(o->cores[i]));
        if (o->placed)
            json_object_set(root, "cores", cores);
        json_decref(cores);
        if (messages)
            json_object_set(root, "messages", messages);
        json_dumpf(root, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER | JSON_ENSURE_ASCII);
        putchar('\n');
        json_decref(root);
    } else if (!o->apply && !o->undo) {
        char cores[512];
        tune_list(o->cores, o->ncores, cores, sizeof cores);
        if (o->placed)
            printf("pollux serve --cores %s\n", cores);
        tune_print(findings, o);
    }
    return EXIT_OK;
}

static int tune_run(struct tune_options *o)
{
    struct tune_machine *m;
    struct plx_error err;
    struct tune_told told = {NULL};
    bool changes = o->apply || o->undo || o->measure;
    if (o->placed && cli_place_cores(o->root, o->placed, SERVE_MAX_CORES, o->cores, &o->ncores))
        return EXIT_USAGE;
    if (tune_open(o->root, o->cores, o->ncores, &m, &err))
        return cli_fail(EXIT_USAGE, "--root %s", err.text);
    json_t *findings = o->undo ? json_array() : tune_look(m, o->names, o->nnames);
    if (o->json && changes)
        told.messages = json_array();
    int ret = changes ? tune_change(o, m, findings, &told) : 0;
    tune_show(o, findings, told.messages);
    json_decref(told.messages);
    json_decref(findings);
    tune_close(m);
    return ret ? EXIT_RUNTIME : EXIT_OK;
}

static int tune(int argc, char **argv)
{
    struct tune_options o = {.root = "/", .rounds = 6, .seconds = 5};
    if (tune_parse(argc, argv, &o) || check_tune_options(&o))
        return EXIT_USAGE;
    if (o.help) {
        tune_help();
        return EXIT_OK;
    }
    if (o.list) {
        for (unsigned i = 0; i < tune_checks(); i++)
            puts(tune_check_name(i));
        return EXIT_OK;
    }
    return tune_run(&o);
}

const struct cli_command cli_tune = {
    .name = "tune",
    .summary = "what of this machine's settings could be better, why, and changing it",
    .run = tune,
    .help = tune_help,
};
