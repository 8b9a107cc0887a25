/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Statistics: each channel counts for itself, for ever, and who asks adds up. To begin anew is to keep what there is,
 * and to take it off afterwards, so that nothing is lost that is counted meanwhile. Extremes of latencies cannot be
 * taken off, and are set back.
 */
#include "bdev/core.h"

static void forget_extremes(struct plx_bdev_stats *s)
{
    for (int op = 0; op < PLX_BDEV_OPS; op++) {
        s->min_latency_ns[op] = UINT64_MAX;
        s->max_latency_ns[op] = 0;
    }
}

void plx_stats_init(struct plx_bdev *bdev)
{
    forget_extremes(&bdev->past);
}

void plx_stats_begin(struct plx_bdev_channel *ch)
{
    for (int op = 0; op < PLX_BDEV_OPS; op++) {
        atomic_store_explicit(&ch->counts[op].min, UINT64_MAX, memory_order_relaxed);
        atomic_store_explicit(&ch->counts[op].max, 0, memory_order_relaxed);
    }
}

/* ---- under the disk's lock ---- */

static void add_channel(struct plx_bdev_stats *to, const struct plx_bdev_channel *ch)
{
    for (int op = 0; op < PLX_BDEV_OPS; op++) {
        const struct plx_op_counts *c = &ch->counts[op];
        to->ops[op] += plx_stat_peek(&c->ops);
        to->blocks[op] += plx_stat_peek(&c->blocks);
        to->failed[op] += plx_stat_peek(&c->failed);
        to->latency_ns[op] += plx_stat_peek(&c->latency);
        to->min_latency_ns[op] = plx_min_u64(to->min_latency_ns[op], plx_stat_peek(&c->min));
        to->max_latency_ns[op] = plx_max_u64(to->max_latency_ns[op], plx_stat_peek(&c->max));
    }
    to->errors += plx_stat_peek(&ch->errors);
}

void plx_stats_keep(struct plx_bdev_channel *ch)
{
    add_channel(&ch->bdev->past, ch);
}

static void add_up(struct plx_bdev *bdev, struct plx_bdev_stats *all)
{
    *all = bdev->past;
    plx_list_for_each(it, &bdev->channels)
        add_channel(all, plx_list_entry(it, struct plx_bdev_channel, link));
}

/* ---- for all ---- */

static void add_stats(struct plx_bdev_stats *out, const struct plx_bdev_stats *all, const struct plx_bdev_stats *off)
{
    for (int op = 0; op < PLX_BDEV_OPS; op++) {
        out->ops[op] += all->ops[op] - off->ops[op];
        out->blocks[op] += all->blocks[op] - off->blocks[op];
        out->failed[op] += all->failed[op] - off->failed[op];
        out->latency_ns[op] += all->latency_ns[op] - off->latency_ns[op];
        uint64_t min = all->min_latency_ns[op], max = all->max_latency_ns[op], had = out->min_latency_ns[op];
        if (min > max)
            continue; /* none */
        out->min_latency_ns[op] = had || out->max_latency_ns[op] ? plx_min_u64(had, min) : min;
        out->max_latency_ns[op] = plx_max_u64(out->max_latency_ns[op], max);
    }
    out->errors += all->errors - off->errors;
}

void plx_bdev_get_stats(struct plx_bdev *bdev, struct plx_bdev_stats *out)
{
    struct plx_bdev_stats all;
    pthread_mutex_lock(&bdev->lock);
    add_up(bdev, &all);
    add_stats(out, &all, &bdev->reset);
    pthread_mutex_unlock(&bdev->lock);
}

void plx_bdev_get_totals(struct plx_bdev *bdev, struct plx_bdev_stats *out)
{
    static const struct plx_bdev_stats nothing;
    struct plx_bdev_stats all;
    pthread_mutex_lock(&bdev->lock);
    add_up(bdev, &all);
    pthread_mutex_unlock(&bdev->lock);
    add_stats(out, &all, &nothing);
}

void plx_bdev_reset_stats(struct plx_bdev *bdev, bool all)
{
    pthread_mutex_lock(&bdev->lock);
    if (all)
        add_up(bdev, &bdev->reset);
    forget_extremes(&bdev->past);
    plx_list_for_each(it, &bdev->channels)
        plx_stats_begin(plx_list_entry(it, struct plx_bdev_channel, link));
    pthread_mutex_unlock(&bdev->lock);
}
