/* SPDX-License-Identifier: BSD-3-Clause */
/* What the model does wrong when it is told to, and by chance; and that it can be run by a thread of its own. */
#include "pcie_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void fault(struct rig *r, enum pcie_model_kind kind, int qid, int opcode, uint32_t value)
{
    const struct pcie_model_fault f = {.kind = kind, .qid = qid, .opcode = opcode, .value = value};
    pcie_model_fault(r->m, &f);
}

static void send_write(struct rig *r, uint8_t byte)
{
    memset(r->memory + RIG_DATA, byte, 512);
    rig_put_cmd(r, 1, rig_io(r, NVME_IO_WRITE, 0, 1, RIG_DATA));
    rig_ring_sq(r, 1);
    pcie_model_settle(r->m);
}

static uint8_t medium(struct rig *r)
{
    uint8_t byte;
    pcie_model_peek(r->m, 1, 0, &byte, 1);
    return byte;
}

static bool lost(const struct rig *r)
{
    struct pollfd p = {.fd = r->f->lost_fd, .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

/* ---- commands ---- */

static void a_command_hangs_and_is_answered_late(void **state)
{
    (void)state;
    struct rig r;
    struct nvme_cqe cqe;
    rig_up(&r, NULL, 1);
    fault(&r, PCIE_MODEL_HANG, PCIE_MODEL_IO, NVME_IO_WRITE, 0);
    rig_must(&r, 1, rig_io(&r, NVME_IO_READ, 0, 1, RIG_DATA)); /* it fits no read, */
    send_write(&r, 1);
    assert_int_equal(medium(&r), 0);
    assert_int_equal(pcie_model_held(r.m), 1);
    assert_false(rig_take(&r, 1, &cqe));
    const uint16_t cid = r.cid;
    rig_must(&r, 1, rig_io(&r, NVME_IO_WRITE, 1, 1, RIG_DATA)); /* and a write once */
    fault(&r, PCIE_MODEL_LATE, 1, NVME_IO_FLUSH, 1000);         /* which is something else */
    rig_put_cmd(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA));
    rig_ring_sq(&r, 1);
    pcie_model_step(r.m);
    assert_int_equal(pcie_model_release(r.m), 1);
    assert_int_equal(pcie_model_release(r.m), 0);
    pcie_model_step(r.m);
    assert_true(rig_take(&r, 1, &cqe));
    assert_int_equal(plx_get16(cqe.cid), cid);
    assert_int_equal(medium(&r), 1);
    assert_int_equal(pcie_model_injected(r.m, PCIE_MODEL_HANG), 1);
    assert_false(rig_take(&r, 1, &cqe));
    pcie_model_settle(r.m);
    assert_true(rig_take(&r, 1, &cqe));
    rig_close(&r);
}

/* Who gives its buffer back before RDY = 0 finds another's data on the medium, or in its memory. */
static void what_hangs_lands_at_the_last_moment(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r, NULL);
    for (unsigned how = 0; how < 5; how++) {
        rig_enable(&r);
        rig_queues(&r, 1);
        memset(r.memory + RIG_DATA + 8192, 0, 512);
        fault(&r, PCIE_MODEL_HANG, 1, NVME_IO_WRITE, 0);
        fault(&r, how == 2 ? PCIE_MODEL_FATAL : PCIE_MODEL_HANG, 1, NVME_IO_READ, 0);
        send_write(&r, (uint8_t)(10 + how));
        rig_put_cmd(&r, 1, rig_io(&r, NVME_IO_READ, 0, 1, RIG_DATA + 8192));
        rig_ring_sq(&r, 1);
        pcie_model_settle(r.m);
        assert_int_equal(medium(&r), how ? 89 + how : 0);
        rig_put(&r, PM_CC, 0x00460000);
        pcie_model_step(r.m);
        assert_int_equal(medium(&r), how ? 89 + how : 0);
        r.memory[RIG_DATA] = (uint8_t)(90 + how); /* too early */
        assert_int_equal(r.memory[RIG_DATA + 8192], 0);
        if (how == 3)
            assert_int_equal(r.f->ops->reset(r.f), 0);
        else if (how == 4)
            r.f->ops->close(r.f);
        else
            assert_true(rig_wait_csts(&r, PM_CSTS_RDY, 0));
        assert_int_equal(medium(&r), 90 + how);
        assert_int_equal(r.memory[RIG_DATA + 8192], 90 + how);
        r.memory[RIG_DATA] = 0; /* not too early */
        for (unsigned i = 0; i < 100; i++)
            pcie_model_step(r.m);
        assert_int_equal(medium(&r), 90 + how);
        assert_int_equal(pcie_model_held(r.m), 0);
    }
    r.f = NULL;
    rig_close(&r);
}

