/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Functions by uio_pci_generic, where there is no IOMMU: they use physical addresses, and reach all memory. So what
 * they are told of is in huge pages, which do not move; and root alone has them. They cannot interrupt.
 */
#include "pci/function.h"
#include "pci/pci.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/pci_regs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HUGE_2M = 2 << 20, PATH = 300 };

#define PAGEMAP_PRESENT (UINT64_C(1) << 63)
#define PAGEMAP_FRAME ((UINT64_C(1) << 55) - 1)

struct uio_function {
    struct pci_function f;
    int fd;             /* of /dev/uioN, locked */
    int config;         /* its configuration space */
    struct pci_bar bar; /* that was mapped besides, or NULL */
};

/* ---- addresses ---- */

/* Whether memory is of huge pages that stay where they are, as proc(5) has it. */
static bool is_huge(const void *at)
{
    FILE *maps = fopen("/proc/self/smaps", "re");
    char line[512];
    bool here = false, huge = false;
    while (maps && fgets(line, sizeof line, maps)) {
        unsigned long long begin, end;
        if (sscanf(line, "%llx-%llx ", &begin, &end) == 2)
            here = (uintptr_t)at >= begin && (uintptr_t)at < end;
        else if (here && strncmp(line, "VmFlags:", 8) == 0)
            huge |= strstr(line, " ht") != NULL;
    }
    if (maps)
        fclose(maps);
    return huge;
}

static int uio_locate(struct pci_iommu *m, void *at, uint64_t *iova)
{
    const long page = sysconf(_SC_PAGESIZE);
    uint64_t entry = 0;
    (void)m;
    if (!is_huge(at))
        return -EFAULT;
    *(volatile char *)at; /* it may not be there yet */
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    const ssize_t n = pread(fd, &entry, sizeof entry, (off_t)((uintptr_t)at / (uintptr_t)page * sizeof entry));
    close(fd);
    if (n != sizeof entry || !(entry & PAGEMAP_PRESENT) || !(entry & PAGEMAP_FRAME))
        return -EPERM; /* frames are shown to root alone */
    *iova = (entry & PAGEMAP_FRAME) * (uint64_t)page;
    return *iova % HUGE_2M ? -EFAULT : 0;
}

static const struct pci_iommu_ops iommu_ops = {.locate = uio_locate};
static struct pci_iommu no_iommu = {.ops = &iommu_ops, .page = HUGE_2M};

/* ---- functions ---- */

static struct uio_function *uio_of(struct pci_function *f)
{
    return plx_container_of(f, struct uio_function, f);
}

static int uio_set_master(const struct uio_function *u, bool on)
{
    uint16_t command;
    if (pread(u->config, &command, sizeof command, PCI_COMMAND) != sizeof command)
        return -EIO;
    command = (uint16_t)(on ? command | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER : command & ~PCI_COMMAND_MASTER);
    return pwrite(u->config, &command, sizeof command, PCI_COMMAND) == sizeof command ? 0 : -EIO;
}

/* Nobody else has done it: not the kernel when somebody who was killed let go. */
static int uio_reset(struct pci_function *f)
{
    const struct uio_function *u = uio_of(f);
    int ret = uio_set_master(u, false);
    if (!ret)
        ret = pci_write("", "1", PCI_DEVICES "/%s/reset", f->addr);
    return ret ? ret : uio_set_master(u, true);
}

static int uio_set_vectors(struct pci_function *f, const int *fds, unsigned n)
{
    (void)f, (void)fds;
    return n ? -ENOTSUP : 0;
}

static void uio_free(struct uio_function *u)
{
    if (u->f.regs)
        munmap((void *)(uintptr_t)u->f.regs, u->f.regs_bytes);
    if (u->bar.at)
        munmap((void *)(uintptr_t)u->bar.at, u->bar.bytes);
    if (u->config >= 0)
        close(u->config);
    if (u->fd >= 0)
        close(u->fd);
    free(u);
}

static void uio_close(struct pci_function *f)
{
    uio_set_master(uio_of(f), false);
    uio_free(uio_of(f));
}

