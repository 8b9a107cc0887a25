/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A ring. It lives on one reactor, as a source: polled while there is something to do, with the guest's notifications
 * off; when the reactor sleeps they are on. What the control reactor wants of it is a setup, which it adopts when it is
 * told to (vhost_ring_order()), and answers.
 */
#ifndef PLX_VHOST_RING_H
#define PLX_VHOST_RING_H

#include <pollux/bdev.h>

#include "vhost/log.h"
#include "vhost/memory.h"
#include "vhost/scsi_ring.h"
#include "vhost/scsi_task.h"

enum {
    VHOST_SEGS = 126,         /* of data, in a request */
    VHOST_SIZE_MAX = 1 << 20, /* bytes of one */
    VHOST_IOVS =
        VHOST_SEGS + 2 + 8 /* with the header and the status, and where segments go over from region to region */
};

enum vhost_drain { VHOST_STOPS = 1, VHOST_PARTS = 2 };

struct vhost_ring;
struct scsi_ring;

/* A request that was taken off a ring; the ring has one for each that can be in it. */
struct vhost_slot {
    struct vhost_ring *ring;
    bool busy;
    uint8_t epoch;     /* of the ring's memory, when it was translated */
    uint16_t id;       /* of the head descriptor, or of the buffer in a packed ring; its place in ring->slots */
    uint16_t ndescs;   /* packed: that it takes of the ring */
    uint16_t entry;    /* packed: of the inflight region */
    uint32_t niov;     /* entries of the iovec, */
    uint32_t nout;     /* of which those that the guest wrote come first */
    uint32_t written;  /* bytes, for the used ring */
    uint32_t in_bytes; /* of those without the status, if it goes well */
    uint8_t *status;
    uint16_t range, nranges; /* of a discard */
    bool stepping, again;    /* see blk.c */
    struct scsi_task task;
    struct plx_bdev_req req;
    struct iovec iov[VHOST_IOVS];
};

/* What the control reactor wants. */
struct vhost_setup {
    const struct vhost_table *table;
    struct vhost_log *log; /* or NULL */
    uint64_t features;
    uint64_t desc, avail, used; /* user addresses */
    uint64_t log_used;          /* guest address of the used ring */
    bool logs_used;
    int kick, call; /* descriptors; -1 for none */
    bool enabled, running;
    bool fua; /* what is written is to be on stable storage when it is done */
};

struct vhost_ring {
    struct plx_source source;

    /* The ring reactor's. */
    const atomic_bool *halted; /* nothing may be written to guest memory any more, or read from it */
    bool broken;               /* the guest has done what must not be; nothing more is fetched */
    bool lost;                 /* nor published: it is not in memory any more */
    uint8_t drains;            /* enum vhost_drain: what it is to do when nothing is in flight */
    bool packed, event_idx;
    bool quiet; /* notifications are on, and nothing was fetched since */
    bool signalled;
    uint8_t wakes;
    uint8_t epoch;
    uint16_t size;
    uint16_t last_avail, used_idx;
    bool avail_wrap, used_wrap; /* packed */
    uint16_t ndone;
    union {
        struct {
            const struct virtq_desc *desc;
            const struct virtq_avail *avail;
            struct virtq_used *used;
        } split;
        struct {
            struct virtq_packed_desc *desc;
            const struct virtq_event *driver;
            struct virtq_event *device;
        } packed;
    } at;
    const void *last_table; /* split: of the request before, if indirect; it may be gone, and is not read */
    struct vhost_view view;
    struct vhost_slot *slots;
    struct vhost_slot **done; /* what is through, and not published */
    unsigned in_flight;
    unsigned old_left;                /* of them, of the epoch before */
    struct plx_bdev_channel *channel; /* NULL: of a SCSI host, or the disk is gone */
    const struct vhost_blk *blk;
    struct scsi_ring *scsi; /* NULL: of a block device */
    uint64_t counter;       /* of the inflight region */
    union {
        struct vhost_inflight_split *split;
        struct vhost_inflight_packed *packed;
    } inflight;
    uint16_t *again; /* what was in flight when a process ended before, in order */
    uint16_t nagain, again_next;
    struct vhost_setup is;
    uint64_t fetched; /* requests, since it was made */
    uint64_t kicks, calls;
    bool owes; /* a signal that was put off */
    struct {
        uint64_t since, fetched, iops; /* what it was of late, and when and from where that is counted */
        uint64_t signalled;
    } pace;
    const char *why; /* it is broken */

