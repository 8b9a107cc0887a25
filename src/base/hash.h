/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Things found by a key, a number that few of them share, however many there are. Links live in its members; those of
 * one key stand in the order in which they were added. Nothing of it can fail: without memory it is slower.
 */
#ifndef PLX_BASE_HASH_H
#define PLX_BASE_HASH_H

#include "base/list.h"

struct plx_hash_link {
    struct plx_list row;
    uint64_t key;
};

/* Zeroes when it is empty. */
struct plx_hash {
    struct plx_list *rows; /* a power of two of them; NULL: `only` is the one */
    struct plx_list only;
    size_t mask, n;
};

void plx_hash_add(struct plx_hash *h, struct plx_hash_link *l, uint64_t key);
void plx_hash_del(struct plx_hash *h, struct plx_hash_link *l);

/* Those of a key are in this row, and others may be, too. */
struct plx_list *plx_hash_row(struct plx_hash *h, uint64_t key);

uint64_t plx_hash_bytes(const void *bytes, size_t n);

#define plx_hash_entry(it, type, member) plx_list_entry(it, type, member.row)

#endif
