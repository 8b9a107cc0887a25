/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Buffers for data in flight: a buddy allocator over one region of fixed size. Every buffer is one contiguous piece,
 * so data is one iovec whatever its size. The links of free blocks are kept beside the region, so memory that was
 * never handed out is never touched.
 *
 * Blocks of the largest order come into use one after the other, as they are needed. What devices know of is in
 * physical memory for as long as they do, and to bring it there takes long. So they know of the region's first piece at
 * once, and of the rest from the first buffer on, by a thread of its own; huge pages are there, and they know of all.
 * What they do not know of yet is copied.
 */
#include "reactor/memory.h"
#include "reactor/owner.h"
#include "reactor/reactor.h"
#include "reactor/shared.h"
#include "reactor/thread.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
    FREE = 0x80, /* in state[]: a free block begins here */
    NONE = -1,
};

static unsigned order_of(size_t size)
{
    size_t blocks = (size + PLX_BUF_MIN - 1) / PLX_BUF_MIN;
    return blocks <= 1 ? 0 : 64 - (unsigned)__builtin_clzll(blocks - 1);
}

static void push(struct plx_buf_pool *p, int32_t block, unsigned order)
{
    int32_t head = p->free_head[order];
    p->state[block] = (uint8_t)(FREE | order);
    p->prev[block] = NONE;
    p->next[block] = head;
    if (head != NONE)
        p->prev[head] = block;
    p->free_head[order] = block;
}

static void unlink_block(struct plx_buf_pool *p, int32_t block, unsigned order)
{
    int32_t next = p->next[block], prev = p->prev[block];
    if (prev == NONE)
        p->free_head[order] = next;
    else
        p->next[prev] = next;
    if (next != NONE)
        p->prev[next] = prev;
    p->state[block] = 0;
}

/* Huge pages when the machine has set some aside, else ordinary ones that may become transparent huge pages. */
static uint8_t *map_region(size_t bytes, size_t align, bool *huge)
{
    const int huge_2m = 21 << MAP_HUGE_SHIFT; /* whatever the default size is: the region is a multiple of this */
    uint8_t *m = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | huge_2m, -1, 0);
    *huge = m != MAP_FAILED;
    if (*huge)
        return m;
    m = mmap(NULL, bytes + align, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m == MAP_FAILED)
        return NULL;
    uint8_t *aligned = (uint8_t *)plx_align_up((uintptr_t)m, align);
    if (aligned != m)
        munmap(m, (size_t)(aligned - m));
    munmap(aligned + bytes, align - (size_t)(aligned - m));
    return aligned;
}

int plx_buf_pool_init(struct plx_buf_pool *p, size_t bytes, size_t largest, bool shared, bool told)
{
    p->max_order = order_of(largest);
    const size_t top = (size_t)PLX_BUF_MIN << p->max_order, piece = plx_max_u64(top, 2 << 20);
    bool huge = false;
    p->bytes = plx_align_up(plx_max_u64(bytes, 4 * top), piece);
    p->blocks = (int32_t)(p->bytes / PLX_BUF_MIN);
    p->free_head = malloc((p->max_order + 1) * sizeof *p->free_head);
    p->next = malloc((size_t)p->blocks * sizeof *p->next);
    p->prev = malloc((size_t)p->blocks * sizeof *p->prev);
    p->state = calloc((size_t)p->blocks, 1);
    p->shared = shared;
    if (p->free_head && p->next && p->prev && p->state)
        p->base = shared ? plx_shared_make(p->bytes, piece) : map_region(p->bytes, piece, &huge);
    if (!p->base) {
        plx_buf_pool_destroy(p);
        return -ENOMEM;
    }
    for (unsigned o = 0; o <= p->max_order; o++)
        p->free_head[o] = NONE;
    p->free_bytes = p->bytes;
    p->first = huge ? p->bytes : piece;
    p->told = !told || huge;
    if (told)
        plx_memory_add(p->base, p->first);
    return 0;
}

void plx_buf_pool_destroy(struct plx_buf_pool *p)
{
    if (p->telling)
        pthread_join(p->teller, NULL);
    if (p->base)
        plx_memory_remove(p->base);
    if (p->base && p->first < p->bytes)
        plx_memory_remove(p->base + p->first);
    if (p->shared)
        plx_shared_free(p->base);
    else if (p->base)
        munmap(p->base, p->bytes);
    free(p->free_head);
    free(p->next);
    free(p->prev);
    free(p->state);
    memset(p, 0, sizeof *p);
}

static void *buf_tell(void *arg)
{
    const struct plx_buf_pool *p = arg;
    plx_memory_add(p->base + p->first, p->bytes - p->first);
    return NULL;
}

/* Of the rest; on this thread where nobody listens. What cannot be told now may be when more comes into use. */
static void buf_tell_devices(struct plx_reactor *r)
{
    struct plx_buf_pool *p = &r->buf;
    p->told = plx_memory_add_unheard(p->base + p->first, p->bytes - p->first);
    if (p->told)
        return;
    p->telling = !plx_thread_start(&p->teller, r->pinned ? &r->unpinned : NULL, buf_tell, p, "pollux-memory");
    p->told = p->telling;
}

/* One more block of the largest order comes into use. @return whether there was one */
static bool buf_grow(struct plx_reactor *r)
{
    struct plx_buf_pool *p = &r->buf;
    if (p->used == p->blocks)
        return false;
    push(p, p->used, p->max_order);
    p->used += 1 << p->max_order;
    if (!p->told)
        buf_tell_devices(r);
    return true;
}

void *plx_buf_get(struct plx_reactor *r, size_t size)
{
    struct plx_buf_pool *p = &r->buf;
    unsigned want = order_of(size), o = want;
    plx_assert_here(r);
    assert(want <= p->max_order);
    while (p->free_head[o] == NONE)
        if (o < p->max_order)
            o++;
        else if (!buf_grow(r))
            return NULL;
    int32_t block = p->free_head[o];
    unlink_block(p, block, o);
    while (o > want) {
        o--;
        push(p, block + (1 << o), o);
    }
    p->state[block] = (uint8_t)want;
    p->free_bytes -= (size_t)PLX_BUF_MIN << want;
    return p->base + (size_t)block * PLX_BUF_MIN;
}

void plx_buf_put(struct plx_reactor *r, void *buf, size_t size)
{
    struct plx_buf_pool *p = &r->buf;
    unsigned o = order_of(size);
    size_t offset = (size_t)((uint8_t *)buf - p->base);
    plx_assert_here(r);
    assert(offset < p->bytes && offset % ((size_t)PLX_BUF_MIN << o) == 0);
    int32_t block = (int32_t)(offset / PLX_BUF_MIN);
    assert(p->state[block] == o); /* given back once, with the size it was asked for */
    p->free_bytes += (size_t)PLX_BUF_MIN << o;
    for (; o < p->max_order; o++) {
        int32_t buddy = block ^ (1 << o);
        if (p->state[buddy] != (FREE | o))
            break;
        unlink_block(p, buddy, o);
        p->state[block] = 0;
        block &= ~(1 << o);
    }
    push(p, block, o);
}

size_t plx_buf_free_bytes(const struct plx_reactor *r)
{
    return r->buf.free_bytes;
}

size_t plx_buf_total_bytes(const struct plx_reactor *r)
{
    return r->buf.bytes;
}

size_t plx_buf_max_bytes(const struct plx_reactor *r)
{
    return (size_t)PLX_BUF_MIN << r->buf.max_order;
}
