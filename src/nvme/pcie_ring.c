/* SPDX-License-Identifier: BSD-3-Clause */
/* A submission queue and its completion queue: entries and doorbells (PCIe Transport 3.1, Base 3.3.1). */
#include "nvme/pcie.h"

void pcie_ring_init(struct pcie_ring *r)
{
    r->tail = r->rung = r->head = r->told = 0;
    r->phase = PCIE_PHASE;
}

/*
 * With doorbells in memory (Base 5.2.5, Doorbell Buffer Config) the controller is to see the new value when it looks
 * there once more before it waits, or we see what it waits for.
 */
static bool shadow_asks(volatile uint32_t *shadow, const volatile uint32_t *event, uint16_t was, uint16_t value)
{
    pci_store32(shadow, value);
    pci_barrier();
    return (uint16_t)(value - pci_load32(event) - 1) < (uint16_t)(value - was);
}

void pcie_ring_submit(struct pcie_ring *r)
{
    const uint16_t was = r->rung;
    r->rung = r->tail;
    pci_write_barrier();
    if (!r->shadow || shadow_asks(r->shadow, r->event, was, r->tail))
        pci_store32(r->sq_db, r->tail);
}

void pcie_ring_return(struct pcie_ring *r)
{
    const uint16_t was = r->told;
    const uint32_t step = r->shadow_step / sizeof *r->shadow;
    r->told = r->head;
    pci_write_barrier();
    if (!r->shadow || shadow_asks(r->shadow + step, r->event + step, was, r->head))
        pci_store32(r->cq_db, r->head);
}
