/* SPDX-License-Identifier: BSD-3-Clause */
/* Split virtqueues, our driver's end against our device's: no request is lost, half seen, or slept through. */
#include "rings.h"

#include "vhost/split.c"

#include <stdarg.h>

#include <setjmp.h>

#include <cmocka.h>
#include <string.h>

static struct vio_desc descs[RING_SIZE];
static struct {
    plx_le16 flags, idx, ring[RING_SIZE], event;
} avail;
static struct {
    plx_le16 flags, idx;
    struct virtq_used_elem ring[RING_SIZE];
    plx_le16 event;
} used;
static bool event_idx;

static void begin(void)
{
    memset(&avail, 0, sizeof avail);
    memset(&used, 0, sizeof used);
    memset(data, 0, sizeof data);
    kick = call = 0;
    for (unsigned i = 0; i < RING_SIZE; i++)
        descs[i] = (struct vio_desc){.addr = plx_put64(64), .len = plx_put32(16)};
    model_cells(used.ring, sizeof used.ring, 4);
    model_name(data, sizeof data, "data");
    model_name(&avail.flags, sizeof avail.flags, "avail.flags");
    model_name(&avail.idx, sizeof avail.idx, "avail.idx");
    model_name(&avail.event, sizeof avail.event, "used_event");
    model_name(avail.ring, sizeof avail.ring, "avail.ring");
    model_name(&used.flags, sizeof used.flags, "used.flags");
    model_name(&used.idx, sizeof used.idx, "used.idx");
    model_name(&used.event, sizeof used.event, "avail_event");
    model_name(used.ring, sizeof used.ring, "used.ring");
}

static void begin_event(void)
{
    event_idx = true;
    begin();
}

static void begin_flags(void)
{
    event_idx = false;
    begin();
    avail.flags = plx_put16(VIO_NO_INTERRUPT); /* vio_ring_restart() */
    used.flags = plx_put16(VIRTQ_USED_NO_NOTIFY);
}

static struct vio_ring driver_ring(uint64_t *out)
{
    return (struct vio_ring){.desc = descs,
                             .avail = (void *)&avail,
                             .used = (void *)&used,
                             .out = out,
                             .size = RING_SIZE,
                             .slots = RING_SIZE,
                             .stride = 1,
                             .event_idx = event_idx};
}

static void add(struct vio_ring *r, unsigned slot)
{
    data[slot] = 10 + slot;
    vio_ring_add(r, slot, NULL, 1);
}

/* Only what goes to the device: two one after the other. */
static void driver_that_asks_twice(void)
{
    uint64_t out = 0;
    struct vio_ring r = driver_ring(&out);
    for (unsigned slot = 0; slot < 2; slot++) {
        add(&r, slot);
        if (vio_ring_show(&r))
            model_tell(&kick);
    }
}

static void serve(unsigned want)
{
    static struct vhost_span all = {.size = UINT64_MAX};
    struct vhost_ring r = {.at.split = {(void *)descs, (void *)&avail, (void *)&used},
                           .size = RING_SIZE,
                           .event_idx = event_idx,
                           .view.last = &all};
    serve_ring(&vhost_split, &r, want);
}

static const struct model_program event = {
    .name = "with event indices", .begin = begin_event, .thread = {driver_of_1, device_of_1}};
static const struct model_program flags = {
    .name = "with flags", .begin = begin_flags, .thread = {driver_of_1, device_of_1}};
static const struct model_program twice = {
    .name = "two requests", .begin = begin_event, .thread = {driver_that_asks_twice, device_of_2}};
static const struct model_program twice_flags = {
    .name = "two requests, flags", .begin = begin_flags, .thread = {driver_that_asks_twice, device_of_2}};

static void test_no_request_is_lost_or_slept_through(void **state)
{
    (void)state;
    const struct model_program *const all[] = {&event, &flags, &twice, &twice_flags, NULL};
    assert_int_equal(model_suite("split virtqueues", all, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_no_request_is_lost_or_slept_through)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
