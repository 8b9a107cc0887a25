/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Task management (virtio 1.2, 5.6.6.2; SAM-5, 7). A function asks every reactor for the requests that it is about, has
 * them end early, and is answered when they are through and published: the guest then knows that nothing of it touches
 * their memory any more, and has seen how each has ended. Requests that come after the function are none of its.
 */
#include "vhost/scsi.h"

#include "vhost/scsi_ring.h"

#include <errno.h>
#include <stdlib.h>

/* ---- which requests ---- */

static enum virtio_scsi_function function_of(const struct scsi_tmf *t)
{
    return (enum virtio_scsi_function)plx_get32(t->request.subtype);
}

static bool asks_only(const struct scsi_tmf *t)
{
    return function_of(t) == VIRTIO_SCSI_QUERY_TASK || function_of(t) == VIRTIO_SCSI_QUERY_TASK_SET;
}

/* Those of other front-ends are meant by functions that are about the unit, and not about a nexus. */
static bool meant_ring(const struct scsi_tmf *t, const struct scsi_ring *r)
{
    if (!t)
        return true;
    const enum virtio_scsi_function f = function_of(t);
    return f == VIRTIO_SCSI_LUN_RESET || f == VIRTIO_SCSI_CLEAR_TASK_SET || r->device == t->ring->scsi->device;
}

static bool meant(const struct scsi_wait *w, const struct vhost_slot *s)
{
    const struct scsi_tmf *t = w->tmf;
    if (!t)
        return s->busy && s->task.seq < w->seq && s->task.lun == w->lun && s->task.needs;
    const enum virtio_scsi_function f = function_of(t);
    if (!s->busy || s->task.seq >= w->seq || s->task.target != t->target)
        return false;
    if (f == VIRTIO_SCSI_NEXUS_RESET)
        return true; /* all of the target's */
    if (s->task.number != t->number)
        return false;
    return (f != VIRTIO_SCSI_ABORT_TASK && f != VIRTIO_SCSI_QUERY_TASK) ||
           memcmp(&s->task.tag, t->request.tag, sizeof s->task.tag) == 0;
}

/* Calls fn for each request on this reactor that is meant. @return how many there are */
static unsigned each_meant(struct scsi_wait *w, void (*fn)(struct scsi_wait *w, struct vhost_slot *s))
{
    unsigned n = 0;
    plx_list_for_each(it, &w->at->rings) {
        struct scsi_ring *ring = plx_list_entry(it, struct scsi_ring, link);
        struct vhost_ring *r = ring->ring;
        for (unsigned i = 0; i < r->size && meant_ring(w->tmf, ring); i++) {
            if (!meant(w, &r->slots[i]))
                continue;
            n++;
            if (fn)
                fn(w, &r->slots[i]);
        }
    }
    return n;
}

/* ---- on each reactor ---- */

/* @return whether there are any */
static bool wait_begin(struct scsi_wait *w, struct plx_fan_leg *leg)
{
    w->leg = leg;
    w->seq = w->at->seq;
    return each_meant(w, NULL) != 0;
}

static void end_early(struct scsi_wait *w, struct vhost_slot *s)
{
    const enum virtio_scsi_function f = function_of(w->tmf);
    const bool reset = f == VIRTIO_SCSI_LUN_RESET || f == VIRTIO_SCSI_NEXUS_RESET;
    s->task.ended = reset ? VIRTIO_SCSI_RESET : VIRTIO_SCSI_ABORTED;
    if (s->task.lun) /* else it is through already, and not published */
        plx_bdev_abort(s->task.lun->legs[s->ring->scsi->leg].channel, &s->req);
}

static void tmf_here(struct plx_fan_leg *fan)
{
    struct scsi_wait *w = fan->arg;
    w->found = wait_begin(w, fan);
    if (!w->found || asks_only(w->tmf)) {
        plx_fan_answer(fan, 0);
        return;
    }
    plx_list_add_tail(&w->at->waits, &w->link);
    each_meant(w, end_early);
}

static void expel_early(struct scsi_wait *w, struct vhost_slot *s)
{
    (void)w;
    s->task.expelled = true;
    plx_bdev_abort(s->task.lun->legs[s->ring->scsi->leg].channel, &s->req);
}

void scsi_expel(struct scsi_wait *w, struct plx_fan_leg *leg)
{
    if (!wait_begin(w, leg)) {
        plx_fan_answer(leg, 0);
        return;
    }
    plx_list_add_tail(&w->at->waits, &w->link);
    each_meant(w, expel_early);
}

void scsi_tmf_look(struct scsi_leg *leg)
{
    plx_list_for_each_safe(it, &leg->waits) {
        struct scsi_wait *w = plx_list_entry(it, struct scsi_wait, link);
        if (each_meant(w, NULL))
            continue;
        plx_list_del(&w->link);
        plx_fan_answer(w->leg, 0);
    }
}

/* ---- on the reactor of the control ring ---- */

static void control_answer(struct vhost_slot *s, const void *answer, uint32_t bytes)
{
    struct plx_iov_at at = {.iov = s->iov + s->nout};
    if (!atomic_load_explicit(s->ring->halted, memory_order_relaxed))
        plx_iov_scatter(&at, answer, bytes);
    vhost_ring_done(s, bytes);
}

static void tmf_answer(struct vhost_slot *s, enum virtio_scsi_answer answer)
{
    const uint8_t byte = (uint8_t)answer;
    control_answer(s, &byte, sizeof byte);
}

