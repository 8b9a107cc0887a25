/* SPDX-License-Identifier: BSD-3-Clause */
/* Zoned disks, as hosts see them: what is told of them, and commands for their zones (ZNS 3.4, 4.1.5). */
#include "nvmf_util.h"

#include "reactor/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "test_disk.h"

enum { PLAIN = 1, ZONED = 2, SMALL = 3, READ_ONLY = 4, BLOCK = 512, ZONE = 256, BLOCKS = 2048, APPEND = 64 };

struct served {
    struct rig rig;
    struct test_disk *disk, *small, *read_only;
    int admin, queue;
};

static void zoned_over(void *arg, int result)
{
    assert_int_equal(result, 0);
    *(bool *)arg = true;
}

static void zoned_apply(struct served *s)
{
    bool done = false;
    plx_nvmf_target_apply(s->rig.target, zoned_over, &done);
    while (!done)
        rig_settle(&s->rig);
}

static struct plx_nvmf_subsystem *subsystem_of(struct served *s)
{
    return plx_list_entry(s->rig.target->subsystems.prev, struct plx_nvmf_subsystem, link);
}

static struct test_disk *put_disk(struct served *s, uint32_t nsid, uint32_t append, bool read_only)
{
    struct test_disk *d = test_disk_new_zoned(append, read_only);
    const uint8_t uuid[16] = {(uint8_t)nsid};
    const struct plx_nvmf_ns_opts opts = {.nsid = nsid, .uuid = uuid};
    assert_int_equal(plx_nvmf_subsystem_add_ns(subsystem_of(s), &d->bdev, &opts, NULL), nsid);
    d->bdev.info.write_cache = false; /* nobody is there to end a last flush */
    return d;
}

static int zoned_serve(void **state)
{
    struct served *s = calloc(1, sizeof *s);
    assert_int_equal(rig_start(&s->rig, "ram:1M"), 0);
    s->disk = put_disk(s, ZONED, APPEND, false);
    zoned_apply(s);
    assert_true(rig_host(&s->rig, &s->admin, &s->queue));
    *state = s;
    return 0;
}

static int zoned_end(void **state)
{
    struct served *s = *state;
    close(s->queue);
    close(s->admin);
    rig_settle(&s->rig);
    rig_stop(&s->rig);
    struct test_disk *all[] = {s->disk, s->small, s->read_only};
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(all); i++)
        if (all[i])
            assert_int_equal(plx_bdev_close(&all[i]->bdev), 0);
    free(s);
    return 0;
}

/* ---- commands ---- */

static struct nvme_cmd zone_cmd(uint8_t opcode, uint64_t lba, uint32_t cdw12, uint32_t cdw13, uint32_t len)
{
    return (struct nvme_cmd){
        .opcode = opcode,
        .flags = NVME_PSDT_SGL,
        .cid = plx_put16(7),
        .nsid = plx_put32(ZONED),
        .sgl = {.length = plx_put32(len),
                .type = opcode == NVME_IO_ZONE_APPEND ? NVME_SGL_DATA_BLOCK_OFFSET : NVME_SGL_TRANSPORT_DATA},
        .cdw10 = plx_put32(lba),
        .cdw11 = plx_put32(lba >> 32),
        .cdw12 = plx_put32(cdw12),
        .cdw13 = plx_put32(cdw13)};
}

static struct nvme_cmd manage_cmd(uint64_t lba, uint32_t cdw13)
{
    return zone_cmd(NVME_IO_ZONE_MANAGE, lba, 0, cdw13, 0);
}

static struct nvme_cmd report_cmd(uint64_t lba, uint32_t cdw13, uint32_t len)
{
    return zone_cmd(NVME_IO_ZONE_REPORT, lba, len / 4 - 1, cdw13, len);
}

static struct nvme_cmd append_cmd(uint64_t lba, uint32_t nlb)
{
    return zone_cmd(NVME_IO_ZONE_APPEND, lba, nlb - 1, 0, nlb * BLOCK);
}

