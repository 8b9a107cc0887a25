/* SPDX-License-Identifier: BSD-3-Clause */
/* A model of who has what: which units of a volume are its own, through whatever it goes back to. */
#ifndef TEST_POOL_UNITS_H
#define TEST_POOL_UNITS_H

#include <stdbool.h>

enum { POOL_UNITS = 136 };

struct pool_units {
    struct pool_units *parent;
    bool outer; /* it goes back to a disk outside, which has all of them */
    bool own
        [POOL_UNITS]; /* that it has, and its parent has not; or that it has not, and its parent, or that disk, has */
    bool mapped[POOL_UNITS];
};

void pool_units_change(struct pool_units *u, unsigned first, unsigned n, bool mapped);
/* It goes back to another one, or to none; take: what it has not had is that one's. */
void pool_units_set_parent(struct pool_units *u, struct pool_units *s, bool take);
/* It gets its own of what its parent has, and goes back to what that does. */
void pool_units_decouple(struct pool_units *u);
/* It goes back to nothing, and has all that it could read. */
void pool_units_inflate(struct pool_units *u);
/* s: a snapshot of it, which is its parent then */
void pool_units_snapshot(struct pool_units *u, struct pool_units *s);
/* It goes back to the disk outside, with what is its own. */
void pool_units_set_outer(struct pool_units *u);
/* It is as its parent was. */
void pool_units_revert(struct pool_units *u, const struct pool_units *s);

#endif
