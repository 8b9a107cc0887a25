/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/text.h"

#include <stdio.h>
#include <string.h>

int plx_blame(const char *name, int ret, struct plx_error *err)
{
    enum { NAME = 120, SAID = sizeof err->text - NAME - sizeof ": " };
    struct plx_error said;
    if (ret && err) {
        said = *err;
        plx_fail(err, ret, "%.*s: %.*s", NAME, name, SAID, said.text);
    }
    return ret;
}

size_t plx_text_printable(const char *text)
{
    const uint8_t *p = (const uint8_t *)text;
    if (p[0] < 0x80)
        return p[0] >= ' ' && p[0] != 0x7f;
    if (p[0] < 0xc2 || p[0] > 0xf4)
        return 0;
    size_t n = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    uint32_t c = p[0] & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
        c = c << 6 | (p[i] & 0x3f);
    }
    bool overlong = c < (n == 4 ? 0x10000u : n == 3 ? 0x800u : 0x80u);
    bool control = c < 0xa0 || (c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069); /* C1; lines; directions */
    return overlong || control || (c >= 0xd800 && c <= 0xdfff) || c > 0x10ffff ? 0 : n;
}

bool plx_text_quote(const char *text, char *out, size_t size)
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789%+,-./:=@_";
    enum { PIECE = 4, END = 2 }; /* the longest, as a character and as an escaped quote; and what follows the last */
    size_t n = 1;
    if (*text && !text[strspn(text, plain)])
        return (size_t)snprintf(out, size, "%s", text) < size;
    if (size < 1 + END)
        return false;
    out[0] = '\'';
    while (*text) {
        size_t len = plx_text_printable(text);
        if (!len || n + PIECE + END > size)
            return false;
        n += (size_t)snprintf(out + n, PIECE + 1, *text == '\'' ? "'\\''" : "%.*s", (int)len, text);
        text += len;
    }
    memcpy(out + n, "'", END);
    return true;
}
