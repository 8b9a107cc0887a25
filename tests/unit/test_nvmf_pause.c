/* SPDX-License-Identifier: BSD-3-Clause */
/* Pause and resume, by calls to a target on one reactor without a thread, in simulated time. */
#include "calls.h"
#include "failalloc.h"
#include "reactor/clock.h"
#include "test_disk.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define NQN "nqn.2024-01.com.example:paused"
#define HOST "nqn.2024-01.com.example:host"
#define OTHER "nqn.2024-01.com.example:other"

enum { PENDING = 0xffff, IO_BYTES = 4096, PAUSE_MS = 5000, MANY = 100, DNR = NVME_STATUS_DNR, ALL = 0 };

struct answer {
    bool here;
    unsigned nth; /* of all answers, in order */
    struct nvme_cqe cqe;
};

struct end { /* of what the control side has asked for */
    bool here;
    int result;
};

static struct rig {
    struct plx_reactor *reactor;
    struct plx_nvmf_target *t;
    struct plx_nvmf_subsystem *s;
    struct test_disk *disk, *second; /* namespaces 1 and 2 */
    struct calls_qpair admin, io;
    struct nvme_connect_data data;
    uint16_t cntlid, cid;
    unsigned answers;
    struct end start, stop, apply, pause, resume;
    uint8_t buf[2 * IO_BYTES];
} rig;

static uint64_t now_ns;

static uint64_t simulated(void)
{
    return now_ns;
}

static void settle(void)
{
    for (int quiet = 0; quiet < 4;)
        quiet = plx_reactor_poll(rig.reactor) ? 0 : quiet + 1;
}

static void pass(uint64_t ms)
{
    for (uint64_t i = 0; i < ms; i++) {
        now_ns += PLX_NS_PER_MS;
        settle();
    }
}

static void ended(void *arg, int result)
{
    struct end *e = arg;
    assert_false(e->here);
    *e = (struct end){true, result};
}

static int result_of(struct end *e)
{
    settle();
    int result = e->here ? e->result : -EINPROGRESS;
    e->here = false;
    return result;
}

static int pause_ns(uint32_t nsid)
{
    plx_nvmf_subsystem_pause(rig.s, nsid, ended, &rig.pause);
    return result_of(&rig.pause);
}

static int resume(uint32_t nsid)
{
    plx_nvmf_subsystem_resume(rig.s, nsid, ended, &rig.resume);
    return result_of(&rig.resume);
}

static int apply(void)
{
    plx_nvmf_target_apply(rig.t, ended, &rig.apply);
    return result_of(&rig.apply);
}

static void answered(void *arg, const struct nvme_cqe *cqe)
{
    struct answer *a = arg;
    *a = (struct answer){true, rig.answers++, *cqe};
}

static uint16_t status_of(const struct answer *a)
{
    return a->here ? calls_status(&a->cqe) : PENDING;
}

static uint16_t command(struct calls_qpair *q, struct nvme_cmd cmd, void *data, uint32_t len, struct answer *a)
{
    a->here = false;
    cmd.cid = plx_put16(++rig.cid);
    calls_send(q, &cmd, data, len, answered, a);
    settle();
    return status_of(a);
}

static struct nvme_cmd io(uint8_t opcode, uint32_t nsid)
{
    return (struct nvme_cmd){.opcode = opcode, .nsid = plx_put32(nsid), .cdw12 = plx_put32(IO_BYTES / 512 - 1)};
}

static uint16_t do_io(uint8_t opcode, uint32_t nsid, struct answer *a)
{
    bool none = opcode == NVME_IO_FLUSH || opcode == NVME_IO_WRITE_ZEROES;
    return command(&rig.io, io(opcode, nsid), none ? NULL : rig.buf, none ? 0 : IO_BYTES, a);
}

static uint16_t abort_command(uint16_t cid, struct answer *a)
{
    const struct nvme_cmd cmd = {.opcode = NVME_ADMIN_ABORT, .cdw10 = plx_put32(1 | (uint32_t)cid << 16)};
    return command(&rig.admin, cmd, NULL, 0, a);
}

static void end_all(struct test_disk *d)
{
    while (test_disk_end(d, PLX_SC_SUCCESS))
        settle();
}

