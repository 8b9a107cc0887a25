/* SPDX-License-Identifier: BSD-3-Clause */
#include "pci/dma.h"

#include "base/log.h"
#include "reactor/memory.h"

#include <errno.h>
#include <linux/capability.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { HUGE_2M = 2 << 20, HUGE_2M_FLAG = 21 << MAP_HUGE_SHIFT };

struct span {
    struct plx_list link;
    struct pci_span is;
    bool data;     /* may be looked up; else it is a queue's, */
    bool reserved; /* or not ours, and nothing is mapped */
};

struct pci_dma {
    struct plx_list link; /* in all */
    struct plx_memory_user user;
    struct pci_iommu *iommu;
    unsigned refs;         /* under all_lock */
    pthread_mutex_t lock;  /* the rest */
    struct plx_list spans; /* by address of functions */
    struct pci_table *table;
    bool told; /* that memory is copied */
    _Atomic uint64_t version;
};

/* Of data, by all: against RLIMIT_MEMLOCK. */
static _Atomic uint64_t data_locked;

static pthread_mutex_t all_lock = PTHREAD_MUTEX_INITIALIZER;
static struct plx_list all = {&all, &all};

/* ---- addresses ---- */

/* The first room for that many bytes, `offset` behind a multiple of `to`. @return the span to stand behind, or NULL */
static struct plx_list *find_room(struct pci_dma *d, struct pci_span *s, uint64_t to, uint64_t offset)
{
    const struct pci_iommu *m = d->iommu;
    struct plx_list *behind = &d->spans;
    for (unsigned i = 0; i < m->nranges; i++) {
        uint64_t from = plx_max_u64(m->ranges[i].first, m->page); /* 0 looks like none */
        for (struct plx_list *it = behind->next;; it = it->next) {
            const bool end = it == &d->spans;
            const struct pci_span *next = end ? NULL : &plx_list_entry(it, struct span, link)->is;
            const uint64_t last = next ? plx_min_u64(next->iova - 1, m->ranges[i].last) : m->ranges[i].last;
            const uint64_t iova = plx_align_up(from - plx_min_u64(from, offset), to) + offset;
            if (iova >= from && iova <= last && last - iova >= s->bytes - 1) {
                s->iova = iova;
                return behind;
            }
            if (end || next->iova > m->ranges[i].last)
                break;
            from = plx_max_u64(from, next->iova + next->bytes);
            behind = it;
        }
    }
    return NULL;
}

/*
 * The lock is not held while it is mapped, which brings it into memory: others have addresses of what is there.
 * @param align of a queue's address; 0 for data, which where it is large lies to huge pages as the memory itself does,
 * so that the IOMMU can use large entries
 * @return 0 or -errno
 */
static int span_map(struct pci_dma *d, void *at, size_t bytes, size_t align, uint64_t *iova)
{
    const bool huge = !align && bytes >= HUGE_2M;
    const uint64_t to = huge ? HUGE_2M : plx_max_u64(align, d->iommu->page);
    struct span *s = malloc(sizeof *s);
    if (!s)
        return -ENOMEM;
    *s = (struct span){.is = {.at = (uintptr_t)at, .bytes = bytes}};
    pthread_mutex_lock(&d->lock);
    struct plx_list *behind = find_room(d, &s->is, to, huge ? (uintptr_t)at % HUGE_2M : 0);
    if (behind)
        plx_list_add_tail(behind->next, &s->link);
    pthread_mutex_unlock(&d->lock);
    int ret = behind ? d->iommu->ops->map(d->iommu, at, bytes, s->is.iova) : -ENOSPC;
    if (!ret && iova)
        *iova = s->is.iova;
    pthread_mutex_lock(&d->lock);
    s->data = !ret && !align;
    if (ret && behind)
        plx_list_del(&s->link);
    pthread_mutex_unlock(&d->lock);
    if (ret)
        free(s);
    return ret;
}

