/* SPDX-License-Identifier: BSD-3-Clause */
/* Changes of `pollux tune`, and their way back: whatever ends it, whoever changes something in between, and reboots. */
#include <errno.h>
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/util.h"
#include "tune/measure.h"

#define SWAPPINESS "/proc/sys/vm/swappiness"
#define KSM "/sys/kernel/mm/ksm/run"
#define AFFINITY "/proc/irq/9/smp_affinity_list"
#define RING "ethtool:eth0/rings/rx"
#define GOVERNOR(n) "/sys/devices/system/cpu/cpufreq/policy" #n "/scaling_governor"
#define BOOT_ID "/proc/sys/kernel/random/boot_id"

enum { STOPS_MAX = 1000, TOLD_MAX = 64 };

static char root[64];
static unsigned kill_at, calls; /* 0: never */
static bool fsync_fails;
static const char *refused; /* a setting that cannot be written */
static const char *ignored; /* one that stays as it is, whatever is written */
static const char *in_use;  /* one that goes back in part, the first time */
static const char *partly;  /* one that is written in part, and then refused */
static char told[TOLD_MAX][1024];
static unsigned ntold, nbad;

static const char *goes; /* a setting that is gone when it is read, after its name was seen */

/* ---- what is injured ---- */

int __real_tune_get(struct tune_machine *m, const char *setting, char *value, size_t size);
int __wrap_tune_get(struct tune_machine *m, const char *setting, char *value, size_t size);

ssize_t __real_write(int fd, const void *data, size_t n);
ssize_t __wrap_write(int fd, const void *data, size_t n);
int __wrap_fsync(int fd);
int __real_rename(const char *from, const char *to);
int __wrap_rename(const char *from, const char *to);
int __real_unlink(const char *path);
int __wrap_unlink(const char *path);
int __real_tune_set(struct tune_machine *m, const char *setting, const char *value);
int __wrap_tune_set(struct tune_machine *m, const char *setting, const char *value);

static void stop_here(void)
{
    if (kill_at && ++calls == kill_at)
        raise(SIGKILL);
}

ssize_t __wrap_write(int fd, const void *data, size_t n)
{
    stop_here();
    return __real_write(fd, data, n);
}

int __wrap_fsync(int fd)
{
    (void)fd; /* what is killed needs no disk to keep what it has written */
    stop_here();
    errno = EIO;
    return fsync_fails ? -1 : 0;
}

int __wrap_rename(const char *from, const char *to)
{
    stop_here();
    return __real_rename(from, to);
}

int __wrap_unlink(const char *path)
{
    stop_here();
    return __real_unlink(path);
}

/* As a kernel that writes lists in its own way, and refuses some. */
int __wrap_tune_set(struct tune_machine *m, const char *setting, const char *value)
{
    stop_here();
    if (refused && strcmp(setting, refused) == 0)
        return -EINVAL;
    if (ignored && strcmp(setting, ignored) == 0)
        return 0;
    if (in_use && strcmp(setting, in_use) == 0 && strcmp(value, "1") == 0) {
        in_use = NULL;
        return __real_tune_set(m, setting, "30");
    }
    if (partly && strcmp(setting, partly) == 0) {
        partly = NULL; /* back it goes */
        return __real_tune_set(m, setting, "7") ? -EIO : -ENOMEM;
    }
    return __real_tune_set(m, setting, strcmp(value, "0,1,2,3") == 0 ? "0-3" : value);
}

int __wrap_tune_get(struct tune_machine *m, const char *setting, char *value, size_t size)
{
    return goes && strstr(setting, goes) ? -ENODEV : __real_tune_get(m, setting, value, size);
}

/* ---- a machine ---- */

