/* SPDX-License-Identifier: BSD-3-Clause */
/* For target_control: asks a target what is going on, and prints the answer as "ok JSON"; then `printed` is called. */
#ifndef TESTS_TARGET_QUERY_H
#define TESTS_TARGET_QUERY_H

#include <pollux/pollux.h>

int query_controllers(struct plx_nvmf_subsystem *s, void (*printed)(void));
int query_inflight(struct plx_nvmf_target *t, void (*printed)(void));
int query_stats(struct plx_nvmf_target *t, void (*printed)(void));

#endif
