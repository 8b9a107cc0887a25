/* SPDX-License-Identifier: BSD-3-Clause */
/* A SCSI host on the control reactor: what it offers, its rings, its units, which come and go. */
#include "vhost/scsi.h"

#include "base/log.h"
#include "base/uuid.h"
#include "vhost/scsi_resv.h"
#include "vhost/scsi_ring.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum { SCSI_QUEUES = 126, SCSI_MAX_SECTORS = 65535, SCSI_PER_LUN = 128 };

/* ---- what it offers (virtio 1.2, 5.6.3 and 5.6.4) ---- */

uint64_t vhost_scsi_features(const struct vhost_scsi *h)
{
    return VHOST_BIT(VIRTIO_F_VERSION_1) | VHOST_BIT(VIRTIO_F_INDIRECT_DESC) | VHOST_BIT(VIRTIO_F_EVENT_IDX) |
           VHOST_BIT(VIRTIO_SCSI_F_HOTPLUG) | VHOST_BIT(VIRTIO_SCSI_F_CHANGE) |
           (h->packed ? VHOST_BIT(VIRTIO_F_RING_PACKED) : 0);
}

void vhost_scsi_config(const struct vhost_scsi *h, struct virtio_scsi_config *out)
{
    *out = (struct virtio_scsi_config){
        .num_queues = plx_put32(h->queues),
        .seg_max = plx_put32(VHOST_SEGS),
        .max_sectors = plx_put32(SCSI_MAX_SECTORS),
        .cmd_per_lun = plx_put32(SCSI_PER_LUN),
        .event_info_size = plx_put32(sizeof(struct virtio_scsi_event)),
        .sense_size = plx_put32(SCSI_SENSE_BYTES),
        .cdb_size = plx_put32(SCSI_CDB_BYTES),
        .max_target = plx_put16(SCSI_TARGETS - 1),
        .max_lun = plx_put32(SCSI_UNITS - 1),
    };
}

unsigned vhost_scsi_rings(const struct vhost_scsi *h)
{
    return VIRTIO_SCSI_REQUEST + h->queues;
}

unsigned vhost_scsi_queues(const struct vhost_scsi *h)
{
    return h->queues;
}

bool vhost_scsi_packed(const struct vhost_scsi *h)
{
    return h->packed;
}

unsigned vhost_scsi_reactors(const struct vhost_scsi *h)
{
    return h->n;
}

struct plx_reactor *vhost_scsi_reactor(const struct vhost_scsi *h, unsigned leg)
{
    return h->reactors[leg];
}

/* ---- rings ---- */

int vhost_scsi_ring_init(struct vhost_ring *r, struct vhost_scsi *h, unsigned leg, const struct vhost_device *d)
{
    struct scsi_ring *ring = calloc(1, sizeof *ring);
    if (!ring)
        return -ENOMEM;
    *ring = (struct scsi_ring){.scsi = h, .leg = leg, .nexus = d->nexus, .device = d, .ring = r};
    plx_list_init(&ring->link);
    r->scsi = ring;
    if (r->index != VIRTIO_SCSI_CONTROL || !scsi_tmf_init(&ring->tmf, r))
        return 0;
    vhost_scsi_ring_free(r);
    return -ENOMEM;
}

void vhost_scsi_ring_free(struct vhost_ring *r)
{
    if (r->scsi)
        scsi_tmf_free(r->scsi->tmf);
    free(r->scsi);
    r->scsi = NULL;
}

void vhost_scsi_started(struct vhost_ring *r)
{
    if (r->index >= VIRTIO_SCSI_REQUEST)
        plx_list_add_tail(&r->scsi->scsi->legs[r->scsi->leg].rings, &r->scsi->link);
}

void vhost_scsi_stopped(struct vhost_ring *r)
{
    plx_list_del(&r->scsi->link);
}

void vhost_scsi_published(struct vhost_ring *r)
{
    if (plx_unlikely(!plx_list_empty(&r->scsi->scsi->legs[r->scsi->leg].waits)))
        scsi_tmf_look(&r->scsi->scsi->legs[r->scsi->leg]);
}

