/* SPDX-License-Identifier: BSD-3-Clause */
/* The model of a controller, by registers, queues and doorbells: that it is right where a driver is tested with it. */
#include "pcie_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>

static void it_is_found_by_its_address(void **state)
{
    (void)state;
    struct pcie_model_opts o = pcie_model_defaults;
    struct pci_function *f, *g;
    struct plx_error err;
    struct pcie_model *a = pcie_model_new(&o);
    o.addr = "0000:02:00.0";
    struct pcie_model *b = pcie_model_new(&o);
    assert_int_equal(pcie_model_open("0000:03:00.0", &f, &err), -ENODEV);
    assert_int_equal(pcie_model_open("0000:02:00.0", &f, &err), 0);
    assert_true(pcie_model_is_open(b) && !pcie_model_is_open(a));
    assert_string_equal(f->addr, "0000:02:00.0");
    assert_int_equal(pcie_model_open("0000:02:00.0", &g, &err), -EBUSY);
    f->ops->close(f);
    pcie_model_open_fails(b, -EPERM, "no");
    assert_int_equal(pcie_model_open("0000:02:00.0", &f, &err), -EPERM);
    assert_string_equal(err.text, "no");
    pcie_model_open_fails(b, 0, NULL);
    assert_int_equal(pcie_model_open("0000:02:00.0", &f, &err), 0);
    f->ops->close(f);
    pcie_model_free(a);
    pcie_model_free(b);
}

static void it_becomes_ready_and_no_longer(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r, NULL);
    assert_int_equal(pci_get64(r.f, PM_CAP), UINT64_C(0x00400020140103ff));
    assert_int_equal(rig_get(&r, PM_VS), 0x00010400);
    rig_write_admin_registers(&r);
    rig_put(&r, PM_CC, 0x00460001);
    pcie_model_step(r.m);
    pcie_model_step(r.m);
    assert_int_equal(rig_get(&r, PM_CSTS), 0);
    pcie_model_step(r.m);
    assert_int_equal(rig_get(&r, PM_CSTS), PM_CSTS_RDY);
    rig_put(&r, PM_CC, 0x00460000);
    pcie_model_step(r.m);
    assert_int_equal(rig_get(&r, PM_CSTS), PM_CSTS_RDY);
    pcie_model_settle(r.m);
    assert_int_equal(rig_get(&r, PM_CSTS), 0);
    rig_enable(&r);
    assert_int_equal(pcie_model_enables(r.m), 2);
    rig_put(&r, PM_CC, 0x00464001);
    assert_true(rig_wait_csts(&r, ~0u, PM_CSTS_RDY | PM_CSTS_SHST_BUSY));
    assert_true(rig_wait_csts(&r, ~0u, PM_CSTS_RDY | PM_CSTS_SHST_DONE));
    struct nvme_cqe cqe;
    rig_put_cmd(&r, 0, (struct nvme_cmd){.opcode = PM_GET_FEATURES, .cdw10 = plx_put32(1)});
    rig_ring_sq(&r, 0);
    pcie_model_settle(r.m);
    assert_false(rig_take(&r, 0, &cqe)); /* that was too late */
    rig_disable(&r);
    rig_enable(&r);
    rig_close(&r);
}