static void connect_queue(struct calls_qpair *q, uint16_t qid)
{
    struct answer a = {0};
    calls_connect(q, &rig.t->groups[0], 0);
    calls_fabrics_connect(q, NQN, HOST, qid, rig.cntlid, &rig.data, answered, &a);
    settle();
    assert_int_equal(status_of(&a), 0);
    if (!qid)
        rig.cntlid = (uint16_t)plx_get32(a.cqe.dw0);
}

static void connect_host(void)
{
    struct answer a = {0};
    connect_queue(&rig.admin, 0);
    calls_enable(&rig.admin, true, answered, &a);
    settle();
    assert_int_equal(status_of(&a), 0);
    connect_queue(&rig.io, 1);
}

static void add_ns(struct test_disk *d, uint8_t mark)
{
    const uint8_t uuid[16] = {mark};
    const struct plx_nvmf_ns_opts opts = {.nsid = mark, .uuid = uuid};
    assert_int_equal(plx_nvmf_subsystem_add_ns(rig.s, &d->bdev, &opts, NULL), mark);
}

static int begin(void **state)
{
    (void)state;
    const struct plx_nvmf_subsystem_opts opts = {.nqn = NQN, .allow_any_host = true};
    memset(&rig, 0, sizeof rig);
    now_ns = PLX_NS_PER_S;
    plx_clock_simulate(simulated);
    rig.disk = test_disk_new();
    rig.second = test_disk_new();
    assert_int_equal(plx_reactor_create(&rig.reactor, NULL), 0);
    assert_int_equal(plx_nvmf_target_create(&rig.t, &rig.reactor, 1, NULL, NULL), 0);
    rig.t->transport = &calls_transport;
    assert_int_equal(plx_nvmf_subsystem_create(rig.t, &opts, &rig.s, NULL), 0);
    add_ns(rig.disk, 1);
    add_ns(rig.second, 2);
    assert_int_equal(pause_ns(ALL), -ECANCELED); /* there is nobody to hold anything of */
    plx_nvmf_target_start(rig.t, ended, &rig.start);
    assert_int_equal(result_of(&rig.start), 0);
    connect_host();
    return 0;
}

static int stop(void)
{
    plx_nvmf_target_stop(rig.t, 1000, ended, &rig.stop);
    for (int i = 0; i < 5000 && !rig.stop.here; i++) {
        end_all(rig.disk);
        end_all(rig.second);
        pass(1);
    }
    return result_of(&rig.stop);
}

static int end(void **state)
{
    (void)state;
    assert_int_equal(stop(), 0);
    assert_int_equal(rig.t->groups[0].reqs_in_use, 0);
    assert_true(plx_list_empty(&rig.t->pauses));
    plx_nvmf_target_destroy(rig.t);
    plx_reactor_destroy(rig.reactor);
    assert_int_equal(plx_bdev_close(&rig.disk->bdev), 0);
    assert_int_equal(plx_bdev_close(&rig.second->bdev), 0);
    plx_clock_simulate(NULL);
    return 0;
}

/* ---- holding, draining, going on ---- */

static void commands_are_held_until_it_is_over_and_go_on_in_order(void **state)
{
    (void)state;
    static struct answer a[MANY];
    assert_int_equal(pause_ns(ALL), 0);
    const int seen = rig.disk->seen;
    for (unsigned i = 0; i < MANY; i++)
        assert_int_equal(do_io(i % 2 ? NVME_IO_READ : NVME_IO_WRITE, 1, &a[i]), PENDING);
    pass(60000);
    assert_int_equal(rig.disk->seen, seen);
    assert_int_equal(rig.io.qp.paused, MANY);
    assert_int_equal(resume(ALL), 0);
    assert_int_equal(rig.io.qp.paused, 0);
    assert_int_equal(rig.disk->seen, seen + MANY);
    end_all(rig.disk);
    for (unsigned i = 0; i < MANY; i++) {
        assert_int_equal(status_of(&a[i]), 0);
        assert_int_equal(a[i].nth, a[0].nth + i);
    }
    assert_int_equal(do_io(NVME_IO_READ, 1, &a[0]), PENDING);
    assert_int_equal(rig.disk->seen, seen + MANY + 1);
}

