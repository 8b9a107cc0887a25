/* SPDX-License-Identifier: BSD-3-Clause */
/* Units of trees in memory: found by where they are on the disk, loaded when they are wanted, and forgotten again. */
#include "pool.h"

#include "base/crc32c.h"
#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    CHUNK_NODES = 32,
    TRIMMED_AT_ONCE = 64, /* nodes that are looked at */
    SUMMED_AT_ONCE = 16,
};

/* Memory is taken for many, and kept for others: under load there are thousands a second, come and gone. */
struct pool_chunk {
    struct pool_chunk *next;
    void *mem;
    struct pool_node nodes[CHUNK_NODES];
};

struct node_load {
    struct pool_io io;
    struct plx_pool *pool;
    struct pool_node *node;
};

int pool_nodes_init(struct plx_pool *p)
{
    uint32_t places = 1;
    while (places < p->nodes_max)
        places *= 2;
    p->table = calloc(places, sizeof *p->table);
    p->table_mask = places - 1;
    plx_list_init(&p->clean);
    for (unsigned i = 0; i < POOL_LEVELS; i++) {
        plx_list_init(&p->dirty[i]);
        plx_list_init(&p->frozen[i]);
    }
    return p->table ? 0 : -ENOMEM;
}

static struct pool_node **place_of(struct plx_pool *p, uint64_t unit)
{
    return &p->table[(unit * UINT64_C(0x9e3779b97f4a7c15) >> 40) & p->table_mask];
}

struct pool_node *pool_node_find(struct plx_pool *p, uint64_t unit)
{
    struct pool_node *n = *place_of(p, unit);
    while (n && n->unit != unit)
        n = n->chain;
    return n;
}

static void node_enter(struct plx_pool *p, struct pool_node *n)
{
    struct pool_node **place = place_of(p, n->unit);
    n->chain = *place;
    *place = n;
    p->nodes++;
}

/* Out of the table and its list. */
static void node_free(struct plx_pool *p, struct pool_node *n)
{
    struct pool_node **link = place_of(p, n->unit);
    while (*link != n)
        link = &(*link)->chain;
    *link = n->chain;
    plx_list_del(&n->link);
    p->nodes--;
    p->shape++;
    n->chain = p->node_free;
    p->node_free = n;
}

static bool chunk_add(struct plx_pool *p)
{
    struct pool_chunk *chunk = calloc(1, sizeof *chunk);
    uint8_t *mem = chunk ? aligned_alloc(4096, (size_t)CHUNK_NODES << p->unit_shift) : NULL;
    if (!mem) {
        free(chunk);
        return false;
    }
    chunk->mem = mem;
    chunk->next = p->chunks;
    p->chunks = chunk;
    for (unsigned i = 0; i < CHUNK_NODES; i++) {
        struct pool_node *n = &chunk->nodes[i];
        n->mem = mem + ((size_t)i << p->unit_shift);
        n->chain = p->node_free;
        p->node_free = n;
    }
    return true;
}

static struct pool_node *node_alloc(struct plx_pool *p, uint64_t unit, unsigned level)
{
    if (!p->node_free && !chunk_add(p))
        return NULL;
    struct pool_node *n = p->node_free;
    p->node_free = n->chain;
    *n = (struct pool_node){.mem = n->mem, .unit = unit, .level = (uint8_t)level};
    plx_list_init(&n->link);
    plx_list_init(&n->waits);
    node_enter(p, n);
    return n;
}

bool pool_nodes_trim(struct plx_pool *p)
{
    for (unsigned i = 0; i < TRIMMED_AT_ONCE && p->nodes > p->nodes_max && !plx_list_empty(&p->clean); i++) {
        struct pool_node *n = plx_list_entry(p->clean.next, struct pool_node, link);
        if (n->used) {
            n->used = false;
            plx_list_del(&n->link);
            plx_list_add_tail(&p->clean, &n->link);
        } else {
            node_free(p, n);
        }
    }
    return p->nodes > p->nodes_max && !plx_list_empty(&p->clean);
}

void pool_nodes_destroy(struct plx_pool *p)
{
    for (struct pool_chunk *chunk; (chunk = p->chunks);) {
        p->chunks = chunk->next;
        free(chunk->mem);
        free(chunk);
    }
    free(p->table);
    p->table = NULL;
}

void pool_nodes_sum(struct plx_pool *p, uint32_t *left)
{
    for (unsigned i = 0; i < SUMMED_AT_ONCE && *left && !plx_list_empty(&p->dirty[1]); i++, --*left) {
        struct pool_node *n = plx_list_entry(p->dirty[1].next, struct pool_node, link);
        plx_list_del(&n->link);
        plx_list_add_tail(&p->dirty[1], &n->link);
        if (n->tree->of && !n->summed) { /* else changed at that moment */
            n->crc = plx_crc32c(n->mem, (size_t)1 << p->unit_shift);
            n->summed = true;
        }
    }
    if (plx_list_empty(&p->dirty[1]))
        *left = 0;
}

