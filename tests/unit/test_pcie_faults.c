/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What goes wrong with SSDs that are driven from user space: commands that hang, controllers that fail, lie, or are
 * pulled out. Every request ends once, with data that is right, and nothing is written late.
 */
#include "bdev_util.h"
#include "nvme/nvme.h"
#include "pcie_model.h"

#include <errno.h>
#include <pollux/nvme_status.h>
#include <pollux/reactor.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define __SANITIZE_THREAD__ 1
#endif
#endif

#define ADDR "0000:01:00.0"
#define URL "pcie://" ADDR "/1?timeout=1&reconnect_deadline=30"
#define IMPATIENT "pcie://" ADDR "/1?reconnect_deadline=1"

enum {
    BLOCK = 512,
    WRITE = 0x01,
    READ = 0x02,
    ABORT = 0x08,
    CREATE_SQ = 0x01,
    DELETE_CQ = 0x04,
    CREATE_CQ = 0x05,
    IDENTIFY = 0x06
};

struct ssd {
    struct pcie_model_opts opts;
    struct pcie_model *m;
    struct tu t;
    uint8_t *data;
};

static void ssd_make(struct ssd *s)
{
    pci_open = pcie_model_open;
    s->m = pcie_model_new(&s->opts);
    pcie_model_start_thread(s->m);
    s->data = aligned_alloc(4096, 1 << 20);
    plx_memory_add(s->data, 1 << 20);
}

static void ssd_open(struct ssd *s)
{
    s->opts = pcie_model_defaults;
    s->opts.to = 1;
    ssd_make(s);
    tu_open(&s->t, URL);
}

static void ssd_free(struct ssd *s)
{
    assert_false(pcie_model_is_open(s->m));
    if (pcie_model_complaints(s->m))
        fail_msg("the controller complains: %s", pcie_model_complaint(s->m, 0));
    pcie_model_free(s->m);
    plx_memory_remove(s->data);
    free(s->data);
}

static void ssd_close(struct ssd *s)
{
    tu_close(&s->t);
    ssd_free(s);
}

static void fault(struct ssd *s, enum pcie_model_kind kind, int qid, int opcode, uint32_t value)
{
    const struct pcie_model_fault f = {.kind = kind, .qid = qid, .opcode = opcode, .value = value};
    pcie_model_fault(s->m, &f);
}

static uint16_t io(struct ssd *s, enum plx_bdev_op op, uint64_t lba, uint8_t byte)
{
    memset(s->data, byte, 4096);
    return tu_io(&s->t, op, lba, 8, s->data);
}

/* All is well, and what was written last is there. */
static void check_works(struct ssd *s)
{
    uint8_t want[4096];
    memset(want, 0x77, sizeof want);
    assert_int_equal(io(s, PLX_BDEV_WRITE, 800, 0x77), 0);
    assert_int_equal(io(s, PLX_BDEV_READ, 800, 0), 0);
    assert_memory_equal(s->data, want, sizeof want);
}

/* ---- commands without an answer ---- */

static void a_command_that_hangs_is_aborted_and_done_again(void **state)
{
    struct ssd s;
    (void)state;
    ssd_open(&s);
    fault(&s, PCIE_MODEL_HANG, PCIE_MODEL_IO, READ, 0);
    assert_int_equal(io(&s, PLX_BDEV_WRITE, 0, 1), 0);
    uint16_t status = io(&s, PLX_BDEV_READ, 0, 0);
    assert_true(status == 0 || status == PLX_SC_ABORTED_BY_REQUEST);
    assert_int_equal(pcie_model_count(s.m, 0, ABORT), 1);
    assert_int_equal(pcie_model_enables(s.m), 1); /* no reset was needed */
    check_works(&s);
    ssd_close(&s);
}