static void what_hangs_never_lands_once_it_is_pulled(void **state)
{
    (void)state;
    struct rig r;
    rig_up(&r, NULL, 1);
    fault(&r, PCIE_MODEL_HANG, 1, NVME_IO_WRITE, 0);
    send_write(&r, 1);
    pcie_model_remove(r.m);
    assert_int_equal(pcie_model_held(r.m), 0);
    assert_int_equal(medium(&r), 0);
    rig_close(&r);
}

/* Commands, identifiers, pending interrupts, events, doorbell buffers. */
static void disabling_it_leaves_nothing(void **state)
{
    (void)state;
    struct pcie_model_opts o = pcie_model_defaults;
    struct rig r;
    struct nvme_cqe cqe;
    const struct pcie_model_fault f = {.kind = PCIE_MODEL_HANG, .qid = 1, .opcode = -1, .times = PCIE_MODEL_ALWAYS};
    o.oacs |= PCIE_MODEL_OACS_DBBUF;
    rig_up(&r, &o, 1);
    volatile uint32_t *control = (volatile uint32_t *)(volatile void *)(r.f->msix + PCI_MSIX_ENTRY + PCI_MSIX_CONTROL);
    *control = PCI_MSIX_MASKED;
    rig_put_cmd(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA));
    rig_ring_sq(&r, 1);
    pcie_model_settle(r.m);
    fault(&r, PCIE_MODEL_LOSE, 1, PCIE_MODEL_ANY, 0);
    send_write(&r, 1);
    const uint16_t cid = r.cid;
    struct nvme_cmd cmd = {.opcode = PM_SET_FEATURES, .cdw10 = plx_put32(0x0b), .cdw11 = plx_put32(0x1ff)};
    rig_must(&r, 0, cmd);
    pcie_model_ns_resize(r.m, 1, 1000);
    cmd.opcode = PM_DBBUF;
    const uint64_t prp[2] = {htole64(RIG_BASE + RIG_SHADOW), htole64(RIG_BASE + RIG_SHADOW + 0x1000)};
    memcpy(&cmd.sgl, prp, sizeof prp);
    rig_must(&r, 0, cmd);
    rig_disable(&r);
    *control = 0;
    rig_enable(&r);
    rig_queues(&r, 1);
    assert_int_equal(rig_irqs(&r, 1), 0);
    rig_put_cmd(&r, 0, (struct nvme_cmd){.opcode = PM_ASYNC_EVENT});
    rig_ring_sq(&r, 0);
    pcie_model_settle(r.m);
    assert_false(rig_take(&r, 0, &cqe));
    struct nvme_cmd log = rig_cmd(&r, PM_LOG_PAGE, 0, RIG_ADMIN, 4096);
    log.cdw10 = plx_put32(4 | 1023 << 16);
    rig_must(&r, 0, log);
    assert_int_equal(r.memory[RIG_ADMIN], 0);
    r.cid = cid - 1;
    rig_must(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA));
    pcie_model_fault(r.m, &f);
    for (unsigned round = 0; round <= PM_COMMANDS / (RIG_DEPTH - 1); round++) {
        for (unsigned i = 0; i < RIG_DEPTH - 1; i++)
            rig_put_cmd(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA));
        rig_ring_sq(&r, 1);
        pcie_model_settle(r.m);
        assert_int_equal(pcie_model_held(r.m), RIG_DEPTH - 1);
        rig_disable(&r);
        rig_enable(&r);
        rig_queues(&r, 1);
    }
    rig_close(&r);
}

static void a_command_is_late(void **state)
{
    (void)state;
    struct rig r;
    struct nvme_cqe cqe;
    rig_up(&r, NULL, 1);
    fault(&r, PCIE_MODEL_LATE, 1, PCIE_MODEL_ANY, 20);
    rig_put_cmd(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA));
    rig_ring_sq(&r, 1);
    for (unsigned i = 0; i < 20; i++) {
        pcie_model_step(r.m);
        assert_false(rig_take(&r, 1, &cqe));
    }
    pcie_model_step(r.m);
    assert_true(rig_take(&r, 1, &cqe));
    rig_close(&r);
}

static void a_completion_is_lost(void **state)
{
    (void)state;
    struct rig r;
    struct nvme_cqe cqe;
    rig_up(&r, NULL, 1);
    fault(&r, PCIE_MODEL_LOSE, 1, PCIE_MODEL_ANY, 0);
    send_write(&r, 7);
    assert_int_equal(medium(&r), 7);
    assert_false(rig_take(&r, 1, &cqe));
    assert_int_equal(pcie_model_held(r.m), 0);
    r.cid--; /* its identifier is not to be used again */
    rig_put_cmd(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA));
    rig_ring_sq(&r, 1);
    pcie_model_settle(r.m);
    rig_complained(&r, "is in use");
    rig_close(&r);
}

