/* SPDX-License-Identifier: BSD-3-Clause */
/* Methods for the target: its transport, subsystems and namespaces. */
#include "rpc/table.h"

#include "base/uuid.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define DISCOVERY_NQN "nqn.2014-08.org.nvmexpress.discovery"

/* ---- what methods here have in common ---- */

struct plx_nvmf_subsystem *rpc_subsystem(struct rpc_call *c)
{
    const char *nqn = rpc_str(c, "nqn");
    struct plx_nvmf_subsystem *s = plx_nvmf_subsystem_find(c->rpc->o.target, nqn);
    if (!s)
        rpc_fail(c, RPC_INVALID_PARAMS, "Subsystem with NQN '%.223s' not found", nqn);
    return s;
}

/* Disks that take long are told of in the log, and what was asked for is done. */
static void applied(void *arg, int ret)
{
    struct rpc_call *c = arg;
    struct plx_error err;
    json_t *result = c->result;
    c->result = NULL;
    if (!ret || ret == -ETIMEDOUT) {
        rpc_ok(c, result);
        return;
    }
    json_decref(result);
    if (c->undo)
        c->undo(c);
    plx_fail(&err, ret, "%s; the log says more", strerror(-ret));
    rpc_fail_params(c, &err);
}

void rpc_apply(struct rpc_call *c, json_t *result)
{
    c->result = result;
    c->tried = true;
    plx_nvmf_target_apply(c->rpc->o.target, applied, c);
}

/* ---- transports ---- */

static const struct rpc_param params_create_transport[] = {
    TEXT("trtype", "TCP", REQUIRED),
    TARGET,
    U16("max_queue_depth", "entries of a queue", INIT("128"), LIMITS(2, 1024)),
    U16("max_io_qpairs_per_ctrlr", "I/O queue pairs of a host", INIT("128"), LIMITS(1, 128)),
    U32("in_capsule_data_size", "bytes that a command may carry along, a multiple of 512", INIT("8192"),
        LIMITS(0, 65536)),
    U32("max_io_size", "bytes of the largest transfer, a power of two; at most what --max-io-size allows; 1 MiB",
        LIMITS(4096, 4 << 20)),
    U32("io_unit_size", "of buffers", INERT),
    U32("max_aq_depth", "entries of the admin queue", INIT("128"), INERT),
    U32("num_shared_buffers", "how many", INERT),
    U32("buf_cache_size", "how many", INERT),
    U32("iobuf_small_cache_size", "how many", INIT("4294967295"), INERT),
    U32("iobuf_large_cache_size", "how many", INIT("4294967295"), INERT),
    BOOL("zcopy", "memory is lent wherever it can be", INIT("false"), INERT),
    I32("num_cqe", "of RDMA", INERT),
    U32("max_srq_depth", "of RDMA", INERT),
    BOOL("no_srq", "of RDMA", INERT),
    BOOL("c2h_success", "reads end without a response of their own, where the host allows it", INIT("true"), INERT),
    BOOL("dif_insert_or_strip", "protection information", INIT("false"), INERT),
    U32("sock_priority", "of sockets", INIT("0"), INERT),
    I32("acceptor_backlog", "connections that wait", INERT),
    U32("abort_timeout_sec", "seconds", INIT("1"), INERT),
    BOOL("no_wr_batching", "of RDMA", INERT),
    U16("control_msg_num", "how many", INERT),
    BOOL("disable_mappable_bar0", "of vfio-user", INERT),
    BOOL("disable_adaptive_irq", "of vfio-user", INERT),
    BOOL("disable_shadow_doorbells", "of vfio-user", INERT),
    U32("acceptor_poll_rate", "microseconds", INERT),
    U32("ack_timeout", "of RDMA", INIT("0"), INERT),
    U32("data_wr_pool_size", "of RDMA", INIT("0"), INERT),
    BOOL("disable_command_passthru", "commands are passed to no disk as they are", INIT("false"), INERT),
    U16("kas", "keep-alive granularity", INIT("100"), INERT),
    U32("min_kato", "milliseconds", INIT("10000"), INERT),
    FLAGS("masked_oncs", "compare|write_uncorrectable|dsm|write_zeroes|reservations|timestamp|verify|copy",
          "operations that hosts are not told of", INERT),
    FLAGS("masked_fuses", "compare_and_write", "the same", INERT),
    END,
};

