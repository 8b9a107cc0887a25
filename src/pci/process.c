/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What processes do with devices: the mounts of each mount namespace, and open or mapped files. Processes come and go
 * meanwhile; those that have gone use nothing.
 */
#include "pci/pci.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define INITIAL_PIDS "pid:[4026531836]" /* PROC_PID_INIT_INO */

struct crowd {
    struct pci_look *look;
    const char *pid;
    char name[64];    /* of the process, for people */
    bool ours, init;  /* in our mount namespace; process 1 */
    char (*seen)[32]; /* mount namespaces */
    unsigned nseen;
};

static bool hidden(int ret)
{
    return ret == -EACCES || ret == -EPERM;
}

static void name_process(struct crowd *c)
{
    char comm[32];
    if (pci_read(c->look->root, comm, sizeof comm, "/proc/%s/comm", c->pid) > 0)
        pci_text(c->name, sizeof c->name, "process %s (%s)", c->pid, comm);
    else
        pci_text(c->name, sizeof c->name, "process %s", c->pid);
}

static void unseen_process(struct crowd *c)
{
    char what[PLX_PCI_TEXT];
    pci_text(what, sizeof what, "%s cannot be looked into, so it is not known what has the device open", c->name);
    pci_unseen(c->look, what, "do it as root, outside of any container");
}

/* ---- mounts ---- */

/* Spaces and the like are \040. In place. */
static void unescape(char *text)
{
    char *to = text;
    for (const char *p = text; *p; to++) {
        unsigned c;
        if (p[0] == '\\' && sscanf(p + 1, "%3o", &c) == 1) {
            *to = (char)c;
            p += 4;
        } else {
            *to = *p++;
        }
    }
    *to = 0;
}

static void say_mounted(struct crowd *c, struct pci_node *node, const char *where)
{
    bool root = strcmp(where, "/") == 0 && (c->ours || c->init);
    if (root ? node->root : node->mounted)
        return;
    node->mounted = true;
    node->root |= root;
    struct plx_pci_use *use = pci_use(c->look, node->device, root ? PLX_PCI_ROOT : PLX_PCI_MOUNTED);
    const char *on = *node->under ? ", which stands on " : "";
    if (root) {
        pci_text(use->what, sizeof use->what, "%s%s%s has the root file system", node->name, on, node->under);
        pci_text(use->cure, sizeof use->cure, "start the machine from another disk");
    } else if (c->ours) {
        pci_text(use->what, sizeof use->what, "%s%s%s is mounted on %s", node->name, on, node->under, where);
        pci_text(use->cure, sizeof use->cure, "umount %s", where);
    } else {
        pci_text(use->what, sizeof use->what, "%s%s%s is mounted on %.100s where %s is", node->name, on, node->under,
                 where, c->name);
        pci_text(use->cure, sizeof use->cure, "nsenter -t %s -m umount %s", c->pid, where);
    }
}

/* "36 35 259:3 / /srv rw,noatime shared:1 - ext4 /dev/nvme0n1p3 rw" */
static void look_at_mount(struct crowd *c, char *line)
{
    unsigned major_number, minor_number;
    int at = 0;
    struct pci_stat source = {0};
    char *dash = strstr(line, " - ");
    if (!dash || sscanf(line, "%*d %*d %u:%u %*s %n", &major_number, &minor_number, &at) != 2 || !at)
        return;
    char *where = line + at, *from = dash + 3 + strcspn(dash + 3, " ");
    from += *from == ' ';
    from[strcspn(from, " \n")] = 0;
    where[strcspn(where, " ")] = 0;
    unescape(where);
    unescape(from);
    /* What has several disks has a number of its own (btrfs), and is known by one of them. */
    if (from[0] != '/' || pci_stat(c->look->root, &source, "%s", from) || !S_ISBLK(source.mode))
        source.rdev = 0;
    for (struct pci_node *node = c->look->nodes; node && node < c->look->nodes + c->look->nnodes; node++)
        if (node->kind <= PCI_UPON &&
            (node->number == makedev(major_number, minor_number) || node->number == source.rdev))
            say_mounted(c, node, where);
}

static void look_at_mounts(struct crowd *c, const char *pid)
{
    char path[PATH_MAX], *line = NULL;
    size_t size = 0;
    pci_text(path, sizeof path, "%s/proc/%s/mountinfo", c->look->root, pid);
    FILE *f = fopen(path, "re");
    if (!f) {
        if (hidden(-errno))
            unseen_process(c);
        return;
    }
    while (getline(&line, &size, f) >= 0)
        look_at_mount(c, line);
    free(line);
    fclose(f);
}

/* Whether it is the first process that we meet in a mount namespace. */
static bool new_namespace(struct crowd *c)
{
    char ns[32];
    int ret = pci_link(c->look->root, ns, sizeof ns, "/proc/%s/ns/mnt", c->pid);
    if (ret < 0) {
        if (hidden(ret))
            unseen_process(c);
        return false;
    }
    for (unsigned i = 0; i < c->nseen; i++)
        if (strcmp(c->seen[i], ns) == 0)
            return false;
    char(*more)[32] = pci_more(c->seen, &c->nseen, sizeof *more);
    if (!more) {
        c->look->error = -ENOMEM;
        return false;
    }
    c->seen = more;
    memcpy(c->seen[c->nseen - 1], ns, sizeof ns);
    return true;
}

/* ---- open files ---- */

