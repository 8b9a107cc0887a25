/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The generic node of a namespace: opened, looked at, claimed, with a sentence for whatever is wrong with it. All of it
 * may block, but for nvme_uring_state().
 */
#include "nvme/uring.h"

#include "base/log.h"
#include "base/uuid.h"
#include "nvme/nvme.h"
#include "nvme/uring_ring.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/nvme_ioctl.h>
#include <poll.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum {
    TRIES = 30, /* of what a process may have that was killed, */
    PAUSE_MS = 50,
    SEGMENTS = 32, /* where the kernel says nothing, */
    KIB = 128,     /* of data with these */
    ZONED = 2,     /* CSI */
};

/* ---- sysfs ---- */

/* The first line of a file. @return its length, or 0 */
static size_t node_line(char *out, size_t size, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static size_t node_line(char *out, size_t size, const char *fmt, ...)
{
    char path[PATH_MAX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(path, sizeof path, fmt, ap);
    va_end(ap);
    out[0] = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t n = read(fd, out, size - 1);
    close(fd);
    out[n > 0 ? n : 0] = 0;
    out[strcspn(out, "\n")] = 0;
    return strlen(out);
}

/* What a link's last part is. */
static bool node_link(const char *path, char *out, size_t size)
{
    char target[PATH_MAX];
    ssize_t n = readlink(path, target, sizeof target - 1);
    if (n <= 0)
        return false;
    target[n] = 0;
    const char *slash = strrchr(target, '/');
    return snprintf(out, size, "%s", slash ? slash + 1 : target) < (int)size;
}

/* The folder that sysfs has for a character device. */
static void sysfs_of(const struct stat *st, char *out, size_t size)
{
    snprintf(out, size, "/sys/dev/char/%u:%u", major(st->st_rdev), minor(st->st_rdev));
}

bool nvme_uring_is_node(const char *path)
{
    char folder[64], link[80], class[32];
    struct stat st;
    if (stat(path, &st) < 0 || !S_ISCHR(st.st_mode))
        return false;
    sysfs_of(&st, folder, sizeof folder);
    snprintf(link, sizeof link, "%s/subsystem", folder);
    return node_link(link, class, sizeof class) && strcmp(class, "nvme-generic") == 0;
}

const char *nvme_uring_path(const char *url)
{
    if (strncmp(url, "ng:", 3) == 0)
        return url + 3;
    return nvme_uring_is_node(url) ? url : NULL;
}

/* Of a namespace that one controller has, that controller's state; else whether one of those that have it is live. */
enum nvme_uring_state nvme_uring_state(const struct nvme_uring_node *node)
{
    char state[32], folder[80];
    if (access(node->sysfs, F_OK) < 0)
        return NVME_URING_GONE;
    if (node_line(state, sizeof state, "%s/device/state", node->sysfs))
        return strcmp(state, "live") == 0 ? NVME_URING_LIVE : NVME_URING_BUSY;
    snprintf(folder, sizeof folder, "%s/device", node->sysfs);
    DIR *dir = opendir(folder);
    bool live = false;
    for (struct dirent *e; dir && !live && (e = readdir(dir));)
        live = strncmp(e->d_name, "nvme", 4) == 0 && node_line(state, sizeof state, "%s/%s/state", folder, e->d_name) &&
               strcmp(state, "live") == 0;
    if (dir)
        closedir(dir);
    return live ? NVME_URING_LIVE : NVME_URING_BUSY;
}

static unsigned queue_limit(const struct nvme_uring_node *node, const char *name, unsigned none)
{
    char text[32];
    return node_line(text, sizeof text, "/sys/class/block/%s/queue/%s", node->block, name)
               ? (unsigned)plx_min_u64(strtoull(text, NULL, 10), UINT32_MAX)
               : none;
}

/*
 * The kernel splits nothing. What it takes depends on where memory is, which nobody knows: each page may be a segment.
 * Memory that is not aligned is in one page more, which only matters for the largest transfers: they are bounced.
 */
static void node_limits(struct nvme_uring_node *node)
{
    const uint64_t bytes = queue_limit(node, "max_hw_sectors_kb", KIB) * UINT64_C(1024);
    node->page = (unsigned)sysconf(_SC_PAGESIZE);
    node->max_segments = (unsigned)plx_max_u64(queue_limit(node, "max_segments", SEGMENTS), 1);
    node->max_transfer =
        (uint32_t)plx_min_u64(plx_min_u64(bytes, node->max_segments * (uint64_t)node->page), NVME_MAX_TRANSFER);
}

/* ---- who uses it ---- */

static bool mounted_at(const char *dev, char *where, size_t size)
{
    char line[PATH_MAX], at[PATH_MAX], number[32];
    bool found = false;
    FILE *mounts = fopen("/proc/self/mountinfo", "re");
    while (mounts && !found && fgets(line, sizeof line, mounts))
        found = sscanf(line, "%*s %*s %31s %*s %4095s", number, at) == 2 && strcmp(number, dev) == 0;
    if (mounts)
        fclose(mounts);
    if (found)
        snprintf(where, size, "mounted at %.150s", at);
    return found;
}

/* What is made of a block device, a partition perhaps, whose folder that is. */
static bool block_used_as(const char *folder, char *how, size_t size)
{
    char dev[32], holders[PATH_MAX];
    if (node_line(dev, sizeof dev, "%s/dev", folder) && mounted_at(dev, how, size))
        return true;
    snprintf(holders, sizeof holders, "%.500s/holders", folder);
    DIR *dir = opendir(holders);
    bool found = false;
    for (struct dirent *e; dir && !found && (e = readdir(dir));) {
        found = e->d_name[0] != '.';
        if (found)
            snprintf(how, size, "a part of %.60s", e->d_name);
    }
    if (dir)
        closedir(dir);
    return found;
}

static bool block_is_used(const struct nvme_uring_node *node, char *how, size_t size)
{
    char folder[80], part[400];
    snprintf(folder, sizeof folder, "/sys/class/block/%s", node->block);
    if (block_used_as(folder, how, size))
        return true;
    DIR *dir = opendir(folder);
    bool found = false;
    for (struct dirent *e; dir && !found && (e = readdir(dir));) {
        if (strncmp(e->d_name, node->block, strlen(node->block)) != 0)
            continue;
        snprintf(part, sizeof part, "%s/%s", folder, e->d_name);
        found = block_used_as(part, how, size);
    }
    if (dir)
        closedir(dir);
    return found;
}

static int claim_refused(const struct nvme_uring_node *node, struct plx_error *err)
{
    char how[200];
    if (!block_is_used(node, how, sizeof how))
        snprintf(how, sizeof how, "in use by another program");
    return plx_fail(err, -EBUSY, "%s: its block device %s is %s; to only read it, the disk's name is ng:%s?ro=1",
                    node->path, node->block, how, node->path);
}

static int open_claim(const char *path, int *tries)
{
    int fd;
    while ((fd = open(path, O_RDONLY | O_EXCL | O_CLOEXEC)) < 0 && errno == EBUSY && (*tries)++ < TRIES)
        poll(NULL, 0, PAUSE_MS);
    return fd;
}

/*
 * The node itself can be opened by anybody at any time. What would use the disk uses its block device: as long as that
 * is open exclusively, it is not mounted, nor made part of another. Who may not open it can only look.
 */
static int claim_block(struct nvme_uring_node *node, struct plx_error *err)
{
    char path[48], how[200], dev[32], number[32];
    int tries = 0;
    struct stat st;
    snprintf(path, sizeof path, "/dev/%s", node->block);
    node->claim = open_claim(path, &tries);
    if (node->claim >= 0) {
        node_line(dev, sizeof dev, "/sys/class/block/%s/dev", node->block);
        if (fstat(node->claim, &st) == 0 && S_ISBLK(st.st_mode)) {
            snprintf(number, sizeof number, "%u:%u", major(st.st_rdev), minor(st.st_rdev));
            if (strcmp(number, dev) == 0)
                return 0;
        }
        close(node->claim);
        node->claim = -1;
        errno = ENOENT;
    }
    const int error = errno;
    if (error == EBUSY || block_is_used(node, how, sizeof how))
        return claim_refused(node, err);
    if (error != ENOENT)
        plx_warn("%s: %s cannot be opened (%s), and so not be kept from being mounted; see to it that nobody does",
                 node->path, path, strerror(error));
    return 0;
}

/* One process serves a node, or several read it: by a lock of the open file, as a file has it. */
static int lock_node(const struct nvme_uring_node *node, struct plx_error *err)
{
    struct flock lock = {.l_type = node->use == NVME_URING_READ ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET};
    for (int tries = 0; fcntl(node->fd, F_OFD_SETLK, &lock) < 0; tries++) {
        if (errno != EAGAIN && errno != EACCES)
            return 0; /* no locks here */
        if (tries == TRIES)
            return plx_fail(err, -EBUSY, "%s is in use by another process, or named twice", node->path);
        poll(NULL, 0, PAUSE_MS);
    }
    return 0;
}

/* ---- admin commands ---- */

void nvme_uring_ask(const struct nvme_uring_node *node, struct nvme_req *req)
{
    const struct nvme_words *w = &req->cmd;
    struct nvme_passthru_cmd64 cmd = {
        .opcode = w->opcode,
        .nsid = plx_get32(w->nsid),
        .cdw10 = plx_get32(w->cdw10),
        .cdw11 = plx_get32(w->cdw11),
        .cdw12 = plx_get32(w->cdw12),
        .cdw13 = plx_get32(w->cdw13),
        .cdw14 = plx_get32(w->cdw14),
        .cdw15 = plx_get32(w->cdw15),
    };
    if (req->len) {
        cmd.addr = (uintptr_t)req->data.iov->iov_base + req->data.offset;
        cmd.data_len = req->len;
    }
    req->lost = false;
    int ret = ioctl(node->fd, NVME_IOCTL_ADMIN64_CMD, &cmd);
    nvme_uring_result(req, ret < 0 ? -errno : ret, cmd.result);
}

int nvme_uring_pass(const struct nvme_uring_node *node, bool admin, const struct nvme_cmd *cmd, void *data,
                    uint32_t len, uint32_t timeout_ms, struct nvme_req *req)
{
    struct nvme_passthru_cmd64 c = {
        .opcode = cmd->opcode,
        .nsid = plx_get32(cmd->nsid),
        .addr = len ? (uintptr_t)data : 0,
        .data_len = len,
        .cdw10 = plx_get32(cmd->cdw10),
        .cdw11 = plx_get32(cmd->cdw11),
        .cdw12 = plx_get32(cmd->cdw12),
        .cdw13 = plx_get32(cmd->cdw13),
        .cdw14 = plx_get32(cmd->cdw14),
        .cdw15 = plx_get32(cmd->cdw15),
        .timeout_ms = timeout_ms,
    };
    int ret = ioctl(node->fd, admin ? NVME_IOCTL_ADMIN64_CMD : NVME_IOCTL_IO64_CMD, &c);
    if (ret < 0)
        return errno == EINTR ? -ETIMEDOUT : -errno; /* how it says that it has given the command up */
    *req = (struct nvme_req){.lost = false};
    nvme_uring_result(req, ret, c.result);
    return req->lost ? -EIO : 0;
}

/* @return 0, a status, or -errno */
static int node_identify(const struct nvme_uring_node *node, uint8_t cns, uint32_t nsid, void *page)
{
    struct nvme_passthru_cmd64 cmd = {
        .opcode = NVME_ADMIN_IDENTIFY, .nsid = nsid, .cdw10 = cns, .addr = (uintptr_t)page, .data_len = NVME_PAGE};
    int ret = ioctl(node->fd, NVME_IOCTL_ADMIN64_CMD, &cmd);
    return ret < 0 ? -errno : ret;
}

static int identify_failed(const struct nvme_uring_node *node, const char *what, int ret, struct plx_error *err)
{
    if (ret == -EACCES || ret == -EPERM)
        return plx_fail(err, ret, "%s: %s is refused: before Linux 6.2 only root (CAP_SYS_ADMIN) may ask for it",
                        node->path, what);
    return plx_fail(err, ret < 0 ? ret : -EIO, "%s: %s failed: %s", node->path, what,
                    ret < 0 ? strerror(-ret) : nvme_status_text((uint16_t)ret, false));
}

static void add_descriptor(struct nvme_uring_node *node, unsigned *at, uint8_t type, const void *id, uint8_t len)
{
    node->descriptors[*at] = type;
    node->descriptors[*at + 1] = len;
    memcpy(node->descriptors + *at + 4, id, len);
    *at += 4u + len;
}

/* The list of identifiers is for root alone; the kernel tells what stood in it. */
static void descriptors_of_kernel(struct nvme_uring_node *node)
{
    char text[128];
    uint8_t uuid[16], csi = 0;
    unsigned at = 0;
    memset(node->descriptors, 0, sizeof node->descriptors);
    if (node_line(text, sizeof text, "/sys/class/block/%s/wwid", node->block) && strncmp(text, "uuid.", 5) == 0 &&
        plx_uuid_parse(text + 5, uuid))
        add_descriptor(node, &at, NVME_NIDT_UUID, uuid, sizeof uuid);
    if (node_line(text, sizeof text, "/sys/class/block/%s/csi", node->block))
        csi = (uint8_t)strtoul(text, NULL, 10);
    else if (node_line(text, sizeof text, "/sys/class/block/%s/queue/zoned", node->block) && strcmp(text, "none") != 0)
        csi = ZONED;
    add_descriptor(node, &at, NVME_NIDT_CSI, &csi, 1);
}

static int node_look(struct nvme_uring_node *node, struct plx_error *err)
{
    int nsid = ioctl(node->fd, NVME_IOCTL_ID);
    if (nsid <= 0)
        return plx_fail(err, nsid < 0 ? -errno : -EINVAL, "%s: cannot tell its namespace: %s", node->path,
                        nsid < 0 ? strerror(errno) : "it has none");
    node->nsid = (uint32_t)nsid;
    int ret = node_identify(node, NVME_CNS_CTRL, 0, &node->ctrl);
    if (ret)
        return identify_failed(node, "Identify Controller", ret, err);
    ret = node_identify(node, NVME_CNS_NS, node->nsid, &node->ns);
    if (ret)
        return identify_failed(node, "Identify Namespace", ret, err);
    node->has_limits = node_identify(node, NVME_CNS_CSI_CTRL, 0, &node->limits) == 0;
    if (!node->has_limits)
        memset(&node->limits, 0, sizeof node->limits);
    if (node_identify(node, NVME_CNS_NS_DESCRIPTORS, node->nsid, node->descriptors))
        descriptors_of_kernel(node);
    node_limits(node);
    return 0;
}

int nvme_uring_look_again(struct nvme_uring_node *node)
{
    struct nvme_id_ns *ns = aligned_alloc(NVME_PAGE, NVME_PAGE);
    int ret = ns ? node_identify(node, NVME_CNS_NS, node->nsid, ns) : -ENOMEM;
    if (!ret) {
        pthread_mutex_lock(&node->lock);
        node->ns = *ns;
        pthread_mutex_unlock(&node->lock);
    }
    free(ns);
    return ret <= 0 ? ret : -EIO;
}

bool nvme_uring_identify(struct nvme_uring_node *node, const struct nvme_words *cmd, uint8_t page[4096])
{
    const uint32_t nsid = plx_get32(cmd->nsid);
    const plx_le32 only = plx_put32(node->nsid);
    memset(page, 0, NVME_PAGE);
    if (plx_get32(cmd->cdw11) >> 24) /* of another command set */
        return false;
    switch (plx_get32(cmd->cdw10)) {
    case NVME_CNS_CTRL:
        memcpy(page, &node->ctrl, NVME_PAGE);
        return true;
    case NVME_CNS_ACTIVE_NS: /* of the controller's, the one that is ours */
        if (nsid < node->nsid)
            memcpy(page, &only, sizeof only);
        return true;
    case NVME_CNS_CSI_CTRL:
        memcpy(page, &node->limits, NVME_PAGE);
        return node->has_limits;
    case NVME_CNS_NS_DESCRIPTORS:
        memcpy(page, node->descriptors, NVME_PAGE);
        return nsid == node->nsid;
    case NVME_CNS_NS:
        pthread_mutex_lock(&node->lock);
        memcpy(page, &node->ns, NVME_PAGE);
        pthread_mutex_unlock(&node->lock);
        return nsid == node->nsid;
    default:
        return false;
    }
}

/* ---- whether commands get through ---- */

static int ring_refused(const struct nvme_uring_node *node, int ret, struct plx_error *err)
{
    char text[16];
    node_line(text, sizeof text, "/proc/sys/kernel/io_uring_disabled");
    if (ret == -EINVAL || ret == -ENOSYS || ret == -EOPNOTSUPP || ret == -ENOTTY)
        return plx_fail(err, ret,
                        "%s: this kernel takes no commands by io_uring, as Linux 5.19 and newer do; the block "
                        "device /dev/%s can be served",
                        node->path, node->block);
    if ((ret == -EPERM || ret == -EACCES) && text[0] > '0')
        return plx_fail(err, ret,
                        "%s: io_uring is forbidden here; sysctl kernel.io_uring_disabled, now %s, allows it "
                        "when it is 0",
                        node->path, text);
    if (ret == -EPERM || ret == -EACCES)
        return plx_fail(err, ret,
                        "%s: io_uring is forbidden here, by a seccomp filter as containers have one, or a "
                        "security module; allow io_uring_setup, io_uring_enter and io_uring_register",
                        node->path);
    return plx_fail(err, ret, "%s: cannot make an io_uring: %s", node->path, strerror(-ret));
}

static int read_refused(const struct nvme_uring_node *node, int ret, struct plx_error *err)
{
    if (ret == -EACCES || ret == -EPERM)
        return plx_fail(err, ret,
                        "%s: the kernel takes commands from root (CAP_SYS_ADMIN) alone: others need Linux 6.2, "
                        "and a controller with a Commands Supported and Effects log",
                        node->path);
    return ring_refused(node, ret, err);
}

/* Reads a block, as will be read from then on. @return what the kernel answered */
static int read_first(const struct nvme_uring_node *node, struct plx_ring *ring, void *block, uint32_t len)
{
    const struct nvme_words cmd = {.opcode = NVME_IO_READ, .nsid = plx_put32(node->nsid)};
    const struct nvme_uring_data data = {.kind = NVME_URING_ONE, .addr = block, .count = 1};
    struct io_uring_cqe *cqe;
    int ret = plx_ring_adopt(ring);
    if (ret < 0)
        return ret;
    nvme_uring_fill(io_uring_get_sqe(&ring->ring), node->fd, &cmd, &data, len);
    do
        ret = io_uring_submit_and_wait(&ring->ring, 1);
    while (ret == -EINTR);
    if (ret >= 0)
        ret = io_uring_wait_cqe(&ring->ring, &cqe);
    return ret < 0 ? ret : cqe->res;
}

static int try_read(const struct nvme_uring_node *node, struct plx_error *err)
{
    const uint32_t format = nvme_ns_format(&node->ns), shift = format >> 16 & 0xff;
    struct plx_ring ring;
    int ret = nvme_uring_ring(&ring, 1);
    if (ret)
        return ring_refused(node, ret, err);
    if (shift >= 9 && shift <= 16 && !(format & 0xffff)) { /* else it is refused for that */
        void *block = aligned_alloc(NVME_PAGE, plx_max_u64(NVME_PAGE, 1u << shift));
        ret = block ? read_first(node, &ring, block, 1u << shift) : -ENOMEM;
        free(block);
    }
    plx_ring_destroy(&ring);
    return ret < 0 ? read_refused(node, ret, err) : 0; /* an error of the medium is for those who want that block */
}

/* ---- opening ---- */

static int node_open_failed(const char *path, const struct stat *st, int error, struct plx_error *err)
{
    char user[64], group[64], names[1024];
    struct passwd pw, *pwp = NULL;
    struct group gr, *grp = NULL;
    if (error != EACCES && error != EPERM)
        return plx_fail(err, -error, "cannot open %.200s: %s", path, strerror(error));
    snprintf(user, sizeof user, "%u", st->st_uid);
    snprintf(group, sizeof group, "%u", st->st_gid);
    if (getpwuid_r(st->st_uid, &pw, names, sizeof names, &pwp) == 0 && pwp)
        snprintf(user, sizeof user, "%s", pw.pw_name);
    if (getgrgid_r(st->st_gid, &gr, names, sizeof names, &grp) == 0 && grp)
        snprintf(group, sizeof group, "%s", gr.gr_name);
    return plx_fail(
        err, -error,
        "cannot open %.100s: %s: it belongs to user %.40s and group %.40s, with mode %03o; a udev rule gives it "
        "to a group: SUBSYSTEM==\"nvme-generic\", GROUP=\"disk\", MODE=\"0660\"",
        path, strerror(error), user, group, st->st_mode & 0777);
}

static int open_node(struct nvme_uring_node *node, const char *path, struct plx_error *err)
{
    struct stat st;
    if (stat(path, &st) < 0)
        return plx_fail(err, -errno, "cannot open %.200s: %s", path, strerror(errno));
    if (!nvme_uring_is_node(path))
        return plx_fail(err, -EINVAL, "%.200s is not the generic node of an NVMe namespace; one is /dev/ng0n1", path);
    sysfs_of(&st, node->sysfs, sizeof node->sysfs);
    if (!node_link(node->sysfs, node->name, sizeof node->name) || strncmp(node->name, "ng", 2) != 0)
        return plx_fail(err, -EINVAL, "%.200s: the kernel does not tell its name in %s", path, node->sysfs);
    snprintf(node->block, sizeof node->block, "nvme%s", node->name + 2);
    const bool writes = node->use == NVME_URING_SERVE || node->use == NVME_URING_PASS;
    node->fd = open(path, (writes ? O_RDWR : O_RDONLY) | O_CLOEXEC);
    if (node->fd < 0)
        return node_open_failed(path, &st, errno, err);
    struct stat now;
    if (fstat(node->fd, &now) < 0 || now.st_rdev != st.st_rdev)
        return plx_fail(err, -EIO, "%.200s changed while it was opened", path);
    return 0;
}

int nvme_uring_open(const char *path, enum nvme_uring_use use, struct nvme_uring_node **out, struct plx_error *err)
{
    struct nvme_uring_node *node = calloc(1, sizeof *node);
    if (!node)
        return plx_fail(err, -ENOMEM, "out of memory");
    node->fd = node->claim = -1;
    node->use = use;
    pthread_mutex_init(&node->lock, NULL);
    snprintf(node->path, sizeof node->path, "%s", path);
    const bool uses = use == NVME_URING_SERVE || use == NVME_URING_READ;
    int ret = open_node(node, path, err);
    if (!ret && uses)
        ret = lock_node(node, err);
    if (!ret && use == NVME_URING_SERVE)
        ret = claim_block(node, err);
    if (!ret)
        ret = node_look(node, err);
    if (!ret && uses)
        ret = try_read(node, err);
    if (ret)
        nvme_uring_close(node);
    else
        *out = node;
    return ret;
}

void nvme_uring_where(struct nvme_where *w, struct nvme_uring_node *node)
{
    nvme_where_init(w);
    w->o.transport = &nvme_uring;
    w->o.node = node;
    w->o.nsid = node->nsid;
    w->o.max_transfer = node->max_transfer;
    w->o.depth = NVME_DEPTH_MAX;
    w->o.kato_ms = w->o.timeout_ms = 0; /* the kernel's */
    w->o.addrs.n = w->npaths = 1;
    memcpy(w->o.addrs.list[0].name, node->path, sizeof node->path);
    w->paths[0] = w->o.addrs;
}

void nvme_uring_close(struct nvme_uring_node *node)
{
    if (node->fd >= 0)
        close(node->fd);
    if (node->claim >= 0)
        close(node->claim);
    pthread_mutex_destroy(&node->lock);
    free(node);
}
