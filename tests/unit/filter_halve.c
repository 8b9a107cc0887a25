/* SPDX-License-Identifier: BSD-3-Clause */
#include <stdlib.h>

#include "base/util.h"
#include "filters.h"

/* In the request's context. */
struct halved {
    struct plx_bdev_subs subs;
    uint32_t busy;
    uint16_t status;
};
PLX_BDEV_FITS(struct halved);

enum {
    HALVED = 1 << PLX_BDEV_READ | 1 << PLX_BDEV_WRITE | 1 << PLX_BDEV_COMPARE | 1 << PLX_BDEV_WRITE_ZEROES |
             1 << PLX_BDEV_UNMAP,
};

static struct halved *halved_of(struct plx_bdev_req *req)
{
    return (struct halved *)(void *)req->context;
}

static void let_go(struct halved *h)
{
    struct plx_bdev_req *req = plx_bdev_req_of(h);
    if (--h->busy)
        return;
    plx_bdev_subs_put(req->ch, &h->subs);
    plx_bdev_complete(req, h->status);
}

static void half_done(struct plx_bdev_req *half)
{
    struct halved *h = plx_container_of(((struct plx_bdev_sub *)half)->whole, struct halved, subs);
    half->done = NULL;
    if (half->status)
        h->status = half->status;
    let_go(h);
}

static void halves_ready(struct plx_bdev_subs *subs)
{
    struct halved *h = plx_container_of(subs, struct halved, subs);
    struct plx_bdev_req *req = plx_bdev_req_of(h);
    uint32_t at = 0;
    h->busy = 3; /* one for this loop */
    for (struct plx_bdev_sub *sub = subs->first; sub; sub = sub->next) {
        struct plx_bdev_req *half = &sub->req;
        half->nlb = at ? req->nlb - at : req->nlb / 2;
        half->done = half_done;
        half->op = req->op;
        half->flags = req->flags;
        half->lba = req->lba + at;
        half->iov = sub->iov;
        half->iovcnt = req->iovcnt;
        if (req->iovcnt && req->iov->iov_len)
            sub->iov[0] = (struct iovec){(uint8_t *)req->iov->iov_base + ((size_t)at << req->ch->bdev->block_shift),
                                         (size_t)half->nlb << req->ch->bdev->block_shift};
        at += half->nlb;
    }
    for (struct plx_bdev_sub *sub = subs->first; sub; sub = sub->next)
        plx_bdev_submit(req->ch->below, &sub->req);
    let_go(h);
}

static void halve_submit(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    struct halved *h = halved_of(req);
    if (!(HALVED >> req->op & 1) || req->nlb < 2 || req->iovcnt > 1) {
        plx_bdev_forward(ch->below, req);
        return;
    }
    h->subs = (struct plx_bdev_subs){.ready = halves_ready, .n = 2};
    h->busy = h->status = 0;
    plx_bdev_subs_get(ch, &h->subs);
}

static void halve_abort(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    struct halved *h = halved_of(req);
    if (plx_bdev_subs_cancel(ch, &h->subs)) {
        plx_bdev_complete(req, PLX_SC_ABORTED_BY_REQUEST);
        return;
    }
    h->busy++;
    for (struct plx_bdev_sub *sub = h->subs.first; sub; sub = sub->next)
        if (sub->req.done)
            plx_bdev_abort(ch->below, &sub->req);
    let_go(h);
}

static void halve_close(struct plx_bdev *bdev)
{
    free(bdev);
}

struct plx_bdev *filter_halve_new(struct plx_bdev *below, uint32_t subs)
{
    static const struct plx_bdev_ops ops = {
        .close = halve_close, .submit = halve_submit, .abort = halve_abort, .map = plx_bdev_map_never};
    struct plx_bdev *bdev = calloc(1, sizeof *bdev);
    if (!bdev)
        return NULL;
    plx_bdev_filter_init(bdev, below);
    bdev->ops = &ops;
    bdev->subs = subs;
    bdev->info.in_place = false; /* it may wait for sub-requests */
    if (plx_bdev_register(bdev, "halve", "halve:", NULL, NULL)) {
        free(bdev);
        return NULL;
    }
    return bdev;
}
