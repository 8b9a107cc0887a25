/* SPDX-License-Identifier: BSD-3-Clause */
/* A hash table: what was added is found, in its order, however many there are, and with no memory for more rows. */
#include "base/hash.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

void *__wrap_malloc(size_t n);
void *__real_malloc(size_t n);

static bool has_memory = true;

void *__wrap_malloc(size_t n)
{
    return has_memory ? __real_malloc(n) : NULL;
}

enum { MANY = 5000, KEYS = 1000 };

struct thing {
    struct plx_hash_link link;
    int number;
};

static struct thing things[MANY];

/* How many there are of a key, which must be in the order in which they were added. */
static int count(struct plx_hash *h, uint64_t key)
{
    int n = 0, last = -1;
    plx_list_for_each(it, plx_hash_row(h, key)) {
        const struct thing *t = plx_hash_entry(it, struct thing, link);
        if (t->link.key != key)
            continue;
        assert_true(t->number > last);
        last = t->number;
        n++;
    }
    return n;
}

static void fill(struct plx_hash *h)
{
    for (int i = 0; i < MANY; i++) {
        things[i].number = i;
        plx_hash_add(h, &things[i].link, (uint64_t)(i % KEYS) << 6);
    }
}

static void what_was_added_is_found(void **state)
{
    (void)state;
    struct plx_hash h = {.rows = NULL};
    assert_int_equal(count(&h, 0), 0);
    fill(&h);
    size_t longest = 0;
    for (int k = 0; k < KEYS; k++) {
        size_t n = 0;
        assert_int_equal(count(&h, (uint64_t)k << 6), MANY / KEYS);
        plx_list_for_each(it, plx_hash_row(&h, (uint64_t)k << 6)) {
            n++;
        }
        longest = n > longest ? n : longest;
    }
    assert_true(longest < 12 * MANY / KEYS); /* and among few others */
    assert_int_equal(count(&h, (uint64_t)KEYS << 6), 0);
    for (int i = 0; i < MANY; i += 2)
        plx_hash_del(&h, &things[i].link);
    for (int k = 0; k < KEYS; k++)
        assert_int_equal(count(&h, (uint64_t)k << 6), k % 2 ? MANY / KEYS : 0);
    for (int i = 1; i < MANY; i += 2)
        plx_hash_del(&h, &things[i].link);
    assert_null(h.rows);
    assert_int_equal(count(&h, 64), 0);
}

static void without_memory_it_is_slower(void **state)
{
    (void)state;
    struct plx_hash h = {.rows = NULL};
    has_memory = false;
    fill(&h);
    has_memory = true;
    assert_null(h.rows);
    assert_int_equal(count(&h, 64), MANY / KEYS);
    for (int i = 0; i < MANY; i++)
        plx_hash_del(&h, &things[i].link);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_added_is_found),
        cmocka_unit_test(without_memory_it_is_slower),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
