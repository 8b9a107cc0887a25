/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What `pollux tune` knows: looks at a machine, says of each setting what is there, what would be better, and where the
 * figure for that comes from; makes changes, and takes them back. Part of the command, not of the library. One thread,
 * no reactor. Reports are JSON: what a finding has is said at tune_look().
 */
#ifndef PLX_TUNE_ADVICE_H
#define PLX_TUNE_ADVICE_H

#include <jansson.h>
#include <pollux/base.h>

enum {
    TUNE_CPUS = 1024,
    TUNE_NAMES = 1024, /* in a folder; where there are more, what it is about is unknown */
    TUNE_NAME = 64,
};

struct tune_machine;

/*
 * A machine as its files show it, below a folder: "/" for this one. In another, which may be recorded or made up, what
 * is no file on a live machine is one: ethtool/IF/GROUP has lines "KEY VALUE".
 * @param cores where reactors run, or NULL: then, those of the pollux processes that there are
 * @return 0 or a negative errno value, with err filled
 */
int tune_open(const char *root, const int *cores, int ncores, struct tune_machine **out, struct plx_error *err);
void tune_close(struct tune_machine *m);

/*
 * Cores for n reactors (0: one for each core), by the machine's files alone: those that this process may run on; near
 * the NICs, or else the SSDs; all of a cluster, whose cores share a cache, before the next; and a second thread of a
 * core when there is no core left.
 * @param cores receives max at most, ascending
 * @return how many, or a negative errno value with err filled
 */
int tune_place(struct tune_machine *m, int n, int *cores, int max, struct plx_error *err);

/* What there are several ways for, and the one that was chosen for this CPU: "CRC32C", "crc32 and pclmulqdq". */
enum { TUNE_WAYS = 8 };
struct tune_way {
    const char *what, *how;
    char text[96]; /* that `how` may point to */
};
/* @return how many */
unsigned tune_ways(struct tune_way out[TUNE_WAYS]);

/* For people, and for --cores: "0-3,8". */
void tune_list(const int *cores, int n, char *out, size_t size);

/* The number of checks there are, and the name of one. */
unsigned tune_checks(void);
const char *tune_check_name(unsigned i);

/*
 * Looks; writes nothing. With names, at those checks and those whose names begin with one and a dot ("net").
 * @return an array of findings, at least one of each check, in the order of the table; or NULL when there is no memory:
 *   check, title, subject ("eth0", or ""), state
 *     "ok"       nothing better is known
 *     "better"   something is
 *     "choice"   better for some, worse for others, as `cost` says
 *     "absent"   this machine has no such thing
 *     "unknown"  could not be found out, as `found` says
 *   found, wanted; why, cost (texts, cost may be ""); reversible (true where changes are all that it takes);
 *   careful (what may stop a NIC, or cut the machine off: to be changed only when it is named itself),
 *   gain {origin: "measured", "published" or "unknown"; text; source},
 *   changes [{setting, value}], commands [text]
 */
json_t *tune_look(struct tune_machine *m, char *const *names, unsigned nnames);
/* Whether a name is that of a check, or of a group of them. */
bool tune_is_name(const char *name);

/*
 * A setting: a file below /sys, /proc/sys or /proc/irq; or "ethtool:IF/GROUP/KEY". Values are without white space at
 * their ends; of "always [madvise] never" it is what stands in brackets.
 * @return 0 or a negative errno value: -EFBIG when it does not fit, -ENODATA when it is empty
 */
int tune_get(struct tune_machine *m, const char *setting, char *value, size_t size);
int tune_set(struct tune_machine *m, const char *setting, const char *value);

/* ---- change.c: changes, kept in a journal that is on stable storage before each of them ---- */

struct tune_journal;

/* Also: what tells. Lines without a newline; bad ones are of what could not be done, or is in conflict. */
typedef void (*tune_tell_fn)(void *arg, bool bad, const char *line);

/*
 * One process at a time has a journal. What it says is kept for the next one, whatever ends this.
 * @param path NULL: var/lib/pollux-tune/journal.json below the machine's root
 * @return 0 or a negative errno value, with err filled: -EBUSY while another has it
 */
int tune_journal_open(struct tune_machine *m, const char *path, tune_tell_fn tell, void *arg, struct tune_journal **out,
                      struct plx_error *err);
void tune_journal_close(struct tune_journal *j);

/*
 * Makes the changes of a finding. A setting of the journal that is neither as it was nor as it was made, in this boot
 * of the machine, is left alone. What the kernel takes, and leaves as it was, is an error too.
 * @return 0, or the first error after having told each; the others are made all the same
 */
int tune_apply(struct tune_journal *j, const json_t *finding);
/* @return 0 when no setting of the finding has been changed by us in this boot, or -EEXIST after having told it */
int tune_is_free(struct tune_journal *j, const json_t *finding);
/* Takes back what that has done, if it is still so. */
int tune_take_back(struct tune_journal *j, const json_t *finding);
/*
 * Takes back all of the journal, the last change first. What somebody else has changed since is left alone, told, and
 * stays in the journal, unless forget. With dry_run, only tells. @return 0, or -EEXIST when there are such conflicts,
 * or another error after having told it
 */
int tune_undo(struct tune_journal *j, bool forget, bool dry_run);

#endif