/* All front-ends are told that the unit was reset, the one that wanted it too. */
static void tmf_attentions(struct scsi_tmf *t)
{
    struct scsi_target *of;
    struct scsi_lun *l = scsi_lun_find(t->ring->scsi->scsi, t->target, t->number, &of);
    if (l && function_of(t) == VIRTIO_SCSI_LUN_RESET)
        scsi_attend(l, SCSI_ATTENTION_RESET);
}

static void tmf_next(struct scsi_tmf *t);

static void tmf_done(struct plx_fan *fan, int result)
{
    struct scsi_tmf *t = plx_container_of(fan, struct scsi_tmf, fan);
    struct vhost_slot *s = t->slot;
    bool found = false;
    (void)result;
    for (unsigned i = 0; i < fan->n; i++)
        found = found || t->waits[i].found;
    tmf_attentions(t);
    t->slot = NULL;
    tmf_answer(s, asks_only(t) && found ? VIRTIO_SCSI_FUNCTION_SUCCEEDED : VIRTIO_SCSI_OK);
    tmf_next(t);
}

/* @return the answer, when it is known at once; -1 when the reactors are to be asked */
static int tmf_check(struct scsi_tmf *t)
{
    struct scsi_target *of = NULL;
    if (!scsi_lun_parse(t->request.lun, &t->target, &t->number))
        return VIRTIO_SCSI_BAD_TARGET;
    struct scsi_lun *l = scsi_lun_find(t->ring->scsi->scsi, t->target, t->number, &of);
    switch (function_of(t)) {
    case VIRTIO_SCSI_NEXUS_RESET:
        return of ? -1 : VIRTIO_SCSI_BAD_TARGET;
    case VIRTIO_SCSI_ABORT_TASK:
    case VIRTIO_SCSI_ABORT_TASK_SET:
    case VIRTIO_SCSI_CLEAR_TASK_SET:
    case VIRTIO_SCSI_LUN_RESET:
    case VIRTIO_SCSI_QUERY_TASK:
    case VIRTIO_SCSI_QUERY_TASK_SET:
        if (!of)
            return VIRTIO_SCSI_BAD_TARGET;
        return l ? -1 : VIRTIO_SCSI_INCORRECT_LUN;
    case VIRTIO_SCSI_CLEAR_ACA: /* there is none */
    default:
        return VIRTIO_SCSI_FUNCTION_REJECTED;
    }
}

static void tmf_begin(struct scsi_tmf *t, struct vhost_slot *s)
{
    struct plx_iov_at at = {.iov = s->iov};
    plx_iov_gather(&at, &t->request, sizeof t->request);
    const int answer = tmf_check(t);
    if (answer >= 0) {
        tmf_answer(s, (enum virtio_scsi_answer)answer);
        return;
    }
    t->slot = s;
    for (unsigned i = 0; i < t->fan.n; i++)
        t->fan.legs[i].arg = &t->waits[i];
    plx_fan_out(&t->fan, tmf_here, tmf_done);
}

static void tmf_next(struct scsi_tmf *t)
{
    while (!t->slot && t->nline) {
        struct vhost_slot *s = &t->ring->slots[t->line[0]];
        memmove(t->line, t->line + 1, --t->nline * sizeof *t->line);
        tmf_begin(t, s);
    }
}

static uint64_t control_bytes(const struct iovec *iov, unsigned n)
{
    uint64_t bytes = 0;
    for (unsigned i = 0; i < n; i++)
        bytes += iov[i].iov_len;
    return bytes;
}

void scsi_control_start(struct vhost_slot *s)
{
    struct vhost_ring *r = s->ring;
    struct scsi_tmf *t = r->scsi->tmf;
    const uint64_t out = control_bytes(s->iov, s->nout), in = control_bytes(s->iov + s->nout, s->niov - s->nout);
    const uint8_t none[5] = {0}; /* no asynchronous event there is */
    struct plx_iov_at at = {.iov = s->iov};
    plx_le32 type = plx_put32(UINT32_MAX);
    s->status = NULL;
    if (out >= sizeof type)
        plx_iov_gather(&at, &type, sizeof type);
    const uint32_t kind = plx_get32(type);
    if (kind == VIRTIO_SCSI_TMF && out >= sizeof t->request && in) {
        t->line[t->nline++] = s->id;
        tmf_next(t);
    } else if ((kind == VIRTIO_SCSI_AN_QUERY || kind == VIRTIO_SCSI_AN_SUBSCRIBE) &&
               out >= sizeof(struct virtio_scsi_an) && in >= sizeof none) {
        control_answer(s, none, sizeof none);
    } else {
        vhost_ring_break(r, "a control request that is none, or without room for its response");
        vhost_ring_done(s, 0);
    }
}

/* ---- on the control reactor ---- */

int scsi_tmf_init(struct scsi_tmf **out, struct vhost_ring *r)
{
    const struct vhost_scsi *h = r->scsi->scsi;
    struct scsi_tmf *t = calloc(1, sizeof *t);
    if (!t)
        return -ENOMEM;
    t->ring = r;
    t->waits = calloc(h->n, sizeof *t->waits);
    t->line = calloc(VHOST_RING_MAX, sizeof *t->line);
    if (!t->waits || !t->line || plx_fan_init(&t->fan, r->home, h->reactors, h->n)) {
        scsi_tmf_free(t);
        return -ENOMEM;
    }
    for (unsigned i = 0; i < h->n; i++) {
        t->waits[i].tmf = t;
        t->waits[i].at = &r->scsi->scsi->legs[i];
        plx_list_init(&t->waits[i].link);
    }
    *out = t;
    return 0;
}

void scsi_tmf_free(struct scsi_tmf *t)
{
    if (!t)
        return;
    plx_fan_destroy(&t->fan);
    free(t->waits);
    free(t->line);
    free(t);
}