    /* Between the two: each side's in turn. */
    struct vhost_setup want;
    struct plx_msg order, drained, trouble, part;
    atomic_bool troubled; /* the last one is under way */
    int result;
    uint32_t base; /* where to begin, and where it ended */

    /* The control reactor's. */
    struct plx_reactor *home, *control;
    unsigned index, num;
    bool addressed;
    bool started; /* it runs, and has said so */
    int err_fd;
    const char *told; /* why it is broken, once that is known here */
    void (*answered)(struct vhost_ring *r);
    void (*old_done)(struct vhost_ring *r);
    void (*in_trouble)(struct vhost_ring *r);
    void (*parted)(struct vhost_ring *r);
    void *owner;
    void *memory; /* slots and the rest */
    size_t memory_bytes;
};

/* Memory for `num` requests, which takes space as it is used. @return 0 or -ENOMEM */
int vhost_ring_alloc(struct vhost_ring *r);
void vhost_ring_free_memory(struct vhost_ring *r);

/*
 * Has it go over to what is wanted; r->answered is called on the control reactor, which leaves r->want alone till then.
 */
void vhost_ring_order(struct vhost_ring *r);

/*
 * Has it use its disk no more: what comes ends with an error, and what is in flight is asked to. r->parted is called on
 * the control reactor when nothing is. One at a time.
 */
void vhost_ring_part(struct vhost_ring *r);

/* ---- on its reactor ---- */

/* A request is through: it is published with others, at the end of this round or in the next. */
static inline void vhost_ring_done(struct vhost_slot *slot, uint32_t written)
{
    struct vhost_ring *r = slot->ring;
    slot->written = written;
    r->done[r->ndone++] = slot;
}

/* Nothing more is fetched: the guest, or the front-end, has done what must not be. */
void vhost_ring_break(struct vhost_ring *r, const char *why);
/* Something was published that the guest wants to know of: tells it, or puts that off. */
void vhost_ring_signal(struct vhost_ring *r);
/*
 * Adds what a descriptor says to a slot.
 * @return false when it is nowhere in guest memory, in the wrong order, or there are too many
 */
bool vhost_slot_add_odd(struct vhost_ring *r, struct vhost_slot *s, uint64_t guest, uint32_t len, bool in);

/* Most are in the region of the one before. */
static inline bool vhost_slot_add(struct vhost_ring *r, struct vhost_slot *s, uint64_t guest, uint32_t len, bool in)
{
    const struct vhost_span *span = r->view.last;
    const unsigned n = s->niov;
    const uint64_t offset = guest - span->guest;
    if (plx_unlikely(offset >= span->size || len - UINT64_C(1) >= span->size - offset || n == VHOST_IOVS ||
                     (!in && n != s->nout)))
        return vhost_slot_add_odd(r, s, guest, len, in);
    s->iov[n] = (struct iovec){span->at + offset, len};
    s->niov = n + 1;
    if (!in)
        s->nout = n + 1;
    return true;
}

/* Takes the slot with an id. @return NULL, and the ring is broken, when there is none or it is in use */
static inline struct vhost_slot *vhost_slot_take(struct vhost_ring *r, uint32_t id)
{
    if (plx_unlikely(id >= r->size)) {
        vhost_ring_break(r, "a request whose number is beyond the size of the ring");
        return NULL;
    }
    struct vhost_slot *s = &r->slots[id];
    if (plx_unlikely(s->busy)) {
        vhost_ring_break(r, "a request with the number of one that is not through yet");
        return NULL;
    }
    s->ring = r;
    s->id = (uint16_t)id;
    s->niov = s->nout = 0;
    return s;
}

