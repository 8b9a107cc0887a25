/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Which units are free. A region is so many units; its map is in memory once it was wanted, and has two places on the
 * disk: a checkpoint writes it to the one where the last one is not. A tree leads to the maps. Regions that were never
 * used have none.
 */
#include "pool.h"

#include "base/crc32c.h"
#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { THAWED_AT_ONCE = 4096 }; /* units */

static uint64_t region_units(const struct plx_pool *p)
{
    return UINT64_C(1) << p->region_shift;
}

static bool bit_get(const uint64_t *bits, uint64_t i)
{
    return bits[i / 64] >> i % 64 & 1;
}

static void bit_set(uint64_t *bits, uint64_t i)
{
    bits[i / 64] |= UINT64_C(1) << i % 64;
}

static void bit_clear(uint64_t *bits, uint64_t i)
{
    bits[i / 64] &= ~(UINT64_C(1) << i % 64);
}

/* The units of a region that there are; the last one may be short. */
static uint64_t region_size(const struct plx_pool *p, uint64_t number)
{
    return plx_min_u64(region_units(p), p->units - (number << p->region_shift));
}

static uint64_t region_free(const struct plx_pool *p, const struct pool_region *r)
{
    return region_size(p, r->number) - r->used - r->n_kept;
}

/* 64 units from 64 * i on that cannot be taken. */
static uint64_t region_taken(const struct pool_region *r, uint64_t i)
{
    return r->bits[i] | (r->kept ? r->kept[i] : 0);
}

/* Units that are never free: the maps, and in the first region the roots and the log. */
bool pool_space_is_fixed(const struct plx_pool *p, uint64_t unit)
{
    uint64_t at = unit & (region_units(p) - 1);
    return at == POOL_MAP_FIRST || at == POOL_MAP_FIRST + 1 || unit < POOL_LOG_FIRST + p->log_units;
}

static uint64_t regions_of(const struct plx_pool *p, uint64_t units)
{
    return (units + region_units(p) - 1) >> p->region_shift;
}

uint64_t pool_units_fixed(const struct plx_pool *p, uint64_t units)
{
    /* A log of before, which went beyond the first region, had the maps of the second one. */
    const uint64_t end = POOL_LOG_FIRST + p->log_units, first = regions_of(p, end - POOL_MAP_FIRST);
    const uint64_t regions = regions_of(p, units);
    const bool one = !((end - POOL_MAP_FIRST - 1) & (region_units(p) - 1)) && first && first - 1 < regions;
    return end + (regions > first ? 2 * (regions - first) : 0) + one;
}

uint64_t pool_space_fixed(const struct plx_pool *p)
{
    return pool_units_fixed(p, p->units);
}

uint64_t pool_units_trim(const struct plx_pool *p, uint64_t units)
{
    const uint64_t most = (UINT64_C(1) << POOL_UNITS_SHIFT_MAX) - 1, n = plx_min_u64(units, most);
    const uint64_t last = n & (region_units(p) - 1);
    return last <= POOL_MAP_FIRST + 1 ? n - last : n;
}

uint64_t pool_log_units_max(const struct plx_pool *p)
{
    return region_units(p) - POOL_LOG_FIRST;
}

static void region_enter(struct plx_pool *p, struct pool_region *r)
{
    p->region[r->number] = r;
    plx_list_add_tail(&p->loaded, &r->link);
    p->ready += region_free(p, r);
}

static struct pool_region *region_new(struct plx_pool *p, uint64_t number)
{
    struct pool_region *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    r->bits = calloc(region_units(p) / 64, sizeof *r->bits);
    if (!r->bits) {
        free(r);
        return NULL;
    }
    r->number = number;
    plx_list_init(&r->link);
    return r;
}

static void region_destroy(struct pool_region *r)
{
    plx_list_del(&r->link);
    free(r->image); /* of a checkpoint that could not be written to its end */
    free(r->bits);
    free(r->kept);
    free(r);
}

