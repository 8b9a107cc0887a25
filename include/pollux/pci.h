/* SPDX-License-Identifier: BSD-3-Clause */
/**
 * @file The NVMe devices of this machine's PCI bus: what there is, who uses it, and handing it from the kernel's driver
 * to one that lets user space have it (vfio-pci, uio_pci_generic), and back.  Nothing here opens a device for I/O, and
 * nothing outlives a reboot.  These functions wait, on the calling thread, which may be any; one at a time.
 */
#ifndef POLLUX_PCI_H
#define POLLUX_PCI_H

#include <pollux/base.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    PLX_PCI_NAME = 64,
    PLX_PCI_TEXT = 256,
};

/** An NVMe function: PCI class 01h, 08h, 02h. What nobody can tell is "", 0, or -1. */
struct plx_pci_nvme {
    char address[PLX_PCI_NAME]; /**< domain:bus:device.function, such as "0000:01:00.0" */
    uint16_t vendor, device;
    char driver[PLX_PCI_NAME];     /**< "nvme", "vfio-pci", ...; "" for none */
    char controller[PLX_PCI_NAME]; /**< the kernel's: "nvme0"; "" where its driver has none */
    char state[PLX_PCI_NAME];      /**< of the kernel's controller: "live", "resetting", "dead", ... */
    /**
     * As the kernel's controller tells them. Of a device that plx_pci_nvme_bind() has handed over: as they were then.
     */
    char model[41], serial[21], firmware[9];
    uint64_t bytes;          /**< of all namespaces together */
    unsigned namespaces;     /**< how many the kernel has disks of */
    int iommu_group;         /**< -1: there is no IOMMU, or it is off */
    int numa_node;           /**< -1: the machine has but one, or does not tell */
    char node[PLX_PCI_NAME]; /**< what a program opens: "/dev/nvme0", "/dev/vfio/7", "/dev/uio0"; "" for nothing */
};

/**
 * Lists the NVMe devices, by address.
 * @param list n of them, to be freed with free()
 * @return 0, or -errno with err filled
 */
PLX_API int plx_pci_nvme_list(struct plx_pci_nvme **list, unsigned *n, struct plx_error *err);

enum plx_pci_use_kind {
    PLX_PCI_ROOT,     /**< the root file system is on it */
    PLX_PCI_MOUNTED,  /**< a file system on it is mounted, in whichever mount namespace */
    PLX_PCI_SWAP,     /**< it is swapped to */
    PLX_PCI_HOLDER,   /**< a device of device-mapper, md, bcache, ... stands on it */
    PLX_PCI_EXPORTED, /**< a loop device or a target of the kernel's has it */
    PLX_PCI_OPEN,     /**< a process has it open, or mapped */
    PLX_PCI_CLAIMED,  /**< the kernel says that it is claimed, and not for what: so it is with ZFS */
    PLX_PCI_SHARED,   /**< another controller reaches the same namespaces, or it has virtual functions */
    PLX_PCI_STATE,    /**< its controller is not live, or its driver is not one that we know */
    PLX_PCI_UNSEEN,   /**< something could not be looked at, so that nothing is proved */
    PLX_PCI_MISSING,  /**< what the driver needs is not there; not of plx_pci_nvme_uses() */
    PLX_PCI_CONTENT,  /**< nobody uses it, but there is something on it; the only one that can be let pass */
};

/** The name of it: "mounted", "swap", ... */
PLX_API const char *plx_pci_use_name(enum plx_pci_use_kind kind);

/** One reason for not taking a device. */
struct plx_pci_use {
    unsigned device; /**< place in the list that was asked about */
    enum plx_pci_use_kind kind;
    char what[PLX_PCI_TEXT]; /**< such as "nvme0n1p2 is mounted on /srv" */
    char cure[PLX_PCI_TEXT]; /**< what to do about it, such as "umount /srv"; "" where nothing is to be done */
};

/**
 * Who uses devices, as far as can be told without getting in anybody's way: nothing is claimed, so what the kernel
 * keeps to itself (PLX_PCI_CLAIMED) is not seen. Other processes are only seen by root.
 * @param uses n of them, to be freed with free()
 * @return 0, or -errno with err filled
 */
PLX_API int plx_pci_nvme_uses(const struct plx_pci_nvme *list, unsigned nlist, struct plx_pci_use **uses, unsigned *n,
                              struct plx_error *err);

/** What plx_pci_nvme_bind() and plx_pci_nvme_unbind() have to say. */
enum plx_pci_say {
    PLX_PCI_REFUSED, /**< why a device is not touched */
    PLX_PCI_STEP,    /**< what is done next, or would be */
    PLX_PCI_DONE,    /**< whom a device belongs to now */
    PLX_PCI_NOTE,    /**< what whoever uses it has to see to */
};
typedef void (*plx_pci_say_fn)(void *arg, enum plx_pci_say kind, const char *address, const char *text);

struct plx_pci_bind_opts {
    const char *driver;               /**< "vfio-pci" or "uio_pci_generic"; NULL for vfio-pci */
    const char *const *allow_content; /**< serial numbers of devices that may have something on them */
    unsigned nallow_content;
    bool dry_run;       /**< find out, and say, and change nothing */
    plx_pci_say_fn say; /**< NULL for nobody */
    void *arg;
};

/**
 * Hands devices from the kernel's driver to another, all of them or, where one is in use, none. That nobody uses them
 * is proved: each disk is claimed, as a mount would claim it, and stays so until the kernel's driver has let it go.
 * @param which addresses ("0000:01:00.0", or "01:00.0" in domain 0), or serial numbers
 * @return 0; -ENOENT for a name that is nobody's, -EINVAL for one that is wrong, -EBUSY when one is refused and nothing
 * was changed, other errors when the kernel does not do as it is told; err is filled
 */
PLX_API int plx_pci_nvme_bind(const char *const *which, unsigned n, const struct plx_pci_bind_opts *opts,
                              struct plx_error *err);

/**
 * Hands devices back to the kernel's driver, and waits until that has them. Of opts, dry_run, say and arg count.
 * @return as plx_pci_nvme_bind()
 */
PLX_API int plx_pci_nvme_unbind(const char *const *which, unsigned n, const struct plx_pci_bind_opts *opts,
                                struct plx_error *err);

#ifdef __cplusplus
}
#endif
#endif
