/* SPDX-License-Identifier: BSD-3-Clause */
/* `pollux ctl`: its command line. */
#include "ctl.h"

#include <stdlib.h>
#include <string.h>

enum {
    OPT_JSON = 256, /* options that have no letter */
    OPT_TIMEOUT,
    OPT_NQN,
    OPT_NAME,
    OPT_NSID,
    OPT_LISTEN,
    OPT_NAMES,
    OPT_KEYS,
    OPT_MARKDOWN,
    TIMEOUT = 60,
    TIMEOUT_MAX = 86400,
};

static const struct option table[] = {
    {"socket", required_argument, NULL, 's'},
    {"json", no_argument, NULL, OPT_JSON},
    {"timeout", required_argument, NULL, OPT_TIMEOUT},
    {"nqn", required_argument, NULL, OPT_NQN},
    {"name", required_argument, NULL, OPT_NAME},
    {"nsid", required_argument, NULL, OPT_NSID},
    {"listen", required_argument, NULL, OPT_LISTEN},
    {"names", no_argument, NULL, OPT_NAMES},
    {"keys", no_argument, NULL, OPT_KEYS},
    {"markdown", no_argument, NULL, OPT_MARKDOWN},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

const struct ctl_verb ctl_verbs[] = {
    {"status", "", "what the server is, and what it serves to whom", 0, 0, 0, ctl_status},
    {"ls", "", "disks, and the namespaces that they are", 0, 0, 0, ctl_list},
    {"create", "NQN [--listen ADDR]", "make a subsystem, to which add adds disks", 1, 1, CTL_LISTEN, ctl_create},
    {"listen", "ADDR[:PORT] [--nqn NQN]", "let hosts reach the subsystem there, too", 1, 1, CTL_NQN, ctl_listen},
    {"add", "DISK [--nqn NQN] [--name NAME] [--nsid N]", "open a disk, and serve it as a namespace", 1, 1,
     CTL_NQN | CTL_NAME | CTL_NSID, ctl_add},
    {"rm", "NAME", "take a disk away from its hosts, and close it", 1, 1, 0, ctl_remove},
    {"resize", "NAME [SIZE]", "make a disk larger; without SIZE: look how large it is now", 1, 2, 0, ctl_resize},
    {"allow", "HOSTNQN|any [--nqn NQN]", "let a host in, or every one", 1, 1, CTL_NQN, ctl_allow},
    {"deny", "HOSTNQN|any [--nqn NQN]", "let it in no more, and disconnect it", 1, 1, CTL_NQN, ctl_deny},
    {"connections", "", "which hosts are connected", 0, 0, 0, ctl_connections},
    {"stats", "[SECONDS]", "what disks have done; with SECONDS: what they do", 0, 1, 0, ctl_stats},
    {"inflight", "", "commands in flight, oldest first, and where each is", 0, 0, 0, ctl_inflight},
    {"vms", "", "virtual machines (vhost-user): who is connected, since when, and what waits", 0, 0, 0, ctl_vms},
    {"smart", "DISK|CONTROLLER", "health of an SSD, as its controller tells it: like nvme smart-log", 1, 1, 0,
     ctl_smart},
    {"identify", "DISK|CONTROLLER", "what the controller of a disk says of itself, and of the disk", 1, 1, 0,
     ctl_identify},
    {"save", "", "print the configuration, as \"pollux serve -c\" takes it", 0, 0, 0, ctl_save},
    {"load", "FILE", "make the calls of a configuration; - is standard input", 1, 1, 0, ctl_load},
    {"import", "nvmet FILE", "make a configuration of one that nvmetcli has saved", 2, 2, 0, ctl_import},
    {"help", "[METHOD|VERB]", "explain one, or list them all", 0, 1, 0, NULL},
    {.name = NULL},
};

const struct ctl_verb *ctl_find_verb(const char *name)
{
    for (const struct ctl_verb *v = ctl_verbs; v->name; v++)
        if (strcmp(v->name, name) == 0)
            return v;
    return NULL;
}

struct ctl_line {
    struct ctl c;
    struct ctl_help_wanted wanted;
    unsigned options; /* enum ctl_option, that were given */
    bool help;
};

static int parse_option(int opt, const char *arg, struct ctl_line *l)
{
    switch (opt) {
    case 's':
        l->c.socket = arg;
        return EXIT_OK;
    case OPT_JSON:
        l->c.json = true;
        return EXIT_OK;
    case OPT_TIMEOUT:
        return cli_parse_u32("timeout", arg, "seconds", 0, TIMEOUT_MAX, &l->c.timeout);
    case OPT_NQN:
        l->c.nqn = arg;
        l->options |= CTL_NQN;
        return EXIT_OK;
    case OPT_NAME:
        l->c.name = arg;
        l->options |= CTL_NAME;
        return EXIT_OK;
    case OPT_NSID:
        l->options |= CTL_NSID;
        return cli_parse_u32("nsid", arg, "a number", 1, UINT32_MAX - 1, &l->c.nsid);
    case OPT_LISTEN:
        l->c.listen = arg;
        l->options |= CTL_LISTEN;
        return EXIT_OK;
    case OPT_NAMES:
        l->wanted.names = true;
        return EXIT_OK;
    case OPT_KEYS:
        l->wanted.keys = true;
        return EXIT_OK;
    case OPT_MARKDOWN:
        l->wanted.markdown = true;
        return EXIT_OK;
    default:
        l->help = true;
        return EXIT_OK;
    }
}

/* An option that the verb, or a method, makes nothing of. */
static int check_options(const struct ctl_line *l, const char *word, unsigned takes)
{
    static const struct {
        unsigned option;
        const char *name, *use;
    } options[] = {
        {CTL_NQN, "nqn", "add, listen, allow and deny"},
        {CTL_NAME, "name", "add"},
        {CTL_NSID, "nsid", "add"},
        {CTL_LISTEN, "listen", "create"},
    };
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++)
        if (l->options & ~takes & options[i].option)
            return cli_fail(EXIT_USAGE, "--%s belongs to %s, and not to %s; methods take KEY=VALUE", options[i].name,
                            options[i].use, word);
    if ((l->wanted.names || l->wanted.keys || l->wanted.markdown) && strcmp(word, "help") != 0)
        return cli_fail(EXIT_USAGE, "--names, --keys and --markdown belong to help, and not to %s", word);
    return EXIT_OK;
}

