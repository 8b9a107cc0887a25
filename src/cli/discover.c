/* SPDX-License-Identifier: BSD-3-Clause */
/* `pollux discover`: the discovery log of a controller, and of those that it refers to, in the terms of nvme-cli. */
#include "cli.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

enum {
    OPT_JSON = 256, /* options that have no letter */
    OPT_WATCH,
    OPT_HOSTNQN,
    SUBTYPE_REFERRAL = 1,
    TRTYPE_TCP = 3,
    ADRFAM_IPV6 = 2,
    CONTROLLERS_MAX = 64, /* referrals followed; they may lead in circles */
    WHERE_MAX = 320,
    RECORD_TEXT_MAX = 257,
    NOTICE_DISCOVERY_CHANGED = 0xf0,
};

struct discover {
    bool json, watch, help;
    char params[1024]; /* "hostnqn=..." */
    char where[CONTROLLERS_MAX][WHERE_MAX];
    unsigned nwhere;
    json_t *logs;
};

/* ---- terms ---- */

static const char *term(const char *const *names, size_t n, unsigned value)
{
    return value < n && names[value] ? names[value] : "unrecognized";
}
#define TERM(names, value) term(names, sizeof(names) / sizeof((names)[0]), value)

static const char *const trtypes[255] = {[1] = "rdma", [2] = "fc", [3] = "tcp", [254] = "loop"};
static const char *const adrfams[255] = {
    [0] = "pci", [1] = "ipv4", [2] = "ipv6", [3] = "infiniband", [4] = "fibre-channel"};
static const char *const subtypes[] = {
    [1] = "discovery subsystem referral", [2] = "nvme subsystem", [3] = "current discovery subsystem"};
static const char *const treqs[] = {"not specified", "required", "not required", "reserved"};
static const char *const sectypes[] = {"none", "tls", "tls13"};

static void treq_text(unsigned treq, char *out, size_t size)
{
    snprintf(out, size, "%s%s", treqs[treq & 3], treq & 4 ? ", sq flow control disable supported" : "");
}

static const char *eflags_text(unsigned eflags)
{
    static const char *const names[] = {"none", "duplicate discovery information", "explicit discovery connections",
                                        "explicit discovery connections, duplicate discovery information"};
    return names[(eflags & 1) | (eflags & 2)];
}

/* ---- logs ---- */

static void print_record(const struct plx_nvme_record *r, unsigned number)
{
    char treq[80], trsvcid[sizeof r->trsvcid], subnqn[sizeof r->subnqn], traddr[sizeof r->traddr];
    treq_text(r->treq, treq, sizeof treq);
    cli_text(r->trsvcid, sizeof r->trsvcid - 1, trsvcid);
    cli_text(r->subnqn, sizeof r->subnqn - 1, subnqn);
    cli_text(r->traddr, sizeof r->traddr - 1, traddr);
    printf("=====Discovery Log Entry %u======\n"
           "trtype:  %s\nadrfam:  %s\nsubtype: %s\ntreq:    %s\nportid:  %u\ntrsvcid: %s\nsubnqn:  %s\ntraddr:  %s\n"
           "eflags:  %s\n",
           number, TERM(trtypes, r->trtype), TERM(adrfams, r->adrfam), TERM(subtypes, r->subtype), treq, r->portid,
           trsvcid, subnqn, traddr, eflags_text(r->eflags));
    if (r->trtype == TRTYPE_TCP)
        printf("sectype: %s\n", TERM(sectypes, r->sectype));
}

/* As it is if it is UTF-8, which an NQN may be; what is not comes from a strange controller. */
static json_t *json_text(const char *s)
{
    char ascii[RECORD_TEXT_MAX];
    json_t *v = json_string(s);
    if (v)
        return v;
    cli_text(s, sizeof ascii - 1, ascii);
    return json_string(ascii);
}