/* A file of sysfs that belongs to the function. @return a descriptor or -errno */
static int uio_open_file(const char *addr, const char *name, int flags)
{
    char path[PATH];
    pci_text(path, sizeof path, PCI_DEVICES "/%s/%s", addr, name);
    int fd = open(path, flags | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

/* All of a file of sysfs that is a base address register. @return the memory, or NULL with errno */
static void *uio_map_file(const char *addr, unsigned number, size_t *bytes)
{
    char name[16];
    struct stat st;
    void *at = MAP_FAILED;
    snprintf(name, sizeof name, "resource%u", number);
    int fd = uio_open_file(addr, name, O_RDWR);
    if (fd < 0) {
        errno = -fd;
        return NULL;
    }
    if (fstat(fd, &st) == 0 && st.st_size > 0) {
        *bytes = (size_t)st.st_size;
        at = mmap(NULL, *bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    }
    int error = errno;
    close(fd);
    errno = error;
    return at == MAP_FAILED ? NULL : at;
}

static int uio_map_bar(struct pci_function *f, unsigned number, struct pci_bar *out)
{
    struct uio_function *u = uio_of(f);
    int ret = u->bar.at ? -EBUSY : pci_bar_address(u->config, 0, number, &u->bar.bus);
    if (ret)
        return ret;
    u->bar.at = uio_map_file(f->addr, number, &u->bar.bytes);
    *out = u->bar;
    return u->bar.at ? 0 : -errno;
}

static const struct pci_function_ops function_ops = {
    .name = "uio", .reset = uio_reset, .set_vectors = uio_set_vectors, .map_bar = uio_map_bar, .close = uio_close};

/* /dev/uioN is not ours alone when it is open: so it is locked. */
static int uio_take(struct uio_function *u, struct plx_error *err)
{
    struct pci_names names;
    char path[PATH] = "";
    if (pci_names("", &names, PCI_DEVICES "/%s/uio", u->f.addr) == 0) {
        if (names.n)
            pci_text(path, sizeof path, "/dev/%s", names.v[0]->d_name);
        pci_names_free(&names);
    }
    u->fd = open(path, O_RDWR | O_CLOEXEC);
    if (u->fd < 0)
        return plx_fail(err, -errno, "cannot open %s: %s", path[0] ? path : "its /dev/uio", strerror(errno));
    if (flock(u->fd, LOCK_EX | LOCK_NB))
        return plx_fail(err, -EBUSY, "it is in use by another process, which has %s locked", path);
    return 0;
}

static int uio_setup(struct uio_function *u, struct plx_error *err)
{
    int ret = uio_take(u, err);
    if (ret)
        return ret;
    u->config = uio_open_file(u->f.addr, "config", O_RDWR);
    if (u->config < 0)
        return plx_fail(err, u->config, "cannot open its configuration: %s; that takes root", strerror(-u->config));
    ret = uio_reset(&u->f);
    if (ret)
        return plx_fail(err, ret, "it cannot be reset: %s", strerror(-ret));
    u->f.regs = uio_map_file(u->f.addr, 0, &u->f.regs_bytes);
    if (u->f.regs)
        return 0;
    ret = -errno;
    return plx_fail(err, ret, "cannot map its registers: %s; that takes root, and Secure Boot forbids it",
                    strerror(-ret));
}

int pci_uio_open(const char *addr, struct pci_function **out, struct plx_error *err)
{
    char type[32];
    if (pci_read("", type, sizeof type, PCI_DEVICES "/%s/iommu_group/type", addr) > 0 && strncmp(type, "DMA", 3) == 0)
        return plx_fail(err, -ENOTSUP,
                        "an IOMMU translates its addresses, so that uio_pci_generic is of no use; `pollux nvme bind "
                        "%s` gives it to vfio-pci",
                        addr);
    struct uio_function *u = calloc(1, sizeof *u);
    if (!u)
        return plx_fail(err, -ENOMEM, "out of memory");
    u->f.ops = &function_ops;
    u->f.iommu = &no_iommu;
    u->f.lost_fd = u->fd = u->config = -1;
    pci_text(u->f.addr, sizeof u->f.addr, "%s", addr);
    u->f.vendor = (uint16_t)pci_number("", 0, PCI_DEVICES "/%s/vendor", addr);
    u->f.device = (uint16_t)pci_number("", 0, PCI_DEVICES "/%s/device", addr);
    int ret = uio_setup(u, err);
    if (ret) {
        uio_free(u);
        return ret;
    }
    *out = &u->f;
    return 0;
}

/* ---- either way ---- */

static int open_any(const char *addr, struct pci_function **out, struct plx_error *err)
{
    char driver[64];
    pci_link("", driver, sizeof driver, PCI_DEVICES "/%s/driver", addr);
    return strcmp(driver, "uio_pci_generic") == 0 ? pci_uio_open(addr, out, err) : pci_vfio_open(addr, out, err);
}

pci_open_fn *pci_open = open_any;
