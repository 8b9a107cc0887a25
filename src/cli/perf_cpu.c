/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * CPU time, of this process and of those on this machine that serve it.
 *
 * Who serves us is found by our TCP connections: the kernel's tables list both ends of a local one, each with the inode
 * of its socket, and the descriptors of the processes that we may look into name the same inodes. What cannot be found
 * is left out.
 */
#include "perf.h"

#include <ctype.h>
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { CONNECTIONS = 4096, ADDRESS = 48, ESTABLISHED = 1 };

struct inodes {
    unsigned long of[CONNECTIONS];
    unsigned n;
};

/* Our end and the other of a connection, as /proc/net/tcp writes them. */
struct connection {
    char local[ADDRESS], remote[ADDRESS];
};

struct search {
    struct inodes own, theirs;
    struct connection connections[CONNECTIONS];
    unsigned n;
};

static bool has(const struct inodes *set, unsigned long inode)
{
    for (unsigned i = 0; i < set->n; i++)
        if (set->of[i] == inode)
            return true;
    return false;
}

static void add_inode(struct inodes *set, unsigned long inode)
{
    if (set->n < CONNECTIONS)
        set->of[set->n++] = inode;
}

/* ---- descriptors ---- */

/* Calls fn with the inode of every socket of a process, until it returns true. @return whether it did */
static bool each_socket(const char *pid, bool (*fn)(struct search *s, unsigned long inode), struct search *s)
{
    char path[320], link[64];
    bool found = false;
    snprintf(path, sizeof path, "/proc/%s/fd", pid);
    DIR *dir = opendir(path);
    if (!dir)
        return false;
    for (struct dirent *e; !found && (e = readdir(dir));) {
        unsigned long inode;
        ssize_t len = readlinkat(dirfd(dir), e->d_name, link, sizeof link - 1);
        if (len <= 0)
            continue;
        link[len] = 0;
        if (sscanf(link, "socket:[%lu]", &inode) == 1)
            found = fn(s, inode);
    }
    closedir(dir);
    return found;
}

static bool note_own(struct search *s, unsigned long inode)
{
    add_inode(&s->own, inode);
    return false;
}

static bool is_theirs(struct search *s, unsigned long inode)
{
    return has(&s->theirs, inode);
}

/* ---- connections ---- */

/* An IPv4 address is told the same way whether its socket is of IPv4 or IPv6. */
static const char *unmapped(const char *address)
{
    static const char mapped[] = "0000000000000000FFFF0000";
    return strncmp(address, mapped, sizeof mapped - 1) == 0 ? address + sizeof mapped - 1 : address;
}

static void note_connection(struct search *s, const char *local, const char *remote, unsigned long inode)
{
    if (s->n == CONNECTIONS || !has(&s->own, inode))
        return;
    struct connection *c = &s->connections[s->n++];
    snprintf(c->local, sizeof c->local, "%s", unmapped(local));
    snprintf(c->remote, sizeof c->remote, "%s", unmapped(remote));
}

static void note_other_end(struct search *s, const char *local, const char *remote, unsigned long inode)
{
    for (unsigned i = 0; i < s->n; i++) {
        if (strcmp(s->connections[i].local, unmapped(remote)) || strcmp(s->connections[i].remote, unmapped(local)))
            continue;
        add_inode(&s->theirs, inode);
        return;
    }
}

static void each_connection(struct search *s,
                            void (*fn)(struct search *s, const char *local, const char *remote, unsigned long inode))
{
    static const char *const tables[] = {"/proc/net/tcp", "/proc/net/tcp6"};
    char line[512], local[ADDRESS], remote[ADDRESS];
    for (int i = 0; i < 2; i++) {
        FILE *f = fopen(tables[i], "re");
        while (f && fgets(line, sizeof line, f)) {
            unsigned state;
            unsigned long inode;
            if (sscanf(line, " %*u: %47s %47s %x %*s %*s %*s %*u %*u %lu", local, remote, &state, &inode) == 4 &&
                state == ESTABLISHED && inode)
                fn(s, local, remote, inode);
        }
        if (f)
            fclose(f);
    }
}

/* ---- CPU time ---- */

/* @return -1 when there is no such process */
static double cpu_of(int pid)
{
    char path[64], text[1024];
    unsigned long user = 0, kernel = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *f = fopen(path, "re");
    if (!f)
        return -1;
    size_t len = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[len] = 0;
    const char *after = strrchr(text, ')'); /* the name before it may hold anything */
    if (!after || sscanf(after + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &kernel) != 2)
        return -1;
    return (double)(user + kernel) / (double)sysconf(_SC_CLK_TCK);
}

unsigned perf_peers(struct perf_peer *peers, unsigned max)
{
    struct search *s = calloc(1, sizeof *s);
    DIR *proc = opendir("/proc");
    unsigned n = 0;
    if (s && proc) {
        each_socket("self", note_own, s);
        if (s->own.n)
            each_connection(s, note_connection);
        if (s->n)
            each_connection(s, note_other_end);
    }
    for (struct dirent *e; s && proc && s->theirs.n && n < max && (e = readdir(proc));) {
        int pid = (int)strtol(e->d_name, NULL, 10);
        if (!isdigit((unsigned char)e->d_name[0]) || pid == getpid() || !each_socket(e->d_name, is_theirs, s))
            continue;
        struct perf_peer *p = &peers[n++];
        *p = (struct perf_peer){.pid = pid};
        char path[64], line[sizeof p->name] = "";
        snprintf(path, sizeof path, "/proc/%d/comm", pid);
        FILE *f = fopen(path, "re");
        if (f && fgets(line, sizeof line, f))
            cli_text(line, strcspn(line, "\n"), p->name);
        if (f)
            fclose(f);
    }
    if (proc)
        closedir(proc);
    free(s);
    for (unsigned i = 0; i < n; i++) /* at last, as the search takes its time */
        peers[i].cpu = cpu_of(peers[i].pid);
    return n;
}

void perf_peers_end(struct perf_peer *peers, unsigned *n)
{
    unsigned left = 0;
    for (unsigned i = 0; i < *n; i++) {
        double cpu = cpu_of(peers[i].pid) - peers[i].cpu;
        if (cpu >= 0)
            peers[left] = peers[i], peers[left++].cpu = cpu;
    }
    *n = left;
}

double perf_cpu_own(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}