static void completions_are_wrong(void **state)
{
    (void)state;
    static const struct {
        enum pcie_model_kind kind;
        uint32_t value;
        int cid[2]; /* off by that; -1: none */
        int sqid, sqhd;
    } tries[] = {
        {PCIE_MODEL_NONE, 0, {0, -1}, 0, 0},
        {PCIE_MODEL_TWICE, 0, {0, 0}, 0, 0},
        {PCIE_MODEL_TWICE, 9, {0, 0}, 0, 0},
        {PCIE_MODEL_BOGUS_CID, 0, {0x8000, -1}, 0, 0},
        {PCIE_MODEL_BOGUS_CID, 0x10, {0x10, -1}, 0, 0},
        {PCIE_MODEL_GHOST, 0, {0, 0x8000}, 0, 0},
        {PCIE_MODEL_GHOST, 0x40, {0, 0x40}, 0, 0},
        {PCIE_MODEL_BAD_SQID, 0, {0, -1}, 1, 0},
        {PCIE_MODEL_BAD_SQID, 5, {0, -1}, 5, 0},
        {PCIE_MODEL_BAD_SQHD, 0, {0, -1}, 0, RIG_DEPTH},
        {PCIE_MODEL_BAD_SQHD, 3, {0, -1}, 0, 3},
    };
    struct rig r;
    struct nvme_cqe cqe;
    rig_up(&r, NULL, 1);
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(tries); i++) {
        if (tries[i].kind)
            fault(&r, tries[i].kind, 1, PCIE_MODEL_ANY, tries[i].value);
        send_write(&r, 7);
        for (unsigned n = 0; n < 2 && tries[i].cid[n] >= 0; n++) {
            assert_true(rig_take(&r, 1, &cqe));
            assert_int_equal(plx_get16(cqe.cid), r.cid ^ tries[i].cid[n]);
            assert_int_equal(plx_get16(cqe.sqid), 1 + tries[i].sqid);
            assert_int_equal(plx_get16(cqe.sqhd), (int)r.q[1].tail + tries[i].sqhd);
            assert_int_equal(rig_status(&cqe), 0);
        }
        assert_false(rig_take(&r, 1, &cqe));
        pcie_model_settle(r.m);
        assert_int_equal(pcie_model_injected(r.m, tries[i].kind),
                         i == 0 ? 0 : 1 + (tries[i - 1].kind == tries[i].kind));
    }
    rig_close(&r);
}

static void a_second_answer_comes_when_it_is_told_to(void **state)
{
    (void)state;
    struct rig r;
    struct nvme_cqe cqe;
    rig_up(&r, NULL, 1);
    fault(&r, PCIE_MODEL_TWICE, 1, NVME_IO_FLUSH, 10);
    rig_put_cmd(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA));
    rig_ring_sq(&r, 1);
    pcie_model_step(r.m);
    assert_true(rig_take(&r, 1, &cqe));
    r.cid--; /* when its identifier is in use again */
    fault(&r, PCIE_MODEL_HANG, 1, NVME_IO_FLUSH, 10);
    rig_put_cmd(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA));
    rig_ring_sq(&r, 1);
    pcie_model_step(r.m);
    assert_false(rig_take(&r, 1, &cqe));
    pcie_model_settle(r.m);
    assert_true(rig_take(&r, 1, &cqe));
    pcie_model_release(r.m);
    pcie_model_settle(r.m);
    assert_true(rig_take(&r, 1, &cqe));
    fault(&r, PCIE_MODEL_TWICE, PCIE_MODEL_ANY, PCIE_MODEL_ANY, 0); /* and is the same */
    rig_put_cmd(&r, 1, rig_io(&r, NVME_IO_READ, 131072, 1, RIG_DATA));
    rig_ring_sq(&r, 1);
    pcie_model_settle(r.m);
    for (unsigned i = 0; i < 2; i++) {
        assert_true(rig_take(&r, 1, &cqe));
        assert_int_equal(rig_status(&cqe), PLX_SC_LBA_OUT_OF_RANGE | NVME_STATUS_DNR);
    }
    fault(&r, PCIE_MODEL_TWICE, PCIE_MODEL_ANY, PCIE_MODEL_ANY, 0);
    rig_put_cmd(&r, 0, (struct nvme_cmd){.opcode = PM_GET_FEATURES, .cdw10 = plx_put32(4)});
    rig_ring_sq(&r, 0);
    pcie_model_settle(r.m);
    for (unsigned i = 0; i < 2; i++) {
        assert_true(rig_take(&r, 0, &cqe));
        assert_int_equal(plx_get32(cqe.dw0), 370);
    }
    rig_close(&r);
}