static void it_interrupts(void **state)
{
    (void)state;
    struct rig r;
    struct nvme_cqe cqe;
    volatile uint32_t *control;
    rig_up(&r, NULL, 2);
    assert_true(rig_irqs(&r, 0) > 0);
    control = (volatile uint32_t *)(volatile void *)(r.f->msix + 2 * PCI_MSIX_ENTRY + PCI_MSIX_CONTROL);
    rig_must(&r, 2, rig_io(&r, NVME_IO_READ, 0, 1, RIG_DATA));
    assert_int_equal(rig_irqs(&r, 2), 1);
    assert_int_equal(rig_irqs(&r, 1), 0);
    const unsigned irqs = pcie_model_irqs(r.m);
    rig_must(&r, 2, rig_io(&r, NVME_IO_READ, 0, 1, RIG_DATA));
    rig_must(&r, 1, rig_io(&r, NVME_IO_READ, 0, 1, RIG_DATA));
    assert_int_equal(pcie_model_irqs(r.m), irqs + 2);
    assert_int_equal(rig_irqs(&r, 2), 1);
    *control = PCI_MSIX_MASKED;
    rig_put_cmd(&r, 2, rig_io(&r, NVME_IO_READ, 0, 1, RIG_DATA));
    rig_ring_sq(&r, 2);
    pcie_model_settle(r.m);
    assert_int_equal(rig_irqs(&r, 2), 0);
    *control = 0; /* it was pending */
    pcie_model_settle(r.m);
    assert_int_equal(rig_irqs(&r, 2), 1);
    assert_true(rig_take(&r, 2, &cqe));
    *control = PCI_MSIX_MASKED;
    rig_must(&r, 2, rig_io(&r, NVME_IO_READ, 0, 1, RIG_DATA));
    pcie_model_settle(r.m); /* seen to before it is unmasked: no longer pending */
    *control = 0;
    pcie_model_settle(r.m);
    assert_int_equal(rig_irqs(&r, 2), 0);
    rig_close(&r);
}

/* ---- registers ---- */

static void what_it_is_enabled_with_is_checked(void **state)
{
    (void)state;
    static const struct {
        uint32_t cc, aqa, asq;
        const char *part;
    } tries[] = {
        {0x00460401, 0x00070007, RIG_BASE, "CC.MPS"},
        {0x00460011, 0x00070007, RIG_BASE, "CC.CSS is reserved"},
        {0x00460061, 0x00070007, RIG_BASE, "several command sets"},
        {0x00460071, 0x00070007, RIG_BASE, "without a command set"},
        {0x00460801, 0x00070007, RIG_BASE, "CC.AMS"},
        {0x01460001, 0x00070007, RIG_BASE, "CC.CRIME"},
        {0x00460003, 0x00070007, RIG_BASE, "reserved bits"},
        {0x00464001, 0x00070007, RIG_BASE, "CC.SHN"},
        {0x00460001, 0x00070000, RIG_BASE, "one entry"},
        {0x00460001, 0x10070007, RIG_BASE, "AQA has reserved"},
        {0x00460001, 0x00070007, RIG_BASE + 64, "aligned"},
        {0x00460081, 0x00070007, RIG_BASE + RIG_ACQ, "aligned"},
        {0x00460001, 0x00070007, RIG_BASE + RIG_BYTES, "not mapped"},
    };
    struct rig r;
    rig_open(&r, NULL);
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(tries); i++) {
        rig_write_admin_registers(&r);
        rig_put(&r, PM_AQA, tries[i].aqa);
        rig_put(&r, PM_ASQ, tries[i].asq);
        rig_put(&r, PM_CC, tries[i].cc);
        pcie_model_settle(r.m);
        rig_complained(&r, tries[i].part);
        assert_int_equal(rig_get(&r, PM_CSTS), PM_CSTS_CFS);
        rig_disable(&r);
    }
    rig_enable(&r);
    rig_close(&r);
}

static void several_command_sets_can_be_chosen(void **state)
{
    (void)state;
    struct pcie_model_opts o = pcie_model_defaults;
    struct rig r;
    o.css = 1 << 6;
    o.crims = o.crwms = true;
    o.crto = 0x00030004;
    o.version = 0x00020000;
    rig_open(&r, &o);
    assert_int_equal(rig_get(&r, PM_CAP + 4), 0x18400800);
    assert_int_equal(rig_get(&r, PM_CRTO), 0x00030004);
    rig_write_admin_registers(&r);
    rig_put(&r, PM_CC, 0x01460061);
    assert_true(rig_wait_csts(&r, ~0u, PM_CSTS_RDY));
    rig_disable(&r);
    rig_write_admin_registers(&r);
    rig_put(&r, PM_CC, 0x00460001);
    pcie_model_settle(r.m);
    rig_complained(&r, "no NVM command set");
    rig_close(&r);
}

