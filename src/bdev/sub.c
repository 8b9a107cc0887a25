/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Sub-requests: what layers that do one request by means of others take them from. A channel has a number of them in
 * reserve, once and for all. Who wants n gets n at once, or waits in line; nobody is overtaken, and nobody who has some
 * waits for more. So the line always moves, as long as the channels below do: for them the same holds.
 */
#include "bdev/core.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

int plx_reserve_init(struct plx_bdev_reserve *r, uint32_t n)
{
    r->tail = &r->line;
    if (!n)
        return 0;
    r->all = aligned_alloc(PLX_CACHE_ALIGN, plx_align_up(n * sizeof *r->all, PLX_CACHE_ALIGN));
    r->n = r->left = n;
    return r->all ? 0 : -ENOMEM;
}

void plx_reserve_destroy(struct plx_bdev_reserve *r)
{
    assert(r->left == r->n || !r->all);
    free(r->all);
}

static struct plx_bdev_sub *reserve_pop(struct plx_bdev_reserve *r)
{
    struct plx_bdev_sub *sub = r->free;
    r->left--;
    if (!sub)
        return &r->all[r->used++];
    r->free = sub->next;
    return sub;
}

static void reserve_give(struct plx_bdev_reserve *r, struct plx_bdev_subs *s)
{
    s->first = NULL;
    for (uint32_t i = 0; i < s->n; i++) {
        struct plx_bdev_sub *sub = reserve_pop(r);
        sub->whole = s;
        sub->next = s->first;
        s->first = sub;
    }
    s->ready(s);
}

void plx_reserve_get(struct plx_bdev_reserve *r, struct plx_bdev_subs *s)
{
    assert(s->n <= r->n);
    if (plx_likely(!r->line && s->n <= r->left)) {
        reserve_give(r, s);
        return;
    }
    s->first = NULL;
    s->next = NULL;
    *r->tail = s;
    r->tail = &s->next;
}

/* A loop rather than a recursion: what is served may give back at once. */
static void reserve_serve(struct plx_bdev_reserve *r)
{
    if (r->serving)
        return;
    r->serving = true;
    while (r->line && r->line->n <= r->left) {
        struct plx_bdev_subs *s = r->line;
        r->line = s->next;
        if (!r->line)
            r->tail = &r->line;
        reserve_give(r, s);
    }
    r->serving = false;
}

void plx_reserve_put(struct plx_bdev_reserve *r, struct plx_bdev_subs *s)
{
    for (struct plx_bdev_sub *sub; (sub = s->first);) {
        s->first = sub->next;
        sub->next = r->free;
        r->free = sub;
    }
    r->left += s->n;
    reserve_serve(r);
}

bool plx_reserve_cancel(struct plx_bdev_reserve *r, struct plx_bdev_subs *s)
{
    for (struct plx_bdev_subs **link = &r->line; *link; link = &(*link)->next) {
        if (*link != s)
            continue;
        *link = s->next;
        if (!s->next)
            r->tail = link;
        reserve_serve(r); /* the next in line may need less */
        return true;
    }
    return false;
}

void plx_bdev_filter_keep(struct plx_bdev_channel *ch, struct plx_bdev_req *req)
{
    if (!req->kept)
        plx_bdev_keep(ch, req);
}

void plx_bdev_subs_get(struct plx_bdev_channel *ch, struct plx_bdev_subs *s)
{
    plx_bdev_filter_keep(ch, plx_bdev_req_of(s));
    plx_reserve_get(&ch->subs, s);
}

void plx_bdev_subs_put(struct plx_bdev_channel *ch, struct plx_bdev_subs *s)
{
    plx_reserve_put(&ch->subs, s);
}

bool plx_bdev_subs_cancel(struct plx_bdev_channel *ch, struct plx_bdev_subs *s)
{
    return plx_reserve_cancel(&ch->subs, s);
}

struct plx_bdev_sub *plx_bdev_sub_take(struct plx_bdev_channel *ch)
{
    struct plx_bdev_reserve *r = &ch->subs;
    return r->line || !r->left ? NULL : reserve_pop(r); /* who waits is not overtaken */
}

void plx_bdev_sub_give(struct plx_bdev_channel *ch, struct plx_bdev_sub *sub)
{
    struct plx_bdev_reserve *r = &ch->subs;
    sub->next = r->free;
    r->free = sub;
    r->left++;
    reserve_serve(r);
}
