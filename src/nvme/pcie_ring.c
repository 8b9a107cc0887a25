/* SPDX-License-Identifier: BSD-3-Clause */
/* A submission queue and its completion queue: entries and doorbells (PCIe Transport 3.1, Base 3.3.1). */
#include "nvme/pcie.h"

void pcie_ring_init(struct pcie_ring *r)
{
    r->tail = r->rung = r->head = r->told = 0;
    r->phase = 1;
}

/*
 * With doorbells in memory (Base 5.2.5, Doorbell Buffer Config) the controller is to see the new value when it looks
 * there once more before it waits, or we see what it waits for.
 */
static bool shadow_asks(volatile uint32_t *shadow, const volatile uint32_t *event, uint16_t was, uint16_t value)
{
    *shadow = htole32(value);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return (uint16_t)(value - le32toh(*event) - 1) < (uint16_t)(value - was);
}

void pcie_ring_submit(struct pcie_ring *r)
{
    const uint16_t was = r->rung;
    r->rung = r->tail;
    __atomic_thread_fence(__ATOMIC_RELEASE);
    if (!r->shadow || shadow_asks(r->shadow, r->event, was, r->tail))
        *r->sq_db = htole32(r->tail);
}

void pcie_ring_return(struct pcie_ring *r)
{
    const uint16_t was = r->told;
    r->told = r->head;
    __atomic_thread_fence(__ATOMIC_RELEASE);
    if (!r->shadow || shadow_asks((volatile uint32_t *)((volatile uint8_t *)r->shadow + r->shadow_step),
                                  (volatile uint32_t *)((volatile uint8_t *)r->event + r->shadow_step), was, r->head))
        *r->cq_db = htole32(r->head);
}
