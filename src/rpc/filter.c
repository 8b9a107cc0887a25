/* SPDX-License-Identifier: BSD-3-Clause */
/* Methods for filters to test with: disks that are slow, that fail, and whose power is cut. */
#include "rpc/table.h"

#include "base/uuid.h"

#include <errno.h>
#include <pollux/bdev_filter.h>
#include <stdio.h>
#include <string.h>

/* A filter of the disk that a parameter names; made at once, as nothing about it blocks. */
typedef int (*create_fn)(struct rpc_call *c, struct plx_bdev *below, const char *name, const uint8_t *uuid,
                         struct plx_bdev **out, struct plx_error *err);

static void filter_create(struct rpc_call *c, const struct rpc_disk_kind *kind, const char *base, const char *name,
                          create_fn create)
{
    struct plx_error err;
    uint8_t uuid[16];
    struct plx_bdev *bdev, *below = plx_bdev_find(base);
    if (!below) {
        rpc_fail_no_disk(c, base);
        return;
    }
    bool own = rpc_str(c, "uuid") && plx_uuid_parse(rpc_str(c, "uuid"), uuid);
    int ret = create(c, below, name, own ? uuid : NULL, &bdev, &err);
    if (ret)
        rpc_fail_errno(c, ret, &err);
    else
        rpc_disk_opened(c, kind, bdev);
}

/* ---- slow ---- */

static json_t *describe_delay(const struct rpc_disk *d)
{
    struct plx_bdev_delays is = {0};
    plx_bdev_delay_get(d->bdev, &is, NULL);
    return json_pack("{s:{s:s, s:O, s:I, s:I, s:I, s:I}}", "delay", "name", d->name, "base_bdev_name",
                     json_object_get(d->params, "base_bdev_name"), "avg_read_latency", (json_int_t)is.avg_read_us,
                     "p99_read_latency", (json_int_t)is.p99_read_us, "avg_write_latency", (json_int_t)is.avg_write_us,
                     "p99_write_latency", (json_int_t)is.p99_write_us);
}

static const struct rpc_disk_kind kind_delay = {.product = "delay", .describe = describe_delay};

#define MICROSECONDS REQUIRED, LIMITS(0, PLX_BDEV_DELAY_MAX_US)

static const struct rpc_param params_delay_create[] = {
    TEXT("name", "of the disk", REQUIRED, LIMITS(1, 255)),
    TEXT("base_bdev_name", "the disk that it stands on", REQUIRED),
    U64("avg_read_latency", "microseconds that 99 of 100 reads wait", MICROSECONDS),
    U64("p99_read_latency", "and the others", MICROSECONDS),
    U64("avg_write_latency", "the same of writes", MICROSECONDS),
    U64("p99_write_latency", "and the others", MICROSECONDS),
    UUID("uuid", "of the disk; without it, that of the disk it stands on"),
    END,
};

static int create_delay(struct rpc_call *c, struct plx_bdev *below, const char *name, const uint8_t *uuid,
                        struct plx_bdev **out, struct plx_error *err)
{
    const struct plx_bdev_delays d = {.avg_read_us = rpc_uint(c, "avg_read_latency"),
                                      .p99_read_us = rpc_uint(c, "p99_read_latency"),
                                      .avg_write_us = rpc_uint(c, "avg_write_latency"),
                                      .p99_write_us = rpc_uint(c, "p99_write_latency")};
    return plx_bdev_delay_create(below, name, uuid, &d, out, err);
}

static void delay_create(struct rpc_call *c)
{
    filter_create(c, &kind_delay, rpc_str(c, "base_bdev_name"), rpc_str(c, "name"), create_delay);
}

static const struct rpc_param params_delay_update[] = {
    TEXT("delay_bdev_name", "of the disk", REQUIRED),
    ENUM("latency_type", "avg_read|p99_read|avg_write|p99_write", "which", REQUIRED),
    U64("latency_us", "microseconds", MICROSECONDS),
    END,
};

