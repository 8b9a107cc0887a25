/* SPDX-License-Identifier: BSD-3-Clause */
/* Methods for SCSI hosts over vhost-user: targets, each with units that are disks. */
#include "base/util.h"
#include "rpc/table.h"
#include "rpc/vhost.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TARGETS = 256, UNIT_KEY = 16 };

/* ---- creation ---- */

static const struct rpc_param params_create_scsi[] = {
    VHOST_CTRLR,
    TEXT("cpumask", "cores that its rings are on: a list or a hex mask; all without it"),
    BOOL("delay", "it begins when it is asked to, which it always does by itself", INERT),
    U32("num_queues", "of requests, at most", INIT("126"), LIMITS(1, PLX_VHOST_SCSI_QUEUES_MAX)),
    BOOL("packed_ring", "packed rings are offered besides split ones", INIT("false")),
    TEXT("initiator", "who its guest is where disks are reserved; its name without it",
         LIMITS(1, PLX_VHOST_INITIATOR_SIZE - 1)),
    END,
};

static void scsi_created(void *arg, int ret)
{
    struct rpc_call *c = arg;
    json_t *all = c->rpc->vhost, *kept;
    if (ret) {
        rpc_fail_errno(c, ret, NULL);
        return;
    }
    kept = json_pack("{s:o, s:{}}", "create", json_copy(c->params), "units");
    json_object_set_new(all, rpc_str(c, "ctrlr"), kept);
    rpc_ok(c, NULL);
}

static int create_scsi(struct rpc_call *c, struct plx_error *err)
{
    char path[PATH_MAX];
    int cores[RPC_CORES];
    const char *mask = rpc_str(c, "cpumask");
    struct plx_vhost_ctrlr *ctrlr;
    const int n = mask ? plx_parse_cores(mask, cores, RPC_CORES, err) : 0;
    int ret = n < 0 ? n : rpc_vhost_path(c->rpc, rpc_str(c, "ctrlr"), path, err);
    if (ret < 0)
        return ret;
    const struct plx_vhost_scsi_opts opts = {
        .packed = rpc_bool(c, "packed_ring"),
        .queues = (uint32_t)rpc_uint(c, "num_queues"),
        .cores = mask ? cores : NULL,
        .ncores = (unsigned)n,
        .initiator = rpc_str(c, "initiator"),
    };
    return plx_vhost_scsi_create(c->rpc->o.vhost, path, &opts, scsi_created, c, &ctrlr, err);
}

static void scsi_create(struct rpc_call *c)
{
    struct plx_error err;
    int ret = rpc_vhost_served(c) ? create_scsi(c, &err) : 0;
    if (ret)
        rpc_fail_errno(c, ret, &err);
}

/* ---- units ---- */

static const struct rpc_param params_add_target[] = {
    VHOST_CTRLR,
    I32("scsi_target_num", "number of the target; -1: the first that has no units", REQUIRED),
    TEXT("bdev_name", "the disk", REQUIRED, LIMITS(1, 255)),
    U32("lun", "number of the unit within the target", INIT("0"), LIMITS(0, TARGETS - 1)),
    BOOL("readonly", "the guest cannot write", INIT("false")),
    TEXT("ptpl_file", "where reservations are kept through a loss of power", LIMITS(1, 4000)),
    END,
};

static void unit_key(unsigned target, unsigned lun, char out[UNIT_KEY])
{
    snprintf(out, UNIT_KEY, "%u:%u", target, lun);
}

static json_int_t target_num(const struct rpc_call *c)
{
    return json_integer_value(rpc_param(c, "scsi_target_num"));
}

/* The first target without units, of `next` and those behind it. @return TARGETS when all have some */
static unsigned free_target(const struct plx_vhost_ctrlr *ctrlr, unsigned next)
{
    for (struct plx_vhost_lun at = {0}; plx_vhost_scsi_next(ctrlr, &at) && at.target <= next;)
        next = at.target == next ? next + 1 : next;
    return next;
}