/* A descriptor of either kind, as it was read. */
struct vhost_desc {
    uint64_t addr;
    uint32_t len;
    uint16_t mid, end; /* flags and next of a split one, id and flags of a packed one */
};

/*
 * The i-th 8 bytes of what the guest wrote, which may begin anywhere. They are read once, as they may be written
 * meanwhile: what is looked at is what is used.
 */
static inline uint64_t vhost_read_once(const void *from, unsigned i)
{
    typedef uint64_t __attribute__((aligned(1), may_alias)) word;
    const volatile word *w = from;
    return le64toh(w[i]);
}

static inline struct vhost_desc vhost_read_desc(const void *from)
{
    const uint64_t addr = vhost_read_once(from, 0), rest = vhost_read_once(from, 1);
    return (struct vhost_desc){addr, (uint32_t)rest, (uint16_t)(rest >> 32), (uint16_t)(rest >> 48)};
}

/* A request begins: blk.c. */
void vhost_blk_start(struct vhost_slot *slot);
/* The same where there is no disk any more. */
void vhost_blk_start_gone(struct vhost_slot *slot);

/* One that was taken, with all that its descriptors say. */
static inline void vhost_slot_begin(struct vhost_ring *r, struct vhost_slot *s)
{
    s->busy = true;
    s->epoch = r->epoch;
    if (plx_likely(r->channel != NULL))
        vhost_blk_start(s);
    else if (r->scsi)
        vhost_scsi_start(s);
    else
        vhost_blk_start_gone(s);
}

/* ---- split.c and packed.c ---- */

struct vhost_ring_kind {
    /* Finds the three areas. @return false when they are not in guest memory */
    bool (*locate)(struct vhost_ring *r);
    void (*begin)(struct vhost_ring *r); /* at r->base */
    /* Takes requests off the ring and begins them, till it is empty or broken. @return how many, at most so many */
    unsigned (*fetch)(struct vhost_ring *r, unsigned most);
    struct vhost_slot *(*take_again)(struct vhost_ring *r, uint16_t which); /* NULL: it is broken */
    void (*publish)(struct vhost_ring *r);
    bool (*waiting)(struct vhost_ring *r);         /* there is something to pop */
    void (*notify)(struct vhost_ring *r, bool on); /* by the guest */
    uint32_t (*base)(const struct vhost_ring *r);
};

extern const struct vhost_ring_kind vhost_split, vhost_packed;

/* ---- inflight.c: both kinds ---- */

/*
 * What is stored after this is found by the next life of the process only with all that was stored before. Who dies
 * does so between two instructions, and what it has stored by then the kernel orders for whoever comes next: it is
 * compilers alone that must keep the order. Which steps are needed finds tests/model/test_inflight.c.
 */
#define vhost_inflight_step() atomic_signal_fence(memory_order_release)
#define vhost_inflight_put(at, value)                                                                                  \
    do {                                                                                                               \
        vhost_inflight_step();                                                                                         \
        __atomic_store_n(at, value, __ATOMIC_RELAXED);                                                                 \
    } while (0)

/* Bytes of a ring's part of the region. */
uint64_t vhost_inflight_bytes(unsigned queue_size, bool packed);
/*
 * Takes up a region at the ring's beginning, and what was in flight. @return false when what it says cannot be
 */
bool vhost_inflight_begin_split(struct vhost_ring *r);
bool vhost_inflight_begin_packed(struct vhost_ring *r);
/* Of a batch of packed descriptors: see packed.c. */
void vhost_inflight_fetched_packed(struct vhost_ring *r, struct vhost_slot *s, const struct vhost_desc *d, bool last);
void vhost_inflight_done_packed(struct vhost_ring *r, const struct vhost_slot *s);
void vhost_inflight_published_packed(struct vhost_ring *r);

#endif
