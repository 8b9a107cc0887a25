/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Packed rings: virtio 1.2, 2.8. Orders are as in split.c, with flags in place of the indices: those of the first
 * descriptor of a batch are released, and acquired, and all others are relaxed. See tests/model/test_packed.c.
 */
#include "vhost/ring.h"

#include <string.h>

static inline uint16_t packed_get(const plx_le16 *p, int order)
{
    return le16toh(__atomic_load_n(&p->raw, order));
}

static inline void packed_put(plx_le16 *p, uint16_t v, int order)
{
    __atomic_store_n(&p->raw, htole16(v), order);
}

/* ---- where it is ---- */

/* The driver's area is where the available ring of a split ring is, and the device's where its used ring is. */
static bool packed_locate(struct vhost_ring *r)
{
    const struct vhost_setup *s = &r->is;
    r->at.packed.desc = vhost_user_at(s->table, s->desc, r->num * sizeof(struct virtq_packed_desc), 16);
    r->at.packed.driver = vhost_user_at(s->table, s->avail, sizeof(struct virtq_event), 4);
    r->at.packed.device = vhost_user_at(s->table, s->used, sizeof(struct virtq_event), 4);
    return r->at.packed.desc && r->at.packed.driver && r->at.packed.device;
}

static void packed_begin(struct vhost_ring *r)
{
    r->last_avail = r->base & 0x7fff;
    r->avail_wrap = r->base >> 15 & 1;
    r->used_idx = r->base >> 16 & 0x7fff;
    r->used_wrap = r->base >> 31;
    if (r->last_avail >= r->size || r->used_idx >= r->size)
        vhost_ring_break(r, "an index to begin at that is beyond the end of the ring");
    else if (r->inflight.packed && !vhost_inflight_begin_packed(r))
        vhost_ring_break(r, "a region of requests in flight that says what cannot be");
}

static uint32_t packed_base(const struct vhost_ring *r)
{
    return r->last_avail | (uint32_t)r->avail_wrap << 15 | (uint32_t)r->used_idx << 16 | (uint32_t)r->used_wrap << 31;
}

static inline void packed_advance(const struct vhost_ring *r, uint16_t *idx, bool *wrap, unsigned n)
{
    unsigned next = *idx + n;
    *wrap ^= next >= r->size;
    *idx = (uint16_t)(next >= r->size ? next - r->size : next);
}

/* ---- fetching ---- */

static bool packed_waiting(struct vhost_ring *r)
{
    const uint16_t flags = packed_get(&r->at.packed.desc[r->last_avail].flags, __ATOMIC_ACQUIRE);
    return !!(flags & VIRTQ_PACKED_AVAIL) == r->avail_wrap && !!(flags & VIRTQ_PACKED_USED) != r->avail_wrap;
}

static const struct virtq_packed_desc *desc_at(const struct vhost_ring *r, unsigned from, unsigned i)
{
    return &r->at.packed.desc[from + i < r->size ? from + i : from + i - r->size];
}

static inline const char *add_one(struct vhost_ring *r, struct vhost_slot *s, const struct vhost_desc *d)
{
    return vhost_slot_add(r, s, d->addr, d->len, d->end & VIRTQ_DESC_WRITE)
               ? NULL
               : "a descriptor with an address, a length or a direction that cannot be, or too many of them";
}

/* All descriptors of an indirect table belong to it, whatever their flags say of a next one (2.8.8). */
static const char *add_table(struct vhost_ring *r, struct vhost_slot *s, const struct vhost_desc *d)
{
    const size_t size = sizeof(struct virtq_packed_desc);
    const uint64_t bytes = d->len;
    uint64_t together = bytes;
    const uint8_t *table = vhost_at(&r->view, d->addr, &together);
    const char *why = NULL;
    if (!(r->is.features & VHOST_BIT(VIRTIO_F_INDIRECT_DESC)))
        return "an indirect descriptor, which was not agreed on";
    if (!bytes || bytes % size || bytes > VHOST_RING_MAX * size)
        return "an indirect table with a length that is none";
    if (!table || together < bytes)
        return "an indirect table that is not in guest memory";
    for (uint64_t at = 0; at < bytes && !why; at += size) {
        const struct vhost_desc e = vhost_read_desc(table + at);
        why = e.end & VIRTQ_DESC_INDIRECT ? "an indirect descriptor in an indirect table" : add_one(r, s, &e);
    }
    return why;
}

