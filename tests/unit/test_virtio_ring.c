/* SPDX-License-Identifier: BSD-3-Clause */
/* Virtqueues against a device that is written here from virtio 1.2, 2.7 and 2.8, and against one that lies. */
#include "bdev/driver/virtio_ring.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

enum { SLOTS_MAX = 1024, TABLE = 4 };

/* ---- a device ---- */

struct device {
    struct vio_ring ring; /* the driver's; the device looks at its memory alone */
    struct vio_ring_opts o;
    void *mem;
    uint64_t out[SLOTS_MAX / 64];
    struct vio_desc tables[SLOTS_MAX][TABLE];
    uint16_t avail, used; /* where it is */
    bool avail_wrap, used_wrap;
    uint32_t had[SLOTS_MAX]; /* identifiers that it has taken, and not given back */
    unsigned nhad;
};

static struct device dev;

static void device_open(unsigned slots, bool indirect, bool packed, bool event_idx)
{
    memset(&dev, 0, sizeof dev);
    dev.o = (struct vio_ring_opts){
        .slots = (uint16_t)slots, .indirect = indirect, .packed = packed, .event_idx = event_idx};
    dev.mem = aligned_alloc(VIO_RING_ALIGN, plx_align_up(vio_ring_bytes(&dev.o), VIO_RING_ALIGN));
    assert_non_null(dev.mem);
    vio_ring_init(&dev.ring, &dev.o, dev.mem, dev.out);
    dev.avail_wrap = dev.used_wrap = true;
}

static void device_close(void)
{
    free(dev.mem);
}

static bool packed_take(void)
{
    const struct vio_packed_desc *d = &dev.ring.packed[dev.avail];
    unsigned flags = plx_get16(d->flags);
    bool avail = flags & VIO_DESC_AVAIL, used = flags & VIO_DESC_USED;
    if (avail != dev.avail_wrap || used == dev.avail_wrap)
        return false;
    assert_true(flags & VIO_DESC_INDIRECT);
    assert_int_equal(plx_get64(d->addr), (uintptr_t)dev.tables[plx_get16(d->id)]);
    assert_int_equal(plx_get32(d->len), 3 * sizeof(struct vio_desc));
    dev.had[dev.nhad++] = plx_get16(d->id);
    if (++dev.avail == dev.ring.size) {
        dev.avail = 0;
        dev.avail_wrap = !dev.avail_wrap;
    }
    return true;
}

static bool split_take(void)
{
    if (dev.avail == plx_get16(dev.ring.avail->idx))
        return false;
    uint32_t head = plx_get16(dev.ring.avail->ring[dev.avail++ & (dev.ring.size - 1u)]);
    const struct vio_desc *d = &dev.ring.desc[head];
    if (dev.o.indirect) {
        assert_true(plx_get16(d->flags) & VIO_DESC_INDIRECT);
        assert_int_equal(plx_get64(d->addr), (uintptr_t)dev.tables[head]);
        assert_int_equal(plx_get32(d->len), 3 * sizeof *d);
    }
    dev.had[dev.nhad++] = head;
    return true;
}

static unsigned device_take_all(void)
{
    unsigned n = 0;
    while (dev.o.packed ? packed_take() : split_take())
        n++;
    return n;
}

static void device_use(uint32_t id)
{
    if (dev.o.packed) {
        struct vio_packed_desc *d = &dev.ring.packed[dev.used];
        d->id = plx_put16(id);
        d->flags = plx_put16(dev.used_wrap ? VIO_DESC_AVAIL | VIO_DESC_USED : 0);
        if (++dev.used == dev.ring.size) {
            dev.used = 0;
            dev.used_wrap = !dev.used_wrap;
        }
        return;
    }
    dev.ring.used->ring[dev.used & (dev.ring.size - 1u)] = (struct vio_used_elem){.id = plx_put32(id)};
    dev.ring.used->idx = plx_put16(++dev.used);
}

