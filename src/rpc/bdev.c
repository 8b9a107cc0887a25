/* SPDX-License-Identifier: BSD-3-Clause */
/* Methods for disks of memory, of nothing, and of files; and for all disks there are. */
#include "rpc/lvol.h"
#include "rpc/nvme.h"
#include "rpc/table.h"

#include "base/uuid.h"

#include <errno.h>
#include <inttypes.h>
#include <pollux/bdev_filter.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysinfo.h>

void rpc_fail_no_disk(struct rpc_call *c, const char *name)
{
    struct plx_error err;
    plx_fail(&err, -ENODEV, "there is no %.100s; bdev_get_bdevs lists disks", name);
    rpc_fail_errno(c, -ENODEV, &err);
}

/* The setting uuid= of a disk's name, if it was given. */
static const char *uuid_setting(const struct rpc_call *c, char out[48])
{
    const char *uuid = rpc_str(c, "uuid");
    snprintf(out, 48, "%s%s", uuid ? "&uuid=" : "", uuid ? uuid : "");
    return out;
}

/* ---- disks of memory, and of nothing ---- */

static const struct rpc_disk_kind kind_malloc = {.product = "Malloc disk"};
static const struct rpc_disk_kind kind_null = {.product = "Null disk"};

#define NO_METADATA                                                                                                    \
    U32("md_size", "bytes of metadata a block", INIT("0"), .max = 0, INERT),                                           \
        I32("dif_type", "protection information", INIT("0"), INERT),                                                   \
        BOOL("dif_is_head_of_md", "where that is", INIT("false"), INERT),                                              \
        U32("dif_pi_format", "its format", INIT("0"), INERT)

static const struct rpc_param params_malloc_create[] = {
    TEXT("name", "of the disk; Malloc0, Malloc1, ... without it", LIMITS(1, 255)),
    U64("num_blocks", "how many", REQUIRED, LIMITS(1, INT64_MAX)),
    U32("block_size", "bytes of a block, a power of two", REQUIRED, LIMITS(512, 65536)),
    U32("physical_block_size", "bytes that are best written at once", INERT),
    UUID("uuid", "of the disk; random without it"),
    U32("optimal_io_boundary", "blocks that requests should not cross", INIT("0"), INERT),
    NO_METADATA,
    BOOL("md_interleave", "where metadata is", INERT),
    I32("numa_id", "node of the memory", INIT("-1"), INERT),
    END,
};

static const struct rpc_param params_null_create[] = {
    TEXT("name", "of the disk", REQUIRED, LIMITS(1, 255)),
    U64("num_blocks", "how many", REQUIRED, LIMITS(1, INT64_MAX)),
    U32("block_size", "bytes of a block, a power of two", REQUIRED, LIMITS(512, 65536)),
    U32("physical_block_size", "bytes that are best written at once", INERT),
    NO_METADATA,
    UUID("uuid", "of the disk; random without it"),
    U32("preferred_write_granularity", "blocks", INIT("0"), INERT),
    U32("preferred_write_alignment", "blocks", INIT("0"), INERT),
    U32("optimal_write_size", "blocks", INIT("0"), INERT),
    U32("preferred_unmap_granularity", "blocks", INIT("0"), INERT),
    U32("preferred_unmap_alignment", "blocks", INIT("0"), INERT),
    END,
};

/* Metadata is something that a disk either has or has not: it is refused, and not taken for nothing. */
static bool wants_metadata(struct rpc_call *c)
{
    struct plx_error err;
    if (!rpc_uint(c, "md_size") && !rpc_uint(c, "dif_type"))
        return false;
    plx_fail(&err, -EINVAL, "disks have no metadata here: leave out md_size and dif_type");
    rpc_fail_errno(c, -EINVAL, &err);
    return true;
}