/* A disk whose commands took long must not let others wait when they go on. */
static void not_all_that_was_held_goes_on_in_one_round(void **state)
{
    (void)state;
    static struct answer a[MANY];
    assert_int_equal(pause_ns(1), 0);
    for (unsigned i = 0; i < MANY; i++)
        assert_int_equal(do_io(NVME_IO_WRITE, 1, &a[i]), PENDING);
    const int seen = rig.disk->seen;
    int most = 0;
    plx_nvmf_subsystem_resume(rig.s, 1, ended, &rig.resume);
    for (int before = seen; !rig.resume.here; before = rig.disk->seen) {
        plx_reactor_poll(rig.reactor);
        most = rig.disk->seen - before > most ? rig.disk->seen - before : most;
    }
    assert_int_equal(result_of(&rig.resume), 0);
    assert_int_equal(rig.disk->seen, seen + MANY);
    assert_int_equal(most, 32);
}

static void it_is_paused_when_the_disk_has_ended_what_it_had(void **state)
{
    (void)state;
    static struct answer first, second;
    do_io(NVME_IO_WRITE, 1, &first);
    do_io(NVME_IO_READ, 1, &second);
    assert_int_equal(pause_ns(1), -EINPROGRESS);
    assert_true(test_disk_end(rig.disk, PLX_SC_SUCCESS));
    pass(1000);
    assert_int_equal(result_of(&rig.pause), -EINPROGRESS);
    assert_true(test_disk_end(rig.disk, PLX_SC_UNRECOVERED_READ_ERROR));
    pass(1);
    assert_int_equal(result_of(&rig.pause), 0);
    assert_int_equal(status_of(&first), 0);
    assert_int_equal(status_of(&second), PLX_SC_UNRECOVERED_READ_ERROR | DNR);
}

static void admin_commands_and_other_namespaces_go_on(void **state)
{
    (void)state;
    static struct answer a, held;
    const struct nvme_cmd identify = {.opcode = NVME_ADMIN_IDENTIFY, .nsid = plx_put32(1)},
                          alive = {.opcode = NVME_ADMIN_KEEP_ALIVE};
    assert_int_equal(pause_ns(1), 0);
    assert_int_equal(do_io(NVME_IO_WRITE, 1, &held), PENDING);
    do_io(NVME_IO_WRITE, 2, &a);
    assert_true(test_disk_end(rig.second, PLX_SC_SUCCESS));
    settle();
    assert_int_equal(status_of(&a), 0);
    assert_int_equal(command(&rig.admin, alive, NULL, 0, &a), 0);
    const int seen = rig.disk->seen;
    assert_int_equal(command(&rig.admin, identify, rig.buf, 4096, &a), 0); /* without asking the disk */
    assert_int_equal(rig.disk->seen, seen);
    assert_int_equal(resume(1), 0);
    assert_int_equal(rig.disk->seen, seen + 1);
}

static void what_comes_to_a_paused_subsystem_is_paused(void **state)
{
    (void)state;
    static struct answer a, b;
    struct test_disk *third = test_disk_new();
    assert_int_equal(pause_ns(ALL), 0);
    add_ns(third, 3);
    assert_int_equal(apply(), 0);
    assert_int_equal(do_io(NVME_IO_READ, 3, &a), PENDING);
    calls_close(&rig.io);
    settle();
    connect_queue(&rig.io, 1); /* and so is a new connection */
    assert_int_equal(do_io(NVME_IO_READ, 3, &a), PENDING);
    assert_int_equal(do_io(NVME_IO_READ, 2, &b), PENDING);
    assert_int_equal(third->seen + rig.second->seen, 0);
    assert_int_equal(resume(ALL), 0);
    assert_int_equal(third->seen, 1);
    assert_int_equal(rig.second->seen, 1);
    end_all(third);
    assert_int_equal(plx_nvmf_subsystem_remove_ns(rig.s, 3, NULL), 0);
    assert_int_equal(apply(), 0);
    plx_bdev_close(&third->bdev);
}

