/* SPDX-License-Identifier: BSD-3-Clause */
/* Methods for remote controllers: attached, detached, reset, discovered. */
#include "rpc/nvme.h"
#include "rpc/table.h"

#include <errno.h>
#include <inttypes.h>
#include <pollux/nvme.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define DIGESTS_OF_HOST "sha256|sha384|sha512"
#define GROUPS_OF_HOST "null|ffdhe2048|ffdhe3072|ffdhe4096|ffdhe6144|ffdhe8192"
#define OPTIONS "bdev_nvme_set_options"

enum {
    REMOTE_PORT = 4420,
    REMOTE_DISCOVERY_PORT = 8009,
    REMOTE_QUEUES = 16, /* of an association, at most */
    REMOTE_SECONDS = 1000000,
    REMOTE_TIMEOUT_S = 30000,
    REMOTE_LOOK_MS = 20,
};

static const struct rpc_param members_multipath[] = {
    ENUM("policy", "active_passive|active_active", "paths that are equally good: the first, or each in turn"),
    ENUM("selector", "round_robin|queue_depth", "how they take turns", INERT),
    U32("min_io", "requests of a turn", INERT),
    END,
};

/* ---- options ---- */

static const struct rpc_param params_nvme_options[] = {
    ENUM("action_on_timeout", "none|reset|abort", "what a command is ended by that takes too long; else it is not",
         INIT("\"none\"")),
    U64("timeout_us", "microseconds until it does", INIT("0")),
    U64("timeout_admin_us", "the same of admin commands", INIT("0"), INERT),
    U32("keep_alive_timeout_ms", "milliseconds, of associations", INIT("10000")),
    U32("arbitration_burst",
        "commands that an SSD takes from a queue at a time, as a power of two; 7 for any number, "
        "0 as it is, as are all weights",
        INIT("0")),
    U32("low_priority_weight", "of queues of low priority, 255 at most, one less than it is", INIT("0")),
    U32("medium_priority_weight", "of medium priority", INIT("0")),
    U32("high_priority_weight", "of high priority", INIT("0")),
    U64("nvme_adminq_poll_period_us", "microseconds", INIT("10000"), INERT),
    U64("nvme_ioq_poll_period_us", "microseconds", INIT("0"), INERT),
    U32("io_queue_requests", "requests of a queue", INIT("0"), INERT),
    BOOL("delay_cmd_submit", "commands leave together", INIT("true"), INERT),
    U32("transport_retry_count", "attempts", INIT("4"), INERT),
    I32("bdev_retry_count", "attempts", INIT("3"), INERT),
    U8("transport_ack_timeout", "of RDMA", INIT("0"), INERT),
    I32("ctrlr_loss_timeout_sec", "seconds without any path after which requests fail; -1 or 0: they wait", INIT("0")),
    U32("reconnect_delay_sec", "seconds between attempts to connect, which are 1 to 30", INIT("0"), INERT),
    U32("fast_io_fail_timeout_sec", "the same as ctrlr_loss_timeout_sec, and goes before it", INIT("0")),
    BOOL("disable_auto_failback", "stay with a path", INIT("false"), INERT),
    BOOL("generate_uuids", "for namespaces without one, which are made always", INIT("false"), INERT),
    U8("transport_tos", "of IP", INIT("0"), INERT),
    BOOL("nvme_error_stat", "errors are counted", INIT("false"), INERT),
    U32("rdma_srq_size", "of RDMA", INIT("0"), INERT),
    BOOL("io_path_stat", "paths are counted", INIT("false"), INERT),
    BOOL("allow_accel_sequence", "what computes", INIT("false"), INERT),
    U32("rdma_max_cq_size", "of RDMA", INIT("0"), INERT),
    U16("rdma_cm_event_timeout_ms", "of RDMA", INIT("0"), INERT),
    FLAGS("dhchap_digests", DIGESTS_OF_HOST, "of in-band authentication", INIT("[\"sha256\", \"sha384\", \"sha512\"]"),
          INERT),
    FLAGS("dhchap_dhgroups", GROUPS_OF_HOST, "of in-band authentication",
          INIT("[\"null\", \"ffdhe2048\", \"ffdhe3072\", \"ffdhe4096\", \"ffdhe6144\", \"ffdhe8192\"]"), INERT),
    BOOL("rdma_umr_per_io", "of RDMA", INIT("false"), INERT),
    U32("tcp_connect_timeout_ms", "milliseconds of an attempt to connect; 0 for 10 s", INIT("0")),
    BOOL("enable_flush", "flushes are passed on, which they are always", INIT("false"), INERT),
    OBJECT("multipath_opts", members_multipath, "of controllers that say nothing else",
           INIT("{\"policy\": \"active_passive\"}")),
    END,
};

