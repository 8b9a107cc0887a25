/* SPDX-License-Identifier: BSD-3-Clause */
/* The model's data: I/O commands, PRP and SGL, addresses, doorbell buffers. */
#include "pcie_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static void it_writes_and_reads(void **state)
{
    (void)state;
    struct rig r;
    rig_up(&r, NULL, 2);
    static const unsigned blocks[] = {1, 7, 8, 15, 16, 17, 64, 256}, offsets[] = {0, 4, 512, 4092};
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(blocks); i++) {
        for (unsigned j = 0; j < PLX_ARRAY_SIZE(offsets); j++) {
            const size_t bytes = blocks[i] * (size_t)512;
            uint8_t *got = malloc(bytes);
            rig_pattern(&r, RIG_DATA + offsets[j], bytes, i * 16 + j);
            rig_must(&r, 1, rig_io(&r, NVME_IO_WRITE, 1000, blocks[i], RIG_DATA + offsets[j]));
            pcie_model_peek(r.m, 1, 1000 * 512, got, bytes);
            assert_memory_equal(got, r.memory + RIG_DATA + offsets[j], bytes);
            memset(r.memory + RIG_DATA, 0, bytes + 8192);
            rig_must(&r, 2, rig_io(&r, NVME_IO_READ, 1000, blocks[i], RIG_DATA + offsets[j]));
            assert_memory_equal(got, r.memory + RIG_DATA + offsets[j], bytes);
            assert_int_equal(r.memory[RIG_DATA + offsets[j] + bytes], 0);
            free(got);
        }
    }
    assert_int_equal(rig_do(&r, 1, rig_io(&r, NVME_IO_READ, 131072, 1, RIG_DATA), NULL),
                     PLX_SC_LBA_OUT_OF_RANGE | NVME_STATUS_DNR);
    rig_close(&r);
}

static void peek(struct rig *r, uint64_t lba, unsigned at, unsigned blocks)
{
    pcie_model_peek(r->m, 1, lba * 512, r->memory + at, blocks * (size_t)512);
}

static bool is(const struct rig *r, unsigned at, size_t bytes, uint8_t value)
{
    for (size_t i = 0; i < bytes; i++)
        if (r->memory[at + i] != value)
            return false;
    return true;
}

static uint16_t io(struct rig *r, struct nvme_cmd cmd)
{
    return rig_do(r, 1, cmd, NULL) & ~NVME_STATUS_DNR;
}

/* ---- commands ---- */

static void other_commands_do_what_they_are_for(void **state)
{
    (void)state;
    struct rig r;
    rig_up(&r, NULL, 1);
    memset(r.memory + RIG_DATA, 0x11, 8192);
    struct nvme_cmd cmd = rig_io(&r, NVME_IO_WRITE, 10, 16, RIG_DATA);
    cmd.cdw12 = plx_put32(15 | 1u << 30);
    rig_must(&r, 1, cmd);
    assert_int_equal(pcie_model_fua(r.m), 1);
    rig_must(&r, 1, rig_io(&r, NVME_IO_COMPARE, 10, 16, RIG_DATA));
    r.memory[RIG_DATA + 8191] = 0;
    assert_int_equal(io(&r, rig_io(&r, NVME_IO_COMPARE, 10, 16, RIG_DATA)), PLX_SC_COMPARE_FAILURE);
    rig_must(&r, 1, rig_io(&r, NVME_IO_VERIFY, 10, 16, RIG_DATA));
    assert_int_equal(io(&r, rig_io(&r, NVME_IO_VERIFY, 131071, 2, RIG_DATA)), PLX_SC_LBA_OUT_OF_RANGE);
    rig_must(&r, 1, rig_io(&r, NVME_IO_WRITE_ZEROES, 12, 3, RIG_DATA));
    peek(&r, 10, RIG_DATA, 16);
    assert_true(is(&r, RIG_DATA, 1024, 0x11) && is(&r, RIG_DATA + 1024, 1536, 0) &&
                is(&r, RIG_DATA + 2560, 5632, 0x11));
    assert_int_equal(io(&r, rig_io(&r, NVME_IO_WRITE_ZEROES, 131071, 2, RIG_DATA)), PLX_SC_LBA_OUT_OF_RANGE);
    rig_must(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA));
    cmd = rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA);
    cmd.nsid = plx_put32(NVME_NSID_ALL);
    rig_must(&r, 1, cmd);
    cmd.nsid = plx_put32(2);
    assert_int_equal(io(&r, cmd), PLX_SC_INVALID_NAMESPACE_OR_FORMAT);
    assert_int_equal(io(&r, rig_io(&r, 0x55, 0, 1, RIG_DATA)), PLX_SC_INVALID_OPCODE);
    assert_int_equal(pcie_model_count(r.m, 1, NVME_IO_VERIFY), 2);
    assert_int_equal(pcie_model_count(r.m, 0, NVME_IO_VERIFY), 0);
    pcie_model_ns_resize(r.m, 1, 0);
    assert_int_equal(io(&r, rig_io(&r, NVME_IO_READ, 0, 1, RIG_DATA)), PLX_SC_INVALID_FIELD);
    rig_close(&r);
}

static void ranges_are_deallocated(void **state)
{
    (void)state;
    struct pcie_model_opts o = pcie_model_defaults;
    struct rig r;
    struct nvme_dsm_range *range = NULL;
    o.dmrl = 2;
    o.dmrsl = 1000;
    rig_up(&r, &o, 1);
    range = (void *)(r.memory + RIG_ADMIN);
    memset(r.memory + RIG_DATA, 0x11, 128 << 10);
    rig_must(&r, 1, rig_io(&r, NVME_IO_WRITE, 0, 256, RIG_DATA));
    rig_must(&r, 1, rig_io(&r, NVME_IO_WRITE, 256, 256, RIG_DATA));
    range[0] = (struct nvme_dsm_range){.slba = plx_put64(1), .nlb = plx_put32(2)};
    range[1] = (struct nvme_dsm_range){.slba = plx_put64(5), .nlb = plx_put32(500)};
    struct nvme_cmd cmd = rig_cmd(&r, NVME_IO_DSM, 1, RIG_ADMIN, 32);
    cmd.cdw10 = plx_put32(1);
    rig_must(&r, 1, cmd); /* a hint, and not to deallocate */
    peek(&r, 0, RIG_DATA, 256);
    assert_true(is(&r, RIG_DATA, 256 * 512, 0x11));
    cmd.cdw11 = plx_put32(NVME_DSM_AD);
    rig_must(&r, 1, cmd);
    peek(&r, 0, RIG_DATA, 512);
    assert_true(is(&r, RIG_DATA, 512, 0x11) && is(&r, RIG_DATA + 512, 1024, 0) && is(&r, RIG_DATA + 1536, 1024, 0x11));
    assert_true(is(&r, RIG_DATA + 2560, 500 * 512, 0) && is(&r, RIG_DATA + 2560 + 500 * 512, 7 * 512, 0x11));
    range[1].nlb = plx_put32(1001);
    assert_int_equal(io(&r, cmd), PLX_SC_COMMAND_SIZE_LIMIT_EXCEEDED);
    range[1] = (struct nvme_dsm_range){.slba = plx_put64(131071), .nlb = plx_put32(2)};
    assert_int_equal(io(&r, cmd), PLX_SC_LBA_OUT_OF_RANGE);
    cmd.cdw10 = plx_put32(2);
    assert_int_equal(io(&r, cmd), PLX_SC_COMMAND_SIZE_LIMIT_EXCEEDED);
    rig_close(&r);
}