/* Parameters are kept as if the number had been given, so that a dump makes the same one again. */
static void unit_added(void *arg, int ret)
{
    struct rpc_call *c = arg;
    json_t *kept = json_object_get(c->rpc->vhost, rpc_str(c, "ctrlr")), *units = json_object_get(kept, "units");
    char key[UNIT_KEY];
    if (ret) {
        rpc_fail_errno(c, ret, NULL);
        return;
    }
    unit_key((unsigned)target_num(c), (unsigned)rpc_uint(c, "lun"), key);
    json_object_set_new(units, key, json_copy(c->params));
    rpc_ok(c, json_integer(target_num(c)));
}

static int add_unit(struct rpc_call *c, struct plx_vhost_ctrlr *ctrlr, struct plx_vhost_lun *what,
                    struct plx_error *err)
{
    json_object_set_new(c->params, "scsi_target_num", json_integer(what->target));
    return plx_vhost_scsi_add(ctrlr, what, unit_added, c, err);
}

static void target_add(struct rpc_call *c)
{
    const char *name = rpc_str(c, "bdev_name");
    struct plx_error err;
    struct plx_vhost_ctrlr *ctrlr = rpc_vhost_served(c) ? rpc_vhost_named(c, rpc_str(c, "ctrlr")) : NULL;
    if (!ctrlr)
        return;
    struct plx_vhost_lun what = {.lun = (unsigned)rpc_uint(c, "lun"),
                                 .read_only = rpc_bool(c, "readonly"),
                                 .ptpl_file = rpc_str(c, "ptpl_file")};
    what.bdev = plx_bdev_find(name);
    if (!what.bdev) {
        rpc_fail_no_disk(c, name);
        return;
    }
    const json_int_t target = target_num(c);
    what.target = target == -1 ? free_target(ctrlr, 0) : (unsigned)plx_min_u64((uint64_t)target, TARGETS);
    int ret = add_unit(c, ctrlr, &what, &err);
    while (ret == -EEXIST && target == -1) { /* one that is being removed */
        what.target = free_target(ctrlr, what.target + 1);
        ret = add_unit(c, ctrlr, &what, &err);
    }
    if (ret)
        rpc_fail_errno(c, ret, &err);
}

static const struct rpc_param params_remove_target[] = {
    VHOST_CTRLR,
    U32("scsi_target_num", "number of the target", REQUIRED, LIMITS(0, TARGETS - 1)),
    U32("lun", "of one unit alone; all of the target's without it", LIMITS(0, TARGETS - 1)),
    END,
};

/* The first unit that is to go. */
static bool unit_to_remove(struct rpc_call *c, const struct plx_vhost_ctrlr *ctrlr, struct plx_vhost_lun *at)
{
    *at = (struct plx_vhost_lun){0};
    while (plx_vhost_scsi_next(ctrlr, at))
        if (at->target == rpc_uint(c, "scsi_target_num") && (!rpc_param(c, "lun") || at->lun == rpc_uint(c, "lun")))
            return true;
    return false;
}

/* Units that go, all at once: over when the last of their disks has answered. */
struct units_removal {
    unsigned left;
    int ret;
};

static void unit_removed(void *arg, int ret)
{
    struct rpc_call *c = arg;
    struct units_removal *r = c->state;
    r->ret = r->ret ? r->ret : ret;
    if (--r->left)
        return;
    if (r->ret)
        rpc_fail_errno(c, r->ret, NULL);
    else
        rpc_ok(c, NULL);
}

static int remove_unit(struct rpc_call *c, struct plx_vhost_ctrlr *ctrlr, const struct plx_vhost_lun *at)
{
    struct units_removal *r = c->state;
    char key[UNIT_KEY];
    int ret = plx_vhost_scsi_remove(ctrlr, at->target, at->lun, unit_removed, c, NULL);
    if (ret)
        return ret;
    r->left++;
    unit_key(at->target, at->lun, key);
    json_object_del(json_object_get(json_object_get(c->rpc->vhost, rpc_str(c, "ctrlr")), "units"), key);
    return 0;
}