/* Sends it; in its capsule goes the data of an append. */
static void zoned_send(struct served *s, const struct nvme_cmd *cmd)
{
    static uint8_t data[8192];
    const uint32_t len = cmd->sgl.type == NVME_SGL_DATA_BLOCK_OFFSET ? plx_get32(cmd->sgl.length) : 0;
    struct nvme_tcp_cmd pdu = {
        .hdr = {.type = NVME_TCP_CMD, .hlen = 72, .pdo = len ? 72 : 0, .plen = plx_put32(72 + len)}, .cmd = *cmd};
    for (uint32_t i = 0; i < len; i++)
        data[i] = (uint8_t)(i * 7 + i / BLOCK);
    assert_in_range(len, 0, sizeof data);
    assert_true(rig_send(&s->rig, s->queue, &pdu, sizeof pdu));
    assert_true(!len || rig_send(&s->rig, s->queue, data, len));
}

/* The completion of the one command, and the data before it. @return status with DNR */
static uint16_t zoned_take(struct served *s, void *data, size_t len, struct nvme_cqe *cqe)
{
    static uint8_t buf[1 << 16];
    struct nvme_tcp_resp resp;
    ssize_t n = rig_receive(&s->rig, s->queue, buf, sizeof buf);
    assert_true(n >= (ssize_t)sizeof resp);
    memcpy(&resp, buf + n - sizeof resp, sizeof resp);
    assert_int_equal(resp.hdr.type, NVME_TCP_RESP);
    if (len) {
        assert_int_equal(n, 24 + len + sizeof resp);
        assert_int_equal(buf[0], NVME_TCP_C2H_DATA);
        memcpy(data, buf + 24, len);
    }
    if (cqe)
        *cqe = resp.cqe;
    return plx_get16(resp.cqe.status) >> 1;
}

/* It ends without the disk's seeing it. */
static uint16_t refused(struct served *s, struct nvme_cmd cmd)
{
    const int seen = s->disk->seen;
    zoned_send(s, &cmd);
    const uint16_t status = zoned_take(s, NULL, 0, NULL);
    assert_int_equal(s->disk->seen, seen);
    assert_true(status & NVME_STATUS_DNR);
    return status & 0x7ff;
}

static struct plx_bdev_req *asked(struct served *s, enum plx_bdev_op op)
{
    struct plx_bdev_req *req = s->disk->first;
    rig_settle(&s->rig);
    assert_non_null(req);
    assert_int_equal(req->op, op);
    return req;
}

/* An admin command that gets a page. @return status */
static uint16_t ask_page(struct served *s, struct nvme_cmd cmd, uint8_t page[4096])
{
    static uint8_t buf[8192];
    struct nvme_tcp_resp resp;
    cmd.flags = NVME_PSDT_SGL;
    cmd.sgl = (struct nvme_sgl){.length = plx_put32(4096), .type = NVME_SGL_TRANSPORT_DATA};
    struct nvme_tcp_cmd pdu = {.hdr = {.type = NVME_TCP_CMD, .hlen = 72, .plen = plx_put32(72)}, .cmd = cmd};
    assert_true(rig_send(&s->rig, s->admin, &pdu, sizeof pdu));
    ssize_t n = rig_receive(&s->rig, s->admin, buf, sizeof buf);
    assert_true(n >= (ssize_t)sizeof resp);
    memcpy(&resp, buf + n - sizeof resp, sizeof resp);
    if (n == 24 + 4096 + sizeof resp)
        memcpy(page, buf + 24, 4096);
    return plx_get16(resp.cqe.status) >> 1 & 0x7ff;
}

static uint16_t zoned_identify(struct served *s, uint8_t cns, uint8_t csi, uint32_t nsid, void *page)
{
    return ask_page(s,
                    (struct nvme_cmd){.opcode = NVME_ADMIN_IDENTIFY,
                                      .nsid = plx_put32(nsid),
                                      .cdw10 = plx_put32(cns),
                                      .cdw11 = plx_put32((uint32_t)csi << 24)},
                    page);
}

/* ---- what is told ---- */

