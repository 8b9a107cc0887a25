/* SPDX-License-Identifier: BSD-3-Clause */
/* SCSI hosts as rings, messages and the server see them. */
#ifndef PLX_VHOST_SCSI_RING_H
#define PLX_VHOST_SCSI_RING_H

#include <pollux/vhost.h>

struct vhost_ring;
struct vhost_slot;
struct vhost_device;
struct vhost_scsi;
struct virtio_scsi_config;

/* ---- on a ring's reactor ---- */

void vhost_scsi_start(struct vhost_slot *s);
/* How many requests may be taken off the ring now: all but that of events have no limit. */
unsigned vhost_scsi_wanted(const struct vhost_ring *r, unsigned most);
void vhost_scsi_started(struct vhost_ring *r);
void vhost_scsi_stopped(struct vhost_ring *r);
void vhost_scsi_published(struct vhost_ring *r);

/* ---- on the control reactor ---- */

/* @return 0 or -ENOMEM */
int vhost_scsi_ring_init(struct vhost_ring *r, struct vhost_scsi *h, unsigned leg, const struct vhost_device *d);
void vhost_scsi_ring_free(struct vhost_ring *r);
/* It has said that it runs: what was to be told meanwhile goes out. */
void vhost_scsi_ring_runs(struct vhost_ring *r);
/* A front-end has come, by whose number units know what it was told. */
void vhost_scsi_connected(struct vhost_scsi *h, unsigned nexus);

uint64_t vhost_scsi_features(const struct vhost_scsi *h);
void vhost_scsi_config(const struct vhost_scsi *h, struct virtio_scsi_config *out);
unsigned vhost_scsi_rings(const struct vhost_scsi *h);
unsigned vhost_scsi_queues(const struct vhost_scsi *h); /* of requests */
bool vhost_scsi_packed(const struct vhost_scsi *h);
unsigned vhost_scsi_reactors(const struct vhost_scsi *h);
struct plx_reactor *vhost_scsi_reactor(const struct vhost_scsi *h, unsigned leg);

int vhost_scsi_new(struct vhost_scsi **out, struct plx_vhost_ctrlr *c, const struct plx_vhost_scsi_opts *o,
                   struct plx_reactor *const *reactors, unsigned n);
void vhost_scsi_free(struct vhost_scsi *h);
/* Takes all units away; `vhost_ctrlr_left()` is called when they are gone. @return whether there were any */
bool vhost_scsi_clear(struct vhost_scsi *h);
/* Has units leave whose disk is this one, or stands on it; what is in flight is asked to end. */
void vhost_scsi_drop(struct vhost_scsi *h, const struct plx_bdev *base);
/* Whether there are such, those that are leaving included. */
bool vhost_scsi_uses(const struct vhost_scsi *h, const struct plx_bdev *base);

#endif
