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
    get.cdw10 = plx_put32(0x304); /* what can be done with it: it can be changed */
    assert_int_equal(rig_do(&r, 0, get, &cqe), 0);
    assert_int_equal(plx_get32(cqe.dw0), 4);
    rig_disable(&r);
    rig_enable(&r);
    assert_int_equal(with(&r, id, 0x81, 1), 0);
    assert_int_equal(plx_peek32(r.memory + RIG_DATA), 0);
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
    o.ns[1] = (struct pcie_model_ns){.nsid = 7, .block_bits = 12, .blocks = 1000, .noiob = 32, .csi = 2};
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
    assert_int_equal(plx_peek32(data + 4), 0xa5a5a5a5);
    assert_int_equal(plx_peek32(data + 16), 7);
    assert_int_equal(plx_peek32(data + 24), 0x5a5a5a5a);
    assert_int_equal(plx_peek32(data + 36), 7);
    assert_int_equal(plx_peek32(data + 40), 0x00000104);
    assert_int_equal(data[44], 2);
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

static void it_says_what_it_was_told_to_say(void **state)
{
    (void)state;
    struct pcie_model_opts o = pcie_model_defaults;
    struct rig r;
    o.version = 0x00010300;
    o.model = "A model whose name has more than forty letters";
    o.rtd3e = 0x12345678;
    o.oaes = 0x300;
    o.oacs = 0x10a;
    o.acl = 7;
    o.aerl = 9;
    o.lpa = 0x0e;
    o.elpe = 33;
    o.cqes = 0x54;
    o.sqes = 0x76;
    o.oncs = 0x1ff;
    o.vwc = 5;
    o.awun = 15;
    o.sgls = 0x50001;
    for (unsigned i = 0; i < 3; i++)
        o.crdt[i] = (uint16_t)(11 + i);
    rig_open(&r, &o);
    for (unsigned newer = 0; newer < 2; newer++) {
        rig_enable(&r);
        const struct nvme_id_ctrl *id = (const void *)(r.memory + RIG_ADMIN);
        assert_int_equal(identify(&r, 0x01, 0), 0);
        assert_memory_equal(id->mn, "A model whose name has more than forty l", 40);
        assert_memory_equal(id->fr, "1.0     ", 8);
        assert_int_equal(plx_get16(id->cntlid), 1);
        assert_int_equal(plx_get16(id->ssvid), 0x1b36);
        assert_int_equal(plx_get32(id->rtd3e), 0x12345678);
        assert_int_equal(plx_get32(id->oaes), 0x300);
        assert_int_equal(id->cntrltype, newer);
        for (unsigned i = 0; i < 3; i++)
            assert_int_equal(plx_get16(id->crdt[i]), newer ? 11 + i : 0);
        assert_int_equal(plx_get16(id->oacs), 0x10a);
        assert_int_equal(id->acl, 7);
        assert_int_equal(id->aerl, 9);
        assert_int_equal(id->frmw, 2);
        assert_int_equal(id->lpa, 0x0e);
        assert_int_equal(id->elpe, 33);
        assert_int_equal(plx_get16(id->wctemp), 360);
        assert_int_equal(plx_get16(id->cctemp), 370);
        assert_int_equal(id->sqes, 0x76);
        assert_int_equal(id->cqes, 0x54);
        assert_int_equal(plx_get16(id->oncs), 0x1ff);
        assert_int_equal(plx_get16(id->fuses), 1);
        assert_int_equal(id->vwc, 5);
        assert_int_equal(plx_get16(id->awun), 15);
        assert_int_equal(plx_get16(id->awupf), 15);
        assert_int_equal(plx_get16(id->cdfs), 1);
        assert_int_equal(plx_get32(id->sgls), 0x50001);
        assert_string_equal(id->subnqn, o.subnqn);
        assert_int_equal(plx_get16(id->psd[0].max_power), 1000);
        rig_close(&r);
        o.version = newer ? 0x00010000 : 0x00010400;
        rig_open(&r, &o);
    }
    rig_enable(&r);
    const struct nvme_id_ctrl *id = (const void *)(r.memory + RIG_ADMIN);
    assert_int_equal(identify(&r, 0x01, 0), 0);
    assert_int_equal(plx_get32(id->ver), 0);
    assert_int_equal(plx_get32(id->oaes), 0);
    assert_int_equal(id->subnqn[0], 0);
    rig_close(&r);
}

