/* SPDX-License-Identifier: BSD-3-Clause */
/* The names of disks: what is understood, and what is said of the rest. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bdev/driver.h"

static struct plx_url url;

static void understood(const char *text, const char *scheme, const char *body)
{
    struct plx_error err = {""};
    if (plx_url_parse(text, &url, &err))
        fail_msg("%s: %s", text, err.text);
    assert_string_equal(url.scheme, scheme);
    assert_string_equal(url.body, body);
}

static void refused(const char *text, const char *word)
{
    struct plx_error err = {""};
    if (plx_url_parse(text, &url, &err) >= 0)
        fail_msg("%s was understood as %s", text, url.text);
    if (!strstr(err.text, word))
        fail_msg("%s: '%s' does not say '%s'", text, err.text, word);
}

static void in_directory(char *out, size_t size, const char *name)
{
    char cwd[4096];
    assert_non_null(getcwd(cwd, sizeof cwd));
    snprintf(out, size, "%s/%s", cwd, name);
}

static void a_plain_path_is_taken_as_it_is(void **state)
{
    (void)state;
    char path[5000];
    understood("/dev/sdb", "file", "/dev/sdb");
    understood("/dev/disk/by-path/pci-0000:00:1f.2", "file", "/dev/disk/by-path/pci-0000:00:1f.2");
    understood("/a%20b?ro=1", "file", "/a%20b?ro=1");
    assert_int_equal(url.nparams, 0);
    in_directory(path, sizeof path, "disk.img");
    understood("disk.img", "file", path);
    in_directory(path, sizeof path, "./ram:1G");
    understood("./ram:1G", "file", path);
}

static void file_urls_are_decoded(void **state)
{
    (void)state;
    char path[5000];
    understood("file:///a%20b%3Fc?ro=1&block=4096", "file", "/a b?c");
    assert_string_equal(plx_url_param(&url, "ro"), "1");
    assert_string_equal(plx_url_param(&url, "block"), "4096");
    assert_null(plx_url_param(&url, "uuid"));
    assert_string_equal(url.text, "file:///a%20b%3fc?ro=1&block=4096");
    understood("file:/abs", "file", "/abs");
    understood("file://localhost/abs", "file", "/abs");
    in_directory(path, sizeof path, "rel:x");
    understood("file:rel:x?ro=0", "file", path);
    understood("file:/100%25?", "file", "/100%");
}

static void a_full_name_can_be_given_again(void **state)
{
    (void)state;
    static const char *const names[] = {"file:/a%20b%25?ro=1", "ram:1G?block=4096", "null:1T", "/plain?%"};
    for (size_t i = 0; i < 4; i++) {
        struct plx_error err;
        char body[4096], text[256];
        assert_int_equal(plx_url_parse(names[i], &url, &err), 0);
        memcpy(body, url.body, sizeof body);
        memcpy(text, url.text, sizeof text);
        understood(text, url.scheme, body);
        assert_string_equal(url.text, text);
    }
}

static void full_names_are_printable(void **state)
{
    (void)state;
    char text[600];
    understood("/a\n\x1b[2J\x7f", "file", "/a\n\x1b[2J\x7f");
    assert_string_equal(url.text, "file:///a%0a%1b[2J%7f");
    understood("/gr\xc3\xb6\xc3\x9f"
               "e \xff\xc2\x9b",
               "file",
               "/gr\xc3\xb6\xc3\x9f"
               "e \xff\xc2\x9b");
    assert_string_equal(url.text, "file:///gr\xc3\xb6\xc3\x9f"
                                  "e%20%ff%c2%9b");
    for (size_t bytes = 230; bytes < 250; bytes++) { /* no character is cut in two */
        memset(text, 'x', bytes);
        snprintf(text + bytes, sizeof text - bytes, "\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac");
        text[0] = '/';
        assert_int_equal(plx_url_parse(text, &url, NULL), 0);
        for (const char *p = url.text; *p; p += plx_text_printable(p))
            assert_true(plx_text_printable(p) > 0);
    }
}

static void other_kinds_have_a_body_and_parameters(void **state)
{
    (void)state;
    understood("ram:1G", "ram", "1G");
    understood("null:1T?block=4096&uuid=01234567-89ab-cdef-0123-456789abcdef", "null", "1T");
    assert_string_equal(url.text, "null:1T?block=4096"); /* who asks for the name knows the uuid */
}

