/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Both ends of a virtqueue, which are ours: the driver's of src/bdev/driver/virtio_ring.c, and the device's of
 * src/vhost/. A test includes the device's layout, and says which of the fields that both know are of which size.
 */
#ifndef PLX_MODEL_RINGS_H
#define PLX_MODEL_RINGS_H

#include "model.h"

#include "vhost/ring.h"

enum { RING_SIZE = 2, TABLE = 64 };

static uint64_t data[RING_SIZE]; /* of requests: written by both, in turn */
static uint32_t kick, call;      /* eventfds */

/* The device's surroundings, as far as rings need them. */
void vhost_ring_signal(struct vhost_ring *r)
{
    r->signalled = true;
    model_tell(&call);
}

void vhost_ring_break(struct vhost_ring *r, const char *why)
{
    (void)r;
    model_hold(false, why);
}

bool vhost_slot_add_odd(struct vhost_ring *r, struct vhost_slot *s, uint64_t guest, uint32_t len, bool in)
{
    (void)r, (void)s, (void)guest, (void)len, (void)in;
    return true;
}

void vhost_scsi_start(struct vhost_slot *s)
{
    (void)s;
}

void vhost_blk_start(struct vhost_slot *s)
{
    (void)s;
}

/* A request is done when it begins. */
void vhost_blk_start_gone(struct vhost_slot *s)
{
    MODEL_HOLD(data[s->id] == 10u + s->id);
    data[s->id] = 20u + s->id;
    vhost_ring_done(s, 1);
}

#endif
