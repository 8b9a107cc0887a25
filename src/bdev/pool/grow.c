/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A pool and the size of its disk. A pool takes new room only when it is asked to: what has become larger may become
 * smaller again, but not below a pool. Units of it are taken after the root that counts them is on the disk; for who
 * opens the pool with the one of before may find none of them in the log.
 */
#include "pool.h"

#include "base/log.h"

#include <errno.h>
#include <string.h>

static uint64_t units_there(const struct plx_pool *p)
{
    return plx_bdev_blocks(p->disk) >> (p->unit_shift - p->block_shift);
}

uint64_t pool_grow_room(const struct plx_pool *p)
{
    const uint64_t units = pool_units_trim(p, units_there(p)), now = plx_max_u64(p->units, p->units_next);
    return units > now ? units - now : 0;
}

int pool_grow_try(struct plx_pool *p, struct pool_try *t, struct plx_error *err)
{
    const uint64_t units = pool_units_trim(p, units_there(p));
    if (p->units_next)
        return plx_fail(err, -EBUSY, "the pool is being made larger already");
    if (units_there(p) < p->units)
        return plx_fail(err, -EINVAL, "%s has %llu bytes, which are fewer than the %llu of its pool",
                        plx_bdev_info(p->disk)->name, (unsigned long long)(units_there(p) << p->unit_shift),
                        (unsigned long long)(p->units << p->unit_shift));
    if (units <= p->units)
        return 0;
    int ret = pool_space_grow_ready(p, t, units);
    if (!ret)
        p->units_next = units;
    return ret;
}

void pool_grow_over(struct plx_pool *p, bool done)
{
    if (p->units_next && done) {
        plx_info("pool %s on %s has %llu bytes now, not %llu", pool_shown(p), plx_bdev_info(p->disk)->name,
                 (unsigned long long)(p->units_next << p->unit_shift), (unsigned long long)(p->units << p->unit_shift));
        pool_space_grow(p, p->units_next);
    }
    p->units_next = 0;
}

/* It stays readable, and what is overwritten in place is. */
static void has_shrunk(struct plx_pool *p, uint64_t units)
{
    if (p->broken)
        return;
    plx_error("%s has become smaller than its pool %s, by %llu bytes: nothing of the pool changes any more until it is "
              "opened on a disk that is as large as it was",
              plx_bdev_info(p->disk)->name, pool_shown(p), (unsigned long long)((p->units - units) << p->unit_shift));
    p->broken = PLX_SC_LBA_OUT_OF_RANGE;
    pool_wake(&p->space_waits, p->broken);
}

void pool_size_look(struct plx_pool *p)
{
    pool_lock(p);
    const uint64_t units = units_there(p);
    if (units < plx_max_u64(p->units, p->units_next))
        has_shrunk(p, units);
    else if (pool_grow_room(p))
        plx_info("%s has %llu bytes more than its pool %s: `pollux pool grow`, or bdev_lvol_grow_lvstore, takes them",
                 plx_bdev_info(p->disk)->name, (unsigned long long)(pool_grow_room(p) << p->unit_shift), pool_shown(p));
    pool_unlock(p);
}