static void a_zoned_namespace_says_so(void **state)
{
    static uint8_t page[4096];
    struct nvme_id_ns_zoned zoned;
    struct nvme_id_ns id;
    assert_int_equal(zoned_identify(*state, NVME_CNS_NS_DESCRIPTORS, 0, ZONED, page), 0);
    assert_int_equal(page[20 + 20], NVME_NIDT_CSI); /* behind NGUID and UUID */
    assert_int_equal(page[20 + 20 + 4], NVME_CSI_ZONED);
    assert_int_equal(zoned_identify(*state, NVME_CNS_NS_DESCRIPTORS, 0, PLAIN, page), 0);
    assert_int_equal(page[20 + 20 + 4], NVME_CSI_NVM);
    assert_int_equal(zoned_identify(*state, NVME_CNS_CSI_NS, NVME_CSI_ZONED, ZONED, &zoned), 0);
    assert_int_equal(plx_get64(zoned.lbafe[0].zsze), ZONE);
    assert_int_equal(zoned.lbafe[0].zdes, 0);
    assert_int_equal(plx_get32(zoned.mar), 0xffffffff); /* no limit */
    assert_int_equal(plx_get32(zoned.mor), 0xffffffff);
    assert_int_equal(plx_get16(zoned.zoc) | plx_get16(zoned.ozcs), 0);
    assert_int_equal(zoned_identify(*state, NVME_CNS_NS, 0, ZONED, &id), 0);
    assert_int_equal(plx_get64(id.nsze), BLOCKS);
    assert_int_equal(id.dlfeat, 1); /* zeroes where nothing was written, and no Write Zeroes that deallocate */
    assert_int_equal(zoned_identify(*state, NVME_CNS_CSI_NS, NVME_CSI_NVM, ZONED, page), 0); /* of that set as well */
}

static void limits_and_characteristics_are_the_disks(void **state)
{
    struct served *s = *state;
    struct plx_bdev_info *info = &s->disk->bdev.info;
    struct nvme_id_ns_zoned zoned;
    info->max_open_zones = 3;
    info->max_active_zones = 5;
    info->reads_cross_zones = info->zones_finish = true;
    assert_int_equal(zoned_identify(s, NVME_CNS_CSI_NS, NVME_CSI_ZONED, ZONED, &zoned), 0);
    assert_int_equal(plx_get32(zoned.mar), 4);
    assert_int_equal(plx_get32(zoned.mor), 2);
    assert_int_equal(plx_get16(zoned.zoc), NVME_ZOC_EXCURSIONS);
    assert_int_equal(plx_get16(zoned.ozcs), NVME_OZCS_READ_ACROSS);
    info->zones_finish = info->reads_cross_zones = false;
    info->zone_capacity_varies = true;
    assert_int_equal(zoned_identify(s, NVME_CNS_CSI_NS, NVME_CSI_ZONED, ZONED, &zoned), 0);
    assert_int_equal(plx_get16(zoned.zoc), NVME_ZOC_VARIABLE_CAPACITY);
    assert_int_equal(plx_get16(zoned.ozcs), 0);
}

static void lists_are_of_one_command_set(void **state)
{
    static plx_le32 page[1024];
    static plx_le64 sets[512];
    assert_int_equal(zoned_identify(*state, NVME_CNS_CSI_ACTIVE_NS, NVME_CSI_ZONED, 0, page), 0);
    assert_int_equal(plx_get32(page[0]), ZONED);
    assert_int_equal(plx_get32(page[1]), 0);
    assert_int_equal(zoned_identify(*state, NVME_CNS_CSI_ACTIVE_NS, NVME_CSI_NVM, 0, page), 0);
    assert_int_equal(plx_get32(page[0]), PLAIN);
    assert_int_equal(plx_get32(page[1]), 0);
    assert_int_equal(zoned_identify(*state, NVME_CNS_ACTIVE_NS, 0, 0, page), 0);
    assert_int_equal(plx_get32(page[1]), ZONED);
    assert_int_equal(zoned_identify(*state, NVME_CNS_COMMAND_SETS, 0, 0, sets), 0);
    assert_int_equal(plx_get64(sets[0]), 1 << NVME_CSI_NVM | 1 << NVME_CSI_ZONED);
    assert_int_equal(plx_get64(sets[1]), 0);
}