/* What hung is done in the last moment before the controller is disabled: a write over it must not be lost. */
static void a_controller_that_ignores_aborts_is_reset(void **state)
{
    struct ssd s;
    uint8_t want[4096];
    (void)state;
    ssd_open(&s);
    fault(&s, PCIE_MODEL_HANG, PCIE_MODEL_IO, WRITE, 0);
    fault(&s, PCIE_MODEL_ABORT_IDLE, 0, ABORT, 0);
    assert_int_equal(io(&s, PLX_BDEV_WRITE, 0, 1), 0);
    assert_int_equal(pcie_model_enables(s.m), 2);
    assert_int_equal(io(&s, PLX_BDEV_WRITE, 0, 2), 0);
    memset(want, 2, sizeof want);
    assert_int_equal(io(&s, PLX_BDEV_READ, 0, 0), 0);
    assert_memory_equal(s.data, want, sizeof want);
    check_works(&s);
    ssd_close(&s);
}

static void an_interrupt_that_is_lost_delays_no_more_than_a_tick(void **state)
{
    struct ssd s;
    (void)state;
    ssd_open(&s);
    fault(&s, PCIE_MODEL_LOSE_IRQ, PCIE_MODEL_IO, READ, 0);
    assert_int_equal(io(&s, PLX_BDEV_READ, 0, 0), 0); /* the upkeep of its association wakes the reactor */
    assert_int_equal(pcie_model_enables(s.m), 1);
    ssd_close(&s);
}

/* ---- controllers that lie ---- */

static void completions_of_nothing_reset_the_controller(void **state)
{
    static const enum pcie_model_kind kinds[] = {PCIE_MODEL_BOGUS_CID, PCIE_MODEL_GHOST, PCIE_MODEL_TWICE};
    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        struct ssd s;
        ssd_open(&s);
        fault(&s, kinds[i], PCIE_MODEL_IO, READ, 0);
        assert_int_equal(io(&s, PLX_BDEV_WRITE, 0, 1), 0);
        assert_int_equal(io(&s, PLX_BDEV_READ, 0, 0), 0);
        assert_int_equal(s.data[4095], 1);
        for (unsigned n = 0; n < 10 && pcie_model_enables(s.m) < 2; n++)
            check_works(&s);
        assert_int_equal(pcie_model_enables(s.m), 2);
        check_works(&s);
        ssd_close(&s);
    }
}

static void an_admin_completion_of_nothing_too(void **state)
{
    struct ssd s;
    struct tu two;
    (void)state;
    ssd_open(&s);
    fault(&s, PCIE_MODEL_BOGUS_CID, 0, CREATE_CQ, 0);
    check_works(&s); /* which had its queue made */
    tu_join(&two, s.t.bdev);
    assert_int_equal(tu_io(&two, PLX_BDEV_READ, 0, 8, s.data), 0);
    check_works(&s);
    assert_int_equal(pcie_model_enables(s.m), 2);
    tu_leave(&two);
    ssd_close(&s);
}

static void an_error_is_the_requests_own(void **state)
{
    struct ssd s;
    (void)state;
    ssd_open(&s);
    fault(&s, PCIE_MODEL_STATUS, PCIE_MODEL_IO, READ, 0x4281); /* Unrecovered Read Error, DNR */
    assert_int_equal(io(&s, PLX_BDEV_READ, 0, 0), 0x281);
    fault(&s, PCIE_MODEL_STATUS, PCIE_MODEL_IO, READ, 0x0082); /* Namespace Not Ready: tried again */
    assert_int_equal(io(&s, PLX_BDEV_READ, 0, 0), 0);
    check_works(&s);
    assert_int_equal(pcie_model_enables(s.m), 1);
    ssd_close(&s);
}

/* ---- controllers that fail ---- */

static void a_fatal_status_resets_it(void **state)
{
    struct ssd s;
    (void)state;
    ssd_open(&s);
    check_works(&s);
    pcie_model_fail(s.m);
    check_works(&s);
    assert_int_equal(pcie_model_enables(s.m), 2);
    ssd_close(&s);
}

