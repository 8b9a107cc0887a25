/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What is in flight, in memory that outlives the process (vhost-user, "Inflight I/O tracking"). Steps are numbered as
 * they are there. Others may write this memory at any time: no number of it is used before it was looked at.
 *
 * Orders, of which tests/model/test_inflight.c finds that they are needed and enough, wherever a life ends, and the
 * next one again: see vhost_inflight_step(). What is published is ordered by the ring's own release.
 */
#include "vhost/ring.h"

#include <stdlib.h>
#include <string.h>

uint64_t vhost_inflight_bytes(unsigned queue_size, bool packed)
{
    const uint64_t bytes =
        packed ? sizeof(struct vhost_inflight_packed) + queue_size * sizeof(struct vhost_inflight_packed_entry)
               : sizeof(struct vhost_inflight_split) + queue_size * sizeof(struct vhost_inflight_split_entry);
    return plx_align_up(bytes, VHOST_INFLIGHT_ALIGN); /* nowhere written, but what others do */
}

/* ---- what was in flight, in the order in which it came ---- */

struct found {
    uint64_t counter;
    uint16_t which;
};

static int by_counter(const void *a, const void *b)
{
    const struct found *x = a, *y = b;
    return x->counter < y->counter ? -1 : x->counter > y->counter;
}

/* All of them are done before anything new is fetched, and what is new counts on from there. */
static void do_again(struct vhost_ring *r, struct found *found, unsigned n)
{
    qsort(found, n, sizeof found[0], by_counter);
    for (unsigned i = 0; i < n; i++)
        r->again[i] = found[i].which;
    r->nagain = (uint16_t)n;
    r->counter = n ? found[n - 1].counter + 1 : 0;
}

/* ---- split ---- */

/* A region that was not used yet, or by a ring of another size; its version last, as before that it says nothing. */
static void fresh_split(struct vhost_ring *r)
{
    struct vhost_inflight_split *in = r->inflight.split;
    in->version = 0;
    vhost_inflight_step();
    in->features = r->is.features;
    in->desc_num = r->size;
    in->last_batch_head = 0;
    in->used_idx = r->used_idx; /* the ring may have been used before */
    memset(in->desc, 0, r->size * sizeof in->desc[0]);
    vhost_inflight_put(&in->version, VHOST_INFLIGHT_VERSION);
}

/* The last batch was published, but perhaps not cleared. */
static bool finish_batch(struct vhost_ring *r)
{
    struct vhost_inflight_split *in = r->inflight.split;
    uint16_t n = (uint16_t)(r->used_idx - in->used_idx), head = in->last_batch_head;
    if (n > r->size)
        n = 0; /* of another life of this ring, which was drained */
    for (; n; n--) {
        if (head >= r->size)
            return false;
        in->desc[head].inflight = 0;
        head = in->desc[head].next;
    }
    vhost_inflight_put(&in->used_idx, r->used_idx);
    return true;
}

bool vhost_inflight_begin_split(struct vhost_ring *r)
{
    struct vhost_inflight_split *in = r->inflight.split;
    struct found found[VHOST_RING_MAX];
    unsigned n = 0;
    if (in->version != VHOST_INFLIGHT_VERSION || in->desc_num != r->size) {
        fresh_split(r);
        r->counter = 0;
        return true;
    }
    if (!finish_batch(r))
        return false;
    for (uint16_t i = 0; i < r->size; i++)
        if (in->desc[i].inflight)
            found[n++] = (struct found){in->desc[i].counter, i};
    do_again(r, found, n);
    r->last_avail = (uint16_t)(r->used_idx + n);
    return true;
}

/* ---- packed ---- */

static void fresh_packed(struct vhost_ring *r)
{
    struct vhost_inflight_packed *in = r->inflight.packed;
    in->version = 0;
    vhost_inflight_step();
    in->features = r->is.features;
    in->desc_num = r->size;
    in->free_head = in->old_free_head = 0;
    in->used_idx = in->old_used_idx = r->used_idx;
    in->used_wrap = in->old_used_wrap = r->used_wrap;
    memset(in->desc, 0, r->size * sizeof in->desc[0]);
    for (uint16_t i = 0; i < r->size; i++)
        in->desc[i].next = (uint16_t)(i + 1);
    vhost_inflight_put(&in->version, VHOST_INFLIGHT_VERSION);
}

