/* SPDX-License-Identifier: BSD-3-Clause */
/* Methods for vhost-user: disks behind sockets, for virtual machines. */
#include "rpc/vhost.h"
#include "rpc/table.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- names and sockets ---- */

bool rpc_vhost_served(struct rpc_call *c)
{
    if (c->rpc->o.vhost)
        return true;
    rpc_fail(c, RPC_INTERNAL, "vhost-user is not served by this process");
    return false;
}

/* Beside its directory a socket's name is all of the path: it must not lead elsewhere. */
int rpc_vhost_path(const struct plx_rpc *rpc, const char *name, char out[PATH_MAX], struct plx_error *err)
{
    const char *dir = rpc->o.vhost_dir ? rpc->o.vhost_dir : "";
    const size_t len = strlen(dir);
    if (strchr(name, '/') || name[0] == '.')
        return plx_fail(err, -EINVAL, "%.100s: the name of a controller is that of a file, without directories", name);
    snprintf(out, PATH_MAX, "%s%s%s", dir, len && dir[len - 1] != '/' ? "/" : "", name);
    return 0;
}

/* The controller that parameter ctrlr names; or NULL, and the call has failed. */
struct plx_vhost_ctrlr *rpc_vhost_named(struct rpc_call *c, const char *name)
{
    char path[PATH_MAX];
    struct plx_error err;
    int ret = rpc_vhost_path(c->rpc, name, path, &err);
    struct plx_vhost_ctrlr *found = ret ? NULL : plx_vhost_find(c->rpc->o.vhost, path);
    if (found && json_object_get(c->rpc->vhost, name))
        return found;
    plx_fail(&err, -ENODEV, "there is no controller %.100s; vhost_get_controllers lists them", name);
    rpc_fail_errno(c, -ENODEV, &err);
    return NULL;
}

/* ---- creation ---- */

static const struct rpc_param params_create_blk[] = {
    VHOST_CTRLR,
    TEXT("dev_name", "the disk", REQUIRED, LIMITS(1, 255)),
    TEXT("cpumask", "cores that its rings are on: a list or a hex mask; all without it"),
    BOOL("readonly", "the guest cannot write", INIT("false")),
    BOOL("packed_ring", "packed rings are offered besides split ones", INIT("false")),
    BOOL("packed_ring_recovery", "what was in flight is found again, which it always is", INERT),
    ENUM("transport", "vhost_user_blk", "kind", INIT("\"vhost_user_blk\"")),
    U32("num_queues", "at most", INIT("128"), LIMITS(1, PLX_VHOST_QUEUES_MAX)),
    U32("queue_size", "that requests fit in without indirect descriptors", INIT("128"),
        LIMITS(2, PLX_VHOST_QUEUE_SIZE_MAX)),
    TEXT("serial", "serial number; made of the disk's UUID without it", LIMITS(0, PLX_VHOST_SERIAL_SIZE - 1)),
    TEXT("ptpl_file", "where the disk's reservations are kept through a loss of power", LIMITS(1, 4000)),
    END,
};

static void blk_created(void *arg, int ret)
{
    struct rpc_call *c = arg;
    if (ret) {
        rpc_fail_errno(c, ret, NULL);
        return;
    }
    json_t *params = json_copy(c->params);
    const struct rpc_disk *d = rpc_disk_find(c->rpc, rpc_str(c, "dev_name"));
    if (d) /* an alias may be another one by the next start */
        json_object_set_new(params, "dev_name", json_string(d->name));
    json_object_set_new(c->rpc->vhost, rpc_str(c, "ctrlr"), json_pack("{s:o}", "create", params));
    rpc_ok(c, NULL);
}

static int create_blk(struct rpc_call *c, struct plx_bdev *bdev, struct plx_error *err)
{
    char path[PATH_MAX];
    int cores[RPC_CORES];
    const char *mask = rpc_str(c, "cpumask");
    struct plx_vhost_ctrlr *ctrlr;
    const int n = mask ? plx_parse_cores(mask, cores, RPC_CORES, err) : 0;
    int ret = n < 0 ? n : rpc_vhost_path(c->rpc, rpc_str(c, "ctrlr"), path, err);
    if (ret < 0)
        return ret;
    const struct plx_vhost_blk_opts opts = {
        .read_only = rpc_bool(c, "readonly"),
        .packed = rpc_bool(c, "packed_ring"),
        .queues = (uint32_t)rpc_uint(c, "num_queues"),
        .queue_size = (uint32_t)rpc_uint(c, "queue_size"),
        .serial = rpc_str(c, "serial"),
        .ptpl_file = rpc_str(c, "ptpl_file"),
        .cores = mask ? cores : NULL,
        .ncores = (unsigned)n,
    };
    return plx_vhost_blk_create(c->rpc->o.vhost, path, bdev, &opts, blk_created, c, &ctrlr, err);
}

static void blk_create(struct rpc_call *c)
{
    const char *name = rpc_str(c, "dev_name");
    struct plx_error err;
    if (!rpc_vhost_served(c))
        return;
    struct plx_bdev *bdev = plx_bdev_find(name);
    if (!bdev) {
        rpc_fail_no_disk(c, name);
        return;
    }
    int ret = create_blk(c, bdev, &err);
    if (ret)
        rpc_fail_errno(c, ret, &err);
}