static void what_is_of_no_zones_has_no_such_page(void **state)
{
    static uint8_t page[4096];
    assert_int_equal(zoned_identify(*state, NVME_CNS_CSI_NS, NVME_CSI_ZONED, PLAIN, page), PLX_SC_INVALID_COMMAND_SET);
    for (uint8_t cns = NVME_CNS_CSI_NS; cns <= NVME_CNS_CSI_ACTIVE_NS; cns++) {
        assert_int_equal(zoned_identify(*state, cns, 1, ZONED, page), PLX_SC_INVALID_FIELD);
        assert_int_equal(zoned_identify(*state, cns, 3, ZONED, page), PLX_SC_INVALID_FIELD);
    }
    memset(page, 0xee, sizeof page);
    assert_int_equal(zoned_identify(*state, NVME_CNS_CSI_NS, NVME_CSI_ZONED, 9, page), 0); /* inactive */
    assert_true(!page[0] && !memcmp(page, page + 1, sizeof page - 1));
    assert_int_equal(zoned_identify(*state, NVME_CNS_CSI_NS, NVME_CSI_ZONED, 0, page),
                     PLX_SC_INVALID_NAMESPACE_OR_FORMAT);
}

static uint8_t zasl(struct served *s)
{
    static uint8_t page[4096];
    assert_int_equal(zoned_identify(s, NVME_CNS_CSI_CTRL, NVME_CSI_ZONED, 0, page), 0);
    return page[0];
}

static void appends_are_as_large_as_every_disk_takes(void **state)
{
    struct served *s = *state;
    assert_int_equal(zasl(s), 3); /* 64 blocks of 512 bytes: 2^3 pages */
    s->small = put_disk(s, SMALL, 47, false);
    zoned_apply(s);
    assert_int_equal(zasl(s), 2); /* 47 blocks are more than 4 pages, and less than 8 */
    assert_int_equal(plx_nvmf_subsystem_remove_ns(subsystem_of(s), SMALL, NULL), 0);
    zoned_apply(s);
    assert_int_equal(zasl(s), 3);
    assert_int_equal(plx_bdev_close(&s->small->bdev), 0);
    s->small = put_disk(s, SMALL, 65536, false);
    assert_int_equal(plx_nvmf_subsystem_remove_ns(subsystem_of(s), ZONED, NULL), 0);
    zoned_apply(s);
    assert_int_equal(zasl(s), 8); /* MDTS */
    assert_int_equal(plx_nvmf_subsystem_remove_ns(subsystem_of(s), SMALL, NULL), 0);
    zoned_apply(s);
    assert_int_equal(zasl(s), 8); /* of those that may come */
}

static uint16_t effects(struct served *s, uint8_t csi, plx_le32 page[1024])
{
    return ask_page(s,
                    (struct nvme_cmd){.opcode = NVME_ADMIN_GET_LOG_PAGE,
                                      .nsid = plx_put32(NVME_NSID_ALL),
                                      .cdw10 = plx_put32(NVME_LOG_EFFECTS | 1023 << 16),
                                      .cdw14 = plx_put32((uint32_t)csi << 24)},
                    (uint8_t *)page);
}

static void commands_are_told_by_command_set(void **state)
{
    static plx_le32 nvm[1024], zoned[1024];
    struct served *s = *state;
    assert_int_equal(effects(s, NVME_CSI_NVM, nvm), 0);
    assert_int_equal(effects(s, NVME_CSI_ZONED, zoned), 0);
    assert_memory_equal(nvm, zoned, 1024); /* admin commands */
    assert_int_equal(plx_get32(zoned[256 + NVME_IO_ZONE_APPEND]), 3);
    assert_int_equal(plx_get32(zoned[256 + NVME_IO_ZONE_MANAGE]), 3);
    assert_int_equal(plx_get32(zoned[256 + NVME_IO_ZONE_REPORT]), 1);
    assert_int_equal(plx_get32(zoned[256 + NVME_IO_WRITE]), 3);
    assert_int_equal(plx_get32(zoned[256 + NVME_IO_COMPARE]), 1);
    assert_int_equal(plx_get32(zoned[256 + NVME_IO_DSM]), 0);
    assert_int_equal(plx_get32(zoned[256 + NVME_IO_COPY]), 0);
    assert_int_equal(plx_get32(nvm[256 + NVME_IO_ZONE_APPEND]), 0);
    assert_int_equal(plx_get32(nvm[256 + NVME_IO_DSM]), 3);
    assert_int_equal(effects(s, 1, nvm), PLX_SC_INVALID_FIELD);
    assert_int_equal(plx_nvmf_subsystem_remove_ns(subsystem_of(s), ZONED, NULL), 0);
    zoned_apply(s);
    assert_int_equal(effects(s, NVME_CSI_ZONED, zoned), 0);
    assert_int_equal(plx_get32(zoned[256 + NVME_IO_ZONE_APPEND]), 3); /* before there is a disk, too */
    assert_int_equal(plx_get32(zoned[256 + NVME_IO_COMPARE]), 0);
}