static inline const char *add_desc(struct vhost_ring *r, struct vhost_slot *s, const struct vhost_desc *d,
                                   unsigned ndescs)
{
    if (!(d->end & VIRTQ_DESC_INDIRECT))
        return add_one(r, s, d);
    return ndescs == 1 ? add_table(r, s, d) : "an indirect descriptor in a chain";
}

/* How many descriptors follow each other; the last has the number of the buffer. @return 0 when there is no end */
static unsigned chain_length(const struct vhost_ring *r, uint16_t *id)
{
    for (unsigned n = 0; n < r->size; n++) {
        const struct virtq_packed_desc *d = desc_at(r, r->last_avail, n);
        if (packed_get(&d->flags, __ATOMIC_RELAXED) & VIRTQ_DESC_NEXT)
            continue;
        *id = packed_get(&d->id, __ATOMIC_RELAXED);
        return n + 1;
    }
    return 0;
}

/* @return the next request, or NULL, and the ring is broken */
static struct vhost_slot *packed_take(struct vhost_ring *r)
{
    uint16_t id;
    const unsigned n = chain_length(r, &id);
    if (plx_unlikely(!n)) {
        vhost_ring_break(r, "a chain of descriptors that has no end");
        return NULL;
    }
    struct vhost_slot *s = vhost_slot_take(r, id);
    if (plx_unlikely(!s))
        return NULL;
    s->ndescs = (uint16_t)n;
    for (unsigned i = 0; i < n; i++) {
        struct vhost_desc d = vhost_read_desc(desc_at(r, r->last_avail, i));
        d.mid = id;
        const char *why = add_desc(r, s, &d, n);
        if (plx_unlikely(why != NULL)) {
            vhost_ring_break(r, why);
            return NULL;
        }
        if (r->inflight.packed)
            vhost_inflight_fetched_packed(r, s, &d, i == n - 1);
    }
    packed_advance(r, &r->last_avail, &r->avail_wrap, n);
    return r->broken ? NULL : s;
}

static unsigned packed_fetch(struct vhost_ring *r, unsigned most)
{
    unsigned n = 0;
    for (; n < most && !r->broken && packed_waiting(r); n++) {
        struct vhost_slot *s = packed_take(r);
        if (plx_unlikely(!s))
            break;
        vhost_slot_begin(r, s);
    }
    return n;
}

/* From the copies in the region, as the ring's own descriptors may have been written over since. */
static struct vhost_slot *packed_take_again(struct vhost_ring *r, uint16_t head)
{
    const struct vhost_inflight_packed *in = r->inflight.packed;
    const unsigned n = in->desc[head].num;
    const uint16_t last = in->desc[head].last;
    struct vhost_slot *s = vhost_slot_take(r, last < r->size ? in->desc[last].id : UINT32_MAX);
    const char *why = n && n <= r->size ? NULL : "a region of requests in flight that says what cannot be";
    if (!s)
        return NULL;
    s->ndescs = (uint16_t)n;
    s->entry = head;
    uint16_t at = head;
    for (unsigned i = 0; i < n && !why; i++) {
        if (at >= r->size) {
            why = "a region of requests in flight that says what cannot be";
            break;
        }
        const struct vhost_inflight_packed_entry e = in->desc[at];
        const struct vhost_desc d = {e.addr, e.len, e.id, e.flags};
        why = add_desc(r, s, &d, n);
        at = e.next;
    }
    if (!why)
        return s;
    vhost_ring_break(r, why);
    return NULL;
}

/* ---- publishing ---- */

