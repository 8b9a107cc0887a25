/* SPDX-License-Identifier: BSD-3-Clause */
/* What hosts see of a target that changes while they use it: on one reactor without a thread, in simulated time. */
#include "calls.h"
#include "reactor/clock.h"
#include "test_disk.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define NQN "nqn.2024-01.com.example:changes"
#define HOST "nqn.2024-01.com.example:host"
#define OTHER "nqn.2024-01.com.example:other"

enum { PENDING = 0xffff, IO_BYTES = 4096 };
enum { ORPHAN_MS = 2000, LEAVE_MS = 1000, LATE_MS = 500, FLUSH_MS = 1500 }; /* docs/architecture.md says so */

/* One that waits for what it has asked for. */
struct answer {
    bool here;
    struct nvme_cqe cqe;
};

struct host {
    struct calls_qpair admin, io;
    struct nvme_connect_data data;
    struct answer event;
    uint16_t cntlid, cid;
    uint8_t buf[16384];
};

struct rig {
    struct plx_reactor *reactor;
    struct plx_nvmf_target *t;
    struct plx_nvmf_subsystem *s;
    struct plx_nvmf_listener *l;
    struct plx_bdev *ram;
    struct host h;
    bool done;
    int result;
};

static uint64_t now_ns;

static uint64_t simulated(void)
{
    return now_ns;
}

static void settle(struct rig *rig)
{
    for (int quiet = 0; quiet < 4;)
        quiet = plx_reactor_poll(rig->reactor) ? 0 : quiet + 1;
}

static void pass(struct rig *rig, uint64_t ms)
{
    for (uint64_t i = 0; i < ms; i += 10) {
        now_ns += 10 * PLX_NS_PER_MS;
        settle(rig);
    }
}

static void over(void *arg, int result)
{
    struct rig *rig = arg;
    rig->done = true;
    rig->result = result;
}

/* What became of a start, an apply or a stop, or -EINPROGRESS. */
static int outcome(struct rig *rig)
{
    settle(rig);
    bool done = rig->done;
    rig->done = false;
    return done ? rig->result : -EINPROGRESS;
}

static int apply(struct rig *rig)
{
    plx_nvmf_target_apply(rig->t, over, rig);
    return outcome(rig);
}

static void answered(void *arg, const struct nvme_cqe *cqe)
{
    struct answer *a = arg;
    a->here = true;
    a->cqe = *cqe;
}

static uint16_t status_of(const struct answer *a)
{
    return a->here ? calls_status(&a->cqe) : PENDING;
}

static uint16_t command(struct rig *rig, struct calls_qpair *q, struct nvme_cmd cmd, void *data, uint32_t len,
                        struct answer *a)
{
    a->here = false;
    cmd.cid = plx_put16(++rig->h.cid);
    calls_send(q, &cmd, data, len, answered, a);
    settle(rig);
    return status_of(a);
}

static uint16_t connect_queue(struct rig *rig, struct host *h, const char *hostnqn, uint16_t qid, uint16_t portid)
{
    struct answer a = {0};
    struct calls_qpair *q = qid ? &h->io : &h->admin;
    calls_connect(q, &rig->t->groups[0], portid);
    calls_fabrics_connect(q, NQN, hostnqn, qid, h->cntlid, &h->data, answered, &a);
    settle(rig);
    if (!qid && !status_of(&a))
        h->cntlid = (uint16_t)plx_get32(a.cqe.dw0);
    if (status_of(&a)) {
        calls_close(q);
        settle(rig);
        assert_true(q->gone);
    }
    return status_of(&a);
}

static uint16_t connect_host(struct rig *rig, struct host *h, const char *hostnqn, uint16_t portid)
{
    struct answer a = {0};
    uint16_t status = connect_queue(rig, h, hostnqn, 0, portid);
    if (status)
        return status;
    calls_enable(&h->admin, true, answered, &a);
    settle(rig);
    return status_of(&a) ? status_of(&a) : connect_queue(rig, h, hostnqn, 1, portid);
}

static void open_rig(struct rig *rig, struct plx_bdev *disk)
{
    const struct plx_nvmf_subsystem_opts opts = {.nqn = NQN};
    memset(rig, 0, sizeof *rig);
    now_ns = PLX_NS_PER_S;
    plx_clock_simulate(simulated);
    assert_int_equal(plx_reactor_create(&rig->reactor, NULL), 0);
    assert_int_equal(plx_nvmf_target_create(&rig->t, &rig->reactor, 1, NULL, NULL), 0);
    rig->t->transport = &calls_transport;
    assert_int_equal(plx_nvmf_subsystem_create(rig->t, &opts, &rig->s, NULL), 0);
    assert_int_equal(plx_nvmf_subsystem_allow_host(rig->s, HOST, NULL), 0);
    assert_int_equal(plx_nvmf_listen(rig->t, "192.0.2.1", 4420, &rig->l, NULL), 0);
    assert_int_equal(plx_bdev_open("ram:1M", &rig->ram, NULL), 0);
    assert_int_equal(plx_nvmf_subsystem_add_ns(rig->s, disk ? disk : rig->ram, NULL, NULL), 1);
    plx_nvmf_target_start(rig->t, over, rig);
    assert_int_equal(outcome(rig), 0);
    assert_int_equal(connect_host(rig, &rig->h, HOST, rig->l->portid), 0);
}

static int stop(struct rig *rig, uint64_t ms)
{
    plx_nvmf_target_stop(rig->t, 1000, over, rig);
    pass(rig, ms);
    return outcome(rig);
}

