/* SPDX-License-Identifier: BSD-3-Clause */
/* Orders: see the head of src/vhost/split.c, which is the other end; tests/model/ runs both against each other. */
#include "bdev/driver/virtio_ring.h"

#include <string.h>

/* ---- memory that two write ---- */

static inline uint16_t vring_load(const plx_le16 *p)
{
    return le16toh(__atomic_load_n(&p->raw, __ATOMIC_RELAXED));
}

static inline uint16_t vring_acquire(const plx_le16 *p)
{
    return le16toh(__atomic_load_n(&p->raw, __ATOMIC_ACQUIRE));
}

static inline void vring_store(plx_le16 *p, uint16_t v)
{
    __atomic_store_n(&p->raw, htole16(v), __ATOMIC_RELAXED);
}

static inline void vring_release(plx_le16 *p, uint16_t v)
{
    __atomic_store_n(&p->raw, htole16(v), __ATOMIC_RELEASE);
}

static plx_le16 *vring_used_event(const struct vio_ring *r)
{
    return &r->avail->ring[r->size];
}

static plx_le16 *vring_avail_event(const struct vio_ring *r)
{
    return (plx_le16 *)(void *)&r->used->ring[r->size];
}

/* ---- layout ---- */

unsigned vio_ring_size(const struct vio_ring_opts *o)
{
    unsigned need = o->slots * (o->indirect ? 1u : (unsigned)VIO_DIRECT), size = 16;
    while (size < need)
        size *= 2;
    return size <= VIO_RING_MAX ? size : 0;
}

static size_t desc_bytes(unsigned size)
{
    return plx_align_up(size * sizeof(struct vio_desc), VIO_RING_ALIGN);
}

static size_t avail_bytes(unsigned size)
{
    return plx_align_up(sizeof(struct vio_avail) + (size + 1) * sizeof(plx_le16), VIO_RING_ALIGN);
}

static size_t used_bytes(unsigned size)
{
    return plx_align_up(sizeof(struct vio_used) + size * sizeof(struct vio_used_elem) + sizeof(plx_le16),
                        VIO_RING_ALIGN);
}

size_t vio_ring_bytes(const struct vio_ring_opts *o)
{
    unsigned size = vio_ring_size(o);
    return o->packed ? desc_bytes(size) + 2 * (size_t)VIO_RING_ALIGN
                     : desc_bytes(size) + avail_bytes(size) + used_bytes(size);
}

void vio_ring_restart(struct vio_ring *r)
{
    r->added = r->shown = r->reaped = r->pending = r->busy = 0;
    r->add_wrap = r->reap_wrap = true;
    memset(r->out, 0, (r->slots + 63u) / 64 * sizeof *r->out);
    if (r->packed) {
        memset(r->packed, 0, desc_bytes(r->size) + 2 * (size_t)VIO_RING_ALIGN);
    } else {
        memset(r->avail, 0, avail_bytes(r->size));
        memset(r->used, 0, used_bytes(r->size));
    }
    vio_ring_disarm(r);
}

void vio_ring_init(struct vio_ring *r, const struct vio_ring_opts *o, void *mem, uint64_t *out)
{
    uint8_t *at = mem;
    *r = (struct vio_ring){.out = out,
                           .size = (uint16_t)vio_ring_size(o),
                           .slots = o->slots,
                           .stride = o->indirect ? 1 : VIO_DIRECT,
                           .event_idx = o->event_idx};
    size_t descs = desc_bytes(r->size);
    if (o->packed) {
        r->packed = mem;
        r->driver_event = (void *)(at + descs);
        r->device_event = (void *)(at + descs + VIO_RING_ALIGN);
    } else {
        r->desc = mem;
        r->avail = (void *)(at + descs);
        r->used = (void *)(at + descs + avail_bytes(r->size));
    }
    vio_ring_restart(r);
}

void vio_ring_addr(const struct vio_ring *r, struct vu_vring_addr *a)
{
    a->desc = r->packed ? (uintptr_t)r->packed : (uintptr_t)r->desc;
    a->avail = r->packed ? (uintptr_t)r->driver_event : (uintptr_t)r->avail;
    a->used = r->packed ? (uintptr_t)r->device_event : (uintptr_t)r->used;
}

/* A packed ring: what is available next, and what is used next, each with its wrap counter. */
uint32_t vio_ring_base(const struct vio_ring *r)
{
    uint32_t used = r->reaped | (uint32_t)r->reap_wrap << 15;
    return r->packed ? used | used << 16 : vring_load(&r->used->idx);
}

/* ---- to the device ---- */

static void packed_add(struct vio_ring *r, unsigned slot, const struct vio_desc *indirect, unsigned n)
{
    struct vio_packed_desc *d = &r->packed[r->added];
    uint16_t flags = VIO_DESC_INDIRECT | (r->add_wrap ? VIO_DESC_AVAIL : VIO_DESC_USED);
    d->addr = plx_put64((uintptr_t)indirect);
    d->len = plx_put32(n * sizeof *indirect);
    d->id = plx_put16(slot);
    if (r->pending)
        vring_store(&d->flags, flags); /* it is not looked at before the first one is there */
    else
        r->first_flags = flags;
    if (++r->added == r->size) {
        r->added = 0;
        r->add_wrap = !r->add_wrap;
    }
}

