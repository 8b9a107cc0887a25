/* SPDX-License-Identifier: BSD-3-Clause */
/* The command line of `pollux serve`. */
#include "cli.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    OPT_ALLOW = 256,
    OPT_ALLOW_ANY,
    OPT_POLL,
    OPT_MAX_IO,
    OPT_DEPTH,
    OPT_QUEUES,
    OPT_CAPSULE,
    OPT_TIMEOUT,
    OPT_SERIAL,
};

static const struct option options[] = {
    {"listen", required_argument, NULL, 'l'},
    {"nqn", required_argument, NULL, 'n'},
    {"cores", required_argument, NULL, 'm'},
    {"allow", required_argument, NULL, OPT_ALLOW},
    {"allow-any-host", no_argument, NULL, OPT_ALLOW_ANY},
    {"poll", required_argument, NULL, OPT_POLL},
    {"max-io-size", required_argument, NULL, OPT_MAX_IO},
    {"queue-depth", required_argument, NULL, OPT_DEPTH},
    {"max-queues", required_argument, NULL, OPT_QUEUES},
    {"in-capsule", required_argument, NULL, OPT_CAPSULE},
    {"peer-timeout", required_argument, NULL, OPT_TIMEOUT},
    {"serial", required_argument, NULL, OPT_SERIAL},
    {"verbose", no_argument, NULL, 'v'},
    {"quiet", no_argument, NULL, 'q'},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

void serve_help(void)
{
    puts("pollux serve [OPTION]... DISK...\n"
         "  Serves disks over NVMe/TCP, as namespaces 1, 2, ... of one subsystem, until Ctrl-C or SIGTERM.\n\n"
         "disks:");
    for (const char *const *kind = plx_bdev_kinds(); *kind; kind++)
        printf("  %s\n", *kind);
    puts("\noptions:\n"
         "  -l, --listen ADDR[:PORT]  where to listen (127.0.0.1:4420; [::1]:4420 for IPv6); port 0 is any free one\n"
         "  -n, --nqn NQN             name of the subsystem; repeated, each begins one of the disks after it\n"
         "  -m, --cores CORES         cores to run on: a list such as 0-3,6 or a hex mask such as 0x5 (one core)\n"
         "      --allow HOSTNQN       let this host in; may be repeated\n"
         "      --allow-any-host      let every host in, which is the default only where all listeners are loopback\n"
         "      --poll MODE           adaptive, busy or sleep (adaptive)\n"
         "      --max-io-size SIZE    largest transfer, 4K to 4M (1M)\n"
         "      --queue-depth N       entries of a queue, 2 to 1024 (128)\n"
         "      --max-queues N        I/O queues of a host, 1 to 128 (128)\n"
         "      --in-capsule SIZE     data that a command may carry along, 0 to 64K (8K)\n"
         "      --peer-timeout SECS   drop peers that leave us waiting for longer (30)\n"
         "      --serial TEXT         serial number, up to 20 characters\n"
         "  -v, --verbose             say more; twice for debugging\n"
         "  -q, --quiet               no warnings, only errors");
}

static int parse_listen(const char *text, struct serve_options *o)
{
    struct plx_error err;
    if (o->nlisteners == SERVE_MAX_LISTENERS)
        return cli_fail(EXIT_USAGE, "--listen: there can be at most %d", SERVE_MAX_LISTENERS);
    if (plx_parse_addr(text, SERVE_PORT, &o->listeners[o->nlisteners].addr, &err))
        return cli_fail(EXIT_USAGE, "--listen: %s", err.text);
    o->listeners[o->nlisteners++].text = text;
    return EXIT_OK;
}

static int parse_number(const char *name, const char *text, unsigned min, unsigned max, uint32_t *out)
{
    char *rest;
    errno = 0;
    unsigned long v = strtoul(text, &rest, 10);
    if (text[0] < '0' || text[0] > '9' || *rest || errno || v < min || v > max)
        return cli_fail(EXIT_USAGE, "--%s %s: takes a number from %u to %u", name, text, min, max);
    *out = (uint32_t)v;
    return EXIT_OK;
}

static int parse_bytes(const char *name, const char *text, uint64_t min, uint64_t max, const char *range, uint32_t *out)
{
    uint64_t v;
    if (plx_parse_size(text, &v) || v < min || v > max)
        return cli_fail(EXIT_USAGE, "--%s %s: takes a size from %s", name, text, range);
    *out = (uint32_t)v;
    return EXIT_OK;
}

/* Each NQN begins a subsystem; what stood before the first one is taken care of by settle_subsystems(). */
static int add_nqn(struct serve_options *o, const char *nqn)
{
    if (o->nsubsystems > SERVE_MAX_SUBSYSTEMS - 1)
        return cli_fail(EXIT_USAGE, "--nqn: there can be at most %d subsystems", SERVE_MAX_SUBSYSTEMS - 1);
    o->nqns[o->nsubsystems++] = nqn;
    return EXIT_OK;
}

static unsigned disks_of(const struct serve_options *o, unsigned subsystem)
{
    unsigned n = 0;
    for (unsigned i = 0; i < o->ndisks; i++)
        n += o->disks[i].subsystem == subsystem;
    return n;
}

/*
 * Subsystem 0 is that of the disks before the first NQN. A single NQN names the one subsystem there is, wherever it
 * stands; of several, each has the disks after it.
 */
static int settle_subsystems(struct serve_options *o)
{
    for (unsigned n = 1; n < o->nsubsystems && o->nsubsystems > 2; n++)
        if (!disks_of(o, n))
            return cli_fail(EXIT_USAGE, "--nqn %s: no disk is named after it, and before the next one", o->nqns[n]);
    if (o->nsubsystems == 1 || (o->nsubsystems > 2 && disks_of(o, 0)))
        return EXIT_OK;
    memmove(o->nqns, o->nqns + 1, --o->nsubsystems * sizeof o->nqns[0]);
    for (unsigned i = 0; i < o->ndisks; i++)
        if (o->disks[i].subsystem)
            o->disks[i].subsystem--;
    return EXIT_OK;
}

static int add_disk(struct serve_options *o, const char *url)
{
    if (o->ndisks == SERVE_MAX_DISKS)
        return cli_fail(EXIT_USAGE, "at most %d disks can be served at once", SERVE_MAX_DISKS);
    o->disks[o->ndisks].url = url;
    o->disks[o->ndisks++].subsystem = o->nsubsystems - 1;
    return EXIT_OK;
}

static int parse_one(int opt, const char *arg, struct serve_options *o)
{
    struct plx_error err;
    uint32_t seconds = 0;
    int ret;
    switch (opt) {
    case 1: /* not an option */
        return add_disk(o, arg);
    case 'l':
        return parse_listen(arg, o);
    case 'n':
        return add_nqn(o, arg);
    case 'm':
        o->ncores = plx_parse_cores(arg, o->cores, SERVE_MAX_CORES, &err);
        return o->ncores > 0 ? EXIT_OK : cli_fail(EXIT_USAGE, "--cores %s: %s", arg, err.text);
    case OPT_ALLOW:
        if (o->nhosts == SERVE_MAX_HOSTS)
            return cli_fail(EXIT_USAGE, "--allow: there can be at most %d hosts", SERVE_MAX_HOSTS);
        o->hosts[o->nhosts++] = arg;
        return EXIT_OK;
    case OPT_ALLOW_ANY:
        o->allow_any_host = true;
        return EXIT_OK;
    case OPT_POLL:
        return cli_parse_poll(arg, &o->poll);
    case OPT_MAX_IO:
        ret = parse_bytes("max-io-size", arg, 4096, 4 << 20, "4K to 4M, a power of two", &o->nvmf.max_io_size);
        if (!ret && o->nvmf.max_io_size & (o->nvmf.max_io_size - 1))
            return cli_fail(EXIT_USAGE, "--max-io-size %s: takes a power of two, such as 128K", arg);
        return ret;
    case OPT_DEPTH:
        return parse_number("queue-depth", arg, 2, 1024, &o->nvmf.queue_depth);
    case OPT_QUEUES:
        return parse_number("max-queues", arg, 1, 128, &o->nvmf.max_queues);
    case OPT_CAPSULE:
        ret = parse_bytes("in-capsule", arg, 0, 65536, "0 to 64K, a multiple of 512", &o->nvmf.in_capsule_size);
        if (!ret && o->nvmf.in_capsule_size % 512)
            return cli_fail(EXIT_USAGE, "--in-capsule %s: takes a multiple of 512", arg);
        o->nvmf.no_in_capsule = !o->nvmf.in_capsule_size;
        return ret;
    case OPT_TIMEOUT:
        ret = parse_number("peer-timeout", arg, 1, 3600, &seconds);
        if (!ret)
            o->nvmf.peer_timeout_ms = seconds * 1000;
        return ret;
    case OPT_SERIAL:
        o->serial = arg;
        return EXIT_OK;
    case 'v':
        o->log_level = o->log_level < PLX_LOG_INFO ? PLX_LOG_INFO : PLX_LOG_DEBUG;
        return EXIT_OK;
    case 'q':
        o->quiet = true;
        return EXIT_OK;
    default:
        o->help = true;
        return EXIT_OK;
    }
}

static bool loopback(const struct sockaddr_storage *a)
{
    if (a->ss_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr) >> 24 == 127;
    return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr);
}

