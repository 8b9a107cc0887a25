/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The block layer, for those who implement disks: one operations table a driver, one file a driver.
 *
 * The core (bdev.c) has checked every request before a driver sees it: the operation is one of info.ops, the range is
 * inside the disk, the iovec is as long as the range, writes do not reach a read-only disk. What a driver leaves out of
 * info.ops and the core can do with what is there (compare, compare and write, copy, write zeroes, unmaps that are too
 * large: emulate.c) is done there.
 *
 * A filter is a driver with a disk below it: see plx_bdev_filter_init(). It forwards a request as it is
 * (plx_bdev_forward()), or takes sub-requests for it (plx_bdev_subs_get()), submits these to channels below, and
 * completes it when they are done. Whoever forwards writes forwards compare and write as well, which is atomic below.
 */
#ifndef PLX_BDEV_DRIVER_H
#define PLX_BDEV_DRIVER_H

#include <pollux/bdev.h>

#include "base/hash.h"
#include "base/list.h"
#include "base/settings.h"
#include "bdev/limit.h"

#include <pthread.h>
#include <stdatomic.h>

struct plx_url;

/* All but close may be NULL. Of a filter, what is NULL is passed on to the disk below. */
struct plx_bdev_ops {
    /* Frees the disk; no channel is open. */
    void (*close)(struct plx_bdev *bdev);
    /*
     * Sets up the driver's part of a channel, zeroed memory that follows it (bdev->channel_size). On the channel's
     * reactor, or before that runs: it must not block.
     */
    int (*channel_open)(struct plx_bdev_channel *ch);
    void (*channel_close)(struct plx_bdev_channel *ch);
    /*
     * Begins a checked request. Ends it, now or later, on this reactor, with plx_bdev_complete() exactly once, or
     * forwards it. Never NULL but in a filter.
     */
    void (*submit)(struct plx_bdev_channel *ch, struct plx_bdev_req *req);
    /* A request that is this driver's is to end early; may end it before it returns. NULL: they are not ended early. */
    void (*abort)(struct plx_bdev_channel *ch, struct plx_bdev_req *req);
    /* See plx_bdev_map(). NULL for a disk that never lends; in a filter that is plx_bdev_map_never(). */
    const void *(*map)(struct plx_bdev_channel *ch, uint64_t lba, uint32_t nlb);
    /* Gives it another size, and says plx_bdev_resized(). NULL for a disk that cannot. */
    int (*resize)(struct plx_bdev *bdev, uint64_t blocks, struct plx_error *err);
    /* Looks whether it has changed, and says so. May block: not on a reactor. */
    int (*rescan)(struct plx_bdev *bdev, struct plx_error *err);
    /* A filter's: the disk below was resized, or is gone. On any thread; must not block, hold or release. */
    void (*event)(struct plx_bdev *bdev, enum plx_bdev_event what);
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
    struct plx_bdev_info info; /* native operations in ops */
    size_t channel_size;       /* bytes of the driver's part of a channel */
    struct plx_bdev *below;    /* a filter's; or NULL */
    struct plx_bdev *on;       /* a volume's: the disk of its pool, which holds it; or NULL */
    uint32_t subs;             /* sub-requests that each channel has in reserve */

    /* The core's, which completes info too. */
    void (*submit)(struct plx_bdev_channel *ch, struct plx_bdev_req *req); /* of ops, or a filter's default */
    const void *(*map)(struct plx_bdev_channel *ch, uint64_t lba, uint32_t nlb);
    unsigned block_shift;
    uint32_t native_ops; /* what the driver does itself */
    /* Those of them that need no more than a look at range and iovec before the driver gets them. */
    _Atomic uint32_t plain_ops;
    _Atomic uint32_t limited_ops; /* subject to a rate limit of this disk */
    bool in_place;                /* what info.in_place is while there is none */
    bool tracked;                 /* channels list all of their requests in flight */
    bool emulates;                /* some operations are done by emulate.c */
    _Atomic bool gone;            /* requests end with Invalid Namespace */
    bool named;                   /* info.name was given, and is unique */
    char *alias;                  /* as unique; or NULL */
    struct plx_list link;         /* this and below: registry.c's */
    struct plx_hash_link by_name, by_alias, by_uuid;
    struct plx_list above; /* those that stand right on it, by `beside` */
    struct plx_list beside;
    struct plx_list holds;
    struct plx_bdev_hold *below_hold;
    uint64_t below_blocks; /* when the filter took its size */
    pthread_mutex_t lock;  /* control path: the list of channels, statistics of those that are gone, the range lock */
    struct plx_list channels;
    struct plx_bdev_stats past;  /* of channels that are gone */
    struct plx_bdev_stats reset; /* what there was when statistics were reset */
    struct plx_range_lock range_lock;
    struct plx_bdev_limits limits;
    struct plx_limiter *limiter; /* from the first time that limits are set; read after limited_ops */
};

/* A piece of memory for data on its way through the block layer: see piece.c. */
struct plx_piece {
    void (*ready)(struct plx_piece *p); /* set by whoever asks: mem is there */
    void *mem;
    size_t size;
    struct plx_piece *next;
};

