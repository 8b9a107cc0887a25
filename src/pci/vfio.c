/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Functions by VFIO: by their own devices where the kernel has these (iommufd.c), else by groups, in one container for
 * all, so that memory is mapped and counted once. Linux's Documentation/driver-api/vfio.rst.
 */
#include "pci/function.h"
#include "pci/iommufd.h"
#include "pci/pci.h"

#include "base/list.h"
#include "base/log.h"
#include "base/text.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef VFIO_REGION_INFO_CAP_MSIX_MAPPABLE
#define VFIO_REGION_INFO_CAP_MSIX_MAPPABLE 3
#endif

enum {
    PATH = 300,
    INFO_BYTES = 4096,      /* of what the kernel says of a region or an IOMMU */
    IOVA_BITS = 48,         /* where it says no ranges, and at most: some devices reach no further */
    IOVA_BITS_DEFAULT = 39, /* where it says none */
    MSIX_BIR_MASK = 7,
};

/*
 * What is mapped in a container is gone with its last group, so from then on there is another one, and this is only
 * there for those who have not noticed yet.
 */
struct vfio_container {
    struct pci_iommu iommu;
    int fd;
    unsigned refs;          /* groups', and of those who have something mapped */
    struct plx_list groups; /* of struct vfio_group */
};

/* A group that has been given to us. */
struct vfio_group {
    struct plx_list link;
    struct vfio_container *container;
    int number, fd;
    unsigned refs;
};

/* Guards all of this; `current` is the one that has groups, or NULL. */
static pthread_mutex_t vfio_lock = PTHREAD_MUTEX_INITIALIZER;
static struct vfio_container *current;

struct vfio_function {
    struct pci_function f;
    struct vfio_group *group;  /* or */
    struct pci_iommufd *space; /* where it is opened by its own device */
    int fd;
    uint64_t config;    /* where the configuration space is in it */
    struct pci_bar bar; /* that was mapped besides, or NULL */
};

/* ---- what the kernel says ---- */

/* The first capability of that kind in what the kernel wrote, or NULL. */
static const void *capability(const void *info, uint32_t first, uint32_t bytes, uint16_t id)
{
    for (uint32_t at = first; at && at + sizeof(struct vfio_info_cap_header) <= bytes;) {
        const struct vfio_info_cap_header *h = (const void *)((const uint8_t *)info + at);
        if (h->id == id)
            return h;
        at = h->next;
    }
    return NULL;
}

/* ---- the container ---- */

static struct vfio_container *container_of(struct pci_iommu *m)
{
    return plx_container_of(m, struct vfio_container, iommu);
}

static int vfio_map(struct pci_iommu *m, void *at, size_t bytes, uint64_t iova)
{
    struct vfio_iommu_type1_dma_map map = {.argsz = sizeof map,
                                           .flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
                                           .vaddr = (uintptr_t)at,
                                           .iova = iova,
                                           .size = bytes};
    return ioctl(container_of(m)->fd, VFIO_IOMMU_MAP_DMA, &map) ? -errno : 0;
}

/* When no group is left the kernel has done so by itself. */
static void vfio_unmap(struct pci_iommu *m, uint64_t iova, size_t bytes)
{
    struct vfio_iommu_type1_dma_unmap unmap = {.argsz = sizeof unmap, .iova = iova, .size = bytes};
    ioctl(container_of(m)->fd, VFIO_IOMMU_UNMAP_DMA, &unmap);
}

/* Under the lock. */
static void container_put(struct vfio_container *c)
{
    if (--c->refs)
        return;
    close(c->fd);
    free(c);
}

static void vfio_hold(struct pci_iommu *m)
{
    pthread_mutex_lock(&vfio_lock);
    container_of(m)->refs++;
    pthread_mutex_unlock(&vfio_lock);
}

static void vfio_release(struct pci_iommu *m)
{
    pthread_mutex_lock(&vfio_lock);
    container_put(container_of(m));
    pthread_mutex_unlock(&vfio_lock);
}