/* ---- commands for zones ---- */

static void an_append_says_where_it_went(void **state)
{
    struct served *s = *state;
    struct nvme_cmd cmd = append_cmd(2 * ZONE, 3);
    struct nvme_cqe cqe;
    uint8_t first[4];
    zoned_send(s, &cmd);
    struct plx_bdev_req *req = asked(s, PLX_BDEV_ZONE_APPEND);
    assert_int_equal(req->lba, 2 * ZONE);
    assert_int_equal(req->nlb, 3);
    assert_int_equal(req->flags, 0);
    assert_int_equal(req->iov->iov_len, 3 * BLOCK);
    memcpy(first, (uint8_t *)req->iov->iov_base + BLOCK, sizeof first);
    for (unsigned i = 0; i < sizeof first; i++)
        assert_int_equal(first[i], (uint8_t)((BLOCK + i) * 7 + 1));
    req->src_lba = UINT64_C(0x123456789a);
    assert_true(test_disk_end(s->disk, 0));
    assert_int_equal(zoned_take(s, NULL, 0, &cqe), 0);
    assert_int_equal(plx_get32(cqe.dw0), 0x3456789a);
    assert_int_equal(plx_get32(cqe.dw1), 0x12);
    cmd.cdw12 = plx_put32(2 | NVME_RW_FUA);
    zoned_send(s, &cmd);
    req = asked(s, PLX_BDEV_ZONE_APPEND);
    assert_int_equal(req->flags, PLX_BDEV_FUA);
    req->src_lba = 99;
    assert_true(test_disk_end(s->disk, PLX_SC_ZONE_IS_FULL));
    assert_int_equal(zoned_take(s, NULL, 0, &cqe), PLX_SC_ZONE_IS_FULL | NVME_STATUS_DNR);
    assert_int_equal(plx_get32(cqe.dw0), 0);
}

static void zones_are_managed_as_asked_for(void **state)
{
    struct served *s = *state;
    for (unsigned action = PLX_BDEV_ZONE_CLOSE; action <= PLX_BDEV_ZONE_OFFLINE; action++) {
        for (unsigned all = 0; all < 2; all++) {
            /* With Select All the block does not matter. */
            struct nvme_cmd cmd =
                manage_cmd(all ? UINT64_C(0xdeadbeef12345) : 3 * ZONE, action | (all ? NVME_ZONE_ALL : 0));
            zoned_send(s, &cmd);
            struct plx_bdev_req *req = asked(s, PLX_BDEV_ZONE_MANAGE);
            assert_int_equal(req->zone_action, action);
            assert_int_equal(req->flags, all ? PLX_BDEV_ALL_ZONES : 0);
            assert_int_equal(req->lba, all ? 0 : 3 * ZONE);
            assert_int_equal(req->iovcnt, 0);
            assert_true(test_disk_end(s->disk, 0));
            assert_int_equal(zoned_take(s, NULL, 0, NULL), 0);
        }
    }
}