/* Enters the next region that was never used. */
static int region_open(struct plx_pool *p)
{
    struct pool_region *r = region_new(p, p->regions);
    if (!r)
        return -ENOMEM;
    const uint64_t first = r->number << p->region_shift;
    for (uint64_t i = 0; i < region_size(p, r->number); i++)
        if (pool_space_is_fixed(p, first + i)) {
            bit_set(r->bits, i);
            r->used++;
        }
    r->dirty = true;
    p->regions++;
    region_enter(p, r);
    return 0;
}

/* How much is kept for nodes, and how much of them a checkpoint should have. */
static void space_limits(struct plx_pool *p)
{
    p->spare = plx_min_u64(plx_max_u64(p->units / 64, 64), 16384);
    p->dirty_max = (uint32_t)plx_min_u64(p->spare / 4, 4096);
}

int pool_space_init(struct plx_pool *p)
{
    plx_list_init(&p->loaded);
    plx_list_init(&p->space_waits);
    plx_list_init(&p->limbo);
    p->regions_max = regions_of(p, p->units);
    p->maps.height = (uint8_t)plx_max_u64(p->maps.height, pool_height(p->regions_max, p->unit_shift));
    p->region = calloc(p->regions_max, sizeof *p->region);
    p->regions_room = p->regions_max;
    space_limits(p);
    return p->region ? 0 : -ENOMEM;
}

void pool_space_destroy(struct plx_pool *p)
{
    for (uint64_t i = 0; p->region && i < p->regions_max; i++)
        if (p->region[i])
            region_destroy(p->region[i]);
    free(p->region);
    free(p->freed.units);
    free(p->freeing.units);
}

/* ---- more of them ---- */

int pool_space_grow_ready(struct plx_pool *p, struct pool_try *t, uint64_t units)
{
    const uint64_t regions = regions_of(p, units);
    if (regions > p->regions_room) {
        struct pool_region **all = calloc(regions, sizeof *all);
        if (!all)
            return -ENOMEM;
        memcpy(all, p->region, p->regions_max * sizeof *all);
        free(p->region);
        p->region = all;
        p->regions_room = regions;
    }
    const bool was = t->checkpoint;
    t->checkpoint = true; /* it may have what is left to one: it brings more */
    int ret = pool_tree_raise(p, t, &p->maps, pool_height(regions, p->unit_shift));
    t->checkpoint = was;
    return ret;
}

void pool_space_grow(struct plx_pool *p, uint64_t units)
{
    const uint64_t was = p->units, number = (was - 1) >> p->region_shift;
    struct pool_region *r = pool_region_find(p, number);
    p->used += pool_units_fixed(p, units) - pool_units_fixed(p, was);
    p->units = units;
    p->regions_max = regions_of(p, units);
    space_limits(p);
    if (r) { /* the last one was short */
        const uint64_t first = number << p->region_shift, size = region_size(p, number);
        p->ready += size - (was - first);
        for (uint64_t i = was - first; i < size; i++)
            if (bit_get(r->bits, i)) { /* in a map that is damaged */
                r->used++;
                p->ready--;
            }
    }
    pool_wake(&p->space_waits, 0);
}

/* ---- taking ---- */

uint64_t pool_space_free_units(const struct plx_pool *p)
{
    return p->units - p->used;
}

/* For so many units that are set aside, and for nodes, of which these will need some. */
static uint64_t space_kept(const struct plx_pool *p, uint64_t set_aside)
{
    return set_aside + plx_max_u64(p->spare, p->spare / 2 + (set_aside >> p->fan_shift));
}

uint64_t pool_space_room(const struct plx_pool *p)
{
    const uint64_t n = pool_space_free_units(p), kept = space_kept(p, p->set_aside);
    return n > kept ? n - kept : 0;
}

bool pool_space_may_set_aside(const struct plx_pool *p, uint64_t units)
{
    const uint64_t n = pool_space_free_units(p);
    return units <= n && space_kept(p, p->set_aside + units) <= n;
}

/*
 * What all leave to the next checkpoint, which takes pages of the directory, nodes of the tree of maps, and what leads
 * to them. In a pool that has next to nothing but volumes it may be less. A log is replayed with what was left of it.
 */
uint64_t pool_space_reserve(const struct plx_pool *p)
{
    const uint64_t pages = p->slots >> (p->unit_shift - 9), maps = p->regions >> p->fan_shift;
    return p->replaying ? 0 : plx_min_u64(pages + maps + 2 + p->dir.height + p->maps.height, p->spare / 2);
}

