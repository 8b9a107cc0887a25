/* SPDX-License-Identifier: BSD-3-Clause */
#include "reactor/keep.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

long plx_keep_read(const char *path, void *data, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t have = 0;
    long ret = fd < 0 ? -errno : 0;
    while (ret >= 0 && have < size) {
        ssize_t n = read(fd, (char *)data + have, size - have);
        if (n == 0)
            break;
        if (n > 0)
            have += (size_t)n;
        else if (errno != EINTR)
            ret = -errno;
    }
    if (fd >= 0)
        close(fd);
    return ret ? ret : have == size ? -EFBIG : (long)have;
}

static int write_whole(int fd, const char *data, size_t len)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = write(fd, data + done, len - done);
        if (n > 0)
            done += (size_t)n;
        else if (n < 0 && errno != EINTR)
            return -errno;
    }
    return fsync(fd) ? -errno : 0;
}

/* A name is on stable storage when its directory is. */
static int sync_directory(const char *path)
{
    char dir[PATH_MAX];
    const char *slash = strrchr(path, '/');
    int n = snprintf(dir, sizeof dir, "%.*s", slash ? (int)(slash - path) + 1 : 1, slash ? path : ".");
    int fd = n < (int)sizeof dir ? open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (fd < 0)
        return n < (int)sizeof dir ? -errno : -ENAMETOOLONG;
    int ret = fsync(fd) ? -errno : 0;
    close(fd);
    return ret;
}

int plx_keep_write(const char *path, const void *data, size_t len)
{
    char beside[PATH_MAX];
    if (snprintf(beside, sizeof beside, "%s.new", path) >= (int)sizeof beside)
        return -ENAMETOOLONG;
    int fd = open(beside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    int ret = write_whole(fd, data, len);
    if (close(fd) && !ret)
        ret = -errno;
    if (!ret && rename(beside, path))
        ret = -errno;
    if (ret)
        unlink(beside);
    return ret ? ret : sync_directory(path);
}