static void delay_update(struct rpc_call *c)
{
    static const char *const types[] = {"avg_read", "p99_read", "avg_write", "p99_write"};
    struct plx_error err;
    const char *name = rpc_str(c, "delay_bdev_name"), *type = rpc_str(c, "latency_type");
    struct rpc_disk *d = rpc_disk_find(c->rpc, name);
    if (!d || d->kind != &kind_delay) {
        rpc_fail_no_disk(c, name);
        return;
    }
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(types); i++) {
        char key[32];
        snprintf(key, sizeof key, "%s_latency", types[i]);
        if (strcmp(type, types[i]) != 0)
            continue;
        int ret = plx_bdev_delay_set(d->bdev, (enum plx_bdev_delay)i, rpc_uint(c, "latency_us"), &err);
        if (ret) {
            rpc_fail_errno(c, ret, &err);
            return;
        }
        json_object_set(d->params, key, rpc_param(c, "latency_us"));
        rpc_disk_changed(d);
    }
    rpc_ok(c, NULL);
}

static const struct rpc_param params_name[] = {
    TEXT("name", "of the disk", REQUIRED),
    END,
};

static void delay_delete(struct rpc_call *c)
{
    rpc_disk_delete(c, &kind_delay, rpc_str(c, "name"));
}

/* ---- failing ---- */

static json_t *describe_error(const struct rpc_disk *d)
{
    return json_pack("{s:{s:s, s:O}}", "error_disk", "name", d->name, "base_bdev",
                     json_object_get(d->params, "base_name"));
}

static const struct rpc_disk_kind kind_error = {.product = "Error Injection Disk", .describe = describe_error};

static const struct rpc_param params_error_create[] = {
    TEXT("base_name", "the disk that it stands on", REQUIRED, LIMITS(1, 200)),
    TEXT("name", "of the disk; EE_ and the name of the disk it stands on without it", LIMITS(1, 255)),
    UUID("uuid", "of the disk; without it, that of the disk it stands on"),
    END,
};

static int create_error(struct rpc_call *c, struct plx_bdev *below, const char *name, const uint8_t *uuid,
                        struct plx_bdev **out, struct plx_error *err)
{
    (void)c;
    return plx_bdev_error_create(below, name, uuid, out, err);
}

static void error_create(struct rpc_call *c)
{
    char name[RPC_NAME];
    const char *base = rpc_str(c, "base_name"), *given = rpc_str(c, "name");
    snprintf(name, sizeof name, "%s%s", given ? "" : "EE_", given ? given : base);
    filter_create(c, &kind_error, base, name, create_error);
}

static void error_delete(struct rpc_call *c)
{
    rpc_disk_delete(c, &kind_error, rpc_str(c, "name"));
}

static const struct {
    const char *name;
    uint32_t ops;
} io_kinds[] = {
    {"all", PLX_BDEV_INJECT_ALL},
    {"clear", PLX_BDEV_INJECT_ALL},
    {"read", 1 << PLX_BDEV_READ},
    {"write", 1 << PLX_BDEV_WRITE},
    {"unmap", 1 << PLX_BDEV_UNMAP},
    {"flush", 1 << PLX_BDEV_FLUSH},
    {"write_zeroes", 1 << PLX_BDEV_WRITE_ZEROES},
    {"compare", 1 << PLX_BDEV_COMPARE | 1 << PLX_BDEV_COMPARE_AND_WRITE},
    {"copy", 1 << PLX_BDEV_COPY},
};

static const struct rpc_param params_inject[] = {
    TEXT("name", "of the disk", REQUIRED),
    ENUM("io_type", "all|clear|read|write|unmap|flush|write_zeroes|compare|copy", "requests; clear ends all", REQUIRED),
    ENUM("error_type", "failure|pending|corrupt_data|nomem|clear", "what happens to them; nomem is a failure",
         REQUIRED),
    U32("num", "how many of them", INIT("1")),
    U32("queue_depth", "only while there are at least so many", INIT("0")),
    U64("corrupt_offset", "which byte of the data", INIT("0")),
    U8("corrupt_value", "the bits of it that are turned over", INIT("0")),
    U16("status", "of a failure: an NVMe status; Internal Error without it", INIT("0"), LIMITS(0, 0x7ff)),
    END,
};