/* Has a region loaded that may have free units. @return POOL_AGAIN; 0 when there is none; -errno */
static int region_want_any(struct plx_pool *p, struct pool_try *t)
{
    for (uint64_t i = 0; i < p->regions; i++) {
        uint64_t number = (p->load_cursor + i) % p->regions;
        int ret = pool_region_want(p, t, number);
        if (ret)
            return ret;
    }
    return 0;
}

int pool_space_ready(struct plx_pool *p, struct pool_try *t, uint64_t n, bool data)
{
    int ret = 0;
    const bool enough = !data || pool_space_room(p) >= n;
    const uint64_t all = n + (t->checkpoint ? 0 : pool_space_reserve(p));
    while (enough && p->ready < all && p->regions < p->regions_max)
        if (region_open(p))
            return -ENOMEM;
    if (enough && p->ready >= all)
        return 0;
    if (enough)
        ret = region_want_any(p, t);
    if (ret)
        return ret;
    if (enough && p->n_kept) {
        pool_keep_give_up(p);
        return pool_space_ready(p, t, n, data);
    }
    if (t->checkpoint || p->replaying || (!p->freed.n && !p->freeing.n))
        return -ENOSPC;
    pool_checkpoint_want(p);
    t->kick = true;
    pool_wait_in(&p->space_waits, t->wait);
    return POOL_AGAIN;
}

/* The first free unit of a region, from its cursor on. */
static uint64_t region_first_free(const struct plx_pool *p, const struct pool_region *r)
{
    const uint64_t size = region_size(p, r->number);
    for (int lap = 0; lap < 2; lap++) {
        uint64_t i = lap ? 0 : r->cursor;
        while (i < size) {
            uint64_t word = ~region_taken(r, i / 64) >> i % 64;
            if (word) {
                i += (unsigned)__builtin_ctzll(word);
                break;
            }
            i = (i / 64 + 1) * 64;
        }
        if (i < size)
            return i;
    }
    return size;
}

/* Nodes are taken from another region than data, if there is one: so they stand in a row, and are written at once. */
static struct pool_region *region_choose(struct plx_pool *p, enum pool_use use)
{
    struct pool_region *r = pool_region_find(p, p->cursor[use]), *last = NULL;
    if (r && region_free(p, r) && (use == POOL_FOR_DATA || r->number != p->cursor[POOL_FOR_DATA]))
        return r;
    for (int lap = 0; lap < 2; lap++) {
        plx_list_for_each(it, &p->loaded) {
            r = plx_list_entry(it, struct pool_region, link);
            if (!region_free(p, r))
                continue;
            last = r;
            if (r->number != p->cursor[!use])
                goto chosen;
        }
        if (p->regions == p->regions_max || region_open(p))
            break;
    }
    r = last;
chosen:
    p->cursor[use] = r->number;
    return r;
}

uint64_t pool_space_take(struct plx_pool *p, enum pool_use use, uint64_t n, uint64_t *unit)
{
    struct pool_region *r = region_choose(p, use);
    const uint64_t reserve = pool_space_reserve(p);
    if (use == POOL_FOR_DATA) /* one is there: pool_space_ready() */
        n = plx_min_u64(n, p->ready > reserve + 1 ? p->ready - reserve : 1);
    const uint64_t size = region_size(p, r->number), first = region_first_free(p, r);
    uint64_t got = 0;
    while (got < n && first + got < size && !(region_taken(r, (first + got) / 64) >> (first + got) % 64 & 1))
        bit_set(r->bits, first + got++);
    r->used += (uint32_t)got;
    r->cursor = (uint32_t)(first + got < size ? first + got : 0);
    r->dirty = true;
    p->ready -= got;
    p->used += got;
    *unit = (r->number << p->region_shift) + first;
    return got;
}

/* ---- giving back ---- */

int pool_space_free_ready(struct plx_pool *p, size_t n)
{
    struct pool_freed *f = &p->freed;
    if (f->n + n <= f->size)
        return 0;
    size_t size = 2 * (f->n + n);
    uint64_t *units = realloc(f->units, size * sizeof *units);
    if (!units)
        return -ENOMEM;
    f->units = units;
    f->size = size;
    return 0;
}

