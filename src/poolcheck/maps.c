/* SPDX-License-Identifier: BSD-3-Clause */
/* The maps, and whether they say of each unit what the trees do. */
#include "check.h"

#include "base/util.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Maps that are read at once. */
struct map_batch {
    struct pck_read reads[PCK_AT_ONCE];
    uint64_t region[PCK_AT_ONCE];
    struct pck_entry entry[PCK_AT_ONCE];
    unsigned n;
    bool read_only; /* they are for later, and what is wrong is told then */
};

static void map_unknown(struct pck *c, uint64_t region, bool damage, const char *what)
{
    pck_say(c, damage ? PLX_POOL_DAMAGE : PLX_POOL_WASTE, true, NULL, PLX_POOL_NOWHERE,
            "the map of region %llu %s: nothing of its space is given out until it is repaired",
            (unsigned long long)region, what);
    c->map_place[region] = 2;
    c->maps_wrong = true;
    if (!c->blind)
        return;
    const uint64_t first = region << pck_region_shift(&c->root);
    for (uint64_t i = first; i < first + pck_region_size(&c->root, region); i++) /* all of it may be */
        if (!pck_bit(c, &c->logged, i))
            pck_bit_set(c, &c->old, i);
}

uint64_t pck_bits_at(const struct pck_bits *b, uint64_t region, uint64_t word)
{
    return b->region[region] ? pck_get64(b->region[region] + word * 8) : 0;
}

uint64_t pck_fixed_at(const struct pck *c, uint64_t region, uint64_t word)
{
    const uint64_t first = (region << pck_region_shift(&c->root)) + word * 64;
    uint64_t bits = 0;
    if (region && word) /* none is there */
        return 0;
    for (unsigned i = 0; i < 64; i++)
        bits |= (uint64_t)pck_is_fixed(&c->root, first + i) << i;
    return bits;
}

uint64_t pck_there_at(const struct pck *c, uint64_t region, uint64_t word)
{
    const uint64_t size = pck_region_size(&c->root, region);
    return word * 64 + 64 <= size ? UINT64_MAX : word * 64 >= size ? 0 : (UINT64_C(1) << size % 64) - 1;
}

struct map_sums {
    uint64_t set, leaked, first_leaked, missing, first_missing, logged;
};

static void map_word(struct pck *c, uint64_t region, uint64_t word, uint64_t bits, struct map_sums *m)
{
    const uint64_t there = pck_there_at(c, region, word), is = bits & there;
    const uint64_t wanted =
        (pck_fixed_at(c, region, word) | pck_bits_at(&c->used, region, word) | pck_bits_at(&c->meta, region, word)) &
        there;
    const uint64_t first = (region << pck_region_shift(&c->root)) + word * 64;
    const uint64_t leaked = is & ~wanted, missing = wanted & ~is;
    if (leaked && !m->leaked)
        m->first_leaked = first + (unsigned)__builtin_ctzll(leaked);
    if (missing && !m->missing)
        m->first_missing = first + (unsigned)__builtin_ctzll(missing);
    m->set += (unsigned)__builtin_popcountll(is);
    m->leaked += (unsigned)__builtin_popcountll(leaked);
    m->missing += (unsigned)__builtin_popcountll(missing);
    m->logged += (unsigned)__builtin_popcountll(pck_bits_at(&c->logged, region, word) & is & ~wanted);
    /* What the log maps must be free for it. */
    for (uint64_t left = c->blind ? leaked & ~pck_bits_at(&c->logged, region, word) : 0; left; left &= left - 1)
        pck_bit_set(c, &c->old, first + (unsigned)__builtin_ctzll(left));
}

