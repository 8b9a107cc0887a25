/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Disks that go while devices have them, by themselves or because somebody wants to close them. A block device stays,
 * without a disk: its rings run, their requests fail, and its guests see no capacity. Of a SCSI host the unit goes.
 */
#include "vhost/vhost.h"

#include "base/log.h"

#include <errno.h>
#include <pollux/bdev_filter.h>
#include <stdlib.h>

bool vhost_stands_on(const struct plx_bdev *bdev, const struct plx_bdev *base)
{
    while (bdev && bdev != base)
        bdev = plx_bdev_below(bdev);
    return bdev;
}

/* ---- a block device parts from its disk ---- */

static void part_closed(struct plx_bdev_access *a, int result)
{
    struct plx_vhost_ctrlr *c = plx_container_of(a, struct plx_vhost_ctrlr, access);
    struct plx_vhost *v = c->vhost;
    (void)result;
    plx_bdev_release(c->hold);
    c->hold = NULL;
    c->blk.bdev = NULL;
    c->parting = false;
    vhost_ctrlr_left(c); /* which may be its end */
    vhost_drops_look(v);
}

static void part_flushed(struct plx_bdev_access *a, int result)
{
    if (result)
        plx_error("%s: disk %s: its last flush has failed, or is not answered",
                  plx_container_of(a, struct plx_vhost_ctrlr, access)->path, plx_bdev_info(a->bdev)->name);
    plx_bdev_access_close(a, part_closed);
}

static void part_unasked(struct plx_resv_party *p)
{
    struct plx_vhost_ctrlr *c = plx_container_of(p, struct plx_vhost_ctrlr, resv);
    plx_resv_party_destroy(p);
    plx_bdev_access_flush(&c->access, VHOST_FLUSH_MS, part_flushed);
}

/* Nothing of any ring is at the disk. */
static void part_flush(struct plx_vhost_ctrlr *c)
{
    plx_resv_leave(&c->resv, part_unasked);
}

static void ring_without_disk(struct vhost_ring *r)
{
    struct vhost_device *d = r->owner;
    struct plx_vhost_ctrlr *c = d->ctrlr;
    vhost_device_let_go(d);
    if (!--c->parts)
        part_flush(c);
}

static void part_device(struct plx_vhost_ctrlr *c, struct vhost_device *d)
{
    for (unsigned i = 0; i < VHOST_RINGS; i++) {
        struct vhost_ring *r = d->rings[i];
        if (!r)
            continue;
        c->parts++;
        d->asked++;
        r->parted = ring_without_disk;
        vhost_ring_part(r);
    }
    vhost_device_tell(d);
}

void vhost_ctrlr_part(struct plx_vhost_ctrlr *c)
{
    c->blk.gone = true;
    if (!c->opened || !c->hold || c->parting) /* not yet: see ctrlr_opened(); or not any more */
        return;
    c->parting = true;
    c->parts = 1; /* this function */
    plx_list_for_each(it, &c->devices) {
        part_device(c, plx_list_entry(it, struct vhost_device, link));
    }
    if (!--c->parts)
        part_flush(c);
}

/* ---- somebody wants all to let go of a disk ---- */

struct vhost_drop {
    struct plx_list link;
    struct plx_vhost *vhost;
    const struct plx_bdev *base;
    struct plx_timer limit;
    plx_vhost_done_fn done;
    void *arg;
};

static void drop_end(struct vhost_drop *d, int ret)
{
    plx_vhost_done_fn done = d->done;
    void *arg = d->arg;
    plx_timer_cancel(d->vhost->control, &d->limit);
    plx_list_del(&d->link);
    free(d);
    done(arg, ret);
}

static void drop_overdue(struct plx_timer *t)
{
    drop_end(plx_container_of(t, struct vhost_drop, limit), -ETIMEDOUT);
}

static bool ctrlr_uses(const struct plx_vhost_ctrlr *c, const struct plx_bdev *base)
{
    return c->scsi ? vhost_scsi_uses(c->scsi, base) : c->hold && vhost_stands_on(c->blk.bdev, base);
}

static bool anybody_uses(const struct plx_vhost *v, const struct plx_bdev *base)
{
    plx_list_for_each(it, &v->ctrlrs) {
        if (ctrlr_uses(plx_list_entry(it, struct plx_vhost_ctrlr, link), base))
            return true;
    }
    return false;
}

void vhost_drops_look(struct plx_vhost *v)
{
    for (struct plx_list *it = v->drops.next; it != &v->drops;) {
        struct vhost_drop *d = plx_list_entry(it, struct vhost_drop, link);
        const bool over = !anybody_uses(v, d->base);
        it = it->next;
        if (!over)
            continue;
        drop_end(d, 0);
        it = v->drops.next; /* whoever was told may have begun another, or ended one */
    }
}

int plx_vhost_drop(struct plx_vhost *v, const struct plx_bdev *bdev, uint32_t grace_ms, plx_vhost_done_fn done,
                   void *arg)
{
    struct vhost_drop *d = calloc(1, sizeof *d);
    if (!d)
        return -ENOMEM;
    *d = (struct vhost_drop){.vhost = v, .base = bdev, .limit.fn = drop_overdue, .done = done, .arg = arg};
    plx_list_for_each(it, &v->ctrlrs) {
        struct plx_vhost_ctrlr *c = plx_list_entry(it, struct plx_vhost_ctrlr, link);
        if (c->scsi)
            vhost_scsi_drop(c->scsi, bdev);
        else if (ctrlr_uses(c, bdev))
            vhost_ctrlr_part(c);
    }
    plx_list_add_tail(&v->drops, &d->link);
    plx_timer_set(v->control, &d->limit, grace_ms * PLX_NS_PER_MS);
    if (!anybody_uses(v, bdev))
        drop_end(d, 0);
    return 0;
}
