/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Methods for what clients have a volume remember, and for checksums of snapshots, by which they compare copies. Such a
 * checksum is the CRC-64 (ISO 3309, reflected) of the clusters of which the snapshot has something of its own, in their
 * order, each as it is read, without its highest bit, as numbers of JSON are signed here. It is kept in the pool until
 * what is the snapshot's own changes. Those of single clusters are not: they are made of the data when they are asked
 * for.
 */
#include "rpc/pool_call.h"

#include "base/uuid.h"
#include "rpc/table.h"

#include <errno.h>
#include <isa-l/crc64.h>
#include <stdlib.h>
#include <string.h>

enum {
    SUM_CLUSTERS_MAX = 65536, /* that are told of at a time */
};

/* ---- attributes ---- */

static const struct rpc_param params_set_xattr[] = {
    TEXT("name", "of the volume: LVSTORE/NAME, or its UUID", REQUIRED),
    TEXT("xattr_name", "of the attribute", REQUIRED, LIMITS(1, PLX_VOLUME_ATTRIBUTES - 2)),
    TEXT("xattr_value",
         "what it is from now on; names and values of a volume have 287 bytes together, each counted with one more",
         REQUIRED, LIMITS(0, PLX_VOLUME_ATTRIBUTES - 2)),
    END,
};

struct xattr_op {
    struct plx_pool_op op;
    struct plx_volume_attribute one;
    char volume[PLX_UUID_TEXT];
};

static void xattr_is_set(struct plx_pool_op *op)
{
    struct rpc_call *c = op->arg;
    if (op->result)
        rpc_fail_errno(c, op->result, &op->err);
    else
        rpc_ok(c, NULL);
}

static void lvol_set_xattr(struct rpc_call *c)
{
    const struct rpc_disk *d = rpc_lvol_of(c, "name");
    struct xattr_op *o = d ? c->state = calloc(1, sizeof *o) : NULL;
    if (!d)
        return;
    if (!o) {
        rpc_fail_errno(c, -ENOMEM, NULL);
        return;
    }
    plx_uuid_format(plx_bdev_info(d->bdev)->uuid, o->volume);
    o->one = (struct plx_volume_attribute){rpc_str(c, "xattr_name"), rpc_str(c, "xattr_value")};
    o->op = (struct plx_pool_op){.kind = PLX_POOL_SET,
                                 .volume = o->volume,
                                 .attributes = &o->one,
                                 .n_attributes = 1,
                                 .done = xattr_is_set,
                                 .reactor = c->rpc->reactor,
                                 .arg = c};
    c->tried = true;
    plx_pool_submit(plx_volume_pool(d->bdev), &o->op);
}

static const struct rpc_param params_get_xattr[] = {
    TEXT("name", "of the volume: LVSTORE/NAME, or its UUID", REQUIRED),
    TEXT("xattr_name", "of the attribute", REQUIRED),
    END,
};

static void lvol_get_xattr(struct rpc_call *c)
{
    const struct rpc_disk *d = rpc_lvol_of(c, "name");
    char value[PLX_VOLUME_ATTRIBUTES];
    if (!d)
        return;
    if (plx_volume_get_attribute(d->bdev, rpc_str(c, "xattr_name"), value, sizeof value) < 0)
        rpc_fail(c, RPC_INTERNAL, "No such file or directory"); /* which clients know by these words alone */
    else
        rpc_ok(c, json_string(value));
}

/* ---- checksums ---- */

static bool sum_stopped(const struct pool_call *t)
{
    return __atomic_load_n(&t->stop, __ATOMIC_RELAXED) || __atomic_load_n(&t->call->rpc->stopping, __ATOMIC_RELAXED);
}

/*
 * Goes through the clusters that the call is about; each is told by its number and its own checksum, unless told is
 * NULL. @return 0 with that of all, or -errno
 */