static const struct pci_iommu_ops iommu_ops = {
    .map = vfio_map, .unmap = vfio_unmap, .hold = vfio_hold, .release = vfio_release};

/* Ranges that functions may use, and pages; without a word about them what every IOMMU has. */
static void learn_iommu(struct vfio_container *c)
{
    struct pci_iommu *m = &c->iommu;
    _Alignas(8) uint8_t room[INFO_BYTES] = {0};
    struct vfio_iommu_type1_info *info = (void *)room;
    info->argsz = sizeof room;
    const uint64_t top = (UINT64_C(1) << IOVA_BITS) - 1;
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    *m = (struct pci_iommu){.ops = &iommu_ops, .locks = true, .page = page, .nranges = 1};
    m->ranges[0] = (struct pci_range){page, (UINT64_C(1) << IOVA_BITS_DEFAULT) - 1};
    if (ioctl(c->fd, VFIO_IOMMU_GET_INFO, info))
        return;
    if (info->flags & VFIO_IOMMU_INFO_PGSIZES && info->iova_pgsizes)
        m->page = plx_max_u64(page, info->iova_pgsizes & -info->iova_pgsizes);
    const struct vfio_iommu_type1_info_cap_iova_range *cap =
        info->flags & VFIO_IOMMU_INFO_CAPS
            ? capability(info, info->cap_offset, info->argsz, VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE)
            : NULL;
    if (!cap)
        return;
    m->nranges = 0;
    for (uint32_t i = 0; i < cap->nr_iovas && m->nranges < PCI_RANGES_MAX; i++)
        if (cap->iova_ranges[i].start < top)
            m->ranges[m->nranges++] =
                (struct pci_range){cap->iova_ranges[i].start, plx_min_u64(cap->iova_ranges[i].end, top)};
}

/* Under the lock. */
static int container_get(struct vfio_container **out, struct plx_error *err)
{
    if (current) {
        current->refs++;
        *out = current;
        return 0;
    }
    struct vfio_container *c = calloc(1, sizeof *c);
    if (!c)
        return plx_fail(err, -ENOMEM, "out of memory");
    c->refs = 1;
    plx_list_init(&c->groups);
    c->fd = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
    *out = c;
    if (c->fd >= 0 && ioctl(c->fd, VFIO_GET_API_VERSION) == VFIO_API_VERSION &&
        ioctl(c->fd, VFIO_CHECK_EXTENSION, VFIO_TYPE1v2_IOMMU) > 0)
        return 0;
    const bool opened = c->fd >= 0;
    const int ret = opened ? -ENOTSUP : -errno;
    if (opened)
        close(c->fd);
    free(c);
    if (opened)
        return plx_fail(err, ret,
                        "VFIO has no IOMMU to work with: modprobe vfio_iommu_type1, and turn the IOMMU on in the "
                        "firmware and the kernel's command line (intel_iommu=on, amd_iommu=on)");
    return ret == -ENOENT || ret == -ENODEV
               ? plx_fail(err, ret, "this kernel has no VFIO: /dev/vfio/vfio is not there; modprobe vfio-pci")
               : plx_fail(err, ret, "cannot open /dev/vfio/vfio: %s", strerror(-ret));
}

/* ---- groups ---- */

void pci_holder(const char *path, char *out, size_t size)
{
    const int self = (int)getpid();
    DIR *proc = opendir("/proc");
    struct dirent *e;
    out[0] = 0;
    while (proc && !out[0] && (e = readdir(proc))) {
        char at[PATH], to[PATH], name[64] = "";
        struct dirent *fd;
        snprintf(at, sizeof at, "/proc/%.20s/fd", e->d_name);
        const long pid = strtol(e->d_name, NULL, 10);
        DIR *fds = pid > 0 && pid != self ? opendir(at) : NULL;
        while (fds && !out[0] && (fd = readdir(fds))) {
            snprintf(at, sizeof at, "/proc/%.20s/fd/%.20s", e->d_name, fd->d_name);
            ssize_t n = readlink(at, to, sizeof to - 1);
            if (n < 0 || (size_t)n != strlen(path) || memcmp(to, path, (size_t)n) != 0)
                continue;
            snprintf(at, sizeof at, "/proc/%.20s/comm", e->d_name);
            FILE *comm = fopen(at, "re");
            if (comm && fgets(name, sizeof name, comm))
                name[strcspn(name, "\n")] = 0;
            if (comm)
                fclose(comm);
            snprintf(out, size, " by %s (process %.20s)", name, e->d_name);
        }
        if (fds)
            closedir(fds);
    }
    if (proc)
        closedir(proc);
}

