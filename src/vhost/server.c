/* SPDX-License-Identifier: BSD-3-Clause */
/* The server, and its controllers: disks behind sockets, from their making to their end. */
#include "vhost/vhost.h"

#include "base/log.h"
#include "base/uuid.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { QUEUES = 128, QUEUE_SIZE = 128 };

/* ---- the server ---- */

int plx_vhost_create(struct plx_vhost **out, struct plx_reactor *const *reactors, unsigned n,
                     const struct plx_vhost_opts *opts, struct plx_error *err)
{
    const unsigned apart = opts && opts->control_apart && n > 1;
    struct plx_vhost *v = calloc(1, sizeof *v);
    struct plx_reactor **rings = v ? calloc(n, sizeof(struct plx_reactor *)) : NULL;
    struct plx_stream_group *streams = rings ? plx_stream_group_get(reactors[0]) : NULL;
    if (!streams) {
        free(rings);
        free(v);
        return plx_fail(err, -ENOMEM, "out of memory");
    }
    v->control = reactors[0];
    v->reactors = rings;
    v->n = n - apart;
    memcpy(rings, reactors + apart, v->n * sizeof(struct plx_reactor *));
    v->streams = streams;
    v->has_group = opts && opts->has_group;
    v->group = opts ? opts->group : 0;
    plx_list_init(&v->ctrlrs);
    plx_list_init(&v->drops);
    *out = v;
    return 0;
}

void plx_vhost_destroy(struct plx_vhost *v)
{
    assert(plx_list_empty(&v->ctrlrs));
    plx_stream_group_put(v->streams);
    free(v->reactors);
    free(v);
}

static void server_stopped(struct plx_vhost *v, int ret)
{
    plx_vhost_done_fn stopped = v->stopped;
    v->stopped = NULL;
    plx_timer_cancel(v->control, &v->limit);
    if (stopped)
        stopped(v->stopped_arg, ret);
}

static void server_overdue(struct plx_timer *t)
{
    server_stopped(plx_container_of(t, struct plx_vhost, limit), -ETIMEDOUT);
}

void plx_vhost_stop(struct plx_vhost *v, uint32_t grace_ms, plx_vhost_done_fn done, void *arg)
{
    v->stopped = done;
    v->stopped_arg = arg;
    v->limit.fn = server_overdue;
    plx_timer_set(v->control, &v->limit, grace_ms * PLX_NS_PER_MS);
    plx_list_for_each_safe(it, &v->ctrlrs) {
        plx_vhost_remove(plx_list_entry(it, struct plx_vhost_ctrlr, link), NULL, NULL);
    }
    if (plx_list_empty(&v->ctrlrs))
        server_stopped(v, 0);
}

/* ---- a controller's end ---- */

static void ctrlr_free(struct plx_vhost_ctrlr *c)
{
    struct plx_vhost *v = c->vhost;
    plx_resv_party_destroy(&c->resv);
    if (c->hold)
        plx_bdev_release(c->hold);
    vhost_scsi_free(c->scsi);
    plx_list_del(&c->link);
    free(c->reactors);
    free(c->path);
    free(c);
    vhost_drops_look(v);
    if (v->stopped && plx_list_empty(&v->ctrlrs))
        server_stopped(v, 0);
}

static void ctrlr_closed(struct plx_bdev_access *a, int result)
{
    struct plx_vhost_ctrlr *c = plx_container_of(a, struct plx_vhost_ctrlr, access);
    plx_vhost_done_fn done = c->done;
    void *arg = c->arg;
    (void)result;
    ctrlr_free(c);
    if (done)
        done(arg, 0);
}

static void ctrlr_flushed(struct plx_bdev_access *a, int result)
{
    const struct plx_vhost_ctrlr *c = plx_container_of(a, struct plx_vhost_ctrlr, access);
    if (result)
        plx_error("%s: disk %s: its last flush has failed, or is not answered", c->path, plx_bdev_info(a->bdev)->name);
    plx_bdev_access_close(a, ctrlr_closed);
}

static void ctrlr_unasked(struct plx_resv_party *p)
{
    struct plx_vhost_ctrlr *c = plx_container_of(p, struct plx_vhost_ctrlr, resv);
    plx_resv_party_destroy(p);
    plx_bdev_access_flush(&c->access, VHOST_FLUSH_MS, ctrlr_flushed);
}

