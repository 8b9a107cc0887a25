/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Events (virtio 1.2, 5.6.6.3). The guest lays buffers down in advance; one is taken off the ring when there is
 * something to be said, so that a ring with none of that has nothing in flight. What happens while there are no buffers
 * waits, up to a number; beyond that, the next event says that some were missed.
 */
#include "vhost/scsi.h"

#include "vhost/scsi_ring.h"

#include <string.h>

/* ---- on the ring's reactor ---- */

unsigned vhost_scsi_wanted(const struct vhost_ring *r, unsigned most)
{
    const struct scsi_events *due = &r->scsi->due;
    if (plx_likely(r->index != VIRTIO_SCSI_EVENT))
        return most;
    return due->n ? due->n : due->lost;
}

static void events_add(struct scsi_events *to, const struct virtio_scsi_event *e)
{
    if (to->n < SCSI_EVENTS)
        to->at[to->n++] = *e;
    else
        to->lost = true;
}

/* The first of what is due, or none but that some were missed. */
static struct virtio_scsi_event events_take(struct scsi_events *due)
{
    struct virtio_scsi_event e = {.event = plx_put32(VIRTIO_SCSI_NO_EVENT)};
    if (due->n) {
        e = due->at[0];
        memmove(due->at, due->at + 1, --due->n * sizeof due->at[0]);
    }
    if (due->lost)
        e.event = plx_put32(plx_get32(e.event) | VIRTIO_SCSI_EVENTS_MISSED);
    due->lost = false;
    return e;
}

void scsi_event_start(struct vhost_slot *s)
{
    struct plx_iov_at at = {.iov = s->iov + s->nout};
    uint64_t room = 0;
    s->status = NULL;
    for (unsigned i = s->nout; i < s->niov; i++)
        room += s->iov[i].iov_len;
    if (room < sizeof(struct virtio_scsi_event)) {
        vhost_ring_break(s->ring, "a buffer that an event does not fit into");
        vhost_ring_done(s, 0);
        return;
    }
    const struct virtio_scsi_event e = events_take(&s->ring->scsi->due);
    if (!atomic_load_explicit(s->ring->halted, memory_order_relaxed))
        plx_iov_scatter(&at, &e, sizeof e);
    vhost_ring_done(s, sizeof e);
}

/* ---- between the two ---- */

static void events_send(struct vhost_ring *r);

static void events_back(struct plx_msg *msg)
{
    struct scsi_ring *ring = plx_container_of(msg, struct scsi_ring, msg);
    ring->under_way = false;
    events_send(ring->ring);
}

static void events_there(struct plx_msg *msg)
{
    struct scsi_ring *ring = plx_container_of(msg, struct scsi_ring, msg);
    for (unsigned i = 0; i < ring->moving.n; i++)
        events_add(&ring->due, &ring->moving.at[i]);
    ring->due.lost = ring->due.lost || ring->moving.lost;
    msg->fn = events_back;
    plx_reactor_send(ring->ring->control, msg);
}

/*
 * A ring that is told to stop hears of it after this message, and answers after the message's answer, as what one sends
 * to another arrives in order. So a ring that is freed has none under way.
 */
static void events_send(struct vhost_ring *r)
{
    struct scsi_ring *ring = r->scsi;
    if (ring->under_way || !r->started || (!ring->told.n && !ring->told.lost))
        return;
    ring->under_way = true;
    ring->moving = ring->told;
    ring->told = (struct scsi_events){0};
    ring->msg.fn = events_there;
    plx_reactor_send(r->home, &ring->msg);
}

/* ---- on the control reactor ---- */

void vhost_scsi_ring_runs(struct vhost_ring *r)
{
    events_send(r);
}

static bool wants_event(const struct vhost_device *d, uint32_t event)
{
    const int f = event == VIRTIO_SCSI_PARAM_CHANGE ? VIRTIO_SCSI_F_CHANGE : VIRTIO_SCSI_F_HOTPLUG;
    return d->features & VHOST_BIT(f);
}

void scsi_event_tell(struct vhost_scsi *h, const struct scsi_lun *l, uint32_t event, uint32_t reason)
{
    struct virtio_scsi_event e = {.event = plx_put32(event), .reason = plx_put32(reason)};
    scsi_lun_format(l->target, l->number, e.lun);
    plx_list_for_each(it, &h->ctrlr->devices) {
        struct vhost_device *d = plx_list_entry(it, struct vhost_device, link);
        struct vhost_ring *r = d->rings[VIRTIO_SCSI_EVENT];
        if (!r || d->dying || !r->want.running || !wants_event(d, event))
            continue;
        events_add(&r->scsi->told, &e);
        events_send(r);
    }
}
