/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Memory that other processes can be given: a file in memory each, sealed, so that who has it cannot take it away below
 * us. Control path: there are few, and they come and go with reactors and jobs.
 */
#include "reactor/shared.h"

#include "base/list.h"
#include "base/util.h"

#include <assert.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { HUGE_2M = 2 << 20 };
#define MEMFD_HUGE_2M (21u << 26) /* MFD_HUGE_2MB, which the headers of glibc have not */

struct entry {
    struct plx_shared_region region;
    struct plx_list link;
};

static pthread_mutex_t shared_lock = PTHREAD_MUTEX_INITIALIZER;
static struct plx_list shared_all = {&shared_all, &shared_all};
_Atomic uint64_t plx_shared_made, plx_shared_freed;

/* Huge pages when the machine has set some aside, else ordinary ones. @return a descriptor or -1 */
static int shared_file(size_t bytes, bool huge)
{
    int fd = memfd_create("pollux", MFD_CLOEXEC | MFD_ALLOW_SEALING | (huge ? MFD_HUGETLB | MEMFD_HUGE_2M : 0));
    if (fd < 0)
        return -1;
    if (ftruncate(fd, (off_t)bytes) == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
        return fd;
    close(fd);
    return -1;
}

/*
 * Where the kernel puts it, or in room that is made for it. When the kernel cannot put it there, that room may be gone
 * already, and somebody else's: it is left to whoever has it.
 */
static uint8_t *map_aligned(int fd, size_t bytes, size_t align)
{
    uint8_t *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED || (uintptr_t)at % align == 0)
        return at == MAP_FAILED ? NULL : at;
    munmap(at, bytes);
    uint8_t *room = mmap(NULL, bytes + align, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED)
        return NULL;
    at = (uint8_t *)plx_align_up((uintptr_t)room, align);
    if (at != room)
        munmap(room, (size_t)(at - room));
    munmap(at + bytes, align - (size_t)(at - room));
    return mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED ? NULL : at;
}

static bool region_make(struct plx_shared_region *r, size_t bytes, size_t align)
{
    bool huge = bytes % HUGE_2M == 0;
    r->bytes = bytes;
    for (;; huge = false) {
        r->fd = shared_file(bytes, huge);
        r->base = r->fd >= 0 ? map_aligned(r->fd, bytes, plx_max_u64(align, huge ? HUGE_2M : 4096)) : NULL;
        if (r->base)
            return true;
        if (r->fd >= 0)
            close(r->fd);
        if (!huge)
            return false;
    }
}

void *plx_shared_make(size_t bytes, size_t align)
{
    struct entry *e = calloc(1, sizeof *e);
    if (!e || !region_make(&e->region, plx_align_up(bytes, (size_t)sysconf(_SC_PAGESIZE)), align)) {
        free(e);
        return NULL;
    }
    madvise(e->region.base, e->region.bytes, MADV_HUGEPAGE); /* where the kernel does that for files in memory */
    pthread_mutex_lock(&shared_lock);
    e->region.id = atomic_fetch_add(&plx_shared_made, 1) + 1;
    plx_list_add_tail(&shared_all, &e->link);
    pthread_mutex_unlock(&shared_lock);
    return e->region.base;
}

void *plx_shared_alloc(size_t bytes)
{
    void *mem = plx_shared_make(bytes, 1);
    if (mem)
        plx_memory_add(mem, plx_align_up(bytes, (size_t)sysconf(_SC_PAGESIZE)));
    return mem;
}

static struct entry *shared_find(const void *mem)
{
    plx_list_for_each(it, &shared_all) {
        struct entry *e = plx_list_entry(it, struct entry, link);
        if (e->region.base == mem)
            return e;
    }
    return NULL;
}

void plx_shared_free(void *mem)
{
    if (!mem)
        return;
    plx_memory_remove(mem);
    pthread_mutex_lock(&shared_lock);
    struct entry *e = shared_find(mem);
    assert(e);
    plx_list_del(&e->link);
    /* Before others can be there: who has such was told of it after this, and so reads this count, or a later one. */
    atomic_fetch_add(&plx_shared_freed, 1);
    pthread_mutex_unlock(&shared_lock);
    munmap(e->region.base, e->region.bytes);
    close(e->region.fd);
    free(e);
}

unsigned plx_shared_list(struct plx_shared_region *regions, unsigned max, uint64_t *freed)
{
    unsigned n = 0;
    pthread_mutex_lock(&shared_lock);
    *freed = atomic_load(&plx_shared_freed);
    plx_list_for_each(it, &shared_all) {
        if (n == max)
            break;
        regions[n] = plx_list_entry(it, struct entry, link)->region;
        regions[n].fd = fcntl(regions[n].fd, F_DUPFD_CLOEXEC, 0);
        n += regions[n].fd >= 0;
    }
    pthread_mutex_unlock(&shared_lock);
    return n;
}