static const struct rpc_param params_hotplug[] = {
    BOOL("enable", "SSDs that are with vfio-pci are attached, as HotInNvme0 and so on, and those that go are detached",
         INIT("false")),
    U64("period_us", "microseconds from one look to the next, from 10 ms on", INIT("100000"), LIMITS(0, 3600000000)),
    END,
};

/* Options, as they were set; NULL when they were not: then the driver's own defaults hold. */
static const json_t *options_set(const struct plx_rpc *rpc)
{
    return json_object_get(rpc->options, OPTIONS);
}

/* A parameter of a call, or else the option. */
static json_int_t param_or_option(const struct plx_rpc *rpc, const json_t *params, const char *name)
{
    const json_t *given = json_object_get(params, name);
    return json_integer_value(given ? given : json_object_get(options_set(rpc), name));
}

/* What goes together, as existing clients know it. */
static int check_patience(json_int_t loss, json_int_t delay, json_int_t fast, struct plx_error *err)
{
    if (loss < -1)
        return plx_fail(err, -EINVAL, "ctrlr_loss_timeout_sec is -1, 0, or a number of seconds");
    if (!loss && (delay || fast))
        return plx_fail(
            err, -EINVAL,
            "reconnect_delay_sec and fast_io_fail_timeout_sec go with a ctrlr_loss_timeout_sec, which is 0");
    if (loss && !delay)
        return plx_fail(err, -EINVAL, "reconnect_delay_sec is to be given with ctrlr_loss_timeout_sec");
    if (loss > 0 && (delay > loss || fast > loss))
        return plx_fail(err, -EINVAL,
                        "reconnect_delay_sec and fast_io_fail_timeout_sec are at most ctrlr_loss_timeout_sec");
    if (fast && fast < delay)
        return plx_fail(err, -EINVAL, "fast_io_fail_timeout_sec is at least reconnect_delay_sec");
    return 0;
}

static const char *const patience[] = {"ctrlr_loss_timeout_sec", "reconnect_delay_sec", "fast_io_fail_timeout_sec"};

/* What holds by the options of now is kept with the call: made again, it may come after others. */
static void keep_patience(struct rpc_call *c)
{
    for (size_t i = 0; i < PLX_ARRAY_SIZE(patience); i++)
        json_object_set_new(c->params, patience[i], json_integer(param_or_option(c->rpc, c->params, patience[i])));
}

static uint64_t whole_seconds(uint64_t n, uint64_t per_second, uint64_t most)
{
    return plx_min_u64(most, n / per_second + (n % per_second != 0));
}

struct settings_text {
    char *out;
    size_t n;
};

static void add_setting(struct settings_text *t, const char *key, uint64_t value)
{
    if (value && t->n < REMOTE_SETTINGS)
        t->n += (size_t)snprintf(t->out + t->n, REMOTE_SETTINGS - t->n, "&%s=%" PRIu64, key, value);
}

static void add_arbitration(struct settings_text *t, const json_t *options)
{
    static const char *const weights[] = {"low_priority_weight", "medium_priority_weight", "high_priority_weight"};
    const uint64_t burst = rpc_uint_in(options, "arbitration_burst");
    add_setting(t, "arbitration_burst", plx_min_u64(burst, 7));
    for (size_t i = 0; i < PLX_ARRAY_SIZE(weights) && burst; i++)
        add_setting(t, weights[i], plx_min_u64(rpc_uint_in(options, weights[i]), 255));
}

/* One that is on unless something else is said. */
static void add_said(struct settings_text *t, const json_t *params, const char *key)
{
    if (json_is_boolean(json_object_get(params, key)) && t->n < REMOTE_SETTINGS)
        t->n += (size_t)snprintf(t->out + t->n, REMOTE_SETTINGS - t->n, "&%s=%d", key, rpc_bool_in(params, key));
}

static void add_hostnqn(struct settings_text *t, const char *nqn)
{
    t->n += (size_t)snprintf(t->out + t->n, REMOTE_SETTINGS - t->n, "&hostnqn=");
    for (; *nqn && t->n + 4 < REMOTE_SETTINGS; nqn++)
        t->n += (size_t)snprintf(t->out + t->n, REMOTE_SETTINGS - t->n, strchr("%&", *nqn) ? "%%%02x" : "%c", *nqn);
}

