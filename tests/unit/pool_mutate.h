/* SPDX-License-Identifier: BSD-3-Clause */
/* Pools of an attacker's making: one that is whole, of which bytes are others, with all checksums right. */
#ifndef TEST_POOL_MUTATE_H
#define TEST_POOL_MUTATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MUTATION = 12 }; /* bytes of data, each of which changes a place */

struct mutated {
    bool clean;  /* the checker had nothing to say */
    bool opened; /* and whether the pool could be opened */
    bool mended; /* a repair has made it clean */
};

/*
 * Makes such a pool, looks at it, opens it, reads and writes, makes and deletes, looks again, and repairs it. What is
 * clean must work, and be clean afterwards; all else must end.
 */
struct mutated pool_mutate(const uint8_t *data, size_t size);

#endif
