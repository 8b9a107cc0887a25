/* SPDX-License-Identifier: BSD-3-Clause */
/* The model's admin queue: queues, features, what it says of itself, logs, events, aborts. */
#include "pcie_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

static uint16_t with(struct rig *r, struct nvme_cmd cmd, uint32_t cdw10, uint32_t cdw11)
{
    cmd.cdw10 = plx_put32(cdw10);
    cmd.cdw11 = plx_put32(cdw11);
    return rig_do(r, 0, cmd, NULL) & ~NVME_STATUS_DNR;
}

static void creating_a_completion_queue_is_checked(void **state)
{
    (void)state;
    struct rig r;
    rig_up(&r, NULL, 2);
    struct nvme_cmd cmd = rig_create(3, true, -1), off = cmd;
    off.sgl.address = plx_put64(RIG_BASE + 64);
    const uint32_t size = 7 << 16;
    assert_int_equal(with(&r, cmd, size | 3, 1), PLX_SC_INVALID_QUEUE_IDENTIFIER); /* two are granted */
    assert_int_equal(with(&r, cmd, size | 2, 1), PLX_SC_INVALID_QUEUE_IDENTIFIER); /* there is one */
    assert_int_equal(with(&r, cmd, size | 0, 1), PLX_SC_INVALID_QUEUE_IDENTIFIER);
    rig_must(&r, 0, (struct nvme_cmd){.opcode = PM_DELETE_SQ, .cdw10 = plx_put32(2)});
    rig_must(&r, 0, (struct nvme_cmd){.opcode = PM_DELETE_CQ, .cdw10 = plx_put32(2)});
    assert_int_equal(with(&r, cmd, 0 << 16 | 2, 1), PM_SC_QUEUE_SIZE);
    assert_int_equal(with(&r, cmd, 1024 << 16 | 2, 1), PM_SC_QUEUE_SIZE);
    assert_int_equal(with(&r, cmd, size | 2, 0), PLX_SC_INVALID_FIELD); /* in pieces */
    assert_int_equal(with(&r, cmd, size | 2, 3 | 9 << 16), PM_SC_INTERRUPT_VECTOR);
    assert_int_equal(with(&r, off, size | 2, 1), PM_SC_PRP_OFFSET);
    rig_complained(&r, "not aligned");
    off.sgl.address = plx_put64(RIG_BASE + RIG_BYTES - 4096);
    assert_int_equal(with(&r, off, 256 << 16 | 2, 1), PLX_SC_DATA_TRANSFER_ERROR);
    rig_complained(&r, "not mapped");
    assert_int_equal(with(&r, cmd, size | 2, 3 | 4 << 16), 0); /* vector 4 there is, and is not set */
    rig_complained(&r, "interrupt vector 4");
    rig_put(&r, PM_CC, 0x00560001); /* entry sizes */
    assert_int_equal(with(&r, cmd, size | 2, 1), PLX_SC_INVALID_QUEUE_IDENTIFIER);
    rig_must(&r, 0, (struct nvme_cmd){.opcode = PM_DELETE_CQ, .cdw10 = plx_put32(2)});
    assert_int_equal(with(&r, cmd, size | 2, 1), PM_SC_QUEUE_SIZE);
    rig_complained(&r, "other sizes");
    rig_put(&r, PM_CC, 0x00060001);
    assert_int_equal(with(&r, cmd, size | 2, 1), PM_SC_QUEUE_SIZE);
    rig_close(&r);
}

