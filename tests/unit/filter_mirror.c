/* SPDX-License-Identifier: BSD-3-Clause */
#include <stdlib.h>

#include "base/util.h"
#include "filters.h"

struct mirror {
    struct plx_bdev bdev; /* its `below` is the first leg */
    struct plx_bdev *leg[MIRROR_LEGS];
    struct filter_mirror_rule rule;
};

struct mirror_channel {
    struct plx_bdev_channel *leg[MIRROR_LEGS];
};

/* In the request's context. */
struct mirrored {
    struct plx_bdev_subs subs;
    uint32_t busy;
    uint16_t status;
};
PLX_BDEV_FITS(struct mirrored);

enum {
    MIRRORED = 1 << PLX_BDEV_READ | 1 << PLX_BDEV_WRITE | 1 << PLX_BDEV_FLUSH | 1 << PLX_BDEV_WRITE_ZEROES |
               1 << PLX_BDEV_UNMAP,
};

static struct mirror *mirror_of(const struct plx_bdev_channel *ch)
{
    return (struct mirror *)ch->bdev;
}

static struct mirror_channel *mirror_channel_of(struct plx_bdev_channel *ch)
{
    return (struct mirror_channel *)(void *)ch->driver;
}

static struct mirrored *mirrored_of(struct plx_bdev_req *req)
{
    return (struct mirrored *)(void *)req->context;
}

static void let_go(struct mirrored *m)
{
    struct plx_bdev_req *req = plx_bdev_req_of(m);
    if (--m->busy)
        return;
    plx_bdev_subs_put(req->ch, &m->subs);
    plx_bdev_complete(req, m->status);
}

static void leg_done(struct plx_bdev_req *sub)
{
    struct mirrored *m = plx_container_of(((struct plx_bdev_sub *)sub)->whole, struct mirrored, subs);
    sub->done = NULL;
    if (sub->status)
        m->status = sub->status;
    let_go(m);
}

static unsigned leg_of(struct mirror *d, const struct plx_bdev_req *req, unsigned i)
{
    if (req->op != PLX_BDEV_READ)
        return i;
    return req->flags & PLX_BDEV_ONE_COPY ? req->copy : d->rule.read;
}

static void legs_ready(struct plx_bdev_subs *subs)
{
    struct mirrored *m = plx_container_of(subs, struct mirrored, subs);
    struct plx_bdev_req *req = plx_bdev_req_of(m);
    struct mirror *d = mirror_of(req->ch);
    unsigned i = 0;
    m->busy = 1; /* for this loop */
    for (struct plx_bdev_sub *sub = subs->first; sub; sub = sub->next, i++) {
        struct plx_bdev_req *one = &sub->req;
        one->done = leg_done;
        one->op = req->op;
        one->flags = req->flags & (uint8_t)~PLX_BDEV_ONE_COPY;
        one->lba = req->lba;
        one->nlb = req->nlb;
        one->iov = req->iov;
        one->iovcnt = req->iovcnt;
        m->busy++;
        if (req->op == PLX_BDEV_WRITE && d->rule.writes_fail)
            plx_bdev_complete(one, PLX_SC_WRITE_FAULT);
        else
            plx_bdev_submit(mirror_channel_of(req->ch)->leg[leg_of(d, req, i)], one);
    }
    let_go(m);
}

static void mirror_submit(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    struct mirrored *m = mirrored_of(req);
    plx_bdev_filter_keep(ch, req);
    m->subs = (struct plx_bdev_subs){.ready = legs_ready, .n = req->op == PLX_BDEV_READ ? 1 : ch->bdev->info.copies};
    m->busy = m->status = 0;
    plx_bdev_subs_get(ch, &m->subs);
}

static int mirror_channel_open(struct plx_bdev_channel *ch)
{
    for (unsigned i = 0; i < ch->bdev->info.copies; i++)
        if (plx_bdev_channel_get(mirror_of(ch)->leg[i], ch->reactor, &mirror_channel_of(ch)->leg[i]))
            abort(); /* of a test */
    return 0;
}

static void mirror_channel_close(struct plx_bdev_channel *ch)
{
    for (unsigned i = 0; i < ch->bdev->info.copies; i++)
        plx_bdev_channel_put(mirror_channel_of(ch)->leg[i]);
}

static void mirror_close(struct plx_bdev *bdev)
{
    free(bdev);
}

struct plx_bdev *filter_mirror_new(struct plx_bdev *const *leg, unsigned legs)
{
    static const struct plx_bdev_ops ops = {.close = mirror_close,
                                            .channel_open = mirror_channel_open,
                                            .channel_close = mirror_channel_close,
                                            .submit = mirror_submit,
                                            .map = plx_bdev_map_never};
    struct mirror *d = calloc(1, sizeof *d);
    if (!d || legs > MIRROR_LEGS)
        abort();
    plx_bdev_filter_init(&d->bdev, leg[0]);
    d->bdev.ops = &ops;
    d->bdev.subs = 64;
    d->bdev.channel_size = sizeof(struct mirror_channel);
    d->bdev.info.copies = (uint8_t)legs;
    d->bdev.info.in_place = false;
    d->bdev.info.ops = MIRRORED;
    for (unsigned i = 0; i < legs; i++)
        d->leg[i] = leg[i];
    if (plx_bdev_register(&d->bdev, "mirror", "mirror:", NULL, NULL))
        abort();
    return &d->bdev;
}

struct filter_mirror_rule *filter_mirror_rule(struct plx_bdev *mirror)
{
    return &((struct mirror *)mirror)->rule;
}