static void what_is_paused_twice_is_until_both_are_over(void **state)
{
    (void)state;
    static struct answer one, two;
    assert_int_equal(pause_ns(1), 0);
    assert_int_equal(do_io(NVME_IO_READ, 1, &one), PENDING);
    assert_int_equal(pause_ns(ALL), 0);
    assert_int_equal(do_io(NVME_IO_READ, 2, &two), PENDING);
    assert_int_equal(resume(1), 0);
    assert_int_equal(rig.disk->seen + rig.second->seen, 0);
    assert_int_equal(resume(ALL), 0);
    assert_int_equal(rig.disk->seen, 1);
    assert_int_equal(rig.second->seen, 1);
}

static void what_is_wrong_is_said(void **state)
{
    (void)state;
    static struct answer a;
    assert_int_equal(pause_ns(3), -ENOENT);
    assert_int_equal(pause_ns(UINT32_MAX), -ENOENT);
    assert_int_equal(resume(1), -ENOENT);
    failalloc_at(1);
    assert_int_equal(pause_ns(1), -ENOMEM);
    failalloc_at(2);
    assert_int_equal(pause_ns(1), -ENOMEM);
    failalloc_at(0);
    do_io(NVME_IO_WRITE, 1, &a);
    assert_int_equal(pause_ns(1), -EINPROGRESS);
    struct end again = {0};
    plx_nvmf_subsystem_pause(rig.s, 1, ended, &again);
    assert_int_equal(result_of(&again), -EALREADY);
    end_all(rig.disk);
    pass(1);
    assert_int_equal(result_of(&rig.pause), 0);
    assert_int_equal(pause_ns(1), -EALREADY);
    assert_int_equal(pause_ns(ALL), 0);
    assert_int_equal(pause_ns(2), -EALREADY);
    assert_int_equal(resume(2), -ENOENT);
    plx_nvmf_subsystem_resume(rig.s, 1, ended, &again);
    assert_int_equal(resume(1), -EALREADY);
    assert_int_equal(result_of(&again), 0);
    plx_nvmf_subsystem_resume(rig.s, ALL, ended, &again);
    plx_nvmf_subsystem_pause(rig.s, 1, ended, &rig.pause);
    assert_int_equal(result_of(&rig.pause), -EBUSY);
    assert_int_equal(result_of(&again), 0);
}

static void a_disk_that_hangs_is_not_paused(void **state)
{
    (void)state;
    static struct answer at_disk, held;
    do_io(NVME_IO_WRITE, 1, &at_disk);
    assert_int_equal(pause_ns(1), -EINPROGRESS);
    assert_int_equal(do_io(NVME_IO_READ, 1, &held), PENDING);
    pass(PAUSE_MS - 10);
    assert_int_equal(result_of(&rig.pause), -EINPROGRESS);
    assert_int_equal(rig.disk->seen, 1);
    pass(20);
    assert_int_equal(result_of(&rig.pause), -ETIMEDOUT);
    assert_int_equal(rig.disk->seen, 2);
    assert_int_equal(rig.disk->aborts, 0);
    end_all(rig.disk);
    assert_int_equal(status_of(&at_disk), 0);
    assert_int_equal(status_of(&held), 0);
    assert_int_equal(pause_ns(1), 0);
    assert_int_equal(resume(1), 0);
}

static void a_pause_that_is_under_way_can_be_called_off(void **state)
{
    (void)state;
    static struct answer at_disk, held;
    do_io(NVME_IO_WRITE, 1, &at_disk);
    assert_int_equal(pause_ns(1), -EINPROGRESS);
    assert_int_equal(do_io(NVME_IO_READ, 1, &held), PENDING);
    assert_int_equal(resume(1), -EINPROGRESS);
    pass(1);
    assert_int_equal(result_of(&rig.pause), -ECANCELED);
    assert_int_equal(result_of(&rig.resume), 0);
    assert_int_equal(rig.disk->seen, 2);
}