/* Whether the guest wants to know of the last n descriptors (2.8.10). */
static bool packed_wants_signal(const struct vhost_ring *r, unsigned n)
{
    /*
     * Between the store of the flags, and this look. A guest whose fence was before ours has all seen by us that it
     * wrote before that, flags and off_wrap; one whose fence comes after it sees what was published.
     */
    atomic_thread_fence(memory_order_seq_cst);
    const uint16_t flags = packed_get(&r->at.packed.driver->flags, __ATOMIC_RELAXED);
    if (flags == VIRTQ_EVENT_DISABLE)
        return false;
    if (flags != VIRTQ_EVENT_DESC || !r->event_idx || !r->signalled)
        return true;
    const uint16_t off_wrap = packed_get(&r->at.packed.driver->off_wrap, __ATOMIC_RELAXED);
    uint16_t event = off_wrap & 0x7fff;
    if (!!(off_wrap & VIRTQ_WRAP) != r->used_wrap)
        event = (uint16_t)(event - r->size);
    return (uint16_t)(r->used_idx - event - 1) < n;
}

static uint16_t used_flags(const struct vhost_ring *r, const struct vhost_slot *s)
{
    return (uint16_t)((r->used_wrap ? VIRTQ_PACKED_AVAIL | VIRTQ_PACKED_USED : 0) |
                      (s->written ? VIRTQ_DESC_WRITE : 0));
}

/* All of a batch but the flags of its first: the driver looks at no other before that. */
static unsigned write_batch(struct vhost_ring *r, uint16_t *first_flags)
{
    unsigned descs = 0;
    for (unsigned i = 0; i < r->ndone; i++) {
        const struct vhost_slot *s = r->done[i];
        struct virtq_packed_desc *d = &r->at.packed.desc[r->used_idx];
        const uint16_t flags = used_flags(r, s);
        d->id = plx_put16(s->id);
        d->len = plx_put32(s->written);
        if (i)
            packed_put(&d->flags, flags, __ATOMIC_RELAXED);
        else
            *first_flags = flags;
        if (r->inflight.packed)
            vhost_inflight_done_packed(r, s);
        packed_advance(r, &r->used_idx, &r->used_wrap, s->ndescs);
        descs += s->ndescs;
    }
    return descs;
}

/* After they were written, lest they be copied before that. */
static void log_descs(const struct vhost_ring *r, const struct virtq_packed_desc *first)
{
    const unsigned from = (unsigned)(first - r->at.packed.desc);
    for (unsigned i = 0, at = from; i < r->ndone; i++) {
        const struct virtq_packed_desc *d = &r->at.packed.desc[at];
        vhost_log_memory(r->is.log, r->is.table, d, sizeof *d);
        at = (at + r->done[i]->ndescs) % r->size;
    }
}

static void packed_publish(struct vhost_ring *r)
{
    struct virtq_packed_desc *first = &r->at.packed.desc[r->used_idx];
    uint16_t flags = 0;
    if (r->inflight.packed)
        vhost_inflight_step(); /* what is written over from here on has been copied there */
    const unsigned descs = write_batch(r, &flags);
    if (r->inflight.packed) { /* step 6, before the batch can be seen */
        r->inflight.packed->used_idx = r->used_idx;
        r->inflight.packed->used_wrap = r->used_wrap;
    }
    packed_put(&first->flags, flags, __ATOMIC_RELEASE);
    if (r->inflight.packed)
        vhost_inflight_published_packed(r);
    if (plx_unlikely(r->is.log && r->is.logs_used))
        log_descs(r, first);
    if (packed_wants_signal(r, descs))
        vhost_ring_signal(r);
}

static void packed_notify(struct vhost_ring *r, bool on)
{
    packed_put(&r->at.packed.device->flags, on ? VIRTQ_EVENT_ENABLE : VIRTQ_EVENT_DISABLE, __ATOMIC_RELAXED);
    if (on)
        atomic_thread_fence(memory_order_seq_cst); /* between that store, and the look whether there is something */
}

const struct vhost_ring_kind vhost_packed = {
    .locate = packed_locate,
    .begin = packed_begin,
    .fetch = packed_fetch,
    .take_again = packed_take_again,
    .publish = packed_publish,
    .waiting = packed_waiting,
    .notify = packed_notify,
    .base = packed_base,
};
