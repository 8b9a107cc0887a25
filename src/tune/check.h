/* SPDX-License-Identifier: BSD-3-Clause */
/* For those who write checks: a check is an entry of a table, and a function that adds findings. */
#ifndef PLX_TUNE_CHECK_H
#define PLX_TUNE_CHECK_H

#include "tune/machine.h"

enum tune_state { TUNE_OK, TUNE_BETTER, TUNE_CHOICE, TUNE_ABSENT, TUNE_UNKNOWN };
enum tune_origin { TUNE_NO_FIGURE, TUNE_PUBLISHED, TUNE_MEASURED };

/* What a change brings, and where that figure comes from; where there is none, who advises the change. */
struct tune_gain {
    enum tune_origin origin;
    const char *text, *source;
};
/* clang-format off */
#define FIGURE(text, source) {TUNE_PUBLISHED, text, source}
#define NO_FIGURE(source) {TUNE_NO_FIGURE, "no figure is known", source}
/* Until it is: by counters of this machine. */
#define COUNTED(source) {TUNE_NO_FIGURE, "nothing was counted", source}
/* clang-format on */

enum tune_each { TUNE_ONCE, TUNE_EACH_NIC, TUNE_EACH_SSD };

struct tune_look {
    struct tune_machine *m;
    const struct tune_check *check;
    json_t *out;
};

struct tune_check {
    const char *name, *title, *why;
    const char *cost; /* what the change takes, or NULL */
    struct tune_gain gain;
    /* NULL: files are looked at, as the members below say. Adds at least one finding. */
    void (*look)(struct tune_look *l);

    /* A setting; '%' stands for the name of the NIC or SSD, '*' for the rest of one name in a folder. */
    const char *file;
    const char *want; /* values that are well, "first|second": the first is what is advised */
    int64_t least;    /* or, when not 0: numbers from here on are well */
    enum tune_each each;
    enum tune_state otherwise; /* TUNE_BETTER or TUNE_CHOICE */
    /* Whether it is of use: 1 or 0, or -errno when that is not known; or NULL. */
    int (*only)(struct tune_machine *m);
    const char *lacking; /* what is said where it is not */
    bool careful;        /* may stop a NIC, or cut the machine off: changed only when it is named itself */
};

extern const struct tune_check tune_cpu_checks[], tune_core_checks[], tune_memory_checks[], tune_device_checks[],
    tune_nic_checks[], tune_tcp_checks[];
extern const unsigned tune_cpu_checks_n, tune_core_checks_n, tune_memory_checks_n, tune_device_checks_n,
    tune_nic_checks_n, tune_tcp_checks_n;

/* ---- look.c: findings. What is returned is the report's ---- */

json_t *look_add(struct tune_look *l, enum tune_state state, const char *subject, const char *found, ...)
    __attribute__((format(printf, 4, 5)));
void look_want(json_t *finding, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The figure is of this machine: `source` says of which counter. */
void look_measured(json_t *finding, const char *source, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* A change, and the command for it. */
void look_change(json_t *finding, const char *setting, const char *value);
/* A command for what is not changed by us. */
void look_command(json_t *finding, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* A file that could not be read: absent where it is not there, otherwise unknown. */
void look_lack(struct tune_look *l, const char *subject, long ret, const char *path);
/* Reactors are needed for it. @return false after having added that they are not known */
bool look_reactors(struct tune_look *l);
/*
 * And the CPU of each is in the topology, which has those that are online, and inside of our cpuset.
 * @return false after having added of which one nothing is known
 */
bool look_reactors_there(struct tune_look *l, const struct tune_topology *t, const char *subject);
/* The same for the topology. */
const struct tune_topology *look_topology(struct tune_look *l);
/* The NICs. @return false after having added that there are none */
bool look_nics(struct tune_look *l, struct tune_names *nics);

#endif