static void ctrlr_ended(struct plx_msg *msg)
{
    ctrlr_closed(&plx_container_of(msg, struct plx_vhost_ctrlr, msg)->access, 0);
}

void vhost_ctrlr_left(struct plx_vhost_ctrlr *c)
{
    /* From the beginning again each time: who goes on may end, and take others along. */
    for (struct plx_list *it = c->devices.next; !c->dying && it != &c->devices;) {
        struct vhost_device *d = plx_list_entry(it, struct vhost_device, link);
        const bool starts = d->held && d->msg.header.request == VHOST_SET_VRING_KICK;
        if (starts)
            vhost_device_resume(d);
        it = starts ? c->devices.next : it->next;
    }
    if (c->removing && c->opened && !c->ndevices && !c->parting) {
        if (c->scsi && vhost_scsi_clear(c->scsi))
            return; /* until they are gone */
        c->opened = false;
        if (!c->hold) { /* nor ever had, as a SCSI host */
            c->msg.fn = ctrlr_ended;
            plx_reactor_send(c->vhost->control, &c->msg);
            return;
        }
        plx_resv_leave(&c->resv, ctrlr_unasked);
    }
}

int plx_vhost_remove(struct plx_vhost_ctrlr *c, plx_vhost_done_fn done, void *arg)
{
    if (c->removing)
        return -EALREADY;
    c->removing = true;
    c->done = done;
    c->arg = arg;
    plx_listener_close(&c->listener);
    c->ndevices++; /* this function */
    for (struct plx_list *it = c->devices.next; it != &c->devices;) {
        struct vhost_device *d = plx_list_entry(it, struct vhost_device, link);
        const bool lives = !d->dying;
        vhost_device_close(d);
        it = lives ? c->devices.next : it->next;
    }
    c->ndevices--;
    vhost_ctrlr_left(c); /* else when it was opened: see ctrlr_opened() */
    return 0;
}

/* ---- what others have reserved ---- */

static void blk_forbid(struct plx_vhost_ctrlr *c)
{
    const unsigned all = PLX_MAY_READ | PLX_MAY_WRITE;
    atomic_store(&c->blk.forbidden, (uint8_t)(all & ~plx_resv_access(plx_resv_shown(&c->resv), NULL)));
}

static void blk_show(struct plx_fan_leg *leg)
{
    blk_forbid(plx_container_of(plx_resv_party_of(leg), struct plx_vhost_ctrlr, resv));
    plx_fan_answer(leg, 0);
}

/* Who is no registrant is expelled from nothing, and told of nothing. */
static void blk_none(struct plx_fan_leg *leg)
{
    plx_fan_answer(leg, 0);
}

static const struct plx_resv_party_ops blk_party_ops = {.show = blk_show, .expel = blk_none, .tell = blk_none};

/* ---- its beginning ---- */

static void ctrlr_accepted(struct plx_listener *l, int fd)
{
    vhost_device_add(plx_container_of(l, struct plx_vhost_ctrlr, listener), fd);
}

static void backing_event(void *arg, struct plx_bdev *bdev, enum plx_bdev_event what)
{
    struct plx_vhost_ctrlr *c = arg;
    (void)bdev;
    if (what == PLX_BDEV_GONE) {
        plx_warn("%s: its disk is gone: requests fail from now on", c->path);
        vhost_ctrlr_part(c);
        return;
    }
    plx_list_for_each(it, &c->devices) {
        vhost_device_tell(plx_list_entry(it, struct vhost_device, link));
    }
}

static void ctrlr_undone(struct plx_vhost_ctrlr *c, int ret)
{
    plx_vhost_done_fn done = c->done;
    void *arg = c->arg;
    plx_listener_close(&c->listener);
    ctrlr_free(c);
    if (done)
        done(arg, ret);
}

static void ctrlr_closed_again(struct plx_bdev_access *a, int result)
{
    (void)result;
    ctrlr_undone(plx_container_of(a, struct plx_vhost_ctrlr, access), -EIO);
}

static void ctrlr_unasked_again(struct plx_resv_party *p)
{
    plx_bdev_access_close(&plx_container_of(p, struct plx_vhost_ctrlr, resv)->access, ctrlr_closed_again);
}

