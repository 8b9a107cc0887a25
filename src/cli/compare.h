/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * `pollux compare`: what its files share. compare.c is the run as a whole, compare_site.c the targets, compare_run.c
 * one measurement, compare_print.c the terminal; what is measured and what it says is of src/compare/.
 */
#ifndef PLX_CLI_COMPARE_H
#define PLX_CLI_COMPARE_H

#include <signal.h>
#include <sys/types.h>

#include "cli.h"
#include "compare/cells.h"
#include "compare/kernel.h"
#include "compare/wire.h"

enum { COMPARE_CORES = 128, COMPARE_NQN = 256, COMPARE_ADDR = 64, COMPARE_DEPTH = 1023, COMPARE_REMOTE_CPUS = 4096 };

/* Both on this machine; or this one has the targets, or the hosts. */
enum compare_where { COMPARE_HERE, COMPARE_TARGET, COMPARE_HOST };

struct compare_options {
    enum compare_where where;
    const char *listen, *peer, *key; /* of two machines */
    struct compare_axes axes;
    uint32_t rounds;
    double seconds; /* of a run; 0: chosen */
    bool quick, clean, help;
    bool targets[COMPARE_SIDES], hosts[COMPARE_SIDES];
    const char *json, *html, *from;
    struct compare_medium medium;
    int target_cores[COMPARE_CORES], host_cores[COMPARE_CORES];
    int ntarget_cores, nhost_cores; /* 0: chosen */
    unsigned mtu;                   /* of the NICs between two namespaces; 0: there are none, it is the loopback */
};

/* @return EXIT_OK, or EXIT_USAGE after having said what is wrong */
int compare_parse(int argc, char **argv, struct compare_options *o);
void compare_help(void);
/* What targets serve, as --disk has it: a path may be no text. */
json_t *compare_disk_name(const struct compare_options *o);

/* Set by the signals that end a run. */
extern volatile sig_atomic_t compare_interrupted;

/* ---- compare_network.c: what is between the two ends on one machine ---- */

enum compare_end { COMPARE_END_TARGET, COMPARE_END_HOST, COMPARE_ENDS };

/* Two namespaces; NULL is the loopback. */
struct compare_network;

/* @return 0 or a negative errno value, with err a sentence of --network */
int compare_network_open(unsigned mtu, struct compare_network **out, struct plx_error *err);
void compare_network_close(struct compare_network *n);
/* Where targets listen. */
const char *compare_network_addr(const struct compare_network *n);
/* This process is at that end from now on. Who is not root cannot leave again. @return 0 or a negative errno value */
int compare_network_enter(const struct compare_network *n, enum compare_end end);
int compare_network_leave(const struct compare_network *n);
/* Of the loopback; 0 if it is not known. */
int compare_network_mtu(void);

/* ---- compare_site.c: where targets are ---- */

struct compare_place {
    char addr[COMPARE_ADDR], nqn[COMPARE_NQN];
    uint16_t port;
};

struct compare_site {
    struct compare_wire *wire; /* to the machine that has them, or NULL: this one */
    const struct compare_network *network;
    struct compare_kernel *kernel;
    struct compare_medium medium;
    const char *addr; /* where targets listen */
    const int *cores;
    int ncores;
    /* Our target, if one runs. */
    pid_t pid;
    int output; /* what it prints */
    struct compare_load load;
    struct compare_place place;
    /* The kernel's, once it was set up. */
    bool kernel_runs;
    struct compare_place kernel_place;
};

/* Entries of a queue that is to hold so many requests; of all targets and hosts alike. */
uint32_t compare_entries(const struct compare_load *load);
/* Has a target run that fits the load. @return 0 or a negative errno value */
int site_start(struct compare_site *s, enum compare_side side, const struct compare_load *load,
               struct compare_place *place, struct plx_error *err);
/* Our target ends, if it runs. */
void site_stop(struct compare_site *s);

/* ---- compare_run.c ---- */

struct compare_job {
    const char *disk; /* as pollux perf names it */
    const struct compare_load *load;
    const int *cores;
    double seconds, rate;      /* rate 0: as fast as requests complete */
    double idle;               /* CPU seconds a second that the machine uses by itself */
    pid_t target;              /* the process of the target on this machine, or 0 */
    struct compare_wire *wire; /* to the target's machine, or NULL */
    const struct compare_network *network;
    double idle_there;
    uint64_t fill;      /* writes so many bytes once instead, from the beginning */
    void (*tick)(void); /* called now and then; or NULL */
};
/* Measures in a process of its own. @return 0, or a negative errno value with err filled: -EINTR when interrupted */
int compare_measure(const struct compare_job *job, struct compare_run *out, struct plx_error *err);

/* In a process that was made: it does not outlive the one that made it. */
void compare_dies_with(pid_t parent);

/* What this machine uses by itself, in CPU seconds a second: looks for a second. */
double compare_idle(void);

/* ---- compare_target.c ---- */

int compare_target(const struct compare_options *o);

/* ---- compare_print.c ---- */

/* Any bytes, as text for people. */
json_t *compare_json_text(const char *bytes);

void compare_progress(unsigned done, unsigned all, double left, const char *what);
void compare_progress_end(void);
void compare_table(const json_t *doc);

#endif