/* Noticed by itself: no command has to wait until its time is over. */
static void one_that_somebody_else_resets_is_set_up_anew(void **state)
{
    struct ssd s;
    (void)state;
    ssd_open(&s);
    check_works(&s);
    pcie_model_reset(s.m);
    while (pcie_model_enables(s.m) < 2)
        tu_turn(s.t.reactor);
    check_works(&s);
    ssd_close(&s);
}

static void one_that_cannot_be_disabled_has_its_function_reset(void **state)
{
    struct ssd s;
    (void)state;
    ssd_open(&s);
    fault(&s, PCIE_MODEL_RDY_STUCK, PCIE_MODEL_ANY, PCIE_MODEL_ANY, 0);
    pcie_model_fail(s.m);
    check_works(&s);
    assert_int_equal(pcie_model_resets(s.m), 1);
    ssd_close(&s);
}

static void one_that_cannot_be_reset_is_closed_and_opened(void **state)
{
    struct ssd s;
    (void)state;
    ssd_open(&s);
    fault(&s, PCIE_MODEL_RDY_STUCK, PCIE_MODEL_ANY, PCIE_MODEL_ANY, 0);
    fault(&s, PCIE_MODEL_RESET_FAILS, PCIE_MODEL_ANY, PCIE_MODEL_ANY, 0);
    pcie_model_fail(s.m);
    check_works(&s);
    assert_int_equal(pcie_model_resets(s.m), 0);
    ssd_close(&s);
}

/* Every step of the beginning may fail: once, and the next attempt has it; or always, and there is a sentence. */
static void bring_up_fails_with_a_sentence(void **state)
{
    static const struct {
        struct pcie_model_fault f;
        const char *word;
    } steps[] = {
        {{PCIE_MODEL_RDY_NEVER, PCIE_MODEL_ANY, PCIE_MODEL_ANY, 0, 0, 0}, "not become ready within"},
        {{PCIE_MODEL_FATAL_ENABLE, PCIE_MODEL_ANY, PCIE_MODEL_ANY, 0, 0, 0}, "fatal status"},
        {{PCIE_MODEL_STATUS, 0, IDENTIFY, 0, 0, 0x4006}, "Identify Controller failed: Internal Error"},
        {{PCIE_MODEL_STATUS, 0, IDENTIFY, 1, 0, 0x4006}, "Identify Controller failed"},
        {{PCIE_MODEL_STATUS, 0, 0x09, 1, 0, 0x4006}, "Number of Queues failed"},
        {{PCIE_MODEL_VECTORS_FAIL, PCIE_MODEL_ANY, PCIE_MODEL_ANY, 0, 0, 0}, "cannot set it up"},
    };
    struct ssd s = {.opts = pcie_model_defaults};
    (void)state;
    s.opts.to = 1;
    ssd_make(&s);
    for (unsigned i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        pcie_model_fault(s.m, &steps[i].f);
        tu_refused(URL, steps[i].word);
        pcie_model_faults_clear(s.m);
        tu_open(&s.t, URL);
        check_works(&s);
        tu_close(&s.t);
    }
    ssd_free(&s);
}

static void a_queue_that_cannot_be_made_is_tried_again(void **state)
{
    static const int opcodes[] = {CREATE_CQ, CREATE_SQ};
    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        struct ssd s = {.opts = pcie_model_defaults};
        ssd_make(&s);
        fault(&s, PCIE_MODEL_STATUS, 0, opcodes[i], 0x4006);
        tu_open(&s.t, URL);
        check_works(&s);
        assert_int_equal(pcie_model_queues(s.m), 1);
        ssd_close(&s);
    }
}

