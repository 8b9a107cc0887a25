/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What makes an emulated compare and write atomic: while one is under way, no other write reaches the blocks that it
 * compares, through whichever channel.
 *
 * It is announced by message to every channel of the disk. Each closes its gate, so that new writes to the range are
 * held back, and answers once the overlapping writes that it had in flight have ended. When all have answered the
 * range is the owner's alone. Opening the gates goes the same way; that all answer to this as well is what tells that
 * no message is on its way any more. So a disk has one owner at a time; the others stand in line.
 *
 * When there is no lock this costs a write one look at its own channel's gate. The mutex is taken by compare and
 * writes alone, and by channels that come and go.
 */
#include "bdev/core.h"

#include <assert.h>

enum {
    GATED = PLX_BDEV_WRITERS & ~(1 << PLX_BDEV_COMPARE_AND_WRITE), /* which stand in line instead */
};

void plx_range_lock_init(struct plx_bdev *bdev)
{
    plx_list_init(&bdev->range_lock.line);
}

/* ---- the disk's side, under its lock ---- */

static void lock_announce(struct plx_bdev *bdev)
{
    struct plx_range_lock *l = &bdev->range_lock;
    assert(!l->answers);
    plx_list_for_each(it, &bdev->channels) {
        struct plx_bdev_channel *ch = plx_list_entry(it, struct plx_bdev_channel, link);
        assert(!ch->gate.busy);
        ch->gate.busy = true;
        l->answers++;
        plx_reactor_send(ch->reactor, &ch->gate.msg);
    }
    assert(l->answers > 0); /* the owner's channel, at least */
}

static void lock_begin(struct plx_bdev *bdev, struct plx_bdev_req *req)
{
    struct plx_range_lock *l = &bdev->range_lock;
    l->owner = req;
    l->lba = req->lba;
    l->nlb = req->nlb;
    l->closing = true;
    lock_announce(bdev);
}

/* One channel has closed, or opened, its gate. After the last one the owner goes on, and the next in line comes in. */
static void lock_answered(struct plx_bdev *bdev)
{
    struct plx_range_lock *l = &bdev->range_lock;
    assert(l->answers > 0);
    if (--l->answers)
        return;
    struct plx_bdev_req *owner = l->owner;
    if (!l->closing) {
        l->owner = NULL;
        if (!plx_list_empty(&l->line)) {
            struct plx_emulation *e = plx_list_entry(l->line.next, struct plx_emulation, line);
            plx_list_del(&e->line);
            lock_begin(bdev, plx_bdev_req_of(e));
        }
    }
    plx_reactor_send(owner->ch->reactor, &plx_emulation(owner)->msg);
}

/* ---- a channel's side ---- */

static bool overlaps(const struct plx_channel_gate *g, const struct plx_bdev_req *req)
{
    return GATED >> req->op & 1 && req->lba < g->lba + g->nlb && g->lba < req->lba + req->nlb;
}

/* Answers when no overlapping write is in flight any more. */
static void answer_if_idle(struct plx_bdev_channel *ch)
{
    struct plx_bdev *bdev = ch->bdev;
    plx_list_for_each(it, &ch->requests) {
        const struct plx_bdev_req *req = plx_list_entry(it, struct plx_bdev_req, link);
        if (req->stage != PLX_STAGE_HELD && req->stage != PLX_STAGE_LIMITED && overlaps(&ch->gate, req))
            return;
    }
    ch->gate.owes = false;
    ch->awaiting--;
    pthread_mutex_lock(&bdev->lock);
    lock_answered(bdev);
    pthread_mutex_unlock(&bdev->lock);
}

static void start_held(struct plx_bdev_channel *ch)
{
    struct plx_channel_gate *g = &ch->gate;
    ch->refs++; /* a callback may put the channel back */
    while (g->held) {
        struct plx_bdev_req *req = g->held;
        plx_gate_release(ch, req);
        plx_bdev_start(ch, req);
    }
    plx_bdev_channel_put(ch);
}

