/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Split rings: virtio 1.2, 2.7.
 *
 * Orders, of which tests/model/test_split.c finds that they are needed and enough, together with those of the driver's
 * end (src/bdev/driver/virtio_ring.c): each side releases its index when what it stands for is written, and acquires
 * the other's. Each writes whether it wants to be told, then looks at the other's index; and each writes its index,
 * then looks whether the other wants to be told: two fences, one in each, so that one of the two sees what the other
 * has written.
 */
#include "vhost/ring.h"

#include <string.h>

/* ---- shared integers: each is read, or written, once ---- */

static inline uint16_t shared_get(const plx_le16 *p, int order)
{
    return le16toh(__atomic_load_n(&p->raw, order));
}

static inline void shared_put(plx_le16 *p, uint16_t v, int order)
{
    __atomic_store_n(&p->raw, htole16(v), order);
}

static const plx_le16 *used_event(const struct vhost_ring *r)
{
    return &r->at.split.avail->ring[r->size];
}

static plx_le16 *avail_event(struct vhost_ring *r)
{
    return (plx_le16 *)(void *)&r->at.split.used->ring[r->size];
}

/* ---- where it is ---- */

static bool split_locate(struct vhost_ring *r)
{
    const struct vhost_setup *s = &r->is;
    const uint64_t n = r->num;
    r->at.split.desc = vhost_user_at(s->table, s->desc, n * sizeof(struct virtq_desc), 16);
    r->at.split.avail = vhost_user_at(s->table, s->avail, 6 + 2 * n, 2);
    r->at.split.used = vhost_user_at(s->table, s->used, 6 + 8 * n, 4);
    return r->at.split.desc && r->at.split.avail && r->at.split.used;
}

/* With a region of what is in flight, the base that the front-end sends means nothing: some send one, some another. */
static void split_begin(struct vhost_ring *r)
{
    r->used_idx = shared_get(&r->at.split.used->idx, __ATOMIC_ACQUIRE);
    r->last_avail = (uint16_t)r->base;
    r->last_table = r->at.split.desc;
    if (r->inflight.split && !vhost_inflight_begin_split(r))
        vhost_ring_break(r, "a region of requests in flight that says what cannot be");
}

static uint32_t split_base(const struct vhost_ring *r)
{
    return r->last_avail;
}

/* ---- fetching ---- */

/* What to do with an indirect descriptor. @return what is wrong with it, or NULL */
typedef const char *indirect_fn(struct vhost_ring *r, struct vhost_slot *s, struct vhost_desc d);

/*
 * Adds the chain that begins at `i` of a table of n descriptors. What is in guest memory may change at any time, so
 * each descriptor is copied, and the copy is looked at. A chain without an end has too many. @return what is wrong
 * with it, or NULL
 */
static inline const char *add_chain(struct vhost_ring *r, struct vhost_slot *s, const struct virtq_desc *table,
                                    uint32_t n, uint32_t i, indirect_fn *indirect)
{
    for (;;) {
        const struct vhost_desc d = vhost_read_desc(&table[i]);
        const uint16_t flags = d.mid;
        if (plx_unlikely(flags & VIRTQ_DESC_INDIRECT))
            return indirect(r, s, d);
        if (plx_unlikely(!vhost_slot_add(r, s, d.addr, d.len, flags & VIRTQ_DESC_WRITE)))
            return "a descriptor with an address, a length or a direction that cannot be, or too many of them";
        if (!(flags & VIRTQ_DESC_NEXT))
            return NULL;
        i = d.end;
        if (plx_unlikely(i >= n))
            return "a descriptor whose next one is beyond the end";
    }
}

static const char *refuse_nested(struct vhost_ring *r, struct vhost_slot *s, struct vhost_desc d)
{
    (void)r, (void)s, (void)d;
    return "an indirect descriptor in an indirect table";
}

static const char *add_indirect(struct vhost_ring *r, struct vhost_slot *s, struct vhost_desc d)
{
    const uint64_t bytes = d.len;
    uint64_t together = bytes;
    const uint8_t *table = vhost_at(&r->view, d.addr, &together);
    if (!(r->is.features & VHOST_BIT(VIRTIO_F_INDIRECT_DESC)))
        return "an indirect descriptor, which was not agreed on";
    if (d.mid & VIRTQ_DESC_NEXT)
        return "an indirect descriptor with a next one";
    if (!bytes || bytes % sizeof(struct virtq_desc) || bytes > VHOST_RING_MAX * sizeof(struct virtq_desc))
        return "an indirect table with a length that is none";
    if (!table || together < bytes)
        return "an indirect table that is not in guest memory";
    r->last_table = table;
    return add_chain(r, s, (const struct virtq_desc *)(const void *)table,
                     (uint32_t)(bytes / sizeof(struct virtq_desc)), 0, refuse_nested);
}

static inline struct vhost_slot *split_take(struct vhost_ring *r, uint16_t head)
{
    struct vhost_slot *s = vhost_slot_take(r, head);
    if (plx_unlikely(!s))
        return NULL;
    const char *why = add_chain(r, s, r->at.split.desc, r->size, head, add_indirect);
    if (plx_likely(!why))
        return s;
    vhost_ring_break(r, why);
    return NULL;
}

