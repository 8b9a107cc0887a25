/* SPDX-License-Identifier: BSD-3-Clause */
#include "tune/machine.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "reactor/keep.h"

enum { CORES = 4096 }; /* that plx_parse_cores() knows of */

/* Links that the kernel's file systems have are relative: they stay in a tree. */
static int machine_open(struct tune_machine *m, const char *path, int flags)
{
    int fd = openat(m->fd, path + 1, flags | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static int machine_path(char out[PATH_MAX], const char *fmt, va_list ap)
{
    return vsnprintf(out, PATH_MAX, fmt, ap) < PATH_MAX ? 0 : -ENAMETOOLONG;
}

bool tune_is_gone(long ret)
{
    return ret == -ENOENT || ret == -ENOTDIR || ret == -ENODEV || ret == -ENXIO;
}

/* O_NONBLOCK: what was copied may be anything, and nobody may ever write to it. */
static long machine_read(struct tune_machine *m, const char *path, char *out, size_t size, bool whole)
{
    size_t have = 0;
    out[0] = '\0';
    int fd = machine_open(m, path, O_RDONLY | O_NONBLOCK);
    if (fd < 0)
        return fd;
    for (ssize_t n = 1; n > 0 && have + 1 < size; have += (size_t)n) {
        n = read(fd, out + have, size - have - 1);
        if (n < 0) {
            int ret = -errno;
            close(fd);
            out[0] = '\0';
            return ret;
        }
    }
    close(fd);
    bool cut = whole && have + 1 == size;
    while (have && isspace((unsigned char)out[have - 1]))
        have--;
    have = cut ? 0 : have;
    out[have] = '\0';
    return cut ? -EFBIG : have ? (long)have : -ENODATA;
}

long tune_read(struct tune_machine *m, char *out, size_t size, const char *fmt, ...)
{
    char path[PATH_MAX];
    va_list ap;
    va_start(ap, fmt);
    int ret = machine_path(path, fmt, ap);
    va_end(ap);
    return ret ? ret : machine_read(m, path, out, size, false);
}

int tune_number(struct tune_machine *m, int64_t *out, const char *fmt, ...)
{
    char path[PATH_MAX], text[64], *end;
    va_list ap;
    va_start(ap, fmt);
    int ret = machine_path(path, fmt, ap);
    va_end(ap);
    long n = ret ? ret : machine_read(m, path, text, sizeof text, true);
    if (n < 0)
        return (int)n;
    errno = 0;
    *out = strtoll(text, &end, 10);
    return end == text || *end || errno ? -EINVAL : 0;
}

bool tune_exists(struct tune_machine *m, const char *fmt, ...)
{
    char path[PATH_MAX];
    va_list ap;
    va_start(ap, fmt);
    int ret = machine_path(path, fmt, ap);
    va_end(ap);
    int fd = ret ? ret : machine_open(m, path, O_PATH);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

static int by_number(const void *a, const void *b)
{
    return strverscmp(a, b);
}

int tune_names(struct tune_machine *m, const char *prefix, struct tune_names *out, const char *fmt, ...)
{
    char path[PATH_MAX];
    va_list ap;
    va_start(ap, fmt);
    int ret = machine_path(path, fmt, ap);
    va_end(ap);
    out->n = 0;
    int fd = ret ? ret : machine_open(m, path, O_RDONLY | O_DIRECTORY);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir)
        return fd < 0 ? fd : -ENOMEM;
    errno = 0;
    for (struct dirent *d; !ret && (d = readdir(dir)); errno = 0) {
        if (d->d_name[0] == '.' || strncmp(d->d_name, prefix, strlen(prefix)) != 0)
            continue;
        if (out->n == TUNE_NAMES || strlen(d->d_name) >= TUNE_NAME)
            ret = -E2BIG;
        else
            snprintf(out->v[out->n++], TUNE_NAME, "%s", d->d_name);
    }
    ret = ret ? ret : -errno;
    closedir(dir);
    qsort(out->v, out->n, sizeof out->v[0], by_number);
    return ret;
}

/* The kernel takes its words in one write, all or nothing; so does a file of a tree. */
int tune_write(struct tune_machine *m, const char *path, const char *text)
{
    char file[PATH_MAX];
    if (!m->live) {
        int len = snprintf(file, sizeof file, "%s%s", m->root, path);
        return len < PATH_MAX ? plx_keep_write(file, text, strlen(text)) : -ENAMETOOLONG;
    }
    int fd = machine_open(m, path, O_WRONLY);
    if (fd < 0)
        return fd;
    ssize_t n = write(fd, text, strlen(text));
    int ret = n < 0 ? -errno : (size_t)n < strlen(text) ? -EIO : 0;
    if (close(fd) < 0 && !ret)
        ret = -errno;
    return ret;
}

/* ---- settings ---- */

/* "ethtool:IF/GROUP/KEY" */
struct ethtool_name {
    char nic[TUNE_NAME], group[16], key[TUNE_NAME];
};

static bool parse_ethtool(const char *setting, struct ethtool_name *out)
{
    int end = 0;
    return sscanf(setting, "ethtool:%63[^/]/%15[^/]/%63[^/]%n", out->nic, out->group, out->key, &end) == 3 &&
           !setting[end];
}

static int check_setting(const char *setting)
{
    bool known = strncmp(setting, "/sys/", 5) == 0 || strncmp(setting, "/proc/sys/", 10) == 0 ||
                 strncmp(setting, "/proc/irq/", 10) == 0;
    return known && !strstr(setting, "/..") ? 0 : -EINVAL;
}

int tune_get(struct tune_machine *m, const char *setting, char *value, size_t size)
{
    struct ethtool_name e;
    value[0] = '\0';
    if (parse_ethtool(setting, &e))
        return tune_ethtool_get(m, e.nic, e.group, e.key, value, size);
    int ret = check_setting(setting);
    long n = ret ? ret : machine_read(m, setting, value, size, true);
    if (n < 0)
        return (int)n;
    char *open = strchr(value, '['), *end = open ? strchr(open, ']') : NULL;
    if (end) {
        *end = '\0';
        memmove(value, open + 1, strlen(open + 1) + 1);
    }
    return 0;
}

int tune_set(struct tune_machine *m, const char *setting, const char *value)
{
    struct ethtool_name e;
    if (parse_ethtool(setting, &e))
        return tune_ethtool_set(m, e.nic, e.group, e.key, value);
    int ret = check_setting(setting);
    return ret ? ret : tune_write(m, setting, value);
}

/* ---- texts ---- */

void tune_make_printable(char *text)
{
    for (size_t n, at = 0; text[at]; at += n) {
        n = plx_text_printable(text + at);
        if (!n)
            text[at] = text[at] == '\t' || text[at] == '\n' ? ' ' : '?';
        n += !n;
    }
}

bool tune_line(const char *text, const char *name, char *out, size_t size)
{
    size_t len = strlen(name);
    for (const char *line = text, *end; line; line = end ? end + 1 : NULL) {
        end = strchr(line, '\n');
        if (strncmp(line, name, len) != 0)
            continue;
        const char *colon = line + len + strspn(line + len, " \t");
        if (*colon != ':')
            continue;
        colon += 1 + strspn(colon + 1, " \t");
        snprintf(out, size, "%.*s", (int)strcspn(colon, "\n"), colon);
        return true;
    }
    return false;
}

bool tune_has_word(const char *text, const char *word)
{
    size_t len = strlen(word);
    for (const char *at = text; (at = strstr(at, word)); at += len)
        if ((at == text || isspace((unsigned char)at[-1])) && (!at[len] || isspace((unsigned char)at[len])))
            return true;
    return false;
}

int tune_cores(const char *text, int out[TUNE_CPUS])
{
    int all[CORES], n = text[0] ? plx_parse_cores(text, all, CORES, NULL) : 0, kept = 0;
    while (kept < n && kept < TUNE_CPUS && all[kept] < TUNE_CPUS) { /* they ascend */
        out[kept] = all[kept];
        kept++;
    }
    return n < 0 ? n : kept;
}

int tune_common(int *cores, int n, const int *others, int nothers)
{
    int kept = 0;
    for (int i = 0, k = 0; i < n; i++) {
        while (k < nothers && others[k] < cores[i])
            k++;
        if (k < nothers && others[k] == cores[i])
            cores[kept++] = cores[i];
    }
    return kept;
}

void tune_list(const int *cores, int n, char *out, size_t size)
{
    size_t at = 0;
    out[0] = '\0';
    for (int i = 0, last; i < n && at < size; i = last + 1) {
        for (last = i; last + 1 < n && cores[last + 1] == cores[last] + 1;)
            last++;
        at += (size_t)snprintf(out + at, size - at, last > i ? "%s%d-%d" : "%s%d", i ? "," : "", cores[i], cores[last]);
    }
}

bool tune_is_reactor(const struct tune_machine *m, int cpu)
{
    for (int i = 0; i < m->nreactors; i++)
        if (m->reactors[i] == cpu)
            return true;
    return false;
}

/* ---- what there is ---- */

int tune_nics(struct tune_machine *m, struct tune_names *out)
{
    struct tune_names all;
    int64_t type;
    int ret = tune_names(m, "", &all, "/sys/class/net");
    out->n = 0;
    for (unsigned i = 0; !ret && i < all.n; i++) {
        if (!tune_exists(m, "/sys/class/net/%s/device", all.v[i]))
            continue;
        int got = tune_number(m, &type, "/sys/class/net/%s/type", all.v[i]);
        if (!got && type == 1)
            memcpy(out->v[out->n++], all.v[i], TUNE_NAME);
        ret = tune_is_gone(got) ? 0 : got;
    }
    return ret;
}

int tune_ssds(struct tune_machine *m, struct tune_names *out)
{
    struct tune_names all;
    int64_t turns;
    int ret = tune_names(m, "", &all, "/sys/block");
    out->n = 0;
    for (unsigned i = 0; !ret && i < all.n; i++) {
        if (!tune_exists(m, "/sys/block/%s/device", all.v[i]))
            continue;
        int got = tune_number(m, &turns, "/sys/block/%s/queue/rotational", all.v[i]);
        if (!got && !turns)
            memcpy(out->v[out->n++], all.v[i], TUNE_NAME);
        ret = tune_is_gone(got) ? 0 : got;
    }
    return ret;
}

int tune_is_arm(struct tune_machine *m)
{
    char info[8192], part[64];
    long ret = tune_read(m, info, sizeof info, "/proc/cpuinfo");
    return ret < 0 ? (int)ret : tune_line(info, "CPU implementer", part, sizeof part);
}

int tune_is_virtual(struct tune_machine *m)
{
    static const char *const vendors[] = {"QEMU",         "Amazon EC2", "Google", "Microsoft Corporation",
                                          "VMware, Inc.", "Xen"};
    char info[8192], flags[4096], vendor[64], product[64];
    if (tune_read(m, info, sizeof info, "/proc/cpuinfo") > 0 && tune_line(info, "flags", flags, sizeof flags))
        return tune_has_word(flags, "hypervisor");
    long ret = tune_read(m, vendor, sizeof vendor, "/sys/class/dmi/id/sys_vendor");
    if (ret < 0)
        return (int)ret;
    tune_read(m, product, sizeof product, "/sys/class/dmi/id/product_name");
    for (unsigned i = 0; i < sizeof vendors / sizeof vendors[0]; i++)
        if (strcmp(vendor, vendors[i]) == 0)
            return !strstr(product, ".metal");
    return 0;
}

/* ---- where reactors run: threads of pollux that are held to one core; its helpers' names tell what they do ---- */

static void add_reactor(struct tune_machine *m, int cpu)
{
    int at = m->nreactors;
    if (cpu >= TUNE_CPUS || tune_is_reactor(m, cpu) || at == TUNE_CPUS)
        return;
    for (; at && m->reactors[at - 1] > cpu; at--)
        m->reactors[at] = m->reactors[at - 1];
    m->reactors[at] = cpu;
    m->nreactors++;
}

static void find_threads(struct tune_machine *m, const char *process)
{
    static struct tune_names tasks;
    char status[4096], allowed[256], name[32];
    int cores[TUNE_CPUS];
    tune_names(m, "", &tasks, "/proc/%s/task", process);
    for (unsigned i = 0; i < tasks.n; i++)
        if (tune_read(m, status, sizeof status, "/proc/%s/task/%s/status", process, tasks.v[i]) > 0 &&
            tune_line(status, "Cpus_allowed_list", allowed, sizeof allowed) && tune_cores(allowed, cores) == 1 &&
            !(tune_line(status, "Name", name, sizeof name) && strncmp(name, "pollux-", 7) == 0))
            add_reactor(m, cores[0]);
}

unsigned tune_processes(struct tune_machine *m, const char *name, void (*fn)(struct tune_machine *m, const char *pid))
{
    char path[32], comm[32];
    unsigned seen = 0;
    int fd = machine_open(m, "/proc", O_RDONLY | O_DIRECTORY);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    for (struct dirent *d; dir && (d = readdir(dir));) {
        if (!isdigit((unsigned char)d->d_name[0]) || strtol(d->d_name, NULL, 10) == getpid())
            continue;
        snprintf(path, sizeof path, "/proc/%.12s/comm", d->d_name);
        if (machine_read(m, path, comm, sizeof comm, false) <= 0)
            continue;
        seen++;
        if (strcmp(comm, name) == 0)
            fn(m, d->d_name);
    }
    if (dir)
        closedir(dir);
    return seen;
}

int tune_open(const char *root, const int *cores, int ncores, struct tune_machine **out, struct plx_error *err)
{
    struct tune_machine *m = calloc(1, sizeof *m);
    if (!m)
        return plx_fail(err, -ENOMEM, "no memory");
    m->root = root;
    m->live = strcmp(root, "/") == 0;
    m->fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (m->fd < 0) {
        int ret = plx_fail(err, -errno, "%s: %s", root, strerror(errno));
        free(m);
        return ret;
    }
    for (int i = 0; i < ncores; i++)
        add_reactor(m, cores[i]);
    if (!ncores)
        tune_processes(m, "pollux", find_threads);
    *out = m;
    return 0;
}

void tune_close(struct tune_machine *m)
{
    close(m->fd);
    free(m);
}