/* As a filter's has, whose settings are not those of the disk below. */
static void a_body_in_brackets_may_have_settings_of_its_own(void **state)
{
    (void)state;
    char text[40], path[5000];
    understood("ram:[null:1G?block=4096&x=1]?y=2", "ram", "[null:1G?block=4096&x=1]");
    assert_int_equal(url.nparams, 1);
    assert_string_equal(plx_url_param(&url, "y"), "2");
    understood("ram:[a:[b?c=[d]]?e=f]", "ram", "[a:[b?c=[d]]?e=f]");
    assert_int_equal(url.nparams, 0);
    understood("ram:[]?y=2", "ram", "[]");
    understood("ram:a[b?c=d]", "ram", "a[b"); /* in the midst they are nothing special */
    understood("file:/[a?ro=1", "file", "/[a");
    in_directory(path, sizeof path, "[a");
    understood("file:[a?ro=1]", "file", path); /* nor in the name of a file */
    refused("ram:[a?b=c", "'[a?b=c': a [ is not closed");
    refused("ram:[a[b]?c=d", "a [ is not closed");
    refused("ram:[a]b?c=d", "after the ] come settings");
    refused("ram:[a]]", "after the ] come settings");

    understood("ram:1G?x=%26&uuid=1", "ram", "1G");
    plx_url_restate(&url, "null:1T");
    assert_string_equal(url.text, "ram:null:1T?x=%26");
    plx_url_restate(&url, "null:1T?block=4096");
    assert_string_equal(url.text, "ram:[null:1T?block=4096]?x=%26");
    plx_url_over("ram", "[a b]", text, sizeof text);
    assert_string_equal(text, "ram:[[a b]]");
    plx_url_over("ram", "a name that is longer than there is room?", text, sizeof text);
    assert_string_equal(text, "ram:[a name that is longer than there i");
}

static void wrong_names_get_a_sentence(void **state)
{
    (void)state;
    char long_name[8192];
    refused("", "empty");
    refused("file:", "empty");
    refused("rma:1G", "file, ram, null");
    refused("rma:1G", "is written ./rma:1G");
    refused("rma:1 G", "is written './rma:1 G'");
    refused("http://host/x", "no kind of disk");
    refused("file://host/x", "names a host");
    refused("file:/x?ro", "/x: 'ro' is no setting");
    refused("file:/x?=1", "no setting");
    refused("file:/x?ro=1&ro=0", "/x: ro= is given twice");
    refused("file:/x%2", "%25");
    refused("file:/x%zz", "%25");
    refused("file:/x%00y", "not 00");
    refused("null:1T?block=%zz", "null:1T: ");
    refused("ram:1G?a=1&b=1&c=1&d=1&e=1&f=1&g=1&h=1&i=1&j=1&k=1&l=1&m=1&n=1&o=1&p=1&q=1",
            "ram:1G: there are more than 16");
    memset(long_name, 'x', sizeof long_name);
    long_name[sizeof long_name - 1] = 0;
    refused(long_name, "too long");
    memcpy(long_name, "file:/", 6);
    refused(long_name, "too long");
    long_name[4095] = 0;
    memcpy(long_name, "xxxxxx", 6);
    refused(long_name, "too long"); /* with the directory before it */
}

static void parameters_are_checked(void **state)
{
    (void)state;
    struct plx_error err;
    uint32_t block;
    bool flag;
    understood("ram:1G?block=4096&ro=1&bloc=1", "ram", "1G");
    assert_int_equal(plx_url_block(&url, &block, &err), 0);
    assert_int_equal(block, 4096);
    assert_int_equal(plx_url_bool(&url, "ro", &flag, &err), 0);
    assert_true(flag);
    assert_int_equal(plx_url_bool(&url, "absent", &flag, &err), 0);
    assert_false(flag);
    assert_int_equal(plx_url_only(&url, "block ro bloc", &err), 0);
    assert_true(plx_url_only(&url, "block ro uuid", &err) < 0);
    assert_non_null(strstr(err.text, "block ro uuid"));
    static const char *const wrong[] = {"0", "511", "513", "1000", "128K", "x", ""};
    for (size_t i = 0; i < 7; i++) {
        char text[64];
        snprintf(text, sizeof text, "ram:1G?block=%s&ro=2", wrong[i]);
        understood(text, "ram", "1G");
        assert_true(plx_url_block(&url, &block, &err) < 0);
        assert_true(plx_url_bool(&url, "ro", &flag, &err) < 0);
    }
}

static void what_is_wrong_with_a_setting_names_the_disk(void **state)
{
    (void)state;
    struct plx_error err;
    uint32_t block;
    uint8_t uuid[16];
    bool flag;
    char text[4200];
    understood("ram:1G?block=3&ro=2&uuid=x", "ram", "1G");
    assert_string_equal(url.name, "ram:1G");
    assert_true(plx_url_block(&url, &block, &err) < 0);
    assert_string_equal(err.text, "ram:1G: block=3: a block has 512 bytes to 64K, a power of two");
    assert_true(plx_url_bool(&url, "ro", &flag, &err) < 0);
    assert_string_equal(err.text, "ram:1G: ro=2: the value is 0 or 1");
    assert_true(plx_url_uuid(&url, NULL, uuid, &err) < 0);
    assert_string_equal(err.text, "ram:1G: uuid=x: one looks like 01234567-89ab-cdef-0123-456789abcdef");
    assert_true(plx_url_only(&url, "block", &err) < 0);
    assert_string_equal(err.text, "ram:1G: there is no setting ro=; there are: block");
    understood("ram:1G?a_much_longer_name_of_one=1", "ram", "1G");
    assert_true(plx_url_only(&url, "block", &err) < 0);
    assert_string_equal(err.text, "ram:1G: there is no setting a_much_longer_name_o...=; there are: block");
    understood("file:/x?block=8192", "file", "/x"); /* what is said of a file is said of its path */
    assert_int_equal(plx_url_block(&url, &block, &err), 0);
    understood("file:/x?block=511", "file", "/x");
    assert_true(plx_url_block(&url, &block, &err) < 0);
    assert_string_equal(err.text, "/x: block=511: a block has 512 or 4096 bytes");
    memset(text, 'y', sizeof text);
    memcpy(text, "file:/", 6);
    snprintf(text + 4000, sizeof text - 4000, "?ro=2");
    assert_int_equal(plx_url_parse(text, &url, &err), 0);
    assert_true(plx_url_bool(&url, "ro", &flag, &err) < 0);
    assert_non_null(strstr(err.text, "yyy...: ro=2: the value is 0 or 1"));
}