static void another_subsystem_goes_on(void **state)
{
    (void)state;
    static struct answer a, held;
    struct plx_nvmf_subsystem *s = rig.s;
    const struct plx_nvmf_subsystem_opts opts = {.nqn = OTHER, .allow_any_host = true};
    assert_int_equal(plx_nvmf_subsystem_create(rig.t, &opts, &rig.s, NULL), 0);
    struct plx_nvmf_subsystem *other = rig.s;
    struct test_disk *third = test_disk_new();
    add_ns(third, 1);
    assert_int_equal(apply(), 0);
    assert_int_equal(pause_ns(ALL), 0); /* the other one */
    do_io(NVME_IO_WRITE, 1, &a);
    end_all(rig.disk);
    assert_int_equal(status_of(&a), 0);
    rig.s = s;
    assert_int_equal(pause_ns(2), 0); /* and one of this */
    do_io(NVME_IO_WRITE, 1, &a);
    end_all(rig.disk);
    assert_int_equal(status_of(&a), 0);
    assert_int_equal(do_io(NVME_IO_WRITE, 2, &held), PENDING);
    rig.s = other;
    assert_int_equal(resume(ALL), 0);
    assert_int_equal(rig.second->seen, 0);
    plx_nvmf_subsystem_remove(other);
    assert_int_equal(apply(), 0);
    assert_int_equal(plx_bdev_close(&third->bdev), 0);
    rig.s = s;
    assert_int_equal(resume(2), 0);
    assert_int_equal(rig.second->seen, 1);
}

/* ---- commands of several steps ---- */

static uint16_t deallocate(struct nvme_dsm_range ranges[3], struct answer *a)
{
    const struct nvme_cmd dsm = {
        .opcode = NVME_IO_DSM, .nsid = plx_put32(1), .cdw10 = plx_put32(2), .cdw11 = plx_put32(NVME_DSM_AD)};
    for (int i = 0; i < 3; i++)
        ranges[i] = (struct nvme_dsm_range){.nlb = plx_put32(8)};
    return command(&rig.io, dsm, ranges, 3 * sizeof *ranges, a);
}

static void a_long_command_is_held_between_two_steps(void **state)
{
    (void)state;
    static struct answer a;
    struct nvme_dsm_range ranges[3];
    deallocate(ranges, &a);
    assert_int_equal(rig.disk->seen, 1);
    assert_int_equal(pause_ns(1), -EINPROGRESS);
    assert_true(test_disk_end(rig.disk, PLX_SC_SUCCESS));
    pass(1);
    assert_int_equal(result_of(&rig.pause), 0);
    assert_int_equal(rig.disk->seen, 1);
    assert_int_equal(resume(1), 0);
    assert_int_equal(rig.disk->seen, 2);
    end_all(rig.disk);
    assert_int_equal(rig.disk->seen, 3);
    assert_int_equal(status_of(&a), 0);
}

static void a_long_command_of_a_lost_connection_is_not_held(void **state)
{
    (void)state;
    static struct answer a;
    struct nvme_dsm_range ranges[3];
    rig.disk->ignores_aborts = true;
    deallocate(ranges, &a);
    assert_int_equal(pause_ns(1), -EINPROGRESS);
    calls_close(&rig.io);
    assert_true(test_disk_end(rig.disk, PLX_SC_SUCCESS));
    pass(1);
    assert_int_equal(result_of(&rig.pause), 0);
    assert_true(rig.io.gone);
    assert_int_equal(rig.disk->seen, 1);
}

static void a_flush_of_all_stops_at_the_one_that_is_paused(void **state)
{
    (void)state;
    static struct answer a, b;
    assert_int_equal(pause_ns(2), 0);
    assert_int_equal(do_io(NVME_IO_FLUSH, NVME_NSID_ALL, &a), PENDING);
    assert_int_equal(rig.disk->seen, 1);
    end_all(rig.disk);
    assert_int_equal(rig.second->seen, 0);
    assert_int_equal(pause_ns(1), 0); /* the first is done with it */
    assert_int_equal(do_io(NVME_IO_FLUSH, NVME_NSID_ALL, &b), PENDING);
    assert_int_equal(resume(2), 0);
    assert_int_equal(rig.second->seen, 1);
    end_all(rig.second);
    assert_int_equal(status_of(&a), 0);
    assert_int_equal(rig.disk->seen, 1);
    /* One that goes while a flush of all waits for it is not waited for. */
    assert_int_equal(plx_nvmf_subsystem_remove_ns(rig.s, 1, NULL), 0);
    assert_int_equal(apply(), 0);
    assert_int_equal(resume(1), 0);
    assert_int_equal(rig.second->seen, 2);
    end_all(rig.second);
    assert_int_equal(status_of(&b), 0);
}

