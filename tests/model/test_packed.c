/* SPDX-License-Identifier: BSD-3-Clause */
/* Packed virtqueues, our driver's end against our device's: no request is lost, half seen, or slept through. */
#include "model.h"

/* A descriptor field by field, as the driver writes it; and what its table says, which never changes. */
#define vhost_read_desc read_desc_at_once
#include "rings.h"
#undef vhost_read_desc
#define vhost_at(view, guest, together) ((void)(view), (void)(guest), (void)(together), constant_table(r))

static const uint8_t *constant_table(const struct vhost_ring *r)
{
    return (const uint8_t *)r->why; /* the device's stack: see serve() */
}

static struct vhost_desc vhost_read_desc(const void *from)
{
    const struct virtq_packed_desc *d = from;
    return (struct vhost_desc){le64toh(d->addr.raw), le32toh(d->len.raw), le16toh(d->id.raw),
                               le16toh(__atomic_load_n(&d->flags.raw, __ATOMIC_RELAXED))};
}

#include "vhost/packed.c"

#include <stdarg.h>

#include <setjmp.h>

#include <cmocka.h>

static struct virtq_packed_desc descs[RING_SIZE];
static struct virtq_event driver_event, device_event;

static void begin(void)
{
    memset(descs, 0, sizeof descs);
    memset(data, 0, sizeof data);
    driver_event.off_wrap = device_event.off_wrap = plx_put16(0);
    driver_event.flags = plx_put16(VIO_EVENT_DISABLE); /* vio_ring_restart() */
    device_event.flags = plx_put16(VIRTQ_EVENT_DISABLE);
    kick = call = 0;
    model_name(data, sizeof data, "data");
    for (unsigned i = 0; i < RING_SIZE; i++) {
        model_name(&descs[i].flags, sizeof descs[i].flags, "desc.flags");
        model_name(&descs[i], sizeof descs[i], "desc");
    }
    model_name(&driver_event, sizeof driver_event, "driver_event");
    model_name(&device_event, sizeof device_event, "device_event");
}

static struct vio_ring driver_ring(uint64_t *out)
{
    return (struct vio_ring){.packed = (void *)descs,
                             .driver_event = (void *)&driver_event,
                             .device_event = (void *)&device_event,
                             .out = out,
                             .size = RING_SIZE,
                             .slots = RING_SIZE,
                             .stride = 1,
                             .add_wrap = true,
                             .reap_wrap = true};
}

static void add(struct vio_ring *r, unsigned slot)
{
    static const struct vio_desc table[1] = {{.len = {1}}};
    data[slot] = 10 + slot;
    vio_ring_add(r, slot, table, 1);
}

/* At once: of both, only the first one's flags are written last. */
static void driver_of_2(void)
{
    uint64_t out = 0;
    struct vio_ring r = driver_ring(&out);
    add(&r, 0);
    add(&r, 1);
    if (vio_ring_show(&r))
        model_tell(&kick);
}

/* As a Linux guest does it: it is told at one descriptor, whose number it writes before it asks for that. */
static void guest_of_1(void)
{
    uint64_t out = 0;
    struct vio_ring r = driver_ring(&out);
    add(&r, 1);
    if (vio_ring_show(&r))
        model_tell(&kick);
    __atomic_store_n(&driver_event.off_wrap.raw, htole16(VIRTQ_WRAP), __ATOMIC_RELAXED);
    __atomic_store_n(&driver_event.flags.raw, htole16(VIRTQ_EVENT_DESC), __ATOMIC_RELEASE);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (!vio_ring_ready(&r))
        model_hear(&call);
    MODEL_HOLD(vio_ring_reap(&r) == 1);
}

static bool told_by_descriptor;

static void serve(unsigned want)
{
    static struct vhost_span all = {.size = UINT64_MAX};
    const struct virtq_packed_desc table = {.len = plx_put32(1)};
    struct vhost_ring r = {.at.packed = {descs, &driver_event, &device_event},
                           .size = RING_SIZE,
                           .view.last = &all,
                           .packed = true,
                           .avail_wrap = true,
                           .used_wrap = true,
                           .event_idx = told_by_descriptor,
                           .signalled = told_by_descriptor,
                           .is.features = VHOST_BIT(VIRTIO_F_INDIRECT_DESC),
                           .why = (const char *)&table};
    serve_ring(&vhost_packed, &r, want);
}

static void begin_told(void)
{
    told_by_descriptor = true;
    begin();
    driver_event.off_wrap = plx_put16(1 | VIRTQ_WRAP); /* of long ago: it is not passed */
}

static void begin_plain(void)
{
    told_by_descriptor = false;
    begin();
}

static const struct model_program guest = {
    .name = "a guest that is told", .begin = begin_told, .thread = {guest_of_1, device_of_1}, .peers = 1};
static const struct model_program one = {
    .name = "one request", .begin = begin_plain, .thread = {driver_of_1, device_of_1}};
static const struct model_program two = {
    .name = "two requests", .begin = begin_plain, .thread = {driver_of_2, device_of_2}};

static void test_no_request_is_lost_or_slept_through(void **state)
{
    (void)state;
    const struct model_program *const all[] = {&one, &two, &guest, NULL};
    assert_int_equal(model_suite("packed virtqueues", all, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_no_request_is_lost_or_slept_through)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
