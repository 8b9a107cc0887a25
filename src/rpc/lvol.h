/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Stores of logical volumes, which are pools, as clients know them. A pool that is open here has each of its volumes
 * and snapshots open as a disk: its name is the UUID, its alias STORE/VOLUME.
 *
 * Pools are looked for on disks as they come, by RPC_EXAMINE, which stands in the line of changes: whoever finds a disk
 * in use does not do so because it is just being looked at.
 */
#ifndef PLX_RPC_LVOL_H
#define PLX_RPC_LVOL_H

#include "rpc/rpc.h"

#include "base/uuid.h"

#include <pollux/pool.h>

#define RPC_EXAMINE "bdev_wait_for_examine"

struct rpc_store {
    struct plx_list link; /* in rpc->stores */
    struct plx_pool *pool;
    struct plx_bdev *base;
    char name[PLX_UUID_TEXT + PLX_POOL_NAME]; /* the pool's, or its UUID */
};

extern const struct rpc_disk_kind rpc_kind_lvol;

/* The store on a disk; or NULL. */
struct rpc_store *rpc_store_on(const struct plx_rpc *rpc, const struct plx_bdev *base);
/* The store that a call names by its name or its UUID, and not by both; or NULL, and the call has failed. */
struct rpc_store *rpc_store_of(struct rpc_call *c, const char *uuid_key);
/* The volume of this alias, or UUID; or NULL, and the call has failed. */
struct rpc_disk *rpc_lvol_named(struct rpc_call *c, const char *name);
/* That a volume is in. */
struct rpc_store *rpc_store_with(const struct plx_rpc *rpc, const struct rpc_disk *d);
struct rpc_store *rpc_store_named(const struct plx_rpc *rpc, const char *name);
/* Whether a disk is a volume, or stands on one. */
bool rpc_is_on_volume(const struct plx_bdev *bdev);

/* Whether there are disks to be looked at; looks at them, one after the other, and then calls over. */
bool rpc_examine_due(const struct plx_rpc *rpc);
void rpc_examine(struct rpc_call *c, void (*over)(struct rpc_call *c));

/* Makes a pool of a disk and opens it, or the call fails; its result is the UUID. */
void rpc_store_make(struct rpc_call *c, struct plx_bdev *base, const char *name, uint32_t cluster, bool checksums);
/* Puts a pool back, none of whose volumes is open, and forgets the store; then calls over. */
void rpc_store_close(struct rpc_call *c, struct rpc_store *store, void (*over)(struct rpc_call *c));
/* The same at the end of the process, of one on this disk, or of all. */
void rpc_stores_close(struct plx_rpc *rpc, const struct plx_bdev *base);
/* Has a disk be one without a pool; then answers. */
void rpc_store_erase(struct rpc_call *c, struct plx_bdev *base);

/* Opens a volume as a disk, with its alias. @return 0, or -errno with err filled */
int rpc_volume_open(struct plx_pool *pool, const char *store, const uint8_t uuid[16], const char *name,
                    struct plx_bdev **out, struct plx_error *err);
/* The volume that a parameter names by its alias, or its UUID; or NULL, and the call has failed. */
struct rpc_disk *rpc_lvol_of(struct rpc_call *c, const char *key);
/* Begins what takes long, with another volume or without, and answers with true. */
void rpc_lvol_begin_long(struct rpc_call *c, enum plx_pool_op_kind kind, const struct rpc_disk *d,
                         const uint8_t *other);
/* Begins to have a volume go back to a disk outside; or the call fails. */
void rpc_lvol_begin_outer(struct rpc_call *c, const struct rpc_disk *d, struct plx_bdev *outer);
/* A disk has come that volumes may wait for which go back to it; or the volumes of a pool have, if that is not NULL. */
void rpc_stores_retry(struct plx_rpc *rpc, const struct plx_bdev *outer, const struct plx_pool *pool);
/* lvol_copy.c: whether there are any under way; the process ends, and so do they. */
bool rpc_copies_running(const struct plx_rpc *rpc);
void rpc_copies_stop(struct plx_rpc *rpc);
/* The process ends: so does what takes long. */
void rpc_lvols_stop(struct plx_rpc *rpc);

int rpc_volume_alias(struct plx_bdev *bdev, const char *store, const char *name, struct plx_error *err);

#endif