static int group_refused(const char *path, int ret, struct plx_error *err)
{
    char holder[128];
    switch (ret) {
    case -EBUSY:
        pci_holder(path, holder, sizeof holder);
        return plx_fail(err, ret, "it is in use%s", holder[0] ? holder : " by another process");
    case -EACCES:
    case -EPERM:
        return plx_fail(err, ret, "this user may not open %s; chown it to the user, or have a udev rule do so", path);
    default:
        return plx_fail(err, ret, "cannot open %s: %s", path, strerror(-ret));
    }
}

/* Others that the IOMMU cannot tell from it, and that are with drivers of the kernel's. */
static int group_not_viable(const char *addr, int number, struct plx_error *err)
{
    char path[PATH], others[200] = "", driver[64];
    snprintf(path, sizeof path, "/sys/kernel/iommu_groups/%d/devices", number);
    DIR *dir = opendir(path);
    struct dirent *e;
    while (dir && (e = readdir(dir))) {
        const size_t n = strlen(others);
        if (e->d_name[0] != '.' && strcmp(e->d_name, addr) != 0 &&
            pci_link("", driver, sizeof driver, PCI_DEVICES "/%s/driver", e->d_name) > 0 &&
            strncmp(driver, "vfio", 4) != 0)
            snprintf(others + n, sizeof others - n, "%s%.20s (%.30s)", n ? ", " : "", e->d_name, driver);
    }
    if (dir)
        closedir(dir);
    return plx_fail(err, -EBUSY, "it is in IOMMU group %d together with %s; all of them have to be with vfio-pci",
                    number, others[0] ? others : "others");
}

static int group_attach(const char *addr, struct vfio_group *g, struct plx_error *err)
{
    struct vfio_group_status status = {.argsz = sizeof status};
    if (ioctl(g->fd, VFIO_GROUP_GET_STATUS, &status))
        return plx_fail(err, -errno, "VFIO does not tell of its group: %s", strerror(errno));
    if (!(status.flags & VFIO_GROUP_FLAGS_VIABLE))
        return group_not_viable(addr, g->number, err);
    struct vfio_container *c = g->container;
    if (ioctl(g->fd, VFIO_GROUP_SET_CONTAINER, &c->fd))
        return plx_fail(err, -errno, "its group cannot have the memory that others have: %s", strerror(errno));
    if (!plx_list_empty(&c->groups))
        return 0;
    if (ioctl(c->fd, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU)) {
        int ret = -errno;
        return plx_fail(err, ret, "VFIO refuses its IOMMU: %s%s", strerror(-ret),
                        ret == -EPERM ? "; it does not remap interrupts, which vfio_iommu_type1's option "
                                        "allow_unsafe_interrupts does without"
                                      : "");
    }
    learn_iommu(c);
    return 0;
}

/* Under the lock. */
static void group_put(struct vfio_group *g)
{
    if (--g->refs)
        return;
    plx_list_del(&g->link);
    if (plx_list_empty(&g->container->groups))
        current = NULL;
    close(g->fd);
    container_put(g->container);
    free(g);
}

static struct vfio_group *group_known(struct vfio_container *c, int number)
{
    plx_list_for_each(it, &c->groups) {
        struct vfio_group *g = plx_list_entry(it, struct vfio_group, link);
        if (g->number == number)
            return g;
    }
    return NULL;
}

