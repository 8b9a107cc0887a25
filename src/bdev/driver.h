/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The block layer, for those who implement disks: one operations table a driver, one file a driver.
 *
 * The core (bdev.c) has checked every request before a driver sees it: the operation is one of info.ops, the range is
 * inside the disk, writes do not reach a read-only disk. What a driver leaves out of info.ops and the core can do
 * with what is there (compare, compare and write, copy, write zeroes: emulate.c) is done there.
 */
#ifndef PLX_BDEV_DRIVER_H
#define PLX_BDEV_DRIVER_H

#include <pollux/bdev.h>

#include "base/list.h"

#include <pthread.h>
#include <stdatomic.h>

struct plx_url;

struct plx_bdev_ops {
    /* Frees the disk; no channel is open. */
    void (*close)(struct plx_bdev *bdev);
    /*
     * Sets up the driver's part of a channel, zeroed memory that follows it (bdev->channel_size). On the channel's
     * reactor, or before that runs. May be NULL.
     */
    int (*channel_open)(struct plx_bdev_channel *ch);
    /* May be NULL. */
    void (*channel_close)(struct plx_bdev_channel *ch);
    /* Begins a checked request. Ends it, now or later, on this reactor, with plx_bdev_complete() exactly once. */
    void (*submit)(struct plx_bdev_channel *ch, struct plx_bdev_req *req);
    /* May be NULL: requests are then not ended early. May end the request before it returns. */
    void (*abort)(struct plx_bdev_channel *ch, struct plx_bdev_req *req);
    /* See plx_bdev_map(). NULL for a disk that never lends. */
    const void *(*map)(struct plx_bdev_channel *ch, uint64_t lba, uint32_t nlb);
};

/* At most one compare and write of a disk is under way: see range_lock.c. Under the disk's lock. */
struct plx_range_lock {
    struct plx_bdev_req *owner; /* or NULL */
    struct plx_list line;       /* requests that wait to become it */
    uint64_t lba;
    uint32_t nlb;
    uint32_t answers; /* that channels still owe */
    bool closing;     /* gates are to be closed, or are; else they are to be opened */
};

/* Embedded as the first member of the driver's own struct, which the driver's open allocates zeroed. */
struct plx_bdev {
    /* Filled by the driver's open. */
    const struct plx_bdev_ops *ops;
    /*
     * Native operations in ops, the driver's own needs in request_context. Disks that are in_place cut unmaps
     * themselves: their max_unmap_blocks is UINT32_MAX.
     */
    struct plx_bdev_info info;
    size_t channel_size; /* bytes of the driver's part of a channel */

    /* The core's, which completes info too. */
    unsigned block_shift;
    uint32_t native_ops; /* what the driver does itself */
    uint32_t fast_ops;   /* operations that need no more than one check of their range before the driver gets them */
    uint32_t driver_context; /* request context of the driver itself: the core's own follows it */
    bool tracked;            /* channels list their requests in flight: all disks but those in_place */
    bool emulates;           /* some operations are done by emulate.c */
    pthread_mutex_t lock;    /* control path: the list of channels, statistics of those that are gone, the range lock */
    struct plx_list channels;
    struct plx_bdev_stats past;
    struct plx_range_lock range_lock;
};

/* A piece of memory for data on its way through the block layer: see piece.c. */
struct plx_piece {
    void (*ready)(struct plx_piece *p); /* set by whoever asks: mem is there */
    void *mem;
    size_t size;
    struct plx_piece *next;
};

/* A channel's side of the range lock. */
struct plx_channel_gate {
    bool closed; /* writes that overlap the range are held back */
    bool owes;   /* an answer, once overlapping writes that were in flight have ended */
    uint64_t lba;
    uint32_t nlb;
    struct plx_bdev_req *held, **held_tail;
    struct plx_msg msg;
    bool busy;     /* msg is on its way; under the disk's lock */
    bool orphaned; /* the channel was put back meanwhile: msg frees it */
};

