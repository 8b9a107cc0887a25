/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Memory for data on its way through the block layer: what a copy reads, what a compare compares with, what a
 * caller's badly aligned memory is bounced through.
 *
 * It comes from the reactor's pool of buffers. But the whole pool may be held by requests that wait for just such a
 * piece, so each channel has one piece in reserve; when that is taken too, the others wait for it in line. Whoever
 * has a piece never waits for another, so the line always moves.
 */
#include "bdev/core.h"

#include <errno.h>
#include <stdlib.h>

enum {
    RESERVE = 65536,      /* the largest logical block */
    LARGEST = 256 * 1024, /* longer ones add little speed and much memory */
};

int plx_pieces_init(struct plx_bdev_channel *ch)
{
    ch->pieces_tail = &ch->pieces;
    if (!ch->bdev->tracked && !ch->bdev->emulates && !ch->bdev->below)
        return 0;
    ch->reserve = aligned_alloc(PLX_BUF_MIN, RESERVE);
    return ch->reserve ? 0 : -ENOMEM;
}

void plx_pieces_destroy(struct plx_bdev_channel *ch)
{
    free(ch->reserve);
}

static void give_reserve(struct plx_bdev_channel *ch, struct plx_piece *p)
{
    ch->reserve_taken = true;
    p->mem = ch->reserve;
    p->size = plx_min_u64(p->size, RESERVE);
    p->ready(p);
}

void plx_piece_get(struct plx_bdev_channel *ch, struct plx_piece *p, size_t bytes)
{
    p->size = plx_min_u64(bytes, LARGEST);
    p->mem = plx_buf_get(ch->reactor, p->size); /* of which every pool has larger ones */
    if (p->mem) {
        p->ready(p);
    } else if (!ch->reserve_taken) {
        give_reserve(ch, p);
    } else {
        p->next = NULL;
        *ch->pieces_tail = p;
        ch->pieces_tail = &p->next;
    }
}

void plx_piece_put(struct plx_bdev_channel *ch, struct plx_piece *p)
{
    void *mem = p->mem;
    p->mem = NULL;
    if (mem != ch->reserve) {
        plx_buf_put(ch->reactor, mem, p->size);
        return;
    }
    ch->reserve_taken = false;
    struct plx_piece *first = ch->pieces;
    if (!first)
        return;
    ch->pieces = first->next;
    if (!ch->pieces)
        ch->pieces_tail = &ch->pieces;
    give_reserve(ch, first);
}

bool plx_piece_cancel(struct plx_bdev_channel *ch, struct plx_piece *p)
{
    for (struct plx_piece **link = &ch->pieces; *link; link = &(*link)->next) {
        if (*link != p)
            continue;
        *link = p->next;
        if (!p->next)
            ch->pieces_tail = link;
        return true;
    }
    return false;
}