static void create_transport(struct rpc_call *c)
{
    struct plx_error err;
    const char *type = rpc_str(c, "trtype");
    static const char *const others[] = {"RDMA", "FC", "PCIE", "VFIOUSER"};
    for (size_t i = 0; i < PLX_ARRAY_SIZE(others); i++)
        if (strcasecmp(type, others[i]) == 0) {
            rpc_fail(c, RPC_INVALID_PARAMS, "Invalid transport type '%s': it is not built in; TCP is", type);
            return;
        }
    if (strcasecmp(type, "TCP") != 0) {
        rpc_fail(c, RPC_INVALID_PARAMS, "Invalid transport type '%.60s': there is TCP", type);
        return;
    }
    if (c->rpc->transport) {
        rpc_fail(c, RPC_INTERNAL, "Transport type 'TCP' already exists");
        return;
    }
    struct plx_nvmf_opts o = *plx_nvmf_target_opts(c->rpc->o.target);
    o.queue_depth = (uint32_t)rpc_uint(c, "max_queue_depth");
    o.max_queues = (uint32_t)rpc_uint(c, "max_io_qpairs_per_ctrlr");
    o.in_capsule_size = (uint32_t)rpc_uint(c, "in_capsule_data_size");
    o.no_in_capsule = !o.in_capsule_size;
    if (rpc_param(c, "max_io_size"))
        o.max_io_size = (uint32_t)rpc_uint(c, "max_io_size");
    int ret = plx_nvmf_target_set_opts(c->rpc->o.target, &o, &err);
    if (ret) {
        rpc_fail_params(c, &err);
        return;
    }
    c->rpc->transport = json_copy(c->params);
    json_object_del(c->rpc->transport, "tgt_name");
    json_object_set_new(c->rpc->transport, "trtype", json_string("TCP"));
    json_object_set_new(c->rpc->transport, "max_io_size", json_integer(o.max_io_size));
    rpc_ok(c, NULL);
}

static const struct rpc_param params_get_transports[] = {
    TARGET,
    TEXT("trtype", "one alone"),
    END,
};

static void get_transports(struct rpc_call *c)
{
    const char *type = rpc_str(c, "trtype");
    json_t *out = json_array();
    bool wanted = !type || strcasecmp(type, "TCP") == 0;
    if (type && (!wanted || !c->rpc->transport)) {
        json_decref(out);
        rpc_fail(c, -ENODEV, "No such device: transport type '%.60s' was not created", type);
        return;
    }
    if (c->rpc->transport)
        json_array_append(out, c->rpc->transport);
    rpc_ok(c, out);
}

static void get_targets(struct rpc_call *c)
{
    rpc_ok(c, json_pack("[s]", "nvmf_tgt"));
}

/* ---- subsystems ---- */

static const struct rpc_param params_create_subsystem[] = {
    TEXT("nqn", "its name", REQUIRED),
    TARGET,
    TEXT("serial_number", "at most 20 printable characters; made from the NQN without it", LIMITS(0, 20)),
    TEXT("model_number", "at most 40 printable characters; \"Pollux\" without it", LIMITS(0, 40)),
    TEXT("admin_label", "for operators", INERT),
    U32("max_namespaces", "the largest namespace identifier; 0 for 1024", INIT("1024"), LIMITS(0, 1024)),
    BOOL("allow_any_host", "every host may connect", INIT("false")),
    BOOL("ana_reporting", "hosts are always told of ANA states", INIT("false"), INERT),
    U16("min_cntlid", "controller identifiers that hosts get, from", INIT("1"), LIMITS(1, 65519)),
    U16("max_cntlid", "and to", INIT("65519"), LIMITS(1, 65519)),
    U32("dmrsl", "blocks", INIT("2097152"), INERT),
    U8("wzsl", "a power of two of pages", INIT("12"), INERT),
    BOOL("passthrough", "commands go to the disk as they are", INIT("false"), INERT),
    BOOL("enable_nssr", "subsystem reset", INIT("false"), INERT),
    END,
};

