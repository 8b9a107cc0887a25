/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Methods that set options of what the dialect's own server is made of. They are taken and kept, so that clients and
 * dumps that set them work; where one asks for what is not here, it is refused.
 */
#include "rpc/table.h"

#include <errno.h>
#include <string.h>

static const struct rpc_param params_bdev[] = {
    U32("bdev_io_pool_size", "requests", INIT("65535"), INERT),
    U32("bdev_io_cache_size", "requests", INIT("256"), INERT),
    BOOL("bdev_auto_examine", "disks are looked at for what is on them", INIT("true"), INERT),
    U32("iobuf_small_cache_size", "buffers", INIT("128"), INERT),
    U32("iobuf_large_cache_size", "buffers", INIT("16"), INERT),
    END,
};

static const struct rpc_param params_iobuf[] = {
    U64("small_pool_count", "buffers", INIT("8192"), INERT), U64("large_pool_count", "buffers", INIT("1024"), INERT),
    U32("small_bufsize", "bytes", INIT("8192"), INERT),      U32("large_bufsize", "bytes", INIT("135168"), INERT),
    BOOL("enable_numa", "by node", INIT("false"), INERT),    END,
};

static void iobuf_get_stats(struct rpc_call *c)
{
    json_t *pools = json_array();
    for (unsigned i = 0; i < c->rpc->o.nreactors; i++) {
        const struct plx_reactor *r = c->rpc->o.reactors[i];
        size_t total = plx_buf_total_bytes(r) / PLX_BUF_MIN, used = total - plx_buf_free_bytes(r) / PLX_BUF_MIN;
        json_array_append_new(pools,
                              json_pack("{s:s, s:{s:I, s:I, s:I}, s:{s:i, s:i, s:i}}", "module", "nvmf_TCP",
                                        "small_pool", "cache", (json_int_t)total, "main", (json_int_t)used, "retry",
                                        (json_int_t)0, "large_pool", "cache", 0, "main", 0, "retry", 0));
    }
    rpc_ok(c, pools);
}

#define SOCK_OPTIONS                                                                                                   \
    U32("recv_buf_size", "bytes", INIT("2097152"), INERT), U32("send_buf_size", "bytes", INIT("2097152"), INERT),      \
        BOOL("enable_recv_pipe", "how it is received", INIT("true"), INERT),                                           \
        BOOL("enable_quickack", "of TCP", INIT("false"), INERT),                                                       \
        U32("enable_placement_id", "who polls what", INIT("0"), INERT),                                                \
        BOOL("enable_zerocopy_send_server", "how it is sent", INIT("true"), INERT),                                    \
        BOOL("enable_zerocopy_send_client", "how it is sent", INIT("false"), INERT),                                   \
        U32("zerocopy_threshold", "bytes", INIT("0"), INERT), U32("tls_version", "of TLS", INIT("0"), INERT),          \
        BOOL("enable_ktls", "of TLS", INIT("false"), INERT)

static const struct rpc_param params_sock_set[] = {
    ENUM("impl_name", "posix|uring|ssl", "kind of sockets", REQUIRED),
    SOCK_OPTIONS,
    END,
};

static const struct rpc_param params_sock_name[] = {
    ENUM("impl_name", "posix|uring|ssl", "kind of sockets", REQUIRED),
    END,
};

static const struct rpc_param params_sock_default[] = {
    ENUM("impl_name", "posix|uring", "kind of sockets; there is one, which is taken for either", INIT("\"posix\"")),
    END,
};

/* By kind: each has options of its own. */
static void sock_set(struct rpc_call *c)
{
    json_t *all = json_object_get(c->rpc->options, "sock_impl_set_options");
    if (!all) {
        all = json_object();
        json_object_set_new(c->rpc->options, "sock_impl_set_options", all);
    }
    json_object_set(all, rpc_str(c, "impl_name"), c->params);
    rpc_ok(c, NULL);
}

static void sock_get(struct rpc_call *c)
{
    const json_t *all = json_object_get(c->rpc->options, "sock_impl_set_options");
    json_t *mine = json_object_get(all, rpc_str(c, "impl_name"));
    struct plx_error err;
    int code;
    if (mine)
        mine = json_copy(mine);
    else
        mine = rpc_params_check(rpc_method_find("sock_impl_set_options"), c->params, &code, &err);
    json_object_del(mine, "impl_name");
    rpc_ok(c, mine);
}

static void sock_get_default(struct rpc_call *c)
{
    json_t *set = json_object_get(json_object_get(c->rpc->options, "sock_set_default_impl"), "impl_name");
    rpc_ok(c, json_pack("{s:o}", "impl_name", set ? json_incref(set) : json_string("posix")));
}

void rpc_config_sock(struct plx_rpc *rpc, struct rpc_config *list)
{
    const char *name;
    json_t *params;
    if (!json_object_get(rpc->options, "sock_impl_set_options")) {
        struct plx_error err;
        int code;
        json_t *posix = json_pack("{s:s}", "impl_name", "posix");
        rpc_config_add(list, "sock_impl_set_options",
                       rpc_params_check(rpc_method_find("sock_impl_set_options"), posix, &code, &err));
        json_decref(posix);
    }
    json_object_foreach(json_object_get(rpc->options, "sock_impl_set_options"), name, params)
    {
        rpc_config_add(list, "sock_impl_set_options", json_incref(params));
    }
}