static void ctrlr_opened(struct plx_bdev_access *a, int result)
{
    struct plx_vhost_ctrlr *c = plx_container_of(a, struct plx_vhost_ctrlr, access);
    if (result) {
        ctrlr_undone(c, result);
        return;
    }
    c->opened = true;
    if (!c->scsi) {
        plx_resv_join(&c->resv);
        blk_forbid(c);
    }
    if (c->removing) {
        vhost_ctrlr_left(c);
        return;
    }
    if (plx_listener_accept(&c->listener, c->vhost->control)) {
        if (c->scsi)
            ctrlr_undone(c, -EIO);
        else
            plx_resv_leave(&c->resv, ctrlr_unasked_again);
        return;
    }
    plx_vhost_done_fn done = c->done;
    c->done = NULL;
    if (c->blk.gone)
        vhost_ctrlr_part(c); /* since it was held */
    if (done)
        done(c->arg, 0);
}

/* The reactors that rings are to be on. @return how many */
static unsigned choose_reactors(const struct plx_vhost *v, const int *cores, unsigned ncores, struct plx_reactor **out)
{
    unsigned n = 0;
    for (unsigned i = 0; i < v->n; i++) {
        bool named = !cores;
        for (unsigned k = 0; k < ncores && !named; k++)
            named = plx_reactor_core(v->reactors[i]) == cores[k];
        if (named)
            out[n++] = v->reactors[i];
    }
    return n;
}

static int check_blk_opts(const struct plx_vhost_blk_opts *o, struct plx_error *err)
{
    if (o->queues > PLX_VHOST_QUEUES_MAX)
        return plx_fail(err, -EINVAL, "a device has 1 to %d queues", PLX_VHOST_QUEUES_MAX);
    if (o->queue_size > PLX_VHOST_QUEUE_SIZE_MAX || o->queue_size & (o->queue_size - 1))
        return plx_fail(err, -EINVAL, "the size of a queue is a power of two, up to %d", PLX_VHOST_QUEUE_SIZE_MAX);
    if (o->serial && strlen(o->serial) >= PLX_VHOST_SERIAL_SIZE)
        return plx_fail(err, -EINVAL, "a serial number has at most %d characters", PLX_VHOST_SERIAL_SIZE - 1);
    return 0;
}

/* 20 characters of a UUID are not all of it, but enough to tell disks of one machine apart. */
static void fill_serial(struct vhost_blk *blk, const char *serial)
{
    char text[PLX_UUID_TEXT];
    if (!serial) {
        plx_uuid_format(plx_bdev_info(blk->bdev)->uuid, text);
        serial = text;
    }
    memcpy(blk->serial, serial, strnlen(serial, sizeof blk->serial));
}

static int ctrlr_hold(struct plx_vhost_ctrlr *c, struct plx_error *err)
{
    char who[128];
    snprintf(who, sizeof who, "vhost-user at %.100s", c->path);
    const struct plx_bdev_hold_opts hold = {
        .who = who,
        .claim = c->blk.read_only ? PLX_BDEV_READS : PLX_BDEV_SHARED,
        .event = backing_event,
        .arg = c,
        .reactor = c->vhost->control,
    };
    return plx_bdev_hold(c->blk.bdev, &hold, &c->hold, err);
}

static int ctrlr_bind(struct plx_vhost_ctrlr *c, struct plx_error *err)
{
    return plx_listener_bind_path(&c->listener, c->path, c->vhost->has_group ? &c->vhost->group : NULL, err);
}

static void fill_blk(struct vhost_blk *blk, struct plx_bdev *bdev, const struct plx_vhost_blk_opts *o)
{
    const struct plx_bdev_info *info = plx_bdev_info(bdev);
    blk->bdev = bdev;
    blk->info = *info;
    blk->sector_shift = (unsigned)__builtin_ctz(info->block_size / VIRTIO_BLK_SECTOR);
    blk->read_only = o->read_only || info->read_only;
    blk->packed = o->packed;
    blk->queues = o->queues ? o->queues : QUEUES;
    blk->queue_size = o->queue_size ? o->queue_size : QUEUE_SIZE;
    fill_serial(blk, o->serial);
}

