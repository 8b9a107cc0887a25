/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A regular file or a block device as a disk: opening it, with a sentence for whatever is wrong with it. It is read
 * and written in file_ops.c.
 *
 * Direct I/O where the file and the block size allow it, else through the page cache; in both cases what is written
 * is safe once a flush, a real fdatasync(), has completed. The file is locked for as long as it is open (for writing
 * by one, or for reading by many), so that no two processes serve it.
 */
#include "bdev/driver/file.h"

#include "base/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum {
    WRITE_UNIT = 4096,
    QUOTED = 130,        /* the longest name in a suggestion */
    UNMAP_MAX = 1 << 30, /* bytes: longer ones work, but take long */
};

static void file_close(struct plx_bdev *bdev)
{
    struct plx_file *f = (struct plx_file *)bdev;
    close(f->fd);
    free(f);
}

/* What is behind the last whole block is not seen. */
static int file_rescan(struct plx_bdev *bdev, struct plx_error *err)
{
    struct plx_file *f = (struct plx_file *)bdev;
    struct stat st;
    uint64_t size = 0;
    int ret = f->block_device ? ioctl(f->fd, BLKGETSIZE64, &size) : fstat(f->fd, &st);
    if (f->block_device && (ret < 0 || !size)) {
        plx_bdev_gone(bdev, "the device has no medium any more");
        return 0;
    }
    if (ret < 0)
        return plx_fail(err, -errno, "%s: cannot tell its size: %s", bdev->info.name, strerror(errno));
    if (!f->block_device)
        size = (uint64_t)st.st_size;
    if (size < bdev->info.block_size)
        return plx_fail(err, -EINVAL, "%s has become empty; it is taken to be as large as before", bdev->info.name);
    plx_bdev_resized(bdev, size / bdev->info.block_size);
    return 0;
}

static const struct plx_bdev_ops file_ops = {
    .close = file_close,
    .rescan = file_rescan,
    .channel_open = plx_file_channel_open,
    .submit = plx_file_submit,
    .abort = plx_file_abort,
};

/* ---- opening ---- */

/* A file's name as a word of a command that is suggested. */
static const char *quoted(const char *path, char out[QUOTED])
{
    return plx_text_quote(path, out, QUOTED) ? out : "FILE";
}

static int check_kind(const char *path, struct stat *st, struct plx_error *err)
{
    char name[QUOTED], url[QUOTED];
    if (stat(path, st) < 0) {
        int ret = -errno;
        snprintf(url, sizeof url, "file:%.*s", (int)sizeof url - 6, path);
        if (ret == -ENOENT && strchr(path, '?'))
            return plx_fail(err, ret, "there is no file %.110s; with settings after the ?, the name is %s", path,
                            quoted(url, name));
        if (ret == -ENOENT)
            return plx_fail(err, ret, "there is no file %.110s; to make one: truncate -s 10G %s", path,
                            quoted(path, name));
        return plx_fail(err, ret, "cannot open %.200s: %s", path, strerror(-ret));
    }
    if (S_ISREG(st->st_mode) || S_ISBLK(st->st_mode))
        return 0;
    return plx_fail(err, -EINVAL, "%.200s is %s; a disk is a regular file or a block device", path,
                    S_ISDIR(st->st_mode)    ? "a directory"
                    : S_ISCHR(st->st_mode)  ? "a character device"
                    : S_ISFIFO(st->st_mode) ? "a FIFO"
                                            : "a socket");
}

/* How often, and how far apart, a disk that is in use is tried: one second and a half. */
enum {
    LOCK_TRIES = 30,
    LOCK_PAUSE_MS = 50,
};

/*
 * The io_uring of a process that was killed is let go of by the kernel, and the file with it, a little later.
 * @return whether it is worth another try
 */
static bool wait_for_release(int *tries)
{
    if (*tries == LOCK_TRIES)
        return false;
    ++*tries;
    poll(NULL, 0, LOCK_PAUSE_MS);
    return true;
}