static void registers_that_are_not_to_be_written_are_not(void **state)
{
    (void)state;
    static const struct {
        uint32_t at;
        const char *part;
    } tries[] = {{PM_CAP, "CAP written"},
                 {PM_CAP + 4, "CAP written"},
                 {PM_VS, "VS written"},
                 {PM_INTMS, "INTMS"},
                 {PM_INTMC, "INTMC"},
                 {PM_CSTS, "CSTS written"},
                 {PM_NSSR, "NSSR written"},
                 {PM_CRTO, "CRTO written"},
                 {PM_CC, "CC changed"},
                 {PM_ASQ, "ASQ written"},
                 {PM_BELLS + 12, "no such queue"}};
    struct rig r;
    rig_open(&r, NULL);
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(tries); i++) {
        rig_enable(&r);
        rig_put(&r, tries[i].at, tries[i].at == PM_CC ? 0x00460081 : tries[i].at == PM_ASQ ? RIG_BASE : 0x4e564d65);
        pcie_model_settle(r.m);
        rig_complained(&r, tries[i].part);
        pcie_model_step(r.m); /* once */
        assert_int_equal(pcie_model_complaints(r.m), 0);
        rig_disable(&r);
    }
    rig_close(&r);
}

/* Between two steps, while RDY is 0: what the host has written to ASQ tells. */
static void it_is_disabled_and_enabled_unseen(void **state)
{
    (void)state;
    struct rig r;
    struct pcie_model_fault f = {.kind = PCIE_MODEL_RDY_NEVER};
    rig_open(&r, NULL);
    for (unsigned i = 0; i < 2; i++) {
        pcie_model_fault(r.m, &f);
        rig_write_admin_registers(&r);
        rig_put(&r, PM_CC, 0x00460001);
        pcie_model_settle(r.m);
        rig_put(&r, PM_CC, 0x00460000);
        assert_int_equal(rig_get(&r, PM_CSTS), i ? PM_CSTS_CFS : 0);
        rig_enable(&r);
        rig_must(&r, 0, (struct nvme_cmd){.opcode = PM_GET_FEATURES, .cdw10 = plx_put32(1)});
        assert_int_equal(pcie_model_enables(r.m), 2 + 2 * i);
        rig_disable(&r);
        f.kind = PCIE_MODEL_FATAL_ENABLE;
    }
    rig_put(&r, PM_AQA, 0x00070007); /* the other registers are kept */
    memset(r.memory, 0, RIG_DATA);
    rig_put(&r, PM_CC, 0x00460001);
    assert_true(rig_wait_csts(&r, ~0u, PM_CSTS_RDY));
    rig_close(&r);
}

static void what_lies_between_doorbells_is_not_written(void **state)
{
    (void)state;
    struct pcie_model_opts o = pcie_model_defaults;
    struct rig r;
    o.dstrd = 2;
    rig_up(&r, &o, 2);
    assert_int_equal(rig_get(&r, PM_CAP + 4) & 0xf, 2);
    rig_must(&r, 2, rig_io(&r, NVME_IO_WRITE, 0, 1, RIG_DATA));
    rig_put(&r, PM_BELLS + 4, 1); /* queue 0's completions, if the stride were 4 bytes */
    for (unsigned i = 0; i < 64; i++)
        pcie_model_step(r.m);
    rig_complained(&r, "no doorbell");
    rig_close(&r);
}

