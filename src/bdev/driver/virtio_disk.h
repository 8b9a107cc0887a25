/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A disk of another process: the front-end of a vhost-user-blk device.
 *
 * The other side, the back-end, is given memory of ours, in which rings and requests lie, and serves them from there; a
 * socket tells it where that is, and is silent afterwards. A disk has one connection, and so many rings as reactors may
 * use it: a channel has one for itself.
 *
 *   virtio.c        the disk: opened, described, its memory; channels
 *   virtio_conn.c   the connection: messages, in which order, and again when it was lost
 *   virtio_msg.c    one message after the other on the socket
 *   virtio_queue.c  a channel's ring: polled, begun anew, given up
 *   virtio_io.c     requests into entries of the ring
 *   virtio_ring.c   rings: virtio 1.2, 2.7 and 2.8
 *
 * Rings are there for as long as the disk is, whether there is a back-end or not. When it dies, channels do not notice:
 * they add requests, the next back-end takes rings and the record of what is in flight (INFLIGHT_SHMFD) over, and does
 * the rest. Where it keeps no such record, each ring begins anew with what was in flight: what was done may be done
 * twice, as nobody has been told of it.
 *
 * Who does what. The connection belongs to one channel's reactor at a time, its home, and goes on to another's when
 * that channel is closed; without any it is looked at by nobody. Home and channels ask each other by bits in a word
 * (`ask`) and an eventfd, which are the disk's, so that neither needs to be there any more when it is asked: see
 * vio_ask_queue(), vio_ask_home(). What a queue and the connection are to each other changes under the disk's lock; the
 * data path does not take it.
 */
#ifndef PLX_BDEV_DRIVER_VIRTIO_DISK_H
#define PLX_BDEV_DRIVER_VIRTIO_DISK_H

#include "base/iov.h"
#include "bdev/driver.h"
#include "bdev/driver/virtio_ask.h"
#include "bdev/driver/virtio_ring.h"
#include "reactor/shared.h"

#include <pthread.h>
#include <sys/un.h>

enum {
    VIO_QUEUES_MAX = 128,
    VIO_DEPTH_DEFAULT = 128,
    VIO_SEGS = 14,                  /* pieces of memory of a request to the back-end */
    VIO_SMALL = 4096,               /* bytes that each slot can bounce by itself */
    VIO_LARGE = 64 << 10,           /* bytes of each of the buffers that larger ones are bounced through */
    VIO_LARGES = 16,                /* buffers of a queue */
    VIO_PART_MAX = 1 << 20,         /* bytes of a request to the back-end */
    VIO_REGIONS = VU_TABLE_MAX - 1, /* of memory of others that the back-end is given */
    VIO_FDS = 4,                    /* descriptors that a message to us may have */
    VIO_CALL_MS = 10000,            /* for an answer */
    VIO_RETRY_MS = 20,              /* between attempts to connect, at first */
    VIO_RETRIES = 250,              /* of these */
    VIO_RETRY_LATER_MS = 500,       /* after that, */
    VIO_RETRY_WRONG_MS = 1000,      /* and where the back-end is not what it should be */
};

struct vio_disk;

/*
 * What a slot has in memory that the back-end sees. Of most requests that is one cache line which goes there, with the
 * header and three entries of the table, and one which comes back.
 */
struct vio_cmd {
    struct vio_header header;
    struct vio_desc table[VIO_SEGS + 2];
    struct vio_range range;
    uint8_t unused[32];
    uint8_t status;
    uint8_t unused_too[63];
};
_Static_assert(sizeof(struct vio_cmd) % 64 == 0 && offsetof(struct vio_cmd, status) % 64 == 0, "aligned");

/* A request to the back-end: a request to the disk, or a part of one. */
struct vio_slot {
    struct plx_bdev_req *req; /* NULL: nobody's, though the back-end may have it still */
    void *bounce;             /* NULL: data is where the request has it */
    struct plx_iov_at to;     /* of a read that is bounced */
    uint32_t bytes;           /* the same */
    uint16_t entries;         /* of its table */
    uint8_t large;            /* bounce is one of the queue's large buffers */
    uint16_t next_free;
};

enum { VIO_NO_SLOT = 0xffff };

/* vio_queue.ask */
enum {
    VIO_ASK_ADOPT = 1 << 0,   /* be the connection's home */
    VIO_ASK_RESET = 1 << 1,   /* begin the ring anew */
    VIO_ASK_GIVE_UP = 1 << 2, /* end what there is, and what comes */
    VIO_ASK_UP = 1 << 3,      /* no more of that */
    VIO_ASK_MEMORY = 1 << 4,  /* there is another list of memory that the back-end has */
};

/* Memory for data that the back-end has, beside that of the disk. */
struct vio_regions {
    unsigned n;
    uint64_t freed; /* when this was true: see plx_shared_freed */
    struct plx_shared_region list[VIO_REGIONS];
};

