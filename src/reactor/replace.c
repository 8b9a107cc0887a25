/* SPDX-License-Identifier: BSD-3-Clause */
#include "reactor/replace.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int write_all(int fd, const char *data, size_t len)
{
    for (ssize_t n; len; data += n, len -= (size_t)n) {
        n = write(fd, data, len);
        if (n < 0 && errno != EINTR)
            return -errno;
        n = n < 0 ? 0 : n;
    }
    return fsync(fd) < 0 ? -errno : 0;
}

static int sync_folder(const char *path)
{
    char folder[PATH_MAX];
    const char *slash = strrchr(path, '/');
    size_t len = slash ? (size_t)(slash - path) : 0;
    snprintf(folder, sizeof folder, "%.*s", (int)len, path);
    int fd = open(len ? folder : slash ? "/" : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int ret = fd < 0 || fsync(fd) < 0 ? -errno : 0;
    if (fd >= 0)
        close(fd);
    return ret;
}

int plx_file_replace(const char *path, const void *data, size_t len, struct plx_error *err)
{
    char beside[PATH_MAX];
    if (snprintf(beside, sizeof beside, "%s.new", path) >= (int)sizeof beside)
        return plx_fail(err, -ENAMETOOLONG, "the path %.100s... is too long", path);
    int fd = open(beside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return plx_fail(err, -errno, "%s: %s", beside, strerror(errno));
    int ret = write_all(fd, data, len);
    if (close(fd) < 0 && !ret)
        ret = -errno;
    if (!ret && rename(beside, path) < 0)
        ret = -errno;
    if (!ret)
        ret = sync_folder(path);
    if (ret) {
        unlink(beside);
        return plx_fail(err, ret, "%s: %s", path, strerror(-ret));
    }
    return 0;
}

int64_t plx_file_read(const char *path, size_t max, char **out, struct plx_error *err)
{
    struct stat st;
    char *text = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC), ret = -EFBIG;
    if (fd < 0 || fstat(fd, &st) < 0) {
        ret = -errno;
        goto fail;
    }
    if ((uint64_t)st.st_size > max)
        goto fail;
    ret = -ENOMEM;
    text = malloc(max + 1);
    if (!text)
        goto fail;
    size_t len = 0;
    for (ssize_t n = 1; n && len < max; len += (size_t)n) {
        n = read(fd, text + len, max - len);
        if (n < 0) {
            ret = -errno;
            goto fail;
        }
    }
    close(fd);
    text[len] = 0;
    *out = text;
    return (int64_t)len;

fail:
    if (fd >= 0)
        close(fd);
    free(text);
    return plx_fail(err, ret, "%s: %s", path, strerror(-ret));
}