static void a_subsystem_reset_ends_all(void **state)
{
    (void)state;
    struct pcie_model_opts o = pcie_model_defaults;
    struct rig r;
    o.nssrs = true;
    rig_up(&r, &o, 1);
    rig_put(&r, PM_NSSR, PM_NSSR_MAGIC);
    assert_true(rig_wait_csts(&r, ~0u, PM_CSTS_NSSRO));
    assert_int_equal(rig_get(&r, PM_CC), 0);
    assert_int_equal(rig_get(&r, PM_NSSR), 0);
    rig_put(&r, PM_CSTS, PM_CSTS_NSSRO);
    pcie_model_settle(r.m);
    assert_int_equal(rig_get(&r, PM_CSTS), 0);
    rig_enable(&r);
    rig_close(&r);
}

static void a_function_level_reset_ends_all(void **state)
{
    (void)state;
    struct rig r;
    rig_up(&r, NULL, 1);
    *(volatile uint32_t *)(volatile void *)(r.f->msix + PCI_MSIX_ENTRY + PCI_MSIX_CONTROL) = PCI_MSIX_MASKED;
    assert_int_equal(r.f->ops->reset(r.f), 0);
    assert_int_equal(rig_get(&r, PM_CC), 0);
    assert_int_equal(rig_get(&r, PM_CSTS), 0);
    assert_int_equal(rig_get(&r, PM_AQA), 0);
    assert_int_equal(pcie_model_queues(r.m), 0);
    assert_int_equal(pcie_model_resets(r.m), 1);
    rig_enable(&r);
    rig_queues(&r, 1);
    rig_must(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA));
    assert_true(rig_irqs(&r, 1)); /* vectors are still set, and none is masked */
    rig_close(&r);
}

/* ---- doorbells ---- */

static void doorbells_of_nonsense_are_fatal(void **state)
{
    (void)state;
    static const struct {
        unsigned bell, puts;
        uint32_t value;
        const char *part;
    } tries[] = {
        {2, 0, RIG_DEPTH, "beyond its end"},  {2, 0, 0xffff, "beyond its end"}, {3, 0, 1, "beyond what is complete"},
        {3, 1, 2, "beyond what is complete"}, {4, 0, 1, "no such queue"},       {5, 0, 0, "no such queue"},
    };
    struct rig r;
    struct nvme_cqe cqe;
    rig_open(&r, NULL);
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(tries); i++) {
        rig_enable(&r);
        rig_queues(&r, 1);
        for (unsigned n = 0; n < tries[i].puts; n++) {
            rig_put_cmd(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA));
            rig_ring_sq(&r, 1);
            pcie_model_settle(r.m);
        }
        rig_put(&r, PM_BELLS + 4 * tries[i].bell, tries[i].value);
        pcie_model_settle(r.m);
        rig_complained(&r, tries[i].part);
        assert_int_equal(rig_get(&r, PM_CSTS), PM_CSTS_RDY | PM_CSTS_CFS);
        rig_put_cmd(&r, 0, rig_cmd(&r, PM_ABORT, 0, RIG_DATA, 0)); /* nothing is done any more */
        rig_ring_sq(&r, 0);
        pcie_model_settle(r.m);
        assert_false(rig_take(&r, 0, &cqe));
        rig_disable(&r);
    }
    rig_close(&r);
}

static void a_submission_queue_is_not_overrun(void **state)
{
    (void)state;
    struct pcie_model_opts o = pcie_model_defaults;
    struct rig r;
    o.burst = 1;
    rig_up(&r, &o, 1);
    for (unsigned i = 0; i < RIG_DEPTH - 1; i++)
        rig_put_cmd(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA));
    rig_ring_sq(&r, 1);
    pcie_model_step(r.m); /* one fetched, so that there is room for one */
    rig_put_cmd(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA));
    rig_put_cmd(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA));
    rig_ring_sq(&r, 1);
    pcie_model_settle(r.m);
    rig_complained(&r, "overruns");
    rig_close(&r);
}

static void a_doorbell_is_not_written_again_with_what_it_was(void **state)
{
    (void)state;
    struct rig r;
    rig_up(&r, NULL, 1);
    rig_must(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA));
    pcie_model_settle(r.m);
    rig_ring_sq(&r, 1);
    pcie_model_settle(r.m);
    rig_complained(&r, "with what it was");
    rig_close(&r);
}