/* An empty text is one that was not given. */
static const char *or_none(const char *text)
{
    return text && text[0] ? text : NULL;
}

static void create_subsystem(struct rpc_call *c)
{
    struct plx_error err;
    struct plx_nvmf_subsystem *s;
    const struct plx_nvmf_subsystem_opts opts = {
        .nqn = rpc_str(c, "nqn"),
        .serial = or_none(rpc_str(c, "serial_number")),
        .model = or_none(rpc_str(c, "model_number")),
        .allow_any_host = rpc_bool(c, "allow_any_host"),
        .some_listeners = true,
        .min_cntlid = (uint16_t)rpc_uint(c, "min_cntlid"),
        .max_cntlid = (uint16_t)rpc_uint(c, "max_cntlid"),
        .max_namespaces = (uint32_t)rpc_uint(c, "max_namespaces"),
    };
    int ret = plx_nvmf_subsystem_create(c->rpc->o.target, &opts, &s, &err);
    if (ret) {
        rpc_fail(c, RPC_INTERNAL, "Unable to create subsystem %.223s: %.200s", opts.nqn, err.text);
        return;
    }
    json_object_set_new(c->rpc->subsystems, opts.nqn, json_copy(c->params));
    rpc_apply(c, NULL);
}

static const struct rpc_param params_nqn[] = {
    TEXT("nqn", "of the subsystem", REQUIRED),
    TARGET,
    END,
};

static void delete_subsystem(struct rpc_call *c)
{
    struct plx_nvmf_subsystem *s = rpc_subsystem(c);
    if (!s)
        return;
    json_object_del(c->rpc->subsystems, rpc_str(c, "nqn"));
    rpc_ns_texts_forget(c->rpc, rpc_str(c, "nqn"));
    plx_nvmf_subsystem_remove(s);
    rpc_listeners_tidy(c->rpc);
    rpc_apply(c, NULL);
}

/* Identifiers in hex, upper case and without dashes: as clients have them. */
static json_t *hex_json(const uint8_t *id, size_t n)
{
    char text[33];
    for (size_t i = 0; i < n; i++)
        snprintf(text + 2 * i, 3, "%02X", id[i]);
    return json_string(text);
}

static bool no_identifier(const uint8_t *id, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (id[i])
            return false;
    return true;
}

static void add_host_name(void *arg, const char *hostnqn)
{
    json_array_append_new(arg, json_string(hostnqn));
}

/* A namespace, as methods show it (`shown`), or as one takes it. */
static json_t *ns_json(struct plx_rpc *rpc, const struct plx_nvmf_subsystem *s, const struct plx_nvmf_ns_info *info,
                       bool shown)
{
    bool all = shown || !rpc_disk_is_volatile(rpc, info->bdev); /* else what is derived will be another */
    const char *name = plx_bdev_info(info->bdev)->name;
    json_t *o = json_pack("{s:I, s:s}", "nsid", (json_int_t)info->nsid, "bdev_name", name);
    if (shown)
        json_object_set_new(o, "name", json_string(name));
    if (all || info->own_nguid)
        json_object_set_new(o, "nguid", hex_json(info->nguid, 16));
    if (!no_identifier(info->eui64, 8))
        json_object_set_new(o, "eui64", hex_json(info->eui64, 8));
    if (all || info->own_uuid)
        json_object_set_new(o, "uuid", rpc_uuid_json(info->uuid));
    json_object_set_new(o, "anagrpid", json_integer(info->anagrpid));
    if (info->ptpl_file)
        json_object_set_new(o, "ptpl_file", json_string(info->ptpl_file));
    if (info->no_auto_visible || !shown)
        json_object_set_new(o, "no_auto_visible", json_boolean(info->no_auto_visible));
    if (info->no_auto_visible && shown) {
        json_t *hosts = json_array();
        plx_nvmf_ns_each_host(s, info->nsid, add_host_name, hosts);
        json_object_set_new(o, "hosts", hosts);
    }
    return o;
}

