/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A submission queue and its completion queue: entries and doorbells (PCIe Transport 3.1, Base 3.3.1).
 *
 * Orders, of which tests/model/test_pcie.c finds that they are needed and enough: entries, and data, are written before
 * the doorbell; completions are read after their phase was, and before the doorbell gives them back; and where one side
 * writes what the other looks at before it waits, and then looks itself (doorbells in memory, the vector's mask), there
 * is a full barrier between the two.
 */
#include "nvme/pcie.h"

#include <string.h>

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

/*
 * What was put into the queue is written to the controller's memory, in order and 8 bytes at a time: it may take no
 * more at once. Where the processor combines such writes, they are through before the doorbell.
 */
static __attribute__((noinline)) void write_entries(const struct pcie_ring *r)
{
    enum { WORDS = sizeof(struct nvme_cmd) / sizeof(uint64_t) };
    for (uint16_t at = r->rung; at != r->tail; pcie_ring_step(r, &at)) {
        uint64_t words[WORDS];
        memcpy(words, &r->sq[at], sizeof words);
        for (unsigned i = 0; i < WORDS; i++)
            r->cmb[at * (size_t)WORDS + i] = words[i];
    }
    pci_combined_barrier();
}

void pcie_ring_submit(struct pcie_ring *r)
{
    const uint16_t was = r->rung;
    if (plx_unlikely(r->cmb))
        write_entries(r);
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