uint32_t pool_node_crc(const struct plx_pool *p, struct pool_node *n)
{
    return n->summed ? n->crc : plx_crc32c(n->mem, (size_t)1 << p->unit_shift);
}

int pool_node_new(struct plx_pool *p, uint64_t unit, unsigned level, struct pool_node **out)
{
    struct pool_node *n = node_alloc(p, unit, level);
    if (!n)
        return -ENOMEM;
    memset(n->mem, 0, (size_t)1 << p->unit_shift);
    n->state = POOL_NODE_DIRTY;
    plx_list_add_tail(&p->dirty[level], &n->link);
    p->n_dirty++;
    p->shape++;
    *out = n;
    return 0;
}

void pool_node_cleaned(struct plx_pool *p, struct pool_node *n)
{
    p->n_frozen--;
    if (n->dropped) {
        node_free(p, n);
        return;
    }
    n->state = POOL_NODE_CLEAN;
    plx_list_del(&n->link);
    plx_list_add_tail(&p->clean, &n->link);
}

void pool_node_drop(struct plx_pool *p, struct pool_node *n)
{
    if (n->state == POOL_NODE_FROZEN) {
        n->dropped = true;
        return;
    }
    if (n->state == POOL_NODE_DIRTY)
        p->n_dirty--;
    node_free(p, n);
}

/* ---- loading ---- */

static void node_loaded(struct plx_bdev_req *req)
{
    struct node_load *l = plx_container_of(req, struct node_load, io.req);
    struct plx_pool *p = l->pool;
    struct pool_node *n = l->node;
    uint16_t status = req->status;
    if (!status && plx_crc32c(n->mem, (size_t)1 << p->unit_shift) != n->crc) {
        if (pool_io_again(&l->io, p))
            return;
        plx_error("pool %s: unit %llu is damaged: what it leads to cannot be read", pool_shown(p),
                  (unsigned long long)n->unit);
        status = PLX_SC_UNRECOVERED_READ_ERROR;
    } else if (!status && l->io.copies) {
        plx_warn("pool %s: unit %llu is damaged in one copy of %s, and was read from another", pool_shown(p),
                 (unsigned long long)n->unit, plx_bdev_info(p->disk)->name);
    }
    pool_lock(p);
    p->rotten += status && !req->status;
    pool_wake(&n->waits, status);
    if (status) {
        node_free(p, n);
    } else {
        n->state = POOL_NODE_CLEAN;
        n->used = true;
        plx_list_add_tail(&p->clean, &n->link);
    }
    pool_unlock(p);
    free(l);
}

void pool_node_load(struct plx_pool *p, struct pool_node *n, struct plx_bdev_channel *ch)
{
    struct node_load *l = calloc(1, sizeof *l);
    if (!l) {
        pool_lock(p);
        pool_wake(&n->waits, PLX_SC_INTERNAL_ERROR);
        node_free(p, n);
        pool_unlock(p);
        return;
    }
    l->pool = p;
    l->node = n;
    l->io.iov[0] = (struct iovec){n->mem, (size_t)1 << p->unit_shift};
    pool_io_init(&l->io, PLX_BDEV_READ, n->unit, 1, p, node_loaded, NULL);
    plx_bdev_submit(ch, &l->io.req);
}

int pool_node_get(struct plx_pool *p, struct pool_try *t, const struct pool_entry *e, unsigned level,
                  struct pool_node **out)
{
    struct pool_node *n = pool_node_find(p, pool_entry_unit(e));
    if (plx_likely(n && n->state != POOL_NODE_LOADING)) {
        if (!n->used)
            n->used = true;
        *out = n;
        return n->level == level ? 0 : -EUCLEAN;
    }
    if (!n) {
        if (pool_entry_unit(e) >= p->units)
            return -EUCLEAN;
        pool_nodes_trim(p);
        n = node_alloc(p, pool_entry_unit(e), level);
        if (!n)
            return -ENOMEM;
        n->state = POOL_NODE_LOADING;
        n->crc = plx_get32(e->crc);
        t->load = n;
    }
    pool_wait_in(&n->waits, t->wait);
    return POOL_AGAIN;
}

struct pool_node *pool_node_ahead(struct plx_pool *p, const struct pool_entry *e, unsigned level)
{
    if (!e->where.raw || pool_entry_unit(e) >= p->units || pool_node_find(p, pool_entry_unit(e)))
        return NULL;
    struct pool_node *n = node_alloc(p, pool_entry_unit(e), level);
    if (!n)
        return NULL;
    n->state = POOL_NODE_LOADING;
    n->crc = plx_get32(e->crc);
    return n;
}