static void close_rig(struct rig *rig)
{
    assert_int_equal(stop(rig, 50), 0);
    plx_nvmf_target_destroy(rig->t);
    plx_reactor_destroy(rig->reactor);
    plx_bdev_close(rig->ram);
    plx_clock_simulate(NULL);
}

static struct nvme_cmd io(uint8_t opcode, uint32_t nsid)
{
    return (struct nvme_cmd){.opcode = opcode, .nsid = plx_put32(nsid), .cdw12 = plx_put32(IO_BYTES / 512 - 1)};
}

static uint16_t do_io(struct rig *rig, uint8_t opcode, uint32_t nsid)
{
    struct answer a;
    return command(rig, &rig->h.io, io(opcode, nsid), rig->h.buf, IO_BYTES, &a);
}

static uint16_t get_log(struct rig *rig, uint8_t lid, bool retain)
{
    struct answer a;
    struct nvme_cmd cmd = {.opcode = NVME_ADMIN_GET_LOG_PAGE,
                           .cdw10 = plx_put32(lid | (retain ? 1u << 15 : 0) | (4096 / 4 - 1) << 16)};
    memset(rig->h.buf, 0xee, sizeof rig->h.buf);
    return command(rig, &rig->h.admin, cmd, rig->h.buf, 4096, &a);
}

static uint32_t word(const struct rig *rig, size_t offset)
{
    plx_le32 v;
    memcpy(&v, rig->h.buf + offset, sizeof v);
    return plx_get32(v);
}

static void want_events(struct rig *rig, uint32_t events)
{
    struct answer a;
    struct nvme_cmd cmd = {
        .opcode = NVME_ADMIN_SET_FEATURES, .cdw10 = plx_put32(NVME_FEAT_ASYNC_EVENT), .cdw11 = plx_put32(events)};
    assert_int_equal(command(rig, &rig->h.admin, cmd, NULL, 0, &a), 0);
}

static void await_event(struct rig *rig)
{
    command(rig, &rig->h.admin, (struct nvme_cmd){.opcode = NVME_ADMIN_ASYNC_EVENT}, NULL, 0, &rig->h.event);
}

static uint32_t event(const struct rig *rig)
{
    return rig->h.event.here ? plx_get32(rig->h.event.cqe.dw0) : 0;
}

enum { EVENT_NS = 0x040002, EVENT_ANA = 0x0c0302, DNR = NVME_STATUS_DNR };

/* ---- namespaces ---- */

static void a_namespace_that_is_added_is_there_after_the_apply(void **state)
{
    (void)state;
    struct rig rig;
    struct plx_bdev *more;
    const struct plx_nvmf_ns_opts opts = {.nsid = 7};
    open_rig(&rig, NULL);
    assert_int_equal(plx_bdev_open("ram:1M", &more, NULL), 0);
    want_events(&rig, NVMF_EVENT_NS);
    await_event(&rig);
    assert_int_equal(plx_nvmf_subsystem_add_ns(rig.s, more, &opts, NULL), 7);
    assert_int_equal(do_io(&rig, NVME_IO_READ, 7), PLX_SC_INVALID_NAMESPACE_OR_FORMAT | DNR);
    assert_int_equal(event(&rig), 0);
    assert_int_equal(apply(&rig), 0);
    assert_int_equal(do_io(&rig, NVME_IO_READ, 7), 0);
    assert_int_equal(event(&rig), EVENT_NS);

    /* Masked until the log has been read, where the change is. */
    await_event(&rig);
    assert_int_equal(plx_nvmf_subsystem_remove_ns(rig.s, 1, NULL), 0);
    assert_int_equal(apply(&rig), 0);
    assert_false(rig.h.event.here);
    assert_int_equal(get_log(&rig, NVME_LOG_CHANGED_NS, true), 0);
    assert_int_equal(word(&rig, 0), 1);
    assert_int_equal(word(&rig, 4), 7);
    assert_int_equal(word(&rig, 8), 0);
    assert_int_equal(get_log(&rig, NVME_LOG_CHANGED_NS, false), 0);
    assert_int_equal(word(&rig, 0), 1);
    assert_int_equal(get_log(&rig, NVME_LOG_CHANGED_NS, false), 0);
    assert_int_equal(word(&rig, 0), 0);
    assert_int_equal(plx_nvmf_subsystem_remove_ns(rig.s, 7, NULL), 0);
    assert_int_equal(apply(&rig), 0);
    assert_int_equal(event(&rig), EVENT_NS);
    assert_int_equal(do_io(&rig, NVME_IO_READ, 7), PLX_SC_INVALID_NAMESPACE_OR_FORMAT | DNR);
    plx_bdev_close(more); /* nobody uses it any more */
    close_rig(&rig);
}

static void an_event_waits_for_a_request_to_be_told_by(void **state)
{
    (void)state;
    struct rig rig;
    open_rig(&rig, NULL);
    want_events(&rig, NVMF_EVENT_NS);
    assert_int_equal(plx_nvmf_subsystem_remove_ns(rig.s, 1, NULL), 0);
    assert_int_equal(apply(&rig), 0);
    await_event(&rig);
    assert_int_equal(event(&rig), EVENT_NS);
    close_rig(&rig);
}

static void events_that_are_not_wanted_are_not_sent(void **state)
{
    (void)state;
    struct rig rig;
    open_rig(&rig, NULL);
    await_event(&rig);
    assert_int_equal(plx_nvmf_subsystem_remove_ns(rig.s, 1, NULL), 0);
    assert_int_equal(apply(&rig), 0);
    assert_false(rig.h.event.here);
    close_rig(&rig);
}