static void doorbells_rest_unless_it_is_ready(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r, NULL);
    rig_put(&r, PM_BELLS, 1);
    pcie_model_settle(r.m);
    rig_complained(&r, "while it is disabled");
    rig_write_admin_registers(&r);
    rig_put(&r, PM_CC, 0x00460001);
    pcie_model_step(r.m);
    rig_put(&r, PM_BELLS, 1);
    pcie_model_settle(r.m);
    rig_complained(&r, "before RDY = 1");
    rig_queues(&r, 1);
    rig_put_cmd(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA));
    rig_ring_sq(&r, 1); /* before EN = 0: that is all right */
    rig_put(&r, PM_CC, 0x00460000);
    pcie_model_step(r.m);
    rig_ring_sq(&r, 1);
    pcie_model_settle(r.m);
    rig_complained(&r, "between EN = 0 and RDY = 0");
    rig_close(&r);
}

static void queues_rest_between_en_0_and_rdy_0(void **state)
{
    (void)state;
    static const unsigned places[] = {RIG_ASQ + 60, RIG_ACQ, RIG_QUEUES + 0x2000,
                                      RIG_QUEUES + 0x3000 + 16 * RIG_DEPTH - 1};
    struct rig r;
    rig_open(&r, NULL);
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(places); i++) {
        for (unsigned flr = 0; flr < 2; flr++) {
            rig_enable(&r);
            rig_queues(&r, 1);
            rig_put(&r, PM_CC, 0x00460000);
            pcie_model_step(r.m);
            r.memory[places[i]] ^= 1;
            if (flr)
                assert_int_equal(r.f->ops->reset(r.f), 0);
            pcie_model_settle(r.m);
            rig_complained(&r, "queues written to");
        }
    }
    rig_enable(&r);
    rig_put(&r, PM_CC, 0x00460000);
    pcie_model_step(r.m);
    r.memory[RIG_ACQ + 16 * RIG_DEPTH] ^= 1; /* right behind them */
    pcie_model_settle(r.m);
    rig_enable(&r);
    rig_put(&r, PM_CC, 0x00460000);
    pcie_model_step(r.m);
    rig_put(&r, PM_CC, 0x00460001);
    pcie_model_step(r.m);
    rig_complained(&r, "enabled before RDY came down");
    assert_int_equal(rig_get(&r, PM_CSTS), 0);
    r.q[0].tail = r.q[0].head = 0;
    r.q[0].phase = 1;
    memset(r.memory, 0, RIG_DATA);
    assert_true(rig_wait_csts(&r, ~0u, PM_CSTS_RDY));
    rig_must(&r, 0, (struct nvme_cmd){.opcode = PM_GET_FEATURES, .cdw10 = plx_put32(1)});
    rig_close(&r);
}

/* ---- interrupts, completions ---- */