static void blocks_are_copied(void **state)
{
    (void)state;
    struct rig r;
    rig_up(&r, NULL, 1);
    struct nvme_copy_range *range = (void *)(r.memory + RIG_ADMIN);
    rig_pattern(&r, RIG_DATA, 64 * 512, 9);
    rig_must(&r, 1, rig_io(&r, NVME_IO_WRITE, 0, 64, RIG_DATA));
    range[0] = (struct nvme_copy_range){.slba = plx_put64(10), .nlb = plx_put16(3)};
    range[1] = (struct nvme_copy_range){.slba = plx_put64(0), .nlb = plx_put16(0)};
    struct nvme_cmd cmd = rig_cmd(&r, NVME_IO_COPY, 1, RIG_ADMIN, 64);
    cmd.cdw10 = plx_put32(1000);
    cmd.cdw12 = plx_put32(1);
    rig_must(&r, 1, cmd);
    peek(&r, 1000, RIG_DATA + 0x10000, 5);
    assert_memory_equal(r.memory + RIG_DATA + 0x10000, r.memory + RIG_DATA + 10 * 512, 4 * 512);
    assert_memory_equal(r.memory + RIG_DATA + 0x10000 + 4 * 512, r.memory + RIG_DATA, 512);
    cmd.cdw12 = plx_put32(1 | 1 << 8);
    assert_int_equal(io(&r, cmd), PLX_SC_INVALID_FIELD);
    cmd.cdw12 = plx_put32(4);
    assert_int_equal(io(&r, cmd), PLX_SC_COMMAND_SIZE_LIMIT_EXCEEDED);
    cmd.cdw12 = plx_put32(1);
    range[1].nlb = plx_put16(64);
    assert_int_equal(io(&r, cmd), PLX_SC_COMMAND_SIZE_LIMIT_EXCEEDED);
    range[1].nlb = plx_put16(1);
    range[1].slba = plx_put64(131071);
    assert_int_equal(io(&r, cmd), PLX_SC_LBA_OUT_OF_RANGE);
    range[1].slba = plx_put64(0);
    cmd.cdw10 = plx_put32(131072 - 5); /* six blocks */
    assert_int_equal(io(&r, cmd), PLX_SC_LBA_OUT_OF_RANGE);
    cmd.cdw10 = plx_put32(131072 - 6);
    rig_must(&r, 1, cmd);
    for (unsigned i = 0; i < 3; i++)
        range[i] = (struct nvme_copy_range){.nlb = plx_put16(63)};
    cmd.cdw12 = plx_put32(2);
    assert_int_equal(io(&r, cmd), PLX_SC_COMMAND_SIZE_LIMIT_EXCEEDED); /* MCL */
    rig_close(&r);
}

static unsigned fused(struct rig *r, uint64_t write_lba, bool alone)
{
    struct nvme_cmd compare = rig_io(r, NVME_IO_COMPARE, 20, 1, RIG_DATA);
    struct nvme_cmd write = rig_io(r, NVME_IO_WRITE, write_lba, 1, RIG_DATA + 4096);
    struct nvme_cqe cqe;
    unsigned status = 0;
    compare.flags = NVME_FUSE_FIRST;
    write.flags = NVME_FUSE_SECOND;
    rig_put_cmd(r, 1, compare);
    const uint16_t cid = r->cid;
    if (alone)
        rig_ring_sq(r, 1);
    else
        rig_put_cmd(r, 1, write);
    rig_ring_sq(r, 1);
    pcie_model_settle(r->m);
    unsigned n = 0;
    for (; rig_take(r, 1, &cqe); n++) {
        assert_int_equal(plx_get16(cqe.cid), cid + n);
        status |= (rig_status(&cqe) & ~(unsigned)NVME_STATUS_DNR) << 16 * n;
    }
    assert_int_equal(n, alone ? 1 : 2);
    pcie_model_settle(r->m);
    return status;
}

static void a_compare_is_fused_with_a_write(void **state)
{
    (void)state;
    struct pcie_model_opts o = pcie_model_defaults;
    struct rig r;
    rig_up(&r, &o, 1);
    memset(r.memory + RIG_DATA + 4096, 0x55, 512);
    assert_int_equal(fused(&r, 20, false), 0); /* zeroes so far */
    peek(&r, 20, RIG_DATA + 8192, 1);
    assert_true(is(&r, RIG_DATA + 8192, 512, 0x55));
    memset(r.memory + RIG_DATA + 4096, 0x66, 512);
    assert_int_equal(fused(&r, 20, false), PLX_SC_COMPARE_FAILURE | PLX_SC_ABORTED_FAILED_FUSED << 16);
    assert_int_equal(fused(&r, 21, false), PLX_SC_INVALID_FIELD | PLX_SC_ABORTED_FAILED_FUSED << 16);
    peek(&r, 20, RIG_DATA + 8192, 1);
    assert_true(is(&r, RIG_DATA + 8192, 512, 0x55));
    assert_int_equal(fused(&r, 20, true), PLX_SC_ABORTED_MISSING_FUSED);
    rig_complained(&r, "fused with none");
    rig_close(&r);
    o.latency = 1;
    o.shuffle = 9; /* together, whatever comes between */
    rig_up(&r, &o, 1);
    for (unsigned i = 0; i < 10; i++) {
        memset(r.memory + RIG_DATA, (int)i, 512);
        memset(r.memory + RIG_DATA + 4096, (int)i + 1, 512);
        assert_int_equal(fused(&r, 20, false), 0);
    }
    rig_close(&r);
    o.fuses = 0;
    rig_up(&r, &o, 1);
    assert_int_equal(fused(&r, 20, false), PLX_SC_INVALID_FIELD | PLX_SC_ABORTED_FAILED_FUSED << 16);
    rig_close(&r);
}

