/* SPDX-License-Identifier: BSD-3-Clause */
#include "compare/kernel_notes.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "base/util.h"
#include "reactor/keep.h"

#define RUN_DIR "/run/pollux-compare"
#define NVMET CONFIGFS "/nvmet"
#define MOUNT_SOURCE "pollux-compare" /* of a configfs that we have mounted */

enum { GONE_MS = 10000, STEP_MS = 10, NOTES = 8192, INODE = 24, LINE = 1024 };

/* ---- files ---- */

int kernel_put(const char *dir, const char *name, const char *fmt, ...)
{
    char path[320], value[320];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(value, sizeof value, fmt, ap);
    va_end(ap);
    snprintf(path, sizeof path, "%s/%s", dir, name);
    int fd = open(path, O_WRONLY | O_CLOEXEC), ret = 0;
    if (fd < 0)
        return -errno;
    if (write(fd, value, (size_t)n) < 0)
        ret = -errno;
    close(fd);
    return ret;
}

int kernel_get(const char *dir, const char *name, char *out, size_t size)
{
    char path[320];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    out[0] = '\0';
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    ssize_t n = read(fd, out, size - 1);
    int ret = n < 0 ? -errno : 0;
    close(fd);
    out[n < 0 ? 0 : n] = '\0';
    out[strcspn(out, "\n")] = '\0';
    return ret ? ret : (int)strlen(out);
}

