/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The log: what has been mapped since the last checkpoint. A commit has everything on the disk that was written and
 * changed before it began: the disk is flushed, so that what the log will say is there; then pages are written; then it
 * is flushed once more.
 *
 * Pages are numbered, and a page is where its number says. What is replayed ends at the first page that is not the next
 * one, whatever may come after it.
 */
#include "pool.h"

#include "base/crc32c.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { PAGES_AT_ONCE = 64 };

struct pool_page {
    struct plx_list link;
    uint64_t seq;
    uint32_t bytes; /* of changes */
    uint8_t *mem;
};

struct pool_commit {
    struct pool_io io;
    struct plx_pool *pool;
    struct plx_bdev_channel *ch;
    struct plx_list *at; /* the first page that has not been written */
    bool pages;          /* there are any */
    bool written;        /* and they all are */
};

static size_t page_room(const struct plx_pool *p)
{
    return ((size_t)1 << p->unit_shift) - POOL_PAGE_HEADER;
}

static void page_free(struct pool_page *page)
{
    if (page) {
        free(page->mem);
        free(page);
    }
}

static struct pool_page *page_new(struct plx_pool *p)
{
    struct pool_page *page = calloc(1, sizeof *page);
    if (!page)
        return NULL;
    page->mem = aligned_alloc(4096, (size_t)1 << p->unit_shift);
    if (!page->mem) {
        free(page);
        return NULL;
    }
    memset(page->mem, 0, (size_t)1 << p->unit_shift);
    page->seq = p->log_seq++;
    plx_list_init(&page->link);
    return page;
}

void pool_log_init(struct plx_pool *p)
{
    plx_list_init(&p->log_pages);
    plx_list_init(&p->log_writing);
    plx_list_init(&p->flushes);
    plx_list_init(&p->flushing);
}

static void pages_free(struct plx_list *pages)
{
    while (!plx_list_empty(pages)) {
        struct pool_page *page = plx_list_entry(pages->next, struct pool_page, link);
        plx_list_del(&page->link);
        page_free(page);
    }
}

void pool_log_destroy(struct plx_pool *p)
{
    page_free(p->log_page);
    pages_free(&p->log_pages);
    pages_free(&p->log_writing);
}

/* ---- changes ---- */

static void page_seal(struct plx_pool *p)
{
    struct pool_page *page = p->log_page;
    if (!page || !page->bytes)
        return;
    struct pool_log_page *h = (void *)page->mem;
    memcpy(h->magic, POOL_LOG_MAGIC, sizeof h->magic);
    memcpy(h->uuid, p->uuid, sizeof h->uuid);
    h->bytes = plx_put32(page->bytes);
    h->seq = plx_put64(page->seq);
    h->crc = plx_put32(plx_crc32c(page->mem, (size_t)1 << p->unit_shift));
    plx_list_add_tail(&p->log_pages, &page->link);
    p->log_page = NULL;
}

uint32_t pool_change_bytes(const struct plx_pool *p, enum pool_change_kind kind, unsigned count)
{
    const uint32_t crcs = kind == POOL_MAP && p->flags & POOL_CHECKSUMS ? count * 4 : 0;
    return (uint32_t)sizeof(struct pool_change) + (uint32_t)plx_align_up(crcs, 8);
}

int pool_log_ready(struct plx_pool *p, struct pool_try *t, uint32_t bytes)
{
    if (!atomic_load_explicit(&p->changed, memory_order_relaxed)) {
        atomic_store(&p->changed, true);
        t->kick = true; /* somebody has to see to it that it is committed */
    }
    if (p->log_page && page_room(p) - p->log_page->bytes >= bytes)
        return 0;
    uint64_t live = p->log_seq - p->log_first;
    if (live >= p->log_units / 2) {
        pool_checkpoint_want(p);
        t->kick = true;
    }
    if (live + 1 >= p->log_units) {
        pool_wait_in(&p->space_waits, t->wait);
        return POOL_AGAIN;
    }
    page_seal(p);
    if (!p->log_page)
        p->log_page = page_new(p);
    return p->log_page ? 0 : -ENOMEM;
}

void pool_log_add(struct plx_pool *p, uint32_t volume, enum pool_change_kind kind, uint64_t at, uint64_t to,
                  unsigned count, const plx_le32 *crcs)
{
    struct pool_page *page = p->log_page;
    struct pool_change *c = (void *)(page->mem + POOL_PAGE_HEADER + page->bytes);
    *c = (struct pool_change){plx_put32(volume), plx_put16(kind), plx_put16(count), plx_put64(at), plx_put64(to)};
    if (crcs)
        memcpy(c + 1, crcs, count * sizeof *crcs);
    page->bytes += pool_change_bytes(p, kind, count);
}

uint64_t pool_log_turn(struct plx_pool *p)
{
    page_seal(p);
    return p->log_page ? p->log_page->seq : p->log_seq;
}

void pool_log_forget(struct plx_pool *p, uint64_t seq)
{
    p->log_first = seq;
    /* Pages that were not written are part of the checkpoint now. */
    plx_list_for_each_safe(it, &p->log_pages) {
        struct pool_page *page = plx_list_entry(it, struct pool_page, link);
        if (page->seq < seq) {
            plx_list_del(&page->link);
            page_free(page);
        }
    }
    pool_wake(&p->space_waits, 0);
}

