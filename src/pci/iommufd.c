/* SPDX-License-Identifier: BSD-3-Clause */
#include "pci/iommufd.h"

#include "base/text.h"
#include "pci/pci.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* Of Linux 6.6, which is later than the headers of some systems that build this. */
enum {
    IOMMUFD_IOAS_ALLOC = _IO(';', 0x81),
    IOMMUFD_IOVA_RANGES = _IO(';', 0x84),
    IOMMUFD_MAP = _IO(';', 0x85),
    IOMMUFD_UNMAP = _IO(';', 0x86),
    IOMMUFD_BIND = _IO(';', 118),   /* of the device: VFIO_DEVICE_BIND_IOMMUFD, */
    IOMMUFD_ATTACH = _IO(';', 119), /* VFIO_DEVICE_ATTACH_IOMMUFD_PT */
    MAP_FIXED_IOVA = 1 << 0,
    MAP_WRITEABLE = 1 << 1,
    MAP_READABLE = 1 << 2,
    IOVA_BITS = 48, /* at most: some devices reach no further */
};

struct ioas_alloc {
    uint32_t size, flags, id;
};

struct ioas_ranges {
    uint32_t size, id, n, reserved;
    uint64_t ranges, alignment;
};

struct ioas_map {
    uint32_t size, flags, id, reserved;
    uint64_t at, bytes, iova;
};

struct ioas_unmap {
    uint32_t size, id;
    uint64_t iova, bytes;
};

struct device_bind {
    uint32_t size, flags;
    int32_t iommufd;
    uint32_t id;
};

struct device_attach {
    uint32_t size, flags, id;
};

struct pci_iommufd {
    struct pci_iommu iommu;
    int fd;
    uint32_t id;        /* of the address space */
    unsigned functions; /* attached */
    unsigned refs;      /* theirs, and of those who have something mapped: under the lock below */
};

static pthread_mutex_t refs_lock = PTHREAD_MUTEX_INITIALIZER;
static struct pci_iommufd *shared; /* that has functions, or NULL; under VFIO's lock */

static struct pci_iommufd *iommufd_of(struct pci_iommu *m)
{
    return plx_container_of(m, struct pci_iommufd, iommu);
}

static int ioas_do(const struct pci_iommufd *u, unsigned long what, void *arg)
{
    return ioctl(u->fd, what, arg) ? -errno : 0;
}

static int ioas_map(struct pci_iommu *m, void *at, size_t bytes, uint64_t iova)
{
    const struct pci_iommufd *u = iommufd_of(m);
    struct ioas_map map = {.size = sizeof map,
                           .flags = MAP_FIXED_IOVA | MAP_WRITEABLE | MAP_READABLE,
                           .id = u->id,
                           .at = (uintptr_t)at,
                           .bytes = bytes,
                           .iova = iova};
    return ioas_do(u, IOMMUFD_MAP, &map);
}

static void ioas_unmap(struct pci_iommu *m, uint64_t iova, size_t bytes)
{
    const struct pci_iommufd *u = iommufd_of(m);
    struct ioas_unmap unmap = {.size = sizeof unmap, .id = u->id, .iova = iova, .bytes = bytes};
    ioas_do(u, IOMMUFD_UNMAP, &unmap);
}

static void ioas_hold(struct pci_iommu *m)
{
    pthread_mutex_lock(&refs_lock);
    iommufd_of(m)->refs++;
    pthread_mutex_unlock(&refs_lock);
}

static void ioas_release(struct pci_iommu *m)
{
    struct pci_iommufd *u = iommufd_of(m);
    pthread_mutex_lock(&refs_lock);
    const bool last = !--u->refs;
    pthread_mutex_unlock(&refs_lock);
    if (!last)
        return;
    close(u->fd);
    free(u);
}

static const struct pci_iommu_ops ioas_ops = {
    .map = ioas_map, .unmap = ioas_unmap, .hold = ioas_hold, .release = ioas_release};

