/* SPDX-License-Identifier: BSD-3-Clause */
/* Texts for people, and for their shells. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base64.h"
#include "base/text.h"
#include "base/util.h"

static void what_is_printable_has_a_length(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t bytes;
    } cases[] = {
        {"a", 1},
        {" ", 1},
        {"~", 1},
        {"é", 2},
        {"\u00a0", 2},
        {"€x", 3},
        {"\ud7ff", 3},
        {"\ue000", 3},
        {"\U00010000", 4},
        {"😀", 4},
        {"\U0010ffff", 4},
        {"", 0},
        {"\n", 0},
        {"\x1f", 0},
        {"\x7f", 0},
        {"\x80", 0},
        {"\xbf", 0},
        {"\xc2", 0},
        {"\xc2\x9b", 0}, /* CSI, the same as ESC [ */
        {"\u2028", 0},
        {"\u202e", 0},
        {"\u2066", 0},
        {"\u2069", 0},
        {"\u2027", 3},
        {"\u206a", 3},
        {"\xc1\xbf", 0},
        {"\xe0\x9f\xbf", 0},
        {"\xf0\x8f\xbf\xbf", 0}, /* longer than need be */
        {"\xed\xa0\x80", 0},
        {"\xed\xbf\xbf", 0}, /* halves of a pair */
        {"\xf4\x90\x80\x80", 0},
        {"\xf5\x80\x80\x80", 0},
        {"\xff", 0},
        {"\xe2\x82", 0},
        {"\xe2\x82z", 0},
        {"\xf0\x9f\x98", 0}, /* cut off */
    };
    for (size_t i = 0; i < PLX_ARRAY_SIZE(cases); i++)
        if (plx_text_printable(cases[i].text) != cases[i].bytes)
            fail_msg("case %zu: %zu", i, plx_text_printable(cases[i].text));
}

/* A shell makes of it what it was. */
static void quoted_is(const char *text, const char *expected)
{
    char out[256], command[300], got[256] = "";
    assert_true(plx_text_quote(text, out, sizeof out));
    assert_string_equal(out, expected);
    snprintf(command, sizeof command, "printf %%s %s", out);
    FILE *f = popen(command, "r");
    assert_non_null(f);
    size_t n = fread(got, 1, sizeof got - 1, f);
    assert_int_equal(pclose(f), 0);
    got[n] = 0;
    assert_string_equal(got, text);
}

static void words_are_quoted_where_a_shell_wants_it(void **state)
{
    (void)state;
    quoted_is("/srv/disk-1.img", "/srv/disk-1.img");
    quoted_is("nqn.2014-08.org.nvmexpress:uuid:0", "nqn.2014-08.org.nvmexpress:uuid:0");
    quoted_is("fe80::1%eth0", "fe80::1%eth0");
    quoted_is("", "''");
    quoted_is("two words", "'two words'");
    quoted_is("it's", "'it'\\''s'");
    quoted_is("'", "''\\'''");
    quoted_is("$(reboot);`x`\"\\&|<>*?[!#~{}()", "'$(reboot);`x`\"\\&|<>*?[!#~{}()'");
    quoted_is("größe 1", "'größe 1'");
}

static void what_cannot_be_quoted_is_told(void **state)
{
    (void)state;
    char out[256];
    assert_false(plx_text_quote("a\nb", out, sizeof out));
    assert_false(plx_text_quote("\x1b[2J", out, sizeof out));
    assert_false(plx_text_quote("\xff", out, sizeof out));
}

static void what_does_not_fit_is_told_and_nothing_is_written_behind(void **state)
{
    (void)state;
    static const char *const texts[] = {"abcdef", "a b", "'''", "€ €", ""};
    for (size_t i = 0; i < PLX_ARRAY_SIZE(texts); i++) {
        bool fitted = false;
        for (size_t size = 1; size < 40; size++) {
            char *out = malloc(size); /* so that sanitizers see its end */
            bool fits = plx_text_quote(texts[i], out, size);
            if (fits)
                assert_true(strlen(out) < size);
            assert_true(fits || !fitted);
            fitted |= fits;
            free(out);
        }
        assert_true(fitted);
    }
}

static void blame_names_what_was_wrong(void **state)
{
    (void)state;
    struct plx_error err = {"too small"};
    char name[400];
    assert_int_equal(plx_blame("disk", 0, &err), 0);
    assert_string_equal(err.text, "too small");
    assert_int_equal(plx_blame("disk", -5, &err), -5);
    assert_string_equal(err.text, "disk: too small");
    assert_int_equal(plx_blame("disk", -5, NULL), -5);
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = 0;
    plx_blame(name, -5, &err);
    assert_non_null(strstr(err.text, "xxx: disk: too small")); /* a long name leaves room for what is said */
}

static void bytes_become_text_and_come_back(void **state)
{
    /* RFC 4648, section 10; and the two characters that are other than in base64 */
    static const char *const known[][2] = {{"", ""},
                                           {"f", "Zg=="},
                                           {"fo", "Zm8="},
                                           {"foo", "Zm9v"},
                                           {"foob", "Zm9vYg=="},
                                           {"fooba", "Zm9vYmE="},
                                           {"foobar", "Zm9vYmFy"},
                                           {"\xfb\xff\xbf", "-_-_"}};
    static const char *const wrong[] = {
        "Z", "Zg=", "Zg===", "=", "====", "Zm9=v", "Zm9v=", "Zm+/", "Zm 9v", "Zg==Zg=="};
    char text[16];
    uint8_t bytes[16];
    (void)state;
    for (size_t i = 0; i < PLX_ARRAY_SIZE(known); i++) {
        const size_t n = strlen(known[i][0]), len = strlen(known[i][1]);
        plx_base64_encode(text, known[i][0], n);
        assert_string_equal(text, known[i][1]);
        assert_int_equal(PLX_BASE64_LEN(n), len);
        assert_int_equal(plx_base64_decode(NULL, text, len), n);
        assert_int_equal(plx_base64_decode(bytes, text, len), n);
        assert_memory_equal(bytes, known[i][0], n);
        assert_int_equal(plx_base64_decode(bytes, text, strcspn(text, "=")), n);
    }
    for (size_t i = 0; i < PLX_ARRAY_SIZE(wrong); i++)
        assert_int_equal(plx_base64_decode(NULL, wrong[i], strlen(wrong[i])), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_printable_has_a_length),
        cmocka_unit_test(words_are_quoted_where_a_shell_wants_it),
        cmocka_unit_test(what_cannot_be_quoted_is_told),
        cmocka_unit_test(what_does_not_fit_is_told_and_nothing_is_written_behind),
        cmocka_unit_test(blame_names_what_was_wrong),
        cmocka_unit_test(bytes_become_text_and_come_back),
    };
    return cmocka_run_group_tests_name("text", tests, NULL, NULL);
}