void pool_space_free(struct plx_pool *p, uint64_t unit)
{
    const struct pool_region *r = pool_region_find(p, unit >> p->region_shift);
    if (unit >= p->units || pool_space_is_fixed(p, unit) || (r && !bit_get(r->bits, unit & (region_units(p) - 1)))) {
        if (!p->broken)
            plx_error("pool %s: unit %llu, which was to be freed, was never taken: the pool is damaged, and nothing of "
                      "it changes any more",
                      pool_shown(p), (unsigned long long)unit);
        p->broken = PLX_SC_INTERNAL_ERROR;
        return;
    }
    p->freed.units[p->freed.n++] = unit;
}

void pool_space_return(struct plx_pool *p, uint64_t unit, uint64_t n)
{
    struct pool_region *r = p->region[unit >> p->region_shift];
    for (uint64_t i = 0; i < n; i++)
        bit_clear(r->bits, (unit + i) & (region_units(p) - 1));
    r->used -= (uint32_t)n;
    r->dirty = true;
    p->ready += n;
    p->used -= n;
}

int pool_space_claim(struct plx_pool *p, uint64_t unit)
{
    struct pool_region *r = p->region[unit >> p->region_shift];
    uint64_t at = unit & (region_units(p) - 1);
    if (bit_get(r->bits, at))
        return -EUCLEAN;
    bit_set(r->bits, at);
    r->used++;
    r->dirty = true;
    p->ready--;
    p->used++;
    return 0;
}

/* ---- maps on the disk ---- */

struct region_load {
    struct pool_io io;
    struct plx_pool *pool;
    struct pool_region *region;
    uint8_t *mem;
};

struct pool_region *pool_region_find(struct plx_pool *p, uint64_t number)
{
    struct pool_region *r = number < p->regions_max ? p->region[number] : NULL;
    return r && !r->loading ? r : NULL;
}

int pool_region_want(struct plx_pool *p, struct pool_try *t, uint64_t number)
{
    struct pool_node *leaf;
    while (p->regions <= number)
        if (region_open(p))
            return -ENOMEM;
    if (pool_region_find(p, number))
        return 0;
    if (!p->region[number]) {
        int ret = pool_tree_find(p, t, &p->maps, number, 1, &leaf);
        if (ret)
            return ret;
        const struct pool_entry *e = leaf ? &pool_entries(leaf)[number & ((1U << p->fan_shift) - 1)] : NULL;
        const uint64_t first = (number << p->region_shift) + POOL_MAP_FIRST;
        if (!e || (pool_entry_unit(e) != first && pool_entry_unit(e) != first + 1))
            return -EUCLEAN;
        struct pool_region *r = region_new(p, number);
        if (!r)
            return -ENOMEM;
        r->loading = true;
        r->copy = pool_entry_unit(e) != first;
        r->crc = plx_get32(e->crc);
        p->region[number] = r;
        t->region = r;
    }
    pool_wait_in(&p->space_waits, t->wait);
    return POOL_AGAIN;
}

static void region_unread(struct plx_pool *p, struct pool_region *r, uint16_t status)
{
    pool_lock(p);
    p->region[r->number] = NULL;
    pool_wake(&p->space_waits, status);
    pool_unlock(p);
    region_destroy(r);
}

static void region_loaded(struct plx_bdev_req *req)
{
    struct region_load *l = plx_container_of(req, struct region_load, io.req);
    struct plx_pool *p = l->pool;
    struct pool_region *r = l->region;
    const size_t bytes = (size_t)1 << p->unit_shift;
    if (req->status) { /* for now; who asks again has it read again */
        region_unread(p, r, req->status);
        free(l->mem);
        free(l);
        return;
    }
    if (plx_crc32c(l->mem, bytes) != r->crc) {
        if (pool_io_again(&l->io, p))
            return;
        /* What is in use there is not known, so nothing of it is used any more. */
        plx_error("pool %s: the map of region %llu is damaged: its space is lost until the pool is repaired",
                  pool_shown(p), (unsigned long long)r->number);
        memset(l->mem, 0xff, bytes);
    }
    memcpy(r->bits, l->mem, region_units(p) / 8);
    pool_lock(p);
    for (uint64_t i = 0; i < region_size(p, r->number); i++)
        r->used += bit_get(r->bits, i);
    r->loading = false;
    region_enter(p, r);
    pool_wake(&p->space_waits, 0);
    pool_unlock(p);
    free(l->mem);
    free(l);
}

