/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Queues of SSDs, our end against a controller as the specification has it: no command is half seen, no completion half
 * read or written over, and neither side sleeps while there is something to do. What is tested is C's fences, which is
 * what the barriers are but on Arm; there they are the stronger ones that devices need.
 */
#include "model.h"

#include "nvme/pcie.h"
#include "reactor/eventfd.h"

static uint64_t hear(void);
#define plx_eventfd_hear(fd) ((void)(fd), hear())

#include "nvme/pcie_queue.c"
#include "nvme/pcie_ring.c"

#include <stdarg.h>

#include <setjmp.h>

#include <cmocka.h>

enum { ENTRIES = 3, FEW = 2 };
#define NO_DOORBELL UINT32_MAX

static struct nvme_cmd sq[ENTRIES];
static struct nvme_cqe cq[ENTRIES];
static uint64_t cmb[ENTRIES * sizeof(struct nvme_cmd) / 8];
static uint32_t sq_db, cq_db, shadow[2], event[2], mask; /* of the controller's, and of both */
static uint64_t data[ENTRIES];                           /* of commands */
static uint32_t interrupt;                               /* the eventfd of the vector */

static void begin(void)
{
    memset(sq, 0, sizeof sq);
    memset(cq, 0, sizeof cq);
    memset(cmb, 0, sizeof cmb);
    memset(data, 0, sizeof data);
    memset(shadow, 0, sizeof shadow);
    memset(event, 0, sizeof event);
    sq_db = cq_db = NO_DOORBELL;
    mask = PCI_MSIX_MASKED;
    interrupt = 0;
    model_name(&sq_db, sizeof sq_db, "sq doorbell");
    model_name(&cq_db, sizeof cq_db, "cq doorbell");
    model_name(shadow, sizeof shadow, "shadow");
    model_name(event, sizeof event, "event");
    model_name(&mask, sizeof mask, "mask");
    model_name(sq, sizeof sq, "sq");
    model_name(cq, sizeof cq, "cq");
    model_name(cmb, sizeof cmb, "cmb");
    model_name(data, sizeof data, "data");
}

/* ---- the host's end ---- */

static struct pcie_ring host_ring(uint16_t entries)
{
    struct pcie_ring r = {.sq = sq, .cq = cq, .sq_db = &sq_db, .cq_db = &cq_db, .entries = entries};
    pcie_ring_init(&r);
    return r;
}

static void submit(struct pcie_ring *r, unsigned which)
{
    data[which] = 10 + which;
    r->sq[r->tail].cdw10 = plx_put32(100 + which);
    pcie_ring_step(r, &r->tail);
    pcie_ring_submit(r);
}

static uint64_t hear(void)
{
    return 0; /* what was told before is no news */
}

/* What take_completion() reads. */
static void take(struct pcie_ring *r, struct pcie_seen seen, unsigned which)
{
    pcie_ring_next(r);
    MODEL_HOLD((uint16_t)seen.last == which);
    MODEL_HOLD(plx_get32(seen.cqe->dw0) == 200 + which);
    MODEL_HOLD(data[which] == 20 + which);
}

/* Not inlined, as this is one barrier. */
static __attribute__((noinline)) bool peek(const struct pcie_ring *r, struct pcie_seen *seen)
{
    return pcie_ring_peek(r, seen);
}

static void wait_for(struct pcie_ring *r, unsigned which)
{
    struct pcie_seen seen;
    while (!peek(r, &seen))
        model_spin();
    take(r, seen, which);
}

static void host_of_1(void)
{
    struct pcie_ring r = host_ring(ENTRIES);
    submit(&r, 0);
    wait_for(&r, 0);
}

/* Of so small a queue that the third has the first one's place. */
static void host_that_reads(void)
{
    struct pcie_ring r = host_ring(FEW);
    for (unsigned i = 0; i < 3; i++) {
        wait_for(&r, i);
        pcie_ring_return(&r);
    }
}

static void host_with_cmb(void)
{
    struct pcie_ring r = host_ring(ENTRIES);
    struct nvme_cmd own[ENTRIES] = {{.opcode = 0}};
    r.sq = own;
    r.cmb = cmb;
    submit(&r, 0);
}