static json_t *subsystem_json(struct plx_rpc *rpc, const struct plx_nvmf_subsystem *s)
{
    struct plx_nvmf_subsystem_info info;
    plx_nvmf_subsystem_info(s, &info);
    const json_t *made = json_object_get(rpc->subsystems, info.nqn);
    json_t *hosts = json_array(), *namespaces = json_array();
    for (unsigned i = 0; plx_nvmf_subsystem_host(s, i); i++)
        json_array_append_new(hosts, json_pack("{s:s}", "nqn", plx_nvmf_subsystem_host(s, i)));
    struct plx_nvmf_ns_info ns;
    for (uint32_t nsid = 0; (nsid = plx_nvmf_ns_next(s, nsid)) && plx_nvmf_ns_info(s, nsid, &ns);)
        json_array_append_new(namespaces, ns_json(rpc, s, &ns, true));
    json_t *o = json_pack("{s:s, s:s, s:o, s:b, s:o, s:s, s:s, s:I, s:b, s:i, s:i}", "nqn", info.nqn, "subtype", "NVMe",
                          "listen_addresses", rpc_listen_addresses(rpc, s), "allow_any_host", info.allow_any_host,
                          "hosts", hosts, "serial_number", info.serial, "model_number", info.model, "max_namespaces",
                          (json_int_t)info.max_namespaces, "passthrough", false, "min_cntlid", info.min_cntlid,
                          "max_cntlid", info.max_cntlid);
    if (made) {
        json_object_set(o, "dmrsl", json_object_get(made, "dmrsl"));
        json_object_set(o, "wzsl", json_object_get(made, "wzsl"));
    }
    json_object_set_new(o, "namespaces", namespaces);
    return o;
}

static json_t *discovery_json(struct plx_rpc *rpc)
{
    return json_pack("{s:s, s:s, s:o, s:b, s:[]}", "nqn", DISCOVERY_NQN, "subtype", "Discovery", "listen_addresses",
                     rpc_listen_addresses(rpc, NULL), "allow_any_host", true, "hosts");
}

static const struct rpc_param params_get_subsystems[] = {
    TEXT("nqn", "of one subsystem; all without it"),
    TARGET,
    END,
};

static void get_subsystems(struct rpc_call *c)
{
    const char *nqn = rpc_str(c, "nqn");
    struct plx_nvmf_subsystem *s = NULL;
    json_t *out = json_array();
    if (!nqn || strcmp(nqn, DISCOVERY_NQN) == 0)
        json_array_append_new(out, discovery_json(c->rpc));
    if (!nqn) {
        while ((s = plx_nvmf_subsystem_next(c->rpc->o.target, s)))
            json_array_append_new(out, subsystem_json(c->rpc, s));
    } else if (!json_array_size(out)) {
        s = rpc_subsystem(c);
        if (!s) {
            json_decref(out);
            return;
        }
        json_array_append_new(out, subsystem_json(c->rpc, s));
    }
    rpc_ok(c, out);
}

/* ---- namespaces ---- */

static const struct rpc_param members_namespace[] = {
    U32("nsid", "its identifier; the lowest free one without it", INIT("0")),
    TEXT("bdev_name", "the disk that it is", REQUIRED),
    TEXT("nguid", "32 hex digits"),
    TEXT("eui64", "16 hex digits"),
    UUID("uuid", "the disk's without it"),
    TEXT("ptpl_file", "where reservations are kept through a loss of power", LIMITS(1, 4000)),
    U32("anagrpid", "ANA group, 1 to 128; 0 for that with the number of the namespace, or 1 where there is none",
        INIT("0")),
    BOOL("no_auto_visible", "no host sees it until it is attached to one", INIT("false")),
    BOOL("hide_metadata", "it has none", INIT("false"), INERT),
    END,
};

static const struct rpc_param params_add_ns[] = {
    TEXT("nqn", "of the subsystem", REQUIRED),
    TARGET,
    OBJECT("namespace", members_namespace, "what it is", REQUIRED),
    END,
};