struct vio_queue {
    struct vio_ring ring;
    struct vio_slot *slots;
    struct vio_cmd *cmds;
    uint8_t *small, *larges;
    uint16_t free_slot; /* or VIO_NO_SLOT */
    uint16_t free_larges;
    uint8_t free_large[VIO_LARGES];
    bool broken; /* the device has written what it must not: nothing is taken from it until the ring begins anew */
    int call_fd; /* the back-end's, to wake us, and that of who asks */
    int kick_fd;
    struct plx_bdev_channel *ch; /* whose it is, or NULL; under the disk's lock */
    uint64_t *out;
    _Alignas(PLX_CACHE_ALIGN) _Atomic uint32_t ask; /* by others, who then write call_fd */
};
PLX_IS_APART(struct vio_queue);

struct vio_channel {
    struct plx_source source;
    struct vio_queue *q;
    struct plx_bdev_channel *ch;
    struct vio_disk *disk;
    struct plx_bdev_req *line, **line_tail; /* requests that wait for slots or buffers, in order */
    bool home;                              /* the connection is on this reactor, */
    bool failing;                           /* has been given up: requests fail */
    struct vio_regions regions;             /* that data can be left in; without their descriptors */
    uint64_t asked;                         /* for more; plx_shared_made and _freed were that then, together */
};

/* The driver's context of a request. */
struct vio_io {
    struct plx_iov_at where; /* data of what has not been issued yet */
    uint32_t at;             /* blocks that were issued */
    uint32_t parts;          /* that the back-end has */
    uint32_t type;           /* VIO_T_ */
    uint16_t status;
    bool queued; /* in the line */
    bool more;   /* something of it has to be issued still */
    bool flush;  /* a flush is to follow */
};
PLX_BDEV_FITS(struct vio_io);

/* vio_disk.ask: a channel asks the connection's home. */
enum { VIO_HOME_BROKEN = 1 << 0, VIO_HOME_RESET = 1 << 1, VIO_HOME_MEMORY = 1 << 2 };

enum vio_state {
    VIO_DOWN,     /* there is no back-end */
    VIO_GIVEN_UP, /* for so long that requests fail */
    VIO_UP,       /* there is one, that has the rings or is about to */
};

/* A message that is received, from its header on. */
struct vu_inbox {
    struct vu_header header;
    union vu_payload payload;
    uint32_t have;
    int fds[VIO_FDS];
    unsigned nfds;
};

struct vio_conn {
    struct plx_reactor *reactor; /* its home; or NULL */
    int sock, requests;          /* -1 for none; the latter is for the back-end's own requests */
    struct plx_watch sock_watch, requests_watch, ask_watch;
    struct plx_timer timer, deadline;
    struct vu_inbox in, request;
    unsigned step;     /* what it does, or waits for an answer to */
    unsigned awaiting; /* enum vu_request: an answer; 0 for none */
    uint64_t features, protocol;
    uint32_t attempts;       /* in vain, since it was up */
    bool lost;               /* has been told of */
    bool wrong;              /* the last one was not what it should be; the same */
    bool given_up;           /* requests fail */
    bool changed;            /* the configuration is to be read again */
    bool remap;              /* memory for data is to be looked at again */
    bool taking;             /* is being: */
    struct vio_regions next; /* what it is to be; descriptors that d->regions has taken are -1 here */
    unsigned region;         /* that the back-end is asked to take or give back */
    int ret;                 /* why it has failed, */
    struct plx_error err;
    void (*settled)(struct vio_conn *c); /* while the disk is being opened: it is up, or has failed */
};

struct vio_disk {
    struct plx_bdev bdev;
    char path[sizeof((struct sockaddr_un *)0)->sun_path];
    uint32_t want_queues; /* 0: as many as there are, up to what is sensible */
    uint32_t depth;
    bool want_packed;
    uint32_t deadline_ms; /* 0 for none */

    /* As it was opened: what comes back is to be this disk still. */
    uint64_t features;
    struct vio_config config;
    unsigned shift; /* of the block size */
    uint32_t segs;  /* pieces of memory of a request */
    uint32_t seg_bytes;
    uint32_t part_bytes;         /* of a request to the back-end; whole blocks */
    uint32_t max_zero;           /* blocks */
    _Atomic bool refuses_zeroes; /* though it offers to write them */
    bool may_unmap;
    struct vio_ring_opts ring;

    int mem_fd;
    uint8_t *mem;
    size_t mem_bytes;
    struct vio_regions regions; /* under the lock */
    int inflight_fd;            /* the back-end's record of what is in flight; -1 where it keeps none */
    struct vu_inflight inflight;
    unsigned nqueues;
    struct vio_queue *queues;

    pthread_mutex_t lock;
    enum vio_state state; /* under the lock */
    struct vio_conn conn;
    int ask_fd;
    _Atomic uint32_t ask;
};