static void zones_are_reported_as_asked_for(void **state)
{
    struct served *s = *state;
    uint8_t got[1024], is[1024];
    for (unsigned of = PLX_BDEV_ZONES_ALL; of <= PLX_BDEV_ZONES_OFFLINE; of++) {
        for (unsigned partial = 0; partial < 2; partial++) {
            /* From any block of a zone on; what is no whole descriptor is zeroes. */
            const uint32_t len = 64u << of % 4 | (of > 3 ? 60 : 0), whole = len & ~63u;
            struct nvme_cmd cmd = report_cmd(3 * ZONE + 5, of << 8 | partial << 16, len);
            zoned_send(s, &cmd);
            struct plx_bdev_req *req = asked(s, PLX_BDEV_ZONE_REPORT);
            assert_int_equal(req->zone_report, of);
            assert_int_equal(req->flags, partial ? PLX_BDEV_PARTIAL : 0);
            assert_int_equal(req->lba, 3 * ZONE + 5);
            assert_int_equal(req->nlb, whole / 64);
            assert_int_equal(req->iov->iov_len, whole);
            memset(is, 0, sizeof is);
            for (uint32_t i = 0; i < whole; i++)
                is[i] = (uint8_t)(i + of);
            memcpy(req->iov->iov_base, is, whole);
            assert_true(test_disk_end(s->disk, 0));
            assert_int_equal(zoned_take(s, got, len, NULL), 0);
            assert_memory_equal(got, is, len);
        }
    }
}

static void what_makes_no_sense_is_refused(void **state)
{
    struct served *s = *state;
    const struct {
        struct nvme_cmd cmd;
        uint16_t status;
    } cases[] = {
        {append_cmd(2 * ZONE + 1, 1), PLX_SC_INVALID_FIELD}, /* a zone begins elsewhere */
        {append_cmd(BLOCKS, 1), PLX_SC_LBA_OUT_OF_RANGE},
        {append_cmd(UINT64_MAX - 255, 1), PLX_SC_LBA_OUT_OF_RANGE},
        {zone_cmd(NVME_IO_ZONE_APPEND, 0, 0 | 1 << 26, 0, BLOCK), PLX_SC_INVALID_PROTECTION_INFORMATION},
        {zone_cmd(NVME_IO_ZONE_APPEND, 0, 1, 0, BLOCK), PLX_SC_DATA_SGL_LENGTH_INVALID},
        {zone_cmd(NVME_IO_ZONE_APPEND, 0, APPEND, 0, 0), PLX_SC_INVALID_FIELD}, /* beyond ZASL */
        {manage_cmd(2 * ZONE + 1, PLX_BDEV_ZONE_RESET), PLX_SC_INVALID_FIELD},
        {manage_cmd(BLOCKS, PLX_BDEV_ZONE_RESET), PLX_SC_LBA_OUT_OF_RANGE},
        {manage_cmd(0, 0), PLX_SC_INVALID_FIELD},
        {manage_cmd(0, 6), PLX_SC_INVALID_FIELD},
        {manage_cmd(0, 0x10), PLX_SC_INVALID_FIELD}, /* Set Zone Descriptor Extension */
        {manage_cmd(0, 0x11), PLX_SC_INVALID_FIELD}, /* of random write areas, */
        {manage_cmd(0, PLX_BDEV_ZONE_OPEN | 1 << 9), PLX_SC_INVALID_FIELD},
        {manage_cmd(0, 0xff | NVME_ZONE_ALL), PLX_SC_INVALID_FIELD},
        {report_cmd(BLOCKS, 0, 128), PLX_SC_LBA_OUT_OF_RANGE},
        {report_cmd(0, 1, 128), PLX_SC_INVALID_FIELD}, /* extended */
        {report_cmd(0, 0xff, 128), PLX_SC_INVALID_FIELD},
        {report_cmd(0, 8 << 8, 128), PLX_SC_INVALID_FIELD},
        {report_cmd(0, 0, 60), PLX_SC_INVALID_FIELD},
        {report_cmd(0, 0, (1 << 20) + 4), PLX_SC_INVALID_FIELD}, /* beyond MDTS */
        {zone_cmd(NVME_IO_ZONE_REPORT, 0, UINT32_MAX, 0, 64), PLX_SC_INVALID_FIELD},
        {zone_cmd(NVME_IO_ZONE_REPORT, 0, 31, 0, 64), PLX_SC_DATA_SGL_LENGTH_INVALID},
        {zone_cmd(0x78, 0, 0, 0, 0), PLX_SC_INVALID_OPCODE},
        {zone_cmd(0x7b, 0, 0, 0, 0), PLX_SC_INVALID_OPCODE},
        {zone_cmd(NVME_IO_WRITE_ZEROES, 0, 0, 0, 0), PLX_SC_INVALID_OPCODE},
        {zone_cmd(NVME_IO_DSM, 0, 0, 4, 16), PLX_SC_INVALID_OPCODE},
        {zone_cmd(NVME_IO_COPY, 0, 0, 0, 32), PLX_SC_INVALID_OPCODE},
    };
    for (size_t i = 0; i < PLX_ARRAY_SIZE(cases); i++) {
        const uint16_t status = refused(s, cases[i].cmd);
        if (status != cases[i].status)
            fail_msg("case %zu ended with %03x, not %03x", i, status, cases[i].status);
    }
    struct nvme_cmd all = manage_cmd(0, PLX_BDEV_ZONE_RESET | NVME_ZONE_ALL);
    all.nsid = plx_put32(NVME_NSID_ALL);
    assert_int_equal(refused(s, all), PLX_SC_INVALID_NAMESPACE_OR_FORMAT);
}