/* Hex digits, of which dashes between are let pass. @return whether there are exactly n bytes */
static bool parse_hex(const char *text, uint8_t *out, size_t n)
{
    size_t i = 0;
    for (; *text; text++) {
        if (*text == '-')
            continue;
        if (i == 2 * n || plx_hex(*text) < 0)
            return false;
        out[i / 2] = (uint8_t)(i % 2 ? out[i / 2] << 4 | plx_hex(*text) : plx_hex(*text));
        i++;
    }
    return i == 2 * n;
}

struct ns_ids {
    uint8_t uuid[16], nguid[16], eui64[8];
};

static int parse_ids(const json_t *ns, struct ns_ids *ids, struct plx_nvmf_ns_opts *o, struct plx_error *err)
{
    const char *nguid = rpc_str_in(ns, "nguid"), *eui64 = rpc_str_in(ns, "eui64"), *uuid = rpc_str_in(ns, "uuid");
    if (nguid && !parse_hex(nguid, ids->nguid, 16))
        return plx_fail(err, -EINVAL, "nguid %.60s is not 32 hex digits", nguid);
    if (eui64 && !parse_hex(eui64, ids->eui64, 8))
        return plx_fail(err, -EINVAL, "eui64 %.60s is not 16 hex digits", eui64);
    if (uuid)
        plx_uuid_parse(uuid, ids->uuid);
    o->nguid = nguid ? ids->nguid : NULL;
    o->eui64 = eui64 ? ids->eui64 : NULL;
    o->uuid = uuid ? ids->uuid : NULL;
    return 0;
}

/* Each namespace has a group of its own, unless it was told another one, for as long as there are groups. */
static uint32_t own_group(const struct plx_nvmf_subsystem *s, uint32_t nsid)
{
    for (uint32_t taken = 0; !nsid; taken++)
        if (plx_nvmf_ns_next(s, taken) != taken + 1)
            nsid = taken + 1;
    return nsid <= PLX_NVMF_ANA_GROUPS ? nsid : 1;
}

static void add_ns(struct rpc_call *c)
{
    struct plx_error err;
    struct ns_ids ids;
    struct plx_nvmf_subsystem *s = rpc_subsystem(c);
    if (!s)
        return;
    const json_t *ns = rpc_param(c, "namespace");
    struct plx_nvmf_ns_opts o = {.nsid = (uint32_t)rpc_uint_in(ns, "nsid"),
                                 .anagrpid = (uint32_t)rpc_uint_in(ns, "anagrpid"),
                                 .ptpl_file = rpc_str_in(ns, "ptpl_file"),
                                 .no_auto_visible = rpc_bool_in(ns, "no_auto_visible")};
    struct plx_bdev *bdev = plx_bdev_find(rpc_str_in(ns, "bdev_name"));
    o.anagrpid = o.anagrpid ? o.anagrpid : own_group(s, o.nsid);
    int ret = parse_ids(ns, &ids, &o, &err);
    if (!ret && !bdev)
        ret =
            plx_fail(&err, -ENODEV, "there is no disk %.100s; bdev_get_bdevs lists disks", rpc_str_in(ns, "bdev_name"));
    if (!ret && rpc_disk_claimed(bdev))
        ret = plx_fail(&err, -EBUSY, "%.100s is used exclusively by a disk that stands on it; add that one",
                       plx_bdev_info(bdev)->name);
    if (!ret)
        ret = plx_nvmf_subsystem_add_ns(s, bdev, &o, &err);
    if (ret < 0)
        rpc_fail_params(c, &err);
    else
        rpc_apply(c, json_integer(ret));
}

static const struct rpc_param params_nsid[] = {
    TEXT("nqn", "of the subsystem", REQUIRED),
    U32("nsid", "of the namespace", REQUIRED),
    TARGET,
    END,
};

