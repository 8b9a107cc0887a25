/* SPDX-License-Identifier: BSD-3-Clause */
/* Calls about a pool that is open here, what they do on a worker thread, and what several of them need. */
#ifndef PLX_RPC_POOL_CALL_H
#define PLX_RPC_POOL_CALL_H

#include "rpc/lvol.h"

enum { POOL_EXTENTS = 4096 }; /* of a call, at most */

struct pool_call {
    struct plx_aio aio;
    struct rpc_call *call;
    struct plx_pool *pool;
    struct plx_bdev *disk; /* of the volume that is read, and is open; or NULL */
    struct plx_bdev_hold *hold;
    uint8_t uuid[16];
    int (*run)(struct pool_call *t, struct plx_error *err);
    json_t *result;
    struct plx_error err;

    /* What it is to do; texts are the call's. */
    const char *volume, *name, *from;
    enum plx_pool_op_kind kind;
    uint64_t offset, length;
    bool thick, own, data;
    const char *text; /* base64: data */
    bool flush;
    char store[PLX_UUID_TEXT + PLX_POOL_NAME];

    /* Of a checksum that is made. */
    struct plx_list summing; /* in rpc->sums */
    bool stop;
    uint32_t altered;
};

/* Or the call has failed. */
struct pool_call *pool_call_new(struct rpc_call *c, int (*run)(struct pool_call *t, struct plx_error *err));
/* The same about a volume that is one of ours: its UUID is what t->volume says. */
struct pool_call *pool_call_on(struct rpc_call *c, const struct rpc_disk *d,
                               int (*run)(struct pool_call *t, struct plx_error *err));
/* Has it done, and answered. */
void pool_call_run(struct pool_call *t);
/* Its disk stays open until then. @return false: the call has failed */
bool pool_call_hold(struct pool_call *t, struct plx_bdev *bdev);

/* ---- on worker threads ---- */

/* A disk that is read by a reactor of its own. */
struct pool_reader {
    struct plx_bdev_req req;
    struct iovec iov;
    struct plx_bdev *disk;
    struct plx_bdev_channel *ch;
    struct plx_reactor *reactor;
    bool done;
};
int pool_reader_open(struct pool_reader *r, struct plx_bdev *disk, struct plx_error *err);
int pool_reader_read(struct pool_reader *r, uint64_t offset, uint64_t length, void *mem, struct plx_error *err);
/* Any operation; mem is NULL where that has no data. */
int pool_reader_do(struct pool_reader *r, enum plx_bdev_op op, uint64_t offset, uint64_t length, void *mem,
                   struct plx_error *err);
void pool_reader_close(struct pool_reader *r);

/* Of which clusters a volume has something that the snapshot it goes back to has not. */
struct fragmap {
    uint8_t *bits;
    uint64_t first, n, set; /* clusters */
    uint32_t cluster;
    uint64_t size; /* of the volume */
};
/* From t->offset on, t->length bytes, or all; bits are to be freed, whatever is returned. */
int pool_fragmap(struct pool_call *t, struct fragmap *f, struct plx_error *err);
static inline bool fragmap_has(const struct fragmap *f, uint64_t i)
{
    return f->bits[i / 8] >> i % 8 & 1;
}

#endif