static void it_says_what_namespaces_are(void **state)
{
    (void)state;
    struct pcie_model_opts o = pcie_model_defaults;
    struct rig r;
    o.version = 0x00010400;
    o.ns[0].npwg = 7;
    o.ns[0].npda = 15;
    o.ns[0].metadata = 8;
    o.vsl = 1;
    o.wzsl = 2;
    o.dmrl = 3;
    o.dmrsl = 4;
    rig_open(&r, &o);
    rig_enable(&r);
    const struct nvme_id_ns *ns = (const void *)(r.memory + RIG_ADMIN);
    assert_int_equal(identify(&r, 0x00, 1), 0);
    assert_int_equal(plx_get64(ns->ncap), 131072);
    assert_int_equal(plx_get64(ns->nuse), 131072);
    assert_int_equal(ns->nlbaf, 1);
    assert_int_equal(plx_get32(ns->lbaf[0]), 9 << 16 | 8);
    assert_int_equal(plx_get32(ns->lbaf[1]), 12 << 16 | 8);
    assert_int_equal(ns->dlfeat, 9);
    assert_int_equal(ns->nsfeat, 1 << 4);
    assert_int_equal(plx_get16(ns->npwg), 7);
    assert_int_equal(plx_get16(ns->npwa), 7);
    assert_int_equal(plx_get16(ns->npdg), 15);
    assert_int_equal(plx_get16(ns->npda), 15);
    assert_int_equal(plx_get16(ns->mssrl), 64);
    assert_int_equal(plx_get32(ns->mcl), 128);
    assert_int_equal(ns->msrc, 3);
    assert_int_equal(ns->nguid[0], 0xa5);
    assert_int_equal(ns->nguid[12], 1);
    assert_int_equal(ns->eui64[0], 0xa5);
    assert_int_equal(ns->eui64[7], 1);
    assert_int_equal(identify(&r, 0x00, NVME_NSID_ALL), 0);
    assert_int_equal(ns->nlbaf, 1);
    assert_int_equal(plx_get32(ns->lbaf[0]), 9 << 16);
    assert_int_equal(plx_get32(ns->lbaf[1]), 12 << 16);
    const struct nvme_id_ctrl_nvm *nvm = (const void *)ns;
    assert_int_equal(identify(&r, 0x06, 0), 0);
    assert_int_equal(nvm->vsl, 1);
    assert_int_equal(nvm->wzsl, 2);
    assert_int_equal(nvm->dmrl, 3);
    assert_int_equal(plx_get32(nvm->dmrsl), 4);
    rig_close(&r);
    o.version = 0x00010000;
    o.ns[0].npwg = o.ns[0].npda = 0;
    rig_open(&r, &o);
    rig_enable(&r);
    ns = (const void *)(r.memory + RIG_ADMIN);
    assert_int_equal(identify(&r, 0x00, 1), 0);
    assert_int_equal(ns->nsfeat, 0);
    assert_int_equal(ns->dlfeat, 0);
    assert_int_equal(ns->nguid[0], 0);
    assert_int_equal(ns->eui64[0], 0);
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
    for (unsigned i = 0; i < 5; i++)
        rig_must(&r, 1, rig_io(&r, NVME_IO_READ, 0, 256, RIG_DATA));
    assert_int_equal(rig_do(&r, 1, rig_io(&r, 0x7e, 0, 8, RIG_DATA), NULL), PLX_SC_INVALID_OPCODE | NVME_STATUS_DNR);
    const unsigned cid = r.cid;
    assert_int_equal(log_page(&r, 0x02, 512, 0), 0);
    assert_int_equal(plx_get16(health->temperature), 310);
    assert_int_equal(plx_peek32(health->host_writes), 1);
    assert_int_equal(plx_peek32(health->data_units_written), 1);
    assert_int_equal(plx_peek32(health->host_reads), 5);
    assert_int_equal(plx_peek32(health->data_units_read), 2); /* thousands, rounded up */
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

static void logs_say_what_there_is(void **state)
{
    (void)state;
    static const uint8_t plain[] = {0x00, 0x01, 0x02, 0x04, 0x05, 0x06, 0x08, 0x09, 0x0a, 0x0c};
    struct pcie_model_opts o = pcie_model_defaults;
    struct rig r;
    o.version = 0x00020000;
    o.oncs |= PCIE_MODEL_ONCS_COPY;
    for (unsigned bare = 0; bare < 2; bare++) {
        rig_open(&r, &o);
        rig_enable(&r);
        const uint8_t *admin = r.memory + RIG_ADMIN, *io = admin + 1024;
        assert_int_equal(log_page(&r, 0x05, 4096, 0), 0);
        for (unsigned i = 0; i < sizeof plain; i++)
            assert_int_equal(plx_peek32(admin + 4 * plain[i]), 1);
        assert_int_equal(plx_peek32(admin + 4 * 0x80), bare ? 0 : 0x00010003); /* Format NVM */
        assert_int_equal(plx_peek32(admin + 4 * 0x7c), bare ? 1 : 0);          /* Doorbell Buffer Config */
        assert_int_equal(plx_peek32(io + 4 * NVME_IO_FLUSH), 1);
        assert_int_equal(plx_peek32(io + 4 * NVME_IO_WRITE), 3);
        assert_int_equal(plx_peek32(io + 4 * NVME_IO_READ), 1);
        assert_int_equal(plx_peek32(io + 4 * NVME_IO_COMPARE), bare ? 0 : 1);
        assert_int_equal(plx_peek32(io + 4 * NVME_IO_WRITE_ZEROES), bare ? 0 : 3);
        assert_int_equal(plx_peek32(io + 4 * NVME_IO_DSM), bare ? 0 : 3);
        assert_int_equal(plx_peek32(io + 4 * NVME_IO_VERIFY), bare ? 0 : 1);
        assert_int_equal(plx_peek32(io + 4 * NVME_IO_COPY), bare ? 0 : 3);
        assert_int_equal(log_page(&r, 0x00, 1024, 0), 0);
        for (unsigned lid = 0; lid < 256; lid++)
            assert_int_equal(plx_peek32(admin + 4 * lid), lid <= 5);
        rig_close(&r);
        o.oncs = 0;
        o.oacs = PCIE_MODEL_OACS_DBBUF;
    }
    o.lpa = 0;
    rig_open(&r, &o);
    rig_enable(&r);
    assert_int_equal(log_page(&r, 0x05, 4096, 0), PLX_SC_INVALID_LOG_PAGE);
    assert_int_equal(log_page(&r, 0x00, 1024, 4), 0); /* nor does it know offsets */
    for (unsigned lid = 0; lid < 6; lid++)
        assert_int_equal(plx_peek32(r.memory + RIG_ADMIN + 4 * lid), lid < 5);
    rig_close(&r);
}

static void what_happens_is_told(void **state)
{
    (void)state;
    struct rig r;
    struct nvme_cqe cqe;
    struct nvme_cmd wait = {.opcode = PM_ASYNC_EVENT};
    struct pcie_model_opts o = pcie_model_defaults;
    const struct pcie_model_fault hang = {.kind = PCIE_MODEL_HANG, .qid = 1, .opcode = PCIE_MODEL_ANY};
    o.nns = 2;
    o.ns[1] = (struct pcie_model_ns){.nsid = 2, .block_bits = 9, .blocks = 1000};
    rig_up(&r, &o, 1);
    pcie_model_fault(r.m, &hang); /* something else that waits */
    rig_put_cmd(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA));
    rig_ring_sq(&r, 1);
    pcie_model_settle(r.m);
    for (unsigned i = 0; i < 4; i++)
        rig_put_cmd(&r, 0, wait);
    rig_ring_sq(&r, 0);
    pcie_model_settle(r.m);
    assert_false(rig_take(&r, 0, &cqe));
    assert_int_equal(pcie_model_held(r.m), 1);
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
    pcie_model_ns_resize(r.m, 2, 900);
    pcie_model_ns_resize(r.m, 1, 7000);
    pcie_model_settle(r.m);
    assert_false(rig_take(&r, 0, &cqe));                        /* not again until the log has been read */
    assert_int_equal(log_page(&r, 0x04 | 1 << 15, 4096, 0), 0); /* and kept */
    assert_int_equal(plx_peek32(r.memory + RIG_ADMIN), 1);
    pcie_model_settle(r.m);
    assert_false(rig_take(&r, 0, &cqe));
    assert_int_equal(log_page(&r, 0x04, 4096, 0), 0);
    assert_int_equal(plx_peek32(r.memory + RIG_ADMIN), 1);
    assert_int_equal(plx_peek32(r.memory + RIG_ADMIN + 4), 2);
    assert_int_equal(plx_peek32(r.memory + RIG_ADMIN + 8), 0);
    pcie_model_settle(r.m);
    assert_true(rig_take(&r, 0, &cqe));
    assert_int_equal(log_page(&r, 0x04, 4096, 0), 0);
    assert_int_equal(plx_peek32(r.memory + RIG_ADMIN), 0);
    assert_int_equal(identify(&r, 0, 1), 0);
    assert_int_equal(plx_peek32(r.memory + RIG_ADMIN), 7000);
    rig_close(&r);
}