/* ---- fused Compare and Write ---- */

static struct nvme_cmd half(bool second)
{
    struct nvme_cmd cmd = io(second ? NVME_IO_WRITE : NVME_IO_COMPARE, 1);
    cmd.flags = second ? NVME_FUSE_SECOND : NVME_FUSE_FIRST;
    cmd.cdw12 = plx_put32(0);
    return cmd;
}

static void a_fused_command_is_held_as_one(void **state)
{
    (void)state;
    static struct answer first, second;
    assert_int_equal(pause_ns(1), 0);
    command(&rig.io, half(false), rig.buf, 512, &first);
    command(&rig.io, half(true), rig.buf + 512, 512, &second);
    assert_int_equal(rig.disk->seen, 0);
    assert_int_equal(resume(1), 0);
    assert_int_equal(rig.disk->seen, 1);
    assert_int_equal(rig.disk->first->op, PLX_BDEV_COMPARE_AND_WRITE);
    end_all(rig.disk);
    assert_int_equal(status_of(&first), 0);
    assert_int_equal(status_of(&second), 0);
}

static void a_fused_command_whose_half_came_before_the_pause_is_held(void **state)
{
    (void)state;
    static struct answer first, second;
    command(&rig.io, half(false), rig.buf, 512, &first);
    assert_int_equal(pause_ns(1), 0);
    command(&rig.io, half(true), rig.buf + 512, 512, &second);
    assert_int_equal(rig.disk->seen, 0);
    assert_int_equal(resume(1), 0);
    end_all(rig.disk);
    assert_int_equal(status_of(&first), 0);
    assert_int_equal(status_of(&second), 0);
}

static void an_abort_of_either_half_ends_both(void **state)
{
    (void)state;
    for (int of_second = 0; of_second < 2; of_second++) {
        static struct answer half_a, half_b, a;
        assert_int_equal(pause_ns(1), 0);
        command(&rig.io, half(false), rig.buf, 512, &half_a);
        const uint16_t cid = rig.cid;
        command(&rig.io, half(true), rig.buf + 512, 512, &half_b);
        assert_int_equal(abort_command((uint16_t)(cid + of_second), &a), 0);
        assert_int_equal(plx_get32(a.cqe.dw0), 0);
        assert_int_equal(status_of(of_second ? &half_b : &half_a), PLX_SC_ABORTED_BY_REQUEST);
        assert_int_equal(status_of(of_second ? &half_a : &half_b), PLX_SC_ABORTED_FAILED_FUSED | DNR);
        assert_int_equal(resume(1), 0);
        assert_int_equal(rig.disk->seen, 0);
    }
}

/* ---- what is held ends ---- */

static void a_held_command_can_be_aborted(void **state)
{
    (void)state;
    static struct answer before, held, after, a;
    assert_int_equal(pause_ns(1), 0);
    do_io(NVME_IO_WRITE, 1, &before);
    do_io(NVME_IO_WRITE, 1, &held);
    const uint16_t cid = rig.cid;
    do_io(NVME_IO_WRITE, 1, &after);
    assert_int_equal(abort_command(cid, &a), 0);
    assert_int_equal(plx_get32(a.cqe.dw0), 0); /* it was */
    assert_int_equal(status_of(&held), PLX_SC_ABORTED_BY_REQUEST);
    assert_int_equal(resume(1), 0);
    assert_int_equal(rig.disk->seen, 2);
    end_all(rig.disk);
    assert_int_equal(status_of(&before), 0);
    assert_int_equal(status_of(&after), 0);
}

static void what_is_held_ends_with_its_connection(void **state)
{
    (void)state;
    static struct answer a[3];
    assert_int_equal(pause_ns(ALL), 0);
    do_io(NVME_IO_WRITE, 1, &a[0]);
    do_io(NVME_IO_FLUSH, NVME_NSID_ALL, &a[1]);
    command(&rig.io, half(false), rig.buf, 512, &a[2]);
    calls_close(&rig.io);
    settle();
    assert_true(rig.io.gone);
    assert_int_equal(resume(ALL), 0);
    assert_int_equal(rig.disk->seen, 0);
    connect_queue(&rig.io, 1);
    assert_int_equal(do_io(NVME_IO_READ, 1, &a[0]), PENDING);
    assert_int_equal(rig.disk->seen, 1);
}