int vhost_check_disk(const struct plx_bdev *bdev, unsigned reactors, struct plx_error *err)
{
    const struct plx_bdev_info *info = plx_bdev_info(bdev);
    if (info->zone_blocks)
        return plx_fail(err, -ENOTSUP, "%s is zoned: it is written in order, zone by zone, which guests would not know",
                        info->name);
    return plx_bdev_check_reactors(bdev, reactors, err);
}

static int ctrlr_open(struct plx_vhost_ctrlr *c, const struct plx_vhost_blk_opts *o, struct plx_error *err)
{
    struct plx_vhost *v = c->vhost;
    c->reactors = calloc(v->n, sizeof(struct plx_reactor *));
    if (!c->reactors)
        return plx_fail(err, -ENOMEM, "out of memory");
    const unsigned n = c->nreactors = choose_reactors(v, o->cores, o->ncores, c->reactors);
    int ret = n ? 0 : plx_fail(err, -EINVAL, "no reactor that can have rings runs on any of these cores");
    if (!ret)
        ret = vhost_check_disk(c->blk.bdev, n, err);
    if (!ret)
        ret = ctrlr_hold(c, err);
    if (!ret)
        ret = plx_resv_party_init(&c->resv, c->blk.bdev, o->ptpl_file, c->blk.info.uuid, v->control, c->reactors, n,
                                  &blk_party_ops, err);
    if (!ret)
        ret = ctrlr_bind(c, err);
    if (ret)
        return ret;
    c->listener.accepted = ctrlr_accepted;
    c->first = v->next++ % n;
    ret = plx_bdev_access_open(&c->access, c->blk.bdev, c->reactors, n, v->control, ctrlr_opened);
    if (ret) {
        plx_fail(err, ret, "out of memory");
        plx_listener_close(&c->listener);
    }
    return ret;
}

static struct plx_vhost_ctrlr *ctrlr_new(struct plx_vhost *v, const char *path, plx_vhost_done_fn done, void *arg)
{
    const size_t size = strlen(path) + 1;
    struct plx_vhost_ctrlr *c = calloc(1, sizeof *c);
    char *copy = c ? malloc(size) : NULL;
    if (!copy) {
        free(c);
        return NULL;
    }
    c->path = memcpy(copy, path, size);
    c->vhost = v;
    c->done = done;
    c->arg = arg;
    c->alone = plx_reactor_now(v->control);
    plx_list_init(&c->devices);
    plx_list_add_tail(&v->ctrlrs, &c->link);
    return c;
}

int plx_vhost_blk_create(struct plx_vhost *v, const char *path, struct plx_bdev *bdev,
                         const struct plx_vhost_blk_opts *opts, plx_vhost_done_fn done, void *arg,
                         struct plx_vhost_ctrlr **out, struct plx_error *err)
{
    static const struct plx_vhost_blk_opts none;
    const struct plx_vhost_blk_opts *o = opts ? opts : &none;
    int ret = check_blk_opts(o, err);
    if (ret)
        return ret;
    if (plx_vhost_find(v, path))
        return plx_fail(err, -EEXIST, "there is a device at %s already; choose another path", path);
    struct plx_vhost_ctrlr *c = ctrlr_new(v, path, done, arg);
    if (!c)
        return plx_fail(err, -ENOMEM, "out of memory");
    fill_blk(&c->blk, bdev, o);
    ret = ctrlr_open(c, o, err);
    if (ret)
        ctrlr_free(c);
    else
        *out = c;
    return ret;
}

static void scsi_begun(struct plx_msg *msg)
{
    ctrlr_opened(&plx_container_of(msg, struct plx_vhost_ctrlr, msg)->access, 0);
}

static int scsi_open(struct plx_vhost_ctrlr *c, const struct plx_vhost_scsi_opts *o, struct plx_error *err)
{
    struct plx_vhost *v = c->vhost;
    struct plx_reactor **reactors = calloc(v->n, sizeof(struct plx_reactor *));
    int ret = reactors ? 0 : plx_fail(err, -ENOMEM, "out of memory");
    const unsigned n = ret ? 0 : choose_reactors(v, o->cores, o->ncores, reactors);
    if (!ret && !n)
        ret = plx_fail(err, -EINVAL, "no reactor that can have rings runs on any of these cores");
    if (!ret && o->initiator && strlen(o->initiator) >= PLX_VHOST_INITIATOR_SIZE)
        ret =
            plx_fail(err, -EINVAL, "the name of an initiator has at most %d characters", PLX_VHOST_INITIATOR_SIZE - 1);
    if (!ret && vhost_scsi_new(&c->scsi, c, o, reactors, n))
        ret = plx_fail(err, -ENOMEM, "out of memory");
    if (!ret)
        ret = ctrlr_bind(c, err);
    free(reactors);
    if (ret)
        return ret;
    c->listener.accepted = ctrlr_accepted;
    c->first = v->next++ % n;
    c->msg.fn = scsi_begun;
    plx_reactor_send(v->control, &c->msg);
    return 0;
}