static void keep_packed(struct vhost_inflight_packed *in)
{
    in->old_free_head = in->free_head;
    vhost_inflight_put(&in->old_used_idx, in->used_idx);
    in->old_used_wrap = in->used_wrap;
}

/* Steps 1 to 3 of a reconnection. */
static bool settle_packed(struct vhost_ring *r)
{
    struct vhost_inflight_packed *in = r->inflight.packed;
    const volatile struct vhost_inflight_packed *shared = in; /* each is read once, and used as it was read */
    const uint16_t used_idx = shared->used_idx;
    const bool used_wrap = shared->used_wrap;
    uint16_t idx = shared->old_used_idx;
    bool wrap = shared->old_used_wrap;
    if (used_idx >= r->size || idx >= r->size)
        return false;
    if (used_idx != idx || used_wrap != wrap) {
        const uint16_t flags = plx_get16(r->at.packed.desc[idx].flags);
        const uint16_t available = wrap ? VIRTQ_PACKED_AVAIL : VIRTQ_PACKED_USED;
        if ((flags & (VIRTQ_PACKED_AVAIL | VIRTQ_PACKED_USED)) != available) {
            keep_packed(in);
            idx = used_idx;
            wrap = used_wrap;
        }
    }
    in->free_head = in->old_free_head;
    in->used_idx = idx;
    in->used_wrap = wrap;
    uint16_t i = in->free_head;
    for (unsigned left = r->size; left && i < r->size; left--) {
        in->desc[i].inflight = 0;
        i = in->desc[i].next;
    }
    r->used_idx = idx;
    r->used_wrap = wrap;
    return true;
}

bool vhost_inflight_begin_packed(struct vhost_ring *r)
{
    const struct vhost_inflight_packed *in = r->inflight.packed;
    struct found found[VHOST_RING_MAX];
    unsigned n = 0, descs = 0;
    if (in->version != VHOST_INFLIGHT_VERSION || in->desc_num != r->size) {
        fresh_packed(r);
        r->counter = 0;
        return true;
    }
    if (!settle_packed(r))
        return false;
    for (uint16_t i = 0; i < r->size; i++) {
        if (!in->desc[i].inflight)
            continue;
        found[n++] = (struct found){in->desc[i].counter, i};
        descs += in->desc[i].num;
    }
    if (descs > r->size)
        return false;
    do_again(r, found, n);
    const unsigned end = r->used_idx + descs;
    r->last_avail = (uint16_t)(end % r->size);
    r->avail_wrap = r->used_wrap ^ (end >= r->size);
    return true;
}

void vhost_inflight_fetched_packed(struct vhost_ring *r, struct vhost_slot *s, const struct vhost_desc *d, bool last)
{
    struct vhost_inflight_packed *in = r->inflight.packed;
    const uint16_t head = in->old_free_head, at = in->free_head;
    if (head >= r->size || at >= r->size) {
        vhost_ring_break(r, "a region of requests in flight that says what cannot be");
        return;
    }
    struct vhost_inflight_packed_entry *h = &in->desc[head], *e = &in->desc[at];
    if (head == at) { /* the first of the chain */
        h->num = 0;
        h->counter = r->counter++;
        vhost_inflight_put(&h->inflight, 1);
        s->entry = head;
    }
    if (last)
        h->last = at;
    h->num++;
    e->addr = d->addr;
    e->len = d->len;
    e->flags = d->end;
    e->id = d->mid;
    in->free_head = e->next;
    if (last)
        vhost_inflight_put(&in->old_free_head, in->free_head);
}

/* Steps 3 and 4 of a completion, and what of step 6 is this request's. */
void vhost_inflight_done_packed(struct vhost_ring *r, const struct vhost_slot *s)
{
    struct vhost_inflight_packed *in = r->inflight.packed;
    const uint16_t last = in->desc[s->entry].last;
    if (last < r->size)
        in->desc[last].next = in->free_head;
    in->free_head = s->entry;
}

/* Steps 8 and 9. */
void vhost_inflight_published_packed(struct vhost_ring *r)
{
    struct vhost_inflight_packed *in = r->inflight.packed;
    for (unsigned i = 0; i < r->ndone; i++)
        vhost_inflight_put(&in->desc[r->done[i]->entry].inflight, 0);
    keep_packed(in);
}
