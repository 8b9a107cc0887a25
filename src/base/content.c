/* SPDX-License-Identifier: BSD-3-Clause */
/* What is on a disk, by the signatures that libblkid knows: file systems, swap, members of RAID, LVM, ZFS, LUKS. */
#include "base/content.h"

#include <blkid/blkid.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* What does not fit is cut off. */
static __attribute__((format(printf, 3, 4))) void content_text(char *out, size_t size, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(out, size, fmt, ap);
    va_end(ap);
}

static const char *looked_up(blkid_probe pr, const char *name)
{
    const char *value = "";
    return blkid_probe_lookup_value(pr, name, &value, NULL) == 0 ? value : "";
}

/* A table of partitions; one without any is none. @return 1 or 0 */
static int partitions_text(blkid_probe pr, char *out, size_t size)
{
    char type[32]; /* the list makes the value stale */
    content_text(type, sizeof type, "%s", looked_up(pr, "PTTYPE"));
    blkid_partlist list = *type ? blkid_probe_get_partitions(pr) : NULL;
    int n = list ? blkid_partlist_numof_partitions(list) : 0;
    if (n > 0)
        content_text(out, size, "a partition table (%s) with %d partition%s", type, n, n == 1 ? "" : "s");
    return n > 0;
}

static int superblock_text(blkid_probe pr, char *out, size_t size)
{
    const char *type = looked_up(pr, "TYPE"), *usage = looked_up(pr, "USAGE"), *label = looked_up(pr, "LABEL");
    const char *kind = strcmp(usage, "filesystem") == 0 ? "file system"
                       : strcmp(usage, "raid") == 0     ? "part of an array or a pool"
                       : strcmp(usage, "crypto") == 0   ? "encrypted"
                                                        : "";
    if (!*type)
        return 0;
    content_text(out, size, "%s%s%s%s%s%s%s", type, *kind ? " (" : "", kind, *kind ? ")" : "", *label ? " \"" : "",
                 label, *label ? "\"" : "");
    return 1;
}

int plx_content(int fd, char *out, size_t size)
{
    int ret, found = 0;
    blkid_probe pr = blkid_new_probe();
    out[0] = 0;
    if (!pr)
        return -ENOMEM;
    errno = 0;
    if (blkid_probe_set_device(pr, fd, 0, 0)) {
        ret = errno ? -errno : -EIO;
        blkid_free_probe(pr);
        return ret;
    }
    blkid_probe_enable_superblocks(pr, 1);
    /* with those whose checksum is wrong: they were something once */
    blkid_probe_set_superblocks_flags(pr, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_USAGE | BLKID_SUBLKS_LABEL |
                                              BLKID_SUBLKS_BADCSUM);
    blkid_probe_enable_partitions(pr, 1);
    while ((ret = blkid_do_probe(pr)) == 0 && !found) {
        found = superblock_text(pr, out, size);
        if (!found)
            found = partitions_text(pr, out, size);
    }
    blkid_free_probe(pr);
    return found ? found : ret < 0 ? -EIO : 0;
}
