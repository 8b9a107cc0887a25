/* SPDX-License-Identifier: BSD-3-Clause */
/* Methods for who may come, and where: hosts, listeners, ANA states, referrals. */
#include "rpc/table.h"

#include "base/addr.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define DISCOVERY_NQN "nqn.2014-08.org.nvmexpress.discovery"
#define NQN TEXT("nqn", "of the subsystem", REQUIRED)

/* ---- addresses ---- */

static const struct rpc_param members_address[] = {
    TEXT("trtype", "TCP", REQUIRED),
    TEXT("adrfam", "IPv4 or IPv6"),
    TEXT("traddr", "a numeric address", REQUIRED),
    TEXT("trsvcid", "a port; 4420 without it"),
    END,
};

/* An address as it is compared: @return 0, or -EINVAL with err filled */
static int parse_address(const json_t *a, struct rpc_listener *out, uint16_t *port, struct plx_error *err)
{
    struct sockaddr_storage ss;
    const char *type = rpc_str_in(a, "trtype"), *family = rpc_str_in(a, "adrfam"), *service = rpc_str_in(a, "trsvcid");
    const char *addr = rpc_str_in(a, "traddr");
    char *rest = NULL;
    unsigned long n = service && service[0] ? strtoul(service, &rest, 10) : 4420;
    if (strcasecmp(type, "TCP") != 0)
        return plx_fail(err, -EINVAL, "trtype %.40s: there is TCP alone", type);
    if (rest && (*rest || service[0] < '0' || service[0] > '9' || n > 65535))
        return plx_fail(err, -EINVAL, "trsvcid %.40s is no port: a number up to 65535", service);
    if (addr[0] == '[' || strlen(addr) >= sizeof out->traddr)
        return plx_fail(err, -EINVAL, "traddr %.80s is no address, such as 192.0.2.1 or 2001:db8::1", addr);
    int ret = plx_parse_addr(addr, (uint16_t)n, &ss, err);
    if (ret)
        return ret;
    const char *is = ss.ss_family == AF_INET ? "IPv4" : "IPv6";
    if (family && family[0] && strcasecmp(family, is) != 0)
        return plx_fail(err, -EINVAL, "traddr %.60s is %s, and adrfam %.20s", addr, is, family);
    *port = (uint16_t)n;
    plx_addr_host(&ss, out->traddr);
    snprintf(out->trsvcid, sizeof out->trsvcid, "%u", (unsigned)n);
    snprintf(out->adrfam, sizeof out->adrfam, "%s", is);
    return 0;
}

static struct rpc_listener *find_rpc_listener(struct plx_rpc *rpc, const struct rpc_listener *where)
{
    plx_list_for_each(it, &rpc->listeners) {
        struct rpc_listener *l = plx_list_entry(it, struct rpc_listener, link);
        if (strcmp(l->traddr, where->traddr) == 0 && strcmp(l->trsvcid, where->trsvcid) == 0)
            return l;
    }
    return NULL;
}

static json_t *address_json(const struct rpc_listener *l)
{
    return json_pack("{s:s, s:s, s:s, s:s}", "trtype", "TCP", "adrfam", l->adrfam, "traddr", l->traddr, "trsvcid",
                     l->trsvcid);
}

/* A subsystem's; NULL for that of discovery. */
static bool is_at(const struct rpc_listener *l, const struct plx_nvmf_subsystem *s)
{
    return s ? plx_nvmf_subsystem_reachable(s, l->l) : l->discovery;
}

json_t *rpc_listen_addresses(struct plx_rpc *rpc, const struct plx_nvmf_subsystem *s)
{
    json_t *out = json_array();
    plx_list_for_each(it, &rpc->listeners) {
        const struct rpc_listener *l = plx_list_entry(it, struct rpc_listener, link);
        if (is_at(l, s))
            json_array_append_new(out, address_json(l));
    }
    return out;
}

/* ---- listeners ---- */

static void listener_forget(struct rpc_listener *l)
{
    plx_list_del(&l->link);
    free(l);
}