static void gate_told(struct plx_msg *msg)
{
    struct plx_bdev_channel *ch = plx_container_of(msg, struct plx_bdev_channel, gate.msg);
    struct plx_channel_gate *g = &ch->gate;
    struct plx_bdev *bdev = ch->bdev;
    if (g->orphaned) {
        plx_bdev_channel_free(ch); /* the disk may be gone as well */
        return;
    }
    pthread_mutex_lock(&bdev->lock);
    g->busy = false;
    g->closed = bdev->range_lock.closing;
    g->lba = bdev->range_lock.lba;
    g->nlb = bdev->range_lock.nlb;
    if (!g->closed)
        lock_answered(bdev);
    pthread_mutex_unlock(&bdev->lock);
    if (g->closed) {
        g->owes = true;
        ch->awaiting++;
        answer_if_idle(ch);
    } else {
        start_held(ch);
    }
}

void plx_gate_init(struct plx_bdev_channel *ch)
{
    struct plx_channel_gate *g = &ch->gate;
    const struct plx_range_lock *l = &ch->bdev->range_lock;
    g->msg.fn = gate_told;
    g->held_tail = &g->held;
    /* A newcomer is not asked to close, as it has nothing in flight; but it will be told to open. */
    g->closed = l->owner && l->closing;
    g->lba = l->lba;
    g->nlb = l->nlb;
}

bool plx_gate_close(struct plx_bdev_channel *ch)
{
    assert(!ch->gate.held && !ch->gate.owes);
    if (!ch->gate.busy)
        return true;
    ch->gate.orphaned = true;
    lock_answered(ch->bdev);
    return false;
}

bool plx_gate_hold(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    struct plx_channel_gate *g = &ch->gate;
    if (!overlaps(g, req))
        return false;
    req->stage = PLX_STAGE_HELD;
    req->next = NULL;
    *g->held_tail = req;
    g->held_tail = &req->next;
    return true;
}

void plx_gate_release(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    struct plx_channel_gate *g = &ch->gate;
    struct plx_bdev_req **link = &g->held;
    while (*link != req)
        link = &(*link)->next;
    *link = req->next;
    if (!req->next)
        g->held_tail = link;
    req->stage = PLX_STAGE_DRIVER;
}

void plx_gate_passed(struct plx_bdev_channel *ch)
{
    if (ch->gate.owes)
        answer_if_idle(ch);
}

/* ---- a compare and write's side ---- */

static void owner_told(struct plx_msg *msg)
{
    plx_emulate_wake(plx_bdev_req_of(plx_container_of(msg, struct plx_emulation, msg)));
}

void plx_range_lock(struct plx_bdev_req *req)
{
    struct plx_bdev *bdev = req->ch->bdev;
    struct plx_emulation *e = plx_emulation(req);
    e->msg.fn = owner_told;
    e->locked = true;
    plx_list_init(&e->line);
    pthread_mutex_lock(&bdev->lock);
    if (bdev->range_lock.owner)
        plx_list_add_tail(&bdev->range_lock.line, &e->line);
    else
        lock_begin(bdev, req);
    pthread_mutex_unlock(&bdev->lock);
}

void plx_range_unlock(struct plx_bdev_req *req)
{
    struct plx_bdev *bdev = req->ch->bdev;
    plx_emulation(req)->locked = false;
    pthread_mutex_lock(&bdev->lock);
    assert(bdev->range_lock.owner == req);
    bdev->range_lock.closing = false;
    lock_announce(bdev);
    pthread_mutex_unlock(&bdev->lock);
}

bool plx_range_lock_cancel(struct plx_bdev_req *req)
{
    struct plx_bdev *bdev = req->ch->bdev;
    struct plx_emulation *e = plx_emulation(req);
    pthread_mutex_lock(&bdev->lock);
    bool waited = !plx_list_empty(&e->line);
    plx_list_del(&e->line);
    pthread_mutex_unlock(&bdev->lock);
    if (waited)
        e->locked = false;
    return waited;
}
