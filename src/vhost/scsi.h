/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A SCSI host: targets with logical units, each of which is a disk (virtio 1.2, 5.6). Units come and go while rings
 * run. They are found in a table that the control reactor writes and all others read; who takes a unit out of it asks
 * every reactor to say when nothing there uses it any more.
 *
 * Ring 0 has task management (scsi_tmf.c), ring 1 events (scsi_event.c), the others requests (scsi.c).
 */
#ifndef PLX_VHOST_SCSI_H
#define PLX_VHOST_SCSI_H

#include <stdatomic.h>

#include "base/apart.h"
#include "bdev/reserve.h"
#include "vhost/ring.h"
#include "vhost/scsi_page.h"
#include "vhost/vhost.h"

enum { SCSI_EVENTS = 16 }; /* that wait for buffers of the guest; more are missed */

/* Unit attentions that a nexus, which is a front-end's connection, is to be told of. The first is told first. */
enum scsi_attention {
    SCSI_ATTENTION_RESET,
    SCSI_ATTENTION_RESERVATIONS_PREEMPTED,
    SCSI_ATTENTION_RESERVATIONS_RELEASED,
    SCSI_ATTENTION_REGISTRATIONS_PREEMPTED,
    SCSI_ATTENTION_CAPACITY,
    SCSI_ATTENTION_LUNS,
    SCSI_ATTENTIONS
};

/* A reactor's part of what waits for requests there to end. */
struct scsi_wait {
    struct plx_list link;
    struct plx_fan_leg *leg;
    struct scsi_leg *at;
    struct scsi_tmf *tmf;       /* a function; NULL: */
    const struct scsi_lun *lun; /* a preempt and abort, for those of this unit */
    uint64_t seq;               /* requests before this one */
    bool found;
};

/* A reactor's part of a unit. */
struct scsi_lun_leg {
    struct plx_bdev_channel *channel;
    const struct plx_resv *resv; /* NULL while it is not reserved */
    unsigned in_flight;
    struct plx_fan_leg *leaving; /* is to be answered when there is nothing in flight */
    struct scsi_wait expel;
} PLX_APART;
PLX_IS_APART(struct scsi_lun_leg);

struct scsi_lun {
    struct plx_list link;
    struct vhost_scsi *scsi;
    unsigned target, number, shift; /* bytes of a block, as a power of two */
    struct scsi_unit unit;          /* but for its size, which may change */
    struct plx_bdev *bdev;
    struct plx_bdev_access access;
    struct plx_bdev_hold *hold;
    struct plx_resv_party resv;
    struct plx_fan fan; /* by which it leaves */
    bool there, leaving;
    bool aborts; /* what is in flight, when it leaves */
    plx_vhost_done_fn done;
    void *arg;
    atomic_uint attentions[VHOST_DEVICES]; /* bits, by nexus */
    struct scsi_lun_leg legs[];
};

/*
 * Orders, of which tests/model/test_scsi.c finds that they are needed and enough: a unit, and a target, are released
 * when all of them is there, and acquired. Attentions are released by whoever has something to say, and acquired by
 * the ring that tells the guest, which then asks for what has changed, and finds it. What is taken out of the table
 * needs no order: reactors hear of that by messages.
 */
struct scsi_target {
    _Atomic(struct scsi_lun *) units[SCSI_UNITS];
    atomic_uint n; /* of them */
};

/* A reactor's part of a host. */
struct scsi_leg {
    struct plx_list rings; /* of requests, that run there */
    struct plx_list waits; /* of scsi_wait */
    uint64_t seq;          /* requests that have begun there */
} PLX_APART;
PLX_IS_APART(struct scsi_leg);

struct vhost_scsi {
    struct plx_vhost_ctrlr *ctrlr;
    bool packed;
    uint8_t initiator[PLX_RESV_NAME];
    unsigned queues, n; /* queues of requests; reactors */
    struct plx_list luns;
    struct plx_reactor **reactors;
    _Atomic(struct scsi_target *) targets[SCSI_TARGETS]; /* one that is there stays */
    struct scsi_leg legs[];
};

struct scsi_events {
    unsigned n;
    bool lost;
    struct virtio_scsi_event at[SCSI_EVENTS];
};

/* Task management of a device: one function at a time. */
struct scsi_tmf {
    struct vhost_ring *ring;
    struct plx_fan fan;
    struct scsi_wait *waits;
    struct vhost_slot *slot; /* what is being done; NULL: nothing */
    uint16_t *line;          /* slots that come after it */
    unsigned nline;
    struct virtio_scsi_tmf request;
    unsigned target, number;
};

/* What a ring has beside that of block devices. */
struct scsi_ring {
    struct vhost_scsi *scsi;
    struct plx_list link;
    unsigned leg, nexus;
    struct vhost_ring *ring;
    const void *device; /* whose it is */
    struct scsi_tmf *tmf;
    /* Events: the control reactor's, under way between the two, the ring's. */
    struct scsi_events told, moving, due;
    struct plx_msg msg;
    bool under_way;
};

/* From any reactor: all front-ends are told of it, each once. */
static inline void scsi_attend(struct scsi_lun *l, enum scsi_attention what)
{
    for (unsigned i = 0; i < VHOST_DEVICES; i++)
        atomic_fetch_or_explicit(&l->attentions[i], 1u << what, memory_order_release);
}

/* ---- scsi.c: on rings' reactors ---- */

/* The unit that there is, or NULL. `*target` is NULL when its target is not there either. */
static inline struct scsi_lun *scsi_lun_find(const struct vhost_scsi *h, unsigned target, unsigned number,
                                             struct scsi_target **of)
{
    struct scsi_target *t = atomic_load_explicit(&h->targets[target], memory_order_acquire);
    *of = t && atomic_load_explicit(&t->n, memory_order_relaxed) ? t : NULL;
    if (plx_unlikely(!*of || number >= SCSI_UNITS))
        return NULL;
    return atomic_load_explicit(&t->units[number], memory_order_acquire);
}

/* The unit, with its size now. */
void scsi_unit_now(const struct scsi_lun *l, struct scsi_unit *out);

/* ---- scsi_tmf.c ---- */

int scsi_tmf_init(struct scsi_tmf **out, struct vhost_ring *r);
void scsi_tmf_free(struct scsi_tmf *t);
void scsi_control_start(struct vhost_slot *s);
/* Requests were published: some of what waits for them may be done. */
void scsi_tmf_look(struct scsi_leg *leg);
/* Has a unit's requests end on this reactor that a reservation could concern; the leg is answered when they have. */
void scsi_expel(struct scsi_wait *w, struct plx_fan_leg *leg);

/* ---- scsi_party.c ---- */

extern const struct plx_resv_party_ops scsi_party_ops;

/* ---- scsi_event.c ---- */

/* Tells all front-ends of something that has happened to a unit. On the control reactor. */
void scsi_event_tell(struct vhost_scsi *h, const struct scsi_lun *l, uint32_t event, uint32_t reason);
void scsi_event_start(struct vhost_slot *s);

#endif
