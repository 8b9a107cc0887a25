/* SPDX-License-Identifier: BSD-3-Clause */
/* Methods for logical volumes, and for the stores that they are in: pools, in words that clients know. */
#include "rpc/lvol.h"

#include "base/log.h"
#include "base/uuid.h"
#include "rpc/table.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { NAME_MAX_BYTES = PLX_POOL_NAME - 1 };

/* ---- finding ---- */

struct rpc_store *rpc_store_of(struct rpc_call *c, const char *uuid_key)
{
    const char *text = rpc_str(c, uuid_key), *name = rpc_str(c, "lvs_name");
    struct plx_error err;
    uint8_t uuid[16];
    if (!text == !name) {
        plx_fail(&err, -EINVAL, "an lvstore is named by %s or by lvs_name, and not by both", uuid_key);
        rpc_fail_errno(c, -EINVAL, &err);
        return NULL;
    }
    struct rpc_store *found = name ? rpc_store_named(c->rpc, name) : NULL;
    if (text && plx_uuid_parse(text, uuid))
        plx_list_for_each(it, &c->rpc->stores) {
            struct rpc_store *s = plx_list_entry(it, struct rpc_store, link);
            struct plx_pool_info info;
            plx_pool_get_info(s->pool, &info);
            if (!memcmp(info.uuid, uuid, sizeof uuid))
                found = s;
        }
    if (!found) {
        plx_fail(&err, -ENODEV, "there is no lvstore %.100s; bdev_lvol_get_lvstores lists them", name ? name : text);
        rpc_fail_errno(c, -ENODEV, &err);
    }
    return found;
}

struct rpc_disk *rpc_lvol_named(struct rpc_call *c, const char *name)
{
    struct plx_error err;
    struct rpc_disk *d = rpc_disk_find(c->rpc, name);
    if (d && d->kind == &rpc_kind_lvol)
        return d;
    plx_fail(&err, -ENODEV, "%s%.100s%s", d ? "" : "there is no volume ", name,
             d ? " is no logical volume" : "; bdev_lvol_get_lvols lists them");
    rpc_fail_errno(c, -ENODEV, &err);
    return NULL;
}

struct rpc_disk *rpc_lvol_of(struct rpc_call *c, const char *key)
{
    return rpc_lvol_named(c, rpc_str(c, key));
}

struct rpc_store *rpc_store_with(const struct plx_rpc *rpc, const struct rpc_disk *d)
{
    struct plx_pool_info info;
    plx_pool_get_info(plx_volume_pool(d->bdev), &info);
    return rpc_store_on(rpc, info.disk);
}

/* ---- what they are ---- */

static uint64_t clusters(uint64_t bytes, uint32_t cluster)
{
    return bytes / cluster + !!(bytes % cluster);
}

/* Of a thick one all; else what its data takes, whoever shares it. */
static json_int_t lvol_clusters(const struct plx_volume_info *v, uint32_t cluster)
{
    return (json_int_t)clusters(v->thick ? v->size : v->mapped, cluster);
}

static void add_child(void *arg, const char *name)
{
    json_array_append_new(arg, json_string(name));
}

static json_t *describe_lvol(const struct rpc_disk *d)
{
    struct plx_volume_info v;
    struct plx_pool_info pool;
    plx_volume_get_info(d->bdev, &v);
    plx_pool_get_info(plx_volume_pool(d->bdev), &pool);
    json_t *o = json_pack("{s:o, s:s, s:b, s:I, s:b, s:b}", "lvol_store_uuid", rpc_uuid_json(pool.uuid), "base_bdev",
                          plx_bdev_info(pool.disk)->name, "thin_provision", !v.thick, "num_allocated_clusters",
                          lvol_clusters(&v, pool.cluster), "snapshot", v.snapshot, "clone", v.parent[0] != 0);
    if (v.parent[0])
        json_object_set_new(o, "base_snapshot", json_string(v.parent));
    if (v.snapshot) {
        json_t *children = json_array();
        plx_volume_each_child(d->bdev, add_child, children);
        json_object_set_new(o, "clones", children);
    }
    json_object_set_new(o, "esnap_clone", json_boolean(v.outer[0] && !v.parent[0]));
    if (v.outer[0] && !v.parent[0])
        json_object_set_new(o, "external_snapshot_name", json_string(v.outer));
    return json_pack("{s:o}", "lvol", o);
}