/* Under the lock. */
static int group_get(const char *addr, int number, struct vfio_group **out, struct plx_error *err)
{
    char path[64];
    struct vfio_group *g = current ? group_known(current, number) : NULL;
    if (g) {
        g->refs++;
        *out = g;
        return 0;
    }
    g = calloc(1, sizeof *g);
    int ret = g ? container_get(&g->container, err) : plx_fail(err, -ENOMEM, "out of memory");
    if (ret) {
        free(g);
        return ret;
    }
    plx_list_init(&g->link);
    g->refs = 1;
    g->number = number;
    snprintf(path, sizeof path, "/dev/vfio/%d", number);
    g->fd = open(path, O_RDWR | O_CLOEXEC);
    ret = g->fd < 0 ? group_refused(path, -errno, err) : group_attach(addr, g, err);
    if (ret) {
        if (g->fd >= 0)
            close(g->fd);
        container_put(g->container);
        free(g);
        return ret;
    }
    current = g->container;
    plx_list_add_tail(&current->groups, &g->link);
    *out = g;
    return 0;
}

/* ---- functions ---- */

static struct vfio_function *vfio_of(struct pci_function *f)
{
    return plx_container_of(f, struct vfio_function, f);
}

/* VFIO takes it away at each opening and reset. */
static int set_bus_master(const struct vfio_function *v, bool on)
{
    uint16_t command;
    const off_t at = (off_t)(v->config + PCI_COMMAND);
    if (pread(v->fd, &command, sizeof command, at) != sizeof command)
        return -EIO;
    command = (uint16_t)(on ? command | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER : command & ~PCI_COMMAND_MASTER);
    return pwrite(v->fd, &command, sizeof command, at) == sizeof command ? 0 : -EIO;
}

static int vfio_reset(struct pci_function *f)
{
    struct vfio_function *v = vfio_of(f);
    if (ioctl(v->fd, VFIO_DEVICE_RESET))
        return -errno;
    return set_bus_master(v, true);
}

static int set_irqs(const struct vfio_function *v, uint32_t index, const int *fds, unsigned n)
{
    const size_t bytes = sizeof(struct vfio_irq_set) + n * sizeof *fds;
    struct vfio_irq_set *set = malloc(bytes);
    if (!set)
        return -ENOMEM;
    *set = (struct vfio_irq_set){.argsz = (uint32_t)bytes,
                                 .flags = VFIO_IRQ_SET_ACTION_TRIGGER |
                                          (n ? VFIO_IRQ_SET_DATA_EVENTFD : VFIO_IRQ_SET_DATA_NONE),
                                 .index = index,
                                 .count = n};
    if (n)
        memcpy(set->data, fds, n * sizeof *fds);
    int ret = ioctl(v->fd, VFIO_DEVICE_SET_IRQS, set) ? -errno : 0;
    free(set);
    return ret;
}

static int vfio_set_vectors(struct pci_function *f, const int *fds, unsigned n)
{
    return set_irqs(vfio_of(f), VFIO_PCI_MSIX_IRQ_INDEX, fds, n);
}

static void function_free(struct vfio_function *v)
{
    if (v->f.regs)
        munmap((void *)(uintptr_t)v->f.regs, v->f.regs_bytes);
    if (v->bar.at)
        munmap((void *)(uintptr_t)v->bar.at, v->bar.bytes);
    if (v->fd >= 0)
        close(v->fd);
    if (v->f.lost_fd >= 0)
        close(v->f.lost_fd);
    if (v->group)
        group_put(v->group);
    if (v->space)
        pci_iommufd_put(v->space);
    free(v);
}

static void vfio_close(struct pci_function *f)
{
    struct vfio_function *v = vfio_of(f);
    set_bus_master(v, false);
    pthread_mutex_lock(&vfio_lock);
    function_free(v);
    pthread_mutex_unlock(&vfio_lock);
}

static int region_info(const struct vfio_function *v, uint32_t index, uint8_t room[INFO_BYTES])
{
    struct vfio_region_info *info = (void *)room;
    memset(room, 0, INFO_BYTES);
    info->argsz = INFO_BYTES;
    info->index = index;
    return ioctl(v->fd, VFIO_DEVICE_GET_REGION_INFO, info) ? -errno : 0;
}

