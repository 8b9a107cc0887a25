/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * When a guest is called: at the one request that it named (virtio 1.2, 2.7.7 and 2.8.10), wherever the ring is, and
 * however many are published with it; and at no other. Each case there is, on small rings, against the definition.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vhost_rig.h"

enum { LONGEST = 3, TABLE = 64, MOST = 8 };

static struct plx_bdev *bdev;
static struct rig rig;
static int call;

/* What the guest has done with the ring so far: of packed ones, entries that it has made available. */
static struct guest {
    unsigned size, at;
    uint16_t id;
    bool packed;
} guest;

static unsigned calls(void)
{
    uint64_t n = 0;
    return read(call, &n, sizeof n) == sizeof n ? (unsigned)n : 0;
}

/* A request of each length: header, `length - 2` bytes of its answer in pieces, status. */
static const struct {
    uint32_t at, len;
    bool in;
} pieces[LONGEST] = {{0, sizeof(struct virtio_blk_head), false}, {32, 1, true}, {33, 1, true}};

static void begin(unsigned size, bool packed, uint64_t more, uint32_t base)
{
    const struct virtio_blk_head head = {.type = plx_put32(VIRTIO_BLK_GET_ID)};
    guest = (struct guest){.size = size, .packed = packed};
    rig_begin(&rig, bdev, size,
              VHOST_BIT(VIRTIO_F_VERSION_1) | VHOST_BIT(VIRTIO_F_INDIRECT_DESC) |
                  (packed ? VHOST_BIT(VIRTIO_F_RING_PACKED) : 0) | more,
              false);
    memcpy(rig.memory + RIG_DATA, &head, sizeof head);
    call = rig.ring.want.call = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    assert_int_equal(rig_start(&rig, base), 0);
    assert_int_equal(calls(), 1); /* what came before may not have been told */
}

static void end(void)
{
    rig_stop(&rig);
    rig_end(&rig);
    close(call);
}

/* ---- packed rings ---- */

static bool wrap_of(unsigned position)
{
    return position / guest.size % 2 == 0;
}

/* A request of one entry, which has a table of its own, or of several. */
static void packed_add(unsigned entries)
{
    struct virtq_packed_desc *ring = (void *)(rig.memory + RIG_DESC), *table = (void *)(rig.memory + RIG_DATA + TABLE);
    const uint16_t id = guest.id++ % guest.size;
    const unsigned n = entries == 1 ? 2 : entries;
    for (unsigned i = 0; i < n; i++) {
        const unsigned at = guest.at + i;
        struct virtq_packed_desc *d = entries == 1 ? &table[i] : &ring[at % guest.size];
        const unsigned flags = (i + 1 < entries ? VIRTQ_DESC_NEXT : 0) | (pieces[i].in ? VIRTQ_DESC_WRITE : 0) |
                               (wrap_of(at) ? VIRTQ_PACKED_AVAIL : VIRTQ_PACKED_USED);
        *d = (struct virtq_packed_desc){plx_put64(RIG_GUEST + RIG_DATA + pieces[i].at), plx_put32(pieces[i].len),
                                        plx_put16(id), plx_put16(flags)};
    }
    if (entries == 1)
        ring[guest.at % guest.size] = (struct virtq_packed_desc){
            plx_put64(RIG_GUEST + RIG_DATA + TABLE), plx_put32(2 * sizeof *table), plx_put16(id),
            plx_put16(VIRTQ_DESC_INDIRECT | (wrap_of(guest.at) ? VIRTQ_PACKED_AVAIL : VIRTQ_PACKED_USED))};
    guest.at += entries;
}

static void packed_event(unsigned flags, unsigned offset, bool wrap)
{
    struct virtq_event *driver = (void *)(rig.memory + RIG_AVAIL);
    driver->off_wrap = plx_put16(offset | (wrap ? VIRTQ_WRAP : 0));
    driver->flags = plx_put16(flags);
}

static void packed_check_used(unsigned from)
{
    const struct virtq_packed_desc *d = (void *)(rig.memory + RIG_DESC);
    const uint16_t flags = plx_get16(d[from % guest.size].flags);
    assert_int_equal(!!(flags & VIRTQ_PACKED_AVAIL), wrap_of(from));
    assert_int_equal(!!(flags & VIRTQ_PACKED_USED), wrap_of(from));
}

/* Whether one of the entries from..to-1 is the one that is named. */
static bool packed_hits(unsigned from, unsigned to, unsigned offset, bool wrap)
{
    for (unsigned at = from; at < to; at++)
        if (at % guest.size == offset && wrap_of(at) == wrap)
            return true;
    return false;
}

/* So many requests at once, of so many entries each. */
static void packed_batch(unsigned requests, unsigned entries, unsigned offset, bool wrap)
{
    const unsigned from = guest.at;
    packed_event(VIRTQ_EVENT_DESC, offset, wrap);
    for (unsigned i = 0; i < requests; i++)
        packed_add(entries);
    rig_poll(&rig);
    packed_check_used(from);
    const unsigned want = packed_hits(from, guest.at, offset, wrap), got = calls();
    if (got != want)
        fail_msg("ring of %u, from %u to %u, event at %u with wrap %d: %u calls, not %u", guest.size, from, guest.at,
                 offset, wrap, got, want);
}

