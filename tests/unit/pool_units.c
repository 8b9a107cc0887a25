/* SPDX-License-Identifier: BSD-3-Clause */
#include "pool_units.h"

#include <string.h>

void pool_units_change(struct pool_units *u, unsigned first, unsigned n, bool mapped)
{
    for (unsigned i = first; i < first + n; i++) {
        u->mapped[i] = mapped;
        u->own[i] = mapped || u->outer || (u->parent && u->parent->mapped[i]);
    }
}

void pool_units_set_parent(struct pool_units *u, struct pool_units *s, bool take)
{
    u->parent = s;
    if (take)
        u->outer = s && s->outer;
    for (unsigned i = 0; i < POOL_UNITS; i++) {
        if (take && !u->own[i])
            u->mapped[i] = s && s->mapped[i];
        u->own[i] = u->mapped[i] ? u->own[i] || !s : u->outer ? u->own[i] : s && s->mapped[i];
    }
}

void pool_units_decouple(struct pool_units *u)
{
    struct pool_units *s = u->parent;
    for (unsigned i = 0; s && i < POOL_UNITS; i++)
        u->own[i] |= s->own[i];
    pool_units_set_parent(u, s ? s->parent : NULL, false);
}

void pool_units_inflate(struct pool_units *u)
{
    while (u->parent)
        pool_units_decouple(u);
    for (unsigned i = 0; u->outer && i < POOL_UNITS; i++) {
        u->mapped[i] |= !u->own[i];
        u->own[i] = true; /* zeroes, too, that were written where that disk had something else */
    }
    u->outer = false;
}

void pool_units_snapshot(struct pool_units *u, struct pool_units *s)
{
    *s = *u;
    memset(u->own, 0, sizeof u->own);
    u->parent = s;
}

void pool_units_set_outer(struct pool_units *u)
{
    for (unsigned i = 0; i < POOL_UNITS; i++)
        u->mapped[i] &= u->own[i];
    u->parent = NULL;
    u->outer = true;
}

void pool_units_revert(struct pool_units *u, const struct pool_units *s)
{
    memcpy(u->mapped, s->mapped, sizeof u->mapped);
    memset(u->own, 0, sizeof u->own);
    u->outer = s->outer;
}
