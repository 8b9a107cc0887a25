/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Changes and their way back. Before a setting is written, the journal has its value and the one that it will get, on
 * stable storage; so whatever ends us, the next one finds each setting either as it was, or as it was to be, or changed
 * by somebody else. Only the last is left alone, and told.
 *
 * Nothing of what we set outlives the machine's boot. An entry of an earlier boot is of a setting that the reboot took
 * back; if it is now anything but what it was, that was not us.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "reactor/keep.h"
#include "tune/machine.h"

enum { JOURNAL_SIZE = 1 << 20, VALUE_SIZE = 512, VERSION = 1 };

struct tune_journal {
    struct tune_machine *m;
    char path[PATH_MAX];
    int lock; /* of its folder */
    char boot[64];
    json_t *entries; /* {setting, old, new, boot, check}, in the order of the changes */
    tune_tell_fn tell;
    void *arg;
};

static void change_tell(struct tune_journal *j, bool bad, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void change_tell(struct tune_journal *j, bool bad, const char *fmt, ...)
{
    char line[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    tune_make_printable(line);
    j->tell(j->arg, bad, line);
}

/* ---- the file ---- */

static int save_journal(struct tune_journal *j)
{
    if (json_array_size(j->entries) == 0) {
        int ret = unlink(j->path) < 0 && errno != ENOENT ? -errno : 0;
        if (ret)
            change_tell(j, true, "%s cannot be removed: %s", j->path, strerror(-ret));
        return ret;
    }
    json_t *root = json_pack("{sisO}", "version", VERSION, "entries", j->entries);
    char *text = json_dumps(root, JSON_INDENT(1) | JSON_PRESERVE_ORDER | JSON_ENSURE_ASCII);
    int ret = text && strlen(text) < JOURNAL_SIZE ? plx_keep_write(j->path, text, strlen(text)) : -ENOMEM;
    free(text);
    json_decref(root);
    if (ret)
        change_tell(j, true, "%s cannot be written: %s", j->path, strerror(-ret));
    return ret;
}

static bool is_entry(const json_t *e)
{
    static const char *const members[] = {"setting", "old", "new", "boot", "check"};
    for (unsigned i = 0; i < sizeof members / sizeof members[0]; i++)
        if (!json_is_string(json_object_get(e, members[i])))
            return false;
    return true;
}

static int load_journal(struct tune_journal *j, struct plx_error *err)
{
    static char text[JOURNAL_SIZE];
    json_t *root = NULL, *entries = NULL, *e;
    size_t i;
    long n = plx_keep_read(j->path, text, sizeof text);
    if (n == -ENOENT) {
        j->entries = json_array();
        return j->entries ? 0 : plx_fail(err, -ENOMEM, "no memory");
    }
    if (n < 0)
        return plx_fail(err, (int)n, "%s: %s", j->path, strerror((int)-n));
    root = json_loadb(text, (size_t)n, 0, NULL);
    entries = json_object_get(root, "entries");
    bool good = json_integer_value(json_object_get(root, "version")) == VERSION && json_is_array(entries);
    json_array_foreach(entries, i, e) good &= is_entry(e);
    if (good)
        j->entries = json_incref(entries);
    json_decref(root);
    return good ? 0 : plx_fail(err, -EINVAL, "%s is no journal of this program's", j->path);
}

/* Its folder, with those above it, if they are not there. */
static int make_folder(char *path)
{
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        int ret = mkdir(path, 0755) < 0 && errno != EEXIST ? -errno : 0;
        *slash = '/';
        if (ret)
            return ret;
    }
    return 0;
}

/*
 * What another user can write would have us write what he likes; and in a folder like /tmp he can be there first with a
 * file, or a link, of the name that we would write to.
 */
static bool is_ours(const struct stat *st)
{
    return (st->st_uid == geteuid() || st->st_uid == 0) && !(st->st_mode & (S_IWGRP | S_IWOTH));
}

static int lock_folder(struct tune_journal *j, struct plx_error *err)
{
    char folder[PATH_MAX];
    snprintf(folder, sizeof folder, "%s", j->path);
    char *slash = strrchr(folder, '/');
    snprintf(slash ? slash + 1 : folder, 2, "%s", slash ? "" : ".");
    int ret = make_folder(folder);
    j->lock = ret ? -1 : open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (j->lock < 0)
        return plx_fail(err, ret ? ret : -errno, "%s: %s", folder, strerror(ret ? -ret : errno));
    struct stat st;
    if (fstat(j->lock, &st) < 0 || !is_ours(&st))
        return plx_fail(err, -EINVAL, "%s can be written to by others: name a --state elsewhere", folder);
    if (lstat(j->path, &st) == 0 && (!S_ISREG(st.st_mode) || !is_ours(&st)))
        return plx_fail(err, -EINVAL, "%s is no file of this user's alone", j->path);
    if (flock(j->lock, LOCK_EX | LOCK_NB) < 0)
        return errno == EWOULDBLOCK ? plx_fail(err, -EBUSY, "another pollux tune is changing settings")
                                    : plx_fail(err, -errno, "%s: %s", folder, strerror(errno));
    return 0;
}

int tune_journal_open(struct tune_machine *m, const char *path, tune_tell_fn tell, void *arg, struct tune_journal **out,
                      struct plx_error *err)
{
    struct tune_journal *j = calloc(1, sizeof *j);
    if (!j)
        return plx_fail(err, -ENOMEM, "no memory");
    *j = (struct tune_journal){.m = m, .lock = -1, .tell = tell, .arg = arg};
    int n = path ? snprintf(j->path, sizeof j->path, "%s", path)
                 : snprintf(j->path, sizeof j->path, "%s/var/lib/pollux-tune/journal.json", m->live ? "" : m->root);
    int ret = n < (int)sizeof j->path ? lock_folder(j, err) : plx_fail(err, -ENAMETOOLONG, "the path is too long");
    if (!ret && tune_read(m, j->boot, sizeof j->boot, "/proc/sys/kernel/random/boot_id") <= 0)
        ret = plx_fail(err, -ENOENT, "/proc/sys/kernel/random/boot_id cannot be read");
    if (!ret)
        ret = load_journal(j, err);
    if (ret)
        tune_journal_close(j);
    else
        *out = j;
    return ret;
}

void tune_journal_close(struct tune_journal *j)
{
    if (j->lock >= 0)
        close(j->lock);
    json_decref(j->entries);
    free(j);
}

/* ---- entries ---- */

static const char *entry_text(const json_t *e, const char *name)
{
    return json_string_value(json_object_get(e, name));
}

/* @return its place, or that of none */
static size_t find_entry(const struct tune_journal *j, const char *setting)
{
    size_t i;
    json_t *e;
    json_array_foreach(j->entries, i, e) if (strcmp(entry_text(e, "setting"), setting) == 0) return i;
    return i;
}

static bool of_this_boot(const struct tune_journal *j, const json_t *e)
{
    return strcmp(entry_text(e, "boot"), j->boot) == 0;
}

/* ---- going back ---- */

/*
 * Writes what was there before. What the kernel makes of that is ours: of huge pages it keeps those that are in use,
 * which can be taken back later.
 */
static int set_back(struct tune_journal *j, json_t *e)
{
    char now[VALUE_SIZE];
    const char *setting = entry_text(e, "setting"), *old = entry_text(e, "old");
    int ret = tune_set(j->m, setting, old);
    if (ret) {
        change_tell(j, true, "%s cannot be set back to %s: %s%s", setting, old, strerror(-ret),
                    ret == -EACCES || ret == -EPERM ? "; it takes root" : "");
    } else if (!tune_get(j->m, setting, now, sizeof now) && strcmp(now, old) != 0) {
        change_tell(j, true, "%s: set back to %s, the kernel made it %s; some is in use: try again later", setting, old,
                    now);
        json_object_set_new(e, "new", json_string(now));
        ret = save_journal(j);
        ret = ret ? ret : -EBUSY;
    }
    return ret;
}

/* @return 0 when the entry is done with; -EEXIST for a conflict, or another error, after having told it */
static int take_back_entry(struct tune_journal *j, json_t *e, bool dry_run)
{
    char now[VALUE_SIZE];
    const char *setting = entry_text(e, "setting"), *old = entry_text(e, "old"), *new = entry_text(e, "new");
    bool mine = of_this_boot(j, e);
    int ret = tune_get(j->m, setting, now, sizeof now);
    if (ret) {
        change_tell(j, true, "%s: conflict: it was %s, and cannot be read any more: %s", setting, old, strerror(-ret));
        return -EEXIST;
    }
    if (strcmp(now, old) == 0) {
        change_tell(j, false, "%s: %s, as it was%s", setting, old, mine ? "" : "; the reboot took it back");
        return 0;
    }
    if (!mine) {
        change_tell(j, true, "%s: conflict: it was %s before the reboot, and is %s now, not by us: left alone", setting,
                    old, now);
        return -EEXIST;
    }
    if (strcmp(now, new) != 0) {
        change_tell(j, true, "%s: conflict: it was %s, was set to %s by us, and is %s now: left alone", setting, old,
                    new, now);
        return -EEXIST;
    }
    ret = dry_run ? 0 : set_back(j, e);
    if (!ret)
        change_tell(j, false, "%s: %s -> %s", setting, new, old);
    return ret;
}

/* One entry, and its end in the journal. */
static int undo_entry(struct tune_journal *j, size_t at, bool forget, bool dry_run)
{
    int ret = take_back_entry(j, json_array_get(j->entries, at), dry_run);
    if (dry_run || (ret && !(forget && ret == -EEXIST)))
        return ret;
    json_array_remove(j->entries, at);
    int saved = save_journal(j);
    return ret ? ret : saved;
}

/* ---- changing ---- */

/*
 * The kernel may have made another value of what it was given, which is then ours: also where it says that it could not
 * do all of it.
 */
static int write_and_look(struct tune_journal *j, json_t *e)
{
    char now[VALUE_SIZE];
    const char *setting = entry_text(e, "setting"), *old = entry_text(e, "old"), *new = entry_text(e, "new");
    int ret = tune_set(j->m, setting, new);
    int got = tune_get(j->m, setting, now, sizeof now);
    if (ret) {
        change_tell(j, true, "%s cannot be set to %s: %s%s", setting, new, strerror(-ret),
                    ret == -EACCES || ret == -EPERM ? "; it takes root" : "");
    } else if (got) {
        ret = got;
        change_tell(j, true, "%s was set to %s, and cannot be read any more: %s", setting, new, strerror(-got));
    } else if (strcmp(now, old) == 0) {
        ret = -EIO;
        change_tell(j, true, "%s cannot be set to %s: the kernel took that, and left it at %s", setting, new, old);
    }
    if (got || strcmp(now, old) == 0 || strcmp(now, new) == 0)
        return ret;
    change_tell(j, false, "%s: asked for %s, the kernel made it %s", setting, new, now);
    json_object_set_new(e, "new", json_string(now));
    int saved = save_journal(j);
    return ret ? ret : saved;
}

/* Puts an entry into the journal, in place of one of another boot, and makes the change. */
static int make_change(struct tune_journal *j, const char *check, const char *setting, const char *old, const char *new)
{
    size_t at = find_entry(j, setting);
    json_t *e = json_pack("{ssssssssss}", "setting", setting, "old", old, "new", new, "boot", j->boot, "check", check);
    if (!e) { /* no UTF-8: a journal could not say what it goes back to */
        change_tell(j, true, "%s is left alone: it is %s, which is no text", setting, old);
        return -EILSEQ;
    }
    json_array_remove(j->entries, at);
    json_array_append_new(j->entries, e);
    int ret = save_journal(j);
    if (!ret)
        ret = write_and_look(j, e);
    if (!ret) {
        change_tell(j, false, "%s: %s -> %s", setting, old, entry_text(e, "new"));
        return 0;
    }
    char now[VALUE_SIZE];
    if (!tune_get(j->m, setting, now, sizeof now) && strcmp(now, old) == 0) {
        json_array_remove(j->entries, json_array_size(j->entries) - 1);
        save_journal(j);
    }
    return ret;
}

static int change_one(struct tune_journal *j, const char *check, const char *setting, const char *new)
{
    char now[VALUE_SIZE];
    const json_t *e = json_array_get(j->entries, find_entry(j, setting));
    int ret = tune_get(j->m, setting, now, sizeof now);
    if (ret) {
        change_tell(j, true, "%s cannot be read: %s", setting, strerror(-ret));
        return ret;
    }
    if (strcmp(now, new) == 0)
        return 0;
    if (!e || !of_this_boot(j, e))
        return make_change(j, check, setting, now, new);
    /* What it was at first is what it goes back to: from another value of ours by way of that. */
    if (strcmp(now, entry_text(e, "new")) == 0 || strcmp(now, entry_text(e, "old")) == 0) {
        snprintf(now, sizeof now, "%s", entry_text(e, "old"));
        ret = undo_entry(j, find_entry(j, setting), false, false);
        return ret ? ret : make_change(j, check, setting, now, new);
    }
    change_tell(j, true, "%s: conflict: it was %s, was set to %s by us, and is %s now: left alone", setting,
                entry_text(e, "old"), entry_text(e, "new"), now);
    return -EEXIST;
}

int tune_apply(struct tune_journal *j, const json_t *finding)
{
    size_t i;
    json_t *change;
    int first = 0;
    json_array_foreach(json_object_get(finding, "changes"), i, change)
    {
        int ret = change_one(j, json_string_value(json_object_get(finding, "check")), entry_text(change, "setting"),
                             entry_text(change, "value"));
        first = first ? first : ret;
    }
    return first;
}

int tune_undo(struct tune_journal *j, bool forget, bool dry_run)
{
    int first = 0;
    for (size_t at = json_array_size(j->entries); at--;) {
        int ret = undo_entry(j, at, forget, dry_run);
        first = first ? first : ret;
    }
    return first;
}

int tune_take_back(struct tune_journal *j, const json_t *finding)
{
    const json_t *changes = json_object_get(finding, "changes");
    int first = 0;
    for (size_t i = json_array_size(changes); i--;) {
        size_t at = find_entry(j, entry_text(json_array_get(changes, i), "setting"));
        int ret = at < json_array_size(j->entries) ? undo_entry(j, at, false, false) : 0;
        first = first ? first : ret;
    }
    return first;
}

int tune_is_free(struct tune_journal *j, const json_t *finding)
{
    size_t i;
    json_t *change;
    json_array_foreach(json_object_get(finding, "changes"), i, change)
    {
        const char *setting = entry_text(change, "setting");
        const json_t *e = json_array_get(j->entries, find_entry(j, setting));
        if (!e || !of_this_boot(j, e))
            continue;
        change_tell(j, true,
                    "%s was set to %s by --apply; pollux tune --undo takes that back, so that it can be measured",
                    setting, entry_text(e, "new"));
        return -EEXIST;
    }
    return 0;
}