/* With its first function: without one all of 64 bits are said to do. @return 0 or -errno */
static int learn_ranges(struct pci_iommufd *u)
{
    const uint64_t top = (UINT64_C(1) << IOVA_BITS) - 1;
    struct pci_range *to = u->iommu.ranges, found[4 * PCI_RANGES_MAX] = {{0}};
    struct ioas_ranges all = {.size = sizeof all, .id = u->id, .n = PLX_ARRAY_SIZE(found), .ranges = (uintptr_t)found};
    int ret = ioas_do(u, IOMMUFD_IOVA_RANGES, &all);
    if (ret)
        return ret;
    u->iommu.locks = true;
    u->iommu.page = plx_max_u64((uint64_t)sysconf(_SC_PAGESIZE), all.alignment);
    u->iommu.nranges = 0;
    for (uint32_t i = 0; i < all.n && u->iommu.nranges < PCI_RANGES_MAX; i++)
        if (found[i].first < top)
            to[u->iommu.nranges++] = (struct pci_range){found[i].first, plx_min_u64(found[i].last, top)};
    return u->iommu.nranges ? 0 : -ENOSPC;
}

/* The one that there is, or one without functions. @return as pci_iommufd_get() does */
static int space_get(struct pci_iommufd **out, struct plx_error *err)
{
    struct ioas_alloc alloc = {.size = sizeof alloc};
    struct pci_iommufd *u = shared;
    *out = u;
    if (u) {
        ioas_hold(&u->iommu);
        return 0;
    }
    int fd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return 1;
    u = calloc(1, sizeof *u);
    int ret = u ? ioctl(fd, IOMMUFD_IOAS_ALLOC, &alloc) ? -errno : 0 : -ENOMEM;
    if (ret) {
        close(fd);
        free(u);
        return plx_fail(err, ret, "iommufd has no address space for it: %s", strerror(-ret));
    }
    *u = (struct pci_iommufd){.iommu.ops = &ioas_ops, .fd = fd, .id = alloc.id, .refs = 1};
    *out = u;
    return 0;
}

enum { PATH = 300 };

/* "/dev/vfio/devices/vfio0". @return its descriptor, or -1 */
static int device_open(const char *addr, char path[PATH])
{
    struct pci_names names;
    int fd = -1;
    if (pci_names("", &names, PCI_DEVICES "/%s/vfio-dev", addr))
        return -1;
    if (names.n) {
        pci_text(path, PATH, "/dev/vfio/devices/%s", names.v[0]->d_name);
        fd = open(path, O_RDWR | O_CLOEXEC);
    }
    pci_names_free(&names);
    return fd;
}

/* Who has opened it as well, and bound it; or somebody has its group. */
static int device_in_use(const char *path, struct plx_error *err)
{
    char holder[128];
    pci_holder(path, holder, sizeof holder);
    return plx_fail(err, -EBUSY, "it is in use%s", holder[0] ? holder : " by another process, or its group is");
}

static int device_attach(const struct pci_iommufd *u, int fd, const char *path, struct plx_error *err)
{
    struct device_bind bind = {.size = sizeof bind, .iommufd = u->fd};
    struct device_attach attach = {.size = sizeof attach, .id = u->id};
    if (ioctl(fd, IOMMUFD_BIND, &bind)) {
        int ret = -errno;
        if (ret == -EBUSY || ret == -EINVAL)
            return device_in_use(path, err);
        return plx_fail(err, ret, "iommufd does not take it: %s%s", strerror(-ret),
                        ret == -EPERM ? "; its IOMMU does not remap interrupts, which iommufd's option "
                                        "allow_unsafe_interrupts does without"
                                      : "");
    }
    if (ioctl(fd, IOMMUFD_ATTACH, &attach))
        return plx_fail(err, -errno, "it cannot have the memory that others have: %s", strerror(errno));
    return 0;
}

int pci_iommufd_get(const char *addr, int *fd, struct pci_iommufd **out, struct pci_iommu **iommu,
                    struct plx_error *err)
{
    char path[PATH];
    struct pci_iommufd *u;
    *fd = device_open(addr, path);
    if (*fd < 0)
        return 1;
    int ret = space_get(&u, err);
    if (ret)
        goto close_device;
    ret = device_attach(u, *fd, path, err);
    if (!ret && !u->functions && learn_ranges(u))
        ret = plx_fail(err, -ENOSPC, "iommufd does not say by which addresses it may reach memory");
    if (ret)
        goto release;
    u->functions++;
    shared = u;
    *out = u;
    *iommu = &u->iommu;
    return 0;

release:
    close(*fd); /* which detaches it */
    *fd = -1;
    ioas_release(&u->iommu);
    return ret;
close_device:
    close(*fd);
    *fd = -1;
    return ret;
}

void pci_iommufd_put(struct pci_iommufd *u)
{
    if (!--u->functions)
        shared = NULL;
    ioas_release(&u->iommu);
}
