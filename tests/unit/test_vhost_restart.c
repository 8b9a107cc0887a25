/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The restart oracle: a process that serves a ring ends after each single store to what it shares, that is to the ring
 * and to the region of requests in flight; and another one takes over what is there then. Whenever that is, no request
 * is lost, none is published twice, none is done again that was published, and what is done again is done in order.
 *
 * Shared pages are read-only; each store faults, is let through alone (the trap flag), and leaves a snapshot. So it is
 * every store that the compiler made, in the order in which the processor makes them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "test_disk.h"
#include "vhost_rig.h"

enum { SIZE = 64, BATCH = 32, SHARED = RIG_RING_END, SNAPSHOTS = 4096, TRAP_FLAG = 0x100 };

struct snapshot {
    uint8_t ring[SHARED], region[8192];
};

static struct snapshot *snapshots;
static unsigned nsnapshots;
static struct rig *watched;
static bool packed;
static unsigned seed;

/* ---- every store ---- */

static void watch(bool on)
{
    const int prot = on ? PROT_READ : PROT_READ | PROT_WRITE;
    mprotect(watched->memory, SHARED, prot);
    mprotect(watched->region, sizeof snapshots->region, prot);
}

#ifdef __x86_64__
static void on_store(int number, siginfo_t *info, void *context)
{
    ucontext_t *c = context;
    const uint8_t *at = info->si_addr;
    const bool ours = (at >= watched->memory && at < watched->memory + SHARED) ||
                      (at >= watched->region && at < watched->region + sizeof snapshots->region);
    if (!ours) {
        signal(number, SIG_DFL);
        return;
    }
    watch(false);
    c->uc_mcontext.gregs[REG_EFL] |= TRAP_FLAG;
}

static void after_store(int number, siginfo_t *info, void *context)
{
    ucontext_t *c = context;
    (void)number, (void)info;
    c->uc_mcontext.gregs[REG_EFL] &= ~(greg_t)TRAP_FLAG;
    if (nsnapshots < SNAPSHOTS) {
        memcpy(snapshots[nsnapshots].ring, watched->memory, SHARED);
        memcpy(snapshots[nsnapshots++].region, watched->region, sizeof snapshots->region);
    }
    watch(true);
}
#endif

static void watch_begin(struct rig *rig)
{
    watched = rig;
    nsnapshots = 0;
#ifdef __x86_64__
    struct sigaction a = {.sa_flags = SA_SIGINFO};
    a.sa_sigaction = on_store;
    sigaction(SIGSEGV, &a, NULL);
    a.sa_sigaction = after_store;
    sigaction(SIGTRAP, &a, NULL);
    watch(true);
#endif
}

static void watch_end(void)
{
    watch(false);
    signal(SIGSEGV, SIG_DFL);
    signal(SIGTRAP, SIG_DFL);
}

/* ---- a driver ---- */

/* What it knows; it is the same for every end of the process, as it looks only afterwards. */
static struct {
    unsigned offered;
    uint16_t avail; /* the next index, or place, */
    bool wrap;      /* packed */
    uint16_t used;  /* where it looks */
    bool used_wrap;
} driver;

static void *at(uint8_t *memory, unsigned place)
{
    return memory + place;
}

/* Each request writes the sector of its number, with two descriptors besides the header's: it takes three of them. */
static void put_request(uint8_t *memory, unsigned n)
{
    const unsigned place = RIG_DATA + n * 1024;
    struct virtio_blk_head head = {.type = plx_put32(VIRTIO_BLK_OUT), .sector = plx_put64(n)};
    memcpy(memory + place, &head, sizeof head);
    memory[place + 600] = 0xff;
}