const struct rpc_disk_kind rpc_kind_lvol = {.product = "Logical Volume", .describe = describe_lvol};

static json_t *store_json(const struct rpc_store *s)
{
    struct plx_pool_info i;
    plx_pool_get_info(s->pool, &i);
    json_t *o = json_pack("{s:o, s:s, s:s, s:I, s:I, s:I, s:I, s:I}", "uuid", rpc_uuid_json(i.uuid), "name", s->name,
                          "base_bdev", plx_bdev_info(s->base)->name, "total_data_clusters",
                          (json_int_t)(i.usable / i.cluster), "free_clusters", (json_int_t)(i.free / i.cluster),
                          "block_size", (json_int_t)plx_bdev_info(s->base)->block_size, "cluster_size",
                          (json_int_t)i.cluster, "max_growable_size", (json_int_t)i.size);
    if (i.checksums)
        json_object_set_new(o, "checksum_errors", json_integer((json_int_t)i.damages));
    return o;
}

static const struct rpc_param params_get_lvstores[] = {
    UUID("uuid", "of one lvstore"),
    TEXT("lvs_name", "its name; all without either"),
    END,
};

static void get_lvstores(struct rpc_call *c)
{
    const bool all = !rpc_str(c, "uuid") && !rpc_str(c, "lvs_name");
    const struct rpc_store *one = all ? NULL : rpc_store_of(c, "uuid");
    if (!all && !one)
        return;
    json_t *out = json_array();
    plx_list_for_each(it, &c->rpc->stores) {
        const struct rpc_store *s = plx_list_entry(it, struct rpc_store, link);
        if (all || s == one)
            json_array_append_new(out, store_json(s));
    }
    rpc_ok(c, out);
}

static const struct rpc_param params_get_lvols[] = {
    UUID("lvs_uuid", "of one lvstore"),
    TEXT("lvs_name", "its name; those of all without either"),
    END,
};

struct listing {
    const struct rpc_store *store;
    struct plx_pool_info pool;
    json_t *out;
};

static bool add_lvol(void *arg, const struct plx_volume_info *v)
{
    struct listing *l = arg;
    char alias[RPC_NAME];
    snprintf(alias, sizeof alias, "%s/%s", l->store->name, v->name);
    json_t *o =
        json_pack("{s:s, s:o, s:s, s:b, s:b, s:b, s:b, s:b, s:I, s:{s:s, s:o}}", "alias", alias, "uuid",
                  rpc_uuid_json(v->uuid), "name", v->name, "is_thin_provisioned", !v->thick, "is_snapshot", v->snapshot,
                  "is_clone", v->parent[0] != 0, "is_esnap_clone", v->outer[0] && !v->parent[0], "is_degraded",
                  v->outer[0] && !v->disk, "num_allocated_clusters", lvol_clusters(v, l->pool.cluster), "lvs", "name",
                  l->store->name, "uuid", rpc_uuid_json(l->pool.uuid));
    json_array_append_new(l->out, o);
    return true;
}

static void get_lvols(struct rpc_call *c)
{
    const bool all = !rpc_str(c, "lvs_uuid") && !rpc_str(c, "lvs_name");
    const struct rpc_store *one = all ? NULL : rpc_store_of(c, "lvs_uuid");
    struct listing l = {.out = NULL};
    if (!all && !one)
        return;
    l.out = json_array();
    plx_list_for_each(it, &c->rpc->stores) {
        l.store = plx_list_entry(it, struct rpc_store, link);
        plx_pool_get_info(l.store->pool, &l.pool);
        if (all || l.store == one)
            plx_pool_each(l.store->pool, add_lvol, &l);
    }
    rpc_ok(c, l.out);
}

/* ---- stores ---- */

#define CLEAR_METHOD                                                                                                   \
    TEXT("clear_method", "unmap, write_zeroes or none: what was not written reads as zeroes whichever it is", INERT)

/* What is none is refused all the same, and the call has failed. */
static bool clear_method_ok(struct rpc_call *c)
{
    static const char *const known[] = {"unmap", "write_zeroes", "none"};
    const char *method = rpc_str(c, "clear_method");
    struct plx_error err;
    if (!method)
        return true;
    for (size_t i = 0; i < PLX_ARRAY_SIZE(known); i++)
        if (strcasecmp(method, known[i]) == 0)
            return true;
    plx_fail(&err, -EINVAL, "there is no clear_method %.40s; there are unmap, write_zeroes and none", method);
    rpc_fail_errno(c, -EINVAL, &err);
    return false;
}

