/* SPDX-License-Identifier: BSD-3-Clause */
/* Which root is valid. */
#include "check.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

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
    const char *wrong = pck_root_wrong(&c->root, units, c->disk.shift);
    if (wrong)
        return plx_fail(c->err, -EUCLEAN, "%s: the root of its pool, of generation %llu, cannot be: %s", disk,
                        (unsigned long long)c->root.generation, wrong);
    if (!c->other_ok && c->root.generation > 1) {
        c->root_torn = true;
        pck_say(c, PLX_POOL_NOTE, true, NULL, (int64_t)(!c->place * PCK_ROOT_PLACE),
                "the root of before is not whole, as power was cut while it was written; the next one takes its place");
    }
    return 0;
}