static bool same_file(const struct pci_node *node, const struct pci_stat *st)
{
    switch (node->kind) {
    case PCI_DISK:
    case PCI_PARTITION:
        return S_ISBLK(st->mode) && st->rdev == node->number;
    case PCI_CHAR:
        return S_ISCHR(st->mode) && st->rdev == node->number;
    case PCI_FILE:
        return S_ISREG(st->mode) && st->dev == node->dev && st->ino == node->ino;
    case PCI_UPON: /* whoever has that open: the device is held, which says enough */
    default:
        return false;
    }
}

static bool our_claim(const struct crowd *c, const char *fd)
{
    long number = strtol(fd, NULL, 10);
    for (unsigned i = 0; i < c->look->nclaims; i++)
        if (c->look->claims[i].fd == number)
            return strtol(c->pid, NULL, 10) == getpid();
    return false;
}

/* Whether it has been said of the process, whose uses begin at `first`. */
static bool said_already(const struct pci_look *look, unsigned first, unsigned device)
{
    for (unsigned i = first; i < look->nuses; i++)
        if (look->uses[i].device == device && look->uses[i].kind == PLX_PCI_OPEN)
            return true;
    return false;
}

static void match_file(struct crowd *c, const struct pci_stat *st, const char *how, unsigned first)
{
    for (const struct pci_node *node = c->look->nodes; node && node < c->look->nodes + c->look->nnodes; node++) {
        if (!same_file(node, st) || said_already(c->look, first, node->device))
            continue;
        struct plx_pci_use *use = pci_use(c->look, node->device, PLX_PCI_OPEN);
        pci_text(use->what, sizeof use->what, "%s has %s%s %s", c->name, node->kind == PCI_FILE ? "" : "/dev/",
                 node->name, how);
        pci_text(use->cure, sizeof use->cure, "end it");
    }
}

/* Files that an io_uring has, and nobody needs a descriptor of: "UserFiles: 2", then "    1: /dev/nvme0n1" for each. */
static void look_at_ring(struct crowd *c, const char *fd, unsigned first)
{
    char path[PATH_MAX], *line = NULL;
    size_t size = 0;
    bool files = false;
    struct pci_stat st;
    pci_text(path, sizeof path, "%s/proc/%s/fdinfo/%s", c->look->root, c->pid, fd);
    FILE *f = fopen(path, "re");
    if (!f && hidden(-errno))
        unseen_process(c);
    while (f && getline(&line, &size, f) >= 0) {
        char *name = strchr(line, '/');
        if (line[0] != ' ')
            files = strncmp(line, "UserFiles:", 10) == 0;
        if (!files || line[0] != ' ' || !name)
            continue;
        name[strcspn(name, "\n")] = 0;
        unescape(name);
        if (pci_stat(c->look->root, &st, "%s", name) == 0)
            match_file(c, &st, "open in its io_uring", first);
    }
    free(line);
    if (f)
        fclose(f);
}

/* One of the process's files, open or mapped. */
static void look_at_file(struct crowd *c, const char *folder, const char *entry, unsigned first)
{
    struct pci_stat st;
    char link[32];
    bool open_file = strcmp(folder, "fd") == 0;
    int ret = pci_stat(c->look->root, &st, "/proc/%s/%s/%s", c->pid, folder, entry);
    if (ret == 0)
        match_file(c, &st, open_file ? "open" : "mapped", first);
    else if (hidden(ret))
        unseen_process(c);
    if (open_file && pci_link(c->look->root, link, sizeof link, "/proc/%s/fd/%s", c->pid, entry) > 0 &&
        strcmp(link, "anon_inode:[io_uring]") == 0)
        look_at_ring(c, entry, first);
}

static void look_at_files(struct crowd *c)
{
    static const char *const folders[] = {"fd", "map_files"};
    unsigned first = c->look->nuses;
    for (int i = 0; i < 2; i++) {
        struct pci_names names;
        int ret = pci_names(c->look->root, &names, "/proc/%s/%s", c->pid, folders[i]);
        if (hidden(ret))
            unseen_process(c);
        for (int k = 0; k < names.n; k++)
            if (i || !our_claim(c, names.v[k]->d_name))
                look_at_file(c, folders[i], names.v[k]->d_name, first);
        pci_names_free(&names);
    }
}

void pci_look_at_processes(struct pci_look *look)
{
    struct crowd c = {.look = look, .pid = "self", .ours = true};
    struct pci_names names;
    char ns[32];
    bool first = false;
    if (pci_link(look->root, ns, sizeof ns, "/proc/self/ns/pid") > 0 && strcmp(ns, INITIAL_PIDS) != 0)
        pci_unseen(look, "this is a container, from which the machine's other processes cannot be seen",
                   "do it outside of it");
    name_process(&c);
    if (new_namespace(&c))
        look_at_mounts(&c, "self");
    c.ours = false;
    pci_names(look->root, &names, "/proc");
    for (int i = 0; i < names.n; i++) {
        c.pid = names.v[i]->d_name;
        if (c.pid[strspn(c.pid, "0123456789")])
            continue;
        c.init = strcmp(c.pid, "1") == 0;
        first |= c.init;
        name_process(&c);
        if (new_namespace(&c))
            look_at_mounts(&c, c.pid);
        look_at_files(&c);
    }
    pci_names_free(&names);
    if (!first)
        pci_unseen(look, "/proc does not show the processes of others", "do it as root");
    free(c.seen);
}