static const struct rpc_param params_create_lvstore[] = {
    TEXT("bdev_name", "the disk; what is on it is lost", REQUIRED),
    TEXT("lvs_name", "of the lvstore", REQUIRED, LIMITS(1, NAME_MAX_BYTES)),
    U32("cluster_sz", "bytes that sizes of volumes are rounded up to; 4 MiB without it. Space is taken by 4 KiB",
        INIT("0")),
    BOOL("checksum", "each 4 KiB of data has a checksum, which is checked whenever it is read", INIT("false")),
    CLEAR_METHOD,
    U32("num_md_pages_per_cluster_ratio", "room for metadata, which is there anyway", INERT),
    U32("md_page_size", "of metadata", INERT),
    END,
};

static void create_lvstore(struct rpc_call *c)
{
    const char *base = rpc_str(c, "bdev_name"), *name = rpc_str(c, "lvs_name");
    struct plx_bdev *bdev = plx_bdev_find(base);
    struct plx_error err;
    if (!clear_method_ok(c))
        return;
    if (!bdev) {
        rpc_fail_no_disk(c, base);
    } else if (rpc_store_on(c->rpc, bdev)) {
        plx_fail(&err, -EPERM, "%.100s has lvstore %.80s already", base, rpc_store_on(c->rpc, bdev)->name);
        rpc_fail_errno(c, -EPERM, &err);
    } else if (rpc_store_named(c->rpc, name)) {
        plx_fail(&err, -EEXIST, "there is an lvstore named %s already; choose another name", name);
        rpc_fail_errno(c, -EEXIST, &err);
    } else {
        rpc_store_make(c, bdev, name, (uint32_t)rpc_uint(c, "cluster_sz"), rpc_bool(c, "checksum"));
    }
}

static const struct rpc_param params_lvstore[] = {
    UUID("uuid", "of the lvstore"),
    TEXT("lvs_name", "or its name"),
    END,
};

static void lvstore_cleared(struct rpc_call *c)
{
    /* The disk is there, as others stand in line behind this call. */
    rpc_store_erase(c, ((const struct rpc_clearing *)c->state)->base);
}

static void delete_lvstore(struct rpc_call *c)
{
    struct rpc_store *s = rpc_store_of(c, "uuid");
    if (!s)
        return;
    struct rpc_clearing *clearing = c->state = malloc(sizeof *clearing);
    if (!clearing) {
        rpc_fail_errno(c, -ENOMEM, NULL);
        return;
    }
    *clearing = (struct rpc_clearing){.base = s->base, .keep = true, .over = lvstore_cleared};
    rpc_disk_clear(c);
}

/* ---- operations ---- */

/* More than that do not fit, as a name and a value have three bytes at least. */
enum { XATTRS_MAX = PLX_VOLUME_ATTRIBUTES / 3 };

/* One on a volume or a pool, and what is to be done then. */
struct lvol_op {
    struct rpc_clearing clearing; /* before it is deleted */
    struct plx_pool_op op;
    struct rpc_store *store;
    struct plx_pool *pool;
    char volume[PLX_UUID_TEXT]; /* op.volume */
    char outer[PLX_UUID_TEXT];  /* op.outer */
    char other[PLX_UUID_TEXT];  /* op.name, of one that takes long */
    struct rpc_disk *d;         /* that is closed for it, and opened again */
    struct plx_bdev_limits limits;
    char name[PLX_POOL_NAME];                            /* of a volume that is to be deleted */
    struct plx_volume_attribute attributes[XATTRS_MAX];  /* of a snapshot */
    bool always;                                         /* over is called when it has failed, too */
    void (*over)(struct rpc_call *c, struct lvol_op *o); /* it is done */
};

static void lvol_op_over(struct plx_pool_op *op)
{
    struct rpc_call *c = op->arg;
    struct lvol_op *o = c->state;
    if (op->result && !o->d && !o->always)
        rpc_fail_errno(c, op->result, &op->err);
    else
        o->over(c, o);
}

