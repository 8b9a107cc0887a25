/* SPDX-License-Identifier: BSD-3-Clause */
/* CRC-64 of protection information: the values of the specification, and the CPU's way against the tables'. */
#include "base/crc64.h"

#include "bdev_util.h"

#include <string.h>

static void it_is_as_the_specification_has_it(void **state)
{
    uint8_t block[4096];
    (void)state;
    assert_true(plx_crc64(0, "123456789", 9) == 0xae8b14860a799888);
    memset(block, 0, sizeof block);
    assert_true(plx_crc64(0, block, sizeof block) == 0x6482d367eb22b64e);
    memset(block, 0xff, sizeof block);
    assert_true(plx_crc64(0, block, sizeof block) == 0xc0ddba7302eca3ac);
    for (unsigned i = 0; i < sizeof block; i++)
        block[i] = (uint8_t)i;
    assert_true(plx_crc64(0, block, sizeof block) == 0x3e729f5f6750449c);
    for (unsigned i = 0; i < sizeof block; i++)
        block[i] = (uint8_t)(255 - i);
    assert_true(plx_crc64(0, block, sizeof block) == 0x9a2df64b8e9e517e);
}

static void lengths_and_pieces_do_not_matter(void **state)
{
    uint8_t data[5000];
    uint64_t seed = 42;
    (void)state;
    for (unsigned i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)tu_random(&seed);
    for (unsigned i = 0; i < 20000; i++) {
        const uint8_t *p = data + tu_random(&seed) % 2000;
        const size_t n = tu_random(&seed) % (i % 2 ? 300 : 3000), first = n ? tu_random(&seed) % n : 0;
        const uint64_t crc = plx_crc64(0, p, n);
        assert_true(crc == plx_crc64_portable(0, p, n));
        assert_true(crc == plx_crc64(plx_crc64(0, p, first), p + first, n - first));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_is_as_the_specification_has_it),
        cmocka_unit_test(lengths_and_pieces_do_not_matter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
