/* SPDX-License-Identifier: BSD-3-Clause */
/* What figures that were measured several times say: pure, no I/O. */
#ifndef PLX_BASE_SAMPLE_H
#define PLX_BASE_SAMPLE_H

#include <stdbool.h>

/* A figure, and where it is with 95 % confidence. */
struct plx_interval {
    double mid, low, high;
};

/* Of v[n], n >= 1; of an even number the middle of the two in the middle. Sorts them. */
double plx_median(double *v, unsigned n);

/*
 * The median and its interval, whatever the distribution is: between two of the values. Sorts them. @return false with
 * fewer than 6, of which no two are far enough apart for 95 %; the interval is then from the least to the largest
 */
bool plx_median_interval(double *v, unsigned n, struct plx_interval *out);

/* The mean and its interval by Student's distribution. @return false with fewer than 2: then there is no interval */
bool plx_mean_interval(const double *v, unsigned n, struct plx_interval *out);

/*
 * Of a[n] and b[n], measured in turn and all above 0: by how much b differs from a, as a part (0.1: 10 % more). From
 * the mean of the logarithms of b[i] / a[i]. @return false as above
 */
bool plx_change_interval(const double *a, const double *b, unsigned n, struct plx_interval *out);

/*
 * The same from the median of b[i] / a[i], whatever the distribution is: with 6 pairs, from the least change to the
 * largest. @return false with fewer than 6, or where there is no memory
 */
bool plx_median_change(const double *a, const double *b, unsigned n, struct plx_interval *out);

/* Whether no difference is among what is likely. */
bool plx_no_difference(const struct plx_interval *change);

/* Whether the i-th run is of B: A B B A A B B A ..., so that what drifts evenly falls on both alike. */
bool plx_abba(unsigned i);

#endif
