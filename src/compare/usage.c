/* SPDX-License-Identifier: BSD-3-Clause */
#include "compare/usage.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "reactor/clock.h"

enum { KTHREADD = 2, LINE = 1024 };

/* What follows the name in /proc/PID/stat: the name may hold anything. @return false if there is no such process */
static bool usage_stat(const char *pid, char line[LINE], const char **after)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%.20s/stat", pid);
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    size_t n = fread(line, 1, LINE - 1, f);
    fclose(f);
    line[n] = '\0';
    *after = strrchr(line, ')');
    return *after != NULL;
}

static int usage_process(int pid, struct compare_usage *out)
{
    char text[16], line[LINE];
    const char *after;
    unsigned long user, system;
    double hz = (double)sysconf(_SC_CLK_TCK);
    snprintf(text, sizeof text, "%d", pid);
    if (!usage_stat(text, line, &after) ||
        sscanf(after + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) != 2)
        return -ESRCH;
    out->user = (double)user / hz;
    out->system = (double)system / hz;
    return 0;
}

/* Nanoseconds that a thread has run; 0 where the kernel does not tell. */
static double run_time(const char *pid)
{
    char path[64];
    unsigned long long ns = 0;
    snprintf(path, sizeof path, "/proc/%.20s/schedstat", pid);
    FILE *f = fopen(path, "re");
    if (!f)
        return 0;
    if (fscanf(f, "%llu", &ns) != 1)
        ns = 0;
    fclose(f);
    return (double)ns / 1e9;
}

/* Children of kthreadd. Those that end in between are few, and their time is part of `busy` all the same. */
static double usage_threads(void)
{
    DIR *dir = opendir("/proc");
    double sum = 0;
    for (const struct dirent *e; dir && (e = readdir(dir));) {
        char line[LINE];
        const char *after;
        int parent;
        if (isdigit((unsigned char)e->d_name[0]) && usage_stat(e->d_name, line, &after) &&
            sscanf(after + 1, " %*c %d", &parent) == 1 && parent == KTHREADD)
            sum += run_time(e->d_name);
    }
    if (dir)
        closedir(dir);
    return sum;
}

int compare_usage(int pid, struct compare_usage *out)
{
    unsigned long long user, nice, system, idle, iowait, irq, softirq, stolen;
    double hz = (double)sysconf(_SC_CLK_TCK);
    *out = (struct compare_usage){.threads = usage_threads()};
    int ret = pid ? usage_process(pid, out) : 0;
    FILE *f = fopen("/proc/stat", "re");
    if (!f)
        return -errno;
    int n = fscanf(f, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &user, &nice, &system, &idle, &iowait, &irq,
                   &softirq, &stolen);
    out->at = (double)plx_clock_ns() / 1e9;
    fclose(f);
    if (n != 8)
        return -EIO;
    /* All of it less what was idle: the sum of the CPUs' time is that of the clock. */
    double cpus = (double)sysconf(_SC_NPROCESSORS_ONLN);
    out->stolen = (double)stolen / hz;
    out->softirq = (double)(softirq + irq) / hz;
    out->busy = out->at * cpus - (double)(idle + iowait) / hz - out->stolen;
    return ret;
}

struct compare_usage compare_used(const struct compare_usage *a, const struct compare_usage *b, double idle)
{
    struct compare_usage used = {
        .at = b->at - a->at,
        .busy = b->busy - a->busy,
        .user = b->user - a->user,
        .system = b->system - a->system,
        .threads = b->threads - a->threads,
        .softirq = b->softirq - a->softirq,
        .stolen = b->stolen - a->stolen,
    };
    used.busy -= idle * used.at;
    if (used.busy < 0)
        used.busy = 0;
    return used;
}