static void offer_split(uint8_t *memory, unsigned n)
{
    struct virtq_desc *desc = at(memory, RIG_DESC);
    struct virtq_avail *avail = at(memory, RIG_AVAIL);
    const unsigned head = 2 * (n % BATCH);
    const uint64_t place = RIG_GUEST + RIG_DATA + n * 1024;
    desc[head] =
        (struct virtq_desc){plx_put64(place), plx_put32(16 + 512), plx_put16(VIRTQ_DESC_NEXT), plx_put16(head + 1)};
    desc[head + 1] =
        (struct virtq_desc){plx_put64(place + 600), plx_put32(1), plx_put16(VIRTQ_DESC_WRITE), plx_put16(0)};
    avail->ring[driver.avail % SIZE] = plx_put16(head);
    avail->idx = plx_put16(++driver.avail);
}

static void offer_packed(uint8_t *memory, unsigned n)
{
    struct virtq_packed_desc *desc = at(memory, RIG_DESC);
    const uint64_t place = RIG_GUEST + RIG_DATA + n * 1024;
    for (unsigned i = 0; i < 2; i++) {
        const uint16_t flags = driver.wrap ? VIRTQ_PACKED_AVAIL : VIRTQ_PACKED_USED;
        desc[driver.avail] = (struct virtq_packed_desc){plx_put64(place + (i ? 600 : 0)), plx_put32(i ? 1 : 16 + 512),
                                                        plx_put16(2 * (n % BATCH)),
                                                        plx_put16(flags | (i ? VIRTQ_DESC_WRITE : VIRTQ_DESC_NEXT))};
        driver.wrap ^= driver.avail == SIZE - 1;
        driver.avail = (uint16_t)((driver.avail + 1) % SIZE);
    }
}

static void offer(uint8_t *memory, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        put_request(memory, driver.offered);
        if (packed)
            offer_packed(memory, driver.offered++);
        else
            offer_split(memory, driver.offered++);
    }
}

/* The next head that is through. @return false when there is none */
static bool take_used(uint8_t *memory, unsigned *head)
{
    const struct virtq_used *used = at(memory, RIG_USED);
    const struct virtq_packed_desc *desc = at(memory, RIG_DESC);
    if (!packed) {
        if (plx_get16(used->idx) == driver.used)
            return false;
        *head = plx_get32(used->ring[driver.used++ % SIZE].id);
        return true;
    }
    const uint16_t flags = plx_get16(desc[driver.used].flags), both = VIRTQ_PACKED_AVAIL | VIRTQ_PACKED_USED;
    if ((flags & both) != (driver.used_wrap ? both : 0))
        return false;
    *head = plx_get16(desc[driver.used].id);
    driver.used_wrap ^= driver.used + 2u >= SIZE;
    driver.used = (uint16_t)((driver.used + 2) % SIZE);
    return true;
}

/* ---- a life, and the lives after each of its ends ---- */

/* Some requests end, not the oldest first. */
static void end_some(struct test_disk *d, unsigned n)
{
    while (n-- && d->first) {
        if (rand_r(&seed) % 2 && d->first->next) { /* turn the line round by one */
            struct plx_bdev_req *first = d->first;
            d->first = first->next;
            first->next = NULL;
            *d->last = first;
            d->last = &first->next;
        }
        test_disk_end(d, PLX_SC_SUCCESS);
    }
}

static uint64_t features(void)
{
    return VHOST_BIT(VIRTIO_F_VERSION_1) | (packed ? VHOST_BIT(VIRTIO_F_RING_PACKED) : 0);
}

/* Heads of this batch that were published, in a set of bits; none twice. */
static uint32_t published(uint8_t *memory)
{
    uint32_t set = 0;
    for (unsigned head; take_used(memory, &head);) {
        assert_true(head % 2 == 0 && head < 2 * BATCH);
        assert_false(set >> head / 2 & 1);
        set |= UINT32_C(1) << head / 2;
    }
    return set;
}

/* Numbers of requests are taken off the disk in the order in which they came. */
static void end_all_in_order(struct rig *rig, struct test_disk *d, uint32_t before)
{
    uint64_t last = 0;
    rig_poll(rig);
    for (bool first = true; d->first; first = false) {
        const uint64_t n = d->first->lba;
        assert_false(before >> n % BATCH & 1); /* it was published: its place may be another's by now */
        assert_true(first || n > last);
        last = n;
        test_disk_end(d, PLX_SC_SUCCESS);
        rig_poll(rig);
    }
}