void vhost_scsi_connected(struct vhost_scsi *h, unsigned nexus)
{
    plx_list_for_each(it, &h->luns) {
        struct scsi_lun *l = plx_list_entry(it, struct scsi_lun, link);
        atomic_store_explicit(&l->attentions[nexus], 0, memory_order_relaxed); /* none of its rings runs yet */
    }
}

/* ---- the host ---- */

/* On the control reactor, which alone writes them. */
static struct scsi_target *target_of(const struct vhost_scsi *h, unsigned target)
{
    return atomic_load_explicit(&h->targets[target], memory_order_relaxed);
}

int vhost_scsi_new(struct vhost_scsi **out, struct plx_vhost_ctrlr *c, const struct plx_vhost_scsi_opts *o,
                   struct plx_reactor *const *reactors, unsigned n)
{
    struct vhost_scsi *h = plx_alloc_apart(sizeof *h + n * sizeof h->legs[0]);
    if (!h)
        return -ENOMEM;
    h->reactors = calloc(n, sizeof(struct plx_reactor *));
    if (!h->reactors) {
        free(h);
        return -ENOMEM;
    }
    memcpy(h->reactors, reactors, n * sizeof(struct plx_reactor *));
    h->ctrlr = c;
    const char *slash = strrchr(c->path, '/');
    if (scsi_resv_name(o->initiator ? o->initiator : slash ? slash + 1 : c->path, h->initiator)) {
        free(h->reactors);
        free(h);
        return -ENOMEM;
    }
    h->n = n;
    h->packed = o->packed;
    h->queues = o->queues ? o->queues : SCSI_QUEUES;
    plx_list_init(&h->luns);
    for (unsigned i = 0; i < n; i++) {
        plx_list_init(&h->legs[i].rings);
        plx_list_init(&h->legs[i].waits);
    }
    *out = h;
    return 0;
}

void vhost_scsi_free(struct vhost_scsi *h)
{
    if (!h)
        return;
    for (unsigned i = 0; i < SCSI_TARGETS; i++)
        free(target_of(h, i));
    free(h->reactors);
    free(h);
}

/* ---- a unit's end ---- */

static void lun_free(struct scsi_lun *l)
{
    struct vhost_scsi *h = l->scsi;
    plx_vhost_done_fn done = l->done;
    void *arg = l->arg;
    if (l->hold)
        plx_bdev_release(l->hold);
    plx_resv_party_destroy(&l->resv);
    struct plx_vhost *v = h->ctrlr->vhost;
    plx_fan_destroy(&l->fan);
    plx_list_del(&l->link);
    free(l);
    vhost_ctrlr_left(h->ctrlr); /* which may be its end */
    if (done)
        done(arg, 0);
    vhost_drops_look(v);
}

static void lun_closed(struct plx_bdev_access *a, int result)
{
    (void)result;
    lun_free(plx_container_of(a, struct scsi_lun, access));
}

static void lun_flushed(struct plx_bdev_access *a, int result)
{
    const struct scsi_lun *l = plx_container_of(a, struct scsi_lun, access);
    if (result)
        plx_error("%s, target %u, LUN %u: disk %s: its last flush has failed, or is not answered", l->scsi->ctrlr->path,
                  l->target, l->number, plx_bdev_info(a->bdev)->name);
    plx_bdev_access_close(a, lun_closed);
}

static void lun_unasked(struct plx_resv_party *p)
{
    struct scsi_lun *l = plx_container_of(p, struct scsi_lun, resv);
    plx_resv_party_destroy(p);
    plx_bdev_access_flush(&l->access, VHOST_FLUSH_MS, lun_flushed);
}

static void lun_left(struct plx_fan *fan, int result)
{
    (void)result;
    plx_resv_leave(&plx_container_of(fan, struct scsi_lun, fan)->resv, lun_unasked);
}

/* It may end some of them at once, but none of those is published before the ring's next round. */
static void lun_abort_in_ring(const struct scsi_lun *l, struct plx_bdev_channel *ch, const struct vhost_ring *r)
{
    for (unsigned i = 0; i < r->size; i++)
        if (r->slots[i].busy && r->slots[i].task.lun == l && r->slots[i].req.kept)
            plx_bdev_abort(ch, &r->slots[i].req);
}

