/* SPDX-License-Identifier: BSD-3-Clause */
#include "vhost_rig.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static void must(bool ok)
{
    if (!ok)
        abort();
}

static void rig_answered(struct vhost_ring *r)
{
    ((struct rig *)r->owner)->answered = true;
}

static void rig_old_done(struct vhost_ring *r)
{
    ((struct rig *)r->owner)->old_done++;
}

static void rig_trouble(struct vhost_ring *r)
{
    ((struct rig *)r->owner)->troubles++;
}

void rig_begin(struct rig *rig, struct plx_bdev *bdev, unsigned size, uint64_t features, bool with_region)
{
    const struct vhost_mem_region is = {RIG_GUEST, RIG_BYTES, RIG_GUEST, 0};
    const struct plx_reactor_opts opts = {.core = -1, .mode = PLX_POLL_BUSY, .buffer_bytes = 1 << 20};
    memset(rig, 0, sizeof *rig);
    must(plx_reactor_create(&rig->reactor, &opts) == 0);
    must(plx_bdev_channel_get(bdev, rig->reactor, &rig->channel) == 0);
    rig->blk.bdev = bdev;
    rig->blk.queues = 1;
    rig->blk.queue_size = size;
    rig->fd = memfd_create("guest", MFD_CLOEXEC);
    must(rig->fd >= 0 && ftruncate(rig->fd, RIG_BYTES) == 0);
    must(vhost_table_set(&rig->table, NULL, &is, &rig->fd, 1, &rig->halted, NULL) == 0);
    rig->memory = rig->table->spans[0].at;
    if (with_region) {
        rig->region = mmap(NULL, RIG_REGION, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        must(rig->region != MAP_FAILED);
    }
    struct vhost_ring *r = &rig->ring;
    r->home = r->control = rig->reactor;
    r->channel = rig->channel;
    r->blk = &rig->blk;
    r->halted = &rig->halted;
    r->owner = rig;
    r->num = size;
    r->answered = rig_answered;
    r->old_done = rig_old_done;
    r->in_trouble = rig_trouble;
    r->err_fd = r->is.kick = r->is.call = -1;
    r->inflight.split = (void *)rig->region;
    r->want = (struct vhost_setup){
        .table = rig->table,
        .features = features,
        .desc = RIG_GUEST + RIG_DESC,
        .avail = RIG_GUEST + RIG_AVAIL,
        .used = RIG_GUEST + RIG_USED,
        .kick = -1,
        .call = -1,
        .enabled = true,
    };
    must(vhost_ring_alloc(r) == 0);
}

void rig_end(struct rig *rig)
{
    vhost_ring_free_memory(&rig->ring);
    vhost_table_free(rig->table);
    close(rig->fd);
    if (rig->region)
        munmap(rig->region, RIG_REGION);
    plx_bdev_channel_put(rig->channel);
    plx_reactor_destroy(rig->reactor);
}

void rig_order(struct rig *rig)
{
    rig->answered = false;
    vhost_ring_order(&rig->ring);
    while (!rig->answered)
        plx_reactor_poll(rig->reactor);
}

int rig_start(struct rig *rig, uint32_t base)
{
    rig->ring.base = base;
    rig->ring.want.running = true;
    rig_order(rig);
    return rig->ring.result;
}

uint32_t rig_stop(struct rig *rig)
{
    rig->ring.want.running = false;
    rig_order(rig);
    return rig->ring.base;
}

void rig_poll(struct rig *rig)
{
    while (plx_reactor_poll(rig->reactor))
        ;
}