static void a_namespace_that_goes_while_it_comes_was_there(void **state)
{
    (void)state;
    struct rig rig;
    struct test_disk *d = test_disk_new();
    open_rig(&rig, NULL);
    assert_int_equal(plx_nvmf_subsystem_add_ns(rig.s, &d->bdev, NULL, NULL), 2);
    plx_nvmf_target_apply(rig.t, over, &rig);
    while (rig.t->apply.step != NVMF_APPLY_OPEN)
        plx_reactor_poll(rig.reactor);
    rig.s->changed[1] = NVMF_NEXT; /* as if it had been resized */
    assert_int_equal(plx_nvmf_subsystem_remove_ns(rig.s, 2, NULL), 0);
    assert_int_equal(outcome(&rig), 0);
    assert_int_equal(apply(&rig), 0);
    assert_int_equal(get_log(&rig, NVME_LOG_CHANGED_NS, false), 0);
    assert_int_equal(word(&rig, 0), 2);
    plx_bdev_close(&d->bdev);
    close_rig(&rig);
}

static void events_that_are_not_wanted_any_more_are_not_sent(void **state)
{
    (void)state;
    struct rig rig;
    open_rig(&rig, NULL);
    want_events(&rig, NVMF_EVENT_NS);
    assert_int_equal(plx_nvmf_subsystem_remove_ns(rig.s, 1, NULL), 0);
    assert_int_equal(apply(&rig), 0); /* and there is no request to be told by */
    want_events(&rig, 0);
    await_event(&rig);
    assert_false(rig.h.event.here);
    close_rig(&rig);
}

/* Its queues may be on any of them. */
static void a_host_is_told_when_all_reactors_see_what_it_is_told_of(void **state)
{
    (void)state;
    struct rig rig = {0};
    struct plx_reactor *reactors[2];
    const struct plx_nvmf_subsystem_opts opts = {.nqn = NQN, .allow_any_host = true};
    for (int i = 0; i < 2; i++)
        assert_int_equal(plx_reactor_create(&reactors[i], NULL), 0);
    rig.reactor = reactors[0];
    assert_int_equal(plx_nvmf_target_create(&rig.t, reactors, 2, NULL, NULL), 0);
    rig.t->transport = &calls_transport;
    assert_int_equal(plx_nvmf_subsystem_create(rig.t, &opts, &rig.s, NULL), 0);
    assert_int_equal(plx_bdev_open("ram:1M", &rig.ram, NULL), 0);
    plx_nvmf_target_start(rig.t, over, &rig);
    while (outcome(&rig) == -EINPROGRESS)
        plx_reactor_poll(reactors[1]);
    assert_int_equal(connect_host(&rig, &rig.h, HOST, 0), 0);
    want_events(&rig, NVMF_EVENT_NS);
    await_event(&rig);
    assert_int_equal(plx_nvmf_subsystem_add_ns(rig.s, rig.ram, NULL, NULL), 1);
    plx_nvmf_target_apply(rig.t, over, &rig);
    while (rig.t->groups[0].snap->images[rig.s->index]->nns == 0) {
        settle(&rig);
        if (rig.t->apply.step == NVMF_APPLY_OPEN)
            plx_reactor_poll(reactors[1]);
    }
    settle(&rig);
    assert_false(rig.h.event.here);
    while (outcome(&rig) == -EINPROGRESS)
        plx_reactor_poll(reactors[1]);
    assert_int_equal(event(&rig), EVENT_NS);
    plx_nvmf_target_stop(rig.t, 1000, over, &rig);
    while (outcome(&rig) == -EINPROGRESS)
        plx_reactor_poll(reactors[1]);
    plx_nvmf_target_destroy(rig.t);
    for (int i = 0; i < 2; i++)
        plx_reactor_destroy(reactors[i]);
    plx_bdev_close(rig.ram);
}

static void commands_of_a_namespace_that_is_removed_end_as_of_an_inactive_one(void **state)
{
    (void)state;
    struct rig rig;
    struct test_disk *d = test_disk_new();
    struct answer write, flush, identify;
    open_rig(&rig, &d->bdev);
    command(&rig, &rig.h.io, io(NVME_IO_WRITE, 1), rig.h.buf, IO_BYTES, &write);
    command(&rig, &rig.h.io, io(NVME_IO_FLUSH, 1), NULL, 0, &flush);
    command(&rig, &rig.h.admin, (struct nvme_cmd){.opcode = NVME_ADMIN_IDENTIFY, .nsid = plx_put32(1)}, rig.h.buf, 4096,
            &identify);
    assert_int_equal(d->seen, 3);
    assert_int_equal(plx_nvmf_subsystem_remove_ns(rig.s, 1, NULL), 0);
    assert_int_equal(apply(&rig), 0);
    assert_int_equal(status_of(&write), PLX_SC_INVALID_NAMESPACE_OR_FORMAT | DNR);
    assert_int_equal(status_of(&flush), PLX_SC_INVALID_NAMESPACE_OR_FORMAT | DNR);
    assert_int_equal(status_of(&identify), PLX_SC_SUCCESS); /* it was there then; only NUSE is not known */
    assert_int_equal(d->channels, 0);
    plx_bdev_close(&d->bdev);
    close_rig(&rig);
}