static void a_status_of_choice(void **state)
{
    (void)state;
    struct rig r;
    struct nvme_cqe cqe;
    const unsigned crd = 1 << 11;
    rig_up(&r, NULL, 1);
    const struct pcie_model_fault f = {.kind = PCIE_MODEL_STATUS,
                                       .qid = 1,
                                       .opcode = NVME_IO_WRITE,
                                       .skip = 1,
                                       .times = 2,
                                       .value = PLX_SC_NAMESPACE_NOT_READY | crd};
    pcie_model_fault(r.m, &f);
    send_write(&r, 7);
    assert_true(rig_take(&r, 1, &cqe));
    assert_int_equal(rig_status(&cqe), 0);
    for (unsigned i = 0; i < 2; i++) {
        send_write(&r, 8);
        assert_true(rig_take(&r, 1, &cqe));
        assert_int_equal(rig_status(&cqe), PLX_SC_NAMESPACE_NOT_READY | crd);
        assert_int_equal(medium(&r), 7);
    }
    send_write(&r, 8);
    assert_true(rig_take(&r, 1, &cqe));
    assert_int_equal(rig_status(&cqe), 0);
    fault(&r, PCIE_MODEL_STATUS, 0, PM_IDENTIFY, PLX_SC_INTERNAL_ERROR);
    fault(&r, PCIE_MODEL_STATUS, 0, PM_CREATE_CQ, PLX_SC_INTERNAL_ERROR);
    assert_int_equal(rig_do(&r, 0, rig_create(2, true, -1), NULL), PLX_SC_INTERNAL_ERROR);
    pcie_model_faults_clear(r.m);
    struct nvme_cmd cmd = rig_cmd(&r, PM_IDENTIFY, 0, RIG_ADMIN, 4096);
    cmd.cdw10 = plx_put32(1);
    rig_must(&r, 0, cmd);
    rig_close(&r);
}

static void faults_are_for_a_time_or_for_ever(void **state)
{
    (void)state;
    struct rig r;
    rig_up(&r, NULL, 2);
    const struct pcie_model_fault f = {.kind = PCIE_MODEL_STATUS,
                                       .qid = 2,
                                       .opcode = PCIE_MODEL_ANY,
                                       .times = PCIE_MODEL_ALWAYS,
                                       .value = PLX_SC_INTERNAL_ERROR};
    pcie_model_fault(r.m, &f);
    fault(&r, PCIE_MODEL_STATUS, 2, PCIE_MODEL_ANY, 5); /* the first that fits, it is */
    for (unsigned i = 0; i < 20; i++) {
        assert_int_equal(rig_do(&r, 2, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA), NULL), PLX_SC_INTERNAL_ERROR);
        rig_must(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA));
    }
    pcie_model_faults_clear(r.m);
    rig_must(&r, 2, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA));
    for (unsigned i = 0; i < 2 * PM_RULES; i++) { /* two at a time, one a command */
        fault(&r, PCIE_MODEL_STATUS, 1, PCIE_MODEL_ANY, i + 1);
        fault(&r, PCIE_MODEL_STATUS, 1, PCIE_MODEL_ANY, i + 2);
        assert_int_equal(rig_do(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA), NULL), i + 1);
        assert_int_equal(rig_do(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA), NULL), i + 2);
        rig_must(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA));
    }
    rig_close(&r);
}

static void interrupts_are_lost_and_come_for_nothing(void **state)
{
    (void)state;
    struct rig r;
    rig_up(&r, NULL, 1);
    fault(&r, PCIE_MODEL_LOSE_IRQ, 1, PCIE_MODEL_ANY, 0);
    rig_must(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA));
    pcie_model_settle(r.m);
    assert_int_equal(rig_irqs(&r, 1), 0);
    rig_must(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA));
    assert_int_equal(rig_irqs(&r, 1), 1);
    pcie_model_spurious(r.m, 1);
    pcie_model_settle(r.m);
    assert_int_equal(rig_irqs(&r, 1), 1);
    rig_close(&r);
}

static void an_abort_aborts_nothing(void **state)
{
    (void)state;
    struct rig r;
    struct nvme_cqe cqe;
    rig_up(&r, NULL, 1);
    fault(&r, PCIE_MODEL_HANG, 1, PCIE_MODEL_ANY, 0);
    fault(&r, PCIE_MODEL_ABORT_IDLE, 0, PM_ABORT, 0);
    send_write(&r, 1);
    struct nvme_cmd cmd = {.opcode = PM_ABORT, .cdw10 = plx_put32(1 | (uint32_t)r.cid << 16)};
    assert_int_equal(rig_do(&r, 0, cmd, &cqe), 0);
    assert_int_equal(plx_get32(cqe.dw0), 1);
    assert_int_equal(pcie_model_held(r.m), 1);
    const struct pcie_model_fault hang = {.kind = PCIE_MODEL_HANG, .opcode = PM_ABORT, .times = 4};
    pcie_model_fault(r.m, &hang);
    for (unsigned i = 0; i < 4; i++)
        rig_put_cmd(&r, 0, cmd);
    rig_ring_sq(&r, 0);
    pcie_model_settle(r.m);
    assert_int_equal(rig_do(&r, 0, cmd, NULL), PLX_SC_ABORT_COMMAND_LIMIT_EXCEEDED); /* ACL: 4 at a time */
    rig_close(&r);
}

