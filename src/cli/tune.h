/* SPDX-License-Identifier: BSD-3-Clause */
/* `pollux tune`: what is asked for, how it is shown, and the load that it is measured by. */
#ifndef PLX_CLI_TUNE_H
#define PLX_CLI_TUNE_H

#include <jansson.h>

#include "cli.h"

struct tune_options {
    const char *root, *state, *load, *target;
    int cores[SERVE_MAX_CORES];
    int ncores, placed;
    uint32_t rounds, seconds;
    bool apply, undo, forget, dry_run, measure, json, list, help;
    char **names; /* of checks */
    unsigned nnames;
};

/* tune_print.c: findings for people. */
void tune_print(const json_t *findings, const struct tune_options *o);

/*
 * tune_load.c: runs a command by the shell; its figure is the first number of the last line that it prints, or of JSON
 * with "iops" in it, that. @return 0, or a negative errno value after having said why there is none
 */
int tune_run_load(const char *command, double *figure);
/* The command for `pollux perf` against a disk. @return EXIT_OK, or EXIT_USAGE after having said what is wrong */
int tune_perf_command(const char *disk, uint32_t seconds, char *out, size_t size);

#endif
