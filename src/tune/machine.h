/* SPDX-License-Identifier: BSD-3-Clause */
/* A machine as its files show it, for the checks. */
#ifndef PLX_TUNE_MACHINE_H
#define PLX_TUNE_MACHINE_H

#include "tune/advice.h"

/* Of a CPU; -1 where there is none. Cores and clusters are numbered in hwloc's order. */
struct tune_cpu {
    bool there;
    int core, cluster, node;
};

struct tune_topology {
    char problem[160]; /* why it is not known, or "" */
    struct tune_cpu cpus[TUNE_CPUS];
    int clusters;      /* groups of several cores that share a cache, and are no whole node */
    int cluster_cores; /* of the first */
};

struct tune_machine {
    const char *root;
    int fd; /* of the root */
    bool live;
    int reactors[TUNE_CPUS];
    int nreactors; /* 0: not known */
    bool loaded;   /* the topology */
    struct tune_topology topology;
};

struct tune_names {
    char v[TUNE_NAMES][TUNE_NAME];
    unsigned n;
};

/* ---- machine.c: paths are from the root on ---- */

/*
 * A whole file, or what fits, without white space at its end. @return its length, or -errno and "": -ENODATA where
 * there is nothing in it, which is an answer of few files
 */
long tune_read(struct tune_machine *m, char *out, size_t size, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* What says that something is not there, or not any more. */
bool tune_is_gone(long ret);
/* A decimal number. @return 0 or -errno */
int tune_number(struct tune_machine *m, int64_t *out, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/*
 * The names in a folder that begin with a prefix, in their order, numbers in them by value. @return 0 or -errno; -E2BIG
 * with the first of them, where there are more than TUNE_NAMES
 */
int tune_names(struct tune_machine *m, const char *prefix, struct tune_names *out, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
bool tune_exists(struct tune_machine *m, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Text that may have come from anywhere: what is not for a terminal becomes '?', and what remains is UTF-8. */
void tune_make_printable(char *text);
/* The rest of a line "name: ..." of /proc/cpuinfo and the like. @return false if there is none */
bool tune_line(const char *text, const char *name, char *out, size_t size);
/* A word of a text of words. */
bool tune_has_word(const char *text, const char *word);
/* "0-3,8" as cores, in their order, without those from TUNE_CPUS on. @return how many, or -EINVAL */
int tune_cores(const char *text, int out[TUNE_CPUS]);
/* Of n cores, in their order, those that are among others. @return how many */
int tune_common(int *cores, int n, const int *others, int nothers);
bool tune_is_reactor(const struct tune_machine *m, int cpu);

/* Processes of that name, each given to fn. @return how many processes of any name can be seen */
unsigned tune_processes(struct tune_machine *m, const char *name, void (*fn)(struct tune_machine *m, const char *pid));

/* Ethernet NICs that are devices. @return 0 or -errno */
int tune_nics(struct tune_machine *m, struct tune_names *out);
/* Disks that are devices and have nothing that turns. @return 0 or -errno */
int tune_ssds(struct tune_machine *m, struct tune_names *out);
/* @return 1 or 0, or -errno when it is not known */
int tune_is_arm(struct tune_machine *m);
int tune_is_virtual(struct tune_machine *m);

/* topology.c: loaded when first asked for; look at ->problem. */
const struct tune_topology *tune_topology(struct tune_machine *m);

/* ethtool.c: @return 0 or -errno; -EOPNOTSUPP where a driver has no such thing */
int tune_ethtool_get(struct tune_machine *m, const char *nic, const char *group, const char *key, char *value,
                     size_t size);
int tune_ethtool_set(struct tune_machine *m, const char *nic, const char *group, const char *key, const char *value);
/* machine.c, for its recorded form. */
int tune_write(struct tune_machine *m, const char *path, const char *text);

#endif