int remote_settings(struct plx_rpc *rpc, const json_t *params, bool pcie, char out[REMOTE_SETTINGS],
                    struct plx_error *err)
{
    struct settings_text t = {.out = out};
    const json_t *o = options_set(rpc);
    const char *action = rpc_str_in(o, "action_on_timeout"), *nqn = rpc_str_in(params, "hostnqn");
    json_int_t loss = param_or_option(rpc, params, "ctrlr_loss_timeout_sec");
    json_int_t fast = param_or_option(rpc, params, "fast_io_fail_timeout_sec");
    int ret = check_patience(loss, param_or_option(rpc, params, "reconnect_delay_sec"), fast, err);
    const char *problem = nqn ? plx_nvme_nqn_problem(nqn) : NULL;
    if (problem)
        ret = plx_fail(err, -EINVAL, "hostnqn %.100s %s", nqn, problem);
    if (ret)
        return ret;
    uint64_t connect = rpc_uint_in(params, "fabrics_connect_timeout_us");
    uint64_t queues = rpc_uint_in(params, "num_io_queues") / rpc->o.nreactors;
    out[0] = 0;
    if (action && strcmp(action, "none") != 0)
        add_setting(&t, "timeout", whole_seconds(rpc_uint_in(o, "timeout_us"), 1000000, REMOTE_TIMEOUT_S));
    add_setting(&t, "reconnect_deadline",
                plx_min_u64(REMOTE_SECONDS, (uint64_t)(fast > 0           ? fast
                                                       : loss > 0         ? loss
                                                       : loss < 0 && pcie ? REMOTE_SECONDS
                                                                          : 0)));
    if (pcie) {
        add_arbitration(&t, o);
        add_said(&t, params, "prchk_guard");
        add_said(&t, params, "prchk_reftag");
        return 0;
    }
    add_setting(&t, "hdgst", rpc_bool_in(params, "hdgst"));
    add_setting(&t, "ddgst", rpc_bool_in(params, "ddgst"));
    add_setting(&t, "queues", plx_min_u64(queues, REMOTE_QUEUES));
    add_setting(&t, "kato", whole_seconds(rpc_uint_in(o, "keep_alive_timeout_ms"), 1000, REMOTE_SECONDS));
    connect = connect ? connect : rpc_uint_in(o, "tcp_connect_timeout_ms") * 1000;
    add_setting(&t, "connect_timeout", whole_seconds(connect, 1000000, REMOTE_SECONDS));
    if (nqn)
        add_hostnqn(&t, nqn);
    return 0;
}

/* ---- attaching ---- */

#define ADDRESS                                                                                                        \
    TEXT("trtype", "TCP, or PCIe for an SSD of this machine", REQUIRED, LIMITS(1, 32)),                                \
        TEXT("traddr", "a numeric address, or that of a PCI function: 0000:01:00.0", REQUIRED, LIMITS(1, 256)),        \
        TEXT("adrfam", "IPv4 or IPv6")

static const struct rpc_param params_attach[] = {
    TEXT("name", "of the controller; its disks are NAMEn1, NAMEn2, ...", REQUIRED, LIMITS(1, 200)),
    ADDRESS,
    TEXT("trsvcid", "a port; 4420 without it"),
    TEXT("subnqn", "of the subsystem; not needed with PCIe"),
    TEXT("hostnqn", "who we are; without it a name made from this machine's identity"),
    ENUM("multipath", "failover|multipath|disable",
         "whether it may be one more path to a controller that is attached; failover and multipath are one here",
         INIT("\"multipath\"")),
    OBJECT("multipath_opts", members_multipath, "how paths are used; of the first path that is attached"),
    BOOL("hdgst", "header digests", INIT("false")),
    BOOL("ddgst", "data digests", INIT("false")),
    U32("num_io_queues", "I/O queue pairs that all reactors together may have, which have one each at least",
        LIMITS(1, 65536)),
    I32("ctrlr_loss_timeout_sec", "seconds without any path after which requests fail; -1 or 0: they wait"),
    U32("reconnect_delay_sec", "seconds between attempts to connect, which are 1 to 30", INERT),
    U32("fast_io_fail_timeout_sec", "the same as ctrlr_loss_timeout_sec, and goes before it"),
    U64("fabrics_connect_timeout_us", "microseconds of an attempt to connect"),
    U32("max_bdevs", "disks at most", INIT("128"), LIMITS(1, REMOTE_NAMESPACES)),
    TEXT("priority", "of the connection", INERT),
    TEXT("hostaddr", "our address", INERT),
    TEXT("hostsvcid", "our port", INERT),
    BOOL("prchk_reftag", "reference tags are made and checked here; without it, too; with neither of the two, by the "
                         "controller alone. Over PCIe"),
    BOOL("prchk_guard", "the same for guards"),
    TEXT("psk", "of TLS, which there is none of"),
    TEXT("dhchap_key", "of in-band authentication, which there is none of"),
    TEXT("dhchap_ctrlr_key", "of in-band authentication, which there is none of"),
    BOOL("allow_unrecognized_csi", "namespaces of other command sets", INERT),
    BOOL("disable_sq_flow_control", "of submission queues", INERT),
    END,
};