static int sum_clusters(struct pool_call *t, json_t *told, uint64_t *sum, struct plx_error *err)
{
    struct fragmap f;
    struct pool_reader r;
    int ret = pool_fragmap(t, &f, err);
    uint8_t *mem = ret ? NULL : aligned_alloc(4096, (size_t)f.cluster);
    const bool opened = mem && !(ret = pool_reader_open(&r, t->disk, err));
    if (!ret && !mem)
        ret = -ENOMEM;
    *sum = 0;
    for (uint64_t i = 0; i < f.n && !ret; i++) {
        const uint64_t at = (f.first + i) * f.cluster;
        const uint64_t n = at < f.size && f.size - at < f.cluster ? f.size - at : f.cluster;
        if (!fragmap_has(&f, i))
            continue;
        ret = sum_stopped(t) ? plx_fail(err, -ECANCELED, "it was stopped") : pool_reader_read(&r, at, n, mem, err);
        if (ret)
            break;
        if (told)
            json_array_append_new(told, json_pack("{s:I, s:I}", "cluster_index", (json_int_t)(f.first + i), "checksum",
                                                  (json_int_t)(crc64_iso_refl(0, mem, n) & INT64_MAX)));
        else
            *sum = crc64_iso_refl(*sum, mem, n);
    }
    if (opened)
        pool_reader_close(&r);
    free(mem);
    free(f.bits);
    return ret;
}

static int run_register(struct pool_call *t, struct plx_error *err)
{
    struct plx_pool_op op = {.kind = PLX_POOL_SET_CHECKSUM, .volume = t->volume, .altered = t->altered};
    int ret = sum_clusters(t, NULL, &op.checksum, err);
    if (!ret) {
        ret = plx_pool_do(t->pool, &op);
        if (ret)
            *err = op.err;
    }
    return ret;
}

static int run_ranges(struct pool_call *t, struct plx_error *err)
{
    uint64_t sum;
    t->result = json_array();
    return sum_clusters(t, t->result, &sum, err);
}

static const struct rpc_param params_snapshot_name[] = {
    TEXT("name", "of the snapshot: LVSTORE/NAME, or its UUID", REQUIRED),
    END,
};

/* That is under way, of this volume; or NULL. */
static struct pool_call *sum_of(const struct plx_rpc *rpc, const struct plx_bdev *disk)
{
    plx_list_for_each(it, &rpc->sums) {
        struct pool_call *t = plx_list_entry(it, struct pool_call, summing);
        if (t->disk == disk)
            return t;
    }
    return NULL;
}

static void register_checksum(struct rpc_call *c)
{
    const struct rpc_disk *d = rpc_lvol_of(c, "name");
    struct plx_volume_info v;
    struct plx_error err;
    int ret = 0;
    if (!d)
        return;
    plx_volume_get_info(d->bdev, &v);
    if (!v.snapshot)
        ret = plx_fail(&err, -EPERM, "%s is no snapshot, and may change", v.name);
    else if (v.busy || sum_of(c->rpc, d->bdev))
        ret = plx_fail(&err, -EBUSY, "%s is being %s already", v.name, v.busy ? "changed" : "read for its checksum");
    if (ret) {
        rpc_fail_errno(c, ret, &err);
        return;
    }
    struct pool_call *t = pool_call_on(c, d, run_register);
    if (!t || !pool_call_hold(t, d->bdev))
        return;
    t->altered = v.altered;
    plx_list_add_tail(&c->rpc->sums, &t->summing);
    rpc_takes_long(c);
    pool_call_run(t);
}

static void stop_checksum(struct rpc_call *c)
{
    const struct rpc_disk *d = rpc_lvol_of(c, "name");
    struct pool_call *t = d ? sum_of(c->rpc, d->bdev) : NULL;
    struct plx_error err;
    if (t) {
        __atomic_store_n(&t->stop, true, __ATOMIC_RELAXED);
        rpc_ok(c, NULL);
    } else if (d) {
        plx_fail(&err, -ESRCH, "no checksum of %.100s is being made", rpc_str(c, "name"));
        rpc_fail_errno(c, -ESRCH, &err);
    }
}

