/* SPDX-License-Identifier: BSD-3-Clause */
/* A disk that another process offers by vhost-user-blk: what it is, learnt when it is opened, and its memory. */
#include "bdev/driver/virtio_disk.h"

#include "reactor/aside.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    DEADLINE_MAX_S = 1000000,
    VIO_PAGE = 4096, /* what belongs to different queues is kept this far apart */
};

/* ---- what it is ---- */

uint64_t vio_features(const struct vio_disk *d, uint64_t offered)
{
    const uint64_t known = VIO_BIT(VIO_F_SIZE_MAX) | VIO_BIT(VIO_F_SEG_MAX) | VIO_BIT(VIO_F_RO) |
                           VIO_BIT(VIO_F_BLK_SIZE) | VIO_BIT(VIO_F_FLUSH) | VIO_BIT(VIO_F_TOPOLOGY) |
                           VIO_BIT(VIO_F_CONFIG_WCE) | VIO_BIT(VIO_F_MQ) | VIO_BIT(VIO_F_DISCARD) |
                           VIO_BIT(VIO_F_WRITE_ZEROES) | VIO_BIT(VIO_F_INDIRECT) | VIO_BIT(VIO_F_EVENT_IDX) |
                           VIO_BIT(VIO_F_PROTOCOL_FEATURES) | VIO_BIT(VIO_F_VERSION_1);
    uint64_t features = offered & known;
    if (d->want_packed)
        features = (features & ~VIO_BIT(VIO_F_EVENT_IDX)) | (offered & VIO_BIT(VIO_F_RING_PACKED));
    return features;
}

uint64_t vio_blocks(const struct vio_disk *d, const struct vio_config *config)
{
    uint64_t sectors = plx_get64(config->capacity);
    return sectors >> (63 - VIO_SECTOR_SHIFT) ? 0 : sectors >> (d->shift - VIO_SECTOR_SHIFT);
}

bool vio_same(const struct vio_disk *d, const struct vio_config *config)
{
    return vio_blocks(d, config) &&
           (!vio_has(d, VIO_F_BLK_SIZE) || plx_get32(config->blk_size) == plx_get32(d->config.blk_size)) &&
           (!vio_has(d, VIO_F_SIZE_MAX) || plx_get32(config->size_max) >= plx_get32(d->config.size_max)) &&
           (!vio_has(d, VIO_F_SEG_MAX) || plx_get32(config->seg_max) >= plx_get32(d->config.seg_max));
}

static uint32_t max_of(const struct vio_disk *d, unsigned feature, plx_le32 value, uint32_t none)
{
    return vio_has(d, feature) && plx_get32(value) ? plx_get32(value) : none;
}

static int learn_limits(struct vio_disk *d, struct plx_error *err)
{
    const struct vio_config *config = &d->config;
    uint32_t segs = d->ring.indirect ? VIO_SEGS : VIO_DIRECT - 2;
    d->segs = (uint32_t)plx_min_u64(segs, max_of(d, VIO_F_SEG_MAX, config->seg_max, VIO_SEGS));
    d->seg_bytes = max_of(d, VIO_F_SIZE_MAX, config->size_max, UINT32_MAX);
    uint64_t part = plx_min_u64(VIO_PART_MAX, (uint64_t)d->segs * d->seg_bytes);
    d->part_bytes = (uint32_t)(part >> d->shift << d->shift);
    if (!d->part_bytes)
        return plx_fail(err, -ENOTSUP, "the back-end takes %llu bytes at once, less than a block",
                        (unsigned long long)part);
    unsigned sectors = d->shift - VIO_SECTOR_SHIFT; /* of a block, as a power of two */
    d->max_zero = max_of(d, VIO_F_WRITE_ZEROES, config->max_write_zeroes_sectors, UINT32_MAX) >> sectors;
    d->may_unmap = config->write_zeroes_may_unmap;
    return 0;
}

static void vio_fill_info(struct vio_disk *d)
{
    const struct vio_config *config = &d->config;
    struct plx_bdev_info *info = &d->bdev.info;
    unsigned sectors = d->shift - VIO_SECTOR_SHIFT;
    uint32_t discard = max_of(d, VIO_F_DISCARD, config->max_discard_sectors, UINT32_MAX) >> sectors;
    info->block_size = 1u << d->shift;
    info->blocks = vio_blocks(d, config);
    info->ops = 1u << PLX_BDEV_READ | 1u << PLX_BDEV_WRITE | 1u << PLX_BDEV_FLUSH |
                (vio_has(d, VIO_F_DISCARD) && discard ? 1u << PLX_BDEV_UNMAP : 0) |
                (vio_has(d, VIO_F_WRITE_ZEROES) && d->max_zero ? 1u << PLX_BDEV_WRITE_ZEROES : 0);
    uint64_t unit = vio_has(d, VIO_F_TOPOLOGY) ? plx_get16(config->min_io_size) : 1;
    info->write_unit = info->block_size * (uint32_t)plx_max_u64(1, plx_min_u64(unit, 2048));
    info->unmap_granularity = (uint32_t)plx_max_u64(1, plx_get32(config->discard_sector_alignment) >> sectors);
    info->max_unmap_blocks = discard;
    info->read_only = vio_has(d, VIO_F_RO);
    info->write_cache = vio_has(d, VIO_F_FLUSH) && (!vio_has(d, VIO_F_CONFIG_WCE) || config->writeback);
    info->shared = true;
    info->shares_memory = true;
}

