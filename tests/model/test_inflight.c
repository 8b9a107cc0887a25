/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What is in flight when a process ends, whenever that is: the next one finds each request that was not published, in
 * the order in which they came, and none that was; and so does the one after that.
 */
#include "model.h"

#include "vhost/ring.h"

#include <string.h>

/* Memory is cleared word by word, each of which may be late. */
static void clear(void *at, size_t bytes);
#define memset(at, value, bytes) clear(at, bytes)
#include "vhost/inflight.c"
#undef memset
#include "vhost/packed.c"
#include "vhost/split.c"

#include <stdarg.h>

#include <setjmp.h>

#include <cmocka.h>

enum { SIZE = 4, REQUESTS = 3, BATCH = 2, FIRST = 2 };

/* ---- the device's surroundings, as far as rings need them ---- */

static struct vhost_slot slots[SIZE], *done[SIZE];
static uint16_t again[SIZE];

void vhost_ring_signal(struct vhost_ring *r)
{
    (void)r;
}

void vhost_ring_break(struct vhost_ring *r, const char *why)
{
    (void)r;
    model_hold(false, why);
}

bool vhost_slot_add_odd(struct vhost_ring *r, struct vhost_slot *s, uint64_t guest, uint32_t len, bool in)
{
    (void)r, (void)s, (void)guest, (void)len, (void)in;
    return false;
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
    vhost_ring_done(s, 1);
}

static void clear(void *at, size_t bytes)
{
    for (size_t i = 0; i < bytes / 8; i++)
        ((uint64_t *)at)[i] = 0;
}

/* ---- what the guest and the front-end have, which outlives us ---- */

static struct virtq_desc split_desc[SIZE];
static struct {
    plx_le16 flags, idx, ring[SIZE], event;
} avail;
static struct {
    plx_le16 flags, idx;
    struct virtq_used_elem ring[SIZE];
    plx_le16 event;
} used;
static struct virtq_packed_desc packed_desc[SIZE];
static struct virtq_event driver_event, device_event;
static struct {
    struct vhost_inflight_split in;
    struct vhost_inflight_split_entry desc[SIZE];
} split_region;
static struct {
    struct vhost_inflight_packed in;
    struct vhost_inflight_packed_entry desc[SIZE];
} packed_region;

static const uint16_t asked[REQUESTS] = {2, 0, 1}; /* in this order */

static struct vhost_ring ring_of(bool packed)
{
    static struct vhost_span all = {.size = UINT64_MAX};
    struct vhost_ring r = {.size = SIZE,
                           .packed = packed,
                           .view.last = &all,
                           .slots = slots,
                           .done = done,
                           .again = again,
                           .avail_wrap = true,
                           .used_wrap = true};
    if (packed) {
        r.base = FIRST * 0x10001u | VIRTQ_WRAP * 0x10001u;
        r.at.packed.desc = packed_desc;
        r.at.packed.driver = &driver_event;
        r.at.packed.device = &device_event;
        r.inflight.packed = &packed_region.in;
    } else {
        r.at.split.desc = split_desc;
        r.at.split.avail = (void *)&avail;
        r.at.split.used = (void *)&used;
        r.inflight.split = &split_region.in;
    }
    return r;
}

static void begin_split(void)
{
    memset(&avail, 0, sizeof avail);
    memset(&used, 0, sizeof used);
    memset(&split_region, 0, sizeof split_region);
    for (unsigned i = 0; i < SIZE; i++)
        split_desc[i] = (struct virtq_desc){.addr = plx_put64(64), .len = plx_put32(16)};
    for (unsigned i = 0; i < REQUESTS; i++)
        avail.ring[i] = plx_put16(asked[i]);
    avail.idx = plx_put16(REQUESTS);
    split_region.in.version = VHOST_INFLIGHT_VERSION; /* of a ring of another size, that had something in flight */
    split_region.in.desc_num = SIZE / 2;
    split_region.in.used_idx = 1;
    split_region.desc[1].inflight = 1;
    model_survives(&used, sizeof used);
    model_survives(&split_region, sizeof split_region);
    model_name(&used.idx, sizeof used.idx, "used.idx");
}

/* They go over the end of the ring: the last ones are of another lap. With chains the first request has two
 * descriptors. */
static struct virtq_packed_desc *desc_of(unsigned i)
{
    return &packed_desc[(FIRST + i) % SIZE];
}

static bool later(unsigned i)
{
    return FIRST + i >= SIZE;
}

static bool chains;

static unsigned descs_of(uint16_t id)
{
    return chains && id == asked[0] ? 2 : 1;
}

static void prepare_packed(bool with_chains)
{
    chains = with_chains;
    memset(packed_desc, 0, sizeof packed_desc);
    memset(&packed_region, 0, sizeof packed_region);
    memset(&device_event, 0, sizeof device_event);
    for (unsigned i = 0, at = 0; i < REQUESTS; i++)
        for (unsigned n = descs_of(asked[i]); n; n--, at++)
            *desc_of(at) = (struct virtq_packed_desc){
                .addr = plx_put64(64 + at),
                .len = plx_put32(16),
                .id = plx_put16(asked[i]),
                .flags = plx_put16(
                    (uint16_t)((later(at) ? VIRTQ_PACKED_USED : VIRTQ_PACKED_AVAIL) | (n > 1 ? VIRTQ_DESC_NEXT : 0)))};
    packed_region.in.version = VHOST_INFLIGHT_VERSION;
    packed_region.in.desc_num = SIZE / 2;
    packed_region.desc[1].inflight = packed_region.desc[1].num = 1;
    model_survives(packed_desc, sizeof packed_desc);
    model_survives(&packed_region, sizeof packed_region);
    for (unsigned i = 0; i < SIZE; i++)
        model_name(&packed_desc[i].flags, sizeof packed_desc[i].flags, "desc.flags");
}