int kernel_run(const char *const *words)
{
    char path[64];
    pid_t pid;
    int status;
    posix_spawn_file_actions_t files;
    snprintf(path, sizeof path, "/sbin/%s", words[0]);
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addopen(&files, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    int ret = posix_spawn(&pid, path, &files, NULL, (char *const *)(uintptr_t)words, environ);
    posix_spawn_file_actions_destroy(&files);
    if (ret)
        return -1;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* ---- notes ---- */

static void notes_write(struct compare_kernel *k)
{
    char path[160];
    if (!k->dir[0])
        return;
    char *text = json_dumps(k->notes, JSON_COMPACT);
    snprintf(path, sizeof path, "%s/state.json", k->dir);
    if (text)
        plx_keep_write(path, text, strlen(text));
    free(text);
}

void kernel_note(struct compare_kernel *k, const char *what, const char *value)
{
    if (value)
        json_object_set_new(k->notes, what, json_string(value));
    else
        json_object_del(k->notes, what);
    notes_write(k);
}

/* @return false if there is no such thing */
static bool inode_text(const char *path, char out[INODE])
{
    struct stat st;
    out[0] = '\0';
    if (stat(path, &st) < 0)
        return false;
    snprintf(out, INODE, "%llu", (unsigned long long)st.st_ino);
    return true;
}

void kernel_note_inode(struct compare_kernel *k, const char *what, const char *path)
{
    char inode[INODE];
    if (inode_text(path, inode))
        kernel_note(k, what, inode);
}

void kernel_note_module(struct compare_kernel *k, const char *name)
{
    json_t *modules = json_object_get(k->notes, "modules");
    for (size_t i = 0; i < json_array_size(modules); i++)
        if (strcmp(json_string_value(json_array_get(modules, i)), name) == 0)
            return;
    json_array_append_new(modules, json_string(name));
    notes_write(k);
}

void kernel_mount_configfs(struct compare_kernel *k)
{
    kernel_note(k, "configfs", CONFIGFS);
    if (mount(MOUNT_SOURCE, CONFIGFS, "configfs", 0, NULL) < 0)
        kernel_note(k, "configfs", NULL);
}

/* ---- taking down ---- */

static const char *noted(const json_t *notes, const char *what)
{
    return json_string_value(json_object_get(notes, what));
}

/* @return how many controllers there are of that host; each is told to go */
static int delete_controllers(const char *id, bool tell)
{
    char dir[320], found[64];
    int n = 0;
    DIR *all = opendir("/sys/class/nvme");
    for (const struct dirent *e; all && (e = readdir(all));) {
        snprintf(dir, sizeof dir, "/sys/class/nvme/%s", e->d_name);
        if (e->d_name[0] == '.' || kernel_get(dir, "hostid", found, sizeof found) < 0 || strcmp(found, id))
            continue;
        n++;
        if (tell)
            kernel_put(dir, "delete_controller", "1");
    }
    if (all)
        closedir(all);
    return n;
}

int kernel_undo_host(const char *id)
{
    int left = delete_controllers(id, true);
    for (int i = 0; left && i < GONE_MS / STEP_MS; i++) {
        poll(NULL, 0, STEP_MS);
        left = delete_controllers(id, false);
    }
    return left ? -EBUSY : 0;
}

/* That it is not there is well. */
static int remove_dir(const char *path)
{
    return rmdir(path) < 0 && errno != ENOENT ? -errno : 0;
}

/* @return whether there is something else than what is named so; "" for anything */
static bool has_others(const char *path, const char *own)
{
    bool others = false;
    DIR *dir = opendir(path);
    for (const struct dirent *e; dir && !others && (e = readdir(dir));)
        others = e->d_name[0] != '.' && strcmp(e->d_name, own) != 0;
    if (dir)
        closedir(dir);
    return others;
}

/* Our subsystem from all ports, whoever has put it there: it could not go otherwise. @return 0, or the first error */
static int unlink_subsystem(const char *nqn)
{
    char path[512];
    int first = 0;
    DIR *dir = opendir(NVMET "/ports");
    for (const struct dirent *e; dir && (e = readdir(dir));) {
        snprintf(path, sizeof path, NVMET "/ports/%.32s/subsystems/%.80s", e->d_name, nqn);
        if (e->d_name[0] != '.' && unlink(path) < 0 && errno != ENOENT && !first)
            first = -errno;
    }
    if (dir)
        closedir(dir);
    return first;
}

/*
 * A port of nvmet is a number. It is ours if it is the one that we made, or, killed before that was noted, if nobody
 * has set it up; and it stays if others have put their subsystems on it.
 */
static int undo_port(const char *port, const char *inode)
{
    char path[320], is[INODE], addr[64];
    if (!inode_text(port, is))
        return 0;
    bool ours = inode ? strcmp(inode, is) == 0 : kernel_get(port, "addr_traddr", addr, sizeof addr) == 0;
    snprintf(path, sizeof path, "%s/subsystems", port);
    return !ours || has_others(path, "") ? 0 : remove_dir(port);
}

static int undo_subsystem(const char *subsystem)
{
    char ns[256];
    snprintf(ns, sizeof ns, "%s/namespaces/1", subsystem);
    kernel_put(ns, "enable", "0");
    int ret = remove_dir(ns);
    return ret ? ret : remove_dir(subsystem);
}

static int undo_nullb(const char *nullb)
{
    kernel_put(nullb, "power", "0");
    return remove_dir(nullb);
}

/* Ours, on top of what else is mounted there. */
static bool is_our_mount(void)
{
    static const char end[] = " - configfs " MOUNT_SOURCE " ";
    char line[LINE], where[LINE];
    bool ours = false;
    FILE *f = fopen("/proc/self/mountinfo", "re");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "%*s %*s %*s %*s %1023s", where) == 1 && strcmp(where, CONFIGFS) == 0)
            ours = strstr(line, end) != NULL;
    if (f)
        fclose(f);
    return ours;
}

/* Who has set something up below it by now still needs it. */
static void undo_configfs(void)
{
    static const char *const dirs[] = {NVMET "/subsystems", NVMET "/ports", NVMET "/hosts"};
    bool used = has_others(CONFIGFS "/nullb", "features");
    for (size_t i = 0; i < PLX_ARRAY_SIZE(dirs); i++)
        used |= has_others(dirs[i], "");
    if (!used && is_our_mount())
        umount2(CONFIGFS, 0);
}

