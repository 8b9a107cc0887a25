/* SPDX-License-Identifier: BSD-3-Clause */
/* Sizes and core sets, as people type them. */
#include <pollux/base.h>

#include "base/util.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_CORE = 4095 };

int plx_parse_size(const char *text, uint64_t *bytes)
{
    static const char units[] = "KMGT";
    char *end;
    if (!isdigit((unsigned char)text[0]))
        return -EINVAL;
    errno = 0;
    unsigned long long whole = strtoull(text, &end, 10);
    if (errno)
        return -ERANGE;

    /* The fraction, in thousandths: enough for "1.5T", exact for what people write. */
    unsigned fraction = 0;
    if (*end == '.') {
        unsigned scale = 100;
        if (!isdigit((unsigned char)end[1]))
            return -EINVAL;
        for (end++; isdigit((unsigned char)*end); end++, scale /= 10)
            fraction += (unsigned)(*end - '0') * scale;
    }

    unsigned shift = 0;
    if (*end) {
        const char *u = strchr(units, toupper((unsigned char)*end));
        if (!u)
            return -EINVAL;
        shift = 10 * (unsigned)(u - units + 1);
        end++;
        if (end[0] == 'i' && end[1] == 'B')
            end += 2;
        else if (end[0] == 'B')
            end++;
    }
    if (*end || (fraction && !shift))
        return -EINVAL;
    if (whole > (UINT64_MAX >> shift) - 1)
        return -ERANGE;
    *bytes = (whole << shift) + (((uint64_t)fraction << shift) / 1000);
    return 0;
}

static int parse_mask(const char *digits, size_t len, int *cores, int max, struct plx_error *err)
{
    int n = 0;
    for (size_t i = 0; i < len; i++) {
        int v = plx_hex(digits[len - 1 - i]);
        if (v < 0)
            return plx_fail(err, -EINVAL, "'%c' is not a hex digit; a core mask looks like 0x5", digits[len - 1 - i]);
        for (int bit = 0; bit < 4; bit++) {
            if (!(v & (1 << bit)))
                continue;
            if (n == max)
                return plx_fail(err, -EINVAL, "more than %d cores", max);
            cores[n++] = (int)(4 * i) + bit;
        }
    }
    return n ? n : plx_fail(err, -EINVAL, "the core mask is empty; 0x1 means core 0");
}

static int parse_number(const char **p)
{
    char *end;
    if (!isdigit((unsigned char)**p))
        return -1;
    unsigned long v = strtoul(*p, &end, 10);
    *p = end;
    return v <= MAX_CORE ? (int)v : -1;
}

static int parse_list(const char *p, const char *end, int *cores, int max, struct plx_error *err)
{
    uint8_t wanted[MAX_CORE + 1] = {0};
    for (;;) {
        int from = parse_number(&p), to = from;
        if (from >= 0 && *p == '-') {
            p++;
            to = parse_number(&p);
        }
        if (from < 0 || to < from || (p != end && *p != ','))
            return plx_fail(err, -EINVAL,
                            "cores are numbers up to %d, in a list such as 0-3,6 or a hex mask such as 0x5", MAX_CORE);
        memset(wanted + from, 1, (size_t)(to - from) + 1);
        if (p++ == end)
            break;
    }
    int n = 0;
    for (int i = 0; i <= MAX_CORE; i++) {
        if (!wanted[i])
            continue;
        if (n == max)
            return plx_fail(err, -EINVAL, "more than %d cores", max);
        cores[n++] = i;
    }
    return n;
}

int plx_parse_cores(const char *text, int *cores, int max, struct plx_error *err)
{
    size_t len = strlen(text);
    bool bracket = len > 1 && text[0] == '[' && text[len - 1] == ']';
    if (bracket) {
        text++;
        len -= 2;
    }
    if (len > 2 && text[0] == '0' && (text[1] == 'x' || text[1] == 'X'))
        return parse_mask(text + 2, len - 2, cores, max, err);
    return parse_list(text, text + len, cores, max, err);
}
