/* SPDX-License-Identifier: BSD-3-Clause */
/* Methods for the limits of disks, and for what went through them. */
#include "rpc/table.h"

#include <errno.h>
#include <string.h>

#define MB (UINT64_C(1) << 20)

/* The members of a call, and where they are kept. */
static const struct {
    const char *name;
    size_t offset;
    uint64_t unit;
    bool ours; /* beyond what others' clients know */
} members[] = {
    {"rw_ios_per_sec", offsetof(struct plx_bdev_limits, ios), 1, false},
    {"rw_mbytes_per_sec", offsetof(struct plx_bdev_limits, bytes), MB, false},
    {"r_mbytes_per_sec", offsetof(struct plx_bdev_limits, read_bytes), MB, false},
    {"w_mbytes_per_sec", offsetof(struct plx_bdev_limits, write_bytes), MB, false},
    {"r_ios_per_sec", offsetof(struct plx_bdev_limits, read_ios), 1, true},
    {"w_ios_per_sec", offsetof(struct plx_bdev_limits, write_ios), 1, true},
};

static uint64_t *limit_at(struct plx_bdev_limits *l, size_t i)
{
    return (uint64_t *)(void *)((char *)l + members[i].offset);
}

/* Those of others' clients always, ours where they limit something. */
json_t *rpc_disk_limits(struct plx_bdev *bdev)
{
    struct plx_bdev_limits l;
    json_t *o = json_object();
    plx_bdev_get_limits(bdev, &l);
    for (size_t i = 0; i < PLX_ARRAY_SIZE(members); i++)
        if (!members[i].ours || *limit_at(&l, i))
            json_object_set_new(o, members[i].name, json_integer((json_int_t)(*limit_at(&l, i) / members[i].unit)));
    return o;
}

void rpc_config_disk_more(struct rpc_config *list, const struct rpc_disk *d)
{
    struct plx_bdev_limits l;
    plx_bdev_get_limits(d->bdev, &l);
    json_t *o = json_pack("{s:s}", "name", d->name);
    for (size_t i = 0; i < PLX_ARRAY_SIZE(members); i++)
        if (*limit_at(&l, i))
            json_object_set_new(o, members[i].name, json_integer((json_int_t)(*limit_at(&l, i) / members[i].unit)));
    if (json_object_size(o) > 1 && d->burst_ms)
        json_object_set_new(o, "burst_ms", json_integer(d->burst_ms));
    if (json_object_size(o) > 1)
        rpc_config_add(list, "bdev_set_qos_limit", o);
    else
        json_decref(o);
}

#define LIMIT_PARAMS                                                                                                   \
    U64("rw_ios_per_sec", "reads and writes a second; 0: no limit", LIMITS(0, UINT32_MAX)),                            \
        U64("rw_mbytes_per_sec", "MiB of them a second; 0: no limit", LIMITS(0, UINT32_MAX)),                          \
        U64("r_mbytes_per_sec", "MiB read a second; 0: no limit", LIMITS(0, UINT32_MAX)),                              \
        U64("w_mbytes_per_sec", "MiB written a second; 0: no limit", LIMITS(0, UINT32_MAX)),                           \
        U64("r_ios_per_sec", "reads a second; 0: no limit", LIMITS(0, UINT32_MAX)),                                    \
        U64("w_ios_per_sec", "writes a second; 0: no limit", LIMITS(0, UINT32_MAX)),                                   \
        U32("burst_ms", "what was left unused in so many milliseconds may be made up for; 0 for 50", LIMITS(0, 10000))

static const struct rpc_param params_qos[] = {
    TEXT("name", "of the disk", REQUIRED),
    LIMIT_PARAMS,
    END,
};

/* Limits that are not named stay as they are. */
static int limits_of_call(const struct rpc_call *c, struct plx_bdev_limits *l, struct plx_error *err)
{
    bool any = rpc_param(c, "burst_ms") != NULL;
    for (size_t i = 0; i < PLX_ARRAY_SIZE(members); i++)
        if (rpc_param(c, members[i].name)) {
            *limit_at(l, i) = rpc_uint(c, members[i].name) * members[i].unit;
            any = true;
        }
    l->burst_ms = rpc_param(c, "burst_ms") ? (uint32_t)rpc_uint(c, "burst_ms") : l->burst_ms;
    return any ? 0 : plx_fail(err, -EINVAL, "no limit is named, such as rw_ios_per_sec; 0 takes one away");
}