static void with_shadow(struct pcie_ring *r)
{
    r->shadow = shadow;
    r->event = event;
    r->shadow_step = sizeof *shadow;
}

static void host_with_shadow(void)
{
    struct pcie_ring r = host_ring(ENTRIES);
    with_shadow(&r);
    for (unsigned i = 0; i < 2; i++)
        submit(&r, i);
}

/* As a reactor does: it arms, and sleeps unless there is something. */
static void host_that_sleeps(void)
{
    struct pcie_hw hw = {.mask = &mask, .interrupts = true};
    struct pcie_queue q = {.hw = &hw, .qp.in_flight = 1};
    struct pcie_seen seen;
    q.ring = host_ring(ENTRIES);
    if (!queue_arm(&q.source))
        model_hear(&interrupt);
    queue_disarm(&q.source);
    MODEL_HOLD(peek(&q.ring, &seen));
    take(&q.ring, seen, 0);
}

/* ---- the controller's ---- */

static uint32_t read32(const uint32_t *at)
{
    return __atomic_load_n(at, __ATOMIC_ACQUIRE);
}

static void execute(uint32_t cdw10, unsigned which)
{
    MODEL_HOLD(cdw10 == 100 + which);
    MODEL_HOLD(data[which] == 10 + which);
}

static void complete(unsigned which)
{
    const uint32_t phase = which < FEW ? PCIE_PHASE : 0;
    struct nvme_cqe *cqe = &cq[which % FEW];
    data[which] = 20 + which;
    cqe->dw0 = plx_put32(200 + which);
    __atomic_store_n((uint32_t *)(void *)&cqe->cid, htole32(which | phase), __ATOMIC_RELEASE);
}

static void controller_of_1(void)
{
    while (read32(&sq_db) != 1)
        model_spin();
    execute(plx_get32(sq[0].cdw10), 0);
    complete(0);
}

/* It has room for one completion that was not given back. */
static void controller_that_completes(void)
{
    for (unsigned i = 0; i < 3; i++) {
        while (i && read32(&cq_db) != i % FEW)
            model_spin();
        complete(i);
    }
}

static void controller_with_cmb(void)
{
    while (read32(&sq_db) != 1)
        model_spin();
    execute((uint32_t)cmb[offsetof(struct nvme_cmd, cdw10) / 8], 0);
}

/* Base 5.2.5: it says from where on it wants to be told, looks once more, and waits for a doorbell. */
static void controller_with_shadow(void)
{
    uint32_t tail = 0, rung = NO_DOORBELL;
    while (tail < 2) {
        const uint32_t now = read32(&shadow[0]);
        for (; tail != now; tail++)
            execute(plx_get32(sq[tail].cdw10), tail);
        if (tail == 2)
            return;
        __atomic_store_n(&event[0], tail, __ATOMIC_RELAXED);
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        if (read32(&shadow[0]) != tail)
            continue;
        uint32_t is;
        while ((is = read32(&sq_db)) == rung)
            model_spin();
        rung = is;
    }
}

static void controller_that_interrupts(void)
{
    complete(0);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (!(__atomic_load_n(&mask, __ATOMIC_RELAXED) & PCI_MSIX_MASKED))
        model_tell(&interrupt);
}

#define PROGRAM(name_, host, controller)                                                                               \
    {                                                                                                                  \
        .name = name_, .begin = begin, .thread = {host, controller}, .peers = 2                                        \
    }

static const struct model_program plain = PROGRAM("a command", host_of_1, controller_of_1);
static const struct model_program again = PROGRAM("entries are used again", host_that_reads, controller_that_completes);
static const struct model_program memory = PROGRAM("the controller's memory", host_with_cmb, controller_with_cmb);
static const struct model_program doorbells = PROGRAM("doorbells in memory", host_with_shadow, controller_with_shadow);
static const struct model_program sleeps = PROGRAM("an interrupt", host_that_sleeps, controller_that_interrupts);

static void test_no_command_is_half_seen_and_no_completion_slept_through(void **state)
{
    (void)state;
    const struct model_program *const all[] = {&plain, &again, &memory, &doorbells, &sleeps, NULL};
    assert_int_equal(model_suite("SSDs", all, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_no_command_is_half_seen_and_no_completion_slept_through)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
