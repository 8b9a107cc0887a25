/* SPDX-License-Identifier: BSD-3-Clause */
#include "compare/histogram.h"

#include <string.h>

void histogram_init(struct histogram *h)
{
    memset(h, 0, sizeof *h);
    h->min = UINT64_MAX;
}

void histogram_merge(struct histogram *to, const struct histogram *from)
{
    to->count += from->count;
    to->sum += from->sum;
    to->min = from->min < to->min ? from->min : to->min;
    to->max = from->max > to->max ? from->max : to->max;
    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++)
        to->buckets[i] += from->buckets[i];
}

uint64_t histogram_percentile(const struct histogram *h, double percent)
{
    if (!h->count)
        return 0;
    /* The rank, from 1 on, rounded up: of 10 values, p90 is the ninth, and p91 the tenth. */
    double exact = percent / 100 * (double)h->count;
    uint64_t rank = (uint64_t)exact, seen = 0;
    if ((double)rank < exact - 1e-9 * (double)h->count || !rank)
        rank++;
    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += h->buckets[i];
        if (seen < rank)
            continue;
        uint64_t value = histogram_bucket_max(i);
        return value < h->max ? value : h->max;
    }
    return h->max;
}

double histogram_average(const struct histogram *h)
{
    return h->count ? (double)h->sum / (double)h->count : 0;
}