static void creating_and_deleting_queues_has_an_order(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r, NULL);
    rig_enable(&r);
    struct nvme_cmd sq = rig_create(1, false, -1), delete_sq = {.opcode = PM_DELETE_SQ},
                    delete_cq = {.opcode = PM_DELETE_CQ};
    const uint32_t one = 7 << 16 | 1;
    assert_int_equal(with(&r, rig_create(2, true, -1), 7 << 16 | 2, 1), PLX_SC_INVALID_QUEUE_IDENTIFIER);
    assert_int_equal(with(&r, sq, one, 1 | 1 << 16), PM_SC_CQ_INVALID); /* one is granted unasked */
    assert_int_equal(with(&r, sq, one, 1 | 0 << 16), PLX_SC_INVALID_QUEUE_IDENTIFIER);
    assert_int_equal(with(&r, sq, one, 1 | 9 << 16), PLX_SC_INVALID_QUEUE_IDENTIFIER);
    rig_queues(&r, 1);
    assert_int_equal(with(&r, delete_cq, 1, 0), PM_SC_QUEUE_DELETION);
    assert_int_equal(with(&r, delete_sq, 0, 0), PLX_SC_INVALID_QUEUE_IDENTIFIER);
    assert_int_equal(with(&r, delete_sq, 2, 0), PLX_SC_INVALID_QUEUE_IDENTIFIER);
    assert_int_equal(with(&r, delete_sq, 1, 0), 0);
    assert_int_equal(with(&r, delete_sq, 1, 0), PLX_SC_INVALID_QUEUE_IDENTIFIER);
    assert_int_equal(with(&r, delete_cq, 1, 0), 0);
    assert_int_equal(with(&r, delete_cq, 1, 0), PLX_SC_INVALID_QUEUE_IDENTIFIER);
    rig_queues(&r, 1);
    rig_must(&r, 1, rig_io(&r, NVME_IO_WRITE, 0, 1, RIG_DATA));
    rig_close(&r);
}

static void queues_are_granted(void **state)
{
    (void)state;
    struct pcie_model_opts o = pcie_model_defaults;
    struct rig r;
    struct nvme_cqe cqe;
    struct nvme_cmd cmd = {.opcode = PM_SET_FEATURES, .cdw10 = plx_put32(7), .cdw11 = plx_put32(0x001f000f)};
    o.queues = 3;
    rig_open(&r, &o);
    rig_enable(&r);
    assert_int_equal(rig_do(&r, 0, cmd, &cqe), 0);
    assert_int_equal(plx_get32(cqe.dw0), 0x00020002);
    cmd.cdw11 = plx_put32(0x00010000);
    assert_int_equal(rig_do(&r, 0, cmd, &cqe), 0);
    assert_int_equal(plx_get32(cqe.dw0), 0x00010000);
    cmd.cdw11 = plx_put32(0x0001ffff);
    assert_int_equal(rig_do(&r, 0, cmd, &cqe), PLX_SC_INVALID_FIELD | NVME_STATUS_DNR);
    cmd.opcode = PM_GET_FEATURES;
    assert_int_equal(rig_do(&r, 0, cmd, &cqe), 0);
    assert_int_equal(plx_get32(cqe.dw0), 0x00010000);
    rig_close(&r);
}

static void features_are_kept(void **state)
{
    (void)state;
    static const uint8_t fids[] = {0x01, 0x02, 0x04, 0x05, 0x06, 0x08, 0x0a, 0x0b};
    struct pcie_model_opts o = pcie_model_defaults;
    struct rig r;
    struct nvme_cqe cqe;
    rig_open(&r, &o);
    rig_enable(&r);
    struct nvme_cmd set = {.opcode = PM_SET_FEATURES}, get = {.opcode = PM_GET_FEATURES};
    for (unsigned i = 0; i < sizeof fids; i++) {
        assert_int_equal(with(&r, set, fids[i], i + 77), 0);
        assert_int_equal(pcie_model_feature(r.m, fids[i]), i + 77);
        get.cdw10 = plx_put32(fids[i]);
        assert_int_equal(rig_do(&r, 0, get, &cqe), 0);
        assert_int_equal(plx_get32(cqe.dw0), i + 77);
    }
    get.cdw10 = plx_put32(0x104); /* the default */
    assert_int_equal(rig_do(&r, 0, get, &cqe), 0);
    assert_int_equal(plx_get32(cqe.dw0), 370);
    assert_int_equal(with(&r, set, 0x80000004, 1), PLX_SC_FEATURE_NOT_SAVEABLE);
    assert_int_equal(with(&r, set, 0x03, 1), PLX_SC_INVALID_FIELD);
    assert_int_equal(with(&r, set, 0x09, 9), PLX_SC_INVALID_FIELD); /* vector */
    assert_int_equal(with(&r, get, 0x77, 1), PLX_SC_INVALID_FIELD);
    struct nvme_cmd id = rig_cmd(&r, PM_SET_FEATURES, 0, RIG_ADMIN, 16);
    rig_pattern(&r, RIG_ADMIN, 16, 3);
    assert_int_equal(with(&r, id, 0x81, 1), 0);
    id = rig_cmd(&r, PM_GET_FEATURES, 0, RIG_DATA, 16);
    assert_int_equal(with(&r, id, 0x81, 1), 0);
    assert_memory_equal(r.memory + RIG_ADMIN, r.memory + RIG_DATA, 16);
    rig_disable(&r);
    assert_int_equal(pcie_model_feature(r.m, 0x04), 370);
    rig_close(&r);
    o.vwc = 0;
    rig_open(&r, &o);
    rig_enable(&r);
    assert_int_equal(with(&r, get, 0x06, 0), PLX_SC_INVALID_FIELD);
    rig_close(&r);
}