static void what_zones_refuse_is_told_as_it_is(void **state)
{
    struct served *s = *state;
    for (uint16_t status = PLX_SC_ZONE_BOUNDARY_ERROR; status <= PLX_SC_INVALID_ZONE_STATE_TRANSITION; status++) {
        struct nvme_cmd cmds[] = {append_cmd(ZONE, 1), manage_cmd(ZONE, PLX_BDEV_ZONE_OPEN),
                                  zone_cmd(NVME_IO_READ, 5, 7, 0, 8 * BLOCK)};
        struct nvme_cmd write = append_cmd(ZONE + 4, 1);
        write.opcode = NVME_IO_WRITE;
        for (unsigned i = 0; i < 4; i++) {
            zoned_send(s, i < 3 ? &cmds[i] : &write);
            rig_settle(&s->rig);
            assert_true(test_disk_end(s->disk, status));
            assert_int_equal(zoned_take(s, NULL, 0, NULL), status | NVME_STATUS_DNR);
        }
    }
}

static void disks_without_zones_have_no_such_commands(void **state)
{
    struct served *s = *state;
    struct nvme_cmd cmds[] = {append_cmd(0, 1), manage_cmd(0, PLX_BDEV_ZONE_RESET), report_cmd(0, 0, 128)};
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(cmds); i++) {
        cmds[i].nsid = plx_put32(PLAIN);
        assert_int_equal(refused(s, cmds[i]), PLX_SC_INVALID_OPCODE);
    }
}

static void zones_that_may_not_be_written_are_reported(void **state)
{
    struct served *s = *state;
    s->read_only = put_disk(s, READ_ONLY, APPEND, true);
    zoned_apply(s);
    struct nvme_cmd append = append_cmd(0, 1), reset = manage_cmd(0, PLX_BDEV_ZONE_RESET),
                    report = report_cmd(0, 0, 128);
    append.nsid = reset.nsid = report.nsid = plx_put32(READ_ONLY);
    assert_int_equal(refused(s, append), PLX_SC_NAMESPACE_WRITE_PROTECTED);
    assert_int_equal(refused(s, reset), PLX_SC_NAMESPACE_WRITE_PROTECTED);
    assert_int_equal(s->read_only->seen, 0);
    zoned_send(s, &report);
    rig_settle(&s->rig);
    memset(s->read_only->first->iov->iov_base, 0, 128);
    assert_true(test_disk_end(s->read_only, 0));
    assert_int_equal(zoned_take(s, NULL, 0, NULL), 0);
}

/* What is appended counts as written: SMART, Data Units Written and Host Write Commands. */
static void appends_are_counted_as_writes(void **state)
{
    struct served *s = *state;
    const struct nvmf_image *image = nvmf_snapshot_find(s->rig.target->snap, RIG_NQN);
    uint64_t before[4], after[4];
    struct nvme_cmd cmd = append_cmd(0, 16);
    nvmf_image_stats(image, &before[0], &before[1], &before[2], &before[3]);
    zoned_send(s, &cmd);
    asked(s, PLX_BDEV_ZONE_APPEND);
    assert_true(test_disk_end(s->disk, 0));
    assert_int_equal(zoned_take(s, NULL, 0, NULL), 0);
    nvmf_image_stats(image, &after[0], &after[1], &after[2], &after[3]);
    assert_int_equal(after[1] - before[1], 16);
    assert_int_equal(after[3] - before[3], 1);
    assert_int_equal(after[0], before[0]);
    assert_int_equal(after[2], before[2]);
}

