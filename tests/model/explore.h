/* SPDX-License-Identifier: BSD-3-Clause */
/* Between the calls that the compiler makes (calls.c), what is done with them (explore.c), and the orders (suite.c). */
#ifndef PLX_MODEL_EXPLORE_H
#define PLX_MODEL_EXPLORE_H

#include "graph.h"

enum { EXPLORE_OWN = 0x40 }; /* with an order: one that is not under test */

void explore_plain(const volatile void *at, unsigned bytes, bool writes);
uint64_t explore_atomic(const volatile void *at, unsigned bytes, struct op o);
void explore_fence(int order, const void *where);
void explore_signal_fence(int order, const void *where);

/* Outside of executions: as it is written. */
uint64_t explore_outside(const volatile void *at, unsigned bytes, const struct op *o);

/* What a store or an update leaves where it finds `was`. */
uint64_t explore_updated(const struct op *o, uint64_t was, unsigned bytes);

/*
 * The order that this access is to have in this run; o is NULL for a compare-exchange that fails. Whoever `ours` is
 * said of is put down among those that may be weakened.
 */
int explore_order(const char *name, const struct op *o, int order, bool ours);

/* A fence has no location: its name is a letter, in the order in which they are met. */
const char *explore_fence_name(const void *where);

/* What model_name() said. */
const char *explore_name(const volatile void *at);

/* Whether it was said before, in this run of a program. */
bool explore_seen(uint64_t hash);

/* Whether something is meant to go wrong in this run. */
bool explore_expects(void);

/* Whether the last program ended as it went beyond the model, so that nothing is known of it. */
bool explore_is_beyond(void);

#endif