int plx_vhost_scsi_create(struct plx_vhost *v, const char *path, const struct plx_vhost_scsi_opts *opts,
                          plx_vhost_done_fn done, void *arg, struct plx_vhost_ctrlr **out, struct plx_error *err)
{
    static const struct plx_vhost_scsi_opts none;
    const struct plx_vhost_scsi_opts *o = opts ? opts : &none;
    if (o->queues > PLX_VHOST_SCSI_QUEUES_MAX)
        return plx_fail(err, -EINVAL, "a SCSI host has 1 to %d queues of requests", PLX_VHOST_SCSI_QUEUES_MAX);
    if (plx_vhost_find(v, path))
        return plx_fail(err, -EEXIST, "there is a device at %s already; choose another path", path);
    struct plx_vhost_ctrlr *c = ctrlr_new(v, path, done, arg);
    if (!c)
        return plx_fail(err, -ENOMEM, "out of memory");
    int ret = scsi_open(c, o, err);
    if (ret)
        ctrlr_free(c);
    else
        *out = c;
    return ret;
}

int plx_vhost_set_coalescing(struct plx_vhost_ctrlr *c, uint32_t delay_us, uint32_t iops_threshold,
                             struct plx_error *err)
{
    if (delay_us > PLX_VHOST_DELAY_MAX_US)
        return plx_fail(err, -EINVAL, "a guest is to wait for at most %d microseconds", PLX_VHOST_DELAY_MAX_US);
    atomic_store(&c->blk.iops_threshold, iops_threshold);
    atomic_store(&c->blk.delay_us, delay_us);
    return 0;
}

/* ---- what there is ---- */

struct plx_vhost_ctrlr *plx_vhost_next(struct plx_vhost *v, struct plx_vhost_ctrlr *c)
{
    const struct plx_list *next = c ? c->link.next : v->ctrlrs.next;
    return next == &v->ctrlrs ? NULL : plx_list_entry(next, struct plx_vhost_ctrlr, link);
}

struct plx_vhost_ctrlr *plx_vhost_find(struct plx_vhost *v, const char *path)
{
    struct plx_vhost_ctrlr *c = NULL;
    while ((c = plx_vhost_next(v, c)) && strcmp(c->path, path) != 0)
        ;
    return c;
}

static void count_rings(const struct vhost_device *d, struct plx_vhost_info *out)
{
    for (unsigned i = 0; i < VHOST_RINGS; i++) {
        const struct vhost_ring *r = d->rings[i];
        if (!r || !r->want.running)
            continue;
        out->rings++;
        out->broken += r->told != NULL;
    }
}

void plx_vhost_get_info(const struct plx_vhost_ctrlr *c, struct plx_vhost_info *out)
{
    *out = (struct plx_vhost_info){
        .path = c->path,
        .scsi = c->scsi != NULL,
        .bdev = c->blk.bdev,
        .read_only = c->blk.read_only,
        .packed = c->scsi ? vhost_scsi_packed(c->scsi) : c->blk.packed,
        .queues = c->scsi ? vhost_scsi_queues(c->scsi) : c->blk.queues,
        .queue_size = c->blk.queue_size,
        .delay_us = atomic_load(&c->blk.delay_us),
        .iops_threshold = atomic_load(&c->blk.iops_threshold),
        .alone_ns = c->ndevices > c->dying ? 0 : plx_reactor_now(c->vhost->control) - c->alone,
        .connections = c->ndevices - c->dying,
        .draining = c->dying,
    };
    memcpy(out->serial, c->blk.serial, sizeof c->blk.serial);
    plx_list_for_each(it, &c->devices) {
        count_rings(plx_list_entry(it, struct vhost_device, link), out);
    }
}
