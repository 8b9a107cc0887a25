/* SPDX-License-Identifier: BSD-3-Clause */
#include "compare/cells.h"

#include <string.h>

#include "base/sample.h"

static bool is_same_load(const struct compare_load *a, const struct compare_load *b)
{
    return a->size == b->size && a->depth == b->depth && a->read_percent == b->read_percent && a->cores == b->cores &&
           a->digests == b->digests && a->poll == b->poll;
}

static unsigned add_load(struct compare_load *loads, unsigned n, struct compare_load load)
{
    for (unsigned i = 0; i < n; i++)
        if (is_same_load(&loads[i], &load))
            return n;
    if (n == COMPARE_LOADS)
        return n;
    if (load.depth < load.cores)
        load.depth = load.cores; /* each queue has at least one */
    loads[n] = load;
    return n + 1;
}

static unsigned plan_one_at_a_time(const struct compare_axes *a, struct compare_load base, struct compare_load *loads)
{
    unsigned n = 0;
    struct compare_load l;
    for (unsigned i = 0; i < a->ndepths; i++)
        l = base, l.depth = a->depths[i], n = add_load(loads, n, l);
    for (unsigned i = 0; i < a->nreads; i++)
        l = base, l.read_percent = a->reads[i], n = add_load(loads, n, l);
    for (unsigned i = 0; i < a->nsizes; i++)
        l = base, l.size = a->sizes[i], n = add_load(loads, n, l);
    for (unsigned i = 0; i < a->ndigests; i++)
        l = base, l.digests = a->digests[i], n = add_load(loads, n, l);
    for (unsigned i = 0; i < a->npolls; i++)
        l = base, l.poll = a->polls[i], n = add_load(loads, n, l);
    for (unsigned i = 0; i < a->ncores; i++)
        l = base, l.cores = a->cores[i], n = add_load(loads, n, l);
    return n;
}

/* Counts through all combinations as a number whose digits are the axes'. */
static unsigned plan_all(const struct compare_axes *a, struct compare_load *loads)
{
    unsigned n = 0, all = a->nsizes * a->ndepths * a->nreads * a->ncores * a->ndigests * a->npolls;
    for (unsigned i = 0; i < all; i++) {
        unsigned k = i;
        struct compare_load l;
        l.depth = a->depths[k % a->ndepths], k /= a->ndepths;
        l.size = a->sizes[k % a->nsizes], k /= a->nsizes;
        l.read_percent = a->reads[k % a->nreads], k /= a->nreads;
        l.digests = a->digests[k % a->ndigests], k /= a->ndigests;
        l.poll = a->polls[k % a->npolls], k /= a->npolls;
        l.cores = a->cores[k];
        n = add_load(loads, n, l);
    }
    return n;
}

unsigned compare_plan_size(const struct compare_axes *a)
{
    unsigned product = a->nsizes * a->ndepths * a->nreads * a->ncores * a->ndigests * a->npolls;
    unsigned sum = a->nsizes + a->ndepths + a->nreads + a->ncores + a->ndigests + a->npolls;
    return a->cross ? product : sum;
}

unsigned compare_plan(const struct compare_axes *a, struct compare_load *loads)
{
    const struct compare_load base = {.size = a->sizes[0],
                                      .depth = a->depths[0],
                                      .read_percent = a->reads[0],
                                      .cores = a->cores[0],
                                      .digests = a->digests[0],
                                      .poll = a->polls[0]};
    return a->cross ? plan_all(a, loads) : plan_one_at_a_time(a, base, loads);
}

void compare_load_text(const struct compare_load *load, char *out, size_t size)
{
    static const char *const polls[] = {
        [PLX_POLL_ADAPTIVE] = "", [PLX_POLL_BUSY] = ", spinning", [PLX_POLL_SLEEP] = ", sleeping"};
    char mix[32], cores[32] = "";
    if (load->read_percent == 100 || load->read_percent == 0)
        snprintf(mix, sizeof mix, "%s", load->read_percent ? "read" : "write");
    else
        snprintf(mix, sizeof mix, "%u %% read", load->read_percent);
    if (load->cores > 1)
        snprintf(cores, sizeof cores, ", %u cores", load->cores);
    bool kib = load->size % 1024 == 0;
    snprintf(out, size, "%u %s %s, QD%u%s%s%s", kib ? load->size / 1024 : load->size, kib ? "KiB" : "B", mix,
             load->depth, cores, load->digests ? ", digests" : "", polls[load->poll]);
}

const char *compare_side_name(enum compare_side side)
{
    return side == COMPARE_KERNEL ? "kernel" : "pollux";
}

unsigned compare_turn(unsigned round, unsigned i, unsigned n)
{
    return plx_abba(2 * round) ? n - 1 - i : i;
}
