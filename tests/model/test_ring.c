/* SPDX-License-Identifier: BSD-3-Clause */
/* A reactor that sleeps is woken by what its io_uring completes. */
#include "model.h"

#include <unistd.h>

/* Of its eventfd, which is heard where the reactor sleeps. */
#define read(fd, at, bytes) ((void)(fd), (void)(at), (ssize_t)(bytes))

#include "reactor/ring.c"

#include <stdarg.h>

#include <setjmp.h>

#include <cmocka.h>

static struct plx_ring ring;
static unsigned head, tail, cq_flags, sq_flags;
static uint32_t eventfd_count;
static uint64_t entry;

static void begin(void)
{
    memset(&ring, 0, sizeof ring);
    ring.ring.cq.khead = &head;
    ring.ring.cq.ktail = &tail;
    ring.ring.cq.kflags = &cq_flags;
    ring.ring.sq.kflags = &sq_flags;
    head = tail = sq_flags = eventfd_count = 0;
    cq_flags = IORING_CQ_EVENTFD_DISABLED;
    entry = 0;
    model_name(&tail, sizeof tail, "tail");
    model_name(&cq_flags, sizeof cq_flags, "cq_flags");
    model_name(&sq_flags, sizeof sq_flags, "sq_flags");
    model_name(&entry, sizeof entry, "entry");
}

/* The kernel's end: a barrier is between what it says and its look whether it is to signal. */
static void signals(void)
{
    atomic_thread_fence(memory_order_seq_cst);
    if (!(__atomic_load_n(&cq_flags, __ATOMIC_RELAXED) & IORING_CQ_EVENTFD_DISABLED))
        model_tell(&eventfd_count);
}

static void completes(void)
{
    entry = 1;
    __atomic_store_n(&tail, 1, __ATOMIC_RELEASE);
    signals();
}

static void defers(void)
{
    __atomic_store_n(&sq_flags, IORING_SQ_TASKRUN, __ATOMIC_RELAXED);
    signals();
}

/* @return when there is something, for which it may have slept */
static void sleeps(void)
{
    if (!plx_ring_arm(&ring))
        model_hear(&eventfd_count);
    plx_ring_disarm(&ring);
}

static void takes(void)
{
    sleeps();
    MODEL_HOLD(io_uring_cq_ready(&ring.ring) == 1);
    MODEL_HOLD(entry == 1);
}

static void runs(void)
{
    sleeps();
    MODEL_HOLD(IO_URING_READ_ONCE(sq_flags) & IORING_SQ_TASKRUN);
}

static const struct model_program one = {
    .name = "one completes", .begin = begin, .thread = {completes, takes}, .peers = 1};
static const struct model_program deferred = {
    .name = "one is left to be run", .begin = begin, .thread = {defers, runs}, .peers = 1};

static void test_what_completes_wakes_who_sleeps(void **state)
{
    (void)state;
    const struct model_program *const all[] = {&one, &deferred, NULL};
    assert_int_equal(model_suite("io_uring", all, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_what_completes_wakes_who_sleeps)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