static inline struct vio_disk *vio_disk_of(const struct plx_bdev *bdev)
{
    return (struct vio_disk *)bdev;
}

static inline struct vio_channel *vio_channel_of(struct plx_bdev_channel *ch)
{
    return (struct vio_channel *)(void *)ch->driver;
}

static inline struct vio_io *vio_io_of(struct plx_bdev_req *req)
{
    return (struct vio_io *)(void *)req->context;
}

static inline bool vio_has(const struct vio_disk *d, unsigned feature)
{
    return d->features >> feature & 1;
}

/* Where a slot's entries are. */
static inline struct vio_desc *vio_indirect(const struct vio_disk *d, const struct vio_queue *q, unsigned slot)
{
    return d->ring.indirect ? q->cmds[slot].table : NULL;
}

static inline struct vio_desc *vio_table(const struct vio_disk *d, const struct vio_queue *q, unsigned slot)
{
    return d->ring.indirect ? q->cmds[slot].table : vio_ring_table(&q->ring, slot);
}

/* virtio.c */
/* Takes a configuration. @return 0; or -errno with err filled: such a disk is not possible */
int vio_learn(struct vio_disk *d, uint64_t features, const struct vio_config *config, struct plx_error *err);
/* Whether that is the same disk still, but for its size. */
bool vio_same(const struct vio_disk *d, const struct vio_config *config);
/* Blocks of a configuration; 0 when there cannot be so many. */
uint64_t vio_blocks(const struct vio_disk *d, const struct vio_config *config);
/* Features that can be made use of. */
uint64_t vio_features(const struct vio_disk *d, uint64_t offered);
/* The memory that rings and requests are in, once it is known how many there will be. */
int vio_memory_init(struct vio_disk *d, unsigned queues, struct plx_error *err);

/* virtio_msg.c */
/* Sends a message. @return 0 or -errno with c->err filled */
int vu_send(struct vio_conn *c, enum vu_request request, uint32_t flags, const void *payload, uint32_t size,
            const int *fds, unsigned nfds);
/* Receives what there is of a message. @return 1 when it is whole; 0; or -errno with err filled */
int vu_receive(int sock, struct vu_inbox *in, struct plx_error *err);
/* It has been handled, and the next may come. Closes the descriptors that were not taken from it. */
void vu_inbox_clear(struct vu_inbox *in);
/* A reply to a back-end's request. */
int vu_answer(int sock, const struct vu_header *to, uint64_t value);

/* virtio_conn.c */
void vio_conn_init(struct vio_conn *c);
/* Connects from a reactor; c->settled is called there when it is up, or has failed. */
void vio_conn_open(struct vio_disk *d, struct plx_reactor *r, void (*settled)(struct vio_conn *c));
/* On its reactor, under the lock: it is to be looked at from there, or not any more. */
int vio_conn_attach(struct vio_disk *d, struct plx_reactor *r);
void vio_conn_detach(struct vio_disk *d);
/* Nobody looks at it any more. */
void vio_conn_close(struct vio_conn *c);
/* Looks at the connection, while it is in the middle of something. */
int vio_conn_poll(struct vio_disk *d);
/* From any thread: asks the home to look after something. */
void vio_ask_home(struct vio_disk *d, uint32_t bits);

/* virtio_queue.c */
/* From any reactor: asks a channel to look after something. */
void vio_ask_queue(struct plx_reactor *from, struct vio_queue *q, uint32_t bits);
/* Shows the back-end what was added, and kicks it where it wants that. */
void vio_show(struct vio_channel *vc);
/* Empty, with all slots free. */
void vio_queue_init(struct vio_disk *d, struct vio_queue *q);
/* Begins it anew with what is in flight. On its channel's reactor, or where there is none. */
void vio_queue_reset(struct vio_disk *d, struct vio_queue *q);
int vio_channel_open(struct plx_bdev_channel *ch);
void vio_channel_close(struct plx_bdev_channel *ch);
/* Has nobody wait for a slot any more that a back-end which is not there had; under the lock. */
void vio_slot_orphan(struct vio_disk *d, struct vio_queue *q, unsigned slot);

/* virtio_io.c */
void vio_submit(struct plx_bdev_channel *ch, struct plx_bdev_req *req);
void vio_abort(struct plx_bdev_channel *ch, struct plx_bdev_req *req);
/* Issues what waits, as far as there are slots and buffers. The caller keeps the channel. */
void vio_line_issue(struct vio_channel *vc);
/* A slot has come back. */
void vio_slot_done(struct vio_channel *vc, unsigned slot);
/* Ends what the back-end had, and what waits: there is none any more. The caller keeps the channel. */
void vio_fail_all(struct vio_channel *vc);
/* Free again. */
void vio_slot_free(struct vio_queue *q, unsigned slot);

#endif