/* Texts of JSON are UTF-8. */
static int check_utf8(const char *text)
{
    json_t *v = text ? json_string(text) : NULL;
    if (text && !v)
        return cli_fail(EXIT_USAGE, "\"%s\" is not UTF-8, and so cannot be told to a server", text);
    json_decref(v);
    return EXIT_OK;
}

/* What is told to a server; names of files that are opened here are not, and those of disks are told otherwise. */
static int check_words(const struct ctl_line *l, const struct ctl_verb *v, char *const *words, int n)
{
    bool files = v->run == ctl_load || v->run == ctl_import || v->run == ctl_add;
    for (int i = 0; i < n && !files; i++)
        if (check_utf8(words[i]))
            return EXIT_USAGE;
    return check_utf8(l->c.nqn) || check_utf8(l->c.name) ? EXIT_USAGE : EXIT_OK;
}

static int run_verb(struct ctl_line *l, const struct ctl_verb *v, char *const *words, int n)
{
    if (check_options(l, v->name, v->options) || check_words(l, v, words, n))
        return EXIT_USAGE;
    if (n < v->min)
        return cli_fail(EXIT_USAGE, "%s takes %s: something is missing", v->name, v->args);
    if (n > v->max)
        return cli_fail(EXIT_USAGE, "%s takes %s: \"%s\" is a word too many", v->name,
                        v->args[0] ? v->args : "no more words", words[v->max]);
    return v->run ? v->run(&l->c, words, n) : ctl_help(&l->c, &l->wanted, words, n);
}

static int run_method(struct ctl_line *l, const char *name, char *const *words, int n)
{
    const json_t *m = ctl_find_method(&l->c, name);
    json_t *result;
    if (!m)
        return ctl_no_method(&l->c, name);
    if (check_options(l, name, 0))
        return EXIT_USAGE;
    json_t *params = ctl_params(m, words, n);
    if (!params)
        return EXIT_USAGE;
    int ret = ctl_call(&l->c, name, params, &result);
    if (ret)
        return ret;
    ctl_print_result(&l->c, result);
    json_decref(result);
    return EXIT_OK;
}

static int ctl_parse(int argc, char **argv, struct ctl_line *l)
{
    struct cli_options options = {"ctl", ":s:h", table, NULL, 0};
    for (int opt; (opt = cli_next_option(&options, argc, argv)) != -1;)
        if (opt == CLI_WRONG || parse_option(opt, optarg, l))
            return EXIT_USAGE;
    return EXIT_OK;
}

static int ctl_main(int argc, char **argv)
{
    const char *socket = getenv("POLLUX_SOCKET");
    struct ctl_line l = {.c = {.socket = socket && socket[0] ? socket : CTL_SOCKET, .timeout = TIMEOUT, .fd = -1}};
    int ret = ctl_parse(argc, argv, &l);
    if (ret)
        return ret;
    if (l.help) {
        ctl_usage();
        return EXIT_OK;
    }
    char *const *words = argv + optind;
    int n = argc - optind;
    if (!n)
        return cli_fail(EXIT_USAGE, "ctl takes a verb or a method, such as status; \"pollux ctl help\" lists them");
    char *text = plx_rpc_describe();
    l.c.methods = text ? json_loads(text, 0, NULL) : NULL;
    free(text);
    if (!l.c.methods)
        return cli_fail(EXIT_RUNTIME, "out of memory");
    const struct ctl_verb *v = ctl_find_verb(words[0]);
    ret = v ? run_verb(&l, v, words + 1, n - 1) : run_method(&l, words[0], words + 1, n - 1);
    ctl_close(&l.c);
    json_decref(l.c.methods);
    return ret;
}

const struct cli_command cli_ctl = {
    .name = "ctl",
    .summary = "control a server that runs",
    .run = ctl_main,
    .help = ctl_usage,
};
