/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A function of PCI Express that is driven from user space: its registers, its interrupts, and the addresses by which
 * it reaches memory. How that is done (VFIO, UIO, a model in the tests) is behind one table; who drives a function sees
 * memory, eventfds, and this.
 */
#ifndef PLX_PCI_FUNCTION_H
#define PLX_PCI_FUNCTION_H

#include "base/util.h"

#include <endian.h>
#include <pollux/base.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    PCI_ADDR_TEXT = 16, /* "0000:01:00.0" */
    PCI_RANGES_MAX = 16,
    PCI_MSIX_ENTRY = 16,   /* bytes of an entry of the MSI-X table (PCIe 7.7.2) */
    PCI_MSIX_CONTROL = 12, /* offset of its Vector Control, */
    PCI_MSIX_MASKED = 1u << 0,
};

/* First and last of the addresses that functions may use. */
struct pci_range {
    uint64_t first, last;
};

struct pci_iommu;

/* On any thread; each may block for as long as pinning memory takes. */
struct pci_iommu_ops {
    /* Whole pages. @return 0 or -errno: -ENOMEM without memory or beyond the limit of locked memory */
    int (*map)(struct pci_iommu *m, void *at, size_t bytes, uint64_t iova);
    void (*unmap)(struct pci_iommu *m, uint64_t iova, size_t bytes);
    /*
     * Where there is no IOMMU, instead: the address of a page that is one piece, and does not move. @return 0, or
     * -errno: -EFAULT for one that is not such
     */
    int (*locate)(struct pci_iommu *m, void *at, uint64_t *iova);
    /* Somebody has something mapped, or not any more: as long as that is so it is there. NULL: it is there anyway. */
    void (*hold)(struct pci_iommu *m);
    void (*release)(struct pci_iommu *m);
};

/* What gives functions addresses. Several functions may have the same one. */
struct pci_iommu {
    const struct pci_iommu_ops *ops;
    struct pci_range ranges[PCI_RANGES_MAX]; /* ascending */
    unsigned nranges;
    bool locks;  /* what it maps counts against RLIMIT_MEMLOCK */
    size_t page; /* that addresses and lengths are multiples of; never less than the machine's */
};

struct pci_function;

/* A base address register that is mapped. */
struct pci_bar {
    volatile uint8_t *at;
    size_t bytes;
    uint64_t bus; /* its address there */
};

struct pci_function_ops {
    const char *name; /* "vfio" */
    /* Ends all that it does, as a function level reset does (PCIe 6.6.2); may take 100 ms. @return 0 or -errno */
    int (*reset)(struct pci_function *f);
    /*
     * MSI-X vectors 0 to n - 1, each with an eventfd that is written when it comes. n is 0: none any more. All are
     * unmasked. @return 0 or -errno
     */
    int (*set_vectors)(struct pci_function *f, const int *fds, unsigned n);
    /* Another one than that of the registers, or that once more; until the function is closed. @return 0 or -errno */
    int (*map_bar)(struct pci_function *f, unsigned number, struct pci_bar *out);
    /* Gives it back and frees it: from then on it reaches no memory. May take 100 ms. */
    void (*close)(struct pci_function *f);
};

struct pci_function {
    const struct pci_function_ops *ops;
    struct pci_iommu *iommu;
    char addr[PCI_ADDR_TEXT];
    uint16_t vendor, device;
    volatile uint8_t *regs; /* BAR 0: pages of its own */
    size_t regs_bytes;
    unsigned vectors;       /* of MSI-X; 0: it cannot interrupt */
    volatile uint8_t *msix; /* the MSI-X table among them, where it can be reached past the kernel; else NULL */
    int lost_fd; /* becomes readable when it is to be given back, or has failed for good; -1: nothing tells */
};

/*
 * Opens a function. Blocks, for as long as a reset takes.
 * @return 0, or -errno with err filled: what is missing, and what to do about it
 */
