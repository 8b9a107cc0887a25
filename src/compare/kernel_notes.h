/* SPDX-License-Identifier: BSD-3-Clause */
/* What kernel.c and kernel_notes.c share: notes of what was set up, and taking it down by them. */
#ifndef PLX_COMPARE_KERNEL_NOTES_H
#define PLX_COMPARE_KERNEL_NOTES_H

#include <jansson.h>

#include "base/uuid.h"
#include "compare/kernel.h"

#define CONFIGFS "/sys/kernel/config"

struct compare_kernel {
    char id[PLX_UUID_TEXT];
    char dir[96];      /* of its notes; "" without root */
    int lock;          /* -1 without root */
    char problem[160]; /* why there can be no notes, and so nothing of the kernel; or "" */
    /* {subsystem, port, port_inode, nullb, host, configfs, brd, brd_inode: TEXT, modules: [TEXT]} */
    json_t *notes;
    char device[256]; /* what nvmet serves */
    char medium[64];
};

/* Notes something before it is done; NULL forgets it. */
void kernel_note(struct compare_kernel *k, const char *what, const char *value);
/*
 * Which of those that can have its name something is, once it was made: what is there later may be somebody else's,
 * whose number, or module, is the same.
 */
void kernel_note_inode(struct compare_kernel *k, const char *what, const char *path);
void kernel_note_module(struct compare_kernel *k, const char *name);
/* Mounts configfs, noted. */
void kernel_mount_configfs(struct compare_kernel *k);

/* Deletes the controllers of a host identifier, and waits until they are gone. @return 0 or a negative errno value */
int kernel_undo_host(const char *id);

/* An attribute. @return 0 or a negative errno value */
int kernel_put(const char *dir, const char *name, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Its first line. @return its length or a negative errno value */
int kernel_get(const char *dir, const char *name, char *out, size_t size);
/* Runs a program of /sbin, and waits for it; what it prints is dropped. @return its exit status, or -1 */
int kernel_run(const char *const *words);

#endif