static bool is_used(const struct plx_rpc *rpc, const struct rpc_listener *l)
{
    struct plx_nvmf_subsystem *s = NULL;
    while ((s = plx_nvmf_subsystem_next(rpc->o.target, s)))
        if (plx_nvmf_subsystem_reachable(s, l->l))
            return true;
    return l->discovery;
}

void rpc_listeners_tidy(struct plx_rpc *rpc)
{
    plx_list_for_each_safe(it, &rpc->listeners) {
        struct rpc_listener *l = plx_list_entry(it, struct rpc_listener, link);
        if (is_used(rpc, l))
            continue;
        plx_nvmf_listener_remove(l->l);
        listener_forget(l);
    }
}

void rpc_listeners_forget(struct plx_rpc *rpc)
{
    plx_list_for_each_safe(it, &rpc->listeners) {
        listener_forget(plx_list_entry(it, struct rpc_listener, link));
    }
}

static const struct rpc_param params_add_listener[] = {
    NQN,
    TARGET,
    OBJECT("listen_address", members_address, "where", REQUIRED),
    BOOL("secure_channel", "TLS", INIT("false")),
    ENUM("ana_state", "optimized|non_optimized|inaccessible", "of all groups there", INIT("\"optimized\"")),
    TEXT("sock_impl", "kind of sockets", INERT),
    I32("numa_id", "node", INERT),
    END,
};

static enum plx_nvmf_ana parse_ana(const char *text)
{
    return !strcmp(text, "optimized")       ? PLX_NVMF_ANA_OPTIMIZED
           : !strcmp(text, "non_optimized") ? PLX_NVMF_ANA_NON_OPTIMIZED
                                            : PLX_NVMF_ANA_INACCESSIBLE;
}

static const char *ana_text(enum plx_nvmf_ana state)
{
    return state == PLX_NVMF_ANA_OPTIMIZED       ? "optimized"
           : state == PLX_NVMF_ANA_NON_OPTIMIZED ? "non_optimized"
           : state == PLX_NVMF_ANA_INACCESSIBLE  ? "inaccessible"
           : state == PLX_NVMF_ANA_CHANGE        ? "change"
                                                 : "persistent_loss";
}

/* It could not listen: the target has removed it then, or has not looked at it yet. */
static void undo_listener(struct rpc_call *c)
{
    struct rpc_listener *made = c->prepared;
    for (struct plx_nvmf_listener *l = NULL; (l = plx_nvmf_listener_next(c->rpc->o.target, l));)
        if (l == made->l) {
            plx_nvmf_listener_remove(l);
            break;
        }
    listener_forget(made);
}

static int make_listener(struct rpc_call *c, const struct rpc_listener *where, uint16_t port, struct rpc_listener **out,
                         struct plx_error *err)
{
    struct rpc_listener *l = malloc(sizeof *l);
    if (!l)
        return plx_fail(err, -ENOMEM, "out of memory");
    *l = *where;
    l->discovery = false;
    int ret = plx_nvmf_listen(c->rpc->o.target, where->traddr, port, &l->l, err);
    if (ret) {
        free(l);
        return ret;
    }
    snprintf(l->trsvcid, sizeof l->trsvcid, "%u", plx_nvmf_listener_port(l->l));
    plx_list_add_tail(&c->rpc->listeners, &l->link);
    c->undo = undo_listener;
    c->prepared = l;
    *out = l;
    return 0;
}

static int add_to_listener(struct rpc_call *c, struct plx_nvmf_subsystem *s, struct rpc_listener *l,
                           struct plx_error *err)
{
    if (!s && l->discovery)
        return plx_fail(err, -EEXIST, "discovery is at %s port %s already", l->traddr, l->trsvcid);
    if (!s) {
        l->discovery = true;
        return 0;
    }
    int ret = plx_nvmf_subsystem_add_listener(s, l->l, err);
    return ret ? ret : plx_nvmf_subsystem_set_ana(s, l->l, 0, parse_ana(rpc_str(c, "ana_state")), err);
}

/* The subsystem that is meant: *s is NULL for that of discovery. @return false when the call has failed */
static bool which_subsystem(struct rpc_call *c, struct plx_nvmf_subsystem **s)
{
    bool discovery = strcmp(rpc_str(c, "nqn"), DISCOVERY_NQN) == 0;
    *s = discovery ? NULL : rpc_subsystem(c);
    return discovery || *s;
}