/* ---- end ---- */

static const struct rpc_param params_ctrlr[] = {
    VHOST_CTRLR,
    END,
};

static void ctrlr_deleted(void *arg, int ret)
{
    struct rpc_call *c = arg;
    if (ret)
        rpc_fail_errno(c, ret, NULL);
    else
        rpc_ok(c, NULL);
}

static void ctrlr_delete(struct rpc_call *c)
{
    const char *name = rpc_str(c, "ctrlr");
    struct plx_vhost_ctrlr *ctrlr = rpc_vhost_served(c) ? rpc_vhost_named(c, name) : NULL;
    if (!ctrlr)
        return;
    json_object_del(c->rpc->vhost, name);
    c->tried = true;
    rpc_takes_long(c); /* until disks have answered, which others need not wait for */
    int ret = plx_vhost_remove(ctrlr, ctrlr_deleted, c);
    if (ret)
        rpc_fail_errno(c, ret, NULL);
}

/* ---- coalescing ---- */

static const struct rpc_param params_coalescing[] = {
    VHOST_CTRLR,
    U32("delay_base_us", "microseconds that the guest may wait for the end of a request; 0: none", REQUIRED,
        LIMITS(0, PLX_VHOST_DELAY_MAX_US)),
    U32("iops_threshold", "only while a ring has more requests than this a second", REQUIRED),
    END,
};

static void set_coalescing(struct rpc_call *c)
{
    struct plx_error err;
    const char *name = rpc_str(c, "ctrlr");
    struct plx_vhost_ctrlr *ctrlr = rpc_vhost_served(c) ? rpc_vhost_named(c, name) : NULL;
    if (!ctrlr)
        return;
    int ret = plx_vhost_set_coalescing(ctrlr, (uint32_t)rpc_uint(c, "delay_base_us"),
                                       (uint32_t)rpc_uint(c, "iops_threshold"), &err);
    if (ret) {
        rpc_fail_errno(c, ret, &err);
        return;
    }
    json_object_set_new(json_object_get(c->rpc->vhost, name), "coalescing", json_copy(c->params));
    rpc_ok(c, NULL);
}

/* ---- what there is: vhost_query.c ---- */

static const struct rpc_param params_get[] = {
    TEXT("name", "of one alone"),
    END,
};

/* ---- dumps ---- */

static void config_ctrlr(struct rpc_config *list, json_t *kept, const char *method)
{
    json_t *coalescing = json_object_get(kept, "coalescing");
    rpc_config_add(list, method, json_incref(json_object_get(kept, "create")));
    if (coalescing)
        rpc_config_add(list, "vhost_controller_set_coalescing", json_incref(coalescing));
}

/* One without a disk could not be made. */
static bool has_disk(const struct plx_rpc *rpc, const char *name)
{
    struct plx_vhost_info info = {0};
    char path[PATH_MAX];
    const struct plx_vhost_ctrlr *ctrlr =
        rpc_vhost_path(rpc, name, path, NULL) ? NULL : plx_vhost_find(rpc->o.vhost, path);
    if (ctrlr)
        plx_vhost_get_info(ctrlr, &info);
    return info.bdev;
}

void rpc_config_vhost(struct plx_rpc *rpc, struct rpc_config *list)
{
    const char *name;
    json_t *kept;
    json_object_foreach(rpc->vhost, name, kept)
    {
        if (!json_object_get(kept, "units") && has_disk(rpc, name))
            config_ctrlr(list, kept, "vhost_create_blk_controller");
    }
}

void rpc_config_vhost_scsi(struct plx_rpc *rpc, struct rpc_config *list)
{
    const char *name;
    json_t *kept;
    json_object_foreach(rpc->vhost, name, kept)
    {
        if (!json_object_get(kept, "units"))
            continue;
        config_ctrlr(list, kept, "vhost_create_scsi_controller");
        rpc_vhost_config_units(rpc, name, kept, list);
    }
}

const struct rpc_method rpc_methods_vhost[] = {
    {.name = "vhost_create_blk_controller",
     .help = "A disk becomes a block device of virtual machines, behind a vhost-user socket.",
     .params = params_create_blk,
     .kind = RPC_CHANGES,
     .run = blk_create},
    {.name = "vhost_delete_controller",
     .help = "Ends a device: its virtual machines see no answers any more.",
     .params = params_ctrlr,
     .kind = RPC_CHANGES,
     .run = ctrlr_delete},
    {.name = "vhost_controller_set_coalescing",
     .help = "How long a guest may wait to be told of the end of a request, while there are many.",
     .params = params_coalescing,
     .kind = RPC_CHANGES,
     .run = set_coalescing},
    {.name = "vhost_get_controllers",
     .help = "Devices, who is connected, and what is in flight there.",
     .params = params_get,
     .kind = RPC_READS,
     .run = rpc_vhost_list},
    {.name = NULL},
};