/* The kernel's host lets go of its connections when its module goes, and does not mind whose they are. */
static bool has_connections(void)
{
    char dir[320], transport[32];
    bool any = false;
    DIR *all = opendir("/sys/class/nvme");
    for (const struct dirent *e; all && !any && (e = readdir(all));) {
        snprintf(dir, sizeof dir, "/sys/class/nvme/%s", e->d_name);
        any = e->d_name[0] != '.' && kernel_get(dir, "transport", transport, sizeof transport) > 0 &&
              strcmp(transport, "tcp") == 0;
    }
    if (all)
        closedir(all);
    return any;
}

/* A disk of brd holds data without being open. Killed before it was noted, ours is the one of that size. */
static bool is_our_brd(const json_t *notes)
{
    char is[INODE], size[32], number[32];
    const char *inode = noted(notes, "brd_inode"), *kib = noted(notes, "brd");
    if (inode)
        return inode_text("/sys/module/brd", is) && strcmp(inode, is) == 0;
    return kib && kernel_get("/sys/module/brd/parameters", "rd_size", size, sizeof size) > 0 &&
           kernel_get("/sys/module/brd/parameters", "rd_nr", number, sizeof number) > 0 && strcmp(size, kib) == 0 &&
           strcmp(number, "1") == 0;
}

/* Those that somebody uses by now stay, which is not for us to say. */
static void undo_modules(const json_t *notes)
{
    const json_t *modules = json_object_get(notes, "modules");
    for (size_t i = json_array_size(modules); i-- > 0;) {
        const char *name = json_string_value(json_array_get(modules, i));
        bool stays = !name || (strcmp(name, "nvme_tcp") == 0 && has_connections()) ||
                     (strcmp(name, "brd") == 0 && !is_our_brd(notes));
        if (!stays)
            syscall(SYS_delete_module, name, O_NONBLOCK);
    }
}

/* What is gone is gone already: all of it can be done again. @return 0, or the first error */
static int undo_notes(const json_t *notes, const char *id)
{
    const char *port = noted(notes, "port"), *subsystem = noted(notes, "subsystem"), *nullb = noted(notes, "nullb");
    char nqn[80];
    int first = noted(notes, "host") ? kernel_undo_host(id) : 0, ret;
    snprintf(nqn, sizeof nqn, "nqn.2014-08.org.nvmexpress:uuid:%s", id);
    if (subsystem && (ret = unlink_subsystem(nqn)))
        first = first ? first : ret;
    if (port && (ret = undo_port(port, noted(notes, "port_inode"))))
        first = first ? first : ret;
    if (subsystem && (ret = undo_subsystem(subsystem)))
        first = first ? first : ret;
    if (nullb && (ret = undo_nullb(nullb)))
        first = first ? first : ret;
    if (noted(notes, "configfs"))
        undo_configfs();
    undo_modules(notes);
    return first;
}

static void remove_notes(const char *dir)
{
    static const char *const names[] = {"state.json", "state.json.new", "lock"};
    char path[320];
    for (size_t i = 0; i < PLX_ARRAY_SIZE(names); i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        unlink(path);
    }
    rmdir(dir);
    rmdir(RUN_DIR); /* if it was the last */
}

/* ---- a run ---- */

static int lock_dir(const char *dir, bool make)
{
    char path[320];
    snprintf(path, sizeof path, "%s/lock", dir);
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | (make ? O_CREAT : 0), 0600);
    if (fd < 0)
        return -errno;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0)
        return fd;
    int ret = -errno;
    close(fd);
    return ret;
}

/*
 * All folders are made and cleared by who has the lock on the one that they are in; that one goes with the last of
 * them, and then it is made anew.
 */
