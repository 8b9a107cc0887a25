/* SPDX-License-Identifier: BSD-3-Clause */
/* Reservations, and commands that a disk has: what is waited for, what ends, and what does not begin. */
#include "calls.h"
#include "reactor/clock.h"
#include "test_disk.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define NQN "nqn.2024-01.com.example:reserved"

enum { PENDING = 0xffff, DNR = NVME_STATUS_DNR, CONFLICT = PLX_SC_RESERVATION_CONFLICT | DNR, ORPHAN_MS = 2000 };
enum { A, B, C, HOSTS };

struct reply {
    bool here;
    struct nvme_cqe cqe;
};

struct guest {
    struct calls_qpair admin, io;
    struct nvme_connect_data data;
    uint16_t cntlid;
};

struct table {
    struct plx_reactor *reactor;
    struct plx_nvmf_target *t;
    struct plx_nvmf_subsystem *s;
    struct test_disk *disk;
    struct guest hosts[HOSTS];
    uint16_t cid;
    bool done;
    int result;
};

static uint64_t simulated_ns;

static uint64_t simulated_now(void)
{
    return simulated_ns;
}

static void calm(struct table *t)
{
    for (int quiet = 0; quiet < 4;)
        quiet = plx_reactor_poll(t->reactor) ? 0 : quiet + 1;
}

static void let_pass(struct table *t, uint64_t ms)
{
    for (uint64_t i = 0; i < ms; i++) {
        simulated_ns += PLX_NS_PER_MS;
        calm(t);
    }
}

static void finished(void *arg, int result)
{
    struct table *t = arg;
    t->done = true;
    t->result = result;
}

static void replied(void *arg, const struct nvme_cqe *cqe)
{
    struct reply *r = arg;
    assert_false(r->here);
    r->here = true;
    r->cqe = *cqe;
}

static uint16_t status_in(const struct reply *r)
{
    return r->here ? calls_status(&r->cqe) : PENDING;
}

static uint16_t ask(struct table *t, struct calls_qpair *q, struct nvme_cmd cmd, void *data, uint32_t len,
                    struct reply *r)
{
    r->here = false;
    cmd.cid = plx_put16(++t->cid);
    calls_send(q, &cmd, data, len, replied, r);
    calm(t);
    return status_in(r);
}

static void connect_guest(struct table *t, int who)
{
    struct guest *h = &t->hosts[who];
    struct reply r = {0};
    const char name[] = {'n', 'q', 'n', '.', (char)('a' + who), 0};
    calls_connect(&h->admin, &t->t->groups[0], 0);
    calls_fabrics_connect(&h->admin, NQN, name, 0, 0, &h->data, replied, &r);
    calm(t);
    assert_int_equal(status_in(&r), 0);
    h->cntlid = (uint16_t)plx_get32(r.cqe.dw0);
    r.here = false;
    calls_enable(&h->admin, true, replied, &r);
    calm(t);
    calls_connect(&h->io, &t->t->groups[0], 0);
    r.here = false;
    calls_fabrics_connect(&h->io, NQN, name, 1, h->cntlid, &h->data, replied, &r);
    calm(t);
    assert_int_equal(status_in(&r), 0);
}

static uint16_t reserve(struct table *t, int who, uint8_t opcode, uint32_t cdw10, uint64_t other, struct reply *r)
{
    struct nvme_resv_keys keys = {plx_put64(who + 1), plx_put64(other)};
    struct nvme_cmd cmd = {.opcode = opcode, .nsid = plx_put32(1), .cdw10 = plx_put32(cdw10)};
    return ask(t, &t->hosts[who].io, cmd, &keys, sizeof keys, r);
}

