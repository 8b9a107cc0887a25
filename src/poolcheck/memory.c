/* SPDX-License-Identifier: BSD-3-Clause */
/* What is remembered of a pool, in memory that grows with what it uses, and what is said of it. */
#include "check.h"

#include "reactor/clock.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    COUNTS_FIRST = 1024,
    STEPS_A_TELL = 4096, /* units between two calls of progress */
};

int pck_memory_init(struct pck *c)
{
    const uint64_t regions = pck_regions(&c->root);
    uint32_t slots = 1;
    while (slots < PCK_CACHE / c->unit)
        slots *= 2;
    c->cache_mask = slots - 1;
    c->cache = calloc(slots, sizeof *c->cache);
    c->counts.mask = COUNTS_FIRST - 1;
    c->counts.slot = calloc(COUNTS_FIRST, sizeof *c->counts.slot);
    c->used.region = calloc(regions, sizeof *c->used.region);
    c->meta.region = calloc(regions, sizeof *c->meta.region);
    c->logged.region = calloc(regions, sizeof *c->logged.region);
    c->old.region = calloc(regions, sizeof *c->old.region);
    c->twice.region = calloc(regions, sizeof *c->twice.region);
    c->map_place = calloc(regions, 1);
    c->volume = calloc((size_t)c->root.slots + 1, sizeof(struct pck_volume *));
    c->order = calloc((size_t)c->root.slots + 1, sizeof(struct pck_volume *));
    bool ok = c->cache && c->counts.slot && c->used.region && c->meta.region && c->logged.region && c->old.region &&
              c->twice.region && c->map_place && c->volume && c->order;
    for (unsigned i = 0; i <= PCK_HEIGHT_MAX && ok; i++)
        ok = (c->level[i] = malloc(c->unit)) != NULL;
    return ok ? 0 : plx_fail(c->err, -ENOMEM, "out of memory");
}

void pck_memory_free(struct pck *c)
{
    for (uint32_t i = 0; c->cache && i <= c->cache_mask; i++)
        free(c->cache[i].mem);
    for (uint32_t i = 0; c->volume && i < c->root.slots; i++)
        free(c->volume[i]);
    for (unsigned i = 0; i <= PCK_HEIGHT_MAX; i++)
        free(c->level[i]);
    for (uint64_t i = 0; c->log && i < c->log_pages; i++)
        free(c->log[i]);
    pck_bits_free(c, &c->used);
    pck_bits_free(c, &c->meta);
    pck_bits_free(c, &c->logged);
    pck_bits_free(c, &c->old);
    pck_bits_free(c, &c->twice);
    pck_data_free(c);
    free(c->log);
    free(c->cache);
    free(c->counts.slot);
    for (uint64_t i = 0; c->map && i < pck_regions(&c->root); i++)
        free(c->map[i]);
    free(c->map);
    free(c->map_place);
    free(c->volume);
    free(c->order);
    free(c->found);
}

/* ---- bits ---- */

void pck_bits_free(const struct pck *c, struct pck_bits *b)
{
    for (uint64_t i = 0; b->region && i < pck_regions(&c->root); i++)
        free(b->region[i]);
    free(b->region);
    b->region = NULL;
}

bool pck_bit(const struct pck *c, const struct pck_bits *b, uint64_t unit)
{
    const uint8_t *bits = b->region[unit >> pck_region_shift(&c->root)];
    const uint64_t at = unit & ((UINT64_C(1) << pck_region_shift(&c->root)) - 1);
    return bits && bits[at / 8] >> at % 8 & 1;
}

bool pck_bit_set(struct pck *c, struct pck_bits *b, uint64_t unit)
{
    uint8_t **bits = &b->region[unit >> pck_region_shift(&c->root)];
    const uint64_t at = unit & ((UINT64_C(1) << pck_region_shift(&c->root)) - 1);
    if (!*bits)
        *bits = calloc((size_t)1 << (pck_region_shift(&c->root) - 3), 1);
    if (!*bits) {
        c->stop = plx_fail(c->err, -ENOMEM, "out of memory");
        return false;
    }
    if ((*bits)[at / 8] >> at % 8 & 1)
        return false;
    (*bits)[at / 8] |= (uint8_t)(1 << at % 8);
    return true;
}

/* ---- counts ---- */

static struct pck_count *count_find(const struct pck_counts *k, uint64_t unit)
{
    uint64_t at = unit * UINT64_C(0x9e3779b97f4a7c15) >> 20;
    for (;; at++) {
        struct pck_count *s = &k->slot[at & k->mask];
        if (!s->unit || s->unit == unit)
            return s;
    }
}

static bool counts_grow(struct pck_counts *k)
{
    struct pck_counts more = {.mask = 2 * k->mask + 1, .n = k->n};
    more.slot = calloc(more.mask + 1, sizeof *more.slot);
    if (!more.slot)
        return false;
    for (uint64_t i = 0; i <= k->mask; i++)
        if (k->slot[i].unit)
            *count_find(&more, k->slot[i].unit) = k->slot[i];
    free(k->slot);
    *k = more;
    return true;
}

void pck_count_put(struct pck *c, uint64_t unit, uint64_t count)
{
    struct pck_counts *k = &c->counts;
    if (k->n * 3 > k->mask * 2 && !counts_grow(k)) {
        c->stop = plx_fail(c->err, -ENOMEM, "out of memory");
        return;
    }
    struct pck_count *s = count_find(k, unit);
    k->n += !s->unit;
    *s = (struct pck_count){unit, count};
}

bool pck_count_get(const struct pck *c, uint64_t unit, uint64_t *count)
{
    const struct pck_count *s = count_find(&c->counts, unit);
    *count = s->count;
    return s->unit == unit && unit;
}

/* ---- what is said ---- */

void pck_say(struct pck *c, enum plx_pool_severity severity, bool mendable, const struct pck_volume *v, int64_t unit,
             const char *fmt, ...)
{
    va_list ap;
    c->per[severity]++;
    if (c->n_found >= PCK_FINDINGS)
        return;
    if (!c->found)
        c->found = calloc(PCK_FINDINGS, sizeof *c->found);
    if (!c->found) {
        c->stop = plx_fail(c->err, -ENOMEM, "out of memory");
        return;
    }
    struct pck_finding *f = &c->found[c->n_found++];
    *f = (struct pck_finding){
        .severity = severity, .mendable = mendable, .number = v ? (int64_t)v->number : -1, .unit = unit, .offset = -1};
    if (v)
        memcpy(f->volume, v->shown, sizeof f->volume);
    va_start(ap, fmt);
    vsnprintf(f->text, sizeof f->text, fmt, ap);
    va_end(ap);
}

const char *pck_offset(const struct pck *c, uint64_t units, char text[32])
{
    snprintf(text, 32, "%llu", (unsigned long long)(units << c->root.shift));
    return text;
}

void pck_step(struct pck *c)
{
    if (++c->steps % STEPS_A_TELL || !c->opts || !c->opts->progress || c->stop)
        return;
    if (!c->opts->progress(c->opts->arg, c->n_used + c->n_meta, c->root.used, plx_clock_ns() - c->began))
        c->stop = plx_fail(c->err, -ECANCELED, "it was ended before all had been looked at");
}