static enum plx_bdev_injection_type injection_type(const struct rpc_call *c)
{
    const char *type = rpc_str(c, "error_type");
    return !strcmp(rpc_str(c, "io_type"), "clear") || !strcmp(type, "clear") ? PLX_BDEV_INJECT_NONE
           : !strcmp(type, "pending")                                        ? PLX_BDEV_INJECT_PENDING
           : !strcmp(type, "corrupt_data")                                   ? PLX_BDEV_INJECT_CORRUPT
                                                                             : PLX_BDEV_INJECT_FAILURE;
}

static void error_inject(struct rpc_call *c)
{
    struct plx_error err;
    struct plx_bdev *bdev = plx_bdev_find(rpc_str(c, "name"));
    struct plx_bdev_injection what = {
        .type = injection_type(c),
        .count = (uint32_t)rpc_uint(c, "num"),
        .queue_depth = (uint32_t)rpc_uint(c, "queue_depth"),
        .status = (uint16_t)rpc_uint(c, "status"),
        .corrupt_value = (uint8_t)rpc_uint(c, "corrupt_value"),
        .corrupt_offset = rpc_uint(c, "corrupt_offset"),
    };
    if (!bdev) {
        rpc_fail_no_disk(c, rpc_str(c, "name"));
        return;
    }
    for (size_t i = 0; i < PLX_ARRAY_SIZE(io_kinds); i++)
        if (strcmp(io_kinds[i].name, rpc_str(c, "io_type")) == 0)
            what.ops = io_kinds[i].ops;
    int ret = plx_bdev_error_inject(bdev, &what, &err);
    if (ret)
        rpc_fail_errno(c, ret, &err);
    else
        rpc_ok(c, NULL);
}

/* ---- without power ---- */

static void change_power(struct rpc_call *c, int (*change)(struct plx_bdev *, struct plx_error *))
{
    struct plx_error err;
    struct plx_bdev *bdev = plx_bdev_find(rpc_str(c, "name"));
    int ret = bdev ? change(bdev, &err) : 0;
    if (!bdev)
        rpc_fail_no_disk(c, rpc_str(c, "name"));
    else if (ret)
        rpc_fail_errno(c, ret, &err);
    else
        rpc_ok(c, NULL);
}

static void power_cut(struct rpc_call *c)
{
    change_power(c, plx_bdev_crash_cut);
}

static void power_restore(struct rpc_call *c)
{
    change_power(c, plx_bdev_crash_restore);
}

const struct rpc_method rpc_methods_filter[] = {
    {"bdev_delay_create", NULL, "Makes a slow disk of a disk; returns its name.", params_delay_create, RPC_CHANGES,
     .group = "bdev", .run = delay_create},
    {"bdev_delay_update_latency", NULL, "Changes how slow it is, for requests that come after that.",
     params_delay_update, RPC_CHANGES, .run = delay_update},
    {"bdev_delay_delete", NULL, "Deletes a slow disk, with the namespaces that it is, not what it stands on.",
     params_name, RPC_CHANGES, .run = delay_delete},
    {"bdev_error_create", NULL, "Makes a disk that can fail of a disk; returns its name.", params_error_create,
     RPC_CHANGES, .group = "bdev", .run = error_create},
    {"bdev_error_inject_error", "bdev_error_inject", "Has some requests of it fail, hang, or have wrong data.",
     params_inject, RPC_READS, .run = error_inject},
    {"bdev_error_delete", NULL, "Deletes a disk that can fail, with the namespaces that it is.", params_name,
     RPC_CHANGES, .run = error_delete},
    {"pollux_power_cut", NULL, "Cuts the power of a disk of crash: what was not flushed may be lost.", params_name,
     RPC_READS, .run = power_cut},
    {"pollux_power_restore", NULL, "Gives it power again.", params_name, RPC_READS, .run = power_restore},
    {.name = NULL},
};