static void lun_leaves(struct plx_fan_leg *fan)
{
    const struct scsi_lun *l = plx_container_of(fan->fan, struct scsi_lun, fan);
    struct scsi_lun_leg *leg = fan->arg;
    struct scsi_leg *part = &l->scsi->legs[fan - fan->fan->legs];
    if (leg->in_flight)
        leg->leaving = fan;
    else
        plx_fan_answer(fan, 0);
    plx_list_for_each(it, &part->rings) {
        if (l->aborts && leg->leaving)
            lun_abort_in_ring(l, leg->channel, plx_list_entry(it, struct scsi_ring, link)->ring);
    }
}

/* The other units of its target are asked who is there, by those that look. */
static void luns_changed(struct vhost_scsi *h, const struct scsi_lun *except)
{
    plx_list_for_each(it, &h->luns) {
        struct scsi_lun *l = plx_list_entry(it, struct scsi_lun, link);
        if (l != except && l->target == except->target)
            scsi_attend(l, SCSI_ATTENTION_LUNS);
    }
}

/* Nobody finds it from here on; who has found it is waited for. */
static void lun_remove(struct scsi_lun *l)
{
    struct scsi_target *t = target_of(l->scsi, l->target);
    l->leaving = true;
    if (!l->there)
        return; /* see lun_opened() */
    l->there = false;
    atomic_store_explicit(&t->units[l->number], NULL, memory_order_relaxed);
    atomic_fetch_sub_explicit(&t->n, 1, memory_order_relaxed);
    luns_changed(l->scsi, l);
    scsi_event_tell(l->scsi, l, VIRTIO_SCSI_TRANSPORT_RESET, VIRTIO_SCSI_REMOVED);
    for (unsigned i = 0; i < l->fan.n; i++)
        l->fan.legs[i].arg = &l->legs[i];
    plx_fan_out(&l->fan, lun_leaves, lun_left);
}

bool vhost_scsi_clear(struct vhost_scsi *h)
{
    plx_list_for_each_safe(it, &h->luns) {
        struct scsi_lun *l = plx_list_entry(it, struct scsi_lun, link);
        if (!l->leaving)
            lun_remove(l);
    }
    return !plx_list_empty(&h->luns);
}

/* ---- its beginning ---- */

static void lun_event(void *arg, struct plx_bdev *bdev, enum plx_bdev_event what)
{
    struct scsi_lun *l = arg;
    (void)bdev;
    if (what == PLX_BDEV_GONE && !l->leaving) {
        plx_warn("%s, target %u, LUN %u: its disk is gone, and so is it", l->scsi->ctrlr->path, l->target, l->number);
        lun_remove(l);
    }
    if (what != PLX_BDEV_RESIZED || !l->there)
        return;
    scsi_attend(l, SCSI_ATTENTION_CAPACITY);
    scsi_event_tell(l->scsi, l, VIRTIO_SCSI_PARAM_CHANGE, SCSI_ASC_CAPACITY >> 8 | (SCSI_ASC_CAPACITY & 0xff) << 8);
}

static void lun_undone(struct scsi_lun *l, int ret)
{
    plx_vhost_done_fn done = l->done;
    void *arg = l->arg;
    l->done = NULL;
    lun_free(l);
    if (done)
        done(arg, ret);
}

static void lun_closed_again(struct plx_bdev_access *a, int result)
{
    (void)result;
    lun_undone(plx_container_of(a, struct scsi_lun, access), -ECANCELED);
}

static void lun_opened(struct plx_bdev_access *a, int result)
{
    struct scsi_lun *l = plx_container_of(a, struct scsi_lun, access);
    struct scsi_target *t = target_of(l->scsi, l->target);
    if (result) {
        lun_undone(l, result);
        return;
    }
    if (l->leaving) {
        plx_bdev_access_close(a, lun_closed_again);
        return;
    }
    plx_resv_join(&l->resv);
    for (unsigned i = 0; i < l->fan.n; i++) {
        l->legs[i].channel = plx_bdev_access_channel(a, i);
        l->legs[i].resv = plx_resv_shown(&l->resv);
    }
    l->there = true;
    atomic_store_explicit(&t->units[l->number], l, memory_order_release);
    atomic_fetch_add_explicit(&t->n, 1, memory_order_relaxed);
    luns_changed(l->scsi, l);
    scsi_event_tell(l->scsi, l, VIRTIO_SCSI_TRANSPORT_RESET, VIRTIO_SCSI_RESCAN);
    plx_vhost_done_fn done = l->done;
    l->done = NULL;
    if (done)
        done(l->arg, 0);
}