static void both_of_a_fused_operation_are_aborted(void **state)
{
    (void)state;
    struct rig r;
    struct nvme_cqe cqe;
    const struct pcie_model_fault hang = {.kind = PCIE_MODEL_HANG, .qid = 1, .opcode = PCIE_MODEL_ANY};
    rig_up(&r, NULL, 1);
    pcie_model_fault(r.m, &hang);
    struct nvme_cmd compare = rig_io(&r, NVME_IO_COMPARE, 20, 1, RIG_DATA);
    struct nvme_cmd write = rig_io(&r, NVME_IO_WRITE, 20, 1, RIG_DATA);
    compare.flags = NVME_FUSE_FIRST;
    write.flags = NVME_FUSE_SECOND;
    rig_put_cmd(&r, 1, compare);
    struct nvme_cmd abort_it = {.opcode = PM_ABORT, .cdw10 = plx_put32(1 | (uint32_t)r.cid << 16)};
    rig_put_cmd(&r, 1, write);
    rig_ring_sq(&r, 1);
    pcie_model_settle(r.m);
    assert_int_equal(pcie_model_held(r.m), 2);
    rig_must(&r, 0, abort_it);
    pcie_model_settle(r.m);
    assert_true(rig_take(&r, 1, &cqe));
    assert_int_equal(rig_status(&cqe), PLX_SC_ABORTED_BY_REQUEST);
    assert_true(rig_take(&r, 1, &cqe));
    assert_int_equal(rig_status(&cqe), PLX_SC_ABORTED_FAILED_FUSED);
    rig_close(&r);
}

static void some_commands_have_limits_of_their_own(void **state)
{
    (void)state;
    struct pcie_model_opts o = pcie_model_defaults;
    struct rig r;
    o.wzsl = 1; /* 8 KiB */
    o.vsl = 2;
    rig_up(&r, &o, 1);
    rig_must(&r, 1, rig_io(&r, NVME_IO_WRITE_ZEROES, 0, 16, RIG_DATA));
    assert_int_equal(io(&r, rig_io(&r, NVME_IO_WRITE_ZEROES, 0, 17, RIG_DATA)), PLX_SC_INVALID_FIELD);
    rig_complained(&r, "limit");
    rig_must(&r, 1, rig_io(&r, NVME_IO_VERIFY, 0, 32, RIG_DATA));
    assert_int_equal(io(&r, rig_io(&r, NVME_IO_VERIFY, 0, 33, RIG_DATA)), PLX_SC_INVALID_FIELD);
    rig_complained(&r, "limit");
    rig_close(&r);
    o.wzsl = 0;
    rig_up(&r, &o, 1);
    rig_must(&r, 1, rig_io(&r, NVME_IO_WRITE_ZEROES, 0, 65536, RIG_DATA));
    rig_close(&r);
}

/* One of a type 1, whose host makes the tuples: they come in memory of their own. */
static void protection_information_is_checked(void **state)
{
    (void)state;
    struct pcie_model_opts o = pcie_model_defaults;
    struct rig r;
    o.ns[0].metadata = 8;
    o.ns[0].pi = 1;
    rig_up(&r, &o, 1);
    uint8_t *md = r.memory + RIG_DATA + 4096;
    struct nvme_cmd cmd = rig_io(&r, NVME_IO_WRITE, 7, 1, RIG_DATA);
    const uint32_t cdw12 = plx_get32(cmd.cdw12);
    memset(r.memory + RIG_DATA, 0, 4096);
    memcpy(r.memory + RIG_DATA, "123456789", 9);
    cmd.mptr = plx_put64(RIG_BASE + RIG_DATA + 4096);
    cmd.cdw14 = plx_put32(7);
    cmd.cdw15 = plx_put32(0x00ff1234);
    cmd.cdw12 = plx_put32(cdw12 | 7u << 26);
    const uint64_t guard = pcie_model_guard(r.m, 1, r.memory + RIG_DATA, md);
    const uint8_t right[8] = {(uint8_t)(guard >> 8), (uint8_t)guard, 0xab, 0x34, 0, 0, 0, 7};
    for (unsigned byte = 0; byte < 8; byte++) { /* the upper byte of the application tag is masked */
        const uint16_t status = byte < 2 ? 0x282 : byte == 2 ? 0 : byte == 3 ? 0x283 : 0x284;
        memcpy(md, right, 8);
        md[byte] ^= 0x10;
        assert_int_equal(io(&r, cmd), status);
    }
    memcpy(md, right, 8);
    rig_must(&r, 1, cmd);
    cmd.opcode = NVME_IO_READ;
    memset(md, 0, 8);
    rig_must(&r, 1, cmd);
    assert_memory_equal(md, right, 8);
    pcie_model_flip(r.m, 1, 7, 100, 3);
    assert_int_equal(io(&r, cmd), 0x282);
    cmd.opcode = NVME_IO_VERIFY;
    assert_int_equal(io(&r, cmd), 0x282);
    cmd.opcode = NVME_IO_READ;
    cmd.cdw12 = plx_put32(cdw12); /* checks nothing */
    rig_must(&r, 1, cmd);
    cmd.cdw12 = plx_put32(cdw12 | 1u << 26);
    cmd.cdw14 = plx_put32(8); /* of type 1 it is that of the block */
    assert_int_equal(io(&r, cmd), PLX_SC_INVALID_PROTECTION_INFORMATION);
    rig_complained(&r, "invalid protection information");
    rig_close(&r);
}

