/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * `pollux ctl import nvmet FILE`: what nvmetcli has saved of the kernel's target, as calls that make the same here. The
 * file is the tree of configfs: "hosts", "subsystems" with "namespaces" and "allowed_hosts", "ports" with "referrals"
 * and "ana_groups"; attributes stand in objects by their group, as texts ("attr": {"allow_any_host": "1"}).
 */
#include "ctl.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

enum {
    NSID_MAX = 1024,
    CAPSULE_MAX = 65536,
    DEPTH_MIN = 2,
    DEPTH_MAX = 1024,
    GROUP_DEFAULT = 1, /* of ANA; the kernel has it optimized at every port, and others inaccessible */
    BLOCK_MIN = 512,
    BLOCK_MAX = 4096,
    WHERE = 400,
};

struct import {
    const char *file;
    json_t *bdev, *nvmf; /* calls */
    json_t *disks;       /* by path: the name of the disk */
    json_t *subsystems;  /* by NQN: those that are made, as they are in the file */
    json_t *referrals;   /* that are made, by address */
    json_t *secret;      /* by NQN: hosts that have to prove who they are */
};

static void import_warn(const struct import *im, const char *where, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static void import_warn(const struct import *im, const char *where, const char *fmt, ...)
{
    char text[600];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    cli_fail(EXIT_OK, "warning: %s: %s: %s", im->file, where, text);
}

static void import_call(json_t *list, const char *method, json_t *params)
{
    json_array_append_new(list, json_pack("{s:s, s:o}", "method", method, "params", params));
}

/* ---- attributes ---- */

/* A text, or a number as one; "" when it is not there. */
static const char *attr(const json_t *group, const char *name, char out[32])
{
    const json_t *v = json_object_get(group, name);
    if (!json_is_integer(v))
        return ctl_str(group, name);
    snprintf(out, 32, "%lld", (long long)json_integer_value(v));
    return out;
}

static json_int_t attr_int(const json_t *group, const char *name)
{
    char text[32];
    return strtoll(attr(group, name, text), NULL, 10);
}

static bool in_list(const char *list, const char *name)
{
    size_t n = strlen(name);
    for (const char *at = list; (at = strstr(at, name)); at += n)
        if ((at == list || at[-1] == ' ') && (!at[n] || at[n] == ' '))
            return true;
    return false;
}

/* What is off, was not set, or is as it is here anyway. */
static bool is_usual(const json_t *group, const char *name)
{
    char number[32];
    const json_t *v = json_object_get(group, name);
    const char *text = attr(group, name, number);
    if (!json_is_string(v) && !json_is_integer(v))
        return !json_object_size(v) && !json_array_size(v);
    return !text[0] || !strcmp(text, "0") || !strcmp(text, "-1") || !strcmp(text, "0x000000") ||
           (!strcmp(name, "qid_max") && !strcmp(text, "128"));
}

/* What is known has been taken care of. */
static void warn_of_rest(const struct import *im, const char *where, const json_t *group, const char *known)
{
    const char *name;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)group, name, v)
    {
        char number[32];
        const char *text = attr(group, name, number);
        if (!is_usual(group, name) && !in_list(known, name))
            import_warn(im, where, "%s%s%s has no equivalent, and is left out", name, text[0] ? " " : "", text);
    }
}

/* An identifier that was set: not all of its digits are 0. */
static bool is_set(const char *id)
{
    return id[strspn(id, "0-")] != 0;
}

/* ---- disks ---- */

/*
 * The block size that the kernel serves a file with is that of its file system, up to 4096, and not 512: hosts have
 * partitioned and formatted for that. A block device's is its own.
 */
static json_int_t served_block(const struct import *im, const char *where, const char *path)
{
    struct stat st;
    if (stat(path, &st)) {
        if (strncmp(path, "/dev/", 5) == 0)
            return 0;
        import_warn(im, where, "%s is not to be seen here: its block size is taken to be %d, as file systems have it",
                    path, BLOCK_MAX);
        return BLOCK_MAX;
    }
    if (!S_ISREG(st.st_mode))
        return 0;
    if (st.st_blksize >= BLOCK_MAX || st.st_blksize == BLOCK_MIN)
        return st.st_blksize < BLOCK_MAX ? BLOCK_MIN : BLOCK_MAX;
    import_warn(im, where, "%s was served with blocks of %ld bytes; files have 512 or 4096 here, and 512 are taken",
                path, (long)st.st_blksize);
    return BLOCK_MIN;
}