static uint16_t identify(struct rig *r, unsigned cns, uint32_t nsid)
{
    struct nvme_cmd cmd = rig_cmd(r, PM_IDENTIFY, nsid, RIG_ADMIN, 4096);
    memset(r->memory + RIG_ADMIN, 0xee, 4096);
    return with(r, cmd, cns, 0);
}

static void it_says_what_it_is(void **state)
{
    (void)state;
    struct pcie_model_opts o = pcie_model_defaults;
    struct rig r;
    o.nns = 3;
    o.ns[1] = (struct pcie_model_ns){.nsid = 7, .block_bits = 12, .blocks = 1000, .noiob = 32};
    o.ns[2] = (struct pcie_model_ns){.nsid = 3, .block_bits = 9, .max_bytes = 1 << 20};
    o.version = 0x00020000;
    rig_open(&r, &o);
    rig_enable(&r);
    const uint8_t *data = r.memory + RIG_ADMIN;
    const struct nvme_id_ctrl *ctrl = (const void *)data;
    const struct nvme_id_ns *ns = (const void *)data;
    assert_int_equal(identify(&r, 0x01, 0), 0);
    assert_memory_equal(ctrl->sn, "MODEL0001           ", 20);
    assert_int_equal(plx_get16(ctrl->vid), 0x1b36);
    assert_int_equal(plx_get32(ctrl->nn), 7);
    assert_int_equal(ctrl->mdts, 5);
    assert_int_equal(ctrl->sqes, 0x66);
    assert_int_equal(plx_get32(ctrl->ver), 0x00020000);
    assert_int_equal(identify(&r, 0x00, 7), 0);
    assert_int_equal(plx_get64(ns->nsze), 1000);
    assert_int_equal(plx_get32(ns->lbaf[ns->flbas & 0xf]), 12 << 16);
    assert_int_equal(plx_get16(ns->noiob), 32);
    assert_int_equal(identify(&r, 0x00, 3), 0); /* not attached */
    assert_int_equal(plx_get64(ns->nsze), 0);
    assert_int_equal(identify(&r, 0x00, 8), PLX_SC_INVALID_NAMESPACE_OR_FORMAT);
    assert_int_equal(identify(&r, 0x02, 0), 0);
    assert_int_equal(plx_peek32(data), 1);
    assert_int_equal(plx_peek32(data + 4), 7);
    assert_int_equal(plx_peek32(data + 8), 0);
    assert_int_equal(identify(&r, 0x07, 1), 0);
    assert_int_equal(plx_peek32(data), 7);
    assert_int_equal(plx_peek32(data + 4), 0);
    assert_int_equal(identify(&r, 0x02, 0xfffffffe), PLX_SC_INVALID_NAMESPACE_OR_FORMAT);
    assert_int_equal(identify(&r, 0x03, 7), 0);
    assert_int_equal(plx_peek32(data), 0x00001002); /* NGUID */
    assert_int_equal(plx_peek32(data + 20), 0x00001003);
    assert_int_equal(plx_peek32(data + 40), 0x00000104);
    assert_int_equal(identify(&r, 0x03, 3), PLX_SC_INVALID_FIELD);
    assert_int_equal(identify(&r, 0x05, 1), 0);
    assert_int_equal(data[0], 0);
    assert_int_equal(identify(&r, 0x06, 0), 0);
    assert_int_equal(identify(&r, 0x08, 1), 0);
    assert_int_equal(data[14], 1);
    assert_int_equal(identify(&r, 0x1c, 0), 0);
    assert_int_equal(data[0], 1);
    assert_int_equal(identify(&r, 0x10, 0), PLX_SC_INVALID_FIELD);
    assert_int_equal(identify(&r, 0x77, 0), PLX_SC_INVALID_FIELD);
    struct nvme_cmd cmd = rig_cmd(&r, PM_IDENTIFY, 1, RIG_ADMIN, 4096);
    assert_int_equal(with(&r, cmd, 0x05, 2u << 24), PLX_SC_INVALID_FIELD); /* another command set */
    rig_close(&r);
}