/* Under the lock: where there is no IOMMU pieces have the addresses they have, each of its own pages. */
static int span_locate(struct pci_dma *d, uint8_t *at, size_t bytes, bool data, uint64_t *first)
{
    const size_t page = d->iommu->page;
    for (size_t offset = 0; offset < bytes; offset += page) {
        struct span *s = malloc(sizeof *s);
        if (!s)
            return -ENOMEM;
        *s = (struct span){.is = {.at = (uintptr_t)at + offset, .bytes = page}, .data = data};
        int ret = d->iommu->ops->locate(d->iommu, at + offset, &s->is.iova);
        if (ret) {
            free(s);
            return ret;
        }
        if (!offset && first)
            *first = s->is.iova;
        plx_list_add_tail(&d->spans, &s->link);
    }
    return 0;
}

static int span_make(struct pci_dma *d, void *at, size_t bytes, size_t align, uint64_t *iova)
{
    if (!d->iommu->ops->locate)
        return span_map(d, at, bytes, align, iova);
    pthread_mutex_lock(&d->lock);
    int ret = span_locate(d, at, bytes, !align, iova);
    pthread_mutex_unlock(&d->lock);
    return ret;
}

static struct span *span_at(struct pci_dma *d, const void *at, size_t bytes)
{
    plx_list_for_each(it, &d->spans) {
        struct span *s = plx_list_entry(it, struct span, link);
        if (s->is.at - (uintptr_t)at < bytes)
            return s;
    }
    return NULL;
}

static void span_unmap(struct pci_dma *d, struct span *s)
{
    if (d->iommu->ops->unmap && !s->reserved)
        d->iommu->ops->unmap(d->iommu, s->is.iova, s->is.bytes);
    if (s->data && d->iommu->locks)
        atomic_fetch_sub(&data_locked, s->is.bytes);
    plx_list_del(&s->link);
    free(s);
}

/* All of a piece. @return whether there was something */
static bool spans_unmap(struct pci_dma *d, const void *at, size_t bytes)
{
    bool some = false;
    for (struct span *s; (s = span_at(d, at, bytes)); some = true)
        span_unmap(d, s);
    return some;
}

/* ---- tables ---- */

static int by_address(const void *a, const void *b)
{
    const struct pci_span *x = a, *y = b;
    return x->at < y->at ? -1 : x->at > y->at;
}

/*
 * Under the lock: what was told of is old. The count orders nothing: the table comes by the lock. Whoever has memory
 * that was added was told so by whoever added it, after the count; so it reads that count or a later one, by coherence
 * alone. Who lets go of a table releases what it has read of it, and who frees it acquires that. Checked by
 * tests/model/test_dma.c.
 */
static void tables_changed(struct pci_dma *d)
{
    if (d->table)
        pci_table_put(d->table);
    d->table = NULL;
    atomic_fetch_add_explicit(&d->version, 1, memory_order_relaxed);
}

/* Those that are one both here and for functions: the fewer there are, the sooner one is found. */
static void spans_join(struct pci_table *t)
{
    unsigned n = 0;
    for (unsigned i = 0; i < t->n; i++) {
        struct pci_span *last = n ? &t->spans[n - 1] : NULL;
        const struct pci_span *s = &t->spans[i];
        if (last && last->at + last->bytes == s->at && last->iova + last->bytes == s->iova)
            last->bytes += s->bytes;
        else
            t->spans[n++] = *s;
    }
    t->n = n;
}

static struct pci_table *dma_table(struct pci_dma *d)
{
    unsigned n = 0;
    plx_list_for_each(it, &d->spans)
        n += plx_list_entry(it, struct span, link)->data;
    struct pci_table *t = malloc(sizeof *t + n * sizeof t->spans[0]);
    if (!t)
        return NULL;
    atomic_init(&t->refs, 1);
    t->version = atomic_load_explicit(&d->version, memory_order_relaxed);
    t->n = 0;
    plx_list_for_each(it, &d->spans) {
        const struct span *s = plx_list_entry(it, struct span, link);
        if (s->data)
            t->spans[t->n++] = s->is;
    }
    qsort(t->spans, t->n, sizeof t->spans[0], by_address);
    spans_join(t);
    return t;
}