/* Or the call has failed. */
static struct lvol_op *lvol_op_new(struct rpc_call *c, enum plx_pool_op_kind kind, struct rpc_store *store,
                                   const struct rpc_disk *d, void (*over)(struct rpc_call *c, struct lvol_op *o))
{
    struct lvol_op *o = c->state = calloc(1, sizeof *o);
    if (!o) {
        rpc_fail_errno(c, -ENOMEM, NULL);
        return NULL;
    }
    o->store = store;
    o->pool = store->pool;
    o->over = over;
    o->op = (struct plx_pool_op){.kind = kind, .done = lvol_op_over, .reactor = c->rpc->reactor, .arg = c};
    if (d) {
        plx_uuid_format(plx_bdev_info(d->bdev)->uuid, o->volume);
        o->op.volume = o->volume;
    }
    return o;
}

static void lvol_op_submit(struct rpc_call *c, struct lvol_op *o)
{
    c->tried = true;
    plx_pool_submit(o->pool, &o->op);
}

static void just_done(struct rpc_call *c, struct lvol_op *o)
{
    (void)o;
    rpc_ok(c, NULL);
}

void rpc_lvol_begin_long(struct rpc_call *c, enum plx_pool_op_kind kind, const struct rpc_disk *d, const uint8_t *other)
{
    struct lvol_op *o = lvol_op_new(c, kind, rpc_store_with(c->rpc, d), d, just_done);
    if (!o)
        return;
    if (other) {
        plx_uuid_format(other, o->other);
        o->op.name = o->other;
    }
    lvol_op_submit(c, o);
    rpc_takes_long(c);
}

/* What was made becomes a disk. */
static void lvol_made(struct rpc_call *c, struct lvol_op *o)
{
    struct plx_error err;
    struct plx_bdev *bdev;
    int ret = rpc_volume_open(o->pool, o->store->name, o->op.uuid, o->op.name, &bdev, &err);
    if (ret) {
        rpc_fail_errno(c, ret, &err);
    } else if (!rpc_disk_add(c->rpc, &rpc_kind_lvol, bdev)) {
        plx_bdev_close(bdev);
        rpc_fail_errno(c, -ENOMEM, NULL);
    } else {
        rpc_ok(c, json_string(plx_bdev_info(bdev)->name));
    }
}

static const struct rpc_param params_create[] = {
    TEXT("lvol_name", "of the volume, in its lvstore", REQUIRED, LIMITS(1, NAME_MAX_BYTES)),
    U64("size_in_mib", "MiB, rounded up to clusters", REQUIRED, LIMITS(1, INT64_MAX >> 21)),
    BOOL("thin_provision", "space is taken as it is written, and not set aside", INIT("false")),
    UUID("uuid", "of the lvstore"),
    TEXT("lvs_name", "or its name"),
    CLEAR_METHOD,
    END,
};

/* A size in MiB is one in whole clusters. */
static uint64_t size_of(const struct rpc_call *c, struct plx_pool *pool)
{
    struct plx_pool_info info;
    plx_pool_get_info(pool, &info);
    return clusters(rpc_uint(c, "size_in_mib") << 20, info.cluster) * info.cluster;
}

static void lvol_create(struct rpc_call *c)
{
    struct rpc_store *s = clear_method_ok(c) ? rpc_store_of(c, "uuid") : NULL;
    struct lvol_op *o = s ? lvol_op_new(c, PLX_POOL_CREATE, s, NULL, lvol_made) : NULL;
    if (!o)
        return;
    o->op.name = rpc_str(c, "lvol_name");
    o->op.size = size_of(c, s->pool);
    o->op.thick = !rpc_bool(c, "thin_provision");
    lvol_op_submit(c, o);
}

static const struct rpc_param params_clone_bdev[] = {
    TEXT("bdev", "name or UUID of the disk, which nobody may write to from now on", REQUIRED),
    TEXT("lvs_name", "of the lvstore", REQUIRED),
    TEXT("clone_name", "of the new volume, in that lvstore", REQUIRED, LIMITS(1, NAME_MAX_BYTES)),
    END,
};

/* What would keep the volume from being opened. */
static int outer_check(const struct rpc_store *s, struct plx_bdev *outer, struct plx_error *err)
{
    const struct plx_bdev_hold_opts hold = {.who = "a volume", .claim = PLX_BDEV_STILL};
    const uint32_t ours = plx_bdev_info(s->base)->block_size, theirs = plx_bdev_info(outer)->block_size;
    struct plx_bdev_hold *h;
    if (ours % theirs)
        return plx_fail(err, -EINVAL, "blocks of %s, %u bytes, are no parts of those of %s, %u bytes",
                        plx_bdev_info(outer)->name, theirs, s->name, ours);
    int ret = plx_bdev_hold(outer, &hold, &h, err);
    if (ret)
        return ret == -EBUSY ? -EPERM : ret; /* as those expect it who know the other server's words */
    plx_bdev_release(h);
    return 0;
}

