/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Values follow each other without a length (RFC 8259 has no frames): where one ends is found by its brackets. Whether
 * it is right in between, the parser says.
 */
#include "rpc/rpc.h"

#include <errno.h>
#include <string.h>

/* @return whether the value ends with this byte, or -errno */
static int scan_byte(struct rpc_scan *s, char c)
{
    if (s->string) {
        if (s->escape)
            s->escape = false;
        else if (c == '\\')
            s->escape = true;
        else if (c == '"')
            s->string = false;
        return 0;
    }
    if (c == '{' || c == '[')
        return ++s->depth > RPC_DEPTH ? -E2BIG : 0;
    if (!s->depth)
        return -EBADMSG;
    if (c == '"')
        s->string = true;
    return (c == '}' || c == ']') && --s->depth == 0;
}

static bool white(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

ssize_t rpc_scan(struct rpc_scan *s, const char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (!s->depth && white(bytes[i]))
            continue;
        int ret = scan_byte(s, bytes[i]);
        if (ret)
            return ret < 0 ? ret : (ssize_t)i + 1;
    }
    return 0;
}
