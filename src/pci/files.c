/* SPDX-License-Identifier: BSD-3-Clause */
/* Reading and writing what the kernel has of files, below a root. */
#include "pci/pci.h"

#include "base/le.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

void pci_text(char *out, size_t size, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(out, size, fmt, ap);
    va_end(ap);
}

/* What does not fit becomes "", which is no file. */
static void file_path(char path[PATH_MAX], const char *root, const char *fmt, va_list ap)
{
    int n = snprintf(path, PATH_MAX, "%s", root);
    int m = n < PATH_MAX ? vsnprintf(path + n, (size_t)(PATH_MAX - n), fmt, ap) : PATH_MAX;
    if (n + m >= PATH_MAX)
        path[0] = 0;
}

#define PATH_OF(path, root, fmt)                                                                                       \
    do {                                                                                                               \
        va_list ap_;                                                                                                   \
        va_start(ap_, fmt);                                                                                            \
        file_path(path, root, fmt, ap_);                                                                               \
        va_end(ap_);                                                                                                   \
    } while (0)

static int read_first_line(const char *path, char *out, size_t size)
{
    out[0] = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return -errno;
    ssize_t n = read(fd, out, size - 1);
    int ret = n < 0 ? -errno : 0;
    close(fd);
    out[n < 0 ? 0 : n] = 0;
    out[strcspn(out, "\n")] = 0;
    size_t len = strlen(out);
    while (len && out[len - 1] == ' ')
        out[--len] = 0;
    return ret ? ret : (int)len;
}

int pci_bar_address(int fd, uint64_t config, unsigned number, uint64_t *out)
{
    enum { BAR_FIRST = 0x10, BAR_IO = 1, BAR_TYPE = 6, BAR_64 = 4, BAR_FLAGS = 15 };
    plx_le32 bar[2];
    memset(bar, 0, sizeof bar);
    const size_t bytes = number < 5 ? sizeof bar : sizeof bar[0];
    if (pread(fd, bar, bytes, (off_t)(config + BAR_FIRST + 4 * number)) != (ssize_t)bytes)
        return -EIO;
    const uint32_t low = plx_get32(bar[0]);
    if (!(low & ~(uint32_t)BAR_FLAGS) || low & BAR_IO)
        return -ENXIO;
    *out = (low & ~(uint32_t)BAR_FLAGS) | ((low & BAR_TYPE) == BAR_64 ? (uint64_t)plx_get32(bar[1]) << 32 : 0);
    return 0;
}

int pci_read(const char *root, char *out, size_t size, const char *fmt, ...)
{
    char path[PATH_MAX];
    PATH_OF(path, root, fmt);
    return read_first_line(path, out, size);
}

int64_t pci_number(const char *root, int64_t otherwise, const char *fmt, ...)
{
    char path[PATH_MAX], text[32], *end;
    PATH_OF(path, root, fmt);
    if (read_first_line(path, text, sizeof text) <= 0)
        return otherwise;
    long long v = strtoll(text, &end, 0);
    return end == text || *end ? otherwise : v;
}

dev_t pci_device_number(const char *root, const char *fmt, ...)
{
    char path[PATH_MAX], text[32];
    unsigned major_number, minor_number;
    PATH_OF(path, root, fmt);
    if (read_first_line(path, text, sizeof text) <= 0 || sscanf(text, "%u:%u", &major_number, &minor_number) != 2)
        return 0;
    return makedev(major_number, minor_number);
}

int pci_link(const char *root, char *out, size_t size, const char *fmt, ...)
{
    char path[PATH_MAX], target[PATH_MAX];
    PATH_OF(path, root, fmt);
    out[0] = 0;
    ssize_t n = readlink(path, target, sizeof target - 1);
    if (n < 0)
        return -errno;
    target[n] = 0;
    const char *slash = strrchr(target, '/');
    return snprintf(out, size, "%s", slash ? slash + 1 : target);
}

int pci_write(const char *root, const char *text, const char *fmt, ...)
{
    char path[PATH_MAX], line[PLX_PCI_NAME + 1];
    PATH_OF(path, root, fmt);
    int n = snprintf(line, sizeof line, "%s\n", text);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int ret = write(fd, line, (size_t)n) == n ? 0 : -errno;
    close(fd);
    return ret;
}

bool pci_exists(const char *root, const char *fmt, ...)
{
    char path[PATH_MAX];
    PATH_OF(path, root, fmt);
    return access(path, F_OK) == 0;
}

/* Nothing is asked of a file server: one that hangs would hang us. */
static int stat_at(int fd, const char *path, struct pci_stat *out)
{
    struct statx sx;
    *out = (struct pci_stat){0};
    if (statx(fd, path, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT | (*path ? 0 : AT_EMPTY_PATH), STATX_TYPE | STATX_INO,
              &sx))
        return -errno;
    *out = (struct pci_stat){.mode = sx.stx_mode,
                             .rdev = makedev(sx.stx_rdev_major, sx.stx_rdev_minor),
                             .dev = makedev(sx.stx_dev_major, sx.stx_dev_minor),
                             .ino = sx.stx_ino};
    return 0;
}

int pci_stat(const char *root, struct pci_stat *out, const char *fmt, ...)
{
    char path[PATH_MAX];
    PATH_OF(path, root, fmt);
    return *path ? stat_at(AT_FDCWD, path, out) : -ENAMETOOLONG;
}

int pci_fstat(int fd, struct pci_stat *out)
{
    return stat_at(fd, "", out);
}

static int no_dots(const struct dirent *e)
{
    return strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
}

int pci_names(const char *root, struct pci_names *out, const char *fmt, ...)
{
    char path[PATH_MAX];
    PATH_OF(path, root, fmt);
    out->v = NULL;
    out->n = scandir(path, &out->v, no_dots, versionsort);
    if (out->n >= 0)
        return 0;
    out->n = 0;
    return -errno;
}

void pci_names_free(struct pci_names *names)
{
    for (int i = 0; i < names->n; i++)
        free(names->v[i]);
    free(names->v);
    *names = (struct pci_names){0};
}