/* PRACT, and the check values of the specification: NVM 5.3.1 */
static void protection_information_is_made(void **state)
{
    (void)state;
    struct pcie_model_opts o = pcie_model_defaults;
    struct rig r;
    uint8_t md[16];
    o.ctratt = PCIE_MODEL_CTRATT_ELBAS;
    o.ns[0] = (struct pcie_model_ns){.nsid = 1, .block_bits = 12, .blocks = 100, .metadata = 16, .pi = 1, .pif = 2};
    rig_up(&r, &o, 1);
    r.m->features[PM_FID_BEHAVIOR] = 1;
    struct nvme_cmd cmd = rig_io(&r, NVME_IO_WRITE, 7, 1, RIG_DATA);
    memset(r.memory + RIG_DATA, 0, 4096);
    cmd.cdw12 = plx_put32(plx_get32(cmd.cdw12) | 8u << 26);
    cmd.cdw14 = plx_put32(7);
    cmd.cdw3 = plx_put32(0x1234);
    rig_must(&r, 1, cmd);
    pcie_model_metadata(r.m, 1, 7, md);
    assert_memory_equal(md, "\x64\x82\xd3\x67\xeb\x22\xb6\x4e\0\0\x12\x34\0\0\0\7", 16);
    memset(r.memory + RIG_DATA, 0xff, 4096);
    rig_must(&r, 1, cmd);
    pcie_model_metadata(r.m, 1, 7, md);
    assert_memory_equal(md, "\xc0\xdd\xba\x73\x02\xec\xa3\xac", 8);
    r.m->features[PM_FID_BEHAVIOR] = 0;
    assert_int_equal(io(&r, cmd), PLX_SC_INVALID_NAMESPACE_OR_FORMAT);
    rig_complained(&r, "its format");
    rig_close(&r);
}

/* ---- PRP ---- */

static struct nvme_cmd with_prp(struct rig *r, unsigned blocks, uint64_t prp1, uint64_t prp2)
{
    struct nvme_cmd cmd = rig_io(r, NVME_IO_WRITE, 0, 1, RIG_DATA);
    const uint64_t prp[2] = {htole64(prp1), htole64(prp2)};
    memcpy(&cmd.sgl, prp, sizeof prp);
    cmd.cdw12 = plx_put32(blocks - 1);
    return cmd;
}

static void prp_entries_are_checked(void **state)
{
    (void)state;
    struct rig r;
    rig_up(&r, NULL, 1);
    uint64_t *list = (void *)(r.memory + RIG_LIST);
    const uint64_t data = RIG_BASE + RIG_DATA, at = RIG_BASE + RIG_LIST;
    static const struct {
        unsigned blocks;
        uint64_t prp1, prp2;
        unsigned status;
        const char *part;
    } tries[] = {
        {1, 2, 0, PM_SC_PRP_OFFSET, "4 bytes"},
        {16, 0, 0x1004, PM_SC_PRP_OFFSET, "the second"},
        {24, 0, 4, PM_SC_PRP_OFFSET, "8 bytes"},
        {8, 0x100000000, 0, PLX_SC_DATA_TRANSFER_ERROR, "nothing mapped"},
        {16, 0, 0x100000000, PLX_SC_DATA_TRANSFER_ERROR, "nothing mapped"},
        {24, 0, 0x100000000, PLX_SC_DATA_TRANSFER_ERROR, "PRP list"},
    };
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(tries); i++) {
        assert_int_equal(io(&r, with_prp(&r, tries[i].blocks, data + tries[i].prp1,
                                         (tries[i].blocks == 24 ? at : data) + tries[i].prp2)),
                         tries[i].status);
        rig_complained(&r, tries[i].part);
    }
    list[0] = htole64(data + 4096);
    list[1] = htole64(data + 8192 + 512);
    assert_int_equal(io(&r, with_prp(&r, 24, data, at)), PM_SC_PRP_OFFSET);
    rig_complained(&r, "has an offset");
    rig_must(&r, 1, with_prp(&r, 8, data, 1)); /* the second is not looked at */
    rig_must(&r, 1, with_prp(&r, 7, data + 512, 1));
    assert_int_equal(io(&r, rig_io(&r, NVME_IO_WRITE, 0, 257, RIG_DATA)), PLX_SC_INVALID_FIELD);
    rig_complained(&r, "limit");
    rig_close(&r);
}

/* Lists that begin anywhere, and go on at the end of a page unless the last entry fits there. */
static void prp_lists_go_on_at_the_end_of_a_page(void **state)
{
    (void)state;
    struct rig r;
    rig_up(&r, NULL, 1);
    uint8_t *got = malloc(8 * 4096);
    for (unsigned room = 1; room <= 8; room++) { /* entries until the page ends */
        uint64_t *list = (void *)(r.memory + RIG_LIST + 4096 - 8 * room);
        for (unsigned i = 1; i < 8; i++) { /* seven pages behind the first */
            if (list == (void *)(r.memory + RIG_LIST + 4096 - 8) && i < 7) {
                *list = htole64(RIG_BASE + RIG_LIST + 0x4000);
                list = (void *)(r.memory + RIG_LIST + 0x4000);
            }
            *list++ = htole64(RIG_BASE + RIG_DATA + ((i * 5 % 8) << 12)); /* not in order */
        }
        rig_pattern(&r, RIG_DATA, 8 * 4096, room);
        rig_must(&r, 1, with_prp(&r, 64, RIG_BASE + RIG_DATA, RIG_BASE + RIG_LIST + 4096 - 8 * room));
        pcie_model_peek(r.m, 1, 0, got, 8 * 4096);
        for (unsigned i = 0; i < 8; i++)
            assert_memory_equal(got + i * 4096, r.memory + RIG_DATA + (i * 5 % 8) * 4096, 4096);
    }
    uint64_t *last = (void *)(r.memory + RIG_LIST + 4096 - 8);
    *last = htole64(RIG_BASE + RIG_LIST + 0x4008);
    assert_int_equal(io(&r, with_prp(&r, 64, RIG_BASE + RIG_DATA, RIG_BASE + RIG_LIST + 4088)), PM_SC_PRP_OFFSET);
    rig_complained(&r, "has an offset");
    free(got);
    rig_close(&r);
}