/* What is asked for, and is not here, is refused: a connection without it is not what was meant. */
static int check_attach(struct rpc_call *c, bool pcie, struct plx_error *err)
{
    static const char *const keys[] = {"psk", "dhchap_key", "dhchap_ctrlr_key"};
    const char *subnqn = rpc_str(c, "subnqn"), *problem = subnqn ? plx_nvme_nqn_problem(subnqn) : NULL;
    for (size_t i = 0; i < PLX_ARRAY_SIZE(keys); i++)
        if (rpc_str(c, keys[i]))
            return plx_fail(err, -EINVAL, "%s: there is no TLS and no in-band authentication here; leave it out",
                            keys[i]);
    if (pcie)
        return 0; /* it says what it is */
    if (rpc_bool(c, "prchk_reftag") || rpc_bool(c, "prchk_guard"))
        return plx_fail(err, -EINVAL, "over TCP disks have no metadata here: leave out prchk_reftag and prchk_guard");
    if (!subnqn)
        return plx_fail(err, -EINVAL, "subnqn is missing: the NQN of the subsystem");
    if (problem || strchr(subnqn, '?'))
        return plx_fail(err, -EINVAL, "subnqn %.100s %s", subnqn, problem ? problem : "has a question mark in it");
    if (strcmp(subnqn, NVME_DISCOVERY_NQN) == 0)
        return plx_fail(err, -EINVAL, "subnqn is that of discovery, which has no disks; see bdev_nvme_start_discovery");
    return 0;
}

static json_t *remote_names(const struct remote *r)
{
    json_t *names = json_array();
    plx_list_for_each(it, &r->namespaces) {
        const struct remote_ns *ns = plx_list_entry(it, struct remote_ns, link);
        if (ns->state == REMOTE_NS_OPEN)
            json_array_append_new(names, json_string(ns->name));
    }
    return names;
}

static void attach_done(void *arg, struct remote *r, int ret, const struct plx_error *err)
{
    struct rpc_call *c = arg;
    if (ret)
        rpc_fail_errno(c, ret, err);
    else
        rpc_ok(c, remote_names(r));
}

/* Texts that existing clients look for stand as they are. */
static void fail_attach(struct rpc_call *c, int ret, const struct plx_error *err)
{
    if (ret == -EALREADY)
        rpc_fail(c, ret, "%s", err->text);
    else
        rpc_fail_errno(c, ret, err);
}

static bool wants_round_robin(const struct plx_rpc *rpc, const json_t *params)
{
    const char *policy = rpc_str_in(json_object_get(params, "multipath_opts"), "policy");
    if (!policy)
        policy = rpc_str_in(json_object_get(options_set(rpc), "multipath_opts"), "policy");
    return policy && strcmp(policy, "active_active") == 0;
}

static void attach_controller(struct rpc_call *c)
{
    struct remote_addr addr;
    struct plx_error err;
    char settings[REMOTE_SETTINGS];
    const char *name = rpc_str(c, "name");
    int ret = remote_addr_parse(&addr, rpc_str(c, "trtype"), rpc_str(c, "adrfam"), rpc_str(c, "traddr"),
                                rpc_str(c, "trsvcid"), REMOTE_PORT, &err);
    if (!ret)
        ret = check_attach(c, addr.pcie, &err);
    if (!ret)
        ret = remote_settings(c->rpc, c->params, addr.pcie, settings, &err);
    if (!ret && remote_find(c->rpc, name) && !strcmp(rpc_str(c, "multipath"), "disable"))
        ret = plx_fail(&err, -EALREADY, "A controller named %.100s already exists and multipath is disabled", name);
    if (ret) {
        fail_attach(c, ret, &err);
        return;
    }
    keep_patience(c);
    const struct remote_spec spec = {
        .name = name,
        .subnqn = addr.pcie ? NULL : rpc_str(c, "subnqn"),
        .hostnqn = rpc_str(c, "hostnqn"),
        .addr = &addr,
        .settings = settings,
        .max_namespaces = (unsigned)rpc_uint(c, "max_bdevs"),
        .round_robin = wants_round_robin(c->rpc, c->params),
        .params = c->params,
    };
    rpc_takes_long(c);
    ret = remote_attach(c->rpc, &spec, attach_done, c, &err);
    if (ret)
        fail_attach(c, ret, &err);
}