static void set_qos_limit(struct rpc_call *c)
{
    struct plx_error err;
    struct plx_bdev_limits l;
    struct plx_bdev *bdev = plx_bdev_find(rpc_str(c, "name"));
    struct rpc_disk *d = rpc_disk_of(c->rpc, bdev);
    if (!bdev) {
        rpc_fail_no_disk(c, rpc_str(c, "name"));
        return;
    }
    plx_bdev_get_limits(bdev, &l);
    int ret = limits_of_call(c, &l, &err);
    if (!ret)
        ret = plx_bdev_set_limits(bdev, &l, &err);
    if (ret) {
        rpc_fail_errno(c, ret, &err);
        return;
    }
    if (d)
        d->burst_ms = l.burst_ms;
    rpc_ok(c, NULL);
}

/* ---- limits of hosts ---- */

static const struct rpc_param params_host_limits[] = {
    TEXT("group", "a name for these hosts", REQUIRED, LIMITS(1, PLX_NVMF_HOST_GROUP_NAME - 1)),
    {.name = "hosts", .type = RPC_STRINGS, .required = true, .help = "their NQNs; each is in one group"},
    LIMIT_PARAMS,
    END,
};

static void host_limits_done(void *arg, int ret)
{
    struct rpc_call *c = arg;
    if (ret)
        rpc_fail_errno(c, ret, NULL);
    else
        rpc_ok(c, NULL);
}

/* All limits of a group are named at once: those that are not named are none. */
static void set_host_limits(struct rpc_call *c)
{
    struct plx_error err;
    struct plx_bdev_limits l = {0};
    const json_t *names = rpc_param(c, "hosts");
    size_t n = json_array_size(names);
    const char **hosts = calloc(n + 1, sizeof *hosts);
    int ret = hosts ? limits_of_call(c, &l, &err) : plx_fail(&err, -ENOMEM, "out of memory");
    for (size_t i = 0; hosts && i < n; i++)
        hosts[i] = json_string_value(json_array_get(names, i));
    if (!ret)
        ret = plx_nvmf_host_limits_set(c->rpc->o.target, rpc_str(c, "group"), hosts, (unsigned)n, &l, host_limits_done,
                                       c, &err);
    free(hosts);
    if (ret)
        rpc_fail_errno(c, ret, &err);
}

static const struct rpc_param params_host_group[] = {
    TEXT("group", "its name", REQUIRED),
    END,
};

static void remove_host_limits(struct rpc_call *c)
{
    struct plx_error err;
    int ret = plx_nvmf_host_limits_remove(c->rpc->o.target, rpc_str(c, "group"), host_limits_done, c, &err);
    if (ret)
        rpc_fail_errno(c, ret, &err);
}

static json_t *host_group_json(struct plx_nvmf_host_group_info *info)
{
    json_t *hosts = json_array();
    for (unsigned i = 0; i < info->nhosts; i++)
        json_array_append_new(hosts, json_string(plx_nvmf_host_group_host(info, i)));
    json_t *o = json_pack("{s:s, s:o}", "group", info->name, "hosts", hosts);
    for (size_t i = 0; i < PLX_ARRAY_SIZE(members); i++)
        json_object_set_new(o, members[i].name,
                            json_integer((json_int_t)(*limit_at(&info->limits, i) / members[i].unit)));
    json_object_set_new(o, "burst_ms", json_integer(info->limits.burst_ms));
    return o;
}

static void get_host_limits(struct rpc_call *c)
{
    json_t *out = json_array();
    struct plx_nvmf_host_group_info info;
    for (unsigned i = 0; plx_nvmf_host_limits_get(c->rpc->o.target, i, &info); i++)
        json_array_append_new(out, host_group_json(&info));
    rpc_ok(c, out);
}

void rpc_config_host_limits(struct plx_rpc *rpc, struct rpc_config *list)
{
    struct plx_nvmf_host_group_info info;
    for (unsigned i = 0; plx_nvmf_host_limits_get(rpc->o.target, i, &info); i++)
        rpc_config_add(list, "pollux_set_host_limits", host_group_json(&info));
}

/* ---- what went through ---- */

static const struct rpc_param params_iostat[] = {
    {.name = "names", .type = RPC_STRINGS, .help = "of disks; all without it"},
    TEXT("name", "of one disk"),
    BOOL("per_channel", "by reactor, which is not told", INIT("false")),
    ENUM("reset_mode", "all|maxmin|error|none", "what begins anew: error is as none", INIT("\"none\"")),
    END,
};

static const struct {
    const char *name, *bytes, *ops;
    enum plx_bdev_op op;
} counted[] = {
    {"read", "bytes_read", "num_read_ops", PLX_BDEV_READ},
    {"write", "bytes_written", "num_write_ops", PLX_BDEV_WRITE},
    {"unmap", "bytes_unmapped", "num_unmap_ops", PLX_BDEV_UNMAP},
    {"copy", "bytes_copied", "num_copy_ops", PLX_BDEV_COPY},
};

