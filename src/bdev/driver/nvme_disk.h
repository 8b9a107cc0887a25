/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A namespace of a controller as a disk: over NVMe/TCP, where it is others' as well, or over PCIe.
 *
 * Each channel has associations of its own, one a path (an address in the disk's name), with all their queue pairs on
 * the channel's reactor, the admin queue included: reactors share nothing, nothing has to move when a channel goes, and
 * a reactor that is held up delays nobody else's keep-alive. A target sees one controller a reactor and path. Opening a
 * disk makes an association for as long as it takes to learn what the disk is.
 *
 *   nvme.c          the disk: opened, described
 *   nvme_channel.c  requests into commands
 *   nvme_zoned.c    the same of zoned namespaces
 *   nvme_path.c     commands to a path that works, and again to another one
 *   nvme_control.c  paths that come and go while it is open
 *   nvme_ng.c       the same for a namespace that a driver of the kernel has: the one path is its generic node
 */
#ifndef PLX_BDEV_DRIVER_NVME_DISK_H
#define PLX_BDEV_DRIVER_NVME_DISK_H

#include "bdev/driver.h"
#include "nvme/host.h"
#include "nvme/protect.h"

#include <pollux/bdev_nvme.h>

enum {
    NVME_PORT = 4420, /* of an address without one */
    NVME_PIECES = 32, /* commands of a channel that requests share that are larger than one, or fused */
    NVME_RETRIES = 5, /* of a command that the controller asks to be tried again; lost connections do not count */
    NVME_RETRY_MS = 20,
    NVME_REST_MS = 1000,     /* of a path that answered with a path related status, while there is another one */
    NVME_DRAIN_MS = 10,      /* a path that is to go is looked at whether it has anything in flight, */
    NVME_DRAIN_TIMES = 200,  /* so often at most; then that is sent again elsewhere */
    NVME_TOO_LARGE = 0xffff, /* in place of a status: larger than the path takes, and has not been sent */
};

/* Blocks of one command; see max_blocks for those that transfer data. */
struct nvme_limits {
    uint32_t zero;   /* of Write Zeroes */
    uint32_t verify; /* of Verify */
    uint32_t fused;  /* of a fused Compare and Write */
    uint32_t copy;   /* of a range of Copy */
    uint32_t unmap;  /* of a range that is deallocated */
};

/* What the paths of a disk are to be. Channels take it over, each on its reactor. */
struct nvme_plan {
    struct nvme_addrs addrs[NVME_PATHS_MAX];
    uint32_t ids[NVME_PATHS_MAX];    /* of paths: one that is removed and added again is another */
    uint32_t resets[NVME_PATHS_MAX]; /* how often they were to be reset */
    unsigned npaths;
    bool round_robin;
    uint64_t change; /* counted */
};

/* The control side of a disk: nvme_control.c's, as is the lock that guards it. */
struct nvme_control {
    struct nvme_plan plan;
    uint32_t last_id;
    struct plx_list links;   /* to channels */
    struct plx_list changes; /* that not all of them have taken over, and somebody waits for */
};

struct nvme_link;

struct nvme_disk {
    struct plx_bdev bdev;
    struct nvme_uring_node *node; /* of a disk that a driver of the kernel has; or NULL */
    struct nvme_where where;      /* as it was opened: the paths there are now are those of control.plan */
    struct nvme_ns ns;
    unsigned shift; /* of the block size */
    struct nvme_protection protection;
    uint32_t max_blocks;       /* of a read or write command, on the path that the disk was opened through */
    struct nvme_limits limits; /* the same */
    uint32_t boundary;         /* blocks: a transfer had best not cross a multiple of that; 0: no matter */
    bool held;                 /* the device that it is of, over PCIe */
    struct plx_bdev_nvme_info told;
    bool deallocates;            /* Write Zeroes with the DEAC bit */
    _Atomic bool refuses_zeroes; /* Write Zeroes, though it is offered */
    struct nvme_control control;
};

struct nvme_channel;

/* What a request has become. */
enum nvme_kind {
    NVME_WHOLE, /* one command */
    NVME_FUSED, /* two; must not be done twice: it ends when the connection is lost */
    NVME_SPLIT, /* several, in pieces, */
    NVME_PIECE, /* each of which is such a command */
};

/* A command on its way to wherever it succeeds. */
struct nvme_try {
    struct nvme_req req;
    struct nvme_channel *nc;
    uint8_t kind; /* enum nvme_kind */
    uint8_t attempts;
    bool waiting;           /* in nc->waiting */
    bool aborted;           /* is to end, not to be tried again */
    struct nvme_path *path; /* where it is or was last; NULL: nowhere yet */
};

struct nvme_path {
    struct nvme_channel *nc;
    struct nvme_ctrlr *c; /* NULL: there is no such path */
    uint32_t id, resets;  /* of the plan */
    bool leaving;         /* once nothing is in flight there */
    bool tried;           /* to connect, to an end */
    bool live;            /* connected */
    bool up;              /* and leads to the disk */
    bool foreign;         /* when it was up last, it led to another disk */
    bool shunned;         /* until it has rested, or its ANA state has changed */
};

struct nvme_io;

/* A part of a request that is too large for one command; or the second half of a fused one, without the rest of t. */
struct nvme_piece {
    struct nvme_try t;
    struct nvme_io *io;
    struct nvme_piece *next;
};

struct nvme_channel {
    struct plx_bdev_channel *ch;
    struct nvme_disk *disk;
    /* What every command needs, together. */
    struct nvme_path *only;       /* of the usable ones, when it is one */
    uint32_t max_blocks;          /* of a read or write command, on any path that was up so far */
    unsigned shift;               /* the disk's */
    plx_le64 heads[PLX_BDEV_OPS]; /* how a command of an operation begins: opcode and namespace */

    struct nvme_path slots[NVME_PATHS_MAX];
    struct nvme_path *paths[NVME_PATHS_MAX], *usable[NVME_PATHS_MAX]; /* without those that leave */
    unsigned npaths, nusable;
    bool round_robin;
    unsigned drains; /* left, until paths that leave are cut off */
    struct nvme_link *link;
    struct nvme_limits limits; /* the least of all paths, but for unmap */
    unsigned turn;             /* round robin */
    struct nvme_req *waiting;  /* for a path, or to be tried again; in order */
    struct nvme_req **waiting_tail;
    bool given_up; /* no path for longer than reconnect_deadline: nothing waits any more */
    bool told;     /* that no path is accessible; until one connects, or its ANA state changes for the better */
    struct plx_timer retry, rest, deadline, drain;

    struct nvme_piece *free_pieces;
    struct nvme_io *split, **split_tail; /* requests that wait for pieces, in order */
    bool sending;                        /* their pieces */
    struct nvme_piece pieces[NVME_PIECES];
};

/* The driver's context of a request. */
struct nvme_io {
    struct nvme_try t; /* first, so that its cache lines are those of the request; of one in pieces the kind alone */
    union {
        struct nvme_piece *second; /* of a fused command */
        struct {                   /* data that is part of the command */
            struct iovec iov;
            union {
                struct nvme_dsm_range dsm;
                struct nvme_copy_range copy;
            };
        };
        struct { /* in pieces */
            struct plx_iov_at where;
            uint32_t at; /* blocks that pieces have been sent for */
            uint16_t status;
        };
        struct { /* a report of zones */
            struct plx_bdev_zone last;
            uint64_t from; /* the zone that the next command begins with */
            uint64_t count;
            uint32_t told; /* zones, by the commands before it */
        } report;
    };
    /* In pieces, or fused. */
    struct nvme_io *next; /* in nc->split */
    uint32_t in_flight;   /* pieces, or halves */
    bool splitting;       /* in nc->split: waits for pieces, the second half being one */
};
PLX_BDEV_FITS(struct nvme_io);

static inline struct nvme_disk *nvme_disk_of(const struct plx_bdev *bdev)
{
    return (struct nvme_disk *)bdev;
}

static inline struct nvme_channel *nvme_channel_of(struct plx_bdev_channel *ch)
{
    return (struct nvme_channel *)(void *)ch->driver;
}

/* nvme.c */
/*
 * Fills in what the disk is, by a path of where: on a reactor of its own, which the calling thread runs for as long as
 * that takes. @return 0 or -errno with err filled
 */
int nvme_disk_probe(struct nvme_disk *d, unsigned path, struct plx_error *err);
int nvme_channel_open(struct plx_bdev_channel *ch);
void nvme_channel_close(struct plx_bdev_channel *ch);
/* What the controller takes at once of a disk whose blocks are of 1 << shift bytes. */
struct nvme_limits nvme_limits_of(const struct nvme_ctrlr *c, unsigned shift);
/* Whether there can be that many blocks: bytes are counted in 63 bits. */
static inline bool nvme_blocks_possible(uint64_t blocks, unsigned shift)
{
    return blocks && !(blocks >> (63 - shift));
}

/* nvme_channel.c */
void nvme_bio_submit(struct plx_bdev_channel *ch, struct plx_bdev_req *bio);
/* The same of a disk with a boundary. */
void nvme_bio_submit_bounded(struct plx_bdev_channel *ch, struct plx_bdev_req *bio);
void nvme_bio_abort(struct plx_bdev_channel *ch, struct plx_bdev_req *bio);
void nvme_commands_init(struct nvme_channel *nc);
/* A command that is not tried again has ended; status may be NVME_TOO_LARGE. */
void nvme_try_end(struct nvme_try *t, uint16_t status);

/* nvme_zoned.c */
void nvme_zoned_submit(struct plx_bdev_channel *ch, struct plx_bdev_req *bio);
/* The path that is there now takes less at once. */
void nvme_zoned_too_large(struct nvme_io *io);

/* nvme_path.c */
int nvme_paths_open(struct nvme_channel *nc);
void nvme_paths_close(struct nvme_channel *nc);
/* Has the paths be as they are planned; the channel may be gone afterwards. */
void nvme_paths_change(struct nvme_channel *nc);
/* Sends a command to a path, or has it wait for one: one that is on its way, and may be too large by now. */
void nvme_try_send(struct nvme_channel *nc, struct nvme_try *t);
/* It has come back, and not succeeded: it is sent again, or ends. */
void nvme_try_not_done(struct nvme_try *t);

static inline bool nvme_try_succeeded(const struct nvme_try *t)
{
    return plx_likely(!t->req.lost && !t->req.status);
}

/* Begins with a command that is no larger than the channel's limits. */
static inline void nvme_try_begin(struct nvme_channel *nc, struct nvme_try *t, enum nvme_kind kind)
{
    struct nvme_path *path = nc->only;
    t->nc = nc;
    t->kind = (uint8_t)kind;
    t->attempts = 0;
    t->waiting = t->aborted = false;
    t->path = path;
    t->req.fused = t->req.forever = false;
    if (plx_likely(path))
        nvme_submit(path->c, &t->req);
    else
        nvme_try_send(nc, t);
}

/* The same for a fused command; t->req.next is its second half. */
void nvme_try_begin_fused(struct nvme_channel *nc, struct nvme_try *t);
/* Has it end soon; may end it before it returns. */
void nvme_try_abort(struct nvme_try *t);

/* nvme_control.c */
/* Before a disk is known: its plan is what it was opened as. */
void nvme_control_init(struct nvme_disk *d);
/* A channel comes, and goes. @return 0 or -ENOMEM */
int nvme_link_make(struct nvme_channel *nc);
void nvme_link_cut(struct nvme_channel *nc);
void nvme_link_get_plan(const struct nvme_channel *nc, struct nvme_plan *out);
/* The paths of a channel are as they were planned, by that change. */
void nvme_link_planned(struct nvme_channel *nc, uint64_t change);
/* The state of its paths has changed: tells whoever looks. */
void nvme_link_tell(struct nvme_channel *nc);
bool nvme_is_disk(const struct plx_bdev *bdev);

#endif