/* The disk of a snapshot that has a checksum; or NULL, and the call has failed. */
static struct rpc_disk *summed_of(struct rpc_call *c, uint64_t *sum)
{
    struct rpc_disk *d = rpc_lvol_of(c, "name");
    struct plx_error err;
    if (!d || plx_volume_get_checksum(d->bdev, sum))
        return d;
    plx_fail(&err, -ENODEV, "%.100s has no checksum; bdev_lvol_register_snapshot_checksum makes that of a snapshot",
             rpc_str(c, "name"));
    rpc_fail_errno(c, -ENODEV, &err);
    return NULL;
}

static void get_checksum(struct rpc_call *c)
{
    uint64_t sum;
    if (summed_of(c, &sum))
        rpc_ok(c, json_pack("{s:I}", "checksum", (json_int_t)(sum & INT64_MAX)));
}

static const struct rpc_param params_ranges[] = {
    TEXT("name", "of the snapshot: LVSTORE/NAME, or its UUID", REQUIRED),
    U64("cluster_start_index", "number of the first cluster", REQUIRED, LIMITS(0, UINT32_MAX)),
    U64("cluster_count", "how many", REQUIRED, LIMITS(1, SUM_CLUSTERS_MAX)),
    END,
};

static void get_ranges(struct rpc_call *c)
{
    uint64_t sum, first = rpc_uint(c, "cluster_start_index"), n = rpc_uint(c, "cluster_count");
    const struct rpc_disk *d = summed_of(c, &sum);
    struct plx_pool_info info;
    struct plx_volume_info v;
    struct plx_error err;
    if (!d)
        return;
    plx_pool_get_info(plx_volume_pool(d->bdev), &info);
    plx_volume_get_info(d->bdev, &v);
    const uint64_t all = v.size / info.cluster + !!(v.size % info.cluster);
    if (first >= all || n > all - first) {
        plx_fail(&err, -EINVAL, "%s has clusters 0 to %llu", v.name, (unsigned long long)all - 1);
        rpc_fail_errno(c, -EINVAL, &err);
        return;
    }
    struct pool_call *t = pool_call_on(c, d, run_ranges);
    if (!t || !pool_call_hold(t, d->bdev))
        return;
    t->offset = first * info.cluster;
    t->length = n * info.cluster;
    if (t->length > v.size - t->offset) /* the end of the last one is beyond it */
        t->length = 0;
    rpc_takes_long(c);
    pool_call_run(t);
}

const struct rpc_method rpc_methods_lvol_xattr[] = {
    {"bdev_lvol_set_xattr", NULL, "Has a volume remember a text by a name.", params_set_xattr, RPC_CHANGES,
     .run = lvol_set_xattr},
    {"bdev_lvol_get_xattr", NULL, "Returns such a text.", params_get_xattr, RPC_READS, .run = lvol_get_xattr},
    {"bdev_lvol_register_snapshot_checksum", NULL,
     "Reads what a snapshot has of its own, and keeps its checksum, until that changes.", params_snapshot_name,
     RPC_READS, .run = register_checksum},
    {"bdev_lvol_register_snapshot_range_checksums", NULL,
     "The same: those of single clusters are made when they are asked for.", params_snapshot_name, RPC_READS,
     .run = register_checksum},
    {"bdev_lvol_stop_snapshot_checksum", NULL, "Ends that before it is through.", params_snapshot_name, RPC_READS,
     .run = stop_checksum},
    {"bdev_lvol_get_snapshot_checksum", NULL, "Returns the checksum of a snapshot: 63 bits of a CRC-64.",
     params_snapshot_name, RPC_READS, .run = get_checksum},
    {"bdev_lvol_get_snapshot_range_checksums", NULL,
     "Reads clusters of a snapshot that has a checksum, and lists those of which it has something of its own, with "
     "the checksum of each.",
     params_ranges, RPC_READS, .run = get_ranges},
    {.name = NULL},
};