static const struct rpc_param params_accel[] = {
    U32("small_cache_size", "buffers", INERT), U32("large_cache_size", "buffers", INERT),
    U32("task_count", "tasks", INERT),         U32("sequence_count", "sequences", INERT),
    U32("buf_count", "buffers", INERT),        END,
};

static const struct rpc_param params_raid[] = {
    U32("process_window_size_kb", "KiB", INIT("1024"), INERT),
    U32("process_max_bandwidth_mb_sec", "MiB a second", INIT("0"), INERT),
    END,
};

static const struct rpc_param members_passthru[] = {
    BOOL("identify_ctrlr", "Identify Controller", INIT("false")),
    BOOL("identify_uuid_list", "Identify UUID List", INIT("false")),
    BOOL("get_log_page", "Get Log Page", INIT("false")),
    BOOL("get_set_features", "Get and Set Features", INIT("false")),
    BOOL("sanitize", "Sanitize", INIT("false")),
    BOOL("security_send_recv", "Security Send and Receive", INIT("false")),
    BOOL("fw_update", "firmware", INIT("false")),
    BOOL("nvme_mi", "management interface", INIT("false")),
    BOOL("vendor_specific", "commands of vendors", INIT("false")),
    END,
};

#define DIGESTS "sha256|sha384|sha512"
#define ALL_DIGESTS "[\"sha256\", \"sha384\", \"sha512\"]"
#define ALL_DHGROUPS "[\"null\", \"ffdhe2048\", \"ffdhe3072\", \"ffdhe4096\", \"ffdhe6144\", \"ffdhe8192\"]"
#define DHGROUPS "null|ffdhe2048|ffdhe3072|ffdhe4096|ffdhe6144|ffdhe8192"

static const struct rpc_param params_nvmf[] = {
    OBJECT("admin_cmd_passthru", members_passthru, "admin commands that go to the disk as they are", INIT("{}"), INERT),
    TEXT("poll_groups_mask", "cores", INERT),
    TEXT("discovery_filter", "what hosts see of others", INERT),
    FLAGS("discovery_filters", "match_any|transport|address|svcid", "the same", INIT("[]"), INERT),
    FLAGS("dhchap_digests", DIGESTS, "of in-band authentication", INIT(ALL_DIGESTS), INERT),
    FLAGS("dhchap_dhgroups", DHGROUPS, "of in-band authentication", INIT(ALL_DHGROUPS), INERT),
    ENUM("dup_host_policy", "allow|restrict_per_listener", "hosts that come twice", INIT("\"allow\""), INERT),
    END,
};

static const struct rpc_param params_max_subsystems[] = {
    U32("max_subsystems", "how many; there is no limit", INIT("1024"), INERT),
    END,
};

static const struct rpc_param params_crdt[] = {
    U16("crdt1", "units of 100 ms", INIT("0"), INERT),
    U16("crdt2", "units of 100 ms", INIT("0"), INERT),
    U16("crdt3", "units of 100 ms", INIT("0"), INERT),
    END,
};

const struct rpc_method rpc_methods_options[] = {
    {"iobuf_set_options", NULL, "Options of buffers.", params_iobuf, RPC_OPTIONS, .startup = true, .startup_only = true,
     .group = "iobuf"},
    {"iobuf_get_stats", NULL, "Tells how many buffers of 8 KiB reactors have, and use.", NULL, RPC_READS,
     .run = iobuf_get_stats},
    {"sock_set_default_impl", NULL, "Chooses a kind of sockets.", params_sock_default, RPC_OPTIONS, .startup = true,
     .startup_only = true, .group = "sock"},
    {"sock_get_default_impl", NULL, "Tells that kind.", NULL, RPC_READS, .startup = true, .run = sock_get_default},
    {"sock_impl_set_options", NULL, "Options of sockets.", params_sock_set, RPC_CHANGES, .startup = true,
     .startup_only = true, .group = "sock", .run = sock_set},
    {"sock_impl_get_options", NULL, "Tells them.", params_sock_name, RPC_READS, .startup = true, .run = sock_get},
    {"accel_set_options", NULL, "Options of what computes.", params_accel, RPC_OPTIONS, .startup = true,
     .startup_only = true, .group = "iobuf"},
    {"bdev_set_options", "set_bdev_options", "Options of all disks.", params_bdev, RPC_OPTIONS, .startup = true,
     .startup_only = true, .group = "bdev"},
    {"bdev_raid_set_options", NULL, "Options of RAID.", params_raid, RPC_OPTIONS, .startup = true, .group = "bdev"},
    {"nvmf_set_config", NULL, "Options of the target.", params_nvmf, RPC_OPTIONS, .startup = true, .startup_only = true,
     .group = "nvmf"},
    {"nvmf_set_max_subsystems", NULL, "How many subsystems there may be.", params_max_subsystems, RPC_OPTIONS,
     .startup = true, .startup_only = true, .group = "nvmf"},
    {"nvmf_set_crdt", NULL, "Command retry delay times.", params_crdt, RPC_OPTIONS, .startup = true,
     .startup_only = true, .group = "nvmf"},
    {.name = NULL},
};