/* The pool knows it by its UUID, if it has one. */
static void outer_name(struct lvol_op *o, const struct plx_bdev *outer)
{
    const struct plx_bdev_info *info = plx_bdev_info(outer);
    plx_uuid_format(info->uuid, o->outer);
    o->op.outer = plx_uuid_nil(info->uuid) ? info->name : o->outer;
}

void rpc_lvol_begin_outer(struct rpc_call *c, const struct rpc_disk *d, struct plx_bdev *outer)
{
    struct rpc_store *s = rpc_store_with(c->rpc, d);
    struct plx_error err;
    if (plx_volume_pool(outer) == s->pool) {
        plx_fail(&err, -EINVAL, "%.100s is in the same lvstore; bdev_lvol_set_parent is for that",
                 plx_bdev_info(outer)->name);
        rpc_fail_errno(c, -EINVAL, &err);
        return;
    }
    int ret = outer_check(s, outer, &err);
    if (ret) {
        rpc_fail_errno(c, ret, &err);
        return;
    }
    struct lvol_op *o = lvol_op_new(c, PLX_POOL_SET_OUTER, s, d, just_done);
    if (!o)
        return;
    outer_name(o, outer);
    lvol_op_submit(c, o);
    rpc_takes_long(c);
}

static void lvol_clone_bdev(struct rpc_call *c)
{
    struct rpc_store *s = rpc_store_named(c->rpc, rpc_str(c, "lvs_name"));
    struct plx_bdev *outer = plx_bdev_find(rpc_str(c, "bdev"));
    if (!s) {
        rpc_fail(c, RPC_INVALID_PARAMS, "lvs does not exist: %.100s; bdev_lvol_get_lvstores lists them",
                 rpc_str(c, "lvs_name"));
        return;
    }
    if (!outer) {
        rpc_fail(c, RPC_INVALID_PARAMS, "bdev does not exist: %.100s; bdev_get_bdevs lists disks", rpc_str(c, "bdev"));
        return;
    }
    if (plx_volume_pool(outer) == s->pool) {
        rpc_fail(c, RPC_INVALID_PARAMS, "bdev is an lvol in same lvs as clone; use bdev_lvol_clone instead");
        return;
    }
    const struct plx_bdev_info *info = plx_bdev_info(outer);
    struct plx_error err;
    int ret = outer_check(s, outer, &err);
    if (ret) {
        rpc_fail_errno(c, ret, &err);
        return;
    }
    struct lvol_op *o = lvol_op_new(c, PLX_POOL_CREATE, s, NULL, lvol_made);
    if (!o)
        return;
    o->op.name = rpc_str(c, "clone_name");
    o->op.size = plx_bdev_blocks(outer) * info->block_size;
    outer_name(o, outer);
    lvol_op_submit(c, o);
}

static const struct rpc_param params_snapshot[] = {
    TEXT("lvol_name", "of the volume: LVSTORE/NAME, or its UUID", REQUIRED),
    TEXT("snapshot_name", "of the snapshot, in the same lvstore", REQUIRED, LIMITS(1, NAME_MAX_BYTES)),
    {.name = "xattrs", .type = RPC_MAP, .help = "what it is to remember: see bdev_lvol_set_xattr"},
    END,
};

static const struct rpc_param params_clone[] = {
    TEXT("snapshot_name", "of the snapshot: LVSTORE/NAME, or its UUID", REQUIRED),
    TEXT("clone_name", "of the new volume, in the same lvstore", REQUIRED, LIMITS(1, NAME_MAX_BYTES)),
    END,
};

static const struct rpc_param params_rename[] = {
    TEXT("old_name", "of the volume: LVSTORE/NAME, or its UUID", REQUIRED),
    TEXT("new_name", "in the same lvstore", REQUIRED, LIMITS(1, NAME_MAX_BYTES)),
    END,
};

static struct lvol_op *named_op(struct rpc_call *c, enum plx_pool_op_kind kind, const char *key, const char *name_key,
                                void (*over)(struct rpc_call *c, struct lvol_op *o))
{
    struct rpc_disk *d = rpc_lvol_of(c, key);
    struct lvol_op *o = d ? lvol_op_new(c, kind, rpc_store_with(c->rpc, d), d, over) : NULL;
    if (o)
        o->op.name = rpc_str(c, name_key);
    return o;
}

