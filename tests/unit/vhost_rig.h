/* SPDX-License-Identifier: BSD-3-Clause */
/* A ring without a front-end: guest memory, a table of it, and a reactor that is polled by hand. */
#ifndef VHOST_RIG_H
#define VHOST_RIG_H

#include "vhost/blk.h"
#include "vhost/ring.h"

enum {
    RIG_GUEST = 0x100000, /* guest address of the memory, and user address as well */
    RIG_BYTES = 1 << 20,
    RIG_DESC = 0, /* places in it */
    RIG_AVAIL = 0x8000,
    RIG_USED = 0xa000,
    RIG_RING_END = 0x10000,
    RIG_DATA = RIG_RING_END,
    RIG_REGION = 0x10000, /* bytes of the region of requests in flight */
};

struct rig {
    struct plx_reactor *reactor;
    struct plx_bdev_channel *channel;
    struct vhost_blk blk;
    uint8_t *memory; /* the guest's */
    uint8_t *region; /* or NULL */
    int fd;
    struct vhost_table *table;
    struct vhost_ring ring;
    atomic_bool halted;
    bool answered;
    int troubles;
    int old_done; /* tables that it has left behind */
};

/* Sets up memory and a reactor, for a ring of a disk; not running. */
void rig_begin(struct rig *rig, struct plx_bdev *bdev, unsigned size, uint64_t features, bool with_region);
void rig_end(struct rig *rig);
/* Has the ring go over to what is wanted of it. */
void rig_order(struct rig *rig);
/* @return what the ring says of it */
int rig_start(struct rig *rig, uint32_t base);
/* Waits for what is in flight, if that ends by itself. @return the base */
uint32_t rig_stop(struct rig *rig);
/* Rounds until nothing happens. */
void rig_poll(struct rig *rig);

#endif