static void a_flush_of_all_goes_on_when_one_of_them_is_removed(void **state)
{
    (void)state;
    struct rig rig;
    struct test_disk *first = test_disk_new(), *second = test_disk_new();
    const uint8_t uuid[16] = {1};
    const struct plx_nvmf_ns_opts opts = {.uuid = uuid};
    struct answer flush;
    open_rig(&rig, &first->bdev);
    assert_int_equal(plx_nvmf_subsystem_add_ns(rig.s, &second->bdev, &opts, NULL), 2);
    assert_int_equal(apply(&rig), 0);
    command(&rig, &rig.h.io, io(NVME_IO_FLUSH, NVME_NSID_ALL), NULL, 0, &flush);
    assert_int_equal(first->seen, 1);
    assert_int_equal(second->seen, 0);
    assert_int_equal(plx_nvmf_subsystem_remove_ns(rig.s, 1, NULL), 0);
    assert_int_equal(apply(&rig), 0);
    assert_int_equal(second->seen, 1);
    assert_true(test_disk_end(second, PLX_SC_SUCCESS));
    settle(&rig);
    assert_int_equal(status_of(&flush), PLX_SC_SUCCESS);
    assert_int_equal(plx_nvmf_subsystem_remove_ns(rig.s, 2, NULL), 0);
    assert_int_equal(apply(&rig), 0);
    plx_bdev_close(&first->bdev);
    plx_bdev_close(&second->bdev);
    close_rig(&rig);
}

static void an_apply_waits_for_a_disk_but_not_for_ever(void **state)
{
    (void)state;
    struct rig rig;
    struct test_disk *d = test_disk_new();
    struct answer a;
    open_rig(&rig, &d->bdev);
    d->ignores_aborts = true;
    command(&rig, &rig.h.io, io(NVME_IO_WRITE, 1), rig.h.buf, IO_BYTES, &a);
    assert_int_equal(plx_nvmf_subsystem_remove_ns(rig.s, 1, NULL), 0);
    assert_int_equal(apply(&rig), -EINPROGRESS);
    assert_int_equal(d->aborts, 1);
    pass(&rig, LEAVE_MS + LATE_MS - 20);
    assert_int_equal(outcome(&rig), -EINPROGRESS);
    pass(&rig, 40);
    assert_int_equal(outcome(&rig), -ETIMEDOUT);
    assert_int_equal(d->channels, 1);
    assert_int_equal(apply(&rig), 0); /* nor keep others waiting */
    assert_true(test_disk_end(d, PLX_SC_SUCCESS));
    settle(&rig);
    assert_int_equal(status_of(&a), PLX_SC_SUCCESS);
    assert_int_equal(d->channels, 0);
    plx_bdev_close(&d->bdev);
    close_rig(&rig);
}

static void a_disk_that_cannot_be_opened_changes_nothing_else(void **state)
{
    (void)state;
    struct rig rig;
    struct test_disk *d = test_disk_new();
    open_rig(&rig, NULL);
    d->refuse = rig.reactor;
    d->open_result = -EIO;
    want_events(&rig, NVMF_EVENT_NS);
    await_event(&rig);
    assert_int_equal(plx_nvmf_subsystem_add_ns(rig.s, &d->bdev, NULL, NULL), 2);
    assert_int_equal(plx_nvmf_subsystem_allow_host(rig.s, OTHER, NULL), 0);
    assert_int_equal(apply(&rig), -EIO);
    assert_int_equal(do_io(&rig, NVME_IO_READ, 2), PLX_SC_INVALID_NAMESPACE_OR_FORMAT | DNR);
    assert_int_equal(do_io(&rig, NVME_IO_READ, 1), 0);
    struct host other = {0};
    assert_int_equal(connect_host(&rig, &other, OTHER, rig.l->portid), 0);
    d->refuse = NULL;
    assert_int_equal(plx_nvmf_subsystem_add_ns(rig.s, &d->bdev, NULL, NULL), 2);
    assert_int_equal(plx_nvmf_subsystem_remove_ns(rig.s, 2, NULL), 0);
    assert_int_equal(apply(&rig), 0);
    assert_int_equal(event(&rig), 0); /* it never was there */
    assert_int_equal(plx_nvmf_subsystem_add_ns(rig.s, &d->bdev, NULL, NULL), 2);
    assert_int_equal(apply(&rig), 0);
    assert_int_equal(event(&rig), EVENT_NS);
    assert_int_equal(plx_nvmf_subsystem_remove_ns(rig.s, 2, NULL), 0);
    assert_int_equal(apply(&rig), 0);
    plx_bdev_close(&d->bdev);
    close_rig(&rig);
}

static void who_asks_for_an_apply_while_a_start_fails_is_refused(void **state)
{
    (void)state;
    struct rig rig = {0}, asked = {0};
    const struct plx_nvmf_subsystem_opts opts = {.nqn = NQN};
    struct test_disk *d = test_disk_new();
    assert_int_equal(plx_reactor_create(&rig.reactor, NULL), 0);
    assert_int_equal(plx_nvmf_target_create(&rig.t, &rig.reactor, 1, NULL, NULL), 0);
    rig.t->transport = &calls_transport;
    assert_int_equal(plx_nvmf_subsystem_create(rig.t, &opts, &rig.s, NULL), 0);
    assert_int_equal(plx_nvmf_subsystem_add_ns(rig.s, &d->bdev, NULL, NULL), 1);
    d->refuse = rig.reactor;
    d->open_result = -EIO;
    plx_nvmf_target_start(rig.t, over, &rig);
    while (rig.t->apply.step != NVMF_APPLY_OPEN)
        plx_reactor_poll(rig.reactor);
    plx_nvmf_target_apply(rig.t, over, &asked);
    assert_int_equal(outcome(&rig), -EIO);
    assert_true(asked.done);
    assert_int_equal(asked.result, -ECANCELED);
    assert_null(rig.t->snap);
    plx_nvmf_target_destroy(rig.t);
    plx_reactor_destroy(rig.reactor);
    plx_bdev_close(&d->bdev);
}