/* A target with a disk under the test's thumb, and three registrants, of whom A holds the namespace. */
static void set_table(struct table *t)
{
    const struct plx_nvmf_subsystem_opts opts = {.nqn = NQN, .allow_any_host = true};
    struct plx_nvmf_listener *l;
    struct reply r;
    memset(t, 0, sizeof *t);
    simulated_ns = PLX_NS_PER_S;
    plx_clock_simulate(simulated_now);
    assert_int_equal(plx_reactor_create(&t->reactor, NULL), 0);
    assert_int_equal(plx_nvmf_target_create(&t->t, &t->reactor, 1, NULL, NULL), 0);
    t->t->transport = &calls_transport;
    assert_int_equal(plx_nvmf_subsystem_create(t->t, &opts, &t->s, NULL), 0);
    assert_int_equal(plx_nvmf_listen(t->t, "192.0.2.1", 4420, &l, NULL), 0);
    t->disk = test_disk_new();
    assert_int_equal(plx_nvmf_subsystem_add_ns(t->s, &t->disk->bdev, NULL, NULL), 1);
    plx_nvmf_target_start(t->t, finished, t);
    calm(t);
    assert_true(t->done && !t->result);
    for (int who = 0; who < HOSTS; who++) {
        connect_guest(t, who);
        assert_int_equal(reserve(t, who, NVME_IO_RESV_REGISTER, NVME_RREGA_REGISTER, (uint64_t)who + 1, &r), 0);
    }
    assert_int_equal(reserve(t, A, NVME_IO_RESV_ACQUIRE, NVME_RESV_WRITE_EXCLUSIVE_REGISTRANTS << 8, 0, &r), 0);
}

static void clear_table(struct table *t)
{
    t->done = false;
    plx_nvmf_target_stop(t->t, 0, finished, t);
    for (int i = 0; i < 4000 && !t->done; i++) {
        test_disk_end(t->disk, 0);
        let_pass(t, 1);
    }
    assert_true(t->done);
    assert_int_equal(t->result, 0);
    plx_nvmf_target_destroy(t->t);
    plx_reactor_destroy(t->reactor);
    plx_bdev_close(&t->disk->bdev);
    plx_clock_simulate(NULL);
}

static uint8_t buffer[4096];

static uint16_t begin(struct table *t, int who, uint8_t opcode, struct reply *r)
{
    struct nvme_cmd cmd = {.opcode = opcode, .nsid = plx_put32(1)};
    return ask(t, &t->hosts[who].io, cmd, opcode == NVME_IO_FLUSH ? NULL : buffer, opcode == NVME_IO_FLUSH ? 0 : 512,
               r);
}

static uint16_t preempt_by(struct table *t, int who, int action, int preempted, struct reply *r)
{
    return reserve(t, who, NVME_IO_RESV_ACQUIRE, (uint32_t)action | NVME_RESV_EXCLUSIVE_ACCESS << 8,
                   (uint64_t)preempted + 1, r);
}

/* ---- Preempt, and Abort ---- */

static void a_preempt_leaves_alone_what_the_disk_has(void **state)
{
    struct table t;
    struct reply write, preempted;
    (void)state;
    set_table(&t);
    assert_int_equal(begin(&t, A, NVME_IO_WRITE, &write), PENDING);
    assert_int_equal(preempt_by(&t, B, NVME_RACQA_PREEMPT, A, &preempted), 0);
    assert_int_equal(t.disk->aborts, 0);
    test_disk_end(t.disk, 0);
    assert_int_equal(status_in(&write), 0);
    assert_int_equal(begin(&t, A, NVME_IO_WRITE, &write), CONFLICT);
    clear_table(&t);
}

static void a_preempt_and_abort_ends_what_the_disk_has_of_that_host(void **state)
{
    struct table t;
    struct reply write, read, other, own, preempted;
    (void)state;
    set_table(&t);
    assert_int_equal(begin(&t, A, NVME_IO_WRITE, &write), PENDING);
    assert_int_equal(begin(&t, C, NVME_IO_WRITE, &other), PENDING);
    assert_int_equal(begin(&t, B, NVME_IO_WRITE, &own), PENDING);
    assert_int_equal(begin(&t, A, NVME_IO_READ, &read), PENDING);
    assert_int_equal(preempt_by(&t, B, NVME_RACQA_PREEMPT_AND_ABORT, A, &preempted), 0);
    assert_int_equal(t.disk->aborts, 2);
    assert_int_equal(status_in(&write), PLX_SC_PREEMPTED_AND_ABORTED);
    assert_int_equal(status_in(&read), PLX_SC_PREEMPTED_AND_ABORTED);
    assert_int_equal(status_in(&other), PENDING);
    assert_int_equal(status_in(&own), PENDING);
    clear_table(&t);
}