static void put(const char *path, const char *text)
{
    char file[PATH_MAX];
    snprintf(file, sizeof file, "%s%s", root, path);
    for (char *slash = strchr(file + strlen(root) + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(file, 0755);
        *slash = '/';
    }
    FILE *f = fopen(file, "w");
    assert_non_null(f);
    fprintf(f, "%s\n", text);
    assert_int_equal(fclose(f), 0);
}

static struct tune_machine *machine(void)
{
    struct tune_machine *m;
    struct plx_error err;
    assert_int_equal(tune_open(root, NULL, 0, &m, &err), 0);
    return m;
}

static void assert_setting(const char *setting, const char *value)
{
    struct tune_machine *m = machine();
    char now[256];
    assert_int_equal(tune_get(m, setting, now, sizeof now), 0);
    assert_string_equal(now, value);
    tune_close(m);
}

static bool journal_there(void)
{
    char file[PATH_MAX];
    snprintf(file, sizeof file, "%s/var/lib/pollux-tune/journal.json", root);
    return access(file, F_OK) == 0;
}

static int set_up(void **state)
{
    (void)state;
    snprintf(root, sizeof root, "/tmp/test_tune.XXXXXX");
    assert_non_null(mkdtemp(root));
    put(BOOT_ID, "first");
    put(SWAPPINESS, "60");
    put(KSM, "1");
    put(AFFINITY, "5");
    put("/ethtool/eth0/rings", "rx 256\nrx-max 4096");
    kill_at = 0;
    fsync_fails = false;
    refused = ignored = in_use = partly = goes = NULL;
    return 0;
}

static int tear_down(void **state)
{
    char command[128];
    (void)state;
    snprintf(command, sizeof command, "rm -r %s", root);
    FILE *p = popen(command, "r");
    return p ? pclose(p) : -1;
}

static void remember(void *arg, bool bad, const char *line)
{
    (void)arg;
    if (ntold < TOLD_MAX)
        snprintf(told[ntold++], sizeof told[0], "%s", line);
    nbad += bad;
}

static bool was_told(const char *part)
{
    for (unsigned i = 0; i < ntold; i++)
        if (strstr(told[i], part))
            return true;
    return false;
}

static json_t *changes(void)
{
    return json_pack("{ss,s[{ssss}{ssss}{ssss}{ssss}]}", "check", "some.check", "changes", "setting", SWAPPINESS,
                     "value", "10", "setting", KSM, "value", "0", "setting", AFFINITY, "value", "0,1,2,3", "setting",
                     RING, "value", "4096");
}

enum act { APPLY, UNDO, FORGET, TRY };

static int act(enum act what)
{
    struct tune_machine *m = machine();
    struct tune_journal *j;
    struct plx_error err = {""};
    json_t *finding = changes();
    ntold = nbad = 0;
    calls = 0;
    int ret = tune_journal_open(m, NULL, remember, NULL, &j, &err);
    if (!ret) {
        ret = what == APPLY ? tune_apply(j, finding) : tune_undo(j, what == FORGET, what == TRY);
        tune_journal_close(j);
    }
    json_decref(finding);
    tune_close(m);
    return ret;
}

/* @return whether it came to its end before it was killed */
static bool act_and_be_killed(enum act what, unsigned at)
{
    int status;
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (!child) {
        kill_at = at;
        _exit(act(what) ? 1 : 0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : WEXITSTATUS(status) == 0);
    return WIFEXITED(status);
}

static void assert_as_it_was(void)
{
    assert_setting(SWAPPINESS, "60");
    assert_setting(KSM, "1");
    assert_setting(AFFINITY, "5");
    assert_setting(RING, "256");
    assert_false(journal_there());
}

static void assert_changed(void)
{
    assert_setting(SWAPPINESS, "10");
    assert_setting(KSM, "0");
    assert_setting(AFFINITY, "0-3");
    assert_setting(RING, "4096");
    assert_true(journal_there());
}

/* ---- tests ---- */

static void what_was_applied_goes_back(void **state)
{
    (void)state;
    assert_int_equal(act(APPLY), 0);
    assert_changed();
    assert_true(was_told(SWAPPINESS ": 60 -> 10"));
    assert_int_equal(act(TRY), 0);
    assert_changed();
    assert_int_equal(act(UNDO), 0);
    assert_as_it_was();
    assert_int_equal(act(UNDO), 0);
}

static void applied_twice_it_goes_back_to_what_was_at_first(void **state)
{
    (void)state;
    assert_int_equal(act(APPLY), 0);
    assert_int_equal(act(APPLY), 0);
    put(KSM, "1"); /* somebody took one back by hand */
    assert_int_equal(act(APPLY), 0);
    assert_changed();
    assert_int_equal(act(UNDO), 0);
    assert_as_it_was();
}

/*
 * Of AFFINITY the kernel makes another value than it was given: who is killed before having kept that cannot know it
 * for his own, and says so. @return whether it was so
 */
static bool undo_after_kill(void)
{
    int ret = act(UNDO);
    if (!ret) {
        assert_as_it_was();
        return false;
    }
    assert_int_equal(ret, -EEXIST);
    assert_int_equal(nbad, 1);
    assert_true(was_told("conflict: it was 5, was set to 0,1,2,3 by us, and is 0-3 now"));
    assert_setting(AFFINITY, "0-3");
    assert_setting(SWAPPINESS, "60");
    assert_setting(KSM, "1");
    assert_setting(RING, "256");
    put(AFFINITY, "5");
    assert_int_equal(act(UNDO), 0);
    assert_as_it_was();
    return true;
}

static void killed_at_any_step_of_applying_all_goes_back(void **state)
{
    unsigned at = 1, conflicts = 0;
    (void)state;
    for (; !act_and_be_killed(APPLY, at) && at < STOPS_MAX; at++)
        conflicts += undo_after_kill();
    assert_in_range(at, 30, STOPS_MAX - 1);
    assert_in_range(conflicts, 1, 5); /* between its write and the rename of the journal that has what came of it */
    assert_changed();
}

static void killed_at_any_step_of_applying_it_can_be_applied_again(void **state)
{
    (void)state;
    for (unsigned at = 1; !act_and_be_killed(APPLY, at); at++) {
        int ret = act(APPLY);
        if (ret) { /* as above */
            assert_true(was_told("is 0-3 now: left alone"));
            put(AFFINITY, "5");
            assert_int_equal(act(APPLY), 0);
        }
        assert_changed();
        assert_int_equal(act(UNDO), 0);
        assert_as_it_was();
    }
}

static void killed_at_any_step_of_going_back_the_next_one_ends_it(void **state)
{
    unsigned at = 1;
    (void)state;
    assert_int_equal(act(APPLY), 0);
    for (; !act_and_be_killed(UNDO, at) && at < STOPS_MAX; at++) {
        assert_int_equal(act(UNDO), 0);
        assert_as_it_was();
        assert_int_equal(act(APPLY), 0);
    }
    assert_in_range(at, 20, STOPS_MAX - 1);
    assert_as_it_was();
}

static void what_somebody_changed_since_is_left_alone_and_named(void **state)
{
    (void)state;
    assert_int_equal(act(APPLY), 0);
    put(SWAPPINESS, "33");
    assert_int_equal(act(TRY), -EEXIST);
    assert_int_equal(act(UNDO), -EEXIST);
    assert_int_equal(nbad, 1);
    assert_true(was_told(SWAPPINESS ": conflict: it was 60, was set to 10 by us, and is 33 now: left alone"));
    assert_setting(SWAPPINESS, "33");
    assert_setting(KSM, "1");
    assert_setting(RING, "256");
    assert_int_equal(act(APPLY), -EEXIST); /* nor does that take it for its own */
    assert_setting(SWAPPINESS, "33");
    put(SWAPPINESS, "10");
    assert_int_equal(act(UNDO), 0);
    assert_as_it_was();
}

static void a_conflict_can_be_forgotten(void **state)
{
    (void)state;
    assert_int_equal(act(APPLY), 0);
    put(SWAPPINESS, "33");
    assert_int_equal(act(FORGET), -EEXIST);
    assert_setting(SWAPPINESS, "33");
    assert_false(journal_there());
}

static void a_setting_that_is_gone_is_a_conflict(void **state)
{
    char file[PATH_MAX];
    (void)state;
    assert_int_equal(act(APPLY), 0);
    snprintf(file, sizeof file, "%s/ethtool/eth0/rings", root);
    assert_int_equal(unlink(file), 0);
    assert_int_equal(act(UNDO), -EEXIST);
    assert_true(was_told(RING ": conflict: it was 256, and cannot be read any more"));
    assert_setting(SWAPPINESS, "60");
    put("/ethtool/eth0/rings", "rx 4096\nrx-max 4096");
    assert_int_equal(act(UNDO), 0);
    assert_as_it_was();
}

static void reboot(const char *swappiness)
{
    put(BOOT_ID, "second");
    put(SWAPPINESS, swappiness);
    put(KSM, "1");
    put(AFFINITY, "5");
    put("/ethtool/eth0/rings", "rx 256\nrx-max 4096");
}

static void a_reboot_takes_all_back(void **state)
{
    (void)state;
    assert_int_equal(act(APPLY), 0);
    reboot("60");
    assert_int_equal(act(UNDO), 0);
    assert_true(was_told("60, as it was; the reboot took it back"));
    assert_as_it_was();
}

/* Even the value that we had set: after a reboot it is from somebody else. */
static void what_is_otherwise_after_a_reboot_is_left_alone_and_named(void **state)
{
    (void)state;
    assert_int_equal(act(APPLY), 0);
    reboot("10");
    assert_int_equal(act(UNDO), -EEXIST);
    assert_true(was_told("it was 60 before the reboot, and is 10 now, not by us: left alone"));
    assert_setting(SWAPPINESS, "10");
}

static void applied_again_after_a_reboot_it_goes_back_to_what_that_boot_had(void **state)
{
    (void)state;
    assert_int_equal(act(APPLY), 0);
    reboot("42");
    assert_int_equal(act(APPLY), 0);
    assert_changed();
    assert_int_equal(act(UNDO), 0);
    assert_setting(SWAPPINESS, "42");
    assert_setting(KSM, "1");
    assert_false(journal_there());
}

static void what_is_refused_leaves_no_trace_and_the_others_are_made(void **state)
{
    (void)state;
    refused = KSM;
    assert_int_equal(act(APPLY), -EINVAL);
    assert_true(was_told(KSM " cannot be set to 0: Invalid argument"));
    assert_setting(KSM, "1");
    assert_setting(SWAPPINESS, "10");
    assert_setting(RING, "4096");
    assert_int_equal(act(UNDO), 0);
    assert_false(was_told(KSM));
    assert_as_it_was();
}

static void what_stays_as_it_was_is_an_error(void **state)
{
    (void)state;
    ignored = KSM;
    assert_int_equal(act(APPLY), -EIO);
    assert_true(was_told(KSM " cannot be set to 0: the kernel took that, and left it at 1"));
    assert_setting(SWAPPINESS, "10");
    assert_int_equal(act(UNDO), 0);
    assert_false(was_told(KSM));
    assert_as_it_was();
}

static void what_was_done_in_part_is_ours_too(void **state)
{
    (void)state;
    partly = KSM;
    assert_int_equal(act(APPLY), -ENOMEM);
    assert_true(was_told(KSM ": asked for 0, the kernel made it 7"));
    assert_setting(KSM, "7");
    assert_int_equal(act(UNDO), 0);
    assert_as_it_was();
}

static void what_goes_back_in_part_can_go_back_later(void **state)
{
    (void)state;
    assert_int_equal(act(APPLY), 0);
    in_use = KSM;
    assert_int_equal(act(UNDO), -EBUSY);
    assert_true(was_told(KSM ": set back to 1, the kernel made it 30; some is in use: try again later"));
    assert_true(journal_there());
    assert_int_equal(act(UNDO), 0);
    assert_true(was_told(KSM ": 30 -> 1"));
    assert_as_it_was();
}

/* A journal could not say what it was. */
static void what_is_no_text_is_left_alone_and_nothing_else_is_forgotten(void **state)
{
    struct tune_machine *m;
    char now[64];
    (void)state;
    put(KSM, "\xff\x1b[31m");
    assert_int_equal(act(APPLY), -EILSEQ);
    assert_true(was_told(KSM " is left alone: it is ??[31m, which is no text"));
    assert_setting(SWAPPINESS, "10");
    assert_int_equal(act(UNDO), 0);
    m = machine();
    assert_int_equal(tune_get(m, KSM, now, sizeof now), 0);
    assert_string_equal(now, "\xff\x1b[31m");
    tune_close(m);
    put(KSM, "1");
    assert_as_it_was();
}

/* What was read of it would not be what it was. */
static void what_is_too_long_or_empty_is_left_alone(void **state)
{
    char text[600];
    struct stat st;
    char file[128];
    (void)state;
    memset(text, '1', sizeof text);
    text[sizeof text - 1] = '\0';
    put(KSM, text);
    put(SWAPPINESS, "");
    assert_int_equal(act(APPLY), -ENODATA);
    assert_true(was_told(SWAPPINESS " cannot be read: No data available"));
    assert_true(was_told(KSM " cannot be read: File too large"));
    snprintf(file, sizeof file, "%s%s", root, KSM);
    assert_int_equal(stat(file, &st), 0);
    assert_int_equal(st.st_size, sizeof text);
    put(KSM, "1");
    put(SWAPPINESS, "60");
    assert_int_equal(act(UNDO), 0);
    assert_as_it_was();
}

static void what_somebody_wrote_is_told_as_text(void **state)
{
    (void)state;
    assert_int_equal(act(APPLY), 0);
    put(SWAPPINESS, "\x1b]0;x\x07");
    assert_int_equal(act(UNDO), -EEXIST);
    assert_true(was_told("and is ?]0;x? now: left alone"));
}

static void what_cannot_be_set_back_stays_in_the_journal(void **state)
{
    (void)state;
    assert_int_equal(act(APPLY), 0);
    refused = KSM;
    assert_int_equal(act(UNDO), -EINVAL);
    assert_true(was_told(KSM " cannot be set back to 1"));
    assert_true(journal_there());
    refused = NULL;
    assert_int_equal(act(UNDO), 0);
    assert_as_it_was();
}

static void what_is_so_already_is_no_change(void **state)
{
    (void)state;
    put(SWAPPINESS, "10");
    put(KSM, "0");
    put(AFFINITY, "0,1,2,3");
    put("/ethtool/eth0/rings", "rx 4096\nrx-max 4096");
    assert_int_equal(act(APPLY), 0);
    assert_int_equal(ntold, 0);
    assert_false(journal_there());
}

static void nothing_is_changed_that_is_not_in_the_journal(void **state)
{
    (void)state;
    fsync_fails = true;
    assert_int_equal(act(APPLY), -EIO);
    fsync_fails = false;
    assert_setting(SWAPPINESS, "60");
    assert_setting(KSM, "1");
}

static void one_at_a_time_has_the_journal(void **state)
{
    struct tune_machine *m = machine();
    struct tune_journal *j;
    struct plx_error err;
    (void)state;
    assert_int_equal(tune_journal_open(m, NULL, remember, NULL, &j, &err), 0);
    assert_int_equal(act(APPLY), -EBUSY);
    assert_setting(SWAPPINESS, "60");
    tune_journal_close(j);
    tune_close(m);
    assert_int_equal(act(APPLY), 0);
}

static void a_journal_of_something_else_is_refused(void **state)
{
    static const char *const bad[] = {"",
                                      "{",
                                      "[]",
                                      "{\"version\": 1}",
                                      "{\"version\": 2, \"entries\": []}",
                                      "{\"version\": 1, \"entries\": [{\"setting\": \"/sys/x\", \"old\": 1}]}"};
    (void)state;
    for (size_t i = 0; i < PLX_ARRAY_SIZE(bad); i++) {
        put("/var/lib/pollux-tune/journal.json", bad[i]);
        assert_int_equal(act(APPLY), -EINVAL);
        assert_int_equal(act(UNDO), -EINVAL);
        assert_setting(SWAPPINESS, "60");
    }
}

/* Else the journal of root would be a way to be root. */
static void a_journal_that_others_can_write_is_refused(void **state)
{
    char folder[128], file[256];
    (void)state;
    snprintf(folder, sizeof folder, "%s/var/lib/pollux-tune", root);
    snprintf(file, sizeof file, "%s/journal.json", folder);
    assert_int_equal(act(APPLY), 0);
    assert_int_equal(chmod(folder, 0777), 0);
    assert_int_equal(act(UNDO), -EINVAL);
    assert_int_equal(chmod(folder, 01777), 0); /* as /tmp: there first with a link, another one names what is written */
    assert_int_equal(act(UNDO), -EINVAL);
    assert_int_equal(chmod(folder, 0755), 0);
    assert_int_equal(chmod(file, 0620), 0);
    assert_int_equal(act(UNDO), -EINVAL);
    assert_int_equal(chmod(file, 0600), 0);
    assert_changed();
    if (geteuid() == 0) {
        assert_int_equal(chown(file, 65534, 65534), 0);
        assert_int_equal(act(UNDO), -EINVAL);
        assert_int_equal(chown(file, 0, 0), 0);
    }
    assert_int_equal(act(UNDO), 0);
    assert_as_it_was();
}

static void a_setting_is_one_of_the_kernels(void **state)
{
    static const char *const bad[] = {"/etc/passwd", "/sys/../etc/passwd", "/proc/1/oom_score_adj",
                                      "swappiness",  "ethtool:eth0/rings", "ethtool:eth0/rings/rx/more"};
    struct tune_machine *m = machine();
    char value[64];
    (void)state;
    for (size_t i = 0; i < PLX_ARRAY_SIZE(bad); i++) {
        assert_int_equal(tune_get(m, bad[i], value, sizeof value), -EINVAL);
        assert_int_equal(__real_tune_set(m, bad[i], "1"), -EINVAL);
    }
    tune_close(m);
}

/* ---- looking ---- */

static void assert_governors(const char *state, const char *found)
{
    char *name = "cpu.governor";
    struct tune_machine *m = machine();
    json_t *findings = tune_look(m, &name, 1);
    const json_t *finding = json_array_get(findings, 0);
    assert_int_equal(json_array_size(findings), 1);
    assert_string_equal(json_string_value(json_object_get(finding, "state")), state);
    assert_string_equal(json_string_value(json_object_get(finding, "found")), found);
    json_decref(findings);
    tune_close(m);
}

static void a_cpu_that_goes_while_we_look_is_not_looked_at(void **state)
{
    (void)state;
    put(GOVERNOR(0), "performance");
    put(GOVERNOR(1), "powersave");
    put(GOVERNOR(2), "schedutil");
    assert_governors("better", "powersave (2 of 3)");
    goes = "policy1";
    assert_governors("better", "schedutil (1 of 2)");
    put(GOVERNOR(2), "performance");
    assert_governors("ok", "performance");
    goes = "policy";
    assert_governors("absent", "there is no " GOVERNOR(0) " here");
}

/* ---- measuring ---- */

struct fake_load {
    struct tune_load load;
    char order[TUNE_ROUNDS * 4 + 1]; /* an A without the change, a B with it */
    unsigned runs, fails_at;
    double gain;
};

static int fake_run(const struct tune_load *load, double *figure)
{
    struct fake_load *l = (struct fake_load *)load; /* its first member */
    struct tune_machine *m = machine();
    char now[64];
    assert_int_equal(tune_get(m, SWAPPINESS, now, sizeof now), 0);
    tune_close(m);
    bool with = strcmp(now, "10") == 0;
    assert_true(with || strcmp(now, "60") == 0);
    l->order[l->runs++] = with ? 'B' : 'A';
    if (l->runs == l->fails_at)
        return -EIO;
    *figure = 1000 * (with ? 1 + l->gain : 1) + l->runs * 7 % 5; /* a little noise */
    return 0;
}

static int measure(struct fake_load *l, json_t *finding)
{
    struct tune_machine *m = machine();
    struct tune_journal *j;
    struct plx_error err;
    l->load = (struct tune_load){"a load", fake_run};
    ntold = calls = 0;
    assert_int_equal(tune_journal_open(m, NULL, remember, NULL, &j, &err), 0);
    int ret = tune_measure(j, finding, &l->load, 3);
    tune_journal_close(j);
    tune_close(m);
    return ret;
}

static void a_change_that_brings_something_is_measured_in_turn(void **state)
{
    struct fake_load l = {.gain = 0.1};
    json_t *finding = changes();
    (void)state;
    assert_int_equal(measure(&l, finding), 0);
    assert_string_equal(l.order, "ABBAABBAABBA");
    assert_as_it_was();
    const json_t *gain = json_object_get(finding, "gain"), *measured = json_object_get(finding, "measured");
    assert_string_equal(json_string_value(json_object_get(gain, "origin")), "measured");
    assert_string_equal(json_string_value(json_object_get(gain, "source")), "a load");
    assert_non_null(strstr(json_string_value(json_object_get(gain, "text")), "+10.0 % (95 %: "));
    assert_true(json_is_true(json_object_get(measured, "difference")));
    double low = json_real_value(json_object_get(measured, "low"));
    double high = json_real_value(json_object_get(measured, "high"));
    assert_true(low > 0.09 && low < 0.1 + 0.001 && high > low && high < 0.11);
    assert_int_equal(json_array_size(json_object_get(measured, "with")), 3);
    json_decref(finding);
}

static void a_change_that_brings_nothing_is_no_difference(void **state)
{
    struct fake_load l = {.gain = 0};
    json_t *finding = changes();
    (void)state;
    assert_int_equal(measure(&l, finding), 0);
    const json_t *gain = json_object_get(finding, "gain"), *measured = json_object_get(finding, "measured");
    assert_non_null(strstr(json_string_value(json_object_get(gain, "text")), "no difference"));
    assert_true(json_is_false(json_object_get(measured, "difference")));
    json_decref(finding);
}

static void a_load_that_fails_leaves_the_machine_as_it_was(void **state)
{
    (void)state;
    for (unsigned at = 1; at <= 12; at++) {
        struct fake_load l = {.gain = 0.1, .fails_at = at};
        json_t *finding = changes();
        assert_int_equal(measure(&l, finding), -EIO);
        assert_as_it_was();
        assert_null(json_object_get(finding, "measured"));
        json_decref(finding);
    }
}

/* Without it would be what there was before --apply, and not what there is. */
static void what_was_applied_before_is_not_measured(void **state)
{
    struct fake_load l = {.gain = 0.1};
    json_t *finding = changes();
    (void)state;
    assert_int_equal(act(APPLY), 0);
    assert_int_equal(measure(&l, finding), -EEXIST);
    assert_true(was_told(SWAPPINESS " was set to 10 by --apply; pollux tune --undo takes that back"));
    assert_int_equal(l.runs, 0);
    assert_changed();
    reboot("60");
    assert_int_equal(measure(&l, finding), 0);
    assert_as_it_was();
    json_decref(finding);
}

static void killed_at_any_step_of_measuring_all_goes_back(void **state)
{
    unsigned at = 1, conflicts = 0;
    (void)state;
    for (int status = 0; at < STOPS_MAX; at += 7) { /* it is the same 200 steps again and again */
        fflush(NULL);
        pid_t child = fork();
        assert_true(child >= 0);
        if (!child) {
            struct fake_load l = {.gain = 0.1};
            kill_at = at;
            _exit(measure(&l, changes()) ? 1 : 0);
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        if (WIFEXITED(status)) {
            assert_int_equal(WEXITSTATUS(status), 0);
            break;
        }
        assert_int_equal(WTERMSIG(status), SIGKILL);
        conflicts += undo_after_kill();
    }
    assert_in_range(at, 200, STOPS_MAX - 1);
    assert_in_range(conflicts, 0, 5);
    assert_as_it_was();
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(what_was_applied_goes_back),
        TEST(applied_twice_it_goes_back_to_what_was_at_first),
        TEST(killed_at_any_step_of_applying_all_goes_back),
        TEST(killed_at_any_step_of_applying_it_can_be_applied_again),
        TEST(killed_at_any_step_of_going_back_the_next_one_ends_it),
        TEST(what_somebody_changed_since_is_left_alone_and_named),
        TEST(a_conflict_can_be_forgotten),
        TEST(a_setting_that_is_gone_is_a_conflict),
        TEST(a_reboot_takes_all_back),
        TEST(what_is_otherwise_after_a_reboot_is_left_alone_and_named),
        TEST(applied_again_after_a_reboot_it_goes_back_to_what_that_boot_had),
        TEST(what_is_refused_leaves_no_trace_and_the_others_are_made),
        TEST(what_stays_as_it_was_is_an_error),
        TEST(what_was_done_in_part_is_ours_too),
        TEST(what_goes_back_in_part_can_go_back_later),
        TEST(what_is_no_text_is_left_alone_and_nothing_else_is_forgotten),
        TEST(what_is_too_long_or_empty_is_left_alone),
        TEST(what_somebody_wrote_is_told_as_text),
        TEST(what_cannot_be_set_back_stays_in_the_journal),
        TEST(what_is_so_already_is_no_change),
        TEST(nothing_is_changed_that_is_not_in_the_journal),
        TEST(one_at_a_time_has_the_journal),
        TEST(a_journal_of_something_else_is_refused),
        TEST(a_journal_that_others_can_write_is_refused),
        TEST(a_setting_is_one_of_the_kernels),
        TEST(a_cpu_that_goes_while_we_look_is_not_looked_at),
        TEST(a_change_that_brings_something_is_measured_in_turn),
        TEST(a_change_that_brings_nothing_is_no_difference),
        TEST(a_load_that_fails_leaves_the_machine_as_it_was),
        TEST(what_was_applied_before_is_not_measured),
        TEST(killed_at_any_step_of_measuring_all_goes_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
