/* SPDX-License-Identifier: BSD-3-Clause */
#include "compare/cells.h"
#include "compare/kernel_notes.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/util.h"

#define NVMET CONFIGFS "/nvmet"
#define FABRICS "/dev/nvme-fabrics"

enum { DEVICE_MS = 10000, STEP_MS = 10, FIRST_PORT = 20000, SOME_PORTS = 10000, TRIES = 100 };

/* ---- what is there ---- */

/* What cannot be noted is not set up. */
static bool may_set_up(const struct compare_kernel *k, char *reason, size_t size)
{
    bool root = geteuid() == 0;
    if (root && !k->problem[0])
        return true;
    snprintf(reason, size, "%s", root ? k->problem : "only root can set the kernel's side up");
    return false;
}

static bool is_loaded(const char *name)
{
    char path[96];
    snprintf(path, sizeof path, "/sys/module/%s", name);
    return access(path, F_OK) == 0;
}

/* Loads a module that is not there, after it and those that come with it were noted, to be taken out in turn. */
static bool have_module(struct compare_kernel *k, const char *name, const char *parameter)
{
    static const char *const together[] = {"configfs",  "nvme_common",  "nvme_keyring", "nvme_auth",
                                           "nvme_core", "nvme_fabrics", "nvmet"};
    if (is_loaded(name))
        return true;
    for (size_t i = 0; i < PLX_ARRAY_SIZE(together) && strcmp(name, "brd"); i++)
        if (strcmp(together[i], name) && !is_loaded(together[i]))
            kernel_note_module(k, together[i]);
    kernel_note_module(k, name);
    const char *const words[] = {"modprobe", name, parameter, NULL};
    kernel_run(words);
    return is_loaded(name);
}

bool compare_kernel_target_possible(struct compare_kernel *k, char *reason, size_t size)
{
    reason[0] = '\0';
    if (!may_set_up(k, reason, size))
        return false;
    if (!have_module(k, "nvmet_tcp", NULL)) {
        snprintf(reason, size, "this kernel has no module nvmet-tcp");
        return false;
    }
    if (access(NVMET, F_OK) < 0)
        kernel_mount_configfs(k);
    if (access(NVMET, F_OK) < 0) {
        snprintf(reason, size, "there is no %s: configfs is not mounted, and cannot be", NVMET);
        return false;
    }
    return true;
}

bool compare_kernel_host_possible(struct compare_kernel *k, char *reason, size_t size)
{
    reason[0] = '\0';
    if (!may_set_up(k, reason, size))
        return false;
    if (!have_module(k, "nvme_tcp", NULL) || access(FABRICS, R_OK | W_OK) < 0) {
        snprintf(reason, size, "this kernel has no module nvme-tcp");
        return false;
    }
    return true;
}

/* ---- the target ---- */

static int nullb_make(struct compare_kernel *k, const struct compare_medium *medium, struct plx_error *err)
{
    char dir[128], device[32];
    unsigned index;
    if (!have_module(k, "null_blk", "nr_devices=0"))
        return plx_fail(err, -ENODEV, "this kernel has no module null_blk");
    snprintf(dir, sizeof dir, CONFIGFS "/nullb/pollux-%.8s", k->id);
    kernel_note(k, "nullb", dir);
    int ret = mkdir(dir, 0755) < 0 ? -errno : 0;
    if (!ret)
        ret = kernel_put(dir, "size", "%llu", (unsigned long long)(medium->bytes >> 20));
    if (!ret)
        ret = kernel_put(dir, "memory_backed", "%d", !medium->null);
    if (!ret)
        ret = kernel_put(dir, "queue_mode", "2");
    if (!ret)
        ret = kernel_put(dir, "irqmode", "0");
    if (!ret)
        ret = kernel_put(dir, "power", "1");
    if (!ret)
        ret = kernel_get(dir, "index", device, sizeof device) < 0 || sscanf(device, "%u", &index) != 1 ? -ENODEV : 0;
    if (ret)
        return plx_fail(err, ret, "%s cannot be set up: %s", dir, strerror(-ret));
    /* Named after its folder from Linux 6.11 on, by its number before. */
    snprintf(k->device, sizeof k->device, "/dev/pollux-%.8s", k->id);
    if (access(k->device, F_OK) < 0)
        snprintf(k->device, sizeof k->device, "/dev/nullb%u", index);
    snprintf(k->medium, sizeof k->medium, "null_blk");
    return 0;
}

