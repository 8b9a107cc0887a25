/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/sample.h"

#include <math.h>
#include <stdlib.h>

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double plx_median(double *v, unsigned n)
{
    qsort(v, n, sizeof *v, by_size);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

/* The chance of at most k heads in n throws. */
static double at_most(unsigned k, unsigned n)
{
    double sum = 0, term = pow(0.5, n);
    for (unsigned i = 0; i <= k; i++) {
        sum += term;
        term *= (double)(n - i) / (i + 1);
    }
    return sum;
}

/* That the k least, or the k largest, hold the median has a chance of 2 * at_most(k - 1). */
bool plx_median_interval(double *v, unsigned n, struct plx_interval *out)
{
    unsigned cut = 0;
    while (cut + 1 < n / 2 && 2 * at_most(cut + 1, n) <= 0.05)
        cut++;
    *out = (struct plx_interval){.mid = plx_median(v, n)};
    out->low = v[cut];
    out->high = v[n - 1 - cut];
    return 2 * at_most(cut, n) <= 0.05;
}

/* Beyond which 2.5 % are, on each side: exact up to 10 degrees of freedom, then by Fisher's expansion. */
static double student(unsigned degrees)
{
    static const double exact[] = {0, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228};
    const double z = 1.959964, n = degrees;
    if (degrees < sizeof exact / sizeof exact[0])
        return exact[degrees];
    return z + (pow(z, 3) + z) / (4 * n) + (5 * pow(z, 5) + 16 * pow(z, 3) + 3 * z) / (96 * n * n);
}

bool plx_mean_interval(const double *v, unsigned n, struct plx_interval *out)
{
    double sum = 0, squares = 0;
    for (unsigned i = 0; i < n; i++)
        sum += v[i];
    double mean = sum / n;
    for (unsigned i = 0; i < n; i++)
        squares += (v[i] - mean) * (v[i] - mean);
    double half = n < 2 ? 0 : student(n - 1) * sqrt(squares / (n - 1) / n);
    *out = (struct plx_interval){mean, mean - half, mean + half};
    return n >= 2;
}

bool plx_change_interval(const double *a, const double *b, unsigned n, struct plx_interval *out)
{
    double *logs = calloc(n ? n : 1, sizeof *logs);
    for (unsigned i = 0; logs && i < n; i++)
        logs[i] = log(b[i] / a[i]);
    bool good = logs && plx_mean_interval(logs, n, out);
    if (good)
        *out = (struct plx_interval){expm1(out->mid), expm1(out->low), expm1(out->high)};
    free(logs);
    return good;
}

bool plx_median_change(const double *a, const double *b, unsigned n, struct plx_interval *out)
{
    double *changes = calloc(n ? n : 1, sizeof *changes);
    bool good = changes && n;
    for (unsigned i = 0; changes && i < n; i++)
        changes[i] = b[i] / a[i] - 1;
    if (good)
        good = plx_median_interval(changes, n, out);
    free(changes);
    return good;
}

bool plx_no_difference(const struct plx_interval *change)
{
    return change->low <= 0 && change->high >= 0;
}

bool plx_abba(unsigned i)
{
    return i % 4 == 1 || i % 4 == 2;
}