static void map_compare(struct pck *c, uint64_t region, const struct pck_entry *e, const uint8_t *mem)
{
    struct map_sums m = {0};
    for (uint64_t word = 0; word < UINT64_C(1) << (pck_region_shift(&c->root) - 6); word++)
        map_word(c, region, word, pck_get64(mem + word * 8), &m);
    c->map_used += m.set;
    if (m.set != e->birth) {
        pck_say(c, PLX_POOL_WASTE, true, NULL, (int64_t)e->unit,
                "the map of region %llu has %llu units that are not free, and what leads to it says %u",
                (unsigned long long)region, (unsigned long long)m.set, e->birth);
        c->maps_wrong = true;
    }
    if (m.missing) {
        pck_say(c, PLX_POOL_DAMAGE, true, NULL, (int64_t)m.first_missing,
                "%llu units of region %llu are in use, and free by its map, the first of them unit %llu: they would be "
                "given out once more",
                (unsigned long long)m.missing, (unsigned long long)region, (unsigned long long)m.first_missing);
        c->maps_wrong = true;
    }
    if (m.logged) {
        pck_say(c, PLX_POOL_DAMAGE, !c->blind, NULL, PLX_POOL_NOWHERE,
                "%llu units of region %llu that the log maps are not free by its map: the log cannot be replayed",
                (unsigned long long)m.logged, (unsigned long long)region);
        c->maps_wrong = true;
    }
    if (m.leaked > m.logged) {
        pck_say(c, PLX_POOL_WASTE, !c->blind, NULL, (int64_t)m.first_leaked,
                "%llu units of region %llu are not free, and nothing %sleads to them, the first of them unit %llu",
                (unsigned long long)(m.leaked - m.logged), (unsigned long long)region,
                c->blind ? "that can be read " : "", (unsigned long long)m.first_leaked);
        c->maps_wrong |= !c->blind;
    }
}

static void map_keep(struct pck *c, uint64_t region, const struct pck_read *read)
{
    c->map[region] = read->status ? NULL : malloc(c->unit);
    if (c->map[region])
        memcpy(c->map[region], read->mem, c->unit);
    else if (!read->status)
        c->stop = plx_fail(c->err, -ENOMEM, "out of memory");
}

/* Those that have been read before are not read again: they may not be there any more. */
static void batch_read(struct pck *c, struct map_batch *b)
{
    if (!c->map || b->read_only) {
        pck_disk_read(&c->disk, b->reads, b->n);
        return;
    }
    for (unsigned i = 0; i < b->n; i++) {
        const uint8_t *map = c->map[b->region[i]];
        b->reads[i].status = map ? 0 : PLX_SC_UNRECOVERED_READ_ERROR;
        if (map)
            memcpy(b->reads[i].mem, map, c->unit);
    }
}

static void batch_end(struct pck *c, struct map_batch *b)
{
    batch_read(c, b);
    for (unsigned i = 0; i < b->n && !c->stop; i++) {
        if (b->read_only)
            map_keep(c, b->region[i], &b->reads[i]);
        else if (b->reads[i].status)
            map_unknown(c, b->region[i], true, "cannot be read");
        else if (pck_crc(b->reads[i].mem, c->unit) != b->entry[i].crc)
            map_unknown(c, b->region[i], true, "is damaged");
        else
            map_compare(c, b->region[i], &b->entry[i], b->reads[i].mem);
    }
    b->n = 0;
}

static void map_found(struct pck *c, struct map_batch *b, uint64_t region, const struct pck_entry *e)
{
    const uint64_t first = (region << pck_region_shift(&c->root)) + PCK_MAP_PLACE;
    if (e->unit != first && e->unit != first + 1) {
        if (b->read_only)
            return;
        map_unknown(c, region, true, e->unit ? "is said to be where it cannot be" : "is not there");
        return;
    }
    c->map_place[region] = e->unit != first;
    b->region[b->n] = region;
    b->entry[b->n] = *e;
    b->reads[b->n].unit = e->unit;
    if (++b->n == PCK_AT_ONCE)
        batch_end(c, b);
}

/* Of `regions` from `at` on, nothing is known. */
static void maps_lost(struct pck *c, const struct map_batch *b, uint64_t at, uint64_t regions)
{
    for (uint64_t i = 0; !b->read_only && i < regions && at + i < c->root.regions && !c->stop; i++)
        map_unknown(c, at + i, true, "cannot be found");
}

/* What would be read when the pool has become so large. */
static void maps_beyond(struct pck *c, const struct pck_entry *e)
{
    if (!e->unit || c->maps_beyond)
        return;
    c->maps_beyond = c->maps_wrong = true;
    pck_say(c, PLX_POOL_DAMAGE, true, NULL, (int64_t)(e->unit & INT64_MAX),
            "the tree of maps goes on beyond the %llu regions that are in use, to unit %llu",
            (unsigned long long)c->root.regions, (unsigned long long)e->unit);
}

