/* SPDX-License-Identifier: BSD-3-Clause */
/* Sizes and cores as people type them, UUIDs, CRC32C, lists, errors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <pollux/base.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/le.h"
#include "base/list.h"
#include "base/log.h"
#include "base/util.h"
#include "base/uuid.h"

static void size_is(const char *text, uint64_t bytes)
{
    uint64_t got = 0;
    assert_int_equal(plx_parse_size(text, &got), 0);
    assert_true(got == bytes);
}

static void sizes_take_units_of_1024(void **state)
{
    (void)state;
    size_is("0", 0);
    size_is("4096", 4096);
    size_is("64K", 65536);
    size_is("64k", 65536);
    size_is("1M", 1 << 20);
    size_is("1G", 1 << 30);
    size_is("1GiB", 1 << 30);
    size_is("1GB", 1 << 30);
    size_is("2T", UINT64_C(2) << 40);
    size_is("1.5G", UINT64_C(3) << 29);
    size_is("0.25M", 1 << 18);
}

static void what_is_no_size_is_refused(void **state)
{
    (void)state;
    static const char *const wrong[] = {"",    "G",   "-1", "1X",  "1GX",  "1.", "1.G",
                                        ".5G", "1.5", " 1", "1 G", "0x10", "+1"};
    uint64_t got;
    for (size_t i = 0; i < PLX_ARRAY_SIZE(wrong); i++)
        assert_int_equal(plx_parse_size(wrong[i], &got), -EINVAL);
    assert_int_equal(plx_parse_size("99999999999999999999", &got), -ERANGE);
    assert_int_equal(plx_parse_size("16777216T", &got), -ERANGE);
}

static void cores_are(const char *text, int n, const int *expected)
{
    int cores[8];
    struct plx_error err;
    assert_int_equal(plx_parse_cores(text, cores, 8, &err), n);
    assert_memory_equal(cores, expected, (size_t)n * sizeof *cores);
}

static void cores_are_a_mask_or_a_list(void **state)
{
    (void)state;
    cores_are("0x1", 1, (int[]){0});
    cores_are("0x5", 2, (int[]){0, 2});
    cores_are("[0x5]", 2, (int[]){0, 2});
    cores_are("0xF0", 4, (int[]){4, 5, 6, 7});
    cores_are("3", 1, (int[]){3});
    cores_are("0-3,6", 5, (int[]){0, 1, 2, 3, 6});
    cores_are("6,0-3,2", 5, (int[]){0, 1, 2, 3, 6});
    cores_are("[1,2]", 2, (int[]){1, 2});
}

static void wrong_cores_get_a_sentence(void **state)
{
    (void)state;
    static const char *const wrong[] = {"",    "0x", "0x0", "0xg", "a",     "1-",  "-1",
                                        "3-1", "1,", ",1",  "1;2", "99999", "0-8", "0x1ff"};
    int cores[8];
    for (size_t i = 0; i < PLX_ARRAY_SIZE(wrong); i++) {
        struct plx_error err = {""};
        assert_int_equal(plx_parse_cores(wrong[i], cores, 8, &err), -EINVAL);
        assert_true(strlen(err.text) > 0);
    }
}

static void uuids_are_parsed_and_printed(void **state)
{
    (void)state;
    static const uint8_t expected[16] = {0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef,
                                         0x0f, 0x1e, 0x2d, 0x3c, 0x4b, 0x5a, 0x69, 0x78};
    static const char *const same[] = {"01234567-89ab-cdef-0f1e-2d3c4b5a6978", "01234567-89AB-CDEF-0F1E-2D3C4B5A6978",
                                       "0123456789abcdef0f1e2d3c4b5a6978", "0123456789ab-cdef0f1e-2d3c4b5a6978"};
    uint8_t uuid[16];
    char text[PLX_UUID_TEXT];
    for (size_t i = 0; i < PLX_ARRAY_SIZE(same); i++) {
        memset(uuid, 0, sizeof uuid);
        assert_true(plx_uuid_parse(same[i], uuid));
        assert_memory_equal(uuid, expected, sizeof uuid);
    }
    plx_uuid_format(uuid, text);
    assert_string_equal(text, same[0]);
}

static void what_is_no_uuid_is_refused(void **state)
{
    (void)state;
    static const char *const wrong[] = {"",
                                        "01234567-89ab-cdef-0f1e-2d3c4b5a697",
                                        "01234567-89ab-cdef-0f1e-2d3c4b5a69780",
                                        "01234567-89ab-cdef-0f1e-2d3c4b5a6978\n",
                                        "0123-456789ab-cdef-0f1e-2d3c4b5a6978",
                                        "01234567--89ab-cdef-0f1e-2d3c4b5a6978",
                                        "01234567-89ab-cdef-0f1e-2d3c4b5a697g",
                                        "{01234567-89ab-cdef-0f1e-2d3c4b5a6978}",
                                        "-0123456789abcdef0f1e2d3c4b5a6978"};
    uint8_t uuid[16];
    for (size_t i = 0; i < PLX_ARRAY_SIZE(wrong); i++)
        assert_false(plx_uuid_parse(wrong[i], uuid));
}

static void the_uuid_of_zeroes_is_told_from_others(void **state)
{
    (void)state;
    uint8_t uuid[16] = {0};
    assert_true(plx_uuid_nil(uuid));
    for (int i = 0; i < 16; i++) {
        memset(uuid, 0, sizeof uuid);
        uuid[i] = 1;
        assert_false(plx_uuid_nil(uuid));
    }
}

static void crc32c_matches_rfc3720(void **state)
{
    (void)state;
    uint8_t d[32];
    memset(d, 0, sizeof d);
    assert_int_equal(plx_crc32c(d, 32), 0x8a9136aa);
    memset(d, 0xff, sizeof d);
    assert_int_equal(plx_crc32c(d, 32), 0x62a8ab43);
    for (int i = 0; i < 32; i++)
        d[i] = (uint8_t)i;
    assert_int_equal(plx_crc32c(d, 32), 0x46dd794e);
    for (int i = 0; i < 32; i++)
        d[i] = (uint8_t)(31 - i);
    assert_int_equal(plx_crc32c(d, 32), 0x113fdb5c);
    assert_int_equal(plx_crc32c("123456789", 9), 0xe3069283);
}

static void crc32c_continues_over_pieces(void **state)
{
    (void)state;
    uint8_t d[1000];
    for (size_t i = 0; i < sizeof d; i++)
        d[i] = (uint8_t)(i * 7);
    uint32_t whole = plx_crc32c(d, sizeof d);
    for (size_t cut = 0; cut <= sizeof d; cut += 13) {
        uint32_t crc = plx_crc32c_add((uint32_t)PLX_CRC32C_INIT, d, cut);
        assert_int_equal(plx_crc32c_end(plx_crc32c_add(crc, d + cut, sizeof d - cut)), whole);
    }
}

struct item {
    int value;
    struct plx_list link;
};

static void a_list_keeps_order_and_loses_what_is_removed(void **state)
{
    (void)state;
    struct plx_list head;
    struct item items[5];
    plx_list_init(&head);
    assert_true(plx_list_empty(&head));
    for (int i = 0; i < 5; i++) {
        items[i].value = i;
        plx_list_add_tail(&head, &items[i].link);
    }
    plx_list_del(&items[2].link);
    plx_list_del(&items[2].link); /* harmless */
    int expected[] = {0, 1, 3, 4}, n = 0;
    plx_list_for_each(it, &head)
        assert_int_equal(plx_list_entry(it, struct item, link)->value, expected[n++]);
    assert_int_equal(n, 4);
    plx_list_for_each_safe(it, &head)
        plx_list_del(it);
    assert_true(plx_list_empty(&head));
}