static void begin_named(struct rpc_call *c, enum plx_pool_op_kind kind, const char *key, const char *name_key,
                        void (*over)(struct rpc_call *c, struct lvol_op *o))
{
    struct lvol_op *o = named_op(c, kind, key, name_key, over);
    if (o)
        lvol_op_submit(c, o);
}

static void lvol_snapshot(struct rpc_call *c)
{
    json_t *xattrs = rpc_param(c, "xattrs"), *value;
    struct lvol_op *o = named_op(c, PLX_POOL_SNAPSHOT, "lvol_name", "snapshot_name", lvol_made);
    struct plx_error err;
    const char *name;
    if (!o)
        return;
    if (json_object_size(xattrs) > XATTRS_MAX) {
        plx_fail(&err, -ENOSPC, "%zu xattrs are more than fit", json_object_size(xattrs));
        rpc_fail_errno(c, -ENOSPC, &err);
        return;
    }
    json_object_foreach(xattrs, name, value)
    {
        o->attributes[o->op.n_attributes++] = (struct plx_volume_attribute){name, json_string_value(value)};
    }
    o->op.attributes = o->attributes;
    lvol_op_submit(c, o);
}

static void lvol_clone(struct rpc_call *c)
{
    begin_named(c, PLX_POOL_CLONE, "snapshot_name", "clone_name", lvol_made);
}

static void lvol_renamed(struct rpc_call *c, struct lvol_op *o)
{
    struct plx_error err;
    struct plx_bdev *bdev = plx_bdev_find(o->volume);
    int ret = bdev ? rpc_volume_alias(bdev, o->store->name, o->op.name, &err) : 0;
    if (ret)
        rpc_fail_errno(c, ret, &err);
    else
        rpc_ok(c, NULL);
}

static void lvol_rename(struct rpc_call *c)
{
    begin_named(c, PLX_POOL_RENAME, "old_name", "new_name", lvol_renamed);
}

static const struct rpc_param params_rename_lvstore[] = {
    TEXT("old_name", "of the lvstore", REQUIRED),
    TEXT("new_name", "that it gets", REQUIRED, LIMITS(1, NAME_MAX_BYTES)),
    END,
};

static void lvstore_renamed(struct rpc_call *c, struct lvol_op *o)
{
    snprintf(o->store->name, sizeof o->store->name, "%s", o->op.name);
    plx_list_for_each(it, &c->rpc->disks) {
        struct rpc_disk *d = plx_list_entry(it, struct rpc_disk, link);
        struct plx_volume_info v;
        struct plx_error err;
        if (d->kind != &rpc_kind_lvol || plx_volume_pool(d->bdev) != o->pool)
            continue;
        plx_volume_get_info(d->bdev, &v);
        if (rpc_volume_alias(d->bdev, o->store->name, v.name, &err))
            plx_warn("volume %s of lvstore %s has its alias of before: %s", v.name, o->store->name, err.text);
    }
    rpc_ok(c, NULL);
}

static void rename_lvstore(struct rpc_call *c)
{
    const char *name = rpc_str(c, "old_name"), *to = rpc_str(c, "new_name");
    struct rpc_store *s = rpc_store_named(c->rpc, name), *other = rpc_store_named(c->rpc, to);
    struct plx_error err;
    if (!s) {
        rpc_fail(c, -ENOENT, "Lvol store %.100s not found; bdev_lvol_get_lvstores lists them", name);
        return;
    }
    if (other && other != s) {
        plx_fail(&err, -EEXIST, "there is an lvstore named %s already; choose another name", to);
        rpc_fail_errno(c, -EEXIST, &err);
        return;
    }
    struct lvol_op *o = lvol_op_new(c, PLX_POOL_NAME_IT, s, NULL, lvstore_renamed);
    if (!o)
        return;
    o->op.name = to;
    lvol_op_submit(c, o);
}

/* ---- what is done to a volume that is not open ---- */

