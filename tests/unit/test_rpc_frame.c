/* SPDX-License-Identifier: BSD-3-Clause */
/* Where a value ends, in whatever pieces it comes. */
#include "rpc/rpc.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

/* What the scanner says of a text that comes in pieces of a size, as an offset in all of it. */
static ssize_t scan_in_pieces(const char *text, size_t len, size_t piece)
{
    struct rpc_scan s = {0};
    for (size_t at = 0; at < len; at += piece) {
        size_t n = plx_min_u64(piece, len - at);
        ssize_t ret = rpc_scan(&s, text + at, n);
        if (ret)
            return ret < 0 ? ret : (ssize_t)at + ret;
    }
    return 0;
}

static void ends_at(const char *text, ssize_t end)
{
    size_t len = strlen(text);
    for (size_t piece = 1; piece <= len + 1; piece++) {
        ssize_t got = scan_in_pieces(text, len, piece);
        if (got != end)
            fail_msg("%s in pieces of %zu: %zd, not %zd", text, piece, got, end);
    }
}

static void values_end_with_their_last_bracket(void **state)
{
    (void)state;
    ends_at("{}", 2);
    ends_at("[]{}", 2);
    ends_at(" \t\r\n{ }x", 7);
    ends_at("{\"a\": [1, {}]}garbage", 14);
    ends_at("[[[]]]", 6);
    ends_at("{]", 2); /* the parser says what is wrong with it */
}

static void brackets_in_texts_are_none(void **state)
{
    (void)state;
    ends_at("{\"}\"}", 5);
    ends_at("[\"]\\\"]\"]", 8);
    ends_at("[\"\\\\\"]x", 6);
    ends_at("[\"\\\\\\\"]\"]", 9);
    ends_at("{\"a", 0);
    ends_at("{\"a\\\"}", 0);
    ends_at("[\"{[\", \"\n\"]", 11);
}

static void what_is_not_whole_has_no_end(void **state)
{
    (void)state;
    ends_at("", 0);
    ends_at(" \n", 0);
    ends_at("{", 0);
    ends_at("[[]", 0);
    ends_at("{\"a\": {}", 0);
}

static void what_no_request_begins_with_is_refused(void **state)
{
    static const char *const wrong[] = {"x", "1", "\"{}\"", "null",           "]",    "}",
                                        ",", ":", "\\",     "\xef\xbb\xbf{}", "\x01", "/"};
    (void)state;
    for (size_t i = 0; i < PLX_ARRAY_SIZE(wrong); i++)
        ends_at(wrong[i], -EBADMSG);
    assert_int_equal(scan_in_pieces("\0", 1, 1), -EBADMSG);
    ends_at("  x{}", -EBADMSG);
}

static void depth_is_limited(void **state)
{
    char text[2 * RPC_DEPTH + 2];
    (void)state;
    memset(text, '[', RPC_DEPTH);
    memset(text + RPC_DEPTH, ']', RPC_DEPTH);
    text[2 * RPC_DEPTH] = 0;
    ends_at(text, 2 * RPC_DEPTH);
    memset(text, '[', RPC_DEPTH + 1);
    text[RPC_DEPTH + 1] = 0;
    ends_at(text, -E2BIG);
    memset(text, '{', RPC_DEPTH + 1);
    ends_at(text, -E2BIG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_end_with_their_last_bracket),
        cmocka_unit_test(brackets_in_texts_are_none),
        cmocka_unit_test(what_is_not_whole_has_no_end),
        cmocka_unit_test(what_no_request_begins_with_is_refused),
        cmocka_unit_test(depth_is_limited),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