/* ---- detaching ---- */

static const struct rpc_param params_detach[] = {
    TEXT("name", "of the controller", REQUIRED),
    TEXT("trtype", "of the path; all paths, and the controller, without any of these"),
    TEXT("traddr", "of the path"),
    TEXT("adrfam", "of the path"),
    TEXT("trsvcid", "of the path"),
    TEXT("subnqn", "of the controller"),
    TEXT("hostaddr", "our address", INERT),
    TEXT("hostsvcid", "our port", INERT),
    END,
};

/* Whether a path is one of those that a call means. */
static bool path_meant(const struct rpc_call *c, const struct remote_path *p)
{
    struct remote_addr addr;
    struct plx_error err;
    const char *type = rpc_str(c, "trtype"), *where = rpc_str(c, "traddr"), *port = rpc_str(c, "trsvcid");
    const char *nqn = rpc_str(c, "subnqn"), *own = p->addr.pcie ? "PCIe" : "TCP";
    if (nqn && nqn[0] && !p->addr.pcie && strcmp(nqn, p->r->subnqn) != 0)
        return false;
    return !remote_addr_parse(&addr, type && type[0] ? type : own, rpc_str(c, "adrfam"),
                              where && where[0] ? where : p->addr.traddr, port && port[0] ? port : p->addr.trsvcid, 0,
                              &err) &&
           remote_addr_same(&addr, &p->addr);
}

static struct remote_path *find_meant(const struct rpc_call *c, struct remote *r, bool *all)
{
    struct remote_path *found = NULL;
    *all = true;
    plx_list_for_each(it, &r->paths) {
        struct remote_path *p = plx_list_entry(it, struct remote_path, link);
        bool meant = path_meant(c, p);
        *all = *all && meant;
        if (meant && !found)
            found = p;
    }
    return found;
}

static void detach_done(void *arg, struct remote *r, int ret, const struct plx_error *err);

/* One path after the other, or all at once. */
static void detach_next(struct rpc_call *c, bool first)
{
    struct remote *r = remote_find(c->rpc, rpc_str(c, "name"));
    struct plx_error err;
    bool all;
    if (!r && first) {
        remote_fail_none(c, rpc_str(c, "name"));
        return;
    }
    struct remote_path *p = r ? find_meant(c, r, &all) : NULL;
    if (!p && !first) {
        rpc_ok(c, NULL);
        return;
    }
    int ret = !p    ? plx_fail(&err, -ENXIO, "controller %.100s has no such path", r->name)
              : all ? remote_detach(r, detach_done, c, &err)
                    : remote_detach_path(r, &p->addr, detach_done, c, &err);
    if (ret)
        rpc_fail_errno(c, ret, &err);
}

static void detach_done(void *arg, struct remote *r, int ret, const struct plx_error *err)
{
    struct rpc_call *c = arg;
    (void)r;
    if (ret)
        rpc_fail_errno(c, ret, err);
    else
        detach_next(c, false);
}

/* The disks go one by one, each a change of its own that stands in line. */
static void detach_controller(struct rpc_call *c)
{
    rpc_takes_long(c);
    detach_next(c, true);
}

/* ---- resetting ---- */

static const struct rpc_param params_reset[] = {
    TEXT("name", "of the controller", REQUIRED),
    U16("cntlid", "of one path, as bdev_nvme_get_controllers has it; all without it"),
    END,
};

struct reset_wait {
    struct plx_timer timer;
    struct rpc_call *call;
    uint64_t until;
    unsigned pending; /* disks whose reactors have not ended their associations yet */
};

static bool reset_means(const struct rpc_call *c, const struct remote_path *p)
{
    const json_t *cntlid = rpc_param(c, "cntlid");
    return p->attached && p->watch && (!cntlid || (p->live && rpc_uint(c, "cntlid") == nvme_ctrlr_cntlid(p->watch)));
}

static void count_down(void *arg, const struct plx_bdev_nvme_path *path)
{
    unsigned *down = arg;
    *down += !path->connected;
}

