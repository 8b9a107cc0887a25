/* SPDX-License-Identifier: BSD-3-Clause */
/* Operations on pools: what those that are done at once (op.c) and those that take long (own.c, rebase.c) share. */
#ifndef PLX_POOL_OP_H
#define PLX_POOL_OP_H

#include "pool.h"

struct plx_pool_work {
    struct plx_pool *pool;
    struct plx_pool_op *op;
    struct plx_pool_work *with; /* another snapshot, of op->with */
    struct pool_wait wait;
    struct pool_apply apply;
    struct pool_volume *v, *made;
    struct pool_volume *to; /* PLX_POOL_REVERT: what it will be as */
    bool applied;
    uint64_t cut; /* PLX_POOL_RESIZE: where to go on unmapping; PLX_POOL_GROW: units that the next root says; or 0 */
    bool bars;    /* v is not opened meanwhile */
    bool taken;   /* v is changed by no other operation meanwhile: pool_volume.op */
    void *steps;  /* of one that takes many */
    int result;   /* that is to be told when it has let go of what it has: */
    struct pool_outer *outer;          /* a disk outside that it reads, or that v will go back to; or NULL */
    struct plx_bdev_channel *outer_ch; /* to read it; or NULL */
    struct pool_outer *leaves;         /* the one that v, as a disk, went back to; or NULL */
    /* An attempt that ends in POOL_AGAIN may leave what is to be begun without the lock: it has it tried again. */
    void (*begin)(struct plx_pool_work *w);
    void (*end)(struct plx_pool_work *w); /* it is over, whether it was done or not; under the lock */
};

/* The next two are the keeper's, without the lock. It cannot be done. */
void pool_work_fail(struct plx_pool_work *w, int ret);
/* Tries it (again). */
void pool_work_try(struct plx_pool_work *w);
/* What another message tries again, so that others have their turn: for `begin`. */
void pool_work_yield(struct plx_pool_work *w);
/* v has no other operation begun on it until this one is over. */
void pool_work_take(struct plx_pool_work *w);
/* A tree that no checkpoint has is not begun with: its root has no CRC yet. Waits for one. @return 0 or POOL_AGAIN */
int pool_work_tree(struct plx_pool_work *w, struct pool_try *t, const struct pool_tree *tree);
/* There is none of this name: -ENOENT, with op->err filled. */
int pool_work_no_volume(struct plx_pool_op *op, const char *name);
/* What shows through in one does so in what is made of it. */
void pool_volume_take_outer(struct pool_volume *v, const struct pool_volume *of);
struct pool_volume *pool_volume_new(struct plx_pool *p, uint32_t number);
/* Takes a place of the directory. @return 0 or -ENOMEM, -ENOSPC */
int pool_work_number(struct plx_pool *p, struct pool_volume **out);
/* Finds the volume of an operation that takes long, w->v. @return 0, POOL_AGAIN, or -errno with err filled */
int pool_work_lock(struct plx_pool_work *w);

/* Its volume, if that is a disk, has w->outer, or none, from now on; what it had is to be left. Under the lock. */
void pool_work_leave(struct plx_pool_work *w);
/* attribute.c; under the lock */
bool pool_attributes_ok(const char attributes[POOL_ATTRIBUTES]);
/* Those of an operation. @return 0, or -errno with op->err filled, and nothing is changed */
int pool_attributes_set(struct pool_volume *v, struct plx_pool_op *op);
int pool_attributes_attempt(struct plx_pool_work *w, struct pool_try *t); /* PLX_POOL_SET */
/* What is its own may be more now, or less: a checksum of it is none any more. */
void pool_volume_altered(struct pool_volume *v);

/* own.c: PLX_POOL_INFLATE, PLX_POOL_DECOUPLE */
/* and, before pool_rebase_attempt(), PLX_POOL_SET_PARENT, PLX_POOL_SET_OUTER */
int pool_own_attempt(struct plx_pool_work *w, struct pool_try *t);
void pool_own_apply(struct plx_pool_work *w);

/* rebase.c: PLX_POOL_SET_PARENT, PLX_POOL_SET_OUTER */
/* Whether it is one of these. */
static inline bool pool_work_rebases(const struct plx_pool_work *w)
{
    return w->op->kind == PLX_POOL_SET_PARENT || w->op->kind == PLX_POOL_SET_OUTER;
}
/* Whether it can be the name of a disk outside. */
bool pool_outer_name_ok(const char *name);
/* @return 0 with the snapshot, or NULL for none; or -errno with op->err filled */
int pool_rebase_check(struct plx_pool_work *w, struct pool_volume **to);
int pool_rebase_begin(struct plx_pool_work *w, struct pool_volume *to);
/* now: the snapshot that is seen as its parent, until which all that is in its tree is not its own; or NULL */
int pool_rebase_attempt(struct plx_pool_work *w, struct pool_try *t, struct pool_volume *now);
void pool_rebase_apply(struct plx_pool_work *w);
void pool_rebase_end(struct plx_pool_work *w);

#endif