/* ---- the controller ---- */

static void it_does_not_become_ready(void **state)
{
    (void)state;
    struct pcie_model_opts o = pcie_model_defaults;
    struct rig r;
    o.to = 0; /* which is a lie */
    rig_open(&r, &o);
    fault(&r, PCIE_MODEL_RDY_NEVER, 0, 0, 0);
    rig_write_admin_registers(&r);
    rig_put(&r, PM_CC, 0x00460001);
    assert_false(rig_wait_csts(&r, ~0u, PM_CSTS_RDY));
    assert_int_equal(pcie_model_step(r.m), 0);
    rig_disable(&r);
    fault(&r, PCIE_MODEL_RDY_SLOW, 0, 0, 50);
    rig_write_admin_registers(&r);
    rig_put(&r, PM_CC, 0x00460001);
    for (unsigned i = 0; i < 52; i++) {
        assert_true(pcie_model_step(r.m) > 0);
        assert_int_equal(rig_get(&r, PM_CSTS), 0);
    }
    pcie_model_step(r.m);
    assert_int_equal(rig_get(&r, PM_CSTS), PM_CSTS_RDY);
    rig_disable(&r);
    fault(&r, PCIE_MODEL_FATAL_ENABLE, 0, 0, 0);
    rig_write_admin_registers(&r);
    rig_put(&r, PM_CC, 0x00460001);
    assert_true(rig_wait_csts(&r, ~0u, PM_CSTS_CFS));
    rig_disable(&r);
    rig_enable(&r);
    rig_close(&r);
}

static void it_stays_ready(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r, NULL);
    rig_enable(&r);
    fault(&r, PCIE_MODEL_RDY_STUCK, 0, 0, 0);
    rig_put(&r, PM_CC, 0x00460000);
    assert_false(rig_wait_csts(&r, ~0u, 0));
    fault(&r, PCIE_MODEL_RESET_FAILS, 0, 0, 0);
    assert_int_equal(r.f->ops->reset(r.f), -EIO);
    assert_int_equal(rig_get(&r, PM_CSTS), PM_CSTS_RDY);
    assert_int_equal(r.f->ops->reset(r.f), 0); /* which helps */
    assert_int_equal(rig_get(&r, PM_CSTS), 0);
    rig_enable(&r);
    fault(&r, PCIE_MODEL_RDY_SLOW_OFF, 0, 0, 50);
    rig_put(&r, PM_CC, 0x00460000);
    for (unsigned i = 0; i < 52; i++)
        pcie_model_step(r.m);
    assert_int_equal(rig_get(&r, PM_CSTS), PM_CSTS_RDY);
    pcie_model_step(r.m);
    assert_int_equal(rig_get(&r, PM_CSTS), 0);
    rig_enable(&r);
    fault(&r, PCIE_MODEL_SHUTDOWN_STUCK, 0, 0, 0);
    rig_put(&r, PM_CC, 0x00464001);
    assert_false(rig_wait_csts(&r, PM_CSTS_SHST_DONE, PM_CSTS_SHST_DONE));
    assert_int_equal(rig_get(&r, PM_CSTS), PM_CSTS_RDY | PM_CSTS_SHST_BUSY);
    fault(&r, PCIE_MODEL_VECTORS_FAIL, 0, 0, 0);
    assert_int_equal(r.f->ops->set_vectors(r.f, r.fds, 1), -ENOSPC);
    assert_int_equal(r.f->ops->set_vectors(r.f, r.fds, 10), -EINVAL);
    assert_int_equal(r.f->ops->set_vectors(r.f, r.fds, 4), 0);
    rig_close(&r);
}

static void it_fails_for_good(void **state)
{
    (void)state;
    struct rig r;
    struct nvme_cqe cqe;
    rig_up(&r, NULL, 1);
    pcie_model_fail(r.m);
    assert_int_equal(rig_get(&r, PM_CSTS), PM_CSTS_RDY | PM_CSTS_CFS);
    send_write(&r, 1);
    assert_false(rig_take(&r, 1, &cqe));
    rig_disable(&r);
    rig_enable(&r);
    rig_queues(&r, 1);
    fault(&r, PCIE_MODEL_FATAL, PCIE_MODEL_IO, PCIE_MODEL_ANY, 0);
    send_write(&r, 1);
    assert_false(rig_take(&r, 1, &cqe));
    assert_int_equal(rig_get(&r, PM_CSTS), PM_CSTS_RDY | PM_CSTS_CFS);
    rig_close(&r);
}