/* Opens "ram:" or "null:" of the size and with the blocks that were asked for. */
static void open_volatile(struct rpc_call *c, const char *scheme, const struct rpc_disk_kind *kind, const char *name)
{
    char url[160], uuid[48];
    struct plx_error err;
    uint64_t blocks = rpc_uint(c, "num_blocks"), size = rpc_uint(c, "block_size");
    if (blocks > INT64_MAX / size) {
        plx_fail(&err, -EINVAL, "%" PRIu64 " blocks of %" PRIu64 " bytes are more than a disk can have", blocks, size);
        rpc_fail_errno(c, -EINVAL, &err);
        return;
    }
    snprintf(url, sizeof url, "%s:%" PRIu64 "?block=%" PRIu64 "%s", scheme, blocks * size, size, uuid_setting(c, uuid));
    rpc_disk_open(c, kind, url, name);
}

static bool add_ram(void *arg, struct plx_bdev *bdev)
{
    const struct plx_bdev_info *info = plx_bdev_info(bdev);
    if (strcmp(info->driver, "ram") == 0)
        *(uint64_t *)arg += plx_bdev_blocks(bdev) * info->block_size;
    return true;
}

/* Memory is taken as it is written: what is promised must be there by then. */
static bool beyond_memory(struct rpc_call *c)
{
    struct sysinfo si;
    struct plx_error err;
    uint64_t blocks = rpc_uint(c, "num_blocks"), size = rpc_uint(c, "block_size"), used = 0;
    plx_bdev_each(add_ram, &used);
    if (sysinfo(&si) < 0)
        return false;
    uint64_t memory = ((uint64_t)si.totalram + si.totalswap) * si.mem_unit;
    if (used <= memory && blocks <= (memory - used) / size)
        return false;
    plx_fail(&err, -ENOMEM, "the RAM disks would be larger than the %" PRIu64 " MiB of memory of this machine",
             memory >> 20);
    rpc_fail_errno(c, -ENOMEM, &err);
    return true;
}

static void malloc_create(struct rpc_call *c)
{
    char name[RPC_NAME];
    if (wants_metadata(c) || beyond_memory(c))
        return;
    if (!rpc_str(c, "name"))
        rpc_disk_free_name("Malloc", name);
    else
        snprintf(name, sizeof name, "%s", rpc_str(c, "name"));
    open_volatile(c, "ram", &kind_malloc, name);
}

static void malloc_delete(struct rpc_call *c)
{
    rpc_disk_delete(c, &kind_malloc, rpc_str(c, "name"));
}

static void null_create(struct rpc_call *c)
{
    if (!wants_metadata(c))
        open_volatile(c, "null", &kind_null, rpc_str(c, "name"));
}

static void null_delete(struct rpc_call *c)
{
    rpc_disk_delete(c, &kind_null, rpc_str(c, "name"));
}

static const struct rpc_param params_resize[] = {
    TEXT("name", "of the disk", REQUIRED),
    U64("new_size", "in MiB", REQUIRED, LIMITS(1, INT64_MAX >> 20)),
    END,
};

static void null_new_size(struct rpc_call *c)
{
    struct plx_error err;
    struct rpc_disk *d = rpc_disk_find(c->rpc, rpc_str(c, "name"));
    if (!d || d->kind != &kind_null) {
        rpc_fail_no_disk(c, rpc_str(c, "name"));
        return;
    }
    uint64_t blocks = (rpc_uint(c, "new_size") << 20) / plx_bdev_info(d->bdev)->block_size;
    int ret = plx_bdev_resize(d->bdev, blocks, &err);
    if (ret) {
        rpc_fail_errno(c, ret, &err);
        return;
    }
    json_object_set_new(d->params, "num_blocks", json_integer((json_int_t)blocks));
    rpc_disk_changed(d);
    rpc_ok(c, NULL);
}

/* ---- disks of files ---- */

static json_t *describe_aio(const struct rpc_disk *d)
{
    const json_t *p = d->params;
    return json_pack("{s:{s:O, s:b, s:O, s:O, s:O}}", "aio", "filename", json_object_get(p, "filename"),
                     "block_size_override", rpc_uint_in(p, "block_size") != 0, "readonly",
                     json_object_get(p, "readonly"), "fallocate", json_object_get(p, "fallocate"), "nowait",
                     json_object_get(p, "nowait"));
}

