/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A vhost-user-blk back-end in this process: a thread answers its messages, and the test itself is the device, which
 * takes requests off the rings and ends them when it likes. Memory is found at the addresses that the front-end has it
 * at, as the process is the same; so it knows as well what it was never given.
 */
#ifndef TEST_VU_FAKE_H
#define TEST_VU_FAKE_H

#include "bdev/driver/virtio_ring.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/uio.h>

enum { FAKE_RINGS = 4, FAKE_SEGS = 32, FAKE_REGIONS = 32 };

struct fake_ring {
    struct vu_vring_addr addr;
    uint32_t num;
    int kick, call;
    uint16_t taken, used;
    bool enabled;
};

/* What the device has taken off a ring. */
struct fake_req {
    unsigned ring;
    uint16_t head;
    struct vio_header header;
    unsigned nsegs;
    struct iovec segs[FAKE_SEGS];
    bool writable[FAKE_SEGS];
    uint8_t *status;
};

struct fake {
    char path[64], url[128];
    uint64_t features, protocol; /* that it offers */
    struct vio_config config;
    unsigned queues;
    int listener;
    pthread_t thread;
    _Atomic int sock;
    _Atomic unsigned connections; /* that have been told all, once the last ring was enabled */
    _Atomic unsigned messages[64];
    _Atomic unsigned nregions;
    struct vu_region regions[FAKE_REGIONS];
    struct fake_ring rings[FAKE_RINGS];
    unsigned nenabled;
};

/* Listens; settings may be changed before somebody connects. */
void fake_open(struct fake *f);
void fake_close(struct fake *f);
/* The connection breaks. The next one begins with rings that are as they are: base and used index decide. */
void fake_cut(struct fake *f);

/* Takes the next request. @return false when there is none */
bool fake_take(struct fake *f, unsigned ring, struct fake_req *req);
void fake_finish(struct fake *f, const struct fake_req *req, uint8_t status);
/* Whether the back-end was given the memory. */
bool fake_has(const struct fake *f, const void *mem, size_t bytes);

#endif
