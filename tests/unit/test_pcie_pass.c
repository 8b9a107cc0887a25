/* SPDX-License-Identifier: BSD-3-Clause */
/* Commands that somebody else has made: by the public call, and the memory that SSDs reach by them. */
#include "bdev_util.h"
#include "nvme/pcie.h"
#include "pcie_model.h"

#include <errno.h>
#include <pollux/nvme.h>
#include <string.h>

#define ADDR "0000:01:00.0"
#define URL "pcie://" ADDR "/1"

enum { PAGE = 4096, BLOCK = 512, LIMIT_MS = 20000, FAR_BEYOND = 3 << 20 };

static struct pcie_model *model_new(const struct pcie_model_opts *o)
{
    pci_open = pcie_model_open;
    struct pcie_model *m = pcie_model_new(o);
    pcie_model_start_thread(m);
    return m;
}

static void model_end(struct pcie_model *m)
{
    assert_false(pcie_model_is_open(m));
    assert_string_equal(pcie_model_complaint(m, 0), "");
    pcie_model_free(m);
}

/* ---- what a controller reaches, whatever it takes a command's length to be ---- */

static uint64_t entry_at(const struct pcie_guard *g, uint64_t iova)
{
    plx_le64 entry;
    assert_in_range(iova, g->memory.iova, g->memory.iova + g->memory.bytes - sizeof entry);
    memcpy(&entry, g->memory.at + (iova - g->memory.iova), sizeof entry);
    return plx_get64(entry);
}

static void reach(const struct pcie_guard *g, uint64_t iova, uint64_t at, uint64_t n, uint32_t len)
{
    assert_in_range(iova, g->memory.iova, g->memory.iova + g->memory.bytes - n);
    if (at < len) /* what belongs to the data is at its place */
        assert_int_equal(iova - g->memory.iova + (uintptr_t)g->memory.at, (uintptr_t)g->data + at);
}

/* As Base 4.3.1 has it: a list leads on to another by its last entry, where there is more than that one. */
static void transfer(const struct pcie_guard *g, uint64_t bytes, uint32_t len)
{
    uint64_t n = plx_min_u64(bytes, PAGE - g->first % PAGE), at = 0, list = g->list;
    if (bytes)
        reach(g, g->first, 0, n, len);
    at = n;
    if (at < bytes && bytes - at <= PAGE)
        reach(g, g->list, at, bytes - at, len);
    else
        while (at < bytes) {
            uint64_t entry = entry_at(g, list);
            if (list % PAGE == PAGE - 8 && bytes - at > PAGE) {
                list = entry;
                continue;
            }
            n = plx_min_u64(PAGE, bytes - at);
            reach(g, entry, at, n, len);
            at += n;
            list += 8;
        }
}

static void whatever_it_transfers_is_guarded(void **state)
{
    static const uint32_t lens[] = {0, 1, 512, 4092, 4096, 4104, 4608, 8188, 8192, 8193, 12288, 65536, 1 << 20};
    static const uint64_t more[] = {0, 4, 512, 4096, 8192, 12288, 65536, FAR_BEYOND};
    struct pcie_model_iommu *u = pcie_model_iommu_new(NULL, 0, 0);
    struct pci_dma *dma = pci_dma_get(&u->is);
    (void)state;
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(lens); i++) {
        struct pcie_guard g = {.dma = NULL};
        assert_int_equal(pcie_guard_make(&g, dma, lens[i], PAGE), 0);
        assert_int_equal(g.first % 4, 0);
        memset(g.data, 0xff, lens[i]); /* taken for a list it would lead out */
        for (unsigned k = 0; k < PLX_ARRAY_SIZE(more); k++)
            transfer(&g, lens[i] + more[k], lens[i]);
        pcie_guard_free(&g);
    }
    pci_dma_put(dma);
    pcie_model_iommu_free(u);
}

/* ---- the public call ---- */

static struct nvme_cmd block_command(uint8_t opcode, uint32_t lba, uint32_t blocks)
{
    return (struct nvme_cmd){.opcode = opcode,
                             .nsid = plx_put32(1),
                             .cdw10 = plx_put32(lba),
                             .cdw12 = plx_put32(blocks - 1),
                             .mptr = plx_put64(UINT64_MAX)};
}