/* brd has disks of its own from the moment that it is loaded: what is loaded already may hold what is somebody's. */
static int brd_make(struct compare_kernel *k, const struct compare_medium *medium)
{
    char kib[32];
    if (is_loaded("brd"))
        return -EBUSY;
    snprintf(kib, sizeof kib, "rd_size=%llu", (unsigned long long)(medium->bytes >> 10));
    kernel_note(k, "brd", strchr(kib, '=') + 1);
    kernel_note_module(k, "brd");
    const char *const words[] = {"modprobe", "brd", "rd_nr=1", kib, NULL};
    kernel_run(words);
    if (!is_loaded("brd"))
        return -ENODEV;
    kernel_note_inode(k, "brd_inode", "/sys/module/brd");
    for (int i = 0; access("/dev/ram0", F_OK) < 0 && i < DEVICE_MS / STEP_MS; i++)
        poll(NULL, 0, STEP_MS);
    snprintf(k->device, sizeof k->device, "/dev/ram0");
    snprintf(k->medium, sizeof k->medium, "brd");
    return 0;
}

static int medium_make(struct compare_kernel *k, const struct compare_medium *medium, struct plx_error *err)
{
    if (medium->path) {
        snprintf(k->device, sizeof k->device, "%s", medium->path);
        snprintf(k->medium, sizeof k->medium, "%.60s", medium->path);
        return 0;
    }
    if (!medium->null && brd_make(k, medium) == 0)
        return 0;
    return nullb_make(k, medium, err);
}

static int subsystem_make(struct compare_kernel *k, const char *nqn, struct plx_error *err)
{
    char dir[160], ns[192];
    snprintf(dir, sizeof dir, NVMET "/subsystems/%s", nqn);
    snprintf(ns, sizeof ns, "%s/namespaces/1", dir);
    kernel_note(k, "subsystem", dir);
    int ret = mkdir(dir, 0755) < 0 ? -errno : 0;
    if (!ret)
        ret = kernel_put(dir, "attr_allow_any_host", "1");
    if (!ret)
        ret = mkdir(ns, 0755) < 0 ? -errno : 0;
    if (!ret)
        ret = kernel_put(ns, "device_path", "%s", k->device);
    if (!ret)
        ret = kernel_put(ns, "enable", "1");
    return ret ? plx_fail(err, ret, "nvmet cannot serve %s: %s", k->device, strerror(-ret)) : 0;
}

/* A number that nobody has, made ours by making it; none of those that people choose. */
static int port_claim(struct compare_kernel *k, char *dir, size_t size)
{
    unsigned first;
    int ret = -EEXIST;
    if (sscanf(k->id, "%4x", &first) != 1)
        return -EINVAL;
    for (unsigned i = 0; ret == -EEXIST && i < TRIES; i++) {
        snprintf(dir, size, NVMET "/ports/%u", FIRST_PORT + (first + i) % SOME_PORTS);
        if (access(dir, F_OK) == 0)
            continue;
        kernel_note(k, "port", dir);
        ret = mkdir(dir, 0755) < 0 ? -errno : 0;
    }
    if (ret)
        kernel_note(k, "port", NULL);
    else
        kernel_note_inode(k, "port_inode", dir);
    return ret;
}

/* It listens once it is linked. Which TCP ports are free only trying tells. */
static int port_listen(struct compare_kernel *k, const char *dir, const char *nqn, uint16_t *port)
{
    char at[256], subsystem[160];
    unsigned first;
    int ret = -EADDRINUSE;
    snprintf(at, sizeof at, "%s/subsystems/%s", dir, nqn);
    snprintf(subsystem, sizeof subsystem, NVMET "/subsystems/%s", nqn);
    if (sscanf(k->id, "%4x", &first) != 1)
        return -EINVAL;
    for (unsigned i = 0; ret == -EADDRINUSE && i < TRIES; i++) {
        *port = (uint16_t)(FIRST_PORT + (first + i) % SOME_PORTS);
        ret = kernel_put(dir, "addr_trsvcid", "%u", *port);
        if (!ret && symlink(subsystem, at) < 0)
            ret = -errno;
    }
    return ret;
}

static int port_make(struct compare_kernel *k, const char *nqn, const char *addr, uint16_t *port, struct plx_error *err)
{
    char dir[96];
    int ret = port_claim(k, dir, sizeof dir);
    if (ret)
        return plx_fail(err, ret, "nvmet has no port to be had: %s", strerror(-ret));
    ret = kernel_put(dir, "addr_trtype", "tcp");
    if (!ret)
        ret = kernel_put(dir, "addr_adrfam", strchr(addr, ':') ? "ipv6" : "ipv4");
    if (!ret)
        ret = kernel_put(dir, "addr_traddr", "%s", addr);
    if (!ret)
        ret = kernel_put(dir, "param_inline_data_size", "%u", COMPARE_IN_CAPSULE);
    if (!ret)
        ret = port_listen(k, dir, nqn, port);
    return ret ? plx_fail(err, ret, "nvmet cannot listen on %s: %s", addr, strerror(-ret)) : 0;
}

