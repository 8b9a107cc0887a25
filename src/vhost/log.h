/* SPDX-License-Identifier: BSD-3-Clause */
/* The log of pages that were written to: a bit for each 4 KiB of guest memory, for live migration. */
#ifndef PLX_VHOST_LOG_H
#define PLX_VHOST_LOG_H

#include "vhost/memory.h"

#include <sys/uio.h>

struct vhost_log {
    struct vhost_map map;
    uint64_t bytes;
};

/* Marks what lies in guest memory at an address. Beyond the end of the log nothing is marked. */
void vhost_log_guest(struct vhost_log *log, uint64_t guest, uint64_t len);
/* The same of memory that is mapped. */
void vhost_log_memory(struct vhost_log *log, const struct vhost_table *t, const void *at, uint64_t len);

#endif