/* Associations, of the disks or to watch, that are not connected. */
static unsigned remote_down(const struct remote *r)
{
    unsigned down = 0;
    plx_list_for_each(it, &r->paths)
        down += !plx_list_entry(it, struct remote_path, link)->live;
    plx_list_for_each(it, &r->namespaces) {
        const struct rpc_disk *d = remote_ns_disk(plx_list_entry(it, struct remote_ns, link));
        if (d)
            plx_bdev_nvme_each_path(d->bdev, count_down, &down);
    }
    return down;
}

static void look_at_reset(struct plx_timer *timer)
{
    struct reset_wait *w = plx_container_of(timer, struct reset_wait, timer);
    struct rpc_call *c = w->call;
    struct plx_error err;
    const struct remote *r = remote_find(c->rpc, rpc_str(c, "name"));
    unsigned down = r ? remote_down(r) : 0;
    if (w->pending) {
        plx_timer_set(c->rpc->reactor, timer, REMOTE_LOOK_MS * PLX_NS_PER_MS);
    } else if (!r) {
        remote_fail_none(c, rpc_str(c, "name"));
    } else if (!down) {
        rpc_ok(c, NULL);
    } else if (c->rpc->stopping || plx_reactor_now(c->rpc->reactor) >= w->until) {
        plx_fail(&err, -EIO, "%u associations of controller %.100s are not connected again; they go on trying", down,
                 r->name);
        rpc_fail_errno(c, -EIO, &err);
    } else {
        plx_timer_set(c->rpc->reactor, timer, REMOTE_LOOK_MS * PLX_NS_PER_MS);
    }
}

static void reset_begun(void *arg)
{
    struct reset_wait *w = arg;
    w->pending--;
}

static unsigned reset_remote(struct rpc_call *c, struct remote *r)
{
    struct reset_wait *w = c->state;
    const struct plx_bdev_nvme_wait wait = {.reactor = c->rpc->reactor, .done = reset_begun, .arg = w};
    struct plx_error err;
    unsigned n = 0;
    plx_list_for_each(it, &r->paths) {
        struct remote_path *p = plx_list_entry(it, struct remote_path, link);
        if (!reset_means(c, p))
            continue;
        n++;
        /*
         * The whole controller, before ours leaves it: it is not live again before all have noticed. Of a port, each
         * association by itself.
         */
        if (p->addr.pcie)
            nvme_pcie_reset(p->addr.traddr);
        nvme_ctrlr_reset(p->watch);
        if (p->addr.pcie)
            continue;
        plx_list_for_each(at, &r->namespaces) {
            struct rpc_disk *d = remote_ns_disk(plx_list_entry(at, struct remote_ns, link));
            w->pending += d && !plx_bdev_nvme_reset(d->bdev, p->addr.name, &wait, &err);
        }
    }
    return n;
}

static void reset_controller(struct rpc_call *c)
{
    struct remote *r = remote_find(c->rpc, rpc_str(c, "name"));
    struct plx_error err;
    struct reset_wait *w = r ? c->state = calloc(1, sizeof *w) : NULL;
    if (!w) {
        if (r)
            rpc_fail_errno(c, -ENOMEM, NULL);
        else
            remote_fail_none(c, rpc_str(c, "name"));
        return;
    }
    if (!reset_remote(c, r)) {
        plx_fail(&err, -ENODEV, "controller %.100s has no path with that cntlid", r->name);
        rpc_fail_errno(c, -ENODEV, &err);
        return;
    }
    w->call = c;
    w->until = plx_reactor_now(c->rpc->reactor) + REMOTE_RESET_MS * PLX_NS_PER_MS;
    w->timer.fn = look_at_reset;
    plx_timer_set(c->rpc->reactor, &w->timer, REMOTE_LOOK_MS * PLX_NS_PER_MS);
    rpc_takes_long(c);
}

/* ---- the policy ---- */

static const struct rpc_param params_policy[] = {
    TEXT("name", "of a disk, or of a controller for all of its disks", REQUIRED),
    ENUM("policy", "active_passive|active_active", "of paths that are equally good the first, or each in turn",
         REQUIRED),
    ENUM("selector", "round_robin|queue_depth", "how they take turns, which is round_robin; with active_active", INERT),
    U32("rr_min_io", "requests of a turn", INERT),
    END,
};

static void set_policy_of(struct remote *r, bool round_robin)
{
    struct plx_error err;
    plx_list_for_each(it, &r->namespaces) {
        struct rpc_disk *d = remote_ns_disk(plx_list_entry(it, struct remote_ns, link));
        if (d)
            plx_bdev_nvme_set_policy(d->bdev, round_robin, NULL, &err);
    }
    if (r->found_by)
        return; /* the disks remember it */
    r->round_robin = round_robin;
    plx_list_for_each(it, &r->paths) {
        const struct remote_path *p = plx_list_entry(it, struct remote_path, link);
        json_object_set_new(p->params, "multipath_opts",
                            json_pack("{s:s}", "policy", round_robin ? "active_active" : "active_passive"));
    }
}