static void fill_unit(struct scsi_unit *u, struct plx_bdev *bdev, bool read_only)
{
    const struct plx_bdev_info *info = plx_bdev_info(bdev);
    const uint32_t block = info->block_size;
    *u = (struct scsi_unit){
        .block_size = block,
        .granularity = info->unmap_granularity ? info->unmap_granularity : 1,
        .write_blocks = info->write_unit > block ? info->write_unit / block : 1,
        .read_only = read_only || info->read_only,
        .write_cache = info->write_cache,
        .unmaps = info->ops & 1 << PLX_BDEV_UNMAP,
        .zeroes = info->unmap_reads_zero,
        .compares = info->ops & 1 << PLX_BDEV_COMPARE_AND_WRITE && !info->shared, /* there it would not be atomic */
        .rotational = info->rotational,
    };
    memcpy(u->uuid, info->uuid, sizeof u->uuid);
    _Static_assert(sizeof u->serial >= PLX_UUID_TEXT, "all of a UUID");
    plx_uuid_format(info->uuid, u->serial);
}

static int lun_hold(struct scsi_lun *l, struct plx_error *err)
{
    char who[128];
    snprintf(who, sizeof who, "vhost-user at %.90s, target %u, LUN %u", l->scsi->ctrlr->path, l->target, l->number);
    const struct plx_bdev_hold_opts hold = {
        .who = who,
        .claim = l->unit.read_only ? PLX_BDEV_READS : PLX_BDEV_SHARED,
        .event = lun_event,
        .arg = l,
        .reactor = l->scsi->ctrlr->vhost->control,
    };
    return plx_bdev_hold(l->bdev, &hold, &l->hold, err);
}

static struct scsi_lun *lun_new(struct vhost_scsi *h, const struct plx_vhost_lun *what)
{
    const size_t bytes = sizeof(struct scsi_lun) + h->n * sizeof(struct scsi_lun_leg);
    struct scsi_lun *l = plx_alloc_apart(bytes);
    if (!l)
        return NULL;
    l->scsi = h;
    l->target = what->target;
    l->number = what->lun;
    l->bdev = what->bdev;
    l->shift = (unsigned)__builtin_ctz(plx_bdev_info(l->bdev)->block_size);
    fill_unit(&l->unit, l->bdev, what->read_only);
    plx_list_init(&l->link);
    for (unsigned i = 0; i < h->n; i++) {
        l->legs[i].expel = (struct scsi_wait){.at = &h->legs[i], .lun = l};
        plx_list_init(&l->legs[i].expel.link);
    }
    if (!plx_fan_init(&l->fan, h->ctrlr->vhost->control, h->reactors, h->n))
        return l;
    free(l);
    return NULL;
}

static int target_make(struct vhost_scsi *h, unsigned target)
{
    if (target_of(h, target))
        return 0;
    struct scsi_target *t = calloc(1, sizeof *t);
    if (!t)
        return -ENOMEM;
    atomic_store_explicit(&h->targets[target], t, memory_order_release);
    return 0;
}

void vhost_scsi_drop(struct vhost_scsi *h, const struct plx_bdev *base)
{
    plx_list_for_each_safe(it, &h->luns) {
        struct scsi_lun *l = plx_list_entry(it, struct scsi_lun, link);
        if (l->leaving || !vhost_stands_on(l->bdev, base))
            continue;
        l->aborts = true;
        lun_remove(l);
    }
}

bool vhost_scsi_uses(const struct vhost_scsi *h, const struct plx_bdev *base)
{
    plx_list_for_each(it, &h->luns) {
        if (vhost_stands_on(plx_list_entry(it, struct scsi_lun, link)->bdev, base))
            return true;
    }
    return false;
}

