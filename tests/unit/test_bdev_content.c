/* SPDX-License-Identifier: BSD-3-Clause */
/* What is on a disk is found at its beginning and at its end, on any kind of disk. */
#include "bdev_util.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { MIB_BLOCKS = (1 << 20) / 512 };

static int content(struct tu *t, char text[128])
{
    struct plx_error err = {""};
    struct plx_bdev *bdev = t->bdev;
    tu_leave(t); /* whose reactor nobody runs meanwhile */
    int ret = plx_bdev_content(bdev, text, 128, &err);
    tu_join(t, bdev);
    return ret;
}

static void put(struct tu *t, uint64_t at, const void *what, size_t n)
{
    uint8_t *block = aligned_alloc(4096, 4096);
    assert_int_equal(tu_io(t, PLX_BDEV_READ, at / 512, 1, block), 0);
    memcpy(block + at % 512, what, n);
    assert_int_equal(tu_io(t, PLX_BDEV_WRITE, at / 512, 1, block), 0);
    free(block);
}

static void test_zeroes_are_nothing(void **state)
{
    struct tu t;
    char text[128];
    (void)state;
    tu_open(&t, "ram:64M");
    assert_int_equal(content(&t, text), 0);
    put(&t, 20 << 20, "x", 1); /* which is not looked at */
    assert_int_equal(content(&t, text), 0);
    tu_close(&t);
}

static void test_data_of_no_known_kind(void **state)
{
    static const uint64_t places[] = {0, (4 << 20) - 1, (64 << 20) - 1, 63 << 20};
    char text[128];
    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        struct tu t;
        tu_open(&t, "ram:64M");
        put(&t, places[i], "x", 1);
        assert_int_equal(content(&t, text), 1);
        assert_string_equal(text, "data of no known kind");
        tu_close(&t);
    }
}

/* An ext2 superblock as far as it is looked at. */
static void test_a_file_system(void **state)
{
    static const char *const urls[] = {"ram:64M", "ram:64M?block=4096", "ram:2M", "delay:ram:64M"};
    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        struct tu t;
        char text[128];
        tu_open(&t, urls[i]);
        uint8_t *head = calloc(1, 4096);
        memcpy(head + 1024 + 56, "\x53\xef", 2);
        memcpy(head + 1024 + 120, "root", 4);
        assert_int_equal(tu_io(&t, PLX_BDEV_WRITE, 0, 4096 / t.info->block_size, head), 0);
        assert_int_equal(content(&t, text), 1);
        assert_string_equal(text, "ext2 (file system) \"root\"");
        free(head);
        tu_close(&t);
    }
}

/* The superblock of md's format 1.0 is 8 KiB before the end. */
static void test_a_member_of_an_array(void **state)
{
    struct tu t;
    char text[128];
    const uint64_t sector = (65 * MIB_BLOCKS + 3 - 16) & ~UINT64_C(7);
    (void)state;
    tu_open(&t, "ram:68159488?uuid=11111111-2222-3333-4444-555555555555"); /* 65 MiB and 3 blocks; */
    put(&t, sector * 512, "\xfc\x4e\x2b\xa9\x01", 5);
    put(&t, sector * 512 + 144, &sector, sizeof sector);
    assert_int_equal(content(&t, text), 1);
    assert_string_equal(text, "linux_raid_member (part of an array or a pool)");
    tu_close(&t);
}

static void test_a_disk_that_cannot_be_read(void **state)
{
    struct tu t;
    struct plx_error err = {""};
    char text[128];
    (void)state;
    tu_open(&t, "error:ram:64M?io=read&type=failure");
    assert_int_equal(plx_bdev_content(t.bdev, text, sizeof text, &err), -EIO);
    assert_non_null(strstr(err.text, "cannot be read"));
    tu_close(&t);
}

/* Some disks say so for a moment, as one in memory does when a second reactor comes to it. */
static void test_what_is_to_be_tried_again_is(void **state)
{
    struct tu t;
    char text[128];
    (void)state;
    tu_open(&t, "error:[ram:64M]?io=read&type=failure&status=0x21&count=3");
    assert_int_equal(content(&t, text), 0);
    tu_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_zeroes_are_nothing),
        cmocka_unit_test(test_data_of_no_known_kind),
        cmocka_unit_test(test_a_file_system),
        cmocka_unit_test(test_a_member_of_an_array),
        cmocka_unit_test(test_a_disk_that_cannot_be_read),
        cmocka_unit_test(test_what_is_to_be_tried_again_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