static void add_listener(struct rpc_call *c)
{
    struct plx_error err;
    struct plx_nvmf_subsystem *s;
    struct rpc_listener where = {.l = NULL}, *l;
    uint16_t port;
    if (!which_subsystem(c, &s))
        return;
    int ret = parse_address(rpc_param(c, "listen_address"), &where, &port, &err);
    if (!ret && !c->rpc->transport)
        ret = plx_fail(&err, -ENODEV, "there is no transport TCP; call nvmf_create_transport before");
    if (!ret && rpc_bool(c, "secure_channel"))
        ret = plx_fail(&err, -EOPNOTSUPP, "secure_channel: TLS is not built in");
    l = ret ? NULL : find_rpc_listener(c->rpc, &where);
    if (!ret && !l)
        ret = make_listener(c, &where, port, &l, &err);
    if (!ret)
        ret = add_to_listener(c, s, l, &err);
    if (ret && c->undo)
        c->undo(c);
    if (ret)
        rpc_fail_params(c, &err);
    else
        rpc_apply(c, NULL);
}

static const struct rpc_param params_listener[] = {
    NQN,
    TARGET,
    OBJECT("listen_address", members_address, "where", REQUIRED),
    END,
};

/* A listener of the subsystem. @return NULL when the call has failed */
static struct rpc_listener *its_listener(struct rpc_call *c, const struct plx_nvmf_subsystem *s)
{
    struct plx_error err;
    struct rpc_listener where;
    uint16_t port;
    int ret = parse_address(rpc_param(c, "listen_address"), &where, &port, &err);
    struct rpc_listener *l = ret ? NULL : find_rpc_listener(c->rpc, &where);
    if (!ret && (!l || !is_at(l, s)))
        ret = plx_fail(&err, -ENOENT,
                       "it does not listen on %s port %s; nvmf_subsystem_get_listeners lists where it does",
                       where.traddr, where.trsvcid);
    if (ret)
        rpc_fail_params(c, &err);
    return ret ? NULL : l;
}

static void remove_listener(struct rpc_call *c)
{
    struct plx_error err;
    struct plx_nvmf_subsystem *s;
    struct rpc_listener *l = which_subsystem(c, &s) ? its_listener(c, s) : NULL;
    if (!l)
        return;
    int ret = s ? plx_nvmf_subsystem_remove_listener(s, l->l, &err) : 0;
    if (ret) {
        rpc_fail_params(c, &err);
        return;
    }
    if (!s)
        l->discovery = false;
    rpc_listeners_tidy(c->rpc);
    rpc_apply(c, NULL);
}

static const struct rpc_param params_subsystem[] = {NQN, TARGET, END};

static uint32_t ana_groups(const struct plx_nvmf_subsystem *s)
{
    struct plx_nvmf_subsystem_info info;
    plx_nvmf_subsystem_info(s, &info);
    return (uint32_t)plx_min_u64(info.max_namespaces, PLX_NVMF_ANA_GROUPS);
}

static json_t *ana_states(const struct plx_nvmf_subsystem *s, const struct rpc_listener *l)
{
    json_t *out = json_array();
    for (uint32_t g = 1, n = ana_groups(s); g <= n; g++)
        json_array_append_new(out, json_pack("{s:I, s:s}", "ana_group", (json_int_t)g, "ana_state",
                                             ana_text(plx_nvmf_subsystem_ana(s, l->l, g))));
    return out;
}

static void get_listeners(struct rpc_call *c)
{
    struct plx_nvmf_subsystem *s;
    if (!which_subsystem(c, &s))
        return;
    json_t *out = json_array();
    plx_list_for_each(it, &c->rpc->listeners) {
        const struct rpc_listener *l = plx_list_entry(it, struct rpc_listener, link);
        if (is_at(l, s))
            json_array_append_new(out, json_pack("{s:o, s:o}", "address", address_json(l), "ana_states",
                                                 s ? ana_states(s, l) : json_array()));
    }
    rpc_ok(c, out);
}