static const char *volatile somewhere = "";

static __attribute__((noinline)) void fetches(void)
{
    plx_fetch(somewhere);
    somewhere = "fetched";
}

static __attribute__((noinline)) void fetches_to_write(void)
{
    plx_fetch_to_write(somewhere);
    somewhere = "fetched to write";
}

/* Whether a prefetch is in the code of a function, as far as it goes at least. */
static bool prefetches(void (*fn)(void))
{
    enum { CODE = 256 };
    uint8_t code[CODE];
    memcpy(code, (const void *)(uintptr_t)fn, sizeof code);
    bool found = false;
#if defined(__x86_64__)
    for (size_t i = 0; i + 1 < sizeof code; i++)
        found |= code[i] == 0x0f && (code[i + 1] == 0x18 || code[i + 1] == 0x0d);
#elif defined(__aarch64__)
    for (size_t i = 0; i + 4 <= sizeof code; i += 4)
        found |= (plx_peek32(code + i) & 0xffc00000) == 0xf9800000;
#else
    found = true;
#endif
    return found;
}

static void what_is_to_be_fetched_is_fetched_whatever_the_compiler_thinks_of_it(void **state)
{
    (void)state;
    fetches();
    fetches_to_write();
    assert_true(prefetches(fetches));
    assert_true(prefetches(fetches_to_write));
}

static void failures_carry_a_sentence_and_their_number(void **state)
{
    (void)state;
    struct plx_error err;
    assert_int_equal(plx_fail(&err, -EBUSY, "no %s", "way"), -EBUSY);
    assert_string_equal(err.text, "no way");
    assert_int_equal(plx_fail(NULL, -EBUSY, "no"), -EBUSY);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_take_units_of_1024),
        cmocka_unit_test(what_is_no_size_is_refused),
        cmocka_unit_test(cores_are_a_mask_or_a_list),
        cmocka_unit_test(wrong_cores_get_a_sentence),
        cmocka_unit_test(uuids_are_parsed_and_printed),
        cmocka_unit_test(what_is_no_uuid_is_refused),
        cmocka_unit_test(the_uuid_of_zeroes_is_told_from_others),
        cmocka_unit_test(crc32c_matches_rfc3720),
        cmocka_unit_test(crc32c_continues_over_pieces),
        cmocka_unit_test(a_list_keeps_order_and_loses_what_is_removed),
        cmocka_unit_test(what_is_to_be_fetched_is_fetched_whatever_the_compiler_thinks_of_it),
        cmocka_unit_test(failures_carry_a_sentence_and_their_number),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