static void a_preempt_and_abort_waits_for_what_cannot_be_aborted(void **state)
{
    struct table t;
    struct reply write, again, preempted, report;
    (void)state;
    set_table(&t);
    t.disk->ignores_aborts = true;
    assert_int_equal(begin(&t, A, NVME_IO_WRITE, &write), PENDING);
    assert_int_equal(preempt_by(&t, B, NVME_RACQA_PREEMPT_AND_ABORT, A, &preempted), PENDING);
    assert_int_equal(t.disk->aborts, 1);
    let_pass(&t, 5000);
    assert_int_equal(status_in(&preempted), PENDING);
    assert_int_equal(begin(&t, A, NVME_IO_WRITE, &again), CONFLICT); /* which holds already */
    /* A command of the host that was thrown out waits for its turn, and is not waited for. */
    assert_int_equal(reserve(&t, A, NVME_IO_RESV_REGISTER, NVME_RREGA_REPLACE, 9, &report), PENDING);
    test_disk_end(t.disk, 0);
    let_pass(&t, 2);
    assert_int_equal(status_in(&write), 0); /* the disk did it */
    assert_int_equal(status_in(&preempted), 0);
    assert_int_equal(status_in(&report), CONFLICT);
    clear_table(&t);
}

/* Commands of others among them, which come and end meanwhile. */
static void a_preempt_and_abort_waits_for_all_that_there_are(void **state)
{
    enum { MANY = 100 };
    static struct reply writes[MANY], others[MANY], preempted;
    struct table t;
    (void)state;
    set_table(&t);
    t.disk->ignores_aborts = true;
    for (int i = 0; i < MANY; i++) {
        assert_int_equal(begin(&t, A, NVME_IO_WRITE, &writes[i]), PENDING);
        assert_int_equal(begin(&t, B, NVME_IO_WRITE, &others[i]), PENDING);
    }
    assert_int_equal(preempt_by(&t, B, NVME_RACQA_PREEMPT_AND_ABORT, A, &preempted), PENDING);
    for (int i = 0; i < MANY; i++) {
        let_pass(&t, 2);
        assert_int_equal(status_in(&preempted), PENDING);
        assert_true(test_disk_end(t.disk, 0));
        assert_int_equal(status_in(&writes[i]), 0);
        if (i < MANY - 1) /* one of others is left to the end */
            assert_true(test_disk_end(t.disk, 0));
        if (i % 2)
            begin(&t, B, NVME_IO_WRITE, &others[i]);
    }
    let_pass(&t, 2);
    assert_int_equal(status_in(&preempted), 0);
    clear_table(&t);
}

static void what_a_closed_connection_has_left_at_the_disk_is_waited_for(void **state)
{
    struct table t;
    struct reply write, preempted;
    (void)state;
    set_table(&t);
    t.disk->ignores_aborts = true;
    assert_int_equal(begin(&t, A, NVME_IO_WRITE, &write), PENDING);
    calls_close(&t.hosts[A].io);
    let_pass(&t, ORPHAN_MS + 10);
    assert_true(t.hosts[A].io.gone);
    assert_int_equal(preempt_by(&t, B, NVME_RACQA_PREEMPT_AND_ABORT, A, &preempted), PENDING);
    let_pass(&t, 10);
    assert_int_equal(status_in(&preempted), PENDING);
    test_disk_end(t.disk, 0);
    let_pass(&t, 2);
    assert_int_equal(status_in(&preempted), 0);
    clear_table(&t);
}

static void a_reservation_command_that_waits_can_be_aborted_by_nobody(void **state)
{
    struct table t;
    struct reply write, preempted, aborted;
    struct nvme_cmd abort_cmd = {.opcode = NVME_ADMIN_ABORT};
    (void)state;
    set_table(&t);
    t.disk->ignores_aborts = true;
    assert_int_equal(begin(&t, A, NVME_IO_WRITE, &write), PENDING);
    assert_int_equal(preempt_by(&t, B, NVME_RACQA_PREEMPT_AND_ABORT, A, &preempted), PENDING);
    abort_cmd.cdw10 = plx_put32(1 | (uint32_t)t.cid << 16);
    assert_int_equal(ask(&t, &t.hosts[B].admin, abort_cmd, NULL, 0, &aborted), 0);
    assert_int_equal(plx_get32(aborted.cqe.dw0), 1);
    assert_int_equal(t.disk->aborts, 1); /* that of the write */
    test_disk_end(t.disk, 0);
    let_pass(&t, 2);
    assert_int_equal(status_in(&preempted), 0);
    clear_table(&t);
}

