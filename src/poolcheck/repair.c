/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What can be mended without a guess: the directory and the maps are made anew, of what was found, where nothing is,
 * and the log is written once more without what cannot be; after a flush a root leads to them. Until that is on the
 * disk the pool is what it was, so a power cut at any moment leaves the one or the other. Trees of volumes are not
 * touched.
 */
#include "check.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct mend {
    struct pck *c;
    struct pck_root root;
    struct pck_bits fresh; /* units that are taken for it */
    uint64_t *units;       /* the same, as they are to be used */
    uint64_t n_units, next;
    uint64_t used;
    uint8_t *mem[PCK_HEIGHT_MAX + 1];
};

/* ---- units for it ---- */

static uint64_t mend_word(const struct mend *m, uint64_t region, uint64_t word)
{
    const struct pck *c = m->c;
    uint64_t bits = pck_fixed_at(c, region, word) | pck_bits_at(&c->used, region, word) |
                    pck_bits_at(&c->old, region, word) | pck_bits_at(&m->fresh, region, word);
    /* What cannot be told any more is left where it is. */
    return c->blind ? bits | pck_bits_at(&c->meta, region, word) : bits;
}

/* Takes units that nothing has, not even what is to be replaced. */
static int mend_take(struct mend *m, uint64_t n)
{
    struct pck *c = m->c;
    const uint64_t words = UINT64_C(1) << (pck_region_shift(&c->root) - 6);
    m->units = calloc(n, sizeof *m->units);
    if (!m->units)
        return plx_fail(c->err, -ENOMEM, "out of memory");
    for (uint64_t r = 0; r < pck_regions(&c->root) && m->n_units < n; r++)
        for (uint64_t w = 0; w < words && m->n_units < n; w++) {
            uint64_t free_bits = ~(mend_word(m, r, w) | pck_bits_at(&c->meta, r, w) | pck_bits_at(&c->logged, r, w)) &
                                 pck_there_at(c, r, w);
            for (; free_bits && m->n_units < n; free_bits &= free_bits - 1) {
                m->units[m->n_units] =
                    (r << pck_region_shift(&c->root)) + w * 64 + (unsigned)__builtin_ctzll(free_bits);
                pck_bit_set(c, &m->fresh, m->units[m->n_units++]);
            }
        }
    if (c->stop)
        return c->stop;
    const uint64_t last = m->n_units ? m->units[m->n_units - 1] >> pck_region_shift(&c->root) : 0;
    const bool enough = m->n_units == n && last <= m->root.regions; /* one more region is counted on */
    m->root.regions = last >= m->root.regions ? last + 1 : m->root.regions;
    return enough ? 0 : plx_fail(c->err, -ENOSPC, "the pool is so full that there is no room for a repair");
}

static int mend_write(struct mend *m, uint8_t *mem, struct pck_entry *e, uint32_t birth)
{
    *e = (struct pck_entry){m->units[m->next++], birth, pck_crc(mem, m->c->unit)};
    return pck_disk_write(&m->c->disk, e->unit, mem)
               ? plx_fail(m->c->err, -EIO, "unit %llu cannot be written", (unsigned long long)e->unit)
               : 0;
}

/* ---- the directory ---- */

static uint32_t mend_records(const struct mend *m)
{
    return (uint32_t)(m->c->unit / PCK_RECORD_BYTES);
}

static bool mend_has_page(const struct mend *m, uint64_t page)
{
    const uint64_t first = page * mend_records(m);
    for (uint64_t i = first; i < first + mend_records(m) && i < m->c->root.slots; i++)
        if (m->c->volume[i])
            return true;
    return false;
}

static int mend_page(struct mend *m, uint64_t page, struct pck_entry *e)
{
    struct pck *c = m->c;
    uint8_t *mem = m->mem[0];
    pck_record_page(c, (uint32_t)page, mem);
    for (uint32_t i = 0; i < mend_records(m); i++) {
        const uint64_t number = page * mend_records(m) + i;
        const struct pck_volume *v = number < c->root.slots ? c->volume[number] : NULL;
        uint8_t *record = mem + (size_t)i * PCK_RECORD_BYTES;
        if (v)
            pck_put_record(record, &v->r);
        else
            memset(record, 0, PCK_RECORD_BYTES);
    }
    return mend_write(m, mem, e, c->root.instant);
}