static const struct rpc_param params_set_ana[] = {
    NQN,
    TARGET,
    OBJECT("listen_address", members_address, "where", REQUIRED),
    ENUM("ana_state", "optimized|non_optimized|inaccessible", "what hosts that come there see", REQUIRED),
    U32("anagrpid", "ANA group; 0 for all", INIT("0"), LIMITS(0, PLX_NVMF_ANA_GROUPS)),
    END,
};

static void set_ana(struct rpc_call *c)
{
    struct plx_error err;
    struct plx_nvmf_subsystem *s = rpc_subsystem(c);
    struct rpc_listener *l = s ? its_listener(c, s) : NULL;
    if (!l)
        return;
    if (plx_nvmf_subsystem_set_ana(s, l->l, (uint32_t)rpc_uint(c, "anagrpid"), parse_ana(rpc_str(c, "ana_state")),
                                   &err))
        rpc_fail_params(c, &err);
    else
        rpc_apply(c, NULL);
}

/* ---- hosts ---- */

static const struct rpc_param params_add_host[] = {
    NQN,
    TEXT("host", "NQN of the host", REQUIRED),
    TARGET,
    TEXT("psk", "key of TLS"),
    TEXT("dhchap_key", "key of in-band authentication"),
    TEXT("dhchap_ctrlr_key", "the target's"),
    END,
};

static void subsystem_add_host(struct rpc_call *c)
{
    struct plx_error err;
    static const char *const keys[] = {"psk", "dhchap_key", "dhchap_ctrlr_key"};
    struct plx_nvmf_subsystem *s = rpc_subsystem(c);
    if (!s)
        return;
    for (size_t i = 0; i < PLX_ARRAY_SIZE(keys); i++)
        if (rpc_str(c, keys[i])) {
            plx_fail(&err, -EOPNOTSUPP, "%s: neither TLS nor in-band authentication is built in", keys[i]);
            rpc_fail_params(c, &err);
            return;
        }
    if (plx_nvmf_subsystem_allow_host(s, rpc_str(c, "host"), &err))
        rpc_fail(c, RPC_INTERNAL, "Internal error: %s", err.text);
    else
        rpc_apply(c, NULL);
}

static const struct rpc_param params_remove_host[] = {
    NQN,    TEXT("host", "NQN of the host", REQUIRED),
    TARGET, U64("timeout_ms", "for its connections to end", INIT("0"), INERT),
    END,
};

static void remove_host(struct rpc_call *c)
{
    struct plx_error err;
    struct plx_nvmf_subsystem *s = rpc_subsystem(c);
    if (!s)
        return;
    if (plx_nvmf_subsystem_disallow_host(s, rpc_str(c, "host"), &err))
        rpc_fail(c, RPC_INTERNAL, "Internal error: %s", err.text);
    else
        rpc_apply(c, NULL);
}

static const struct rpc_param params_set_keys[] = {
    NQN,
    TEXT("host", "NQN of the host", REQUIRED),
    TARGET,
    TEXT("dhchap_key", "key of in-band authentication"),
    TEXT("dhchap_ctrlr_key", "the target's"),
    END,
};

static void set_keys(struct rpc_call *c)
{
    struct plx_error err;
    if (!rpc_subsystem(c))
        return;
    plx_fail(&err, -EOPNOTSUPP, "in-band authentication is not built in");
    rpc_fail_errno(c, -EOPNOTSUPP, &err);
}

static const struct rpc_param params_allow_any[] = {
    NQN,
    BOOL("allow_any_host", "whether every host may connect", REQUIRED),
    TARGET,
    END,
};

static void allow_any_host(struct rpc_call *c)
{
    struct plx_nvmf_subsystem *s = rpc_subsystem(c);
    if (!s)
        return;
    plx_nvmf_subsystem_allow_any_host(s, rpc_bool(c, "allow_any_host"));
    rpc_apply(c, NULL);
}

/* ---- referrals ---- */

static const struct rpc_param params_add_referral[] = {
    TARGET,
    OBJECT("address", members_address, "of another discovery controller", REQUIRED),
    BOOL("secure_channel", "TLS", INIT("false"), INERT),
    TEXT("subnqn", "of its subsystem: that of discovery", INERT),
    END,
};

