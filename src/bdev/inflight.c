/* SPDX-License-Identifier: BSD-3-Clause */
/* What is in flight, and where it is: the answer to why a request is stuck. */
#include "bdev/core.h"
#include "reactor/owner.h"

#include <stdio.h>

/* Goes from what is emulated to the part of it that is under way, perhaps below. @return what it does there */
static const char *what_it_does(const struct plx_bdev_req **req)
{
    while ((*req)->kept) {
        const struct plx_bdev_req *part = NULL;
        const char *waits;
        switch ((enum plx_stage)(*req)->stage) {
        case PLX_STAGE_DRIVER:
            return (*req)->op == PLX_BDEV_RESET ? "waiting for older requests to end in" : "in";
        case PLX_STAGE_ASKING:
            return "asking older requests to end in";
        case PLX_STAGE_HELD:
            return "held by a compare and write in";
        case PLX_STAGE_LIMITED:
            return "waiting for the rate limit of";
        case PLX_STAGE_EMULATED:
            waits = plx_emulate_waits(*req, &part);
            if (!part)
                return waits;
            *req = part;
            break;
        }
    }
    return "in";
}

const char *plx_bdev_where(const struct plx_bdev_req *req, char *where, size_t size)
{
    const char *what = what_it_does(&req);
    snprintf(where, size, "%s %s", what, req->ch->bdev->info.name);
    return where;
}

uint64_t plx_bdev_age(const struct plx_bdev_req *req)
{
    return req->kept ? *req->ch->now - req->since : 0;
}

void plx_bdev_channel_each(struct plx_bdev_channel *ch,
                           bool (*fn)(void *arg, const struct plx_bdev_req *req, uint64_t age_ns, const char *where),
                           void *arg)
{
    char where[sizeof ch->bdev->info.name + 64];
    plx_assert_here(ch->reactor);
    for (; ch; ch = ch->below) {
        plx_list_for_each(it, &ch->requests) {
            const struct plx_bdev_req *req = plx_list_entry(it, struct plx_bdev_req, link);
            if (req->done == plx_emulate_part_done)
                continue; /* the whole is told of */
            if (!fn(arg, req, plx_bdev_age(req), plx_bdev_where(req, where, sizeof where)))
                return;
        }
    }
}