/* ---- commits ---- */

static void commit_step(struct pool_commit *c);

static void commit_over(struct pool_commit *c, uint16_t status)
{
    struct plx_pool *p = c->pool;
    pool_lock(p);
    if (status) {
        /* They go once more with the next commit, before what came after them. */
        while (!plx_list_empty(&p->log_writing)) {
            struct plx_list *last = p->log_writing.prev;
            plx_list_del(last);
            plx_list_add_tail(p->log_pages.next, last);
        }
    } else {
        pages_free(&p->log_writing);
    }
    pool_wake(&p->flushing, status);
    p->committing = false;
    /* The next one begins where somebody waits for it: that reactor's channel is there as long as it does. */
    if (!plx_list_empty(&p->flushes)) {
        struct pool_wait *w = plx_list_entry(p->flushes.next, struct pool_wait, link);
        plx_list_del(&w->link);
        plx_list_add_tail(&p->flushing, &w->link);
        pool_wake(&p->flushing, POOL_COMMIT_AGAIN);
    }
    pool_unlock(p);
    free(c);
}

static void commit_done(struct plx_bdev_req *req)
{
    struct pool_commit *c = plx_container_of(req, struct pool_commit, io.req);
    if (req->status)
        commit_over(c, req->status);
    else
        commit_step(c);
}

/* Writes as many pages as stand in a row on the disk. @return false when all are written */
static bool commit_write(struct pool_commit *c)
{
    struct plx_pool *p = c->pool;
    unsigned n = 0;
    uint64_t first = 0;
    pool_lock(p); /* the list is this commit's, but checkpoints look at it */
    for (; c->at != &p->log_writing && n < PAGES_AT_ONCE; c->at = c->at->next, n++) {
        struct pool_page *page = plx_list_entry(c->at, struct pool_page, link);
        uint64_t place = page->seq % p->log_units;
        if (!n)
            first = place;
        else if (place != first + n)
            break;
        c->io.iov[n] = (struct iovec){page->mem, (size_t)1 << p->unit_shift};
    }
    pool_unlock(p);
    if (!n)
        return false;
    pool_io_init(&c->io, PLX_BDEV_WRITE, POOL_LOG_FIRST + first, n, p, commit_done, NULL);
    plx_bdev_submit(c->ch, &c->io.req);
    return true;
}

static void commit_flush(struct pool_commit *c)
{
    pool_io_init(&c->io, PLX_BDEV_FLUSH, 0, 0, c->pool, commit_done, NULL);
    plx_bdev_submit(c->ch, &c->io.req);
}

static void commit_step(struct pool_commit *c)
{
    const bool cached = plx_bdev_info(c->pool->disk)->write_cache;
    if (c->written) {
        commit_over(c, 0);
    } else if (!commit_write(c)) {
        c->written = true;
        if (cached && c->pages)
            commit_flush(c);
        else
            commit_over(c, 0);
    }
}

static void commit_begin(struct pool_commit *c)
{
    struct plx_pool *p = c->pool;
    c->at = p->log_writing.next;
    c->pages = c->at != &p->log_writing;
    pool_unlock(p);
    if (plx_bdev_info(p->disk)->write_cache)
        commit_flush(c);
    else
        commit_step(c);
}

void pool_commit(struct plx_pool *p, struct plx_bdev_channel *ch, struct pool_wait *w)
{
    struct pool_commit *c = calloc(1, sizeof *c);
    pool_lock(p);
    if (p->committing || !c) {
        if (c) {
            pool_wait_in(&p->flushes, w);
        } else {
            struct plx_list one;
            plx_list_init(&one);
            pool_wait_in(&one, w);
            pool_wake(&one, PLX_SC_INTERNAL_ERROR);
        }
        pool_unlock(p);
        free(c);
        return;
    }
    p->committing = true;
    c->pool = p;
    c->ch = ch;
    page_seal(p);
    while (!plx_list_empty(&p->log_pages)) {
        struct plx_list *first = p->log_pages.next;
        plx_list_del(first);
        plx_list_add_tail(&p->log_writing, first);
    }
    /* All who wait are served, whoever begins. */
    pool_wait_in(&p->flushes, w);
    while (!plx_list_empty(&p->flushes)) {
        struct plx_list *first = p->flushes.next;
        plx_list_del(first);
        plx_list_add_tail(&p->flushing, first);
    }
    commit_begin(c);
}

/* ---- what was written ---- */

bool pool_log_page_ok(const struct plx_pool *p, void *unit, uint64_t seq)
{
    struct pool_log_page *h = unit;
    plx_le32 crc = h->crc;
    h->crc = plx_put32(0);
    bool ok = plx_crc32c(unit, (size_t)1 << p->unit_shift) == plx_get32(crc);
    h->crc = crc;
    return ok && !memcmp(h->magic, POOL_LOG_MAGIC, sizeof h->magic) && !memcmp(h->uuid, p->uuid, sizeof h->uuid) &&
           plx_get64(h->seq) == seq && plx_get32(h->bytes) <= page_room(p);
}