static void it_is_pulled_and_put_back(void **state)
{
    (void)state;
    struct rig r;
    struct plx_error err;
    struct pci_function *g;
    rig_up(&r, NULL, 1);
    assert_false(lost(&r));
    fault(&r, PCIE_MODEL_GONE, 1, PCIE_MODEL_ANY, 0);
    send_write(&r, 1);
    assert_true(lost(&r));
    assert_int_equal(rig_get(&r, PM_CSTS), ~0u);
    assert_int_equal(rig_get(&r, PM_CAP), ~0u);
    rig_put(&r, PM_CC, 0);
    pcie_model_step(r.m);
    assert_int_equal(rig_get(&r, PM_CC), ~0u);
    assert_int_equal(r.f->ops->reset(r.f), -ENODEV);
    pcie_model_put_back(r.m);
    assert_int_equal(rig_get(&r, PM_CC), ~0u); /* for this opening of it, that changes nothing */
    pcie_model_remove(r.m);
    r.f->ops->close(r.f);
    assert_int_equal(pcie_model_open(r.m->addr, &g, &err), -ENODEV);
    pcie_model_put_back(r.m);
    assert_int_equal(pcie_model_open(r.m->addr, &r.f, &err), 0);
    assert_int_equal(r.f->ops->set_vectors(r.f, r.fds, 4), 0);
    rig_enable(&r);
    rig_queues(&r, 1);
    assert_int_equal(medium(&r), 0);
    rig_must(&r, 1, rig_io(&r, NVME_IO_WRITE, 0, 1, RIG_DATA));
    pcie_model_ask_back(r.m);
    assert_true(lost(&r));
    rig_must(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA)); /* and that is all */
    rig_close(&r);
}

static sigjmp_buf bus_error;

static void on_bus_error(int sig)
{
    (void)sig;
    siglongjmp(bus_error, 1);
}

/* Without an atomic access, in which ThreadSanitizer must not be left by a jump. */
static void its_registers_are_taken_away(void **state)
{
    (void)state;
    struct rig r;
    struct sigaction old, act = {.sa_handler = on_bus_error};
    volatile unsigned errors = 0;
    rig_up(&r, NULL, 1);
    sigaction(SIGBUS, &act, &old);
    pcie_model_zap(r.m);
    assert_true(lost(&r));
    if (sigsetjmp(bus_error, 1) == 0)
        (void)r.f->regs[PM_CSTS];
    else
        errors++;
    if (sigsetjmp(bus_error, 1) == 0)
        r.f->msix[PCI_MSIX_CONTROL] = 0;
    else
        errors++;
    sigaction(SIGBUS, &old, NULL);
    assert_int_equal(errors, 2);
    for (unsigned i = 0; i < 10; i++)
        pcie_model_step(r.m);
    r.f->ops->close(r.f);
    r.f = NULL;
    pcie_model_put_back(r.m);
    rig_close(&r);
}

/* ---- by chance ---- */

enum { SOAK_SLOTS = 6, SOAK_SEEDS = 300, SOAK_COMMANDS = 60, SOAK_PATIENCE = 200 };

struct soak {
    struct rig r;
    struct {
        bool busy;
        uint16_t cid;
        uint8_t was, is;
    } slots[SOAK_SLOTS]; /* each has a block of its own */
    unsigned ended, failed, resets;
    uint64_t random;
    bool sloppy; /* gives buffers back too early */
};

static uint8_t block(struct soak *s, unsigned slot)
{
    uint8_t byte;
    pcie_model_peek(s->r.m, 1, slot * 512, &byte, 1);
    return byte;
}

/* Ends the slots that are busy, as a host that has made sure that they are over. */
static void soak_over(struct soak *s, unsigned *late)
{
    for (unsigned i = 0; i < SOAK_SLOTS; i++) {
        const uint8_t is = block(s, i);
        if (s->slots[i].busy && is != s->slots[i].is && is != s->slots[i].was)
            ++*late;
        s->slots[i].busy = false;
        s->r.memory[RIG_DATA + i * 4096] = 0xff;
    }
}

static bool soak_bring_up(struct soak *s)
{
    struct rig *r = &s->r;
    struct nvme_cqe cqe;
    rig_write_admin_registers(r);
    rig_put(r, PM_CC, 0x00460001);
    if (r->f->ops->set_vectors(r->f, r->fds, 4) || !rig_wait_csts(r, ~0u, PM_CSTS_RDY))
        return false;
    struct nvme_cmd queues = {.opcode = PM_SET_FEATURES, .cdw10 = plx_put32(7)};
    const struct nvme_cmd cmds[] = {queues, rig_create(1, true, 1), rig_create(1, false, -1)};
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(cmds); i++) {
        rig_put_cmd(r, 0, cmds[i]);
        rig_ring_sq(r, 0);
        for (unsigned step = 0; step < SOAK_PATIENCE; step++)
            pcie_model_step(r->m);
        if (!rig_take(r, 0, &cqe) || plx_get16(cqe.cid) != r->cid || rig_status(&cqe) || plx_get16(cqe.sqid))
            return false;
    }
    r->q[1] = (struct rig_queue){.phase = 1, .size = RIG_DEPTH, .sq = RIG_QUEUES + 0x2000, .cq = RIG_QUEUES + 0x3000};
    return true;
}