/* Leads to each place of the ring with each number of requests, and each event there is. */
static void packed_all(unsigned size, unsigned entries)
{
    begin(size, true, VHOST_BIT(VIRTIO_F_EVENT_IDX), 1u << 15 | 1u << 31);
    for (unsigned n = 1; n * entries <= size; n++)
        for (unsigned event = 0; event < 2 * size; event++)
            for (unsigned place = 0; place < 2 * size; place++) {
                packed_batch(n, entries, event % size, event < size);
                if (guest.at % (2 * size) == place) /* n goes round without it */
                    packed_batch(1, 1, event % size, event < size);
            }
    assert_int_equal(rig.troubles, 0);
    end();
}

static void packed_rings_call_at_the_request_that_is_named(void **state)
{
    (void)state;
    for (unsigned size = 1; size <= MOST; size++)
        packed_all(size, 1);
    packed_all(32, 1);
}

/* An event may name an entry within a request, that the device skips. */
static void also_where_requests_have_several_entries(void **state)
{
    (void)state;
    for (unsigned size = 2; size <= MOST; size++)
        for (unsigned entries = 2; entries <= LONGEST && entries <= size; entries++)
            packed_all(size, entries);
}

static void packed_rings_call_always_or_never_when_told_so(void **state)
{
    (void)state;
    begin(4, true, VHOST_BIT(VIRTIO_F_EVENT_IDX), 1u << 15 | 1u << 31);
    for (unsigned i = 0; i < 20; i++) {
        const bool on = i / 5 % 2;
        packed_event(on ? VIRTQ_EVENT_ENABLE : VIRTQ_EVENT_DISABLE, i % 4, i % 2);
        packed_add(1);
        rig_poll(&rig);
        assert_int_equal(calls(), on);
    }
    end();
}

/* Which a driver must not do; it is called rather than left waiting. */
static void an_event_that_was_not_agreed_on_means_nothing(void **state)
{
    (void)state;
    begin(4, true, 0, 1u << 15 | 1u << 31);
    for (unsigned i = 0; i < 10; i++) {
        packed_event(VIRTQ_EVENT_DESC, 3, false);
        packed_add(1);
        rig_poll(&rig);
        assert_int_equal(calls(), 1);
    }
    end();
}

/* ---- split rings ---- */

static void split_batch(unsigned n, uint16_t event)
{
    struct virtq_avail *avail = (void *)(rig.memory + RIG_AVAIL);
    const uint16_t from = (uint16_t)guest.at, to = (uint16_t)(from + n);
    avail->ring[guest.size] = plx_put16(event);
    for (uint16_t i = from; i != to; i++)
        avail->ring[i % guest.size] = plx_put16(2 * (i % (guest.size / 2)));
    __atomic_store_n(&avail->idx.raw, htole16(to), __ATOMIC_RELEASE);
    guest.at = to;
    rig_poll(&rig);
    const struct virtq_used *used = (void *)(rig.memory + RIG_USED);
    assert_int_equal(plx_get16(used->idx), to);
    const unsigned want = (uint16_t)(event - from) < n, got = calls();
    if (got != want)
        fail_msg("from %u to %u, event at %u: %u calls, not %u", from, to, event, got, want);
}

/* A ring that was used for long: its next request is number `from`. */
static void split_begin_at(uint16_t from)
{
    begin(16, false, VHOST_BIT(VIRTIO_F_EVENT_IDX), 0);
    rig_stop(&rig);
    struct virtq_desc *desc = (void *)(rig.memory + RIG_DESC);
    struct virtq_used *used = (void *)(rig.memory + RIG_USED);
    for (unsigned i = 0; i < 16; i++)
        desc[i] = (struct virtq_desc){plx_put64(RIG_GUEST + RIG_DATA + pieces[i % 2].at), plx_put32(pieces[i % 2].len),
                                      plx_put16(i % 2 ? VIRTQ_DESC_WRITE : VIRTQ_DESC_NEXT), plx_put16(i + 1)};
    ((struct virtq_avail *)(void *)(rig.memory + RIG_AVAIL))->idx = used->idx = plx_put16(from);
    guest.at = from;
    assert_int_equal(rig_start(&rig, from), 0);
    assert_int_equal(calls(), 1);
}

/* Around the end of the 16 bits that indices have. */
static void split_rings_call_at_the_request_that_is_named(void **state)
{
    (void)state;
    for (unsigned n = 1; n <= 8; n++)
        for (int event = -20; event <= 20; event++) {
            split_begin_at((uint16_t)-24);
            for (unsigned done = 0; done < 48; done += n)
                split_batch(n, (uint16_t)event);
            end();
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packed_rings_call_at_the_request_that_is_named),
        cmocka_unit_test(also_where_requests_have_several_entries),
        cmocka_unit_test(packed_rings_call_always_or_never_when_told_so),
        cmocka_unit_test(an_event_that_was_not_agreed_on_means_nothing),
        cmocka_unit_test(split_rings_call_at_the_request_that_is_named),
    };
    struct plx_error err;
    if (plx_bdev_open("null:1M", &bdev, &err))
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    plx_bdev_close(bdev);
    return failed;
}
