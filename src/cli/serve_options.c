/* SPDX-License-Identifier: BSD-3-Clause */
/* The command line of `pollux serve`. */
#include "cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    OPT_ALLOW = 256,
    OPT_ALLOW_ANY,
    OPT_POLL,
    OPT_NIC_POLL,
    OPT_MAX_IO,
    OPT_DEPTH,
    OPT_QUEUES,
    OPT_CAPSULE,
    OPT_TIMEOUT,
    OPT_SERIAL,
    OPT_STATE,
    OPT_WAIT,
    OPT_SLEEP,
    OPT_GROUP,
    OPT_EXAMPLE,
    OPT_NOTHING, /* for others' start scripts */
};

static const struct option table[] = {
    {"listen", required_argument, NULL, 'l'},
    {"nqn", required_argument, NULL, 'n'},
    {"cores", required_argument, NULL, 'm'},
    {"allow", required_argument, NULL, OPT_ALLOW},
    {"allow-any-host", no_argument, NULL, OPT_ALLOW_ANY},
    {"poll", required_argument, NULL, OPT_POLL},
    {"nic-poll", required_argument, NULL, OPT_NIC_POLL},
    {"max-io-size", required_argument, NULL, OPT_MAX_IO},
    {"queue-depth", required_argument, NULL, OPT_DEPTH},
    {"max-queues", required_argument, NULL, OPT_QUEUES},
    {"in-capsule", required_argument, NULL, OPT_CAPSULE},
    {"peer-timeout", required_argument, NULL, OPT_TIMEOUT},
    {"serial", required_argument, NULL, OPT_SERIAL},
    {"rpc", required_argument, NULL, 'r'},
    {"config", required_argument, NULL, 'c'},
    {"state", required_argument, NULL, OPT_STATE},
    {"vhost", required_argument, NULL, 'S'},
    {"socket-group", required_argument, NULL, OPT_GROUP},
    {"example", required_argument, NULL, OPT_EXAMPLE},
    {"wait-for-rpc", no_argument, NULL, OPT_WAIT},
    {"interrupt-mode", no_argument, NULL, OPT_SLEEP},
    {"mem-size", required_argument, NULL, 's'},
    {"shm-id", required_argument, NULL, 'i'},
    {"tpoint-group", required_argument, NULL, 'e'},
    {"logflag", required_argument, NULL, 'L'},
    {"no-pci", no_argument, NULL, 'u'},
    {"no-huge", no_argument, NULL, OPT_NOTHING},
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
    puts(
        "\noptions:\n"
        "  -l, --listen ADDR[:PORT]  where to listen (127.0.0.1:4420; [::1]:4420 for IPv6); port 0 is any free one\n"
        "  -n, --nqn NQN             name of the subsystem; repeated, each begins one of the disks after it\n"
        "  -m, --cores CORES         cores to run on: a list such as 0-3,6, a hex mask such as 0x5, auto:4 for four\n"
        "                            that are near the NICs and SSDs, or auto for one of each core (one core)\n"
        "      --allow HOSTNQN       let this host in; may be repeated\n"
        "      --allow-any-host      let every host in, which is the default only where all listeners are loopback\n"
        "      --poll MODE           adaptive, busy or sleep (adaptive)\n"
        "      --nic-poll US         adaptive: poll NICs' queues for so long before sleep, 0 to 1000 us (50)\n"
        "      --max-io-size SIZE    largest transfer, 4K to 4M (1M)\n"
        "      --queue-depth N       entries of a queue, 2 to 1024 (128)\n"
        "      --max-queues N        I/O queues of a host, 1 to 128 (128)\n"
        "      --in-capsule SIZE     data that a command may carry along, 0 to 64K (8K)\n"
        "      --peer-timeout SECS   drop peers that leave us waiting for longer (30)\n"
        "      --serial TEXT         serial number, up to 20 characters\n"
        "  -r, --rpc SOCKET          be controlled by JSON-RPC there, as `pollux ctl` does; no disk needs to be named\n"
        "  -c, --config FILE         begin with this configuration, as `pollux ctl save` prints one\n"
        "      --state FILE          keep the configuration there at every change, and begin with it if it is there\n"
        "  -S, --vhost DIR           serve disks over vhost-user too, each by a socket in this directory\n"
        "      --socket-group GROUP  have members of this group, by name or number, use these sockets as well\n"
        "      --example vm          print what to type for a virtual machine with these disks here, and end\n"
        "      --wait-for-rpc        begin before the initialisation, until framework_start_init is called\n"
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

static int check_nqn(const char *option, const char *nqn)
{
    const char *problem = plx_nvme_nqn_problem(nqn);
    return problem ? cli_fail(EXIT_USAGE, "%s \"%s\" %s", option, nqn, problem) : EXIT_OK;
}

/* Each NQN begins a subsystem; what stood before the first one is taken care of by settle_subsystems(). */
static int add_nqn(struct serve_options *o, const char *nqn)
{
    if (o->nsubsystems > SERVE_MAX_SUBSYSTEMS - 1)
        return cli_fail(EXIT_USAGE, "--nqn: there can be at most %d subsystems", SERVE_MAX_SUBSYSTEMS - 1);
    o->nqns[o->nsubsystems++] = nqn;
    return check_nqn("--nqn", nqn);
}

static int add_host(struct serve_options *o, const char *nqn)
{
    if (o->nhosts == SERVE_MAX_HOSTS)
        return cli_fail(EXIT_USAGE, "--allow: there can be at most %d hosts", SERVE_MAX_HOSTS);
    o->hosts[o->nhosts++] = nqn;
    return check_nqn("--allow", nqn);
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
            return cli_fail(EXIT_USAGE, "--nqn %s: no disk is named after it%s", o->nqns[n],
                            n + 1 < o->nsubsystems ? ", and before the next one" : "");
    if (o->nsubsystems == 1 || (o->nsubsystems > 2 && disks_of(o, 0)))
        return EXIT_OK;
    memmove(o->nqns, o->nqns + 1, --o->nsubsystems * sizeof o->nqns[0]);
    for (unsigned i = 0; i < o->ndisks; i++)
        if (o->disks[i].subsystem)
            o->disks[i].subsystem--;
    return EXIT_OK;
}

static int serve_add_disk(struct serve_options *o, const char *url)
{
    if (o->ndisks == SERVE_MAX_DISKS)
        return cli_fail(EXIT_USAGE, "at most %d disks can be served at once", SERVE_MAX_DISKS);
    o->disks[o->ndisks].url = url;
    o->disks[o->ndisks++].subsystem = o->nsubsystems - 1;
    return EXIT_OK;
}

/* Options of being controlled, and those of others' start scripts that mean nothing here. */
static int parse_control(int opt, const char *arg, struct serve_options *o)
{
    switch (opt) {
    case 'r':
        o->rpc = arg;
        break;
    case 'c':
        o->config = arg;
        break;
    case OPT_STATE:
        o->state = arg;
        break;
    case OPT_WAIT:
        o->wait = true;
        break;
    case 'S':
        o->vhost = arg;
        break;
    case OPT_GROUP:
        return serve_parse_group(arg, o);
    case OPT_EXAMPLE:
        o->example = strcmp(arg, "vm") == 0;
        return o->example ? EXIT_OK : cli_fail(EXIT_USAGE, "--example %s: there is one of vm", arg);
    case OPT_SLEEP:
        o->poll = PLX_POLL_SLEEP;
        break;
    default:
        break;
    }
    return EXIT_OK;
}

static int serve_parse_one(int opt, const char *arg, struct serve_options *o)
{
    uint32_t seconds = 0;
    int ret;
    switch (opt) {
    case 1: /* not an option */
        return serve_add_disk(o, arg);
    case 'l':
        return parse_listen(arg, o);
    case 'n':
        return add_nqn(o, arg);
    case 'm':
        return cli_parse_cores(arg, SERVE_MAX_CORES, o->cores, &o->ncores, &o->placed);
    case OPT_ALLOW:
        return add_host(o, arg);
    case OPT_ALLOW_ANY:
        o->allow_any_host = true;
        return EXIT_OK;
    case OPT_POLL:
        return cli_parse_poll(arg, &o->poll);
    case OPT_NIC_POLL:
        ret = cli_parse_u32("nic-poll", arg, "microseconds", 0, 1000, &o->nic_us);
        o->nic_us = o->nic_us ? o->nic_us : PLX_NIC_NOT_POLLED;
        return ret;
    case OPT_MAX_IO:
        return cli_parse_size("max-io-size", arg, "4K to 4M", 4096, 4 << 20, true, &o->nvmf.max_io_size);
    case OPT_DEPTH:
        return cli_parse_u32("queue-depth", arg, "a number", 2, 1024, &o->nvmf.queue_depth);
    case OPT_QUEUES:
        return cli_parse_u32("max-queues", arg, "a number", 1, 128, &o->nvmf.max_queues);
    case OPT_CAPSULE:
        ret = cli_parse_size("in-capsule", arg, "0 to 64K", 0, 65536, false, &o->nvmf.in_capsule_size);
        o->nvmf.no_in_capsule = !o->nvmf.in_capsule_size;
        return ret;
    case OPT_TIMEOUT:
        ret = cli_parse_u32("peer-timeout", arg, "seconds", 1, 3600, &seconds);
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
    case 'h':
        o->help = true;
        return EXIT_OK;
    default:
        return parse_control(opt, arg, o);
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

static int check_control(const struct serve_options *o)
{
    if (o->wait && !o->rpc)
        return cli_fail(EXIT_USAGE, "--wait-for-rpc waits for a call, so say where it comes: --rpc SOCKET");
    if (o->wait && (o->config || o->ndisks))
        return cli_fail(EXIT_USAGE, "--wait-for-rpc and %s contradict each other; give one of them",
                        o->config ? "--config" : "a disk");
    return serve_check_vhost(o);
}

static int serve_check(struct serve_options *o)
{
    if (check_control(o))
        return EXIT_USAGE;
    if (serve_controlled(o) && !o->ndisks)
        return EXIT_OK;
    if (!o->ndisks)
        return cli_fail(EXIT_USAGE, "no disk is named; for example: pollux serve disk.img, or pollux serve ram:1G");
    if (settle_subsystems(o))
        return EXIT_USAGE;
    if (o->quiet && o->log_level > PLX_LOG_WARN)
        return cli_fail(EXIT_USAGE, "--quiet and --verbose contradict each other; give one of them");
    if (o->serial && o->nsubsystems > 1)
        return cli_fail(EXIT_USAGE, "--serial %s: one serial number cannot be that of %u subsystems; leave it out",
                        o->serial, o->nsubsystems);
    if (!o->nlisteners && !o->vhost && parse_listen("127.0.0.1", o))
        return EXIT_USAGE;
    return check_access(o);
}

int serve_parse(int argc, char **argv, struct serve_options *o)
{
    *o = (struct serve_options){.nsubsystems = 1, .log_level = PLX_LOG_WARN};
    /* '-': disks come in order, between options; ':': missing arguments are told apart */
    static const int several[] = {'l', 'n', 'L', OPT_ALLOW, 0};
    struct cli_options options = {"serve", "-:l:n:m:r:c:s:i:e:L:S:uvqh", table, several, 0};
    for (int opt; (opt = cli_next_option(&options, argc, argv)) != -1;)
        if (opt == CLI_WRONG || serve_parse_one(opt, optarg, o))
            return EXIT_USAGE;
    for (; optind < argc; optind++) { /* after "--" */
        if (serve_add_disk(o, argv[optind]))
            return EXIT_USAGE;
    }
    return o->help || o->example ? EXIT_OK : serve_check(o);
}
