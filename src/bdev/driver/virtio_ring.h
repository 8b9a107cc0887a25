/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A virtqueue, as its driver sees it. A request has a slot, of which there are so many as the ring has room for at any
 * time: so nothing has to be looked for, and the slot is the identifier that comes back.
 *
 * With indirect descriptors a slot has one entry of the ring, and a table of its own elsewhere. Without, it has
 * VIO_DIRECT entries of a split ring, always the same: its table is in the ring. Packed rings are used with indirect
 * descriptors only.
 *
 * The device is not trusted: all that it writes is checked here, but for a request's data and status.
 */
#ifndef PLX_BDEV_DRIVER_VIRTIO_RING_H
#define PLX_BDEV_DRIVER_VIRTIO_RING_H

#include "bdev/driver/virtio_spec.h"

#include "base/util.h"

#include <stdbool.h>

enum {
    VIO_DIRECT = 3,       /* entries of a slot: header, data, status */
    VIO_RING_NONE = -1,   /* nothing has come back */
    VIO_RING_BROKEN = -2, /* what has come back was never sent */
};

struct vio_ring {
    /* What is read and written with every request. */
    struct vio_desc *desc;
    struct vio_avail *avail;
    struct vio_used *used;
    struct vio_packed_desc *packed; /* NULL: split */
    uint64_t *out;                  /* a bit for each slot that the device has */
    uint16_t size;                  /* entries */
    uint16_t slots;
    uint8_t stride;   /* entries of a slot of a split ring */
    bool event_idx;   /* VIRTIO_F_EVENT_IDX */
    uint16_t added;   /* split: free running; packed: the entry that is added next */
    uint16_t shown;   /* of added, as the device has been told */
    uint16_t reaped;  /* split: free running; packed: the entry that comes back next */
    uint16_t pending; /* packed: added since */
    uint16_t busy;    /* slots that the device has, or will be shown */
    bool add_wrap, reap_wrap;
    uint16_t first_flags; /* packed: of the first entry that is not shown, which are written last */
    struct vio_packed_event *driver_event, *device_event;
};

struct vio_ring_opts {
    uint16_t slots;
    bool indirect, packed, event_idx;
};

/* Entries that a ring for so many slots needs; 0 when there is none that large. */
unsigned vio_ring_size(const struct vio_ring_opts *o);
/* Bytes of memory that it needs, aligned to VIO_RING_ALIGN. */
size_t vio_ring_bytes(const struct vio_ring_opts *o);
enum { VIO_RING_ALIGN = 128 };

/* Makes an empty ring in memory that the device sees too. `out` has a bit for each slot, rounded up to words. */
void vio_ring_init(struct vio_ring *r, const struct vio_ring_opts *o, void *mem, uint64_t *out);

/* Empties it, for a device that begins anew; tables that are in it stay. */
void vio_ring_restart(struct vio_ring *r);

/* Where the device finds it: SET_VRING_ADDR. */
void vio_ring_addr(const struct vio_ring *r, struct vu_vring_addr *a);
/* Where the device is to begin: SET_VRING_BASE, for one that knows by the inflight region what it has in flight. */
uint32_t vio_ring_base(const struct vio_ring *r);

/*
 * Adds a free slot, whose table has n entries; the device sees it after vio_ring_show(). indirect is the table, NULL
 * where it is in the ring.
 */
void vio_ring_add(struct vio_ring *r, unsigned slot, const struct vio_desc *indirect, unsigned n);

/* Shows the device what was added. @return whether it is to be kicked */
bool vio_ring_show(struct vio_ring *r);
static inline bool vio_ring_hides(const struct vio_ring *r)
{
    return r->pending != 0;
}

/* The next slot that comes back; VIO_RING_NONE or VIO_RING_BROKEN */
int vio_ring_reap(struct vio_ring *r);

/* Whether one has come back. */
bool vio_ring_ready(const struct vio_ring *r);
/* From now on the device calls when one comes back. @return whether one has already */
bool vio_ring_arm(struct vio_ring *r);
/* It need not any more; may happen even so. */
void vio_ring_disarm(struct vio_ring *r);

/* Where a slot's table is in the ring, and the number of its first entry. */
static inline struct vio_desc *vio_ring_table(const struct vio_ring *r, unsigned slot)
{
    return r->desc + slot * VIO_DIRECT;
}

static inline bool vio_ring_has(const struct vio_ring *r, unsigned slot)
{
    return r->out[slot / 64] >> slot % 64 & 1;
}

#endif
