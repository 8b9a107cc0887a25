/* SPDX-License-Identifier: BSD-3-Clause */
#include "pci_tree.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { NODES_MAX = 64, FDS_MAX = 1024 };

static char root[64];
static struct node {
    char name[64];
    char kind;
    unsigned major_number, minor_number;
    uint64_t ino;
    bool claimed;
} nodes[NODES_MAX];
static unsigned nnodes;
static bool exclusive[FDS_MAX];
static char hidden[32]; /* what nobody may look into */

int __real_statx(int fd, const char *path, int flags, unsigned mask, struct statx *sx);
int __wrap_statx(int fd, const char *path, int flags, unsigned mask, struct statx *sx);
int __real_open64(const char *path, int flags, mode_t mode);
int __wrap_open64(const char *path, int flags, mode_t mode);

int __wrap_statx(int fd, const char *path, int flags, unsigned mask, struct statx *sx)
{
    if (*hidden && strstr(path, hidden)) {
        errno = EACCES;
        return -1;
    }
    int ret = __real_statx(fd, path, flags, mask, sx);
    for (unsigned i = 0; !ret && i < nnodes; i++) {
        if (nodes[i].ino != sx->stx_ino || !S_ISREG(sx->stx_mode))
            continue;
        sx->stx_mode = (uint16_t)(nodes[i].kind == 'b' ? S_IFBLK : S_IFCHR);
        sx->stx_rdev_major = nodes[i].major_number;
        sx->stx_rdev_minor = nodes[i].minor_number;
    }
    return ret;
}

static struct node *find_node(const char *name)
{
    for (unsigned i = 0; i < nnodes; i++)
        if (strcmp(nodes[i].name, name) == 0)
            return &nodes[i];
    return NULL;
}

int __wrap_open64(const char *path, int flags, mode_t mode)
{
    char *dev = strstr(path, "/dev/");
    struct node *node = dev && *root ? find_node(dev + strlen("/dev/")) : NULL;
    if (node && node->claimed && flags & O_EXCL) {
        errno = EBUSY;
        return -1;
    }
    int fd = __real_open64(path, flags, mode);
    if (fd >= 0 && fd < FDS_MAX)
        exclusive[fd] = node && flags & O_EXCL;
    return fd;
}

unsigned tree_claims(void)
{
    unsigned n = 0;
    for (int fd = 0; fd < FDS_MAX; fd++)
        n += exclusive[fd] && fcntl(fd, F_GETFD) >= 0;
    return n;
}

/* ---- files ---- */

static void place(char path[PATH_MAX], const char *fmt, va_list ap)
{
    int n = snprintf(path, PATH_MAX, "%s", root);
    vsnprintf(path + n, (size_t)(PATH_MAX - n), fmt, ap);
    for (char *p = path + n + 1; (p = strchr(p, '/')); p++) {
        *p = 0;
        if (mkdir(path, 0755) < 0)
            assert_int_equal(errno, EEXIST);
        *p = '/';
    }
}

#define PLACE(path, fmt)                                                                                               \
    do {                                                                                                               \
        va_list ap_;                                                                                                   \
        va_start(ap_, fmt);                                                                                            \
        place(path, fmt, ap_);                                                                                         \
        va_end(ap_);                                                                                                   \
    } while (0)