static int open_failed(const struct plx_url *url, int error, struct plx_error *err)
{
    const char *path = url->body;
    char ro[sizeof url->text + 8], name[QUOTED];
    bool refused = error == EACCES || error == EPERM || error == EROFS;
    if (error == EBUSY)
        return plx_fail(err, -error, "%.200s is in use: mounted, part of another device, or served already", path);
    if (refused && !plx_url_param(url, "ro") && access(path, R_OK) == 0) {
        snprintf(ro, sizeof ro, "%s%cro=1", url->text, url->nparams ? '&' : '?');
        return plx_fail(err, -error, "%.100s cannot be written to (%s); to only read it, its name is %s", path,
                        strerror(error), quoted(ro, name));
    }
    return plx_fail(err, -error, "cannot open %.200s: %s", path, strerror(error));
}

static int open_file(struct plx_file *f, const struct plx_url *url, struct stat *st, struct plx_error *err)
{
    const char *path = url->body;
    bool ro = f->bdev.info.read_only;
    int ret = check_kind(path, st, err);
    if (ret)
        return ret;
    f->block_device = S_ISBLK(st->st_mode);
    /*
     * Exclusively, as a mount would: then nobody can mount it. Not blocking, in case it is a FIFO by now; taken back
     * below.
     */
    int flags = (ro ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | (f->block_device && !ro ? O_EXCL : 0);
    int tries = 0;
    do
        f->fd = open(path, flags);
    while (f->fd < 0 && errno == EBUSY && wait_for_release(&tries));
    if (f->fd < 0)
        return open_failed(url, errno, err);
    mode_t kind = st->st_mode & S_IFMT;
    if (fstat(f->fd, st) < 0 || (st->st_mode & S_IFMT) != kind || fcntl(f->fd, F_SETFL, 0) < 0)
        return plx_fail(err, -EIO, "%.200s changed while it was opened", path);
    return 0;
}

/* ---- the lock ---- */

/* Whether a process has the file open, other than as our own descriptor. */
static bool has_open(const char *pid, const struct stat *file, int own_fd)
{
    char path[64];
    struct stat st;
    bool found = false;
    snprintf(path, sizeof path, "/proc/%s/fd", pid);
    DIR *dir = opendir(path);
    if (!dir)
        return false;
    for (struct dirent *e; !found && (e = readdir(dir));) {
        if (fstatat(dirfd(dir), e->d_name, &st, 0) < 0 || st.st_ino != file->st_ino || st.st_dev != file->st_dev)
            continue;
        found = own_fd < 0 || strtol(e->d_name, NULL, 10) != own_fd;
    }
    closedir(dir);
    return found;
}

/*
 * Locks of this kind tell nobody who holds them; who has the file open is the next best answer, where /proc gives it.
 */
static int locked_by_other(const struct plx_file *f, const char *path, const struct stat *st, bool *known,
                           struct plx_error *err)
{
    *known = has_open("self", st, f->fd);
    if (*known)
        return plx_fail(err, -EBUSY, "%.200s is open here already: it is named twice", path);
    DIR *proc = opendir("/proc");
    long holder = 0;
    for (struct dirent *e; proc && !holder && (e = readdir(proc));) {
        long pid = strtol(e->d_name, NULL, 10);
        if (pid > 0 && pid != getpid() && has_open(e->d_name, st, -1))
            holder = pid;
    }
    if (proc)
        closedir(proc);
    *known = holder != 0;
    if (holder)
        return plx_fail(err, -EBUSY, "%.200s is in use by process %ld", path, holder);
    return plx_fail(err, -EBUSY, "%.200s is in use by another process", path);
}

static int lock_file(struct plx_file *f, const char *path, const struct stat *st, struct plx_error *err)
{
    /*
     * A lock of the open file, not of the process: it ends when the file is closed, and a second open in this process
     * conflicts too.
     */
    struct flock lock = {.l_type = f->bdev.info.read_only ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET};
    int tries = 0;
    while (fcntl(f->fd, F_OFD_SETLK, &lock) < 0) {
        bool known;
        if (errno != EAGAIN && errno != EACCES) {
            plx_warn("%s: this file system has no locks (%s); see to it that nobody else writes to the file", path,
                     strerror(errno));
            return 0;
        }
        int ret = locked_by_other(f, path, st, &known, err);
        if (known || !wait_for_release(&tries))
            return ret;
    }
    return 0;
}

/* ---- what it is like ---- */

/* A number that the kernel tells of a block device, or of the one that it is a partition of; -1 when it does not. */
static int64_t queue_number(dev_t dev, const char *name)
{
    static const char *const places[] = {"queue", "../queue"};
    for (size_t i = 0; i < PLX_ARRAY_SIZE(places); i++) {
        char path[128], text[32];
        snprintf(path, sizeof path, "/sys/dev/block/%u:%u/%s/%s", major(dev), minor(dev), places[i], name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            continue;
        ssize_t n = read(fd, text, sizeof text - 1);
        close(fd);
        if (n <= 0)
            return -1;
        text[n] = 0;
        return strtoll(text, NULL, 10);
    }
    return -1;
}

static int find_size(struct plx_file *f, const char *path, const struct stat *st, struct plx_error *err)
{
    struct plx_bdev_info *info = &f->bdev.info;
    uint64_t size = (uint64_t)st->st_size;
    char name[QUOTED];
    int least = 512;
    if (f->block_device && (ioctl(f->fd, BLKGETSIZE64, &size) < 0 || ioctl(f->fd, BLKSSZGET, &least) < 0))
        return plx_fail(err, -errno, "cannot tell the size of %.200s: %s", path, strerror(errno));
    if (!info->block_size)
        info->block_size = (uint32_t)least;
    if (info->block_size != 512 && info->block_size != 4096)
        return plx_fail(err, -EINVAL, "%.200s: blocks of %u bytes; there are block=512 and block=4096", path,
                        info->block_size);
    if (info->block_size < (uint32_t)least)
        return plx_fail(err, -EINVAL, "%.200s has blocks of %d bytes, so block=%u is too small", path, least,
                        info->block_size);
    if (!size && f->block_device)
        return plx_fail(err, -EINVAL, "%.200s has no size: there is no medium in it", path);
    if (!size)
        return plx_fail(err, -EINVAL, "%.110s is empty; to give it a size: truncate -s 10G %s", path,
                        quoted(path, name));
    uint64_t rest = size % info->block_size;
    if (rest)
        return plx_fail(err, -EINVAL,
                        "%.80s has %llu bytes, no multiple of a block of %u; to lengthen it: truncate -s %llu %s", path,
                        (unsigned long long)size, info->block_size,
                        (unsigned long long)(size - rest + info->block_size), quoted(path, name));
    info->blocks = size / info->block_size;
    struct rlimit limit;
    if (!f->block_device && !info->read_only && getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < size)
        plx_warn("%s: writes behind byte %llu will fail, where files may not be larger (ulimit -f)", path,
                 (unsigned long long)limit.rlim_cur);
    return 0;
}

/* Tries one direct read: what the kernel says of itself is not known of all file systems. */
static bool direct_read_works(const struct plx_file *f)
{
    size_t bytes = f->bdev.info.block_size;
    void *mem = aligned_alloc(PLX_BUF_MIN, PLX_BUF_MIN);
    bool works = mem && (pread(f->fd, mem, bytes, 0) >= 0 || errno != EINVAL);
    free(mem);
    return works;
}

/* Sets up direct I/O if the file can do it in our blocks. */
static void try_direct(struct plx_file *f, const char *path)
{
    uint32_t block = f->bdev.info.block_size;
    struct statx sx;
    f->mem_align = WRITE_UNIT;
    f->len_align = block;
#ifdef STATX_DIOALIGN
    if (statx(f->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) == 0 && sx.stx_mask & STATX_DIOALIGN) {
        if (!sx.stx_dio_offset_align || sx.stx_dio_offset_align > block) {
            plx_info("%s: no direct I/O in blocks of %u bytes (it takes %u); using the page cache", path, block,
                     sx.stx_dio_offset_align);
            return;
        }
        f->mem_align = sx.stx_dio_mem_align;
        f->len_align = sx.stx_dio_offset_align;
    }
#endif
    (void)sx;
    if (f->mem_align <= PLX_BUF_MIN && fcntl(f->fd, F_SETFL, O_DIRECT) == 0) {
        f->direct = direct_read_works(f);
        if (!f->direct)
            fcntl(f->fd, F_SETFL, 0);
    }
    if (!f->direct)
        plx_info("%s: no direct I/O in blocks of %u bytes; using the page cache", path, block);
}

/*
 * Whether the file system punches holes, and how coarse. Tried behind the end of the file, where there is nothing
 * that could be lost; offsets too large for the file system say nothing, and requests find out.
 */
static uint32_t unmap_granularity(const struct plx_file *f, const struct stat *st)
{
    const struct plx_bdev_info *info = &f->bdev.info;
    if (info->read_only)
        return 0;
    if (f->block_device) {
        int64_t most = queue_number(st->st_rdev, "discard_max_bytes");
        int64_t granularity = queue_number(st->st_rdev, "discard_granularity");
        return most > 0 ? (uint32_t)plx_max_u64(info->block_size, granularity > 0 ? (uint64_t)granularity : 0) : 0;
    }
    off_t behind = (off_t)plx_align_up(info->blocks * info->block_size, WRITE_UNIT);
    int ret;
    do
        ret = fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, behind, info->block_size);
    while (ret < 0 && errno == EINTR);
    if (ret < 0 && errno != EFBIG && errno != EINVAL)
        return 0;
    return (uint32_t)plx_max_u64(info->block_size, plx_min_u64((uint64_t)st->st_blksize, 1 << 20));
}

static int file_fill_info(struct plx_file *f, const struct plx_url *url, const struct stat *st, struct plx_error *err)
{
    struct plx_bdev_info *info = &f->bdev.info;
    char canonical[PATH_MAX];
    info->write_unit = WRITE_UNIT;
    info->ops = 1 << PLX_BDEV_READ | 1 << PLX_BDEV_WRITE | 1 << PLX_BDEV_WRITE_ZEROES | 1 << PLX_BDEV_FLUSH;
    if (!f->block_device)
        info->ops |= 1 << PLX_BDEV_ALLOCATED;
    info->write_cache = true;
    info->unmap_reads_zero = !f->block_device;
    uint32_t granularity = unmap_granularity(f, st);
    if (granularity) {
        info->ops |= 1 << PLX_BDEV_UNMAP;
        info->unmap_granularity = granularity / info->block_size;
        info->max_unmap_blocks = UNMAP_MAX / info->block_size;
    }
    f->no_punch_hole = !granularity;
    if (f->block_device) {
        unsigned physical = 0;
        if (ioctl(f->fd, BLKPBSZGET, &physical) == 0 && physical >= info->block_size)
            info->write_unit = physical;
        info->rotational = queue_number(st->st_rdev, "rotational") == 1;
    }
    if (!realpath(url->body, canonical))
        return plx_fail(err, -errno, "cannot tell the full path of %.200s: %s", url->body, strerror(errno));
    return plx_url_uuid(url, canonical, info->uuid, err);
}

static int file_parse_params(struct plx_file *f, const struct plx_url *url, bool *direct, struct plx_error *err)
{
    int ret = plx_url_only(url, "block direct ro uuid", err);
    if (!ret)
        ret = plx_url_block(url, &f->bdev.info.block_size, err);
    if (!ret)
        ret = plx_url_bool(url, "ro", &f->bdev.info.read_only, err);
    if (!ret)
        ret = plx_url_bool(url, "direct", direct, err);
    if (!plx_url_param(url, "direct"))
        *direct = true;
    return ret;
}

static int file_open(const struct plx_url *url, struct plx_bdev **out, struct plx_error *err)
{
    struct stat st;
    bool direct;
    struct plx_file *f = calloc(1, sizeof *f);
    if (!f)
        return plx_fail(err, -ENOMEM, "out of memory");
    f->fd = -1;
    int ret = file_parse_params(f, url, &direct, err);
    if (!ret)
        ret = open_file(f, url, &st, err);
    if (!ret)
        ret = find_size(f, url->body, &st, err);
    if (!ret)
        ret = lock_file(f, url->body, &st, err);
    if (!ret)
        ret = file_fill_info(f, url, &st, err);
    if (ret) {
        if (f->fd >= 0)
            close(f->fd);
        free(f);
        return ret;
    }
    if (direct)
        try_direct(f, url->body);
    f->way = plx_aio_way_of(f->fd);
    f->bdev.ops = &file_ops;
    *out = &f->bdev;
    return 0;
}

const struct plx_bdev_driver plx_bdev_file = {
    .scheme = "file",
    .help = "PATH or file:PATH[?ro=1&block=N&direct=0]  a file or a block device",
    .open = file_open,
};