static void target_remove(struct rpc_call *c)
{
    struct plx_vhost_lun at;
    struct plx_error err;
    struct plx_vhost_ctrlr *ctrlr = rpc_vhost_served(c) ? rpc_vhost_named(c, rpc_str(c, "ctrlr")) : NULL;
    if (!ctrlr)
        return;
    if (!unit_to_remove(c, ctrlr, &at)) {
        plx_fail(&err, -ENODEV, "%s has no such target, or that has no such unit; vhost_get_controllers lists them",
                 rpc_str(c, "ctrlr"));
        rpc_fail_errno(c, -ENODEV, &err);
        return;
    }
    struct units_removal *r = c->state = malloc(sizeof *r);
    if (!r) {
        rpc_fail_errno(c, -ENOMEM, NULL);
        return;
    }
    *r = (struct units_removal){.left = 1}; /* this function */
    c->tried = true;
    int ret = 0;
    while (!ret && unit_to_remove(c, ctrlr, &at))
        ret = remove_unit(c, ctrlr, &at);
    rpc_takes_long(c); /* until disks have answered, which others need not wait for */
    unit_removed(c, ret);
}

/* ---- what there is ---- */

static json_t *describe_target(unsigned target)
{
    char name[32];
    snprintf(name, sizeof name, "Target %u", target);
    return json_pack("{s:i, s:i, s:s, s:[]}", "scsi_dev_num", (int)target, "id", (int)target, "target_name", name,
                     "luns");
}

json_t *rpc_vhost_targets(const struct plx_vhost_ctrlr *ctrlr)
{
    json_t *out = json_array(), *target = NULL;
    unsigned last = TARGETS;
    for (struct plx_vhost_lun at = {0}; plx_vhost_scsi_next(ctrlr, &at);) {
        if (at.target != last) {
            target = describe_target(at.target);
            json_array_append_new(out, target);
        }
        last = at.target;
        json_array_append_new(json_object_get(target, "luns"),
                              json_pack("{s:i, s:s, s:b}", "id", (int)at.lun, "bdev_name", plx_bdev_info(at.bdev)->name,
                                        "readonly", (int)at.read_only));
    }
    return out;
}

/* Those that are there: one whose disk has gone is not made again. */
void rpc_vhost_config_units(struct plx_rpc *rpc, const char *name, const json_t *kept, struct rpc_config *list)
{
    char path[PATH_MAX], key[UNIT_KEY];
    const struct plx_vhost_ctrlr *ctrlr =
        rpc_vhost_path(rpc, name, path, NULL) ? NULL : plx_vhost_find(rpc->o.vhost, path);
    for (struct plx_vhost_lun at = {0}; ctrlr && plx_vhost_scsi_next(ctrlr, &at);) {
        unit_key(at.target, at.lun, key);
        json_t *params = json_object_get(json_object_get(kept, "units"), key);
        if (params)
            rpc_config_add(list, "vhost_scsi_controller_add_target", json_incref(params));
    }
}

const struct rpc_method rpc_methods_vhost_scsi[] = {
    {.name = "vhost_create_scsi_controller",
     .help = "Makes a SCSI host for virtual machines, without any targets, behind a vhost-user socket.",
     .params = params_create_scsi,
     .kind = RPC_CHANGES,
     .run = scsi_create},
    {.name = "vhost_scsi_controller_add_target",
     .help = "A disk becomes a unit of a target, and virtual machines are told; answers the target's number.",
     .params = params_add_target,
     .kind = RPC_CHANGES,
     .run = target_add},
    {.name = "vhost_scsi_controller_remove_target",
     .help = "Takes a target's units away from virtual machines, which are told; its disks stay.",
     .params = params_remove_target,
     .kind = RPC_CHANGES,
     .run = target_remove},
    {.name = NULL},
};