/* @return units that it takes; writes them unless count is set */
static int mend_dir(struct mend *m, unsigned level, uint64_t at, bool count, struct pck_entry *e)
{
    const unsigned fan = pck_fan(&m->c->root);
    const uint64_t below = UINT64_C(1) << (level ? (level - 1) * fan : 0);
    const uint64_t pages = (m->c->root.slots + mend_records(m) - 1) / mend_records(m);
    uint8_t *mem = m->mem[level];
    bool any = false;
    int ret = 0;
    *e = (struct pck_entry){0};
    if (level == 0) {
        if (!mend_has_page(m, at))
            return 0;
        e->unit = 1;
        m->n_units += count;
        return count ? 0 : mend_page(m, at, e);
    }
    memset(mem, 0, m->c->unit);
    for (uint64_t i = 0; i < UINT64_C(1) << fan && !ret; i++) {
        struct pck_entry child = {0};
        if (at + i * below >= pages)
            break;
        ret = mend_dir(m, level - 1, at + i * below, count, &child);
        any |= child.unit != 0;
        pck_put_entry(mem + i * 16, &child);
    }
    if (ret || !any)
        return ret;
    e->unit = 1;
    m->n_units += count;
    return count ? 0 : mend_write(m, mem, e, m->c->root.instant);
}

/* ---- the maps ---- */

static int mend_map(struct mend *m, uint64_t region, struct pck_entry *e)
{
    struct pck *c = m->c;
    uint8_t *mem = m->mem[0];
    const uint64_t first = (region << pck_region_shift(&c->root)) + PCK_MAP_PLACE;
    uint32_t used = 0;
    memset(mem, 0, c->unit);
    for (uint64_t w = 0; w < UINT64_C(1) << (pck_region_shift(&c->root) - 6); w++) {
        const uint64_t bits = mend_word(m, region, w) & pck_there_at(c, region, w);
        used += (uint32_t)__builtin_popcountll(bits);
        pck_put64(mem + w * 8, bits);
    }
    m->used += used;
    *e = (struct pck_entry){first + (region >= c->root.regions || c->map_place[region] == 1 ? 0 : 1), used,
                            pck_crc(mem, c->unit)};
    return pck_disk_write(&c->disk, e->unit, mem)
               ? plx_fail(c->err, -EIO, "the map of region %llu cannot be written", (unsigned long long)region)
               : 0;
}

static int mend_maps(struct mend *m, unsigned level, uint64_t at, struct pck_entry *e)
{
    const unsigned fan = pck_fan(&m->c->root);
    uint8_t *mem = m->mem[level];
    int ret = 0;
    *e = (struct pck_entry){0};
    if (at >= m->root.regions)
        return 0;
    if (level == 0)
        return mend_map(m, at, e);
    memset(mem, 0, m->c->unit);
    for (uint64_t i = 0; i < UINT64_C(1) << fan && !ret; i++) {
        struct pck_entry child;
        ret = mend_maps(m, level - 1, at + (i << ((level - 1) * fan)), &child);
        pck_put_entry(mem + i * 16, &child);
    }
    return ret ? ret : mend_write(m, mem, e, m->c->root.instant);
}

static uint64_t map_nodes(const struct pck_root *r, uint64_t regions)
{
    uint64_t n = 0;
    for (unsigned level = 1; level <= r->maps_height; level++)
        n += ((regions - 1) >> (level * pck_fan(r))) + 1;
    return n;
}

static uint64_t last_region(const struct pck *c)
{
    uint64_t n = c->root.regions;
    for (uint64_t r = n; r < pck_regions(&c->root); r++)
        if (c->used.region[r] || c->old.region[r])
            n = r + 1;
    return n;
}

/* ---- all of it ---- */

/* What was deleted, and cannot be freed as it cannot be read: what is left of it is what nobody leads to. */
static void drop_dying(struct pck *c)
{
    for (uint32_t i = 0; i < c->n; i++) {
        struct pck_volume *v = c->order[i];
        if (v->r.state != PCK_DYING || !v->damaged || v->orphan || v->children > 1)
            continue;
        for (uint32_t k = 0; k < c->n; k++)
            if (c->order[k]->r.parent == v->number + 1) {
                c->order[k]->r.parent = v->r.parent;
                c->views_changed = true;
            }
        c->volume[v->number] = NULL;
        memmove(&c->order[i], &c->order[i + 1], (c->n - i - 1) * sizeof(struct pck_volume *));
        c->n--;
        i--;
        free(v);
        c->records_wrong = true;
    }
}