struct plx_bdev_channel {
    struct plx_bdev *bdev;
    struct plx_reactor *reactor;
    uint32_t in_flight;
    uint32_t refs; /* how often it was asked for on its reactor */
    /* Written by this reactor alone, read by others: relaxed atomics. */
    _Atomic uint64_t ops[PLX_BDEV_OPS];
    _Atomic uint64_t blocks[PLX_BDEV_OPS];
    _Atomic uint64_t errors;
    struct plx_list link;     /* in bdev->channels */
    struct plx_list requests; /* tracked disks: what is in flight, oldest first */
    uint32_t resets;          /* how many of those are PLX_BDEV_RESET */
    struct plx_channel_gate gate;
    void *reserve; /* see piece.c */
    bool reserve_taken;
    struct plx_piece *pieces, **pieces_tail; /* waiting for the reserve */
    uint8_t driver[] __attribute__((aligned(16)));
};

/* A kind of disk. */
struct plx_bdev_driver {
    const char *scheme; /* "ram" */
    const char *help;   /* "ram:SIZE[?block=N]  memory, gone at exit" */
    /* Opens a disk; on failure nothing is left behind and err is filled. `out` has ops and info filled. */
    int (*open)(const struct plx_url *url, struct plx_bdev **out, struct plx_error *err);
};

extern const struct plx_bdev_driver plx_bdev_ram, plx_bdev_null, plx_bdev_file, plx_bdev_nvme_tcp;

/* All of them, NULL-terminated. */
extern const struct plx_bdev_driver *const plx_bdev_drivers[];

/*
 * Makes a disk of what the driver has filled in: called by plx_bdev_open() after the driver's open, and by whoever
 * makes disks otherwise. It ends with plx_bdev_close().
 */
int plx_bdev_register(struct plx_bdev *bdev, const char *driver, const char *name, struct plx_error *err);

/* Ends a request that submit() was given. */
void plx_bdev_complete(struct plx_bdev_req *req, uint16_t status);

/*
 * Does a request that submit() was given by means of simpler ones: for a driver that finds out only then that it
 * cannot do it itself. It is the core's again after this, and so is the driver's context in it.
 */
void plx_bdev_emulate(struct plx_bdev_req *req);

/*
 * Asks for memory for data on its way: p->ready is called when there is some, perhaps at once. It may be smaller than
 * `bytes`, but holds 64 KiB or all of it. Progress is certain even when the reactor's pool of buffers is held by
 * requests that wait for this one.
 */
void plx_piece_get(struct plx_bdev_channel *ch, struct plx_piece *p, size_t bytes);
/* Gives it back; may call ready of others. */
void plx_piece_put(struct plx_bdev_channel *ch, struct plx_piece *p);
/* Stops waiting. @return false when it was not waiting */
bool plx_piece_cancel(struct plx_bdev_channel *ch, struct plx_piece *p);

/* The NVMe status nearest to a negative errno value of a read (write = false) or anything else (true). */
uint16_t plx_bdev_status(int64_t err, bool write);

/* A disk's name taken apart: scheme:body?key=value&key=value. A plain path is file:path. */
struct plx_url {
    char scheme[16];
    char body[4096]; /* "1G" of ram:1G; a path, made absolute, for a file */
    struct {
        char key[24];
        char value[256];
    } params[16];
    int nparams;
    char text[256]; /* full form, for people, without what was given as uuid=; cut off when it is longer */
};

int plx_url_parse(const char *text, struct plx_url *url, struct plx_error *err);
/* The value of a parameter, or NULL. */
const char *plx_url_param(const struct plx_url *url, const char *key);
/* Fails with a sentence that names the keys there are, when there is another one. `known` is "block ro uuid". */
int plx_url_only(const struct plx_url *url, const char *known, struct plx_error *err);
/* block= (512 to 65536, a power of two), or 0 when it is not given. */
int plx_url_block(const struct plx_url *url, uint32_t *block, struct plx_error *err);
/* ro=: 0 or 1. */
int plx_url_bool(const struct plx_url *url, const char *key, bool *value, struct plx_error *err);
/*
 * uuid=, or else one made from `identity` (the same text gives the same uuid), or a random one when identity is NULL.
 */
int plx_url_uuid(const struct plx_url *url, const char *identity, uint8_t uuid[16], struct plx_error *err);

#endif