static int vfio_map_bar(struct pci_function *f, unsigned number, struct pci_bar *out)
{
    struct vfio_function *v = vfio_of(f);
    _Alignas(8) uint8_t room[INFO_BYTES];
    const struct vfio_region_info *info = (const void *)room;
    int ret = v->bar.at ? -EBUSY : region_info(v, VFIO_PCI_BAR0_REGION_INDEX + number, room);
    if (!ret)
        ret = pci_bar_address(v->fd, v->config, number, &v->bar.bus);
    if (ret || !info->size || !(info->flags & VFIO_REGION_INFO_FLAG_MMAP))
        return ret ? ret : -ENOTSUP;
    void *at = mmap(NULL, info->size, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, (off_t)info->offset);
    if (at == MAP_FAILED)
        return -errno;
    v->bar.at = at;
    v->bar.bytes = info->size;
    *out = v->bar;
    return 0;
}

static const struct pci_function_ops function_ops = {
    .name = "vfio", .reset = vfio_reset, .set_vectors = vfio_set_vectors, .map_bar = vfio_map_bar, .close = vfio_close};

/* All of the registers, unless the kernel lets only pieces be mapped: then the first one. */
static int map_registers(struct vfio_function *v, bool *msix, struct plx_error *err)
{
    _Alignas(8) uint8_t room[INFO_BYTES];
    const struct vfio_region_info *info = (const void *)room;
    int ret = region_info(v, VFIO_PCI_BAR0_REGION_INDEX, room);
    if (ret || !info->size || !(info->flags & VFIO_REGION_INFO_FLAG_MMAP))
        return plx_fail(err, ret ? ret : -ENOTSUP, "its registers cannot be mapped");
    const bool caps = info->flags & VFIO_REGION_INFO_FLAG_CAPS;
    const struct vfio_region_info_cap_sparse_mmap *sparse =
        caps ? capability(info, info->cap_offset, INFO_BYTES, VFIO_REGION_INFO_CAP_SPARSE_MMAP) : NULL;
    *msix = !sparse && caps && capability(info, info->cap_offset, INFO_BYTES, VFIO_REGION_INFO_CAP_MSIX_MAPPABLE);
    v->f.regs_bytes = info->size;
    if (sparse && (!sparse->nr_areas || sparse->areas[0].offset))
        return plx_fail(err, -ENOTSUP, "its registers cannot be mapped beside its interrupts' table");
    if (sparse)
        v->f.regs_bytes = sparse->areas[0].size;
    void *regs = mmap(NULL, v->f.regs_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, (off_t)info->offset);
    if (regs == MAP_FAILED)
        return plx_fail(err, -errno, "cannot map its registers: %s", strerror(errno));
    v->f.regs = regs;
    return 0;
}

/* Where the MSI-X table is in BAR 0: PCIe 7.7.2. */
static void find_msix(struct vfio_function *v)
{
    uint8_t at = 0, head[2];
    uint32_t table;
    if (pread(v->fd, &at, 1, (off_t)(v->config + PCI_CAPABILITY_LIST)) != 1)
        return;
    for (unsigned i = 0; at && i < 48; i++, at = head[1]) {
        if (pread(v->fd, head, sizeof head, (off_t)(v->config + at)) != sizeof head)
            return;
        if (head[0] != PCI_CAP_ID_MSIX)
            continue;
        if (pread(v->fd, &table, sizeof table, (off_t)(v->config + at + PCI_MSIX_TABLE)) != sizeof table)
            return;
        const uint64_t offset = table & ~(uint32_t)MSIX_BIR_MASK;
        if (!(table & MSIX_BIR_MASK) && offset + (uint64_t)v->f.vectors * PCI_MSIX_ENTRY <= v->f.regs_bytes)
            v->f.msix = v->f.regs + offset;
        return;
    }
}