/* It is there, and may be written to, until the controller is disabled: of a pair that was not made, or was left. */
static void a_completion_queue_that_cannot_be_deleted_resets_the_controller(void **state)
{
    (void)state;
    for (unsigned left = 0; left < 2; left++) {
        struct ssd s;
        struct tu two;
        struct tu_req q;
        ssd_open(&s);
        check_works(&s);
        tu_req_init(&q);
        if (!left)
            fault(&s, PCIE_MODEL_STATUS, 0, CREATE_SQ, 0x4006);
        fault(&s, PCIE_MODEL_STATUS, 0, DELETE_CQ, 0x4006);
        tu_join(&two, s.t.bdev);
        tu_start(&two, &q, PLX_BDEV_READ, 0, 8, s.data);
        while (!q.done) { /* both have to leave */
            tu_turn(two.reactor);
            plx_reactor_poll(s.t.reactor);
        }
        assert_int_equal(q.req->status, 0);
        tu_req_free(&q);
        tu_leave(&two);
        while (pcie_model_enables(s.m) < 2)
            check_works(&s);
        check_works(&s);
        assert_int_equal(pcie_model_queues(s.m), 1);
        ssd_close(&s);
    }
}

/* ---- controllers that are pulled out ---- */

static void one_that_is_pulled_out_ends_its_requests_and_may_come_back(void **state)
{
    struct ssd s = {.opts = pcie_model_defaults};
    (void)state;
    ssd_make(&s);
    tu_open(&s.t, IMPATIENT);
    check_works(&s);
    pcie_model_remove(s.m);
    assert_int_equal(io(&s, PLX_BDEV_WRITE, 0, 1), PLX_SC_INTERNAL_ERROR);
    assert_int_equal(io(&s, PLX_BDEV_READ, 0, 1), PLX_SC_INTERNAL_ERROR);
    pcie_model_put_back(s.m);
    while (io(&s, PLX_BDEV_READ, 0, 1) != 0)
        tu_turn(s.t.reactor);
    check_works(&s);
    ssd_close(&s);
}

static void on_fault(int number, siginfo_t *info, void *context)
{
    (void)context;
    if (!plx_memory_fault(info->si_addr))
        signal(number, SIG_DFL);
}

/* Whoever touches a register or the table of vectors then gets SIGBUS: with a request in flight, and with none. */
static void one_whose_registers_are_taken_away_is_gone(void **state)
{
    struct sigaction act = {.sa_flags = SA_SIGINFO}, before;
    (void)state;
#ifdef __SANITIZE_THREAD__
    skip(); /* its atomics hold a lock when the signal comes, and the handler's wait for that */
#endif
    act.sa_sigaction = on_fault;
    sigaction(SIGBUS, &act, &before);
    for (unsigned hung = 0; hung < 2; hung++) {
        struct ssd s = {.opts = pcie_model_defaults};
        struct tu_req q;
        ssd_make(&s);
        tu_open(&s.t, IMPATIENT);
        check_works(&s);
        tu_req_init(&q);
        if (hung) {
            fault(&s, PCIE_MODEL_HANG, PCIE_MODEL_IO, READ, 0);
            tu_start(&s.t, &q, PLX_BDEV_READ, 0, 8, s.data);
            while (!pcie_model_held(s.m))
                tu_turn(s.t.reactor);
        }
        pcie_model_zap(s.m);
        if (hung)
            assert_int_equal(tu_finish(&s.t, &q), PLX_SC_INTERNAL_ERROR);
        assert_int_equal(io(&s, PLX_BDEV_WRITE, 0, 1), PLX_SC_INTERNAL_ERROR);
        tu_req_free(&q);
        pcie_model_put_back(s.m);
        while (io(&s, PLX_BDEV_READ, 0, 1) != 0)
            tu_turn(s.t.reactor);
        check_works(&s);
        ssd_close(&s);
    }
    sigaction(SIGBUS, &before, NULL);
}

static void one_that_is_asked_back_is_given_back(void **state)
{
    struct ssd s;
    (void)state;
    ssd_open(&s);
    check_works(&s);
    pcie_model_ask_back(s.m);
    while (pcie_model_enables(s.m) < 2) /* as it is still there, it is opened anew */
        check_works(&s);
    assert_int_equal(pcie_model_enables(s.m), 2);
    ssd_close(&s);
}

static int openings;

