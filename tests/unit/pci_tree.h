/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A made-up machine: /sys, /proc and /dev below a root. Device nodes are files that statx() says are nodes, and that
 * open() with O_EXCL refuses where they are claimed: link with -Wl,--wrap=statx,--wrap=open64. Numbered devices i are
 * PCI address 0000:0i:00.0 and controller nvme(i).
 */
#ifndef PLX_TESTS_PCI_TREE_H
#define PLX_TESTS_PCI_TREE_H

#include "pci/pci.h"

enum {
    TREE_DISK_BYTES = 64 << 20,
    TREE_MAJOR = 259, /* of NVMe disks; namespace n of device i is minor 64 * i + 16 * n, its partitions follow */
};

const char *tree_make(void);
void tree_remove(void);
const char *tree_root(void);

void tree_file(const char *text, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void tree_link(const char *target, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* A file, a link, or an empty folder goes. */
void tree_gone(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* /dev/NAME: a 'b'lock or a 'c'haracter device */
void tree_node(const char *name, char kind, unsigned major_number, unsigned minor_number);
/* From now on somebody has it exclusively. */
void tree_claim(const char *name);
/* How many descriptors there are now that were opened with O_EXCL. */
unsigned tree_claims(void);

/* An idle NVMe device that the kernel has, without namespaces; and those. */
void tree_device(unsigned i);
void tree_namespace(unsigned i, unsigned n);
void tree_partition(unsigned i, unsigned n, unsigned p);
/* A block device that stands on another. */
void tree_holder(const char *name, unsigned major_number, unsigned minor_number, const char *on);

/* A process in mount namespace ns, with what is mounted there. */
void tree_process(unsigned pid, const char *comm, unsigned ns, const char *mountinfo);
/* It has a file, below the root, open or mapped. */
void tree_opens(unsigned pid, const char *path);
void tree_maps(unsigned pid, const char *path);
/* Nobody may look at its files. */
void tree_hide(unsigned pid);

/* Bytes on a disk. */
void tree_write(const char *name, uint64_t offset, const void *bytes, size_t n);
/* Runs a program on it, as `program argument... /dev/NAME`; false where there is no such program. */
bool tree_run(const char *name, const char *const *words);

#endif
