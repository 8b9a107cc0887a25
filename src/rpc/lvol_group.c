/* SPDX-License-Identifier: BSD-3-Clause */
/* What is done to several volumes of an lvstore at once, and to all of it. */
#include "rpc/lvol.h"

#include "base/uuid.h"
#include "rpc/table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { SNAPSHOTS_MAX = 1024 };

/* ---- growing ---- */

struct growing {
    struct plx_pool_op op;
};

static void grown(struct plx_pool_op *op)
{
    struct rpc_call *c = op->arg;
    if (op->result)
        rpc_fail_errno(c, op->result, &op->err);
    else
        rpc_ok(c, NULL);
}

static const struct rpc_param params_grow_lvstore[] = {
    UUID("uuid", "of the lvstore"),
    TEXT("lvs_name", "or its name"),
    END,
};

static void grow_lvstore(struct rpc_call *c)
{
    struct rpc_store *s = rpc_store_of(c, "uuid");
    struct growing *g = s ? c->state = calloc(1, sizeof *g) : NULL;
    if (!s)
        return;
    if (!g) {
        rpc_fail_errno(c, -ENOMEM, NULL);
        return;
    }
    g->op = (struct plx_pool_op){.kind = PLX_POOL_GROW, .done = grown, .reactor = c->rpc->reactor, .arg = c};
    c->tried = true;
    plx_pool_submit(s->pool, &g->op);
}

/* ---- snapshots of one instant ---- */

struct one {
    struct plx_pool_op op;
    char volume[PLX_UUID_TEXT]; /* op.volume */
};

struct group {
    const struct rpc_store *store;
    size_t n;
    struct one all[];
};

/* They become disks. */
static void group_made(struct plx_pool_op *op)
{
    struct rpc_call *c = op->arg;
    const struct group *g = c->state;
    json_t *out = json_array();
    struct plx_error err;
    int ret = op->result;
    if (ret)
        err = op->err;
    for (size_t i = 0; i < g->n && !ret; i++) {
        const struct plx_pool_op *made = &g->all[i].op;
        struct plx_bdev *bdev;
        ret = rpc_volume_open(g->store->pool, g->store->name, made->uuid, made->name, &bdev, &err);
        if (ret)
            break;
        if (!rpc_disk_add(c->rpc, &rpc_kind_lvol, bdev)) {
            plx_bdev_close(bdev);
            ret = plx_fail(&err, -ENOMEM, "out of memory");
            break;
        }
        json_array_append_new(out,
                              json_pack("{s:s, s:s}", "snapshot_name", made->name, "uuid", plx_bdev_info(bdev)->name));
    }
    if (!ret) {
        rpc_ok(c, out);
        return;
    }
    json_decref(out);
    rpc_fail_errno(c, ret, &err);
}

static const struct rpc_param params_one[] = {
    TEXT("lvol_name", "of the volume: LVSTORE/NAME, or its UUID", REQUIRED),
    TEXT("snapshot_name", "of the snapshot, in the same lvstore", REQUIRED, LIMITS(1, PLX_POOL_NAME - 1)),
    END,
};

static const struct rpc_param params_snapshot_group[] = {
    UUID("uuid", "of the lvstore that all volumes are in"),
    TEXT("lvs_name", "or its name; neither is needed"),
    OBJECTS("snapshots", params_one, "which snapshots of which volumes", REQUIRED, LIMITS(1, SNAPSHOTS_MAX)),
    END,
};

/* @return 0, or -errno, and the call has failed */
static int group_add(struct rpc_call *c, struct group *g, const json_t *asked)
{
    const char *name = rpc_str_in(asked, "lvol_name");
    const struct rpc_disk *d = rpc_lvol_named(c, name);
    struct plx_error err;
    if (!d)
        return -ENODEV; /* and the group is gone, with the call */
    struct one *one = &g->all[g->n];
    const struct rpc_store *store = rpc_store_with(c->rpc, d);
    if (g->store && store != g->store) {
        int ret = plx_fail(&err, -EINVAL,
                           "%.100s is in lvstore %.80s, and not in %.80s: snapshots of one instant are of "
                           "volumes in one lvstore",
                           name, store->name, g->store->name);
        rpc_fail_errno(c, ret, &err);
        return ret;
    }
    g->store = store;
    plx_uuid_format(plx_bdev_info(d->bdev)->uuid, one->volume);
    one->op = (struct plx_pool_op){
        .kind = PLX_POOL_SNAPSHOT, .volume = one->volume, .name = rpc_str_in(asked, "snapshot_name")};
    if (g->n)
        g->all[g->n - 1].op.with = &one->op;
    g->n++;
    return 0;
}

static void snapshot_group(struct rpc_call *c)
{
    const json_t *asked = rpc_param(c, "snapshots");
    const struct rpc_store *store = NULL;
    if (rpc_str(c, "uuid") || rpc_str(c, "lvs_name")) {
        store = rpc_store_of(c, "uuid");
        if (!store)
            return;
    }
    struct group *g = c->state = calloc(1, sizeof *g + json_array_size(asked) * sizeof g->all[0]);
    if (!g) {
        rpc_fail_errno(c, -ENOMEM, NULL);
        return;
    }
    g->store = store;
    for (size_t i = 0; i < json_array_size(asked); i++)
        if (group_add(c, g, json_array_get(asked, i)))
            return;
    struct plx_pool_op *op = &g->all[0].op;
    op->done = group_made;
    op->reactor = c->rpc->reactor;
    op->arg = c;
    c->tried = true;
    plx_pool_submit(g->store->pool, op);
}

const struct rpc_method rpc_methods_lvol_group[] = {
    {"bdev_lvol_grow_lvstore", NULL, "Gives an lvstore all of its disk, which has become larger.", params_grow_lvstore,
     RPC_CHANGES, .run = grow_lvstore},
    {"bdev_lvol_snapshot_group", NULL,
     "Makes snapshots of several volumes at one instant, or none; returns their names and UUIDs.",
     params_snapshot_group, RPC_CHANGES, .run = snapshot_group},
    {.name = NULL},
};