static void soak_reset(struct soak *s, unsigned *late)
{
    do {
        s->resets++;
        rig_put(&s->r, PM_CC, 0x00460000);
        if (s->sloppy) {
            pcie_model_step(s->r.m);
            soak_over(s, late);
        }
        while (!rig_wait_csts(&s->r, ~0u, 0))
            s->r.f->ops->reset(s->r.f);
        for (unsigned i = 0; i < SOAK_SLOTS; i++)
            *late += s->sloppy && block(s, i) == 0xff;
        soak_over(s, late);
        for (unsigned i = 0; i < 10; i++) /* what is over does not land later */
            pcie_model_step(s->r.m);
        for (unsigned i = 0; i < SOAK_SLOTS; i++) {
            *late += block(s, i) == 0xff;
            s->slots[i].is = block(s, i);
        }
    } while (!soak_bring_up(s));
}

static void soak_send(struct soak *s, unsigned slot)
{
    struct rig *r = &s->r;
    s->slots[slot].was = s->slots[slot].is;
    s->slots[slot].is = (uint8_t)(1 + pm_random(&s->random, 0xfe));
    s->slots[slot].busy = true;
    memset(r->memory + RIG_DATA + slot * 4096, s->slots[slot].is, 512);
    rig_put_cmd(r, 1, rig_io(r, NVME_IO_WRITE, slot, 1, RIG_DATA + slot * 4096));
    s->slots[slot].cid = r->cid;
    rig_ring_sq(r, 1);
}

/* @return false where a completion makes no sense */
static bool soak_reap(struct soak *s)
{
    struct nvme_cqe cqe;
    while (rig_take(&s->r, 1, &cqe)) {
        unsigned i = 0;
        while (i < SOAK_SLOTS && (!s->slots[i].busy || s->slots[i].cid != plx_get16(cqe.cid)))
            i++;
        if (i == SOAK_SLOTS || plx_get16(cqe.sqid) != 1 || plx_get16(cqe.sqhd) >= RIG_DEPTH)
            return false;
        s->slots[i].busy = false;
        s->ended++;
        if (rig_status(&cqe))
            s->slots[i].is = s->slots[i].was;
        s->failed += rig_status(&cqe) != 0;
        assert_int_equal(block(s, i), s->slots[i].is);
    }
    return true;
}

static unsigned soak(struct soak *s, uint64_t seed)
{
    struct pcie_model_opts o = pcie_model_defaults;
    unsigned late = 0;
    const bool sloppy = s->sloppy;
    memset(s, 0, sizeof *s);
    s->sloppy = sloppy;
    s->random = seed * 7919 + 1;
    o.random_odds = 12;
    o.latency = 1;
    o.shuffle = 5;
    rig_open(&s->r, &o);
    pcie_model_faults_random(s->r.m, seed);
    soak_reset(s, &late);
    for (unsigned waited = 0; s->ended < SOAK_COMMANDS;) {
        const unsigned slot = pm_random(&s->random, SOAK_SLOTS), before = s->ended;
        if (!s->slots[slot].busy)
            soak_send(s, slot);
        pcie_model_step(s->r.m);
        const bool sane = soak_reap(s) && rig_get(&s->r, PM_CSTS) == PM_CSTS_RDY;
        waited = s->ended == before ? waited + 1 : 0;
        if (sane && waited < SOAK_PATIENCE)
            continue;
        soak_reset(s, &late);
        waited = 0;
    }
    pcie_model_faults_clear(s->r.m);
    rig_disable(&s->r);
    return late;
}

static void a_careful_host_survives_them_all(void **state)
{
    (void)state;
    static struct soak s;
    const char *one = getenv("POLLUX_SEED");
    unsigned kinds = 0, resets = 0, failed = 0;
    for (uint64_t seed = 1; seed <= SOAK_SEEDS; seed++) {
        if (one)
            seed = strtoull(one, NULL, 10);
        s.sloppy = false;
        const unsigned late = soak(&s, seed);
        if (late || pcie_model_complaints(s.r.m))
            print_message("POLLUX_SEED=%llu\n", (unsigned long long)seed);
        assert_int_equal(late, 0);
        for (unsigned kind = 1; kind < PCIE_MODEL_KINDS; kind++)
            kinds |= (unsigned)(pcie_model_injected(s.r.m, kind) != 0) << kind;
        resets += s.resets;
        failed += s.failed;
        rig_close(&s.r);
        if (one)
            return;
    }
    assert_true(resets > SOAK_SEEDS && failed > 0);
    /* All of them, but for what was asked not to be, or this host does not do. */
    const unsigned never =
        1u << PCIE_MODEL_NONE | 1u << PCIE_MODEL_GONE | 1u << PCIE_MODEL_ABORT_IDLE | 1u << PCIE_MODEL_SHUTDOWN_STUCK;
    assert_int_equal(kinds | never, (1u << PCIE_MODEL_KINDS) - 1);
}

