/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A channel's ring as a source of its reactor: what comes back is taken, what was added is shown, once a round; but at
 * once where the back-end has nothing to do.
 */
#include "bdev/driver/virtio_disk.h"

#include "base/log.h"
#include "reactor/eventfd.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

enum { VIO_BUDGET = 64 }; /* slots taken back in a round */

/* ---- slots ---- */

void vio_slot_free(struct vio_queue *q, unsigned slot)
{
    struct vio_slot *s = &q->slots[slot];
    if (s->large)
        q->free_large[q->free_larges++] = (uint8_t)(s->large - 1);
    s->req = NULL;
    s->bounce = NULL;
    s->large = 0;
    s->next_free = q->free_slot;
    q->free_slot = (uint16_t)slot;
}

void vio_queue_init(struct vio_disk *d, struct vio_queue *q)
{
    q->free_slot = VIO_NO_SLOT;
    q->free_larges = 0;
    for (unsigned i = VIO_LARGES; i-- > 0;)
        q->free_large[q->free_larges++] = (uint8_t)i;
    for (unsigned i = d->ring.slots; i-- > 0;)
        vio_slot_free(q, i);
}

/*
 * Whoever waited for it does not any more, and the memory of its data is somebody else's: the next back-end, which
 * takes the slot over, finds a request of an unknown kind there, and at the addresses of its data the slot's own.
 */
void vio_slot_orphan(struct vio_disk *d, struct vio_queue *q, unsigned slot)
{
    struct vio_slot *s = &q->slots[slot];
    struct vio_desc *table = vio_table(d, q, slot);
    q->cmds[slot].header.type = plx_put32(VIO_T_NONE);
    for (unsigned i = 1; i + 1u < s->entries; i++) {
        table[i].addr = plx_put64((uintptr_t)(q->small + (size_t)slot * VIO_SMALL));
        table[i].len = plx_put32(plx_min_u64(plx_get32(table[i].len), VIO_SMALL));
    }
    s->req = NULL;
}

void vio_queue_reset(struct vio_disk *d, struct vio_queue *q)
{
    uint64_t had[VIO_RING_MAX / 64];
    memcpy(had, q->out, (d->ring.slots + 63u) / 64 * sizeof *had);
    vio_ring_restart(&q->ring);
    for (unsigned i = 0; i < d->ring.slots; i++) {
        if (!(had[i / 64] >> i % 64 & 1))
            continue;
        q->cmds[i].status = VIO_S_NONE;
        if (q->slots[i].req)
            vio_ring_add(&q->ring, i, vio_indirect(d, q, i), q->slots[i].entries);
        else
            vio_slot_free(q, i);
    }
    q->broken = false;
    if (vio_ring_hides(&q->ring))
        vio_ring_show(&q->ring); /* it is kicked when the back-end has it */
}

/* ---- asked ---- */

void vio_ask_queue(struct plx_reactor *from, struct vio_queue *q, uint32_t bits)
{
    vio_ask_add(&q->ask, bits);
    plx_eventfd_tell(from, q->call_fd);
}

/* Under the lock. */
static void vio_adopt(struct vio_channel *vc)
{
    struct vio_disk *d = vc->disk;
    int ret = d->conn.reactor ? -EEXIST : vio_conn_attach(d, vc->ch->reactor);
    vc->home = !ret;
    if (ret && ret != -EEXIST)
        plx_error("%s: cannot watch its connection: %s", d->bdev.info.name, strerror(-ret));
}

static void vio_asked(struct vio_channel *vc)
{
    struct vio_disk *d = vc->disk;
    struct vio_queue *q = vc->q;
    if (vio_ask_is(&q->ask, VIO_ASK_RESET)) {
        vio_queue_reset(d, q);
        vio_ask_take(&q->ask, VIO_ASK_RESET);
        vio_ask_home(d, VIO_HOME_RESET);
    }
    if (vio_ask_take(&q->ask, VIO_ASK_ADOPT)) {
        pthread_mutex_lock(&d->lock);
        vio_adopt(vc);
        pthread_mutex_unlock(&d->lock);
    }
    if (vio_ask_take(&q->ask, VIO_ASK_GIVE_UP))
        vio_fail_all(vc);
    if (vio_ask_take(&q->ask, VIO_ASK_UP | VIO_ASK_MEMORY)) {
        pthread_mutex_lock(&d->lock);
        vc->failing = d->state == VIO_GIVEN_UP;
        vc->regions = d->regions;
        pthread_mutex_unlock(&d->lock);
    }
}

/* ---- the source ---- */

static struct vio_channel *channel_of_source(struct plx_source *s)
{
    return plx_container_of(s, struct vio_channel, source);
}

void vio_show(struct vio_channel *vc)
{
    struct vio_queue *q = vc->q;
    if (vio_ring_hides(&q->ring) && vio_ring_show(&q->ring))
        plx_eventfd_tell(vc->ch->reactor, q->kick_fd);
}