static void change_referral(struct rpc_call *c, int (*change)(struct plx_nvmf_target *t, const char *addr,
                                                              uint16_t port, struct plx_error *err))
{
    struct plx_error err;
    struct rpc_listener where;
    uint16_t port;
    const char *nqn = rpc_str(c, "subnqn");
    int ret = parse_address(rpc_param(c, "address"), &where, &port, &err);
    if (!ret && nqn && strcmp(nqn, DISCOVERY_NQN) != 0)
        ret = plx_fail(&err, -EINVAL, "subnqn %.100s: hosts are referred to %s alone", nqn, DISCOVERY_NQN);
    if (!ret)
        ret = change(c->rpc->o.target, where.traddr, port, &err);
    if (ret)
        rpc_fail_params(c, &err);
    else
        rpc_apply(c, NULL);
}

static void add_referral(struct rpc_call *c)
{
    change_referral(c, plx_nvmf_referral_add);
}

static const struct rpc_param params_remove_referral[] = {
    TARGET,
    OBJECT("address", members_address, "of another discovery controller", REQUIRED),
    TEXT("subnqn", "of its subsystem: that of discovery", INERT),
    END,
};

static void remove_referral(struct rpc_call *c)
{
    change_referral(c, plx_nvmf_referral_remove);
}

static json_t *referral_json(const char *addr, uint16_t port)
{
    char service[8];
    snprintf(service, sizeof service, "%u", port);
    return json_pack("{s:{s:s, s:s, s:s, s:s}, s:b, s:s}", "address", "trtype", "TCP", "adrfam",
                     strchr(addr, ':') ? "IPv6" : "IPv4", "traddr", addr, "trsvcid", service, "secure_channel", false,
                     "subnqn", DISCOVERY_NQN);
}

static const struct rpc_param params_target[] = {TARGET, END};

static void get_referrals(struct rpc_call *c)
{
    json_t *out = json_array();
    const char *addr;
    uint16_t port;
    for (unsigned i = 0; (addr = plx_nvmf_referral(c->rpc->o.target, i, &port)); i++)
        json_array_append_new(out, referral_json(addr, port));
    rpc_ok(c, out);
}

/* Others' discovery by multicast DNS. */
static void no_mdns(struct rpc_call *c)
{
    struct plx_error err;
    plx_fail(&err, -EOPNOTSUPP, "multicast DNS is not built in; name the discovery controller to hosts");
    rpc_fail_errno(c, -EOPNOTSUPP, &err);
}

/* ---- again ---- */

/* That of most groups. */
static enum plx_nvmf_ana usual_ana(const struct plx_nvmf_subsystem *s, const struct rpc_listener *l)
{
    static const enum plx_nvmf_ana states[] = {PLX_NVMF_ANA_OPTIMIZED, PLX_NVMF_ANA_NON_OPTIMIZED,
                                               PLX_NVMF_ANA_INACCESSIBLE};
    unsigned most = 0, found = 0;
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(states); i++) {
        unsigned n = 0;
        for (uint32_t g = 1; g <= PLX_NVMF_ANA_GROUPS; g++)
            n += plx_nvmf_subsystem_ana(s, l->l, g) == states[i];
        found = n > most ? i : found;
        most = n > most ? n : most;
    }
    return states[found];
}

/* The state of most groups at once, then of each that differs. */
static void config_ana(struct rpc_config *list, const struct plx_nvmf_subsystem *s, const char *nqn,
                       const struct rpc_listener *l)
{
    enum plx_nvmf_ana all = usual_ana(s, l);
    json_t *p = json_pack("{s:s, s:o, s:b}", "nqn", nqn, "listen_address", address_json(l), "secure_channel", false);
    if (all != PLX_NVMF_ANA_OPTIMIZED)
        json_object_set_new(p, "ana_state", json_string(ana_text(all)));
    rpc_config_add(list, "nvmf_subsystem_add_listener", p);
    for (uint32_t g = 1; g <= PLX_NVMF_ANA_GROUPS; g++) {
        enum plx_nvmf_ana state = plx_nvmf_subsystem_ana(s, l->l, g);
        if (state != all)
            rpc_config_add(list, "nvmf_subsystem_listener_set_ana_state",
                           json_pack("{s:s, s:o, s:s, s:I}", "nqn", nqn, "listen_address", address_json(l), "ana_state",
                                     ana_text(state), "anagrpid", (json_int_t)g));
    }
}