static void an_old_one_knows_less(void **state)
{
    (void)state;
    static const struct {
        uint32_t version;
        unsigned cns[9];
    } knows[] = {{0x00010000, {1, 0}},
                 {0x00010100, {1, 2, 0}},
                 {0x00010300, {1, 2, 3, 0}},
                 {0x00010400, {1, 2, 3, 6, 0}},
                 {0x00020000, {1, 2, 3, 5, 6, 7, 8, 0x1c, 0}}};
    struct pcie_model_opts o = pcie_model_defaults;
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(knows); i++) {
        struct rig r;
        const unsigned *next = knows[i].cns;
        o.version = knows[i].version;
        rig_open(&r, &o);
        rig_enable(&r);
        for (unsigned cns = 1; cns < 0x20; cns++) {
            const bool known = *next == cns;
            next += known;
            assert_int_equal(identify(&r, cns, cns == 2 || cns == 7 ? 0 : 1), known ? 0 : PLX_SC_INVALID_FIELD);
        }
        assert_int_equal(rig_get(&r, PM_VS), o.version);
        rig_close(&r);
    }
}

static uint16_t log_page(struct rig *r, unsigned lid, size_t bytes, uint32_t offset)
{
    struct nvme_cmd cmd = rig_cmd(r, PM_LOG_PAGE, NVME_NSID_ALL, RIG_ADMIN, bytes);
    memset(r->memory + RIG_ADMIN, 0xee, bytes);
    cmd.cdw12 = plx_put32(offset);
    return with(r, cmd, lid | (uint32_t)(bytes / 4 - 1) << 16, 0);
}

static void it_keeps_logs(void **state)
{
    (void)state;
    struct rig r;
    rig_up(&r, NULL, 1);
    const uint8_t *data = r.memory + RIG_ADMIN;
    const struct nvme_health_log *health = (const void *)data;
    const struct nvme_error_entry *errors = (const void *)data;
    rig_must(&r, 1, rig_io(&r, NVME_IO_WRITE, 0, 8, RIG_DATA));
    assert_int_equal(rig_do(&r, 1, rig_io(&r, 0x7e, 0, 8, RIG_DATA), NULL), PLX_SC_INVALID_OPCODE | NVME_STATUS_DNR);
    const unsigned cid = r.cid;
    assert_int_equal(log_page(&r, 0x02, 512, 0), 0);
    assert_int_equal(plx_get16(health->temperature), 310);
    assert_int_equal(plx_peek32(health->host_writes), 1);
    assert_int_equal(plx_peek32(health->data_units_written), 1);
    assert_int_equal(plx_peek32(health->error_entries), 1);
    assert_int_equal(log_page(&r, 0x01, 128, 0), 0);
    assert_int_equal(plx_get64(errors[0].count), 1);
    assert_int_equal(plx_get16(errors[0].sqid), 1);
    assert_int_equal(plx_get16(errors[0].cid), cid);
    assert_int_equal(plx_get16(errors[0].status), (PLX_SC_INVALID_OPCODE | NVME_STATUS_DNR) << 1);
    assert_int_equal(plx_get64(errors[1].count), 0);
    assert_int_equal(log_page(&r, 0x03, 512, 0), 0);
    assert_memory_equal(data + 8, "1.0     ", 8);
    assert_int_equal(log_page(&r, 0x05, 4096, 0), 0);
    assert_int_equal(plx_peek32(data + 4 * 0x06), 1);
    assert_int_equal(plx_peek32(data + 1024 + 4), 3);
    assert_int_equal(plx_peek32(data + 1024 + 4 * 0x7e), 0);
    assert_int_equal(log_page(&r, 0x05, 8, 1024), 0); /* by its offset */
    assert_int_equal(plx_peek32(data + 4), 3);
    assert_int_equal(log_page(&r, 0x05, 8, 8192), PLX_SC_INVALID_FIELD);
    assert_int_equal(log_page(&r, 0x0c, 512, 0), PLX_SC_INVALID_LOG_PAGE);
    assert_int_equal(log_page(&r, 0x00, 512, 0), PLX_SC_INVALID_LOG_PAGE);
    rig_close(&r);
}