static void size_is(const char *name, uint32_t block, uint64_t expected)
{
    struct plx_error err;
    uint64_t size = 0;
    assert_int_equal(plx_url_parse(name, &url, &err), 0);
    if (plx_url_size(&url, block, &size, &err))
        fail_msg("%s: %s", name, err.text);
    assert_true(size == expected);
}

static void size_refused(const char *name, uint32_t block, const char *sentence)
{
    struct plx_error err = {""};
    uint64_t size;
    assert_int_equal(plx_url_parse(name, &url, &err), 0);
    assert_true(plx_url_size(&url, block, &size, &err) < 0);
    assert_string_equal(err.text, sentence);
}

static void sizes_are_checked(void **state)
{
    (void)state;
    size_is("ram:1G", 512, 1 << 30);
    size_is("ram:4096", 4096, 4096);
    size_is("null:8388607T", 65536, UINT64_C(8388607) << 40);
    size_refused("ram:x", 512, "ram:x names no size: one is a number of bytes, or of K, M, G or T, as in ram:1G");
    size_refused("null:", 512, "null: names no size: one is a number of bytes, or of K, M, G or T, as in null:1G");
    size_refused("null:8388608T", 512, "null:8388608T: the size is from one block to 8388607T");
    size_refused("ram:0", 512, "ram:0: the size is from one block to 8388607T");
    size_refused("ram:99999999999999999999", 512, "ram:99999999999999999999: the size is from one block to 8388607T");
    size_refused("ram:1K", 4096, "ram:1K: the size is no multiple of the blocks, of 4096 bytes");
}

static void uuids_are_given_or_derived(void **state)
{
    (void)state;
    struct plx_error err;
    uint8_t a[16], b[16];
    static const uint8_t given[16] = {0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef,
                                      0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef};
    understood("ram:1G?uuid=01234567-89AB-cdef-0123-456789abcdef", "ram", "1G");
    assert_int_equal(plx_url_uuid(&url, NULL, a, &err), 0);
    assert_memory_equal(a, given, 16);
    understood("ram:1G?uuid=0123456789abcdef0123456789abcdef", "ram", "1G");
    assert_int_equal(plx_url_uuid(&url, "x", a, &err), 0);
    assert_memory_equal(a, given, 16);
    static const char *const wrong[] = {
        "ram:1G?uuid=", "ram:1G?uuid=0123", "ram:1G?uuid=0123456789abcdef0123456789abcdef0",
        "ram:1G?uuid=g123456789abcdef0123456789abcdef", "ram:1G?uuid=00000000-0000-0000-0000-000000000000"};
    for (size_t i = 0; i < 5; i++) {
        understood(wrong[i], "ram", "1G");
        assert_true(plx_url_uuid(&url, NULL, a, &err) < 0);
    }
    understood("ram:1G", "ram", "1G");
    assert_int_equal(plx_url_uuid(&url, "/disk", a, &err), 0);
    assert_int_equal(plx_url_uuid(&url, "/disk", b, &err), 0);
    assert_memory_equal(a, b, 16);
    assert_int_equal(a[6] >> 4, 8); /* RFC 9562: version 8, variant 10 */
    assert_int_equal(a[8] >> 6, 2);
    assert_int_equal(plx_url_uuid(&url, "/disk2", b, &err), 0);
    assert_memory_not_equal(a, b, 16);
    assert_int_equal(plx_url_uuid(&url, NULL, a, &err), 0);
    memset(b, 0, sizeof b);
    assert_memory_equal(a, b, 16); /* the core makes a random one */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_plain_path_is_taken_as_it_is),
        cmocka_unit_test(file_urls_are_decoded),
        cmocka_unit_test(a_full_name_can_be_given_again),
        cmocka_unit_test(other_kinds_have_a_body_and_parameters),
        cmocka_unit_test(full_names_are_printable),
        cmocka_unit_test(a_body_in_brackets_may_have_settings_of_its_own),
        cmocka_unit_test(wrong_names_get_a_sentence),
        cmocka_unit_test(parameters_are_checked),
        cmocka_unit_test(uuids_are_given_or_derived),
        cmocka_unit_test(what_is_wrong_with_a_setting_names_the_disk),
        cmocka_unit_test(sizes_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
