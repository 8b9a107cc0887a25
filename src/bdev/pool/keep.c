/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the root of a pool leads to stays on the disk for somebody who looks at it, while hosts write: what becomes free
 * is not taken again. For a while the maps stay too: the next checkpoint writes them to their other places, and the one
 * after that waits.
 *
 * Hosts come first: when a pool has no more room, or a checkpoint has waited for too long, nothing is kept any more,
 * and who looks is told so.
 */
#include "pool.h"

#include "reactor/clock.h"

#define KEEP_MS UINT64_C(2000) /* that checkpoints wait, at most */

static void keep_too_long(struct plx_timer *timer)
{
    pool_kick(plx_container_of(timer, struct plx_pool, keep_timer));
}

bool pool_keep_lets_begin(struct plx_pool *p)
{
    if (p->keep != PLX_POOL_KEEP_MAPS)
        return true;
    const uint64_t now = plx_clock_ns();
    if (now >= p->keep_until) {
        pool_keep_give_up(p);
        return true;
    }
    if (!p->keep_had_one) {
        p->keep_had_one = true;
        return true;
    }
    p->keep_timer.fn = keep_too_long;
    if (!p->keep_timer.set)
        plx_timer_set(p->keeper, &p->keep_timer, p->keep_until - now);
    return false;
}

void pool_keep_give_up(struct plx_pool *p)
{
    if (!p->keep)
        return;
    p->keep = PLX_POOL_KEEP_NOTHING;
    p->keep_lost = true;
    pool_space_unkeep(p);
}

int plx_pool_keep(struct plx_pool *p, enum plx_pool_keep what)
{
    int ret = 0;
    pool_lock(p);
    if (what == PLX_POOL_KEEP_MAPS) {
        ret = p->keep || p->keep_lost ? -EBUSY : 0;
        if (!ret) {
            p->keep = what;
            p->keep_had_one = p->checkpoint;
            p->keep_until = plx_clock_ns() + KEEP_MS * PLX_NS_PER_MS;
        }
    } else {
        ret = p->keep_lost ? -EAGAIN : 0;
        if (!p->keep_lost)
            p->keep = what;
        if (what == PLX_POOL_KEEP_NOTHING) {
            p->keep_lost = false;
            pool_space_unkeep(p);
        }
    }
    pool_unlock(p);
    pool_kick(p);
    return ret;
}
