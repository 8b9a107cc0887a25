/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The rate limits of a disk. What is subject to one does not pass the dispatcher's short way (plain_ops), and asks the
 * disk's limiter; a disk without limits pays nothing. What must wait stands in a lane of its channel, one for reads and
 * one for writes, so that neither is held up by a limit of the other. It is in the channel's list, where aborts and
 * resets find it.
 *
 * A lane has one timer, for its first request, of 50 ms at most: so all see in time that limits are others, or the disk
 * is gone, and none need be told.
 */
#include "bdev/core.h"

#include <assert.h>
#include <errno.h>

enum {
    READS = 1 << PLX_BDEV_READ | 1 << PLX_BDEV_COMPARE | 1 << PLX_BDEV_VERIFY,
    WRITES = 1 << PLX_BDEV_WRITE | 1 << PLX_BDEV_COMPARE_AND_WRITE | 1 << PLX_BDEV_COPY | 1 << PLX_BDEV_ZONE_APPEND,
    LOOKS_MS = 50, /* how often a lane looks, at least */
    STEP = 512,    /* requests that a lane lets go in a round */
};

/* ---- a disk's limits ---- */

/* The operations that are subject to them. */
static uint32_t limited_by(const struct plx_bdev *bdev, const struct plx_bdev_limits *l)
{
    bool all = l->ios || l->bytes;
    uint32_t ops = 0;
    if (all || l->read_ios || l->read_bytes)
        ops |= READS;
    if (all || l->write_ios || l->write_bytes)
        ops |= WRITES | (~bdev->native_ops & 1 << PLX_BDEV_WRITE_ZEROES);
    return ops;
}

uint32_t plx_limited_ops(const struct plx_bdev *bdev)
{
    uint32_t ops = 0;
    for (; bdev; bdev = bdev->below)
        ops |= atomic_load_explicit(&bdev->limited_ops, memory_order_relaxed);
    return ops;
}

/* What stands on the disk, and itself: what they may do changes with its limits. */
static bool adapt(void *arg, struct plx_bdev *bdev)
{
    const struct plx_bdev *limited = arg;
    for (const struct plx_bdev *b = bdev; b; b = b->below) {
        if (b != limited)
            continue;
        plx_bdev_adapt(bdev);
        break;
    }
    return true;
}

int plx_bdev_set_limits(struct plx_bdev *bdev, const struct plx_bdev_limits *limits, struct plx_error *err)
{
    if (limits->burst_ms > PLX_BDEV_BURST_MS_MAX)
        return plx_fail(err, -EINVAL, "%s: the burst of a rate limit is at most %d ms, not %u", bdev->info.name,
                        PLX_BDEV_BURST_MS_MAX, limits->burst_ms);
    pthread_mutex_lock(&bdev->lock);
    if (!bdev->limiter)
        bdev->limiter = plx_limiter_new();
    int ret = bdev->limiter ? 0 : plx_fail(err, -ENOMEM, "out of memory");
    if (!ret) {
        bdev->limits = *limits;
        plx_limiter_set(bdev->limiter, limits, plx_reactor_clock(NULL));
        atomic_store_explicit(&bdev->limited_ops, limited_by(bdev, limits), memory_order_release);
    }
    pthread_mutex_unlock(&bdev->lock);
    if (ret)
        return ret;
    plx_bdev_each(adapt, bdev);
    return 0;
}

void plx_bdev_get_limits(struct plx_bdev *bdev, struct plx_bdev_limits *out)
{
    pthread_mutex_lock(&bdev->lock);
    *out = bdev->limits;
    pthread_mutex_unlock(&bdev->lock);
}

/* ---- a channel's lanes ---- */

static struct plx_limit_lane *lane_of(struct plx_bdev_channel *ch, const struct plx_bdev_req *req)
{
    return &ch->lanes[!(READS >> req->op & 1)];
}

static uint64_t bytes_of_blocks(const struct plx_bdev *bdev, const struct plx_bdev_req *req)
{
    return (uint64_t)req->nlb << bdev->block_shift;
}

static uint64_t lane_ask(struct plx_limit_lane *lane, const struct plx_bdev_req *req)
{
    struct plx_bdev_channel *ch = lane->ch;
    return plx_limiter_ask(ch->bdev->limiter, &lane->user, lane != ch->lanes, bytes_of_blocks(ch->bdev, req),
                           plx_reactor_now(ch->reactor));
}

static void lane_wait(struct plx_limit_lane *lane, uint64_t until)
{
    struct plx_reactor *r = lane->ch->reactor;
    plx_timer_set(r, &lane->timer, plx_min_u64(until - plx_reactor_now(r), LOOKS_MS * PLX_NS_PER_MS));
}

static void lane_go_on(struct plx_bdev_channel *ch, struct plx_bdev_req *req, uint16_t status)
{
    if (status)
        plx_bdev_complete(req, status);
    else if (plx_likely(!ch->gate.closed) || !plx_gate_hold(ch, req))
        plx_bdev_start(ch, req);
}

static void lane_run(struct plx_timer *timer)
{
    struct plx_limit_lane *lane = plx_container_of(timer, struct plx_limit_lane, timer);
    struct plx_bdev_channel *ch = lane->ch;
    ch->refs++; /* a callback may put the channel back */
    for (int n = 0; lane->first; n++) {
        struct plx_bdev_req *req = lane->first;
        if (n == STEP) {
            plx_timer_set(ch->reactor, timer, 1); /* in the next round */
            break;
        }
        /* It may be gone by now, or smaller. */
        uint16_t status = plx_bdev_check_request(ch->bdev, req);
        uint64_t until = status ? 0 : lane_ask(lane, req);
        if (until) {
            lane_wait(lane, until);
            break;
        }
        plx_limit_release(ch, req);
        lane_go_on(ch, req, status);
    }
    plx_bdev_channel_put(ch);
}

void plx_lanes_init(struct plx_bdev_channel *ch)
{
    for (size_t i = 0; i < PLX_ARRAY_SIZE(ch->lanes); i++) {
        struct plx_limit_lane *lane = &ch->lanes[i];
        lane->ch = ch;
        lane->tail = &lane->first;
        lane->timer.fn = lane_run;
    }
}

bool plx_limit_hold(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    struct plx_limit_lane *lane = lane_of(ch, req);
    uint64_t until = 0;
    if (req->flags & PLX_BDEV_IN_PLACE) {
        plx_limiter_charge(ch->bdev->limiter, &lane->user, lane != ch->lanes, bytes_of_blocks(ch->bdev, req),
                           plx_reactor_now(ch->reactor));
        return false;
    }
    if (!lane->first && !(until = lane_ask(lane, req)))
        return false;
    if (until)
        lane_wait(lane, until);
    plx_bdev_keep(ch, req);
    req->stage = PLX_STAGE_LIMITED;
    req->next = NULL;
    *lane->tail = req;
    lane->tail = &req->next;
    return true;
}

void plx_limit_release(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    struct plx_limit_lane *lane = lane_of(ch, req);
    struct plx_bdev_req **link = &lane->first;
    while (*link != req)
        link = &(*link)->next;
    *link = req->next;
    if (!req->next)
        lane->tail = link;
    if (!lane->first)
        plx_timer_cancel(ch->reactor, &lane->timer);
    req->stage = PLX_STAGE_DRIVER;
}
