/* SPDX-License-Identifier: BSD-3-Clause */
/* Methods that copy a snapshot to another disk, while clients ask now and then how far that has come. */
#include "rpc/lvol.h"

#include "rpc/table.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COPIES_KEPT = 1024 }; /* of those that are over, and nobody has asked about */

struct rpc_copy {
    struct plx_list link;
    struct plx_rpc *rpc;
    struct plx_volume_copy c;
    uint64_t *clusters;
    uint32_t id;
    bool deep, over;
};

static void copy_free(struct rpc_copy *copy)
{
    plx_list_del(&copy->link);
    free(copy->clusters);
    free(copy);
}

bool rpc_copies_running(const struct plx_rpc *rpc)
{
    plx_list_for_each(it, &rpc->copies) {
        if (!plx_list_entry(it, struct rpc_copy, link)->over)
            return true;
    }
    return false;
}

void rpc_copies_stop(struct plx_rpc *rpc)
{
    plx_list_for_each_safe(it, &rpc->copies) {
        struct rpc_copy *copy = plx_list_entry(it, struct rpc_copy, link);
        if (copy->over)
            copy_free(copy);
        else
            plx_volume_copy_stop(&copy->c);
    }
}

static void copy_over(struct plx_volume_copy *c)
{
    struct rpc_copy *copy = c->arg;
    struct plx_rpc *rpc = copy->rpc;
    unsigned n = 0;
    copy->over = true;
    if (rpc->stopping) {
        copy_free(copy);
        rpc_may_stop(rpc);
        return;
    }
    plx_list_for_each_safe(it, &rpc->copies) { /* from the latest on */
        struct rpc_copy *other = plx_list_entry(it, struct rpc_copy, link);
        if (other->over && ++n > COPIES_KEPT)
            copy_free(other);
    }
}

/* @return false without memory */
static bool copy_clusters(struct rpc_copy *copy, const json_t *list)
{
    const size_t n = json_array_size(list);
    if (!list)
        return true;
    copy->clusters = malloc((n ? n : 1) * sizeof *copy->clusters);
    for (size_t i = 0; i < n && copy->clusters; i++)
        copy->clusters[i] = (uint64_t)json_integer_value(json_array_get(list, i));
    copy->c.clusters = copy->clusters;
    copy->c.n_clusters = (uint32_t)n;
    return copy->clusters != NULL;
}

static void copy_begin(struct rpc_call *c, bool deep, const json_t *clusters)
{
    const struct rpc_disk *d = rpc_lvol_named(c, rpc_str(c, "src_lvol_name"));
    struct plx_bdev *to = d ? plx_bdev_find(rpc_str(c, "dst_bdev_name")) : NULL;
    if (!d)
        return;
    if (!to) {
        rpc_fail_no_disk(c, rpc_str(c, "dst_bdev_name"));
        return;
    }
    struct rpc_copy *copy = calloc(1, sizeof *copy);
    if (copy)
        plx_list_init(&copy->link);
    if (!copy || !copy_clusters(copy, clusters)) {
        free(copy);
        rpc_fail_errno(c, -ENOMEM, NULL);
        return;
    }
    copy->rpc = c->rpc;
    copy->deep = deep;
    copy->id = ++c->rpc->last_copy;
    copy->c.volume = d->bdev;
    copy->c.to = to;
    copy->c.all = deep;
    copy->c.reactor = c->rpc->reactor;
    copy->c.done = copy_over;
    copy->c.arg = copy;
    plx_list_add_tail(c->rpc->copies.next, &copy->link);
    int ret = plx_volume_copy_begin(&copy->c);
    if (!ret) {
        rpc_ok(c, json_pack("{s:I}", "operation_id", (json_int_t)copy->id));
        return;
    }
    struct plx_error err = copy->c.err;
    copy_free(copy);
    rpc_fail_errno(c, ret == -EBUSY ? -EPERM : ret, &err); /* as those expect it who know the other server's words */
}

static const struct rpc_param params_start[] = {
    TEXT("src_lvol_name", "of the snapshot: LVSTORE/NAME, or its UUID", REQUIRED),
    TEXT("dst_bdev_name", "of the disk that it is copied to, at least as large, which nobody uses", REQUIRED),
    END,
};