static void pages_may_be_of_64_kib(void **state)
{
    (void)state;
    struct pcie_model_opts o = pcie_model_defaults;
    struct rig r;
    o.mpsmin = o.mpsmax = 4;
    o.mdts = 0;
    rig_open(&r, &o);
    rig_write_admin_registers(&r);
    rig_put(&r, PM_ACQ, RIG_BASE + 0x10000); /* queues are aligned to it, */
    rig_put(&r, PM_CC, 0x00460001 | 4 << 7);
    assert_true(rig_wait_csts(&r, ~0u, PM_CSTS_RDY));
    r.q[0].cq = 0x10000;
    struct nvme_cmd cmd = rig_cmd(&r, PM_IDENTIFY, 0, RIG_ADMIN + 0xf000, 4096);
    cmd.cdw10 = plx_put32(1);
    rig_must(&r, 0, cmd);
    cmd = (struct nvme_cmd){.opcode = PM_CREATE_CQ, .cdw10 = plx_put32(7 << 16 | 1), .cdw11 = plx_put32(1)};
    cmd.sgl.address = plx_put64(RIG_BASE + 0x21000);
    assert_int_equal(rig_do(&r, 0, cmd, NULL), PM_SC_PRP_OFFSET | NVME_STATUS_DNR);
    rig_complained(&r, "not aligned");
    cmd.sgl.address = plx_put64(RIG_BASE + 0xb0000);
    rig_must(&r, 0, cmd);
    cmd.opcode = PM_CREATE_SQ;
    cmd.sgl.address = plx_put64(RIG_BASE + 0xc0000);
    cmd.cdw11 = plx_put32(1 | 1 << 16);
    rig_must(&r, 0, cmd);
    r.q[1] = (struct rig_queue){.phase = 1, .size = RIG_DEPTH, .sq = 0xc0000, .cq = 0xb0000};
    rig_pattern(&r, RIG_DATA + 512, 0x30000, 7); /* and so is data: PRP1, and a list of three */
    rig_must(&r, 1, rig_io(&r, NVME_IO_WRITE, 0, 0x30000 / 512, RIG_DATA + 512));
    uint8_t *got = malloc(0x30000);
    pcie_model_peek(r.m, 1, 0, got, 0x30000);
    assert_memory_equal(got, r.memory + RIG_DATA + 512, 0x30000);
    free(got);
    rig_close(&r);
}

/* ---- SGL ---- */

static struct nvme_sgl sgl(unsigned type, unsigned at, uint32_t bytes)
{
    return (struct nvme_sgl){.address = plx_put64(RIG_BASE + at), .length = plx_put32(bytes), .type = (uint8_t)type};
}

static struct nvme_cmd with_sgl(struct rig *r, unsigned blocks, struct nvme_sgl first)
{
    struct nvme_cmd cmd = rig_io(r, NVME_IO_WRITE, 0, blocks, RIG_DATA);
    cmd.flags = NVME_PSDT_SGL;
    cmd.sgl = first;
    return cmd;
}

static void data_is_where_an_sgl_says(void **state)
{
    (void)state;
    struct rig r;
    uint8_t got[1024];
    rig_up(&r, NULL, 1);
    struct nvme_sgl *list = (void *)(r.memory + RIG_LIST), *more = (void *)(r.memory + RIG_LIST + 0x1000);
    rig_pattern(&r, RIG_DATA, 4096, 1);
    rig_must(&r, 1, with_sgl(&r, 2, sgl(0, RIG_DATA + 1, 1024)));
    pcie_model_peek(r.m, 1, 0, got, 1024);
    assert_memory_equal(got, r.memory + RIG_DATA + 1, 1024);
    list[0] = sgl(0, RIG_DATA + 100, 24);
    list[1] = sgl(0, RIG_DATA + 2000, 0);
    list[2] = sgl(0x30, RIG_LIST + 0x1000, 32);
    more[0] = sgl(0, RIG_DATA + 7, 500);
    more[1] = sgl(0, RIG_DATA + 3000, 500);
    rig_must(&r, 1, with_sgl(&r, 2, sgl(0x20, RIG_LIST, 48)));
    pcie_model_peek(r.m, 1, 0, got, 1024);
    assert_memory_equal(got, r.memory + RIG_DATA + 100, 24);
    assert_memory_equal(got + 24, r.memory + RIG_DATA + 7, 500);
    assert_memory_equal(got + 524, r.memory + RIG_DATA + 3000, 500);
    rig_must(&r, 1, with_sgl(&r, 1, sgl(0, RIG_DATA, 1024))); /* longer: SGLS allows */
    rig_close(&r);
}

static void an_sgl_is_checked(void **state)
{
    (void)state;
    struct pcie_model_opts o = pcie_model_defaults;
    struct rig r;
    o.sgls = 2;
    o.max_sgl = 3;
    rig_up(&r, &o, 1);
    struct nvme_sgl *list = (void *)(r.memory + RIG_LIST);
    static const struct {
        unsigned type, at;
        uint32_t bytes;
        unsigned status;
    } tries[] = {
        {0x00, RIG_DATA + 2, 512, PM_SC_SGL_GRANULARITY},
        {0x00, RIG_DATA, 1024, PLX_SC_DATA_SGL_LENGTH_INVALID},
        {0x00, RIG_DATA, 508, PLX_SC_DATA_SGL_LENGTH_INVALID},
        {0x01, RIG_DATA, 512, PLX_SC_SGL_DESCRIPTOR_TYPE_INVALID},
        {0x10, RIG_DATA, 512, PLX_SC_SGL_DESCRIPTOR_TYPE_INVALID},
        {0x30, RIG_LIST, 8, PLX_SC_INVALID_SGL_SEGMENT},
        {0x30, RIG_LIST, 0, PLX_SC_INVALID_SGL_SEGMENT},
        {0x30, RIG_LIST + 4, 16, PLX_SC_INVALID_SGL_SEGMENT},
        {0x20, RIG_LIST, 16, PLX_SC_INVALID_SGL_SEGMENT}, /* and no other after it */
        {0x30, RIG_LIST, 64, PLX_SC_INVALID_NUMBER_OF_SGL_DESCRIPTORS},
        {0x30, RIG_LIST + 0x100, 16, PLX_SC_INVALID_SGL_SEGMENT}, /* a segment in the last one */
        {0x20, RIG_LIST + 0x200, 32, PLX_SC_INVALID_SGL_SEGMENT}, /* one that is not the last descriptor */
        {0x30, RIG_BYTES, 16, PLX_SC_DATA_TRANSFER_ERROR},
        {0x00, RIG_BYTES - 256, 512, PLX_SC_DATA_TRANSFER_ERROR},
    };
    list[0] = sgl(0, RIG_DATA, 512);
    list[1] = list[2] = list[3] = sgl(0, RIG_DATA, 0);
    list[0x10] = sgl(0x30, RIG_LIST, 16);
    list[0x20] = sgl(0x30, RIG_LIST, 16);
    list[0x21] = sgl(0, RIG_DATA, 0);
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(tries); i++) {
        assert_int_equal(io(&r, with_sgl(&r, 1, sgl(tries[i].type, tries[i].at, tries[i].bytes))), tries[i].status);
        rig_complained(&r, "");
    }
    struct nvme_cmd cmd = rig_cmd(&r, PM_IDENTIFY, 0, RIG_ADMIN, 4096);
    cmd.flags = NVME_PSDT_SGL;
    assert_int_equal(rig_do(&r, 0, cmd, NULL), PLX_SC_INVALID_FIELD | NVME_STATUS_DNR);
    rig_complained(&r, "with an SGL");
    rig_close(&r);
    o.sgls = 0;
    rig_up(&r, &o, 1);
    assert_int_equal(io(&r, with_sgl(&r, 1, sgl(0, RIG_DATA, 512))), PLX_SC_INVALID_FIELD);
    rig_complained(&r, "where there is none");
    rig_close(&r);
}