static int counted_open(const char *addr, struct pci_function **out, struct plx_error *err)
{
    openings++;
    return pcie_model_open(addr, out, err);
}

/* Whoever takes it out waits until it is closed: it is not enabled once more first. */
static void one_that_is_asked_back_while_it_is_disabled_is_given_back(void **state)
{
    struct ssd s;
    (void)state;
    ssd_open(&s);
    check_works(&s);
    openings = 0;
    pci_open = counted_open;
    fault(&s, PCIE_MODEL_RDY_SLOW_OFF, PCIE_MODEL_ANY, PCIE_MODEL_ANY, 1000000);
    assert_int_equal(nvme_pcie_reset(ADDR), 0);
    while (!pcie_model_injected(s.m, PCIE_MODEL_RDY_SLOW_OFF))
        tu_turn(s.t.reactor);
    pcie_model_ask_back(s.m);
    check_works(&s);
    assert_int_equal(openings, 1);
    ssd_close(&s);
}

/* ---- everything, by chance ---- */

enum { SLOTS = 16, PLACES = 64 };

struct place {
    uint8_t is, may_be; /* what was written for certain, and what may have been */
    bool busy;
};

static void fill_place(uint8_t *p, uint8_t value)
{
    memset(p, value, 4096);
}

static bool holds(const uint8_t *p, uint8_t value)
{
    return p[0] == value && memcmp(p, p + 1, 4095) == 0;
}

struct load {
    struct ssd *s;
    struct place places[PLACES];
    struct tu_req q[SLOTS];
    unsigned at[SLOTS];
    uint8_t value[SLOTS];
    bool busy[SLOTS], writes[SLOTS];
    uint64_t chance;
    unsigned ended, failed;
};

static void load_start(struct load *l, unsigned i)
{
    struct place *p;
    uint8_t *data = l->s->data + i * 4096;
    do
        l->at[i] = tu_random(&l->chance) % PLACES;
    while (l->places[l->at[i]].busy);
    p = &l->places[l->at[i]];
    p->busy = l->busy[i] = true;
    l->writes[i] = tu_random(&l->chance) % 2;
    l->value[i] = (uint8_t)tu_random(&l->chance);
    fill_place(data, l->writes[i] ? l->value[i] : (uint8_t)(p->is + 1));
    l->q[i].done = 0;
    tu_start(&l->s->t, &l->q[i], l->writes[i] ? PLX_BDEV_WRITE : PLX_BDEV_READ, l->at[i] * 8, 8, data);
}

static void load_end(struct load *l, unsigned i)
{
    struct place *p = &l->places[l->at[i]];
    const uint8_t *data = l->s->data + i * 4096;
    assert_int_equal(l->q[i].done, 1);
    l->ended++;
    if (l->q[i].req->status) {
        l->failed++;
        if (l->writes[i])
            p->may_be = l->value[i]; /* done or not */
    } else if (l->writes[i]) {
        p->is = p->may_be = l->value[i];
    } else if (!holds(data, p->is) && !holds(data, p->may_be)) {
        fail_msg("place %u reads %02x, and not %02x nor %02x", l->at[i], data[0], p->is, p->may_be);
    } else {
        p->is = p->may_be = data[0];
    }
    p->busy = l->busy[i] = false;
}

/* Runs until so many requests have ended. */
static void load_run(struct load *l, unsigned requests)
{
    for (unsigned busy = 1; busy;) {
        busy = 0;
        for (unsigned i = 0; i < SLOTS; i++) {
            if (l->busy[i] && l->q[i].done)
                load_end(l, i);
            if (!l->busy[i] && l->ended + SLOTS <= requests)
                load_start(l, i);
            busy += l->busy[i];
        }
        tu_turn(l->s->t.reactor);
    }
}

