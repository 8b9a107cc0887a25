/* SPDX-License-Identifier: BSD-3-Clause */
/* What both kinds of rings have in common: their life, and whose turn it is. */
#include "vhost/ring.h"

#include "base/log.h"
#include "reactor/eventfd.h"
#include "reactor/once.h"
#include "vhost/blk.h"
#include "vhost/scsi_ring.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

enum {
    /*
     * Requests of a ring in a round, at whose end they are published: so few that the guest has the first to go on with
     * while we do the next.
     */
    RING_BUDGET = 16,
    RING_LISTENS = 8, /* wake-ups in vain before a quiet ring looks whether it was kicked for nothing */
};

static struct vhost_ring *ring_of(struct plx_source *s)
{
    return plx_container_of(s, struct vhost_ring, source);
}

static const struct vhost_ring_kind *ring_kind(const struct vhost_ring *r)
{
    return r->packed ? &vhost_packed : &vhost_split;
}

/* ---- memory ---- */

int vhost_ring_alloc(struct vhost_ring *r)
{
    const size_t slots = r->num * sizeof r->slots[0], done = r->num * sizeof(struct vhost_slot *);
    if (r->memory)
        return 0;
    r->memory_bytes = slots + done + r->num * sizeof r->again[0];
    r->memory = mmap(NULL, r->memory_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (r->memory == MAP_FAILED) {
        r->memory = NULL;
        return -ENOMEM;
    }
    r->slots = r->memory;
    r->done = (struct vhost_slot **)(void *)((uint8_t *)r->memory + slots);
    r->again = (uint16_t *)(void *)((uint8_t *)r->memory + slots + done);
    return 0;
}

void vhost_ring_free_memory(struct vhost_ring *r)
{
    if (r->memory)
        munmap(r->memory, r->memory_bytes);
    r->memory = NULL;
}

/* ---- trouble ---- */

static void trouble_there(struct plx_msg *msg)
{
    struct vhost_ring *r = plx_container_of(msg, struct vhost_ring, trouble);
    plx_once_hear(&r->troubled);
    r->in_trouble(r);
}

static void ring_tell(struct vhost_ring *r)
{
    if (!plx_once_ask(&r->troubled))
        return;
    r->trouble.fn = trouble_there;
    plx_reactor_send(r->control, &r->trouble);
}

void vhost_ring_break(struct vhost_ring *r, const char *why)
{
    if (r->broken)
        return;
    r->broken = true;
    r->why = why;
    ring_tell(r);
}

/* ---- requests ---- */

/* A segment that goes over from one region to the next has an entry for each. */
bool vhost_slot_add_odd(struct vhost_ring *r, struct vhost_slot *s, uint64_t guest, uint32_t len, bool in)
{
    uint64_t left = len;
    if (plx_unlikely(!len || (!in && s->niov != s->nout)))
        return false;
    while (left) {
        uint64_t n = left;
        uint8_t *at = vhost_at(&r->view, guest, &n);
        if (plx_unlikely(!at || s->niov == VHOST_IOVS))
            return false;
        s->iov[s->niov++] = (struct iovec){at, n};
        s->nout += !in;
        left -= n;
        guest += n;
    }
    return true;
}

/* What was in flight when a process ended before. */
static unsigned fetch_again(struct vhost_ring *r, unsigned most)
{
    unsigned n = 0;
    while (n < most && r->again_next < r->nagain && !r->broken) {
        struct vhost_slot *s = ring_kind(r)->take_again(r, r->again[r->again_next++]);
        if (s) {
            vhost_slot_begin(r, s);
            n++;
        }
    }
    return n;
}

static unsigned ring_fetch(struct vhost_ring *r)
{
    const struct vhost_ring_kind *kind = ring_kind(r);
    const unsigned most = plx_likely(!r->scsi) ? RING_BUDGET : vhost_scsi_wanted(r, RING_BUDGET);
    unsigned n = plx_unlikely(r->again_next < r->nagain) ? fetch_again(r, most) : 0;
    if (plx_likely(n < most && !r->broken))
        n += kind->fetch(r, most - n);
    r->in_flight += n;
    r->fetched += n;
    if (plx_unlikely(r->quiet) && n) {
        r->quiet = false;
        kind->notify(r, false);
    }
    return n;
}

/* ---- completions ---- */

static void old_done_there(struct plx_msg *msg)
{
    struct vhost_ring *r = plx_container_of(msg, struct vhost_ring, drained);
    r->old_done(r);
}

static void tell_old_done(struct vhost_ring *r)
{
    r->drained.fn = old_done_there;
    plx_reactor_send(r->control, &r->drained);
}

static void release_old(struct vhost_ring *r)
{
    for (unsigned i = 0; i < r->ndone; i++)
        r->old_left -= r->done[i]->epoch != r->epoch;
    if (!r->old_left)
        tell_old_done(r);
}

static void release_done(struct vhost_ring *r)
{
    const unsigned n = r->ndone;
    if (plx_unlikely(r->old_left > 0))
        release_old(r);
    for (unsigned i = 0; i < n; i++)
        r->done[i]->busy = false;
    r->in_flight -= n;
    r->ndone = 0;
}

/* Pages that were written to: those of what the guest reads, whether all of it has come or not. */
static void log_done(struct vhost_ring *r)
{
    for (unsigned i = 0; i < r->ndone; i++) {
        const struct vhost_slot *s = r->done[i];
        for (unsigned k = s->nout; k < s->niov; k++)
            vhost_log_memory(r->is.log, r->is.table, s->iov[k].iov_base, s->iov[k].iov_len);
        if (s->status)
            vhost_log_memory(r->is.log, r->is.table, s->status, 1);
    }
}

static void ring_publish(struct vhost_ring *r)
{
    if (plx_unlikely(r->lost || atomic_load_explicit(r->halted, memory_order_relaxed))) {
        release_done(r); /* and a front-end that comes back has them done once more */
        return;
    }
    if (plx_unlikely(r->is.log != NULL))
        log_done(r);
    ring_kind(r)->publish(r);
    release_done(r);
}

static void signal_now(struct vhost_ring *r)
{
    r->signalled = true;
    r->owes = false;
    r->pace.signalled = plx_reactor_now(r->home);
    if (r->is.call < 0)
        return;
    r->calls++;
    plx_eventfd_tell(r->home, r->is.call);
}

static bool put_off(struct vhost_ring *r)
{
    const uint64_t delay = atomic_load_explicit(&r->blk->delay_us, memory_order_relaxed) * PLX_NS_PER_US;
    return delay && plx_reactor_now(r->home) - r->pace.signalled < delay;
}

/* Requests a second, found out anew ten times in one. */
static uint64_t ring_iops(struct vhost_ring *r)
{
    const uint64_t now = plx_reactor_now(r->home), ns = now - r->pace.since;
    if (ns >= PLX_NS_PER_S / 10) {
        r->pace.iops = (r->fetched - r->pace.fetched) * PLX_NS_PER_S / ns;
        r->pace.since = now;
        r->pace.fetched = r->fetched;
    }
    return r->pace.iops;
}

void vhost_ring_signal(struct vhost_ring *r)
{
    if (plx_unlikely(put_off(r)) && ring_iops(r) > atomic_load(&r->blk->iops_threshold))
        r->owes = true; /* until the delay is over, or the reactor would sleep */
    else
        signal_now(r);
}

/* ---- the source ---- */

static void ring_drained(struct vhost_ring *r);

/* @return whether it is to be looked at */
static bool ring_goes(struct vhost_ring *r)
{
    if (plx_unlikely(r->drains & VHOST_STOPS))
        return false;
    if (plx_unlikely(atomic_load_explicit(r->halted, memory_order_relaxed))) {
        ring_tell(r); /* the control reactor, which may not know: see plx_memory_fault() */
        return false;
    }
    return r->is.enabled && !r->broken;
}

static int ring_poll(struct plx_source *source)
{
    struct vhost_ring *r = ring_of(source);
    unsigned work = r->ndone;
    if (work)
        ring_publish(r);
    if (plx_likely(ring_goes(r)))
        work += ring_fetch(r);
    if (r->ndone)
        ring_publish(r);
    if (plx_unlikely(r->scsi != NULL))
        vhost_scsi_published(r);
    if (plx_unlikely(r->owes) && !put_off(r))
        signal_now(r);
    if (plx_unlikely(r->drains && !r->in_flight))
        ring_drained(r);
    return (int)work;
}

static void hear_kick(struct vhost_ring *r)
{
    if (r->is.kick >= 0)
        r->kicks += plx_eventfd_hear(r->is.kick);
}

/*
 * Notifications stay on while nothing comes, so that a ring that is quiet costs a sleeping reactor one look at its
 * memory, and not a system call.
 */
static int ring_arm(struct plx_source *source)
{
    struct vhost_ring *r = ring_of(source);
    if (r->ndone)
        return 1;
    if (r->owes)
        signal_now(r);
    if (!r->quiet || r->wakes >= RING_LISTENS) {
        r->wakes = 0;
        hear_kick(r);
    }
    if (!ring_goes(r))
        return 0;
    if (r->scsi && !vhost_scsi_wanted(r, 1))
        return 0;
    if (r->is.kick < 0)
        return 1; /* nobody would wake us */
    if (!r->quiet) {
        r->quiet = true;
        ring_kind(r)->notify(r, true);
    }
    return ring_kind(r)->waiting(r);
}

static void ring_disarm(struct plx_source *source)
{
    struct vhost_ring *r = ring_of(source);
    r->wakes = (uint8_t)(r->wakes + (r->wakes < RING_LISTENS));
}

static const struct plx_source_ops ring_ops = {.poll = ring_poll, .arm = ring_arm, .disarm = ring_disarm};

/* ---- orders ---- */

static void ring_answered(struct plx_msg *msg)
{
    struct vhost_ring *r = plx_container_of(msg, struct vhost_ring, order);
    r->answered(r);
}

static void ring_answer(struct vhost_ring *r, int result)
{
    r->result = result;
    r->order.fn = ring_answered;
    plx_reactor_send(r->control, &r->order);
}

static void ring_stopped(struct vhost_ring *r)
{
    r->is.running = false;
    if (r->owes)
        signal_now(r);
    plx_source_remove(r->home, &r->source);
    if (r->scsi)
        vhost_scsi_stopped(r);
    r->base = ring_kind(r)->base(r);
    ring_answer(r, 0);
}

/* ---- a disk that goes ---- */

static void ring_parted(struct plx_msg *msg)
{
    struct vhost_ring *r = plx_container_of(msg, struct vhost_ring, part);
    r->parted(r);
}

static void ring_has_parted(struct vhost_ring *r)
{
    r->part.fn = ring_parted;
    plx_reactor_send(r->control, &r->part);
}

static void ring_parts(struct plx_msg *msg)
{
    struct vhost_ring *r = plx_container_of(msg, struct vhost_ring, part);
    struct plx_bdev_channel *ch = r->channel;
    r->channel = NULL;
    if (!r->in_flight) {
        ring_has_parted(r);
        return;
    }
    r->drains |= VHOST_PARTS;
    for (unsigned i = 0; i < r->size; i++)
        if (r->slots[i].busy && r->slots[i].req.kept)
            plx_bdev_abort(ch, &r->slots[i].req);
}

void vhost_ring_part(struct vhost_ring *r)
{
    r->part.fn = ring_parts;
    plx_reactor_send(r->home, &r->part);
}

static void ring_drained(struct vhost_ring *r)
{
    const unsigned what = r->drains;
    r->drains = 0;
    if (what & VHOST_PARTS)
        ring_has_parted(r);
    if (what & VHOST_STOPS)
        ring_stopped(r);
}

static int ring_start(struct vhost_ring *r)
{
    r->packed = r->is.features & VHOST_BIT(VIRTIO_F_RING_PACKED);
    r->event_idx = r->is.features & VHOST_BIT(VIRTIO_F_EVENT_IDX);
    r->size = (uint16_t)r->num;
    r->ndone = r->nagain = r->again_next = 0;
    r->broken = r->lost = r->quiet = r->signalled = false;
    r->why = NULL;
    r->view = vhost_view_of(r->is.table);
    if (!ring_kind(r)->locate(r))
        return -EFAULT;
    ring_kind(r)->begin(r);
    if (!r->broken)
        ring_kind(r)->notify(r, false);
    r->source.ops = &ring_ops;
    r->source.fd = r->is.kick;
    int ret = plx_source_add(r->home, &r->source);
    if (!ret && r->scsi)
        vhost_scsi_started(r);
    if (!ret)
        signal_now(r); /* the last that was published may not have been told */
    return ret;
}

static int change_kick(struct vhost_ring *r)
{
    plx_source_remove(r->home, &r->source);
    r->source.fd = r->is.kick;
    r->quiet = false;
    int ret = plx_source_add(r->home, &r->source);
    if (ret) { /* it has to be polled even so, till it has been stopped */
        r->source.fd = -1;
        plx_source_add(r->home, &r->source);
        vhost_ring_break(r, "a kick that cannot be waited for");
    }
    return ret;
}

/* It goes over to another table: what was translated by the old one is waited for elsewhere. */
static void change_table(struct vhost_ring *r)
{
    r->view = vhost_view_of(r->is.table);
    r->epoch ^= 1;
    r->old_left = r->in_flight;
    if (!r->old_left)
        tell_old_done(r);
}

static bool moved(const struct vhost_setup *a, const struct vhost_setup *b)
{
    return a->desc != b->desc || a->avail != b->avail || a->used != b->used;
}

static int ring_adopt(struct vhost_ring *r)
{
    const struct vhost_setup was = r->is;
    int ret = 0;
    if (was.running && !r->want.running) {
        r->drains |= VHOST_STOPS;
        if (!r->in_flight)
            ring_drained(r);
        return -EINPROGRESS;
    }
    r->is = r->want;
    if (!was.running) {
        ret = r->is.running ? ring_start(r) : 0;
        r->is.running = r->is.running && !ret;
        return ret;
    }
    if (was.table != r->is.table)
        change_table(r);
    if ((was.table != r->is.table || moved(&was, &r->is)) && !ring_kind(r)->locate(r)) {
        r->lost = true;
        vhost_ring_break(r, "a ring that is not in memory any more");
    }
    if (was.kick != r->is.kick)
        ret = change_kick(r);
    if (was.call != r->is.call)
        signal_now(r);
    return ret;
}

static void ring_ordered(struct plx_msg *msg)
{
    struct vhost_ring *r = plx_container_of(msg, struct vhost_ring, order);
    int ret = ring_adopt(r);
    if (ret != -EINPROGRESS)
        ring_answer(r, ret);
}

void vhost_ring_order(struct vhost_ring *r)
{
    r->order.fn = ring_ordered;
    plx_reactor_send(r->home, &r->order);
}
