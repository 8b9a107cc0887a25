/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Times in nanoseconds, counted by how long they are: log-linear, so that a percentile is right to 1/128 whether it is
 * 200 ns or 20 s. Below 256 ns every value has a bucket of its own; above, each power of two is cut into 128.
 */
#ifndef PLX_COMPARE_HISTOGRAM_H
#define PLX_COMPARE_HISTOGRAM_H

#include <stdint.h>

enum {
    HISTOGRAM_SUB_BITS = 7,
    HISTOGRAM_MAX_BITS = 42, /* what takes longer than 73 minutes is counted as that */
    HISTOGRAM_BUCKETS = (HISTOGRAM_MAX_BITS - HISTOGRAM_SUB_BITS + 1) << HISTOGRAM_SUB_BITS,
};

struct histogram {
    uint64_t count;
    uint64_t sum; /* of the values themselves, not of their buckets */
    uint64_t min, max;
    uint64_t buckets[HISTOGRAM_BUCKETS];
};

static inline uint32_t histogram_bucket(uint64_t value)
{
    const uint64_t largest = (UINT64_C(1) << HISTOGRAM_MAX_BITS) - 1;
    if (value > largest)
        value = largest;
    /* Values below 2^SUB_BITS would need a shift of their own: the bit that is set for them leaves the shift at 0. */
    unsigned top = 63 - (unsigned)__builtin_clzll(value | UINT64_C(1) << HISTOGRAM_SUB_BITS);
    unsigned shift = top - HISTOGRAM_SUB_BITS;
    return (uint32_t)((shift << HISTOGRAM_SUB_BITS) + (value >> shift));
}

/* The largest value that is counted in a bucket. */
static inline uint64_t histogram_bucket_max(uint32_t bucket)
{
    unsigned shift = bucket >> HISTOGRAM_SUB_BITS ? (bucket >> HISTOGRAM_SUB_BITS) - 1 : 0;
    uint64_t mantissa = bucket - ((uint64_t)shift << HISTOGRAM_SUB_BITS);
    return ((mantissa + 1) << shift) - 1;
}

static inline void histogram_add(struct histogram *h, uint64_t value, uint64_t times)
{
    h->buckets[histogram_bucket(value)] += times;
    h->count += times;
    h->sum += value * times;
    h->min = value < h->min ? value : h->min;
    h->max = value > h->max ? value : h->max;
}

/* An empty histogram; zeroed memory is none, as its smallest value would be 0. */
void histogram_init(struct histogram *h);
void histogram_merge(struct histogram *to, const struct histogram *from);
/*
 * The value that `percent` of all do not exceed: the upper end of its bucket, but never beyond the largest. 0 when it
 * is empty.
 */
uint64_t histogram_percentile(const struct histogram *h, double percent);
double histogram_average(const struct histogram *h);

#endif