static bool disk_name_taken(const struct import *im, const char *name)
{
    const char *path;
    json_t *v;
    json_object_foreach(im->disks, path, v)
    {
        if (strcmp(json_string_value(v), name) == 0)
            return true;
    }
    return false;
}

/* Opens it, once: several namespaces may be one file. @return its name */
static const char *import_disk(struct import *im, const char *where, const char *path)
{
    const json_t *known = json_object_get(im->disks, path);
    char name[160];
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    if (known)
        return json_string_value(known);
    for (unsigned i = 0; !i || disk_name_taken(im, name); i++)
        snprintf(name, sizeof name, i ? "%.120s_%u" : "%.120s", base, i);
    import_call(
        im->bdev, "bdev_aio_create",
        json_pack("{s:s, s:s, s:I}", "name", name, "filename", path, "block_size", served_block(im, where, path)));
    json_object_set_new(im->disks, path, json_string(name));
    return json_string_value(json_object_get(im->disks, path));
}

/* ---- subsystems ---- */

/* Older versions have it in "ana_grpid", newer ones among the attributes besides. */
static json_int_t group_of_ns(const json_t *ns)
{
    json_int_t group = attr_int(ns, "ana_grpid");
    group = group ? group : attr_int(json_object_get(ns, "ana"), "grpid");
    return group ? group : GROUP_DEFAULT;
}

static void import_namespace(struct import *im, const char *nqn, const json_t *ns)
{
    char where[WHERE], nguid[40], number[32];
    const json_t *device = json_object_get(ns, "device");
    json_int_t nsid = attr_int(ns, "nsid");
    const char *path = ctl_str(device, "path"), *id = attr(device, "nguid", number);
    snprintf(where, sizeof where, "subsystem %s, namespace %lld", nqn, (long long)nsid);
    if (nsid < 1 || nsid > NSID_MAX) {
        import_warn(im, where, "there are namespaces from 1 to %d here: it is left out", NSID_MAX);
        return;
    }
    if (!attr_int(ns, "enable")) {
        import_warn(im, where, "it is not enabled: it is left out");
        return;
    }
    if (path[0] != '/') {
        import_warn(im, where, "its path \"%s\" is none that can be taken: it is left out", path);
        return;
    }
    warn_of_rest(im, where, ns, "nsid enable device ana ana_grpid resv");
    warn_of_rest(im, where, device, "path nguid uuid");
    json_t *p = json_pack("{s:I, s:s}", "nsid", nsid, "bdev_name", import_disk(im, where, path));
    size_t n = 0;
    for (; *id && n + 1 < sizeof nguid; id++)
        if (*id != '-')
            nguid[n++] = *id;
    nguid[n] = 0;
    if (is_set(nguid))
        json_object_set_new(p, "nguid", json_string(nguid));
    if (is_set(ctl_str(device, "uuid")))
        json_object_set(p, "uuid", json_object_get(device, "uuid"));
    json_object_set_new(p, "anagrpid", json_integer(group_of_ns(ns)));
    import_call(im->nvmf, "nvmf_subsystem_add_ns", json_pack("{s:s, s:o}", "nqn", nqn, "namespace", p));
}

static void import_hosts(struct import *im, const char *where, const char *nqn, const json_t *hosts)
{
    size_t i;
    const json_t *v;
    json_array_foreach(hosts, i, v)
    {
        const char *host = json_string_value(v), *problem = plx_nvme_nqn_problem(host ? host : "");
        if (host && json_object_get(im->secret, host))
            import_warn(im, where,
                        "allowed host %s has a key, and in-band authentication is not built in: it is left out, as it "
                        "would be let in without having proved who it is",
                        host);
        else if (problem)
            import_warn(im, where, "allowed host \"%s\" %s: it is left out", host ? host : "", problem);
        else
            import_call(im->nvmf, "nvmf_subsystem_add_host", json_pack("{s:s, s:s}", "nqn", nqn, "host", host));
    }
}