static int lock_all(bool make)
{
    for (;;) {
        struct stat ours, there;
        if (make && mkdir(RUN_DIR, 0700) < 0 && errno != EEXIST)
            return -errno;
        int fd = open(RUN_DIR, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0 && !(make && errno == ENOENT))
            return -errno;
        if (fd >= 0 && flock(fd, LOCK_EX) == 0 && fstat(fd, &ours) == 0 && stat(RUN_DIR, &there) == 0 &&
            ours.st_ino == there.st_ino)
            return fd;
        if (fd >= 0)
            close(fd);
    }
}

static int make_dir(struct compare_kernel *k)
{
    snprintf(k->dir, sizeof k->dir, "%s/%s", RUN_DIR, k->id);
    int all = lock_all(true), ret = 0;
    if (all < 0)
        return all;
    if (mkdir(k->dir, 0700) < 0)
        ret = -errno;
    else if ((k->lock = lock_dir(k->dir, true)) < 0)
        ret = k->lock;
    close(all);
    return ret;
}

int compare_kernel_open(struct compare_kernel **out, struct plx_error *err)
{
    uint8_t uuid[16];
    struct compare_kernel *k = calloc(1, sizeof *k);
    int ret = k ? plx_uuid_random(uuid) : -ENOMEM;
    if (ret) {
        free(k);
        return plx_fail(err, -ENOMEM, "out of memory");
    }
    plx_uuid_format(uuid, k->id);
    k->lock = -1;
    k->notes = json_pack("{s[]}", "modules");
    if (geteuid() == 0 && (ret = make_dir(k))) {
        snprintf(k->problem, sizeof k->problem, "%s cannot be made: %s", RUN_DIR, strerror(-ret));
        k->dir[0] = '\0';
    }
    *out = k;
    return 0;
}

int compare_kernel_close(struct compare_kernel *k, struct plx_error *err)
{
    int ret = undo_notes(k->notes, k->id), all = k->dir[0] ? lock_all(true) : -1;
    if (ret)
        plx_fail(err, ret, "not all that was set up could be taken down: %s; pollux compare --clean tries again",
                 strerror(-ret));
    else if (k->dir[0])
        remove_notes(k->dir);
    if (k->lock >= 0)
        close(k->lock);
    if (all >= 0)
        close(all);
    json_decref(k->notes);
    free(k);
    return ret;
}

/* @return 1 when it was taken down, 0 when its run lives, or a negative errno value */
static int clean_one(const char *id, void (*say)(const char *text))
{
    char dir[128], path[160], text[NOTES], line[256];
    uint8_t uuid[16];
    if (!plx_uuid_parse(id, uuid))
        return 0;
    snprintf(dir, sizeof dir, "%s/%s", RUN_DIR, id);
    int lock = lock_dir(dir, false);
    if (lock == -EWOULDBLOCK)
        return 0;
    snprintf(path, sizeof path, "%s/state.json", dir);
    long n = plx_keep_read(path, text, sizeof text);
    json_t *notes = n > 0 ? json_loadb(text, (size_t)n, 0, NULL) : json_object();
    int ret = undo_notes(notes, id);
    json_decref(notes);
    snprintf(line, sizeof line, ret ? "what run %s left could not all be taken down: %s" : "took down what run %s left",
             id, strerror(-ret));
    say(line);
    if (!ret)
        remove_notes(dir);
    if (lock >= 0)
        close(lock);
    return ret ? ret : 1;
}

int compare_clean(void (*say)(const char *text))
{
    int cleaned = 0, first = 0, lock = lock_all(false);
    if (lock < 0)
        return lock == -ENOENT || lock == -EACCES ? 0 : lock;
    DIR *all = opendir(RUN_DIR);
    for (const struct dirent *e; all && (e = readdir(all));) {
        int ret = e->d_name[0] == '.' ? 0 : clean_one(e->d_name, say);
        if (ret > 0)
            cleaned++;
        else if (ret && !first)
            first = ret;
    }
    if (all)
        closedir(all);
    close(lock);
    return first ? first : cleaned;
}