static void set_multipath_policy(struct rpc_call *c)
{
    struct plx_error err;
    const char *name = rpc_str(c, "name");
    bool round_robin = strcmp(rpc_str(c, "policy"), "active_active") == 0;
    struct rpc_disk *d = rpc_disk_find(c->rpc, name);
    struct remote *r = remote_find(c->rpc, name);
    if (!round_robin && rpc_str(c, "selector")) {
        plx_fail(&err, 0, "selector goes with policy active_active");
        rpc_fail(c, RPC_INTERNAL, "Invalid parameters: %s", err.text);
    } else if (d && plx_bdev_is_nvme(d->bdev)) {
        int ret = plx_bdev_nvme_set_policy(d->bdev, round_robin, NULL, &err);
        if (ret)
            rpc_fail_errno(c, ret, &err);
        else
            rpc_ok(c, NULL);
    } else if (r) {
        set_policy_of(r, round_robin);
        rpc_ok(c, NULL);
    } else {
        remote_fail_none(c, name);
    }
}

/* ---- discovery ---- */

static const struct rpc_param params_discovery[] = {
    TEXT("name", "what is found is called NAME0, NAME1, ...", REQUIRED, LIMITS(1, 180)),
    ADDRESS,
    TEXT("trsvcid", "a port; 8009 without it"),
    TEXT("hostnqn", "who we are; without it a name made from this machine's identity"),
    BOOL("wait_for_attach", "answer when what is there at first is attached", INIT("false")),
    U64("attach_timeout_ms", "the same, and milliseconds until it is given up; 0 for none", INIT("0"),
        LIMITS(0, 3600000)),
    I32("ctrlr_loss_timeout_sec", "seconds without any path after which requests fail; -1 or 0: they wait"),
    U32("reconnect_delay_sec", "seconds between attempts to connect, which are 1 to 30", INERT),
    U32("fast_io_fail_timeout_sec", "the same as ctrlr_loss_timeout_sec, and goes before it"),
    END,
};

static void start_discovery(struct rpc_call *c)
{
    struct remote_addr addr;
    struct plx_error err;
    char settings[REMOTE_SETTINGS];
    int ret = remote_addr_parse(&addr, rpc_str(c, "trtype"), rpc_str(c, "adrfam"), rpc_str(c, "traddr"),
                                rpc_str(c, "trsvcid"), REMOTE_DISCOVERY_PORT, &err);
    if (!ret && addr.pcie)
        ret = plx_fail(&err, -EINVAL, "discovery controllers are reached by TCP");
    if (!ret)
        ret = remote_settings(c->rpc, c->params, false, settings, &err);
    rpc_takes_long(c);
    if (!ret)
        keep_patience(c);
    if (!ret)
        ret = remote_discovery_start(c->rpc, c, &addr, settings, &err);
    if (ret)
        rpc_fail_errno(c, ret, &err);
}

static const struct rpc_param params_remote_name[] = {
    TEXT("name", "of it", REQUIRED),
    END,
};

static const struct rpc_param params_health[] = {
    TEXT("name", "of a controller, or of a disk that is a namespace of one", REQUIRED),
    END,
};

static const struct rpc_param params_read[] = {
    TEXT("name", "of a controller, or of a disk that is a namespace of one", REQUIRED),
    ENUM("page", "identify|log", "what Identify returns, or a log page", REQUIRED),
    U8("id", "which: CNS, or the log page identifier", REQUIRED),
    U32("nsid", "of which namespace; of the disk, or of all for log pages, without it"),
    U8("csi", "command set that Identify is about, such as 2 of zoned namespaces", INIT("0")),
    U32("bytes", "of a log page, a multiple of 4", INIT("512"), LIMITS(4, 4096)),
    END,
};

static const struct rpc_param params_send_cmd[] = {
    TEXT("name", "of a controller, or of a disk that is a namespace of one", REQUIRED),
    ENUM("cmd_type", "admin|io", "which queue it goes to", REQUIRED),
    ENUM("data_direction", "c2h|h2c", "where its data goes: to the host, or to the controller", REQUIRED),
    TEXT("cmdbuf", "the command, 64 bytes in base64url; its identifier and where its data is do not matter", REQUIRED),
    U32("timeout_ms", "milliseconds until it is aborted; 0 for 30000", INIT("0"), LIMITS(0, 86400000)),
    U32("data_len", "bytes of data", LIMITS(0, 1048576)),
    U32("metadata_len", "bytes of metadata apart from data, which is not transferred", INIT("0")),
    TEXT("data", "what is sent, in base64url"),
    TEXT("metadata", "likewise, and is not sent"),
    END,
};