static void a_reset_of_the_controller_ends_what_is_held(void **state)
{
    (void)state;
    static struct answer held, a;
    assert_int_equal(pause_ns(1), 0);
    do_io(NVME_IO_WRITE, 1, &held);
    calls_enable(&rig.admin, false, answered, &a);
    settle();
    assert_int_equal(status_of(&a), 0);
    assert_true(rig.io.gone);
    assert_int_equal(resume(1), 0);
    assert_int_equal(rig.disk->seen, 0);
}

/* What a closed connection has at a disk is waited for, as any other. */
static void it_is_not_paused_while_a_lost_connection_has_something_at_the_disk(void **state)
{
    (void)state;
    static struct answer a;
    rig.disk->ignores_aborts = true;
    do_io(NVME_IO_WRITE, 1, &a);
    calls_close(&rig.io);
    pass(NVMF_ORPHAN_MS + 10);
    assert_true(rig.io.gone);
    assert_int_equal(pause_ns(1), -EINPROGRESS);
    pass(100);
    assert_int_equal(result_of(&rig.pause), -EINPROGRESS);
    end_all(rig.disk);
    pass(1);
    assert_int_equal(result_of(&rig.pause), 0);
}

static void a_namespace_can_be_removed_while_it_is_paused(void **state)
{
    (void)state;
    static struct answer write, other;
    assert_int_equal(pause_ns(1), 0);
    do_io(NVME_IO_WRITE, 1, &write);
    do_io(NVME_IO_WRITE, 2, &other);
    assert_int_equal(plx_nvmf_subsystem_remove_ns(rig.s, 1, NULL), 0);
    assert_int_equal(apply(), 0);
    assert_int_equal(status_of(&write), PLX_SC_INVALID_NAMESPACE_OR_FORMAT | DNR);
    assert_int_equal(rig.disk->channels, 0);
    assert_int_equal(rig.disk->seen, 0);
    /* The pause is that of an identifier. */
    add_ns(rig.disk, 1);
    assert_int_equal(apply(), 0);
    assert_int_equal(do_io(NVME_IO_WRITE, 1, &write), PENDING);
    assert_int_equal(rig.disk->seen, 0);
    assert_int_equal(resume(1), 0);
    assert_int_equal(rig.disk->seen, 1);
}

static void a_namespace_can_be_removed_while_it_is_about_to_be_paused(void **state)
{
    (void)state;
    static struct answer a;
    rig.disk->ignores_aborts = true;
    do_io(NVME_IO_WRITE, 1, &a);
    assert_int_equal(pause_ns(1), -EINPROGRESS);
    assert_int_equal(plx_nvmf_subsystem_remove_ns(rig.s, 1, NULL), 0);
    assert_int_equal(apply(), -EINPROGRESS);
    pass(1);
    assert_int_equal(result_of(&rig.pause), 0); /* as there is nothing that could go to the disk */
    end_all(rig.disk);
    pass(1);
    assert_int_equal(result_of(&rig.apply), 0);
    assert_int_equal(resume(1), 0);
}

static void a_subsystem_can_be_removed_while_it_is_paused(void **state)
{
    (void)state;
    for (int draining = 0; draining < 2; draining++) {
        static struct answer a;
        if (draining)
            do_io(NVME_IO_WRITE, 2, &a);
        assert_int_equal(pause_ns(ALL), draining ? -EINPROGRESS : 0);
        do_io(NVME_IO_WRITE, 1, &a);
        rig.second->ignores_aborts = draining;
        plx_nvmf_subsystem_remove(rig.s);
        plx_nvmf_target_apply(rig.t, ended, &rig.apply);
        pass(2);
        end_all(rig.second);
        pass(2);
        assert_int_equal(result_of(&rig.apply), 0);
        if (draining)
            assert_int_equal(result_of(&rig.pause), -ECANCELED);
        assert_true(plx_list_empty(&rig.t->pauses));
        assert_true(rig.io.gone && rig.admin.gone);
        assert_int_equal(rig.disk->seen, 0);
        const struct plx_nvmf_subsystem_opts opts = {.nqn = NQN, .allow_any_host = true};
        assert_int_equal(plx_nvmf_subsystem_create(rig.t, &opts, &rig.s, NULL), 0);
        add_ns(rig.disk, 1);
        add_ns(rig.second, 2);
        assert_int_equal(apply(), 0);
        connect_host();
    }
}