/* One descriptor for both: asked for by whoever takes the device out, and failed beyond repair. */
static void hear_of_loss(struct vfio_function *v)
{
    v->f.lost_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (v->f.lost_fd < 0)
        return;
    set_irqs(v, VFIO_PCI_REQ_IRQ_INDEX, &v->f.lost_fd, 1);
    set_irqs(v, VFIO_PCI_ERR_IRQ_INDEX, &v->f.lost_fd, 1);
}

static int function_setup(struct vfio_function *v, struct plx_error *err)
{
    _Alignas(8) uint8_t room[INFO_BYTES];
    bool msix = false;
    struct vfio_irq_info irq = {.argsz = sizeof irq, .index = VFIO_PCI_MSIX_IRQ_INDEX};
    int ret = map_registers(v, &msix, err);
    if (!ret)
        ret = region_info(v, VFIO_PCI_CONFIG_REGION_INDEX, room);
    if (ret)
        return ret;
    v->config = ((const struct vfio_region_info *)(const void *)room)->offset;
    if (ioctl(v->fd, VFIO_DEVICE_GET_IRQ_INFO, &irq) == 0)
        v->f.vectors = irq.count;
    if (msix)
        find_msix(v);
    hear_of_loss(v);
    ret = set_bus_master(v, true);
    return ret ? plx_fail(err, ret, "cannot write its configuration") : 0;
}

/* Under the lock. */
static int function_open(struct vfio_function *v, int number, struct plx_error *err)
{
    int ret = pci_iommufd_get(v->f.addr, &v->fd, &v->space, &v->f.iommu, err);
    if (ret <= 0)
        return ret ? ret : function_setup(v, err);
    ret = group_get(v->f.addr, number, &v->group, err);
    if (ret)
        return ret;
    v->f.iommu = &v->group->container->iommu;
    v->fd = ioctl(v->group->fd, VFIO_GROUP_GET_DEVICE_FD, v->f.addr);
    if (v->fd < 0)
        return plx_fail(err, -errno, "VFIO does not give it: %s", strerror(errno));
    return function_setup(v, err);
}

static int check_driver(const char *addr, int *group, struct plx_error *err)
{
    char name[64];
    if (pci_link("", name, sizeof name, PCI_DEVICES "/%s/subsystem", addr) < 0)
        return plx_fail(err, -ENODEV, "there is no such PCI function; `pollux nvme list` shows what there is");
    if (pci_link("", name, sizeof name, PCI_DEVICES "/%s/driver", addr) < 0)
        return plx_fail(err, -ENODEV, "it has no driver; `pollux nvme bind %s` gives it to vfio-pci", addr);
    if (strcmp(name, "vfio-pci") != 0)
        return plx_fail(err, -EBUSY, "it is with the kernel's driver %s; `pollux nvme bind %s` gives it to vfio-pci",
                        name, addr);
    if (pci_link("", name, sizeof name, PCI_DEVICES "/%s/iommu_group", addr) < 0)
        return plx_fail(err, -ENOTSUP,
                        "it has no IOMMU group: the IOMMU is off; turn it on in the firmware and the kernel's command "
                        "line (intel_iommu=on, amd_iommu=on)");
    *group = (int)strtoul(name, NULL, 10);
    return 0;
}

int pci_vfio_open(const char *addr, struct pci_function **out, struct plx_error *err)
{
    int number = 0, ret = check_driver(addr, &number, err);
    if (ret)
        return ret;
    struct vfio_function *v = calloc(1, sizeof *v);
    if (!v)
        return plx_fail(err, -ENOMEM, "out of memory");
    v->f.ops = &function_ops;
    v->f.lost_fd = v->fd = -1;
    snprintf(v->f.addr, sizeof v->f.addr, "%s", addr);
    v->f.vendor = (uint16_t)pci_number("", 0, PCI_DEVICES "/%s/vendor", addr);
    v->f.device = (uint16_t)pci_number("", 0, PCI_DEVICES "/%s/device", addr);
    pthread_mutex_lock(&vfio_lock);
    ret = function_open(v, number, err);
    if (ret)
        function_free(v);
    pthread_mutex_unlock(&vfio_lock);
    if (!ret)
        *out = &v->f;
    return ret;
}