static void import_subsystem(struct import *im, const json_t *s)
{
    static const char *const numbers[][2] = {{"cntlid_min", "min_cntlid"}, {"cntlid_max", "max_cntlid"}};
    static const char *const texts[][2] = {{"serial", "serial_number"}, {"model", "model_number"}};
    const char *nqn = ctl_str(s, "nqn"), *problem = plx_nvme_nqn_problem(nqn);
    const json_t *a = json_object_get(s, "attr"), *ns;
    char where[WHERE], number[32];
    size_t i;
    snprintf(where, sizeof where, "subsystem %s", nqn);
    if (problem) {
        import_warn(im, where, "its name %s: it is left out, until it has another one in the file, and on hosts",
                    problem);
        return;
    }
    json_t *p = json_pack("{s:s, s:b}", "nqn", nqn, "allow_any_host", (int)attr_int(a, "allow_any_host"));
    for (i = 0; i < 2; i++)
        if (attr(a, texts[i][0], number)[0])
            json_object_set_new(p, texts[i][1], json_string(attr(a, texts[i][0], number)));
    for (i = 0; i < 2; i++)
        if (attr_int(a, numbers[i][0]))
            json_object_set_new(p, numbers[i][1], json_integer(attr_int(a, numbers[i][0])));
    warn_of_rest(im, where, s, "nqn attr namespaces allowed_hosts passthru");
    if (attr_int(json_array_get(json_object_get(s, "passthru"), 0), "enable"))
        import_warn(im, where, "passthru of a controller has no equivalent, and is left out");
    warn_of_rest(im, where, a, "allow_any_host serial model cntlid_min cntlid_max");
    json_object_set(im->subsystems, nqn, (json_t *)(uintptr_t)s);
    import_call(im->nvmf, "nvmf_create_subsystem", p);
    import_hosts(im, where, nqn, json_object_get(s, "allowed_hosts"));
    json_array_foreach(json_object_get(s, "namespaces"), i, ns)
    {
        import_namespace(im, nqn, ns);
    }
}

/* ---- ports ---- */

/* The state of an ANA group at a port, in our words. */
static const char *group_state(const struct import *im, const char *where, const json_t *port, json_int_t group)
{
    size_t i;
    const json_t *g;
    json_array_foreach(json_object_get(port, "ana_groups"), i, g)
    {
        const char *state = ctl_str(json_object_get(g, "ana"), "state");
        if (attr_int(g, "grpid") != group)
            continue;
        if (strcmp(state, "optimized") == 0 || strcmp(state, "inaccessible") == 0)
            return state;
        if (strcmp(state, "non-optimized") == 0)
            return "non_optimized";
        import_warn(im, where, "ANA group %lld is %s, which cannot be set here: it becomes inaccessible",
                    (long long)group, state);
        return "inaccessible";
    }
    return group == GROUP_DEFAULT ? "optimized" : "inaccessible";
}

static json_t *import_address(const json_t *addr)
{
    json_t *a = json_pack("{s:s, s:s, s:s}", "trtype", "TCP", "traddr", ctl_str(addr, "traddr"), "adrfam",
                          strcasecmp(ctl_str(addr, "adrfam"), "ipv6") == 0 ? "IPv6" : "IPv4");
    char number[32];
    const char *port = attr(addr, "trsvcid", number);
    json_object_set_new(a, "trsvcid", json_string(port[0] ? port : "4420"));
    return a;
}