int compare_nvmet_start(struct compare_kernel *k, const struct compare_medium *medium, const char *addr, uint16_t *port,
                        char nqn[80], struct plx_error *err)
{
    snprintf(nqn, 80, "nqn.2014-08.org.nvmexpress:uuid:%s", k->id);
    int ret = medium_make(k, medium, err);
    if (!ret)
        ret = subsystem_make(k, nqn, err);
    return ret ? ret : port_make(k, nqn, addr, port, err);
}

const char *compare_nvmet_medium(const struct compare_kernel *k)
{
    return k->medium;
}

/* ---- the host ---- */

/* The disk of a controller's only namespace: with multipath the subsystem's, of which nvme0c1n1 is a path. */
static bool block_device(const char *controller, char device[64])
{
    char path[96];
    snprintf(path, sizeof path, "/sys/class/nvme/%s", controller);
    DIR *dir = opendir(path);
    bool found = false;
    for (const struct dirent *e; dir && !found && (e = readdir(dir));) {
        unsigned subsystem, path_nr, ns;
        if (sscanf(e->d_name, "nvme%uc%un%u", &subsystem, &path_nr, &ns) == 3 ||
            sscanf(e->d_name, "nvme%un%u", &subsystem, &ns) == 2) {
            snprintf(device, 64, "/dev/nvme%un%u", subsystem, ns);
            struct stat st;
            found = stat(device, &st) == 0 && S_ISBLK(st.st_mode);
        }
    }
    if (dir)
        closedir(dir);
    return found;
}

/* What tuners advise, on a device that is ours: no scheduler, no merging, no statistics. */
static void tune_device(const char *device)
{
    char queue[96];
    snprintf(queue, sizeof queue, "/sys/block/%s/queue", device + sizeof "/dev/" - 1);
    kernel_put(queue, "scheduler", "none");
    kernel_put(queue, "nomerges", "2");
    kernel_put(queue, "iostats", "0");
    kernel_put(queue, "rq_affinity", "0");
}

static int fabrics_write(const char *options, char *answer, size_t size)
{
    int fd = open(FABRICS, O_RDWR | O_CLOEXEC), ret = 0;
    if (fd < 0)
        return -errno;
    ssize_t n = write(fd, options, strlen(options)) < 0 ? -1 : read(fd, answer, size - 1);
    if (n < 0)
        ret = -errno;
    else
        answer[n] = '\0';
    close(fd);
    return ret;
}

int compare_nvme_connect(struct compare_kernel *k, const struct compare_connect *c, char device[64],
                         struct plx_error *err)
{
    char options[512], answer[256] = "", controller[32];
    unsigned instance;
    /* hostnqn and hostid are of this run: so is each controller that has them. */
    int n = snprintf(options, sizeof options,
                     "transport=tcp,traddr=%s,trsvcid=%u,nqn=%s,hostnqn=nqn.2014-08.org.nvmexpress:uuid:%s,hostid=%s,"
                     "nr_io_queues=%u,queue_size=%u,ctrl_loss_tmo=1,reconnect_delay=1,disable_sqflow",
                     c->addr, c->port, c->nqn, k->id, k->id, c->queues, c->entries);
    if (c->poll_queues)
        n += snprintf(options + n, sizeof options - (size_t)n, ",nr_poll_queues=%u", c->poll_queues);
    if (c->digests)
        snprintf(options + n, sizeof options - (size_t)n, ",hdr_digest,data_digest");
    kernel_note(k, "host", k->id);
    int ret = fabrics_write(options, answer, sizeof answer);
    if (!ret && sscanf(answer, "instance=%u", &instance) != 1)
        ret = -EPROTO;
    if (ret)
        return plx_fail(err, ret, "the kernel's host cannot connect to %s, port %u: %s", c->addr, c->port,
                        strerror(-ret));
    snprintf(controller, sizeof controller, "nvme%u", instance);
    for (int i = 0; !block_device(controller, device); i++) {
        if (i == DEVICE_MS / STEP_MS)
            return plx_fail(err, -ENODEV, "the kernel's host made no disk of %s", controller);
        poll(NULL, 0, STEP_MS);
    }
    tune_device(device);
    return 0;
}

int compare_nvme_disconnect(struct compare_kernel *k)
{
    return kernel_undo_host(k->id);
}
