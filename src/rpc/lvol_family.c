/* SPDX-License-Identifier: BSD-3-Clause */
/* Methods for what a logical volume goes back to, and for what it has of that: they take long, and others go on. */
#include "rpc/lvol.h"

#include "rpc/table.h"

#include <errno.h>
#include <string.h>

void rpc_lvols_stop(struct plx_rpc *rpc)
{
    plx_list_for_each(it, &rpc->stores) {
        plx_pool_cancel(plx_list_entry(it, struct rpc_store, link)->pool);
    }
}

static const struct rpc_param params_name[] = {
    TEXT("name", "of the volume: LVSTORE/NAME, or its UUID", REQUIRED),
    END,
};

static void begin(struct rpc_call *c, enum plx_pool_op_kind kind)
{
    const struct rpc_disk *d = rpc_lvol_of(c, "name");
    if (d)
        rpc_lvol_begin_long(c, kind, d, NULL);
}

static void lvol_inflate(struct rpc_call *c)
{
    begin(c, PLX_POOL_INFLATE);
}

static void lvol_decouple_parent(struct rpc_call *c)
{
    begin(c, PLX_POOL_DECOUPLE);
}

static void lvol_detach_parent(struct rpc_call *c)
{
    begin(c, PLX_POOL_SET_PARENT);
}

static const struct rpc_param params_set_parent[] = {
    TEXT("lvol_name", "of the volume: LVSTORE/NAME, or its UUID", REQUIRED),
    TEXT("parent_name", "of the snapshot, likewise, in the same lvstore, which has the same size", REQUIRED),
    END,
};

static void lvol_set_parent(struct rpc_call *c)
{
    const struct rpc_disk *d = rpc_lvol_of(c, "lvol_name"), *s = d ? rpc_lvol_of(c, "parent_name") : NULL;
    struct plx_error err;
    if (!s)
        return;
    if (plx_volume_pool(s->bdev) != plx_volume_pool(d->bdev)) {
        plx_fail(&err, -EINVAL, "%.100s is in another lvstore than %.100s", rpc_str(c, "parent_name"),
                 rpc_str(c, "lvol_name"));
        rpc_fail_errno(c, -EINVAL, &err);
        return;
    }
    rpc_lvol_begin_long(c, PLX_POOL_SET_PARENT, d, plx_bdev_info(s->bdev)->uuid);
}

/* Clients say the one, and descriptions of the call the other. */
static const struct rpc_param params_set_parent_bdev[] = {
    TEXT("lvol_name", "of the volume: LVSTORE/NAME, or its UUID", REQUIRED),
    TEXT("parent_name", "name or UUID of the disk, which is in no lvstore, or in another one, and nobody may write to"),
    TEXT("esnap_name", "the same in other words; one of the two is given"),
    END,
};

static void lvol_set_parent_bdev(struct rpc_call *c)
{
    const char *name = rpc_str(c, "parent_name"), *same = rpc_str(c, "esnap_name");
    struct plx_bdev *outer = name || same ? plx_bdev_find(name ? name : same) : NULL;
    const struct rpc_disk *d = rpc_lvol_of(c, "lvol_name"); /* without it the call is over */
    if (!d)
        return;
    if (!name == !same)
        rpc_fail(c, RPC_INVALID_PARAMS, "the disk is named by \"parent_name\", or by \"esnap_name\"");
    else if (!outer)
        rpc_fail_no_disk(c, name ? name : same);
    else
        rpc_lvol_begin_outer(c, d, outer);
}

const struct rpc_method rpc_methods_lvol_family[] = {
    {"bdev_lvol_inflate", "inflate_lvol_bdev",
     "Gives a volume all space of its own, with a copy of what it shares, or shows of a disk outside: it goes back to "
     "none, and is thick.",
     params_name, RPC_CHANGES, .run = lvol_inflate},
    {"bdev_lvol_decouple_parent", "decouple_parent_lvol_bdev",
     "Gives a volume a copy of what its snapshot has, or a disk outside: it goes back to what that snapshot goes back "
     "to, or to none, and stays thin.",
     params_name, RPC_CHANGES, .run = lvol_decouple_parent},
    {"bdev_lvol_detach_parent", NULL,
     "Has a volume go back to no snapshot, and hold what is its own; all else reads as zeroes.", params_name,
     RPC_CHANGES, .run = lvol_detach_parent},
    {"bdev_lvol_set_parent", NULL,
     "Has a thin volume go back to a snapshot: what is not its own reads as that one has it.", params_set_parent,
     RPC_CHANGES, .run = lvol_set_parent},
    {"bdev_lvol_set_parent_bdev", NULL,
     "Has a thin volume go back to a disk outside its lvstore: what is not its own reads as that one has it.",
     params_set_parent_bdev, RPC_CHANGES, .run = lvol_set_parent_bdev},
    {.name = NULL},
};
