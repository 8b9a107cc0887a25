/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/hash.h"

#include <stdlib.h>

enum { ROWS_FIRST = 64 };

uint64_t plx_hash_bytes(const void *bytes, size_t n) /* FNV-1a */
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (const unsigned char *p = bytes; n; p++, n--)
        h = (h ^ *p) * UINT64_C(0x100000001b3);
    return h;
}

/* Keys that are addresses have the same low bits. */
static size_t row_of(const struct plx_hash *h, uint64_t key)
{
    return (size_t)(key * UINT64_C(0x9e3779b97f4a7c15) >> 32) & h->mask;
}

struct plx_list *plx_hash_row(struct plx_hash *h, uint64_t key)
{
    if (h->rows)
        return &h->rows[row_of(h, key)];
    if (!h->only.next)
        plx_list_init(&h->only);
    return &h->only;
}

/* Others than before, twice as many as there are members. */
static void hash_spread(struct plx_hash *h)
{
    struct plx_hash was = *h;
    const size_t rows = h->rows ? 2 * (h->mask + 1) : ROWS_FIRST;
    struct plx_list *more = malloc(rows * sizeof *more);
    if (!more)
        return;
    for (size_t i = 0; i < rows; i++)
        plx_list_init(&more[i]);
    *h = (struct plx_hash){.rows = more, .only = h->only, .mask = rows - 1, .n = h->n};
    for (size_t i = 0; i <= was.mask; i++)
        plx_list_for_each_safe(it, was.rows ? &was.rows[i] : &h->only) {
            plx_list_take(it);
            plx_list_add_tail(plx_hash_row(h, plx_list_entry(it, struct plx_hash_link, row)->key), it);
        }
    free(was.rows);
}

void plx_hash_add(struct plx_hash *h, struct plx_hash_link *l, uint64_t key)
{
    l->key = key;
    plx_list_add_tail(plx_hash_row(h, key), &l->row);
    if (++h->n > (h->rows ? h->mask : 1))
        hash_spread(h);
}

void plx_hash_del(struct plx_hash *h, struct plx_hash_link *l)
{
    plx_list_del(&l->row);
    if (--h->n)
        return;
    free(h->rows);
    *h = (struct plx_hash){.rows = NULL};
}