/* and is gone when that is over */
static void a_paused_subsystem_without_hosts_can_be_removed(void **state)
{
    (void)state;
    assert_int_equal(pause_ns(ALL), 0);
    calls_close(&rig.io);
    calls_close(&rig.admin);
    settle();
    assert_true(rig.admin.gone);
    for (uint32_t nsid = 1; nsid <= 2; nsid++)
        assert_int_equal(plx_nvmf_subsystem_remove_ns(rig.s, nsid, NULL), 0);
    assert_int_equal(apply(), 0);
    plx_nvmf_subsystem_remove(rig.s);
    assert_int_equal(apply(), 0);
    assert_true(plx_list_empty(&rig.t->pauses));
}

static void a_target_can_be_stopped_while_it_is_paused(void **state)
{
    (void)state;
    static struct answer a;
    assert_int_equal(pause_ns(ALL), 0);
    do_io(NVME_IO_WRITE, 1, &a);
} /* end() stops it */

static void a_target_can_be_stopped_while_it_is_about_to_be_paused(void **state)
{
    (void)state;
    static struct answer a;
    do_io(NVME_IO_WRITE, 1, &a);
    assert_int_equal(pause_ns(ALL), -EINPROGRESS);
    plx_nvmf_target_stop(rig.t, 1000, ended, &rig.stop);
    pass(1);
    assert_int_equal(result_of(&rig.pause), -ECANCELED);
    assert_int_equal(pause_ns(ALL), -ECANCELED);
    for (int i = 0; i < 5000 && !rig.stop.here; i++) {
        end_all(rig.disk);
        end_all(rig.second);
        pass(1);
    }
    assert_int_equal(result_of(&rig.stop), 0);
    plx_nvmf_target_destroy(rig.t);
    plx_reactor_destroy(rig.reactor);
    assert_int_equal(plx_bdev_close(&rig.disk->bdev), 0);
    assert_int_equal(plx_bdev_close(&rig.second->bdev), 0);
    plx_clock_simulate(NULL);
}

int main(void)
{
#define EACH(f) cmocka_unit_test_setup_teardown(f, begin, end)
    const struct CMUnitTest tests[] = {
        EACH(commands_are_held_until_it_is_over_and_go_on_in_order),
        EACH(not_all_that_was_held_goes_on_in_one_round),
        EACH(it_is_paused_when_the_disk_has_ended_what_it_had),
        EACH(admin_commands_and_other_namespaces_go_on),
        EACH(what_comes_to_a_paused_subsystem_is_paused),
        EACH(what_is_paused_twice_is_until_both_are_over),
        EACH(what_is_wrong_is_said),
        EACH(a_disk_that_hangs_is_not_paused),
        EACH(a_pause_that_is_under_way_can_be_called_off),
        EACH(another_subsystem_goes_on),
        EACH(a_long_command_is_held_between_two_steps),
        EACH(a_long_command_of_a_lost_connection_is_not_held),
        EACH(a_flush_of_all_stops_at_the_one_that_is_paused),
        EACH(a_fused_command_is_held_as_one),
        EACH(a_fused_command_whose_half_came_before_the_pause_is_held),
        EACH(an_abort_of_either_half_ends_both),
        EACH(a_held_command_can_be_aborted),
        EACH(what_is_held_ends_with_its_connection),
        EACH(a_reset_of_the_controller_ends_what_is_held),
        EACH(it_is_not_paused_while_a_lost_connection_has_something_at_the_disk),
        EACH(a_namespace_can_be_removed_while_it_is_paused),
        EACH(a_namespace_can_be_removed_while_it_is_about_to_be_paused),
        EACH(a_subsystem_can_be_removed_while_it_is_paused),
        EACH(a_paused_subsystem_without_hosts_can_be_removed),
        EACH(a_target_can_be_stopped_while_it_is_paused),
        cmocka_unit_test_setup(a_target_can_be_stopped_while_it_is_about_to_be_paused, begin),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