static void begin_packed(void)
{
    prepare_packed(false);
}

static void begin_chains(void)
{
    prepare_packed(true);
}

/* ---- a life ---- */

/* How many requests the guest knows are done: those that it finds are right. */
static unsigned published_split(bool is[REQUESTS], unsigned *end)
{
    const unsigned n = *end = plx_get16(used.idx);
    MODEL_HOLD(n <= REQUESTS);
    for (unsigned i = 0; i < n; i++) {
        const uint32_t id = plx_get32(used.ring[i].id);
        MODEL_HOLD(id < REQUESTS && !is[id] && plx_get32(used.ring[i].len) == 1);
        is[id] = true;
    }
    return n;
}

static unsigned published_packed(bool is[REQUESTS], unsigned *end)
{
    unsigned n = 0, at = 0;
    for (; n < REQUESTS; n++) {
        const struct virtq_packed_desc *d = desc_of(at);
        const uint16_t flags = plx_get16(d->flags), id = plx_get16(d->id);
        if (!!(flags & VIRTQ_PACKED_USED) != !!(flags & VIRTQ_PACKED_AVAIL))
            break;
        MODEL_HOLD(!(flags & VIRTQ_PACKED_USED) == later(at));
        MODEL_HOLD(id < REQUESTS && !is[id] && plx_get32(d->len) == 1);
        is[id] = true;
        at += descs_of(id);
    }
    *end = (FIRST + at) % SIZE;
    return n;
}

/* What was fetched together is through in the other order. */
static void publish(const struct vhost_ring_kind *kind, struct vhost_ring *r)
{
    for (unsigned i = 0, k = r->ndone; i + 1 < k; i++) {
        struct vhost_slot *s = done[i];
        done[i] = done[--k];
        done[k] = s;
    }
    kind->publish(r);
    for (unsigned i = 0; i < r->ndone; i++)
        done[i]->busy = false;
    r->ndone = 0;
}

/* Which request comes next, of those that are not done. */
static void expect(const bool is[REQUESTS], unsigned *at, uint16_t id)
{
    while (*at < REQUESTS && is[asked[*at]])
        ++*at;
    MODEL_HOLD(*at < REQUESTS && asked[*at] == id);
    ++*at;
}

/* Where its data is, which a packed ring's descriptors say no more. */
static void expect_data(const struct vhost_slot *s, bool packed)
{
    const unsigned first = s->id == asked[0] ? 0 : (s->id == asked[1] ? 1 : 2) + chains;
    MODEL_HOLD(s->niov == (packed ? descs_of(s->id) : 1));
    for (unsigned i = 0; packed && i < s->niov; i++)
        MODEL_HOLD((uintptr_t)s->iov[i].iov_base == 64 + first + i && s->iov[i].iov_len == 16);
}

static inline __attribute__((always_inline)) void live(const struct vhost_ring_kind *kind, bool packed)
{
    struct vhost_ring r = ring_of(packed);
    bool is[REQUESTS] = {false};
    unsigned at = 0, end, n = packed ? published_packed(is, &end) : published_split(is, &end);
    memset(slots, 0, sizeof slots);
    kind->begin(&r);
    MODEL_HOLD(r.used_idx == end);
    while (r.again_next < r.nagain) {
        struct vhost_slot *s = kind->take_again(&r, again[r.again_next++]);
        expect(is, &at, s->id);
        expect_data(s, packed);
        vhost_slot_begin(&r, s);
        n++;
    }
    if (r.ndone)
        publish(kind, &r);
    while (kind->fetch(&r, BATCH)) {
        n += r.ndone;
        for (unsigned i = 0; i < r.ndone; i++)
            expect(is, &at, done[i]->id);
        publish(kind, &r);
    }
    MODEL_HOLD(n == REQUESTS);
    memset(is, 0, sizeof is);
    MODEL_HOLD((packed ? published_packed(is, &end) : published_split(is, &end)) == REQUESTS);
}

static void live_split(void)
{
    live(&vhost_split, false);
}

static void live_packed(void)
{
    live(&vhost_packed, true);
}

static const struct model_program split = {
    .name = "a split ring", .begin = begin_split, .life = live_split, .end = live_split, .ends = 2};
static const struct model_program packed = {
    .name = "a packed ring", .begin = begin_packed, .life = live_packed, .end = live_packed, .ends = 2};
static const struct model_program packed_chains = {
    .name = "chains in a packed ring", .begin = begin_chains, .life = live_packed, .end = live_packed};

static void test_no_request_is_lost_or_done_again_when_processes_end(void **state)
{
    (void)state;
    const struct model_program *const all[] = {&split, &packed, &packed_chains, NULL};
    assert_int_equal(model_suite("requests in flight", all, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_no_request_is_lost_or_done_again_when_processes_end)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
