/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Mappings of files that others can make shorter. The library owns no signal: a program's handler of SIGBUS calls
 * plx_vhost_fault(), which finds the mapping without a lock and puts empty memory in its place, so that whoever touched
 * it goes on, and whose it was is told.
 */
#include "vhost/memory.h"

#include <errno.h>
#include <pollux/vhost.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { GUARDS = 16384 };

/* Written when it is taken and given back, while nobody can touch the memory; read by handlers. */
struct vhost_guard {
    _Atomic(atomic_bool *) fault; /* NULL: free */
    _Atomic uintptr_t base;       /* 0: not yet, or no more */
    _Atomic size_t bytes;
};

static struct vhost_guard guards[GUARDS];
static atomic_uint guards_used; /* those from here on were never taken */

static struct vhost_guard *guard_take(void *base, size_t bytes, atomic_bool *fault)
{
    for (unsigned i = 0; i < GUARDS; i++) {
        struct vhost_guard *g = &guards[i];
        atomic_bool *none = NULL;
        if (!atomic_compare_exchange_strong(&g->fault, &none, fault))
            continue;
        atomic_store(&g->bytes, bytes);
        atomic_store(&g->base, (uintptr_t)base);
        for (unsigned used = i; used <= i && !atomic_compare_exchange_weak(&guards_used, &used, i + 1);)
            ;
        return g;
    }
    return NULL;
}

static void guard_give(struct vhost_guard *g)
{
    atomic_store(&g->base, 0);
    atomic_store(&g->fault, NULL);
}

/* In a signal handler: mmap() is a system call and nothing else. */
static bool guard_replace(struct vhost_guard *g, uintptr_t at)
{
    const uintptr_t base = atomic_load(&g->base);
    const size_t bytes = atomic_load(&g->bytes);
    if (!base || at - base >= bytes || atomic_load(&g->base) != base) /* else it may be another mapping's size */
        return false;
    /* All of it: of huge pages no part can be replaced. */
    void *empty = mmap((void *)base, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    atomic_store(atomic_load(&g->fault), true);
    return empty != MAP_FAILED;
}

bool plx_vhost_fault(const void *at)
{
    const unsigned n = atomic_load(&guards_used);
    const int saved = errno;
    bool found = false;
    for (unsigned i = 0; i < n && !found; i++)
        found = guard_replace(&guards[i], (uintptr_t)at);
    errno = saved;
    return found;
}

/* Where a mapping must begin and end: files of huge pages say how large these are. */
static uint64_t map_unit(const struct stat *st)
{
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), block = (uint64_t)st->st_blksize;
    return block > page && !(block & (block - 1)) ? block : page;
}

int vhost_map(struct vhost_map *m, int fd, uint64_t offset, uint64_t size, atomic_bool *fault, struct plx_error *err)
{
    struct stat st;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
        return plx_fail(err, -EINVAL,
                        "memory is to be a file that can be shared, such as QEMU's memory-backend-memfd "
                        "with share=on");
    if (offset > (uint64_t)st.st_size || size > (uint64_t)st.st_size - offset)
        return plx_fail(err, -EINVAL, "a region ends behind its file, which has %lld bytes", (long long)st.st_size);
    const uint64_t unit = map_unit(&st), begin = offset & ~(unit - 1);
    m->bytes = plx_align_up(offset + size - begin, unit);
    m->base = mmap(NULL, m->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)begin);
    if (m->base == MAP_FAILED) {
        int ret = -errno;
        m->base = NULL;
        return plx_fail(err, ret, "cannot map memory: %s", strerror(-ret));
    }
    madvise(m->base, m->bytes, MADV_DONTDUMP);
    m->at = (uint8_t *)m->base + (offset - begin);
    m->guard = guard_take(m->base, m->bytes, fault);
    if (m->guard)
        return 0;
    vhost_unmap(m);
    return plx_fail(err, -ENOSPC, "there are %d mappings already, which is all that there can be", GUARDS);
}

void vhost_unmap(struct vhost_map *m)
{
    if (!m->base)
        return;
    if (m->guard)
        guard_give(m->guard);
    munmap(m->base, m->bytes);
    memset(m, 0, sizeof *m);
}
