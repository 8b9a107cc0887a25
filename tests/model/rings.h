/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Both ends of a virtqueue, which are ours: the driver's of src/bdev/driver/virtio_ring.c, and the device's of
 * src/vhost/. A test includes the device's layout, and says which of the fields that both know are of which size.
 */
#ifndef PLX_MODEL_RINGS_H
#define PLX_MODEL_RINGS_H

#include "model.h"

#include "bdev/driver/virtio_ring.c"
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

/* ---- what a test has of its own ---- */

static struct vio_ring driver_ring(uint64_t *out);
static void add(struct vio_ring *r, unsigned slot);
static void serve(unsigned want);

/* ---- the driver's end ---- */

static void wait_for(struct vio_ring *r, int want)
{
    int got;
    while ((got = vio_ring_reap(r)) == VIO_RING_NONE) {
        if (!vio_ring_arm(r))
            model_hear(&call);
        vio_ring_disarm(r);
    }
    MODEL_HOLD(got == want);
    MODEL_HOLD(data[got] == 20u + (unsigned)got);
}

static void driver_of_1(void)
{
    uint64_t out = 0;
    struct vio_ring r = driver_ring(&out);
    add(&r, 1);
    if (vio_ring_show(&r))
        model_tell(&kick);
    wait_for(&r, 1);
}

/* ---- the device's end ---- */

/*
 * ring_poll() and ring_arm(), as far as they are about the ring. Inlined, so that which functions these are is no
 * access.
 */
static inline __attribute__((always_inline)) void serve_ring(const struct vhost_ring_kind *kind, struct vhost_ring *r,
                                                             unsigned want)
{
    struct vhost_slot slots[RING_SIZE], *done[RING_SIZE];
    slots[0].busy = slots[1].busy = false;
    r->slots = slots;
    r->done = done;
    for (unsigned got = 0;;) {
        if (kind->fetch(r, want)) {
            got += r->ndone;
            kind->publish(r);
            for (unsigned i = 0; i < r->ndone; i++)
                done[i]->busy = false;
            r->ndone = 0;
        }
        if (got == want)
            return;
        kind->notify(r, true);
        if (!kind->waiting(r))
            model_hear(&kick);
        kind->notify(r, false);
    }
}

static void device_of_1(void)
{
    serve(1);
}

static void device_of_2(void)
{
    serve(2);
}

#endif