static void hosts_are_told_of_a_disk_s_new_size_and_of_its_end(void **state)
{
    (void)state;
    struct rig rig;
    struct answer a;
    struct nvme_cmd identify = {.opcode = NVME_ADMIN_IDENTIFY, .nsid = plx_put32(1), .cdw10 = plx_put32(NVME_CNS_NS)};
    struct test_disk *d = test_disk_new();
    open_rig(&rig, &d->bdev);
    want_events(&rig, NVMF_EVENT_NS);
    await_event(&rig);
    plx_bdev_resized(&d->bdev, 4096);
    settle(&rig);
    assert_int_equal(event(&rig), EVENT_NS);
    command(&rig, &rig.h.admin, identify, rig.h.buf, 4096, &a);
    assert_true(test_disk_end(d, PLX_SC_INTERNAL_ERROR)); /* it was asked how much it holds */
    assert_int_equal(status_of(&a), 0);
    assert_int_equal(word(&rig, 0), 4096);
    assert_int_equal(get_log(&rig, NVME_LOG_CHANGED_NS, false), 0);
    await_event(&rig);
    plx_bdev_gone(&d->bdev, "the test says so");
    settle(&rig);
    assert_int_equal(event(&rig), EVENT_NS);
    assert_int_equal(do_io(&rig, NVME_IO_READ, 1), PLX_SC_INVALID_NAMESPACE_OR_FORMAT | DNR);
    assert_int_equal(d->channels, 0);
    plx_bdev_close(&d->bdev);
    close_rig(&rig);
}

/* ---- hosts, listeners, subsystems ---- */

static void a_host_that_is_not_allowed_any_more_is_disconnected(void **state)
{
    (void)state;
    struct rig rig;
    struct host again = {0};
    open_rig(&rig, NULL);
    assert_int_equal(plx_nvmf_subsystem_disallow_host(rig.s, HOST, NULL), 0);
    assert_false(rig.h.io.closed);
    assert_int_equal(apply(&rig), 0);
    assert_true(rig.h.admin.gone && rig.h.io.gone);
    assert_true(plx_list_empty(&rig.t->ctrlrs));
    assert_int_equal(connect_host(&rig, &again, HOST, rig.l->portid), PLX_SC_CONNECT_INVALID_HOST | DNR);
    plx_nvmf_subsystem_allow_any_host(rig.s, true);
    assert_int_equal(apply(&rig), 0);
    assert_int_equal(connect_host(&rig, &rig.h, HOST, rig.l->portid), 0);
    close_rig(&rig);
}

/* Of two subsystems in turn: each hands out its own, and none again before all others. */
static void controllers_get_the_identifiers_of_their_subsystem_in_turn(void **state)
{
    static const struct {
        const char *nqn;
        uint16_t cntlid;
    } connects[] = {{OTHER, 7}, {HOST, 100}, {OTHER, 8}, {HOST, 101}, {OTHER, 9}, {HOST, 102}, {OTHER, 7}};
    const struct plx_nvmf_subsystem_opts a = {.nqn = OTHER, .allow_any_host = true, .min_cntlid = 7, .max_cntlid = 9},
                                         b = {.nqn = HOST, .allow_any_host = true, .min_cntlid = 100};
    struct rig rig;
    struct plx_nvmf_subsystem *first, *s;
    static struct calls_qpair kept[3];
    static struct nvme_connect_data data;
    struct answer answer;
    (void)state;
    open_rig(&rig, NULL);
    assert_int_equal(plx_nvmf_subsystem_create(rig.t, &a, &first, NULL), 0);
    assert_int_equal(plx_nvmf_subsystem_create(rig.t, &b, &s, NULL), 0);
    assert_int_equal(apply(&rig), 0);
    for (size_t i = 0; i < PLX_ARRAY_SIZE(connects); i++) {
        struct calls_qpair q;
        calls_connect(&q, &rig.t->groups[0], rig.l->portid);
        calls_fabrics_connect(&q, connects[i].nqn, HOST, 0, 0, &data, answered, &answer);
        settle(&rig);
        assert_int_equal(status_of(&answer), 0);
        assert_int_equal(plx_get32(answer.cqe.dw0), connects[i].cntlid);
        calls_close(&q);
        settle(&rig);
        assert_true(q.gone);
    }
    plx_nvmf_subsystem_remove(first);
    assert_int_equal(plx_nvmf_subsystem_create(rig.t, &a, &first, NULL), 0);
    assert_int_equal(apply(&rig), 0);
    for (size_t i = 0; i < 4; i++) { /* of three there is no fourth; made anew, it goes on */
        struct calls_qpair last, *q = i < 3 ? &kept[i] : &last;
        answer.here = false;
        calls_connect(q, &rig.t->groups[0], rig.l->portid);
        calls_fabrics_connect(q, OTHER, HOST, 0, 0, &data, answered, &answer);
        settle(&rig);
        assert_int_equal(status_of(&answer), i < 3 ? PLX_SC_SUCCESS : PLX_SC_CONNECT_CONTROLLER_BUSY);
        if (i == 0)
            assert_int_equal(plx_get32(answer.cqe.dw0), 8);
        if (i == 3)
            calls_close(q);
        settle(&rig);
    }
    close_rig(&rig);
}