static int learn_ring(struct vio_disk *d, struct plx_error *err)
{
    d->ring = (struct vio_ring_opts){.slots = (uint16_t)d->depth,
                                     .indirect = vio_has(d, VIO_F_INDIRECT),
                                     .event_idx = vio_has(d, VIO_F_EVENT_IDX),
                                     .packed = vio_has(d, VIO_F_RING_PACKED)};
    if (d->want_packed && (!d->ring.packed || !d->ring.indirect))
        return plx_fail(err, -ENOTSUP, "ring=packed: the back-end has no packed rings, or no indirect descriptors");
    if (!vio_ring_size(&d->ring))
        d->ring.slots = VIO_RING_MAX / VIO_DIRECT;
    return 0;
}

int vio_learn(struct vio_disk *d, uint64_t features, const struct vio_config *config, struct plx_error *err)
{
    d->features = vio_features(d, features);
    d->config = *config;
    uint32_t block = vio_has(d, VIO_F_BLK_SIZE) ? plx_get32(config->blk_size) : 1u << VIO_SECTOR_SHIFT;
    if (block < 512 || block > 65536 || block & (block - 1))
        return plx_fail(err, -ENOTSUP, "the disk has blocks of %u bytes; 512 to 64K, a power of two, is possible",
                        block);
    d->shift = (unsigned)__builtin_ctz(block);
    if (!vio_blocks(d, config))
        return plx_fail(err, -ENOTSUP, "the disk has %llu sectors: none, or more than are possible",
                        (unsigned long long)plx_get64(config->capacity));
    int ret = learn_ring(d, err);
    if (!ret)
        ret = learn_limits(d, err);
    if (!ret)
        vio_fill_info(d);
    return ret;
}

/* ---- memory ---- */

static size_t queue_bytes(const struct vio_disk *d, size_t *cmds, size_t *small, size_t *larges)
{
    const size_t n = d->ring.slots;
    *cmds = plx_align_up(vio_ring_bytes(&d->ring), VIO_PAGE);
    *small = *cmds + plx_align_up(n * sizeof(struct vio_cmd), VIO_PAGE);
    *larges = *small + n * VIO_SMALL;
    return *larges + (size_t)VIO_LARGES * VIO_LARGE;
}

