/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What is left when power is cut: of the writes that the disk below does not have some, chosen by chance from the seed
 * and the count of requests, or by a test; block after block, as some are torn.
 */
#include "crash_disk.h"

#include "base/log.h"

#include <stdlib.h>
#include <string.h>

enum { MASK = 64 }; /* bits of plx_crash_keep.units */

/* ---- by chance ---- */

/* Of a write in several units: its beginning, its end, or any. */
static uint64_t choose_units(uint64_t *random, uint64_t units)
{
    uint64_t bits = units < MASK ? units : MASK, some = crash_draw(random), at = 1 + crash_draw(random) % (bits - 1);
    switch (crash_draw(random) % 3) {
    case 0:
        return (UINT64_C(1) << at) - 1;
    case 1:
        return PLX_CRASH_WHOLE << at;
    default:
        return some;
    }
}

static void choose_fate(const struct crash_disk *d, uint64_t *random, const struct plx_crash_write *w,
                        struct plx_crash_keep *keep)
{
    uint64_t units = (uint64_t)w->nlb;
    keep->sectors = d->o.torn == CRASH_TORN_SECTOR;
    if (keep->sectors)
        units *= d->f.bdev.info.block_size / CRASH_SECTOR;
    keep->units = PLX_CRASH_WHOLE;
    if (d->o.torn != CRASH_TORN_NONE && units > 1 && crash_draw(random) % 2)
        keep->units = choose_units(random, units);
    keep->garbage = w->op != PLX_BDEV_UNMAP && crash_draw(random) % 1000 < d->o.garbage;
}

/* Now and then all, or none. */
static uint32_t choose_by_chance(const struct crash_disk *d, const struct plx_crash_write *writes, uint32_t n,
                                 struct plx_crash_keep *keep)
{
    uint64_t random = crash_mix(d->o.seed ^ crash_mix(d->requests)), dice = crash_draw(&random) % 8;
    uint64_t often = dice == 0 ? 0 : dice == 1 ? 1000 : crash_draw(&random) % 1000;
    bool shuffled = crash_draw(&random) % 2;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (crash_draw(&random) % 1000 >= often)
            continue;
        struct plx_crash_keep *k = &keep[kept++];
        choose_fate(d, &random, &writes[i], k);
        k->write = i;
    }
    for (uint32_t i = kept; shuffled && i > 1; i--) {
        uint32_t other = (uint32_t)(crash_draw(&random) % i);
        struct plx_crash_keep last = keep[i - 1];
        keep[i - 1] = keep[other];
        keep[other] = last;
    }
    return kept;
}

static void cut_begin(struct crash_disk *d)
{
    struct crash_cut *c = &d->cut;
    uint32_t n = 0;
    *c = (struct crash_cut){.begun = true, .n = d->held_count, .random = crash_mix(d->o.seed + d->requests)};
    c->writes = calloc(c->n + 1, sizeof *c->writes);
    c->keep = calloc(c->n + 1, sizeof *c->keep);
    if (!c->writes || !c->keep) {
        plx_error("%s: no memory to choose from %u writes what is left: none is", d->f.bdev.info.name, c->n);
        return;
    }
    plx_list_for_each(it, &d->held) {
        const struct crash_held *w = plx_list_entry(it, struct crash_held, link);
        c->writes[n++] = (struct plx_crash_write){.lba = w->lba,
                                                  .nlb = w->nlb,
                                                  .op = w->op,
                                                  .ended = w->ended != 0,
                                                  .data = w->op == PLX_BDEV_WRITE ? w->data : NULL};
    }
    c->kept = d->choose ? d->choose(d->choose_arg, c->writes, n, c->keep) : choose_by_chance(d, c->writes, n, c->keep);
}

/* ---- block after block ---- */

static uint32_t units_of_block(const struct crash_disk *d, const struct plx_crash_keep *k)
{
    return k->sectors ? d->f.bdev.info.block_size / CRASH_SECTOR : 1;
}

static bool unit_kept(const struct crash_disk *d, const struct plx_crash_keep *k, uint32_t block, uint32_t unit)
{
    uint64_t all = (uint64_t)d->cut.writes[k->write].nlb * units_of_block(d, k);
    uint64_t at = (uint64_t)block * units_of_block(d, k) + unit;
    return k->units >> (all > MASK ? at * MASK / all : at) & 1;
}

/* @return how many units of a block get there */
static uint32_t block_kept(const struct crash_disk *d, const struct plx_crash_keep *k, uint32_t block)
{
    uint32_t n = units_of_block(d, k), kept = 0;
    if (k->units == PLX_CRASH_WHOLE)
        return n;
    for (uint32_t i = 0; i < n; i++)
        kept += unit_kept(d, k, block, i);
    return kept;
}

