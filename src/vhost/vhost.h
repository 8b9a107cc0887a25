/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The vhost-user server's inside. A controller (server.c) is a disk behind a socket. Each front-end that connects there
 * is a device of its own (device.c): with its memory, its rings, and what was agreed on. Messages are handled one after
 * the other, on the control reactor; where one is about rings that run, these are told, and the next message waits for
 * their answers.
 *
 * A connection that ends leaves requests behind. They are waited for and not published: a front-end that comes back has
 * them done again, which it knows from the memory that it shares, and no ring of the controller starts before they are
 * through.
 */
#ifndef PLX_VHOST_VHOST_H
#define PLX_VHOST_VHOST_H

#include <pollux/vhost.h>

#include "base/list.h"
#include "bdev/access.h"
#include "bdev/reserve.h"
#include "net/stream.h"
#include "vhost/blk.h"
#include "vhost/msg.h"
#include "vhost/ring.h"
#include "vhost/scsi_ring.h"

enum { VHOST_DEVICES = 16, VHOST_FLUSH_MS = 1500 };

struct plx_vhost {
    struct plx_reactor *control;
    struct plx_reactor **reactors; /* that rings are on */
    unsigned n, next;
    struct plx_stream_group *streams;
    bool has_group; /* of sockets: see struct plx_vhost_opts */
    gid_t group;
    struct plx_list ctrlrs;
    struct plx_list drops;
    plx_vhost_done_fn stopped;
    void *stopped_arg;
    struct plx_timer limit;
};

struct plx_vhost_ctrlr {
    struct plx_list link;
    struct plx_vhost *vhost;
    char *path;
    struct vhost_blk blk;
    struct vhost_scsi *scsi;       /* instead; then `access` and `hold` are its units' */
    struct plx_msg msg;            /* of one, which has begun, or has no units any more */
    struct plx_bdev_access access; /* legs are the reactors that its rings are on */
    struct plx_bdev_hold *hold;
    struct plx_resv_party resv;
    struct plx_listener listener;
    unsigned first;                /* leg of ring 0 */
    struct plx_reactor **reactors; /* of a block device: legs of its disk, while that is there */
    unsigned nreactors;
    bool opened, removing;
    bool parting;   /* its disk goes: see part.c */
    unsigned parts; /* rings that have it yet */
    struct plx_list devices;
    unsigned ndevices, dying;
    unsigned nexuses; /* a bit for each number that a device has */
    uint64_t alone;   /* since then no front-end is connected */
    plx_vhost_done_fn done;
    void *arg;
};

/* A front-end's connection. */
struct vhost_device {
    struct plx_stream stream;
    struct plx_list link;
    struct plx_vhost_ctrlr *ctrlr;
    char name[64]; /* for people */
    uid_t uid;
    pid_t pid;
    enum plx_vhost_state state; /* for people as well: */
    uint64_t since, born;       /* it is that, and it is there */
    unsigned asked;             /* questions under way that look into it (query.c): it stays */
    bool gone;                  /* but for these */
    unsigned nexus;             /* the lowest number that no other device of the controller had when it came */

    struct vhost_msg msg;
    size_t got;       /* bytes of it */
    bool busy;        /* it is being handled */
    bool held;        /* and waits for what ended connections, or memory that was taken away, have left behind */
    unsigned pending; /* rings that have not answered */
    void (*then)(struct vhost_device *d);

    uint64_t features, protocol;
    uint8_t status;
    bool writeback;
    bool stopping; /* of one that is dying: its rings were told */
    bool dying;
    atomic_bool halted; /* rings leave guest memory alone: the connection has ended, or the memory is gone */
    struct vhost_table *table;
    struct vhost_table *old; /* the one before, while requests use it */
    unsigned old_users;      /* rings that have such */
    struct vhost_log *log, *old_log;
    struct vhost_map inflight;
    unsigned inflight_queues, inflight_size;
    int backend; /* the channel for messages of our own; -1 for none */
    struct vhost_ring *rings[VHOST_RINGS];
};

/* ---- device.c: the connection ---- */

/* A front-end has connected; the descriptor is taken over. */
void vhost_device_add(struct plx_vhost_ctrlr *c, int fd);
void vhost_device_close(struct vhost_device *d);
/* What it was held for may be over. */
void vhost_device_resume(struct vhost_device *d);
/* The configuration has changed. */
void vhost_device_tell(struct vhost_device *d);

/* Nobody looks into it any more who has; it may have waited for that. */
void vhost_device_let_go(struct vhost_device *d);

/* The end of a message's handling, once: it was done; it cannot be; or an answer of its own. */
void vhost_device_ok(struct vhost_device *d);
void vhost_device_refuse(struct vhost_device *d, const char *why);
void vhost_device_answer(struct vhost_device *d, const void *body, size_t len, int fd);
/* Has the message handled once more later. */
void vhost_device_hold(struct vhost_device *d);
/* Tells a ring what is wanted of it; `then` is called when all have answered, at once when there are none. */
void vhost_device_order(struct vhost_device *d, struct vhost_ring *r);
void vhost_device_then(struct vhost_device *d, void (*then)(struct vhost_device *d));

/* ---- handle.c: what messages do ---- */

void vhost_handle(struct vhost_device *d);
uint64_t vhost_offered(const struct plx_vhost_ctrlr *c);
uint64_t vhost_offered_protocol(void);
unsigned vhost_rings_of(const struct plx_vhost_ctrlr *c);
/* Has all rings stop; `then` is called when they have. */
void vhost_rings_stop(struct vhost_device *d, void (*then)(struct vhost_device *d));
bool vhost_rings_run(const struct vhost_device *d);
void vhost_device_clean(struct vhost_device *d);

/* ---- server.c ---- */

/* Whether a disk is one for guests, of so many reactors. @return 0 or -errno with err filled */
int vhost_check_disk(const struct plx_bdev *bdev, unsigned reactors, struct plx_error *err);

/* A device is gone. */
void vhost_ctrlr_left(struct plx_vhost_ctrlr *c);

/* ---- part.c: disks that go ---- */

/* Whether a disk is the other one, or stands on it. */
bool vhost_stands_on(const struct plx_bdev *bdev, const struct plx_bdev *base);
/* A block device is to have no disk any more. */
void vhost_ctrlr_part(struct plx_vhost_ctrlr *c);
/* A disk was let go of, for which somebody may wait. */
void vhost_drops_look(struct plx_vhost *v);

#endif
