/* SPDX-License-Identifier: BSD-3-Clause */
/* Between lives.c, and the calls that the compiler makes. */
#ifndef PLX_MODEL_LIVES_H
#define PLX_MODEL_LIVES_H

#include "explore.h"

/* Nothing survives yet: before begin(). */
void lives_begin(void);
const char *lives_run(const struct model_program *p, unsigned long *executions);

/* Whether a life is being run, and the end of one that goes wrong. */
bool lives_run_now(void);
void lives_fail(const char *why) __attribute__((noreturn));

/* What is done outside of executions. */
void lives_plain(const volatile void *at, unsigned bytes, bool writes);
void lives_atomic(const volatile void *at, unsigned bytes, const struct op *o, const char *name);
void lives_fence(int order);

#endif