static uint64_t standing(void)
{
    return PLX_NS_PER_S;
}

static void limits_set(void *arg, int result)
{
    assert_int_equal(result, 0);
    *(bool *)arg = true;
}

/* The rate limit of a host holds for its appends as for its writes; time stands still. */
static void appends_are_limited_as_writes(void **state)
{
    struct served *s = *state;
    struct nvme_cmd cmds[] = {append_cmd(0, 1), append_cmd(0, 1), manage_cmd(0, PLX_BDEV_ZONE_CLOSE)};
    const char *host = RIG_HOST;
    const struct plx_bdev_limits one = {.write_ios = 1};
    bool set = false, removed = false;
    assert_int_equal(plx_nvmf_host_limits_set(s->rig.target, "ours", &host, 1, &one, limits_set, &set, NULL), 0);
    rig_settle(&s->rig);
    assert_true(set);
    for (unsigned i = 0; i < 3; i++) {
        cmds[i].cid = plx_put16(i);
        zoned_send(s, &cmds[i]);
    }
    assert_int_equal(s->disk->seen, 2);
    asked(s, PLX_BDEV_ZONE_APPEND);
    assert_true(test_disk_end(s->disk, 0));
    asked(s, PLX_BDEV_ZONE_MANAGE);
    assert_true(test_disk_end(s->disk, 0));
    assert_int_equal(plx_nvmf_host_limits_remove(s->rig.target, "ours", limits_set, &removed, NULL), 0);
    rig_settle(&s->rig);
    assert_true(removed);
    assert_int_equal(s->disk->seen, 3);
    asked(s, PLX_BDEV_ZONE_APPEND);
    assert_true(test_disk_end(s->disk, 0));
    assert_int_equal(zoned_take(s, NULL, 0, NULL), 0);
}

static int stand_and_serve(void **state)
{
    plx_clock_simulate(standing);
    return zoned_serve(state);
}

static int end_and_go(void **state)
{
    const int result = zoned_end(state);
    plx_clock_simulate(NULL);
    return result;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_zoned_namespace_says_so, zoned_serve, zoned_end),
        cmocka_unit_test_setup_teardown(limits_and_characteristics_are_the_disks, zoned_serve, zoned_end),
        cmocka_unit_test_setup_teardown(lists_are_of_one_command_set, zoned_serve, zoned_end),
        cmocka_unit_test_setup_teardown(what_is_of_no_zones_has_no_such_page, zoned_serve, zoned_end),
        cmocka_unit_test_setup_teardown(appends_are_as_large_as_every_disk_takes, zoned_serve, zoned_end),
        cmocka_unit_test_setup_teardown(commands_are_told_by_command_set, zoned_serve, zoned_end),
        cmocka_unit_test_setup_teardown(an_append_says_where_it_went, zoned_serve, zoned_end),
        cmocka_unit_test_setup_teardown(zones_are_managed_as_asked_for, zoned_serve, zoned_end),
        cmocka_unit_test_setup_teardown(zones_are_reported_as_asked_for, zoned_serve, zoned_end),
        cmocka_unit_test_setup_teardown(what_makes_no_sense_is_refused, zoned_serve, zoned_end),
        cmocka_unit_test_setup_teardown(what_zones_refuse_is_told_as_it_is, zoned_serve, zoned_end),
        cmocka_unit_test_setup_teardown(disks_without_zones_have_no_such_commands, zoned_serve, zoned_end),
        cmocka_unit_test_setup_teardown(zones_that_may_not_be_written_are_reported, zoned_serve, zoned_end),
        cmocka_unit_test_setup_teardown(appends_are_counted_as_writes, zoned_serve, zoned_end),
        cmocka_unit_test_setup_teardown(appends_are_limited_as_writes, stand_and_serve, end_and_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
