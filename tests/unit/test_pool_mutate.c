/* SPDX-License-Identifier: BSD-3-Clause */
/* The fuzzer's pools, by chance: what is clean works, and what is not ends in a sentence. */
#include "bdev_util.h"

#include "pool_mutate.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"

static void test_pools_of_an_attackers_making(void **state)
{
    const char *seed_text = getenv("POLLUX_SEED"), *rounds_text = getenv("POLLUX_ROUNDS");
    uint64_t seed = seed_text ? strtoull(seed_text, NULL, 10) : 1;
    const unsigned rounds = rounds_text ? (unsigned)strtoul(rounds_text, NULL, 10) : 400;
    unsigned clean = 0, opened = 0, mended = 0;
    (void)state;
    plx_log_set(NULL, NULL, PLX_LOG_ERROR);
    print_message("seed %llu\n", (unsigned long long)seed);
    for (unsigned i = 0; i < rounds; i++) {
        uint8_t data[4 * MUTATION];
        const size_t n = (1 + tu_random(&seed) % 4) * MUTATION;
        for (size_t k = 0; k < n; k++)
            data[k] = (uint8_t)tu_random(&seed);
        for (size_t k = 0; k < n; k += MUTATION)
            if (tu_random(&seed) % 2)
                memset(data + k + 9, 0, 3); /* numbers that are near what there is */
        const struct mutated m = pool_mutate(data, i ? n : 0);
        assert_true(i || (m.clean && m.opened && m.mended));
        clean += m.clean;
        opened += m.opened;
        mended += m.mended;
    }
    print_message("of %u pools %u were clean, %u were opened, %u were clean after a repair\n", rounds, clean, opened,
                  mended);
    assert_true(rounds < 100 || (clean < rounds && opened > clean && mended > clean));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pools_of_an_attackers_making),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