static json_t *json_record(const struct plx_nvme_record *r)
{
    char treq[80];
    json_t *o = json_object();
    treq_text(r->treq, treq, sizeof treq);
    json_object_set_new(o, "trtype", json_string(TERM(trtypes, r->trtype)));
    json_object_set_new(o, "adrfam", json_string(TERM(adrfams, r->adrfam)));
    json_object_set_new(o, "subtype", json_string(TERM(subtypes, r->subtype)));
    json_object_set_new(o, "treq", json_string(treq));
    json_object_set_new(o, "portid", json_integer(r->portid));
    json_object_set_new(o, "cntlid", json_integer(r->cntlid));
    json_object_set_new(o, "asqsz", json_integer(r->asqsz));
    json_object_set_new(o, "trsvcid", json_text(r->trsvcid));
    json_object_set_new(o, "subnqn", json_text(r->subnqn));
    json_object_set_new(o, "traddr", json_text(r->traddr));
    json_object_set_new(o, "eflags", json_string(eflags_text(r->eflags)));
    if (r->trtype == TRTYPE_TCP)
        json_object_set_new(o, "sectype", json_string(TERM(sectypes, r->sectype)));
    return o;
}

/* Whether a controller is among the first n that are, or were, to be asked. */
static bool known(const struct discover *o, const char *where, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (strcmp(o->where[i], where) == 0)
            return true;
    return false;
}

static void add_where(struct discover *o, const char *where)
{
    if (!known(o, where, o->nwhere) && o->nwhere < CONTROLLERS_MAX)
        snprintf(o->where[o->nwhere++], WHERE_MAX, "%s", where);
}

static void follow(struct discover *o, const struct plx_nvme_record *r)
{
    char where[WHERE_MAX];
    if (r->subtype != SUBTYPE_REFERRAL || r->trtype != TRTYPE_TCP)
        return;
    snprintf(where, sizeof where, r->adrfam == ADRFAM_IPV6 ? "[%s]:%s" : "%s:%s", r->traddr, r->trsvcid);
    add_where(o, where);
}

static void discover_show(struct discover *o, const char *address, const struct plx_nvme_discovery *d)
{
    json_t *records = o->json ? json_array() : NULL;
    if (!o->json)
        printf("Discovery Log Number of Records %u, Generation counter %" PRIu64 ", at %s\n", d->count, d->genctr,
               address);
    for (uint32_t i = 0; i < d->count; i++) {
        if (o->json)
            json_array_append_new(records, json_record(&d->records[i]));
        else
            print_record(&d->records[i], i);
        follow(o, &d->records[i]);
    }
    if (!o->json)
        return;
    json_t *log = json_object();
    json_object_set_new(log, "address", json_string(address));
    json_object_set_new(log, "genctr", cli_json_number(d->genctr));
    json_object_set_new(log, "records", records);
    json_array_append_new(o->logs, log);
}

/* Of the controller that is `at` in the list, perhaps under a name or without its port, as it was given to us. */
static int read_and_show(struct discover *o, unsigned at, struct plx_nvme *n, struct plx_error *err)
{
    struct plx_nvme_discovery *d;
    struct plx_nvme_info info;
    plx_nvme_get_info(n, &info);
    if (known(o, info.address, at))
        return 0;
    snprintf(o->where[at], WHERE_MAX, "%s", info.address);
    int ret = plx_nvme_get_discovery(n, &d, err);
    if (ret)
        return ret;
    discover_show(o, info.address, d);
    plx_nvme_discovery_free(d);
    return 0;
}

static void print_json(struct discover *o)
{
    if (!o->json)
        return;
    /*
     * The first log's members stand at the top, as they do in nvme-cli's; all logs, with those that were referred to,
     * are listed beside.
     */
    json_t *root = json_copy(json_array_get(o->logs, 0));
    json_object_set(root, "logs", o->logs);
    json_dumpf(root, stdout, (o->watch ? JSON_COMPACT : JSON_INDENT(2)) | JSON_PRESERVE_ORDER | JSON_ENSURE_ASCII);
    putchar('\n');
    json_decref(root);
    json_array_clear(o->logs);
}

/* Asks a controller of the list; the first one stays connected. */
static int ask_controller(struct discover *o, unsigned at, struct plx_nvme **kept, struct plx_error *err)
{
    struct plx_nvme *n = at ? NULL : *kept;
    int ret = n ? 0 : plx_nvme_connect_discovery(o->where[at], o->params, !at && o->watch, &n, err);
    if (!ret)
        ret = read_and_show(o, at, n, err);
    if (!at)
        *kept = n;
    else if (n)
        plx_nvme_disconnect(n);
    return ret;
}

/*
 * The first controller counts; one that it refers to and that does not answer is told of, no more. They are asked once:
 * when the first one's log has changed, those that are new in it.
 */