static void a_listener_that_is_removed_takes_its_hosts_along(void **state)
{
    (void)state;
    struct rig rig;
    struct plx_nvmf_listener *second;
    struct host other = {0};
    open_rig(&rig, NULL);
    assert_int_equal(plx_nvmf_listen(rig.t, "192.0.2.2", 4420, &second, NULL), 0);
    assert_int_equal(apply(&rig), 0);
    assert_int_equal(connect_host(&rig, &other, HOST, second->portid), 0);
    plx_nvmf_listener_remove(rig.l);
    assert_int_equal(apply(&rig), 0);
    assert_true(rig.h.admin.gone && rig.h.io.gone);
    assert_false(other.admin.closed || other.io.closed);

    /* And a subsystem can leave a listener that others keep. */
    assert_int_equal(plx_nvmf_subsystem_remove_listener(rig.s, second, NULL), 0);
    assert_int_equal(apply(&rig), 0);
    assert_true(other.admin.gone && other.io.gone);
    assert_int_equal(connect_host(&rig, &rig.h, HOST, second->portid), PLX_SC_CONNECT_INVALID_PARAMETERS | DNR);
    assert_int_equal(plx_nvmf_subsystem_add_listener(rig.s, second, NULL), 0);
    assert_int_equal(apply(&rig), 0);
    assert_int_equal(connect_host(&rig, &rig.h, HOST, second->portid), 0);
    close_rig(&rig);
}

static void a_subsystem_that_is_removed_ends_its_controllers_and_frees_its_disks(void **state)
{
    (void)state;
    struct rig rig;
    struct test_disk *d = test_disk_new();
    struct answer a;
    open_rig(&rig, &d->bdev);
    command(&rig, &rig.h.io, io(NVME_IO_READ, 1), rig.h.buf, IO_BYTES, &a);
    plx_nvmf_subsystem_remove(rig.s);
    assert_int_equal(apply(&rig), 0);
    assert_true(rig.h.admin.gone && rig.h.io.gone);
    assert_int_equal(d->channels, 0);
    plx_bdev_close(&d->bdev);
    assert_int_equal(connect_host(&rig, &rig.h, HOST, rig.l->portid), PLX_SC_CONNECT_INVALID_PARAMETERS | DNR);
    close_rig(&rig);
}

/* ---- ANA ---- */

static void io_by_a_path_that_is_not_accessible_ends_with_its_ana_state(void **state)
{
    (void)state;
    static const struct {
        enum plx_nvmf_ana state;
        uint16_t status;
    } states[] = {{PLX_NVMF_ANA_NON_OPTIMIZED, PLX_SC_SUCCESS},
                  {PLX_NVMF_ANA_INACCESSIBLE, PLX_SC_ANA_INACCESSIBLE},
                  {PLX_NVMF_ANA_PERSISTENT_LOSS, PLX_SC_ANA_PERSISTENT_LOSS},
                  {PLX_NVMF_ANA_CHANGE, PLX_SC_ANA_TRANSITION},
                  {PLX_NVMF_ANA_OPTIMIZED, PLX_SC_SUCCESS}};
    struct rig rig;
    open_rig(&rig, NULL);
    want_events(&rig, NVMF_EVENT_ANA);
    for (size_t i = 0; i < PLX_ARRAY_SIZE(states); i++) {
        await_event(&rig);
        assert_int_equal(plx_nvmf_subsystem_set_ana(rig.s, rig.l, 1, states[i].state, NULL), 0);
        assert_int_equal(apply(&rig), 0);
        assert_int_equal(event(&rig), EVENT_ANA);
        assert_int_equal(do_io(&rig, NVME_IO_WRITE, 1), states[i].status);
        assert_int_equal(do_io(&rig, NVME_IO_FLUSH, NVME_NSID_ALL), states[i].status);
        uint32_t before = word(&rig, 0);
        assert_int_equal(get_log(&rig, NVME_LOG_ANA, false), 0);
        assert_int_not_equal(word(&rig, 0), before); /* the change count */
        assert_int_equal(rig.h.buf[16 + 16], states[i].state);
    }
    /* Another group's, or another listener's, is none of ours. */
    await_event(&rig);
    assert_int_equal(plx_nvmf_subsystem_set_ana(rig.s, NULL, 2, PLX_NVMF_ANA_INACCESSIBLE, NULL), 0);
    assert_int_equal(apply(&rig), 0);
    assert_int_equal(do_io(&rig, NVME_IO_WRITE, 1), PLX_SC_SUCCESS);
    struct plx_nvmf_listener *other;
    assert_int_equal(plx_nvmf_listen(rig.t, "192.0.2.2", 4420, &other, NULL), 0);
    assert_int_equal(plx_nvmf_subsystem_set_ana(rig.s, other, 1, PLX_NVMF_ANA_INACCESSIBLE, NULL), 0);
    assert_int_equal(apply(&rig), 0);
    assert_int_equal(plx_nvmf_subsystem_remove_listener(rig.s, other, NULL), 0);
    assert_int_equal(apply(&rig), 0);
    assert_int_equal(event(&rig), 0);
    assert_int_equal(plx_nvmf_subsystem_set_ana(rig.s, NULL, 1, PLX_NVMF_ANA_NON_OPTIMIZED, NULL), 0);
    assert_int_equal(apply(&rig), 0);
    assert_int_equal(event(&rig), EVENT_ANA);
    /* but it is when it gets a namespace: hosts may remember it otherwise, from an earlier one */
    struct plx_bdev *more;
    const struct plx_nvmf_ns_opts opts = {.anagrpid = 2};
    assert_int_equal(plx_bdev_open("null:1M", &more, NULL), 0);
    get_log(&rig, NVME_LOG_ANA, false);
    await_event(&rig);
    assert_int_equal(plx_nvmf_subsystem_add_ns(rig.s, more, &opts, NULL), 2);
    assert_int_equal(apply(&rig), 0);
    assert_int_equal(event(&rig), EVENT_ANA);
    close_rig(&rig);
    plx_bdev_close(more);
}