static json_t *describe_uring(const struct rpc_disk *d)
{
    return json_pack("{s:{s:O}}", "uring", "filename", json_object_get(d->params, "filename"));
}

static const struct rpc_disk_kind kind_aio = {.product = "AIO disk", .describe = describe_aio};
static const struct rpc_disk_kind kind_uring = {.product = "URING bdev", .describe = describe_uring};

static const struct rpc_param params_aio_create[] = {
    TEXT("name", "of the disk", REQUIRED, LIMITS(1, 255)),
    TEXT("filename", "path of a file or block device", REQUIRED, LIMITS(1, 4000)),
    U32("block_size", "bytes of a block, a power of two from 512 to 65536; 0 for what suits the file", INIT("0")),
    BOOL("readonly", "nothing is written", INIT("false")),
    BOOL("fallocate", "unmap is possible wherever it is", INIT("false"), INERT),
    UUID("uuid", "of the disk; made from its path without it"),
    BOOL("nowait", "how it is read", INIT("false"), INERT),
    END,
};

static const struct rpc_param params_uring_create[] = {
    TEXT("name", "of the disk", REQUIRED, LIMITS(1, 255)),
    TEXT("filename", "path of a file or block device", REQUIRED, LIMITS(1, 4000)),
    U32("block_size", "bytes of a block, a power of two from 512 to 65536; 0 for what suits the file", INIT("0")),
    UUID("uuid", "of the disk; made from its path without it"),
    END,
};

/* A path as the name of a disk: whatever is in it. */
static void file_url(const struct rpc_call *c, char *out, size_t size)
{
    size_t n = (size_t)snprintf(out, size, "file:");
    for (const char *p = rpc_str(c, "filename"); *p && n + 4 < size; p++)
        n += (size_t)snprintf(out + n, size - n, *p == '%' || *p == '?' ? "%%%02x" : "%c", (unsigned char)*p);
    char uuid[48], block[32] = "";
    if (rpc_uint(c, "block_size"))
        snprintf(block, sizeof block, "&block=%" PRIu64, rpc_uint(c, "block_size"));
    snprintf(out + n, size - n, "?ro=%d%s%s", rpc_bool(c, "readonly"), block, uuid_setting(c, uuid));
}

static void aio_open(struct rpc_call *c, const struct rpc_disk_kind *kind)
{
    char *url = malloc(16384);
    if (!url) {
        rpc_fail_errno(c, -ENOMEM, NULL);
        return;
    }
    file_url(c, url, 16384);
    rpc_disk_open(c, kind, url, rpc_str(c, "name"));
    free(url);
}

static void aio_create(struct rpc_call *c)
{
    aio_open(c, &kind_aio);
}

static void uring_create(struct rpc_call *c)
{
    aio_open(c, &kind_uring);
}

static void aio_delete(struct rpc_call *c)
{
    rpc_disk_delete(c, &kind_aio, rpc_str(c, "name"));
}

static void uring_delete(struct rpc_call *c)
{
    rpc_disk_delete(c, &kind_uring, rpc_str(c, "name"));
}

static void rescanned(void *arg, struct plx_bdev *bdev, int result, const struct plx_error *err)
{
    struct rpc_call *c = arg;
    (void)bdev;
    if (result)
        rpc_fail_errno(c, result, err);
    else
        rpc_ok(c, NULL);
}

static void aio_rescan(struct rpc_call *c)
{
    struct plx_bdev *bdev = plx_bdev_find(rpc_str(c, "name"));
    if (!bdev) {
        rpc_fail_no_disk(c, rpc_str(c, "name"));
        return;
    }
    int ret = plx_bdev_rescan_begin(c->rpc->reactor, bdev, rescanned, c);
    if (ret)
        rpc_fail_errno(c, ret, NULL);
}

/* ---- any disk ---- */