/* What comes before a request is begun (vhost-user, "Inflight I/O tracking"). */
static void mark_fetched(struct vhost_ring *r, const struct vhost_slot *s)
{
    struct vhost_inflight_split_entry *e = &r->inflight.split->desc[s->id];
    e->counter = r->counter++;
    vhost_inflight_put(&e->inflight, 1);
}

/*
 * What the guest adds meanwhile is for the next round. A guest with one request at a time often writes it where it
 * wrote the one before: then its table comes from the other core's cache together with the ring's entry, instead of
 * after it.
 */
static unsigned split_fetch(struct vhost_ring *r, unsigned most)
{
    const struct virtq_avail *avail = r->at.split.avail;
    const uint16_t ready = (uint16_t)(shared_get(&avail->idx, __ATOMIC_ACQUIRE) - r->last_avail);
    const unsigned end = ready < most ? ready : most;
    unsigned n = 0;
    if (end)
        __builtin_prefetch(r->last_table);
    if (plx_unlikely(ready > r->size))
        vhost_ring_break(r, "more requests than the ring has descriptors");
    while (n < end && !r->broken) {
        const uint16_t head = shared_get(&avail->ring[r->last_avail & (r->size - 1)], __ATOMIC_RELAXED);
        struct vhost_slot *s = split_take(r, head);
        if (plx_unlikely(!s))
            break;
        r->last_avail++;
        if (r->inflight.split)
            mark_fetched(r, s);
        vhost_slot_begin(r, s);
        n++;
    }
    return n;
}

static struct vhost_slot *split_take_again(struct vhost_ring *r, uint16_t head)
{
    return split_take(r, head);
}

static bool split_waiting(struct vhost_ring *r)
{
    return shared_get(&r->at.split.avail->idx, __ATOMIC_ACQUIRE) != r->last_avail;
}

/* ---- publishing ---- */

/* Whether the guest wants to know of what was published since `old` (virtio 1.2, 2.7.7). */
static bool wants_signal(const struct vhost_ring *r, uint16_t old)
{
    atomic_thread_fence(memory_order_seq_cst); /* between the store of the index, and this look */
    if (!r->event_idx)
        return !(shared_get(&r->at.split.avail->flags, __ATOMIC_RELAXED) & VIRTQ_AVAIL_NO_INTERRUPT);
    const uint16_t event = shared_get(used_event(r), __ATOMIC_RELAXED);
    return !r->signalled || (uint16_t)(r->used_idx - event - 1) < (uint16_t)(r->used_idx - old);
}

static void log_used(const struct vhost_ring *r, uint16_t from)
{
    const uint64_t at = r->is.log_used;
    for (uint16_t i = from; i != r->used_idx; i++)
        vhost_log_guest(r->is.log, at + offsetof(struct virtq_used, ring[i & (r->size - 1)]),
                        sizeof(struct virtq_used_elem));
    vhost_log_guest(r->is.log, at, sizeof(struct virtq_used));
}

static void clear_batch(struct vhost_ring *r)
{
    struct vhost_inflight_split *in = r->inflight.split;
    struct vhost_slot *const *done = r->done;
    const unsigned n = r->ndone;
    for (unsigned i = 0; i < n; i++)
        vhost_inflight_put(&in->desc[done[i]->id].inflight, 0);
    vhost_inflight_put(&in->used_idx, r->used_idx);
}

/*
 * Publishes all that is done with one store of the index. Of the steps of the inflight region (vhost-user, "Inflight
 * I/O tracking"), 2 and 3 come before that store: a process that comes after us finds the batch then, and clears it.
 * 6 and 7 come after it.
 */
static void split_publish(struct vhost_ring *r)
{
    const uint16_t old = r->used_idx, mask = (uint16_t)(r->size - 1);
    const unsigned n = r->ndone;
    struct virtq_used *used = r->at.split.used;
    struct vhost_inflight_split *in = r->inflight.split;
    uint16_t last = in ? in->last_batch_head : 0;
    for (unsigned i = 0; i < n; i++) {
        const struct vhost_slot *s = r->done[i];
        used->ring[(old + i) & mask] = (struct virtq_used_elem){.id = plx_put32(s->id), .len = plx_put32(s->written)};
        if (in)
            in->desc[s->id].next = last;
        last = s->id;
    }
    if (in)
        in->last_batch_head = last;
    r->used_idx = (uint16_t)(old + n);
    shared_put(&used->idx, r->used_idx, __ATOMIC_RELEASE);
    if (in)
        clear_batch(r);
    if (plx_unlikely(r->is.log && r->is.logs_used))
        log_used(r, old);
    if (wants_signal(r, old))
        vhost_ring_signal(r);
}

static void split_notify(struct vhost_ring *r, bool on)
{
    if (!r->event_idx)
        shared_put(&r->at.split.used->flags, on ? 0 : VIRTQ_USED_NO_NOTIFY, __ATOMIC_RELAXED);
    else if (on)
        shared_put(avail_event(r), r->last_avail, __ATOMIC_RELAXED);
    if (on)
        atomic_thread_fence(memory_order_seq_cst); /* between that store, and the look whether there is something */
}

const struct vhost_ring_kind vhost_split = {
    .locate = split_locate,
    .begin = split_begin,
    .fetch = split_fetch,
    .take_again = split_take_again,
    .publish = split_publish,
    .waiting = split_waiting,
    .notify = split_notify,
    .base = split_base,
};