static void its_health_is_told(void **state)
{
    (void)state;
    struct rig r;
    struct nvme_cqe cqe;
    rig_up(&r, NULL, 1);
    for (unsigned i = 0; i < 3; i++)
        rig_put_cmd(&r, 0, (struct nvme_cmd){.opcode = PM_ASYNC_EVENT});
    assert_int_equal(with(&r, (struct nvme_cmd){.opcode = PM_SET_FEATURES}, 0x0b, 0xff), 0);
    pcie_model_smart(r.m, 0x02);
    pcie_model_settle(r.m);
    assert_true(rig_take(&r, 0, &cqe));
    assert_int_equal(plx_get32(cqe.dw0), 0x00020101);
    assert_int_equal(log_page(&r, 0x02, 512, 0), 0);
    pcie_model_smart(r.m, 0x03);
    pcie_model_settle(r.m);
    assert_true(rig_take(&r, 0, &cqe));
    assert_int_equal(plx_get32(cqe.dw0), 0x00020201);
    const struct nvme_health_log *health = (const void *)(r.memory + RIG_ADMIN);
    pcie_model_smart(r.m, 0x02);
    pcie_model_smart(r.m, 0x06); /* not again until that log has been read, and not kept */
    assert_int_equal(log_page(&r, 0x02 | 1 << 15, 512, 0), 0);
    pcie_model_settle(r.m);
    assert_false(rig_take(&r, 0, &cqe));
    assert_int_equal(health->critical_warning, 0x06);
    assert_int_equal(health->spare, 100);
    assert_int_equal(health->spare_threshold, 10);
    assert_int_equal(plx_peek32(health->power_cycles), 1);
    assert_int_equal(log_page(&r, 0x02, 512, 0), 0);
    pcie_model_settle(r.m);
    assert_true(rig_take(&r, 0, &cqe));
    assert_int_equal(plx_get32(cqe.dw0), 0x00020101);
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
    rig_must(&r, 0, rig_create(1, false, -1));
    r.q[1].tail = 0;
    const struct pcie_model_fault lose = {.kind = PCIE_MODEL_LOSE, .qid = 1, .opcode = PCIE_MODEL_ANY};
    pcie_model_fault(r.m, &lose);
    rig_put_cmd(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA));
    rig_ring_sq(&r, 1);
    pcie_model_settle(r.m);
    const uint16_t cid = r.cid;
    rig_must(&r, 0, (struct nvme_cmd){.opcode = PM_DELETE_SQ, .cdw10 = plx_put32(1)});
    rig_must(&r, 0, rig_create(1, false, -1));
    r.q[1].tail = 0;
    r.cid = cid - 1; /* identifiers are free again */
    rig_must(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA));
    rig_close(&r);
}