static int discover_all(struct discover *o, const char *first, struct plx_nvme **kept, struct plx_error *err)
{
    if (!o->nwhere)
        add_where(o, first);
    unsigned next = o->nwhere;
    int ret = ask_controller(o, 0, kept, err);
    if (ret)
        return ret;
    for (; next < o->nwhere; next++)
        if (ask_controller(o, next, NULL, err))
            cli_fail(EXIT_RUNTIME, "%s", err->text);
    print_json(o);
    return 0;
}

static int watch(struct discover *o, const char *first, struct plx_nvme *n, struct plx_error *err)
{
    for (;;) {
        uint32_t dw0;
        int ret = plx_nvme_wait_event(n, -1, &dw0, err);
        if (ret < 0)
            return ret;
        if ((dw0 >> 8 & 0xff) != NOTICE_DISCOVERY_CHANGED)
            continue;
        ret = discover_all(o, first, &n, err);
        if (ret)
            return ret;
    }
}

static void discover_help(void)
{
    puts("pollux discover [OPTION]... ADDR[:PORT]\n"
         "  Prints the discovery log of a controller, and of those that it refers to, in the terms of\n"
         "  \"nvme discover\". Without a port, 8009 is tried, then 4420.\n\n"
         "options:\n"
         "      --json           as JSON\n"
         "      --watch          stay connected, and print again when the log has changed, until Ctrl-C\n"
         "      --hostnqn NQN    who is asking: some controllers tell each host something else");
}

/* The parameters that say who is asking; its name may hold what separates parameters. */
static int name_host(const char *nqn, char *params, size_t size)
{
    const char *problem = plx_nvme_nqn_problem(nqn);
    if (problem)
        return cli_fail(EXIT_USAGE, "--hostnqn \"%s\" %s", nqn, problem);
    size_t n = (size_t)snprintf(params, size, "hostnqn=");
    for (; *nqn; nqn++)
        n += (size_t)snprintf(params + n, size - n, strchr("%&", *nqn) ? "%%%02x" : "%c", *nqn);
    return EXIT_OK;
}

static int discover_parse(int argc, char **argv, struct discover *o)
{
    static const struct option table[] = {{"json", no_argument, NULL, OPT_JSON},
                                          {"watch", no_argument, NULL, OPT_WATCH},
                                          {"hostnqn", required_argument, NULL, OPT_HOSTNQN},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    struct cli_options options = {"discover", ":h", table, NULL, 0};
    for (int opt; (opt = cli_next_option(&options, argc, argv)) != -1;) {
        if (opt == CLI_WRONG || (opt == OPT_HOSTNQN && name_host(optarg, o->params, sizeof o->params)))
            return EXIT_USAGE;
        o->json |= opt == OPT_JSON;
        o->watch |= opt == OPT_WATCH;
        o->help |= opt == 'h';
    }
    if (o->help)
        return EXIT_OK;
    if (argc - optind != 1)
        return cli_fail(EXIT_USAGE, "discover takes one address, such as 192.0.2.1 or [::1]:8009");
    const char *scheme = strstr(argv[optind], "://");
    if (scheme)
        return cli_fail(EXIT_USAGE, "discover takes an address alone: \"%.*s\", and not \"%s\"",
                        (int)strcspn(scheme + 3, "/,?"), scheme + 3, argv[optind]);
    return EXIT_OK;
}

static int discover(int argc, char **argv)
{
    static struct discover o;
    struct plx_nvme *n = NULL;
    struct plx_error err;
    int ret = discover_parse(argc, argv, &o);
    if (ret || o.help) {
        if (!ret)
            discover_help();
        return ret;
    }
    o.logs = json_array();
    ret = discover_all(&o, argv[optind], &n, &err);
    bool connected = n != NULL;
    if (!ret && o.watch)
        ret = watch(&o, argv[optind], n, &err);
    if (n)
        plx_nvme_disconnect(n);
    json_decref(o.logs);
    return ret ? cli_fail(connected ? EXIT_RUNTIME : cli_disk_status(ret), "%s", err.text) : EXIT_OK;
}

const struct cli_command cli_discover = {
    .name = "discover",
    .summary = "which subsystems there are at an address",
    .run = discover,
    .help = discover_help,
};