static void set_ticks(json_t *o, const char *prefix, const char *name, uint64_t ns)
{
    char key[48];
    snprintf(key, sizeof key, "%s%s_latency_ticks", prefix, name);
    json_object_set_new(o, key, json_integer((json_int_t)ns));
}

static json_t *iostat_of(struct plx_bdev *bdev)
{
    struct plx_bdev_stats s = {0};
    const struct plx_bdev_info *info = plx_bdev_info(bdev);
    json_t *o = json_pack("{s:s}", "name", info->name), *errors = json_object();
    plx_bdev_get_stats(bdev, &s);
    for (size_t i = 0; i < PLX_ARRAY_SIZE(counted); i++) {
        enum plx_bdev_op op = counted[i].op;
        json_object_set_new(o, counted[i].bytes, json_integer((json_int_t)(s.blocks[op] * info->block_size)));
        json_object_set_new(o, counted[i].ops, json_integer((json_int_t)s.ops[op]));
    }
    for (size_t i = 0; i < PLX_ARRAY_SIZE(counted); i++) {
        enum plx_bdev_op op = counted[i].op;
        set_ticks(o, "", counted[i].name, s.latency_ns[op]);
        set_ticks(o, "max_", counted[i].name, s.max_latency_ns[op]);
        set_ticks(o, "min_", counted[i].name, s.min_latency_ns[op]);
        if (s.failed[op])
            json_object_set_new(errors, counted[i].name, json_integer((json_int_t)s.failed[op]));
    }
    json_object_set_new(o, "io_error", errors);
    return o;
}

struct iostat {
    json_t *out;
    const char *reset;
};

static bool add_iostat(void *arg, struct plx_bdev *bdev)
{
    struct iostat *i = arg;
    json_array_append_new(i->out, iostat_of(bdev));
    if (!strcmp(i->reset, "all") || !strcmp(i->reset, "maxmin"))
        plx_bdev_reset_stats(bdev, !strcmp(i->reset, "all"));
    return true;
}

/* @return false when there is no such disk, and the call has failed */
static bool add_iostat_by_name(struct rpc_call *c, struct iostat *i, const char *name)
{
    struct plx_bdev *bdev = plx_bdev_find(name);
    if (bdev)
        return add_iostat(i, bdev);
    json_decref(i->out);
    rpc_fail_no_disk(c, name);
    return false;
}

static void get_iostat(struct rpc_call *c)
{
    struct plx_error err;
    struct iostat i = {.out = json_array(), .reset = rpc_str(c, "reset_mode")};
    const json_t *names = rpc_param(c, "names");
    if (rpc_bool(c, "per_channel")) {
        json_decref(i.out);
        plx_fail(&err, -EINVAL, "per_channel: what went through is told for all reactors together");
        rpc_fail_errno(c, -EINVAL, &err);
        return;
    }
    if (rpc_str(c, "name") && !add_iostat_by_name(c, &i, rpc_str(c, "name")))
        return;
    for (size_t n = 0; n < json_array_size(names); n++)
        if (!add_iostat_by_name(c, &i, json_string_value(json_array_get(names, n))))
            return;
    if (!rpc_str(c, "name") && !names)
        plx_bdev_each(add_iostat, &i);
    rpc_ok(c, json_pack("{s:I, s:I, s:o}", "tick_rate", (json_int_t)PLX_NS_PER_S, "ticks",
                        (json_int_t)plx_reactor_clock(c->rpc->reactor), "bdevs", i.out));
}

const struct rpc_method rpc_methods_limit[] = {
    {"bdev_set_qos_limit", "set_bdev_qos_limit", "Limits the rate of a disk, at once and under load.", params_qos,
     RPC_CHANGES, .run = set_qos_limit},
    {"pollux_set_host_limits", NULL, "Limits the rate of a group of hosts together, at once and under load.",
     params_host_limits, RPC_CHANGES, .group = "nvmf", .run = set_host_limits},
    {"pollux_remove_host_limits", NULL, "Takes these limits away.", params_host_group, RPC_CHANGES,
     .run = remove_host_limits},
    {"pollux_get_host_limits", NULL, "Lists groups of hosts, and their limits.", NULL, RPC_READS,
     .run = get_host_limits},
    {"bdev_get_iostat", "get_bdevs_iostat", "Tells what went through one disk, or all; a tick is a nanosecond.",
     params_iostat, RPC_READS, .run = get_iostat},
    {.name = NULL},
};
