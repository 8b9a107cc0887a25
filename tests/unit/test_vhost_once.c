/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a guest may change meanwhile is read once, so that what was looked at is what is used: descriptors, a table of
 * them, and the header of a request. Shared pages cannot be touched; each load faults, is let through alone (the trap
 * flag), and is counted. So it is every load that the compiler made.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "test_disk.h"
#include "vhost_rig.h"

enum {
    SIZE = 16,
    WORD = 8, /* bytes */
    TABLE = RIG_DATA,
    HEADER = RIG_DATA + 4096,
    WATCHED = RIG_DATA + 2 * 4096, /* from the beginning on; behind it are data and status */
    DATA = WATCHED,
    STATUS = WATCHED + 4096,
    TRAP_FLAG = 0x100,
};

static uint8_t *memory;
static unsigned loads[WATCHED / WORD + 1];

/* ---- every load ---- */

static void watch(bool on)
{
    mprotect(memory, WATCHED, on ? PROT_NONE : PROT_READ | PROT_WRITE);
}

#ifdef __x86_64__
/* Whether an instruction loads 16 bytes: MOVUPS, MOVAPS or MOVDQ, of whatever prefixes; else it is at most a word. */
static bool loads_two(const uint8_t *code)
{
    while (*code == 0x66 || *code == 0xf2 || *code == 0xf3 || (*code & 0xf0) == 0x40)
        code++;
    return *code == 0xc4 || *code == 0xc5 || (*code == 0x0f && (code[1] == 0x10 || code[1] == 0x28 || code[1] == 0x6f));
}

static void on_load(int number, siginfo_t *info, void *context)
{
    ucontext_t *c = context;
    const uint8_t *at = info->si_addr;
    if (at < memory || at >= memory + WATCHED) {
        signal(number, SIG_DFL);
        return;
    }
    loads[(at - memory) / WORD]++;
    if (loads_two((const uint8_t *)c->uc_mcontext.gregs[REG_RIP]))
        loads[(at - memory) / WORD + 1]++;
    watch(false);
    c->uc_mcontext.gregs[REG_EFL] |= TRAP_FLAG;
}

static void after_load(int number, siginfo_t *info, void *context)
{
    ucontext_t *c = context;
    (void)number, (void)info;
    c->uc_mcontext.gregs[REG_EFL] &= ~(greg_t)TRAP_FLAG;
    watch(true);
}
#endif