/* Whoever reaches a listener may do anything to the disks: beyond loopback that must have been asked for. */
static int check_access(struct serve_options *o)
{
    if (o->nhosts && o->allow_any_host)
        return cli_fail(EXIT_USAGE, "--allow and --allow-any-host contradict each other; give one of them");
    if (o->nhosts || o->allow_any_host)
        return EXIT_OK;
    for (unsigned i = 0; i < o->nlisteners; i++)
        if (!loopback(&o->listeners[i].addr))
            return cli_fail(
                EXIT_USAGE,
                "--listen %s is not a loopback address, so say who may connect: --allow HOSTNQN for each host "
                "(it is in the host's /etc/nvme/hostnqn), or --allow-any-host",
                o->listeners[i].text);
    o->allow_any_host = true;
    return EXIT_OK;
}

static int check(struct serve_options *o)
{
    if (!o->ndisks)
        return cli_fail(EXIT_USAGE, "no disk is named; for example: pollux serve disk.img, or pollux serve ram:1G");
    if (settle_subsystems(o))
        return EXIT_USAGE;
    if (o->serial && o->nsubsystems > 1)
        return cli_fail(EXIT_USAGE, "--serial %s: one serial number cannot be that of %u subsystems; leave it out",
                        o->serial, o->nsubsystems);
    if (!o->nlisteners && parse_listen("127.0.0.1", o))
        return EXIT_USAGE;
    return check_access(o);
}

int serve_parse(int argc, char **argv, struct serve_options *o)
{
    *o = (struct serve_options){.nsubsystems = 1, .log_level = PLX_LOG_WARN};
    opterr = 0;
    optind = 1;
    for (;;) {
        /* '-': disks come in order, between options; ':': missing arguments are told apart */
        int opt = getopt_long(argc, argv, "-:l:n:m:vqh", options, NULL);
        if (opt < 0)
            break;
        const char *given = argv[optind - 1];
        if (opt == ':')
            return cli_fail(EXIT_USAGE, "%s needs a value; \"pollux help serve\" explains it", given);
        if (opt == '?')
            return optopt && optopt < 256
                       ? cli_fail(EXIT_USAGE, "there is no option -%c; \"pollux help serve\" lists them all", optopt)
                       : cli_fail(EXIT_USAGE, "there is no option %s; \"pollux help serve\" lists them all", given);
        int ret = parse_one(opt, optarg, o);
        if (ret)
            return ret;
    }
    for (; optind < argc; optind++) { /* after "--" */
        int ret = add_disk(o, argv[optind]);
        if (ret)
            return ret;
    }
    return o->help ? EXIT_OK : check(o);
}