/* It is opened again, whether it was done or not. */
static void reopened(struct rpc_call *c, struct lvol_op *o)
{
    struct plx_error err;
    struct plx_volume_info v;
    struct plx_bdev *bdev = NULL;
    char alias[RPC_NAME];
    uint8_t uuid[16];
    plx_uuid_parse(o->volume, uuid);
    int ret = plx_pool_open_volume(o->pool, uuid, o->d->name, &bdev, &err);
    if (ret) {
        rpc_disk_gone(c->rpc, o->d);
    } else {
        rpc_disk_reopened(c->rpc, o->d, bdev);
        plx_volume_get_info(bdev, &v);
        snprintf(alias, sizeof alias, "%s/%s", o->store->name, v.name);
        if (plx_bdev_set_alias(bdev, alias, &err) || plx_bdev_set_limits(bdev, &o->limits, &err))
            plx_warn("%s: %s", alias, err.text);
    }
    if (o->op.result)
        rpc_fail_errno(c, o->op.result, &o->op.err);
    else if (ret)
        rpc_fail_errno(c, ret, &err);
    else
        rpc_ok(c, NULL);
}

static void closed_for_it(void *arg, struct plx_bdev *bdev, int result, const struct plx_error *err)
{
    struct rpc_call *c = arg;
    struct lvol_op *o = c->state;
    (void)bdev;
    if (!result) {
        lvol_op_submit(c, o);
        return;
    }
    o->d->closing = false;
    rpc_fail_errno(c, result, err);
}

static void begin_closed(struct rpc_call *c, struct rpc_disk *d, struct lvol_op *o)
{
    o->d = d;
    o->over = reopened;
    plx_bdev_get_limits(d->bdev, &o->limits);
    int ret = plx_bdev_close_begin(c->rpc->reactor, d->bdev, closed_for_it, c);
    if (ret)
        rpc_fail_errno(c, ret, NULL);
    else
        d->closing = true;
}

static const struct rpc_param params_resize[] = {
    TEXT("name", "of the volume: LVSTORE/NAME, or its UUID", REQUIRED),
    U64("size_in_mib", "MiB, rounded up to clusters; to be smaller it must not be in use", REQUIRED,
        LIMITS(1, INT64_MAX >> 21)),
    END,
};

static void lvol_resize(struct rpc_call *c)
{
    struct plx_volume_info v;
    struct plx_error err;
    struct rpc_disk *d = rpc_lvol_of(c, "name");
    if (!d)
        return;
    plx_volume_get_info(d->bdev, &v);
    if (v.snapshot) {
        plx_fail(&err, -EPERM, "%s is a snapshot, and stays as it is", v.name);
        rpc_fail_errno(c, -EPERM, &err);
        return;
    }
    struct lvol_op *o = lvol_op_new(c, PLX_POOL_RESIZE, rpc_store_with(c->rpc, d), d, just_done);
    if (!o)
        return;
    o->op.size = size_of(c, o->pool);
    if (o->op.size < v.size)
        begin_closed(c, d, o);
    else
        lvol_op_submit(c, o);
}

static const struct rpc_param params_name[] = {
    TEXT("name", "of the volume: LVSTORE/NAME, or its UUID", REQUIRED),
    END,
};

static void lvol_set_read_only(struct rpc_call *c)
{
    struct plx_volume_info v;
    struct rpc_disk *d = rpc_lvol_of(c, "name");
    if (!d)
        return;
    plx_volume_get_info(d->bdev, &v);
    if (v.snapshot) {
        rpc_ok(c, NULL);
        return;
    }
    struct lvol_op *o = lvol_op_new(c, PLX_POOL_FREEZE, rpc_store_with(c->rpc, d), d, reopened);
    if (o)
        begin_closed(c, d, o);
}

/* ---- deleting ---- */

/* What cannot be deleted is a disk as before. */
static void lvol_deleted(struct rpc_call *c, struct lvol_op *o)
{
    struct plx_error err;
    struct plx_bdev *bdev;
    uint8_t uuid[16];
    if (!o->op.result) {
        rpc_ok(c, NULL);
        return;
    }
    plx_uuid_parse(o->volume, uuid);
    if (!rpc_volume_open(o->pool, o->store->name, uuid, o->name, &bdev, &err) &&
        !rpc_disk_add(c->rpc, &rpc_kind_lvol, bdev))
        plx_bdev_close(bdev);
    rpc_fail_errno(c, o->op.result, &o->op.err);
}

static void lvol_closed(struct rpc_call *c)
{
    lvol_op_submit(c, c->state);
}