/* Whether a device that has just used one calls: 2.7.7.2, 2.8.10. */
static bool device_calls(uint16_t before)
{
    if (dev.o.packed)
        return plx_get16(dev.ring.driver_event->flags) != VIO_EVENT_DISABLE;
    if (!dev.o.event_idx)
        return !(plx_get16(dev.ring.avail->flags) & VIO_NO_INTERRUPT);
    uint16_t event = plx_get16(dev.ring.avail->ring[dev.ring.size]);
    return (uint16_t)(dev.used - event - 1) < (uint16_t)(dev.used - before);
}

static void device_wants_kick_at(uint16_t idx)
{
    plx_le16 *event = (plx_le16 *)(void *)&dev.ring.used->ring[dev.ring.size];
    *event = plx_put16(idx);
}

static void add(unsigned slot)
{
    vio_ring_add(&dev.ring, slot, dev.o.indirect ? dev.tables[slot] : NULL, 3);
}

static int reap_slot(void)
{
    return vio_ring_reap(&dev.ring);
}

static uint32_t random_of(uint64_t *state, uint32_t n)
{
    *state = *state * UINT64_C(6364136223846793005) + 1;
    return (uint32_t)(*state >> 33) % n;
}

/* ---- rings of every kind, over and over their end ---- */

/* Batches of random sizes go out, and come back in another order, until indices have wrapped several times. */
static void run_batches(unsigned slots, bool indirect, bool packed, unsigned rounds)
{
    uint64_t seed = slots;
    uint16_t free_slots[SLOTS_MAX];
    unsigned nfree = slots, seen = 0, sent = 0;
    device_open(slots, indirect, packed, true);
    for (unsigned i = 0; i < slots; i++)
        free_slots[i] = (uint16_t)i;
    for (unsigned round = 0; round < rounds; round++) {
        unsigned n = random_of(&seed, nfree + 1), back;
        for (unsigned i = 0; i < n; i++)
            add(free_slots[--nfree]);
        assert_int_equal(device_take_all(), 0); /* it is shown nothing yet */
        if (vio_ring_hides(&dev.ring))
            vio_ring_show(&dev.ring);
        assert_int_equal(device_take_all(), n);
        sent += n;
        for (back = random_of(&seed, dev.nhad + 1); back > 0; back--) {
            unsigned pick = random_of(&seed, dev.nhad);
            uint32_t id = dev.had[pick];
            dev.had[pick] = dev.had[--dev.nhad];
            device_use(id);
            if (random_of(&seed, 2))
                continue;
            int slot = reap_slot();
            assert_true(slot >= 0);
            free_slots[nfree++] = (uint16_t)slot;
            seen++;
        }
        for (int slot; (slot = reap_slot()) != VIO_RING_NONE; seen++) {
            assert_true(slot >= 0);
            free_slots[nfree++] = (uint16_t)slot;
        }
        assert_int_equal(dev.ring.busy, slots - nfree);
    }
    assert_int_equal(sent - seen, dev.nhad);
    assert_true(sent > 2 * 65536);
    device_close();
}

static void test_split_rings_wrap_at_the_end_of_indices(void **state)
{
    (void)state;
    run_batches(128, true, false, 8000);
    run_batches(16, true, false, 40000);
}

static void test_rings_without_indirect_descriptors_wrap(void **state)
{
    (void)state;
    run_batches(85, false, false, 8000);
    run_batches(5, false, false, 100000);
}

static void test_packed_rings_wrap(void **state)
{
    (void)state;
    run_batches(128, true, true, 8000);
    run_batches(16, true, true, 40000);
}

/* ---- kicks and calls ---- */

static void test_the_device_is_kicked_where_it_asked_to_be(void **state)
{
    (void)state;
    device_open(16, true, false, true);
    dev.ring.added = dev.ring.shown = 0xfffe; /* across the end of indices */
    device_wants_kick_at(0xffff);
    add(0);
    assert_false(vio_ring_show(&dev.ring)); /* 0xffff: not passed yet */
    add(1);
    add(2);
    assert_true(vio_ring_show(&dev.ring));
    add(3);
    assert_false(vio_ring_show(&dev.ring));
    device_close();
}