static void a_reservation_command_outlives_its_connection(void **state)
{
    struct table t;
    struct reply write, preempted;
    (void)state;
    set_table(&t);
    t.disk->ignores_aborts = true;
    assert_int_equal(begin(&t, A, NVME_IO_WRITE, &write), PENDING);
    assert_int_equal(preempt_by(&t, B, NVME_RACQA_PREEMPT_AND_ABORT, A, &preempted), PENDING);
    calls_close(&t.hosts[B].io);
    calls_close(&t.hosts[B].admin);
    let_pass(&t, ORPHAN_MS + 10);
    assert_true(t.hosts[B].io.gone && t.hosts[B].admin.gone);
    test_disk_end(t.disk, 0);
    let_pass(&t, 2);
    assert_int_equal(status_in(&preempted), PENDING);
    assert_int_equal(begin(&t, C, NVME_IO_READ, &write), CONFLICT); /* it was done all the same */
    connect_guest(&t, B);
    assert_int_equal(begin(&t, B, NVME_IO_READ, &write), PENDING);
    clear_table(&t);
}

static void a_namespace_may_be_removed_while_a_preempt_and_abort_waits(void **state)
{
    struct table t;
    struct reply write, preempted;
    (void)state;
    set_table(&t);
    t.disk->ignores_aborts = true;
    assert_int_equal(begin(&t, A, NVME_IO_WRITE, &write), PENDING);
    assert_int_equal(preempt_by(&t, B, NVME_RACQA_PREEMPT_AND_ABORT, A, &preempted), PENDING);
    assert_int_equal(plx_nvmf_subsystem_remove_ns(t.s, 1, NULL), 0);
    t.done = false;
    plx_nvmf_target_apply(t.t, finished, &t);
    let_pass(&t, 100);
    assert_false(t.done);
    test_disk_end(t.disk, 0);
    let_pass(&t, 2);
    assert_int_equal(status_in(&preempted), 0);
    assert_true(t.done && !t.result);
    assert_int_equal(t.disk->channels, 0);
    clear_table(&t);
}

/* Neither waits for the disk, and what they leave is there when that ends its request. */
static void a_target_may_stop_while_a_preempt_and_abort_waits(void **state)
{
    struct table t;
    struct reply write, preempted, later;
    (void)state;
    set_table(&t);
    t.disk->ignores_aborts = true;
    assert_int_equal(begin(&t, A, NVME_IO_WRITE, &write), PENDING);
    assert_int_equal(preempt_by(&t, B, NVME_RACQA_PREEMPT_AND_ABORT, A, &preempted), PENDING);
    assert_int_equal(reserve(&t, C, NVME_IO_RESV_RELEASE, NVME_RRELA_CLEAR, 0, &later), PENDING);
    t.done = false;
    plx_nvmf_target_stop(t.t, 0, finished, &t);
    let_pass(&t, 5000);
    assert_true(t.done);
    assert_int_equal(t.result, -ETIMEDOUT);
    while (test_disk_end(t.disk, 0)) /* the write, and the last flush */
        let_pass(&t, 5);
    plx_nvmf_target_destroy(t.t);
    plx_reactor_destroy(t.reactor);
    assert_int_equal(plx_bdev_close(&t.disk->bdev), 0);
    plx_clock_simulate(NULL);
}

/* ---- pauses ---- */

