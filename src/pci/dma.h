/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What functions reach of this process's memory, and by which addresses: all that plx_memory_add() made known, each
 * piece as one range, and what queues are in. Ranges are dealt from what the IOMMU has; an address in one is found
 * without a lock.
 */
#ifndef PLX_PCI_DMA_H
#define PLX_PCI_DMA_H

#include "pci/function.h"

#include <stdatomic.h>

/*
 * How many huge pages of 2 MiB there are. /proc/sys/vm/nr_hugepages is for those of the kernel's default size, which
 * are others where pages are not of 4 KiB: of 32 MiB on Arm with 16 KiB, and of 512 MiB with 64 KiB.
 */
#define PCI_HUGE_PAGES "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"

struct pci_dma;

/* Of one IOMMU: the same for all of its functions. @return NULL without memory */
struct pci_dma *pci_dma_get(struct pci_iommu *m);
/* When its function reaches no memory any more. */
void pci_dma_put(struct pci_dma *d);

/* Memory of queues. */
struct pci_memory {
    uint8_t *at; /* NULL: none */
    uint64_t iova;
    size_t bytes;
};

/*
 * Whole pages, zeroed.
 * @param align of its address, a power of two
 * @return 0, -ENOMEM, or another -errno of what cannot be mapped
 */
int pci_memory_alloc(struct pci_dma *d, size_t bytes, size_t align, struct pci_memory *out);
/* Harmless when there is none. */
void pci_memory_free(struct pci_dma *d, struct pci_memory *m);

/*
 * Addresses that are something else's: nothing is mapped there. `at` tells them from others. @return 0, -ENOMEM, or
 * -EEXIST: something is
 */
int pci_dma_reserve(struct pci_dma *d, const void *at, size_t bytes, uint64_t iova);
void pci_dma_unreserve(struct pci_dma *d, const void *at);

struct pci_span {
    uintptr_t at;
    size_t bytes;
    uint64_t iova;
};

/* All of data's memory, as it was at some time. Does not change. */
struct pci_table {
    _Atomic unsigned refs;
    uint64_t version;
    unsigned n;
    struct pci_span spans[]; /* ascending */
};

/* That of the present. Without memory for it NULL: nothing is known then. */
struct pci_table *pci_table_get(struct pci_dma *d);
void pci_table_put(struct pci_table *t);
/* Puts one that is old, or NULL. @return that of the present, or NULL as above */
struct pci_table *pci_table_renew(struct pci_dma *d, struct pci_table *t);
/* Counts changes: a table of another version is old. It is there for as long as d is. */
const _Atomic uint64_t *pci_dma_version(const struct pci_dma *d);

/* @return the range in which all of that is, or NULL */
static inline const struct pci_span *pci_table_find(const struct pci_table *t, const void *at, size_t bytes)
{
    unsigned low = 0, high = t ? t->n : 0;
    while (low < high) {
        const unsigned middle = (low + high) / 2;
        const struct pci_span *s = &t->spans[middle];
        const uintptr_t offset = (uintptr_t)at - s->at;
        if (offset < s->bytes)
            return bytes <= s->bytes - offset ? s : NULL;
        if ((uintptr_t)at < s->at)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

#endif