/* How many blocks from this one on get there as they are. */
static uint32_t run_kept(const struct crash_disk *d, const struct plx_crash_keep *k, uint32_t block)
{
    uint32_t run = 0, left = d->cut.writes[k->write].nlb - block;
    if (k->garbage)
        return 0;
    if (k->units == PLX_CRASH_WHOLE)
        return left;
    while (run < left && block_kept(d, k, block + run) == units_of_block(d, k))
        run++;
    return run;
}

/* Puts the units that get there into the block in scratch. */
static void patch_block(struct crash_disk *d, const struct plx_crash_keep *k, uint32_t block)
{
    const struct plx_crash_write *w = &d->cut.writes[k->write];
    const uint32_t size = d->f.bdev.info.block_size, n = units_of_block(d, k), unit = size / n;
    for (uint32_t i = 0; i < n; i++) {
        uint8_t *to = d->scratch + (size_t)i * unit;
        if (!unit_kept(d, k, block, i))
            continue;
        if (!w->data)
            memset(to, 0, unit);
        else
            memcpy(to, (const uint8_t *)w->data + (size_t)block * size + (size_t)i * unit, unit);
        for (uint32_t at = 0; k->garbage && at < unit; at += sizeof(uint64_t)) {
            uint64_t bytes = crash_draw(&d->cut.random);
            memcpy(to + at, &bytes, sizeof bytes);
        }
    }
}

static void write_run(struct crash_disk *d, const struct plx_crash_write *w, uint32_t block, uint32_t run)
{
    if (w->data)
        crash_below(d, PLX_BDEV_WRITE, 0, w->lba + block, run,
                    (uint8_t *)(uintptr_t)w->data + ((size_t)block << d->f.bdev.block_shift));
    else
        crash_below(d, PLX_BDEV_WRITE_ZEROES, w->op == PLX_BDEV_UNMAP ? PLX_BDEV_UNMAP_OK : 0, w->lba + block, run,
                    NULL);
}

/* Begins the next request for one write that is kept. @return false when that is all there */
static bool keep_step(struct crash_disk *d, const struct plx_crash_keep *k)
{
    struct crash_cut *c = &d->cut;
    const struct plx_crash_write *w = &c->writes[k->write];
    if (c->patch) {
        patch_block(d, k, c->block);
        c->patch = false;
        c->run = 1;
        crash_below(d, PLX_BDEV_WRITE, 0, w->lba + c->block, 1, d->scratch);
        return true;
    }
    if (c->run) {
        pthread_mutex_lock(&d->lock);
        crash_mend(d, w->lba + c->block, c->run);
        pthread_mutex_unlock(&d->lock);
    }
    c->block += c->run;
    while (c->block < w->nlb && !block_kept(d, k, c->block))
        c->block++;
    if (c->block == w->nlb)
        return false;
    c->run = run_kept(d, k, c->block);
    if (c->run) {
        write_run(d, w, c->block, c->run);
        return true;
    }
    c->patch = true;
    crash_below(d, PLX_BDEV_READ, 0, w->lba + c->block, 1, d->scratch);
    return true;
}

bool crash_cut_step(struct crash_disk *d)
{
    struct crash_cut *c = &d->cut;
    struct crash_job *job = d->job;
    if (!c->begun)
        cut_begin(d); /* with power cut nobody changes what is held */
    else if (d->below.status && d->below.status != PLX_SC_LBA_OUT_OF_RANGE)
        job->status = d->below.status;
    if (job->flushed)
        return false;
    while (c->at < c->kept && !job->status) {
        if (keep_step(d, &c->keep[c->at]))
            return true;
        c->at++;
        c->block = c->run = 0;
    }
    job->flushed = true;
    crash_below(d, PLX_BDEV_FLUSH, 0, 0, 0, NULL);
    return true;
}

void crash_cut_end(struct crash_disk *d)
{
    const struct crash_cut *c = &d->cut;
    if (d->job->status)
        plx_error("%s: not all that a cut leaves could be written to the disk below: status 0x%x", d->f.bdev.info.name,
                  d->job->status);
    plx_warn(
        "%s: power was cut, seed=%llu, at request %llu, of which write %llu; of %u writes that were not persistent "
        "%u have left something",
        d->f.bdev.info.name, (unsigned long long)d->o.seed, (unsigned long long)d->requests,
        (unsigned long long)d->writes, c->n, c->kept);
    free(c->writes);
    free(c->keep);
    d->cut = (struct crash_cut){.n = 0};
    pthread_mutex_lock(&d->lock);
    while (!plx_list_empty(&d->held))
        crash_drop(d, plx_list_entry(d->held.next, struct crash_held, link));
    pthread_mutex_unlock(&d->lock);
}
