/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Functions by their own character device, in an address space of iommufd, where the kernel has both (CONFIG_IOMMUFD
 * and CONFIG_VFIO_DEVICE_CDEV; Debian's have not): Linux's Documentation/userspace-api/iommufd.rst. What comes after
 * that is vfio.c's, as it is with functions of groups.
 */
#ifndef PLX_PCI_IOMMUFD_H
#define PLX_PCI_IOMMUFD_H

#include "pci/function.h"

struct pci_iommufd;

/*
 * Opens a function's device, whose descriptor is the caller's to close; it reaches memory by *iommu, which is shared by
 * all functions that are opened so. Under VFIO's lock.
 * @return 0; 1: there is no such device, or it may not be opened, and its group is to be tried; -errno with err filled
 */
int pci_iommufd_get(const char *addr, int *fd, struct pci_iommufd **out, struct pci_iommu **iommu,
                    struct plx_error *err);
/* After its device was closed. Under the same lock. */
void pci_iommufd_put(struct pci_iommufd *u);

#endif