static void maps_walk(struct pck *c, struct map_batch *b, const struct pck_entry *e, unsigned level, uint64_t at)
{
    const uint64_t span = UINT64_C(1) << (level * pck_fan(&c->root));
    if (c->stop)
        return;
    if (at >= c->root.regions) {
        if (!b->read_only)
            maps_beyond(c, e);
        return;
    }
    if (level == 0) {
        map_found(c, b, at, e);
        return;
    }
    /* What nothing else may have is told by maps_mark(); what leads back to itself ends by its level. */
    const uint8_t *node =
        e->unit && e->unit < c->root.units && !pck_is_fixed(&c->root, e->unit) ? pck_node(c, e) : NULL;
    if (!node) {
        maps_lost(c, b, at, span);
        return;
    }
    memcpy(c->level[level], node, c->unit);
    for (uint64_t i = 0; i < UINT64_C(1) << pck_fan(&c->root); i++) {
        const struct pck_entry below = pck_get_entry(c->level[level] + i * 16);
        maps_walk(c, b, &below, level - 1, at + (i << ((level - 1) * pck_fan(&c->root))));
    }
}

/* The nodes of the tree of maps are in the maps, too: all of them are found before a map is looked at. */
static void maps_mark(struct pck *c, const struct pck_entry *e, unsigned level)
{
    if (!e->unit || !level || e->unit >= c->root.units || pck_is_fixed(&c->root, e->unit) || c->stop)
        return;
    if (pck_bit(c, &c->used, e->unit) || !pck_bit_set(c, &c->meta, e->unit)) {
        pck_say(c, PLX_POOL_DAMAGE, true, NULL, (int64_t)e->unit,
                "the tree of maps leads to unit %llu, which is in use elsewhere as well", (unsigned long long)e->unit);
        c->maps_wrong = true;
        return;
    }
    c->n_meta++;
    const uint8_t *node = level > 1 ? pck_node(c, e) : NULL;
    if (!node)
        return;
    memcpy(c->level[level], node, c->unit);
    for (uint64_t i = 0; i < UINT64_C(1) << pck_fan(&c->root); i++) {
        const struct pck_entry below = pck_get_entry(c->level[level] + i * 16);
        maps_mark(c, &below, level - 1);
    }
}

int pck_maps_mark(struct pck *c)
{
    maps_mark(c, &c->root.maps, c->root.maps_height);
    return c->stop;
}

static void check_beyond(struct pck *c)
{
    for (uint64_t r = c->root.regions; r < pck_regions(&c->root); r++) {
        if (!c->used.region[r] && !c->meta.region[r])
            continue;
        c->maps_wrong = true;
        pck_say(c, PLX_POOL_DAMAGE, true, NULL, PLX_POOL_NOWHERE, "units of region %llu are in use, which has no map",
                (unsigned long long)r);
    }
}

static int maps_all(struct pck *c, bool read_only)
{
    struct map_batch b = {.read_only = read_only};
    uint8_t *mem = aligned_alloc(4096, PCK_AT_ONCE * c->unit);
    if (!mem)
        return plx_fail(c->err, -ENOMEM, "out of memory");
    for (unsigned i = 0; i < PCK_AT_ONCE; i++)
        b.reads[i].mem = mem + i * c->unit;
    maps_walk(c, &b, &c->root.maps, c->root.maps_height, 0);
    batch_end(c, &b);
    free(mem);
    return c->stop;
}

int pck_maps_read(struct pck *c)
{
    c->map = calloc(pck_regions(&c->root), sizeof *c->map);
    return c->map ? maps_all(c, true) : plx_fail(c->err, -ENOMEM, "out of memory");
}

int pck_maps(struct pck *c)
{
    int ret = maps_all(c, false);
    if (ret)
        return ret;
    check_beyond(c);
    const uint64_t used = c->map_used + pck_fixed_from(&c->root, c->root.regions);
    if (!c->maps_wrong && used != c->root.used && !c->stop) {
        pck_say(c, PLX_POOL_WASTE, true, NULL, PLX_POOL_NOWHERE, "%llu units are not free, and the root says %llu",
                (unsigned long long)used, (unsigned long long)c->root.used);
        c->root_wrong = true;
    }
    return c->stop;
}