static void remove_ns(struct rpc_call *c)
{
    struct plx_error err;
    struct plx_nvmf_subsystem *s = rpc_subsystem(c);
    if (!s)
        return;
    if (plx_nvmf_subsystem_remove_ns(s, (uint32_t)rpc_uint(c, "nsid"), &err))
        rpc_fail_params(c, &err);
    else
        rpc_apply(c, NULL);
}

static const struct rpc_param params_ns_host[] = {
    TEXT("nqn", "of the subsystem", REQUIRED),
    U32("nsid", "of the namespace", REQUIRED),
    TEXT("host", "NQN of the host", REQUIRED),
    TARGET,
    END,
};

static void change_ns_host(struct rpc_call *c, int (*change)(struct plx_nvmf_subsystem *s, uint32_t nsid,
                                                             const char *hostnqn, struct plx_error *err))
{
    struct plx_error err;
    struct plx_nvmf_subsystem *s = rpc_subsystem(c);
    if (!s)
        return;
    if (change(s, (uint32_t)rpc_uint(c, "nsid"), rpc_str(c, "host"), &err))
        rpc_fail_params(c, &err);
    else
        rpc_apply(c, NULL);
}

static void ns_add_host(struct rpc_call *c)
{
    change_ns_host(c, plx_nvmf_ns_add_host);
}

static void ns_remove_host(struct rpc_call *c)
{
    change_ns_host(c, plx_nvmf_ns_remove_host);
}

static const struct rpc_param params_ns_group[] = {
    TEXT("nqn", "of the subsystem", REQUIRED),
    U32("nsid", "of the namespace", REQUIRED),
    U32("anagrpid", "ANA group", REQUIRED, LIMITS(1, PLX_NVMF_ANA_GROUPS)),
    TARGET,
    END,
};

static void set_ns_group(struct rpc_call *c)
{
    struct plx_error err;
    struct plx_nvmf_subsystem *s = rpc_subsystem(c);
    if (!s)
        return;
    if (plx_nvmf_subsystem_set_ns_ana_group(s, (uint32_t)rpc_uint(c, "nsid"), (uint32_t)rpc_uint(c, "anagrpid"), &err))
        rpc_fail_params(c, &err);
    else
        rpc_apply(c, NULL);
}

/* ---- pausing ---- */

static const struct rpc_param params_pause[] = {
    TEXT("nqn", "of the subsystem", REQUIRED),
    U32("nsid", "of one namespace; 0 for all", INIT("0")),
    TARGET,
    END,
};

static void pause_over(void *arg, int ret)
{
    struct rpc_call *c = arg;
    if (ret)
        rpc_fail_errno(c, ret, NULL);
    else
        rpc_ok(c, NULL);
}

/* They are no changes of the configuration, and take as long as disks do. */
static void subsystem_pause(struct rpc_call *c)
{
    struct plx_nvmf_subsystem *s = rpc_subsystem(c);
    if (s)
        plx_nvmf_subsystem_pause(s, (uint32_t)rpc_uint(c, "nsid"), pause_over, c);
}

static void subsystem_resume(struct rpc_call *c)
{
    struct plx_nvmf_subsystem *s = rpc_subsystem(c);
    if (s)
        plx_nvmf_subsystem_resume(s, (uint32_t)rpc_uint(c, "nsid"), pause_over, c);
}

/* ---- again ---- */

struct host_listing {
    struct rpc_config *list;
    const char *nqn;
    uint32_t nsid;
};

static void config_ns_host(void *arg, const char *hostnqn)
{
    const struct host_listing *h = arg;
    rpc_config_add(h->list, "nvmf_ns_add_host",
                   json_pack("{s:s, s:I, s:s}", "nqn", h->nqn, "nsid", (json_int_t)h->nsid, "host", hostnqn));
}

/* What a dump says of a namespace, for as long as it is this one. */
struct ns_text {
    struct plx_nvmf_ns_info info;
    char disk[RPC_NAME];
    char *text;
};

struct ns_texts {
    struct plx_list link; /* in rpc->ns_texts */
    char nqn[PLX_NVMF_NQN_SIZE];
    uint32_t n;
    struct ns_text *of; /* by nsid - 1 */
};