/*
 * Sub-requests that a request needs all at once: see sub.c. Stands first in the context of that request, and says in
 * `n` how many it wants.
 */
struct plx_bdev_subs {
    void (*ready)(struct plx_bdev_subs *s); /* set by whoever asks: they are there */
    struct plx_bdev_sub *first;             /* the list of them */
    uint32_t n;
    struct plx_bdev_subs *next;
};

/* A request to a disk below, on behalf of another. */
struct plx_bdev_sub {
    struct plx_bdev_req req;     /* its context is for the layers below */
    struct plx_bdev_subs *whole; /* what it is one of */
    struct plx_bdev_sub *next;
    struct iovec iov[2]; /* free to use */
};

struct plx_bdev_reserve {
    struct plx_bdev_sub *all, *free;
    uint32_t n, used; /* the first `used` of all have been in use; the rest is memory that was never touched */
    uint32_t left;
    struct plx_bdev_subs *line, **tail;
    bool serving;
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

/* Of one operation, as in plx_bdev_stats. Of 64 bytes, so that a request touches no more than one line of it. */
struct plx_op_counts {
    _Alignas(64) _Atomic uint64_t ops;
    _Atomic uint64_t blocks;
    _Atomic uint64_t latency, min, max; /* min is more than max where there is none */
    _Atomic uint64_t failed;
};

struct plx_bdev_channel {
    /* Written by this reactor alone, read by others: relaxed atomics. */
    struct plx_op_counts counts[PLX_BDEV_OPS];
    /* What every request needs, together. */
    struct plx_bdev *bdev;
    struct plx_reactor *reactor;
    const uint64_t *now;      /* the reactor's time */
    struct plx_list requests; /* tracked disks: what is in flight, oldest first */
    uint32_t awaiting;        /* the end of some of those: resets among them, and a gate that owes an answer */
    uint32_t refs;            /* how often it was asked for on its reactor */
    struct plx_channel_gate gate;