/* Where snapshots may show something else than before. */
static void drop_checksums(struct pck *c)
{
    for (uint32_t i = 0; i < c->n; i++) {
        c->order[i]->r.has_checksum = 0;
        c->order[i]->r.checksum = 0;
    }
}

static int mend_root(struct mend *m)
{
    struct pck *c = m->c;
    uint8_t *mem = m->mem[0];
    memset(mem, 0, c->unit);
    m->root.generation = c->root.generation + 1;
    m->root.used = m->used + pck_fixed_from(&c->root, m->root.regions);
    pck_put_root(mem, &m->root);
    if (pck_disk_flush(&c->disk) || pck_disk_write(&c->disk, m->root.generation % 2 * PCK_ROOT_PLACE, mem) ||
        pck_disk_flush(&c->disk))
        return plx_fail(c->err, -EIO, "the root cannot be written");
    c->opts->repaired = true;
    return 0;
}

static int mend_all(struct mend *m)
{
    struct pck *c = m->c;
    struct pck_entry e;
    int ret = 0;
    if (c->root.log_units > pck_log_most(&c->root)) { /* as who opens the pool does */
        m->root.log_first += 2 * c->root.log_units;
        m->root.log_units = c->root.log_units = pck_log_most(&c->root);
    }
    m->root.regions = last_region(c) ? last_region(c) : 1;
    if (c->log_wrong)
        ret = pck_log_rewrite(c, &m->root.log_first);
    if (!ret)
        ret = mend_dir(m, PCK_DIR_HEIGHT, 0, true, &e);
    const uint64_t n = m->n_units + map_nodes(&c->root, m->root.regions < pck_regions(&c->root) ? m->root.regions + 1
                                                                                                : m->root.regions);
    m->n_units = 0;
    if (!ret)
        ret = mend_take(m, n);
    if (!ret)
        ret = mend_dir(m, PCK_DIR_HEIGHT, 0, false, &m->root.dir);
    /* One node more was taken than needed, perhaps: it is free. */
    const uint64_t nodes = m->next + (ret ? 0 : map_nodes(&c->root, m->root.regions));
    for (; !ret && m->n_units > nodes; m->n_units--) {
        const uint64_t unit = m->units[m->n_units - 1], at = unit & ((UINT64_C(1) << pck_region_shift(&c->root)) - 1);
        m->fresh.region[unit >> pck_region_shift(&c->root)][at / 8] &= (uint8_t) ~(1 << at % 8);
    }
    if (!ret)
        ret = mend_maps(m, c->root.maps_height, 0, &m->root.maps);
    return ret ? ret : mend_root(m);
}

int pck_repair(struct pck *c)
{
    struct mend m = {.c = c, .root = c->root};
    if (c->leave)
        return 0;
    drop_dying(c);
    if (!c->maps_wrong && !c->root_wrong && !c->records_wrong && !c->log_wrong && !c->root_torn)
        return 0;
    if (c->root.log_units > pck_log_most(&c->root) && c->log_pages)
        return plx_fail(c->err, -EUCLEAN,
                        "the log is one that has the maps of the second region, and is not empty: opened, the pool has "
                        "a log that a repair can keep");
    if (c->views_changed || c->log_wrong)
        drop_checksums(c);
    m.fresh.region = calloc(pck_regions(&c->root), sizeof *m.fresh.region);
    bool ok = m.fresh.region;
    for (unsigned i = 0; i <= PCK_HEIGHT_MAX && ok; i++)
        ok = (m.mem[i] = aligned_alloc(4096, c->unit)) != NULL;
    int ret = ok ? mend_all(&m) : plx_fail(c->err, -ENOMEM, "out of memory");
    for (unsigned i = 0; i <= PCK_HEIGHT_MAX; i++)
        free(m.mem[i]);
    pck_bits_free(c, &m.fresh);
    free(m.units);
    return ret;
}