/* ---- addresses ---- */

static void maps_are_checked(void **state)
{
    (void)state;
    static const struct pci_range ranges[] = {{0x10000, 0xfffff}, {0x200000, 0x2fffff}};
    struct pcie_model_iommu *u = pcie_model_iommu_new(ranges, 2, 65536);
    uint8_t *memory = mmap(NULL, 1 << 21, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint8_t *at = (uint8_t *)(uintptr_t)plx_align_up((uintptr_t)memory, 65536);
    static const struct {
        unsigned off;
        size_t bytes;
        uint64_t iova;
        int result;
    } tries[] = {
        {0, 0x10000, 0, -EINVAL},
        {0, 0, 0x10000, -EINVAL},
        {0, 0x8000, 0x10000, -EINVAL},
        {0x8000, 0x10000, 0x10000, -EINVAL},
        {0, 0x10000, 0x18000, -EINVAL},
        {0, 0x100000, 0x10000, -EINVAL},
        {0, 0x20000, 0xf0000, -EINVAL},
        {0, 0x10000, 0x100000, -EINVAL},
        {0, 0x10000, ~UINT64_C(0xffff), -EINVAL},
        {0, 0x20000, 0x20000, 0},
        {0, 0x10000, 0x20000, -EEXIST},
        {0, 0x10000, 0x30000, -EEXIST},
        {0, 0x20000, 0x10000, -EEXIST},
        {0, 0xf0000, 0x10000, -EEXIST},
        {0, 0x10000, 0x40000, 0},
        {0, 0x10000, 0x10000, 0},
        {0, 0x100000, 0x200000, 0},
    };
    unsigned complaints = 0;
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(tries); i++) {
        assert_int_equal(u->is.ops->map(&u->is, at + tries[i].off, tries[i].bytes, tries[i].iova), tries[i].result);
        complaints += tries[i].result != 0;
        assert_int_equal(u->complaints.n, complaints);
    }
    assert_int_equal(u->nmaps, 4);
    u->is.ops->unmap(&u->is, 0x20000, 0x10000); /* a part */
    u->is.ops->unmap(&u->is, 0x50000, 0x10000); /* nothing */
    u->is.ops->unmap(&u->is, 0x10000, 0);
    assert_int_equal(u->complaints.n, complaints + 3);
    u->is.ops->unmap(&u->is, 0x10000, 0x40000); /* three at once */
    u->is.ops->unmap(&u->is, 0x200000, 0x100000);
    assert_int_equal(u->complaints.n, complaints + 3);
    assert_int_equal(u->nmaps, 0);
    assert_int_equal(u->bytes, 0);
    pcie_model_iommu_free(u);
    munmap(memory, 1 << 21);
}

static void maps_have_limits_and_holders(void **state)
{
    (void)state;
    struct pcie_model_iommu *u = pcie_model_iommu_new(NULL, 0, 65536);
    uint8_t *memory = mmap(NULL, 1 << 18, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint8_t *at = (uint8_t *)(uintptr_t)plx_align_up((uintptr_t)memory, 65536);
    for (unsigned i = 100; i--;)
        assert_int_equal(u->is.ops->map(&u->is, at, 0x10000, 0x200000 + i * 0x10000), 0);
    assert_int_equal(u->nmaps, 100);
    for (unsigned i = 0; i < 100; i += 2)
        u->is.ops->unmap(&u->is, 0x200000 + i * 0x10000, 0x10000);
    for (unsigned i = 1; i < 100; i += 2)
        u->is.ops->unmap(&u->is, 0x200000 + i * 0x10000, 0x10000);
    assert_int_equal(u->complaints.n, 0);
    assert_int_equal(u->nmaps, 0);
    u->limit = 0x10000;
    assert_int_equal(u->is.ops->map(&u->is, at, 0x20000, 0x10000), -ENOMEM);
    u->fail_next = 1;
    assert_int_equal(u->is.ops->map(&u->is, at, 0x10000, 0x10000), -ENOMEM);
    assert_int_equal(u->is.ops->map(&u->is, at, 0x10000, 0x10000), 0);
    u->limit = 0;
    u->max_maps = 1;
    assert_int_equal(u->is.ops->map(&u->is, at, 0x10000, 0x20000), -ENOSPC);
    assert_int_equal(u->complaints.n, 0); /* these are nobody's mistake */
    u->is.ops->release(&u->is);
    assert_int_equal(u->complaints.n, 1); /* nobody holds it */
    u->is.ops->hold(&u->is);
    u->is.ops->hold(&u->is);
    u->is.ops->release(&u->is);
    assert_int_equal(u->complaints.n, 1);
    u->is.ops->release(&u->is);
    assert_int_equal(u->complaints.n, 2); /* something is still mapped */
    pcie_model_iommu_free(u);
    munmap(memory, 1 << 18);
}

static void data_may_lie_in_several_maps(void **state)
{
    (void)state;
    struct rig r;
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const uint64_t iova = 0x80000000;
    uint8_t *memory = mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), got[4096];
    rig_up(&r, NULL, 1);
    struct pci_iommu *u = r.f->iommu;
    for (unsigned i = 0; i < 4; i++) { /* backwards */
        assert_int_equal(u->ops->map(u, memory + (3 - i) * page, page, iova + i * page), 0);
        memset(memory + (3 - i) * page, (int)i + 1, page);
    }
    struct nvme_cmd cmd = rig_io(&r, NVME_IO_WRITE, 0, 8, RIG_DATA);
    cmd.flags = NVME_PSDT_SGL;
    cmd.sgl = (struct nvme_sgl){.address = plx_put64(iova + page - 2048), .length = plx_put32(4096)};
    rig_must(&r, 1, cmd);
    pcie_model_peek(r.m, 1, 0, got, 4096);
    assert_int_equal(got[0], 1);
    assert_int_equal(got[2047], 1);
    assert_int_equal(got[2048], 2);
    assert_int_equal(got[4095], 2);
    u->ops->unmap(u, iova + page, page);
    assert_int_equal(io(&r, cmd), PLX_SC_DATA_TRANSFER_ERROR);
    rig_complained(&r, "nothing mapped");
    u->ops->unmap(u, iova, page);
    u->ops->unmap(u, iova + 2 * page, 2 * page);
    munmap(memory, 4 * page);
    rig_close(&r);
}