static void test_the_device_is_not_kicked_while_it_says_so(void **state)
{
    (void)state;
    device_open(16, true, false, false);
    add(0);
    assert_true(vio_ring_show(&dev.ring));
    dev.ring.used->flags = plx_put16(VIO_NO_NOTIFY);
    add(1);
    assert_false(vio_ring_show(&dev.ring));
    device_close();
}

static void test_a_packed_device_is_kicked_where_it_asked_to_be(void **state)
{
    (void)state;
    device_open(16, true, true, true);
    for (unsigned i = 0; i < 15; i++) {
        add(i);
        vio_ring_show(&dev.ring);
    }
    dev.ring.device_event->flags = plx_put16(VIO_EVENT_DESC);
    dev.ring.device_event->off_wrap = plx_put16(0); /* the first entry, once the ring has wrapped */
    device_take_all();
    for (unsigned i = 0; i < 15; i++)
        device_use(i);
    while (reap_slot() >= 0)
        ;
    add(0);
    assert_false(vio_ring_show(&dev.ring)); /* the last entry */
    add(1);
    assert_true(vio_ring_show(&dev.ring));
    add(2);
    assert_false(vio_ring_show(&dev.ring));
    dev.ring.device_event->flags = plx_put16(VIO_EVENT_DISABLE);
    add(3);
    assert_false(vio_ring_show(&dev.ring));
    dev.ring.device_event->flags = plx_put16(VIO_EVENT_ENABLE);
    add(4);
    assert_true(vio_ring_show(&dev.ring));
    device_close();
}

/* The batch goes over the end of the ring, and the entry lies before that. */
static void test_a_packed_device_is_kicked_for_an_entry_of_the_lap_before(void **state)
{
    (void)state;
    device_open(16, true, true, true);
    for (unsigned i = 0; i < 15; i++)
        add(i);
    vio_ring_show(&dev.ring);
    device_take_all();
    for (unsigned i = 0; i < 15; i++)
        device_use(i);
    while (reap_slot() >= 0)
        ;
    dev.ring.device_event->flags = plx_put16(VIO_EVENT_DESC);
    dev.ring.device_event->off_wrap = plx_put16(15 | 1 << 15);
    for (unsigned i = 0; i < 3; i++)
        add(i);
    assert_true(vio_ring_show(&dev.ring));
    add(3);
    assert_false(vio_ring_show(&dev.ring));
    device_close();
}

static void check_calls(bool packed, bool event_idx)
{
    device_open(16, true, packed, event_idx);
    for (unsigned i = 0; i < 4; i++)
        add(i);
    vio_ring_show(&dev.ring);
    device_take_all();
    device_use(0);
    assert_false(device_calls(0));        /* who polls is not called */
    assert_true(vio_ring_arm(&dev.ring)); /* there is one: no sleep */
    assert_int_equal(reap_slot(), 0);
    assert_false(vio_ring_arm(&dev.ring));
    device_use(1);
    assert_true(device_calls(1));
    assert_true(vio_ring_ready(&dev.ring));
    vio_ring_disarm(&dev.ring);
    assert_int_equal(reap_slot(), 1);
    device_use(2);
    assert_false(device_calls(2));
    device_close();
}

static void test_the_device_calls_who_sleeps_and_nobody_else(void **state)
{
    (void)state;
    check_calls(false, true);
    check_calls(false, false);
    check_calls(true, false);
}

/* ---- devices that lie ---- */

static void check_lies(bool indirect, bool packed)
{
    const unsigned stride = indirect ? 1 : VIO_DIRECT;
    const uint32_t lies[] = {1 * stride, 5 * stride, 0xffff, indirect ? 16 : 2};
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(lies); i++) {
        device_open(5, indirect, packed, true);
        add(0);
        add(1);
        vio_ring_show(&dev.ring);
        device_take_all();
        device_use(1 * stride);
        assert_int_equal(reap_slot(), 1);
        device_use(lies[i]); /* not sent, no slot, nothing at all, within a slot */
        assert_int_equal(reap_slot(), VIO_RING_BROKEN);
        assert_true(vio_ring_has(&dev.ring, 0));
        device_close();
    }
}