static void live_again(const struct snapshot *s, uint32_t base, unsigned first, unsigned n)
{
    const uint32_t all = n == 32 ? UINT32_MAX : (UINT32_C(1) << n) - 1;
    struct test_disk *d = test_disk_new();
    struct rig rig;
    rig_begin(&rig, &d->bdev, SIZE, features(), true);
    memcpy(rig.memory, s->ring, SHARED);
    memcpy(rig.region, s->region, sizeof s->region);
    for (unsigned i = first; i < first + n; i++)
        put_request(rig.memory, i);
    const __typeof__(driver) saved = driver;
    const uint32_t before = published(rig.memory);
    assert_int_equal(rig_start(&rig, base), 0);
    assert_false(rig.ring.broken);
    end_all_in_order(&rig, d, before);
    const uint32_t after = published(rig.memory);
    assert_int_equal(before & after, 0);
    const uint32_t wanted = all << first % BATCH | (first % BATCH ? all >> (BATCH - first % BATCH) : 0);
    assert_int_equal(before | after, wanted);
    rig_stop(&rig);
    driver = saved;
    rig_end(&rig);
    plx_bdev_close(&d->bdev);
}

/* A ring serves some batches; of the last of them each store is an end. */
static void live(unsigned n, unsigned each, unsigned lead, uint16_t begin)
{
    struct test_disk *d = test_disk_new();
    struct rig rig;
    const uint32_t base = packed ? 0x80008000 : begin;
    driver =
        (__typeof__(driver)){.avail = packed ? 0 : begin, .used = packed ? 0 : begin, .wrap = true, .used_wrap = true};
    rig_begin(&rig, &d->bdev, SIZE, features(), true);
    if (!packed)
        ((struct virtq_used *)at(rig.memory, RIG_USED))->idx = plx_put16(begin);
    if (!packed)
        ((struct virtq_avail *)at(rig.memory, RIG_AVAIL))->idx = plx_put16(begin);
    assert_int_equal(rig_start(&rig, base), 0);
    for (unsigned i = 0; i < lead; i++) {
        offer(rig.memory, 1);
        rig_poll(&rig);
        end_some(d, 1);
        rig_poll(&rig);
    }
    published(rig.memory);
    const unsigned first = driver.offered;
    const __typeof__(driver) looked = driver;
    offer(rig.memory, n);
    watch_begin(&rig);
    rig_poll(&rig);
    while (d->first) {
        end_some(d, each);
        rig_poll(&rig);
    }
    watch_end();
    rig_stop(&rig);
    driver.used = looked.used;
    driver.used_wrap = looked.used_wrap;
    for (unsigned i = 0; i < nsnapshots; i++) {
        /* Front-ends send either the one base or the other; neither counts. */
        live_again(&snapshots[i], packed ? base : i % 2 ? driver.avail : looked.used, first, n);
    }
#ifdef __x86_64__
    assert_true(nsnapshots > 2 * n && nsnapshots < SNAPSHOTS);
#endif
    rig_end(&rig);
    plx_bdev_close(&d->bdev);
}

static void lives(void)
{
    static const unsigned batches[] = {1, 2, 3, 8, 32};
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(batches); i++)
        for (unsigned k = 0; k <= i; k++) {
            seed = i * 10 + k;
            live(batches[i], batches[k], i + k, (uint16_t)(0xfffd - k));
        }
}

static void whenever_a_split_ring_ends(void **state)
{
    (void)state;
    packed = false;
    lives();
}

static void whenever_a_packed_ring_ends(void **state)
{
    (void)state;
    packed = true;
    lives();
}

static int setup(void **state)
{
    (void)state;
    snapshots = calloc(SNAPSHOTS, sizeof *snapshots);
    return snapshots ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    free(snapshots);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whenever_a_split_ring_ends),
        cmocka_unit_test(whenever_a_packed_ring_ends),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