/* Memory that the back-end maps as well: sealed, so that it cannot be taken away below us. */
static int vio_map(struct vio_disk *d, size_t bytes)
{
    d->mem_fd = memfd_create("pollux-vhost-user", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (d->mem_fd < 0)
        return -errno;
    if (ftruncate(d->mem_fd, (off_t)bytes) < 0 ||
        fcntl(d->mem_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        return -errno;
    void *mem = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, d->mem_fd, 0);
    if (mem == MAP_FAILED)
        return -errno;
    d->mem = mem;
    d->mem_bytes = bytes;
    return 0;
}

static int vio_queue_memory(struct vio_disk *d, struct vio_queue *q, uint8_t *mem)
{
    const size_t n = d->ring.slots;
    size_t cmds, small, larges;
    queue_bytes(d, &cmds, &small, &larges);
    q->cmds = (struct vio_cmd *)(void *)(mem + cmds);
    q->small = mem + small;
    q->larges = mem + larges;
    q->slots = calloc(n, sizeof *q->slots);
    q->out = calloc((n + 63) / 64, sizeof *q->out);
    if (!q->slots || !q->out)
        return -ENOMEM;
    q->call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    q->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (q->call_fd < 0 || q->kick_fd < 0)
        return -errno;
    vio_ring_init(&q->ring, &d->ring, mem, q->out);
    vio_queue_init(d, q);
    return 0;
}

int vio_memory_init(struct vio_disk *d, unsigned queues, struct plx_error *err)
{
    size_t unused[3], bytes = queue_bytes(d, &unused[0], &unused[1], &unused[2]);
    int ret = -ENOMEM;
    d->nqueues = 0;
    d->queues = plx_alloc_apart(queues * sizeof *d->queues);
    if (d->queues)
        ret = vio_map(d, queues * bytes);
    for (unsigned i = 0; i < queues && !ret; i++) {
        struct vio_queue *q = &d->queues[d->nqueues++];
        q->call_fd = q->kick_fd = -1;
        ret = vio_queue_memory(d, q, d->mem + i * bytes);
    }
    return ret ? plx_fail(err, ret, "cannot make memory for %u queues: %s", queues, strerror(-ret)) : 0;
}

/* ---- the disk ---- */

static void close_fd(int fd)
{
    if (fd >= 0)
        close(fd);
}

static void vio_disk_close(struct plx_bdev *bdev)
{
    struct vio_disk *d = vio_disk_of(bdev);
    vio_conn_close(&d->conn); /* first: the back-end ends what it has, which is nothing */
    for (unsigned i = 0; d->queues && i < d->nqueues; i++) {
        close_fd(d->queues[i].call_fd);
        close_fd(d->queues[i].kick_fd);
        free(d->queues[i].slots);
        free(d->queues[i].out);
    }
    free(d->queues);
    if (d->mem)
        munmap(d->mem, d->mem_bytes);
    for (unsigned i = 0; i < d->regions.n; i++)
        close_fd(d->regions.list[i].fd);
    close_fd(d->mem_fd);
    close_fd(d->inflight_fd);
    close_fd(d->ask_fd);
    pthread_mutex_destroy(&d->lock);
    free(d);
}

static const struct plx_bdev_ops vio_ops = {
    .close = vio_disk_close,
    .channel_open = vio_channel_open,
    .channel_close = vio_channel_close,
    .submit = vio_submit,
    .abort = vio_abort,
};

static int param_number(const struct plx_url *url, const char *key, uint32_t min, uint32_t max, uint32_t *out,
                        struct plx_error *err)
{
    const char *text = plx_url_param(url, key);
    char *rest;
    if (!text)
        return 0;
    errno = 0;
    unsigned long v = strtoul(text, &rest, 10);
    if (text[0] < '0' || text[0] > '9' || *rest || errno || v < min || v > max)
        return plx_fail(err, -EINVAL, "%s: %s=%.40s: takes a number from %u to %u", url->name, key, text, min, max);
    *out = (uint32_t)v;
    return 0;
}

static int param_ring(const struct plx_url *url, bool *packed, struct plx_error *err)
{
    const char *text = plx_url_param(url, "ring");
    *packed = text && !strcmp(text, "packed");
    if (text && !*packed && strcmp(text, "split"))
        return plx_fail(err, -EINVAL, "%s: ring=%.40s: takes split or packed", url->name, text);
    return 0;
}

static int vio_params(struct vio_disk *d, const struct plx_url *url, struct plx_error *err)
{
    uint32_t seconds = 0;
    d->depth = VIO_DEPTH_DEFAULT;
    int ret = plx_url_only(url, "queues depth ring reconnect_deadline uuid", err);
    if (!ret)
        ret = param_number(url, "queues", 1, VIO_QUEUES_MAX, &d->want_queues, err);
    if (!ret)
        ret = param_number(url, "depth", 1, VIO_RING_MAX, &d->depth, err);
    if (!ret)
        ret = param_number(url, "reconnect_deadline", 1, DEADLINE_MAX_S, &seconds, err);
    if (!ret)
        ret = param_ring(url, &d->want_packed, err);
    if (!ret)
        ret = plx_url_uuid(url, url->name, d->bdev.info.uuid, err);
    d->deadline_ms = seconds * 1000;
    size_t len = strlen(url->body);
    if (!ret && (!len || len >= sizeof d->path))
        ret = plx_fail(err, -EINVAL,
                       "%s: names the socket of a back-end, as in vhost-user:/run/disk.sock, in 1 to %zu bytes",
                       url->name, sizeof d->path - 1);
    if (!ret)
        memcpy(d->path, url->body, len + 1);
    return ret;
}

static void vio_settled(struct vio_conn *c)
{
    plx_reactor_stop(c->reactor);
}

/* On a reactor of its own, which the calling thread runs for as long as that takes. */
static int vio_connect(struct vio_disk *d, const struct plx_url *url, struct plx_error *err)
{
    struct plx_reactor *r;
    int ret = plx_reactor_create_aside(&r);
    if (ret)
        return plx_fail(err, ret, "cannot make a reactor: %s", strerror(-ret));
    vio_conn_open(d, r, vio_settled);
    plx_reactor_run(r);
    ret = d->conn.ret;
    d->bdev.info.max_reactors = d->nqueues;
    vio_conn_detach(d);
    plx_reactor_destroy(r);
    return ret ? plx_fail(err, ret, "%s: %s", url->name, d->conn.err.text) : 0;
}

static int vio_open(const struct plx_url *url, struct plx_bdev **out, struct plx_error *err)
{
    struct vio_disk *d = plx_alloc_apart(sizeof *d);
    if (!d)
        return plx_fail(err, -ENOMEM, "out of memory");
    pthread_mutex_init(&d->lock, NULL);
    vio_conn_init(&d->conn);
    d->mem_fd = d->inflight_fd = -1;
    d->ask_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int ret = d->ask_fd < 0 ? plx_fail(err, -errno, "cannot make an eventfd: %s", strerror(errno)) : 0;
    if (!ret)
        ret = vio_params(d, url, err);
    if (!ret)
        ret = vio_connect(d, url, err);
    d->bdev.ops = &vio_ops;
    d->bdev.channel_size = sizeof(struct vio_channel);
    if (ret)
        vio_disk_close(&d->bdev);
    else
        *out = &d->bdev;
    return ret;
}

const struct plx_bdev_driver plx_bdev_vhost_user = {
    .scheme = "vhost-user",
    .help = "vhost-user:PATH[?queues=N&depth=N&ring=packed&reconnect_deadline=S]  a disk of another process",
    .open = vio_open,
};