/* ---- discovery ---- */

/* Reads a discovery controller's log. @return its generation counter */
static uint64_t discover(struct rig *rig, struct calls_qpair *q)
{
    struct answer a;
    struct nvme_cmd cmd = {.opcode = NVME_ADMIN_GET_LOG_PAGE,
                           .cdw10 = plx_put32(NVME_LOG_DISCOVERY | (unsigned)(sizeof rig->h.buf / 4 - 1) << 16)};
    assert_int_equal(command(rig, q, cmd, rig->h.buf, sizeof rig->h.buf, &a), 0);
    return plx_get64(((const struct nvme_discovery_header *)(const void *)rig->h.buf)->genctr);
}

static const struct nvme_discovery_entry *record(const struct rig *rig, uint64_t n)
{
    const struct nvme_discovery_header *log = (const void *)rig->h.buf;
    return n < plx_get64(log->numrec) ? (const struct nvme_discovery_entry *)(const void *)(log + 1) + n : NULL;
}

static void hosts_are_referred_to_other_discovery_controllers(void **state)
{
    (void)state;
    struct rig rig;
    static struct calls_qpair q;
    static struct nvme_connect_data data;
    struct answer a, told;
    const struct nvme_cmd wait = {.opcode = NVME_ADMIN_ASYNC_EVENT},
                          want = {.opcode = NVME_ADMIN_SET_FEATURES,
                                  .cdw10 = plx_put32(NVME_FEAT_ASYNC_EVENT),
                                  .cdw11 = plx_put32((uint32_t)NVMF_EVENT_DISCOVERY)};
    open_rig(&rig, NULL);
    calls_connect(&q, &rig.t->groups[0], rig.l->portid);
    calls_fabrics_connect(&q, NVME_DISCOVERY_NQN, OTHER, 0, 0, &data, answered, &a);
    settle(&rig);
    calls_enable(&q, true, answered, &a);
    settle(&rig);
    assert_int_equal(command(&rig, &q, want, NULL, 0, &a), 0);
    uint64_t before = discover(&rig, &q);
    assert_null(record(&rig, 1)); /* the controller itself; the host is none that sees the subsystem */
    command(&rig, &q, wait, NULL, 0, &told);

    assert_int_equal(plx_nvmf_referral_add(rig.t, "2001:db8::7", 8009, NULL), 0);
    assert_int_equal(apply(&rig), 0);
    assert_true(told.here);
    assert_int_equal(plx_get32(told.cqe.dw0), 0x70f002);
    assert_true(discover(&rig, &q) > before);
    const struct nvme_discovery_entry *e = record(&rig, 0);
    for (uint64_t i = 1; e && e->subtype != NVME_SUBTYPE_DISCOVERY; i++)
        e = record(&rig, i);
    assert_non_null(e);
    assert_memory_equal(e->traddr, "2001:db8::7 ", 12);
    assert_memory_equal(e->trsvcid, "8009 ", 5);
    assert_string_equal(e->subnqn, NVME_DISCOVERY_NQN);

    before = discover(&rig, &q);
    assert_int_equal(apply(&rig), 0);
    assert_int_equal(discover(&rig, &q), before); /* nothing has changed */
    command(&rig, &q, wait, NULL, 0, &told);
    assert_int_equal(plx_nvmf_referral_remove(rig.t, "2001:db8::7", 8009, NULL), 0);
    assert_int_equal(apply(&rig), 0);
    assert_true(told.here);
    discover(&rig, &q);
    assert_null(record(&rig, 1));
    calls_close(&q);
    settle(&rig);
    close_rig(&rig);
}

/* ---- disks that hang ---- */

static void a_disk_that_has_its_share_of_requests_is_given_none_in_any_way(void **state)
{
    (void)state;
    struct rig rig;
    struct test_disk *d = test_disk_new();
    struct answer a;
    open_rig(&rig, &d->bdev);
    rig.s->ns[0]->refs[0].in_flight += 2 * NVMF_MAX_REQUESTS; /* as if it hung for long */
    assert_int_equal(do_io(&rig, NVME_IO_WRITE, 1), PLX_SC_COMMAND_INTERRUPTED);
    assert_int_equal(command(&rig, &rig.h.io, io(NVME_IO_FLUSH, NVME_NSID_ALL), NULL, 0, &a),
                     PLX_SC_COMMAND_INTERRUPTED);
    struct nvme_cmd identify = {.opcode = NVME_ADMIN_IDENTIFY, .nsid = plx_put32(1)};
    assert_int_equal(command(&rig, &rig.h.admin, identify, rig.h.buf, 4096, &a), PLX_SC_SUCCESS);
    assert_int_equal(word(&rig, 16), word(&rig, 8)); /* NUSE is not known: as NCAP */
    assert_int_equal(d->seen, 0);
    assert_null(rig.h.admin.qp.last); /* what hosts ask of it does not make their admin queue wait for it */
    rig.s->ns[0]->refs[0].in_flight -= 2 * NVMF_MAX_REQUESTS;
    d->bdev.info.write_cache = false;
    close_rig(&rig);
    plx_bdev_close(&d->bdev);
}