static const struct rpc_param params_start_range[] = {
    TEXT("src_lvol_name", "of the snapshot: LVSTORE/NAME, or its UUID", REQUIRED),
    TEXT("dst_bdev_name", "of the disk that it is copied to, at least as large, which nobody uses", REQUIRED),
    {.name = "clusters", .type = RPC_UINTS, .required = true, .help = "their numbers"},
    END,
};

static void start_shallow_copy(struct rpc_call *c)
{
    copy_begin(c, false, NULL);
}

static void start_range_shallow_copy(struct rpc_call *c)
{
    copy_begin(c, false, rpc_param(c, "clusters"));
}

static void start_deep_copy(struct rpc_call *c)
{
    copy_begin(c, true, NULL);
}

static const struct rpc_param params_check[] = {
    U32("operation_id", "that its beginning was answered with; one that is over is forgotten when that has been told",
        REQUIRED),
    END,
};

static struct rpc_copy *copy_named(struct rpc_call *c, bool deep)
{
    struct plx_error err;
    const uint64_t id = rpc_uint(c, "operation_id");
    plx_list_for_each(it, &c->rpc->copies) {
        struct rpc_copy *copy = plx_list_entry(it, struct rpc_copy, link);
        if (copy->id == id && copy->deep == deep)
            return copy;
    }
    plx_fail(&err, -ENODEV, "no copy has the operation_id %llu, or its end has been told already",
             (unsigned long long)id);
    rpc_fail_errno(c, -ENODEV, &err);
    return NULL;
}

/* Its state; of one that has ended that is told once. */
static void copy_told(struct rpc_call *c, struct rpc_copy *copy, json_t *o)
{
    json_object_set_new(o, "total_clusters", json_integer((json_int_t)copy->c.total));
    json_object_set_new(o, "state", json_string(!copy->over ? "in progress" : copy->c.result ? "error" : "complete"));
    if (copy->over && copy->c.result) {
        char text[sizeof copy->c.err.text + 80];
        snprintf(text, sizeof text, "%s: %s", strerror(-copy->c.result), copy->c.err.text);
        json_object_set_new(o, "error", json_string(text));
    }
    if (copy->over)
        copy_free(copy);
    rpc_ok(c, o);
}

static void check_shallow_copy(struct rpc_call *c)
{
    struct rpc_copy *copy = copy_named(c, false);
    if (copy)
        copy_told(c, copy,
                  json_pack("{s:I, s:I}", "copied_clusters", (json_int_t)copy->c.copied, "unmapped_clusters",
                            (json_int_t)copy->c.unmapped));
}

static void check_deep_copy(struct rpc_call *c)
{
    struct rpc_copy *copy = copy_named(c, true);
    if (copy)
        copy_told(c, copy, json_pack("{s:I}", "processed_clusters", (json_int_t)copy->c.copied));
}

const struct rpc_method rpc_methods_lvol_copy[] = {
    {"bdev_lvol_start_shallow_copy", NULL,
     "Begins to copy what a snapshot has of its own to another disk; returns what it is asked about by.", params_start,
     RPC_DUMPS, .run = start_shallow_copy},
    {"bdev_lvol_start_range_shallow_copy", NULL,
     "The same of some clusters, which are unmapped on that disk where the snapshot has nothing of its own.",
     params_start_range, RPC_DUMPS, .run = start_range_shallow_copy},
    {"bdev_lvol_check_shallow_copy", NULL,
     "Tells how far such a copy has come, in clusters: in progress, complete, or error.", params_check, RPC_READS,
     .run = check_shallow_copy},
    {"bdev_lvol_start_deep_copy", NULL, "Begins to copy all that a snapshot has, whoever shares it, to another disk.",
     params_start, RPC_DUMPS, .run = start_deep_copy},
    {"bdev_lvol_check_deep_copy", NULL, "Tells how far such a copy has come.", params_check, RPC_READS,
     .run = check_deep_copy},
    {.name = NULL},
};