static void vio_break(struct vio_channel *vc)
{
    vc->q->broken = true;
    vio_ask_home(vc->disk, VIO_HOME_BROKEN);
}

/* Takes back what has come, of which `slot` is the first. */
static int vio_reap(struct vio_channel *vc, int slot)
{
    struct plx_bdev_channel *ch = vc->ch;
    struct vio_queue *q = vc->q;
    int n = 0;
    ch->refs++; /* a callback may put the channel back */
    do {
        vio_slot_done(vc, (unsigned)slot);
        slot = ++n < VIO_BUDGET ? vio_ring_reap(&q->ring) : VIO_RING_NONE;
    } while (slot >= 0);
    if (slot == VIO_RING_BROKEN)
        vio_break(vc);
    if (vc->line)
        vio_line_issue(vc);
    vio_show(vc);
    plx_bdev_channel_put(ch);
    return n;
}

static int vio_poll_odd(struct vio_channel *vc)
{
    struct plx_bdev_channel *ch = vc->ch;
    ch->refs++;
    vio_asked(vc);
    vio_show(vc);
    plx_bdev_channel_put(ch);
    return 1;
}

static int vio_poll(struct plx_source *s)
{
    struct vio_channel *vc = channel_of_source(s);
    struct vio_queue *q = vc->q;
    if (plx_unlikely(atomic_load_explicit(&q->ask, memory_order_relaxed)))
        return vio_poll_odd(vc);
    if (plx_unlikely(vc->home))
        vio_conn_poll(vc->disk);
    int slot = plx_likely(!q->broken) ? vio_ring_reap(&q->ring) : VIO_RING_NONE;
    if (slot >= 0)
        return vio_reap(vc, slot);
    if (plx_unlikely(slot == VIO_RING_BROKEN))
        vio_break(vc);
    vio_show(vc);
    return 0;
}

static int vio_arm(struct plx_source *s)
{
    struct vio_channel *vc = channel_of_source(s);
    struct vio_queue *q = vc->q;
    vio_show(vc);
    return (vio_ring_arm(&q->ring) && !q->broken) || atomic_load_explicit(&q->ask, memory_order_relaxed);
}

static void vio_disarm(struct plx_source *s)
{
    struct vio_queue *q = channel_of_source(s)->q;
    vio_ring_disarm(&q->ring);
    plx_eventfd_hear(q->call_fd);
}

static const struct plx_source_ops vio_source = {.poll = vio_poll, .arm = vio_arm, .disarm = vio_disarm};

/* ---- channels ---- */

static struct vio_queue *free_queue(struct vio_disk *d)
{
    for (unsigned i = 0; i < d->nqueues; i++)
        if (!d->queues[i].ch)
            return &d->queues[i];
    return NULL;
}

int vio_channel_open(struct plx_bdev_channel *ch)
{
    struct vio_channel *vc = vio_channel_of(ch);
    struct vio_disk *d = vio_disk_of(ch->bdev);
    vc->ch = ch;
    vc->disk = d;
    vc->line_tail = &vc->line;
    pthread_mutex_lock(&d->lock);
    int ret = 0;
    vc->q = free_queue(d);
    if (!vc->q) {
        plx_error("%s: has %u queue%s, one for each reactor that uses it, and others use %s already", d->bdev.info.name,
                  d->nqueues, d->nqueues == 1 ? "" : "s", d->nqueues == 1 ? "it" : "them");
        ret = -EBUSY;
    } else {
        vc->source.ops = &vio_source;
        vc->source.fd = vc->q->call_fd;
        ret = plx_source_add(ch->reactor, &vc->source);
    }
    if (!ret) {
        vc->q->ch = ch;
        vc->failing = d->state == VIO_GIVEN_UP;
        vc->regions = d->regions;
        vio_adopt(vc);
    }
    pthread_mutex_unlock(&d->lock);
    return ret;
}

/* Another channel is to be the connection's home. Under the lock. */
static void pass_on(struct vio_disk *d, struct plx_reactor *from)
{
    for (unsigned i = 0; i < d->nqueues; i++) {
        if (!d->queues[i].ch)
            continue;
        vio_ask_queue(from, &d->queues[i], VIO_ASK_ADOPT);
        return;
    }
}

void vio_channel_close(struct plx_bdev_channel *ch)
{
    struct vio_channel *vc = vio_channel_of(ch);
    struct vio_disk *d = vc->disk;
    struct vio_queue *q = vc->q;
    assert(!vc->line);
    plx_source_remove(ch->reactor, &vc->source);
    vio_show(vc); /* of what was given up there may be something left */
    pthread_mutex_lock(&d->lock);
    q->ch = NULL;
    if (vio_ask_take(&q->ask, UINT32_MAX) & VIO_ASK_RESET) {
        vio_queue_reset(d, q);
        vio_ask_home(d, VIO_HOME_RESET);
    }
    if (vc->home)
        vio_conn_detach(d);
    if (!d->conn.reactor)
        pass_on(d, ch->reactor);
    pthread_mutex_unlock(&d->lock);
}
