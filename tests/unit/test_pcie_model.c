/* SPDX-License-Identifier: BSD-3-Clause */
/* The model of a controller, by registers, queues and doorbells: that it is right where a driver is tested with it. */
#include "pcie_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void pattern(struct rig *r, unsigned at, size_t bytes, unsigned seed)
{
    for (size_t i = 0; i < bytes; i++)
        r->memory[at + i] = (uint8_t)(seed + i * 7 + i / 256);
}

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
    rig_close(&r);
}

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
            pattern(&r, RIG_DATA + offsets[j], bytes, i * 16 + j);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_is_found_by_its_address),
        cmocka_unit_test(it_becomes_ready_and_no_longer),
        cmocka_unit_test(it_writes_and_reads),
        cmocka_unit_test(it_interrupts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