void pool_region_load(struct plx_pool *p, struct pool_region *r, struct plx_bdev_channel *ch)
{
    struct region_load *l = calloc(1, sizeof *l);
    uint8_t *mem = l ? aligned_alloc(4096, (size_t)1 << p->unit_shift) : NULL;
    if (!mem) {
        free(l);
        region_unread(p, r, PLX_SC_INTERNAL_ERROR);
        return;
    }
    l->pool = p;
    l->region = r;
    l->mem = mem;
    l->io.iov[0] = (struct iovec){mem, (size_t)1 << p->unit_shift};
    pool_io_init(&l->io, PLX_BDEV_READ, (r->number << p->region_shift) + POOL_MAP_FIRST + r->copy, 1, p, region_loaded,
                 NULL);
    plx_bdev_submit(ch, &l->io.req);
}

/* ---- checkpoints ---- */

/*
 * All regions of which something is taken or freed are dirty, and so is what leads to their maps; which frees and takes
 * units itself, so that it is done until nothing is new.
 */
static int dirty_regions(struct plx_pool *p, struct pool_try *t)
{
    struct pool_node *leaf;
    for (size_t i = 0; i < p->freed.n; i++) {
        int ret = pool_region_want(p, t, p->freed.units[i] >> p->region_shift);
        if (ret)
            return ret;
        p->region[p->freed.units[i] >> p->region_shift]->dirty = true;
    }
    plx_list_for_each(it, &p->loaded) {
        const struct pool_region *r = plx_list_entry(it, struct pool_region, link);
        int ret = r->dirty ? pool_tree_change(p, t, &p->maps, r->number, 1, &leaf) : 0;
        if (ret)
            return ret;
    }
    return 0;
}

int pool_space_freeze(struct plx_pool *p, struct pool_try *t)
{
    size_t freed;
    uint64_t used;
    do {
        freed = p->freed.n;
        used = p->used;
        int ret = dirty_regions(p, t);
        if (ret)
            return ret;
    } while (p->freed.n != freed || p->used != used);
    plx_list_for_each(it, &p->loaded) {
        struct pool_region *r = plx_list_entry(it, struct pool_region, link);
        if (r->dirty && !r->image)
            r->image = aligned_alloc(4096, (size_t)1 << p->unit_shift);
        if (r->dirty && !r->image)
            return -ENOMEM;
    }
    struct pool_freed was = p->freeing;
    p->freeing = p->freed;
    p->freed = was;
    p->freed.n = 0;
    return 0;
}

uint64_t pool_space_used(const struct plx_pool *p)
{
    uint64_t used = p->used - p->freeing.n;
    plx_list_for_each(it, &p->limbo)
        used -= plx_list_entry(it, struct pool_limbo, link)->n;
    return used;
}

static void image_clear(struct plx_pool *p, struct pool_region *r, uint64_t unit)
{
    bit_clear((uint64_t *)(void *)r->image, unit & (region_units(p) - 1));
    r->image_used--;
}

/*
 * The maps as they will be. Free in them is what is being freed, and what was taken, and nothing leads to yet: the log
 * will, if it gets there.
 */