static void vectors_are_set_and_dropped(void **state)
{
    (void)state;
    struct rig r;
    volatile uint32_t *control;
    rig_up(&r, NULL, 1);
    control = (volatile uint32_t *)(volatile void *)(r.f->msix + PCI_MSIX_ENTRY + PCI_MSIX_CONTROL);
    const struct nvme_cmd flush = rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA);
    *control = PCI_MSIX_MASKED;
    rig_put_cmd(&r, 1, flush);
    rig_ring_sq(&r, 1);
    pcie_model_settle(r.m);
    assert_int_equal(r.f->ops->set_vectors(r.f, NULL, 0), 0);
    *control = 0;
    pcie_model_settle(r.m); /* it was pending, and nobody is there */
    assert_int_equal(rig_irqs(&r, 1), 0);
    rig_put_cmd(&r, 1, flush);
    rig_ring_sq(&r, 1);
    pcie_model_settle(r.m);
    assert_int_equal(rig_irqs(&r, 1), 0);
    *control = PCI_MSIX_MASKED;
    assert_int_equal(r.f->ops->set_vectors(r.f, r.fds, 4), 0);
    assert_int_equal(*control, 0);
    pcie_model_settle(r.m);
    assert_int_equal(rig_irqs(&r, 1), 0); /* nothing is left from before */
    rig_put_cmd(&r, 1, flush);
    rig_ring_sq(&r, 1);
    pcie_model_settle(r.m);
    assert_int_equal(rig_irqs(&r, 1), 1);
    const int others[] = {r.fds[0], r.fds[2]};
    assert_int_equal(r.f->ops->set_vectors(r.f, others, 2), 0);
    rig_put_cmd(&r, 1, flush);
    rig_ring_sq(&r, 1);
    pcie_model_settle(r.m);
    assert_int_equal(rig_irqs(&r, 1), 0);
    assert_int_equal(rig_irqs(&r, 2), 1);
    rig_close(&r);
}

static unsigned files(void)
{
    unsigned n = 0;
    for (int fd = 0; fd < 1024; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static void closing_it_gives_everything_back(void **state)
{
    (void)state;
    struct rig r;
    const unsigned before = files();
    for (unsigned i = 0; i < 3; i++) {
        rig_up(&r, NULL, 1);
        assert_int_equal(r.f->ops->set_vectors(r.f, r.fds, 3), 0);
        rig_close(&r);
        assert_int_equal(files(), before);
    }
}

static void a_completion_queue_is_not_overrun(void **state)
{
    (void)state;
    struct rig r;
    struct nvme_cqe cqe;
    unsigned taken = 0;
    rig_up(&r, NULL, 1);
    r.q[2] = r.q[1]; /* a second submission queue of the same completion queue */
    r.q[2].sq = RIG_QUEUES + 0x4000;
    struct nvme_cmd cmd = {.opcode = PM_SET_FEATURES, .cdw10 = plx_put32(7), .cdw11 = plx_put32(0x00010001)};
    assert_int_equal(rig_do(&r, 0, cmd, NULL), PLX_SC_COMMAND_SEQUENCE_ERROR | NVME_STATUS_DNR);
    rig_disable(&r);
    rig_enable(&r);
    rig_queues(&r, 2);
    cmd = (struct nvme_cmd){.opcode = PM_DELETE_SQ, .cdw10 = plx_put32(2)};
    rig_must(&r, 0, cmd);
    cmd = rig_create(2, false, -1);
    cmd.cdw11 = plx_put32(1 | 1 << 16);
    rig_must(&r, 0, cmd);
    for (unsigned i = 0; i < RIG_DEPTH - 1; i++) {
        rig_put_cmd(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA));
        rig_put_cmd(&r, 2, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA));
    }
    rig_ring_sq(&r, 1);
    rig_ring_sq(&r, 2);
    pcie_model_settle(r.m);
    assert_int_equal(pcie_model_held(r.m), RIG_DEPTH - 1);
    for (unsigned i = 0; i < 2 * (RIG_DEPTH - 1); i++) {
        assert_true(rig_take(&r, 1, &cqe));
        pcie_model_settle(r.m);
        taken |= 1u << plx_get16(cqe.sqid);
    }
    assert_false(rig_take(&r, 1, &cqe));
    assert_int_equal(taken, 1 << 1 | 1 << 2);
    rig_close(&r);
}