typedef int pci_open_fn(const char *addr, struct pci_function **out, struct plx_error *err);

/* By VFIO, or by UIO: see vfio.c and uio.c. */
pci_open_fn pci_vfio_open, pci_uio_open;
/* By whichever of the kernel's drivers has it; a test puts a model here. */
extern pci_open_fn *pci_open;

/*
 * Addresses of functions of a class (0x010802: SSDs) that may be opened. May block, for as long as files of sysfs take.
 * @return how many
 */
typedef unsigned pci_list_fn(uint32_t class, char (*addrs)[PCI_ADDR_TEXT], unsigned max);

/* Those that are with the driver vfio-pci. */
pci_list_fn pci_vfio_list;
extern pci_list_fn *pci_list;

/*
 * What is written before is seen by the device before what is written after; the same of what is read; and of both. On
 * Arm devices are in another domain of shareability than threads are, so C's own fences are not enough. There the first
 * one does not keep what is read before what is written after: who gives memory back that it has read from has stored
 * what it read, and that store depends on the read. The accesses themselves have no order, as these are there:
 * tests/model/test_pcie.c finds that each is needed, and is enough.
 */
#if defined(__aarch64__)
#define pci_write_barrier() __asm__ volatile("dmb oshst" ::: "memory")
#define pci_read_barrier() __asm__ volatile("dmb oshld" ::: "memory")
#define pci_barrier() __asm__ volatile("dmb osh" ::: "memory")
#else
#define pci_write_barrier() __atomic_thread_fence(__ATOMIC_RELEASE)
#define pci_read_barrier() __atomic_thread_fence(__ATOMIC_ACQUIRE)
#define pci_barrier() __atomic_thread_fence(__ATOMIC_SEQ_CST)
#endif

/* What was written before to memory of the device, where writes may be combined, is there. */
#if defined(__x86_64__)
#define pci_combined_barrier() __asm__ volatile("sfence" ::: "memory")
#else
#define pci_combined_barrier() pci_write_barrier()
#endif

/* ThreadSanitizer knows of no barriers: for it the accesses of a device that is a thread have the orders. */
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define PCI_LOAD_ORDER __ATOMIC_ACQUIRE
#define PCI_STORE_ORDER __ATOMIC_RELEASE
#endif
#endif
#ifndef PCI_LOAD_ORDER
#define PCI_LOAD_ORDER __ATOMIC_RELAXED
#define PCI_STORE_ORDER __ATOMIC_RELAXED
#endif

/* Memory that is also the device's, a register perhaps: little-endian, read and written as a whole (Base 3.1.4). */
static inline uint32_t pci_load32(const volatile void *at)
{
    return le32toh(__atomic_load_n((const volatile uint32_t *)at, PCI_LOAD_ORDER));
}

static inline void pci_store32(volatile void *at, uint32_t value)
{
    __atomic_store_n((volatile uint32_t *)at, htole32(value), PCI_STORE_ORDER);
}

/* Registers: what was written to memory before is there when one is written, and what was there before is read then. */
static inline uint32_t pci_get32(const struct pci_function *f, uint32_t offset)
{
    const uint32_t value = pci_load32(f->regs + offset);
    pci_read_barrier();
    return value;
}

static inline void pci_put32(struct pci_function *f, uint32_t offset, uint32_t value)
{
    pci_write_barrier();
    pci_store32(f->regs + offset, value);
}

/* In two halves, the lower one first, which every controller takes. */
static inline uint64_t pci_get64(const struct pci_function *f, uint32_t offset)
{
    const uint64_t low = pci_get32(f, offset);
    return low | (uint64_t)pci_get32(f, offset + 4) << 32;
}

static inline void pci_put64(struct pci_function *f, uint32_t offset, uint64_t value)
{
    pci_put32(f, offset, (uint32_t)value);
    pci_put32(f, offset + 4, (uint32_t)(value >> 32));
}

#endif
