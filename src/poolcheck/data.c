/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Data, and whether it is what was written: each unit that volumes lead to is read once, and compared with the CRC that
 * stands beside where it is. In pools with checksums, which write nothing in place.
 */
#include "check.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SHARERS_TOLD = 100 }; /* findings for which those who have it are looked for: attackers have many of both */

struct pck_data {
    struct pck_read reads[PCK_AT_ONCE];
    struct data_of {
        struct pck_volume *v;
        uint64_t at;
        uint32_t crc;
        bool logged;
    } of[PCK_AT_ONCE];
    unsigned n;
    uint64_t told;
    uint8_t *mem;
};

int pck_data_init(struct pck *c)
{
    if (!c->opts->data)
        return 0;
    if (!(c->root.flags & PCK_ROOT_CHECKSUMS)) {
        pck_say(c, PLX_POOL_NOTE, false, NULL, PLX_POOL_NOWHERE,
                "the pool has no checksums: whether its data is what was written cannot be told");
        return 0;
    }
    c->data = calloc(1, sizeof *c->data);
    if (c->data)
        c->data->mem = aligned_alloc(4096, PCK_AT_ONCE * c->unit);
    for (unsigned i = 0; i < PCK_AT_ONCE && c->data; i++)
        c->data->reads[i].mem = c->data->mem + i * c->unit;
    return c->data && c->data->mem ? 0 : plx_fail(c->err, -ENOMEM, "out of memory");
}

void pck_data_free(struct pck *c)
{
    if (c->data)
        free(c->data->mem);
    free(c->data);
}

/* Volumes before snapshots, then by number; those that people do not know last. */
static uint64_t data_rank(const struct pck_volume *v)
{
    return (uint64_t)(v->r.state > PCK_SNAPSHOT ? PCK_STATES : v->r.state) << 32 | v->number;
}

/* Of those that have a unit in a place, whom people know best; and how many others of those they know have it. */
static const struct pck_volume *data_owner(struct pck *c, const struct data_of *of, uint64_t unit, uint32_t *others)
{
    const struct pck_volume *best = of->v;
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->n; i++) {
        const struct pck_volume *w = c->order[i];
        struct pck_entry e;
        if (w->r.state > PCK_SNAPSHOT || of->at >= w->r.size || !pck_entry_at(c, w, 0, of->at, &e) || e.unit != unit)
            continue;
        n++;
        best = data_rank(w) < data_rank(best) ? w : best;
    }
    *others = n ? n - 1 : 0;
    return best;
}

static void data_wrong(struct pck *c, const struct data_of *of, uint64_t unit, uint16_t status)
{
    struct pck_data *d = c->data;
    const struct pck_volume *v = of->v;
    const unsigned before = c->n_found;
    uint32_t others = 0;
    char offset[32], shared[64] = "";
    if (!of->logged && d->told++ < SHARERS_TOLD)
        v = data_owner(c, of, unit, &others);
    if (others)
        snprintf(shared, sizeof shared, "; %u other%s it as well", others, others == 1 ? " has" : "s have");
    pck_say(c, PLX_POOL_DAMAGE, false, v, (int64_t)unit, "%s, byte %s: %s, in unit %llu%s", v->shown,
            pck_offset(c, of->at, offset),
            status ? "has data that cannot be read" : "has data that is not what was written", (unsigned long long)unit,
            shared);
    if (c->n_found > before)
        c->found[before].offset = (int64_t)(of->at << c->root.shift);
}

void pck_data_end(struct pck *c)
{
    struct pck_data *d = c->data;
    if (!d || !d->n)
        return;
    pck_disk_read(&c->disk, d->reads, d->n);
    for (unsigned i = 0; i < d->n && !c->stop; i++) {
        c->opts->data_bytes += c->unit;
        if (d->reads[i].status || pck_crc(d->reads[i].mem, c->unit) != d->of[i].crc)
            data_wrong(c, &d->of[i], d->reads[i].unit, d->reads[i].status);
    }
    d->n = 0;
}

static void data_add(struct pck *c, const struct data_of *of, uint64_t unit)
{
    struct pck_data *d = c->data;
    d->of[d->n] = *of;
    d->reads[d->n].unit = unit;
    if (++d->n == PCK_AT_ONCE)
        pck_data_end(c);
}

void pck_data_entry(struct pck *c, struct pck_volume *v, const struct pck_entry *e, uint64_t at)
{
    if (c->data)
        data_add(c, &(struct data_of){v, at, e->crc, false}, e->unit);
}

void pck_data_change(struct pck *c, const struct pck_change *g, const uint8_t *crcs)
{
    for (uint64_t i = 0; c->data && i < g->count && !c->stop; i++)
        data_add(c, &(struct data_of){c->volume[g->volume], g->at + i, pck_get32(crcs + i * 4), true}, g->to + i);
}