static void commands_take_their_time_and_pass_one_another(void **state)
{
    (void)state;
    struct pcie_model_opts o = pcie_model_defaults;
    struct rig r;
    struct nvme_cqe cqe;
    o.latency = 3;
    rig_up(&r, &o, 1);
    rig_put_cmd(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA));
    rig_ring_sq(&r, 1);
    for (unsigned i = 0; i < 3; i++) {
        assert_true(pcie_model_step(r.m) > 0);
        assert_false(rig_take(&r, 1, &cqe));
    }
    pcie_model_step(r.m);
    assert_true(rig_take(&r, 1, &cqe));
    rig_close(&r);
    o.latency = 0; /* as many at a time as a burst has */
    o.burst = 4;
    rig_up(&r, &o, 1);
    for (unsigned i = 0; i < 6; i++)
        rig_put_cmd(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA));
    rig_ring_sq(&r, 1);
    pcie_model_step(r.m);
    assert_int_equal(pcie_model_count(r.m, 1, NVME_IO_FLUSH), 4);
    pcie_model_step(r.m);
    assert_int_equal(pcie_model_count(r.m, 1, NVME_IO_FLUSH), 6);
    rig_close(&r);
    o.burst = 32;
    o.latency = 3;
    o.shuffle = 50;
    rig_up(&r, &o, 1);
    unsigned passed = 0;
    for (unsigned round = 0; round <= PM_COMMANDS / (RIG_DEPTH - 1); round++) {
        unsigned seen = 0;
        const uint16_t first = r.cid + 1;
        for (unsigned i = 0; i < RIG_DEPTH - 1; i++)
            rig_put_cmd(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA));
        rig_ring_sq(&r, 1);
        pcie_model_settle(r.m);
        for (unsigned i = 0; i < RIG_DEPTH - 1; i++) {
            assert_true(rig_take(&r, 1, &cqe));
            const unsigned nth = (uint16_t)(plx_get16(cqe.cid) - first);
            passed += nth != i;
            seen |= 1u << nth;
        }
        assert_int_equal(seen, (1 << (RIG_DEPTH - 1)) - 1);
    }
    assert_true(passed > 0);
    rig_close(&r);
}

static void an_identifier_is_used_once_at_a_time(void **state)
{
    (void)state;
    struct pcie_model_opts o = pcie_model_defaults;
    struct rig r;
    struct nvme_cqe cqe;
    o.latency = 1;
    rig_up(&r, &o, 1);
    rig_put_cmd(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA));
    r.cid--;
    rig_put_cmd(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA));
    rig_ring_sq(&r, 1);
    pcie_model_settle(r.m);
    rig_complained(&r, "is in use");
    unsigned conflicts = 0;
    for (unsigned i = 0; i < 2; i++) {
        assert_true(rig_take(&r, 1, &cqe));
        conflicts += rig_status(&cqe) == (PLX_SC_COMMAND_ID_CONFLICT | NVME_STATUS_DNR);
    }
    assert_int_equal(conflicts, 1);
    r.cid--;
    rig_must(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA));
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_is_found_by_its_address),
        cmocka_unit_test(it_becomes_ready_and_no_longer),
        cmocka_unit_test(it_interrupts),
        cmocka_unit_test(what_it_is_enabled_with_is_checked),
        cmocka_unit_test(several_command_sets_can_be_chosen),
        cmocka_unit_test(registers_that_are_not_to_be_written_are_not),
        cmocka_unit_test(it_is_disabled_and_enabled_unseen),
        cmocka_unit_test(what_lies_between_doorbells_is_not_written),
        cmocka_unit_test(a_subsystem_reset_ends_all),
        cmocka_unit_test(a_function_level_reset_ends_all),
        cmocka_unit_test(doorbells_of_nonsense_are_fatal),
        cmocka_unit_test(a_submission_queue_is_not_overrun),
        cmocka_unit_test(a_doorbell_is_not_written_again_with_what_it_was),
        cmocka_unit_test(doorbells_rest_unless_it_is_ready),
        cmocka_unit_test(queues_rest_between_en_0_and_rdy_0),
        cmocka_unit_test(vectors_are_set_and_dropped),
        cmocka_unit_test(closing_it_gives_everything_back),
        cmocka_unit_test(a_completion_queue_is_not_overrun),
        cmocka_unit_test(commands_take_their_time_and_pass_one_another),
        cmocka_unit_test(an_identifier_is_used_once_at_a_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