/* Listens for a subsystem, and sets the states of the groups of its namespaces, where they are not as usual. */
static void import_listener(struct import *im, const char *where, const json_t *port, const char *nqn)
{
    const json_t *s = json_object_get(im->subsystems, nqn), *ns;
    json_t *done = json_object();
    size_t i;
    if (!s) {
        import_warn(im, where, "subsystem %s is not there, or was left out", nqn);
        json_decref(done);
        return;
    }
    json_t *address = import_address(json_object_get(port, "addr"));
    import_call(im->nvmf, "nvmf_subsystem_add_listener",
                json_pack("{s:s, s:O}", "nqn", nqn, "listen_address", address));
    json_array_foreach(json_object_get(s, "namespaces"), i, ns)
    {
        json_int_t group = group_of_ns(ns);
        char key[32];
        snprintf(key, sizeof key, "%lld", (long long)group);
        if (json_object_get(done, key))
            continue;
        json_object_set_new(done, key, json_true());
        const char *state = group_state(im, where, port, group);
        if (strcmp(state, "optimized") != 0)
            import_call(im->nvmf, "nvmf_subsystem_listener_set_ana_state",
                        json_pack("{s:s, s:O, s:s, s:I}", "nqn", nqn, "listen_address", address, "ana_state", state,
                                  "anagrpid", group));
    }
    json_decref(address);
    json_decref(done);
}

/* Referrals are of the target here, and not of a port. */
static void import_referral(struct import *im, const char *where, const json_t *r)
{
    const json_t *addr = json_object_get(r, "addr");
    char name[WHERE];
    snprintf(name, sizeof name, "%.200s, referral %.100s", where, ctl_str(r, "name"));
    if (strcmp(ctl_str(addr, "trtype"), "tcp") != 0 || !attr_int(r, "enable")) {
        import_warn(im, name, "it is %s: it is left out",
                    strcmp(ctl_str(addr, "trtype"), "tcp") ? "not one of TCP" : "not enabled");
        return;
    }
    json_t *address = import_address(addr);
    char *key = json_dumps(address, JSON_COMPACT);
    if (key && !json_object_get(im->referrals, key)) {
        json_object_set_new(im->referrals, key, json_true());
        import_call(im->nvmf, "nvmf_discovery_add_referral", json_pack("{s:O}", "address", address));
    }
    free(key);
    json_decref(address);
}

static bool port_is_tcp(const json_t *port)
{
    return strcmp(ctl_str(json_object_get(port, "addr"), "trtype"), "tcp") == 0;
}

static void import_port(struct import *im, const json_t *port)
{
    const json_t *addr = json_object_get(port, "addr"), *v;
    char where[WHERE], number[32];
    size_t i;
    snprintf(where, sizeof where, "port %s", attr(port, "portid", number));
    if (!port_is_tcp(port)) {
        import_warn(im, where, "its transport is \"%s\", and there is tcp alone: it is left out",
                    ctl_str(addr, "trtype"));
        return;
    }
    if (strcmp(ctl_str(addr, "traddr"), "::") == 0)
        import_warn(im, where, "[::] is all of IPv6 alone here: listen at 0.0.0.0 besides, for IPv4");
    if (strcmp(ctl_str(addr, "treq"), "required") == 0) {
        import_warn(im, where,
                    "it wants TLS, which is not built in: it is left out, as what it serves would be readable");
        return;
    }
    if (strncmp(ctl_str(addr, "tsas"), "tls", 3) == 0)
        import_warn(im, where, "it offers TLS, which is not built in: hosts have to come without");
    warn_of_rest(im, where, port, "addr param portid subsystems ana_groups referrals enable");
    warn_of_rest(im, where, addr, "adrfam traddr treq trsvcid trtype tsas");
    warn_of_rest(im, where, json_object_get(port, "param"), "inline_data_size max_queue_size");
    json_array_foreach(json_object_get(port, "subsystems"), i, v)
    {
        import_listener(im, where, port, json_string_value(v) ? json_string_value(v) : "");
    }
    json_array_foreach(json_object_get(port, "referrals"), i, v)
    {
        import_referral(im, where, v);
    }
}

/* ---- the transport, which is of all ports ---- */