/* A Preempt on its way when a pause begins is done while that goes on; what is held does not begin after it. */
static void what_a_pause_holds_of_a_preempted_host_does_not_begin(void **state)
{
    struct table t;
    struct reply hung, first, second, write;
    (void)state;
    set_table(&t);
    t.disk->ignores_aborts = true;
    assert_int_equal(begin(&t, A, NVME_IO_WRITE, &hung), PENDING);
    assert_int_equal(preempt_by(&t, C, NVME_RACQA_PREEMPT_AND_ABORT, A, &first), PENDING);
    assert_int_equal(preempt_by(&t, B, NVME_RACQA_PREEMPT, C, &second), PENDING); /* when the first is done */
    t.done = false;
    plx_nvmf_subsystem_pause(t.s, 1, finished, &t);
    calm(&t);
    assert_int_equal(begin(&t, C, NVME_IO_WRITE, &write), PENDING); /* which holds the namespace yet */
    test_disk_end(t.disk, 0);
    let_pass(&t, 5);
    assert_true(t.done && !t.result);
    assert_int_equal(status_in(&first), 0);
    assert_int_equal(status_in(&second), 0);
    assert_int_equal(status_in(&write), PENDING);
    t.done = false;
    plx_nvmf_subsystem_resume(t.s, 1, finished, &t);
    calm(&t);
    assert_true(t.done && !t.result);
    assert_int_equal(status_in(&write), CONFLICT);
    assert_int_equal(t.disk->seen, 1);
    assert_int_equal(begin(&t, B, NVME_IO_WRITE, &write), PENDING);
    assert_int_equal(t.disk->seen, 2);
    clear_table(&t);
}

/* ---- commands of several steps ---- */

static void a_command_of_several_steps_takes_no_more_of_them(void **state)
{
    struct table t;
    struct reply dsm, preempted;
    struct nvme_dsm_range ranges[2] = {{.nlb = plx_put32(8)}, {.nlb = plx_put32(8), .slba = plx_put64(8)}};
    struct nvme_cmd cmd = {
        .opcode = NVME_IO_DSM, .nsid = plx_put32(1), .cdw10 = plx_put32(1), .cdw11 = plx_put32(NVME_DSM_AD)};
    (void)state;
    set_table(&t);
    assert_int_equal(ask(&t, &t.hosts[A].io, cmd, ranges, sizeof ranges, &dsm), PENDING);
    assert_int_equal(t.disk->seen, 1);
    assert_int_equal(preempt_by(&t, B, NVME_RACQA_PREEMPT, A, &preempted), 0);
    test_disk_end(t.disk, 0);
    calm(&t);
    assert_int_equal(t.disk->seen, 1);
    assert_int_equal(status_in(&dsm), CONFLICT);
    clear_table(&t);
}

/* ---- without reservations ---- */

static void a_namespace_that_is_not_reserved_costs_commands_nothing(void **state)
{
    struct table t;
    struct reply r;
    (void)state;
    set_table(&t);
    assert_false(t.hosts[A].io.qp.plain);
    assert_int_equal(reserve(&t, A, NVME_IO_RESV_RELEASE, NVME_RESV_WRITE_EXCLUSIVE_REGISTRANTS << 8, 0, &r), 0);
    for (int who = 0; who < HOSTS; who++)
        assert_true(t.hosts[who].io.qp.plain);
    clear_table(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_preempt_leaves_alone_what_the_disk_has),
        cmocka_unit_test(a_preempt_and_abort_ends_what_the_disk_has_of_that_host),
        cmocka_unit_test(a_preempt_and_abort_waits_for_what_cannot_be_aborted),
        cmocka_unit_test(a_preempt_and_abort_waits_for_all_that_there_are),
        cmocka_unit_test(what_a_closed_connection_has_left_at_the_disk_is_waited_for),
        cmocka_unit_test(a_reservation_command_that_waits_can_be_aborted_by_nobody),
        cmocka_unit_test(a_reservation_command_outlives_its_connection),
        cmocka_unit_test(a_namespace_may_be_removed_while_a_preempt_and_abort_waits),
        cmocka_unit_test(a_target_may_stop_while_a_preempt_and_abort_waits),
        cmocka_unit_test(what_a_pause_holds_of_a_preempted_host_does_not_begin),
        cmocka_unit_test(a_command_of_several_steps_takes_no_more_of_them),
        cmocka_unit_test(a_namespace_that_is_not_reserved_costs_commands_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