/* Listener by listener, so that they are made in the order that they have: that is the order of what is dumped then. */
void rpc_config_access(struct plx_rpc *rpc, struct rpc_config *list)
{
    plx_list_for_each(it, &rpc->listeners) {
        const struct rpc_listener *l = plx_list_entry(it, struct rpc_listener, link);
        if (l->discovery)
            rpc_config_add(list, "nvmf_subsystem_add_listener",
                           json_pack("{s:s, s:o, s:b}", "nqn", DISCOVERY_NQN, "listen_address", address_json(l),
                                     "secure_channel", false));
        for (struct plx_nvmf_subsystem *s = NULL; (s = plx_nvmf_subsystem_next(rpc->o.target, s));) {
            struct plx_nvmf_subsystem_info info;
            plx_nvmf_subsystem_info(s, &info);
            if (is_at(l, s))
                config_ana(list, s, info.nqn, l);
        }
    }
    const char *addr;
    uint16_t port;
    for (unsigned i = 0; (addr = plx_nvmf_referral(rpc->o.target, i, &port)); i++)
        rpc_config_add(list, "nvmf_discovery_add_referral", referral_json(addr, port));
}

const struct rpc_method rpc_methods_access[] = {
    {"nvmf_subsystem_add_listener", NULL, "Has hosts reach a subsystem at an address.", params_add_listener,
     RPC_CHANGES, .bad = RPC_INVALID_PARAMS, .run = add_listener},
    {"nvmf_subsystem_remove_listener", NULL, "Has it be reached there no more; who came by it is disconnected.",
     params_listener, RPC_CHANGES, .bad = RPC_INVALID_PARAMS, .run = remove_listener},
    {"nvmf_subsystem_get_listeners", NULL, "Lists where a subsystem is reached, and the ANA states there.",
     params_subsystem, RPC_READS, .run = get_listeners},
    {"nvmf_subsystem_listener_set_ana_state", NULL, "Sets ANA states, as hosts see them that come by a listener.",
     params_set_ana, RPC_CHANGES, .bad = RPC_INVALID_PARAMS, .run = set_ana},
    {"nvmf_subsystem_add_host", NULL, "Lets a host in.", params_add_host, RPC_CHANGES, .bad = RPC_INVALID_PARAMS,
     .run = subsystem_add_host},
    {"nvmf_subsystem_remove_host", NULL, "Lets a host in no more, and disconnects it.", params_remove_host, RPC_CHANGES,
     .bad = RPC_INVALID_PARAMS, .run = remove_host},
    {"nvmf_subsystem_set_keys", NULL, "Is refused: there is no in-band authentication yet.", params_set_keys, RPC_READS,
     .run = set_keys},
    {"nvmf_subsystem_allow_any_host", NULL, "Lets every host in, or only those that were added.", params_allow_any,
     RPC_CHANGES, .bad = RPC_INVALID_PARAMS, .run = allow_any_host},
    {"nvmf_discovery_add_referral", NULL, "Refers hosts to another discovery controller.", params_add_referral,
     RPC_CHANGES, .bad = RPC_INVALID_PARAMS, .run = add_referral},
    {"nvmf_discovery_remove_referral", NULL, "Refers them there no more.", params_remove_referral, RPC_CHANGES,
     .bad = RPC_INVALID_PARAMS, .run = remove_referral},
    {"nvmf_discovery_get_referrals", NULL, "Lists referrals.", params_target, RPC_READS, .run = get_referrals},
    {"nvmf_publish_mdns_prr", NULL, "Is refused: discovery controllers are not told of by multicast DNS.",
     params_target, RPC_READS, .run = no_mdns},
    {"nvmf_stop_mdns_prr", NULL, "Is refused, too.", params_target, RPC_READS, .run = no_mdns},
    {.name = NULL},
};
