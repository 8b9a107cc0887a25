/* SPDX-License-Identifier: BSD-3-Clause */
#include "vhost/memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- regions ---- */

static bool same_region(const struct vhost_mem_region *a, const struct vhost_mem_region *b)
{
    return a->guest == b->guest && a->size == b->size && a->user == b->user;
}

/* A region of the old table that is this one, of the same file. */
static struct vhost_region *region_known(const struct vhost_table *old, const struct vhost_mem_region *r, int fd)
{
    struct stat st;
    if (!old || fstat(fd, &st) < 0)
        return NULL;
    for (unsigned i = 0; i < old->n; i++) {
        struct vhost_region *known = old->spans[i].region;
        if (same_region(&known->is, r) && known->is.offset == r->offset && known->dev == st.st_dev &&
            known->ino == st.st_ino)
            return known;
    }
    return NULL;
}

static int region_map(struct vhost_region **out, const struct vhost_mem_region *r, int fd, atomic_bool *fault,
                      struct plx_error *err)
{
    struct stat st;
    struct vhost_region *region = calloc(1, sizeof *region);
    if (!region)
        return plx_fail(err, -ENOMEM, "out of memory");
    region->is = *r;
    int ret = vhost_map(&region->map, fd, r->offset, r->size, fault, err);
    if (ret) {
        free(region);
        return ret;
    }
    if (fstat(fd, &st) == 0) {
        region->dev = st.st_dev;
        region->ino = st.st_ino;
    }
    *out = region;
    return 0;
}

static void region_put(struct vhost_region *r)
{
    if (--r->refs)
        return;
    vhost_unmap(&r->map);
    free(r);
}

/* ---- tables ---- */

static struct vhost_table *table_new(unsigned room, struct plx_error *err)
{
    struct vhost_table *t = calloc(1, sizeof *t + room * sizeof t->spans[0]);
    if (!t)
        plx_fail(err, -ENOMEM, "out of memory");
    return t;
}

static void table_append(struct vhost_table *t, struct vhost_region *r)
{
    r->refs++;
    t->spans[t->n++] =
        (struct vhost_span){.guest = r->is.guest, .size = r->is.size, .at = r->map.at, .user = r->is.user, .region = r};
}

static int by_guest(const void *a, const void *b)
{
    const struct vhost_span *x = a, *y = b;
    return x->guest < y->guest ? -1 : x->guest > y->guest;
}

/* @return 0, or -EINVAL when regions overlap */
static int table_sort(struct vhost_table *t, struct plx_error *err)
{
    qsort(t->spans, t->n, sizeof t->spans[0], by_guest);
    for (unsigned i = 1; i < t->n; i++)
        if (t->spans[i].guest - t->spans[i - 1].guest < t->spans[i - 1].size)
            return plx_fail(err, -EINVAL, "two regions have the same guest address %#llx",
                            (unsigned long long)t->spans[i].guest);
    return 0;
}

void vhost_table_free(struct vhost_table *t)
{
    if (!t)
        return;
    for (unsigned i = 0; i < t->n; i++)
        region_put(t->spans[i].region);
    free(t);
}

static int table_take(struct vhost_table *t, const struct vhost_table *old, const struct vhost_mem_region *r, int fd,
                      atomic_bool *fault, struct plx_error *err)
{
    struct vhost_region *region = region_known(old, r, fd);
    int ret = region ? 0 : region_map(&region, r, fd, fault, err);
    if (!ret)
        table_append(t, region);
    return ret;
}

/* The last step of all that make one. */
static int table_done(struct vhost_table **out, struct vhost_table *t, int ret, struct plx_error *err)
{
    if (!ret)
        ret = table_sort(t, err);
    if (ret)
        vhost_table_free(t);
    else
        *out = t;
    return ret;
}

int vhost_table_set(struct vhost_table **out, const struct vhost_table *old, const struct vhost_mem_region *regions,
                    const int *fds, unsigned n, atomic_bool *fault, struct plx_error *err)
{
    struct vhost_table *t = table_new(n, err);
    int ret = t ? 0 : -ENOMEM;
    for (unsigned i = 0; i < n && !ret; i++)
        ret = table_take(t, old, &regions[i], fds[i], fault, err);
    return t ? table_done(out, t, ret, err) : ret;
}

int vhost_table_add(struct vhost_table **out, const struct vhost_table *old, const struct vhost_mem_region *r, int fd,
                    atomic_bool *fault, struct plx_error *err)
{
    const unsigned n = old ? old->n : 0;
    if (n >= VHOST_MEM_SLOTS)
        return plx_fail(err, -ENOSPC, "there are %d regions already, which is all that there can be", VHOST_MEM_SLOTS);
    struct vhost_table *t = table_new(n + 1, err);
    if (!t)
        return -ENOMEM;
    for (unsigned i = 0; i < n; i++)
        table_append(t, old->spans[i].region);
    return table_done(out, t, table_take(t, NULL, r, fd, fault, err), err);
}

int vhost_table_remove(struct vhost_table **out, const struct vhost_table *old, const struct vhost_mem_region *r,
                       struct plx_error *err)
{
    const unsigned n = old ? old->n : 0;
    struct vhost_table *t = table_new(n, err);
    if (!t)
        return -ENOMEM;
    for (unsigned i = 0; i < n; i++)
        if (!same_region(&old->spans[i].region->is, r))
            table_append(t, old->spans[i].region);
    return table_done(out, t,
                      t->n < n ? 0
                               : plx_fail(err, -ENOENT,
                                          "there is no region with guest address %#llx, that size and "
                                          "that user address",
                                          (unsigned long long)r->guest),
                      err);
}

/* ---- translation ---- */

const struct vhost_span vhost_nowhere;

const struct vhost_span *vhost_span_find(const struct vhost_table *t, uint64_t guest)
{
    unsigned low = 0, high = t ? t->n : 0;
    while (low < high) {
        unsigned mid = (low + high) / 2;
        const struct vhost_span *s = &t->spans[mid];
        if (guest < s->guest)
            high = mid;
        else if (guest - s->guest >= s->size)
            low = mid + 1;
        else
            return s;
    }
    return NULL;
}

void *vhost_user_at(const struct vhost_table *t, uint64_t user, uint64_t len, size_t align)
{
    for (unsigned i = 0; t && i < t->n; i++) {
        const struct vhost_span *s = &t->spans[i];
        const uint64_t offset = user - s->user;
        if (offset >= s->size)
            continue;
        uint8_t *at = s->at + offset;
        return len <= s->size - offset && !((uintptr_t)at & (align - 1)) ? at : NULL;
    }
    return NULL;
}

bool vhost_guest_of(const struct vhost_table *t, const void *at, uint64_t *guest)
{
    for (unsigned i = 0; t && i < t->n; i++) {
        const uint64_t offset = (uint64_t)((uintptr_t)at - (uintptr_t)t->spans[i].at);
        if (offset >= t->spans[i].size)
            continue;
        *guest = t->spans[i].guest + offset;
        return true;
    }
    return false;
}