static void commands_are_sent_by_name(void **state)
{
    struct pcie_model *m = model_new(NULL);
    struct nvme_cqe cqe;
    struct plx_error err;
    uint8_t data[20 * BLOCK], back[sizeof data], page[64];
    struct nvme_cmd cmd = block_command(NVME_IO_WRITE, 3, 20);
    (void)state;
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 7);
    assert_int_equal(plx_nvme_send(URL, false, &cmd, data, sizeof data, LIMIT_MS, &cqe, &err), 0);
    assert_int_equal(plx_get16(cqe.status), 0);
    pcie_model_peek(m, 1, 3 * BLOCK, back, sizeof back);
    assert_memory_equal(back, data, sizeof data);
    cmd.opcode = NVME_IO_READ;
    memset(back, 0, sizeof back);
    assert_int_equal(plx_nvme_send(URL, false, &cmd, back, sizeof back, LIMIT_MS, &cqe, &err), 0);
    assert_memory_equal(back, data, sizeof data);
    cmd = block_command(NVME_IO_READ, 1 << 30, 1);
    assert_int_equal(plx_nvme_send(URL, false, &cmd, back, BLOCK, LIMIT_MS, &cqe, &err), 0);
    assert_int_equal(plx_get16(cqe.status) >> 1 & 0x7ff, PLX_SC_LBA_OUT_OF_RANGE);
    cmd = (struct nvme_cmd){.opcode = NVME_ADMIN_IDENTIFY, .cdw10 = plx_put32(NVME_CNS_CTRL)};
    assert_int_equal(plx_nvme_send(URL, true, &cmd, page, sizeof page, LIMIT_MS, &cqe, &err), 0);
    assert_memory_equal(page + 4, pcie_model_defaults.serial, strlen(pcie_model_defaults.serial));
    cmd = (struct nvme_cmd){.opcode = NVME_ADMIN_ABORT};
    assert_int_equal(plx_nvme_send(URL, true, &cmd, NULL, 0, LIMIT_MS, &cqe, &err), -EPERM);
    model_end(m);
}

/* Metadata that follows each block is the client's, and nothing of it is made or checked; else there is none. */
static void metadata_is_the_clients(void **state)
{
    enum { COUNT = 20, TUPLE = 8 };
    struct pcie_model_opts o = pcie_model_defaults;
    o.ns[0].metadata = TUPLE;
    o.ns[0].pi = 1;
    (void)state;
    for (unsigned interleaved = 0; interleaved < 2; interleaved++) {
        o.ns[0].interleaved = interleaved;
        struct pcie_model *m = model_new(&o);
        struct nvme_cmd cmd = block_command(NVME_IO_WRITE, 3, COUNT), flush = block_command(NVME_IO_FLUSH, 0, 1);
        struct nvme_cqe cqe;
        struct plx_error err;
        uint8_t data[COUNT * (BLOCK + TUPLE)], back[sizeof data];
        for (size_t i = 0; i < sizeof data; i++)
            data[i] = (uint8_t)(i * 7);
        const uint32_t len = interleaved ? sizeof data : COUNT * BLOCK;
        int ret = plx_nvme_send(URL, false, &cmd, data, len, LIMIT_MS, &cqe, &err);
        assert_int_equal(ret, interleaved ? 0 : -ENOTSUP);
        if (interleaved) {
            assert_int_equal(plx_get16(cqe.status), 0);
            cmd.opcode = NVME_IO_READ;
            assert_int_equal(plx_nvme_send(URL, false, &cmd, back, sizeof back, LIMIT_MS, &cqe, &err), 0);
            assert_int_equal(plx_get16(cqe.status), 0);
            assert_memory_equal(back, data, sizeof data);
            assert_int_equal(plx_nvme_send(URL, false, &flush, NULL, 0, LIMIT_MS, &cqe, &err), 0);
            assert_int_equal(plx_get16(cqe.status), 0);
        }
        model_end(m);
    }
}

/* Each has a queue for as long as it takes, beside those of a disk in use; a hundred leave none behind. */
static void give_queues_back(bool doorbells)
{
    struct pcie_model_opts o = pcie_model_defaults;
    o.oacs |= doorbells ? PCIE_MODEL_OACS_DBBUF : 0;
    struct pcie_model *m = model_new(&o);
    struct nvme_cmd cmd = {.opcode = NVME_IO_FLUSH, .nsid = plx_put32(1)};
    struct nvme_cqe cqe;
    struct plx_error err;
    struct tu t;
    uint8_t block[BLOCK];
    tu_open(&t, URL);
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, 0, 1, block), 0);
    const unsigned queues = pcie_model_queues(m), enables = pcie_model_enables(m);
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(plx_nvme_send(URL, false, &cmd, NULL, 0, LIMIT_MS, &cqe, &err), 0);
    assert_int_equal(pcie_model_enables(m), enables);
    assert_int_equal(tu_io(&t, PLX_BDEV_READ, 0, 1, block), 0);
    assert_in_range(pcie_model_queues(m), queues, queues + 1); /* the last one's is being deleted, perhaps */
    tu_close(&t);
    model_end(m);
}

static void queues_are_given_back(void **state)
{
    (void)state;
    give_queues_back(false);
    give_queues_back(true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whatever_it_transfers_is_guarded),
        cmocka_unit_test(commands_are_sent_by_name),
        cmocka_unit_test(metadata_is_the_clients),
        cmocka_unit_test(queues_are_given_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