static void it_may_reach_less_than_is_mapped(void **state)
{
    (void)state;
    struct pcie_model_opts o = pcie_model_defaults;
    struct rig r;
    o.dma_bits = 29;
    rig_up(&r, &o, 1);
    struct pci_iommu *u = r.f->iommu;
    assert_int_equal(u->ops->map(u, r.memory, RIG_BYTES, 1 << 29), 0);
    struct nvme_cmd cmd = rig_io(&r, NVME_IO_WRITE, 0, 1, RIG_DATA);
    rig_must(&r, 1, cmd);
    cmd.sgl.address = plx_put64(1 << 29);
    assert_int_equal(io(&r, cmd), PLX_SC_DATA_TRANSFER_ERROR);
    rig_complained(&r, "nothing mapped");
    u->ops->unmap(u, 1 << 29, RIG_BYTES);
    rig_close(&r);
}

static void queues_that_are_unmapped_are_found_out(void **state)
{
    (void)state;
    struct rig r;
    rig_up(&r, NULL, 1);
    struct pci_iommu *u = r.f->iommu;
    u->ops->unmap(u, RIG_BASE, RIG_BYTES);
    rig_put_cmd(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA));
    rig_ring_sq(&r, 1);
    pcie_model_settle(r.m);
    rig_complained(&r, "SQ: 64 bytes");
    assert_true(rig_get(&r, PM_CSTS) & PM_CSTS_CFS);
    assert_int_equal(u->ops->map(u, r.memory, RIG_BYTES, RIG_BASE), 0);
    rig_disable(&r);
    rig_enable(&r);
    rig_queues(&r, 1);
    const struct pcie_model_fault hang = {.kind = PCIE_MODEL_HANG, .qid = 1, .opcode = PCIE_MODEL_ANY};
    pcie_model_fault(r.m, &hang);
    rig_put_cmd(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA));
    rig_ring_sq(&r, 1);
    pcie_model_settle(r.m);
    u->ops->unmap(u, RIG_BASE, RIG_BYTES);
    pcie_model_release(r.m);
    pcie_model_settle(r.m);
    rig_complained(&r, "CQ: 16 bytes");
    assert_true(rig_get(&r, PM_CSTS) & PM_CSTS_CFS);
    assert_int_equal(u->ops->map(u, r.memory, RIG_BYTES, RIG_BASE), 0);
    rig_close(&r);
}

/* ---- doorbell buffers: Base 5.2.5 ---- */

static uint32_t *shadow(struct rig *r, unsigned bell)
{
    return (uint32_t *)(void *)(r->memory + RIG_SHADOW) + bell;
}

static uint32_t *event_idx(struct rig *r, unsigned bell)
{
    return (uint32_t *)(void *)(r->memory + RIG_SHADOW + 0x1000) + bell;
}

/* As a host does it. @return whether it wrote the doorbell in the registers */
static bool shadow_ring(struct rig *r, unsigned bell, uint16_t value)
{
    const uint16_t old = (uint16_t)__atomic_exchange_n(shadow(r, bell), value, __ATOMIC_SEQ_CST);
    const uint16_t event = (uint16_t)__atomic_load_n(event_idx(r, bell), __ATOMIC_SEQ_CST);
    if ((uint16_t)(value - event - 1) >= (uint16_t)(value - old))
        return false;
    rig_put(r, PM_BELLS + 4 * bell, value);
    return true;
}

static void doorbell_buffers_spare_doorbells(void **state)
{
    (void)state;
    struct pcie_model_opts o = pcie_model_defaults;
    struct rig r;
    struct nvme_cqe cqe;
    rig_open(&r, &o);
    rig_enable(&r);
    struct nvme_cmd cmd = {.opcode = PM_DBBUF};
    const uint64_t prp[2] = {htole64(RIG_BASE + RIG_SHADOW), htole64(RIG_BASE + RIG_SHADOW + 0x1000)};
    memcpy(&cmd.sgl, prp, sizeof prp);
    assert_int_equal(rig_do(&r, 0, cmd, NULL), PLX_SC_INVALID_OPCODE | NVME_STATUS_DNR);
    rig_close(&r);
    o.oacs |= PCIE_MODEL_OACS_DBBUF;
    rig_open(&r, &o);
    rig_enable(&r);
    rig_must(&r, 0, cmd);
    rig_queues(&r, 1); /* the admin queue goes on as before */
    pcie_model_settle(r.m);
    unsigned rung = 0, sent = 0;
    for (unsigned i = 0; i < 100; i++) {
        rig_put_cmd(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA));
        rung += shadow_ring(&r, 2, (uint16_t)r.q[1].tail);
        if (++sent % 4)
            pcie_model_step(r.m);
        else
            pcie_model_settle(r.m); /* until it sleeps */
        struct rig_queue q = r.q[1];
        while (__atomic_load_n((uint32_t *)(void *)(r.memory + q.cq + q.head * 16 + 12), __ATOMIC_ACQUIRE) >> 16 % 2) {
            const uint32_t last = *(uint32_t *)(void *)(r.memory + q.cq + q.head * 16 + 12);
            if ((last >> 16 & 1) != q.phase)
                break;
            q.head = (q.head + 1) % q.size;
            q.phase ^= q.head == 0;
        }
        if (q.head != r.q[1].head)
            shadow_ring(&r, 3, (uint16_t)q.head);
        r.q[1] = q;
    }
    pcie_model_settle(r.m);
    assert_false(rig_take(&r, 1, &cqe));
    assert_int_equal(pcie_model_count(r.m, 1, NVME_IO_FLUSH), 100);
    assert_int_equal(pcie_model_held(r.m), 0);
    assert_int_equal(rung, 25); /* each time that it slept */
    assert_int_equal(*event_idx(&r, 2), r.q[1].tail);
    rig_put_cmd(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA));
    *shadow(&r, 2) = r.q[1].tail; /* a host that forgets the doorbell waits for ever */
    pcie_model_settle(r.m);
    assert_int_equal(pcie_model_count(r.m, 1, NVME_IO_FLUSH), 100);
    rig_put(&r, PM_BELLS + 8, r.q[1].tail);
    pcie_model_settle(r.m);
    assert_int_equal(pcie_model_count(r.m, 1, NVME_IO_FLUSH), 101);
    *shadow(&r, 2) = RIG_DEPTH;
    rig_put(&r, PM_BELLS + 8, RIG_DEPTH);
    pcie_model_settle(r.m);
    rig_complained(&r, "beyond its end");
    rig_close(&r);
}