static void a_remote_disk_without_a_path_ends_commands_so_that_hosts_try_other_paths(void **state)
{
    (void)state;
    struct rig rig;
    struct test_disk *d = test_disk_new();
    struct answer a;
    open_rig(&rig, &d->bdev);
    d->bdev.info.write_cache = false;
    command(&rig, &rig.h.io, io(NVME_IO_WRITE, 1), rig.h.buf, IO_BYTES, &a);
    assert_true(test_disk_end(d, PLX_SC_HOST_PATHING_ERROR));
    assert_int_equal(status_of(&a), PLX_SC_CONTROLLER_PATHING_ERROR); /* without DNR */
    close_rig(&rig);
    plx_bdev_close(&d->bdev);
}

static void a_controller_is_reset_though_its_disk_never_answers(void **state)
{
    (void)state;
    struct rig rig;
    struct test_disk *d = test_disk_new();
    struct answer a, reset;
    struct nvme_property_cmd get = {
        .opcode = NVME_FABRICS, .fctype = NVME_FABRICS_PROPERTY_GET, .offset = plx_put32(NVME_PROP_CSTS)};
    struct nvme_cmd cmd;
    memcpy(&cmd, &get, sizeof cmd);
    d->bdev.info.write_cache = false;
    open_rig(&rig, &d->bdev);
    d->ignores_aborts = true;
    command(&rig, &rig.h.io, io(NVME_IO_WRITE, 1), rig.h.buf, IO_BYTES, &a);
    calls_enable(&rig.h.admin, false, answered, &reset);
    settle(&rig);
    assert_int_equal(d->aborts, 1);
    assert_int_equal(command(&rig, &rig.h.admin, cmd, NULL, 0, &reset), 0);
    assert_int_equal(plx_get32(reset.cqe.dw0) & NVME_CSTS_RDY, NVME_CSTS_RDY); /* its write may still be done */
    pass(&rig, ORPHAN_MS - 40);
    assert_false(rig.h.io.gone);
    pass(&rig, 60);
    assert_true(rig.h.io.gone);
    assert_int_equal(command(&rig, &rig.h.admin, cmd, NULL, 0, &reset), 0);
    assert_int_equal(plx_get32(reset.cqe.dw0) & NVME_CSTS_RDY, 0);
    memset(&rig.h.io, 0xdd, sizeof rig.h.io); /* nobody's any more */
    assert_true(test_disk_end(d, PLX_SC_SUCCESS));
    settle(&rig);
    assert_int_equal(rig.t->groups[0].reqs_in_use, 0);
    close_rig(&rig);
    plx_bdev_close(&d->bdev);
}

static void a_stop_ends_whatever_disks_do(void **state)
{
    (void)state;
    struct rig rig;
    struct test_disk *d = test_disk_new();
    struct answer a;
    open_rig(&rig, &d->bdev);
    d->ignores_aborts = true;
    command(&rig, &rig.h.io, io(NVME_IO_WRITE, 1), rig.h.buf, IO_BYTES, &a);
    assert_int_equal(stop(&rig, 1000 + FLUSH_MS + LATE_MS - 50), -EINPROGRESS);
    pass(&rig, 100);
    assert_int_equal(outcome(&rig), -ETIMEDOUT);
    assert_true(rig.h.admin.gone && rig.h.io.gone);
    plx_nvmf_target_destroy(rig.t); /* leaves what the disk has where it is */
    while (test_disk_end(d, PLX_SC_SUCCESS))
        settle(&rig);
    assert_int_equal(d->channels, 0);
    assert_true(plx_list_empty(&rig.t->late_ns));
    plx_nvmf_target_destroy(rig.t);
    plx_reactor_destroy(rig.reactor);
    plx_bdev_close(rig.ram);
    plx_bdev_close(&d->bdev);
    plx_clock_simulate(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_namespace_that_is_added_is_there_after_the_apply),
        cmocka_unit_test(an_event_waits_for_a_request_to_be_told_by),
        cmocka_unit_test(events_that_are_not_wanted_are_not_sent),
        cmocka_unit_test(commands_of_a_namespace_that_is_removed_end_as_of_an_inactive_one),
        cmocka_unit_test(an_apply_waits_for_a_disk_but_not_for_ever),
        cmocka_unit_test(a_disk_that_cannot_be_opened_changes_nothing_else),
        cmocka_unit_test(who_asks_for_an_apply_while_a_start_fails_is_refused),
        cmocka_unit_test(hosts_are_told_of_a_disk_s_new_size_and_of_its_end),
        cmocka_unit_test(a_host_that_is_not_allowed_any_more_is_disconnected),
        cmocka_unit_test(controllers_get_the_identifiers_of_their_subsystem_in_turn),
        cmocka_unit_test(a_listener_that_is_removed_takes_its_hosts_along),
        cmocka_unit_test(a_subsystem_that_is_removed_ends_its_controllers_and_frees_its_disks),
        cmocka_unit_test(io_by_a_path_that_is_not_accessible_ends_with_its_ana_state),
        cmocka_unit_test(a_namespace_that_goes_while_it_comes_was_there),
        cmocka_unit_test(events_that_are_not_wanted_any_more_are_not_sent),
        cmocka_unit_test(a_host_is_told_when_all_reactors_see_what_it_is_told_of),
        cmocka_unit_test(a_flush_of_all_goes_on_when_one_of_them_is_removed),
        cmocka_unit_test(hosts_are_referred_to_other_discovery_controllers),
        cmocka_unit_test(a_disk_that_has_its_share_of_requests_is_given_none_in_any_way),
        cmocka_unit_test(a_remote_disk_without_a_path_ends_commands_so_that_hosts_try_other_paths),
        cmocka_unit_test(a_controller_is_reset_though_its_disk_never_answers),
        cmocka_unit_test(a_stop_ends_whatever_disks_do),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
