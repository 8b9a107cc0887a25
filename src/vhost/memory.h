/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Memory of a front-end: files that are mapped, and tables of them by which guest addresses are translated. A table is
 * never changed; rings go over to the next one.
 */
#ifndef PLX_VHOST_MEMORY_H
#define PLX_VHOST_MEMORY_H

#include <stdatomic.h>
#include <sys/types.h>

#include <pollux/base.h>

#include "base/util.h"
#include "reactor/guard.h"
#include "vhost/msg.h"

/* ---- mappings: guard.c ---- */

/*
 * A piece of a file. Whoever has it may make it shorter; what touches it then gets SIGBUS. plx_memory_fault() puts
 * empty memory in its place, and sets what `fault` points at: nothing of it means anything from then on.
 */
struct vhost_map {
    void *base; /* NULL: nothing */
    size_t bytes;
    uint8_t *at; /* where what was asked for begins */
    struct plx_guard *guard;
};

/* @return 0 or -errno, with err filled: why it cannot be mapped. The descriptor stays the caller's. */
int vhost_map(struct vhost_map *m, int fd, uint64_t offset, uint64_t size, atomic_bool *fault, struct plx_error *err);
/* Harmless for one that is zeroed. */
void vhost_unmap(struct vhost_map *m);

/* ---- regions and tables: of the control reactor, which counts their users ---- */

struct vhost_region {
    unsigned refs; /* tables that have it */
    struct vhost_mem_region is;
    struct vhost_map map;
    dev_t dev; /* the file: the same region, sent once more, is known by it */
    ino_t ino;
};

struct vhost_span {
    uint64_t guest, size;
    uint8_t *at;
    uint64_t user;
    struct vhost_region *region;
};

struct vhost_table {
    unsigned n;
    struct vhost_span spans[]; /* by guest address, without overlaps */
};

/*
 * A table of n regions, each with its descriptor; those that `old` (which may be NULL) has are taken from there.
 * @return 0, or -errno with err filled
 */
int vhost_table_set(struct vhost_table **out, const struct vhost_table *old, const struct vhost_mem_region *regions,
                    const int *fds, unsigned n, atomic_bool *fault, struct plx_error *err);
/* The old one and one region more, or less. @return the same */
int vhost_table_add(struct vhost_table **out, const struct vhost_table *old, const struct vhost_mem_region *r, int fd,
                    atomic_bool *fault, struct plx_error *err);
int vhost_table_remove(struct vhost_table **out, const struct vhost_table *old, const struct vhost_mem_region *r,
                       struct plx_error *err);
/* No ring uses it any more, nor a request what it has and the next one has not. */
void vhost_table_free(struct vhost_table *t);

/* ---- translation ---- */

/* @return the span that has a guest address, or NULL */
const struct vhost_span *vhost_span_find(const struct vhost_table *t, uint64_t guest);

/* A table as a ring sees it, which remembers where it found the last address: at first nowhere, a span of no bytes. */
struct vhost_view {
    const struct vhost_table *table;
    const struct vhost_span *last;
};

extern const struct vhost_span vhost_nowhere;

static inline struct vhost_view vhost_view_of(const struct vhost_table *t)
{
    return (struct vhost_view){t, &vhost_nowhere};
}

/*
 * Where a guest address is.
 * @param len how many bytes are wanted; receives how many of them lie together there
 * @return NULL when it is in no region
 */
static inline uint8_t *vhost_at(struct vhost_view *v, uint64_t guest, uint64_t *len)
{
    const struct vhost_span *s = v->last;
    if (plx_unlikely(guest - s->guest >= s->size)) {
        s = vhost_span_find(v->table, guest);
        if (!s)
            return NULL;
        v->last = s;
    }
    const uint64_t offset = guest - s->guest;
    *len = plx_min_u64(*len, s->size - offset);
    return s->at + offset;
}

/* The same of an address of the front-end's own, for rings: all of it in one region, and aligned; or NULL. */
void *vhost_user_at(const struct vhost_table *t, uint64_t user, uint64_t len, size_t align);
/* The guest address of memory that is mapped. @return false when the table has it no more */
bool vhost_guest_of(const struct vhost_table *t, const void *at, uint64_t *guest);

#endif