static void stop_discovery(struct rpc_call *c)
{
    struct plx_error err;
    rpc_takes_long(c);
    int ret = remote_discovery_stop(c->rpc, rpc_str(c, "name"), c, &err);
    if (ret)
        rpc_fail_errno(c, ret, &err);
}

static void get_discovery_info(struct rpc_call *c)
{
    rpc_ok(c, remote_discoveries_json(c->rpc));
}

/* ---- keys ---- */

static const struct rpc_param params_set_keys[] = {
    TEXT("name", "of the controller", REQUIRED),
    TEXT("dhchap_key", "of in-band authentication"),
    TEXT("dhchap_ctrlr_key", "of in-band authentication"),
    END,
};

static void set_remote_keys(struct rpc_call *c)
{
    struct plx_error err;
    plx_fail(&err, -ENOTSUP, "there is no in-band authentication here");
    if (remote_find(c->rpc, rpc_str(c, "name")))
        rpc_fail_errno(c, -ENOTSUP, &err);
    else
        remote_fail_none(c, rpc_str(c, "name"));
}

static const struct rpc_param params_controllers[] = {
    TEXT("name", "of one; all without it"),
    END,
};

static const struct rpc_param params_io_paths[] = {
    TEXT("name", "of one disk; all without it"),
    END,
};

const struct rpc_method rpc_methods_nvme[] = {
    {OPTIONS, "set_bdev_nvme_options", "Options of remote controllers that are attached after it.", params_nvme_options,
     RPC_OPTIONS, .startup = true, .group = "bdev"},
    {"bdev_nvme_set_hotplug", "set_bdev_nvme_hotplug", "Follows SSDs that come and go, or does so no more.",
     params_hotplug, RPC_OPTIONS, .group = "bdev", .run = remote_set_hotplug},
    {"bdev_nvme_attach_controller", "construct_nvme_bdev",
     "Attaches a remote controller, or one more path to it, or an SSD; returns the names of its disks.", params_attach,
     RPC_CHANGES, .group = "bdev", .run = attach_controller},
    {"bdev_nvme_detach_controller", "delete_nvme_controller",
     "Detaches a path, or a controller, whose disks are closed, with the namespaces that they are.", params_detach,
     RPC_CHANGES, .run = detach_controller},
    {"bdev_nvme_get_controllers", "get_nvme_controllers", "Describes controllers, and their paths.", params_controllers,
     RPC_READS, .run = remote_get_controllers},
    {"bdev_nvme_reset_controller", NULL, "Has a controller connected anew; answers when it is.", params_reset,
     RPC_READS, .run = reset_controller},
    {"bdev_nvme_get_io_paths", NULL, "Describes the paths of disks, by reactor.", params_io_paths, RPC_READS,
     .run = remote_get_io_paths},
    {"bdev_nvme_set_multipath_policy", NULL, "Sets how paths that are equally good are used.", params_policy,
     RPC_CHANGES, .group = "bdev", .run = set_multipath_policy},
    {"bdev_nvme_get_controller_health_info", NULL, "Reads the health log of a controller.", params_health, RPC_READS,
     .run = remote_get_health},
    {"pollux_nvme_read", NULL, "Asks a controller for a page of Identify, or of a log; returns it in hexadecimal.",
     params_read, RPC_READS, .run = remote_read},
    {"bdev_nvme_send_cmd", NULL, "Sends a controller a command as it is given; returns its completion, and its data.",
     params_send_cmd, RPC_READS, .run = remote_send_cmd},
    {"bdev_nvme_start_discovery", NULL,
     "Follows a discovery controller: what is in its log is attached, and detached when it leaves.", params_discovery,
     RPC_CHANGES, .group = "bdev", .run = start_discovery},
    {"bdev_nvme_stop_discovery", NULL, "Ends that, and detaches what was found.", params_remote_name, RPC_CHANGES,
     .run = stop_discovery},
    {"bdev_nvme_get_discovery_info", NULL, "Lists discovery controllers that are followed.", NULL, RPC_READS,
     .run = get_discovery_info},
    {"bdev_nvme_set_keys", NULL, "Sets keys of in-band authentication, which there is none of.", params_set_keys,
     RPC_READS, .run = set_remote_keys},
    {.name = NULL},
};
