/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The controller's own memory (Base 8.2.1, Controller Memory Buffer), for submission queues: commands are written to
 * it, where else the controller has to read them from the machine's. On the device's thread.
 *
 * The controller reaches it at an address of the bus, which is the one of its BAR, whether it has it so by itself
 * (before 1.4) or is told. Nothing of this process's may be mapped there: that is looked after by pci_dma.
 */
#include "nvme/pcie_dev.h"

#include "base/log.h"

#include <errno.h>

enum {
    PROP_CMBLOC = 0x38,
    PROP_CMBSZ = 0x3c,
    PROP_CMBMSC = 0x50,
    PROP_CMBSTS = 0x58,
    CAP_CMBS_SHIFT = 57,
    CMBSZ_SQS = 1 << 0,
    CMBMSC_CRE = 1 << 0,  /* CMBLOC and CMBSZ are shown */
    CMBMSC_CMSE = 1 << 1, /* the controller takes the addresses for its own */
    CMBSTS_CBAI = 1 << 0, /* not these */
    VS_1_2 = 0x10200,
};

static bool is_told(const struct pcie_dev *d)
{
    return d->cap >> CAP_CMBS_SHIFT & 1;
}

/* Which BAR, and where in it. @return why there is none, or NULL */
static const char *cmb_place(const struct pcie_dev *d, unsigned *bar, uint64_t *offset, uint64_t *bytes)
{
    if (!is_told(d) && d->vs < VS_1_2)
        return "it has none";
    if (is_told(d))
        pci_put32(d->f, PROP_CMBMSC, CMBMSC_CRE);
    const uint32_t loc = pci_get32(d->f, PROP_CMBLOC), size = pci_get32(d->f, PROP_CMBSZ);
    const unsigned unit = 12 + 4 * (size >> 8 & 15);
    if (!(size >> 12) || size == UINT32_MAX)
        return "it has none";
    if (!(size & CMBSZ_SQS))
        return "it takes no submission queues";
    *bar = loc & 7;
    if (unit > 36 || *bar == 1 || *bar > 5)
        return "it says nonsense of it";
    *offset = (uint64_t)(loc >> 12) << unit;
    *bytes = (uint64_t)(size >> 12) << unit;
    return NULL;
}

static void tell_place(struct pcie_dev *d)
{
    pci_put32(d->f, PROP_CMBMSC + 4,
              (uint32_t)(d->cmb.iova >> 32)); /* the other half has the bit that it counts from */
    pci_put32(d->f, PROP_CMBMSC, (uint32_t)d->cmb.iova | CMBMSC_CRE | CMBMSC_CMSE);
}

/* @return why not, or NULL */
static const char *cmb_map(struct pcie_dev *d)
{
    struct pcie_cmb *cmb = &d->cmb;
    struct pci_bar bar;
    unsigned number;
    uint64_t offset, bytes;
    const char *why = cmb_place(d, &number, &offset, &bytes);
    if (why)
        return why;
    if (d->f->ops->map_bar(d->f, number, &bar))
        return "its BAR cannot be mapped";
    cmb->guard = plx_guard_take((void *)(uintptr_t)bar.at, bar.bytes, true, &d->fault);
    if (!cmb->guard || offset >= bar.bytes)
        return "its BAR is too small";
    cmb->at = bar.at + offset;
    cmb->iova = bar.bus + offset;
    cmb->pages = (unsigned)plx_min_u64(plx_min_u64(bytes, bar.bytes - offset) / NVME_PAGE, PCIE_CMB_PAGES);
    if (cmb->iova % NVME_PAGE ||
        pci_dma_reserve(d->dma, (void *)(uintptr_t)cmb->at, cmb->pages * (size_t)NVME_PAGE, cmb->iova))
        return "something else is at its addresses";
    cmb->reserved = true;
    if (is_told(d))
        tell_place(d);
    if (is_told(d) && pci_get32(d->f, PROP_CMBSTS) & CMBSTS_CBAI)
        return "it does not take the addresses of its BAR";
    return NULL;
}

/* Once, when it is wanted first, and told again whenever the controller has been reset. @return whether it is there */
static bool cmb_there(struct pcie_dev *d)
{
    struct pcie_cmb *cmb = &d->cmb;
    if (cmb->tried && cmb->pages && cmb->generation != d->generation && is_told(d))
        tell_place(d);
    if (cmb->generation != d->generation)
        memset(cmb->used, 0, sizeof cmb->used);
    cmb->generation = d->generation;
    if (cmb->tried)
        return cmb->pages;
    cmb->tried = true;
    const char *why = cmb_map(d);
    if (why) {
        cmb->pages = 0;
        plx_warn("%s: submission queues are in the machine's memory, not in the controller's: %s", d->addr, why);
    } else {
        plx_info("%s: submission queues are in the controller's memory, %u KiB", d->addr, cmb->pages * 4);
    }
    return cmb->pages;
}

static bool is_free(const struct pcie_cmb *cmb, unsigned first, unsigned n)
{
    for (unsigned i = first; i < first + n; i++)
        if (cmb->used[i / 64] >> i % 64 & 1)
            return false;
    return true;
}

void pcie_cmb_take(struct pcie_dev *d, struct pcie_hw *hw)
{
    struct pcie_cmb *cmb = &d->cmb;
    const unsigned n = (unsigned)((hw->ring.entries * sizeof(struct nvme_cmd) + NVME_PAGE - 1) / NVME_PAGE);
    if (d->cap >> 48 & 15 || !cmb_there(d)) /* with larger pages its own would have to be such */
        return;
    for (unsigned first = 0; first + n <= cmb->pages; first++) {
        if (!is_free(cmb, first, n))
            continue;
        for (unsigned i = first; i < first + n; i++)
            cmb->used[i / 64] |= UINT64_C(1) << i % 64;
        hw->cmb_page = (uint16_t)first;
        hw->cmb_pages = (uint16_t)n;
        hw->cmb_iova = cmb->iova + first * (uint64_t)NVME_PAGE;
        hw->ring.cmb = (volatile uint64_t *)(volatile void *)(cmb->at + first * (size_t)NVME_PAGE);
        return;
    }
    plx_info("%s: no room for another queue in the controller's memory", d->addr);
}

void pcie_cmb_give(struct pcie_dev *d, const struct pcie_hw *hw)
{
    for (unsigned i = 0; i < hw->cmb_pages; i++)
        d->cmb.used[(hw->cmb_page + i) / 64] &= ~(UINT64_C(1) << (hw->cmb_page + i) % 64);
}

void pcie_cmb_end(struct pcie_dev *d)
{
    if (d->cmb.reserved)
        pci_dma_unreserve(d->dma, (const void *)(uintptr_t)d->cmb.at);
    if (d->cmb.guard)
        plx_guard_give(d->cmb.guard);
    d->cmb = (struct pcie_cmb){.tried = false};
}