static const struct rpc_disk_kind kind_any = {.product = "disk of another kind"};

static const struct rpc_param params_disk_open[] = {
    TEXT("url", "what it is: disk.img, ram:1G, nvme+tcp://..., as for `pollux serve`", REQUIRED, LIMITS(1, 4096)),
    TEXT("name", "of the disk", REQUIRED, LIMITS(1, 255)),
    END,
};

static void disk_open(struct rpc_call *c)
{
    rpc_disk_open(c, &kind_any, rpc_str(c, "url"), rpc_str(c, "name"));
}

static void disk_close(struct rpc_call *c)
{
    const struct rpc_disk *d = rpc_disk_find(c->rpc, rpc_str(c, "name"));
    if (d)
        rpc_disk_delete(c, d->kind, d->name);
    else
        rpc_fail_no_disk(c, rpc_str(c, "name"));
}

/* ---- what there is ---- */

static json_t *io_types(const struct plx_bdev_info *info)
{
    static const struct {
        const char *name;
        int op; /* enum plx_bdev_op, or -1: never */
    } types[] = {
        {"read", PLX_BDEV_READ},
        {"write", PLX_BDEV_WRITE},
        {"unmap", PLX_BDEV_UNMAP},
        {"flush", PLX_BDEV_FLUSH},
        {"reset", PLX_BDEV_RESET},
        {"nvme_admin", -1},
        {"nvme_io", -1},
        {"nvme_io_md", -1},
        {"write_zeroes", PLX_BDEV_WRITE_ZEROES},
        {"zcopy", -1},
        {"get_zone_info", PLX_BDEV_ZONE_REPORT},
        {"zone_management", PLX_BDEV_ZONE_MANAGE},
        {"zone_append", PLX_BDEV_ZONE_APPEND},
        {"compare", PLX_BDEV_COMPARE},
        {"compare_and_write", PLX_BDEV_COMPARE_AND_WRITE},
        {"abort", PLX_BDEV_READ},
        {"seek_hole", -1},
        {"seek_data", -1},
        {"copy", PLX_BDEV_COPY},
        {"nvme_iov_md", -1},
        {"nvme_nssr", -1},
        {"write_uncorrectable", -1},
    };
    json_t *o = json_object();
    for (size_t i = 0; i < PLX_ARRAY_SIZE(types); i++)
        json_object_set_new(o, types[i].name, json_boolean(types[i].op >= 0 && info->ops >> types[i].op & 1));
    return o;
}

static bool stands_on_it(void *arg, struct plx_bdev *bdev)
{
    (void)bdev;
    *(bool *)arg = true;
    return false;
}

bool rpc_disk_claimed(const struct plx_bdev *of)
{
    bool claimed = false;
    plx_bdev_each_above(of, stands_on_it, &claimed);
    return claimed;
}

static const char *product_of(const struct rpc_disk *d, const struct plx_bdev_info *info)
{
    return d && d->kind != &kind_any         ? d->kind->product
           : !strcmp(info->driver, "ram")    ? kind_malloc.product
           : !strcmp(info->driver, "null")   ? kind_null.product
           : !strcmp(info->driver, "file")   ? kind_aio.product
           : !strcmp(info->driver, "volume") ? "Logical Volume"
           : !strcmp(info->driver, "delay")  ? "delay"
           : !strcmp(info->driver, "error")  ? "Error Injection Disk"
                                             : "NVMe disk";
}

/* Of what its blocks have beside their data, which is all that the disk shows. */
static void add_metadata(json_t *o, const struct plx_bdev *bdev)
{
    struct plx_bdev_nvme_info info;
    if (!plx_bdev_nvme_get_info(bdev, &info) || !info.md_size)
        return;
    json_object_set_new(o, "md_size", json_integer(info.md_size));
    json_object_set_new(o, "md_interleave", json_boolean(info.md_interleave));
    json_object_set_new(o, "dif_type", json_integer(info.dif_type));
    if (!info.dif_type)
        return;
    json_object_set_new(o, "dif_is_head_of_md", json_boolean(info.dif_first));
    json_object_set_new(o, "dif_pi_format", json_integer(info.dif_guard_bits == 64 ? 2 : 0));
    json_object_set_new(o, "enabled_dif_check_types",
                        json_pack("{s:b, s:b, s:b}", "reftag", info.checks_reftag, "apptag", info.checks_apptag,
                                  "guard", info.checks_guard));
}

