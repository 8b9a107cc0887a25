/* SPDX-License-Identifier: BSD-3-Clause */
/* Mappings of files that others can make shorter: see plx_memory_fault(). */
#include "vhost/memory.h"

#include <errno.h>
#include <pollux/reactor.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

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
    m->guard = plx_guard_take(m->base, m->bytes, false, fault);
    if (m->guard) {
        plx_memory_add(m->base, m->bytes);
        return 0;
    }
    vhost_unmap(m);
    return plx_fail(err, -ENOSPC, "there are %d mappings already, which is all that there can be", PLX_GUARDS);
}

void vhost_unmap(struct vhost_map *m)
{
    if (!m->base)
        return;
    if (m->guard) {
        plx_memory_remove(m->base);
        plx_guard_give(m->guard);
    }
    munmap(m->base, m->bytes);
    memset(m, 0, sizeof *m);
}
