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

#define KEEP_MS UINT64_C(1000) /* that checkpoints wait, at most */

enum { FREED_AT_ONCE = 1 << 16 }; /* units that were kept, of a checkpoint */

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
    p->keep_lost |= p->keep != PLX_POOL_KEEP_NOTHING;
    p->keep = PLX_POOL_KEEP_NOTHING;
    pool_space_unkeep(p);
}

void pool_keep_serve(struct plx_pool *p)
{
    bool more = false;
    pool_lock(p);
    if (!p->keep && p->n_kept && !p->checkpoint && !p->closing) {
        if (!(plx_bdev_info(p->disk)->ops & 1 << PLX_BDEV_UNMAP) || p->ready < p->spare)
            pool_space_unkeep(p);
        more = pool_space_free_kept(p) && p->freed.n < FREED_AT_ONCE;
        if (!more && p->freed.n)
            pool_checkpoint_want(p);
    }
    pool_unlock(p);
    if (more) /* others have the lock now and then */
        pool_kick(p);
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
        if (what == PLX_POOL_KEEP_NOTHING)
            p->keep_lost = false;
    }
    pool_unlock(p);
    pool_kick(p);
    return ret;
}