static void ns_texts_free(struct ns_texts *t)
{
    for (uint32_t i = 0; i < t->n; i++)
        free(t->of[i].text);
    plx_list_del(&t->link);
    free(t->of);
    free(t);
}

void rpc_ns_texts_forget(struct plx_rpc *rpc, const char *nqn)
{
    plx_list_for_each_safe(it, &rpc->ns_texts) {
        struct ns_texts *t = plx_list_entry(it, struct ns_texts, link);
        if (!nqn || strcmp(t->nqn, nqn) == 0)
            ns_texts_free(t);
    }
}

static struct ns_texts *ns_texts_find(struct plx_rpc *rpc, const char *nqn)
{
    plx_list_for_each(it, &rpc->ns_texts) {
        struct ns_texts *t = plx_list_entry(it, struct ns_texts, link);
        if (strcmp(t->nqn, nqn) == 0)
            return t;
    }
    struct ns_texts *t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    snprintf(t->nqn, sizeof t->nqn, "%s", nqn);
    plx_list_add_tail(&rpc->ns_texts, &t->link);
    return t;
}

/* Where the text of a namespace is kept; NULL without memory. */
static struct ns_text *ns_text_of(struct ns_texts *t, uint32_t nsid)
{
    if (t && nsid > t->n) {
        struct ns_text *of = realloc(t->of, nsid * sizeof *of);
        if (!of)
            return NULL;
        memset(of + t->n, 0, (nsid - t->n) * sizeof *of);
        t->of = of;
        t->n = nsid;
    }
    return t ? &t->of[nsid - 1] : NULL;
}

static bool ns_text_is(const struct ns_text *t, const struct plx_nvmf_ns_info *i, const char *disk)
{
    const struct plx_nvmf_ns_info *was = &t->info;
    return t->text && was->bdev == i->bdev && was->anagrpid == i->anagrpid && !was->ptpl_file && !i->ptpl_file &&
           was->no_auto_visible == i->no_auto_visible && was->own_uuid == i->own_uuid &&
           was->own_nguid == i->own_nguid && !memcmp(was->uuid, i->uuid, sizeof i->uuid) &&
           !memcmp(was->nguid, i->nguid, sizeof i->nguid) && !memcmp(was->eui64, i->eui64, sizeof i->eui64) &&
           !strcmp(t->disk, disk);
}

static void config_ns(struct plx_rpc *rpc, struct rpc_config *list, const struct plx_nvmf_subsystem *s, const char *nqn,
                      const struct plx_nvmf_ns_info *info, struct ns_text *kept)
{
    const char *disk = plx_bdev_info(info->bdev)->name;
    if (kept && ns_text_is(kept, info, disk)) {
        rpc_config_add_kept(list, kept->text);
        return;
    }
    char *text = rpc_config_keep(list, "nvmf_subsystem_add_ns",
                                 json_pack("{s:s, s:o}", "nqn", nqn, "namespace", ns_json(rpc, s, info, false)));
    if (!kept) {
        free(text);
        return;
    }
    free(kept->text);
    kept->text = text;
    kept->info = *info;
    snprintf(kept->disk, sizeof kept->disk, "%s", disk);
}

static void config_subsystem(struct plx_rpc *rpc, struct rpc_config *list, const struct plx_nvmf_subsystem *s)
{
    struct plx_nvmf_subsystem_info info;
    plx_nvmf_subsystem_info(s, &info);
    json_t *made = json_copy(json_object_get(rpc->subsystems, info.nqn));
    if (!made) /* by the command line */
        made = json_pack("{s:s}", "nqn", info.nqn);
    json_object_set_new(made, "serial_number", json_string(info.serial));
    json_object_set_new(made, "model_number", json_string(info.model));
    json_object_set_new(made, "max_namespaces", json_integer(info.max_namespaces));
    json_object_set_new(made, "allow_any_host", json_boolean(info.allow_any_host));
    json_object_set_new(made, "min_cntlid", json_integer(info.min_cntlid));
    json_object_set_new(made, "max_cntlid", json_integer(info.max_cntlid));
    rpc_config_add(list, "nvmf_create_subsystem", made);
    for (unsigned i = 0; plx_nvmf_subsystem_host(s, i); i++)
        rpc_config_add(list, "nvmf_subsystem_add_host",
                       json_pack("{s:s, s:s}", "nqn", info.nqn, "host", plx_nvmf_subsystem_host(s, i)));
    struct ns_texts *texts = ns_texts_find(rpc, info.nqn);
    struct plx_nvmf_ns_info ns;
    for (uint32_t nsid = 0; (nsid = plx_nvmf_ns_next(s, nsid)) && plx_nvmf_ns_info(s, nsid, &ns);) {
        struct host_listing h = {list, info.nqn, nsid};
        config_ns(rpc, list, s, info.nqn, &ns, ns_text_of(texts, nsid));
        if (ns.no_auto_visible)
            plx_nvmf_ns_each_host(s, nsid, config_ns_host, &h);
    }
}