static void test_what_was_not_sent_does_not_come_back(void **state)
{
    (void)state;
    check_lies(true, false);
    check_lies(false, false);
    check_lies(true, true);
}

static void test_an_index_that_jumps_ahead_is_found_out(void **state)
{
    (void)state;
    device_open(16, true, false, true);
    add(3);
    vio_ring_show(&dev.ring);
    dev.ring.used->ring[0].id = plx_put32(3);
    dev.ring.used->idx = plx_put16(40000);
    assert_int_equal(reap_slot(), 3);
    assert_int_equal(reap_slot(), VIO_RING_BROKEN);
    device_close();
}

/* ---- beginning anew ---- */

static void check_restart(bool packed)
{
    struct vu_vring_addr addr;
    device_open(16, true, packed, true);
    for (unsigned i = 0; i < 12; i++)
        add(i);
    vio_ring_show(&dev.ring);
    device_take_all();
    for (unsigned i = 0; i < 8; i++)
        device_use(i);
    for (unsigned i = 0; i < 7; i++)
        assert_int_equal(reap_slot(), i);
    vio_ring_addr(&dev.ring, &addr);
    assert_int_equal(vio_ring_base(&dev.ring), packed ? 0x80078007 : 8); /* a packed ring: as far as we have seen */
    vio_ring_restart(&dev.ring);
    assert_int_equal(vio_ring_base(&dev.ring), packed ? 0x80008000 : 0);
    assert_false(vio_ring_ready(&dev.ring));
    dev.avail = dev.used = 0;
    dev.nhad = 0;
    add(7);
    add(11);
    vio_ring_show(&dev.ring);
    assert_int_equal(device_take_all(), 2);
    assert_int_equal(dev.had[1], 11);
    device_use(11);
    assert_int_equal(reap_slot(), 11);
    device_close();
}

static void test_a_ring_that_begins_anew_is_empty(void **state)
{
    (void)state;
    check_restart(false);
    check_restart(true);
}

static void test_sizes_are_powers_of_two_within_limits(void **state)
{
    (void)state;
    assert_int_equal(vio_ring_size(&(struct vio_ring_opts){.slots = 1, .indirect = true}), 16);
    assert_int_equal(vio_ring_size(&(struct vio_ring_opts){.slots = 129, .indirect = true}), 256);
    assert_int_equal(vio_ring_size(&(struct vio_ring_opts){.slots = 128}), 512);
    assert_int_equal(vio_ring_size(&(struct vio_ring_opts){.slots = 341}), 1024);
    assert_int_equal(vio_ring_size(&(struct vio_ring_opts){.slots = 342}), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_split_rings_wrap_at_the_end_of_indices),
        cmocka_unit_test(test_rings_without_indirect_descriptors_wrap),
        cmocka_unit_test(test_packed_rings_wrap),
        cmocka_unit_test(test_the_device_is_kicked_where_it_asked_to_be),
        cmocka_unit_test(test_the_device_is_not_kicked_while_it_says_so),
        cmocka_unit_test(test_a_packed_device_is_kicked_where_it_asked_to_be),
        cmocka_unit_test(test_a_packed_device_is_kicked_for_an_entry_of_the_lap_before),
        cmocka_unit_test(test_the_device_calls_who_sleeps_and_nobody_else),
        cmocka_unit_test(test_what_was_not_sent_does_not_come_back),
        cmocka_unit_test(test_an_index_that_jumps_ahead_is_found_out),
        cmocka_unit_test(test_a_ring_that_begins_anew_is_empty),
        cmocka_unit_test(test_sizes_are_powers_of_two_within_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
