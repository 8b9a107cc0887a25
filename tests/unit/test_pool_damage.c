/* SPDX-License-Identifier: BSD-3-Clause */
/* Pools that are damaged, or of an attacker's making: they end in a sentence, and nothing else is harmed. */
#include "pool_rig.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { UNIT = 4096 };

/* Entries that lead to where they cannot: nothing is freed there, or written to, and the pool is left as it is. */
static void test_entries_that_cannot_be(void **state)
{
    static const uint64_t units[] = {0, 1, POOL_LOG_FIRST, 2047, 2048, UINT64_C(1) << 39, UINT64_MAX};
    uint8_t *data = tu_pattern(UNIT, 1);
    (void)state;
    for (unsigned i = 0; i < PLX_ARRAY_SIZE(units); i++) {
        struct pool_rig rig;
        struct pool_node *leaf;
        struct tu t;
        rig_make(&rig, "ram:8M", NULL);
        rig_create(&rig, "v", 16 << 20);
        rig_open(&rig, "v", &t);
        assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 0, 8, data), 0);
        assert_int_equal(pool_tree_find(rig.pool, NULL, &rig.pool->volume[0]->tree, 0, 1, &leaf), 0);
        pool_entries(leaf)[1] = pool_entry_make(units[i], UINT32_MAX, 0);
        if (units[i] >= 2048)
            assert_int_equal(tu_io(&t, PLX_BDEV_READ, 8, 8, data), PLX_SC_LBA_OUT_OF_RANGE);
        tu_io(&t, PLX_BDEV_UNMAP, 8, 8, NULL);
        assert_true(rig.pool->broken || !units[i]); /* 0 is nothing */
        if (units[i])
            assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 800, 8, data), PLX_SC_WRITE_FAULT);
        rig_close(&rig, &t);
        assert_int_equal(pool_close_on(rig.pool), units[i] ? -EIO : 0);
        rig.pool = NULL;
        rig_end(&rig);
    }
    free(data);
}

static void test_sizes_that_cannot_be(void **state)
{
    struct pool_rig rig;
    struct plx_error err = {""};
    struct plx_pool *p;
    struct plx_pool_opts opts = {.cluster = 5000};
    (void)state;
    rig_disk(&rig, "ram:64M");
    const struct pool_keeper keeper = {rig.reactor, rig_turn};
    assert_int_equal(pool_make_on(rig.disk, &keeper, &opts, &err), -EINVAL);
    assert_non_null(strstr(err.text, "a multiple of 4096"));
    rig_end(&rig);
    rig_disk(&rig, "ram:8K"); /* where there is no second root to look at */
    const struct pool_keeper other = {rig.reactor, rig_turn};
    assert_int_equal(pool_open_on(rig.disk, &other, &p, &err), -ENODATA);
    rig_end(&rig);
}

/* On a disk that could have a longer log: none of its pages is where the maps of the second region are. */
static void test_the_log_ends_before_the_next_maps(void **state)
{
    struct pool_rig rig;
    (void)state;
    rig_make(&rig, "ram:5G", NULL); /* of which nothing but metadata is touched */
    assert_in_range(rig.pool->log_units, 16000, 16384);
    assert_true(POOL_LOG_FIRST + rig.pool->log_units <= UINT64_C(1) << rig.pool->region_shift);
    rig_create(&rig, "v", 1 << 20);
    rig_reopen(&rig);
    rig_end(&rig);
}

/* Any byte of a root is another one, and its CRC is right: the pool opens all the same, or a sentence says why not. */
static void test_roots_that_cannot_be(void **state)
{
    static const uint8_t values[] = {0, 1, 0x7f, 0xff};
    struct pool_rig rig;
    struct tu t;
    struct pool_root *root = aligned_alloc(UNIT, UNIT), *bad = aligned_alloc(UNIT, UNIT);
    uint8_t *zeroes = calloc(1, UNIT);
    unsigned refused = 0;
    (void)state;
    rig_make(&rig, "ram:8M", NULL);
    rig_create(&rig, "v", 1 << 20);
    rig_do(&rig, PLX_POOL_SNAPSHOT, "v", "s", 0);
    const uint64_t slot = rig.pool->generation % 2 * POOL_ROOT_STEP;
    assert_int_equal(pool_close_on(rig.pool), 0);
    rig.pool = NULL;
    const struct pool_keeper keeper = {rig.reactor, rig_turn};
    for (unsigned at = offsetof(struct pool_root, uuid); at < offsetof(struct pool_root, zero); at++)
        for (unsigned i = 0; i < PLX_ARRAY_SIZE(values); i++) {
            struct plx_error err = {""};
            tu_join(&t, rig.disk);
            if (at == offsetof(struct pool_root, uuid) && !i) { /* the newest of the two */
                assert_int_equal(tu_io(&t, PLX_BDEV_READ, (POOL_ROOT_STEP - slot) * 8, 8, root), 0);
                assert_memory_equal(root->magic, POOL_MAGIC, sizeof root->magic);
            }
            memcpy(bad, root, UNIT);
            ((uint8_t *)bad)[at] = values[i];
            pool_root_end(bad, plx_get64(bad->generation), plx_get64(bad->log_seq));
            const uint64_t place = plx_get64(bad->generation) % 2 * POOL_ROOT_STEP;
            assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, place * 8, 8, bad), 0);
            assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, (POOL_ROOT_STEP - place) * 8, 8, zeroes), 0);
            tu_leave(&t);
            if (pool_open_on(rig.disk, &keeper, &rig.pool, &err)) {
                assert_true(err.text[0]);
                refused++;
            } else {
                pool_close_on(rig.pool);
            }
            rig.pool = NULL;
        }
    assert_in_range(refused, 100, 600);
    rig_end(&rig);
    free(root);
    free(bad);
    free(zeroes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_entries_that_cannot_be),
        cmocka_unit_test(test_sizes_that_cannot_be),
        cmocka_unit_test(test_the_log_ends_before_the_next_maps),
        cmocka_unit_test(test_roots_that_cannot_be),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