static void lvol_delete(struct rpc_call *c)
{
    struct rpc_disk *d = rpc_lvol_of(c, "name");
    struct lvol_op *o = d ? lvol_op_new(c, PLX_POOL_DELETE, rpc_store_with(c->rpc, d), d, lvol_deleted) : NULL;
    struct plx_volume_info v;
    struct plx_pool_info p;
    struct plx_error err;
    if (!o)
        return;
    plx_volume_get_info(d->bdev, &v);
    plx_pool_get_info(o->pool, &p);
    if (p.lost) { /* which is seen before hosts lose it */
        plx_fail(&err, -EUCLEAN, "%s has lost volumes: `pollux pool check` says what a repair can do", p.name);
        rpc_fail_errno(c, -EUCLEAN, &err);
        return;
    }
    if (v.busy) {
        plx_fail(&err, -EBUSY, "%s is in use: it, or one that goes back to it, is being copied or given a parent",
                 v.name);
        rpc_fail_errno(c, -EBUSY, &err);
        return;
    }
    memcpy(o->name, v.name, sizeof o->name);
    o->always = true;
    o->clearing = (struct rpc_clearing){.base = d->bdev, .over = lvol_closed};
    rpc_disk_clear(c);
}

/* ---- disks are looked at ---- */

static void examine_over(struct rpc_call *c)
{
    rpc_ok(c, NULL);
}

static void wait_for_examine(struct rpc_call *c)
{
    rpc_examine(c, examine_over);
}

const struct rpc_method rpc_methods_lvol[] = {
    {"bdev_lvol_create_lvstore", "construct_lvol_store",
     "Makes an lvstore, which is a pool, of a disk, and loses what was on it; returns its UUID.", params_create_lvstore,
     RPC_CHANGES, .run = create_lvstore},
    {"bdev_lvol_delete_lvstore", "destroy_lvol_store", "Deletes an lvstore with all volumes, whatever uses them.",
     params_lvstore, RPC_CHANGES, .run = delete_lvstore},
    {"bdev_lvol_rename_lvstore", "rename_lvol_store", "Gives an lvstore another name, and its volumes their aliases.",
     params_rename_lvstore, RPC_CHANGES, .run = rename_lvstore},
    {"bdev_lvol_get_lvstores", "get_lvol_stores", "Describes one lvstore, or all.", params_get_lvstores, RPC_READS,
     .run = get_lvstores},
    {"bdev_lvol_create", "construct_lvol_bdev", "Makes a volume, whose disk is named by its UUID, which it returns.",
     params_create, RPC_CHANGES, .run = lvol_create},
    {"bdev_lvol_snapshot", "snapshot_lvol_bdev", "Makes a snapshot of a volume, as it is at present; returns its UUID.",
     params_snapshot, RPC_CHANGES, .run = lvol_snapshot},
    {"bdev_lvol_clone", "clone_lvol_bdev", "Makes a volume of a snapshot; returns its UUID.", params_clone, RPC_CHANGES,
     .run = lvol_clone},
    {"bdev_lvol_clone_bdev", NULL,
     "Makes a volume of a disk that is in no lvstore, or in another, which shows through where nothing was written; "
     "returns its UUID.",
     params_clone_bdev, RPC_CHANGES, .run = lvol_clone_bdev},
    {"bdev_lvol_rename", "rename_lvol_bdev", "Gives a volume another name in its lvstore.", params_rename, RPC_CHANGES,
     .run = lvol_rename},
    {"bdev_lvol_resize", "resize_lvol_bdev", "Gives a volume another size, which hosts see at once.", params_resize,
     RPC_CHANGES, .run = lvol_resize},
    {"bdev_lvol_set_read_only", "set_read_only_lvol_bdev",
     "Makes a snapshot of a volume that nobody uses: it cannot be written to any more, and can have clones.",
     params_name, RPC_CHANGES, .run = lvol_set_read_only},
    {"bdev_lvol_delete", "destroy_lvol_bdev", "Deletes a volume or snapshot, with the namespaces that it is.",
     params_name, RPC_CHANGES, .run = lvol_delete},
    {"bdev_lvol_get_lvols", NULL, "Lists the volumes and snapshots of one lvstore, or of all.", params_get_lvols,
     RPC_READS, .run = get_lvols},
    {RPC_EXAMINE, NULL, "Waits until disks were looked at for the lvstores that are on them.", NULL, RPC_DUMPS,
     .startup = true, .run = wait_for_examine},
    {.name = NULL},
};