static void a_sloppy_host_does_not(void **state)
{
    (void)state;
    static struct soak s;
    unsigned late = 0;
    for (uint64_t seed = 1; seed <= 30; seed++) {
        s.sloppy = true;
        late += soak(&s, seed);
        pcie_model_forgive(s.r.m);
        rig_close(&s.r);
    }
    assert_true(late > 0);
}

static void a_seed_repeats_itself(void **state)
{
    (void)state;
    static struct soak s;
    unsigned ended[2], resets[2], irqs[2];
    for (unsigned i = 0; i < 2; i++) {
        s.sloppy = false;
        soak(&s, 77);
        ended[i] = s.ended;
        resets[i] = s.resets;
        irqs[i] = pcie_model_irqs(s.r.m);
        rig_close(&s.r);
    }
    assert_int_equal(ended[0], ended[1]);
    assert_int_equal(resets[0], resets[1]);
    assert_int_equal(irqs[0], irqs[1]);
}

/* ---- a thread of its own ---- */

static void a_thread_runs_it(void **state)
{
    (void)state;
    struct rig r;
    struct nvme_cqe cqe;
    rig_open(&r, NULL);
    pcie_model_start_thread(r.m);
    rig_enable(&r);
    rig_queues(&r, 2);
    for (unsigned i = 0; i < 200; i++) {
        const unsigned qid = 1 + i % 2;
        memset(r.memory + RIG_DATA, (int)i, 4096);
        rig_must(&r, qid, rig_io(&r, NVME_IO_WRITE, i * 8, 8, RIG_DATA));
        rig_must(&r, qid, rig_io(&r, NVME_IO_READ, i * 8, 8, RIG_DATA + 8192));
        assert_memory_equal(r.memory + RIG_DATA, r.memory + RIG_DATA + 8192, 4096);
    }
    struct pollfd p = {.fd = r.fds[1], .events = POLLIN};
    rig_irqs(&r, 1);
    rig_put_cmd(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA));
    rig_ring_sq(&r, 1);
    assert_int_equal(poll(&p, 1, 60000), 1);
    assert_true(rig_take(&r, 1, &cqe));
    fault(&r, PCIE_MODEL_HANG, 1, NVME_IO_READ, 0);
    rig_put_cmd(&r, 1, rig_io(&r, NVME_IO_READ, 0, 1, RIG_DATA));
    rig_ring_sq(&r, 1);
    while (pcie_model_held(r.m) == 0)
        usleep(50);
    rig_disable(&r);
    assert_int_equal(r.memory[RIG_DATA], 0); /* block 0 has zeroes, and has landed */
    assert_int_equal(r.f->ops->reset(r.f), 0);
    rig_enable(&r);
    pcie_model_remove(r.m);
    assert_int_equal(rig_get(&r, PM_CSTS), ~0u);
    pcie_model_stop_thread(r.m);
    pcie_model_put_back(r.m);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_command_hangs_and_is_answered_late),
        cmocka_unit_test(what_hangs_lands_at_the_last_moment),
        cmocka_unit_test(what_hangs_never_lands_once_it_is_pulled),
        cmocka_unit_test(disabling_it_leaves_nothing),
        cmocka_unit_test(a_command_is_late),
        cmocka_unit_test(a_completion_is_lost),
        cmocka_unit_test(completions_are_wrong),
        cmocka_unit_test(a_second_answer_comes_when_it_is_told_to),
        cmocka_unit_test(a_status_of_choice),
        cmocka_unit_test(faults_are_for_a_time_or_for_ever),
        cmocka_unit_test(interrupts_are_lost_and_come_for_nothing),
        cmocka_unit_test(an_abort_aborts_nothing),
        cmocka_unit_test(it_does_not_become_ready),
        cmocka_unit_test(it_stays_ready),
        cmocka_unit_test(it_fails_for_good),
        cmocka_unit_test(it_is_pulled_and_put_back),
        cmocka_unit_test(its_registers_are_taken_away),
        cmocka_unit_test(a_careful_host_survives_them_all),
        cmocka_unit_test(a_sloppy_host_does_not),
        cmocka_unit_test(a_seed_repeats_itself),
        cmocka_unit_test(a_thread_runs_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