static json_t *describe_disk(struct plx_rpc *rpc, struct plx_bdev *bdev)
{
    const struct plx_bdev_info *info = plx_bdev_info(bdev);
    const struct rpc_disk *d = rpc_disk_of(rpc, bdev);
    json_t *uuid = rpc_uuid_json(info->uuid),
           *specific = d && d->kind->describe ? d->kind->describe(d) : remote_disk_json(bdev);
    json_int_t unit = info->write_unit / info->block_size;
    json_t *o =
        json_pack("{s:s, s:[O], s:s, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:i}", "name", info->name, "aliases", uuid,
                  "product_name", product_of(d, info), "block_size", (int)info->block_size, "num_blocks",
                  (json_int_t)plx_bdev_blocks(bdev), "preferred_write_alignment", unit, "preferred_write_granularity",
                  unit, "optimal_write_size", unit, "preferred_unmap_alignment", (json_int_t)info->unmap_granularity,
                  "preferred_unmap_granularity", (json_int_t)info->unmap_granularity, "uuid", uuid, "numa_id", -1);
    json_object_set_new(o, "assigned_rate_limits", rpc_disk_limits(bdev));
    char alias[RPC_NAME];
    if (plx_bdev_get_alias(bdev, alias, sizeof alias))
        json_object_set_new(o, "aliases", json_pack("[s]", alias));
    json_object_set_new(o, "claimed", json_boolean(rpc_disk_claimed(bdev) || rpc_store_on(rpc, bdev)));
    if (rpc_store_on(rpc, bdev))
        json_object_set_new(o, "claim_type", json_string("read_many_write_one"));
    add_metadata(o, bdev);
    json_object_set_new(o, "zoned", json_boolean(info->zone_blocks));
    if (info->zone_blocks) {
        json_object_set_new(o, "zone_size", json_integer((json_int_t)info->zone_blocks));
        json_object_set_new(o, "max_open_zones", json_integer(info->max_open_zones));
        json_object_set_new(o, "optimal_open_zones", json_integer(info->max_open_zones));
    }
    json_object_set_new(o, "supported_io_types", io_types(info));
    json_object_set_new(o, "driver_specific", specific);
    return o;
}

struct listing {
    struct plx_rpc *rpc;
    json_t *out;
};

static bool list_disk(void *arg, struct plx_bdev *bdev)
{
    struct listing *l = arg;
    json_array_append_new(l->out, describe_disk(l->rpc, bdev));
    return true;
}

static const struct rpc_param params_get_bdevs[] = {
    TEXT("name", "of one disk, its alias, or its UUID; all without it"),
    U64("timeout", "milliseconds to wait until it is there", INIT("0"), LIMITS(0, 3600000)),
    END,
};

enum { LOOK_AGAIN_MS = 20 };

/* Waiting for a disk. */
struct disk_wait {
    struct plx_timer timer;
    struct rpc_call *call;
    uint64_t until;
};

static void answer_disk(struct rpc_call *c, struct plx_bdev *bdev)
{
    json_t *list = json_array();
    json_array_append_new(list, describe_disk(c->rpc, bdev));
    rpc_ok(c, list);
}

static void look_for_disk(struct plx_timer *timer)
{
    struct disk_wait *w = plx_container_of(timer, struct disk_wait, timer);
    struct rpc_call *c = w->call;
    struct plx_bdev *bdev = plx_bdev_find(rpc_str(c, "name"));
    if (bdev)
        answer_disk(c, bdev);
    else if (plx_reactor_now(c->rpc->reactor) >= w->until || c->rpc->stopping || rpc_nobody_waits(c))
        rpc_fail_no_disk(c, rpc_str(c, "name"));
    else
        plx_timer_set(c->rpc->reactor, timer, LOOK_AGAIN_MS * PLX_NS_PER_MS);
}

