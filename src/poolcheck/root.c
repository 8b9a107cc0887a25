/* SPDX-License-Identifier: BSD-3-Clause */
/* Which root is valid. */
#include "check.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/*
 * Pools were made once that end with a region that has no room for its maps, and is never used: it does not count.
 * @return whether it is so, if it is there
 */
static bool root_trim(struct pck_root *r)
{
    const uint64_t last = r->units & ((UINT64_C(1) << pck_region_shift(r)) - 1);
    if (!last || last > PCK_MAP_PLACE + 1)
        return true;
    if (r->regions == pck_regions(r))
        return false;
    r->used -= last > PCK_MAP_PLACE; /* which counted as a map */
    r->units -= last;
    return true;
}

/* What a later version of this program has made is not looked at, or looked at and left alone. */
static void say_more(struct pck *c)
{
    if (c->root.more) {
        c->leave = true;
        pck_say(c, PLX_POOL_NOTE, false, NULL, (int64_t)(c->place * PCK_ROOT_PLACE),
                "the root has fields that are not known here, as a later version of this program may make them: a "
                "repair leaves the pool alone");
    }
    if (c->root.log_units > pck_log_most(&c->root))
        pck_say(
            c, PLX_POOL_NOTE, false, NULL, PCK_LOG_PLACE,
            "the log has %llu units, %llu more than the first region has room for, as logs of large pools were made "
            "once: it has the maps of the second region, and is cut when the pool is opened",
            (unsigned long long)c->root.log_units, (unsigned long long)(c->root.log_units - pck_log_most(&c->root)));
}

int pck_roots(struct pck *c)
{
    struct pck_root r[2];
    bool whole[2] = {false, false};
    uint16_t status = 0;
    const char *disk = plx_bdev_info(c->disk.bdev)->name;
    const uint64_t units = pck_disk_units(&c->disk);
    uint8_t *mem = aligned_alloc(4096, (size_t)1 << c->disk.shift);
    if (!mem)
        return plx_fail(c->err, -ENOMEM, "out of memory");
    for (unsigned i = 0; i < 2 && units >= PCK_UNITS_MIN; i++) {
        uint16_t s = pck_disk_read_one(&c->disk, (uint64_t)i * PCK_ROOT_PLACE, mem);
        status = s ? s : status;
        whole[i] = !s && pck_get_root(mem, &r[i]) && r[i].generation % 2 == i;
    }
    free(mem);
    if (!whole[0] && !whole[1] && status)
        return plx_fail(c->err, -EIO, "%s: cannot be read", disk);
    if (!whole[0] && !whole[1])
        return plx_fail(c->err, -ENODATA, "%s: there is no pool on it; `pollux pool create` makes one", disk);
    c->place = whole[1] && (!whole[0] || r[1].generation > r[0].generation);
    c->other_ok = whole[!c->place];
    c->root = r[c->place];
    c->unit = (size_t)1 << c->disk.shift;
    const char *newer = pck_root_newer(&c->root);
    if (newer)
        return plx_fail(c->err, -EUCLEAN,
                        "%s: the root of its pool %s: a later version of this program made it, and can look at it",
                        disk, newer);
    const char *wrong = pck_root_wrong(&c->root, units, c->disk.shift);
    if (!wrong && !root_trim(&c->root))
        wrong = "its last region, which is in use, has no room for its maps";
    if (wrong)
        return plx_fail(c->err, -EUCLEAN, "%s: the root of its pool, of generation %llu, cannot be: %s", disk,
                        (unsigned long long)c->root.generation, wrong);
    c->root_unread = status;
    if (status) {
        c->leave = true;
        pck_say(
            c, PLX_POOL_DAMAGE, false, NULL, (int64_t)(!c->place * PCK_ROOT_PLACE),
            "the root in unit %d cannot be read, which may be so for now, and may be the one that is valid: a repair "
            "leaves the pool alone",
            !c->place * PCK_ROOT_PLACE);
    } else if (!c->other_ok && c->root.generation > 1) {
        c->root_torn = true;
        pck_say(c, PLX_POOL_NOTE, true, NULL, (int64_t)(!c->place * PCK_ROOT_PLACE),
                "the root of before is not whole, as power was cut while it was written; the next one takes its place");
    }
    say_more(c);
    return 0;
}
