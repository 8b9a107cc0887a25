/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PLX_TUNE_MEASURE_H
#define PLX_TUNE_MEASURE_H

#include "tune/advice.h"

enum { TUNE_ROUNDS = 100 };

/* Runs a load once, which takes as long as it takes. @return 0 with its figure, which is above 0; or -errno, told */
struct tune_load {
    const char *name; /* what it is, for the report */
    int (*run)(const struct tune_load *load, double *figure);
};

/*
 * Makes a finding's changes and takes them back, 2 to TUNE_ROUNDS rounds of A B B A, and puts what came of it into the
 * finding: its gain is then of origin "measured", and `measured` has {difference, change, low, high, without, with}.
 * @return 0 or a negative errno value, the finding being as it was; the changes are taken back, as far as can be.
 *   -EEXIST, told, when one of its settings was changed before by tune_apply(): what comes without the change is then
 *   not what there was
 */
int tune_measure(struct tune_journal *j, json_t *finding, const struct tune_load *load, unsigned rounds);

#endif