void tree_file(const char *text, const char *fmt, ...)
{
    char path[PATH_MAX];
    PLACE(path, fmt);
    if (path[strlen(path) - 1] == '/') /* a folder */
        return;
    FILE *f = fopen(path, "we");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

void tree_link(const char *target, const char *fmt, ...)
{
    char path[PATH_MAX];
    PLACE(path, fmt);
    unlink(path);
    assert_int_equal(symlink(target, path), 0);
}

void tree_gone(const char *fmt, ...)
{
    char path[PATH_MAX];
    PLACE(path, fmt);
    for (unsigned i = 0; i < nnodes; i++) /* its number may be that of the next file */
        if (strncmp(path + strlen(root), "/dev/", 5) == 0 && strcmp(path + strlen(root) + 5, nodes[i].name) == 0)
            nodes[i].ino = 0;
    assert_int_equal(remove(path), 0);
}

void tree_node(const char *name, char kind, unsigned major_number, unsigned minor_number)
{
    char path[PATH_MAX];
    struct stat st;
    tree_file("", "/dev/%s", name);
    snprintf(path, sizeof path, "%s/dev/%s", root, name);
    assert_int_equal(truncate(path, kind == 'b' ? TREE_DISK_BYTES : 0), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_true(nnodes < NODES_MAX);
    struct node *node = &nodes[nnodes++];
    *node = (struct node){.kind = kind, .major_number = major_number, .minor_number = minor_number, .ino = st.st_ino};
    snprintf(node->name, sizeof node->name, "%s", name);
}

void tree_claim(const char *name)
{
    find_node(name)->claimed = true;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st, (void)flag, (void)ftw;
    return remove(path);
}

void tree_remove(void)
{
    if (*root)
        nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    root[0] = 0;
    nnodes = 0;
    hidden[0] = 0;
    memset(exclusive, 0, sizeof exclusive);
}

const char *tree_root(void)
{
    return root;
}

/* ---- the machine ---- */

#define NOTHING_MOUNTED "20 1 0:20 / / rw - tmpfs tmpfs rw\n21 20 0:21 / /proc rw - proc proc rw\n"

const char *tree_make(void)
{
    tree_remove();
    snprintf(root, sizeof root, "/tmp/pci-tree.XXXXXX");
    assert_non_null(mkdtemp(root));
    tree_file("Filename\tType\tSize\tUsed\tPriority\n", "/proc/swaps");
    tree_file("quiet\n", "/proc/cmdline");
    tree_process(1, "init", 1, NOTHING_MOUNTED);
    tree_process(100, "agent", 1, NOTHING_MOUNTED);
    tree_link("pid:[4026531836]", "/proc/self/ns/pid");
    tree_link("mnt:[1]", "/proc/self/ns/mnt");
    tree_file(NOTHING_MOUNTED, "/proc/self/mountinfo");
    tree_file("test\n", "/proc/self/comm");
    tree_file("", PCI_DRIVERS "/nvme/unbind");
    tree_file("", PCI_DRIVERS "/vfio-pci/unbind");
    tree_file("", PCI_DRIVERS "/uio_pci_generic/unbind");
    tree_file("", "/sys/bus/pci/drivers_probe");
    tree_file("0x020000\n", PCI_DEVICES "/0000:00:03.0/class"); /* a network card */
    tree_file("", "/run/");
    return root;
}

void tree_device(unsigned i)
{
    char address[32], name[32];
    snprintf(address, sizeof address, "0000:%02x:00.0", i);
    snprintf(name, sizeof name, "nvme%u", i);
    tree_file("0x010802\n", PCI_DEVICES "/%s/class", address);
    tree_file("0x144d\n", PCI_DEVICES "/%s/vendor", address);
    tree_file("0xa80a\n", PCI_DEVICES "/%s/device", address);
    tree_file("0\n", PCI_DEVICES "/%s/numa_node", address);
    tree_file("(null)\n", PCI_DEVICES "/%s/driver_override", address);
    tree_file("", PCI_DEVICES "/%s/resource0", address);
    tree_link("../../drivers/nvme", PCI_DEVICES "/%s/driver", address);
    char group[64];
    snprintf(group, sizeof group, "../../../../kernel/iommu_groups/%u", 10 + i);
    tree_link(group, PCI_DEVICES "/%s/iommu_group", address);
    tree_file("DMA-FQ\n", "/sys/kernel/iommu_groups/%u/type", 10 + i);
    tree_file("", "/sys/kernel/iommu_groups/%u/devices/%s", 10 + i, address);
    tree_file("", PCI_DEVICES "/%s/nvme/%s/", address, name);
    tree_file("live\n", "/sys/class/nvme/%s/state", name);
    tree_file("Samsung SSD 980 PRO 1TB                 \n", "/sys/class/nvme/%s/model", name);
    char text[64];
    snprintf(text, sizeof text, "SERIAL%u             \n", i);
    tree_file(text, "/sys/class/nvme/%s/serial", name);
    tree_file("5B2QGXA7\n", "/sys/class/nvme/%s/firmware_rev", name);
    snprintf(text, sizeof text, "%s\n", address);
    tree_file(text, "/sys/class/nvme/%s/address", name);
    snprintf(text, sizeof text, "240:%u\n", i);
    tree_file(text, "/sys/class/nvme/%s/dev", name);
    tree_node(name, 'c', 240, i);
    tree_file("", "/sys/class/nvme-subsystem/nvme-subsys%u/%s/", i, name);
}

static void block_device(const char *name, unsigned major_number, unsigned minor_number)
{
    char text[64];
    snprintf(text, sizeof text, "%u:%u\n", major_number, minor_number);
    tree_file(text, "/sys/class/block/%s/dev", name);
    snprintf(text, sizeof text, "%u\n", TREE_DISK_BYTES / 512);
    tree_file(text, "/sys/class/block/%s/size", name);
    tree_file("", "/sys/class/block/%s/holders/", name);
    tree_node(name, 'b', major_number, minor_number);
}

void tree_namespace(unsigned i, unsigned n)
{
    char name[16], generic[16], text[64];
    snprintf(name, sizeof name, "nvme%un%u", i, n);
    snprintf(generic, sizeof generic, "ng%un%u", i, n);
    block_device(name, TREE_MAJOR, 64 * i + 16 * n);
    tree_file("", "/sys/class/nvme/nvme%u/%s/", i, name);
    snprintf(text, sizeof text, "241:%u\n", 64 * i + 16 * n);
    tree_file(text, "/sys/class/nvme-generic/%s/dev", generic);
    tree_node(generic, 'c', 241, 64 * i + 16 * n);
}

void tree_partition(unsigned i, unsigned n, unsigned p)
{
    char name[32];
    snprintf(name, sizeof name, "nvme%un%up%u", i, n, p);
    block_device(name, TREE_MAJOR, 64 * i + 16 * n + p);
    tree_file("1\n", "/sys/class/block/nvme%un%u/%s/partition", i, n, name);
}

void tree_holder(const char *name, unsigned major_number, unsigned minor_number, const char *on)
{
    block_device(name, major_number, minor_number);
    tree_file("", "/sys/class/block/%s/holders/%s", on, name);
}

void tree_process(unsigned pid, const char *comm, unsigned ns, const char *mountinfo)
{
    char text[64];
    snprintf(text, sizeof text, "mnt:[%u]", ns);
    tree_link(text, "/proc/%u/ns/mnt", pid);
    snprintf(text, sizeof text, "%s\n", comm);
    tree_file(text, "/proc/%u/comm", pid);
    tree_file(mountinfo, "/proc/%u/mountinfo", pid);
    tree_file("", "/proc/%u/fd/", pid);
    tree_file("", "/proc/%u/map_files/", pid);
}

void tree_hide(unsigned pid)
{
    snprintf(hidden, sizeof hidden, "/proc/%u/", pid);
}

void tree_opens(unsigned pid, const char *path)
{
    char target[PATH_MAX];
    snprintf(target, sizeof target, "%s%s", root, path);
    tree_link(target, "/proc/%u/fd/7", pid);
}

void tree_maps(unsigned pid, const char *path)
{
    char target[PATH_MAX];
    snprintf(target, sizeof target, "%s%s", root, path);
    tree_link(target, "/proc/%u/map_files/7f0000000000-7f0000001000", pid);
}

void tree_write(const char *name, uint64_t offset, const void *bytes, size_t n)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/dev/%s", root, name);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, n, (off_t)offset), n);
    close(fd);
}

bool tree_run(const char *name, const char *const *words)
{
    char path[PATH_MAX], program[PATH_MAX], *argv[8] = {0};
    unsigned n = 0;
    pid_t child;
    int status;
    snprintf(path, sizeof path, "%s/dev/%s", root, name);
    snprintf(program, sizeof program, "/sbin/%s", words[0]);
    for (; words[n]; n++)
        argv[n] = (char *)(uintptr_t)words[n];
    argv[n] = path;
    char *env[] = {NULL};
    posix_spawn_file_actions_t quiet;
    posix_spawn_file_actions_init(&quiet);
    posix_spawn_file_actions_addopen(&quiet, 1, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addopen(&quiet, 2, "/dev/null", O_WRONLY, 0);
    int ret = posix_spawn(&child, program, &quiet, NULL, argv, env);
    posix_spawn_file_actions_destroy(&quiet);
    if (ret)
        return false;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    return true;
}
