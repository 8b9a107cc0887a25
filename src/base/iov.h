/* SPDX-License-Identifier: BSD-3-Clause */
/* Walking along an iovec. */
#ifndef PLX_BASE_IOV_H
#define PLX_BASE_IOV_H

#include "base/util.h"

#include <stdbool.h>
#include <string.h>
#include <sys/uio.h>

/* A place in an iovec, which must be as long as what is asked of it. */
struct plx_iov_at {
    const struct iovec *iov;
    size_t offset; /* within iov[0] */
};

/* The next contiguous bytes, at most max (which is not 0), which it steps over. @return how many, at *p */
static inline size_t plx_iov_next(struct plx_iov_at *at, size_t max, uint8_t **p)
{
    while (at->offset == at->iov->iov_len) {
        at->iov++;
        at->offset = 0;
    }
    size_t n = plx_min_u64(max, at->iov->iov_len - at->offset);
    *p = (uint8_t *)at->iov->iov_base + at->offset;
    at->offset += n;
    return n;
}

static inline void plx_iov_skip(struct plx_iov_at *at, size_t bytes)
{
    uint8_t *p;
    while (bytes)
        bytes -= plx_iov_next(at, bytes, &p);
}

/* Copies from the iovec to memory. */
static inline void plx_iov_gather(struct plx_iov_at *at, void *to, size_t bytes)
{
    uint8_t *p, *dst = to;
    for (size_t n; bytes; bytes -= n, dst += n) {
        n = plx_iov_next(at, bytes, &p);
        memcpy(dst, p, n);
    }
}

/* Copies from memory to the iovec. */
static inline void plx_iov_scatter(struct plx_iov_at *at, const void *from, size_t bytes)
{
    uint8_t *p;
    const uint8_t *src = from;
    for (size_t n; bytes; bytes -= n, src += n) {
        n = plx_iov_next(at, bytes, &p);
        memcpy(p, src, n);
    }
}

static inline void plx_iov_zero(struct plx_iov_at *at, size_t bytes)
{
    uint8_t *p;
    for (size_t n; bytes; bytes -= n) {
        n = plx_iov_next(at, bytes, &p);
        memset(p, 0, n);
    }
}

static inline bool plx_iov_equals(struct plx_iov_at *at, const void *with, size_t bytes)
{
    uint8_t *p;
    const uint8_t *mem = with;
    for (size_t n; bytes; bytes -= n, mem += n) {
        n = plx_iov_next(at, bytes, &p);
        if (memcmp(p, mem, n))
            return false;
    }
    return true;
}

/*
 * An iovec from some byte on, made without memory: the entry that the byte is in is shortened for as long as the rest
 * is in use.
 */
struct plx_iov_tail {
    struct iovec *entry, whole;
};

/* @return the rest; *count entries are left of it */
static inline struct iovec *plx_iov_cut(struct plx_iov_tail *t, struct iovec *iov, uint32_t *count, size_t bytes)
{
    while (bytes && bytes >= iov->iov_len) {
        bytes -= iov->iov_len;
        iov++;
        --*count;
    }
    t->entry = iov;
    t->whole = *iov;
    iov->iov_base = (uint8_t *)iov->iov_base + bytes;
    iov->iov_len -= bytes;
    return iov;
}

/* Makes the caller's iovec whole again; harmless when it was not cut. */
static inline void plx_iov_mend(struct plx_iov_tail *t)
{
    if (t->entry)
        *t->entry = t->whole;
    t->entry = NULL;
}

#endif