/* What is the same as before is left alone, so that the device still has it in its cache. */
static void split_point(struct vio_desc *d, const struct vio_desc *indirect, unsigned n)
{
    const struct vio_desc to = {.addr = plx_put64((uintptr_t)indirect),
                                .len = plx_put32(n * sizeof *indirect),
                                .flags = plx_put16(VIO_DESC_INDIRECT)};
    if (plx_unlikely(memcmp(d, &to, sizeof to) != 0))
        *d = to;
}

void vio_ring_add(struct vio_ring *r, unsigned slot, const struct vio_desc *indirect, unsigned n)
{
    r->out[slot / 64] |= UINT64_C(1) << slot % 64;
    r->busy++;
    if (plx_unlikely(r->packed != NULL)) {
        packed_add(r, slot, indirect, n);
    } else {
        if (indirect)
            split_point(&r->desc[slot], indirect, n);
        vring_store(&r->avail->ring[r->added & (r->size - 1u)], (uint16_t)(slot * r->stride));
        r->added++;
    }
    r->pending++;
}

/* Whether an index has passed the one at which the other side wants to hear of it: 2.7.10. */
static bool event_passed(uint16_t event, uint16_t now, uint16_t before)
{
    return (uint16_t)(now - event - 1) < (uint16_t)(now - before);
}

/* 2.8.10: off_wrap is an entry and its wrap counter; what lies behind us in the ring has the other one. */
static bool packed_kick(const struct vio_ring *r, uint16_t pending)
{
    uint16_t off_wrap = vring_load(&r->device_event->off_wrap), flags = vring_load(&r->device_event->flags) & 3;
    uint16_t event = off_wrap & 0x7fff;
    if (flags != VIO_EVENT_DESC)
        return flags != VIO_EVENT_DISABLE;
    if (off_wrap >> 15 != r->add_wrap)
        event = (uint16_t)(event - r->size);
    return event_passed(event, r->added, (uint16_t)(r->added - pending));
}

bool vio_ring_show(struct vio_ring *r)
{
    uint16_t pending = r->pending;
    r->pending = 0;
    if (plx_unlikely(r->packed != NULL)) {
        vring_release(&r->packed[r->shown].flags, r->first_flags);
        r->shown = r->added;
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        return packed_kick(r, pending);
    }
    vring_release(&r->avail->idx, r->added);
    r->shown = r->added;
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* the index is there before we look whether the device sleeps */
    if (r->event_idx)
        return event_passed(vring_load(vring_avail_event(r)), r->added, (uint16_t)(r->added - pending));
    return !(vring_load(&r->used->flags) & VIO_NO_NOTIFY);
}

/* ---- back from the device ---- */

static bool packed_ready(const struct vio_ring *r)
{
    uint16_t flags = vring_acquire(&r->packed[r->reaped].flags);
    bool avail = flags & VIO_DESC_AVAIL, used = flags & VIO_DESC_USED;
    return avail == used && used == r->reap_wrap;
}

bool vio_ring_ready(const struct vio_ring *r)
{
    return r->packed ? packed_ready(r) : vring_acquire(&r->used->idx) != r->reaped;
}

static uint32_t packed_reap(struct vio_ring *r)
{
    uint32_t id = vring_load(&r->packed[r->reaped].id);
    if (++r->reaped == r->size) {
        r->reaped = 0;
        r->reap_wrap = !r->reap_wrap;
    }
    return id;
}

/* The length that it says it wrote is not used for anything, and so need not be looked at: 2.7.8.2 knows wrong ones. */
static uint32_t split_reap(struct vio_ring *r)
{
    const uint32_t *id = &r->used->ring[r->reaped++ & (r->size - 1u)].id.raw;
    uint32_t head = le32toh(__atomic_load_n(id, __ATOMIC_RELAXED));
    if (r->stride == 1)
        return head;
    return head % VIO_DIRECT ? UINT32_MAX : head / VIO_DIRECT;
}

int vio_ring_reap(struct vio_ring *r)
{
    if (!vio_ring_ready(r))
        return VIO_RING_NONE;
    uint32_t slot = r->packed ? packed_reap(r) : split_reap(r);
    if (plx_unlikely(slot >= r->slots || !vio_ring_has(r, slot)))
        return VIO_RING_BROKEN;
    r->out[slot / 64] &= ~(UINT64_C(1) << slot % 64);
    r->busy--;
    return (int)slot;
}

bool vio_ring_arm(struct vio_ring *r)
{
    if (r->packed)
        vring_store(&r->driver_event->flags, VIO_EVENT_ENABLE);
    else if (r->event_idx)
        vring_store(vring_used_event(r), r->reaped);
    else
        vring_store(&r->avail->flags, 0);
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* the device sees this, or we see what it did before */
    return vio_ring_ready(r);
}

/*
 * With EVENT_IDX the device calls when it passes that one index, so that it is enough to leave it behind: one needless
 * call in 65,536.
 */
void vio_ring_disarm(struct vio_ring *r)
{
    if (r->packed)
        vring_store(&r->driver_event->flags, VIO_EVENT_DISABLE);
    else if (r->event_idx)
        vring_store(vring_used_event(r), (uint16_t)(r->reaped - 1));
    else
        vring_store(&r->avail->flags, VIO_NO_INTERRUPT);
}