static void a_full_queue_wakes_up_by_its_doorbell(void **state)
{
    (void)state;
    struct pcie_model_opts o = pcie_model_defaults;
    struct rig r;
    o.oacs |= PCIE_MODEL_OACS_DBBUF;
    rig_open(&r, &o);
    rig_enable(&r);
    struct nvme_cmd cmd = {.opcode = PM_DBBUF};
    const uint64_t prp[2] = {htole64(RIG_BASE + RIG_SHADOW), htole64(RIG_BASE + RIG_SHADOW + 0x1000)};
    memcpy(&cmd.sgl, prp, sizeof prp);
    rig_must(&r, 0, cmd);
    rig_queues(&r, 1);
    for (unsigned i = 0; i < 3; i++) {
        rig_put_cmd(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA));
        shadow_ring(&r, 2, (uint16_t)r.q[1].tail);
    }
    pcie_model_settle(r.m);
    shadow_ring(&r, 3, 3);
    for (unsigned i = 0; i < 2 * (RIG_DEPTH - 1); i++) { /* twice as many as its completions have room for */
        rig_put_cmd(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA));
        shadow_ring(&r, 2, (uint16_t)r.q[1].tail);
        pcie_model_settle(r.m);
    }
    assert_int_equal(pcie_model_held(r.m), RIG_DEPTH - 1);
    assert_int_equal(*event_idx(&r, 3), 3);
    *shadow(&r, 3) = 2; /* without the doorbell that it wants */
    pcie_model_settle(r.m);
    assert_int_equal(pcie_model_held(r.m), RIG_DEPTH - 1);
    *shadow(&r, 3) = 3;
    assert_true(shadow_ring(&r, 3, 2));
    pcie_model_settle(r.m);
    assert_int_equal(pcie_model_held(r.m), 0);
    rig_close(&r);
}

/* ---- for measurements ---- */

static void all_are_completed_at_once(void **state)
{
    (void)state;
    struct rig r;
    struct nvme_cqe cqe;
    unsigned sent = 0, taken = 0;
    rig_up(&r, NULL, 2);
    assert_int_equal(pcie_model_complete_all(r.m, 1), 0);
    for (unsigned i = 0; i < 40; i++) {
        unsigned n = 0;
        for (; n < 1 + i % (RIG_DEPTH - 1); n++)
            rig_put_cmd(&r, 1, rig_io(&r, NVME_IO_READ, 1u << 30, 1, RIG_DATA)); /* it does not look */
        rig_ring_sq(&r, 1);
        assert_int_equal(pcie_model_complete_all(r.m, 1), n);
        assert_int_equal(pcie_model_complete_all(r.m, 1), 0);
        assert_int_equal(rig_irqs(&r, 1), 1);
        for (; rig_take(&r, 1, &cqe); taken++) {
            assert_int_equal(plx_get16(cqe.cid), (uint16_t)(r.cid - n + 1 + taken - sent));
            assert_int_equal(rig_status(&cqe), 0);
            assert_int_equal(plx_get16(cqe.sqid), 1);
        }
        sent += n;
        assert_int_equal(taken, sent);
        assert_int_equal(plx_get16(cqe.sqhd), r.q[1].tail);
    }
    pcie_model_settle(r.m); /* and as before */
    rig_must(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA));
    uint8_t *moved = mmap(NULL, RIG_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *old = r.memory;
    struct pci_iommu *u = r.f->iommu;
    memcpy(moved, old, RIG_BYTES); /* it looks where the queues are once more when that changes */
    u->ops->unmap(u, RIG_BASE, RIG_BYTES);
    assert_int_equal(u->ops->map(u, moved, RIG_BYTES, RIG_BASE), 0);
    r.memory = moved;
    rig_put_cmd(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA));
    rig_ring_sq(&r, 1);
    memset(moved + r.q[1].cq + r.q[1].head * sizeof cqe, 0xff, 8);
    assert_int_equal(pcie_model_complete_all(r.m, 1), 1);
    assert_true(rig_take(&r, 1, &cqe));
    assert_int_equal(plx_get32(cqe.dw0), 0);
    munmap(old, RIG_BYTES);
    for (unsigned round = 0; round < 2; round++) { /* no further than there is room */
        for (unsigned i = 0; i < RIG_DEPTH - 1; i++)
            rig_put_cmd(&r, 1, rig_io(&r, NVME_IO_FLUSH, 0, 1, RIG_DATA));
        rig_ring_sq(&r, 1);
        assert_int_equal(pcie_model_complete_all(r.m, 1), round ? 0 : RIG_DEPTH - 1);
    }
    assert_true(rig_take(&r, 1, &cqe));
    assert_int_equal(pcie_model_complete_all(r.m, 1), 1);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_writes_and_reads),
        cmocka_unit_test(other_commands_do_what_they_are_for),
        cmocka_unit_test(ranges_are_deallocated),
        cmocka_unit_test(blocks_are_copied),
        cmocka_unit_test(a_compare_is_fused_with_a_write),
        cmocka_unit_test(both_of_a_fused_operation_are_aborted),
        cmocka_unit_test(some_commands_have_limits_of_their_own),
        cmocka_unit_test(protection_information_is_checked),
        cmocka_unit_test(protection_information_is_made),
        cmocka_unit_test(prp_entries_are_checked),
        cmocka_unit_test(prp_lists_go_on_at_the_end_of_a_page),
        cmocka_unit_test(pages_may_be_of_64_kib),
        cmocka_unit_test(data_is_where_an_sgl_says),
        cmocka_unit_test(an_sgl_is_checked),
        cmocka_unit_test(maps_are_checked),
        cmocka_unit_test(maps_have_limits_and_holders),
        cmocka_unit_test(data_may_lie_in_several_maps),
        cmocka_unit_test(it_may_reach_less_than_is_mapped),
        cmocka_unit_test(queues_that_are_unmapped_are_found_out),
        cmocka_unit_test(doorbell_buffers_spare_doorbells),
        cmocka_unit_test(a_full_queue_wakes_up_by_its_doorbell),
        cmocka_unit_test(all_are_completed_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