static void a_format_changes_the_block_size(void **state)
{
    (void)state;
    struct pcie_model_opts o = pcie_model_defaults;
    struct rig r;
    uint8_t byte = 1;
    o.nns = 2;
    o.ns[1] = (struct pcie_model_ns){.nsid = 2, .block_bits = 9, .blocks = 1000};
    rig_up(&r, &o, 1);
    pcie_model_poke(r.m, 1, 512, &byte, 1);
    byte = 0;
    pcie_model_peek(r.m, 1, 512, &byte, 1);
    assert_int_equal(byte, 1);
    struct nvme_cmd cmd = {.opcode = PM_FORMAT, .nsid = plx_put32(1)};
    assert_int_equal(with(&r, cmd, 2, 0), PM_SC_FORMAT);
    assert_int_equal(with(&r, cmd, 1, 0), 0);
    assert_int_equal(identify(&r, 0, 1), 0);
    assert_int_equal(plx_peek32(r.memory + RIG_ADMIN), 131072 / 8);
    assert_int_equal(((const struct nvme_id_ns *)(const void *)(r.memory + RIG_ADMIN))->flbas, 1);
    assert_int_equal(identify(&r, 0, 2), 0);
    assert_int_equal(plx_peek32(r.memory + RIG_ADMIN), 1000);
    pcie_model_peek(r.m, 1, 512, &byte, 1);
    assert_int_equal(byte, 0);
    rig_must(&r, 1, rig_io(&r, NVME_IO_WRITE, 131072 / 8 - 1, 1, RIG_DATA));
    cmd.nsid = plx_put32(3);
    assert_int_equal(with(&r, cmd, 1, 0), PLX_SC_INVALID_NAMESPACE_OR_FORMAT);
    cmd.nsid = plx_put32(NVME_NSID_ALL);
    assert_int_equal(with(&r, cmd, 1, 0), 0);
    assert_int_equal(identify(&r, 0, 2), 0);
    assert_int_equal(plx_peek32(r.memory + RIG_ADMIN), 1000 / 8);
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
        cmocka_unit_test(it_says_what_it_was_told_to_say),
        cmocka_unit_test(it_says_what_namespaces_are),
        cmocka_unit_test(an_old_one_knows_less),
        cmocka_unit_test(it_keeps_logs),
        cmocka_unit_test(logs_say_what_there_is),
        cmocka_unit_test(what_happens_is_told),
        cmocka_unit_test(its_health_is_told),
        cmocka_unit_test(commands_are_aborted),
        cmocka_unit_test(deleting_a_queue_ends_its_commands),
        cmocka_unit_test(a_format_changes_the_block_size),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
