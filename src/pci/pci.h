/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the files of this room share. All they know is read below a root, which is "" but in tests: /sys, /proc, /dev
 * and /run are root/sys, root/proc, ...
 */
#ifndef PLX_PCI_PCI_H
#define PLX_PCI_PCI_H

#include <dirent.h>
#include <pollux/pci.h>
#include <sys/types.h>

#define PCI_DEVICES "/sys/bus/pci/devices"
#define PCI_DRIVERS "/sys/bus/pci/drivers"

/* ---- files.c: paths are root and a format; of files the first line counts ---- */

/* @return its length, or -errno and "" */
int pci_read(const char *root, char *out, size_t size, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
/* A number, in decimal or with 0x; or what else */
int64_t pci_number(const char *root, int64_t otherwise, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* "259:3"; 0 where there is none */
dev_t pci_device_number(const char *root, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The last name of what a link leads to. @return its length, or -errno and "" */
int pci_link(const char *root, char *out, size_t size, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
/* A line. @return 0 or -errno */
int pci_write(const char *root, const char *text, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
bool pci_exists(const char *root, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/*
 * The address that a base address register says, in configuration space at an offset of a file: PCIe 7.5.1.2.1.
 * @return 0, -ENXIO: there is none of memory, or -EIO
 */
int pci_bar_address(int fd, uint64_t config, unsigned number, uint64_t *out);

/* Follows links. @return 0 or -errno */
struct pci_stat {
    mode_t mode;
    dev_t rdev; /* of a device node */
    dev_t dev;  /* where it is, */
    uint64_t ino;
};
int pci_stat(const char *root, struct pci_stat *out, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
int pci_fstat(int fd, struct pci_stat *out);

/* The names in a folder, numbers in them in their order. @return 0, or -errno and none */
struct pci_names {
    struct dirent **v;
    int n;
};
int pci_names(const char *root, struct pci_names *out, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void pci_names_free(struct pci_names *names);

/* A bounded copy; what is too long is cut off. */
void pci_text(char *out, size_t size, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* ---- find.c ---- */

int pci_find(const char *root, struct plx_pci_nvme **list, unsigned *n, struct plx_error *err);
int pci_describe(const char *root, const char *address, struct plx_pci_nvme *out);
/* The name of a disk that a controller has a path to, from that of a folder of its: "nvme0n1" of nvme0n1, and of
 * nvme0c2n1, which is multipath's; false where it is no namespace. */
bool pci_namespace_name(const char *entry, char out[PLX_PCI_NAME]);
/*
 * What is known of a device goes on being known while another driver has it: kept in /run, until the device goes or the
 * machine does.
 */
int pci_remember(const char *root, const struct plx_pci_nvme *d);
void pci_forget(const char *root, const char *address);

/* ---- use.c ---- */

enum pci_node_kind {
    PCI_DISK,
    PCI_PARTITION,
    PCI_UPON, /* a device that stands on one of those */
    PCI_CHAR,
    PCI_FILE, /* of sysfs: a BAR */
};

struct pci_node {
    unsigned device; /* place in the list */
    enum pci_node_kind kind;
    char name[PLX_PCI_NAME];  /* below /dev, or of the BAR */
    char under[PLX_PCI_NAME]; /* what it stands on */
    dev_t number;
    dev_t dev; /* of a file, instead */
    uint64_t ino;
    uint64_t bytes;
    bool mounted, root, busy; /* said already; claimed by somebody */
};

/* A disk that is claimed, so that nobody can begin to use it. */
struct pci_claim {
    dev_t number;
    int fd;
};

/* A look at devices, all of them together: what is found goes into uses. */
struct pci_look {
    const char *root;
    const struct plx_pci_nvme *list;
    unsigned nlist;
    bool claim; /* claim the disks */
    struct pci_node *nodes;
    unsigned nnodes;
    struct pci_claim *claims;
    unsigned nclaims;
    struct plx_pci_use *uses;
    unsigned nuses;
    bool unseen;              /* said already */
    int error;                /* -ENOMEM */
    struct plx_pci_use spare; /* for what there is no memory for */
};

/* @return 0 or -ENOMEM; what was found is in uses, and claims are held until pci_look_end() */
int pci_look(struct pci_look *look);
void pci_look_end(struct pci_look *look);
/* The array with one entry more, zeroed; NULL without memory, and the array is as it was. */
void *pci_more(void *array, unsigned *n, size_t size);

/* Adds a use, whose text and cure are set by the caller. Never NULL: without memory it is thrown away. */
struct plx_pci_use *pci_use(struct pci_look *look, unsigned device, enum plx_pci_use_kind kind);
/* Something cannot be looked at: said once, of all devices. */
void pci_unseen(struct pci_look *look, const char *what, const char *cure);

/* vfio.c: who else has a file open, of the processes that may be looked at: " by pollux (process 1234)", or "" */
void pci_holder(const char *path, char *out, size_t size);

/* process.c: who has nodes open, or mapped; and the mounts of all. */
void pci_look_at_processes(struct pci_look *look);

/* ---- bind.c ---- */

int pci_bind(const char *root, const char *const *which, unsigned n, const struct plx_pci_bind_opts *opts,
             struct plx_error *err);
int pci_unbind(const char *root, const char *const *which, unsigned n, const struct plx_pci_bind_opts *opts,
               struct plx_error *err);

#endif
