/* SPDX-License-Identifier: BSD-3-Clause */
/* Nodes, read when they are asked for, or many at once before that. */
#include "check.h"

#include <errno.h>
#include <stdlib.h>

static struct pck_cached *cached_at(struct pck *c, uint64_t unit)
{
    return &c->cache[(unit ^ unit >> 13) & c->cache_mask];
}

static bool cached_ready(struct pck *c, struct pck_cached *n)
{
    if (!n->mem)
        n->mem = aligned_alloc(4096, c->unit);
    if (!n->mem && !c->stop)
        c->stop = plx_fail(c->err, -ENOMEM, "out of memory");
    return n->mem;
}

static void cached_taken(struct pck *c, struct pck_cached *n, uint64_t unit, uint16_t status)
{
    n->unit = unit;
    n->bad = status;
    n->crc = status ? 0 : pck_crc(n->mem, c->unit);
}

const uint8_t *pck_node(struct pck *c, const struct pck_entry *e)
{
    struct pck_cached *n = cached_at(c, e->unit);
    if (!e->unit || !cached_ready(c, n))
        return NULL;
    if (n->unit != e->unit)
        cached_taken(c, n, e->unit, pck_disk_read_one(&c->disk, e->unit, n->mem));
    return n->bad || n->crc != e->crc ? NULL : n->mem;
}

bool pck_node_unread(struct pck *c, const struct pck_entry *e)
{
    const struct pck_cached *n = cached_at(c, e->unit);
    return e->unit && n->unit == e->unit && n->bad;
}

void pck_nodes_read(struct pck *c, const struct pck_entry *e, unsigned n)
{
    struct pck_read reads[PCK_AT_ONCE];
    unsigned wanted = 0;
    for (unsigned i = 0; i < n && wanted < PCK_AT_ONCE; i++) {
        struct pck_cached *at = cached_at(c, e[i].unit);
        bool there = at->unit == e[i].unit || !cached_ready(c, at);
        for (unsigned k = 0; k < wanted && !there; k++)
            there = reads[k].mem == at->mem; /* two of them in one place: the second is read later */
        if (!there)
            reads[wanted++] = (struct pck_read){.unit = e[i].unit, .mem = at->mem};
    }
    pck_disk_read(&c->disk, reads, wanted);
    for (unsigned k = 0; k < wanted; k++)
        cached_taken(c, cached_at(c, reads[k].unit), reads[k].unit, reads[k].status);
}