static struct scsi_lun *lun_of(const struct vhost_scsi *h, unsigned target, int number)
{
    plx_list_for_each(it, &h->luns) {
        struct scsi_lun *l = plx_list_entry(it, struct scsi_lun, link);
        if (l->target == target && (number < 0 || l->number == (unsigned)number))
            return l;
    }
    return NULL;
}

static int check_lun(const struct plx_vhost_ctrlr *c, const struct plx_vhost_lun *what, struct plx_error *err)
{
    if (!c->scsi)
        return plx_fail(err, -EINVAL, "%s is a block device, which has no targets", c->path);
    if (what->target >= SCSI_TARGETS || what->lun >= SCSI_UNITS)
        return plx_fail(err, -EINVAL, "targets and their LUNs are numbered from 0 to %d", SCSI_TARGETS - 1);
    if (c->removing)
        return plx_fail(err, -EBUSY, "%s is being removed", c->path);
    return 0;
}

int plx_vhost_scsi_add(struct plx_vhost_ctrlr *c, const struct plx_vhost_lun *what, plx_vhost_done_fn done, void *arg,
                       struct plx_error *err)
{
    int ret = check_lun(c, what, err);
    if (ret)
        return ret;
    if (lun_of(c->scsi, what->target, (int)what->lun))
        return plx_fail(err, -EEXIST, "target %u has a LUN %u already", what->target, what->lun);
    ret = vhost_check_disk(what->bdev, c->scsi->n, err);
    if (ret)
        return ret;
    struct scsi_lun *l = target_make(c->scsi, what->target) ? NULL : lun_new(c->scsi, what);
    if (!l)
        return plx_fail(err, -ENOMEM, "out of memory");
    ret = lun_hold(l, err);
    if (!ret)
        ret = plx_resv_party_init(&l->resv, l->bdev, what->ptpl_file, l->unit.uuid, c->vhost->control,
                                  c->scsi->reactors, c->scsi->n, &scsi_party_ops, err);
    if (!ret) {
        ret = plx_bdev_access_open(&l->access, l->bdev, c->scsi->reactors, c->scsi->n, c->vhost->control, lun_opened);
        if (ret)
            plx_fail(err, ret, "out of memory");
    }
    if (!ret) {
        plx_list_add_tail(&c->scsi->luns, &l->link);
        l->done = done;
        l->arg = arg;
        return 0;
    }
    if (l->hold)
        plx_bdev_release(l->hold);
    plx_resv_party_destroy(&l->resv);
    plx_fan_destroy(&l->fan);
    free(l);
    return ret;
}

int plx_vhost_scsi_remove(struct plx_vhost_ctrlr *c, unsigned target, unsigned lun, plx_vhost_done_fn done, void *arg,
                          struct plx_error *err)
{
    const struct plx_vhost_lun what = {.target = target, .lun = lun};
    int ret = check_lun(c, &what, err);
    if (ret)
        return ret;
    struct scsi_lun *l = lun_of(c->scsi, target, (int)lun);
    if (!l)
        return plx_fail(err, -ENODEV, "target %u has no LUN %u", target, lun);
    if (l->leaving || !l->there)
        return plx_fail(err, -EBUSY, "target %u, LUN %u is coming or going already", target, lun);
    l->done = done;
    l->arg = arg;
    lun_remove(l);
    return 0;
}

bool plx_vhost_scsi_next(const struct plx_vhost_ctrlr *c, struct plx_vhost_lun *at)
{
    const struct scsi_lun *best = NULL;
    const unsigned after = at->bdev ? at->target * SCSI_UNITS + at->lun + 1 : 0;
    unsigned least = SCSI_TARGETS * SCSI_UNITS;
    if (!c->scsi)
        return false;
    plx_list_for_each(it, &c->scsi->luns) {
        const struct scsi_lun *l = plx_list_entry(it, struct scsi_lun, link);
        const unsigned n = l->target * SCSI_UNITS + l->number;
        if (l->there && n >= after && n < least) {
            least = n;
            best = l;
        }
    }
    if (best)
        *at = (struct plx_vhost_lun){.target = best->target,
                                     .lun = best->number,
                                     .bdev = best->bdev,
                                     .read_only = best->unit.read_only,
                                     .ptpl_file = plx_resv_file(&best->resv)};
    return best;
}