    _Atomic uint64_t errors;        /* a count as well */
    struct plx_list link;           /* in bdev->channels */
    struct plx_bdev_channel *below; /* of a filter: that of the disk below on the same reactor */
    struct plx_bdev_reserve subs;   /* the driver's */
    struct plx_bdev_reserve parts;  /* emulate.c's */
    void *reserve;                  /* see piece.c */
    bool reserve_taken;
    struct plx_piece *pieces, **pieces_tail; /* waiting for the reserve */
    struct plx_limit_lane lanes[2];          /* of reads, of writes */
    uint8_t driver[] __attribute__((aligned(16)));
};

/* A kind of disk. */
struct plx_bdev_driver {
    const char *scheme; /* "ram" */
    const char *help;   /* "ram:SIZE[?block=N]  memory, gone at exit" */
    /* Opens a disk; on failure nothing is left behind and err is filled. `out` has ops and info filled. */
    int (*open)(const struct plx_url *url, struct plx_bdev **out, struct plx_error *err);
};

extern const struct plx_bdev_driver plx_bdev_ram, plx_bdev_null, plx_bdev_file, plx_bdev_nvme_tcp, plx_bdev_nvme_pcie;
extern const struct plx_bdev_driver plx_bdev_ng;
extern const struct plx_bdev_driver plx_bdev_vhost_user;
extern const struct plx_bdev_driver plx_bdev_filter_delay, plx_bdev_filter_error, plx_bdev_filter_crash;
extern const struct plx_bdev_driver plx_bdev_volume;

/* All of them, NULL-terminated. */
extern const struct plx_bdev_driver *const plx_bdev_drivers[];

/*
 * Makes a disk of what the driver has filled in: called by plx_bdev_open() after the driver's open, and by whoever
 * makes disks otherwise. A filter holds the disk below from now on, exclusively. It ends with plx_bdev_close().
 * @param text what it is known by unless it gets a name
 * @param name unique; or NULL
 */
int plx_bdev_register(struct plx_bdev *bdev, const char *driver, const char *text, const char *name,
                      struct plx_error *err);

/*
 * The size of a disk is another, or it is gone for good, and requests end with Invalid Namespace or Format from now on;
 * the driver sees to it that what it has in flight ends. From any thread.
 */
void plx_bdev_resized(struct plx_bdev *bdev, uint64_t blocks);
void plx_bdev_gone(struct plx_bdev *bdev, const char *why);
/* Whether somebody reads it who relies on that nobody changes it: PLX_BDEV_STILL. */
bool plx_bdev_is_still(const struct plx_bdev *bdev);

/* Ends a request that submit() was given. */
void plx_bdev_complete(struct plx_bdev_req *req, uint16_t status);

/* ---- filters ---- */

/* Makes `filter` a filter of a disk, with all that this is; its driver then changes what is different. */
void plx_bdev_filter_init(struct plx_bdev *filter, struct plx_bdev *below);

/*
 * Passes a request that submit() was given on to a channel below, for good: it completes from there, and the filter
 * sees no more of it. Its lba may have been changed.
 */
void plx_bdev_forward(struct plx_bdev_channel *below, struct plx_bdev_req *req);

/*
 * plx_bdev_submit() of a request to a disk below with the same size of blocks, which is the same read or write, of as
 * many blocks, with the same iovec, as one that submit() was given: what has been checked of that is not checked again.
 */
void plx_bdev_submit_like(struct plx_bdev_channel *below, struct plx_bdev_req *req);

/*
 * Keeps a request that submit() was given for later: from now on its channel lists it, so that abort and reset reach
 * it. It is forwarded or completed in the end. Who asks for sub-requests keeps it by that.
 */
void plx_bdev_filter_keep(struct plx_bdev_channel *ch, struct plx_bdev_req *req);

/* The disk below that a name has for its body: found, or `opened`. */
int plx_bdev_find_below(const struct plx_url *url, struct plx_bdev **below, bool *opened, struct plx_error *err);

const void *plx_bdev_map_never(struct plx_bdev_channel *ch, uint64_t lba, uint32_t nlb);

/*
 * Asks for s->n sub-requests, at most bdev->subs: s->ready is called when all are there, perhaps at once. It cannot
 * fail, and is first come, first served. Who has some must not ask for more before they are given back.
 */
void plx_bdev_subs_get(struct plx_bdev_channel *ch, struct plx_bdev_subs *s);
/* Gives all of them back; may call ready of others. */
void plx_bdev_subs_put(struct plx_bdev_channel *ch, struct plx_bdev_subs *s);
/* Stops waiting. @return false when it was not waiting */
bool plx_bdev_subs_cancel(struct plx_bdev_channel *ch, struct plx_bdev_subs *s);

/*
 * A single one, for a request that its channel lists already; or NULL when it would have to wait for it. It is kept for
 * as long as the driver likes, the channel's end at the latest, if that leaves enough for those who wait.
 */
struct plx_bdev_sub *plx_bdev_sub_take(struct plx_bdev_channel *ch);
void plx_bdev_sub_give(struct plx_bdev_channel *ch, struct plx_bdev_sub *sub);

/* The request in whose context something is. */
static inline struct plx_bdev_req *plx_bdev_req_of(void *context)
{
    return (struct plx_bdev_req *)(void *)((uint8_t *)context - offsetof(struct plx_bdev_req, context));
}

/* Of struct type, which lives in a request's context. */
#define PLX_BDEV_FITS(type) _Static_assert(sizeof(type) <= PLX_BDEV_CONTEXT, "too large for a request's context")

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

/*
 * A disk's name taken apart: scheme:body?key=value&key=value. A plain path is file:path, or ng:path. A body that
 * begins with a bracket, as a filter's may, ends with the one that closes it.
 */
struct plx_url {
    char scheme[16];
    char body[4096]; /* "1G" of ram:1G; a path, made absolute, for a file */
    struct plx_setting params[PLX_SETTINGS_MAX];
    int nparams;
    char name[128]; /* for messages: "ram:1G", or the path of a file; cut off when it is longer */
    char text[256]; /* full form, for people, without what was given as uuid=; cut off when it is longer */
};

int plx_url_parse(const char *text, struct plx_url *url, struct plx_error *err);
/* Whether a path leads to the generic node of an NVMe namespace, which is a disk of driver ng and not of file. */
bool plx_bdev_path_is_ng(const char *path);
/* The full form of a filter's name without settings: "SCHEME:BELOW", or "SCHEME:[BELOW]". */
void plx_url_over(const char *scheme, const char *below, char *text, size_t size);
/* Has url->text name the disk below as that is known, which may not be how it was asked for. */
void plx_url_restate(struct plx_url *url, const char *below);
/* The value of a parameter, or NULL. */
const char *plx_url_param(const struct plx_url *url, const char *key);
/* Fails with a sentence that names the keys there are, when there is another one. `known` is "block ro uuid". */
int plx_url_only(const struct plx_url *url, const char *known, struct plx_error *err);
/* block= (512 to 65536, a power of two), or 0 when it is not given. */
int plx_url_block(const struct plx_url *url, uint32_t *block, struct plx_error *err);
/* The size that a disk is named by, as "1G" in ram:1G: a multiple of its blocks, and of less than 2^63 bytes. */
int plx_url_size(const struct plx_url *url, uint32_t block, uint64_t *size, struct plx_error *err);
/*
 * All settings of a disk that is named by its size, and whose data is gone at exit: block=, 512 if it is not given, and
 * uuid=, another one each time if it is not.
 */
int plx_url_volatile(const struct plx_url *url, uint32_t *block, uint64_t *size, uint8_t uuid[16],
                     struct plx_error *err);
/* ro=: 0 or 1. */
int plx_url_bool(const struct plx_url *url, const char *key, bool *value, struct plx_error *err);
/*
 * uuid=, or else one made from `identity` (the same text gives the same uuid). When that is NULL, zeroes: the core
 * makes a random one, as for a disk whose data is gone at its end.
 */
int plx_url_uuid(const struct plx_url *url, const char *identity, uint8_t uuid[16], struct plx_error *err);

#endif
