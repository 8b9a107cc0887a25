/* SPDX-License-Identifier: BSD-3-Clause */
/* The command line of `pollux compare`. */
#include "compare.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    OPT_ROUNDS = 256,
    OPT_QUICK,
    OPT_CROSS,
    OPT_JSON,
    OPT_HTML,
    OPT_FROM,
    OPT_DISK,
    OPT_CLEAN,
    OPT_TARGETS,
    OPT_HOSTS,
    OPT_TARGET_CORES,
    OPT_HOST_CORES,
    OPT_DIGESTS,
    OPT_POLL,
    OPT_KEY,
    OPT_NETWORK,
    LIST_MAX = 16,
    MAX_SECONDS = 600,
    MTU = 1500,
    MTU_MIN = 576,
    MTU_MAX = 65535,
    RAM_BYTES = 256 << 20,
    QUICK_BYTES = 64 << 20,
};

static const struct option table[] = {
    {"queue-depth", required_argument, NULL, 'q'},
    {"io-size", required_argument, NULL, 'o'},
    {"read-percent", required_argument, NULL, 'M'},
    {"cores", required_argument, NULL, 'm'},
    {"time", required_argument, NULL, 't'},
    {"digests", required_argument, NULL, OPT_DIGESTS},
    {"poll", required_argument, NULL, OPT_POLL},
    {"cross", no_argument, NULL, OPT_CROSS},
    {"quick", no_argument, NULL, OPT_QUICK},
    {"rounds", required_argument, NULL, OPT_ROUNDS},
    {"targets", required_argument, NULL, OPT_TARGETS},
    {"hosts", required_argument, NULL, OPT_HOSTS},
    {"disk", required_argument, NULL, OPT_DISK},
    {"target-cores", required_argument, NULL, OPT_TARGET_CORES},
    {"host-cores", required_argument, NULL, OPT_HOST_CORES},
    {"json", required_argument, NULL, OPT_JSON},
    {"html", required_argument, NULL, OPT_HTML},
    {"from", required_argument, NULL, OPT_FROM},
    {"clean", no_argument, NULL, OPT_CLEAN},
    {"listen", required_argument, NULL, 'l'},
    {"key", required_argument, NULL, OPT_KEY},
    {"network", required_argument, NULL, OPT_NETWORK},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

void compare_help(void)
{
    puts("pollux compare [OPTION]...\n"
         "pollux compare target -l ADDR[:PORT] [--disk DISK] [--target-cores LIST]\n"
         "pollux compare host ADDR[:PORT] --key KEY [OPTION]...\n"
         "  Measures our target and the kernel's (nvmet-tcp) under our host and the kernel's (nvme-tcp), in "
         "turn, on this\n"
         "  machine over loopback. The kernel's sides take root, and are set up and taken down again; what cannot be\n"
         "  measured is named with the reason. Every figure is the median of its rounds, with an interval of 95 %.\n"
         "  With two machines, `target` on one prints what to type on the other, which has the hosts and says "
         "how it went.\n\n"
         "what is varied, one at a time; each takes a list, whose first value is the one that the others keep:\n"
         "  -q, --queue-depth LIST  requests in flight (32,1,4,128)\n"
         "  -o, --io-size LIST      size of a request (4K,16K,128K)\n"
         "  -M, --read-percent LIST how many are reads; all are at random places (100,0,70)\n"
         "  -m, --cores LIST        cores of each side, with a queue each (1,2,4,... up to half of this machine's)\n"
         "      --digests LIST      off, on: of headers and data (off,on)\n"
         "      --poll LIST         adaptive, busy, sleep: what our sides do when idle (adaptive,busy)\n"
         "      --cross             all combinations of these\n\n"
         "options:\n"
         "      --quick             under two minutes: fewer of them, and short runs\n"
         "  -t, --time SECONDS      how long a run takes (2)\n"
         "      --rounds N          6 to 100 (6), forth and back in turn\n"
         "      --targets LIST      pollux, kernel (both)\n"
         "      --hosts LIST        pollux, kernel (both)\n"
         "      --disk DISK         ram: memory; null: reads nothing and forgets writes; or the path of a file "
         "or block\n"
         "                          device that both targets serve, and whose content is overwritten (ram)\n"
         "      --network NET       loopback; or namespaces[:MTU]: two of its own, joined by virtual NICs (loopback)\n"
         "      --target-cores LIST where our target runs (the first half of this machine's)\n"
         "      --host-cores LIST   where the load is made (the other half)\n"
         "      --json FILE         write all that was measured, and on what machine; - is standard output\n"
         "      --html FILE         write a report: one file, with charts\n"
         "      --from FILE         make the table and the report of what --json wrote, and measure nothing\n"
         "      --clean             take down what a run that was killed has left; every run does that first");
}

json_t *compare_disk_name(const struct compare_options *o)
{
    return compare_json_text(o->medium.path ? o->medium.path : o->medium.null ? "null" : "ram");
}

/* ---- lists ---- */

/* Calls one() with each word of a list. */
static int each_word(const char *option, const char *text, struct compare_options *o,
                     int (*one)(struct compare_options *o, const char *word))
{
    char word[32];
    const char *whole = text;
    for (;;) {
        size_t n = strcspn(text, ",");
        if (!n || n >= sizeof word)
            return cli_fail(EXIT_USAGE, "--%s %s: takes a list with a comma between two", option, whole);
        memcpy(word, text, n);
        word[n] = '\0';
        int status = one(o, word);
        if (status || !text[n])
            return status;
        text += n + 1;
    }
}

static int add_value(const char *option, uint32_t *list, unsigned *n, uint32_t value)
{
    if (*n == LIST_MAX)
        return cli_fail(EXIT_USAGE, "--%s: takes at most %d values", option, LIST_MAX);
    list[(*n)++] = value;
    return EXIT_OK;
}

static int one_depth(struct compare_options *o, const char *word)
{
    uint32_t v = 0;
    int status = cli_parse_u32("queue-depth", word, "numbers", 1, COMPARE_DEPTH, &v);
    return status ? status : add_value("queue-depth", o->axes.depths, &o->axes.ndepths, v);
}

static int one_size(struct compare_options *o, const char *word)
{
    uint32_t v = 0;
    int status = cli_parse_size("io-size", word, "512 to 1M", 512, 1 << 20, false, &v);
    return status ? status : add_value("io-size", o->axes.sizes, &o->axes.nsizes, v);
}

static int one_read(struct compare_options *o, const char *word)
{
    uint32_t v = 0;
    int status = cli_parse_u32("read-percent", word, "numbers", 0, 100, &v);
    return status ? status : add_value("read-percent", o->axes.reads, &o->axes.nreads, v);
}

static int one_cores(struct compare_options *o, const char *word)
{
    uint32_t v = 0;
    int status = cli_parse_u32("cores", word, "numbers", 1, COMPARE_CORES, &v);
    return status ? status : add_value("cores", o->axes.cores, &o->axes.ncores, v);
}

static int one_digests(struct compare_options *o, const char *word)
{
    bool on = strcmp(word, "on") == 0;
    if (!on && strcmp(word, "off"))
        return cli_fail(EXIT_USAGE, "--digests %s: takes off and on", word);
    if (o->axes.ndigests == 2)
        return cli_fail(EXIT_USAGE, "--digests: takes each value once");
    o->axes.digests[o->axes.ndigests++] = on;
    return EXIT_OK;
}

static int one_poll(struct compare_options *o, const char *word)
{
    enum plx_poll_mode mode;
    int status = cli_parse_poll(word, &mode);
    if (status)
        return status;
    if (o->axes.npolls == 3)
        return cli_fail(EXIT_USAGE, "--poll: takes each value once");
    o->axes.polls[o->axes.npolls++] = mode;
    return EXIT_OK;
}

static int one_side(const char *option, bool sides[COMPARE_SIDES], const char *word)
{
    for (unsigned i = 0; i < COMPARE_SIDES; i++)
        if (strcmp(word, compare_side_name(i)) == 0) {
            sides[i] = true;
            return EXIT_OK;
        }
    return cli_fail(EXIT_USAGE, "--%s %s: takes pollux and kernel", option, word);
}

static int one_target(struct compare_options *o, const char *word)
{
    return one_side("targets", o->targets, word);
}

static int one_host(struct compare_options *o, const char *word)
{
    return one_side("hosts", o->hosts, word);
}

/* ---- options ---- */

static int parse_seconds(const char *text, double *seconds)
{
    char *rest;
    *seconds = strtod(text, &rest);
    if (text[0] < '0' || text[0] > '9' || text[strspn(text, "0123456789.")] || *rest || !(*seconds >= 0.05) ||
        *seconds > MAX_SECONDS)
        return cli_fail(EXIT_USAGE, "--time %s: takes seconds from 0.05 to %d", text, MAX_SECONDS);
    return EXIT_OK;
}

static int parse_core_list(const char *option, const char *text, int *cores, int *n)
{
    struct plx_error err;
    *n = plx_parse_cores(text, cores, COMPARE_CORES, &err);
    return *n > 0 ? EXIT_OK : cli_fail(EXIT_USAGE, "--%s %s: %s", option, text, *n ? err.text : "names none");
}

static void parse_disk(const char *text, struct compare_options *o)
{
    o->medium.null = strcmp(text, "null") == 0;
    o->medium.path = o->medium.null || strcmp(text, "ram") == 0 ? NULL : text;
}

static int parse_network(const char *text, unsigned *mtu)
{
    static const char name[] = "namespaces";
    size_t n = sizeof name - 1;
    uint32_t v = MTU;
    int status = EXIT_OK;
    bool named = strncmp(text, name, n) == 0, loopback = strcmp(text, "loopback") == 0;
    if (named && text[n] == ':')
        status = cli_parse_u32("network namespaces", text + n + 1, "an MTU", MTU_MIN, MTU_MAX, &v);
    else if (!loopback && (!named || text[n]))
        status = cli_fail(EXIT_USAGE, "--network %s: takes loopback, namespaces or namespaces:MTU", text);
    *mtu = loopback ? 0 : v;
    return status;
}

static int compare_parse_one(int opt, struct compare_options *o)
{
    switch (opt) {
    case 'q':
        return each_word("queue-depth", optarg, o, one_depth);
    case 'o':
        return each_word("io-size", optarg, o, one_size);
    case 'M':
        return each_word("read-percent", optarg, o, one_read);
    case 'm':
        return each_word("cores", optarg, o, one_cores);
    case OPT_DIGESTS:
        return each_word("digests", optarg, o, one_digests);
    case OPT_POLL:
        return each_word("poll", optarg, o, one_poll);
    case OPT_TARGETS:
        return each_word("targets", optarg, o, one_target);
    case OPT_HOSTS:
        return each_word("hosts", optarg, o, one_host);
    case 't':
        return parse_seconds(optarg, &o->seconds);
    case OPT_ROUNDS:
        return cli_parse_u32("rounds", optarg, "a number", COMPARE_ROUNDS_MIN, COMPARE_ROUNDS, &o->rounds);
    case OPT_TARGET_CORES:
        return parse_core_list("target-cores", optarg, o->target_cores, &o->ntarget_cores);
    case OPT_HOST_CORES:
        return parse_core_list("host-cores", optarg, o->host_cores, &o->nhost_cores);
    case OPT_DISK:
        parse_disk(optarg, o);
        return EXIT_OK;
    case OPT_JSON:
        o->json = optarg;
        return EXIT_OK;
    case OPT_HTML:
        o->html = optarg;
        return EXIT_OK;
    case OPT_FROM:
        o->from = optarg;
        return EXIT_OK;
    case OPT_KEY:
        o->key = optarg;
        return EXIT_OK;
    case OPT_NETWORK:
        return parse_network(optarg, &o->mtu);
    case 'l':
        o->listen = optarg;
        return EXIT_OK;
    default:
        o->quick |= opt == OPT_QUICK;
        o->axes.cross |= opt == OPT_CROSS;
        o->clean |= opt == OPT_CLEAN;
        o->help |= opt == 'h';
        return EXIT_OK;
    }
}

static void default_axes(struct compare_axes *a)
{
    static const uint32_t depths[] = {32, 1, 4, 128}, sizes[] = {4096, 16384, 131072}, reads[] = {100, 0, 70};
    if (!a->ndepths)
        memcpy(a->depths, depths, sizeof depths), a->ndepths = 4;
    if (!a->nsizes)
        memcpy(a->sizes, sizes, sizeof sizes), a->nsizes = 3;
    if (!a->nreads)
        memcpy(a->reads, reads, sizeof reads), a->nreads = 3;
    if (!a->ndigests)
        a->digests[0] = false, a->digests[1] = true, a->ndigests = 2;
    if (!a->npolls)
        a->polls[0] = PLX_POLL_ADAPTIVE, a->polls[1] = PLX_POLL_BUSY, a->npolls = 2;
}

static int check_addr(const char *option, const char *text)
{
    struct sockaddr_storage addr;
    struct plx_error err;
    if (!text || plx_parse_addr(text, COMPARE_WIRE_PORT, &addr, &err) == 0)
        return EXIT_OK;
    return cli_fail(EXIT_USAGE, "%s %s: %s", option, text, err.text);
}

/* What is of no use with the others is an error: it was meant to do something. */
static int compare_check(const struct compare_options *o)
{
    if (o->quick && o->seconds > 0)
        return cli_fail(EXIT_USAGE, "--quick chooses the time itself: without --time");
    if (o->quick && o->rounds > COMPARE_ROUNDS_MIN)
        return cli_fail(EXIT_USAGE, "--quick has %d rounds: without --rounds", COMPARE_ROUNDS_MIN);
    if (o->clean && (o->json || o->html || o->from))
        return cli_fail(EXIT_USAGE, "--clean stands alone");
    if (!o->listen != (o->where != COMPARE_TARGET))
        return cli_fail(EXIT_USAGE, o->listen ? "--listen is for pollux compare target"
                                              : "where to listen is not said: pollux compare target -l ADDR");
    if (!o->key != (o->where != COMPARE_HOST))
        return cli_fail(EXIT_USAGE, o->key ? "--key is for pollux compare host"
                                           : "--key is missing: pollux compare target prints it");
    if (o->where == COMPARE_TARGET && (o->json || o->html || o->from || o->quick || o->seconds > 0))
        return cli_fail(EXIT_USAGE, "what is measured, and written, is said to pollux compare host");
    if (o->where != COMPARE_HERE && o->mtu)
        return cli_fail(EXIT_USAGE, "--network is for one machine: two have one between them");
    if (o->where == COMPARE_HOST && (o->medium.path || o->medium.null || o->ntarget_cores))
        return cli_fail(EXIT_USAGE, "--disk and --target-cores are for pollux compare target, on the other machine");
    return check_addr("--listen", o->listen) || check_addr("host", o->peer) ? EXIT_USAGE : EXIT_OK;
}

/* `target` and `host` come first. @return how many words to go on after */
static int compare_word(int argc, char **argv, struct compare_options *o)
{
    if (argc > 1 && strcmp(argv[1], "target") == 0)
        o->where = COMPARE_TARGET;
    else if (argc > 1 && strcmp(argv[1], "host") == 0)
        o->where = COMPARE_HOST;
    if (o->where == COMPARE_HOST && argc > 2 && argv[2][0] != '-')
        o->peer = argv[2];
    return (o->where != COMPARE_HERE) + (o->peer != NULL);
}

int compare_parse(int argc, char **argv, struct compare_options *o)
{
    *o = (struct compare_options){.rounds = COMPARE_ROUNDS_MIN};
    struct cli_options options = {"compare", ":q:o:M:m:t:l:h", table, NULL, 0};
    int words = compare_word(argc, argv, o);
    argc -= words;
    argv += words;
    for (int opt; (opt = cli_next_option(&options, argc, argv)) != -1;)
        if (opt == CLI_WRONG || compare_parse_one(opt, o))
            return EXIT_USAGE;
    if (o->help)
        return EXIT_OK;
    if (optind < argc)
        return cli_fail(EXIT_USAGE,
                        "\"%s\" is a word too many; \"pollux help compare\" lists the "
                        "options",
                        argv[optind]);
    if (o->where == COMPARE_HOST && !o->peer)
        return cli_fail(EXIT_USAGE, "which machine has the target is not said: pollux compare host ADDR --key KEY");
    if (!o->targets[COMPARE_POLLUX] && !o->targets[COMPARE_KERNEL])
        o->targets[COMPARE_POLLUX] = o->targets[COMPARE_KERNEL] = true;
    if (!o->hosts[COMPARE_POLLUX] && !o->hosts[COMPARE_KERNEL])
        o->hosts[COMPARE_POLLUX] = o->hosts[COMPARE_KERNEL] = true;
    o->medium.bytes = o->quick ? QUICK_BYTES : RAM_BYTES;
    default_axes(&o->axes);
    return compare_check(o);
}
