/* SPDX-License-Identifier: BSD-3-Clause */
#include "vhost/log.h"

enum { LOG_PAGE_SHIFT = 12 };

/* Atomic, as other rings and the front-end write the same bytes. */
void vhost_log_guest(struct vhost_log *log, uint64_t guest, uint64_t len)
{
    if (!len || guest + len < guest)
        return;
    const uint64_t last = (guest + len - 1) >> LOG_PAGE_SHIFT;
    for (uint64_t page = guest >> LOG_PAGE_SHIFT; page <= last && page / 8 < log->bytes; page++)
        __atomic_fetch_or(log->map.at + page / 8, (uint8_t)(1u << page % 8), __ATOMIC_RELAXED);
}

void vhost_log_memory(struct vhost_log *log, const struct vhost_table *t, const void *at, uint64_t len)
{
    uint64_t guest;
    if (vhost_guest_of(t, at, &guest))
        vhost_log_guest(log, guest, len);
}
