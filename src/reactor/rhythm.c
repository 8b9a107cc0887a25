/* SPDX-License-Identifier: BSD-3-Clause */
#include "reactor/rhythm.h"

#include "base/util.h"

enum {
    MARGIN_NS = 1000,
    GAIN = 8, /* an observation counts for this part */
};

void plx_rhythm_init(struct plx_rhythm *r)
{
    *r = (struct plx_rhythm){.jitter = PLX_NS_PER_MS}; /* nothing is regular until it is seen to be */
}

/* How far from when it is due a burst is waited for. */
static uint64_t margin(const struct plx_rhythm *r)
{
    return 2 * r->jitter + MARGIN_NS;
}

/*
 * Of a burst that we slept through it is assumed that it was early, by no more than it takes for that: if this is
 * wrong, it makes the next sleep end too soon, which then tells more. What is out of all rhythm counts for little.
 */
void plx_rhythm_learn(struct plx_rhythm *r, uint64_t from, uint64_t to)
{
    const int64_t most = (int64_t)margin(r);
    const uint64_t due = r->beat + r->period;
    r->beat = plx_min_u64(plx_max_u64(due - (uint64_t)most, from), to);
    int64_t off = (int64_t)(r->beat - due);
    off = off > most ? most : off < -most ? -most : off;
    r->period = (uint64_t)((int64_t)r->period + off / GAIN);
    r->jitter = (uint64_t)((int64_t)r->jitter + ((off < 0 ? -off : off) - (int64_t)r->jitter) / GAIN);
    if (from < to)
        r->late -= r->late / 64; /* lest it forbid for ever that it be measured again */
}

/* Rises faster than it falls, but not at once for what happened once. */
void plx_rhythm_overslept(struct plx_rhythm *r, uint64_t late)
{
    if (late > r->late)
        r->late += plx_min_u64(late - r->late, r->late + 4 * MARGIN_NS) / 4;
    else
        r->late -= (r->late - late) / 32;
}

bool plx_rhythm_due(const struct plx_rhythm *r, uint64_t now, uint64_t longest, uint64_t *wake)
{
    const uint64_t due = r->beat + r->period, before = margin(r), after = before;
    *wake = 0;
    if (before + after + r->late > plx_min_u64(r->period / 4, longest))
        return false;
    if (now + before + r->late >= due)
        return now < due + after;
    *wake = due - before - r->late;
    return false;
}