void rpc_config_nvmf(struct plx_rpc *rpc, struct rpc_config *list)
{
    struct plx_nvmf_subsystem *s = NULL;
    if (rpc->transport)
        rpc_config_add(list, "nvmf_create_transport", json_incref(rpc->transport));
    while ((s = plx_nvmf_subsystem_next(rpc->o.target, s)))
        config_subsystem(rpc, list, s);
    rpc_config_host_limits(rpc, list);
    rpc_config_access(rpc, list);
}

const struct rpc_method rpc_methods_nvmf[] = {
    {"nvmf_get_targets", NULL, "Lists targets, of which there is one.", NULL, RPC_READS, .run = get_targets},
    {"nvmf_create_transport", NULL, "Makes a transport, which listeners need.", params_create_transport, RPC_CHANGES,
     .bad = RPC_INVALID_PARAMS, .run = create_transport},
    {"nvmf_get_transports", NULL, "Lists transports.", params_get_transports, RPC_READS, .run = get_transports},
    {"nvmf_create_subsystem", "construct_nvmf_subsystem", "Makes a subsystem.", params_create_subsystem, RPC_CHANGES,
     .bad = RPC_INVALID_PARAMS, .run = create_subsystem},
    {"nvmf_delete_subsystem", "delete_nvmf_subsystem", "Deletes a subsystem; its hosts are disconnected.", params_nqn,
     RPC_CHANGES, .run = delete_subsystem},
    {"nvmf_get_subsystems", "get_nvmf_subsystems", "Describes one subsystem, or all; that of discovery is the first.",
     params_get_subsystems, RPC_READS, .run = get_subsystems},
    {"nvmf_subsystem_add_ns", NULL, "Adds a disk as a namespace, which hosts see at once; returns its identifier.",
     params_add_ns, RPC_CHANGES, .bad = RPC_INVALID_PARAMS, .run = add_ns},
    {"nvmf_subsystem_remove_ns", NULL, "Removes a namespace; what hosts have in flight there is aborted.", params_nsid,
     RPC_CHANGES, .bad = RPC_INVALID_PARAMS, .run = remove_ns},
    {"nvmf_ns_add_host", NULL, "Attaches a namespace that is not visible by itself to a host.", params_ns_host,
     RPC_CHANGES, .bad = RPC_INVALID_PARAMS, .run = ns_add_host},
    {"nvmf_ns_remove_host", NULL, "Takes it from the host; what that has in flight there is aborted.", params_ns_host,
     RPC_CHANGES, .bad = RPC_INVALID_PARAMS, .run = ns_remove_host},
    {"nvmf_subsystem_set_ns_ana_group", NULL, "Moves a namespace to another ANA group.", params_ns_group, RPC_CHANGES,
     .bad = RPC_INVALID_PARAMS, .run = set_ns_group},
    {"pollux_subsystem_pause", NULL, "Holds new commands of hosts, and returns when disks have none any more.",
     params_pause, RPC_READS, .run = subsystem_pause},
    {"pollux_subsystem_resume", NULL, "Lets them go on.", params_pause, RPC_READS, .run = subsystem_resume},
    {.name = NULL},
};
