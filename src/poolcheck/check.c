/* SPDX-License-Identifier: BSD-3-Clause */
/* A look at a pool from its root on, and once more when somebody has written another root meanwhile. */
#include "check.h"

#include "reactor/clock.h"

#include <errno.h>
#include <pollux/pool.h>
#include <stdlib.h>
#include <string.h>

enum { TRIES = 8 }; /* of what is changed meanwhile */

/* Whether what was looked at is still what is valid. */
static bool is_current(struct pck *c)
{
    struct pck_root r;
    bool same = true;
    uint8_t *mem = aligned_alloc(4096, c->unit);
    for (unsigned i = 0; i < 2 && mem; i++) {
        const bool whole = !pck_disk_read_one(&c->disk, (uint64_t)i * PCK_ROOT_PLACE, mem) && pck_get_root(mem, &r);
        same &= !whole || r.generation <= c->root.generation;
    }
    free(mem);
    return same;
}

static void tell_all(struct pck *c)
{
    struct plx_pool_check *o = c->opts;
    memcpy(o->uuid, c->root.uuid, sizeof o->uuid);
    memcpy(o->name, c->root.name, sizeof o->name);
    o->generation = c->root.generation;
    o->size = c->root.units << c->root.shift;
    o->used = c->root.used << c->root.shift;
    o->log_pages = c->log_pages;
    o->notes = c->per[PLX_POOL_NOTE];
    o->wastes = c->per[PLX_POOL_WASTE];
    o->damages = c->per[PLX_POOL_DAMAGE];
    for (unsigned i = 0; i < c->n_found && o->found; i++) {
        const struct pck_finding *f = &c->found[i];
        const struct plx_pool_finding told = {.severity = f->severity,
                                              .mendable = f->mendable && !c->leave,
                                              .volume = f->number >= 0 ? f->volume : NULL,
                                              .number = f->number,
                                              .unit = f->unit,
                                              .offset = f->offset,
                                              .text = f->text};
        o->found(o->arg, &told);
    }
}

int pck_begin(struct pck *c)
{
    int ret = pck_roots(c);
    if (!ret)
        ret = pck_memory_init(c);
    return ret ? ret : pck_directory(c);
}

/* What stays there for a while only. *keep becomes false when that was longer than hosts wait for. */
static int pck_read_first(struct pck *c, bool *keep)
{
    int ret = pck_log_read(c);
    if (!ret)
        ret = pck_log_cut(c);
    if (!ret)
        ret = pck_maps_read(c);
    *keep = !plx_pool_keep(c->opts->pool, PLX_POOL_KEEP_NODES);
    return ret;
}

static int pck_look(struct pck *c, bool kept, bool *keep)
{
    int ret = pck_roots(c);
    if (!ret)
        ret = pck_memory_init(c);
    if (!ret && kept)
        ret = pck_read_first(c, keep);
    if (!ret)
        ret = pck_directory(c);
    if (!ret)
        ret = pck_data_init(c);
    if (ret)
        return ret;
    pck_trees(c);
    ret = c->stop ? c->stop : pck_maps_mark(c);
    if (!ret)
        ret = pck_log(c);
    return ret ? ret : pck_maps(c);
}

/*
 * *keep: what is looked at is to be kept. It becomes false when that was longer than hosts wait for.
 * @return 0; 1 when it is to be begun anew; -errno
 */
static int pck_look_once(struct plx_bdev *bdev, struct plx_pool_check *o, bool *keep, struct plx_error *err)
{
    struct pck *c = calloc(1, sizeof *c);
    if (!c)
        return plx_fail(err, -ENOMEM, "out of memory");
    c->opts = o;
    c->err = err;
    c->began = plx_clock_ns();
    o->volumes = o->snapshots = o->others = 0;
    o->nodes = o->data_bytes = 0;
    bool kept = *keep && o->pool && !plx_pool_keep(o->pool, PLX_POOL_KEEP_MAPS);
    int ret = pck_disk_open(&c->disk, bdev, o->reactor, o->turn);
    if (ret)
        plx_fail(err, ret, "%s: cannot be read: %s", plx_bdev_info(bdev)->name, strerror(-ret));
    else
        ret = pck_look(c, kept, keep);
    const bool found = c->per[PLX_POOL_WASTE] || c->per[PLX_POOL_DAMAGE] || (ret && ret != -ECANCELED && c->unit);
    if (kept)
        kept = !plx_pool_keep(o->pool, PLX_POOL_KEEP_NOTHING);
    /* The one that was kept may be that of a root that could not be read. */
    if (found && (!kept || c->root_unread) && !is_current(c)) {
        ret = 1;
    } else if (!ret) {
        tell_all(c);
        if (o->repair)
            ret = pck_repair(c);
    }
    pck_disk_close(&c->disk);
    pck_memory_free(c);
    free(c);
    return ret;
}

int plx_pool_check(struct plx_bdev *disk, struct plx_pool_check *o, struct plx_error *err)
{
    bool keep = true;
    o->repaired = false;
    for (o->tries = 0; o->tries < TRIES; o->tries++) {
        int ret = pck_look_once(disk, o, &keep, err);
        if (ret <= 0)
            return ret;
    }
    return plx_fail(err, -EBUSY,
                    "%s: its pool is changed faster than it can be looked at; try again when less is written",
                    plx_bdev_info(disk)->name);
}