static void watch_begin(void)
{
    memset(loads, 0, sizeof loads);
#ifdef __x86_64__
    struct sigaction a = {.sa_flags = SA_SIGINFO};
    a.sa_sigaction = on_load;
    sigaction(SIGSEGV, &a, NULL);
    a.sa_sigaction = after_load;
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

/* All of the words from a place on, each of them once; with another step, of each so many bytes the first word. */
static void assert_once(unsigned place, unsigned bytes, unsigned step)
{
#ifdef __x86_64__
    for (unsigned i = 0; i < bytes; i += step)
        assert_int_equal(loads[(place + i) / WORD], 1);
#endif
    (void)place, (void)bytes, (void)step;
}

/* Whether the copy of a header is two loads, or one; a call of memcpy() may load a byte twice. */
static bool copies_in_place(void)
{
#if !defined(__OPTIMIZE__) || defined(__SANITIZE_ADDRESS__)
    return false;
#elif defined(__has_feature)
    return !__has_feature(address_sanitizer) && !__has_feature(thread_sanitizer);
#else
    return true;
#endif
}

/* ---- a driver ---- */

static const struct part {
    unsigned place, len;
    uint16_t flags;
} parts[] = {{HEADER, 16, 0}, {DATA, 512, VIRTQ_DESC_WRITE}, {STATUS, 1, VIRTQ_DESC_WRITE}};

enum { PARTS = PLX_ARRAY_SIZE(parts) };

static void put_split(unsigned table)
{
    struct virtq_desc *desc = (void *)(memory + table);
    for (unsigned i = 0; i < PARTS; i++)
        desc[i] =
            (struct virtq_desc){plx_put64(RIG_GUEST + parts[i].place), plx_put32(parts[i].len),
                                plx_put16(parts[i].flags | (i < PARTS - 1 ? VIRTQ_DESC_NEXT : 0)), plx_put16(i + 1)};
}

static void put_packed(unsigned table, bool ring)
{
    struct virtq_packed_desc *desc = (void *)(memory + table);
    for (unsigned i = 0; i < PARTS; i++)
        desc[i] =
            (struct virtq_packed_desc){plx_put64(RIG_GUEST + parts[i].place), plx_put32(parts[i].len), plx_put16(0),
                                       plx_put16(parts[i].flags | (ring ? VIRTQ_PACKED_AVAIL : 0) |
                                                 (ring && i < PARTS - 1 ? VIRTQ_DESC_NEXT : 0))};
}

static void put_request(bool packed, bool indirect)
{
    const struct virtio_blk_head head = {.type = plx_put32(VIRTIO_BLK_IN), .sector = plx_put64(1)};
    const uint16_t flags = VIRTQ_DESC_INDIRECT | VIRTQ_PACKED_AVAIL;
    memcpy(memory + HEADER, &head, sizeof head);
    memory[STATUS] = 0xff;
    if (packed)
        put_packed(indirect ? TABLE : RIG_DESC, !indirect);
    else
        put_split(indirect ? TABLE : RIG_DESC);
    if (indirect && packed)
        *(struct virtq_packed_desc *)(void *)(memory + RIG_DESC) = (struct virtq_packed_desc){
            plx_put64(RIG_GUEST + TABLE), plx_put32(16 * PARTS), plx_put16(0), plx_put16(flags)};
    else if (indirect)
        *(struct virtq_desc *)(void *)(memory + RIG_DESC) = (struct virtq_desc){
            plx_put64(RIG_GUEST + TABLE), plx_put32(16 * PARTS), plx_put16(VIRTQ_DESC_INDIRECT), plx_put16(0)};
    ((struct virtq_avail *)(void *)(memory + RIG_AVAIL))->idx = plx_put16(packed ? 0 : 1);
}

static void read_a_request(bool packed, bool indirect)
{
    const uint64_t features = VHOST_BIT(VIRTIO_F_VERSION_1) | VHOST_BIT(VIRTIO_F_INDIRECT_DESC) |
                              (packed ? VHOST_BIT(VIRTIO_F_RING_PACKED) : 0);
    struct test_disk *d = test_disk_new();
    struct rig rig;
    rig_begin(&rig, &d->bdev, SIZE, features, false);
    memory = rig.memory;
    assert_int_equal(rig_start(&rig, packed ? 0x80008000 : 0), 0);
    put_request(packed, indirect);
    watch_begin();
    rig_poll(&rig);
    watch_end();
    assert_false(rig.ring.broken);
    assert_non_null(d->first);
    assert_int_equal(d->first->lba, 1);
    if (copies_in_place())
        assert_once(HEADER, sizeof(struct virtio_blk_head), WORD);
    if (indirect)
        assert_once(TABLE, 16 * PARTS, WORD);
    /* Of a packed ring's own the second word says whether they are there, how many, and who: that is looked at, too. */
    assert_once(RIG_DESC, indirect ? 16 : 16 * PARTS, packed ? 2 * WORD : WORD);
    test_disk_end(d, PLX_SC_SUCCESS);
    rig_poll(&rig);
    assert_int_equal(memory[STATUS], VIRTIO_BLK_OK);
    rig_stop(&rig);
    rig_end(&rig);
    plx_bdev_close(&d->bdev);
}

static void a_request_in_a_split_ring(void **state)
{
    (void)state;
    read_a_request(false, false);
}

static void a_request_in_a_table_of_a_split_ring(void **state)
{
    (void)state;
    read_a_request(false, true);
}

static void a_request_in_a_packed_ring(void **state)
{
    (void)state;
    read_a_request(true, false);
}

static void a_request_in_a_table_of_a_packed_ring(void **state)
{
    (void)state;
    read_a_request(true, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_in_a_split_ring),
        cmocka_unit_test(a_request_in_a_table_of_a_split_ring),
        cmocka_unit_test(a_request_in_a_packed_ring),
        cmocka_unit_test(a_request_in_a_table_of_a_packed_ring),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
