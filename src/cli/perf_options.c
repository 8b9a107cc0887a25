/* SPDX-License-Identifier: BSD-3-Clause */
/* The command line of `pollux perf`. */
#include "perf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    OPT_RATE = 256,
    OPT_COUNT,
    OPT_VERIFY,
    OPT_JSON,
    OPT_POLL,
    DEFAULT_DEPTH = 32,
    DEFAULT_SIZE = 4096,
    DEFAULT_SECONDS = 10,
    MAX_SECONDS = 100000,
};

static const struct option table[] = {
    {"queue-depth", required_argument, NULL, 'q'},
    {"io-size", required_argument, NULL, 'o'},
    {"workload", required_argument, NULL, 'w'},
    {"read-percent", required_argument, NULL, 'M'},
    {"time", required_argument, NULL, 't'},
    {"qpairs", required_argument, NULL, 'P'},
    {"cores", required_argument, NULL, 'm'},
    {"rate", required_argument, NULL, OPT_RATE},
    {"count", required_argument, NULL, OPT_COUNT},
    {"verify", no_argument, NULL, OPT_VERIFY},
    {"json", required_argument, NULL, OPT_JSON},
    {"poll", required_argument, NULL, OPT_POLL},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

void perf_help(void)
{
    puts("pollux perf [OPTION]... DISK...\n"
         "  Loads disks and measures them: requests a second, throughput, latency, CPU time.\n"
         "  Workloads that write overwrite what is on the disks.\n\n"
         "disks:");
    for (const char *const *kind = plx_bdev_kinds(); *kind; kind++)
        printf("  %s\n", *kind);
    puts("\noptions (-q, -P, --rate and --count are for each disk):\n"
         "  -q, --queue-depth N     requests in flight, over all queue pairs (32)\n"
         "  -o, --io-size SIZE      size of a request (4K)\n"
         "  -w, --workload KIND     randread, randwrite, randrw, read, write or rw (randread)\n"
         "  -M, --read-percent N    how many of rw and randrw are reads (50)\n"
         "  -t, --time SECONDS      how long to measure (10, or with --count until that is reached)\n"
         "  -P, --qpairs N          shares of the load, dealt out to the cores (one a core); to a remote disk a core\n"
         "                          makes one association, of as many queue pairs (connections) as it has shares\n"
         "  -m, --cores CORES       cores to run on: a list such as 0-3,6, a hex mask such as 0x5, or auto:4 for four\n"
         "                          that are near NICs and SSDs (one core)\n"
         "      --rate IOPS         send by a schedule of so many a second; latency counts from the scheduled time\n"
         "      --count N           end after so many requests\n"
         "      --verify            write data that tells what it is, and check all that is read\n"
         "      --json FILE         write the results to FILE as JSON; - is standard output\n"
         "      --poll MODE         busy, adaptive or sleep (busy)");
}

static int parse_time(const char *text, uint64_t *ns)
{
    char *rest;
    double seconds = strtod(text, &rest);
    if (text[0] < '0' || text[0] > '9' || text[strspn(text, "0123456789.")] || *rest || !(seconds >= 0.001) ||
        seconds > MAX_SECONDS)
        return cli_fail(EXIT_USAGE, "--time %s: takes seconds from 0.001 to %d", text, MAX_SECONDS);
    *ns = (uint64_t)(seconds * 1e9);
    return EXIT_OK;
}

static int parse_workload(const char *text, struct perf_options *o)
{
    static const struct {
        const char *name;
        bool random;
        uint32_t read_percent;
    } kinds[] = {
        {"randread", true, 100}, {"randwrite", true, 0}, {"randrw", true, 50},
        {"read", false, 100},    {"write", false, 0},    {"rw", false, 50},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strcmp(text, kinds[i].name))
            continue;
        o->workload = kinds[i].name;
        o->random = kinds[i].random;
        o->read_percent = kinds[i].read_percent;
        return EXIT_OK;
    }
    return cli_fail(EXIT_USAGE, "--workload %s: takes randread, randwrite, randrw, read, write or rw", text);
}

static int perf_add_disk(struct perf_options *o, const char *url)
{
    if (o->ndisks == PERF_MAX_DISKS)
        return cli_fail(EXIT_USAGE, "at most %d disks can be measured at once", PERF_MAX_DISKS);
    if (strlen(url) > PERF_MAX_URL - 32)
        return cli_fail(EXIT_USAGE, "%.60s...: this name is too long", url);
    o->disks[o->ndisks++] = url;
    return EXIT_OK;
}

