/* SPDX-License-Identifier: BSD-3-Clause */
/* `pollux serve` while it runs. */
#ifndef PLX_CLI_SERVE_H
#define PLX_CLI_SERVE_H

#include "cli.h"

#include <pthread.h>
#include <stdatomic.h>

struct serve {
    struct serve_options o;
    struct plx_bdev *disks[SERVE_MAX_DISKS];
    unsigned nopen;
    struct plx_reactor *reactors[SERVE_MAX_CORES + 1];
    pthread_t threads[SERVE_MAX_CORES + 1];
    unsigned nreactors, nthreads;
    struct plx_nvmf_target *target;
    struct plx_vhost *vhost;
    struct plx_nvmf_subsystem *subsystems[SERVE_MAX_SUBSYSTEMS];
    struct plx_nvmf_listener *listeners[SERVE_MAX_LISTENERS];
    struct plx_watch signals;
    atomic_bool stopping;
    bool late;       /* a disk has requests yet, whose memory must stay */
    bool unfinished; /* a call was not through, and what it uses must stay, too */
    int result;
    struct plx_rpc *rpc;                        /* the control server, if there is one */
    char *config;                               /* that is being loaded */
    int step;                                   /* of what it begins with */
    char names[SERVE_MAX_DISKS][CLI_DISK_NAME]; /* of disks of the command line */
};

/* Stops, once. */
void serve_begin_stop(struct serve *s);
/* Says on standard output what is served, and where. */
void serve_announce(const struct serve *s);

/* ---- serve_control.c ---- */

/* The target runs: makes the control server, and the calls that it begins with. */
void serve_control_begin(struct serve *s);

#endif