static void load_with_faults(const struct pcie_model_ns *ns)
{
    const char *text = getenv("POLLUX_SEED");
    const uint64_t seed = text ? strtoull(text, NULL, 10) : (uint64_t)getpid();
    const unsigned rounds = getenv("POLLUX_ROUNDS") ? (unsigned)strtoul(getenv("POLLUX_ROUNDS"), NULL, 10) : 3;
    struct ssd s = {.opts = pcie_model_defaults};
    struct load l = {.s = &s, .chance = seed};
    s.opts.ns[0] = *ns;
    printf("POLLUX_SEED=%llu\n", (unsigned long long)seed);
    s.opts.random_kinds = 1u << PCIE_MODEL_BOGUS_CID | 1u << PCIE_MODEL_GHOST | 1u << PCIE_MODEL_TWICE |
                          1u << PCIE_MODEL_STATUS | 1u << PCIE_MODEL_LATE | 1u << PCIE_MODEL_LOSE_IRQ |
                          1u << PCIE_MODEL_FATAL;
    s.opts.random_odds = 100;
    s.opts.shuffle = 4;
    ssd_make(&s);
    tu_open(&s.t, "pcie://" ADDR "/1?timeout=1&reconnect_deadline=60");
    memset(s.data, 0, 4096);
    for (unsigned i = 0; i < PLACES; i++)
        assert_int_equal(tu_io(&s.t, PLX_BDEV_WRITE, i * 8, 8, s.data), 0);
    for (unsigned i = 0; i < SLOTS; i++)
        tu_req_init(&l.q[i]);
    for (unsigned i = 0; i < rounds; i++) {
        pcie_model_faults_random(s.m, seed + i);
        load_run(&l, l.ended + 1000);
    }
    pcie_model_faults_clear(s.m);
    load_run(&l, l.ended + 1000);
    check_works(&s);
    for (unsigned i = 0; i < SLOTS; i++)
        tu_req_free(&l.q[i]);
    printf("%u requests, %u failed; enabled %u times\n", l.ended, l.failed, pcie_model_enables(s.m));
    ssd_close(&s);
}

static void faults_by_chance_lose_nothing(void **state)
{
    (void)state;
    load_with_faults(&pcie_model_defaults.ns[0]);
}

/* Tuples are made and checked here meanwhile, in memory that goes and comes with a controller that is reset. */
static void nor_what_is_protected(void **state)
{
    struct pcie_model_ns ns = pcie_model_defaults.ns[0];
    (void)state;
    ns.metadata = 8;
    ns.pi = 1;
    load_with_faults(&ns);
    ns.interleaved = true;
    load_with_faults(&ns);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_command_that_hangs_is_aborted_and_done_again),
        cmocka_unit_test(a_controller_that_ignores_aborts_is_reset),
        cmocka_unit_test(an_interrupt_that_is_lost_delays_no_more_than_a_tick),
        cmocka_unit_test(completions_of_nothing_reset_the_controller),
        cmocka_unit_test(an_admin_completion_of_nothing_too),
        cmocka_unit_test(an_error_is_the_requests_own),
        cmocka_unit_test(a_fatal_status_resets_it),
        cmocka_unit_test(one_that_somebody_else_resets_is_set_up_anew),
        cmocka_unit_test(one_that_cannot_be_disabled_has_its_function_reset),
        cmocka_unit_test(one_that_cannot_be_reset_is_closed_and_opened),
        cmocka_unit_test(bring_up_fails_with_a_sentence),
        cmocka_unit_test(a_queue_that_cannot_be_made_is_tried_again),
        cmocka_unit_test(a_completion_queue_that_cannot_be_deleted_resets_the_controller),
        cmocka_unit_test(one_that_is_pulled_out_ends_its_requests_and_may_come_back),
        cmocka_unit_test(one_whose_registers_are_taken_away_is_gone),
        cmocka_unit_test(one_that_is_asked_back_is_given_back),
        cmocka_unit_test(one_that_is_asked_back_while_it_is_disabled_is_given_back),
        cmocka_unit_test(faults_by_chance_lose_nothing),
        cmocka_unit_test(nor_what_is_protected),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