/* -M is for a workload that may be named after it, so it is kept apart until all has been read. */
static int perf_parse_one(int opt, const char *arg, struct perf_options *o, const char **percent)
{
    switch (opt) {
    case 1: /* not an option */
        return perf_add_disk(o, arg);
    case 'q':
        return cli_parse_u32("queue-depth", arg, "a number", 1, PERF_MAX_DEPTH, &o->depth);
    case 'o':
        return cli_parse_size("io-size", arg, "512 to 16M", 512, PERF_MAX_SIZE, false, &o->size);
    case 'w':
        return parse_workload(arg, o);
    case 'M':
        *percent = arg;
        return EXIT_OK;
    case 't':
        return parse_time(arg, &o->time_ns);
    case 'P':
        return cli_parse_u32("qpairs", arg, "a number", 1, PERF_MAX_QPAIRS, &o->qpairs);
    case 'm':
        return cli_parse_cores(arg, PERF_MAX_CORES, o->cores, &o->ncores, &o->placed);
    case OPT_RATE:
        return cli_parse_number("rate", arg, "requests a second", 1, 1000000000, &o->rate);
    case OPT_COUNT:
        return cli_parse_number("count", arg, "a number", 1, UINT64_C(1) << 60, &o->count);
    case OPT_VERIFY:
        o->verify = true;
        return EXIT_OK;
    case OPT_JSON:
        o->json = arg;
        return EXIT_OK;
    case OPT_POLL:
        return cli_parse_poll(arg, &o->poll);
    default:
        o->help = true;
        return EXIT_OK;
    }
}

static int perf_check(struct perf_options *o, const char *percent)
{
    bool mixed = o->read_percent == 50;
    if (!o->ndisks)
        return cli_fail(EXIT_USAGE, "no disk is named; for example: pollux perf -q 128 null:1T");
    if (percent && !mixed)
        return cli_fail(EXIT_USAGE, "--read-percent %s: goes with the workloads rw and randrw, not with %s", percent,
                        o->workload);
    if (percent && cli_parse_u32("read-percent", percent, "a number", 0, 100, &o->read_percent))
        return EXIT_USAGE;
    if (o->placed && cli_place_cores("/", o->placed, PERF_MAX_CORES, o->cores, &o->ncores))
        return EXIT_USAGE;
    o->placed = 0;
    if (!o->qpairs)
        o->qpairs = o->ncores ? (uint32_t)o->ncores : 1;
    if (o->depth < o->qpairs)
        return cli_fail(EXIT_USAGE, "--queue-depth %u: is shared by %u queue pairs, so it must be %u or more", o->depth,
                        o->qpairs, o->qpairs);
    if (o->qpairs < (uint32_t)o->ncores)
        return cli_fail(EXIT_USAGE, "--qpairs %u: %d cores have nothing to do with fewer than %d", o->qpairs, o->ncores,
                        o->ncores);
    if (o->count && o->count < o->qpairs)
        return cli_fail(EXIT_USAGE, "--count %llu: is fewer than there are queue pairs, %u",
                        (unsigned long long)o->count, o->qpairs);
    if (!o->time_ns && !o->count)
        o->time_ns = DEFAULT_SECONDS * UINT64_C(1000000000);
    return EXIT_OK;
}

int perf_parse(int argc, char **argv, struct perf_options *o)
{
    const char *percent = NULL;
    *o = (struct perf_options){.depth = DEFAULT_DEPTH,
                               .size = DEFAULT_SIZE,
                               .workload = "randread",
                               .random = true,
                               .read_percent = 100,
                               .poll = PLX_POLL_BUSY};
    struct cli_options options = {"perf", "-:q:o:w:M:t:P:m:h", table, NULL, 0};
    for (int opt; (opt = cli_next_option(&options, argc, argv)) != -1;)
        if (opt == CLI_WRONG || perf_parse_one(opt, optarg, o, &percent))
            return EXIT_USAGE;
    for (; optind < argc; optind++) { /* after "--" */
        if (perf_add_disk(o, argv[optind]))
            return EXIT_USAGE;
    }
    return o->help ? EXIT_OK : perf_check(o, percent);
}