static void get_bdevs(struct rpc_call *c)
{
    const char *name = rpc_str(c, "name");
    struct plx_bdev *bdev = name ? plx_bdev_find(name) : NULL;
    if (bdev) {
        answer_disk(c, bdev);
    } else if (!name) {
        struct listing l = {.rpc = c->rpc, .out = json_array()};
        plx_bdev_each(list_disk, &l);
        rpc_ok(c, l.out);
    } else if (!rpc_uint(c, "timeout")) {
        rpc_fail_no_disk(c, name);
    } else {
        struct disk_wait *w = c->state = calloc(1, sizeof *w);
        if (!w) {
            rpc_fail_errno(c, -ENOMEM, NULL);
            return;
        }
        w->call = c;
        w->timer.fn = look_for_disk;
        w->until = plx_reactor_now(c->rpc->reactor) + rpc_uint(c, "timeout") * PLX_NS_PER_MS;
        rpc_takes_long(c);
        look_for_disk(&w->timer);
    }
}

static const struct rpc_param params_name[] = {
    TEXT("name", "of the disk", REQUIRED),
    END,
};

const struct rpc_method rpc_methods_bdev[] = {
    {"bdev_malloc_create", "construct_malloc_bdev", "Makes a disk of memory, which is gone at exit; returns its name.",
     params_malloc_create, RPC_CHANGES, .group = "bdev", .run = malloc_create},
    {"bdev_malloc_delete", "delete_malloc_bdev", "Deletes a disk of memory, with the namespaces that it is.",
     params_name, RPC_CHANGES, .run = malloc_delete},
    {"bdev_null_create", "construct_null_bdev", "Makes a disk that holds nothing; returns its name.",
     params_null_create, RPC_CHANGES, .group = "bdev", .run = null_create},
    {"bdev_null_delete", "delete_null_bdev", "Deletes a disk that holds nothing, with the namespaces that it is.",
     params_name, RPC_CHANGES, .run = null_delete},
    {"bdev_null_resize", NULL, "Gives a disk that holds nothing another size.", params_resize, RPC_CHANGES,
     .run = null_new_size},
    {"bdev_aio_create", "construct_aio_bdev", "Opens a file or block device as a disk; returns its name.",
     params_aio_create, RPC_CHANGES, .group = "bdev", .run = aio_create},
    {"bdev_aio_delete", "delete_aio_bdev", "Closes the disk of a file, with the namespaces that it is.", params_name,
     RPC_CHANGES, .run = aio_delete},
    {"bdev_aio_rescan", NULL, "Looks whether a file or block device has another size, which hosts see at once.",
     params_name, RPC_CHANGES, .run = aio_rescan},
    {"bdev_uring_create", NULL, "Opens a file or block device as a disk, as bdev_aio_create does; returns its name.",
     params_uring_create, RPC_CHANGES, .group = "bdev", .run = uring_create},
    {"bdev_uring_delete", NULL, "Closes the disk of a file, with the namespaces that it is.", params_name, RPC_CHANGES,
     .run = uring_delete},
    {"bdev_uring_rescan", NULL, "Looks whether a file or block device has another size, which hosts see at once.",
     params_name, RPC_CHANGES, .run = aio_rescan},
    {"pollux_disk_open", NULL, "Opens any disk; returns its name.", params_disk_open, RPC_CHANGES, .group = "bdev",
     .run = disk_open},
    {"pollux_disk_close", NULL, "Closes any disk that a call made, with the namespaces that it is.", params_name,
     RPC_CHANGES, .run = disk_close},
    {"bdev_get_bdevs", "get_bdevs", "Describes one disk, or all.", params_get_bdevs, RPC_READS, .run = get_bdevs},
    {.name = NULL},
};