void pool_space_image(struct plx_pool *p)
{
    struct pool_node *leaf;
    plx_list_for_each(it, &p->loaded) {
        struct pool_region *r = plx_list_entry(it, struct pool_region, link);
        if (!r->dirty)
            continue;
        memset(r->image, 0, (size_t)1 << p->unit_shift);
        memcpy(r->image, r->bits, region_units(p) / 8);
        r->image_used = r->used;
        r->dirty = false;
    }
    for (size_t i = 0; i < p->freeing.n; i++)
        image_clear(p, p->region[p->freeing.units[i] >> p->region_shift], p->freeing.units[i]);
    plx_list_for_each(it, &p->limbo) {
        const struct pool_limbo *l = plx_list_entry(it, struct pool_limbo, link);
        struct pool_region *r = p->region[l->unit >> p->region_shift];
        for (uint64_t i = 0; i < l->n && r->image; i++)
            image_clear(p, r, l->unit + i);
        r->dirty = true;
    }
    plx_list_for_each(it, &p->loaded) {
        struct pool_region *r = plx_list_entry(it, struct pool_region, link);
        if (!r->image || pool_tree_find(p, NULL, &p->maps, r->number, 1, &leaf))
            continue;
        r->copy = !r->copy;
        pool_entries(leaf)[r->number & ((1U << p->fan_shift) - 1)] =
            pool_entry_make((r->number << p->region_shift) + POOL_MAP_FIRST + r->copy, r->image_used,
                            plx_crc32c(r->image, (size_t)1 << p->unit_shift));
    }
}

/* @return whether it is free, and not to be taken for now */
static bool region_keep(struct plx_pool *p, struct pool_region *r, uint64_t at)
{
    if (p->keep && !r->kept) {
        r->kept = calloc(region_units(p) / 64, sizeof *r->kept);
        if (!r->kept)
            pool_keep_give_up(p);
    }
    if (!p->keep)
        return false;
    bit_set(r->kept, at);
    r->n_kept++;
    p->n_kept++;
    return true;
}

static void region_unkeep(struct plx_pool *p, struct pool_region *r)
{
    p->ready += r->n_kept;
    p->n_kept -= r->n_kept;
    r->n_kept = 0;
    free(r->kept);
    r->kept = NULL;
}

void pool_space_unkeep(struct plx_pool *p)
{
    for (struct plx_list *it = p->loaded.next; p->n_kept && it != &p->loaded; it = it->next)
        region_unkeep(p, plx_list_entry(it, struct pool_region, link));
}

/* Rows that are worth telling the disk of become free once more. */
static void region_free_kept(struct plx_pool *p, struct pool_region *r)
{
    const uint64_t first = r->number << p->region_shift, size = region_size(p, r->number);
    for (uint64_t i = 0, n; i < size; i += n) {
        const uint64_t word = r->kept[i / 64] >> i % 64;
        if (!word) {
            n = 64 - i % 64;
            continue;
        }
        i += (unsigned)__builtin_ctzll(word);
        for (n = 1; i + n < size && bit_get(r->kept, i + n); n++)
            ;
        for (uint64_t k = i; n >= POOL_UNMAP_MIN && k < i + n; k++) {
            bit_set(r->bits, k);
            p->freed.units[p->freed.n++] = first + k;
            r->n_kept--;
            p->n_kept--;
            r->used++;
            p->used++;
        }
    }
    region_unkeep(p, r);
}

bool pool_space_free_kept(struct plx_pool *p)
{
    plx_list_for_each(it, &p->loaded) {
        struct pool_region *r = plx_list_entry(it, struct pool_region, link);
        if (!r->n_kept)
            continue;
        if (pool_space_free_ready(p, r->n_kept)) {
            pool_space_unkeep(p);
            return false;
        }
        region_free_kept(p, r);
        plx_list_del(&r->link); /* so that the next one is not far */
        plx_list_add_tail(&p->loaded, &r->link);
        return p->n_kept;
    }
    return false;
}

bool pool_space_thaw(struct plx_pool *p)
{
    for (unsigned i = 0; i < THAWED_AT_ONCE && p->freeing.n; i++) {
        const uint64_t unit = p->freeing.units[--p->freeing.n];
        struct pool_region *r = p->region[unit >> p->region_shift];
        const uint64_t at = unit & (region_units(p) - 1);
        const bool taken = bit_get(r->bits, at); /* but for a unit that a damaged pool has twice */
        bit_clear(r->bits, at);
        r->used -= taken;
        p->used -= taken;
        if (taken && !region_keep(p, r, at))
            p->ready++;
    }
    if (!p->freeing.n)
        pool_wake(&p->space_waits, 0);
    return p->freeing.n;
}