struct pci_table *pci_table_get(struct pci_dma *d)
{
    pthread_mutex_lock(&d->lock);
    if (!d->table)
        d->table = dma_table(d);
    struct pci_table *t = d->table;
    if (t)
        atomic_fetch_add_explicit(&t->refs, 1, memory_order_relaxed);
    pthread_mutex_unlock(&d->lock);
    return t;
}

void pci_table_put(struct pci_table *t)
{
    if (t && atomic_fetch_sub_explicit(&t->refs, 1, memory_order_acq_rel) == 1)
        free(t);
}

struct pci_table *pci_table_renew(struct pci_dma *d, struct pci_table *t)
{
    if (t && t->version == atomic_load_explicit(&d->version, memory_order_relaxed))
        return t;
    pci_table_put(t);
    return pci_table_get(d);
}

const _Atomic uint64_t *pci_dma_version(const struct pci_dma *d)
{
    return &d->version;
}

/* ---- data ---- */

static void tell_copied(struct pci_dma *d, int ret)
{
    struct rlimit limit = {0};
    getrlimit(RLIMIT_MEMLOCK, &limit);
    if (d->told)
        return;
    d->told = true;
    if (ret == -EFAULT)
        plx_warn(
            "SSDs cannot reach some of the memory, and data there is copied: without an IOMMU it has to be in huge "
            "pages; echo 64 >" PCI_HUGE_PAGES " sets some aside");
    else if (ret == -ENOMEM && limit.rlim_cur != RLIM_INFINITY)
        plx_warn("SSDs cannot reach some of the memory, and data there is copied: this process may lock %llu KiB in "
                 "all, half of it for data; raise that by LimitMEMLOCK= of its unit, or by ulimit -l",
                 (unsigned long long)limit.rlim_cur >> 10);
    else
        plx_warn("SSDs cannot reach some of the memory, and data there is copied: %s", strerror(-ret));
}

static bool may_lock_all(void)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct caps[_LINUX_CAPABILITY_U32S_3] = {{0}};
    return syscall(SYS_capget, &head, caps) == 0 &&
           caps[CAP_TO_INDEX(CAP_IPC_LOCK)].effective & CAP_TO_MASK(CAP_IPC_LOCK);
}

/* Queues, and what data is copied to, need to be locked as well: they have the other half. @return 0 or -ENOMEM */
static int data_lock(const struct pci_dma *d, size_t bytes)
{
    struct rlimit limit;
    if (!d->iommu->locks)
        return 0;
    const uint64_t locked = atomic_fetch_add(&data_locked, bytes) + bytes;
    if (getrlimit(RLIMIT_MEMLOCK, &limit) || limit.rlim_cur == RLIM_INFINITY || locked <= limit.rlim_cur / 2 ||
        may_lock_all())
        return 0;
    atomic_fetch_sub(&data_locked, bytes);
    return -ENOMEM;
}

static void memory_added(struct plx_memory_user *u, void *at, size_t bytes)
{
    struct pci_dma *d = plx_container_of(u, struct pci_dma, user);
    const uintptr_t first = plx_align_up((uintptr_t)at, d->iommu->page);
    const uintptr_t end = ((uintptr_t)at + bytes) & ~(d->iommu->page - 1);
    if (end <= first)
        return;
    int ret = data_lock(d, end - first);
    if (!ret) {
        ret = span_make(d, (void *)first, end - first, 0, NULL);
        if (ret && d->iommu->locks)
            atomic_fetch_sub(&data_locked, end - first);
    }
    pthread_mutex_lock(&d->lock);
    if (ret)
        tell_copied(d, ret);
    tables_changed(d);
    pthread_mutex_unlock(&d->lock);
}

static void memory_removed(struct plx_memory_user *u, void *at, size_t bytes)
{
    struct pci_dma *d = plx_container_of(u, struct pci_dma, user);
    pthread_mutex_lock(&d->lock);
    if (spans_unmap(d, at, bytes)) /* else there was no room, or no memory for it */
        tables_changed(d);
    pthread_mutex_unlock(&d->lock);
}