static void what_happens_is_told(void **state)
{
    (void)state;
    struct rig r;
    struct nvme_cqe cqe;
    struct nvme_cmd wait = {.opcode = PM_ASYNC_EVENT};
    rig_up(&r, NULL, 1);
    for (unsigned i = 0; i < 4; i++)
        rig_put_cmd(&r, 0, wait);
    rig_ring_sq(&r, 0);
    pcie_model_settle(r.m);
    assert_false(rig_take(&r, 0, &cqe));
    assert_int_equal(pcie_model_held(r.m), 0);
    const uint16_t last = r.cid;
    assert_int_equal(rig_do(&r, 0, wait, NULL), PLX_SC_AER_LIMIT_EXCEEDED | NVME_STATUS_DNR); /* 4 in all */
    pcie_model_ns_resize(r.m, 1, 5000);
    pcie_model_smart(r.m, 0x02);
    pcie_model_settle(r.m);
    assert_false(rig_take(&r, 0, &cqe)); /* nobody has asked for that */
    assert_int_equal(with(&r, (struct nvme_cmd){.opcode = PM_SET_FEATURES}, 0x0b, 0x1ff), 0);
    pcie_model_ns_resize(r.m, 1, 6000);
    pcie_model_settle(r.m);
    assert_true(rig_take(&r, 0, &cqe));
    assert_int_equal(plx_get32(cqe.dw0), 0x00040002);
    assert_int_equal(plx_get16(cqe.cid), last - 3);
    pcie_model_ns_resize(r.m, 1, 7000);
    pcie_model_settle(r.m);
    assert_false(rig_take(&r, 0, &cqe));                        /* not again until the log has been read */
    assert_int_equal(log_page(&r, 0x04 | 1 << 15, 4096, 0), 0); /* and kept */
    assert_int_equal(plx_peek32(r.memory + RIG_ADMIN), 1);
    pcie_model_settle(r.m);
    assert_false(rig_take(&r, 0, &cqe));
    assert_int_equal(log_page(&r, 0x04, 4096, 0), 0);
    assert_int_equal(plx_peek32(r.memory + RIG_ADMIN), 1);
    assert_int_equal(plx_peek32(r.memory + RIG_ADMIN + 4), 0);
    pcie_model_settle(r.m);
    assert_true(rig_take(&r, 0, &cqe));
    assert_int_equal(log_page(&r, 0x04, 4096, 0), 0);
    assert_int_equal(plx_peek32(r.memory + RIG_ADMIN), 0);
    pcie_model_smart(r.m, 0x03);
    pcie_model_settle(r.m);
    assert_true(rig_take(&r, 0, &cqe));
    assert_int_equal(plx_get32(cqe.dw0), 0x00020201);
    assert_int_equal(identify(&r, 0, 1), 0);
    assert_int_equal(plx_peek32(r.memory + RIG_ADMIN), 7000);
    rig_close(&r);
}

