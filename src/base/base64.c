/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/base64.h"

#include <string.h>

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

void plx_base64_encode(char *out, const void *bytes, size_t n)
{
    const uint8_t *p = bytes;
    for (size_t i = 0; i < n; i += 3) {
        const uint32_t v =
            (uint32_t)p[i] << 16 | (i + 1 < n ? (uint32_t)p[i + 1] << 8 : 0) | (i + 2 < n ? p[i + 2] : 0);
        *out++ = digits[v >> 18];
        *out++ = digits[v >> 12 & 63];
        *out++ = i + 1 < n ? digits[v >> 6 & 63] : '=';
        *out++ = i + 2 < n ? digits[v & 63] : '=';
    }
    *out = 0;
}

long plx_base64_decode(uint8_t *out, const char *text, size_t len)
{
    uint32_t v = 0;
    long n = 0;
    if (len && !(len & 3) && text[len - 1] == '=')
        len -= text[len - 2] == '=' ? 2 : 1;
    if ((len & 3) == 1)
        return -1;
    for (size_t i = 0; i < len; i++) {
        const char *digit = text[i] ? strchr(digits, text[i]) : NULL;
        if (!digit)
            return -1;
        v = v << 6 | (uint32_t)(digit - digits);
        if ((i & 3) && out)
            out[n] = (uint8_t)(v >> (6 - 2 * (i & 3)));
        n += (i & 3) != 0;
    }
    return n;
}
