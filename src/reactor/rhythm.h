/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The rhythm in which work comes: when bursts of it begin, and whether the next one can be told in advance. All times
 * are in ns of one clock.
 */
#ifndef PLX_REACTOR_RHYTHM_H
#define PLX_REACTOR_RHYTHM_H

#include <stdbool.h>
#include <stdint.h>

struct plx_rhythm {
    uint64_t beat;   /* when the latest burst began */
    uint64_t period; /* from burst to burst, smoothed */
    uint64_t jitter; /* by how much they miss it, smoothed */
    uint64_t late;   /* by how much the kernel oversleeps: mostly as much as this, or less */
};

void plx_rhythm_init(struct plx_rhythm *r);

/*
 * A burst began between these times, which are equal unless it was slept through. It was the first one after a time in
 * which it was worth sleeping.
 */
void plx_rhythm_learn(struct plx_rhythm *r, uint64_t from, uint64_t to);

/* A sleep until a set time took so much longer. */
void plx_rhythm_overslept(struct plx_rhythm *r, uint64_t late);

/*
 * Whether the next burst is due just now, so that spinning will not take longer than longest, nor more than a quarter
 * of the time. If not, *wake tells until when to sleep at most, or is 0 when nothing is known.
 */
bool plx_rhythm_due(const struct plx_rhythm *r, uint64_t now, uint64_t longest, uint64_t *wake);

#endif