static void commands_are_aborted(void **state)
{
    (void)state;
    struct rig r;
    struct nvme_cqe cqe;
    const struct pcie_model_fault hang = {.kind = PCIE_MODEL_HANG, .qid = 1, .opcode = NVME_IO_WRITE};
    rig_up(&r, NULL, 1);
    memset(r.memory + RIG_DATA, 0x33, 512);
    pcie_model_fault(r.m, &hang);
    rig_put_cmd(&r, 1, rig_io(&r, NVME_IO_WRITE, 0, 1, RIG_DATA));
    const uint16_t cid = r.cid;
    rig_ring_sq(&r, 1);
    rig_put_cmd(&r, 0, (struct nvme_cmd){.opcode = PM_ASYNC_EVENT});
    rig_ring_sq(&r, 0);
    pcie_model_settle(r.m);
    assert_int_equal(pcie_model_held(r.m), 1);
    const uint16_t event = r.cid;
    struct nvme_cmd abort_it = {.opcode = PM_ABORT, .cdw10 = plx_put32(1 | (uint32_t)(cid + 1) << 16)};
    assert_int_equal(rig_do(&r, 0, abort_it, &cqe), 0);
    assert_int_equal(plx_get32(cqe.dw0), 1);
    abort_it.cdw10 = plx_put32(1 | (uint32_t)cid << 16);
    assert_int_equal(rig_do(&r, 0, abort_it, &cqe), 0);
    assert_int_equal(plx_get32(cqe.dw0), 0);
    pcie_model_settle(r.m);
    assert_true(rig_take(&r, 1, &cqe));
    assert_int_equal(plx_get16(cqe.cid), cid);
    assert_int_equal(rig_status(&cqe), PLX_SC_ABORTED_BY_REQUEST);
    abort_it.cdw10 = plx_put32((uint32_t)event << 16);
    rig_put_cmd(&r, 0, abort_it);
    rig_ring_sq(&r, 0);
    pcie_model_settle(r.m);
    assert_true(rig_take(&r, 0, &cqe));
    assert_true(rig_take(&r, 0, &cqe));
    rig_disable(&r);
    pcie_model_peek(r.m, 1, 0, r.memory + RIG_DATA, 512);
    assert_int_equal(r.memory[RIG_DATA], 0); /* and it never lands */
    rig_close(&r);
}

static void deleting_a_queue_ends_its_commands(void **state)
{
    (void)state;
    struct rig r;
    struct nvme_cqe cqe;
    const struct pcie_model_fault hang = {.kind = PCIE_MODEL_HANG, .qid = 1, .opcode = PCIE_MODEL_ANY};
    rig_up(&r, NULL, 1);
    pcie_model_fault(r.m, &hang);
    rig_put_cmd(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA));
    rig_ring_sq(&r, 1);
    pcie_model_settle(r.m);
    rig_must(&r, 0, (struct nvme_cmd){.opcode = PM_DELETE_SQ, .cdw10 = plx_put32(1)});
    assert_true(rig_take(&r, 1, &cqe));
    assert_int_equal(rig_status(&cqe), PLX_SC_ABORTED_SQ_DELETION);
    assert_int_equal(pcie_model_held(r.m), 0);
    rig_close(&r);
}

static void a_format_changes_the_block_size(void **state)
{
    (void)state;
    struct rig r;
    uint8_t byte = 1;
    rig_up(&r, NULL, 1);
    pcie_model_poke(r.m, 1, 512, &byte, 1);
    struct nvme_cmd cmd = {.opcode = PM_FORMAT, .nsid = plx_put32(1)};
    assert_int_equal(with(&r, cmd, 2, 0), PM_SC_FORMAT);
    assert_int_equal(with(&r, cmd, 1, 0), 0);
    assert_int_equal(identify(&r, 0, 1), 0);
    assert_int_equal(plx_peek32(r.memory + RIG_ADMIN), 131072 / 8);
    pcie_model_peek(r.m, 1, 512, &byte, 1);
    assert_int_equal(byte, 0);
    rig_must(&r, 1, rig_io(&r, NVME_IO_WRITE, 131072 / 8 - 1, 1, RIG_DATA));
    cmd.nsid = plx_put32(2);
    assert_int_equal(with(&r, cmd, 1, 0), PLX_SC_INVALID_NAMESPACE_OR_FORMAT);
    cmd.opcode = 0xc5;
    assert_int_equal(with(&r, cmd, 1, 0), PLX_SC_INVALID_OPCODE);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(creating_a_completion_queue_is_checked),
        cmocka_unit_test(creating_and_deleting_queues_has_an_order),
        cmocka_unit_test(queues_are_granted),
        cmocka_unit_test(features_are_kept),
        cmocka_unit_test(it_says_what_it_is),
        cmocka_unit_test(an_old_one_knows_less),
        cmocka_unit_test(it_keeps_logs),
        cmocka_unit_test(what_happens_is_told),
        cmocka_unit_test(commands_are_aborted),
        cmocka_unit_test(deleting_a_queue_ends_its_commands),
        cmocka_unit_test(a_format_changes_the_block_size),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
