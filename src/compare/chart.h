/* SPDX-License-Identifier: BSD-3-Clause */
/* Which charts a report has: JSON, as report/report.js draws it. */
#ifndef PLX_COMPARE_CHART_H
#define PLX_COMPARE_CHART_H

#include <jansson.h>

/* Of results that compare_results() made; those that have nothing to show are left out. */
json_t *compare_charts(const json_t *doc);

/* A member's text; "" where there is none. */
const char *compare_text(const json_t *o, const char *name);
/* A cell's figure: one of `figures`, or a percentile. NULL where it was not measured */
const json_t *compare_figure(const json_t *cell, const char *name);
/* Whose target and host a cell has: 0 kernel's both, 1 ours is the host, 2 ours is the target, 3 both are ours. */
int compare_pair_number(const json_t *cell);
extern const char *const compare_pair_names[4];

#endif
