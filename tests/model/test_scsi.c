/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * SCSI units that come, change and go while rings look for them: none is found half made, or used after it has gone,
 * and a guest that is told of a change finds it.
 */
#include "model.h"

#include "bdev/driver.h"
#include "vhost/scsi_page.h"
#include "vhost/scsi_ring.h"
#include "vhost/vhost.h"

#include <stdlib.h>

/* So many are enough, and as many as the model has room for. */
enum { DEVICES = 2, UNITS = 8, THERE = 2 };
#define VHOST_DEVICES DEVICES
#define SCSI_UNITS UNITS

#include "vhost/scsi.h"

/* What of the host has nothing to do with it; and messages. */
#define calloc(n, size) ((void)(n), (void)(size), fresh_target())
#define plx_bdev_access_channel(a, i) ((void)(a), (void)(i), &channel)
#define plx_bdev_blocks(bdev) ((void)(bdev), blocks_now())
#define scsi_answer(cmd, unit, known, reply, sense) ((void)(unit), (void)(known), (void)(reply), 0)
#define plx_resv_join(party) ((void)(party))
#define plx_resv_shown(party) ((void)(party), (const struct plx_resv *)NULL)
#define scsi_event_tell(h, l, event, reason) ((void)(h), (void)(l), (void)(event), (void)(reason))
#define plx_fan_out(fan, here, done) ((void)(fan), (void)(here), (void)(done), ask())
#define plx_fan_answer(leg, result) ((void)(leg), (void)(result), answer())

static void *fresh_target(void);
static uint64_t blocks_now(void);
static void ask(void);
static void answer(void);
static struct plx_bdev_channel channel;

#include "vhost/scsi.c"
#include "vhost/scsi_host.c"

#include <stdarg.h>

#include <setjmp.h>

#include <cmocka.h>

static struct {
    struct vhost_scsi h;
    struct scsi_leg leg;
} host;
static struct {
    struct scsi_lun l;
    struct scsi_lun_leg leg;
} units[THERE];
static struct plx_fan_leg fan_legs[THERE];
static struct scsi_target target;
static struct scsi_ring ring;
static struct vhost_ring virtq;
static uint64_t blocks, gone;
static uint32_t asked, answered;

static void begin(void)
{
    memset(&host, 0, sizeof host);
    memset(units, 0, sizeof units);
    memset(&target, 0, sizeof target);
    ring.nexus = 1;
    virtq.scsi = &ring;
    plx_list_init(&host.h.luns);
    plx_list_init(&host.h.legs[0].rings);
    for (unsigned i = 0; i < THERE; i++) {
        struct scsi_lun *l = &units[i].l;
        l->scsi = &host.h;
        l->number = i;
        l->fan = (struct plx_fan){.legs = &fan_legs[i], .n = 1};
        fan_legs[i] = (struct plx_fan_leg){.fan = &l->fan};
        plx_list_add_tail(&host.h.luns, &l->link);
        model_name(l->attentions, sizeof l->attentions, "attentions");
    }
    blocks = 1;
    gone = asked = answered = 0;
    model_name(&host.h.targets[0], sizeof host.h.targets[0], "target");
    model_name(target.units, sizeof target.units, "unit");
    model_name(&target.n, sizeof target.n, "units there");
    model_name(units, sizeof units, "a unit's own");
    model_name(&blocks, sizeof blocks, "blocks");
}

/* The first unit is there, and the second one is not. */
static void begin_with_one(void)
{
    begin();
    host.h.targets[0] = &target;
    target.units[0] = &units[0].l;
    target.n = 1;
    units[0].l.there = true;
    units[0].l.legs[0].channel = &channel;
}

static void *fresh_target(void)
{
    *(volatile unsigned *)&target.n = 0;
    return &target;
}

static uint64_t blocks_now(void)
{
    return __atomic_load_n(&blocks, __ATOMIC_RELAXED);
}

static void ask(void)
{
    model_tell(&asked);
}

static void answer(void)
{
    model_tell(&answered);
}

/* ---- the control reactor ---- */

static void first_unit(void)
{
    target_make(&host.h, 0);
    lun_opened(&units[0].l.access, 0);
}

static void second_unit(void)
{
    lun_opened(&units[1].l.access, 0);
}

static void resized(void)
{
    __atomic_store_n(&blocks, 2, __ATOMIC_RELAXED);
    lun_event(&units[0].l, NULL, PLX_BDEV_RESIZED);
}

static void remove_unit(void)
{
    lun_remove(&units[0].l);
    model_hear(&answered);
    units[0].l.legs[0].channel = NULL; /* it is freed */
}

/* ---- a ring's ---- */

static bool use(unsigned number)
{
    struct scsi_target *of;
    const struct scsi_lun *l = scsi_lun_find(&host.h, 0, number, &of);
    if (!l)
        return false;
    MODEL_HOLD(l->legs[0].channel == &channel);
    return true;
}

static void find(void)
{
    use(0);
}

static bool told_of(uint16_t asc)
{
    struct vhost_slot s = {.ring = &virtq, .task.lun = &units[0].l};
    struct scsi_sense sense;
    if (!take_attention(&s, &sense))
        return false;
    MODEL_HOLD(sense.asc == asc);
    return true;
}

/* It is told, asks for a list, and then for what is new in it. */
static void look_at_units(void)
{
    uint8_t known[UNITS / 8];
    if (!told_of(SCSI_ASC_LUNS))
        return;
    known_units(&target, known);
    MODEL_HOLD(known[0] == 3);
    MODEL_HOLD(use(1));
}

static void look_at_size(void)
{
    struct scsi_unit u;
    if (!told_of(SCSI_ASC_CAPACITY))
        return;
    scsi_unit_now(&units[0].l, &u);
    MODEL_HOLD(u.blocks == 2);
}

/* Two changes: the second one is seen by whoever takes it first, and the first by whoever takes what is left. */
static void both_change(void)
{
    resized();
    second_unit();
}

static void look_twice(void)
{
    struct vhost_slot s = {.ring = &virtq, .task.lun = &units[0].l};
    struct scsi_sense sense;
    if (!take_attention(&s, &sense))
        return;
    MODEL_HOLD(blocks_now() == 2);
    if (take_attention(&s, &sense))
        MODEL_HOLD(use(1));
}

static void use_and_let_go(void)
{
    use(0);
    model_hear(&asked);
    lun_leaves(&fan_legs[0]);
    MODEL_HOLD(!__atomic_load_n(&target.units[0], __ATOMIC_RELAXED));
}

static const struct model_program first = {.name = "a first unit", .begin = begin, .thread = {first_unit, find}};
static const struct model_program another = {
    .name = "another unit", .begin = begin_with_one, .thread = {second_unit, look_at_units}};
static const struct model_program size = {
    .name = "another size", .begin = begin_with_one, .thread = {resized, look_at_size}};
static const struct model_program both = {
    .name = "two changes", .begin = begin_with_one, .thread = {both_change, look_twice}};
static const struct model_program leaves = {
    .name = "a unit leaves", .begin = begin_with_one, .thread = {remove_unit, use_and_let_go}};

static void test_units_are_found_whole_and_changes_by_whoever_is_told(void **state)
{
    (void)state;
    const struct model_program *const all[] = {&first, &another, &size, &both, &leaves, NULL};
    assert_int_equal(model_suite("SCSI units", all, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_units_are_found_whole_and_changes_by_whoever_is_told)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