/* ---- what is not ours ---- */

int pci_dma_reserve(struct pci_dma *d, const void *at, size_t bytes, uint64_t iova)
{
    struct span *s = malloc(sizeof *s);
    struct plx_list *behind = &d->spans;
    bool overlaps = false;
    if (!s)
        return -ENOMEM;
    *s = (struct span){.is = {.at = (uintptr_t)at, .bytes = bytes, .iova = iova}, .reserved = true};
    pthread_mutex_lock(&d->lock);
    plx_list_for_each(it, &d->spans) {
        const struct pci_span *is = &plx_list_entry(it, struct span, link)->is;
        overlaps |= is->iova < iova + bytes && iova < is->iova + is->bytes;
        if (is->iova < iova)
            behind = it;
    }
    if (!overlaps)
        plx_list_add_tail(behind->next, &s->link);
    pthread_mutex_unlock(&d->lock);
    if (overlaps)
        free(s);
    return overlaps ? -EEXIST : 0;
}

void pci_dma_unreserve(struct pci_dma *d, const void *at)
{
    pthread_mutex_lock(&d->lock);
    spans_unmap(d, at, 1);
    pthread_mutex_unlock(&d->lock);
}

/* ---- memory of queues ---- */

int pci_memory_alloc(struct pci_dma *d, size_t bytes, size_t align, struct pci_memory *out)
{
    bytes = plx_align_up(bytes, d->iommu->page);
    const bool huge = d->iommu->ops->locate != NULL; /* which stay where they are, and are one piece each */
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE | (huge ? MAP_HUGETLB | HUGE_2M_FLAG : 0);
    if (huge && bytes > d->iommu->page)
        return -E2BIG;
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (at == MAP_FAILED)
        return -ENOMEM;
    int ret = span_make(d, at, bytes, align, &out->iova);
    if (ret) {
        munmap(at, bytes);
        return ret;
    }
    out->at = at;
    out->bytes = bytes;
    return 0;
}

void pci_memory_free(struct pci_dma *d, struct pci_memory *m)
{
    if (!m->at)
        return;
    pthread_mutex_lock(&d->lock);
    spans_unmap(d, m->at, m->bytes);
    pthread_mutex_unlock(&d->lock);
    munmap(m->at, m->bytes);
    m->at = NULL;
}

/* ---- beginning and end ---- */

static struct pci_dma *dma_new(struct pci_iommu *m)
{
    struct pci_dma *d = calloc(1, sizeof *d);
    if (!d)
        return NULL;
    d->iommu = m;
    d->user = (struct plx_memory_user){.added = memory_added, .removed = memory_removed};
    plx_list_init(&d->spans);
    pthread_mutex_init(&d->lock, NULL);
    if (m->ops->hold)
        m->ops->hold(m);
    plx_memory_watch(&d->user);
    plx_list_add_tail(&all, &d->link);
    return d;
}

struct pci_dma *pci_dma_get(struct pci_iommu *m)
{
    struct pci_dma *found = NULL;
    pthread_mutex_lock(&all_lock);
    plx_list_for_each(it, &all) {
        struct pci_dma *d = plx_list_entry(it, struct pci_dma, link);
        if (d->iommu == m)
            found = d;
    }
    if (!found)
        found = dma_new(m);
    if (found)
        found->refs++;
    pthread_mutex_unlock(&all_lock);
    return found;
}

void pci_dma_put(struct pci_dma *d)
{
    pthread_mutex_lock(&all_lock);
    const bool last = !--d->refs;
    if (last) {
        plx_list_del(&d->link);
        plx_memory_unwatch(&d->user);
        while (!plx_list_empty(&d->spans))
            span_unmap(d, plx_list_entry(d->spans.next, struct span, link));
    }
    pthread_mutex_unlock(&all_lock);
    if (!last)
        return;
    if (d->iommu->ops->release)
        d->iommu->ops->release(d->iommu);
    pci_table_put(d->table);
    pthread_mutex_destroy(&d->lock);
    free(d);
}