static json_int_t largest_param(const struct import *im, const json_t *ports, const char *name)
{
    json_int_t most = 0;
    bool differ = false;
    size_t i;
    const json_t *port;
    json_array_foreach(ports, i, port)
    {
        json_int_t v = attr_int(json_object_get(port, "param"), name);
        if (!port_is_tcp(port) || v <= 0)
            continue;
        differ |= most && v != most;
        most = v > most ? v : most;
    }
    if (differ)
        import_warn(im, "ports", "they have several %s, and there is one for all here: %lld, the largest, is taken",
                    name, (long long)most);
    return most;
}

static void import_transport(struct import *im, const json_t *ports)
{
    json_t *p = json_pack("{s:s}", "trtype", "TCP");
    json_int_t capsule = largest_param(im, ports, "inline_data_size"),
               depth = largest_param(im, ports, "max_queue_size");
    json_int_t fits = capsule > CAPSULE_MAX ? CAPSULE_MAX : capsule - capsule % BLOCK_MIN;
    json_int_t deep = depth > DEPTH_MAX ? DEPTH_MAX : depth < DEPTH_MIN ? DEPTH_MIN : depth;
    if (fits != capsule)
        import_warn(im, "ports", "inline_data_size %lld becomes %lld", (long long)capsule, (long long)fits);
    if (depth && deep != depth)
        import_warn(im, "ports", "max_queue_size %lld becomes %lld", (long long)depth, (long long)deep);
    if (fits)
        json_object_set_new(p, "in_capsule_data_size", json_integer(fits));
    if (depth)
        json_object_set_new(p, "max_queue_depth", json_integer(deep));
    import_call(im->nvmf, "nvmf_create_transport", p);
}

/* ---- */

static void import_all(struct import *im, const json_t *config)
{
    size_t i;
    const json_t *v;
    const char *discovery = ctl_str(json_object_get(config, "discovery"), "nqn");
    warn_of_rest(im, "the file", config, "hosts subsystems ports discovery");
    if (discovery[0] && strcmp(discovery, "nqn.2014-08.org.nvmexpress.discovery") != 0)
        import_warn(im, "the file", "the discovery subsystem is called %s: hosts find it by its well-known name here",
                    discovery);
    import_transport(im, json_object_get(config, "ports"));
    json_array_foreach(json_object_get(config, "hosts"), i, v)
    {
        char where[WHERE];
        snprintf(where, sizeof where, "host %s", ctl_str(v, "nqn"));
        warn_of_rest(im, where, v, "nqn dhchap");
        if (ctl_str(json_object_get(v, "dhchap"), "key")[0])
            json_object_set_new(im->secret, ctl_str(v, "nqn"), json_true());
    }
    json_array_foreach(json_object_get(config, "subsystems"), i, v)
    {
        import_subsystem(im, v);
    }
    json_array_foreach(json_object_get(config, "ports"), i, v)
    {
        import_port(im, v);
    }
}

int ctl_import(struct ctl *c, char *const *words, int n)
{
    (void)c, (void)n;
    if (strcmp(words[0], "nvmet") != 0)
        return cli_fail(EXIT_USAGE, "import %s: there is nvmet, whose configuration is in /etc/nvmet/config.json",
                        words[0]);
    json_t *config = ctl_read_json(words[1]);
    if (!config)
        return EXIT_USAGE;
    if (!json_is_array(json_object_get(config, "subsystems")) || !json_is_array(json_object_get(config, "ports"))) {
        json_decref(config);
        return cli_fail(EXIT_USAGE, "%s: it has no arrays \"subsystems\" and \"ports\", so nvmetcli has not saved it",
                        words[1]);
    }
    struct import im = {.file = words[1],
                        .bdev = json_array(),
                        .nvmf = json_array(),
                        .disks = json_object(),
                        .subsystems = json_object(),
                        .referrals = json_object(),
                        .secret = json_object()};
    import_all(&im, config);
    json_t *out = json_pack("{s:[{s:s, s:o}, {s:s, s:o}]}", "subsystems", "subsystem", "bdev", "config", im.bdev,
                            "subsystem", "nvmf", "config", im.nvmf);
    ctl_print_json(out);
    json_decref(out);
    json_decref(im.disks);
    json_decref(im.subsystems);
    json_decref(im.referrals);
    json_decref(im.secret);
    json_decref(config);
    return EXIT_OK;
}
