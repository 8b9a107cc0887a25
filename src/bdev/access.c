/* SPDX-License-Identifier: BSD-3-Clause */
#include "bdev/access.h"

#include "base/util.h"
#include "reactor/owner.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

static struct plx_bdev_access *access_of(struct plx_fan *fan)
{
    return plx_container_of(fan, struct plx_bdev_access, fan);
}

/* ---- closing ---- */

static void access_close_here(struct plx_fan_leg *leg)
{
    if (leg->arg)
        plx_bdev_channel_put(leg->arg);
    leg->arg = NULL;
    plx_fan_answer(leg, 0);
}

static void access_closed(struct plx_fan *fan, int result)
{
    (void)result;
    plx_fan_destroy(fan);
    access_of(fan)->done(access_of(fan), access_of(fan)->result);
}

void plx_bdev_access_close(struct plx_bdev_access *a, void (*done)(struct plx_bdev_access *a, int result))
{
    a->done = done;
    a->result = 0;
    a->closing = true;
    if (!a->flushing)
        plx_fan_out(&a->fan, access_close_here, access_closed);
}

/* ---- opening ---- */

static void access_open_here(struct plx_fan_leg *leg)
{
    struct plx_bdev_access *a = access_of(leg->fan);
    struct plx_bdev_channel *ch;
    int ret = plx_bdev_channel_get(a->bdev, leg->reactor, &ch);
    if (!ret)
        leg->arg = ch;
    plx_fan_answer(leg, ret);
}

static void access_opened(struct plx_fan *fan, int result)
{
    struct plx_bdev_access *a = access_of(fan);
    a->result = result;
    if (result) {
        plx_fan_out(fan, access_close_here, access_closed);
        return;
    }
    a->flusher = &fan->legs[0];
    for (unsigned i = 0; i < fan->n; i++)
        if (fan->legs[i].reactor == fan->home)
            a->flusher = &fan->legs[i];
    a->done(a, 0);
}

int plx_bdev_access_open(struct plx_bdev_access *a, struct plx_bdev *bdev, struct plx_reactor *const *reactors,
                         unsigned n, struct plx_reactor *home, void (*done)(struct plx_bdev_access *a, int result))
{
    memset(a, 0, sizeof *a);
    a->bdev = bdev;
    a->done = done;
    int ret = plx_fan_init(&a->fan, home, reactors, n);
    if (!ret)
        plx_fan_out(&a->fan, access_open_here, access_opened);
    return ret;
}

/* ---- the last flush: from the home reactor to one that has a channel, and back ---- */

static void access_flushed(struct plx_msg *msg)
{
    struct plx_bdev_access *a = plx_container_of(msg, struct plx_bdev_access, flush_msg);
    bool in_time = a->limit.set;
    a->flushing = false;
    plx_timer_cancel(a->fan.home, &a->limit);
    if (in_time)
        a->done(a, a->flush.status ? -EIO : 0);
    else if (a->closing)
        plx_fan_out(&a->fan, access_close_here, access_closed);
}

static void access_flush_back(struct plx_bdev_req *req)
{
    struct plx_bdev_access *a = plx_container_of(req, struct plx_bdev_access, flush);
    a->at_disk = false;
    a->flush_msg.fn = access_flushed;
    plx_reactor_send(a->fan.home, &a->flush_msg);
}

static void access_flush_here(struct plx_msg *msg)
{
    struct plx_bdev_access *a = plx_container_of(msg, struct plx_bdev_access, flush_msg);
    a->at_disk = true;
    a->flush.done = access_flush_back;
    a->flush.op = PLX_BDEV_FLUSH;
    plx_bdev_submit(a->flusher->arg, &a->flush);
}

static void access_abort_here(struct plx_msg *msg)
{
    struct plx_bdev_access *a = plx_container_of(msg, struct plx_bdev_access, abort_msg);
    if (a->at_disk) /* else it is on its way back */
        plx_bdev_abort(a->flusher->arg, &a->flush);
}

/* A disk that does not answer, such as one behind a network that is gone, must not keep its user for ever. */
static void access_flush_overdue(struct plx_timer *timer)
{
    struct plx_bdev_access *a = plx_container_of(timer, struct plx_bdev_access, limit);
    a->abort_msg.fn = access_abort_here;
    plx_reactor_send(a->flusher->reactor, &a->abort_msg);
    a->done(a, -ETIMEDOUT);
}

void plx_bdev_access_flush(struct plx_bdev_access *a, uint32_t limit_ms,
                           void (*done)(struct plx_bdev_access *a, int result))
{
    const struct plx_bdev_info *info = plx_bdev_info(a->bdev);
    assert(!a->flushing && !a->closing);
    a->done = done;
    if (!info->write_cache || info->read_only) {
        done(a, 0);
        return;
    }
    a->flushing = true;
    a->limit.fn = access_flush_overdue;
    plx_timer_set(a->fan.home, &a->limit, limit_ms * PLX_NS_PER_MS);
    a->flush_msg.fn = access_flush_here;
    plx_reactor_send(a->flusher->reactor, &a->flush_msg);
}
